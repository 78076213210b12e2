"""Chromaticities of black bodies, against published ones."""

from __future__ import annotations

import numpy as np
import pytest

from gia_cli.raw.black_body import black_body, correlated_kelvin, uv_of_xyz, xyz_of_uv


@pytest.mark.parametrize("kelvin", [1000.0, 1700.0, 2856.0, 5000.0, 9000.0, 15000.0])
def test_a_temperature_is_found_again(kelvin: float) -> None:
    uv, slope = black_body(kelvin)
    across = 0.01 * np.array([-slope[1], slope[0]]) / np.hypot(*slope)
    inside = 1000 < kelvin < 15000
    for at in (uv, uv + across, uv - across):
        found = correlated_kelvin(at)
        if inside:
            assert found == pytest.approx(kelvin, rel=1e-4)
        else:
            assert found is None or found == pytest.approx(kelvin, rel=1e-3)


def test_known_lights() -> None:
    for (x, y), kelvin in {
        (0.44757, 0.40745): 2856,  # standard illuminant A
        (0.34567, 0.35850): 5003,  # D50
        (0.31271, 0.32902): 6504,  # D65
    }.items():
        uv = uv_of_xyz(np.array([x / y, 1, (1 - x - y) / y]))
        assert uv is not None
        assert correlated_kelvin(uv) == pytest.approx(kelvin, rel=2e-3)


def test_beyond_the_range_there_is_none() -> None:
    assert correlated_kelvin(black_body(3000)[0], coldest=4000) is None
    assert correlated_kelvin(black_body(9000)[0], hottest=8000) is None


def test_chromaticity_and_xyz_undo_each_other() -> None:
    xyz = np.array([0.8, 1.0, 0.5])
    uv = uv_of_xyz(3 * xyz)
    assert uv is not None
    assert xyz_of_uv(uv) == pytest.approx(xyz)
    for nothing in ([0, 0, 0], [1, -1, 1], [np.nan, 1, 1], [1, 0, 0]):
        assert uv_of_xyz(np.array(nothing, np.float64)) is None
