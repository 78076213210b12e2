"""OpenVINO's graphs make the pictures of the torch modules, whole and in tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from numpy.typing import NDArray

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import OutOfMemoryError, WeightsMismatchError
from gia_cli.inference import openvino_engine
from gia_cli.inference import plan as plan_module
from gia_cli.inference import run as infer_module
from gia_cli.inference.engine import Engine
from gia_cli.inference.layout import LAYOUTS
from gia_cli.inference.openvino_core import multiplies_in_bf16, the_core
from gia_cli.inference.openvino_engine import OpenVinoEngine
from gia_cli.inference.plan import InferOptions, Plan, plan
from gia_cli.inference.run import infer
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.config import NetConfig, NetName
from gia_cli.progress import Silent
from gia_cli.raw.cfa import Alignment, CfaKind
from gia_cli.raw.packing import PackedMosaic
from gia_cli.runtime import Runtime, available_cores
from gia_cli.tiling import round_up
from tests.networks import CFAS, DEFAULT, PLANES, SCALE, UNETS, lively, small
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Runtime("cpu", "float32")
SAMPLE = Path(__file__).parents[2] / "samples" / "night.ARW"
# In units of the picture's standard deviation. Measured: up to 6e-6.
TOLERANCE = 4e-5


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 10**12)
    monkeypatch.setattr(plan_module, "resident_bytes", lambda: 0)


def arrays_of(network: Network) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def on_openvino(network: Network) -> OpenVinoEngine:
    return OpenVinoEngine(network.config, arrays_of(network), "test")


def on_torch(network: Network) -> TorchEngine:
    return TorchEngine(network, CPU)


def photo(rng: np.random.Generator, cfa: CfaKind, height: int, width: int) -> PackedMosaic:
    """Brighter on the right, so that every tile has a mean of its own."""
    slope = np.linspace(0, 1, width, dtype=np.float32)
    planes = 0.7 * slope + 0.3 * rng.random((PLANES[cfa], height, width), np.float32)
    scale = SCALE[cfa]
    return PackedMosaic(planes, cfa, height * scale, width * scale, Alignment(0, 0, 0, 0))


def deviation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.float32
    return float(np.abs(one - other).max() / other.std())


# ---------------------------------------------------------------- against torch


@pytest.mark.slow
@pytest.mark.parametrize("cfa", CFAS)
@pytest.mark.parametrize("name", UNETS)
def test_whole_frames_equal_torch(name: NetName, cfa: CfaKind, rng: np.random.Generator) -> None:
    network = lively(small(name, cfa))
    engine = on_openvino(network)
    for size in ((65, 47), (16, 16), (1, 40)):
        mosaic = photo(rng, cfa, *size)
        assert deviation(infer(engine, mosaic), infer(on_torch(network), mosaic)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("is_wide", [False, True])
@pytest.mark.parametrize("cfa", CFAS)
@pytest.mark.parametrize("name", UNETS)
def test_tiles_equal_torchs_whole_frame(
    name: NetName, cfa: CfaKind, is_wide: bool, rng: np.random.Generator
) -> None:
    network = lively(small(name, cfa))
    engine = on_openvino(network)
    # Tiles as long as a halo have two shapes, each of which takes longer to compile than to run.
    length = 4 * network.halo
    mosaic = photo(rng, cfa, *((17, length) if is_wide else (length, 17)))
    options = InferOptions(tile=network.halo * SCALE[cfa])
    chosen = plan(engine, mosaic, options)
    assert 2 * network.halo + max(chosen.core) < length
    tiled = infer(engine, mosaic, options)
    assert deviation(tiled, infer(on_torch(network), mosaic)) < TOLERANCE


def split_plan(engine: OpenVinoEngine, mosaic: PackedMosaic, side: int) -> Plan:
    height, width = (round_up(length, engine.stride) for length in mosaic.planes.shape[1:])
    return Plan((side, side), (height, width), 1, engine.split)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(70, 200), (200, 23), (16, 16)])
@pytest.mark.parametrize("cfa", CFAS)
@pytest.mark.parametrize("name", UNETS)
def test_a_frame_in_three_parts_equals_torchs_whole_frame(
    name: NetName, cfa: CfaKind, size: tuple[int, int], rng: np.random.Generator
) -> None:
    network = lively(small(name, cfa))
    engine = on_openvino(network)
    mosaic = photo(rng, cfa, *size)
    picture = infer_module._run(engine, mosaic, split_plan(engine, mosaic, 16), Silent())
    assert deviation(picture, infer(on_torch(network), mosaic)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sid-net", "sw-net"])
def test_a_frame_in_three_parts_needs_its_halo(name: NetName, rng: np.random.Generator) -> None:
    network = lively(small(name))
    engine = on_openvino(network)
    mosaic = photo(rng, "bayer", 16, 200)
    full = split_plan(engine, mosaic, 16)
    assert full.split is not None
    short = replace(full, split=replace(full.split, halo=full.split.halo - full.split.cell))
    expected = infer(on_torch(network), mosaic)
    assert deviation(infer_module._run(engine, mosaic, full, Silent()), expected) < TOLERANCE
    assert deviation(infer_module._run(engine, mosaic, short, Silent()), expected) > TOLERANCE


def test_three_parts_are_planned_where_the_whole_does_not_fit(rng: np.random.Generator) -> None:
    engine = on_openvino(build(NetConfig("gia-net")))
    mosaic = photo(rng, "bayer", 1200, 1200)
    whole = 1200**2 * engine.bytes_per_pixel * 1.1 + engine.fixed_bytes
    assert plan(engine, mosaic, InferOptions(max_memory=int(whole + 1e6))).is_whole
    asked = plan(engine, mosaic, InferOptions(in_parts=True))
    assert (asked.split is None, asked.is_whole) == (False, False)
    chosen = plan(engine, mosaic, InferOptions(max_memory=int(0.6 * whole)))
    assert chosen.split is not None
    assert chosen.passes == 1
    assert "the outer levels in" in str(chosen)
    tiled = plan(engine, mosaic, InferOptions(max_memory=int(0.31 * whole)))
    assert tiled.split is None
    assert not tiled.is_whole
    # What the caller reserves is as good as gone.
    limit, third = int(0.6 * whole), int(0.3 * whole)
    with pytest.raises(OutOfMemoryError, match="other photos"):
        plan(engine, mosaic, InferOptions(max_memory=limit, reserved=third))
    assert plan(engine, mosaic, InferOptions(max_memory=limit + third, reserved=third)).split


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        NetConfig("gia-net"),
        NetConfig("sw-net", width=3),
        NetConfig("se-unet", "xtrans", width=1),
        NetConfig("gia-net", width=4, vector=1, upsample_bias=False),
        NetConfig("sid-net", width=4, white_balance="as-shot"),
    ],
    ids=str,
)
def test_every_configuration_equals_torch(config: NetConfig, rng: np.random.Generator) -> None:
    network = lively(config)
    mosaic = photo(rng, config.cfa, 70, 120)
    expected = infer(on_torch(network), mosaic)
    for tile in ("auto", 64):
        picture = infer(on_openvino(network), mosaic, InferOptions(tile=tile))
        assert deviation(picture, expected) < TOLERANCE


def assert_the_vector_matters(engine: Engine, rng: np.random.Generator, tolerance: float) -> None:
    """Another mean gives another picture; the photo's own gives that of the whole frame."""
    planes = photo(rng, "bayer", 64, 64).planes
    feature = engine.measure(engine.encode(planes), [])
    means = feature.mean(axis=(1, 2), dtype=np.float64), feature[:, 0, 0].astype(np.float64)
    own, other = (
        engine.render(engine.encode(planes), [engine.global_term(0, mean)]) for mean in means
    )
    assert deviation(own, engine.run(planes, lambda share: None)) < tolerance
    assert deviation(other, own) > 1000 * tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gia-net", "se-unet"])
def test_the_vector_matters_in_these_tests(name: NetName, rng: np.random.Generator) -> None:
    engine = on_openvino(lively(small(name)))
    assert_the_vector_matters(engine, rng, TOLERANCE)


@pytest.mark.parametrize("name", UNETS)
def test_an_engine_states_what_the_network_states(name: NetName) -> None:
    network = build(small(name))
    engine = on_openvino(network)
    assert engine.config == network.config
    assert engine.stride == network.stride
    assert engine.halo == network.halo
    assert engine.vector_halos == network.vector_halos
    # The tensors and no more than a few maps of the top level beside them.
    assert network.bytes_per_pixel <= engine.bytes_per_pixel < 1.5 * network.bytes_per_pixel


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 512])
def test_the_shipped_weights_make_the_same_picture(tile: int | None) -> None:
    images = [
        Enhancer.from_weights(DEFAULT, device="cpu", precision="fp32", engine=engine, tile=tile)
        .enhance(SAMPLE, ratio=100)
        .image.astype(int)
        for engine in ("torch", "openvino")
    ]
    assert np.percentile(np.abs(images[0] - images[1]), 99.9) <= 1


# ---------------------------------------------------------------- in bf16

needs_bf16 = pytest.mark.skipif(
    not multiplies_in_bf16(), reason="this CPU does not multiply in bf16"
)
# In units of the picture's standard deviation, of the root mean square. Measured: up to 0.006.
NEAR = 0.015


def off(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Root mean square of the difference, in units of the picture's standard deviation."""
    assert one.shape == other.shape
    return float(np.sqrt(((one - other) ** 2).mean()) / other.std())


def differences(engine: OpenVinoEngine, mosaic: PackedMosaic) -> tuple[float, float, float]:
    """How far the whole frame is from fp32, and tiles and parts from the whole frame; as `off`.

    Of a frame four halos wide, by an engine of `lively` and `small` weights.
    """
    halo = engine.halo
    whole = infer(engine, mosaic)
    rounding = off(whole, infer(on_openvino(lively(small(engine.config.network))), mosaic))
    options = InferOptions(tile=2 * halo)  # photosites
    assert 2 * halo + max(plan(engine, mosaic, options).core) < 4 * halo
    tiled = infer(engine, mosaic, options)
    parts = infer_module._run(engine, mosaic, split_plan(engine, mosaic, 32), Silent())
    return rounding, off(tiled, whole), off(parts, whole)


def in_bf16(network: Network) -> OpenVinoEngine:
    return OpenVinoEngine(network.config, arrays_of(network), "test", in_bf16=True)


@needs_bf16
@pytest.mark.slow
@pytest.mark.parametrize("name", UNETS)
def test_bf16_is_near_fp32_whole_in_tiles_and_in_parts(
    name: NetName, rng: np.random.Generator
) -> None:
    mosaic = photo(rng, "bayer", 16, 4 * LAYOUTS[name].halo)
    rounding, tiled, parts = differences(in_bf16(lively(small(name))), mosaic)
    assert 1e-5 < rounding < NEAR
    assert tiled < 1.5 * rounding
    assert parts < 1.5 * rounding


@needs_bf16
@pytest.mark.parametrize("name", ["gia-net", "se-unet", "sw-net"])
def test_in_bf16_the_first_the_last_and_the_vectors_layers_stay_fp32(
    name: NetName, rng: np.random.Generator
) -> None:
    engine = in_bf16(lively(small(name)))
    picture = infer(engine, photo(rng, "bayer", 32, 48))
    (model,) = engine._compiled.models
    nodes = model.get_runtime_model().get_ordered_ops()
    formats = [
        str(node.get_rt_info()["runtimePrecision"].astype(str))
        for node in nodes
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    # The first, the last, and what the vector has.
    kept = {"gia-net": 1 + 1 + 3, "se-unet": 1 + 1 + 2, "sw-net": 2 + 1}[name]
    assert formats.count("f32") == kept
    assert set(formats) == {"f32", "bf16"}
    assert formats[0] == formats[-1] == "f32"
    # bf16 has 8 bits; a picture that came out of a layer in bf16 would show steps.
    in_steps = (picture.view(np.uint32) & 0xFFFF) == 0
    assert in_steps.mean() < 0.01


def test_bf16_takes_less_memory() -> None:
    network = lively(small("gia-net"))
    engine, other = in_bf16(network), on_openvino(network)
    assert engine.bytes_per_pixel < other.bytes_per_pixel
    assert engine.split.depth_bytes < other.split.depth_bytes
    assert str(engine).endswith("on cpu, bfloat16")


def test_from_bf16_there_is_a_way_back_to_fp32(rng: np.random.Generator) -> None:
    network, mosaic = lively(small("gia-net")), photo(rng, "bayer", 16, 32)
    engine, other = in_bf16(network), on_openvino(network)
    back = engine.in_fp32()
    assert back is not None and back.in_fp32() is None and other.in_fp32() is None
    assert back.runtime == other.runtime and engine.runtime.dtype == "bfloat16"
    assert back.bytes_per_pixel == other.bytes_per_pixel
    assert np.array_equal(infer(back, mosaic), infer(other, mosaic))


# ---------------------------------------------------------------- weights


def test_half_precision_weights_become_fp32(rng: np.random.Generator) -> None:
    network = lively(small("gia-net")).half()
    arrays = arrays_of(network)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}
    mosaic = photo(rng, "bayer", 32, 48)
    picture = infer(OpenVinoEngine(network.config, arrays, "test"), mosaic)
    assert deviation(picture, infer(on_torch(network.float()), mosaic)) < TOLERANCE


def test_weights_that_do_not_fit_are_named() -> None:
    config = small("gia-net")
    good = arrays_of(build(config))
    bias = "encoder.0.0.bias"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({name: array for name, array in good.items() if name != bias}, f"{bias} is missing"),
        ({**good, "gate.weight": good[bias]}, "gate.weight is left over"),
        ({**good, bias: np.zeros(3, np.float32)}, rf"{bias} has shape \(3,\), not \(4,\)"),
        ({**good, bias: np.full(4, np.nan, np.float32)}, f"{bias} holds a number that is not"),
        ({**good, bias: np.full(4, np.inf, np.float16)}, f"{bias} holds a number that is not"),
        ({**good, bias: np.full(4, 1e300)}, f"{bias} holds a number that is not"),
    ]
    for arrays, problem in wrong:
        with pytest.raises(WeightsMismatchError, match=f"own weights: {problem}"):
            OpenVinoEngine(config, arrays, "own weights")
    with pytest.raises(WeightsMismatchError):
        OpenVinoEngine(replace(config, width=8), good, "own weights")


# ---------------------------------------------------------------- compiling and memory


def count_compilations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    settings: list[dict[str, Any]] = []
    compile_model = the_core().compile_model

    class Core:
        def compile_model(self, model: Any, device: str, given: dict[str, Any]) -> Any:
            settings.append(given)
            return compile_model(model, device, given)

        def get_property(self, device: str, name: str) -> Any:
            return the_core().get_property(device, name)

    monkeypatch.setattr(openvino_engine, "the_core", Core)
    return settings


def test_it_computes_in_fp32_on_the_cores_that_there_are(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = on_openvino(build(small("sid-net")))
    asked = count_compilations(monkeypatch)
    infer(engine, photo(rng, "bayer", 16, 16))
    assert asked[0]["INFERENCE_NUM_THREADS"] == available_cores()
    (model,) = engine._compiled.models
    precision = model.get_property("INFERENCE_PRECISION_HINT")
    assert "float32" in str(precision) or "f32" in str(precision)


def test_a_size_is_compiled_once(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = on_openvino(build(small("gia-net")))
    asked = count_compilations(monkeypatch)
    for _ in range(3):
        infer(engine, photo(rng, "bayer", 32, 48))
    assert len(asked) == 1
    infer(engine, photo(rng, "bayer", 48, 32))
    assert len(asked) == 2


def test_on_a_gpu_a_photo_and_its_small_copy_are_compiled_once(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is the CPU; there compiling takes longer than a photo."""
    network = build(small("gia-net"))
    config = network.config
    monkeypatch.setattr(openvino_engine, "gpu_name", lambda: "CPU")
    engine = OpenVinoEngine(config, arrays_of(network), "test", "intel-gpu")
    stated = engine.held_bytes + engine.fixed_bytes
    asked = count_compilations(monkeypatch)
    for _ in range(3):
        for size in ((16, 16), (32, 48)):
            infer(engine, photo(rng, "bayer", *size))
    assert len(asked) == 2
    assert engine.held_bytes + engine.fixed_bytes == stated
    # Their maps too, which the next photo of that size takes over: else it would get tiles.
    maps = (16 * 16 + 32 * 48) * engine.bytes_per_pixel
    held = openvino_engine._LIBRARY_BYTES + 2 * engine._compiled_bytes + maps
    assert engine.held_bytes == pytest.approx(held, abs=1)
    on_cpu = engine.on_cpu()
    assert on_cpu is not None and on_cpu._compiled.most == 1 and not on_cpu._compiled.models


@pytest.mark.parametrize(("says", "most"), [(2**30, 2**30 // (2 * 4 * 4)), (None, None)])
def test_a_gpus_largest_block_bounds_what_is_computed_at_once(
    says: int | None, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> int:
            assert (device, name) == ("GPU.1", "GPU_DEVICE_MAX_ALLOC_MEM_SIZE")
            if says is None:
                raise RuntimeError("Unsupported property")
            return says

    network = build(small("gia-net"))
    assert network.config.width == 4
    engine = OpenVinoEngine(network.config, arrays_of(network), "test", "intel-gpu")
    monkeypatch.setattr(openvino_engine, "the_core", Core)
    monkeypatch.setattr(openvino_engine, "gpu_name", lambda: "GPU.1")
    assert engine.most_pixels == most
    on_cpu = engine.on_cpu()
    assert on_cpu is not None and on_cpu.most_pixels is None


@pytest.mark.slow
def test_tiles_of_one_size_come_in_a_row(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = on_openvino(build(small("gia-net")))
    asked = count_compilations(monkeypatch)
    infer(engine, photo(rng, "bayer", 64, 500), InferOptions(tile=64))
    # 2 x 16 tiles. Widths read: 96, 128, 144 or 160 at either end, 160 between for the vector; up
    # to 224 for the picture; all rows always.
    assert len(asked) < 12
    assert len(engine._compiled.models) == 1


def test_between_photos_a_model_stays_and_its_memory_goes(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = on_openvino(build(small("gia-net")))
    infer(engine, photo(rng, "bayer", 32, 48))
    assert engine._compiled.parts == ["whole"]
    released: list[bool] = []

    class Model:
        def release_memory(self) -> None:
            released.append(True)

    engine._compiled.clear()
    engine._compiled.get("whole", (32, 48), Model)
    engine.end_photo()
    assert released == [True]
    assert engine._compiled.parts == ["whole"]
    engine.release()
    assert not engine._compiled.parts
    engine.end_photo()  # nothing to hand back


@pytest.fixture
def before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no model had run in this process yet."""
    monkeypatch.setattr(openvino_engine, "_HAS_RUN", Event())


@pytest.mark.slow
@pytest.mark.usefixtures("before_the_first_run")
def test_what_an_engine_holds_it_will_not_take_again(rng: np.random.Generator) -> None:
    network = build(small("gia-net"))
    weights = 4 * sum(p.numel() for p in network.parameters())
    engine = on_openvino(network)
    mosaic = photo(rng, "bayer", 70, 200)
    at_first = engine.fixed_bytes
    assert at_first > weights
    assert engine.held_bytes == 0
    infer(engine, mosaic)
    assert engine.held_bytes == at_first
    assert engine.fixed_bytes == 0  # the model stays, and OpenVINO's own memory
    engine.release()
    assert weights < engine.fixed_bytes < at_first  # to be compiled again
    infer(engine, mosaic, InferOptions(tile=64))
    assert engine.fixed_bytes == 0
    infer_module._run(engine, mosaic, split_plan(engine, mosaic, 16), Silent())
    assert weights < engine.fixed_bytes < at_first  # the last part has few of the weights
    assert engine.fixed_bytes + engine.held_bytes == at_first


@pytest.mark.usefixtures("before_the_first_run")
def test_openvinos_own_memory_is_taken_once(rng: np.random.Generator) -> None:
    """By the process, not by each engine."""
    first, second = (on_openvino(build(small("gia-net"))) for _ in range(2))
    taken = second.fixed_bytes
    infer(first, photo(rng, "bayer", 32, 32))
    assert second.fixed_bytes == taken - openvino_engine._LIBRARY_BYTES


@pytest.mark.slow
@pytest.mark.usefixtures("before_the_first_run")
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_later_photo_gets_the_plan_of_the_first(
    in_parts: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = on_openvino(build(small("gia-net")))
    mosaic = photo(rng, "bayer", 608, 800)
    first_takes = engine.fixed_bytes
    room = 608 * 800 * engine.bytes_per_pixel * (0.8 if in_parts else 1.2)
    limit = InferOptions(max_memory=int(first_takes + room))
    first = plan(engine, mosaic, limit)
    assert (first.is_whole, first.split is None) == (not in_parts, not in_parts)
    infer(engine, mosaic, limit)
    # What it does not take any more, the process holds.
    held = first_takes - engine.fixed_bytes
    assert held > 0
    monkeypatch.setattr(plan_module, "resident_bytes", lambda: held)
    later = plan(engine, mosaic, limit)
    assert (later.core, later.is_whole) == (first.core, first.is_whole)
    infer(engine, mosaic, limit)
    assert plan(engine, mosaic, limit).core == first.core


@pytest.mark.usefixtures("before_the_first_run")
def test_tiles_of_the_outer_levels_have_the_room_that_the_deep_levels_weights_leave(
    rng: np.random.Generator,
) -> None:
    engine = on_openvino(build(NetConfig("gia-net")))
    split, mosaic = engine.split, photo(rng, "bayer", 1200, 1200)
    area = 1200 * 1200
    picture = 3 * 4 * 4 * area
    beside = picture + area * split.kept_bytes + split.tiles_fixed_bytes
    tile = 1.1 * (608 + 2 * split.halo) ** 2 * engine.bytes_per_pixel
    limit = int(beside + tile + 1e6)
    assert limit > engine.fixed_bytes + 1.1 * area * split.depth_bytes  # the depth fits, too
    chosen = plan(engine, mosaic, InferOptions(max_memory=limit))
    assert chosen.split is not None
    assert chosen.core == (608, 608)


@pytest.mark.parametrize(("share", "fits"), [(0.99, False), (1.01, True)])
def test_the_deep_levels_are_planned_with_the_bytes_that_were_measured(
    rng: np.random.Generator, share: float, fits: bool
) -> None:
    engine = on_openvino(build(NetConfig("gia-net")))
    split, mosaic = engine.split, photo(rng, "bayer", 1200, 1200)
    limit = int(engine.fixed_bytes + share * 1200 * 1200 * split.depth_bytes)
    chosen = plan(engine, mosaic, InferOptions(max_memory=limit))
    assert (chosen.split is not None) == fits


def test_out_of_memory_retreats_to_tiles(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = lively(small("gia-net"))
    engine = on_openvino(network)
    mosaic = photo(rng, "bayer", 16, 500)
    run, asked = engine._infer, []

    def fail_above(part: str, inputs: Any, shape: Any) -> NDArray[np.float32]:
        asked.append(inputs[0].shape[-1])
        if asked[-1] > 400:
            raise RuntimeError("Exception from src/inference: bad_alloc")
        return run(part, inputs, shape)

    monkeypatch.setattr(engine, "_infer", fail_above)
    assert deviation(infer(engine, mosaic), infer(on_torch(network), mosaic)) < TOLERANCE
    assert max(asked) == 512
    monkeypatch.setattr(engine, "_infer", lambda *_: np.empty(-1))
    with pytest.raises(ValueError, match="negative"):
        infer(engine, mosaic)

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(engine, "_infer", fail)
    with pytest.raises(OutOfMemoryError):
        infer(engine, mosaic)


def test_ctrl_c_ends_a_photo(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = on_openvino(build(small("sid-net")))
    cancelled: list[bool] = []

    class Request:
        def set_input_tensor(self, index: int, tensor: Any) -> None: ...
        def set_output_tensor(self, tensor: Any) -> None: ...
        def start_async(self) -> None: ...

        def wait_for(self, milliseconds: int) -> bool:
            raise KeyboardInterrupt

        def cancel(self) -> None:
            cancelled.append(True)

        def wait(self) -> None:
            raise RuntimeError("Infer Request was canceled")

    class Compiled:
        def create_infer_request(self) -> Request:
            return Request()

        def release_memory(self) -> None: ...

    monkeypatch.setattr(engine, "_compile", lambda *_: Compiled())
    with pytest.raises(KeyboardInterrupt):
        infer(engine, photo(rng, "bayer", 16, 16))
    assert cancelled == [True]


def test_ctrl_c_as_soon_as_it_has_started_waits_for_its_end(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes in arrays that go then: whatever lies there next would be overwritten."""
    engine = on_openvino(build(small("gia-net")))
    start = ov.InferRequest.start_async

    def start_and_press(request: ov.InferRequest, *args: Any) -> None:
        start(request, *args)
        raise KeyboardInterrupt

    mosaic = photo(rng, "bayer", 256, 256)
    with monkeypatch.context() as patch:
        patch.setattr(ov.InferRequest, "start_async", start_and_press)
        with pytest.raises(KeyboardInterrupt):
            engine.run(mosaic.planes, lambda _: None)
    engine.end_photo()  # which OpenVINO refuses while it computes
    assert np.isfinite(infer(engine, mosaic)).all()


# ---------------------------------------------------------------- progress


@pytest.mark.slow
@pytest.mark.parametrize("tile", ["auto", 64])
@pytest.mark.parametrize("name", ["sid-net", "gia-net"])
def test_progress_gets_as_many_steps_as_announced(
    name: NetName, tile: Any, rng: np.random.Generator
) -> None:
    progress = ProgressSpy()
    engine = on_openvino(build(small(name)))
    infer(engine, photo(rng, "bayer", 60, 90), InferOptions(tile=tile), progress)
    assert sum(progress.done) == progress.announced > 0


def test_planes_are_left_alone(rng: np.random.Generator) -> None:
    mosaic = photo(rng, "bayer", 40, 60)
    before = mosaic.planes.copy()
    engine = on_openvino(build(small("gia-net")))
    first = infer(engine, mosaic)
    assert np.array_equal(mosaic.planes, before)
    kept = first.copy()
    infer(engine, replace(mosaic, planes=1 - mosaic.planes))
    assert np.array_equal(first, kept)  # a picture is its receiver's, not the engine's
    assert torch.from_numpy(first).isfinite().all()
