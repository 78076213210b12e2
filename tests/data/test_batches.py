"""Batches: a pure function of seed, rank and step, whoever makes them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from multiprocessing import Value
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from gia_cli.data.augment import Pair
from gia_cli.data.auxiliary import AUXILIARY
from gia_cli.data.batches import Batch, Batches, SidCrops, load
from gia_cli.data.crops import CropOptions
from gia_cli.data.sid import SidFrames
from gia_cli.errors import DataError
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.raw.turns import TURNS
from gia_cli.simulation.dataset import simulate_tree
from gia_cli.simulation.options import SimulateOptions, TreeOptions
from gia_cli.training.clock import Clock
from gia_cli.training.config import TrainConfig
from gia_cli.training.distributed import Ranks
from gia_cli.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = CropOptions(photos=3, crops=2, sides=(8, 40), multiple=8)
LATE = replace(OPTIONS, late_sides=(16, 24), late_from=0.5)


class Numbers:
    """Photos of one number each, which all crops of a photo share."""

    has_auxiliary_targets = False

    def digest(self) -> str:
        return "numbers"

    def largest_side(self) -> int:
        return 1000

    def pairs(self, rng: np.random.Generator, *, count: int, side: int) -> list[Pair]:
        number = rng.random(dtype=np.float32)
        return [
            Pair(
                np.full((4, side, side), number, np.float32),
                rng.random((3, 2 * side, 2 * side), dtype=np.float32),
            )
            for _ in range(count)
        ]


def same(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(first[:3], second[:3], strict=True)
    )


def test_clean_planes_are_loaded_by_workers_too() -> None:
    class Known(Numbers):
        def pairs(self, rng: np.random.Generator, *, count: int, side: int) -> list[Pair]:
            own = super().pairs(rng, count=count, side=side)
            return [replace(pair, clean=pair.planes + 1) for pair in own]

    options = CropOptions(photos=1, crops=2, sides=(4, 4), multiple=4)
    for workers in (0, 1):
        made = Batches(Known(), options, seed=0, steps=2)
        for batch in load(made, range(2), workers=workers):
            assert isinstance(batch, Batch) and batch.clean is not None
            assert torch.equal(batch.clean, batch.planes + 1)


def side_of(batch: Batch) -> int:
    return batch[0].shape[-1]


# ---------------------------------------------------------------- a function of the step


def test_a_batch_holds_the_crops_of_each_photo_side_by_side() -> None:
    planes, target, targets, *_ = Batches(Numbers(), OPTIONS, seed=1)[0]
    side = planes.shape[-1]
    assert planes.shape == (6, 4, side, side)
    assert target.shape == (6, 3, 2 * side, 2 * side)
    assert targets.shape == (6, AUXILIARY)
    assert planes.dtype == target.dtype == targets.dtype == torch.float32
    numbers = planes[:, 0, 0, 0].tolist()
    assert numbers[::2] == numbers[1::2]
    assert len(set(numbers)) == 3


def test_a_batch_is_a_function_of_seed_rank_and_step() -> None:
    first, second = (Batches(Numbers(), OPTIONS, seed=7, rank=1) for _ in range(2))
    wanted = [first[step] for step in range(5)]
    for step in (4, 0, 3, 3, 1):  # in whatever order, however often
        assert same(second[step], wanted[step])


def test_steps_seeds_and_ranks_make_different_batches() -> None:
    numbers = {
        tuple(Batches(Numbers(), OPTIONS, seed=seed, rank=rank)[step][0][:, 0, 0, 0].tolist())
        for seed in range(3)
        for rank in range(3)
        for step in range(3)
    }
    assert len(numbers) == 27


def test_ranks_share_the_side() -> None:
    ranks = [Batches(Numbers(), OPTIONS, seed=7, rank=rank) for rank in range(3)]
    sides = [[side_of(batches[step]) for batches in ranks] for step in range(12)]
    assert all(len(set(step)) == 1 for step in sides)
    assert len({step[0] for step in sides}) > 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches_in_order(workers: int) -> None:
    batches = Batches(Numbers(), OPTIONS, seed=3)
    made = list(load(batches, range(4, 9), workers=workers))
    assert len(made) == 5
    for step, batch in zip(range(4, 9), made, strict=True):
        assert same(batch, batches[step])


@pytest.fixture
def spawning() -> Iterator[None]:
    """Start processes as Windows and macOS do: afresh, with what is pickled and nothing else."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def _ask_to_end_at_once(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Send a signal to each process as soon as it has been started."""
    start = multiprocessing.process.BaseProcess.start

    def start_and_ask(self: multiprocessing.process.BaseProcess) -> None:
        start(self)
        os.kill(self.pid or 0, number)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_and_ask)


@pytest.mark.slow
@pytest.mark.usefixtures("spawning")
def test_workers_that_inherit_nothing_make_the_same_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor do they end when they are asked to while they load their modules, which takes seconds."""
    if os.name == "posix":
        _ask_to_end_at_once(monkeypatch, signal.SIGTERM)
    batches = Batches(Numbers(), LATE, seed=3, done=Value("d", 0.5))
    made = list(load(batches, range(4, 6), workers=1))
    assert len(made) == 2
    for step, batch in zip(range(4, 6), made, strict=True):
        assert same(batch, batches[step])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no forks")
def test_workers_need_not_be_forked_for_a_run_by_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As beside NCCL. They see how far the run has come, for late sides are larger."""
    if os.name == "posix":
        _ask_to_end_at_once(monkeypatch, signal.SIGTERM)
    clock = Clock(Ranks(), None, 10.0, save_every_s=1, worker_start="spawn")
    clock.resume(5.0)
    batches = Batches(Numbers(), LATE, seed=3, done=clock.shared_done)
    made = list(load(batches, range(4, 6), workers=1, prefetch=1, start="spawn"))
    assert [same(batch, batches[step]) for step, batch in zip((4, 5), made, strict=True)] == [
        True,
        True,
    ]


class Niceness(Numbers):
    """Photos of the number by which their process gives way to others."""

    def pairs(self, rng: np.random.Generator, *, count: int, side: int) -> list[Pair]:
        planes = np.full((4, side, side), os.nice(0), np.float32)
        return [Pair(planes, np.zeros((3, 2 * side, 2 * side), np.float32))] * count


@pytest.mark.skipif(not hasattr(os, "nice"), reason="Windows has other priorities")
def test_workers_give_way_to_the_network() -> None:
    batches, own = Batches(Niceness(), OPTIONS, seed=3), os.nice(0)
    for workers, wanted in ((0, own), (1, min(own + 5, 19))):
        ((planes, *_),) = load(batches, range(1), workers=workers)
        assert (planes == wanted).all()
    assert os.nice(0) == own


def _children() -> set[multiprocessing.process.BaseProcess]:
    return set(multiprocessing.active_children())


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_workers_leave_ctrl_c_and_sigterm_to_their_parent() -> None:
    """Both go to the whole group, of which the parent decides when its work is done."""
    others = _children()
    made = load(Batches(Numbers(), OPTIONS, seed=1), range(100), workers=2)
    batches = [next(made)]
    (first, second) = _children() - others
    for number in (signal.SIGTERM, signal.SIGINT):
        for worker in (first, second):
            os.kill(worker.pid or 0, number)
    batches += [next(made) for _ in range(20)]  # more than they had made ahead
    assert len(batches) == 21
    made.close()
    assert not first.is_alive() and not second.is_alive()


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_that_are_starting_leave_them_too(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    _ask_to_end_at_once(monkeypatch, number)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    batches = Batches(Numbers(), OPTIONS, seed=3)
    made = list(load(batches, range(4), workers=2))
    assert [same(batch, batches[step]) for step, batch in enumerate(made)] == [True] * 4
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_worker_that_dies_is_told_of_when_its_batch_is_due() -> None:
    """Not in the midst of a step, whose half would then be saved."""
    others = _children()
    made = load(Batches(Numbers(), OPTIONS, seed=1), range(100), workers=1)
    next(made)
    (worker,) = _children() - others
    worker.kill()
    deadline = time.monotonic() + 10
    while worker.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)  # where torch's handler would raise
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(made)
    assert not _children() - others


_KILLED = """
import multiprocessing, os, signal
from gia_cli.data.batches import Batches, load
from tests.data.test_batches import OPTIONS, Numbers
made = load(Batches(Numbers(), OPTIONS, seed=1), range(100), workers=2)
next(made)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    """By itself torch looks only every 5 seconds whether it is there."""
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert process.wait() == -signal.SIGKILL
    assert len(pids) == 2
    deadline = time.monotonic() + 2
    while any(map(_is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_is_running, pids))


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_without_workers_only_the_batches_asked_for_are_made() -> None:
    batches = Batches(Numbers(), OPTIONS, seed=3)
    made: Iterator[Batch] = load(batches, range(2, 10**12), workers=0)
    for step in (2, 3):
        assert same(next(made), batches[step])


# ---------------------------------------------------------------- sides


def test_all_sides_between_the_limits_are_drawn(rng: np.random.Generator) -> None:
    options = replace(OPTIONS, sides=(10, 47))
    assert {options.draw_side(rng, 0.0) for _ in range(300)} == {16, 24, 32, 40}


def test_late_sides_hold_from_their_share_of_the_run_on(rng: np.random.Generator) -> None:
    options = replace(OPTIONS, late_sides=(64, 80), late_from=0.6)
    assert {options.draw_side(rng, 0.59) for _ in range(100)} == {8, 16, 24, 32, 40}
    assert {options.draw_side(rng, 0.6) for _ in range(100)} == {64, 72, 80}
    assert options.largest == 80
    assert OPTIONS.largest == 40


def test_late_sides_come_by_step_or_by_the_shared_clock() -> None:
    options = replace(OPTIONS, late_sides=(64, 64), late_from=0.5)
    by_step = Batches(Numbers(), options, seed=1, steps=10)
    assert [side_of(by_step[step]) == 64 for step in (0, 4, 5, 9)] == [False, False, True, True]
    clock = Value("d", 0.49)
    by_clock = Batches(Numbers(), options, seed=1, done=clock)
    assert side_of(by_clock[9]) < 64
    clock.value = 0.5
    assert side_of(by_clock[9]) == 64
    assert side_of(Batches(Numbers(), options, seed=1)[10**6]) < 64


# ---------------------------------------------------------------- SID


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> SidFrames:
    """One scene with a single short exposure, one with three."""
    folder = tmp_path_factory.mktemp("sid")
    rng = np.random.default_rng(9)
    for index in range(2):
        coarse = rng.integers(20, 235, (24, 32, 3)).astype(np.uint8)
        iio.imwrite(folder / f"{index}.png", coarse.repeat(4, 0).repeat(4, 1))
    options = TreeOptions(SimulateOptions(seed=2), ratios=(100, 250, 300), split="train")
    simulate_tree([folder], folder / "tree", options)
    path = folder / "tree" / "Sony_train_list.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[2:]))
    return SidFrames.open(folder / "tree", "sony", "train")


def places(square: NDArray[np.float32], picture: NDArray[np.uint16]) -> list[tuple[slice, slice]]:
    """Where in a picture a square of it lies."""
    wanted = np.rint(square.transpose(1, 2, 0) * 65535)
    size = len(wanted)
    corners = np.argwhere((picture == wanted[0, 0]).all(2)).tolist()
    found = [(slice(y, y + size), slice(x, x + size)) for y, x in corners]
    return [place for place in found if np.array_equal(picture[place], wanted)]


def test_a_crop_is_a_piece_of_the_frame_prepared_as_any_photo(frames: SidFrames) -> None:
    """Found by its target, the same piece of the mosaic gives the same network input."""
    crops = SidCrops(frames)
    turns = set()
    for seed in range(6):
        for pair in crops.pairs(np.random.default_rng(seed), count=2, side=16):
            assert pair.planes.shape == (4, 16, 16)
            assert pair.target.shape == (3, 32, 32)
            assert pair.planes.dtype == pair.target.dtype == np.float32
            matches = []
            for index, turn in product(range(len(frames)), TURNS):
                frame, truth = frames.frame(index)
                for place in places(pair.target, turn.apply(truth)):
                    piece = replace(frame, mosaic=turn.apply(frame.mosaic)[place])
                    planes = prepare(piece, frames.pairs[index].ratio).planes
                    matches.append(np.array_equal(planes, pair.planes))
                    turns.add(turn)
            assert sum(matches) == 1  # the exposures of one scene share their truth
    assert len(turns) > 3


def test_crops_of_a_photo_share_its_exposure(
    frames: SidFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert opened(frames, monkeypatch, draws=1, count=5).total() == 1


def test_scenes_are_drawn_evenly_then_their_exposures(
    frames: SidFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many short exposures a scene has."""
    assert SidCrops(frames).scenes == 2
    assert [pair.scene for pair in frames.pairs] == ["00001"] + 3 * ["00002"]
    drawn = opened(frames, monkeypatch, draws=400, count=1)
    assert set(drawn) == {0, 1, 2, 3}
    assert drawn[0] == pytest.approx(200, abs=50)  # five sigma
    for index in (1, 2, 3):
        assert drawn[index] == pytest.approx(400 / 6, abs=38)


def opened(
    frames: SidFrames, monkeypatch: pytest.MonkeyPatch, *, draws: int, count: int, side: int = 2
) -> Counter[int]:
    """How often each frame is opened for crops."""
    crops = SidCrops(frames)
    indices: Counter[int] = Counter()

    def frame(index: int) -> tuple[RawFrame, NDArray[np.uint16]]:
        indices[index] += 1
        return SidFrames.frame(frames, index)

    monkeypatch.setattr(frames, "frame", frame)
    rng = np.random.default_rng(1)
    for _ in range(draws):
        crops.pairs(rng, count=count, side=side)
    return indices


def test_the_largest_side_fits_and_the_next_does_not(frames: SidFrames) -> None:
    crops = SidCrops(frames)
    largest = crops.largest_side()
    rng = np.random.default_rng(1)
    for _ in range(5):
        (pair,) = crops.pairs(rng, count=1, side=largest)
        assert pair.planes.shape == (4, largest, largest)
    with pytest.raises(DataError, match=r"need 98 photosites a side; no photo has as many"):
        crops.pairs(rng, count=1, side=largest + 1)


@pytest.fixture(scope="module")
def mixed_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sizes on each list, and the first is neither the smallest nor the largest."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(4)
    for split in ("train", "val"):
        for index, size in enumerate([(72, 90), (48, 140), (130, 110)]):
            path = folder / split / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            iio.imwrite(path, rng.integers(0, 256, (*size, 3)).astype(np.uint8))
        options = TreeOptions(ratios=(100, 300), split=split)
        simulate_tree([folder / split], folder / "tree", options)
    return folder / "tree"


def test_frames_too_small_for_a_crop_are_passed_over(
    mixed_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = SidFrames.open(mixed_tree, "sony", "train")
    sizes = [frames.size(index) for index in range(6)]
    assert sizes == [(72, 90)] * 2 + [(48, 140)] * 2 + [(130, 110)] * 2
    crops = SidCrops(frames)
    assert crops.largest_side() == 54
    for side, fitting in ((54, {4, 5}), (35, {0, 1, 4, 5}), (36, {4, 5}), (23, set(range(6)))):
        drawn = opened(frames, monkeypatch, draws=60, count=2, side=side)
        assert set(drawn) == fitting
    with pytest.raises(DataError, match=r"Crops of 55 packed px need"):
        crops.pairs(np.random.default_rng(0), count=1, side=55)


@pytest.mark.slow
def test_a_tree_of_several_sizes_trains(mixed_tree: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        run=tmp_path / "run",
        camera="sony",
        data=mixed_tree,
        width=4,
        steps=6,
        sides=(32, 48),
        crops_per_photo=2,
        workers=0,
        device="cpu",
    )
    assert np.isfinite(train(config).validation_psnr)


def test_workers_map_the_frames_for_themselves(frames: SidFrames) -> None:
    batches = Batches(SidCrops(frames), replace(OPTIONS, sides=(8, 16)), seed=3)
    for step, batch in enumerate(load(batches, range(4), workers=2)):
        assert same(batch, batches[step])
