"""Bring another camera's photos to the training camera's neutral, and its own colours back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CAMERA_MATRICES
from gia_cli.enhance.white_balance import WhiteBalance
from gia_cli.imaging.arrays import Array, in_bands, namespace, through
from gia_cli.imaging.color import (
    bt709_decode_in_place,
    bt709_encode_in_place,
    colors_of_another_camera,
)
from gia_cli.imaging.fusion import row_bands
from gia_cli.raw.packing import neutral_gains, usable_gains
from gia_cli.raw.reader import RawFrame
from gia_cli.weights.storage import WeightsInfo

# Gains closer to one than this are the same camera for any purpose.
_SAME_NEUTRAL = 0.005
# A mixing that differs less from none comes of rounding.
_SAME_COLORS = 0.005
# A file's matrix that needs more does not belong to a camera.
_LARGEST_MIXING = 2.5


def camera_gains(
    frame: RawFrame, weights: WeightsInfo, balance: WhiteBalance | None = None
) -> NDArray[np.float32] | None:
    """Find the factors for R, G and B that bring a photo to what the weights were trained on.

    Weights for balanced planes get the white balance that was asked for, by default the photo's
    own, which makes every camera's neutral alike. For the others a photo is brought to the neutral
    of their camera.

    A camera whose daylight multipliers LibRaw does not know is brought there by the photo's own
    white balance: what the camera called neutral then looks to the network like a grey card in the
    light of its training scenes. (Daylight would do for it as little as for a photo: the scenes
    were lit by lamps, and a network that never saw daylight paints it blue.)

    Returns
    -------
    (3,) float32 or None
        None when they are the same camera, or when the weights do not say what theirs was.

    Raises
    ------
    WhiteBalanceError
        The white balance asked for cannot be worked out for this camera.
    """
    if weights.config.white_balance == "as-shot":
        return usable_gains((balance or WhiteBalance("as-shot")).gains_for(frame))
    own, training = frame.daylight_wb, weights.daylight_wb
    if own is None:
        own, training = frame.as_shot_wb, weights.neutral_wb
    if training is None:
        return None
    gains = neutral_gains(own, np.asarray(training))
    return None if np.abs(gains - 1).max() < _SAME_NEUTRAL else gains


def camera_colors(frame: RawFrame, weights: WeightsInfo) -> NDArray[np.float64] | None:
    """Find the matrix, (3, 3), that gives the network's picture the colours of the photo's camera.

    A network has learned one camera's filters. Another's see a red rose as another mixture, which
    the white balance leaves as it is.

    Returns
    -------
    (3, 3) or None
        For linear light. None where the two cameras' colours are the same, where either is not
        known, and where the file's matrix is nonsense.
    """
    known = CAMERA_MATRICES.get(weights.camera or "")
    if known is None or frame.xyz_to_camera is None:
        return None
    try:
        with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros
            matrix = colors_of_another_camera(frame.xyz_to_camera, np.asarray(known))
    except np.linalg.LinAlgError:
        return None
    is_sane = bool(np.abs(matrix).max() < _LARGEST_MIXING)  # False for NaN too
    return matrix if is_sane and np.abs(matrix - np.eye(3)).max() > _SAME_COLORS else None


def recolor(picture: Array, matrix: NDArray[np.floating]) -> None:
    """Apply a matrix to the linear light of a BT.709-encoded (3, H, W) picture, in its place.

    What lies outside [0, 1] is clipped first, as it would be at the end: a red that overshoots
    white must not colour green and blue.
    """

    def change(rows: slice) -> None:
        linear = bt709_decode_in_place(namespace(picture).clip(picture[:, rows], 0, 1))
        picture[:, rows] = bt709_encode_in_place(through(matrix, linear))

    in_bands(change, row_bands(picture), picture)
