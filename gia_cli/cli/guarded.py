"""Work in a process of its own, for where the system limits a process's memory (``ulimit -v``).

When the addresses run out, the libraries that compute end the process as often as they raise an
error: C++ cannot raise everywhere, and OpenMP gives up when it cannot start a thread. So a child
does the work. The photo of a batch that it dies of has failed, and another child goes on with the
next one; a command that is one piece of work fails as a whole.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec

from gia_cli import interrupts
from gia_cli.errors import OutOfMemoryError
from gia_cli.runtime import (
    DeviceKind,
    address_space_left,
    is_oom_error,
    resolve,
    share_arenas,
    split_device,
)

if TYPE_CHECKING:
    from gia_cli.enhance.batch import FileResult, Job

Options = ParamSpec("Options")
#: Receives a photo's result.
Report = Callable[["FileResult"], None]
#: Enhances photos, and reports each.
Work = Callable[[Sequence["Job"], Report], object]

_SET_PARENT_DEATH_SIGNAL = 1  # linux/prctl.h


def is_needed(devices: Collection[DeviceKind]) -> bool:
    """Tell whether this process's addresses are limited, and a child can do the work.

    CUDA allows none: it was asked for its cards in this process, and works in no fork of it then.

    Parameters
    ----------
    devices : collection of DeviceKind
        Where the work is done.
    """
    can_fork = sys.platform == "linux" and "cuda" not in devices
    return can_fork and address_space_left() is not None


def whole(command: Callable[Options, None]) -> Callable[Options, None]:
    """Let a command with an option ``device`` run in a child where that is needed.

    There it raises what the command raises, and `OutOfMemoryError` if the child dies.
    """

    @wraps(command)
    def run(*args: Options.args, **options: Options.kwargs) -> None:
        if address_space_left() is not None and is_needed([_kind(str(options["device"]))]):
            run_whole(partial(command, *args, **options))
        else:
            command(*args, **options)

    return run


def _kind(device: str) -> DeviceKind:
    """Say whether it is CUDA, of which alone `is_needed` wants to know."""
    is_torchs = split_device(device)[0] in ("auto", "cuda")
    return resolve(device).device if is_torchs else "cpu"


def run_whole(work: Callable[[], object]) -> None:
    """Do work that is of one piece in a child.

    Raises
    ------
    OutOfMemoryError
        The child has died. And whatever else `work` raises.
    """
    if not _in_child(lambda _: work(), lambda _: None):
        raise _death("Raise the limit (ulimit -v).")


def run_guarded(jobs: Sequence[Job], work: Work, on_result: Report, on_death: Report) -> None:
    """Do the work in a child, and in another one for what a child that dies leaves undone.

    Parameters
    ----------
    jobs : sequence of Job
    work : function
        Called in the children, with jobs and with what to report each result to.
    on_result : function
        Receives each result, here.
    on_death : function
        Receives, after `on_result`, the result of a photo that a child has died of.

    Raises
    ------
    Interrupted
        And whatever else `work` raises.
    """
    from gia_cli.enhance.batch import FileResult

    left, together = list(jobs), True
    while left:
        # After a death the photo may have been the one before, still being written: alone, it is
        # sure which one it is.
        batch = left if together else left[:1]
        done, has_ended = _attempt(batch, work, on_result)
        left = [job for job in left if job.source not in done]
        is_blamed = not has_ended and len(batch) == 1 and batch[0].source not in done
        if is_blamed:
            error = _death(
                "Raise the limit (ulimit -v), or choose a smaller network (--weights "
                "gia-sony-lite)."
            )
            result = FileResult(left.pop(0).source, "failed", error=error)
            on_result(result)
            on_death(result)
        together = has_ended or len(batch) == 1


def _attempt(batch: Sequence[Job], work: Work, on_result: Report) -> tuple[set[Path], bool]:
    """Return of which photos results came, in whatever order, and whether all was done."""
    done: set[Path] = set()

    def receive(result: FileResult) -> None:
        done.add(result.source)
        on_result(result)

    return done, _in_child(lambda report: work(batch, report), receive)


def _death(hint: str) -> OutOfMemoryError:
    return OutOfMemoryError("The memory that this process may address is too little.", hint=hint)


def _in_child(
    work: Callable[[Callable[[Any], None]], object], on_message: Callable[[Any], None]
) -> bool:
    """Do work that sends messages in a child; returns whether it did all it was to do."""
    sys.stdout.flush()
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads. Those here are OpenBLAS's, which expects them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(ours)
        _be_child(work, theirs)
    os.close(theirs)
    # The terminal sends Ctrl-C to both; the child puts things in order and says so.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with os.fdopen(ours, "rb") as pipe:
            try:
                return _heard(pipe, on_message)
            except KeyboardInterrupt:
                with suppress(ProcessLookupError):  # SIGTERM may have come to this process alone
                    os.kill(pid, signal.SIGTERM)
                _heard(pipe, on_message)  # raises what it says of its end, such as how to resume
                raise
    finally:
        os.waitpid(pid, 0)
        signal.signal(signal.SIGINT, before)


def _heard(pipe: BinaryIO, on_message: Callable[[Any], None]) -> bool:
    """Take a child's messages until it ends; returns whether it did all it was to do."""
    while (message := _received(pipe)) is not None:
        kind, content = message
        if kind == "message":
            on_message(content)
        elif kind == "end":
            return True
        elif is_oom_error(content):  # of no photo: of a thread to work in, say
            return False
        else:
            raise content
    return False


def _received(pipe: BinaryIO) -> Any:
    """Read one message; None when there are no more, not even a whole one."""
    with suppress(EOFError, pickle.UnpicklingError):
        return pickle.load(pipe)
    return None


def _be_child(work: Callable[[Callable[[Any], None]], object], descriptor: int) -> None:
    """Do the work, send what comes of it, and end."""
    try:
        with suppress(OSError, AttributeError):  # not to go on alone
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        interrupts.take_over_fork()
        share_arenas()
        faulthandler.disable()
        # What C++ says when it gives up is nothing that users can do something with.
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        with os.fdopen(descriptor, "wb") as pipe:
            message: tuple[str, object] = "end", None
            try:
                work(lambda content: _send(pipe, ("message", content)))
            except (Exception, KeyboardInterrupt) as error:
                message = "error", error
            _send(pipe, message)
    finally:
        os._exit(0)


def _send(pipe: BinaryIO, message: tuple[str, object]) -> None:
    sys.stdout.flush()
    pipe.write(pickle.dumps(message))
    pipe.flush()
