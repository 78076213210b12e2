"""A photo's noise, measured on the photo itself."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gia_cli.runtime import in_threads

_BLOCK = 16  # side of the blocks whose mean and noise are measured
_BINS = 24  # groups of blocks of similar brightness
_FLATTEST = 0.3  # share of a group that counts as free of texture
_LEAST = 1e-3  # DN, DN^2
# Median of a standard normal variable's magnitude, inverted: from a MAD to a sigma.
_SIGMA_OF_MAD = 1.4826


def estimate_noise(planes: NDArray[np.float32]) -> tuple[float, float]:
    """Estimate a frame's noise, ``variance = gain * mean + constant``, from itself.

    Blocks of similar brightness are grouped; the flattest of each group show its noise, filtered so
    that gradients vanish. A line is laid through the groups.

    Parameters
    ----------
    planes : (C, h, w) float32
        DN above black, at least 16 on a side.

    Returns
    -------
    gain : float
        DN per electron, above zero.
    constant : float
        DN^2, above zero.
    """
    found = in_threads(_block_noise, planes)
    means, variances = (np.concatenate(x) for x in zip(*found, strict=True))
    groups = [group for group in np.array_split(np.argsort(means), _BINS) if len(group)]
    flattest = [
        group[np.argsort(variances[group])[: max(round(len(group) * _FLATTEST), 1)]]
        for group in groups
    ]
    x, y = (
        np.array([np.median(values[group]) for group in flattest], np.float64)
        for values in (means, variances)
    )
    # The flattest of many estimates are also the luckiest: on flat noise they lie this much low.
    y = y / _luck()
    if np.ptp(x) <= 1e-3 * max(np.median(y), 1):  # of one brightness: there is no line to see
        return _LEAST, max(float(np.median(y)), _LEAST)
    # Weights against the noise of bright groups, whose variances scatter in proportion.
    slope, offset = np.polyfit(x, y, 1, w=1 / np.maximum(y, _LEAST))
    return max(float(slope), _LEAST), max(float(offset), _LEAST)


def noise_above(noise: tuple[float, float], black: float) -> tuple[float, float]:
    """Return what `estimate_noise` would have found, had a level lain higher by `black` DN."""
    gain, constant = noise
    return gain, max(constant + gain * black, _LEAST)


def _block_noise(plane: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and noise variance of each whole block."""
    # [1, -2, 1] both ways kills what is linear; its squares sum to 36.
    rows = plane[:-2] - 2 * plane[1:-1] + plane[2:]
    detail = (rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]) / 6
    blocks = _blocks(detail)
    mad = np.median(np.abs(blocks, out=blocks), axis=1, overwrite_input=True).astype(np.float64)
    means = _blocks(plane[1:-1, 1:-1]).mean(1, dtype=np.float64)
    return means, (_SIGMA_OF_MAD * mad) ** 2


def _blocks(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) to (count, side * side), whole blocks only."""
    side = min(_BLOCK, *plane.shape)
    rows, cols = (length // side for length in plane.shape)
    cut = plane[: rows * side, : cols * side].reshape(rows, side, cols, side)
    return cut.transpose(0, 2, 1, 3).reshape(rows * cols, -1)


@lru_cache(maxsize=1)
def _luck() -> float:
    """Median variance of the flattest blocks of pure noise, whose true variance is one."""
    noise = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    variances = np.sort(_block_noise(noise)[1])
    return float(np.median(variances[: round(len(variances) * _FLATTEST)]))
