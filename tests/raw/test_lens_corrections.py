from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gia_cli.imaging.dng import write_linear_dng
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.libraw import directories_of
from gia_cli.raw.reader import read_raw
from gia_cli.raw.tiff import LONG, UNDEFINED, Entry
from gia_cli.raw.writer import write_dng

MOSAIC = np.full((32, 48), 600, np.uint16)


def _opcode(number: int, data: bytes, size: int | None = None) -> bytes:
    size = len(data) if size is None else size
    return struct.pack(">4I", number, 0x01030000, 0, size) + data


def _list(*opcodes: bytes, count: int | None = None) -> bytes:
    return struct.pack(">I", len(opcodes) if count is None else count) + b"".join(opcodes)


# One plane: four radial terms and two tangential ones, and the centre.
WARP = _opcode(1, struct.pack(">I8d", 1, 1.02, -0.03, 0.01, 0, 0, 0, 0.5, 0.5))
VIGNETTE = _opcode(3, struct.pack(">7d", 0.3, 0.1, 0, 0, 0, 0.5, 0.5))
GAIN_MAP = _opcode(9, bytes(80))


def _read(folder: Path, data: bytes, kind: int = UNDEFINED, **options: Any) -> bytes:
    path = folder / "photo.dng"
    write_dng(path, MOSAIC, extra=[Entry(0xC74E, kind, data)], **options)
    return read_raw(path).lens_corrections


@pytest.mark.parametrize("opcodes", [(WARP,), (VIGNETTE,), (WARP, VIGNETTE)])
def test_the_corrections_of_a_lens_are_read_as_they_stand(
    tmp_path: Path, opcodes: tuple[bytes, ...]
) -> None:
    assert _read(tmp_path, _list(*opcodes)) == _list(*opcodes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        _list(),
        _list(WARP, GAIN_MAP),
        _list(WARP)[:-1],
        _list(WARP) + b"\0",
        _list(WARP, count=2),
        _list(WARP, count=2**32 - 1),
        _list(_opcode(1, b"", size=2**32 - 1)),
        _list(*[WARP] * 17),
    ],
    ids=range(10),
)
def test_what_does_more_or_is_damaged_is_left_out(tmp_path: Path, data: bytes) -> None:
    assert _read(tmp_path, data) == b""


def test_corrections_of_another_area_are_left_out(tmp_path: Path) -> None:
    for area in ((0, 0, 32, 48), (2, 2, 32, 48)):
        assert _read(tmp_path, _list(WARP), active_area=area) == _list(WARP)
    path = tmp_path / "photo.dng"
    more = Entry(0xC68D, LONG, [0, 0, 32, 2**31])  # than LibRaw finds
    write_dng(path, MOSAIC, extra=[Entry(0xC74E, UNDEFINED, _list(WARP)), more])
    assert read_raw(path).lens_corrections == b""


def test_without_corrections_there_are_none(tmp_path: Path) -> None:
    write_dng(tmp_path / "x.dng", MOSAIC)
    assert read_raw(tmp_path / "x.dng").lens_corrections == b""


def test_a_linear_dng_holds_them_beside_its_pixels(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).random((3, 32, 48), np.float32)
    options: dict[str, Any] = {"gains": np.ones(3), "xyz_to_camera": None, "shot": ShotInfo()}
    path = tmp_path / "linear.dng"
    write_linear_dng(path, picture, lens_corrections=_list(WARP, VIGNETTE), **options)
    (main,) = [d for d in directories_of(path) if d.first(0x0106) == 34892]
    assert main.blobs == {0xC74E: _list(WARP, VIGNETTE)}
    first = directories_of(path)[0]
    assert first.tags[0xC613] == (1, 3, 0, 0)
    write_linear_dng(path, picture, **options)
    assert directories_of(path)[0].tags[0xC613] == (1, 1, 0, 0)


def test_adobes_sdk_takes_them(tmp_path: Path) -> None:
    dngpy = pytest.importorskip("dngpy")
    picture = np.random.default_rng(1).random((3, 32, 48), np.float32)
    path = tmp_path / "linear.dng"
    options: dict[str, Any] = {"gains": np.ones(3), "xyz_to_camera": None, "shot": ShotInfo()}
    write_linear_dng(path, picture, lens_corrections=_list(WARP, VIGNETTE), **options)
    file = dngpy.Dng(str(path))
    assert file.raw_pixels.shape == (32, 48, 3)
    assert file.save(str(tmp_path / "again.dng")) == dngpy.ErrorCode.NONE
    (main,) = [d for d in directories_of(tmp_path / "again.dng") if d.first(0x0106) == 34892]
    assert main.blobs == {0xC74E: _list(WARP, VIGNETTE)}
