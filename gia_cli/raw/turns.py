"""The eight ways to lay a mosaic: flips and the transpose.

A flipped mosaic starts in another phase of its colour filter array, which is found again: geometry
stays true, unlike with flipped planes, whose colours would sit on the wrong side of their cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.raw.cfa import cell_colors, find_phase
from gia_cli.raw.reader import RawFrame


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the eight ways to lay a rectangle: flips first, then the transpose."""

    flip_rows: bool = False
    flip_cols: bool = False
    transpose: bool = False

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn the first two axes; a view."""
        array = self._flip(array)
        return array.swapaxes(0, 1) if self.transpose else array

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn the first two axes back: undoes `apply`; a view."""
        return self._flip(array.swapaxes(0, 1) if self.transpose else array)

    def _flip(self, array: NDArray[Any]) -> NDArray[Any]:
        return array[:: -1 if self.flip_rows else 1, :: -1 if self.flip_cols else 1]


#: All eight; the first changes nothing.
TURNS = [Turn(bool(i & 1), bool(i & 2), bool(i & 4)) for i in range(8)]


def turn_frame(frame: RawFrame, turn: Turn) -> RawFrame:
    """Turn a photo as the sensor would have recorded it, had it lain so.

    Parameters
    ----------
    frame : RawFrame
    turn : Turn

    Returns
    -------
    RawFrame
        The mosaic is a view. Levels and phase are those of its new first photosite. The
        orientation, `flip`, is 0; the white balances and the matrix stay.
    """
    colors = cell_colors(frame.kind, frame.phase)
    height, width = frame.mosaic.shape
    at = np.ix_(
        _first_places(height, len(colors), flipped=turn.flip_rows),
        _first_places(width, len(colors), flipped=turn.flip_cols),
    )

    def turned(cell: NDArray[Any]) -> NDArray[Any]:
        return cell[at].T if turn.transpose else cell[at]

    phase = find_phase(turned(colors), frame.kind)
    assert phase is not None  # a turned Bayer or X-Trans array is one again
    return replace(
        frame,
        mosaic=turn.apply(frame.mosaic),
        phase=phase,
        black=turned(frame.black),
        white=turned(frame.white),
        flip=0,
    )


def _first_places(length: int, period: int, *, flipped: bool) -> NDArray[np.intp]:
    """Places in the cell of the first photosites of an axis, once it is turned."""
    steps = np.arange(period)
    return (length - 1 - steps) % period if flipped else steps
