"""Calibrated weights carry shares that enhancing uses; weights that cannot are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from gia_cli.enhance.calibrate import CalibrateConfig, calibrate
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.measured import fuse_measured
from gia_cli.errors import OutputExistsError, UsageError, WeightsError
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.raw.reader import read_raw
from gia_cli.simulation.options import SimulateOptions
from gia_cli.simulation.photo import simulate_photo
from gia_cli.weights.manifest import find_weights, list_weights
from gia_cli.weights.storage import load_network, save_weights
from tests.networks import lively, small

FOLLOWS = replace(small("gia-net"), white_balance="as-shot", input_floor=None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rows, cols = np.mgrid[:144, :160]
    for index in range(2):
        waves = [128 + 90 * np.sin((rows * (k + 1) + cols * (index + 1)) / 30) for k in range(3)]
        iio.imwrite(folder / f"{index}.png", np.stack(waves, axis=2).astype(np.uint8))
    return folder


def saved(folder: Path, config: NetConfig, name: str = "own") -> Path:
    path = folder / f"{name}.safetensors"
    network = lively(config)
    save_weights(
        path, network, camera="ILCE-7SM2", daylight_wb=[2.8, 1, 1.4], training={"data": "x"}
    )
    return path


@pytest.fixture(scope="module")
def calibrated(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Weights, and the same calibrated."""
    folder = tmp_path_factory.mktemp("weights")
    source = saved(folder, FOLLOWS)
    calibrate(_config(source, photos, folder))
    return source, folder / "done.safetensors"


def _config(source: Path, photos: Path, folder: Path, **options: Any) -> CalibrateConfig:
    return CalibrateConfig(
        str(source), "done", folder, (photos,), scenes=4, cache=folder / "cache", **options
    )


@pytest.mark.slow
def test_calibrated_weights_are_the_same_with_shares(calibrated: tuple[Path, Path]) -> None:
    source, path = calibrated
    before, info = find_weights(source), find_weights(path)
    assert before.fusion is None and info.fusion is not None
    assert 0 <= info.fusion.chroma.min() <= info.fusion.chroma.max() <= 1
    (row,) = list_weights(path.parent)
    assert row.sha256 and row.training == {"data": "x"} and row.daylight_wb == (2.8, 1, 1.4)
    own, other = load_network(before).state_dict(), load_network(info).state_dict()
    assert all(bool((own[name] == other[name]).all()) for name in own)


def test_a_random_network_is_not_trusted(calibrated: tuple[Path, Path]) -> None:
    """Its pictures have nothing to do with the scene, so the measurement counts."""
    fusion = find_weights(calibrated[1]).fusion
    assert fusion is not None
    assert fusion.luminance[-1].max() > 0.9 and fusion.luminance[0].max() > 0.5


def test_enhancing_fuses(calibrated: tuple[Path, Path], photos: Path, tmp_path: Path) -> None:
    """With shares the picture of a random network becomes like the truth."""
    options = SimulateOptions(ratio=20, iso=100, clean_long=True)
    made = simulate_photo(photos / "0.png", tmp_path / "a.ARW", options)
    truth = iio.imread(photos / "0.png").astype(float) / 255
    off = []
    for path in calibrated:
        enhancer = Enhancer.from_weights(path, device="cpu", precision="fp32")
        image = enhancer.enhance(made.shorts[0], ratio=20).image / 65535
        off.append(np.abs(image - truth).mean())
    assert off[1] < 0.5 * off[0]


@pytest.mark.slow
def test_tiles_fuse_as_the_whole_frame_does(
    calibrated: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    made = simulate_photo(photos / "1.png", tmp_path / "a.ARW", SimulateOptions(ratio=20, iso=400))
    whole, tiled = (
        Enhancer.from_weights(calibrated[1], device="cpu", precision="fp32", tile=tile)
        .enhance(made.shorts[0], ratio=20)
        .image.astype(int)
        for tile in (None, 64)
    )
    assert np.abs(whole - tiled).max() <= 24  # of 65,535; a random network is livelier than most


def test_without_gains_nothing_is_fused(calibrated: tuple[Path, Path], make_arw: Any) -> None:
    frame = read_raw(make_arw())
    picture = np.full((3, *frame.mosaic.shape), 0.3, np.float32)
    fuse_measured(picture, frame, 100, None, find_weights(calibrated[1]))
    assert (picture == np.float32(0.3)).all()


@pytest.mark.parametrize(
    "change", [{"white_balance": "learned"}, {"input_floor": 0}], ids=lambda change: str(change)
)
def test_weights_that_have_nothing_to_fuse_are_refused(
    change: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    source = saved(tmp_path, replace(FOLLOWS, **change))
    with pytest.raises(UsageError, match="cannot be calibrated") as caught:
        calibrate(_config(source, photos, tmp_path))
    assert "--white-balance as-shot" in str(caught.value.hint)


def test_weights_that_are_there_stay(calibrated: tuple[Path, Path], photos: Path) -> None:
    source, path = calibrated
    before = path.read_bytes()
    with pytest.raises(OutputExistsError):
        calibrate(_config(source, photos, path.parent))
    assert path.read_bytes() == before


@pytest.mark.slow
def test_weights_are_not_calibrated_into_their_own_file(
    calibrated: tuple[Path, Path], photos: Path
) -> None:
    source, _ = calibrated
    before = source.read_bytes()
    own = replace(_config(source, photos, source.parent, overwrite=True), name=source.stem)
    with pytest.raises(UsageError, match="the new ones are made from"):
        calibrate(own)
    assert source.read_bytes() == before


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--scenes"):
        CalibrateConfig("x", "y", tmp_path, (tmp_path,), scenes=0)
    with pytest.raises(UsageError, match="no photographs"):
        CalibrateConfig("x", "y", tmp_path, ())


def test_a_spoilt_table_in_a_manifest_is_an_error(
    calibrated: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "bad.safetensors"
    save_weights(path, build(FOLLOWS), camera="ILCE-7SM2", fusion={"luminance": [], "chroma": []})
    with pytest.raises(WeightsError):
        find_weights(path)
