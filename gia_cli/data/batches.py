"""Batches for the training loop: step number in, tensors out.

A batch is a pure function of (seed, rank, step). So any number of workers makes the same batches, a
resumed run continues with exactly those that an undisturbed run would have seen, and two ranks
never see the same.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator
from contextlib import suppress
from multiprocessing.sharedctypes import Synchronized
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gia_cli.cameras import CAMERA_MATRICES, camera_of_kind
from gia_cli.data.augment import GivenBalance, Pair, crop, draw_corner, draw_turn, window
from gia_cli.data.crops import CropOptions
from gia_cli.data.sid import SidFrames
from gia_cli.errors import DataError
from gia_cli.imaging.color import bt709_through, rebalance_matrix
from gia_cli.imaging.fusion import Measurement
from gia_cli.interrupts import deaf_children, end_with_parent
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR
from gia_cli.raw.packing import prepare, usable_gains

_WORKER_NICENESS = 5
#: Batches that each worker may be ahead, where there is room for them.
PREFETCH = 4
_CHILD_SIGNAL = getattr(signal, "SIGCHLD", None)  # not on Windows
_LARGEST_STREAM = 2**31 + 3  # beyond all steps
_BLOWN = 0.995  # code value; LibRaw's renderings are clipped, and hardly ever exactly 1


class Batch(NamedTuple):
    """N crops; those of one photo are neighbours."""

    planes: Tensor
    """(N, C, h, w) float32."""
    target: Tensor
    """(N, 3, s*h, s*w) float32; the pictures that they should become."""
    auxiliary: Tensor
    """(N, AUXILIARY) float32; see `auxiliary_targets`."""
    measured: list[Measurement]
    """What each picture is fused with; empty where the source does not measure."""
    clean: Tensor | None = None
    """(N, C, h, w) float32; see `Pair.clean`. None where the source does not hand them on."""


class Source(Protocol):
    """Where crops come from: simulated exposures or SID."""

    def digest(self) -> str:
        """Return a digest of the contents of these data."""

    @property
    def has_auxiliary_targets(self) -> bool:
        """Whether its crops come with auxiliary targets; see `auxiliary_targets`."""

    def largest_side(self) -> int:
        """Side in packed pixels of the largest possible crop."""

    def pairs(self, rng: np.random.Generator, *, count: int, side: int) -> list[Pair]:
        """Draw one photo and `count` crops of `side` packed px from it."""


class SidCrops:
    """Crops of SID's pairs.

    Parameters
    ----------
    frames : SidFrames
    balance : GivenBalance, optional
        For a network that gets the white balance.
    floor : 0 or None
        `NetConfig.input_floor`.
    """

    #: They are not known for real photos.
    has_auxiliary_targets = False

    def __init__(
        self, frames: SidFrames, balance: GivenBalance | None = None, floor: int | None = 0
    ) -> None:
        self.frames = frames
        self._balance = balance
        self._floor = floor
        self._matrix = np.array(CAMERA_MATRICES[camera_of_kind(frames.kind)])
        by_scene: dict[str, list[int]] = {}
        for index, pair in enumerate(frames.pairs):
            by_scene.setdefault(pair.scene, []).append(index)
        self._scenes = list(by_scene.values())
        self._kind = frames.kind
        # A simulated tree's pictures may be of any sizes; SID's are all alike.
        self._shortest = [min(frames.size(index)) for index in range(len(frames))]

    @property
    def scenes(self) -> int:
        """Number of scenes: of long exposures."""
        return len(self._scenes)

    def digest(self) -> str:
        """Return a digest of these pairs, whatever their paths."""
        return self.frames.digest()

    def largest_side(self) -> int:
        """Side in packed pixels of the largest crop that some frame still holds."""
        period: int = CANONICAL[self._kind].shape[0]
        whole_periods = max(self._shortest) // period - 1
        return whole_periods * period // PACK_FACTOR[self._kind]

    def pairs(self, rng: np.random.Generator, *, count: int, side: int) -> list[Pair]:
        """Draw a scene, one of its short exposures (as SID does), and `count` turned crops.

        Raises
        ------
        DataError
            No frame is that large.
        """
        scenes = self._fitting(side)
        index = int(rng.choice(scenes[int(rng.integers(len(scenes)))]))
        frame, target = self.frames.frame(index)
        ratio = self.frames.pairs[index].ratio
        gains = rebalance = None
        if self._balance is not None:
            gains = self._balance.draw(frame.as_shot_wb, rng)
            rebalance = rebalance_matrix(self._matrix, gains / usable_gains(frame.as_shot_wb))
        found = []
        for _ in range(count):
            top, left = draw_corner(frame.mosaic.shape, window(frame.kind, side), rng)
            piece, picture = crop(frame, target, top=top, left=left, side=side, turn=draw_turn(rng))
            planes = prepare(piece, ratio, gains, self._floor).planes
            truth = np.multiply(picture.transpose(2, 0, 1), 1 / 65535, dtype=np.float32)
            if rebalance is not None:
                truth = _rebalanced(truth, rebalance)
            found.append(Pair(planes, truth))
        return found

    def _fitting(self, side: int) -> list[list[int]]:
        """Find the frames of each scene that hold a crop; scenes without any are left out."""
        size = window(self._kind, side)
        fitting = [
            [index for index in scene if self._shortest[index] >= size] for scene in self._scenes
        ]
        scenes = [scene for scene in fitting if scene]
        if not scenes:
            raise DataError(
                f"Crops of {side} packed px need {size} photosites a side; no photo has as many."
            )
        return scenes


def _rebalanced(truth: NDArray[np.float32], matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Give a rendering, (3, H, W) BT.709, another white balance; what is blown stays white."""
    blown = truth.min(axis=0) >= _BLOWN
    shown = np.clip(bt709_through(matrix, truth), 0, 1)
    shown[:, blown] = 1
    return shown


class Batches(Dataset[Batch]):
    """All batches of a run, by step.

    Parameters
    ----------
    source : Source
    options : CropOptions
    seed, rank : int
    done : float or shared double
        Share of the run that is behind: a function of the step (``1 / steps`` each) or, for a run
        that is measured by the clock, a shared number that the loop keeps up to date.
    """

    def __init__(
        self,
        source: Source,
        options: CropOptions,
        *,
        seed: int,
        rank: int = 0,
        steps: int | None = None,
        done: Synchronized[float] | None = None,
    ) -> None:
        self.source = source
        self.options = options
        self.seed = seed
        self.rank = rank
        self.steps = steps
        self.done = done

    def __getitem__(self, step: int) -> Batch:
        """Make a step's batch of photos * crops crops."""
        return self._make(self.side(step), step)

    def largest(self) -> Batch:
        """Make a batch of the largest crops that any step may get; none gets this one."""
        multiple = self.options.multiple
        return self._make(self.options.largest // multiple * multiple, _LARGEST_STREAM)

    def _make(self, side: int, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step, self.rank + 1])
        pairs: list[Pair] = []
        for _ in range(self.options.photos):
            pairs += self.source.pairs(rng, count=self.options.crops, side=side)
        planes = torch.from_numpy(np.stack([pair.planes for pair in pairs]))
        target = torch.from_numpy(np.stack([pair.target for pair in pairs]))
        auxiliary = torch.from_numpy(np.stack([pair.auxiliary for pair in pairs]))
        measured = [pair.measured for pair in pairs if pair.measured is not None]
        known = [pair.clean for pair in pairs if pair.clean is not None]
        clean = torch.from_numpy(np.stack(known)) if known else None
        return Batch(planes, target, auxiliary, measured, clean)

    def side(self, step: int) -> int:
        """Draw the side of a step's crops in packed pixels.

        Ranks share it, or the one with the small crops would wait for the other.
        """
        return self.options.draw_side(np.random.default_rng([self.seed, step]), self._done(step))

    def _done(self, step: int) -> float:
        if self.steps is not None:
            return step / self.steps
        return 0.0 if self.done is None else float(self.done.value)


def load(
    batches: Batches,
    steps: range,
    *,
    workers: int,
    pin: bool = False,
    prefetch: int = PREFETCH,
    start: str | None = None,
) -> Generator[Batch]:
    """Make the batches of some steps, in order, in worker processes.

    Parameters
    ----------
    batches : Batches
    steps : range
    workers : int
        0 makes them in this process.
    pin : bool
        Put them into page-locked memory, for CUDA.
    prefetch : int
        Batches that each worker may be ahead.
    start : str, optional
        How workers are started, of `multiprocessing`'s names; by default its own.

    Raises
    ------
    RuntimeError
        "DataLoader worker ... exited": of a worker that has died, when its batch is due and at no
        other moment.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=prefetch if workers else None,
        multiprocessing_context=start if workers else None,
        worker_init_fn=_start_worker if workers else None,
    )
    before = signal.getsignal(_CHILD_SIGNAL) if _CHILD_SIGNAL else None
    others = set(multiprocessing.active_children())
    afresh = (start or multiprocessing.get_start_method()) != "fork"
    with deaf_children(signal.SIGINT, signal.SIGTERM, afresh=afresh):  # see `_start_worker`
        iterator = iter(loader)
    own = set(multiprocessing.active_children()) - others
    if _CHILD_SIGNAL and signal.getsignal(_CHILD_SIGNAL) != before:
        # torch would tell of a worker's death in the midst of whatever this process is doing.
        signal.signal(_CHILD_SIGNAL, before)
    try:
        yield from iterator
    finally:
        del iterator  # asks the workers to end, and waits for a while
        for worker in own:
            worker.kill()


def _start_worker(_: int) -> None:
    """Leave the cores to the network: a worker computes in NumPy, on one thread, and gives way.

    And when it ends, to the parent; by itself torch sees only every 5 s whether that has gone.
    """
    end_with_parent()
    torch.set_num_threads(1)
    if hasattr(os, "nice"):  # not on Windows
        with suppress(OSError):  # a sandbox may forbid even this
            os.nice(_WORKER_NICENESS)
