"""What the sensor measured, brought back into the network's picture: when, and with what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CAMERA_MATRICES
from gia_cli.imaging.fusion import (
    NO_SHARES,
    Grain,
    fuse,
    measure,
)
from gia_cli.raw.packing import usable_gains
from gia_cli.raw.reader import RawFrame
from gia_cli.runtime import Quality as Quality
from gia_cli.weights.storage import WeightsInfo


def fuse_measured(
    picture: NDArray[np.float32],
    frame: RawFrame,
    ratio: float,
    gains: NDArray[np.float32] | None,
    weights: WeightsInfo,
    grain: Grain | None = None,
    *,
    noise: tuple[float, float] | None = None,
    black_error: NDArray[np.floating] | None = None,
) -> None:
    """Fuse a network's picture with what the sensor measured; in its place.

    For weights that come without shares, or that infer the light, only grain is left: without gains
    a measurement has no colours to compare.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded.
    frame, ratio, gains
        As `prepare` got them.
    weights : WeightsInfo
    grain : Grain, optional
    noise : (gain, variance), optional
        As `frame_noise` returns them; by default this frame's.
    black_error : (3,), optional
        As `Residual.offset`; by default this frame's.
    """
    if not is_fused(gains, weights) and grain is None:
        return
    shares = weights.fusion if is_fused(gains, weights) else None
    if gains is None:
        gains = usable_gains(frame.as_shot_wb)
    measured = measure(frame, ratio, gains, training_matrix(weights), noise)
    if black_error is not None:
        measured = replace(measured, black_error=np.asarray(black_error, np.float64))
    fuse(picture, measured, shares or NO_SHARES, grain, is_clipped=False)


def is_fused(gains: NDArray[np.float32] | None, weights: WeightsInfo) -> bool:
    """Tell whether a picture is fused: it has shares, and colours that can be compared."""
    is_known = (weights.camera or "") in CAMERA_MATRICES
    return weights.fusion is not None and gains is not None and is_known


def training_matrix(weights: WeightsInfo) -> NDArray[np.float64]:
    """Return the colour matrix of the camera that a network was trained for, (3, 3)."""
    return np.array(CAMERA_MATRICES.get(weights.camera or "", CAMERA_MATRICES["ILCE-7SM2"]))
