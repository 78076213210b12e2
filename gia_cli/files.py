"""Files that gia writes: atomically, so that one under its final name is always a whole one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from gia_cli.errors import OutputError

#: What to do when an output is already there.
OnExists = Literal["error", "skip", "overwrite"]
#: Formats of pictures.
OutputFormat = Literal["tif", "png"]


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success rename it to `path`, else remove it.

    The rename happens only after the bytes are on the disk (fsync), and Ctrl-C counts as failure.

    Raises
    ------
    OutputError
        The folder is missing or write-protected, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        # open() respects the user's umask; mkstemp's mode 0600 would stay on the output.
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}.", hint=_hint(path)
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def make_folder(folder: Path, option: str) -> None:
    """Make a folder and those above it, if they are not there.

    Parameters
    ----------
    folder : Path
    option : str
        What chooses another one, for the hint.

    Raises
    ------
    OutputError
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot make the folder {folder}: {error.strerror or error}.",
            hint=f"Choose another {option}.",
        ) from error


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold a file that says that something is going on; yields whether no other process held it.

    The system releases it when the process ends, however it ends, even if processes that it forked
    continue. Where files cannot be locked, as on some network drives, every process gets it.
    """
    from filelock import FileLock, Timeout

    path.touch()  # a folder that may not be written to is no matter of locks
    # Its way out where there are no locks, a file that counts by being there, would outlive a kill.
    holder = FileLock(path, timeout=0, fallback_to_soft=False)
    is_ours = True
    try:
        holder.acquire()
    except Timeout:
        is_ours = False
    except (OSError, NotImplementedError):
        pass
    try:
        yield is_ours
    finally:
        holder.release()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _hint(path: Path) -> str:
    with suppress(OSError):  # a folder inside one that may not be entered cannot be checked
        if not path.parent.is_dir():
            return f"Create the folder {path.parent} first."
    return "Check the free space and the permissions of the folder."
