"""Casts, drifts and grids that are laid over a picture are found, and nothing else is."""

from __future__ import annotations

import measure_casts
import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.imaging.color import bt709_decode, bt709_encode


@pytest.fixture(scope="module")
def scene() -> NDArray[np.float32]:
    """A picture without a period, (64, 96, 3)."""
    return np.random.default_rng(0).uniform(0.1, 0.5, (64, 96, 3)).astype(np.float32)


@pytest.mark.parametrize("period", measure_casts.PERIODS)
def test_a_grid_is_found_at_its_period(period: int) -> None:
    grid = np.zeros((period, period, 1), np.float32)
    grid[0, 0] = 2 / 255
    error = np.tile(grid, (64 // period, 96 // period, 3))
    error += np.linspace(0, 0.1, 8, dtype=np.float32).repeat(8)[:, None, None]  # a step is no grid
    found = measure_casts.fold(error, period)
    wanted = np.zeros((period, period))
    wanted[0, 0] = 2
    if period <= 8:
        np.testing.assert_allclose(found, wanted - wanted.mean(), atol=1e-4)
    else:  # a step within its blocks counts, along its own axis alone
        np.testing.assert_allclose(np.ptp(found - wanted, axis=1), 0, atol=1e-4)


def test_what_is_no_whole_period_is_left_out() -> None:
    error = np.zeros((9, 9, 3), np.float32)
    error[8] = error[:, 8] = 1
    assert not measure_casts.fold(error, 4).any()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_drift_has_the_edges_difference(scene: NDArray[np.float32], axis: int) -> None:
    shape = [1, 1, 1]
    shape[axis] = scene.shape[axis]
    ramp = np.linspace(1, 2, scene.shape[axis], dtype=np.float32).reshape(shape)
    brighter = bt709_encode(bt709_decode(scene) * ramp)
    drift = measure_casts.strip(brighter, axis) - measure_casts.strip(scene, axis)
    across = measure_casts.strip(brighter, 1 - axis) - measure_casts.strip(scene, 1 - axis)
    assert drift[0] > 5
    assert np.abs(across).max() < 0.5


def test_gains_are_told(scene: NDArray[np.float32]) -> None:
    gains = np.array([0.8, 1.0, 1.3])
    tinted = bt709_encode(bt709_decode(scene) * gains)
    np.testing.assert_allclose(measure_casts.best_gains(scene, tinted), gains, rtol=1e-4)


def test_a_cast_moves_the_mean_color(scene: NDArray[np.float32]) -> None:
    tinted = bt709_encode(bt709_decode(scene) * np.array([1.0, 1.0, 0.7]))
    _, _, b = measure_casts.mean_lab(tinted) - measure_casts.mean_lab(scene)
    assert b > 5
