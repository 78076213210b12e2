"""Costs are the paper's to the last digit; speed is measured, never asserted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from gia_cli.benchmark import flops as flops_module
from gia_cli.benchmark import speed as bench
from gia_cli.benchmark.flops import Cost, Tf1Counter, measure_cost
from gia_cli.benchmark.speed import (
    How,
    Speed,
    SpeedConfig,
    Stages,
    Variant,
    bench_json,
    measure_speed,
    measure_stages,
)
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import UsageError
from gia_cli.inference import openvino_core, select
from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS
from gia_cli.paper import PAPER_SIZE, paper_costs
from gia_cli.progress import SILENT
from gia_cli.raw.cfa import Alignment, CfaKind
from gia_cli.raw.packing import PackedMosaic
from gia_cli.runtime import NumberFormat, Precision, Runtime
from tests.networks import DEFAULT, UNETS, lively, small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_sid_net_costs_what_tensorflow_counted() -> None:
    """Parameters and FLOPs of the published network as its profiler gave them, by hand."""
    cost = measure_cost("sid-net")
    assert cost.size == PAPER_SIZE
    assert cost.parameters == 7_760_268
    assert round(cost.tf1_flops / 1e9, 4) == 1112.9151
    assert round(cost.torch_flops / 1e9, 2) == 1110.60


@pytest.mark.slow
def test_gia_nets_ratios_are_those_of_table_4() -> None:
    sid, gia = measure_cost("sid-net"), measure_cost("gia-net")
    parameters, flops = gia.parameters / sid.parameters, gia.tf1_flops / sid.tf1_flops
    assert (round(parameters, 4), round(flops, 4)) == (1.0677, 1.0084)
    published = paper_costs()["gia-net"]
    assert round(parameters, 2) == published["parameters_ratio"]
    assert round(flops, 3) == published["flops_ratio"]


@pytest.mark.slow
@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_counted_at_any_size(name: str, cfa: CfaKind) -> None:
    small, large = (measure_cost(name, size, cfa) for size in ((158, 206), (316, 412)))
    assert small.parameters == large.parameters > 0
    assert 3.5 < large.tf1_flops / small.tf1_flops < 4.5
    assert 0.9 < small.tf1_flops / small.torch_flops < 1.3


def test_counting_leaves_the_network_as_it_was() -> None:
    network = build(NETWORKS["gia-net"])
    with Tf1Counter() as counter, flops_module._as_published(network, counter):
        pass
    assert network.stride == 16
    with pytest.raises(ValueError, match="multiple of 16"):
        network(torch.zeros(1, 4, 20, 20))


@pytest.mark.parametrize(
    ("operation", "flops"),
    [
        # 8 outputs of 5x5, 27 products each and a bias.
        (lambda x: torch.nn.Conv2d(3, 8, 3, padding=1)(x), 8 * 25 * (2 * 27 + 1)),
        (lambda x: torch.nn.Conv2d(3, 8, 1, bias=False)(x), 8 * 25 * 2 * 3),
        # 10x10 outputs, each reached by one tap of three channels.
        (lambda x: torch.nn.ConvTranspose2d(3, 8, 2, stride=2, bias=False)(x), 8 * 100 * 2 * 3),
        (lambda x: torch.nn.functional.leaky_relu(x, 0.2), 2 * 75),
        (lambda x: torch.nn.functional.max_pool2d(x, 2), 4 * 12),
        (lambda x: torch.relu(x) + x, 2 * 75),
        (lambda x: (x - 1) / 2, 2 * 75),
        (lambda x: x.permute(0, 2, 3, 1).reshape(-1), 0),
    ],
)
def test_the_rules(operation: Callable[[torch.Tensor], torch.Tensor], flops: int) -> None:
    with Tf1Counter() as counter:
        operation(torch.zeros(1, 3, 5, 5))
    assert counter.flops == flops


def test_unknown_networks_and_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="no network 'vgg'"):
        measure_cost("vgg")
    with pytest.raises(UsageError, match="not a size of a photo"):
        measure_cost("sid-net", (1, 1))
    with pytest.raises(UsageError, match="no network 'vgg'"):
        SpeedConfig(networks=("vgg",))
    with pytest.raises(UsageError, match="--rounds"):
        SpeedConfig(rounds=0)


# ---------------------------------------------------------------- time and memory


@pytest.mark.parametrize(
    ("network", "precision", "can_run"),
    [
        ("gia-net", "auto", True),
        ("gia-net", "int8", True),
        ("gia-net", "bf16", False),
        ("dncnn", "auto", False),
    ],
)
def test_what_openvino_cannot_run_is_left_out(
    network: str, precision: Precision, can_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_core, "multiplies_in_bf16", lambda: False)
    variant = Variant(network, "OpenVINO, whole", (64, 64), "bayer", "cpu", precision)
    assert bench._can_run(variant) == can_run
    assert bench._can_run(replace(variant, how="tiled")) == (precision != "int8")


@pytest.mark.parametrize(
    ("network", "precision", "can_run"),
    [
        ("gia-net", "auto", True),
        ("gia-net", "int8", False),
        ("gia-net", "bf16", False),
        ("dncnn", "auto", False),
    ],
)
def test_what_onnx_runtime_cannot_run_is_left_out(
    network: str, precision: Precision, can_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = Variant(network, "ONNX Runtime, whole", (64, 64), "bayer", "cpu", precision)
    assert bench._can_run(variant) == can_run
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    assert not bench._can_run(variant)


def test_onnx_runtime_is_timed_on_the_card_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    onnx_engine = pytest.importorskip("gia_cli.inference.onnx_engine")
    opened: list[tuple[str, int]] = []

    def open_session(model: bytes, device: str, index: int) -> object:
        opened.append((device, index))
        return object()

    monkeypatch.setattr(onnx_engine, "new_session", open_session)
    bench._onnx_engine(build(small("sid-net")), Runtime("cuda", "float32", 1))
    assert opened == [("cuda", 1)]


@pytest.mark.parametrize(("flops", "sides"), [(8e8, [256]), (2e11, [256, 2048])])
def test_a_slow_format_is_measured_on_a_small_product(
    flops: float, sides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bf16 on a CPU that imitates it: a large one takes 20 s, twelve times."""
    asked: list[int] = []

    def product(numbers: NumberFormat, side: int) -> float:
        asked.append(side)
        return flops

    monkeypatch.setattr(bench, "_product_flops", product)
    assert bench._matrix_product_flops("bfloat16") == flops
    assert asked == sides


def test_a_card_has_its_memory_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To take it costs time, and is done once for a folder of photos; others need it between."""
    done: list[str] = []
    clock = iter(range(100))
    monkeypatch.setattr(bench, "infer", lambda *_: done.append("network"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("give back"))

    def look() -> float:
        done.append("clock")
        return float(next(clock))

    monkeypatch.setattr(time, "perf_counter", look)
    variant = Variant("sid-net", "whole", (64, 96), "bayer", "cpu", "fp32")
    monkeypatch.setattr(Variant, "runtime", Runtime("cuda", "float32"))
    run, _ = bench._prepare(variant)
    assert run() == 1
    assert done == ["network", "clock", "network", "clock", "give back"]


@pytest.mark.slow
@pytest.mark.parametrize("how", get_args(How))
def test_a_variant_runs(how: How) -> None:
    run, finish = bench._prepare(Variant("sid-net", how, (64, 96), "bayer", "cpu", "fp32"))
    assert run() > 0
    peak, runtime = finish()
    assert peak > 50e6  # torch alone
    assert runtime == "cpu, float32"


@pytest.mark.slow
@pytest.mark.parametrize("network", UNETS)
def test_every_u_net_is_timed_in_int8(network: str) -> None:
    how: How = "OpenVINO, whole"
    run, finish = bench._prepare(Variant(network, how, (64, 96), "bayer", "cpu", "int8"))
    assert run() > 0
    others = "bfloat16" if openvino_core.multiplies_in_bf16() else "float32"
    assert finish()[1] == f"cpu, int8 with {others}"


def test_weights_made_up_in_int8_are_the_ones_they_were_made_of() -> None:
    """To half a step; and all layers but those that `gia weights quantize` leaves alone."""
    network = lively(small("gia-net"))
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    rounded = bench._in_int8(arrays)
    plain = ("encoder.0", "encoder.1", "upsample.3", "upsample.2", "decoder.3", "decoder.2")
    for name in (name for name in arrays if name.endswith(".weight")):
        layer = name.removesuffix(".weight")
        weight, made = arrays[name], rounded[name]
        if layer.startswith((*plain, "to_rgb", "gia")):
            assert made is weight
            continue
        assert made.dtype == np.int8
        if layer.startswith("upsample."):
            made = made.reshape(weight.shape[1], 2, 2, -1).transpose(3, 0, 1, 2)
            scale = rounded[f"{layer}.scale"].reshape(weight.shape[1], 2, 2)
        else:
            scale = rounded[f"{layer}.scale"][:, None, None, None]
        assert np.all(np.abs(made * scale - weight) <= 0.5001 * scale)


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_ways_take_turns_in_processes_of_their_own() -> None:
    ways: tuple[How, ...] = ("eager NCHW, whole", "OpenVINO, whole")
    config = SpeedConfig(networks=("gia-net",), size=(128, 192), how=ways, device="cpu", rounds=2)
    report = measure_speed(config)
    assert [speed.variant.how for speed in report.speeds] == list(ways)
    for speed in report.speeds:
        assert speed.error is None
        assert len(speed.seconds) == 2
        assert min(speed.seconds) > 0
        assert speed.peak_bytes > 50e6
        assert "cpu" in speed.runtime
    assert set(report.peak_flops) == {"float32"}
    assert report.peak_flops["float32"] > 1e8
    assert report.machine
    assert json.dumps(
        bench_json([measure_cost("gia-net", (64, 64))], report, Stages("own", {"decode": 1.0}))
    )


def test_the_machine_is_measured_in_the_numbers_of_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[torch.dtype] = []
    multiply = torch.mm

    def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        asked.append(a.dtype)
        return multiply(a, b)

    monkeypatch.setattr(bench, "_PEAK_SIDE", 32)
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(bench, "_Child", lambda variant: MagicMock(variant=variant))
    peaks: dict[NumberFormat, list[float]] = {}
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    variants = [
        Variant("gia-net", "whole", (64, 64), "bayer", "cpu", precision) for precision in precisions
    ]
    bench._take_turns(variants, 1, peaks, SILENT)
    assert {numbers: len(found) for numbers, found in peaks.items()} == {
        "float32": 2,
        "bfloat16": 2,
    }
    assert set(asked) == {torch.float32, torch.bfloat16}
    assert min(min(found) for found in peaks.values()) > 0


def test_a_variant_that_fails_says_why_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    child = bench._Child(Variant("gia-net", "whole", (64, 64), "bayer", "cpu", "fp32"))
    try:
        child._process.kill()
        child._process.join()
        child.run(keep=True)
        speed = child.finish()
    finally:
        child.stop()
    assert speed.error == "its process has died"
    assert speed.seconds == []


def test_a_retreat_is_a_failure_and_no_time() -> None:
    with pytest.raises(RuntimeError, match="smaller tiles"):
        bench._Strict().note("Out of memory on the cpu; going on with smaller tiles.")


def test_the_public_ports_way_is_fp32_and_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_core, "multiplies_in_bf16", lambda: True)
    config = SpeedConfig(precisions=("fp32", "bf16"), device="cpu")
    ways = [(x.how, x.precision) for x in bench._variants(config, "gia-net")]
    assert ways == [
        ("eager NCHW, whole", "fp32"),
        ("whole", "fp32"),
        ("whole", "bf16"),
        ("tiled", "fp32"),
        ("tiled", "bf16"),
        ("OpenVINO, whole", "fp32"),
        ("OpenVINO, whole", "bf16"),
        ("OpenVINO, in parts", "fp32"),
        ("OpenVINO, in parts", "bf16"),
        ("OpenVINO, tiled", "fp32"),
        ("OpenVINO, tiled", "bf16"),
        ("ONNX Runtime, whole", "fp32"),
        ("ONNX Runtime, tiled", "fp32"),
    ]


@pytest.mark.slow
def test_the_eager_reference_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the ratio to it would mean nothing."""
    from gia_cli.inference.run import infer
    from gia_cli.inference.torch_engine import TorchEngine
    from gia_cli.runtime import resolve

    seen: list[torch.Tensor] = []
    network = build(NETWORKS["gia-net"]).eval()
    planes = torch.rand(4, 200, 64).numpy()
    hook = network.register_forward_hook(lambda module, args, result: seen.append(result))
    bench._run_eagerly(network, planes, torch.device("cpu"))
    hook.remove()
    mosaic = PackedMosaic(planes, "bayer", 400, 128, Alignment(0, 0, 0, 0))
    picture = infer(TorchEngine(network, resolve("cpu")), mosaic)
    assert seen[0][0, :, :400].numpy() == pytest.approx(picture, abs=1e-5)


@pytest.mark.slow
def test_the_stages_of_a_photo_are_timed(make_arw: Callable[..., Path]) -> None:
    enhancer = Enhancer.from_weights(device="cpu", precision="fp32")
    stages = measure_stages(make_arw(), enhancer, rounds=1)
    computing = {"black_level", "network", "fusion"}
    stages_taken = {"decode", "exposure", "pack", *computing, "colour", "write"}
    assert set(stages.seconds) == stages_taken
    assert all(seconds > 0 for seconds in stages.seconds.values())
    assert stages.weights == DEFAULT


def test_medians_leave_failures_out() -> None:
    variant = Variant("gia-net", "whole", (64, 64), "bayer", "cpu", "fp32")
    assert Speed(variant, [3.0, 1.0, 2.0], 0, "cpu").median == 2
    assert Speed(variant, [], 0, "", "died").median != Speed(variant, [], 0, "", "died").median


def test_costs_are_plain_numbers(tmp_path: Path) -> None:
    cost = measure_cost("sid-net", (64, 64))
    assert isinstance(cost, Cost)
    assert type(cost.tf1_flops) is type(cost.torch_flops) is type(cost.parameters) is int
