"""Many files: which to read, what to write, and one result for each, whatever happens.

While the network works on a photo, the next one is read and packed, and the picture of the last one
is developed and written; one of each, so that memory stays bounded. A file that fails is reported
and never stops the rest.
"""

from __future__ import annotations

import glob
import os
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from gia_cli.enhance import storage
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest, RatioChoice
from gia_cli.enhance.showing import Shown
from gia_cli.enhance.stages import Computed, Enhanced, Prepared
from gia_cli.errors import (
    GiaError,
    Interrupted,
    OutOfMemoryError,
    OutputError,
    UnreadableFileError,
    UsageError,
)
from gia_cli.files import (
    OnExists,
    OutputFormat,
    identity,
    ignores_case,
    is_taken,
    make_folder,
    walk,
)
from gia_cli.imaging.save import require_format
from gia_cli.imaging.save_options import DEFAULT_SAVE, SaveOptions
from gia_cli.imaging.writer import FORMATS, output_format
from gia_cli.progress import Progress
from gia_cli.raw.libraw import refuse_hopeless
from gia_cli.raw.reader import RAW_SUFFIXES
from gia_cli.runtime import is_oom_error
from gia_cli.sid_layout import LONG_SUFFIX

Status = Literal["written", "skipped", "failed"]
Files = Sequence[tuple["Product", Path]]  # to make of one picture

_NAME_SUFFIX = "_gia"
# A DNG that gia wrote into a folder of photos is none of them.
_OWN_DNG = re.compile(rf"{_NAME_SUFFIX}(_crop)?(_x[\d.]+)?\.dng$", re.IGNORECASE)
_SHOWN = 3  # photos that a message names
# For a page, of each photosite: LibRaw's image and rendering, and the levels of both pictures.
_SHOWING_BYTES = 32


@dataclass(frozen=True, slots=True)
class Product:
    """A kind of file to make of every picture."""

    name: Callable[[Path], Path]
    """From the picture's own path to this file's."""
    write: Callable[[Enhanced, Path], None]
    """Called in the writing thread."""
    save: SaveOptions = DEFAULT_SAVE
    """How it is saved."""


def _itself(target: Path) -> Path:
    return target


PICTURE = Product(name=_itself, write=Enhanced.save)


def picture_saved(options: SaveOptions) -> Product:
    """Describe the picture itself, saved with options."""
    return replace(PICTURE, write=partial(Enhanced.save, options=options), save=options)


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
    is_crop: bool = False
    """Only parts are made: their names say so."""
    products: tuple[Product, ...] = (PICTURE,)
    also_read: tuple[Path, ...] = ()
    """Other files that no output may replace, such as the reference."""
    show: Callable[[Enhanced], Shown] | None = None
    """Keeps each picture for a page; called in the writing thread, after its files are written."""


@dataclass(frozen=True, slots=True)
class Job:
    """One photo and the pictures to make of it, one for each bracket."""

    source: Path
    targets: tuple[Path, ...]
    error: GiaError | None = None
    """Why it cannot be done, known before any work."""
    key: str = field(default="", compare=False)
    """Its path below the folder it was found in, with slashes: one wherever that is mounted."""


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
    sidecar: dict[str, Any] | None = None
    """The XMP files beside the photo, and what of them was used; None where there are none."""
    seconds: float = 0.0
    """From the photo's turn at the network until its last file is written."""
    stages: dict[str, float] = field(default_factory=dict)
    """Wall-clock time of each stage in seconds, over all its pictures; other photos' overlap."""
    notes: list[str] = field(default_factory=list)
    """What the user was told of it."""
    shown: list[Shown] = field(default_factory=list)
    """What a page shows of its pictures, if there is one."""
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
        A folder without RAW files, contradicting options, or an ``-o`` that is one of the inputs.

    Notes
    -----
    What concerns only some of the photos makes their jobs fail, and no others: two that would be
    written to one file, one whose output would replace an input, a folder that may not be read.

    A photo's output is named by the photo alone, never by what else is in the batch: a later run,
    of other photos, must find it.
    """
    suffix = _suffix(options)
    _refuse_impossible(suffix, options.products)
    jobs: list[Job] = []
    for source, root, error in _find_sources(inputs, options.recursive):
        key = source.relative_to(root).as_posix()
        if error is not None:
            jobs.append(Job(source, (), error, key))
            continue
        target = options.output
        if target is None:
            mark = f"{_NAME_SUFFIX}_crop" if options.is_crop else _NAME_SUFFIX
            target = _target(source, root, options.out_dir, mark + suffix)
        jobs.append(Job(source, _bracketed(target, options.request), key=key))
    jobs = _without_repeats(jobs)
    photos = sum(job.error is None for job in jobs)
    if options.output is not None and photos > 1:
        raise UsageError(
            f"-o names one output, but there are {photos} photos.", hint="Use --out-dir."
        )
    return _without_clashes(_without_replaced_inputs(jobs, options), options)


def _target(source: Path, root: Path, out_dir: Path | None, suffix: str) -> Path:
    folder = source.parent
    if out_dir is not None:  # keep the subfolders below the folder that was given
        folder = out_dir / source.parent.relative_to(root)
    return folder / f"{source.stem}{suffix}"


def _without_repeats(jobs: Sequence[Job]) -> list[Job]:
    """Keep the first job of those for one photo, however the path to it is spelled."""
    kept: dict[object, Job] = {}
    for job in jobs:
        folder, name = _place(job.source)
        kept.setdefault((folder, _folded(name), identity(job.source) or name), job)
    return list(kept.values())


def _place(path: Path) -> tuple[object, str]:
    """Tell where a file will lie, however its folder is spelled."""
    return storage.identity_of(path.parent) or Path(os.path.abspath(path.parent)), path.name  # noqa: PTH100


def files_of(job: Job, options: BatchOptions) -> list[Path]:
    """List all files that are to be made of a photo."""
    return [product.name(target) for target in job.targets for product in options.products]


def _without_replaced_inputs(jobs: Sequence[Job], options: BatchOptions) -> list[Job]:
    """Let the jobs fail whose output is an input; with ``-o``, refuse."""
    inputs = {storage.identity_of(job.source): job.source for job in jobs}
    inputs |= {storage.identity_of(path): path for path in options.also_read}
    inputs.pop(None, None)
    checked: list[Job] = []
    for job in jobs:
        replaced = [path for path in files_of(job, options) if storage.identity_of(path) in inputs]
        if job.error is None and replaced:
            photo = inputs[storage.identity_of(replaced[0])]
            error = UsageError(
                f"The output {storage.shown(replaced[0])} is the input {storage.shown(photo)}.",
                hint="gia never replaces what it reads: give another name with -o, or --out-dir.",
            )
            if options.output is not None:
                raise error
            job = replace(job, error=error)
        checked.append(job)
    return checked


def _without_clashes(jobs: Sequence[Job], options: BatchOptions) -> list[Job]:
    """Let the jobs fail that would be written to one file."""
    users: dict[object, list[tuple[int, Path]]] = {}
    for number, job in enumerate(jobs):
        for path in files_of(job, options) if job.error is None else ():
            folder, name = _place(path)
            users.setdefault((folder, _folded(name)), []).append((number, path))
    errors: dict[int, GiaError] = {}
    for uses in users.values():
        one = uses[0][1]  # stores tell upper from lower case, and have no folders to ask
        if len(uses) > 1 and (storage.is_url(one) or not ignores_case(one.parent)):
            names = Counter(path.name for _, path in uses)
            uses = [(number, path) for number, path in uses if names[path.name] > 1]
        if len(uses) > 1:
            error = _clash(uses[0][1], [jobs[number].source for number, _ in uses])
            errors |= {number: error for number, _ in uses}
    return [replace(job, error=errors.get(n, job.error)) for n, job in enumerate(jobs)]


def _folded(name: str) -> str:
    """Make equal what is one name to a file system that ignores case and Unicode composition."""
    return unicodedata.normalize("NFC", name).casefold()


def _clash(path: Path, photos: Sequence[Path]) -> OutputError:
    named = ", ".join(map(storage.shown, photos[:_SHOWN])) + (", ..." * (len(photos) > _SHOWN))
    return OutputError(
        f"{len(photos)} photos would be written to {storage.shown(path)}: {named}.",
        hint="Give each a run of its own with -o or --out-dir, or use --recursive on the folder "
        "above them to keep subfolders.",
    )


def _refuse_impossible(suffix: str, products: Sequence[Product]) -> None:
    """Refuse formats that cannot be written here, and options that they do not have."""
    for product in products:
        kind = FORMATS.get(product.name(Path(f"photo{suffix}")).suffix.lower())
        if kind is not None:
            require_format(kind, product.save)


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


Found = tuple[Path, Path, GiaError | None]  # a photo, the folder to name it from, what is wrong


def _find_sources(inputs: Sequence[Path], recursive: bool) -> Iterator[Found]:
    """Yield each photo with the folder it was found under (its own, if it was named).

    A folder that may not be read comes with its error.
    """
    for path in inputs:
        if storage.is_url(path):
            yield from _photos_in_store(path, recursive)
        elif _is(Path.is_dir, path):
            yield from _photos_in(path, recursive)
        elif glob.has_magic(str(path)) and not is_taken(path):
            matches = sorted(set(_matches(path)))
            if not matches:
                raise UsageError(f"Nothing matches {path}.", hint="Check the pattern.")
            for match in matches:
                if _is(Path.is_dir, match):
                    yield from _photos_in(match, recursive)
                else:
                    yield match, match.parent, None
        else:
            yield path, path.parent, None


def _matches(pattern: Path) -> Iterator[Path]:
    """Find what a pattern matches; unlike glob's, ``**`` follows no links, which may be loops."""
    if "**" not in pattern.parts:
        yield from map(Path, glob.glob(str(pattern)))  # noqa: PTH207, Path's: no absolute ones
        return
    at = pattern.parts.index("**")
    rest = pattern.parts[at + 1 :]
    tops = _matches(Path(*pattern.parts[:at])) if at else [Path()]
    for top in tops:
        for folder, paths in walk(top):
            if isinstance(paths, OSError):
                continue  # a pattern matches what can be seen, as in a shell
            inside = folder.relative_to(top).parts
            if any(part.startswith(".") for part in inside):
                continue
            if rest:
                yield from _matches(Path(glob.escape(str(folder)), *rest))
            else:
                yield from (path for path in paths if not path.name.startswith("."))


def _photos_in_store(url: Path, recursive: bool) -> Iterator[Found]:
    """Yield the photos that a URL stands for: one that is named, or those of a folder."""
    found = storage.find(url, recursive=recursive)
    if found == [(url, url.parent)]:
        yield url, url.parent, None
        return
    there = {path for path, _ in found}
    photos = [(path, root) for path, root in found if _is_photos_name(path)]
    if not photos:
        raise _no_photos(storage.shown(url), recursive)
    for path, root in photos:
        short = _short_of(path)
        if short is None or path.with_name(short) not in there:
            yield path, root, None


def _is_there(path: Path) -> bool:
    """Whether there is such a file; a link that leads nowhere is none."""
    return storage.exists(path) if storage.is_url(path) else path.exists()


def _is(question: Callable[[Path], bool], path: Path) -> bool:
    """Ask about a path; a name that the system refuses is nothing, and fails as a photo later."""
    try:
        return question(path)
    except OSError:
        return False


def photos_in(folder: Path, *, recursive: bool = False) -> list[Found]:
    """Find the photos in a folder, sorted, with those of its folders that may not be read."""
    found: list[Found] = []
    for inner, paths in walk(folder, recursive=recursive):
        if isinstance(paths, OSError):
            reason = f"The folder {inner} cannot be read: {paths.strerror or paths}."
            found.append((inner, folder, UnreadableFileError(reason)))
        else:
            photos = [path for path in paths if _is_photo(path)]
            names = {path.name for path in photos}
            found += [(path, folder, None) for path in photos if _short_of(path) not in names]
    return sorted(found, key=lambda each: each[0])


def _photos_in(folder: Path, recursive: bool) -> list[Found]:
    found = photos_in(folder, recursive=recursive)
    if not found:
        raise _no_photos(folder, recursive)
    return found


def _no_photos(folder: Path | str, recursive: bool) -> UsageError:
    hint = "" if recursive else "--recursive looks into its subfolders too."
    return UsageError(f"The folder {folder} holds no RAW photos.", hint=hint)


def _short_of(path: Path) -> str | None:
    """Name the short exposure that `gia simulate` would have written beside a long one."""
    if not path.stem.endswith(LONG_SUFFIX):
        return None
    return path.stem.removesuffix(LONG_SUFFIX) + path.suffix


def _is_photo(path: Path) -> bool:
    return _is_photos_name(path) and _is(Path.is_file, path)


def _is_photos_name(path: Path) -> bool:
    # Hidden files are the droppings of macOS ("._DSC0001.ARW") and of interrupted writes.
    return (
        path.suffix.lower() in RAW_SUFFIXES
        and not path.name.startswith(".")
        and not _OWN_DNG.search(path.name)
    )


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
        storage.release(result.source)
        result.seconds = time.perf_counter() - started
        results.append(result)
        on_result(result)

    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        written: Future[None] = Future()
        written.set_result(None)  # nothing to wait for yet
        told: list[Future[None]] = []
        current: tuple[Job, FileResult, float] | None = None
        ahead: _ReadAhead | None = None
        try:
            ahead = _ReadAhead(jobs, enhancer, options, progress, reader)
            for number, job in enumerate(jobs, start=1):
                progress.photo(job.source.name, number, len(jobs))
                photo = ahead.take()
                result = FileResult(job.source, notes=ahead.notes)
                told_of, started = _Noting(progress, result.notes), time.perf_counter()
                current = job, result, started
                for prepared, files in _pictures(photo, job, result):
                    keeps = _needs_picture(files)
                    saving = _saving_bytes(prepared, files)
                    computed = _compute(
                        *(enhancer, prepared, ahead, written, told_of, result, saving),
                        keeps=keeps,
                        is_shown=options.show is not None,
                    )
                    del prepared
                    if computed is None:
                        break  # the photo's other brackets would fare no better
                    written.result()  # one picture is behind the network, never two
                    developed = writer.submit(computed.develop, keep_picture=keeps)
                    written = writer.submit(_write, developed, files, result, options)
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
            if current is not None and _is_made(*current[:2], options, results):
                finish(*current[1:])  # interrupted before it was told of
            done = len(results)
            raise Interrupted(f"Interrupted after {done} of {len(jobs)} photos.") from None
        finally:
            reader.shutdown()
            # Not of all jobs: to look at those of one of several devices is to take them.
            begun = [current[0]] if current is not None else []
            for job in (*begun, *(ahead.begun if ahead is not None else ())):
                storage.release(job.source)
    return results


def _is_made(
    job: Job, result: FileResult, options: BatchOptions, told: Sequence[FileResult]
) -> bool:
    """Whether a photo's last file was written, but nobody was told."""
    if not result.outputs or any(each is result for each in told):
        return False
    missing = set(files_of(job, options)) - set(result.outputs)
    if options.on_exists == "skip":
        missing = {path for path in missing if not _is(_is_there, path)}
    return not missing


Photo = Future[Iterator[tuple[Prepared, Files]] | None]


class _Noting:
    """Passes on what is reported of one photo, and remembers the notes."""

    def __init__(self, progress: Progress, notes: list[str]) -> None:
        self.photo, self.stage, self.advance = progress.photo, progress.stage, progress.advance
        self.status, self.detail = progress.status, progress.detail
        self._note, self._notes = progress.note, notes

    def note(self, message: str) -> None:
        """Show the user one line that matters."""
        self._notes.append(message)
        self._note(message)


class _ReadAhead:
    """Reads the photos in a thread, at most one ahead of the one that is worked on."""

    def __init__(
        self,
        jobs: Sequence[Job],
        enhancer: Enhancer,
        options: BatchOptions,
        progress: Progress,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._jobs = iter(jobs)
        self._context = enhancer, options
        self._progress = progress
        self.notes: list[str] = []
        """Of the photo that was taken last."""
        self._next_notes: list[str] = []
        self._thread = thread
        self._job: Job | None = None
        self._photo: Photo | None = None
        self._job = next(self._jobs, None)

    def begin(self) -> None:
        """Begin to read the next photo, if there is one and it is not begun yet."""
        if self._photo is None and self._job is not None:
            self._next_notes = []
            noting = _Noting(self._progress, self._next_notes)
            self._photo = self._thread.submit(_read, self._job, *self._context, noting)

    def take(self) -> Photo:
        """Wait for the next photo."""
        self.begin()
        photo = self._photo
        assert photo is not None  # nobody takes more than there are
        wait([photo])
        self._job, self._photo = next(self._jobs, None), None
        self.notes = self._next_notes
        return photo

    @property
    def is_reading(self) -> bool:
        """Whether memory is being taken."""
        return self._photo is not None and not self._photo.done()

    @property
    def begun(self) -> list[Job]:
        """The photo that has been read, or is being read, and that nobody has taken."""
        return [self._job] if self._job is not None else []

    @property
    def is_ahead(self) -> bool:
        """Whether a photo is in memory, or will be."""
        return self._photo is not None

    def drop(self) -> None:
        """Give the next photo's memory back; it is read anew when it is taken."""
        if self._photo is not None:
            wait([self._photo])
        self._photo = None


def settled(job: Job, options: BatchOptions) -> FileResult | None:
    """Tell what becomes of a photo that needs no work; None if it needs some.

    It has failed if it cannot be done, or its output is in the way, and is skipped if that is there
    already. Of the photo itself nothing is read unless its output is in the way.
    """
    result = FileResult(job.source)
    with _failures_into(result):
        if job.error is not None:
            raise job.error
        _, plans = _missing(job, options)
        if not plans:
            result.status, result.outputs = "skipped", list(job.targets)
            return result
        if options.on_exists == "error" and any(map(storage.exists, files_of(job, options))):
            if not storage.is_url(job.source):
                refuse_hopeless(job.source)  # what is wrong with the photo comes first
            _refuse_hopeless_outputs(job, plans, options)
    return None if result.error is None else result


def _refuse_hopeless_outputs(job: Job, plans: Sequence[Files], options: BatchOptions) -> None:
    _prepare_folder(job.targets[0].parent, options)
    for files in plans:
        for _, path in files:
            # Where outputs are skipped, only a link that leads nowhere is left here.
            storage.refuse_taken_output(path, replace=options.on_exists == "overwrite")


def _read(
    job: Job, enhancer: Enhancer, options: BatchOptions, progress: Progress
) -> Iterator[tuple[Prepared, Files]] | None:
    """Read a photo and pack its first picture; None when it is to be skipped."""
    if job.error is not None:
        raise job.error
    request, plans = _missing(job, options)
    if not plans:
        return None
    photo = storage.fetch(job.source)
    refuse_hopeless(photo)  # what is wrong with the photo comes before what is with its output
    _refuse_hopeless_outputs(job, plans, options)
    pictures = zip(enhancer.prepare(photo, request, progress=progress), plans, strict=True)
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
    saving: int,
    *,
    keeps: bool,
    is_shown: bool = False,
) -> Computed | None:
    """Run the network beside the reading and the writing, or alone where memory demands it."""
    computed = None
    with _failures_into(result):
        enhancer.load(prepared, progress=progress)  # before others take memory: it is measured
        ahead.begin()
        reserved = prepared.reading_bytes if ahead.is_reading else 0
        if not written.done():
            reserved += prepared.developing_bytes + saving
            if is_shown:
                reserved += _SHOWING_BYTES * prepared.frame.mosaic.size
            if keeps:  # the picture, until all is written
                reserved += prepared.picture_bytes
        is_beside = ahead.is_ahead or not written.done()
        try:
            computed = enhancer.compute(
                prepared,
                progress=progress,
                reserved=reserved,
                saving=prepared.developing_bytes + saving,
                is_beside=is_beside,
            )
        except OutOfMemoryError as error:
            _let_go(error)
        if computed is None:
            ahead.drop()
            wait([written])
            computed = enhancer.compute(
                prepared, progress=progress, saving=prepared.developing_bytes + saving
            )
        result.choices.append(computed.choice)
        result.weights = computed.weights.name
        result.white_balance = computed.white_balance
        result.sidecar = _in_words_of(result.source, computed.metadata.report())
    return computed


def _in_words_of(source: Path, sidecar: dict[str, Any] | None) -> dict[str, Any] | None:
    """Let what is said of a photo's sidecars name those in the store."""
    if sidecar is None:
        return None
    return sidecar | {"files": [storage.in_words_of(source, file) for file in sidecar["files"]]}


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
        if options.on_exists != "skip" or not _is(_is_there, path)
    ]


def _needs_picture(files: Files) -> bool:
    """Whether one of the files is made of the network's own picture."""
    kinds = [(product, FORMATS.get(path.suffix.lower())) for product, path in files]
    return any(kind is not None and product.save.needs_picture(kind) for product, kind in kinds)


def _saving_bytes(prepared: Prepared, files: Files) -> int:
    """Most memory that saving one of the files takes: one is written after the other."""
    kinds = [(product, FORMATS.get(path.suffix.lower())) for product, path in files]
    needed = [prepared.saving_bytes(kind, product.save) for product, kind in kinds if kind]
    return max(needed, default=0)


def _write(
    developed: Future[Enhanced],
    files: Files,
    result: FileResult,
    options: BatchOptions,
) -> None:
    """Write what is made of one picture; in the writing thread."""
    with _failures_into(result):
        picture, start = developed.result(), time.perf_counter()
        for product, path in files:
            with storage.written(path, replace=options.on_exists == "overwrite") as file:
                product.write(picture, file)
            result.outputs.append(path)
        for stage, seconds in (*picture.seconds.items(), ("write", time.perf_counter() - start)):
            result.stages[stage] = result.stages.get(stage, 0.0) + seconds
        if options.show is not None:
            result.shown.append(options.show(picture))


@contextmanager
def _failures_into(result: FileResult) -> Iterator[None]:
    """Record what goes wrong with one photo: it must not cost the rest of the folder."""
    try:
        yield
    except Exception as error:
        _let_go(error)  # of the photo: results are kept
        result.status = "failed"
        result.error = storage.error_in_words_of(result.source, _expected(result.source, error))


def _let_go(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of what led to it: their frames hold every local."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _expected(source: Path, error: Exception) -> GiaError:
    """Return what users may see; anything but our own errors is a bug, or a very strange file."""
    if isinstance(error, GiaError):
        return error
    if is_oom_error(error):
        return OutOfMemoryError("There is too little memory for this photo.")
    wrapped = GiaError(
        f"{storage.shown(source)}: {type(error).__name__}: {error}.",
        hint="This is a bug in gia: please report it with the output of 'gia --version -v'.",
    )
    wrapped.__cause__ = error
    return wrapped


def _prepare_folder(folder: Path, options: BatchOptions) -> None:
    """Make the folder that --out-dir asked for, and refuse a hopeless one before the work."""
    if storage.is_url(folder):
        return  # stores have none
    if options.out_dir is not None:
        make_folder(folder, "--out-dir")
    if not _is(Path.is_dir, folder):
        raise OutputError(f"There is no folder {folder}.", hint="Make it first, or use --out-dir.")
    if not os.access(folder, os.W_OK):
        raise OutputError(
            f"The folder {folder} is not writable.", hint="Choose another with --out-dir."
        )
