"""Fusion in the training loop: what `fuse` makes, and the gradient of what it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gia_cli.cameras import CameraName
from gia_cli.data.augment import GivenBalance
from gia_cli.data.synthetic import PhotoScenes, open_photos
from gia_cli.errors import UsageError
from gia_cli.imaging.fusion import BLACK_KNOTS, LEVELS, NOISE_KNOTS, Measurement, Shares, fuse
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.training.config import TrainConfig
from gia_cli.training.fused import fused_picture
from gia_cli.training.loop import train
from gia_cli.weights.storage import save_weights

CAMERA_NAMES: list[CameraName] = ["ILCE-7SM2", "X-T2"]
cameras = pytest.mark.parametrize("camera", CAMERA_NAMES)
SIDE = 24  # packed pixels


def shares(luminance: float, chroma: float) -> Shares:
    shape = (LEVELS, len(NOISE_KNOTS), len(BLACK_KNOTS))
    return Shares(np.full(shape, luminance, np.float32), np.full(shape, chroma, np.float32))


@pytest.fixture
def scene(
    camera: CameraName, photos: Path, tmp_path: Path
) -> tuple[list[Measurement], NDArray[np.float32]]:
    opened = open_photos([photos], tmp_path / "cache")
    source = PhotoScenes(
        opened, opened.keys, camera, balance=GivenBalance(), floor=None, measures=True
    )
    pairs = source.pairs(np.random.default_rng(0), count=2, side=SIDE)
    measured = [pair.measured for pair in pairs]
    assert all(of is not None for of in measured)
    return [of for of in measured if of], np.stack([pair.target for pair in pairs])


@cameras
def test_the_picture_is_what_fuse_makes_of_it(
    scene: tuple[list[Measurement], NDArray[np.float32]],
) -> None:
    measured, target = scene
    plain = 0.8 * target + 0.05
    shown, _ = fused_picture(torch.from_numpy(plain.copy()), measured, shares(0.4, 0.7))
    for own, of in zip(plain, measured, strict=True):
        fuse(own, of, shares(0.4, 0.7))
    np.testing.assert_allclose(shown.numpy(), plain, atol=1e-6)


def gradient(
    scene: tuple[list[Measurement], NDArray[np.float32]], wanted: torch.Tensor, of: Shares
) -> torch.Tensor:
    measured, target = scene
    picture = torch.from_numpy(0.8 * target + 0.05).requires_grad_()
    shown, _ = fused_picture(picture, measured, of)
    shown.backward(wanted.expand_as(picture))
    assert picture.grad is not None
    return picture.grad


@cameras
def test_what_is_not_fused_passes_its_gradient_on(
    scene: tuple[list[Measurement], NDArray[np.float32]],
) -> None:
    wanted = torch.randn(scene[1].shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gradient(scene, wanted, shares(0, 0)), wanted)


@cameras
def test_what_the_measurement_decides_asks_nothing_of_the_network(
    scene: tuple[list[Measurement], NDArray[np.float32]],
) -> None:
    wanted = torch.randn(scene[1].shape, generator=torch.Generator().manual_seed(0))
    assert gradient(scene, wanted, shares(1, 1)).abs().max() < 1e-4


@cameras
def test_luminance_alone_leaves_the_colour_to_the_network(
    scene: tuple[list[Measurement], NDArray[np.float32]],
) -> None:
    grey = torch.ones(1, 3, 1, 1)
    # A change of colour at one luminance, in the luminance weights' own terms.
    color = torch.tensor([1.0, 0.0, -0.2126 / 0.0722]).view(1, 3, 1, 1)
    y_only = shares(1, 0)

    def kept(direction: torch.Tensor) -> float:
        """How much of an even change of the picture is left in the fused one."""
        there = torch.zeros_like(torch.from_numpy(scene[1])) + direction
        rows = [gradient(scene, torch.eye(3)[i].view(1, 3, 1, 1), y_only) for i in range(3)]
        changed = torch.stack([(row * there).sum(dim=(1, 2, 3)) for row in rows], dim=1)
        return float(changed.norm() / (there[0, 0].numel() * direction.norm()))

    assert kept(grey) < 0.01
    # Summed over the pixels of two scenes, as rows of the Jacobian are.
    assert kept(color) == pytest.approx(2**0.5, rel=0.01)


def _weights(folder: Path, fusion: Shares | None) -> Path:
    config = NetConfig("gia-net", width=8, white_balance="as-shot", input_floor=None)
    torch.manual_seed(0)
    path = folder / "start.safetensors"
    save_weights(
        path,
        build(config),
        camera="Sony A7S II",
        licence="Apache-2.0",
        training={},
        fusion=None if fusion is None else fusion.to_json(),
    )
    return path


@pytest.mark.slow
def test_a_run_is_fused_by_the_shares_it_starts_with(config: TrainConfig, tmp_path: Path) -> None:
    start = _weights(tmp_path, shares(1, 1))
    fused = replace(
        config,
        white_balance="as-shot",
        width=8,
        init_from=str(start),
        changes={**config.changes, "fused": True},
    )
    plain = replace(fused, run=config.run.with_name("plain"), changes=config.changes)
    # What is measured at every scale is no longer the untrained network's guess.
    assert train(fused).validation_psnr > train(plain).validation_psnr + 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init_from": None}, "weights that have fusion shares"),
        ({"fusion": None}, "weights that have fusion shares"),
        ({"white_balance": "learned"}, "gets the white balance"),
        ({"clip_black": True}, "below black"),
    ],
)
def test_what_cannot_be_fused_is_refused(
    config: TrainConfig, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    has_shares = "fusion" not in changes
    start = _weights(tmp_path, shares(1, 1) if has_shares else None)
    asked = replace(
        config,
        white_balance="as-shot",
        width=8,
        init_from=str(start),
        changes={"fused": True},
    )
    options = {name: value for name, value in changes.items() if name != "fusion"}
    with pytest.raises(UsageError, match=words):
        train(replace(asked, **options))  # type: ignore[arg-type]
    assert not (config.run / "config.json").exists()  # a mistake claims no folder
