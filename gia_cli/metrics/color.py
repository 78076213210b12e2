"""How far colours and brightness are off, one function for each measure.

Pictures are as in `fidelity`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gia_cli.imaging.color import XYZ_FROM_SRGB, bt709_decode, lab_from_srgb
from gia_cli.metrics.fidelity import Picture, bands, require_alike

#: Side in pixels of the blocks of `block_color_error`.
BLOCK = 32


def delta_e(picture: Picture, target: Picture) -> float:
    """Mean colour difference CIEDE2000 over the pixels, in CIELAB for D65.

    Parameters
    ----------
    picture, target : (H, W, 3) float in [0, 1], BT.709-encoded, sRGB primaries

    Returns
    -------
    float, 0 or more
        About 1 is just noticeable between large patches side by side; of a noisy picture noise is
        the greater part. See `block_color_error` for what is left when noise is averaged away.

    Raises
    ------
    ValueError
        The shapes differ, or not such pictures.
    """
    height, width = require_alike(picture, target)
    total = 0.0
    for band in bands(height, width):
        x, y = (lab_from_srgb(bt709_decode(p[band])) for p in (picture, target))
        total += float(ciede2000(x, y).sum())
    return total / (height * width)


def ciede2000(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colour difference CIEDE2000, all parametric factors 1 (CIE 142-2001; ISO/CIE 11664-6).

    Written after Sharma, Wu, Dalal, *The CIEDE2000 color-difference formula: implementation notes,
    supplementary test data, and mathematical observations*, 2005, whose 34 pairs it reproduces.

    Parameters
    ----------
    first, second : (..., 3) float
        L*, a*, b*.

    Returns
    -------
    (...) float64, 0 or more
        Symmetric; it jumps, by 0.3 at most, where two opposite hues change sides.

    Examples
    --------
    The first of the paper's 34 pairs.

    >>> first, second = np.array([50, 2.6772, -79.7751]), np.array([50, 0.0, -82.7485])
    >>> round(float(ciede2000(first, second)), 4)
    2.0425
    """
    light1, a1, b1 = np.moveaxis(np.asarray(first, np.float64), -1, 0)
    light2, a2, b2 = np.moveaxis(np.asarray(second, np.float64), -1, 0)
    # Near neutral a* is stretched, by a half at most.
    stretch = 1.5 - 0.5 * _saturation((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    chroma1, chroma2 = np.hypot(a1, b1), np.hypot(a2, b2)
    hue, turn = _mean_hue_and_turn(a1, b1, a2, b2)
    light, chroma = (light1 + light2) / 2, (chroma1 + chroma2) / 2
    tone = (
        1
        - 0.17 * np.cos(hue - math.radians(30))
        + 0.24 * np.cos(2 * hue)
        + 0.32 * np.cos(3 * hue + math.radians(6))
        - 0.20 * np.cos(4 * hue - math.radians(63))
    )
    off_middle = (light - 50) ** 2
    d_light = (light2 - light1) / (1 + 0.015 * off_middle / np.sqrt(20 + off_middle))
    d_chroma = (chroma2 - chroma1) / (1 + 0.045 * chroma)
    d_hue = 2 * np.sqrt(chroma1 * chroma2) * np.sin(turn / 2) / (1 + 0.015 * chroma * tone)
    # In the blues the ellipses of equal difference are tilted.
    off_blue = (hue - math.radians(275)) / math.radians(25)
    tilt = -2 * _saturation(chroma) * np.sin(math.radians(60) * np.exp(-(off_blue**2)))
    squares = d_light**2 + d_chroma**2 + d_hue**2 + tilt * d_chroma * d_hue
    difference: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0))
    return difference


def _saturation(chroma: NDArray[np.float64]) -> NDArray[np.float64]:
    """``sqrt(C^7 / (C^7 + 25^7))``: 0 at neutral, 1 for vivid colours."""
    power = chroma**7
    return np.sqrt(power / (power + 25.0**7))


def _mean_hue_and_turn(
    a1: NDArray[np.float64],
    b1: NDArray[np.float64],
    a2: NDArray[np.float64],
    b2: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean hue in [0, 2 pi) and the turn from the first to the second in [-pi, pi], radians.

    A neutral colour has no hue: the mean is then the other one's, and the turn counts for nothing.
    """
    full = 2 * math.pi
    hue1, hue2 = np.arctan2(b1, a1) % full, np.arctan2(b2, a2) % full
    turn = hue2 - hue1
    total = hue1 + hue2
    is_far = np.abs(turn) > math.pi
    mean = np.where(is_far, np.where(total < full, total + full, total - full), total) / 2
    turn = np.where(is_far, turn - np.copysign(full, turn), turn)
    has_neutral = ((a1 == 0) & (b1 == 0)) | ((a2 == 0) & (b2 == 0))
    return np.where(has_neutral, total, mean), turn


def block_color_error(picture: Picture, target: Picture, block: int = BLOCK) -> float:
    """Mean distance in CIELAB's (a, b) between the blocks' colours: how strong the casts are.

    A block's colour is that of its mean *linear* light, as if the picture were scaled down by the
    block's side: noise, which has no mean in linear light, falls out (by 1/32 in its amplitude for
    32 px). Averages of Lab values would keep a share of it as if it were a cast, because the cube
    root bends what noise spreads. Lightness does not count; see `exposure_error_stops`.

    Parameters
    ----------
    picture, target : (H, W, 3) float in [0, 1], BT.709-encoded, sRGB primaries
    block : int
        Side in pixels. What remains at the right and the bottom makes smaller blocks; each block
        weighs as much as it has pixels, so every pixel counts once and a picture smaller than a
        block is one block. Where both sides are multiples, it is the plain mean over blocks.

    Returns
    -------
    float, 0 or more, in units of a and b

    Raises
    ------
    ValueError
        The shapes differ, not such pictures, or `block` below 1.
    """
    height, width = require_alike(picture, target)
    if block < 1:
        raise ValueError(f"a block has at least one pixel a side, not {block}")
    total = 0.0
    for band in bands(height, width, multiple=block):
        counts, x = _block_sums(picture[band], block)
        _, y = _block_sums(target[band], block)
        x, y = (lab_from_srgb(sums / counts[..., None])[..., 1:] for sums in (x, y))
        total += float((counts * np.hypot(*np.moveaxis(x - y, -1, 0))).sum())
    return total / (height * width)


def _block_sums(band: Picture, block: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count the pixels of each block, (rows, cols), and add up their linear light, (..., 3)."""
    row_starts, col_starts = (np.arange(0, side, block) for side in band.shape[:2])
    heights = np.diff(row_starts, append=band.shape[0])
    widths = np.diff(col_starts, append=band.shape[1])
    sums = np.add.reduceat(bt709_decode(band), row_starts, axis=0, dtype=np.float64)
    return np.outer(heights, widths), np.add.reduceat(sums, col_starts, axis=1)


def exposure_error_stops(picture: Picture, target: Picture) -> float:
    """How many stops a picture is too bright: log2 of the ratio of mean linear luminances.

    Parameters
    ----------
    picture, target : (H, W, 3) float in [0, 1], BT.709-encoded, sRGB primaries

    Returns
    -------
    float, in stops
        Positive: the picture is brighter than the target; 0 also for two black pictures, infinite
        where only one is black. Changes sign when the two are swapped.

    Raises
    ------
    ValueError
        The shapes differ, or not such pictures.

    Examples
    --------
    Twice the light is one stop; the code values are only 1.4 times as high.

    >>> from gia_cli.imaging.color import bt709_encode
    >>> dark, bright = (bt709_encode(np.full((4, 6, 3), light)) for light in (0.18, 0.36))
    >>> round(exposure_error_stops(bright, dark), 4)
    1.0
    """
    require_alike(picture, target)
    ours, wanted = _mean_luminance(picture), _mean_luminance(target)
    if ours == wanted:
        return 0.0
    if ours <= 0 or wanted <= 0:
        return math.inf if ours > wanted else -math.inf
    return math.log2(ours / wanted)


def _mean_luminance(picture: Picture) -> float:
    total = 0.0
    for band in bands(*picture.shape[:2]):
        light = bt709_decode(picture[band]).sum(axis=(0, 1), dtype=np.float64)
        total += float(XYZ_FROM_SRGB[1] @ light)
    return total / (picture.size // 3)
