"""The picture that scenes are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.pictures import Photo, save


@pytest.fixture
def day(tmp_path: Path, scene: Photo) -> Path:
    """The small scene as a picture on disk."""
    return save(tmp_path / "day.png", scene)
