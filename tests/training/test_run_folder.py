"""The run folder: whose it is, what it tells, and the weights exported from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gia_cli.errors import (
    OutputError,
    OutputExistsError,
    RunError,
    UsageError,
    WeightsNotFoundError,
)
from gia_cli.files import lock
from gia_cli.training.checkpoint import CHECKPOINT, read_checkpoint
from gia_cli.training.config import TrainConfig
from gia_cli.training.loop import train
from gia_cli.training.run_folder import (
    CONFIG,
    LOCK,
    export_run,
    read_config,
)
from gia_cli.weights.manifest import list_weights
from gia_cli.weights.storage import load_network
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.usefixtures("trained")
def test_another_run_in_the_folder_is_refused(config: TrainConfig) -> None:
    for change in ({"seed": 3}, {"width": 8}, {"changes": {"lr": 1.0}}, {"camera": "fuji"}):
        with pytest.raises(RunError, match="holds another run"):
            train(replace(config, **change))


@pytest.mark.usefixtures("trained")
def test_other_simulation_settings_make_another_run(config: TrainConfig) -> None:
    """What is drawn has changed before, and nothing told the weights apart."""
    there = read_config(config.run)
    assert there["scenes"]["daylight_share"] > 0
    there["scenes"]["daylight_share"] = 0.0
    (config.run / "config.json").write_text(json.dumps(there))
    with pytest.raises(RunError, match=r"its scenes\.daylight_share is 0\.0, not"):
        train(config)


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_a_run_goes_on_in_another_precision_and_back(config: TrainConfig) -> None:
    spy = ProgressSpy()
    assert train(replace(config, steps=5, precision="bf16"), spy).steps == 5
    assert any("precision was auto, now bf16" in note for note in spy.notes)
    assert train(replace(config, steps=6, precision="fp32"), spy).steps == 6
    assert any("precision was bf16, now fp32" in note for note in spy.notes)


@pytest.mark.usefixtures("trained")
def test_a_recipe_that_has_changed_is_named_by_its_field(config: TrainConfig) -> None:
    with pytest.raises(RunError, match=r"its recipe\.lr is 0\.0002, not 1\.0"):
        train(replace(config, changes={"lr": 1.0}))


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_what_an_older_version_did_not_know_is_not_compared(config: TrainConfig) -> None:
    path = config.run / CONFIG
    asked = json.loads(path.read_text())
    del asked["precision"], asked["recipe"]["auxiliary_weight"]
    path.write_text(json.dumps(asked))
    assert train(replace(config, steps=5)).steps == 5


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_a_run_from_before_the_renaming_continues(config: TrainConfig) -> None:
    path = config.run / CONFIG
    asked = json.loads(path.read_text())
    asked["nights"] = asked.pop("scenes")
    for old, new in {"facts_weight": "auxiliary_weight", "cut_until": "skip_dropout_until"}.items():
        asked["recipe"][old] = asked["recipe"].pop(new)
    path.write_text(json.dumps(asked))
    assert train(replace(config, steps=5)).steps == 5
    asked["nights"]["daylight_share"] += 0.1
    path.write_text(json.dumps(asked))
    with pytest.raises(RunError, match=r"its scenes\.daylight_share is"):
        train(replace(config, steps=6))


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_other_photographs_do_not_continue_a_run(
    config: TrainConfig, photos: Path, tmp_path: Path
) -> None:
    """Moved ones do: they are the same."""
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    assert train(replace(config, photos=(moved,), steps=5)).steps == 5
    (moved / "0.png").unlink()
    with pytest.raises(RunError, match="its data_digest is"):
        train(replace(config, photos=(moved,), steps=6))


@pytest.mark.slow
def test_a_mistake_claims_no_folder(config: TrainConfig) -> None:
    with pytest.raises(WeightsNotFoundError):
        train(replace(config, init_from="nobody"))
    assert train(config).steps == 4


@pytest.mark.slow
def test_two_runs_in_one_folder_are_not_possible(config: TrainConfig) -> None:
    config.run.mkdir()
    with lock(config.run / LOCK) as is_ours:
        assert is_ours
        with pytest.raises(RunError, match="Another process is training"):
            train(config)
    assert train(config).steps == 4


def test_a_run_folder_that_cannot_be_made_is_reported(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        train(replace(config, run=tmp_path / "file" / "run"))


@pytest.mark.usefixtures("trained")
def test_a_damaged_checkpoint_is_named(config: TrainConfig) -> None:
    path = config.run / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged") as caught:
        train(config)
    assert caught.value.exit_code == 71


@pytest.mark.slow
def test_what_an_older_recipe_did_not_know_of_it_did_not_do(config: TrainConfig) -> None:
    wide = replace(config, recipe="finetune", width=12, steps=1)
    train(replace(wide, changes={"auxiliary_weight": 0.0, "teacher_forcing_until": 0.0}))
    path = config.run / CONFIG
    older = json.loads(path.read_text())
    for name in ("auxiliary_weight", "teacher_forcing_until"):
        del older["recipe"][name]
    path.write_text(json.dumps(older))
    with pytest.raises(
        RunError, match=r"recipe\.(auxiliary_weight|teacher_forcing_until) is 0.0, not 0"
    ):
        train(replace(wide, steps=2))
    train(replace(wide, steps=2, changes={"auxiliary_weight": 0.0, "teacher_forcing_until": 0.0}))


@pytest.mark.usefixtures("trained")
def test_exported_weights_are_the_averaged_ones(config: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "weights"
    row = export_run(config.run, "mine", folder, data_note="three squares", licence="CC0")
    assert row["training"]["steps"] == 4
    assert row["training"]["seed"] == 0
    assert row["training"]["data"] == "three squares"
    assert str(tmp_path) not in (folder / "manifest.json").read_text()
    (info,) = list_weights(folder)
    network = load_network(info)
    ema = read_checkpoint(config.run)["ema"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, ema[name].half().float()), name
    with pytest.raises(OutputExistsError):
        export_run(config.run, "mine", folder)
    export_run(config.run, "mine", folder, overwrite=True)
    export_run(config.run, "other", folder)
    assert [info.name for info in list_weights(folder)] == ["mine", "other"]


def test_export_needs_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the folder of a training run"):
        export_run(tmp_path, "x", tmp_path)
    (tmp_path / CONFIG).write_text("{}")
    with pytest.raises(RunError, match="no checkpoint yet"):
        export_run(tmp_path, "x", tmp_path)
    with pytest.raises(UsageError, match="not a name for weights"):
        export_run(tmp_path, "../x", tmp_path)
