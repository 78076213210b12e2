"""A batch on many workers, with workers that are none: the rules, without a cluster."""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from gia_cli.cluster import pool as rules
from gia_cli.cluster.pool import CHUNK, LOSSES, Chunk, Done, Event, Gone, Lost, Ready
from gia_cli.enhance.batch import (
    BatchOptions,
    FileResult,
    Job,
    Product,
    picture_saved,
    plan_jobs,
)
from gia_cli.enhance.cluster import Photos
from gia_cli.enhance.comparison import comparison_path, write_comparison
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.errors import (
    ClusterError,
    DamagedFileError,
    Interrupted,
    OutputError,
    OutputExistsError,
    WeightsNotFoundError,
    WorkerError,
)
from gia_cli.imaging.save_options import SaveOptions
from gia_cli.progress import SILENT
from tests.progress_spy import ProgressSpy

#: What a worker does with a photo: it returns, fails, or dies (`Death`).
Work = Callable[[int, Job, Chunk[Job]], FileResult]


class Death(Exception):
    """Of a worker."""


class FakePool:
    """Workers in this process, which do a chunk while the driver waits, in turns."""

    def __init__(self, size: int, work: Work, *, restarts: int = 1000) -> None:
        self.size, self.work = size, work
        self.events: deque[Event] = deque(Ready(n, f"worker {n}") for n in range(size))
        self.chunks: list[tuple[int, Chunk[Job]]] = []
        self.given: deque[tuple[int, Chunk[Job]]] = deque()
        self.busy: set[int] = set()
        self.restarts = restarts
        self.is_stopped = False
        self.idle_waits = 0

    def give(self, worker: int, chunk: Chunk[Job]) -> None:
        assert worker not in self.busy and chunk.items
        self.busy.add(worker)
        self.chunks.append((worker, chunk))
        self.given.append((worker, chunk))

    def stop(self) -> None:
        self.is_stopped = True

    def wait(self) -> Iterable[Event]:
        if self.given:
            self.events.extend(self._do(*self.given.popleft()))
        events, self.events = self.events, deque()
        self.idle_waits = 0 if events else self.idle_waits + 1
        assert self.idle_waits < 3, "the driver waits for nothing"
        return events

    def _do(self, worker: int, chunk: Chunk[Job]) -> Iterable[Event]:
        self.busy.discard(worker)
        for number, job in zip(chunk.numbers, chunk.items, strict=True):
            if self.is_stopped:
                break
            try:
                result = self.work(worker, job, chunk)
            except Death as death:
                yield Lost(worker, str(death))
                self.restarts -= 1
                if self.restarts < 0:
                    yield Gone(worker, ClusterError("it does not start again."))
                    return
                break
            yield Done(worker, number, result)
        yield Ready(worker, f"worker {worker}")


def run_in_pool(
    jobs: list[Job], pool: FakePool, options: BatchOptions, **listeners: Any
) -> list[FileResult]:
    task = Photos(options)
    return rules.run_in_pool(task, jobs, lambda _: nullcontext(pool), **listeners)


def write(worker: int, job: Job, chunk: Chunk[Job]) -> FileResult:
    """Make what is missing; nothing is ever written twice."""
    made = [path for path in job.targets if not path.exists()]
    if chunk.is_again and not made:
        return FileResult(job.source, "skipped", list(job.targets))
    for path in made if chunk.is_again else job.targets:
        with path.open("xb") as file:
            file.write(str(worker).encode())
    return FileResult(job.source, outputs=made)


def plan(folder: Path, count: int, **options: object) -> tuple[list[Job], BatchOptions]:
    chosen = BatchOptions(**options)  # type: ignore[arg-type]
    for number in range(count):
        (folder / f"{number:03}.ARW").write_bytes(b"II*\0")
    return plan_jobs([folder], chosen), chosen


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*_gia*.tif"))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 2), (50, 3), (200, 4), (3, 8)])
def test_every_photo_has_one_result_in_its_place(tmp_path: Path, count: int, size: int) -> None:
    jobs, options = plan(tmp_path, count)
    told: list[FileResult] = []
    spy, pool = ProgressSpy(), FakePool(size, write)
    results = run_in_pool(jobs, pool, options, progress=spy, on_result=told.append)
    assert [result.source for result in results] == [job.source for job in jobs]
    assert sorted(map(id, told)) == sorted(map(id, results))
    assert {result.status for result in results} == {"written"}
    assert len(pictures(tmp_path)) == count
    assert [number for _, number, _ in spy.photos] == list(range(1, count + 1))
    assert max(len(chunk.items) for _, chunk in pool.chunks) <= CHUNK
    assert len({worker for worker, _ in pool.chunks}) == min(size, count)


def test_chunks_shrink_towards_the_end(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 100)
    pool = FakePool(2, write)
    run_in_pool(jobs, pool, options, progress=SILENT)
    sizes = [len(chunk.items) for _, chunk in pool.chunks]
    assert sizes[0] == CHUNK and sizes[-1] == 1 and sizes == sorted(sizes, reverse=True)


def test_what_needs_no_work_is_given_to_nobody(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 4)
    jobs[1].targets[0].write_bytes(b"mine")
    (tmp_path / "003.ARW").write_bytes(b"")
    jobs[3].targets[0].write_bytes(b"mine")  # the photo's own fault comes first
    pool = FakePool(2, write)
    results = run_in_pool(jobs, pool, options, progress=SILENT)
    assert [result.status for result in results] == ["written", "failed", "written", "failed"]
    assert isinstance(results[1].error, OutputExistsError)
    assert (
        results[3].error is not None and results[3].error.exit_code == 13
    )  # the photo's comes first
    assert {number for _, chunk in pool.chunks for number in chunk.numbers} == {0, 2}
    assert jobs[1].targets[0].read_bytes() == b"mine"
    skipping = BatchOptions(on_exists="skip")
    again = rules.run_in_pool(Photos(skipping), jobs, no_pool, progress=SILENT)
    assert [result.status for result in again] == ["skipped"] * 4
    assert again[0].outputs == [tmp_path / "000_gia.tif"]


def no_pool(photos: int) -> Any:
    raise AssertionError("there is nothing to do")


def dies_of(*names: str, times: int = 1000) -> Work:
    left = Counter(dict.fromkeys(names, times))

    def work(worker: int, job: Job, chunk: Chunk[Job]) -> FileResult:
        if left[job.source.name] > 0:
            left[job.source.name] -= 1
            raise Death("killed by signal 9.")
        return write(worker, job, chunk)

    return work


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_photo_that_kills_its_worker_each_time_is_named_and_costs_no_other(
    tmp_path: Path, size: int
) -> None:
    jobs, options = plan(tmp_path, 60)
    pool = FakePool(size, dies_of("007.ARW", "031.ARW"))
    results = run_in_pool(jobs, pool, options, progress=SILENT)
    failed = [result for result in results if result.status == "failed"]
    assert [result.source.name for result in failed] == ["007.ARW", "031.ARW"]
    for result in failed:
        assert isinstance(result.error, WorkerError) and result.error.exit_code == 52
        assert result.source.name in str(result.error) and "signal 9" in str(result.error)
    assert len(pictures(tmp_path)) == 58
    given = Counter(number for _, chunk in pool.chunks for number in chunk.numbers)
    assert given[7] == given[31] == LOSSES
    # Of those lost once, each is alone the second time.
    seen: set[int] = set()
    for _, chunk in pool.chunks:
        assert len(chunk.numbers) == 1 or not seen & set(chunk.numbers)
        seen |= set(chunk.numbers)


def test_a_worker_that_dies_by_itself_loses_nothing(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 40)
    results = run_in_pool(
        jobs, FakePool(2, dies_of("003.ARW", "030.ARW", times=1)), options, progress=SILENT
    )
    assert {result.status for result in results} == {"written"}
    assert len(pictures(tmp_path)) == 40


@pytest.mark.parametrize("on_exists", ["error", "skip"])
def test_what_a_dead_worker_had_written_is_not_written_again(
    tmp_path: Path, on_exists: str
) -> None:
    """It dies after the rename, before it tells."""
    jobs, options = plan(tmp_path, 8, on_exists=on_exists)
    died: list[str] = []

    def work(worker: int, job: Job, chunk: Chunk[Job]) -> FileResult:
        result = write(worker, job, chunk)  # refuses to write twice
        if job.source.name == "002.ARW" and not died:
            died.append("")
            raise Death("it was preempted.")
        return result

    results = run_in_pool(jobs, FakePool(2, work), options, progress=SILENT)
    assert {result.status for result in results} == {"written"}
    assert results[2].outputs == list(jobs[2].targets)
    (note,) = results[2].notes
    assert "002.ARW: written by a worker that was lost" in note


def test_the_brackets_that_a_dead_worker_left_out_are_made(tmp_path: Path) -> None:
    request = ExposureRequest(brackets=(50.0, 100.0))
    jobs, options = plan(tmp_path, 3, request=request)
    died: list[str] = []

    def work(worker: int, job: Job, chunk: Chunk[Job]) -> FileResult:
        if not died:
            died.append("")
            job.targets[0].write_bytes(b"0")
            raise Death("killed.")
        return write(worker, job, chunk)

    results = run_in_pool(jobs, FakePool(1, work), options, progress=SILENT)
    assert [result.outputs for result in results] == [list(job.targets) for job in jobs]
    assert len(pictures(tmp_path)) == 6


def full_disk_on(bad: set[int], seen: list[int]) -> Work:
    def work(worker: int, job: Job, chunk: Chunk[Job]) -> FileResult:
        seen.append(worker)
        if worker in bad:
            error = OutputError(f"Cannot write {job.targets[0]}: No space left on device.")
            return FileResult(job.source, "failed", error=error)
        return write(worker, job, chunk)

    return work


def test_a_full_disk_on_one_worker_costs_no_photo_and_gets_no_more(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 200)
    seen: list[int] = []
    spy = ProgressSpy()
    results = run_in_pool(jobs, FakePool(3, full_disk_on({1}, seen)), options, progress=spy)
    assert {result.status for result in results} == {"written"}
    assert seen.count(1) <= CHUNK  # its first chunk, all of which it fails at once
    (note,) = [note for note in spy.notes if "no more photos" in note]
    assert note.startswith("worker 1 ") and "No space left" in note


def test_a_full_disk_everywhere_fails_each_photo_with_its_line(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 20)
    seen: list[int] = []
    results = run_in_pool(jobs, FakePool(2, full_disk_on({0, 1}, seen)), options, progress=SILENT)
    assert [result.status for result in results] == ["failed"] * 20
    assert all(isinstance(result.error, OutputError) for result in results)
    assert len(seen) <= 2 * 20  # each photo is tried by two


def test_a_photo_that_nobody_can_write_leaves_its_workers_in_trust(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 60)

    def work(worker: int, job: Job, chunk: Chunk[Job]) -> FileResult:
        if job.source.name == "010.ARW":
            return FileResult(job.source, "failed", error=OutputError("Cannot write it."))
        return write(worker, job, chunk)

    spy, pool = ProgressSpy(), FakePool(2, work)
    results = run_in_pool(jobs, pool, options, progress=spy)
    assert [r.source.name for r in results if r.status == "failed"] == ["010.ARW"]
    assert not spy.notes
    late = {worker for worker, chunk in pool.chunks if max(chunk.numbers) > 50}
    assert late == {0, 1}


def test_with_one_worker_a_full_disk_fails_at_once(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 5)
    seen: list[int] = []
    results = run_in_pool(jobs, FakePool(1, full_disk_on({0}, seen)), options, progress=SILENT)
    assert [result.status for result in results] == ["failed"] * 5 and len(seen) == 5


def test_a_photos_own_fault_is_no_workers(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 30)

    def work(worker: int, job: Job, chunk: Chunk[Job]) -> FileResult:
        return FileResult(job.source, "failed", error=DamagedFileError("Broken."))

    pool = FakePool(3, work)
    results = run_in_pool(jobs, pool, options, progress=SILENT)
    assert {type(result.error) for result in results} == {DamagedFileError}
    assert sum(len(chunk.items) for _, chunk in pool.chunks) == 30


def test_when_no_worker_is_left_it_says_so(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 40)
    told: list[FileResult] = []
    pool = FakePool(2, dies_of("005.ARW"), restarts=0)
    pool.events.append(Gone(1, ClusterError("its machine has gone.")))
    with pytest.raises(ClusterError, match=r"after \d+ of 40 photos: it does not") as caught:
        run_in_pool(jobs, pool, options, progress=SILENT, on_result=told.append)
    assert caught.value.exit_code == 53
    assert len(told) == len(pictures(tmp_path)) == len({result.source for result in told})


def test_what_keeps_all_workers_from_beginning_is_the_error(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 4)
    pool = FakePool(2, write)
    pool.events = deque(Gone(n, WeightsNotFoundError("No such weights.")) for n in (0, 1))
    with pytest.raises(WeightsNotFoundError):
        run_in_pool(jobs, pool, options, progress=SILENT)


def test_a_worker_that_cannot_begin_costs_nothing_where_another_can(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 40)
    pool = FakePool(2, write)
    pool.events = deque([Gone(0, ClusterError("no.")), Ready(1, "worker 1")])
    results = run_in_pool(jobs, pool, options, progress=SILENT)
    assert {result.status for result in results} == {"written"}


def test_a_worker_that_never_starts_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Not even where a photo could be tried by another one."""
    jobs, options = plan(tmp_path, 6)
    pool = FakePool(2, full_disk_on({0}, []))
    pool.events.pop()
    results = run_in_pool(jobs, pool, options, progress=SILENT)
    assert [result.status for result in results] == ["failed"] * 6


def test_interrupted_it_waits_for_what_is_being_written(tmp_path: Path) -> None:
    jobs, options = plan(tmp_path, 60)
    told: list[FileResult] = []

    def listen(result: FileResult) -> None:
        told.append(result)
        if len(told) == 5:
            raise KeyboardInterrupt

    pool = FakePool(2, write)
    with pytest.raises(Interrupted, match=r"after \d+ of 60 photos"):
        run_in_pool(jobs, pool, options, progress=SILENT, on_result=listen)
    assert pool.is_stopped and not pool.given
    assert len(pictures(tmp_path)) == len(told) < 60


def test_what_a_batch_is_asked_for_travels(tmp_path: Path) -> None:
    """Its options, with every product that the command line can ask for, and its results."""
    sheet = Product(comparison_path, write_comparison)
    options = BatchOptions(
        request=ExposureRequest(brackets=(50.0, 100.0)),
        out_dir=tmp_path,
        products=(picture_saved(SaveOptions(bit_depth=8)), sheet),
    )
    again = pickle.loads(pickle.dumps(options))
    assert again.request == options.request and again.out_dir == tmp_path
    assert [product.save for product in again.products] == [p.save for p in options.products]
    names = [[p.name(tmp_path / "a_gia.tif") for p in each.products] for each in (options, again)]
    assert names[0] == names[1]
    assert pickle.loads(pickle.dumps(BatchOptions())) == BatchOptions()
    result = FileResult(tmp_path, "failed", error=WorkerError("It died.", hint="Look."))
    travelled = pickle.loads(pickle.dumps(result))
    assert str(travelled.error) == "It died. Look." and travelled.source == tmp_path
