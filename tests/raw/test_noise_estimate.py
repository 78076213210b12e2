"""A photo's noise is measured rightly on the photo itself."""

from __future__ import annotations

import numpy as np
import pytest

from gia_cli.raw.noise_estimate import estimate_noise


def noisy(clean: np.ndarray, gain: float, sigma: float, rng: np.random.Generator) -> np.ndarray:
    electrons = rng.poisson(clean / gain)
    return (electrons * gain + rng.normal(0, sigma, clean.shape)).astype(np.float32)


@pytest.mark.parametrize(("gain", "sigma"), [(0.5, 2.0), (3.0, 6.0), (12.0, 20.0)])
def test_noise_is_estimated_from_the_frame_itself(
    gain: float, sigma: float, rng: np.random.Generator
) -> None:
    """Within 15 % of both numbers, on steps and gradients of brightness."""
    ramp = np.linspace(0, 200 * gain, 512)[None] * np.ones((384, 1))
    steps = 40 * gain * (np.arange(384)[:, None] // 64)
    clean = np.broadcast_to(ramp + steps, (2, 384, 512))
    found_gain, found_constant = estimate_noise(noisy(clean, gain, sigma, rng))
    assert found_gain == pytest.approx(gain, rel=0.15)
    # Next to the brightest photons the read noise is small: judged where it matters, in the dark.
    dark = 10 * gain
    assert found_gain * dark + found_constant == pytest.approx(gain * dark + sigma**2, rel=0.2)


def test_estimates_stay_positive_without_noise() -> None:
    gain, constant = estimate_noise(np.full((4, 40, 40), 7, np.float32))
    assert gain > 0
    assert constant > 0
