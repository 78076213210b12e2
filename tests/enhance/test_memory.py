"""``--max-memory``: the limit that is named is held, and no photo's plan depends on another's."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli import ExposureRequest, RawFrame
from gia_cli.enhance import enhancer as enhancer_module
from gia_cli.enhance import stages as stages_module
from gia_cli.enhance.batch import BatchOptions, plan_jobs, run_jobs
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import OutOfMemoryError
from gia_cli.inference import engines as engines_module
from gia_cli.inference import plan as plan_module
from gia_cli.inference.engine import Engine
from gia_cli.inference.fallback import Running
from gia_cli.inference.plan import InferOptions, plan
from gia_cli.inference.select import open_engine
from gia_cli.progress import SILENT
from gia_cli.raw.packing import PackedMosaic
from gia_cli.raw.writer import write_arw
from gia_cli.runtime import Quality
from gia_cli.weights.manifest import find_weights

MakePhoto = Callable[..., Path]

# ---------------------------------------------------------------- the limit is held


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of one megapixel."""
    path = tmp_path_factory.mktemp("photo") / "night.ARW"
    rng = np.random.default_rng(1)
    write_arw(path, np.clip(rng.normal(530, 6, (800, 1250)), 0, 16383).astype(np.uint16))
    return path


def enhance(photo: Path, limit: str, *options: str) -> tuple[int, str, int]:
    """Run ``gia enhance``; returns its exit code, what it said, and the most memory it held."""
    command = [sys.executable, "-m", "gia_cli", "enhance", str(photo), "--max-memory", limit, "-v"]
    command += ["-o", str(photo.with_suffix(".tif")), "--on-exists", "overwrite", *options]
    # The parent of what is measured is small: a child's maximum begins with its parent's.
    code = (
        "import os, subprocess, sys;"
        "ran = subprocess.Popen(sys.argv[1:]);"
        "_, status, usage = os.wait4(ran.pid, 0);"
        "print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024)"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code, *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    status, peak = ran.stdout.split()[-2:]
    return int(status), ran.stderr, int(peak)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures what a process held at most")
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_the_least_limit_is_named_and_held_and_so_is_a_larger_one(night: Path, engine: str) -> None:
    weights = find_weights("gia-sony-lite").name
    options = ("-w", weights, "--engine", engine, "--device", "cpu", "--ratio", "50")
    code, said, _ = enhance(night, "100MB", *options)
    assert code == 51
    (line,) = [line for line in said.splitlines() if "error" in line]
    named = re.search(r"Raise --max-memory to (\d+)MB", line)
    assert named is not None
    least = int(named[1])
    code, said, _ = enhance(night, f"{least - 30}MB", *options)
    assert code == 51
    for limit in (least + 5, least + 60):
        code, said, peak = enhance(night, f"{limit}MB", *options)
        assert code == 0, said
        assert peak < 1.1 * limit * 1e6, said


# ---------------------------------------------------------------- whatever came before


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Plans instead of pictures, in a process that keeps more with every photo."""
    plans: list[tuple[str, str]] = []
    held = [300_000_000]

    def fake(
        running: Running,
        mosaic: PackedMosaic,
        options: InferOptions,
        progress: object,
        terms: object = None,
    ) -> NDArray[np.float32]:
        name = f"{mosaic.height}x{mosaic.width}"
        try:
            plans.append((name, str(plan(running.engine, mosaic, options))))
        except OutOfMemoryError as error:
            if "other photos" not in error.message:
                plans.append((name, str(error)))
            raise
        finally:
            held[0] += 1_500_000
        return np.zeros((3, mosaic.height, mosaic.width), np.float32)

    for module in (plan_module, enhancer_module):
        monkeypatch.setattr(module, "resident_bytes", lambda: held[0])
    opened: list[Engine] = []

    def open_once(*arguments: Any) -> Engine:
        held[0] = 300_000_000  # as if in a process of its own
        if not opened:
            opened.append(open_engine(*arguments))
        return opened[0]

    # What the process is said to hold has no photos in it, nor OpenVINO's own.
    monkeypatch.setattr("gia_cli.inference.openvino_engine._HAS_RUN", Event())
    monkeypatch.setattr(stages_module.Prepared, "held_bytes", 0)
    monkeypatch.setattr(enhancer_module, "infer", fake)
    monkeypatch.setattr(enhancer_module, "black_correction", lambda *_: 0.0)
    monkeypatch.setattr(enhancer_module, "plan", lambda *_: None)  # `fake` does
    monkeypatch.setattr(engines_module, "open_engine", open_once)
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 10**12)
    return plans


def plans_of(photos: list[Path], out: Path, limit: int, plans: list[tuple[str, str]]) -> set[Any]:
    plans.clear()
    options = BatchOptions(ExposureRequest(ratio=50), out_dir=out, on_exists="overwrite")
    enhancer = Enhancer.from_weights(device="cpu", max_memory=limit)
    run_jobs(plan_jobs(photos, options), enhancer, options, progress=SILENT)
    return {plan for plan in plans if "not enough" not in plan[1]} | {
        (name, "refused") for name, words in plans if "not enough" in words
    }


@pytest.mark.slow
def test_a_plan_does_not_depend_on_the_photos_before(
    tmp_path: Path, planned: list[tuple[str, str]]
) -> None:
    rng = np.random.default_rng(1)
    photos = []
    for name, shape in (("a", (400, 600)), ("b", (640, 800)), ("c", (320, 480))):
        photos.append(tmp_path / f"{name}.ARW")
        write_arw(photos[-1], rng.integers(520, 540, shape, np.uint16))
    decided: set[str] = set()
    for limit in range(400_000_000, 560_000_000, 40_000_000):
        both = [plans_of(order, tmp_path, limit, planned) for order in (photos, photos[::-1])]
        alone = set().union(*(plans_of([p], tmp_path, limit, planned) for p in photos))
        assert both[0] == both[1] == alone
        assert len(alone) == 3
        decided |= {words for _, words in alone}
    assert {"refused", "the whole photo at once"} <= decided


def test_what_the_callers_program_takes_counts(
    make_arw: MakePhoto, planned: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    enhancer = Enhancer.from_weights(device="cpu", max_memory="700MB")
    photo = make_arw()
    enhancer.enhance(photo, ratio=50)
    enhancer.enhance(photo, ratio=50)
    for module in (plan_module, enhancer_module):
        monkeypatch.setattr(module, "resident_bytes", lambda: 680_000_000)
    with pytest.raises(OutOfMemoryError, match="not enough"):
        enhancer.enhance(photo, ratio=50)


def test_the_fusion_and_a_second_picture_are_counted(
    make_arw: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[InferOptions] = []

    def fake(*arguments: Any) -> NDArray[np.float32]:
        seen.append(arguments[2])
        return np.zeros((3, arguments[1].height, arguments[1].width), np.float32)

    monkeypatch.setattr(enhancer_module, "infer", fake)
    monkeypatch.setattr("gia_cli.enhance.ensemble.infer", fake)
    qualities: list[Quality] = ["normal", "best"]
    for quality in qualities:
        enhancer = Enhancer.from_weights(device="cpu", max_memory="9GB", quality=quality)
        enhancer.enhance(make_arw(f"{quality}.ARW"), ratio=50)
    sites = 96 * 144
    assert all(options.afterwards > 31 * sites for options in seen)
    first, second = seen[0].held, seen[1].held
    assert first is not None and second is not None
    assert len({options.held for options in seen[1:]}) == 1
    assert second - first > 18 * sites - 5_000_000  # measured in one process, one after the other
    assert not any(options.is_beside or options.reserved for options in seen)


# ---------------------------------------------------------------- what the public API raises


@pytest.fixture
def frame(make_arw: MakePhoto) -> RawFrame:
    from gia_cli import read_raw

    return read_raw(make_arw())


WANTS: list[Exception] = [
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("std::bad_alloc"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
]
STEPS = ["read_raw", "choose_ratios", "prepare", "open_engine", "infer", "whiten", "develop"]


@pytest.mark.slow
@pytest.mark.parametrize("step", [*STEPS, "save_pixels"])
def test_want_of_memory_at_any_step_is_exit_51(
    step: str, frame: RawFrame, make_arw: MakePhoto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: Iterator[Exception] = iter(())

    def fail(*_: Any, **__: Any) -> None:
        raise next(raised)

    places = {"open_engine": engines_module, "develop": stages_module, "save_pixels": stages_module}
    module = places.get(step, enhancer_module)
    monkeypatch.setattr(module, step, fail)
    for want in WANTS:
        raised = iter([want] * 9)
        enhancer = Enhancer.from_weights(device="cpu")
        with pytest.raises(OutOfMemoryError) as caught:
            enhancer.enhance(make_arw()).save(tmp_path / "out.tif")
        assert caught.value.exit_code == 51
    raised = iter([ZeroDivisionError("a bug")] * 9)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        Enhancer.from_weights(device="cpu").enhance(replace(frame)).save(tmp_path / "out.tif")
        Enhancer.from_weights(device="cpu").enhance(make_arw()).save(tmp_path / "out.tif")
