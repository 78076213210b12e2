"""Pictures for the screen keep their levels, and say that they are sRGB."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gia_cli.imaging.icc import srgb_icc_profile
from gia_cli.imaging.preview import encoded, pil_image, shrunk


@pytest.mark.parametrize(("kind", "off"), [("PNG", 0), ("JPEG", 12)])
def test_levels_and_profile_survive(kind: str, off: int) -> None:
    ramp = np.linspace(20, 230, 64).astype(np.uint8)
    levels = np.stack([np.tile(ramp, (48, 1))] * 3, axis=2)
    with Image.open(io.BytesIO(encoded(pil_image(levels), kind))) as image:
        assert image.info["icc_profile"] == srgb_icc_profile()
        assert np.abs(np.asarray(image).astype(int) - levels).max() <= off


def test_a_shrunk_copy_keeps_the_shape_and_the_original() -> None:
    image = pil_image(np.full((300, 600, 3), 77, np.uint8))
    small = shrunk(image, 100)
    assert (small.size, image.size) == ((100, 50), (600, 300))
    assert np.asarray(small).mean() == 77
    assert shrunk(image, 1000).size == image.size
