"""Files that gia writes: atomically, so that one under its final name is always a whole one."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal

from gia_cli.errors import OutputError, OutputExistsError

#: What to do when an output is already there.
OnExists = Literal["error", "skip", "overwrite"]
#: Formats of pictures.
OutputFormat = Literal["tif", "png", "dng", "jxl", "exr", "jpg"]

_TEMPORARY_LENGTH = 21  # characters
_TRIES = 100  # to find a temporary name that is free
# What is new, virus scanners and indexers open for a moment; Windows does not rename it then.
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
_POLL_S = 0.5  # for another process's turn to end
_LONGEST_ON_WINDOWS = 259  # characters of a whole path, unless its user has allowed more
_unfinished: set[Path] = set()  # temporary files of this process
_mark = ""  # what their names begin with
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.gia\.tmp")


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
        _rename(temporary, path)
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
        if not _is_too_long(path.with_name("x" * _TEMPORARY_LENGTH), error):
            raise
    # The system limits the whole path, too: at that limit no name fits that is longer than its own.
    return _open_new(path, len(os.fsencode(path.name)))


def _open_new(path: Path, length: int) -> tuple[Path, BinaryIO]:
    for _ in range(_TRIES):
        name = f"{_mark}{secrets.token_hex(6)}"[:12]
        temporary = path.with_name(f".{name}.gia.tmp"[: max(length, 2)])
        with suppress(FileExistsError):
            # open() heeds the user's umask; mkstemp's mode 0600 would stay on the output.
            file = temporary.open("x+b")
            _unfinished.add(temporary)
            return temporary, file
    raise FileExistsError(errno.EEXIST, "There is no temporary name left")


def _rename(temporary: Path, path: Path) -> None:
    for pause in _PAUSES_S if sys.platform == "win32" else ():
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if is_folder(path):
                raise
            time.sleep(pause)
    temporary.replace(path)


def _is_too_long(path: Path, error: OSError) -> bool:
    """Whether that is why a path was refused; Windows says that it is not there."""
    if sys.platform == "win32" and error.errno == errno.ENOENT:
        return len(os.path.abspath(path)) > _LONGEST_ON_WINDOWS  # noqa: PTH100, asks no disk
    return error.errno == errno.ENAMETOOLONG


def append_line(path: Path, line: str, *, sync: bool = False) -> None:
    """Write a line behind a file's last one: the whole of it, or nothing.

    Parameters
    ----------
    path : Path
    line : str
        With its end.
    sync : bool
        Return only when it is on the disk (fsync).

    Raises
    ------
    OutputError
        The disk is full, the folder is gone, or it is no file.
    """
    try:
        with path.open("ab", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            data = memoryview(line.encode())
            try:
                while data:
                    data = data[file.write(data) :]
                if sync:
                    os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):
                    file.truncate(length)
                raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}.", hint=_hint(path, error)
        ) from error


@contextmanager
def open_plain(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file to read, and say how many bytes it has.

    Raises
    ------
    OSError
        It cannot be opened, or is a folder, or a pipe or a device, which may have no end.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as file:
        yield file, path.stat().st_size


def read_plain(path: Path) -> bytes:
    """Read a whole file; errors as `open_plain`."""
    with open_plain(path) as (file, _):
        return file.read()


def is_file(path: Path) -> bool:
    """Whether a path leads to a regular file; False also for what no file can be called."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder; False also for what no folder can be called."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def refuse_hopeless_output(path: Path, *, replace: bool, hint: str | None = None) -> None:
    """Refuse, before the work, a name that cannot be written to or must not be replaced.

    Parameters
    ----------
    path : Path
    replace : bool
        Whether a file there may be replaced. Without, a link that leads nowhere is in the way too.
    hint : str, optional
        How it can be replaced.

    Raises
    ------
    OutputExistsError
        Something is there.
    OutputError
        The name is too long, lies below a file or a link to itself, or is a folder's.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}.", hint=_hint(path, error)
        ) from error
    if not replace:
        raise OutputExistsError(f"{path} already exists.", hint=hint)
    if stat.S_ISDIR(mode):
        raise OutputError(f"Cannot write {path}: it is a folder.", hint="Choose another name.")


def remove_unfinished() -> None:
    """Remove the temporary files of what is being written; for a process that ends at once."""
    for temporary in tuple(_unfinished):
        _remove(temporary)


def mark_unfinished(mark: str) -> None:
    """Let the names of this process's temporary files begin with six hexadecimal digits."""
    global _mark
    _mark = mark


def sweep(folder: Path, *, mark: str = "", older_than_s: float = 0.0) -> int:
    """Remove temporary files that processes which were killed have left in a folder.

    Parameters
    ----------
    folder : Path
    mark : str
        Only those of processes with this mark, see `mark_unfinished`.
    older_than_s : float
        Only those that have not been written to for so many seconds.

    Returns
    -------
    int
        How many were removed.
    """
    removed = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name) or not entry.name.startswith(f".{mark}"):
                continue
            with suppress(OSError):  # another one sweeps too
                if time.time() - entry.stat().st_mtime >= older_than_s:
                    Path(entry.path).unlink()
                    removed += 1
    return removed


def identity(path: Path) -> tuple[int, int | str] | None:
    """Tell which file a path leads to, however it is spelled; None where there is none.

    Links, hard links and, where the system ignores it, the case of letters make no difference. Some
    network drives number no files; hard links count as other files there.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino or os.path.normcase(os.path.realpath(path))


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


@contextmanager
def turn(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a file as `lock` does, and wait until no other process holds it.

    Parameters
    ----------
    path : Path
    on_wait : function
        Called once, if another one does.
    """
    is_told = False
    while True:
        with lock(path) as is_ours:
            if is_ours:
                yield
                return
        if not is_told:
            on_wait()
            is_told = True
        time.sleep(_POLL_S)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _hint(path: Path, error: OSError) -> str:
    if _is_too_long(path, error):
        return "Choose a shorter name."
    if identity(path.parent) is None and error.errno == errno.ENOENT:
        return f"Create the folder {path.parent} first."
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "Choose another folder."
    if sys.platform == "win32" and isinstance(error, PermissionError):
        return "Close what has the file open, or check the permissions of the folder."
    return "Check the free space and the permissions of the folder."
