"""Tables and figures of evaluation and bench."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gia_cli.benchmark.flops import Cost
from gia_cli.errors import UsageError
from gia_cli.evaluation.casts import LEAST, MOST, PERIODS, Casts, Drift, Ends, Grid
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.panel import PanelRow
from gia_cli.evaluation.report import Estimate, Report, Summary
from gia_cli.evaluation.scores import Score
from gia_cli.evaluation.tables import (
    casts_table,
    difference_table,
    markdown_table,
    plot_quality,
    ratio_table,
    score_table,
    write_figure,
)
from gia_cli.paper import paper_table


def summary(name: str, value: float, mode: str = "known") -> Summary:
    means = {
        "psnr": Estimate(value, value - 1, value + 0.5),
        "ssim": Estimate(0.7, 0.69, 0.71),
        "block_color": Estimate(3.25, 3, 3.5),
        "flat_chroma_8_32": Estimate(2.25, 2, 2.5),
        "flat_luma_2_8": Estimate(1.5, 1.4, 1.6),
        "flat_chroma_2_8": Estimate(1.25, 1, 1.5),
        "ratio_error_stops": Estimate(0.25, 0.2, 0.3),
    }
    versus = {
        "psnr": Estimate(1.5, 1.25, 1.75),
        "flat_chroma_8_32": Estimate(-0.5, -0.75, -0.25),
    }
    differences = versus if name != "first" else {}
    return Summary(name, "gia-net", 32, mode, 7, means, differences, 0.8, 0.5)  # type: ignore[arg-type]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    config = EvalConfig(data=tmp_path, camera="sony", out=tmp_path, isp=("libraw",))
    rows = [summary("first", 24), summary("second", 25.5, "auto")]
    return Report(config, 7, rows, "first", {"pieapp": "no weights"}, [], [])


def test_scores_stand_beside_the_published_ones(report: Report) -> None:
    columns, rows = score_table(report, paper_table("1"))
    cells = dict(zip(columns, rows[0], strict=True))
    assert cells["system"] == "first"
    assert cells["PSNR ↑"] == "24.00 ±0.75"
    assert cells["PieAPP ↓"] == "n/a"
    assert rows[1][0] == "second (auto ratio)"
    assert rows[1][columns.index("ratio off, stops")] == "0.25"
    assert rows[1][columns.index("within ½ stop")] == "80%"
    published = dict(zip(columns, rows[-1], strict=True))
    assert published["system"] == "published, on SID: GIA-Net"
    assert (published["PSNR ↑"], published["SSIM ↑"]) == ("29.72", "0.795")
    assert (published["PieAPP ↓"], published["LPIPS ↓"]) == ("1.425", "0.404")
    assert published["colour ↓"] == "-"
    assert all(len(row) == len(columns) for row in rows)


def test_columns_that_nobody_fills_are_left_out(report: Report) -> None:
    columns, _ = score_table(report)
    assert "PieAPP ↓" not in columns
    assert "PSNR ↑" in columns


def test_two_scales_stand_for_the_noise_in_flat_places(report: Report) -> None:
    columns, rows = score_table(report)
    assert columns[-4:-2] == ["mottle ↓", "grain ↓"]
    assert rows[0][-4:-2] == ["2.25 ±0.25", "1.50 ±0.10"]
    assert not any("1.25" in cell for cell in rows[0])


def test_differences_name_what_they_are_to(report: Report) -> None:
    columns, rows = difference_table(report)
    assert columns[0] == "minus first"
    assert rows == [
        ["second (auto ratio)", "+1.50 [+1.25, +1.75]", *["n/a"] * 3, "-0.50 [-0.75, -0.25]"],
    ]


def scored(report: Report) -> Report:
    """The report with two photos at one ratio and one at another."""
    ratios = ((100.0, 24.0), (100.4, 25.0), (250.0, 20.0))
    scores = [
        Score(row.system, None, None, "k", row.ratio_mode, "1", str(r), r, r, 1.0, {"psnr": x}, {})
        for row in report.summaries
        for r, x in ratios
    ]
    return replace(report, scores=scores)


def test_each_ratio_has_its_own_mean(report: Report) -> None:
    columns, rows = ratio_table(scored(report))
    assert columns == ["PSNR", "ratio 100", "ratio 250"]
    assert rows == [["first", "24.50", "20.00"], ["second (auto ratio)", "24.50", "20.00"]]
    one = replace(report, scores=scored(report).scores[:1])
    assert ratio_table(one) == ([], [])


def test_markdown_holds_all_in_one_table(report: Report) -> None:
    head, rule, first, second = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown_table(scored(report))
    )
    assert head == [
        *("row", "PSNR ↑", "SSIM ↑", "ΔE00 ↓", "colour ↓", "mottle ↓", "grain ↓"),
        *("PSNR to first", "colour to it", "mottle to it", "ratio 100", "ratio 250"),
        *("ratio off, stops", "within ½ stop"),
    ]
    assert set(rule) == {"---"} and len(rule) == len(head)
    means = ["0.700", "n/a", "3.25", "2.25", "1.50"]
    assert first == ["first", "24.00", *means, "", "", "", "24.50", "20.00", "0.25", "80%"]
    minus = "\N{MINUS SIGN}"
    compared = ["+1.50 [+1.25, +1.75]", "", f"{minus}0.50 [{minus}0.75, {minus}0.25]"]
    assert second[7:10] == compared
    alone = replace(report, summaries=report.summaries[:1])
    assert not any(" to " in cell for cell in markdown_table(alone)[0].split("|"))


def test_casts_have_a_row_for_each_exposure() -> None:
    drift = Drift((0.25, -1.0, 2.0), (0.5, 0.25, 1.0))
    grids = {period: Grid(0.5, 0.125, 0.0625) for period in PERIODS}
    ends = Ends(LEAST, 24, 5.14, drift, drift, grids, 22.2, 22.9, (1.0, 1.0, 0.9))
    casts = Casts("own", "known", (1.7, 3.0, 4.3), [ends, replace(ends, exposure=MOST)])
    columns, rows = casts_table([casts])
    assert all(len(row) == len(columns) for row in rows)
    cells = dict(zip(columns, rows[0], strict=True))
    assert cells["colour to truth"] == "5.1"
    assert cells["bottom less top: L, a, b"] == "+0.2 ±0.5, -1.0 ±0.2, +2.0 ±1.0"
    assert cells["grid of 16 px"] == "0.12 (0.06)"
    assert [row[1] for row in rows] == [LEAST, MOST]


def test_a_figure_has_a_row_for_each_photo(tmp_path: Path) -> None:
    grey = np.full((90, 120, 3), 0.5, np.float32)
    rows = [
        PanelRow("00001", [("input", grey), ("gia", grey), ("ground truth", grey)]),
        PanelRow("00002", [("input", grey[:, :60]), ("gia", grey[:, :60])]),
    ]
    write_figure(iter(rows), tmp_path / "panel.png")
    image = np.asarray(Image.open(tmp_path / "panel.png"))
    caption = 44
    assert image.shape == (2 * (90 + caption), 3 * 120 + 2 * 8, 3)
    # BT.709's 0.5 is sRGB's 0.547: the figure is for screens.
    assert abs(int(image[caption + 45, 60, 0]) - 139) <= 1


def test_no_photo_makes_no_figure(tmp_path: Path) -> None:
    write_figure([], tmp_path / "panel.png")
    assert not (tmp_path / "panel.png").exists()


# ---------------------------------------------------------------- bench

COSTS = [
    Cost("sid-net", "bayer", (64, 64), 1000, 2_000_000_000, 1_900_000_000),
    Cost("gia-net", "bayer", (64, 64), 1100, 2_100_000_000, 2_000_000_000),
]


@pytest.mark.slow
def test_quality_is_plotted_over_cost(report: Report, tmp_path: Path) -> None:
    scores = tmp_path / "report.json"
    scores.write_text(json.dumps({"systems": [asdict(x) for x in report.summaries]}))
    plot_quality(COSTS, None, scores, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.size[0] > 500
    with pytest.raises(UsageError, match="no score of a network"):
        plot_quality(COSTS[:1], None, scores, tmp_path / "plot.png")
    narrow = [{**asdict(x), "width": 8} for x in report.summaries]
    scores.write_text(json.dumps({"systems": narrow}))
    with pytest.raises(UsageError, match="published size"):
        plot_quality(COSTS, None, scores, tmp_path / "plot.png")
    with pytest.raises(UsageError, match="not a report"):
        plot_quality(COSTS, None, tmp_path / "none.json", tmp_path / "plot.png")
