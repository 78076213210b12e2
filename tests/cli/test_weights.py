"""``gia weights``: its options state what its dataclasses do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.testing import CliRunner

from gia_cli.cli.app import app
from gia_cli.cli.options import defaults
from gia_cli.enhance.calibrate import CalibrateConfig
from gia_cli.quantization.quantize import QuantizeConfig
from gia_cli.training.checkerboard import CheckerboardConfig
from gia_cli.training.narrow import NarrowConfig


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
