"""Weights made from other weights with simulated scenes: what all such commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gia_cli.cameras import camera_of_kind
from gia_cli.data.augment import GivenBalance
from gia_cli.data.synthetic import PhotoScenes, open_photos, split_photos
from gia_cli.errors import DataError, UsageError
from gia_cli.files import identity, make_folder
from gia_cli.progress import SILENT, Progress
from gia_cli.weights.manifest import list_in_manifest
from gia_cli.weights.storage import WeightsInfo, refuse_to_replace, save_weights, weights_path

if TYPE_CHECKING:
    from gia_cli.nets.base import Network

_HELP = "See 'gia weights --help'."


@dataclass(frozen=True, slots=True)
class DeriveConfig:
    """Which weights are changed, by scenes of which photographs, and where the result goes."""

    weights: str
    """Name or path of fp32 or fp16 weights."""
    name: str
    """Of the new weights; the file is ``name.safetensors``."""
    out: Path
    """Folder of the file and the manifest."""
    photos: tuple[Path, ...]
    """Photographs, or folders of them."""
    scenes: int = 100
    """Simulated short exposures."""
    seed: int = 0
    """Of the scenes."""
    cache: Path | None = None
    """Where decoded photographs are kept; by default as `gia train` does."""
    overwrite: bool = False
    """Replace weights of that name."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be made."""
        weights_path(self.out, self.name)
        if self.scenes < 1:
            raise UsageError(f"--scenes must be positive, not {self.scenes}.", hint=_HELP)
        if self.seed < 0:
            raise UsageError(f"--seed must be 0 or more, not {self.seed}.", hint=_HELP)
        if not self.photos:
            raise UsageError("There are no photographs to simulate scenes from.", hint=_HELP)


def target_path(config: DeriveConfig, info: WeightsInfo) -> Path:
    """Return the file to write.

    Raises
    ------
    UsageError
        It is the one that is read.
    OutputExistsError
        There are weights of that name already, and `overwrite` is not set.
    """
    path = weights_path(config.out, config.name)
    if identity(path) == identity(info.path):  # which is there
        raise UsageError(
            f"{path} holds the weights that the new ones are made from.",
            hint="Give another --name.",
        )
    refuse_to_replace(path, overwrite=config.overwrite)
    return path


def open_scenes(
    config: DeriveConfig,
    info: WeightsInfo,
    progress: Progress = SILENT,
    *,
    balance: GivenBalance | None = None,
    training_only: bool = False,
) -> PhotoScenes:
    """Decode the photographs, and make scenes of them as the weights' network sees them.

    Parameters
    ----------
    config : DeriveConfig
    info : WeightsInfo
    progress : Progress
    balance : GivenBalance, optional
        How the white balance is chosen, if the network is given one; by default as in training.
    training_only : bool
        Leave out the photographs that `gia train` keeps for validation.

    Raises
    ------
    DataError
        Photographs that are missing or cannot be read.
    """
    photos = open_photos(list(config.photos), config.cache, progress)
    keys = split_photos(photos)[0] if training_only else sorted(photos.keys)
    is_given = info.config.white_balance == "as-shot"
    return PhotoScenes(
        photos,
        keys,
        camera_of_kind(info.config.cfa),
        balance=(balance or GivenBalance()) if is_given else None,
        floor=info.config.input_floor,
    )


def crop_side(scenes: PhotoScenes, wanted: int, multiple: int) -> int:
    """Return the side of crops in packed pixels: as wanted, or less for small photographs.

    Raises
    ------
    DataError
        Not even `multiple` packed pixels fit.
    """
    side = min(wanted, scenes.largest_side()) // multiple * multiple
    if side == 0:
        raise DataError("The photographs are too small to simulate scenes from.")
    return side


def origin(info: WeightsInfo) -> dict[str, str | None]:
    """Name the weights that others were made from; no SHA-256 means that no manifest lists them."""
    return {"name": info.name, "sha256": info.sha256}


def save_derived(
    path: Path, network: Network, info: WeightsInfo, **metadata: Any
) -> dict[str, Any]:
    """Save weights made from others, and list them beside their file.

    Parameters
    ----------
    path : Path
    network : Network
    info : WeightsInfo
        What they were made of, whose camera, licence and training the row takes over.
    **metadata
        Further fields of the row, or others in place of those.

    Returns
    -------
    dict
        The manifest's row.

    Raises
    ------
    OutputError, WeightsError
    """
    make_folder(path.parent, "--out")
    inherited = {
        "camera": info.camera,
        "daylight_wb": info.daylight_wb,
        "neutral_wb": info.neutral_wb,
        "licence": info.licence,
        "training": info.training,
    }
    row = save_weights(path, network, **inherited | metadata)
    list_in_manifest(path.parent, row)
    return row
