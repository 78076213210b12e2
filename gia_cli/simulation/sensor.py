"""A sensor in near darkness, and the scenes of SID.

The physics of the training data: undo the photograph's curve and colours, lay the camera's filters
over it, take away the light, add the sensor's noise. Source of the noise: see `simulation.noise`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import A7S2_MATRIX, XT2_MATRIX, CameraName, WhiteBalance
from gia_cli.imaging.color import XYZ_FROM_SRGB, camera_from_srgb, srgb_decode
from gia_cli.raw.cfa import CANONICAL, CfaKind
from gia_cli.sensor_table import nearest_iso
from gia_cli.simulation.noise import SensorNoise, add_noise, fuji_xt2, sony_a7s2


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A camera whose scenes can be simulated."""

    name: CameraName
    kind: CfaKind
    black: int
    white: int
    matrix: tuple[tuple[float, float, float], ...]
    """XYZ (D65) to camera."""
    noise: Callable[[int, np.random.Generator], SensorNoise]


CAMERAS: dict[CameraName, CameraModel] = {
    "ILCE-7SM2": CameraModel("ILCE-7SM2", "bayer", 512, 16383, A7S2_MATRIX, sony_a7s2),
    "X-T2": CameraModel("X-T2", "xtrans", 1024, 16383, XT2_MATRIX, fuji_xt2),
}


def mosaic_from_linear(
    linear: NDArray[np.floating], camera: CameraModel, wb: WhiteBalance
) -> NDArray[np.float32]:
    """Lay a camera's filters over a picture.

    Parameters
    ----------
    linear : (H, W, 3) float
        Linear sRGB, 1 = white.
    camera : CameraModel
    wb : (r, g, b)
        White balance gains of the light; the camera records a white surface as ``1 / wb``.

    Returns
    -------
    (H, W) float32
        Share of saturation, in the canonical phase from the first photosite on.
    """
    height, width, _ = linear.shape
    cell = filter_weights(camera, wb)
    period = len(cell)
    # Only the colour that a photosite records is worked out, a third of a matrix product. Whole
    # rows of one phase at a time: loops over single places of the cell would be short and slow.
    weights = cell[:, np.arange(width) % period]  # (p, W, 3)
    mosaic = np.empty((height, width), np.float32)
    for phase in range(min(period, height)):
        light, sites = linear[phase::period], mosaic[phase::period]
        np.multiply(light[..., 0], weights[phase, :, 0], out=sites, casting="same_kind")
        sites += light[..., 1] * weights[phase, :, 1]
        sites += light[..., 2] * weights[phase, :, 2]
    return np.maximum(mosaic, 0, out=mosaic)


def filter_weights(camera: CameraModel, wb: WhiteBalance) -> NDArray[np.float32]:
    """How much of linear sRGB each photosite of the cell records under a light.

    Parameters
    ----------
    camera : CameraModel
    wb : (r, g, b)
        White balance gains of the light.

    Returns
    -------
    (p, p, 3) float32
        Of the canonical phase; 1 / wb in all for white.
    """
    to_camera = camera_from_srgb(np.array(camera.matrix)) / np.array(wb)[:, None]
    weights: NDArray[np.float32] = to_camera.astype(np.float32)[CANONICAL[camera.kind]]
    return weights


def expose(
    mosaic: NDArray[np.floating],
    camera: CameraModel,
    *,
    ratio: float,
    iso: int,
    rng: np.random.Generator,
    noise: SensorNoise | None = None,
) -> NDArray[np.uint16]:
    """Record a mosaic with 1/ratio of the light.

    Parameters
    ----------
    mosaic : (H, W) float
        Share of saturation at full exposure, in the canonical phase; may exceed 1, where only the
        full exposure saturates.
    camera : CameraModel
    ratio : float
        How much shorter the exposure is.
    iso : int
    rng : numpy Generator
    noise : SensorNoise, optional
        The sensor's noise, for several crops of one frame; drawn for the ISO by default.

    Returns
    -------
    (H, W) uint16
        DN, black level included, clipped to 0...white.
    """
    if noise is None:
        noise = camera.noise(iso, rng)
    signal = np.multiply(mosaic, (camera.white - camera.black) / ratio, dtype=np.float32)
    recorded = add_noise(signal, noise, rng)
    levels = camera.black + black_errors(camera.kind, noise)
    period = levels.shape[0]
    row = levels[:, np.arange(mosaic.shape[1]) % period]
    for phase in range(min(period, mosaic.shape[0])):
        recorded[phase::period] += row[phase]
    np.rint(recorded, out=recorded)
    np.clip(recorded, 0, camera.white, out=recorded)
    return recorded.astype(np.uint16)


def black_errors(kind: CfaKind, noise: SensorNoise) -> NDArray[np.float32]:
    """Return the black level error of each place of the cell, DN: (p, p), or (1, 1) for none."""
    errors = np.array(noise.black_error or (0,), np.float32)
    if len(errors) == 1:
        return errors[:, None]
    return errors.reshape(2, 2) if kind == "bayer" else errors[CANONICAL[kind]]


# ---------------------------------------------------------------- scenes


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """The circumstances of a simulated short exposure."""

    iso: int
    ratio: float
    """How much too short the exposure is."""
    wb: WhiteBalance
    """White balance gains (r, g, b) of the light, the smallest 1: so white saturates no photosite
    before all the others, and LibRaw, which scales gains so, renders no brighter."""


@dataclass(frozen=True, slots=True)
class _SidScene:
    iso: int
    wb: WhiteBalance
    ratios: tuple[float, ...]
    """The ratio of each short exposure, capped at 300."""


def draw_scene(camera: CameraName, rng: np.random.Generator) -> SceneSettings:
    """Draw a scene as they are distributed in SID: one of its 161 Sony training scenes.

    ISO and light stay together as they were, and the ratio is that of one of the scene's short
    exposures: what SID's own training draws. For another camera the light is translated by the two
    cameras' daylight, and the ISO to its nearest setting.

    Parameters
    ----------
    camera : "ILCE-7SM2" or "X-T2"
    rng : numpy Generator
    """
    scenes = sid_scenes()
    scene = scenes[int(rng.integers(len(scenes)))]
    ratio = scene.ratios[int(rng.integers(len(scene.ratios)))]
    return SceneSettings(nearest_iso(camera, scene.iso), ratio, translated(scene.wb, camera))


def daylight_gains(camera: CameraName) -> WhiteBalance:
    """White balance gains under which daylight (D65) is neutral, green 1, as LibRaw derives them.

    The camera's response to white is its matrix times XYZ of sRGB white; the gains undo it.
    """
    response = (np.array(CAMERAS[camera].matrix) @ XYZ_FROM_SRGB).sum(axis=1)
    red, _, blue = (response[1] / response).tolist()
    return red, 1.0, blue


def median_gains(camera: CameraName) -> WhiteBalance:
    """White balance gains of the median scene, green 1: the light that a network saw most."""
    red, _, blue = np.median([scene.wb for scene in sid_scenes()], axis=0).tolist()
    return translated((red, 1.0, blue), camera)


def translated(wb: WhiteBalance, camera: CameraName) -> WhiteBalance:
    """Turn the A7S II's gains for a light into another camera's."""
    if camera == "ILCE-7SM2":
        return wb
    (own_red, _, own_blue), (red, _, blue) = daylight_gains(camera), daylight_gains("ILCE-7SM2")
    return wb[0] * own_red / red, 1.0, wb[2] * own_blue / blue


@lru_cache(maxsize=1)
def sid_scenes() -> list[_SidScene]:
    """Read the circumstances of SID's Sony training scenes."""
    path = resources.files("gia_cli") / "calibration" / "sid_sony.json"
    return [
        _SidScene(
            iso=iso,
            wb=(red, 1.0, blue),
            ratios=tuple(float(ratio) for ratio, shots in ratios for _ in range(shots)),
        )
        for iso, red, blue, ratios in json.loads(path.read_text(encoding="utf-8"))["scenes"]
    ]


# ---------------------------------------------------------------- one exposure


def simulate_mosaic(
    photo: NDArray[np.uint8],
    camera_name: CameraName,
    *,
    ratio: float,
    iso: int,
    wb: WhiteBalance,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """Simulate the short exposure of a photograph.

    Parameters
    ----------
    photo : (H, W, 3) uint8
        sRGB.
    camera_name : "ILCE-7SM2" or "X-T2"
    ratio, iso, wb, rng
        As for `expose` and `mosaic_from_linear`.

    Returns
    -------
    (H, W) uint16
        DN, ready for `raw.writer`.
    """
    camera = CAMERAS[camera_name]
    linear = srgb_decode(photo.astype(np.float32) / 255)
    return expose(mosaic_from_linear(linear, camera, wb), camera, ratio=ratio, iso=iso, rng=rng)


def scaled(wb: WhiteBalance) -> WhiteBalance:
    """Scale white balance gains so that the smallest is 1."""
    red, green, blue = (gain / min(wb) for gain in wb)
    return red, green, blue
