"""Make the two sample RAW files from one photograph.

    python samples/make_samples.py singaporean-cityscape.jpg

The photograph is "singaporean-cityscape" from budgie-backgrounds (CC0, Debian package
budgie-backgrounds), 1920x1080; it is halved, which hides its own noise and JPEG blocks, and then
photographed again by `gia_cli.simulate` as a night a hundred times too dark.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from gia_cli.rawfile import A_SHOT, write_arw, write_raf
from gia_cli.simulate import night

RATIO = 100
SEED = 7
WB_SONY = (2.02, 1.0, 2.46)  # the medians of SID's Sony scenes
WB_FUJI = (1.70, 1.0, 2.30)


def main() -> None:
    """Write samples/night.ARW and samples/night.RAF."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photo", type=Path)
    photo = iio.imread(parser.parse_args().photo)
    height, width = (side // 12 * 6 for side in photo.shape[:2])
    halved = photo[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    picture = np.rint(halved).astype(np.uint8)
    here = Path(__file__).parent
    shot = replace(A_SHOT, exposure_s=10 / RATIO, iso=1600, lens=None)
    arw = night(
        picture, "ILCE-7SM2", ratio=RATIO, iso=1600, wb=WB_SONY, rng=np.random.default_rng(SEED)
    )
    write_arw(here / "night.ARW", arw, shot=shot, wb=WB_SONY)
    raf = night(picture, "X-T2", ratio=RATIO, iso=1600, wb=WB_FUJI, rng=np.random.default_rng(SEED))
    write_raf(here / "night.RAF", raf, shot=shot, wb=WB_FUJI)


if __name__ == "__main__":
    main()
