"""ONNX Runtime makes torch's pictures, whole and in tiles, on whichever provider starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import DeviceError, UsageError, WeightsMismatchError
from gia_cli.inference import plan as plan_module
from gia_cli.inference import select
from gia_cli.inference.named_arrays import NamedArrays
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.run import infer
from gia_cli.inference.select import open_engine
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.config import NETWORKS, NetConfig, NetName
from gia_cli.raw.cfa import CfaKind
from gia_cli.runtime import DeviceKind, Runtime
from gia_cli.weights.manifest import find_weights, list_weights
from gia_cli.weights.storage import WeightsInfo, save_weights
from tests.inference.test_openvino_engine import (
    arrays_of,
    assert_the_vector_matters,
    deviation,
    photo,
)
from tests.networks import CFAS, SCALE, UNETS, lively, small
from tests.progress_spy import ProgressSpy

onnx_engine = pytest.importorskip("gia_cli.inference.onnx_engine")
onnx_graph = pytest.importorskip("gia_cli.inference.onnx_graph")

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Runtime("cpu", "float32")
SAMPLE = Path(__file__).parents[2] / "samples" / "night.ARW"
# In units of the picture's standard deviation. Measured: up to 7e-6.
TOLERANCE = 4e-5
SHIPPED = [info.name for info in list_weights() if info.quantized_from is None]


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 10**12)
    monkeypatch.setattr(plan_module, "resident_bytes", lambda: 0)


def graph_of(network: Network) -> Any:
    config = network.config
    return onnx_graph.UNetOnnx(config, NamedArrays(arrays_of(network), "test"))


def on_onnx(network: Network, devices: tuple[DeviceKind, ...] = ("cpu",)) -> Any:
    return onnx_engine.OnnxEngine(graph_of(network), devices)


def on_torch(network: Network) -> TorchEngine:
    return TorchEngine(network, CPU)


# ---------------------------------------------------------------- against torch


@pytest.mark.slow
@pytest.mark.parametrize("cfa", CFAS)
@pytest.mark.parametrize("name", UNETS)
def test_whole_frames_and_tiles_equal_torch(
    name: NetName, cfa: CfaKind, rng: np.random.Generator
) -> None:
    network = lively(small(name, cfa))
    engine = on_onnx(network)
    for size in ((65, 47), (16, 16), (1, 40), (17, 4 * network.halo)):
        mosaic = photo(rng, cfa, *size)
        expected = infer(on_torch(network), mosaic)
        assert deviation(infer(engine, mosaic), expected) < TOLERANCE
    tiled = infer(engine, mosaic, InferOptions(tile=network.halo * SCALE[cfa]))
    assert deviation(tiled, expected) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_make_torchs_picture(name: str, rng: np.random.Generator) -> None:
    info = find_weights(name)
    mosaic = photo(rng, info.config.cfa, 75, 33)
    expected = infer(TorchEngine.load(info, CPU), mosaic)
    engine = onnx_engine.OnnxEngine.load(info)
    # Of a range of 1; measured: up to 2e-6.
    for tile in ("auto", 32 * info.config.scale):
        picture = infer(engine, mosaic, InferOptions(tile=tile))
        assert np.abs(picture - expected).max() < 2e-5


def test_every_number_counts(rng: np.random.Generator) -> None:
    config = NetConfig("gia-net", width=4, vector=1, upsample_bias=False)
    network = lively(config)
    mosaic = photo(rng, "bayer", 32, 32)
    assert deviation(infer(on_onnx(network), mosaic), infer(on_torch(network), mosaic)) < TOLERANCE
    arrays = arrays_of(network)
    for change, words in (
        ({"left": np.zeros(3, np.float32)}, "left is left over"),
        ({"to_rgb.bias": np.zeros(3, np.float32)}, "to_rgb.bias has shape"),
        ({"to_rgb.bias": np.full(12, np.nan, np.float32)}, "not finite"),
    ):
        wrong = NamedArrays({**arrays, **change}, "test")
        with pytest.raises(WeightsMismatchError, match=words):
            onnx_engine.OnnxEngine(onnx_graph.UNetOnnx(config, wrong), ["cpu"])


@pytest.mark.parametrize("name", ["gia-net", "se-unet"])
def test_the_vector_matters_in_these_tests(name: NetName, rng: np.random.Generator) -> None:
    engine = on_onnx(lively(small(name)))
    assert_the_vector_matters(engine, rng, TOLERANCE)


@pytest.mark.parametrize("name", UNETS)
def test_an_engine_states_what_the_network_states(name: NetName) -> None:
    network = build(small(name))
    engine = on_onnx(network)
    assert engine.config == network.config
    for fact in ("stride", "halo", "vector_halos"):
        assert getattr(engine, fact) == getattr(network, fact), fact
    total = engine.fixed_bytes + engine.held_bytes
    engine.run(np.zeros((4, 16, 16), np.float32), lambda share: None)
    assert engine.fixed_bytes + engine.held_bytes == total
    engine.release()
    assert engine.fixed_bytes + engine.held_bytes == total


# ---------------------------------------------------------------- devices


def test_a_provider_that_does_not_start_is_passed_over(rng: np.random.Generator) -> None:
    """Here neither of the first two is there: ONNX Runtime names what it knows."""
    network = lively(small("gia-net"))
    progress = ProgressSpy()
    engine = onnx_engine.OnnxEngine(graph_of(network), ("migraphx", "coreml", "cpu"), progress)
    assert engine.device == "cpu"
    assert str(engine).endswith("(CPU) on cpu, float32")
    assert len(progress.notes) == 2
    for note, one, other in zip(
        progress.notes, ("migraphx", "coreml"), ("coreml", "cpu"), strict=True
    ):
        assert one in note
        assert note.endswith(f"continuing on {other}.")
    mosaic = photo(rng, "bayer", 32, 32)
    assert deviation(infer(engine, mosaic), infer(on_torch(network), mosaic)) < TOLERANCE
    assert engine.on_cpu() is None


def test_no_provider_at_all_is_an_error() -> None:
    with pytest.raises(DeviceError, match="cannot compute on coreml"):
        on_onnx(lively(small("sid-net")), ("coreml",))


def test_a_device_of_one_size_gets_a_graph_of_that_size(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """The CPU's provider stands for one that compiles for a size."""
    monkeypatch.setattr(onnx_engine, "_FIXED_SIZES", ("cpu",))
    network = lively(small("gia-net"))
    engine = on_onnx(network)
    for size in ((32, 48), (16, 16)):
        mosaic = photo(rng, "bayer", *size)
        expected = infer(on_torch(network), mosaic)
        assert deviation(infer(engine, mosaic), expected) < TOLERANCE
        (session,) = engine._sessions.models
        assert session.get_inputs()[0].shape == [1, 4, *size]


@pytest.mark.parametrize("error", ["bad things", "Failed to allocate memory for requested buffer"])
def test_errors_of_the_library_are_runtime_errors(
    error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fault(Exception):
        pass

    class Session:
        def run(self, *_: object) -> list[NDArray[np.float32]]:
            raise Fault(error)

    engine = on_onnx(lively(small("sid-net")))
    monkeypatch.setattr(engine, "_open", lambda *_: Session())
    with pytest.raises(RuntimeError, match=error) as caught:
        engine.run(np.zeros((4, 16, 16), np.float32), lambda share: None)
    assert engine.is_out_of_memory(caught.value) == ("allocate" in error)


# ---------------------------------------------------------------- what providers are told


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Sessions that are none, but say what they were asked for."""
    asked: list[dict[str, Any]] = []

    class Session:
        def __init__(self, model: bytes, settings: Any, **named: Any) -> None:
            asked.append(named | {"settings": settings})
            ((self.provider, _),) = named["providers"]

        def get_providers(self) -> list[str]:
            return [self.provider]

    monkeypatch.setattr(onnx_engine.ort, "InferenceSession", Session)

    def load() -> None:
        getattr(onnx_engine.ort, "print", print)("loading")  # as its own module's would

    monkeypatch.setattr(onnx_engine.ort, "preload_dlls", load, raising=False)
    before = onnx_engine._HAS_LOADED.is_set()
    onnx_engine._HAS_LOADED.clear()
    yield asked
    if before:
        onnx_engine._HAS_LOADED.set()
    else:
        onnx_engine._HAS_LOADED.clear()


@pytest.mark.parametrize("device", list(onnx_engine.PROVIDERS))
def test_no_provider_is_replaced_behind_our_back(
    device: DeviceKind, opened: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime would go on with the CPU's, and say so on stdout: among paths, or JSON."""
    onnx_engine.new_session(b"", device, 1)
    (asked,) = opened
    assert asked["enable_fallback"] == 0
    assert asked["providers"][0][0] == onnx_engine.PROVIDERS[device]
    assert capfd.readouterr().out == ""


def test_on_cuda_fp32_stays_fp32_and_memory_is_taken_as_it_is_wanted(
    opened: list[dict[str, Any]],
) -> None:
    onnx_engine.new_session(b"", "cuda", 1)
    ((_, options),) = opened[0]["providers"]
    assert options["use_tf32"] == "0" and options["device_id"] == "1"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    entry = "session.use_device_allocator_for_initializers"
    assert opened[0]["settings"].get_session_config_entry(entry) == "1"


def test_the_libraries_of_cuda_are_loaded_once(
    opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie among pip's packages, where only torch, or this, finds them."""
    loaded: list[bool] = []
    monkeypatch.setattr(onnx_engine.ort, "preload_dlls", lambda: loaded.append(True))
    for device in ("cpu", "coreml", "cuda", "cuda"):
        onnx_engine.new_session(b"", device)
    assert loaded == [True]
    monkeypatch.delattr(onnx_engine.ort, "preload_dlls")  # before 1.21
    onnx_engine._HAS_LOADED.clear()
    onnx_engine.new_session(b"", "cuda")
    assert not hasattr(onnx_engine.ort, "print")


def test_two_cards_load_them_at_once_and_stdout_stays(
    opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a thread of its own; a path may be printed meanwhile."""
    loaded: list[bool] = []

    def load() -> None:
        loaded.append(True)
        sleep(0.05)

    monkeypatch.setattr(onnx_engine.ort, "preload_dlls", load, raising=False)
    before = sys.stdout
    with ThreadPoolExecutor(2) as pool:
        opening = [pool.submit(onnx_engine.new_session, b"", "cuda", index) for index in (0, 1)]
        assert sys.stdout is before
        for each in opening:
            each.result()
    assert loaded == [True] and sys.stdout is before and not hasattr(onnx_engine.ort, "print")


@pytest.mark.parametrize(("device", "index", "shrunk"), [("cuda", 1, "gpu:1"), ("cpu", 0, "")])
def test_after_each_run_a_card_has_its_memory_back(
    device: DeviceKind, index: int, shrunk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Session:
        def run(
            self, _: object, feed: dict[str, NDArray[np.float32]], settings: Any
        ) -> list[NDArray[np.float32]]:
            try:
                seen.append(settings.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
            except RuntimeError:  # it is not there
                seen.append("")
            return [feed["planes"]]

    engine = on_onnx(lively(small("sid-net")))
    engine.device, engine.index = device, index
    monkeypatch.setattr(engine, "_open", lambda *_: Session())
    engine.run(np.zeros((4, 16, 16), np.float32), lambda share: None)
    assert seen == [shrunk]


def test_onnx_runtime_knows_how_memory_is_given_back() -> None:
    """On the CPU, with the arena that is on by default."""
    network = lively(small("sid-net"))
    model = graph_of(network).whole(None).SerializeToString()
    session = onnx_engine.ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {"planes": np.zeros((1, 4, 16, 16), np.float32)}
    assert onnx_engine.run_session(session, feed, "cpu:0").shape == (1, 3, 32, 32)
    with pytest.raises(RuntimeError, match="gpu"):
        onnx_engine.run_session(session, feed, "gpu:0")


# ---------------------------------------------------------------- the choice


@pytest.fixture
def tiny(tmp_path: Path) -> WeightsInfo:
    return saved(tmp_path, NetConfig("gia-net", width=2, vector=4))


def saved(folder: Path, config: NetConfig) -> WeightsInfo:
    path = folder / "own.safetensors"
    save_weights(path, build(config))
    return find_weights(path)


def test_it_runs_if_asked_for(tiny: WeightsInfo) -> None:
    progress = ProgressSpy()
    engine = open_engine(tiny, CPU, "onnx", progress)
    assert progress.details == [f"engine: {engine}, as asked"]
    assert str(engine).startswith("ONNX Runtime 1.")


def test_what_it_cannot_run_is_an_error(tiny: WeightsInfo, tmp_path: Path) -> None:
    for device, precision, words in (
        ("auto", "int8", "fp32 here, not in int8"),
        ("cpu", "bf16", "fp32 here, not in bf16"),
        ("coreml", "auto", "knows .*cpu, not coreml"),
        ("mps", "auto", "not mps"),
    ):
        with pytest.raises(DeviceError, match=words):
            Enhancer.from_weights(tiny.path, device=device, precision=precision, engine="onnx")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="engine torch does not run on directml"):
        select.choose_runtime("directml", "auto", "torch")
    sgn = saved(tmp_path, replace(NETWORKS["sgn"], width=8))
    with pytest.raises(DeviceError, match="sgn has no ONNX graph"):
        Enhancer.from_weights(sgn.path, engine="onnx")
    int8 = next(info for info in list_weights() if info.quantized_from is not None)
    with pytest.raises(DeviceError, match="not with onnx"):
        Enhancer.from_weights(int8.name, engine="onnx")
    with pytest.raises(WeightsMismatchError, match="only OpenVINO runs"):
        open_engine(int8, CPU, "onnx")


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="onnx and onnxruntime") as caught:
        Enhancer.from_weights(engine="onnx")
    assert "gia-cli[onnx]" in str(caught.value.hint)


def test_a_broken_installation_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gia_cli.inference.onnx_engine", None)
    with pytest.raises(DeviceError, match="ONNX Runtime cannot be loaded") as caught:
        Enhancer.from_weights(engine="onnx")
    assert "--engine torch" in str(caught.value.hint)


@pytest.mark.slow
def test_a_photo_needs_no_torch(tmp_path: Path) -> None:
    config = NetConfig("gia-net", width=2, vector=4)
    info = saved(tmp_path, config)
    program = (
        "import sys, gia_cli; from gia_cli.enhance.enhancer import Enhancer\n"
        f"Enhancer.from_weights({str(info.path)!r}, engine='onnx', device='cpu')"
        f".enhance({str(SAMPLE)!r})\n"
        "assert 'onnxruntime' in sys.modules; assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
