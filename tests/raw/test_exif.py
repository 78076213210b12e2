from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

import gia_cli
from gia_cli.errors import DamagedFileError
from gia_cli.raw.exif import (
    RAF_MAGIC,
    MoreExif,
    ShotInfo,
    exif_entries,
    read_embedded_xmp,
    read_shot,
)
from gia_cli.raw.reader import read_raw
from gia_cli.raw.tiff import (
    ASCII,
    BYTE,
    DOUBLE,
    EXIF_IFD,
    FLOAT,
    GPS_IFD,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    ByteOrder,
    Entry,
    Ref,
    build,
)
from gia_cli.raw.writer import write_arw, write_dng, write_raf
from gia_cli.runtime import peak_resident_bytes

MOSAIC = np.full((24, 24), 2000, np.uint16)
SHOT = ShotInfo(
    lens="FE 35mm F1.4 ZA",
    exposure_s=1 / 30,
    iso=25600,
    aperture=1.4,
    focal_mm=35.0,
    taken="2026:02:03 23:59:58",
)
CAMERAS: dict[str, tuple[Callable[..., None], str, str]] = {
    "arw": (write_arw, "SONY", "ILCE-7SM2"),
    "raf": (write_raf, "FUJIFILM", "X-T2"),
    "dng": (write_dng, "Make of DNG", "Model 1"),
}


def _tiff(shot: ShotInfo, order: ByteOrder = "<", *more: Entry) -> bytes:
    """A TIFF with a camera's tags and no picture."""
    return build(
        {
            "ifd0": [
                Entry(0x010F, ASCII, shot.make or ""),
                Entry(0x0110, ASCII, shot.model or ""),
                Entry(EXIF_IFD, LONG, Ref("exif")),
            ],
            "exif": exif_entries(replace(shot, make=None, model=None), *more),
        },
        order=order,
    )


def _read(folder: Path, data: bytes) -> ShotInfo:
    (folder / "photo").write_bytes(data)
    return read_shot(folder / "photo")


# ---------------------------------------------------------------- what our own writers write


@pytest.mark.parametrize("kind", CAMERAS)
def test_what_was_written_is_read_back(tmp_path: Path, kind: str) -> None:
    write, make, model = CAMERAS[kind]
    shot = replace(SHOT, make=make, model=model)
    write(tmp_path / "photo", MOSAIC, shot=shot)
    assert read_shot(tmp_path / "photo") == shot


@pytest.mark.parametrize("kind", CAMERAS)
@pytest.mark.parametrize("missing", ["lens", "exposure_s", "iso", "aperture", "focal_mm", "taken"])
def test_what_was_not_written_is_none(tmp_path: Path, kind: str, missing: str) -> None:
    write, make, model = CAMERAS[kind]
    shot = replace(SHOT, make=make, model=model, **{missing: None})
    write(tmp_path / "photo", MOSAIC, shot=shot)
    assert read_shot(tmp_path / "photo") == shot


@pytest.mark.parametrize("kind", CAMERAS)
@pytest.mark.parametrize("iso", [50, 65534, 65535, 65536, 102400, 409600, 3276800])
def test_iso_survives_beyond_16_bits(tmp_path: Path, kind: str, iso: int) -> None:
    write = CAMERAS[kind][0]
    write(tmp_path / "photo", MOSAIC, shot=replace(SHOT, iso=iso))
    assert read_shot(tmp_path / "photo").iso == iso


@pytest.mark.parametrize("exposure", [1 / 32000, 1 / 8000, 1 / 3, 0.1, 0.4, 1.3, 10.0, 30.0, 900.0])
def test_exposure_times_survive_exactly(tmp_path: Path, exposure: float) -> None:
    shot = ShotInfo(make="A", model="B", exposure_s=exposure)
    assert _read(tmp_path, _tiff(shot)) == shot


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_read_alike(tmp_path: Path, order: ByteOrder) -> None:
    shot = replace(SHOT, make="NIKON CORPORATION", model="NIKON D850")
    assert _read(tmp_path, _tiff(shot, order)) == shot


def test_a_jpeg_is_read_too(tmp_path: Path) -> None:
    app1 = b"Exif\0\0" + _tiff(replace(SHOT, make="A", model="B"))
    picture: bytes = iio.imwrite("<bytes>", np.zeros((8, 8, 3), np.uint8), extension=".jpg")
    data = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + picture[2:]
    assert _read(tmp_path, data) == replace(SHOT, make="A", model="B")


# ---------------------------------------------------------------- details of the tags


def test_the_original_date_wins_over_the_files_date(tmp_path: Path) -> None:
    ifd0 = [Entry(0x0132, ASCII, "2020:01:01 00:00:00")]
    assert _read(tmp_path, build({"ifd0": ifd0})).taken == "2020:01:01 00:00:00"
    blocks = {
        "ifd0": [*ifd0, Entry(EXIF_IFD, LONG, Ref("exif"))],
        "exif": [Entry(0x9003, ASCII, "2019:12:31 23:59:59")],
    }
    assert _read(tmp_path, build(blocks)).taken == "2019:12:31 23:59:59"


def test_exif_tags_in_the_first_directory_count(tmp_path: Path) -> None:
    entries = [Entry(0x829A, RATIONAL, (1, 4)), Entry(0x8827, SHORT, 400)]
    shot = _read(tmp_path, build({"ifd0": entries}))
    assert (shot.exposure_s, shot.iso) == (0.25, 400)


def test_text_is_stripped_of_padding(tmp_path: Path) -> None:
    entries = [Entry(0x010F, ASCII, "  Canon \0\0\0"), Entry(0x0110, ASCII, "   ")]
    shot = _read(tmp_path, build({"ifd0": entries}))
    assert (shot.make, shot.model) == ("Canon", None)


@pytest.mark.parametrize("value", [(0, 1), (1, 0), (0, 0)])
def test_numbers_that_mean_nothing_are_none(tmp_path: Path, value: tuple[int, int]) -> None:
    entries = [Entry(tag, RATIONAL, value) for tag in (0x829A, 0x829D, 0x920A)]
    blocks = {
        "ifd0": [Entry(EXIF_IFD, LONG, Ref("exif"))],
        "exif": [*entries, Entry(0x8827, SHORT, 0)],
    }
    assert _read(tmp_path, build(blocks)) == ShotInfo()


def test_an_overflowing_iso_without_a_longer_field_stays(tmp_path: Path) -> None:
    entries = [Entry(0x8827, SHORT, 65535)]
    assert _read(tmp_path, build({"ifd0": entries})).iso == 65535


# ---------------------------------------------------------------- other containers


@pytest.mark.parametrize(
    ("magic", "order"), [(b"IIRO", "<"), (b"IIRS", "<"), (b"MMOR", ">"), (b"IIU\0", "<")]
)
def test_olympus_and_panasonic_hide_behind_another_magic(
    tmp_path: Path, magic: bytes, order: ByteOrder
) -> None:
    shot = replace(SHOT, make="OLYMPUS CORPORATION", model="E-M1MarkII")
    assert _read(tmp_path, magic + _tiff(shot, order)[4:]) == shot


def test_a_cr3_keeps_its_exif_in_two_boxes(tmp_path: Path) -> None:
    def box(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", 8 + len(data)) + name + data

    cmt1 = build({"ifd0": [Entry(0x010F, ASCII, "Canon"), Entry(0x0110, ASCII, "Canon EOS R5")]})
    cmt2 = build({"ifd0": exif_entries(SHOT)})
    head = box(b"ftyp", b"crx \0\0\0\1crx isom")
    moov = box(b"moov", box(b"uuid", b"\x85" * 16 + box(b"CMT1", cmt1) + box(b"CMT2", cmt2)))
    shot = _read(tmp_path, head + moov + box(b"mdat", b"\0" * 100))
    assert shot == replace(SHOT, make="Canon", model="Canon EOS R5")
    assert _read(tmp_path, head + box(b"mdat", b"\0" * 100)) == ShotInfo()


def _heap(records: list[tuple[int, bytes]]) -> bytes:
    """A CIFF heap: data, then the table of records, then the table's offset."""
    data, table = b"", struct.pack("<H", len(records))
    for tag, content in records:
        table += struct.pack("<HII", tag, len(content), len(data))
        data += content
    return data + table + struct.pack("<I", len(data))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_crw_names_its_camera_in_a_heap(tmp_path: Path, depth: int) -> None:
    heap = _heap([(0x0805, b"comment"), (0x080A, b"Canon\0Canon EOS 10D\0\0\0")])
    for level in range(depth):
        heap = _heap([(0x2005, b"\0" * 50), (0x2804 if level % 2 else 0x300A, heap)])
    data = b"II" + struct.pack("<I", 26) + b"HEAPCCDR" + b"\0" * 12 + heap
    shot = _read(tmp_path, data)
    assert shot == ShotInfo(make="Canon", model="Canon EOS 10D")


def test_a_broken_crw_is_an_unknown_camera(tmp_path: Path) -> None:
    heap = _heap([(0x300A, _heap([(0x080A, b"Canon\0Canon EOS 10D\0")]))])
    whole = b"II" + struct.pack("<I", 26) + b"HEAPCCDR" + b"\0" * 12 + heap
    known = _read(tmp_path, whole)
    assert known.model == "Canon EOS 10D"
    inner_heap_ends = 26 + len(_heap([(0x080A, b"Canon\0Canon EOS 10D\0")]))
    for length in range(14, len(whole)):
        # Cut right there, the inner heap is a whole file.
        expected = known if length == inner_heap_ends else ShotInfo()
        assert _read(tmp_path, whole[:length]) == expected
    looping = b"II" + struct.pack("<I", 26) + b"HEAPCCDR" + b"\0" * 12
    looping += struct.pack("<HHII", 1, 0x300A, 16, 0) + struct.pack("<I", 0)
    assert _read(tmp_path, looping) == ShotInfo()


def test_the_names_in_a_crw_are_short_whatever_their_record_says(tmp_path: Path) -> None:
    """Millions of them were split off, to take the first two."""
    heap = _heap([(0x080A, b"A\0B\0" + b"C\0" * 5_000_000)])
    data = b"II" + struct.pack("<I", 26) + b"HEAPCCDR" + b"\0" * 12 + heap
    (tmp_path / "photo.crw").write_bytes(data)
    tracemalloc.start()
    shot = read_shot(tmp_path / "photo.crw")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shot == ShotInfo(make="A", model="B")
    assert most < 1_000_000


def test_a_raf_is_not_taken_at_its_word_for_the_size_of_its_jpeg(tmp_path: Path) -> None:
    """Python took memory for four billion bytes, before it read the few that are there."""
    write_raf(tmp_path / "photo.raf", MOSAIC)
    data = bytearray((tmp_path / "photo.raf").read_bytes())
    struct.pack_into(">I", data, 88, 0xFFFFFFF0)
    (tmp_path / "photo.raf").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(DamagedFileError, match="embedded JPEG"):
        read_shot(tmp_path / "photo.raf")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


@pytest.mark.parametrize("length", [0, 1])
def test_a_jpeg_segment_shorter_than_its_length_field_is_empty(tmp_path: Path, length: int) -> None:
    app1 = b"Exif\0\0" + _tiff(replace(SHOT, make="A", model="B"))
    segment = b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1
    data = b"\xff\xd8\xff\xe0" + struct.pack(">H", length) + segment
    assert _read(tmp_path, data) == replace(SHOT, make="A", model="B")


# ---------------------------------------------------------------- junk


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"hello, world" * 30, b"II*\0", b"\xff\xd8\xff\xe1", b"GIF89a" + b"\0" * 100],
    ids=["empty", "byte", "text", "tiff", "jpeg", "gif"],
)
def test_junk_gives_an_empty_shot(tmp_path: Path, data: bytes) -> None:
    assert _read(tmp_path, data) == ShotInfo()


def test_random_bytes_give_an_empty_shot(tmp_path: Path, rng: np.random.Generator) -> None:
    for length in (10, 100, 1000, 10000):
        assert _read(tmp_path, rng.bytes(length)) == ShotInfo()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["<", ">"])
def test_flipped_and_missing_bytes_never_raise(
    tmp_path: Path, order: ByteOrder, rng: np.random.Generator
) -> None:
    whole = _tiff(replace(SHOT, make="A", model="B"), order)
    seen = set()
    for _ in range(60):
        broken = bytearray(whole)
        for at in rng.integers(8, len(whole), 3):
            broken[at] = rng.integers(0, 256)
        seen.add(_read(tmp_path, bytes(broken[: int(rng.integers(8, len(whole) + 1))])))
    assert len(seen) > 3


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_shot(tmp_path / "nowhere.arw")


def test_a_truncated_raf_is_damaged(tmp_path: Path) -> None:
    write_raf(tmp_path / "photo.raf", MOSAIC)
    whole = (tmp_path / "photo.raf").read_bytes()
    jpeg_at, jpeg_length = struct.unpack_from(">II", whole, 84)
    jpeg_end = jpeg_at + jpeg_length
    assert _read(tmp_path, whole[:jpeg_end]).model == "X-T2"
    for length in (len(RAF_MAGIC), 40, 84, 91, 92, jpeg_at, jpeg_at + 20, jpeg_end - 1):
        with pytest.raises(DamagedFileError) as caught:
            _read(tmp_path, whole[:length])
        assert caught.value.exit_code == 14
        assert str(tmp_path / "photo") in caught.value.message


def test_nothing_is_said_about_a_file_that_is_no_photo(tmp_path: Path) -> None:
    """In a process of its own: pytest's log handlers would keep logging's last resort silent."""
    (tmp_path / "photo").write_bytes(b"not a photo at all" * 10)
    script = (
        "import sys, pathlib, gia_cli.raw.exif as e; print(e.read_shot(pathlib.Path(sys.argv[1])))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "photo")],
        env={**os.environ, "PYTHONPATH": str(Path(gia_cli.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == repr(ShotInfo())
    assert answer.stderr == ""


# ---------------------------------------------------------------- ShotInfo


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("SONY", "ILCE-7SM2", "SONY ILCE-7SM2"),
        ("NIKON CORPORATION", "NIKON D850", "NIKON D850"),
        ("Canon", "Canon EOS R5", "Canon EOS R5"),
        ("FUJIFILM", "X-T2", "FUJIFILM X-T2"),
        ("samsung", "SAMSUNG NX1", "SAMSUNG NX1"),
        ("SONY", None, "SONY"),
        (None, "X100", "X100"),
        (None, None, "unknown camera"),
        (" ", "X100", "X100"),
        ("", "", "unknown camera"),
    ],
)
def test_a_camera_is_named_without_its_make_twice(
    make: str | None, model: str | None, camera: str
) -> None:
    assert ShotInfo(make=make, model=model).camera == camera


def test_or_else_fills_only_what_is_missing() -> None:
    whole = replace(SHOT, make="A", model="B")
    other = ShotInfo("C", "D", "E", 1.0, 2, 3.0, 4.0, "F")
    assert whole.or_else(other) == whole
    assert ShotInfo().or_else(other) == other
    assert whole.or_else(ShotInfo()) == whole
    for f in fields(ShotInfo):
        gap: Any = replace(whole, **{f.name: None})
        assert gap.or_else(other) == replace(whole, **{f.name: getattr(other, f.name)})
        assert gap.or_else(whole) == whole


def test_exif_entries_hold_what_is_known_and_the_callers_own() -> None:
    bare = {entry.tag for entry in exif_entries(ShotInfo())}
    assert bare == {0x9000}
    full = exif_entries(SHOT, Entry(0x9286, ASCII, "mine"))
    tags = [entry.tag for entry in full]
    assert len(set(tags)) == len(tags)
    assert {0x829A, 0x829D, 0x8827, 0x8832, 0x9003, 0x920A, 0xA434, 0x9286} <= set(tags)


# ---------------------------------------------------------------- texts


TEXTS = [
    ("Objectif 50mm été".encode("latin-1"), "Objectif 50mm été"),
    ("思锐 50mm ƒ/1.8".encode(), "思锐 50mm ƒ/1.8"),
    (b"\xff" * 30, None),
    (b"  padded  \0rubbish", "padded"),
    (b"L\x1b[1A\x1b[2K\x9b31mX\x07", "L [1A [2K 31mX"),
    ("a\u202eb\u2028c".encode(), "a b c"),
    (b"\x1b\x07", None),
    (b"", None),
]


@pytest.mark.parametrize(("raw", "text"), TEXTS, ids=ascii)
def test_texts_in_any_encoding_are_one_clean_line(
    tmp_path: Path, raw: bytes, text: str | None
) -> None:
    data = build(
        {
            "ifd0": [Entry(0x0110, ASCII, raw), Entry(EXIF_IFD, LONG, Ref("exif"))],
            "exif": [Entry(0xA434, ASCII, raw), Entry(0xA430, ASCII, raw)],
        }
    )
    shot = _read(tmp_path, data)
    assert (shot.model, shot.lens, shot.owner) == (text, text, text)


def test_texts_beyond_ascii_are_written_as_utf8(tmp_path: Path) -> None:
    shot = ShotInfo(lens="50 µm ƒ/1.8", owner="Zoë")
    data = _tiff(shot)
    assert "50 µm ƒ/1.8\0".encode() in data and "Zoë\0".encode() in data
    assert _read(tmp_path, data).lens == shot.lens
    assert _read(tmp_path, data).owner == shot.owner


# ---------------------------------------------------------------- numbers


def _exposed(folder: Path, entry: Entry) -> ShotInfo:
    return _read(folder, build({"ifd0": [Entry(EXIF_IFD, LONG, Ref("exif"))], "exif": [entry]}))


@pytest.mark.parametrize(
    "entry",
    [
        Entry(0x829A, RATIONAL, (1, 0)),
        Entry(0x829A, RATIONAL, (0, 0)),
        Entry(0x829A, RATIONAL, (0, 10)),
        Entry(0x829A, SRATIONAL, (-1, 10)),
        Entry(0x829A, FLOAT, [math.nan]),
        Entry(0x829A, FLOAT, [math.inf]),
        Entry(0x829A, DOUBLE, [-0.1]),
        Entry(0x829A, ASCII, "soon"),
    ],
    ids=str,
)
def test_an_exposure_time_that_is_none_is_unknown(
    tmp_path: Path, rng: np.random.Generator, entry: Entry
) -> None:
    assert _exposed(tmp_path, entry).exposure_s is None
    # Not what LibRaw makes of it, either.
    mosaic = rng.integers(600, 16384, (40, 48))
    write_dng(tmp_path / "photo.dng", mosaic, shot=ShotInfo(), extra=[entry])
    frame = read_raw(tmp_path / "photo.dng")
    assert frame.shot.exposure_s is None


def test_an_exposure_time_may_be_a_float(tmp_path: Path) -> None:
    assert _exposed(tmp_path, Entry(0x829A, FLOAT, [0.25])).exposure_s == 0.25


@pytest.mark.parametrize("tag", [0x829D, 0x920A, 0x8827])
def test_zeros_are_no_aperture_no_focal_length_and_no_iso(
    tmp_path: Path, rng: np.random.Generator, tag: int
) -> None:
    entry = Entry(tag, SHORT, 0) if tag == 0x8827 else Entry(tag, RATIONAL, (0, 0))
    mosaic = rng.integers(600, 16384, (40, 48))
    write_dng(tmp_path / "photo.dng", mosaic, shot=ShotInfo(), extra=[entry])
    shot = read_raw(tmp_path / "photo.dng").shot
    assert (shot.aperture, shot.focal_mm, shot.iso) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "tags", "iso"),
    [
        (1, {0x8831: 204800}, 204800),
        (2, {0x8832: 204800}, 204800),
        (3, {0x8833: 204800}, 204800),
        (4, {0x8831: 102400, 0x8832: 204800}, 204800),
        (5, {0x8831: 204800, 0x8833: 102400}, 204800),
        (6, {0x8832: 204800, 0x8833: 102400}, 204800),
        (3, {0x8832: 102400, 0x8833: 204800}, 204800),
        (None, {0x8831: 204800}, 204800),
        (None, {0x8833: 204800}, 204800),
        (0, {}, 65535),
    ],
)
def test_iso_beyond_16_bits_stands_where_sensitivity_type_says(
    tmp_path: Path, kind: int | None, tags: dict[int, int], iso: int
) -> None:
    entries = [Entry(0x8827, SHORT, 65535)]
    entries += [Entry(tag, LONG, value) for tag, value in tags.items()]
    entries += [] if kind is None else [Entry(0x8830, SHORT, kind)]
    data = build({"ifd0": [Entry(EXIF_IFD, LONG, Ref("exif"))], "exif": entries})
    assert _read(tmp_path, data).iso == iso
    # Without the 16-bit field at all.
    data = build({"ifd0": [Entry(EXIF_IFD, LONG, Ref("exif"))], "exif": entries[1:]})
    assert _read(tmp_path, data).iso == (iso if tags else None)


def test_a_crw_of_heaps_within_themselves_ends(tmp_path: Path) -> None:
    """Each of 120 records names the heap that it stands in, and no heap has the names."""
    count = 120
    size = 2 + 10 * count + 4
    heap = struct.pack("<H", count) + struct.pack("<HII", 0x3001, size, 0) * count
    heap += struct.pack("<I", 0)
    root = struct.pack("<H", 2) + struct.pack("<HII", 0x3001, len(heap), 0)
    root += struct.pack("<HII", 0x3002, len(heap) - 1, 0) + struct.pack("<I", len(heap))
    data = struct.pack("<2sI8s", b"II", 14, b"HEAPCCDR") + heap + root
    start = time.perf_counter()
    assert _read(tmp_path, data) == ShotInfo()
    assert time.perf_counter() - start < 5


def test_a_file_of_texts_that_all_are_the_same_ends(tmp_path: Path) -> None:
    """4,000 tags of 400 KB each, which all name the same bytes."""
    count, text = 4000, b"A" * 400_000
    at = 8 + 2 + 12 * count + 4
    entries = (struct.pack("<HHII", 0x1000 + i, ASCII, len(text), at) for i in range(count))
    data = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", count) + b"".join(entries)
    before = peak_resident_bytes()
    assert _read(tmp_path, data + bytes(4) + text) == ShotInfo()
    assert peak_resident_bytes() - before < 10**8


def test_a_jpeg_is_looked_at_up_to_its_picture(tmp_path: Path) -> None:
    app0 = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0".ljust(14, b"\0")
    block = b"Exif\0\0" + _tiff(ShotInfo(model="Phone"))
    app1 = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    scan = b"\xff\xda\x00\x08" + bytes(6)
    assert _read(tmp_path, b"\xff\xd8" + app0 + app1 + scan).model == "Phone"
    assert _read(tmp_path, b"\xff\xd8" + app0 + scan + app1) == ShotInfo()
    assert _read(tmp_path, b"\xff\xd8" + app0) == ShotInfo()


# ---------------------------------------------------------------- what is carried over as it stands

MORE = MoreExif(
    first=(
        Entry(0x010E, ASCII, b"Rialto"),
        Entry(0x013B, ASCII, "Zo\u00eb".encode()),
        Entry(0x8298, ASCII, "\u00a9 Zo\u00eb".encode()),
    ),
    exif=(
        Entry(0x8822, SHORT, [1]),
        Entry(0x9011, ASCII, b"+01:00"),
        Entry(0x9204, SRATIONAL, [(-2, 3)]),
        Entry(0xA300, UNDEFINED, b"\3"),
        Entry(0xA432, RATIONAL, [(24, 1), (70, 1), (28, 10), (0, 0)]),
    ),
    gps=(
        Entry(0x00, BYTE, b"\2\3\0\0"),
        Entry(0x01, ASCII, b"S"),
        Entry(0x02, RATIONAL, [(33, 1), (51, 1), (4294967295, 100)]),
        Entry(0x05, BYTE, b"\1"),
        Entry(0x06, RATIONAL, [(17, 2)]),
        Entry(0x07, RATIONAL, [(23, 1), (59, 1), (58, 1)]),
        Entry(0x11, RATIONAL, [(2705, 10)]),
        Entry(0x1B, UNDEFINED, b"ASCII\0\0\0GPS"),
        Entry(0x1D, ASCII, b"2026:02:03"),
    ),
)


@pytest.mark.parametrize("kind", CAMERAS)
def test_place_lens_and_author_are_kept_as_they_stand(tmp_path: Path, kind: str) -> None:
    write, make, model = CAMERAS[kind]
    shot = replace(SHOT, make=make, model=model, more=MORE)
    write(tmp_path / "photo", MOSAIC, shot=shot)
    assert read_shot(tmp_path / "photo") == shot
    if kind != "raf":  # there LibRaw reads the JPEG
        assert read_raw(tmp_path / "photo").shot.more == MORE


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_is_kept_does_not_depend_on_the_byte_order(tmp_path: Path, order: ByteOrder) -> None:
    blocks = {
        "ifd0": [
            *MORE.first,
            Entry(EXIF_IFD, LONG, Ref("exif")),
            Entry(GPS_IFD, LONG, Ref("gps")),
        ],
        "exif": list(MORE.exif),
        "gps": list(MORE.gps),
    }
    assert _read(tmp_path, build(blocks, order=order)).more == MORE


def test_a_cr3_has_its_place_in_a_box_of_its_own(tmp_path: Path) -> None:
    boxes = b"CMT1" + build({"ifd0": list(MORE.first)}) + b"CMT2" + build({"ifd0": list(MORE.exif)})
    data = b"\0\0\0\x18ftypcrx " + boxes + b"CMT4" + build({"ifd0": list(MORE.gps)})
    assert _read(tmp_path, data).more == MORE


@pytest.mark.parametrize(
    "entry",
    [
        Entry(0x010E, SHORT, [1]),
        Entry(0x010E, ASCII, b"   "),
        Entry(0x010E, ASCII, b"x" * 3000),
        Entry(0x9204, RATIONAL, [(1, 3)]),
        Entry(0xA405, LONG, [53]),
        Entry(0x927C, UNDEFINED, b"maker note"),
        Entry(GPS_IFD, LONG, 0),
        Entry(GPS_IFD, LONG, 2**32 - 1),
        Entry(GPS_IFD, ASCII, b"there"),
    ],
    ids=lambda entry: f"{entry.tag:#x} {entry.type}",
)
def test_what_is_of_another_type_or_too_long_is_not_kept(tmp_path: Path, entry: Entry) -> None:
    assert _read(tmp_path, build({"ifd0": [entry]})).more is None


def test_what_is_kept_fits_into_a_jpeg(tmp_path: Path) -> None:
    gps = [Entry(tag, ASCII, b"x" * 2000) for tag in range(0x20)]
    blocks = {"ifd0": [*MORE.first, Entry(GPS_IFD, LONG, Ref("gps"))], "gps": gps}
    more = _read(tmp_path, build(blocks)).more
    assert more is not None and more.first == MORE.first
    assert 10 < len(more.gps) < 17  # of 2 KB each, in 32 KB


# ---------------------------------------------------------------- the XMP within

PACKET = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
APP1 = b"http://ns.adobe.com/xap/1.0/\0"


@pytest.mark.parametrize("kind", [BYTE, UNDEFINED])
def test_the_xmp_of_a_tiff_is_read_whole(tmp_path: Path, kind: int) -> None:
    long = PACKET + b" " * 100_000
    (tmp_path / "photo").write_bytes(build({"ifd0": [Entry(0x02BC, kind, long)]}))
    assert read_embedded_xmp(tmp_path / "photo") == long


def test_the_xmp_of_a_raf_stands_in_its_jpeg(tmp_path: Path) -> None:
    segment = struct.pack(">H", len(APP1 + PACKET) + 2) + APP1 + PACKET
    jpeg = b"\xff\xd8\xff\xe1" + segment + b"\xff\xd9"
    head = RAF_MAGIC.ljust(84, b"\0") + struct.pack(">II", 92, len(jpeg))
    (tmp_path / "photo").write_bytes(head + jpeg)
    assert read_embedded_xmp(tmp_path / "photo") == PACKET


def test_the_xmp_of_a_cr3_stands_in_a_box(tmp_path: Path) -> None:
    box = b"uuid" + bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + PACKET
    data = b"\0\0\0\x18ftypcrx " + b"\0" * 12 + struct.pack(">I", len(box) + 4) + box + b"more"
    (tmp_path / "photo").write_bytes(data)
    assert read_embedded_xmp(tmp_path / "photo") == PACKET


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"II*\0",
        b"\xff\xd8\xff\xe1\0\2",
        b"\0" * 4 + b"ftypcrx " + b"\0" * 99,
        build({"ifd0": [Entry(0x02BC, ASCII, b"a text")]}),
        b"II\x1a\0\0\0HEAPCCDR" + b"\0" * 20,
    ],
)
def test_without_xmp_there_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "photo").write_bytes(data)
    assert read_embedded_xmp(tmp_path / "photo") == b""
