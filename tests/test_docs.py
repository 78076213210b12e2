"""The documentation tells the truth: its commands, options, exit codes, models and generated parts.

Links and anchors are checked by ``mkdocs build --strict``, which ``scripts/check.py`` runs.
"""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gia_cli import errors
from gia_cli.cli import app
from gia_cli.enhance.white_balance import NAMES, PRESETS
from scripts import docs_pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MODELS = [page for page in (DOCS / "models").glob("*.md") if page.stem != "index"]
MANIFEST = json.loads((ROOT / "weights" / "manifest.json").read_text(encoding="utf-8"))
SHIPPED = {row["name"]: row for row in MANIFEST["weights"]}


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@cache
def help_of(command: str) -> str:
    words = [*command.split(), "--help"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 0, command
    return result.output


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Every command line of the fenced blocks: the command, and all words behind it."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split("&&|;", line):
                words = shlex.split(part, comments=True)
                if words[:1] == ["torchrun"]:
                    words = ["gia", *words[words.index("gia_cli") + 1 :]]
                if words[:1] != ["gia"] or len(words) < 2 or words[1].startswith("-"):
                    continue
                length = 2 if words[1] == "weights" else 1
                found.append((" ".join(words[1 : 1 + length]), words[1 + length :]))
    return found


def short(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_commands_and_their_options_exist(page: Path) -> None:
    for command, words in commands_in(page.read_text(encoding="utf-8")):
        text = help_of(command)
        for word in words:
            if word.startswith("-"):
                assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), (command, word)


def test_the_cookbook_was_read() -> None:
    assert {command for command, _ in commands_in(text_of("cookbook.md"))} >= {
        *("enhance", "watch", "info", "simulate", "pack", "train", "eval", "bench"),
        *("weights export", "weights calibrate", "weights quantize"),
    }


def test_every_white_balance_has_a_line_in_the_cookbook() -> None:
    section = text_of("cookbook.md").split("## Choose the white balance")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) == set(NAMES)
    for name, light in PRESETS.items():
        if name != "daylight":  # LibRaw's own, where it has it
            (line,) = re.findall(rf"^\| `{name}` \|.*", section, re.MULTILINE)
            assert str(light) in line


def test_every_exit_code_is_explained_to_users() -> None:
    codes = re.findall(r"^\| (\d+) \|", text_of("errors.md"), re.MULTILINE)
    assert [int(code) for code in codes] == sorted(errors_by_code())


def errors_by_code() -> dict[int, type[errors.GiaError]]:
    pending, found = [errors.GiaError], {}
    while pending:
        kind = pending.pop()
        if kind.__module__ == "gia_cli.errors":
            found[kind.exit_code] = kind
            pending += kind.__subclasses__()
    return found


# ---------------------------------------------------------------- what is generated


def test_generated_exit_codes_are_those_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", docs_pages.exit_codes(), re.MULTILINE)
    assert {int(code): name for code, name in rows} == {
        code: kind.__name__ for code, kind in errors_by_code().items()
    }


def test_generated_commands_are_all_with_all_options() -> None:
    generated = docs_pages.commands()
    sections = re.split(r"^## gia ", generated, flags=re.MULTILINE)[1:]
    assert len(sections) == 18
    for section in sections:
        command = section.split("\n")[0]
        options = set(re.findall(r"--[a-z0-9-]+", help_of(command)))
        assert options <= set(re.findall(r"--[a-z0-9-]+", section)), command


def test_a_cell_of_a_generated_table_holds_no_bar() -> None:
    for table in (docs_pages.commands(), docs_pages.exit_codes(), docs_pages.weights()):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) == 1


def test_markers_are_filled_and_unknown_ones_refused() -> None:
    for page in PAGES:
        assert "<!-- generated:" not in docs_pages.fill(page.read_text(encoding="utf-8"))
    with pytest.raises(KeyError):
        docs_pages.fill("<!-- generated: nothing -->")


def test_links_of_top_pages_become_those_of_pages() -> None:
    moved = docs_pages.top_page("[a](CHANGELOG.md) [b](docs/errors.md#x) [c](docs/a/b.md)")
    assert moved == "[a](changelog.md) [b](errors.md#x) [c](a/b.md)"


# ---------------------------------------------------------------- the models' pages


def test_what_ships_has_a_page_and_nothing_else() -> None:
    own = {name for name in SHIPPED if not name.endswith("-int8")}
    assert {page.stem for page in MODELS} == own | {"template"}
    table = re.findall(r"^\| \[(gia-[\w-]+)\]", text_of("models/index.md"), re.MULTILINE)
    assert set(table) == own


@pytest.mark.parametrize("page", MODELS, ids=short)
def test_models_pages_have_the_same_headings(page: Path) -> None:
    def headings(page: Path) -> list[str]:
        return re.findall(r"^## .*", page.read_text(encoding="utf-8"), re.MULTILINE)

    assert headings(page) == headings(DOCS / "models" / "template.md")


@pytest.mark.parametrize("page", [page for page in MODELS if page.stem in SHIPPED], ids=short)
def test_models_pages_agree_with_the_manifest(page: Path) -> None:
    training, text = SHIPPED[page.stem]["training"], page.read_text(encoding="utf-8")
    assert f"{training['steps']:,} steps" in text
    assert f"seed {training['seed']}" in text
    assert f"validation PSNR {training['validation_psnr']:.2f} dB" in text
