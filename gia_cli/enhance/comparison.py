"""The sheet of `gia enhance --compare`: LibRaw's amplified rendering beside ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli.enhance.stages import Enhanced
from gia_cli.files import atomic_file
from gia_cli.imaging.color import levels8
from gia_cli.imaging.sheet import side_by_side
from gia_cli.raw.reader import render

_PANEL_SIDE = 1600  # longest side of each panel in pixels
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
    height, width, _ = result.image.shape
    size = _panel_size(width, height)
    panels = [
        (f"LibRaw, x{result.choice.ratio:.4g}", amplified(result, size)),
        (f"gia, {result.weights.name}", levels8(result.image)),
    ]
    with atomic_file(path) as file:
        side_by_side(panels, size).save(file, "PNG")


def amplified(result: Enhanced, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Let LibRaw render a photo, amplified by the ratio of its picture.

    Parameters
    ----------
    result : Enhanced
    size : (width, height)
        In pixels, that are needed; the rendering has at least about half of them.

    Returns
    -------
    (H, W, 3) uint8
        sRGB, upright.

    Raises
    ------
    RawError
        The RAW file has gone since it was read.
    """
    frame = result.frame
    # A half-size rendering is quick, and enough where the picture is shrunk anyway.
    height, width, _ = result.image.shape
    whole = (width, height) if result.window is None else result.window.whole
    too_small = frame.kind == "xtrans" and min(whole) < _XTRANS_DEMOSAIC_SIDE
    halve = too_small or 2 * max(size) <= max(width, height)
    plain = render(frame.path, brightness=result.choice.ratio, half_size=halve, flip=frame.flip)
    if result.window is None:
        return plain
    return result.window.cut(plain.repeat(2, 0).repeat(2, 1) if halve else plain)


def _panel_size(width: int, height: int) -> tuple[int, int]:
    shrink = min(1.0, _PANEL_SIDE / max(width, height))
    return max(round(width * shrink), 1), max(round(height * shrink), 1)
