"""The workers of a Ray cluster: one process each, which makes ready once what its work needs.

Ray starts them where there is room, starts them again when they die, and carries items to them and
results back; what is large goes straight to the storage that all machines share.

Ray could also call again what a dead worker was called for (``max_task_retries``). For starting one
it does. Items it does not give again: it would repeat a chunk from its first item on, done or not,
with the one that killed the worker among them; see `cluster.pool`.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, overload

from gia_cli._version import __version__
from gia_cli.cluster.pool import Chunk, Done, Event, Gone, Item, Lost, Ready, Result
from gia_cli.errors import ClusterError, GiaError, UsageError
from gia_cli.files import lock, mark_unfinished
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import DeviceName, available_cores, free_bytes

LOCAL = "local"
AUTO = "auto"

_ANSWER_S = 5.0  # for an address to answer at all
_START_S = 600.0  # for a worker: clusters that grow start a machine first
_MOMENT_S = 0.2
# RFC 9113, 3.4: what both sides of gRPC begin with, which Ray speaks. A frame's type is its byte 3.
_HTTP2_SETTINGS = b"\x04"
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _HTTP2_SETTINGS + bytes(5)
_STORE_BYTES = 80_000_000  # nothing of ours lies in Ray's own store of objects
_NICENESS = "RAY_worker_niceness"  # a variable
_RESTARTS = 100  # of one worker
_STARTS = 3  # of a worker that dies while it starts


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where the workers are, and how many.

    Raises
    ------
    UsageError
    """

    address: str
    """"local": a cluster of this machine's own, for this run; "auto": the one that this machine
    is part of; or the address of its head, "HOST:PORT"."""
    workers: int | None = None
    """By default one for each GPU, or one for each machine; see `fills_machine`."""
    device: DeviceName = "auto"
    """Where they compute; with "auto" on GPUs, if the cluster has some."""
    fills_machine: bool = True
    """Whether the work of one keeps all cores of a machine busy; else there is by default one
    worker for each core."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be positive, not {self.workers}.")
        if self.address in (LOCAL, AUTO):
            return
        if self.address.startswith("ray://"):
            raise UsageError(
                f"--ray {self.address}: gia does not work through Ray's client.",
                hint="Run gia on a machine of the cluster with --ray auto.",
            )
        _host_and_port(self.address)


@dataclass(frozen=True, slots=True)
class Resources:
    """What each worker takes of the machine that it is on."""

    workers: int
    cpus: int
    gpus: float
    beside: int
    """Most workers on one machine."""


#: Does the items of a chunk, one after the other; is told whether they are given again.
Work = Callable[[Sequence[Item], bool], Iterator[Result]]


@dataclass(frozen=True, slots=True)
class Setup(Generic[Item, Result]):
    """What a worker needs to begin."""

    make_work: Callable[[int | None], Work[Item, Result]]
    """Called once in each worker, with the bytes of memory that it may take where others compute
    beside it, else with None; it is pickled."""
    resources: Resources
    mark: str
    """What the names of its temporary files begin with."""
    folder: str
    """Where relative paths begin."""
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Started:
    """What a worker says of itself when it is ready."""

    name: str
    host: str
    memory: int | None
    """As `Setup.make_work` was called with."""


def share_out(nodes: Sequence[dict[str, float]], options: RayOptions) -> Resources:
    """Settle how many workers there are, and what each takes.

    Parameters
    ----------
    nodes : sequence of mappings
        What each machine has, as Ray counts it: "CPU", "GPU".
    options : RayOptions

    Raises
    ------
    ClusterError
        The cluster has no machine that could run one.
    """
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    total = sum(gpus)
    if total and options.device in ("auto", "cuda"):
        workers = options.workers or total
        per_gpu = -(-workers // total)
        on_node = [count * per_gpu for count in gpus]
        share = min(c // n for c, n in zip(cpus, on_node, strict=True) if n)
        return Resources(workers, max(share, 1), 1 / per_gpu, max(on_node))
    usable = [count for count in cpus if count]
    if options.device not in ("auto", "cpu") or not usable:
        what = "CPUs" if options.device in ("auto", "cpu") else f"{options.device} devices"
        raise ClusterError(f"The cluster has no {what} for workers.")
    workers = options.workers or (len(usable) if options.fills_machine else sum(usable))
    if workers > sum(usable):
        raise ClusterError(
            f"{workers} workers need {workers} CPUs, and the cluster has {sum(usable)}.",
            hint=f"Ask for fewer: --workers {sum(usable)}.",
        )
    share = max(usable)
    while sum(count // share for count in usable) < workers:
        share -= 1
    return Resources(workers, share, 0, min(workers, max(count // share for count in usable)))


# ---------------------------------------------------------------- the cluster


@contextmanager
def connected(options: RayOptions) -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster until the block ends.

    Raises
    ------
    ClusterError
        Nobody answers at the address, or not Ray.
    UsageError
        Ray is not installed.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with ExitStack() as after:
        if options.address == LOCAL:
            after.enter_context(_own_environment())
        ray = _import_ray()
        after.enter_context(_quiet_stderr())
        arguments: dict[str, Any] = {"address": options.address}
        if options.address == LOCAL:
            # Its logs are of nobody's use once it is over.
            folder = Path(tempfile.mkdtemp(prefix="gia-ray-"))
            after.callback(shutil.rmtree, folder, ignore_errors=True)
            arguments |= {
                "num_cpus": max(available_cores(), options.workers or 1),
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_temp_dir": str(folder),
            }
        elif options.address != AUTO:
            _require_answer(options.address)
        after.callback(_disconnect, ray, before)  # also of what Ctrl-C stops half started
        try:
            ray.init(
                **arguments,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=True,
            )
        except Exception as error:
            raise _no_cluster(options.address, error) from error
        finally:
            _take_signals_back(before)
        yield ray


def _no_cluster(address: str, error: Exception) -> ClusterError:
    if address == AUTO:
        return ClusterError(
            "This machine is part of no Ray cluster that is up.",
            hint="Give its address (--ray HOST:PORT), or start one here with --ray local.",
        )
    (line, *_) = str(error).strip().splitlines() or [type(error).__name__]
    hint = "" if address == LOCAL else "If the cluster asks for a token, set RAY_AUTH_MODE=token."
    return ClusterError(f"No Ray cluster at {address}: {line.rstrip('.')}.", hint=hint)


@cache
def _token() -> str:
    """Make up a token, once: Ray keeps the first that it reads for as long as the process lives."""
    return secrets.token_hex(32)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Set up Ray for a cluster of this machine's own, where the user has not.

    Others on the network are kept from it by a token, without a file at home; and its workers run
    at this process's own priority: Ray's, nice 15, is that of guests on a machine.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", _NICENESS)
    users = {name: os.environ[name] for name in names if name in os.environ}
    if not users.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}:
        os.environ["RAY_AUTH_TOKEN"] = _token()  # Ray sets the mode, and asks for it
    niceness = os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0
    os.environ.setdefault(_NICENESS, str(max(niceness, 0)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(users)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop what Ray's C++ prints to file descriptor 2; the terminal has a copy of its own."""
    try:
        saved = os.dup(2)
    except OSError:  # a program without stderr
        yield
        return
    with Path(os.devnull).open("r+b") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray._private.worker as of_driver
    except ImportError:
        raise UsageError(
            "--ray needs Ray, which is not installed.", hint="pip install 'gia-cli[ray]'"
        ) from None
    # It prints a paragraph on stdout, whatever it is told, for each worker that dies.
    if hasattr(of_driver, "print_to_stdstream"):
        of_driver.print_to_stdstream = lambda *_, **__: None
    return ray


def _disconnect(ray: Any, before: dict[Any, Any]) -> None:
    with suppress(Exception):  # of a cluster that is gone
        ray.shutdown()
    _take_signals_back(before)


def _take_signals_back(before: dict[Any, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_answer(address: str) -> None:
    """Ray itself waits for minutes, and says it in many lines."""
    try:
        with socket.create_connection(_host_and_port(address), timeout=_ANSWER_S) as connection:
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ClusterError(f"Nobody answers at {address}: {reason}.") from error
    if answer[3:4] != _HTTP2_SETTINGS:
        raise ClusterError(f"What answers at {address} is not the head of a Ray cluster.")


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(
            f"--ray takes local, auto or HOST:PORT, not '{address}'.",
            hint="The head of a cluster listens on port 6379: --ray head:6379.",
        )
    return host.strip("[]"), int(port)


# ---------------------------------------------------------------- the worker


class Worker(Generic[Item, Result]):
    """What runs in a worker's process. Its methods are called one at a time, but for `stop`."""

    def __init__(self, setup: Setup[Item, Result]) -> None:
        self._setup = setup
        self._work: Work[Item, Result] | None = None
        self._memory: int | None = None
        self._is_stopped = threading.Event()
        self._held = ExitStack()  # until the process ends

    def start(self, before: Started | None = None) -> Started:
        """Make ready what the work needs.

        Parameters
        ----------
        before : Started, optional
            What the worker said when it started last time: on the same machine it gets the same
            share of the memory, of which the others hold theirs by now.

        Raises
        ------
        GiaError
            What the work needs is not here, such as weights or a device, or gia is another version.
        """
        host = socket.gethostname()
        if self._work is None:
            if before is not None and before.host == host:
                self._memory = before.memory
            else:
                self._memory = _share_of_memory(self._setup.resources)
            self._work = self._make_work(host)
        return Started(f"{host}, process {os.getpid()}", host, self._memory)

    def run(self, chunk: Chunk[Item]) -> Iterator[tuple[int, Result]]:
        """Do the items of a chunk; yields the place and the result of each when it is done."""
        self.start()
        assert self._work is not None  # since the start
        numbers = iter(chunk.numbers)
        for result in self._work(_Until(chunk.items, self._is_stopped), chunk.is_again):
            yield next(numbers), result

    def stop(self) -> None:
        """Begin no other item."""
        self._is_stopped.set()

    def _make_work(self, host: str) -> Work[Item, Result]:
        setup = self._setup
        if setup.version != __version__:
            raise ClusterError(
                f"{host} has gia {__version__}, and not {setup.version}.",
                hint="Install the same version on all machines.",
            )
        with suppress(OSError):  # paths may all be absolute
            os.chdir(setup.folder)
        mark_unfinished(setup.mark)
        self._held.enter_context(_own_cores(setup.resources.cpus))
        return setup.make_work(self._memory)


def _share_of_memory(resources: Resources) -> int | None:
    """Bytes of a GPU or of the machine that a worker may take where others compute; else None.

    Each would plan with all that is free, and they begin at one time.
    """
    if resources.gpus:
        return int(free_bytes("cuda") * resources.gpus) if resources.gpus < 1 else None
    return free_bytes() // resources.beside if resources.beside > 1 else None


class _Until(Sequence[Item]):
    """Items that end early when an event is set."""

    def __init__(self, items: Sequence[Item], is_over: threading.Event) -> None:
        self._items, self._is_over = items, is_over

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if self._is_over.is_set():
            raise IndexError
        return self._items[index]


@contextmanager
def _own_cores(count: int) -> Iterator[None]:
    """Keep this process, for a while, to some of the machine's cores, which no other worker has.

    Libraries take all the cores they may use. Ray counts them, but keeps nobody from the others'.
    """
    with ExitStack() as held:
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            for place in range(len(cores) // count if count < len(cores) else 0):
                # Locks, for they go when the process does.
                path = Path(tempfile.gettempdir()) / f"gia-cores-{_user()}-{place}.lock"
                if held.enter_context(lock(path)):
                    _keep_process_to(cores[place * count : (place + 1) * count])
                    held.callback(_keep_process_to, cores)
                    break
        yield


def _keep_process_to(cores: Sequence[int]) -> None:
    """Keep every thread to some cores, and with them all that they start: Linux asks for each.

    Ray calls a worker in more than one.
    """
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208, names are wanted
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), cores)


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


# ---------------------------------------------------------------- the pool


@dataclass(slots=True)
class _Call:
    """What a worker is at."""

    reference: Any
    """Of what `start` returns, or a generator of results."""
    is_start: bool
    since: float = 0.0
    """Of a start: since when the worker is awaited."""


class RayPool:
    """Workers on a cluster.

    ::

        with connected(options) as ray, RayPool(ray, setup) as pool:
            ...

    Parameters
    ----------
    ray : module
    setup : Setup
    progress : Progress
        Is told that workers are awaited.
    """

    def __init__(self, ray: Any, setup: Setup[Any, Any], progress: Progress = SILENT) -> None:
        self._ray, self._progress = ray, progress
        resources = setup.resources
        self.size = resources.workers
        actor = ray.remote(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_restarts=_RESTARTS,
            max_task_retries=0,
            max_concurrency=2,  # for `stop`
        )(Worker)
        self._actors = [actor.remote(setup) for _ in range(self.size)]
        self._calls: dict[int, _Call] = {}
        self._started: dict[int, Started] = {}  # also of those that have died since
        self._starts: dict[int, int] = {}
        self._events: list[Event] = []
        for worker in range(self.size):
            self._start(worker)

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            with suppress(Exception):  # of a cluster that is gone
                self._ray.kill(actor)

    def give(self, worker: int, chunk: Chunk[Any]) -> None:
        """Let a worker do a chunk."""
        run = self._actors[worker].run.options(num_returns="streaming")
        self._calls[worker] = _Call(run.remote(chunk), is_start=False)

    def stop(self) -> None:
        """Let the workers begin no other item."""
        for actor in self._actors:
            with suppress(Exception):
                actor.stop.remote()

    def wait(self) -> Iterable[Event]:
        """Wait a moment for something to happen."""
        if not self._started:
            self._progress.status(f"waiting for the cluster's workers: {self.size}")
        if self._calls:
            references = {call.reference: worker for worker, call in self._calls.items()}
            ready, _ = self._ray.wait(list(references), num_returns=1, timeout=_MOMENT_S)
            for reference in ready:
                self._look_at(references[reference])
        else:
            time.sleep(_MOMENT_S)
        for worker, call in list(self._calls.items()):
            if call.is_start and time.monotonic() - call.since > _START_S:
                del self._calls[worker]
                self._events.append(Gone(worker, _not_started()))
        events, self._events = self._events, []
        return events

    def _start(self, worker: int, since: float | None = None) -> None:
        start = self._actors[worker].start.options(max_task_retries=_STARTS)
        since = time.monotonic() if since is None else since
        self._calls[worker] = _Call(
            start.remote(self._started.get(worker)), is_start=True, since=since
        )

    def _look_at(self, worker: int) -> None:
        """Take what a worker has to say."""
        call = self._calls[worker]  # it stays there if Ctrl-C comes meanwhile
        try:
            if not call.is_start:
                number, result = self._ray.get(next(call.reference))
                self._events.append(Done(worker, number, result))
                return
            self._started[worker] = self._ray.get(call.reference)
            self._starts[worker] = 0
        except StopIteration:
            pass
        except Exception as error:
            del self._calls[worker]
            self._fail(worker, call, error)
            return
        del self._calls[worker]
        self._events.append(Ready(worker, self._started[worker].name))

    def _fail(self, worker: int, call: _Call, error: Exception) -> None:
        cause = getattr(error, "cause", None)
        if not call.is_start:
            self._events.append(Lost(worker, _said(error)))
            self._start(worker)
        elif isinstance(cause, GiaError):
            self._events.append(Gone(worker, cause))
        elif type(error).__name__ == "ActorUnavailableError":  # its process is not there again yet
            time.sleep(_MOMENT_S)
            self._start(worker, call.since)
        else:
            self._starts[worker] = self._starts.get(worker, 0) + 1
            if self._starts[worker] <= _STARTS:
                self._start(worker, call.since)
                return
            gone = ClusterError(f"A worker did not start: {_said(error)}")
            self._events.append(Gone(worker, gone))


def _not_started() -> ClusterError:
    return ClusterError(
        f"A worker did not start within {_START_S / 60:g} minutes.",
        hint="Look at what the cluster has left (ray status), or ask for fewer --workers.",
    )


def _said(error: Exception) -> str:
    """Say in a sentence what Ray says in paragraphs."""
    name = type(error).__name__
    if name in ("ActorDiedError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError"):
        return "its process ended."
    cause = getattr(error, "cause", None) or error
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if text.endswith(".") else f"{text}."
