"""Structural similarity at one scale and at several, in torch: a measure, and part of two losses.

Pictures are (N, C, H, W). All is computed in fp32 or wider, under autocast too: a variance is a
small difference of two large numbers, of which half precision would leave nothing.

Source: Wang, Simoncelli, Bovik, *Multi-scale structural similarity for image quality assessment*,
2003.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gia_cli.runtime import without_autocast

#: Exponents of Wang et al., finest scale first; their number is the number of scales.
STANDARD_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Side in pixels and standard deviation of SSIM's Gaussian window (Wang et al.).
WINDOW = 11
SIGMA = 1.5

# (K L)^2 with K1 = 0.01, K2 = 0.03 and data range L = 1.
_C1 = 0.01**2
_C2 = 0.03**2
# Below this, `_positive` bends a scale's similarity so that it stays above zero.
_FLOOR = 0.01


def ssim(picture: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity: Gaussian window 11, sigma 1.5, K1 0.01, K2 0.03, data range 1.

    Only windows that lie inside the picture count, and variances are not Bessel-corrected: what
    scikit-image computes with ``gaussian_weights=True, use_sample_covariance=False`` (it crops the
    border likewise), and pytorch-msssim by default.

    Parameters
    ----------
    picture, target : (N, C, H, W) float, nominally [0, 1]
        Channels are compared each for itself and averaged.

    Returns
    -------
    scalar tensor in [-1, 1], 1 for equal pictures
        Mean over the images; gradients reach both arguments.

    Raises
    ------
    ValueError
        The shapes differ, or a side is below 11 px.
    """
    return _similarities(picture, target, 1, WINDOW, SIGMA)[0].mean()


def standard_ms_ssim(picture: Tensor, target: Tensor) -> Tensor:
    """Multi-scale structural similarity as published by Wang et al., for reporting.

    Five scales by 2x2 averages (an odd last row or column is dropped), their exponents, window and
    constants as in `ssim`; the coarsest scale counts luminance too. A scale's mean similarity for
    one channel is cut at zero, whose fractional power has no finite gradient: train with `ms_ssim`.

    Parameters
    ----------
    picture, target : (N, C, H, W) float, nominally [0, 1]

    Returns
    -------
    scalar tensor in [0, 1], 1 for equal pictures
        Mean over channels and images. pytorch-msssim gives the same where both sides are multiples
        of 16; odd sides it pads with zeros.

    Raises
    ------
    ValueError
        The shapes differ, or a side is below 176 px: fewer scales would be another metric.
    """
    scales = len(STANDARD_EXPONENTS)
    factors = _similarities(picture, target, scales, WINDOW, SIGMA).clamp(min=0)
    exponents = factors.new_tensor(STANDARD_EXPONENTS)[:, None, None]
    return (factors**exponents).prod(dim=0).mean()


def ms_ssim(
    picture: Tensor, target: Tensor, *, scales: int = 5, window: int = WINDOW, sigma: float = SIGMA
) -> Tensor:
    """Multi-scale structural similarity as the GIA-Net paper trains with (its Eqs 3 to 6).

    ``l_M * cs_1 * ... * cs_M``: luminance at the coarsest scale M only, contrast and structure at
    every scale, all exponents 1 (as in Zhao et al.), Gaussian windows. The paper leaves open:

    - how scales are formed: by 2x2 averages, as Wang et al. do (an odd last row or column is
      dropped). Zhao et al. widen the Gaussian at full resolution instead, at many times the cost.
    - how many there are, and the window: 5, 11 px and 1.5, as Wang et al. do.
    - where means are taken: over each scale's map, for one image and channel, before the product
      (at the coarsest scale over the map of ``l * cs``); then over channels and images.
    - what becomes of a negative mean: a product would reward two of them, and cutting them at zero
      would silence the gradient of all scales. So a mean s below 0.01 is replaced by
      ``0.01**2 / (0.02 - s)``, which joins smoothly, stays positive, and rises with s everywhere:
      each scale is always pulled the right way. From 0.01 up nothing is changed.

    Parameters
    ----------
    picture, target : (N, C, H, W) float, nominally [0, 1]
    scales : int
        At most this many; fewer, but at least one, where the shorter side is below
        ``window * 2**(scales - 1)`` px (176 by default): as many as leave the coarsest scale a
        whole window.
    window : int
        Side of the Gaussian window, px; cut to the shorter side where that is smaller.
    sigma : float
        Its standard deviation, px.

    Returns
    -------
    scalar tensor in (0, 1], 1 for equal pictures
        Mean over channels and images; gradients reach both arguments and are finite everywhere.

    Raises
    ------
    ValueError
        The shapes differ, or `scales` or `window` is below 1.
    """
    shorter = min(picture.shape[-2:])
    window = min(window, shorter)
    while scales > 1 and shorter >> (scales - 1) < window:
        scales -= 1
    factors = _similarities(picture, target, scales, window, sigma)
    return _positive(factors).prod(dim=0).mean()


def _positive(similarity: Tensor) -> Tensor:
    """Keep what is above the floor; bend the rest to stay positive, with a continuous slope."""
    # The clamp keeps the branch that is not taken from dividing by zero, in gradients too.
    bent = _FLOOR**2 / (2 * _FLOOR - similarity.clamp(max=_FLOOR))
    return torch.where(similarity < _FLOOR, bent, similarity)


def _similarities(
    picture: Tensor, target: Tensor, scales: int, window: int, sigma: float
) -> Tensor:
    """Compare two pictures at each scale, finest first.

    Returns
    -------
    (scales, N, C), fp32 or wider
        Mean contrast-structure similarity; at the coarsest scale times luminance.

    Raises
    ------
    ValueError
        The shapes differ, or the coarsest scale is smaller than the window.
    """
    picture, target = prepare_pair(picture, target)
    count, channels, height, width = picture.shape
    if scales < 1 or window < 1 or min(height, width) >> (scales - 1) < window:
        raise ValueError(f"{height}x{width} px are too few for {scales} scales of {window} px")
    means: list[Tensor] = []
    with without_autocast(picture.device.type):
        kernel = gaussian(window, sigma).to(picture, non_blocking=True)  # waits for no GPU
        # All planes as channels of one image: torch's depthwise convolution is several times
        # faster on that than on a batch of three channels, on a CPU most of all in channels_last.
        # (On CUDA that layout would go to cuDNN, which computes "fp32" with 10 bits by default.)
        is_cpu = picture.device.type == "cpu"
        layout = torch.channels_last if is_cpu else torch.contiguous_format
        x, y = (
            planes.reshape(1, -1, height, width).contiguous(memory_format=layout)
            for planes in (picture, target)
        )
        for scale in range(scales):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            similarity = similarity_map(x, y, kernel, is_coarsest=scale == scales - 1)
            means.append(similarity.mean(dim=(2, 3)).view(count, channels))
    return torch.stack(means)


def similarity_map(x: Tensor, y: Tensor, kernel: Tensor, *, is_coarsest: bool) -> Tensor:
    """Compare two pictures window by window.

    Parameters
    ----------
    x, y : (1, P, H, W) float, nominally [0, 1]
        Each plane is compared for itself.
    kernel : (k,)
        From `gaussian`.
    is_coarsest : bool
        Whether luminance counts.

    Returns
    -------
    (1, P, H - k + 1, W - k + 1)
        Contrast and structure, cs, of every window; at the coarsest scale luminance times that.
    """
    # Of the two variances only the sum is ever needed: four maps to blur instead of five.
    mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
    mean_xy, mean_squares = _blur(x * y, kernel), _blur(x * x + y * y, kernel)
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    similarity = _likeness(mean_xy - product, mean_squares - squares, _C2)
    return similarity * _likeness(product, squares, _C1) if is_coarsest else similarity


def _likeness(cross: Tensor, squares: Tensor, constant: float) -> Tensor:
    """``(2ab + c) / (a^2 + b^2 + c)``: the form of both luminance and contrast-structure."""
    return (2 * cross + constant) / (squares + constant)


def gaussian(window: int = WINDOW, sigma: float = SIGMA) -> Tensor:
    """Build a centred Gaussian, (window,) in fp64, whose sum is 1."""
    offsets = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    return weights / weights.sum()


def _blur(planes: Tensor, kernel: Tensor) -> Tensor:
    """Filter rows, then columns, wherever the kernel fits: each plane for itself."""
    count = planes.shape[1]
    rows = kernel.view(1, 1, 1, -1).expand(count, 1, 1, -1)
    return F.conv2d(F.conv2d(planes, rows, groups=count), rows.transpose(2, 3), groups=count)


def prepare_pair(picture: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Check the shapes, for broadcasting would hide a mistake, and widen to fp32 at least."""
    if picture.shape != target.shape or picture.dim() != 4:
        shapes = f"{tuple(picture.shape)} and {tuple(target.shape)}"
        raise ValueError(f"a loss compares two tensors of one shape (N, C, H, W), not {shapes}")
    wide = torch.promote_types(torch.promote_types(picture.dtype, target.dtype), torch.float32)
    return picture.to(wide), target.to(wide)
