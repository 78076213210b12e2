"""Many files: which to read, what to write, and one result for each, whatever happens.

The next photo is read and the last picture written while the network works; one of each, so that
memory stays bounded. A file that fails is reported and never stops the rest.
"""

from __future__ import annotations

import glob
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gia_cli.errors import (
    GiaError,
    Interrupted,
    OutputError,
    OutputExistsError,
    UnreadableFileError,
    UsageError,
)
from gia_cli.exposure import ExposureRequest, RatioChoice
from gia_cli.files import make_folder
from gia_cli.output import OutputFormat, output_format
from gia_cli.pipeline import Enhanced, Enhancer
from gia_cli.progress import Progress
from gia_cli.raw import RAW_SUFFIXES, RawFrame, read_raw

OnExists = Literal["error", "skip", "overwrite"]
Status = Literal["written", "skipped", "failed"]

_NAME_SUFFIX = "_gia"


@dataclass(frozen=True, slots=True)
class Product:
    """A kind of file to make of every picture."""

    name: Callable[[Path], Path]
    """From the picture's own path to this file's."""
    write: Callable[[Enhanced, Path], None]
    """Called in a thread of its own."""


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
    seconds: float = 0.0
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
        Hears of each result, in the order of the jobs, as soon as its last file is written; called
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
        finished: list[Future[None]] = []
        try:
            for number, (job, frame) in enumerate(_read_ahead(jobs, options, reader), start=1):
                progress.photo(job.source.name, number, len(jobs))
                started = time.perf_counter()
                result = _enhance(job, frame, enhancer, options, progress, writer)
                if finished:
                    finished[-1].result()  # so that the writer's queue stays short
                # Behind the photo's own files in that queue.
                finished.append(writer.submit(finish, result, started))
        except KeyboardInterrupt:
            reader.shutdown(cancel_futures=True)
            writer.shutdown()
            done = len(results)
            raise Interrupted(f"Interrupted after {done} of {len(jobs)} photos.") from None
        for future in finished:
            future.result()
    return results


def _read_ahead(
    jobs: Sequence[Job], options: BatchOptions, reader: ThreadPoolExecutor
) -> Iterator[tuple[Job, Future[RawFrame | None]]]:
    """Yield each job with its frame, while the next one's is being read."""
    upcoming = reader.submit(_read, jobs[0], options) if jobs else None
    for index, job in enumerate(jobs):
        assert upcoming is not None  # submitted in the round before
        current = upcoming
        current.exception()  # wait: the next read starts when this one is done
        if index + 1 < len(jobs):
            upcoming = reader.submit(_read, jobs[index + 1], options)
        yield job, current


def _read(job: Job, options: BatchOptions) -> RawFrame | None:
    """Read a photo; None when it is to be skipped."""
    _prepare_folder(job.targets[0].parent, options)
    if not any(_to_write(target, options) for target in job.targets):
        return None
    files = [product.name(target) for target in job.targets for product in options.products]
    existing = [path for path in files if path.exists()]
    if existing and options.on_exists == "error":
        raise OutputExistsError(f"{existing[0]} exists already.")
    return read_raw(job.source)


def _to_write(target: Path, options: BatchOptions) -> list[tuple[Product, Path]]:
    """List the files to make of one picture: all, or what is missing if others are skipped."""
    files = [(product, product.name(target)) for product in options.products]
    return [
        (product, path)
        for product, path in files
        if options.on_exists != "skip" or not path.exists()
    ]


def _enhance(
    job: Job,
    frame: Future[RawFrame | None],
    enhancer: Enhancer,
    options: BatchOptions,
    progress: Progress,
    writer: ThreadPoolExecutor,
) -> FileResult:
    """Run one photo up to its pictures and hand those to the writer."""
    result = FileResult(job.source)
    with _failures_into(result):
        photo = frame.result()
        if photo is None:
            result.status, result.outputs = "skipped", list(job.targets)
            return result
        request, plans = _missing(job, options)
        pictures = enhancer.enhance_brackets(photo, request, progress=progress)
        previous: Future[None] | None = None
        for picture, files in zip(pictures, plans, strict=True):
            result.choices.append(picture.choice)
            result.weights = picture.weights.name
            if previous is not None:
                previous.result()  # one picture waits to be written, never more
            previous = writer.submit(_write, picture, files, result)
    return result


def _missing(
    job: Job, options: BatchOptions
) -> tuple[ExposureRequest, list[list[tuple[Product, Path]]]]:
    """Narrow the request to the brackets that are to be made, and list the files of each."""
    plans = [_to_write(target, options) for target in job.targets]
    request = options.request
    if request.brackets:
        wanted = zip(request.brackets, plans, strict=True)
        request = replace(request, brackets=tuple(ratio for ratio, files in wanted if files))
    return request, [files for files in plans if files]


def _write(picture: Enhanced, files: list[tuple[Product, Path]], result: FileResult) -> None:
    """Write what is made of one picture; in the writing thread."""
    with _failures_into(result):
        for product, path in files:
            product.write(picture, path)
            result.outputs.append(path)


@contextmanager
def _failures_into(result: FileResult) -> Iterator[None]:
    """Record what goes wrong with one photo: it must not cost the rest of the folder."""
    try:
        yield
    except GiaError as error:
        result.status, result.error = "failed", error
    except Exception as error:  # a bug, or a very strange file
        result.status, result.error = "failed", _unexpected(result.source, error)


def _unexpected(source: Path, error: Exception) -> GiaError:
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
            f"The folder {folder} may not be written to.", hint="Choose another with --out-dir."
        )
