"""Processes that make crops for training: how many, how they start, how far ahead they work."""

from __future__ import annotations

import math
import os
import shutil

import torch

from gia_cli.data.batches import PREFETCH
from gia_cli.progress import Progress
from gia_cli.runtime import available_cores, free_bytes
from gia_cli.training.config import Recipe, SimulationName, TrainConfig
from gia_cli.training.distributed import Ranks

# Of the memory that is free, for batches that wait.
_BATCHES_SHARE = 0.5
_NUMBER_BYTES = 4


def worker_start(device: torch.device, ranks: Ranks) -> str | None:
    """Choose how these processes are started, see `load`: NCCL does not bear a fork."""
    return "spawn" if device.type == "cuda" and ranks.world > 1 else None


def choose_workers(
    config: TrainConfig, recipe: Recipe, simulation: SimulationName, progress: Progress
) -> tuple[int, int]:
    """Choose how many processes make crops, and how many batches each may be ahead.

    What they make lies in memory that processes share, which may be less than there is. Where not
    even two batches fit, this process makes them itself.

    Parameters
    ----------
    config : TrainConfig
    recipe : Recipe
        With the crops that the data allow.
    simulation : SimulationName
    progress : Progress
        Receives a note where memory allows fewer than were asked for, or than cores do.

    Returns
    -------
    workers, prefetch : int
    """
    wanted = _wanted(config, simulation)
    if not wanted:
        return 0, PREFETCH
    size, free, shared = _batch_bytes(config, recipe), free_bytes(), _shared_bytes()
    fitting = int(min(free, shared) * _BATCHES_SHARE / _processes_here() // size)
    prefetch = max(min(PREFETCH, fitting // wanted - 1), 1)  # beside the one in the making
    most = fitting // (prefetch + 1)
    if wanted <= most:
        return wanted, prefetch
    progress.note(
        f"--workers {most}, not {wanted}: their batches, of {size / 1e6:.0f} MB each, must fit "
        f"into {'/dev/shm' if shared < free else 'memory'}."
    )
    return most, prefetch


def _wanted(config: TrainConfig, simulation: SimulationName) -> int:
    """Go by the user, or by the cores; on a GPU's machine all but two are for crops."""
    if simulation == "torch":
        return 0
    if config.workers is not None:
        return config.workers
    if config.recipe != "gpu":
        return 1
    return max(available_cores() // _processes_here() - 2, 1)


def _processes_here() -> int:
    """How many processes of a training run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _batch_bytes(config: TrainConfig, recipe: Recipe) -> int:
    """Size of the largest batch, without what is small in it."""
    net, crops = config.net_config(), recipe.crops
    numbers = net.in_channels + 3 * net.scale**2 + (net.in_channels if recipe.raw_weight else 0)
    return crops.photos * crops.crops * crops.largest**2 * numbers * _NUMBER_BYTES


def _shared_bytes() -> float:
    """How much of memory processes may share, where the system says so."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return math.inf
