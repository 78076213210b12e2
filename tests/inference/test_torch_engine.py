"""The torch engine by itself; `test_infer` runs every network through it."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
import torch

from gia_cli.inference import torch_engine
from gia_cli.inference.torch_engine import TorchEngine, _true_fp32
from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS
from gia_cli.runtime import NumberFormat, Runtime
from tests.networks import lively, small

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Runtime("cpu", "float32")


def planes(rng: np.random.Generator, height: int = 48, width: int = 64) -> np.ndarray:
    return rng.random((4, height, width), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_segments_make_what_the_whole_makes(name: str, rng: np.random.Generator) -> None:
    engine = TorchEngine(lively(small(name)), CPU)
    x = planes(rng)
    shares: list[float] = []
    whole = engine.run(x, shares.append)
    terms: list[torch.Tensor] = []
    for index in range(len(engine.vector_halos)):
        feature = engine.measure(engine.encode(x), terms)
        mean = feature.mean(axis=(1, 2), dtype=np.float64)
        terms.append(engine.global_term(index, mean))
    picture = engine.render(engine.encode(x), terms)
    assert picture.shape == (3, 96, 128)
    assert picture.dtype == np.float32
    assert np.abs(picture - whole).max() < 4e-5 * whole.std()
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_memory_scales_with_the_number_format_but_for_the_picture(dtype: NumberFormat) -> None:
    network, picture = build(small("gia-net")), 3 * 2**2
    engine = TorchEngine(network, Runtime("cpu", dtype))
    numbers, bytes_ = network.bytes_per_pixel // 4 - picture, getattr(torch, dtype).itemsize
    assert engine.bytes_per_pixel == numbers * bytes_ + picture * max(bytes_, 4)


def test_torchs_own_memory_on_the_cpu_is_taken_once(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_engine, "_HAS_RUN", Event())
    first, second = (TorchEngine(build(small("gia-net")), CPU) for _ in range(2))
    taken = second.fixed_bytes
    assert (second.held_bytes, taken) == (0, first.fixed_bytes) and taken > 10**7
    first.run(planes(rng), lambda share: None)
    assert 0 < second.held_bytes < taken
    assert second.fixed_bytes + second.held_bytes == taken
    other = TorchEngine(build(small("gia-net")), Runtime("cuda", "float32"))
    assert other.held_bytes == 0
    assert other.fixed_bytes > 10**7  # of its own memory, for bands


def test_another_number_format_is_made_once(rng: np.random.Generator) -> None:
    network = lively(small("gia-net"))
    engine = TorchEngine(network, Runtime("cpu", "bfloat16"))
    engine.run(planes(rng), lambda share: None)
    copy = engine._running
    engine.run(planes(rng), lambda share: None)
    assert engine._running is copy is not network
    assert next(network.parameters()).dtype == torch.float32


def test_from_a_gpu_the_way_leads_to_the_cpu() -> None:
    network = build(small("sid-net"))
    on_cpu = TorchEngine(network, Runtime("cuda", "float16")).on_cpu()
    assert str(on_cpu) == "torch on cpu, float32"
    assert on_cpu is not None
    assert on_cpu.on_cpu() is None


def test_fp32_on_cuda_is_not_rounded_to_tf32() -> None:
    with _true_fp32(Runtime("cuda", "float32")):
        assert not torch.backends.cudnn.allow_tf32
    with _true_fp32(CPU):
        assert torch.backends.cudnn.allow_tf32  # untouched


def test_of_two_threads_the_last_one_ends_the_setting() -> None:
    first, second = (_true_fp32(Runtime("cuda", "float32", index)) for index in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cudnn.allow_tf32
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.allow_tf32
