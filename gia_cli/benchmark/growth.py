"""Time and memory of the network against the size of the photo, with and without a limit.

Each run is a process of its own, so its peak memory is its own. The frames are of random numbers:
what a network computes does not depend on what it sees. Decoding and writing are not included.
"""

from __future__ import annotations

import multiprocessing
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from gia_cli.benchmark.frames import random_mosaic, size_of
from gia_cli.errors import GiaError, UsageError
from gia_cli.inference.plan import InferOptions, plan
from gia_cli.inference.run import infer
from gia_cli.inference.select import open_engine
from gia_cli.interrupts import deaf_children
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import peak_resident_bytes, resolve
from gia_cli.weights.manifest import find_weights


@dataclass(frozen=True, slots=True)
class GrowthConfig:
    """Which sizes to run with which weights."""

    megapixels: tuple[float, ...]
    limits: tuple[int | None, ...] = (None,)
    """Bytes that the network may take; None: all that is free."""
    weights: str | None = None
    """Name or path; None: the shipped ones for Bayer photos."""
    rounds: int = 3

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be run."""
        if not self.megapixels or not all(0 < size <= 1000 for size in self.megapixels):
            raise UsageError("--growth takes megapixels such as 3,12,24, up to 1000.")
        if self.rounds < 1:
            raise UsageError(f"--rounds must be positive, not {self.rounds}.")


@dataclass(frozen=True, slots=True)
class Point:
    """One size under one limit."""

    megapixels: float
    limit: int | None
    plan: str
    """How the frame was cut up."""
    seconds: list[float] = field(repr=False)
    """Of each round."""
    peak_bytes: int
    """The largest of all rounds."""
    error: str | None = None

    @property
    def median(self) -> float:
        """Median seconds; NaN if it failed."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


@dataclass(frozen=True, slots=True)
class _Run:
    plan: str
    seconds: float
    peak_bytes: int


def measure_growth(config: GrowthConfig, progress: Progress = SILENT) -> list[Point]:
    """Run every size under every limit, in turns.

    Parameters
    ----------
    config : GrowthConfig
    progress : Progress
        Receives a stage "growing" with a step for each run.

    Raises
    ------
    WeightsError
    """
    find_weights(config.weights, "bayer" if config.weights is None else None)
    ways = [(size, limit) for size in config.megapixels for limit in config.limits]
    found: dict[tuple[float, int | None], list[_Run | str]] = {way: [] for way in ways}
    progress.stage("growing", config.rounds * len(ways))
    for _ in range(config.rounds):
        for size, limit in ways:
            progress.status(f"{size:g} megapixels")
            found[size, limit].append(_run(size, limit, config.weights))
            progress.advance()
    return [_point(size, limit, found[size, limit]) for size, limit in ways]


def _point(size: float, limit: int | None, found: Sequence[_Run | str]) -> Point:
    runs = [run for run in found if isinstance(run, _Run)]
    errors = [run for run in found if isinstance(run, str)]
    return Point(
        megapixels=size,
        limit=limit,
        plan=runs[-1].plan if runs else "",
        seconds=[run.seconds for run in runs],
        peak_bytes=max((run.peak_bytes for run in runs), default=0),
        error=errors[0] if errors else None,
    )


def _run(megapixels: float, limit: int | None, weights: str | None) -> _Run | str:
    """Run one size in a process of its own; words if it fails."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, megapixels, limit, weights)
    process = context.Process(target=_serve, args=arguments, daemon=True)
    with deaf_children():
        process.start()
    theirs.close()
    try:
        answer: _Run | str = ours.recv()
    except EOFError:  # killed, as for want of memory
        answer = "its process has died"
    finally:
        process.terminate()
        process.join()
    return answer


def _serve(pipe: Connection, megapixels: float, limit: int | None, weights: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends us
    try:
        pipe.send(run_once(megapixels, limit, weights))
    except (GiaError, RuntimeError, MemoryError) as error:
        pipe.send(str(error) or type(error).__name__)


def run_once(megapixels: float, limit: int | None, weights: str | None) -> _Run:
    """Run the network on the CPU, in this process; its peak memory counts from the start."""
    info = find_weights(weights, "bayer" if weights is None else None)
    is_int8 = info.quantized_from is not None
    engine = open_engine(info, resolve("cpu", "int8" if is_int8 else "fp32"))
    mosaic = random_mosaic(size_of(megapixels), info.config.cfa)
    options = InferOptions(max_memory=limit)
    chosen = str(plan(engine, mosaic, options))
    start = time.perf_counter()
    infer(engine, mosaic, options)
    return _Run(chosen, time.perf_counter() - start, peak_resident_bytes())
