"""What people look at beside the picture itself: the comparison sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gia_cli.files import atomic_file
from gia_cli.pipeline import Enhanced
from gia_cli.raw import render

_PANEL_SIDE = 1600  # longest side of each panel in pixels
_CAPTION_HEIGHT = 44
_GAP = 8
_BACKGROUND = (24, 24, 24)
_INK = (235, 235, 235)
_XTRANS_DEMOSAIC_SIDE = 512  # LibRaw's X-Trans demosaicing fails on smaller frames


def comparison_path(target: Path) -> Path:
    """Name the comparison sheet that belongs to an output: ``x.tif`` has ``x_compare.png``."""
    return target.with_name(f"{target.stem}_compare.png")


def write_comparison(result: Enhanced, path: Path) -> None:
    """Write a sheet: LibRaw's rendering amplified by the same ratio beside the enhanced picture.

    Parameters
    ----------
    result : Enhanced
    path : Path
        An 8-bit PNG; panels of at most 1600 px on their longer side.

    Raises
    ------
    OutputError
        The file cannot be written.
    RawError
        The RAW file has gone since it was read.
    """
    frame = result.frame
    height, width, _ = result.image.shape
    size = _panel_size(width, height)
    # A half-size rendering is enough for a panel, and quick.
    too_small = frame.kind == "xtrans" and min(frame.mosaic.shape) < _XTRANS_DEMOSAIC_SIDE
    halve = too_small or 2 * max(size) <= max(width, height)
    plain = render(frame.path, brightness=result.choice.ratio, half_size=halve)
    enhanced = (result.image >> 8).astype(np.uint8)
    panels = [
        (f"LibRaw, x{result.choice.ratio:.4g}", plain),
        (f"gia, {result.weights.name}", enhanced),
    ]
    with atomic_file(path) as file:
        _sheet(panels, size).save(file, "PNG")


def _panel_size(width: int, height: int) -> tuple[int, int]:
    shrink = min(1.0, _PANEL_SIDE / max(width, height))
    return max(round(width * shrink), 1), max(round(height * shrink), 1)


def _sheet(panels: list[tuple[str, NDArray[np.uint8]]], size: tuple[int, int]) -> Image.Image:
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
