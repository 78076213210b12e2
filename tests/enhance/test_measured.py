"""Where the measurement is brought into a picture: on the card that computed it, or on the host."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tifffile import imread

from gia_cli.enhance import measured
from gia_cli.enhance.batch import BatchOptions, FileResult, plan_jobs, run_jobs
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.enhance.lanes import Lanes
from gia_cli.enhance.measured import fuse_measured, where_computed
from gia_cli.imaging.arrays import Array, work_there
from gia_cli.imaging.fusion import NO_SHARES, Grain, Shares, device_bytes
from gia_cli.progress import Silent
from gia_cli.runtime import Runtime, turn_on


@dataclass
class Asked:
    """Of an engine, what is asked here."""

    runtime: Runtime
    is_in_main_memory: bool = False
    is_abandoned: bool = False

    def abandon(self) -> None:
        self.is_abandoned = True


class Notes(Silent):
    """What is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def an_engine(runtime: Runtime, *, is_in_main_memory: bool = False) -> Any:
    return Asked(runtime, is_in_main_memory)


CARD = Runtime("cuda", "float16", 1)


@pytest.fixture
def picture() -> NDArray[np.float32]:
    return np.full((3, 4, 6), 0.5, np.float32)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A card that is the host: what is done there, and how much memory it has left."""
    state: dict[str, Any] = {"free": device_bytes(24), "error": None, "places": [], "released": []}

    def work_there(work: Any, values: NDArray[np.float32], place: str) -> None:
        state["places"].append(place)
        there = torch.tensor(values)
        work(there)
        if state["error"] is not None:
            raise state["error"]
        torch.from_numpy(values).copy_(there)

    monkeypatch.setattr(measured, "work_there", work_there)
    monkeypatch.setattr(measured, "is_torch_on_cuda", lambda: True)
    monkeypatch.setattr(measured, "free_bytes", lambda device, index: state["free"])
    monkeypatch.setattr(measured, "release_gpu_memory", state["released"].append)
    return state


def halve(there: Array) -> None:
    there *= 0.5


def test_a_picture_is_changed_on_its_card(
    picture: NDArray[np.float32], card: dict[str, Any]
) -> None:
    kinds: list[type] = []

    def work(there: Array) -> None:
        kinds.append(type(there))
        halve(there)

    where_computed(work, picture, an_engine(CARD))
    assert kinds == [torch.Tensor] and card["places"] == ["cuda:1"]
    assert (picture == 0.25).all()


@pytest.mark.parametrize("runtime", [Runtime("cpu", "float32"), Runtime("mps", "float16"), CARD])
def test_what_shares_the_hosts_memory_leaves_it_there(
    runtime: Runtime, picture: NDArray[np.float32], card: dict[str, Any]
) -> None:
    where_computed(halve, picture, an_engine(runtime, is_in_main_memory=True))
    assert not card["places"] and (picture == 0.25).all()


def test_a_card_without_room_leaves_it_on_the_host(
    picture: NDArray[np.float32], card: dict[str, Any]
) -> None:
    card["free"] -= 1
    where_computed(halve, picture, an_engine(CARD))
    assert not card["places"] and (picture == 0.25).all()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 1 has ..."),
            "The cuda:1 has too little memory to finish the picture; the CPU does.",
        ),
        (
            RuntimeError("CUDA error: unspecified launch failure\nCompile with ..."),
            "The cuda:1 failed (CUDA error: unspecified launch failure) to finish the picture; "
            "the CPU does.",
        ),
    ],
)
def test_after_a_failure_the_host_does_it_once(
    picture: NDArray[np.float32], card: dict[str, Any], error: Exception, words: str
) -> None:
    card["error"], notes, engine = error, Notes(), an_engine(CARD)
    where_computed(halve, picture, engine, notes)
    assert engine.is_abandoned == ("failed" in words)
    assert card["places"] == ["cuda:1"] and card["released"] == ["cuda"]
    assert (picture == 0.25).all()
    assert notes.said == [words]


def test_a_card_that_cannot_be_asked_for_its_memory_leaves_it_on_the_host(
    picture: NDArray[np.float32], card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an error of CUDA that sticks, of the next photo's network."""

    def broken(device: str, index: int) -> int:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(measured, "free_bytes", broken)
    notes = Notes()
    where_computed(halve, picture, an_engine(CARD), notes)
    assert not card["places"] and (picture == 0.25).all()
    assert len(notes.said) == 1 and "illegal memory access" in notes.said[0]


def test_a_picture_is_finished_when_its_card_computes_no_other(
    picture: NDArray[np.float32], card: dict[str, Any]
) -> None:
    """Else either of the two would see memory as free that the other one is about to take."""
    with ThreadPoolExecutor(1) as pool:
        with turn_on(CARD):
            finishing = pool.submit(where_computed, halve, picture, an_engine(CARD))
            done, _ = wait([finishing], timeout=0.05)
            assert not done and not card["places"]
        finishing.result(10)
    assert card["places"] == ["cuda:1"] and (picture == 0.25).all()


@pytest.mark.slow
def test_a_photo_whose_card_runs_out_of_memory_behind_the_network_is_that_of_the_host(
    make_arw: Callable[..., Path],
    enhancer: Enhancer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = [make_arw("a.ARW"), make_arw("b.ARW", seed=2)]

    def made(folder: str) -> tuple[list[FileResult], list[NDArray[np.uint16]]]:
        options = BatchOptions(request=ExposureRequest(ratio=100), out_dir=tmp_path / folder)
        jobs = plan_jobs(photos, options)
        results = run_jobs(jobs, enhancer, options, progress=Silent())
        assert [result.error for result in results] == [None, None]
        return results, [imread(result.outputs[0]) for result in results]

    plain, expected = made("plain")

    def full(work: Any, values: NDArray[np.float32], place: str) -> None:
        def work_until_it_is_full(there: torch.Tensor) -> None:
            work(there)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        work_there(work_until_it_is_full, values, "cpu")

    monkeypatch.setattr(measured, "_has_room", lambda engine, photosites: True)
    monkeypatch.setattr(measured, "work_there", full)
    monkeypatch.setattr(Lanes, "beside", lambda device, cores: Lanes(1, 1, finishes_behind=True))
    results, found = made("full")
    np.testing.assert_array_equal(found, expected)
    for result, before in zip(results, plain, strict=True):
        (note,) = [note for note in result.notes if note not in before.notes]
        assert "has too little memory to finish the picture; the CPU does" in note


# ---------------------------------------------------------------- what is brought in


@pytest.mark.parametrize(
    ("shares", "grain", "expected"),
    [
        (NO_SHARES, None, ["fuse", "smooth"]),
        (NO_SHARES, Grain(0.5, 0.0), ["fuse", "smooth"]),
        (NO_SHARES, Grain(0.5, 0.1), ["fuse"]),
        (None, Grain(0.5, 0.0), ["fuse"]),
        (None, None, []),
    ],
)
def test_mottle_is_taken_out_last_where_no_noise_of_colours_is_asked_for(
    picture: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    shares: Shares | None,
    grain: Grain | None,
    expected: list[str],
) -> None:
    done: list[str] = []
    monkeypatch.setattr(measured, "measure", lambda *_: None)
    monkeypatch.setattr(measured, "fuse", lambda *_, is_clipped: done.append("fuse"))
    monkeypatch.setattr(measured, "smooth_chroma", lambda there: done.append("smooth"))
    frame: Any = None
    weights: Any = SimpleNamespace(camera="ILCE-7SM2", fusion=shares)
    fuse_measured(picture, frame, 100.0, np.ones(3, np.float32), weights, grain)
    assert done == expected
