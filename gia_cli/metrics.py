"""How close two pictures are, one function for each measure.

Pictures are float arrays or tensors' NumPy views in [0, 1]; every measure names its own curve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def psnr(picture: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    """Peak signal-to-noise ratio in dB for a range of 1; infinite for equal pictures.

    Parameters
    ----------
    picture, target : the same shape, float
        Both in the same encoding; clip the picture before.
    """
    error = float(np.mean(np.square(np.asarray(picture, np.float64) - target)))
    return float("inf") if error == 0 else -10 * float(np.log10(error))
