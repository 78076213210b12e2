"""8-bit pictures for the screen, as Pillow's images: notebooks, and the previews inside a DNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gia_cli.imaging.icc import srgb_icc_profile

PilImage = Image.Image


def pil_image(levels: NDArray[np.uint8]) -> PilImage:
    """Make an image of sRGB levels, (H, W, 3), with the profile in its info."""
    image = Image.fromarray(levels)
    image.info["icc_profile"] = srgb_icc_profile()
    return image


def shrunk(image: PilImage, side: int) -> PilImage:
    """Return a copy of at most `side` pixels a side."""
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy


def encoded(image: PilImage, kind: str, **options: object) -> bytes:
    """Encode an image as "PNG" or "JPEG", with its profile."""
    data = io.BytesIO()
    image.save(data, kind, icc_profile=srgb_icc_profile(), **options)
    return data.getvalue()
