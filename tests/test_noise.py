"""The noise model's moments are what its formula says."""

from __future__ import annotations

import numpy as np
import pytest

from gia_cli.noise import SensorNoise, add_noise, fuji_xt2, sony_a7s2, tukey_lambda

SIDE = 400


@pytest.mark.parametrize("level", [0.0, 5.0, 200.0])
@pytest.mark.parametrize("gain", [0.1, 1.5, 6.0])
def test_mean_and_variance_of_a_flat_field(
    rng: np.random.Generator, level: float, gain: float
) -> None:
    """Within six standard errors: a false alarm in a billion runs, if the seed ever changes."""
    noise = SensorNoise(gain=gain, read_scale=2.0, read_lambda=None, row_sigma=0.0)
    recorded = add_noise(np.full((SIDE, SIDE), level), noise, rng)
    variance = gain * level + 2.0**2
    count = SIDE * SIDE
    assert abs(recorded.mean() - level) < 6 * np.sqrt(variance / count)
    # The kurtosis of a Poisson-Gaussian sum is at most 3 + 1/mean(electrons): 4 is ample here.
    electrons = max(level / gain, 1e-9)
    kurtosis = 3 + gain**4 * electrons / variance**2
    assert abs(recorded.var() - variance) < 6 * variance * np.sqrt((kurtosis - 1) / count)


def test_row_noise_is_the_same_along_a_row(rng: np.random.Generator) -> None:
    noise = SensorNoise(gain=1.0, read_scale=1e-9, read_lambda=None, row_sigma=3.0)
    recorded = add_noise(np.zeros((SIDE, 8)), noise, rng)
    assert np.ptp(recorded, axis=1).max() < 1e-6
    assert abs(recorded[:, 0].std() - 3.0) < 6 * 3.0 / np.sqrt(2 * SIDE)


def test_tukey_lambda_has_the_known_special_cases(rng: np.random.Generator) -> None:
    p = rng.random(1000)
    assert np.allclose(tukey_lambda(p, 0.0), np.log(p / (1 - p)))
    assert np.allclose(tukey_lambda(p, 1.0), 2 * p - 1)
    assert np.allclose(tukey_lambda(p, 1e-6), tukey_lambda(p, 0.0), atol=1e-3)
    assert np.allclose(tukey_lambda(p, 0.14), -tukey_lambda(1 - p, 0.14))


@pytest.mark.parametrize("camera", [sony_a7s2, fuji_xt2])
def test_noise_grows_with_iso(camera: object, rng: np.random.Generator) -> None:
    assert callable(camera)
    draws = {iso: [camera(iso, rng) for _ in range(200)] for iso in (100, 1600, 25600)}
    for name in ("gain", "read_scale", "row_sigma"):
        medians = [np.median([getattr(noise, name) for noise in draws[iso]]) for iso in draws]
        assert medians == sorted(medians)
        assert medians[2] > 2 * medians[0]
