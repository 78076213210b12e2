from __future__ import annotations

import errno
import io
import os
import random
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import rawpy
import tifffile
from numpy.typing import NDArray

from gia_cli.cameras import A7S2_MATRIX, XT2_MATRIX
from gia_cli.errors import (
    DamagedFileError,
    EmptyFileError,
    FileMissingError,
    FoveonError,
    LinearRawError,
    MonochromeError,
    NotAFileError,
    NotRawError,
    OutOfMemoryError,
    OutputError,
    RawError,
    UnreadableFileError,
    UnsupportedCfaError,
    UnsupportedCompressionError,
    UsageError,
)
from gia_cli.imaging.color import srgb_decode
from gia_cli.imaging.writer import square_pixels
from gia_cli.raw import libraw
from gia_cli.raw.calibrated_black import likely_black
from gia_cli.raw.cfa import (
    CANONICAL,
    PLANE_COLORS,
    RGGB,
    XTRANS,
    CfaKind,
    align,
    classify,
    find_phase,
    pack,
    plane_values,
)
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RAW_SUFFIXES, RawFrame, read_raw, render
from gia_cli.raw.tiff import ASCII, LONG, RATIONAL, SHORT, ByteOrder, Entry, build, ifd_bytes
from gia_cli.raw.writer import A_SHOT, write_arw, write_dng, write_raf
from gia_cli.runtime import peak_resident_bytes
from tests.fuzz.coded import crw
from tests.imaging.upright import orient

BAYER_PHASES = list(np.ndindex(2, 2))
XTRANS_PHASES = list(np.ndindex(6, 6))
FUJI = replace(A_SHOT, make="FUJIFILM", model="X-T2")
Area = tuple[int, int, int, int]


def _noise(rng: np.random.Generator, height: int = 40, width: int = 48) -> NDArray[np.uint16]:
    return rng.integers(600, 16384, (height, width)).astype(np.uint16)


def _rolled(pattern: NDArray[np.uint8], phase: tuple[int, int]) -> NDArray[np.uint8]:
    """The repeat pattern of a mosaic that starts `phase` photosites into `pattern`."""
    return np.roll(pattern, (-phase[0], -phase[1]), (0, 1))


def _tagged(
    pattern: NDArray[np.uint8], area: Area, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """A mosaic whose values tell their place, and by remainder 3 their colour.

    `pattern` counts from the area's top left, as DNG wants it.
    """
    period = len(pattern)
    rows, cols = np.arange(height)[:, None] - area[0], np.arange(width)[None] - area[1]
    place = 1000 + 3 * rng.permutation(height * width).reshape(height, width)
    return (place - place % 3 + pattern[rows % period, cols % period]).astype(np.uint16)


def _place(part: NDArray[np.uint16], whole: NDArray[np.uint16]) -> tuple[int, int]:
    """Where in `whole` the visible area `part` was cut; it must occur just once."""
    height, width = part.shape
    found = [
        (y, x)
        for y in range(whole.shape[0] - height + 1)
        for x in range(whole.shape[1] - width + 1)
        if whole[y, x] == part[0, 0] and np.array_equal(whole[y : y + height, x : x + width], part)
    ]
    assert len(found) == 1
    return found[0]


def _assert_planes_hold_one_colour_each(frame: RawFrame) -> None:
    aligned, added = align(frame.mosaic, frame.phase, frame.kind)
    planes = pack(aligned, frame.kind)
    for plane, color in zip(planes, PLANE_COLORS[frame.kind], strict=True):
        assert np.all(plane % 3 == color)
    height, width = frame.mosaic.shape
    inner = aligned[added.top : added.top + height, added.left : added.left + width]
    assert np.array_equal(inner, frame.mosaic)


# ---------------------------------------------------------------- geometry: Bayer


@pytest.mark.parametrize("phase", BAYER_PHASES)
@pytest.mark.parametrize(
    "area",
    [
        None,
        (0, 0, 31, 37),
        (1, 0, 32, 37),
        (0, 1, 33, 38),
        (3, 5, 36, 42),
        (8, 8, 40, 46),
        (7, 9, 39, 47),
    ],
    ids=str,
)
def test_every_bayer_phase_and_active_area(
    tmp_path: Path, phase: tuple[int, int], area: Area | None, rng: np.random.Generator
) -> None:
    pattern = _rolled(RGGB, phase)
    active = area or (0, 0, 40, 48)
    mosaic = _tagged(pattern, active, 40, 48, rng)
    # One level for each place of the pattern, by its place in the canonical cell.
    black = [500 + 10 * (2 * ((y + phase[0]) % 2) + (x + phase[1]) % 2) for y, x in BAYER_PHASES]
    path = tmp_path / "photo.dng"
    write_dng(path, mosaic, pattern=pattern, active_area=area, black=black)
    frame = read_raw(path)

    assert frame.kind == "bayer"
    top, left = _place(frame.mosaic, mosaic)
    # LibRaw makes odd margins even: at most one row and column of the area go.
    assert 0 <= top - active[0] <= 1 and 0 <= left - active[1] <= 1
    height, width = frame.mosaic.shape
    assert (top + height, left + width) == active[2:]
    _assert_planes_hold_one_colour_each(frame)
    levels = plane_values(frame.black, "bayer", frame.phase)
    assert levels.tolist() == [500, 510, 530, 520]  # R, G1, B, G2


@pytest.mark.parametrize("size", [(24, 24), (25, 31), (40, 27), (33, 48)])
@pytest.mark.parametrize("phase", BAYER_PHASES)
def test_bayer_of_odd_sizes(
    tmp_path: Path, size: tuple[int, int], phase: tuple[int, int], rng: np.random.Generator
) -> None:
    pattern = _rolled(RGGB, phase)
    mosaic = _tagged(pattern, (0, 0, *size), *size, rng)
    write_dng(tmp_path / "photo.dng", mosaic, pattern=pattern)
    frame = read_raw(tmp_path / "photo.dng")
    assert np.array_equal(frame.mosaic, mosaic)
    assert frame.phase == phase
    _assert_planes_hold_one_colour_each(frame)


# ---------------------------------------------------------------- geometry: X-Trans


@pytest.mark.parametrize("phase", XTRANS_PHASES)
@pytest.mark.parametrize("margins", [None, (6, 12, 30, 36)], ids=["whole", "margins"])
def test_every_xtrans_phase_of_a_raf(
    tmp_path: Path, phase: tuple[int, int], margins: Area | None, rng: np.random.Generator
) -> None:
    pattern = _rolled(XTRANS, phase)
    mosaic = _tagged(pattern, (0, 0, 48, 60), 48, 60, rng)
    write_raf(tmp_path / "photo.raf", mosaic, pattern=pattern, margins=margins)
    frame = read_raw(tmp_path / "photo.raf")
    assert frame.kind == "xtrans"
    top, left, height, width = margins or (0, 0, 48, 60)
    assert np.array_equal(frame.mosaic, mosaic[top : top + height, left : left + width])
    assert frame.phase == find_phase(np.tile(pattern, (2, 2)), "xtrans")
    _assert_planes_hold_one_colour_each(frame)


@pytest.mark.parametrize("margins", [(1, 2, 33, 36), (7, 13, 34, 37), (5, 6, 31, 37)])
def test_xtrans_margins_that_are_not_whole_cells(
    tmp_path: Path, margins: Area, rng: np.random.Generator
) -> None:
    pattern = _rolled(XTRANS, (2, 1))
    mosaic = _tagged(pattern, (0, 0, 48, 60), 48, 60, rng)
    write_raf(tmp_path / "photo.raf", mosaic, pattern=pattern, margins=margins)
    frame = read_raw(tmp_path / "photo.raf")
    top, left = _place(frame.mosaic, mosaic)
    assert top >= margins[0] and left >= margins[1]  # never into the masked border
    assert top + frame.mosaic.shape[0] <= margins[0] + margins[2]
    assert left + frame.mosaic.shape[1] <= margins[1] + margins[3]
    _assert_planes_hold_one_colour_each(frame)


@pytest.mark.parametrize("shot", [FUJI, A_SHOT], ids=["FUJIFILM", "another make"])
@pytest.mark.parametrize(
    "area", [None, (6, 6, 42, 48), (1, 0, 40, 50), (3, 5, 41, 53), (7, 8, 44, 55)], ids=str
)
@pytest.mark.parametrize("phase", [(0, 0), (2, 1), (3, 4), (5, 5)])
def test_xtrans_dng_of_any_make_and_active_area(
    tmp_path: Path,
    shot: ShotInfo,
    area: Area | None,
    phase: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    pattern = _rolled(XTRANS, phase)
    active = area or (0, 0, 48, 60)
    mosaic = _tagged(pattern, active, 48, 60, rng)
    write_dng(tmp_path / "photo.dng", mosaic, shot=shot, pattern=pattern, active_area=area)
    frame = read_raw(tmp_path / "photo.dng")
    assert frame.kind == "xtrans"
    top, left = _place(frame.mosaic, mosaic)
    assert 0 <= top - active[0] < 6 and 0 <= left - active[1] < 6
    _assert_planes_hold_one_colour_each(frame)
    assert np.all(frame.black == 512)
    assert np.all(frame.white == 16383)


def test_libraw_does_forget_the_pattern_of_a_moved_fuji_dng(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """Why `raw` reads the DNG's own tags: without this quirk that code could go."""
    write_dng(
        tmp_path / "photo.dng",
        _noise(rng, 48, 60),
        shot=FUJI,
        pattern=XTRANS,
        active_area=(3, 5, 41, 53),
    )
    with rawpy.imread(str(tmp_path / "photo.dng")) as raw:
        top, left = raw.sizes.top_margin, raw.sizes.left_margin
        letters = [[raw.raw_color(top + y, left + x) for x in range(12)] for y in range(12)]
    assert classify(np.minimum(letters, 3).astype(np.uint8)) is None
    assert read_raw(tmp_path / "photo.dng").kind == "xtrans"


# ---------------------------------------------------------------- pixels


def test_the_mosaic_is_exact_and_outlives_its_file(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    mosaic = _noise(rng)
    for write, name in ((write_arw, "a.arw"), (write_raf, "a.raf"), (write_dng, "a.dng")):
        write(tmp_path / name, mosaic)
        frame = read_raw(tmp_path / name)
        (tmp_path / name).unlink()
        assert frame.mosaic.dtype == np.uint16
        assert frame.mosaic.base is None  # a copy, not a view of LibRaw's buffer
        assert np.array_equal(frame.mosaic, mosaic)


def test_a_path_may_be_a_string(tmp_path: Path, rng: np.random.Generator) -> None:
    write_arw(tmp_path / "photo.arw", _noise(rng))
    frame = read_raw(str(tmp_path / "photo.arw"))
    assert frame.path == tmp_path / "photo.arw"


def test_the_ending_does_not_matter(tmp_path: Path, rng: np.random.Generator) -> None:
    mosaic = _noise(rng)
    write_raf(tmp_path / "photo.jpg", mosaic)
    assert np.array_equal(read_raw(tmp_path / "photo.jpg").mosaic, mosaic)


@pytest.mark.parametrize("value", [0, 16383])
@pytest.mark.parametrize("write", [write_arw, write_raf])
def test_a_dead_or_hot_pixel_changes_nothing_else(
    tmp_path: Path, write: Callable[..., None], value: int, rng: np.random.Generator
) -> None:
    mosaic = _noise(rng)
    write(tmp_path / "good", mosaic)
    for y, x in ((0, 0), (0, 1), (17, 23), (39, 47)):
        bad = mosaic.copy()
        bad[y, x] = value
        write(tmp_path / "bad", bad)
        good, frame = read_raw(tmp_path / "good"), read_raw(tmp_path / "bad")
        assert np.argwhere(frame.mosaic != good.mosaic).tolist() == [[y, x]]
        assert frame.phase == good.phase
        assert np.array_equal(frame.black, good.black)
        assert np.array_equal(frame.white, good.white)


# ---------------------------------------------------------------- levels and colour


def test_black_levels_of_an_arw_stand_at_their_colours(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_arw(tmp_path / "photo.arw", _noise(rng), black=(500, 510, 520, 530))
    frame = read_raw(tmp_path / "photo.arw")
    assert frame.black.tolist() == [[500, 510], [520, 530]]
    assert np.all(frame.white == 16383)
    assert frame.black.dtype == frame.white.dtype == np.float32


@pytest.mark.parametrize("black", [0, 64, 1024])
def test_black_level_of_a_raf(tmp_path: Path, black: int, rng: np.random.Generator) -> None:
    write_raf(tmp_path / "photo.raf", _noise(rng), black=black)
    frame = read_raw(tmp_path / "photo.raf")
    assert frame.black.shape == frame.white.shape == (6, 6)
    assert np.all(frame.black == black)
    assert np.all(frame.white == 16383)


@pytest.mark.parametrize("white", [4000, 16383, 65535])
def test_white_level_is_the_files(tmp_path: Path, white: int, rng: np.random.Generator) -> None:
    write_dng(tmp_path / "photo.dng", rng.integers(600, 4000, (40, 48)), white=white)
    assert np.all(read_raw(tmp_path / "photo.dng").white == white)


@pytest.mark.parametrize("wb", [(2.0, 1.0, 1.5), (1.0, 1.0, 1.0), (0.8, 1.0, 3.1)])
@pytest.mark.parametrize("write", [write_arw, write_raf, write_dng])
def test_white_balance_as_shot(
    tmp_path: Path,
    write: Callable[..., None],
    wb: tuple[float, float, float],
    rng: np.random.Generator,
) -> None:
    write(tmp_path / "photo", _noise(rng), wb=wb)
    gains = read_raw(tmp_path / "photo").as_shot_wb
    assert gains.shape == (3,) and gains.dtype == np.float32
    assert gains[1] == 1
    assert gains == pytest.approx(np.array(wb), rel=4e-3)  # RAF: in steps of 1/302


def test_daylight_white_balance_and_matrix_of_known_cameras(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_arw(tmp_path / "photo.arw", _noise(rng))
    sony = read_raw(tmp_path / "photo.arw")
    assert sony.daylight_wb == pytest.approx([2.767, 1, 1.427], abs=1e-3)
    assert sony.xyz_to_camera == pytest.approx(np.array(A7S2_MATRIX), abs=1e-6)
    write_raf(tmp_path / "photo.raf", _noise(rng))
    fuji = read_raw(tmp_path / "photo.raf")
    assert fuji.xyz_to_camera == pytest.approx(np.array(XT2_MATRIX), abs=1e-6)
    assert fuji.daylight_wb is not None and sony.daylight_wb is not None
    assert np.abs(fuji.daylight_wb - sony.daylight_wb).max() > 0.1


def test_an_unknown_camera_has_neither_matrix_nor_daylight(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    nobody = replace(A_SHOT, make="Nobody", model="None 1")
    write_dng(tmp_path / "photo.dng", _noise(rng), shot=nobody, matrix=((0, 0, 0),) * 3)
    frame = read_raw(tmp_path / "photo.dng")
    assert frame.xyz_to_camera is None
    assert frame.daylight_wb is None
    assert frame.as_shot_wb == pytest.approx([2.34, 1, 1.76], rel=1e-3)
    assert frame.shot.camera == "Nobody None 1"


def test_the_shot_is_the_files(tmp_path: Path, rng: np.random.Generator) -> None:
    for write, camera in ((write_arw, "SONY ILCE-7SM2"), (write_raf, "FUJIFILM X-T2")):
        write(tmp_path / "photo", _noise(rng), shot=replace(A_SHOT, iso=102400))
        shot = read_raw(tmp_path / "photo").shot
        assert shot.camera == camera
        assert replace(shot, make=None, model=None) == replace(A_SHOT, iso=102400)


def test_what_the_file_does_not_say_about_the_shot_is_none(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_dng(tmp_path / "photo.dng", _noise(rng), shot=ShotInfo(make="A", model="B"))
    # LibRaw gives zeros for what it does not know, and 1970 for the date.
    assert read_raw(tmp_path / "photo.dng").shot == ShotInfo(make="A", model="B")


def test_what_the_exif_does_not_say_libraw_is_asked_for(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_arw(tmp_path / "photo.arw", _noise(rng))
    monkeypatch.setattr("gia_cli.raw.reader.read_shot", lambda path: ShotInfo(make="SONY"))
    shot = read_raw(tmp_path / "photo.arw").shot
    assert shot.make == "SONY"
    assert shot.exposure_s == pytest.approx(A_SHOT.exposure_s)
    assert (shot.iso, shot.aperture, shot.focal_mm) == (1600, 8.0, 50.0)
    assert (shot.taken, shot.lens) == (A_SHOT.taken, A_SHOT.lens)


@pytest.mark.parametrize(
    ("tag", "flip"), [(1, 0), (2, 1), (3, 3), (4, 2), (5, 4), (6, 6), (7, 7), (8, 5)]
)
@pytest.mark.parametrize("write", [write_arw, write_raf, write_dng])
def test_orientation_is_noted_and_the_mosaic_left_alone(
    tmp_path: Path, write: Callable[..., None], tag: int, flip: int, rng: np.random.Generator
) -> None:
    mosaic = _noise(rng)
    write(tmp_path / "photo", mosaic, orientation=tag)
    frame = read_raw(tmp_path / "photo")
    assert frame.flip == flip
    frame.check()
    assert np.array_equal(frame.mosaic, mosaic)


# ---------------------------------------------------------------- refusals


def _picture(rng: np.random.Generator, suffix: str) -> bytes:
    picture = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    data: bytes = iio.imwrite("<bytes>", picture, extension=suffix)
    return data


def _tiff(picture: NDArray[np.generic], photometric: str, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, picture, photometric=photometric, **options)
    return file.getvalue()


def _written(folder: Path, write: Callable[..., None], *args: object, **options: object) -> bytes:
    write(folder / "written", *args, **options)
    return (folder / "written").read_bytes()


def _hot(arw: bytes) -> bytes:
    """An ARW whose last pixel does not fit 14 bits; `write_arw` would refuse it."""
    return arw[:-2] + struct.pack("<H", 0x7FFF)


QUAD = np.kron(RGGB, np.ones((2, 2), np.uint8))
Maker = Callable[[Path, np.random.Generator], bytes]
REFUSED: dict[str, tuple[type[RawError], int, Maker]] = {
    "empty": (EmptyFileError, 13, lambda d, r: b""),
    "junk": (NotRawError, 15, lambda d, r: r.bytes(5000)),
    "zeros": (NotRawError, 15, lambda d, r: bytes(5000)),
    "text": (NotRawError, 15, lambda d, r: b"Dear diary, it is dark here.\n" * 50),
    "JPEG": (NotRawError, 15, lambda d, r: _picture(r, ".jpg")),
    "PNG": (NotRawError, 15, lambda d, r: _picture(r, ".png")),
    "GIF": (NotRawError, 15, lambda d, r: _picture(r, ".gif")),
    "BMP": (NotRawError, 15, lambda d, r: _picture(r, ".bmp")),
    "TIFF": (NotRawError, 15, lambda d, r: _picture(r, ".tif")),
    "PDF": (NotRawError, 15, lambda d, r: b"%PDF-1.7\n" + r.bytes(500)),
    "ZIP": (NotRawError, 15, lambda d, r: b"PK\x03\x04" + r.bytes(500)),
    "16-bit TIFF": (
        NotRawError,
        15,
        lambda d, r: _tiff(r.integers(0, 65536, (40, 60, 3)).astype(np.uint16), "rgb"),
    ),
    "big-endian deflated TIFF": (
        NotRawError,
        15,
        lambda d, r: _tiff(
            np.zeros((40, 60, 3), np.uint8), "rgb", byteorder=">", compression="zlib"
        ),
    ),
    "grey TIFF": (NotRawError, 15, lambda d, r: _tiff(_noise(r), "minisblack")),
    "monochrome DNG": (
        MonochromeError,
        16,
        lambda d, r: _written(d, write_dng, _noise(r)[..., None]),
    ),
    "DNG of one colour": (
        MonochromeError,
        16,
        lambda d, r: _written(d, write_dng, _noise(r), pattern=np.ones((2, 2), np.uint8)),
    ),
    "X3F": (FoveonError, 17, lambda d, r: b"FOVb" + r.bytes(5000)),
    "linear DNG": (
        LinearRawError,
        18,
        lambda d, r: _written(d, write_dng, np.dstack([_noise(r)] * 3)),
    ),
    "deflated DNG": (
        UnsupportedCompressionError,
        19,
        lambda d, r: _written(d, write_dng, _noise(r), compression=8),
    ),
    "JBIG DNG": (
        UnsupportedCompressionError,
        19,
        lambda d, r: _written(d, write_dng, _noise(r), compression=9),
    ),
    "Super CCD": (
        UnsupportedCfaError,
        20,
        lambda d, r: _written(d, write_raf, _noise(r), layout=4),
    ),
    "quad Bayer": (
        UnsupportedCfaError,
        20,
        lambda d, r: _written(d, write_dng, _noise(r), pattern=QUAD),
    ),
    "ARW beyond 14 bits": (
        DamagedFileError,
        14,
        lambda d, r: _hot(_written(d, write_arw, _noise(r))),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_each_refusal_has_its_own_class(
    tmp_path: Path, what: str, rng: np.random.Generator
) -> None:
    cls, code, make = REFUSED[what]
    path = tmp_path / "photo.arw"
    path.write_bytes(make(tmp_path, rng))
    with pytest.raises(RawError) as caught:
        read_raw(path)
    assert type(caught.value) is cls
    assert caught.value.exit_code == code
    assert str(path) in caught.value.message
    assert caught.value.message.endswith(".")
    assert "b'" not in str(caught.value)  # LibRaw's texts are bytes
    assert caught.value.hint


def test_the_refused_files_are_all_but_right(tmp_path: Path, rng: np.random.Generator) -> None:
    """The same files without their one defect are read."""
    mosaic = _noise(rng)
    good = {
        "compression": _written(tmp_path, write_dng, mosaic, compression=1),
        "layout": _written(tmp_path, write_raf, mosaic, layout=12),
        "pattern": _written(tmp_path, write_dng, mosaic, pattern=RGGB),
        "range": _written(tmp_path, write_arw, mosaic)[:-2] + struct.pack("<H", 0x3FFF),
    }
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
        assert np.array_equal(read_raw(tmp_path / name).mosaic[:-1], mosaic[:-1])


@pytest.mark.parametrize("write", [write_arw, write_raf, write_dng])
def test_a_file_cut_anywhere_is_damaged(
    tmp_path: Path, write: Callable[..., None], rng: np.random.Generator
) -> None:
    write(tmp_path / "whole", _noise(rng))
    whole = (tmp_path / "whole").read_bytes()
    size = len(whole)
    path = tmp_path / "cut"
    for length in (10, 100, 300, 600, 1200, 2000, size // 2, size * 9 // 10, size - 2, size - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RawError) as caught:
            read_raw(path)
        assert type(caught.value) is DamagedFileError, length
        assert caught.value.exit_code == 14
    path.write_bytes(whole)
    assert read_raw(path).mosaic.size


@pytest.mark.slow
def test_overwritten_bytes_are_refused_or_read_never_anything_else(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    outcomes: set[str] = set()
    for write in (write_arw, write_raf, write_dng):
        write(tmp_path / "whole", _noise(rng))
        whole = (tmp_path / "whole").read_bytes()
        for _ in range(40):
            broken = bytearray(whole)
            for at in rng.integers(0, 900, 6):
                broken[at] = rng.integers(0, 256)
            (tmp_path / "broken").write_bytes(broken)
            try:
                outcomes.add(read_raw(tmp_path / "broken").kind)
            except RawError as error:
                outcomes.add(type(error).__name__)
    assert len(outcomes) > 2


def test_a_photo_that_decodes_to_nothing_is_damaged(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    mosaic = _noise(rng)
    mosaic[10:] = 0
    write_arw(tmp_path / "photo.arw", mosaic)
    with pytest.raises(DamagedFileError):
        read_raw(tmp_path / "photo.arw")
    # Without a black level zeros are just darkness.
    write_raf(tmp_path / "dark.raf", mosaic, black=0)
    assert np.array_equal(read_raw(tmp_path / "dark.raf").mosaic, mosaic)


@pytest.mark.parametrize("function", [read_raw, render])
def test_paths_that_are_no_files(tmp_path: Path, function: Callable[[Path], object]) -> None:
    expected: dict[Path, tuple[type[RawError], int]] = {
        tmp_path / "nowhere.arw": (FileMissingError, 11),
        tmp_path / "no" / "folder.arw": (FileMissingError, 11),
        tmp_path: (NotAFileError, 12),
    }
    for path, (cls, code) in expected.items():
        with pytest.raises(RawError) as caught:
            function(path)
        assert type(caught.value) is cls
        assert caught.value.exit_code == code
        assert str(path) in caught.value.message


@pytest.mark.skipif(os.name != "posix", reason="POSIX limit on names")
def test_a_name_that_is_too_long_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError, match="name too long"):
        read_raw(tmp_path / ("x" * 300 + ".arw"))


def test_a_file_one_may_not_read(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    write_arw(tmp_path / "photo.arw", _noise(rng))
    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(UnreadableFileError, match="Permission denied") as caught:
        read_raw(tmp_path / "photo.arw")
    assert caught.value.exit_code == 21


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may read anything; POSIX permissions"
)
def test_a_file_without_read_permission(tmp_path: Path, rng: np.random.Generator) -> None:
    write_arw(tmp_path / "photo.arw", _noise(rng))
    (tmp_path / "photo.arw").chmod(stat.S_IWUSR)
    with pytest.raises(UnreadableFileError):
        read_raw(tmp_path / "photo.arw")


# ---------------------------------------------------------------- LibRaw's chatter


def test_libraws_chatter_stays_inside(
    tmp_path: Path, rng: np.random.Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    write_arw(tmp_path / "photo.arw", _noise(rng))
    whole = (tmp_path / "photo.arw").read_bytes()
    (tmp_path / "cut.arw").write_bytes(whole[:-100])
    with pytest.raises(rawpy.LibRawError):
        rawpy.imread(str(tmp_path / "cut.arw")).unpack()
    assert "Unexpected end of file" in capfd.readouterr().err  # LibRaw alone does print

    for function in (read_raw, render):
        with pytest.raises(DamagedFileError):
            function(tmp_path / "cut.arw")
        function(tmp_path / "photo.arw")
    assert capfd.readouterr() == ("", "")
    os.write(2, b"stderr is back")
    assert capfd.readouterr().err == "stderr is back"


@pytest.mark.skipif(not hasattr(os, "pread"), reason="threads read one after the other there")
def test_threads_that_read_at_once_hear_only_of_their_own_files(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """The name of one ends with that of another, and one is what LibRaw calls contents."""
    monkeypatch.chdir(tmp_path)
    paths = [Path(name) for name in ("a.arw", "x/a.arw", "b a.arw", "unknown file")]
    Path("x").mkdir()
    for path in paths:
        write_arw(path, _noise(rng))
    inside = threading.Barrier(len(paths), timeout=60)
    genuine, perturbed = libraw._refuse_size, list[bool]()
    bad: set[Path] = set()

    def speak(path: Path, *rest: Any) -> None:
        """As LibRaw does, once all are inside: one after the other none would get further."""
        genuine(path, *rest)
        inside.wait()
        if path in bad:
            os.write(2, f"{path}: Unexpected end of file\n".encode())
        inside.wait()

    @contextmanager
    def counted() -> Iterator[None]:
        perturbed.append(True)
        yield
        perturbed.append(False)

    def read(path: Path) -> str:
        try:
            read_raw(path)
        except DamagedFileError:
            return "damaged"
        return "read"

    monkeypatch.setattr(libraw, "_refuse_size", speak)
    monkeypatch.setattr(libraw, "zeroed_memory", counted)
    with ThreadPoolExecutor(len(paths)) as threads:
        for bad in ({paths[1]}, {paths[0], paths[3]}, set(paths), set[Path]()):
            found = dict(zip(paths, threads.map(read, paths), strict=True))
            assert found == {path: "damaged" if path in bad else "read" for path in paths}
            assert perturbed == [True, False]  # by the first one, and by the last
            perturbed.clear()
    assert capfd.readouterr() == ("", "")
    os.write(2, b"stderr is back")
    assert capfd.readouterr().err == "stderr is back"


@pytest.mark.skipif(os.name != "posix", reason="names of several lines")
def test_a_file_that_libraw_does_not_name_is_read_alone(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is said of it would be anybody's."""
    paths = [tmp_path / name for name in ("a.arw", "b\nc.arw", "d.arw", "e\nf.arw")]
    for path in paths:
        write_arw(path, _noise(rng))
    genuine, lock, inside = libraw._refuse_size, threading.Lock(), set[Path]()
    together: list[set[Path]] = []

    def look(path: Path, *rest: Any) -> None:
        genuine(path, *rest)
        with lock:
            inside.add(path)
        time.sleep(0.01)
        with lock:
            together.append(set(inside))
            inside.discard(path)

    monkeypatch.setattr(libraw, "_refuse_size", look)
    with ThreadPoolExecutor(len(paths)) as threads:
        list(threads.map(read_raw, paths * 4))
    assert len(together) == 4 * len(paths)
    for group in together:
        assert len(group) == 1 or not any("\n" in path.name for path in group)


# ---------------------------------------------------------------- render


def _wedge(height: int = 48, width: int = 64) -> NDArray[np.uint16]:
    """Grey that rises to the right and downwards, so that every orientation looks different."""
    light = np.linspace(0, 1, width)[None] ** 2 * np.linspace(0.3, 1, height)[:, None]
    return (512 + light * 5000).astype(np.uint16)


@pytest.mark.parametrize("brightness", [2.0, 3.5])
def test_brightness_is_a_linear_gain(tmp_path: Path, brightness: float) -> None:
    write_arw(tmp_path / "photo.arw", _wedge(), wb=(1.0, 1.0, 1.0))
    plain = render(tmp_path / "photo.arw")
    bright = render(tmp_path / "photo.arw", brightness=brightness)
    assert plain.dtype == bright.dtype == np.uint8
    middle = (plain > 80) & (bright < 250)
    assert np.count_nonzero(middle) > 500
    ratio = srgb_decode(bright[middle] / 255) / srgb_decode(plain[middle] / 255)
    assert np.abs(ratio / brightness - 1).max() < 0.04  # a level of 8 bits is 2 to 3 %
    assert np.median(ratio) == pytest.approx(brightness, rel=0.01)


@pytest.mark.parametrize("tag", range(1, 9))
def test_rendering_is_oriented_as_orient_does(tmp_path: Path, tag: int) -> None:
    write_dng(tmp_path / "plain.dng", _wedge())
    write_dng(tmp_path / "turned.dng", _wedge(), orientation=tag)
    flip = read_raw(tmp_path / "turned.dng").flip
    upright = orient(render(tmp_path / "plain.dng").astype(np.uint16), flip)
    turned = render(tmp_path / "turned.dng")
    assert np.array_equal(turned, upright)
    assert (tag == 1) == np.array_equal(turned, render(tmp_path / "plain.dng"))


def test_half_size_is_half_the_size(tmp_path: Path) -> None:
    write_arw(tmp_path / "photo.arw", _wedge())
    whole = render(tmp_path / "photo.arw").astype(float)
    half = render(tmp_path / "photo.arw", half_size=True).astype(float)
    assert whole.shape == (48, 64, 3) and half.shape == (24, 32, 3)
    means = whole.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(half - means)[2:-2, 2:-2].max() < 12


def test_a_rendering_outlives_its_file(tmp_path: Path) -> None:
    write_arw(tmp_path / "photo.arw", _wedge())
    picture = render(tmp_path / "photo.arw")
    (tmp_path / "photo.arw").unlink()
    assert picture.flags.owndata and picture.max() > picture.min()


def test_what_libraw_cannot_demosaic_is_a_raw_error(
    tmp_path: Path, rng: np.random.Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    write_raf(tmp_path / "small.raf", _noise(rng, 48, 60))  # X-Trans needs 512 photosites a side
    with pytest.raises(RawError, match="cannot render"):
        render(tmp_path / "small.raf")
    assert render(tmp_path / "small.raf", half_size=True).ndim == 3
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("what", ["empty", "text", "JPEG", "Super CCD", "deflated DNG", "X3F"])
def test_render_refuses_what_is_no_photo(
    tmp_path: Path, what: str, rng: np.random.Generator
) -> None:
    cls, _, make = REFUSED[what]
    (tmp_path / "photo.arw").write_bytes(make(tmp_path, rng))
    with pytest.raises(cls):
        render(tmp_path / "photo.arw")


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert {".arw", ".raf", ".dng", ".cr2", ".cr3", ".nef", ".orf", ".rw2"} <= RAW_SUFFIXES
    assert not RAW_SUFFIXES & {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
    for suffix in RAW_SUFFIXES:
        assert suffix == Path("x" + suffix.lower()).suffix


def test_a_white_level_below_black_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "levels.dng"
    for white in (400, 512):
        write_dng(path, np.full((64, 64), 600), black=(512,), white=white)
        with pytest.raises(DamagedFileError, match="white level"):
            read_raw(path)


def test_what_libraw_recognises_but_cannot_decode_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nikon's High Efficiency NEF opens, and fails when unpacked; nobody's photo is lost."""

    class Unpackable(rawpy.RawPy):
        def unpack(self) -> None:
            raise rawpy.LibRawFileUnsupportedError(b"Unsupported file format or not RAW file")

    path = tmp_path / "he.ARW"
    write_arw(path, np.full((64, 64), 600))
    monkeypatch.setattr(rawpy, "RawPy", Unpackable)
    with pytest.raises(UnsupportedCompressionError) as caught:
        read_raw(path)
    assert caught.value.exit_code == 19


@pytest.mark.parametrize("content", [b"hello", b"hello world\n", b"\0" * 40, b"x" * 63])
def test_tiny_texts_are_not_called_lost_photos(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.ARW"
    path.write_bytes(content)
    with pytest.raises(NotRawError):
        read_raw(path)


@pytest.mark.skipif(os.name == "nt", reason="POSIX names are bytes")
def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.ARW"))
    mosaic = np.full((64, 64), 600)
    try:
        write_arw(path, mosaic)
    except OutputError:
        pytest.skip("this file system wants text")
    assert np.array_equal(read_raw(path).mosaic, mosaic)


# ---------------------------------------------------------------- strange, but right


@pytest.mark.parametrize("orientation", [0, 9, 200, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int) -> None:
    write_dng(tmp_path / "plain.dng", _wedge())
    write_dng(tmp_path / "photo.dng", _wedge(), orientation=orientation)
    assert read_raw(tmp_path / "photo.dng").flip == 0
    assert np.array_equal(render(tmp_path / "photo.dng"), render(tmp_path / "plain.dng"))


@pytest.mark.parametrize(("angle", "flip"), [(0, 0), (90, 6), (180, 3), (270, 5), (45, 0), (9, 0)])
def test_an_angle_that_is_no_quarter_turns_nothing(tmp_path: Path, angle: int, flip: int) -> None:
    """A CRW states degrees; LibRaw took the bits of 45 for a quarter turn and a mirror."""
    for name, degrees in (("plain.crw", 0), ("photo.crw", angle)):
        (tmp_path / name).write_bytes(crw(random.Random(1), angle=degrees)[0])
    frame = read_raw(tmp_path / "photo.crw")
    assert frame.flip == flip
    frame.check()
    rendering = render(tmp_path / "photo.crw")
    if flip == 0:
        assert np.array_equal(rendering, render(tmp_path / "plain.crw"))
    assert (rendering.shape[0] > rendering.shape[1]) == (flip in (5, 6))


@pytest.mark.parametrize("phase", BAYER_PHASES)
@pytest.mark.parametrize("cells", [(1, 2), (2, 1), (2, 2), (3, 3), (4, 4)], ids=str)
def test_a_bayer_pattern_may_be_spelled_larger(
    tmp_path: Path, phase: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator
) -> None:
    pattern = _rolled(RGGB, phase)
    mosaic = _noise(rng)
    write_dng(tmp_path / "photo.dng", mosaic, pattern=np.tile(pattern, cells))
    frame = read_raw(tmp_path / "photo.dng")
    assert (frame.kind, frame.phase) == ("bayer", phase)
    assert np.array_equal(frame.mosaic, mosaic)


@pytest.mark.parametrize(
    ("scale", "aspect"), [((2, 1), 2.0), ((1, 2), 0.5), ((4, 3), 4 / 3), ((1, 1), 1.0)], ids=str
)
def test_pixels_need_not_be_square(
    tmp_path: Path, scale: tuple[int, int], aspect: float, rng: np.random.Generator
) -> None:
    extra = [Entry(0xC61E, RATIONAL, [(scale[0], 1), (scale[1], 1)])]
    write_dng(tmp_path / "photo.dng", _noise(rng), extra=extra)
    frame = read_raw(tmp_path / "photo.dng")
    assert frame.pixel_aspect == pytest.approx(aspect, rel=1e-5)
    height, width, _ = render(tmp_path / "photo.dng").shape
    picture = square_pixels(np.zeros((3, 40, 48), np.float32), frame.pixel_aspect)
    assert picture.shape == (3, height, width)


def _raspberry_jpeg(mosaic: NDArray[np.uint16]) -> bytes:
    """A JPEG with 10-bit RAW data of a Raspberry Pi's OV5647 behind it, 640 x 480."""
    height, width = mosaic.shape
    groups = mosaic.reshape(height, width // 4, 4)
    shifts = np.array([0, 2, 4, 6])
    low = np.bitwise_or.reduce((groups & 3) << shifts, axis=2)
    rows = np.zeros((height, 800), np.uint8)  # LibRaw's stride for that width
    rows[:, : width * 5 // 4] = np.dstack([groups >> 2, low]).reshape(height, -1)
    block = bytearray(445440)
    block[:4] = b"BRCM"
    struct.pack_into(
        "<32sHHHH6IHHBB", block, 0xB0, b"640x480", width, height, 0, 0, *[0] * 6, 0, 33, 2, 3
    )
    block[0x8000 : 0x8000 + rows.size] = rows.tobytes()
    camera = [Entry(0x010F, ASCII, "RaspberryPi"), Entry(0x0110, ASCII, "RP_ov5647")]
    app1 = b"Exif\0\0" + build({"ifd0": camera})
    jpeg = iio.imwrite("<bytes>", np.full((48, 64, 3), 90, np.uint8), extension=".jpg")
    head = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1
    return head + jpeg[2:] + bytes(block)


def test_a_jpeg_with_a_raw_photo_behind_it_is_read(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    mosaic = rng.integers(16, 1024, (480, 640)).astype(np.uint16)
    (tmp_path / "pi.jpg").write_bytes(_raspberry_jpeg(mosaic))
    frame = read_raw(tmp_path / "pi.jpg")
    assert np.array_equal(frame.mosaic, mosaic)
    assert frame.shot.camera == "RaspberryPi RP_ov5647"
    assert (frame.kind, float(frame.black.max()), float(frame.white.min())) == ("bayer", 16, 1023)
    assert frame.notes == ()


def test_a_jpeg_that_only_looks_so_is_a_jpeg(tmp_path: Path) -> None:
    jpeg = iio.imwrite("<bytes>", np.full((48, 64, 3), 90, np.uint8), extension=".jpg")
    (tmp_path / "photo.jpg").write_bytes(jpeg + b"BRCM" + bytes(5000))
    with pytest.raises(NotRawError):
        read_raw(tmp_path / "photo.jpg")


def test_what_libraw_knows_by_its_size_only_is_said_to_be_so(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    prose = b"The quick brown fox jumps over the lazy dog. " * 100000
    (tmp_path / "prose.raw").write_bytes(prose[:4147200])  # a Photron BC2-HD has as many bytes
    (note,) = read_raw(tmp_path / "prose.raw").notes
    assert "because of its size" in note
    write_arw(tmp_path / "photo.arw", _noise(rng))
    assert read_raw(tmp_path / "photo.arw").notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("what", ["offset in the header", "next directory", "within the first"])
def test_a_cr2_cut_in_its_thumbnails_is_cut_short(
    tmp_path: Path, order: ByteOrder, what: str
) -> None:
    """Its thumbnails come first; the directory of the RAW image lies beyond the cut."""
    camera = [
        Entry(0x0100, SHORT, 160),
        Entry(0x0101, SHORT, 120),
        Entry(0x0103, SHORT, 6),
        Entry(0x010F, ASCII, "Canon"),
        Entry(0x0110, ASCII, "Canon EOS 5D Mark II"),
        Entry(0x0111, LONG, 4000),
        Entry(0x0117, LONG, 50000),
    ]
    last = 1 << 20 if what == "offset in the header" else 0
    following = 1 << 19 if what == "next directory" else 0
    magic = b"II" if order == "<" else b"MM"
    data = struct.pack(order + "2sHI4sI", magic, 42, 16, b"CR\2\0", last)
    data += ifd_bytes(camera, 16, order, next_ifd=following)
    data += bytes(range(256)) * 40
    (tmp_path / "photo.cr2").write_bytes(data[:60] if what == "within the first" else data)
    with pytest.raises(DamagedFileError, match="cut short") as caught:
        read_raw(tmp_path / "photo.cr2")
    assert caught.value.exit_code == 14


def test_margins_that_leave_next_to_nothing_are_damage(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """The visible area that a RAF states may lie beyond its sensor; LibRaw looks at its size."""
    mosaic = rng.integers(900, 1200, (60, 84))
    path = tmp_path / "photo.raf"
    write_raf(path, mosaic, margins=(48, 72, 60, 84))
    assert read_raw(path).mosaic.shape == (12, 12)
    write_raf(path, mosaic, margins=(54, 72, 60, 84))
    with pytest.raises(DamagedFileError, match="leave 12 x 6 photosites") as caught:
        read_raw(path)
    assert caught.value.exit_code == 14


def test_a_crw_that_ends_before_its_picture_is_cut_short(tmp_path: Path) -> None:
    """LibRaw would tell by memory that was never written how it is coded, each time another way."""
    data, mosaic = crw(random.Random(1))
    (tmp_path / "photo.crw").write_bytes(data)
    frame = read_raw(tmp_path / "photo.crw")
    assert np.array_equal(frame.mosaic, mosaic)
    assert (frame.kind, frame.phase, frame.shot.model) == ("bayer", (0, 0), "Canon PowerShot G2")
    assert set(frame.white.flat) == {1023}
    data, _ = crw(random.Random(1), least_bytes=0)
    assert len(data) < 0x4000
    (tmp_path / "photo.crw").write_bytes(data)
    with pytest.raises(DamagedFileError, match="ends before its RAW image") as caught:
        read_raw(tmp_path / "photo.crw")
    assert caught.value.exit_code == 14


# ---------------------------------------------------------------- sizes that a file only claims


def _claims(path: Path, side: int) -> None:
    """A DNG of 48 x 64 photosites that says it has `side` squared, packed so as to fit."""
    extra = [Entry(tag, LONG, side) for tag in (0x0100, 0x0101, 0x0116)]
    write_dng(path, np.full((48, 64), 600), extra=[*extra, Entry(0x0103, SHORT, 7)])


def test_a_photo_larger_than_its_bytes_can_hold_is_damaged(tmp_path: Path) -> None:
    _claims(tmp_path / "photo.dng", 30000)
    before = peak_resident_bytes()
    with pytest.raises(DamagedFileError, match="900 million"):
        read_raw(tmp_path / "photo.dng")
    assert peak_resident_bytes() - before < 10**8


def test_a_photo_larger_than_the_memory_allowed_is_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    _claims(tmp_path / "photo.dng", 30000)
    with pytest.raises(OutOfMemoryError) as caught:
        read_raw(tmp_path / "photo.dng", max_memory=500 * 10**6)
    assert caught.value.exit_code == 51
    write_arw(tmp_path / "photo.arw", _noise(rng))
    assert read_raw(tmp_path / "photo.arw", max_memory=10**6).mosaic.size
    with pytest.raises(OutOfMemoryError):
        read_raw(tmp_path / "photo.arw", max_memory=1000)


# ---------------------------------------------------------------- photos that are no file


def test_contents_are_read_like_the_file(make_arw: Callable[..., Path]) -> None:
    path = make_arw()
    expected = read_raw(path)
    with path.open("rb") as file:
        photos = (path.read_bytes(), io.BytesIO(path.read_bytes()), file, str(path))
        for photo, name in zip(photos, ("photo", "photo", path.name, str(path)), strict=True):
            frame = read_raw(photo)  # type: ignore[arg-type]
            assert str(frame.path) == name
            assert np.array_equal(frame.mosaic, expected.mosaic)
            assert (frame.shot, frame.phase) == (expected.shot, expected.phase)
            assert np.array_equal(likely_black(frame), likely_black(expected))


def test_contents_that_are_no_photo_are_refused_by_their_name(tmp_path: Path) -> None:
    (tmp_path / "x.ARW").write_bytes(b"II*\0" + bytes(1000))
    with (tmp_path / "x.ARW").open("rb") as file, pytest.raises(RawError, match=r"^x\.ARW ") as hit:
        read_raw(file)
    assert "gia-" not in str(hit.value)
    with pytest.raises(EmptyFileError):
        read_raw(b"")
    with (
        (tmp_path / "x.ARW").open(encoding="latin-1") as text,
        pytest.raises(UsageError, match="not open for bytes"),
    ):
        read_raw(text)  # type: ignore[arg-type]


def test_no_room_for_the_contents_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        read_raw(b"II*\0")


@pytest.mark.parametrize(
    ("pattern", "kind", "phase"),
    [
        ("RGGB", "bayer", (0, 0)),
        ("bggr", "bayer", (1, 1)),
        ("GRBG", "bayer", (0, 1)),
        ("GBRG", "bayer", (1, 0)),
        ("X-Trans", "xtrans", (0, 0)),
        (np.array([[2, 1], [1, 0]]), "bayer", (1, 1)),
        (np.roll(CANONICAL["xtrans"], -1, axis=1), "xtrans", (0, 1)),
    ],
)
def test_a_mosaic_becomes_a_frame(pattern: Any, kind: CfaKind, phase: tuple[int, int]) -> None:
    mosaic = np.arange(24 * 30, dtype=np.uint16).reshape(24, 30)
    frame = RawFrame.from_mosaic(
        mosaic, white=4095, black=(10, 20, 30), pattern=pattern, wb=(2, 1, 1.5)
    )
    assert (frame.kind, frame.phase) == (kind, phase)
    assert frame.mosaic is mosaic
    # Each colour's level lies where the pattern has it.
    period = len(frame.black)
    cell = np.roll(CANONICAL[kind], [-phase[0], -phase[1]], axis=(0, 1))[:period, :period]
    assert np.array_equal(frame.black, np.array([10, 20, 30], np.float32)[cell])
    assert (frame.white == 4095).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pattern": "RGB"}, "no Bayer or X-Trans"),
        ({"pattern": "RRRR"}, "no Bayer or X-Trans"),
        ({"pattern": np.array([[0, 1], [1, 3]])}, "no Bayer or X-Trans"),
        ({"pattern": np.zeros((5, 5), int)}, "no Bayer or X-Trans"),
        ({"pattern": 7}, "no Bayer or X-Trans"),
        ({"black": 5000}, "above the black level"),
        ({"white": 0}, "white level"),
        ({"wb": (1, 2)}, "as_shot_wb"),
        ({"wb": "warm"}, "three gains"),
        ({"wb": (1, 0, 1)}, "not positive"),
        ({"mosaic": np.zeros((24, 30))}, "mosaic is an array"),
        ({"mosaic": np.zeros((2, 2), np.uint16)}, "at least"),
    ],
)
def test_a_mosaic_that_is_none_is_refused(changes: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {"mosaic": np.zeros((24, 30), np.uint16), "white": 4095, "black": 64}
    with pytest.raises(UsageError, match=words):
        RawFrame.from_mosaic(**options | changes)


def test_frames_can_be_compared(make_arw: Callable[..., Path]) -> None:
    """By what they are: that of their arrays would be an array."""
    one, other = read_raw(make_arw()), read_raw(make_arw())
    assert one == one and one != other
    assert len({one, other}) == 2
