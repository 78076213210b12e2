"""What a batch costs beside its network: `gia enhance` on simulated nights, end to end.

    python scripts/measure_batch.py [--photos 6] [--megapixels 12] [--rounds 3] [ENHANCE OPTIONS...]

Each round is a process of its own. Prints its wall-clock time (start-up included), the sum of the
photos' time in the network, the quotient of both, the peak memory, and the median of each stage.
With PYTHONPATH another state of the code can be measured; one without stages in its report only by
wall-clock time and memory. Measured in this way, stages that overlap slow each other down: only the
wall-clock time tells what that gains.
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

from gia_cli.rawfile import A_SHOT, write_arw
from gia_cli.simulate import night

WB = (2.02, 1.0, 2.46)


def make_nights(folder: Path, count: int, megapixels: float) -> None:
    """Write Bayer nights of 3:2, each of a picture of its own, a hundred times too dark."""
    height = round((megapixels * 1e6 / 6) ** 0.5) * 2
    width = height * 3 // 2 // 2 * 2
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8))
        picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        mosaic = night(picture, "ILCE-7SM2", ratio=100, iso=1600, wb=WB, rng=rng)
        write_arw(folder / f"{seed}.ARW", mosaic, shot=replace(A_SHOT, exposure_s=0.1), wb=WB)


def run(folder: Path, options: list[str]) -> None:
    """Enhance the folder once, and print what it took."""
    command = [sys.executable, "-m", "gia_cli", "enhance", str(folder), "--ratio", "100", "--json"]
    start = time.perf_counter()
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
        _, _, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    files = [file.get("stages", {}) for file in report["files"]]
    text = f"{report['written']} photos: {wall:.2f} s, peak {used.ru_maxrss / 1024:.0f} MiB"
    if all("network" in stages for stages in files):
        network = sum(stages["network"] for stages in files)
        medians = {name: statistics.median(stages[name] for stages in files) for name in files[0]}
        text += f"; network {network:.2f} s; quotient {wall / network:.3f}; medians: "
        text += ", ".join(f"{name} {seconds:.2f}" for name, seconds in medians.items())
    print(text, flush=True)


def main() -> None:
    """Make the nights, and run over them in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the nights; made if it is not there")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "nights"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            make_nights(folder, arguments.photos, arguments.megapixels)
        for turn in range(arguments.rounds):
            out = Path(temporary) / f"out{turn}"
            print(f"load {os.getloadavg()[0]:.1f}; ", end="")
            run(folder, ["--out-dir", str(out), *options])


if __name__ == "__main__":
    main()
