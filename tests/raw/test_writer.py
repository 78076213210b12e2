from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile
from numpy.typing import NDArray
from PIL import Image

from gia_cli.errors import OutputError
from gia_cli.raw.cfa import RGGB, XTRANS
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.writer import A_SHOT, write_arw, write_dng, write_raf

Writer = Callable[..., None]
writers = pytest.mark.parametrize("write", [write_arw, write_raf, write_dng])
HIGHEST: dict[Writer, int] = {write_arw: 16383, write_raf: 16383, write_dng: 65535}


def _mosaic(
    rng: np.random.Generator, height: int = 30, width: int = 38, highest: int = 16383
) -> NDArray[np.uint16]:
    """All levels, the extremes too."""
    mosaic = rng.integers(0, highest + 1, (height, width)).astype(np.uint16)
    mosaic[0, :2] = 0, highest
    mosaic[-1, -2:] = highest, 0
    return mosaic


def _libraw(path: Path) -> NDArray[np.uint16]:
    with rawpy.imread(str(path)) as raw:
        return raw.raw_image_visible.copy()


# ---------------------------------------------------------------- LibRaw reads every pixel


@writers
@pytest.mark.parametrize("size", [(24, 24), (25, 31), (30, 29), (64, 48)])
def test_libraw_reads_every_pixel(
    tmp_path: Path, write: Writer, size: tuple[int, int], rng: np.random.Generator
) -> None:
    mosaic = _mosaic(rng, *size, highest=HIGHEST[write])
    write(tmp_path / "photo", mosaic)
    assert np.array_equal(_libraw(tmp_path / "photo"), mosaic)


def test_libraw_reads_an_xtrans_dng(tmp_path: Path, rng: np.random.Generator) -> None:
    mosaic = _mosaic(rng, highest=65535)
    write_dng(tmp_path / "photo.dng", mosaic, pattern=XTRANS)
    assert np.array_equal(_libraw(tmp_path / "photo.dng"), mosaic)


@pytest.mark.parametrize("samples", [1, 3])
def test_libraw_reads_a_linear_dng(tmp_path: Path, samples: int, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 65536, (30, 38, samples)).astype(np.uint16)
    write_dng(tmp_path / "photo.dng", picture, white=65535)
    with rawpy.imread(str(tmp_path / "photo.dng")) as raw:
        pixels = raw.raw_image.reshape(30, 38, -1)
        assert np.array_equal(pixels[..., :samples], picture)
        assert raw.num_colors == samples


@writers
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint32])
def test_the_integer_type_does_not_matter(
    tmp_path: Path, write: Writer, dtype: type, rng: np.random.Generator
) -> None:
    mosaic = _mosaic(rng)
    write(tmp_path / "photo", mosaic)
    write(tmp_path / "other", mosaic.astype(dtype))
    assert (tmp_path / "other").read_bytes() == (tmp_path / "photo").read_bytes()


@writers
def test_views_are_written_as_they_look(
    tmp_path: Path, write: Writer, rng: np.random.Generator
) -> None:
    mosaic = _mosaic(rng, 60, 76)
    for view in (mosaic[::2, ::2], mosaic.T, mosaic[::-1, 5:]):
        write(tmp_path / "photo", view)
        assert np.array_equal(_libraw(tmp_path / "photo"), view)


# ---------------------------------------------------------------- what LibRaw makes of the rest


def test_the_cameras_are_known_by_their_matrix(tmp_path: Path, rng: np.random.Generator) -> None:
    for write in (write_arw, write_raf):
        write(tmp_path / "photo", _mosaic(rng))
        with rawpy.imread(str(tmp_path / "photo")) as raw:
            assert np.any(raw.rgb_xyz_matrix)
            assert raw.white_level == 16383


def test_arw_levels_and_gains(tmp_path: Path, rng: np.random.Generator) -> None:
    write_arw(tmp_path / "photo", _mosaic(rng), black=(500, 510, 520, 530), wb=(2.5, 1.0, 1.5))
    with rawpy.imread(str(tmp_path / "photo")) as raw:
        # By colour id: R, G, B, G2.
        assert raw.black_level_per_channel == [500, 510, 530, 520]
        gains = np.array(raw.camera_whitebalance[:3])
        assert gains / gains[1] == pytest.approx(np.array([2.5, 1, 1.5]), rel=1e-3)


def test_dng_gains(tmp_path: Path, rng: np.random.Generator) -> None:
    write_dng(tmp_path / "photo", _mosaic(rng), wb=(2.5, 1.0, 1.5))
    with rawpy.imread(str(tmp_path / "photo")) as raw:
        gains = np.array(raw.camera_whitebalance[:3])
    assert gains / gains[1] == pytest.approx(np.array([2.5, 1, 1.5]), rel=1e-3)


def test_raf_margins_hide_the_border(tmp_path: Path, rng: np.random.Generator) -> None:
    mosaic = _mosaic(rng, 48, 60)
    write_raf(tmp_path / "photo", mosaic, margins=(6, 12, 30, 36))
    with rawpy.imread(str(tmp_path / "photo")) as raw:
        assert raw.raw_image.shape == (48, 60)
        assert np.array_equal(raw.raw_image_visible, mosaic[6:36, 12:48])


def test_dng_active_area_hides_the_border(tmp_path: Path, rng: np.random.Generator) -> None:
    mosaic = _mosaic(rng, 48, 60)
    write_dng(tmp_path / "photo", mosaic, active_area=(4, 8, 34, 50))
    assert np.array_equal(_libraw(tmp_path / "photo"), mosaic[4:34, 8:50])


@pytest.mark.parametrize("phase", list(np.ndindex(2, 2)))
def test_dng_pattern_is_the_callers(
    tmp_path: Path, phase: tuple[int, int], rng: np.random.Generator
) -> None:
    pattern = np.roll(RGGB, phase, (0, 1))
    write_dng(tmp_path / "photo", _mosaic(rng), pattern=pattern)
    with rawpy.imread(str(tmp_path / "photo")) as raw:
        ids = np.array([[raw.raw_color(y, x) for x in range(2)] for y in range(2)])
    assert np.array_equal(np.array([0, 1, 2, 1])[ids], pattern)


def test_raf_pattern_is_the_callers(tmp_path: Path, rng: np.random.Generator) -> None:
    for phase in ((0, 0), (1, 4), (5, 2)):
        pattern = np.roll(XTRANS, phase, (0, 1))
        write_raf(tmp_path / "photo", _mosaic(rng), pattern=pattern)
        with rawpy.imread(str(tmp_path / "photo")) as raw:
            ids = np.array([[raw.raw_color(y, x) for x in range(6)] for y in range(6)])
        assert np.array_equal(ids, pattern)


@pytest.mark.parametrize("write", [write_arw, write_raf])
def test_the_preview_is_embedded(tmp_path: Path, write: Writer) -> None:
    preview = np.zeros((32, 48, 3), np.uint8)
    preview[:, :24] = 200
    write(tmp_path / "photo", np.full((24, 24), 1000), preview=preview)
    with rawpy.imread(str(tmp_path / "photo")) as raw:
        thumb = raw.extract_thumb()
    assert thumb.format == rawpy.ThumbFormat.JPEG
    assert isinstance(thumb.data, bytes)
    pixels = np.asarray(Image.open(io.BytesIO(thumb.data)), np.int64)
    assert pixels.shape == preview.shape
    assert np.abs(pixels - preview)[:, [4, 44]].max() < 10


def test_dng_is_a_tiff_that_others_read(tmp_path: Path, rng: np.random.Generator) -> None:
    mosaic = _mosaic(rng, highest=65535)
    shot = replace(A_SHOT, make="A", model="B")
    write_dng(tmp_path / "photo.dng", mosaic, shot=shot, orientation=6, white=4000, black=(64,))
    with tifffile.TiffFile(tmp_path / "photo.dng") as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        tags = page.tags
        assert np.array_equal(page.asarray(), mosaic)
        assert tags.valueof("Make") == "A"
        assert tags.valueof("UniqueCameraModel") == "A B"
        assert tags.valueof("Orientation") == 6
        assert tags.valueof("WhiteLevel") == 4000
        assert tags.valueof("BlackLevel") == (64, 1)


@writers
def test_pixels_end_the_file_and_are_aligned(
    tmp_path: Path, write: Writer, rng: np.random.Generator
) -> None:
    mosaic = _mosaic(rng)
    write(tmp_path / "photo", mosaic)
    data = (tmp_path / "photo").read_bytes()
    pixels = mosaic.astype("<u2").tobytes()
    assert data.endswith(pixels)
    assert (len(data) - len(pixels)) % 16 == 0


def test_raf_exif_is_the_jpegs_first_segment(tmp_path: Path, rng: np.random.Generator) -> None:
    write_raf(tmp_path / "photo.raf", _mosaic(rng), shot=replace(A_SHOT, iso=51200))
    data = (tmp_path / "photo.raf").read_bytes()
    at, length = struct.unpack_from(">II", data, 84)
    with Image.open(io.BytesIO(data[at : at + length])) as picture:
        picture.load()
        exif = picture.getexif()
    assert exif[0x010F] == "FUJIFILM"
    assert exif.get_ifd(0x8769)[0x8827] == 51200


# ---------------------------------------------------------------- refusals


@writers
@pytest.mark.parametrize("excess", [-1, 1], ids=["negative", "too large"])
def test_values_that_do_not_fit_are_refused(
    tmp_path: Path, write: Writer, excess: int, rng: np.random.Generator
) -> None:
    mosaic = _mosaic(rng).astype(np.int64)
    mosaic[3, 4] = excess if excess < 0 else HIGHEST[write] + excess
    with pytest.raises(ValueError, match="DN must lie in"):
        write(tmp_path / "photo", mosaic)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(), (0,), (24,), (24, 24, 3), (2, 24, 24, 1), (0, 24), (24, 0)])
@pytest.mark.parametrize("write", [write_arw, write_raf])
def test_shapes_that_are_no_mosaic_are_refused(
    tmp_path: Path, write: Writer, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="two axes"):
        write(tmp_path / "photo", np.zeros(shape, np.uint16))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(), (24,), (2, 24, 24, 1), (0, 24), (24, 24, 0)])
def test_shapes_that_are_no_dng_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two axes"):
        write_dng(tmp_path / "photo", np.zeros(shape, np.uint16))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- files


@writers
def test_the_same_photo_gives_the_same_bytes(
    tmp_path: Path, write: Writer, rng: np.random.Generator
) -> None:
    mosaic = _mosaic(rng)
    for name in ("one", "two"):
        write(tmp_path / name, mosaic)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    write(tmp_path / "two", mosaic, shot=ShotInfo(iso=100))
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()


@writers
def test_writing_is_atomic(
    tmp_path: Path, write: Writer, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_fsync(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "photo"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", no_fsync)
    with pytest.raises(OutputError, match="No space left"):
        write(path, _mosaic(rng))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["photo"]


@writers
def test_a_missing_folder_is_an_output_error(
    tmp_path: Path, write: Writer, rng: np.random.Generator
) -> None:
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "nowhere" / "photo", _mosaic(rng))
    assert caught.value.exit_code == 60
    assert "nowhere" in caught.value.hint
