"""Plans for devices: what is planned fits a card's memory, and main memory is counted where it is.

The planning itself is tested in `test_run`, with the pictures that come of it.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gia_cli.errors import OutOfMemoryError
from gia_cli.inference import plan as plan_module
from gia_cli.inference.openvino_engine import OpenVinoEngine
from gia_cli.inference.plan import InferOptions, Plan, plan
from gia_cli.inference.quiet_openvino import openvino
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.config import NETWORKS, NetConfig
from gia_cli.raw.cfa import Alignment, CfaKind
from gia_cli.raw.packing import PackedMosaic
from gia_cli.runtime import DeviceKind, NumberFormat, Runtime
from tests.inference.test_openvino_engine import arrays_of
from tests.live_memory import LiveMemory
from tests.networks import ALL, PLANES, SCALE, lively, small

MEGAPIXELS = {24: (2000, 3008), 61: (3184, 4784)}


def frame(rows: int, cols: int, cfa: CfaKind = "bayer") -> PackedMosaic:
    """A frame that takes no memory."""
    planes = np.broadcast_to(np.float32(0), (PLANES[cfa], rows, cols))
    scale = SCALE[cfa]
    return PackedMosaic(planes, cfa, rows * scale, cols * scale, Alignment(0, 0, 0, 0))


def on_meta(config: NetConfig, dtype: NumberFormat) -> Network:
    with torch.device("meta"):
        network = build(config).eval().to(getattr(torch, dtype))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def read_shape(engine: TorchEngine, chosen: Plan) -> tuple[int, int]:
    """What a tile of a plan reads at most."""
    halo = 0 if chosen.is_whole else engine.halo
    rows, cols = (
        min(side + 2 * halo, length) for side, length in zip(chosen.core, chosen.frame, strict=True)
    )
    return rows, cols


def peak(network: Network, shape: tuple[int, int], dtype: NumberFormat) -> int:
    """Bytes that a tile takes at its worst, its input and its picture included."""
    planes = network.config.in_channels
    x = torch.empty(1, planes, *shape, dtype=getattr(torch, dtype), device="meta")
    x = x.to(memory_format=torch.channels_last)
    terms: list[Tensor] = []
    with torch.inference_mode():
        for index in range(network.vectors):
            mean = network.measure(network.encode(x), terms).mean((2, 3))
            terms.append(network.global_term(index, mean))
        memory = LiveMemory(x, *terms)
        with memory:
            network.render(network.encode(x), terms)
    return memory.peak


# ---------------------------------------------------------------- cards of several sizes


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("megapixels", MEGAPIXELS)
def test_what_is_planned_for_a_card_fits_it(
    megapixels: int, dtype: NumberFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(on_meta(NETWORKS["gia-net"], dtype), Runtime("cuda", dtype))
    mosaic = frame(*MEGAPIXELS[megapixels])
    areas, needs = [], {}
    for gigabytes in (4, 8, 12, 24):
        free = int(0.8 * (gigabytes - 1) * 1e9)  # CUDA's own, and a desktop's
        monkeypatch.setattr(plan_module, "free_bytes", lambda *_, free=free: free)
        chosen = plan(engine, mosaic, InferOptions())
        shape = read_shape(engine, chosen)
        if shape not in needs:
            needs[shape] = peak(engine._network, shape, dtype)
        assert needs[shape] <= free
        assert chosen.is_whole or needs[shape] > 0.35 * free  # nor is much left: tiles are even
        areas.append(chosen.core[0] * chosen.core[1])
    assert areas == sorted(areas)  # a larger card takes a larger tile
    is_whole = [area == mosaic.planes[0].size for area in areas]
    assert is_whole[-1]
    if (megapixels, dtype) == (61, "float32"):
        assert not any(is_whole[:2])
        assert len(set(areas)) > 2


@pytest.mark.parametrize(
    ("dtype", "megapixels", "is_whole"),
    [("float32", 61, True), ("float16", 151, True), ("float32", 151, False)],
)
def test_no_map_is_larger_than_a_mac_can_have(
    dtype: NumberFormat, megapixels: int, is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over an array above 4 GiB Metal ends the process, however much memory there is."""
    engine = TorchEngine(on_meta(NETWORKS["gia-net"], dtype), Runtime("mps", dtype))
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 10**12)
    rows, cols = {61: MEGAPIXELS[61], 151: (5328, 7104)}[megapixels]
    chosen = plan(engine, frame(rows, cols), InferOptions())
    assert chosen.is_whole == is_whole
    height, width = read_shape(engine, chosen)
    largest = height * width * engine.config.width * Runtime("mps", dtype).number_bytes
    assert largest < 2**32
    assert is_whole or largest > 2**30  # nor are they small


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_what_is_stated_is_enough_for_every_network(
    name: str, cfa: CfaKind, dtype: NumberFormat
) -> None:
    """Of tiles that are one band, several, or wide; beside the tenth that the planner adds."""
    config = replace(NETWORKS[name], cfa=cfa)
    engine = TorchEngine(on_meta(config, dtype), Runtime("cuda", dtype))
    for rows, cols in ((528, 2048), (64, 8192)):
        stated = rows * cols * engine.bytes_per_pixel + engine.fixed_bytes
        assert peak(engine._network, (rows, cols), dtype) <= stated


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("size", [(1424, 2128), (64, 4096)])
def test_a_card_takes_no_more_than_is_planned(dtype: NumberFormat, size: tuple[int, int]) -> None:
    engine = TorchEngine(build(NETWORKS["gia-net"]).eval(), Runtime("cuda", dtype))
    planes = np.random.default_rng(0).random((4, *size), np.float32)
    engine.run(planes[:, :64, :64], lambda share: None)  # the weights, and the libraries
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    engine.run(planes, lambda share: None)
    needed = torch.cuda.max_memory_allocated() - before
    stated = planes[0].size * engine.bytes_per_pixel + engine.fixed_bytes
    assert needed <= plan_module._OVERHEAD * stated


def test_a_second_card_is_asked_for_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[DeviceKind, int]] = []

    def free(device: DeviceKind, index: int = 0) -> int:
        asked.append((device, index))
        return 10**12

    monkeypatch.setattr(plan_module, "free_bytes", free)
    network = build(small("gia-net"))
    plan(TorchEngine(network, Runtime("cuda", "float16", 1)), frame(64, 64), InferOptions())
    assert asked == [("cuda", 1)]


# ---------------------------------------------------------------- main memory


def intels(is_integrated: bool, monkeypatch: pytest.MonkeyPatch) -> OpenVinoEngine:
    kinds = openvino.properties.device.Type
    kind = kinds.INTEGRATED if is_integrated else kinds.DISCRETE
    core = SimpleNamespace(get_property=lambda plugin, name: kind)
    monkeypatch.setattr("gia_cli.inference.openvino_engine.the_core", lambda: core)
    network = lively(small("gia-net"))
    return OpenVinoEngine(network.config, arrays_of(network), "test", "intel-gpu")


@pytest.mark.parametrize(
    ("make", "is_shared"),
    [
        (lambda patch: TorchEngine(build(small("gia-net")), Runtime("mps", "float32")), True),
        (lambda patch: intels(True, patch), True),
        (lambda patch: intels(False, patch), False),
        (lambda patch: TorchEngine(build(small("gia-net")), Runtime("cuda", "float32")), False),
    ],
)
def test_a_gpu_that_shares_main_memory_leaves_what_the_host_takes_of_it(
    make: Any, is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(monkeypatch)
    assert engine.is_in_main_memory == is_shared
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 10**12)
    monkeypatch.setattr(plan_module, "resident_bytes", lambda: 1_500_000_000)
    mosaic, limit = frame(512, 512), InferOptions(max_memory=2_000_000_000)
    assert plan(engine, mosaic, limit).is_whole
    tight = InferOptions(max_memory=1_600_000_000, afterwards=200_000_000)
    beside = InferOptions(max_memory=2_000_000_000, reserved=495_000_000)
    for options in (tight, beside):
        if is_shared:
            with pytest.raises(OutOfMemoryError):
                plan(engine, mosaic, options)
        else:
            plan(engine, mosaic, options)
