"""What lies above white: restored from the mosaic, and rolled off to fit below white.

A network's picture ends at white, as the pictures that it was trained on do. But where a photo is
amplified a hundred times, a lamp that is white then was far from saturating the sensor: its shape
and colour are in the mosaic, and with little noise. So near white the picture gives way to the
measurement, which goes on above it. For a file that ends at white, a shoulder then makes room below
white for what is above: logarithmic, as lamps differ by factors (Drago et al. 2003). Files of
linear light take it as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gia_cli.arguments import unit_number
from gia_cli.imaging.arrays import Array, mixed, through
from gia_cli.imaging.color import bt709_decode, bt709_encode
from gia_cli.imaging.fusion import (
    LEVELS,
    LUMINANCE,
    Measurement,
    Residual,
    enlarged,
    packed_noise,
    weighted,
)
from gia_cli.raw.cfa import PACK_FACTOR
from gia_cli.runtime import in_threads

# The picture gives way to the measurement between these levels of its brightest channel, linear.
_FIRST, _ALL = 0.75, 0.98
# Noise, over the light itself, at which half of a band of the measurement is believed: of its
# luminance, and of its colour, where eyes forgive less grain and miss less detail.
_TOLERATED_NOISE = (0.03, 0.025)
_STEPS = 20
# Code values below white that a whole roll-off takes for what is above it.
_WIDEST_SHOULDER = 0.5


@dataclass(frozen=True, slots=True)
class Highlights:
    """How much of the tones below white to give to what lies above it: 0 none, 1 half of them.

    Raises
    ------
    UsageError
        Not from 0 to 1.
    """

    amount: float = 0.0

    def __post_init__(self) -> None:
        hint = "0 leaves lamps as the network has them, 1 brings most of their shape back."
        unit_number(self.amount, "--highlights", hint)

    def __bool__(self) -> bool:
        return self.amount > 0

    @property
    def comment(self) -> str:
        """What a picture's metadata say of it."""
        return f"; highlights {self.amount:g}" if self else ""


@dataclass(frozen=True, slots=True)
class Shoulder:
    """A curve that bends what lies between a knee and a peak so that the peak becomes white.

    Hue and saturation stay: a colour's three channels shrink by the factor of the brightest one.
    Without anything above white it is the identity.
    """

    knee: float
    """Linear light; below it nothing changes."""
    peak: float
    """Linear light, at least 1."""

    @classmethod
    def of(cls, highlights: Highlights, peak: float) -> Shoulder:
        """Make the curve for a picture whose brightest place has `peak` times white."""
        knee = bt709_decode(np.array(1 - _WIDEST_SHOULDER * highlights.amount))
        return cls(float(knee), max(peak, 1.0))

    def __call__(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bend a BT.709-encoded picture (3, ...); below white at the end but for rounding."""
        linear = bt709_decode(encoded)
        brightest = linear.max(axis=0)
        if self.knee >= 1 or not (brightest > self.knee).any():
            return encoded
        room = 1 - self.knee
        above = np.maximum(brightest - self.knee, 0) / room
        most = (self.peak - self.knee) / room
        bend = _bend(most)
        bent = np.log1p(bend * above) / bend if bend else above
        factor = np.where(above > 0, (self.knee + room * bent) / np.maximum(brightest, 1e-9), 1)
        return np.where(above > 0, bt709_encode(linear * factor), encoded)


def _bend(most: float) -> float:
    """Find c with ``log(1 + c * most) = c``: a curve of slope 1 at 0 that reaches 1 at `most`."""
    if most <= 1 + 1e-6:
        return 0.0
    bend = 2 * max(math.log(most), most - 1)  # right of the solution, where steps lead to it
    for _ in range(_STEPS):  # Newton's
        bend -= (math.log1p(bend * most) - bend) / (most / (1 + bend * most) - 1)
    return bend


def restore_highlights(
    picture: NDArray[np.float32], measured: Measurement, saturation: float
) -> float:
    """Let a picture go on above white as the sensor measured it; in its place.

    Fine bands of the measurement are believed where it has little noise. What saturated the sensor
    is as bright as the brightest that it could tell, and white.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded.
    measured : Measurement
        Of the photo, in the picture's balance and colours.
    saturation : float
        Camera RGB, amplified and balanced, from which on a colour may be clipped.

    Returns
    -------
    float
        The brightest place of the picture, linear, at least 1.
    """
    light = _light(measured)
    cells, certainty = _cells(light, measured, saturation)
    brightest = float(cells.max(initial=0))
    if brightest < _FIRST:
        return 1.0
    shape, scale = picture.shape[1:], PACK_FACTOR[measured.kind]

    def change(rows: slice) -> None:
        linear = bt709_decode(picture[:, rows])
        share = _share(linear)
        if not share.any():
            return
        fine = light.finest_band(rows)
        fine = weighted(fine, *enlarged(certainty, shape, scale, rows))
        fine += enlarged(cells, shape, scale, rows)
        fine = _unclipped(fine, measured, saturation)
        # Only where both say so: beside an edge the coarse bands say little of this very place.
        share = np.minimum(share, _share(fine))
        linear += share * (fine - linear)
        picture[:, rows] = np.where(share > 0, bt709_encode(linear), picture[:, rows])

    for _ in in_threads(change, light.rows()):
        pass
    return max(brightest, 1.0)


def brightest_light(measured: Measurement, saturation: float) -> float:
    """Find what `restore_highlights` would return, without a picture."""
    cells, _ = _cells(_light(measured), measured, saturation)
    return max(float(cells.max(initial=0)), 1.0)


def _light(measured: Measurement) -> Residual:
    """Split the measurement itself into bands: its residual beside a black picture."""
    nothing = np.broadcast_to(np.float32(0), (3, *measured.mosaic.shape))
    return Residual(nothing, replace(measured, black_error=np.zeros(3)))


def _share(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far a place gives way to the measurement, by its brightest channel."""
    share = np.clip((linear.max(axis=0) - _FIRST) / (_ALL - _FIRST), 0, 1)
    smooth: NDArray[np.float32] = share * share * (3 - 2 * share)
    return smooth


def _cells(
    light: Residual, measured: Measurement, saturation: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sum the bands of the measurement so far as noise allows: (3, h, w) linear sRGB.

    Returns
    -------
    cells : (3, h, w)
    certainty : (2, h, w)
        How far the noise allows the finest band, too: its luminance and its chroma.
    """
    noises = packed_noise(measured)

    def believed(light: NDArray[np.float32], averaged: float) -> NDArray[np.float32]:
        luminance = np.maximum(mixed(LUMINANCE, light), 1e-6)
        shares = np.empty((2, *luminance.shape), np.float32)
        for share, (slope, constant), tolerated in zip(
            shares, noises, _TOLERATED_NOISE, strict=True
        ):
            noise = np.sqrt((slope * luminance + constant) / averaged) / luminance
            share[:] = 1 / (1 + (noise / tolerated) ** 2)
        return shares

    def share(level: int, _: slice, coarse: Array) -> Array:
        if level == LEVELS - 1:  # there is nothing to tell its noise by
            return np.ones((2, *coarse.shape[1:]), np.float32)
        return believed(coarse, 4.0 ** (level - 1))

    total = light.summed(share)
    certainty = believed(total, 1 / PACK_FACTOR[measured.kind] ** 2)
    return _unclipped(total, measured, saturation), certainty


def _unclipped(
    light: NDArray[np.float32], measured: Measurement, saturation: float
) -> NDArray[np.float32]:
    """Make what may be clipped as bright as what certainly is not: where all are, that is white."""
    camera = np.minimum(through(measured.to_camera, light), np.float32(saturation))
    found: NDArray[np.float32] = through(np.linalg.inv(measured.to_camera), camera)
    found = found.clip(0, saturation)
    return found
