"""MkDocs hook: what the documentation takes from the code and from the top of the repository.

``mkdocs build`` loads it (see ``mkdocs.yml``). A page says ``<!-- generated: commands -->`` where
the commands stand, so nothing that the code knows is written down a second time.
``CONTRIBUTING.md`` and its like become pages too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # this checkout, whatever else is installed
    sys.path.insert(0, str(ROOT))

#: Files at the top of the repository that are pages too, by the page's name.
TOP_PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
_MARKER = re.compile(r"<!-- generated: ([a-z-]+) -->")


# ---------------------------------------------------------------- MkDocs calls these


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside ``docs/``."""
    from mkdocs.structure.files import File

    for name, source in TOP_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=top_page(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is generated in the place of its marker."""
    return fill(markdown)


# ---------------------------------------------------------------- the same without MkDocs


def fill(markdown: str) -> str:
    """Replace every marker of a page.

    Raises
    ------
    KeyError
        Nothing of that name is generated.
    """
    return _MARKER.sub(lambda match: GENERATED[match[1]](), markdown)


def top_page(markdown: str) -> str:
    """Make a file's links right for a page: relative to ``docs/``, and to other such pages."""
    for name, source in TOP_PAGES.items():
        markdown = markdown.replace(f"]({source}", f"]({name}")
    return markdown.replace("](docs/", "](")


def commands() -> str:
    """Describe every command with its options, as ``--help`` does."""
    import typer

    from gia_cli.cli import app

    lines: list[str] = []
    for context in _leaves("gia", typer.main.get_command(app), None):
        lines += _command(context)
    return "\n".join(lines)


def _leaves(name: str, command: Any, parent: Any) -> Iterator[Any]:
    """Yield the context of each command that is no group of others."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    children = getattr(command, "commands", None)
    if children is None:
        yield context
        return
    for child, of_child in sorted(children.items()):
        yield from _leaves(child, of_child, context)


def _command(context: Any) -> list[str]:
    command = context.command
    lines = [f"## {context.command_path.split(' {')[0]}", ""]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [f"    {paragraph}" if paragraph.startswith("gia ") else paragraph, ""]
    lines += ["| option | what it does |", "|---|---|"]
    for parameter in command.get_params(context):
        names, text = parameter.get_help_record(context)
        if parameter.param_type_name == "argument":
            names = names.split(" <")[0]  # its Python type tells a user nothing
        lines.append(f"| {_code(names)} | {_prose(text)} |")
    return [*lines, ""]


def _code(text: str) -> str:
    # A bar would end the cell, in code too; in code an entity would not be read, so: HTML.
    return f"<code>{_escaped(text)}</code>"


def _prose(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"--[a-z0-9-]+", r"`\g<0>`", _escaped(text))).strip()


def _escaped(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(character, entity)
    return text


def exit_codes() -> str:
    """List every error with its exit code, what it means and what to do."""
    from gia_cli.errors import GiaError

    rows = ["| code | error | what it means | what to do |", "|---|---|---|---|"]
    for error in sorted(_family(GiaError), key=lambda kind: kind.exit_code):
        meaning = (error.__doc__ or "").split("\n")[0]
        if error is GiaError:
            meaning = "Something unexpected: a bug, or a system that refuses."
        hint = _prose(error.hint) or "The message says it."
        rows.append(f"| {error.exit_code} | `{error.__name__}` | {_escaped(meaning)} | {hint} |")
    return "\n".join(rows)


def _family(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == "gia_cli.errors":
            yield from _family(child)


def weights() -> str:
    """List the shipped weights with sensor, size and SHA-256, from their manifest."""
    import json

    manifest = json.loads((ROOT / "weights" / "manifest.json").read_text(encoding="utf-8"))
    rows = ["| name | sensor | white balance | MB | SHA-256 begins |", "|---|---|---|---|---|"]
    for row in manifest["weights"]:
        config = row["config"]
        cells = (
            f"`{row['name']}`",
            {"bayer": "Bayer", "xtrans": "X-Trans"}[config["cfa"]],
            config["white_balance"],
            f"{row['bytes'] / 1e6:.1f}",
            f"`{row['sha256'][:12]}`",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


#: By the name in the marker.
GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "exit-codes": exit_codes,
    "weights": weights,
}
