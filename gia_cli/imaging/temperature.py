"""Colour temperature and tint of a light, and the white balance gains that make it neutral.

A temperature names a point on the locus of black bodies in the CIE 1960 chromaticity diagram; the
tint is how far the light lies beside it. The camera's own colour matrix says what its sensor sees
of that light, and the gains are the inverse of that.

LibRaw has one matrix for each camera, made for daylight (D65). Converters that mix two matrices
by temperature, as a DNG's tags allow (`raw.dng_color`), name the same gains a few per cent
differently in lamp light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import UsageError
from gia_cli.raw.black_body import black_body, correlated_kelvin, uv_of_xyz, xyz_of_uv

#: Kelvin. The locus below is published up to 15,000 K; under 1,667 K, candle light and less, camera
#: matrices turn blue to nothing or below.
LOWEST_KELVIN, HIGHEST_KELVIN = 1667.0, 15000.0
#: Beyond this tint (a distance of 0.05) a colour temperature means nothing, says CIE 15.
LARGEST_TINT = 150.0

# Tint for each unit of distance in (u, v), with the sign of Adobe's DNG SDK: a light on the green
# side of the locus has a positive tint, and its picture is turned towards magenta.
_TINT_SCALE = -3000.0


@dataclass(frozen=True, slots=True)
class Light:
    """A light by its correlated colour temperature and its tint.

    Raises
    ------
    UsageError
        The temperature is not between 1667 and 15000 K, or the tint not between -150 and 150.
    """

    kelvin: float
    """Correlated colour temperature."""
    tint: float = 0.0
    """Distance from the black body of that temperature in CIE 1960 (u, v), times 3000; positive is
    a greener light, for which a picture is turned towards magenta."""

    def __post_init__(self) -> None:
        if not LOWEST_KELVIN <= self.kelvin <= HIGHEST_KELVIN:
            raise UsageError(
                f"A colour temperature must be between {LOWEST_KELVIN:g} and {HIGHEST_KELVIN:g} K, "
                f"not {self.kelvin:g}.",
                hint="Lamps have about 2850K, the sun about 5500K.",
            )
        if not -LARGEST_TINT <= self.tint <= LARGEST_TINT:
            raise UsageError(
                f"A tint must be between -{LARGEST_TINT:g} and {LARGEST_TINT:g}, not "
                f"{self.tint:g}.",
                hint="Positive tints turn the picture towards magenta, negative ones to green.",
            )

    def __str__(self) -> str:
        tint = round(self.tint, 1)
        return f"{self.kelvin:.0f} K" + (f", tint {tint:+g}" if tint else "")


def xyz_of_light(light: Light) -> NDArray[np.float64]:
    """CIE XYZ of a light, (3,) float64, with Y = 1."""
    uv, slope = black_body(light.kelvin)
    return xyz_of_uv(uv + light.tint / _TINT_SCALE * _across(slope))


def light_of_xyz(xyz: NDArray[np.floating]) -> Light | None:
    """Find temperature and tint of a light: undoes `xyz_of_light`.

    Parameters
    ----------
    xyz : (3,)
        CIE XYZ, of any brightness.

    Returns
    -------
    Light or None
        None for what lies outside the range of `Light`, or is no light at all.
    """
    uv = uv_of_xyz(xyz)
    kelvin = None if uv is None else correlated_kelvin(uv, LOWEST_KELVIN, HIGHEST_KELVIN)
    if uv is None or kelvin is None:
        return None
    there, slope = black_body(kelvin)
    tint = float((uv - there) @ _across(slope) * _TINT_SCALE)
    # Gains in single precision must not refuse what `gains_of_light` made of the limit itself.
    if abs(tint) > LARGEST_TINT + 0.05:
        return None
    return Light(kelvin, min(max(tint, -LARGEST_TINT), LARGEST_TINT))


def gains_of_light(light: Light, xyz_to_camera: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Gains that make a light neutral on a camera.

    Parameters
    ----------
    light : Light
    xyz_to_camera : (3, 3)
        The camera's colour matrix (Adobe's or LibRaw's ``rgb_xyz_matrix``).

    Returns
    -------
    (3,) float64 or None
        Factors for R, G and B, green 1. None where the matrix says that a filter lets none of this
        light through, or is nonsense.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        seen = np.asarray(xyz_to_camera, np.float64) @ xyz_of_light(light)
    if not (np.isfinite(seen).all() and (seen > 0).all()):
        return None
    gains: NDArray[np.float64] = seen[1] / seen
    return gains


def light_of_gains(
    gains: NDArray[np.floating], xyz_to_camera: NDArray[np.floating]
) -> Light | None:
    """Find the light that gains make neutral on a camera: undoes `gains_of_light`.

    Parameters
    ----------
    gains : (3,)
        Factors for R, G and B, positive, of any common size.
    xyz_to_camera : (3, 3)

    Returns
    -------
    Light or None
        None for what lies outside the range of `Light`, and for a matrix without an inverse.
    """
    try:
        neutral = 1 / np.asarray(gains, np.float64)
        return light_of_xyz(np.linalg.solve(np.asarray(xyz_to_camera, np.float64), neutral))
    except np.linalg.LinAlgError:
        return None


def _across(slope: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the unit vector along the isotherm, square to the locus, to the magenta side."""
    across = np.array([-slope[1], slope[0]])
    unit: NDArray[np.float64] = across / np.hypot(*across)
    return unit
