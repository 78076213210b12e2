"""Clusters for tests: a real one (the fixture `two_workers`), and one that is in this process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from gia_cli.cluster import driver
from gia_cli.cluster.pool import Chunk, Done, Event, Lost, Ready, run_in_pool
from gia_cli.cluster.ray_pool import RayOptions, connected

TWO = RayOptions("local", workers=2)


@contextmanager
def two_workers() -> Iterator[None]:
    """Start it, and let all drivers that are in this process find it."""
    pytest.importorskip("ray")
    with connected(TWO) as ray, pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def same(options: RayOptions) -> Iterator[Any]:
            yield ray

        patch.setattr(driver, "connected", same)
        yield


class InProcess:
    """A pool of one worker in this process.

    Of the first items it dies, when they are done, before it tells.
    """

    size = 1

    def __init__(self, make_work: Any, deaths: int) -> None:
        self.deaths = deaths
        self.work = pickle.loads(pickle.dumps(make_work))(None)
        self.chunk: Chunk[Any] | None = None

    def give(self, worker: int, chunk: Chunk[Any]) -> None:
        self.chunk = chunk

    def stop(self) -> None:
        raise AssertionError

    def wait(self) -> Iterable[Event]:
        chunk, self.chunk = self.chunk, None
        if chunk is not None:
            items = pickle.loads(pickle.dumps(chunk.items))
            results = self.work(items, chunk.is_again)
            for number, result in zip(chunk.numbers, results, strict=True):
                if self.deaths:
                    self.deaths -= 1
                    yield Lost(0, "it died.")
                    break
                yield Done(0, number, pickle.loads(pickle.dumps(result)))
        yield Ready(0, "the worker")


def in_process(deaths: int = 0) -> Callable[..., list[Any]]:
    """Make what stands for `run_on_cluster`."""

    def run(
        task: Any, items: Any, make_work: Any, _: RayOptions, *, folders: Any = (), **more: Any
    ) -> list[Any]:
        pool = InProcess(make_work, deaths)
        return run_in_pool(task, items, lambda _: nullcontext(pool), **more)

    return run
