"""Several processes that train one network: who am I, and let us agree.

``torchrun`` starts them and passes each its number in the environment; without it there is one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from gia_cli.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Ranks:
    """The number of this process among all."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Number on this machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.world > 1:
            dist.barrier()

    def mean(self, value: float) -> float:
        """Average a number over all processes."""
        if self.world == 1:
            return value
        total = self._tensor(value)
        dist.all_reduce(total)
        return float(total) / self.world

    def from_first(self, value: float) -> float:
        """Take a number from the first process: time, say, passes differently for each."""
        if self.world == 1:
            return value
        shared = self._tensor(value)
        dist.broadcast(shared, 0)
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Tell whether it holds in any process."""
        return (self.world > 1 and self.mean(float(flag)) > 0) or flag

    def _tensor(self, value: float) -> torch.Tensor:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return torch.tensor(value, dtype=torch.float64, device=device)


def ranks_from_environment() -> Ranks:
    """Read what ``torchrun`` says; one process if nothing does."""
    number = {
        key: int(os.environ.get(key, default))
        for key, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    }
    return Ranks(number["RANK"], number["WORLD_SIZE"], number["LOCAL_RANK"])


def own_device(device: torch.device, ranks: Ranks) -> torch.device:
    """Give each of several processes on CUDA its own GPU.

    Where a process sees only one, the scheduler has chosen (SLURM's ``--gpus-per-task=1``): it is
    number 0 to each of them.

    Raises
    ------
    DeviceError
        There are fewer GPUs than processes on this machine.
    """
    if ranks.world == 1 or device.type != "cuda":
        return device
    visible = torch.cuda.device_count()
    if visible > 1 and ranks.local >= visible:
        raise DeviceError(
            f"Process {ranks.local + 1} of this machine has no GPU: there are {visible}.",
            hint="Start as many processes as there are GPUs (torchrun --nproc-per-node), or use "
            "--device cpu.",
        )
    return torch.device("cuda", 0 if visible == 1 else ranks.local)


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes for the length of the block: NCCL between GPUs, else gloo.

    The device is this process's own, see `own_device`.
    """
    ranks = ranks_from_environment()
    if ranks.world == 1:
        yield ranks
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


# The others wait while the first process decodes, for hours where it is all of SID. One that has
# died is noticed by torchrun long before.
_PATIENCE = timedelta(hours=12)
_meetings = itertools.count()


def _join(backend: str) -> None:
    """Meet the other processes, those of the same attempt and the same meeting only.

    A process may train several runs, one after another: each is a meeting of its own. And with
    ``--standalone`` all attempts of torchrun share one store (torch 2.13): after a restart a
    process could find the address of one that was killed there, and give up.
    """
    store, rank, world = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"attempt {attempt}, meeting {next(_meetings)}"
    own_store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    dist.init_process_group(
        backend, store=own_store, rank=rank, world_size=world, timeout=_PATIENCE
    )
