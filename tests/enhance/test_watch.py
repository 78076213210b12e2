"""A watched folder: what is whole is done once, whatever arrives, breaks or is restarted.

The file system is real, the clock and the network are not: nothing here waits.
"""

from __future__ import annotations

import builtins
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gia_cli.enhance import watch as watching
from gia_cli.enhance.batch import BatchOptions, FileResult, Job
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.enhance.watch import (
    JOURNAL,
    Journal,
    Polling,
    Report,
    Watch,
    only_watch_of,
    signatures,
    waking,
    watch_folder,
)
from gia_cli.enhance.watch_options import WatchOptions
from gia_cli.errors import (
    DamagedFileError,
    FileMissingError,
    GiaError,
    Interrupted,
    NotAFileError,
    OutputError,
    UsageError,
)
from tests.progress_spy import ProgressSpy

WHOLE, HALF = b"whole", b"half"
SKIP = BatchOptions(on_exists="skip")


class Bench:
    """A watched folder, a network that only copies, and a clock that stands still."""

    def __init__(self, folder: Path, batch: BatchOptions = SKIP, **options: Any) -> None:
        self.folder = folder
        self.batch = batch
        self.options = WatchOptions(**options)
        self.now = 100.0
        self.ran: list[str] = []
        self.told: list[FileResult] = []
        self.spy = ProgressSpy()
        self.on_run: Callable[[Job], None] = lambda job: None
        self.watch: Watch

    def start(self) -> Bench:
        self.watch = Watch(
            self.folder,
            self.batch,
            self.options,
            self.run,
            on_result=self.told.append,
            progress=self.spy,
            clock=lambda: self.now,
        )
        return self

    def run(self, jobs: Sequence[Job], options: BatchOptions, report: Report) -> None:
        for job in jobs:
            self.ran.append(job.source.name)
            self.on_run(job)
            report(_copied(job, options))

    def put(self, name: str, data: bytes = WHOLE) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(10**18, 10**18 + int(self.now * 1e6)))  # each time another one
        return path

    def after(self, seconds: float) -> list[str]:
        """Let time pass, in steps of half a second; returns the photos that were run."""
        self.ran.clear()
        for _ in range(round(seconds * 2) + 1):
            self.watch.step()
            self.now += 0.5
        return list(self.ran)

    @property
    def rows(self) -> list[dict[str, Any]]:
        text = self.watch.journal.path.read_text()
        return [json.loads(line) for line in text.splitlines() if line]

    def statuses(self, name: str) -> list[str]:
        source = str(self.folder / name)
        return [row["status"] for row in self.rows if row.get("input") == source]


def _copied(job: Job, options: BatchOptions) -> FileResult:
    """What `run_jobs` would report, of a network that copies."""
    (target,) = job.targets
    result = FileResult(job.source, outputs=[target])
    data = job.source.read_bytes() if job.source.exists() else b""
    if job.error is not None or data == HALF:
        result.outputs = []
        result.status, result.error = "failed", job.error or DamagedFileError("It is cut short.")
    elif target.exists() and options.on_exists == "skip":
        result.status = "skipped"
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return result


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "card"
    folder.mkdir()
    return Bench(folder).start()


def again(bench: Bench, **changes: Any) -> Bench:
    """Start another watch of the same folder."""
    fresh = Bench(bench.folder, changes.pop("batch", bench.batch))
    fresh.options = replace(bench.options, **changes)
    fresh.now = bench.now
    return fresh.start()


# ---------------------------------------------------------------- when a file is whole


def test_what_grows_is_left_alone_until_it_has_settled(bench: Bench) -> None:
    for length in range(1, 6):
        bench.put("a.ARW", WHOLE[:length])
        assert bench.after(1) == []
    assert bench.after(1) == ["a.ARW"]
    assert (bench.folder / "a_gia.tif").read_bytes() == WHOLE
    assert bench.after(60) == []
    assert [result.status for result in bench.told] == ["written"]


def test_a_file_of_one_size_whose_time_changes_is_still_written_to(bench: Bench) -> None:
    """As when a program reserves the space first."""
    for _ in range(5):
        bench.put("a.ARW")
        assert bench.after(1) == []
    assert bench.after(2) == ["a.ARW"]


def test_what_is_renamed_when_it_is_whole_is_seen_then(bench: Bench) -> None:
    temporary = bench.put("a.ARW.part")
    bench.put(".b.ARW")
    assert bench.after(5) == []
    temporary.rename(bench.folder / "a.ARW")
    assert bench.after(3) == ["a.ARW"]


def test_photos_are_done_in_the_order_of_their_arrival(bench: Bench) -> None:
    bench.put("c.ARW")
    bench.put("b.ARW")
    bench.after(0.5)
    bench.put("a.ARW")
    assert bench.after(3) == ["b.ARW", "c.ARW", "a.ARW"]


def test_what_arrives_during_the_work_need_not_wait_again(bench: Bench) -> None:
    bench.put("a.ARW")
    bench.put("b.ARW")

    def slow(job: Job) -> None:
        if job.source.name == "a.ARW":
            bench.put("c.ARW")
        bench.now += 10

    bench.on_run = slow
    bench.after(2)
    assert bench.ran == ["a.ARW", "b.ARW"]
    assert bench.watch.step()  # at once
    assert bench.ran == ["a.ARW", "b.ARW", "c.ARW"]


def test_what_is_gone_before_its_turn_is_forgotten(bench: Bench) -> None:
    path = bench.put("a.ARW")
    bench.after(1)
    path.unlink()
    assert bench.after(5) == []
    bench.put("b.ARW")
    bench.on_run = lambda job: job.source.unlink()
    assert bench.after(5) == ["b.ARW"]
    assert bench.told == [] and not len(bench.watch.arrivals)


def test_what_changes_while_it_is_read_is_done_again(bench: Bench) -> None:
    """The first picture was not this file's: it alone is replaced."""
    bench.put("a.ARW", b"old")
    bench.put("b.ARW")
    (bench.folder / "b_gia.tif").write_bytes(b"mine")
    changes = iter([b"half of the new one", b"new"])

    def change(job: Job) -> None:
        if job.source.name == "a.ARW":
            for data in changes:
                job.source.write_bytes(data)
                break

    bench.on_run = change
    bench.after(8)
    assert bench.ran == ["a.ARW", "b.ARW", "a.ARW", "a.ARW"]
    assert bench.statuses("a.ARW") == ["written"]
    assert (bench.folder / "a_gia.tif").read_bytes() == b"new"
    assert bench.statuses("b.ARW") == ["skipped"]
    assert (bench.folder / "b_gia.tif").read_bytes() == b"mine"


# ---------------------------------------------------------------- what cannot be read


def test_a_slow_file_is_not_called_broken(bench: Bench) -> None:
    """It paused for longer than a file takes to settle."""
    bench.put("a.ARW", HALF)
    assert bench.after(10) == ["a.ARW"]
    assert bench.told == []
    assert bench.spy.notes == ["a.ARW cannot be read yet: gia waits for the rest of it."]
    bench.put("a.ARW", WHOLE)
    assert bench.after(3) == ["a.ARW"]
    assert [result.status for result in bench.told] == ["written"]


def test_a_broken_file_is_reported_once_and_tried_again_when_it_changes(bench: Bench) -> None:
    bench.put("a.ARW", HALF)
    assert bench.after(120) == ["a.ARW"] * 2  # as soon as it settles, and when patience ends
    assert bench.statuses("a.ARW") == ["failed"]
    (result,) = bench.told
    assert isinstance(result.error, DamagedFileError)
    fresh = again(bench)
    assert fresh.after(60) == []
    fresh.put("a.ARW", WHOLE)
    assert fresh.after(3) == ["a.ARW"]
    assert fresh.statuses("a.ARW") == ["failed", "written"]


def test_what_is_no_fault_of_the_photo_is_tried_again_after_a_restart(bench: Bench) -> None:
    def full(jobs: Sequence[Job], options: BatchOptions, report: Report) -> None:
        for job in jobs:
            report(FileResult(job.source, "failed", error=OutputError("No space.")))

    bench.put("a.ARW")
    bench.watch._run = full
    bench.after(60)
    assert bench.statuses("a.ARW") == ["failed"]
    assert bench.watch.tally.failed == 1
    assert again(bench).after(3) == ["a.ARW"]


def test_two_photos_of_one_name_do_not_overwrite_each_other(bench: Bench) -> None:
    bench.put("a.ARW")
    bench.after(3)
    bench.put("a.DNG", b"other")
    bench.after(3)
    assert (bench.folder / "a_gia.tif").read_bytes() == WHOLE
    assert bench.statuses("a.DNG") == ["failed"]


# ---------------------------------------------------------------- restarts


def test_what_is_done_is_not_done_again_even_if_its_picture_was_moved(bench: Bench) -> None:
    bench.put("a.ARW")
    bench.after(3)
    (bench.folder / "a_gia.tif").unlink()
    fresh = again(bench)
    fresh.put("b.ARW")
    assert fresh.after(5) == ["b.ARW"]


def test_a_photo_that_changes_after_it_was_done_never_replaces_its_picture(bench: Bench) -> None:
    bench.put("a.ARW")
    bench.after(3)
    bench.put("a.ARW", b"new")
    assert bench.after(3) == ["a.ARW"]
    assert bench.statuses("a.ARW") == ["written", "skipped"]
    assert (bench.folder / "a_gia.tif").read_bytes() == WHOLE


def test_another_kind_of_picture_is_another_thing_to_do(bench: Bench) -> None:
    bench.put("a.ARW")
    bench.after(3)
    assert again(bench, batch=replace(SKIP, format="png")).after(3) == ["a.ARW"]
    assert (bench.folder / "a_gia.png").is_file()
    assert again(bench, batch=replace(SKIP, format="png")).after(3) == []


@pytest.mark.slow
def test_any_beginning_of_a_journal_is_one_to_restart_from(bench: Bench) -> None:
    """A crash may cut it anywhere: what it says is believed, the rest is done."""
    names = ["a.ARW", "b.ARW", "c.ARW"]
    for name in names:
        bench.put(name)
    bench.after(3)
    path = bench.watch.journal.path
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    ends = {
        json.loads(line)["input"]: len(b"\n".join(lines[: number + 1]))
        for number, line in enumerate(lines)
        if b'"input"' in line
    }
    assert len(ends) == 3
    edges = {edge + step for edge in (0, *ends.values()) for step in (-1, 0, 1)}
    for length in sorted({*edges, *range(0, len(whole), 97)} & {*range(len(whole) + 1)}):
        path.write_bytes(whole[:length])
        missing = [Path(source).name for source, end in ends.items() if end > length]
        fresh = again(bench)
        assert fresh.after(3) == missing, length
        assert again(bench).after(3) == [], length
        for name in missing:
            assert Path(fresh.folder / name).name in {Path(r["input"]).name for r in _rows(path)}


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "input" in row:
            rows.append(row)
    return rows


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        "{}",
        '{"input": 3, "size": 5, "mtime_ns": 1, "status": "written"}',
        '{"input": "%s", "size": 5, "mtime_ns": %d, "status": "done"}',
        '{"input": "%s", "size": "5", "mtime_ns": %d, "status": "written"}',
        '{"input": "%s", "size": 5, "mtime_ns": %d, "status": "written", "targets": "x"}',
        "[" * 100_000,
    ],
)
def test_what_is_no_line_of_ours_says_nothing(bench: Bench, line: str) -> None:
    path = bench.put("a.ARW")
    changed = path.stat().st_mtime_ns
    filled = line % (path, changed) if "%s" in line else line
    bench.watch.journal.path.write_text(f"{filled}\n\x00\xff\n", encoding="latin-1")
    assert again(bench).after(3) == ["a.ARW"]


def test_the_journal_says_what_was_done(bench: Bench, tmp_path: Path) -> None:
    bench.put("a.ARW")
    bench.after(3)
    started, row = bench.rows
    assert (started["status"], started["folder"]) == ("started", str(bench.folder))
    assert row["input"] == str(bench.folder / "a.ARW")
    assert row["outputs"] == [str(bench.folder / "a_gia.tif")]
    assert (row["size"], row["status"], row["error"]) == (5, "written", None)
    assert {"time", "mtime_ns", "ratios", "weights", "seconds", "targets"} <= row.keys()


def test_a_journal_lies_with_the_pictures(bench: Bench, tmp_path: Path) -> None:
    batch = replace(SKIP, out_dir=tmp_path / "out", recursive=True)
    (tmp_path / "out").mkdir()
    fresh = again(bench, batch=batch)
    fresh.put("one/a.ARW")
    assert fresh.after(3) == ["a.ARW"]
    assert (tmp_path / "out" / "one" / "a_gia.tif").is_file()
    assert (tmp_path / "out" / JOURNAL).is_file()
    moved = again(bench, batch=batch, journal=tmp_path / "other.jsonl")
    assert moved.after(3) == ["a.ARW"]  # it knows of nothing, and finds the picture
    assert moved.told[0].status == "skipped"


# ---------------------------------------------------------------- which photos


@pytest.mark.skipif(os.name != "posix", reason="links, and names with two cases")
def test_two_names_of_one_photo_that_differ_in_case_are_one(bench: Bench) -> None:
    os.link(bench.put("a.ARW"), bench.folder / "A.arw")
    assert len(bench.after(10)) == 1
    assert not len(bench.watch.arrivals)


def test_new_only_passes_over_what_was_there_first_not_what_came_between(bench: Bench) -> None:
    folder = bench.folder
    (folder / JOURNAL).unlink()
    old = Bench(folder, new_only=True)
    old.put("a.ARW")
    old.start()
    old.put("b.ARW")
    assert old.after(3) == ["b.ARW"]
    old.put("c.ARW")  # arrives as nobody watches
    assert again(old).after(3) == ["c.ARW"]
    changed = again(old)
    changed.put("a.ARW", b"sent again")
    assert changed.after(3) == ["a.ARW"]
    assert again(old, new_only=False).after(3) == []


def test_without_new_only_what_was_passed_over_is_done(bench: Bench) -> None:
    (bench.folder / JOURNAL).unlink()
    bench.put("a.ARW")
    assert again(bench, new_only=True).after(3) == []
    assert again(bench).after(3) == ["a.ARW"]


def test_own_pictures_in_the_watched_folder_are_no_photos(bench: Bench) -> None:
    out = replace(SKIP, out_dir=bench.folder / "out", recursive=True, format="dng")
    (bench.folder / "out").mkdir()
    fresh = again(bench, batch=out)
    fresh.put("a.ARW")
    assert fresh.after(30) == ["a.ARW"]
    brackets = replace(out, request=ExposureRequest(brackets=(50.0,)))
    assert again(bench, batch=brackets).after(30) == ["a.ARW"]
    assert sorted(path.name for path in (bench.folder / "out").glob("*.dng")) == [
        "a_gia.dng",
        "a_gia_x50.dng",
    ]


# ---------------------------------------------------------------- the loop


class _Waker:
    """Lets a bench's time pass; every pause, something happens."""

    def __init__(self, bench: Bench, happenings: Sequence[Callable[[], object]] = ()) -> None:
        self.bench = bench
        self.happenings = list(happenings)
        self.waited: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.bench.now += seconds

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.bench.now += seconds
        if self.happenings:
            self.happenings.pop(0)()


def _loop(bench: Bench, waker: _Waker) -> None:
    watching._loop(bench.watch, waker, bench.spy)


def test_once_ends_when_all_that_is_there_is_done(bench: Bench) -> None:
    _loop(again(bench, once=True), _Waker(bench))
    bench.put("a.ARW")
    bench.put("b.ARW", HALF)
    fresh = again(bench, once=True)
    _loop(fresh, _Waker(fresh))
    assert fresh.ran == ["a.ARW", "b.ARW", "b.ARW"]
    assert str(fresh.watch.tally) == "1 written, 1 failed"


def test_it_ends_when_nothing_has_come_for_long(bench: Bench) -> None:
    fresh = again(bench, stop_after_idle_s=100.0)
    waker = _Waker(fresh, [lambda: None, lambda: fresh.put("a.ARW")])
    begin = fresh.now
    _loop(fresh, waker)
    assert fresh.ran == ["a.ARW"]
    assert waker.waited[:2] == [30.0, 30.0]
    assert fresh.now - begin == pytest.approx(62 + 100, abs=0.2)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("Interrupted after 1.")])
def test_a_request_to_stop_says_how_many_are_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    (bench.folder / JOURNAL).unlink()
    for name in ("a.ARW", "b.ARW", "c.ARW"):
        bench.put(name)

    def run(jobs: Sequence[Job], options: BatchOptions, report: Report) -> None:
        report(_copied(jobs[0], options))
        raise stop

    monkeypatch.setattr("gia_cli.enhance.watch.time.sleep", lambda _: None)
    options = WatchOptions(settle_s=1e-6, poll_s=1.0)
    with pytest.raises(Interrupted, match=r"^Stopped: 1 written\. The next start"):
        watch_folder(
            bench.folder, SKIP, options, run, on_result=bench.told.append, progress=ProgressSpy()
        )
    assert [row["status"] for row in bench.rows] == ["started", "written", "stopped"]
    assert again(bench).after(3) == ["b.ARW", "c.ARW"]


def test_a_folder_that_goes_ends_the_watch(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fresh = again(bench, batch=replace(SKIP, out_dir=out))
    fresh.put("a.ARW")
    bench.folder.rename(tmp_path / "gone")
    with pytest.raises(FileMissingError, match="is not there"):
        fresh.after(3)


def test_a_journal_that_cannot_be_written_ends_the_watch(bench: Bench, tmp_path: Path) -> None:
    bench.put("a.ARW")
    bench.watch.journal.path = tmp_path / "gone" / JOURNAL
    with pytest.raises(OutputError, match="Cannot write"):
        bench.after(3)
    for journal in (tmp_path, tmp_path / "gone" / JOURNAL):
        with pytest.raises(OutputError) as caught:
            again(bench, journal=journal)
        assert caught.value.exit_code == 60 and str(journal) in str(caught.value)


def _run_nothing(jobs: Sequence[Job], options: BatchOptions, report: Report) -> None:
    pass


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.ARW"
    file.write_bytes(WHOLE)
    for path, error in {file: NotAFileError, tmp_path / "gone": FileMissingError}.items():
        with pytest.raises(error):
            watch_folder(
                path,
                SKIP,
                WatchOptions(once=True),
                _run_nothing,
                on_result=lambda _: None,
                progress=ProgressSpy(),
            )
    assert list(tmp_path.iterdir()) == [file]


def test_options_that_contradict_each_other_are_refused_at_the_start(bench: Bench) -> None:
    both = BatchOptions(output=Path("x.tif"), out_dir=Path("out"))
    with pytest.raises(UsageError, match="not both"):
        again(bench, batch=both)


@pytest.mark.parametrize("name", ["settle_s", "patience_s", "poll_s", "stop_after_idle_s"])
def test_times_are_positive(name: str) -> None:
    for value in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="must be positive"):
            replace(WatchOptions(), **{name: value})  # type: ignore[arg-type]


def test_a_second_watch_is_refused_unless_it_writes_elsewhere(tmp_path: Path) -> None:
    options = WatchOptions()
    elsewhere = replace(SKIP, out_dir=tmp_path / "new" / "out")
    with (
        only_watch_of(tmp_path, SKIP, options),
        only_watch_of(tmp_path, elsewhere, options),
        pytest.raises(UsageError, match="Another gia watch is at work"),
        only_watch_of(tmp_path, SKIP, options),
    ):
        pass
    with only_watch_of(tmp_path, SKIP, options):
        pass
    lost = replace(options, journal=tmp_path / "gone" / JOURNAL)
    with pytest.raises(OutputError), only_watch_of(tmp_path, SKIP, lost):
        pass


def test_an_error_of_the_work_is_not_the_journals(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_watch_of(tmp_path, SKIP, WatchOptions()):
        raise ZeroDivisionError


# ---------------------------------------------------------------- events


def test_an_event_ends_the_waiting(tmp_path: Path) -> None:
    pytest.importorskip("watchdog")
    spy = ProgressSpy()
    with waking(tmp_path, False, WatchOptions(), spy) as waker:
        timer = threading.Timer(0.05, (tmp_path / "a.ARW").write_bytes, [WHOLE])
        timer.start()
        waker.wait(60.0)  # a test that hangs here has no events
        assert (tmp_path / "a.ARW").exists()
        timer.join()
        waker.sleep(0.01)
    assert spy.notes == []


def test_to_read_a_photo_is_no_event() -> None:
    events = watching._Events()
    for kind, is_one in {"opened": False, "closed_no_write": False, "moved": True}.items():
        events.dispatch(type("Event", (), {"event_type": kind}))
        assert events._changed.is_set() == is_one
        events._changed.clear()


def test_a_system_that_reports_nothing_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observers = pytest.importorskip("watchdog.observers")

    class Full:
        def schedule(self, *_: object, **__: object) -> None:
            raise OSError(28, "inotify watch limit reached")

        def stop(self) -> None:
            raise RuntimeError("not started")

    monkeypatch.setattr(observers, "Observer", Full)
    spy = ProgressSpy()
    with waking(tmp_path, True, WatchOptions(), spy) as waker:
        assert isinstance(waker, Polling)
    assert "limit reached" in spy.notes[0]


def test_without_watchdog_the_extra_is_named_and_polling_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("watchdog"):
            raise ImportError(name)
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with (
        pytest.raises(UsageError, match="extra 'watch'"),
        waking(tmp_path, False, WatchOptions(), ProgressSpy()),
    ):
        pass
    slept: list[float] = []
    monkeypatch.setattr("gia_cli.enhance.watch.time.sleep", slept.append)
    with waking(tmp_path, False, WatchOptions(poll_s=5.0), ProgressSpy()) as waker:
        waker.wait(30.0)
        waker.wait(0.5)
        waker.sleep(1.0)
    assert slept == [5.0, 0.5, 1.0]


def test_a_folder_that_may_not_be_read_is_no_end_if_it_is_a_subfolder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.ARW").write_bytes(WHOLE)
    (tmp_path / "sub").mkdir()
    plain = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused = "sub"
    assert [path.name for path in signatures(tmp_path, recursive=True)] == ["a.ARW"]
    refused = tmp_path.name
    with pytest.raises(GiaError, match="cannot be read"):
        signatures(tmp_path)


def test_a_name_that_is_no_text_stands_in_the_journal(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.ARW")
    job = Job(tmp_path / name, (tmp_path / f"{name}.tif",))
    Journal(tmp_path / JOURNAL, tmp_path).add(FileResult(job.source), (5, 1), job)
    (source,) = Journal(tmp_path / JOURNAL, tmp_path).entries
    assert source == str(job.source)
