"""A folder on several devices: every photo once, told in order, whatever fails or is slow.

The devices are CPUs, and cards that compute on the CPU.
"""

from __future__ import annotations

import threading
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from gia_cli import runtime
from gia_cli.cli import app
from gia_cli.enhance import several_devices
from gia_cli.enhance.batch import BatchOptions, FileResult, Job, plan_jobs
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.enhance.several_devices import _Left, _Share, run_on_devices
from gia_cli.errors import Interrupted
from gia_cli.inference import engines
from gia_cli.inference.engine import Engine
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.select import open_engine
from gia_cli.raw.writer import write_arw
from gia_cli.runtime import Gpu, Runtime
from gia_cli.weights.storage import WeightsInfo, load_network, save_weights
from tests.inference.failing import Card, fine, sticky
from tests.networks import lively, small
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = 30  # nothing here waits so long unless it hangs


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_weights(path, lively(small("gia-net")))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Six small photos, all different; the fourth is none."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.ARW" for number in range(6)]
    for path in paths:
        write_arw(path, rng.integers(520, 700, (48, 64), np.uint16))
    paths[3].write_bytes(b"no photo")
    return paths


def enhancers(weights: Path, count: int) -> list[Enhancer]:
    return [Enhancer.from_weights(weights, device="cpu", engine="torch") for _ in range(count)]


def planned(photos: list[Path], out: Path) -> tuple[list[Job], BatchOptions]:
    options = BatchOptions(ExposureRequest(ratio=20), out_dir=out)
    return plan_jobs(photos, options), options


def meet(makers: list[Enhancer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each device's first network wait for the other devices'."""
    barrier, met = threading.Barrier(len(makers), timeout=SECONDS), set[int]()
    render = Enhancer.render

    def waiting(self: Enhancer, *rest: Any, **options: Any) -> Any:
        if id(self) not in met:
            met.add(id(self))
            barrier.wait()
        return render(self, *rest, **options)

    monkeypatch.setattr(Enhancer, "render", waiting)


# ---------------------------------------------------------------- what is made


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_photo_is_made_once_and_told_in_order(
    count: int,
    photos: list[Path],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs, options = planned(photos, tmp_path / "out")
    makers, told, progress = enhancers(weights, count), list[FileResult](), ProgressSpy()
    meet(makers, monkeypatch)
    results = run_on_devices(jobs, makers, options, progress=progress, on_result=told.append)
    assert results == told
    assert [result.source for result in results] == photos
    statuses = [result.status for result in results]
    assert statuses == ["written"] * 3 + ["failed"] + ["written"] * 2
    monkeypatch.undo()
    for result in results[:3]:
        alone = Enhancer.from_weights(weights, device="cpu", engine="torch")
        expected = alone.enhance(result.source, ratio=20).image
        assert np.array_equal(tifffile.imread(result.outputs[0]), expected)
    assert sorted(name for name, _, _ in progress.photos) == [path.name for path in photos]
    if count > 1:
        assert progress.stages == [("photos", 6)] and progress.done == [6]
        assert [number for _, number, _ in progress.photos] == [1, 2, 3, 4, 5, 6]


def test_a_slow_first_photo_holds_up_what_is_told_and_not_what_is_made(
    photos: list[Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, options = planned(photos, tmp_path / "out")
    makers, told = enhancers(weights, 2), list[FileResult]()
    render, is_last = Enhancer.render, threading.Event()

    def waiting(self: Enhancer, prepared: Any, **rest: Any) -> Any:
        if prepared.frame.path.name == "0.ARW":
            assert is_last.wait(SECONDS)
            assert told == []
        rendered = render(self, prepared, **rest)
        if prepared.frame.path.name == "5.ARW":
            is_last.set()
        return rendered

    monkeypatch.setattr(Enhancer, "render", waiting)
    run_on_devices(jobs, makers, options, progress=ProgressSpy(), on_result=told.append)
    assert [result.source for result in told] == photos


def test_a_device_takes_a_photo_when_it_goes_on_to_it(photos: list[Path], weights: Path) -> None:
    jobs = [Job(path, ()) for path in photos]
    left = _Left(jobs)
    one, other = (_Share(left, each) for each in enhancers(weights, 2))
    first, ahead = iter(one), iter(one)  # a batch looks at what it has and at what follows
    assert next(ahead) is next(first) is jobs[0]
    assert next(iter(other)) is jobs[1]
    assert next(ahead) is jobs[2]
    assert next(first) is jobs[2]
    assert [one.next_number(), one.next_number()] == [0, 2]
    assert one[1] is jobs[2] and one[0:2] == [jobs[0], jobs[2]]  # a slice takes all
    assert len(one) == 6
    with pytest.raises(IndexError):
        _ = other[1]
    assert list(other) == [jobs[1]]


def test_a_card_that_was_passed_over_gets_no_photo_when_the_other_fails_too(
    photos: list[Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch may look again: what it would take then, nobody would make."""
    failed = set[int]()
    monkeypatch.setattr(Enhancer, "has_left_device", property(lambda self: id(self) in failed))
    jobs = [Job(path, ()) for path in photos]
    left = _Left(jobs)
    one, other = (_Share(left, each) for each in enhancers(weights, 2))
    first, ahead = iter(one), iter(one)
    assert next(first) is next(ahead) is jobs[0]
    failed.add(id(one.enhancer))
    assert next(ahead, None) is None
    failed.add(id(other.enhancer))
    assert next(first, None) is None
    assert list(one) == jobs[:1]
    assert list(other) == jobs[1:]


@pytest.mark.parametrize("limit", [None, 4_000_000_000])
def test_a_card_that_cannot_even_be_asked_for_its_memory_is_left(
    limit: int | None, photos: list[Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an error of CUDA that sticks; with a limit it is asked before the network runs."""

    def lost(device: str, index: int = 0) -> int:
        if device == "cuda":
            raise RuntimeError("CUDA error: unspecified launch failure")
        return 10**12

    def spy(info: WeightsInfo, runtime: Runtime, engine: Any, progress: Any) -> Engine:
        if runtime.device == "cpu":
            return open_engine(info, runtime, "torch", progress)
        return Card(load_network(info), fine)

    monkeypatch.setattr(engines, "open_engine", spy)
    monkeypatch.setattr("gia_cli.inference.plan.free_bytes", lost)
    enhancer = Enhancer(weights, Runtime("cuda", "float16"), InferOptions(max_memory=limit))
    progress = ProgressSpy()
    for photo in photos[:2]:
        (prepared,) = enhancer.prepare(photo, ExposureRequest(ratio=100))
        rendered = enhancer.render(prepared, progress=progress)
        assert rendered.engine.device == "cpu"
    (note,) = [note for note in progress.notes if "launch failure" in note]
    assert note.endswith("continuing on the CPU.")


@pytest.mark.parametrize("broken", [{0}, {0, 1}])
def test_a_card_that_failed_leaves_the_rest_to_the_others(
    broken: set[int],
    photos: list[Path],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spy(info: WeightsInfo, runtime: Runtime, engine: Any, progress: Any) -> Engine:
        if runtime.device == "cpu":
            return open_engine(info, runtime, "torch", progress)
        return Card(load_network(info), sticky if runtime.index in broken else fine)

    monkeypatch.setattr(engines, "open_engine", spy)
    monkeypatch.setattr("gia_cli.inference.plan.free_bytes", lambda *_: 10**12)
    makers = [
        Enhancer(weights, Runtime("cuda", "float16", index), InferOptions()) for index in range(2)
    ]
    meet(makers, monkeypatch)
    made: dict[int, int] = {0: 0, 1: 0}
    render = Enhancer.render

    def counted(self: Enhancer, *rest: Any, **options: Any) -> Any:
        made[makers.index(self)] += 1
        return render(self, *rest, **options)

    monkeypatch.setattr(Enhancer, "render", counted)
    jobs, options = planned(photos, tmp_path / "out")
    progress = ProgressSpy()
    results = run_on_devices(jobs, makers, options, progress=progress)
    assert [result.status for result in results].count("written") == 5
    assert sum(made.values()) == 5
    assert len(progress.notes) == len(broken)
    if broken == {0}:
        assert made[0] <= 2  # the one it failed on, and the one that was read already
    assert [maker.has_left_device for maker in makers] == [index in broken for index in range(2)]


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize("place", ["wait", "_wait_for"])
def test_ctrl_c_ends_every_device_and_what_is_made_is_told(
    place: str, photos: list[Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, options = planned(photos, tmp_path / "out")
    makers, told = enhancers(weights, 2), list[FileResult]()
    pressed, began = threading.Event(), threading.Semaphore(0)
    render = Enhancer.render

    def press(*rest: Any) -> Any:
        if not pressed.is_set():
            for _ in makers:  # both are in the midst of a photo
                assert began.acquire(timeout=SECONDS)
            pressed.set()
            raise KeyboardInterrupt
        return wait(*rest)

    def until_pressed(self: Enhancer, prepared: Any, **rest: Any) -> Any:
        if prepared.frame.path.name != "0.ARW":
            began.release()
            assert pressed.wait(SECONDS)
        return render(self, prepared, **rest)

    monkeypatch.setattr(Enhancer, "render", until_pressed)
    monkeypatch.setattr(several_devices, place, press)
    with pytest.raises(Interrupted, match=r"after \d of 6 photos"):
        run_on_devices(jobs, makers, options, progress=ProgressSpy(), on_result=told.append)
    written = sorted((tmp_path / "out").iterdir())
    assert sorted(path for result in told for path in result.outputs) == written
    assert len(told) < 5
    assert photos[0] in [result.source for result in told]


def test_what_a_listener_raises_ends_every_device(
    photos: list[Path], weights: Path, tmp_path: Path
) -> None:
    jobs, options = planned(photos, tmp_path / "out")

    def refuse(result: FileResult) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_on_devices(
            jobs, enhancers(weights, 2), options, progress=ProgressSpy(), on_result=refuse
        )


def test_pictures_are_kept_for_a_page_one_at_a_time(
    photos: list[Path], weights: Path, tmp_path: Path
) -> None:
    jobs, options = planned(photos, tmp_path / "out")
    inside, most = [0], [0]

    def show(picture: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.01)
        inside[0] -= 1
        return picture.frame.path.name

    options = BatchOptions(options.request, out_dir=options.out_dir, show=show)
    results = run_on_devices(jobs, enhancers(weights, 3), options, progress=ProgressSpy())
    assert most == [1]
    shown: list[list[Any]] = [list(result.shown) for result in results]
    assert shown == [[path.name] if path != photos[3] else [] for path in photos]


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("device", "options", "used"),
    [
        ("cuda", [], {"cuda", "cuda:1"}),
        ("cuda:0,cuda:1", [], {"cuda", "cuda:1"}),
        ("cuda:1", [], {"cuda:1"}),
        ("cuda", ["--max-memory", "8GB"], {"cuda"}),
        ("auto", [], {"cuda", "cuda:1"}),
    ],
)
def test_the_command_takes_the_cards_that_it_is_to(
    device: str,
    options: list[str],
    used: set[str],
    photos: list[Path],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards = [Gpu(f"Card {index}", 8 * 10**9, "8.6", index) for index in range(2)]
    cards.append(Gpu("Old", 10**9, "3.5", 2, has_kernels=False))
    opened: list[str] = []

    def spy(info: WeightsInfo, runtime: Runtime, engine: Any, progress: Any) -> Engine:
        opened.append(runtime.place)
        assert runtime.device == "cuda"
        return Card(load_network(info), fine)

    monkeypatch.setattr(runtime, "gpus", lambda: cards)
    monkeypatch.setattr(engines, "open_engine", spy)
    monkeypatch.setattr("gia_cli.inference.plan.free_bytes", lambda *_: 10**12)
    meet([None] * len(used), monkeypatch)  # type: ignore[list-item]
    chosen = [*map(str, photos[:3]), "--device", device, "--weights", str(weights), *options]
    out = ["--ratio", "20", "--out-dir", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, ["enhance", *chosen, *out])
    assert done.exit_code == 0, done.output
    assert set(opened) == used
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_card_that_is_not_there_is_refused_before_any_work(
    photos: list[Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "gpus", lambda: [Gpu("Card", 10**9, "8.6", 0)])
    done = CliRunner().invoke(
        app, ["enhance", *map(str, photos), "--device", "cuda:0,cuda:1", "-w", str(weights)]
    )
    assert done.exit_code == 50
    assert "There is no cuda:1: torch sees cuda:0 (Card)." in done.stderr
    for wrong in ("cuda:0,cuda:0", "cuda:0,cpu", "cuda:0,", "cuda,cuda:1"):
        assert CliRunner().invoke(app, ["enhance", "x.ARW", "--device", wrong]).exit_code == 2
    done = CliRunner().invoke(app, ["train", "--device", "cuda:0,cuda:1", "--run", "r"])
    assert done.exit_code == 2


def test_a_limit_of_memory_is_for_one_card(photos: list[Path]) -> None:
    asked = ["enhance", str(photos[0]), "--device", "cuda:0,cuda:1", "--max-memory", "8GB"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2
    assert "--max-memory is for one card" in done.stderr
    assert "Name one with --device" in done.stderr
