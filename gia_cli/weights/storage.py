"""Files of weights: verify, load, save.

Every load checks the SHA-256 that the manifest promises. A file that no manifest lists is
checked by its header before anything is made of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gia_cli.errors import (
    UsageError,
    WeightsCorruptError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.files import atomic_file, open_plain, refuse_hopeless_output
from gia_cli.imaging.fusion import Shares
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.text import counted
from gia_cli.weights.header import (
    FLOATS,
    Header,
    TensorInfo,
    header_of,
    read_header,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from gia_cli.nets.base import Network


# One metadata key that holds JSON: several keys make safetensors files differ from run to run.
METADATA_KEY = "gia"


@dataclass(frozen=True, slots=True)
class Original:
    """The weights that int8 weights were made from."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """One row of the manifest: what the weights are and where they came from."""

    name: str
    path: Path
    config: NetConfig
    camera: str | None
    """Model that the training data came from."""
    daylight_wb: tuple[float, float, float] | None
    """The training camera's daylight multipliers, green 1."""
    neutral_wb: tuple[float, float, float] | None
    """White balance of the light that the training data were taken in (its median), green 1."""
    encoding: str
    """Transfer curve of the network's picture; "bt709" is the only one there is."""
    sha256: str | None
    """None for a file that no manifest lists: it cannot be verified."""
    size: int | None
    licence: str | None
    training: dict[str, Any]
    """Data, recipe and what else is known of the training."""
    fusion: Shares | None = None
    """How much of each band of the measured residual is added to the picture; None: nothing."""
    quantized_from: Original | None = None
    """Of int8 weights, which only OpenVINO runs; None for all others."""


def digest_of(info: WeightsInfo) -> str:
    """Return the digest of a file as it is, which is what the manifest promises, if there is one.

    Raises
    ------
    WeightsNotFoundError, WeightsCorruptError
        As `read_verified`.
    """
    return hashlib.sha256(read_verified(info)).hexdigest()


def read_verified(info: WeightsInfo) -> bytes:
    """Read a weights file and check its SHA-256, so that the bytes used are the bytes checked.

    Raises
    ------
    WeightsNotFoundError
        The file is missing, or is none.
    WeightsCorruptError
        The sizes or the digests differ; the message has both.
    """
    try:
        with open_plain(info.path) as (file, size):
            if info.size is not None and size != info.size:
                raise WeightsCorruptError(
                    f"{info.path} is damaged: it has {counted(size, 'byte')}, the manifest says "
                    f"{info.size}."
                )
            data = file.read(size)
    except OSError as error:
        raise WeightsNotFoundError(
            f"The weights file {info.path} cannot be read: {error.strerror or error}."
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if info.sha256 is not None and digest != info.sha256:
        raise WeightsCorruptError(
            f"{info.path} is damaged: its SHA-256 is {digest}, the manifest says {info.sha256}."
        )
    return data


def load_arrays(info: WeightsInfo) -> dict[str, NDArray[np.generic]]:
    """Read the verified weights as arrays by name, whatever they fit.

    Raises
    ------
    WeightsNotFoundError, WeightsCorruptError
        As `read_verified`.
    WeightsMismatchError
        Not a safetensors file, one with a number format that NumPy does not have, or one with more
        numbers than the network can have.
    """
    import safetensors
    import safetensors.numpy

    data = _read_fitting(info)
    try:
        arrays: dict[str, NDArray[np.generic]] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise WeightsMismatchError(f"{info.path} is not a safetensors file: {error}.") from error
    return arrays


def load_network(info: WeightsInfo) -> Network:
    """Build the network and load its verified weights, strictly.

    Parameters
    ----------
    info : WeightsInfo

    Returns
    -------
    Network
        On the CPU, fp32, in evaluation mode.

    Raises
    ------
    WeightsNotFoundError, WeightsCorruptError
        As `read_verified`.
    WeightsMismatchError
        A tensor is missing, left over, of the wrong shape or not finite; or the weights are int8.
        Names and shapes are checked before any memory is taken for the network.
    """
    if info.quantized_from is not None:
        raise WeightsMismatchError(
            f"The weights '{info.name}' are int8, which torch does not run here.",
            hint=f"Use the weights that they were made from, '{info.quantized_from.name}'; 'gia "
            "enhance' runs int8 with OpenVINO on the CPU.",
        )
    import safetensors
    import safetensors.torch

    wanted = _state_without_numbers(info.config)
    data = _read_fitting(info, wanted)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        raise WeightsMismatchError(f"{info.path} is not a safetensors file: {error}.") from error
    _refuse(info, _not_finite(tensors))
    network = build(info.config)
    network.load_state_dict(tensors)  # each takes on its place's number format,
    _refuse(info, _not_finite(network.state_dict()))  # for which a double may be too large
    return network.eval()


def _state_without_numbers(config: NetConfig) -> dict[str, Tensor]:
    """Name a network's tensors with shape and number format, and take no memory for them."""
    import torch

    with torch.device("meta"):
        return build(config).state_dict()


def _read_fitting(info: WeightsInfo, wanted: dict[str, Tensor] | None = None) -> bytes:
    """Read verified weights whose header fits the network: by its tensors, or at least its size.

    What nobody vouches for is read only then. For the rest a wrong digest says more.
    """
    if info.sha256 is None:
        try:
            header = read_header(info.path)
        except OSError as error:
            raise WeightsNotFoundError(
                f"The weights file {info.path} cannot be read: {error.strerror or error}."
            ) from error
        _check_header(info, header, wanted)
    data = read_verified(info)
    _check_header(info, header_of(data, info.path), wanted)
    return data


def _check_header(info: WeightsInfo, header: Header, wanted: dict[str, Tensor] | None) -> None:
    if wanted is not None:
        _refuse(info, _misfits(wanted, header.tensors))
        return
    announced = sum(prod(tensor.shape) for tensor in header.tensors.values())
    if announced > most_numbers(info.config):
        _refuse(info, [f"{announced} numbers are too many"])


def most_numbers(config: NetConfig) -> int:
    """Return a number that no network has more numbers than, without building it."""
    return 20_000 * config.width**2 + 100 * config.width * config.vector + 1_000_000


def _misfits(wanted: dict[str, Tensor], found: dict[str, TensorInfo]) -> list[str]:
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} is left over" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        place, tensor = wanted[name], found[name]
        if tuple(place.shape) != tensor.shape:
            problems.append(f"{name} has shape {tensor.shape}, not {tuple(place.shape)}")
        elif place.is_floating_point() and tensor.dtype not in FLOATS:
            problems.append(f"{name} has the number format {tensor.dtype}")
    return problems


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    return [
        f"{name} holds a number that is not finite"
        for name, tensor in tensors.items()
        if not tensor.isfinite().all()
    ]


def _refuse(info: WeightsInfo, problems: list[str]) -> None:
    """Raise `WeightsMismatchError` if there are problems; the first few are named."""
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise WeightsMismatchError(
            f"{info.path} does not fit {info.config.network} ({info.config.cfa}): {shown}."
        )


def weights_path(folder: Path, name: str) -> Path:
    """Return the file of the weights of a name.

    Raises
    ------
    UsageError
        A name that is no file name.
    """
    if not name or Path(name).name != name:
        raise UsageError(f"'{name}' is not a name for weights.", hint="Use letters, digits and -.")
    return folder / f"{name}.safetensors"


def refuse_to_replace(path: Path, *, overwrite: bool) -> None:
    """Refuse, before the work, weights that cannot be written or may not be replaced.

    Raises
    ------
    OutputExistsError, OutputError
    """
    refuse_hopeless_output(path, replace=overwrite, hint="Use --overwrite.")


def save_weights(
    path: Path, network: Network, *, camera: str | None = None, **metadata: Any
) -> dict[str, Any]:
    """Save a network as safetensors, parameters in fp16, and return its manifest row.

    Parameters
    ----------
    path : Path
        The file name's stem becomes the name of the weights.
    network : Network
    camera : str, optional
    **metadata
        Further fields of the row, such as ``daylight_wb``, ``licence``, ``training``.

    Returns
    -------
    dict
        For ``manifest.json``; the header of the file holds the same without digest and size.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    import safetensors.torch
    import torch

    row = {
        "name": path.stem,
        "config": network.config.to_json(),
        "camera": camera,
        "encoding": "bt709",
        **metadata,
    }
    # Not the buffers: batch normalisation's counter and variances may leave fp16's range.
    halved = {name for name, _ in network.named_parameters()}
    tensors = {
        name: tensor.detach().cpu().to(torch.float16 if name in halved else tensor.dtype)
        for name, tensor in network.state_dict().items()
    }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(row, sort_keys=True)})
    return _written(path, data, row)


def save_quantized(
    path: Path, arrays: dict[str, NDArray[Any]], original: WeightsInfo, **metadata: Any
) -> dict[str, Any]:
    """Save int8 weights as safetensors, and return their manifest row.

    Parameters
    ----------
    path : Path
        The file name's stem becomes the name of the weights.
    arrays : dict
        As `openvino_graph` takes them.
    original : WeightsInfo
        What they were made from, whose details the row takes over.
    **metadata
        Further fields of the row.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    import safetensors.numpy

    row = {
        "name": path.stem,
        "config": original.config.to_json(),
        "camera": original.camera,
        "encoding": original.encoding,
        "daylight_wb": original.daylight_wb,
        "neutral_wb": original.neutral_wb,
        "licence": original.licence,
        "training": original.training,
        **({} if original.fusion is None else {"fusion": original.fusion.to_json()}),
        "quantized_from": {"name": original.name, "sha256": digest_of(original)},
        **metadata,
    }
    header = {METADATA_KEY: json.dumps(row, sort_keys=True)}
    return _written(path, safetensors.numpy.save(arrays, header), row)


def _written(path: Path, data: bytes, row: dict[str, Any]) -> dict[str, Any]:
    """Write a file of weights; return its row with digest and size."""
    with atomic_file(path) as file:
        file.write(data)
    digest = hashlib.sha256(data).hexdigest()
    return {**row, "file": path.name, "sha256": digest, "bytes": len(data)}
