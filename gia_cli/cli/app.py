"""What all commands share: the Typer application, parsers, parts of reports."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperGroup

from gia_cli import interrupts
from gia_cli.cli.settings import Command, explained
from gia_cli.errors import GiaError, Interrupted, OutOfMemoryError, OutputError, UsageError

if TYPE_CHECKING:
    from gia_cli.enhance.batch import FileResult
    from gia_cli.enhance.exposure import ExposureRequest
    from gia_cli.simulation.photo import Simulated


_Function = TypeVar("_Function", bound=Callable[..., Any])

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class _Group(TyperGroup):
    """Turns every `GiaError` into its line and exit code, in the one place there is for it."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command, whose flags take no value and are shown without one."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _hide_flag_types(command, ctx)
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        interrupts.enter("command")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            error: GiaError = interrupts.of_last_signal(Interrupted("Interrupted."))
        except Interrupted as raised:
            error = interrupts.of_last_signal(raised)
        except GiaError as raised:
            error = raised
        except OSError as raised:
            if raised.errno == errno.EPIPE:
                raise  # the reader of our output has gone: Typer's own quiet end
            error = refused(raised)
        except (MemoryError, RuntimeError, ImportError) as raised:
            from gia_cli.runtime import is_oom_error

            if not is_oom_error(raised):
                raise
            error = OutOfMemoryError("There is too little memory for this command.")
        raise typer.Exit(tell(explained(error)))


class _App(typer.Typer):
    """A Typer whose commands all have `Command`'s settings."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[_Function], _Function]:
        """Declare a command."""
        return super().command(name, **{"cls": Command, **options})


def refused(error: OSError) -> GiaError:
    """Say what the system refused: mostly to write, to a disk that is full."""
    if error.errno in _NO_SPACE:
        return OutputError(
            f"The output cannot be written: {error.strerror}.", hint="Check where it goes."
        )
    is_name = error.errno == errno.ENAMETOOLONG
    return GiaError(
        f"The system refused: {error}.",
        hint="Choose a shorter name." if is_name else "Check the disk, and where the output goes.",
    )


def tell(error: GiaError) -> int:
    """Print an error's line, as the last thing that is said; returns the exit code."""
    from gia_cli.cli.console import Terminal

    interrupts.enter("over")
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again when it ends, and complain
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with suppress(OSError):  # nobody to tell: the exit code remains
        Terminal().error(error)
    return error.exit_code


def _hide_flag_types(command: Any, ctx: Any) -> None:
    """Show ``--verbose``, not ``--verbose <bool>``, in a command's help and its subcommands'."""
    for option in command.get_params(ctx):
        if getattr(option, "is_flag", False) and option.metavar is None:
            option.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _hide_flag_types(inner, ctx)


app = _App(
    name="gia",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Clean, bright 16-bit pictures from RAW photos taken in near darkness.",
)
weights_app = _App(help="List, check, export and make weights.")
app.add_typer(weights_app, name="weights", no_args_is_help=True)


# ---------------------------------------------------------------- parsers


def exposure_request(
    ratio: str,
    target_exposure: str | None,
    reference: Path | None,
    brackets: str | None,
    max_ratio: float | None,
    exposure_ev: float | None = None,
) -> ExposureRequest:
    """Build the request from `gia enhance`'s options."""
    from gia_cli.enhance.exposure import MAX_RATIO, ExposureRequest

    shot = None
    if reference is not None:
        from gia_cli.raw.reader import read_exposure

        shot = read_exposure(reference)
    return ExposureRequest(
        ratio=None if ratio == "auto" else number(ratio, "--ratio"),
        target_exposure_s=None if target_exposure is None else exposure_time(target_exposure),
        reference=shot,
        brackets=tuple(number(part, "--brackets") for part in (brackets or "").split(",") if part),
        max_ratio=MAX_RATIO if max_ratio is None else max_ratio,
        exposure_ev=exposure_ev,
    )


def exposure_time(text: str) -> float:
    """Parse an exposure time as cameras show it: "5", "0.2", "1/5", "1/5 s"."""
    match = re.fullmatch(r"\s*(-?[\d.]+)\s*(?:/\s*([\d.]+))?\s*s?\s*", text)
    try:
        if match is None:
            raise ValueError
        return float(match[1]) / float(match[2] or 1)
    except (ValueError, ZeroDivisionError):
        raise UsageError(
            f"--target-exposure takes seconds, such as 5 or 1/5, not '{text}'."
        ) from None


def number(text: str, option: str) -> float:
    """Parse a number, or raise `UsageError` naming the option."""
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} takes numbers, not '{text}'.") from None


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Parse numbers with commas between them."""
    return tuple(number(part, option) for part in text.split(","))


def seconds(text: str, option: str) -> float:
    """Parse "90s", "30m", "2h" or plain seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", text.lower())
    if match is None:
        raise UsageError(f"{option} takes a time such as 90s, 30m or 2h, not '{text}'.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def choices(text: str, option: str, allowed: Sequence[str]) -> tuple[Any, ...]:
    """Parse words with commas between them, each one of those allowed."""
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    wrong = [word for word in words if word not in allowed]
    if wrong or not words:
        raise UsageError(f"{option} takes {', '.join(allowed)}, not '{text}'.")
    return words


def given(**options: Any) -> dict[str, Any]:
    """Keep the options that were given; the others have their defaults in the dataclass."""
    return {name: value for name, value in options.items() if value is not None}


# ---------------------------------------------------------------- reports


def counts(results: Sequence[FileResult | Simulated]) -> dict[str, int]:
    """Count the results of each status."""
    return {
        status: sum(result.status == status for result in results)
        for status in ("written", "skipped", "failed")
    }


def error_report(error: GiaError | None) -> dict[str, Any] | None:
    """Describe an error as JSON reports do."""
    if error is None:
        return None
    return {
        "kind": type(error).__name__,
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint,
    }
