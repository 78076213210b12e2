"""Frames to time networks on: what they compute does not depend on what they see."""

from __future__ import annotations

import numpy as np

from gia_cli.raw.cfa import PACK_FACTOR, PLANE_COLORS, Alignment, CfaKind
from gia_cli.raw.packing import PackedMosaic


def random_mosaic(size: tuple[int, int], cfa: CfaKind) -> PackedMosaic:
    """Make a mosaic of random numbers.

    Parameters
    ----------
    size : (height, width)
        Photosites; what is no whole packed pixel is left out.
    cfa : "bayer" or "xtrans"
    """
    factor = PACK_FACTOR[cfa]
    height, width = (side // factor for side in size)
    shape = (len(PLANE_COLORS[cfa]), height, width)
    planes = np.random.default_rng(0).random(shape, np.float32)
    return PackedMosaic(planes, cfa, height * factor, width * factor, Alignment(0, 0, 0, 0))


def size_of(megapixels: float) -> tuple[int, int]:
    """Return height and width of a frame of 3:2."""
    height = (megapixels * 1e6 / 1.5) ** 0.5
    return round(height), round(1.5 * height)
