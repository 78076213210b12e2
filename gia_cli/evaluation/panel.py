"""Pictures to look at: photos as every system sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import GiaError
from gia_cli.evaluation.classical import ISP_NAMES
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.pairs import Truths, open_pairs, read_pair
from gia_cli.evaluation.report import Report
from gia_cli.evaluation.systems import IspSystem, centre_of, open_systems
from gia_cli.imaging.blocks import block_means
from gia_cli.metrics.fidelity import psnr
from gia_cli.progress import SILENT, Progress

_THUMBNAIL_SIDE = 1280  # pixels


@dataclass(frozen=True, slots=True)
class PanelRow:
    """One photo as every system sees it."""

    title: str
    pictures: list[tuple[str, NDArray[np.float32]]] = field(repr=False)
    """Captions and pictures, (H, W, 3) BT.709-encoded, shrunk to what a figure shows: amplified
    input, systems, ground truth."""


def choose_for_panel(
    report: Report, count: int, order: Literal["spread", "worst"] = "spread"
) -> list[str]:
    """Choose photos to look at, by the PSNR of the table's last row.

    Returns
    -------
    list of str
        Names of short exposures: the worst ones, or from the worst to the best in even steps.
    """
    if not report.summaries:
        return []
    last = report.summaries[-1]
    ranked = sorted(
        (s for s in report.scores if (s.system, s.ratio_mode) == (last.system, last.ratio_mode)),
        key=lambda score: math.inf if score.values["psnr"] is None else score.values["psnr"],
    )
    count = min(count, len(ranked))
    places = range(count)
    if order == "spread":
        places = np.linspace(0, len(ranked) - 1, count).round().astype(int).tolist()
    return [ranked[place].short for place in places]


def panel_rows(
    config: EvalConfig, shorts: Sequence[str], progress: Progress = SILENT
) -> Iterator[PanelRow]:
    """Make the pictures of some photos again, each with its PSNR: the paper's Figs 5 and 6.

    Parameters
    ----------
    config : EvalConfig
    shorts : sequence of str
        From `choose_for_panel`.
    progress : Progress
    """
    pairs = {pair.short.name: pair for pair in open_pairs(config)}
    systems = [s for s in open_systems(config) if s.name != ISP_NAMES["libraw"]]
    truths = Truths(config)
    progress.stage("panel", len(shorts))
    for name in shorts:
        pair = pairs[name]
        frame, truth, ratio = read_pair(pair, truths)
        pictures = []
        for system in (IspSystem("libraw"), *systems):
            try:
                picture, used = system.render(frame, ratio)
            except GiaError:  # reported when it was scored
                pictures.append((f"{system.name}: failed", np.zeros_like(_thumbnail(truth))))
                continue
            score = psnr(picture, centre_of(truth, picture))
            mode = "" if system.ratio_mode == "known" else f", {system.ratio_mode} x{used:.3g}"
            pictures.append((f"{system.name}{mode}: {score:.2f} dB", _thumbnail(picture)))
        pictures.append(("ground truth", _thumbnail(truth)))
        yield PanelRow(f"{pair.scene}, x{ratio:.3g}", pictures)
        progress.advance()


def _thumbnail(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average blocks until the longer side is one that figures can use: a few MB, not hundreds."""
    factor = -(-max(picture.shape[:2]) // _THUMBNAIL_SIDE)
    return block_means(picture, factor)
