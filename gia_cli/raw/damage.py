"""Signs in a decoded mosaic that its file was damaged, where the decoder has not noticed.

A decoder that finds no data leaves zeros, or repeats the last value that it had. A sensor does
neither: its noise reaches every row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# So many rows of nothing but zeros in the midst of a picture, at the least. Where black is 0 they
# could be darkness, whose noise is cut off; not so many of them.
_DEAD_ROWS, _DEAD_ROWS_WITHOUT_BLACK = 8, 32
# At the edge a few may be the camera's own: margins that LibRaw takes for picture.
_DEAD_EDGE_SHARE = 0.02
# More photosites than this at DN 0, where black lies above it, means that nothing was decoded.
_ZERO_SHARE = 0.25
# A picture with fewer other values than this elsewhere has hardly any light, and may have rows
# without.
_LIT_SHARE = 0.25
# So many rows of one value each. Where it is this near to white, it is the sun.
_FLAT_ROWS = 32
_SATURATED = 0.9
# So many blocks of so many photosites a side hold nothing: a tile of the file.
_BLOCK, _DEAD_BLOCKS = 16, 4
_PROBE = 32  # photosites of each row that are looked at first
# A row with noise: so many photosites differ from the next of their colour.
_NOISY_SHARE = 0.5


def is_damaged(mosaic: NDArray[np.uint16], black: float, white: float) -> bool:
    """Tell whether parts of a mosaic hold nothing because they were not decoded.

    Parameters
    ----------
    mosaic : (H, W) uint16
        DN, the visible area, as decoded.
    black, white : float
        Lowest black and saturation level in DN.
    """
    return _has_zeros(mosaic, black) or _has_flat_rows(mosaic, black, white)


def _has_zeros(mosaic: NDArray[np.uint16], black: float) -> bool:
    lit = int(np.count_nonzero(mosaic))
    if black > 0 and lit < (1 - _ZERO_SHARE) * mosaic.size:
        return True
    if lit == 0 or _has_zero_lines(mosaic, black, lit) or _has_zero_lines(mosaic.T, black, lit):
        return True
    return black > 0 and _has_zero_blocks(mosaic)


def _has_zero_lines(mosaic: NDArray[np.uint16], black: float, lit: int) -> bool:
    """Look for runs of rows that hold nothing; `lit` photosites of the mosaic hold something."""
    height, width = mosaic.shape
    dead = np.asarray(~mosaic[:, :_PROBE].any(axis=1))
    dead[dead] = ~mosaic[dead].any(axis=1)
    if lit < _LIT_SHARE * width * np.count_nonzero(~dead):
        return False
    least = _DEAD_ROWS if black > 0 else _DEAD_ROWS_WITHOUT_BLACK
    edge = max(least, int(_DEAD_EDGE_SHARE * height))
    return any(
        stop - start >= (edge if start == 0 or stop == height else least)
        for start, stop in _runs(dead)
    )


def _has_zero_blocks(mosaic: NDArray[np.uint16]) -> bool:
    """Look for a tile that holds nothing, off the edges, in a mosaic whose black lies above 0."""
    top, left = (max(1, int(_DEAD_EDGE_SHARE * side)) for side in mosaic.shape)
    inner = mosaic[top:-top, left:-left]
    rows, columns = (side // _BLOCK for side in inner.shape)
    blocks = inner[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    places = zip(*np.nonzero(~blocks[:, ::4, :, ::4].any(axis=(1, 3))), strict=True)
    dead = sum(not blocks[row, :, column].any() for row, column in places)
    return dead >= _DEAD_BLOCKS


def _has_flat_rows(mosaic: NDArray[np.uint16], black: float, white: float) -> bool:
    """Look for rows of one value for each colour, in a picture that has noise elsewhere.

    Black itself is left out: simulated exposures without noise have such rows, where their
    photograph has a black bar.
    """
    if mosaic.shape[1] < _PROBE:
        return False
    flat = _are_flat(mosaic[:, :_PROBE])
    flat[flat] = _are_flat(mosaic[flat])
    flat &= mosaic[:, :2].max(axis=1) < _SATURATED * white
    flat &= (mosaic[:, :2] != black).any(axis=1)
    if not any(stop - start >= _FLAT_ROWS for start, stop in _runs(flat)):
        return False
    others = mosaic[~flat]
    changes = np.count_nonzero(others[:, 2:] != others[:, :-2], axis=1)
    return bool((changes > _NOISY_SHARE * others.shape[1]).any())


def _are_flat(rows: NDArray[np.uint16]) -> NDArray[np.bool_]:
    return np.asarray((rows[:, 2:] == rows[:, :-2]).all(axis=1))


def _runs(rows: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield first and last, exclusive, of each run of rows that are set."""
    steps = np.flatnonzero(np.diff(np.concatenate(([0], rows.view(np.int8), [0]))))
    yield from zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True)
