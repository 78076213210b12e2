"""What is left in a picture's flat places: noise of its lightness and of its colour, by scale.

On a grey wall nothing hides grain, mottle and blotches. Averages over a whole picture hardly see
them: mottle of 20 to 60 px weighs little beside the edges that are missing elsewhere. Here the
picture's error is split into bands of scale, and each is measured where the ground truth is flat.
Pictures are as in `fidelity`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gia_cli.imaging.color import bt709_decode, lab_from_srgb
from gia_cli.metrics.fidelity import Picture, require_alike

Plane = NDArray[np.float32]
Grid = tuple[range, range]
"""Rows and columns, in px, of the places at which a band is measured."""

#: Sides in px of the averages; two neighbours are the ends of a band.
SCALES = (1, 2, 8, 32, 128)
BANDS = tuple(pairwise(SCALES))
#: What `flat_noise` measures: ``flat_luma_1_2``, ..., ``flat_chroma_32_128``, and the shares.
NAMES = tuple(
    f"flat_{what}_{fine}_{coarse}" for what in ("luma", "chroma", "share") for fine, coarse in BANDS
)

#: Up to which RMS, in units of CIELAB, the truth's own bands count as flat. Truths have a grain of
#: about 1 themselves, so less leaves hardly a place. More counts lost texture as noise: from 1.5 to
#: 2.5, mottle grows by a tenth in a noisy picture, by a quarter or more in a clean one.
FLAT = 2.0

# Fewer places do not make an RMS, and a smaller part does not stand for a picture.
_LEAST_PLACES, _LEAST_SHARE = 30, 0.01
# One pixel in 3x3 is measured, of the coarsest band one in 15x15: a mean of squares needs no more.
# Odd steps meet every phase of the grids of 2, 4, 8, ... px that networks leave.
_STEP, _COARSEST_STEP = 3, 15
# Narrower windows, in px, hold too few of these pixels to tell whether they are flat.
_LEAST_WINDOW = 16


def averaging_taps(scale: int) -> NDArray[np.float64]:
    """Build the weights of an average over `scale` px, along rows as along columns.

    A sinusoid with a period of `scale` keeps half of its amplitude. Above 2 px the weights are a
    Hann window of that width: one of twice the period keeps 0.85; of a half, a third, ... nothing.

    Parameters
    ----------
    scale : int
        1 (no average), 2 (three taps), or an even number.

    Returns
    -------
    (n,) float64
        Symmetric, `n` odd, none negative, with the sum 1.
    """
    if scale == 1:
        return np.ones(1)
    if scale == 2:
        # Of three taps the only ones that halve the period of 2 px; a Hann window would have one.
        return np.array([1, 6, 1]) / 8
    offsets = np.arange(1 - scale // 2, scale // 2)
    hann: NDArray[np.float64] = (1 + np.cos(2 * np.pi * offsets / scale)) / scale
    return hann


def band_gain(fine: int, coarse: int) -> float:
    """Compute what the difference of two averages leaves of the sinusoid in the middle of the band.

    Bands are divided by it, so that this sinusoid is measured with its own amplitude: with a period
    of 4, 16 or 64 px, along rows or columns. In the middle of 1 and 2 px is the checkerboard.
    """
    if fine == 1:
        return 1 - _amplitude_left(coarse, period=2) ** 2
    middle = math.sqrt(fine * coarse)
    return _amplitude_left(fine, middle) - _amplitude_left(coarse, middle)


def _amplitude_left(scale: int, period: float) -> float:
    taps = averaging_taps(scale)
    offsets = np.arange(len(taps)) - len(taps) // 2
    return float(taps @ np.cos(2 * np.pi * offsets / period))


def flat_noise(picture: Picture, target: Picture) -> dict[str, float]:
    """RMS of the error where the truth is flat: of lightness and of colour, in four bands of scale.

    A band of a picture is the CIELAB of its light averaged over the finer scale less that of its
    light averaged over the coarser one (`averaging_taps`), over `band_gain`. The error is the
    picture's band less the truth's. Averages are of *linear* light, as an eye makes them that is
    too far away to see pixels: its mean is right however strong the noise, so fine grain is no
    mottle. Averages of the pixels' Lab would turn a share of it into mottle, because the cube root
    bends what noise spreads.

    White noise whose RMS is 1 has 0.64, 0.69, 0.20 and 0.05 in the four bands (so long as the noise
    is small, for the last two also where it is strong). A sinusoid with a period of 20 px and an
    RMS of 1 has 0.92 between 8 and 32 px, and 0.12, 0.14 below and above. A cast of colour that is
    the same all over a flat place is in no band; see `block_color_error`.

    A place is flat at a band where the RMS of the truth's own bands, this one and all finer ones,
    is at most `FLAT`: L*, a* and b* together, in a Hann window as wide as the band's coarser scale,
    16 px at least. A texture that is coarser than the band is flat to it: if it is lost, its trace
    in the band counts. All averages lie inside the picture, so that 15 px at its border are not
    measured, or 63 px for the coarsest band, or a little more.

    Parameters
    ----------
    picture, target : (H, W, 3) float in [0, 1], BT.709-encoded, sRGB primaries

    Returns
    -------
    dict
        For each of `NAMES` a float, 0 or more: of L*; of a* and b*, the root of the sum of their
        squares; and the share of the picture's pixels that stand for flat places, 0 to 1. An RMS
        of a band is NaN where less than 1 % of the picture is flat, or fewer than 30 of the places
        measured are; everything is NaN where one of the pictures has a NaN.

    Raises
    ------
    ValueError
        The shapes differ, or not such pictures.
    """
    height, width = require_alike(picture, target)
    values = dict.fromkeys(NAMES, math.nan)
    if np.isnan(picture).any() or np.isnan(target).any():
        return values
    fine, coarsest = _grids(height, width)
    grids = [fine] * (len(BANDS) - 1) + [coarsest]
    ours, wanted = (_bands(p, fine, coarsest) for p in (picture, target))
    finer = np.zeros([len(places) for places in fine])
    for (low, high), grid, our, want in zip(BANDS, grids, ours, wanted, strict=True):
        window = max(high, _LEAST_WINDOW)
        own = np.square(want).sum(axis=2)
        if grid is fine:
            finer += own
            activity = _window_means(finer, fine, grid, window)
        else:
            activity = _window_means(finer, fine, grid, window)
            activity += _window_means(own, grid, grid, window)
        is_flat = activity <= FLAT**2
        count = int(is_flat.sum())
        share = count * grid[0].step * grid[1].step / (height * width)
        values[f"flat_share_{low}_{high}"] = share
        if count >= _LEAST_PLACES and share >= _LEAST_SHARE:
            light, a, b = np.square(our - want)[is_flat].mean(axis=0)
            values[f"flat_luma_{low}_{high}"] = math.sqrt(light)
            values[f"flat_chroma_{low}_{high}"] = math.sqrt(a + b)
    return values


# ---------------------------------------------------------------- where


def _grids(height: int, width: int) -> tuple[Grid, Grid]:
    """Choose the places for all scales but the coarsest, and those among them for that one.

    The averages around them lie inside the picture. There are none in a picture that is too small.
    """
    reach, coarsest_reach = (len(averaging_taps(scale)) // 2 for scale in SCALES[-2:])
    fine, coarsest = [], []
    for side in (height, width):
        places = _thinned(range(reach, max(side - reach, reach)), _STEP)
        outer = sum(place < coarsest_reach for place in places)
        inner = places[outer : max(len(places) - outer, outer)]
        fine.append(places)
        coarsest.append(_thinned(inner, _COARSEST_STEP // _STEP))
    return (fine[0], fine[1]), (coarsest[0], coarsest[1])


def _thinned(places: range, step: int) -> range:
    """Take one place in `step`, an odd number, the same from either end."""
    steps, left_over = divmod(len(places) - 1, step)
    # Half of what is left over lies at either end: one step fewer makes it even.
    steps -= left_over % 2
    if steps < 0:
        return places[:0]
    first = (len(places) - 1 - step * steps) // 2
    return places[first : first + step * steps + 1 : step]


def _window_means(energy: NDArray[np.float64], source: Grid, places: Grid, width: int) -> Plane:
    """Average what lies on one grid around the places of another, in a Hann window (px).

    At the border the window has the part inside only. A sinusoid's square, which has half of its
    period, averages out from a period of the window's width down: no place of a texture seems flat
    because the texture passes through zero there.
    """
    means = energy.astype(np.float32)
    for at, of in zip(places, source, strict=True):
        distance = np.abs(np.subtract.outer(np.array(at), np.array(of)))
        weights = np.where(distance < width / 2, 1 + np.cos(2 * np.pi * distance / width), 0)
        weights /= weights.sum(axis=1, keepdims=True)
        means = (weights.astype(np.float32) @ means).T
    return means


# ---------------------------------------------------------------- what


def _bands(picture: Picture, fine: Grid, coarsest: Grid) -> list[NDArray[np.float64]]:
    """Split a picture into `BANDS`: (rows, columns, 3) each, L*, a*, b*, on the bands' grids."""
    # Channel by channel: what is alive beside the picture is a few planes, not a few pictures.
    grids = [fine] * (len(SCALES) - 1) + [coarsest]
    averages: list[list[Plane]] = [[] for _ in SCALES]
    for channel in range(3):
        light = bt709_decode(picture[..., channel])
        for found, scale, grid in zip(averages, SCALES, grids, strict=True):
            found.append(_averages(light, scale, grid))
    labs = [lab_from_srgb(np.stack(planes, axis=2)) for planes in averages]
    rows, cols = (
        [places.index(place) for place in chosen]
        for places, chosen in zip(fine, coarsest, strict=True)
    )
    bands = [x - y for x, y in pairwise(labs[:-1])]
    bands.append(labs[-2][np.ix_(rows, cols)] - labs[-1])
    return [band / band_gain(*ends) for band, ends in zip(bands, BANDS, strict=True)]


def _averages(light: Plane, scale: int, grid: Grid) -> Plane:
    """Average light around the places of a grid: (H, W) to (rows, columns)."""
    taps = averaging_taps(scale).astype(np.float32)
    middle = len(taps) // 2
    for places in grid:
        # Either side together: half of the products, and the same from either end.
        means = taps[middle] * light[places.start : places.stop : places.step]
        for away in range(1, middle + 1):
            before, after = (
                light[places.start + offset : places.stop + offset : places.step]
                for offset in (-away, away)
            )
            means += taps[middle + away] * (before + after)
        light = np.ascontiguousarray(means.T)
    return light
