"""How sure a mean of a measure is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of a mean by the percentile bootstrap (Efron 1979).

    Parameters
    ----------
    values : (n,) float
        One for each picture.
    groups : sequence of n names, optional
        The scene of each picture. Pictures of one scene are not independent, so whole scenes are
        drawn. By default each picture is a scene.
    level : float in (0, 1)
        Share of resampled means inside.
    draws : int
        How often to resample, with replacement.
    seed : int
        The same seed gives the same interval.

    Returns
    -------
    low, high : float
        Both equal to the value if there is only one.

    Raises
    ------
    ValueError
        No values, not a list of finite numbers, another number of groups, or `level` or `draws` out
        of range.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError("a bootstrap needs a list of finite numbers, and at least one")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"no bootstrap with level {level} and {draws} draws")
    names = list(range(sample.size)) if groups is None else list(groups)
    if len(names) != sample.size:
        raise ValueError(f"{len(names)} groups for {sample.size} values")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    member = [numbers[name] for name in names]
    totals, sizes = np.bincount(member, sample), np.bincount(member)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(totals), size=len(totals)) for _ in range(draws))
    means = [totals[scenes].sum() / sizes[scenes].sum() for scenes in drawn]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap_interval(
    first: ArrayLike,
    second: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of the mean of ``first - second``, measured on the same pictures.

    Much narrower than two intervals apart, for what makes a picture hard is hard for both.

    Parameters
    ----------
    first, second : (n,) float
        The same pictures in the same order.
    level, draws, seed
        As `bootstrap_interval`.

    Returns
    -------
    low, high : float
        Without 0 between them, the difference is significant at that level.

    Raises
    ------
    ValueError
        The lengths differ, or as `bootstrap_interval`.

    Examples
    --------
    Better on every picture, however much the pictures differ from each other:

    >>> low, high = paired_bootstrap_interval([20.1, 30.2, 40.3], [20.0, 30.0, 40.0])
    >>> 0.1 <= low <= 0.2 <= high <= 0.3
    True
    """
    ours, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"pairs need equal lengths, not {ours.shape} and {theirs.shape}")
    return bootstrap_interval(ours - theirs, level=level, draws=draws, seed=seed)
