"""Everything that people read in the terminal: bars, tables, notes, the error line.

stdout is for results (paths, JSON, tables that were asked for), stderr for bars, notes and errors.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from gia_cli import interrupts
from gia_cli.errors import GiaError
from gia_cli.text import escape_controls

# Where stderr is a file, a line of status this often: enough to follow a long run by.
_STATUS_SECONDS = 60.0
_FILE_WIDTH = 160  # characters, of tables that go into a file


def _stderr_stream() -> TextIO:
    """Open a copy of stderr: LibRaw's chatter is caught on descriptor 2, our bars must not be.

    Another thread may be catching it right now, when the line of an error is the last that is said.
    """
    try:
        if sys.stderr.fileno() != 2:
            return sys.stderr
        copy = os.dup(interrupts.true_stderr())
    except (OSError, ValueError):  # replaced by something that is no file, as tests do
        return sys.stderr
    return os.fdopen(
        copy, "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1
    )


def _share_screen(first: IO[str], second: IO[str]) -> bool:
    """Whether two streams go to the same terminal."""
    try:
        descriptors = first.fileno(), second.fileno()
        if not all(map(os.isatty, descriptors)):
            return False
        # A process on Windows has one console.
        return os.name == "nt" or os.path.sameopenfile(*descriptors)
    except (OSError, ValueError):  # no files, as in tests
        return False


def _safe(text: str, style: str = "") -> Text:
    return Text(escape_controls(text), style=style)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Terminal:
    """The `Progress` that draws bars, and the place that prints everything else.

    Parameters
    ----------
    quiet : bool
        Errors and results only.
    verbose : bool
        Details too.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.err = Console(file=_stderr_stream(), soft_wrap=True)
        # On one screen, who writes a path must know of the bars, or it lands on or behind them.
        is_shared = _share_screen(sys.stdout, self.err.file)
        self.out = self.err if is_shared else Console(soft_wrap=True)
        if not self.out.is_terminal and "COLUMNS" not in os.environ:
            self.out.width = _FILE_WIDTH  # nobody's window: tables need not fold
        self._bars: RichProgress | None = None
        self._photos: TaskID | None = None
        self._stage: TaskID | None = None
        self._next_status = 0.0

    # ------------------------------------------------------------ Progress

    def __enter__(self) -> Terminal:
        """Show bars until the block ends; none where stderr is not a terminal."""
        interrupts.enter("work")
        self._bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.err,
            transient=True,
            disable=self.quiet or not self.err.is_terminal,
        )
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._photos = self._stage = None

    def photo(self, name: str, number: int, total: int) -> None:
        """Move the bar of photos; shown for more than one."""
        if self._bars is None:
            return
        name = escape_controls(name)
        if self._photos is None:
            self._photos = self._bars.add_task("photos", visible=False)
        self._bars.update(
            self._photos,
            completed=number - 1,
            total=total,
            visible=total > 1,
            description=name,
        )

    def stage(self, name: str, total: int) -> None:
        """Start the bar of a stage."""
        if self._bars is None:
            return
        if self._stage is not None:
            self._bars.remove_task(self._stage)
        self._stage = self._bars.add_task(name, total=total)

    def advance(self, steps: int = 1) -> None:
        """Move the bar of the stage."""
        if self._bars is not None and self._stage is not None:
            self._bars.advance(self._stage, steps)

    def status(self, message: str) -> None:
        """Show a few words beside the bar of the stage; now and then a line where there is none."""
        if self._bars is not None and not self._bars.disable:
            if self._stage is not None:
                self._bars.update(self._stage, description=escape_controls(message))
        elif not self.quiet and time.monotonic() >= self._next_status:
            self._next_status = time.monotonic() + _STATUS_SECONDS
            self.err.print(_safe(message))

    def note(self, message: str) -> None:
        """Print one line on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(_safe(f"note: {message}", style="yellow"))

    def say(self, message: str) -> None:
        """Print one plain line on stderr, unless quiet."""
        if not self.quiet:
            self.err.print(_safe(message))

    def detail(self, message: str) -> None:
        """Print one line on stderr if verbose."""
        if self.verbose:
            self.err.print(_safe(message, style="dim"))

    # ------------------------------------------------------------ results and errors

    def line(self, text: str) -> None:
        """Print one line of results on stdout; exactly as it is where that is no terminal."""
        shown = escape_controls(text) if self.out.is_terminal else text
        self._exactly(shown)

    def _exactly(self, text: str) -> None:
        self.out.print(text, markup=False, highlight=False, emoji=False)

    def json(self, value: Any) -> None:
        """Print a JSON document on stdout; numbers that JSON has not, such as NaN, are null."""
        self._exactly(json.dumps(_finite(value), indent=2, allow_nan=False))

    def error(self, error: GiaError, about: Path | str | None = None) -> None:
        """Print the one line of an error on stderr; it names the file it is about."""
        text = str(error)
        if about is not None and str(about) not in text:
            text = f"{about}: {text}"
        line = Text("error: ", style="bold red")
        self.err.print(line.append(escape_controls(text), style="default not bold"))

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        to_stderr: bool = False,
    ) -> None:
        """Print a table; its cells are plain text, never markup."""
        table = Table()
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_safe(cell) for cell in row))
        console = self.err if to_stderr else self.out
        console.print(table, soft_wrap=False)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Print name and value pairs on stdout, one a line."""
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            self.line(escape_controls(f"{name:<{width}}  {value}"))
