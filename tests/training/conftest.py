"""Fixtures of the training tests: a few photographs, and a run of four steps on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from gia_cli.training.config import TrainConfig
from gia_cli.training.loop import train
from tests.conftest import in_one_thread


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small photographs."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for index in range(3):
        coarse = rng.integers(20, 235, (6, 6, 3))
        iio.imwrite(folder / f"{index}.png", coarse.repeat(32, 0).repeat(32, 1).astype(np.uint8))
    return folder


def four_steps(folder: Path, photos: Path) -> TrainConfig:
    """A run of four steps of a tiny network."""
    return TrainConfig(
        run=folder / "run",
        camera="sony",
        photos=(photos,),
        cache=folder / "cache",
        width=4,
        steps=4,
        sides=(16, 32),
        crops_per_photo=2,
        workers=0,
        device="cpu",
    )


@pytest.fixture
def config(tmp_path: Path, photos: Path) -> TrainConfig:
    """Such a run, not started yet; `trained` finishes it."""
    return four_steps(tmp_path, photos)


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of such a run, trained once."""
    folder = tmp_path_factory.mktemp("finished")
    with in_one_thread():
        train(four_steps(folder, photos))
    return folder / "run"


@pytest.fixture
def trained(config: TrainConfig, finished: Path) -> None:
    """Let `config` be finished already."""
    shutil.copytree(finished, config.run)
