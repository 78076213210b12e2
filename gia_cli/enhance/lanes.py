"""Threads beside the network: photos are read ahead of it, and finished and written behind it.

How many there are depends on what computes. A graphics card takes a tenth of a second for a photo
that takes one to read and two to write; a CPU's cores are the network's, and it takes longest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import DeviceKind

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 4  # of each kind: with more the disk is the limit


@dataclass(frozen=True, slots=True)
class Lanes:
    """How many threads read ahead, and how many finish and write."""

    readers: int = 1
    writers: int = 1
    finishes_behind: bool = False
    """Whether the writers also bring in what was measured. On a CPU no gain was measured, and a
    photo's fusion beside the next one's network takes more memory."""

    @classmethod
    def beside(cls, device: DeviceKind, cores: int) -> Lanes:
        """Choose for a network that runs on a device.

        Parameters
        ----------
        device : DeviceKind
        cores : int
            Of the CPU, for this device alone.

        Examples
        --------
        >>> Lanes.beside("cuda", 16)
        Lanes(readers=4, writers=4, finishes_behind=True)
        >>> Lanes.beside("cpu", 16)
        Lanes(readers=1, writers=1, finishes_behind=False)
        """
        if device == "cpu":
            return cls()
        each = max(1, min(cores // 2, _MOST))
        return cls(each, each, finishes_behind=True)


@dataclass(slots=True)
class _Begun(Generic[Item, Result]):
    item: Item
    result: Future[Result] | None = None


class Ahead(Generic[Item, Result]):
    """Works on items in threads, ahead of whoever takes the results in the items' order.

    Parameters
    ----------
    items : iterable
        Gone through as items are begun, and not before.
    work : function of an item
    threads : ThreadPoolExecutor
        Where it runs.
    """

    def __init__(
        self, items: Iterable[Item], work: Callable[[Item], Result], threads: ThreadPoolExecutor
    ) -> None:
        self._items = iter(items)
        self._work = work
        self._threads = threads
        self._begun: deque[_Begun[Item, Result]] = deque()

    def begin(self, most: int) -> None:
        """Begin the next items, so that up to `most` are begun or done before they are taken."""
        for item in self._items if len(self._begun) < most else ():
            self._begun.append(_Begun(item))
            if len(self._begun) >= most:
                break
        for begun in list(self._begun)[:most]:
            if begun.result is None:
                begun.result = self._threads.submit(self._work, begun.item)

    def take(self) -> tuple[Item, Future[Result]] | None:
        """Take the next item, which is begun now if it was not; None if there is none."""
        self.begin(1)
        if not self._begun:
            return None
        first = self._begun.popleft()
        assert first.result is not None
        return first.item, first.result

    @property
    def items(self) -> list[Item]:
        """Those that have been gone through and that nobody has taken."""
        return [begun.item for begun in self._begun]

    @property
    def count(self) -> int:
        """How many have a result, or will have one."""
        return sum(begun.result is not None for begun in self._begun)

    @property
    def working(self) -> int:
        """How many of these have none yet."""
        return sum(begun.result is not None and not begun.result.done() for begun in self._begun)

    def drop(self) -> None:
        """Wait for what is being worked on and forget all results; they are made anew."""
        results = [begun.result for begun in self._begun if begun.result is not None]
        wait([result for result in results if not result.cancel()])
        for begun in self._begun:
            begun.result = None


class Behind:
    """Pieces of work in threads, of which the bytes are known that they take.

    Parameters
    ----------
    threads : ThreadPoolExecutor
        Where they run.
    """

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._underway: list[tuple[Future[None], int]] = []

    def submit(self, taken: int, work: Callable[..., None], *arguments: Any) -> None:
        """Hand in a piece of work that takes so many bytes."""
        self._underway.append((self._threads.submit(work, *arguments), taken))

    def wait(self, most: int = 0) -> None:
        """Wait until no more than `most` pieces are underway.

        Raises
        ------
        Exception
            What one of those that have ended has raised.
        """
        self.raise_failures()
        while len(self._underway) > most:
            wait([future for future, _ in self._underway], return_when=FIRST_COMPLETED)
            self.raise_failures()

    def settle(self) -> None:
        """Wait until nothing is underway; what was raised is for later."""
        wait([future for future, _ in self._underway])

    def raise_failures(self) -> None:
        """Raise what a piece of work that has ended has raised, if one has."""
        ended = [future for future, _ in self._underway if future.done()]
        self._underway = [each for each in self._underway if each[0] not in ended]
        for future in ended:
            future.result()

    @property
    def taken(self) -> int:
        """Bytes of what is underway."""
        return sum(taken for future, taken in self._underway if not future.done())

    @property
    def is_idle(self) -> bool:
        """Whether nothing is underway."""
        return all(future.done() for future, _ in self._underway)


class InOrder(Generic[Result]):
    """Tells of results in the order of their numbers, whichever is there first.

    Parameters
    ----------
    tell : function of a result
        Called by one thread at a time.
    progress : Progress
        Receives a step for each result, when it is there.
    """

    def __init__(self, tell: Callable[[Result], None], progress: Progress = SILENT) -> None:
        self.results: list[Result] = []
        """Those that were told of."""
        self._tell_of = tell
        self._progress = progress
        self._waiting: dict[int, Result] = {}
        self._next = 0
        self._lock = Lock()

    def add(self, number: int, result: Result) -> None:
        """Take a result; tell of it and of those behind it, when all before it are there."""
        with self._lock:
            self._progress.advance()
            self._waiting[number] = result
            while self._next in self._waiting:
                self._next += 1
                self._tell(self._next - 1)

    def flush(self) -> None:
        """Tell of the rest."""
        with self._lock:
            for number in sorted(self._waiting):
                self._tell(number)

    def _tell(self, number: int) -> None:
        result = self._waiting.pop(number)
        self.results.append(result)
        self._tell_of(result)
