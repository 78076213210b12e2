"""Make a narrower GIA-Net from a trained one, as a start for training.

From layer to layer, on simulated exposures: the channels are kept from which the others can best be
predicted (QR with column pivoting, each channel weighed by the weights that read it). The layers
that make them are refitted, by ridge regression from what the narrow network has made so far. The
vector keeps its length and its order, and so its meaning.

References
----------
Chee, Flynn, Damle and De Sa, *Model Preserving Compression for Neural Networks*, NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

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
from gia_cli.nets import build
from gia_cli.nets.config import LEAKY_SLOPE, LEVELS
from gia_cli.nets.unet import GiaNet
from gia_cli.progress import SILENT, Progress
from gia_cli.training.checkerboard import load_gia_net
from gia_cli.training.config import VECTOR_SUPERVISED
from gia_cli.training.initialise import ridge
from gia_cli.weights.manifest import find_weights

Conv = nn.Conv2d | nn.ConvTranspose2d

_SIDE = 96  # packed pixels of a scene's crop
_STRIDE = 2 ** (LEVELS - 1)
_PLACES = 256  # of a crop that a fit looks at, at most
_SAMPLE = 20_000  # places, of all crops, that channels are chosen by
_RIDGE = 1e-4  # of the mean square of the features
_VECTOR_RIDGE = 1e-2
_LAYERS = 2 * LEVELS + 1 + 3 * (LEVELS - 1) + 1  # the encoder's, the module, the decoder's, to RGB


@dataclass(frozen=True, slots=True)
class NarrowConfig(DeriveConfig):
    """Which weights are narrowed, by which scenes, and where the result goes."""

    scenes: int = 800
    width: int | None = None
    """Channels of the first level that are kept; None: half of them."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be made."""
        DeriveConfig.__post_init__(self)
        if self.width is not None and self.width < 1:
            raise UsageError(f"--width must be positive, not {self.width}.")


@torch.no_grad()
def narrow(config: NarrowConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Write narrower weights, to train on from, and list them in the folder's manifest.

    Parameters
    ----------
    config : NarrowConfig
    progress : Progress
        Receives a stage "simulating" with a step for each scene and one "narrowing" with a step
        for each layer, and details of how well each was fitted.

    Returns
    -------
    dict
        The manifest's row.

    Raises
    ------
    UsageError
        The weights are no GIA-Net's, or no wider than asked for.
    WeightsError, DataError, OutputExistsError, OutputError
    """
    info = find_weights(config.weights)
    path = target_path(config, info)
    wide = load_gia_net(info)
    width = config.width or wide.config.width // 2
    if not 0 < width < wide.config.width:
        raise UsageError(
            f"'{info.name}' has {wide.config.width} channels at its first level; {width} is too "
            "many, or none.",
            hint="Give a smaller --width.",
        )
    network = build(replace(wide.config, width=width)).requires_grad_(False)
    assert isinstance(network, GiaNet)
    source = open_scenes(config, info, progress, training_only=True)
    side = crop_side(source, _SIDE, _STRIDE)
    planes = []
    progress.stage("simulating", config.scenes)
    for scene in range(config.scenes):
        rng = np.random.default_rng([config.seed, scene])
        planes.append(source.pairs(rng, count=1, side=side)[0].planes)
        progress.advance()
    progress.stage("narrowing", _LAYERS)
    Narrowing(wide, network, torch.from_numpy(np.stack(planes)), config.seed, progress).run()
    supervised = {VECTOR_SUPERVISED: info.training.get(VECTOR_SUPERVISED, False)}
    made = {"from": origin(info), "scenes": config.scenes, "seed": config.seed}
    return save_derived(
        path, network, info, training=supervised, narrowing={**made, "gia": __version__}
    )


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
    """Choose the channels of (N, C, H, W) that best predict the others; weight (C,).

    Returns their numbers, (count,), in order.
    """
    flat = x.movedim(1, -1).reshape(-1, x.shape[1])
    rows = rng.choice(len(flat), min(len(flat), _SAMPLE), replace=False)
    sample = flat[torch.from_numpy(rows)].double()
    sample = (sample - sample.mean(0)) * weight.double()
    return torch.from_numpy(np.sort(pivots(sample.numpy(), count)))


def pivots(columns: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Choose columns of (N, C) as QR with column pivoting does: each time the longest remainder.

    Returns
    -------
    (count,)
        Their numbers, in the order in which they were chosen.
    """
    # R's columns have the lengths and angles of the matrix's own, and only C entries.
    left: NDArray[np.float64] = np.asarray(np.linalg.qr(columns, mode="r"))
    chosen: list[int] = []
    for _ in range(count):
        lengths = np.square(left).sum(0)
        lengths[chosen] = -1  # of what rounding has left of them
        pivot = int(lengths.argmax())
        chosen.append(pivot)
        if lengths[pivot] > 0:
            direction = left[:, pivot] / np.sqrt(lengths[pivot])
            left = left - np.outer(direction, direction @ left)
    return np.array(chosen)


def fit(conv: Conv, narrow: Tensor, wanted: Tensor, rng: np.random.Generator) -> None:
    """Fit a 1x1 or 3x3 convolution, or a 2x2 transposed one; in place.

    narrow, what it reads, and wanted, what it shall make of it, are (N, C, H, W).
    """
    is_up = isinstance(conv, nn.ConvTranspose2d)
    side = 1 if is_up else conv.kernel_size[0]
    assert conv.bias is not None
    features = narrow.shape[1] * side**2
    gram = torch.zeros(features + 1, features + 1, dtype=torch.float64)
    outputs = wanted.shape[1] * (4 if is_up else 1)
    product = torch.zeros(features + 1, outputs, dtype=torch.float64)
    for part in batches(len(narrow)):
        x = F.unfold(narrow[part], side, padding=side // 2).movedim(1, -1)
        y = F.pixel_unshuffle(wanted[part], 2) if is_up else wanted[part]
        y = y.flatten(2).movedim(1, -1)
        places = torch.from_numpy(rng.permutation(x.shape[1])[:_PLACES])
        x, y = x[:, places].reshape(-1, features), y[:, places].reshape(-1, outputs)
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        gram += (x.T @ x).double()
        product += (x.T @ y).double()
    penalty = _RIDGE * gram.diagonal()[:-1].mean() * torch.ones(features + 1, dtype=torch.float64)
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

    def __init__(
        self,
        wide: GiaNet,
        narrow: GiaNet,
        planes: Tensor,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self.wide, self.narrow, self.planes = wide, narrow, planes
        self.rng = np.random.default_rng(seed)
        self._progress = progress

    def layer(self, name: str, here: Both, readers: list[Tensor], *, activate: bool = True) -> Both:
        """Fit a convolution; what both make of it, the wide one in all its channels."""
        wide_conv, conv = (net.get_submodule(name) for net in (self.wide, self.narrow))
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
        made = through(wide_conv, here.wide)
        slope = LEAKY_SLOPE if activate else 1.0
        shown = F.leaky_relu(made, slope)
        count = conv.weight.shape[1 if isinstance(conv, nn.ConvTranspose2d) else 0]
        kept = choose(shown, reading(*readers), count, self.rng)
        fit(conv, here.narrow, made[:, kept], self.rng)
        narrow = F.leaky_relu(through(conv, here.narrow), slope)
        error = (narrow - shown[:, kept]).square().mean() / shown[:, kept].var()
        self._tell(f"{name}: {shown.shape[1]} -> {count} channels, error {float(error):.4f}")
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
            here = Both(*(torch.cat(maps, 1) for maps in zip(risen, skips.pop(), strict=True)))
            is_last = step == LEVELS - 2
            reader = self.weight("to_rgb") if is_last else self.up_weight(step + 1)
            here = self.double(f"decoder.{step}", here, [reader])
        fit(narrow.to_rgb, here.narrow, through(wide.to_rgb, here.wide), self.rng)
        self._progress.advance()

    def _tell(self, what: str) -> None:
        """Report a layer."""
        self._progress.detail(what)
        self._progress.advance()

    def up_weight(self, step: int) -> Tensor:
        """Weights of a transposed convolution, as (out, in, h, w)."""
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
        assert narrow.fuse.bias is not None and wide.fuse.bias is not None
        assert part.bias is not None
        narrow.fuse.bias.copy_(wide.fuse.bias[kept] + part.bias)
        mean = here.narrow.mean((2, 3))
        shown = narrow(here.narrow, narrow.bias(mean))
        error = (shown - made[:, kept]).square().mean() / made[:, kept].var()
        self._tell(f"gia: error {float(error):.4f}")
        return Both(made, shown)

    def fit_vector(self, mean: Tensor, vector: Tensor) -> None:
        """Fit the narrow network's vector to the wide one's."""
        weight, bias = ridge(mean, vector, _VECTOR_RIDGE * len(mean))
        estimated = mean.double() @ weight.T + bias
        left = (vector - estimated).var(0)[:4] / vector.double().var(0)[:4]
        shares = ", ".join(f"{float(share):.3f}" for share in left)
        self._progress.detail(f"vector: unexplained of its first four numbers {shares}")
        shrink = self.narrow.gia.shrink
        shrink.weight.copy_(weight[:, :, None, None])
        assert shrink.bias is not None
        shrink.bias.copy_(bias)
