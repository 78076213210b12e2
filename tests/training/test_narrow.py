"""A trained network that is narrowed keeps its picture where it can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from gia_cli.cli import app
from gia_cli.errors import UsageError
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.nets.unet import GiaNet
from gia_cli.progress import Silent
from gia_cli.training.narrow import NarrowConfig, Narrowing, narrow, pivots
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import load_network, save_weights
from tests.data.test_synthetic import write_photos
from tests.networks import lively, small


@pytest.fixture(scope="module")
def planes() -> Tensor:
    """Crops of two shades each, so that their means differ."""
    rng = np.random.default_rng(0)
    shades = rng.uniform(0, 1, (256, 4, 2, 1))
    crops = np.repeat(shades, 16, axis=2) + rng.normal(0, 0.3, (256, 4, 32, 32))
    return torch.from_numpy(crops.astype(np.float32))


def doubled(network: GiaNet) -> GiaNet:
    """Every channel twice, and each of the two read half."""
    wide = build(replace(network.config, width=2 * network.config.width))
    state = {}
    for name, tensor in network.state_dict().items():
        is_up, is_bias = name.startswith("upsample"), name.endswith("bias")
        ins, outs = (0, 1) if is_up else (1, 0)
        if not name.startswith(("to_rgb", "gia.shrink")):
            tensor = tensor.repeat_interleave(2, 0 if is_bias else outs)
        if not is_bias and not name.startswith("encoder.0.0"):
            read = network.gia.channels if name.startswith("gia") else tensor.shape[ins]
            twice, once = tensor.split([read, tensor.shape[ins] - read], ins)
            tensor = torch.cat([twice.repeat_interleave(2, ins) / 2, once], ins)
        state[name] = tensor
    wide.load_state_dict(state)
    assert isinstance(wide, GiaNet)
    return wide.eval()


def narrowed(wide: GiaNet, width: int, planes: Tensor) -> GiaNet:
    network = build(replace(wide.config, width=width)).requires_grad_(False).eval()
    assert isinstance(network, GiaNet)
    with torch.no_grad():
        Narrowing(wide, network, planes).run()
    return network


def unexplained(pictures: Tensor, wanted: Tensor) -> float:
    return float((pictures - wanted).square().mean() / wanted.var())


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 2])
def test_channels_too_many_are_left_out(planes: Tensor, factor: int) -> None:
    """The same width, or half of one whose channels are all there twice, makes the same picture."""
    config: NetConfig = small("gia-net")
    own = lively(config)
    assert isinstance(own, GiaNet)
    wide = own if factor == 1 else doubled(own)
    with torch.no_grad():
        wanted = own(planes)
        torch.testing.assert_close(wide(planes), wanted, rtol=0, atol=1e-4)
        network = narrowed(wide, config.width, planes)
        assert unexplained(network(planes), wanted) < 1e-4


@pytest.mark.slow
def test_a_narrow_network_comes_near(planes: Tensor) -> None:
    """Nearer than the mean picture, and the vector says the same."""
    wide = lively(replace(small("gia-net"), width=8))
    assert isinstance(wide, GiaNet)
    with torch.no_grad():
        network = narrowed(wide, 4, planes)
        assert unexplained(network(planes), wide(planes)) < 0.1
        vectors = [net.gia.vector(net.encode(planes)[-1].mean((2, 3))) for net in (wide, network)]
    assert unexplained(vectors[1], vectors[0]) < 0.01


def test_the_pivots_are_those_of_qr(rng: np.random.Generator) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    columns = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 40)) + 0.05 * rng.normal(
        size=(300, 40)
    )
    columns *= rng.uniform(0.2, 2, 40)
    order = linalg.qr(columns, mode="r", pivoting=True)[1]
    np.testing.assert_array_equal(pivots(columns, 20), order[:20])


def test_pivots_predict_the_others() -> None:
    """Copies, of any size, are left out, and so is what is nothing; few enough are still chosen."""
    base = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 3)))[0]
    columns = np.column_stack([base[:, 0], 3 * base[:, 0], 0 * base[:, 0], base[:, 1:]])
    assert pivots(columns, 3).tolist()[0] == 1
    assert set(pivots(columns, 3)) == {1, 3, 4}
    assert sorted(pivots(columns, 5)) == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and two photographs to simulate exposures of."""
    folder = tmp_path_factory.mktemp("narrow")
    write_photos(folder / "photos", 2, (70, 80))
    facts = {"licence": "CC0", "training": {"vector_supervised": True, "data": "x"}}
    own = lively(replace(small("gia-net"), width=8))
    save_weights(folder / "own.safetensors", own, camera="ILCE-7SM2", **facts)
    return folder


def asked(folder: Path, **options: Any) -> NarrowConfig:
    settings: dict[str, Any] = {"scenes": 3, "seed": 4, "cache": folder / "cache", **options}
    path = str(folder / "own.safetensors")
    return NarrowConfig(path, "new", folder, (folder / "photos",), **settings)


@pytest.mark.slow
def test_the_row_says_what_was_made_of_what(folder: Path) -> None:
    row = narrow(asked(folder))
    assert row["config"]["width"] == 4  # half
    made = row["narrowing"]
    assert made["from"] == {"name": "own", "sha256": None}
    assert (made["scenes"], made["seed"]) == (3, 4)
    assert row["training"] == {"vector_supervised": True}  # what it was trained on is no more
    assert row["licence"] == "CC0"
    network = load_network(find_weights(folder / "new.safetensors"))
    assert network.config.width == 4


@pytest.mark.slow
def test_every_layer_is_a_step(folder: Path) -> None:
    heard = Heard()
    narrow(asked(folder, width=3, overwrite=True), heard)
    assert heard.stages[-1] == ("narrowing", heard.advanced[-1])
    assert any(line.startswith("encoder.0.0: 8 -> 3 channels") for line in heard.details)


class Heard(Silent):
    """Remembers the stages, the steps that each of them took, and the details."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.advanced: list[int] = []
        self.details: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total))
        self.advanced.append(0)

    def advance(self, steps: int = 1) -> None:
        self.advanced[-1] += steps

    def detail(self, message: str) -> None:
        self.details.append(message)


@pytest.mark.parametrize("width", [8, 9])
def test_a_width_that_is_no_smaller_is_refused(folder: Path, width: int) -> None:
    with pytest.raises(UsageError, match="has 8 channels at its first level"):
        narrow(asked(folder, width=width, overwrite=True))


def test_no_width_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="--width must be positive"):
        asked(folder, width=0)


@pytest.mark.slow
def test_the_command_takes_a_width(folder: Path) -> None:
    made = CliRunner().invoke(
        app,
        [
            *("weights", "narrow", str(folder / "own.safetensors"), "--width", "2"),
            *("--name", "by-command", "--out", str(folder), "--photos", str(folder / "photos")),
            *("--scenes", "2", "--cache", str(folder / "cache"), "-v"),
        ],
    )
    assert made.exit_code == 0, made.output
    path = folder / "by-command.safetensors"
    assert made.stdout == f"{path}\n"
    assert "decoder.3.2: 8 -> 2 channels" in made.stderr
    assert find_weights(path).config.width == 2
