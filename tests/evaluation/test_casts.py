"""Casts, drifts and grids that are laid over a picture are found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from gia_cli.evaluation.casts import (
    LEAST,
    MOST,
    PERIODS,
    best_gains,
    edge_difference,
    fold,
    mean_lab,
    measure_casts,
)
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.pairs import open_pairs
from gia_cli.evaluation.report import Failure
from gia_cli.imaging.color import bt709_decode, bt709_encode, srgb16_from_bt709
from gia_cli.raw.reader import render_truth


@pytest.fixture(scope="module")
def scene() -> NDArray[np.float32]:
    """A picture without a period, (64, 96, 3)."""
    return np.random.default_rng(0).uniform(0.1, 0.5, (64, 96, 3)).astype(np.float32)


@pytest.mark.parametrize("period", PERIODS)
def test_a_grid_is_found_at_its_period(period: int) -> None:
    grid = np.zeros((period, period, 1), np.float32)
    grid[0, 0] = 2 / 255
    error = np.tile(grid, (64 // period, 96 // period, 3))
    error += np.linspace(0, 0.1, 8, dtype=np.float32).repeat(8)[:, None, None]  # a step is no grid
    found = fold(error, period)
    wanted = np.zeros((period, period))
    wanted[0, 0] = 2
    if period <= 8:
        np.testing.assert_allclose(found, wanted - wanted.mean(), atol=1e-4)
    else:  # a step within its blocks counts, along its own axis alone
        np.testing.assert_allclose(np.ptp(found - wanted, axis=1), 0, atol=1e-4)


def test_what_is_no_whole_period_is_left_out() -> None:
    error = np.zeros((9, 9, 3), np.float32)
    error[8] = error[:, 8] = 1
    assert not fold(error, 4).any()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_drift_has_the_edges_difference(scene: NDArray[np.float32], axis: int) -> None:
    shape = [1, 1, 1]
    shape[axis] = scene.shape[axis]
    ramp = np.linspace(1, 2, scene.shape[axis], dtype=np.float32).reshape(shape)
    brighter = bt709_encode(bt709_decode(scene) * ramp)
    drift = edge_difference(brighter, axis) - edge_difference(scene, axis)
    across = edge_difference(brighter, 1 - axis) - edge_difference(scene, 1 - axis)
    assert drift[0] > 5
    assert np.abs(across).max() < 0.5


def test_gains_are_found(scene: NDArray[np.float32]) -> None:
    gains = np.array([0.8, 1.0, 1.3])
    tinted = bt709_encode(bt709_decode(scene) * gains)
    np.testing.assert_allclose(best_gains(scene, tinted), gains, rtol=1e-4)


def test_a_cast_moves_the_mean_color(scene: NDArray[np.float32]) -> None:
    tinted = bt709_encode(bt709_decode(scene) * np.array([1.0, 1.0, 0.7]))
    _, _, b = mean_lab(tinted) - mean_lab(scene)
    assert b > 5


# ---------------------------------------------------------------- of a tree


def pictures_of_truths(config: EvalConfig, folder: Path) -> EvalConfig:
    """The ground truths as another program's pictures, blue 1.25 times too dark at high ratios."""
    folder.mkdir()
    for pair in open_pairs(config):
        truth = render_truth(pair.long) / np.float32(65535)
        gains = np.array([1, 1, 0.8 if pair.ratio > 200 else 1], np.float32)
        levels = srgb16_from_bt709(bt709_encode(bt709_decode(truth) * gains))
        tifffile.imwrite(folder / f"{pair.short.stem}.tif", levels, photometric="rgb")
    return replace(config, weights=(), isp=(), pictures=(f"theirs={folder}",))


@pytest.mark.slow
def test_a_cast_of_one_exposure_is_found_in_it_alone(config: EvalConfig, tmp_path: Path) -> None:
    (casts,) = measure_casts(pictures_of_truths(config, tmp_path / "theirs"))
    assert casts.system == "theirs"
    least, most = casts.ends
    assert (least.exposure, least.scenes) == (LEAST, 2)
    assert (most.exposure, most.scenes) == (MOST, 2)
    assert least.to_truth < 0.01
    assert least.gains == pytest.approx((1, 1, 1), abs=1e-3)
    assert most.gains == pytest.approx((1, 1, 1.25), rel=2e-3)
    assert casts.apart is not None
    assert 3 < most.to_truth == pytest.approx(casts.apart[0], abs=0.01)
    assert casts.apart[0] <= casts.apart[1] <= casts.apart[2]
    assert most.psnr < 45 < most.psnr_with_gains
    assert max(abs(x) for x in least.right_less_left.mean) < 0.01
    assert all(grid.most < 0.01 for grid in least.grids.values())


@pytest.mark.slow
def test_one_exposure_of_a_scene_is_no_comparison(config: EvalConfig, tmp_path: Path) -> None:
    config = pictures_of_truths(config, tmp_path / "theirs")
    (casts,) = measure_casts(replace(config, limit=1))
    assert casts.apart is None
    assert [ends.exposure for ends in casts.ends] == [LEAST]


@pytest.mark.slow
def test_what_cannot_be_rendered_is_named_and_left_out(config: EvalConfig, tmp_path: Path) -> None:
    config = pictures_of_truths(config, tmp_path / "theirs")
    gone = sorted((tmp_path / "theirs").iterdir())[0]
    gone.unlink()
    failures: list[Failure] = []
    (casts,) = measure_casts(config, on_failure=failures.append)
    assert [failure.path.stem for failure in failures] == [gone.stem]
    assert sum(ends.scenes for ends in casts.ends) == 3


def test_a_black_picture_has_gains_that_are_numbers(scene: NDArray[np.float32]) -> None:
    assert np.isfinite(best_gains(np.zeros_like(scene), scene)).all()
