"""Files that gia writes: atomically, so that one under its final name is always a whole one."""

from __future__ import annotations

import errno
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
OutputFormat = Literal["tif", "png", "dng"]

_TEMPORARY_LENGTH = 21  # characters
_TRIES = 100  # to find a temporary name that is free
_unfinished: set[Path] = set()  # temporary files of this process


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success rename it to `path`, else remove it.

    The rename happens only after the bytes are on the disk (fsync), and Ctrl-C counts as failure.

    Raises
    ------
    OutputError
        The folder is missing or write-protected, or the disk is full.
    """
    temporary: Path | None = None
    try:
        temporary, file = _open_beside(path)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}.", hint=_hint(path, error)
        ) from error
    finally:
        if temporary is not None:
            _remove(temporary)  # after the rename there is none
            _unfinished.discard(temporary)


def _open_beside(path: Path) -> tuple[Path, BinaryIO]:
    """Open a new file in the folder of `path`, under a name that fits wherever `path` does."""
    with suppress(FileNotFoundError):
        path.lstat()  # refuses, before the work, a name that is too long
    try:
        return _open_new(path, _TEMPORARY_LENGTH)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    # The system limits the whole path, too: at that limit no name fits that is longer than its own.
    return _open_new(path, len(os.fsencode(path.name)))


def _open_new(path: Path, length: int) -> tuple[Path, BinaryIO]:
    for _ in range(_TRIES):
        temporary = path.with_name(f".{secrets.token_hex(6)}.gia.tmp"[: max(length, 2)])
        with suppress(FileExistsError):
            # open() heeds the user's umask; mkstemp's mode 0600 would stay on the output.
            file = temporary.open("x+b")
            _unfinished.add(temporary)
            return temporary, file
    raise FileExistsError(errno.EEXIST, "There is no temporary name left")


def remove_unfinished() -> None:
    """Remove the temporary files of what is being written; for a process that ends at once."""
    for temporary in tuple(_unfinished):
        _remove(temporary)


def identity(path: Path) -> tuple[int, int] | None:
    """Tell which file a path leads to, however it is spelled; None where there is none.

    Links, hard links and, where the system ignores it, the case of letters make no difference.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def is_taken(path: Path) -> bool:
    """Whether something has this name: also a link that leads nowhere."""
    return os.path.lexists(path)


def ignores_case(folder: Path) -> bool:
    """Whether the case of letters makes no difference to the names in a folder.

    Of one that is yet to be made, the nearest one above answers.
    Asked of what is there: a system may have file systems of both kinds.
    """
    while identity(folder) is None and folder != folder.parent:
        folder = folder.parent
    names: list[Path] = []
    with suppress(OSError), os.scandir(folder) as entries:
        names = [Path(entry.path) for entry in entries]
    for path in (*names, folder.absolute()):
        other = path.with_name(path.name.swapcase()) if path.name else path
        if other.name != path.name and (found := identity(path)) is not None:
            return identity(other) == found
    return False


def walk(top: Path, *, recursive: bool = True) -> Iterator[tuple[Path, list[Path] | OSError]]:
    """Yield each folder below `top`, itself included, with the sorted paths of what it holds.

    A folder that may not be read comes with its error. Links to folders are not followed, and no
    folder is visited twice, so that every walk ends.
    """
    seen = {identity(top)}
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(
                    (folder / entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries
                )
        except OSError as error:
            yield folder, error
            continue
        yield folder, [path for path, _ in found]
        if recursive:
            for path, is_folder in reversed(found):
                if is_folder and (known := identity(path)) not in seen:
                    seen |= {known} - {None}  # what cannot be looked at is named, each time
                    pending.append(path)


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


def _hint(path: Path, error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return "Choose a shorter name."
    with suppress(OSError):  # of a folder inside one that may not be entered nobody can tell
        if not path.parent.is_dir():
            return f"Create the folder {path.parent} first."
    return "Check the free space and the permissions of the folder."
