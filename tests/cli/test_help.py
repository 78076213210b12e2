"""Help: every command shows an example that works, flags without a value, names to complete."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from gia_cli.cli.app import app
from gia_cli.cli.options import weights_names
from gia_cli.weights.manifest import find_weights
from tests.cli.test_cli import gia

ROOT: Any = typer.main.get_command(app)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(ROOT))
each_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


@each_command
def test_flags_are_shown_without_a_value(path: tuple[str, ...]) -> None:
    result = gia(*path, "--help")
    assert result.exit_code == 0 and "<bool>" not in result.stdout
    assert "--help" in result.stdout


@each_command
def test_every_command_has_an_example_that_it_takes(path: tuple[str, ...]) -> None:
    lines = [line.split("  #")[0].strip() for line in COMMANDS[path].help.splitlines()]
    begin = " ".join(("gia", *path))
    examples = [line for line in lines if line == begin or line.startswith(f"{begin} ")]
    assert examples
    parent = ROOT.context_class(ROOT, info_name="gia")
    for name in path[:-1]:
        parent = ROOT.context_class(ROOT.commands[name], parent=parent, info_name=name)
    for example in examples:
        words = shlex.split(example)[1 + len(path) :]
        COMMANDS[path].make_context(path[-1], words, parent=parent)


def test_names_of_weights_are_completed() -> None:
    default = find_weights("gia-sony").name
    assert "lite" in weights_names("") and default in weights_names("gia-so")
    assert not weights_names("x")
