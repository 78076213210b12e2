"""What is scored stays scored, as long as nothing that it depends on has changed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.scores import SCORES
from gia_cli.evaluation.systems import NetworkSystem
from gia_cli.metrics.suite import Measures
from tests.networks import DEFAULT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_it_continues_where_it_stopped(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(config)
    lines = (config.out / SCORES).read_text().splitlines()
    assert len(lines) == 8
    # As after a crash: the last lines are lost, one is cut short.
    (config.out / SCORES).write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])
    rendered: list[str] = []
    plain = NetworkSystem.render

    def counted(self: NetworkSystem, *arguments: Any) -> object:
        rendered.append(self.name)
        return plain(self, *arguments)

    monkeypatch.setattr(NetworkSystem, "render", counted)
    second = evaluate(config)
    assert 0 < len(rendered) < 4
    timeless = [
        [replace(score, seconds=0.0) for score in report.scores] for report in (first, second)
    ]
    assert timeless[0] == timeless[1]
    rendered.clear()
    evaluate(config)
    assert rendered == []


@pytest.mark.slow
def test_a_measure_of_other_weights_is_taken_again(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is not at hand any more is not shown."""
    isp = replace(config, weights=())
    plain = Measures.load

    def with_lpips(digest: str, value: float) -> None:
        def load(*paths: object) -> Measures:
            measures = plain()
            available = {**measures.available, "lpips_alex": lambda a, b: value}
            return replace(
                measures, available=available, keys={**measures.keys, "lpips_alex": digest}
            )

        monkeypatch.setattr(Measures, "load", load)

    for digest, value in (("first", 0.25), ("second", 0.5)):
        with_lpips(digest, value)
        assert evaluate(isp).summaries[0].means["lpips_alex"].mean == value
    monkeypatch.setattr(Measures, "load", lambda *paths: plain())
    assert "lpips_alex" not in evaluate(isp).summaries[0].means


@pytest.mark.slow
def test_scores_from_before_a_measure_was_added_are_taken_again(config: EvalConfig) -> None:
    isp = replace(config, weights=())
    first = evaluate(isp)
    path = config.out / SCORES
    old = [json.loads(line) for line in path.read_text().splitlines()]
    for row in old:
        for part in ("values", "taken_with"):
            row[part] = {n: x for n, x in row[part].items() if not n.startswith("flat_")}
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    second = evaluate(isp)
    assert [score.values for score in second.scores] == [score.values for score in first.scores]
    assert len(path.read_text().splitlines()) == 2 * len(old)  # the old ones, and these


@pytest.mark.slow
def test_other_weights_under_the_same_name_are_scored_again(config: EvalConfig) -> None:
    evaluate(replace(config, weights=()))
    report = evaluate(replace(config, isp=(), weights=(f"LibRaw, amplified={DEFAULT}",)))
    assert all(score.network == "gia-net" for score in report.scores)
