"""The auxiliary targets of a scene: what one number for a whole photo could correct.

Most of a network's remaining error is the same in the whole photo: a black level that is off by a
DN, or an unusual light. For a simulated exposure both are known.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gia_cli.simulation.noise import SensorNoise

#: Number of auxiliary targets: the black level error, the light's red and blue, the read noise.
AUXILIARY = 4

# From the targets' own units to numbers around 0.5 that pass a leaky ReLU unchanged. They are
# clipped to [0, 1], which concerns the noise of one training scene in ten, those with hardly any. A
# light beyond that range, as daylight's is, is left out: a wrong number would be learned.
_BLACK_SCALE = 8.0
_LIGHT_SCALE = 1.5
_NOISE_SCALE, _USUAL_LOG_NOISE = 0.2, -2.8
_LIGHT = slice(1, 3)


def unknown_targets() -> NDArray[np.float32]:
    """Return (AUXILIARY,) NaN: they are not known for real photos."""
    return np.full(AUXILIARY, np.nan, np.float32)


def auxiliary_targets(
    noise: SensorNoise,
    amplification: float,
    light: NDArray[np.floating] | None,
    known_black: float = 0.0,
) -> NDArray[np.float32]:
    """Put a scene's auxiliary targets into numbers between 0 and 1.

    Parameters
    ----------
    noise : SensorNoise
    amplification : float
        From DN to the network's input of green: ratio over (white level - black level).
    light : (3,) or None
        White balance gains of the light (R, G, B) relative to the camera's usual ones; None where
        the network gets gains to follow, whatever the light.
    known_black : float
        How much of the black level error is known, DN, and so not in the network's input.

    Returns
    -------
    (AUXILIARY,) float32
        Black level error, mean of the colours; red and blue of the light; read noise. 0.5 stands
        for no error, the usual light, and a noise of 6 % of white. NaN for a red or blue that is
        not asked for, or too far off to be estimated.
    """
    black = noise.mean_black_error - known_black
    red = blue = math.nan
    if light is not None:
        red, blue = math.log(light[0] / light[1]), math.log(light[2] / light[1])
    sigma = math.sqrt(noise.read_variance) * amplification
    values = np.array(
        [
            _BLACK_SCALE * black * amplification,
            _LIGHT_SCALE * red,
            _LIGHT_SCALE * blue,
            _NOISE_SCALE * (math.log(max(sigma, 1e-6)) - _USUAL_LOG_NOISE),
        ]
    )
    auxiliary: NDArray[np.float32] = np.clip(0.5 + values, 0, 1).astype(np.float32)
    light_targets = 0.5 + values[_LIGHT]
    auxiliary[_LIGHT] = np.where((light_targets < 0) | (light_targets > 1), np.nan, light_targets)
    return auxiliary
