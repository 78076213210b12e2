"""SID-Net and GIA-Net: a U-Net without and with one global vector for the whole photo.

Sources: Chen et al., *Learning to See in the Dark*, CVPR 2018 (the U-Net); Meng, Xu, Ho, *GIA-Net:
Global Information Aware Network for Low-light Imaging*, 2020 (the module, Figs 2 to 4).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gia_cli.nets import NetConfig
from gia_cli.nets.blocks import by_bands, double_conv

LEVELS = 5


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

    def bias(self, mean: Tensor) -> Tensor:
        """Map the bottleneck's mean, (N, C), to what it adds at each place, (N, C)."""
        vector = self.shrink(mean[:, :, None, None])
        weight = self.fuse.weight[:, self.channels :]
        return F.conv2d(vector, weight, self.fuse.bias)[:, :, 0, 0]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(N, C, H, W) and (N, C) to (N, C, H, W)."""
        mixed = F.conv2d(x, self.fuse.weight[:, : self.channels])
        return mixed.add_(bias[:, :, None, None])


class UNet(nn.Module):
    """Five levels of two 3x3 convolutions, from packed mosaic to picture.

    Shapes: (N, C, H, W) in [0, 1] to (N, 3, s*H, s*W), BT.709-encoded, not clipped; C and s by the
    colour filter array (4 and 2, or 9 and 3); H and W multiples of `stride`.

    Inference on large frames goes in steps, so that one global vector serves all tiles: `encode`
    each tile, average the last feature over the frame, `global_bias`, `decode` each tile.
    """

    #: The frame's sides must be multiples of this many packed pixels: four 2x2 poolings.
    stride = 2 ** (LEVELS - 1)
    #: Context in packed pixels that a core aligned to `stride` depends on, apart from the vector.
    #: Two 3x3 convolutions at each level reach 2*(1+2+4+8+16) down and 2*(8+4+2+1) up; with the
    #: rounding to whole cells on the way 94 in all. (From a pixel inside a cell it is up to 107.)
    halo = 96
    #: Context that a bottleneck feature depends on: the way down, 62.
    vector_halo = 64

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width << level for level in range(LEVELS)]
        inputs = [config.in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(map(double_conv, inputs, widths))
        self.gia = GiaModule(widths[-1], config.vector) if config.network == "gia-net" else None
        up = [
            nn.ConvTranspose2d(below, here, 2, stride=2, bias=config.upsample_bias)
            for here, below in zip(widths[-2::-1], widths[:0:-1], strict=True)
        ]
        self.upsample = nn.ModuleList(up)
        self.decoder = nn.ModuleList(double_conv(2 * here, here) for here in widths[-2::-1])
        self.to_rgb = nn.Conv2d(widths[0], 3 * config.scale**2, 1)

    @property
    def has_vector(self) -> bool:
        """Whether the picture depends on the whole frame through one vector."""
        return self.gia is not None

    @property
    def bytes_per_pixel(self) -> int:
        """Peak memory of fp32 inference for one packed pixel, frame and result included.

        Measured as 379 bytes at width 32 on a 12-megapixel Bayer frame; the skips of the levels
        (128 + 64 + 32 + ... bytes), the level being decoded and the result add up to it.
        """
        picture = 4 * 3 * self.config.scale**2
        return 4 * self.config.in_channels + picture + 11 * self.config.width

    def encode(self, x: Tensor) -> list[Tensor]:
        """Run the way down.

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
            H or W is no multiple of `stride`: bands would silently drop the odd rows.
        """
        height, width = x.shape[2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"{height}x{width} packed px are no multiple of {self.stride}")
        features: list[Tensor] = []
        for level, convs in enumerate(self.encoder):
            x = F.max_pool2d(x, 2) if level else x
            # Two 3x3 convolutions reach two rows: one unit of two.
            x = by_bands(convs, [x], rows_in=[2], rows_out=2) if level < 2 else convs(x)
            features.append(x)
        return features

    def global_bias(self, mean: Tensor) -> Tensor | None:
        """Map the bottleneck's mean over the frame, (N, C), to what `decode` adds.

        Returns
        -------
        (N, C) or None
            None for SID-Net, which has no vector.
        """
        return None if self.gia is None else self.gia.bias(mean)

    def decode(
        self, features: list[Tensor], bias: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """Run the bottleneck's end and the way up.

        Parameters
        ----------
        features : list of 5 tensors
            From `encode`; emptied on the way, so that each level's memory is free once used.
        bias : (N, C) or None
            From `global_bias`.
        levels : list, optional
            As for `forward`.

        Returns
        -------
        (N, 3, s*H, s*W)
            fp32 even where the network computes in half precision.
        """
        x = features.pop()
        if self.gia is not None:
            if bias is None:
                raise ValueError("GIA-Net needs the global bias")
            x = self.gia(x, bias)
        last = len(self.decoder) - 1
        for step in range(len(self.decoder)):
            if levels is not None:
                levels.append(x)
            stage = partial(self._up, step) if step < last else self._to_picture
            rows_out = 2 if step < last else 2 * self.config.scale
            skip = features.pop()
            if step < last - 1:  # deep levels are small: nothing to gain from bands
                x = stage(x, skip)
            else:
                x = by_bands(stage, [x, skip], rows_in=[1, 2], rows_out=rows_out)
        return x

    def _up(self, step: int, x: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat([self.upsample[step](x), skip], dim=1)
        up: Tensor = self.decoder[step](joined)
        return up

    def _to_picture(self, x: Tensor, skip: Tensor) -> Tensor:
        top = self._up(len(self.decoder) - 1, x, skip)
        # At least fp32 whatever the rest computes in: half precision holds 10 bits or fewer near
        # white, and the picture is to have 16.
        wide = torch.promote_types(top.dtype, torch.float32)
        weight, bias = self.to_rgb.weight, self.to_rgb.bias
        rgb = F.conv2d(top.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
        return F.pixel_shuffle(rgb, self.config.scale)

    def forward(self, x: Tensor, group: int = 1, levels: list[Tensor] | None = None) -> Tensor:
        """Map whole frames, (N, C, H, W), to their pictures, (N, 3, s*H, s*W).

        Parameters
        ----------
        x : (N, C, H, W) in [0, 1]
        group : int
            This many neighbours in the batch are crops of one photo and share one vector, the mean
            over all of them: what two-pass tiling does at inference. Divides N.
        levels : list, optional
            Gets the bottleneck behind the module and each decoder level but the last appended,
            deepest first: what a training-only loss on the depth needs.
        """
        features = self.encode(x)
        bias = self.global_bias(_group_mean(features[-1], group))
        return self.decode(features, bias, levels)


def _group_mean(bottleneck: Tensor, group: int) -> Tensor:
    """Mean over each group's crops, (N, C), the same for every member."""
    mean = bottleneck.mean(dim=(2, 3))
    if group == 1:
        return mean
    grouped = mean.view(-1, group, mean.shape[1]).mean(1)
    return grouped.repeat_interleave(group, 0)
