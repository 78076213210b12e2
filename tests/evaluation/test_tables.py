"""Tables and figures of evaluation and bench."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gia_cli.benchmark.flops import Cost
from gia_cli.benchmark.speed import Speed, SpeedReport, Variant
from gia_cli.errors import UsageError
from gia_cli.evaluation.evaluate import Estimate, EvalConfig, PanelRow, Report, Summary
from gia_cli.evaluation.tables import (
    cost_table,
    difference_table,
    plot_quality,
    score_table,
    speed_table,
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
    return Summary(name, "gia-net", 32, mode, 7, means, differences, 1.0, 0.5)  # type: ignore[arg-type]


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
    assert columns[-3:-1] == ["mottle ↓", "grain ↓"]
    assert rows[0][-3:-1] == ["2.25 ±0.25", "1.50 ±0.10"]
    assert not any("1.25" in cell for cell in rows[0])


def test_differences_name_what_they_are_to(report: Report) -> None:
    columns, rows = difference_table(report)
    assert columns[0] == "minus first"
    assert rows == [
        ["second (auto ratio)", "+1.50 [+1.25, +1.75]", *["n/a"] * 3, "-0.50 [-0.75, -0.25]"],
    ]


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


def test_costs_are_related_to_sid_net() -> None:
    columns, rows = cost_table(COSTS)
    assert rows[1] == ["gia-net", "1,100", "x1.1000", "2.1000 B", "x1.0500", "2.00 B"]
    assert len(columns) == 6
    assert cost_table(COSTS[1:])[1][0][2] == ""  # nothing to relate it to


def test_speeds_are_related_to_the_first_way() -> None:
    variants = [
        Variant("gia-net", how, (64, 64), "bayer", "cpu", "fp32")
        for how in ("eager NCHW, whole", "whole", "tiled")
    ]
    speeds = [
        Speed(variants[0], [4.0, 4.0, 5.0], 3_000_000_000, "cpu fp32"),
        Speed(variants[1], [2.0, 1.0, 3.0], 1_500_000_000, "cpu fp32"),
        Speed(variants[2], [], 0, "", "its process has died"),
    ]
    columns, rows = speed_table(SpeedReport("a machine", 2e9, speeds), COSTS)
    assert rows[1] == [
        *["gia-net", "whole", "cpu fp32", "2.00 s", "1.00 to 3.00", "x2.00", "1.50 GB", "50%"]
    ]
    assert rows[2][3] == "its process has died"
    assert all(len(row) == len(columns) for row in rows)


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
    with pytest.raises(UsageError, match="no report"):
        plot_quality(COSTS, None, tmp_path / "none.json", tmp_path / "plot.png")
