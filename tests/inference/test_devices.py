"""What `gia info --devices` says of this machine, and of others."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from typer.testing import CliRunner

from gia_cli.cli import app
from gia_cli.errors import DeviceError
from gia_cli.inference import devices, select
from gia_cli.inference.devices import auto_choice, describe_machine
from gia_cli.inference.openvino_engine import OpenVinoEngine
from gia_cli.nets.config import NetConfig
from gia_cli.raw.cfa import CfaKind
from gia_cli.runtime import Gpu, Runtime, available_cores
from gia_cli.weights.manifest import find_weights
from tests.inference.test_openvino_engine import arrays_of
from tests.networks import lively


def test_this_machine_is_described() -> None:
    known = json.loads(json.dumps(describe_machine()))
    assert known["cpu"]["cores"] == available_cores()
    assert known["openvino"]["problem"] is None
    assert any(device.startswith("CPU (") for device in known["openvino"]["devices"])
    assert set(known["auto"]) == {"bayer", "xtrans"}


def test_the_command_prints_it_without_a_photo() -> None:
    done = CliRunner().invoke(app, ["info", "--devices"], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    for name, choice in describe_machine()["auto"].items():
        (line,) = (row for row in done.stdout.splitlines() if row.startswith(f"auto, {name}"))
        assert choice["weights"] in line and choice["reason"] in line
    done = CliRunner().invoke(app, ["info", "--devices", "--json"])
    assert json.loads(done.stdout) == describe_machine()
    assert CliRunner().invoke(app, ["info"]).exit_code == 2
    assert CliRunner().invoke(app, ["info", "--devices", "night.ARW"]).exit_code == 2


def test_each_card_is_listed_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Gpu("Old", 4 * 10**9, "5.2", 0, False), Gpu("New", 24 * 10**9, "8.9", 1)]
    monkeypatch.setattr(devices, "gpus", lambda: cards)
    monkeypatch.setattr(select, "resolve", lambda *_: Runtime("cuda", "float16", 1))
    known = describe_machine()
    assert [card["device"] for card in known["torch"]["gpus"]] == ["cuda:0", "cuda:1"]
    assert known["auto"]["bayer"]["device"] == "cuda:1"
    done = CliRunner().invoke(app, ["info", "--devices"], env={"COLUMNS": "300"})
    (line,) = (row for row in done.stdout.splitlines() if row.startswith("GPUs of torch"))
    assert "cuda:0 Old, 4.0 GB, 5.2, which this build of torch has no kernels for; " in line
    assert line.endswith("cuda:1 New, 24.0 GB, 8.9")


def test_onnx_runtime_is_named_or_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    assert "gia-cli[onnx]" in devices._asked(devices._onnx)["problem"]
    monkeypatch.undo()
    pytest.importorskip("onnxruntime")
    assert "cpu (CPUExecutionProvider)" in devices._asked(devices._onnx)["devices"]


def test_the_choice_is_what_the_enhancer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "resolve", lambda *_: Runtime("cpu", "float32"))
    monkeypatch.setattr(select, "_multiplies_in_bf16", lambda: False)
    choice = auto_choice("bayer")
    assert (choice["engine"], choice["precision"]) == ("openvino", "int8")
    assert find_weights(choice["weights"]).quantized_from is not None
    monkeypatch.setattr(select, "_multiplies_in_bf16", lambda: True)
    assert auto_choice("bayer")["precision"] == "int8 with bfloat16"
    monkeypatch.setattr(devices, "shipped_quantized", lambda info: None)
    assert auto_choice("bayer")["precision"] == "float32"
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    choice = auto_choice("xtrans")
    assert (choice["engine"], choice["reason"]) == ("torch", "OpenVINO is not installed")
    monkeypatch.setattr(select, "resolve", lambda *_: Runtime("cuda", "float16"))
    choice = auto_choice("bayer")
    assert (choice["engine"], choice["device"], choice["precision"]) == ("torch", "cuda", "float16")
    assert "found a GPU" in choice["reason"]
    assert choice["weights"] == find_weights(None, "bayer").name


def test_weights_of_the_environment_are_heeded_for_each_sensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Named for one sensor, for both, as the smaller ones; a machine is described in any case."""
    monkeypatch.setattr(select, "resolve", lambda *_: Runtime("cpu", "float32"))
    monkeypatch.setenv("GIA_WEIGHTS", "gia-sony-v6")
    choices = {kind: auto_choice(kind) for kind in get_args(CfaKind)}
    assert choices["bayer"]["weights"] == "gia-sony-v6"  # which does not ship in int8
    assert choices["xtrans"]["engine"] == choices["xtrans"]["weights"] == "none"
    assert "are for bayer photos" in choices["xtrans"]["reason"]
    monkeypatch.setenv("GIA_WEIGHTS", "lite")
    assert auto_choice("bayer")["weights"].startswith("gia-sony-lite")
    monkeypatch.setenv("GIA_WEIGHTS", "gia-sony-lite,gia-fuji")
    assert auto_choice("xtrans")["weights"].startswith("gia-fuji")


def test_an_openvino_that_does_not_load_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "resolve", lambda *_: Runtime("cpu", "float32"))

    def broken() -> tuple[str, list[str]]:
        raise ImportError("DLL load failed.")

    monkeypatch.setattr(devices, "_openvino", broken)
    choice = describe_machine()["auto"]["bayer"]
    assert (choice["engine"], choice["precision"]) == ("torch", "float32")
    assert choice["reason"] == "OpenVINO cannot be loaded: DLL load failed"


def test_instruction_sets_are_named_as_people_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "_CPU_FILE", file)
    file.write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f amx_tile\n\nflags : avx2")
    assert devices._cpu() == ("Some CPU", ["AVX2"])  # the last processor's: the least
    file.write_text("Features\t: fp asimd i8mm\n")
    assert devices._cpu()[1] == ["NEON", "NEON int8"]
    file.unlink()
    assert devices._cpu()[1] == []


# ---------------------------------------------------------------- Intel's GPU


def test_without_an_intel_gpu_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "openvino_devices", lambda: [("CPU", "Some CPU")])
    with pytest.raises(
        DeviceError, match=r"no GPU on this machine, only CPU \(Some CPU\)"
    ) as error:
        select.choose_runtime("intel-gpu", "auto", "auto")
    assert "driver" in str(error.value.hint)
    monkeypatch.setattr(select, "openvino_devices", lambda: [("GPU.0", "Some GPU")])
    assert select.choose_runtime("intel-gpu", "auto", "openvino") == Runtime("intel-gpu", "float32")
    for precision in ("int8", "fp16"):
        with pytest.raises(DeviceError, match="in fp32 here"):
            select.choose_runtime("intel-gpu", precision, "auto")
    with pytest.raises(DeviceError, match="engine torch does not run on intel-gpu"):
        select.choose_runtime("intel-gpu", "auto", "torch")


def test_a_gpu_gets_openvinos_plugin_and_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, dict[str, object]]] = []

    def compile_model(model: object, plugin: str, settings: dict[str, object]) -> None:
        compiled.append((plugin, settings))
        raise RuntimeError("no such device")

    core = SimpleNamespace(compile_model=compile_model)
    monkeypatch.setattr("gia_cli.inference.openvino_engine.the_core", lambda: core)
    network = lively(NetConfig("gia-net", width=2, vector=4))
    engine = OpenVinoEngine(network.config, arrays_of(network), "test", "intel-gpu")
    assert "on intel-gpu, float32" in str(engine)
    with pytest.raises(RuntimeError, match="no such device"):
        engine._compile("whole", (16, 16))
    ((plugin, settings),) = compiled
    assert plugin == "GPU"
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert not {"INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING"} & set(settings)
    fallback = engine.on_cpu()
    assert fallback is not None
    assert fallback.device == "cpu"
    assert fallback.on_cpu() is None


def test_intels_gpu_computes_the_cpus_picture() -> None:
    if not any(name.startswith("GPU") for name, _ in select.openvino_devices()):
        pytest.skip("no GPU that OpenVINO knows")
    import numpy as np

    network = lively(NetConfig("gia-net", width=4, vector=4))
    planes = np.random.default_rng(0).random((4, 64, 48), np.float32)
    pictures = [
        OpenVinoEngine(network.config, arrays_of(network), "test", device).run(
            planes, lambda share: None
        )
        for device in ("cpu", "intel-gpu")
    ]
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-3
