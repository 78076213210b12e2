"""What was measured of speed is laid out as it was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from gia_cli.benchmark.batch import BatchRun
from gia_cli.benchmark.flops import Cost
from gia_cli.benchmark.growth import Point
from gia_cli.benchmark.speed import Speed, SpeedReport, Variant
from gia_cli.benchmark.tables import (
    batch_table,
    cost_table,
    growth_table,
    plot_growth,
    speed_table,
    training_table,
)
from gia_cli.benchmark.training import TrainingSpeed
from gia_cli.errors import UsageError
from gia_cli.runtime import NumberFormat

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
    variants += [replace(variants[1], precision="bf16"), replace(variants[1], precision="int8")]
    speeds = [
        Speed(variants[0], [4.0, 4.0, 5.0], 3_000_000_000, "cpu fp32"),
        Speed(variants[1], [2.0, 1.0, 3.0], 1_500_000_000, "cpu fp32"),
        Speed(variants[2], [], 0, "", "its process has died"),
        Speed(variants[3], [0.25], 1_000_000_000, "cpu, bfloat16"),
        Speed(variants[4], [0.2], 1_000_000_000, "cpu, int8 with bfloat16"),
    ]
    peaks: dict[NumberFormat, float] = {"float32": 2e9, "bfloat16": 16e9}
    columns, rows = speed_table(SpeedReport("a machine", peaks, speeds), COSTS)
    assert rows[1] == [
        *["gia-net", "whole", "cpu fp32", "2.00 s", "1.00 to 3.00", "x2.00", "1.50 GB", "50%"]
    ]
    assert rows[2][3] == "its process has died"
    assert rows[3][-1] == "50%"  # four times fp32's peak: of its own
    assert rows[4][-1] == "–" and rows[4][2] == "cpu, int8 with bfloat16"  # noqa: RUF001
    assert all(len(row) == len(columns) for row in rows)


def test_a_batch_is_related_to_its_networks_time() -> None:
    run = BatchRun(2, 12.0, 20.5, 1_600_000_000, 10.0, {"decode": 0.25, "network": 5.0})
    columns, (row,) = batch_table([run])
    cells = dict(zip(columns, row, strict=True))
    assert cells["to the network's"] == "x1.200"
    assert (cells["wall clock"], cells["processor time"]) == ("12.00 s", "20.5 s")
    assert (cells["peak memory"], cells["decode, median"]) == ("1.60 GB", "0.25 s")
    assert cells["workers"] == ""
    assert not any("busy" in column for column in columns)
    with_parts = replace(run, busy={"reading": 0.04, "network": 0.83})
    columns, rows = batch_table([run, with_parts])
    shares = [dict(zip(columns, row, strict=True))["network, busy"] for row in rows]
    assert shares == ["", "83%"]
    columns, (row,) = batch_table([replace(run, workers=2)])
    assert row[columns.index("workers")] == "2"


POINTS = [
    Point(12, None, "whole", [5.0, 6.0, 7.0], 1_600_000_000),
    Point(24, None, "whole", [12.0], 2_900_000_000),
    Point(12, 3_000_000_000, "whole", [6.0], 1_600_000_000),
    Point(24, 3_000_000_000, "", [], 0, "its process has died"),
]


def test_growth_is_shown_for_a_megapixel() -> None:
    columns, rows = growth_table(POINTS)
    assert all(len(row) == len(columns) for row in rows)
    assert rows[0] == ["12", "none", "whole", "6.00 s", "5.00 to 7.00", "0.500 s", "1.60 GB"]
    assert rows[2][1] == "3 GB"
    assert rows[3][2] == "its process has died"


@pytest.mark.slow
def test_growth_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_growth(POINTS, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.size[0] > 500
    with pytest.raises(UsageError, match="nothing to plot"):
        plot_growth(POINTS[3:], tmp_path / "none.png")


def test_training_is_compared_with_the_first_that_ran() -> None:
    speeds = [
        TrainingSpeed("numpy", 0, [], "broken"),
        TrainingSpeed("numpy", 1, [0.2, 0.4, 0.3]),
        TrainingSpeed("torch", 0, [0.15]),
    ]
    columns, rows = training_table(speeds)
    assert all(len(row) == len(columns) for row in rows)
    assert rows[0][:3] == ["numpy", "0", "broken"]
    assert rows[1] == ["numpy", "1", "0.300 s", "0.200 to 0.400", "3.3", "x1.00"]
    assert rows[2][0] == "torch" and rows[2][4:] == ["6.7", "x2.00"]
