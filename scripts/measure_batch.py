"""What a batch costs beside its network: `gia enhance` on simulated exposures, end to end.

    python scripts/measure_batch.py [--photos 6] [--megapixels 12] [--rounds 3] [ENHANCE OPTIONS...]

Each round is a process of its own. Prints its wall-clock time (start-up included), the peak memory,
the processor time, the sum of the photos' time in the network, the quotient of wall-clock time and
that sum, and the median of each stage. PYTHONPATH chooses the state of the code that is measured;
one that does not report stages shows only the former. Stages that overlap slow each other down:
what overlapping gains, only the wall-clock time tells.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from gia_cli.raw.writer import A_SHOT, write_arw
from gia_cli.simulation.sensor import simulate_mosaic

WB = (2.02, 1.0, 2.46)


def make_nights(folder: Path, count: int, megapixels: float) -> None:
    """Write Bayer scenes of 3:2, each of a picture of its own, a hundred times too dark."""
    height = round((megapixels * 1e6 / 6) ** 0.5) * 2
    width = height * 3 // 2 // 2 * 2
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8))
        picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        mosaic = simulate_mosaic(picture, "ILCE-7SM2", ratio=100, iso=1600, wb=WB, rng=rng)
        write_arw(folder / f"{seed}.ARW", mosaic, shot=replace(A_SHOT, exposure_s=0.1), wb=WB)


def run(folder: Path, options: list[str]) -> None:
    """Enhance the folder once, and print what it took."""
    command = [sys.executable, "-P", "-m", "gia_cli", "enhance", str(folder), "--json"]
    command += ["--ratio", "100", *options]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
        _, _, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    files = [file.get("stages", {}) for file in report["files"]]
    text = f"{report['written']} photos: {wall:.2f} s, peak {used.ru_maxrss / 1024:.0f} MiB, "
    text += f"{used.ru_utime + used.ru_stime:.1f} s of processor time"
    if all("network" in stages for stages in files):
        network = sum(stages["network"] for stages in files)
        medians = {name: statistics.median(stages[name] for stages in files) for name in files[0]}
        text += f"; network {network:.2f} s; quotient {wall / network:.3f}; medians: "
        text += ", ".join(f"{name} {seconds:.2f}" for name, seconds in medians.items())
    print(text, flush=True)


def main() -> None:
    """Make the scenes, and run over them in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the scenes; made if it is not there")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "scenes"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            make_nights(folder, arguments.photos, arguments.megapixels)
        for turn in range(arguments.rounds):
            out = Path(temporary) / f"out{turn}"
            print(f"load {os.getloadavg()[0]:.1f}; ", end="")
            run(folder, ["--out-dir", str(out), *options])


if __name__ == "__main__":
    main()
