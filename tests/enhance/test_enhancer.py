"""The stages together: what the public API promises."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rawpy
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

import gia_cli
from gia_cli import ExposureRequest
from gia_cli.enhance.black_level import black_correction
from gia_cli.enhance.camera_match import camera_colors, camera_gains, recolor
from gia_cli.enhance.crop import binned
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.measured import fuse_measured
from gia_cli.errors import (
    DeviceError,
    FileMissingError,
    UsageError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.imaging.color import bt709_through, srgb16_from_bt709, srgb_decode
from gia_cli.imaging.color_space import DISPLAY_P3, REC2020, SPACES, matrix_from_srgb
from gia_cli.imaging.fusion import frame_noise
from gia_cli.imaging.icc import srgb_icc_profile
from gia_cli.imaging.save_options import SaveOptions
from gia_cli.inference.run import infer
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.raw.cfa import cell_colors
from gia_cli.raw.exif import ShotInfo, read_shot
from gia_cli.raw.noise_estimate import noise_above
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import read_raw, render
from gia_cli.raw.writer import write_arw, write_dng
from gia_cli.simulation.sensor import CAMERAS, expose, median_gains, mosaic_from_linear
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import save_weights
from tests.networks import DEFAULT, LEARNED, lively, small
from tests.progress_spy import ProgressSpy

MakePhoto = Callable[..., Path]

#: XYZ (D65) to camera, of a camera that no weights were trained for.
OTHER_MATRIX = ((0.9194, -0.2787, -0.1059), (-0.8098, 1.5657, 0.2608), (-0.2610, 0.3064, 0.7867))


def test_the_picture_is_the_stages_in_order(make_arw: MakePhoto, enhancer: Enhancer) -> None:
    path = make_arw()
    result = enhancer.enhance(path, ratio=100)
    frame = gia_cli.read_raw(path)
    weights = find_weights(None, "bayer")
    engine = enhancer._engines.running(weights)
    gains = camera_gains(frame, weights)
    assert gains is not None
    noise = frame_noise(frame)
    found = black_correction(engine, binned(frame), 100, gains, noise, weights)
    frame = replace(frame, black_correction=found)
    picture = infer(engine, prepare(frame, 100, gains, weights.config.input_floor))
    fuse_measured(picture, frame, 100, gains, weights, noise=noise_above(noise, found))
    assert np.array_equal(result.image, srgb16_from_bt709(picture).transpose(1, 2, 0))


def test_the_picture_resembles_the_scene_more_than_plain_amplification(
    make_arw: MakePhoto, enhancer: Enhancer, scene: np.ndarray
) -> None:
    path, truth = make_arw(), scene / 255
    image = enhancer.enhance(path, ratio=100).image / 65535
    amplified = render(path, brightness=100) / 255
    assert image.shape == scene.shape
    # v0 is no product: 0.093 to 0.1 on such a scene, LibRaw 0.125; an unamplified picture 0.4.
    assert np.abs(image - truth).mean() < 0.85 * np.abs(amplified - truth).mean()
    assert likeness(image, truth) > likeness(amplified, truth) + 0.05


def likeness(picture: np.ndarray, truth: np.ndarray) -> float:
    """Correlation, averaged over the channels."""
    pairs = zip(picture.reshape(-1, 3).T, truth.reshape(-1, 3).T, strict=True)
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))


def test_a_brighter_ratio_gives_a_brighter_picture(make_arw: MakePhoto, enhancer: Enhancer) -> None:
    request = ExposureRequest(brackets=(25, 50, 100))
    results = list(enhancer.enhance_brackets(make_arw(), request))
    means = [result.image.mean() for result in results]
    assert [result.choice.ratio for result in results] == [25, 50, 100]
    assert means == sorted(means)
    assert means[2] > 1.3 * means[0]


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_picture_is_turned_upright(
    make_arw: MakePhoto, enhancer: Enhancer, orientation: int
) -> None:
    level = enhancer.enhance(make_arw("level.ARW"), ratio=100).image
    turned = enhancer.enhance(make_arw("turned.ARW", orientation=orientation), ratio=100).image
    quarter_turns = {3: 2, 6: -1, 8: 1}[orientation]
    assert np.array_equal(turned, np.rot90(level, quarter_turns))


def test_saving_writes_the_picture_and_how_it_came_about(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    result = enhancer.enhance(make_arw(), ratio=64)
    result.save(tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        page = tiff.pages.first
        assert np.array_equal(page.asarray(), result.image)
        exif = page.tags["ExifTag"].value
        assert page.tags["Model"].value == "ILCE-7SM2"
    comment = str(exif["UserComment"])
    assert "ratio 64 (given)" in comment
    assert result.weights.name in comment
    assert result.weights.sha256 is not None
    assert result.weights.sha256[:12] in comment


def test_every_stage_is_timed(make_arw: MakePhoto, enhancer: Enhancer) -> None:
    seconds = enhancer.enhance(make_arw()).seconds
    computing = {"load", "black_level", "network", "fusion"}
    assert set(seconds) == {"decode", "exposure", "pack", *computing, "colour"}
    assert all(time >= 0 for time in seconds.values())


def test_networks_are_loaded_once(make_arw: MakePhoto, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Enhancer.from_weights(device="cpu")
    first = fresh.enhance(make_arw("a.ARW"), ratio=10)
    monkeypatch.setattr("gia_cli.inference.engines.open_engine", None)
    second = fresh.enhance(make_arw("b.ARW"), ratio=10)
    assert first.weights == second.weights


def test_weights_that_infer_the_light_get_the_frame_as_it_is(make_arw: MakePhoto) -> None:
    frame = gia_cli.read_raw(make_arw())
    assert camera_gains(frame, find_weights(LEARNED)) is None


def test_another_camera_is_brought_to_the_training_cameras_neutral(tmp_path: Path) -> None:
    """A grey card in daylight must come out alike from both cameras, and the user is told."""
    enhancer = Enhancer.from_weights(LEARNED, device="cpu")
    pictures = []
    for name, matrix in {"own.dng": None, "other.dng": OTHER_MATRIX}.items():
        path = tmp_path / name
        options: dict[str, Any] = {} if matrix is None else {"matrix": matrix}
        write_dng(path, np.full((96, 96), 512), **options)
        daylight = gia_cli.read_raw(path).daylight_wb
        assert daylight is not None
        mosaic = np.full((96, 96), 512 + 40.0)
        mosaic[::2, ::2] = 512 + 2000 / daylight[0]
        mosaic[1::2, 1::2] = 512 + 2000 / daylight[2]
        write_dng(path, np.rint(mosaic).astype(int), **options)
        spy = ProgressSpy()
        result = enhancer.enhance(path, ratio=2, progress=spy)
        pictures.append(result.image.astype(float))
        assert any("matched to its neutral" in note for note in spy.notes) == (matrix is not None)
    own, others = (picture[32:64, 32:64].mean(axis=(0, 1)) for picture in pictures)
    assert np.abs(own - others).max() < 0.02 * 65535


def test_an_unknown_camera_is_brought_there_by_its_own_white_balance(
    tmp_path: Path, enhancer: Enhancer
) -> None:
    path = tmp_path / "unknown.dng"
    zeros = ((0.0, 0.0, 0.0),) * 3
    shot = ShotInfo(make="Nobody", model="Box 1")
    write_dng(path, np.full((64, 64), 600), matrix=zeros, wb=(1.5, 1.0, 1.25), shot=shot)
    frame = gia_cli.read_raw(path)
    assert frame.daylight_wb is None
    weights = find_weights(LEARNED)
    assert weights.neutral_wb is not None
    gains = camera_gains(frame, weights)
    assert gains is not None
    expected = np.array([1.5, 1.0, 1.25]) / np.array(weights.neutral_wb)
    assert np.allclose(gains, expected, rtol=1e-3)


def test_another_cameras_picture_gets_its_own_colors(
    make_arw: MakePhoto, enhancer: Enhancer
) -> None:
    """Only the colours differ, by what undoes the training camera's matrix and applies its own."""
    frame = gia_cli.read_raw(make_arw())
    other = replace(frame, xyz_to_camera=np.array(OTHER_MATRIX, np.float32))
    weights = find_weights(DEFAULT)
    assert camera_colors(frame, weights) is None
    matrix = camera_colors(other, weights)
    assert matrix is not None and np.abs(matrix - np.eye(3)).max() > 0.1
    spy = ProgressSpy()
    own, changed = (
        enhancer.enhance(photo, ratio=20, progress=spy).image for photo in (frame, other)
    )
    assert sum("own matrix" in note for note in spy.notes) == 1
    linear = srgb_decode(own / 65535)
    expected = linear @ matrix.T
    inside = ((expected > 0.01) & (expected < 0.99) & (linear > 0) & (linear < 1)).all(axis=-1)
    assert inside.mean() > 0.5
    assert np.abs(srgb_decode(changed / 65535) - expected)[inside].max() < 1e-3


def test_what_overshoots_white_colors_nothing_else() -> None:
    """Clipped before it is mixed: white stays white, and what is no number warns of nothing."""
    matrix = np.array([[1.4, -0.3, -0.1], [-0.2, 1.3, -0.1], [0, -0.4, 1.4]])
    picture = np.ones((3, 5, 4), np.float32)
    picture[0] = 1.3
    picture[1, 0, 0] = np.inf
    recolor(picture, matrix)
    assert np.allclose(picture, 1, atol=1e-5)
    wide = np.linspace(0, 1, 3 * 300 * 700, dtype=np.float32).reshape(3, 300, 700)  # many bands
    expected = bt709_through(matrix, wide)
    there = torch.tensor(wide)
    recolor(wide, matrix)
    np.testing.assert_allclose(wide, expected, atol=2e-6)
    recolor(there, matrix)  # as on a card
    np.testing.assert_allclose(there.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("from_environment", [True, False])
def test_fp32_is_no_int8(
    from_environment: bool, make_arw: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, as bf16 is, before the first photo where the weights are named."""
    monkeypatch.setenv("GIA_WEIGHTS", "gia-sony-lite-v2-int8" if from_environment else "")
    weights = None if from_environment else "gia-sony-lite-v2-int8"
    with pytest.raises(DeviceError, match="are int8, not fp32") as caught:
        made = Enhancer.from_weights(weights, device="cpu", precision="fp32")
        made.enhance(make_arw())
    assert "gia-sony-lite-v2" in caught.value.hint
    monkeypatch.delenv("GIA_WEIGHTS")
    made = Enhancer.from_weights("gia-sony-lite", device="cpu", precision="fp32")
    assert made.weights_for("bayer").quantized_from is None
    made = Enhancer.from_weights("gia-sony-lite-v2-int8", device="cpu")
    assert made.weights_for("bayer").quantized_from is not None


def test_a_card_need_not_wait_for_the_noise_to_be_estimated(
    make_arw: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the host's work, also where the black level, which wants it first, is stated."""
    stated = Enhancer.from_weights(device="cpu", black_level=512)
    (prepared,) = stated.prepare(make_arw(), ExposureRequest(ratio=100))
    rendered = stated.render(prepared)
    assert rendered.noise is None
    monkeypatch.setattr("gia_cli.imaging.fusion.frame_noise", lambda *_: pytest.fail("too late"))
    stated.finish(rendered)


def test_a_card_recolors_in_tall_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few pixels each, starting the kernels would take longer than they do."""
    cut: list[int] = []
    monkeypatch.setattr(
        "gia_cli.enhance.camera_match.in_bands", lambda work, rows, like: cut.append(len([*rows]))
    )
    recolor(torch.empty(3, 4000, 6000, device="meta"), np.eye(3))
    recolor(np.broadcast_to(np.float32(0), (3, 4000, 6000)), np.eye(3))
    assert cut[0] < 20 and cut[1] > 300


def test_an_xtrans_photo_of_another_camera_gets_its_colors_too(make_raf: MakePhoto) -> None:
    frame, weights = gia_cli.read_raw(make_raf()), find_weights(None, "xtrans")
    assert camera_colors(frame, weights) is None
    other = replace(frame, xyz_to_camera=np.array(OTHER_MATRIX))
    matrix = camera_colors(other, weights)
    assert matrix is not None and np.allclose(matrix.sum(axis=1), 1)


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(None, id="none in the file"),
        pytest.param(np.ones((3, 3)), id="singular"),
        pytest.param(np.zeros((3, 3)), id="zeros"),
        pytest.param(np.array([[1, -0.99, 0], [0, 1, -0.99], [-0.99, 0, 1]]), id="nearly singular"),
        pytest.param(np.full((3, 3), np.nan), id="no numbers"),
    ],
)
def test_colors_stay_where_the_file_has_no_sensible_matrix(
    make_arw: MakePhoto, matrix: NDArray[np.floating] | None
) -> None:
    frame = replace(gia_cli.read_raw(make_arw()), xyz_to_camera=matrix)
    assert camera_colors(frame, find_weights(DEFAULT)) is None


def test_colors_stay_for_weights_of_an_unknown_camera(make_arw: MakePhoto) -> None:
    frame = replace(gia_cli.read_raw(make_arw()), xyz_to_camera=np.array(OTHER_MATRIX))
    weights = find_weights(DEFAULT)
    assert camera_colors(frame, replace(weights, camera="Box 1")) is None
    assert camera_colors(frame, replace(weights, camera=None)) is None


@pytest.mark.slow
def test_xtrans_photos_need_weights_of_their_own(
    make_raf: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    photo = make_raf()
    assert enhancer.enhance(photo, ratio=100).weights.config.cfa == "xtrans"
    own = tmp_path / "tiny-xtrans.safetensors"
    save_weights(own, build(NetConfig("gia-net", "xtrans", width=4, vector=8)), camera="X-T2")
    result = Enhancer.from_weights(own, device="cpu").enhance(photo)
    assert result.image.shape == (96, 144, 3)
    assert result.weights.sha256 is None
    assert "unverified" in result.comment


def test_mistakes_are_reported_before_the_work(make_arw: MakePhoto, enhancer: Enhancer) -> None:
    with pytest.raises(UsageError):
        enhancer.enhance(make_arw(), ratio=10, exposure=ExposureRequest())
    with pytest.raises(UsageError):
        enhancer.enhance(make_arw(), exposure=ExposureRequest(brackets=(1, 2)))
    with pytest.raises(FileMissingError):
        enhancer.enhance("nowhere.ARW")
    with pytest.raises(WeightsNotFoundError):
        Enhancer.from_weights("no-such-weights", device="cpu")


@pytest.mark.slow
def test_tiles_and_a_memory_limit_give_the_same_picture(make_arw: MakePhoto) -> None:
    path = make_arw()
    whole = Enhancer.from_weights(device="cpu", precision="fp32").enhance(path, ratio=100)
    tiled = Enhancer.from_weights(device="cpu", tile=64).enhance(path, ratio=100)
    assert tiled.weights.name == DEFAULT  # in fp32: int8 rounds otherwise in other tiles
    assert np.abs(whole.image.astype(int) - tiled.image).max() <= 4


def test_public_names_load_lazily() -> None:
    for name in gia_cli.__all__:
        assert getattr(gia_cli, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = gia_cli.no_such_name


def test_an_unknown_cameras_white_paper_comes_out_white(tmp_path: Path, enhancer: Enhancer) -> None:
    path = tmp_path / "paper.dng"
    mosaic = np.full((96, 96), 512 + 1600)
    shot = ShotInfo(make="Nobody", model="Box 1")
    zeros = ((0.0, 0.0, 0.0),) * 3
    write_dng(path, mosaic, matrix=zeros, wb=(1.0, 1.0, 1.0), shot=shot)
    image = enhancer.enhance(path, ratio=4).image[32:64, 32:64].astype(float)
    red, green, blue = image.mean(axis=(0, 1))
    assert abs(red / green - 1) < 0.08
    assert abs(blue / green - 1) < 0.08


# ---------------------------------------------------------------- white balance


def balanced_weights(folder: Path) -> Path:
    network = build(NetConfig("gia-net", width=4, white_balance="as-shot"))
    save_weights(folder / "wb.safetensors", network, camera="ILCE-7SM2", daylight_wb=[2, 1, 2])
    return folder / "wb.safetensors"


def test_weights_that_take_a_balance_get_the_photos_own(
    make_arw: MakePhoto, tmp_path: Path
) -> None:
    fresh = Enhancer.from_weights(balanced_weights(tmp_path), device="cpu")
    result = fresh.enhance(make_arw(), ratio=100)
    frame = gia_cli.read_raw(make_arw())
    assert frame.as_shot_wb[0] > 1.5
    engine = fresh._engines.running(result.weights)
    picture = infer(engine, prepare(frame, 100, frame.as_shot_wb))
    assert np.array_equal(result.image, srgb16_from_bt709(picture).transpose(1, 2, 0))


def test_the_balance_chooses_among_weights(tmp_path: Path) -> None:
    assert find_weights(LEARNED).config.white_balance == "learned"
    path = balanced_weights(tmp_path)
    assert find_weights(path, "bayer", "as-shot").config.white_balance == "as-shot"
    with pytest.raises(WeightsMismatchError, match="trained with the white balance 'as-shot'"):
        Enhancer.from_weights(path, white_balance="learned")


# ---------------------------------------------------------------- threads and processes


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_threads_share_an_enhancer_and_get_the_same_pictures(
    engine: Any, make_arw: MakePhoto, tmp_path: Path
) -> None:
    """Their sizes differ, so that what is compiled for one is of no use to the next."""
    own = tmp_path / "own.safetensors"
    save_weights(own, lively(small("gia-net")), camera="ILCE-7SM2")
    shared = Enhancer.from_weights(own, device="cpu", engine=engine)
    frame = gia_cli.read_raw(make_arw())
    photos = [
        replace(frame, mosaic=np.ascontiguousarray(frame.mosaic[:rows])) for rows in (96, 64, 32)
    ]
    jobs = [(photo, ratio) for ratio in (50.0, 60.0, 70.0, 80.0) for photo in photos]
    alone = Enhancer.from_weights(own, device="cpu", engine=engine)
    wanted = [alone.enhance(photo, ratio=ratio) for photo, ratio in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: shared.enhance(job[0], ratio=job[1]), jobs))
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.array_equal(ours.image, theirs.image)
        assert ours.weights == theirs.weights


_PROCESSES = """
import multiprocessing, sys
from gia_cli import Enhancer, GiaError
from gia_cli.runtime import resolve

def work(enhancer):
    try:
        return enhancer.enhance(sys.argv[1], ratio=100).image.sum()
    except GiaError as error:
        return f"{error.exit_code} {error.message}"

if __name__ == "__main__":
    enhancer = Enhancer.from_weights(device="cpu")
    fork, spawn = map(multiprocessing.get_context, ("fork", "spawn"))
    with fork.Pool(1) as pool:
        before = pool.apply(work, (enhancer,))
    assert before == work(enhancer), before
    with fork.Pool(1) as pool:
        after = pool.apply_async(work, (enhancer,)).get(60)
    assert after.startswith("50 A network has run in the process"), after
    with spawn.Pool(1) as pool:
        assert pool.apply_async(work, (enhancer,)).get(120) == before
"""


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(sys.platform != "linux", reason="fork")
def test_a_fork_after_use_is_refused_and_spawned_processes_work(
    make_arw: MakePhoto, tmp_path: Path
) -> None:
    script = tmp_path / "processes.py"
    script.write_text(_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(script), str(make_arw())], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------- in a notebook


def test_a_result_shows_itself(make_arw: MakePhoto, enhancer: Enhancer) -> None:
    result = enhancer.enhance(make_arw(), ratio=100)
    assert repr(result) == f"<Enhanced night.ARW: 144 x 96, ratio 100, {result.weights.name}>"
    assert result == result and result != enhancer.enhance(make_arw(), ratio=100)
    eight = result.to_srgb8()
    assert eight.dtype == np.uint8
    assert np.abs(eight * 257.0 - result.image).max() <= 128.5
    pil = result.to_pil()
    assert np.array_equal(np.asarray(pil), eight)
    assert pil.info["icc_profile"] == srgb_icc_profile()
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert np.array_equal(np.asarray(shown), eight)
        assert shown.info["icc_profile"] == srgb_icc_profile()


def test_a_mosaic_in_memory_and_contents_are_enhanced_like_the_file(
    make_arw: MakePhoto, enhancer: Enhancer
) -> None:
    path = make_arw()
    expected = enhancer.enhance(path, ratio=100).image
    assert np.array_equal(enhancer.enhance(path.read_bytes(), ratio=100).image, expected)
    frame = gia_cli.read_raw(path)
    made = gia_cli.RawFrame.from_mosaic(
        frame.mosaic,
        white=float(frame.white[0, 0]),
        black=float(frame.black[0, 0]),
        wb=frame.as_shot_wb.tolist(),
        xyz_to_camera=frame.xyz_to_camera,
        shot=frame.shot,
    )
    assert np.array_equal(enhancer.enhance(made, ratio=100).image, expected)


# ---------------------------------------------------------------- strength, DNG


@pytest.mark.slow
@pytest.mark.parametrize("weights", [DEFAULT, LEARNED])
def test_strength_leaves_grain_and_says_so(make_arw: MakePhoto, weights: str) -> None:
    photo = make_arw()
    clean, half, none = (
        Enhancer.from_weights(weights, device="cpu", strength=strength).enhance(photo, ratio=100)
        for strength in (1, 0.5, 0)
    )
    plain = Enhancer.from_weights(weights, device="cpu").enhance(photo, ratio=100)
    assert np.array_equal(clean.image, plain.image)
    assert "strength" not in clean.comment
    assert half.comment.endswith("; strength 0.5")
    grain = [(each.image.astype(float) - clean.image) / 65535 for each in (half, none)]
    assert 0.01 < grain[0].std() < 0.75 * grain[1].std()
    for each in grain:
        assert np.abs(each.mean(axis=(0, 1))).max() < 0.015


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": 1.1}, "--strength is a number from 0 to 1, not 1.1"),
        ({"strength": float("nan")}, "--strength is a number"),
        ({"strength_chroma": -1}, "--strength-chroma is a number"),
        ({"strength": "much"}, "--strength"),
        ({"highlights": 1.5}, "--highlights is a number from 0 to 1, not 1.5"),
    ],
)
def test_impossible_amounts_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Enhancer.from_weights(device="cpu", **options)


@pytest.mark.parametrize("weights", [DEFAULT, LEARNED])
def test_highlights_keep_the_shape_of_what_is_above_white(
    make_arw: MakePhoto, tmp_path: Path, weights: str
) -> None:
    photo = read_raw(make_arw())
    mosaic = photo.mosaic.copy()
    height, width = mosaic.shape
    lamp = (slice(height // 4, 3 * height // 4), slice(width // 4, 3 * width // 4))
    # A white one; where white is at some 160 DN above black.
    glow = np.linspace(400, 4000, lamp[1].stop - lamp[1].start)
    gains = photo.as_shot_wb[cell_colors(photo.kind, photo.phase)]
    of_site = np.tile(gains, (height // 2 + 1, width // 2 + 1))[:height, :width]
    mosaic[lamp] = (photo.black.mean() + glow / of_site[lamp]).astype(np.uint16)
    photo = replace(photo, mosaic=mosaic)
    plain, kept = (
        Enhancer.from_weights(weights, device="cpu", highlights=amount).enhance(photo, ratio=100)
        for amount in (0, 1)
    )
    assert "highlights" not in plain.comment and kept.comment.endswith("; highlights 1")
    edge = 8  # of the lamp
    inside = (
        slice(lamp[0].start + edge, lamp[0].stop - edge),
        slice(lamp[1].start + edge, lamp[1].stop - edge),
    )
    assert plain.picture is not None and kept.picture is not None
    own, restored = plain.picture[1][inside], kept.picture[1][inside]
    # Nearer to so steep an edge a network overshoots.
    assert own[4:-4, 4:-4].max() < 1.3 < restored.min()
    levels = kept.image[inside].mean(axis=(0, 2))
    assert (np.diff(levels) > 0).mean() > 0.9 and np.ptp(levels) > 0.1 * 65535
    # Another space is rolled off alike; linear light goes on above white.
    kept.save(tmp_path / "x.tif", SaveOptions(color_space="display-p3"))
    shown = DISPLAY_P3.decode(tifffile.imread(tmp_path / "x.tif")[inside] / 65535)
    as_srgb = shown @ np.linalg.inv(matrix_from_srgb(DISPLAY_P3)).T
    assert np.abs(as_srgb - srgb_decode(kept.image[inside] / 65535)).max() < 2e-3
    kept.save(tmp_path / "x.tif", SaveOptions(bit_depth=32))
    assert tifffile.imread(tmp_path / "x.tif")[inside].min() > 1.3


@pytest.mark.parametrize("weights", [DEFAULT, LEARNED])
def test_a_dng_is_rendered_to_the_picture(
    make_arw: MakePhoto, tmp_path: Path, weights: str
) -> None:
    result = Enhancer.from_weights(weights, device="cpu").enhance(
        make_arw(orientation=6), ratio=100
    )
    result.save(tmp_path / "x.dng")
    with rawpy.imread(str(tmp_path / "x.dng")) as raw:
        rendered = raw.postprocess(
            use_camera_wb=True, no_auto_bright=True, output_bps=16, gamma=(1, 1)
        )
    expected = srgb_decode(result.image / 65535)
    assert rendered.shape == expected.shape
    # Neither clipped nor outside what the camera tells apart.
    inside = ((expected > 0.02) & (expected < 0.9)).all(axis=2)
    assert inside.mean() > 0.2
    assert np.abs(rendered / 65535 - expected)[inside].max() < 0.01
    assert read_shot(tmp_path / "x.dng") == result.frame.shot


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.dng", {}),
        ("x.exr", {}),
        ("x.tif", {"bit_depth": 32}),
        ("x.png", {"color_space": "rec2020"}),
        ("x.jpg", {"color_space": "display-p3"}),
    ],
)
def test_what_is_made_of_the_networks_picture_needs_it(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    (prepared,) = enhancer.prepare(make_arw(), ExposureRequest(ratio=100))
    developed = enhancer.compute(prepared).develop(keep_picture=False)
    with pytest.raises(UsageError, match="not kept"):
        developed.save(tmp_path / name, SaveOptions(**options))
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.jpg", "x.jxl"])
def test_srgb_is_made_of_the_image(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, name: str
) -> None:
    """Whoever changes the image saves what they see."""
    result = enhancer.enhance(make_arw(), ratio=100)
    grey = replace(result, image=np.full_like(result.image, 30_000), picture=None)
    grey.save(tmp_path / name)
    if name == "x.jxl":
        codecs = pytest.importorskip("imagecodecs")
        saved = codecs.jpegxl_decode((tmp_path / name).read_bytes())
        assert saved.dtype == np.uint16
    else:
        with Image.open(tmp_path / name) as image:
            saved = np.asarray(image)
    level = 30_000 if saved.dtype == np.uint16 else 30_000 / 257
    assert saved.shape == result.image.shape
    assert np.abs(saved.astype(float) - level).max() < level / 100


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_wider_space_shows_the_same_picture_upright(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, orientation: int
) -> None:
    result = enhancer.enhance(make_arw(orientation=orientation), ratio=100)
    result.save(tmp_path / "x.tif", SaveOptions(color_space="rec2020"))
    result.save(tmp_path / "x32.tif", SaveOptions(bit_depth=32))
    matrix = np.linalg.inv(matrix_from_srgb(REC2020))
    wide = REC2020.decode(tifffile.imread(tmp_path / "x.tif") / 65535) @ matrix.T
    expected = srgb_decode(result.image / 65535)
    inside = ((expected > 0.001) & (expected < 0.99)).all(axis=2)
    assert inside.mean() > 0.2
    for light in (wide, tifffile.imread(tmp_path / "x32.tif")):
        assert light.shape == expected.shape
        assert np.abs(light - expected)[inside].max() < 2e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.tif", {"color_space": "rec2020"}),
        ("x.tif", {"color_space": "prophoto"}),
        ("x.tif", {"bit_depth": 32}),
        ("x.exr", {}),
    ],
)
def test_a_colour_that_srgb_lacks_comes_through(
    enhancer: Enhancer, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    """From the sensor to the file: a green of Rec. 2020, whose red is below sRGB's black."""
    green = np.linalg.inv(matrix_from_srgb(REC2020)) @ [0.05, 0.4, 0.08]
    light = np.full((192, 288, 3), 0.2, np.float32)
    light[48:144, 96:192] = green
    camera, gains = CAMERAS["ILCE-7SM2"], median_gains("ILCE-7SM2")
    mosaic = mosaic_from_linear(light, camera, gains)
    dn = expose(mosaic, camera, ratio=20, iso=400, rng=np.random.default_rng(1))
    write_arw(tmp_path / "x.ARW", dn, wb=gains)
    enhancer.enhance(tmp_path / "x.ARW", ratio=20).save(tmp_path / name, SaveOptions(**options))
    if name == "x.exr":
        with pytest.importorskip("OpenEXR").File(str(tmp_path / name)) as file:
            shown = file.channels()["RGB"].pixels.astype(np.float32)
    else:
        shown = tifffile.imread(tmp_path / name)
        if "color_space" in options:
            space = SPACES[options["color_space"]]
            matrix = np.linalg.inv(matrix_from_srgb(space))
            shown = space.decode(shown / 65535) @ matrix.T
    found = shown[72:120, 120:168].mean(axis=(0, 1))
    assert green[0] < -0.1
    assert found[0] < -0.04  # as far as the shares of the fusion go
    assert found[1] == pytest.approx(green[1], rel=0.1)


def test_an_option_of_another_format_is_refused(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    result = enhancer.enhance(make_arw(), ratio=100)
    for name, options in (("x.tif", {"jpeg_quality": 9}), ("x.dng", {"color_space": "rec2020"})):
        with pytest.raises(UsageError):
            result.save(tmp_path / name, SaveOptions(**options))
    with pytest.raises(UsageError, match="options must be a SaveOptions"):
        result.save(tmp_path / "x.tif", {"bit_depth": 8})  # type: ignore[arg-type]
