"""RIDNet: four enhancement attention modules, each with an attention to the whole frame's mean.

Source: Anwar, Barnes, *Real Image Denoising with Feature Attention*, ICCV 2019.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gia_cli.nets.base import Network
from gia_cli.nets.blocks import (
    ChannelGate,
    by_bands,
    conv3x3,
    mosaic_picture,
    scale_channels,
    shuffled_picture,
)
from gia_cli.nets.config import NetConfig

MODULES = 4
# Rows that they see beyond their own: dilations 3 + 4 and the fusion's 1; two 3x3 convolutions each
# in the residual and the enhanced residual block.
_MERGE_HALO, _RESIDUAL_HALO = 8, 2
_MODULE_HALO = _MERGE_HALO + 2 * _RESIDUAL_HALO


class MergeRun(nn.Module):
    """Merge-and-run unit: two branches of dilated convolutions, merged, added to the input.

    Dilations 1 and 2 in one branch, 3 and 4 in the other, a ReLU behind each convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near = _convs(channels, (1, 2))
        self.far = _convs(channels, (3, 4))
        self.merge = nn.Sequential(conv3x3(2 * channels, channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        merged: Tensor = self.merge(torch.cat([self.near(x), self.far(x)], dim=1))
        return merged + x


class Residual(nn.Module):
    """A local skip around some convolutions, with a ReLU behind the sum."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return F.relu(self.body(x) + x, inplace=True)


class Eam(nn.Module):
    """Enhancement attention module: merge-and-run, residual, enhanced residual, attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge_run = MergeRun(channels)
        self.residual = Residual(
            conv3x3(channels, channels), nn.ReLU(inplace=True), conv3x3(channels, channels)
        )
        self.enhanced = Residual(_convs(channels, (1, 1)), nn.Conv2d(channels, channels, 1))
        self.attention = ChannelGate(channels)

    def learn(self, x: Tensor, gate: Tensor | None) -> Tensor:
        """Run all but the attention, in bands.

        Parameters
        ----------
        x : (N, C, H, W)
        gate : (N, C) or None
            Attention of the module before, a factor for each channel.

        Returns
        -------
        (N, C, H, W)
            What this module's own attention looks at.
        """
        x = by_bands(partial(self._merge, gate), [x], rows_in=[1], rows_out=1, halo=_MERGE_HALO)
        for block in (self.residual, self.enhanced):
            x = by_bands(block, [x], rows_in=[1], rows_out=1, halo=_RESIDUAL_HALO)
        return x

    def _merge(self, gate: Tensor | None, x: Tensor) -> Tensor:
        merged: Tensor = self.merge_run(scale_channels(x, gate))
        return merged


class RidNet(Network):
    """RIDNet: a 3x3 convolution, four `Eam`s of 64 channels, a 3x3 convolution, a long skip.

    From RGB to RGB it has 1,499,347 parameters, the 1.5 M that are quoted for it. Where the paper's
    text leaves the order of skips and activations open, its authors' published model decides: a
    skip from each module's input around the merge-and-run unit, local skips in the residual blocks,
    no skip around the attention; a ReLU behind every convolution but the last of a block and the
    network's last; reduction 16.

    Meng et al., who list it among networks from mosaic to picture, do not say how. Chosen, as for
    DnCNN: it runs on the packed planes, and the long skip adds the mosaic with each cell filled by
    its mean colour (`mosaic_picture`). The published model's shift by the mean colour of its RGB
    training set has no counterpart here and is left out.

    Each module's attention is a mean over the frame of features that depend on the mean before, so
    there are four vectors, one after the other.
    """

    vector_halos = tuple(1 + _MODULE_HALO * (number + 1) for number in range(MODULES))
    #: First and last convolution, and four modules of 12 between them.
    halo = vector_halos[-1] + 1

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        width = config.width
        self.first = nn.Sequential(conv3x3(config.in_channels, width), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(Eam(width) for _ in range(MODULES))
        self.to_rgb = conv3x3(width, 3 * config.scale**2)

    @property
    def bytes_per_pixel(self) -> int:
        """Peak memory of fp32 inference for one packed pixel, frame and result included.

        Measured as 682 to 719 bytes (Bayer, 512x768 packed px): input and result of a block, and
        the branches of one band. The band is a larger share of a small tile (987 at 228x228).
        """
        picture = 4 * 3 * self.config.scale**2
        return 4 * self.config.in_channels + picture + 11 * self.config.width

    @property
    def stages(self) -> list[tuple[nn.Module, int]]:
        """Name the three blocks of each module."""
        return [
            (block, 1)
            for module in map(self._module, range(MODULES))
            for block in (module.merge_run, module.residual, module.enhanced)
        ]

    @property
    def plane_readers(self) -> dict[str, int]:
        """Name the weights of the first convolution."""
        return {"first.0.weight": 1}

    @property
    def branch_ends(self) -> list[nn.Module]:
        """List the ends of the three blocks of each module, and the last convolution."""
        modules = map(self._module, range(MODULES))
        ends = [(m.merge_run.merge[0], m.residual.body[-1], m.enhanced.body[-1]) for m in modules]
        return [*(conv for of_module in ends for conv in of_module), self.to_rgb]

    def encode(self, x: Tensor) -> list[Tensor]:
        """Run up to the first attention: the planes, and (N, width, H, W)."""
        return [x, self._module(0).learn(by_bands(self.first, [x], rows_in=[1], rows_out=1), None)]

    def global_term(self, index: int, mean: Tensor) -> Tensor:
        """Map a module's mean to its attention, a factor for each channel."""
        gate: Tensor = self._module(index).attention(mean)
        return gate

    def advance(self, index: int, features: list[Tensor], term: Tensor) -> list[Tensor]:
        """Run the next module up to its attention."""
        further = self._module(index + 1).learn(features.pop(), term)
        return [features.pop(), further]

    def decode(
        self, features: list[Tensor], term: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """Apply the last attention, the last convolution and the long skip."""
        if term is None:
            raise ValueError(f"{self.config.network} needs a global term")
        inputs = [features.pop(), features.pop()]
        to_picture = partial(self._to_picture, term)
        return by_bands(to_picture, inputs, rows_in=[1, 1], rows_out=self.config.scale)

    def _module(self, index: int) -> Eam:
        module = self.blocks[index]
        assert isinstance(module, Eam)
        return module

    def _to_picture(self, gate: Tensor, x: Tensor, planes: Tensor) -> Tensor:
        scale = self.config.scale
        residual = shuffled_picture(self.to_rgb, scale_channels(x, gate), scale)
        return residual + mosaic_picture(planes, self.config.cfa, scale)


def _convs(channels: int, dilations: tuple[int, ...]) -> nn.Sequential:
    """Build 3x3 convolutions, each with a ReLU."""
    layers: list[nn.Module] = []
    for dilation in dilations:
        layers += [conv3x3(channels, channels, dilation=dilation), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
