"""Reduce the checkerboard artifact of trained weights, by their last layer alone.

The last layer has separate weights for each sub-pixel of a packed pixel. In the mean over a block a
picture's sub-pixels agree; a network's differ by up to a level of 255. A loss that compares pixels
one by one hardly measures that, but it shows as a grid in flat areas. The weights' mean over the
sub-pixels stays; their deviation from it is refitted, in closed form, on simulated exposures: near
the trained deviation, pixel by pixel, and near the photograph's own in the means over blocks.

References
----------
Odena, Dumoulin and Olah, *Deconvolution and Checkerboard Artifacts*, Distill, 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gia_cli._version import __version__
from gia_cli.data.derive import (
    DeriveConfig,
    crop_side,
    open_scenes,
    origin,
    save_derived,
    target_path,
)
from gia_cli.errors import UsageError
from gia_cli.nets.unet import GiaNet
from gia_cli.progress import SILENT, Progress
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo, load_network

_SIDE = 128  # packed pixels of a scene's crop
_BLOCK = 16
_WEIGHT = 100.0  # of the blocks' means against the single pixels


@dataclass(frozen=True, slots=True)
class CheckerboardConfig(DeriveConfig):
    """Whose checkerboard artifact is reduced, by which scenes, and where the result goes."""

    scenes: int = 200


@torch.no_grad()
def reduce_checkerboard(config: CheckerboardConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the weights again, with another last layer, and list them in the folder's manifest.

    Parameters
    ----------
    config : CheckerboardConfig
    progress : Progress
        Receives a stage "fitting" with a step for each scene.

    Returns
    -------
    dict
        The manifest's row.

    Raises
    ------
    UsageError
        The weights are no GIA-Net's, or would be replaced by what is made of them.
    WeightsError, DataError, OutputExistsError, OutputError
    """
    info = find_weights(config.weights)
    path = target_path(config, info)
    network = load_gia_net(info)
    source = open_scenes(config, info, progress, training_only=True)
    side = crop_side(source, _SIDE, _BLOCK)
    moments = Moments(network.config.width, network.config.scale)
    progress.stage("fitting", config.scenes)
    for scene in range(config.scenes):
        pair = source.pairs(np.random.default_rng([config.seed, scene]), count=1, side=side)[0]
        planes, target = (torch.from_numpy(x)[None] for x in (pair.planes, pair.target))
        moments.add(last_features(network, planes), target)
        progress.advance()
    refit(network, moments)
    if info.fusion is not None:
        progress.note(
            "The fusion shares were learned with the old last layer and are left out: 'gia weights "
            "calibrate' learns new ones."
        )
    made = {"from": origin(info), "scenes": config.scenes, "block": _BLOCK, "weight": _WEIGHT}
    return save_derived(
        path,
        network,
        info,
        # Its validation was of the weights before.
        training={k: v for k, v in info.training.items() if k != "validation_psnr"},
        checkerboard_reduction={**made, "seed": config.seed, "gia": __version__},
    )


def load_gia_net(info: WeightsInfo) -> GiaNet:
    """Load a GIA-Net that is not to be trained.

    Raises
    ------
    UsageError
        The weights are another network's.
    WeightsError
    """
    network = load_network(info).requires_grad_(False)
    if not isinstance(network, GiaNet):
        raise UsageError(f"The weights '{info.name}' are a {info.config.network}, not a gia-net.")
    return network


def last_features(network: GiaNet, planes: Tensor) -> Tensor:
    """Make what the last layer reads, (1, C, H, W), of planes (1, P, H, W)."""
    levels = network.encode(planes)
    term = network.gia.bias(levels[-1].mean((2, 3)))
    x = network.bottleneck(levels.pop(), term)
    for step in range(len(network.decoder)):
        x = network.decoder[step](torch.cat([network.upsample[step](x), levels.pop()], 1))
    return x


def _deviation(x: Tensor) -> Tensor:
    """Deviation of (3, S, N) from the mean over the S sub-pixels."""
    return x - x.mean(1, keepdim=True)


class Moments:
    """Mean products, over scenes, of what the last layer reads, a constant one beside it.

    Parameters
    ----------
    channels : int
        That the last layer reads.
    scale : int
        Sub-pixels of a packed pixel along each axis.
    """

    def __init__(self, channels: int, scale: int) -> None:
        size = channels + 1
        self.scale = scale
        self.pixels = torch.zeros(size, size, dtype=torch.float64)
        self.blocks = torch.zeros_like(self.pixels)
        self.wanted = torch.zeros(size, 3 * scale**2, dtype=torch.float64)

    def add(self, read: Tensor, target: Tensor) -> None:
        """Add a scene: (1, C, H, W), and the photograph, (1, 3, scale * H, scale * W)."""
        read = torch.cat([read, torch.ones_like(read[:, :1])], 1).double()
        means = F.avg_pool2d(read, _BLOCK)[0].flatten(1)
        shuffled = F.avg_pool2d(F.pixel_unshuffle(target.double(), self.scale), _BLOCK)
        own = _deviation(shuffled.reshape(3, self.scale**2, -1)).flatten(0, 1)
        pixels = read[0].flatten(1)
        self.pixels += pixels @ pixels.T / pixels.shape[1]
        self.blocks += means @ means.T / means.shape[1]
        self.wanted += means @ own.T / means.shape[1]


@torch.no_grad()
def refit(network: GiaNet, moments: Moments, weight: float = _WEIGHT) -> None:
    """Fit what the sub-pixels' weights deviate from their mean; in place."""
    writer, parts = network.to_rgb, moments.scale**2
    assert writer.bias is not None
    both = torch.cat([writer.weight[:, :, 0, 0], writer.bias[:, None]], 1).double()
    old = both.reshape(3, parts, -1)
    trained = _deviation(old).flatten(0, 1).T
    gram = moments.pixels + weight * moments.blocks
    # A channel that is never on would leave it singular.
    gram += 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    right = moments.pixels @ trained + weight * moments.wanted
    fitted = torch.linalg.solve(gram, right).T.reshape(3, parts, -1)
    new = (old.mean(1, keepdim=True) + _deviation(fitted)).flatten(0, 1)
    writer.weight.copy_(new[:, :-1, None, None])
    writer.bias.copy_(new[:, -1])
