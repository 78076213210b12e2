"""A batch on a Ray cluster: what its workers do with photos, and a real cluster of two."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gia_cli import runtime
from gia_cli.cluster import pool as rules
from gia_cli.cluster.pool import Chunk
from gia_cli.cluster.ray_pool import Resources, Setup, Worker
from gia_cli.enhance import batch, cluster
from gia_cli.enhance.batch import BatchOptions, FileResult, Job, plan_jobs
from gia_cli.enhance.cluster import make_work, output_roots, run_on_ray
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.enhance.lanes import Lanes
from gia_cli.errors import WorkerError
from gia_cli.files import OnExists, atomic_file
from gia_cli.inference.plan import InferOptions
from gia_cli.runtime import Runtime
from tests.cli.test_cli import gia
from tests.local_cluster import TWO
from tests.progress_spy import ProgressSpy

MakePhoto = Callable[..., Path]
QUICK = ("--device", "cpu", "--weights", "gia-sony-lite", "--ratio", "100")


# ---------------------------------------------------------------- without a cluster


def test_the_folders_that_are_locked_are_those_that_were_given(tmp_path: Path) -> None:
    for name in ("a/1.ARW", "a/sub/deep/2.ARW", "b/3.ARW"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    options = BatchOptions(recursive=True)
    jobs = plan_jobs([tmp_path / "a", tmp_path / "b" / "3.ARW"], options)
    assert output_roots(jobs, options) == {tmp_path / "a", tmp_path / "b"}
    assert output_roots(jobs, BatchOptions(out_dir=tmp_path / "o")) == {tmp_path / "o"}
    assert output_roots(jobs, BatchOptions(output=tmp_path / "x.tif")) == {tmp_path}


class Recorder:
    """An `Enhancer` that is none."""

    def __init__(self) -> None:
        self.options = InferOptions()

    def limit_memory(self, most: int) -> None:
        self.options = InferOptions(max_memory=most)


def test_an_enhancer_plans_with_its_workers_share_unless_the_user_said_otherwise() -> None:
    made: list[Any] = []

    def make(most: int | None = None) -> Any:
        made.append(Recorder())
        made[-1].options = InferOptions(max_memory=most)
        return made[-1]

    make_work(make, BatchOptions(), 300)
    make_work(make, BatchOptions(), None)
    make_work(partial(make, 100), BatchOptions(), 300)
    assert [each.options.max_memory for each in made] == [300, None, 100]


JOBS = [Job(Path("a"), ()), Job(Path("b"), ())]


@pytest.mark.parametrize(
    ("on_exists", "is_again", "expected"),
    [
        ("error", False, "error"),
        ("error", True, "skip"),  # what is there now, a worker has made
        ("skip", True, "skip"),
        ("overwrite", True, "overwrite"),
    ],
)
def test_what_is_done_again_keeps_what_is_there(
    on_exists: OnExists, is_again: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def run_jobs(
        jobs: Any, _: object, options: BatchOptions, *, on_result: Callable[..., None], **__: object
    ) -> None:
        seen.append(options.on_exists)
        for job in jobs:
            on_result(FileResult(job.source))

    monkeypatch.setattr(cluster, "run_jobs", run_jobs)
    make: Any = Recorder
    work = make_work(make, BatchOptions(on_exists=on_exists), None)
    assert [result.source for result in work(JOBS, is_again)] == [Path("a"), Path("b")]
    assert seen == [expected]


def test_what_ends_a_batch_in_a_worker_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_jobs(*_: object, **__: object) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(cluster, "run_jobs", run_jobs)
    make: Any = Recorder
    with pytest.raises(MemoryError):
        list(make_work(make, BatchOptions(), None)(JOBS, False))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, Lanes(1, 1, True)), (4, Lanes(2, 2, True)), (16, Lanes(4, 4, True))],
)
def test_beside_a_card_as_many_photos_are_read_and_written_as_the_workers_cores_allow(
    cores: int, expected: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has sixteen, of which Ray gave the worker some."""
    own = set(range(16))

    def keep(_: int, cores: Iterable[int]) -> None:
        nonlocal own
        own = set(cores)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: own)
    monkeypatch.setattr(os, "sched_setaffinity", keep)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 16)
    monkeypatch.setattr(runtime, "_cgroup_cores", lambda: None)
    lanes: list[Lanes] = []

    class Pipeline:
        """Is asked how many may work beside the network."""

        results: tuple[FileResult, ...] = ()

        def __init__(self, *arguments: Any) -> None:
            lanes.append(arguments[3])

        def run(self, *_: object) -> None:
            pass

        release = run

    class OnCard(Recorder):
        runtime = Runtime("cuda", "float16")

    monkeypatch.setattr(batch, "_Pipeline", Pipeline)
    make: Any = OnCard
    resources = Resources(workers=1, cpus=cores, gpus=1, beside=1)
    setup = Setup(partial(make_work, make, BatchOptions()), resources, "abcdef", str(tmp_path))
    monkeypatch.setattr("gia_cli.cluster.ray_pool.mark_unfinished", lambda _: None)
    monkeypatch.chdir(tmp_path)
    list(Worker(setup).run(Chunk((0,), (JOBS[0],))))
    assert lanes == [expected]


# ---------------------------------------------------------------- a real cluster


class Deadly(Enhancer):
    """Dies of one photo while a file is being written, every time."""

    def prepare(self, photo: Any, request: Any, **options: Any) -> Any:
        """Die, or do as all do."""
        if Path(photo).name == "deadly.ARW":
            with atomic_file(Path(photo).with_name("half")):
                os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(photo, request, **options)


@pytest.fixture
def card(make_arw: MakePhoto) -> Path:
    first = make_arw("card/00.ARW")
    for number in range(1, 23):
        (first.parent / f"{number:02}.ARW").hardlink_to(first)
    return first.parent


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers", "alone")
def test_workers_that_die_cost_no_photo_but_the_one_that_kills_them(
    card: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "LOSSES", 2)
    (card / "deadly.ARW").hardlink_to(card / "00.ARW")
    options = BatchOptions(request=ExposureRequest(ratio=100))
    jobs, spy, told = plan_jobs([card], options), ProgressSpy(), list[FileResult]()

    def listen(result: FileResult) -> None:
        told.append(result)
        if len(told) == 3:  # and one that dies for no photo's sake
            process = re.search(r"process (\d+)", next(d for d in spy.details if "worker" in d))
            assert process is not None
            os.kill(int(process[1]), signal.SIGKILL)

    make = partial(Deadly.from_weights, "gia-sony-lite", device="cpu")
    results = run_on_ray(jobs, make, options, TWO, progress=spy, on_result=listen)
    assert [result.source for result in results] == [job.source for job in jobs]
    assert sorted(told, key=id) == sorted(results, key=id)
    (failed,) = [result for result in results if result.status == "failed"]
    assert failed.source.name == "deadly.ARW" and isinstance(failed.error, WorkerError)
    made = {path for result in results for path in result.outputs}
    assert len(made) == 23 and all(path.is_file() for path in made)
    assert not list(card.glob(".*.tmp")) and not (card / "half").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers", "alone")
def test_the_report_and_the_exit_code_are_those_of_one_machine(card: Path, tmp_path: Path) -> None:
    (card / "broken.ARW").write_bytes(b"no photo")
    reports = []
    for out, more in (("one", ()), ("many", ("--ray", "local", "--workers", "2"))):
        run = gia("enhance", card, "--out-dir", tmp_path / out, "--json", *QUICK, *more)
        assert run.exit_code == 3, run.output
        report = json.loads(run.stdout.replace(str(tmp_path / out), "out"))
        for file in report["files"]:
            assert file.pop("seconds") >= 0 and isinstance(file.pop("stages"), dict)
        reports.append(report)
        assert "broken.ARW" in run.stderr
    assert reports[0] == reports[1]
    one, many = (sorted((tmp_path / out).glob("*.tif")) for out in ("one", "many"))
    assert [path.name for path in one] == [path.name for path in many]
    assert one[0].read_bytes() == many[0].read_bytes()
    again = ("--on-exists", "skip", "--ray", "local", "--workers", "2")
    run = gia("enhance", card, "--out-dir", tmp_path / "many", "--json", *QUICK, *again)
    assert json.loads(run.stdout)["skipped"] == 23 and run.exit_code == 3
