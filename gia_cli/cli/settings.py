"""``gia.toml``: options that a user, or a folder, has already decided.

What a file says becomes the default of the option, so that every option of every command can stand
in it, and no list of them is kept here. Its tables are commands, its keys long options without the
two dashes. Built-in default < user's file < folder's file < environment < command line.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from gia_cli.errors import BatchError, GiaError, Interrupted, RawError, UsageError
from gia_cli.files import is_file, read_plain
from gia_cli.runtime import CONFIG_VARIABLE

FILE_NAME = "gia.toml"
#: Commands that take what another one's table says, where their own says nothing.
_ALSO_OF = {"watch": "enhance"}
#: Sets options, those whose help names it.
_WEIGHTS_VARIABLE = "GIA_WEIGHTS"
_SHOWN = 60  # characters of a value in a message
_WEIGHTS_FILE = ".safetensors"


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A file that was read."""

    path: Path
    text: str
    tables: dict[str, Any]
    is_users: bool

    def error(self, message: str, table: Sequence[str] = (), key: str | None = None) -> UsageError:
        """Make the error of a place in the file."""
        line = _line_number(self.text, table, key)
        at = f"{self.path}:{line}" if line else str(self.path)
        where = f" [{'.'.join(table)}]" if table else ""
        return UsageError(f"{at}:{where} {message}", hint="'gia config' shows what is in effect.")


@dataclass(frozen=True, slots=True)
class Setting:
    """An option's value, and the place in a file that it is from."""

    option: str
    value: Any
    """As it is typed on the command line: a text, texts, or whether a flag is set."""
    file: SettingsFile
    table: str
    line: int | None

    @property
    def shown(self) -> str:
        """The option as it would be typed."""
        if isinstance(self.value, bool):
            return self.option if self.value else no(self.option)
        values = self.value if isinstance(self.value, list) else [self.value]
        return " ".join(f"{self.option} {value}" for value in values)


# ---------------------------------------------------------------- the files


def user_file() -> Path:
    """Name the user's own file, whether it is there or not.

    On Linux ``$XDG_CONFIG_HOME/gia/gia.toml``, else ``~/.config/gia/gia.toml``.
    """
    from platformdirs import user_config_path

    return user_config_path("gia", appauthor=False) / FILE_NAME


def folder_file(folder: Path) -> Path | None:
    """Find the file of a folder: its own, or that of the nearest folder above it."""
    try:
        whole = Path(os.path.abspath(folder))  # noqa: PTH100, links stay as they are
    except OSError:  # the folder that we are in was removed
        return None
    candidates = (above / FILE_NAME for above in (whole, *whole.parents))
    return next((path for path in candidates if is_file(path)), None)


def looked_for(folder: Path) -> list[tuple[str, Path, bool]]:
    """List the files that matter: kind, path, whether it is there; the strongest last."""
    if (only := os.environ.get(CONFIG_VARIABLE)) is not None:
        return [(CONFIG_VARIABLE, Path(only), is_file(Path(only)))] if only else []
    users, folders = user_file(), folder_file(folder)
    found = [("user", users, is_file(users))]
    if folders is not None and folders != users:
        found.append(("folder", folders, True))
    return found


def read_files(folder: Path) -> list[SettingsFile]:
    """Read the files that there are, the strongest last.

    Raises
    ------
    UsageError
        One cannot be read or is no TOML, or the one that `CONFIG_VARIABLE` names is not there.
    """
    wanted = looked_for(folder)
    return [
        _read(path, is_users=kind == "user")
        for kind, path, is_there in wanted
        if is_there or kind == CONFIG_VARIABLE
    ]


def _read(path: Path, *, is_users: bool) -> SettingsFile:
    hint = 'Correct the file. Texts stand in quotes: format = "png".'
    try:
        text = read_plain(path).decode("utf-8")
        return SettingsFile(path, text, tomllib.loads(text), is_users)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", hint="") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not TOML: it is not UTF-8 text.", hint=hint) from None
    except (ValueError, RecursionError) as error:  # of TOML, and of numbers without end
        line = re.search(r"at line (\d+)", str(error))
        at = line[1] if line else len(text.splitlines())  # "at end of document"
        raise UsageError(f"{path}:{at} is not TOML: {error}.", hint=hint) from None


def _line_number(text: str, table: Sequence[str], key: str | None) -> int | None:
    """Find the line of a table, or of a key in it; TOML's reader does not tell."""
    current: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            current = _parts(header[1])
            if key is None and current == list(table):
                return number
        elif entry := re.match(r"\s*([\w\s.\"'-]+?)\s*=", line):
            whole = [*current, *_parts(entry[1])]
            wanted = [*table, key] if key is not None else list(table)
            if whole[: len(wanted)] == wanted:
                return number
    return None


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


# ---------------------------------------------------------------- what they say


def leaves(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command that settings apply to, with the words that call it."""
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from leaves(command, (*above, name))
        elif isinstance(command, Command):
            yield (*above, name), command


def options_of(command: Any) -> dict[str, Any]:
    """List a command's options by their keys."""
    return {
        key_of(parameter): parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name != "help"
    }


def key_of(option: Any) -> str:
    """Tell an option's key: its long name without the dashes."""
    names: list[str] = option.opts
    return max((name for name in names if name.startswith("--")), key=len)[2:]


def no(option: str) -> str:
    """Tell how a flag is taken back: ``--compare`` by ``--no-compare``."""
    return f"--no-{option[2:]}"


def check_names(file: SettingsFile, root: Any) -> None:
    """Refuse tables and keys that no command has.

    Raises
    ------
    UsageError
    """
    known = dict(leaves(root))
    tables = {words[:length] for words in known for length in range(1, len(words) + 1)}
    pending: list[tuple[tuple[str, ...], Any]] = [((name,), v) for name, v in file.tables.items()]
    while pending:
        words, value = pending.pop(0)
        if words not in tables:
            if not isinstance(value, dict):
                raise file.error(
                    f"'{words[-1]}' stands in no command's table, such as [enhance].",
                    words[:-1],
                    words[-1],
                )
            names = [" ".join(other) for other in tables if len(other) == len(words)]
            raise file.error(
                f"there is no command '{' '.join(words)}'{_near(' '.join(words), names)}", words
            )
        if not isinstance(value, dict):
            raise file.error(
                f"'{words[-1]}' is a command: write [{'.'.join(words)}].", words[:-1], words[-1]
            )
        if words not in known:  # a group of commands
            pending += [((*words, name), inner) for name, inner in value.items()]
            continue
        options = options_of(known[words])
        for key in value:
            if key not in options:
                raise file.error(f"there is no option '{key}'{_near(key, options)}", words, key)


def _near(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else "."


def settings_of(
    words: tuple[str, ...], command: Any, context: Any, files: Sequence[SettingsFile]
) -> dict[str, Setting]:
    """Collect what files say of a command's options, by the parameters' names.

    Raises
    ------
    UsageError
        A value that the option does not take.
    """
    found: dict[str, Setting] = {}
    options = options_of(command)
    borrowed = (_ALSO_OF[words[0]],) if words[0] in _ALSO_OF else None
    for file in files:
        for table in (borrowed, words):
            values: Any = file.tables
            for word in table or ("",):
                values = values.get(word, {})
            for key, value in values.items():
                if (option := options.get(key)) is None:
                    continue  # of the command that is borrowed from
                setting = _setting(option, value, file, table or words, key, context)
                found.pop(option.name, None)
                # An empty text takes a weaker file's word back.
                if setting.value != "" and variable_of(option) is None:
                    found[option.name] = setting
    return found


def variable_of(option: Any) -> str | None:
    """Name the environment variable that sets an option now; None if none does."""
    is_set = _WEIGHTS_VARIABLE in (option.help or "") and os.environ.get(_WEIGHTS_VARIABLE)
    return _WEIGHTS_VARIABLE if is_set else None


def variable_value(variable: str) -> str:
    """Read an environment variable."""
    return os.environ.get(variable, "")


def _setting(
    option: Any, value: Any, file: SettingsFile, table: Sequence[str], key: str, context: Any
) -> Setting:
    typed = _typed(option, value)
    if typed is None:
        wanted = "true or false" if option.is_flag else "a text or a number"
        wanted += ", or a list of them" if option.multiple else ""
        raise file.error(f"{key} takes {wanted}, not {_shown(value)}.", table, key)
    if not option.is_flag and typed != "":
        if option.multiple:
            typed = [_placed(option, text, file) for text in typed]
        else:
            typed = _placed(option, typed, file)
        try:
            option.process_value(context, typed)
        except typer.BadParameter as error:
            raise file.error(f"{key} = {_shown(value)}: {error.message}", table, key) from None
    line = _line_number(file.text, table, key)
    return Setting(f"--{key}", typed, file, ".".join(table), line)


def _typed(option: Any, value: Any) -> Any:
    """Turn a value of TOML into what is typed on the command line; None if nothing is."""
    if option.is_flag:
        return value if isinstance(value, bool) else None
    if option.multiple:
        texts = [_text(each) for each in (value if isinstance(value, list) else [value])]
        return None if None in texts else texts
    return _text(value)


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value if "\0" not in value else None  # which nobody can type
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    with suppress(ValueError):  # more digits than Python writes
        return str(value)
    return None


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = f'"{value}"' if isinstance(value, str) else str(value)
    except ValueError:  # more digits than Python writes
        return "so long a number"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _placed(option: Any, text: str, file: SettingsFile) -> str:
    """Find a path that a file gives: from its own folder on, if it is a folder's file."""
    is_path = "Path" in str(option.type_descriptor.annotation) or text.endswith(_WEIGHTS_FILE)
    if not is_path:
        return text
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:  # nobody's home: a name like any other
            return text
    return str(path if file.is_users else file.path.parent / path)


# ---------------------------------------------------------------- in use


_in_use: dict[str, Setting] = {}  # of the command that runs


class Command(TyperCommand):
    """A command whose options have their defaults from the files; each flag can be taken back."""

    def settings_folder(self, context: Any, args: list[str]) -> Path:
        """Name the folder whose file applies."""
        return Path()

    def make_parser(self, ctx: Any) -> Any:
        """Let ``--no-compare`` take back what a file sets."""
        parser = super().make_parser(ctx)
        for key, option in options_of(self).items():
            if option.is_bool_flag and not option.secondary_opts:
                parser.add_option(
                    option, [no(f"--{key}")], option.name, action="store_const", const=False
                )
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the files, then the command line; for help, and for completion, no file is read."""
        _in_use.clear()
        if ctx.resilient_parsing or {*ctx.help_option_names} & {*args}:
            return super().parse_args(ctx, args)
        files = read_files(self.settings_folder(ctx, args))
        for file in files:
            check_names(file, ctx.find_root().command)
        found = settings_of(_words(ctx), self, ctx, files)
        ctx.default_map = {name: setting.value for name, setting in found.items()}
        rest = super().parse_args(ctx, args)
        for name, setting in found.items():
            if ctx.get_parameter_source(name).name == "DEFAULT_MAP":
                _in_use[name] = setting
        return rest


def _words(context: Any) -> tuple[str, ...]:
    """Tell the words that call a context's command, without the program's name."""
    words: list[str] = []
    while context.parent is not None:
        words.insert(0, context.info_name)
        context = context.parent
    return tuple(words)


def explained(error: GiaError) -> GiaError:
    """Add to an error which of the options that it is about are from a file."""
    if isinstance(error, RawError | BatchError | Interrupted) or not _in_use:
        return error
    about = [each for each in _in_use.values() if _is_about(error.message, each)]
    names_one = re.search(r"(?<!\S)--?[a-z]", error.message)
    if not about and type(error) is UsageError and not names_one:
        about = list(_in_use.values())  # it names no option: one of these, or what was typed
    for setting in about:
        words = f"{setting.shown} is from {setting.file.path}."
        if words not in error.hint:
            error.hint = f"{error.hint} {words}".lstrip()
    return error


def _is_about(message: str, setting: Setting) -> bool:
    values = setting.value if isinstance(setting.value, list) else [setting.value]
    words = [setting.option, *(value for value in values if isinstance(value, str))]
    return any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", message) for word in words)
