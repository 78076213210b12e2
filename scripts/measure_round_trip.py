"""Measure how well LibRaw renders simulated long exposures back to their photographs.

    python scripts/measure_round_trip.py PHOTO... [--camera ILCE-7SM2] [--camera X-T2]

Each photograph becomes the noiseless long exposure of a scene (ratio 1, ISO 100 or the camera's
lowest, light of SID's median scene), is written as the camera's ARW or RAF, and rendered by LibRaw:
sRGB, white balance as shot, no automatic brightness. Printed for each photograph, and as mean and
range of all: the mean absolute difference to the photograph in levels of 8 bits, of pixels and of
means of 12x12 pixels. A margin of the photograph mirrored at its edges, which is not measured,
gives LibRaw's X-Trans demosaicing its 512 photosites, and keeps out its guesses at the frame's
edge.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import get_args

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import ENDINGS, CameraName
from gia_cli.imaging.photos import read_photo
from gia_cli.raw.reader import render
from gia_cli.sensor_table import iso_settings
from gia_cli.simulation.photo import SimulateOptions, simulate_photo

_BLOCK = 12
_MARGIN = 24  # pixels: whole cells of either camera


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--camera", action="append", choices=get_args(CameraName))
    options = parser.parse_args()
    for camera in options.camera or get_args(CameraName):
        print(f"{camera:40} {'pixels':>8} {f'{_BLOCK}x{_BLOCK}':>8}")
        errors = []
        for photo in options.photos:
            errors.append(measure(photo, camera))
            print(f"{photo.name:40} {errors[-1][0]:8.2f} {errors[-1][1]:8.2f}")
        for name, summary in (("mean", statistics.mean), ("least", min), ("most", max)):
            pixels, blocks = (summary(column) for column in zip(*errors, strict=True))
            print(f"{name:40} {pixels:8.2f} {blocks:8.2f}")


def measure(path: Path, camera: CameraName) -> tuple[float, float]:
    """Photograph a picture and render it; mean absolute error of pixels and of block means."""
    photo = read_photo(path)
    margins = ((_MARGIN, 2 * _MARGIN), (_MARGIN, 2 * _MARGIN), (0, 0))  # whole cells are left
    with tempfile.TemporaryDirectory() as name:
        source, short = Path(name) / "day.png", Path(name) / f"scene{ENDINGS[camera]}"
        iio.imwrite(source, np.pad(photo, margins, mode="symmetric"))
        options = SimulateOptions(
            camera=camera, ratio=1, iso=max(100, iso_settings(camera)[0]), clean_long=True
        )
        rendered = render(simulate_photo(source, short, options).long)
    height, width, _ = photo.shape
    inner = rendered[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width]
    error = inner.astype(np.float64) - photo
    return float(np.abs(error).mean()), float(np.abs(block_means(error)).mean())


def block_means(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average whole blocks: (H, W, 3) to (H // 12, W // 12, 3)."""
    height, width = (side // _BLOCK for side in picture.shape[:2])
    cut = picture[: _BLOCK * height, : _BLOCK * width]
    return np.asarray(cut.reshape(height, _BLOCK, width, _BLOCK, 3).mean(axis=(1, 3)))


if __name__ == "__main__":
    main()
