"""Noise in flat places: each band holds what it says, of the error, where the truth is flat."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.imaging.color import XYZ_FROM_SRGB, bt709_decode, bt709_encode, lab_from_srgb
from gia_cli.metrics.flatness import BANDS, NAMES, SCALES, averaging_taps, band_gain, flat_noise

Picture = NDArray[np.float32]
SIZE = (320, 380)
# Large enough for the coarsest band to have some hundred independent places.
LARGE = (500, 620)
NOISE = [name for name in NAMES if "share" not in name]
SHARES = [name for name in NAMES if "share" in name]


def from_lab(lab: NDArray[np.float64]) -> Picture:
    """Encode L*, a*, b*, none of them near black: (H, W, 3)."""
    f = (lab[..., :1] + 16) / 116 + lab @ [[0, 0, 0], [1 / 500, 0, 0], [0, 0, -1 / 200]]
    white = XYZ_FROM_SRGB.sum(axis=1)
    return bt709_encode((f**3 * white) @ np.linalg.inv(XYZ_FROM_SRGB).T)


def grey(light: float = 0.18, size: tuple[int, int] = SIZE) -> Picture:
    return bt709_encode(np.full((*size, 3), light))


def mid_grey() -> NDArray[np.float64]:
    """L*, a*, b* of a wall."""
    return np.full((*SIZE, 3), [50.0, 0, 0])


def of_kind(values: dict[str, float], kind: str) -> list[float]:
    return [values[f"flat_{kind}_{fine}_{coarse}"] for fine, coarse in BANDS]


def white_noise_gain(fine: int, coarse: int) -> float:
    """RMS of a band of white noise whose RMS is 1, from the two kernels."""
    kernel = np.zeros((SCALES[-1] + 1,) * 2)
    centre = SCALES[-1] // 2
    for scale, sign in ((fine, 1), (coarse, -1)):
        taps = averaging_taps(scale)
        reach = len(taps) // 2
        around = slice(centre - reach, centre + reach + 1)
        kernel[around, around] += sign * np.outer(taps, taps)
    return math.sqrt(np.square(kernel).sum()) / band_gain(fine, coarse)


def blurred(field: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    taps = averaging_taps(scale)
    for axis in (0, 1):
        field = np.apply_along_axis(np.convolve, axis, field, taps, "same")
    return field


# ---------------------------------------------------------------- the averages


@pytest.mark.parametrize("scale", SCALES)
def test_an_average_halves_its_own_period(scale: int) -> None:
    taps = averaging_taps(scale)
    assert len(taps) % 2 == 1
    assert taps.sum() == pytest.approx(1)
    assert taps.min() > 0
    np.testing.assert_allclose(taps, taps[::-1])
    if scale == 1:
        return
    offsets = np.arange(len(taps)) - len(taps) // 2
    left = [taps @ np.cos(2 * np.pi * offsets * k / scale) for k in range(1, scale // 2)]
    assert taps @ np.cos(2 * np.pi * offsets / scale) == pytest.approx(0.5)
    np.testing.assert_allclose(left[1:], 0, atol=1e-12)


# ---------------------------------------------------------------- what the bands hold


@pytest.mark.parametrize("light", [0.02, 0.18, 0.6])
def test_white_noise_has_its_predicted_rms(light: float, rng: np.random.Generator) -> None:
    sigma = 0.02 * light
    noise = rng.normal(scale=sigma, size=(*LARGE, 3))
    values = flat_noise(bt709_encode(light + noise), grey(light, LARGE))
    lab = lab_from_srgb(light + np.diag([sigma] * 3)) - lab_from_srgb(np.full(3, light))
    luma, chroma = np.linalg.norm(lab[:, 0]), np.linalg.norm(lab[:, 1:])
    gains = [white_noise_gain(*band) for band in BANDS]
    assert gains == pytest.approx([0.64, 0.69, 0.20, 0.05], abs=0.006)  # as documented
    for kind, expected in (("luma", luma), ("chroma", chroma)):
        found = np.array(of_kind(values, kind)) / expected / gains
        assert found[:3] == pytest.approx(1, abs=0.03)
        assert found[3] == pytest.approx(1, abs=0.15)  # of few independent places


def test_fine_grain_is_no_mottle_however_strong(rng: np.random.Generator) -> None:
    """It averages out in light. In the mean of the pixels' Lab a share of it would stay."""
    light = 0.18
    grain = light * (1 + 0.3 * rng.normal(size=(*SIZE, 3)))
    weak = light * (1 + 0.003 * rng.normal(size=(*SIZE, 3)))
    strong, faint = (flat_noise(bt709_encode(x), grey(light)) for x in (grain, weak))
    for name in ("flat_luma_8_32", "flat_chroma_8_32"):
        assert strong[name] == pytest.approx(100 * faint[name], rel=0.04)


@pytest.mark.parametrize(
    ("channel", "kind", "other"), [(0, "luma", "chroma"), (1, "chroma", "luma")]
)
@pytest.mark.parametrize("across", [False, True])
def test_a_sinusoid_of_20_px_is_mottle(channel: int, kind: str, other: str, across: bool) -> None:
    amplitude = 2.0
    lab = mid_grey()
    truth = from_lab(lab)
    place = np.arange(SIZE[across])
    wave = amplitude * np.sin(2 * np.pi * place / 20)
    lab[..., channel] += wave if across else wave[:, None]
    values = flat_noise(from_lab(lab), truth)
    found = np.array(of_kind(values, kind)) / (amplitude / math.sqrt(2))
    # In the power of all four 0.97 is in its own band.
    assert found == pytest.approx([0.016, 0.115, 0.92, 0.144], abs=0.01)
    assert max(of_kind(values, other)) < 0.05 * amplitude


@pytest.mark.parametrize(("band", "period"), [((2, 8), 4), ((8, 32), 16), ((32, 128), 64)])
def test_the_sinusoid_in_the_middle_of_a_band_has_its_own_rms(
    band: tuple[int, int], period: int
) -> None:
    lab = mid_grey()
    truth = from_lab(lab)
    lab[..., 0] += np.sin(2 * np.pi * np.arange(SIZE[1]) / period + 0.3)
    values = flat_noise(from_lab(lab), truth)
    # The coarsest band meets its sinusoid at few phases.
    assert values["flat_luma_{}_{}".format(*band)] == pytest.approx(math.sqrt(0.5), rel=0.04)


def test_the_checkerboard_is_the_finest_grain() -> None:
    lab = mid_grey()
    truth = from_lab(lab)
    rows, cols = np.indices(SIZE)
    lab[..., 0] += (-1.0) ** (rows + cols)
    values = flat_noise(from_lab(lab), truth)
    # What three taps leave of it is in the band above.
    assert of_kind(values, "luma") == pytest.approx([1, 1 / 3, 0, 0], abs=0.02)


def test_a_cast_is_in_no_band() -> None:
    casts = bt709_encode(bt709_decode(grey()) * np.array([1.2, 1, 0.8], np.float32))
    values = flat_noise(casts, grey())
    assert all(values[name] < 1e-3 for name in NOISE)


def test_twice_the_error_is_twice_the_noise(rng: np.random.Generator) -> None:
    noise = 0.001 * rng.normal(size=(*SIZE, 3))
    once, twice = (flat_noise(bt709_encode(0.18 + k * noise), grey()) for k in (1, 2))
    for name in NOISE:
        assert twice[name] == pytest.approx(2 * once[name], rel=0.02)


# ---------------------------------------------------------------- where it is measured


def test_equal_pictures_have_no_noise(rng: np.random.Generator) -> None:
    truth = bt709_encode(0.18 + 0.0005 * rng.normal(size=(*SIZE, 3)))
    values = flat_noise(truth.copy(), truth)
    assert tuple(values) == NAMES
    assert all(values[name] == 0 for name in NOISE)
    inside = [(SIZE[0] - 2 * edge) * (SIZE[1] - 2 * edge) for edge in (15, 15, 15, 63)]
    shares = [pixels / (SIZE[0] * SIZE[1]) for pixels in inside]
    assert of_kind(values, "share") == pytest.approx(shares, rel=0.2)


@pytest.mark.parametrize("period", [2, 5, 20, 60])
def test_texture_of_the_truth_is_not_counted(period: int) -> None:
    """It may be lost altogether: the wall beside it is as clean as it was."""
    half = SIZE[1] // 2
    lab = mid_grey()
    smooth = from_lab(lab)
    wave = np.cos(2 * np.pi * np.arange(SIZE[0]) / period)
    lab[:, :half, 0] += 10 * wave[:, None]
    lab[:, :half, 1] += 5 * wave[:, None]
    values = flat_noise(smooth, from_lab(lab))
    everywhere = flat_noise(smooth, smooth)
    for fine, coarse in BANDS:
        luma, chroma, share = (
            values[f"flat_{what}_{fine}_{coarse}"] for what in ("luma", "chroma", "share")
        )
        # To a finer band it is a wall that slopes: only its trace there counts.
        most = 0.05 if coarse >= period else 2.0
        assert max(luma, chroma) < most
        of_all = share / everywhere[f"flat_share_{fine}_{coarse}"]
        assert 0.25 < of_all < 0.55 if coarse >= period else of_all > 0.6


def test_what_is_coarser_than_a_band_does_not_keep_it_from_being_flat() -> None:
    rows = np.linspace(0, 30, SIZE[0])[:, None, None]
    slope = from_lab(mid_grey() + (rows - 15) * [1, 0, 0])
    values, everywhere = flat_noise(slope, slope), flat_noise(grey(), grey())
    assert all(values[name] == everywhere[name] for name in SHARES)


def test_noise_in_the_texture_does_not_count(rng: np.random.Generator) -> None:
    half = SIZE[1] // 2
    light = np.full((*SIZE, 3), 0.18)
    light[:, :half] *= 1 + 0.4 * rng.choice([-1, 1], size=(SIZE[0], half, 1))
    noise = 0.002 * rng.normal(size=light.shape)
    more = noise.copy()
    more[:, : half - 100] *= 5
    once, other = (flat_noise(bt709_encode(light + x), bt709_encode(light)) for x in (noise, more))
    for name in NOISE:
        assert other[name] == pytest.approx(once[name], rel=1e-6)


def test_where_nothing_is_flat_there_is_no_value(rng: np.random.Generator) -> None:
    truth = rng.random((*SIZE, 3), np.float32)
    values = flat_noise(truth, truth)
    assert all(math.isnan(values[name]) for name in NOISE)
    assert all(values[name] == 0 for name in SHARES)


@pytest.mark.parametrize("size", [(1, 1), (30, 300), (31, 31), (40, 33), (126, 400), (200, 140)])
def test_small_pictures_go_without_what_has_no_room(size: tuple[int, int]) -> None:
    values = flat_noise(grey(size=size), grey(size=size))
    enough = {name: not math.isnan(value) for name, value in values.items() if name in NOISE}
    assert enough["flat_luma_1_2"] == enough["flat_luma_8_32"] == (size in [(126, 400), (200, 140)])
    assert not enough["flat_luma_32_128"]
    assert all(0 <= values[name] <= 1 for name in SHARES)


# ---------------------------------------------------------------- what must not matter


@pytest.mark.slow
@pytest.mark.parametrize("size", [(300, 310), (301, 300), (302, 299), (313, 305)])
@pytest.mark.parametrize(
    "turn",
    [lambda p: p[::-1], lambda p: p[:, ::-1], lambda p: p.transpose(1, 0, 2)],
    ids=["upside down", "mirrored", "transposed"],
)
def test_how_the_picture_lies_does_not_matter(
    turn: Callable[[Picture], Picture], size: tuple[int, int], rng: np.random.Generator
) -> None:
    field = np.stack([blurred(rng.normal(size=size), 32) for _ in range(3)], axis=2)
    truth = bt709_encode(0.18 + 0.1 * field)
    picture = bt709_encode(0.18 + 0.1 * field + 0.01 * rng.normal(size=(*size, 3)))
    values = flat_noise(picture, truth)
    turned = flat_noise(turn(picture), turn(truth))
    assert 0.02 < values["flat_share_8_32"] < 0.95  # flat here and there
    assert turned == pytest.approx(values, rel=1e-4, nan_ok=True)


def test_layout_precision_and_writability_do_not_matter(rng: np.random.Generator) -> None:
    truth = grey()
    picture = bt709_encode(0.18 + 0.01 * rng.normal(size=(*SIZE, 3)))
    expected = flat_noise(picture, truth)
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert flat_noise(planes, truth) == pytest.approx(expected, rel=1e-6)
    assert flat_noise(picture.astype(np.float64), truth) == pytest.approx(expected, rel=1e-6)
    before = picture.copy()
    picture.flags.writeable = truth.flags.writeable = False
    assert flat_noise(picture, truth) == expected
    assert np.array_equal(picture, before)


def test_nan_is_not_hidden(rng: np.random.Generator) -> None:
    broken = grey()
    broken[0, 0, 1] = np.nan
    for pair in ((broken, grey()), (grey(), broken)):
        assert all(math.isnan(value) for value in flat_noise(*pair).values())


def test_bad_pairs_are_refused() -> None:
    target = grey(size=(40, 50))
    with pytest.raises(ValueError, match="different shapes"):
        flat_noise(target[:, :-1], target)
    with pytest.raises(ValueError, match="a picture is"):
        flat_noise(target[..., 0], target[..., 0])
    with pytest.raises(ValueError, match="uint8"):
        flat_noise(target.astype(np.uint8), target)
