"""A photograph to the RAW file that a camera would have recorded at night.

The physics of the training data: undo the photograph's curve and colours, lay the camera's filters
over it, take away the light, add the sensor's noise. Source of the noise: see `noise`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gia_cli.cfa import CANONICAL, CfaKind
from gia_cli.color import camera_from_srgb, srgb_decode
from gia_cli.noise import SensorNoise, add_noise, fuji_xt2, sony_a7s2
from gia_cli.rawfile import A7S2_MATRIX, XT2_MATRIX

CameraName = Literal["ILCE-7SM2", "X-T2"]


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A camera whose nights can be simulated."""

    kind: CfaKind
    black: int
    white: int
    matrix: tuple[tuple[float, float, float], ...]
    """XYZ (D65) to camera."""
    noise: Callable[[int, np.random.Generator], SensorNoise]


CAMERAS: dict[CameraName, CameraModel] = {
    "ILCE-7SM2": CameraModel("bayer", 512, 16383, A7S2_MATRIX, sony_a7s2),
    "X-T2": CameraModel("xtrans", 1024, 16383, XT2_MATRIX, fuji_xt2),
}


def mosaic_from_linear(
    linear: NDArray[np.floating], camera: CameraModel, wb: tuple[float, float, float]
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
    to_camera = camera_from_srgb(np.array(camera.matrix)) / np.array(wb)[:, None]
    recorded = np.maximum(linear @ to_camera.T, 0)
    pattern = CANONICAL[camera.kind]
    height, width, _ = linear.shape
    period = pattern.shape[0]
    rows, cols = np.ogrid[:height, :width]
    sites = np.take_along_axis(recorded, pattern[rows % period, cols % period][..., None], 2)
    return sites[..., 0].astype(np.float32)


def expose(
    mosaic: NDArray[np.floating],
    camera: CameraModel,
    *,
    ratio: float,
    iso: int,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """Record a mosaic with 1/ratio of the light.

    Parameters
    ----------
    mosaic : (H, W) float
        Share of saturation at full exposure.
    camera : CameraModel
    ratio : float
        How much shorter the exposure is.
    iso : int
    rng : numpy Generator

    Returns
    -------
    (H, W) uint16
        DN, black level included, clipped to 0...white.
    """
    signal = np.minimum(mosaic, 1) * ((camera.white - camera.black) / ratio)
    recorded = add_noise(signal, camera.noise(iso, rng), rng) + camera.black
    return np.clip(np.rint(recorded), 0, camera.white).astype(np.uint16)


def night(
    photo: NDArray[np.uint8],
    camera_name: CameraName,
    *,
    ratio: float,
    iso: int,
    wb: tuple[float, float, float],
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
        DN, ready for `rawfile`.
    """
    camera = CAMERAS[camera_name]
    linear = srgb_decode(photo.astype(np.float32) / 255)
    return expose(mosaic_from_linear(linear, camera, wb), camera, ratio=ratio, iso=iso, rng=rng)
