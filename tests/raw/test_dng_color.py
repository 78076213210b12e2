"""The colours of a DNG's tags, against the formulas of the DNG specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.cameras import A7S2_MATRIX
from gia_cli.imaging.color import XYZ_FROM_SRGB, camera_from_srgb
from gia_cli.raw.black_body import D65, black_body, xyz_of_uv
from gia_cli.raw.dng_color import CameraColors, adaptation
from gia_cli.raw.reader import RawFrame, read_raw
from gia_cli.raw.tiff import ASCII, RATIONAL, SHORT, SRATIONAL, Directory, Entry
from gia_cli.raw.writer import A_SHOT, write_dng

PHONE = replace(A_SHOT, make="Acme", model="Phone 1")
WARM = np.array([[0.95, -0.35, -0.08], [-0.35, 1.25, 0.10], [-0.05, 0.22, 0.45]])
COOL = np.array([[0.70, -0.20, -0.07], [-0.42, 1.20, 0.24], [-0.07, 0.20, 0.60]])
D50 = np.array([0.96422, 1.0, 0.82521])


def _tags(**values: Any) -> list[Directory]:
    """One directory of a DNG, by the names of its tags."""
    numbers = {
        "color1": 0xC621,
        "color2": 0xC622,
        "individual1": 0xC623,
        "individual2": 0xC624,
        "analog": 0xC627,
        "forward1": 0xC714,
        "forward2": 0xC715,
    }
    tags: dict[int, tuple[int, ...]] = {0xC612: (1, 4, 0, 0)}
    tags[0xC65A] = (values.pop("light1", 17),)
    tags[0xC65B] = (values.pop("light2", 21),)
    floats = {numbers[name]: tuple(np.ravel(value)) for name, value in values.items()}
    return [Directory(tags, floats)]


def _colors(**values: Any) -> CameraColors:
    colors = CameraColors.from_tags(_tags(**values))
    assert colors is not None
    return colors


def _light(kelvin: float) -> NDArray[np.float64]:
    return xyz_of_uv(black_body(kelvin)[0])


def _rendered(colors: CameraColors, neutral: NDArray[Any], seen: NDArray[Any]) -> NDArray[Any]:
    """Linear sRGB of what a camera saw, balanced for `neutral`, as gia renders it."""
    balanced = camera_from_srgb(colors.rendering_matrix(neutral))
    return np.asarray(np.linalg.solve(balanced, seen / neutral))


@pytest.mark.parametrize("kelvin", [2000.0, 2856.0, 3500.0, 5000.0, 6504.0, 9000.0])
def test_two_matrices_are_mixed_by_the_inverse_of_the_temperature(kelvin: float) -> None:
    colors = _colors(color1=WARM, color2=COOL)
    share = (1 / kelvin - 1 / 6504) / (1 / 2856 - 1 / 6504)
    share = min(max(share, 0), 1)
    mixed = share * WARM + (1 - share) * COOL
    assert colors.matrix_for(_light(kelvin)) == pytest.approx(mixed, abs=1e-4)


def test_the_order_of_the_two_lights_does_not_matter() -> None:
    one = _colors(color1=WARM, color2=COOL)
    other = _colors(color1=COOL, color2=WARM, light1=21, light2=17)
    light = _light(4000)
    assert np.array_equal(one.matrix_for(light), other.matrix_for(light))


def test_analog_balance_and_camera_calibration_stand_before_the_matrix() -> None:
    analog, calibration = [1.2, 1.0, 0.8], [[1.02, 0.01, 0], [0, 1, 0], [0, 0.02, 0.97]]
    colors = _colors(color1=COOL, light1=21, analog=analog, individual1=calibration)
    expected = np.diag(analog) @ np.array(calibration) @ COOL
    assert colors.matrix_for(D65) == pytest.approx(expected)


def test_a_camera_calibration_of_another_profile_does_not_count() -> None:
    (tags,) = _tags(color1=COOL, light1=21, individual1=np.diag([2.0, 1, 1]))
    signed = Directory(tags.tags, tags.numbers, {0xC6F3: b"com.adobe"})
    colors = CameraColors.from_tags([signed])
    assert colors is not None
    assert colors.matrix_for(D65) == pytest.approx(COOL)
    signed.texts[0xC6F4] = b"com.adobe"
    colors = CameraColors.from_tags([signed])
    assert colors is not None
    assert colors.matrix_for(D65) == pytest.approx(np.diag([2.0, 1, 1]) @ COOL)


@pytest.mark.parametrize("kelvin", [2300.0, 2856.0, 3300.0, 4700.0, 6504.0, 8000.0])
def test_the_light_is_found_from_what_the_camera_saw(kelvin: float) -> None:
    colors = _colors(color1=WARM, color2=COOL, analog=[1.1, 1, 0.9])
    light = _light(kelvin)
    seen = colors.seen(light)
    assert seen is not None and seen[1] == 1
    assert colors.light_of(seen) == pytest.approx(light, rel=1e-4)
    assert colors.light_of(7 * seen) == pytest.approx(light, rel=1e-4)


def test_what_no_light_looks_like() -> None:
    colors = _colors(color1=WARM, color2=COOL)
    seen = colors.seen(_light(3000))
    assert seen is not None and colors.is_light(seen)
    assert not colors.is_light(np.ones(3))  # magenta, to a camera with more green than red and blue
    assert not colors.is_light(np.array([5.0, 1.0, 0.01]))


@pytest.mark.parametrize("kelvin", [2856.0, 3600.0, 6504.0])
def test_without_forward_matrices_a_picture_is_the_specifications(kelvin: float) -> None:
    colors = _colors(color1=WARM, color2=COOL, analog=[1.1, 1, 0.9])
    light = _light(kelvin)
    neutral = colors.seen(light)
    assert neutral is not None
    seen = np.array([0.3, 0.5, 0.2])
    # XYZ in the light, adapted to D65 by Bradford's matrix.
    xyz = adaptation(light, D65) @ np.linalg.inv(colors.matrix_for(light)) @ seen
    white = (adaptation(light, D65) @ np.linalg.inv(colors.matrix_for(light)) @ neutral)[1]
    expected = np.linalg.solve(XYZ_FROM_SRGB, xyz / white)
    assert _rendered(colors, neutral, seen) == pytest.approx(expected, abs=1e-4)
    assert _rendered(colors, neutral, neutral) == pytest.approx(np.ones(3), abs=1e-6)


@pytest.mark.parametrize("kelvin", [2856.0, 3600.0, 6504.0])
def test_with_forward_matrices_a_picture_is_the_specifications(kelvin: float) -> None:
    forward = []
    for place in ([[0.66, 0.22, 0.08], [0.26, 0.86, -0.12], [0.02, -0.10, 0.90]], np.eye(3)):
        rows = np.array(place, np.float64)
        forward.append(rows * (D50 / rows.sum(axis=1))[:, None])
    analog, calibration = np.diag([1.1, 1, 0.9]), np.array([[1, 0.02, 0], [0, 1, 0], [0.01, 0, 1]])
    colors = _colors(
        color1=WARM,
        color2=COOL,
        forward1=forward[0],
        forward2=forward[1],
        individual1=calibration,
        individual2=calibration,
        analog=np.diag(analog),
    )
    neutral = colors.seen(_light(kelvin))
    assert neutral is not None
    share = (1 / kelvin - 1 / 6504) / (1 / 2856 - 1 / 6504)
    mixed = share * forward[0] + (1 - share) * forward[1]
    to_model = np.linalg.inv(analog @ calibration)
    seen = np.array([0.3, 0.5, 0.2])
    xyz = mixed @ np.diag(1 / (to_model @ neutral)) @ to_model @ seen
    expected = np.linalg.solve(XYZ_FROM_SRGB, adaptation(D50, D65) @ xyz)
    assert _rendered(colors, neutral, seen) == pytest.approx(expected, abs=2e-4)


def test_one_matrix_for_daylight_is_used_as_libraw_uses_its_own() -> None:
    colors = _colors(color1=COOL, light1=21)
    for neutral in ([0.5, 1, 0.4], [0.4, 1, 0.7]):
        assert colors.rendering_matrix(np.array(neutral)) == pytest.approx(COOL)


def test_one_matrix_for_lamp_light_keeps_lamp_light_white() -> None:
    colors = _colors(color1=WARM, light1=17)
    lamp = np.array([0.44757, 1, 1 - 0.44757 - 0.40745]) / [0.40745, 1, 0.40745]
    seen = WARM @ lamp
    made = colors.rendering_matrix(seen) @ D65
    assert made / made[1] == pytest.approx(seen / seen[1], rel=1e-6)


@pytest.mark.parametrize(
    "matrix", [np.zeros((3, 3)), np.ones((3, 3)), np.full((3, 3), np.nan), np.ones((4, 3))], ids=str
)
def test_a_matrix_that_is_none_is_not_used(matrix: NDArray[Any]) -> None:
    assert CameraColors.from_tags(_tags(color1=matrix)) is None
    only = CameraColors.from_tags(_tags(color1=matrix, color2=COOL))
    assert only is not None and np.array_equal(only.matrix_for(D65), COOL)


def test_a_file_that_is_no_dng_has_no_such_colours() -> None:
    assert CameraColors.from_tags([Directory({}, {0xC621: tuple(COOL.ravel())})]) is None
    assert CameraColors.from_tags([]) is None


# ---------------------------------------------------------------- through the reader


def _photo(folder: Path, **options: Any) -> RawFrame:
    mosaic = np.random.default_rng(1).integers(600, 16384, (40, 48))
    write_dng(folder / "photo.dng", mosaic, **options)
    return read_raw(folder / "photo.dng")


def _xy(light: NDArray[Any]) -> Entry:
    return Entry(0xC629, RATIONAL, list(light[:2] / light.sum()))


@pytest.mark.parametrize("shot", [A_SHOT, PHONE], ids=["known", "unknown"])
@pytest.mark.parametrize("kelvin", [2856.0, 4100.0, 6504.0])
def test_a_white_balance_stated_as_xy_is_that_of_a_neutral(
    tmp_path: Path, shot: Any, kelvin: float
) -> None:
    light = _light(kelvin)
    seen = np.array(A7S2_MATRIX) @ light
    red, green, blue = seen[1] / seen
    stated = _photo(tmp_path, shot=shot, wb=(red, green, blue))
    frame = _photo(tmp_path, shot=shot, wb=None, extra=[_xy(light)])
    assert frame.as_shot_wb == pytest.approx(np.array([red, 1, blue]), rel=1e-3)
    assert frame.as_shot_wb == pytest.approx(stated.as_shot_wb, rel=1e-3)
    assert frame.daylight_wb is not None and stated.daylight_wb is not None
    assert np.array_equal(frame.daylight_wb, stated.daylight_wb)
    assert frame.daylight_wb == pytest.approx([2.767, 1, 1.427], abs=1e-3)


def test_an_unknown_camera_has_the_matrix_and_the_daylight_of_its_file(tmp_path: Path) -> None:
    known, unknown = _photo(tmp_path), _photo(tmp_path, shot=PHONE)
    assert known.xyz_to_camera is not None and unknown.xyz_to_camera is not None
    assert known.daylight_wb is not None and unknown.daylight_wb is not None
    assert unknown.xyz_to_camera == pytest.approx(known.xyz_to_camera, abs=1e-6)
    assert unknown.daylight_wb == pytest.approx(known.daylight_wb, rel=1e-5)
    assert unknown.as_shot_wb == pytest.approx(known.as_shot_wb)


def test_two_matrices_of_a_file_give_its_light(tmp_path: Path) -> None:
    light = _light(3200)
    seen = _colors(color1=WARM, color2=COOL).seen(light)
    assert seen is not None
    frame = _photo(
        tmp_path,
        shot=PHONE,
        wb=tuple(1 / seen),
        matrix=WARM.tolist(),
        extra=[
            Entry(0xC622, SRATIONAL, [float(v) for v in COOL.ravel()]),
            Entry(0xC65A, SHORT, 17),
            Entry(0xC65B, SHORT, 21),
        ],
    )
    assert frame.colors is not None
    assert frame.colors.light_of(1 / frame.as_shot_wb) == pytest.approx(light, rel=1e-3)
    daylight = COOL @ D65
    assert frame.daylight_wb == pytest.approx(daylight[1] / daylight, rel=1e-4)


def test_ones_that_no_light_gives_are_no_white_balance(tmp_path: Path) -> None:
    frame = _photo(tmp_path, shot=PHONE, wb=(1, 1, 1))
    assert frame.daylight_wb is not None
    assert np.array_equal(frame.as_shot_wb, frame.daylight_wb)
    # A camera that sees daylight so means it.
    flat = (np.array(A7S2_MATRIX) / (np.array(A7S2_MATRIX) @ D65)[:, None]).tolist()
    frame = _photo(tmp_path, shot=PHONE, wb=(1, 1, 1), matrix=flat)
    assert frame.as_shot_wb.tolist() == [1, 1, 1]


@pytest.mark.parametrize("xy", [(0, 0.3), (0.3, 0), (0.7, 0.6), ((1, 0), (1, 3))], ids=str)
def test_a_white_that_is_none_means_daylight(tmp_path: Path, xy: Sequence[Any]) -> None:
    frame = _photo(tmp_path, wb=None, extra=[Entry(0xC629, RATIONAL, list(xy))])
    assert frame.as_shot_wb == pytest.approx([2.767, 1, 1.427], abs=1e-3)


def test_a_dng_without_a_name_is_called_by_its_unique_model(tmp_path: Path) -> None:
    frame = _photo(
        tmp_path, extra=[Entry(0xC614, ASCII, "Pocket Cinema 4K")], without=[0x010F, 0x0110]
    )
    assert frame.shot.camera == "Pocket Cinema 4K"
    frame = _photo(tmp_path, extra=[Entry(0xC614, ASCII, "SONY Alpha")], without=[0x0110])
    assert frame.shot.camera == "SONY Alpha"
