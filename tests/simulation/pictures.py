"""Pictures that several tests of the simulation are made of."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CameraName
from gia_cli.raw.cfa import CANONICAL, CfaKind
from gia_cli.simulation.noise import SensorNoise
from gia_cli.simulation.sensor import CAMERAS

WB = (2.0, 1.0, 1.8)
NAMES: list[CameraName] = list(get_args(CameraName))

Photo = NDArray[np.uint8]


def save(path: Path, photo: Photo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, photo)
    return path


def smooth_photo() -> Photo:
    """Gradients of colour, (520, 526): demosaicing has nothing to guess. Its brightest is 180."""
    rows, cols = np.mgrid[:520, :526] / 526
    return np.stack([60 + 120 * rows, 80 + 100 * cols, 150 - 80 * rows], 2).astype(np.uint8)


SIGMAS = 6


def sites(name: CameraName, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Index into `SensorNoise.black_error` of each photosite: Bayer's four places, or a colour."""
    kind: CfaKind = CAMERAS[name].kind
    cell = np.array([[0, 1], [2, 3]]) if kind == "bayer" else CANONICAL[kind].astype(np.intp)
    tiles = [-(-side // len(cell)) for side in shape]
    return np.tile(cell, tiles)[: shape[0], : shape[1]].astype(np.intp)


def assert_flat(dn: NDArray[np.uint16], name: CameraName, noise: SensorNoise, level: float) -> None:
    """Compare a flat field's mean in each place of the cell, and its variance, with the model's."""
    place = sites(name, (dn.shape[0], dn.shape[1]))
    error = np.array(noise.black_error)[place]
    residual = dn - (CAMERAS[name].black + level + error)
    variance = noise.gain * level + noise.read_variance + 1 / 12  # whole DN
    for one in range(len(noise.black_error)):
        chosen = place == one
        rows = int(chosen.any(axis=1).sum())
        standard = np.sqrt(variance / chosen.sum() + noise.row_sigma**2 / rows)
        assert abs(residual[chosen].mean()) < SIGMAS * standard
    within = residual - residual.mean(axis=1, keepdims=True)
    found = (within**2).sum() / (within.size - len(within))
    # Var(s^2) = (fourth moment - variance^2) / n
    standard = np.sqrt(((within**4).mean() - found**2) / within.size)
    assert abs(found - variance) < SIGMAS * standard
