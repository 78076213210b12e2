"""Weights: find, verify, load, save. Every load checks the SHA-256 that the manifest promises.

A folder of weights holds ``manifest.json`` and safetensors files. The project's own is
``weights/``, shipped inside the wheel; a file elsewhere may have a manifest beside it, or carries
its configuration in its header.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gia_cli.errors import (
    NoWeightsForCfaError,
    OutputExistsError,
    UsageError,
    WeightsCorruptError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.imaging.fusion import Shares
from gia_cli.nets import NetConfig, WhiteBalanceMode, build
from gia_cli.raw.cfa import PLANE_COLORS, CfaKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from gia_cli.nets.base import Network

MANIFEST = "manifest.json"
ENVIRONMENT_VARIABLE = "GIA_WEIGHTS"
# One metadata key that holds JSON: several keys make safetensors files differ from run to run.
_METADATA_KEY = "gia"
_MAX_HEADER = 100_000_000  # safetensors' own limit


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
    quantised_from: Original | None = None
    """Of int8 weights, which only OpenVINO runs; None for all others."""


def weights_folder() -> Path:
    """Find the weights that gia ships: inside the wheel, or ``weights/`` of a checkout."""
    installed = Path(__file__).parents[1] / "_weights"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "weights"


def list_weights(folder: Path | None = None) -> list[WeightsInfo]:
    """Read a folder's manifest.

    Raises
    ------
    WeightsError
        No manifest, or a broken one.
    """
    folder = folder or weights_folder()
    path = folder / MANIFEST
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["weights"]
        return [_info(row, folder) for row in rows]
    except FileNotFoundError:
        raise WeightsError(
            f"There is no {path}.", hint="Install gia again; its weights are missing."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a manifest of weights: {error}.") from error


def _info(row: dict[str, Any], folder: Path) -> WeightsInfo:
    daylight, neutral = row.get("daylight_wb"), row.get("neutral_wb")
    original = row.get("quantised_from")
    if row["encoding"] != "bt709":
        raise WeightsMismatchError(
            f"The weights '{row['name']}' make {row['encoding']} pictures, not bt709."
        )
    fusion = row.get("fusion")
    return WeightsInfo(
        name=row["name"],
        path=folder / row["file"],
        config=NetConfig.from_json(row["config"]),
        camera=row.get("camera"),
        daylight_wb=None if daylight is None else tuple(daylight),
        neutral_wb=None if neutral is None else tuple(neutral),
        encoding=row["encoding"],
        sha256=row["sha256"],
        size=row["bytes"],
        licence=row.get("licence"),
        training=row.get("training", {}),
        fusion=None if fusion is None else Shares.from_json(fusion),
        quantised_from=None if original is None else Original(**original),
    )


def find_weights(
    name_or_path: str | Path | None,
    kind: CfaKind | None = None,
    white_balance: WhiteBalanceMode | None = None,
) -> WeightsInfo:
    """Find weights by name or path, or the default for a colour filter array.

    Parameters
    ----------
    name_or_path : str, Path or None
        A name without its version ("gia-sony") means what ships of it. None: the environment's
        ``GIA_WEIGHTS``, else the manifest's first row for `kind` that is not int8.
    kind : "bayer" or "xtrans", optional
        The photo's array. Weights for the other one are refused.
    white_balance : "learned" or "as-shot", optional
        What the network must be told of the light; by default whatever comes first.

    Raises
    ------
    WeightsNotFoundError
        No such name or file.
    NoWeightsForCfaError
        None for this array, or the ones asked for are for the other one.
    """
    wanted = name_or_path or os.environ.get(ENVIRONMENT_VARIABLE) or None
    if wanted is None:
        return _default(kind, white_balance)
    info = _by_name_or_path(str(wanted))
    if white_balance not in (None, info.config.white_balance):
        raise WeightsMismatchError(
            f"The weights '{info.name}' were trained with the white balance "
            f"'{info.config.white_balance}', not '{white_balance}'.",
            hint="Leave out --white-balance, or --weights.",
        )
    if kind is not None and info.config.cfa != kind:
        raise NoWeightsForCfaError(
            f"The weights '{info.name}' are for {info.config.cfa} photos; this one is {kind}.",
            hint="Leave out --weights"
            + ("" if name_or_path else f" and {ENVIRONMENT_VARIABLE}")
            + " to have them chosen from the photo.",
        )
    return info


def _default(kind: CfaKind | None, white_balance: WhiteBalanceMode | None) -> WeightsInfo:
    for info in list_weights():
        is_wanted = white_balance in (None, info.config.white_balance)
        if kind in (None, info.config.cfa) and is_wanted and info.quantised_from is None:
            return info
    which = "" if white_balance is None else f" with the white balance '{white_balance}'"
    raise NoWeightsForCfaError(
        f"This version has no weights for {kind} photos{which} yet.",
        hint="Give your own with --weights FILE; 'gia weights list' shows what is there.",
    )


def find_quantised(info: WeightsInfo) -> WeightsInfo:
    """Find the int8 weights that were made from given ones, beside them or among the shipped.

    Parameters
    ----------
    info : WeightsInfo
        int8 weights are their own answer.

    Raises
    ------
    WeightsError
        There are none.
    """
    if info.quantised_from is not None:
        return info
    rows = [*_listed_beside(info.path), *list_weights()]
    if (found := _made_from(_digest(info), rows)) is not None:
        return found
    raise WeightsError(
        f"There are no int8 weights made from '{info.name}'.",
        hint=f"Make them with 'gia weights quantize {info.name}', "
        "or name those in another folder with --weights FILE.",
    )


def shipped_quantised(info: WeightsInfo) -> WeightsInfo | None:
    """Find the shipped int8 weights that were made from given shipped ones; None if there are none.

    What ships is told by its digest, wherever the file lies.
    """
    rows = list_weights()
    is_shipped = any(row.sha256 == info.sha256 for row in rows)
    return _made_from(info.sha256, rows) if is_shipped and info.sha256 else None


def _made_from(digest: str, rows: list[WeightsInfo]) -> WeightsInfo | None:
    made = (row for row in rows if row.quantised_from and row.quantised_from.sha256 == digest)
    return next(made, None)


def _digest(info: WeightsInfo) -> str:
    """Return the digest that the manifest promises, or that of a file that none lists."""
    return info.sha256 or hashlib.sha256(read_verified(info)).hexdigest()


def _by_name_or_path(wanted: str) -> WeightsInfo:
    shipped = list_weights()
    for info in shipped:
        if info.name == wanted:
            return info
    path = Path(wanted)
    if not path.is_file():
        if (of_family := _shipped_of_family(wanted, shipped)) is not None:
            return of_family
        names = ", ".join(info.name for info in shipped)
        raise WeightsNotFoundError(f"There are no weights '{wanted}' (shipped: {names}).")
    for info in _listed_beside(path):
        if info.path.name == path.name:
            return info
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for info in shipped:
        if info.sha256 == digest:  # a copy of shipped weights under another name
            return info
    return _from_header(path)


def _shipped_of_family(family: str, shipped: list[WeightsInfo]) -> WeightsInfo | None:
    """Find what ships as ``FAMILY-vN``; of several the one that the manifest has first."""
    named = re.compile(re.escape(family) + r"-v\d+")
    return next((info for info in shipped if named.fullmatch(info.name)), None)


def _listed_beside(path: Path) -> list[WeightsInfo]:
    """Read the manifest beside a file; none if there is none, or it is something else's."""
    try:
        manifest = json.loads((path.parent / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    is_ours = isinstance(manifest, dict) and "weights" in manifest
    return list_weights(path.parent) if is_ours else []


def _from_header(path: Path) -> WeightsInfo:
    """Describe a file that no manifest lists, by what its header says."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _MAX_HEADER)))
        row = json.loads(header["__metadata__"][_METADATA_KEY])
        row = {"name": path.stem, "encoding": "bt709", "sha256": None, "bytes": None} | row
        return _info({**row, "file": path.name}, path.parent)
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise WeightsMismatchError(
            f"{path} does not say what network it is for.",
            hint="Only safetensors files made by gia do.",
        ) from error


# ---------------------------------------------------------------- verify, load, save


def read_verified(info: WeightsInfo) -> bytes:
    """Read a weights file and check its SHA-256, so that the bytes used are the bytes checked.

    Raises
    ------
    WeightsNotFoundError
        The file is missing.
    WeightsCorruptError
        The digests differ; the message has both.
    """
    try:
        data = info.path.read_bytes()
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
        Not a safetensors file, or one with a number format that NumPy does not have.
    """
    import safetensors
    import safetensors.numpy

    data = read_verified(info)
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
    """
    if info.quantised_from is not None:
        raise WeightsMismatchError(
            f"The weights '{info.name}' are int8, which torch does not run here.",
            hint=f"Use those that they were made from, '{info.quantised_from.name}'; "
            "'gia enhance' runs int8 with OpenVINO on the CPU.",
        )
    import safetensors
    import safetensors.torch

    data = read_verified(info)
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise WeightsMismatchError(f"{info.path} is not a safetensors file: {error}.") from error
    network = build(info.config)
    _check_tensors(info, network.state_dict(), tensors)
    network.load_state_dict(tensors)  # each takes on its place's number format
    return network.eval()


def _check_tensors(info: WeightsInfo, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} is left over" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        if wanted[name].shape != found[name].shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
            problems.append(f"{name} has shape {shapes}")
        elif not found[name].isfinite().all():
            problems.append(f"{name} holds a number that is not finite")
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise WeightsMismatchError(
            f"{info.path} does not fit {info.config.network} ({info.config.cfa}): {shown}."
        )


class Adopted(NamedTuple):
    """What `adopt` did not simply copy."""

    translated: list[str]
    """Tensors that another colour filter array or white balance has changed."""
    missing: list[str]
    """Tensors that the donor does not have; they begin without an effect."""
    left_out: list[str]
    """Tensors that only the donor has."""


def adopt(
    network: Network, donor: Network, gains: tuple[float, float, float] | None = None
) -> Adopted:
    """Copy a trained network's weights, between arrays and white balances too; in place.

    Only the layers that read the planes, and the last one, which writes the shuffled picture,
    depend on the array. They are translated: the weights for a colour are shared out evenly among
    its planes, and those of the sub-pixels interpolated. Where one network is given the white
    balance and the other is not, the weights for a colour are divided or multiplied by its usual
    gain, so that the usual light looks the same to both (DnCNN and RIDNet, which add the planes
    to what they make of them, have that to learn anew).

    GIA-Net and SID-Net start from one another: the vector begins without an effect, or is left out,
    and what the module does beside it to the bottleneck goes into the layer that reads it.

    Parameters
    ----------
    network : Network
        Gets the weights.
    donor : Network
    gains : (3,), optional
        Usual white balance of R, G and B for that one of the two which is not given it, where they
        differ in that.

    Returns
    -------
    Adopted

    Raises
    ------
    WeightsMismatchError
        Anything else differs: another network or width.
    """
    wanted, given = network.state_dict(), donor.state_dict()
    readers, writers = network.plane_readers, network.picture_writers
    unlike = [n for n in wanted if n in given and wanted[n].shape != given[n].shape]
    names = {network.config.network, donor.config.network}
    is_kin = len(names) == 1 or names == {"gia-net", "sid-net"}
    if not is_kin or not set(unlike) <= {*readers, *writers}:
        raise WeightsMismatchError(
            f"A {network.config.network} of width {network.config.width} cannot start from a "
            f"{donor.config.network} of width {donor.config.width}."
        )
    new = {name: given[name] for name in wanted if name in given}
    new |= _without_vector(given, wanted) if len(names) > 1 else {}
    for name in unlike:
        if name in readers:
            new[name] = _share_out_planes(new[name], readers[name], donor.config, network.config)
        else:
            new[name] = _resample_subpixels(new[name], donor.config, network.config)
    translated = {name for name in wanted if name in given and new[name] is not given[name]}
    if gains is not None and network.config.white_balance != donor.config.white_balance:
        power = -1 if network.config.white_balance == "as-shot" else 1
        for name, unshuffled in readers.items():
            new[name] = _amplify_planes(new[name], unshuffled, network.config, gains, power)
        translated |= readers.keys()
    network.load_state_dict(new)
    return Adopted(
        [name for name in wanted if name in translated],
        missing=[name for name in wanted if name not in given],
        left_out=[name for name in given if name not in wanted],
    )


def _without_vector(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with which GIA-Net, its vector being nothing, and SID-Net do the same.

    GIA-Net mixes the bottleneck's channels before the first way up reads them, and adds a bias. A
    transposed convolution has one bias for its four sub-pixels, which get the mean.
    """
    import torch

    fuse, bias, up = "gia.fuse.weight", "gia.fuse.bias", "upsample.0.weight"
    if fuse in wanted:
        neutral = {n: t for n, t in wanted.items() if n.startswith("gia.")}
        channels = len(wanted[bias])
        neutral[bias] = torch.zeros_like(wanted[bias])
        neutral[fuse] = torch.zeros_like(wanted[fuse])
        neutral[fuse][:, :channels, 0, 0] = torch.eye(channels)
        return neutral
    channels = len(given[bias])
    mixing = given[fuse][:, :channels, 0, 0]
    folded = {up: torch.einsum("ji,johw->iohw", mixing, given[up])}
    if "upsample.0.bias" in wanted:
        added = torch.einsum("j,johw->ohw", given[bias], given[up]).mean((1, 2))
        folded["upsample.0.bias"] = given["upsample.0.bias"] + added
    return folded


def _amplify_planes(
    weight: Tensor,
    unshuffled: int,
    config: NetConfig,
    gains: tuple[float, float, float],
    power: int,
) -> Tensor:
    """Multiply the weights that read a colour's planes by a power of its gain."""
    factors = weight.new_tensor([gains[color] for color in PLANE_COLORS[config.cfa]]) ** power
    return weight * factors.repeat_interleave(unshuffled**2)[:, None, None]


def _share_out_planes(
    weight: Tensor, unshuffled: int, source: NetConfig, target: NetConfig
) -> Tensor:
    """Map weights that read one array's planes to another's; the sum over a colour stays.

    (out, planes * unshuffled**2, 3, 3): a pixel-unshuffle puts the parts of a plane side by side.
    """
    colors_in, colors_out = PLANE_COLORS[source.cfa], PLANE_COLORS[target.cfa]
    parts = weight.reshape(weight.shape[0], len(colors_in), unshuffled**2, *weight.shape[2:])
    shared = parts.new_zeros(parts.shape[0], len(colors_out), *parts.shape[2:])
    for plane, color in enumerate(colors_out):
        members = [i for i, other in enumerate(colors_in) if other == color]
        shared[:, plane] = parts[:, members].sum(1) / colors_out.count(color)
    return shared.flatten(1, 2)


def _resample_subpixels(tensor: Tensor, source: NetConfig, target: NetConfig) -> Tensor:
    """(3 * s * s, ...) for one pixel-shuffle factor to another, bilinearly."""
    import torch.nn.functional as F

    grid = tensor.reshape(3, source.scale, source.scale, -1).permute(0, 3, 1, 2)
    size = (target.scale, target.scale)
    resized = F.interpolate(grid, size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(3 * target.scale**2, *tensor.shape[1:])


def weights_path(folder: Path, name: str) -> Path:
    """Return the file of the weights of a name.

    Raises
    ------
    UsageError
        A name that is no file name.
    """
    if not name or Path(name).name != name:
        raise UsageError(f"'{name}' is no name for weights.", hint="Use letters, digits and -.")
    return folder / f"{name}.safetensors"


def refuse_to_replace(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputExistsError` if weights are there that nobody gave up."""
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} is already there.", hint="Use --overwrite.")


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
    data = safetensors.torch.save(tensors, {_METADATA_KEY: json.dumps(row, sort_keys=True)})
    return _written(path, data, row)


def save_quantised(
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
        What they were made from, whose facts the row takes over.
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
        "quantised_from": {"name": original.name, "sha256": _digest(original)},
        **metadata,
    }
    header = {_METADATA_KEY: json.dumps(row, sort_keys=True)}
    return _written(path, safetensors.numpy.save(arrays, header), row)


def _written(path: Path, data: bytes, row: dict[str, Any]) -> dict[str, Any]:
    """Write a file of weights; return its row with digest and size."""
    from gia_cli.files import atomic_file

    with atomic_file(path) as file:
        file.write(data)
    digest = hashlib.sha256(data).hexdigest()
    return {**row, "file": path.name, "sha256": digest, "bytes": len(data)}


def list_in_manifest(folder: Path, row: dict[str, Any]) -> None:
    """Write a row into a folder's manifest, in the place of one of the same name or at the end.

    Parameters
    ----------
    folder : Path
        Its manifest is made if there is none.
    row : dict
        From `save_weights`.

    Raises
    ------
    WeightsError
        There is a manifest, but not of weights.
    OutputError
        It cannot be written.
    """
    from gia_cli.files import atomic_file

    path = folder / MANIFEST
    rows: list[dict[str, Any]] = []
    if path.exists():
        list_weights(folder)  # refuses what is no manifest
        rows = json.loads(path.read_text(encoding="utf-8"))["weights"]
    names = [there["name"] for there in rows]
    if row["name"] in names:
        rows[names.index(row["name"])] = row
    else:
        rows.append(row)
    with atomic_file(path) as file:
        file.write((json.dumps({"weights": rows}, indent=2, ensure_ascii=False) + "\n").encode())
