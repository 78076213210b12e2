"""Make the held-out scenes that `docs/research/models.md` scores: real ARW and RAF files.

    python scripts/make_heldout.py KODAK LARGE OUT

KODAK is the folder of the 24 Kodak photographs, LARGE that of the large ones; nothing is ever
trained or tuned on either. OUT/kodak-sony, large-sony and large-fuji become trees with SID's names,
each photograph on the test list with a short exposure at each of the ratios 100, 250 and 300, light
and ISO drawn from SID's training scenes by fixed seeds. The long exposures are free of noise: at
high ISO settings a real one is not, and would be a poor ruler. (There is no kodak-fuji: LibRaw
renders X-Trans files from 512 photosites a side on, and these photographs hold 510 in whole cells.)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gia_cli.cameras import CameraName
from gia_cli.cli.console import Terminal
from gia_cli.simulation.dataset import TreeOptions, simulate_tree
from gia_cli.simulation.photo import SimulateOptions

RATIOS = (100.0, 250.0, 300.0)
#: Tree to the photographs' folder, camera and seed.
TREES: dict[str, tuple[str, CameraName, int]] = {
    "kodak-sony": ("kodak", "ILCE-7SM2", 1001),
    "large-sony": ("large", "ILCE-7SM2", 1002),
    "large-fuji": ("large", "X-T2", 1002),
}


def main() -> None:
    """Make the trees; files that are there already stay, if they are of these photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kodak", type=Path)
    parser.add_argument("large", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with Terminal() as terminal:
        for name, (photos, camera, seed) in TREES.items():
            exposure = SimulateOptions(camera=camera, seed=seed, clean_long=True, on_exists="skip")
            tree = TreeOptions(exposure=exposure, ratios=RATIOS, split="test")
            folder = options.out / name
            made = simulate_tree([getattr(options, photos)], folder, tree, progress=terminal)
            failed = [result for result in made.results if result.error is not None]
            if failed:
                sys.exit(f"{failed[0].source}: {failed[0].error}")
            terminal.line(str(folder))


if __name__ == "__main__":
    main()
