"""Make the two sample RAW files from one photograph.

    python samples/make_samples.py singaporean-cityscape.jpg

The photograph is "singaporean-cityscape" from budgie-backgrounds (CC0, Debian package
budgie-backgrounds), 1920x1080; it is halved, which hides its own noise and JPEG blocks, and then
photographed again as a night a hundred times too dark: what `gia simulate --shrink 2` does. The
long exposures that it makes beside them are not kept.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from gia_cli.cameras import ENDINGS, CameraName, WhiteBalance
from gia_cli.simulation.photo import SimulateOptions, simulate_photo

#: White balance gains: for the Sony the medians of SID's scenes.
LIGHTS: dict[CameraName, WhiteBalance] = {"ILCE-7SM2": (2.02, 1.0, 2.46), "X-T2": (1.70, 1.0, 2.30)}


def main() -> None:
    """Write samples/night.ARW and samples/night.RAF."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photo", type=Path)
    photo = parser.parse_args().photo
    with TemporaryDirectory() as folder:
        for camera, wb in LIGHTS.items():
            options = SimulateOptions(camera, ratio=100, iso=1600, wb=wb, shrink=2, seed=7)
            made = Path(folder) / f"night{ENDINGS[camera]}"
            simulate_photo(photo, made, options)
            shutil.copyfile(made, Path(__file__).parent / made.name)


if __name__ == "__main__":
    main()
