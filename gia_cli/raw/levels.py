"""Black and white levels: what the file's tags say in full, what a user says, what a border shows.

LibRaw rounds a DNG's black levels to whole numbers, and knows one for each place of a Bayer cell at
most. DNG 1.7 allows fractions, a pattern of any size (BlackLevelRepeatDim), and a difference for
each column and row (BlackLevelDeltaH, BlackLevelDeltaV).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gia_cli.arguments import number
from gia_cli.errors import UsageError
from gia_cli.raw.cfa import CANONICAL, CfaKind
from gia_cli.raw.tiff import Directory

_REPEAT_DIM, _BLACK_LEVEL, _DELTA_H, _DELTA_V = 0xC619, 0xC61A, 0xC61B, 0xC61C
_LARGEST_PATTERN = 64  # photosites a side
_MAX_DN = 65535
_LEVELS_HINT = "Give 512 or 512,514,511."
_WHOLE = 1e-3  # DN; a level nearer to a whole number is one
_BAND_ROWS = 256

# A border narrower than this is filled with anything; its innermost sites may catch some light.
_LEAST_BORDER, _INNER_SITES = 8, 2
_LEAST_SITES = 256
_MOST_AREAS = 8  # that a file may name; cameras name one or two, and LibRaw takes no more
# A difference from the stated level that is no rounding, in DN and as a share of the range.
_CONTRADICTION_DN, _CONTRADICTION_SHARE = 8.0, 0.005


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels that a user states in place of the file's; None leaves the file's.

    Raises
    ------
    UsageError
        They are no levels, or the white one is not above the black ones.
    """

    black: tuple[float, ...] | None = None
    """DN; one, or one for each of R, G and B."""
    white: float | None = None
    """DN."""

    def __post_init__(self) -> None:
        if self.black is not None:
            if not isinstance(self.black, tuple):
                raise UsageError("Black levels are a tuple of numbers.", hint=_LEVELS_HINT)
            for level in self.black:
                number(level, "black level")
            if len(self.black) not in (1, 3) or not all(0 <= v < _MAX_DN for v in self.black):
                raise UsageError(
                    "A black level is one number, or one for each of red, green and blue, from 0 "
                    f"to {_MAX_DN - 1}."
                )
            if self.white is not None and number(self.white, "white level") <= max(self.black):
                raise UsageError("The white level must lie above the black level.")
        if self.white is not None and not 0 < number(self.white, "white level") <= _MAX_DN:
            raise UsageError(f"A white level is a number from 1 to {_MAX_DN}.")

    @classmethod
    def parse(
        cls,
        black: str | float | Sequence[float] | None = None,
        white: float | None = None,
    ) -> Self:
        """Understand levels as a user gives them: "512", "512,514,511", numbers.

        Raises
        ------
        UsageError

        Examples
        --------
        >>> Levels.parse("512,514.5,511").black
        (512.0, 514.5, 511.0)
        """
        if black is None:
            return cls(None, white)
        try:
            parts = black.split(",") if isinstance(black, str) else np.ravel(black).tolist()
            values = tuple(map(float, parts))
        except (TypeError, ValueError):
            raise UsageError(
                f"{reprlib.repr(black)} is not a black level.", hint=_LEVELS_HINT
            ) from None
        return cls(values, white)


AS_THE_FILE_SAYS = Levels()


class LevelMap(NamedTuple):
    """Black level of each photosite of a mosaic: `pattern` over and over, plus the other two."""

    pattern: NDArray[np.float64]
    """(rows, columns) DN, from the mosaic's first photosite on."""
    rows: NDArray[np.float64]
    """(H,) DN."""
    columns: NDArray[np.float64]
    """(W,) DN."""


def black_of_tags(
    tags: Directory, shape: tuple[int, int], start: tuple[int, int]
) -> LevelMap | None:
    """Read a DNG's black levels.

    Parameters
    ----------
    tags : Directory
        That of the RAW image.
    shape : (H, W)
        Photosites of the mosaic.
    start : (y, x)
        Place of its first photosite in the ActiveArea, from which DNG counts.

    Returns
    -------
    LevelMap or None
        None where the tags say nothing, or nonsense.
    """
    rows, columns = (int(value) for value in (*tags.tags.get(_REPEAT_DIM, (1, 1)), 0, 0)[:2])
    levels = np.array(tags.floats(_BLACK_LEVEL), np.float64)
    if not (0 < rows <= _LARGEST_PATTERN and 0 < columns <= _LARGEST_PATTERN):
        return None
    if levels.size != rows * columns or not _are_levels(levels):
        return None
    pattern = np.roll(levels.reshape(rows, columns), (-start[0], -start[1]), axis=(0, 1))
    return LevelMap(
        pattern,
        _delta(tags, _DELTA_V, shape[0], start[0]),
        _delta(tags, _DELTA_H, shape[1], start[1]),
    )


def _are_levels(values: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values < _MAX_DN).all())


def _delta(tags: Directory, tag: int, length: int, start: int) -> NDArray[np.float64]:
    """Read the differences of rows or columns; zeros where they do not cover the mosaic."""
    values = np.array(tags.floats(tag), np.float64)
    if start < 0 or values.size < start + length or not (np.abs(values) < _MAX_DN).all():
        return np.zeros(length)
    return values[start : start + length]


def flatten_black(
    mosaic: NDArray[np.uint16],
    levels: LevelMap,
    kind: CfaKind,
    phase: tuple[int, int],
) -> tuple[NDArray[np.uint16], NDArray[np.float32], int]:
    """Raise photosites so that one black level holds for each place of the filter array's cell.

    Only what no level of a cell can say is put into the mosaic: differences between the cells of a
    larger pattern, and those of rows and columns.

    Parameters
    ----------
    mosaic : (H, W) uint16
    levels : LevelMap
    kind : "bayer" or "xtrans"
    phase : (dy, dx)

    Returns
    -------
    mosaic : (H, W) uint16
        The very array if there was nothing to do.
    black : (p, p) float32
        Level of each place of the cell, in DN of the returned mosaic. An X-Trans mosaic has one for
        each colour.
    scale : int
        What DN were multiplied by: more than 1 where differences have fractions, so that rounding
        does not leave stripes.
    """
    cell, differences = _cell_and_differences(levels, kind, phase)
    rows = levels.rows.max() - levels.rows
    columns = levels.columns.max() - levels.columns
    black = (cell + levels.rows.max() + levels.columns.max()).astype(np.float32)
    parts = (differences, rows, columns)
    if not any(part.any() for part in parts):
        return mosaic, black, 1
    scale = 1
    if not all(np.abs(part - part.round()).max() < _WHOLE for part in parts):
        highest = int(mosaic.max()) + sum(float(part.max()) for part in parts)
        while 2 * scale * highest <= _MAX_DN:
            scale *= 2
    flat = np.empty_like(mosaic)
    height, width = mosaic.shape
    across = np.resize(np.arange(differences.shape[1]), width)
    for top in range(0, height, _BAND_ROWS):
        band = slice(top, min(top + _BAND_ROWS, height))
        down = np.arange(band.start, band.stop) % differences.shape[0]
        raised = differences[down[:, None], across] + rows[band, None] + columns
        raised += mosaic[band]
        flat[band] = np.minimum(np.rint(raised * scale), _MAX_DN)
    return flat, black * np.float32(scale), scale


def _cell_and_differences(
    levels: LevelMap, kind: CfaKind, phase: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split a pattern into the highest level of each place of the cell, and how far it is below."""
    canonical = CANONICAL[kind]
    period = len(canonical)
    rows, columns = (lcm(side, period) for side in levels.pattern.shape)
    whole = np.tile(
        levels.pattern, (rows // levels.pattern.shape[0], columns // levels.pattern.shape[1])
    )
    blocks = whole.reshape(rows // period, period, columns // period, period)
    cell: NDArray[np.float64] = blocks.max(axis=(0, 2))
    if kind == "xtrans":  # a plane of the network's input holds several places of one colour
        colors = np.roll(canonical, (-phase[0], -phase[1]), axis=(0, 1))
        for color in range(3):
            cell[colors == color] = cell[colors == color].max()
    return cell, np.tile(cell, (rows // period, columns // period)) - whole


def stated_black(
    levels: Levels, kind: CfaKind, phase: tuple[int, int]
) -> NDArray[np.float32] | None:
    """Lay out a user's black level, (p, p) float32, from the mosaic's first photosite on."""
    if levels.black is None:
        return None
    colors = np.roll(CANONICAL[kind], (-phase[0], -phase[1]), axis=(0, 1))
    return np.resize(np.array(levels.black, np.float32), 3)[colors]


# ---------------------------------------------------------------- the border that no light reaches


def border_black(
    sensor: NDArray[np.uint16],
    visible: tuple[slice, slice],
    masked: Sequence[Sequence[int]] = (),
) -> float | None:
    """Measure the black level on the sensor's covered border.

    Parameters
    ----------
    sensor : (h, w) uint16
        All photosites.
    visible : (rows, columns)
        Slices of the visible area.
    masked : sequence of (top, left, bottom, right)
        Covered areas, where the file names them (MaskedAreas), the first few of them; else the
        margins are looked at.

    Returns
    -------
    float or None
        Median in DN of the largest area that looks covered: as dark as the darkest of the picture,
        with noise. None where there is no such area: many cameras fill their margins with anything.
    """
    inside = sensor[visible]
    darkest = float(np.percentile(inside[::7, ::7], 1))
    areas = [sensor[top:bottom, left:right] for top, left, bottom, right in masked[:_MOST_AREAS]]
    areas = areas or list(_margins(sensor, visible))
    levels: list[tuple[int, float]] = []
    for area in areas:
        if area.size < _LEAST_SITES:
            continue
        low, middle, high = np.percentile(area, (25, 50, 75))
        if high > low and middle <= darkest + 2 * (high - low):
            levels.append((area.size, float(middle)))
    return max(levels)[1] if levels else None


def _margins(
    sensor: NDArray[np.uint16], visible: tuple[slice, slice]
) -> Iterator[NDArray[np.uint16]]:
    rows, columns = visible
    height, width = sensor.shape
    down, across = rows.stop - rows.start, columns.stop - columns.start
    for area, thickness, side in (
        (sensor[: rows.start - _INNER_SITES], rows.start, down),
        (sensor[rows.stop + _INNER_SITES :], height - rows.stop, down),
        (sensor[rows, : columns.start - _INNER_SITES], columns.start, across),
        (sensor[rows, columns.stop + _INNER_SITES :], width - columns.stop, across),
    ):
        # What is wider is no border: some formats have a long line of which part is picture.
        if _LEAST_BORDER <= thickness <= side // 4:
            yield area


def contradicts(border: float, black: NDArray[np.floating], white: NDArray[np.floating]) -> bool:
    """Whether a border's level differs from the stated ones, by more than rounding and drift."""
    difference = min(abs(border - float(level)) for level in black.flat)
    reach = float((white - black).min())
    return difference > max(_CONTRADICTION_DN, _CONTRADICTION_SHARE * reach)
