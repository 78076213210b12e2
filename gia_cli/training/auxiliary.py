"""Heads and losses that only training needs; the shipped networks have none of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gia_cli.nets.base import Network, group_mean
from gia_cli.nets.unet import GiaNet
from gia_cli.simulation.torch_scene import bt709_encode
from gia_cli.training.initialise import VECTOR_GAIN

_CHECKERBOARD_BLOCK = 16  # packed pixels a side


class DeepSupervisionHeads(nn.Module):
    """Training-only 1x1 convolutions that read the picture off each coarse level of the decoder.

    Under a mean loss at the end alone the deep levels get gradients a million times smaller than
    the first layer's, and the shallow skips have answered long before they join in. Asked directly
    for the target averaged over their cells, they must carry its colour and brightness. The shipped
    network has no such heads.

    Parameters
    ----------
    widths : sequence of int
        Channels of each level, deepest first; see `Network.deep_widths`.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, 3, 1) for width in widths)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Features of each level, deepest first, to (N, 3, h, w) pictures."""
        return [head(level) for head, level in zip(self.heads, levels, strict=True)]


def deep_supervision_loss(pictures: list[Tensor], target: Tensor) -> Tensor:
    """Mean absolute error of coarse pictures against the target averaged over their cells."""
    errors = []
    for picture in pictures:
        cell = target.shape[2] // picture.shape[2]
        errors.append(F.l1_loss(picture.float(), F.avg_pool2d(target, cell)))
    return torch.stack(errors).mean()


def checkerboard_loss(picture: Tensor, target: Tensor, factor: int) -> Tensor:
    """Mean absolute deviation of sub-pixels' errors, averaged over blocks, from their own mean.

    The last layer has weights of its own for each sub-pixel; where their errors differ in the mean,
    flat areas show a pattern, too faint for a loss that sees pixels one by one. Blocks are of 16 x
    16 packed pixels; what is left of a crop at its right and bottom does not count.

    Parameters
    ----------
    picture, target : (N, 3, H, W)
    factor : int
        Side of a packed pixel in pixels.
    """
    errors = F.pixel_unshuffle(picture.float() - target, factor)
    means = F.avg_pool2d(errors, min(_CHECKERBOARD_BLOCK, *errors.shape[2:]))
    by_sub_pixel = means.reshape(len(means), -1, factor * factor, *means.shape[2:])
    checkerboard: Tensor = (by_sub_pixel - by_sub_pixel.mean(dim=2, keepdim=True)).abs().mean()
    return checkerboard


def raw_loss(raw: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error of the planes that the clean-RAW head shows.

    They are compared as the picture is, in BT.709 code values: in linear light the lamps of a night
    would count and its dark places would not. The head shows code values itself, so that its
    gradient in the dark is no steeper than elsewhere. Beyond white there is nothing to be told: the
    network's input is clipped there.

    Parameters
    ----------
    raw : (N, C, h, w)
        BT.709 code values.
    clean : (N, C, h, w)
        Linear; see `Pair.clean`.
    """
    error: Tensor = F.l1_loss(raw.float(), bt709_encode(clean.clamp(0, 1)))
    return error


def _with_targets(vector: Tensor, auxiliary: Tensor) -> Tensor:
    """Put known targets, (N, AUXILIARY), in the place of the vector's first numbers."""
    count = auxiliary.shape[1]
    truth = ((auxiliary - 0.5) / VECTOR_GAIN).to(vector.dtype)
    numbers = torch.where(truth.isnan(), vector[:, :count], truth)
    return torch.cat([numbers, vector[:, count:]], dim=1)


def auxiliary_loss(vector: Tensor, auxiliary: Tensor) -> Tensor:
    """Mean squared error of the auxiliary targets as the vector's first numbers estimate them.

    The vector learns these from the truth itself, because a picture's loss carries only a weak
    signal of them. The targets of real photos are unknown (NaN) and do not count.

    Parameters
    ----------
    vector : (N, V)
    auxiliary : (N, AUXILIARY)
        See `auxiliary_targets`.
    """
    is_known = ~auxiliary.isnan()
    estimated = 0.5 + VECTOR_GAIN * vector[:, : auxiliary.shape[1]].float()
    errors = torch.where(is_known, estimated - auxiliary.nan_to_num(), 0)
    return errors.square().sum() / is_known.sum().clamp(min=1)


class Trainee(nn.Module):
    """A network with what only training needs; what DistributedDataParallel wraps.

    Heads are for networks with coarse levels; the others get none. `raw_head` reads the packed
    planes without noise off the last map before the picture, as DNF (Jin et al. 2023) and RAWMamba
    (Chen et al. 2024) do with a decoder of their own: what is noise is learned from the mosaic
    itself, and not through a picture's colours.
    """

    def __init__(self, network: Network, *, with_heads: bool, with_raw_head: bool = False) -> None:
        super().__init__()
        self.network = network
        has_heads = with_heads and network.deep_widths
        self.heads = DeepSupervisionHeads(network.deep_widths) if has_heads else None
        has_raw_head = with_raw_head and network.top_width
        planes = network.config.in_channels
        self.raw_head = nn.Conv2d(network.top_width, planes, 1) if has_raw_head else None

    def forward(
        self,
        planes: Tensor,
        group: int,
        kept: Tensor | None = None,
        auxiliary: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor], Tensor | None, Tensor | None]:
        """(N, C, h, w) to the picture and what only training looks at.

        That is the coarse pictures (if there are heads), GIA's vector, and the planes without noise
        as `raw_head` shows them, (N, C, h, w) in BT.709 code values; None of what there is not.

        A network with coarse levels has its top skips multiplied by the factors `kept`, (S,): 0
        drops one (skip-connection dropout). A tensor, so that one compiled graph serves all steps.
        Where the true auxiliary targets, (N, AUXILIARY), are passed and known, the decoder gets
        them instead of the vector's own estimates (teacher forcing).
        """
        has_heads = self.heads is not None or self.raw_head is not None
        levels: list[Tensor] | None = [] if has_heads else None
        features = self.network.encode(planes)
        factors = () if kept is None or not self.network.deep_widths else kept.unbind()
        for level, factor in enumerate(factors):  # not left out: every parameter has a gradient
            features[level] = features[level] * factor
        vector = None
        if isinstance(self.network, GiaNet):
            vector = self.network.gia.vector(group_mean(features[-1], group))
            used = vector if auxiliary is None else _with_targets(vector, auxiliary)
            picture = self.network.decode(features, self.network.gia.spread(used), levels)
        else:
            picture = self.network.finish(features, group, levels)
        raw = None if self.raw_head is None or levels is None else self.raw_head(levels[-1])
        depth = [] if self.heads is None or levels is None else self.heads(levels[:-1])
        return picture, depth, vector, raw
