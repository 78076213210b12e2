"""The tests see a dead part as dead, and a living one as alive."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.diagnose import _OtherScene, diagnose
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.report import Failure
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import load_network, save_weights
from tests.enhance.test_enhancer import OTHER_MATRIX
from tests.networks import DEFAULT, LEARNED

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = ["level 4", "level 3", "level 2", "level 1"]
VECTORS = ["vector none", "vector of a corner", "vector of another photo"]


@pytest.fixture(scope="module")
def tree(make_tree: Callable[..., Path]) -> Path:
    """Two pictures, larger than a corner."""
    return make_tree(pictures=2, size=(300, 290), ratios=(100.0,))


@pytest.fixture
def config(tree: Path, tmp_path: Path) -> EvalConfig:
    return EvalConfig(
        data=tree, camera="sony", out=tmp_path / "out", weights=(DEFAULT,), device="cpu"
    )


def make(path: Path, network: str, *, alive: bool) -> str:
    torch.manual_seed(0)
    net = build(NetConfig(network, width=4, vector=8))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 if alive else parameter)
        if not alive:
            net.get_parameter("upsample.0.weight").zero_()
            net.get_parameter("upsample.0.bias").zero_()
    save_weights(path, net)
    return str(path)


@pytest.mark.slow
def test_inactive_deep_levels_of_trained_weights_show(config: EvalConfig, tmp_path: Path) -> None:
    """What gia-sony-v0 was like: the two deepest levels and the vector contribute nothing."""
    network = load_network(find_weights(LEARNED))
    with torch.no_grad():
        network.get_parameter("upsample.0.weight").zero_()
        network.get_parameter("upsample.0.bias").zero_()
    save_weights(tmp_path / "dead.safetensors", network, camera="ILCE-7SM2")
    (test,) = diagnose(replace(config, weights=(str(tmp_path / "dead.safetensors"),)))
    assert list(test.losses) == [*LEVELS, *VECTORS]
    assert abs(test.losses["level 4"]) < 1e-6
    assert all(abs(test.losses[name]) < 1e-6 for name in VECTORS)
    assert test.losses["level 1"] > 0.1


@pytest.mark.slow
def test_another_cameras_photos_get_their_colors(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when they are enhanced, but for the fusion: what is tested is the network alone."""
    config = replace(config, weights=(LEARNED,))
    (own,) = diagnose(config)
    monkeypatch.setattr("gia_cli.enhance.camera_match.CAMERA_MATRICES", {"ILCE-7SM2": OTHER_MATRIX})
    (changed,) = diagnose(config)
    assert abs(own.psnr - changed.psnr) > 0.05
    (summary,) = evaluate(config).summaries
    assert summary.means["psnr"].mean == pytest.approx(changed.psnr, abs=0.02)


@pytest.mark.slow
def test_another_photo_is_one_of_another_scene(
    make_tree: Callable[..., Path], config: EvalConfig, tmp_path: Path
) -> None:
    """Photos of one scene follow each other in a list, and their vectors are much alike."""
    scenes: list[str] = []
    means: dict[str, list[torch.Tensor]] = {}
    other = _OtherScene()
    for scene in ("a", "a", "b", "b", "c"):
        found = other.means(scene)
        scenes.append(next((name for name, x in means.items() if x is found), "none"))
        means[scene] = [torch.zeros(1)]
        other.remember(scene, means[scene])
    assert scenes == ["none", "none", "a", "a", "b"]
    one_scene = make_tree(pictures=1, size=(300, 290), ratios=(100.0, 250.0))
    (test,) = diagnose(replace(config, data=one_scene))
    assert "vector of another photo" not in test.losses


@pytest.mark.slow
def test_a_broken_photo_is_reported_and_left_out(config: EvalConfig, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(config.data, copy)
    broken = sorted((copy / "Sony" / "short").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:5000])
    failures: list[Failure] = []
    (test,) = diagnose(replace(config, data=copy), on_failure=failures.append)
    assert [failure.path for failure in failures] == [broken]
    assert np.isfinite(test.psnr)


@pytest.mark.slow
def test_a_living_network_is_seen_alive_and_a_cut_one_dead(
    config: EvalConfig, tmp_path: Path
) -> None:
    alive = make(tmp_path / "alive.safetensors", "gia-net", alive=True)
    dead = make(tmp_path / "dead.safetensors", "gia-net", alive=False)
    first, second = diagnose(replace(config, weights=(alive, dead)))
    assert all(first.losses[name] != 0 for name in [*LEVELS, *VECTORS])
    assert second.losses["level 4"] == 0
    assert all(second.losses[name] == 0 for name in VECTORS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "parts"),
    [("sid-net", LEVELS), ("se-unet", [*LEVELS, *VECTORS]), ("ridnet", VECTORS)],
)
def test_each_network_is_tested_for_what_it_has(
    config: EvalConfig, tmp_path: Path, network: str, parts: list[str]
) -> None:
    torch.manual_seed(0)
    path = tmp_path / "x.safetensors"
    save_weights(path, build(NetConfig(network, width=4)))  # type: ignore[arg-type]
    (test,) = diagnose(replace(config, weights=(str(path),)))
    assert list(test.losses) == parts
