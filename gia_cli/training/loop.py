"""Training: one visible loop, from photographs or SID to weights, resumable to the bit.

A run lives in a folder: ``config.json`` (what was asked), ``checkpoint.pt`` (all that is needed to
go on), ``log.jsonl``, ``curves.png``, ``validation/``. The same command starts it and resumes it.
"""

from __future__ import annotations

import io
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from multiprocessing import Value
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gia_cli._version import __version__
from gia_cli.cameras import CAMERA_OF, KINDS, CameraFamily, WhiteBalance
from gia_cli.data.augment import GivenBalance, Pair
from gia_cli.data.batches import Batches, CropOptions, SidCrops, Source, load
from gia_cli.data.facts import FACTS
from gia_cli.data.sid import open_splits
from gia_cli.data.synthetic import (
    PLAIN_NIGHTS,
    PhotoNights,
    open_photos,
    split_photos,
)
from gia_cli.errors import (
    DataError,
    DivergedError,
    Interrupted,
    OutOfMemoryError,
    OutputError,
    RunError,
    UsageError,
)
from gia_cli.files import atomic_file, lock, make_folder
from gia_cli.metrics.fidelity import psnr
from gia_cli.nets import NETWORKS, NetConfig, WhiteBalanceMode, build
from gia_cli.nets.base import Network, group_mean
from gia_cli.nets.unet import GiaNet
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR, CfaKind
from gia_cli.runtime import DeviceName, Precision, cache_folder, keep_freed_memory, resolve
from gia_cli.simulation.photo import daylight_gains, median_gains
from gia_cli.training.distributed import Ranks, process_group
from gia_cli.training.initialise import VECTOR_GAIN, fit_the_vector, initialise, open_the_way_up
from gia_cli.training.log import TrainLog, read_log, write_panel
from gia_cli.training.losses import LossName, make_loss
from gia_cli.weights.manifest import (
    WeightsInfo,
    adopt,
    find_weights,
    list_in_manifest,
    load_network,
    refuse_to_replace,
    save_weights,
    weights_path,
)

RecipeName = Literal["small", "small-on", "paper", "paper-as-printed"]

#: Key, of a run's configuration and of the weights' training, of whether the vector does.
TELLS_FACTS = "tells_facts"

CONFIG, CHECKPOINT, LOCK = "config.json", "checkpoint.pt", ".lock"

_SKIPS = 4
_FIT_NIGHTS, _FIT_CROPS, _FIT_SIDE = 600, 2, 128
# Batches draw from [seed, step] and [seed, step, rank + 1]: no run has so many ranks.
_CUT_STREAM = 2**31
_GIVEN_STREAM = 2**31 + 1
_FIT_STREAM = 2**31 + 2
_LOG_EVERY = 50  # steps
_EVEN_BLOCK = 16  # packed pixels a side
_AGREE_EVERY_S = 5.0  # on whether to stop
_VALIDATION_CROPS = 8
_VALIDATION_SIDE = 96  # packed pixels
_VALIDATION_SEED = 20260101
_PANEL_ROWS = 4


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train; the named ones are in `RECIPES`."""

    crops: CropOptions
    loss: LossName
    lr: float
    """Peak learning rate of Adam."""
    last_lr: float
    """Learning rate at the end (cosine), or in the second half (halves)."""
    schedule: Literal["cosine", "halves"]
    epochs: int | None = None
    """Passes over the scenes, one photo each; None: the number of steps must be given."""
    warmup: int = 0
    """Steps over which the learning rate rises from zero."""
    adam_eps: float = 1e-8
    clip: float | None = None
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of the running mean of the weights; 0: the weights themselves are what counts."""
    init: Literal["default", "kaiming"] = "default"
    depth_weight: float = 0.0
    """Weight of the training-only loss on the depth; see `DepthHeads`."""
    cut_share: float = 0.0
    """Share of steps in which shallow skips are cut, so that the depth must answer; see
    `draw_cut`."""
    cut_until: float = 0.0
    """Share of the run over which that share falls from one to `cut_share`."""
    facts_weight: float = 0.0
    """Weight of the training-only loss on what the vector tells of the night; see `facts_loss`."""
    evenness_weight: float = 0.0
    """Weight of the training-only loss against patterns of sub-pixels; see `evenness_loss`."""
    given_until: float = 0.0
    """Share of the run over which the share of steps that are given the facts falls from one to
    zero; see `is_given`."""


# For a few cores: small crops, several of one photo, so that their common vector tells of more than
# each crop sees itself.
_SMALL_RECIPE = Recipe(
    crops=CropOptions(
        photos=1, crops=4, sides=(48, 96), multiple=16, late_sides=(96, 160), late_from=0.75
    ),
    loss="l1",
    lr=2e-4,
    last_lr=4e-6,
    schedule="cosine",
    warmup=300,
    adam_eps=1e-12,
    clip=1.0,
    ema=0.999,
    init="kaiming",
    depth_weight=0.2,
    cut_share=0.1,
    cut_until=0.2,
)

RECIPES: dict[RecipeName, Recipe] = {
    # Meng et al. 2020, section 4: the joint loss, crops of 32 * b with b in 16...32 drawn for every
    # iteration, 2000 epochs and 2000 more at a tenth of the rate. The printed rate of 0.1 diverges
    # with Adam; Chen et al. 2018, whose schedule it is, used 1e-4 and 1e-5.
    "paper": Recipe(
        crops=CropOptions(photos=1, crops=1, sides=(512, 1024), multiple=32),
        loss="joint",
        lr=1e-4,
        last_lr=1e-5,
        schedule="halves",
        epochs=4000,
    ),
    "paper-as-printed": Recipe(
        crops=CropOptions(photos=1, crops=1, sides=(512, 1024), multiple=32),
        loss="joint",
        lr=0.1,
        last_lr=0.01,
        schedule="halves",
        epochs=4000,
    ),
    "small": _SMALL_RECIPE,
    # For weights that are there already (`--init-from`): their skips need not be kept down first,
    # and photos of more kinds in a step teach more than more crops of one do.
    "small-on": replace(
        _SMALL_RECIPE,
        crops=CropOptions(
            photos=2, crops=2, sides=(64, 128), multiple=16, late_sides=(96, 192), late_from=0.6
        ),
        cut_until=0.0,
        facts_weight=0.3,
        given_until=0.5,
        evenness_weight=1.0,
    ),
}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What to train, on what, and where to put it."""

    run: Path
    camera: CameraFamily
    data: Path | None = None
    """A tree with SID's names and lists; either this or `photos`."""
    photos: tuple[Path, ...] = ()
    """Photographs, or folders of them."""
    recipe: RecipeName = "small"
    network: str = "gia-net"
    width: int | None = None
    """Channels of the first level; None: the network's published size."""
    steps: int | None = None
    budget_s: float | None = None
    """Train this many seconds instead of a number of steps."""
    white_balance: WhiteBalanceMode = "learned"
    """Whether the network is given the photo's white balance."""
    init_from: str | None = None
    """Weights to start from, of either colour filter array."""
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe to replace: lr, loss, ..."""
    crops: CropOptions | None = None
    """Shape of a batch, instead of the recipe's; what follows replaces parts of it."""
    validation_sources: tuple[str, ...] = ()
    """Folders of photographs that are all kept for validation; none: one photograph in 16."""
    clip_black: bool | None = None
    """Whether the planes are clipped at black; None: as the recipe does (the published ones do)."""
    sides: tuple[int, int] | None = None
    """Crop sides in packed pixels from start to end."""
    photos_per_step: int | None = None
    crops_per_photo: int | None = None
    vgg: Path | None = None
    """Features for the loss "zamir"."""
    cache: Path | None = None
    """Folder for decoded data."""
    device: DeviceName = "auto"
    precision: Precision = "auto"
    workers: int = 1
    checkpoint_every_s: float = 300
    validate_every_s: float = 600

    def __post_init__(self) -> None:
        """Raise `UsageError` for contradictions and impossible numbers."""
        if (self.data is None) == (not self.photos):
            raise UsageError("Give either --data TREE or --photos FOLDER.", hint=_HELP)
        if self.steps is not None and self.budget_s is not None:
            raise UsageError("Give --steps or --budget, not both.", hint=_HELP)
        if self.network not in NETWORKS:
            names = ", ".join(NETWORKS)
            raise UsageError(f"There is no network '{self.network}' ({names}).", hint=_HELP)
        positive = {
            "--steps": self.steps,
            "--budget": self.budget_s,
            "--width": self.width,
            "--photos-per-step": self.photos_per_step,
            "--crops-per-photo": self.crops_per_photo,
            "--lr": self.changes.get("lr"),
        }
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} must be positive, not {value:g}.", hint=_HELP)
        for name in ("facts_weight", "evenness_weight"):
            weight = self.changes.get(name, 0.0)
            if not 0 <= weight < math.inf:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} must not be negative, not {weight:g}.", hint=_HELP)
        if self.workers < 0:
            raise UsageError(f"--workers must not be negative, not {self.workers}.", hint=_HELP)
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must lie between 0 and 2^63, not {self.seed}.", hint=_HELP)
        if self.sides is not None:
            self._check_sides(*self.sides)

    def _check_sides(self, smallest: int, largest: int) -> None:
        if not 0 < smallest <= largest:
            raise UsageError("--sides takes the smallest and the largest side.", hint=_HELP)
        multiple = RECIPES[self.recipe].crops.multiple
        if largest // multiple * multiple < smallest:
            raise UsageError(
                f"--sides {smallest}-{largest} holds no multiple of {multiple}, as the recipe "
                f"'{self.recipe}' draws them.",
                hint=f"Such as --sides {-(-smallest // multiple) * multiple}.",
            )

    @property
    def kind(self) -> CfaKind:
        """Colour filter array of the camera."""
        return KINDS[self.camera]

    def full_recipe(self) -> Recipe:
        """Return the named recipe with the changes applied."""
        recipe = replace(RECIPES[self.recipe], **self.changes)
        crops = self.crops or recipe.crops
        if self.sides is not None:
            crops = replace(crops, sides=self.sides, late_sides=None)
        if self.photos_per_step is not None:
            crops = replace(crops, photos=self.photos_per_step)
        if self.crops_per_photo is not None:
            crops = replace(crops, crops=self.crops_per_photo)
        return replace(recipe, crops=crops)

    def net_config(self) -> NetConfig:
        """Return the network to build."""
        is_published = self.recipe in ("paper", "paper-as-printed")
        clips = is_published if self.clip_black is None else self.clip_black
        config = replace(
            NETWORKS[self.network],
            cfa=self.kind,
            white_balance=self.white_balance,
            input_floor=0 if clips else None,
        )
        return config if self.width is None else replace(config, width=self.width)


_HELP = "See 'gia train --help'."


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
    """Train until the steps or the time are used up; go on from the checkpoint if there is one.

    Parameters
    ----------
    config : TrainConfig
    progress : Progress
        Hears of the stages "decoding" and "training", of the loss, and of what is left out.

    Raises
    ------
    DataError
        Photographs or pairs that are missing or broken, all named.
    RunError
        The run folder holds another run.
    DivergedError
        The loss is no longer a number.
    Interrupted
        By Ctrl-C or SIGTERM; a checkpoint has been written.
    OutOfMemoryError
        The GPU is too small for the crops.
    UsageError, WeightsError, DeviceError, OutputError
    """
    device = torch.device(resolve(config.device, "fp32").device)
    _prepare_process()
    with process_group(device) as ranks:
        device = _own_device(device, ranks)
        with _only_run_in(config.run, ranks):
            job = _open_job(config, device, ranks, progress)
            with _stop_flag() as stop:
                try:
                    return _loop(job, stop, progress)
                except RuntimeError as error:  # torch has no narrower ones
                    raise _explained(error, job) from error


def _explained(error: RuntimeError, job: _Job) -> Exception:
    """Put what a user can do something about into words; anything else is a bug and stays."""
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemoryError(
            f"The {job.device} has too little memory for these crops.",
            hint="Give smaller --sides or fewer --crops-per-photo; a new --run folder for them.",
        )
    if "DataLoader worker" in str(error):
        if job.ranks.world == 1:
            _save(job)  # it died between two steps
        return DataError(
            "A process that makes crops has died, perhaps for want of memory.",
            hint="The same command goes on; --workers 0 needs the least.",
        )
    return error


# ---------------------------------------------------------------- the loop


def _loop(job: _Job, stop: _Stop, progress: Progress) -> TrainResult:
    """Step, log, validate, save; read top to bottom."""
    state, recipe, clock = job.state, job.recipe, job.clock
    log = TrainLog(job.config.run, state.step) if job.ranks.is_first else None
    if log is not None and log.missing:
        progress.note(f"Not written, because it is not installed: {log.missing}.")
    progress.stage("training", clock.total)
    progress.advance(clock.position(state.step))
    meter = _Meter()
    first = state.step
    batches = load(
        job.batches(), clock.steps_from(state.step), workers=job.config.workers, pin=job.is_cuda
    )
    for planes, target, facts in batches:
        done = clock.done(state.step)
        if done >= 1:
            break
        lr = learning_rate(recipe, state.step, done)
        given = facts if is_given(recipe, job.config.seed, state.step, done) else None
        cut = draw_cut(recipe, job.config.seed, state.step, done)
        before = clock.position(state.step)
        meter.add(_step(job, planes, target, facts, given, lr, cut), len(planes) * job.ranks.world)
        state.step += 1
        progress.advance(clock.position(state.step) - before)
        if state.step % _LOG_EVERY == 0 or state.step == 1:
            _report(job, meter, lr, log, progress)
        stopped = stop.is_set(clock)
        if stopped or clock.is_due("checkpoint", job.config.checkpoint_every_s):
            _save(job)
        if clock.is_due("validation", job.config.validate_every_s) and not stopped:
            _validate(job, log, progress)
        if stopped:
            raise Interrupted(
                f"Stopped at step {state.step}.", hint="The same command goes on from there."
            )
    if meter.losses:
        _report(job, meter, lr, log, progress)
    if state.step > first:
        _save(job)
    score = _validate(job, log, progress)
    if log is not None:
        log.close()
    losses = [row["loss"] for row in (log.rows if log else []) if "loss" in row]
    last_loss = float(np.mean(losses[-20:])) if losses else math.nan
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
        """Return the mean losses and images per second, and start anew."""
        means = {
            name: float(torch.stack([losses[name] for losses in self.losses]).mean())
            for name in self.losses[0]
        }
        speed = self.images / (time.monotonic() - self.since)
        self.losses, self.images, self.since = [], 0, time.monotonic()
        return means, speed


def _report(job: _Job, meter: _Meter, lr: float, log: TrainLog | None, progress: Progress) -> None:
    """Log and show how it goes; stop a run that has gone wrong."""
    own, speed = meter.read()
    losses, step = {name: job.ranks.mean(value) for name, value in own.items()}, job.state.step
    loss = losses["loss"]
    if not math.isfinite(loss):
        raise DivergedError(f"The loss is {loss} at step {step}.")
    if log is not None:
        log.add(step, **losses, lr=lr, images_per_s=speed, seconds=job.clock.elapsed())
    left = job.clock.seconds_left(step)
    progress.status(f"step {step}  loss {loss:.4f}  {speed:.1f} img/s  {left}")


def _step(
    job: _Job,
    planes: Tensor,
    target: Tensor,
    facts: Tensor,
    given: Tensor | None,
    lr: float,
    cut: int,
) -> dict[str, Tensor]:
    """Take one step; returns the loss, and what else is worth a log, still on the device."""
    state, recipe = job.state, job.recipe
    planes = planes.to(job.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    target = target.to(job.device, non_blocking=True)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(job.device.type, job.autocast, enabled=job.autocast is not None):
        picture, depth, vector = job.model(planes, recipe.crops.crops, cut, given)
    loss: Tensor = job.loss(picture.float(), target)
    losses = {"loss": loss.detach()}
    total = loss + recipe.depth_weight * depth_loss(depth, target) if depth else loss
    if recipe.facts_weight and vector is not None:
        error = facts_loss(vector, facts.to(job.device))
        losses["facts"] = error.detach()
        total = total + recipe.facts_weight * error
    if recipe.evenness_weight:
        unevenness = evenness_loss(picture, target, target.shape[2] // planes.shape[2])
        losses["unevenness"] = unevenness.detach()
        total = total + recipe.evenness_weight * unevenness
    state.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
    if recipe.clip is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(job.model.parameters(), recipe.clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.follow(recipe.ema)
    return losses


def learning_rate(recipe: Recipe, step: int, done: float) -> float:
    """Learning rate at a step, when the share `done` of the run is behind it."""
    warm = min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else 1.0
    if recipe.schedule == "halves":
        return warm * (recipe.lr if done < 0.5 else recipe.last_lr)
    cosine = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return warm * (recipe.last_lr + (recipe.lr - recipe.last_lr) * cosine)


def draw_cut(recipe: Recipe, seed: int, step: int, done: float) -> int:
    """Draw how many skips, from the top level down, a step goes without.

    The skips answer long before the depth does, and a decoder that has found them good enough
    heeds nothing from below any more. So at first it has to do without: without the top level's,
    or the top two's, and so on down to all four, alike often. The share of such steps falls from
    one, where the run begins, to `Recipe.cut_share` at `Recipe.cut_until` and stays there, lest the
    depth be forgotten.

    Returns
    -------
    int
        0 in all other steps. The same in every process.
    """
    if recipe.cut_share <= 0:
        return 0
    share = max(recipe.cut_share, 1 - done / recipe.cut_until if recipe.cut_until else 0.0)
    rng = np.random.default_rng([seed, step, _CUT_STREAM])
    return int(rng.integers(1, _SKIPS + 1)) if rng.random() < share else 0


def is_given(recipe: Recipe, seed: int, step: int, done: float) -> bool:
    """Draw whether the network is given the true facts in a step, instead of its own vector's.

    Nobody heeds a vector that tells little, and what nobody heeds learns little. So at first the
    way up gets the truth, and the decoder learns what it is good for; the share of such steps falls
    from one to none at `Recipe.given_until`, as the vector learns to tell it by itself.

    Returns
    -------
    bool
        The same in every process.
    """
    if not recipe.facts_weight or done >= recipe.given_until:
        return False
    rng = np.random.default_rng([seed, step, _GIVEN_STREAM])
    return bool(rng.random() < 1 - done / recipe.given_until)


# ---------------------------------------------------------------- the network and its depth


class DepthHeads(nn.Module):
    """Training-only 1x1 convolutions that read the picture off each coarse level of the decoder.

    Under a mean loss at the end alone the deep levels get gradients a million times smaller than
    the first layer's, and the shallow skips have answered long before they join in. Asked directly
    for the target averaged over their cells, they must carry its colour and brightness. The shipped
    network has no such heads.

    Parameters
    ----------
    widths : sequence of int
        Channels of each level, deepest first; see `Network.depth_widths`.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(width, 3, 1) for width in widths)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Features of each level, deepest first, to (N, 3, h, w) pictures."""
        return [head(level) for head, level in zip(self.heads, levels, strict=True)]


def depth_loss(pictures: list[Tensor], target: Tensor) -> Tensor:
    """Mean absolute error of coarse pictures against the target averaged over their cells."""
    errors = []
    for picture in pictures:
        cell = target.shape[2] // picture.shape[2]
        errors.append(F.l1_loss(picture.float(), F.avg_pool2d(target, cell)))
    return torch.stack(errors).mean()


def evenness_loss(picture: Tensor, target: Tensor, factor: int) -> Tensor:
    """Mean absolute deviation of sub-pixels' errors, averaged over blocks, from their own mean.

    The last layer has weights of its own for each sub-pixel; where their errors differ in the mean,
    flat areas show a pattern, too faint for a loss that sees pixels one by one. Blocks are of 16 x
    16 packed pixels; what is left of a crop at its right and bottom does not count.

    Parameters
    ----------
    picture, target : (N, 3, H, W)
    factor : int
        Side of a packed pixel in pixels.
    """
    errors = F.pixel_unshuffle(picture.float() - target, factor)
    means = F.avg_pool2d(errors, min(_EVEN_BLOCK, *errors.shape[2:]))
    by_sub_pixel = means.reshape(len(means), -1, factor * factor, *means.shape[2:])
    unevenness: Tensor = (by_sub_pixel - by_sub_pixel.mean(dim=2, keepdim=True)).abs().mean()
    return unevenness


def _with_facts(vector: Tensor, facts: Tensor) -> Tensor:
    """Put known facts, (N, FACTS), in the place of the vector's first numbers."""
    count = facts.shape[1]
    truth = ((facts - 0.5) / VECTOR_GAIN).to(vector)
    told = torch.where(truth.isnan(), vector[:, :count], truth)
    return torch.cat([told, vector[:, count:]], dim=1)


def facts_loss(vector: Tensor, facts: Tensor) -> Tensor:
    """Mean squared error of what the vector's first numbers tell of the facts of the night.

    So the vector learns what it is for from the truth itself, and not from what little of it gets
    through the noise of a picture's loss. Real photos' facts are unknown, and NaN: they do not
    count.

    Parameters
    ----------
    vector : (N, V)
    facts : (N, FACTS)
        See `night_facts`.
    """
    is_known = ~facts.isnan()
    told = 0.5 + VECTOR_GAIN * vector[:, : facts.shape[1]].float()
    errors = torch.where(is_known, told - facts.nan_to_num(), 0)
    return errors.square().sum() / is_known.sum().clamp(min=1)


class Trainee(nn.Module):
    """A network with what only training needs; what DistributedDataParallel wraps.

    Heads are for networks with coarse levels; the others get none.
    """

    def __init__(self, network: Network, *, with_heads: bool) -> None:
        super().__init__()
        self.network = network
        has_heads = with_heads and network.depth_widths
        self.heads = DepthHeads(network.depth_widths) if has_heads else None

    def forward(
        self, planes: Tensor, group: int, cut: int = 0, facts: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """(N, C, h, w) to the picture, the coarse pictures (if there are heads) and GIA's vector.

        A network with coarse levels goes without its top `cut` skips. The true `facts`, (N, FACTS),
        go up instead of the vector's own, where they are given and known.
        """
        levels: list[Tensor] | None = [] if self.heads is not None else None
        features = self.network.encode(planes)
        for level in range(cut if self.network.depth_widths else 0):
            features[level] = features[level] * 0  # not left out: every parameter has a gradient
        vector = None
        if isinstance(self.network, GiaNet):
            vector = self.network.gia.vector(group_mean(features[-1], group))
            told = vector if facts is None else _with_facts(vector, facts)
            picture = self.network.decode(features, self.network.gia.spread(told), levels)
        else:
            picture = self.network.finish(features, group, levels)
        depth = [] if self.heads is None or levels is None else self.heads(levels)
        return picture, depth, vector


# ---------------------------------------------------------------- state


@dataclass(slots=True)
class TrainState:
    """All that changes while training, and so all that a checkpoint holds."""

    trainee: Trainee
    ema: Network
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    step: int = 0

    def follow(self, decay: float) -> None:
        """Let the running mean follow the weights; quicker at first, when they are still raw."""
        keep = min(decay, (1 + self.step) / (10 + self.step)) if decay else 0.0
        with torch.no_grad():
            averages, current = (
                [p.data for p in net.parameters()] for net in (self.ema, self.trainee.network)
            )
            torch._foreach_lerp_(averages, current, 1 - keep)
            # Batch normalisation's statistics are running means themselves.
            for own, now in zip(self.ema.buffers(), self.trainee.network.buffers(), strict=True):
                own.copy_(now)

    def to_dict(self, elapsed_s: float) -> dict[str, Any]:
        """Return tensors and plain numbers only, so that loading runs no code."""
        return {
            "step": self.step,
            "elapsed_s": elapsed_s,
            "trainee": self.trainee.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `to_dict` returned."""
        self.step = saved["step"]
        self.trainee.load_state_dict(saved["trainee"])
        self.ema.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])


@dataclass(slots=True)
class _Job:
    """A run that is open: what the loop needs at hand."""

    config: TrainConfig
    recipe: Recipe
    device: torch.device
    ranks: Ranks
    autocast: torch.dtype | None
    source: Source
    validation: dict[str, list[Pair]]
    """Fixed crops by source; one nameless source where photographs were not kept by source."""
    loss: Callable[[Tensor, Tensor], Tensor]
    model: nn.Module
    """The trainee, wrapped where there are several processes."""
    state: TrainState
    clock: _Clock

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def batches(self) -> Batches:
        return Batches(
            self.source,
            self.recipe.crops,
            seed=self.config.seed,
            rank=self.ranks.rank,
            steps=self.clock.steps,
            done=self.clock.shared_done,
        )


def _own_device(device: torch.device, ranks: Ranks) -> torch.device:
    """Give each of several processes on CUDA its own GPU."""
    is_shared = ranks.world > 1 and device.type == "cuda"
    return torch.device("cuda", ranks.local) if is_shared else device


def _prepare_process() -> None:
    """Set what a training process wants, whatever it trains."""
    torch.set_flush_denormal(True)
    keep_freed_memory()


def _open_job(config: TrainConfig, device: torch.device, ranks: Ranks, progress: Progress) -> _Job:
    """Open data, network and run folder; resume if there is a checkpoint."""
    recipe = config.full_recipe()
    source, validation_source, scenes = _open_data(config, ranks, progress)
    recipe = replace(recipe, crops=_fitting(recipe.crops, source, config.kind, progress))
    recipe = _without_unknown_facts(recipe, config, source, progress)
    steps = config.steps
    if steps is None and config.budget_s is None:
        if recipe.epochs is None:
            raise UsageError("How long? Give --steps N or --budget TIME.", hint=_HELP)
        steps = recipe.epochs * scenes
    asked = _identity(config, recipe, source, validation_source, ranks)
    saved = _open_run(config.run, asked, progress)
    state = _new_state(config, recipe, device)
    clock = _Clock(ranks, steps, config.budget_s)
    loss = make_loss(recipe.loss, vgg=config.vgg)
    if saved is None:
        _start_from(config, state.trainee.network, progress)
        if recipe.facts_weight and not _starts_with_facts(config):
            _open_the_way_up(state.trainee.network, source, config.seed)
        state.ema.load_state_dict(state.trainee.network.state_dict())
    else:
        state.load_dict(saved)
        clock.earlier_s = saved["elapsed_s"]
        progress.note(f"Going on from step {state.step} of {config.run}.")
    # Only now, when nothing can be refused any more: a mistake must not claim the folder.
    _claim_run(config.run, asked, ranks)
    model: nn.Module = state.trainee
    if ranks.world > 1:
        model = DistributedDataParallel(
            state.trainee, device_ids=[ranks.local] if device.type == "cuda" else None
        )
    return _Job(
        config=config,
        recipe=recipe,
        device=device,
        ranks=ranks,
        autocast=_autocast(config.precision, device),
        source=source,
        validation=_validation_sets(validation_source, config),
        loss=loss,
        model=model,
        state=state,
        clock=clock,
    )


def _autocast(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Choose the number format of the convolutions; None computes in fp32."""
    if precision == "auto":
        without: Precision = "fp16" if device.type == "cuda" else "fp32"
        precision = "bf16" if _has_bf16(device) else without
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("The CPU does not train in fp16.", hint="Use --precision fp32 or bf16.")
    return {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def _has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 itself; a CPU that only emulates it is slower so."""
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _new_state(config: TrainConfig, recipe: Recipe, device: torch.device) -> TrainState:
    torch.manual_seed(config.seed)
    network = build(config.net_config())
    trainee = Trainee(network, with_heads=recipe.depth_weight > 0)
    if recipe.init == "kaiming":
        initialise(trainee)
    trainee.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = build(config.net_config()).to(device).eval().requires_grad_(False)
    ema.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(
        trainee.parameters(), lr=recipe.lr, eps=recipe.adam_eps, fused=device.type != "mps"
    )
    is_fp16 = _autocast(config.precision, device) == torch.float16
    return TrainState(trainee, ema, optimizer, torch.amp.GradScaler(device.type, enabled=is_fp16))


def _start_from(config: TrainConfig, network: Network, progress: Progress) -> None:
    if config.init_from is None:
        return
    info = find_weights(config.init_from)
    adopted = adopt(network, load_network(info), _usual_gains(config, info))
    changes = [
        f"{', '.join(names)} {what}"
        for names, what in (
            (adopted.translated, "translated"),
            (adopted.missing, "new"),
            (adopted.left_out, "left out"),
        )
        if names
    ]
    how = f" ({'; '.join(changes)})" if changes else ""
    progress.note(f"Starting from {info.name}{how}.")


def _starts_with_facts(config: TrainConfig) -> bool:
    """Tell whether the weights to start from have a vector that tells facts already."""
    if config.init_from is None:
        return False
    info = find_weights(config.init_from)
    return info.config.network == config.network and info.training.get(TELLS_FACTS) is True


def _open_the_way_up(network: Network, source: Source, seed: int) -> None:
    """Let a vector that is to tell facts be heard, and tell them as well as a linear map can."""
    assert isinstance(network, GiaNet)
    open_the_way_up(network, FACTS)
    side = min(_FIT_SIDE, source.largest_side() // network.stride * network.stride)
    means, facts = [], []
    for night in range(_FIT_NIGHTS):
        rng = np.random.default_rng([seed, night, _FIT_STREAM])
        pairs = source.pairs(rng, count=_FIT_CROPS, side=side)
        planes = torch.from_numpy(np.stack([pair.planes for pair in pairs]))
        with torch.inference_mode():
            feature = network.encode(planes.to(network.gia.shrink.weight.device))[-1]
        means.append(feature.mean((0, 2, 3)).cpu())
        facts.append(torch.from_numpy(pairs[0].facts))
    fit_the_vector(network, torch.stack(means), torch.stack(facts))


def _usual_gains(config: TrainConfig, donor: WeightsInfo) -> WhiteBalance:
    """Gains of the usual light for the network, of the two, that is not given them."""
    if donor.config.white_balance == "learned" and donor.neutral_wb is not None:
        red, green, blue = donor.neutral_wb
        return red, green, blue
    return median_gains(CAMERA_OF[config.camera])


# ---------------------------------------------------------------- data


def _open_data(config: TrainConfig, ranks: Ranks, progress: Progress) -> tuple[Source, Source, int]:
    """Open what to train on, what to validate on, and count the scenes.

    The first process decodes; the others wait, then find all done.
    """
    if not ranks.is_first:
        ranks.wait()
    try:
        opened = _open_sid(config, progress) if config.data else _open_nights(config, progress)
    finally:
        if ranks.is_first:
            ranks.wait()
    return opened


def _open_nights(config: TrainConfig, progress: Progress) -> tuple[Source, Source, int]:
    cache = config.cache or cache_folder() / "photos"
    photos = open_photos(list(config.photos), cache, progress)
    training, validation = split_photos(photos, config.validation_sources)
    camera = CAMERA_OF[config.camera]
    progress.detail(f"{len(training)} photographs to train on, {len(validation)} to validate on")
    if training == validation:
        progress.note(
            f"{len(training)} photographs are too few to keep some for validation: its score will "
            "tell of memory, not of skill."
        )
    (drawn, own), floor = _balances(config), config.net_config().input_floor
    return (
        PhotoNights(photos, training, camera, balance=drawn, floor=floor),
        PhotoNights(photos, validation, camera, PLAIN_NIGHTS, balance=own, floor=floor),
        len(training),
    )


def _balances(config: TrainConfig) -> tuple[GivenBalance | None, GivenBalance | None]:
    """Say how the white balance is handed out in training and in validation; None for not."""
    if config.white_balance == "learned":
        return None, None
    return GivenBalance(), GivenBalance(changed_share=0)


def _open_sid(config: TrainConfig, progress: Progress) -> tuple[Source, Source, int]:
    assert config.data is not None
    opened = open_splits(
        config.data, config.camera, ("train", "val"), cache=config.cache, progress=progress
    )
    floor = config.net_config().input_floor
    training, validation = (
        SidCrops(frames, balance, floor)
        for frames, balance in zip(opened, _balances(config), strict=True)
    )
    return training, validation, training.scenes


def _fitting(crops: CropOptions, source: Source, kind: CfaKind, progress: Progress) -> CropOptions:
    """Hold the crops to what the photos can give, and say so."""
    # Whole X-Trans periods and whole cells of the network: multiples of 16 are both.
    largest = source.largest_side() // crops.multiple * crops.multiple
    if crops.largest <= largest:
        return crops
    if largest <= 0:
        size = crops.multiple * PACK_FACTOR[kind] + CANONICAL[kind].shape[0]
        raise DataError(
            "The photos are too small to train on.",
            hint=f"They need at least {size} pixels a side.",
        )
    progress.note(f"Crops are held at {largest} packed px a side: the photos give no more.")
    held = replace(crops, sides=(min(crops.sides[0], largest), min(crops.sides[1], largest)))
    if held.late_sides is None:
        return held
    late = (min(held.late_sides[0], largest), min(held.late_sides[1], largest))
    return replace(held, late_sides=late)


def _without_unknown_facts(
    recipe: Recipe, config: TrainConfig, source: Source, progress: Progress
) -> Recipe:
    """Ask for no facts where there is nothing to ask: and that is then what the run's recipe is."""
    if not recipe.facts_weight:
        return recipe
    network = config.net_config()
    if network.network == "gia-net":
        if source.knows_facts and network.width > 2 * FACTS:
            return recipe
        why = "the network is too narrow" if source.knows_facts else "real photos' are unknown"
        progress.note(f"The vector is not asked for the facts of the night: {why}.")
    return replace(recipe, facts_weight=0.0, given_until=0.0)


def _validation_sets(source: Source, config: TrainConfig) -> dict[str, list[Pair]]:
    """Draw the crops that every validation looks at, of each source that is kept for it."""
    if not config.validation_sources or not isinstance(source, PhotoNights):
        return {"": _validation_pairs(source)}
    return {name: _validation_pairs(own) for name, own in source.by_source().items()}


def _validation_pairs(source: Source) -> list[Pair]:
    """Draw the crops that every validation looks at: the same for every run on these photos."""
    side = min(_VALIDATION_SIDE, source.largest_side() // 16 * 16)
    if side <= 0:
        raise DataError("The validation photos are too small.", hint="Leave them out.")
    pairs: list[Pair] = []
    for index in range(_VALIDATION_CROPS):
        rng = np.random.default_rng([_VALIDATION_SEED, index])
        pairs += source.pairs(rng, count=1, side=side)
    return pairs


def _validate(job: _Job, log: TrainLog | None, progress: Progress) -> float:
    """Measure the averaged network on the fixed crops, write picture and curves; PSNR in dB."""
    if log is None:
        return math.nan
    known = [row for row in log.rows if row["step"] == job.state.step and "validation_psnr" in row]
    if known:
        return float(known[-1]["validation_psnr"])
    pairs = [pair for own in job.validation.values() for pair in own]
    pictures = [_picture(job, pair.planes) for pair in pairs]
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
        told = ", ".join(f"{source} {value:.2f}" for source, value in of_source.items())
        progress.detail(f"step {job.state.step}: validation {score:.2f} dB ({told})")
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


def _picture(job: _Job, planes: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        batch = torch.from_numpy(planes)[None].to(job.device)
        picture: NDArray[np.float32] = job.state.ema(batch)[0].float().cpu().numpy()
    return picture


# ---------------------------------------------------------------- the run folder


def _open_run(run: Path, asked: dict[str, Any], progress: Progress) -> dict[str, Any] | None:
    """Read the folder's checkpoint, if there is one, and check that it is this run's."""
    if not (run / CHECKPOINT).exists():
        return None  # whatever was asked for before has left nothing to go on from
    _check_same(run, read_config(run), asked, progress)
    return read_checkpoint(run)


def _claim_run(run: Path, asked: dict[str, Any], ranks: Ranks) -> None:
    """Write into the folder what runs there."""
    if ranks.is_first:
        with atomic_file(run / CONFIG) as file:
            file.write(json.dumps(asked, indent=2).encode())
    ranks.wait()


@contextmanager
def _only_run_in(run: Path, ranks: Ranks) -> Iterator[None]:
    """Keep a second run out of the folder while this one is in it."""
    if not ranks.is_first:
        yield
        return
    make_folder(run, "--run")
    with lock(run / LOCK) as is_ours:
        if not is_ours:
            raise RunError(f"Another process is training in {run}.", hint="Wait, or stop it.")
        yield


def _identity(
    config: TrainConfig, recipe: Recipe, source: Source, validation: Source, ranks: Ranks
) -> dict[str, Any]:
    """Describe a run by all that decides its outcome."""
    data = config.data.resolve() if config.data else [str(p.resolve()) for p in config.photos]
    digest = source.digest()
    balance, _ = _balances(config)
    values = {
        "gia": __version__,
        "network": config.net_config().to_json(),
        "camera": config.camera,
        "data": data if isinstance(data, list) else str(data),
        "data_digest": digest,
        # Few photographs are all trained on and validated on: memory is measured then, not skill.
        "validation": "the same photos" if validation.digest() == digest else "other photos",
        "recipe_name": config.recipe,
        "recipe": asdict(recipe),
        "nights": asdict(source.options) if isinstance(source, PhotoNights) else None,
        "init_from": _describe_weights(config.init_from),
        TELLS_FACTS: recipe.facts_weight > 0 or _starts_with_facts(config),
        "seed": config.seed,
        "precision": config.precision,
        "processes": ranks.world,
        "steps": config.steps,
        "budget_s": config.budget_s,
    }
    if balance:
        values["given_balance"] = asdict(balance)
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _describe_weights(name_or_path: str | None) -> str | None:
    """Name weights without anybody's folders, and by their digest too."""
    if name_or_path is None:
        return None
    info = find_weights(name_or_path)
    return f"{info.name} ({(info.sha256 or 'not verified')[:16]})"


def _check_same(
    run: Path, there: dict[str, Any], asked: dict[str, Any], progress: Progress
) -> None:
    """Refuse to go on with a run that was started otherwise; it may only become longer or shorter.

    The version may differ, for a run of many hours outlives it; what an older one did not know of
    is not compared, but what its recipe did not know of, it did not do. Data may have moved, but
    must be the same.
    """
    there = {**there, "recipe": {**_recipe_defaults(), **there.get("recipe", {})}}
    free = {"gia", "steps", "budget_s", "data", "recipe_name", TELLS_FACTS}
    for name, old, new in _differences(there, asked):
        if name.split(".")[0] not in free:
            raise RunError(f"{run} holds another run: its {name} is {old}, not {new}.")
    for name in ("steps", "budget_s", "data"):
        if there.get(name) != asked[name]:
            progress.note(f"{run}: {name} was {there.get(name)}, now {asked[name]}.")


def _recipe_defaults() -> dict[str, Any]:
    return {item.name: item.default for item in fields(Recipe) if item.default is not MISSING}


def _differences(
    there: dict[str, Any], asked: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs between two nested descriptions, by its full name."""
    for name in there.keys() & asked.keys():
        old, new = there[name], asked[name]
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield prefix + name, old, new


def read_config(run: Path) -> dict[str, Any]:
    """Read what a run was asked to be.

    Raises
    ------
    RunError
        The folder holds no run.
    """
    try:
        config: dict[str, Any] = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run} is not the folder of a training run.", hint=f"It has no readable {CONFIG}."
        ) from error
    return config


def read_checkpoint(run: Path) -> dict[str, Any]:
    """Read a run's checkpoint onto the CPU; runs no code from it.

    Raises
    ------
    RunError
        None there, unreadable or damaged.
    """
    path = run / CHECKPOINT
    try:
        with path.open("rb") as file:
            saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{run} has no checkpoint yet.", hint="Let it train for a while.") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.", hint="") from error
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises whatever its unpickler and zip reader meet
        raise RunError(f"{path} is damaged.", hint="Remove it to start the run anew.") from error
    return saved


def _save(job: _Job) -> None:
    """Write the checkpoint; what was there stays until the new one is whole.

    Raises
    ------
    DivergedError
        The weights are no longer finite: the last good checkpoint is not given up for them.
    OutputError
    """
    parameters = job.state.trainee.parameters()
    if not all(bool(x.isfinite().all()) for x in parameters):
        raise DivergedError(f"The weights are no longer finite at step {job.state.step}.")
    if job.ranks.is_first:
        # In memory first: of a full disk torch's own writer would not tell in a way to be caught.
        data = io.BytesIO()
        torch.save(job.state.to_dict(job.clock.elapsed()), data)
        with atomic_file(job.config.run / CHECKPOINT) as file:
            file.write(data.getbuffer())
    job.ranks.wait()


# ---------------------------------------------------------------- export


def export_run(
    run: Path,
    name: str,
    folder: Path,
    *,
    data_note: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the weights of a run's checkpoint, and their row into the folder's manifest.

    Parameters
    ----------
    run : Path
    name : str
        Of the weights; the file is ``name.safetensors``.
    folder : Path
    data_note : str, optional
        What the run was trained on; by default what its configuration says, folders by name only.
    licence : str, optional
    overwrite : bool
        Replace weights of that name.

    Returns
    -------
    dict
        The manifest's row.

    Raises
    ------
    RunError
        No run, or no checkpoint yet.
    OutputExistsError
        Weights of that name are there.
    UsageError
        A name that is no file name.
    """
    path = weights_path(folder, name)
    refuse_to_replace(path, overwrite=overwrite)
    config = read_config(run)
    saved = read_checkpoint(run)
    network = build(NetConfig.from_json(config["network"]))
    network.load_state_dict(saved["ema"])
    scores = [
        row for row in read_log(run) if "validation_psnr" in row and row["step"] <= saved["step"]
    ]
    camera = CAMERA_OF[config["camera"]]
    training = {
        "data": data_note or _data_names(config["data"]),
        "recipe": {"name": config["recipe_name"], **config["recipe"]},
        "nights": config.get("nights"),
        "given_balance": config.get("given_balance"),
        "init_from": config["init_from"],
        "steps": saved["step"],
        "hours": round(saved["elapsed_s"] / 3600, 2),
        TELLS_FACTS: config.get(TELLS_FACTS, False),
        "seed": config["seed"],
        "validation_psnr": scores[-1]["validation_psnr"] if scores else None,
        "validated_on": config.get("validation", "other photos"),
        "gia": config["gia"],
    }
    make_folder(folder, "--out")
    row = save_weights(
        path,
        network,
        camera=camera,
        daylight_wb=[round(gain, 6) for gain in daylight_gains(camera)],
        neutral_wb=[round(gain, 6) for gain in median_gains(camera)],
        licence=licence,
        training=training,
    )
    list_in_manifest(folder, row)
    return row


def _data_names(data: str | list[str]) -> str:
    """Name folders without the path of somebody's machine."""
    paths = [data] if isinstance(data, str) else data
    return ", ".join(Path(path).name for path in paths)


# ---------------------------------------------------------------- time


class _Clock:
    """How much of the run is behind, by steps or by seconds; the same for all processes."""

    def __init__(self, ranks: Ranks, steps: int | None, budget_s: float | None) -> None:
        self.ranks = ranks
        self.steps = steps
        self.budget_s = budget_s
        self.earlier_s = 0.0
        # Workers, which run ahead, read here how far a run by the clock has come.
        self.shared_done = None if steps is not None else Value("d", 0.0)
        self._start = time.monotonic()
        self._last_due: dict[str, float] = {}
        self._step_seconds: tuple[int, float] | None = None

    @property
    def total(self) -> int:
        """Length of the bar: steps or seconds."""
        return self.steps if self.steps is not None else int(self.budget_s or 0)

    def elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.earlier_s + time.monotonic() - self._start

    def position(self, step: int) -> int:
        """Place on the bar."""
        return step if self.steps is not None else min(int(self.elapsed()), self.total)

    def done(self, step: int) -> float:
        """Share of the run that is behind, 0...1 and beyond."""
        if self.steps is not None:
            return step / self.steps
        assert self.budget_s is not None and self.shared_done is not None
        share = self.ranks.from_first(self.elapsed() / self.budget_s)
        self.shared_done.value = share
        return share

    def steps_from(self, step: int) -> range:
        """List the steps that may be left."""
        return range(step, sys.maxsize if self.steps is None else self.steps)

    def seconds_left(self, step: int) -> str:
        """Say how long it will take, by the speed since the start or resume."""
        if self._step_seconds is None:
            self._step_seconds = (step, self.elapsed())
            return ""
        if self.steps is None:
            left = max((self.budget_s or 0) - self.elapsed(), 0)
        else:
            first, then = self._step_seconds
            left = (self.elapsed() - then) / (step - first) * (self.steps - step)
        minutes = int(left // 60)
        return f"{minutes // 60} h {minutes % 60:02d} min left"

    def is_due(self, what: str, every_s: float) -> bool:
        """Tell whether `every_s` seconds have passed since this was last true (or the start)."""
        now = self.ranks.from_first(time.monotonic() - self._start)
        if now - self._last_due.get(what, 0.0) < every_s:
            return False
        self._last_due[what] = now
        return True


class _Stop:
    """Whether someone has asked this process to stop; the step under way is finished first."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked:  # asked twice: at once
            raise KeyboardInterrupt
        self.asked = True

    def is_set(self, clock: _Clock) -> bool:
        """Agree with the other processes, now and then: each exchange costs a round trip.

        By time, not by steps: torchrun gives a process that it has told to stop half a minute.
        """
        if clock.ranks.world == 1:
            return self.asked
        return clock.is_due("stop", _AGREE_EVERY_S) and clock.ranks.any(self.asked)


@contextmanager
def _stop_flag() -> Iterator[_Stop]:
    stop = _Stop()
    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody sends signals here
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
