"""Random crops, flips and transposes that keep the phase of the colour filter array.

A turned mosaic starts in another phase (`turn_frame`), and a network knows one. So a crop is taken
a period larger, turned, and cut to where the canonical phase begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.data.auxiliary import unknown_targets
from gia_cli.imaging.fusion import Measurement
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR, CfaKind, cell_from
from gia_cli.raw.packing import usable_gains
from gia_cli.raw.reader import RawFrame
from gia_cli.raw.turns import TURNS, Turn, turn_frame


@dataclass(frozen=True, slots=True)
class Pair:
    """A network's input, and the output that it should have."""

    planes: NDArray[np.float32] = field(repr=False)
    """(C, h, w) float32, as `packing.prepare` makes them."""
    target: NDArray[np.float32] = field(repr=False)
    """(3, s*h, s*w) float32 in [0, 1], BT.709-encoded."""
    auxiliary: NDArray[np.float32] = field(default_factory=unknown_targets, repr=False)
    """(AUXILIARY,) float32: what the vector should estimate; see `auxiliary_targets`."""
    measured: Measurement | None = field(default=None, repr=False)
    """What the picture is fused with; None where that is not asked for."""
    clean: NDArray[np.float32] | None = field(default=None, repr=False)
    """(C, h, w) float32; what the planes would be without noise and black level error, not clipped;
    None where that is not asked for."""


def draw_turn(rng: np.random.Generator) -> Turn:
    """Draw one of the eight turns, all alike."""
    return TURNS[int(rng.integers(len(TURNS)))]


@dataclass(frozen=True, slots=True)
class GivenBalance:
    """How training chooses the gains for a network that takes a white balance.

    The gains are a control: the target is the picture that a RAW converter makes with them
    (`rebalance_matrix`). So they often differ from the light's, as a photographer's do.
    """

    changed_share: float = 0.5
    """Share of photos whose gains are not the light's own."""
    changed_sigma: float = 0.15
    """By how much, in natural logarithms, red and blue each."""

    def draw(self, light: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw the gains (R, G, B), the smallest 1 or green 1, that a photo is balanced with."""
        gains = np.asarray(light, np.float64)
        if rng.random() < self.changed_share:
            red, blue = np.exp(rng.normal(0, self.changed_sigma, 2))
            gains = gains * (red, 1, blue)
        return usable_gains(gains)


def window(kind: CfaKind, side: int) -> int:
    """Photosites a side that a crop of `side` packed pixels reads, one period more than it is."""
    period: int = CANONICAL[kind].shape[0]
    return side * PACK_FACTOR[kind] + period


def crop(
    frame: RawFrame, target: NDArray[Any], *, top: int, left: int, side: int, turn: Turn
) -> tuple[RawFrame, NDArray[Any]]:
    """Cut the same square out of a mosaic and its picture, turned, in the canonical phase.

    Parameters
    ----------
    frame : RawFrame
    target : (H, W, 3)
        The picture of the same photosites.
    top, left : int
        Photosites; ``window(kind, side)`` rows and columns from there on must exist.
    side : int
        Packed pixels; for X-Trans even, so that whole periods fit.
    turn : Turn

    Returns
    -------
    RawFrame
        Phase (0, 0), ``side * s`` photosites a side; levels turned along. The white balances, which
        no network reads, stay.
    (s * side, s * side, 3)
        A view of `target`.

    Raises
    ------
    ValueError
        The window does not lie within the frame, or the side is no whole number of periods.
    """
    kind, period = frame.kind, CANONICAL[frame.kind].shape[0]
    size = side * PACK_FACTOR[kind]
    if size % period:
        raise ValueError(f"{side} packed px are not a whole number of periods")
    rows, cols = (slice(start, start + size + period) for start in (top, left))
    square = _cut(frame, rows, cols)
    if square.mosaic.shape != (size + period, size + period):
        raise ValueError("the crop does not lie within the frame")
    turned = turn_frame(square, turn)
    y, x = (-shift % period for shift in turned.phase)
    inner = (slice(y, y + size), slice(x, x + size))
    return _cut(turned, *inner), turn.apply(target[rows, cols])[inner]


def _cut(frame: RawFrame, rows: slice, cols: slice) -> RawFrame:
    """Cut a mosaic, with the phase and the levels of its new first photosite."""
    y, x = rows.start, cols.start
    dy, dx = frame.phase
    period = len(frame.black)
    return replace(
        frame,
        mosaic=frame.mosaic[rows, cols],
        phase=((dy + y) % period, (dx + x) % period),
        black=cell_from(frame.black, (y, x)),
        white=cell_from(frame.white, (y, x)),
    )


def draw_corner(shape: tuple[int, ...], size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw the top left corner of a square of `size` within (H, W, ...), all places alike."""
    top, left = (int(rng.integers(length - size + 1)) for length in shape[:2])
    return top, left
