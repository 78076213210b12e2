"""Several processes that train one network: who am I, and let us agree.

``torchrun`` starts them and passes each its number in the environment; without it there is one.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

from gia_cli.errors import DeviceError, DivergedError, Interrupted, ProcessLostError
from gia_cli.runtime import split_device

#: How long a process waits for the others in a step: a rendering of validation or a checkpoint on
#: slow storage may lie between. What has died is noticed by torchrun long before.
STEP_PATIENCE = timedelta(minutes=30)
#: And how long while the first process decodes, for hours where it is all of SID.
DATA_PATIENCE = timedelta(hours=12)

_POLL_S = 0.05
# How long a process that has failed may take to end.
_LAST_SECONDS = 10
# Of gloo and of NCCL, which may also end the process.
_LOST_WORDS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
    "Application timeout",
    "ncclRemoteError",
    "connection timed out",
    "connect timed out",
    "closed by remote peer",
    "communicator was aborted",
    "collective operation timeout",
)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The number of this process among all."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Number on this machine."""
    messages: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)
    """For numbers of the host's: gloo, so that no GPU waits for them."""
    patient: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)
    """The same, where the others may take hours."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def wait(self, *, patiently: bool = False) -> None:
        """Wait until all have come here; patiently, where one of them prepares data."""
        if self.world > 1:
            dist.barrier(self.patient if patiently else self.messages)

    def total(self, values: Sequence[float]) -> list[float]:
        """Add numbers up over all processes, each for itself, in one message."""
        if self.world == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, group=self.messages)
        return [float(number) for number in numbers]

    def gather(self, word: str) -> list[str]:
        """Collect a word of each process, in their order."""
        if self.world == 1:
            return [word]
        words = [""] * self.world
        dist.all_gather_object(words, word, group=self.messages)
        return words


def ranks_from_environment() -> Ranks:
    """Read what ``torchrun`` says; one process if nothing does."""
    number = {
        key: int(os.environ.get(key, default))
        for key, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    }
    return Ranks(number["RANK"], number["WORLD_SIZE"], number["LOCAL_RANK"])


def refuse_one_card(name: str, ranks: Ranks) -> None:
    """Refuse a card that is named by its number where each process gets one of its own.

    Raises
    ------
    DeviceError
    """
    if ranks.world > 1 and split_device(name)[1] is not None:
        raise DeviceError(
            f"--device {name} names one card, but each of the {ranks.world} processes takes its "
            "own.",
            hint="Use --device cuda, and CUDA_VISIBLE_DEVICES to choose among the cards.",
        )


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

    The device is this process's own, see `own_device`; of several GPUs it becomes the current one.

    Raises
    ------
    DeviceError
        Two processes compute on one GPU, which NCCL cannot.
    """
    ranks = ranks_from_environment()
    is_cuda = device.type == "cuda"
    if is_cuda and device.index is not None:
        torch.cuda.set_device(device)  # by it go NCCL, page-locked memory and whether there is bf16
    if ranks.world == 1:
        yield ranks
        return
    try:
        _join("nccl" if is_cuda else "gloo")
        ranks = replace(
            ranks,
            messages=dist.new_group(timeout=STEP_PATIENCE, backend="gloo"),
            patient=dist.new_group(timeout=DATA_PATIENCE, backend="gloo"),
        )
        if is_cuda:
            refuse_shared_cards(ranks, str(torch.cuda.get_device_properties(device).uuid))
        yield ranks
    except (Interrupted, DivergedError):  # of all at once
        dist.destroy_process_group()
        raise
    except BaseException:
        if is_cuda:
            # NCCL may wait for the others in leaving them, as they do for this process; torchrun
            # ends them when it has gone.
            atexit.register(_end_within, _LAST_SECONDS)
        elif dist.is_initialized():
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _end_within(seconds: int) -> None:
    """Have the system end this process, should it still be there then."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def refuse_shared_cards(ranks: Ranks, card: str) -> None:
    """Raise `DeviceError` if two processes compute on one GPU; `card` is its unique name."""
    cards = ranks.gather(card)
    users = [rank for rank, other in enumerate(cards) if cards.count(other) > 1]
    if users:
        raise DeviceError(
            f"Processes {', '.join(map(str, users))} share a GPU; each needs its own.",
            hint="Start as many processes as there are GPUs (torchrun --nproc-per-node).",
        )


def _join(backend: str) -> None:
    """Meet the other processes, those of the same attempt and the same meeting only."""
    store, rank, world = next(dist.rendezvous("env://", timeout=STEP_PATIENCE))  # type: ignore[attr-defined]
    own_store = dist.PrefixStore(common_name(store, rank, world), store)  # type: ignore[attr-defined]
    dist.init_process_group(
        backend, store=own_store, rank=rank, world_size=world, timeout=STEP_PATIENCE
    )


def common_name(store: Any, rank: int, world: int) -> str:
    """Find a name that these processes share, and that none shared before.

    A process may train several runs, one after another: each is a meeting of its own. And all
    attempts of torchrun share one store (torch 2.13), where a process could find the address of one
    that was killed. By TORCHELASTIC_RESTART_COUNT they cannot be told apart: each machine counts
    for itself, and only what failed there. So everyone asks under a name that nobody else has, and
    the first process answers whoever asks, until all have thanked it.

    Raises
    ------
    ProcessLostError
        Not all come.
    """
    own = uuid4().hex
    if rank:
        store.set(f"asks {rank}", own)
        try:
            name = str(store.get(f"answer to {own}"), "ascii")
        except dist.DistError as error:
            raise ProcessLostError("The first training process does not answer.") from error
        store.set(f"thanks {name} {rank}", "")
        return name
    missing = set(range(1, world))
    last = time.monotonic() + STEP_PATIENCE.total_seconds()
    while missing:
        if time.monotonic() > last:
            raise ProcessLostError(f"Only {world - len(missing)} of {world} processes have come.")
        for other in sorted(missing):
            if store.check([f"thanks {own} {other}"]):
                missing.remove(other)
            elif store.check([f"asks {other}"]):  # of an earlier attempt, perhaps
                store.set(f"answer to {str(store.get(f'asks {other}'), 'ascii')}", own)
        time.sleep(_POLL_S)
    return own


def is_lost_peer(error: BaseException) -> bool:
    """Tell whether another process has ended, mostly by an error's words: few have a class."""
    if isinstance(error, (dist.DistNetworkError, dist.DistStoreError)):
        return True
    words = str(error).lower()
    if words.startswith("cuda error"):  # a kernel's launch may time out, too
        return False
    return any(lost.lower() in words for lost in _LOST_WORDS)


def in_plain_words(error: BaseException) -> Exception | None:
    """Put an error of the processes' connection into words; None if it is none."""
    reason = _reason(error)
    if is_lost_peer(error):
        return ProcessLostError(
            f"Another process of this training has ended, or does not answer ({reason})."
        )
    if isinstance(error, dist.DistError):
        return DeviceError(
            f"The processes of this training cannot reach each other: {reason}.",
            hint="NCCL_DEBUG=INFO says more. NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the "
            "network to use.",
        )
    return None


def _reason(error: BaseException) -> str:
    """Find what matters in an error's words: NCCL's last line, or the first sentence of gloo's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if lines[0].startswith("NCCL") else lines[0]
    line = re.sub(r"^\[[^]]*\]\s*", "", line)  # a place in its source
    return line.split(". ")[0].rstrip(".:")
