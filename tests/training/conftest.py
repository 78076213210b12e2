"""Fixtures of the training tests: a few photographs, and a run of four steps on them."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from gia_cli.training.config import TrainConfig


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small photographs."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for index in range(3):
        coarse = rng.integers(20, 235, (6, 6, 3))
        iio.imwrite(folder / f"{index}.png", coarse.repeat(32, 0).repeat(32, 1).astype(np.uint8))
    return folder


@pytest.fixture
def config(tmp_path: Path, photos: Path) -> TrainConfig:
    """A run of four steps of a tiny network."""
    return TrainConfig(
        run=tmp_path / "run",
        camera="sony",
        photos=(photos,),
        cache=tmp_path / "cache",
        width=4,
        steps=4,
        sides=(16, 32),
        crops_per_photo=2,
        workers=0,
        device="cpu",
    )
