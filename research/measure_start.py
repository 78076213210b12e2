"""Time how long `gia train --data TREE` takes to open a tree that is decoded already.

    gia simulate PICTURES --sid --out TREE --ratios 100,250,300
    python research/measure_start.py TREE [--runs N] [--cold]

Each way of looking at what is decoded runs in a process of its own, in turns: "contents" reads all
bytes, as every start and every process did once; "files" compares sizes and times; "none" trusts
another process. With --cold the decoded data are dropped from the system's memory before each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

WAYS = ("contents", "files", "none")
CHILD = """
import sys, time
from pathlib import Path
from gia_cli.data.batches import SidCrops
from gia_cli.data.sid import open_splits
start = time.perf_counter()
opened = open_splits(Path(sys.argv[1]), "sony", ["train", "val"], check=sys.argv[2])
[SidCrops(frames).digest() for frames in opened]
print(time.perf_counter() - start)
"""


def forget(paths: list[Path]) -> None:
    """Ask the system to drop files from its memory; Linux."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    """Print the seconds of each way, run by run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    subprocess.run([sys.executable, "-c", CHILD, options.tree, "files"], check=True)  # decodes
    decoded = sorted((options.tree / ".gia-cache").iterdir())
    size = sum(path.stat().st_size for path in decoded)
    print(f"{len(decoded)} files, {size / 1e9:.2f} GB decoded")
    for run in range(options.runs):
        for way in WAYS:
            if options.cold:
                forget(decoded)
            done = subprocess.run(
                [sys.executable, "-c", CHILD, options.tree, way],
                check=True,
                capture_output=True,
                text=True,
            )
            print(f"run {run}, {way}: {float(done.stdout):.3f} s")


if __name__ == "__main__":
    main()
