"""Where the measurement is brought into a picture: on the card that computed it, or on the host."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gia_cli.enhance import measured
from gia_cli.enhance.measured import fuse_measured, where_computed
from gia_cli.imaging.arrays import Array
from gia_cli.imaging.fusion import NO_SHARES, Grain, Shares, device_bytes
from gia_cli.progress import Silent
from gia_cli.runtime import Runtime


@dataclass
class Asked:
    """Of an engine, what is asked here."""

    runtime: Runtime
    is_in_main_memory: bool = False
    released: int = 0

    def release(self) -> None:
        self.released += 1


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
    state: dict[str, Any] = {"free": device_bytes(24), "fails": False, "places": []}

    def work_there(work: Any, values: NDArray[np.float32], place: str) -> None:
        state["places"].append(place)
        there = torch.tensor(values)
        work(there)
        if state["fails"]:
            raise RuntimeError("CUDA out of memory")
        torch.from_numpy(values).copy_(there)

    monkeypatch.setattr(measured, "work_there", work_there)
    monkeypatch.setattr(measured, "is_torch_on_cuda", lambda: True)
    monkeypatch.setattr(measured, "free_bytes", lambda device, index: state["free"])
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


def test_after_a_failure_the_host_does_it_once(
    picture: NDArray[np.float32], card: dict[str, Any]
) -> None:
    card["fails"] = True
    engine, notes = an_engine(CARD), Notes()
    where_computed(halve, picture, engine, notes)
    assert card["places"] == ["cuda:1"] and engine.released == 1
    assert (picture == 0.25).all()
    assert "cuda:1 could not fuse" in notes.said[0] and "CPU" in notes.said[0]


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
