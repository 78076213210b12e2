"""Turned crops: geometry and colours stay together, in the canonical phase."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.data.augment import (
    GivenBalance,
    crop,
    draw_corner,
    draw_turn,
    window,
)
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR, CfaKind
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RawFrame
from gia_cli.raw.turns import TURNS, Turn

SIZE = 60


def picture_of(rng: np.random.Generator) -> NDArray[np.uint16]:
    """A picture in which every value says where it lies and which colour it is."""
    return rng.permutation(SIZE * SIZE * 3).reshape(SIZE, SIZE, 3).astype(np.uint16)


def frame_of(picture: NDArray[np.uint16], kind: CfaKind, phase: tuple[int, int]) -> RawFrame:
    """Record a picture without any loss: each photosite is the picture's value of its colour."""
    canonical = CANONICAL[kind]
    period = len(canonical)
    rows, cols = np.ogrid[:SIZE, :SIZE]
    colors = canonical[(rows + phase[0]) % period, (cols + phase[1]) % period]
    mosaic = np.take_along_axis(picture, colors[..., None].astype(int), 2)[..., 0]
    cell = colors[:period, :period].astype(np.float32)
    return RawFrame(
        path=Path("x"),
        mosaic=mosaic,
        kind=kind,
        phase=phase,
        black=100 + cell,
        white=10000 - cell,
        as_shot_wb=np.ones(3, np.float32),
        daylight_wb=None,
        xyz_to_camera=None,
        flip=6,
        shot=ShotInfo(),
    )


@pytest.mark.parametrize("turn", TURNS, ids=str)
@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        ("bayer", (0, 0)),
        ("bayer", (1, 0)),
        ("bayer", (1, 1)),
        ("xtrans", (0, 0)),
        ("xtrans", (2, 5)),
        ("xtrans", (4, 1)),
    ],
)
def test_every_photosite_stays_with_its_pixel(
    rng: np.random.Generator, kind: CfaKind, phase: tuple[int, int], turn: Turn
) -> None:
    picture = picture_of(rng)
    frame = frame_of(picture, kind, phase)
    side = 8
    size, period = side * PACK_FACTOR[kind], len(CANONICAL[kind])
    for _ in range(6):
        top, left = draw_corner(picture.shape, window(kind, side), rng)
        piece, target = crop(frame, picture, top=top, left=left, side=side, turn=turn)
        assert piece.phase == (0, 0)
        assert piece.flip == 0
        assert piece.mosaic.shape == target.shape[:2] == (size, size)
        rows, cols = np.ogrid[:size, :size]
        colors = CANONICAL[kind][rows % period, cols % period].astype(int)
        assert np.array_equal(
            piece.mosaic, np.take_along_axis(target, colors[..., None], 2)[..., 0]
        )
        assert np.array_equal(piece.black, 100.0 + CANONICAL[kind])
        assert np.array_equal(piece.white, 10000.0 - CANONICAL[kind])


def test_the_eight_turns_differ_and_all_are_drawn(rng: np.random.Generator) -> None:
    square = np.arange(9).reshape(3, 3)
    assert len({turn.apply(square).tobytes() for turn in TURNS}) == 8
    assert {draw_turn(rng) for _ in range(200)} == set(TURNS)


def test_corners_reach_every_border(rng: np.random.Generator) -> None:
    drawn = {draw_corner((10, 12, 3), 9, rng) for _ in range(300)}
    assert drawn == {(y, x) for y in range(2) for x in range(4)}


def test_a_crop_beyond_the_frame_is_refused(rng: np.random.Generator) -> None:
    frame = frame_of(picture_of(rng), "bayer", (0, 0))
    with pytest.raises(ValueError, match="within"):
        crop(frame, picture_of(rng), top=50, left=0, side=8, turn=Turn())


def test_an_xtrans_crop_is_whole_periods(rng: np.random.Generator) -> None:
    frame = frame_of(picture_of(rng), "xtrans", (0, 0))
    with pytest.raises(ValueError, match="periods"):
        crop(frame, picture_of(rng), top=0, left=0, side=7, turn=Turn())


# ---------------------------------------------------------------- white balance


def test_half_of_the_photos_get_the_balance_of_their_light_and_the_others_another() -> None:
    rng = np.random.default_rng(0)
    as_shot = np.array([2.0, 1.0, 2.5])
    drawn = np.array([GivenBalance().draw(as_shot, rng) for _ in range(4000)])
    assert drawn.dtype == np.float32
    assert (drawn[:, 1] == 1).all()
    wrong = (drawn != as_shot).any(axis=1)
    assert wrong.mean() == pytest.approx(0.5, abs=0.03)
    errors = np.log(drawn[wrong][:, [0, 2]] / as_shot[[0, 2]])
    assert errors.std(axis=0) == pytest.approx([0.15, 0.15], abs=0.02)
    assert errors.mean(axis=0) == pytest.approx([0, 0], abs=0.03)


def test_validation_gives_the_balance_of_the_light_always() -> None:
    as_shot = np.array([2.0, 1.0, 2.5])
    right = GivenBalance(changed_share=0)
    assert all((right.draw(as_shot, np.random.default_rng(i)) == as_shot).all() for i in range(50))


def test_no_gain_is_less_than_one() -> None:
    """Else what saturates the sensor would not be white; LibRaw scales its gains so, too."""
    light, rng = np.array([1.05, 1.0, 3.0]), np.random.default_rng(1)
    drawn = np.array([GivenBalance(1.0, 0.3).draw(light, rng) for _ in range(500)])
    assert drawn.min() == 1
    assert (drawn[:, 1] > 1).any()
