"""Take mottle out of a picture: blotches of colour in places where the lightness shows nothing.

At night a network has to guess the colour of each place from few photons, so it guesses neighbours
a little differently, over 8 to 32 px. A guided filter (He, Sun and Tang, 2010) keeps of the chroma
in a window what follows the lightness there, and evens out the rest. It works on cells of 2 px, as
its authors do for speed (2015).

How much mottle there is, the picture tells itself: half of all places change by less than the
median of the filter's changes. What would change by many times that is no mottle but an edge of
colours alone, and stays. So a picture without noise is hardly changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gia_cli.imaging.arrays import (
    Array,
    brought,
    empty,
    fetched,
    in_bands,
    mixed,
    namespace,
    through,
)
from gia_cli.imaging.fusion import LUMINANCE, cell_means, enlarged, row_bands

_CELL = 2  # px
_RADIUS = 4  # cells; of the window, which so is as wide as mottle
#: Variance of the lightness, in code values squared, from which on chroma follows it: edges count,
#: noise and mottle of the lightness do not.
_GUIDE_VARIANCE = 1e-3
#: Medians around which changes fade out: beyond, they are those of an edge.
_LIMIT = 3.0
_CELLS_SKIPPED = 3  # along rows and columns; the median of 3 megapixels needs not all of them

# Of BT.709: Y is the weighted sum; Cb and Cr are blue's and red's distance from it.
_TO_CHROMA = (np.eye(3, dtype=np.float32)[[2, 0]] - LUMINANCE) / np.array([[1.8556], [1.5748]])
_FROM_CHROMA: NDArray[np.float64] = np.linalg.inv(np.vstack([LUMINANCE, _TO_CHROMA]))[:, 1:]


def smooth_chroma(picture: Array) -> None:
    """Even out mottle; in its place. The luma stays as it is.

    Works in bands of rows: in threads, or on the device where the picture is. Beside the picture it
    holds 6 bytes for each pixel, and less than `fuse` does for each thread.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded, not necessarily clipped: an array, or a tensor on any device.
    """
    _, height, width = picture.shape
    rows, cols = -(-height // _CELL), -(-width // _CELL)
    cells = empty((3, rows, cols), picture)

    def shrink(at: slice) -> None:
        means = cell_means(picture[:, _CELL * at.start : _CELL * at.stop], _CELL)
        cells[0, at] = mixed(LUMINANCE, means)
        cells[1:, at] = through(_TO_CHROMA, means)

    change = empty((2, rows, cols), picture)
    size = empty((rows, cols), picture)

    def compare(at: slice) -> None:
        around = slice(max(at.start - 2 * _RADIUS, 0), min(at.stop + 2 * _RADIUS, rows))
        inner = slice(at.start - around.start, at.stop - around.start)
        change[:, at] = _smoothed(cells[:, around])[:, inner]
        change[:, at] -= cells[1:, at]
        size[at] = (change[:, at] ** 2).sum(0)

    in_bands(shrink, row_bands(cells), picture)
    in_bands(compare, row_bands(cells), picture)
    step = _CELLS_SKIPPED
    limit = _LIMIT**2 * float(np.median(fetched(size[::step, ::step])))
    if not limit > 0:
        return  # no colours, or no number

    def alter(at: slice) -> None:
        band = picture[:, at]
        band += through(_FROM_CHROMA, enlarged(change, (height, width), _CELL, at))

    def weigh(at: slice) -> None:
        change[:, at] *= namespace(size).exp(size[at] / -limit)

    in_bands(weigh, row_bands(cells), picture)
    in_bands(alter, row_bands(picture), picture)


def _smoothed(cells: Array) -> Array:
    """Filter chroma guided by luma: (3, h, w) to (2, h, w); windows end at the borders."""
    luma = cells[0]
    _, height, width = cells.shape
    moments = empty((6, height, width), cells)
    moments[:3] = cells
    moments[3:] = cells * luma
    moments = _box_means(moments)
    mean, mean_chroma = moments[0], moments[1:3]
    lines = empty((4, height, width), cells)
    variance = moments[3] - mean * mean
    slope, offset = lines[:2], lines[2:]
    slope[:] = (moments[4:] - mean_chroma * mean) / (variance + _GUIDE_VARIANCE)
    offset[:] = mean_chroma - slope * mean
    lines = _box_means(lines)
    return lines[:2] * luma + lines[2:]


def _box_means(planes: Array) -> Array:
    """Average over windows, of which only the part within the planes counts: (n, h, w)."""
    for axis in (1, 2):
        before, length = (slice(None),) * axis, planes.shape[axis]
        total = empty(planes.shape, planes)
        total[:] = planes
        for away in range(1, min(_RADIUS, length - 1) + 1):
            low, high = (*before, slice(-away)), (*before, slice(away, None))
            total[low] += planes[high]
            total[high] += planes[low]
        places = np.arange(length)
        first, last = np.maximum(places - _RADIUS, 0), np.minimum(places + _RADIUS, length - 1)
        number = (last - first + 1).astype(np.float32)
        total /= brought(number[:, None] if axis == 1 else number, total)
        planes = total
    return planes
