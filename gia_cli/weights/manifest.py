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
import reprlib
from pathlib import Path
from typing import Any

from gia_cli.errors import (
    NoWeightsForCfaError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.files import atomic_file, identity, is_file, is_folder, is_taken, open_plain
from gia_cli.imaging.fusion import Shares
from gia_cli.nets.config import NetConfig, WhiteBalanceMode
from gia_cli.raw.cfa import CfaKind
from gia_cli.weights.header import read_header, read_json
from gia_cli.weights.storage import METADATA_KEY, Original, WeightsInfo, digest_of

MANIFEST = "manifest.json"
ENVIRONMENT_VARIABLE = "GIA_WEIGHTS"
#: Stands for the smaller weights of a sensor.
LITE = "lite"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_GAIN = 1000.0
# What comes of a row that is not as gia writes it.
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _words(error: Exception) -> str:
    """Say in one short line what is wrong, whoever wrote what."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"[:200]
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]


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
        return [_info(row, folder) for row in read_json(path)["weights"]]
    except FileNotFoundError:
        raise WeightsError(
            f"There is no {path}.", hint="Install gia again; its weights are missing."
        ) from None
    except _BROKEN as error:
        raise WeightsError(f"{path} is not a manifest of weights: {_words(error)}.") from error


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
    """Make a row, which anybody may have written, into facts.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError, OverflowError
        It is not as gia writes rows.
    WeightsMismatchError
        It is, but describes what this version cannot use.
    """
    # The weights that ship, and their manifest, spell it as it was before 0.1.0.
    original = row.get("quantized_from", row.get("quantised_from"))
    name = _text(row, "name")
    if row["encoding"] != "bt709":
        encoding = reprlib.repr(row["encoding"])
        raise WeightsMismatchError(
            f"The weights '{name[:80]}' make {encoding} pictures, not bt709."
        )
    fusion, size, digest = row.get("fusion"), row["bytes"], row["sha256"]
    file = _text(row, "file")
    if Path(file).name != file:
        raise ValueError(f"'{file}' does not lie beside it")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError("bytes is no number of bytes")
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise ValueError("sha256 is no SHA-256")
    return WeightsInfo(
        name=name,
        path=folder / file,
        config=NetConfig.from_json(row["config"]),
        camera=None if row.get("camera") is None else _text(row, "camera"),
        daylight_wb=_balance(row, "daylight_wb"),
        neutral_wb=_balance(row, "neutral_wb"),
        encoding=row["encoding"],
        sha256=digest,
        size=size,
        licence=None if row.get("licence") is None else _text(row, "licence"),
        training=current_names(row.get("training", {})),
        fusion=None if fusion is None else Shares.from_json(fusion),
        quantized_from=None if original is None else _original(original),
    )


def _text(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is no text")
    return value


def _balance(row: dict[str, Any], key: str) -> tuple[float, float, float] | None:
    """Read a white balance: gains for red, green and blue."""
    gains = row.get(key)
    if gains is None:
        return None
    is_triple = isinstance(gains, list | tuple) and len(gains) == 3
    if not is_triple or not all(_is_gain(gain) for gain in gains):
        raise ValueError(f"{key} is not three positive numbers")
    red, green, blue = map(float, gains)
    return red, green, blue


def _is_gain(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < _MAX_GAIN


def _original(values: dict[str, Any]) -> Original:
    original = Original(**values)
    if not isinstance(original.name, str) or not _DIGEST.fullmatch(original.sha256):
        raise ValueError("quantized_from names no weights")
    return original


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
            + " to have them chosen from the photo, or name some for each sensor with a comma "
            "between them.",
        )
    return info


def choose_weights(
    names: str | Path | None,
    kind: CfaKind | None = None,
    white_balance: WhiteBalanceMode | None = None,
) -> WeightsInfo:
    """Find the weights for a sensor among those asked for, as cards hold photos of several.

    Parameters
    ----------
    names : str, Path or None
        As for `find_weights`; several, with commas between them, of which each sensor gets its own;
        or ``lite``: the smaller weights where a sensor has some, else its default.
    kind : "bayer" or "xtrans", optional
        By default the first are returned, when all are found.
    white_balance : "learned" or "as-shot", optional

    Raises
    ------
    WeightsError
        As `find_weights`; or two of them are for one sensor.
    """
    wanted = str(names or os.environ.get(ENVIRONMENT_VARIABLE) or "")
    if wanted == LITE:
        for info in list_weights():
            is_lite = LITE in info.name.split("-") and info.quantized_from is None
            if is_lite and kind in (None, info.config.cfa):
                return find_weights(info.name, kind, white_balance)
        return _default(kind, white_balance)
    if "," not in wanted or is_file(Path(wanted)):
        return find_weights(names, kind, white_balance)
    found: dict[CfaKind, WeightsInfo] = {}
    for name in filter(None, map(str.strip, wanted.split(","))):
        info = find_weights(name, None, white_balance)
        if info.config.cfa in found:
            raise WeightsMismatchError(
                f"'{found[info.config.cfa].name}' and '{info.name}' are both for {info.config.cfa} "
                "photos.",
                hint="Give one for each kind of sensor.",
            )
        found[info.config.cfa] = info
    if not found:  # only commas
        return find_weights(wanted, kind, white_balance)
    if kind is None:
        return next(iter(found.values()))
    if kind not in found:
        raise NoWeightsForCfaError(
            f"None of the weights '{wanted}' are for {kind} photos.",
            hint="Add some: 'gia weights list' shows what there is.",
        )
    return found[kind]


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
        hint=f"Make them with 'gia weights quantize {info.name} --name mine-int8 --photos PICTURES "
        "--out FOLDER', or name those in another folder with --weights FILE.",
    )


def shipped_quantized(info: WeightsInfo) -> WeightsInfo | None:
    """Find the shipped int8 weights that were made from given shipped ones; None if there are none.

    What ships is told by its digest, wherever the file lies: the file's own, if it is another than
    the shipped one, for what was named is to be what is run.

    Raises
    ------
    WeightsNotFoundError, WeightsCorruptError
        Of such a file; see `read_verified`.
    """
    rows = list_weights()
    found = next((row for row in rows if info.sha256 and row.sha256 == info.sha256), None)
    if found is None:
        return None
    digest = found.sha256 if found.path == info.path else digest_of(info)
    return _made_from(str(digest), rows)


def _made_from(digest: str, rows: list[WeightsInfo]) -> WeightsInfo | None:
    made = (row for row in rows if row.quantized_from and row.quantized_from.sha256 == digest)
    return next(made, None)


def _by_name_or_path(wanted: str) -> WeightsInfo:
    shipped = list_weights()
    for info in shipped:
        if info.name == wanted:
            return info
    path = Path(wanted)
    if not is_file(path):
        if (of_family := _shipped_of_family(wanted, shipped)) is not None:
            return of_family
        names = ", ".join(info.name for info in shipped)
        what = f": that is {_no_file(path)}" if is_taken(path) else ""
        raise WeightsNotFoundError(f"There are no weights '{wanted}'{what} (shipped: {names}).")
    for info in _listed_beside(path):
        if info.path.name == path.name:
            return info
    for info in shipped:
        if _is_copy(path, info):  # of shipped weights, under another name
            return info
    return _from_header(path)


def _no_file(path: Path) -> str:
    if is_folder(path):
        return "a folder"
    return "a link that leads nowhere" if identity(path) is None else "a pipe, socket or device"


def _is_copy(path: Path, info: WeightsInfo) -> bool:
    """Tell whether a file holds what a row promises; only one of its size is read."""
    try:
        with open_plain(path) as (file, size):
            return (
                size == info.size and hashlib.file_digest(file, "sha256").hexdigest() == info.sha256
            )
    except OSError:
        return False  # what cannot be read is told of later


def _shipped_of_family(family: str, shipped: list[WeightsInfo]) -> WeightsInfo | None:
    """Find what ships as ``FAMILY-vN``; of several the one that the manifest has first."""
    named = re.compile(re.escape(family) + r"-v\d+")
    return next((info for info in shipped if named.fullmatch(info.name)), None)


def _listed_beside(path: Path) -> list[WeightsInfo]:
    """Read the manifest beside a file; none if there is none, or it is something else's."""
    try:
        manifest = read_json(path.parent / MANIFEST)
    except (OSError, ValueError):
        return []
    is_ours = isinstance(manifest, dict) and "weights" in manifest
    return list_weights(path.parent) if is_ours else []


def _from_header(path: Path) -> WeightsInfo:
    """Describe a file that no manifest lists, by what its header says."""
    try:
        row = json.loads(read_header(path).metadata[METADATA_KEY])
        row = {"name": path.stem, "encoding": "bt709"} | row
        return _info({**row, "file": path.name, "sha256": None, "bytes": None}, path.parent)
    except _BROKEN as error:
        raise WeightsMismatchError(
            f"{path} does not say what network it is for: {_words(error)}.",
            hint="Only safetensors files made by gia do.",
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
    path = folder / MANIFEST
    rows: list[dict[str, Any]] = []
    if is_taken(path):
        list_weights(folder)  # refuses what is no manifest
        rows = read_json(path)["weights"]
    names = [there["name"] for there in rows]
    if row["name"] in names:
        rows[names.index(row["name"])] = row
    else:
        rows.append(row)
    with atomic_file(path) as file:
        file.write((json.dumps({"weights": rows}, indent=2, ensure_ascii=False) + "\n").encode())
