"""The black level as a photo itself shows it, found before its picture is computed.

A level that is off by a DN or two is a cast over the whole amplified photo, and a network that sees
it paints other colours, which no later stage takes back. So where the level is not known well
enough, the network first sees the photo made small; what was measured then differs from what its
picture predicts by the level's error (`Residual`), among other things. With the level corrected it
sees more of the photo, and what is left of the error: so it is done again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gia_cli.enhance.crop import Binned
from gia_cli.enhance.measured import is_fused, training_matrix
from gia_cli.imaging.color import BT709_SLOPE
from gia_cli.imaging.fusion import Residual, measure
from gia_cli.inference.engine import Engine
from gia_cli.inference.fallback import Running
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.run import infer
from gia_cli.progress import SILENT, NotesOnly, Progress
from gia_cli.raw.calibrated_black import known_black_error
from gia_cli.raw.noise_estimate import noise_above
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.weights.storage import WeightsInfo

_ROUNDS = 3
# Errors of more usual ones than this are none, and where the second step is more than this share
# of the first, the picture just follows the level: the photo does not tell.
_MOST_SIGMAS, _MOST_LEFT = 2.5, 0.75
# BT.709 code values in the dark: usual errors that are smaller do not show, steps that are end it.
_VISIBLE, _SMALL_STEP = 1 / 255, 1 / 1000


def is_measured(
    frame: RawFrame, ratio: float, gains: NDArray[np.float32] | None, weights: WeightsInfo
) -> bool:
    """Tell whether a photo's black level is looked for: it would show, and can be found.

    Parameters
    ----------
    frame : RawFrame
    ratio, gains
        As `prepare` gets them.
    weights : WeightsInfo
        It takes some that are fused, and that do not see the photo clipped at black.
    """
    if gains is None or not is_fused(gains, weights) or weights.config.input_floor is not None:
        return False
    return shows(frame, ratio, gains)


def shows(frame: RawFrame, ratio: float, gains: NDArray[np.float32]) -> bool:
    """Tell whether an error of the black level that is usual for a frame would show."""
    _, sigma = known_black_error(frame)
    return BT709_SLOPE * ratio * float(gains.mean()) * sigma > _VISIBLE


def black_correction(
    running: Engine | Running,
    small: Binned,
    ratio: float,
    gains: NDArray[np.float32],
    noise: tuple[float, float],
    weights: WeightsInfo,
    options: InferOptions | None = None,
    progress: Progress = SILENT,
) -> float:
    """Find by how much a photo's black level lies above the likely one.

    Parameters
    ----------
    running : Engine or Running
    small : Binned
        The whole photo.
    ratio, gains
        As `prepare` gets them.
    noise : (gain, variance)
        As `frame_noise` returns them of the whole photo.
    weights : WeightsInfo
    options : InferOptions, optional
    progress : Progress
        Receives notes: of an engine that failed, say.

    Returns
    -------
    float
        DN, for `RawFrame.black_correction`; 0 where the photo does not tell.

    Raises
    ------
    OutOfMemoryError, WeightsError, DeviceError
        As `infer`.
    """
    frame, averaged = small
    matrix, floor = training_matrix(weights), weights.config.input_floor
    noise = noise[0] / averaged, noise[1] / averaged
    sigma = known_black_error(frame)[1] * float((frame.white - frame.black).mean())
    correction, before = 0.0, 0.0
    for number in range(_ROUNDS):
        seen = replace(frame, black_correction=correction)
        picture = infer(running, prepare(seen, ratio, gains, floor), options, NotesOnly(progress))
        measured = measure(seen, ratio, gains, matrix, noise_above(noise, correction))
        offset = Residual(picture, measured).offset
        step = sigma * float((offset / measured.black_sigma).mean())  # alike in all colours
        if number == 1:  # where equally shrinking steps lead
            left = step / before
            if left > _MOST_LEFT:
                return 0.0
            step /= 1 - max(left, 0.0)
        correction += step
        if abs(correction) > _MOST_SIGMAS * sigma:
            return 0.0
        if BT709_SLOPE * abs(float(offset.mean())) < _SMALL_STEP:
            break
        before = step
    return correction
