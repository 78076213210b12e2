"""``gia config``: which value an option has, and where it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from gia_cli.cli import settings
from gia_cli.cli.app import app
from gia_cli.cli.options import Json
from gia_cli.errors import UsageError


@app.command(cls=TyperCommand)  # settings of its own would be settings of nothing
def config(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="Show all options of this command: enhance, weights quantize (default: what is "
            "set, of every command).",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path,
        typer.Option(
            "--folder", metavar="FOLDER", help="The folder whose gia.toml applies, for gia watch."
        ),
    ] = Path(),
    path: Annotated[
        bool, typer.Option("--path", help="Print only where your own gia.toml is, or would be.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which value each option has, and where it comes from.

    Options of the command line win over the environment, that over the folder's gia.toml, that over
    yours, and that over what is built in.

    gia config enhance
    """
    from gia_cli.cli.console import Terminal

    terminal = Terminal()
    if path:
        terminal.line(str(settings.user_file()))
        return
    root = context.find_root().command
    known = dict(settings.leaves(root))
    wanted = tuple(command or ())
    if wanted and wanted not in known:
        names = ", ".join(" ".join(words) for words in known)
        raise UsageError(f"There is no command '{' '.join(wanted)}'.", hint=f"There are: {names}.")
    files = settings.read_files(folder)
    for file in files:
        settings.check_names(file, root)
    shown = {wanted: known[wanted]} if wanted else known
    rows = [row for words in shown for row in _rows(words, shown[words], context, files)]
    if not wanted:
        rows = [row for row in rows if row["from"] != "default"]
    looked_for = settings.looked_for(folder)
    if as_json:
        places = [
            {"kind": kind, "path": str(place), "found": is_there}
            for kind, place, is_there in looked_for
        ]
        terminal.json({"files": places, "options": rows})
        return
    for kind, place, is_there in looked_for:
        terminal.say(f"{kind}: {place}" + ("" if is_there else " (not there)"))
    if all(kind != "folder" for kind, _, _ in looked_for):
        terminal.say("folder: no gia.toml here, nor in a folder above")
    if not rows:
        terminal.say("Every option has its built-in default.")
        return
    cells = [[row["command"], row["option"], _text(row["value"]), _origin(row)] for row in rows]
    terminal.table(["command", "option", "value", "from"], cells)


def _rows(
    words: tuple[str, ...], command: Any, context: Any, files: list[settings.SettingsFile]
) -> list[dict[str, Any]]:
    """Describe each option of a command as the JSON report does."""
    found = settings.settings_of(words, command, context, files)
    rows = []
    for key, option in settings.options_of(command).items():
        row: dict[str, Any] = {
            "command": " ".join(words),
            "option": f"--{key}",
            "file": None,
            "line": None,
        }
        variable = settings.variable_of(option)
        if variable is not None:
            row |= {"value": settings.variable_value(variable), "from": variable}
        elif (setting := found.get(option.name)) is not None:
            row |= {
                "value": setting.value,
                "from": "user" if setting.file.is_users else "folder",
                "file": str(setting.file.path),
                "line": setting.line,
            }
        else:
            row |= {"value": _default(option), "from": "default"}
        rows.append(row)
    return rows


def _default(option: Any) -> Any:
    """Tell an option's built-in default; of one that has it elsewhere, what its help says."""
    if option.default is not None:
        is_plain = isinstance(option.default, str | int | float | bool)
        return option.default if is_plain else str(option.default)
    said = re.search(r"\(default: ([^()]*)\)", option.help or "")
    return said[1] if said else None


def _origin(row: dict[str, Any]) -> str:
    if row["file"] is None:
        return str(row["from"])
    return f"{row['file']}:{row['line']}" if row["line"] else str(row["file"])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
