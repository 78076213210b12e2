"""Training: resumes to the bit, agrees between processes, learns, and refuses nonsense."""

from __future__ import annotations

import copy
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch.distributed import run as torchrun
from typer.testing import CliRunner

import gia_cli
from gia_cli.cli.app import app
from gia_cli.data.augment import Pair
from gia_cli.data.auxiliary import AUXILIARY
from gia_cli.data.batches import Batch, load
from gia_cli.data.crops import CropOptions
from gia_cli.errors import (
    DataError,
    DivergedError,
    Interrupted,
    OutOfMemoryError,
    ProcessLostError,
    RunError,
    Terminated,
)
from gia_cli.nets.config import NETWORKS, NetConfig
from gia_cli.training import loop as training
from gia_cli.training import losses, setup
from gia_cli.training.auxiliary import Trainee, auxiliary_loss
from gia_cli.training.checkpoint import CHECKPOINT, PREVIOUS, read_checkpoint
from gia_cli.training.config import RECIPES, LossName, TrainConfig
from gia_cli.training.distributed import Ranks
from gia_cli.training.log import CURVES, read_log
from gia_cli.training.loop import draw_skip_dropout, is_teacher_forced, learning_rate, train
from gia_cli.training.run_folder import export_run
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import load_arrays, save_weights
from tests.networks import lively
from tests.one_device import META, OneDevice
from tests.training.runs import StopAt, assert_equal, job_on, random_batch, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- resume


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes_to_the_bit(config: TrainConfig, number: signal.Signals) -> None:
    stopped = replace(config, run=config.run.with_name("stopped"))
    with pytest.raises(Interrupted, match="step 2") as caught:
        train(stopped, StopAt(2, number))
    assert caught.value.exit_code == 128 + number
    assert read_checkpoint(stopped.run)["step"] == 2
    listener = StopAt(-1)
    train(stopped, listener)
    assert any("Resuming at step 2" in note for note in listener.notes)
    assert_equal(weights_of(config.run), weights_of(stopped.run))


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_workers_make_the_same_batches(config: TrainConfig) -> None:
    other = replace(config, run=config.run.with_name("workers"), workers=2)
    train(other)
    assert_equal(weights_of(config.run), weights_of(other.run))


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_the_seed_decides(config: TrainConfig) -> None:
    other = replace(config, run=config.run.with_name("other"), seed=1)
    train(other)
    first, second = weights_of(config.run), weights_of(other.run)
    assert not torch.equal(first["network.to_rgb.weight"], second["network.to_rgb.weight"])


@pytest.mark.usefixtures("trained")
def test_a_finished_run_takes_no_further_step(config: TrainConfig) -> None:
    before = weights_of(config.run)
    assert train(config).steps == 4
    assert_equal(before, weights_of(config.run))


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_a_finished_run_can_be_made_longer(config: TrainConfig) -> None:
    listener = StopAt(-1)
    assert train(replace(config, steps=6), listener).steps == 6
    assert any("steps was 4, now 6" in note for note in listener.notes)


@pytest.mark.slow
def test_pictures_that_cannot_be_written_do_not_end_a_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(training, "write_panel", fail)
    listener = StopAt(-1)
    assert train(config, listener).steps == 4
    assert any("No picture of step 4" in note for note in listener.notes)
    assert read_checkpoint(config.run)["step"] == 4


def test_a_worker_that_dies_is_reported_and_loses_nothing(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*arguments: Any, **options: Any) -> Iterator[Any]:
        for number, batch in enumerate(load(*arguments, **options)):
            if number == 2:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
            yield batch

    monkeypatch.setattr(training, "load", dying)
    with pytest.raises(DataError, match="has died"):
        train(config)
    assert read_checkpoint(config.run)["step"] == 2


def test_a_worker_that_heard_of_the_end_first_is_no_worker_that_died(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*arguments: Any, **options: Any) -> Iterator[Any]:
        for number, batch in enumerate(load(*arguments, **options)):
            if number == 2:
                signal.raise_signal(signal.SIGTERM)
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")
            yield batch

    monkeypatch.setattr(training, "load", ended)
    with pytest.raises(Terminated, match="Stopped at step 2") as caught:
        train(config)
    assert caught.value.exit_code == 143
    assert read_checkpoint(config.run)["step"] == 2


_GIA_SCRIPT = """
from gia_cli.training import log
log._has_matplotlib, log._tensorboard = lambda: False, lambda *_: None  # which take longer
from gia_cli.__main__ import main
main()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_a_whole_process_group_can_be_ended(config: TrainConfig) -> None:
    """As a scheduler does; `timeout` sends SIGTERM to the process first, then to its group."""
    options = f"train --run {config.run} --photos {config.photos[0]} --cache {config.cache} "
    options += "--width 4 --sides 16-32 --crops-per-photo 2 --workers 2 --steps 1000000 "
    options += "--device cpu --checkpoint-every 0s --validate-every 1000h"
    with subprocess.Popen(
        [sys.executable, "-c", _GIA_SCRIPT, *options.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not (config.run / CHECKPOINT).exists():
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    step = read_checkpoint(config.run)["step"]
    assert process.returncode == 143, stderr
    assert stderr.endswith(f"error: Stopped at step {step}. Run the same command to resume.\n")
    assert len(workers) >= 2 and not any(worker.is_running() for worker in workers)
    assert train(replace(config, steps=step + 1)).steps == step + 1


@pytest.mark.slow
def test_too_few_photographs_to_validate_are_noted_and_exported(
    config: TrainConfig, tmp_path: Path
) -> None:
    listener = StopAt(-1)
    train(config, listener)
    assert any("how well the network generalizes" in note for note in listener.notes)
    row = export_run(config.run, "mine", tmp_path / "weights")
    assert row["training"]["validated_on"] == "the same photos"


@pytest.mark.slow
def test_a_budget_that_opening_has_used_up_leaves_one_step_to_export(config: TrainConfig) -> None:
    result = train(replace(config, steps=None, budget_s=1e-6))
    assert result.steps == 1
    assert read_checkpoint(config.run)["step"] == 1


@pytest.mark.slow
def test_a_run_by_the_clock_ends_by_the_clock(config: TrainConfig) -> None:
    timed = replace(config, steps=None, budget_s=2.0)
    result = train(timed)
    assert result.steps > 0
    assert 2 <= result.seconds < 60
    saved = read_checkpoint(config.run)
    assert saved["elapsed_s"] >= 2
    assert train(timed).steps == result.steps  # the time is used up


# ---------------------------------------------------------------- what it leaves


@pytest.mark.slow
@pytest.mark.usefixtures("plots")
def test_a_run_leaves_log_curves_and_validation(config: TrainConfig) -> None:
    result = train(replace(config, steps=60))
    rows = read_log(config.run)
    assert [row["step"] for row in rows if "loss" in row] == [1, 50, 60]
    assert np.isfinite(result.loss)
    (score,) = [row["validation_psnr"] for row in rows if "validation_psnr" in row]
    assert score == pytest.approx(result.validation_psnr, rel=1e-4)
    assert (config.run / CURVES).stat().st_size > 1000
    assert (config.run / "validation" / "step-00000060.png").is_file()
    assert list((config.run / "tensorboard").iterdir())


@pytest.mark.slow
def test_it_learns(config: TrainConfig) -> None:
    """Small as it is, the network gets better at its own photographs."""
    short = train(replace(config, steps=2, changes={"ema": 0.9, "warmup": 0, "lr": 2e-3}))
    longer = replace(config, run=config.run.with_name("longer"), steps=150)
    result = train(replace(longer, changes={"ema": 0.9, "warmup": 0, "lr": 2e-3}))
    assert result.validation_psnr > short.validation_psnr + 2


@pytest.mark.slow
@pytest.mark.parametrize("camera", ["sony", "fuji"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_trains_on_every_camera(
    config: TrainConfig, camera: Any, network: str
) -> None:
    result = train(replace(config, camera=camera, network=network, steps=1))
    assert np.isfinite(result.validation_psnr)
    assert result.validation_psnr > -20  # the first weights already make something like a picture


@pytest.mark.slow
@pytest.mark.parametrize("camera", ["sony", "fuji"])
def test_a_network_that_gets_the_balance_trains(config: TrainConfig, camera: Any) -> None:
    given = replace(config, camera=camera, white_balance="as-shot", steps=2)
    assert np.isfinite(train(given).validation_psnr)
    row = export_run(given.run, "wb", given.run / "weights")
    assert row["config"]["white_balance"] == "as-shot"
    with pytest.raises(RunError, match=r"network\.white_balance"):
        train(replace(given, white_balance="learned"))


def test_the_published_recipe_runs(config: TrainConfig) -> None:
    """On photographs as small as these its crops are held, and it says so."""
    listener = StopAt(-1)
    train(replace(config, recipe="paper", sides=None, crops_per_photo=None, steps=1), listener)
    assert any("limited to 96 packed px" in note for note in listener.notes)


# ---------------------------------------------------------------- the pieces


def test_the_learning_rate_follows_its_schedule() -> None:
    paper, small = RECIPES["paper"], RECIPES["small"]
    assert [learning_rate(paper, 10**6, done) for done in (0, 0.49, 0.5, 1)] == [
        1e-4,
        1e-4,
        1e-5,
        1e-5,
    ]
    printed = RECIPES["paper-as-printed"]
    assert learning_rate(printed, 0, 0) == 0.1
    assert learning_rate(printed, 0, 0.5) == pytest.approx(0.01)
    assert learning_rate(small, 0, 0) == pytest.approx(small.lr / small.warmup)
    assert learning_rate(small, 10**6, 0) == pytest.approx(small.lr)
    assert learning_rate(small, 10**6, 0.5) == pytest.approx((small.lr + small.last_lr) / 2)
    assert learning_rate(small, 10**6, 1) == pytest.approx(small.last_lr)


@pytest.mark.slow
def test_a_stopped_run_with_batch_statistics_resumes_to_the_bit(config: TrainConfig) -> None:
    config = replace(config, network="dncnn")
    train(config)
    stopped = replace(config, run=config.run.with_name("stopped"))
    with pytest.raises(Interrupted, match="step 2"):
        train(stopped, StopAt(2))
    train(stopped)
    assert_equal(weights_of(config.run), weights_of(stopped.run))


def test_the_cuts_are_frequent_at_first_and_never_stop() -> None:
    recipe = RECIPES["small"]
    early = [draw_skip_dropout(recipe, 0, step, 0.0) for step in range(400)]
    late = [draw_skip_dropout(recipe, 0, step, 0.9) for step in range(4000)]
    assert set(early) == {1, 2, 3, 4}
    assert np.bincount(early)[1:] / len(early) == pytest.approx([0.25] * 4, abs=0.08)
    assert np.mean(np.array(late) > 0) == pytest.approx(recipe.skip_dropout_share, abs=0.02)
    half = [
        draw_skip_dropout(recipe, 0, step, recipe.skip_dropout_until / 2) > 0
        for step in range(2000)
    ]
    assert np.mean(half) == pytest.approx(0.5, abs=0.05)
    assert early == [draw_skip_dropout(recipe, 0, step, 0.0) for step in range(400)]
    assert not any(draw_skip_dropout(RECIPES["paper"], 0, step, 0.0) for step in range(100))


def test_teacher_forcing_becomes_less_and_less_frequent() -> None:
    recipe = RECIPES["finetune"]
    for done, share in (
        (0.0, 1.0),
        (recipe.teacher_forcing_until / 2, 0.5),
        (recipe.teacher_forcing_until, 0.0),
    ):
        given = [is_teacher_forced(recipe, 1, step, done) for step in range(2000)]
        assert np.mean(given) == pytest.approx(share, abs=0.05)
        assert given == [is_teacher_forced(recipe, 1, step, done) for step in range(2000)]
    assert not any(is_teacher_forced(RECIPES["small"], 1, step, 0.0) for step in range(100))


@pytest.mark.slow
def test_a_run_has_auxiliary_targets_if_its_recipe_says_so(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(setup, "_FIT_SCENES", 2)

    def spy(vector: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        asked.append(targets)
        return auxiliary_loss(vector, targets)

    monkeypatch.setattr(training, "auxiliary_loss", spy)
    train(replace(config, recipe="finetune", width=12, steps=2, seed=1))  # no light too far off
    assert len(asked) == 2
    assert all(((targets >= 0) & (targets <= 1)).all() for targets in asked)
    assert torch.equal(asked[0][0], asked[0][1])  # two crops of a photo
    assert not torch.equal(asked[0][0], asked[0][2])
    train(replace(config, recipe="small", run=config.run.with_name("other")))
    assert len(asked) == 2


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_the_last_steps_are_saved_wherever_the_log_stands(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(training, "_LOG_EVERY", 2)
    train(replace(config, steps=steps))
    assert read_checkpoint(config.run)["step"] == steps


@pytest.mark.slow
def test_the_loss_against_patterns_is_taken_by_its_weight(config: TrainConfig) -> None:
    """It is logged where the recipe asks for it, and pulls the weights elsewhere."""
    left, right = (
        replace(config, run=config.run.with_name(name), changes={"checkerboard_weight": weight})
        for name, weight in (("without", 0.0), ("with", 5.0))
    )
    for run, is_logged in ((left, False), (right, True)):
        train(run)
        rows = [row for row in read_log(run.run) if "loss" in row]
        assert rows and all(("checkerboard" in row) == is_logged for row in rows)
    first, second = weights_of(left.run), weights_of(right.run)
    assert not torch.equal(first["network.to_rgb.weight"], second["network.to_rgb.weight"])


@pytest.mark.slow
def test_a_raw_head_pulls_by_its_weight_and_stays_behind(
    config: TrainConfig, tmp_path: Path
) -> None:
    """It is logged and resumed where it is asked for; what is exported has the same tensors."""
    left, right = (
        replace(config, run=config.run.with_name(name), changes={"raw_weight": weight})
        for name, weight in (("without", 0.0), ("with", 1.0))
    )
    for run, is_logged in ((left, False), (right, True)):
        train(run)
        rows = [row for row in read_log(run.run) if "loss" in row]
        assert rows and all(("raw" in row) == is_logged for row in rows)
    first, second = weights_of(left.run), weights_of(right.run)
    assert second.keys() - first.keys() == {"raw_head.weight", "raw_head.bias"}
    name = "network.encoder.0.0.weight"
    assert not torch.equal(first[name], second[name])
    stopped = replace(right, run=config.run.with_name("stopped"))
    with pytest.raises(Terminated):
        train(stopped, StopAt(2))
    train(stopped)
    assert_equal(second, weights_of(stopped.run))
    rows = [export_run(run.run, run.run.name, tmp_path / "out") for run in (left, right)]
    exported = [load_arrays(find_weights(tmp_path / "out" / row["file"])) for row in rows]
    assert exported[0].keys() == exported[1].keys()
    assert rows[0]["config"] == rows[1]["config"]
    assert rows[1]["training"]["recipe"]["raw_weight"] == 1
    with pytest.raises(RunError, match=r"its recipe\.raw_weight is 1\.0, not 0\.5"):
        train(replace(right, changes={"raw_weight": 0.5}))


@pytest.mark.slow
def test_torch_simulates_what_a_raw_head_learns(config: TrainConfig) -> None:
    asked = replace(config, simulation="torch", steps=1, changes={"raw_weight": 1.0})
    train(asked)
    other = replace(asked, run=config.run.with_name("numpy"), simulation="numpy")
    train(other)
    torchs, numpys = (
        next(row["raw"] for row in read_log(run) if "raw" in row) for run in (asked.run, other.run)
    )
    assert torchs == pytest.approx(numpys, rel=0.3)  # of one scene, with other noise


def test_a_raw_head_needs_a_network_with_levels(config: TrainConfig) -> None:
    options = f"train --run {config.run} --photos {config.photos[0]} --cache {config.cache} "
    options += "--steps 1 --network dncnn --raw-weight 1"
    done = CliRunner().invoke(app, options.split())
    assert done.exit_code == 2
    assert "--raw-weight needs a U-Net, which dncnn is not." in " ".join(done.stderr.split())
    assert not config.cache or not config.cache.exists()  # before anything is decoded


# ---------------------------------------------------------------- devices


def meta_job(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, network: str, loss: LossName
) -> setup.Job:
    """A run with all its losses on the meta device."""
    monkeypatch.setattr(losses, "load_vgg", lambda _: losses.VggFeatures())
    asked = replace(config, recipe="finetune", network=network, width=12, changes={"loss": loss})
    return job_on(META, replace(asked, vgg=Path("vgg") if loss == "zamir" else None))


def assert_moved_once(rules: OneDevice, batch: Batch) -> None:
    """First the batch, and then nothing but small constants."""
    shapes = [tuple(x.shape) for x in batch[:3]]
    assert rules.first == shapes
    constants = rules.copied[len(shapes) :]
    assert all(math.prod(shape) < 100 for shape in constants), constants


@pytest.mark.parametrize("loss", get_args(LossName))
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_come_of_a_batch_that_is_moved_once(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, network: str, loss: LossName
) -> None:
    job, batch = meta_job(config, monkeypatch, network, loss), random_batch()
    with OneDevice() as rules:
        found = training._gradients(job, batch, 2, is_teacher_forced=True)
    assert all(x.device == META for x in found.values())
    assert ("auxiliary" in found) == (network == "gia-net")
    assert all(x.grad is not None for x in job.state.trainee.parameters())
    assert_moved_once(rules, batch)


def test_a_step_stays_on_its_device(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    job, batch = meta_job(config, monkeypatch, "gia-net", "l1"), random_batch()
    with OneDevice() as rules:
        training._step(job, batch, 1e-4, 0, is_teacher_forced=False)
    assert_moved_once(rules, batch)


def test_clean_planes_are_moved_with_the_batch(config: TrainConfig) -> None:
    job, batch = job_on(META, replace(config, changes={"raw_weight": 1.0})), random_batch()
    known = batch._replace(clean=batch.planes)
    with OneDevice() as rules:
        found = training._gradients(job, known, 0, is_teacher_forced=False)
    assert found["raw"].device == META
    assert rules.first == [tuple(x.shape) for x in (*batch[:3], batch.planes)]
    assert all(x.grad is not None for x in job.state.trainee.parameters())


@pytest.mark.parametrize("old", ["waits", "late"])
def test_the_rules_of_one_device_can_be_broken(old: str) -> None:
    """What was wrong before: a copy that waits, one in mid-forward, and devices that are mixed."""
    target, on_device = torch.rand(2, 4), torch.ones(2, 4, device=META)
    with OneDevice() as rules:
        if old == "waits":
            with pytest.raises(AssertionError, match="waits"):
                target.to(META)
        else:
            (on_device + 1).add_(target.to(META, non_blocking=True))
            assert rules.copied == [(2, 4)]
            assert not rules.first


# ---------------------------------------------------------------- memory


class AnySource:
    """Crops of noise."""

    has_auxiliary_targets = True

    def digest(self) -> str:
        return "noise"

    def largest_side(self) -> int:
        return 1000

    def pairs(self, rng: np.random.Generator, *, count: int, side: int) -> list[Pair]:
        def draw(*shape: int) -> NDArray[np.float32]:
            return rng.random(shape, np.float32)

        return [Pair(draw(4, side, side), draw(3, 2 * side, 2 * side)) for _ in range(count)]


@pytest.mark.parametrize("network", ["gia-net", "dncnn"])
def test_a_rehearsal_with_the_largest_crops_leaves_nothing(
    config: TrainConfig, network: str
) -> None:
    """Not in the weights, nor in batch normalisation's statistics, nor in what is drawn later."""
    late = CropOptions(photos=1, crops=2, sides=(16, 16), multiple=16, late_sides=(32, 40))
    asked = replace(config, network=network, sides=None, crops_per_photo=None, crops=late)
    job = job_on(torch.device("cpu"), asked)
    job.source = AnySource()
    sides = []
    job.state.trainee.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[2]))
    before = copy.deepcopy(job.state.to_dict(0))
    draws = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    training._rehearse(job)
    assert sides == [32]
    after = job.state.to_dict(0)
    assert_equal(after["trainee"], before["trainee"])
    assert_equal(after["ema"], before["ema"])
    assert after["optimizer"]["state"] == {} and after["step"] == 0
    assert all(x.grad is None for x in job.state.trainee.parameters())
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert np.array_equal(np.random.get_state()[1], draws[1])  # type: ignore[index]


def test_a_rehearsal_holds_as_much_as_the_optimizer_will(config: TrainConfig) -> None:
    job = job_on(torch.device("cpu"), config)
    held = sum(x.nbytes for x in training._moments_to_come(job))
    training._step(job, random_batch(), 1e-4, 0, is_teacher_forced=False)
    states = job.state.optimizer.state.values()
    kept = sum(x.nbytes for state in states for x in state.values() if x.dim())
    assert held == kept > 0
    assert training._moments_to_come(job) == []


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_a_run_is_the_same_with_a_rehearsal(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed: list[setup.Job] = []
    rehearse = training._rehearse

    def spy(job: setup.Job) -> None:
        rehearsed.append(job)
        rehearse(job)

    monkeypatch.setattr(training, "_has_own_memory", lambda _: True)
    monkeypatch.setattr(training, "_rehearse", spy)
    other = replace(config, run=config.run.with_name("rehearsed"))
    train(other)
    assert len(rehearsed) == 1
    assert_equal(weights_of(config.run), weights_of(other.run))
    train(other)  # finished: there is no step to rehearse for
    assert len(rehearsed) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_crops_that_do_not_fit_are_told_before_the_first_step(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    forward = Trainee.forward

    def limited(self: Trainee, planes: torch.Tensor, *rest: Any) -> Any:
        if planes.shape[2] >= 32:  # the largest; the first is smaller
            raise error
        return forward(self, planes, *rest)

    monkeypatch.setattr(Trainee, "forward", limited)
    monkeypatch.setattr(training, "_has_own_memory", lambda _: True)
    monkeypatch.setattr(training, "_step", lambda *_, **__: pytest.fail("took a step"))
    with pytest.raises(OutOfMemoryError, match="The cpu has too little memory for these crops"):
        train(config)
    assert not (config.run / CHECKPOINT).exists()


def test_want_of_memory_while_a_run_is_opened_is_told(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(setup, "_new_state", full)
    with pytest.raises(OutOfMemoryError) as caught:
        train(config)
    assert caught.value.exit_code == 51


# ---------------------------------------------------------------- refusals


def test_a_loss_that_is_no_number_ends_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(name: str, **_: Any) -> Callable[[torch.Tensor, torch.Tensor], Any]:
        return lambda picture, target: (picture - target).sum() * float("nan")

    monkeypatch.setattr(setup, "make_loss", explode)
    with pytest.raises(DivergedError, match="nan") as caught:
        train(config)
    assert caught.value.exit_code == 72


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "function", "changes", "steps_are_taken"),
    [
        ("distillation", "teacher_picture", {}, True),
        ("distillation", "teacher_picture", {}, False),
        ("auxiliary", "auxiliary_loss", {"auxiliary_weight": 0.1}, False),
        ("raw", "raw_loss", {"raw_weight": 0.1}, False),
        ("checkerboard", "checkerboard_loss", {"checkerboard_weight": 0.1}, False),
    ],
)
def test_a_term_of_the_loss_that_is_no_number_ends_the_run_and_is_named(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    function: str,
    changes: dict[str, float],
    steps_are_taken: bool,
) -> None:
    """A step spoils the weights, and the loss with them; half precision takes none, and it stays.

    In the first case the loss is no number either by the next step, and is not the one to name.
    """
    genuine, calls = getattr(training, function), 0

    def spoilt(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        made: torch.Tensor = genuine(*arguments)
        return made * math.nan if calls == 3 else made

    monkeypatch.setattr(training, function, spoilt)
    monkeypatch.setattr(setup, "_init_identity_path", lambda *_: None)  # which takes a minute
    if not steps_are_taken:
        monkeypatch.setattr(torch.amp.GradScaler, "step", lambda *_: None)
    if name == "distillation":
        path = tmp_path / "teacher.safetensors"
        of = NetConfig("gia-net", width=4, input_floor=None)
        save_weights(path, lively(of), camera="ILCE-7SM2")
        config = replace(config, teacher=str(path))
    width = 2 * AUXILIARY + 2  # a vector that has room for them
    with pytest.raises(DivergedError) as caught:
        train(replace(config, width=width, changes=changes, steps=5))
    assert caught.value.message == f"The {name} loss is nan at step 3."
    assert ("--teacher" in caught.value.hint) == (name == "distillation")
    assert caught.value.exit_code == 72
    assert not (config.run / CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["9 loss nan", "8 distillation inf"], "The distillation loss is inf at step 8."),
        (["9 loss nan", "10 loss nan"], "The loss is nan at step 9."),
    ],
)
def test_the_first_of_all_processes_names_what_went_wrong(said: list[str], expected: str) -> None:
    own: list[str] = []

    class Two(Ranks):
        def gather(self, word: str) -> list[str]:
            own.append(word)
            return said

    whole, wrong = ({"loss": torch.tensor(x), "raw": torch.tensor(1.0)} for x in (1.0, math.nan))
    error = training._diverged(Two(), 10, [whole, wrong, wrong], {"loss": math.nan, "raw": 1.0})
    assert own == ["9 loss nan"] and error.message == expected
    training._diverged(Two(), 10, [whole], {"loss": 1.0, "raw": math.inf})
    assert own[1:] == ["10 raw inf"]  # another process's


# ---------------------------------------------------------------- several processes


@pytest.mark.parametrize(("world", "expected"), [(2, ProcessLostError), (1, RuntimeError)])
def test_a_process_that_is_lost_is_told_in_a_line(world: int, expected: type[Exception]) -> None:
    error = RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:39222")
    with pytest.raises(expected), training._plain_words(torch.device("cpu"), Ranks(world=world)):
        raise error


_RANK_SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from gia_cli.training import log, loop as t

log._has_matplotlib, log._tensorboard = lambda: False, lambda *_: None  # which take longer
save, step = t.save_checkpoint, t._step

def save_each(job):
    torch.save(job.state.trainee.state_dict(), job.config.run / f"rank{job.ranks.rank}.pt")
    save(job)

def step_or_die(job, *rest, **named):
    first_try = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    dies = first_try and job.config.run.name == "disturbed" and job.ranks.rank == 1
    if dies and job.state.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(job, *rest, **named)

t.save_checkpoint, t._step = save_each, step_or_die
torch.set_num_threads(1)
for run in sys.argv[3:]:
    t.train(t.TrainConfig(
        run=Path(run), camera="sony", photos=(Path(sys.argv[1]),), cache=Path(sys.argv[2]),
        width=4, steps=6, sides=(16, 32), crops_per_photo=2, workers=0, device="cpu",
        checkpoint_every_s=0,
    ))
"""


# A script that torchrun runs has its own folder in front, not the current one.
PACKAGE = Path(gia_cli.__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE)}


def on_nodes(count: int, *command: Any) -> list[subprocess.Popen[str]]:
    """Start torchrun with one process each as on several machines, which are all this one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={count}"]
    launch += ["--nproc-per-node=1", "--max-restarts=2", "--rdzv-backend=c10d"]
    launch += [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=gia", *map(str, command)]
    return [
        subprocess.Popen(launch, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo needs a POSIX system here")
def test_two_nodes_agree_and_survive_a_killed_process(tmp_path: Path, photos: Path) -> None:
    """Equal parameters on both ranks; a killed rank's run ends where an undisturbed one does.

    Both write nowhere but into one folder, as on shared storage.
    """
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    script = tmp_path / "ranks.py"
    script.write_text(_RANK_SCRIPT)
    nodes = on_nodes(2, script, photos, tmp_path / "cache", undisturbed, disturbed)
    said = [node.communicate(timeout=300)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "".join(said)[-3000:]
    assert "-9" in "".join(said) or "SIGKILL" in "".join(said)  # it did die
    assert "strides" not in "".join(said)  # of gradients, which would be copied
    for run in (undisturbed, disturbed):
        ranks = [torch.load(run / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert_equal(*ranks)
        assert read_checkpoint(run)["step"] == 6
        assert {path.name for path in run.glob("*checkpoint*")} == {CHECKPOINT, PREVIOUS}
    assert_equal(weights_of(undisturbed), weights_of(disturbed))


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo needs a POSIX system here")
def test_sigterm_to_torchrun_saves_a_checkpoint(config: TrainConfig) -> None:
    """As a scheduler does to a job that it preempts; all processes stop after the same step."""
    options = f"train --run-folder {config.run} --photos {config.photos[0]} --width 4 "
    options += f"--cache {config.cache} --sides 16-32 --crops-per-photo 2 --workers 0 "
    options += "--steps 1000000 --device cpu --checkpoint-every 1000h --validate-every 1000h"
    script = config.photos[0].parent / "gia.py"
    script.write_text(_GIA_SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with subprocess.Popen(
        [sys.executable, *launch, str(script), *options.split()],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as torchrun:
        while torchrun.poll() is None and not read_log(config.run):
            time.sleep(0.1)
        torchrun.send_signal(signal.SIGTERM)
        _, said = torchrun.communicate(timeout=60)
    step = read_checkpoint(config.run)["step"]
    assert said.count(f"error: Stopped at step {step}. Run the same command to resume.") == 2, said
    assert step > 0


@pytest.mark.slow
def test_torchrun_hands_on_the_command_of_the_cookbook(tmp_path: Path, photos: Path) -> None:
    """`--run` would be taken for torchrun's own `--run-path`."""
    cookbook = (Path(__file__).parents[2] / "docs" / "cookbook.md").read_text(encoding="utf-8")
    lines = [line for line in cookbook.splitlines() if line.startswith("torchrun ")]
    assert len(lines) == 2  # on many photographs, and on a GPU elsewhere
    for number, line in enumerate(lines):
        run = tmp_path / f"run{number}"
        words = shlex.split(line, comments=True)[1:]
        words[words.index("--photos") + 1] = str(photos)
        words[words.index("--budget") : words.index("--budget") + 2] = ["--steps", "2"]
        words[words.index("--run-folder") + 1] = str(run)
        words += ["--cache", str(tmp_path / "cache"), "--width", "4", "--sides", "16"]
        handed_on = torchrun.parse_args([*words, "--workers", "0"])
        assert handed_on.module and handed_on.training_script == "gia_cli"
        assert int(handed_on.nproc_per_node) > 1
        done = CliRunner().invoke(app, handed_on.training_script_args)
        assert done.exit_code == 0, done.output
        assert done.stdout.split() == [str(run)]
        assert read_checkpoint(run)["step"] == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_it_trains_on_a_gpu(config: TrainConfig, precision: Any) -> None:
    result = train(replace(config, device="cuda", precision=precision, steps=20))
    assert np.isfinite(result.validation_psnr)
    assert all(x.isfinite().all() for x in weights_of(config.run).values())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_a_gpu_changes_its_precision_and_is_not_changed_by_its_rehearsal(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of convolutions are added up in any order there: the same, nearly."""
    with_one = replace(config, device="cuda", precision="fp32")
    without = replace(with_one, run=config.run.with_name("without"))
    train(with_one)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_has_own_memory", lambda _: False)
        train(without)
    first, second = weights_of(with_one.run), weights_of(without.run)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=1e-4, msg=name)
    precisions: list[Any] = ["fp16", "bf16", "fp16"]
    for steps, precision in enumerate(precisions, start=6):
        assert train(replace(with_one, steps=steps, precision=precision)).steps == steps


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_late_crops_that_do_not_fit_a_gpu_are_told_before_the_first_step(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = CropOptions(photos=1, crops=2, sides=(16, 16), multiple=16, late_sides=(96, 96))
    asked = replace(config, device="cuda", width=32, sides=None, crops_per_photo=None, crops=late)
    monkeypatch.setattr(training, "_step", lambda *_, **__: pytest.fail("took a step"))
    free, total = torch.cuda.mem_get_info()
    rehearse = training._rehearse

    def with_little_left(job: Any) -> None:
        """The network has its memory; crops of 16 would fit beside it."""
        most = torch.cuda.memory_reserved() + 30e6
        torch.cuda.set_per_process_memory_fraction(min(most / total, 1.0))
        rehearse(job)

    monkeypatch.setattr(training, "_rehearse", with_little_left)
    try:
        with pytest.raises(OutOfMemoryError, match="cuda"):
            train(asked)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert free > 60e6
