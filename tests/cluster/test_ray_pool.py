"""Workers of a Ray cluster: what each takes, what comes of their calls, and one real cluster."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gia_cli.cluster import ray_pool
from gia_cli.cluster.pool import Chunk, Done, Event, Gone, Lost, Ready
from gia_cli.cluster.ray_pool import (
    RayOptions,
    RayPool,
    Resources,
    Setup,
    Started,
    Work,
    Worker,
    share_out,
)
from gia_cli.errors import ClusterError, GiaError, UsageError, WeightsNotFoundError
from gia_cli.runtime import DeviceName

ONE = Resources(workers=1, cpus=1, gpus=0, beside=1)


# ---------------------------------------------------------------- who takes what


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "expected"),
    [
        ([(8, 0), (8, 0)], None, "auto", (2, 8, 0, 1)),  # one for each machine
        ([(8, 0), (4, 0)], None, "auto", (2, 4, 0, 2)),
        ([(0, 0), (8, 0)], None, "auto", (1, 8, 0, 1)),  # the head does no work
        ([(2, 0)], 2, "auto", (2, 1, 0, 2)),
        ([(8, 0), (8, 0)], 4, "cpu", (4, 4, 0, 2)),
        ([(8, 0), (4, 0)], 3, "auto", (3, 4, 0, 2)),
        ([(16, 2), (16, 2)], None, "auto", (4, 8, 1, 2)),  # one for each GPU
        ([(16, 2), (64, 0)], None, "cuda", (2, 8, 1, 2)),
        ([(16, 2)], 4, "auto", (4, 4, 0.5, 4)),
        ([(16, 2)], 3, "auto", (3, 4, 0.5, 4)),
        ([(16, 2), (16, 0)], None, "cpu", (2, 16, 0, 1)),
    ],
)
def test_the_shares_of_machines(
    nodes: list[tuple[int, int]], workers: int | None, device: DeviceName, expected: tuple[Any, ...]
) -> None:
    machines = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    found = share_out(machines, RayOptions("auto", workers, device))
    assert found == Resources(*expected)


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([(8, 0), (4, 0)], None, (12, 1, 0, 8)),
        ([(8, 2)], None, (8, 1, 0, 8)),  # work of one core has no use for a GPU
        ([(8, 0), (4, 0)], 3, (3, 4, 0, 2)),
    ],
)
def test_work_of_one_core_has_a_worker_for_each(
    nodes: list[tuple[int, int]], workers: int | None, expected: tuple[Any, ...]
) -> None:
    machines = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    options = RayOptions("auto", workers, "cpu", fills_machine=False)
    assert share_out(machines, options) == Resources(*expected)


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "words"),
    [
        ([(2, 0)], 3, "auto", "3 workers need 3 CPUs, and the cluster has 2"),
        ([(0, 0)], None, "auto", "no CPUs"),
        ([(8, 0)], None, "cuda", "no cuda devices"),
    ],
)
def test_a_cluster_that_has_too_little(
    nodes: list[tuple[int, int]], workers: int | None, device: DeviceName, words: str
) -> None:
    machines = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    with pytest.raises(ClusterError, match=words):
        share_out(machines, RayOptions("auto", workers, device))


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "head:0", "a:70000"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        RayOptions(address)
    with pytest.raises(UsageError, match="client"):
        RayOptions("ray://head:10001")
    with pytest.raises(UsageError, match="--workers must be positive"):
        RayOptions("local", 0)


def test_an_address_that_nobody_answers_is_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ClusterError, match=f"Nobody answers at 127.0.0.1:{port}"):
        ray_pool._require_answer(f"127.0.0.1:{port}")


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad request\r\n", b"-ERR\r\n", b""])
def test_something_else_that_answers_is_no_cluster(answer: bytes) -> None:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ClusterError, match="not the head of a Ray cluster"):
            ray_pool._require_answer(f"127.0.0.1:{server.getsockname()[1]}")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"Ray, which is not installed\. pip install"):
        ray_pool._import_ray()


def test_what_is_set_for_a_cluster_of_ones_own_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", ray_pool._NICENESS):
        monkeypatch.delenv(name, raising=False)
    with ray_pool._own_environment():
        first = os.environ["RAY_AUTH_TOKEN"]
        assert len(first) == 64 and int(os.environ[ray_pool._NICENESS]) < 15 + 5
        os.environ["RAY_AUTH_MODE"] = "token"  # as Ray does
    assert not [name for name in os.environ if name.startswith(("RAY_AUTH", "RAY_worker"))]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(ray_pool._NICENESS, "7")
    with ray_pool._own_environment():
        assert "RAY_AUTH_TOKEN" not in os.environ and os.environ[ray_pool._NICENESS] == "7"
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


# ---------------------------------------------------------------- calls


class RayTaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a traceback of many lines")
        self.cause = cause


class ActorDiedError(Exception):
    """Its text has many lines, too."""


class ActorUnavailableError(Exception):
    """Its process is not there again yet."""


class FakeRay:
    """As much of Ray as `RayPool` knows: calls that are answered from a script."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []
        self.given: list[object] = []
        self.killed = 0

    def remote(self, **_: Any) -> Callable[[type], Any]:
        return lambda cls: SimpleNamespace(remote=lambda setup: self)

    def __getattr__(self, method: str) -> Any:
        def remote(given: object = None) -> Any:
            self.calls.append(method)
            self.given.append(given)
            return iter(self.answers.pop(0)) if method == "run" else object()

        call = SimpleNamespace(remote=remote)
        call.options = lambda **_: call
        return call

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        value = reference if isinstance(reference, tuple | Exception) else self.answers.pop(0)
        if isinstance(value, ActorDiedError | ActorUnavailableError) and not self.answers:
            self.answers.append(value)  # it stays so
        if isinstance(value, Exception):
            raise value
        return value

    def kill(self, _: Any) -> None:
        self.killed += 1


def events_of(ray: FakeRay, count: int, *, chunk: Chunk[str] | None = None) -> list[Event]:
    with RayPool(ray, setup_of(Path())) as pool:
        events: list[Event] = []
        for _ in range(50):
            found = list(pool.wait())
            if chunk is not None and any(isinstance(event, Ready) for event in found):
                pool.give(0, chunk)
                chunk = None
            events += found
            if len(events) >= count:
                break
    assert ray.killed == 1
    return events


def shout(items: Sequence[str], is_again: bool) -> Iterator[str]:
    yield from (item.upper() for item in items)


def setup_of(folder: Path, **changes: Any) -> Setup[str, str]:
    return Setup(lambda _: shout, ONE, "abcdef", str(folder), **changes)


def here(name: str = "here", memory: int | None = None) -> Started:
    return Started(name, "host", memory)


CHUNK = Chunk((4, 7), ("a", "b"))


def test_results_come_one_by_one_and_then_it_is_ready_again() -> None:
    results = [(4, "A"), (7, "B")]
    ray = FakeRay(here(), results)
    assert events_of(ray, 4, chunk=CHUNK) == [
        Ready(0, "here"),
        *(Done(0, number, result) for number, result in results),
        Ready(0, "here"),
    ]


def test_a_worker_that_dies_is_lost_and_starts_again() -> None:
    dying = [(4, "A"), ActorDiedError("many\nlines")]
    ray = FakeRay(here(memory=300), dying, here("here again"))
    assert events_of(ray, 4, chunk=CHUNK) == [
        Ready(0, "here"),
        Done(0, 4, "A"),
        Lost(0, "its process ended."),
        Ready(0, "here again"),
    ]
    assert ray.calls == ["start", "run", "start"]
    assert ray.given == [None, CHUNK, here(memory=300)]  # what it said the first time


def test_a_worker_whose_process_is_not_there_yet_is_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_pool, "_MOMENT_S", 0.0)
    ray = FakeRay(*(ActorUnavailableError("not yet") for _ in range(20)), here())
    assert events_of(ray, 1) == [Ready(0, "here")]
    monkeypatch.setattr(ray_pool, "_START_S", -1.0)
    (event,) = events_of(FakeRay(ActorUnavailableError("not yet")), 1)
    assert isinstance(event, Gone) and "did not start within" in str(event.error)


def test_a_bug_in_a_worker_is_said_in_a_sentence() -> None:
    ray = FakeRay(here(), [RayTaskError(ValueError("a\nstrange   photo"))], here())
    assert Lost(0, "a strange photo.") in events_of(ray, 3, chunk=CHUNK)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RayTaskError(WeightsNotFoundError("None here.")), WeightsNotFoundError),
        (ActorDiedError("many\nlines"), ClusterError),
    ],
)
def test_a_worker_that_cannot_start_is_gone(error: Exception, kind: type[GiaError]) -> None:
    (event,) = events_of(FakeRay(error), 1)
    assert isinstance(event, Gone) and type(event.error) is kind


def test_a_worker_that_nobody_has_room_for_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "_START_S", -1.0)
    monkeypatch.setattr(FakeRay, "wait", lambda *_, **__: ([], []))
    (event,) = events_of(FakeRay(), 1)
    assert isinstance(event, Gone) and "did not start within" in str(event.error)


# ---------------------------------------------------------------- in a worker's process


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker changes of its process is not changed here."""
    for name in ("mark_unfinished", "os.chdir"):
        monkeypatch.setattr(f"gia_cli.cluster.ray_pool.{name}", lambda _: None)


@pytest.mark.usefixtures("unchanged")
def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"has gia .*, and not 0\.0\.1"):
        Worker(setup_of(Path(), version="0.0.1")).start()


@pytest.mark.usefixtures("unchanged")
def test_workers_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cpu": 900, "cuda": 80}
    monkeypatch.setattr(ray_pool, "free_bytes", lambda device="cpu": free[device])
    shares: list[int | None] = []

    def make(memory: int | None) -> Work[str, str]:
        shares.append(memory)
        return shout

    for gpus, beside, limit in ((0, 1, None), (0, 3, 300), (1, 2, None), (0.5, 4, 40)):
        resources = Resources(beside, 10_000, gpus, beside)
        said = Worker(Setup(make, resources, "abcdef", ".")).start()
        assert shares[-1] == said.memory == limit


@pytest.mark.usefixtures("unchanged")
def test_a_worker_that_starts_again_has_the_share_that_it_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others on its machine hold theirs by then; on another machine it asks anew."""
    free = [900, 240]
    monkeypatch.setattr(ray_pool, "free_bytes", lambda _="cpu": free[0])
    setup = Setup(lambda _: shout, Resources(3, 10_000, 0, 3), "abcdef", ".")
    first = Worker(setup).start()
    free.pop(0)
    assert Worker(setup).start(first).memory == first.memory == 300
    assert Worker(setup).start(replace(first, host="elsewhere")).memory == 80


@pytest.mark.usefixtures("unchanged")
def test_a_worker_that_is_stopped_begins_no_other_item() -> None:
    def make(_: int | None) -> Work[str, str]:
        def work(items: Sequence[str], is_again: bool) -> Iterator[str]:
            for item in items:
                worker.stop()
                yield item.upper()

        return work

    worker: Worker[str, str] = Worker(Setup(make, ONE, "abcdef", "."))
    assert list(worker.run(CHUNK)) == [(4, "A")]


@pytest.mark.usefixtures("unchanged")
def test_a_worker_knows_what_it_is_given_again() -> None:
    def make(_: int | None) -> Work[str, bool]:
        return lambda items, is_again: (is_again for _ in items)

    worker: Worker[str, bool] = Worker(Setup(make, ONE, "abcdef", "."))
    assert list(worker.run(CHUNK)) == [(4, False), (7, False)]
    assert list(worker.run(replace(CHUNK, is_again=True))) == [(4, True), (7, True)]


def test_all_clusters_of_one_process_have_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps the first that it reads, and a second cluster would refuse it."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    tokens = []
    for _ in range(2):
        with ray_pool._own_environment():
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_TOKEN" not in os.environ
    assert tokens[0] == tokens[1] and len(tokens[0]) >= 32


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_workers_of_one_machine_have_cores_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    given: list[set[int]] = []

    def keep(thread: int, cores: Sequence[int]) -> None:
        if thread == threading.get_native_id():
            given.append(set(cores))

    monkeypatch.setattr(os, "sched_setaffinity", keep)
    with ray_pool._own_cores(2), ray_pool._own_cores(2), ray_pool._own_cores(2):
        assert given == [{0, 1}, {2, 3}]  # no third two are there: it takes what it finds
    whole = {0, 1, 2, 3, 4}
    assert given[2:] == [whole, whole]  # as it was
    with ray_pool._own_cores(2):
        assert given[4:] == [{0, 1}]  # of a worker that ended
    with ray_pool._own_cores(5):
        assert given[5:] == [whole]  # all are its own anyway


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_threads_that_run_already_have_their_workers_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray calls a worker in two, and Linux keeps threads to cores, not processes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    kept: dict[int, list[int]] = {}

    def keep(thread: int, cores: Sequence[int]) -> None:
        if thread not in kept:
            kept[thread] = list(cores)
        if thread == ended:
            raise ProcessLookupError

    over = threading.Event()
    others = [threading.Thread(target=over.wait) for _ in range(2)]
    for thread in others:
        thread.start()
    ended = others[0].native_id
    monkeypatch.setattr(os, "sched_setaffinity", keep)
    try:
        with ray_pool._own_cores(2):
            for number in (threading.get_native_id(), *(each.native_id for each in others)):
                assert number is not None and kept[number] == [0, 1]
    finally:
        over.set()
        for thread in others:
            thread.join()
