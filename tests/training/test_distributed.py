"""Several processes: who each is, what they agree on, and that a restart meets only itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.queues import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from gia_cli.errors import DeviceError, DivergedError, ProcessLostError, Terminated
from gia_cli.training import distributed
from gia_cli.training.distributed import (
    Ranks,
    common_name,
    in_plain_words,
    is_lost_peer,
    own_device,
    process_group,
    ranks_from_environment,
    refuse_one_card,
    refuse_shared_cards,
)

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with process_group(torch.device("cpu")) as ranks:
        assert ranks == Ranks()
        assert ranks.is_first
        ranks.wait()
        ranks.wait(patiently=True)
        assert ranks.total([3.5, -1.0]) == [3.5, -1.0]
        assert ranks.gather("here") == ["here"]
        refuse_shared_cards(ranks, "card")


def test_one_process_on_another_card_makes_it_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether there is bf16 is asked of that one; pinned memory would start the first card, too."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):  # "cuda" is the first, which is current
        with process_group(torch.device(name)) as ranks:
            assert ranks.world == 1
    assert chosen == [torch.device("cuda:1")]


def test_torchrun_passes_each_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("3", "4", "1"), strict=True):
        monkeypatch.setenv(name, value)
    ranks = ranks_from_environment()
    assert (ranks.rank, ranks.world, ranks.local) == (3, 4, 1)
    assert not ranks.is_first


@pytest.mark.parametrize(
    ("visible", "local", "card"),
    [(8, 0, 0), (8, 7, 7), (1, 0, 0), (1, 3, 0), (2, 1, 1)],
)
def test_each_process_has_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: int, local: int, card: int
) -> None:
    """SLURM may show each its own only: then that one is number 0, whoever asks."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    ranks = Ranks(rank=local, world=8, local=local)
    assert own_device(torch.device("cuda"), ranks) == torch.device("cuda", card)
    assert own_device(torch.device("cpu"), ranks) == torch.device("cpu")
    assert own_device(torch.device("cuda"), Ranks()) == torch.device("cuda")


def test_a_numbered_card_is_not_for_several_processes() -> None:
    for name in ("cuda:0", "cuda:1"):
        refuse_one_card(name, Ranks())
        with pytest.raises(
            DeviceError, match=f"{name} names one card, but each of the 2"
        ) as caught:
            refuse_one_card(name, Ranks(rank=1, world=2, local=1))
        assert "each of the 2 processes" in str(caught.value) and caught.value.exit_code == 50
        assert "--device cuda" in str(caught.value.hint)
    for name in ("cuda", "cpu", "auto"):
        refuse_one_card(name, Ranks(rank=1, world=2, local=1))


def test_more_processes_than_gpus_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="Process 4 of this machine has no GPU: there are 2"):
        own_device(torch.device("cuda"), Ranks(rank=3, world=4, local=3))


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_only_data_is_waited_for_for_hours(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A step that hangs is to be noticed; what the host says to others passes no GPU."""
    for name, value in zip(VARIABLES, ("0", "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    made: list[tuple[str, timedelta]] = []

    def note(backend: str, *, timeout: timedelta, **_: Any) -> timedelta:
        made.append((backend, timeout))
        return timeout

    monkeypatch.setattr(distributed, "common_name", lambda *_: "name")
    monkeypatch.setattr(dist, "rendezvous", lambda _, timeout: iter([(None, 0, 2)]))
    monkeypatch.setattr(dist, "PrefixStore", lambda *_: None)
    monkeypatch.setattr(dist, "init_process_group", note)
    monkeypatch.setattr(dist, "new_group", note)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a"))
    monkeypatch.setattr(Ranks, "gather", lambda self, word: [word, "b"])
    with process_group(torch.device(kind)) as ranks:
        groups: tuple[Any, Any] = (ranks.messages, ranks.patient)
    assert [backend for backend, _ in made] == ["nccl" if kind == "cuda" else "gloo", *2 * ["gloo"]]
    assert [patience for _, patience in made[1:]] == list(groups)
    assert made[0][1] == groups[0] <= timedelta(hours=1) < timedelta(hours=10) < groups[1]


@pytest.mark.parametrize("world", [2, 4])
def test_all_attempts_have_names_of_their_own(world: int) -> None:
    """Also where some of an earlier attempt came, and were killed before they met."""
    store = HashStore()
    store.set_timeout(timedelta(seconds=20))
    store.set("asks 1", "nobody")
    names = set()
    for _ in range(3):
        with ThreadPoolExecutor(world) as pool:
            found = list(pool.map(lambda rank: common_name(store, rank, world), range(world)))
        assert len(set(found)) == 1
        names |= set(found)
    assert len(names) == 3


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_come_are_told(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setattr(distributed, "STEP_PATIENCE", timedelta(seconds=0.1))
    store = HashStore()
    store.set_timeout(timedelta(seconds=0.1))
    with pytest.raises(ProcessLostError, match=r"of 2 processes|does not answer") as caught:
        common_name(store, rank, 2)
    assert caught.value.exit_code == 73


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3670, {}, NCCL version 2.28\n{}\nLast error:\n{}\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("[pair.cc:547] Connection closed by peer [10.0.0.1]:39222"),
            "(Connection closed by peer [10.0.0.1]:39222)",
        ),
        (
            RuntimeError(
                "[/pytorch/third_party/gloo/pair.cc:537] Read error [127.0.0.1]:14486: Connection "
                "reset by peer. This is typically caused by another process that has gone!"
            ),
            "(Read error [127.0.0.1]:14486: Connection reset by peer).",
        ),
        (
            dist.DistBackendError(
                NCCL.format(
                    "remote process exited or there was a network error",
                    "ncclRemoteError: A call failed possibly due to a network error.",
                    "socketProgress: Connection closed by remote peer node1<40000>",
                )
            ),
            "socketProgress: Connection closed by remote peer node1<40000>",
        ),
        (
            dist.DistBackendError("Watchdog caught collective operation timeout: ..."),
            "Watchdog caught collective operation timeout: ",
        ),
        (dist.DistNetworkError("The client socket has failed."), "The client socket has failed"),
        (dist.DistStoreError(""), "DistStoreError"),
    ],
)
def test_a_lost_process_is_told_with_its_reason(error: Exception, reason: str) -> None:
    assert is_lost_peer(error)
    told = in_plain_words(error)
    assert isinstance(told, ProcessLostError) and told.exit_code == 73
    assert reason.rstrip(": ") in str(told)
    assert str(told).count("\n") == 0


@pytest.mark.parametrize(
    "reason",
    [
        "Error while creating shared memory segment /dev/shm/nccl-a (size 9637888), error: No "
        "space left on device (28)",
        "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
        "Bootstrap : no socket interface found",
    ],
)
def test_what_keeps_processes_from_one_another_is_no_lost_process(reason: str) -> None:
    words = NCCL.format("unhandled system error", "ncclSystemError: System call failed.", reason)
    told = in_plain_words(dist.DistBackendError(words))
    assert isinstance(told, DeviceError) and reason in told.message
    assert "NCCL_DEBUG=INFO" in told.hint


@pytest.mark.parametrize(
    "words",
    [
        "mat1 and mat2 shapes cannot be multiplied",
        "CUDA error: the launch timed out and was terminated\nCompile with `TORCH_USE_CUDA_DSA`",
    ],
)
def test_other_errors_are_left_as_they_are(words: str) -> None:
    assert in_plain_words(RuntimeError(words)) is None


@pytest.mark.parametrize(
    ("kind", "error", "leaves", "ends"),
    [
        ("cuda", None, True, False),
        ("cuda", Terminated("asked"), True, False),
        ("cuda", DivergedError("the loss is no number"), True, False),
        ("cuda", RuntimeError("CUDA out of memory"), False, True),
        ("cuda", KeyboardInterrupt(), False, True),
        ("cpu", RuntimeError("not enough memory"), True, False),
    ],
)
def test_who_fails_does_not_wait_for_the_others(
    kind: str,
    error: BaseException | None,
    leaves: bool,
    ends: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NCCL may leave only all at once: it would keep a process that has failed from ending."""
    for name, value in zip(VARIABLES, ("0", "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    left: list[bool] = []
    registered: list[tuple[Any, ...]] = []
    monkeypatch.setattr(distributed, "_join", lambda backend: None)
    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append(True))
    monkeypatch.setattr(distributed.atexit, "register", lambda *given: registered.append(given))  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a"))
    monkeypatch.setattr(Ranks, "gather", lambda self, word: [word, "b"])
    with suppress(*(() if error is None else (type(error),))), process_group(torch.device(kind)):
        if error is not None:
            raise error
    assert left == [True] * leaves
    assert registered == [(distributed._end_within, distributed._LAST_SECONDS)] * ends


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_process_that_cannot_end_is_ended() -> None:
    """As in a destructor that waits for ever, with Python's lock."""
    code = (
        "import atexit, ctypes\n"
        "from gia_cli.training.distributed import _end_within\n"
        "atexit.register(ctypes.PyDLL(None).sleep, 60)\n"
        "atexit.register(_end_within, 1)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=50, check=False)
    assert ended.returncode == -signal.SIGALRM


AGREED = (
    [4.0, 1.0, 2e300],
    ["process 0", "process 1"],
    "Processes 0, 1 share a GPU; each needs its own.",
)


def take_part(environment: dict[str, str], answers: SimpleQueue[Any]) -> None:
    """Say what the ranks agree on."""
    os.environ.update(environment)
    for _ in range(2):  # as when a table's rows are trained one after another
        with process_group(torch.device("cpu")) as ranks:
            total = ranks.total([ranks.rank + 1.5, float(ranks.is_first), 1e300])
            refuse_shared_cards(ranks, f"card {ranks.rank}")
            try:
                refuse_shared_cards(ranks, "the same card")
            except DeviceError as error:
                answers.put((total, ranks.gather(f"process {ranks.rank}"), error.message))
            ranks.wait(patiently=True)
            ranks.wait()


def start(
    context: ForkServerContext, rank: int, attempt: int, store: TCPStore, answers: SimpleQueue[Any]
) -> ForkServerProcess:
    environment = {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(attempt * rank),
        "OMP_NUM_THREADS": "1",
    }
    process = context.Process(target=take_part, args=(environment, answers))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(sys.platform == "win32", reason="gloo needs a POSIX system here")
def test_two_processes_agree_and_a_restart_meets_only_itself() -> None:
    """As under torchrun, one store outlives the attempt; the second rank comes first to it.

    And on two machines: each counts only the restarts of what failed there.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gia_cli.training.distributed"])  # torch is imported once
    answers = context.SimpleQueue()
    for attempt in (0, 1):
        second = start(context, 1, attempt, store, answers)
        time.sleep(2)
        first = start(context, 0, attempt, store, answers)
        for process in (first, second):
            process.join(120)
            assert process.exitcode == 0
            assert [answers.get() for _ in range(2)] == [AGREED] * 2
