"""Fuse a network's picture with what the sensor measured, scale by scale.

A network guesses; the amplified mosaic is a measurement, noisy but unbiased. Averaged over some
photosites it knows colour and brightness of a place better than any network, and the less it has
to be amplified, the smaller these places are. So the residual, measured less predicted, is split
into bands, from single photosites to the whole frame, and a share of each is added to the picture:
the share that makes the expected error least (Wiener 1949), which depends on how noisy the
measurement is there. At high ratios only the coarse bands count, at low ratios all of them, and the
picture converges to an ordinary converter's; its finest band is demosaicing by residual
interpolation (Kiku et al. 2013).

What the shares are is learned from simulated scenes (`ShareCounter`) and stored with the weights,
since it depends on how good the network is.

All in linear light. "Camera RGB" is white-balanced: ``raw * gains``, white is 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.imaging.blocks import block_means
from gia_cli.imaging.color import XYZ_FROM_SRGB, bt709_decode, bt709_encode, camera_from_srgb
from gia_cli.raw.calibrated_black import known_black_error, likely_black
from gia_cli.raw.cfa import (
    CANONICAL,
    PACK_FACTOR,
    CfaKind,
    align,
    cell_colors,
    pack,
    plane_values,
)
from gia_cli.raw.noise_estimate import estimate_noise
from gia_cli.raw.reader import RawFrame
from gia_cli.runtime import available_cores, in_threads

#: Bands: single photosites, then cells of 1, 2, 4, ... 128 packed pixels a side, each beside what
#: the next coarser one says.
LEVELS = 9
#: Noise of a packed pixel, in BT.709 code values, at which the shares are stated ...
NOISE_KNOTS: NDArray[np.float64] = np.logspace(-3, 0.5, 15)
#: ... and what a usual error of the black level is there, in the same unit.
BLACK_KNOTS: NDArray[np.float64] = np.logspace(-3, -0.5, 6)

# Linear luminance of sRGB; the rest of a colour is its chroma.
LUMINANCE = XYZ_FROM_SRGB[1].astype(np.float32)
# From this camera value on a place may be clipped, in the measurement or in the picture.
_BRIGHTEST = 0.92
# Least luminance of a place, for the slope of the curve: noise below it looks like black.
_DARKEST = 1e-3
_SMOOTHING = 0.7  # knots; over which the shares are pooled
# Error of a network's picture that is common to all places, in code values, beside one that grows
# with the light (measured).
_COMMON_ERROR = 0.012
_CAST_SIGMA = 0.1
_TABLE = (LEVELS, len(NOISE_KNOTS), len(BLACK_KNOTS))
_BAND_PIXELS = 1 << 17  # worked on at once
_STRIPS, _STRIP_ROWS = 8, 192  # of a frame, in photosites, that its noise is estimated from
# Most memory beside the picture, in bytes, measured on 1 to 12 megapixels: for each photosite while
# the bands of cells are worked out, then for each photosite and each thread, and what is left over.
_SITE_BYTES: dict[CfaKind, float] = {"bayer": 31, "xtrans": 14}
_FINEST_SITE_BYTES, _THREAD_BYTES, _OTHER_BYTES = 10, 12_000_000, 8_000_000
# Grain: five float32 of each packed pixel, and more in each thread (measured on 1 and 6 megapixels)
_GRAIN_CELL_BYTES, _GRAIN_THREAD_BYTES = 20, 9_000_000
_GRAIN_LEVELS = 4  # grain: photosites, and cells of 1, 2 and 4 packed pixels
_SMALLEST_SHARE = 0.01  # bands that nowhere get more are not worked out


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a sensor measured, how it is amplified and balanced, and how noisy it is then."""

    mosaic: NDArray[np.uint16] = field(repr=False)
    """(H, W) uint16, DN."""
    kind: CfaKind
    colors: NDArray[np.uint8]
    """(p, p); colour of each place of the cell, from the mosaic's first photosite on."""
    black: NDArray[np.float32]
    """(p, p); DN."""
    scale: NDArray[np.float32]
    """(p, p); camera RGB for each DN above black."""
    to_camera: NDArray[np.float64]
    """(3, 3); linear sRGB to camera RGB, rows sum to 1."""
    slope: NDArray[np.float64]
    """(3,); noise variance of a photosite of each colour: this much for each unit of signal ..."""
    constant: NDArray[np.float64]
    """(3,); ... and this much in the dark."""
    black_sigma: NDArray[np.float64]
    """(3,); what a usual black level error is in each colour."""
    black_error: NDArray[np.float64] | None = None
    """(3,); what it is, in camera RGB, where that is known; by default it is estimated."""


def measure(
    frame: RawFrame,
    ratio: float,
    gains: NDArray[np.floating],
    xyz_to_camera: NDArray[np.floating],
    noise: tuple[float, float] | None = None,
    black_error: float | None = None,
) -> Measurement:
    """Describe what a frame measured of the picture that a network makes of it.

    Parameters
    ----------
    frame : RawFrame
    ratio, gains
        As `prepare` got them.
    xyz_to_camera : (3, 3)
        Colour matrix of the camera that the network's picture is in.
    noise : (gain, variance), optional
        As `estimate_noise` returns them, DN per electron and DN^2; estimated by default.
    black_error : float, optional
        How far the true black level lies above the likely one, DN; estimated by default.
    """
    gain, variance = noise or frame_noise(frame)
    colors = cell_colors(frame.kind, frame.phase)
    black, (_, black_sigma) = likely_black(frame), known_black_error(frame)
    span = frame.white - black
    scale = (ratio * np.asarray(gains, np.float64)[colors] / span).astype(np.float32)
    assert scale.shape == colors.shape
    of_color = np.array([scale[colors == color].mean() for color in range(3)], np.float64)
    whole = ratio * np.asarray(gains, np.float64)
    return Measurement(
        mosaic=frame.mosaic,
        kind=frame.kind,
        colors=colors,
        black=black,
        scale=scale,
        to_camera=camera_from_srgb(xyz_to_camera),
        slope=gain * of_color,
        constant=variance * of_color**2,
        black_sigma=black_sigma * whole,
        black_error=None if black_error is None else black_error * of_color,
    )


def frame_noise(frame: RawFrame) -> tuple[float, float]:
    """Estimate a frame's noise from some strips of it: DN per electron, and DN^2."""
    period = len(CANONICAL[frame.kind])
    strips = []
    height, width = (side // period * period for side in frame.mosaic.shape)
    rows = min(_STRIP_ROWS, height)
    for start in np.unique(np.linspace(0, height - rows, _STRIPS).astype(int) // period * period):
        strips.append(frame.mosaic[start : start + rows, :width])
    joined = np.concatenate(strips)
    aligned, _ = align(joined, frame.phase, frame.kind)
    planes = pack(aligned, frame.kind, np.float32)
    planes -= plane_values(likely_black(frame), frame.kind, frame.phase)[:, None, None]
    return estimate_noise(planes)


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """How much of each band to add to a picture, by noise and black level error at a place."""

    luminance: NDArray[np.float32]
    """(LEVELS, noise knots, black knots) in [0, 1]."""
    chroma: NDArray[np.float32]
    """(LEVELS, noise knots, black knots) in [0, 1]."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shares) and all(
            np.array_equal(own, others)
            for own, others in ((self.luminance, other.luminance), (self.chroma, other.chroma))
        )

    def __hash__(self) -> int:
        return hash((self.luminance.tobytes(), self.chroma.tobytes()))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        tables = {"luminance": self.luminance, "chroma": self.chroma}
        # A line of whole per cents for each level: a manifest is also read by people.
        return {
            name: [" ".join(f"{100 * share:.0f}" for share in level.ravel()) for level in table]
            for name, table in tables.items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Shares:
        """Read a table that was stored beside weights.

        Raises
        ------
        ValueError
            Another shape, or numbers that are no shares.
        """
        tables = []
        for name in ("luminance", "chroma"):
            levels = [[float(share) / 100 for share in level.split()] for level in values[name]]
            table = np.array(levels, np.float32).reshape(_TABLE)
            if not ((table >= 0) & (table <= 1)).all():
                raise ValueError("shares lie between 0 and 100 %")
            tables.append(table)
        return cls(*tables)


#: Nothing is known better than a network has it.
NO_SHARES = Shares(np.zeros(_TABLE, np.float32), np.zeros(_TABLE, np.float32))


@dataclass(frozen=True, slots=True)
class Grain:
    """How much of the sensor's fine noise to leave in a picture, each in [0, 1].

    It is what the finest bands of the residual hold beyond their share. They are taken against the
    next coarser one, so brightness and colour of a place stay as they are; where the noise is
    larger than the light, it is limited to what the light leaves room for on both sides.
    """

    luminance: float
    chroma: float


def fuse(
    picture: NDArray[np.float32],
    measured: Measurement,
    shares: Shares,
    grain: Grain | None = None,
    *,
    is_clipped: bool = True,
) -> Residual:
    """Add to a picture what the sensor knows better; in its place.

    Works in bands of rows, in threads. What it holds beside the picture: `fusion_bytes`.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded, as the network gave it.
    measured : Measurement
    shares : Shares
    grain : Grain, optional
        By default only what the shares say is added.
    is_clipped : bool
        Whether what falls below black is clipped. There lie the colours that the sensor saw and
        sRGB lacks. Grain, which is limited by black, clips in any case.

    Returns
    -------
    Residual
        What was found before the picture was changed.
    """
    residual = Residual(picture, measured)
    correction = residual.correction(shares)
    finest = residual.finest_shares(shares)
    left = None if grain is None else residual.grain(shares, grain)
    if left is not None and finest is None:
        finest = np.zeros_like(left.finest)
    shape, scale = picture.shape[1:], PACK_FACTOR[measured.kind]
    # A band's neighbours are read before they are changed: the finest band looks beyond its own.
    borders = residual.borders() if finest is not None else {}

    def change(rows: slice) -> None:
        linear = _decoded(picture[:, rows])
        added = enlarged(correction, shape, scale, rows)
        if finest is not None:
            band = residual.finest_band(rows, linear, borders)
            added += weighted(band, *enlarged(finest, shape, scale, rows))
        light = linear + added
        if is_clipped or left is not None:
            np.maximum(light, 0, out=light)
        encoded = bt709_encode(light)
        if left is not None:
            noise = enlarged(left.cells, shape, scale, rows)
            noise += weighted(band, *enlarged(left.finest, shape, scale, rows))
            encoded += _within(noise / slope_of_decode(light), encoded)
        picture[:, rows] = encoded

    for _ in in_threads(change, residual.rows()):
        pass
    return residual


def fusion_bytes(kind: CfaKind, photosites: int, *, with_grain: bool = False) -> int:
    """Most memory that `fuse`, with its measurement, takes beside the picture, in bytes."""
    thread = _THREAD_BYTES + (_GRAIN_THREAD_BYTES if with_grain else 0)
    finest = _FINEST_SITE_BYTES * photosites + thread * available_cores()
    most = max(_SITE_BYTES[kind] * photosites, finest)
    if with_grain:
        most += _GRAIN_CELL_BYTES * photosites / PACK_FACTOR[kind] ** 2
    return round(most) + _OTHER_BYTES


def whiten(picture: NDArray[np.float32], frame: RawFrame) -> None:
    """Make white what saturated the sensor, whatever the white balance; in its place.

    Nothing is known there but that it was bright. Only places are changed where all photosites of a
    packed pixel are at the white level: there a RAW converter shows white too.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded.
    frame : RawFrame
    """
    period, scale = len(frame.white), PACK_FACTOR[frame.kind]
    if frame.mosaic.max() < frame.white.min():
        return
    saturated: NDArray[np.bool_] = np.empty(frame.mosaic.shape, np.bool_)
    for dy in range(period):
        for dx in range(period):
            place = (slice(dy, None, period), slice(dx, None, period))
            saturated[place] = frame.mosaic[place] >= frame.white[dy, dx]
    rows, cols = len(saturated) // scale, len(saturated[0]) // scale
    height, width = rows * scale, cols * scale
    cells = saturated[:height, :width].reshape(rows, scale, cols, scale)
    whole = cells.all(axis=(1, 3)).repeat(scale, axis=0).repeat(scale, axis=1)
    np.maximum(picture[:, :height, :width], 1, out=picture[:, :height, :width], where=whole)


def _decoded(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return bt709_decode(np.clip(picture, 0, 1))


# ---------------------------------------------------------------- the bands of the residual


class Residual:
    """What was measured less what a picture predicts, as a pyramid.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded.
    measured : Measurement
    """

    def __init__(self, picture: NDArray[np.float32], measured: Measurement) -> None:
        self.measured = measured
        self._picture = picture
        self._to_srgb = np.linalg.inv(measured.to_camera).astype(np.float32)
        scale = PACK_FACTOR[measured.kind]
        shape = tuple(-(-side // scale) for side in measured.mosaic.shape)
        # Two arrays: one is given back before the other.
        sums, counts = np.zeros((3, *shape), np.float32), np.zeros((3, *shape), np.float32)
        bright = np.empty(shape, np.float32)

        def count(rows: slice) -> None:
            linear = _decoded(picture[:, rows])
            cells = slice(rows.start // scale, -(-rows.stop // scale))
            parts = _cells(*_site_residual(linear, measured, rows), linear, measured)
            sums[:, cells], counts[:, cells], bright[cells] = parts

        for _ in in_threads(count, self.rows()):
            pass
        #: (3,) float32; error of the black level in camera RGB, which is taken off.
        self.offset: NDArray[np.float32]
        if measured.black_error is None:
            self.offset = _black_offset(sums, counts, bright, measured)
        else:
            self.offset = measured.black_error.astype(np.float32)
        sums -= counts * self.offset[:, None, None]
        levels = [(sums, counts)]
        #: Mean luminance of the picture in each level of cells, finest first.
        self.brightness: list[NDArray[np.float32]] = [bright]
        for _ in range(LEVELS - 2):
            levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
            self.brightness.append(_halved_mean(self.brightness[-1]))
        #: Camera RGB residual of each level of cells, finest first.
        self.means: list[NDArray[np.float32]] = []
        while levels:  # coarsest first; what is done with is given back
            total, number = levels.pop()
            mean = np.divide(total, number, out=total, where=number > 0)
            if self.means:
                mean = np.where(number > 0, mean, doubled(self.means[0], mean.shape[1:]))
            self.means.insert(0, mean)

    def rows(self) -> Iterator[slice]:
        """Cut the frame into bands of whole cells of the filter array."""
        height, width = self.measured.mosaic.shape
        period = len(self.measured.colors)
        step = max(_BAND_PIXELS // width // period, 1) * period
        for start in range(0, height, step):
            yield slice(start, min(start + step, height))

    def bands(self) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        """Yield level, band (3, h, w) in linear sRGB and its (h, w) brightness, coarsest first."""
        for level in range(LEVELS - 1, 0, -1):
            band = self.means[level - 1]
            if level < LEVELS - 1:
                band = band - doubled(self.means[level], band.shape[1:])
            yield level, _through(self._to_srgb, band), self.brightness[level - 1]

    def correction(self, shares: Shares) -> NDArray[np.float32]:
        """Sum the shares of all bands of cells: (3, h, w) linear sRGB, at packed resolution."""
        total: NDArray[np.float32] | None = None
        for level, band, brightness in self.bands():
            share_y, share_c = self.shares_at(level, brightness, shares)
            part = weighted(band, share_y, share_c)
            total = part if total is None else part + doubled(total, part.shape[1:])
        assert total is not None
        return total

    def finest_shares(self, shares: Shares) -> NDArray[np.float32] | None:
        """Look up the shares of what single photosites say: (2, h, w); None for nothing."""
        found = np.stack(self.shares_at(0, self.brightness[0], shares))
        return found if found.max() >= _SMALLEST_SHARE else None

    def grain(self, shares: Shares, grain: Grain) -> _GrainBands:
        """Sum what the fine bands of cells hold beyond their shares, and look up the finest's."""
        total: NDArray[np.float32] | None = None
        for level, band, brightness in self.bands():
            if level < _GRAIN_LEVELS:
                share_y, share_c = self.shares_at(level, brightness, shares)
                part = weighted(band, grain.luminance * (1 - share_y), grain.chroma * (1 - share_c))
                total = part if total is None else part + doubled(total, part.shape[1:])
        assert total is not None
        share_y, share_c = self.shares_at(0, self.brightness[0], shares)
        finest = np.stack([grain.luminance * (1 - share_y), grain.chroma * (1 - share_c)])
        return _GrainBands(total, finest)

    def borders(self) -> dict[int, NDArray[np.float32]]:
        """Copy the picture's rows around each border between bands, by the border's row."""
        period = len(self.measured.colors)
        return {
            rows.stop: self._picture[:, max(rows.stop - period, 0) : rows.stop + period].copy()
            for rows in self.rows()
        }

    def finest_band(
        self,
        rows: slice,
        linear: NDArray[np.float32],
        borders: dict[int, NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Interpolate what photosites say beside their packed pixel: (3, rows, W), linear sRGB.

        Parameters
        ----------
        rows : slice
            One of `rows`.
        linear : (3, rows, W)
            The picture there.
        borders : dict
            From `borders`.
        """
        period = len(self.measured.colors)
        height, width = self.measured.mosaic.shape
        first, last = max(rows.start - period, 0), min(rows.stop + period, height)
        pieces = [linear]
        if first < rows.start:
            pieces.insert(0, _decoded(borders[rows.start][:, :period]))
        if last > rows.stop:
            pieces.append(_decoded(borders[rows.stop][:, -(last - rows.stop) :]))
        around = np.concatenate(pieces, axis=1)
        sites, valid = _site_residual(around, self.measured, slice(first, last))
        colors = _interpolated(sites, valid, self.measured)
        colors = colors[:, rows.start - first : rows.stop - first]
        colors -= self.offset[:, None, None]
        coarse = enlarged(self.means[0], (height, width), PACK_FACTOR[self.measured.kind], rows)
        return _through(self._to_srgb, np.where(np.isfinite(colors), colors - coarse, 0))

    def places(
        self, brightness: NDArray[np.float32]
    ) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]:
        """Where the shares' tables are read at a luminance: for luminance, and for chroma.

        Returns
        -------
        two pairs of arrays like `brightness`
            Places among `NOISE_KNOTS` and among `BLACK_KNOTS`.
        """
        slope = slope_of_decode(brightness)
        level = np.maximum(brightness, 0)
        black = _place(BLACK_KNOTS, self.measured.black_sigma.mean() / slope)
        return tuple(
            (_place(NOISE_KNOTS, np.sqrt(gain * level + constant) / slope), black)
            for gain, constant in packed_noise(self.measured)
        )

    def shares_at(
        self, level: int, brightness: NDArray[np.float32], shares: Shares
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Look up a level's shares of luminance and of chroma at each place."""
        # In pieces: what is worked out on the way is ten times as large as what comes of it.
        found = np.empty((2, *brightness.shape), np.float32)
        step = max(_BAND_PIXELS // brightness.shape[1], 1)
        for start in range(0, len(brightness), step):
            rows = slice(start, start + step)
            luminance, chroma = self.places(brightness[rows])
            found[0, rows] = _looked_up(shares.luminance[level], *luminance)
            found[1, rows] = _looked_up(shares.chroma[level], *chroma)
        return found[0], found[1]


@dataclass(frozen=True, slots=True)
class _GrainBands:
    """What to leave of the noise."""

    cells: NDArray[np.float32]
    """(3, h, w) linear sRGB, at packed resolution."""
    finest: NDArray[np.float32]
    """(2, h, w); shares of what single photosites say, of luminance and chroma."""


def _within(noise: NDArray[np.float32], level: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bend noise so that it neither falls below black nor, on the mean, lifts the level."""
    bent: NDArray[np.float32] = level * np.tanh(noise / np.maximum(level, np.float32(1e-9)))
    return bent


def slope_of_decode(brightness: NDArray[np.float32]) -> NDArray[np.float32]:
    """Linear light for each BT.709 code value at a linear brightness: errors' unit there."""
    level = np.maximum(brightness, _DARKEST)
    encoded = bt709_encode(level)
    step = np.float32(1e-3)
    slope: NDArray[np.float32] = (bt709_decode(encoded + step) - bt709_decode(encoded)) / step
    return np.maximum(slope, 1 / 4.5)


def _place(knots: NDArray[np.float64], values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Find where values lie between knots that are evenly spaced in logarithm, as an index."""
    first, step = np.log(knots[0]), np.log(knots[1] / knots[0])
    place = (np.log(np.maximum(values, 1e-9)) - first) / step
    clipped: NDArray[np.float32] = np.clip(place, 0, len(knots) - 1).astype(np.float32)
    return clipped


def _looked_up(
    table: NDArray[np.float32], row: NDArray[np.float32], col: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Interpolate a table bilinearly."""
    rows, cols = table.shape
    low_row, low_col = (
        np.minimum(place.astype(np.int32), length - 2)
        for place, length in ((row, rows), (col, cols))
    )
    right, down = col - low_col, row - low_row
    flat, at = table.ravel(), low_row * cols + low_col
    upper = flat[at] + right * (flat[at + 1] - flat[at])
    lower = flat[at + cols] + right * (flat[at + cols + 1] - flat[at + cols])
    found: NDArray[np.float32] = upper + down * (lower - upper)
    return found


def weighted(
    band: NDArray[np.float32], share_y: NDArray[np.float32], share_c: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Take one share of a band's luminance and another of its chroma."""
    luminance = np.tensordot(LUMINANCE, band, axes=1)
    weighted: NDArray[np.float32] = share_c * band + (share_y - share_c) * luminance
    return weighted


def packed_noise(measured: Measurement) -> tuple[tuple[float, float], tuple[float, float]]:
    """Noise variance of a packed pixel's luminance and chroma: for each unit of light, and dark.

    Chroma's is that of one channel's deviation from the luminance, mean of the three.
    """
    pattern = CANONICAL[measured.kind]
    scale = PACK_FACTOR[measured.kind]
    counts = np.bincount(pattern.ravel(), minlength=3) * scale**2 / pattern.size
    to_srgb = np.linalg.inv(measured.to_camera)
    weight_y = (XYZ_FROM_SRGB[1] @ to_srgb) ** 2 / counts
    weight_c = ((to_srgb - XYZ_FROM_SRGB[1] @ to_srgb) ** 2).mean(axis=0) / counts
    return tuple(  # type: ignore[return-value]
        (float(weight @ measured.slope), float(weight @ measured.constant))
        for weight in (weight_y, weight_c)
    )


# ---------------------------------------------------------------- from photosites to cells


def _site_residual(
    linear: NDArray[np.float32], measured: Measurement, rows: slice
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Measured less predicted at each photosite of some rows, and where neither may be clipped.

    The picture decides what may be clipped, not the photosite: there, noise would decide.
    """
    period = len(measured.colors)
    to_camera = measured.to_camera.astype(np.float32)
    mosaic = measured.mosaic[rows]
    residual = np.empty(mosaic.shape, np.float32)
    valid = np.empty(mosaic.shape, np.bool_)
    for dy in range(period):
        for dx in range(period):
            place = (slice(dy, None, period), slice(dx, None, period))
            seen = linear[(slice(None), *place)]
            predicted = np.tensordot(to_camera[measured.colors[dy, dx]], seen, axes=1)
            site = (mosaic[place] - measured.black[dy, dx]) * measured.scale[dy, dx]
            residual[place] = site - predicted
            valid[place] = (predicted < _BRIGHTEST) & (seen.max(axis=0) < _BRIGHTEST)
    return residual, valid


def _cells(
    residual: NDArray[np.float32],
    valid: NDArray[np.bool_],
    linear: NDArray[np.float32],
    measured: Measurement,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Sum the valid photosites of each colour in each packed pixel, and count them.

    Returns
    -------
    sums, counts : (3, h, w)
    brightness : (h, w)
        Mean luminance of the picture.
    """
    scale = PACK_FACTOR[measured.kind]
    cell = measured.colors
    period = len(cell)
    height, width = residual.shape
    shape = -(-height // scale), -(-width // scale)
    sums, counts = np.zeros((2, 3, *shape), np.float32)
    light, number = np.zeros((2, *shape), np.float32)
    for dy in range(period):
        for dx in range(period):
            source = (slice(dy, None, period), slice(dx, None, period))
            target = tuple(slice(at // scale, None, period // scale) for at in (dy, dx))
            is_valid = valid[source]
            rows, cols = is_valid.shape
            color = cell[dy, dx]
            sums[(color, *target)][:rows, :cols] += np.where(is_valid, residual[source], 0)
            counts[(color, *target)][:rows, :cols] += is_valid
            light[target][:rows, :cols] += np.tensordot(
                LUMINANCE, linear[(slice(None), *source)], axes=1
            )
            number[target][:rows, :cols] += 1
    return sums, counts, light / number


def _black_offset(
    sums: NDArray[np.float32],
    counts: NDArray[np.float32],
    brightness: NDArray[np.float32],
    measured: Measurement,
) -> NDArray[np.float32]:
    """Estimate the black level's error, (3,) in camera RGB, from the residual over the frame.

    The black level is off by one number in DN, the same in light and dark; what else is wrong with
    a picture, such as its light, grows with the brightness. So a line is laid through the residual
    over brightness, one slope for each colour and one intercept for all, by what is usual of both
    (the mean of a normal posterior). Dark places weigh most: a picture errs by so many code values,
    which are least linear light there.
    """
    weight = 1 / slope_of_decode(brightness) ** 2
    unit = measured.black_sigma
    normal, right = np.diag([1.0, *[_CAST_SIGMA**-2] * 3]), np.zeros(4)
    for color in range(3):
        seen = np.where(counts[color] > 0, weight, 0)
        places = np.count_nonzero(seen)
        if not places:
            continue
        seen = seen / (_COMMON_ERROR**2 * places)
        residual = sums[color] / np.maximum(counts[color], 1)
        # Moments of (1, brightness) and the residual: sums over millions of places, in float64.
        of_one, of_light, of_square, of_rest, of_both = (
            float((seen * values).sum(dtype=np.float64))
            for values in (1, brightness, brightness**2, residual, residual * brightness)
        )
        u, k = unit[color], color + 1
        normal[0, 0] += u * u * of_one
        normal[0, k] = normal[k, 0] = u * of_light
        normal[k, k] += of_square
        right[0] += u * of_rest
        right[k] += of_both
    offset: NDArray[np.float32] = (unit * np.linalg.solve(normal, right)[0]).astype(np.float32)
    return offset


def _interpolated(
    residual: NDArray[np.float32], valid: NDArray[np.bool_], measured: Measurement
) -> NDArray[np.float32]:
    """Interpolate each colour's residual between its valid photosites; NaN where none is near."""
    cell = measured.colors
    period = len(cell)
    height, width = residual.shape
    kernel = _KERNELS[measured.kind]
    found = np.empty((3, height, width), np.float32)
    for color in range(3):
        mask = np.zeros((height, width), np.float32)
        for dy, dx in zip(*np.nonzero(cell == color), strict=True):
            place = (slice(dy, None, period), slice(dx, None, period))
            mask[place] = valid[place]
        with np.errstate(invalid="ignore", divide="ignore"):
            found[color] = _blurred(residual * mask, kernel) / _blurred(mask, kernel)
    return found


_KERNELS: dict[CfaKind, NDArray[np.float32]] = {
    "bayer": np.array([0.25, 0.5, 0.25], np.float32),
    "xtrans": np.array([0.0625, 0.25, 0.375, 0.25, 0.0625], np.float32),
}


def _blurred(plane: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Separable convolution; nothing lies beyond the border."""
    reach = len(kernel) // 2
    height, width = plane.shape
    padded = np.pad(plane, ((reach, reach), (0, 0)))
    plane = np.zeros_like(plane)
    for step, weight in enumerate(kernel):
        plane += weight * padded[step : step + height]
    padded = np.pad(plane, ((0, 0), (reach, reach)))
    plane = np.zeros_like(plane)
    for step, weight in enumerate(kernel):
        plane += weight * padded[:, step : step + width]
    return plane


# ---------------------------------------------------------------- pyramids


def _halved(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum 2x2 blocks of the last two axes; an odd last row or column stays alone."""
    height, width = cells.shape[-2:]
    pad = [(0, 0)] * (cells.ndim - 2) + [(0, height % 2), (0, width % 2)]
    padded = np.pad(cells, pad)
    rows = padded[..., ::2, :] + padded[..., 1::2, :]
    total: NDArray[np.float32] = rows[..., ::2] + rows[..., 1::2]
    return total


def _halved_mean(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    return _halved(cells) / _halved(np.ones_like(cells))


def doubled(cells: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate (..., h, w) bilinearly to (..., H, W) of about twice the size."""
    return enlarged(cells, shape, 2)


def enlarged(
    cells: NDArray[np.float32], shape: tuple[int, ...], factor: int, rows: slice | None = None
) -> NDArray[np.float32]:
    """Interpolate (..., h, w) bilinearly to (..., H, W), or to some rows of that.

    A cell is `factor` pixels a side; beyond the centres of the outermost ones they go on evenly.
    """
    spans = (range(shape[0])[rows] if rows else range(shape[0])), range(shape[1])
    for axis, span in zip((-2, -1), spans, strict=True):
        at = (np.array(span) + 0.5) / factor - 0.5
        low = np.floor(at).astype(int)
        share = (at - low).astype(np.float32)
        last = cells.shape[axis] - 1
        first, second = (np.clip(low + step, 0, last) for step in (0, 1))
        if axis == -2:
            share = share[:, None]
        lower = np.take(cells, first, axis)
        cells = lower + (np.take(cells, second, axis) - lower) * share
    return cells


def _through(matrix: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    changed: NDArray[np.float32] = np.tensordot(matrix, values, axes=1).astype(np.float32)
    return changed


# ---------------------------------------------------------------- learning the shares


class ShareCounter:
    """Learns the shares from scenes whose truth is known.

    The share that makes the squared error least is the regression of the truth's band on the
    measured one, taken in groups of like noise; errors count in code values.
    """

    def __init__(self) -> None:
        shape = (2, *_TABLE)
        self._both = np.zeros(shape)
        self._own = np.zeros(shape)

    def add(
        self, picture: NDArray[np.float32], truth: NDArray[np.float32], measured: Measurement
    ) -> None:
        """Count a scene; both pictures (3, H, W), BT.709-encoded."""
        residual = Residual(picture, measured)
        linear = _decoded(picture)
        wanted = bt709_decode(truth) - linear
        scale = PACK_FACTOR[measured.kind]
        packed = np.stack([block_means(channel, scale) for channel in wanted])
        means = [packed]
        for _ in range(LEVELS - 2):
            means.append(_halved_mean(means[-1]))
        for level, band, brightness in residual.bands():
            true = means[level - 1]
            if level < LEVELS - 1:
                true = true - doubled(means[level], true.shape[1:])
            rows, cols = true.shape[1:]
            self._count(level, band[:, :rows, :cols], true, brightness[:rows, :cols], residual)
        borders = residual.borders()
        for rows in residual.rows():
            fine = residual.finest_band(rows, linear[:, rows], borders)
            true = wanted[:, rows] - enlarged(packed, wanted.shape[1:], scale, rows)
            bright = enlarged(residual.brightness[0], wanted.shape[1:], scale, rows)
            self._count(0, fine, true, bright, residual)

    def _count(
        self,
        level: int,
        band: NDArray[np.float32],
        true: NDArray[np.float32],
        brightness: NDArray[np.float32],
        residual: Residual,
    ) -> None:
        weight = 1 / slope_of_decode(brightness) ** 2
        for kind, (noise, black) in enumerate(residual.places(brightness)):
            group = np.rint(noise).astype(int) * len(BLACK_KNOTS) + np.rint(black).astype(int)
            parts = []
            for values in (band, true):
                luminance = np.tensordot(LUMINANCE, values, axes=1)
                parts.append(luminance[None] if kind == 0 else values - luminance)
            measured, truth = parts
            for table, product in ((self._both, truth * measured), (self._own, measured**2)):
                summed = (product.sum(axis=0) * weight).ravel()
                table[kind, level] += np.bincount(
                    group.ravel(), summed, minlength=table[kind, level].size
                ).reshape(_TABLE[1:])

    def shares(self) -> Shares:
        """Return what was learned: each knot from the scenes around it, the nearest most."""
        both, own = self._both, self._own
        knots = np.indices(_TABLE[1:]).reshape(2, -1).T.astype(float)
        distance = np.square(knots[:, None] - knots[None]).sum(axis=-1)
        # Wide tails, so that a knot that no scene came near gets the nearest ones' share.
        nearness = np.exp(-distance / (2 * _SMOOTHING**2)) + 1e-6 / (1 + distance**3)
        # By its own size, or the noisiest places would outweigh all others.
        scale = own.reshape(2, LEVELS, -1).max(axis=-1).clip(1e-12)[..., None]
        smooth = [(table.reshape(2, LEVELS, -1) / scale) @ nearness for table in (both, own)]
        share = np.clip(smooth[0] / smooth[1].clip(1e-30), 0, 1).astype(np.float32)
        return Shares(*share.reshape(2, *_TABLE))
