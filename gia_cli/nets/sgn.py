"""SGN: sub-networks on the shuffled mosaic, each guided by the coarser one above it.

Source: Gu, Li, Van Gool, Timofte, *Self-Guided Network for Fast Image Denoising*, ICCV 2019.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gia_cli.nets.base import Network
from gia_cli.nets.blocks import by_bands, conv3x3, in_sequence, shuffled_picture
from gia_cli.nets.config import LEAKY_SLOPE, NetConfig

COARSEST = 3
# Layers of a residual block, and of the full-size sub-network behind its fusion.
_RESIDUAL_CONVS, _BODY_CONVS = 3, 5


class Residual(nn.Module):
    """Three 3x3 convolutions with a skip around them; leaky ReLU between and behind the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv3x3(channels, channels)]
        for _ in range(_RESIDUAL_CONVS - 1):
            layers += [_activation(), conv3x3(channels, channels)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return F.leaky_relu(self.body(x) + x, LEAKY_SLOPE, inplace=True)


class Guided(nn.Module):
    """Read the shuffled planes; join what the coarser sub-network says of them."""

    def __init__(self, inputs: int, channels: int, guidance: int) -> None:
        super().__init__()
        self.read = _conv(inputs, channels)
        self.fuse = _conv(channels + guidance, channels)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """(N, inputs, H, W) and (N, guidance, H, W) to (N, channels, H, W)."""
        fused: Tensor = self.fuse(torch.cat([self.read(x), guidance], dim=1))
        return fused


class Sgn(Network):
    """SGN with sub-networks at 1, 1/2, 1/4 and 1/8 of the packed size.

    Each sub-network reads the planes pixel-unshuffled to its size. The coarsest: convolution,
    residual block, convolution. The two between: convolution, joined with the coarser one's
    pixel-shuffled result, convolution, residual block, convolution. The full-size one: convolution,
    joined, convolution, five convolutions, and the last to 3*s*s planes, shuffled. All 3x3.

    The scales, the shuffling and the guidance from coarse to fine are the paper's. Sizes and
    details were not at hand from the paper itself and are chosen in agreement with two public
    re-implementations, which differ in some: 32 channels at full size and twice as many at each
    coarser scale; residual blocks of three convolutions, activated behind the sum; five
    convolutions at full size; biases; no normalisation. Leaky ReLU of slope 0.2 as in SID-Net (one
    of the two uses ReLU). No skip from the input to the picture: on SID's data it replaces a U-Net
    that has none.
    """

    stride = 2**COARSEST
    #: 7 convolutions at full size; then, rounded up to whole cells of 2, 4 and 8, 5 at each scale:
    #: 7, 4 + 5, 5 + 5, 5 + 5 cells of 8.
    halo = 80

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        widths = [config.width << scale for scale in range(COARSEST + 1)]
        inputs = [config.in_channels * 4**scale for scale in range(COARSEST + 1)]
        self.coarsest = _conv(inputs[-1], widths[-1])
        # Coarse to fine, as they are run. What guides has half the channels of what it guides, four
        # times as many before the shuffle: the width of the coarser scale.
        scales = range(COARSEST - 1, -1, -1)
        guidance = [-(-width // 2) for width in widths]
        self.residuals = nn.ModuleList(Residual(widths[scale + 1]) for scale in scales)
        self.ends = nn.ModuleList(_conv(widths[scale + 1], 4 * guidance[scale]) for scale in scales)
        self.guided = nn.ModuleList(
            Guided(inputs[scale], widths[scale], guidance[scale]) for scale in scales
        )
        self.body = nn.ModuleList(_conv(config.width, config.width) for _ in range(_BODY_CONVS))
        self.to_rgb = conv3x3(config.width, 3 * config.scale**2)

    @property
    def bytes_per_pixel(self) -> int:
        """Peak memory of fp32 inference for one packed pixel, frame and result included.

        Measured as 267 bytes (Bayer, 512x768 packed px): input and result of a full-size layer.
        """
        picture = 4 * 3 * self.config.scale**2
        return 4 * self.config.in_channels + picture + 7 * self.config.width

    @property
    def stages(self) -> list[tuple[nn.Module, int]]:
        """Name the parts of all sub-networks but the last convolution."""
        coarse_to_fine = [2**scale for scale in range(COARSEST, 0, -1)]
        return [
            (self.coarsest, self.stride),
            *zip(self.residuals, coarse_to_fine, strict=True),
            *zip(self.ends, coarse_to_fine, strict=True),
            *zip(self.guided, (cell // 2 for cell in coarse_to_fine), strict=True),
            *((module, 1) for module in self.body),
        ]

    @property
    def plane_readers(self) -> dict[str, int]:
        """Name the weights of the first convolution at every scale."""
        readers = {
            f"guided.{step}.read.0.weight": 2 ** (COARSEST - 1 - step) for step in range(COARSEST)
        }
        return {"coarsest.0.weight": 2**COARSEST} | readers

    @property
    def branch_ends(self) -> list[nn.Module]:
        """List the ends of the residual blocks."""
        return [block.body[-1] for block in self.modules() if isinstance(block, Residual)]

    def encode(self, x: Tensor) -> list[Tensor]:
        """Run the coarse sub-networks: the planes, and the guidance, (N, width / 2, H, W)."""
        self._check_size(x)
        fused: Tensor = self.coarsest(F.pixel_unshuffle(x, self.stride))
        for step in range(COARSEST - 1):
            shuffled = F.pixel_unshuffle(x, 2 ** (COARSEST - 1 - step))
            fused = self.guided[step](shuffled, self._guidance(step, fused))
        return [x, self._guidance(COARSEST - 1, fused)]

    def decode(
        self, features: list[Tensor], term: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """Run the full-size sub-network; see `Network.decode`."""
        x = in_sequence(self.body, self._join(features))
        return by_bands(self._to_picture, [x], rows_in=[1], rows_out=self.config.scale)

    def _guidance(self, step: int, fused: Tensor) -> Tensor:
        return F.pixel_shuffle(self.ends[step](self.residuals[step](fused)), 2)

    def _join(self, features: list[Tensor]) -> Tensor:
        guidance, planes = features.pop(), features.pop()
        # Two convolutions: two rows.
        return by_bands(self.guided[-1], [planes, guidance], rows_in=[1, 1], rows_out=1, halo=2)

    def _to_picture(self, x: Tensor) -> Tensor:
        return shuffled_picture(self.to_rgb, x, self.config.scale)


def _activation() -> nn.Module:
    return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


def _conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(conv3x3(in_channels, out_channels), _activation())
