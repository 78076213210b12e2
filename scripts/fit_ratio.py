"""Fit what `--ratio auto` does without an exposure time, on simulated exposures of photographs.

    python scripts/fit_ratio.py PHOTOS... [--cache FOLDER] [--scenes N] [--validation]

A scene is darkened by a known ratio; the bright end of what the sensor records, times that ratio,
is where the photograph has it. For each percentile that could serve as the bright end: the level
that most scenes have it at (the median), and how far the ratio is off, in stops, if all are brought
there. `enhance.exposure` holds the percentile and the level that were chosen by this. Nothing held
out may be among PHOTOS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli.data.synthetic import as_if_read, open_photos, split_photos
from gia_cli.enhance.exposure import block_brightness
from gia_cli.raw.cfa import CANONICAL
from gia_cli.runtime import cache_folder
from gia_cli.simulation.sensor import CAMERAS, draw_scene, expose, mosaic_from_linear

PERCENTILES = (50.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95)
CAMERA = "ILCE-7SM2"


def bright_ends(photo: NDArray[np.float16], rng: np.random.Generator) -> NDArray[np.float64]:
    """Photograph a scene in one of SID's scenes; its bright ends, amplified by the true ratio."""
    camera, scene = CAMERAS[CAMERA], draw_scene(CAMERA, rng)
    period = CANONICAL[camera.kind].shape[0]
    height, width = (side // period * period for side in photo.shape[:2])
    linear = photo[:height, :width].astype(np.float32)
    mosaic = mosaic_from_linear(linear, camera, scene.wb)
    dn = expose(mosaic, camera, ratio=scene.ratio, iso=scene.iso, rng=rng)
    brightness = block_brightness(as_if_read(dn, camera, scene.wb))
    ends: NDArray[np.float64] = np.percentile(brightness, PERCENTILES) * scene.ratio
    return ends


def main() -> None:
    """Print a row for each percentile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, default=cache_folder() / "photos")
    parser.add_argument("--scenes", type=int, default=610)
    parser.add_argument("--validation", action="store_true", help="those kept for validation")
    options = parser.parse_args()
    photos = open_photos(options.photos, options.cache)
    training, validation = split_photos(photos)
    keys = validation if options.validation else training
    ends = np.array(
        [
            bright_ends(
                photos.array(keys[scene % len(keys)], "linear"),
                np.random.default_rng([1 + options.validation, scene]),
            )
            for scene in range(options.scenes)
        ]
    )
    stops = np.log2(np.maximum(ends, 1e-6))
    print("percentile  level  median error, 90 % below (stops)  within half a stop")
    for percentile, column in zip(PERCENTILES, stops.T, strict=True):
        level = np.median(column)
        error = np.abs(column - level)
        print(
            f"{percentile:10}  {2**level:.3f}  {np.median(error):.2f}, "
            f"{np.percentile(error, 90):.2f}  {100 * np.mean(error <= 0.5):.0f} %"
        )


if __name__ == "__main__":
    main()
