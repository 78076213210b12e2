"""Make a narrower GIA-Net of a trained one, to train on from.

    python scripts/narrow_weights.py WEIGHTS OUT.safetensors --width N PHOTOS... [--cache FOLDER]

From layer to layer, on simulated exposures: of the trained network's channels those are kept that
tell most of the others (QR with column pivoting, each channel weighed by the weights that read
it; Chee et al., *Model Preserving Compression for Neural Networks*, 2022), and what makes them is
fitted anew, by ridge regression from what the narrow network has made up to there. The vector
keeps its length and its order, so what it tells of the scene goes on being told. Needs scipy,
which comes with the ``dev`` extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import qr
from torch import Tensor, nn
from trained import arguments, load_gia_net, training_nights

from gia_cli.nets import build
from gia_cli.nets.blocks import LEAKY_SLOPE
from gia_cli.nets.config import LEVELS
from gia_cli.nets.unet import GiaNet
from gia_cli.training.config import VECTOR_SUPERVISED
from gia_cli.training.initialise import ridge
from gia_cli.weights.storage import save_weights

SIDE = 96  # packed pixels of a scene's crop
PLACES = 256  # of a crop that a fit looks at, at most
RIDGE = 1e-4  # of the mean square of the features
VECTOR_RIDGE = 1e-2
SEED = 1


class Both(NamedTuple):
    """What the trained and the narrow network make of all scenes at one place."""

    wide: Tensor
    narrow: Tensor


def batches(count: int, size: int = 16) -> Iterator[slice]:
    """Cut the scenes up."""
    return (slice(first, first + size) for first in range(0, count, size))


def through(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer to all scenes."""
    return torch.cat([module(x[part]) for part in batches(len(x))])


def choose(x: Tensor, weight: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Choose the channels of (N, C, H, W) that tell most of the others; weight (C,).

    Returns their numbers, (count,), in order.
    """
    flat = x.movedim(1, -1).reshape(-1, x.shape[1])
    rows = torch.from_numpy(rng.choice(len(flat), min(len(flat), 20_000), replace=False))
    sample = flat[rows].double()
    sample = (sample - sample.mean(0)) * weight.double()
    order = qr(sample.numpy(), mode="r", pivoting=True)[1]
    return torch.from_numpy(np.sort(order[:count]))


def fit(conv: nn.Module, narrow: Tensor, wanted: Tensor, rng: np.random.Generator) -> None:
    """Fit a 1x1 or 3x3 convolution, or a 2x2 transposed one; in place.

    narrow, what it reads, and wanted, what it shall make of it, are (N, C, H, W).
    """
    is_up = isinstance(conv, nn.ConvTranspose2d)
    side = 1 if is_up else conv.kernel_size[0]
    features = narrow.shape[1] * side**2
    gram = torch.zeros(features + 1, features + 1, dtype=torch.float64)
    outputs = wanted.shape[1] * (4 if is_up else 1)
    product = torch.zeros(features + 1, outputs, dtype=torch.float64)
    for part in batches(len(narrow)):
        x = F.unfold(narrow[part], side, padding=side // 2).movedim(1, -1)
        y = F.pixel_unshuffle(wanted[part], 2) if is_up else wanted[part]
        y = y.flatten(2).movedim(1, -1)
        places = torch.from_numpy(rng.permutation(x.shape[1])[:PLACES])
        x, y = x[:, places].reshape(-1, features), y[:, places].reshape(-1, outputs)
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        gram += (x.T @ x).double()
        product += (x.T @ y).double()
    penalty = RIDGE * gram.diagonal()[:-1].mean() * torch.ones(features + 1, dtype=torch.float64)
    penalty[-1] = 0
    solved = torch.linalg.solve(gram + torch.diag(penalty), product).float()
    weight, bias = solved[:-1].T, solved[-1]
    if is_up:
        shaped = weight.reshape(wanted.shape[1], 2, 2, narrow.shape[1]).permute(3, 0, 1, 2)
        conv.weight.copy_(shaped)
        conv.bias.copy_(bias.reshape(wanted.shape[1], 4).mean(1))
    else:
        conv.weight.copy_(weight.reshape(conv.weight.shape))
        conv.bias.copy_(bias)


def reading(*weights: Tensor) -> Tensor:
    """How much each input channel of (out, in, h, w) weights is read."""
    return sum((w.square().sum((0, 2, 3)) for w in weights), torch.zeros(())).sqrt()


class Narrowing:
    """Fits the layers, in the order in which the network runs them."""

    def __init__(self, wide: GiaNet, narrow: GiaNet, planes: Tensor) -> None:
        self.wide, self.narrow, self.planes = wide, narrow, planes
        self.rng = np.random.default_rng(SEED)

    def layer(self, name: str, here: Both, readers: list[Tensor], *, activate: bool = True) -> Both:
        """Fit a convolution; what both make of it, the wide one in all its channels."""
        wide_conv, conv = (net.get_submodule(name) for net in (self.wide, self.narrow))
        made = through(wide_conv, here.wide)
        slope = LEAKY_SLOPE if activate else 1.0
        shown = F.leaky_relu(made, slope)
        count = conv.weight.shape[1 if isinstance(conv, nn.ConvTranspose2d) else 0]
        kept = choose(shown, reading(*readers), count, self.rng)
        fit(conv, here.narrow, made[:, kept], self.rng)
        narrow = F.leaky_relu(through(conv, here.narrow), slope)
        error = (narrow - shown[:, kept]).square().mean() / shown[:, kept].var()
        print(f"{name}: {shown.shape[1]} -> {count} channels, error {float(error):.4f}", flush=True)
        return Both(shown, narrow)

    def weight(self, name: str) -> Tensor:
        """Weights of the trained network."""
        return self.wide.get_parameter(f"{name}.weight")

    def double(self, name: str, here: Both, readers: list[Tensor]) -> Both:
        """Fit the two convolutions of a level."""
        inner = self.layer(f"{name}.0", here, [self.weight(f"{name}.2")])
        return self.layer(f"{name}.2", inner, readers)

    def run(self) -> None:
        """Fit them all."""
        wide, narrow = self.wide, self.narrow
        here = Both(self.planes, self.planes)
        skips: list[Both] = []
        for level in range(LEVELS):
            if level:
                here = Both(*(F.max_pool2d(x, 2) for x in here))
            if level < LEVELS - 1:
                joined = self.weight(f"decoder.{LEVELS - 2 - level}.0")
                skip = joined[:, joined.shape[1] // 2 :]
                readers = [self.weight(f"encoder.{level + 1}.0"), skip]
            else:
                readers = [self.weight("gia.fuse")[:, : wide.gia.channels]]
            here = self.double(f"encoder.{level}", here, readers)
            skips.append(here)
        here = self.module(skips.pop())
        for step in range(LEVELS - 1):
            joined = self.weight(f"decoder.{step}.0")
            up = f"upsample.{step}"
            risen = self.layer(up, here, [joined[:, : joined.shape[1] // 2]], activate=False)
            skip = skips.pop()
            here = Both(*(torch.cat(pair, 1) for pair in zip(risen, skip, strict=True)))
            is_last = step == LEVELS - 2
            reader = self.weight("to_rgb") if is_last else self.up_weight(step + 1)
            here = self.double(f"decoder.{step}", here, [reader])
        fit(narrow.to_rgb, here.narrow, through(wide.to_rgb, here.wide), self.rng)

    def up_weight(self, step: int) -> Tensor:
        """Weights of a way up, as (out, in, h, w)."""
        return self.weight(f"upsample.{step}").transpose(0, 1)

    def module(self, here: Both) -> Both:
        """Fit the vector, and what mixes it in."""
        wide, narrow = self.wide.gia, self.narrow.gia
        mean = here.wide.mean((2, 3))
        vector = wide.vector(mean)
        self.fit_vector(here.narrow.mean((2, 3)), vector)
        mixed = F.conv2d(here.wide, wide.fuse.weight[:, : wide.channels])
        made = mixed + wide.bias(mean)[:, :, None, None]
        kept = choose(made, reading(self.up_weight(0)), narrow.channels, self.rng)
        part = nn.Conv2d(narrow.channels, narrow.channels, 1)
        fit(part, here.narrow, mixed[:, kept], self.rng)
        narrow.fuse.weight[:, : narrow.channels] = part.weight
        narrow.fuse.weight[:, narrow.channels :] = wide.fuse.weight[kept, wide.channels :]
        narrow.fuse.bias.copy_(wide.fuse.bias[kept] + part.bias)
        mean = here.narrow.mean((2, 3))
        shown = narrow(here.narrow, narrow.bias(mean))
        error = (shown - made[:, kept]).square().mean() / made[:, kept].var()
        print(f"gia: error {float(error):.4f}", flush=True)
        return Both(made, shown)

    def fit_vector(self, mean: Tensor, vector: Tensor) -> None:
        """Let the narrow network's mean tell what the wide one's vector says."""
        weight, bias = ridge(mean, vector, VECTOR_RIDGE * len(mean))
        told = mean.double() @ weight.T + bias
        left = (vector - told).var(0)[:4] / vector.double().var(0)[:4]
        print("vector: unexplained of the first four", left.numpy().round(3), flush=True)
        shrink = self.narrow.gia.shrink
        shrink.weight.copy_(weight[:, :, None, None])
        shrink.bias.copy_(bias)


def main() -> None:
    """Write the narrow weights."""
    parser = arguments(__doc__.splitlines()[0], scenes=800)
    parser.add_argument("--width", type=int, default=16)
    options = parser.parse_args()
    info, wide = load_gia_net(options.weights)
    narrow = build(replace(wide.config, width=options.width)).requires_grad_(False)
    assert isinstance(narrow, GiaNet)
    source = training_nights(info, options.photos, options.cache)
    planes = np.stack(
        [
            source.pairs(np.random.default_rng([SEED, scene]), count=1, side=SIDE)[0].planes
            for scene in range(options.scenes)
        ]
    )
    with torch.no_grad():
        Narrowing(wide, narrow, torch.from_numpy(planes)).run()
    save_weights(
        options.out,
        narrow,
        camera=info.camera,
        daylight_wb=info.daylight_wb,
        neutral_wb=info.neutral_wb,
        training={VECTOR_SUPERVISED: info.training.get(VECTOR_SUPERVISED, False)},
    )


if __name__ == "__main__":
    main()
