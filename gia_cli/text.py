"""Words to show: numbers of things, and texts that strangers wrote, made safe."""

from __future__ import annotations

import unicodedata

# Control characters, and those that turn the reading direction or end a line.
_COMMANDS = frozenset({"Cc", "Cf", "Zl", "Zp"})


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's words, or its class's name where it has none.

    Examples
    --------
    >>> first_line(RuntimeError("out of memory\nCompile with ...")), first_line(MemoryError())
    ('out of memory', 'MemoryError')
    """
    return (str(error) or type(error).__name__).splitlines()[0]


def counted(number: int, thing: str) -> str:
    """Say how many there are of a thing whose plural ends in s.

    Examples
    --------
    >>> counted(1, "step"), counted(0, "step"), counted(2026, "photo")
    ('1 step', '0 steps', '2026 photos')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def size_in_words(size: int) -> str:
    """Say how many bytes there are, in megabytes unless they are few.

    Examples
    --------
    >>> size_in_words(1), size_in_words(9_999), size_in_words(10_000), size_in_words(40_000_000)
    ('1 byte', '9999 bytes', '0.01 MB', '40 MB')
    """
    return counted(size, "byte") if size < 10_000 else f"{size / 1e6:g} MB"


def escape_controls(text: str) -> str:
    r"""Spell out the characters by which a file or its name could command a terminal or a page.

    Examples
    --------
    >>> escape_controls("night\x1b[2J.ARW")
    'night\\x1b[2J.ARW'
    """
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _COMMANDS else c
        for c in text
    )
