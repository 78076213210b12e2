"""Pairs with a ground truth, and what to evaluate on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gia_cli.evaluation.config import EvalConfig
from tests.networks import DEFAULT


@pytest.fixture(scope="session")
def tree(make_tree: Callable[..., Path]) -> Path:
    """Two pictures, two ratios: four pairs on the test list."""
    return make_tree(pictures=2, size=(128, 96), ratios=(100.0, 250.0))


@pytest.fixture
def config(tree: Path, tmp_path: Path) -> EvalConfig:
    return EvalConfig(
        data=tree,
        camera="sony",
        out=tmp_path / "out",
        weights=(DEFAULT,),
        isp=("libraw",),
        device="cpu",
    )
