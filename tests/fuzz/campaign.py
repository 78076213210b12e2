"""Mutants in child processes, which have limits and may die, and the count of what became of them.

A child handles many mutants, one after the other. Each has an alarm; all of a child's have a limit
of address space. When a child dies, the mutant that it was at is the culprit, and another child
continues behind it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from gia_cli.errors import GiaError
from gia_cli.runtime import peak_resident_bytes, resident_bytes
from tests.fuzz.exercise import exercise, kind_of
from tests.fuzz.seeds import KINDS, seeds

if sys.platform != "win32":
    import resource

Exercise = Callable[[int, int, Path], None]

_BATCH = 2000  # mutants of one child


@dataclass(frozen=True, slots=True)
class Limits:
    """What a mutant may take; the mutants are files of some ten thousand bytes."""

    cpu_seconds: float = 10.0
    """Of a core."""
    seconds: float = 120.0
    """Of anybody's time, for what waits."""
    memory: int = 200_000_000
    """Bytes that it makes the process grow by, at most."""
    address_space: int = 1 << 30
    """Bytes beyond what a child has at its start."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which mutants to make, and in how many processes."""

    seed: int
    count: int
    kinds: tuple[str, ...] = KINDS
    jobs: int = 1
    start: int = 0
    """The first index."""
    limits: Limits = Limits()

    def indices(self) -> Iterator[int]:
        """List the mutants: an index means the same one, whatever kinds are asked for."""
        index, left = self.start, self.count
        while left:
            if kind_of(index) in self.kinds:
                yield index
                left -= 1
            index += 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant."""

    index: int
    verdict: str
    """"ok", "exit 14 (DamagedFileError)", or "fault: ..."."""
    seconds: float = 0.0
    """Of a core."""
    grown: int = 0
    """Bytes of memory that it took, at most."""
    detail: str = field(default="", repr=False)
    """Of a fault: the traceback."""

    @property
    def is_fault(self) -> bool:
        """Whether this must not happen."""
        return self.verdict.startswith("fault")


def run(plan: Plan, work: Exercise = exercise) -> Generator[Outcome]:
    """Make and use mutants; yield what becomes of each, in the order in which they end.

    Parameters
    ----------
    plan : Plan
    work : function
        What makes and uses one; of a module, so that a child can find it.
    """
    indices = list(plan.indices())
    batches = [indices[at : at + _BATCH] for at in range(0, len(indices), _BATCH)][::-1]
    children: dict[Connection, _Child] = {}
    with TemporaryDirectory(prefix="gia-fuzz-") as folder:
        try:
            while batches or children:
                while batches and len(children) < plan.jobs:
                    child = _Child.begin(plan, batches.pop(), work, Path(folder))
                    children[child.connection] = child
                for ready in wait(list(children)):
                    assert isinstance(ready, Connection)
                    child = children[ready]
                    outcome = child.take()
                    if outcome is not None:
                        yield outcome
                    if child.is_over:
                        del children[ready]
                        if child.left:
                            batches.append(child.left)
        finally:
            for child in children.values():
                child.end()


@dataclass(slots=True)
class _Child:
    """A process, what it still has to do, and the end of a pipe from it."""

    process: BaseProcess
    connection: Connection
    left: list[int]
    is_over: bool = False

    @classmethod
    def begin(cls, plan: Plan, batch: list[int], work: Exercise, folder: Path) -> _Child:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_use_all, args=(theirs, plan, batch, work, folder), daemon=True
        )
        process.start()
        theirs.close()
        return cls(process, ours, list(batch))

    def take(self) -> Outcome | None:
        """Take the outcome that is there; that of a death is the first mutant's without one."""
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.connection.close()
            self.is_over = True
            return Outcome(self.left.pop(0), self._death()) if self.left else None
        self.left.remove(outcome.index)
        return outcome

    def _death(self) -> str:
        code = self.process.exitcode or 0
        if -code in (signal.SIGPROF, signal.SIGALRM):
            return "fault: it takes too long"
        return (
            f"fault: {signal.Signals(-code).name}" if code < 0 else f"fault: it exits with {code}"
        )

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


# ---------------------------------------------------------------- in the child


def _use_all(
    connection: Connection, plan: Plan, batch: list[int], work: Exercise, folder: Path
) -> None:
    """Use the mutants of a batch, and send what becomes of each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    warnings.simplefilter("error")  # a user would see them
    warnings.simplefilter("ignore", ResourceWarning)  # of the console, which ends with a process
    for kind in {kind_of(index) for index in batch}:
        seeds(kind)  # before anything is limited or measured
    own = folder / f"{os.getpid()}"
    own.mkdir()
    _limit_address_space(plan.limits.address_space)
    for index in batch:
        connection.send(_use(plan, index, work, own))
    connection.close()


def _limit_address_space(more: int) -> None:
    """End allocations beyond what this process has and `more` bytes (Linux)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    taken = 0
    with contextlib.suppress(OSError):  # no Linux
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        taken = pages * resource.getpagesize()
    if taken:
        limit = taken + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _use(plan: Plan, index: int, work: Exercise, folder: Path) -> Outcome:
    """Use one mutant, in this process, under its alarms, which end the process."""
    _forget_peak()
    before, started = resident_bytes(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, plan.limits.cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, plan.limits.seconds)
    verdict, detail = _verdict(plan.seed, index, work, folder)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - started
    grown = max(peak_resident_bytes() - before, 0)
    if grown > plan.limits.memory and not verdict.startswith("fault"):
        verdict = "fault: it takes too much memory"
    _empty(folder)
    return Outcome(index, verdict, seconds, grown, detail)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _verdict(seed: int, index: int, work: Exercise, place: Path) -> tuple[str, str]:
    try:
        work(seed, index, place)
    except GiaError as error:
        return f"exit {error.exit_code} ({type(error).__name__})", str(error)
    except Exception as error:
        return f"fault: {type(error).__name__}", traceback.format_exc()
    return "ok", ""


def _forget_peak() -> None:
    """Let the kernel measure the largest resident memory anew (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# ---------------------------------------------------------------- counts


@dataclass(slots=True)
class Tally:
    """Counts of outcomes, the costliest mutants, and all faults."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind and verdict."""
    longest: Outcome | None = None
    largest: Outcome | None = None
    faults: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self.counts[kind_of(outcome.index), outcome.verdict] += 1
        if self.longest is None or outcome.seconds > self.longest.seconds:
            self.longest = outcome
        if self.largest is None or outcome.grown > self.largest.grown:
            self.largest = outcome
        if outcome.is_fault:
            self.faults.append(outcome)

    def table(self, seed: int) -> str:
        """Lay the counts out: a line for each verdict, a column for each kind."""
        kinds = [kind for kind in KINDS if any(kind == key for key, _ in self.counts)]
        verdicts = sorted({verdict for _, verdict in self.counts}, key=_order)
        width = max([len(verdict) for verdict in verdicts], default=8)
        lines = [" " * width + "".join(f"{kind:>9}" for kind in kinds) + f"{'all':>9}"]
        for verdict in verdicts:
            numbers = [self.counts[kind, verdict] for kind in kinds]
            cells = "".join(f"{number or '':>9}" for number in (*numbers, sum(numbers)))
            lines.append(f"{verdict:<{width}}{cells}")
        totals = [sum(n for (of, _), n in self.counts.items() if of == kind) for kind in kinds]
        total = "".join(f"{number:>9}" for number in (*totals, sum(totals)))
        lines.append(f"{'all':<{width}}{total}")
        if self.longest is not None and self.largest is not None:
            longest, largest = self.longest, self.largest
            lines += [
                f"longest time: {longest.seconds:.2f} s of a core, mutant {seed}:{longest.index}",
                f"most memory: {largest.grown / 1e6:.0f} MB, mutant {seed}:{largest.index}",
            ]
        return "\n".join(lines)


def _order(verdict: str) -> tuple[int, int, str]:
    """Sort "ok" first, then exit codes by number, then faults."""
    if verdict.startswith("exit"):
        return 1, int(verdict.split()[1]), verdict
    return (2 if verdict.startswith("fault") else 0), 0, verdict
