"""Make the held-out nights that `docs/models.md` and the tables score: real ARW and RAF files.

    python scripts/make_heldout.py KODAK LARGE OUT

KODAK is the folder of the 24 Kodak photographs, LARGE that of the large ones; nothing is ever
trained or tuned on either. OUT/kodak-sony, kodak-fuji, large-sony and large-fuji become trees with
SID's names, each photograph on the test list with a short exposure at each of the ratios 100, 250
and 300, light and ISO drawn from SID's training scenes by fixed seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gia_cli.console import Terminal
from gia_cli.simulate import CameraName, SimulateOptions, TreeOptions, simulate_tree

RATIOS = (100.0, 250.0, 300.0)
CAMERAS: dict[str, CameraName] = {"sony": "ILCE-7SM2", "fuji": "X-T2"}
SEEDS = {"kodak": 1001, "large": 1002}


def main() -> None:
    """Make the four trees; files that are there already stay, if they are of these photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kodak", type=Path)
    parser.add_argument("large", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with Terminal() as terminal:
        for name, seed in SEEDS.items():
            for family, camera in CAMERAS.items():
                night = SimulateOptions(camera=camera, seed=seed, clean_long=True, on_exists="skip")
                tree = TreeOptions(night=night, ratios=RATIOS, split="test")
                folder = options.out / f"{name}-{family}"
                simulate_tree([getattr(options, name)], folder, tree, progress=terminal)
                terminal.line(str(folder))


if __name__ == "__main__":
    main()
