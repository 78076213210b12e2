"""Which networks are opened for whom, what is kept, and what follows where a card fails."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import DeviceError, WeightsNotFoundError
from gia_cli.inference import engines as engines_module
from gia_cli.inference import plan as plan_module
from gia_cli.inference.engine import Engine
from gia_cli.inference.engines import Engines
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.select import open_engine
from gia_cli.runtime import EngineName, Runtime
from gia_cli.weights.manifest import find_weights, shipped_quantized
from gia_cli.weights.storage import WeightsInfo, load_network, save_weights
from tests.inference.failing import Card, Damage, black, black_in_half, fine, sticky
from tests.networks import DEFAULT, lively, small
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Runtime("cpu", "float32")
CUDA = Runtime("cuda", "float16", 1)
LITE = find_weights("gia-sony-lite")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was opened, in words; on cards as below."""
    lines: list[str] = []

    def spy(info: WeightsInfo, runtime: Runtime, engine: EngineName, progress: Any) -> Engine:
        lines.append(f"{info.name} {engine} on {runtime}")
        if runtime.device == "cuda":
            return Card(load_network(info), CARDS.get(engine, sticky))
        return open_engine(info, runtime, engine, progress)

    monkeypatch.setattr(engines_module, "open_engine", spy)
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 10**12)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return lines


CARDS: dict[str, Damage] = {}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[Damage], None]:
    """Choose what the cards do to pictures."""

    def choose(damage: Damage) -> None:
        for engine in ("auto", "torch"):
            monkeypatch.setitem(CARDS, engine, damage)

    return choose


def running(engines: Engines, progress: ProgressSpy | None = None) -> str:
    found = engines.running(engines.asked_for("bayer"), progress or ProgressSpy())
    assert found.weights is not None
    return f"{found.weights.name}: {found.engine}"


# ---------------------------------------------------------------- what is kept


def test_a_network_is_opened_once_and_two_are_held_only_without_a_limit(
    opened: list[str], tmp_path: Path
) -> None:
    for cfa in ("bayer", "xtrans"):
        save_weights(tmp_path / f"{cfa}.safetensors", lively(small("gia-net", cfa)))
    names = ",".join(str(tmp_path / f"{cfa}.safetensors") for cfa in ("bayer", "xtrans"))
    for holds_one, times in ((False, 2), (True, 4)):
        opened.clear()
        engines = Engines(names, CPU, "torch", holds_one=holds_one)
        assert opened == []
        for kind in ("bayer", "bayer", "xtrans", "bayer", "xtrans"):
            engines.running(engines.asked_for(kind))
        assert len(opened) == times
    anew = pickle.loads(pickle.dumps(engines))
    anew.running(anew.asked_for("bayer"))
    assert len(opened) == times + 1


def test_a_wrong_name_fails_at_once() -> None:
    with pytest.raises(WeightsNotFoundError):
        Engines("no-such-weights", CPU)
    with pytest.raises(DeviceError, match="not with torch"):
        Engines(DEFAULT, Runtime("cpu", "int8"), "torch")


def test_int8_is_preferred_on_a_cpu_alone() -> None:
    rounded = shipped_quantized(find_weights(DEFAULT))
    assert rounded is not None
    on_cpu = Engines(DEFAULT, CPU, prefers_int8=True)
    assert on_cpu.weights_for("bayer") == rounded
    assert on_cpu.asked_for("bayer").name == DEFAULT
    for other in (
        Engines(DEFAULT, CPU),
        Engines(DEFAULT, CPU, "torch", prefers_int8=True),
        Engines(DEFAULT, CUDA, prefers_int8=True),
    ):
        assert other.weights_for("bayer").name == DEFAULT


# ---------------------------------------------------------------- where a card fails


@pytest.mark.parametrize(
    ("engine", "prefers_int8", "ends_on"),
    [
        ("auto", True, f"{LITE.name}-int8: OpenVINO"),
        ("auto", False, f"{LITE.name}: OpenVINO"),
        ("torch", True, f"{LITE.name}: torch on cpu, float32"),
    ],
)
def test_a_broken_card_ends_on_what_the_cpu_runs_by_itself(
    engine: EngineName,
    prefers_int8: bool,
    ends_on: str,
    opened: list[str],
    card: Callable[[Damage], None],
) -> None:
    card(sticky)
    engines = Engines(LITE.name, CUDA, engine, prefers_int8=prefers_int8)
    progress = ProgressSpy()
    assert running(engines, progress).startswith(ends_on)
    assert running(engines, progress).startswith(ends_on)
    assert len(opened) == 2  # the card, and the CPU; each once
    (note,) = progress.notes
    assert "illegal memory access" in note and note.endswith("continuing on the CPU.")


def test_an_honest_card_is_kept(opened: list[str], card: Callable[[Damage], None]) -> None:
    card(fine)
    progress = ProgressSpy()
    assert running(Engines(LITE.name, CUDA, prefers_int8=True), progress).endswith(str(CUDA))
    assert progress.notes == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_true_card_is_kept_and_makes_the_cpus_picture(make_arw: Callable[..., Path]) -> None:
    photo, progress = make_arw(), ProgressSpy()
    images = {
        device: Enhancer.from_weights(LITE.name, device=device).enhance(
            photo, ratio=50, progress=progress
        )
        for device in ("cuda:0", "cpu")
    }
    assert progress.notes == []
    assert images["cuda:0"].weights.name == LITE.name
    one, other = (image.image.astype(int) for image in images.values())
    assert np.abs(one - other).mean() < 700  # of 65535: fp16's rounding, and int8's


def test_the_enhancer_stays_on_the_engine_that_it_ended_on(
    make_arw: Callable[..., Path], opened: list[str], card: Callable[[Damage], None]
) -> None:
    """A GTX 16xx that passed the check, say: the second photo does not meet the NaN again."""
    card(fine)
    enhancer = Enhancer(LITE.name, CUDA, InferOptions(), prefer_int8=True)
    progress = ProgressSpy()
    first = enhancer.enhance(make_arw("a.ARW"), ratio=50, progress=progress)
    found = enhancer._engines.running(first.weights)
    assert isinstance(found.engine, Card)
    found.engine.damage = black_in_half
    second = enhancer.enhance(make_arw("b.ARW"), ratio=50, progress=progress)
    third = enhancer.enhance(make_arw("c.ARW"), ratio=50, progress=progress)
    assert progress.notes == [
        "The cuda:1 makes no finite numbers in float16; continuing in float32."
    ]
    assert found.engine.runtime == Runtime("cuda", "float32", 1)
    assert first.weights == third.weights
    for image in (second.image, third.image):
        assert np.abs(image.astype(int) - first.image).max() < 700  # of 65535: fp16's rounding
    assert isinstance(found.engine, Card)
    found.engine.damage = black
    last = enhancer.enhance(make_arw("d.ARW"), ratio=50, progress=progress)
    assert "continuing on the CPU" in progress.notes[-1]
    assert last.weights.name == f"{LITE.name}-int8"
    assert f"weights {LITE.name}-int8" in last.comment
    assert last.image.mean() == pytest.approx(first.image.mean(), rel=0.02)
