"""The panel shows what was scored."""

from __future__ import annotations

import pytest

from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.panel import choose_for_panel, panel_rows
from tests.networks import DEFAULT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_the_panel_shows_input_systems_and_truth(config: EvalConfig) -> None:
    report = evaluate(config)
    worst = choose_for_panel(report, 2, "worst")
    scores = (s for s in report.scores if s.system == DEFAULT)
    values = {s.short: s.values["psnr"] or 0.0 for s in scores}
    assert all(values.values())
    assert [values[name] for name in worst] == sorted(values.values())[:2]
    assert len(set(choose_for_panel(report, 9, "spread"))) == 4
    (row,) = panel_rows(config, worst[:1])
    captions = [caption for caption, _ in row.pictures]
    assert captions[0].startswith("LibRaw, amplified: ")
    assert f"{values[worst[0]]:.2f} dB" in captions[1]
    assert captions[-1] == "ground truth"
    assert {picture.shape for _, picture in row.pictures} == {(96, 128, 3)}
