"""Training is timed by the steps that count, with as many workers as are asked for."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gia_cli.benchmark import training as bench
from gia_cli.benchmark.training import TrainingConfig, Way, measure_training
from gia_cli.errors import UsageError
from gia_cli.training import loop
from gia_cli.training.config import TrainConfig
from tests.data.test_synthetic import write_photos

BOTH = (Way("numpy", 0), Way("torch", 0))


def test_the_last_fifty_steps_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the start, in which the first crops are waited for and the cache is made."""
    asked: list[TrainConfig] = []

    def train(config: TrainConfig) -> None:
        asked.append(config)
        config.run.mkdir()
        rows = [{"step": 1, "seconds": 30.0}, {"step": 50, "seconds": 40.0}]
        rows.append({"step": 100, "seconds": 45.0})
        lines = [json.dumps({**row, "images_per_s": 4.0}) for row in rows]
        lines.insert(2, json.dumps({"step": 50, "validation_psnr": 20.0, "seconds": 41.0}))
        (config.run / "log.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr("gia_cli.training.loop.train", train)
    config = TrainingConfig(tmp_path, device="cpu", side=64)
    assert bench.seconds_a_step(config, tmp_path, Way("numpy", 2)) == pytest.approx(0.1)
    assert (asked[0].workers, asked[0].steps, asked[0].sides) == (2, 100, (64, 64))
    assert (asked[0].simulation, asked[0].recipe) == ("numpy", "small")
    large = replace(config, recipe="gpu", side=None)
    bench.seconds_a_step(large, tmp_path, Way("torch", 0), 1)
    assert (asked[1].simulation, asked[1].recipe) == ("torch", "gpu")
    assert asked[1].sides == (256, 256)


def test_each_recipe_is_timed_in_its_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "available_cores", lambda: 16)
    small = TrainingConfig(tmp_path)
    assert [way.workers for way in small.chosen_ways] == [0, 1, 2, 0]
    assert [way.workers for way in replace(small, recipe="gpu").chosen_ways] == [0, 14, 0]
    assert [way.simulation for way in small.chosen_ways[-2:]] == ["numpy", "torch"]


def test_a_run_that_was_stopped_has_no_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gia_cli.training.loop.train", lambda config: None)  # no log at all
    with pytest.raises(RuntimeError, match="stopped"):
        bench.seconds_a_step(TrainingConfig(tmp_path, device="cpu"), tmp_path, Way("numpy", 0))


def test_failures_are_reported_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: Any, folder: Path, way: Way, turn: int) -> float | str:
        return "no room" if way.simulation == "torch" else 0.25 + turn

    monkeypatch.setattr(bench, "_run", run)
    none, one = measure_training(TrainingConfig(tmp_path, ways=BOTH, rounds=2))
    assert (none.seconds, none.median, none.error) == ([0.25, 1.25], 0.75, None)
    assert (one.seconds, one.error) == ([], "no room")


@pytest.mark.slow
def test_a_process_trains_and_answers_how_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_LOG_EVERY", 2)
    monkeypatch.setattr(bench, "_STEPS", 4)
    monkeypatch.setattr(bench, "_TIMED", 2)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # what Ctrl-C does here stays
    write_photos(tmp_path / "photos", 2, (70, 80))
    config = TrainingConfig(tmp_path / "photos", side=16, device="cpu")
    ours, theirs = multiprocessing.Pipe()
    bench._serve(theirs, config, tmp_path, Way("torch", 0), 0)
    assert 0 < ours.recv() < 10


@pytest.mark.slow
def test_each_run_is_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    config = TrainingConfig(tmp_path / "photos", ways=BOTH[:1], device="cpu", rounds=1)
    (speed,) = measure_training(config)
    assert speed.error is not None and "no photograph in" in speed.error


def test_mistakes_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--rounds"):
        TrainingConfig(tmp_path, rounds=0)
    with pytest.raises(UsageError, match="There is no"):
        TrainingConfig(tmp_path / "none")
