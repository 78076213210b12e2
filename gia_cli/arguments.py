"""What callers hand over, checked before it is used: a wrong thing is a `UsageError`, not a bug."""

from __future__ import annotations

import operator
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gia_cli.errors import UsageError

_HINT = "The documentation of the call says what it takes."


def path_of(value: Any, what: str) -> Path:
    """Take a path from a str or a Path.

    Raises
    ------
    UsageError
        It is something else, or holds a character that no path has.
    """
    if not isinstance(value, str | os.PathLike):
        raise _wrong(what, "a path", value)
    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text:
        raise _wrong(what, "a path", value)
    return Path(text)


def number(value: Any, what: str) -> float:
    """Take a number, Python's or NumPy's; not a text, which options take.

    Raises
    ------
    UsageError
    """
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(what, "a number", value) from None


def unit_number(value: Any, what: str, hint: str) -> float:
    """Take a number from 0 to 1.

    Raises
    ------
    UsageError
        With the `hint`, where it is a number but another.
    """
    taken = number(value, what)
    if not 0 <= taken <= 1:
        raise UsageError(f"{what} is a number from 0 to 1, not {taken:g}.", hint=hint)
    return taken


def whole_number(value: Any, what: str) -> int:
    """Take a whole number, Python's or NumPy's.

    Raises
    ------
    UsageError
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise _wrong(what, "a whole number", value) from None


def one_of(value: Any, allowed: Sequence[str], what: str) -> None:
    """Raise `UsageError` for what is none of the words allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise UsageError(f"The {what} is one of {', '.join(allowed)}, not {reprlib.repr(value)}.")


def instance_of(value: Any, kind: type, what: str) -> None:
    """Raise `UsageError` for what is not of a class."""
    if not isinstance(value, kind):
        raise _wrong(what, f"a {kind.__name__}", value)


def _wrong(what: str, wanted: str, value: Any) -> UsageError:
    shown = " ".join(reprlib.repr(value).split())
    return UsageError(f"The {what} must be {wanted}, not {shown}.", hint=_HINT)
