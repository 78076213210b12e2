"""Decoded data on disk, mapped into memory: training needs no more RAM than it looks at.

One ``.npy`` file for each array, and beside them for each source a ``.json`` that is written last
and says what it was made of: size and time of the source, the recipe, shapes, checksums. So a
build that was cut short continues where it stopped, a source that has changed is decoded again, and
so is an array whose bytes are no longer those that were written.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import DataError, GiaError, OutputError
from gia_cli.files import atomic_file, make_folder
from gia_cli.progress import SILENT, Progress

_MOST_NAMED = 20  # sources in an error message; all are named in notes
# Each map holds a file descriptor, of which a process often has 1024; SID's list has 2026 files.
_MOST_MAPPED = 256


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a source is turned into."""

    arrays: dict[str, NDArray[Any]] = field(repr=False)
    metadata: dict[str, Any]
    """Small things to remember; what JSON can hold."""


Decode = Callable[[Path], Decoded]


class ArrayCache:
    """Arrays and metadata of many sources; open it with `build`.

    It can be sent to worker processes: each maps the files for itself, the system keeps one copy.

    Parameters
    ----------
    folder : Path
    records : dict
        What each source's ``.json`` says, by key.
    """

    def __init__(self, folder: Path, records: dict[str, dict[str, Any]]) -> None:
        self._folder = folder
        self._records = records
        self._mapped: dict[tuple[str, str], NDArray[Any]] = {}

    @classmethod
    def build(
        cls,
        folder: Path,
        sources: dict[str, Path],
        decode: Decode,
        *,
        recipe: str,
        may_move: bool = False,
        progress: Progress = SILENT,
    ) -> ArrayCache:
        """Open the cache of some sources, decoding what is missing, changed or damaged.

        Parameters
        ----------
        folder : Path
            Made if it is not there; may hold other sources' arrays too.
        sources : dict
            Key, which becomes the name of files, to the file to decode.
        decode : function
            Raises `GiaError` for a file that it cannot read; runs in several threads.
        recipe : str
            Names the way of decoding: arrays of another recipe are made again.
        may_move : bool
            Where there is something to decode and the folder cannot be written to (read-only
            containers and drives), decode all into a temporary folder, which goes when the process
            ends, instead of refusing. For folders that nobody has asked for.
        progress : Progress
            Receives a stage "checking" or "decoding" of as many steps as there are sources, and a
            note of the temporary folder.

        Raises
        ------
        DataError
            Sources that are missing or broken: all are named, and all others are decoded first.
        OutputError
            The folder cannot be written.
        """
        if not may_move:
            make_folder(folder, "--cache")
        records: dict[str, dict[str, Any]] = {}
        progress.stage("checking", len(sources))
        for key, path in sources.items():
            record = _whole_record(folder, key, path, recipe)
            if record is not None:
                records[key] = record
            progress.advance()
        missing = {key: path for key, path in sources.items() if key not in records}
        if missing and may_move and not _takes_files(folder):
            folder, missing = _temporary_folder(folder, progress), sources
        if missing:
            records |= _decode_all(folder, missing, decode, recipe, progress)
        return cls(folder, {key: records[key] for key in sources})

    @property
    def keys(self) -> list[str]:
        """Keys of the sources, in the order they were given."""
        return list(self._records)

    def digest(self, keys: Sequence[str] | None = None) -> str:
        """Return a digest of the contents of some sources, by default all, whatever their paths.

        Parameters
        ----------
        keys : sequence of str, optional
        """
        chosen = self.keys if keys is None else keys
        contents = sorted(
            json.dumps([self._records[key]["recipe"], self._records[key]["checksums"]])
            for key in chosen
        )
        return hashlib.blake2s("\n".join(contents).encode(), digest_size=8).hexdigest()

    def metadata(self, key: str) -> dict[str, Any]:
        """Return what `decode` found out about a source; lists where it gave tuples."""
        metadata: dict[str, Any] = self._records[key]["facts"]
        return metadata

    def array(self, key: str, name: str) -> NDArray[Any]:
        """Return an array of a source, mapped from the disk and read-only."""
        mapped = self._mapped.get((key, name))
        if mapped is None:
            if len(self._mapped) >= _MOST_MAPPED:
                self._mapped.pop(next(iter(self._mapped)))
            mapped = np.load(_array_path(self._folder, key, name), mmap_mode="r")
            self._mapped[key, name] = mapped
        return mapped

    def __getstate__(self) -> tuple[Path, dict[str, dict[str, Any]]]:
        """Leave the mapped arrays behind: pickled, they would travel as copies."""
        return self._folder, self._records

    def __setstate__(self, state: tuple[Path, dict[str, dict[str, Any]]]) -> None:
        """Start with nothing mapped."""
        self._folder, self._records = state
        self._mapped = {}


# ---------------------------------------------------------------- what is there


def _array_path(folder: Path, key: str, name: str) -> Path:
    return folder / f"{key}.{name}.npy"


def _record_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _whole_record(folder: Path, key: str, source: Path, recipe: str) -> dict[str, Any] | None:
    """Read a source's record if its arrays are there, of this recipe, and undamaged."""
    try:
        record: dict[str, Any] = json.loads(_record_path(folder, key).read_text("utf-8"))
        if record["recipe"] != recipe or record["source"] != _stamp(source):
            return None
        for name, digest in record["checksums"].items():
            if _checksum(np.load(_array_path(folder, key, name), mmap_mode="r")) != digest:
                return None
        record["facts"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # NumPy: EOF of an empty file
        return None
    return record


def _stamp(source: Path) -> list[int]:
    """Size and time of a source: what changes when someone replaces it."""
    status = source.stat()
    return [status.st_size, status.st_mtime_ns]


def _checksum(array: NDArray[Any]) -> int:
    """CRC-32 of shape, kind and bytes: it must find accidents, not attacks."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, zlib.crc32(head))


# ---------------------------------------------------------------- where to write


def _takes_files(folder: Path) -> bool:
    """Make a folder, and tell whether files can be made in it: permissions do not say so."""
    if not folder.is_absolute():  # "~" of a user without a home
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _temporary_folder(instead_of: Path, progress: Progress) -> Path:
    """Make a folder that is removed when the process ends."""
    try:
        # Windows removes no file that is mapped; what is left there is the system's to clear.
        made = tempfile.TemporaryDirectory(prefix="gia-cache-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            f"Neither {instead_of} nor a temporary folder can be written to: "
            f"{error.strerror or error}.",
            hint="Choose another --cache.",
        ) from error
    atexit.register(made.cleanup)  # which processes of multiprocessing do not call
    progress.note(
        f"{instead_of} cannot be written to: what is decoded lies in {made.name} until the end. "
        "--cache keeps it."
    )
    return Path(made.name)


# ---------------------------------------------------------------- decoding


def _decode_all(
    folder: Path, sources: dict[str, Path], decode: Decode, recipe: str, progress: Progress
) -> dict[str, dict[str, Any]]:
    progress.stage("decoding", len(sources))
    records: dict[str, dict[str, Any]] = {}
    failed: list[GiaError] = []
    for key, result in _in_threads(
        list(sources), lambda key: _decode_one(folder, key, sources[key], decode, recipe)
    ):
        try:
            records[key] = result.result()
        except OutputError:
            raise
        except GiaError as error:
            failed.append(error)
        progress.advance()
    if failed:
        raise unusable(failed, progress)
    return records


def _in_threads(
    keys: Sequence[str], work: Callable[[str], dict[str, Any]]
) -> Iterator[tuple[str, Future[dict[str, Any]]]]:
    """Run in as many threads as there are cores, at most four: each holds a whole photo."""
    count = min(os.cpu_count() or 1, 4)
    with ThreadPoolExecutor(count) as pool:
        running = {}
        for key in keys:
            running[key] = pool.submit(work, key)
            if len(running) > count:
                first = next(iter(running))
                yield first, running.pop(first)
        yield from running.items()


def _decode_one(
    folder: Path, key: str, source: Path, decode: Decode, recipe: str
) -> dict[str, Any]:
    # Before it is read: what replaces it meanwhile must not pass for what was read.
    stamp = None
    with suppress(OSError):  # the decoder has words for a source that is missing
        stamp = _stamp(source)
    decoded = decode(source)
    for name, array in decoded.arrays.items():
        with atomic_file(_array_path(folder, key, name)) as file:
            np.save(file, array, allow_pickle=False)
    record = {
        "recipe": recipe,
        "source": stamp,
        "checksums": {name: _checksum(array) for name, array in decoded.arrays.items()},
        "facts": decoded.metadata,
    }
    text = json.dumps(record)
    with atomic_file(_record_path(folder, key)) as file:
        file.write(text.encode())
    plain: dict[str, Any] = json.loads(text)
    return plain


def unusable(
    failed: Sequence[GiaError], progress: Progress, *, hint: str | None = None
) -> DataError:
    """Make one error of many files': a few are named in its one line, else each by a note.

    Parameters
    ----------
    failed : sequence of GiaError
        At least one.
    progress : Progress
        Receives each of them if they are too many for a line.
    hint : str, optional
        What to do about them.
    """
    if len(failed) > _MOST_NAMED:
        for error in failed:
            progress.note(error.message)
    named = " ".join(error.message for error in failed[:_MOST_NAMED])
    more = f" And {len(failed) - _MOST_NAMED} more, named above." if failed[_MOST_NAMED:] else ""
    files = "1 file" if len(failed) == 1 else f"{len(failed)} files"
    return DataError(f"{files} cannot be used: {named}{more}", hint=hint)
