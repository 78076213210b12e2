"""Which engine runs, why, and what it takes along: the choice, its words, and its imports."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import DeviceError, WeightsCorruptError
from gia_cli.inference import openvino_core, select
from gia_cli.inference.select import open_engine, require_openvino
from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS, NetConfig
from gia_cli.runtime import Runtime
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo, save_weights
from tests.progress_spy import ProgressSpy

CPU = Runtime("cpu", "float32")
SAMPLE = Path(__file__).parents[2] / "samples" / "night.ARW"


def saved(folder: Path, config: NetConfig) -> WeightsInfo:
    path = folder / "own.safetensors"
    save_weights(path, build(config))
    return find_weights(path)


@pytest.fixture
def tiny(tmp_path: Path) -> WeightsInfo:
    return saved(tmp_path, NetConfig("gia-net", width=2, vector=4))


def opened(info: WeightsInfo, runtime: Runtime, engine: select.EngineName) -> tuple[str, str]:
    """Name of the engine, and the one line that the user was told."""
    progress = ProgressSpy()
    name = str(open_engine(info, runtime, engine, progress))
    (line,) = progress.details
    return name, line


# ---------------------------------------------------------------- the choice


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_a_unet_on_a_cpu_gets_openvino(engine: select.EngineName, tiny: WeightsInfo) -> None:
    name, line = opened(tiny, CPU, engine)
    assert name.startswith("OpenVINO 2")
    assert name in line
    assert line.endswith({"auto": "faster than torch on a CPU", "openvino": "as asked"}[engine])


def test_torch_can_be_asked_for(tiny: WeightsInfo) -> None:
    assert opened(tiny, CPU, "torch") == (
        "torch on cpu, float32",
        "engine: torch on cpu, float32, as asked",
    )


@pytest.mark.parametrize(
    ("runtime", "why"),
    [
        (Runtime("cpu", "float64"), "does not run in float64 here"),
        (Runtime("cuda", "float16"), "on the CPU here, not on cuda"),
        (Runtime("mps", "float32"), "on the CPU here, not on mps"),
    ],
)
def test_what_openvino_does_not_run_torch_does(
    runtime: Runtime, why: str, tiny: WeightsInfo
) -> None:
    name, line = opened(tiny, runtime, "auto")
    assert name == f"torch on {runtime}"
    assert why in line
    with pytest.raises(DeviceError, match=why) as caught:
        open_engine(tiny, runtime, "openvino")
    assert "--engine" in caught.value.hint


@pytest.mark.parametrize(
    ("has_it", "name"),
    [(True, "on cpu, bfloat16"), (False, "torch on cpu, bfloat16")],
)
def test_openvino_gets_bf16_where_the_cpu_multiplies_in_it(
    has_it: bool, name: str, tiny: WeightsInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_core, "multiplies_in_bf16", lambda: has_it)
    runtime = Runtime("cpu", "bfloat16")
    found, line = opened(tiny, runtime, "auto")
    assert found.endswith(name)
    assert found.startswith("OpenVINO" if has_it else "torch")
    if has_it:
        return
    assert line.endswith("this CPU does not multiply in bf16 itself")
    with pytest.raises(DeviceError, match="does not multiply in bf16 itself") as caught:
        open_engine(tiny, runtime, "openvino")
    assert "--engine" in caught.value.hint


@pytest.mark.parametrize("network", ["dncnn", "ridnet", "sgn"])
def test_networks_without_a_graph_run_on_torch(network: str, tmp_path: Path) -> None:
    info = saved(tmp_path, replace(NETWORKS[network], width=8))
    name, line = opened(info, CPU, "auto")
    assert name == "torch on cpu, float32"
    assert line.endswith(f"{network} has no OpenVINO graph")
    with pytest.raises(DeviceError, match=f"{network} has no OpenVINO graph"):
        Enhancer.from_weights(info.path, device="cpu", engine="openvino")


def test_without_openvino_torch_does_it(tiny: WeightsInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    name, line = opened(tiny, CPU, "auto")
    assert name == "torch on cpu, float32"
    assert line.endswith("OpenVINO is not installed")
    with pytest.raises(DeviceError, match="not installed"):
        require_openvino(CPU)


def test_with_a_broken_openvino_torch_does_it(
    tiny: WeightsInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gia_cli.inference.openvino_engine", None)
    name, line = opened(tiny, CPU, "auto")
    assert name == "torch on cpu, float32"
    assert "OpenVINO failed: " in line
    with pytest.raises(DeviceError, match="OpenVINO failed") as caught:
        open_engine(tiny, CPU, "openvino")
    assert "--engine torch" in caught.value.hint


@pytest.mark.parametrize("engine", ["auto", "torch", "openvino"])
def test_damaged_weights_are_refused_by_every_engine(
    engine: select.EngineName, tiny: WeightsInfo
) -> None:
    with pytest.raises(WeightsCorruptError):
        open_engine(replace(tiny, sha256="0" * 64), CPU, engine)


def test_asking_for_openvino_means_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Enhancer.from_weights(engine="openvino").runtime == CPU
    monkeypatch.setattr(openvino_core, "multiplies_in_bf16", lambda: True)
    in_bf16 = Enhancer.from_weights(engine="openvino", precision="bf16")
    assert in_bf16.runtime == Runtime("cpu", "bfloat16")


# ---------------------------------------------------------------- imports


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_enhancing_on_a_cpu_never_imports_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from gia_cli.cli import main
sys.argv = ["gia", "enhance", {str(SAMPLE)!r}, "-o", "out.tif", "-v", "--device", "cpu"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
sys.exit("torch" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "engine: OpenVINO" in run.stderr
    assert (tmp_path / "out.tif").stat().st_size > 10**5


@pytest.mark.slow
def test_the_choice_imports_no_machinery() -> None:
    code = (
        "import sys, gia_cli.inference.engine, gia_cli.enhance.enhancer;"
        "sys.exit(bool({'torch', 'openvino'} & set(sys.modules)))"
    )
    assert run_python(code).returncode == 0


def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    """Its own import would write a client id into the home folder, and send it."""
    code = (
        "import sys; from gia_cli.inference.quiet_openvino import openvino;"
        "assert 'openvino_telemetry' not in sys.modules;"
        "import openvino.tools.ovc.telemetry_utils as t;"
        "sys.exit('stub' not in t.tm.__name__)"
    )
    run = run_python(code, HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.iterdir()) == []
