"""Black and white levels: fractions, patterns, rows and columns, the user's, the border's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.errors import DamagedFileError, UsageError
from gia_cli.raw.cfa import RGGB, XTRANS, plane_values
from gia_cli.raw.levels import Levels, border_black, contradicts
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import RawFrame, read_raw
from gia_cli.raw.tiff import LONG, RATIONAL, SHORT, SRATIONAL, Entry
from gia_cli.raw.writer import A_SHOT, write_dng

FUJI = replace(A_SHOT, make="FUJIFILM", model="X-T2")
HEIGHT, WIDTH = 48, 60


def _signal(rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.integers(0, 3000, (HEIGHT, WIDTH))


def _levels(pattern: NDArray[Any]) -> list[Entry]:
    return [
        Entry(0xC619, SHORT, list(pattern.shape)),
        Entry(0xC61A, RATIONAL, [float(v) for v in pattern.ravel()]),
    ]


def _tiled(pattern: NDArray[Any]) -> NDArray[Any]:
    rows, columns = pattern.shape
    return np.tile(pattern, (-(-HEIGHT // rows), -(-WIDTH // columns)))[:HEIGHT, :WIDTH]


def _light(frame: RawFrame) -> NDArray[np.float64]:
    """What each photosite holds above black, in the file's DN."""
    period = len(frame.black)
    black = np.tile(frame.black, (HEIGHT // period + 1, WIDTH // period + 1))[:HEIGHT, :WIDTH]
    return np.asarray((frame.mosaic - black.astype(np.float64)) / frame.dn_scale)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (4, 4), (8, 8), (2, 6), (3, 5)], ids=str)
def test_a_pattern_of_any_size_is_subtracted(
    tmp_path: Path, rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    pattern = rng.integers(500, 540, shape)
    signal = _signal(rng)
    write_dng(tmp_path / "photo.dng", signal + _tiled(pattern), extra=_levels(pattern))
    frame = read_raw(tmp_path / "photo.dng")
    assert _light(frame) == pytest.approx(signal, abs=1e-3)
    assert frame.dn_scale == 1


def test_fractions_are_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    phone = np.array([[1024.55, 1024.73], [1023.78, 1023.93]])
    write_dng(tmp_path / "photo.dng", _signal(rng) + 1024, extra=_levels(phone))
    frame = read_raw(tmp_path / "photo.dng")
    assert frame.black == pytest.approx(phone, abs=1e-3)
    assert frame.dn_scale == 1


def test_fractions_of_a_larger_pattern_do_not_round(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    pattern = 60 + 8 * rng.random((4, 4))
    raw = np.full((HEIGHT, WIDTH), 200)
    write_dng(tmp_path / "photo.dng", raw, white=1023, extra=_levels(pattern))
    frame = read_raw(tmp_path / "photo.dng")
    assert frame.dn_scale > 100
    assert _light(frame) == pytest.approx(200 - _tiled(pattern), abs=0.01)
    assert frame.white / frame.dn_scale == pytest.approx(np.full((2, 2), 1023))
    scaled = prepare(frame, 1.0).planes
    plain = (200 - _tiled(pattern))[0::2, 0::2] / (1023 - pattern[0::2, 0::2].max())
    assert scaled[0] == pytest.approx(plain, abs=1e-4)


def test_x_trans_levels_of_each_place(tmp_path: Path, rng: np.random.Generator) -> None:
    pattern = rng.integers(1000, 1040, (6, 6))
    signal = _signal(rng)
    write_dng(
        tmp_path / "photo.dng",
        signal + _tiled(pattern),
        shot=FUJI,
        pattern=XTRANS,
        extra=_levels(pattern),
    )
    frame = read_raw(tmp_path / "photo.dng")
    assert frame.kind == "xtrans"
    assert _light(frame) == pytest.approx(signal, abs=1e-3)
    # A plane of the network's input has one level.
    planes = plane_values(frame.black, "xtrans", frame.phase)
    assert planes.tolist() == [
        frame.black[np.roll(XTRANS, (-frame.phase[0], -frame.phase[1]), (0, 1)) == color].max()
        for color in (0, 1, 2, 0, 2, 1, 1, 1, 1)
    ]


@pytest.mark.parametrize("area", [None, (4, 6, HEIGHT, WIDTH), (3, 5, HEIGHT, WIDTH)], ids=str)
def test_rows_and_columns_have_their_own(
    tmp_path: Path, rng: np.random.Generator, area: tuple[int, int, int, int] | None
) -> None:
    top, left = (area or (0, 0))[:2]
    rows, columns = rng.integers(-20, 20, HEIGHT - top), rng.integers(-20, 20, WIDTH - left)
    pattern = rng.integers(500, 520, (4, 2))
    signal = _signal(rng)
    whole = np.zeros((HEIGHT, WIDTH), np.int64)
    whole[top:, left:] = _tiled(pattern)[: HEIGHT - top, : WIDTH - left]
    whole[top:, left:] += rows[:, None] + columns
    write_dng(
        tmp_path / "photo.dng",
        signal + whole,
        active_area=area,
        pattern=RGGB,
        extra=[
            *_levels(pattern),
            Entry(0xC61B, SRATIONAL, [(int(v), 1) for v in columns]),
            Entry(0xC61C, SRATIONAL, [(int(v), 1) for v in rows]),
        ],
    )
    frame = read_raw(tmp_path / "photo.dng")
    height, width = frame.mosaic.shape
    black = np.tile(frame.black, (HEIGHT, WIDTH))[:height, :width]
    # LibRaw may leave out a row and a column to make margins even.
    assert frame.mosaic - black == pytest.approx(signal[-height:, -width:], abs=1e-3)


@pytest.mark.parametrize("bad", [[(1, 0)], [(512, 1), (513, 1)]], ids=str)
def test_nonsense_levels_are_not_taken(
    tmp_path: Path, rng: np.random.Generator, bad: list[tuple[int, int]]
) -> None:
    extra = [Entry(0xC619, SHORT, [1, 1]), Entry(0xC61A, RATIONAL, bad)]
    write_dng(tmp_path / "photo.dng", _signal(rng) + 600, extra=extra)
    frame = read_raw(tmp_path / "photo.dng")  # goes by what LibRaw makes of them
    assert np.isin(frame.black, [0, 1, 512]).all()
    assert frame.dn_scale == 1


# ---------------------------------------------------------------- the user's


def test_a_user_may_state_levels(tmp_path: Path, rng: np.random.Generator) -> None:
    pattern = rng.integers(500, 540, (4, 4))
    mosaic = _signal(rng) + 600
    write_dng(tmp_path / "photo.dng", mosaic, extra=_levels(pattern))
    frame = read_raw(tmp_path / "photo.dng", levels=Levels.parse("400", 8000))
    assert np.array_equal(frame.mosaic, mosaic)
    assert frame.black.tolist() == [[400, 400], [400, 400]]
    assert frame.white.tolist() == [[8000, 8000], [8000, 8000]]
    frame = read_raw(tmp_path / "photo.dng", levels=Levels.parse("401,402.5,403"))
    assert frame.black.tolist() == [[401, 402.5], [402.5, 403]]
    assert frame.white.tolist() == [[16383, 16383], [16383, 16383]]


def test_levels_of_nonsense_can_be_mended(tmp_path: Path, rng: np.random.Generator) -> None:
    write_dng(tmp_path / "photo.dng", _signal(rng) + 600, black=(512,), white=512)
    with pytest.raises(DamagedFileError, match="--white-level"):
        read_raw(tmp_path / "photo.dng")
    frame = read_raw(tmp_path / "photo.dng", levels=Levels.parse(white=4000))
    assert frame.white.max() == 4000


NO_BLACK = ["x", "1,2", "-1", "nan", (1, 2, 3, 4), 70000]
NO_WHITE = [0, float("nan"), 65536]
NEITHER = [(512, 512), ("1,600,1", 500)]


@pytest.mark.parametrize(
    ("black", "white"),
    [*((black, None) for black in NO_BLACK), *((None, white) for white in NO_WHITE), *NEITHER],
)
def test_levels_that_are_none_are_refused(black: Any, white: Any) -> None:
    with pytest.raises(UsageError):
        Levels.parse(black, white)


# ---------------------------------------------------------------- the border


def _bordered(rng: np.random.Generator, border: float, light: float) -> NDArray[np.uint16]:
    sensor = rng.normal(border, 4, (120, 160))
    sensor[12:, 20:] += light * rng.random((108, 140))
    return np.clip(sensor.round(), 0, 65535).astype(np.uint16)


VISIBLE = slice(12, 120), slice(20, 160)


def test_a_covered_border_shows_the_black_level(rng: np.random.Generator) -> None:
    sensor = _bordered(rng, 2074, 3000)
    found = border_black(sensor, VISIBLE)
    assert found == pytest.approx(2074, abs=1)
    masked = [(0, 0, 10, 160)]
    assert border_black(sensor, VISIBLE, masked) == pytest.approx(2074, abs=1)
    black, white = np.zeros((2, 2)), np.full((2, 2), 16383.0)
    assert contradicts(2074, black, white)
    assert not contradicts(2074, black + 2070, white)


def test_a_border_that_is_none_says_nothing(rng: np.random.Generator) -> None:
    sensor = _bordered(rng, 512, 3000)
    sensor[:12] = sensor[:, :20] = 0  # filled, not measured
    assert border_black(sensor, VISIBLE) is None
    lit = _bordered(rng, 512, 3000)
    lit[:12] = lit[:, :20] = 3000  # with light on it
    lit[:12] += rng.integers(0, 50, (12, 160)).astype(np.uint16)
    assert border_black(lit, VISIBLE) is None
    assert border_black(sensor, (slice(0, 120), slice(0, 160))) is None


def test_a_file_may_not_name_areas_without_end(rng: np.random.Generator) -> None:
    """Sixteen thousand fit into a tag, and each may be the whole sensor."""
    sensor = _bordered(rng, 2074, 3000)
    lit, masked = (30, 40, 100, 140), (0, 0, 10, 160)
    sensor[30:100, 40:140] += 4000
    assert border_black(sensor, VISIBLE, [lit] * 7 + [masked]) == pytest.approx(2074, abs=1)
    assert border_black(sensor, VISIBLE, [lit] * 16_000 + [masked]) is None


def test_a_contradiction_is_noted(tmp_path: Path, rng: np.random.Generator) -> None:
    sensor = _bordered(rng, 2074, 3000)
    area = (12, 20, 120, 160)
    masked = Entry(0xC68E, LONG, [0, 0, 10, 160])
    write_dng(tmp_path / "photo.dng", sensor, black=(0,), active_area=area, extra=[masked])
    (note,) = read_raw(tmp_path / "photo.dng").notes
    assert "black level of 0" in note and "2074" in note and "--black-level" in note
    assert read_raw(tmp_path / "photo.dng", levels=Levels.parse(2074)).notes == ()
    write_dng(tmp_path / "photo.dng", sensor, black=(2074,), active_area=area, extra=[masked])
    assert read_raw(tmp_path / "photo.dng").notes == ()
