"""The clock: one process asks nobody, several agree in few messages and never differ."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from gia_cli.training import clock as module
from gia_cli.training.clock import Agreed, Clock
from gia_cli.training.distributed import Ranks


class Pair:
    """Two processes, which are threads here; counts their messages. Each has its own time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages = 0
        self._barrier = threading.Barrier(2, timeout=20)
        self._said: dict[int, Sequence[float]] = {}
        self._own = threading.local()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=self._now))

    def _now(self) -> float:
        now: float = getattr(self._own, "now", 0.0)
        return now

    def total(self, rank: int, values: Sequence[float]) -> list[float]:
        self._said[rank] = values
        self.messages += self._barrier.wait() == 0
        sums = [sum(each) for each in zip(*self._said.values(), strict=True)]
        self._barrier.wait()
        return sums

    def run(self, length: dict[str, Any], steps: int, step: Callable[[int, int], bool]) -> Any:
        """Let both take steps; `step(rank, number)` is whether this one is asked to stop then.

        Returns what each agreed on, and the shares that were behind it before each step.
        """

        def of(rank: int) -> list[tuple[float, Agreed]]:
            self._own.now = 1000.0 * rank
            ranks: Any = SimpleNamespace(world=2, is_first=rank == 0)
            ranks.total = lambda values: self.total(rank, values)
            clock = Clock(ranks, **length)
            clock.resume(5.0)
            found = []
            for number in range(steps):
                done = clock.done(number)
                self._own.now += self.seconds * (1 + rank / 10)
                found.append((done, clock.agree(asked=step(rank, number))))
            return found

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(of, range(2)))

    seconds = 0.01
    """How long a step takes; the second process is a little slower."""


BY_STEPS: dict[str, Any] = {"steps": 4000, "budget_s": None, "save_every_s": 1e9}


def test_one_process_decides_at_every_step() -> None:
    clock = Clock(Ranks(), 10, None, save_every_s=0)
    assert clock.agree(asked=False) == Agreed(stops=False, saves=True)
    assert clock.agree(asked=True) == Agreed(stops=True, saves=True)
    assert not Clock(Ranks(), 10, None, save_every_s=1000).agree(asked=False).saves
    assert clock.done(5) == 0.5


def test_several_processes_exchange_a_message_in_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair(monkeypatch)
    first, second = pair.run(BY_STEPS, 4000, lambda rank, number: False)
    assert first == second
    assert 4000 * pair.seconds / 2 <= pair.messages < 4000 * pair.seconds / 2 + 12  # it grows


def test_slow_steps_have_a_message_each(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(monkeypatch)
    pair.seconds = 3.0
    pair.run(BY_STEPS, 20, lambda rank, number: False)
    assert pair.messages == 20


@pytest.mark.parametrize("asked", [0, 1])
def test_whoever_is_asked_all_stop_after_the_same_step(
    monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    pair = Pair(monkeypatch)
    first, second = pair.run(BY_STEPS, 2500, lambda rank, number: rank == asked and number >= 1500)
    assert first == second
    stopped = [number for number, (_, agreed) in enumerate(first) if agreed.stops]
    assert 1500 <= stopped[0] <= 1500 + 2.5 / pair.seconds


def test_a_checkpoint_is_due_by_the_first_ones_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(monkeypatch)
    first, second = pair.run({**BY_STEPS, "save_every_s": 10.0}, 4000, lambda rank, number: False)
    assert first == second
    assert sum(agreed.saves for _, agreed in first) == 3  # in 40 s, each up to 2 s late


def test_a_run_by_the_clock_is_as_far_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(monkeypatch)
    length = {"steps": None, "budget_s": 40.0, "save_every_s": 1e9}
    first, second = pair.run(length, 3000, lambda rank, number: False)
    assert first == second
    shares = [done for done, _ in first]
    assert shares[0] == 5 / 40  # of the checkpoint
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx((5 + 3000 * pair.seconds) / 40, abs=2.5 / 40)


def test_workers_of_a_resumed_run_know_how_far_it_is() -> None:
    clock = Clock(Ranks(), None, 10.0, save_every_s=1)
    clock.resume(7.5)
    assert clock.shared_done is not None
    assert clock.shared_done.value == 0.75
