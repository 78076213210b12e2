"""What people look at beside the pictures themselves: tables and figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gia_cli.benchmark.flops import Cost
from gia_cli.benchmark.speed import SpeedReport
from gia_cli.errors import UsageError
from gia_cli.evaluation.casts import PERIODS, Casts
from gia_cli.evaluation.panel import PanelRow
from gia_cli.evaluation.report import Estimate, Report, Summary
from gia_cli.files import atomic_file, read_plain
from gia_cli.imaging.color import srgb8_from_bt709
from gia_cli.imaging.sheet import side_by_side, stacked
from gia_cli.nets.config import NETWORKS
from gia_cli.paper import PUBLISHED_MEASURES, PaperRow

if TYPE_CHECKING:
    from gia_cli.evaluation.diagnose import Diagnosis

# ---------------------------------------------------------------- gia eval

_FIGURE_SIDE = 640  # longest side of a picture of a panel, in pixels
#: Columns of the table of scores: measure, heading, digits, and whether more is better.
SCORE_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("psnr", "PSNR ↑", 2),
    ("ssim", "SSIM ↑", 3),
    ("pieapp", "PieAPP ↓", 3),
    ("lpips_alex", "LPIPS ↓", 3),
    ("lpips_vgg", "LPIPS-VGG ↓", 3),
    ("ms_ssim", "MS-SSIM ↑", 3),
    ("delta_e", "ΔE00 ↓", 2),
    ("block_color", "colour ↓", 2),
    ("flat_chroma_8_32", "mottle ↓", 2),
    ("flat_luma_2_8", "grain ↓", 2),
)
#: Those of them whose differences are shown.
_DIFFERENCES = {"psnr", "ssim", "delta_e", "block_color", "flat_chroma_8_32"}
#: The columns of the research notes' tables, and those of them that are compared.
_IN_MARKDOWN = {"psnr", "ssim", "delta_e", "block_color", "flat_chroma_8_32", "flat_luma_2_8"}
_COMPARED_IN_MARKDOWN = {"psnr", "block_color", "flat_chroma_8_32"}
_PUBLISHED_AS = {"psnr": "psnr", "ssim": "ssim", "pieapp": "pieapp", "lpips_alex": "lpips"}


def score_table(
    report: Report, published: Sequence[PaperRow] = ()
) -> tuple[list[str], list[list[str]]]:
    """Lay scores out as the paper's tables are, its own rows below ours and marked so.

    Returns
    -------
    columns, rows : lists of str
        Means with half of their 95 % interval; "n/a" for measures that were not taken.
    """
    shown = [
        column
        for column in SCORE_COLUMNS
        if any(column[0] in summary.means for summary in report.summaries)
        or (published and column[0] in {"pieapp", "lpips_alex"})
    ]
    automatic = any(summary.ratio_mode != "known" for summary in report.summaries)
    columns = ["system", "photos", *(heading for _, heading, _ in shown)]
    columns += ["ratio off, stops", "within ½ stop"] if automatic else []
    rows = []
    for summary in report.summaries:
        row = [row_name(summary.system, summary.ratio_mode), str(summary.count)]
        row += [_interval(summary.means.get(name), digits) for name, _, digits in shown]
        if automatic:
            row += _ratio_cells(summary)
        rows.append(row)
    for paper_row in published:
        values = dict(
            zip(PUBLISHED_MEASURES, paper_row.published[report.config.camera], strict=True)
        )
        found = [values.get(_PUBLISHED_AS.get(name, "")) for name, _, _ in shown]
        numbers = [
            "-" if value is None else f"{value:.{digits}f}"
            for value, (_, _, digits) in zip(found, shown, strict=True)
        ]
        rows.append(
            [f"published, on SID: {paper_row.name}", "", *numbers, *([""] * (2 * automatic))]
        )
    return columns, rows


def ratio_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Lay out the mean PSNR of each row at each ratio of the list; no rows if it has one alone."""
    ratios = sorted({round(score.known_ratio) for score in report.scores})
    if len(ratios) < 2:
        return [], []
    rows = [
        [row_name(summary.system, summary.ratio_mode), *_psnr_at(report, summary, ratios)]
        for summary in report.summaries
    ]
    return ["PSNR", *(f"ratio {ratio}" for ratio in ratios)], rows


def _psnr_at(report: Report, summary: Summary, ratios: Sequence[int]) -> list[str]:
    cells = []
    for ratio in ratios:
        found = [
            score.values["psnr"]
            for score in report.scores
            if (score.system, score.ratio_mode) == (summary.system, summary.ratio_mode)
            and round(score.known_ratio) == ratio
        ]
        numbers = [value for value in found if value is not None]
        cells.append(f"{np.mean(numbers):.2f}" if numbers else "n/a")
    return cells


def markdown_table(report: Report) -> list[str]:
    """Lay a report out as one Markdown table: means, differences to one row, PSNR at each ratio.

    Returns
    -------
    list of str
        The table's lines.
    """
    wanted = [c for c in SCORE_COLUMNS if c[0] in _IN_MARKDOWN]
    ratios = sorted({round(score.known_ratio) for score in report.scores})
    automatic = any(summary.ratio_mode != "known" for summary in report.summaries)
    head = ["row", *(heading for _, heading, _ in wanted)]
    compared = [c for c in wanted if c[0] in _COMPARED_IN_MARKDOWN]
    if len(report.summaries) > 1:
        head += [
            f"{heading.split()[0]} to {report.versus if index == 0 else 'it'}"
            for index, (_, heading, _) in enumerate(compared)
        ]
    head += [f"ratio {ratio}" for ratio in ratios]
    head += ["ratio off, stops", "within ½ stop"] if automatic else []
    lines = [head, ["---"] * len(head)]
    for summary in report.summaries:
        cells = [row_name(summary.system, summary.ratio_mode)]
        for name, _, digits in wanted:
            mean = summary.means.get(name)
            cells.append("n/a" if mean is None else f"{mean.mean:.{digits}f}")
        if len(report.summaries) > 1:
            for name, _, digits in compared:
                text = _signed(summary.differences.get(name), digits, missing="")
                cells.append(text.replace("-", "\N{MINUS SIGN}"))
        cells += _psnr_at(report, summary, ratios)
        if automatic:
            cells += _ratio_cells(summary)
        lines.append(cells)
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _ratio_cells(summary: Summary) -> list[str]:
    off = summary.means["ratio_error_stops"].mean
    return [f"{off:.2f}", f"{summary.within_half_a_stop:.0%}"]


def _signed(estimate: Estimate | None, digits: int, *, missing: str) -> str:
    """Write a difference with its interval."""
    if estimate is None:
        return missing
    low, high = (f"{value:+.{digits}f}" for value in (estimate.low, estimate.high))
    return f"{estimate.mean:+.{digits}f} [{low}, {high}]"


def casts_table(casts: Sequence[Casts]) -> tuple[list[str], list[list[str]]]:
    """Lay out what is wrong all over the pictures, a row for each system and exposure."""
    columns = ["system", "exposure", "scenes", "colour to truth", "right less left: L, a, b"]
    columns += ["bottom less top: L, a, b", *(f"grid of {period} px" for period in PERIODS)]
    columns += ["PSNR", "with gains of its own"]
    rows = [
        [
            row_name(of_system.system, of_system.ratio_mode),
            ends.exposure,
            str(ends.scenes),
            f"{ends.to_truth:.1f}",
            *(
                ", ".join(
                    f"{mean:+.1f} ±{error:.1f}"
                    for mean, error in zip(drift.mean, drift.error, strict=True)
                )
                for drift in (ends.right_less_left, ends.bottom_less_top)
            ),
            *(f"{grid.rms:.2f} ({grid.chance:.2f})" for grid in ends.grids.values()),
            f"{ends.psnr:.2f}",
            f"{ends.psnr_with_gains:.2f}",
        ]
        for of_system in casts
        for ends in of_system.ends
    ]
    return columns, rows


def diagnosis_table(tests: Sequence[Diagnosis]) -> tuple[list[str], list[list[str]]]:
    """Lay out what each network loses without each of its parts, in dB."""
    names = list(dict.fromkeys(name for test in tests for name in test.losses))
    rows = [
        [test.system, f"{test.psnr:.2f}"]
        + [f"{-test.losses[name]:+.2f}" if name in test.losses else "" for name in names]
        for test in tests
    ]
    return ["dB without", "PSNR", *names], rows


def difference_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Lay out how much each row differs from the one they are compared with, photo by photo."""
    wanted = [c for c in SCORE_COLUMNS if c[0] in _DIFFERENCES]
    rows = []
    for summary in report.summaries:
        if not summary.differences:
            continue
        cells = []
        for name, _, digits in wanted:
            estimate = summary.differences.get(name)
            cells.append(_signed(estimate, digits, missing="n/a"))
        rows.append([row_name(summary.system, summary.ratio_mode), *cells])
    return [f"minus {report.versus}", *(heading for _, heading, _ in wanted)], rows


def row_name(system: str, ratio_mode: str) -> str:
    """Name a row of the tables."""
    return system if ratio_mode == "known" else f"{system} ({ratio_mode} ratio)"


def _interval(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return "n/a"
    half = (estimate.high - estimate.low) / 2
    return f"{estimate.mean:.{digits}f} ±{half:.{digits}f}"


def write_figure(rows: Iterable[PanelRow], path: Path) -> None:
    """Write a panel: a row for each photo, amplified input | each system | ground truth.

    Parameters
    ----------
    rows : iterable of PanelRow
        Made one at a time, so that a few large photos do not fill the memory.
    path : Path
        An 8-bit PNG; pictures of at most 640 px on their longer side.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    strips = []
    for row in rows:
        panels = [
            (f"{row.title} {caption}" if index == 0 else caption, srgb8_from_bt709(picture))
            for index, (caption, picture) in enumerate(row.pictures)
        ]
        height, width, _ = row.pictures[0][1].shape
        shrink = min(1.0, _FIGURE_SIDE / max(width, height))
        strips.append(side_by_side(panels, (round(width * shrink), round(height * shrink))))
    if not strips:
        return
    with atomic_file(path) as file:
        stacked(strips).save(file, "PNG")


# ---------------------------------------------------------------- gia bench


def plot_quality(
    costs: Sequence[Cost], speed: SpeedReport | None, scores: Path, path: Path
) -> None:
    """Draw each network's PSNR over its FLOPs or, where it was timed, over its time.

    Parameters
    ----------
    costs : sequence of Cost
    speed : SpeedReport or None
    scores : Path
        ``report.json`` of an evaluation; its systems are matched by network.
    path : Path
        A PNG.

    Raises
    ------
    UsageError
        No report of an evaluation, none of its systems is among `costs`, or matplotlib is missing.
    OutputError
        The plot cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib.", hint="pip install matplotlib.") from None
    timed = [s for s in speed.speeds if s.variant.how == "whole" and not s.error] if speed else []
    times = {s.variant.network: s.median for s in timed}
    flops = {cost.network: cost.tf1_flops / 1e9 for cost in costs}
    where = times if speed is not None else flops
    points = [
        (row_name(system["system"], system["ratio_mode"]), where[system["network"]], psnr)
        for system in _evaluated(scores)
        if system.get("network") in where and _is_published_size(system)
        if (psnr := system["means"].get("psnr"))
    ]
    if not points:
        raise UsageError(
            f"{scores} has no score of a network that was counted here, in its published size."
        )
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, x, psnr in points:
        error = [[psnr["mean"] - psnr["low"]], [psnr["high"] - psnr["mean"]]]
        axes.errorbar([x], [psnr["mean"]], yerr=error, fmt="o", capsize=3)
        axes.annotate(name, (x, psnr["mean"]), xytext=(6, 4), textcoords="offset points")
    axes.set(xlabel="seconds" if speed is not None else "GFLOPs (TF 1)", ylabel="PSNR in dB")
    axes.margins(x=0.2)
    axes.grid(alpha=0.3)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _is_published_size(system: dict[str, Any]) -> bool:
    """Tell whether a network is as wide as the one that was counted."""
    return bool(system.get("width") == NETWORKS[system["network"]].width)


def _evaluated(scores: Path) -> list[dict[str, Any]]:
    try:
        systems: list[dict[str, Any]] = json.loads(read_plain(scores))["systems"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{scores} is not a report of gia eval.") from error
    return systems
