"""Distillation: the teacher's picture is a target, of the very crops; the teacher never learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from typer.testing import CliRunner

import gia_cli
from gia_cli.cli.app import app
from gia_cli.data.augment import GivenBalance
from gia_cli.data.synthetic import PhotoScenes, open_photos
from gia_cli.errors import RunError, UsageError, WeightsMismatchError
from gia_cli.imaging.fusion import BLACK_KNOTS, LEVELS, NOISE_KNOTS, Measurement, Shares
from gia_cli.nets.config import NetConfig
from gia_cli.nets.unet import GiaNet
from gia_cli.training import loop as training
from gia_cli.training.checkpoint import read_checkpoint
from gia_cli.training.config import TEACHER_WEIGHT, LossName, TrainConfig
from gia_cli.training.distillation import (
    describe_teacher,
    find_teacher,
    open_teacher,
    teacher_picture,
)
from gia_cli.training.fused import fused_picture
from gia_cli.training.log import read_log
from gia_cli.training.loop import train
from gia_cli.training.run_folder import CONFIG, export_run, read_config
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import load_network, save_weights
from tests.networks import lively, small
from tests.one_device import META, OneDevice
from tests.training.runs import assert_equal, job_on, random_batch, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TAUGHT = NetConfig("gia-net", width=4, input_floor=None)


def shares(value: float) -> Shares:
    table = np.full((LEVELS, len(NOISE_KNOTS), len(BLACK_KNOTS)), value, np.float32)
    return Shares(table, table)


def weights(
    folder: Path,
    name: str = "teacher",
    config: NetConfig = TAUGHT,
    seed: int = 0,
    fusion: Shares | None = None,
) -> str:
    """Save weights for which every part matters; a path."""
    path = folder / f"{name}.safetensors"
    of_fusion = {} if fusion is None else {"fusion": fusion.to_json()}
    save_weights(path, lively(config, seed), camera="ILCE-7SM2", **of_fusion)
    return str(path)


# ---------------------------------------------------------------- which teachers fit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cfa": "xtrans"}, "is for xtrans sensors, the network to train for bayer ones"),
        ({"white_balance": "as-shot"}, "has the white balance 'as-shot'.*--white-balance as-shot"),
        ({"input_floor": 0}, "clips values below black.*--clip-black"),
    ],
)
def test_a_teacher_that_gets_another_input_is_refused(
    config: TrainConfig, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    teacher = weights(tmp_path, config=replace(TAUGHT, **change))
    with pytest.raises(UsageError) as caught:
        train(replace(config, teacher=teacher))
    assert caught.value.exit_code == 2
    assert caught.match(words.split(".*")[0])
    assert words.split(".*")[-1] in str(caught.value)
    assert not (config.run / CONFIG).exists()  # a mistake claims no folder


def test_a_teacher_that_keeps_what_the_student_loses_is_refused(tmp_path: Path) -> None:
    teacher = weights(tmp_path)
    with pytest.raises(UsageError, match="keeps values below black") as caught:
        find_teacher(teacher, replace(TAUGHT, input_floor=0))
    assert "--no-clip-black" in str(caught.value)


def test_a_teacher_may_be_of_any_size_and_kind(tmp_path: Path) -> None:
    for name in ("sid-net", "gia-net", "dncnn"):
        of = replace(small(name), width=8, input_floor=None)
        info = find_teacher(weights(tmp_path, config=of), TAUGHT)
        assert open_teacher(info, CPU).config == of


def test_int8_weights_teach_nobody(config: TrainConfig) -> None:
    fast = find_weights("gia-sony").name + "-int8"
    with pytest.raises(WeightsMismatchError, match="int8"):
        train(replace(config, white_balance="as-shot", teacher=fast))


@pytest.mark.parametrize(
    ("changes", "teacher", "words"),
    [
        ({"teacher_weight": 0.5}, None, "--teacher-weight needs --teacher"),
        ({"teacher_weight": 0.0}, "anybody", "above 0 and at most 1, not 0"),
        ({"teacher_weight": 1.1}, "anybody", "above 0 and at most 1, not 1.1"),
        ({"teacher_weight": float("nan")}, "anybody", "above 0 and at most 1, not nan"),
    ],
)
def test_nonsense_is_refused(
    config: TrainConfig, changes: dict[str, Any], teacher: str | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        replace(config, changes=changes, teacher=teacher)


def test_the_share_is_half_unless_said_otherwise(config: TrainConfig) -> None:
    assert config.full_recipe().teacher_weight == 0
    taught = replace(config, teacher="anybody")
    assert taught.full_recipe().teacher_weight == TEACHER_WEIGHT == 0.5
    assert replace(taught, changes={"teacher_weight": 1.0}).full_recipe().teacher_weight == 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--teacher gia-fuji-v4 --white-balance as-shot", 2, "is for xtrans sensors"),
        ("--teacher gia-sony", 2, "Give --white-balance as-shot, or another --teacher."),
        ("--teacher nobody", 41, "There are no weights 'nobody'"),
        ("--teacher-weight 0.5", 2, "--teacher-weight needs --teacher"),
        ("--table 1 --teacher gia-sony", 2, "leave out --network, --init-from and --teacher"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(
    config: TrainConfig, options: str, code: int, words: str
) -> None:
    asked = f"train --run {config.run} --photos {config.photos[0]} --cache {config.cache}"
    done = CliRunner().invoke(app, [*asked.split(), "--steps", "1", *options.split()])
    assert done.exit_code == code, done.output
    assert words in " ".join(done.stderr.split())


# ---------------------------------------------------------------- what the teacher shows


def test_the_teachers_vector_is_that_of_the_photo(tmp_path: Path) -> None:
    planes = random_batch()[0]
    teacher = open_teacher(find_weights(weights(tmp_path)), CPU)
    shown = teacher_picture(teacher, planes, 2)
    with torch.no_grad():
        torch.testing.assert_close(shown, teacher(planes, 2))
        assert (shown - teacher(planes, 1)).abs().max() > 0.01
    assert not shown.requires_grad and not shown.is_inference()


def test_its_statistics_stay_as_they_are(config: TrainConfig, tmp_path: Path) -> None:
    of = replace(small("dncnn"), input_floor=None)
    job = job_on(CPU, replace(config, teacher="it", changes={"teacher_weight": 0.5}))
    job.teacher = open_teacher(find_weights(weights(tmp_path, config=of)), CPU)
    before = {name: x.clone() for name, x in job.teacher.state_dict().items()}
    training._step(job, random_batch(), 1e-2, 0, is_teacher_forced=False)
    assert_equal(job.teacher.state_dict(), before)


# ---------------------------------------------------------------- what is learned of it


def gradients(
    config: TrainConfig, share: float | None, loss: LossName = "l1"
) -> dict[str, torch.Tensor]:
    """Gradients of a student on a batch that is always the same; no share: without a teacher."""
    torch.manual_seed(0)
    batch = random_batch(side=32 if loss in {"l1", "l2"} else 192)
    changes: dict[str, Any] = {"loss": loss, "deep_supervision_weight": 0.0}
    if share is None:
        job = job_on(CPU, replace(config, changes=changes))
    else:
        asked = replace(config, teacher="it", changes={**changes, "teacher_weight": share})
        job = job_on(CPU, asked)
        teacher = lively(TAUGHT, seed=7).requires_grad_(False)
        job.teacher = teacher
    training._gradients(job, batch, 0, is_teacher_forced=False)
    if share is not None:
        assert all(x.grad is None for x in teacher.parameters())
    found = {name: x.grad for name, x in job.state.trainee.named_parameters() if x.grad is not None}
    assert found.keys() == dict(job.state.trainee.named_parameters()).keys()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["l1", "l2", "joint", "multiscale"])
def test_the_share_weighs_truth_and_teacher(config: TrainConfig, loss: LossName) -> None:
    truth, mixed, teacher = (gradients(config, share, loss) for share in (None, 0.25, 1.0))
    for name, of_truth in truth.items():
        expected = 0.75 * of_truth + 0.25 * teacher[name]
        scale = float(expected.abs().max())
        torch.testing.assert_close(mixed[name], expected, rtol=1e-3, atol=1e-4 * scale)
    name = "network.to_rgb.weight"
    assert (truth[name] - teacher[name]).norm() > 0.01 * truth[name].norm()


def taught_by(
    config: TrainConfig, tmp_path: Path, teacher: str, *, fused: bool = False
) -> dict[str, float]:
    """Take a step from given weights, all of whose skips stay; what the first row of the log is."""
    of = replace(TAUGHT, white_balance="as-shot")
    start = weights(tmp_path, "start", of, fusion=shares(0.4) if fused else None)
    changes = {"skip_dropout_share": 0.0, "skip_dropout_until": 0.0, "fused": fused}
    asked = replace(
        config,
        run=config.run.with_name(f"by-{teacher}-{fused}"),
        white_balance="as-shot",
        init_from=start,
        teacher=start if teacher == "itself" else weights(tmp_path, teacher, of, seed=3),
        steps=1,
        changes=changes,
    )
    train(asked)
    return next(row for row in read_log(asked.run) if "loss" in row)


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_who_is_its_own_teacher_has_nothing_to_learn_of_it(
    config: TrainConfig, tmp_path: Path, fused: bool
) -> None:
    own, other = (taught_by(config, tmp_path, by, fused=fused) for by in ("itself", "another"))
    assert own["distillation"] < 1e-5 < 0.01 < own["loss"]
    assert other["distillation"] > 0.01
    assert other["loss"] == own["loss"]  # against the truth alone: comparable between runs


@pytest.mark.slow
def test_a_student_becomes_like_its_teacher(config: TrainConfig, tmp_path: Path) -> None:
    teacher = weights(tmp_path, seed=5)
    changes = {"teacher_weight": 1.0, "lr": 3e-3, "warmup": 0}
    train(replace(config, teacher=teacher, steps=120, changes=changes))
    rows = [row["distillation"] for row in read_log(config.run) if "distillation" in row]
    assert rows[-1] < 0.7 * rows[0]


# ---------------------------------------------------------------- fused


@pytest.fixture
def scene(photos: Path, tmp_path: Path) -> tuple[list[Measurement], torch.Tensor]:
    opened = open_photos([photos], tmp_path / "cache")
    source = PhotoScenes(
        opened, opened.keys, "ILCE-7SM2", balance=GivenBalance(), floor=None, measures=True
    )
    pairs = source.pairs(np.random.default_rng(0), count=2, side=24)
    target = torch.from_numpy(np.stack([pair.target for pair in pairs]))
    return [pair.measured for pair in pairs if pair.measured is not None], target


def test_a_teachers_picture_is_fused_as_the_students_is(
    scene: tuple[list[Measurement], torch.Tensor],
) -> None:
    """Near to what fusing it would make of it; nothing is left where the measurement decides."""
    measured, target = scene
    picture, teacher = 0.8 * target + 0.05, 0.9 * target + 0.02
    shown, taught = fused_picture(picture, measured, shares(0.5), teacher)
    by_itself, _ = fused_picture(teacher, measured, shares(0.5))
    assert taught is not None
    off = (taught - by_itself).abs().mean()
    assert off < 0.2 * (teacher - picture).abs().mean()
    assert off < 0.5 * (shown - by_itself).abs().mean()
    _, unfused = fused_picture(picture, measured, shares(0), teacher)
    assert unfused is not None
    torch.testing.assert_close(unfused, teacher)
    shown, taught = fused_picture(picture, measured, shares(1), teacher)
    torch.testing.assert_close(taught, shown, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_student_without_shares_is_fused_by_its_teachers(
    config: TrainConfig, tmp_path: Path
) -> None:
    of = replace(TAUGHT, white_balance="as-shot")
    asked = replace(
        config,
        white_balance="as-shot",
        teacher=weights(tmp_path, config=of, fusion=shares(1)),
        changes={"fused": True},
        steps=1,
    )
    plain = replace(asked, run=config.run.with_name("plain"), changes={})
    # What is measured at every scale is no longer the untrained network's guess.
    assert train(asked).validation_psnr > train(plain).validation_psnr + 1


# ---------------------------------------------------------------- the run


@pytest.mark.slow
def test_a_run_keeps_its_teacher(config: TrainConfig, tmp_path: Path) -> None:
    first, other = weights(tmp_path), weights(tmp_path, "other", seed=1)
    asked = replace(config, teacher=first, steps=1)
    train(asked)
    assert read_config(config.run)["teacher"] == describe_teacher(find_weights(first))
    moved = tmp_path / "moved" / Path(first).name
    moved.parent.mkdir()
    Path(first).rename(moved)
    assert train(replace(asked, teacher=str(moved), steps=2)).steps == 2
    weights(tmp_path, seed=2)  # of the first one's name
    for teacher in (first, other):
        with pytest.raises(RunError, match=r"its teacher is teacher \(\w+\), not ") as caught:
            train(replace(asked, teacher=teacher, steps=3))
        assert caught.value.exit_code == 71
    with pytest.raises(RunError, match="holds another run"):
        train(replace(config, steps=3))
    row = export_run(config.run, "mine", tmp_path / "out")
    assert row["training"]["teacher"] == describe_teacher(find_weights(str(moved)))
    assert row["training"]["recipe"]["teacher_weight"] == 0.5
    assert load_network(find_weights(str(tmp_path / "out" / "mine.safetensors"))).config == TAUGHT


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_a_run_from_before_teachers_continues_without_one(
    config: TrainConfig, tmp_path: Path
) -> None:
    there = read_config(config.run)
    del there["teacher"], there["recipe"]["teacher_weight"]
    (config.run / CONFIG).write_text(json.dumps(there))
    with pytest.raises(RunError, match="teacher"):
        train(replace(config, teacher=weights(tmp_path), steps=5))
    assert train(replace(config, steps=5)).steps == 5


# ---------------------------------------------------------------- devices and processes


def test_the_teacher_moves_nothing_to_its_device(config: TrainConfig) -> None:
    asked = replace(config, recipe="finetune", width=12, crops_per_photo=2, teacher="it")
    job, batch = job_on(META, asked), random_batch()
    job.teacher = lively(TAUGHT).requires_grad_(False).to(META)
    with OneDevice() as rules:
        found = training._gradients(job, batch, 0, is_teacher_forced=False)
    assert found["distillation"].device == META
    assert rules.first == [tuple(x.shape) for x in batch[:3]]


@pytest.mark.parametrize("autocast", [torch.bfloat16, None])
def test_the_teacher_computes_as_the_student_does(
    config: TrainConfig, autocast: torch.dtype | None
) -> None:
    job = job_on(CPU, replace(config, teacher="it"))
    job.autocast = autocast
    teacher = lively(TAUGHT)
    assert isinstance(teacher, GiaNet)
    job.teacher, seen = teacher, []
    teacher.encoder[0].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    training._gradients(job, random_batch(), 0, is_teacher_forced=False)
    assert seen == [autocast or torch.float32]


def test_a_rehearsal_has_the_teacher_too(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_on(CPU, replace(config, teacher="it"))
    job.teacher, sides = lively(TAUGHT), []
    job.teacher.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[2]))
    largest = random_batch(side=32)
    monkeypatch.setattr(
        type(job), "batches", lambda _: type("", (), {"largest": lambda _: largest})()
    )
    training._rehearse(job)
    assert sides == [32]


@pytest.mark.slow
def test_a_compiled_teacher_shows_the_same(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled: Callable[..., Any] = partial(torch.compile, backend=counter)
    monkeypatch.setattr(torch, "compile", compiled)
    asked = replace(config, teacher=weights(tmp_path), sides=(16, 16), compile=True)
    train(asked)
    assert counter.frame_count == 2  # the student, and the teacher
    plain = replace(asked, run=config.run.with_name("plain"), compile=False)
    train(plain)
    assert_equal(weights_of(asked.run), weights_of(plain.run))  # the graph is run as it is here


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo needs a POSIX system here")
def test_several_processes_share_a_teacher(config: TrainConfig, tmp_path: Path) -> None:
    options = f"train --run-folder {config.run} --photos {config.photos[0]} --width 4 "
    options += f"--cache {config.cache} --sides 16-32 --crops-per-photo 2 --workers 0 --steps 2 "
    options += f"--device cpu --teacher {weights(tmp_path)}"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gia_cli"]
    package = Path(gia_cli.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    command = [sys.executable, *launch, *options.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = read_checkpoint(config.run)
    assert saved["step"] == 2
    student = job_on(CPU, config).state.trainee.state_dict()
    assert saved["trainee"].keys() == student.keys()  # and nothing of the teacher
