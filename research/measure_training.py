"""Measure what each of training's settings gives on this machine: A against B, in turns.

    python research/measure_training.py PHOTOS [--rounds 3] [--side 96] [--cache FOLDER]

Every variant trains the same 100 steps of the recipe "small" (4 crops of one side) in a process of
its own, one variant after another, round by round; what counts is the speed of the last 50 steps.
Prints the median of each variant and its ratio to what gia does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

#: Name to the lines that a process runs before it trains, and its workers.
VARIANTS: dict[str, tuple[str, int]] = {
    "as gia trains": ("", 1),
    "NCHW, not channels_last": ("torch.channels_last = torch.contiguous_format", 1),
    "denormals kept": ("torch.set_flush_denormal = lambda mode: True", 1),
    "freed memory returned": ("setup.keep_freed_memory = lambda: None", 1),
    "crops in the same process": ("", 0),
    "two workers": ("", 2),
}

_CHILD = """
import sys
from pathlib import Path
import torch
from gia_cli.training import loop as training
from gia_cli.training import setup
from gia_cli.training.log import read_log
photos, cache, run, side, workers = sys.argv[1:]
{lines}
training.train(training.TrainConfig(
    run=Path(run), camera="sony", photos=(Path(photos),), cache=Path(cache), steps=100,
    sides=(int(side), int(side)), workers=int(workers), validate_every_s=1e9,
    checkpoint_every_s=1e9, device="cpu",
))
rows = [row for row in read_log(Path(run)) if "images_per_s" in row]
print(rows[-1]["seconds"] - rows[-2]["seconds"])
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--cache", type=Path, default=None)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder) / "cache"
        for turn in range(options.rounds):
            for name in VARIANTS:
                run = Path(folder) / f"{turn}-{name}"
                seconds[name].append(measure(name, options.photos, cache, run, options.side))
                print(f"round {turn + 1}, {name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    reference = medians["as gia trains"]
    for name, values in seconds.items():
        spread = f"{min(values) / 50:.3f} to {max(values) / 50:.3f}"
        relative = medians[name] / reference
        print(f"{name:28} {medians[name] / 50:.3f} s/step ({spread}), x{relative:.2f}")


def measure(name: str, photos: Path, cache: Path, run: Path, side: int) -> float:
    """Train 100 steps in a new process; seconds of the last 50."""
    lines, workers = VARIANTS[name]
    arguments = [str(x) for x in (photos, cache, run, side, workers)]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD.format(lines=lines), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
