"""LibRaw's orientation, spelt out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def orient(image: NDArray[np.uint16], flip: int) -> NDArray[np.uint16]:
    """Turn an image upright by LibRaw's flip bits: 1 mirror, 2 upside down, 4 transpose."""
    if flip & 2:
        image = image[::-1]
    if flip & 1:
        image = image[:, ::-1]
    if flip & 4:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image)
