"""The pairs of a list: all of them, or some that are spread over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gia_cli.errors import DataError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.scores import SCORES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_missing_files_are_all_named_first(config: EvalConfig, tree: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    gone = sorted((copy / "Sony" / "short").iterdir())[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(DataError) as caught:
        evaluate(replace(config, data=copy))
    assert all(path.name in str(caught.value) for path in gone)
    assert not (config.out / SCORES).exists()


@pytest.mark.slow
def test_a_subset_is_spread_over_the_list(config: EvalConfig) -> None:
    report = evaluate(replace(config, weights=(), limit=2))
    assert report.pairs == 2
    assert len({score.scene for score in report.scores}) == 2
