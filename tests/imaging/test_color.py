from __future__ import annotations

import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rawpy
import skimage.color
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms

from gia_cli.cameras import A7S2_MATRIX, XT2_MATRIX
from gia_cli.imaging.color import (
    XYZ_FROM_SRGB,
    bt709_decode,
    bt709_decode_in_place,
    bt709_encode,
    bt709_encode_in_place,
    bt709_through,
    camera_from_srgb,
    colors_of_another_camera,
    lab_from_srgb,
    levels8,
    quantize16,
    srgb8_from_bt709,
    srgb16_from_bt709,
    srgb_decode,
    srgb_encode,
)
from gia_cli.imaging.color_space import SRGB
from gia_cli.imaging.icc import srgb_icc_profile
from gia_cli.raw.writer import write_arw, write_dng

_GENERATOR = runpy.run_path(
    str(Path(__file__).parents[2] / "scripts" / "make_icc_profile.py"), run_name="generator"
)

Curve = Callable[[NDArray[np.floating]], NDArray[np.float32]]
CURVES: dict[str, tuple[Curve, Curve, float, float]] = {
    # encode, decode, knee in linear light, slope below the knee
    "bt709": (bt709_encode, bt709_decode, 0.018053968510807, 4.5),
    "srgb": (srgb_encode, srgb_decode, 0.0031308, 12.92),
}
curves = pytest.mark.parametrize("name", CURVES)
UNIT = np.linspace(0, 1, 20001)


# ---------------------------------------------------------------- transfer curves


@pytest.mark.slow
@curves
def test_decode_undoes_encode(name: str) -> None:
    encode, decode, *_ = CURVES[name]
    assert decode(encode(UNIT)) == pytest.approx(UNIT, abs=2e-6)
    assert encode(decode(UNIT)) == pytest.approx(UNIT, abs=2e-6)


@curves
def test_curves_keep_black_white_shape_and_order(name: str) -> None:
    for curve in CURVES[name][:2]:
        values = curve(UNIT.reshape(3, -1))
        assert values.dtype == np.float32
        assert values.shape == (3, 6667)
        assert values.ravel()[0] == 0
        assert values.ravel()[-1] == pytest.approx(1, abs=1e-6)
        assert np.all(np.diff(values.ravel()) > 0)


@curves
def test_curves_have_no_step_at_the_knee(name: str) -> None:
    encode, decode, knee, slope = CURVES[name]
    just = np.array([knee * (1 - 1e-6), knee * (1 + 1e-6)])
    below, above = encode(just)
    assert above - below == pytest.approx(0, abs=1e-6)
    below, above = decode(just * slope)
    assert above - below == pytest.approx(0, abs=1e-6)
    assert encode(np.array([knee / 2]))[0] == pytest.approx(slope * knee / 2, rel=1e-6)


def test_bt709_has_no_kink_at_the_knee_either() -> None:
    knee, step = 0.018053968510807, 1e-4
    below, at, above = bt709_encode(np.array([knee - step, knee, knee + step])).astype(float)
    # A quadratic's worth of bend; the rounded constants of the standard would give 50 times that.
    assert (above - at) / (at - below) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("place", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("quick", "curve"),
    [(bt709_encode_in_place, bt709_encode), (bt709_decode_in_place, bt709_decode)],
)
def test_the_quick_curves_are_the_others(place: str, quick: Curve, curve: Curve) -> None:
    values = np.linspace(-1, 2, 30003, dtype=np.float32).reshape(3, -1)
    expected = curve(values)
    changed: Any = values.copy() if place == "numpy" else torch.from_numpy(values.copy())
    assert quick(changed) is changed
    np.testing.assert_allclose(np.asarray(changed), expected, rtol=5e-7, atol=3e-7)


def test_the_quick_curves_keep_black_and_what_is_no_number() -> None:
    for quick in (bt709_encode_in_place, bt709_decode_in_place):
        for length in (1, 7, 16, 65):  # one vector of a processor, and a rest
            assert not quick(np.zeros(length, np.float32)).any()
        odd = quick(np.array([np.nan, np.inf, -np.inf], np.float32))
        np.testing.assert_array_equal(odd, [np.nan, np.inf, -np.inf])


@curves
def test_curves_brighten_the_mid_tones(name: str) -> None:
    encode = CURVES[name][0]
    inside = UNIT[1:-1]
    assert np.all(encode(inside) > inside)


def test_the_two_curves_differ_in_the_mid_tones() -> None:
    assert np.abs(srgb_encode(UNIT) - bt709_encode(UNIT)).max() > 0.05


@pytest.fixture(scope="module")
def grey_photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of a smooth grey wedge from black to white, as ARW and DNG."""
    folder = tmp_path_factory.mktemp("grey")
    wedge = np.linspace(512, 16200, 48 * 96).reshape(48, 96).astype(np.uint16)
    write_arw(folder / "grey.arw", wedge, wb=(1.6, 1.0, 1.4))
    write_dng(folder / "grey.dng", wedge, wb=(1.6, 1.0, 1.4))
    return [folder / "grey.arw", folder / "grey.dng"]


def _libraw(path: Path, gamma: tuple[float, float] | None) -> NDArray[np.float64]:
    options: dict[str, Any] = {} if gamma is None else {"gamma": gamma}
    with rawpy.imread(str(path)) as raw:
        picture = raw.postprocess(
            use_camera_wb=True, no_auto_bright=True, output_bps=16, **options
        ).astype(np.float64)
    return picture


@pytest.mark.parametrize("photo", [0, 1], ids=["arw", "dng"])
@pytest.mark.parametrize(
    ("name", "gamma"), [("bt709", None), ("bt709", (2.222, 4.5)), ("srgb", (2.4, 12.92))]
)
def test_curves_are_libraws(
    grey_photos: list[Path], photo: int, name: str, gamma: tuple[float, float] | None
) -> None:
    encode, decode, *_ = CURVES[name]
    linear = _libraw(grey_photos[photo], (1, 1))
    encoded = _libraw(grey_photos[photo], gamma)
    assert linear.min() < 300 and linear.max() > 65000  # the whole range is there
    assert np.abs(encode(linear / 65535) * 65535 - encoded).max() < 3
    assert np.abs(decode(encoded / 65535) * 65535 - linear).max() < 6
    other = CURVES["srgb" if name == "bt709" else "bt709"][0]
    assert np.abs(other(linear / 65535) * 65535 - encoded).max() > 1000


# ---------------------------------------------------------------- sixteen bits


def test_quantise16_rounds_to_the_nearest_level() -> None:
    levels = np.arange(65536)
    assert np.array_equal(quantize16(levels / 65535), levels)
    assert np.array_equal(quantize16((levels[:-1] + 0.4) / 65535), levels[:-1])
    assert np.array_equal(quantize16((levels[:-1] + 0.6) / 65535), levels[1:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", [quantize16, srgb16_from_bt709])
def test_levels_are_clipped_and_nan_is_black(
    function: Callable[..., NDArray[np.uint16]], dtype: type[np.floating]
) -> None:
    strange = np.array([-np.inf, -1, -1e-9, np.nan, 1.0001, 7, np.inf], dtype)
    levels = function(strange)
    assert levels.dtype == np.uint16
    assert levels.tolist() == [0, 0, 0, 0, 65535, 65535, 65535]


def test_srgb16_keeps_black_white_and_order() -> None:
    levels = srgb16_from_bt709(np.linspace(0, 1, 65536 * 2 - 1).reshape(1, -1))
    assert levels.shape == (1, 131071)
    assert levels[0, 0] == 0 and levels[0, -1] == 65535
    assert np.all(np.diff(levels.astype(int)) >= 0)


def _exact_srgb(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    """The conversion in double precision, from the standards' formulas."""
    alpha, beta = 1.09929682680944, 0.018053968510807
    power = (np.maximum(encoded + alpha - 1, 0) / alpha) ** (1 / 0.45)
    linear = np.where(encoded < 4.5 * beta, encoded / 4.5, power)
    bright = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, bright)


def test_srgb16_is_within_its_stated_bound_of_the_exact_conversion() -> None:
    encoded = np.linspace(0, 1, 1_000_003)
    error = np.abs(srgb16_from_bt709(encoded) - _exact_srgb(encoded) * 65535)
    assert error.max() < 2
    assert error[encoded >= 0.1].max() < 1.2
    assert error.max() > 1.2  # near black one step of the input is 2.9 levels


def test_srgb16_is_exact_on_the_levels_of_the_table() -> None:
    encoded = np.arange(65536) / 65535
    error = np.abs(srgb16_from_bt709(encoded) - _exact_srgb(encoded) * 65535)
    assert error.max() < 0.51  # half a level, and single precision


def test_8_bit_levels_are_the_nearest() -> None:
    levels = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(levels8(levels), np.rint(levels / 257))
    encoded = np.linspace(-0.1, 1.1, 7000).reshape(1, 7, -1)
    error = srgb8_from_bt709(encoded) - _exact_srgb(encoded.clip(0, 1)) * 255
    assert np.abs(error).max() < 0.51


# ---------------------------------------------------------------- camera matrix


def test_a_rendering_for_the_wrong_camera_is_mended() -> None:
    """Camera RGB through one camera's matrix, mended, is what it is through the other's."""
    camera_rgb = np.random.default_rng(5).uniform(0, 1, (50, 3))
    wrong, right = (
        camera_rgb @ np.linalg.inv(camera_from_srgb(np.asarray(matrix))).T
        for matrix in (A7S2_MATRIX, XT2_MATRIX)
    )
    assert np.abs(wrong - right).max() > 0.1
    matrix = colors_of_another_camera(np.asarray(XT2_MATRIX), np.asarray(A7S2_MATRIX))
    assert np.allclose(wrong @ matrix.T, right)
    assert np.allclose(matrix.sum(axis=1), 1)  # greys stay grey
    encoded = bt709_encode(wrong.T)
    assert np.abs(bt709_decode(bt709_through(matrix, encoded)) - right.T).max() < 1e-5


def test_the_same_cameras_rendering_stays() -> None:
    matrix = colors_of_another_camera(np.asarray(XT2_MATRIX), np.asarray(XT2_MATRIX))
    assert np.allclose(matrix, np.eye(3))
    encoded = np.linspace(-0.1, 1.2, 300, dtype=np.float32).reshape(3, 10, 10)
    assert np.allclose(bt709_through(matrix, encoded), encoded, atol=1e-6)


@pytest.mark.parametrize("matrix", [A7S2_MATRIX, XT2_MATRIX, np.linalg.inv(XYZ_FROM_SRGB)])
def test_white_stays_white(matrix: NDArray[np.float64]) -> None:
    camera = camera_from_srgb(np.asarray(matrix))
    assert camera.shape == (3, 3)
    assert camera.sum(axis=1) == pytest.approx([1, 1, 1])
    assert np.diagonal(camera).min() > 0


def test_a_camera_that_sees_srgb_has_the_unit_matrix() -> None:
    assert camera_from_srgb(np.linalg.inv(XYZ_FROM_SRGB)) == pytest.approx(np.eye(3), abs=1e-12)


def test_the_scale_of_each_channel_is_white_balances_business(rng: np.random.Generator) -> None:
    matrix = np.asarray(A7S2_MATRIX)
    scaled = matrix * rng.uniform(0.1, 10, (3, 1))
    assert camera_from_srgb(scaled) == pytest.approx(camera_from_srgb(matrix))


def test_libraw_renders_with_the_inverse_of_the_camera_matrix(tmp_path: Path) -> None:
    srgb = np.array([0.3, 0.15, 0.2])
    camera = camera_from_srgb(np.asarray(A7S2_MATRIX)) @ srgb
    mosaic = np.empty((48, 64), np.uint16)
    for (y, x), value in zip(np.ndindex(2, 2), camera[[0, 1, 1, 2]], strict=True):
        mosaic[y::2, x::2] = round(512 + value * (16383 - 512))
    write_arw(tmp_path / "flat.arw", mosaic, wb=(1.0, 1.0, 1.0))
    inner = _libraw(tmp_path / "flat.arw", (1, 1))[8:-8, 8:-8] / 65535
    assert inner.reshape(-1, 3).mean(axis=0) == pytest.approx(srgb, abs=1e-3)


# ---------------------------------------------------------------- ICC profile


def _profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(srgb_icc_profile()))


def test_the_profile_is_what_its_numbers_say() -> None:
    profile = srgb_icc_profile()
    assert profile == _GENERATOR["profile"](SRGB)
    assert 128 < len(profile) < 4096
    assert int.from_bytes(profile[:4], "big") == len(profile)
    assert len(profile) % 4 == 0


def test_the_profile_opens_and_says_what_it_is() -> None:
    profile = _profile()
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    assert profile.profile.xcolor_space.strip() == "RGB"
    assert profile.profile.connection_space.strip() == "XYZ"
    assert profile.profile.device_class == "mntr"
    assert profile.profile.version < 4
    assert profile.profile.is_matrix_shaper


def test_the_profiles_primaries_sum_to_its_white() -> None:
    profile = _profile().profile
    channels = (profile.red_colorant, profile.green_colorant, profile.blue_colorant)
    total = np.sum([channel[0] for channel in channels if channel], axis=0)
    assert profile.media_white_point is not None
    assert total == pytest.approx([0.9642, 1.0, 0.8249], abs=2e-4)
    assert profile.media_white_point[0] == pytest.approx((0.9642, 1.0, 0.8249), abs=2e-4)


@pytest.mark.parametrize("direction", ["to ours", "from ours"])
def test_the_profile_is_littlecms_srgb_within_one_level(direction: str) -> None:
    levels = np.array([*range(0, 256, 11), 255], np.uint8)  # not on the curve's own points
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    theirs, ours = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), _profile()
    source, goal = (ours, theirs) if direction == "from ours" else (theirs, ours)
    transform = ImageCms.buildTransform(source, goal, "RGB", "RGB")
    converted = ImageCms.applyTransform(Image.fromarray(grid), transform)
    assert converted is not None
    assert np.abs(np.asarray(converted, int) - grid).max() <= 1


# ---------------------------------------------------------------- CIELAB


def test_lab_agrees_with_scikit_image(rng: np.random.Generator) -> None:
    linear = rng.random((20, 30, 3)) ** 3
    expected = skimage.color.rgb2lab(srgb_encode(linear).astype(np.float64))
    # Its matrix and white have other last digits.
    np.testing.assert_allclose(lab_from_srgb(linear), expected, atol=0.01)


def test_lab_of_neutral_colors() -> None:
    greys = np.repeat([[0.0], [0.001], [0.18], [1.0]], 3, axis=1)
    lab = lab_from_srgb(greys)
    np.testing.assert_allclose(lab[:, 1:], 0, atol=1e-12)
    np.testing.assert_allclose(lab[:, 0], [0, 0.9033, 49.496, 100], atol=1e-3)


def test_lab_has_no_step_at_the_tangent() -> None:
    edge = (6 / 29) ** 3
    below, above = lab_from_srgb(np.array([[edge - 1e-9] * 3, [edge + 1e-9] * 3]))
    np.testing.assert_allclose(below, above, atol=1e-5)
