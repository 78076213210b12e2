"""What people read: plain cells, one line an error, silence when quiet."""

from __future__ import annotations

import json
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


def test_numbers_that_json_has_not_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().json({"a": [float("nan"), 1.5], "b": (float("inf"),), "c": {"d": -float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None], "c": {"d": None}}
