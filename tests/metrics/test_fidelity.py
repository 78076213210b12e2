"""Measures of closeness: reference libraries, published values, and what must hold of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_msssim
import skimage.color
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gia_cli.imaging.color import XYZ_FROM_SRGB, bt709_decode, bt709_encode, lab_from_srgb
from gia_cli.metrics import fidelity as metrics
from gia_cli.metrics.bootstrap import bootstrap_interval, paired_bootstrap_interval
from gia_cli.metrics.color import block_color_error, ciede2000, delta_e, exposure_error_stops
from gia_cli.metrics.fidelity import ms_ssim, psnr, ssim
from gia_cli.metrics.ssim import standard_ms_ssim

pytestmark = pytest.mark.usefixtures("one_thread")

Picture = NDArray[np.float32]
Measure = Callable[[Picture, Picture], float]

SIMILARITIES: list[Measure] = [psnr, ssim, ms_ssim]
DISTANCES: list[Measure] = [delta_e, block_color_error]
# Where equal pictures stand.
PERFECT: dict[Measure, float] = {psnr: math.inf, ssim: 1, ms_ssim: 1, delta_e: 0}
PERFECT |= {block_color_error: 0, exposure_error_stops: 0}


def picture(rng: np.random.Generator, height: int = 183, width: int = 211) -> Picture:
    """Smooth shapes in several colours with some texture, in [0.05, 0.95]."""
    rows, cols = np.mgrid[:height, :width] / 40
    phases = rng.uniform(0, 6, size=(3, 3))
    waves = [np.sin(rows * a + phase) + np.cos(cols * b + a) for a, b, phase in 0.5 + phases]
    texture = 0.1 * rng.normal(size=(height, width, 3))
    return (0.5 + 0.2 * np.stack(waves, axis=2) + texture).clip(0.05, 0.95).astype(np.float32)


def noisy(target: Picture, sigma: float, rng: np.random.Generator) -> Picture:
    return (target + sigma * rng.normal(size=target.shape)).clip(0, 1).astype(np.float32)


def flat(*color: float, size: tuple[int, int] = (64, 96)) -> Picture:
    return np.full((*size, 3), color, np.float32)


# ---------------------------------------------------------------- what all of them share


@pytest.mark.parametrize("measure", PERFECT, ids=lambda m: m.__name__)
def test_equal_pictures(measure: Measure, rng: np.random.Generator) -> None:
    target = picture(rng)
    assert measure(target, target.copy()) == pytest.approx(PERFECT[measure], abs=1e-6)
    assert isinstance(measure(target, noisy(target, 0.1, rng)), float)


@pytest.mark.parametrize("measure", [*SIMILARITIES, *DISTANCES], ids=lambda m: m.__name__)
def test_symmetric(measure: Measure, rng: np.random.Generator) -> None:
    target = picture(rng)
    other = noisy(target**1.1, 0.1, rng)
    assert measure(other, target) == pytest.approx(measure(target, other), rel=1e-6)


@pytest.mark.parametrize("measure", [*SIMILARITIES, *DISTANCES], ids=lambda m: m.__name__)
def test_more_noise_is_worse(measure: Measure, rng: np.random.Generator) -> None:
    target = picture(rng)
    values = [measure(noisy(target, sigma, rng), target) for sigma in (0.01, 0.03, 0.1, 0.3)]
    assert values == sorted(values, reverse=measure in SIMILARITIES)
    assert len(set(values)) == 4


@pytest.mark.parametrize("measure", PERFECT, ids=lambda m: m.__name__)
def test_bounds(measure: Measure, rng: np.random.Generator) -> None:
    target = picture(rng)
    lowest: dict[Measure, float] = {ssim: -1, psnr: -math.inf, exposure_error_stops: -math.inf}
    low = lowest.get(measure, 0)
    high = 1 if measure in (ssim, ms_ssim) else math.inf
    for other in (1 - target, target * 0, target * 0 + 1, noisy(target, 3, rng)):
        assert low <= measure(other, target) <= high


@pytest.mark.parametrize("measure", PERFECT, ids=lambda m: m.__name__)
def test_bad_pairs_are_refused(measure: Measure) -> None:
    target = np.zeros((180, 190, 3), np.float32)
    with pytest.raises(ValueError, match="different shapes"):
        measure(target[:, :1], target)
    with pytest.raises(ValueError, match="different shapes"):
        measure(target[..., :1], target)
    if measure is psnr:  # of any shape
        return
    for bad in (target[..., 0], target.transpose(2, 0, 1), target[None], target[..., :2]):
        with pytest.raises(ValueError, match="a picture is"):
            measure(bad, bad)
    with pytest.raises(ValueError, match="too few"):
        measure(target[:0], target[:0])
    with pytest.raises(ValueError, match="uint8"):
        measure(target.astype(np.uint8), target)


@pytest.mark.parametrize("measure", PERFECT, ids=lambda m: m.__name__)
def test_nan_is_not_hidden(measure: Measure, rng: np.random.Generator) -> None:
    target = picture(rng)
    broken = target.copy()
    broken[90, 100, 1] = np.nan
    assert math.isnan(measure(broken, target))


@pytest.mark.parametrize("measure", PERFECT, ids=lambda m: m.__name__)
def test_layout_and_precision_do_not_matter(measure: Measure, rng: np.random.Generator) -> None:
    target = picture(rng)
    other = noisy(target, 0.05, rng)
    expected = measure(other, target)
    planes = np.ascontiguousarray(other.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert measure(planes, target) == pytest.approx(expected, rel=1e-6)
    assert measure(other[::-1, ::-1], target[::-1, ::-1]) == pytest.approx(expected, rel=0.05)
    assert measure(other.astype(np.float64), target) == pytest.approx(expected, rel=1e-6)
    for array in (other, target):
        array.flags.writeable = False
    before = other.copy()
    assert measure(other, target) == expected
    assert np.array_equal(other, before)


@pytest.mark.slow
@pytest.mark.parametrize("measure", PERFECT, ids=lambda m: m.__name__)
@pytest.mark.parametrize("pixels", [1, 5000, 211 * 64])
def test_bands_change_nothing(
    measure: Measure, pixels: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = picture(rng)
    other = noisy(target**1.1, 0.05, rng)
    whole = measure(other, target)
    assert target.size < metrics._BAND_PIXELS
    monkeypatch.setattr(metrics, "_BAND_PIXELS", pixels)
    assert measure(other, target) == pytest.approx(whole, rel=2e-7)


# ---------------------------------------------------------------- PSNR


def test_psnr_of_known_errors(rng: np.random.Generator) -> None:
    target = rng.random((3, 8, 9))
    assert psnr(target, target) == float("inf")
    assert psnr(target + 0.1, target) == pytest.approx(20)
    assert psnr(target, target + 0.01) == pytest.approx(40)


def test_psnr_falls_with_noise(rng: np.random.Generator) -> None:
    target = rng.random((3, 64, 64))
    noise = rng.normal(size=target.shape)
    scores = [psnr(target + sigma * noise, target) for sigma in (0.01, 0.05, 0.2)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("shape", [(40,), (5, 8), (3, 20, 30), (20, 30, 3), (2, 3, 4, 5)])
def test_psnr_agrees_with_scikit_image(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    target = rng.random(shape)
    other = target + 0.1 * rng.normal(size=shape)
    expected = peak_signal_noise_ratio(target, other, data_range=1)
    assert psnr(other, target) == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- SSIM


@pytest.mark.parametrize("size", [(64, 64), (45, 77), (11, 30), (11, 11)])
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_ssim_agrees_with_scikit_image(
    size: tuple[int, int], sigma: float, rng: np.random.Generator
) -> None:
    target = picture(rng, *size)
    other = noisy(target, sigma, rng)
    expected = structural_similarity(
        other.astype(np.float64),
        target.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=2,
    )
    assert ssim(other, target) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [(176, 176), (192, 256)])
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_ms_ssim_agrees_with_pytorch_msssim(
    size: tuple[int, int], sigma: float, rng: np.random.Generator
) -> None:
    target = picture(rng, *size)
    other = noisy(target, sigma, rng)
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None] for p in (other, target))
    expected = pytorch_msssim.ms_ssim(x, y, data_range=1).item()
    assert ms_ssim(other, target) == pytest.approx(expected, abs=1e-5)


def test_ms_ssim_drops_odd_rows_as_the_loss_does(rng: np.random.Generator) -> None:
    target = picture(rng, 187, 205)
    other = noisy(target, 0.1, rng)
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None] for p in (other, target))
    assert ms_ssim(other, target) == pytest.approx(standard_ms_ssim(x, y).item(), abs=1e-6)


def test_ms_ssim_cuts_negative_similarities(rng: np.random.Generator) -> None:
    target = picture(rng)
    assert ms_ssim(1 - target, target) == 0


def test_similarities_refuse_what_is_too_small_for_them() -> None:
    with pytest.raises(ValueError, match="10x64 px are too few, 11 are needed"):
        ssim(np.zeros((10, 64, 3)), np.zeros((10, 64, 3)))
    with pytest.raises(ValueError, match="192x175 px are too few, 176 are needed"):
        ms_ssim(np.zeros((192, 175, 3)), np.zeros((192, 175, 3)))


# ---------------------------------------------------------------- CIEDE2000

# Sharma, Wu, Dalal (2005), Table 1: two colours in Lab, and their difference.
SHARMA = np.array(
    [
        [50.0000, 2.6772, -79.7751, 50.0000, 0.0000, -82.7485, 2.0425],
        [50.0000, 3.1571, -77.2803, 50.0000, 0.0000, -82.7485, 2.8615],
        [50.0000, 2.8361, -74.0200, 50.0000, 0.0000, -82.7485, 3.4412],
        [50.0000, -1.3802, -84.2814, 50.0000, 0.0000, -82.7485, 1.0000],
        [50.0000, -1.1848, -84.8006, 50.0000, 0.0000, -82.7485, 1.0000],
        [50.0000, -0.9009, -85.5211, 50.0000, 0.0000, -82.7485, 1.0000],
        [50.0000, 0.0000, 0.0000, 50.0000, -1.0000, 2.0000, 2.3669],
        [50.0000, -1.0000, 2.0000, 50.0000, 0.0000, 0.0000, 2.3669],
        [50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0009, 7.1792],
        [50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0010, 7.1792],
        [50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0011, 7.2195],
        [50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0012, 7.2195],
        [50.0000, -0.0010, 2.4900, 50.0000, 0.0009, -2.4900, 4.8045],
        [50.0000, -0.0010, 2.4900, 50.0000, 0.0010, -2.4900, 4.8045],
        [50.0000, -0.0010, 2.4900, 50.0000, 0.0011, -2.4900, 4.7461],
        [50.0000, 2.5000, 0.0000, 50.0000, 0.0000, -2.5000, 4.3065],
        [50.0000, 2.5000, 0.0000, 73.0000, 25.0000, -18.0000, 27.1492],
        [50.0000, 2.5000, 0.0000, 61.0000, -5.0000, 29.0000, 22.8977],
        [50.0000, 2.5000, 0.0000, 56.0000, -27.0000, -3.0000, 31.9030],
        [50.0000, 2.5000, 0.0000, 58.0000, 24.0000, 15.0000, 19.4535],
        [50.0000, 2.5000, 0.0000, 50.0000, 3.1736, 0.5854, 1.0000],
        [50.0000, 2.5000, 0.0000, 50.0000, 3.2972, 0.0000, 1.0000],
        [50.0000, 2.5000, 0.0000, 50.0000, 1.8634, 0.5757, 1.0000],
        [50.0000, 2.5000, 0.0000, 50.0000, 3.2592, 0.3350, 1.0000],
        [60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644],
        [63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630],
        [61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731],
        [35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645],
        [22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373],
        [36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146],
        [90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441],
        [90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381],
        [6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377],
        [2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082],
    ]
)


def test_ciede2000_of_the_published_pairs() -> None:
    first, second, expected = SHARMA[:, :3], SHARMA[:, 3:6], SHARMA[:, 6]
    np.testing.assert_allclose(ciede2000(first, second), expected, atol=5.1e-5)
    np.testing.assert_allclose(ciede2000(second, first), expected, atol=5.1e-5)
    np.testing.assert_array_equal(ciede2000(first, first), 0)


def test_ciede2000_agrees_with_scikit_image(rng: np.random.Generator) -> None:
    first, second = rng.uniform([0, -100, -100], [100, 100, 100], size=(2, 40, 50, 3))
    expected = skimage.color.deltaE_ciede2000(first, second)
    np.testing.assert_allclose(ciede2000(first, second), expected, rtol=1e-9)


def test_delta_e_agrees_with_scikit_image(rng: np.random.Generator) -> None:
    target = picture(rng, 50, 60)
    other = noisy(target**0.9, 0.05, rng)
    lights = (bt709_decode(p).astype(np.float64) for p in (other, target))
    expected = skimage.color.deltaE_ciede2000(
        *(skimage.color.xyz2lab(light @ XYZ_FROM_SRGB.T) for light in lights)
    )
    assert delta_e(other, target) == pytest.approx(expected.mean(), rel=1e-5)


def test_delta_e_uses_the_bt709_curve() -> None:
    grey, lighter = flat(0.5, 0.5, 0.5), flat(0.6, 0.6, 0.6)
    lights = [lab_from_srgb(bt709_decode(p))[0, 0, 0] for p in (grey, lighter)]
    assert lights[0] == pytest.approx(116 * 0.2596 ** (1 / 3) - 16, abs=0.05)
    expected = ciede2000(np.array([lights[0], 0, 0]), np.array([lights[1], 0, 0]))
    assert delta_e(lighter, grey) == pytest.approx(float(expected), rel=1e-6)


# ---------------------------------------------------------------- colour casts


def test_block_color_error_of_flat_colors() -> None:
    ours, wanted = flat(0.5, 0.4, 0.3), flat(0.4, 0.4, 0.4)
    x, y = (lab_from_srgb(bt709_decode(p))[0, 0] for p in (ours, wanted))
    expected = math.hypot(x[1] - y[1], x[2] - y[2])
    assert expected > 5
    assert block_color_error(ours, wanted) == pytest.approx(expected)
    assert block_color_error(flat(0.2, 0.2, 0.2), wanted) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (70, 101), (33, 31), (5, 7), (1, 1)])
def test_block_color_error_equals_plain_loops(
    size: tuple[int, int], rng: np.random.Generator
) -> None:
    target = picture(rng, *size)
    other = noisy(target**1.2, 0.1, rng)
    total = 0.0
    for top in range(0, size[0], 32):
        for left in range(0, size[1], 32):
            part = (slice(top, top + 32), slice(left, left + 32))
            light = [bt709_decode(p[part]).astype(float).mean(axis=(0, 1)) for p in (other, target)]
            difference = lab_from_srgb(light[0]) - lab_from_srgb(light[1])
            total += math.hypot(*difference[1:]) * target[part][..., 0].size
    assert block_color_error(other, target) == pytest.approx(total / (size[0] * size[1]), rel=1e-9)


def test_noise_is_no_cast_but_a_cast_is(rng: np.random.Generator) -> None:
    """In linear light, where noise is made, its mean is zero; a cast of the same size stays."""
    light = np.full((256, 256, 3), 0.05)
    target = bt709_encode(light)
    noise = bt709_encode(light + rng.normal(scale=0.01, size=light.shape))
    cast = bt709_encode(light * [1.1, 1, 0.9])
    assert delta_e(noise, target) > delta_e(cast, target)
    assert block_color_error(noise, target) < 0.1 * block_color_error(cast, target)
    lab = [lab_from_srgb(bt709_decode(p)).mean(axis=(0, 1)) for p in (noise, target)]
    of_lab_means = math.hypot(*(lab[0] - lab[1])[1:])
    assert block_color_error(noise, target, block=256) < 0.3 * of_lab_means


def test_block_color_error_refuses_no_block() -> None:
    with pytest.raises(ValueError, match="block"):
        block_color_error(flat(0, 0, 0), flat(0, 0, 0), block=0)


# ---------------------------------------------------------------- exposure


@pytest.mark.parametrize("stops", [-3, -0.5, 0.25, 2])
def test_exposure_error_of_scaled_light(stops: float, rng: np.random.Generator) -> None:
    light = 0.2 * bt709_decode(picture(rng))
    ours, wanted = bt709_encode(light * 2**stops), bt709_encode(light)
    assert exposure_error_stops(ours, wanted) == pytest.approx(stops, abs=1e-4)
    assert exposure_error_stops(wanted, ours) == pytest.approx(-stops, abs=1e-4)


def test_exposure_error_weighs_colors_by_luminance() -> None:
    green, red = flat(0, 1, 0), flat(1, 0, 0)
    assert exposure_error_stops(green, red) == pytest.approx(math.log2(0.7152 / 0.2127), abs=1e-3)


def test_exposure_error_of_black() -> None:
    black, grey = flat(0, 0, 0), flat(0.5, 0.5, 0.5)
    assert exposure_error_stops(black, black) == 0
    assert exposure_error_stops(black, grey) == -math.inf
    assert exposure_error_stops(grey, black) == math.inf


# ---------------------------------------------------------------- bootstrap


def test_the_interval_is_near_the_normal_one(rng: np.random.Generator) -> None:
    values = rng.normal(30, 2, size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


@pytest.mark.slow
def test_the_interval_covers_the_true_mean_as_often_as_it_says(rng: np.random.Generator) -> None:
    samples = rng.exponential(size=(200, 50))
    intervals = [bootstrap_interval(sample, level=0.8, draws=200) for sample in samples]
    share = np.mean([low < 1 < high for low, high in intervals])
    assert 0.7 < share < 0.88


def test_the_interval_is_deterministic(rng: np.random.Generator) -> None:
    values = rng.normal(size=30).tolist()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    narrow, wide = bootstrap_interval(values, level=0.5), bootstrap_interval(values, level=0.99)
    assert wide[0] < narrow[0] < np.mean(values) < narrow[1] < wide[1]


def test_an_interval_of_one_value_or_equal_ones() -> None:
    assert bootstrap_interval([3.5]) == (3.5, 3.5)
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2, 2)


def test_pairs_are_narrower_than_their_parts(rng: np.random.Generator) -> None:
    hardness = rng.normal(28, 4, size=60)
    first = hardness + rng.normal(0.5, 0.3, size=60)
    low, high = paired_bootstrap_interval(first, hardness)
    assert 0 < low < 0.5 < high < 1
    alone = bootstrap_interval(first)
    assert high - low < 0.2 * (alone[1] - alone[0])
    swapped = paired_bootstrap_interval(hardness, first)
    assert swapped == pytest.approx((-high, -low), abs=0.01)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([], {}),
        ([1, math.nan], {}),
        ([1, math.inf], {}),
        ([[1, 2]], {}),
        (1, {}),
        ([1, 2], {"level": 1}),
        ([1, 2], {"level": 0}),
        ([1, 2], {"draws": 0}),
    ],
)
def test_bad_samples_are_refused(values: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bootstrap"):
        bootstrap_interval(values, **options)
    with pytest.raises(ValueError, match="equal lengths"):
        paired_bootstrap_interval([1, 2, 3], [1])


def test_whole_scenes_are_drawn() -> None:
    """Ten copies of every value are ten pictures, but no more scenes."""
    values = np.random.default_rng(2).normal(0, 1, 30)
    scenes = [f"scene {i}" for i in range(30) for _ in range(10)]
    assert bootstrap_interval(values.repeat(10), groups=scenes) == pytest.approx(
        bootstrap_interval(values)
    )
    low, high = bootstrap_interval(values.repeat(10))
    wide_low, wide_high = bootstrap_interval(values)
    assert high - low < 0.5 * (wide_high - wide_low)


def test_large_scenes_weigh_as_much_as_their_pictures() -> None:
    low, high = bootstrap_interval([1, 1, 1, 5], groups=["a", "a", "a", "b"])
    assert low == 1
    assert high == 5
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        bootstrap_interval([1, 2, 3], groups=["a", "b"])
