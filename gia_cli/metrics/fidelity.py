"""How close two pictures are, one function for each measure, and how sure a mean of them is.

Unless a measure says otherwise, a picture is a float array (H, W, 3), RGB with sRGB primaries,
BT.709-encoded, in [0, 1]: what the networks make, clipped. Values outside are measured as they
are, and NaN gives NaN. Pictures are walked through in bands of rows, so that 12 million pixels
take well under 1 GB beside the pictures themselves. LPIPS and PieAPP are in `perceptual`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gia_cli.imaging.color import XYZ_FROM_SRGB, bt709_decode, lab_from_srgb
from gia_cli.training.losses import STANDARD_EXPONENTS, WINDOW, gaussian, similarity_map

Picture = NDArray[np.floating]

#: Side in pixels of the blocks of `block_color_error`.
BLOCK = 32

# Pixels in a band: some 20 maps of three fp32 or fp64 numbers are alive at a time.
_BAND_PIXELS = 2**19


def require_alike(picture: Picture, target: Picture, least: int = 1) -> tuple[int, int]:
    """Refuse what broadcasting would hide, and what is no picture.

    Returns
    -------
    height, width : int

    Raises
    ------
    ValueError
        The shapes differ, not (H, W, 3) float, or a side below `least` px.
    """
    if picture.shape != target.shape:
        raise ValueError(f"pictures of different shapes, {picture.shape} and {target.shape}")
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is (height, width, 3), not {picture.shape}")
    for array in (picture, target):
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"a picture is float in [0, 1], not {array.dtype}")
    height, width = picture.shape[:2]
    if min(height, width) < least:
        raise ValueError(f"{height}x{width} px are too few, {least} are needed on each side")
    return height, width


def _bands(height: int, width: int, multiple: int = 1) -> Iterator[slice]:
    """Cut rows into bands of few pixels, each but the last a multiple of `multiple` rows high."""
    rows = max(_BAND_PIXELS // width // multiple, 1) * multiple
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


# ---------------------------------------------------------------- code values


def psnr(picture: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    """Peak signal-to-noise ratio in dB for a range of 1; infinite for equal pictures.

    Parameters
    ----------
    picture, target : the same shape, any, float
        Both in the same encoding; clip the picture before.

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> target = np.full((4, 6, 3), 0.5)
    >>> round(psnr(target + 0.1, target), 6)
    20.0
    """
    if np.shape(picture) != np.shape(target):
        raise ValueError(
            f"pictures of different shapes, {np.shape(picture)} and {np.shape(target)}"
        )
    planes = zip(np.atleast_2d(picture), np.atleast_2d(target), strict=True)
    squares = sum(float(np.square(np.asarray(p, np.float64) - t).sum()) for p, t in planes)
    error = squares / np.size(picture)
    return float("inf") if error == 0 else -10 * float(np.log10(error))


# ---------------------------------------------------------------- structure


def ssim(picture: Picture, target: Picture) -> float:
    """Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004), of code values.

    Gaussian window of 11 px with sigma 1.5, K1 0.01, K2 0.03, data range 1, no Bessel correction;
    windows that lie inside the picture only; the mean over windows, then over R, G and B. This is
    scikit-image's with ``gaussian_weights=True, use_sample_covariance=False``. A uniform window
    would differ in the third decimal.

    Parameters
    ----------
    picture, target : (H, W, 3) float in [0, 1], BT.709-encoded

    Returns
    -------
    float in [-1, 1], 1 for equal pictures

    Raises
    ------
    ValueError
        The shapes differ, not such pictures, or a side below 11 px.
    """
    require_alike(picture, target, WINDOW)
    return float(_mean_similarity(picture, target, is_coarsest=True).mean())


def ms_ssim(picture: Picture, target: Picture) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli, Bovik 2003), of code values.

    Five scales by 2x2 averages (an odd last row or column is dropped) with the published exponents
    0.0448, 0.2856, 0.3001, 0.2363, 0.1333; window and constants as `ssim`; luminance counts at the
    coarsest scale only. A negative mean of a scale counts as zero, as in pytorch-msssim. This is
    `losses.standard_ms_ssim`, not the form with exponents 1 that GIA-Net trains with.

    Parameters
    ----------
    picture, target : (H, W, 3) float in [0, 1], BT.709-encoded

    Returns
    -------
    float in [0, 1], 1 for equal pictures

    Raises
    ------
    ValueError
        The shapes differ, not such pictures, or a side below 176 px: fewer scales would be
        another measure.
    """
    require_alike(picture, target, WINDOW << (len(STANDARD_EXPONENTS) - 1))
    product = np.ones(3)
    for scale, exponent in enumerate(STANDARD_EXPONENTS, start=1):
        is_coarsest = scale == len(STANDARD_EXPONENTS)
        similarity = _mean_similarity(picture, target, is_coarsest=is_coarsest)
        product *= np.maximum(similarity, 0) ** exponent
        if not is_coarsest:
            picture, target = _halved(picture), _halved(target)
    return float(product.mean())


def _mean_similarity(
    picture: Picture, target: Picture, *, is_coarsest: bool
) -> NDArray[np.float64]:
    """Mean over all windows of cs, or l * cs at the coarsest scale, for each channel: (3,)."""
    kernel = gaussian().float()
    rows, cols = (side - WINDOW + 1 for side in picture.shape[:2])
    total = torch.zeros(3, dtype=torch.float64)
    for band in _bands(rows, cols):
        reach = slice(band.start, band.stop + WINDOW - 1)
        x, y = _tensor(picture[reach]), _tensor(target[reach])
        similarity = similarity_map(x, y, kernel, is_coarsest=is_coarsest)
        # Row by row in fp32, from there on in fp64: fast, and as exact as fp64 all along.
        total += similarity.sum(dim=3).sum(dim=(0, 2), dtype=torch.float64)
    mean: NDArray[np.float64] = (total / (rows * cols)).numpy()
    return mean


def _halved(picture: Picture) -> NDArray[np.float32]:
    """Average 2x2 pixels, (H, W, 3) to (H // 2, W // 2, 3)."""
    height, width = picture.shape[0] // 2 * 2, picture.shape[1]
    half = np.empty((height // 2, width // 2, 3), np.float32)
    for band in _bands(height, width, multiple=2):
        average = F.avg_pool2d(_tensor(picture[band]), 2)
        half[band.start // 2 : band.stop // 2] = average[0].permute(1, 2, 0).numpy()
    return half


def _tensor(band: Picture) -> Tensor:
    """Copy (h, w, 3) to (1, 3, h, w) fp32 in channels_last, the fast layout on a CPU."""
    return torch.from_numpy(np.array(band, np.float32, order="C")).permute(2, 0, 1)[None]


# ---------------------------------------------------------------- colour and brightness


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
    for band in _bands(height, width):
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
    for band in _bands(height, width, multiple=block):
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
    for band in _bands(*picture.shape[:2]):
        light = bt709_decode(picture[band]).sum(axis=(0, 1), dtype=np.float64)
        total += float(XYZ_FROM_SRGB[1] @ light)
    return total / (picture.size // 3)


# ---------------------------------------------------------------- how sure a mean is


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of a mean by the percentile bootstrap (Efron 1979).

    Parameters
    ----------
    values : (n,) float
        One for each picture.
    groups : sequence of n names, optional
        The scene of each picture. Pictures of one scene are not independent, so whole scenes are
        drawn. By default each picture is a scene.
    level : float in (0, 1)
        Share of resampled means inside.
    draws : int
        How often to resample, with replacement.
    seed : int
        The same seed gives the same interval.

    Returns
    -------
    low, high : float
        Both equal to the value if there is only one.

    Raises
    ------
    ValueError
        No values, not a list of finite numbers, another number of groups, or `level` or `draws` out
        of range.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError("a bootstrap needs a list of finite numbers, and at least one")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"no bootstrap with level {level} and {draws} draws")
    names = list(range(sample.size)) if groups is None else list(groups)
    if len(names) != sample.size:
        raise ValueError(f"{len(names)} groups for {sample.size} values")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    member = [numbers[name] for name in names]
    totals, sizes = np.bincount(member, sample), np.bincount(member)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(totals), size=len(totals)) for _ in range(draws))
    means = [totals[scenes].sum() / sizes[scenes].sum() for scenes in drawn]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap_interval(
    first: ArrayLike,
    second: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of the mean of ``first - second``, measured on the same pictures.

    Much narrower than two intervals apart, for what makes a picture hard is hard for both.

    Parameters
    ----------
    first, second : (n,) float
        The same pictures in the same order.
    level, draws, seed
        As `bootstrap_interval`.

    Returns
    -------
    low, high : float
        Without 0 between them, the difference is significant at that level.

    Examples
    --------
    Better on every picture, however much the pictures differ from each other:

    >>> low, high = paired_bootstrap_interval([20.1, 30.2, 40.3], [20.0, 30.0, 40.0])
    >>> 0.1 <= low <= 0.2 <= high <= 0.3
    True

    Raises
    ------
    ValueError
        The lengths differ, or as `bootstrap_interval`.
    """
    ours, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"pairs need equal lengths, not {ours.shape} and {theirs.shape}")
    return bootstrap_interval(ours - theirs, level=level, draws=draws, seed=seed)
