"""Ctrl-C, from a process's first moment to its last: one line, exit code 130, no traceback.

While modules are loaded there is nothing to put in order, and an exception in the midst of a
library's import may come out as anything: the process ends at once. Later the first Ctrl-C is a
`KeyboardInterrupt`, for the work to end in order, and the second ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Literal

from gia_cli.errors import Interrupted

#: loading: until a command is called. command: it loads what it needs. work: there is something to
#: put in order. ending: Ctrl-C was pressed. over: all is said.
Stage = Literal["loading", "command", "work", "ending", "over"]

_stage: Stage = "loading"
_process: int | None = None  # whose Ctrl-C is ours; not one forked from it
_stderr: int | None = None  # a copy: LibRaw's chatter is caught on descriptor 2

_SHOW_CURSOR = "\r\x1b[2K\x1b[?25h"  # bars hide it


def take_over() -> None:
    """Handle Ctrl-C from here on; not where the process was started to ignore it."""
    global _process, _stderr
    if (
        _process is not None
        or threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        return
    _process = os.getpid()
    with suppress(OSError):
        _stderr = os.dup(2)
    signal.signal(signal.SIGINT, _on_interrupt)
    sys.unraisablehook = _on_unraisable


def enter(stage: Stage) -> None:
    """Tell how far the process is."""
    global _stage
    _stage = stage


def _on_interrupt(_: int, frame: FrameType | None) -> None:
    may_end = _stage == "work" or (_stage == "command" and not _is_importing(frame))
    if may_end or os.getpid() != _process:
        enter("ending")
        raise KeyboardInterrupt
    if _stage != "over":
        _say(str(Interrupted("Interrupted.")))
    if (files := sys.modules.get("gia_cli.files")) is not None:
        files.remove_unfinished()
    with suppress(Exception):  # it may be in the midst of a write
        sys.stdout.flush()
    os._exit(Interrupted.exit_code)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Raise again, where it can be caught, what was pressed while Python could not raise it."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        if _stage == "ending":
            enter("work")
        signal.raise_signal(signal.SIGINT)
    else:
        sys.__unraisablehook__(unraisable)


def _say(message: str) -> None:
    with suppress(OSError):
        if _stderr is not None:
            start = _SHOW_CURSOR if os.isatty(_stderr) and _stage == "ending" else ""
            os.write(_stderr, f"{start}error: {message}\n".encode())
