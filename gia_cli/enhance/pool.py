"""A batch on many workers: who gets which photos, and what becomes of those of a worker that dies.

Each worker runs a batch of its own, of a few photos at a time, so that reading, network and writing
overlap in it. What a worker is, a process on this machine or on another one, is its pool's matter.

Every photo gets one result, and no file is written twice:

- What needs no work is settled here, before anything is given away; so is, for `on_exists`
  "error", what must not be replaced. What appears later is the work of a worker that died before it
  could tell, and is not done again.
- The photos of a worker that dies are done again, one by one, so that one that kills its worker
  costs no other. One that does so every time has failed.
- A photo that a worker cannot write goes to another one. If that one can, the first is given no
  more: a full disk fails fast, and would soon have all photos.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from gia_cli.enhance.batch import BatchOptions, FileResult, Job, files_of, settled
from gia_cli.enhance.storage import exists
from gia_cli.errors import (
    ClusterError,
    DeviceError,
    GiaError,
    Interrupted,
    OutputError,
    OutputExistsError,
    StorageError,
    WorkerError,
)
from gia_cli.files import OnExists
from gia_cli.progress import Progress

#: Photos that a worker is given at a time, at most.
CHUNK = 16
#: How often a photo may lose its worker: once among others, and twice alone.
LOSSES = 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a worker is given at a time."""

    numbers: tuple[int, ...]
    """Places of the jobs in the batch."""
    jobs: tuple[Job, ...]
    on_exists: OnExists


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker waits for photos: a new one, or one that is done with a chunk."""

    worker: int
    name: str


@dataclass(frozen=True, slots=True)
class Done:
    """A photo of a worker's chunk has its result."""

    worker: int
    number: int
    result: FileResult


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker has died, with what is left of its chunk; `Ready` follows if it starts again."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker has ended, or could not begin, and will not come back."""

    worker: int
    error: GiaError


Event = Ready | Done | Lost | Gone


class Pool(Protocol):
    """Workers, numbered from 0."""

    @property
    def size(self) -> int:
        """How many there are, those included that are still starting."""

    def give(self, worker: int, chunk: Chunk) -> None:
        """Let a worker that is ready do a chunk; returns at once."""

    def wait(self) -> Iterable[Event]:
        """Wait a moment for something to happen; of each worker in its order."""

    def stop(self) -> None:
        """Let the workers finish the photo that each is at, and begin no other."""


#: Opens a pool for so many photos.
OpenPool = Callable[[int], AbstractContextManager[Pool]]


def run_in_pool(
    jobs: Sequence[Job],
    open_pool: OpenPool,
    options: BatchOptions,
    *,
    progress: Progress,
    on_result: Callable[[FileResult], None] = lambda result: None,
) -> list[FileResult]:
    """Enhance every photo, as `run_jobs` does, on the workers of a pool.

    Parameters
    ----------
    jobs : sequence of Job
    open_pool : function
        Opens the pool, when it is known how many photos need work; it is not called for none.
    options : BatchOptions
        The pool's workers have the same.
    progress : Progress
    on_result : function
        Receives each result as soon as it is known, in any order.

    Returns
    -------
    list of FileResult
        In the order of the jobs; failures among them.

    Raises
    ------
    Interrupted
        Ctrl-C: the pictures being written are finished, the rest is not begun.
    ClusterError
        No worker is left.
    GiaError
        What kept all workers from beginning.
    """
    batch = _Batch(jobs, options, progress, on_result)
    try:
        batch.settle()
        if batch.is_open:
            with open_pool(len(jobs) - len(batch.results)) as pool:
                batch.work(pool)
    except KeyboardInterrupt:
        done = len(batch.results)
        raise Interrupted(f"Interrupted after {done} of {len(jobs)} photos.") from None
    return [batch.results[number] for number in range(len(jobs))]


@dataclass(slots=True)
class _Worker:
    name: str = ""
    left: set[int] = field(default_factory=set)
    """Photos that it was given, without a result."""
    is_ready: bool = False
    is_doubted: bool = False
    """It could not write a photo, and another one is trying."""
    is_passed_over: bool = False
    """Another one could."""


class _Batch:
    """What is done, what is given away, and what waits."""

    def __init__(
        self,
        jobs: Sequence[Job],
        options: BatchOptions,
        progress: Progress,
        on_result: Callable[[FileResult], None],
    ) -> None:
        self._jobs, self._options = jobs, options
        self._progress, self._on_result = progress, on_result
        self.results: dict[int, FileResult] = {}
        self._workers: dict[int, _Worker] = {}
        self._first: GiaError | None = None  # of the workers that are gone
        self._fresh: deque[int] = deque()
        self._lost: deque[int] = deque()
        self._losses: dict[int, int] = {}
        # Photos that a worker could not write: which one, and what it said.
        self._elsewhere: dict[int, tuple[int, FileResult]] = {}
        self._waiting: deque[int] = deque()  # of them, those that nobody has yet
        self._events: deque[Event] = deque()
        self._there: dict[int, set[Path]] = {}  # files that were there before
        self._is_ending = False  # nothing is given away any more, and what is lost stays undone

    @property
    def is_open(self) -> bool:
        """Whether a photo has no result yet."""
        return len(self.results) < len(self._jobs)

    @property
    def _is_busy(self) -> bool:
        return any(worker.left for worker in self._workers.values())

    # ------------------------------------------------------------ before the work

    def settle(self) -> None:
        """Report what needs no work, and queue the rest."""
        for number, job in enumerate(self._jobs):
            if (result := settled(job, self._options)) is not None:
                self._finish(number, result)
                continue
            self._fresh.append(number)
            if self._options.on_exists == "skip":  # else nothing is there, or it may be replaced
                there = set(filter(exists, files_of(job, self._options)))
                self._there |= {number: there} if there else {}

    def work(self, pool: Pool) -> None:
        """Have the rest done."""
        self._workers = {number: _Worker() for number in range(pool.size)}
        try:
            while self.is_open:
                self._give_out(pool)
                self._take_in(pool.wait())
        except KeyboardInterrupt:
            self._is_ending = True
            pool.stop()
            self._take_in(())
            while self._is_busy:
                self._take_in(pool.wait())
            raise

    # ------------------------------------------------------------ giving

    def _give_out(self, pool: Pool) -> None:
        """Give photos to all workers that wait and may have some."""
        for number in self._workers:
            self._give(pool, number)
        waiting = self._fresh or self._lost or self._waiting
        if waiting and not self._is_busy and self._all_wait():
            self._end_doubts()
            for number in self._workers:
                self._give(pool, number)

    def _all_wait(self) -> bool:
        known = [worker for worker in self._workers.values() if worker.name]
        return bool(known) and all(worker.is_ready for worker in known)

    def _end_doubts(self) -> None:
        """Take what workers said of their photos for true: nobody is left to show otherwise."""
        for number in tuple(self._waiting):
            self._finish(number, self._elsewhere[number][1])
        self._waiting.clear()
        for worker in self._workers.values():
            worker.is_doubted = worker.is_passed_over = False

    def _give(self, pool: Pool, number: int) -> None:
        worker = self._workers[number]
        if not worker.is_ready or worker.left:
            return
        numbers, again = self._choose(number, worker)
        if not numbers:
            return
        on_exists = self._options.on_exists
        if again and on_exists == "error":
            on_exists = "skip"  # what is there now, one of us has made
        jobs = tuple(self._jobs[each] for each in numbers)
        worker.left, worker.is_ready = set(numbers), False
        pool.give(number, Chunk(numbers, jobs, on_exists))

    def _choose(self, number: int, worker: _Worker) -> tuple[tuple[int, ...], bool]:
        """Choose a worker's next photos; tells whether they have been given away before."""
        for photo in self._waiting:
            if self._elsewhere[photo][0] != number:
                self._waiting.remove(photo)
                return (photo,), True
        if worker.is_doubted or worker.is_passed_over:
            return (), False
        if self._fresh:
            # Smaller ones towards the end, so that the workers end together.
            share = -(-len(self._fresh) // (2 * len(self._workers)))
            size = min(share, CHUNK, len(self._fresh))
            return tuple(self._fresh.popleft() for _ in range(size)), False
        if self._lost:
            return (self._lost.popleft(),), True
        return (), False

    # ------------------------------------------------------------ taking

    def _take_in(self, events: Iterable[Event]) -> None:
        """Draw the consequences of what has happened; also of what was interrupted last time."""
        self._events.extend(events)
        while self._events:
            self._take(self._events.popleft())

    def _take(self, event: Event) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return  # it is gone
        if isinstance(event, Ready):
            if worker.left:  # it was given a chunk, and has not done all of it
                self._lose(worker, "it ended early")
            if not worker.name:
                self._progress.detail(f"worker {event.worker + 1}: {event.name}")
            worker.name, worker.is_ready = event.name, True
        elif isinstance(event, Done):
            if event.number in worker.left:
                worker.left.discard(event.number)
                self._judge(event.number, event.worker, event.result)
        elif isinstance(event, Lost):
            worker.is_ready = False
            self._lose(worker, event.reason)
        else:
            self._lose(worker, event.error.message)
            del self._workers[event.worker]
            self._first = self._first or event.error
            if not self._workers and self.is_open and not self._is_ending:
                raise self._nobody_left(self._first, event.error)

    def _nobody_left(self, first: GiaError, last: GiaError) -> GiaError:
        if not self._losses and not isinstance(first, ClusterError):
            return first  # it kept all of them from beginning
        done = len(self.results)
        return ClusterError(
            f"No worker is left after {done} of {len(self._jobs)} photos: {last.message}"
        )

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Queue what a worker has not done, one by one, or give up on it."""
        lost, worker.left = sorted(worker.left), set()
        if lost:
            count = f"{len(lost)} photo{'' if len(lost) == 1 else 's'}"
            name = worker.name or "a worker"
            self._progress.detail(f"{name} is lost with {count}: {reason}")
        for number in () if self._is_ending else lost:
            self._losses[number] = self._losses.get(number, 0) + 1
            if self._losses[number] < LOSSES:
                self._lost.append(number)
                continue
            source = self._jobs[number].source
            error = WorkerError(f"{source}: its worker died of it {LOSSES} times: {reason}")
            self._finish(number, FileResult(source, "failed", error=error))

    def _judge(self, number: int, worker: int, result: FileResult) -> None:
        """Take a result, or have a photo that could not be written tried by another worker."""
        others = any(each.name for n, each in self._workers.items() if n != worker)
        if number in self._elsewhere:
            self._decide(*self._elsewhere[number], worker, result)
        elif others and _is_of_the_worker(result.error):
            self._elsewhere[number] = worker, result
            self._waiting.append(number)
            self._workers[worker].is_doubted = True
            return
        self._finish(number, result)

    def _decide(self, first: int, before: FileResult, second: int, result: FileResult) -> None:
        """Trust the worker again that could not write a photo, or no longer."""
        doubted = self._workers.get(first)
        if doubted is None:
            return
        doubted.is_doubted = any(self._elsewhere[each][0] == first for each in self._waiting)
        could = result.error is None and first != second
        if could and before.error is not None and not doubted.is_passed_over:
            doubted.is_passed_over = True
            self._progress.note(
                f"{doubted.name} is given no more photos, for another worker could do what it "
                f"could not: {before.error.message}"
            )

    def _finish(self, number: int, result: FileResult) -> None:
        if number in self._losses or number in self._elsewhere:
            result = self._completed(number, result)
        self.results[number] = result
        for note in result.notes:
            self._progress.note(note)
        self._on_result(result)
        self._progress.photo(result.source.name, len(self.results), len(self._jobs))

    def _completed(self, number: int, result: FileResult) -> FileResult:
        """Count to a photo's outputs what a worker had made that could not tell."""
        if result.status == "failed" or self._options.on_exists == "overwrite":
            return result
        there = self._there.get(number, set())
        made = [f for f in files_of(self._jobs[number], self._options) if f not in there]
        if result.status == "skipped" and made:
            note = "written by a worker that was lost before it could tell the ratio."
            return replace(
                result,
                status="written",
                outputs=made,
                notes=[*result.notes, f"{result.source.name}: {note}"],
            )
        return replace(result, outputs=made) if result.status == "written" else result


def _is_of_the_worker(error: GiaError | None) -> bool:
    """Whether another worker may do what this one could not."""
    of_outputs = isinstance(error, OutputError) and not isinstance(error, OutputExistsError)
    return of_outputs or isinstance(error, DeviceError | StorageError)
