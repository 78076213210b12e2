"""Time and memory of `gia enhance`'s network against the size of the photo.

    python scripts/measure_growth.py OUT [--limit 3GB] [--megapixels 3,12,24,45,61] [--rounds 3]

Each size is run in a process of its own, with all the memory that is free and under the limit, in
turns. Writes OUT.json and OUT.png (matplotlib), and prints a table. The frames are of random
numbers: what a network computes does not depend on what it sees.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil

from gia_cli.inference.plan import InferOptions, plan
from gia_cli.inference.run import infer
from gia_cli.inference.select import open_engine
from gia_cli.raw.cfa import Alignment
from gia_cli.raw.packing import PackedMosaic
from gia_cli.runtime import parse_size, peak_resident_bytes, resolve
from gia_cli.weights.manifest import find_weights


@dataclass
class Point:
    """One size, one way."""

    megapixels: float
    limit: int | None
    plan: str
    seconds: list[float]
    peak_bytes: int


def frame(megapixels: float) -> PackedMosaic:
    """Make a Bayer frame of 3:2."""
    height = round((megapixels * 1e6 / 6) ** 0.5) * 2
    width = height * 3 // 2 // 2 * 2
    planes = np.random.default_rng(0).random((4, height // 2, width // 2), np.float32)
    return PackedMosaic(planes, "bayer", height, width, Alignment(0, 0, 0, 0))


def serve(pipe: Connection, megapixels: float, limit: int | None, weights: str) -> None:
    """Run once, and tell the plan, the seconds and the peak memory."""
    engine = open_engine(find_weights(weights), resolve("cpu", "fp32"))
    mosaic, options = frame(megapixels), InferOptions(max_memory=limit)
    chosen = str(plan(engine, mosaic, options))
    start = time.perf_counter()
    infer(engine, mosaic, options)
    pipe.send((chosen, time.perf_counter() - start, peak_resident_bytes()))


def run(megapixels: float, limit: int | None, weights: str) -> tuple[str, float, int]:
    """Run one size in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, megapixels, limit, weights))
    process.start()
    theirs.close()
    answer: tuple[str, float, int] = ours.recv()
    process.join()
    return answer


def measure(sizes: list[float], limit: int, rounds: int, weights: str) -> list[Point]:
    """Take turns through all sizes, free and limited."""
    points = [Point(size, bound, "", [], 0) for size in sizes for bound in (None, limit)]
    for _ in range(rounds):
        for point in points:
            point.plan, seconds, peak = run(point.megapixels, point.limit, weights)
            point.seconds.append(seconds)
            point.peak_bytes = max(point.peak_bytes, peak)
    return points


def draw(points: list[Point], path: Path) -> None:
    """Draw seconds and gigabytes over megapixels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for bound in dict.fromkeys(point.limit for point in points):
        mine = [point for point in points if point.limit == bound]
        x = [point.megapixels for point in mine]
        label = "no limit" if bound is None else f"--max-memory {bound / 1e9:g}GB"
        left.plot(x, [statistics.median(point.seconds) for point in mine], "o-", label=label)
        right.plot(x, [point.peak_bytes / 1e9 for point in mine], "o-", label=label)
    left.set(xlabel="megapixels", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    right.set(xlabel="megapixels", ylabel="peak memory, GB", xlim=(0, None), ylim=(0, None))
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", default="3GB")
    parser.add_argument("--megapixels", default="3,12,24,45,61")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default="gia-sony")
    args = parser.parse_args()
    sizes = [float(size) for size in args.megapixels.split(",")]
    points = measure(sizes, parse_size(args.limit), args.rounds, args.weights)
    for point in points:
        median = statistics.median(point.seconds)
        print(
            f"{point.megapixels:4g} MP  {point.peak_bytes / 1e9:5.2f} GB  {median:6.2f} s "
            f"({min(point.seconds):.2f} to {max(point.seconds):.2f})  "
            f"{median / point.megapixels:.3f} s/MP  "
            f"limit {'none' if point.limit is None else f'{point.limit / 1e9:g} GB'}: {point.plan}"
        )
    record = {"cores": psutil.cpu_count(), "points": [asdict(point) for point in points]}
    args.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    draw(points, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
