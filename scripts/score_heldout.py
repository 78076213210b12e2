"""Score weights on the held-out scenes, and print the tables of `docs/research/models.md`.

    python scripts/make_heldout.py KODAK LARGE HELDOUT
    python scripts/score_heldout.py HELDOUT/kodak-sony OUT --weights gia-sony --weights v0=FILE \
        [--isp libraw,libraw+nlm] [--pictures RawTherapee=FOLDER] [--balance-error 0 20 -20] \
        [--versus ROW] [--limit N]

A row for each system: means, the differences in PSNR, colour error and mottle to one row, photo by
photo, with 95 % intervals over scenes, and PSNR at each ratio. Mottle and grain are those of the
photos that have flat places. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from gia_cli.cli.app import choices
from gia_cli.cli.console import Terminal
from gia_cli.enhance.enhancer import Quality
from gia_cli.evaluation.evaluate import EvalConfig, RatioMode, Report, Score, Summary, evaluate

COLOR, MOTTLE, GRAIN = "block_color", "flat_chroma_8_32", "flat_luma_2_8"
COLUMNS = (
    ("psnr", "PSNR ↑", 2),
    ("ssim", "SSIM ↑", 3),
    ("delta_e", "ΔE00 ↓", 2),
    (COLOR, "colour ↓", 2),
    (MOTTLE, "mottle ↓", 2),
    (GRAIN, "grain ↓", 2),
)


def table(report: Report) -> list[str]:
    """Lay a report out as Markdown."""
    ratios = sorted({round(score.known_ratio) for score in report.scores})
    head = [
        "row",
        *(title for _, title, _ in COLUMNS),
        f"PSNR to {report.versus}",
        "colour to it",
        "mottle to it",
        *(f"ratio {ratio}" for ratio in ratios),
    ]
    lines = [head, ["---"] * len(head)]
    lines += [_row(report, summary, ratios) for summary in report.summaries]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _row(report: Report, summary: Summary, ratios: Sequence[int]) -> list[str]:
    mode = "" if summary.ratio_mode == "known" else f", ratio {summary.ratio_mode}"
    means = summary.means
    cells = [summary.system + mode]
    cells += [
        f"{means[name].mean:.{digits}f}" if name in means else "n/a" for name, _, digits in COLUMNS
    ]
    for name in ("psnr", COLOR, MOTTLE):
        gap = summary.differences.get(name)
        text = "" if gap is None else f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        cells.append(text.replace("-", "\N{MINUS SIGN}"))
    return [*cells, *(f"{_at(report.scores, summary, ratio):.2f}" for ratio in ratios)]


def _at(scores: Sequence[Score], summary: Summary, ratio: int) -> float:
    """Mean PSNR of a row over the photos of one ratio."""
    found = [
        score.values["psnr"]
        for score in scores
        if (score.system, score.ratio_mode) == (summary.system, summary.ratio_mode)
        and round(score.known_ratio) == ratio
    ]
    return float(np.mean([value for value in found if value is not None]))


def main() -> None:
    """Evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--camera", choices=("sony", "fuji"), default="sony")
    parser.add_argument("--weights", action="append", default=[])
    parser.add_argument("--isp", default="")
    parser.add_argument("--pictures", action="append", default=[])
    parser.add_argument("--ratio", default="known")
    parser.add_argument("--balance-error", type=float, nargs="*", default=[0.0])
    parser.add_argument("--quality", default="normal")
    parser.add_argument("--versus")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    config = EvalConfig(
        data=options.tree,
        camera=options.camera,
        out=options.out,
        weights=tuple(options.weights),
        isp=tuple(name for name in options.isp.split(",") if name),
        pictures=tuple(options.pictures),
        ratios=choices(options.ratio, "--ratio", get_args(RatioMode)),
        balance_errors=tuple(options.balance_error),
        qualities=choices(options.quality, "--quality", get_args(Quality)),
        versus=options.versus,
        limit=options.limit,
    )
    with Terminal() as terminal:
        report = evaluate(config, terminal)
    print("\n".join(table(report)))
    auto = [summary for summary in report.summaries if summary.ratio_mode != "known"]
    for summary in auto:
        share, off = 100 * summary.within_half_a_stop, summary.means["ratio_error_stops"].mean
        print(
            f"{summary.system}, ratio {summary.ratio_mode}: off by {off:.2f} stops in the mean, "
            f"{share:.0f} % of the photos within half a stop"
        )
    print(f"{report.pairs} photos, {len(report.failures)} failed")


if __name__ == "__main__":
    main()
