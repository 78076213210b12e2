"""What works beside the network: in order ahead of it, bounded behind it, told of in order."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gia_cli.enhance.lanes import Ahead, Behind, InOrder, Lanes
from tests.progress_spy import ProgressSpy

SECONDS = 60  # nothing here waits so long unless it hangs


# ---------------------------------------------------------------- how many


def test_a_cpus_cores_are_the_networks_and_a_cards_are_shared() -> None:
    assert {Lanes.beside("cpu", cores) for cores in (1, 2, 64)} == {Lanes(1, 1)}
    for device in ("cuda", "mps", "intel-gpu"):
        numbers = [Lanes.beside(device, cores) for cores in range(1, 65)]
        for cores, lanes in enumerate(numbers, start=1):
            assert 1 <= lanes.readers <= 4 and 1 <= lanes.writers <= 4
            assert lanes.readers + lanes.writers <= max(cores, 2)
            assert lanes.finishes_behind
        assert numbers[0] == Lanes(1, 1, True) and numbers[-1] == Lanes(4, 4, True)


# ---------------------------------------------------------------- ahead


def test_items_are_looked_at_when_they_are_begun_and_taken_in_order() -> None:
    looked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(6):
            looked.append(number)
            yield number

    with ThreadPoolExecutor(3) as threads:
        ahead = Ahead(items(), lambda number: number**2, threads)
        assert looked == [] and ahead.count == 0
        taken = ahead.take()
        assert taken is not None and (taken[0], taken[1].result()) == (0, 0)
        assert looked == [0]
        ahead.begin(3)
        ahead.begin(2)  # has more already
        assert looked == [0, 1, 2, 3] and ahead.items == [1, 2, 3] and ahead.count == 3
        rest = []
        while (taken := ahead.take()) is not None:
            rest.append((taken[0], taken[1].result()))
        assert rest == [(number, number**2) for number in range(1, 6)]
        assert ahead.items == [] and ahead.working == 0


def test_what_is_dropped_is_made_anew_and_no_item_is_lost() -> None:
    calls: list[int] = []
    go_on, has_begun = threading.Event(), threading.Event()

    def work(number: int) -> int:
        calls.append(number)
        has_begun.set()
        assert go_on.wait(SECONDS)
        return number

    with ThreadPoolExecutor(1) as threads:
        ahead = Ahead(range(4), work, threads)
        ahead.begin(3)
        assert has_begun.wait(SECONDS) and (ahead.count, ahead.working) == (3, 3)
        threading.Timer(0.01, go_on.set).start()
        ahead.drop()  # waits for the one that runs; the others have not begun
        assert calls == [0] and ahead.items == [0, 1, 2] and ahead.count == 0
        found = [taken[1].result() for _ in range(4) if (taken := ahead.take()) is not None]
    assert found == [0, 1, 2, 3] and calls == [0, 0, 1, 2, 3]


def test_a_failure_is_its_items_own() -> None:
    def work(number: int) -> int:
        if number == 1:
            raise ValueError(number)
        return number

    with ThreadPoolExecutor(2) as threads:
        ahead = Ahead(range(3), work, threads)
        ahead.begin(3)
        results = [taken[1] for _ in range(3) if (taken := ahead.take()) is not None]
        assert [type(each.exception()) for each in results] == [type(None), ValueError, type(None)]


# ---------------------------------------------------------------- behind


def test_no_more_is_underway_than_was_waited_for_and_its_bytes_are_known() -> None:
    doors = [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        behind = Behind(threads)
        assert behind.is_idle and behind.taken == 0
        for number, door in enumerate(doors):
            behind.submit(10**number, lambda door: door.wait(SECONDS) and None, door)
        assert not behind.is_idle and behind.taken == 111
        threading.Timer(0.01, doors[1].set).start()
        behind.wait(2)  # whichever ends first
        assert behind.taken == 101
        for door in doors:
            door.set()
        behind.wait()
        assert behind.is_idle and behind.taken == 0


def test_what_was_raised_comes_once_and_to_whoever_waits_for_it() -> None:
    def fail() -> None:
        raise BrokenPipeError

    with ThreadPoolExecutor(2) as threads:
        behind = Behind(threads)
        behind.submit(1, fail)
        behind.settle()
        assert behind.is_idle
        with pytest.raises(BrokenPipeError):
            behind.raise_failures()
        behind.raise_failures()
        behind.submit(1, fail)
        with pytest.raises(BrokenPipeError):
            behind.wait()
        behind.wait()


# ---------------------------------------------------------------- told of


@pytest.mark.parametrize("seed", range(5))
def test_results_are_told_of_in_order_and_by_one_thread_at_a_time(seed: int) -> None:
    rng = random.Random(seed)
    numbers = list(range(40))
    rng.shuffle(numbers)
    told: list[int] = []
    inside = threading.Lock()

    def tell(number: int) -> None:
        assert inside.acquire(blocking=False)
        told.append(number)
        inside.release()

    progress = ProgressSpy()
    progress.stage("photos", 40)
    order = InOrder(tell, progress)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: order.add(number, number), numbers))
    assert told == order.results == sorted(numbers)
    assert progress.done == [40]


def test_what_waits_for_one_that_never_comes_is_told_of_at_the_end() -> None:
    told: list[str] = []
    order = InOrder(told.append)
    for number in (3, 0, 5):
        order.add(number, f"photo {number}")
    assert told == ["photo 0"]
    order.flush()
    assert told == order.results == ["photo 0", "photo 3", "photo 5"]


def test_a_listener_that_fails_is_heard_of_and_keeps_nothing_back() -> None:
    told: list[int] = []

    def tell(number: int) -> None:
        told.append(number)
        if number == 0:
            raise BrokenPipeError

    order = InOrder(tell)
    order.add(1, 1)
    with pytest.raises(BrokenPipeError):
        order.add(0, 0)
    order.add(2, 2)
    assert told == [0, 1, 2]
