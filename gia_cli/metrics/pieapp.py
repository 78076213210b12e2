"""PieAPP: how different two pictures look, by a network that learned it from people.

PieAPP v0.1 (Prashnani, Cai, Mostofi, Sen, *PieAPP: Perceptual image-error assessment through
pairwise preference*, 2018). Pictures and weights: see `metrics.perceptual`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from gia_cli.weights.pretrained import fit_tensors, read_tensors

#: Side in pixels of the patches that PieAPP judges.
PATCH = 64
#: Steps in pixels between them: what its authors call sparse sampling, and dense.
SPARSE, DENSE = 27, 6

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
    if path is None or is_folder(path):
        folder, stem = path or weights_folder(), Path(_PIEAPP_FILE).stem
        file = find_file(folder, _PIEAPP_FILE, f"{stem}-????????.pth", f"{stem}.safetensors")
        if file is None:
            return missing("PieAPP", [_PIEAPP_FILE], folder, path)
    assert file is not None
    origin = origin_of("PieAPP", "PieAPP", f"gia needs the authors' {_PIEAPP_FILE}.")
    found = read_tensors(file, origin)
    _restore_matrix(found, "ref_score_subtract.weight")
    with torch.device("meta"):  # no use to draw 62 million numbers first
        network = PieApp()
    refuse_left_over(file, network.state_dict().keys(), found, origin)
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
    with torch.inference_mode(), exact_fp32():
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
        rows = (as_tensor(p[top : top + PATCH, :, ::-1], device) for p in (picture, target))
        # (1, 3, 64, W) to (n, 3, 64, 64)
        cut = (255 * row.unfold(3, PATCH, stride)[0].permute(2, 0, 1, 3) for row in rows)
        ours, theirs = (torch.split(patches, _PATCHES_AT_ONCE) for patches in cut)
        yield from zip(ours, theirs, strict=True)
