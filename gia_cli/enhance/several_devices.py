"""A batch on several devices: each has an enhancer and a pipeline of its own.

A device takes the next photo when it is free, so that a faster card does more of them; one whose
work the CPU does, because it has failed, takes no more while another works. Results are told in the
order of the photos, whichever device made them. All run in one process: the network, NumPy and what
reads and writes files let go of Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from threading import Event, Lock, RLock
from typing import overload

from gia_cli.enhance.batch import BatchOptions, FileResult, Job, run_jobs
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.lanes import InOrder
from gia_cli.enhance.showing import Shown
from gia_cli.enhance.stages import Enhanced
from gia_cli.errors import Interrupted
from gia_cli.progress import Progress
from gia_cli.runtime import available_cores

_WAIT_SECONDS = 0.2  # until a wait returns, Ctrl-C must wait too


def run_on_devices(
    jobs: Sequence[Job],
    enhancers: Sequence[Enhancer],
    options: BatchOptions,
    *,
    progress: Progress,
    on_result: Callable[[FileResult], None] = lambda result: None,
) -> list[FileResult]:
    """Enhance every photo on one of several devices; with one enhancer, as `run_jobs` does.

    Parameters
    ----------
    enhancers : sequence of Enhancer
        One for each device; all of the same weights and options.
    progress : Progress
        With several devices it receives a stage, "photos", instead of each photo's stages.
    jobs, options, on_result
        As for `run_jobs`, as what is returned and raised: `on_result` is never called by two
        threads at once, and Ctrl-C stops every device.
    """
    if len(enhancers) == 1:
        return run_jobs(jobs, enhancers[0], options, progress=progress, on_result=on_result)
    progress.stage("photos", len(jobs))
    told = InOrder(on_result, progress)
    stop, left = Event(), _Left(jobs)
    options = _one_at_a_time(options)

    shares = [_Share(left, enhancer) for enhancer in enhancers]

    def work(enhancer: Enhancer, share: _Share) -> None:
        run_jobs(
            share,
            enhancer,
            options,
            progress=_OfOne(progress, stop, left),
            on_result=lambda result: told.add(share.next_number(), result),
            cores=max(1, available_cores() // len(enhancers)),
        )

    running: list[Future[None]] = []
    was_interrupted = False
    with ThreadPoolExecutor(len(enhancers), "device") as pool:
        try:
            running += [pool.submit(work, *pair) for pair in zip(enhancers, shares, strict=True)]
            was_interrupted = _wait_for(running, stop)
        except KeyboardInterrupt:  # between two waits
            was_interrupted = True
            stop.set()  # leaving the pool waits for all
    told.flush()  # what was made before a photo that was not
    errors = [future.exception() for future in running]
    for error in errors:
        if error is not None and not isinstance(error, Interrupted):
            raise error
    if was_interrupted or any(errors):
        done = len(told.results)
        raise Interrupted(f"Interrupted after {done} of {len(jobs)} photos.") from None
    return told.results


def _wait_for(running: Sequence[Future[None]], stop: Event) -> bool:
    """Wait until all have ended; whether by Ctrl-C. Where one fails, the others stop, too."""
    was_interrupted, pending = False, set(running)
    while pending:
        try:
            done, pending = wait(pending, _WAIT_SECONDS)
        except KeyboardInterrupt:
            was_interrupted = True
            stop.set()
            continue
        if any(future.exception() is not None for future in done):
            stop.set()
    return was_interrupted


def _one_at_a_time(options: BatchOptions) -> BatchOptions:
    """Let one writing thread at a time keep a picture for a page."""
    show, lock = options.show, Lock()
    if show is None:
        return options

    def locked(picture: Enhanced) -> Shown:
        with lock:
            return show(picture)

    return replace(options, show=locked)


class _Left:
    """The photos that no device has taken yet."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.total = len(jobs)
        self._jobs = iter(enumerate(jobs))
        self._lock = Lock()
        self._begun = 0
        self._working: list[_Share] = []

    def join(self, share: _Share) -> None:
        """Let a device take part."""
        self._working.append(share)

    def take(self, share: _Share) -> tuple[int, Job] | None:
        """Hand out the next photo and its number; None to a device that is to take no more."""
        with self._lock:
            others = [each for each in self._working if each is not share]
            if share.enhancer.has_left_device and not all(
                each.enhancer.has_left_device for each in others
            ):
                self._working = others
                return None
            return next(self._jobs, None)

    def begin(self) -> int:
        """Count a photo that is begun."""
        with self._lock:
            self._begun += 1
            return self._begun


class _Share(Sequence[Job]):
    """The photos that one device has taken. Going on to the next one takes it.

    Once it has got none it gets no more: a batch goes through its photos twice, to read ahead and
    to compute, and must come to one end, also where the other devices fail in between.
    """

    def __init__(self, left: _Left, enhancer: Enhancer) -> None:
        self.enhancer = enhancer
        self._left = left
        left.join(self)
        self._taken: list[tuple[int, Job]] = []
        self._told = 0
        self._is_over = False
        self._lock = RLock()

    def next_number(self) -> int:
        """Return the number, among all photos, of the next one to tell of: they come in order."""
        number, _ = self._taken[self._told]
        self._told += 1
        return number

    def _has(self, index: int) -> bool:
        with self._lock:
            while len(self._taken) <= index and not self._is_over:
                taken = self._left.take(self)
                if taken is None:
                    self._is_over = True
                else:
                    self._taken.append(taken)
            return len(self._taken) > index

    def __iter__(self) -> Iterator[Job]:
        index = 0
        while self._has(index):
            yield self._taken[index][1]
            index += 1

    def __len__(self) -> int:
        """Count all photos, for what is said of them: which ones are its own is not known yet."""
        return self._left.total

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Job]: ...
    def __getitem__(self, index: int | slice) -> Job | Sequence[Job]:
        if isinstance(index, slice):
            return list(self)[index]
        if not self._has(index):
            raise IndexError(index)
        return self._taken[index][1]


class _OfOne:
    """A `Progress` for one device of several: its notes count, its stages would be a muddle.

    Each report is where Ctrl-C reaches a device's thread.
    """

    def __init__(self, progress: Progress, stop: Event, left: _Left) -> None:
        self._progress = progress
        self._stop = stop
        self._left = left

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt

    def photo(self, name: str, number: int, total: int) -> None:
        self._go_on()
        self._progress.photo(name, self._left.begin(), self._left.total)

    def stage(self, name: str, total: int) -> None:
        self._go_on()

    def advance(self, steps: int = 1) -> None:
        self._go_on()

    def status(self, message: str) -> None:
        self._go_on()

    def note(self, message: str) -> None:
        self._progress.note(message)

    def detail(self, message: str) -> None:
        self._progress.detail(message)
