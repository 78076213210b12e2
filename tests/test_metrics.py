"""Measures of closeness: identity, known values, monotony."""

from __future__ import annotations

import numpy as np
import pytest

from gia_cli.metrics import psnr


def test_psnr_of_known_errors(rng: np.random.Generator) -> None:
    target = rng.random((3, 8, 9))
    assert psnr(target, target) == float("inf")
    assert psnr(target + 0.1, target) == pytest.approx(20)
    assert psnr(target, target + 0.01) == pytest.approx(40)


def test_psnr_falls_with_noise(rng: np.random.Generator) -> None:
    target = rng.random((3, 64, 64))
    noise = rng.normal(size=target.shape)
    scores = [psnr(target + sigma * noise, target) for sigma in (0.01, 0.05, 0.2)]
    assert scores == sorted(scores, reverse=True)
