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


def test_facts_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().facts([("a", "1"), ("long name", "2")])
    assert capsys.readouterr().out == "a          1\nlong name  2\n"
