"""Faults of a whole picture that no score shows separately: casts, drifts, grids.

The shortest and the longest short exposure of each scene are rendered. Compared are their mean
colours, with each other and with the ground truth; the errors at opposite edges of the frame; what
is locked to a grid; and the PSNR that an oracle's gains for the three colours would bring. Means
are of linear light, colours CIELAB's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from gia_cli.data.sid import SidPair
from gia_cli.errors import GiaError
from gia_cli.evaluation.config import EvalConfig, RatioMode
from gia_cli.evaluation.pairs import Truths, open_pairs, read_pair
from gia_cli.evaluation.report import Failure
from gia_cli.evaluation.systems import centre_of, open_systems
from gia_cli.imaging.color import bt709_decode, bt709_encode, lab_from_srgb
from gia_cli.metrics.fidelity import psnr
from gia_cli.progress import SILENT, Progress

Picture = NDArray[np.float32]  # (H, W, 3), BT.709-encoded

#: Pixels after which a grid may repeat.
PERIODS = (2, 4, 8, 16)
LEAST, MOST = "least amplified", "most amplified"
_QUARTERS = 4


@dataclass(frozen=True, slots=True)
class Drift:
    """How much more is wrong at one edge of the frame than at the other, mean over scenes."""

    mean: tuple[float, float, float]
    """L*, a*, b*."""
    error: tuple[float, float, float]
    """Standard error of each, over scenes."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The error that all places alike modulo a period share, in 8-bit levels."""

    most: float
    """The largest, of any place in the period."""
    rms: float
    chance: float
    """The root mean square that scenes without a common grid would have."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What is wrong with one exposure of each scene."""

    exposure: str
    """`LEAST` or `MOST`."""
    scenes: int
    to_truth: float
    """Median distance of the mean colour from the ground truth's, in a* and b*."""
    right_less_left: Drift
    bottom_less_top: Drift
    grids: dict[int, Grid]
    """By period in pixels."""
    psnr: float
    psnr_with_gains: float
    """With the gains in linear light that fit each picture best."""
    gains: tuple[float, float, float]
    """Of red, green and blue: their geometric mean over the scenes."""


@dataclass(frozen=True, slots=True)
class Casts:
    """What is wrong all over the pictures of one row of the table."""

    system: str
    ratio_mode: RatioMode
    apart: tuple[float, float, float] | None
    """Distance of the mean colours of a scene's two pictures, in a* and b*: median, 90th percentile
    and most over scenes; None if every scene has one exposure only."""
    ends: list[Ends]


@dataclass(frozen=True, slots=True)
class _Found:
    """What is kept of one picture."""

    color: NDArray[np.float64]
    truth: NDArray[np.float64]
    right: NDArray[np.float64]
    bottom: NDArray[np.float64]
    grids: dict[int, NDArray[np.float64]]
    psnr: float
    psnr_with_gains: float
    gains: NDArray[np.float64]


def measure_casts(
    config: EvalConfig,
    progress: Progress = SILENT,
    on_failure: Callable[[Failure], None] = lambda failure: None,
) -> list[Casts]:
    """Measure every row of the table on two exposures of each scene.

    Parameters
    ----------
    config : EvalConfig
    progress : Progress
        Receives a stage "casts" with a step for each picture.
    on_failure : function, optional
        Called with a photo that cannot be read or rendered; the others continue.

    Raises
    ------
    DataError, WeightsError, DeviceError, UsageError
    """
    scenes: dict[str, list[SidPair]] = defaultdict(list)
    for pair in open_pairs(config, progress):
        scenes[pair.scene].append(pair)
    systems = open_systems(config)
    truths = Truths(config)
    found: list[list[dict[str, _Found]]] = [[] for _ in systems]
    ends = [_ends(pairs) for pairs in scenes.values()]
    progress.stage("casts", len(systems) * sum(map(len, ends)))
    for of_scene in ends:
        for pictures in found:
            pictures.append({})
        for name, pair in of_scene.items():
            for system, pictures in zip(systems, found, strict=True):
                try:
                    frame, truth, ratio = read_pair(pair, truths)
                    picture, _ = system.render(frame, ratio)
                    pictures[-1][name] = _look_at(picture, centre_of(truth, picture))
                except GiaError as error:
                    on_failure(Failure(pair.short, error))
                progress.advance()
    return [
        Casts(
            system.name,
            system.ratio_mode,
            _apart(pictures),
            [
                _summed_up(name, [scene[name] for scene in pictures if name in scene])
                for name in (LEAST, MOST)
                if any(name in scene for scene in pictures)
            ],
        )
        for system, pictures in zip(systems, found, strict=True)
    ]


def _ends(pairs: list[SidPair]) -> dict[str, SidPair]:
    """Choose the exposures of a scene that are amplified least and most."""
    least, most = (choose(pairs, key=attrgetter("ratio")) for choose in (min, max))
    return {LEAST: least} if least.ratio == most.ratio else {LEAST: least, MOST: most}


def _look_at(picture: Picture, truth: Picture) -> _Found:
    gains = best_gains(picture, truth)
    mended = bt709_encode(np.clip(bt709_decode(picture) * gains, 0, 1))
    return _Found(
        color=mean_lab(picture),
        truth=mean_lab(truth),
        right=edge_difference(picture, 1) - edge_difference(truth, 1),
        bottom=edge_difference(picture, 0) - edge_difference(truth, 0),
        grids={period: fold(picture - truth, period) for period in PERIODS},
        psnr=psnr(picture, truth),
        psnr_with_gains=psnr(mended, truth),
        gains=gains,
    )


def _apart(scenes: Sequence[dict[str, _Found]]) -> tuple[float, float, float] | None:
    both = [scene for scene in scenes if len(scene) == 2]
    if not both:
        return None
    distances = [_distance(scene[LEAST].color, scene[MOST].color) for scene in both]
    return (
        float(np.median(distances)),
        float(np.percentile(distances, 90)),
        float(np.max(distances)),
    )


def _distance(color: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.hypot(*(color - other)[1:]))


def _summed_up(name: str, found: Sequence[_Found]) -> Ends:
    return Ends(
        exposure=name,
        scenes=len(found),
        to_truth=float(np.median([_distance(x.color, x.truth) for x in found])),
        right_less_left=_drift([x.right for x in found]),
        bottom_less_top=_drift([x.bottom for x in found]),
        grids={period: _grid([x.grids[period] for x in found]) for period in PERIODS},
        psnr=float(np.mean([x.psnr for x in found])),
        psnr_with_gains=float(np.mean([x.psnr_with_gains for x in found])),
        gains=_triple(np.exp(np.mean(np.log([x.gains for x in found]), 0))),
    )


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _drift(differences: Sequence[NDArray[np.float64]]) -> Drift:
    drift = np.array(differences)
    return Drift(_triple(drift.mean(0)), _triple(drift.std(0) / np.sqrt(len(drift))))


def _grid(folded: Sequence[NDArray[np.float64]]) -> Grid:
    grids = np.array(folded)
    mean, chance = grids.mean(0), grids.std(0) / np.sqrt(len(grids))
    return Grid(float(np.abs(mean).max()), _rms(mean), _rms(chance))


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def mean_lab(picture: Picture) -> NDArray[np.float64]:
    """Return the colour of the mean light, CIELAB (3,)."""
    return lab_from_srgb(bt709_decode(picture).mean((0, 1), dtype=np.float64))


def edge_difference(picture: Picture, axis: int) -> NDArray[np.float64]:
    """Subtract the first quarter's mean colour along an axis from the last's: CIELAB (3,)."""
    size = picture.shape[axis] // _QUARTERS
    first, last = (
        mean_lab(np.take(picture, place, axis))
        for place in (range(size), range(picture.shape[axis] - size, picture.shape[axis]))
    )
    return last - first


def fold(error: Picture, period: int) -> NDArray[np.float64]:
    """Average what deviates from its own block's mean, in 8-bit levels: (period, period)."""
    height, width = (side // period for side in error.shape[:2])
    gray = error[: height * period, : width * period].mean(2, dtype=np.float64) * 255
    blocks = gray.reshape(height, period, width, period)
    return np.asarray((blocks - blocks.mean((1, 3), keepdims=True)).mean((0, 2)))


def best_gains(picture: Picture, truth: Picture) -> NDArray[np.float64]:
    """Fit a gain for each colour, by least squares in linear light: (3,)."""
    x, y = (bt709_decode(image).astype(np.float64) for image in (picture, truth))
    floor = np.finfo(np.float64).tiny  # a black picture has no gains, and is no division by zero
    common, own = (x * y).sum((0, 1)), (x * x).sum((0, 1))
    return np.asarray(np.maximum(common, floor) / np.maximum(own, floor))
