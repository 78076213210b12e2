"""Pairs of a short exposure and its ground truth, as a list names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli.data.sid import SidPair, read_list, require_files, select, with_exif_times
from gia_cli.errors import DataError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RawFrame, read_exposure, read_raw, render_truth


def open_pairs(config: EvalConfig, progress: Progress = SILENT) -> list[SidPair]:
    """Read the list and choose the pairs; all their files must be there.

    Raises
    ------
    DataError
    """
    pairs = select(read_list(config.data, config.camera, config.split), config.protocol)
    if not pairs:
        raise DataError(f"The list of {config.data} has no photo of '{config.protocol}'.")
    if config.limit is not None and config.limit < len(pairs):
        chosen = np.linspace(0, len(pairs) - 1, config.limit).round().astype(int)
        progress.note(f"Only {config.limit} of {len(pairs)} pairs: no score of the whole list.")
        pairs = [pairs[index] for index in chosen]
    require_files(pairs, progress)
    return pairs


class Truths:
    """Ground truths; the last one is kept, for a scene has many short exposures."""

    def __init__(self) -> None:
        self._last: tuple[Path, NDArray[np.float32], ShotInfo] | None = None

    def read(self, path: Path) -> tuple[NDArray[np.float32], ShotInfo]:
        """Render a long exposure: (H, W, 3) float32, BT.709-encoded."""
        if self._last is None or self._last[0] != path:
            levels = render_truth(path)
            shot = read_exposure(path)
            self._last = path, np.multiply(levels, 1 / 65535, dtype=np.float32), shot
        return self._last[1:]


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
    truth, long = truths.read(pair.long)
    ratio = with_exif_times(pair, frame.shot, long).ratio
    if truth.shape[:2] != frame.mosaic.shape:
        raise DataError(f"{pair.short} and {pair.long} are of different sizes.")
    return frame, truth, ratio
