"""Decoded data on disk, mapped into memory: training needs no more RAM than it looks at.

One ``.npy`` file for each array, and beside them for each source a ``.json`` that is written last
and says what it was made of: size and time of the source (of one in an archive its size and digest,
which a copy of the archive keeps) and of the arrays, the recipe, checksums.
So a build that was cut short continues where it stopped, a source that has changed is decoded
again, and so is an array whose bytes are no longer those that were written. Bytes are read again
only of arrays with another size or time, or where that is asked for: those of SID are 57 GB.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gia_cli.cluster.driver import only_driver_of, run_on_cluster
from gia_cli.cluster.pool import Task
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.errors import DataError, GiaError, OutputError
from gia_cli.files import atomic_file, make_folder, turn
from gia_cli.progress import SILENT, Progress
from gia_cli.text import counted

#: Held in the folder by the process that decodes into it.
LOCK = ".lock"
Check = Literal["files", "contents", "none"]
Result = TypeVar("Result")
_DAMAGED_HINT = (
    "Run the command again: it decodes what has changed. 'gia train --verify' compares all "
    "checksums."
)
_MOST_NAMED = 20  # sources in an error message; all are named in notes
# Each map holds a file descriptor, of which a process often has 1024; SID's list has 2026 files.
_MOST_MAPPED = 256


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a source is turned into."""

    arrays: dict[str, NDArray[Any]] = field(repr=False)
    metadata: dict[str, Any]
    """Small things to remember; what JSON can hold."""


class Digested(Protocol):
    """Something in an archive, whose bytes were read already."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def digest(self) -> str:
        """What they are known by."""


#: What is decoded.
Source = Path | Digested
Origin = TypeVar("Origin", bound=Source)


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
        sources: Mapping[str, Origin],
        decode: Callable[[Origin], Decoded],
        *,
        recipe: str,
        check: Check = "files",
        may_move: bool = False,
        progress: Progress = SILENT,
    ) -> ArrayCache:
        """Open the cache of some sources, decoding what is missing, changed or damaged.

        Parameters
        ----------
        folder : Path
            Made if it is not there; may hold other sources' arrays too.
        sources : mapping
            Key, which becomes the name of files, to the file, or the part of one, to decode.
        decode : function
            Raises `GiaError` for a file that it cannot read; runs in several threads.
        recipe : str
            Names the way of decoding: arrays of another recipe are made again.
        check : "files", "contents" or "none"
            See `Stock.look`.
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
        stock = Stock.look(folder, sources, recipe=recipe, check=check, progress=progress)
        if may_move and stock.missing and not _takes_files(folder):
            stock = Stock(_temporary_folder(folder, progress), sources, recipe, check, {})
        return stock.complete(decode, progress)

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
        """Return an array of a source, mapped from the disk and read-only.

        Raises
        ------
        DataError
            Its file is no longer what it was.
        """
        mapped = self._mapped.get((key, name))
        if mapped is None:
            if len(self._mapped) >= _MOST_MAPPED:
                self._mapped.pop(next(iter(self._mapped)))
            path = _array_path(self._folder, key, name)
            try:
                mapped = np.load(path, mmap_mode="r")
            except (OSError, EOFError, ValueError) as error:
                raise DataError(
                    f"{path} is missing or damaged.",
                    hint=_DAMAGED_HINT,
                ) from error
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


class Stock(Generic[Origin]):
    """What a cache holds of some sources and what is missing; made by `look`.

    Parameters
    ----------
    folder : Path
    sources : mapping
        As for `ArrayCache.build`.
    recipe : str
    check : "files", "contents" or "none"
    records : dict
        What each source's ``.json`` says, of those that are there.
    """

    def __init__(
        self,
        folder: Path,
        sources: Mapping[str, Origin],
        recipe: str,
        check: Check,
        records: dict[str, dict[str, Any]],
    ) -> None:
        self._folder = folder
        self._sources = sources
        self._recipe = recipe
        self._check = check
        self._records = records

    @classmethod
    def look(
        cls,
        folder: Path,
        sources: Mapping[str, Origin],
        *,
        recipe: str,
        check: Check = "files",
        progress: Progress = SILENT,
    ) -> Stock[Origin]:
        """Find out what is there; nothing is decoded, and no folder is made.

        Parameters
        ----------
        folder, sources, recipe
            As for `ArrayCache.build`.
        check : "files", "contents" or "none"
            "files": whether sources and arrays have the size and the time that they had; the bytes
            of arrays that have not are compared by their checksums, and if nothing has changed that
            is remembered. "contents": the bytes of all arrays. "none": only what is recorded, for a
            process that knows that another has just looked.
        progress : Progress
            Receives a stage "checking" of as many steps as there are sources.
        """

        def found(key: str) -> dict[str, Any] | None:
            return _whole_record(folder, key, sources[key], recipe, check)

        records: dict[str, dict[str, Any]] = {}
        progress.stage("checking", len(sources))
        for key, result in _in_threads(list(sources), found):
            record = result.result()
            if record is not None:
                records[key] = record
            progress.advance()
        return cls(folder, sources, recipe, check, records)

    @property
    def missing(self) -> dict[str, Origin]:
        """Sources that are to be decoded, by key."""
        return {key: path for key, path in self._sources.items() if key not in self._records}

    def complete(
        self, decode: Callable[[Origin], Decoded], progress: Progress = SILENT
    ) -> ArrayCache:
        """Decode what is missing, unless another process does so meanwhile; then wait for it.

        Parameters, stages and errors as for `ArrayCache.build`.
        """
        if self.missing:
            make_folder(self._folder, "--cache")
            with _turn(self._folder, progress):
                self._look_again()
                if self.missing:
                    made = _decode_all(self._folder, self.missing, decode, self._recipe, progress)
                    self._records |= made
        return ArrayCache(self._folder, {key: self._records[key] for key in self._sources})

    def _look_again(self) -> None:
        """Find what another process has decoded meanwhile."""
        for key, path in self.missing.items():
            record = _whole_record(self._folder, key, path, self._recipe, self._check)
            if record is not None:
                self._records[key] = record

    def of_share(self, shard: Shard | None) -> Stock[Origin]:
        """Choose what one machine of several decodes; all without a share."""
        sources = {key: self._sources[key] for key in self._sources if not shard or shard.has(key)}
        records = {key: record for key, record in self._records.items() if key in sources}
        return Stock(self._folder, sources, self._recipe, self._check, records)

    def decode(
        self,
        decode: Callable[[Origin], Decoded],
        *,
        shard: Shard | None = None,
        cluster: RayOptions | None = None,
        progress: Progress = SILENT,
    ) -> Decoding:
        """Decode what is missing ahead of those that will open the cache.

        Shares do not wait for each other: no two have a source in common.

        Parameters
        ----------
        decode : function
            As for `ArrayCache.build`.
        shard : Shard, optional
            The share that this stock is, see `of_share`.
        cluster : RayOptions, optional
            Decode on the workers of a Ray cluster.
        progress : Progress
            Receives a stage "decoding", or on a cluster each source as a photo.

        Raises
        ------
        DataError, OutputError
            As `ArrayCache.build` does.
        UsageError
            The share is being decoded.
        ClusterError, Interrupted
            See `run_on_cluster`.
        """
        make_folder(self._folder, "--cache")
        with ExitStack() as held:
            if shard is None:
                held.enter_context(_turn(self._folder, progress))
            else:
                ours = only_driver_of([self._folder], "gia decode", shard, option="--cache")
                held.enter_context(ours)
            self._look_again()
            missing = self.missing
            if cluster is None:
                _decode_all(self._folder, missing, decode, self._recipe, progress)
            elif missing:
                self._decode_on(cluster, decode, progress)
        return Decoding(self._folder, len(missing), len(self._sources) - len(missing))

    def _decode_on(
        self, cluster: RayOptions, decode: Callable[[Origin], Decoded], progress: Progress
    ) -> None:
        results = run_on_cluster(
            _Sources[Origin](),
            list(self.missing.items()),
            partial(_make_work, self._folder, decode, self._recipe),
            cluster,
            folders=[self._folder],
            progress=progress,
        )
        failed = [error for error in results if error is not None]
        if outputs := [error for error in failed if isinstance(error, OutputError)]:
            raise outputs[0]
        if failed:
            raise unusable(failed, progress)


@dataclass(frozen=True, slots=True)
class Decoding:
    """What was decoded ahead."""

    folder: Path
    decoded: int
    there: int
    """Sources that were decoded already, or by another process meanwhile."""


class _Sources(Task[tuple[str, Origin], GiaError | None]):
    """Sources, to those who share them out; the result is why one could not be decoded."""

    noun = "source"

    def name(self, item: tuple[str, Origin]) -> str:
        return item[0]

    def failed(self, item: tuple[str, Origin], error: GiaError) -> GiaError | None:
        return error

    def error(self, result: GiaError | None) -> GiaError | None:
        return result


def _make_work(
    folder: Path, decode: Callable[[Origin], Decoded], recipe: str, memory: int | None
) -> Callable[[Sequence[tuple[str, Origin]], bool], Iterator[GiaError | None]]:
    """Make what a worker does with a chunk; see `cluster.ray_pool.Setup`."""

    def work(items: Sequence[tuple[str, Origin]], is_again: bool) -> Iterator[GiaError | None]:
        for key, source in items:
            try:
                # Of what is given again, a worker that died may have written all.
                if not (is_again and _whole_record(folder, key, source, recipe, "files")):
                    _decode_one(folder, key, source, decode, recipe)
            except GiaError as error:
                yield error
            else:
                yield None

    return work


@contextmanager
def _turn(folder: Path, progress: Progress) -> Iterator[None]:
    """Wait until no other process decodes into a folder.

    Raises
    ------
    OutputError
        It may not be written to.
    """
    try:
        (folder / LOCK).touch()
    except OSError as error:
        raise OutputError(
            f"Cannot write in {folder}: {error.strerror or error}.", hint="Choose another --cache."
        ) from error
    waiting = f"Another process decodes into {folder}; waiting for it."
    with turn(folder / LOCK, lambda: progress.note(waiting)):
        yield


def _array_path(folder: Path, key: str, name: str) -> Path:
    return folder / f"{key}.{name}.npy"


def _record_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _whole_record(
    folder: Path, key: str, source: Source, recipe: str, check: Check
) -> dict[str, Any] | None:
    """Read a source's record if its arrays are there, of this recipe, and undamaged."""
    try:
        record: dict[str, Any] = json.loads(_record_path(folder, key).read_text("utf-8"))
        record["facts"]
        if record["recipe"] != recipe:
            return None
        if check != "none" and not _is_whole(folder, key, record, source, check):
            return None
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # NumPy: EOF of an empty file
        return None
    return record


def _is_whole(folder: Path, key: str, record: dict[str, Any], source: Source, check: Check) -> bool:
    if record["source"] != _stamp(source):
        return False
    paths = {name: _array_path(folder, key, name) for name in record["checksums"]}
    stamps = {name: _stamp(path) for name, path in paths.items()}
    is_known = record.get("files") == stamps
    if is_known and check == "files":
        return True
    for name, digest in record["checksums"].items():
        if _checksum(np.load(paths[name], mmap_mode="r")) != digest:
            return False
    if not is_known:  # copied, or of an older gia
        record["files"] = stamps
        with suppress(OutputError):  # somebody else's folder, perhaps
            _write_record(folder, key, record)
    return True


def _stamp(source: Source) -> list[int | str]:
    """Size and time of a file, or size and digest: what changes when someone replaces it."""
    if not isinstance(source, Path):
        return [source.size, source.digest]
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
    folder: Path,
    sources: Mapping[str, Origin],
    decode: Callable[[Origin], Decoded],
    recipe: str,
    progress: Progress,
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
    keys: Sequence[str], work: Callable[[str], Result]
) -> Iterator[tuple[str, Future[Result]]]:
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
    folder: Path, key: str, source: Origin, decode: Callable[[Origin], Decoded], recipe: str
) -> dict[str, Any]:
    # Before it is read: what replaces it meanwhile must not pass for what was read.
    stamp = None
    with suppress(OSError):  # the decoder has words for a source that is missing
        stamp = _stamp(source)
    decoded = decode(source)
    files = {}
    for name, array in decoded.arrays.items():
        path = _array_path(folder, key, name)
        with atomic_file(path) as file:
            np.save(file, array, allow_pickle=False)
        files[name] = _stamp(path)
    record = {
        "recipe": recipe,
        "source": stamp,
        "checksums": {name: _checksum(array) for name, array in decoded.arrays.items()},
        "files": files,
        "facts": decoded.metadata,
    }
    plain: dict[str, Any] = json.loads(_write_record(folder, key, record))
    return plain


def _write_record(folder: Path, key: str, record: dict[str, Any]) -> str:
    text = json.dumps(record)
    with atomic_file(_record_path(folder, key)) as file:
        file.write(text.encode())
    return text


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
    files = counted(len(failed), "file")
    return DataError(f"{files} cannot be used: {named}{more}", hint=hint)
