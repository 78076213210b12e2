"""Measure what becomes of colours that sRGB lacks: python research/measure_wide_colors.py PHOTO...

There are no night photos here whose colours beyond sRGB are known. So each photograph's numbers are
taken for Rec. 2020's: its colours become purer, and some leave sRGB. That light is laid over the
A7S II's filters, exposed with 1/ratio of the light at ISO 1600, enhanced, and brought to Display P3
and Rec. 2020. Printed for each photograph and for all: the mean absolute error in levels of 8 bits
where the truth lies outside sRGB and where it lies inside; of the picture as it is, and of the same
picture clipped to sRGB first, as a relabelled sRGB picture would be.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.imaging.blocks import block_means
from gia_cli.imaging.color import srgb_decode
from gia_cli.imaging.color_space import (
    DISPLAY_P3,
    REC2020,
    ColorSpace,
    linear_in,
    matrix_from_srgb,
    through,
)
from gia_cli.imaging.photos import read_photo
from gia_cli.raw.writer import write_arw
from gia_cli.simulation.sensor import CAMERAS, expose, median_gains, mosaic_from_linear

_ISO = 1600
_OUTSIDE = -0.005  # linear light
_SUMS = (5, 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--ratio", type=float, default=100.0)
    parser.add_argument("--shrink", type=int, default=3)
    args = parser.parse_args()
    enhancer = Enhancer.from_weights(device="cpu")
    total = np.zeros(_SUMS)
    for seed, photo in enumerate(args.photos):
        truth = wide_light(photo, args.shrink)
        sums = summed(enhanced(enhancer, truth, args.ratio, seed), truth)
        total += sums
        report(photo.name, sums)
    report(f"all pixels of {len(args.photos)}", total)


def summed(picture: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Count the pixels outside sRGB and inside, and sum up their errors."""
    outside = (truth < _OUTSIDE).any(axis=0)
    sums = [np.array([outside.sum(), (~outside).sum()], np.float64)]
    for space in (DISPLAY_P3, REC2020):
        for shown in (picture, np.clip(picture, 0, 1)):
            off = errors(shown, truth, space).mean(axis=0)
            sums.append(np.array([off[outside].sum(), off[~outside].sum()]))
    return np.array(sums)


def report(name: str, sums: NDArray[np.float64]) -> None:
    """Print one line."""
    means = sums[1:] / np.maximum(sums[0], 1)
    print(f"{name}: {sums[0, 0] / sums[0].sum():.1%} outside sRGB; error outside, inside:")
    for row, space in enumerate((DISPLAY_P3, REC2020)):
        kept, clipped = means[2 * row], means[2 * row + 1]
        print(
            f"  {space.title}: {kept[0]:.2f}, {kept[1]:.2f}; "
            f"clipped to sRGB first: {clipped[0]:.2f}, {clipped[1]:.2f}"
        )


def wide_light(photo: Path, shrink: int) -> NDArray[np.float32]:
    """Take a photograph's numbers for Rec. 2020's: linear sRGB, (3, H, W), not clipped."""
    light = srgb_decode(read_photo(photo) / 255)
    light = block_means(light, shrink).transpose(2, 0, 1)
    even = light[:, : light.shape[1] // 2 * 2, : light.shape[2] // 2 * 2]
    return through(np.linalg.inv(matrix_from_srgb(REC2020)), even.astype(np.float32))


def enhanced(
    enhancer: Enhancer, truth: NDArray[np.float32], ratio: float, seed: int
) -> NDArray[np.float32]:
    """Expose a scene, and enhance it."""
    camera, gains = CAMERAS["ILCE-7SM2"], median_gains("ILCE-7SM2")
    mosaic = mosaic_from_linear(truth.transpose(1, 2, 0), camera, gains)
    dn = expose(mosaic, camera, ratio=ratio, iso=_ISO, rng=np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        write_arw(Path(folder) / "wide.ARW", dn, wb=gains)
        picture = enhancer.enhance(Path(folder) / "wide.ARW", ratio=ratio).picture
    assert picture is not None
    return picture


def errors(
    picture: NDArray[np.float32], truth: NDArray[np.float32], space: ColorSpace
) -> NDArray[np.float32]:
    """Absolute differences in levels of 8 bits of a space, (3, H, W)."""
    shown = space.encode(np.clip(linear_in(picture, space), 0, 1))
    right = space.encode(np.clip(through(matrix_from_srgb(space), truth), 0, 1))
    return 255 * np.abs(shown - right)


if __name__ == "__main__":
    main()
