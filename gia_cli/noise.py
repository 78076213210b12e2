"""The sensor noise model: from a clean mosaic in DN to what the camera would have recorded.

Source: Wei et al., *A Physics-based Noise Formation Model for Extreme Low-light Raw Denoising*
(ELD), CVPR 2020, with its calibration of the Sony A7S II::

    D = K * Poisson(S / K) + N_read + N_row + U(-1/2, 1/2)

K is the system gain in DN per electron, N_read follows a Tukey lambda distribution (or a normal
one), N_row is one normal number for each row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SensorNoise:
    """Noise of one sensor at one ISO; sigmas and scales in DN of 14 bits."""

    gain: float
    """System gain K, DN per electron."""
    read_scale: float
    """Scale of the read noise: Tukey lambda's if `read_lambda` is set, else a normal sigma."""
    read_lambda: float | None
    """Shape of Tukey's lambda distribution; None for normal read noise."""
    row_sigma: float
    """Sigma of the row noise."""


def sony_a7s2(iso: int, rng: np.random.Generator) -> SensorNoise:
    """Draw the A7S II's noise at an ISO from ELD's calibration (its regressions over ln K)."""
    # K is proportional to ISO: 0.0009546 DN per electron and ISO (Feng et al., ACM MM 2022).
    gain = 0.0009546 * iso
    log_gain = np.log(gain)
    return SensorNoise(
        gain=gain,
        read_scale=float(np.exp(rng.normal(0.4621 * log_gain + 0.5657, 0.2634))),
        # ELD's lambdas for this sensor lie between -0.143 and 0.129; 0 is logistic.
        read_lambda=0.0,
        row_sigma=float(np.exp(rng.normal(0.5275 * log_gain - 0.5917, 0.2943))),
    )


def fuji_xt2(iso: int, rng: np.random.Generator) -> SensorNoise:
    """Draw the X-T2's noise at an ISO: an estimate from a published noise profile, jittered.

    The profile gives K = 0.00223 DN per electron and ISO and a read noise of 6.4 DN at ISO 1600
    growing with the root of ISO; K is jittered by 30 %, the read noise by 50 %, because nobody
    calibrated this sensor at low light. Row noise is taken as a sixth of the read noise.
    """
    gain = 0.00223 * iso * float(np.exp(rng.normal(0, 0.3)))
    read = 6.4 * np.sqrt(iso / 1600) * float(np.exp(rng.normal(0, 0.5)))
    return SensorNoise(gain=gain, read_scale=read, read_lambda=None, row_sigma=read / 6)


def add_noise(
    signal: NDArray[np.floating], noise: SensorNoise, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Record a clean signal with a noisy sensor.

    Parameters
    ----------
    signal : (H, W) float
        Expected DN above black, not negative.
    noise : SensorNoise
    rng : numpy Generator

    Returns
    -------
    (H, W) float32
        DN above black: may be negative, not rounded yet (the rounding's own noise is not added;
        writing integers does that).
    """
    electrons = rng.poisson(np.maximum(signal, 0) / noise.gain)
    recorded = noise.gain * electrons + _read_noise(signal.shape, noise, rng)
    recorded += rng.normal(0, noise.row_sigma, (signal.shape[0], 1))
    return np.asarray(recorded, np.float32)


def _read_noise(
    shape: tuple[int, ...], noise: SensorNoise, rng: np.random.Generator
) -> NDArray[np.float64]:
    if noise.read_lambda is None:
        return rng.normal(0, noise.read_scale, shape)
    return noise.read_scale * tukey_lambda(rng.random(shape), noise.read_lambda)


def tukey_lambda(uniform: NDArray[np.float64], shape: float) -> NDArray[np.float64]:
    """Quantile function of Tukey's lambda distribution; the logistic one for shape 0.

    Parameters
    ----------
    uniform : any shape, in [0, 1)
    shape : float
        Lambda.
    """
    p = np.clip(uniform, 1e-12, 1 - 1e-12)
    if abs(shape) < 1e-9:
        return np.asarray(np.log(p) - np.log1p(-p))
    return np.asarray((p**shape - (1 - p) ** shape) / shape)
