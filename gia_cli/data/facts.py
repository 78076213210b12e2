"""What one number for a whole photo would mend: the facts of a night that a vector should tell.

Most of what is left of a network's error is the same all over a photo: a black level that is off by
a DN, a light that is not the usual one. A simulated night's are known.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gia_cli.simulation.noise import SensorNoise

#: Number of facts: the black level error, the light's red and blue, the read noise.
FACTS = 4

# From the facts' own units to numbers around 0.5 that pass a leaky ReLU unharmed: within [0, 1], if
# need be by force. (That befalls the noise of one training night in ten, those with hardly any.) Of
# a light beyond that range, as daylight's is, nothing is asked: a wrong number would be learned.
_BLACK_SCALE = 8.0
_LIGHT_SCALE = 1.5
_NOISE_SCALE, _USUAL_LOG_NOISE = 0.2, -2.8
_LIGHT = slice(1, 3)


def unknown_facts() -> NDArray[np.float32]:
    """Return (FACTS,) NaN: of a real photo nobody knows them."""
    return np.full(FACTS, np.nan, np.float32)


def night_facts(
    noise: SensorNoise, amplification: float, light: NDArray[np.floating] | None
) -> NDArray[np.float32]:
    """Put a night's facts into numbers between 0 and 1.

    Parameters
    ----------
    noise : SensorNoise
    amplification : float
        From DN to what the network is given of green: ratio over (white level - black level).
    light : (3,) or None
        White balance gains of the light (R, G, B) relative to the camera's usual ones; None where
        the network is given gains to follow, whatever the light.

    Returns
    -------
    (FACTS,) float32
        Black level error, mean of the colours; red and blue of the light; read noise. 0.5 stands
        for no error, the usual light, and a noise of 6 % of white. NaN for a red or blue that is
        not asked for, or too far off to be told.
    """
    black = float(np.mean(noise.black_error)) if noise.black_error else 0.0
    red = blue = math.nan
    if light is not None:
        red, blue = math.log(light[0] / light[1]), math.log(light[2] / light[1])
    sigma = math.sqrt(noise.read_variance) * amplification
    told = np.array(
        [
            _BLACK_SCALE * black * amplification,
            _LIGHT_SCALE * red,
            _LIGHT_SCALE * blue,
            _NOISE_SCALE * (math.log(max(sigma, 1e-6)) - _USUAL_LOG_NOISE),
        ]
    )
    facts: NDArray[np.float32] = np.clip(0.5 + told, 0, 1).astype(np.float32)
    light_facts = 0.5 + told[_LIGHT]
    facts[_LIGHT] = np.where((light_facts < 0) | (light_facts > 1), np.nan, light_facts)
    return facts
