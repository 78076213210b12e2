"""Training: one visible loop, from photographs or SID to weights, resumable to the bit.

A run lives in a folder: ``config.json`` (what was asked), ``checkpoint.pt`` (all that is needed to
continue), ``log.jsonl``, ``curves.png``, ``validation/``. The same command starts it and resumes
it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gia_cli.data.augment import Pair
from gia_cli.data.batches import Batch, load
from gia_cli.errors import (
    DataError,
    DeviceError,
    DivergedError,
    Interrupted,
    OutOfMemoryError,
    OutputError,
)
from gia_cli.imaging.fusion import fuse
from gia_cli.interrupts import interrupted
from gia_cli.metrics.fidelity import psnr
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import (
    exact_fp32,
    is_oom_error,
    release_gpu_memory,
    resolve,
    without_autocast,
)
from gia_cli.training.auxiliary import (
    auxiliary_loss,
    checkerboard_loss,
    deep_supervision_loss,
    raw_loss,
)
from gia_cli.training.config import Recipe, TrainConfig
from gia_cli.training.distillation import teacher_picture
from gia_cli.training.distributed import (
    Ranks,
    in_plain_words,
    own_device,
    process_group,
    ranks_from_environment,
    refuse_one_card,
)
from gia_cli.training.fused import fused_picture
from gia_cli.training.log import TrainLog, write_panel
from gia_cli.training.run_folder import only_run_in
from gia_cli.training.setup import (
    SKIPS,
    Job,
    open_job,
    prepare_process,
    save_checkpoint,
)

# Batches draw from [seed, step] and [seed, step, rank + 1]: no run has so many ranks.
_SKIP_DROPOUT_STREAM = 2**31
_TEACHER_STREAM = 2**31 + 1
_LOG_EVERY = 50  # steps
_PANEL_ROWS = 4


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    run: Path
    steps: int
    seconds: float
    loss: float
    """Mean of the last logged steps."""
    validation_psnr: float
    """dB, BT.709-encoded, mean over the fixed validation crops."""


def train(config: TrainConfig, progress: Progress = SILENT) -> TrainResult:
    """Train until the steps or the time are used up; continue from the checkpoint if there is one.

    Parameters
    ----------
    config : TrainConfig
    progress : Progress
        Receives the stages "decoding", "measuring" (of what the vector is fitted to, before the
        first step of some runs) and "training", the loss, and what is left out.

    Raises
    ------
    DataError
        Photographs or pairs that are missing or broken, all named.
    RunError
        The run folder holds another run.
    DivergedError
        The loss, or another one that is logged, is no longer a finite number.
    Interrupted, Terminated
        By Ctrl-C or SIGTERM; a checkpoint has been written.
    OutOfMemoryError
        The GPU is too small for the crops.
    ProcessLostError
        Of several processes one has ended, or does not answer.
    UsageError, WeightsError, DeviceError, OutputError
    """
    alone = ranks_from_environment()
    refuse_one_card(config.device, alone)
    device = torch.device(resolve(config.device, "fp32").torch_device)
    prepare_process()
    device = own_device(device, alone)
    with (
        _plain_words(device, alone),
        process_group(device) as ranks,
        only_run_in(config.run, ranks),
    ):
        job = open_job(config, device, ranks, progress)
        with _stop_flag() as stop, exact_fp32():
            try:
                return _loop(job, stop, progress)
            except RuntimeError as error:  # torch has no narrower ones
                raise _explained(error, job, stop) from error


@contextmanager
def _plain_words(device: torch.device, ranks: Ranks) -> Iterator[None]:
    """Tell want of memory and lost processes as such: torch has bare RuntimeErrors for them."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_oom_error(error):
            release_gpu_memory(device.type)  # for who tries again, with smaller crops
            raise OutOfMemoryError(
                f"The {device} has too little memory for these crops.",
                hint="Use smaller --sides or fewer --crops-per-photo, in a new --run folder.",
            ) from error
        better = in_plain_words(error) if ranks.world > 1 else None
        if better is not None:
            raise better from error
        raise


def _explained(error: RuntimeError, job: Job, stop: _Stop) -> Exception:
    """Put what a user can do something about into words; anything else is a bug and stays."""
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return DeviceError(
            f"The network cannot be compiled here: {_reason(error)}.",
            hint="torch needs a C++ compiler for it; or leave out --compile.",
        )
    if "DataLoader worker" in str(error):
        if job.ranks.world == 1:
            save_checkpoint(job)  # `load` tells of it between two steps
        if stop.asked:  # of whoever asked, it may have heard first
            return _stopped(job, stop)
        return DataError(
            "A process that makes crops has died, perhaps because memory ran out.",
            hint="Run the same command to resume; --workers 0 needs the least memory.",
        )
    return error


def _reason(error: Exception) -> str:
    """Find in one line what torch's compiler has stumbled over."""
    inner = getattr(error, "inner_exception", error)
    return next(iter(str(inner).splitlines()), type(inner).__name__).rstrip(".")


# ---------------------------------------------------------------- the loop


def _loop(job: Job, stop: _Stop, progress: Progress) -> TrainResult:
    """Step, log, validate, save; read top to bottom."""
    state, recipe, clock = job.state, job.recipe, job.clock
    log = TrainLog(job.config.run, state.step) if job.ranks.is_first else None
    if log is not None and log.missing:
        progress.note(f"Not written, because it is not installed: {log.missing}.")
    progress.stage("training", clock.total)
    progress.advance(clock.position(state.step))
    first = state.step
    if _has_own_memory(job.device) and clock.done(first) < 1:
        _rehearse(job)
    meter = _Meter()
    steps = clock.steps_from(first)
    made = load(
        job.batches(),
        steps,
        workers=job.workers,
        pin=job.pins_batches,
        prefetch=job.prefetch,
        start=job.worker_start,
    )
    with closing(made) as batches:  # ends the workers, while the run is still ours
        for batch in batches:
            done = clock.done(state.step)
            if done >= 1 and state.step:  # with less there would be no weights to export
                break
            lr = learning_rate(recipe, state.step, done)
            given = is_teacher_forced(recipe, job.config.seed, state.step, done)
            cut = draw_skip_dropout(recipe, job.config.seed, state.step, done)
            before = clock.position(state.step)
            losses = _step(job, batch, lr, cut, is_teacher_forced=given)
            meter.add(losses, len(batch[0]) * job.ranks.world)
            state.step += 1
            progress.advance(clock.position(state.step) - before)
            if state.step % _LOG_EVERY == 0 or state.step == 1:
                _report(job, meter, lr, log, progress)
            agreed = clock.agree(asked=bool(stop.asked))
            if agreed.stops or agreed.saves:
                save_checkpoint(job)
            if agreed.stops:
                raise _stopped(job, stop)
            if clock.is_due("validation", job.config.validate_every_s):
                _validate(job, log, progress)
    if meter.losses:
        _report(job, meter, lr, log, progress)
    if state.step > first:
        save_checkpoint(job)
    score = _validate(job, log, progress)
    if log is not None:
        log.close()
    logged = [row["loss"] for row in (log.rows if log else []) if "loss" in row]
    last_loss = float(np.mean(logged[-20:])) if logged else math.nan
    return TrainResult(job.config.run, state.step, clock.elapsed(), last_loss, score)


class _Meter:
    """Losses and images since the last report."""

    def __init__(self) -> None:
        self.losses: list[dict[str, Tensor]] = []
        self.images = 0
        self.since = time.monotonic()

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Count a step; the losses, the same in each step, stay on their device."""
        self.losses.append(losses)
        self.images += images

    def read(self) -> tuple[dict[str, float], float]:
        """Return the mean losses and images per second, and start again."""
        means = {
            name: float(torch.stack([losses[name] for losses in self.losses]).mean())
            for name in self.losses[0]
        }
        speed = self.images / (time.monotonic() - self.since)
        self.losses, self.images, self.since = [], 0, time.monotonic()
        return means, speed


def _report(job: Job, meter: _Meter, lr: float, log: TrainLog | None, progress: Progress) -> None:
    """Log and show how it goes; stop a run that has gone wrong."""
    taken = meter.losses
    own, speed = meter.read()
    totals = job.ranks.total(list(own.values()))
    losses = {name: total / job.ranks.world for name, total in zip(own, totals, strict=True)}
    step = job.state.step
    loss = losses["loss"]
    if not all(map(math.isfinite, losses.values())):
        raise _diverged(job.ranks, step, taken, losses)
    if log is not None:
        log.add(step, **losses, lr=lr, images_per_s=speed, seconds=job.clock.elapsed())
    left = job.clock.seconds_left(step)
    progress.status(f"step {step}  loss {loss:.4f}  {speed:.1f} img/s  {left}")


def _diverged(
    ranks: Ranks, last: int, taken: list[dict[str, Tensor]], means: dict[str, float]
) -> DivergedError:
    """Name the loss that was the first, in any process, to be no finite number.

    Where it spoils the weights the others follow; where half precision's scaler leaves such steps
    out, none does, and no step is ever taken again.
    """
    wrong = [
        (step, name, float(loss))
        for step, losses in enumerate(taken, last + 1 - len(taken))
        for name, loss in losses.items()
        if not loss.isfinite()
    ]
    # Another process's alone, or too large for a mean.
    wrong += [(last, name, mean) for name, mean in means.items() if not math.isfinite(mean)]
    of_all = [word.split() for word in ranks.gather("{} {} {}".format(*wrong[0]))]
    step, name, value = min(of_all, key=lambda words: int(words[0]))
    named = "loss" if name == "loss" else f"{name} loss"
    # The student's picture is finite, or the loss would be first; the teacher's is not.
    of_teacher = "Resume with --precision fp32, or use another --teacher in a new --run folder."
    hint = of_teacher if name == "distillation" else None
    return DivergedError(f"The {named} is {value} at step {step}.", hint=hint)


def _step(
    job: Job, batch: Batch, lr: float, cut: int, *, is_teacher_forced: bool
) -> dict[str, Tensor]:
    """Take one step; returns the loss, and what else is worth a log, still on the device."""
    state, recipe = job.state, job.recipe
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    losses = _gradients(job, batch, cut, is_teacher_forced=is_teacher_forced)
    if recipe.clip is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(job.model.parameters(), recipe.clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.update_ema(recipe.ema)
    return losses


def _gradients(job: Job, batch: Batch, cut: int, *, is_teacher_forced: bool) -> dict[str, Tensor]:
    """Run a batch forward and backward; leaves gradients, and returns what `_step` does."""
    state, recipe = job.state, job.recipe
    planes, target, auxiliary, measured, clean = _moved(batch, job.device)
    state.optimizer.zero_grad(set_to_none=True)
    taught: Tensor | None = None
    with _autocast(job):
        if job.teacher is not None:  # first: its features are gone when the student's come
            taught = teacher_picture(job.teacher, planes, recipe.crops.crops)
        picture, depth, vector, raw = job.model(
            planes,
            recipe.crops.crops,
            job.kept_skips(cut),
            auxiliary if is_teacher_forced else job.untold(auxiliary),
        )
    shown = picture.float()
    if measured and job.shares is not None:
        shown, taught = fused_picture(shown, measured, job.shares, taught)
    loss: Tensor = job.loss(shown, target)
    losses = {"loss": loss.detach()}
    total = loss
    if taught is not None:
        distillation = job.loss(shown, taught)
        losses["distillation"] = distillation.detach()
        total = torch.lerp(loss, distillation, recipe.teacher_weight)
    if depth:
        total = total + recipe.deep_supervision_weight * deep_supervision_loss(depth, target)
    if recipe.auxiliary_weight and vector is not None:
        error = auxiliary_loss(vector, auxiliary)
        losses["auxiliary"] = error.detach()
        total = total + recipe.auxiliary_weight * error
    if raw is not None and clean is not None:
        raw_error = raw_loss(raw, clean)
        losses["raw"] = raw_error.detach()
        total = total + recipe.raw_weight * raw_error
    if recipe.checkerboard_weight:
        checkerboard = checkerboard_loss(picture, target, target.shape[2] // planes.shape[2])
        losses["checkerboard"] = checkerboard.detach()
        total = total + recipe.checkerboard_weight * checkerboard
    state.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
    return losses


def _has_own_memory(device: torch.device) -> bool:
    """Tell whether memory ends suddenly: that of the CPU is larger, and is shared with others."""
    return device.type != "cpu"


def _rehearse(job: Job) -> None:
    """Run the largest crops of the recipe forward and backward once; nothing of it stays.

    They may come late in a run: whether they fit should not turn out then. And the memory that
    torch keeps from now on has room for all steps. A teacher shows its picture as in a step; Adam's
    two moments of each weight, which the first step makes, are held meanwhile. The buckets in which
    several processes exchange gradients are there already.

    Neither torch's random numbers nor, with several processes, the others are asked. So the student
    runs as it is, not compiled: what the graph of a compiled one needs shows in its own first step.
    """
    state = job.state
    held = _moments_to_come(job)
    before = [buffer.clone() for buffer in state.trainee.buffers()]
    alone = replace(job, model=state.trainee)
    _gradients(alone, job.batches().largest(), 0, is_teacher_forced=False)
    del held
    state.optimizer.zero_grad(set_to_none=True)
    for buffer, value in zip(state.trainee.buffers(), before, strict=True):
        buffer.copy_(value)


def _moments_to_come(job: Job) -> list[Tensor]:
    """Take the memory of Adam's two moments, where it does not have them yet."""
    if job.state.optimizer.state:
        return []
    return [torch.empty_like(x) for x in job.state.trainee.parameters() for _ in range(2)]


def _moved(batch: Batch, device: torch.device) -> Batch:
    """Start to copy a batch to the device, all at once: a copy in mid-forward would wait for it."""

    def sent(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    moved = batch._replace(
        planes=sent(batch.planes),
        target=sent(batch.target),
        auxiliary=sent(batch.auxiliary),
        clean=None if batch.clean is None else sent(batch.clean),
    )
    planes = moved.planes.contiguous(memory_format=torch.channels_last)
    return moved._replace(planes=planes)


def _autocast(job: Job) -> AbstractContextManager[object]:
    if job.autocast is None:
        return without_autocast(job.device.type)
    return torch.autocast(job.device.type, job.autocast)


def learning_rate(recipe: Recipe, step: int, done: float) -> float:
    """Learning rate at a step, when the share `done` of the run is behind it."""
    warm = min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else 1.0
    if recipe.schedule == "halves":
        return warm * (recipe.lr if done < 0.5 else recipe.last_lr)
    cosine = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return warm * (recipe.last_lr + (recipe.lr - recipe.last_lr) * cosine)


def draw_skip_dropout(recipe: Recipe, seed: int, step: int, done: float) -> int:
    """Draw how many skips, from the top level down, a step goes without.

    The skips learn long before the deep levels do, and a decoder that finds them good enough then
    ignores everything from below. So at first it has to work without the top level's skip, the top
    two, three or all four, each equally often. The share of such steps falls from one, where the
    run begins, to `Recipe.skip_dropout_share` at `Recipe.skip_dropout_until` and stays there, so
    that the deep levels stay active.

    Returns
    -------
    int
        0 in all other steps. The same in every process.
    """
    if recipe.skip_dropout_share <= 0:
        return 0
    share = max(
        recipe.skip_dropout_share,
        1 - done / recipe.skip_dropout_until if recipe.skip_dropout_until else 0.0,
    )
    rng = np.random.default_rng([seed, step, _SKIP_DROPOUT_STREAM])
    return int(rng.integers(1, SKIPS + 1)) if rng.random() < share else 0


def is_teacher_forced(recipe: Recipe, seed: int, step: int, done: float) -> bool:
    """Draw whether a step uses the true auxiliary targets instead of the vector's own estimates.

    A decoder ignores a vector that says little, and an ignored vector learns little. So at first
    the decoder gets the true targets and learns to use them. The share of such steps falls from one
    to none at `Recipe.teacher_forcing_until`, while the vector learns to estimate them.

    Returns
    -------
    bool
        The same in every process.
    """
    if not recipe.auxiliary_weight or done >= recipe.teacher_forcing_until:
        return False
    rng = np.random.default_rng([seed, step, _TEACHER_STREAM])
    return bool(rng.random() < 1 - done / recipe.teacher_forcing_until)


# ---------------------------------------------------------------- validation


def _validate(job: Job, log: TrainLog | None, progress: Progress) -> float:
    """Measure the averaged network on the fixed crops, write picture and curves; PSNR in dB."""
    if log is None:
        return math.nan
    known = [row for row in log.rows if row["step"] == job.state.step and "validation_psnr" in row]
    if known:
        return float(known[-1]["validation_psnr"])
    pairs = [pair for own in job.validation.values() for pair in own]
    pictures = [_picture(job, pair) for pair in pairs]
    scores = iter(
        psnr(np.clip(picture, 0, 1), pair.target)
        for picture, pair in zip(pictures, pairs, strict=True)
    )
    of_source = {
        source: float(np.mean([next(scores) for _ in own]))
        for source, own in job.validation.items()
    }
    score = float(np.mean(list(of_source.values())))
    of_source.pop("", None)
    named = {f"validation_psnr/{source}": value for source, value in of_source.items()}
    log.add(job.state.step, validation_psnr=score, **named)
    if named:
        listed = ", ".join(f"{source} {value:.2f}" for source, value in of_source.items())
        progress.detail(f"step {job.state.step}: validation {score:.2f} dB ({listed})")
    try:
        folder = job.config.run / "validation"
        folder.mkdir(exist_ok=True)
        path = folder / f"step-{job.state.step:08d}.png"
        shown = _spread(len(pairs), _PANEL_ROWS)
        write_panel(path, [pairs[i] for i in shown], [pictures[i] for i in shown], job.config.kind)
        log.draw()
    except (OSError, OutputError) as error:  # nothing that training could not do without
        progress.note(f"No picture of step {job.state.step}: {error}")
    return score


def _spread(count: int, wanted: int) -> list[int]:
    """Choose `wanted` of `count` places, evenly; all where there are no more."""
    return sorted({index * count // wanted for index in range(wanted)})


def _picture(job: Job, pair: Pair) -> NDArray[np.float32]:
    with torch.inference_mode():
        batch = torch.from_numpy(pair.planes)[None].to(job.device)
        picture: NDArray[np.float32] = job.state.ema(batch)[0].float().cpu().numpy()
    if pair.measured is not None and job.shares is not None:
        picture = picture.copy()
        fuse(picture, pair.measured, job.shares)
    return picture


# ---------------------------------------------------------------- stopping


class _Stop:
    """Whether someone has asked this process to stop; the step under way is finished first."""

    def __init__(self) -> None:
        self.asked = 0  # by which signal
        self.process = os.getpid()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            return  # one that makes crops, and has just begun to
        if self.asked and number == signal.SIGINT:  # Ctrl-C again: at once
            raise KeyboardInterrupt
        self.asked = self.asked or number


def _stopped(job: Job, stop: _Stop) -> Interrupted:
    """Make the error that says where the run stopped; of several processes not each was asked."""
    return interrupted(
        stop.asked or signal.SIGTERM,
        f"Stopped at step {job.state.step}.",
        hint="Run the same command to resume.",
    )


@contextmanager
def _stop_flag() -> Iterator[_Stop]:
    stop = _Stop()
    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: no signals arrive here
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
