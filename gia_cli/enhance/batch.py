"""Many files: which to read, what to write, and one result for each, whatever happens.

While the network works on a photo, the next one is read and packed, and the picture of the last one
is developed and written; one of each, so that memory stays bounded. A file that fails is reported
and never stops the rest.
"""

from __future__ import annotations

import glob
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from gia_cli.enhance.enhancer import Computed, Enhanced, Enhancer, Prepared
from gia_cli.enhance.exposure import ExposureRequest, RatioChoice
from gia_cli.errors import (
    GiaError,
    Interrupted,
    OutOfMemoryError,
    OutputError,
    OutputExistsError,
    UnreadableFileError,
    UsageError,
)
from gia_cli.files import OnExists, OutputFormat, make_folder
from gia_cli.imaging.writer import output_format
from gia_cli.progress import Progress
from gia_cli.raw.reader import RAW_SUFFIXES

Status = Literal["written", "skipped", "failed"]
Files = Sequence[tuple["Product", Path]]  # to make of one picture

_NAME_SUFFIX = "_gia"


@dataclass(frozen=True, slots=True)
class Product:
    """A kind of file to make of every picture."""

    name: Callable[[Path], Path]
    """From the picture's own path to this file's."""
    write: Callable[[Enhanced, Path], None]
    """Called in the writing thread."""


PICTURE = Product(name=lambda target: target, write=Enhanced.save)


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What to make of the inputs and where to put it."""

    request: ExposureRequest = field(default_factory=ExposureRequest)
    output: Path | None = None
    """The output's name; for one photo only."""
    out_dir: Path | None = None
    """Folder for the outputs; by default beside each photo."""
    format: OutputFormat | None = None
    """By default the ending of `output`, else TIFF."""
    on_exists: OnExists = "error"
    recursive: bool = False
    products: tuple[Product, ...] = (PICTURE,)


@dataclass(frozen=True, slots=True)
class Job:
    """One photo and the pictures to make of it, one for each bracket."""

    source: Path
    targets: tuple[Path, ...]


@dataclass(slots=True)
class FileResult:
    """What became of one photo."""

    source: Path
    status: Status = "written"
    outputs: list[Path] = field(default_factory=list)
    choices: list[RatioChoice] = field(default_factory=list)
    weights: str | None = None
    white_balance: str | None = None
    """In words, such as "3200 K, tint +5"."""
    seconds: float = 0.0
    """From the photo's turn at the network until its last file is written."""
    stages: dict[str, float] = field(default_factory=dict)
    """Wall-clock time of each stage in seconds, over all its pictures; other photos' overlap."""
    error: GiaError | None = None


# ---------------------------------------------------------------- planning


def plan_jobs(inputs: Sequence[Path], options: BatchOptions) -> list[Job]:
    """Find the photos and name the outputs.

    Parameters
    ----------
    inputs : paths
        Files, folders and patterns (a shell that does not expand ``*.ARW`` leaves that to us). A
        file that does not exist becomes a job that fails, like any other file that cannot be read.
    options : BatchOptions

    Raises
    ------
    UsageError
        A folder without RAW files, contradicting options, or one output name for several photos.
    OutputError
        The output folder cannot be made.
    """
    found = _find_sources(inputs, options.recursive)
    sources = list({source: (source, root) for source, root in found}.values())
    suffix = _suffix(options)
    if options.output is not None:
        if len(sources) != 1:
            raise UsageError(
                f"-o names one output, but there are {len(sources)} photos.", hint="Use --out-dir."
            )
        return [Job(sources[0][0], _bracketed(options.output, options.request))]
    targets = _unique_targets(sources, options.out_dir, suffix)
    return [
        Job(source, _bracketed(target, options.request))
        for (source, _), target in zip(sources, targets, strict=True)
    ]


def _suffix(options: BatchOptions) -> str:
    if options.output is None:
        return f".{options.format or 'tif'}"
    if options.out_dir is not None:
        raise UsageError("Give -o or --out-dir, not both.")
    if _is(Path.is_dir, options.output):
        raise UsageError(f"-o {options.output} is a folder.", hint="Use --out-dir for folders.")
    if options.format not in (None, output_format(options.output)):
        raise UsageError(f"-o {options.output} is not a {options.format} file.")
    return options.output.suffix


def _find_sources(inputs: Sequence[Path], recursive: bool) -> Iterator[tuple[Path, Path]]:
    """Yield each photo with the folder it was found under (its own, if it was named)."""
    for path in inputs:
        if _is(Path.is_dir, path):
            yield from ((photo, path) for photo in _photos_in(path, recursive))
        elif glob.has_magic(str(path)) and not _is(Path.exists, path):
            # Path.glob takes no absolute patterns.
            found = glob.glob(str(path), recursive=True)  # noqa: PTH207
            if not found:
                raise UsageError(f"Nothing matches {path}.", hint="Check the pattern.")
            yield from _find_sources(sorted(Path(match) for match in found), recursive)
        else:
            yield path, path.parent


def _is(question: Callable[[Path], bool], path: Path) -> bool:
    """Ask about a path; a name that the system refuses is nothing, and fails as a photo later."""
    try:
        return question(path)
    except OSError:
        return False


def _photos_in(folder: Path, recursive: bool) -> list[Path]:
    try:
        found = sorted(folder.rglob("*") if recursive else folder.iterdir())
    except OSError as error:
        raise UnreadableFileError(
            f"The folder {folder} cannot be read: {error.strerror or error}."
        ) from error
    # Hidden files are the droppings of macOS ("._DSC0001.ARW") and of interrupted writes.
    photos = [
        path
        for path in found
        if path.suffix.lower() in RAW_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not photos:
        hint = "" if recursive else "--recursive looks into its subfolders too."
        raise UsageError(f"The folder {folder} holds no RAW photos.", hint=hint)
    return photos


def _unique_targets(
    sources: Sequence[tuple[Path, Path]], out_dir: Path | None, suffix: str
) -> list[Path]:
    """Name the outputs; DSC1.ARW and DSC1.RAF must not overwrite each other's."""

    def target(source: Path, root: Path, stem: str) -> Path:
        folder = source.parent
        if out_dir is not None:  # keep the subfolders below the folder that was given
            folder = out_dir / source.parent.relative_to(root)
        return folder / f"{stem}{_NAME_SUFFIX}{suffix}"

    plain = [target(source, root, source.stem) for source, root in sources]
    uses = Counter(plain)
    named = [
        path
        if uses[path] == 1
        else target(source, root, f"{source.stem}_{source.suffix.lstrip('.').lower()}")
        for path, (source, root) in zip(plain, sources, strict=True)
    ]
    for path, count in Counter(named).items():
        if count > 1:
            users = zip(sources, named, strict=True)
            clash = [str(source) for (source, _), mine in users if mine == path]
            raise UsageError(
                f"{count} photos would be written to {path}: {', '.join(clash)}.",
                hint="Use several runs, or --recursive on the folder above to keep subfolders.",
            )
    return named


def _bracketed(target: Path, request: ExposureRequest) -> tuple[Path, ...]:
    if not request.brackets:
        return (target,)
    return tuple(target.with_stem(f"{target.stem}_x{ratio:g}") for ratio in request.brackets)


# ---------------------------------------------------------------- running


def run_jobs(
    jobs: Sequence[Job],
    enhancer: Enhancer,
    options: BatchOptions,
    *,
    progress: Progress,
    on_result: Callable[[FileResult], None] = lambda result: None,
) -> list[FileResult]:
    """Enhance every photo.

    Parameters
    ----------
    jobs : sequence of Job
    enhancer : Enhancer
    options : BatchOptions
    progress : Progress
    on_result : function
        Receives each result, in the order of the jobs, as soon as its last file is written; called
        in the writing thread.

    Returns
    -------
    list of FileResult
        In the order of the jobs; failures among them.

    Raises
    ------
    Interrupted
        Ctrl-C: the picture being written is finished, the rest is not begun.
    """
    results: list[FileResult] = []

    def finish(result: FileResult, started: float) -> None:
        result.seconds = time.perf_counter() - started
        results.append(result)
        on_result(result)

    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        written: Future[None] = Future()
        written.set_result(None)  # nothing to wait for yet
        told: list[Future[None]] = []
        try:
            ahead = _ReadAhead(jobs, enhancer, options, progress, reader)
            for number, job in enumerate(jobs, start=1):
                progress.photo(job.source.name, number, len(jobs))
                photo = ahead.take()
                result, started = FileResult(job.source), time.perf_counter()
                for prepared, files in _pictures(photo, job, result):
                    computed = _compute(enhancer, prepared, ahead, written, progress, result)
                    del prepared
                    if computed is None:
                        break  # the photo's other brackets would fare no better
                    written.result()  # one picture is behind the network, never two
                    developed = writer.submit(computed.develop)
                    written = writer.submit(_write, developed, files, result)
                    del computed, developed  # the writer's, and gone when it is done
                del photo
                # Behind the photo's own files in the writer's queue.
                written = writer.submit(finish, result, started)
                told.append(written)
                while told[0].done() and len(told) > 1:
                    told.pop(0).result()  # whatever a listener raises ends the batch
            progress.stage("writing", 1)
            for future in told:
                future.result()
        except KeyboardInterrupt:
            reader.shutdown(cancel_futures=True)
            writer.shutdown()
            done = len(results)
            raise Interrupted(f"Interrupted after {done} of {len(jobs)} photos.") from None
    return results


Photo = Future[Iterator[tuple[Prepared, Files]] | None]


class _ReadAhead:
    """Reads the photos in a thread, one ahead of the one that is worked on."""

    def __init__(
        self,
        jobs: Sequence[Job],
        enhancer: Enhancer,
        options: BatchOptions,
        progress: Progress,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._jobs = iter(jobs)
        self._context = enhancer, options, progress
        self._thread = thread
        self._job: Job | None = None
        self._photo: Photo | None = None
        self._begin()

    def _begin(self) -> None:
        self._job = next(self._jobs, None)
        self._photo = None if self._job is None else self._submit(self._job)

    def _submit(self, job: Job) -> Photo:
        return self._thread.submit(_read, job, *self._context)

    def take(self) -> Photo:
        """Wait for the next photo, and begin to read the one after it."""
        assert self._job is not None  # nobody takes more than there are
        photo = self._photo or self._submit(self._job)
        wait([photo])
        self._begin()
        return photo

    @property
    def is_reading(self) -> bool:
        """Whether memory is being taken."""
        return self._photo is not None and not self._photo.done()

    def drop(self) -> None:
        """Give the next photo's memory back; it is read anew when it is taken."""
        if self._photo is not None:
            wait([self._photo])
        self._photo = None


def _read(
    job: Job, enhancer: Enhancer, options: BatchOptions, progress: Progress
) -> Iterator[tuple[Prepared, Files]] | None:
    """Read a photo and pack its first picture; None when it is to be skipped."""
    _prepare_folder(job.targets[0].parent, options)
    request, plans = _missing(job, options)
    if not plans:
        return None
    files = [product.name(target) for target in job.targets for product in options.products]
    existing = [path for path in files if path.exists()]
    if existing and options.on_exists == "error":
        raise OutputExistsError(f"{existing[0]} already exists.")
    pictures = zip(enhancer.prepare(job.source, request, progress=progress), plans, strict=True)
    return chain([next(pictures)], pictures)


def _pictures(photo: Photo, job: Job, result: FileResult) -> Iterator[tuple[Prepared, Files]]:
    """Yield the pictures to make of a photo; none after a failure, or if it is to be skipped."""
    with _failures_into(result):
        pictures = photo.result()
        if pictures is None:
            result.status, result.outputs = "skipped", list(job.targets)
        else:
            yield from pictures


def _compute(
    enhancer: Enhancer,
    prepared: Prepared,
    ahead: _ReadAhead,
    written: Future[None],
    progress: Progress,
    result: FileResult,
) -> Computed | None:
    """Run the network beside the reading and the writing, or alone where memory demands it."""
    reserved = prepared.reading_bytes if ahead.is_reading else 0
    reserved += 0 if written.done() else prepared.developing_bytes
    computed = None
    with _failures_into(result):
        try:
            computed = enhancer.compute(prepared, progress=progress, reserved=reserved)
        except OutOfMemoryError as error:
            _let_go(error)
        if computed is None:
            ahead.drop()
            wait([written])
            computed = enhancer.compute(prepared, progress=progress)
        result.choices.append(computed.choice)
        result.weights = computed.weights.name
        result.white_balance = computed.white_balance
    return computed


def _missing(job: Job, options: BatchOptions) -> tuple[ExposureRequest, list[Files]]:
    """Narrow the request to the brackets that are to be made, and list the files of each."""
    plans = [_to_write(target, options) for target in job.targets]
    request = options.request
    if request.brackets:
        wanted = zip(request.brackets, plans, strict=True)
        request = replace(request, brackets=tuple(ratio for ratio, files in wanted if files))
    return request, [files for files in plans if files]


def _to_write(target: Path, options: BatchOptions) -> Files:
    """List the files to make of one picture: all, or what is missing if others are skipped."""
    files = [(product, product.name(target)) for product in options.products]
    return [
        (product, path)
        for product, path in files
        if options.on_exists != "skip" or not path.exists()
    ]


def _write(developed: Future[Enhanced], files: Files, result: FileResult) -> None:
    """Write what is made of one picture; in the writing thread."""
    with _failures_into(result):
        picture, start = developed.result(), time.perf_counter()
        for product, path in files:
            product.write(picture, path)
            result.outputs.append(path)
        for stage, seconds in (*picture.seconds.items(), ("write", time.perf_counter() - start)):
            result.stages[stage] = result.stages.get(stage, 0.0) + seconds


@contextmanager
def _failures_into(result: FileResult) -> Iterator[None]:
    """Record what goes wrong with one photo: it must not cost the rest of the folder."""
    try:
        yield
    except Exception as error:
        _let_go(error)  # of the photo: results are kept
        result.status, result.error = "failed", _expected(result.source, error)


def _let_go(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of what led to it: their frames hold every local."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _expected(source: Path, error: Exception) -> GiaError:
    """Return what users may see; anything but our own errors is a bug, or a very strange file."""
    if isinstance(error, GiaError):
        return error
    wrapped = GiaError(
        f"{source}: {type(error).__name__}: {error}.",
        hint="This is a bug in gia: please report it with the output of 'gia --version -v'.",
    )
    wrapped.__cause__ = error
    return wrapped


def _prepare_folder(folder: Path, options: BatchOptions) -> None:
    """Make the folder that --out-dir asked for, and refuse a hopeless one before the work."""
    if options.out_dir is not None:
        make_folder(folder, "--out-dir")
    if not _is(Path.is_dir, folder):
        raise OutputError(f"There is no folder {folder}.", hint="Make it first, or use --out-dir.")
    if not os.access(folder, os.W_OK):
        raise OutputError(
            f"The folder {folder} is not writable.", hint="Choose another with --out-dir."
        )
