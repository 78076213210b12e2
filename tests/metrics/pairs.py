"""Pairs of pictures for measures and losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pictures(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth shapes with texture on them, different in each channel, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    count, channels, height, width = shape
    coarse = torch.rand(
        count, channels, -(-height // 8), -(-width // 8), generator=generator, dtype=dtype
    )
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth + 0.2 * (torch.rand(shape, generator=generator, dtype=dtype) - 0.5)).clamp(0, 1)


def noisy(target: Tensor, sigma: float, seed: int = 2) -> Tensor:
    """A picture with noise on it, not clipped, as the network's output is not."""
    generator = torch.Generator().manual_seed(seed)
    return target + sigma * torch.randn(target.shape, generator=generator, dtype=target.dtype)
