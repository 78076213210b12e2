"""Facts of a scene: what they say, in which order, and within which bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gia_cli.data.auxiliary import AUXILIARY, auxiliary_targets, unknown_targets
from gia_cli.simulation.noise import SensorNoise, sony_a7s2

NOISE = SensorNoise(gain=1.0, read_scale=3.0, read_lambda=None, row_sigma=0.1)
USUAL = np.ones(3)
AMPLIFICATION = 100 / 15871


def test_nothing_unusual_lies_in_the_middle() -> None:
    black, red, blue, noise = auxiliary_targets(NOISE, AMPLIFICATION, USUAL)
    assert (black, red, blue) == (0.5, 0.5, 0.5)
    assert 0 < noise < 1


@pytest.mark.parametrize(("light", "moved"), [((1.2, 1, 1), 1), ((1, 1, 1.2), 2)])
def test_red_and_blue_are_distinguished(light: tuple[float, ...], moved: int) -> None:
    usual = auxiliary_targets(NOISE, AMPLIFICATION, USUAL)
    targets = auxiliary_targets(NOISE, AMPLIFICATION, np.array(light))
    assert (targets > usual).nonzero()[0].tolist() == [moved]
    assert targets[moved] == pytest.approx(0.5 + 1.5 * np.log(1.2), abs=1e-6)


def test_only_gains_relative_to_green_count() -> None:
    light = np.array([1.1, 1.0, 0.9])
    np.testing.assert_allclose(
        auxiliary_targets(NOISE, AMPLIFICATION, light),
        auxiliary_targets(NOISE, AMPLIFICATION, 3 * light),
    )


def test_black_and_noise_are_those_of_the_amplified_planes() -> None:
    """A DN is worth the more the more it is amplified."""
    off = replace(NOISE, black_error=(1.0, 1.2, 0.8, 1.0))
    for amplification in (AMPLIFICATION, 3 * AMPLIFICATION):
        targets = auxiliary_targets(off, amplification, USUAL)
        assert targets[0] == pytest.approx(0.5 + 8 * amplification, abs=1e-6)
        below = auxiliary_targets(replace(NOISE, black_error=(-1.0,)), amplification, USUAL)
        assert targets[0] - 0.5 == pytest.approx(0.5 - below[0], abs=1e-6)
    noisier = auxiliary_targets(replace(NOISE, read_scale=6.0), AMPLIFICATION, USUAL)
    louder = auxiliary_targets(NOISE, 2 * AMPLIFICATION, USUAL)
    assert noisier[3] == pytest.approx(louder[3], abs=1e-6)


@pytest.mark.parametrize("iso", [50, 1600, 25600])
@pytest.mark.parametrize("ratio", [1, 300, 3000])
def test_they_stay_within_bounds(iso: int, ratio: float, rng: np.random.Generator) -> None:
    for light in ((1.0, 1.0, 1.0), (1.3, 1.0, 0.8)):
        targets = auxiliary_targets(sony_a7s2(iso, rng), ratio / 15871, np.array(light))
        assert targets.shape == (AUXILIARY,)
        assert targets.dtype == np.float32
        assert (targets >= 0).all()
        assert (targets <= 1).all()


def test_a_light_too_far_off_is_left_out() -> None:
    """A bound in its place would be learned as the truth."""
    told = auxiliary_targets(NOISE, AMPLIFICATION, USUAL)
    far = auxiliary_targets(NOISE, AMPLIFICATION, np.array([1.5, 1.0, 0.5]))
    assert np.isnan(far).tolist() == [False, True, True, False]
    assert np.isnan(auxiliary_targets(NOISE, AMPLIFICATION, np.array([9.0, 1.0, 0.1]))[1:3]).all()
    assert far[[0, 3]] == pytest.approx(told[[0, 3]])


def test_of_a_real_photo_nothing_is_known() -> None:
    assert unknown_targets().shape == (AUXILIARY,)
    assert np.isnan(unknown_targets()).all()
