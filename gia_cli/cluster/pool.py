"""Work on many workers: who gets which items, and what becomes of those of a worker that dies.

What an item is, a photo, a scene, an exposure, only its `Task` knows. Each worker is given a few at
a time. What a worker is, a process on this machine or on another one, is its pool's matter.

Every item gets one result, and nothing is done twice that need not be:

- What needs no work is settled here, before anything is given away. What appears later is the work
  of a worker that died before it could tell, and is not done again.
- The items of a worker that dies are done again, one by one, so that one that kills its worker
  costs no other. One that does so every time has failed.
- An item that a worker cannot do for a reason of its own, such as a full disk, goes to another one.
  If that one can do it, the first is given no more: a full disk fails fast, and would soon have all
  items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Generic, Protocol, TypeVar

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
from gia_cli.progress import Progress

#: Items that a worker is given at a time, at most.
CHUNK = 16
#: How often an item may lose its worker: once among others, and twice alone.
LOSSES = 3

Item = TypeVar("Item")
Result = TypeVar("Result")


class Task(ABC, Generic[Item, Result]):
    """What there is to know of the work beside how it is shared out."""

    #: What an item is called in messages, in the singular.
    noun: str

    @abstractmethod
    def name(self, item: Item) -> str:
        """Name an item, mostly by its path."""

    @abstractmethod
    def failed(self, item: Item, error: GiaError) -> Result:
        """Make the result of an item that cannot be done."""

    @abstractmethod
    def error(self, result: Result) -> GiaError | None:
        """Say why an item has failed; None if it has not."""

    def settled(self, items: Sequence[Item]) -> Iterator[Result | None]:
        """Yield, for each item, its result if it needs no work, else None."""
        yield from (None for _ in items)

    def completed(self, number: int, item: Item, result: Result) -> Result:
        """Count to a result what a worker had done that could not tell, of an item given again."""
        return result

    def notes(self, result: Result) -> Sequence[str]:
        """List what the user is to be told of a result."""
        return ()


@dataclass(frozen=True, slots=True)
class Chunk(Generic[Item]):
    """What a worker is given at a time."""

    numbers: tuple[int, ...]
    """Places of the items among all."""
    items: tuple[Item, ...]
    is_again: bool = False
    """Whether a worker has been given them before, and may have done some of the work."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker waits for items: a new one, or one that is done with a chunk."""

    worker: int
    name: str


@dataclass(frozen=True, slots=True)
class Done:
    """An item of a worker's chunk has its result."""

    worker: int
    number: int
    result: Any


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

    def give(self, worker: int, chunk: Chunk[Any]) -> None:
        """Let a worker that is ready do a chunk; returns at once."""

    def wait(self) -> Iterable[Event]:
        """Wait a moment for something to happen; of each worker in its order."""

    def stop(self) -> None:
        """Let the workers finish the item that each is at, and begin no other."""


#: Opens a pool for so many items.
OpenPool = Callable[[int], AbstractContextManager[Pool]]


def run_in_pool(
    task: Task[Item, Result],
    items: Sequence[Item],
    open_pool: OpenPool,
    *,
    progress: Progress,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Do every item on the workers of a pool.

    Parameters
    ----------
    task : Task
    items : sequence
    open_pool : function
        Opens the pool, when it is known how many items need work; it is not called for none.
    progress : Progress
        Is told of each item as a photo, in the order in which they are done.
    on_result : function
        Receives each result as soon as it is known, in any order.

    Returns
    -------
    list
        In the order of the items; failures among them.

    Raises
    ------
    Interrupted
        Ctrl-C: what workers are at is finished, the rest is not begun.
    ClusterError
        No worker is left.
    GiaError
        What kept all workers from beginning.
    """
    batch = _Batch(task, items, progress, on_result)
    try:
        batch.settle()
        if batch.is_open:
            with open_pool(len(items) - len(batch.results)) as pool:
                batch.work(pool)
    except KeyboardInterrupt:
        done = len(batch.results)
        raise Interrupted(f"Interrupted after {done} of {len(items)} {task.noun}s.") from None
    return [batch.results[number] for number in range(len(items))]


@dataclass(slots=True)
class _Worker:
    name: str = ""
    left: set[int] = field(default_factory=set)
    """Items that it was given, without a result."""
    is_ready: bool = False
    is_doubted: bool = False
    """It could not do an item, and another one is trying."""
    is_passed_over: bool = False
    """Another one could."""


class _Batch(Generic[Item, Result]):
    """What is done, what is given away, and what waits."""

    def __init__(
        self,
        task: Task[Item, Result],
        items: Sequence[Item],
        progress: Progress,
        on_result: Callable[[Result], None],
    ) -> None:
        self._task, self._items = task, items
        self._progress, self._on_result = progress, on_result
        self.results: dict[int, Result] = {}
        self._workers: dict[int, _Worker] = {}
        self._first: GiaError | None = None  # of the workers that are gone
        self._fresh: deque[int] = deque()
        self._lost: deque[int] = deque()
        self._losses: dict[int, int] = {}
        # Items that a worker could not do: which one, and what it said.
        self._elsewhere: dict[int, tuple[int, Result]] = {}
        self._waiting: deque[int] = deque()  # of them, those that nobody has yet
        self._events: deque[Event] = deque()
        self._is_ending = False  # nothing is given away any more, and what is lost stays undone

    @property
    def is_open(self) -> bool:
        """Whether an item has no result yet."""
        return len(self.results) < len(self._items)

    @property
    def _is_busy(self) -> bool:
        return any(worker.left for worker in self._workers.values())

    # ------------------------------------------------------------ before the work

    def settle(self) -> None:
        """Report what needs no work, and queue the rest."""
        for number, result in enumerate(self._task.settled(self._items)):
            if result is not None:
                self._finish(number, result)
            else:
                self._fresh.append(number)

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
        """Give items to all workers that wait and may have some."""
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
        """Take what workers said of their items for true: nobody is left to show otherwise."""
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
        worker.left, worker.is_ready = set(numbers), False
        items = tuple(self._items[each] for each in numbers)
        pool.give(number, Chunk(numbers, items, again))

    def _choose(self, number: int, worker: _Worker) -> tuple[tuple[int, ...], bool]:
        """Choose a worker's next items; tells whether they have been given away before."""
        for item in self._waiting:
            if self._elsewhere[item][0] != number:
                self._waiting.remove(item)
                return (item,), True
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
            f"No worker is left after {done} of {len(self._items)} {self._task.noun}s: "
            f"{last.message}"
        )

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Queue what a worker has not done, one by one, or give up on it."""
        lost, worker.left = sorted(worker.left), set()
        if lost:
            count = f"{len(lost)} {self._task.noun}{'' if len(lost) == 1 else 's'}"
            name = worker.name or "a worker"
            self._progress.detail(f"{name} is lost with {count}: {reason}")
        for number in () if self._is_ending else lost:
            self._losses[number] = self._losses.get(number, 0) + 1
            if self._losses[number] < LOSSES:
                self._lost.append(number)
                continue
            item = self._items[number]
            died = f"its worker died of it {LOSSES} times: {reason}"
            error = WorkerError(f"{self._task.name(item)}: {died}")
            self._finish(number, self._task.failed(item, error))

    def _judge(self, number: int, worker: int, result: Result) -> None:
        """Take a result, or have an item that could not be done tried by another worker."""
        others = any(each.name for n, each in self._workers.items() if n != worker)
        if number in self._elsewhere:
            self._decide(*self._elsewhere[number], worker, result)
        elif others and _is_of_the_worker(self._task.error(result)):
            self._elsewhere[number] = worker, result
            self._waiting.append(number)
            self._workers[worker].is_doubted = True
            return
        self._finish(number, result)

    def _decide(self, first: int, before: Result, second: int, result: Result) -> None:
        """Trust the worker again that could not do an item, or no longer."""
        doubted = self._workers.get(first)
        if doubted is None:
            return
        doubted.is_doubted = any(self._elsewhere[each][0] == first for each in self._waiting)
        could = self._task.error(result) is None and first != second
        error = self._task.error(before)
        if could and error is not None and not doubted.is_passed_over:
            doubted.is_passed_over = True
            self._progress.note(
                f"{doubted.name} is given no more {self._task.noun}s, for another worker could do "
                f"what it could not: {error.message}"
            )

    def _finish(self, number: int, result: Result) -> None:
        item = self._items[number]
        if number in self._losses or number in self._elsewhere:
            result = self._task.completed(number, item, result)
        self.results[number] = result
        for note in self._task.notes(result):
            self._progress.note(note)
        self._on_result(result)
        name = PurePath(self._task.name(item)).name
        self._progress.photo(name, len(self.results), len(self._items))


def _is_of_the_worker(error: GiaError | None) -> bool:
    """Whether another worker may do what this one could not."""
    of_outputs = isinstance(error, OutputError) and not isinstance(error, OutputExistsError)
    return of_outputs or isinstance(error, DeviceError | StorageError)
