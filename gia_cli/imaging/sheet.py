"""Pictures side by side, with captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_CAPTION_HEIGHT = 44
_GAP = 8
_BACKGROUND = (24, 24, 24)
_INK = (235, 235, 235)


def side_by_side(
    panels: Sequence[tuple[str, NDArray[np.uint8]]], size: tuple[int, int]
) -> Image.Image:
    """Lay pictures beside each other, each below its caption.

    Parameters
    ----------
    panels : sequence of (caption, (H, W, 3) uint8)
        sRGB.
    size : (width, height)
        Of each panel in pixels; pictures are resized to it.
    """
    width, height = size
    total = len(panels) * width + (len(panels) - 1) * _GAP
    sheet = Image.new("RGB", (total, height + _CAPTION_HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_CAPTION_HEIGHT // 2)
    for index, (caption, pixels) in enumerate(panels):
        left = index * (width + _GAP)
        panel = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(panel, (left, _CAPTION_HEIGHT))
        draw.text((left + 8, _CAPTION_HEIGHT // 4), caption, fill=_INK, font=font)
    return sheet


def stacked(strips: Sequence[Image.Image]) -> Image.Image:
    """Lay pictures below each other, at the left."""
    size = max(strip.width for strip in strips), sum(strip.height for strip in strips)
    sheet = Image.new("RGB", size, _BACKGROUND)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet
