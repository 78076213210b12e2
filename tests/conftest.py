"""Fixtures that several tests share: a seeded generator, photos of every kind, networks."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
