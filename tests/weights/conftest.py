"""Fixtures of the tests of weights: a clean environment, a small network, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.weights.manifest import ENVIRONMENT_VARIABLE
from gia_cli.weights.storage import save_weights
from tests.weights.files import SMALL


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return build(SMALL)


@pytest.fixture
def saved(network: Network, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A small file of weights and its manifest row."""
    path = tmp_path / "small.safetensors"
    return path, save_weights(path, network, camera="TEST-1")
