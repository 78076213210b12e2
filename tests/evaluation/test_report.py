"""Averages, intervals and differences are right, and are written."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.report import REPORT, TABLE, summarise
from gia_cli.evaluation.scores import Score
from tests.networks import DEFAULT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_the_results_are_written(config: EvalConfig) -> None:
    report = evaluate(config)
    with (config.out / TABLE).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["system"] for row in rows} == {"LibRaw, amplified", DEFAULT}
    assert float(rows[0]["psnr"]) == report.scores[0].values["psnr"]
    written = json.loads((config.out / REPORT).read_text())
    assert written["systems"][1]["means"]["psnr"]["mean"] == report.summaries[1].means["psnr"].mean
    assert written["systems"][1]["network"] == "gia-net"
    assert written["protocol"] == "all"
    assert set(written["unavailable"]) == {"lpips_alex", "lpips_vgg", "pieapp"}


def score(system: str, scene: str, short: str, value: float, ratio: float = 100) -> Score:
    values: dict[str, float | None] = {"psnr": value}
    return Score(system, None, None, "k", "known", scene, short, 100, ratio, 1.0, values, {})


def test_means_differences_and_intervals() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(25, 3, 40)
    first = [score("a", str(i // 2), str(i), x) for i, x in enumerate(base)]
    second = [score("b", str(i // 2), str(i), x + 1) for i, x in enumerate(base)]
    a, b = summarise([*first, *second])
    assert a.means["psnr"].mean == pytest.approx(base.mean())
    assert a.means["psnr"].low < base.mean() < a.means["psnr"].high
    # Always one better: the difference is certain, however much the photos scatter.
    difference = b.differences["psnr"]
    assert (difference.mean, difference.low, difference.high) == pytest.approx((1, 1, 1))
    assert a.differences == {}
    c, d = summarise([*first, *second], "b")
    assert d.differences == {}
    assert c.differences["psnr"].mean == pytest.approx(-1)


def test_photos_of_one_scene_do_not_count_as_many() -> None:
    """Ten copies of each scene make the interval no narrower."""
    values = np.random.default_rng(1).normal(25, 3, 12)
    few = summarise([score("a", str(i), str(i), x) for i, x in enumerate(values)])
    many = summarise(
        [score("a", str(i), f"{i}-{k}", x) for i, x in enumerate(values) for k in range(10)]
    )
    widths = [s[0].means["psnr"].high - s[0].means["psnr"].low for s in (few, many)]
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def test_ratio_errors_count_in_stops() -> None:
    (summary,) = summarise([score("a", "1", "1", 20, 200), score("a", "2", "2", 20, 100)])
    assert summary.means["ratio_error_stops"].mean == pytest.approx(0.5)
    assert summary.within_half_a_stop == 0.5
