"""A folder in which photos arrive: each is enhanced once, as soon as it is whole.

What lies in the folder is the truth: every decision is taken from a look at it, and events of the
file system only say when another look is worthwhile. So none that is lost costs a photo, and a file
that is renamed, copied in pieces or sent again needs no rule of its own.

What was done stands in a journal, one line of JSON a photo, which a restart begins with.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from gia_cli import errors
from gia_cli._version import __version__
from gia_cli.enhance.batch import BatchOptions, FileResult, Job, photos_in, plan_jobs
from gia_cli.enhance.watch_options import WatchOptions
from gia_cli.errors import (
    DamagedFileError,
    EmptyFileError,
    FileMissingError,
    GiaError,
    Interrupted,
    NotAFileError,
    NotRawError,
    OutputError,
    RawError,
    UnreadableFileError,
    UsageError,
)
from gia_cli.files import append_line, is_folder, lock, make_folder, read_plain
from gia_cli.progress import Progress

JOURNAL = "gia-watch.jsonl"
#: What a file that is still being copied may look like.
_MAY_BE_PART = (DamagedFileError, EmptyFileError, NotRawError, UnreadableFileError)
_RESCAN_S = 30.0  # events get lost: on network shares all of them
_STEPS = 4  # looks at a file while it settles

Status = Literal["written", "skipped", "failed", "ignored"]
Signature = tuple[int, int]  # bytes, and ns of the last change
Report = Callable[[FileResult], None]
#: Enhances photos, and reports each.
Run = Callable[[Sequence[Job], BatchOptions, Report], object]


@dataclass(slots=True)
class Tally:
    """What a watch has done since it was started."""

    written: int = 0
    skipped: int = 0
    failed: int = 0

    def add(self, status: str) -> None:
        """Count one photo."""
        setattr(self, status, getattr(self, status) + 1)

    def __str__(self) -> str:
        parts = [f"{self.written} written"]
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(parts)


# ---------------------------------------------------------------- the journal


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal says of a photo: the last line wins."""

    signature: Signature
    status: Status
    targets: tuple[str, ...]
    error: str | None
    """Name of its class."""

    def settles(self, signature: Signature, targets: Sequence[str], *, new_only: bool) -> bool:
        """Whether nothing is left to do for a photo that looks like this now.

        A file that cannot be read stays so until it changes. Of other failures, such as a full
        disk, the reason may be gone: after a restart they are tried again.
        """
        if self.signature != signature:
            return False
        if self.status == "ignored":
            return new_only
        if self.status == "failed":
            kind = getattr(errors, self.error or "", None)
            return isinstance(kind, type) and issubclass(kind, RawError)
        return self.targets == tuple(targets)


class Journal:
    """The file that says what was done, line by line.

    Parameters
    ----------
    path : Path
        Need not be there. A last line that was cut short by a crash is passed over, and so is
        whatever else is no line of ours.
    folder : Path
        The watched folder.

    Raises
    ------
    OutputError
        It cannot be read.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path
        self.folder = _absolute(folder)
        rows = list(_rows(path))
        self.entries = {row["input"]: entry for row in rows if (entry := _entry(row)) is not None}
        self.is_known = any(
            row.get("status") == "started" and row.get("folder") == self.folder for row in rows
        )
        """Whether the folder was watched before."""

    def note(self, status: str) -> None:
        """Write that the watch has begun or ended; shows that the journal can be written.

        Raises
        ------
        OutputError
        """
        begin = "\n" if _is_cut_short(self.path) else ""
        row = {"time": _now(), "status": status, "folder": self.folder, "gia": __version__}
        append_line(self.path, begin + _line(row), sync=True)

    def ignore(self, photos: Mapping[Path, Signature]) -> None:
        """Write which photos are passed over."""
        rows = [
            {"time": _now(), "input": _absolute(path), **_stated(seen), "status": "ignored"}
            for path, seen in photos.items()
        ]
        if rows:
            append_line(self.path, "".join(map(_line, rows)), sync=True)
        self.entries |= {row["input"]: entry for row in rows if (entry := _entry(row)) is not None}

    def add(self, result: FileResult, signature: Signature, job: Job) -> None:
        """Write what became of a photo.

        Raises
        ------
        OutputError
        """
        error = result.error
        row = {
            "time": _now(),
            "input": _absolute(result.source),
            **_stated(signature),
            "status": result.status,
            "outputs": [_absolute(path) for path in result.outputs],
            "targets": _targets(job),
            "ratios": [float(f"{choice.ratio:.6g}") for choice in result.choices],
            "weights": result.weights,
            "seconds": round(result.seconds, 3),
            "error": None
            if error is None
            else {
                "kind": type(error).__name__,
                "exit_code": error.exit_code,
                "message": error.message,
            },
        }
        append_line(self.path, _line(row), sync=True)
        if (entry := _entry(row)) is not None:
            self.entries[row["input"]] = entry


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100, links stay as they are


def _targets(job: Job) -> list[str]:
    return [_absolute(target) for target in job.targets]


def _stated(signature: Signature) -> dict[str, int]:
    return {"size": signature[0], "mtime_ns": signature[1]}


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _read(path: Path) -> bytes:
    try:
        return read_plain(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise OutputError(
            f"The journal {path} cannot be read: {error.strerror or error}.",
            hint="Choose another with --journal.",
        ) from None


def _is_cut_short(path: Path) -> bool:
    data = _read(path)
    return bool(data) and not data.endswith(b"\n")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in _read(path).split(b"\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _entry(row: Mapping[str, Any]) -> Entry | None:
    """Read what a line says of a photo; None if it says nothing."""
    size, changed, source = row.get("size"), row.get("mtime_ns"), row.get("input")
    status, targets, error = row.get("status"), row.get("targets", []), row.get("error")
    if not (isinstance(size, int) and isinstance(changed, int) and isinstance(source, str)):
        return None
    if status not in ("written", "skipped", "failed", "ignored") or not isinstance(targets, list):
        return None
    kind = error.get("kind") if isinstance(error, dict) else None
    return Entry((size, changed), status, tuple(map(str, targets)), kind)


# ---------------------------------------------------------------- arrivals


@dataclass(slots=True)
class _Arrival:
    """A file that is not known to be whole."""

    signature: Signature
    since: float
    """When it was seen to have changed."""
    is_tried: bool = False
    """It could not be read, as it is."""


class Arrivals:
    """Which files lie in a folder, and which of them have settled.

    Parameters
    ----------
    folder : Path
    recursive : bool
        Whether those of its subfolders count.
    options : WatchOptions
    is_done : function
        Whether nothing is left to do for a photo that has this signature.
    """

    def __init__(
        self,
        folder: Path,
        recursive: bool,
        options: WatchOptions,
        is_done: Callable[[Path, Signature], bool],
    ) -> None:
        self._folder = folder
        self._recursive = recursive
        self._options = options
        self._is_done = is_done
        self._arriving: dict[Path, _Arrival] = {}  # in the order of their arrival

    def look(self, now: float) -> None:
        """See what lies in the folder.

        Raises
        ------
        FileMissingError
            The folder is gone.
        UnreadableFileError
            It may not be read.
        """
        seen = signatures(self._folder, recursive=self._recursive)
        for path in self._arriving.keys() - seen.keys():
            del self._arriving[path]
        for path, signature in seen.items():
            arrival = self._arriving.get(path)
            if arrival is not None and arrival.signature == signature:
                continue
            if self._is_done(path, signature):
                self._arriving.pop(path, None)
            else:
                # A change keeps its place, and begins anew.
                self._arriving[path] = _Arrival(signature, now)

    def settled(self, now: float) -> dict[Path, Signature]:
        """Return the photos to try now, in the order of their arrival."""
        return {
            path: arrival.signature
            for path, arrival in self._arriving.items()
            if now - arrival.since >= self._wait_of(arrival)
        }

    def _wait_of(self, arrival: _Arrival) -> float:
        settle, patience = self._options.settle_s, self._options.patience_s
        return max(settle, patience) if arrival.is_tried else settle

    def may_be_part(self, path: Path, now: float) -> bool:
        """Whether a file that cannot be read may yet become whole; it is tried again then."""
        arrival = self._arriving.get(path)
        if arrival is None:
            return True  # it has gone
        if now - arrival.since >= self._options.patience_s:
            return False
        arrival.is_tried = True
        return True

    def done(self, path: Path) -> None:
        """Forget a photo for which all is done."""
        self._arriving.pop(path, None)

    def __len__(self) -> int:
        return len(self._arriving)


def signatures(folder: Path, *, recursive: bool = False) -> dict[Path, Signature]:
    """Look at the photos in a folder: size and time of the last change of each.

    Raises
    ------
    FileMissingError, NotAFileError, UnreadableFileError
        The folder is not there, is none, or may not be read; of folders in it, that is no error.
    """
    seen: dict[Path, Signature] = {}
    for path, _, error in photos_in(folder, recursive=recursive):
        if error is not None:
            if path == folder:
                raise _refused(folder, error)
            continue
        if (signature := signature_of(path)) is not None:
            seen[path] = signature
    return seen


def _refused(folder: Path, error: GiaError) -> GiaError:
    if is_folder(folder):
        return error
    if folder.exists():
        return NotAFileError(f"{folder} is not a folder.", hint="gia watch takes a folder.")
    return FileMissingError(
        f"The folder {folder} is not there.",
        hint="When it is back, start gia watch again: it continues where it stopped.",
    )


def signature_of(path: Path) -> Signature | None:
    """Tell a file's size and the time of its last change; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


# ---------------------------------------------------------------- when to look


class Waker(Protocol):
    """Says when a look at the folder is worthwhile."""

    def sleep(self, seconds: float) -> None:
        """Wait so long."""

    def wait(self, seconds: float) -> None:
        """Wait until something has changed, at most so long."""


class Polling:
    """Without events: every look is worthwhile."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def sleep(self, seconds: float) -> None:
        """Wait so long."""
        time.sleep(seconds)

    def wait(self, seconds: float) -> None:
        """Wait for the next look."""
        time.sleep(min(self._seconds, seconds))


class _Events:
    """What watchdog says."""

    def __init__(self) -> None:
        self._changed = threading.Event()

    def dispatch(self, event: object) -> None:
        """Take an event; watchdog calls it, in a thread of its own."""
        if getattr(event, "event_type", "") not in ("opened", "closed_no_write"):  # we read, too
            self._changed.set()

    def sleep(self, seconds: float) -> None:
        """Wait so long."""
        time.sleep(seconds)

    def wait(self, seconds: float) -> None:
        """Wait until something has changed, at most so long."""
        self._changed.wait(seconds)
        self._changed.clear()


@contextmanager
def waking(
    folder: Path, recursive: bool, options: WatchOptions, progress: Progress
) -> Iterator[Waker]:
    """Watch a folder's events; where the system has none to give, poll.

    Raises
    ------
    UsageError
        The package for events is not installed, and no polling was asked for.
    """
    if options.poll_s is not None:
        yield Polling(options.poll_s)
        return
    try:
        from watchdog.observers import Observer
    except ImportError:
        raise UsageError(
            "Watching needs the package watchdog.",
            hint="Install gia with the extra 'watch', or look every few seconds: --poll 5.",
        ) from None
    events, observer = _Events(), Observer()
    try:
        observer.schedule(events, str(folder), recursive=recursive)  # type: ignore[arg-type]
        observer.start()
    except (OSError, RuntimeError) as error:  # such as: too many are watched already
        with suppress(Exception):
            observer.stop()
        progress.note(f"The system reports no changes ({error}): gia looks every few seconds.")
        yield Polling(max(options.settle_s, 2.0))
        return
    try:
        yield events
    finally:
        observer.stop()
        observer.join()


# ---------------------------------------------------------------- the loop


def journal_path(folder: Path, batch: BatchOptions, options: WatchOptions) -> Path:
    """Tell where the journal is."""
    return options.journal or (batch.out_dir or folder) / JOURNAL


@contextmanager
def only_watch_of(folder: Path, batch: BatchOptions, options: WatchOptions) -> Iterator[None]:
    """Keep a second watch from the journal, and so from the photos of this one.

    Two that write into different folders may watch the same one.

    Raises
    ------
    UsageError
        There is one.
    OutputError
        The journal's folder is not there, or cannot be written to.
    """
    journal = journal_path(folder, batch, options)
    if batch.out_dir is not None:
        make_folder(batch.out_dir, "--out-dir")
    with ExitStack() as held:
        try:
            is_ours = held.enter_context(lock(journal.with_name(f".{journal.name}.lock")))
        except OSError as error:
            raise OutputError(
                f"The journal {journal} cannot be written: {error.strerror or error}.",
                hint="Choose another with --journal, or give --out-dir.",
            ) from error
        if not is_ours:
            raise UsageError(
                f"Another gia watch is at work in {folder}, and keeps the journal {journal}.",
                hint="Stop it, or use another --out-dir.",
            )
        yield


class Watch:
    """A watched folder; `step` by step, so that a clock is all that it needs.

    Parameters
    ----------
    folder : Path
    batch : BatchOptions
        What to make of each photo.
    options : WatchOptions
    run : function
        Enhances jobs and reports each result.
    on_result : function
        Receives each result that is final.
    progress : Progress
    clock : function
        Seconds, of a clock that never jumps.

    Raises
    ------
    GiaError
        The folder is not there, or the journal cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        batch: BatchOptions,
        options: WatchOptions,
        run: Run,
        *,
        on_result: Report,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.batch = batch
        self.options = options
        self.tally = Tally()
        self._run = run
        self._on_result = on_result
        self._progress = progress
        self._clock = clock
        present = signatures(folder, recursive=batch.recursive)
        plan_jobs([folder / "any.ARW"], batch)  # refuses options that contradict each other
        self._planned: dict[Path, Job] = {}
        self.journal = Journal(journal_path(folder, batch, options), folder)
        self.journal.note("started")
        if options.new_only and not self.journal.is_known:
            self.journal.ignore(
                {path: seen for path, seen in present.items() if not self._knows(path, seen)}
            )
        self.arrivals = Arrivals(folder, batch.recursive, options, self._is_done)
        self._tried: dict[Path, Signature] = {}  # in this run, in vain
        self._changed: set[Path] = set()  # while they were read: their pictures are not theirs
        self._active = clock()

    def _knows(self, path: Path, signature: Signature) -> bool:
        entry = self.journal.entries.get(_absolute(path))
        return entry is not None and entry.signature == signature

    def _is_done(self, path: Path, signature: Signature) -> bool:
        if self._tried.get(path) == signature:
            return True
        entry = self.journal.entries.get(_absolute(path))
        if entry is None or entry.signature != signature:
            return False
        if path not in self._planned:
            self._planned = self._plan()
        job = self._planned.get(path)
        targets = _targets(job) if job is not None else ()
        return entry.settles(signature, targets, new_only=self.options.new_only)

    def _plan(self) -> dict[Path, Job]:
        """Name the outputs of all photos: those of one depend on where it lies in the folder."""
        try:
            jobs = plan_jobs([self.folder], self.batch)
        except UsageError:  # all are gone since they were seen
            return {}
        return {job.source: job for job in jobs}

    def step(self) -> bool:
        """Look at the folder and do what is ready; returns whether there was anything."""
        now = self._clock()
        self.arrivals.look(now)
        ready = self.arrivals.settled(now)
        if not ready:
            return False
        self._planned = self._plan()
        jobs = [self._planned[path] for path in ready if path in self._planned]
        for path, seen in ready.items():
            if path not in self._planned and signature_of(path) == seen:
                self._tried[path] = seen  # another path to a photo that has one
                self.arrivals.done(path)
        anew = [job for job in jobs if job.source in self._changed]
        first = [job for job in jobs if job.source not in self._changed]
        for part, on_exists in ((first, self.batch.on_exists), (anew, "overwrite")):
            if part:
                self._enhance(part, replace(self.batch, on_exists=on_exists), ready)
        self._active = self._clock()
        return bool(jobs)

    def _enhance(
        self, jobs: Sequence[Job], options: BatchOptions, ready: Mapping[Path, Signature]
    ) -> None:
        by_source = {job.source: job for job in jobs}

        def report(result: FileResult) -> None:
            path = result.source
            self._take(result, by_source[path], ready[path])
            with suppress(GiaError):  # of a folder that has gone: the next step says so
                self.arrivals.look(self._clock())  # to know when the next ones came

        self._run(jobs, options, report)

    def _take(self, result: FileResult, job: Job, signature: Signature) -> None:
        """Write down what became of a photo, if that is the end of it."""
        path, now = result.source, self._clock()
        if signature_of(path) != signature:
            if result.status == "written":
                self._changed.add(path)
            return  # it is a new arrival
        if isinstance(result.error, _MAY_BE_PART) and self.arrivals.may_be_part(path, now):
            self._progress.note(f"{path.name} cannot be read yet: gia waits for the rest of it.")
            return
        self.journal.add(result, signature, job)
        self.tally.add(result.status)
        self._changed.discard(path)
        if result.status == "failed":
            self._tried[path] = signature
        self.arrivals.done(path)
        self._on_result(result)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        if len(self.arrivals):
            return False
        idle = self.options.stop_after_idle_s
        return self.options.once or (idle is not None and self._clock() - self._active >= idle)

    def pause(self, waker: Waker) -> None:
        """Wait for a photo to settle, else for something to happen."""
        if len(self.arrivals):
            waker.sleep(self.options.settle_s / _STEPS)
            return
        seconds = _RESCAN_S
        if self.options.stop_after_idle_s is not None:
            left = self.options.stop_after_idle_s - (self._clock() - self._active)
            seconds = min(seconds, max(left, 0.05))
        waker.wait(seconds)


def watch_folder(
    folder: Path,
    batch: BatchOptions,
    options: WatchOptions,
    run: Run,
    *,
    on_result: Report,
    progress: Progress,
) -> Tally:
    """Enhance what lies in a folder and what arrives in it.

    Parameters
    ----------
    folder : Path
    batch : BatchOptions
        What to make of each photo. `on_exists` is best "skip".
    options : WatchOptions
    run : function
        Enhances jobs and reports each result, as `run_jobs` does.
    on_result : function
        Receives each final result, when it is in the journal.
    progress : Progress

    Returns
    -------
    Tally
        When nothing is left to do, with `once` or after `stop_after_idle_s`; else never.

    Raises
    ------
    UsageError
        The folder is watched already, or the package watchdog is not installed.
    FileMissingError
        The folder is not there, or no longer.
    OutputError
        The journal cannot be written.
    Interrupted
        Ctrl-C or SIGTERM; the picture that was being written is finished and in the journal.
    """
    signatures(folder)  # refuses what is no folder
    with (
        only_watch_of(folder, batch, options),
        waking(folder, batch.recursive, options, progress) as waker,
    ):
        watch = Watch(folder, batch, options, run, on_result=on_result, progress=progress)
        try:
            _loop(watch, waker, progress)
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted(
                f"Stopped: {watch.tally}.",
                hint="The next start continues here: the journal says what is done.",
            ) from None
        finally:
            with suppress(GiaError):
                watch.journal.note("stopped")
    return watch.tally


def _loop(watch: Watch, waker: Waker, progress: Progress) -> None:
    is_waiting = False
    while True:
        if watch.step():
            is_waiting = False
            continue
        if watch.is_over:
            return
        if not is_waiting:
            progress.photo(watch.folder.name, 1, 1)  # the last batch's count is over
            progress.stage("waiting for photos", 1)
            is_waiting = True
        watch.pause(waker)
