"""LPIPS: how different two pictures look, by a network that learned it from people.

LPIPS v0.1 (Zhang, Isola, Efros, Shechtman, Wang, *The unreasonable effectiveness of deep features
as a perceptual metric*, 2018), on AlexNet or VGG-16. Pictures and weights: see
`metrics.perceptual`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gia_cli.files import is_folder
from gia_cli.metrics.fidelity import Picture, require_alike
from gia_cli.metrics.perceptual import (
    Unavailable,
    as_tensor,
    find_file,
    missing,
    origin_of,
    refuse_left_over,
    weights_folder,
)
from gia_cli.runtime import exact_fp32
from gia_cli.tiling import Span, round_up, spans
from gia_cli.weights.pretrained import fit_tensors, read_tensors

LpipsNet = Literal["alex", "vgg"]


@dataclass(frozen=True, slots=True)
class _Backbone:
    """Convolutions of one of torchvision's networks, and what tiling must know of it."""

    title: str
    convs: tuple[tuple[int, int, int, int, int], ...]
    """For each: index in ``features``, channels out, kernel, stride, padding."""
    pools: tuple[int, ...]
    """Indices of the max-poolings."""
    pool: int
    """Kernel of the poolings; their stride is 2."""
    taps: tuple[tuple[int, int, int], ...]
    """For each ReLU compared: index, channels, pixels from one value to the next."""
    least: int
    """Smallest side that leaves every layer a value, px."""
    core: int
    """Tiles' side without halo, px: VGG-16's first layers are 16 times AlexNet's in size."""
    files: tuple[str, ...]
    """Names of the published file."""


# What the last tap's values in a core depend on reaches 90 px before the core and behind it for
# VGG-16, 66 and 81 px for AlexNet.
_HALO = 96
_STRIDE = 16

_BACKBONES: dict[LpipsNet, _Backbone] = {
    "alex": _Backbone(
        title="AlexNet",
        convs=(
            (0, 64, 11, 4, 2), (3, 192, 5, 1, 2),
            (6, 384, 3, 1, 1), (8, 256, 3, 1, 1), (10, 256, 3, 1, 1),
        ),
        pools=(2, 5),
        pool=3,
        taps=((1, 64, 4), (4, 192, 8), (7, 384, 16), (9, 256, 16), (11, 256, 16)),
        least=31,
        core=1024,
        files=("alexnet-owt-7be5be79.pth", "alexnet-owt-*.pth"),
    ),
    "vgg": _Backbone(
        title="VGG-16",
        convs=(
            (0, 64, 3, 1, 1), (2, 64, 3, 1, 1), (5, 128, 3, 1, 1), (7, 128, 3, 1, 1),
            (10, 256, 3, 1, 1), (12, 256, 3, 1, 1), (14, 256, 3, 1, 1),
            (17, 512, 3, 1, 1), (19, 512, 3, 1, 1), (21, 512, 3, 1, 1),
            (24, 512, 3, 1, 1), (26, 512, 3, 1, 1), (28, 512, 3, 1, 1),
        ),
        pools=(4, 9, 16, 23),
        pool=2,
        taps=((3, 64, 1), (8, 128, 2), (15, 256, 4), (22, 512, 8), (29, 512, 16)),
        least=16,
        core=512,
        files=("vgg16-397923af.pth", "vgg16-????????.pth"),
    ),
}  # fmt: skip

# Mean and standard deviation of ImageNet for values in [-1, 1], rounded as LPIPS publishes them.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """A backbone up to its last tap, and a linear head on each of five taps; frozen.

    Names of the parameters are the published ones: torchvision's ``features.N.weight`` and
    ``.bias``, and ``lin0.model.1.weight`` to ``lin4.model.1.weight``, (1, C, 1, 1).

    Parameters
    ----------
    net : "alex" or "vgg"
    """

    def __init__(self, net: LpipsNet = "alex") -> None:
        super().__init__()
        self.net = net
        self.plan = _BACKBONES[net]
        self.features = _features(self.plan)
        for index, (_, channels, _) in enumerate(self.plan.taps):
            # The published heads have a dropout before the 1x1 convolution, which is idle now.
            head = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{index}", nn.ModuleDict({"model": head}))
        self.requires_grad_(False).eval()

    def taps(self, picture: Tensor) -> Iterator[Tensor]:
        """Yield what each tap makes of (N, 3, h, w) in [0, 1], finest first."""
        shift, scale = (picture.new_tensor(v).view(3, 1, 1) for v in (_SHIFT, _SCALE))
        x = (2 * picture - 1 - shift) / scale
        wanted = {index for index, _, _ in self.plan.taps}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in wanted:
                yield x

    def head(self, index: int) -> Tensor:
        """Weights of a tap's channels, (1, C, 1, 1)."""
        return self.get_parameter(f"lin{index}.model.1.weight")


def _features(plan: _Backbone) -> nn.Sequential:
    """Build torchvision's layers, each at its own index, up to the last tap."""
    layers: dict[int, nn.Module] = {}
    channels = 3
    for index, out, kernel, stride, padding in plan.convs:
        layers[index] = nn.Conv2d(channels, out, kernel, stride, padding)
        layers[index + 1] = nn.ReLU(inplace=True)
        channels = out
    layers |= {index: nn.MaxPool2d(plan.pool, 2) for index in plan.pools}
    return nn.Sequential(*(layers[index] for index in range(len(layers))))


def load_lpips(net: LpipsNet = "alex", path: Path | None = None) -> Lpips | Unavailable:
    """Read the weights of LPIPS v0.1 from local files.

    Parameters
    ----------
    net : "alex" or "vgg"
        AlexNet is its authors' advice for measuring.
    path : Path, optional
        A file that holds backbone and heads together, under the names that `Lpips` states (a
        PyTorch state dict, or ``.safetensors``). Or a folder, by default `weights_folder`, with
        either such a file, ``lpips-NET.safetensors`` or ``lpips-NET.pth``, or the two published
        ones: torchvision's ``alexnet-owt-7be5be79.pth`` or ``vgg16-397923af.pth``, and the heads
        of the LPIPS repository (its folder ``lpips/weights/v0.1``), ``alex.pth`` or ``vgg.pth``,
        or a copy of them named ``LPIPS_v0.1_NET-DIGEST.pth``. Every file's SHA-256 is checked if
        its name or a ``.sha256`` beside it promises one.

    Returns
    -------
    Lpips or Unavailable
        On the CPU, fp32, frozen. Unavailable only if no path is given and files are missing.

    Raises
    ------
    WeightsNotFoundError
        A path is given and the file or one of the two is missing; or a file cannot be read.
    WeightsCorruptError
        A SHA-256 is not the promised one.
    WeightsMismatchError
        Not such a file, or a tensor is missing, left over, of the wrong shape or not finite. Of
        torchvision's files the classifier is passed over.
    """
    files = _lpips_files(net, path)
    if isinstance(files, Unavailable):
        return files
    network = Lpips(net)
    network.load_state_dict(_read_lpips(files, network))
    return network


def _lpips_files(net: LpipsNet, path: Path | None) -> list[Path] | Unavailable:
    """Find the one file, or the backbone's and the heads'."""
    if path is not None and not is_folder(path):
        return [path]
    plan, folder = _BACKBONES[net], path or weights_folder()
    together = find_file(folder, f"lpips-{net}.safetensors", f"lpips-{net}.pth")
    if together:
        return [together]
    backbone = find_file(folder, *plan.files)
    heads = find_file(folder, f"{net}.pth", f"LPIPS_v0.1_{net}-????????.pth")
    if backbone and heads:
        return [backbone, heads]
    lacking = [] if backbone else [plan.files[0]]
    lacking += [] if heads else [f"LPIPS's {net}.pth"]
    return missing(f"LPIPS with {plan.title}", lacking, folder, path)


def _read_lpips(files: list[Path], network: Lpips) -> dict[str, Tensor]:
    """Take the backbone from the first file and the heads from the last; it may be the same."""
    title = network.plan.title
    hint = f"gia needs {network.plan.files[0]} and LPIPS's {network.net}.pth, or both in one file."
    origin = origin_of("LPIPS", f"LPIPS with {title}", hint)
    wanted = network.state_dict()
    tensors: dict[str, Tensor] = {}
    for file, part in ((files[0], "features."), (files[-1], "lin")):
        found = read_tensors(file, origin)
        here = {name: tensor for name, tensor in wanted.items() if name.startswith(part)}
        tensors |= fit_tensors(file, here, found, origin)
        known = wanted if len(files) == 1 else here
        refuse_left_over(file, known.keys(), found, origin)
    return tensors


def lpips(picture: Picture, target: Picture, model: Lpips) -> float:
    """Learned perceptual image patch similarity, v0.1: the mean over positions, added over taps.

    Computed in tiles with a halo wider than what the last tap sees, which gives what the whole
    picture at once would, but for rounding. However large the picture, it takes 0.3 GB (AlexNet)
    or 0.6 GB (VGG-16); one layer of VGG-16 for 12 MP at once would be 3 GB.

    Parameters
    ----------
    picture, target : (H, W, 3) float in [0, 1], RGB
    model : Lpips
        From `load_lpips`; computes on the device that it is on.

    Returns
    -------
    float, 0 or more, 0 for equal pictures
        Symmetric.

    Raises
    ------
    ValueError
        The shapes differ, not such pictures, or a side below 31 px (AlexNet) or 16 px (VGG-16).
    """
    plan = model.plan
    require_alike(picture, target, plan.least)
    sums = np.zeros(len(plan.taps))
    counts = np.zeros(len(plan.taps))
    with torch.inference_mode(), exact_fp32():
        for rows in _spans(picture.shape[0], plan.core):
            for cols in _spans(picture.shape[1], plan.core):
                for index, values in enumerate(_distances(picture, target, model, rows, cols)):
                    sums[index] += float(values.sum(dtype=torch.float64))
                    counts[index] += values.numel()
    return float((sums / counts).sum())


def _spans(size: int, core: int) -> list[Span]:
    """Cut an axis into cores with halos; the last core ends with the picture, wherever that is."""
    return [
        Span(s.core_start, min(s.core_stop, size), s.read_start, min(s.read_stop, size))
        for s in spans(round_up(size, _STRIDE), core, _HALO, _STRIDE)
    ]


def _distances(
    picture: Picture, target: Picture, model: Lpips, rows: Span, cols: Span
) -> Iterator[Tensor]:
    """Yield for each tap the distances at the positions that belong to a tile's core."""
    region = (slice(rows.read_start, rows.read_stop), slice(cols.read_start, cols.read_stop))
    device = model.head(0).device
    # Layer by layer in step, so that of each picture only one layer is kept.
    ours, theirs = (model.taps(as_tensor(p[region], device)) for p in (picture, target))
    pairs = zip(model.plan.taps, ours, theirs, strict=True)
    for index, ((_, _, step), x, y) in enumerate(pairs):
        part = (..., _positions(rows, step), _positions(cols, step))
        difference = _unit(x[part]).sub_(_unit(y[part]))
        yield difference.square_().mul_(model.head(index)).sum(dim=1)


def _unit(values: Tensor) -> Tensor:
    """Scale the vectors over channels of (1, C, h, w) to length 1; zero stays zero."""
    return values / (values.square().sum(dim=1, keepdim=True).sqrt_() + 1e-10)


def _positions(span: Span, step: int) -> slice:
    """Where a core lies in the values of a tap that has one every `step` pixels.

    A core that ends with the picture takes all that come, however many the layers' rounding leaves.
    """
    start, stop = ((edge - span.read_start) // step for edge in (span.core_start, span.core_stop))
    return slice(start, None if span.read_stop == span.core_stop else stop)
