"""The sensor noise model: from a clean mosaic in DN to what the camera would have recorded.

Source: Wei et al., *A Physics-based Noise Formation Model for Extreme Low-light Raw Denoising*
(ELD), CVPR 2020::

    D = K * Poisson(S / K) + N_read + N_row + B + U(-1/2, 1/2)

K is the system gain in DN per electron, N_read follows a Tukey lambda distribution (or a normal
one), N_row is one normal number for each row of the sensor, and B, the black level error, one
constant for each colour of the filter array. U is the rounding to whole DN.

The numbers, with their sources, lie in ``calibration/noise.json``:

- Sony A7S II: Feng et al., *Learnability Enhancement for Low-light Raw Denoising*, ACM MM 2022,
  who took thousands of dark frames at each ISO setting; their tables state values, not regressions.
- Five cameras as ELD published them, by regressions over ln K.
- Fujifilm X-T2: an estimate, jittered widely, because there is no calibration of it at low light.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, gamma, log, pi
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gia_cli.sensor_table import BODY_SIGMA, calibration, nearest_row

EldCamera = Literal["CanonEOS5D4", "CanonEOS70D", "CanonEOS700D", "NikonD850", "SonyA7S2"]

# Feng et al. scatter the gain by this much, evenly: flat fields give it no better.
_A7S2_GAIN_JITTER = 0.01
# Around its mean over the colours the black level error of ELD's A7S II strays by this much.
_COLOR_SIGMA = 0.08
# No X-T2's black level error was measured: the RMS of the A7S II's over its ISO settings.
_XT2_BLACK_ERROR_SIGMA = 1.6
_XT2_GAIN_JITTER = 0.3
_XT2_READ_JITTER = 0.5
_XT2_ROW_SHARE = 1 / 6
#: Nearer to 0 than this, lambda's power law loses more digits than it differs from the logistic.
LOGISTIC_BELOW = 1e-4


@dataclass(frozen=True, slots=True)
class SensorNoise:
    """Noise of one sensor in one exposure; sigmas and scales in DN of 14 bits."""

    gain: float
    """System gain K, DN per electron."""
    read_scale: float
    """Scale of the read noise: Tukey lambda's if `read_lambda` is set, else a normal sigma."""
    read_lambda: float | None
    """Shape of Tukey's lambda distribution; None for normal read noise."""
    row_sigma: float
    """Sigma of the row noise."""
    black_error: tuple[float, ...] = ()
    """How far the true black level lies above the file's, DN: R, G1, G2, B of a Bayer cell, or
    R, G, B. Empty for none."""

    @property
    def mean_black_error(self) -> float:
        """Mean over the colours, DN."""
        return sum(self.black_error) / len(self.black_error) if self.black_error else 0.0

    @property
    def read_variance(self) -> float:
        """Variance of the read noise in DN^2, without rows and rounding."""
        if self.read_lambda is None:
            return self.read_scale**2
        return self.read_scale**2 * tukey_lambda_variance(self.read_lambda)


# ---------------------------------------------------------------- cameras


def sony_a7s2(iso: int, rng: np.random.Generator) -> SensorNoise:
    """Draw the A7S II's noise at an ISO.

    Parameters
    ----------
    iso : int
        Taken for the nearest of the 28 settings from 50 to 25600. Nothing is interpolated: between
        ISO 1600 and 2000 the sensor changes its conversion gain (read noise falls from 6.3 to
        2.7 DN), and the black level error jumps between others too, so that a mean of two rows
        would describe a camera that does not exist.
    rng : numpy Generator
        Draws what differs from body to body and from frame to frame.
    """
    row = nearest_row("ILCE-7SM2", iso)
    gain, read_lambda, read, read_sd, row_sigma, row_sd, black = row[1:]
    common = black + rng.normal(0, BODY_SIGMA)
    return SensorNoise(
        gain=gain * (1 + rng.uniform(-_A7S2_GAIN_JITTER, _A7S2_GAIN_JITTER)),
        read_scale=float(rng.normal(read, read_sd)),
        read_lambda=read_lambda,
        row_sigma=abs(float(rng.normal(row_sigma, row_sd))),
        black_error=_scattered(common, _COLOR_SIGMA, 4, rng),
    )


def fuji_xt2(iso: int, rng: np.random.Generator) -> SensorNoise:
    """Draw the X-T2's noise at an ISO: an estimate, with errors to match.

    The gain is jittered by 30 %, the read noise by 50 % (one sigma, log-normal). Row noise is taken
    as a sixth of the read noise, the black level error as large as the A7S II's.

    Parameters
    ----------
    iso : int
        Taken for the nearest of the settings from 200 to 25600.
    rng : numpy Generator
    """
    _, gain, read = nearest_row("X-T2", iso)
    read *= exp(rng.normal(0, _XT2_READ_JITTER))
    return SensorNoise(
        gain=gain * exp(rng.normal(0, _XT2_GAIN_JITTER)),
        read_scale=read,
        read_lambda=None,
        row_sigma=read * _XT2_ROW_SHARE,
        black_error=_scattered(rng.normal(0, _XT2_BLACK_ERROR_SIGMA), _COLOR_SIGMA, 3, rng),
    )


def eld_camera(name: EldCamera, iso: float, rng: np.random.Generator) -> SensorNoise:
    """Draw the noise of one of ELD's five Bayer cameras.

    Parameters
    ----------
    name : str
        "CanonEOS5D4", "CanonEOS70D", "CanonEOS700D", "NikonD850" or "SonyA7S2".
    iso : float
        Any; the gain is proportional to it. ELD's lambdas and black level errors are lists without
        labels. Read as two of each ISO, a stop apart from 100 up, those of its A7S II agree with
        Feng's labelled ones, so one of the two nearest in ISO is drawn.
    rng : numpy Generator
    """
    camera = calibration()["ELD"]["cameras"][name]
    gain = camera["gain_at_iso_100"] * iso / 100
    stops = len(camera["read_lambda"]) // 2
    stop = min(max(round(log(iso / 100, 2)), 0), stops - 1)
    drawn = 2 * stop + int(rng.integers(2))
    red, green1, blue, green2 = camera["black_error"][drawn]
    return SensorNoise(
        gain=gain,
        read_scale=_regression(camera["read_scale"], gain, rng),
        read_lambda=camera["read_lambda"][drawn],
        row_sigma=_regression(camera["row_sigma"], gain, rng),
        black_error=(red, green1, green2, blue),
    )


def _scattered(
    mean: float, sigma: float, count: int, rng: np.random.Generator
) -> tuple[float, ...]:
    return tuple(rng.normal(mean, sigma, count).tolist())


def _regression(line: list[float], gain: float, rng: np.random.Generator) -> float:
    slope, intercept, sigma = line
    return exp(rng.normal(slope * log(gain) + intercept, sigma))


# ---------------------------------------------------------------- recording


def add_noise(
    signal: NDArray[np.floating], noise: SensorNoise, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Record a clean signal with a noisy sensor.

    The Poisson numbers are exact at any mean. A normal approximation from 1,000 electrons on would
    take a third of the time there, but scenes hardly have such photosites.

    Parameters
    ----------
    signal : (H, W) float
        Expected DN above black, not negative; along the second axis the sensor reads a row.
    noise : SensorNoise
        Its black level error is left to `sensor.expose`, which knows the filter array.
    rng : numpy Generator

    Returns
    -------
    (H, W) float32
        DN above black: may be negative, not rounded yet (the rounding's own noise is not added;
        writing integers does that).
    """
    electrons = np.maximum(signal, 0, dtype=np.float64)
    electrons /= noise.gain
    recorded: NDArray[np.float32] = rng.poisson(electrons).astype(np.float32)
    recorded *= np.float32(noise.gain)
    read = _read_noise(recorded.shape, noise.read_lambda, rng)
    read *= np.float32(noise.read_scale)
    recorded += read
    recorded += rng.normal(0, noise.row_sigma, (recorded.shape[0], 1)).astype(np.float32)
    return recorded


def _read_noise(
    shape: tuple[int, ...], read_lambda: float | None, rng: np.random.Generator
) -> NDArray[np.float32]:
    if read_lambda is None:
        return rng.standard_normal(shape, np.float32)
    return _tukey_lambda_draws(shape, read_lambda, rng)


def _tukey_lambda_draws(
    shape: tuple[int, ...], read_lambda: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw from Tukey's lambda distribution: five times faster than `tukey_lambda` of a uniform.

    A float32 uniform has no values between 1 - 6e-8 and 1, and would cut that tail off. So 31
    random bits choose a place in the lower half, where float32 is dense, and the last one the side.
    """
    bits = rng.integers(0, 2**32, shape, np.uint32)
    p = (bits >> 1).view(np.int32).astype(np.float32)
    p += np.float32(0.5)
    p *= np.float32(2**-32)
    size: NDArray[np.float32] = np.log(np.float32(1) - p)
    np.log(p, out=p)
    if abs(read_lambda) < LOGISTIC_BELOW:
        size -= p
    else:
        p *= np.float32(read_lambda)
        size *= np.float32(read_lambda)
        np.exp(size, out=size)
        size -= np.exp(p, out=p)
        size *= np.float32(1 / read_lambda)
    bits <<= 31
    size.view(np.uint32)[...] |= bits  # the sign bit of a number that is not negative
    return size


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


def tukey_lambda_variance(shape: float) -> float:
    """Variance of Tukey's lambda distribution at scale 1; pi^2/3, the logistic one's, for shape 0.

    Source: Tukey's lambda distribution has E[Q(p)^2] with Q(p) = (p^a - (1-p)^a) / a, an integral
    of beta functions.

    Parameters
    ----------
    shape : float
        Lambda, above -1/2, where the variance ends.
    """
    if abs(shape) < LOGISTIC_BELOW:
        return pi**2 / 3
    a = shape
    return 2 / a**2 * (1 / (1 + 2 * a) - gamma(a + 1) ** 2 / gamma(2 * a + 2))
