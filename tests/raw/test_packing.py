"""The one door into a network: the formula, photosite by photosite, and the way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.raw.cfa import RGGB, XTRANS, Alignment, CfaKind, unpack
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.packing import PackedMosaic, neutral_gains, picture_shape, prepare
from gia_cli.raw.reader import RawFrame

CANONICAL: dict[CfaKind, NDArray[np.uint8]] = {"bayer": RGGB, "xtrans": XTRANS}
SCALE: dict[CfaKind, int] = {"bayer": 2, "xtrans": 3}
PLANES: dict[CfaKind, int] = {"bayer": 4, "xtrans": 9}

BAYER_PHASES = [(0, 0), (0, 1), (1, 0), (1, 1)]
XTRANS_PHASES = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 5), (5, 3)]
CASES: list[tuple[CfaKind, tuple[int, int]]] = [
    *(("bayer", phase) for phase in BAYER_PHASES),
    *(("xtrans", phase) for phase in XTRANS_PHASES),
]
SIZES = [(24, 36), (25, 36), (24, 37), (23, 31), (12, 12), (7, 9)]


def colors_of(frame: RawFrame) -> NDArray[np.uint8]:
    """Colour of every photosite, by the definition of the phase."""
    cell = CANONICAL[frame.kind]
    period = cell.shape[0]
    height, width = frame.mosaic.shape
    dy, dx = frame.phase
    rows, cols = (np.arange(height)[:, None] + dy) % period, (np.arange(width)[None] + dx) % period
    colors: NDArray[np.uint8] = cell[rows, cols]
    return colors


def make_frame(
    rng: np.random.Generator, kind: CfaKind, phase: tuple[int, int], size: tuple[int, int]
) -> RawFrame:
    """A frame whose levels differ as much as they may: by place (Bayer) or colour (X-Trans)."""
    period = CANONICAL[kind].shape[0]
    mosaic = rng.integers(0, 16384, size, np.uint16)
    if kind == "bayer":
        black = rng.permutation(np.array([[500, 512.5], [530, 610]]))
        white = rng.permutation(np.array([[16000, 15000], [15500, 16383]]))
    else:
        dy, dx = phase
        colors = np.roll(XTRANS, (-dy, -dx), axis=(0, 1))
        black = np.array([1000, 1024, 1100])[colors]
        white = np.array([16000, 15000, 16383])[colors]
    assert black.shape == (period, period)
    return RawFrame(
        path=Path("made.raw"),
        mosaic=mosaic,
        kind=kind,
        phase=phase,
        black=black.astype(np.float32),
        white=white.astype(np.float32),
        as_shot_wb=np.array([2.1, 1, 1.7], np.float32),
        daylight_wb=None,
        xyz_to_camera=None,
        flip=0,
        shot=ShotInfo(),
    )


def by_photosite(
    frame: RawFrame, ratio: float, gains: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """The formula in float64 for every photosite, in the mosaic's own geometry."""
    height, width = frame.mosaic.shape
    period = frame.black.shape[0]
    rows, cols = np.arange(height)[:, None] % period, np.arange(width)[None] % period
    black = frame.black.astype(np.float64)[rows, cols]
    white = frame.white.astype(np.float64)[rows, cols]
    x = np.maximum(frame.mosaic.astype(np.float64) - black, 0) / (white - black) * ratio
    if gains is not None:
        x *= np.asarray(gains, np.float64)[colors_of(frame)]
    clipped: NDArray[np.float64] = np.minimum(x, 1)
    return clipped


def to_mosaic(packed: PackedMosaic) -> NDArray[np.float32]:
    """Planes back to the frame's own mosaic: unpack, then cut off what alignment added."""
    aligned: NDArray[np.float32] = unpack(packed.planes, packed.kind)
    top, left = packed.alignment.top, packed.alignment.left
    return aligned[top : top + packed.height, left : left + packed.width]


@pytest.mark.parametrize("gains", [None, (1.7, 1, 0.6)])
@pytest.mark.parametrize("ratio", [1, 3.7, 250])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_every_photosite_follows_the_formula(
    kind: CfaKind,
    phase: tuple[int, int],
    size: tuple[int, int],
    ratio: float,
    gains: tuple[float, ...] | None,
    rng: np.random.Generator,
) -> None:
    frame = make_frame(rng, kind, phase, size)
    if ratio > 100:  # a scene's values, so that not all are clipped
        dark = frame.black.min() + frame.mosaic // 128
        frame = replace(frame, mosaic=dark.astype(np.uint16))
    array = None if gains is None else np.array(gains, np.float32)
    expected = by_photosite(frame, ratio, array)
    assert np.mean((expected > 0) & (expected < 1)) > 0.1
    np.testing.assert_allclose(to_mosaic(prepare(frame, ratio, array)), expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_planes_are_whole_cells_of_float32(
    kind: CfaKind, phase: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> None:
    packed = prepare(make_frame(rng, kind, phase, size), 100)
    period, scale = CANONICAL[kind].shape[0], SCALE[kind]
    channels, height, width = packed.planes.shape
    assert packed.planes.dtype == np.float32
    assert channels == PLANES[kind]
    for packed_side, side, before in zip((height, width), size, phase, strict=True):
        assert packed_side * scale % period == 0
        assert 0 <= packed_side * scale - side - before < period
    assert (packed.height, packed.width) == size
    assert picture_shape(packed) == (3, height * scale, width * scale)
    assert packed.kind == kind


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_every_plane_holds_one_colour(
    kind: CfaKind, phase: tuple[int, int], rng: np.random.Generator
) -> None:
    """A frame in which each colour has a level of its own gives flat planes."""
    frame = make_frame(rng, kind, phase, (23, 31))
    period = frame.black.shape[0]
    flat = replace(
        frame,
        mosaic=np.array([100, 200, 300], np.uint16)[colors_of(frame)],
        black=np.zeros((period, period), np.float32),
        white=np.full((period, period), 1000, np.float32),
    )
    planes = prepare(flat, 1).planes
    levels = planes[:, 0, 0]
    assert np.array_equal(planes, np.broadcast_to(levels[:, None, None], planes.shape))
    ids = [0, 1, 2, 1] if kind == "bayer" else [0, 1, 2, 0, 2, 1, 1, 1, 1]
    np.testing.assert_allclose(levels, np.array([0.1, 0.2, 0.3])[ids], rtol=1e-6)


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_values_are_clipped_to_the_unit_interval(
    kind: CfaKind, phase: tuple[int, int], rng: np.random.Generator
) -> None:
    frame = make_frame(rng, kind, phase, (24, 30))
    planes = prepare(frame, 5).planes
    assert planes.min() == 0
    assert planes.max() == 1
    for level, value in ((0, 0), (65535, 1)):
        mosaic = np.full_like(frame.mosaic, level)
        assert (prepare(replace(frame, mosaic=mosaic), 1).planes == value).all()


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_black_is_zero_and_white_is_one(
    kind: CfaKind, phase: tuple[int, int], rng: np.random.Generator
) -> None:
    frame = make_frame(rng, kind, phase, (24, 30))
    frame = replace(frame, black=np.floor(frame.black))
    period = frame.black.shape[0]
    for levels, value in ((frame.black, 0), (frame.white, 1)):
        mosaic = np.tile(levels.astype(np.uint16), (24 // period, 30 // period))
        planes = prepare(replace(frame, mosaic=mosaic), 1).planes
        np.testing.assert_allclose(planes, value, atol=1e-6)


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_ratio_and_gains_amplify_alike(
    kind: CfaKind, phase: tuple[int, int], rng: np.random.Generator
) -> None:
    frame = make_frame(rng, kind, phase, (24, 30))
    doubled = np.full(3, 2, np.float32)
    assert np.array_equal(prepare(frame, 6).planes, prepare(frame, 3, doubled).planes)
    ones = np.ones(3, np.float32)
    assert np.array_equal(prepare(frame, 3).planes, prepare(frame, 3, ones).planes)
    assert prepare(frame, 6).planes.mean() > prepare(frame, 3).planes.mean()


@pytest.mark.parametrize("gains_dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_the_frame_is_not_modified(
    kind: CfaKind, phase: tuple[int, int], gains_dtype: type[np.floating], rng: np.random.Generator
) -> None:
    frame = make_frame(rng, kind, phase, (24, 30))
    fields = ("mosaic", "black", "white", "as_shot_wb")
    before = [getattr(frame, name).copy() for name in fields]
    for name in fields:
        getattr(frame, name).flags.writeable = False
    gains = np.array([1.5, 1, 0.8], gains_dtype)
    gains.flags.writeable = False
    packed = prepare(frame, 10, gains)
    assert packed.planes.dtype == np.float32
    assert not np.shares_memory(packed.planes, frame.mosaic)
    for name, values in zip(fields, before, strict=True):
        assert np.array_equal(getattr(frame, name), values)


@pytest.mark.parametrize("phase", BAYER_PHASES)
def test_shifting_a_bayer_mosaic_shifts_its_phase(
    phase: tuple[int, int], rng: np.random.Generator
) -> None:
    """Cutting off the first row or column, and saying so, leaves the remaining photosites alone."""
    frame = make_frame(rng, "bayer", (0, 0), (24, 30))
    dy, dx = phase
    cut = replace(
        frame,
        mosaic=frame.mosaic[dy:, dx:],
        phase=phase,
        black=np.roll(frame.black, (-dy, -dx), axis=(0, 1)),
        white=np.roll(frame.white, (-dy, -dx), axis=(0, 1)),
    )
    whole, part = prepare(frame, 2).planes, prepare(cut, 2).planes
    assert whole.shape == part.shape
    assert np.array_equal(part[:, dy:, dx:], whole[:, dy:, dx:])


# ---------------------------------------------------------------- crop


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_crop_brings_a_picture_back_to_the_frame(
    kind: CfaKind, phase: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> None:
    """A picture that copies the aligned mosaic, cropped, is the mosaic itself."""
    frame = make_frame(rng, kind, phase, size)
    frame = replace(
        frame,
        black=np.zeros_like(frame.black),
        white=np.full_like(frame.white, 65535),
    )
    packed = prepare(frame, 1)
    picture = np.stack([unpack(packed.planes, kind)] * 3)
    assert picture.shape == picture_shape(packed)
    cropped = packed.crop(picture)
    assert cropped.shape == (3, *size)
    for channel in cropped:
        assert np.array_equal(np.rint(channel * 65535), frame.mosaic)


def test_crop_is_a_view() -> None:
    packed = PackedMosaic(np.zeros((4, 5, 5), np.float32), "bayer", 8, 9, Alignment(1, 0, 1, 1))
    picture = np.arange(300, dtype=np.float32).reshape(3, 10, 10)
    cropped = packed.crop(picture)
    assert np.shares_memory(cropped, picture)
    assert np.array_equal(cropped, picture[:, 1:9, 0:9])


# ---------------------------------------------------------------- neutral gains


def random_wb(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.array([rng.uniform(1, 3), 1, rng.uniform(1, 3)])


def test_the_same_camera_needs_no_gains(rng: np.random.Generator) -> None:
    for _ in range(20):
        wb = random_wb(rng)
        assert np.array_equal(neutral_gains(wb, wb), np.ones(3, np.float32))


def test_gains_leave_green_alone_and_invert_each_other(rng: np.random.Generator) -> None:
    for _ in range(20):
        one, other = random_wb(rng), random_wb(rng)
        there, back = neutral_gains(one, other), neutral_gains(other, one)
        assert there.dtype == np.float32
        assert there.shape == (3,)
        assert there[1] == back[1] == 1
        np.testing.assert_allclose(there * back, 1, rtol=1e-6)


def test_gains_make_a_grey_card_read_alike(rng: np.random.Generator) -> None:
    for _ in range(20):
        wb, training_wb = random_wb(rng), random_wb(rng)
        reading, training_reading = 0.2 / wb, 0.2 / training_wb
        gains = neutral_gains(wb, training_wb)
        np.testing.assert_allclose(reading * gains, training_reading, rtol=1e-6)


def test_gains_chain_and_do_not_depend_on_scale(rng: np.random.Generator) -> None:
    a, b, c = (random_wb(rng) for _ in range(3))
    chained = neutral_gains(a, b) * neutral_gains(b, c)
    np.testing.assert_allclose(chained, neutral_gains(a, c), rtol=1e-6)
    np.testing.assert_allclose(neutral_gains(a * 3, b * 0.5), neutral_gains(a, b), rtol=1e-6)


@pytest.mark.parametrize(("kind", "phase"), CASES)
def test_a_grey_card_looks_alike_from_two_cameras(
    kind: CfaKind, phase: tuple[int, int], rng: np.random.Generator
) -> None:
    """Neutral gains and `prepare` together: other camera, same network input."""
    cameras = [random_wb(rng), random_wb(rng)]
    planes = []
    for wb, gains in ((cameras[0], None), (cameras[1], neutral_gains(cameras[1], cameras[0]))):
        frame = make_frame(rng, kind, phase, (24, 30))
        reading = (0.3 / wb)[colors_of(frame)]
        period = frame.black.shape[0]
        rows, cols = np.arange(24)[:, None] % period, np.arange(30)[None] % period
        black, white = frame.black[rows, cols], frame.white[rows, cols]
        mosaic = np.rint(black + reading * (white - black)).astype(np.uint16)
        planes.append(prepare(replace(frame, mosaic=mosaic), 2, gains).planes)
    np.testing.assert_allclose(planes[0], planes[1], atol=1e-3)
    assert planes[0].std() > 0.01
