"""Tile geometry: which cores cover a plane, and how much around each must be read.

`inference.run` runs a network in them, with one vector for all, and is what keeps them exact.
Knows no network: a network states its stride and halo, this module does the arithmetic. Sizes are
in packed pixels. Cores partition the frame; every read region is its core plus the halo, cut off at
the frame, where the network must see the same border as it does on the whole frame.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a tile: the core, and the region to read for it; half-open intervals."""

    core_start: int
    core_stop: int
    read_start: int
    read_stop: int

    @property
    def core_in_read(self) -> tuple[int, int]:
        """Where the core lies within what was read."""
        return self.core_start - self.read_start, self.core_stop - self.read_start


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the frame, by rows and columns."""

    rows: Span
    cols: Span

    @property
    def read_shape(self) -> tuple[int, int]:
        """Rows and columns that the network computes for this tile."""
        rows, cols = self.rows, self.cols
        return rows.read_stop - rows.read_start, cols.read_stop - cols.read_start


def round_up(size: int, step: int) -> int:
    """Round `size` up to a multiple of `step`."""
    return -(-size // step) * step


def spans(size: int, core: int, halo: int, stride: int) -> list[Span]:
    """Cut one axis into cores of `core` pixels, each with a halo on both sides.

    Parameters
    ----------
    size : int
        Length of the axis, a multiple of `stride`.
    core : int
        Core length, a multiple of `stride`; the last core may be shorter.
    halo : int
        Context that the network needs on each side; rounded up to a multiple of `stride`, so that
        pooling cells fall as on the whole frame.
    stride : int

    Raises
    ------
    ValueError
        `size` or `core` is not a positive multiple of `stride`.
    """
    margin = _margin(size, core, halo, stride)
    starts = range(0, size, core)
    return [
        Span(start, stop, max(start - margin, 0), min(stop + margin, size))
        for start, stop in ((start, min(start + core, size)) for start in starts)
    ]


def _margin(size: int, core: int, halo: int, stride: int) -> int:
    """Check an axis and its cores, and round the halo up to the stride."""
    if size % stride or core % stride or core <= 0 or size <= 0:
        raise ValueError(f"size {size} and core {core} must be positive multiples of {stride}")
    return round_up(halo, stride)


def even_spans(size: int, core: int, halo: int, stride: int) -> list[Span]:
    """Cut one axis so that every region to read has the same length, and as few as `spans` do.

    The cores at either end, which need a halo on one side only, are longer by it.

    Parameters
    ----------
    size, halo, stride : int
        As for `spans`.
    core : int
        Longest core between others, a multiple of `stride`.

    Raises
    ------
    ValueError
        As `spans`.
    """
    margin = _margin(size, core, halo, stride)
    if core + 2 * margin >= size:
        return [Span(0, size, 0, size)]
    count = -(-(size - 2 * margin) // core)
    length = round_up(-(-(size - 2 * margin) // count), stride) + 2 * margin
    edges = [0, *(length - margin + i * (length - 2 * margin) for i in range(count - 1)), size]
    starts = [min(max(edge - margin, 0), size - length) for edge in edges[:-1]]
    return [
        Span(core_start, core_stop, start, start + length)
        for core_start, core_stop, start in zip(edges[:-1], edges[1:], starts, strict=True)
    ]


def even_tiles(
    height: int, width: int, core: tuple[int, int], halo: int, stride: int
) -> list[Tile]:
    """Cut a frame into tiles of which all are read at one size; see `tiles` and `even_spans`."""
    row_spans = even_spans(height, core[0], halo, stride)
    col_spans = even_spans(width, core[1], halo, stride)
    return [Tile(rows, cols) for rows in row_spans for cols in col_spans]


def tiles(height: int, width: int, core: tuple[int, int], halo: int, stride: int) -> list[Tile]:
    """Cut a frame into tiles, row by row.

    Parameters
    ----------
    height, width : int
        Frame size in packed pixels, multiples of `stride`.
    core : (rows, columns)
        Core size; at least the frame's size means one tile, which is the whole frame.
    halo, stride : int
        As the network states them.
    """
    row_spans = spans(height, min(core[0], height), halo, stride)
    col_spans = spans(width, min(core[1], width), halo, stride)
    return [Tile(rows, cols) for rows in row_spans for cols in col_spans]
