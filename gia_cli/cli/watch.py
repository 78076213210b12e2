"""``gia watch``: photos to pictures, as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gia_cli import interrupts
from gia_cli.cli import enhance as enhancing
from gia_cli.cli.app import app, seconds
from gia_cli.cli.options import defaults, time_text, with_options_of
from gia_cli.cli.settings import Command
from gia_cli.enhance.watch_options import WatchOptions
from gia_cli.errors import BatchError, Interrupted, UsageError

if TYPE_CHECKING:
    from gia_cli.cli.enhance import Batch
    from gia_cli.enhance.batch import BatchOptions, FileResult, Job
    from gia_cli.enhance.watch import Tally


_DEFAULTS = defaults(WatchOptions)


class _WatchCommand(Command):
    """Reads the ``gia.toml`` of the folder that is watched."""

    def settings_folder(self, context: Any, args: list[str]) -> Path:
        """Name the folder whose file applies."""
        typed, _, _ = self.make_parser(context).parse_args(list(args))
        return Path(typed.get("folder") or ".")


@app.command(cls=_WatchCommand)
@with_options_of(
    enhancing.enhance,
    leave_out=("inputs", "output", "as_json", "report", "shard", "ray", "workers"),
    changed={"on_exists": "skip"},
)
def watch(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder in which photos arrive.",
            show_default=False,
            readable=False,
        ),
    ],
    settle: Annotated[
        str,
        typer.Option(
            "--settle",
            metavar="TIME",
            help="Take a file for whole when it has not changed for so long.",
        ),
    ] = time_text(_DEFAULTS.settle_s),
    patience: Annotated[
        str,
        typer.Option(
            "--patience",
            metavar="TIME",
            help="Give one that cannot be read then so long without a change to become readable.",
        ),
    ] = time_text(_DEFAULTS.patience_s),
    poll: Annotated[
        str | None,
        typer.Option(
            "--poll",
            metavar="TIME",
            help="Look so often, for network drives (default: when the system reports a change).",
            show_default=False,
        ),
    ] = None,
    new_only: Annotated[
        bool, typer.Option("--new-only", help="Pass over what is there at the first start.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Do what is there, and end: for cron.")
    ] = False,
    stop_after_idle: Annotated[
        str | None,
        typer.Option(
            "--stop-after-idle",
            metavar="TIME",
            help="End when nothing has arrived for so long, such as 30m (default: never).",
            show_default=False,
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            "--journal",
            metavar="FILE",
            help="Where is written what was done (default: gia-watch.jsonl in --out-dir, or in "
            "FOLDER).",
            show_default=False,
        ),
    ] = None,
    **options: Any,
) -> None:
    """Enhance the photos in a folder, and those that arrive in it, until Ctrl-C.

    A photo is begun when its file is whole. A journal says what was done, so that the next start
    continues there.

    gia watch card/ --out-dir pictures
    """
    watching = WatchOptions(
        journal=journal,
        settle_s=seconds(settle, "--settle"),
        patience_s=seconds(patience, "--patience"),
        poll_s=None if poll is None else seconds(poll, "--poll"),
        new_only=new_only,
        once=once,
        stop_after_idle_s=(
            None if stop_after_idle is None else seconds(stop_after_idle, "--stop-after-idle")
        ),
    )

    def finish(batch: Batch) -> None:
        try:
            tally = _watch(folder, batch, watching)
        except Interrupted as error:  # how a watch ends, and no fault
            batch.terminal.say(str(error))
            raise typer.Exit(interrupts.of_last_signal(error).exit_code) from None
        if tally.failed:
            total = tally.written + tally.skipped + tally.failed
            raise BatchError(f"{tally.failed} of {total} photos failed.")

    enhancing.enhance(inputs=[folder], finish=finish, **options)


def _watch(folder: Path, batch: Batch, options: WatchOptions) -> Tally:
    from gia_cli.cli.guarded import is_needed, run_guarded
    from gia_cli.enhance.several_devices import run_on_devices
    from gia_cli.enhance.storage import is_url
    from gia_cli.enhance.watch import watch_folder

    if any(path is not None and is_url(path) for path in (folder, batch.options.out_dir)):
        raise UsageError("gia watch needs folders of this machine.", hint="See gia enhance.")
    terminal, enhancers = batch.terminal, enhancing.make_enhancers(batch)

    def run(
        jobs: Sequence[Job], options: BatchOptions, report: Callable[[FileResult], None]
    ) -> None:
        def work(jobs: Sequence[Job], report: Callable[[FileResult], None]) -> None:
            run_on_devices(jobs, enhancers, options, progress=terminal, on_result=report)

        if is_needed():
            run_guarded(jobs, work, report, on_death=lambda _: None)
        else:
            work(jobs, report)

    def on_result(result: FileResult) -> None:
        enhancing.announce(terminal, result, as_json=False)

    with terminal:
        return watch_folder(
            folder, batch.options, options, run, on_result=on_result, progress=terminal
        )
