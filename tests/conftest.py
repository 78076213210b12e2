"""Fixtures that several tests share: a seeded generator, photos, an enhancer.

Under pytest-xdist each worker has one core, and session fixtures of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from gia_cli import runtime
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.raw.writer import A_SHOT, write_arw, write_raf
from gia_cli.runtime import CONFIG_VARIABLE
from gia_cli.simulation.dataset import simulate_tree
from gia_cli.simulation.options import SimulateOptions, TreeOptions
from gia_cli.simulation.sensor import simulate_mosaic
from gia_cli.training import log
from tests import local_cluster

WB = (2.02, 1.0, 2.46)
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
DRAWN = {"_tensorboard": log._tensorboard, "draw_curves": log.draw_curves}

if IS_WORKER:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_settings() -> Iterator[None]:
    """No `gia.toml` of whoever runs the tests has a say in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_VARIABLE, "")
        yield


@pytest.fixture(scope="session", autouse=True)
def one_core_per_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker's share of the processor is one core, as a container's may be; OpenVINO asks."""
    with pytest.MonkeyPatch.context() as patch:
        if IS_WORKER:
            share = tmp_path_factory.mktemp("share") / "cpu.max"
            share.write_text("100000 100000")
            patch.setattr(runtime, "_CGROUP_CPU_FILE", str(share))
        yield


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For tests that start processes which want the cores: the workers run them in turn."""
    if IS_WORKER:
        with FileLock(tmp_path_factory.getbasetemp().parent / "alone.lock"):
            yield
    else:
        yield


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw what a training run draws."""
    for name, function in DRAWN.items():
        monkeypatch.setattr(log, name, function)


@pytest.fixture(scope="session", autouse=True)
def no_plots() -> Iterator[None]:
    """Leave out what a training run draws, except in tests that use `plots`.

    Curves and TensorBoard's log both take longer than a tiny run's steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        board = SimpleNamespace(add_scalar=lambda *_: None, close=lambda: None)
        patch.setattr(log, "_tensorboard", lambda *_: board)
        patch.setattr(log, "draw_curves", lambda *_: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def memory_goes_back() -> Iterator[None]:
    """A training run lets the allocator keep what is freed, to the end of the process.

    Here that process goes on to tests that look at what it holds. For the whole session, because
    fixtures of modules train before those of functions are set up.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gia_cli.training.setup.keep_freed_memory", lambda: False)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def scene() -> NDArray[np.uint8]:
    """A small picture with gradients, edges and colours, (96, 144, 3)."""
    rows, cols = np.mgrid[:96, :144].astype(np.float32)
    red = 40 + 180 * cols / 144
    green = 30 + 150 * rows / 96
    blue = 60 + 120 * ((rows // 16 + cols // 16) % 2)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


@pytest.fixture
def make_arw(tmp_path: Path, scene: NDArray[np.uint8]) -> Callable[..., Path]:
    """Write a small scene as an ARW, 100 times too dark: ``make_arw("a.ARW")``."""

    def make(name: str = "night.ARW", *, orientation: int = 1, seed: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        mosaic = simulate_mosaic(scene, "ILCE-7SM2", ratio=100, iso=1600, wb=WB, rng=generator)
        shot = replace(A_SHOT, exposure_s=0.1)
        write_arw(path, mosaic, shot=shot, wb=WB, orientation=orientation)
        return path

    return make


@pytest.fixture
def make_raf(tmp_path: Path, scene: NDArray[np.uint8]) -> Callable[..., Path]:
    """Write a small scene as a RAF."""

    def make(name: str = "night.RAF") -> Path:
        path = tmp_path / name
        mosaic = simulate_mosaic(
            scene, "X-T2", ratio=100, iso=1600, wb=WB, rng=np.random.default_rng(1)
        )
        write_raf(path, mosaic, wb=WB)
        return path

    return make


@pytest.fixture(scope="session")
def make_tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Simulate a test list: ``make_tree(pictures=2, size=(128, 96), ratios=(100.0,))``."""

    def make(pictures: int, size: tuple[int, int], ratios: tuple[float, ...]) -> Path:
        folder = tmp_path_factory.mktemp("tree")
        rng = np.random.default_rng(3)
        for index in range(pictures):
            coarse = rng.integers(20, 235, (3, 4, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize(size).save(folder / f"{index}.png")
        options = TreeOptions(
            exposure=SimulateOptions(seed=1), iso=1600, ratios=ratios, split="test"
        )
        simulate_tree([folder], folder / "tree", options)
        return folder / "tree"

    return make


@pytest.fixture(scope="session")
def enhancer() -> Enhancer:
    """The shipped weights, on the CPU, loaded once."""
    return Enhancer.from_weights(device="cpu")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, which wait for each other on a busy machine."""
    with in_one_thread():
        yield


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A Ray cluster of this machine's own, which a module's tests share."""
    with local_cluster.two_workers():
        yield


@contextmanager
def in_one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
