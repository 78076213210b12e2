"""int8 weights from fp32 ones: simulated scenes give the ranges of what the layers read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli._version import __version__
from gia_cli.data.augment import GivenBalance
from gia_cli.data.derive import DeriveConfig, crop_side, open_scenes, target_path
from gia_cli.errors import UsageError
from gia_cli.files import make_folder
from gia_cli.inference.engine import FP32_LEVELS
from gia_cli.inference.select import require_openvino, require_quantizer
from gia_cli.nets.config import LEVELS
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import Runtime
from gia_cli.weights.manifest import find_weights, list_in_manifest
from gia_cli.weights.storage import WeightsInfo, load_arrays, save_quantized

# Packed pixels a side of a scene, where the photographs are large enough.
_SIDE = 256
_STRIDE = 2 ** (LEVELS - 1)
_HELP = "See 'gia weights quantize --help'."


@dataclass(frozen=True, slots=True)
class QuantizeConfig(DeriveConfig):
    """What is quantized, by which scenes, and where it goes."""

    scenes: int = 64
    """Simulated exposures that the ranges are found by."""
    fp32_levels: int = FP32_LEVELS
    """Levels of the network, counted from full size down, that stay in fp32. What int8 loses shows
    as grain in dark flat areas, and comes of these."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be quantized."""
        DeriveConfig.__post_init__(self)
        if not 0 <= self.fp32_levels < LEVELS:
            raise UsageError(
                f"--fp32-levels must be between 0 and {LEVELS - 1}, not {self.fp32_levels}.",
                hint=_HELP,
            )


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
    path = target_path(config, info)
    arrays = load_arrays(info)
    scenes = _draw_crops(config, info, progress)

    from gia_cli.inference.openvino_graph import fp32_layers
    from gia_cli.quantization.openvino import quantized

    progress.stage("quantizing", 1)
    rounded = quantized(info.config, arrays, scenes, fp32_layers(config.fp32_levels))
    progress.advance()
    make_folder(config.out, "--out")
    how = {
        "scenes": config.scenes,
        "fp32_levels": config.fp32_levels,
        "seed": config.seed,
        "gia": __version__,
    }
    row = save_quantized(path, rounded, info, quantization=how)
    list_in_manifest(config.out, row)
    return row


def _draw_crops(
    config: QuantizeConfig, info: WeightsInfo, progress: Progress = SILENT
) -> list[NDArray[np.float32]]:
    """Draw a crop of each scene, as in training but for wrong white balances."""
    scenes = open_scenes(config, info, progress, balance=GivenBalance(changed_share=0))
    side = crop_side(scenes, _SIDE, _STRIDE)
    rng = np.random.default_rng(config.seed)
    return [scenes.pairs(rng, count=1, side=side)[0].planes for _ in range(config.scenes)]
