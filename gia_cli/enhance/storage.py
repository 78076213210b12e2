"""Photos and pictures in object stores: ``s3://bucket/folder`` wherever a batch takes a path.

A batch names them by paths like all others; `Path` writes ``s3:/bucket/folder``. What opens files
gets real ones: a photo is fetched into a folder of its own, with its sidecars, when its turn comes,
and a picture is written there and then put into the store, which has the whole of it or nothing.
Plain paths pass through everything here unchanged.

fsspec reaches the stores: S3 with the extra ``s3``, others with its package for them.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from gia_cli.errors import (
    FileMissingError,
    GiaError,
    OutputError,
    OutputExistsError,
    StorageError,
    UnreadableFileError,
    UsageError,
)
from gia_cli.files import identity, is_taken, refuse_hopeless_output

# At least two letters: with one it is a drive of Windows.
_URL = re.compile(r"(?!(?:file|local):)([a-z][a-z0-9+.-]+):/+(.+)", re.IGNORECASE | re.DOTALL)
_PREFIX = "gia-photo-"
_STALE_S = 86_400.0
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}

_fetched: dict[Path, tempfile.TemporaryDirectory[str]] = {}  # photos that are here now
_guard = Lock()
# Names in folders of stores, while `listed`.
_listed: ContextVar[dict[Path, frozenset[str]]] = ContextVar("_listed", default={})  # noqa: B039


def is_url(path: Path) -> bool:
    """Whether a path is an object's or a folder's in a store.

    Examples
    --------
    >>> is_url(Path("s3://bucket/night.ARW")), is_url(Path("photos/night.ARW"))
    (True, False)
    """
    return _URL.fullmatch(path.as_posix()) is not None


def shown(path: Path) -> str:
    """Write a path as its user does.

    Examples
    --------
    >>> shown(Path("s3://bucket/night.ARW"))
    's3://bucket/night.ARW'
    """
    match = _URL.fullmatch(path.as_posix())
    return str(path) if match is None else f"{match[1]}://{match[2]}"


# ---------------------------------------------------------------- looking


def find(path: Path, *, recursive: bool) -> list[tuple[Path, Path]]:
    """List what a URL stands for, each with the folder that it was found under.

    Parameters
    ----------
    path : Path
        A URL of an object, a folder or a pattern. What is not there stands for itself.
    recursive : bool
        Whether folders in the folder are looked into.

    Raises
    ------
    StorageError
        There is no such bucket, or no way to it.
    UsageError
        Nothing matches a pattern.
    """
    with _storage_errors(path):
        store, name = _store(path)
        if glob.has_magic(name) and not store.exists(name):
            found = [_path(path, each) for each in sorted(store.glob(name))]
            if not found:
                raise UsageError(f"Nothing matches {shown(path)}.", hint="Check the pattern.")
            return [(each, each.parent) for each in found]
        below = store.find(name, maxdepth=None if recursive else 1)
        if below and [_key(each) for each in below] != [_key(name)]:
            return [(_path(path, each), path) for each in sorted(below)]
        if not below and not path.suffix:
            store.ls(name)  # a bucket or folder that is not there says so
        return [(path, path.parent)] if below or path.suffix else []


@contextmanager
def listed(paths: Iterable[Path]) -> Iterator[None]:
    """Let `exists` answer, until the block ends, by what is there now: stores list whole folders.

    Parameters
    ----------
    paths : iterable of Path
        What will be asked for; only folders of which several are URLs are listed.

    Raises
    ------
    StorageError
    """
    counts = Counter(path.parent for path in paths if is_url(path))
    found: dict[Path, frozenset[str]] = {}
    for folder in (folder for folder, count in counts.items() if count > 1):
        with _storage_errors(folder):
            store, name = _store(folder)
            with suppress(FileNotFoundError):  # stores have no empty folders
                found[folder] = frozenset(map(_last, store.ls(name, detail=False)))
        found.setdefault(folder, frozenset())
    token = _listed.set(found)
    try:
        yield
    finally:
        _listed.reset(token)


def _last(name: object) -> str:
    return _key(str(name)).rsplit("/", 1)[-1]


def exists(path: Path) -> bool:
    """Whether something has this name; for a URL the store is asked each time, except in `listed`.

    Raises
    ------
    StorageError
    """
    if not is_url(path):
        return is_taken(path)
    if (names := _listed.get().get(path.parent)) is not None:
        return path.name in names
    with _storage_errors(path):
        store, name = _store(path)
        return bool(store.exists(name))


def identity_of(path: Path) -> object:
    """Tell which file a path leads to, as `files.identity` does; None where there is none."""
    return shown(path) if is_url(path) else identity(path)


def refuse_taken_output(path: Path, *, replace: bool) -> None:
    """Refuse, before the work, what cannot be written to or must not be replaced.

    Raises
    ------
    OutputError, OutputExistsError, StorageError
        See `files.refuse_hopeless_output`.
    """
    if not is_url(path):
        refuse_hopeless_output(path, replace=replace)
    elif not replace and exists(path):
        raise OutputExistsError(f"{shown(path)} already exists.")


# ---------------------------------------------------------------- reading


def fetch(photo: Path) -> Path:
    """Return a real file of a photo: itself, or what is fetched with its sidecars until `release`.

    Raises
    ------
    FileMissingError, UnreadableFileError, StorageError, OutputError
        The last one: the disk here is full.
    """
    if not is_url(photo):
        return photo
    with _guard:
        folder = _fetched.get(photo)
    if folder is None:
        _sweep()
        folder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
        try:
            with _storage_errors(photo, reading=True):
                store, name = _store(photo)
                store.get_file(name, str(Path(folder.name, photo.name)))
                for sidecar in _sidecars(photo):
                    store.get_file(_store(sidecar)[1], str(Path(folder.name, sidecar.name)))
        except BaseException:
            folder.cleanup()
            raise
        with _guard:
            _fetched[photo] = folder
    return Path(folder.name, photo.name)


@cache
def _sweep() -> None:
    """Remove, once, what processes that were killed have left here a day ago."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's
            if time.time() - folder.stat().st_mtime > _STALE_S:
                shutil.rmtree(folder)


def release(photo: Path) -> None:
    """Remove what was fetched of a photo."""
    with _guard:
        folder = _fetched.pop(photo, None)
    if folder is not None:
        folder.cleanup()


def in_words_of(photo: Path, text: str) -> str:
    """Name a photo and its sidecars as their user does, and not the files that were fetched."""
    with _guard:
        folder = _fetched.get(photo)
    if folder is None:
        return text
    return text.replace(f"{folder.name}{os.sep}", f"{shown(photo.parent)}/")


def error_in_words_of(photo: Path, error: GiaError) -> GiaError:
    """Let an error's text be in the user's words, likewise."""
    error.message = in_words_of(photo, error.message)
    error.hint = in_words_of(photo, error.hint)
    error.args = (error.message,)
    return error


def _sidecars(photo: Path) -> list[Path]:
    names = {f"{photo.name}.xmp".lower(), f"{photo.stem}.xmp".lower()}
    return [photo.with_name(name) for name in _names_in(photo.parent) if name.lower() in names]


@cache
def _names_in(folder: Path) -> tuple[str, ...]:
    """List the XMP files of a folder, once: asking for each photo would take longer than it."""
    store, name = _store(folder)
    names = map(_last, store.ls(name, detail=False))
    return tuple(each for each in names if each.lower().endswith(".xmp"))


# ---------------------------------------------------------------- writing


@contextmanager
def written(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yield the file to write: the path itself, or one that is put into the store afterwards.

    Parameters
    ----------
    path : Path
    replace : bool
        Whether an object of that name may be replaced. Without, the store itself refuses, so that
        of two that write one object one fails.

    Raises
    ------
    OutputError, OutputExistsError, StorageError
    """
    if not is_url(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        local = Path(folder, path.name)
        try:
            yield local
        except GiaError as error:
            error.message = error.message.replace(str(local), shown(path))
            error.args = (error.message,)
            raise
        with _storage_errors(path):
            store, name = _store(path)
            store.put_file(str(local), name, mode="overwrite" if replace else "create")


# ---------------------------------------------------------------- stores


def _store(path: Path) -> tuple[Any, str]:
    """Return a URL's store, and the name that it knows the object by."""
    match = _URL.fullmatch(path.as_posix())
    assert match is not None  # a URL
    return _open(match[1].lower(), os.getpid()), match[2]  # a store is no use to a fork


@cache
def _open(protocol: str, process: int) -> Any:
    hint = "pip install 'gia-cli[s3]'"
    try:
        import fsspec
    except ImportError:
        raise UsageError(
            f"{protocol}:// needs fsspec, which is not installed.", hint=hint
        ) from None
    try:
        # What is there is asked for anew: others write into the same folder.
        return fsspec.filesystem(protocol, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        hint = hint if protocol == "s3" else "See fsspec's list of stores."
        raise UsageError(f"{protocol}:// cannot be used: {error}.", hint=hint) from error


def _path(like: Path, name: str) -> Path:
    match = _URL.fullmatch(like.as_posix())
    assert match is not None  # a URL
    return Path(f"{match[1]}:/{_key(name)}")


def _key(name: str) -> str:
    return name.strip("/")


@contextmanager
def _storage_errors(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Say in a line what stores say in classes of their own."""
    try:
        yield
    except GiaError:
        raise
    except FileExistsError as error:
        raise OutputExistsError(f"{shown(path)} already exists.") from error
    except Exception as error:
        text = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
        is_here = isinstance(error, OSError) and error.errno in _FULL
        if is_here:
            raise OutputError(
                f"{shown(path)} does not fit into the folder for temporary files: {text}.",
                hint="Free some space there, or name another one with TMPDIR.",
            ) from error
        if reading and isinstance(error, FileNotFoundError) and "specified bucket" not in text:
            raise FileMissingError(f"{shown(path)}: there is no such object.") from error
        if reading and isinstance(error, PermissionError):
            raise UnreadableFileError(f"{shown(path)} cannot be read: {text}.") from error
        raise StorageError(f"{shown(path)} cannot be used: {text}.") from error
