"""RawFrame and ratio to network input: the one door into any network.

Training, evaluation and use all come through here, so that they cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gia_cli.raw.calibrated_black import likely_black
from gia_cli.raw.cfa import PACK_FACTOR, PLANE_COLORS, Alignment, CfaKind, align, pack, plane_values
from gia_cli.raw.reader import RawFrame


@dataclass(frozen=True, slots=True, eq=False)
class PackedMosaic:
    """What a network sees, and how to cut its picture back to the frame."""

    planes: NDArray[np.float32] = field(repr=False)
    """(C, h, w) float32, at most 1 and, clipped at black, at least 0; plane order as
    `cfa.pack`."""
    kind: CfaKind
    height: int
    """Photosites of the frame, before alignment."""
    width: int
    alignment: Alignment

    def crop(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cut a (3, s*h, s*w) picture back to the frame's own (3, height, width); a view."""
        top, left = self.alignment.top, self.alignment.left
        return picture[:, top : top + self.height, left : left + self.width]


def prepare(
    frame: RawFrame,
    ratio: float,
    gains: NDArray[np.float32] | None = None,
    floor: int | None = 0,
) -> PackedMosaic:
    """Turn a frame into network input: ``min(max(raw - black, 0) / (white - black) * ratio, 1)``.

    The SID and GIA-Net protocol (Chen et al. 2018, section 3.2; Meng et al. 2020): no white
    balance, clipped to [0, 1] after the amplification. Later RAW denoisers do not clip at black:
    where the signal is at or below the noise, that costs information and shifts the mean. Nor is
    the file's black level then taken at its word, but the likely one (`likely_black`).

    Parameters
    ----------
    frame : RawFrame
    ratio : float
        Amplification.
    gains : (3,) float32, optional
        Factors for R, G and B that bring this camera to the one a network was trained for
        (`neutral_gains`), or that balance it.
    floor : 0 or None
        0: the published protocol, the file's black level and clipped there. None: the likely black
        level, and nothing is clipped below it. See `NetConfig.input_floor`.

    Returns
    -------
    PackedMosaic
    """
    aligned, alignment = align(frame.mosaic, frame.phase, frame.kind)
    planes = pack(aligned, frame.kind, np.float32)
    black, scale = plane_levels(frame, ratio, gains, floor)
    for plane, plane_black, plane_scale in zip(planes, black, scale, strict=True):
        plane -= plane_black
        plane *= plane_scale
        np.clip(plane, floor, 1, out=plane)
    height, width = frame.mosaic.shape
    return PackedMosaic(planes, frame.kind, height, width, alignment)


def plane_levels(
    frame: RawFrame,
    ratio: float,
    gains: NDArray[np.float32] | None = None,
    floor: int | None = 0,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find what `prepare` subtracts from each plane, and what it multiplies it by then.

    Parameters as for `prepare`; of the frame the levels and what is known of the camera count.

    Returns
    -------
    black, scale : (C,) float32
    """
    level = frame.black if floor == 0 else likely_black(frame)
    black, white = (plane_values(of, frame.kind, frame.phase) for of in (level, frame.white))
    color_gains = np.ones(3, np.float32) if gains is None else gains
    return black, ratio * color_gains[list(PLANE_COLORS[frame.kind])] / (white - black)


def picture_shape(mosaic: PackedMosaic) -> tuple[int, int, int]:
    """Shape (3, s*h, s*w) of the picture that a network makes of these planes."""
    factor = PACK_FACTOR[mosaic.kind]
    _, height, width = mosaic.planes.shape
    return 3, height * factor, width * factor


def usable_gains(wb: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale white balance gains so that what saturates the sensor is white.

    Parameters
    ----------
    wb : (3,)
        Gains of R, G and B.

    Returns
    -------
    (3,) float32
        Green 1, or more where red or blue would be less than 1: then the smallest is 1. A saturated
        photosite is at least 1 with each of them, and LibRaw scales its gains so too.
    """
    relative = np.asarray(wb, np.float64) / wb[1]
    usable: NDArray[np.float32] = (relative / min(relative.min(), 1)).astype(np.float32)
    return usable


def neutral_gains(
    daylight_wb: NDArray[np.floating], training_daylight_wb: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Find the factors that match one camera's neutral to another's.

    A grey card in daylight reads ``1 / daylight_wb`` on each camera; multiplying by the quotient
    makes both read alike. The remaining difference of the cameras can be corrected in the network's
    picture (`colors_of_another_camera`).

    Parameters
    ----------
    daylight_wb : (3,)
        Daylight multipliers of the photo's camera, green 1.
    training_daylight_wb : (3,)
        The same of the training camera.

    Returns
    -------
    (3,) float32
        Factors for R, G and B; green is 1, so exposure does not change.
    """
    gains = np.asarray(daylight_wb, np.float64) / np.asarray(training_daylight_wb, np.float64)
    relative: NDArray[np.float32] = (gains / gains[1]).astype(np.float32)
    return relative
