"""A checkerboard that is planted in the last layer goes, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from gia_cli._version import __version__
from gia_cli.cli import app
from gia_cli.errors import UsageError
from gia_cli.imaging.fusion import ShareCounter
from gia_cli.nets.unet import GiaNet
from gia_cli.progress import Silent
from gia_cli.raw.cfa import CfaKind
from gia_cli.training.checkerboard import (
    CheckerboardConfig,
    Moments,
    last_features,
    reduce_checkerboard,
    refit,
)
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import load_network, save_weights
from tests.data.test_synthetic import write_photos
from tests.networks import lively, small


@pytest.fixture(params=["bayer", "xtrans"])
def network(request: pytest.FixtureRequest) -> GiaNet:
    kind: CfaKind = request.param
    network = lively(small("gia-net", kind)).requires_grad_(False)
    assert isinstance(network, GiaNet)
    return network


@pytest.fixture
def planes(network: GiaNet) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, network.config.in_channels, 64, 64, generator=generator)


def checkerboard(pictures: Tensor, wanted: Tensor, scale: int) -> float:
    """How far the sub-pixels' error, in the mean over blocks, is from its own mean."""
    error = F.avg_pool2d(F.pixel_unshuffle(pictures - wanted, scale), 16).unflatten(1, (3, -1))
    return float((error - error.mean(2, keepdim=True)).square().mean().sqrt())


@pytest.mark.slow
def test_the_features_are_what_the_network_makes_its_picture_of(
    network: GiaNet, planes: Tensor
) -> None:
    read = last_features(network, planes[:1])
    made = F.pixel_shuffle(network.to_rgb(read), network.config.scale)
    torch.testing.assert_close(made, network(planes[:1]), rtol=0, atol=1e-5)


def test_a_planted_pattern_goes_and_the_picture_stays(network: GiaNet, planes: Tensor) -> None:
    """Trained on its own pictures, a network whose sub-pixels are shifted gets back near them."""
    scale = network.config.scale
    wanted = torch.cat([network(one[None]) for one in planes])
    assert network.to_rgb.bias is not None
    network.to_rgb.bias += torch.linspace(-0.02, 0.02, scale**2).repeat(3)
    before = torch.cat([network(one[None]) for one in planes])
    moments = Moments(network.config.width, scale)
    for one, target in zip(planes, wanted, strict=True):
        moments.add(last_features(network, one[None]), target[None])
    refit(network, moments)
    after = torch.cat([network(one[None]) for one in planes])
    assert checkerboard(before, wanted, scale) > 0.01
    assert checkerboard(after, wanted, scale) < 0.2 * checkerboard(before, wanted, scale)
    mean = F.avg_pool2d(after, scale)
    torch.testing.assert_close(mean, F.avg_pool2d(before, scale), rtol=0, atol=1e-4)


def test_without_weight_nothing_changes(network: GiaNet, planes: Tensor) -> None:
    wanted = network(planes[:1])
    moments = Moments(network.config.width, network.config.scale)
    moments.add(last_features(network, planes[:1]), torch.zeros_like(wanted))
    refit(network, moments, weight=0.0)
    torch.testing.assert_close(network(planes[:1]), wanted, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and two photographs to simulate exposures of."""
    folder = tmp_path_factory.mktemp("checkerboard")
    write_photos(folder / "photos", 2, (140, 160))
    own = lively(small("gia-net"))
    training = {"data": "x", "validation_psnr": 25.0}
    save_weights(folder / "own.safetensors", own, camera="ILCE-7SM2", training=training)
    save_weights(folder / "other.safetensors", lively(small("sid-net")), camera="ILCE-7SM2")
    return folder


def asked(folder: Path, weights: str = "own", name: str = "new") -> CheckerboardConfig:
    path = folder / f"{weights}.safetensors"
    options: dict[str, Any] = {"scenes": 3, "seed": 4, "cache": folder / "cache"}
    return CheckerboardConfig(str(path), name, folder, (folder / "photos",), **options)


@pytest.mark.slow
def test_the_last_layer_alone_is_another_and_the_row_says_so(folder: Path) -> None:
    row = reduce_checkerboard(asked(folder))
    made = row["checkerboard_reduction"]
    assert made.pop("gia") == __version__
    origin = {"name": "own", "sha256": None}
    assert made == {"from": origin, "scenes": 3, "block": 16, "weight": 100.0, "seed": 4}
    assert row["training"] == {"data": "x"}  # the validation was of other weights
    old, new = (
        load_network(find_weights(folder / f"{name}.safetensors")).state_dict()
        for name in ("own", "new")
    )
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"to_rgb.weight", "to_rgb.bias"}


@pytest.mark.slow
def test_the_same_seed_makes_the_same_weights(folder: Path) -> None:
    digests = {
        reduce_checkerboard(replace(asked(folder, name=name), seed=seed))["sha256"]
        for name, seed in (("one", 1), ("one-more", 1), ("two", 2))
    }
    # The name is in the header, so the files differ; the tensors do not.
    assert len(digests) == 3
    one, more, two = (
        load_network(find_weights(folder / f"{name}.safetensors")).to_rgb.weight  # type: ignore[union-attr]
        for name in ("one", "one-more", "two")
    )
    assert torch.equal(one, more)  # type: ignore[arg-type]
    assert not torch.equal(one, two)  # type: ignore[arg-type]


def test_other_networks_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="are a sid-net, not a gia-net"):
        reduce_checkerboard(asked(folder, "other", "never"))
    assert not (folder / "never.safetensors").exists()


@pytest.mark.slow
def test_the_command_names_the_file_alone_on_stdout(folder: Path) -> None:
    photos, cache = folder / "photos", folder / "cache"
    made = CliRunner().invoke(
        app,
        [
            *("weights", "reduce-checkerboard", str(folder / "own.safetensors")),
            *("--name", "by-command", "--out", str(folder), "--photos", str(photos)),
            *("--scenes", "2", "--seed", "7", "--cache", str(cache)),
        ],
    )
    assert made.exit_code == 0, made.output
    assert made.stdout == f"{folder / 'by-command.safetensors'}\n"
    (row,) = (row for row in manifest(folder) if row["name"] == "by-command")
    assert (row["checkerboard_reduction"]["scenes"], row["checkerboard_reduction"]["seed"]) == (
        2,
        7,
    )


def manifest(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())["weights"]
    return rows


@pytest.mark.slow
def test_shares_learned_with_the_old_layer_are_left_out(folder: Path) -> None:
    source = folder / "calibrated.safetensors"
    config = replace(small("gia-net"), white_balance="as-shot", input_floor=None)
    save_weights(
        source, lively(config), camera="ILCE-7SM2", fusion=ShareCounter().shares().to_json()
    )
    heard: list[str] = []

    class Heard(Silent):
        def note(self, message: str) -> None:
            heard.append(message)

    row = reduce_checkerboard(asked(folder, "calibrated", "uncalibrated"), Heard())
    assert "fusion" not in row
    assert any("gia weights calibrate" in line for line in heard)
