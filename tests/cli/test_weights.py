"""``gia weights``: its options state what its dataclasses do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gia_cli.cli.app import app
from gia_cli.cli.options import defaults
from gia_cli.enhance.calibrate import CalibrateConfig
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.quantization.quantize import QuantizeConfig
from gia_cli.training.checkerboard import CheckerboardConfig
from gia_cli.training.narrow import NarrowConfig
from gia_cli.weights.storage import save_weights


@pytest.mark.parametrize(
    ("command", "option", "config"),
    [
        ("calibrate", "scenes", CalibrateConfig),
        ("quantize", "scenes", QuantizeConfig),
        ("quantize", "fp32_levels", QuantizeConfig),
        ("reduce-checkerboard", "scenes", CheckerboardConfig),
        ("narrow", "scenes", NarrowConfig),
    ],
)
def test_the_help_states_the_default(command: str, option: str, config: type[Any]) -> None:
    """The help has it in words, because a dataclass's module takes seconds to import."""
    done = CliRunner().invoke(app, ["weights", command, "-h"], env={"COLUMNS": "200"})
    flag = option.replace("_", "-")
    stated = re.search(rf"--{flag}\b.*?\(default: (\d+)\)", done.output, re.DOTALL)
    assert stated is not None, done.output
    assert int(stated[1]) == getattr(defaults(config), option)


def test_export_onnx_names_its_files_and_the_difference(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    save_weights(tmp_path / "own.safetensors", build(NetConfig("gia-net", width=2, vector=4)))
    out = tmp_path / "out"
    command = ["weights", "export-onnx", str(tmp_path / "own.safetensors"), "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--size", "60x40"])
    assert done.exit_code == 0, done.output
    written = [Path(line) for line in done.stdout.splitlines()]
    assert set(written) == set(out.iterdir())
    assert "difference from torch" in done.stderr
    assert CliRunner().invoke(app, command).exit_code == 61
    assert CliRunner().invoke(app, [*command, "--overwrite", "--size", "6"]).exit_code == 2
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
