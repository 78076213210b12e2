"""What the scripts that change trained weights share: the weights, and scenes to fit by."""

from __future__ import annotations

import argparse
from pathlib import Path

from gia_cli.cameras import CAMERA_OF
from gia_cli.data.augment import GivenBalance
from gia_cli.data.synthetic import PhotoScenes, open_photos, split_photos
from gia_cli.nets.unet import GiaNet
from gia_cli.runtime import cache_folder
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo, load_network


def arguments(title: str, *, scenes: int) -> argparse.ArgumentParser:
    """Take weights, where to write others, and photographs to simulate exposures of."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("weights")
    parser.add_argument("out", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, default=cache_folder() / "photos")
    parser.add_argument("--scenes", type=int, default=scenes)
    return parser


def load_gia_net(weights: str) -> tuple[WeightsInfo, GiaNet]:
    """Load a GIA-Net that is not to be trained."""
    info = find_weights(weights)
    network = load_network(info).requires_grad_(False)
    assert isinstance(network, GiaNet), f"{info.name} is no GIA-Net"
    return info, network


def training_nights(info: WeightsInfo, folders: list[Path], cache: Path) -> PhotoScenes:
    """Make scenes of the photographs trained on, as `gia train` does."""
    photos = open_photos(folders, cache)
    balance = GivenBalance() if info.config.white_balance == "as-shot" else None
    camera = CAMERA_OF["sony" if info.config.cfa == "bayer" else "fuji"]
    return PhotoScenes(
        photos, split_photos(photos)[0], camera, balance=balance, floor=info.config.input_floor
    )
