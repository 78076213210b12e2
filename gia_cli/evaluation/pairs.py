"""Pairs of a short exposure and its ground truth, as a list names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CAMERA_OF, KINDS
from gia_cli.data.sid import SidPair, read_list, require_files, select, with_exif_times
from gia_cli.errors import DataError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.imaging.color import bt709_encode
from gia_cli.imaging.photos import read_photo, shrink
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.cfa import CANONICAL
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RawFrame, read_exposure, read_raw, render_truth
from gia_cli.sid_layout import FAMILIES, plan_path
from gia_cli.simulation.manifest import fingerprint, read_plan


def open_pairs(config: EvalConfig, progress: Progress = SILENT) -> list[SidPair]:
    """Read the list and choose the pairs; all their files must be there.

    Raises
    ------
    DataError
    """
    pairs = select(read_list(config.data, config.camera, config.split), config.protocol)
    if not pairs:
        raise DataError(
            f"The list of {config.data} has no photos for the protocol '{config.protocol}'."
        )
    if config.limit is not None and config.limit < len(pairs):
        chosen = np.linspace(0, len(pairs) - 1, config.limit).round().astype(int)
        progress.note(
            f"Only {config.limit} of {len(pairs)} pairs: not the score of the whole list."
        )
        pairs = [pairs[index] for index in chosen]
    require_files(pairs, progress)
    return pairs


class Truths:
    """Ground truths; the last one is kept, for a scene has many short exposures.

    Parameters
    ----------
    config : EvalConfig
        Which truth, and where the tree lies.

    Raises
    ------
    DataError
        The photographs are asked for, and the tree has no plan that names them.
    """

    def __init__(self, config: EvalConfig) -> None:
        self._last: tuple[Path, NDArray[np.float32], ShotInfo] | None = None
        self._photographs = None if config.truth == "long" else _Photographs(config)

    def read(self, pair: SidPair) -> tuple[NDArray[np.float32], ShotInfo]:
        """Return the truth, (H, W, 3) float32 BT.709-encoded, and the long exposure's EXIF.

        Raises
        ------
        RawError, DataError
        """
        if self._last is None or self._last[0] != pair.long:
            if self._photographs is None:
                truth = np.multiply(render_truth(pair.long), 1 / 65535, dtype=np.float32)
            else:
                truth = self._photographs.read(pair.scene)
            self._last = pair.long, truth, read_exposure(pair.long)
        return self._last[1:]


class _Photographs:
    """The photographs that a tree was simulated from, by scene."""

    def __init__(self, config: EvalConfig) -> None:
        camera = CAMERA_OF[config.camera]
        path = plan_path(config.data, FAMILIES[camera])
        plan = read_plan(path)
        if plan is None:
            raise DataError(
                f"There is no {path}: the photographs of this tree are not known.",
                hint="--truth photograph needs a tree made by gia simulate --sid.",
            )
        self._tree = config.data
        self._pictures = {picture.scene: picture for picture in plan.pictures}
        self._period = len(CANONICAL[KINDS[config.camera]])
        self._shrink = int(plan.options["shrink"])
        self._gain = np.float32(2.0 ** plan.options["ev"])

    def read(self, scene: str) -> NDArray[np.float32]:
        """Read a photograph as its sensor saw it, without the filters: (H, W, 3), BT.709."""
        known = self._pictures.get(scene)
        if known is None:
            raise DataError(f"The tree's plan has no scene {scene}.")
        path = self._tree / known.path
        if known.digest is not None and fingerprint(path, self._tree).digest != known.digest:
            raise DataError(
                f"{path} is not the photograph that scene {scene} was made from.",
                hint="Put it back, or simulate the tree again.",
            )
        linear = shrink(read_photo(path), self._shrink) * self._gain
        height, width = (side // self._period * self._period for side in linear.shape[:2])
        return bt709_encode(np.clip(linear[:height, :width], 0, 1))


def read_pair(pair: SidPair, truths: Truths) -> tuple[RawFrame, NDArray[np.float32], float]:
    """Read a short exposure, its ground truth (H, W, 3), and the ratio by the files' EXIF.

    Raises
    ------
    RawError
        A file that cannot be read.
    DataError
        Files that are not what their names say, or of different sizes.
    """
    frame = read_raw(pair.short)
    truth, long = truths.read(pair)
    ratio = with_exif_times(pair, frame.shot, long).ratio
    if truth.shape[:2] != frame.mosaic.shape:
        raise DataError(f"{pair.short} and {pair.long} are of different sizes.")
    return frame, truth, ratio
