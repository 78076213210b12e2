"""Ctrl-C and SIGTERM, from a process's first moment to its last: one line, no traceback.

The exit code is 130 or 143. While modules are loaded there is nothing to put in order, and an
exception in the midst of a library's import may come out as anything: the process ends at once.
Later the first request is a `KeyboardInterrupt`, for the work to end in order. A second Ctrl-C ends
the process at once; SIGTERM does not, for it often comes twice: ``timeout`` sends it to the process
and to its group, a launcher passes it on to one that got it already. Who cannot wait has SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, FrameType
from typing import Any, Literal

from gia_cli.errors import Interrupted, Terminated

#: loading: until a command is called. command: it loads what it needs. work: there is something to
#: put in order. ending: it was asked to end. over: all is said.
Stage = Literal["loading", "command", "work", "ending", "over"]

_stage: Stage = "loading"
_process: int | None = None  # whose signals are ours; not one forked from it
_stderr: int | None = None  # a copy: LibRaw's chatter is caught on descriptor 2
_USUAL: dict[int, Callable[[int, FrameType | None], Any] | signal.Handlers] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
_last = int(signal.SIGINT)  # of the signals that asked it to end

_SOON = 1e-3  # seconds
_SHOW_CURSOR = "\r\x1b[2K\x1b[?25h"  # bars hide it


def take_over() -> None:
    """Handle Ctrl-C and SIGTERM from here on; not where the process was started to ignore them."""
    global _process, _stderr
    if _process is not None or threading.current_thread() is not threading.main_thread():
        return
    ours = [number for number, handler in _USUAL.items() if signal.getsignal(number) == handler]
    if not ours:
        return
    _process = os.getpid()
    with suppress(OSError):
        _stderr = os.dup(2)
    for number in ours:
        signal.signal(number, _on_request)
    sys.unraisablehook = _on_unraisable


def take_over_fork() -> None:
    """Handle them in this process, too, which is at work and was forked from one that does."""
    global _process
    if _process is not None:
        _process = os.getpid()
    enter("work")


def true_stderr() -> int:
    """Name a descriptor of stderr as it was at the start, whatever lies on 2 by now."""
    return 2 if _stderr is None else _stderr


def enter(stage: Stage) -> None:
    """Tell how far the process is."""
    global _stage
    _stage = stage


def end_with_parent() -> None:
    """Let this process, which works for another, go on until that one ends it or has ended itself.

    Ctrl-C and SIGTERM mostly go to a whole process group, of which the parent decides when its work
    is done. Of one that was killed nobody needs the work.
    """
    for number in _USUAL:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, daemon=True).start()


@contextmanager
def deaf_children(*numbers: int, afresh: bool = True) -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, for this one to end them.

    What a process does about it itself comes too late: one that starts afresh takes seconds until
    then, and what is pressed while it imports its modules is a traceback on the terminal. Blocking
    is inherited; here it lasts for milliseconds, and what comes meanwhile is heard afterwards.

    Parameters
    ----------
    *numbers : int
        Of the signals; by default SIGINT alone, so that SIGTERM still ends them.
    afresh : bool
        Whether they inherit nothing else ("spawn", "forkserver").
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if afresh:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # when it starts, Python 3.11 lets them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers or (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch_parent() -> None:
    from multiprocessing import parent_process

    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def interrupted(number: int, message: str, *, hint: str | None = None) -> Interrupted:
    """Make the error of a signal, with its exit code."""
    kind = Terminated if number == signal.SIGTERM else Interrupted
    return kind(message, hint=hint)


def of_last_signal(error: Interrupted) -> Interrupted:
    """Give the error of work that was interrupted the exit code of what interrupted it."""
    if type(error) is not Interrupted:
        return error  # knows its signal
    return interrupted(_last, error.message, hint=error.hint)


def _on_request(number: int, frame: FrameType | None) -> None:
    global _last
    if os.getpid() != _process:
        signal.signal(number, _USUAL[number])
        signal.raise_signal(number)
        return
    if _stage == "ending" and number == signal.SIGTERM:
        return
    _last = number
    if _stage == "work" or (_stage == "command" and not _is_importing(frame)):
        enter("ending")
        raise KeyboardInterrupt
    error = interrupted(number, "Interrupted.")
    if _stage != "over":
        _say(str(error))
    if (files := sys.modules.get("gia_cli.files")) is not None:
        files.remove_unfinished()
    with suppress(Exception):  # it may be in the midst of a write
        sys.stdout.flush()
    os._exit(error.exit_code)


def _codes(frame: FrameType | None) -> Iterator[CodeType]:
    """Yield what runs in a frame, and in those that called it."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _is_importing(frame: FrameType | None) -> bool:
    return any(code.co_filename.startswith("<frozen importlib") for code in _codes(frame))


def _on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Have raised again, where it can be caught, what was pressed where Python cannot raise it."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        threading.Thread(target=_press_again, daemon=True).start()
    else:
        sys.__unraisablehook__(unraisable)


def _press_again() -> None:
    """Repeat the last signal as soon as the main thread has left `_on_unraisable`."""
    main = threading.main_thread().ident
    assert main is not None
    while _on_unraisable.__code__ in _codes(sys._current_frames().get(main)):
        time.sleep(_SOON)  # what is raised in there is lost, too
    if _stage == "ending":
        enter("work")
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, _last)  # which ends its waiting, too
    else:  # Windows
        signal.raise_signal(_last)


def _say(message: str) -> None:
    with suppress(OSError):
        if _stderr is not None:
            start = _SHOW_CURSOR if os.isatty(_stderr) and _stage == "ending" else ""
            os.write(_stderr, f"{start}error: {message}\n".encode())
