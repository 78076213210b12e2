"""From what a run is asked to be to all that its loop needs.

Data, network, optimizer and clock are opened here, the checkpoint is read and written.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing import Value
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gia_cli._version import __version__
from gia_cli.cameras import CAMERA_OF, WhiteBalance
from gia_cli.data.augment import GivenBalance, Pair
from gia_cli.data.auxiliary import AUXILIARY
from gia_cli.data.batches import Batches, SidCrops, Source
from gia_cli.data.crops import CropOptions
from gia_cli.data.sid import open_splits
from gia_cli.data.synthetic import PLAIN_SCENES, PhotoScenes, open_photos, split_photos
from gia_cli.errors import DataError, DivergedError, UsageError
from gia_cli.imaging.fusion import Shares
from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.unet import GiaNet
from gia_cli.progress import Progress
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR, CfaKind
from gia_cli.runtime import Precision, keep_freed_memory
from gia_cli.simulation.sensor import median_gains
from gia_cli.training.auxiliary import Trainee
from gia_cli.training.checkpoint import write_checkpoint
from gia_cli.training.config import HELP, VECTOR_SUPERVISED, Recipe, TrainConfig
from gia_cli.training.distributed import Ranks
from gia_cli.training.initialise import fit_vector, init_identity_path, initialise
from gia_cli.training.losses import make_loss
from gia_cli.training.run_folder import claim_run, open_run
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo, load_network
from gia_cli.weights.transfer import transfer

_FIT_SCENES, _FIT_CROPS, _FIT_SIDE = 600, 2, 128
_FIT_STREAM = 2**31 + 2
_VALIDATION_CROPS = 8
_VALIDATION_SIDE = 96  # packed pixels
_VALIDATION_SEED = 20260101


@dataclass(slots=True)
class TrainState:
    """All that changes while training, and so all that a checkpoint holds."""

    trainee: Trainee
    ema: Network
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    step: int = 0

    def update_ema(self, decay: float) -> None:
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
class Job:
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
    clock: Clock
    shares: Shares | None
    """What the pictures are fused by; None where they are not."""

    @property
    def is_cuda(self) -> bool:
        """Whether it computes on a CUDA device."""
        return self.device.type == "cuda"

    def batches(self) -> Batches:
        """Make this process's batches, from the first step on."""
        return Batches(
            self.source,
            self.recipe.crops,
            seed=self.config.seed,
            rank=self.ranks.rank,
            steps=self.clock.steps,
            done=self.clock.shared_done,
        )


def own_device(device: torch.device, ranks: Ranks) -> torch.device:
    """Give each of several processes on CUDA its own GPU."""
    is_shared = ranks.world > 1 and device.type == "cuda"
    return torch.device("cuda", ranks.local) if is_shared else device


def prepare_process() -> None:
    """Set what every training process needs."""
    torch.set_flush_denormal(True)
    keep_freed_memory()


def open_job(config: TrainConfig, device: torch.device, ranks: Ranks, progress: Progress) -> Job:
    """Open data, network and run folder; resume if there is a checkpoint."""
    recipe = config.full_recipe()
    source, validation_source, scenes = _open_data(config, ranks, progress)
    recipe = replace(recipe, crops=_fitting(recipe.crops, source, config.kind, progress))
    recipe = _without_unknown_targets(recipe, config, source, progress)
    steps = config.steps
    if steps is None and config.budget_s is None:
        if recipe.epochs is None:
            raise UsageError("The run has no length: give --steps N or --budget TIME.", hint=HELP)
        steps = recipe.epochs * scenes
    asked = _identity(config, recipe, source, validation_source, ranks)
    saved = open_run(config.run, asked, progress)
    shares = _shares(config, recipe)
    state = _new_state(config, recipe, device)
    clock = Clock(ranks, steps, config.budget_s)
    loss = make_loss(recipe.loss, vgg=config.vgg)
    if saved is None:
        _start_from(config, state.trainee.network, progress)
        if recipe.auxiliary_weight and not _starts_supervised(config):
            _init_identity_path(state.trainee.network, source, config.seed)
        state.ema.load_state_dict(state.trainee.network.state_dict())
    else:
        state.load_dict(saved)
        clock.earlier_s = saved["elapsed_s"]
        progress.note(f"Resuming at step {state.step} of {config.run}.")
    # Only now, when nothing can be refused any more: a mistake must not claim the folder.
    claim_run(config.run, asked, ranks)
    model: nn.Module = state.trainee
    if ranks.world > 1:
        model = DistributedDataParallel(
            state.trainee, device_ids=[ranks.local] if device.type == "cuda" else None
        )
    return Job(
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
        shares=shares,
    )


# ---------------------------------------------------------------- network


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
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _new_state(config: TrainConfig, recipe: Recipe, device: torch.device) -> TrainState:
    torch.manual_seed(config.seed)
    network = build(config.net_config())
    trainee = Trainee(network, with_heads=recipe.deep_supervision_weight > 0)
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
    transferred = transfer(network, load_network(info), _usual_gains(config, info))
    changes = [
        f"{', '.join(names)} {what}"
        for names, what in (
            (transferred.translated, "translated"),
            (transferred.missing, "new"),
            (transferred.left_out, "left out"),
        )
        if names
    ]
    how = f" ({'; '.join(changes)})" if changes else ""
    progress.note(f"Starting from {info.name}{how}.")


def _shares(config: TrainConfig, recipe: Recipe) -> Shares | None:
    """Find the shares that the pictures are fused with: those of the weights to start from."""
    if not recipe.fused:
        return None
    info = None if config.init_from is None else find_weights(config.init_from)
    if info is None or info.fusion is None or config.data is not None:
        raise UsageError(
            "--fused needs --photos, and --init-from with weights that have fusion shares.",
            hint="Make such weights with 'gia weights calibrate'.",
        )
    if config.white_balance != "as-shot" or config.net_config().input_floor is not None:
        raise UsageError(
            "--fused needs a network that gets the white balance and sees values below black.",
            hint="Give --white-balance as-shot --no-clip-black.",
        )
    return info.fusion


def _starts_supervised(config: TrainConfig) -> bool:
    """Check whether the vector of the weights to start from estimates the auxiliary targets."""
    if config.init_from is None:
        return False
    info = find_weights(config.init_from)
    return info.config.network == config.network and info.training.get(VECTOR_SUPERVISED) is True


def _init_identity_path(network: Network, source: Source, seed: int) -> None:
    """Give the vector an identity path to the decoder, and fit it to the auxiliary targets."""
    assert isinstance(network, GiaNet)
    init_identity_path(network, AUXILIARY)
    side = min(_FIT_SIDE, source.largest_side() // network.stride * network.stride)
    means, targets = [], []
    for scene in range(_FIT_SCENES):
        rng = np.random.default_rng([seed, scene, _FIT_STREAM])
        pairs = source.pairs(rng, count=_FIT_CROPS, side=side)
        planes = torch.from_numpy(np.stack([pair.planes for pair in pairs]))
        with torch.inference_mode():
            feature = network.encode(planes.to(network.gia.shrink.weight.device))[-1]
        means.append(feature.mean((0, 2, 3)).cpu())
        targets.append(torch.from_numpy(pairs[0].auxiliary))
    fit_vector(network, torch.stack(means), torch.stack(targets))


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
        opened = _open_sid(config, progress) if config.data else _open_photos(config, progress)
    finally:
        if ranks.is_first:
            ranks.wait()
    return opened


def _open_photos(config: TrainConfig, progress: Progress) -> tuple[Source, Source, int]:
    photos = open_photos(list(config.photos), config.cache, progress)
    training, validation = split_photos(photos, config.validation_sources)
    camera = CAMERA_OF[config.camera]
    progress.detail(f"{len(training)} photographs to train on, {len(validation)} to validate on")
    if training == validation:
        progress.note(
            "There are too few photographs to keep some for validation. The score is then of "
            "training photographs, and does not show how well the network generalizes."
        )
    (drawn, own), floor = _balances(config), config.net_config().input_floor
    fused = config.full_recipe().fused
    return (
        PhotoScenes(photos, training, camera, balance=drawn, floor=floor, measures=fused),
        PhotoScenes(
            photos, validation, camera, PLAIN_SCENES, balance=own, floor=floor, measures=fused
        ),
        len(training),
    )


def _balances(config: TrainConfig) -> tuple[GivenBalance | None, GivenBalance | None]:
    """Choose the white balance of training and of validation; None for weights that infer it."""
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
    progress.note(
        f"Crops are limited to {largest} packed px a side: the photos are too small for more."
    )
    held = replace(crops, sides=(min(crops.sides[0], largest), min(crops.sides[1], largest)))
    if held.late_sides is None:
        return held
    late = (min(held.late_sides[0], largest), min(held.late_sides[1], largest))
    return replace(held, late_sides=late)


def _without_unknown_targets(
    recipe: Recipe, config: TrainConfig, source: Source, progress: Progress
) -> Recipe:
    """Leave auxiliary targets out of the recipe where they are unknown."""
    if not recipe.auxiliary_weight:
        return recipe
    network = config.net_config()
    if network.network == "gia-net":
        if source.has_auxiliary_targets and network.width > 2 * AUXILIARY:
            return recipe
        why = (
            "the network is too narrow"
            if source.has_auxiliary_targets
            else "those of real photos are unknown"
        )
        progress.note(f"Training without auxiliary targets: {why}.")
    return replace(recipe, auxiliary_weight=0.0, teacher_forcing_until=0.0)


def _validation_sets(source: Source, config: TrainConfig) -> dict[str, list[Pair]]:
    """Draw the crops that every validation looks at, of each source that is kept for it."""
    if not config.validation_sources or not isinstance(source, PhotoScenes):
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


# ---------------------------------------------------------------- what is written into the run
# folder


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
        "scenes": asdict(source.options) if isinstance(source, PhotoScenes) else None,
        "init_from": _describe_weights(config.init_from),
        VECTOR_SUPERVISED: recipe.auxiliary_weight > 0 or _starts_supervised(config),
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


def save_checkpoint(job: Job) -> None:
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
        write_checkpoint(job.config.run, job.state.to_dict(job.clock.elapsed()))
    job.ranks.wait()


# ---------------------------------------------------------------- time


class Clock:
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
