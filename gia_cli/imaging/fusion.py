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

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.imaging.arrays import (
    Array,
    as_index,
    brought,
    empty,
    fetched,
    in_bands,
    mixed,
    namespace,
    tells,
    through,
)
from gia_cli.imaging.blocks import block_means
from gia_cli.imaging.color import (
    BT709_ALPHA,
    BT709_KNEE,
    BT709_POWER,
    BT709_SLOPE,
    XYZ_FROM_SRGB,
    bt709_decode,
    bt709_decode_in_place,
    bt709_encode_in_place,
    camera_from_srgb,
)
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
from gia_cli.runtime import available_cores

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
# Error of a network's picture that is common to all places, in code values: where there is no
# noise, and what is added to its square for each code value of noise in the dark. Beside it there
# is one that grows with the light. Measured on 447 exposures of sources kept for validation.
_COMMON_ERROR, _COMMON_OF_NOISE = 0.016, 0.002
_CAST_SIGMA = 0.07
# Of a residual that counts, at most: sigmas of a photosite's noise, and usual black level errors.
_MOST_NOISE, _MOST_ERRORS = 6, 5
_FEW_CELLS = 0.05  # a smaller share of the frame is as if the rest said nothing
_TABLE = (LEVELS, len(NOISE_KNOTS), len(BLACK_KNOTS))
# Worked on at once: small enough for a core's cache, and enough for a whole device.
_BAND_PIXELS, _DEVICE_BAND_PIXELS = 1 << 16, 1 << 21
_STRIPS, _STRIP_ROWS = 8, 192  # of a frame, in photosites, that its noise is estimated from
# Most memory beside the picture, in bytes, measured on 1 and 4 megapixels: for each photosite, for
# each thread, and what is left over.
_SITE_BYTES: dict[CfaKind, float] = {"bayer": 15.5, "xtrans": 9.6}
_THREAD_BYTES, _OTHER_BYTES = 3_600_000, 8_000_000
# Grain: five float32 of each packed pixel, and more in each thread.
_GRAIN_CELL_BYTES, _GRAIN_THREAD_BYTES = 20, 1_000_000
# On a device, of a picture and all that lies beside it, summed up generously: for each photosite,
# and for each pixel that is worked on at once.
_DEVICE_SITE_BYTES, _DEVICE_BAND_BYTES = 50, 120
_GRAIN_LEVELS = 4  # grain: photosites, and cells of 1, 2 and 4 packed pixels
# How far the finest band looks: kernels of 3 and of 5 photosites, binomial.
_REACH: dict[CfaKind, int] = {"bayer": 1, "xtrans": 2}
# Shares over brightness are tabulated so finely, for levels that have so many cells.
_CURVE_POINTS, _CURVE_CELLS = 1 << 16, 1 << 16
_SLOPE_STEP = 1e-3  # code values; over which the curve's slope is taken
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
    black_expected: float = 0.0
    """What it most likely is, in units of `black_sigma`; not 0 where the level was corrected."""


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
        # The level that was likely before is as likely as it was.
        black_expected=-frame.black_correction / (black_sigma * float(span.mean())),
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
    picture: Array,
    measured: Measurement,
    shares: Shares,
    grain: Grain | None = None,
    *,
    is_clipped: bool = True,
) -> Residual:
    """Add to a picture what the sensor knows better; in its place.

    Works in bands of rows: in threads, or on the device where the picture is. What it holds beside
    the picture: `fusion_bytes`, `device_bytes`.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded, as the network gave it: an array, or a tensor on any device.
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
    residual = Residual(picture, measured, in_place=True)
    correction = residual.correction(shares)
    finest = residual.finest_shares(shares)
    left = None if grain is None else residual.grain(shares, grain)
    shape, scale = picture.shape[1:], PACK_FACTOR[measured.kind]
    xp = namespace(picture)

    def change(rows: slice) -> None:
        light = picture[:, rows]  # linear by now
        light += enlarged(correction, shape, scale, rows)
        if finest is not None or left is not None:
            band = residual.finest_band(rows)
        if finest is not None:
            light += weighted(band, *enlarged(finest, shape, scale, rows))
        if is_clipped or left is not None:
            xp.clip(light, 0, None, out=light)
        bt709_encode_in_place(light)
        if left is not None:
            noise = enlarged(left.cells, shape, scale, rows)
            noise += weighted(band, *enlarged(left.finest, shape, scale, rows))
            noise /= _slope_at(light)
            light += _within(noise, light)

    in_bands(change, residual.rows(), picture)
    return residual


def fusion_bytes(kind: CfaKind, photosites: int, *, with_grain: bool = False) -> int:
    """Most memory that `fuse`, with its measurement, takes beside the picture, in bytes."""
    needed = _SITE_BYTES[kind] * photosites + _OTHER_BYTES
    thread = _THREAD_BYTES
    if with_grain:
        needed += _GRAIN_CELL_BYTES * photosites / PACK_FACTOR[kind] ** 2
        thread += _GRAIN_THREAD_BYTES
    return round(needed) + thread * available_cores()


def device_bytes(photosites: int) -> int:
    """Most memory of a device that a picture and its fusion take there, in bytes."""
    return _DEVICE_SITE_BYTES * photosites + _DEVICE_BAND_BYTES * _DEVICE_BAND_PIXELS


def whiten(picture: Array, frame: RawFrame) -> None:
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
    lit = brought(whole, picture)
    for channel in picture[:, :height, :width]:
        channel[lit] = namespace(picture).clip(channel[lit], 1, None)


def _decoded(picture: Array) -> Array:
    return bt709_decode_in_place(namespace(picture).clip(picture, 0, 1))


def row_bands(like: Array, period: int = 1) -> Iterator[slice]:
    """Cut an array's rows, which are its last axis but one, into bands of whole periods."""
    height, width = like.shape[-2:]
    pixels = _BAND_PIXELS if namespace(like) is np else _DEVICE_BAND_PIXELS
    step = max(pixels // width // period, 1) * period
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


# ---------------------------------------------------------------- the bands of the residual


class Residual:
    """What was measured less what a picture predicts, as a pyramid.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded.
    measured : Measurement
    in_place : bool
        Whether the picture becomes linear light from black to white, for whoever needs that next.
    """

    def __init__(self, picture: Array, measured: Measurement, *, in_place: bool = False) -> None:
        self.measured = measured
        self._to_srgb = np.linalg.inv(measured.to_camera)
        self._scale = PACK_FACTOR[measured.kind]
        xp = namespace(picture)
        shape = tuple(-(-side // self._scale) for side in measured.mosaic.shape)
        sums = empty((3, *shape), picture)
        counts = xp.zeros((3, *shape), dtype=xp.uint8, device=picture.device)
        bright = empty(shape, picture)
        # Measured less predicted at each photosite; NaN where either may be clipped.
        self._sites = empty(measured.mosaic.shape, picture)
        self._reach = _REACH[measured.kind]
        self._covered: dict[tuple[bool, bool, int], tuple[Array, Array]] = {}
        self._curves: dict[tuple[int, Shares], list[tuple[Array, Array]]] = {}
        mosaic, sensor = brought(measured.mosaic, picture), _Sensor.of(measured, picture)
        moments: dict[int, NDArray[np.float64]] = {}

        def count(rows: slice) -> None:
            linear = _decoded(picture[:, rows])
            if in_place:
                picture[:, rows] = linear
            sites = self._sites[rows]
            _site_residual(mosaic[rows], linear, sensor, sites)
            cells = slice(rows.start // self._scale, -(-rows.stop // self._scale))
            parts = sums[:, cells], counts[:, cells], bright[cells]
            _count_cells(sites, measured, *parts[:2])
            parts[2][:] = mixed(LUMINANCE, cell_means(linear, self._scale))
            if measured.black_error is None:
                moments[rows.start] = _moments(*parts, measured)

        in_bands(count, self.rows(), picture)
        #: (3,) float32; error of the black level in camera RGB, which is taken off.
        self.offset: NDArray[np.float32]
        if measured.black_error is None:
            of_frame = np.sum([moments[row] for row in sorted(moments)], axis=0)
            self.offset = _black_offset(of_frame, bright.shape[0] * bright.shape[1], measured)
        else:
            self.offset = measured.black_error.astype(np.float32)
        levels: list[tuple[Array, Array]] = [(sums, counts)]
        #: Mean luminance of the picture in each level of cells, finest first.
        self.brightness: list[Array] = [bright]
        for _ in range(LEVELS - 2):
            total, number = levels[-1]
            levels.append((_summed(total, 2), _summed(number, 2)))
            self.brightness.append(cell_means(self.brightness[-1], 2))
        offset = brought(self.offset, picture)[:, None, None]
        #: Camera RGB residual of each level of cells, finest first.
        self.means: list[Array] = []
        while levels:  # coarsest first; what is done with is given back
            mean, number = levels.pop()
            mean /= xp.clip(number, 1, None)
            mean -= offset
            if tells(number.min() == 0):
                self._fill(mean, number)
            self.means.insert(0, mean)

    def _fill(self, mean: Array, number: Array) -> None:
        """Take cells without any valid photosite from the next coarser level; of the last, 0."""
        xp, shape = namespace(mean), mean.shape[1:]

        def fill(rows: slice) -> None:
            near = doubled(self.means[0], shape, rows) if self.means else 0 * mean[:, rows]
            mean[:, rows] = xp.where(number[:, rows] > 0, mean[:, rows], near)

        in_bands(fill, row_bands(mean), mean)

    def rows(self) -> Iterator[slice]:
        """Cut the frame into bands of whole cells of the filter array."""
        return row_bands(self._sites, len(self.measured.colors))

    def bands(self) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        """Yield level, band (3, h, w) in linear sRGB and its (h, w) brightness, coarsest first."""
        for level in range(LEVELS - 1, 0, -1):
            yield level, self.band(level), self.brightness[level - 1]

    def band(self, level: int, rows: slice | None = None) -> Array:
        """Return some rows of a band of cells: (3, h, w), linear sRGB."""
        band = self.means[level - 1]
        shape = band.shape[1:]
        if rows is not None:
            band = band[:, rows]
        if level < LEVELS - 1:
            band = band - doubled(self.means[level], shape, rows)
        return through(self._to_srgb, band)

    def summed(self, share: Callable[[int, slice, Array], tuple[Array, Array] | None]) -> Array:
        """Sum shares of all bands of cells: (3, h, w) linear sRGB, at packed resolution.

        Parameters
        ----------
        share : function
            Says for a level, some of its rows and the coarser levels' sum there what to take of
            the band's luminance and of its chroma; None for nothing.
        """
        total: Array = None
        for level in range(LEVELS - 1, 0, -1):
            total = self._with_band(level, total, share)
        return total

    def _with_band(
        self,
        level: int,
        coarser: Array,
        share: Callable[[int, slice, Array], tuple[Array, Array] | None],
    ) -> Array:
        total = empty(self.means[level - 1].shape, self.means[level - 1])
        _, height, width = total.shape

        def add(rows: slice) -> None:
            near = total[:, rows]
            near[:] = 0 if coarser is None else doubled(coarser, (height, width), rows)
            shares = share(level, rows, near)
            if shares is not None:
                near += weighted(self.band(level, rows), *shares)

        in_bands(add, row_bands(total), total)
        return total

    def correction(self, shares: Shares) -> Array:
        """Sum the shares of all bands of cells: (3, h, w) linear sRGB, at packed resolution."""

        def share(level: int, rows: slice, _: Array) -> tuple[Array, Array]:
            return self.shares_at(level, self.brightness[level - 1][rows], shares)

        return self.summed(share)

    def finest_shares(self, shares: Shares) -> NDArray[np.float32] | None:
        """Look up the shares of what single photosites say: (2, h, w); None for nothing."""
        found = self._of_cells(lambda brightness: self.shares_at(0, brightness, shares))
        return found if tells(found.max() >= _SMALLEST_SHARE) else None

    def grain(self, shares: Shares, grain: Grain) -> _GrainBands:
        """Sum what the fine bands of cells hold beyond their shares, and look up the finest's."""

        def rest(level: int, brightness: Array) -> tuple[Array, Array]:
            share_y, share_c = self.shares_at(level, brightness, shares)
            return grain.luminance * (1 - share_y), grain.chroma * (1 - share_c)

        def share(level: int, rows: slice, _: Array) -> tuple[Array, Array] | None:
            return rest(level, self.brightness[level - 1][rows]) if level < _GRAIN_LEVELS else None

        return _GrainBands(self.summed(share), self._of_cells(partial(rest, 0)))

    def _of_cells(self, shares: Callable[[Array], tuple[Array, Array]]) -> Array:
        """Look up two shares of each packed pixel by its brightness: (2, h, w)."""
        brightness = self.brightness[0]
        found = empty((2, *brightness.shape), brightness)

        def look_up(rows: slice) -> None:
            found[0, rows], found[1, rows] = shares(brightness[rows])

        in_bands(look_up, row_bands(brightness), brightness)
        return found

    def finest_band(self, rows: slice) -> Array:
        """Interpolate what photosites say beside their packed pixel: (3, rows, W), linear sRGB.

        Parameters
        ----------
        rows : slice
            One of `rows`.
        """
        xp, colors = namespace(self._sites), self.measured.colors
        around, inner = self._around(rows)
        sites = self._sites[around]
        planes = _by_color(sites, colors, self._reach, self.offset)
        if _has_gaps(sites):
            planes[xp.isnan(planes)] = 0
            inverse, is_known = self._coverage(~xp.isnan(sites), inner)
        else:
            inverse, is_known = self._whole_coverage(rows)
        found = self._spread(planes, inner)
        found *= inverse
        found -= enlarged(self.means[0], self._sites.shape, self._scale, rows)
        if not tells(is_known.all()):
            found *= is_known
        return through(self._to_srgb, found)

    def _around(self, rows: slice) -> tuple[slice, slice]:
        """Add whole cells of the filter array to some rows; and where these lie among them."""
        period = len(self.measured.colors)
        first = max(rows.start - period, 0)
        around = slice(first, min(rows.stop + period, len(self._sites)))
        return around, slice(rows.start - first, rows.stop - first)

    def _spread(self, planes: Array, inner: slice) -> Array:
        """Add up the neighbours of each place of some rows, by binomial weights."""
        planes = planes[:, inner.start : inner.stop + 2 * self._reach]
        for _ in range(2 * self._reach):
            planes = planes[:, 1:] + planes[:, :-1]
        for _ in range(2 * self._reach):
            planes = planes[..., 1:] + planes[..., :-1]
        return planes

    def _coverage(self, valid: Array, inner: slice) -> tuple[Array, Array]:
        """Weigh the valid photosites near each place: their inverse, and whether there are any."""
        weight = self._spread(_by_color(valid, self.measured.colors, self._reach), inner)
        is_known = weight > 0
        return 1 / namespace(weight).clip(weight, 1, None), is_known

    def _whole_coverage(self, rows: slice) -> tuple[Array, Array]:
        """Do so where all are valid: one for all bands but the frame's first and last."""
        height = len(self._sites)
        key = rows.start == 0, rows.stop == height, rows.stop - rows.start
        if key not in self._covered:
            around, inner = self._around(rows)
            self._covered[key] = self._coverage(self._sites[around] * 0 + 1, inner)
        return self._covered[key]

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
        cells = self.brightness[max(level - 1, 0)]
        if cells.shape[0] * cells.shape[1] < _CURVE_CELLS and isinstance(cells, np.ndarray):
            return self._shares_of(level, brightness, shares)
        key = level, shares
        if key not in self._curves:
            self._curves[key] = self._share_curves(level, shares)
        xp = namespace(brightness)
        place = xp.sqrt(xp.clip(brightness, 0, 1))
        place *= _CURVE_POINTS - 1
        low = as_index(place)
        place -= low
        share_y, share_c = (start[low] + place * step[low] for start, step in self._curves[key])
        return share_y, share_c

    def _share_curves(self, level: int, shares: Shares) -> list[tuple[Array, Array]]:
        """Tabulate a level's shares over brightness, of which alone they are functions here.

        Returns
        -------
        two pairs of arrays of _CURVE_POINTS
            Of luminance and chroma: the share, and the step to the next one. The places are even
            in the square root of the brightness.
        """
        roots = np.linspace(0, 1, _CURVE_POINTS, dtype=np.float32)
        curves = self._shares_of(level, np.square(roots), shares)
        return [
            (brought(curve, self._sites), brought(np.diff(curve, append=curve[-1:]), self._sites))
            for curve in curves
        ]

    def _shares_of(
        self, level: int, brightness: NDArray[np.float32], shares: Shares
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        luminance, chroma = self.places(brightness)
        return (
            _looked_up(shares.luminance[level], *luminance),
            _looked_up(shares.chroma[level], *chroma),
        )


@dataclass(frozen=True, slots=True)
class _GrainBands:
    """What to leave of the noise."""

    cells: NDArray[np.float32]
    """(3, h, w) linear sRGB, at packed resolution."""
    finest: NDArray[np.float32]
    """(2, h, w); shares of what single photosites say, of luminance and chroma."""


def _within(noise: Array, level: Array) -> Array:
    """Bend noise so that it neither falls below black nor, on the mean, lifts the level."""
    xp = namespace(noise)
    bent = noise / xp.clip(level, 1e-9, None)
    xp.tanh(bent, out=bent)
    bent *= level
    return bent


def slope_of_decode(brightness: Array) -> Array:
    """Linear light for each BT.709 code value at a linear brightness: errors' unit there."""
    return _slope_at(bt709_encode_in_place(namespace(brightness).clip(brightness, _DARKEST, None)))


def _slope_at(encoded: Array) -> Array:
    """Do so at a code value: the curve's mean slope over a small step from there on.

    Where the step has a part above the knee, that is the power's slope in the part's middle. The
    difference of two ends of the curve would be rounded a thousand times as much.
    """
    xp = namespace(encoded)
    slope = xp.clip(encoded, BT709_KNEE, None)
    slope += xp.clip(encoded + _SLOPE_STEP, BT709_KNEE, None)
    slope *= 1 / (2 * BT709_ALPHA)
    slope += 1 - 1 / BT709_ALPHA
    xp.log(slope, out=slope)
    slope *= 1 / BT709_POWER - 1
    xp.exp(slope, out=slope)
    slope *= 1 / (BT709_POWER * BT709_ALPHA)
    slope -= 1 / BT709_SLOPE
    part = encoded + (_SLOPE_STEP - BT709_KNEE)
    part *= 1 / _SLOPE_STEP
    slope *= xp.clip(part, 0, 1, out=part)
    slope += 1 / BT709_SLOPE
    return slope


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
    found: NDArray[np.floating] = upper + down * (lower - upper)  # whole numbers make it double
    return found.astype(np.float32)


def weighted(band: Array, share_y: Array, share_c: Array) -> Array:
    """Take one share of a band's luminance and another of its chroma."""
    luminance = mixed(LUMINANCE, band)
    luminance *= share_y - share_c
    part = share_c * band
    part += luminance
    return part


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


@dataclass(frozen=True, slots=True)
class _Sensor:
    """What differs from photosite to photosite, for the rows of one cell of the filter array."""

    black: Array
    """(p, W); DN."""
    scale: Array
    """(p, W); camera RGB for each DN above black."""
    to_camera: Array
    """(3, p, W); of linear sRGB, what a photosite sees."""

    @classmethod
    def of(cls, measured: Measurement, like: Array) -> _Sensor:
        """Lay a measurement's cells side by side, where an array lies."""
        width = measured.mosaic.shape[1]
        at = np.arange(width) % len(measured.colors)
        to_camera = measured.to_camera.astype(np.float32).T[:, measured.colors]
        cells = measured.black, measured.scale, to_camera
        return cls(*(brought(cell[..., at].astype(np.float32), like) for cell in cells))


def _site_residual(mosaic: Array, linear: Array, sensor: _Sensor, sites: Array) -> None:
    """Find measured less predicted at each photosite of some rows; NaN where either may be clipped.

    The picture decides what may be clipped, not the photosite: there, noise would decide.

    Parameters
    ----------
    mosaic : (rows, W)
    linear : (3, rows, W)
    sensor : _Sensor
    sites : (rows, W) float32
        Where to put it.
    """
    xp, period = namespace(linear), len(sensor.black)
    predicted = empty(sites.shape, linear)
    for dy in range(period):
        own, near = sites[dy::period], predicted[dy::period]
        xp.multiply(linear[0, dy::period], sensor.to_camera[0, dy], out=near)
        for channel in (1, 2):
            near += linear[channel, dy::period] * sensor.to_camera[channel, dy]
        own[:] = mosaic[dy::period]
        own -= sensor.black[dy]
        own *= sensor.scale[dy]
        own -= near
    if tells((predicted.max() >= _BRIGHTEST) | (linear.max() >= _BRIGHTEST)):
        for channel in linear:
            xp.maximum(predicted, channel, out=predicted)
        sites[predicted >= _BRIGHTEST] = np.nan


def _has_gaps(sites: Array) -> bool:
    """Tell whether some photosites do not count; a sum is the quickest to say."""
    return tells(namespace(sites).isnan(sites.sum()))


def _count_cells(sites: Array, measured: Measurement, sums: Array, counts: Array) -> None:
    """Sum the valid photosites of each colour in each packed pixel, and count them.

    Parameters
    ----------
    sites : (rows, W)
    measured : Measurement
    sums, counts : (3, h, w)
        Where to put them.
    """
    xp, scale, cell = namespace(sites), PACK_FACTOR[measured.kind], measured.colors
    period = len(cell)
    valid: Array = None
    if _has_gaps(sites):
        valid = ~xp.isnan(sites)
        sites = xp.where(valid, sites, 0)
    sums[:] = 0
    counts[:] = 0
    for (dy, dx), color in np.ndenumerate(cell):
        source = (slice(dy, None, period), slice(dx, None, period))
        target = (int(color), *(slice(at // scale, None, period // scale) for at in (dy, dx)))
        rows, cols = sites[source].shape
        sums[target][:rows, :cols] += sites[source]
        counts[target][:rows, :cols] += 1 if valid is None else valid[source]


def _moments(
    sums: Array, counts: Array, brightness: Array, measured: Measurement
) -> NDArray[np.float64]:
    """Sum up what a line through the residual over brightness is laid by; see `_black_offset`.

    Residuals that neither noise nor a black level explains do not count, on either side: beside a
    lamp a picture may be off by many times white.

    Returns
    -------
    (3, 6)
        For each colour: the number of places, the weighted moments 0 to 2 of the brightness, and
        the residual's moments 0 and 1 with it.
    """
    xp = namespace(sums)
    weight = slope_of_decode(brightness) ** -2
    of_light, level = weight * brightness, xp.clip(brightness, 0, None)
    moments = []
    for color, (total, count) in enumerate(zip(sums, counts, strict=True)):
        residual = total / xp.clip(count, 1, None)
        limit = xp.sqrt(float(measured.slope[color]) * level + float(measured.constant[color]))
        limit *= _MOST_NOISE
        limit += _MOST_ERRORS * float(measured.black_sigma[color])
        is_seen = (count > 0) & (xp.abs(residual) <= limit)
        seen, lit = (
            (weight, of_light) if tells(is_seen.all()) else (weight * is_seen, of_light * is_seen)
        )
        sums_of = (seen, lit, lit * brightness, seen * residual, lit * residual)
        moments.append(xp.stack([1.0 * is_seen.sum(), *(values.sum() for values in sums_of)]))
    return np.asarray(fetched(xp.stack(moments)), np.float64)


def _black_offset(
    moments: NDArray[np.float64], cells: int, measured: Measurement
) -> NDArray[np.float32]:
    """Estimate the black level's error, (3,) in camera RGB, from the residual over the frame.

    The black level is off by one number in DN, the same in light and dark; what else is wrong with
    a picture, such as its light, grows with the brightness. So a line is laid through the residual
    over brightness, one slope for each colour and one intercept for all, by what is usual of both
    (the mean of a normal posterior). Dark places weigh most: a picture errs by so many code values,
    which are least linear light there. A few places of all cells tell less than many.
    """
    unit = measured.black_sigma
    dark_noise = BT709_SLOPE * math.sqrt(measured.constant.mean())
    common = math.sqrt(_COMMON_ERROR**2 + _COMMON_OF_NOISE * dark_noise)
    normal = np.diag([1.0, *[_CAST_SIGMA**-2] * 3])
    right = np.array([measured.black_expected, 0, 0, 0])
    for color, (places, *sums) in enumerate(moments):
        if not places:
            continue
        of_one, of_light, of_square, of_rest, of_both = np.array(sums) / (
            common**2 * max(places, _FEW_CELLS * cells)
        )
        u, k = unit[color], color + 1
        normal[0, 0] += u * u * of_one
        normal[0, k] = normal[k, 0] = u * of_light
        normal[k, k] += of_square
        right[0] += u * of_rest
        right[k] += of_both
    offset: NDArray[np.float32] = (unit * np.linalg.solve(normal, right)[0]).astype(np.float32)
    return offset


def _by_color(
    sites: Array, colors: NDArray[np.uint8], margin: int, offset: NDArray[np.float32] | None = None
) -> Array:
    """Lay the photosites of each colour, less its offset, on a plane of zeros with a margin."""
    xp, period = namespace(sites), len(colors)
    height, width = sites.shape
    shape = (3, height + 2 * margin, width + 2 * margin)
    planes = xp.zeros(shape, dtype=xp.float32, device=sites.device)
    inner = planes[:, margin : margin + height, margin : margin + width]
    for (dy, dx), color in np.ndenumerate(colors):
        place = (slice(dy, None, period), slice(dx, None, period))
        less = 0 if offset is None else float(offset[color])
        inner[(int(color), *place)] = sites[place] - less if less else sites[place]
    return planes


# ---------------------------------------------------------------- pyramids


def _summed(cells: Array, side: int) -> Array:
    """Sum blocks of the last two axes; what is left of the last ones stays alone."""
    *_, height, width = cells.shape
    rows = empty((*cells.shape[:-2], -(-height // side), width), cells)
    rows[:] = cells[..., ::side, :]
    total = empty((*rows.shape[:-1], -(-width // side)), cells)
    for at in range(1, side):
        part = cells[..., at::side, :]
        rows[..., : part.shape[-2], :] += part
    total[:] = rows[..., ::side]
    for at in range(1, side):
        part = rows[..., at::side]
        total[..., : part.shape[-1]] += part
    return total


def _numbers(cells: Array, side: int) -> Array:
    """Count what is summed in each block: (h, w), or one number where it is the same in all."""
    lengths = cells.shape[-2:]
    if not any(length % side for length in lengths):
        return side * side
    rows, cols = (np.minimum(side, length - np.arange(0, length, side)) for length in lengths)
    return brought(np.outer(rows, cols).astype(np.float32), cells)


def cell_means(cells: Array, side: int) -> Array:
    """Average blocks of the last two axes; what is left over at the ends is averaged alone."""
    mean = _summed(cells, side)
    mean /= _numbers(cells, side)
    return mean


def doubled(cells: Array, shape: tuple[int, ...], rows: slice | None = None) -> Array:
    """Interpolate (..., h, w) bilinearly to (..., H, W) of about twice the size."""
    return enlarged(cells, shape, 2, rows)


def enlarged(cells: Array, shape: tuple[int, ...], factor: int, rows: slice | None = None) -> Array:
    """Interpolate (..., h, w) bilinearly to (..., H, W), or to some rows of that.

    A cell is `factor` pixels a side; beyond the centres of the outermost ones they go on evenly.
    """
    start, stop, _ = (rows or slice(None)).indices(shape[0])
    first, last = start // factor, -(-stop // factor)
    near = _framed(_framed(cells, first, last, -2), 0, -(-shape[1] // factor), -1)
    wide = _between(near, factor, -1)
    tall = _between(wide[..., : shape[1]], factor, -2)
    return tall[..., start - first * factor : stop - first * factor, :]


def _along(axis: int, at: slice) -> tuple[Any, ...]:
    """Index along one of the last two axes."""
    return (..., at, slice(None)) if axis == -2 else (..., at)


def _framed(cells: Array, first: int, last: int, axis: int) -> Array:
    """Cut out cells with one more at each end; beyond the border the outermost go on."""
    low, high = max(first - 1, 0), min(last + 1, cells.shape[axis])
    before, known = low - (first - 1), high - low
    shape = list(cells.shape)
    shape[axis] = last - first + 2
    framed = empty(tuple(shape), cells)
    framed[_along(axis, slice(before, before + known))] = cells[_along(axis, slice(low, high))]
    framed[_along(axis, slice(before))] = cells[_along(axis, slice(1))]
    framed[_along(axis, slice(before + known, None))] = cells[_along(axis, slice(-1, None))]
    return framed


def _between(cells: Array, factor: int, axis: int) -> Array:
    """Interpolate cells along one of the last two axes; the first and the last get no pixels."""
    xp, count = namespace(cells), cells.shape[axis] - 2
    shape = list(cells.shape)
    shape[axis] = count * factor
    found = empty(tuple(shape), cells)
    step = cells[_along(axis, slice(1, None))] - cells[_along(axis, slice(-1))]
    middle = cells[_along(axis, slice(1, -1))]
    for phase in range(factor):
        part = found[_along(axis, slice(phase, None, factor))]
        beside = (phase + 0.5) / factor - 0.5
        if beside:
            side = int(beside > 0)
            xp.add(middle, step[_along(axis, slice(side, side + count))] * beside, out=part)
        else:
            part[:] = middle
    return found


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
            means.append(cell_means(means[-1], 2))
        for level, band, brightness in residual.bands():
            true = means[level - 1]
            if level < LEVELS - 1:
                true = true - doubled(means[level], true.shape[1:])
            rows, cols = true.shape[1:]
            self._count(level, band[:, :rows, :cols], true, brightness[:rows, :cols], residual)
        for rows in residual.rows():
            fine = residual.finest_band(rows)
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
                luminance = mixed(LUMINANCE, values)
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
