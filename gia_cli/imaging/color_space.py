"""The colour spaces that pictures are saved in, and the way there from the network's picture.

The picture is BT.709-encoded with sRGB's primaries, and not clipped: a colour that sRGB lacks has a
value below 0 or above 1. A wider space takes such a colour as it is. Nothing is stretched: what
lies inside sRGB keeps its colour in every space.

Sources: IEC 61966-2-1 (sRGB), SMPTE EG 432-1 (Display P3's primaries), ITU-R BT.2020,
ISO 22028-2 (ProPhoto, called ROMM RGB there).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gia_cli.imaging.color import (
    bt709_decode,
    bt709_encode,
    quantize16,
    srgb_decode,
    srgb_encode,
)
from gia_cli.imaging.save_options import ColorSpaceName

Curve = Literal["srgb", "bt709", "gamma"]

#: ProPhoto's exponent as its ICC profiles state it, 1.8 in steps of 1/256. The straight piece that
#: ROMM RGB has near black is left out, as in those profiles.
GAMMA = 461 / 256

_D65, _D50 = (0.3127, 0.3290), (0.3457, 0.3585)
# Responses of the cones by which whites are adapted (Bradford), as ICC has them.
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


@dataclass(frozen=True, slots=True)
class ColorSpace:
    """Primaries, white and curve of an RGB space."""

    name: ColorSpaceName
    title: str
    primaries: tuple[tuple[float, float], ...]
    """CIE x, y of red, green and blue."""
    white: tuple[float, float]
    """CIE x, y."""
    curve: Curve

    def encode(self, linear: NDArray[np.floating]) -> NDArray[np.float32]:
        """Linear light to code values, both [0, 1] float."""
        if self.curve == "srgb":
            return srgb_encode(linear)
        if self.curve == "bt709":
            return bt709_encode(linear)
        return _power(linear, 1 / GAMMA)

    def decode(self, encoded: NDArray[np.floating]) -> NDArray[np.float32]:
        """Code values to linear light, both [0, 1] float; undoes `encode`."""
        if self.curve == "srgb":
            return srgb_decode(encoded)
        if self.curve == "bt709":
            return bt709_decode(encoded)
        return _power(encoded, GAMMA)


SRGB = ColorSpace("srgb", "sRGB", ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), _D65, "srgb")
DISPLAY_P3 = ColorSpace(
    "display-p3", "Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), _D65, "srgb"
)
REC2020 = ColorSpace(
    "rec2020", "Rec. 2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), _D65, "bt709"
)
PROPHOTO = ColorSpace(
    "prophoto",
    "ProPhoto RGB",
    ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)),
    _D50,
    "gamma",
)
SPACES: dict[ColorSpaceName, ColorSpace] = {
    space.name: space for space in (SRGB, DISPLAY_P3, REC2020, PROPHOTO)
}


def xyz_matrix(space: ColorSpace) -> NDArray[np.float64]:
    """Build the matrix from a space's linear RGB to XYZ, of its own white.

    Examples
    --------
    White is the sum of the three colours, and has a luminance of 1.

    >>> xyz_matrix(SRGB).sum(axis=1).round(4).tolist()
    [0.9505, 1.0, 1.0891]
    """
    colors = np.array([_xyz(primary) for primary in space.primaries]).T
    scaled: NDArray[np.float64] = colors * np.linalg.solve(colors, _xyz(space.white))
    return scaled


def adaptation(
    white: tuple[float, float], other: tuple[float, float] = _D50
) -> NDArray[np.float64]:
    """Build the matrix for XYZ that brings one white to another (Bradford); by default to D50.

    Parameters
    ----------
    white, other : (x, y)
    """
    factors = (_BRADFORD @ _xyz(other)) / (_BRADFORD @ _xyz(white))
    adapted: NDArray[np.float64] = np.linalg.solve(_BRADFORD, factors[:, None] * _BRADFORD)
    return adapted


@lru_cache
def matrix_from_srgb(space: ColorSpace) -> NDArray[np.float64]:
    """Build the matrix from linear sRGB to a space's linear RGB; white stays white.

    Examples
    --------
    sRGB's red is a colour inside Rec. 2020.

    >>> matrix_from_srgb(REC2020)[:, 0].round(4).tolist()
    [0.6274, 0.0691, 0.0164]
    """
    xyz = adaptation(SRGB.white, space.white) @ xyz_matrix(SRGB)
    return np.asarray(np.linalg.solve(xyz_matrix(space), xyz), np.float64)


def linear_in(picture: NDArray[np.float32], space: ColorSpace) -> NDArray[np.float32]:
    """Bring the network's picture to a space's linear light.

    Parameters
    ----------
    picture : (3, ...) float32
        BT.709-encoded, not clipped. Below black the curve is its straight piece, as everywhere in
        gia where a matrix leaves a value there (`bt709_encode`).
    space : ColorSpace

    Returns
    -------
    (3, ...) float32
        Not clipped.
    """
    return through(matrix_from_srgb(space), bt709_decode(picture))


def through(matrix: NDArray[np.float64], linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply a matrix to linear light, (3, ...) float32."""
    mixed: NDArray[np.float32] = np.tensordot(matrix.astype(np.float32), linear, axes=1)
    return mixed


def levels16_in(picture: NDArray[np.float32], space: ColorSpace) -> NDArray[np.uint16]:
    """Bring the network's picture to the 16-bit levels of a space.

    Parameters
    ----------
    picture : (3, ...) float32
        BT.709-encoded; what the space cannot hold is clipped.
    space : ColorSpace

    Returns
    -------
    (3, ...) uint16
    """
    return quantize16(space.encode(linear_in(picture, space)))


def _xyz(chromaticity: tuple[float, float]) -> NDArray[np.float64]:
    """XYZ of a chromaticity, for a luminance of 1."""
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _power(values: NDArray[np.floating], exponent: float) -> NDArray[np.float32]:
    positive = np.maximum(np.asarray(values, np.float32), 0)
    return np.power(positive, np.float32(exponent)).astype(np.float32)
