"""A batch on a Ray cluster: one driver a folder, nothing left behind, and a real cluster of two."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gia_cli.enhance import cluster
from gia_cli.enhance.batch import BatchOptions, FileResult, plan_jobs
from gia_cli.enhance.cluster import only_driver_of, output_roots, run_on_ray
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.enhance.ray_pool import RayOptions, connected
from gia_cli.enhance.shard import Shard
from gia_cli.errors import OutputError, UsageError, WorkerError
from gia_cli.files import atomic_file, mark_unfinished, sweep
from tests.cli.test_cli import gia
from tests.progress_spy import ProgressSpy

MakePhoto = Callable[..., Path]
TWO = RayOptions("local", workers=2)
QUICK = ("--device", "cpu", "--weights", "gia-sony-lite-v1", "--ratio", "100")


# ---------------------------------------------------------------- one driver a folder


def test_a_second_driver_is_kept_out_unless_it_has_another_share(tmp_path: Path) -> None:
    out = BatchOptions(out_dir=tmp_path / "new" / "out")
    roots = {tmp_path / "new" / "out"}
    with only_driver_of(roots, out, None):
        with (
            pytest.raises(UsageError, match="Another gia --ray is writing into") as caught,
            only_driver_of(roots, out, None),
        ):
            raise AssertionError
        assert caught.value.exit_code == 2
        with only_driver_of(roots, out, Shard(1, 2)), only_driver_of(roots, out, Shard(2, 2)):
            pass
    with only_driver_of(roots, out, None):
        pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="gone cannot be written to"),
        only_driver_of({tmp_path / "gone"}, BatchOptions(), None),
    ):
        raise AssertionError


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


def test_temporary_files_are_swept_by_mark_or_age(tmp_path: Path) -> None:
    names = (".abcdef012345.gia.tmp", ".fedcba012345.gia.tmp", ".abcdef.gia.tmp", "a.tif")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / names[1], (0, 0))
    assert sweep(tmp_path, mark="abcdef") == 1
    assert sweep(tmp_path, older_than_s=1000) == 1
    assert sweep(tmp_path, older_than_s=1000) == sweep(tmp_path / "gone") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


def test_a_marked_process_names_its_temporary_files_so(tmp_path: Path) -> None:
    seen: list[str] = []
    try:
        mark_unfinished("abcdef")
        with atomic_file(tmp_path / "a.tif"):
            seen += [path.name for path in tmp_path.iterdir()]
    finally:
        mark_unfinished("")
    assert re.fullmatch(r"\.abcdef[0-9a-f]{6}\.gia\.tmp", seen[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


# ---------------------------------------------------------------- a real cluster


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A cluster of this machine's own, which the tests share."""
    pytest.importorskip("ray")
    with connected(TWO) as ray, pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def same(options: RayOptions) -> Iterator[Any]:
            yield ray

        patch.setattr(cluster, "connected", same)
        yield


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
    monkeypatch.setattr("gia_cli.enhance.pool.LOSSES", 2)
    (card / "deadly.ARW").hardlink_to(card / "00.ARW")
    options = BatchOptions(request=ExposureRequest(ratio=100))
    jobs, spy, told = plan_jobs([card], options), ProgressSpy(), list[FileResult]()

    def listen(result: FileResult) -> None:
        told.append(result)
        if len(told) == 3:  # and one that dies for no photo's sake
            process = re.search(r"process (\d+)", next(d for d in spy.details if "worker" in d))
            assert process is not None
            os.kill(int(process[1]), signal.SIGKILL)

    make = partial(Deadly.from_weights, "gia-sony-lite-v1", device="cpu")
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
