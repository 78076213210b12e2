"""Pieces that several networks share, and the banded evaluation that keeps big frames small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gia_cli.nets.config import LEAKY_SLOPE
from gia_cli.raw.cfa import PLANE_COLORS, CfaKind
from gia_cli.runtime import without_autocast

# Rows of a band: on a CPU a band of the widest level should stay in the cache (measured on 2 cores
# for a 512x768 frame: 32 and 64 rows alike, 16 and 128 slower by 5 to 10 %).
_BAND_ROWS = 32
# Elsewhere a band should keep a whole card busy and launch few kernels: for 12 megapixels SID-Net
# takes 176 of them, and 1,118 with 32 rows.
_TALL_BAND_ROWS = 256
#: Most pixels of such a band; its memory is counted beside that of a frame.
TALL_BAND_AREA = _TALL_BAND_ROWS * 2048
# Bands compute their halo in vain: it shall be no more than a quarter of their own rows.
_BAND_HALOS = 8


def conv3x3(in_channels: int, out_channels: int, *, dilation: int = 1) -> nn.Conv2d:
    """Build a 3x3 convolution that keeps the size: (N, in, H, W) to (N, out, H, W)."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)


def double_conv(
    in_channels: int, out_channels: int, conv: Callable[[int, int], nn.Module] = conv3x3
) -> nn.Sequential:
    """Build two convolutions, each with a leaky ReLU: (N, in, H, W) to (N, out, H, W)."""
    return nn.Sequential(
        conv(in_channels, out_channels),
        nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
        conv(out_channels, out_channels),
        nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    )


class ChannelGate(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): a mean over the frame to a factor for each channel.

    Two 1x1 convolutions, to `channels / reduction` with a ReLU and back with a sigmoid; both with a
    bias.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, max(channels // reduction, 1), 1)
        self.excite = nn.Conv2d(max(channels // reduction, 1), channels, 1)

    def forward(self, mean: Tensor) -> Tensor:
        """(N, C) to (N, C) in (0, 1)."""
        gate: Tensor = torch.sigmoid(self.excite(F.relu(self.squeeze(mean[:, :, None, None]))))
        return gate[:, :, 0, 0]


def scale_channels(x: Tensor, gate: Tensor | None) -> Tensor:
    """(N, C, H, W) times (N, C); no gate leaves all as it is."""
    return x if gate is None else x * gate[:, :, None, None]


def shuffled_picture(conv: nn.Conv2d, x: Tensor, scale: int) -> Tensor:
    """Apply a network's last convolution and shuffle: (N, C, H, W) to (N, 3, scale*H, scale*W).

    At least in fp32 whatever the rest computes in, under autocast too: half precision holds 10 bits
    or fewer near white, and the picture is to have 16.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    bias = None if conv.bias is None else conv.bias.to(wide)
    with without_autocast(x.device.type):
        rgb = F.conv2d(x.to(wide), conv.weight.to(wide), bias, padding=conv.padding)
    return F.pixel_shuffle(rgb, scale)


def mosaic_picture(planes: Tensor, cfa: CfaKind, scale: int) -> Tensor:
    """Fill each cell of the mosaic with its mean colour: what a residual is a residual of.

    A denoiser that predicts a correction of its input needs an input of the picture's shape. This
    is the plainest one without parameters: all sub-pixels of a packed pixel get the mean of its
    planes of each colour. It is in the mosaic's linear scale, without white balance.

    Parameters
    ----------
    planes : (N, C, H, W)
    cfa : "bayer" or "xtrans"
    scale : int

    Returns
    -------
    (N, 3, scale*H, scale*W)
        At least fp32.
    """
    wide = planes.to(torch.promote_types(planes.dtype, torch.float32))
    of_color = [
        [plane for plane, other in enumerate(PLANE_COLORS[cfa]) if other == color]
        for color in range(3)
    ]
    # Slices: a list of numbers would be sent to a GPU, which waits for it, in every pass.
    colors = torch.stack(
        [
            torch.cat([wide[:, plane : plane + 1] for plane in members], dim=1).contiguous().mean(1)
            for members in of_color
        ],
        dim=1,
    )
    return F.interpolate(colors, scale_factor=scale, mode="nearest")


def in_sequence(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Evaluate single 3x3 convolutions one after the other, each in bands (see `by_bands`)."""
    for block in blocks:
        x = by_bands(block, [x], rows_in=[1], rows_out=1)
    return x


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
    if torch.is_grad_enabled():
        return stage(*inputs)
    units = inputs[0].shape[2] // rows_in[0]
    finest = max(zip(rows_in, inputs, strict=True), key=lambda each: each[0])[1]
    band = max(_band_rows(finest) // max(rows_in), _BAND_HALOS * halo, 1)
    if units <= band:
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


def _band_rows(x: Tensor) -> int:
    if x.device.type == "cpu":
        return _BAND_ROWS
    return min(_TALL_BAND_ROWS, max(TALL_BAND_AREA // x.shape[3], _BAND_ROWS))


def _empty_rows(piece: Tensor, rows: int) -> Tensor:
    count, channels, _, width = piece.shape
    shape = (count, channels, rows, width)
    # A last stage's few channels go back to the caller as planes; the others stay channels_last.
    is_picture = channels == 3
    layout = torch.contiguous_format if is_picture else torch.channels_last
    return torch.empty(shape, dtype=piece.dtype, device=piece.device, memory_format=layout)
