"""Take the pattern of sub-pixels out of trained weights, by their last layer alone.

    python scripts/even_weights.py WEIGHTS OUT.safetensors PHOTOS... [--cache FOLDER]

The last layer has weights of its own for each sub-pixel of a packed pixel. In the mean over a block
a picture's sub-pixels agree; a network's differ by up to a level of 255, which a loss that sees
pixels one by one hardly feels, and which shows as a grid in flat areas. The weights' mean over the
sub-pixels stays; what they deviate from it is fitted anew, in closed form, on simulated exposures:
near the trained deviation, pixel by pixel, and near the photograph's own in the means over blocks.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from trained import arguments, load_gia_net, training_nights

from gia_cli.nets.unet import GiaNet
from gia_cli.weights.manifest import list_in_manifest
from gia_cli.weights.storage import save_weights

SIDE = 128  # packed pixels of a scene's crop
BLOCK = 16
WEIGHT = 100.0  # of the blocks' means against the single pixels
SEED = 9


def features(network: GiaNet, planes: Tensor) -> Tensor:
    """Make what the last layer reads, (1, C, H, W), of planes (1, P, H, W)."""
    levels = network.encode(planes)
    term = network.gia.bias(levels[-1].mean((2, 3)))
    x = network.bottleneck(levels.pop(), term)
    for step in range(len(network.decoder)):
        x = network.decoder[step](torch.cat([network.upsample[step](x), levels.pop()], 1))
    return x


def deviation(x: Tensor) -> Tensor:
    """Deviation of (3, S, N) from the mean over the S sub-pixels."""
    return x - x.mean(1, keepdim=True)


class Moments:
    """Mean products, over scenes, of what the last layer reads, a constant one beside it."""

    def __init__(self, channels: int, scale: int) -> None:
        size = channels + 1
        self.scale = scale
        self.pixels = torch.zeros(size, size, dtype=torch.float64)
        self.blocks = torch.zeros_like(self.pixels)
        self.wanted = torch.zeros(size, 3 * scale**2, dtype=torch.float64)

    def add(self, read: Tensor, target: Tensor) -> None:
        """Add a scene: (1, C, H, W), and the photograph, (1, 3, scale * H, scale * W)."""
        read = torch.cat([read, torch.ones_like(read[:, :1])], 1).double()
        means = F.avg_pool2d(read, BLOCK)[0].flatten(1)
        shuffled = F.avg_pool2d(F.pixel_unshuffle(target.double(), self.scale), BLOCK)
        own = deviation(shuffled.reshape(3, self.scale**2, -1)).flatten(0, 1)
        pixels = read[0].flatten(1)
        self.pixels += pixels @ pixels.T / pixels.shape[1]
        self.blocks += means @ means.T / means.shape[1]
        self.wanted += means @ own.T / means.shape[1]


def even(network: GiaNet, moments: Moments, weight: float = WEIGHT) -> None:
    """Fit what the sub-pixels' weights deviate from their mean; in place."""
    writer, parts = network.to_rgb, moments.scale**2
    assert writer.bias is not None
    both = torch.cat([writer.weight[:, :, 0, 0], writer.bias[:, None]], 1).double()
    old = both.reshape(3, parts, -1)
    trained = deviation(old).flatten(0, 1).T
    gram = moments.pixels + weight * moments.blocks
    # A channel that is never on would leave it singular.
    gram += 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    right = moments.pixels @ trained + weight * moments.wanted
    fitted = torch.linalg.solve(gram, right).T.reshape(3, parts, -1)
    new = (old.mean(1, keepdim=True) + deviation(fitted)).flatten(0, 1)
    writer.weight.copy_(new[:, :-1, None, None])
    writer.bias.copy_(new[:, -1])


def main() -> None:
    """Write the weights, and their row into the folder's manifest."""
    options = arguments(__doc__.splitlines()[0], scenes=200).parse_args()
    info, network = load_gia_net(options.weights)
    source = training_nights(info, options.photos, options.cache)
    moments = Moments(network.config.width, network.config.scale)
    for scene in range(options.scenes):
        pair = source.pairs(np.random.default_rng([SEED, scene]), count=1, side=SIDE)[0]
        planes, target = (torch.from_numpy(x)[None] for x in (pair.planes, pair.target))
        moments.add(features(network, planes), target)
    even(network, moments)
    # Its validation was of the weights before.
    training = {key: value for key, value in info.training.items() if key != "validation_psnr"}
    made_from = f"{info.name} ({(info.sha256 or 'not verified')[:16]})"
    evened = {"from": made_from, "scenes": options.scenes, "block": BLOCK, "weight": WEIGHT}
    row = save_weights(
        options.out,
        network,
        camera=info.camera,
        daylight_wb=info.daylight_wb,
        neutral_wb=info.neutral_wb,
        licence=info.licence,
        training={**training, "evened": evened},
    )
    list_in_manifest(options.out.parent, row)


if __name__ == "__main__":
    main()
