"""Colour filter array geometry: find the phase, align to it, pack to planes, unpack.

A mosaic is a 2-D array with one colour sample per photosite. A network wants planes in which every
pixel is the same colour, at 1/2 (Bayer) or 1/3 (X-Trans) of the size. Its weights know one phase
only: RGGB for Bayer and RBGBRG for X-Trans, so every other phase is first brought to it.

Colour ids here are 0 R, 1 G, 2 B; the two greens of a Bayer cell differ only in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gia_cli.cameras import CfaKind as CfaKind

#: Bayer's canonical phase: R G / G B.
RGGB: NDArray[np.uint8] = np.array([[0, 1], [1, 2]], np.uint8)

#: X-Trans's canonical phase (X-Trans III, SID's packing): the first row reads R B G B R G.
XTRANS: NDArray[np.uint8] = np.array(
    [
        [0, 2, 1, 2, 0, 1],
        [1, 1, 0, 1, 1, 2],
        [1, 1, 2, 1, 1, 0],
        [2, 0, 1, 0, 2, 1],
        [1, 1, 2, 1, 1, 0],
        [1, 1, 0, 1, 1, 2],
    ],
    np.uint8,
)

CANONICAL: dict[CfaKind, NDArray[np.uint8]] = {"bayer": RGGB, "xtrans": XTRANS}

#: Photosites per plane pixel, along one side; also the network's pixel-shuffle factor.
PACK_FACTOR: dict[CfaKind, int] = {"bayer": 2, "xtrans": 3}

#: Colour id of each plane after packing.
PLANE_COLORS: dict[CfaKind, tuple[int, ...]] = {
    "bayer": (0, 1, 2, 1),
    "xtrans": (0, 1, 2, 0, 2, 1, 1, 1, 1),
}

# X-Trans planes 0 to 4 interleave four samples of the 6x6 cell into a 2x2 block of the plane:
# (even row, even col), (even, odd), (odd, even), (odd, odd), each as (row, column) in the cell.
# SID's published packing ("Learning to See in the Dark", 2018, its Fuji code) defines them.
_XTRANS_INTERLEAVED = (
    ((0, 0), (0, 4), (3, 1), (3, 3)),
    ((0, 2), (0, 5), (3, 2), (3, 5)),
    ((0, 1), (0, 3), (3, 0), (3, 4)),
    ((1, 2), (2, 5), (5, 2), (4, 5)),
    ((2, 2), (1, 5), (4, 2), (5, 5)),
)
# Planes 5 to 8 are greens that repeat every 3 photosites.
_XTRANS_GREENS = ((1, 0), (1, 1), (2, 0), (2, 1))


def cell_from(cell: NDArray[Any], start: tuple[int, int]) -> NDArray[Any]:
    """Return a repeating cell as it is from another photosite, `start` (row, column), on.

    Examples
    --------
    >>> cell_from(np.array([[0, 1], [2, 3]]), (1, 0)).tolist()
    [[2, 3], [0, 1]]
    """
    y, x = start
    return np.roll(cell, (-y, -x), axis=(0, 1))


def cell_colors(kind: CfaKind, phase: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the colours of a mosaic's cell from its own first photosite on.

    Parameters
    ----------
    kind : "bayer" or "xtrans"
    phase : (dy, dx)
        As `find_phase` returns it.

    Returns
    -------
    (p, p) uint8
        Colour ids; p is 2 or 6.

    Examples
    --------
    >>> cell_colors("bayer", (0, 1)).tolist()
    [[1, 0], [2, 1]]
    """
    return cell_from(CANONICAL[kind], phase)


@dataclass(frozen=True, slots=True)
class Alignment:
    """How many photosites were added on each side to reach the canonical phase and whole cells."""

    top: int
    left: int
    bottom: int
    right: int


def classify(pattern: NDArray[np.uint8]) -> CfaKind | None:
    """Name the colour filter array that a repeat pattern belongs to.

    Parameters
    ----------
    pattern : (12, 12) or larger uint8
        Colour ids from the mosaic's top left corner on.

    Returns
    -------
    "bayer", "xtrans" or None
        None for everything else (quad Bayer, one colour, four colours).

    Examples
    --------
    >>> classify(np.tile(XTRANS, (2, 2)))
    'xtrans'
    >>> classify(np.ones((12, 12), np.uint8)) is None
    True
    """
    for kind in ("bayer", "xtrans"):
        if find_phase(pattern, kind) is not None:
            return kind
    return None


def find_phase(pattern: NDArray[np.uint8], kind: CfaKind) -> tuple[int, int] | None:
    """Find how far the canonical phase lies before the mosaic's first photosite.

    Parameters
    ----------
    pattern : (h, w) uint8
        Colour ids from the mosaic's top left corner on; at least one cell.
    kind : "bayer" or "xtrans"

    Returns
    -------
    (dy, dx) or None
        ``pattern[y, x] == canonical[(y + dy) % p, (x + dx) % p]``. Of several answers (X-Trans
        repeats at (3, 3) too) the one that needs the fewest added rows and columns; None when the
        pattern is of another kind.

    Examples
    --------
    A mosaic that starts with G R / B G lacks the first column of R G / G B.

    >>> find_phase(np.array([[1, 0], [2, 1]], np.uint8), "bayer")
    (0, 1)
    """
    canonical = CANONICAL[kind]
    period = canonical.shape[0]
    height, width = pattern.shape
    rows, cols = np.arange(height)[:, None], np.arange(width)[None]
    shifts = sorted(np.ndindex(period, period), key=lambda shift: (sum(shift), shift))
    for dy, dx in shifts:
        if np.array_equal(canonical[(rows + dy) % period, (cols + dx) % period], pattern):
            return int(dy), int(dx)
    return None


def align(
    mosaic: NDArray[np.uint16], phase: tuple[int, int], kind: CfaKind
) -> tuple[NDArray[np.uint16], Alignment]:
    """Add photosites so that the mosaic starts in the canonical phase and holds whole cells.

    Nothing is cut off: an added row copies the row one period away, which has the same colours.
    For a Bayer mosaic that is one row of reflect padding.

    Parameters
    ----------
    mosaic : (H, W) uint16
    phase : (dy, dx)
        As `find_phase` returns it.
    kind : "bayer" or "xtrans"

    Returns
    -------
    aligned : (H', W') uint16
        H' and W' are multiples of the period (2 or 6).
    Alignment
        What to cut off the result to come back to the mosaic.

    Examples
    --------
    The first column is added in front: it has the colours of the second. Then the last is missing.

    >>> aligned, added = align(np.array([[11, 12], [21, 22]], np.uint16), (0, 1), "bayer")
    >>> aligned.tolist()
    [[12, 11, 12, 11], [22, 21, 22, 21]]
    >>> added
    Alignment(top=0, left=1, bottom=0, right=1)
    """
    period = CANONICAL[kind].shape[0]
    top, left = phase
    height, width = mosaic.shape
    added = Alignment(top, left, -(height + top) % period, -(width + left) % period)
    if added == Alignment(0, 0, 0, 0):
        return mosaic, added
    rows = _periodic_indices(height, added.top, added.bottom, period)
    cols = _periodic_indices(width, added.left, added.right, period)
    return mosaic[rows[:, None], cols[None]], added


def _periodic_indices(size: int, before: int, after: int, period: int) -> NDArray[np.intp]:
    index = np.arange(-before, size + after)
    index[index < 0] += period
    index[index >= size] -= period
    return index


def pack(aligned: NDArray[Any], kind: CfaKind, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Pack an aligned mosaic to planes (Bayer 4 x H/2 x W/2, X-Trans 9 x H/3 x W/3).

    Parameters
    ----------
    aligned : (H, W), any dtype
        In the canonical phase; H and W multiples of the period.
    kind : "bayer" or "xtrans"
    dtype : optional
        Of the planes; by default the mosaic's.

    Returns
    -------
    (C, H/s, W/s)
        Bayer: R, G1, B, G2 (LibRaw's colour order, which the weights know). X-Trans: SID's nine.

    Examples
    --------
    >>> pack(np.array([[10, 20], [21, 30]]), "bayer").ravel().tolist()
    [10, 20, 30, 21]
    >>> pack(np.zeros((12, 18)), "xtrans").shape
    (9, 4, 6)
    """
    height, width = aligned.shape
    factor = PACK_FACTOR[kind]
    shape = len(PLANE_COLORS[kind]), height // factor, width // factor
    planes = np.empty(shape, aligned.dtype if dtype is None else dtype)
    for plane, rows, cols, y, x, period in _sites(kind):
        planes[plane][rows, cols] = aligned[y::period, x::period]
    return planes


def unpack(planes: NDArray[Any], kind: CfaKind) -> NDArray[Any]:
    """Undo `pack`: planes back to an aligned mosaic.

    Parameters
    ----------
    planes : (C, h, w), any dtype
    kind : "bayer" or "xtrans"

    Returns
    -------
    (s*h, s*w), the same dtype

    Examples
    --------
    >>> mosaic = np.arange(6 * 12).reshape(6, 12)
    >>> all(np.array_equal(unpack(pack(mosaic, kind), kind), mosaic) for kind in CANONICAL)
    True
    """
    factor = PACK_FACTOR[kind]
    _, height, width = planes.shape
    aligned = np.empty((height * factor, width * factor), planes.dtype)
    for plane, rows, cols, y, x, period in _sites(kind):
        aligned[y::period, x::period] = planes[plane][rows, cols]
    return aligned


def _sites(kind: CfaKind) -> list[tuple[int, slice, slice, int, int, int]]:
    """List (plane, plane rows, plane columns, cell row, cell column, period) of every sample."""
    whole, even, odd = slice(None), slice(0, None, 2), slice(1, None, 2)
    if kind == "bayer":
        cells = ((0, 0), (0, 1), (1, 1), (1, 0))
        return [(plane, whole, whole, y, x, 2) for plane, (y, x) in enumerate(cells)]
    quarters = ((even, even), (even, odd), (odd, even), (odd, odd))
    sites = [
        (plane, rows, cols, y, x, 6)
        for plane, cell in enumerate(_XTRANS_INTERLEAVED)
        for (rows, cols), (y, x) in zip(quarters, cell, strict=True)
    ]
    greens = [(5 + i, whole, whole, y, x, 3) for i, (y, x) in enumerate(_XTRANS_GREENS)]
    return sites + greens


def plane_values(
    cell: NDArray[np.float32], kind: CfaKind, phase: tuple[int, int]
) -> NDArray[np.float32]:
    """Turn one value for each place of the mosaic's cell into one for each plane.

    Parameters
    ----------
    cell : (p, p) float32
        From the mosaic's own first photosite on; equal for places of one plane (an X-Trans plane
        holds four places, all of one colour).
    kind : "bayer" or "xtrans"
    phase : (dy, dx)

    Returns
    -------
    (C,) float32
    """
    dy, dx = phase
    return pack(cell_from(cell, (-dy, -dx)), kind)[:, 0, 0]
