"""int8 weights out of fp32 ones: scenes of photographs tell the ranges of what the layers read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli._version import __version__
from gia_cli.cameras import camera_of_kind
from gia_cli.data.augment import GivenBalance
from gia_cli.data.cache import ArrayCache
from gia_cli.data.synthetic import PhotoScenes, open_photos
from gia_cli.errors import DataError, UsageError
from gia_cli.files import make_folder
from gia_cli.inference.engine import FP32_LEVELS
from gia_cli.inference.select import require_openvino, require_quantizer
from gia_cli.nets.config import LEVELS
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import Runtime, cache_folder
from gia_cli.weights.manifest import find_weights, list_in_manifest
from gia_cli.weights.storage import (
    WeightsInfo,
    load_arrays,
    refuse_to_replace,
    save_quantized,
    weights_path,
)

# Packed pixels a side of a scene, where the photographs are large enough.
_SIDE = 256
_STRIDE = 2 ** (LEVELS - 1)
_HELP = "See 'gia weights quantize --help'."


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """What is quantized, by which scenes, and where it goes."""

    weights: str
    """Name or path of fp32 or fp16 weights."""
    name: str
    """Of the int8 weights; the file is ``name.safetensors``."""
    out: Path
    """Folder of the file and the manifest."""
    photos: tuple[Path, ...]
    """Photographs, or folders of them."""
    samples: int = 64
    """Scenes that the ranges are found by."""
    fp32_levels: int = FP32_LEVELS
    """Levels of the network, counted from full size down, that stay in fp32. What int8 loses shows
    as grain in dark flat areas, and comes of these."""
    seed: int = 0
    cache: Path | None = None
    """Where decoded photographs are kept; by default as `gia train` does."""
    overwrite: bool = False
    """Replace weights of that name."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be quantized."""
        weights_path(self.out, self.name)
        if self.samples < 1:
            raise UsageError(f"--samples must be positive, not {self.samples}.", hint=_HELP)
        if not 0 <= self.fp32_levels < LEVELS:
            raise UsageError(
                f"--fp32-levels must lie between 0 and {LEVELS - 1}, not {self.fp32_levels}.",
                hint=_HELP,
            )
        if not self.photos:
            raise UsageError("There are no photographs to simulate exposures of.", hint=_HELP)


def quantize(config: QuantizeConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Write int8 weights, and their row into the folder's manifest.

    Parameters
    ----------
    config : QuantizeConfig
    progress : Progress

    Returns
    -------
    dict
        The manifest's row.

    Raises
    ------
    DeviceError
        OpenVINO or NNCF is not installed, or the network has no OpenVINO graph.
    WeightsError
        The weights are not there, do not fit, or are int8 already.
    DataError
        Photographs that are missing or too small.
    OutputExistsError
        Weights of that name are there.
    """
    info = find_weights(config.weights)
    require_openvino(Runtime("cpu", "float32"), info.config)
    require_quantizer()
    if info.quantized_from is not None:
        raise UsageError(f"The weights '{info.name}' are int8 already.", hint=_HELP)
    path = weights_path(config.out, config.name)
    _check_target(path, info, overwrite=config.overwrite)
    arrays = load_arrays(info)
    photos = open_photos(list(config.photos), config.cache or cache_folder() / "photos", progress)
    scenes = _draw_crops(photos, info, config)

    from gia_cli.inference.openvino_graph import fp32_layers
    from gia_cli.quantization.openvino import quantized

    progress.stage("quantizing", 1)
    rounded = quantized(info.config, arrays, scenes, fp32_layers(config.fp32_levels))
    progress.advance()
    make_folder(config.out, "--out")
    how = {
        "scenes": config.samples,
        "fp32_levels": config.fp32_levels,
        "seed": config.seed,
        "gia": __version__,
    }
    row = save_quantized(path, rounded, info, quantization=how)
    list_in_manifest(config.out, row)
    return row


def _check_target(path: Path, info: WeightsInfo, *, overwrite: bool) -> None:
    if path.resolve() == info.path.resolve():
        raise UsageError(f"{path} is what is to be quantized.", hint="Give another --name.")
    refuse_to_replace(path, overwrite=overwrite)


def _draw_crops(
    photos: ArrayCache, info: WeightsInfo, config: QuantizeConfig
) -> list[NDArray[np.float32]]:
    """Draw a crop of each scene, as in training but for wrong white balances."""
    camera = camera_of_kind(info.config.cfa)
    given = info.config.white_balance == "as-shot"
    balance = GivenBalance(changed_share=0) if given else None
    scenes = PhotoScenes(
        photos, sorted(photos.keys), camera, balance=balance, floor=info.config.input_floor
    )
    side = min(_SIDE, scenes.largest_side() // _STRIDE * _STRIDE)
    if side == 0:
        raise DataError("The photographs are too small to simulate exposures of.")
    rng = np.random.default_rng(config.seed)
    return [scenes.pairs(rng, count=1, side=side)[0].planes for _ in range(config.samples)]
