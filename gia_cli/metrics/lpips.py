"""LPIPS and PieAPP: how different two pictures look, by networks that learned it from people.

Their weights are not gia's to ship, and nothing is downloaded: they are looked for in
`weights_folder`, and while they are not there a measure is `Unavailable`, with the reason to show.

- LPIPS v0.1 (Zhang, Isola, Efros, Shechtman, Wang, *The unreasonable effectiveness of deep features
  as a perceptual metric*, 2018), on AlexNet or VGG-16.
- PieAPP v0.1 (Prashnani, Cai, Mostofi, Sen, *PieAPP: Perceptual image-error assessment through
  pairwise preference*, 2018).

A picture is a float array (H, W, 3), RGB with sRGB primaries, in [0, 1]. Both networks learned from
sRGB code values. Results in the literature on SID are of BT.709 code values taken for sRGB's, which
differ by up to 7 % in the mid-tones: give these to compare with it. Values are not rounded to
8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gia_cli.errors import WeightsMismatchError, WeightsNotFoundError
from gia_cli.metrics.fidelity import Picture, require_alike
from gia_cli.runtime import cache_folder
from gia_cli.tiling import Span, round_up, spans
from gia_cli.weights.pretrained import Origin, fit_tensors, read_tensors

LpipsNet = Literal["alex", "vgg"]

#: Side in pixels of the patches that PieAPP judges.
PATCH = 64
#: Steps in pixels between them: what its authors call sparse sampling, and dense.
SPARSE, DENSE = 27, 6


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A measure that cannot be taken on this machine."""

    reason: str
    """What is missing and where it would be looked for."""

    def __str__(self) -> str:
        return f"n/a ({self.reason})"


def weights_folder() -> Path:
    """Name the folder where the weights of measures are looked for: gia's cache, ``metrics``."""
    return cache_folder() / "metrics"


def _origin(weights: str, network: str, hint: str) -> Origin:
    return Origin(weights, network, hint, path_hint="Check the path and its permissions.")


def _find(folder: Path, *patterns: str) -> Path | None:
    """Find a file by the first pattern that any name fits, and the first such name."""
    for pattern in patterns:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found[0]
    return None


def _exact_fp32() -> AbstractContextManager[Any]:
    """Keep cuDNN from computing fp32 convolutions with 10 bits, as it does by default."""
    cudnn = torch.backends.cudnn
    context: AbstractContextManager[Any] = cudnn.flags(enabled=cudnn.enabled, allow_tf32=False)
    return context


# ---------------------------------------------------------------- LPIPS


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
    if path is not None and not path.is_dir():
        return [path]
    plan, folder = _BACKBONES[net], path or weights_folder()
    together = _find(folder, f"lpips-{net}.safetensors", f"lpips-{net}.pth")
    if together:
        return [together]
    backbone = _find(folder, *plan.files)
    heads = _find(folder, f"{net}.pth", f"LPIPS_v0.1_{net}-????????.pth")
    if backbone and heads:
        return [backbone, heads]
    lacking = [] if backbone else [plan.files[0]]
    lacking += [] if heads else [f"LPIPS's {net}.pth"]
    return _missing(f"LPIPS with {plan.title}", lacking, folder, path)


def _missing(what: str, names: list[str], folder: Path, path: Path | None) -> Unavailable:
    reason = f"{what} needs {' and '.join(names)} in {folder}"
    if path is not None:
        raise WeightsNotFoundError(f"{reason}.", hint="Check the path that was given.")
    return Unavailable(reason)


def _read_lpips(files: list[Path], network: Lpips) -> dict[str, Tensor]:
    """Take the backbone from the first file and the heads from the last; it may be the same."""
    title = network.plan.title
    hint = f"gia needs {network.plan.files[0]} and LPIPS's {network.net}.pth, or both in one file."
    origin = _origin("LPIPS", f"LPIPS with {title}", hint)
    wanted = network.state_dict()
    tensors: dict[str, Tensor] = {}
    for file, part in ((files[0], "features."), (files[-1], "lin")):
        found = read_tensors(file, origin)
        here = {name: tensor for name, tensor in wanted.items() if name.startswith(part)}
        tensors |= fit_tensors(file, here, found, origin)
        known = wanted if len(files) == 1 else here
        _refuse_left_over(file, known.keys(), found, origin)
    return tensors


def _refuse_left_over(path: Path, known: Any, found: dict[str, Any], origin: Origin) -> None:
    """Refuse another network's file that happens to begin alike, such as VGG-19's."""
    for name in found:
        if name not in known and not str(name).startswith("classifier."):
            raise WeightsMismatchError(
                f"{path} does not fit {origin.network}: {name} is left over.", hint=origin.hint
            )


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
    with torch.inference_mode(), _exact_fp32():
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
    ours, theirs = (model.taps(_tensor(p[region], device)) for p in (picture, target))
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


def _tensor(region: Picture, device: torch.device) -> Tensor:
    """(h, w, 3) to (1, 3, h, w) fp32."""
    pixels = torch.from_numpy(np.array(region, np.float32, order="C"))
    return pixels.permute(2, 0, 1)[None].to(device)


# ---------------------------------------------------------------- PieAPP

# Channels out of each of the eleven 3x3 convolutions. After every second one a 2x2 max-pooling
# halves the patch; after every other one (the third to the eleventh) its values are compared.
_PIEAPP_CHANNELS = (64, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512)
# 64 channels of 32x32 px, 128 of 16x16, 256 of 8x8, 256 of 4x4 and 512 of 2x2.
_ALL_VALUES = 120_832
_COARSEST_VALUES = 2048
# So many patches make 50 MB of the largest layer.
_PATCHES_AT_ONCE = 32
_PIEAPP_FILE = "PieAPPv0.1.pth"


class PieApp(nn.Module):
    """PieAPP's networks: what it sees in a patch, how bad a difference is, how much it counts.

    Names of the parameters are the published ones: ``conv1`` to ``conv11``, ``fc1_score``,
    ``fc2_score``, ``ref_score_subtract``, ``fc1_weight`` and ``fc2_weight``, each with ``.weight``
    and ``.bias``. Frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for number, out in enumerate(_PIEAPP_CHANNELS, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, out, 3, padding=1))
            channels = out
        self.fc1_score = nn.Linear(_ALL_VALUES, 512)
        self.fc2_score = nn.Linear(512, 1)
        self.ref_score_subtract = nn.Linear(1, 1)
        self.fc1_weight = nn.Linear(_COARSEST_VALUES, 512)
        self.fc2_weight = nn.Linear(512, 1)
        self.requires_grad_(False).eval()

    def forward(self, picture: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Judge patches, (N, 3, 64, 64) each, blue first, in [0, 255].

        Returns
        -------
        error, weight : (N,)
            Neither is bounded, and either may be negative.
        """
        difference = self._values(target) - self._values(picture)
        score = self.fc2_score(self.fc1_score(difference).relu())
        coarsest = difference[:, -_COARSEST_VALUES:]
        weight = self.fc2_weight(self.fc1_weight(coarsest).relu()) + 1e-6
        return self.ref_score_subtract(0.01 * score)[:, 0], weight[:, 0]

    def _values(self, x: Tensor) -> Tensor:
        """List every compared value of each patch, finest layer first: (N, 120832)."""
        compared: list[Tensor] = []
        for number in range(1, len(_PIEAPP_CHANNELS) + 1):
            x = self.get_submodule(f"conv{number}")(x).relu_()
            if number % 2 == 0:
                x = nn.functional.max_pool2d(x, 2)
            elif number > 1:
                compared.append(x.flatten(1))
        return torch.cat(compared, dim=1)


def load_pieapp(path: Path | None = None) -> PieApp | Unavailable:
    """Read the weights of PieAPP v0.1 from a local file.

    Parameters
    ----------
    path : Path, optional
        The file that the authors publish for PyTorch, ``PieAPPv0.1.pth``, or the same tensors as
        ``.safetensors``; or a folder, by default `weights_folder`, with ``PieAPPv0.1.pth``,
        ``PieAPPv0.1-DIGEST.pth`` or ``PieAPPv0.1.safetensors``. The SHA-256 is checked if the name
        or a ``.sha256`` beside it promises one. (Two projects that hand on the authors' file name
        0937b014 as its beginning.)

    Returns
    -------
    PieApp or Unavailable
        On the CPU, fp32, frozen. Unavailable only if no path is given and the file is missing.

    Raises
    ------
    WeightsNotFoundError
        A path is given and the file is missing; or it cannot be read.
    WeightsCorruptError
        The SHA-256 is not the promised one.
    WeightsMismatchError
        Not such a file, or a tensor is missing, left over, of the wrong shape or not finite.
    """
    file = path
    if path is None or path.is_dir():
        folder, stem = path or weights_folder(), Path(_PIEAPP_FILE).stem
        file = _find(folder, _PIEAPP_FILE, f"{stem}-????????.pth", f"{stem}.safetensors")
        if file is None:
            return _missing("PieAPP", [_PIEAPP_FILE], folder, path)
    assert file is not None
    origin = _origin("PieAPP", "PieAPP", f"gia needs the authors' {_PIEAPP_FILE}.")
    found = read_tensors(file, origin)
    _restore_matrix(found, "ref_score_subtract.weight")
    with torch.device("meta"):  # no use to draw 62 million numbers first
        network = PieApp()
    _refuse_left_over(file, network.state_dict().keys(), found, origin)
    tensors = fit_tensors(file, network.state_dict(), found, origin)
    network.load_state_dict(tensors, assign=True)
    return network


def _restore_matrix(found: dict[str, Any], name: str) -> None:
    """Make a matrix of the one number that the published file, of an early PyTorch, lists flat."""
    tensor = found.get(name)
    if isinstance(tensor, Tensor) and tensor.shape == (1,):
        found[name] = tensor[None]


def pieapp(picture: Picture, target: Picture, model: PieApp, stride: int = SPARSE) -> float:
    """Perceptual error PieAPP v0.1: the weighted mean over 64x64 patches, 0 for no visible error.

    As its authors' script does, patches start every `stride` pixels from the top left corner, and
    what is left at the right and the bottom is not judged; channels go in blue first (as OpenCV
    reads them; piq feeds red first and so differs). Patches are judged 32 at a time: beside the
    network's 0.25 GB, a picture of any size takes 0.2 GB.

    Parameters
    ----------
    picture, target : (H, W, 3) float in [0, 1], RGB
    model : PieApp
        From `load_pieapp`; computes on the device that it is on.
    stride : int
        Pixels from patch to patch: `SPARSE`, 27, or `DENSE`, 6, which its authors advise for
        reporting and which takes 20 times as long.

    Returns
    -------
    float
        Unbounded; near 0 for equal pictures (training pulls it there), more is worse. Not
        symmetric.

    Raises
    ------
    ValueError
        The shapes differ, not such pictures, a side below 64 px, or `stride` below 1.
    """
    require_alike(picture, target, PATCH)
    if stride < 1:
        raise ValueError(f"a stride is at least 1 px, not {stride}")
    errors = weights = 0.0
    with torch.inference_mode(), _exact_fp32():
        for ours, theirs in _patches(picture, target, stride, model.fc2_score.weight.device):
            error, weight = (values.double() for values in model(ours, theirs))
            errors += float((error * weight).sum())
            weights += float(weight.sum())
    return errors / weights


def _patches(
    picture: Picture, target: Picture, stride: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the same patches of both pictures, (n, 3, 64, 64), blue first, in [0, 255]."""
    for top in range(0, picture.shape[0] - PATCH + 1, stride):
        rows = (_tensor(p[top : top + PATCH, :, ::-1], device) for p in (picture, target))
        # (1, 3, 64, W) to (n, 3, 64, 64)
        cut = (255 * row.unfold(3, PATCH, stride)[0].permute(2, 0, 1, 3) for row in rows)
        ours, theirs = (torch.split(patches, _PATCHES_AT_ONCE) for patches in cut)
        yield from zip(ours, theirs, strict=True)
