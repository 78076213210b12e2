from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import exifread
import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.errors import GiaError, UsageError
from gia_cli.imaging import jpegxl
from gia_cli.imaging.color_space import SPACES, ColorSpace
from gia_cli.imaging.jpegxl import write_jpegxl
from tests.imaging.test_jpeg import XMP
from tests.imaging.test_writer import SHOT

imagecodecs = pytest.importorskip("imagecodecs")

every = pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)


def _levels(height: int, width: int, dtype: type[Any]) -> NDArray[Any]:
    rows, cols = np.mgrid[:height, :width]
    unit = np.stack([rows / height, cols / width, (rows + cols) / (height + width)], -1)
    return (unit * np.iinfo(dtype).max).astype(dtype)


def _boxes(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        found[name] = data[at + 8 : at + size]
        at += size
    return found


@every
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(40, 60), (1, 1), (33, 300), (256, 264)], ids=str)
def test_without_loss_every_level_comes_back(
    tmp_path: Path, space: ColorSpace, dtype: type[Any], size: tuple[int, int]
) -> None:
    levels = _levels(*size, dtype)
    write_jpegxl(tmp_path / "x.jxl", levels, space=space, distance=0, effort=1)
    back = imagecodecs.jpegxl_decode((tmp_path / "x.jxl").read_bytes())
    assert back.dtype == dtype and np.array_equal(back, levels)


@every
def test_with_loss_libjxl_decodes_to_the_levels_of_the_space(
    tmp_path: Path, space: ColorSpace
) -> None:
    """It goes by the header alone: another space there would give other levels."""
    levels = _levels(64, 64, np.uint16)
    write_jpegxl(tmp_path / "x.jxl", levels, space=space, distance=0.3)
    back = imagecodecs.jpegxl_decode((tmp_path / "x.jxl").read_bytes())
    assert back.dtype == np.uint16
    assert np.abs(back.astype(float) - levels).mean() / 65535 < 0.004
    inner = np.abs(back.astype(float) - levels)[8:, 8:]
    assert np.quantile(inner, 0.99) / 65535 < 0.02


def test_the_container_holds_exif_and_xmp(tmp_path: Path) -> None:
    path = tmp_path / "x.jxl"
    write_jpegxl(path, _levels(20, 30, np.uint16), shot=SHOT, comment="gia", xmp=XMP)
    data = path.read_bytes()
    assert data.startswith(bytes.fromhex("0000000C4A584C200D0A870A"))
    boxes = _boxes(data)
    assert list(boxes) == [b"JXL ", b"ftyp", b"Exif", b"xml ", b"jxlc"]
    assert boxes[b"xml "] == XMP
    tags = exifread.process_file(io.BytesIO(boxes[b"Exif"][4:]))
    assert str(tags["Image Model"]) == SHOT.model
    assert str(tags["EXIF LensModel"]) == SHOT.lens
    write_jpegxl(path, _levels(20, 30, np.uint16), distance=0)
    assert _boxes(path.read_bytes())[b"jxll"] == b"\x0a"


def test_distance_and_effort_are_cjxls(tmp_path: Path, rng: np.random.Generator) -> None:
    levels = rng.integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    sizes = []
    for distance in (3.0, 1.0, 0.1, 0):
        write_jpegxl(tmp_path / "x.jxl", levels, distance=distance)
        sizes.append((tmp_path / "x.jxl").stat().st_size)
    assert sizes == sorted(sizes)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UsageError, match="imagecodecs") as caught:
        write_jpegxl(tmp_path / "x.jxl", _levels(2, 2, np.uint8))
    assert "[jxl]" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_header_that_is_not_known_is_refused() -> None:
    stream = bytearray(imagecodecs.jpegxl_encode(_levels(8, 8, np.uint16), usecontainer=False))
    plain = jpegxl._codestream(bytes(stream))
    unknown = bytearray(plain)
    unknown[3] |= 0b1000  # small size (1 + 5 + 3 bits), not plain, then: extra fields
    bits = int.from_bytes(plain[:8], "little")
    assert (bits >> 25) & 1 == 0
    changed = (bits | 1 << 26).to_bytes(8, "little")
    with pytest.raises(GiaError, match="headers that gia does not know"):
        jpegxl._retagged(changed + plain[8:], SPACES["srgb"], 16)
