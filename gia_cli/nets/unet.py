"""SID-Net, GIA-Net and their siblings: one U-Net, without and with a global vector.

Sources: Chen et al., *Learning to See in the Dark*, CVPR 2018 (the U-Net); Meng, Xu, Ho, *GIA-Net:
Global Information Aware Network for Low-light Imaging*, 2020 (the module, Figs 2 to 4, and the
siblings it is compared with).
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
    double_conv,
    scale_channels,
    shuffled_picture,
)
from gia_cli.nets.config import LEVELS, NetConfig


class UNet(Network):
    """SID-Net: five levels of two 3x3 convolutions, from packed mosaic to picture.

    Not specified by Chen et al.: whether transposed convolutions have biases (their code has none,
    the public PyTorch ports do; `NetConfig.upsample_bias`), and what happens to sides that are no
    multiples of 16 (here the caller pads them).

    Siblings replace the convolution (`conv`) or put something into the bottleneck
    (`add_bottleneck`, `bottleneck`).
    """

    #: Four 2x2 poolings.
    stride = 2 ** (LEVELS - 1)
    #: Two 3x3 convolutions at each level reach 2*(1+2+4+8+16) down and 2*(8+4+2+1) up; with the
    #: rounding to whole cells on the way 94 in all. (From a pixel inside a cell it is up to 107.)
    halo = 96
    #: Rows that two convolutions see beyond their own, in halves: what a band of row pairs needs.
    pair_halo = 1

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        widths = [config.width << level for level in range(LEVELS)]
        inputs = [config.in_channels, *widths[:-1]]
        self.deep_widths = tuple(widths[:0:-1])
        self.top_width = widths[0]
        self.encoder = nn.ModuleList(map(self.double_conv, inputs, widths))
        # Here and not in the siblings' own __init__: optimisers and seeds depend on this order.
        self.add_bottleneck(widths[-1])
        up = [
            nn.ConvTranspose2d(below, here, 2, stride=2, bias=config.upsample_bias)
            for here, below in zip(widths[-2::-1], widths[:0:-1], strict=True)
        ]
        self.upsample = nn.ModuleList(up)
        self.decoder = nn.ModuleList(self.double_conv(2 * here, here) for here in widths[-2::-1])
        self.to_rgb = nn.Conv2d(widths[0], 3 * config.scale**2, 1)

    # ------------------------------------------------------------ what siblings replace

    def conv(self, in_channels: int, out_channels: int) -> nn.Module:
        """Build what stands for every 3x3 convolution."""
        return conv3x3(in_channels, out_channels)

    def add_bottleneck(self, channels: int) -> None:
        """Add modules behind the two convolutions of the deepest level; SID-Net has none."""

    def bottleneck(self, x: Tensor, term: Tensor | None) -> Tensor:
        """Apply them: (N, C, H/16, W/16) to the same."""
        return x

    # ------------------------------------------------------------ what it states

    @property
    def bytes_per_pixel(self) -> int:
        """Peak memory of fp32 inference for one packed pixel, frame and result included.

        Measured as 379 bytes at width 32 on a 12-megapixel Bayer frame; the skips of the levels
        (128 + 64 + 32 + ... bytes), the level being decoded and the result add up to it.
        """
        picture = 4 * 3 * self.config.scale**2
        return 4 * self.config.in_channels + picture + 11 * self.config.width

    @property
    def stages(self) -> list[tuple[nn.Module, int]]:
        """Name the blocks of all levels, down and up."""
        down = [(module, 2**level) for level, module in enumerate(self.encoder)]
        up = [(module, 2 ** (LEVELS - 2 - step)) for step, module in enumerate(self.decoder)]
        return down + up

    @property
    def plane_readers(self) -> dict[str, int]:
        """Name the weights of the first convolution."""
        names = (name for name, _ in self.named_parameters())
        return {n: 1 for n in names if n.startswith("encoder.0.0.") and n.endswith("weight")}

    # ------------------------------------------------------------ the segments

    def encode(self, x: Tensor) -> list[Tensor]:
        """Run the encoder.

        Parameters
        ----------
        x : (N, C, H, W) in [0, 1]

        Returns
        -------
        list of 5 tensors
            One for each level, (N, w * 2**l, H / 2**l, W / 2**l); the last is the bottleneck.

        Raises
        ------
        ValueError
            H or W is no multiple of `stride`.
        """
        self._check_size(x)
        features: list[Tensor] = []
        for level, convs in enumerate(self.encoder):
            x = F.max_pool2d(x, 2) if level else x
            if level < 2:
                x = by_bands(convs, [x], rows_in=[2], rows_out=2, halo=self.pair_halo)
            else:  # deep levels are small: nothing to gain from bands
                x = convs(x)
            features.append(x)
        return features

    def decode(
        self, features: list[Tensor], term: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """Run the bottleneck's end and the decoder; see `Network.decode`."""
        if term is None and self.vectors:
            raise ValueError(f"{self.config.network} needs a global term")
        x = self.bottleneck(features.pop(), term)
        last = len(self.decoder) - 1
        for step in range(len(self.decoder)):
            if levels is not None:
                levels.append(x)
            stage = partial(self._up, step) if step < last else partial(self._to_picture, levels)
            rows_out = 2 if step < last else 2 * self.config.scale
            skip = features.pop()
            if step < last - 1 or levels is not None:  # which wants whole maps
                x = stage(x, skip)
            else:
                x = by_bands(
                    stage, [x, skip], rows_in=[1, 2], rows_out=rows_out, halo=self.pair_halo
                )
        return x

    def double_conv(self, in_channels: int, out_channels: int) -> nn.Sequential:
        """Build the two convolutions of a level."""
        return double_conv(in_channels, out_channels, self.conv)

    def _up(self, step: int, x: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat([self.upsample[step](x), skip], dim=1)
        up: Tensor = self.decoder[step](joined)
        return up

    def _to_picture(self, levels: list[Tensor] | None, x: Tensor, skip: Tensor) -> Tensor:
        top = self._up(len(self.decoder) - 1, x, skip)
        if levels is not None:
            levels.append(top)
        return shuffled_picture(self.to_rgb, top, self.config.scale)


# ---------------------------------------------------------------- with a global vector


class GiaModule(nn.Module):
    """The global information aware module, in the bottleneck.

    The mean over the frame goes through a 1x1 convolution to the vector; the vector is
    concatenated to every position and mixed in by a second 1x1 convolution. The paper's Fig. 3
    draws both without an activation, and so they are. The vector's width is not stated; see
    `NetConfig.vector`.

    ``fuse(concat(x, g)) = W_x x + (W_g g + b)``: at inference the vector is a bias, worked out once
    for a photo (`bias`), and nothing is concatenated.
    """

    def __init__(self, channels: int, vector: int) -> None:
        super().__init__()
        self.channels = channels
        self.shrink = nn.Conv2d(channels, vector, 1)
        self.fuse = nn.Conv2d(channels + vector, channels, 1)

    def vector(self, mean: Tensor) -> Tensor:
        """Map the bottleneck's mean, (N, C), to the vector, (N, V)."""
        vector: Tensor = self.shrink(mean[:, :, None, None])[:, :, 0, 0]
        return vector

    def bias(self, mean: Tensor) -> Tensor:
        """Map the bottleneck's mean, (N, C), to what it adds at each place, (N, C)."""
        return self.spread(self.vector(mean))

    def spread(self, vector: Tensor) -> Tensor:
        """Map the vector, (N, V), to what it adds at each place, (N, C)."""
        weight = self.fuse.weight[:, self.channels :]
        return F.conv2d(vector[:, :, None, None], weight, self.fuse.bias)[:, :, 0, 0]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, C, H, W) and (N, C) to (N, C, H, W)."""
        mixed = F.conv2d(x, self.fuse.weight[:, : self.channels])
        return mixed.add_(bias[:, :, None, None])


class GiaNet(UNet):
    """GIA-Net (Meng et al. 2020): SID-Net with the `GiaModule` in its bottleneck."""

    #: The encoder reaches 2*(1+2+4+8+16) = 62.
    vector_halos = (64,)

    def add_bottleneck(self, channels: int) -> None:
        """Add the module."""
        self.gia = GiaModule(channels, self.config.vector)

    def global_term(self, index: int, mean: Tensor) -> Tensor:
        """Map the bottleneck's mean to the bias that it adds at each place."""
        return self.gia.bias(mean)

    def bottleneck(self, x: Tensor, term: Tensor | None) -> Tensor:
        """Mix in the vector."""
        mixed: Tensor = self.gia(x, term)
        return mixed


class SeUNet(UNet):
    """SE-UNet (Meng et al. 2020, Table 1): SID-Net with squeeze-and-excitation in the bottleneck.

    Source of the block: Hu, Shen, Sun, *Squeeze-and-Excitation Networks*, CVPR 2018. Meng et al. do
    not give its place to the layer, its reduction or its biases; chosen: behind the second
    convolution and its activation, where GIA-Net has its module; Hu et al.'s reduction of 16; with
    biases. 33,312 parameters at the published width.
    """

    vector_halos = (64,)

    def add_bottleneck(self, channels: int) -> None:
        """Add the gate."""
        self.se = ChannelGate(channels)

    def global_term(self, index: int, mean: Tensor) -> Tensor:
        """Map the bottleneck's mean to a factor for each channel."""
        gate: Tensor = self.se(mean)
        return gate

    def bottleneck(self, x: Tensor, term: Tensor | None) -> Tensor:
        """Weigh the channels."""
        return scale_channels(x, term)


# ---------------------------------------------------------------- more parameters, wider sight


class Sid2Conv(UNet):
    """SID-Net with two more convolutions in the bottleneck (Meng et al. 2020, Table 3, row 2).

    The paper says no more than that. Chosen: the plain reading, two further convolutions like all
    of SID-Net's, 3x3 with bias and leaky ReLU, 512 to 512 channels: 4,719,616 parameters, 61 %
    more than SID-Net's, nine times what the `GiaModule` adds. (1x1 would add 525,312, all but
    exactly the module's 525,056; this is the stronger rival.)
    """

    #: As SID-Net, and two cells of 16 more: 126.
    halo = 128

    def add_bottleneck(self, channels: int) -> None:
        """Add the two convolutions."""
        self.extra = self.double_conv(channels, channels)

    def bottleneck(self, x: Tensor, term: Tensor | None) -> Tensor:
        """Apply them."""
        further: Tensor = self.extra(x)
        return further

    @property
    def stages(self) -> list[tuple[nn.Module, int]]:
        """Name the blocks of all levels and the bottleneck's."""
        return [*super().stages, (self.extra, self.stride)]


class SidDilated(UNet):
    """SID-dilated (Meng et al. 2020, Table 2): SID-Net, every 3x3 convolution dilated by 2.

    As many parameters as SID-Net. Padded by 2, which keeps the size; the paper does not say.
    """

    #: Twice SID-Net's reach; with the rounding to whole cells 188.
    halo = 192
    pair_halo = 2

    def conv(self, in_channels: int, out_channels: int) -> nn.Module:
        """Build a dilated convolution."""
        return conv3x3(in_channels, out_channels, dilation=2)


class SplitConv(nn.Module):
    """A plain and a dilated 3x3 convolution of the same input, side by side."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.plain = conv3x3(in_channels, out_channels - out_channels // 2)
        self.dilated = conv3x3(in_channels, out_channels // 2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H, W)."""
        return torch.cat([self.plain(x), self.dilated(x)], dim=1)


class SwNet(UNet):
    """SW-Net (Meng et al. 2020, Table 2): each 3x3 convolution a plain and a dilated half.

    The paper prints C_l = C_g = C_in / 2 for the two halves, which cannot change the number of
    channels; chosen: half of the *output* channels each, from all of the input's, concatenated in
    the order plain, dilated. So it has as many parameters as SID-Net.
    """

    #: The dilated halves reach as far as SID-dilated's.
    halo = 192
    pair_halo = 2

    def conv(self, in_channels: int, out_channels: int) -> nn.Module:
        """Build the two halves."""
        return SplitConv(in_channels, out_channels)
