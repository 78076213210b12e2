"""The sensor at night: filters, exposures, noise, and the scenes of SID."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.cameras import ENDINGS, CameraName
from gia_cli.imaging.color import camera_from_srgb
from gia_cli.raw.cfa import CANONICAL, pack
from gia_cli.raw.reader import read_raw
from gia_cli.sensor_table import iso_settings
from gia_cli.simulation.noise import SensorNoise
from gia_cli.simulation.options import SimulateOptions
from gia_cli.simulation.photo import simulate_photo
from gia_cli.simulation.sensor import (
    CAMERAS,
    daylight_gains,
    draw_scene,
    expose,
    median_gains,
    mosaic_from_linear,
    simulate_mosaic,
)
from tests.simulation.pictures import NAMES, WB, Photo, assert_flat

SETTINGS = [(name, iso) for name in NAMES for iso in iso_settings(name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_white_surface_records_the_light(name: CameraName) -> None:
    camera = CAMERAS[name]
    mosaic = mosaic_from_linear(np.ones((12, 12, 3)), camera, WB)
    planes = pack(mosaic, camera.kind)
    assert np.allclose(sorted({round(float(plane[0, 0]), 4) for plane in planes}), [0.5, 0.5556, 1])


@pytest.mark.parametrize("name", NAMES)
def test_each_photosite_sees_its_own_filter(name: CameraName, rng: np.random.Generator) -> None:
    """Against the plain way: the whole matrix product, then a choice; for odd sizes too."""
    camera = CAMERAS[name]
    linear = rng.random((13, 17, 3))
    full = linear @ (camera_from_srgb(np.array(camera.matrix)) / np.array(WB)[:, None]).T
    pattern = np.tile(CANONICAL[camera.kind], (9, 9))[:13, :17]
    wanted = np.take_along_axis(full, pattern[..., None].astype(int), 2)[..., 0]
    assert np.allclose(mosaic_from_linear(linear, camera, WB), wanted, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_colour_of_srgb_is_negative_to_the_camera(name: CameraName) -> None:
    """So nothing of a picture is lost at 0, as colours outside a camera's gamut would be."""
    assert camera_from_srgb(np.array(CAMERAS[name].matrix)).min() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "iso"), SETTINGS)
def test_flat_fields_of_every_iso_setting(
    rng: np.random.Generator, name: CameraName, iso: int
) -> None:
    """Black level errors and rounding included; a dark field, and one of 40 DN."""
    camera = CAMERAS[name]
    for level in (0.0, 40.0):
        noise = camera.noise(iso, rng)
        flat = np.full((300, 300), level * 100 / (camera.white - camera.black))
        dn = expose(flat, camera, ratio=100, iso=iso, rng=rng, noise=noise)
        assert dn.dtype == np.uint16
        assert_flat(dn, name, noise, level)


@pytest.mark.parametrize("name", NAMES)
def test_exposures_without_a_body_draw_one(name: CameraName) -> None:
    camera, flat = CAMERAS[name], np.zeros((120, 120))
    found = expose(flat, camera, ratio=100, iso=1600, rng=np.random.default_rng(4))
    rng = np.random.default_rng(4)
    wanted = expose(flat, camera, ratio=100, iso=1600, rng=rng, noise=camera.noise(1600, rng))
    assert np.array_equal(found, wanted)


def test_noise_without_black_errors_and_single_ones(rng: np.random.Generator) -> None:
    camera, quiet = CAMERAS["ILCE-7SM2"], SensorNoise(1.0, 1e-9, None, 0.0)
    dark = np.zeros((7, 9))
    assert (expose(dark, camera, ratio=1, iso=100, rng=rng, noise=quiet) == 512).all()
    off = replace(quiet, black_error=(3.0,))
    assert (expose(dark, camera, ratio=1, iso=100, rng=rng, noise=off) == 515).all()


def test_the_exposure_is_as_dark_as_asked_and_seeded(scene: Photo) -> None:
    camera = CAMERAS["ILCE-7SM2"]

    def make(seed: int, ratio: float) -> NDArray[np.uint16]:
        generator = np.random.default_rng(seed)
        return simulate_mosaic(scene, "ILCE-7SM2", ratio=ratio, iso=100, wb=WB, rng=generator)

    assert np.array_equal(make(1, 100), make(1, 100))
    assert not np.array_equal(make(1, 100), make(2, 100))
    bright, dark = (make(1, ratio).mean() - camera.black for ratio in (2, 20))
    assert bright / dark == pytest.approx(10, rel=0.05)


def test_exposure_is_clipped_to_the_sensors_range(rng: np.random.Generator) -> None:
    camera = CAMERAS["X-T2"]
    dn = expose(np.full((60, 60), 5.0), camera, ratio=1, iso=12800, rng=rng)
    assert dn.max() == camera.white
    assert dn.dtype == np.uint16
    deep = SensorNoise(1.0, 5000.0, None, 0.0)
    dn = expose(np.zeros((60, 60)), camera, ratio=1, iso=12800, rng=rng, noise=deep)
    assert dn.min() == 0


def test_scenes_are_sids(rng: np.random.Generator) -> None:
    scenes = [draw_scene("ILCE-7SM2", rng) for _ in range(300)]
    assert {scene.ratio for scene in scenes} == {100, 250, 300}
    assert {scene.iso for scene in scenes} <= set(iso_settings("ILCE-7SM2"))
    red, green, blue = np.array([scene.wb for scene in scenes]).T
    assert 1.7 < red.min() < 1.9 < 2.1 < red.max() < 2.5
    assert 1.7 < blue.min() < 2.2 < 2.7 < blue.max() < 3.2
    assert (green == 1).all()


def test_the_xt2_meets_the_same_lights(rng: np.random.Generator) -> None:
    """Its gains for a light differ from the A7S II's as their gains for daylight do."""
    red, green, blue = median_gains("X-T2")
    assert (red, green, blue) == pytest.approx((1.677, 1, 2.780), abs=0.001)
    assert median_gains("ILCE-7SM2") == pytest.approx((2.023, 1, 2.461), abs=0.001)
    assert {draw_scene("X-T2", rng).iso for _ in range(300)} <= set(iso_settings("X-T2"))


@pytest.mark.parametrize("name", NAMES)
def test_daylight_gains_are_those_of_libraw(day: Path, tmp_path: Path, name: CameraName) -> None:
    made = simulate_photo(day, tmp_path / f"x{ENDINGS[name]}", SimulateOptions(camera=name))
    frame = read_raw(made.long)
    assert frame.daylight_wb is not None
    assert np.allclose(frame.daylight_wb, daylight_gains(name), rtol=1e-3)
