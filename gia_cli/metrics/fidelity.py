"""How close two pictures are, one function for each measure.

Unless a measure says otherwise, a picture is a float array (H, W, 3), RGB with sRGB primaries,
BT.709-encoded, in [0, 1]: what the networks make, clipped. Values outside are measured as they
are, and NaN gives NaN. Pictures are walked through in bands of rows, so that 12 million pixels
take well under 1 GB beside the pictures themselves. Colours are in `metrics.color`, what people
see is in `metrics.lpips` and `metrics.pieapp`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gia_cli.imaging.blocks import block_means
from gia_cli.metrics.ssim import STANDARD_EXPONENTS, WINDOW, gaussian, similarity_map

Picture = NDArray[np.floating]


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


def bands(height: int, width: int, multiple: int = 1) -> Iterator[slice]:
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
    `ssim.standard_ms_ssim`, not the form with exponents 1 that GIA-Net trains with.

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
            picture, target = block_means(picture, 2), block_means(target, 2)
    return float(product.mean())


def _mean_similarity(
    picture: Picture, target: Picture, *, is_coarsest: bool
) -> NDArray[np.float64]:
    """Mean over all windows of cs, or l * cs at the coarsest scale, for each channel: (3,)."""
    kernel = gaussian().float()
    rows, cols = (side - WINDOW + 1 for side in picture.shape[:2])
    total = torch.zeros(3, dtype=torch.float64)
    for band in bands(rows, cols):
        reach = slice(band.start, band.stop + WINDOW - 1)
        x, y = _tensor(picture[reach]), _tensor(target[reach])
        similarity = similarity_map(x, y, kernel, is_coarsest=is_coarsest)
        # Row by row in fp32, from there on in fp64: fast, and as exact as fp64 all along.
        total += similarity.sum(dim=3).sum(dim=(0, 2), dtype=torch.float64)
    mean: NDArray[np.float64] = (total / (rows * cols)).numpy()
    return mean


def _tensor(band: Picture) -> Tensor:
    """Copy (h, w, 3) to (1, 3, h, w) fp32 in channels_last, the fast layout on a CPU."""
    return torch.from_numpy(np.array(band, np.float32, order="C")).permute(2, 0, 1)[None]
