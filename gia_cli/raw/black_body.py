"""The locus of black bodies: which chromaticity a colour temperature names, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: CIE XYZ of the white of sRGB and BT.709 (D65), Y = 1.
D65 = np.array([0.95047, 1.0, 1.08883])

_COLDEST, _HOTTEST = 1000.0, 15000.0  # kelvin; where the approximation below holds
_BISECTIONS = 60


def black_body(kelvin: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chromaticity of a black body, and which way it moves with temperature.

    Parameters
    ----------
    kelvin : float
        1000 to 15000: there the approximation is within 0.0001 of Planck's law.

    Returns
    -------
    uv : (2,) float64
        CIE 1960 (u, v).
    slope : (2,) float64
        Its derivative by the temperature, per kelvin.

    References
    ----------
    Krystek, M., "An algorithm to calculate correlated colour temperature", Color Research &
    Application 10 (1), 1985.
    """
    powers = np.array([1.0, kelvin, kelvin**2])
    slopes = np.array([0.0, 1.0, 2 * kelvin])
    above = np.array(
        [
            [0.860117757, 1.54118254e-4, 1.28641212e-7],
            [0.317398726, 4.22806245e-5, 4.20481691e-8],
        ]
    )
    below = np.array([[1.0, 8.42420235e-4, 7.08145163e-7], [1.0, -2.89741816e-5, 1.61456053e-7]])
    numerator, denominator = above @ powers, below @ powers
    uv = numerator / denominator
    return uv, (above @ slopes - uv * (below @ slopes)) / denominator


def uv_of_xyz(xyz: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Chromaticity, CIE 1960 (u, v), of CIE XYZ; None for what is no light at all."""
    x, y, z = np.asarray(xyz, np.float64)
    weight = x + 15 * y + 3 * z
    if not (np.isfinite(weight) and weight > 0 and y > 0):
        return None
    return np.array([4 * x / weight, 6 * y / weight])


def xyz_of_uv(uv: NDArray[np.floating]) -> NDArray[np.float64]:
    """CIE XYZ, with Y = 1, of a chromaticity in CIE 1960 (u, v)."""
    u, v = uv
    return np.array([1.5 * u / v, 1.0, (4 - u) / (2 * v) - 5])


def correlated_kelvin(
    uv: NDArray[np.floating], coldest: float = _COLDEST, hottest: float = _HOTTEST
) -> float | None:
    """Find the temperature of the black body that a light looks most like.

    Parameters
    ----------
    uv : (2,)
        CIE 1960 (u, v).
    coldest, hottest : float
        Kelvin, of the range to look in; 1000 to 15000 at most.

    Returns
    -------
    float or None
        None where the light lies beyond the range.
    """
    at = np.asarray(uv, np.float64)

    def is_hotter(mired: float) -> bool:
        """Whether the light is hotter than that: it lies ahead on the way of the locus."""
        there, slope = black_body(1e6 / mired)
        return bool((at - there) @ slope > 0)

    # Equal steps in mired (1e6 / K) are about equal steps of colour.
    hot, cold = 1e6 / hottest, 1e6 / coldest
    if is_hotter(hot) or not is_hotter(cold):
        return None
    for _ in range(_BISECTIONS):
        middle = (hot + cold) / 2
        hot, cold = (hot, middle) if is_hotter(middle) else (middle, cold)
    return min(max(2e6 / (hot + cold), coldest), hottest)
