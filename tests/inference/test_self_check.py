"""The test picture: an honest card passes in every number format, a wrong one does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gia_cli.inference.engine import NotFiniteError
from gia_cli.inference.self_check import (
    difference,
    measured_difference,
    sample_planes,
    tolerance,
)
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.nets.config import NETWORKS
from gia_cli.runtime import NumberFormat, Runtime
from gia_cli.weights.manifest import find_weights
from tests.inference.failing import Card, black, fine, smeared, sticky
from tests.networks import lively, small

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.random((3, 64, 48), np.float32)


def test_a_picture_differs_where_it_differs_most(rng: np.random.Generator) -> None:
    one = picture(rng)
    assert difference(one, one) == 0
    other = one.copy()
    other[:, 16:32, 32:48] += 0.5
    assert difference(other, one) == pytest.approx(0.5 / one.std())
    other[:, :16] += 0.1  # less
    assert difference(other, one) == pytest.approx(0.5 / one.std())
    flat = np.zeros_like(one)
    assert difference(flat + 0.01, flat) == pytest.approx(1, rel=1e-4)


def test_the_test_picture_is_always_the_same_and_in_range() -> None:
    for planes in (4, 9):
        sample = sample_planes(planes)
        assert np.array_equal(sample, sample_planes(planes))
        assert sample.dtype == np.float32
        assert sample.min() >= 0 and sample.max() <= 1
        assert all(side % 16 == 0 for side in sample.shape[1:])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_rounding_is_tolerated_for_every_network(name: str, dtype: NumberFormat) -> None:
    engine = TorchEngine(lively(small(name)), Runtime("cpu", "float32"))
    planes = sample_planes(4)
    exact = engine.run(planes, lambda share: None)
    rough = TorchEngine(engine._network, Runtime("cpu", dtype)).run(planes, lambda share: None)
    assert 0 < difference(rough, exact) < tolerance(dtype)


@pytest.mark.slow
def test_shipped_weights_stay_far_within_the_tolerance() -> None:
    engine = TorchEngine.load(find_weights("gia-sony-lite"), Runtime("cpu", "float32"))
    planes = sample_planes(4)
    exact = engine.run(planes, lambda share: None)
    for dtype in ("float16", "bfloat16"):
        rough = TorchEngine(engine._network, Runtime("cpu", dtype)).run(planes, lambda share: None)
        assert difference(rough, exact) < tolerance(dtype) / 10


def test_a_wrong_card_is_told_from_an_honest_one() -> None:
    network = lively(small("gia-net"))
    assert measured_difference(Card(network, fine)) < tolerance("float16") / 10
    assert measured_difference(Card(network, smeared)) > 5 * tolerance("float16")
    with pytest.raises(NotFiniteError):
        measured_difference(Card(network, black))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        measured_difference(Card(network, sticky))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_true_card_passes(name: str, dtype: NumberFormat) -> None:
    engine = TorchEngine(lively(small(name)), Runtime("cuda", dtype))
    assert measured_difference(engine) < tolerance(dtype)


def test_a_cpu_has_nothing_to_be_compared_with() -> None:
    assert (
        measured_difference(TorchEngine(lively(small("sid-net")), Runtime("cpu", "float32"))) == 0
    )
