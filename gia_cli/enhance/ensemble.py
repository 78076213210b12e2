"""The self-ensemble: one picture as the mean of eight, of the mosaic turned and mirrored.

A network's errors depend on how the photo lies; what it gets right does not. Known from
super-resolution (Timofte et al., "Seven ways to improve example-based single image super
resolution", CVPR 2016; Lim et al., EDSR, 2017). A mosaic, unlike a picture, changes its phase when
it is turned: see `turn_frame`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gia_cli.inference.engine import Engine, Term
from gia_cli.inference.fallback import Running
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.run import infer
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.packing import PackedMosaic
from gia_cli.raw.turns import TURNS, Turn

_STEPS = 100  # of each turn, on the bar


def infer_turned(
    engine: Engine | Running,
    packed: Callable[[Turn], PackedMosaic],
    shape: tuple[int, int],
    options: InferOptions | None = None,
    progress: Progress = SILENT,
    terms: Callable[[Turn], Callable[[Engine], Sequence[Term]]] | None = None,
) -> NDArray[np.float32]:
    """Run a network on a photo laid in eight ways, and average the pictures.

    Parameters
    ----------
    engine : Engine or Running
    packed : function
        Packs the photo, turned.
    shape : (H, W)
        Photosites of the photo, as it lies.
    options : InferOptions, optional
    progress : Progress
        Receives one stage, "network", for all eight.
    terms : function, optional
        Of the photo, turned; as for `infer`.

    Returns
    -------
    (3, H, W) float32
        As `infer`: the mean of the BT.709-encoded pictures, not clipped.

    Raises
    ------
    OutOfMemoryError
        As `infer`.
    """
    options = options or InferOptions()
    # Zeros that are written, not promised: a plan that starts from what the process holds leaves
    # room for this picture. One is made at a time and added.
    total = np.full((3, *shape), 0, np.float32)
    bar = _OneBar(progress)
    for turn in TURNS:
        of_turn = None if terms is None else terms(turn)
        total += _laid_back(infer(engine, packed(turn), options, bar, of_turn), turn)
        bar.end_turn()
        # The photos beside this one have taken by now what they will, and there was room for it.
        options = replace(options, reserved=0, is_beside=False)
    total /= len(TURNS)
    return total


def _laid_back(picture: NDArray[np.float32], turn: Turn) -> NDArray[np.float32]:
    """Turn a (3, h, w) picture back; a view."""
    return turn.undo(picture.transpose(1, 2, 0)).transpose(2, 0, 1)


class _OneBar:
    """A `Progress` that makes one stage of the eight, and says nothing twice."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._said: set[str] = set()
        self._turns_done = self._reported = 0
        self._total, self._done = 1, 0
        progress.stage("network", _STEPS * len(TURNS))

    def end_turn(self) -> None:
        """Fill the bar up to where the next turn begins."""
        self._turns_done += 1
        self._done = 0
        self._report()

    def _report(self) -> None:
        reached = int(_STEPS * (self._turns_done + min(self._done / self._total, 1)) + 1e-6)
        # A turn that starts again, with smaller tiles, takes nothing back.
        if reached > self._reported:
            self._progress.advance(reached - self._reported)
            self._reported = reached

    def photo(self, name: str, number: int, total: int) -> None:
        self._progress.photo(name, number, total)

    def stage(self, name: str, total: int) -> None:
        self._total, self._done = max(total, 1), 0

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        self._report()

    def status(self, message: str) -> None:
        self._progress.status(message)

    def note(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._progress.note(message)

    def detail(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._progress.detail(message)
