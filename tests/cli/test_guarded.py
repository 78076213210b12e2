"""A batch in a child process that may die: what it leaves undone, another one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from imageio.v3 import imwrite

from gia_cli.cli import guarded
from gia_cli.cli.guarded import Report, is_needed, run_guarded
from gia_cli.enhance.batch import FileResult, Job
from gia_cli.errors import GiaError, Interrupted, OutOfMemoryError, OutputError, UsageError
from gia_cli.training.checkpoint import read_checkpoint
from gia_cli.training.log import read_log
from tests.networks import DEFAULT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux")

MakePhoto = Callable[..., Path]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(guarded.__file__).parents[2])}
JOBS = [Job(Path(f"{name}.ARW"), ()) for name in "abcd"]


def run(work: Callable[[Sequence[Job], Report], object]) -> tuple[list[FileResult], list[str]]:
    """Run `work` on all jobs; returns the results and the names of those that killed."""
    results: list[FileResult] = []
    deaths: list[str] = []
    run_guarded(JOBS, work, results.append, lambda result: deaths.append(result.source.stem))
    return results, deaths


def limited(megabytes: int, *command: str) -> list[str]:
    """Call gia where no more memory may be addressed."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes << 20},) * 2);"
        "from gia_cli.__main__ import main; main()"
    )
    return [sys.executable, "-c", code, *command]


def write_photographs(folder: Path) -> None:
    """Write a few that a training can do with."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(3):
        coarse = rng.integers(20, 235, (6, 6, 3)).astype(np.uint8)
        imwrite(folder / f"{number}.png", coarse.repeat(32, 0).repeat(32, 1))


def test_results_and_errors_come_from_one_child(tmp_path: Path) -> None:
    def work(jobs: Sequence[Job], report: Report) -> None:
        for job in jobs:
            with (tmp_path / "pids").open("a") as file:
                file.write(f"{os.getpid()}\n")
            error = OutputError("full", hint="buy a disk") if job.source.stem == "b" else None
            report(FileResult(job.source, "failed" if error else "written", error=error))

    results, deaths = run(work)
    assert [result.source.stem for result in results] == list("abcd")
    assert [result.status for result in results] == ["written", "failed", "written", "written"]
    assert isinstance(results[1].error, OutputError) and str(results[1].error) == "full buy a disk"
    (child,) = set((tmp_path / "pids").read_text().split())
    assert deaths == [] and int(child) != os.getpid()


DEATHS: list[Callable[[], object]] = [
    os.abort,
    lambda: os.kill(os.getpid(), signal.SIGSEGV),
    lambda: os._exit(1),  # OpenMP's way
]


@pytest.mark.parametrize("die", DEATHS)
def test_what_a_child_dies_of_has_failed_and_the_rest_goes_on(
    die: Callable[[], object], capfd: pytest.CaptureFixture[str]
) -> None:
    def work(jobs: Sequence[Job], report: Report) -> None:
        for job in jobs:
            if job.source.stem in "bd":
                os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
                die()
            report(FileResult(job.source))

    results, deaths = run(work)
    assert [result.source.stem for result in results] == list("abcd")
    assert [result.status for result in results] == ["written", "failed", "written", "failed"]
    assert deaths == ["b", "d"]
    for result in results[1::2]:
        assert isinstance(result.error, OutOfMemoryError) and result.error.exit_code == 51
        assert "ulimit -v" in result.error.hint
    assert capfd.readouterr() == ("", "")


def test_a_photo_that_was_still_being_written_is_not_blamed() -> None:
    """a's result comes only when b is begun, of which the child dies."""

    def work(jobs: Sequence[Job], report: Report) -> None:
        for job, after in zip(jobs, [*jobs[1:], None], strict=True):
            if "b" in (job.source.stem, after and after.source.stem):
                os.abort()
            report(FileResult(job.source))

    results, deaths = run(work)
    assert [(result.source.stem, result.status) for result in results] == [
        ("a", "written"),
        ("b", "failed"),
        ("c", "written"),
        ("d", "written"),
    ]
    assert deaths == ["b"]


def test_results_may_come_in_any_order() -> None:
    """c's and a's come, then the child dies of b; d's comes, and its child dies behind it."""

    def work(jobs: Sequence[Job], report: Report) -> None:
        for job in sorted(jobs, key=lambda job: "cabd".index(job.source.stem)):
            if job.source.stem == "b":
                os.abort()
            report(FileResult(job.source))
            if job.source.stem == "d":
                os.abort()

    results, deaths = run(work)
    assert [(result.source.stem, result.status) for result in results] == [
        ("c", "written"),
        ("a", "written"),
        ("b", "failed"),
        ("d", "written"),
    ]
    assert deaths == ["b"]


def test_a_piece_of_work_runs_in_a_child_and_fails_as_a_whole(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    guarded.run_whole(lambda: note.write_text(str(os.getpid())))
    assert int(note.read_text()) != os.getpid()

    def refuse() -> None:
        raise UsageError("no", hint="yes")

    with pytest.raises(UsageError, match="no yes"):
        guarded.run_whole(refuse)
    for die in DEATHS:
        with pytest.raises(OutOfMemoryError, match=r"too little.*\(ulimit -v\)"):
            guarded.run_whole(die)


def test_what_a_child_says_when_it_is_asked_to_end_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGTERM comes to the parent alone, and is passed on."""

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.kill(os.getppid(), signal.SIGTERM)
        assert signal.sigtimedwait([signal.SIGTERM], 60) is not None
        raise Interrupted("Stopped at step 3.", hint="Run the same command to resume.")

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises((Interrupted, KeyboardInterrupt)) as caught:
            guarded.run_whole(work)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert str(caught.value) == "Stopped at step 3. Run the same command to resume."


@pytest.mark.parametrize(("limit", "in_child"), [(None, False), (10**10, True)])
def test_a_command_takes_a_child_only_where_addresses_are_limited(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int | None, in_child: bool
) -> None:
    @guarded.whole
    def command(*, device: str, note: Path) -> None:
        note.write_text(str(os.getpid()))

    monkeypatch.setattr(guarded, "address_space_left", lambda: limit)
    command(device="cpu", note=tmp_path / "pid")
    assert (int((tmp_path / "pid").read_text()) != os.getpid()) == in_child


@pytest.mark.parametrize(
    "error", [UsageError("no", hint="yes"), Interrupted("Interrupted after 1 of 4 photos.")]
)
def test_what_ends_a_batch_ends_it_here(error: GiaError) -> None:
    results: list[FileResult] = []

    def work(jobs: Sequence[Job], report: Report) -> None:
        report(FileResult(jobs[0].source))
        raise error

    with pytest.raises(type(error)) as caught:
        run_guarded(JOBS, work, results.append, results.append)
    assert str(caught.value) == str(error)
    assert [result.source.stem for result in results] == ["a"]


def test_a_bug_stays_a_bug() -> None:
    def work(jobs: Sequence[Job], report: Report) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(work)


def test_no_memory_for_a_thread_is_a_death() -> None:
    def work(jobs: Sequence[Job], report: Report) -> None:
        raise RuntimeError("can't start new thread")

    results, deaths = run(work)
    assert [result.status for result in results] == ["failed"] * 4
    assert deaths == list("abcd")


def test_without_a_limit_no_child_is_needed() -> None:
    import resource

    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        assert not is_needed(["cpu"])
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30));"
        "from gia_cli.cli.guarded import is_needed; raise SystemExit(not is_needed(['cpu']))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_cards_are_never_used_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has asked CUDA for them: "Cannot re-initialize CUDA in forked subprocess"."""
    monkeypatch.setattr(guarded, "address_space_left", lambda: 10**10)
    assert is_needed(["cpu"])
    assert not is_needed(["cuda", "cuda"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "command"),
    [
        (200, ["bench", "--network", "sid-net"]),
        (200, ["eval", "--data", "tree", "--weights", DEFAULT, "--out", "out", "--device", "cpu"]),
        (500, ["train", "--photos", "photos", "--cache", ".", "--steps", "1", "--device", "cpu"]),
    ],
)
def test_other_commands_end_in_one_line_too(
    make_tree: MakePhoto, tmp_path: Path, limit: int, command: list[str]
) -> None:
    (tmp_path / "tree").symlink_to(make_tree(pictures=1, size=(128, 96), ratios=(100.0,)))
    write_photographs(tmp_path / "photos")
    ran = subprocess.run(
        limited(limit, *command),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    assert ran.returncode == 51, ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    assert ran.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "engine"), [(200, "auto"), (300, "auto"), (500, "torch")])
def test_too_few_addresses_end_in_one_line(
    make_arw: MakePhoto, tmp_path: Path, limit: int, engine: str
) -> None:
    options = ["--engine", engine, "--device", "cpu", "-q", "--out-dir", str(tmp_path / "out")]
    command = limited(limit, "enhance", str(make_arw()), *options)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 51, ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    assert ran.stdout == ""


@pytest.mark.slow
def test_a_training_that_is_asked_to_end_saves_its_checkpoint(tmp_path: Path) -> None:
    """SIGTERM comes to the process that was started; its child, which trains, ends in order."""
    run = tmp_path / "run"
    write_photographs(tmp_path / "photos")
    options = ["--photos", str(tmp_path / "photos"), "--cache", str(tmp_path), "--run", str(run)]
    options += ["--width", "4", "--sides", "16-32", "--crops-per-photo", "2", "--workers", "0"]
    started = subprocess.Popen(
        limited(64 << 10, "train", *options, "--steps", "100000", "--device", "cpu", "--quiet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    with started:
        last = time.monotonic() + 300
        while not read_log(run):
            assert started.poll() is None and time.monotonic() < last
            time.sleep(0.1)
        started.terminate()
        said = started.communicate(timeout=120)
    step = read_checkpoint(run)["step"]
    assert started.returncode == 143
    assert said == ("", f"error: Stopped at step {step}. Run the same command to resume.\n")
