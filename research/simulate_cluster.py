"""Simulate a batch on many workers: how long, and what it waits for.

    python research/simulate_cluster.py [--photos 10000] [--photo-s 4.5] [--photo-mb 80]

Gia's own rules give the photos out (`run_in_pool`); only the workers and the clock are made up. A
worker takes a photo's time from a log-normal distribution (a deviation of 20 %), beside which the
photo is read and the last picture written; that waits for the storage, which serves one after the
other at its rate. The driver takes each result in turn. A worker dies once in so many photos, and
is back after its start. Printed for each number of workers and rate of the storage: the time, how
much of it the workers compute, and what limits it.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from gia_cli.cluster.pool import Chunk, Done, Event, Lost, Ready, run_in_pool
from gia_cli.enhance.batch import BatchOptions, FileResult, Job
from gia_cli.enhance.cluster import Photos
from gia_cli.progress import SILENT


class Simulated:
    """A pool whose workers are events on a clock of its own."""

    def __init__(self, size: int, rate_mb: float, options: argparse.Namespace) -> None:
        self.size, self.rate_mb, self.options = size, rate_mb, options
        self.random = random.Random(1)
        self.now = self.storage = self.driver = self.computing = 0.0
        self.order = 0
        self.pending: list[tuple[float, int, Event | tuple[int, Chunk[Job], int]]] = []
        for worker in range(size):
            self._later(options.start_s * self.random.uniform(0.8, 1.2), Ready(worker, f"{worker}"))

    def _later(self, time: float, event: Event | tuple[int, Chunk[Job], int]) -> None:
        self.order += 1
        heapq.heappush(self.pending, (time, self.order, event))

    def give(self, worker: int, chunk: Chunk[Job]) -> None:
        """Let a worker begin with a chunk's first photo."""
        self._later(self.now + self.options.call_s, (worker, chunk, 0))

    def _do(self, time: float, worker: int, chunk: Chunk[Job], place: int) -> None:
        """Do a photo: as long as it takes, or the storage, if that is longer."""
        if place == len(chunk.items):
            self._later(time, Ready(worker, f"{worker}"))
            return
        seconds = self.options.photo_s * math.exp(self.random.gauss(0, 0.2))
        self.storage = max(self.storage, time) + self.options.photo_mb / self.rate_mb
        end = max(time + seconds, self.storage)
        if self.random.random() * self.options.photos_to_a_death < 1:
            self._later(end, Lost(worker, "it died."))
            self._later(end + self.options.start_s, Ready(worker, f"{worker}"))
            return
        self.computing += seconds
        self._later(end, Done(worker, chunk.numbers[place], FileResult(chunk.items[place].source)))
        self._later(end, (worker, chunk, place + 1))

    def wait(self) -> Iterable[Event]:
        """Let the clock go on to the next event, and the driver take it."""
        while True:
            time, _, event = heapq.heappop(self.pending)
            if not isinstance(event, tuple):
                self.now = self.driver = max(self.driver, time) + self.options.result_s
                return [event]
            self._do(time, *event)

    def stop(self) -> None:
        """Nobody presses Ctrl-C here."""


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--photo-s", type=float, default=4.5, help="of one worker, for a photo")
    parser.add_argument("--photo-mb", type=float, default=80.0, help="read and written, together")
    parser.add_argument("--start-s", type=float, default=30.0, help="of a worker")
    parser.add_argument(
        "--result-s", type=float, default=0.0016, help="of the driver, for a result"
    )
    parser.add_argument("--call-s", type=float, default=0.01, help="until a worker has a chunk")
    parser.add_argument("--photos-to-a-death", type=float, default=1000.0)
    options = parser.parse_args()
    jobs = [Job(Path(f"/none/{n}"), (Path(f"/none/{n}.tif"),)) for n in range(options.photos)]
    task = Photos(BatchOptions(on_exists="overwrite"))
    print("workers  storage   minutes  speed-up  computing")
    alone = options.photos * options.photo_s
    for size in (1, 10, 100, 400):
        for rate in (100.0, 1000.0, 5000.0):
            pool = Simulated(size, rate, options)
            run_in_pool(task, jobs, lambda _, pool=pool: nullcontext(pool), progress=SILENT)
            shares = f"x{alone / pool.now:8.1f}  {pool.computing / size / pool.now:8.0%}"
            print(f"{size:7}  {rate:5.0f} MB/s  {pool.now / 60:7.1f}  {shares}")


if __name__ == "__main__":
    main()
