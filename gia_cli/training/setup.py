"""From what a run is asked to be to all that its loop needs.

Data, network, optimizer and clock are opened here, the checkpoint is read and written.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gia_cli._version import __version__
from gia_cli.cameras import CAMERA_OF, WhiteBalance
from gia_cli.data.augment import GivenBalance, Pair
from gia_cli.data.auxiliary import AUXILIARY
from gia_cli.data.batches import PREFETCH, Batches, SidCrops, Source
from gia_cli.data.cache import Check
from gia_cli.data.crops import CropOptions
from gia_cli.data.device_batches import DeviceBatches, PhotoPixels
from gia_cli.data.sid import open_splits
from gia_cli.data.synthetic import PhotoScenes, open_photos, split_photos
from gia_cli.errors import DataError, DeviceError, DivergedError, RunError, UsageError
from gia_cli.imaging.fusion import Shares
from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.unet import GiaNet, UNet
from gia_cli.progress import Kept, Progress
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR, CfaKind
from gia_cli.runtime import Precision, keep_freed_memory
from gia_cli.simulation.scene import PLAIN_SCENES
from gia_cli.simulation.sensor import median_gains
from gia_cli.text import counted
from gia_cli.training.auxiliary import Trainee
from gia_cli.training.checkpoint import has_checkpoint, write_checkpoint
from gia_cli.training.clock import Clock
from gia_cli.training.config import (
    HELP,
    VECTOR_SUPERVISED,
    Recipe,
    SimulationName,
    TrainConfig,
)
from gia_cli.training.distillation import describe_teacher, find_teacher, open_teacher
from gia_cli.training.distributed import Ranks
from gia_cli.training.initialise import (
    fit_vector,
    init_identity_path,
    init_raw_head,
    initialise,
)
from gia_cli.training.losses import make_loss
from gia_cli.training.run_folder import (
    PLANNED_STEPS,
    TEACHER,
    claim_run,
    open_run,
    read_config,
)
from gia_cli.training.workers import choose_workers, worker_start
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo, load_network
from gia_cli.weights.transfer import transfer

#: Skips of a network with coarse levels that may be dropped, from the top level down.
SKIPS = 4
# How often, and for how long, processes look for the checkpoint that the others find.
_LOOKS, _LOOK_EVERY_S = 45, 2.0
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
        """Take over what `to_dict` returned, perhaps on another device or in another precision."""
        self.step = saved["step"]
        self.trainee.load_state_dict(saved["trainee"])
        self.ema.load_state_dict(saved["ema"])
        theirs = saved["optimizer"]
        own = self.optimizer.param_groups
        groups = [
            {**group, "fused": mine["fused"]}  # of the device, not of the run
            for group, mine in zip(theirs["param_groups"], own, strict=True)
        ]
        self.optimizer.load_state_dict({**theirs, "param_groups": groups})
        if saved["scaler"]:  # only fp16 has a scale; who comes from elsewhere finds one anew
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
    pixels: PhotoPixels | None
    """Photographs that torch simulates exposures of; None where NumPy does, or of SID."""
    workers: int
    """Processes that make crops."""
    skip_factors: Tensor
    """(SKIPS + 1, SKIPS), on the device; row n leaves out the top n skips."""
    prefetch: int = PREFETCH
    """Batches that each of them may be ahead."""
    worker_start: str | None = None
    """How they are started; see `load`."""
    teacher: nn.Module | None = None
    """Network whose picture is a target too; no process wraps it, for it does not learn."""

    @property
    def is_cuda(self) -> bool:
        """Whether it computes on a CUDA device."""
        return self.device.type == "cuda"

    @property
    def pins_batches(self) -> bool:
        """Whether batches are to lie in page-locked memory: those that are to be sent to CUDA."""
        return self.is_cuda and self.pixels is None

    def batches(self) -> Batches:
        """Make this process's batches, from the first step on."""
        crops, seed, rank = self.recipe.crops, self.config.seed, self.ranks.rank
        steps, done = self.clock.steps, self.clock.shared_done
        if self.pixels is None:
            return Batches(self.source, crops, seed=seed, rank=rank, steps=steps, done=done)
        assert isinstance(self.source, PhotoScenes)
        return DeviceBatches(
            self.source,
            self.pixels,
            crops,
            device=self.device,
            seed=seed,
            rank=rank,
            steps=steps,
            done=done,
        )

    def kept_skips(self, cut: int) -> Tensor | None:
        """Factors of the skips where the top `cut` are dropped; None spares the multiplication.

        A compiled network always gets them: one graph then serves all steps.
        """
        return self.skip_factors[cut] if cut or self.config.compile else None

    def untold(self, auxiliary: Tensor) -> Tensor | None:
        """Stand in for auxiliary targets that the decoder is not told, for a compiled network."""
        if not (self.config.compile and self.recipe.auxiliary_weight):
            return None
        return torch.full_like(auxiliary, torch.nan)


def prepare_process() -> None:
    """Set what every training process needs."""
    torch.set_flush_denormal(True)
    keep_freed_memory()


def open_job(config: TrainConfig, device: torch.device, ranks: Ranks, progress: Progress) -> Job:
    """Open data, network and run folder; resume if there is a checkpoint."""
    recipe = config.full_recipe()
    if recipe.raw_weight and not _has_top_level(config):
        raise UsageError(
            f"--raw-weight needs a U-Net, which {config.network} is not.",
            hint="Leave it out, or choose another --network.",
        )
    taught_by = None
    if config.teacher is not None:
        taught_by = find_teacher(config.teacher, config.net_config())
    source, validation_source, scenes = _open_data(config, ranks, progress)
    recipe = replace(recipe, crops=_fitting(recipe.crops, source, config.kind, progress))
    _note_passed_over(recipe.crops, source, progress)
    recipe = _without_unknown_targets(recipe, config, source, progress)
    steps = _length(config, recipe, scenes, ranks)
    simulation = _simulation(config, device)
    asked = _identity(config, recipe, source, validation_source, ranks, simulation)
    asked[TEACHER] = None if taught_by is None else describe_teacher(taught_by)
    asked[PLANNED_STEPS] = steps
    saved = _open_alike(config.run, asked, ranks, progress)
    shares = _shares(config, recipe)
    state = _new_state(config, recipe, device)
    teacher: nn.Module | None = None if taught_by is None else open_teacher(taught_by, device)
    start = worker_start(device, ranks)
    clock = Clock(ranks, steps, config.budget_s, config.checkpoint_every_s, start)
    loss = make_loss(recipe.loss, vgg=config.vgg, device=device)
    if saved is None:
        _start_from(config, state.trainee.network, progress)
        if recipe.auxiliary_weight and not _starts_supervised(config):
            _init_identity_path(state.trainee.network, source, config.seed, progress)
        if state.trainee.raw_head is not None:
            assert isinstance(state.trainee.network, UNet)
            init_raw_head(state.trainee.raw_head, state.trainee.network)
        state.ema.load_state_dict(state.trainee.network.state_dict())
    else:
        state.load_dict(saved)
        clock.resume(saved["elapsed_s"])
        progress.note(f"Resuming at step {state.step} of {config.run}.")
    pixels = None
    if simulation == "torch":
        pixels = _pixels_on(device, source, progress)
    _look_for_fast_convolutions(recipe, device)
    autocast = _autocast(config.precision, device)
    _refuse_other_numbers(autocast, ranks)
    # Only now, when nothing can be refused any more: a mistake must not claim the folder.
    claim_run(config.run, asked, ranks)
    model: nn.Module = state.trainee
    if ranks.world > 1:
        model = DistributedDataParallel(
            state.trainee, device_ids=[device.index] if device.type == "cuda" else None
        )
    if config.compile:
        _allow_graphs(recipe.crops, progress)
        model = cast(nn.Module, torch.compile(model, dynamic=False))
        if teacher is not None:
            teacher = cast(nn.Module, torch.compile(teacher, dynamic=False))
    workers, prefetch = choose_workers(config, recipe, simulation, progress)
    return Job(
        config=config,
        recipe=recipe,
        device=device,
        ranks=ranks,
        autocast=autocast,
        source=source,
        validation=_validation_sets(validation_source, config),
        loss=loss,
        model=model,
        state=state,
        clock=clock,
        shares=shares,
        pixels=pixels,
        workers=workers,
        prefetch=prefetch,
        worker_start=start,
        skip_factors=_skip_factors(device),
        teacher=teacher,
    )


def _open_alike(
    run: Path, asked: dict[str, Any], ranks: Ranks, progress: Progress
) -> dict[str, Any] | None:
    """Read the folder's checkpoint, in all processes the same one.

    Network file systems show a machine another one's new file after up to a minute: it would go on
    from the file before, and with that step's moments, in a training that goes on from the new one.

    Raises
    ------
    RunError
        They do not find the same.
    """
    everyone: list[str] = []
    for attempt in range(_LOOKS):
        if attempt:
            time.sleep(_LOOK_EVERY_S)
        kept = Kept()
        saved = open_run(run, asked, kept)
        found = "none" if saved is None else f"step {saved['step']} after {saved['elapsed_s']!r} s"
        everyone = ranks.gather(found)
        if len(set(everyone)) == 1:
            kept.pass_on(progress)  # once, whatever it has found before
            return saved
    first, other = everyone[0], next(found for found in everyone if found != everyone[0])
    raise RunError(
        f"Not all processes find the same checkpoint in {run}: {first}, and {other}.",
        hint="Give --run a folder that all machines share.",
    )


def _refuse_other_numbers(autocast: torch.dtype | None, ranks: Ranks) -> None:
    """Raise `DeviceError` where some processes would compute in fp16 and others would not.

    In fp16 gradients are scaled, and the mean of scaled and other ones is none.
    """
    names = set(ranks.gather(str(autocast or torch.float32).removeprefix("torch.")))
    if len(names) > 1 and "float16" in names:
        raise DeviceError(
            f"The processes would compute in different number formats: {', '.join(sorted(names))}.",
            hint="Use --precision fp32, or fp16 if all GPUs have it.",
        )


def _allow_graphs(crops: CropOptions, progress: Progress) -> None:
    """Let torch compile for every side of crops: after eight graphs it would go on without."""
    count = crops.count_of_sides
    if count > 2:
        progress.note(
            f"--compile compiles the network anew for each of {count} sides of crops; one side, as "
            "--sides 256, takes the least time."
        )
    import torch._dynamo.config as settings

    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
    setattr(settings, name, max(getattr(settings, name), 2 * count))


def _length(config: TrainConfig, recipe: Recipe, scenes: int, ranks: Ranks) -> int | None:
    """Count the steps of a run; None for one by the clock.

    An epoch takes as many photos as there are scenes, over all processes. A run that has begun
    keeps its length: before it was recorded, a step counted as one scene whatever it took.
    """
    if config.steps is not None or config.budget_s is not None:
        return config.steps
    if recipe.epochs is None:
        raise UsageError("The run has no length: give --steps N or --budget TIME.", hint=HELP)
    photos = recipe.epochs * scenes
    there = read_config(config.run) if has_checkpoint(config.run) else {}
    if there and there.get("steps") is None and there.get("budget_s") is None:
        recorded: int = there.get(PLANNED_STEPS, photos)
        return recorded
    return math.ceil(photos / (ranks.world * recipe.crops.photos))


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
        able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older ones
        return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _look_for_fast_convolutions(recipe: Recipe, device: torch.device) -> None:
    """Let cuDNN try them all once for each side; not where the side changes with every step."""
    if device.type == "cuda" and recipe.crops.is_fixed:
        torch.backends.cudnn.benchmark = True


def _new_state(config: TrainConfig, recipe: Recipe, device: torch.device) -> TrainState:
    torch.manual_seed(config.seed)
    network = build(config.net_config())
    trainee = Trainee(
        network,
        with_heads=recipe.deep_supervision_weight > 0,
        with_raw_head=recipe.raw_weight > 0,
    )
    if recipe.init == "kaiming":
        initialise(trainee)
    trainee.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _lay_single_places_plainly(trainee)
    ema = build(config.net_config()).to(device).eval().requires_grad_(False)
    ema.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(
        trainee.parameters(),
        lr=recipe.lr,
        eps=recipe.adam_eps,
        fused=device.type in ("cpu", "cuda"),
    )
    is_fp16 = _autocast(config.precision, device) == torch.float16
    return TrainState(trainee, ema, optimizer, torch.amp.GradScaler(device.type, enabled=is_fp16))


def _lay_single_places_plainly(module: nn.Module) -> None:
    """Give kernels of one place the strides that their gradients get.

    Both layouts hold their numbers in the same order; but several processes, which add gradients up
    in the layout of the weights, copy those of other strides, and warn.
    """
    for weight in module.parameters():
        if weight.shape[2:] == (1, 1):
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)


def _has_top_level(config: TrainConfig) -> bool:
    """Whether the network has levels, of which the last one can be read off."""
    with torch.device("meta"):
        return build(config.net_config()).top_width > 0


def _skip_factors(device: torch.device) -> Tensor:
    """Lay out what the skips are multiplied by: in row n the top n by 0."""
    levels = torch.arange(SKIPS, device=device)
    return (levels >= torch.arange(SKIPS + 1, device=device)[:, None]).float()


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
    """Find the shares that the pictures are fused with.

    They are those of the weights to start from, or else the teacher's: a student that has none yet
    is to become like it.
    """
    if not recipe.fused:
        return None
    donors = [find_weights(name) for name in (config.init_from, config.teacher) if name is not None]
    shares = next((info.fusion for info in donors if info.fusion is not None), None)
    if shares is None or config.data is not None:
        raise UsageError(
            "--fused needs --photos, and --init-from or --teacher with weights that have fusion "
            "shares.",
            hint="Make such weights with 'gia weights calibrate'.",
        )
    if config.white_balance != "as-shot" or config.net_config().input_floor is not None:
        raise UsageError(
            "--fused needs a network that gets the white balance and sees values below black.",
            hint="Give --white-balance as-shot --no-clip-black.",
        )
    return shares


def _starts_supervised(config: TrainConfig) -> bool:
    """Check whether the vector of the weights to start from estimates the auxiliary targets."""
    if config.init_from is None:
        return False
    info = find_weights(config.init_from)
    return info.config.network == config.network and info.training.get(VECTOR_SUPERVISED) is True


def _init_identity_path(network: Network, source: Source, seed: int, progress: Progress) -> None:
    """Give the vector an identity path to the decoder, and fit it to the auxiliary targets."""
    assert isinstance(network, GiaNet)
    init_identity_path(network, AUXILIARY)
    side = min(_FIT_SIDE, source.largest_side() // network.stride * network.stride)
    means, targets = [], []
    progress.detail(f"The vector is fitted to {_FIT_SCENES} simulated exposures first.")
    progress.stage("measuring", _FIT_SCENES)
    for scene in range(_FIT_SCENES):
        rng = np.random.default_rng([seed, scene, _FIT_STREAM])
        pairs = source.pairs(rng, count=_FIT_CROPS, side=side)
        planes = torch.from_numpy(np.stack([pair.planes for pair in pairs]))
        with torch.inference_mode():
            feature = network.encode(planes.to(network.gia.shrink.weight.device))[-1]
        means.append(feature.mean((0, 2, 3)).cpu())
        targets.append(torch.from_numpy(pairs[0].auxiliary))
        progress.advance()
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

    One process of each machine looks at what is decoded and decodes what is missing; where machines
    share the folder, the first to come decodes, and the others wait. The rest trust it.
    """
    leads = ranks.local == 0
    check: Check = "contents" if config.verify else "files"
    if not leads:
        ranks.wait(patiently=True)
        check = "none"
    opening = _open_sid if config.data else _open_photos
    try:
        return opening(config, check, progress)
    finally:
        if leads:
            ranks.wait(patiently=True)


def _open_photos(
    config: TrainConfig, check: Check, progress: Progress
) -> tuple[Source, Source, int]:
    photos = open_photos(list(config.photos), config.cache, progress, check=check)
    training, validation = split_photos(photos, config.validation_sources)
    camera = CAMERA_OF[config.camera]
    photographs = counted(len(training), "photograph")
    progress.detail(f"{photographs} to train on, {len(validation)} to validate on")
    if training == validation:
        progress.note(
            "There are too few photographs to keep some for validation. The score is then of "
            "training photographs, and does not show how well the network generalizes."
        )
    (drawn, own), floor = _balances(config), config.net_config().input_floor
    recipe = config.full_recipe()
    fused = recipe.fused
    return (
        PhotoScenes(
            photos,
            training,
            camera,
            balance=drawn,
            floor=floor,
            measures=fused,
            with_clean=recipe.raw_weight > 0,
        ),
        PhotoScenes(
            photos, validation, camera, PLAIN_SCENES, balance=own, floor=floor, measures=fused
        ),
        len(training),
    )


def _simulation(config: TrainConfig, device: torch.device) -> SimulationName:
    """Choose what simulates exposures."""
    if config.simulation != "auto":
        return config.simulation
    is_for_it = config.recipe == "gpu" and device.type == "cuda" and config.data is None
    return "torch" if is_for_it and not config.workers else "numpy"


def _pixels_on(device: torch.device, source: Source, progress: Progress) -> PhotoPixels:
    """Put the photographs on the device, if they fit."""
    assert isinstance(source, PhotoScenes)
    pixels = PhotoPixels(source.photos, source.keys, device)
    where = "lie there" if pixels.is_resident else "stay in the main memory"
    progress.detail(
        f"torch simulates exposures on {device}; the photographs ({pixels.bytes / 1e9:.2f} GB) "
        f"{where}."
    )
    return pixels


def _balances(config: TrainConfig) -> tuple[GivenBalance | None, GivenBalance | None]:
    """Choose the white balance of training and of validation; None for weights that infer it."""
    if config.white_balance == "learned":
        return None, None
    return GivenBalance(), GivenBalance(changed_share=0)


def _open_sid(config: TrainConfig, check: Check, progress: Progress) -> tuple[Source, Source, int]:
    assert config.data is not None
    opened = open_splits(
        config.data,
        config.camera,
        ("train", "val"),
        cache=config.cache,
        check=check,
        progress=progress,
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


def _note_passed_over(crops: CropOptions, source: Source, progress: Progress) -> None:
    """Say if most photographs are too small for the largest crops, and so pause meanwhile."""
    if not isinstance(source, PhotoScenes):
        return
    holding = source.holding(crops.largest)
    if 2 * holding < len(source):
        progress.note(
            f"Only {holding} of {len(source)} photographs are large enough for crops of "
            f"{crops.largest} packed px; smaller --sides use more of them."
        )


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
    config: TrainConfig,
    recipe: Recipe,
    source: Source,
    validation: Source,
    ranks: Ranks,
    simulation: SimulationName,
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
    if isinstance(source, PhotoScenes):
        values["simulation"] = simulation
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
