"""``gia eval``: weights to scores."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from gia_cli.cameras import camera_family
from gia_cli.cli import guarded
from gia_cli.cli.app import app, choices
from gia_cli.cli.options import (
    Camera,
    Device,
    Engine,
    Json,
    Quiet,
    Ray,
    Shard,
    Verbose,
    Workers,
    cluster_device,
    named_shard,
    ray_options,
)
from gia_cli.errors import BatchError, UsageError
from gia_cli.files import is_folder, is_taken
from gia_cli.paper import TableName
from gia_cli.runtime import Precision
from gia_cli.sid_layout import Protocol, Split, TruthName
from gia_cli.text import counted

if TYPE_CHECKING:
    from gia_cli.cli.console import Terminal
    from gia_cli.cluster.ray_pool import RayOptions
    from gia_cli.cluster.shard import Shard as Share
    from gia_cli.evaluation.casts import Casts
    from gia_cli.evaluation.config import EvalConfig
    from gia_cli.evaluation.diagnose import Diagnosis
    from gia_cli.evaluation.page import EvalPage
    from gia_cli.evaluation.report import Failure, Report
    from gia_cli.paper import PaperRow
    from gia_cli.weights.storage import WeightsInfo


@app.command("eval")
@guarded.whole
def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="TREE", help="SID, or a tree made like it.", show_default=False
        ),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="[LABEL=]NAME|PATH",
            help="Weights to score, a row each; may be repeated. With --table also a folder of "
            "weights.",
            show_default=False,
        ),
    ] = None,
    isp: Annotated[
        str | None,
        typer.Option(
            "--isp",
            metavar="NAME,...",
            help="Rows without a network: libraw (amplified), libraw+nlm, libraw+bm3d (denoised "
            "first).",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            "--pictures",
            metavar="LABEL=FOLDER",
            help="A row of another program's pictures: TIFFs in sRGB, named like the short "
            "exposures; may be repeated.",
            show_default=False,
        ),
    ] = None,
    camera: Camera = "sony",
    protocol: Annotated[
        Protocol,
        typer.Option(
            "--protocol",
            help="clean: without SID's misaligned scenes. 00: the first shot of each burst.",
        ),
    ] = "all",
    split: Annotated[Split, typer.Option("--split", help="Which list of the data set.")] = "test",
    table: Annotated[
        TableName | None,
        typer.Option(
            "--table",
            help="Show the rows as this table of the paper, and say which are missing.",
            show_default=False,
        ),
    ] = None,
    ratio: Annotated[
        str,
        typer.Option(
            "--ratio",
            metavar="NAME,...",
            help="Which ratio to use: known (the pair's true one), auto (as gia enhance chooses), "
            "picture (as it chooses without an exposure time); each makes a row.",
        ),
    ] = "known",
    truth: Annotated[
        TruthName,
        typer.Option(
            "--truth",
            help="long: LibRaw's rendering of the long exposure. photograph: the photograph that a "
            "simulated scene was made from, without LibRaw's demosaicing.",
        ),
    ] = "long",
    balance_error: Annotated[
        str,
        typer.Option(
            "--balance-error",
            metavar="PERCENT,...",
            help="Give networks a wrong white balance: red's gain multiplied by 1 + PERCENT/100, "
            "blue's divided by it; each of several, such as 0,20, makes a row.",
        ),
    ] = "0",
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Results; the same folder resumes."),
    ] = Path("runs/eval"),
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            help="Only N pairs, evenly spread: a quick look, not the score of the list.",
            show_default=False,
        ),
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(
            "--versus",
            metavar="ROW",
            help="Compare the others with this row (default: the first with a network).",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        str,
        typer.Option(
            "--quality",
            metavar="normal,best",
            help="best: the mean of eight renderings, 8 times slower; each makes a row.",
        ),
    ] = "normal",
    panel: Annotated[
        int,
        typer.Option("--panel", metavar="N", help="Also write panel.png with N photos."),
    ] = 0,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose",
            help="Also test what each level and the global vector contribute: the dB lost without "
            "it.",
        ),
    ] = False,
    casts: Annotated[
        bool,
        typer.Option(
            "--casts",
            help="Also measure faults of whole pictures, on two exposures of each scene: colour "
            "casts, drifts across the frame, grids.",
        ),
    ] = False,
    panel_order: Annotated[
        Literal["spread", "worst"],
        typer.Option(
            "--panel-order",
            help="Photos by the last row's score: from worst to best, or the worst.",
        ),
    ] = "spread",
    lpips: Annotated[
        Path | None,
        typer.Option(
            "--lpips-weights",
            metavar="FILE",
            help="AlexNet and its LPIPS layers (default: looked for in the cache).",
            show_default=False,
        ),
    ] = None,
    lpips_vgg: Annotated[
        Path | None,
        typer.Option(
            "--lpips-vgg-weights",
            metavar="FILE",
            help="The same for VGG-16.",
            show_default=False,
        ),
    ] = None,
    pieapp: Annotated[
        Path | None,
        typer.Option(
            "--pieapp-weights", metavar="FILE", help="PieAPP's weights.", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            help="auto: fp32 on CPUs, fp16 on CUDA; int8: the int8 weights made from these, on the "
            "CPU.",
        ),
    ] = "auto",
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Print all results on stdout as one Markdown table."),
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Also write a page: the tables, sortable, and the photos of --panel under a "
            "slider.",
            show_default=False,
        ),
    ] = None,
    shard: Shard = None,
    ray: Ray = None,
    workers: Workers = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score weights on SID's test list, or on a simulated tree, with every measure of the paper.

    gia eval --data SID --weights gia-sony --out runs/scores

    The same command resumes; a run that is interrupted reports the scores that it has. If photos
    fail, they are named and the exit code is 3. With --shard many machines score one list; the last
    one to end writes the results.
    """
    from gia_cli.cli.console import Terminal
    from gia_cli.enhance.enhancer import Quality
    from gia_cli.evaluation.classical import ISP_NAMES
    from gia_cli.evaluation.config import EvalConfig, RatioMode
    from gia_cli.evaluation.report import report_json
    from gia_cli.paper import paper_table

    if panel < 0:
        raise UsageError(f"--panel must be 0 or more, not {panel}.")
    if diagnose and balance_error != "0":
        raise UsageError("--diagnose does not support --balance-error: leave one out.")
    if diagnose and not weights:
        raise UsageError("--diagnose needs --weights: it tests networks.")
    if markdown and (as_json or table is not None):
        raise UsageError("--markdown cannot be combined with --json or --table.")
    if shard is not None:
        after = {"--ray": ray, "--panel": panel, "--diagnose": diagnose, "--casts": casts}
        _refuse_with_shard({**after, "--report": page})
    share = named_shard(shard)
    computing = cluster_device(device, precision, engine) if weights else "cpu"
    cluster = ray_options(ray, workers, computing)
    rows = paper_table(table) if table is not None else []
    terminal = Terminal(quiet=quiet, verbose=verbose)
    config = EvalConfig(
        data=data,
        camera=camera_family(camera),
        out=out,
        split=split,
        protocol=protocol,
        weights=_for_table(weights or [], rows, terminal) if rows else tuple(weights or ()),
        isp=() if isp is None else choices(isp, "--isp", tuple(ISP_NAMES)),
        pictures=tuple(pictures or ()),
        ratios=choices(ratio, "--ratio", get_args(RatioMode)),
        balance_errors=_numbers(balance_error, "--balance-error"),
        qualities=choices(quality, "--quality", get_args(Quality)),
        limit=limit,
        truth=truth,
        versus=versus,
        lpips_alex=lpips,
        lpips_vgg=lpips_vgg,
        pieapp=pieapp,
        device=device,
        precision=precision,
        engine=engine,
    )
    with _page(page) as html:
        tests: list[Diagnosis] = []
        found: list[Casts] = []

        def finish(report: Report) -> None:
            if html is not None:
                html.write(report, rows, tests, found)
            if as_json:
                more = {
                    "diagnosis": [asdict(test) for test in tests],
                    "casts": [asdict(row) for row in found],
                }
                terminal.json({**report_json(report), **more})
            else:
                _show_diagnosis(tests, terminal)
                _show_casts(found, terminal)
                terminal.line(str(config.out))
                if page is not None:
                    terminal.line(str(page))

        report = _evaluate(config, share, cluster, terminal, finish)
        try:
            if report.missing:
                _tell_missing(report, terminal, as_json=as_json)
            elif markdown:
                _show_markdown(report, terminal)
            elif not as_json:
                _show(report, rows, terminal)
            if panel > 0:
                _draw_panel(report, panel, panel_order, terminal, html)
            tests += _diagnose(config, terminal) if diagnose else []
            found += _measure_casts(config, terminal) if casts else []
        except KeyboardInterrupt:
            finish(replace(report, is_complete=False))
            raise
        if not (as_json and report.missing):
            finish(report)
    failed = {failure.path for failure in report.failures}
    if failed:
        raise BatchError(f"{len(failed)} of {report.pairs} pairs failed.")


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes numbers such as 0,20, not '{text}'.") from None


def _refuse_with_shard(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value:
            raise UsageError(
                f"{name} does not work with --shard, which scores a part of the list.",
                hint=f"Give {name} to a last gia eval without --shard: it finds all scores.",
            )


def _evaluate(
    config: EvalConfig,
    shard: Share | None,
    cluster: RayOptions | None,
    terminal: Terminal,
    on_interrupt: Callable[[Report], None],
) -> Report:
    from gia_cli.evaluation.evaluate import evaluate as run_evaluation

    with terminal:
        return run_evaluation(
            config, terminal, _tell_failure(terminal), on_interrupt, shard=shard, cluster=cluster
        )


def _tell_missing(report: Report, terminal: Terminal, *, as_json: bool) -> None:
    """Say how far all shares are together."""
    from gia_cli.evaluation.report import report_json

    there = len(report.scores)
    terminal.say(
        f"{there} of {there + report.missing} scores are there; the share that takes the last one "
        "writes the results, or a gia eval without --shard."
    )
    if as_json:
        known = ("gia", "data", "camera", "truth", "split", "protocol", "pairs", "failures")
        described = report_json(report)
        terminal.json({name: described[name] for name in known} | {"missing": report.missing})


def _tell_failure(terminal: Terminal) -> Callable[[Failure], None]:
    return lambda failure: terminal.error(failure.error, about=failure.path)


def _page(path: Path | None) -> AbstractContextManager[EvalPage | None]:
    from gia_cli.evaluation.page import EvalPage

    return nullcontext() if path is None else closing(EvalPage(path))


def _draw_panel(
    report: Report,
    count: int,
    order: Literal["spread", "worst"],
    terminal: Terminal,
    html: EvalPage | None,
) -> None:
    from gia_cli.evaluation.panel import choose_for_panel, panel_rows
    from gia_cli.evaluation.tables import write_figure

    with terminal:
        chosen = choose_for_panel(report, count, order)
        path = report.config.out / "panel.png"
        pictures = panel_rows(report.config, chosen, terminal)
        write_figure(pictures if html is None else html.keeping(pictures), path)


def _diagnose(config: EvalConfig, terminal: Terminal) -> list[Diagnosis]:
    from gia_cli.evaluation.diagnose import diagnose

    with terminal:
        return diagnose(config, terminal, _tell_failure(terminal))


def _measure_casts(config: EvalConfig, terminal: Terminal) -> list[Casts]:
    from gia_cli.evaluation.casts import measure_casts

    with terminal:
        return measure_casts(config, terminal, _tell_failure(terminal))


def _show(report: Report, rows: list[PaperRow], terminal: Terminal) -> None:
    from gia_cli.evaluation.tables import difference_table, ratio_table, score_table

    terminal.table(*score_table(report, rows))
    if len(report.summaries) > 1:
        terminal.table(*difference_table(report))
    by_ratio = ratio_table(report)
    if by_ratio[1]:
        terminal.table(*by_ratio)
    config = report.config
    terminal.say(
        f"{config.data.name}, {config.camera} {config.split}, protocol {config.protocol}, "
        f"{counted(report.pairs, 'pair')}; SSIM with a Gaussian window; ± and [ ]: 95 %, bootstrap "
        "over scenes"
    )
    for name, reason in report.unavailable.items():
        terminal.say(f"{name}: n/a ({reason})")


def _show_markdown(report: Report, terminal: Terminal) -> None:
    from gia_cli.evaluation.tables import markdown_table

    for line in markdown_table(report):
        terminal.line(line)


def _show_casts(casts: list[Casts], terminal: Terminal) -> None:
    from gia_cli.evaluation.tables import casts_table

    if not casts:
        return
    terminal.table(*casts_table(casts))
    for row in casts:
        if row.apart is not None:
            median, high, most = row.apart
            terminal.say(
                f"{row.system}: the mean colours of a scene's two exposures differ by {median:.1f} "
                f"(median), {high:.1f} (90th percentile), {most:.1f} (most)"
            )
    terminal.say(
        "colours: CIELAB of the mean light, distances in a and b; ±: standard error over scenes; "
        "grids: RMS of the pattern that repeats with the period, in 255 levels (in brackets: by "
        "chance)"
    )


def _show_diagnosis(tests: list[Diagnosis], terminal: Terminal) -> None:
    from gia_cli.evaluation.tables import diagnosis_table

    if not tests:
        return
    terminal.table(*diagnosis_table(tests))


def _for_table(given: list[str], rows: list[PaperRow], terminal: Terminal) -> tuple[str, ...]:
    """Match weights with the table's rows, name what is missing, and put them in its order."""
    from gia_cli.evaluation.systems import split_label

    found: dict[str, WeightsInfo] = {}
    for text in given:
        label, name = split_label(text)
        for info in _named(name):
            row = _row_of(info, rows) if label is None else _row_called(label, info, rows)
            if row.name in found:
                raise UsageError(
                    f"{found[row.name].path} and {info.path} both belong to the row '{row.name}'."
                )
            found[row.name] = info
            if label is None:
                _check_training(row, info, terminal)
    _check_equal_budgets(found, terminal)
    for row in rows:
        if row.network is not None and row.name not in found:
            terminal.note(f"{row.name}: you named no weights for this row.")
    return tuple(f"{row.name}={found[row.name].path}" for row in rows if row.name in found)


def _named(name: str) -> list[WeightsInfo]:
    """Find weights by name or file, or all of a folder."""
    from gia_cli.weights.manifest import MANIFEST, find_weights, list_weights

    folder = Path(name)
    if not is_folder(folder):
        return [find_weights(name)]
    if not is_taken(folder / MANIFEST):
        raise UsageError(
            f"{folder} has no {MANIFEST}.", hint="gia weights export makes such folders."
        )
    return list_weights(folder)


def _row_called(label: str, info: WeightsInfo, rows: list[PaperRow]) -> PaperRow:
    """Find the row that the user names; the network must be the row's."""
    names = ", ".join(row.name for row in rows)
    for row in rows:
        if label in (row.name, row.slug):
            if row.network != info.config.network:
                raise UsageError(
                    f"{info.path} is a {info.config.network}, not the {row.network} of the row "
                    f"'{row.name}'.",
                    hint=f"Rows: {names}.",
                )
            return row
    raise UsageError(f"The table has no row '{label}'.", hint=f"Rows: {names}.")


def _row_of(info: WeightsInfo, rows: list[PaperRow]) -> PaperRow:
    """Find the row by the weights' name, or by how they say they were trained."""
    network = info.config.network
    loss, multi_size = _training(info)
    training = network, loss, multi_size
    named = [row for row in rows if info.name in (row.name, row.slug) and row.network == network]
    alike = [row for row in rows if (row.network, row.loss, row.multi_size) == training]
    if named or alike:
        return (*named, *alike)[0]
    raise UsageError(
        f"{info.path} ({network}, trained with loss {loss}, crops of "
        f"{'several sizes' if multi_size else 'one size'}) belongs to no row of this table.",
        hint="Name its row: --weights 'SID-Net=FILE'. Rows: " + ", ".join(row.name for row in rows),
    )


def _training(info: WeightsInfo) -> tuple[str | None, bool]:
    """Read the loss, and whether crops were of several sizes, from what weights say of it."""
    recipe = info.training.get("recipe")
    if not isinstance(recipe, dict):
        return None, False
    sides = recipe.get("crops", {}).get("sides", [0, 0])
    return recipe.get("loss"), sides[0] != sides[1]


def _check_training(row: PaperRow, info: WeightsInfo, terminal: Terminal) -> None:
    """Say where weights that bear a row's name were trained otherwise."""
    if _training(info) != (row.loss, row.multi_size):
        terminal.note(f"{info.path} was not trained as the row '{row.name}' requires.")


def _check_equal_budgets(found: dict[str, WeightsInfo], terminal: Terminal) -> None:
    """Say where the rows of a table do not compare."""
    for what, values in (
        ("width", {info.config.width for info in found.values()}),
        ("hours of training", {info.training.get("hours") for info in found.values()}),
    ):
        # Budgets of time end within a step or so of each other.
        numbers = sorted(float(x) for x in values if x is not None)
        if numbers and numbers[-1] > 1.05 * numbers[0]:
            listed = ", ".join(f"{x:g}" for x in numbers)
            terminal.note(f"The rows differ in {what} ({listed}): do not compare them.")
