"""Weights: find them, by name, by file, or for a photo's colour filter array.

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
from pathlib import Path
from typing import Any

from gia_cli.errors import (
    NoWeightsForCfaError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.imaging.fusion import Shares
from gia_cli.nets.config import NetConfig, WhiteBalanceMode
from gia_cli.raw.cfa import CfaKind
from gia_cli.weights.storage import METADATA_KEY, Original, WeightsInfo, digest_of

MANIFEST = "manifest.json"
ENVIRONMENT_VARIABLE = "GIA_WEIGHTS"
_MAX_HEADER = 100_000_000  # safetensors' own limit


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


# Names that runs and weights of before 0.1.0 state, and what they are called now.
_RENAMED_KEYS = {
    "tells_facts": "vector_supervised",
    "nights": "scenes",
    "facts_weight": "auxiliary_weight",
    "evenness_weight": "checkerboard_weight",
    "depth_weight": "deep_supervision_weight",
    "cut_share": "skip_dropout_share",
    "cut_until": "skip_dropout_until",
    "given_until": "teacher_forcing_until",
}
_RENAMED_RECIPES = {"small-on": "finetune"}


def current_names(values: dict[str, Any]) -> dict[str, Any]:
    """Translate what older runs and weights state of their training into today's names.

    >>> current_names({"recipe": {"name": "small-on", "cut_share": 0.1}})
    {'recipe': {'name': 'finetune', 'skip_dropout_share': 0.1}}
    """
    translated = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = current_names(value)
        elif key in ("name", "recipe_name"):
            value = _RENAMED_RECIPES.get(value, value)
        translated[_RENAMED_KEYS.get(key, key)] = value
    return translated


def _info(row: dict[str, Any], folder: Path) -> WeightsInfo:
    daylight, neutral = row.get("daylight_wb"), row.get("neutral_wb")
    # The weights that ship, and their manifest, spell it as it was before 0.1.0.
    original = row.get("quantized_from", row.get("quantised_from"))
    if row["encoding"] != "bt709":
        raise WeightsMismatchError(
            f"The weights '{row['name']}' produce {row['encoding']} pictures, not bt709."
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
        training=current_names(row.get("training", {})),
        fusion=None if fusion is None else Shares.from_json(fusion),
        quantized_from=None if original is None else Original(**original),
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
        Whether the network infers the light or gets the balance; by default whatever comes first.

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
        if kind in (None, info.config.cfa) and is_wanted and info.quantized_from is None:
            return info
    which = "" if white_balance is None else f" with the white balance '{white_balance}'"
    raise NoWeightsForCfaError(
        f"This version has no weights for {kind} photos{which} yet.",
        hint="Give your own with --weights FILE; 'gia weights list' shows what is there.",
    )


def find_quantized(info: WeightsInfo) -> WeightsInfo:
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
    if info.quantized_from is not None:
        return info
    rows = [*_listed_beside(info.path), *list_weights()]
    if (found := _made_from(digest_of(info), rows)) is not None:
        return found
    raise WeightsError(
        f"There are no int8 weights made from '{info.name}'.",
        hint=f"Make them with 'gia weights quantize {info.name}', "
        "or name those in another folder with --weights FILE.",
    )


def shipped_quantized(info: WeightsInfo) -> WeightsInfo | None:
    """Find the shipped int8 weights that were made from given shipped ones; None if there are none.

    Shipped weights are recognised by their digest, wherever the file lies.
    """
    rows = list_weights()
    is_shipped = any(row.sha256 == info.sha256 for row in rows)
    return _made_from(info.sha256, rows) if is_shipped and info.sha256 else None


def _made_from(digest: str, rows: list[WeightsInfo]) -> WeightsInfo | None:
    made = (row for row in rows if row.quantized_from and row.quantized_from.sha256 == digest)
    return next(made, None)


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
        row = json.loads(header["__metadata__"][METADATA_KEY])
        row = {"name": path.stem, "encoding": "bt709", "sha256": None, "bytes": None} | row
        return _info({**row, "file": path.name}, path.parent)
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise WeightsMismatchError(
            f"{path} does not say what network it is for.",
            hint="Use a safetensors file made by gia.",
        ) from error


# ---------------------------------------------------------------- list


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
