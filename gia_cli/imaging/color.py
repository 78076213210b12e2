"""Transfer curves and camera matrices.

The network is trained on LibRaw's default rendering: sRGB primaries with the BT.709 curve. A file
tagged sRGB needs the sRGB curve (IEC 61966-2-1); the two differ by up to 7 % in the mid-tones.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gia_cli.imaging.arrays import Array, namespace

#: XYZ (D65) from linear sRGB, IEC 61966-2-1.
XYZ_FROM_SRGB: NDArray[np.float64] = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


#: BT.709 in the continuous form that LibRaw solves for from gamma 1/0.45 and slope 4.5: up to BETA
#: ``SLOPE * x``, then ``ALPHA * x ** POWER - (ALPHA - 1)``. KNEE is BETA's code value.
BT709_POWER = 0.45
BT709_SLOPE = 4.5
BT709_ALPHA = 1.09929682680944
BT709_BETA = 0.018053968510807
BT709_KNEE = BT709_SLOPE * BT709_BETA


def bt709_encode(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """Linear light to BT.709 code values, both [0, 1] float; what LibRaw writes by default.

    Examples
    --------
    A grey card of 18 % is darker than in sRGB; a file tagged sRGB needs `srgb_encode`.

    >>> grey = np.array([0.0, 0.18, 1.0])
    >>> [round(float(value), 3) for value in bt709_encode(grey)]
    [0.0, 0.409, 1.0]
    >>> [round(float(value), 3) for value in srgb_encode(grey)]
    [0.0, 0.461, 1.0]
    """
    linear = np.asarray(linear, np.float32)
    power = BT709_ALPHA * np.power(np.maximum(linear, BT709_BETA), BT709_POWER)
    encoded = np.where(linear < BT709_BETA, BT709_SLOPE * linear, power - (BT709_ALPHA - 1))
    return encoded.astype(np.float32)


def bt709_decode(encoded: NDArray[np.floating]) -> NDArray[np.float32]:
    """BT.709 code values to linear light, both [0, 1] float; undoes `bt709_encode`."""
    encoded = np.asarray(encoded, np.float32)
    base = np.maximum(encoded + (BT709_ALPHA - 1), 0) / BT709_ALPHA
    knee = BT709_SLOPE * BT709_BETA
    linear = np.where(encoded < knee, encoded / BT709_SLOPE, np.power(base, 1 / BT709_POWER))
    return linear.astype(np.float32)


def bt709_encode_in_place(values: Array) -> Array:
    """Do as `bt709_encode`, to 5e-7 of white, for a picture of float32, of NumPy or torch.

    The line is a tangent of the power, which lies nowhere above it: the lesser of the two is the
    curve, without a branch. ``exp(log(x) * p)`` is several times as fast as ``x ** p`` where NumPy
    has no vectors for powers (all but AVX-512).

    Returns
    -------
    array or tensor
        `values` themselves.
    """
    xp = namespace(values)
    line = values * BT709_SLOPE
    xp.clip(values, BT709_BETA, None, out=values)
    xp.log(values, out=values)
    values *= BT709_POWER
    xp.exp(values, out=values)
    values *= BT709_ALPHA
    values -= BT709_ALPHA - 1
    return xp.minimum(values, line, out=values)


def bt709_decode_in_place(values: Array) -> Array:
    """Do as `bt709_decode`, to 5e-7 of white, for a picture of float32, of NumPy or torch.

    The sum of a line up to the knee and of what the power rises above it: without a branch, and 0
    is exactly 0.

    Returns
    -------
    array or tensor
        `values` themselves.
    """
    xp = namespace(values)
    line = xp.clip(values, None, BT709_KNEE)
    line *= 1 / BT709_SLOPE
    values = _bt709_power(values)
    values -= _power_at_the_knee()
    values += line
    return values


def _bt709_power(values: Array) -> Array:
    """Take the power part of the inverse curve, in place; below the knee what it is there."""
    xp = namespace(values)
    xp.clip(values, BT709_KNEE, None, out=values)
    values += BT709_ALPHA - 1
    xp.log(values, out=values)
    values *= 1 / BT709_POWER
    xp.exp(values, out=values)
    values *= BT709_ALPHA ** (-1 / BT709_POWER)
    return values


@lru_cache(maxsize=1)
def _power_at_the_knee() -> float:
    """Return BETA as the power is rounded there, which is not quite BETA."""
    return float(_bt709_power(np.zeros(1, np.float32))[0])


def srgb_encode(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """Linear light to sRGB code values, both [0, 1] float (IEC 61966-2-1)."""
    linear = np.asarray(linear, np.float32)
    power = 1.055 * np.power(np.maximum(linear, 0.0031308), 1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, power).astype(np.float32)


def srgb_decode(encoded: NDArray[np.floating]) -> NDArray[np.float32]:
    """Turn sRGB code values into linear light, both [0, 1] float (IEC 61966-2-1)."""
    encoded = np.asarray(encoded, np.float32)
    power = np.power((np.maximum(encoded, 0.04045) + 0.055) / 1.055, 2.4)
    return np.where(encoded <= 0.04045, encoded / 12.92, power).astype(np.float32)


@lru_cache(maxsize=1)
def _bt709_from_srgb16() -> NDArray[np.float32]:
    levels: NDArray[np.float64] = np.arange(65536) / 65535
    return bt709_encode(srgb_decode(levels))


def bt709_from_srgb16(levels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """16-bit sRGB levels to BT.709 code values in [0, 1]: undoes `srgb16_from_bt709`."""
    return _bt709_from_srgb16()[levels]


@lru_cache(maxsize=1)
def _srgb16_from_bt709_16() -> NDArray[np.uint16]:
    """Table of all 65,536 BT.709 levels as sRGB levels: exact, and faster than two powers."""
    levels: NDArray[np.float64] = np.arange(65536) / 65535
    return quantize16(srgb_encode(bt709_decode(levels)))


def quantize16(unit: NDArray[np.floating]) -> NDArray[np.uint16]:
    """[0, 1] to 0...65535, rounded to nearest, clipped; NaN becomes 0.

    Examples
    --------
    >>> quantize16(np.array([-0.1, 0.5, 1.1, np.nan])).tolist()
    [0, 32768, 65535, 0]
    """
    scaled = np.asarray(np.multiply(unit, 65535))
    scaled += 0.5
    np.fmax(scaled, 0, out=scaled)  # unlike maximum, it takes the number where the other is NaN
    np.fmin(scaled, 65535, out=scaled)
    return scaled.astype(np.uint16)


def srgb16_from_bt709(encoded: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Convert a BT.709-encoded picture to 16-bit sRGB levels.

    Parameters
    ----------
    encoded : any shape, float
        BT.709 code values; anything outside [0, 1] is clipped.

    Returns
    -------
    the same shape, uint16
        Within 2 levels of the unquantized conversion (near black one step of the table's input is
        2.9 sRGB levels), and within 1.2 from a code value of 0.1 up.

    Examples
    --------
    >>> srgb16_from_bt709(np.array([0.0, 0.409, 1.0])).tolist()
    [0, 30245, 65535]
    """
    # No level lies outside the table, so clipping changes nothing; checking would take longer.
    return _srgb16_from_bt709_16().take(quantize16(encoded), mode="clip")


@lru_cache(maxsize=1)
def _levels8_from_16() -> NDArray[np.uint8]:
    return np.rint(np.arange(65536) / 257).astype(np.uint8)


def levels8(levels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """16-bit levels to the nearest 8-bit ones.

    Examples
    --------
    >>> levels8(np.array([0, 129, 257, 65535], np.uint16)).tolist()
    [0, 1, 1, 255]
    """
    return _levels8_from_16()[levels]


def srgb8_from_bt709(encoded: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Convert a BT.709-encoded picture of any shape to 8-bit sRGB levels, as screens show them.

    Examples
    --------
    >>> srgb8_from_bt709(np.array([-1.0, 0.0, 0.5, 1.0])).tolist()
    [0, 0, 139, 255]
    """
    return levels8(srgb16_from_bt709(encoded))


def camera_from_srgb(xyz_to_camera: NDArray[np.floating]) -> NDArray[np.float64]:
    """Build the matrix from linear sRGB to white-balanced camera RGB.

    Parameters
    ----------
    xyz_to_camera : (3, 3)
        The camera's colour matrix (Adobe's or LibRaw's ``rgb_xyz_matrix``).

    Returns
    -------
    (3, 3)
        Rows sum to 1: white stays white. LibRaw renders with its inverse.

    Examples
    --------
    >>> from gia_cli.cameras import A7S2_MATRIX
    >>> (camera_from_srgb(np.array(A7S2_MATRIX)) @ [0.5, 0.5, 0.5]).round(6).tolist()
    [0.5, 0.5, 0.5]
    """
    matrix = np.asarray(xyz_to_camera, np.float64) @ XYZ_FROM_SRGB
    normalised: NDArray[np.float64] = matrix / matrix.sum(axis=1, keepdims=True)
    return normalised


def colors_of_another_camera(
    xyz_to_camera: NDArray[np.floating], taken_for: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Build the matrix that corrects a rendering made with another camera's colours.

    A rendering is white-balanced camera RGB through the inverse of `camera_from_srgb`. Where it was
    the wrong camera's, that is undone and the right one's applied.

    Parameters
    ----------
    xyz_to_camera : (3, 3)
        The camera's own colour matrix.
    taken_for : (3, 3)
        The colour matrix that the rendering used.

    Returns
    -------
    (3, 3)
        For linear sRGB; rows sum to 1: greys stay grey.

    Raises
    ------
    numpy.linalg.LinAlgError
        The camera's matrix has no inverse.
    """
    mended = np.linalg.solve(camera_from_srgb(xyz_to_camera), camera_from_srgb(taken_for))
    return np.asarray(mended, np.float64)


def rebalance_matrix(
    xyz_to_camera: NDArray[np.floating], change: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Build the matrix that gives a rendering another white balance, as a RAW converter would.

    A rendering is ``M^-1 diag(gains) raw`` with `M` of `camera_from_srgb`. With other gains it is
    this one through ``M^-1 diag(change) M``.

    Parameters
    ----------
    xyz_to_camera : (3, 3)
        The camera's colour matrix.
    change : (3,)
        The new gains of R, G and B over the old ones.

    Returns
    -------
    (3, 3)
        For linear sRGB, not clipped.
    """
    to_camera = camera_from_srgb(xyz_to_camera)
    changed = np.asarray(change, np.float64)[:, None] * to_camera
    return np.asarray(np.linalg.solve(to_camera, changed), np.float64)


def bt709_through(
    matrix: NDArray[np.floating], encoded: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Apply a matrix to the linear light of a BT.709-encoded picture.

    Parameters
    ----------
    matrix : (3, 3)
    encoded : (3, ...) float
        Not clipped, nor is the result.

    Returns
    -------
    (3, ...) float32
    """
    linear = bt709_decode(encoded)
    mixed = np.tensordot(np.asarray(matrix, np.float32), linear, axes=1)
    return bt709_encode(mixed)


def lab_from_srgb(linear: NDArray[np.floating]) -> NDArray[np.float64]:
    """CIELAB of linear light.

    Parameters
    ----------
    linear : (..., 3) float, linear light, sRGB primaries
        White is 1.

    Returns
    -------
    (..., 3) float64
        L* in [0, 100], a*, b*, for sRGB's own white, D65 (CIE 15); equal red, green and blue are
        exactly neutral.

    Examples
    --------
    >>> lab_from_srgb(np.array([0.18, 0.18, 0.18])).round(1).tolist()
    [49.5, 0.0, 0.0]
    """
    white = XYZ_FROM_SRGB.sum(axis=1)
    relative = np.asarray(linear, np.float64) @ (XYZ_FROM_SRGB / white[:, None]).T
    # Below (6/29)^3 the cube root gives way to its tangent there.
    near_black = relative < (6 / 29) ** 3
    f = np.where(near_black, relative * (841 / 108) + 4 / 29, np.cbrt(relative))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
