"""The tables' rows are trained as the paper says, at one budget, and resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import imageio.v3 as iio
import numpy as np
import pytest

from gia_cli.errors import UsageError
from gia_cli.paper import paper_table
from gia_cli.training import paper_tables as ablation
from gia_cli.training.config import TrainConfig
from gia_cli.training.paper_tables import RowResult, row_config, train_table
from gia_cli.weights.manifest import list_weights
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def base(tmp_path: Path) -> TrainConfig:
    rng = np.random.default_rng(5)
    photo = rng.integers(20, 235, (6, 6, 3)).repeat(40, 0).repeat(40, 1).astype(np.uint8)
    iio.imwrite(tmp_path / "photo.png", photo)
    return TrainConfig(
        run=tmp_path / "table",
        camera="sony",
        photos=(tmp_path / "photo.png",),
        cache=tmp_path / "cache",
        width=4,
        steps=2,
        workers=0,
        crops_per_photo=1,
        device="cpu",
    )


def test_rows_differ_in_what_the_paper_says_and_nothing_else(base: TrainConfig) -> None:
    rows = [row for row in paper_table("3") if row.network is not None]
    configs = [row_config(row, base) for row in rows]
    assert len({config.run for config in configs}) == 9
    for row, config in zip(rows, configs, strict=True):
        recipe = config.full_recipe()
        assert (config.network, recipe.loss) == (row.network, row.loss)
        assert (recipe.crops.sides[0] != recipe.crops.sides[1]) == row.multi_size
        late = recipe.crops.late_sides
        assert late is not None
        assert (late[0] != late[1]) == row.multi_size
        assert min(late) > max(recipe.crops.sides) - 32
        assert recipe.crops.crops == 1  # what was asked for beside the sides stays
        same = replace(config, run=base.run, network=base.network, changes={}, crops=None)
        assert same == base


@pytest.mark.parametrize("recipe", ["small", "paper"])
def test_drawn_sides_have_about_as_many_pixels_as_the_fixed_one(
    base: TrainConfig, recipe: Literal["small", "paper"]
) -> None:
    """Where that is ours to choose: the published recipes have the paper's sides."""
    rows = [row for row in paper_table("3") if row.name.startswith(("6 ", "8 "))]
    fixed, drawn = (
        row_config(row, replace(base, recipe=recipe)).full_recipe().crops for row in rows
    )
    if recipe == "paper":
        assert (fixed.sides, drawn.sides, drawn.late_sides) == ((512, 512), (512, 1024), None)
        return
    for done in (0.0, 1.0):
        rng = np.random.default_rng(0)
        pixels = np.mean([drawn.draw_side(rng, done) ** 2 for _ in range(4000)])
        assert pixels == pytest.approx(fixed.draw_side(rng, done) ** 2, rel=0.1)


@pytest.mark.slow
def test_single_rows_can_be_trained_apart(base: TrainConfig) -> None:
    results = train_table("2", base, only=["gia-l1", "sid-net"])
    assert [result.row.slug for result in results] == ["sid-net", "gia-l1"]
    assert [info.name for info in list_weights(base.run / "weights")] == ["sid-net", "gia-l1"]
    with pytest.raises(UsageError, match="no row 'gia': sid-net, sid-dilated, sw-net, gia-l1"):
        train_table("2", base, only=["gia"])


@pytest.mark.slow
def test_a_table_is_trained_exported_and_not_trained_twice(base: TrainConfig) -> None:
    rows: list[RowResult] = []
    results = train_table("2", base, on_row=rows.append)
    assert rows == results
    assert [result.row.name for result in results] == [row.name for row in paper_table("2")]
    assert all(result.result.steps == 2 for result in results)
    infos = list_weights(base.run / "weights")
    assert [info.name for info in infos] == [row.slug for row in paper_table("2")]
    assert [info.config.network for info in infos] == [row.network for row in paper_table("2")]
    again = train_table("2", base)
    assert [result.result.steps for result in again] == [2, 2, 2, 2]


@pytest.mark.slow
def test_a_row_without_its_features_is_left_out(
    base: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in paper_table("1") if row.name in ("Zamir et al.", "SID-Net")]
    monkeypatch.setattr(ablation, "paper_table", lambda table: rows)
    progress = ProgressSpy()
    results = train_table("1", base, progress)
    assert [result.row.name for result in results] == ["SID-Net"]
    assert any("Zamir et al. is left out" in note for note in progress.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": None}, "--budget"),
        ({"changes": {"loss": "l1"}}, "--loss"),
        ({"sides": (64, 64)}, "--sides"),
        ({"recipe": "finetune"}, "from scratch"),
    ],
)
def test_what_the_rows_decide_cannot_be_asked_for(
    base: TrainConfig, change: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        train_table("2", replace(base, **change))  # type: ignore[arg-type]
