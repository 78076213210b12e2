"""What people read: plain cells, one line an error, silence when quiet."""

from __future__ import annotations

import json
import os
import re
import shlex
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gia_cli.cli.console import Terminal
from gia_cli.errors import EmptyFileError


def test_an_error_is_one_line_that_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().error(EmptyFileError("[bold]x[/bold].dng is empty."), about=Path("a/[y].dng"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "error: a/[y].dng: [bold]x[/bold].dng is empty. Copy it from the card again.\n"
    )


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().line("x" * 500)
    Terminal().note("y" * 500)
    captured = capsys.readouterr()
    assert captured.out == "x" * 500 + "\n"
    assert captured.err == "note: " + "y" * 500 + "\n"


def test_names_that_look_like_markup_survive(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.line("[red]:smile: 100.dng")
    terminal.table(["name"], [["[red].dng"]])
    out = capsys.readouterr().out
    assert out.startswith("[red]:smile: 100.dng\n")
    assert "[red].dng" in out


def test_quiet_says_nothing_but_errors(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(quiet=True)
    with terminal:
        terminal.photo("a", 1, 2)
        terminal.stage("network", 3)
        terminal.advance()
        terminal.note("a note")
        terminal.detail("a detail")
    assert capsys.readouterr() == ("", "")


def test_details_need_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().detail("hidden")
    Terminal(verbose=True).detail("shown")
    assert capsys.readouterr().err == "shown\n"


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": [1, None], "name": "Füße [x]"}
    Terminal().json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_names_and_values_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().facts([("a", "1"), ("long name", "2")])
    assert capsys.readouterr().out == "a          1\nlong name  2\n"


EVIL = "a\x1b]0;title\x07\x9b31m\u202e\x08b"
SAFE = r"a\x1b]0;title\x07\x9b31m\u202e\x08b"


def test_nothing_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(verbose=True)
    terminal.error(EmptyFileError(f"{EVIL} is empty."), about=Path(EVIL))
    terminal.note(EVIL)
    terminal.say(EVIL)
    terminal.detail(EVIL)
    terminal.status(EVIL)
    terminal.facts([("camera", EVIL)])
    terminal.table(["name"], [[EVIL]])
    captured = capsys.readouterr()
    assert captured.err.count(SAFE) >= 5
    assert captured.out.count(SAFE) == 2
    for character in "\x1b\x07\x9b\u202e\x08":
        assert character not in captured.out + captured.err


def test_a_path_is_exact_unless_it_goes_to_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a\x1b[2J\x9b31m.tif"
    Terminal().line(name)
    assert capsys.readouterr().out == name + "\n"
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the stream for a terminal
    Terminal().line(name)
    assert capsys.readouterr().out == r"a\x1b[2J\x9b31m.tif" + "\n"


if sys.platform != "win32":
    import fcntl
    import pty
    import termios


class Screen:
    """A terminal that knows what bars need: lines, their wrapping, and the cursor in them."""

    def __init__(self, columns: int) -> None:
        self.lines = [""]
        self._columns = columns
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        for command, letters in re.findall(r"(\x1b\[[?0-9;]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", text):
            self._obey(command) if command else self._show(letters)

    def _obey(self, command: str) -> None:
        count = int("".join(filter(str.isdecimal, command)) or 1)
        if command == "\r":
            self._column = 0
        elif command == "\n":
            self._down()
        elif command.endswith("A"):
            self._row = max(self._row - count, 0)
        elif command.endswith("K"):
            assert command == "\x1b[2K"
            self.lines[self._row] = ""
        else:
            assert command[-1] in "mhl", command

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")

    def _show(self, letters: str) -> None:
        for letter in letters:
            if self._column == self._columns:
                self._column = 0
                self._down()
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + letter + line[self._column + 1 :]
            self._column += 1


def on_a_terminal(command: list[str], columns: int) -> list[str]:
    """Run a command on a terminal, and return the lines that are on it at the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    names = os.environ.keys() - {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
    environment = {name: os.environ[name] for name in names} | {"TERM": "xterm-256color"}
    shown = b""
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        with suppress(OSError):  # the end, on Linux
            while data := os.read(ours, 1 << 16):
                shown += data
    os.close(ours)
    assert process.returncode == 0, shown
    screen = Screen(columns)
    screen.feed(shown.decode())
    return "\n".join(line.rstrip() for line in screen.lines).rstrip().split("\n")


BATCH = """
import sys, time
from gia_cli.cli.console import Terminal
count, name = int(sys.argv[1]), sys.argv[2]
terminal = Terminal()
with terminal:
    for number in range(1, count + 1):
        terminal.photo(f"{number}.ARW", number, count)
        terminal.stage("denoising", 4)
        for _ in range(4):
            terminal.advance()
            time.sleep(0.06)  # rich draws ten times a second
        terminal.say(f"{number}.ARW: ratio 100")
        terminal.line(f"{number}{name}")
        time.sleep(0.25)
terminal.line("the end")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["_gia.tif", "x" * 150 + ".tif"])
def test_bars_and_results_share_a_screen(count: int, name: str) -> None:
    columns = 100
    lines = on_a_terminal([sys.executable, "-c", BATCH, str(count), name], columns)
    wanted: list[str] = []
    for number in range(1, count + 1):
        path = f"{number}{name}"
        wanted += [f"{number}.ARW: ratio 100", path[:columns]]
        wanted += [path[columns:]] if len(path) > columns else []
    assert lines == [*wanted, "the end"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_results_go_to_stdout_when_only_the_bars_are_on_a_terminal(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(BATCH)} 2 _gia.tif > results"
    lines = on_a_terminal(["sh", "-c", f"cd {shlex.quote(str(tmp_path))} && {command}"], 100)
    assert (tmp_path / "results").read_text() == "1_gia.tif\n2_gia.tif\nthe end\n"
    assert lines == ["1.ARW: ratio 100", "2.ARW: ratio 100"]


def test_numbers_that_json_has_not_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().json({"a": [float("nan"), 1.5], "b": (float("inf"),), "c": {"d": -float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None], "c": {"d": None}}


def test_a_later_batch_counts_its_own_photos() -> None:
    """In a watched folder one batch follows the other, on the same bars."""
    with (terminal := Terminal()):
        for number, total in ((1, 3), (3, 3), (1, 1), (2, 5)):
            terminal.photo("a.ARW", number, total)
            assert terminal._bars is not None
            (task,) = terminal._bars.tasks
            assert (task.completed, task.total, task.visible) == (number - 1, total, total > 1)


def test_the_last_line_is_said_while_a_thread_catches_what_libraw_says() -> None:
    """Descriptor 2 is somebody else's then: the line was lost now and then."""
    code = (
        "import os\n"
        "from gia_cli import interrupts\n"
        "interrupts.take_over()\n"
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\n"
        "from gia_cli.cli.app import tell\n"
        "from gia_cli.errors import Interrupted\n"
        "raise SystemExit(tell(Interrupted('Interrupted after 0 of 1 photos.')))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 130
    assert run.stderr.startswith("error: Interrupted after 0 of 1 photos.")
