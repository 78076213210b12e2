"""Pieces that several networks share, and the banded evaluation that keeps big frames small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

#: Slope of every leaky ReLU (SID's published network).
LEAKY_SLOPE = 0.2

# Rows of a band: on a CPU a band of the widest level should stay in the cache (measured on 2 cores
# for a 512x768 frame: 32 and 64 rows alike, 16 and 128 slower by 5 to 10 %). Elsewhere taller ones
# would launch fewer kernels, but the planner counts on what this many rows need.
_BAND_ROWS = 32


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build two 3x3 convolutions, each with a leaky ReLU: (N, in, H, W) to (N, out, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    )


def by_bands(
    stage: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    rows_in: Sequence[int],
    rows_out: int,
    halo: int = 1,
) -> Tensor:
    """Evaluate a local stage of a network in horizontal bands; the result is the same.

    The intermediate results of the top levels dominate both the memory and, because they do not fit
    the cache, the time of a large frame. In bands only a stage's result exists as a whole.
    Outside inference (gradients on) the stage simply runs at once.

    Parameters
    ----------
    stage : function of the inputs
        Must see no more than `halo` units of rows beyond its own, and pad with zeros at the border
        of what it is given.
    inputs : tensors (N, C, H, W)
    rows_in : int for each input
        Rows of that input in one unit; all inputs hold the same number of units.
    rows_out : int
        Rows of the result in one unit.
    halo : int
        Units of context on each side.

    Returns
    -------
    Tensor (N, C', units * rows_out, W')
    """
    units = inputs[0].shape[2] // rows_in[0]
    band = max(_BAND_ROWS // max(rows_in), 1)
    if torch.is_grad_enabled() or units <= band:
        return stage(*inputs)
    result: Tensor | None = None
    for start in range(0, units, band):
        stop = min(start + band, units)
        first, last = max(start - halo, 0), min(stop + halo, units)
        pieces = [x[:, :, first * n : last * n] for x, n in zip(inputs, rows_in, strict=True)]
        piece = stage(*pieces)[:, :, (start - first) * rows_out : (stop - first) * rows_out]
        if result is None:
            result = _empty_rows(piece, units * rows_out)
        result[:, :, start * rows_out : stop * rows_out] = piece
    assert result is not None  # units > band >= 1
    return result


def _empty_rows(piece: Tensor, rows: int) -> Tensor:
    count, channels, _, width = piece.shape
    shape = (count, channels, rows, width)
    # A last stage's few channels go back to the caller as planes; the others stay channels_last.
    is_picture = channels == 3
    layout = torch.contiguous_format if is_picture else torch.channels_last
    return torch.empty(shape, dtype=piece.dtype, device=piece.device, memory_format=layout)
