"""int8 weights on OpenVINO: near fp32, one picture whole, in tiles and in parts; strict loading."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import DeviceError, WeightsError, WeightsMismatchError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.systems import open_systems
from gia_cli.imaging.color import bt709_from_srgb16
from gia_cli.imaging.writer import unorient
from gia_cli.inference import openvino_engine, select
from gia_cli.inference.layout import LAYOUTS
from gia_cli.inference.openvino_engine import OpenVinoEngine
from gia_cli.inference.run import infer
from gia_cli.inference.select import open_engine
from gia_cli.nets.config import NetName
from gia_cli.raw.reader import read_raw
from gia_cli.runtime import Precision, Runtime
from gia_cli.weights import manifest as checkpoint
from gia_cli.weights.manifest import find_weights, list_in_manifest, shipped_quantized
from gia_cli.weights.storage import (
    Original,
    WeightsInfo,
    load_network,
    save_quantized,
    save_weights,
)
from tests.inference.test_openvino_engine import (
    differences,
    needs_bf16,
    on_openvino,
    photo,
    plenty_of_memory,  # noqa: F401
)
from tests.networks import UNETS, int8_arrays, lively, small
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, INT8 = Runtime("cpu", "float32"), Runtime("cpu", "int8")
SAMPLE = Path(__file__).parents[2] / "samples" / "night.ARW"
# In units of the picture's standard deviation. Measured: up to 0.040.
NEAR = 0.08


def on_int8(
    name: NetName, planes: NDArray[np.float32], in_bf16: bool | None = None
) -> OpenVinoEngine:
    network = lively(small(name))
    arrays = int8_arrays(network, planes)
    return OpenVinoEngine(network.config, arrays, "test", in_bf16=in_bf16)


# ---------------------------------------------------------------- what it computes


@pytest.mark.slow
@pytest.mark.parametrize("name", UNETS)
def test_int8_is_near_fp32_whole_in_tiles_and_in_parts(
    name: NetName, rng: np.random.Generator
) -> None:
    mosaic = photo(rng, "bayer", 16, 4 * LAYOUTS[name].halo)
    engine = on_int8(name, mosaic.planes, in_bf16=False)
    rounding, tiled, parts = differences(engine, mosaic)
    assert 1e-4 < rounding < NEAR
    # Here they are equal; but a number between two steps may fall to either side, and of that
    # everything behind it differs, though by less than the rounding itself.
    assert tiled < 0.7 * rounding
    assert parts < 0.7 * rounding


@needs_bf16
@pytest.mark.slow
@pytest.mark.parametrize("name", UNETS)
def test_int8_with_bf16_is_near_fp32_whole_in_tiles_and_in_parts(
    name: NetName, rng: np.random.Generator
) -> None:
    mosaic = photo(rng, "bayer", 16, 4 * LAYOUTS[name].halo)
    engine = on_int8(name, mosaic.planes, in_bf16=True)
    rounding, tiled, parts = differences(engine, mosaic)
    assert 1e-4 < rounding < NEAR
    assert tiled < rounding  # bf16 rounds, too, and more numbers fall to the other side
    assert parts < rounding


def test_the_layers_really_are_int8(rng: np.random.Generator) -> None:
    mosaic = photo(rng, "bayer", 64, 64)
    engine = on_int8("gia-net", mosaic.planes)
    infer(engine, mosaic)
    (model,) = engine._compiled.models
    nodes = model.get_runtime_model().get_ordered_ops()
    formats = [
        str(node.get_rt_info()["runtimePrecision"].astype(str))
        for node in nodes
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    assert sum(form in ("i8", "u8") for form in formats) > len(formats) / 2


@pytest.mark.parametrize("name", UNETS)
def test_it_plans_with_less_memory(name: NetName, rng: np.random.Generator) -> None:
    engine = on_int8(name, photo(rng, "bayer", 32, 32).planes)
    other = on_openvino(lively(small(name)))
    assert engine.bytes_per_pixel < other.bytes_per_pixel
    assert engine.split.depth_bytes < other.split.depth_bytes
    assert engine.fixed_bytes < other.fixed_bytes
    assert engine.split.kept_bytes == other.split.kept_bytes  # between the parts all is fp32


@pytest.mark.parametrize(("has_bf16", "others"), [(True, "bfloat16"), (False, "float32")])
def test_it_says_that_it_is_int8_and_what_the_other_layers_are(
    has_bf16: bool, others: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "multiplies_in_bf16", lambda: has_bf16)
    engine = on_int8("sid-net", photo(rng, "bayer", 32, 32).planes)
    assert str(engine).endswith(f"on cpu, int8 with {others}")


# ---------------------------------------------------------------- strict loading


@pytest.fixture
def arrays(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return int8_arrays(lively(small("gia-net")), photo(rng, "bayer", 32, 32).planes)


LAYER = "encoder.0.2"


@pytest.mark.parametrize(
    ("name", "wrong", "problem"),
    [
        ("scale", None, "scale is missing"),
        ("ranges", None, "ranges is missing"),
        ("scale", np.ones(3, np.float32), r"scale has shape \(3,\), not \(4,\)"),
        ("ranges", np.zeros(3, np.float32), r"ranges has shape \(3,\), not \(2,\)"),
        ("weight", np.ones((4, 4, 1, 1), np.int8), "weight has shape"),
        ("weight", np.ones((4, 4, 3, 3), np.int32), "weight is of int32"),
        ("scale", np.array([1, 1, 0, 1], np.float32), "scale holds a number that is not positive"),
        ("scale", np.array([1, 1, np.nan, 1], np.float32), "scale holds a number that is not fin"),
        ("scale", np.ones(4, np.int8), "scale is of int8"),
        ("ranges", np.array([0.5, 1], np.float32), "no range with a step at zero"),
        ("ranges", np.array([1, -1], np.float32), "no range with a step at zero"),
        ("ranges", np.array([0, 0], np.float32), "no range with a step at zero"),
        ("ranges", np.array([-1, 1], np.float32), "no range with a step at zero"),
        ("ranges", np.array([-np.inf, 1], np.float32), "ranges holds a number that is not fin"),
        ("bias", np.zeros(4, np.int8), "bias is of int8"),
        ("zero_point", np.zeros(4, np.int8), "zero_point is left over"),
    ],
)
def test_what_does_not_fit_is_named(
    name: str, wrong: NDArray[Any] | None, problem: str, arrays: dict[str, NDArray[Any]]
) -> None:
    if wrong is None:
        del arrays[f"{LAYER}.{name}"]
    else:
        arrays[f"{LAYER}.{name}"] = wrong
    with pytest.raises(WeightsMismatchError, match=problem):
        OpenVinoEngine(small("gia-net"), arrays, "own weights")


def test_scales_of_fp32_layers_are_left_over(arrays: dict[str, NDArray[Any]]) -> None:
    arrays[f"{LAYER}.weight"] = arrays[f"{LAYER}.weight"].astype(np.float32)
    with pytest.raises(WeightsMismatchError, match="left over"):
        OpenVinoEngine(small("gia-net"), arrays, "own weights")


# ---------------------------------------------------------------- from the row to the picture


@pytest.fixture
def pair(tmp_path: Path, arrays: dict[str, NDArray[Any]]) -> tuple[WeightsInfo, WeightsInfo]:
    """Weights and their int8 form, the int8 row first in the manifest."""
    row = save_weights(tmp_path / "own.safetensors", lively(small("gia-net")), camera="ILCE-7SM2")
    list_in_manifest(tmp_path, row)
    own = find_weights(tmp_path / "own.safetensors")
    rounded = save_quantized(tmp_path / "own-int8.safetensors", arrays, own)
    (tmp_path / "manifest.json").unlink()
    for line in (rounded, row):
        list_in_manifest(tmp_path, line)
    return own, find_weights(tmp_path / "own-int8.safetensors")


def test_a_row_says_what_it_was_made_from(pair: tuple[WeightsInfo, WeightsInfo]) -> None:
    own, rounded = pair
    assert own.quantized_from is None
    assert own.sha256 is not None
    assert rounded.quantized_from == Original("own", own.sha256)
    assert (rounded.config, rounded.camera) == (own.config, own.camera)
    rounded.path.with_name("manifest.json").unlink()
    assert find_weights(rounded.path).quantized_from == rounded.quantized_from  # by its header


def test_int8_weights_run_on_openvino_alone(
    pair: tuple[WeightsInfo, WeightsInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, rounded = pair
    for runtime in (CPU, INT8):
        assert "on cpu, int8 with " in str(open_engine(rounded, runtime))
    with pytest.raises(DeviceError, match="not with torch"):
        open_engine(rounded, CPU, "torch")
    with pytest.raises(DeviceError, match="not on cuda") as caught:
        open_engine(rounded, Runtime("cuda", "float16"))
    assert "--device" in caught.value.hint
    with pytest.raises(DeviceError, match="not on intel-gpu"):
        open_engine(rounded, Runtime("intel-gpu", "float32"))
    with pytest.raises(WeightsMismatchError, match="'own' are not int8"):
        open_engine(own, INT8)
    with pytest.raises(WeightsMismatchError, match="are int8") as refused:
        load_network(rounded)
    assert "'own'" in refused.value.hint
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="not installed"):
        open_engine(rounded, CPU)


def test_a_row_that_is_wrong_about_int8_is_refused(pair: tuple[WeightsInfo, WeightsInfo]) -> None:
    own, rounded = pair
    with pytest.raises(WeightsMismatchError, match="is not int8; its tensors say otherwise"):
        open_engine(replace(rounded, quantized_from=None), CPU)
    with pytest.raises(WeightsMismatchError, match="is int8; its tensors say otherwise"):
        open_engine(replace(own, quantized_from=Original("other", "0" * 64)), CPU)


@pytest.mark.slow
def test_precision_int8_takes_what_was_made_from_the_chosen(
    pair: tuple[WeightsInfo, WeightsInfo],
) -> None:
    own, rounded = pair
    for path in (own.path, rounded.path):
        enhancer = Enhancer.from_weights(path, precision="int8")
        assert enhancer.runtime == INT8
        result = enhancer.enhance(SAMPLE, ratio=100)
        assert result.weights.name == "own-int8"
        assert "weights own-int8" in result.comment
    assert Enhancer.from_weights(own.path).enhance(SAMPLE, ratio=100).weights.name == "own"


@pytest.fixture
def shipped(
    pair: tuple[WeightsInfo, WeightsInfo], monkeypatch: pytest.MonkeyPatch
) -> tuple[WeightsInfo, WeightsInfo]:
    monkeypatch.setattr(checkpoint, "weights_folder", lambda: pair[0].path.parent)
    return pair


@pytest.mark.slow
def test_int8_weights_that_ship_are_what_a_cpu_runs(
    shipped: tuple[WeightsInfo, WeightsInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(**options: Any) -> str:
        enhancer = Enhancer.from_weights(device="cpu", **options)
        return enhancer.enhance(SAMPLE, ratio=100).weights.name

    assert ran() == ran(engine="openvino") == ran(weights="own") == "own-int8"
    for otherwise in ({"precision": "fp32"}, {"engine": "torch"}):
        assert ran(**otherwise) == "own"
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    assert ran() == "own"


def test_where_openvino_fails_in_int8_fp32_takes_over(
    shipped: tuple[WeightsInfo, WeightsInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_part = OpenVinoEngine._compile

    def broken(self: OpenVinoEngine, part: str, sides: tuple[int, ...]) -> Any:
        if self._is_int8:
            raise RuntimeError("this processor cannot do that")
        return compile_part(self, part, sides)

    monkeypatch.setattr(OpenVinoEngine, "_compile", broken)
    listener = ProgressSpy()
    enhancer = Enhancer.from_weights(device="cpu")
    for _ in range(2):
        result = enhancer.enhance(SAMPLE, ratio=100, progress=listener)
        assert result.weights.name == "own"
    assert len([text for text in listener.notes if "cannot do that" in text]) == 1
    with pytest.raises(RuntimeError, match="cannot do that"):  # what was asked for is not replaced
        Enhancer.from_weights(precision="int8").enhance(SAMPLE, ratio=100)


def test_damaged_int8_weights_that_nobody_asked_for_stop_nothing(
    shipped: tuple[WeightsInfo, WeightsInfo],
) -> None:
    _, rounded = shipped
    rounded.path.unlink()
    listener = ProgressSpy()
    result = Enhancer.from_weights(device="cpu").enhance(SAMPLE, ratio=100, progress=listener)
    assert result.weights.name == "own"
    assert any("own-int8 cannot be used; continuing in fp32" in text for text in listener.notes)
    with pytest.raises(WeightsError):
        Enhancer.from_weights(precision="int8").enhance(SAMPLE, ratio=100)


def test_what_ships_is_known_wherever_it_lies(
    shipped: tuple[WeightsInfo, WeightsInfo], tmp_path: Path
) -> None:
    own, rounded = shipped
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(own.path, tmp_path / "elsewhere" / "copy.safetensors")
    for path in (own.path, copy, os.path.relpath(own.path)):
        assert shipped_quantized(find_weights(path)) == rounded
    row = save_weights(
        tmp_path / "elsewhere" / "other.safetensors", lively(small("gia-net"), seed=3)
    )
    list_in_manifest(tmp_path / "elsewhere", row)
    assert shipped_quantized(find_weights(tmp_path / "elsewhere" / "other.safetensors")) is None


@pytest.mark.slow
def test_what_ships_in_int8_does_not_decide_a_score(
    shipped: tuple[WeightsInfo, WeightsInfo], tmp_path: Path
) -> None:
    frame = read_raw(SAMPLE)
    levels: dict[Precision, NDArray[np.uint16]] = {
        precision: Enhancer.from_weights(device="cpu", precision=precision)
        .enhance(frame, ratio=100)
        .image
        for precision in ("fp32", "int8")
    }
    config = EvalConfig(tmp_path, "sony", tmp_path / "out", weights=("own",), device="cpu")
    used: dict[Precision, Precision] = {"auto": "fp32", "fp32": "fp32", "int8": "int8"}
    for precision, expected in used.items():
        (system,) = open_systems(replace(config, precision=precision))
        picture, _ = system.render(frame, 100.0)
        assert np.array_equal(picture, bt709_from_srgb16(unorient(levels[expected], frame.flip)))
    assert not np.array_equal(levels["fp32"], levels["int8"])


def test_precision_int8_without_such_weights_says_how_to_make_them(tmp_path: Path) -> None:
    save_weights(tmp_path / "own.safetensors", lively(small("gia-net")))
    with pytest.raises(WeightsError, match="no int8 weights made from 'own'") as caught:
        Enhancer.from_weights(tmp_path / "own.safetensors", precision="int8")
    assert "gia weights quantize" in caught.value.hint
    assert caught.value.exit_code == 40


def test_precision_int8_needs_openvino(
    pair: tuple[WeightsInfo, WeightsInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, rounded = pair
    for path in (own.path, rounded.path):
        with pytest.raises(DeviceError, match="not with torch"):
            Enhancer.from_weights(path, precision="int8", engine="torch")
    with pytest.raises(DeviceError, match="not with torch"):
        Enhancer.from_weights(rounded.path, engine="torch")
    with pytest.raises(DeviceError, match="not in bfloat16"):
        Enhancer.from_weights(rounded.path, device="cpu", precision="bf16")
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="OpenVINO is not installed") as caught:
        Enhancer.from_weights(own.path, precision="int8")
    assert caught.value.hint
