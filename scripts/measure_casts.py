"""Measure what is wrong all over the pictures of a tree: casts, drifts, grids.

    python scripts/measure_casts.py TREE [--camera sony] [--weights NAME] [--precision int8]

The shortest and the longest short exposure of each scene, enhanced with the known ratio, against
the photograph. Printed: how far the two pictures' mean colours are apart, and each from the
photograph's; the error at one edge of the frame less that at the other; what is locked to a grid;
and the PSNR with gains for the three colours that an oracle chose, for each picture, and the same
for all. Means are of linear light, colours CIELAB's, errors of a mean 1 standard error over scenes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli import Enhancer
from gia_cli.cameras import KINDS
from gia_cli.data.sid import SidPair, read_list
from gia_cli.evaluation.evaluate import NetworkSystem, Truths, read_pair
from gia_cli.imaging.color import bt709_decode, bt709_encode, lab_from_srgb
from gia_cli.metrics.fidelity import psnr

Picture = NDArray[np.float32]  # (H, W, 3), BT.709-encoded
QUARTERS = 4
PERIODS = (2, 4, 8, 16)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path)
    parser.add_argument("--camera", choices=("sony", "fuji"), default="sony")
    parser.add_argument("--weights")
    parser.add_argument("--precision", choices=("auto", "fp32", "int8"), default="auto")
    options = parser.parse_args()
    enhancer = Enhancer.from_weights(options.weights, precision=options.precision)
    weights = enhancer.weights_for(KINDS[options.camera])
    system = NetworkSystem(weights.name, weights, "known", enhancer)
    scenes: dict[str, list[SidPair]] = defaultdict(list)
    for pair in read_list(options.tree, options.camera, "test"):
        scenes[pair.scene].append(pair)
    truths = Truths()
    both = [
        [
            picture_and_truth(system, choose(pairs, key=attrgetter("ratio")), truths)
            for choose in (min, max)
        ]
        for pairs in scenes.values()
    ]
    report_colors(both)
    for index, name in enumerate(("least amplified", "most amplified")):
        report_drifts(name, [scene[index] for scene in both])
        report_grids(name, [scene[index] for scene in both])
    report_gains([pair for scene in both for pair in scene])


def picture_and_truth(
    system: NetworkSystem, pair: SidPair, truths: Truths
) -> tuple[Picture, Picture]:
    """Enhance a short exposure as `gia eval` does."""
    frame, truth, ratio = read_pair(pair, truths)
    picture, _ = system.render(frame, ratio)
    return picture, truth


def report_colors(both: list[list[tuple[Picture, Picture]]]) -> None:
    """Compare the mean colours of one scene's two pictures, and with the photograph's."""
    colors = np.array([[[mean_lab(x) for x in pair] for pair in scene] for scene in both])
    first, second, truth = colors[:, 0, 0], colors[:, 1, 0], colors[:, 0, 1]
    for name, x, y in (
        ("least to most amplified", first, second),
        ("least amplified to truth", first, truth),
        ("most amplified to truth", second, truth),
    ):
        apart = np.hypot(*(x - y)[:, 1:].T)
        print(
            f"colour, {name}: median {np.median(apart):.1f}, "
            f"90th percentile {np.percentile(apart, 90):.1f}, most {apart.max():.1f}"
        )
    print(f"mean L, a, b of the truths {truth.mean(0).round(2)}, of the pictures", end=" ")
    print(((first + second) / 2).mean(0).round(2))


def mean_lab(picture: Picture) -> NDArray[np.float64]:
    """Tell the colour of the mean light, (3,)."""
    return lab_from_srgb(bt709_decode(picture).mean((0, 1), dtype=np.float64))


def report_drifts(name: str, pairs: list[tuple[Picture, Picture]]) -> None:
    """Compare the errors of the outer quarters."""
    right, bottom = (
        np.array([strip(x, axis) - strip(y, axis) for x, y in pairs]) for axis in (1, 0)
    )
    for side, drift in (("right less left", right), ("bottom less top", bottom)):
        error = drift.std(0) / np.sqrt(len(drift))
        print(f"drift of L, a, b, {name}, {side}: {drift.mean(0).round(2)} ± {error.round(2)}")


def strip(picture: Picture, axis: int) -> NDArray[np.float64]:
    """Tell by how much the colour of the last quarter along an axis differs from the first's."""
    size = picture.shape[axis] // QUARTERS
    first, last = (
        mean_lab(np.take(picture, place, axis))
        for place in (range(size), range(picture.shape[axis] - size, picture.shape[axis]))
    )
    return last - first


def report_grids(name: str, pairs: list[tuple[Picture, Picture]]) -> None:
    """Average the error over all places that are alike modulo a period."""
    errors = [x - y for x, y in pairs]
    for period in PERIODS:
        folded = np.array([fold(error, period) for error in errors])
        mean, chance = folded.mean(0), folded.std(0) / np.sqrt(len(folded))
        print(
            f"grid of {period} px, {name}: at most {np.abs(mean).max():.2f} of 255 levels, "
            f"root mean square {rms(mean):.3f} (by chance {rms(chance):.3f})"
        )


def fold(error: Picture, period: int) -> NDArray[np.float64]:
    """Average what deviates from its own block's mean, in 8-bit levels: (period, period)."""
    height, width = (side // period for side in error.shape[:2])
    gray = error[: height * period, : width * period].mean(2, dtype=np.float64) * 255
    blocks = gray.reshape(height, period, width, period)
    return np.asarray((blocks - blocks.mean((1, 3), keepdims=True)).mean((0, 2)))


def rms(values: NDArray[np.float64]) -> float:
    """Take the root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def report_gains(pairs: list[tuple[Picture, Picture]]) -> None:
    """Say what gains in linear light would bring."""
    own = [best_gains(x, y) for x, y in pairs]
    common = np.exp(np.mean(np.log(own), 0))
    for name, gains in (
        ("as it is", [np.ones(3)] * len(pairs)),
        (f"the same gains for all, {common.round(3)}", [common] * len(pairs)),
        ("gains for each picture", own),
    ):
        scores = [
            psnr(bt709_encode(np.clip(bt709_decode(x) * g, 0, 1)), y)
            for (x, y), g in zip(pairs, gains, strict=True)
        ]
        print(f"PSNR, {name}: {np.mean(scores):.2f} dB")


def best_gains(picture: Picture, truth: Picture) -> NDArray[np.float64]:
    """Fit a gain for each colour, by least squares in linear light."""
    x, y = (bt709_decode(image).astype(np.float64) for image in (picture, truth))
    return np.asarray((x * y).sum((0, 1)) / (x * x).sum((0, 1)))


if __name__ == "__main__":
    main()
