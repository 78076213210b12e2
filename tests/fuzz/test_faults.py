"""Every file that gia writes is whole or not there: full disks, dying disks, folders that vanish.

Each writer is run twice: in peace, which leaves the old files, then with new contents and a fault.
The fault is put where the system has it, below Python's buffers.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import gia_cli
from gia_cli.benchmark.flops import Cost
from gia_cli.benchmark.growth import Point
from gia_cli.benchmark.tables import plot_growth
from gia_cli.cli import app
from gia_cli.data.augment import Pair
from gia_cli.data.cache import ArrayCache, Decoded
from gia_cli.enhance import comparison
from gia_cli.enhance.batch import FileResult, Job
from gia_cli.enhance.watch import JOURNAL, Journal
from gia_cli.errors import GiaError, OutputError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.panel import PanelRow
from gia_cli.evaluation.report import Report, Summary, summarise, write_results
from gia_cli.evaluation.scores import Score, ScoreBook
from gia_cli.evaluation.tables import plot_quality, write_figure
from gia_cli.imaging.dng import write_linear_dng
from gia_cli.imaging.exr import write_exr
from gia_cli.imaging.jpeg import write_jpeg
from gia_cli.imaging.jpegxl import write_jpegxl
from gia_cli.imaging.packed import PackOptions, pack_photos
from gia_cli.imaging.photos import find_photos
from gia_cli.imaging.writer import write_image
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.pages.page import Page, write_page
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.writer import write_arw, write_dng, write_raf
from gia_cli.simulation.dataset import _write_list
from gia_cli.simulation.manifest import TreePlan, write_plan
from gia_cli.simulation.options import SimulateOptions
from gia_cli.training import log
from gia_cli.training.checkpoint import read_checkpoint, write_checkpoint
from gia_cli.training.distributed import Ranks
from gia_cli.training.log import TrainLog, draw_curves, write_panel
from gia_cli.training.run_folder import claim_run
from gia_cli.weights.manifest import list_in_manifest
from gia_cli.weights.storage import save_weights

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(os.name != "posix", reason="the names of errors"),
]

PACKAGE = Path(gia_cli.__file__).parent
SMALL = NetConfig("gia-net", "bayer", width=2, vector=3)
Writer = Callable[[Path, int], object]


# ---------------------------------------------------------------- the writers


def _image(version: int) -> Any:
    return np.random.default_rng(version).integers(0, 65536, (40, 50, 3)).astype(np.uint16)


def _dng(folder: Path, version: int) -> None:
    picture = (_image(version) / 65535).astype(np.float32).transpose(2, 0, 1)
    gains = np.array([2.0, 1.0, 1.5])
    write_linear_dng(
        folder / "o.dng", picture, gains=gains, xyz_to_camera=None, shot=ShotInfo(model="m")
    )


def _exr(folder: Path, version: int) -> None:
    pytest.importorskip("OpenEXR")
    write_exr(folder / "o.exr", _image(version).astype(np.float32) / 65535)


def _jxl(folder: Path, version: int) -> None:
    pytest.importorskip("imagecodecs")
    write_jpegxl(folder / "o.jxl", _image(version), effort=1)


def _mosaic(version: int) -> Any:
    return np.random.default_rng(version).integers(0, 16384, (30, 38)).astype(np.uint16)


def _weights(folder: Path, version: int) -> dict[str, Any]:
    torch.manual_seed(version)
    return save_weights(folder / "w.safetensors", build(SMALL))


def _onnx(folder: Path, version: int) -> None:
    pytest.importorskip("onnxruntime")
    from gia_cli.inference.onnx_export import ExportConfig, export_onnx

    weights = folder.parent / f"v{version}" / "w.safetensors"
    export_onnx(ExportConfig(str(weights), folder, overwrite=True))


def _state(version: int) -> dict[str, Any]:
    names = ("elapsed_s", "trainee", "ema", "optimizer", "scaler")
    return {"step": version, **dict.fromkeys(names, 0.0), "weight": torch.arange(100.0)}


def _pair() -> Pair:
    return Pair(np.zeros((4, 8, 8), np.float32), np.zeros((3, 16, 16), np.float32))


def _panel(folder: Path, version: int) -> None:
    picture = np.full((3, 16, 16), version / 9, np.float32)
    write_panel(folder / "panel.png", [_pair()], [picture], "bayer")


def _packed(folder: Path, version: int) -> None:
    with TemporaryDirectory() as photos:
        photo = Path(photos, f"{version}.png")
        Image.fromarray(np.full((16, 16, 3), version, np.uint8)).save(photo)
        pack_photos([photo], folder / "photos.tar", PackOptions(overwrite=True))


def _sheet(folder: Path, version: int) -> None:
    image = _image(version)
    result: Any = SimpleNamespace(
        frame=SimpleNamespace(kind="bayer", mosaic=np.zeros((4, 4)), path=folder, flip=0),
        image=image,
        choice=SimpleNamespace(ratio=100.0),
        weights=SimpleNamespace(name="w"),
        window=None,
    )
    comparison.write_comparison(result, folder / "sheet.png")


def _score(version: int) -> Score:
    values: dict[str, float | None] = {"psnr": float(version)}
    name = f"{version}.ARW"
    return Score("LibRaw", None, None, "k", "known", "1", name, 100, 100, 1.0, values, {})


def _book(folder: Path, version: int) -> None:
    pair: Any = SimpleNamespace(short=Path(__file__), long=Path(__file__))
    ScoreBook(folder, {}).add(_score(version), pair)


@cache
def _summaries(version: int) -> list[Summary]:
    return summarise([_score(version)])


def _report(folder: Path, version: int) -> None:
    scores = [_score(version)]
    config = EvalConfig(data=folder, camera="sony", out=folder, isp=("libraw",))
    write_results(Report(config, 1, _summaries(version), None, {}, scores, []))


def _figure(folder: Path, version: int) -> None:
    picture = np.full((8, 8, 3), version / 9, np.float32)
    write_figure([PanelRow("a", [("b", picture)])], folder / "figure.png")


def _quality(folder: Path, version: int) -> None:
    means = {"psnr": {"mean": version, "low": version, "high": version}}
    row = {"system": "a", "ratio_mode": "known", "network": "gia-net", "width": 32, "means": means}
    scores = folder.parent / "scores.json"
    if not scores.exists():
        scores.write_text(json.dumps({"systems": [row]}))
    plot_quality([Cost("gia-net", "bayer", (64, 64), 1, 1, 1)], None, scores, folder / "q.png")


def _cache(folder: Path, version: int) -> None:
    def decode(_: Path) -> Decoded:
        return Decoded({"photo": np.full(5000, version)}, {})

    ArrayCache.build(folder, {"a": Path(__file__)}, decode, recipe=str(version))


def _list(folder: Path, version: int) -> None:
    scene: Any = SimpleNamespace(iso=version)
    photo: Any = SimpleNamespace(scene=scene, long=folder / "l", shorts=[folder / "s"])
    _write_list(folder / "Sony_train_list.txt", folder, [photo], SimulateOptions())


def _journal(folder: Path, version: int) -> None:
    photo = folder / f"{version}.ARW"
    JOURNALS[folder].add(FileResult(photo), (version, version), Job(photo, (folder / "o.tif",)))


#: By module and function, as they lie in the package.
WRITERS: dict[str, Writer] = {
    "imaging.writer: TIFF": lambda f, v: write_image(f / "o.tif", _image(v)),
    "imaging.dng": _dng,
    "imaging.writer: PNG": lambda f, v: write_image(f / "o.png", _image(v)),
    "imaging.exr": _exr,
    "imaging.jpeg": lambda f, v: write_jpeg(f / "o.jpg", (_image(v) // 257).astype(np.uint8)),
    "imaging.jpegxl": _jxl,
    "imaging.packed": _packed,
    "raw.writer: ARW": lambda f, v: write_arw(f / "o.ARW", _mosaic(v)),
    "raw.writer: RAF": lambda f, v: write_raf(f / "o.RAF", _mosaic(v)),
    "raw.writer: DNG": lambda f, v: write_dng(f / "o.dng", _mosaic(v)),
    "weights.storage": _weights,
    "weights.manifest": lambda f, v: list_in_manifest(f, ROWS[v]),
    "inference.onnx_export": _onnx,
    "training.checkpoint": lambda f, v: write_checkpoint(f, _state(v)),
    "training.run_folder": lambda f, v: claim_run(f, {"steps": v}, Ranks()),
    "training.log: rewritten": lambda f, v: TrainLog(f, 9),
    "training.log: a line": lambda f, v: LOGS[f].add(v, loss=0.5),
    "training.log: panel": _panel,
    "training.log: curves": lambda f, v: draw_curves([{"step": v, "loss": 0.5}], f / "c.png"),
    "enhance.comparison": _sheet,
    "enhance.watch: a line": _journal,
    "evaluation.scores": _book,
    "pages.page": lambda f, v: write_page(f / "page.html", Page(str(v))),
    "evaluation.report": _report,
    "evaluation.tables: figure": _figure,
    "evaluation.tables: quality": _quality,
    "benchmark.tables": lambda f, v: plot_growth([Point(v, None, "", [1.0], 1)], f / "g.png"),
    "data.cache": _cache,
    "simulation.dataset": _list,
    "simulation.manifest": lambda f, v: write_plan(f / "plan.json", TreePlan({"seed": v}, ())),
}
ROWS: dict[int, dict[str, Any]] = {}
LOGS: dict[Path, TrainLog] = {}
JOURNALS: dict[Path, Journal] = {}
#: Write a line behind others: nothing is renamed, and it goes where the file went.
APPENDING = {"training.log: a line", "enhance.watch: a line"}


def test_every_module_that_writes_is_here() -> None:
    writing = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^ +(with atomic_file|append_line)\(", path.read_text("utf-8"), re.MULTILINE)
    }
    assert writing == {name.split(":")[0] for name in WRITERS}


# ---------------------------------------------------------------- the faults


class _FaultyFile(io.FileIO):
    """A file on a disk that takes a few bytes and no more."""

    left = 0
    fault: Callable[[Path], None]

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        if len(view) > self.left:
            type(self).fault(Path(str(self.name)))
            if self.left == 0:
                return super().write(view)
        taken = super().write(view[: self.left])
        self.left -= taken
        return taken


def _raising(number: int) -> Callable[..., Any]:
    def fault(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fault


def _faulty_open(fault: Callable[[Path], None], left: int) -> Callable[..., Any]:
    plain = Path.open

    class File(_FaultyFile):
        pass

    File.left, File.fault = left, staticmethod(fault)

    def open_(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "x" in mode:
            return io.BufferedRandom(File(self, "x+"))
        if "a" in mode:
            return File(self, "a")
        return plain(self, mode, *arguments, **options)

    return open_


def _remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


@contextmanager
def _fault(kind: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if kind == "no space":
            patch.setattr(Path, "open", _faulty_open(_raising(errno.ENOSPC), 7))
        elif kind == "broken disk":
            patch.setattr(Path, "open", _faulty_open(_raising(errno.EIO), 7))
        elif kind == "folder gone":
            patch.setattr(Path, "open", _faulty_open(_remove_folder, 0))
        elif kind == "broken disk at fsync":
            patch.setattr(os, "fsync", _raising(errno.EIO))
        elif kind == "broken disk at rename":
            patch.setattr(Path, "replace", _raising(errno.EIO))
        elif kind == "read-only":
            plain = Path.open

            def read_only(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
                if set(mode) & set("xwa+"):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                return plain(self, mode, *more, **options)

            patch.setattr(Path, "open", read_only)
        yield


FAULTS = ["no space", "broken disk", "broken disk at fsync", "broken disk at rename", "read-only"]
CASES = list(product(WRITERS, FAULTS))
OF_NAMES = [(name, "broken disk at rename") for name in APPENDING]
OF_NAMES.append(("training.log: a line", "broken disk at fsync"))  # lines of which one may be lost


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _assert_one_line(error: GiaError, folder: Path) -> None:
    assert isinstance(error, OutputError), error
    assert error.exit_code == 60
    assert "\n" not in str(error) and str(folder) in str(error)


@pytest.fixture
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a writer has written before."""
    folder, name = tmp_path / "out", request.getfixturevalue("name")
    folder.mkdir()
    monkeypatch.setattr(comparison, "render", lambda *_, **__: np.zeros((8, 8, 3), np.uint8))
    if name in ("training.log: curves", "evaluation.tables: quality", "benchmark.tables"):
        figure = pytest.importorskip("matplotlib.figure").Figure
        # The drawing takes long, and what is drawn is not looked at here.
        monkeypatch.setattr(figure, "savefig", lambda self, file, **_: file.write(os.urandom(100)))
    if name.startswith("weights.manifest"):
        ROWS.update({version: _weights(tmp_path, version) for version in (1, 2)})
    if name == "inference.onnx_export":
        for version in (1, 2):
            (tmp_path / f"v{version}").mkdir()
            _weights(tmp_path / f"v{version}", version)
    if name.startswith("training.log"):
        (folder / log.LOG).write_text('{"step": 3, "loss": 1.0}\n{"step": 20')
    if name == "training.log: a line":
        LOGS[folder] = TrainLog(folder, 9)
    if name == "enhance.watch: a line":
        JOURNALS[folder] = Journal(folder / JOURNAL, folder)
    WRITERS[name](folder, 1)
    if name == "training.log: rewritten":
        (folder / log.LOG).write_text('{"step": 3, "loss": 1.0}\n{"step": 20')
    return folder


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case not in OF_NAMES])
def test_a_fault_leaves_the_old_files_and_nothing_else(name: str, kind: str, old: Path) -> None:
    before = _contents(old)
    with _fault(kind), pytest.raises(GiaError) as caught:
        WRITERS[name](old, 2)
    _assert_one_line(caught.value, old)
    after = _contents(old)
    if name == "training.checkpoint" and kind == "broken disk at rename":
        assert after.pop("checkpoint-previous.pt") == before["checkpoint.pt"]
    assert after == before
    WRITERS[name](old, 2)  # and when the disk is well again, it works
    assert _contents(old) != before


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - APPENDING))
def test_a_folder_that_is_removed_meanwhile_is_an_output_error(name: str, old: Path) -> None:
    before = _contents(old)
    with _fault("folder gone"), pytest.raises(GiaError) as caught:
        WRITERS[name](old, 2)
    _assert_one_line(caught.value, old)
    if name == "inference.onnx_export":  # the folder was one of its own, within
        assert _contents(old) == before
    else:
        assert not old.exists()


def test_without_hard_links_a_checkpoint_is_there_wherever_the_fault_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one is put aside then, before the new one takes its name."""
    write_checkpoint(tmp_path, _state(1))
    plain = Path.replace

    def second_fails(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(self, target)

    monkeypatch.setattr(Path, "hardlink_to", _raising(errno.EPERM))
    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(OutputError):
        write_checkpoint(tmp_path, _state(2))
    assert read_checkpoint(tmp_path, fall_back=True)["step"] == 1


# ---------------------------------------------------------------- through the commands


@pytest.mark.slow
def test_commands_end_with_60_and_one_line(make_arw: Callable[..., Path], tmp_path: Path) -> None:
    write_image(tmp_path / "day.png", _image(1).repeat(8, 0).repeat(8, 1))
    photo = make_arw()
    commands = {
        "o.ARW": ["simulate", str(tmp_path / "day.png"), "-o"],
        "o.tif": ["enhance", "--ratio", "9", "--on-exists", "overwrite", str(photo), "-o"],
    }
    for name, command in commands.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(exist_ok=True)
        if command[0] == "enhance":
            path.write_bytes(b"old")
        before = _contents(path.parent)
        with _fault("no space"):
            run = CliRunner().invoke(app, [*command, str(path)])
        errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert (run.exit_code, len(errors)) == (60, 1), run.output
        assert str(path) in errors[0] or "long" in errors[0]
        assert _contents(path.parent) == before


# ---------------------------------------------------------------- killed


def _killed_at_fsync(write: Writer, folder: Path) -> int:
    """Write in a process that is killed when all but the name is there; returns the signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process may have threads
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))  # noqa: B010
            write(folder, 2)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.slow
def test_who_is_killed_while_writing_leaves_the_old_file_and_the_next_run_copes(
    tmp_path: Path,
) -> None:
    names = ["imaging.writer: TIFF", "imaging.writer: PNG", "raw.writer: ARW", "weights.storage"]
    names += ["training.checkpoint", "evaluation.report", "simulation.manifest"]
    for number, name in enumerate(names):
        (tmp_path / str(number)).mkdir()
        WRITERS[name](tmp_path / str(number), 1)
    before = [_contents(tmp_path / str(number)) for number in range(len(names))]
    for number, name in enumerate(names):
        assert _killed_at_fsync(WRITERS[name], tmp_path / str(number)) == signal.SIGKILL, name
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        after = _contents(folder)
        (left,) = after.keys() - before[number].keys()
        assert left.startswith(".") and left.endswith(".gia.tmp")
        assert {key: after[key] for key in before[number]} == before[number]
        WRITERS[name](folder, 2)
        assert _contents(folder).keys() >= before[number].keys()
    assert [path.name for path in find_photos([tmp_path])] == ["o.tif", "o.png"]
