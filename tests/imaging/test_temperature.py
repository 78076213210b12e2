"""Temperatures and gains: published lights, round trips, directions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.cameras import CAMERA_MATRICES
from gia_cli.errors import UsageError
from gia_cli.imaging.color import XYZ_FROM_SRGB
from gia_cli.imaging.temperature import (
    Light,
    gains_of_light,
    light_of_gains,
    light_of_xyz,
    xyz_of_light,
)
from gia_cli.raw.black_body import black_body

KELVINS = (2000, 2300, 2850, 3200, 4000, 5000, 6504, 8000, 10000, 12000)
TINTS = (-150, -60, -5, 0, 5, 60, 150)
MATRICES = [np.array(matrix) for matrix in CAMERA_MATRICES.values()]


def xyz_of_xy(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x / y, 1, (1 - x - y) / y])


@pytest.mark.parametrize(
    ("mired", "u", "v"),
    # Wyszecki and Stiles, Color Science (1982): the Planckian locus as Robertson's table has it.
    [(100, 0.19032, 0.29326), (70, 0.18611, 0.28342), (200, 0.21142, 0.32312)],
)
def test_the_locus_is_that_of_the_tables(mired: float, u: float, v: float) -> None:
    uv, slope = black_body(1e6 / mired)
    assert uv == pytest.approx([u, v], abs=2e-4)
    step = black_body(1e6 / mired + 1)[0] - uv
    assert step == pytest.approx(slope, rel=1e-2)


def test_known_lights_have_their_temperatures() -> None:
    """CIE's illuminants: A is a black body of 2,856 K; daylight lies a little to the green side."""
    a = light_of_xyz(xyz_of_xy(0.44758, 0.40745))
    assert a is not None
    assert a.kelvin == pytest.approx(2856, abs=5)
    assert a.tint == pytest.approx(0, abs=1)
    d65 = light_of_xyz(xyz_of_xy(0.31272, 0.32903))
    assert d65 is not None
    assert d65.kelvin == pytest.approx(6504, abs=10)
    assert d65.tint == pytest.approx(3000 * 0.0032, abs=1)  # its published Duv
    d50 = light_of_xyz(xyz_of_xy(0.34567, 0.35850))
    assert d50 is not None
    assert d50.kelvin == pytest.approx(5003, abs=10)


@pytest.mark.parametrize("matrix", MATRICES, ids=CAMERA_MATRICES)
@pytest.mark.parametrize("tint", TINTS)
@pytest.mark.parametrize("kelvin", KELVINS)
def test_gains_lead_back_to_the_light(
    kelvin: float, tint: float, matrix: NDArray[np.floating]
) -> None:
    light = Light(kelvin, tint)
    again = light_of_xyz(7 * xyz_of_light(light))
    assert again is not None
    assert (again.kelvin, again.tint) == pytest.approx((kelvin, tint), rel=1e-6, abs=1e-4)
    gains = gains_of_light(light, matrix)
    if gains is None:  # so far beyond yellow that the matrix leaves nothing of blue
        assert tint == 150 and kelvin < 3000
        return
    assert gains[1] == 1
    again = light_of_gains(3 * gains.astype(np.float32), matrix)
    assert again is not None
    assert (again.kelvin, again.tint) == pytest.approx((kelvin, tint), rel=1e-4, abs=0.1)


@pytest.mark.parametrize("kelvin", [1667, 15000])
def test_the_limits_are_within(kelvin: float) -> None:
    light = light_of_xyz(xyz_of_light(Light(kelvin)))
    assert light is not None
    assert light.kelvin == pytest.approx(kelvin)


@pytest.mark.parametrize("matrix", MATRICES, ids=CAMERA_MATRICES)
def test_daylight_is_what_the_matrix_was_made_for(matrix: NDArray[np.floating]) -> None:
    """LibRaw's daylight multipliers are the inverse of what its matrix makes of D65."""
    light = light_of_gains(1 / (matrix @ XYZ_FROM_SRGB.sum(axis=1)), matrix)
    assert light is not None
    assert light.kelvin == pytest.approx(6504, abs=10)


@pytest.mark.parametrize("matrix", MATRICES, ids=CAMERA_MATRICES)
def test_a_lower_temperature_means_less_red_and_more_blue(matrix: NDArray[np.floating]) -> None:
    gains = np.array([gains_of_light(Light(kelvin), matrix) for kelvin in KELVINS])
    assert (np.diff(gains[:, 0]) > 0).all()
    assert (np.diff(gains[:, 2]) < 0).all()
    assert (np.diff(gains[:, 0] / gains[:, 2]) > 0).all()


@pytest.mark.parametrize("matrix", MATRICES, ids=CAMERA_MATRICES)
def test_a_positive_tint_turns_towards_magenta(matrix: NDArray[np.floating]) -> None:
    gains = [gains_of_light(Light(4000, tint), matrix) for tint in (-20, 0, 20)]
    magenta = [float(np.sqrt(g[0] * g[2])) for g in gains if g is not None]
    assert len(magenta) == 3
    assert magenta == sorted(magenta)
    assert magenta[2] > 1.05 * magenta[0]


@pytest.mark.parametrize(
    "numbers", [(1000, 0), (16000, 0), (np.nan, 0), (5000, 151), (5000, -151), (5000, np.nan)]
)
def test_lights_out_of_range_are_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="must be between"):
        Light(*numbers)


def test_lights_read_as_in_a_converter() -> None:
    assert str(Light(3200)) == "3200 K"
    assert str(Light(3200, 5)) == "3200 K, tint +5"
    assert str(Light(6503.6, -9.84)) == "6504 K, tint -9.8"
    assert str(Light(5000, 0.02)) == "5000 K"


def test_what_is_no_light_has_no_temperature() -> None:
    a7s2 = MATRICES[0]
    assert light_of_xyz(np.array([0.1, 1, 0.1])) is None  # pure green
    assert light_of_xyz(np.array([0.9, 1, 4])) is None  # bluer than any black body
    assert light_of_xyz(np.array([-1, 0, 0])) is None
    assert light_of_xyz(np.full(3, np.nan)) is None
    assert light_of_gains(np.array([2, 1, 1]), np.zeros((3, 3))) is None
    assert light_of_gains(np.array([1, 100, 1]), a7s2) is None
    assert gains_of_light(Light(5000), np.zeros((3, 3))) is None
    assert gains_of_light(Light(5000), -a7s2) is None
    assert gains_of_light(Light(5000), np.full((3, 3), np.nan)) is None
