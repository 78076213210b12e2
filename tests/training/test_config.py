"""What can be asked of a run: nonsense is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gia_cli.errors import UsageError
from gia_cli.training.config import RECIPES, TrainConfig
from gia_cli.training.loop import draw_skip_dropout

pytestmark = pytest.mark.usefixtures("one_thread")


def test_going_on_keeps_the_skips_from_the_first_step_on() -> None:
    recipe = RECIPES["finetune"]
    for done in (0.0, 0.5):
        cuts = [draw_skip_dropout(recipe, 0, step, done) > 0 for step in range(4000)]
        assert np.mean(cuts) == pytest.approx(recipe.skip_dropout_share, abs=0.02)
    assert recipe.crops.photos > RECIPES["small"].crops.photos


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"photos": ()}, "either --data TREE or --photos"),
        ({"data": Path("tree")}, "either --data TREE or --photos"),
        ({"budget_s": 5.0}, "not both"),
        ({"steps": 0}, "--steps must be positive"),
        ({"width": -1}, "--width must be positive"),
        ({"network": "vgg"}, "no network 'vgg'"),
        ({"workers": -1}, "--workers"),
        ({"changes": {"lr": 0.0}}, "--lr must be positive"),
        ({"changes": {"auxiliary_weight": -0.1}}, "--auxiliary-weight must be 0 or more"),
        ({"changes": {"checkerboard_weight": -1.0}}, "--checkerboard-weight must be 0 or more"),
        ({"changes": {"raw_weight": -1.0}}, "--raw-weight must be 0 or more"),
        (
            {"changes": {"raw_weight": 1.0}, "photos": (), "data": Path("tree")},
            "--raw-weight is for photographs",
        ),
        (
            {"changes": {"auxiliary_weight": float("nan")}},
            "--auxiliary-weight must be 0 or more",
        ),
        ({"sides": (64, 32)}, "--sides"),
        ({"sides": (20, 20)}, "contains no multiple of 16"),
        ({"sides": (520, 540), "recipe": "paper"}, "contains no multiple of 32"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_nonsense_is_refused(config: TrainConfig, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        replace(config, **change)
    assert caught.value.exit_code == 2
