"""Learn how far to trust the sensor: the shares of `imaging.fusion`, for given weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gia_cli._version import __version__
from gia_cli.cameras import camera_of_kind
from gia_cli.data.augment import GivenBalance
from gia_cli.data.synthetic import PhotoScenes, open_photos
from gia_cli.errors import DataError, UsageError
from gia_cli.files import make_folder
from gia_cli.imaging.fusion import ShareCounter, measure
from gia_cli.inference.run import infer
from gia_cli.inference.select import open_engine
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.packing import prepare
from gia_cli.runtime import Runtime, cache_folder
from gia_cli.simulation.sensor import CAMERAS
from gia_cli.weights.manifest import find_weights, list_in_manifest
from gia_cli.weights.storage import load_network, refuse_to_replace, save_weights, weights_path

_SIDE = 320  # packed pixels; the coarsest cells are 128
_MULTIPLE = 16
_HELP = "See 'gia weights calibrate --help'."


@dataclass(frozen=True, slots=True)
class CalibrateConfig:
    """What is calibrated, by which scenes, and where it goes."""

    weights: str
    """Name or path of fp32 or fp16 weights that are given the white balance."""
    name: str
    """Of the calibrated weights; the file is ``name.safetensors``."""
    out: Path
    """Folder of the file and the manifest."""
    photos: tuple[Path, ...]
    """Photographs, or folders of them; best such as the network was not trained on."""
    scenes: int = 150
    """Simulated short exposures to learn from."""
    seed: int = 0
    cache: Path | None = None
    """Where decoded photographs are kept; by default as `gia train` does."""
    overwrite: bool = False
    """Replace weights of that name."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be calibrated."""
        weights_path(self.out, self.name)
        if self.scenes < 1:
            raise UsageError(f"--scenes must be positive, not {self.scenes}.", hint=_HELP)
        if not self.photos:
            raise UsageError("There are no photographs to simulate scenes of.", hint=_HELP)


def calibrate(config: CalibrateConfig, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the weights again, with their shares, and their row into the folder's manifest.

    Parameters
    ----------
    config : CalibrateConfig
    progress : Progress
        Hears of a stage "calibrating" with a step for each scene.

    Returns
    -------
    dict
        The manifest's row.

    Raises
    ------
    UsageError
        The weights infer the light, or clip at black: there is nothing to fuse.
    WeightsError, DeviceError, DataError, OutputExistsError, OutputError
    """
    info = find_weights(config.weights)
    if info.config.white_balance != "as-shot" or info.config.input_floor is not None:
        raise UsageError(
            f"The weights '{info.name}' cannot be calibrated: only those are that are given the "
            "white balance and see what lies below black.",
            hint="Train with --white-balance as-shot --no-clip-black.",
        )
    path = weights_path(config.out, config.name)
    refuse_to_replace(path, overwrite=config.overwrite)
    network = load_network(info)
    camera = camera_of_kind(info.config.cfa)
    photos = open_photos(list(config.photos), config.cache or cache_folder() / "photos", progress)
    source = PhotoScenes(photos, sorted(photos.keys), camera, balance=GivenBalance(), floor=None)
    side = min(_SIDE, source.largest_side() // _MULTIPLE * _MULTIPLE)
    if side == 0:
        raise DataError("The photographs are too small to simulate scenes of.")
    engine = open_engine(info, Runtime("cpu", "float32"), "auto", progress)
    counter = ShareCounter()
    progress.stage("calibrating", config.scenes)
    for index in range(config.scenes):
        rng = np.random.default_rng([config.seed, index])
        (scene,) = source.scenes(rng, count=1, side=side)
        assert scene.gains is not None
        picture = infer(engine, prepare(scene.frame, scene.ratio, scene.gains, None))
        measured = measure(scene.frame, scene.ratio, scene.gains, np.array(CAMERAS[camera].matrix))
        counter.add(picture, scene.target, measured)
        progress.advance()
    make_folder(config.out, "--out")
    row = save_weights(
        path,
        network,
        camera=info.camera,
        daylight_wb=info.daylight_wb,
        neutral_wb=info.neutral_wb,
        licence=info.licence,
        training=info.training,
        fusion=counter.shares().to_json(),
        calibration={"scenes": config.scenes, "seed": config.seed, "gia": __version__},
    )
    list_in_manifest(config.out, row)
    return row
