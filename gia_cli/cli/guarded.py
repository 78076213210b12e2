"""A batch in a process of its own, for where the system limits a process's memory (``ulimit -v``).

When the addresses run out, the libraries that compute end the process as often as they raise an
error: C++ cannot raise everywhere, and OpenMP gives up when it cannot start a thread. So a child
does the work. The photo that it dies of has failed, and another child goes on with the next one.
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
from typing import Any, BinaryIO

from gia_cli.enhance.batch import FileResult, Job
from gia_cli.errors import OutOfMemoryError
from gia_cli.runtime import DeviceKind, address_space_left, is_oom_error, share_arenas

#: Receives a photo's result.
Report = Callable[[FileResult], None]
#: Enhances photos, and reports each.
Work = Callable[[Sequence[Job], Report], object]

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
    left, together = list(jobs), True
    while left:
        # After a death the photo may have been the one before, still being written: alone, it is
        # sure which one it is.
        batch = left if together else left[:1]
        done, has_ended = _in_child(batch, work, on_result)
        left = left[done:]
        if has_ended:
            together = True
        elif len(batch) > 1:
            together = False
        else:
            result = FileResult(left.pop(0).source, "failed", error=_death())
            on_result(result)
            on_death(result)
            together = True


def _death() -> OutOfMemoryError:
    return OutOfMemoryError(
        "The memory that this process may address is too little.",
        hint="Raise the limit (ulimit -v), or choose a smaller network (--weights gia-sony-lite).",
    )


def _in_child(jobs: Sequence[Job], work: Work, on_result: Report) -> tuple[int, bool]:
    """Return how many results came, and whether the child did all it was to do."""
    sys.stdout.flush()
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads. Those here are OpenBLAS's, which expects them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(ours)
        _be_child(jobs, work, theirs)
    os.close(theirs)
    # The terminal sends Ctrl-C to both; the child puts things in order and says so.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = 0
    try:
        with os.fdopen(ours, "rb") as pipe:
            while (message := _received(pipe)) is not None:
                if isinstance(message, FileResult):
                    done += 1
                    on_result(message)
                elif isinstance(message, BaseException):
                    if is_oom_error(message):  # of no photo: of a thread to work in, say
                        return done, False
                    raise message
                else:
                    return done, True
    finally:
        os.waitpid(pid, 0)
        signal.signal(signal.SIGINT, before)
    return done, False


def _received(pipe: BinaryIO) -> Any:
    """Read one message; None when there are no more, not even a whole one."""
    with suppress(EOFError, pickle.UnpicklingError):
        return pickle.load(pipe)
    return None


def _be_child(jobs: Sequence[Job], work: Work, descriptor: int) -> None:
    """Do the work, send what comes of it, and end."""
    try:
        with suppress(OSError, AttributeError):  # not to go on alone
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        share_arenas()
        faulthandler.disable()
        # What C++ says when it gives up is nothing that users can do something with.
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        with os.fdopen(descriptor, "wb") as pipe:
            message: object = "done"
            try:
                work(jobs, lambda result: _send(pipe, result))
            except (Exception, KeyboardInterrupt) as error:
                message = error
            sys.stdout.flush()
            _send(pipe, message)
    finally:
        os._exit(0)


def _send(pipe: BinaryIO, message: object) -> None:
    sys.stdout.flush()
    pipe.write(pickle.dumps(message))
    pipe.flush()
