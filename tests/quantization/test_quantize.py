"""``gia weights quantize``: scenes of photographs, int8 weights, and a row that says of what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gia_cli.cli import app
from gia_cli.errors import DataError, DeviceError, OutputExistsError, UsageError
from gia_cli.inference import select
from gia_cli.inference.run import infer
from gia_cli.nets.config import NetConfig
from gia_cli.quantization import quantize
from gia_cli.quantization.quantize import QuantizeConfig
from gia_cli.raw.cfa import Alignment
from gia_cli.raw.packing import PackedMosaic
from gia_cli.runtime import Runtime
from gia_cli.weights.manifest import find_weights, list_weights
from gia_cli.weights.storage import load_arrays, save_weights
from tests.data.test_synthetic import write_photos
from tests.networks import lively

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and two photographs to simulate exposures of."""
    folder = tmp_path_factory.mktemp("quantize")
    write_photos(folder / "photos", 2, (140, 160))
    config = NetConfig("gia-net", width=8, vector=16)
    save_weights(folder / "own.safetensors", lively(config), camera="ILCE-7SM2")
    return folder


def asked(folder: Path, **changes: Any) -> QuantizeConfig:
    options: dict[str, Any] = {
        "weights": str(folder / "own.safetensors"),
        "name": "own-int8",
        "out": folder,
        "photos": (folder / "photos",),
        "scenes": 3,
        "cache": folder / "cache",
    }
    return QuantizeConfig(**options | changes)


def gia(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# ---------------------------------------------------------------- with NNCF


@pytest.fixture(scope="module")
def made(folder: Path, one_thread: None) -> Result:
    pytest.importorskip("nncf")
    own, photos, cache = folder / "own.safetensors", folder / "photos", folder / "cache"
    options = ("--photos", photos, "--out", folder, "--scenes", 3, "--seed", 1, "--cache", cache)
    return gia("weights", "quantize", own, "--name", "own-int8", *options)


@pytest.mark.slow
def test_the_command_writes_weights_and_their_row(made: Result, folder: Path) -> None:
    path = folder / "own-int8.safetensors"
    assert made.exit_code == 0, made.output
    assert made.stdout == f"{path}\n"  # and nothing of NNCF's
    (row,) = list_weights(folder)
    assert row.name == "own-int8"
    assert row.quantized_from is not None
    assert row.quantized_from.name == "own"
    assert row.size == path.stat().st_size < 0.7 * (folder / "own.safetensors").stat().st_size
    verified = gia("weights", "verify", path)
    assert "intact" in verified.stdout, verified.output


FP32 = Runtime("cpu", "float32")


def scene(folder: Path) -> PackedMosaic:
    """One that the ranges were not found by."""
    own = find_weights(folder / "own.safetensors")
    (planes,) = quantize._draw_crops(asked(folder, scenes=1, seed=7), own)
    height, width = (2 * side for side in planes.shape[1:])
    return PackedMosaic(planes, "bayer", height, width, Alignment(0, 0, 0, 0))


@pytest.mark.slow
def test_they_make_nearly_the_same_picture(made: Result, folder: Path) -> None:
    mosaic = scene(folder)
    exact, rounded = (
        infer(select.open_engine(find_weights(folder / f"{name}.safetensors"), FP32), mosaic)
        for name in ("own", "own-int8")
    )
    difference = np.sqrt(((rounded - exact) ** 2).mean()) / exact.std()
    assert 1e-5 < difference < 0.1


@pytest.mark.slow
def test_the_outer_levels_stay_in_fp32(made: Result, folder: Path) -> None:
    """Two by default; what is left to lose is less than in int8 from the first level on."""
    outer = ("encoder.0.", "encoder.1.", "upsample.3.", "upsample.2.", "decoder.3.", "decoder.2.")
    arrays = load_arrays(find_weights(folder / "own-int8.safetensors"))
    formats = {name: a.dtype for name, a in arrays.items() if name.endswith(".weight")}
    floats = {name for name, dtype in formats.items() if dtype != np.int8}
    assert floats == {name for name in formats if name.startswith((*outer, "gia.", "to_rgb"))}
    quantize.quantize(asked(folder, name="all-int8", fp32_levels=0, seed=1))  # by the same scenes
    quantized = find_weights(folder / "all-int8.safetensors")
    assert load_arrays(quantized)["encoder.1.0.weight"].dtype == np.int8
    mosaic = scene(folder)
    exact, some, most = (
        infer(select.open_engine(find_weights(folder / f"{name}.safetensors"), FP32), mosaic)
        for name in ("own", "own-int8", "all-int8")
    )
    assert np.abs(some - exact).mean() < 0.7 * np.abs(most - exact).mean()


def test_errors_of_rounding_make_up_for_one_another(rng: np.random.Generator) -> None:
    """Where what is read has a mean, or few ways to vary; where it is noise, nothing is lost."""
    quantizer = pytest.importorskip("gia_cli.quantization.openvino")
    steps = rng.normal(0, 30, (16, 72))
    noise = rng.normal(size=(4000, 72))
    few_ways = rng.normal(size=(4000, 4)) @ rng.normal(size=(4, 72)) + 0.1 * noise
    for read, most in (
        (noise, 1.01),
        (0.3 * noise + rng.uniform(0, 2, 72), 0.5),
        (few_ways, 0.5),
    ):
        rounded = quantizer._round_together(steps, read.astype(np.float32))
        assert rounded.dtype == np.int8

        def off(made: np.ndarray, read: np.ndarray = read) -> float:
            return float(np.sqrt((((made - steps) @ read.T) ** 2).mean()))

        assert off(rounded) < most * off(np.rint(steps))


def test_weights_beyond_a_byte_are_cut(rng: np.random.Generator) -> None:
    quantizer = pytest.importorskip("gia_cli.quantization.openvino")
    rounded = quantizer._round_together(
        np.array([[127.4, -130.0, 0.2]]), rng.normal(size=(50, 3)).astype(np.float32)
    )
    assert rounded.min() >= -127 and rounded.max() <= 127


@pytest.mark.slow
def test_what_layers_read_reaches_further_than_in_the_calibration_scenes(
    made: Result, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo may be more extreme than all of them, and what is cut off shifts all of it."""
    monkeypatch.setattr("gia_cli.quantization.openvino._MARGIN", 1.0)
    quantize.quantize(asked(folder, name="narrow-int8", seed=1))
    wide, narrow = (
        load_arrays(find_weights(folder / f"{name}.safetensors"))
        for name in ("own-int8", "narrow-int8")
    )
    ranges = [name for name in wide if name.endswith(".ranges")]
    assert ranges
    for name in ranges:
        own, before = (np.asarray(arrays[name], np.float32) for arrays in (wide, narrow))
        assert np.allclose(own, 1.3 * before, rtol=1e-5)
        low, high = own
        below = -low / (high - low) * 255
        assert abs(below - np.rint(below)) < 0.01  # zero, which borders hold, is a step


@pytest.mark.slow
def test_int8_weights_are_not_quantized_again(made: Result, folder: Path) -> None:
    again = asked(folder, weights=str(folder / "own-int8.safetensors"), name="twice")
    with pytest.raises(UsageError, match="int8 already"):
        quantize.quantize(again)


# ---------------------------------------------------------------- without


def test_without_nncf_it_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None if name == "nncf" else name)
    with pytest.raises(DeviceError, match="NNCF, which is not installed") as caught:
        quantize.quantize(asked(folder, name="other"))
    assert "pip install 'nncf" in caught.value.hint


def test_mistakes_are_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: name)
    for changes, words in (
        ({"name": "a/b"}, "not a name for weights"),
        ({"scenes": 0}, "--scenes must be positive"),
        ({"fp32_levels": 5}, "--fp32-levels must be between 0 and 4, not 5"),
        ({"photos": ()}, "no photographs"),
    ):
        with pytest.raises(UsageError, match=words):
            asked(folder, **changes)
    with pytest.raises(UsageError, match="the new ones are made from"):
        quantize.quantize(asked(folder, name="own", overwrite=True))
    (folder / "there.safetensors").touch()
    with pytest.raises(OutputExistsError, match="already exists"):
        quantize.quantize(asked(folder, name="there"))


def test_photographs_that_are_too_small_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: name)
    write_photos(tmp_path / "small", 1, (20, 24))
    with pytest.raises(DataError, match="too small"):
        quantize.quantize(asked(folder, name="no", photos=(tmp_path / "small",), cache=tmp_path))
