"""Measure how coarse the error is: python research/measure_error_scales.py TREE --weights NAME...

Prints, for each of the weights, the shares of the mean squared error (BT.709-encoded, as PSNR has
it) by the side of the block over which it averages out, and the PSNR that would be left if an
oracle mended one thing: three gains in linear light for each photo, or everything that is coarser
than a size. What is within 2 px is detail that noise has covered; what the whole picture
shares is its light, its black level and its brightness.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CAMERA_OF
from gia_cli.enhance.enhancer import Enhancer, Quality
from gia_cli.evaluation.casts import best_gains
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.pairs import Truths, open_pairs, read_pair
from gia_cli.imaging.blocks import block_means
from gia_cli.imaging.color import bt709_decode, bt709_encode, bt709_from_srgb16
from gia_cli.imaging.writer import unorient

_SIDES = (1, 2, 8, 32, 128)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="TREE")
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--camera", choices=sorted(CAMERA_OF), default="sony")
    parser.add_argument("--quality", choices=("normal", "best"), default="normal")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    config = EvalConfig(
        args.data, args.camera, Path(), weights=tuple(args.weights), limit=args.limit
    )
    for weights in args.weights:
        report(weights, measured(weights, config, args.quality))


def measured(weights: str, config: EvalConfig, quality: Quality) -> NDArray[np.float64]:
    """Return, of each photo, the error's energy by scale, and its PSNR as it is and by oracles."""
    enhancer = Enhancer.from_weights(weights, device="cpu", quality=quality)
    truths, rows = Truths(config), []
    for pair in open_pairs(config):
        frame, truth, ratio = read_pair(pair, truths)
        image = unorient(enhancer.enhance(frame, ratio=ratio).image, frame.flip)
        picture = bt709_from_srgb16(image)
        error = picture - truth
        gains = best_gains(picture, truth)
        gained = bt709_encode(np.clip(bt709_decode(picture) * gains.astype(np.float32), 0, 1))
        energy = by_scale(error)
        total = energy.sum()
        left = [total, np.square(gained - truth).mean(dtype=np.float64)]
        left += [total - energy[-1], total - energy[3:].sum(), total - energy[2:].sum()]
        rows.append(np.concatenate([energy, -10 * np.log10(left)]))
    return np.array(rows)


def by_scale(error: NDArray[np.float32]) -> NDArray[np.float64]:
    """Part the mean squared error by the block over which it averages out; finest first.

    What lies outside whole blocks of the largest side is left out.
    """
    height, width = (side // _SIDES[-1] * _SIDES[-1] for side in error.shape[:2])
    error = error[:height, :width]
    powers = [np.square(block_means(error, side)).mean(dtype=np.float64) for side in _SIDES]
    powers += [np.square(error.mean((0, 1), dtype=np.float64)).mean(), 0.0]
    return -np.diff(powers)


def report(name: str, rows: NDArray[np.float64]) -> None:
    """Print the means of one network."""
    energy, scores = rows[:, : len(_SIDES) + 1], rows[:, len(_SIDES) + 1 :].mean(axis=0)
    shares = 100 * energy.mean(axis=0) / energy.sum(axis=1).mean()
    names = [f"to {side} px" for side in _SIDES[1:]] + ["larger", "the whole picture"]
    print(f"{name}, {len(rows)} photos")
    print(
        "  squared error: "
        + ", ".join(f"{n} {s:.0f} %" for n, s in zip(names, shares, strict=True))
    )
    oracles = ("as it is", "best gains", "no common error", "nothing from 32 px", "from 8 px")
    print("  PSNR: " + ", ".join(f"{n} {s:.2f}" for n, s in zip(oracles, scores, strict=True)))


if __name__ == "__main__":
    main()
