"""Turned mosaics: every photosite keeps its colour and its levels, in any phase and size."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.raw.cfa import CANONICAL, CfaKind, find_phase, unpack
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.raw.turns import TURNS, Turn, turn_frame

PERIODS: dict[CfaKind, int] = {"bayer": 2, "xtrans": 6}
PHASES: list[tuple[CfaKind, tuple[int, int]]] = [
    (kind, (dy, dx))
    for kind, period in PERIODS.items()
    for dy, dx in product(range(period), repeat=2)
]
SIZES = [(24, 30), (25, 31), (29, 24), (27, 20)]


def colors_of(kind: CfaKind, phase: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Colour of every photosite, one by one."""
    canonical = CANONICAL[kind]
    period = len(canonical)
    return np.array(
        [
            [canonical[(y + phase[0]) % period, (x + phase[1]) % period] for x in range(shape[1])]
            for y in range(shape[0])
        ]
    )


def frame_of(
    kind: CfaKind, phase: tuple[int, int], shape: tuple[int, int], seed: int = 0
) -> RawFrame:
    """A frame of noise whose levels differ at every place of the cell."""
    rng = np.random.default_rng(seed)
    period = len(CANONICAL[kind])
    places = np.arange(period * period, dtype=np.float32).reshape(period, period)
    return RawFrame(
        path=Path("x"),
        mosaic=rng.integers(600, 5000, shape).astype(np.uint16),
        kind=kind,
        phase=phase,
        black=500 + places,
        white=16000 - places,
        as_shot_wb=np.array([2, 1, 1.5], np.float32),
        daylight_wb=None,
        xyz_to_camera=None,
        flip=0,
        shot=ShotInfo(),
    )


def spread(cell: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Level of every photosite."""
    rows, cols = np.indices(shape)
    return cell[rows % len(cell), cols % len(cell)]


def test_turning_back_undoes_turning() -> None:
    picture = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    assert TURNS[0] == Turn()
    assert len({turn.apply(picture).tobytes() for turn in TURNS}) == 8
    for turn in TURNS:
        turned = turn.apply(picture)
        assert turned.shape == ((3, 2, 3) if turn.transpose else (2, 3, 3))
        assert np.array_equal(turn.undo(turned), picture)


@pytest.mark.slow
@pytest.mark.parametrize("turn", TURNS, ids=str)
@pytest.mark.parametrize(("kind", "phase"), PHASES)
def test_every_turn_keeps_the_pattern(kind: CfaKind, phase: tuple[int, int], turn: Turn) -> None:
    """All eight, in all phases: Bayer's and X-Trans's alike."""
    for shape in SIZES:
        frame = frame_of(kind, phase, shape)
        turned = turn_frame(frame, turn)
        colors = turn.apply(colors_of(kind, phase, shape))
        assert find_phase(colors, kind) == turned.phase
        assert np.array_equal(colors_of(kind, turned.phase, colors.shape), colors)
        assert np.array_equal(turned.mosaic, turn.apply(frame.mosaic))
        for before, after in ((frame.black, turned.black), (frame.white, turned.white)):
            assert np.array_equal(spread(after, colors.shape), turn.apply(spread(before, shape)))


@pytest.mark.parametrize("turn", TURNS, ids=str)
@pytest.mark.parametrize(("kind", "phase"), PHASES[::5])
def test_the_network_gets_the_same_photosites(
    kind: CfaKind, phase: tuple[int, int], turn: Turn
) -> None:
    """Packed and unpacked again, the balanced mosaic is the same, only turned."""
    shape, gains = (25, 31), np.array([2, 1, 1.5], np.float32)
    period = len(CANONICAL[kind])
    cell = colors_of(kind, phase, (period, period)).astype(np.float32)  # one plane, one level
    frame = replace(frame_of(kind, phase, shape), black=500 + cell, white=16000 - 10 * cell)

    def balanced(photo: RawFrame) -> NDArray[np.float32]:
        packed = prepare(photo, 3, gains, None)
        mosaic: NDArray[np.float32] = packed.crop(unpack(packed.planes, kind)[None])[0]
        return mosaic

    assert np.array_equal(balanced(turn_frame(frame, turn)), turn.apply(balanced(frame)))
