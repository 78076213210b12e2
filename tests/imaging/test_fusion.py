"""Fusion: the measurement mends what it knows, and nothing else."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gia_cli import runtime
from gia_cli.cameras import CameraName
from gia_cli.data.synthetic import as_if_read
from gia_cli.imaging import fusion
from gia_cli.imaging.color import bt709_decode, bt709_encode, srgb16_from_bt709
from gia_cli.imaging.fusion import (
    BLACK_KNOTS,
    LEVELS,
    NO_SHARES,
    NOISE_KNOTS,
    Grain,
    Measurement,
    Residual,
    ShareCounter,
    Shares,
    fuse,
    fusion_bytes,
    measure,
    whiten,
)
from gia_cli.raw.cfa import CANONICAL
from gia_cli.raw.reader import RawFrame
from gia_cli.simulation.sensor import CAMERAS, mosaic_from_linear
from tests import plain_fusion
from tests.one_device import META, OneDevice

CAMERA_NAMES: list[CameraName] = ["ILCE-7SM2", "X-T2"]
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
cameras = pytest.mark.parametrize("camera", CAMERA_NAMES)
GAINS = np.array([2.0, 1.0, 2.4], np.float32)
RATIO = 20.0
NOISE = (1e-3, 1e-3)


def shares(value: float, first: int = 0) -> Shares:
    table = np.zeros((LEVELS, len(NOISE_KNOTS), len(BLACK_KNOTS)), np.float32)
    table[first:] = value
    return Shares(table, table.copy())


def smooth_scene(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Linear sRGB, (H, W, 3), that changes slowly and is nowhere near white."""
    rows, cols = np.mgrid[: shape[0], : shape[1]] / 96
    waves = [np.sin(rng.uniform(1, 3) * rows + rng.uniform(1, 3) * cols) for _ in range(3)]
    return (0.25 + 0.1 * np.stack(waves, axis=2)).astype(np.float32)


def record(linear: NDArray[np.float32], camera: CameraName, *, black_error: float = 0) -> RawFrame:
    """The frame that a sensor without noise records; DN are whole numbers, as they are in files."""
    of = CAMERAS[camera]
    mosaic = mosaic_from_linear(linear, of, (2.0, 1.0, float(GAINS[2])))
    dn = np.rint(mosaic * (of.white - of.black) / RATIO + of.black + black_error)
    return as_if_read(np.clip(dn, 0, of.white).astype(np.uint16), of)


def measured(frame: RawFrame, camera: CameraName) -> Measurement:
    return measure(frame, RATIO, GAINS, np.array(CAMERAS[camera].matrix), NOISE)


def encoded(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(bt709_encode(linear).transpose(2, 0, 1))


@cameras
@pytest.mark.parametrize("size", [(180, 252), (187, 259)])
def test_a_wrong_picture_becomes_the_measured_one(
    camera: CameraName, size: tuple[int, int], rng: np.random.Generator
) -> None:
    linear = smooth_scene(rng, size)
    wrong = encoded((linear * (0.8, 1.1, 0.9)).astype(np.float32))
    before = np.abs(wrong - encoded(linear)).mean()
    fuse(wrong, measured(record(linear, camera), camera), shares(1))
    off = np.abs(wrong - encoded(linear))
    assert off.max() < 0.02 and off.mean() < 0.15 * before


@cameras
def test_colours_that_srgb_lacks_are_kept_if_asked_for(
    camera: CameraName, rng: np.random.Generator
) -> None:
    """A network that learned sRGB has 0 where the sensor saw less: fusion finds it again."""
    linear = smooth_scene(rng, (180, 252))
    linear[..., 0] -= 0.25  # red: around 0, from -0.1 to 0.1
    kept = encoded(np.clip(linear, 0, 1))
    clipped, of = kept.copy(), measured(record(linear, camera), camera)
    before = np.abs(kept - encoded(linear)).mean()
    fuse(kept, of, shares(1), is_clipped=False)
    fuse(clipped, of, shares(1))
    after = [np.abs(picture - encoded(linear)).mean() for picture in (kept, clipped)]
    assert after[0] < 0.5 * before and after[0] < 0.6 * after[1]
    assert kept.min() < -0.2
    # In sRGB the two are one picture.
    assert clipped.min() == 0
    assert np.array_equal(srgb16_from_bt709(kept), srgb16_from_bt709(clipped))


@cameras
def test_without_shares_nothing_changes(camera: CameraName, rng: np.random.Generator) -> None:
    linear = smooth_scene(rng, (96, 144))
    picture = encoded((linear * 0.7).astype(np.float32))
    before = picture.copy()
    fuse(picture, measured(record(linear, camera), camera), shares(0))
    np.testing.assert_allclose(picture, before, atol=2e-6)


@cameras
def test_the_phase_of_the_filter_array_counts(camera: CameraName, rng: np.random.Generator) -> None:
    linear = smooth_scene(rng, (192, 240))
    frame = record(linear, camera)
    cut = replace(frame, mosaic=frame.mosaic[1:, 2:], phase=(1, 2))
    picture = encoded((linear[1:, 2:] * (0.8, 1.1, 0.9)).astype(np.float32))
    fuse(picture, measured(cut, camera), shares(1))
    np.testing.assert_allclose(picture, encoded(linear[1:, 2:]), atol=0.02)


@cameras
def test_bands_of_rows_leave_no_trace(
    camera: CameraName, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = smooth_scene(rng, (150, 120))
    what = measured(record(linear, camera), camera)
    pictures = []
    for pixels in (1 << 30, 12 * 120):
        monkeypatch.setattr(fusion, "_BAND_PIXELS", pixels)
        rng = np.random.default_rng(1)
        picture = encoded((linear * rng.uniform(0.9, 1.1, (150, 120, 1))).astype(np.float32))
        fuse(picture, what, shares(0.7))
        pictures.append(picture)
    np.testing.assert_allclose(pictures[0], pictures[1], atol=1e-6)


@cameras
def test_coarse_shares_leave_detail_alone(camera: CameraName, rng: np.random.Generator) -> None:
    linear = smooth_scene(rng, (192, 192))
    detail = rng.normal(0, 0.02, (192, 192, 1)).astype(np.float32)
    picture = encoded(linear * (1 + detail))
    before = bt709_decode(picture)
    fuse(picture, measured(record(linear, camera), camera), shares(1, first=6))
    change = bt709_decode(picture) - before
    assert np.abs(np.diff(change, axis=1)).max() < 0.1 * np.abs(np.diff(before, axis=1)).max()


@cameras
def test_the_black_level_error_is_found_in_dark_places(
    camera: CameraName, rng: np.random.Generator
) -> None:
    linear = smooth_scene(rng, (192, 240)) ** 3
    error = 2.0
    what = measured(record(linear, camera, black_error=error), camera)
    residual = Residual(encoded(linear), what)
    of = CAMERAS[camera]
    expected = error * RATIO * GAINS / (of.white - of.black)
    np.testing.assert_allclose(residual.offset, expected, rtol=0.35)
    # And the picture, which was right, stays right.
    picture = encoded(linear)
    fuse(picture, what, shares(1))
    off = np.abs(bt709_decode(picture) - linear.transpose(2, 0, 1)).mean()
    assert off < 0.4 * expected.mean()


@cameras
@pytest.mark.parametrize("correction", [-1.5, 2.0])
def test_a_corrected_black_level_is_as_likely_as_before(
    camera: CameraName, correction: float, rng: np.random.Generator
) -> None:
    linear = smooth_scene(rng, (96, 144)) ** 3
    frame = record(linear, camera, black_error=1.0)
    seen = replace(frame, black_correction=correction)
    # Where the whole photo is too bright to tell, it is what was likely in the beginning.
    of = CAMERAS[camera]
    unit = RATIO * GAINS / (of.white - of.black)
    untold = Residual(np.ones_like(encoded(linear)), measured(seen, camera)).offset
    np.testing.assert_allclose(untold, -correction * unit, rtol=1e-3)
    # And else the sum is the same, whatever it is taken from.
    offsets = [Residual(encoded(linear), measured(of, camera)).offset for of in (frame, seen)]
    np.testing.assert_allclose(offsets[0], offsets[1] + correction * unit, atol=2e-2 * unit.max())


def test_a_bright_scene_is_no_black_level_error(rng: np.random.Generator) -> None:
    """A picture that is 10 % too bright everywhere is not told that black is off by as much."""
    linear = smooth_scene(rng, (192, 240))
    residual = Residual(
        encoded((1.1 * linear).astype(np.float32)),
        measured(record(linear, "ILCE-7SM2"), "ILCE-7SM2"),
    )
    assert np.abs(residual.offset).max() < 0.1 * 0.1 * linear.mean()


@cameras
def test_what_may_be_clipped_does_not_count(camera: CameraName, rng: np.random.Generator) -> None:
    linear = smooth_scene(rng, (192, 192))
    lamp = linear.copy()
    lamp[60:132, 60:132] = 3  # the sensor has room for it, the picture has not
    picture = encoded(np.minimum(lamp, 1))
    before = picture.copy()
    fuse(picture, measured(record(lamp, camera), camera), shares(1))
    np.testing.assert_allclose(picture[:, 72:120, 72:120], before[:, 72:120, 72:120], atol=0.02)
    np.testing.assert_allclose(picture[:, :40], before[:, :40], atol=0.02)


@pytest.mark.slow
def test_shares_follow_the_errors(rng: np.random.Generator) -> None:
    """A picture without errors gets nothing; a wrong one gets what a clean measurement says."""
    linear = smooth_scene(rng, (512, 512))
    frame = record(linear, "ILCE-7SM2")
    noisy = replace(
        frame,
        mosaic=np.rint(frame.mosaic + rng.normal(0, 30, frame.mosaic.shape)).astype(np.uint16),
    )
    truth = encoded(linear)
    right, wrong = ShareCounter(), ShareCounter()
    matrix = np.array(CAMERAS["ILCE-7SM2"].matrix)
    right.add(truth, truth, measure(noisy, RATIO, GAINS, matrix))
    for seed in range(3):
        cast = np.random.default_rng(seed).uniform(0.7, 1.3, 3)
        off = encoded((linear * cast).astype(np.float32))
        wrong.add(off, truth, measure(frame, RATIO, GAINS, matrix, NOISE))
    assert right.shares().chroma[1:7].max() < 0.1
    assert wrong.shares().chroma[-1].min() > 0.9


def test_shares_are_kept_in_words_that_people_can_read() -> None:
    table = np.random.default_rng(0).uniform(0, 1, (LEVELS, len(NOISE_KNOTS), len(BLACK_KNOTS)))
    kept = Shares(table.astype(np.float32), (table / 2).astype(np.float32))
    again = Shares.from_json(kept.to_json())
    assert again == Shares.from_json(kept.to_json()) != kept
    assert hash(again) == hash(Shares.from_json(kept.to_json()))
    np.testing.assert_allclose(again.luminance, kept.luminance, atol=0.006)
    np.testing.assert_allclose(again.chroma, kept.chroma, atol=0.006)


@pytest.mark.parametrize("spoilt", ["101", "-1", "nan", "x", "1 2"])
def test_a_spoilt_table_is_refused(spoilt: str) -> None:
    values = shares(0.5).to_json()
    first, *rest = values["chroma"]
    values["chroma"] = [spoilt + first[first.index(" ") :], *rest]
    with pytest.raises(ValueError):
        Shares.from_json(values)


@cameras
def test_what_saturated_the_sensor_is_white(camera: CameraName, rng: np.random.Generator) -> None:
    of = CAMERAS[camera]
    frame = record(smooth_scene(rng, (60, 72)), camera)
    mosaic = frame.mosaic.copy()
    mosaic[12:24, 18:42] = of.white
    mosaic[40, 40] = of.white  # a single hot photosite is no lamp
    picture = np.full((3, 60, 72), 0.5, np.float32)
    whiten(picture, replace(frame, mosaic=mosaic))
    assert (picture[:, 12:24, 18:42] == 1).all()
    assert picture.sum() == 0.5 * picture.size + 0.5 * 3 * 12 * 24
    beyond = np.full((3, 60, 72), -0.1, np.float32)  # a colour that sRGB lacks
    whiten(beyond, replace(frame, mosaic=mosaic))
    assert (beyond[:, 12:24, 18:42] == 1).all()
    assert beyond[:, 0, 0].max() < -0.09


def test_cells_know_their_colors() -> None:
    for camera in CAMERA_NAMES:
        frame = record(np.full((24, 24, 3), 0.2, np.float32), camera)
        shifted = replace(frame, phase=(1, 1))
        canonical = CANONICAL[frame.kind]
        assert measured(shifted, camera).colors[0, 0] == canonical[1, 1]


@cameras
@pytest.mark.parametrize("grain", [None, Grain(0.5, 0.5)])
def test_what_it_takes_is_what_it_states(
    camera: CameraName,
    grain: Grain | None,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (fusion, runtime):
        monkeypatch.setattr(module, "available_cores", lambda: 2)
    scene = smooth_scene(rng, (804, 1200))
    scene[100:300:7, 100:600] = 2  # lamps, which do not count
    frame = record(scene, camera)
    picture = encoded(scene)
    tracemalloc.start()
    try:
        fuse(picture, measured(frame, camera), shares(0.5), grain)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stated = fusion_bytes(frame.kind, frame.mosaic.size, with_grain=grain is not None)
    assert 0.6 * stated < peak < stated


# ---------------------------------------------------------------- beside a plain version


@dataclass(frozen=True)
class Case:
    """A scene with a lamp, noise, and a picture that is wrong in many ways."""

    picture: NDArray[np.float32]
    what: Measurement
    shares: Shares


def case(camera: CameraName, size: tuple[int, int], phase: tuple[int, int]) -> Case:
    rng = np.random.default_rng(5)
    linear = smooth_scene(rng, (size[0] + phase[0], size[1] + phase[1]))
    linear *= np.linspace(0.05, 1.4, linear.shape[1])[:, None]
    linear[40:64, 50:90] = 2.0
    frame = noisy(record(linear, camera, black_error=1.5), rng, 6)
    frame = replace(frame, mosaic=frame.mosaic[phase[0] :, phase[1] :], phase=phase)
    seen = linear[phase[0] :, phase[1] :] * rng.uniform(0.85, 1.15, (1, 1, 3))
    picture = encoded((seen + rng.normal(0, 0.01, seen.shape)).clip(-0.01, 1.02).astype(np.float32))
    tables = (rng.uniform(0, 1, NO_SHARES.chroma.shape).astype(np.float32) for _ in range(2))
    return Case(picture, measured(frame, camera), Shares(*tables))


@cameras
@pytest.mark.parametrize(
    ("size", "phase"), [((150, 216), (0, 0)), ((149, 217), (1, 1)), ((91, 133), (0, 1))]
)
@pytest.mark.parametrize("grain", [None, Grain(0.5, 0.3)])
@pytest.mark.parametrize("has_table", [True, False])
def test_it_is_what_one_would_write_down(
    camera: CameraName,
    size: tuple[int, int],
    phase: tuple[int, int],
    grain: Grain | None,
    has_table: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bands, tables and all that is done to be quick change nothing beside a plain version."""
    monkeypatch.setattr(fusion, "_BAND_PIXELS", 30 * size[1])
    if has_table:
        monkeypatch.setattr(fusion, "_CURVE_POINTS", 1 << 16)
        monkeypatch.setattr(fusion, "_CURVE_CELLS", 0)
    of = case(camera, size, phase)
    expected = plain_fusion.fused(of.picture, of.what, of.shares, grain, is_clipped=False)
    fuse(of.picture, of.what, of.shares, grain, is_clipped=False)
    off = np.abs(of.picture - expected)
    assert off.mean() < 2e-7 and off.max() < 5e-6


def test_without_a_finest_band_it_is_the_same_too() -> None:
    of = case("ILCE-7SM2", (150, 216), (0, 0))
    for table in (of.shares.luminance, of.shares.chroma):
        table[0] = 0.009
    expected = plain_fusion.fused(of.picture, of.what, of.shares)
    fuse(of.picture, of.what, of.shares)
    np.testing.assert_allclose(of.picture, expected, atol=5e-6)


# ---------------------------------------------------------------- on a device


@cameras
@pytest.mark.parametrize("grain", [None, Grain(0.5, 0.3)])
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NEEDS_CUDA])]
)
def test_a_tensor_becomes_what_an_array_does(
    camera: CameraName, grain: Grain | None, device: str
) -> None:
    of = case(camera, (149, 217), (1, 1))
    there = torch.tensor(of.picture, device=device)
    tensor = there.clone()
    fuse(of.picture, of.what, of.shares, grain, is_clipped=False)
    fuse(tensor, of.what, of.shares, grain, is_clipped=False)
    assert tensor.device == there.device
    np.testing.assert_allclose(tensor.cpu().numpy(), of.picture, atol=2e-5)


@cameras
@pytest.mark.parametrize("answer", [True, False])
def test_all_of_it_lies_on_one_device(
    camera: CameraName, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the answers of the device, which are all that is waited for."""
    waits: list[object] = []

    def tells(condition: torch.Tensor) -> bool:
        assert condition.device == META
        waits.append(condition)
        return answer

    def fetched(values: torch.Tensor) -> NDArray[np.float32]:
        waits.append(values)
        return np.ones(values.shape, np.float32)

    monkeypatch.setattr(fusion, "tells", tells)
    monkeypatch.setattr(fusion, "fetched", fetched)
    of = case(camera, (149, 217), (1, 1))
    picture = torch.empty(of.picture.shape, device=META)
    with OneDevice() as seen:
        fuse(picture, of.what, of.shares, Grain(0.5, 0.3))
    assert of.what.mosaic.shape in seen.copied
    assert len(waits) < 40  # one band here


def test_white_is_made_on_a_device_too(rng: np.random.Generator) -> None:
    frame = record(smooth_scene(rng, (60, 72)), "ILCE-7SM2")
    mosaic = frame.mosaic.copy()
    mosaic[12:24, 18:42] = CAMERAS["ILCE-7SM2"].white
    picture = rng.uniform(-0.1, 1.1, (3, 60, 72)).astype(np.float32)
    tensor = torch.tensor(picture)
    for there in (picture, tensor):
        whiten(there, replace(frame, mosaic=mosaic))
    np.testing.assert_array_equal(tensor.numpy(), picture)


# ---------------------------------------------------------------- grain


def noisy(frame: RawFrame, rng: np.random.Generator, sigma: float) -> RawFrame:
    """The frame with noise of `sigma` DN, which may fall below black."""
    dn = frame.mosaic + rng.normal(0, sigma, frame.mosaic.shape)
    return replace(frame, mosaic=np.clip(np.rint(dn), 0, 65535).astype(np.uint16))


def with_grain(
    linear: NDArray[np.float32], frame: RawFrame, camera: CameraName, grain: Grain
) -> NDArray[np.float32]:
    """What grain adds to a perfect picture, (3, H, W) code values."""
    picture = encoded(linear)
    fuse(picture, measured(frame, camera), NO_SHARES, grain)
    return picture - encoded(linear)


@cameras
@pytest.mark.parametrize("sigma", [3.0, 40.0])
def test_grain_moves_neither_brightness_nor_colour(
    camera: CameraName, sigma: float, rng: np.random.Generator
) -> None:
    """Even where the noise is larger than the light: 40 DN are 5 % of white, amplified."""
    linear = 0.3 * smooth_scene(rng, (192, 288))
    frame = noisy(record(linear, camera), rng, sigma)
    added = with_grain(linear, frame, camera, Grain(1, 1))
    assert added.std() > 0.01
    assert (encoded(linear) + added).min() >= 0
    blocks = added.reshape(3, 4, 48, 6, 48).mean(axis=(2, 4))
    assert np.abs(blocks).max() < 0.15 * added.std()
    assert np.abs(added.mean(axis=(1, 2))).max() < 0.02 * added.std() + 5e-4


@cameras
def test_grain_comes_back_by_its_share(camera: CameraName, rng: np.random.Generator) -> None:
    linear = smooth_scene(rng, (96, 144))
    frame = noisy(record(linear, camera), rng, 4)
    full, half = (with_grain(linear, frame, camera, Grain(x, x)) for x in (1.0, 0.5))
    assert half.std() == pytest.approx(full.std() / 2, rel=0.05)
    assert np.corrcoef(half.ravel(), full.ravel())[0, 1] > 0.98


def test_grain_of_brightness_has_no_colour(rng: np.random.Generator) -> None:
    linear = np.full((96, 144, 3), 0.3, np.float32)  # grey, where the curve treats all alike
    frame = noisy(record(linear, "ILCE-7SM2"), rng, 3)
    bright, coloured = (
        with_grain(linear, frame, "ILCE-7SM2", grain) for grain in (Grain(1, 0), Grain(0, 1))
    )
    assert np.ptp(bright, axis=0).max() < 0.05 * bright.std()
    assert np.ptp(coloured, axis=0).mean() > coloured.std()


def test_all_grain_is_what_the_sensor_measured(rng: np.random.Generator) -> None:
    """Finely: as with all shares, but for what a coarse band says."""
    linear = smooth_scene(rng, (192, 192))
    frame = noisy(record(linear, "ILCE-7SM2"), rng, 2)
    grainy, converted = encoded(linear), encoded(linear)
    fuse(grainy, measured(frame, "ILCE-7SM2"), NO_SHARES, Grain(1, 1))
    fuse(converted, measured(frame, "ILCE-7SM2"), shares(1))
    difference = grainy - converted
    assert difference.std() < 0.2 * (grainy - encoded(linear)).std()
