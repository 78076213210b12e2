"""The black level that a photo most likely has, which is not quite what its file says.

What the file says, or the user, is `levels`'s.

A camera writes a round number, and the sensor's true level lies a DN or two off, another one at
each ISO setting. Amplified a hundred times that is a cast over the whole picture. It hardly differs
between two cameras of one model: what was measured of one serves the others.
"""

from __future__ import annotations

from math import log2

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CameraName
from gia_cli.raw.reader import RawFrame
from gia_cli.sensor_table import BODY_SIGMA, nearest_row

#: A black level error of this size is usual where nothing is known of a camera, as a share of
#: white - black: 1.6 DN of 14 bits, the RMS of the A7S II's over its ISO settings (Feng et al.
#: 2022).
UNKNOWN_SIGMA = 1e-4

_MODEL: CameraName = "ILCE-7SM2"
_OWN_FILES = (".arw", "")  # no DNG; bytes that came without a name
_BLACK = 512  # DN; what the file of the camera that was measured said
_ISO_STOPS = 0.2  # farther than this from a setting that was measured, nothing is known


def known_black_error(frame: RawFrame) -> tuple[float, float]:
    """Estimate how far a frame's black level lies above what its file says, and how surely.

    Returns
    -------
    mean, sigma : float
        Shares of white - black. Known of the A7S II's own files, if they say what is usual; else 0
        and `UNKNOWN_SIGMA`. A DNG's levels are its writer's, who may have known better.
    """
    shot = frame.shot
    span = float((frame.white - frame.black).mean())
    is_own = frame.colors is None and frame.path.suffix.lower() in _OWN_FILES
    is_known = (
        is_own and shot.model == _MODEL and np.all(frame.black == _BLACK) and (shot.iso or 0) > 0
    )
    if not is_known or shot.iso is None:
        return 0.0, UNKNOWN_SIGMA
    row = nearest_row(_MODEL, shot.iso)
    if abs(log2(shot.iso / row[0])) > _ISO_STOPS:
        return 0.0, UNKNOWN_SIGMA
    return row[-1] / span, BODY_SIGMA / span


def likely_black(frame: RawFrame) -> NDArray[np.float32]:
    """Return the black level to subtract: (p, p) float32, DN, of each place of the cell."""
    mean, _ = known_black_error(frame)
    black: NDArray[np.float32] = frame.black + np.float32(mean) * (frame.white - frame.black)
    return black + np.float32(frame.black_correction)
