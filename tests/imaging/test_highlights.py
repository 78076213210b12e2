"""Highlights: what the sensor measured above white comes back, and a shoulder makes room for it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.cameras import CameraName
from gia_cli.errors import UsageError
from gia_cli.imaging.color import bt709_decode, bt709_encode
from gia_cli.imaging.highlights import Highlights, Shoulder, restore_highlights
from tests.imaging.test_fusion import RATIO, cameras, encoded, measured, record

LAMP = (slice(60, 120), slice(84, 168))


def scene_with_lamp(brightest: float) -> NDArray[np.float32]:
    """A dim wall and, on it, a warm lamp that grows brighter from left to right; linear sRGB."""
    linear = np.full((180, 252, 3), 0.2, np.float32)
    width = LAMP[1].stop - LAMP[1].start
    glow = np.linspace(1.5, brightest, width, dtype=np.float32)
    linear[LAMP] = glow[None, :, None] * np.array([1.0, 0.8, 0.6], np.float32)
    return linear


@cameras
def test_a_lamp_gets_its_shape_and_colour_back(camera: CameraName) -> None:
    linear = scene_with_lamp(brightest=8)
    picture = encoded(np.minimum(linear, 1))
    peak = restore_highlights(picture, measured(record(linear, camera), camera), RATIO)
    inside = np.zeros(linear.shape[:2], np.bool_)
    inside[66:114, 90:162] = True
    restored = bt709_decode(picture).transpose(1, 2, 0)
    np.testing.assert_allclose(restored[inside], linear[inside], rtol=0.03)
    assert peak == pytest.approx(8, rel=0.03)


@cameras
def test_what_is_not_bright_stays_as_it_is(camera: CameraName) -> None:
    linear = scene_with_lamp(brightest=8)
    picture = encoded(np.minimum(linear, 1))
    before = picture.copy()
    restore_highlights(picture, measured(record(linear, camera), camera), RATIO)
    wall = np.ones(linear.shape[:2], np.bool_)
    wall[LAMP] = False
    np.testing.assert_array_equal(picture[:, wall], before[:, wall])


@cameras
def test_a_scene_below_white_stays_as_it_is(camera: CameraName) -> None:
    linear = np.full((96, 144, 3), 0.5, np.float32)
    picture = encoded(linear)
    before = picture.copy()
    assert restore_highlights(picture, measured(record(linear, camera), camera), RATIO) == 1
    np.testing.assert_array_equal(picture, before)


@cameras
def test_what_saturates_the_sensor_is_white_and_the_brightest(camera: CameraName) -> None:
    linear = scene_with_lamp(brightest=8)
    linear[80:100, 100:150] = 10 * RATIO * np.array([1.0, 0.8, 0.6])
    picture = encoded(np.minimum(linear, 1))
    peak = restore_highlights(picture, measured(record(linear, camera), camera), RATIO)
    core = bt709_decode(picture[:, 86:94, 110:140])
    np.testing.assert_allclose(core, RATIO, rtol=0.01)
    assert peak == pytest.approx(RATIO, rel=0.01)


def test_noise_is_averaged_and_not_let_in(rng: np.random.Generator) -> None:
    linear = scene_with_lamp(brightest=1.5)
    frame = record(linear, "ILCE-7SM2")
    noisy = rng.normal(frame.mosaic, 60).clip(0).astype(np.uint16)
    np.copyto(frame.mosaic, noisy)
    what = measured(frame, "ILCE-7SM2")
    what.constant[:] = (60 * what.scale[0, 1]) ** 2
    picture = encoded(np.minimum(linear, 1))
    restore_highlights(picture, what, RATIO)
    green = bt709_decode(picture[1, 76:104, 100:152])
    alone = 60 * what.scale[0, 1]  # what a single green photosite scatters by
    assert green.mean() == pytest.approx(1.2, rel=0.1)
    assert green.std() < alone / 2.5


# ---------------------------------------------------------------- the shoulder


def test_without_anything_above_white_the_shoulder_changes_nothing() -> None:
    picture = np.linspace(-0.1, 1, 600, dtype=np.float32).reshape(3, 200)
    bent = Shoulder.of(Highlights(1), peak=1)(picture)
    np.testing.assert_allclose(bent, picture, atol=1e-6)


@pytest.mark.parametrize("peak", [1.2, 8, 300])
@pytest.mark.parametrize("amount", [0.2, 1])
def test_the_shoulder_rises_from_the_knee_to_white(amount: float, peak: float) -> None:
    light = np.geomspace(1e-3, peak, 400, dtype=np.float32)
    encoded_light = bt709_encode(np.stack([light, light, light]))
    bent = Shoulder.of(Highlights(amount), peak)(encoded_light)
    knee = 1 - amount / 2
    below = encoded_light[0] < knee
    np.testing.assert_array_equal(bent[:, below], encoded_light[:, below])
    assert (np.diff(bent[0]) > 0).all()
    assert bent.max() == pytest.approx(1, abs=1e-5)


def test_the_shoulder_keeps_hue() -> None:
    color = np.array([6.0, 3.0, 1.5], np.float32)
    bent = bt709_decode(Shoulder.of(Highlights(1), peak=6)(bt709_encode(color[:, None])))
    np.testing.assert_allclose(bent[:, 0] / bent[0, 0], color / 6, rtol=1e-4)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan"), "much"])
def test_only_amounts_from_none_to_all(amount: float) -> None:
    with pytest.raises(UsageError, match="--highlights"):
        Highlights(amount)
