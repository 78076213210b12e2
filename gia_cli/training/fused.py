"""Fusion in the training loop: the network learns what the measurement cannot show.

What a picture becomes is computed by `imaging.fusion` itself, so that training and use cannot
drift apart; how the network is to change follows from the same bands in torch. There the sensor
counts as one that sees all three colours everywhere: for a gradient that is near enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gia_cli.imaging.color import XYZ_FROM_SRGB
from gia_cli.imaging.fusion import LEVELS, Measurement, Shares, fuse
from gia_cli.raw.cfa import PACK_FACTOR


def fused_picture(
    picture: Tensor,
    measured: Sequence[Measurement],
    shares: Shares,
    teacher: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Fuse pictures with what the sensor measured, differentiably.

    A teacher's pictures are fused beside them, each band by the same share: so the two differ only
    in what the measurement leaves to a network, and nothing is learned of a teacher's bands that
    never show, for which a teacher that was trained so was not asked either.

    Parameters
    ----------
    picture : (N, 3, H, W)
        BT.709-encoded, as the network made it.
    measured : sequence of N Measurement
    shares : Shares
    teacher : (N, 3, H, W), optional
        BT.709-encoded, without a gradient.

    Returns
    -------
    (N, 3, H, W)
        What `fuse` makes of each. Its gradient is that of the share of each band that the network's
        picture keeps; where a picture is clipped, it is passed on unchanged.
    (N, 3, H, W) or None
        The same of the teacher's, to first order; without a gradient.
    """
    plain = picture.detach().float().cpu().numpy()
    fused = np.array(plain)
    found: list[list[NDArray[np.float32]]] = []
    for own, of in zip(fused, measured, strict=True):
        residual = fuse(own, of, shares)
        places = [residual.brightness[max(level - 1, 0)] for level in range(LEVELS)]
        found.append([np.stack(residual.shares_at(i, at, shares)) for i, at in enumerate(places)])
    by_level = [torch.from_numpy(np.stack(levels)) for levels in zip(*found, strict=True)]
    by_level = [x.to(picture) for x in by_level]
    scale = PACK_FACTOR[measured[0].kind]
    kept = _kept(picture, by_level, scale)
    added = (torch.from_numpy(fused).to(picture) - kept).detach()
    return kept + added, None if teacher is None else _kept(teacher, by_level, scale) + added


def _kept(picture: Tensor, shares: list[Tensor], scale: int) -> Tensor:
    """Leave out of each band of a picture the share that the measurement takes over.

    Parameters
    ----------
    picture : (N, 3, H, W)
    shares : list of (N, 2, h, w)
        Of luminance and chroma, in the finest band and in those of cells.
    scale : int
        Side of a packed pixel.
    """
    cells = [F.avg_pool2d(picture, scale)]
    for _ in range(LEVELS - 2):
        cells.append(F.avg_pool2d(cells[-1], 2, ceil_mode=True, count_include_pad=False))
    taken = _weighted(cells[-1], shares[-1])
    for level in range(LEVELS - 2, 0, -1):
        band = cells[level - 1] - _enlarged(cells[level], cells[level - 1])
        taken = _enlarged(taken, band) + _weighted(band, shares[level])
    finest = picture - _enlarged(cells[0], picture)
    taken = _enlarged(taken, picture) + _weighted(finest, _enlarged(shares[0], picture))
    return picture - taken


def _enlarged(cells: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(cells, size=like.shape[2:], mode="bilinear", align_corners=False)


def _weighted(band: Tensor, shares: Tensor) -> Tensor:
    """Take one share of a band's luminance and another of its chroma."""
    weights = torch.from_numpy(XYZ_FROM_SRGB[1]).to(band).view(1, 3, 1, 1)
    luminance = (weights * band).sum(dim=1, keepdim=True)
    share_y, share_c = shares[:, :1], shares[:, 1:]
    return share_c * band + (share_y - share_c) * luminance
