"""The black level as the photo itself shows it: found, and the picture is that of the right one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.cameras import CameraName
from gia_cli.data.synthetic import as_if_read
from gia_cli.enhance import black_level
from gia_cli.enhance import crop as crop_module
from gia_cli.enhance import enhancer as enhancer_module
from gia_cli.enhance.black_level import black_correction, is_measured
from gia_cli.enhance.crop import Crop, binned, part_of
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.imaging.color import srgb_encode
from gia_cli.imaging.fusion import Measurement
from gia_cli.inference.plan import InferOptions
from gia_cli.progress import Progress
from gia_cli.raw.calibrated_black import UNKNOWN_SIGMA
from gia_cli.raw.cfa import PLANE_COLORS
from gia_cli.raw.noise_estimate import estimate_noise, noise_above
from gia_cli.raw.packing import PackedMosaic, prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.simulation.sensor import CAMERAS, mosaic_from_linear, simulate_mosaic
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo
from tests.conftest import WB
from tests.imaging.test_fusion import cameras, encoded, record, smooth_scene
from tests.progress_spy import ProgressSpy

RATIO = 100.0
GAINS = np.array([2.0, 1.0, 2.4], np.float32)
NOISE = (1.0, 4.0)
NO_ENGINE: Any = None
#: Of each sensor: weights that are fused, and others that see the photo clipped at black.
FUSED = {"ILCE-7SM2": "gia-sony-v11", "X-T2": "gia-fuji-v4"}
CLIPPED = {"ILCE-7SM2": "gia-sony-v6", "X-T2": "gia-fuji-v3"}


def unknown(frame: RawFrame) -> RawFrame:
    """A file of a camera whose black level nobody has measured."""
    return replace(frame, path=Path("night.dng"))


def weights_of(camera: CameraName) -> WeightsInfo:
    return find_weights(FUSED[camera])


def dark_scene(rng: np.random.Generator) -> NDArray[np.float32]:
    return np.asarray(smooth_scene(rng, (192, 240)) ** 3, np.float32)


@cameras
@pytest.mark.parametrize("phase", [(0, 0), (1, 1)])
def test_binning_keeps_the_light_and_averages_the_noise(
    camera: CameraName, phase: tuple[int, int], rng: np.random.Generator
) -> None:
    linear = np.empty((256, 384, 3), np.float32)
    linear[:] = (0.1, 0.2, 0.3)
    whole = dimmed(linear, camera, 0)
    noisy = (
        whole.mosaic[phase[0] :, phase[1] :]
        + rng.normal(20, 6, (256, 384))[: 256 - phase[0], : 384 - phase[1]]
    )
    frame = replace(whole, mosaic=np.rint(noisy).astype(np.uint16), phase=phase)
    packed = frame.mosaic.size / (4 if camera == "ILCE-7SM2" else 9)
    few, averaged = binned(frame, round(packed / 12))
    assert averaged == 16 and few.phase == phase and few.mosaic.size < frame.mosaic.size / 15
    for of in (few, frame):
        planes = prepare(of, RATIO, GAINS, None).planes
        clean = prepare(whole, RATIO, GAINS, None).planes.mean((1, 2))
        unit = RATIO / (of.white - of.black).mean() * GAINS[list(PLANE_COLORS[of.kind])]
        noise = (planes - clean[:, None, None]) / unit[:, None, None]
        assert noise.mean() == pytest.approx(20, abs=0.1)
        assert noise.std() == pytest.approx(6 / (4 if of is few else 1), rel=0.05)
    assert binned(frame, round(packed) + 1) == (frame, 1)


def dimmed(linear: NDArray[np.float32], camera: CameraName, error: float) -> RawFrame:
    """What `unknown` sees of a scene, RATIO times too dark, without noise; DN are rounded."""
    of = CAMERAS[camera]
    mosaic = mosaic_from_linear(linear, of, (2.0, 1.0, float(GAINS[2])))
    dn = np.rint(mosaic * (of.white - of.black) / RATIO + of.black + error)
    return unknown(as_if_read(np.clip(dn, 0, of.white).astype(np.uint16), of))


@cameras
@pytest.mark.parametrize("error", [-3.0, 0.0, 2.0])
def test_the_error_is_found_though_the_picture_shows_a_part_of_it(
    camera: CameraName, error: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = dark_scene(rng)
    right = prepare(dimmed(linear, camera, 0), RATIO, GAINS, None).planes
    found: list[float] = []

    def see(running: Any, mosaic: PackedMosaic, *_: Any) -> NDArray[np.float32]:
        left = (mosaic.planes - right).mean()  # of the error, amplified and balanced
        found.append(float(left))
        return encoded(np.clip(linear + left / 6, 0, 1).astype(np.float32))

    monkeypatch.setattr(black_level, "infer", see)
    frame = dimmed(linear, camera, error)
    got = black_correction(NO_ENGINE, binned(frame), RATIO, GAINS, (1e-3, 1e-3), weights_of(camera))
    assert got == pytest.approx(error, abs=0.1 + 0.05 * abs(error))
    assert len(found) <= (3 if error else 2)
    # Asked once, it would have told less.
    assert not error or all(abs(later) < 0.5 * abs(first) for first, later in pairwise(found))


@cameras
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((0.8, 0.8), 0),  # the picture just follows the level: fog, that would be taken for black
        ((-0.8, -0.7), 0),
        ((2.6,), 0),  # more than a black level error is
        ((1.5, 0.9), 0),  # 2.25 would follow
        ((1.0, -0.2, 0.1), 0.9),
        ((1.0, 0.5, 0.0001), 2.0001),  # half, a quarter, ... of it would follow
    ],
)
def test_what_is_more_than_an_error_is_none(
    camera: CameraName,
    steps: tuple[float, ...],
    expected: float,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = list(steps)

    class Told:
        def __init__(self, picture: None, measured: Measurement) -> None:
            self.offset = (left.pop(0) * measured.black_sigma).astype(np.float32)

    monkeypatch.setattr(black_level, "infer", lambda *_: None)
    monkeypatch.setattr(black_level, "Residual", Told)
    frame = dimmed(dark_scene(rng), camera, 0)
    found = black_correction(NO_ENGINE, binned(frame), RATIO, GAINS, NOISE, weights_of(camera))
    sigma = UNKNOWN_SIGMA * float((frame.white - frame.black).mean())
    assert found == pytest.approx(expected * sigma, rel=1e-3) and not left


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fog", "flat", "saturated", "lamps", "dark rows"])
def test_no_scene_makes_it_run_away(
    name: str, camera: CameraName, enhancer: Enhancer, rng: np.random.Generator
) -> None:
    """The level is right, and no scene is taken for black."""
    of = CAMERAS[camera]
    light = np.full((600, 900), 12.0)  # DN, a hundred times too dark
    if name == "fog":
        light += np.kron(rng.uniform(-3, 3, (60, 90)), np.ones((10, 10)))
    elif name in ("saturated", "dark rows"):
        light[:] = of.white
    elif name == "lamps":
        light[::100, ::100] = of.white
    if name == "dark rows":
        light[300:315] = 10
    dn = of.black + rng.poisson(light) + rng.normal(0, 3, light.shape)
    frame = unknown(as_if_read(np.rint(np.clip(dn, 0, of.white)).astype(np.uint16), of, WB))
    found = enhancer.enhance(frame, ratio=RATIO).frame.black_correction
    assert abs(found) < 2.5 * UNKNOWN_SIGMA * (of.white - of.black)
    if name in ("saturated", "dark rows"):
        assert abs(found) < 1


@pytest.mark.slow
def test_a_picture_made_again_is_the_same(frame: RawFrame, enhancer: Enhancer) -> None:
    first = enhancer.enhance(frame, ratio=RATIO)
    assert first.frame.black_correction != 0
    second = enhancer.enhance(first.frame, ratio=RATIO)
    np.testing.assert_array_equal(first.image, second.image)


def test_a_level_that_the_user_states_is_kept(frame: RawFrame, camera: CameraName) -> None:
    own = Enhancer.from_weights(FUSED[camera], device="cpu", precision="fp32", black_level=512)
    assert own.enhance(frame, ratio=RATIO).frame.black_correction == 0


@cameras
def test_it_is_looked_for_where_it_shows(camera: CameraName, rng: np.random.Generator) -> None:
    frame, fused = unknown(record(dark_scene(rng), camera)), weights_of(camera)
    assert is_measured(frame, RATIO, GAINS, fused)
    assert is_measured(frame, 10, GAINS, fused)
    assert not is_measured(frame, 2, GAINS, fused)  # less than a level of 255
    assert not is_measured(frame, RATIO, None, fused)  # the network finds its own balance
    assert not is_measured(frame, RATIO, GAINS, find_weights(CLIPPED[camera]))
    assert not is_measured(frame, RATIO, GAINS, replace(fused, fusion=None))


@pytest.fixture(scope="module", params=list(FUSED))
def camera(request: pytest.FixtureRequest) -> CameraName:
    name: CameraName = request.param
    return name


@pytest.fixture(scope="module")
def enhancer(camera: CameraName) -> Enhancer:
    return Enhancer.from_weights(FUSED[camera], device="cpu", precision="fp32")


@pytest.fixture
def frame(camera: CameraName, rng: np.random.Generator) -> RawFrame:
    """A noisy photo with dark places, of a camera that nobody has measured."""
    levels = np.rint(255 * srgb_encode(dark_scene(rng))).astype(np.uint8)
    noise = np.random.default_rng(5)
    mosaic = simulate_mosaic(levels, camera, ratio=RATIO, iso=800, wb=WB, rng=noise)
    return unknown(as_if_read(mosaic, CAMERAS[camera], WB))


def above(frame: RawFrame, error: int) -> RawFrame:
    return replace(frame, mosaic=(frame.mosaic.astype(int) + error).astype(np.uint16))


@pytest.mark.slow
@pytest.mark.parametrize("error", [-2, 2])
def test_photos_that_differ_by_their_black_level_become_alike(
    frame: RawFrame, error: int, enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = enhancer.enhance(frame, ratio=RATIO)
    wrong = enhancer.enhance(above(frame, error), ratio=RATIO)
    moved = wrong.frame.black_correction - right.frame.black_correction
    assert moved == pytest.approx(error, abs=1.2)
    off = np.abs(wrong.image.astype(float) - right.image).mean()
    monkeypatch.setattr(enhancer_module, "is_measured", lambda *_: False)
    before = enhancer.enhance(frame, ratio=RATIO).image
    without = enhancer.enhance(above(frame, error), ratio=RATIO).image
    assert off < 0.95 * np.abs(without.astype(float) - before).mean()


@pytest.mark.slow
def test_a_photo_that_was_prepared_once_can_be_rendered_twice(
    frame: RawFrame, enhancer: Enhancer
) -> None:
    (prepared,) = enhancer.prepare(frame, ExposureRequest(ratio=RATIO))
    first, second = (enhancer.render(prepared) for _ in range(2))
    assert first.frame.black_correction == second.frame.black_correction != 0
    np.testing.assert_array_equal(first.picture, second.picture)
    # Its planes are those of the corrected level, and the seconds name what was done.
    gains, floor = prepared.gains, prepared.weights.config.input_floor
    planes = prepare(first.frame, RATIO, gains, floor).planes
    np.testing.assert_array_equal(prepared.mosaic.planes, planes)
    assert first.seconds["black_level"] > 0


@pytest.mark.slow
def test_a_part_has_the_black_level_of_the_whole(
    frame: RawFrame, camera: CameraName, enhancer: Enhancer
) -> None:
    tall = replace(frame, mosaic=np.tile(above(frame, 2).mosaic, (3, 2)))
    whole = enhancer.enhance(tall, ratio=RATIO).frame.black_correction
    crop = Enhancer.from_weights(FUSED[camera], device="cpu", precision="fp32", crop="center")
    assert crop.enhance(tall, ratio=RATIO).frame.black_correction == pytest.approx(whole, abs=1e-6)


def test_a_part_and_its_whole_are_corrected_together(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = record(smooth_scene(rng, (600, 900)), "ILCE-7SM2")
    whole = part_of(frame, Crop((0, 0, 900, 600)))
    assert whole.is_whole and whole.with_black(1.5).is_whole
    monkeypatch.setattr(crop_module, "THINNED_PIXELS", 20_000)
    part = part_of(frame, Crop((10, 10, 50, 50)))
    assert not part.is_whole
    corrected = part.with_black(1.5)
    assert corrected.frame.black_correction == corrected.thinned.black_correction == 1.5
    assert corrected.noise == noise_above(part.noise, 1.5)


def test_noise_is_that_of_a_level_that_was_right_at_once(rng: np.random.Generator) -> None:
    light = np.linspace(2, 60, 256 * 256).reshape(256, 256)
    dn = rng.poisson(light, (4, 256, 256)) + rng.normal(0, 3, (4, 256, 256))
    above_black = dn.astype(np.float32)
    right = estimate_noise(above_black - np.float32(1.5))
    assert noise_above(estimate_noise(above_black), 1.5) == pytest.approx(right, rel=1e-3)
    assert noise_above((1.0, 2.0), -50)[1] > 0


def test_usual_errors_are_those_of_a_camera_that_nobody_measured(rng: np.random.Generator) -> None:
    """The A7S II's own level is known better, so it is looked for from a higher ratio on."""
    own = record(dark_scene(rng), "ILCE-7SM2")
    own = replace(own, shot=replace(own.shot, model="ILCE-7SM2", iso=1600))
    fused = weights_of("ILCE-7SM2")
    least = 1 / 255 / (4.5 * float(GAINS.mean()) * UNKNOWN_SIGMA)
    assert is_measured(unknown(own), 1.01 * least, GAINS, fused)
    assert not is_measured(unknown(own), 0.99 * least, GAINS, fused)
    assert not is_measured(own, 1.01 * least, GAINS, fused)
    assert is_measured(own, 4 * least, GAINS, fused)


def test_options_and_notes_pass_through_but_no_stage(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, options, seen = dark_scene(rng), InferOptions(), []
    progress = ProgressSpy()

    def see(running: Any, mosaic: Any, given: Any, told: Progress) -> NDArray[np.float32]:
        seen.append(given)
        told.stage("network", 100)
        told.advance(100)
        told.note("another engine")
        return encoded(linear)

    monkeypatch.setattr(black_level, "infer", see)
    frame = unknown(record(linear, "ILCE-7SM2"))
    weights = weights_of("ILCE-7SM2")
    black_correction(NO_ENGINE, binned(frame), 20, GAINS, NOISE, weights, options, progress)
    assert set(map(id, seen)) == {id(options)}
    assert progress.notes == ["another engine"] * len(seen)
    assert progress.announced == 0 and progress.done == []
