"""Measure what looking for the black level gains.

    python research/measure_black_level.py TREE --weights NAME

For each exposure of a tree whose long exposures have no noise (`gia simulate --sid --clean-long`):
how far its black level lies above the likely one, by comparison with the long exposure, and what
the photo shows of it; PSNR and colour error with the level left as it is, with it looked for, and
with the true one.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CAMERA_OF
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.pairs import Truths, open_pairs, read_pair
from gia_cli.imaging.color import bt709_from_srgb16
from gia_cli.imaging.writer import unorient
from gia_cli.metrics.color import block_color_error
from gia_cli.metrics.fidelity import psnr
from gia_cli.raw.calibrated_black import known_black_error, likely_black
from gia_cli.raw.reader import RawFrame, read_raw

_BELOW_WHITE = 40  # DN; the long exposure counts up to there


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="TREE")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--camera", choices=sorted(CAMERA_OF), default="sony")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    config = EvalConfig(args.data, args.camera, Path(), weights=(args.weights,), limit=args.limit)
    enhancer = Enhancer.from_weights(args.weights, device="cpu")
    truths, rows = Truths(config), []
    for pair in open_pairs(config):
        frame, truth, ratio = read_pair(pair, truths)
        error = true_error(frame, read_raw(pair.long), ratio)
        scores: list[float] = []
        found = 0.0
        for level in (None, "looked for", error):
            picture, correction = pictured(enhancer, frame, ratio, level)
            found = correction if level == "looked for" else found
            scores += [psnr(picture, truth), block_color_error(picture, truth)]
        rows.append(scores)
        print(f"{pair.short.name}: true {error:+.2f} DN, found {found:+.2f}:", told(scores))
    print(f"{len(rows)} exposures:", told(np.mean(rows, axis=0).tolist()))


def told(scores: list[float]) -> str:
    """Put PSNR and colour error of the three into words."""
    names = ("as it is", "looked for", "true")
    parts = zip(names, scores[::2], scores[1::2], strict=True)
    return ", ".join(f"{name} {db:.2f} dB {color:.2f}" for name, db, color in parts)


def true_error(frame: RawFrame, long: RawFrame, ratio: float) -> float:
    """Mean over the photosites of how far a frame's black lies above the likely one, DN."""
    scale = (frame.white - frame.black) / (long.white - long.black) / ratio
    period = len(frame.black)
    height, width = (side // period * period for side in frame.mosaic.shape)
    shape = height // period, period, width // period, period
    short, clean = (
        of.mosaic[:height, :width].reshape(shape).transpose(0, 2, 1, 3).astype(np.float64)
        for of in (frame, long)
    )
    counts = clean < long.white - _BELOW_WHITE
    off = short - likely_black(frame) - (clean - long.black) * scale
    return float(off[counts].mean())


def pictured(
    enhancer: Enhancer, frame: RawFrame, ratio: float, level: str | float | None
) -> tuple[NDArray[np.float32], float]:
    """Enhance a frame, and return its picture and the correction of its black level.

    A level that is given becomes the file's; that is then no longer the one that a calibration
    knows of, so the error that is usual is 1.6 DN, as of any camera.
    """
    if isinstance(level, float):
        mean, _ = known_black_error(frame)
        level += mean * float((frame.white - frame.black).mean())
        frame = replace(frame, black=(frame.black + level).astype(np.float32))
    is_left = patch("gia_cli.enhance.enhancer.is_measured", lambda *_: False)
    with nullcontext() if level == "looked for" else is_left:
        result = enhancer.enhance(frame, ratio=ratio)
    picture = bt709_from_srgb16(unorient(result.image, frame.flip))
    return picture.astype(np.float32), result.frame.black_correction


if __name__ == "__main__":
    main()
