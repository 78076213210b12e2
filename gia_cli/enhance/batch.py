"""Many files: which to read, what to write, and one result for each, whatever happens.

While the network works on a photo, the next ones are read and packed, and the pictures of the last
ones are developed and written (beside a graphics card they are fused there, too); few of each, so
that memory stays bounded. A file that fails is reported and never stops the rest.
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
from threading import Lock
from typing import Any, Literal

from gia_cli.enhance import storage
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest, RatioChoice
from gia_cli.enhance.lanes import Ahead, Behind, InOrder, Lanes
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
from gia_cli.runtime import (
    available_cores,
    free_bytes,
    is_main_memory,
    is_oom_error,
    resident_bytes,
)
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
    cores: int | None = None,
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
        in the writing threads, by one at a time.
    cores : int, optional
        Of the CPU, for what is done beside the network; by default all.

    Returns
    -------
    list of FileResult
        In the order of the jobs; failures among them.

    Raises
    ------
    Interrupted
        Ctrl-C: the pictures being written are finished, the rest is not begun.
    """
    lanes = Lanes.beside(enhancer.runtime.device, cores or available_cores())
    with (
        ThreadPoolExecutor(lanes.readers, "read") as readers,
        ThreadPoolExecutor(lanes.writers, "write") as writers,
    ):
        pipeline = _Pipeline(enhancer, options, progress, lanes, InOrder(on_result))
        try:
            pipeline.run(jobs, readers, writers)
        except KeyboardInterrupt:
            readers.shutdown(cancel_futures=True)
            writers.shutdown()
            pipeline.tell_of_made()
            done = len(pipeline.results)
            raise Interrupted(f"Interrupted after {done} of {len(jobs)} photos.") from None
        finally:
            readers.shutdown()
            pipeline.release()
    return pipeline.results


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


class _Photo:
    """One photo that the network works on, or that is behind it; told of when all is done.

    Parameters
    ----------
    number : int
        Its place among the jobs.
    job : Job
    notes : list of str
        What is said of it, now and later.
    told : InOrder
        Receives its result.
    """

    def __init__(self, number: int, job: Job, notes: list[str], told: InOrder[FileResult]) -> None:
        self.job = job
        self.result = FileResult(job.source, notes=notes)
        self._number, self._told = number, told
        self._started = time.perf_counter()
        self._pictures: list[FileResult] = []
        self._open = 1  # what is to end before it is told of: the network, and each picture
        self._lock = Lock()

    def begin_picture(self) -> FileResult:
        """Return where to put what becomes of the next picture, until `end`."""
        picture = FileResult(self.job.source)
        with self._lock:
            self._open += 1
            self._pictures.append(picture)
        return picture

    def end(self) -> None:
        """Tell of it if this was the last that had begun."""
        with self._lock:
            self._open -= 1
            is_last = not self._open
        if is_last:
            self.tell()

    def tell(self) -> None:
        """Put together what became of its pictures, in their order, and tell of it."""
        storage.release(self.job.source)
        result = self.result
        result.seconds = time.perf_counter() - self._started
        for picture in self._pictures:
            result.outputs += picture.outputs
            result.shown += picture.shown
            for stage, seconds in picture.stages.items():
                result.stages[stage] = result.stages.get(stage, 0.0) + seconds
            if picture.error is not None:
                result.status, result.error = picture.status, picture.error
        self._told.add(self._number, result)

    def is_made(self, options: BatchOptions) -> bool:
        """Whether its last file is written, but nobody was told."""
        outputs = [path for picture in self._pictures for path in picture.outputs]
        if not outputs or any(each is self.result for each in self._told.results):
            return False
        missing = set(files_of(self.job, options)) - set(outputs)
        if options.on_exists == "skip":
            missing = {path for path in missing if not _is(_is_there, path)}
        return not missing


Pictures = Iterator[tuple[Prepared, Files]]


class _Pipeline:
    """A batch on its way: photos read ahead of the network, the one in it, pictures behind it."""

    def __init__(
        self,
        enhancer: Enhancer,
        options: BatchOptions,
        progress: Progress,
        lanes: Lanes,
        told: InOrder[FileResult],
    ) -> None:
        self._enhancer, self._options = enhancer, options
        self._progress, self._told = progress, told
        self._all_lanes, self._is_crowded = lanes, False
        self._one_shows = Lock()
        self._photo: _Photo | None = None  # the one that was taken last
        self._ahead: Ahead[tuple[Job, list[str]], Pictures | None] | None = None

    @property
    def results(self) -> list[FileResult]:
        """Those that were told of."""
        return self._told.results

    def run(
        self, jobs: Sequence[Job], readers: ThreadPoolExecutor, writers: ThreadPoolExecutor
    ) -> None:
        """Do all photos, in this thread and in those of the two pools."""
        ahead = self._ahead = Ahead(((job, []) for job in jobs), self._read, readers)
        behind = Behind(writers)
        for number, job in enumerate(jobs):
            self._progress.photo(job.source.name, number + 1, len(jobs))
            taken = ahead.take()
            if taken is None:
                break
            self._do(number, *taken, ahead, behind)
            del taken
            behind.raise_failures()  # whatever a listener raises ends the batch
        self._progress.stage("writing", 1)
        behind.wait()

    def tell_of_made(self) -> None:
        """Tell of the photo that Ctrl-C came in between the making of and the telling of."""
        if self._photo is not None and self._photo.is_made(self._options):
            self._photo.tell()

    def release(self) -> None:
        """Give back what was fetched of the photos that were begun."""
        # Not of all jobs: to look at those of one of several devices is to take them.
        begun = [] if self._ahead is None else [job for job, _ in self._ahead.items]
        for job in (*begun, *(() if self._photo is None else (self._photo.job,))):
            storage.release(job.source)

    def _read(self, job_and_notes: tuple[Job, list[str]]) -> Pictures | None:
        """Read a photo; in a reading thread."""
        job, notes = job_and_notes
        notes.clear()  # of a reading before this one
        return _read(job, self._enhancer, self._options, _Noting(self._progress, notes))

    def _do(
        self,
        number: int,
        job_and_notes: tuple[Job, list[str]],
        pictures: Future[Pictures | None],
        ahead: Ahead[Any, Any],
        behind: Behind,
    ) -> None:
        """Run the network on one photo, and hand its pictures on."""
        wait([pictures])
        photo = self._photo = _Photo(number, *job_and_notes, self._told)
        for prepared, files in _pictures(pictures, photo.job, photo.result):
            keeps, taken = _needs_picture(files), self._behind_bytes(prepared, files)
            make = self._render(photo, prepared, files, ahead, behind)
            del prepared
            if make is None:
                break  # the photo's other brackets would fare no better
            behind.wait(self._writers_for(taken, behind) - 1)
            # In a list, which the writer empties: its picture goes when the levels are made.
            picture = photo.begin_picture()
            behind.submit(taken, self._write, photo, picture, [make], files, keeps)
            del make
        behind.submit(0, photo.end)

    def _render(
        self,
        photo: _Photo,
        prepared: Prepared,
        files: Files,
        ahead: Ahead[Any, Any],
        behind: Behind,
    ) -> Callable[[], Computed] | None:
        """Run the network beside the reading and the writing, or alone where memory demands it.

        Returns what gives the picture, finished here or when it is called; None after a failure.
        """
        enhancer, result = self._enhancer, photo.result
        make: Callable[[], Computed] | None = None
        progress = _Noting(self._progress, result.notes)
        with _failures_into(result):
            enhancer.load(prepared, progress=progress)  # before others take memory: it is measured
            ahead.begin(self._readers_for(prepared, ahead, behind))
            saving = prepared.developing_bytes + _saving_bytes(prepared, files)
            # What is behind ends anyway; what is ahead would have to be read anew.
            for make_room in (None, behind.settle, ahead.drop):
                if make_room is not None:
                    make_room()
                    self._is_crowded = True
                is_beside = ahead.count > 0 or not behind.is_idle
                try:
                    rendered = enhancer.render(
                        prepared,
                        progress=progress,
                        reserved=ahead.working * prepared.reading_bytes + behind.taken,
                        saving=saving,
                        is_beside=is_beside,
                    )
                    finish = partial(enhancer.finish, rendered, progress=progress)
                    make = finish if self._lanes.finishes_behind else _known(finish())
                    break
                except OutOfMemoryError as error:
                    if not is_beside:
                        raise
                    _let_go(error)
            result.choices.append(rendered.choice)
            result.weights = rendered.ran.name
            result.white_balance = rendered.white_balance
            result.sidecar = _in_words_of(result.source, rendered.metadata.report())
            return make
        return None

    def _write(
        self,
        photo: _Photo,
        result: FileResult,
        make: list[Callable[[], Computed]],
        files: Files,
        keeps: bool,
    ) -> None:
        """Develop one picture and write what is made of it; in a writing thread."""
        options = self._options
        with _failures_into(result):
            picture = make.pop()().develop(keep_picture=keeps)
            start = time.perf_counter()
            for product, path in files:
                with storage.written(path, replace=options.on_exists == "overwrite") as file:
                    product.write(picture, file)
                result.outputs.append(path)
            result.stages = picture.seconds | {"write": time.perf_counter() - start}
            if options.show is not None:
                with self._one_shows:
                    result.shown.append(options.show(picture))
            del picture
        photo.end()

    # ------------------------------------------------------------ memory

    @property
    def _lanes(self) -> Lanes:
        """How many may work beside the network now: one each where memory, or the CPU, is short."""
        if self._is_crowded or self._enhancer.has_left_device:
            return Lanes()
        return self._all_lanes

    def _readers_for(self, like: Prepared, ahead: Ahead[Any, Any], behind: Behind) -> int:
        """Say how many photos like this one may be read ahead; one always may."""
        most = self._lanes.readers
        if most == 1:
            return most
        room = self._room(ahead.working * like.reading_bytes + behind.taken)
        return max(1, min(most, ahead.count + room // like.reading_bytes))

    def _writers_for(self, taken: int, behind: Behind) -> int:
        """Say how many pictures may be written at once, with one that takes so many bytes."""
        most = self._lanes.writers
        return most if most == 1 or self._room(behind.taken) >= taken else 1

    def _room(self, promised: int) -> int:
        """Return how much main memory nobody has and nobody will take."""
        room, limit = free_bytes(), self._enhancer.options.max_memory
        runtime = self._enhancer.runtime
        if limit is not None and is_main_memory(runtime.device, runtime.index):  # else the card's
            room = min(room, limit - resident_bytes())
        return room - promised

    def _behind_bytes(self, prepared: Prepared, files: Files) -> int:
        """Most memory that a picture takes in a writing thread, beside itself."""
        writing = prepared.developing_bytes + _saving_bytes(prepared, files)
        if self._options.show is not None:
            writing += _SHOWING_BYTES * prepared.frame.mosaic.size
        kept = prepared.picture_bytes if _needs_picture(files) else 0  # until all is written
        if self._lanes.finishes_behind:
            writing = max(self._enhancer.finishing_bytes(prepared), writing)
        return writing + kept


def _known(computed: Computed) -> Callable[[], Computed]:
    return lambda: computed


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
) -> Pictures | None:
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


def _pictures(photo: Future[Pictures | None], job: Job, result: FileResult) -> Pictures:
    """Yield the pictures to make of a photo; none after a failure, or if it is to be skipped."""
    with _failures_into(result):
        pictures = photo.result()
        if pictures is None:
            result.status, result.outputs = "skipped", list(job.targets)
        else:
            yield from pictures


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
