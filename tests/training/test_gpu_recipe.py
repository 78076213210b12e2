"""The recipe for a GPU, tiny and on the CPU: who simulates, what is compiled, what is resumed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from gia_cli.data.crops import CropOptions
from gia_cli.data.synthetic import PhotoScenes, open_photos
from gia_cli.errors import DeviceError, Interrupted, RunError, UsageError
from gia_cli.imaging.packed import pack_photos
from gia_cli.progress import Progress
from gia_cli.training import setup
from gia_cli.training.config import RECIPES, TrainConfig
from gia_cli.training.distributed import Ranks
from gia_cli.training.log import read_log
from gia_cli.training.loop import train
from gia_cli.training.run_folder import CONFIG, read_config
from gia_cli.weights.manifest import list_weights
from tests.progress_spy import ProgressSpy
from tests.training.runs import StopAt, assert_equal, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def tiny(config: TrainConfig) -> TrainConfig:
    """The recipe, with crops of 16 packed px and three steps."""
    return replace(
        config,
        recipe="gpu",
        sides=(16, 16),
        photos_per_step=2,
        steps=3,
        simulation="torch",
        workers=None,
    )


def test_the_recipe_has_one_side_at_a_time() -> None:
    crops = RECIPES["gpu"].crops
    assert crops.is_fixed and (crops.photos, crops.crops) == (16, 2)
    sides = {crops.draw_side(np.random.default_rng(0), done) for done in (0, 0.5, 0.8, 1)}
    assert sides == {256, 384}
    assert not any(RECIPES[name].crops.is_fixed for name in ("small", "finetune", "paper"))


@pytest.mark.slow
def test_it_trains_and_resumes_to_the_bit(tiny: TrainConfig) -> None:
    listener = StopAt(-1)
    result = train(tiny, listener)
    assert np.isfinite(result.loss) and np.isfinite(result.validation_psnr)
    assert any("torch simulates exposures on cpu" in line for line in listener.details)
    assert read_config(tiny.run)["simulation"] == "torch"
    stopped = replace(tiny, run=tiny.run.with_name("stopped"))
    with pytest.raises(Interrupted, match="step 2"):
        train(stopped, StopAt(2))
    with pytest.raises(RunError, match="its simulation is torch, not numpy"):
        train(replace(stopped, simulation="numpy"))
    train(stopped)
    assert_equal(weights_of(tiny.run), weights_of(stopped.run))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiles", [False, True])
def test_it_trains_on_a_gpu(tiny: TrainConfig, compiles: bool) -> None:
    listener = StopAt(-1)
    asked = replace(tiny, device="cuda", simulation="auto", steps=20, compile=compiles)
    assert np.isfinite(train(asked, listener).validation_psnr)
    assert read_config(tiny.run)["simulation"] == "torch"
    assert any("lie there" in line for line in listener.details)


@pytest.mark.slow
def test_what_simulates_belongs_to_a_run(tiny: TrainConfig) -> None:
    """And a run of before there was a choice is NumPy's."""
    first = replace(tiny, simulation="numpy", workers=0, steps=1)
    train(first)
    loss = read_log(first.run)[0]["loss"]
    other = replace(tiny, run=tiny.run.with_name("other"), steps=1)
    train(other)
    assert read_log(other.run)[0]["loss"] == pytest.approx(loss, rel=0.5)
    assert read_log(other.run)[0]["loss"] != loss
    path = first.run / CONFIG
    old = {name: value for name, value in read_config(first.run).items() if name != "simulation"}
    path.write_text(json.dumps(old))
    with pytest.raises(RunError, match="its simulation is numpy, not torch"):
        train(replace(first, simulation="torch", workers=None))
    assert train(first).steps == 1


def test_that_most_photographs_are_too_small_for_the_largest_crops_is_said(
    tmp_path: Path,
) -> None:
    for size in (64, 64, 64, 192):
        name = f"{len(list(tmp_path.glob('*.png')))}.png"
        iio.imwrite(tmp_path / name, np.full((size, size, 3), 99, np.uint8))
    photos = open_photos([tmp_path], tmp_path / "cache")
    source = PhotoScenes(photos, photos.keys, "ILCE-7SM2")
    assert [source.holding(side) for side in (32, 33, 96, 97)] == [4, 1, 1, 0]
    for sides, notes in (((16, 32), 0), ((16, 48), 1)):
        listener = StopAt(-1)
        crops = replace(RECIPES["gpu"].crops, sides=sides, late_sides=None)
        setup._note_passed_over(crops, source, listener)
        assert len(listener.notes) == notes
    assert "Only 1 of 4 photographs" in listener.notes[0]


# ---------------------------------------------------------------- on a bare machine

_BARE = """
import json, sys
for name in ("rawpy", "exifread", "tifffile", "openvino", "onnxruntime", "jinja2"):
    sys.modules[name] = None  # an import of it fails
from gia_cli.__main__ import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["gia", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
"""


@pytest.mark.slow
def test_a_packed_file_and_torch_are_enough(photos: Path, tmp_path: Path) -> None:
    """The command of the cookbook, tiny: no LibRaw, no EXIF reader, no engine but torch."""
    packed = pack_photos([photos], tmp_path / "photos.tar").target
    cookbook = (Path(__file__).parents[2] / "docs" / "cookbook.md").read_text(encoding="utf-8")
    section = cookbook.split("## Train on a GPU elsewhere")[1].split("\n## ")[0]
    (line,) = re.findall(r"^gia (train --recipe gpu .+?); gia (weights export .+?)$", section, re.M)
    commands = [shlex.split(words, comments=True) for words in line]
    places = {"photos.tar": packed, "runs/mine": tmp_path / "run", "out": tmp_path / "out"}
    commands = [[str(places.get(word, word)) for word in words] for words in commands]
    assert "--budget" in commands[0] and places["runs/mine"].name == "run"
    small = "--width 4 --sides 16-16 --photos-per-step 2 --simulation torch --device cpu"
    commands[0] += ["--cache", str(tmp_path / "cache"), *small.split()]
    commands[0][commands[0].index("--budget") + 1] = "1s"
    command = [sys.executable, "-c", _BARE, json.dumps(commands)]
    subprocess.run(command, check=True, timeout=120)
    (info,) = list_weights(tmp_path / "out")
    assert info.training["recipe"]["name"] == "gpu"
    assert info.training["data"] == "photos.tar"


# ---------------------------------------------------------------- what is chosen


@pytest.mark.parametrize(
    ("change", "device", "chosen"),
    [
        ({}, CUDA, "torch"),
        ({}, CPU, "numpy"),
        ({"workers": 4}, CUDA, "numpy"),
        ({"workers": 0}, CUDA, "torch"),
        ({"recipe": "small"}, CUDA, "numpy"),
        ({"recipe": "small", "simulation": "torch"}, CPU, "torch"),
        ({"simulation": "numpy"}, CUDA, "numpy"),
        ({"photos": (), "data": Path("tree")}, CUDA, "numpy"),
    ],
)
def test_torch_simulates_on_cuda_for_this_recipe(
    tiny: TrainConfig, change: dict[str, Any], device: torch.device, chosen: str
) -> None:
    asked = replace(tiny, **{"simulation": "auto", **change})
    assert setup._simulation(asked, device) == chosen


@pytest.mark.parametrize(
    ("recipe", "device", "looks"),
    [("gpu", CUDA, True), ("small", CUDA, False), ("gpu", CPU, False)],
)
def test_the_fastest_convolutions_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, recipe: Any, device: torch.device, looks: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    setup._look_for_fast_convolutions(RECIPES[recipe], device)
    assert torch.backends.cudnn.benchmark is looks


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"simulation": "torch", "workers": 2}, "--workers is for --simulation numpy"),
        ({"simulation": "torch", "photos": (), "data": Path("x")}, "--simulation is for photo"),
    ],
)
def test_nonsense_is_refused(tiny: TrainConfig, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(tiny, **change)


# ---------------------------------------------------------------- compiled


def compiled_by(backend: Any) -> Callable[..., Any]:
    return partial(torch.compile, backend=backend)


@pytest.mark.slow
def test_one_graph_serves_all_steps(tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is dropped, and whether the decoder is told the targets or not."""
    counter = CompileCounter()
    torch._dynamo.reset()
    cuts: list[int] = []
    kept_skips = setup.Job.kept_skips

    def noted(job: setup.Job, cut: int) -> torch.Tensor | None:
        cuts.append(cut)
        return kept_skips(job, cut)

    monkeypatch.setattr(setup, "_FIT_SCENES", 8)
    monkeypatch.setattr(setup.Job, "kept_skips", noted)
    monkeypatch.setattr(torch, "compile", compiled_by(counter))
    forced = {"auxiliary_weight": 0.3, "teacher_forcing_until": 0.6, "skip_dropout_share": 0.8}
    asked = replace(tiny, compile=True, width=12, steps=8, changes=forced)
    assert np.isfinite(train(asked).validation_psnr)
    assert len(set(cuts)) > 2 and 0 in cuts
    assert counter.frame_count == 1
    plain = replace(asked, run=tiny.run.with_name("plain"), compile=False)
    train(plain)
    assert_equal(weights_of(asked.run), weights_of(plain.run))  # the graph is run as it is here


@pytest.mark.slow
def test_without_a_compiler_there_is_one_line(
    tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise RuntimeError("No working C++ compiler found in CXX")

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compiled_by(missing))
    with pytest.raises(DeviceError, match="leave out --compile") as caught:
        train(replace(tiny, compile=True))
    assert caught.value.message.endswith(": No working C++ compiler found in CXX.")


@pytest.mark.parametrize(
    ("sides", "late", "multiple", "count"),
    [
        ((256, 256), (384, 384), 32, 2),
        ((256, 256), None, 32, 1),
        ((64, 192), (160, 320), 32, 9),
        ((60, 130), None, 32, 3),
    ],
)
def test_every_side_gets_a_graph(
    sides: tuple[int, int],
    late: tuple[int, int] | None,
    multiple: int,
    count: int,
) -> None:
    """After eight torch would go on without: for those sides, and after minutes of compiling."""
    crops = CropOptions(1, 1, sides, multiple, late)
    rng = np.random.default_rng(0)
    drawn = {crops.draw_side(rng, done) for done in (0.0, 1.0) for _ in range(400)}
    assert crops.count_of_sides == len(drawn) == count
    progress = ProgressSpy()
    settings: Any = torch._dynamo.config
    with settings.patch(recompile_limit=8):
        setup._allow_graphs(crops, progress)
        assert settings.recompile_limit >= max(count, 8)
    assert [f"each of {count} sides" in note for note in progress.notes] == [True] * (count > 2)


# ---------------------------------------------------------------- several processes


def test_processes_wait_until_they_find_the_same_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network file system shows another machine a new file late."""
    old, new = ({"step": step, "elapsed_s": 0.5 * step} for step in (2, 4))
    here = iter([old, None, new])
    slept: list[float] = []
    monkeypatch.setattr(setup.time, "sleep", slept.append)  # type: ignore[attr-defined]

    def look(run: Path, asked: dict[str, Any], progress: Progress) -> Any:
        progress.note("steps was 20, now 10")
        return next(here)

    monkeypatch.setattr(setup, "open_run", look)
    monkeypatch.setattr(Ranks, "gather", lambda self, word: ["step 4 after 2.0 s", word])
    progress = ProgressSpy()
    assert setup._open_alike(Path("run"), {}, Ranks(), progress) is new
    assert len(slept) == 2 and progress.notes == ["steps was 20, now 10"]
    monkeypatch.setattr(setup, "open_run", lambda *_: old)
    with pytest.raises(RunError, match=r"step 4 after 2\.0 s, and step 2 after 1\.0 s") as caught:
        setup._open_alike(Path("run"), {}, Ranks(), ProgressSpy())
    assert "all machines share" in caught.value.hint
    assert 60 < sum(slept) < 300


def test_processes_of_other_number_formats_do_not_train_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup._refuse_other_numbers(None, Ranks())
    monkeypatch.setattr(Ranks, "gather", lambda self, word: ["bfloat16", word])
    for fine in (torch.bfloat16, None):  # gradients of neither are scaled
        setup._refuse_other_numbers(fine, Ranks())
    with pytest.raises(DeviceError, match="bfloat16, float16") as caught:
        setup._refuse_other_numbers(torch.float16, Ranks())
    assert "--precision fp32" in caught.value.hint
