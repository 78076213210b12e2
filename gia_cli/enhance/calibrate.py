"""Learn how far to trust the sensor: the shares of `imaging.fusion`, for given weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gia_cli._version import __version__
from gia_cli.data.derive import (
    DeriveConfig,
    crop_side,
    open_scenes,
    save_derived,
    target_path,
)
from gia_cli.enhance.black_level import black_correction, shows
from gia_cli.enhance.crop import binned
from gia_cli.errors import UsageError
from gia_cli.imaging.fusion import ShareCounter, frame_noise, measure
from gia_cli.inference.run import infer
from gia_cli.inference.select import open_engine
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.packing import prepare
from gia_cli.runtime import Runtime
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import load_network

_SIDE = 320  # packed pixels; the coarsest cells are 128
_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class CalibrateConfig(DeriveConfig):
    """What is calibrated, by which scenes, and where it goes.

    The weights must be given the white balance; the photographs are best such as the network was
    not trained on.
    """

    scenes: int = 150


def calibrate(config: CalibrateConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the weights again, with their shares, and their row into the folder's manifest.

    Parameters
    ----------
    config : CalibrateConfig
    progress : Progress
        Receives a stage "calibrating" with a step for each scene.

    Returns
    -------
    dict
        The manifest's row.

    Raises
    ------
    UsageError
        The weights infer the light, or clip at black: there is nothing to fuse. Or they would be
        replaced by what is made of them.
    WeightsError, DeviceError, DataError, OutputExistsError, OutputError
    """
    info = find_weights(config.weights)
    if info.config.white_balance != "as-shot" or info.config.input_floor is not None:
        raise UsageError(
            f"The weights '{info.name}' cannot be calibrated: that needs weights that get the "
            "white balance and see values below black.",
            hint="Train with --white-balance as-shot --no-clip-black.",
        )
    path = target_path(config, info)
    network = load_network(info)
    source = open_scenes(config, info, progress)
    matrix = np.array(source.camera.matrix)
    side = crop_side(source, _SIDE, _MULTIPLE)
    engine = open_engine(info, Runtime("cpu", "float32"), "auto", progress)
    counter = ShareCounter()
    progress.stage("calibrating", config.scenes)
    for index in range(config.scenes):
        rng = np.random.default_rng([config.seed, index])
        (scene,) = source.scenes(rng, count=1, side=side)
        frame, ratio, gains = scene.frame, scene.ratio, scene.gains
        assert gains is not None
        if shows(frame, ratio, gains):  # as a photo is computed
            found = black_correction(engine, binned(frame), ratio, gains, frame_noise(frame), info)
            frame = replace(frame, black_correction=found)
        picture = infer(engine, prepare(frame, ratio, gains, None))
        measured = measure(frame, ratio, gains, matrix)
        counter.add(picture, scene.target, measured)
        progress.advance()
    return save_derived(
        path,
        network,
        info,
        fusion=counter.shares().to_json(),
        calibration={"scenes": config.scenes, "seed": config.seed, "gia": __version__},
    )
