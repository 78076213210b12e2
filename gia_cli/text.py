"""Texts that strangers wrote, such as names of files, made safe to show."""

from __future__ import annotations

import unicodedata

# Control characters, and those that turn the reading direction or end a line.
_COMMANDS = frozenset({"Cc", "Cf", "Zl", "Zp"})


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
