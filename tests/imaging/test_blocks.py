from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.imaging.blocks import block_means


@pytest.mark.parametrize("shape", [(12, 12), (13, 17), (13, 17, 3)])
@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_each_block_is_its_mean_and_remainders_are_left_out(
    rng: np.random.Generator, shape: tuple[int, ...], side: int, dtype: type
) -> None:
    values: NDArray[Any] = rng.uniform(0, 65535, shape).astype(dtype)
    found = block_means(values, side)
    assert found.dtype == np.float32
    assert found.shape == (shape[0] // side, shape[1] // side, *shape[2:])
    for y, x in np.ndindex(found.shape[:2]):
        block = values[side * y : side * (y + 1), side * x : side * (x + 1)]
        assert found[y, x] == pytest.approx(block.mean(axis=(0, 1), dtype=np.float64), rel=1e-6)


def test_16_bit_levels_are_not_added_up_in_16_bits() -> None:
    assert block_means(np.full((4, 4), 65535, np.uint16), 4).item() == 65535
