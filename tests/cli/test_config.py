"""`gia config`: every option's value, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gia_cli.cli import app, settings
from gia_cli.runtime import CONFIG_VARIABLE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place without settings, in a folder that has some."""
    monkeypatch.delenv(CONFIG_VARIABLE)
    monkeypatch.delenv("GIA_WEIGHTS", raising=False)
    path = tmp_path / "home" / "gia.toml"
    path.parent.mkdir()
    monkeypatch.setattr(settings, "user_file", lambda: path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return path


def config(*words: str) -> Any:
    result = CliRunner().invoke(app, ["config", *words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def row(report: Any, option: str) -> Any:
    (found,) = [row for row in report["options"] if row["option"] == option]
    return found


def test_every_value_has_its_source(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text('[enhance]\nweights = "mine"\nstrength = 0.5\ncompare = true\n')
    folder = tmp_path / "work" / "gia.toml"
    folder.write_text("[enhance]\n\nstrength = 0.25\n")
    report = config("enhance")
    assert row(report, "--strength") == {
        "command": "enhance",
        "option": "--strength",
        "value": "0.25",
        "from": "folder",
        "file": str(folder),
        "line": 3,
    }
    assert row(report, "--compare")["value"] is True
    assert (row(report, "--weights")["from"], row(report, "--weights")["line"]) == ("user", 2)
    assert row(report, "--device") == {
        "command": "enhance",
        "option": "--device",
        "value": "auto",
        "from": "default",
        "file": None,
        "line": None,
    }
    assert row(report, "--max-ratio")["value"].startswith("300")  # as its help says
    assert report["files"] == [
        {"kind": "user", "path": str(home), "found": True},
        {"kind": "folder", "path": str(folder), "found": True},
    ]
    monkeypatch.setenv("GIA_WEIGHTS", "other")
    weights = row(config("enhance"), "--weights")
    assert (weights["value"], weights["from"]) == ("other", "GIA_WEIGHTS")


def test_without_a_command_what_is_set_is_shown(home: Path) -> None:
    assert config() == {
        "files": [{"kind": "user", "path": str(home), "found": False}],
        "options": [],
    }
    home.write_text("[weights.list]\njson = true\n[enhance]\nratio = 9\n")
    shown = [(row["command"], row["option"]) for row in config()["options"]]
    assert ("weights list", "--json") in shown
    assert ("enhance", "--ratio") in shown and ("watch", "--ratio") in shown
    text = CliRunner().invoke(app, ["config"], env={"COLUMNS": "200"})
    assert f"{home}:2" in text.stdout
    assert f"user: {home}" in text.stderr and "folder: no gia.toml here" in text.stderr


def test_a_watched_folder_is_asked_for(home: Path, tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    (card / "gia.toml").write_text('[watch]\nsettle = "9s"\n')
    assert row(config("watch"), "--settle")["value"] == "2s"
    assert row(config("watch", "--folder", str(card)), "--settle")["value"] == "9s"


def test_its_own_path_is_printed_whether_it_is_there_or_not(home: Path) -> None:
    result = CliRunner().invoke(app, ["config", "--path"])
    assert result.stdout.strip() == str(home)
    text = CliRunner().invoke(app, ["config"])
    assert "(not there)" in text.stderr and "built-in default" in text.stderr


def test_mistakes_end_with_2(home: Path) -> None:
    unknown = CliRunner().invoke(app, ["config", "enhence"])
    assert unknown.exit_code == 2
    assert "There is no command 'enhence'" in unknown.stderr and "weights list" in unknown.stderr
    home.write_text("[train]\nsteps = 'many'\n")  # of any command
    wrong = CliRunner().invoke(app, ["config"])
    assert wrong.exit_code == 2 and f"{home}:2: [train] steps" in wrong.stderr


def test_the_user_s_file_is_where_the_system_has_such_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: tmp_path / "gia")
    assert settings.user_file() == tmp_path / "gia" / "gia.toml"
