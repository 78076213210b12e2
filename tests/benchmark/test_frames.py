"""Frames have the size that is asked for, in whole packed pixels."""

from __future__ import annotations

import pytest

from gia_cli.benchmark.frames import random_mosaic, size_of
from gia_cli.raw.cfa import CfaKind


@pytest.mark.parametrize(("cfa", "planes", "factor"), [("bayer", 4, 2), ("xtrans", 9, 3)])
def test_a_frame_is_whole_packed_pixels(cfa: CfaKind, planes: int, factor: int) -> None:
    mosaic = random_mosaic((101, 64), cfa)
    assert mosaic.planes.shape == (planes, 101 // factor, 64 // factor)
    assert (mosaic.height, mosaic.width) == (101 // factor * factor, 64 // factor * factor)
    assert mosaic.planes.std() > 0.2


@pytest.mark.parametrize("megapixels", [0.1, 12, 61])
def test_sizes_are_3_to_2(megapixels: float) -> None:
    height, width = size_of(megapixels)
    assert height * width == pytest.approx(megapixels * 1e6, rel=0.01)
    assert width / height == pytest.approx(1.5, rel=0.01)
