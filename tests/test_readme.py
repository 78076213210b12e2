"""The README tells the truth: its commands, options, models and its Python snippet."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import gia_cli
from gia_cli.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = "```"


def block(marker: str) -> str:
    """Return the fenced block after a marker comment."""
    after = README.split(f"<!-- {marker} -->")[1]
    return after.split(FENCE)[1].split("\n", 1)[1]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_models_are_those_that_ship_with_the_sizes_of_their_files() -> None:
    manifest = json.loads((ROOT / "weights" / "manifest.json").read_text(encoding="utf-8"))
    sizes = {row["name"]: f"{row['bytes'] / 1e6:.1f}" for row in manifest["weights"]}
    expected = {
        name: size + (f" ({int8})" if (int8 := sizes.get(f"{name}-int8")) else "")
        for name, size in sizes.items()
        if not name.endswith("-int8")
    }
    rows = [line.split("|") for line in README.splitlines() if line.startswith("| [gia-")]
    listed = {re.findall(r"\[(.+?)\]", row[1])[0]: row[3].strip() for row in rows}
    assert listed == expected


COMMANDS = ("enhance", "info", "simulate", "train", "eval", "bench")


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS, "weights export", "weights quantize"])
def test_every_option_in_the_readme_exists(command: str) -> None:
    help_text = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
    for line in README.splitlines():
        if line.startswith(f"gia {command} "):
            for word in shlex.split(line, comments=True):
                if word.startswith("-"):
                    assert word.split("=")[0] in help_text, line


def test_options_in_prose_exist() -> None:
    known = "--install-completion --recursive"
    for command in ("enhance", "simulate", "train", "eval", "bench"):
        result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        known += result.output
    for option in set(re.findall(r"`(--[a-z-]+)", README)):
        assert option in known, option


@pytest.mark.slow
def test_the_python_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block("python-snippet"), "README.md", "exec"), names)
    picture = names["picture"]
    assert isinstance(picture, gia_cli.Enhanced)
    assert picture.image.dtype == np.uint16
    assert (tmp_path / "night.png").is_file()


def test_the_try_command_names_files_that_exist() -> None:
    words = shlex.split(block("try-command"))
    assert (ROOT / words[words.index("enhance") + 1]).is_file()
    assert (ROOT / words[words.index("-c") + 1]).is_file()


def test_the_test_command_runs_the_checks_with_constraints() -> None:
    command = block("test-command")
    assert "-c constraints.txt" in command
    assert (ROOT / "scripts" / "check.py").is_file()
    assert "scripts/check.py" in command


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).is_file(), target


def test_torch_is_pinned_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert any(re.fullmatch(r"torch==\d+\.\d+\.\d+", line) for line in lines)
    pinned = {re.split("==", line)[0].lower() for line in lines if not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[^\w-]", line)[0].lower() for lines in wanted for line in lines}
    assert {"torch", "ruff"} <= names <= pinned
