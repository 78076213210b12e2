"""Weights made of others: nothing is overwritten unasked, and the row says what was kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gia_cli.data.derive import (
    DeriveConfig,
    crop_side,
    open_scenes,
    origin,
    save_derived,
    target_path,
)
from gia_cli.errors import DataError, OutputExistsError, UsageError
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.weights.manifest import find_weights, list_weights
from gia_cli.weights.storage import WeightsInfo, save_weights
from tests.data.test_synthetic import write_photos
from tests.networks import small


def config(folder: Path, **options: Any) -> DeriveConfig:
    return DeriveConfig("own", "new", folder, (folder / "photos",), **options)


def saved(folder: Path, network: NetConfig | None = None) -> WeightsInfo:
    path = folder / "own.safetensors"
    facts = {"licence": "CC0", "training": {"data": "x", "validation_psnr": 25.0}}
    save_weights(path, build(network or small("gia-net")), camera="ILCE-7SM2", **facts)
    return find_weights(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scenes": 0}, "--scenes must be positive, not 0"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"photos": ()}, "no photographs"),
        ({"name": "a/b"}, "not a name for weights"),
    ],
)
def test_what_cannot_be_made_is_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        replace(config(tmp_path), **options)


def test_the_source_is_never_its_own_target(tmp_path: Path) -> None:
    """Not even if it may be replaced, and not by another way to its folder."""
    info = saved(tmp_path)
    (tmp_path / "sub").mkdir()
    own = replace(config(tmp_path / "sub" / ".."), name="own", overwrite=True)
    with pytest.raises(UsageError, match="the new ones are made from"):
        target_path(own, info)
    other = tmp_path / "new.safetensors"
    assert target_path(config(tmp_path), info) == other
    other.write_bytes(b"x")
    with pytest.raises(OutputExistsError):
        target_path(config(tmp_path), info)
    assert target_path(config(tmp_path, overwrite=True), info) == other


def test_scenes_are_what_the_network_gets(tmp_path: Path) -> None:
    """A white balance if it takes one, what lies below black if it sees it, its camera."""
    write_photos(tmp_path / "photos", 2, (140, 160))
    settings = config(tmp_path, cache=tmp_path / "cache")
    follows = replace(small("gia-net", "xtrans"), white_balance="as-shot", input_floor=None)
    info = saved(tmp_path, follows)
    scenes = open_scenes(settings, info)
    assert scenes.camera_name == "X-T2"
    assert scenes._balance is not None and scenes.floor is None
    learned = open_scenes(settings, saved(tmp_path))
    assert learned.camera_name == "ILCE-7SM2"
    assert learned._balance is None and learned.floor == 0


def test_validation_photographs_are_left_out_if_asked(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 16, (40, 40))
    settings, info = config(tmp_path, cache=tmp_path / "cache"), saved(tmp_path)
    assert len(open_scenes(settings, info).keys) == 16
    assert len(open_scenes(settings, info, training_only=True).keys) == 15


def test_crops_are_as_large_as_the_photographs_allow(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 1, (140, 160))
    scenes = open_scenes(config(tmp_path, cache=tmp_path / "cache"), saved(tmp_path))
    assert crop_side(scenes, 320, 16) == 64  # of 70 packed pixels
    assert crop_side(scenes, 48, 16) == 48
    with pytest.raises(DataError, match="too small"):
        crop_side(scenes, 320, 128)


def test_the_row_takes_over_what_stays_true(tmp_path: Path) -> None:
    info = saved(tmp_path)
    folder = tmp_path / "made"
    path = folder / "new.safetensors"
    made = save_derived(path, build(info.config), info, training={"data": "x"}, how={"of": 1})
    (row,) = list_weights(folder)
    assert (row.name, row.licence, row.camera) == ("new", "CC0", "ILCE-7SM2")
    assert row.training == {"data": "x"}
    assert made["how"] == {"of": 1} and made["sha256"] == row.sha256
    assert origin(row) == {"name": "new", "sha256": row.sha256}
    assert origin(info) == {"name": "own", "sha256": None}
