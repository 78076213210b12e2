from __future__ import annotations

import errno
import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import exifread
import numpy as np
import pytest
import rawpy
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from gia_cli.errors import DataError, OutputError, UsageError
from gia_cli.imaging import writer as output
from gia_cli.imaging.color import (
    bt709_decode,
    bt709_encode,
    quantize16,
    srgb16_from_bt709,
    srgb_encode,
)
from gia_cli.imaging.color_space import DISPLAY_P3, REC2020
from gia_cli.imaging.icc import icc_profile, srgb_icc_profile
from gia_cli.imaging.writer import (
    FORMATS,
    develop,
    output_format,
    read_image,
    square_pixels,
    write_image,
)
from gia_cli.raw.exif import MoreExif, ShotInfo, read_embedded_xmp, read_shot
from gia_cli.raw.tiff import ASCII, BYTE, RATIONAL, SHORT, Entry
from gia_cli.raw.writer import write_dng
from tests.imaging.upright import orient

SHOT = ShotInfo(
    make="SONY",
    model="ILCE-7SM2",
    lens="FE 35mm F1.4 ZA",
    exposure_s=1 / 30,
    iso=25600,
    aperture=1.4,
    focal_mm=35.0,
    taken="2026:02:03 23:59:58",
)
both = pytest.mark.parametrize("suffix", [".tif", ".png"])
SIZES = [(1, 1), (1, 7), (7, 1), (5, 9), (255, 3), (256, 4), (257, 5), (600, 33), (2, 180_000)]


def _image(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint16]:
    image = rng.integers(0, 65536, (height, width, 3)).astype(np.uint16)
    image.flat[0] = 65535
    image.flat[-1] = 0
    return image


def _smooth(height: int = 40, width: int = 60) -> NDArray[np.uint16]:
    """A picture without any symmetry."""
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows * 900 + cols, cols * 700, rows * cols * 20], -1).astype(np.uint16)


# ---------------------------------------------------------------- reading back, by hand


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """A PNG's chunks, their checksums verified."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(name + body),)
        chunks.append((name, body))
        at += 12 + length
    return chunks


def _chunk(path: Path, name: bytes) -> bytes:
    return b"".join(body for found, body in _chunks(path.read_bytes()) if found == name)


def _read_png(path: Path) -> NDArray[np.uint16]:
    """Decode a 16-bit RGB PNG (Pillow reads it as 8 bits): inflate and undo the filters."""
    width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", _chunk(path, b"IHDR"))
    assert (depth, kind, rest) == (16, 2, [0, 0, 0])
    data = np.frombuffer(zlib.decompress(_chunk(path, b"IDAT")), np.uint8)
    rows = data.reshape(height, 1 + width * 6)
    above = np.zeros(width * 6, np.uint8)
    decoded = np.empty((height, width * 6), np.uint8)
    for y, row in enumerate(rows):
        assert row[0] in (0, 2)  # the filters None and Up
        above = decoded[y] = row[1:] + above if row[0] == 2 else row[1:]
    return decoded.view(">u2").reshape(height, width, 3).astype(np.uint16)


def _read(path: Path) -> NDArray[np.uint16]:
    if path.suffix == ".png":
        return _read_png(path)
    picture: NDArray[np.uint16] = tifffile.imread(path)
    return picture


def _exif(path: Path) -> dict[str, Any]:
    """EXIF as exifread sees it."""
    data = _chunk(path, b"eXIf") if path.suffix == ".png" else path.read_bytes()
    return dict(exifread.process_file(io.BytesIO(data), details=True))


def _profile(path: Path) -> bytes:
    if path.suffix == ".png":
        with Image.open(path) as picture:
            return bytes(picture.info["icc_profile"])
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        return bytes(page.tags.valueof("InterColorProfile"))


# ---------------------------------------------------------------- pixels


@both
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_level_of_every_pixel_comes_back(
    tmp_path: Path, suffix: str, size: tuple[int, int], rng: np.random.Generator
) -> None:
    image = _image(rng, *size)
    write_image(tmp_path / f"out{suffix}", image, shot=SHOT, comment="gia")
    back = _read(tmp_path / f"out{suffix}")
    assert back.dtype == np.uint16
    assert np.array_equal(back, image)


@both
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_8_bits_come_back(
    tmp_path: Path, suffix: str, size: tuple[int, int], rng: np.random.Generator
) -> None:
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    write_image(tmp_path / f"out{suffix}", image, shot=SHOT)
    if suffix == ".png":
        with Image.open(tmp_path / "out.png") as picture:
            back = np.asarray(picture)
    else:
        back = tifffile.imread(tmp_path / "out.tif")
    assert back.dtype == np.uint8 and np.array_equal(back, image)
    assert _profile(tmp_path / f"out{suffix}") == srgb_icc_profile()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_floats_come_back_from_a_tiff(
    tmp_path: Path, size: tuple[int, int], rng: np.random.Generator
) -> None:
    light = rng.normal(0, 3, (*size, 3)).astype(np.float32)
    write_image(tmp_path / "out.tif", light, space=REC2020, shot=SHOT)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        assert page.predictor == 3 and page.compression == 8
        assert np.array_equal(page.asarray(), light)
    assert _profile(tmp_path / "out.tif") == icc_profile("rec2020", linear=True)
    assert str(_exif(tmp_path / "out.tif")["EXIF ColorSpace"]) == "Uncalibrated"
    with pytest.raises(UsageError, match="no floats"):
        write_image(tmp_path / "out.png", light)


@both
def test_another_space_has_its_profile_and_says_so(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"out{suffix}", _smooth(), space=DISPLAY_P3)
    assert _profile(tmp_path / f"out{suffix}") == icc_profile("display-p3")
    assert str(_exif(tmp_path / f"out{suffix}")["EXIF ColorSpace"]) == "Uncalibrated"
    write_image(tmp_path / f"out{suffix}", _smooth())
    assert str(_exif(tmp_path / f"out{suffix}")["EXIF ColorSpace"]) == "sRGB"


@both
def test_flat_and_smooth_pictures_come_back_small(tmp_path: Path, suffix: str) -> None:
    for image in (np.zeros((300, 200, 3), np.uint16), _smooth(300, 200)):
        write_image(tmp_path / f"out{suffix}", image)
        assert np.array_equal(_read(tmp_path / f"out{suffix}"), image)
        assert (tmp_path / f"out{suffix}").stat().st_size < image.nbytes * 2 // 3


@both
def test_any_memory_layout_is_written_as_it_looks(
    tmp_path: Path, suffix: str, rng: np.random.Generator
) -> None:
    image = _image(rng, 30, 20)
    views = {
        "transposed": image.transpose(1, 0, 2),
        "mirrored": image[::-1, ::-1],
        "reversed channels": image[..., ::-1],
        "planes first": np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
        "big-endian": image.astype(">u2"),
    }
    for name, view in views.items():
        write_image(tmp_path / f"out{suffix}", view)
        assert np.array_equal(_read(tmp_path / f"out{suffix}"), view), name


@both
def test_pixels_are_those_of_the_plain_formulas(
    tmp_path: Path, suffix: str, rng: np.random.Generator
) -> None:
    """Bands, threads and work in place change nothing: as gia 0.1 wrote them, level for level."""
    picture = rng.uniform(-0.1, 1.1, (3, 300, 800)).astype(np.float32)
    picture[:, 5, :3] = np.nan, np.inf, -np.inf
    scaled = np.nan_to_num(picture * 65535, nan=0.0, posinf=65535.0, neginf=0.0)
    levels = np.clip(scaled + 0.5, 0, 65535).astype(np.uint16)
    table = quantize16(srgb_encode(bt709_decode(np.arange(65536) / 65535)))
    for flip in (0, 6):
        write_image(tmp_path / f"out{suffix}", develop(picture, flip))
        upright = orient(table[levels].transpose(1, 2, 0), flip)
        assert np.array_equal(_read(tmp_path / f"out{suffix}"), upright)


@both
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, suffix: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _image(rng, 700, 900)  # several strips
    for cores in (1, 5):
        monkeypatch.setattr("gia_cli.runtime.available_cores", lambda cores=cores: cores)
        write_image(tmp_path / f"{cores}{suffix}", image, shot=SHOT)
    assert (tmp_path / f"1{suffix}").read_bytes() == (tmp_path / f"5{suffix}").read_bytes()
    assert np.array_equal(_read(tmp_path / f"5{suffix}"), image)


def test_strips_are_right_to_others_too(tmp_path: Path, rng: np.random.Generator) -> None:
    """Pillow reads 16 bits as 8 of them, but by libtiff: every strip, and the predictor undone."""
    image = _image(rng, 700, 900)
    write_image(tmp_path / "out.tif", image, shot=SHOT, comment="gia")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert len(file.pages.first.dataoffsets) > 2
    with Image.open(tmp_path / "out.tif") as picture:
        assert np.array_equal(np.asarray(picture), image >> 8)
    assert str(_exif(tmp_path / "out.tif")["EXIF ISOSpeedRatings"]) == "25600"


def test_png_is_a_png_to_others(tmp_path: Path, rng: np.random.Generator) -> None:
    image = _image(rng, 33, 21)
    write_image(tmp_path / "out.png", image, shot=SHOT)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (21, 33)
        picture.load()  # verifies the checksums and the compressed stream
        eight = np.asarray(picture.convert("RGB"), int)
        assert np.abs(eight * 257 - image.astype(int)).max() <= 257


def test_png_chunks_stand_in_order(tmp_path: Path, rng: np.random.Generator) -> None:
    write_image(tmp_path / "out.png", _image(rng, 300, 300), software="gia 9")
    names = [name for name, _ in _chunks((tmp_path / "out.png").read_bytes())]
    assert names[0] == b"IHDR" and names[-1] == b"IEND"
    first, last = names.index(b"IDAT"), len(names) - 1
    assert set(names[first:last]) == {b"IDAT"}  # together
    assert {b"iCCP", b"eXIf", b"tEXt"} <= set(names[:first])
    assert len(set(names[:first])) == first  # each once
    assert _chunk(tmp_path / "out.png", b"tEXt") == b"Software\0gia 9"


# ---------------------------------------------------------------- metadata


@both
def test_the_profile_is_embedded(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"out{suffix}", _smooth())
    assert _profile(tmp_path / f"out{suffix}") == srgb_icc_profile()
    ImageCms.ImageCmsProfile(io.BytesIO(_profile(tmp_path / f"out{suffix}")))


@both
def test_exif_says_how_the_photo_was_taken(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_image(path, _smooth(), shot=SHOT, software="gia 1.2", comment="ratio 100, weights sony")
    tags = _exif(path)
    texts = {
        "Image Make": "SONY",
        "Image Model": "ILCE-7SM2",
        "Image Software": "gia 1.2",
        "Image DateTime": SHOT.taken,
        "EXIF DateTimeOriginal": SHOT.taken,
        "EXIF LensModel": SHOT.lens,
        "EXIF UserComment": "ratio 100, weights sony",
    }
    assert {name: str(tags[name]).strip() for name in texts} == texts
    numbers = {
        "EXIF ExposureTime": 1 / 30,
        "EXIF FNumber": 1.4,
        "EXIF FocalLength": 35,
        "EXIF ISOSpeedRatings": 25600,
        "Image Orientation": 1,
        "EXIF ColorSpace": 1,
    }
    assert {n: float(tags[n].values[0]) for n in numbers} == pytest.approx(numbers)


@both
@pytest.mark.parametrize("iso", [100, 65536, 409600])
def test_the_shot_is_read_back_by_our_own_reader(tmp_path: Path, suffix: str, iso: int) -> None:
    shot = replace(SHOT, iso=iso)
    write_image(tmp_path / "out.tif", _smooth(), shot=shot)
    assert read_shot(tmp_path / "out.tif") == shot
    write_image(tmp_path / "out.png", _smooth(), shot=shot)
    (tmp_path / "exif").write_bytes(_chunk(tmp_path / "out.png", b"eXIf"))
    assert read_shot(tmp_path / "exif") == shot


def test_pillow_reads_the_pngs_exif(tmp_path: Path) -> None:
    write_image(tmp_path / "out.png", _smooth(), shot=SHOT, software="gia 1.2")
    with Image.open(tmp_path / "out.png") as picture:
        exif = picture.getexif()
    assert (exif[0x010F], exif[0x0110], exif[0x0131]) == ("SONY", "ILCE-7SM2", "gia 1.2")
    assert exif[0x0112] == 1
    below = exif.get_ifd(0x8769)
    assert float(below[0x829A]) == pytest.approx(1 / 30)
    assert below[0x8827] == 25600


@both
def test_what_is_unknown_is_left_out(tmp_path: Path, suffix: str) -> None:
    for shot in (None, ShotInfo()):
        write_image(tmp_path / f"out{suffix}", _smooth(), shot=shot)
        tags = _exif(tmp_path / f"out{suffix}")
        assert {"Image Software", "Image Orientation", "EXIF ColorSpace"} <= set(tags)
        absent = ("Make", "Model", "DateTime", "ExposureTime", "ISO", "FNumber", "Lens", "Comment")
        assert [name for name in tags if any(word in name for word in absent)] == []


STRANGE: dict[str, dict[str, Any]] = {
    "blank date": {"taken": ":  :     :  :"},
    "short date": {"taken": "2026-02-03"},
    "make": {"make": "Léica"},
    "model": {"model": "Größe 7"},
    "lens": {"lens": "50 µm"},
    "long exposure": {"exposure_s": 5000.123457},
    "short exposure": {"exposure_s": 1e-9},
    "infinite lens": {"focal_mm": 1e12},
}


@both
@pytest.mark.parametrize("what", STRANGE)
def test_strange_metadata_never_costs_the_picture(tmp_path: Path, suffix: str, what: str) -> None:
    """The picture took minutes to make; an odd date in the photo's EXIF must not lose it."""
    path = tmp_path / f"out{suffix}"
    write_image(path, _smooth(), shot=replace(SHOT, **STRANGE[what]), software="gïa", comment="ß")
    assert np.array_equal(_read(path), _smooth())
    tags = _exif(path)
    assert str(tags["Image Software"]) == "g?a"
    if "make" not in STRANGE[what]:
        assert str(tags["Image Make"]) == "SONY"


@pytest.mark.parametrize("width", range(20, 28))  # compressed to even and odd lengths
def test_the_directories_of_the_tiff_are_in_order(tmp_path: Path, width: int) -> None:
    write_image(tmp_path / "out.tif", _smooth(10, width), shot=SHOT, comment="gia")
    data = (tmp_path / "out.tif").read_bytes()

    def directory(at: int) -> dict[int, int]:
        (count,) = struct.unpack_from("<H", data, at)
        entries = [struct.unpack_from("<HHII", data, at + 2 + 12 * i) for i in range(count)]
        tags = [entry[0] for entry in entries]
        assert tags == sorted(set(tags))
        assert struct.unpack_from("<I", data, at + 2 + 12 * count) == (0,)
        return {entry[0]: entry[3] for entry in entries}

    assert data[:4] == b"II*\0"
    ifd0 = directory(struct.unpack_from("<I", data, 4)[0])
    assert {271, 272, 274, 305, 306, 34665, 34675} <= set(ifd0)
    assert 34664 not in ifd0  # the placeholder is gone
    assert ifd0[34665] % 2 == 0
    exif = directory(ifd0[34665])
    assert {0x829A, 0x8827, 0x9003, 0x9286, 0xA001} <= set(exif)


def test_tiff_is_deflated_with_a_predictor_in_strips(tmp_path: Path) -> None:
    write_image(tmp_path / "out.tif", _smooth(700, 1000))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.predictor == tifffile.PREDICTOR.HORIZONTAL
        assert page.photometric == tifffile.PHOTOMETRIC.RGB
        assert page.bitspersample == 16
        assert page.rowsperstrip < 700
        assert page.rowsperstrip * 1000 * 6 <= 1 << 20


@both
def test_the_same_picture_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        write_image(tmp_path / f"{name}{suffix}", _smooth(), shot=SHOT, comment="x")
    one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
    assert one == two


# ---------------------------------------------------------------- names and failures


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.tif", "tif"), ("a.TIFF", "tif"), ("a.Png", "png"), ("a.b.tif", "tif"), ("x/y.PNG", "png")],
)
def test_the_ending_names_the_format(name: str, kind: str) -> None:
    assert output_format(Path(name)) == kind


def test_every_named_format_is_written(tmp_path: Path) -> None:
    for suffix, kind in FORMATS.items():
        if kind not in ("tif", "png"):  # writers of their own: tests/imaging/test_save.py
            continue
        write_image(tmp_path / f"out{suffix}", _smooth())
        head = (tmp_path / f"out{suffix}").read_bytes()[:4]
        assert head == {"tif": b"II*\0", "png": b"\x89PNG"}[kind]


@pytest.mark.parametrize("name", ["a.jpg", "a.dng", "a", "a.tif.gz", "tif", ".png", "a."])
def test_other_endings_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        write_image(tmp_path / name, _smooth())
    assert caught.value.exit_code == 2
    assert name in caught.value.message
    assert list(tmp_path.iterdir()) == []


@both
def test_a_missing_folder_is_an_output_error(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(OutputError) as caught:
        write_image(tmp_path / "nowhere" / f"out{suffix}", _smooth())
    assert caught.value.exit_code == 60
    assert str(tmp_path / "nowhere") in caught.value.hint


@both
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError(), KeyboardInterrupt()]
)
def test_a_failing_write_leaves_the_folder_as_it_was(
    tmp_path: Path,
    suffix: str,
    old: bytes | None,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    path = tmp_path / f"out{suffix}"
    if old is not None:
        path.write_bytes(old)
    # Late in each writer, when most bytes are in the temporary file.
    monkeypatch.setattr(output, "_append_directory", fail)
    monkeypatch.setattr(output, "_png_strip", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        write_image(path, _smooth(), shot=SHOT)
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else [path.name])
    if old is not None:
        assert path.read_bytes() == old


# ---------------------------------------------------------------- orient, develop


@pytest.mark.parametrize(("tag", "flip"), [(1, 0), (3, 3), (8, 5), (6, 6)])
def test_orient_turns_as_libraw_does(tmp_path: Path, tag: int, flip: int) -> None:
    mosaic = 600 + _smooth(36, 52)[..., 0] // 4
    renderings = []
    for name, orientation in (("plain.dng", 1), ("turned.dng", tag)):
        write_dng(tmp_path / name, mosaic, orientation=orientation)
        with rawpy.imread(str(tmp_path / name)) as raw:
            picture = raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=16)
            renderings.append(np.asarray(picture, np.uint16))
            if orientation == tag:
                assert raw.sizes.flip == flip
    plain, turned = renderings
    assert np.array_equal(orient(plain, flip), turned)
    for other in {0, 3, 5, 6} - {flip}:
        assert not np.array_equal(orient(plain, other), turned)


@pytest.mark.parametrize("flip", range(8))
def test_orient_moves_pixels_and_changes_none(flip: int, rng: np.random.Generator) -> None:
    image = _image(rng, 5, 7)
    turned = orient(image, flip)
    assert turned.shape == ((7, 5, 3) if flip & 4 else (5, 7, 3))
    assert turned.flags.c_contiguous
    pixels, moved = (np.sort(a.reshape(-1, 3), axis=0) for a in (image, turned))
    assert np.array_equal(pixels, moved)
    back = {5: 6, 6: 5}.get(flip, flip)  # a quarter left undoes a quarter right
    assert np.array_equal(orient(turned, back), image)


def test_eight_flips_are_eight_pictures(rng: np.random.Generator) -> None:
    image = _image(rng, 6, 6)
    assert len({orient(image, flip).tobytes() for flip in range(8)}) == 8


@pytest.mark.parametrize("height", [1, 7, 8, 9, 33])
def test_develop_converts_in_bands_as_at_once(
    height: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "BAND_PIXELS", 8 * 5)
    picture = rng.uniform(-0.2, 1.2, (3, height, 5)).astype(np.float32)
    image = develop(picture, 0)
    assert image.shape == (height, 5, 3) and image.dtype == np.uint16
    assert np.array_equal(image, srgb16_from_bt709(picture).transpose(1, 2, 0))


def test_develop_clips_and_makes_grey_of_grey() -> None:
    levels = np.array([-5, 0, 0.5, 1, 7, np.nan, np.inf, -np.inf], np.float32)
    image = develop(np.broadcast_to(levels, (3, 2, 8)), 0)
    assert np.all(image == image[:1, :, :1])
    low, black, middle, white, high, nothing, infinite, minus = image[0, :, 0].tolist()
    assert low == black == nothing == minus == 0
    assert high == white == infinite == 65535
    assert 0 < middle < 65535


def test_develop_gives_the_light_of_the_picture_in_srgb() -> None:
    linear = np.linspace(0, 1, 300, dtype=np.float32)
    picture = np.broadcast_to(bt709_encode(linear), (3, 1, 300))
    encoded = develop(picture, 0)[0, :, 0] / 65535
    # IEC 61966-2-1, decoded here without the module.
    decoded = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    assert np.abs(decoded - linear).max() < 5e-5


@pytest.mark.parametrize("flip", [0, 3, 5, 6])
def test_develop_turns_upright(flip: int, rng: np.random.Generator) -> None:
    picture = rng.random((3, 9, 14)).astype(np.float32)
    assert np.array_equal(develop(picture, flip), orient(develop(picture, 0), flip))
    assert develop(picture, flip).shape == ((14, 9, 3) if flip & 4 else (9, 14, 3))


@both
def test_a_developed_picture_is_written_as_developed(
    tmp_path: Path, suffix: str, rng: np.random.Generator
) -> None:
    image = develop(rng.random((3, 20, 30)).astype(np.float32), 6)
    write_image(tmp_path / f"out{suffix}", image)
    assert np.array_equal(_read(tmp_path / f"out{suffix}"), image)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_is_read_as_16_bits(
    dtype: type[np.uint8 | np.uint16], tmp_path: Path, rng: np.random.Generator
) -> None:
    top = np.iinfo(dtype).max
    levels = rng.integers(0, top, (5, 7, 3), dtype, endpoint=True)
    levels[0, 0] = top
    tifffile.imwrite(tmp_path / "x.tif", levels, photometric="rgb")
    image = read_image(tmp_path / "x.tif")
    assert image.dtype == np.uint16
    assert np.array_equal(image, levels.astype(np.uint16) * (65535 // top))


def test_what_is_no_rgb_tiff_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with pytest.raises(DataError, match="no such file"):
        read_image(path)
    path.write_bytes(b"no picture at all")
    with pytest.raises(DataError, match="not a TIFF"):
        read_image(path)
    grey, floats = np.zeros((4, 4), np.uint16), np.zeros((4, 4, 3), np.float32)
    for wrong, kind in ((grey, "minisblack"), (floats, "rgb")):
        tifffile.imwrite(path, wrong, photometric=kind)
        with pytest.raises(DataError, match="8 or 16 bits"):
            read_image(path)


@pytest.mark.parametrize(("aspect", "shape"), [(2.0, (6, 20)), (0.5, (12, 10)), (1.5, (6, 15))])
def test_pixels_become_square(aspect: float, shape: tuple[int, int]) -> None:
    rows, columns = np.mgrid[:6, :10].astype(np.float32)
    picture = np.stack([rows / 6, columns / 10, np.full_like(rows, 0.5)])
    square = square_pixels(picture, aspect)
    assert square.shape == (3, *shape) and square.dtype == np.float32
    # A straight wedge stays one; its ends are held.
    assert square[2] == pytest.approx(np.full(shape, 0.5))
    stretched, kept = (1, 0) if aspect > 1 else (0, 1)
    wedge = square[stretched].mean(axis=1 - stretched)
    inner = np.diff(wedge)[2:-2]
    assert inner == pytest.approx(np.full_like(inner, inner[0]), abs=1e-5)
    assert wedge.mean() == pytest.approx(picture[stretched].mean(), abs=1e-5)
    assert np.unique(square[kept].round(5)).size == picture.shape[1 + kept]
    assert square_pixels(picture, 1.0) is picture


def test_develop_stretches_before_it_turns(rng: np.random.Generator) -> None:
    picture = rng.random((3, 9, 14), dtype=np.float32)
    assert develop(picture, 6, 2.0).shape == (28, 9, 3)
    assert np.array_equal(develop(picture, 6, 2.0), orient(develop(picture, 0, 2.0), 6))


def test_names_beyond_ascii_reach_the_exif(tmp_path: Path) -> None:
    shot = replace(SHOT, make="Léica", model="Größe 7", lens="50 µm", owner="思锐")
    for path in (tmp_path / "out.tif", tmp_path / "out.png"):
        write_image(path, _smooth(), shot=shot)
        tags = _exif(path)
        names = ["Image Make", "Image Model", "EXIF LensModel", "EXIF CameraOwnerName"]
        assert [str(tags[name]) for name in names] == ["Léica", "Größe 7", "50 µm", "思锐"]


PLACE = MoreExif(
    first=(Entry(0x010E, ASCII, b"Rialto"), Entry(0x013B, ASCII, "Zo\u00eb".encode())),
    exif=(
        Entry(0xA405, SHORT, [53]),
        Entry(0xA432, RATIONAL, [(24, 1), (70, 1), (28, 10), (0, 0)]),
    ),
    gps=(
        Entry(0, BYTE, b"\2\3\0\0"),
        Entry(1, ASCII, b"N"),
        Entry(2, RATIONAL, [(45, 1), (26, 1), (1666, 100)]),
        Entry(29, ASCII, b"2026:02:03"),
    ),
)
XMP = b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


@both
def test_place_lens_and_xmp_are_written_for_others_to_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_image(path, _smooth(), shot=replace(SHOT, more=PLACE), xmp=XMP)
    tags = _exif(path)
    assert str(tags["Image ImageDescription"]) == "Rialto"
    assert str(tags["GPS GPSLatitude"]) == "[45, 26, 833/50]"
    assert str(tags["GPS GPSDate"]) == "2026:02:03"
    assert str(tags["EXIF LensSpecification"]) == "[24, 70, 14/5, 0/0]"
    assert str(tags["EXIF FocalLengthIn35mmFilm"]) == "53"
    if suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            tag = file.pages[0].tags[700]  # type: ignore[union-attr]
            assert tag.value == XMP
        shot = read_shot(path)
        assert (shot.more, read_embedded_xmp(path)) == (PLACE, XMP)
    else:
        assert _chunk(path, b"iTXt") == b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
        with Image.open(path) as picture:
            assert "xmpmeta" in picture.getxmp()
    assert np.array_equal(_read(path), _smooth())
