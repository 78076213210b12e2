"""Structural similarity in torch, against the libraries and against the paper by plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_msssim
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim
from skimage.metrics import structural_similarity
from torch import Tensor

from gia_cli.metrics import ssim as ssim_module
from gia_cli.metrics.ssim import ms_ssim, ssim, standard_ms_ssim
from gia_cli.training.losses import joint_loss
from tests.metrics.pairs import noisy, pictures

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"scales": 2, "window": 3, "sigma": 0.8}


@pytest.mark.parametrize("size", [(64, 64), (45, 77), (11, 30)])
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_ssim_agrees_with_the_libraries(size: tuple[int, int], sigma: float) -> None:
    target = pictures(2, 3, *size)
    picture = noisy(target, sigma)
    own = ssim(picture, target).item()
    assert own == pytest.approx(pytorch_msssim.ssim(picture, target, data_range=1).item(), abs=1e-5)
    from_skimage = [
        structural_similarity(
            one.numpy(),
            other.numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
        )
        for one, other in zip(picture.double(), target.double(), strict=True)
    ]
    assert own == pytest.approx(np.mean(from_skimage), abs=1e-5)


@pytest.mark.parametrize("size", [(176, 176), (192, 256)])
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_standard_ms_ssim_agrees_with_pytorch_msssim(size: tuple[int, int], sigma: float) -> None:
    target = pictures(2, 3, *size)
    picture = noisy(target, sigma)
    expected = pytorch_msssim.ms_ssim(picture, target, data_range=1)
    assert standard_ms_ssim(picture, target).item() == pytest.approx(expected.item(), abs=1e-5)


def test_standard_ms_ssim_cuts_negative_similarities() -> None:
    target = pictures(1, 3, 176, 176)
    expected = pytorch_msssim.ms_ssim(1 - target, target, data_range=1)
    assert standard_ms_ssim(1 - target, target).item() == expected.item() == 0


def test_metrics_refuse_what_is_too_small_for_them() -> None:
    with pytest.raises(ValueError, match="10x64 px"):
        ssim(torch.zeros(1, 3, 10, 64), torch.zeros(1, 3, 10, 64))
    with pytest.raises(ValueError, match="175x192 px"):
        standard_ms_ssim(torch.zeros(1, 3, 175, 192), torch.zeros(1, 3, 175, 192))


def plain_similarities(
    x: NDArray[np.float64], y: NDArray[np.float64], window: int, sigma: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Luminance and contrast-structure of each window of one plane, as the formulas read."""
    offsets = np.arange(window) - (window - 1) / 2
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    shape = (x.shape[0] - window + 1, x.shape[1] - window + 1)
    luminance, contrast = np.empty(shape), np.empty(shape)
    for at in np.ndindex(shape):
        a, b = (p[at[0] : at[0] + window, at[1] : at[1] + window] for p in (x, y))
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        variance_a = (weights * (a - mean_a) ** 2).sum()
        variance_b = (weights * (b - mean_b) ** 2).sum()
        covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
        luminance[at] = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        contrast[at] = (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)
    return luminance, contrast


def halved(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, cols = plane.shape[0] // 2, plane.shape[1] // 2
    blocks = plane[: 2 * rows, : 2 * cols].reshape(rows, 2, cols, 2)
    mean: NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return mean


def plain_ms_ssim(
    x: NDArray[np.float64], y: NDArray[np.float64], scales: int, window: int, sigma: float
) -> float:
    """Equations 3 to 6 for one plane."""
    product = 1.0
    for scale in range(scales):
        luminance, contrast = plain_similarities(x, y, window, sigma)
        mean = (luminance * contrast if scale == scales - 1 else contrast).mean()
        product *= mean if mean >= 0.01 else 0.0001 / (0.02 - mean)
        x, y = halved(x), halved(y)
    return product


@pytest.mark.parametrize(
    ("size", "scales", "window", "sigma"),
    [((24, 28), 1, 5, 1.0), ((25, 31), 2, 5, 1.5), ((24, 30), 3, 3, 0.8), ((23, 23), 2, 11, 1.5)],
)
@pytest.mark.parametrize("kind", ["noisy", "negative"])
def test_ms_ssim_equals_plain_loops(
    size: tuple[int, int], scales: int, window: int, sigma: float, kind: str
) -> None:
    target = pictures(2, 2, *size, dtype=torch.float64)
    picture = noisy(target, 0.1) if kind == "noisy" else noisy(1.1 - target, 0.02)
    planes = zip(picture.flatten(0, 1).numpy(), target.flatten(0, 1).numpy(), strict=True)
    expected = np.mean([plain_ms_ssim(x, y, scales, window, sigma) for x, y in planes])
    own = ms_ssim(picture, target, scales=scales, window=window, sigma=sigma)
    assert own.item() == pytest.approx(expected, rel=1e-9)
    assert own.dtype == torch.float64


def test_ms_ssim_of_five_scales_is_a_product_of_means() -> None:
    """The default, from pytorch-msssim's own parts: cs of four scales, ssim of the fifth."""
    target = pictures(1, 1, 192, 192)
    picture = noisy(target, 0.05)
    expected = 1.0
    kernel = _fspecial_gauss_1d(11, 1.5)[None]
    x, y = picture, target
    for scale in range(5):
        whole, contrast = _ssim(x, y, 1.0, kernel)
        expected *= (whole if scale == 4 else contrast).item()
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    assert 0.05 < expected < 0.95
    assert ms_ssim(picture, target).item() == pytest.approx(expected, abs=1e-5)


def test_luminance_counts_at_the_coarsest_scale_only() -> None:
    target = 0.5 + 0.1 * pictures(1, 3, 192, 192)
    luminance = 1 - ms_ssim(target + 0.2, target)
    assert luminance > 0.01
    single = 1 - ssim(target + 0.2, target)  # contrast and structure are those of the target
    assert luminance.item() == pytest.approx(single.item(), rel=0.02)


def factors_of(picture: Tensor, target: Tensor) -> Tensor:
    return ssim_module._similarities(picture, target, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noisy", "negative", "flat"])
def test_ms_ssim_gradients(kind: str) -> None:
    target = pictures(1, 2, 7, 8, dtype=torch.float64)
    picture = {"noisy": noisy(target, 0.1), "negative": 1 - target, "flat": target * 0 + 0.4}[kind]
    picture, target = picture.requires_grad_(), target.requires_grad_()
    if kind == "negative":
        assert (factors_of(picture, target) < 0).all()
    assert torch.autograd.gradcheck(lambda x, y: ms_ssim(x, y, **SMALL), (picture, target))


def test_positive_gradients_across_the_floor() -> None:
    values = torch.tensor([-1, -0.3, 0, 0.005, 0.0099, 0.0101, 0.02, 0.03, 1], dtype=torch.float64)
    values.requires_grad_()
    assert torch.autograd.gradcheck(ssim_module._positive, values, eps=1e-7)
    bent = ssim_module._positive(values)
    assert (bent.diff() > 0).all()
    assert bent.min() > 0
    assert torch.equal(bent[5:], values[5:])
    at_the_floor = torch.tensor([0.01], dtype=torch.float64, requires_grad=True)
    ssim_module._positive(at_the_floor).backward()
    assert at_the_floor.grad is not None
    assert at_the_floor.grad.item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("size", "scales"),
    [((176, 300), 5), ((175, 300), 4), ((88, 88), 4), ((64, 32), 2), ((22, 22), 2), ((21, 40), 1)],
)
def test_small_crops_use_the_scales_that_fit(size: tuple[int, int], scales: int) -> None:
    target = pictures(1, 3, *size)
    picture = noisy(target, 0.05)
    values = [ms_ssim(picture, target, scales=n).item() for n in range(1, 7)]
    assert len(set(values)) == scales
    assert ms_ssim(picture, target).item() == values[scales - 1]


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (10, 10), (11, 11)])
def test_tiny_crops_cut_the_window(size: tuple[int, int]) -> None:
    target = pictures(2, 3, *size)
    assert ms_ssim(target, target).item() == pytest.approx(1, abs=1e-6)
    assert joint_loss(noisy(target, 0.3), target) > 0.01


@pytest.mark.parametrize("wrong", [{"scales": 0}, {"window": 0}])
def test_no_scale_or_window_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="too few"):
        ms_ssim(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64), **wrong)
