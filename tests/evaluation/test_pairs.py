"""The pairs of a list: all of them, or some that are spread over it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gia_cli.errors import DataError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.pairs import Truths, open_pairs
from gia_cli.evaluation.scores import SCORES
from gia_cli.imaging.color import srgb16_from_bt709
from gia_cli.imaging.photos import read_photo
from gia_cli.simulation.manifest import read_plan

pytestmark = pytest.mark.usefixtures("one_thread")


def test_missing_files_are_all_named_first(config: EvalConfig, tree: Path, tmp_path: Path) -> None:
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


def photographs(config: EvalConfig) -> EvalConfig:
    return replace(config, truth="photograph")


def test_the_photograph_is_what_the_tree_was_made_from(config: EvalConfig) -> None:
    """Without filters and without LibRaw: near its rendering of the long exposure, and sharper."""
    for pair in open_pairs(config)[:2]:
        rendered, shot = Truths(config).read(pair)
        truth, same_shot = Truths(photographs(config)).read(pair)
        assert truth.shape == rendered.shape
        assert same_shot == shot
        assert abs(float(truth.mean() - rendered.mean())) < 0.01
        height, width = truth.shape[:2]
        photo = read_photo(config.data / named(config, pair.scene))[:height, :width]
        assert srgb16_from_bt709(truth) == pytest.approx(photo * 257.0, abs=2)


def named(config: EvalConfig, scene: str) -> str:
    plan = read_plan(config.data / "Sony_simulation.json")
    assert plan is not None
    return next(picture.path for picture in plan.pictures if picture.scene == scene)


@pytest.mark.slow
def test_scores_to_another_truth_are_other_scores(config: EvalConfig) -> None:
    known = replace(config, weights=(), isp=("libraw",), limit=2)
    first, other, again = (
        evaluate(replace(known, truth=truth)).summaries[0].means["psnr"].mean
        for truth in ("long", "photograph", "long")
    )
    assert first == again != other


def test_a_tree_that_names_no_photographs_or_others_is_refused(
    config: EvalConfig, tree: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    plan = copy / "Sony_simulation.json"
    moved = photographs(replace(config, data=copy))
    pair = open_pairs(moved)[0]
    with pytest.raises(DataError, match="is not the photograph"):
        Truths(moved).read(pair)  # the path is relative to where the tree was
    plan.write_text(plan.read_text().replace(f'"{pair.scene}"', '"29999"'))
    with pytest.raises(DataError, match=f"has no scene {pair.scene}"):
        Truths(moved).read(pair)
    plan.unlink()
    with pytest.raises(DataError, match="are not known") as caught:
        Truths(moved)
    assert "--truth photograph" in caught.value.hint
