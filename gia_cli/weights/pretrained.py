"""Networks that others trained: their files of weights, read safely, checked, and fitted strictly.

Nothing is downloaded. `training.losses` reads VGG here, `metrics.lpips` and `metrics.pieapp` their
networks; what gia ships itself goes through `weights.storage` and its manifest instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gia_cli.errors import WeightsCorruptError, WeightsMismatchError, WeightsNotFoundError
from gia_cli.files import is_taken, open_plain, read_plain

# Torchvision's habit: the name ends with the first digits of the file's own SHA-256.
_HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose weights a file should hold, for the messages about one that does not."""

    weights: str
    """As in "The VGG weights x.pth cannot be read"."""
    network: str
    """As in "x.pth does not fit VGG-16"."""
    hint: str
    """What file is needed."""
    path_hint: str
    """What to do when the file cannot be opened."""


def read_tensors(path: Path, origin: Origin) -> dict[str, Any]:
    """Read every tensor of a file, after checking the SHA-256 that something promises.

    A digest is promised by a name that ends as torchvision's do (``vgg16-397923af.pth``: the first
    digits), and by a file ``NAME.sha256`` beside it, as ``sha256sum`` writes it.

    Parameters
    ----------
    path : Path
        Safetensors (``.safetensors``), or a PyTorch state dict, from which no code is run.
    origin : Origin

    Returns
    -------
    dict
        By name; what is no tensor is left for `fit_tensors` to refuse.

    Raises
    ------
    WeightsNotFoundError
        The file cannot be read.
    WeightsCorruptError
        The SHA-256 is not the promised one.
    WeightsMismatchError
        Not such a file.
    """
    try:
        with open_plain(path) as (file, _):
            _check_digest(file, path)
            return _load(file, path, origin)
    except OSError as error:
        raise WeightsNotFoundError(
            f"The {origin.weights} weights {path} cannot be read: {error.strerror or error}.",
            hint=origin.path_hint,
        ) from error


def _check_digest(file: BufferedReader, path: Path) -> None:
    promises = _promised_digests(path)
    if not promises:
        return
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)  # what is checked is what is read
    for source, promised in promises.items():
        if not digest.startswith(promised):
            raise WeightsCorruptError(
                f"{path} is damaged: its SHA-256 is {digest}, {source} says {promised}.",
                hint="Download it again.",
            )


def _promised_digests(path: Path) -> dict[str, str]:
    """Digests, or their first digits, by who promises them."""
    promises: dict[str, str] = {}
    if found := _HASHED_NAME.search(path.name):
        promises["its name"] = found[1]
    beside = path.with_name(f"{path.name}.sha256")
    if is_taken(beside):
        words = read_plain(beside).decode("utf-8", "replace").lower().split()
        if not words or not _SHA256.fullmatch(words[0]):
            raise WeightsCorruptError(
                f"{beside} does not begin with a SHA-256.",
                hint=f"Write it again with sha256sum, or remove it if {path.name} can be trusted.",
            )
        promises[beside.name] = words[0]
    return promises


def _load(file: BufferedReader, path: Path, origin: Origin) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return dict(safetensors.torch.load(file.read()))
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load has no error of its own: a dozen kinds come out of it
        raise WeightsMismatchError(
            f"{path} is not a file of {origin.weights} weights.", hint=origin.hint
        ) from error
    return loaded if isinstance(loaded, dict) else {}


def fit_tensors(
    path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Any], origin: Origin
) -> dict[str, Tensor]:
    """Take the tensors that a network wants from those of a file.

    Parameters
    ----------
    path : Path
        The file, for the message.
    wanted : mapping of str to Tensor
        The network's state, for names and shapes.
    found : mapping of str to anything
        From `read_tensors`; more than what is wanted may be there.
    origin : Origin

    Returns
    -------
    dict of str to Tensor
        fp32, as many as are wanted.

    Raises
    ------
    WeightsMismatchError
        A tensor is missing, of the wrong shape or not finite.
    """
    for name, tensor in wanted.items():
        if problem := _problem(tensor.shape, found.get(name)):
            raise WeightsMismatchError(
                f"{path} does not fit {origin.network}: {name} {problem}.", hint=origin.hint
            )
    return {name: found[name].float() for name in wanted}


def _problem(shape: torch.Size, found: Any) -> str | None:
    if not isinstance(found, Tensor):
        return "is missing"
    if found.shape != shape:
        return f"has shape {tuple(found.shape)}, not {tuple(shape)}"
    return None if found.isfinite().all() else "holds a number that is not finite"
