"""Processes that make crops: as many as cores and memory allow, started as NCCL bears it."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gia_cli.data.crops import CropOptions
from gia_cli.training import workers
from gia_cli.training.config import TrainConfig
from gia_cli.training.distributed import Ranks
from gia_cli.training.workers import choose_workers, worker_start
from tests.progress_spy import ProgressSpy

CROPS = CropOptions(16, 2, (256, 256), 32, (384, 384))
LATE_BYTES = 32 * 384**2 * (4 + 12) * 4  # 302 MB


@pytest.fixture
def gpu_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """On 16 cores, with much memory."""
    monkeypatch.setattr(workers, "available_cores", lambda: 16)
    monkeypatch.setattr(workers, "free_bytes", lambda: 10**12)
    monkeypatch.setattr(workers, "_shared_bytes", lambda: math.inf)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return replace(config, recipe="gpu", simulation="auto", workers=None)


def chosen(config: TrainConfig, simulation: str = "numpy") -> tuple[int, int, list[str]]:
    progress = ProgressSpy()
    recipe = replace(config.full_recipe(), crops=CROPS)
    many, prefetch = choose_workers(config, recipe, simulation, progress)  # type: ignore[arg-type]
    return many, prefetch, progress.notes


def test_the_cores_but_two_make_crops(
    gpu_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(gpu_run) == (14, 4, [])
    assert chosen(gpu_run, "torch") == (0, 4, [])
    assert chosen(replace(gpu_run, workers=3)) == (3, 4, [])
    assert chosen(replace(gpu_run, recipe="small")) == (1, 4, [])
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "4")
    assert chosen(gpu_run) == (2, 4, [])
    monkeypatch.setattr(workers, "available_cores", lambda: 1)
    assert chosen(gpu_run) == (1, 4, [])


@pytest.mark.parametrize("where", ["free_bytes", "_shared_bytes"])
@pytest.mark.parametrize("batches", [0, 1, 2, 10, 28, 42, 56, 69, 70])
def test_what_they_make_fits_into_memory_late_in_the_run_too(
    gpu_run: TrainConfig, where: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the system ends one of them, where crops become larger: hours into the run."""
    room = 2 * batches * LATE_BYTES  # of which half is for batches
    monkeypatch.setattr(workers, where, lambda: room)
    many, prefetch, notes = chosen(gpu_run)
    assert many * (prefetch + 1) <= batches  # each makes one, and holds those it is ahead
    assert many == min(batches // 2, 14)  # without any, this process makes them
    assert prefetch == {70: 4, 69: 3, 56: 3, 42: 2}.get(batches, 1)
    short = "/dev/shm" if where == "_shared_bytes" else "memory"
    said = f"--workers {many}, not 14: their batches, of 302 MB each, must fit into {short}."
    assert notes == ([] if many == 14 else [said])
    assert chosen(replace(gpu_run, workers=14)) == (many, prefetch, notes)  # asked for, or not
    assert chosen(replace(gpu_run, workers=0))[::2] == (0, [])


def test_processes_of_one_machine_share_its_memory(
    gpu_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "available_cores", lambda: 64)
    monkeypatch.setattr(workers, "_shared_bytes", lambda: 2 * 4 * 10 * LATE_BYTES)
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "4")
    many, prefetch, notes = chosen(gpu_run)
    assert (many, prefetch) == (5, 1) and notes


def test_a_system_without_shared_memory_of_its_own_has_no_such_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(workers.shutil, "disk_usage", missing)  # type: ignore[attr-defined]
    assert workers._shared_bytes() == math.inf
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: SimpleNamespace(free=7))  # type: ignore[attr-defined]
    assert workers._shared_bytes() == 7


@pytest.mark.parametrize(
    ("kind", "world", "start"),
    [("cuda", 2, "spawn"), ("cuda", 1, None), ("cpu", 2, None)],
)
def test_beside_nccl_no_process_is_forked(kind: str, world: int, start: str | None) -> None:
    assert worker_start(torch.device(kind), Ranks(world=world)) == start
