"""DnCNN: seventeen plain layers with batch normalisation that predict what to take away.

Source: Zhang, Zuo, Chen, Meng, Zhang, *Beyond a Gaussian Denoiser: Residual Learning of Deep CNN
for Image Denoising*, IEEE TIP 2017.
"""

from __future__ import annotations

from torch import Tensor, nn

from gia_cli.nets.base import Network
from gia_cli.nets.blocks import by_bands, conv3x3, in_sequence, mosaic_picture, shuffled_picture
from gia_cli.nets.config import NetConfig

DEPTH = 17


class DnCnn(Network):
    """DnCNN with 17 layers of 64 channels: conv + ReLU, 15 x (conv + BN + ReLU), conv.

    The paper maps a picture to the residual of the same shape, ``x = y - R(y)``. Meng et al., who
    list it among networks from mosaic to picture, do not say how. Chosen: it runs on the packed
    planes; R has 3*s*s planes, shuffled; it is taken from the mosaic with each cell filled by its
    mean colour (`mosaic_picture`), in the mosaic's linear scale, so that R also holds the tone
    curve and the white balance. The 17 layers are the paper's for a known noise level (20 for a
    blind one). First and last layer have a bias; the others do not, as the batch normalisation has.

    Batch normalisation uses the running statistics at inference, so tiles are exact and there is no
    vector. In training it uses the batch's, whatever `group` says: where a batch is one photo's
    crops (recipe "small"), each photo is normalised by its own statistics, a global
    information that the running mean over all photos does not give at inference. Batches of several
    photos narrow that gap.
    """

    #: One packed pixel for each 3x3 convolution.
    halo = DEPTH

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        width = config.width
        self.first = nn.Sequential(conv3x3(config.in_channels, width), nn.ReLU(inplace=True))
        self.middle = nn.ModuleList(_normalised(width) for _ in range(DEPTH - 2))
        self.to_rgb = conv3x3(width, 3 * config.scale**2)

    @property
    def bytes_per_pixel(self) -> int:
        """Peak memory of fp32 inference for one packed pixel, frame and result included.

        Measured as 562 bytes (Bayer, 512x768 packed px): input and result of a layer.
        """
        picture = 4 * 3 * self.config.scale**2
        return 4 * self.config.in_channels + picture + 8 * self.config.width

    @property
    def stages(self) -> list[tuple[nn.Module, int]]:
        """Name all layers but the last."""
        return [(module, 1) for module in (self.first, *self.middle)]

    @property
    def plane_readers(self) -> dict[str, int]:
        """Name the weights of the first layer."""
        return {"first.0.weight": 1}

    @property
    def branch_ends(self) -> list[nn.Module]:
        """List the last layer: it corrects the mosaic."""
        return [self.to_rgb]

    def encode(self, x: Tensor) -> list[Tensor]:
        """Run all layers but the last: the planes, and (N, width, H, W)."""
        return [x, in_sequence([self.first, *self.middle], x)]

    def decode(
        self, features: list[Tensor], term: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """Run the last layer and take the residual away; see `Network.decode`."""
        inputs = [features.pop(), features.pop()]
        return by_bands(self._to_picture, inputs, rows_in=[1, 1], rows_out=self.config.scale)

    def _to_picture(self, x: Tensor, planes: Tensor) -> Tensor:
        scale = self.config.scale
        residual = shuffled_picture(self.to_rgb, x, scale)
        return mosaic_picture(planes, self.config.cfa, scale) - residual


def _normalised(width: int) -> nn.Sequential:
    conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
