from __future__ import annotations

import io
import math
import struct
import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tifffile

from gia_cli.raw.tiff import (
    ASCII,
    BYTE,
    DOUBLE,
    EXIF_IFD,
    FLOAT,
    IFD,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    SUB_IFDS,
    UNDEFINED,
    ByteOrder,
    Directory,
    Entry,
    Ref,
    build,
    ifd_bytes,
    rational,
    walk,
)

ORDERS: tuple[ByteOrder, ...] = ("<", ">")
both_orders = pytest.mark.parametrize("order", ORDERS, ids=["II", "MM"])


def _walk(data: bytes, **options: int) -> list[Directory]:
    return walk(io.BytesIO(data), **options)


def _raw_entries(data: bytes, at: int, order: ByteOrder) -> tuple[list[tuple[int, ...]], int]:
    """One directory, decoded without the module: (tag, type, count, value or offset), next."""
    (count,) = struct.unpack_from(order + "H", data, at)
    entries = [struct.unpack_from(order + "HHII", data, at + 2 + 12 * i) for i in range(count)]
    (following,) = struct.unpack_from(order + "I", data, at + 2 + 12 * count)
    return entries, following


def _some_entries(rng: np.random.Generator) -> list[Entry]:
    """Entries of the integer types, of lengths that lie in the directory and out of it."""
    tops = {BYTE: 256, SHORT: 1 << 16, LONG: 1 << 32}
    tag, entries = 0x9000, []
    for kind, top in tops.items():
        for length in (1, 2, 3, 4, 5, 40):
            values = rng.integers(0, top, length).tolist()
            entries.append(Entry(tag, kind, bytes(values) if kind == BYTE else values))
            tag += 1
    return entries


# ---------------------------------------------------------------- rational


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1 / 8000, 2.8, 30.0, 1e-6, -2.5, 1234.5])
def test_a_camera_number_survives_as_a_rational(value: float) -> None:
    numerator, denominator = rational(value)
    assert numerator / denominator == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_rational_keeps_pairs_and_fractions() -> None:
    assert rational((350, 700)) == (350, 700)
    assert rational(Fraction(7, 9)) == (7, 9)


def test_any_finite_number_fits_two_32_bit_fields(rng: np.random.Generator) -> None:
    for value in (10 ** rng.uniform(-9, 9.3, 500)).tolist():
        for signed in (value, -value):
            numerator, denominator = rational(signed)
            assert abs(numerator) < 2**31 and 0 < denominator < 2**31
            assert numerator / denominator == pytest.approx(signed, rel=1e-6, abs=1e-6)


def test_a_number_beyond_32_bits_becomes_the_largest() -> None:
    assert rational(1e15) == (2**31 - 1, 1)
    assert rational(-1e15) == (-(2**31) + 1, 1)


# ---------------------------------------------------------------- build and walk


@both_orders
def test_what_is_built_is_walked(order: ByteOrder, rng: np.random.Generator) -> None:
    entries = _some_entries(rng)
    (directory,) = _walk(build({"ifd0": entries}, order=order))
    assert directory.tags == {e.tag: tuple(e.values) for e in entries}


@both_orders
def test_one_value_needs_no_list(order: ByteOrder) -> None:
    (directory,) = _walk(
        build({"ifd0": [Entry(1, SHORT, 40000), Entry(2, LONG, 1 << 31)]}, order=order)
    )
    assert directory.tags == {1: (40000,), 2: (1 << 31,)}


def test_first_gives_the_first_value_or_the_default() -> None:
    directory = Directory({1: (5, 6), 2: ()})
    assert directory.first(1) == 5
    assert directory.first(2, 9) == 9
    assert directory.first(3) == 0


@both_orders
def test_the_header_names_the_byte_order(order: ByteOrder) -> None:
    data = build({"ifd0": [Entry(1, SHORT, 1)]}, order=order)
    assert data[:4] == (b"II*\0" if order == "<" else b"MM\0*")
    assert struct.unpack_from(order + "I", data, 4) == (8,)


@both_orders
def test_tags_stand_in_ascending_order(order: ByteOrder, rng: np.random.Generator) -> None:
    tags = rng.permutation(np.arange(1, 60000, 997)).tolist()
    data = build({"ifd0": [Entry(tag, LONG, [tag, tag]) for tag in tags]}, order=order)
    entries, _ = _raw_entries(data, 8, order)
    assert [entry[0] for entry in entries] == sorted(tags)
    for tag, kind, count, where in entries:
        assert (kind, count) == (LONG, 2)
        assert struct.unpack_from(order + "2I", data, where) == (tag, tag)


@both_orders
def test_short_values_lie_inside_the_entry_and_long_ones_outside(order: ByteOrder) -> None:
    inside = {1: [7], 2: [7, 8]}
    outside = {3: [7, 8, 9], 4: [1, 2, 3, 4]}
    entries = [Entry(tag, SHORT, values) for tag, values in (inside | outside).items()]
    data = ifd_bytes(entries, 0, order)
    at = 2
    for tag, values in (inside | outside).items():
        payload = struct.pack(f"{order}{len(values)}H", *values)
        field = data[at + 8 : at + 12]
        if tag in inside:
            assert field == payload.ljust(4, b"\0")
        else:
            (where,) = struct.unpack(order + "I", field)
            assert where % 2 == 0 and where >= 2 + 12 * 4 + 4
            assert data[where : where + len(payload)] == payload
        at += 12


@both_orders
def test_long_values_lie_at_even_offsets(order: ByteOrder) -> None:
    entries = [Entry(tag, ASCII, "x" * (4 + tag)) for tag in range(1, 9)]
    raw, _ = _raw_entries(build({"ifd0": entries}, order=order), 8, order)
    assert all(where % 2 == 0 for *_, where in raw)
    assert len({where for *_, where in raw}) == len(entries)


@both_orders
def test_directories_of_the_chain_follow_each_other(order: ByteOrder) -> None:
    blocks = {name: [Entry(1, SHORT, i)] for i, name in enumerate(("ifd0", "other", "ifd1", "z"))}
    found = _walk(build(blocks, order=order, chain=("ifd0", "ifd1", "z")))
    assert [directory.first(1, -1) for directory in found] == [0, 2, 3]
    alone = _walk(build(blocks, order=order))
    assert [directory.first(1, -1) for directory in alone] == [0]


@both_orders
@pytest.mark.parametrize("kind", [LONG, IFD])
def test_directories_below_are_walked(order: ByteOrder, kind: int) -> None:
    blocks = {
        "ifd0": [
            Entry(SUB_IFDS, kind, [Ref("a"), Ref("b")]),
            Entry(EXIF_IFD, kind, Ref("exif")),
            Entry(1, SHORT, 0),
        ],
        "exif": [Entry(1, SHORT, 3)],
        "a": [Entry(1, SHORT, 1)],
        "b": [Entry(1, SHORT, 2), Entry(SUB_IFDS, kind, Ref("deep"))],
        "deep": [Entry(1, SHORT, 4)],
    }
    found = _walk(build(blocks, order=order))
    assert sorted(directory.first(1) for directory in found) == [0, 1, 2, 3, 4]


@both_orders
@pytest.mark.parametrize("align", [2, 16, 64])
def test_blocks_of_bytes_are_aligned_and_unchanged(
    order: ByteOrder, align: int, rng: np.random.Generator
) -> None:
    blobs = {name: rng.bytes(length) for name, length in (("p", 13), ("q", 1), ("r", 64))}
    pointers = [Entry(100 + i, LONG, Ref(name)) for i, name in enumerate(blobs)]
    data = build({"ifd0": pointers, **blobs}, order=order, align=align)
    (directory,) = _walk(data)
    for i, blob in enumerate(blobs.values()):
        at = directory.first(100 + i)
        assert at % align == 0
        assert data[at : at + len(blob)] == blob


@both_orders
def test_a_function_gets_the_offsets_of_all_blocks(order: ByteOrder) -> None:
    def table(offsets: Mapping[str, int]) -> bytes:
        return struct.pack("<II", offsets["before"], offsets["after"])

    pointers = [Entry(1, LONG, Ref("table"))]
    data = build(
        {"ifd0": pointers, "before": b"BEFORE", "table": table, "after": b"AFTER"}, order=order
    )
    (directory,) = _walk(data)
    before, after = struct.unpack_from("<II", data, directory.first(1))
    assert data[before:].startswith(b"BEFORE")
    assert data[after:].startswith(b"AFTER")


@both_orders
def test_an_independent_reader_sees_the_same_values(order: ByteOrder) -> None:
    # An image of one pixel, so that tifffile takes it for a page.
    image = [
        (256, LONG, 1),
        (257, LONG, 1),
        (258, SHORT, 8),
        (259, SHORT, 1),
        (262, SHORT, 1),
        (273, LONG, Ref("pixel")),
        (277, SHORT, 1),
        (278, LONG, 1),
        (279, LONG, 1),
    ]
    values: list[tuple[int, int, Any, Any]] = [
        (40001, ASCII, "a text", "a text"),
        (40002, ASCII, "é", "?"),
        (40011, ASCII, "é".encode(), "é"),
        (40003, RATIONAL, 0.5, (1, 2)),
        (40004, RATIONAL, [0.25, (3, 9)], (1, 4, 3, 9)),
        (40005, RATIONAL, (7, 8), (7, 8)),
        (40006, SRATIONAL, [-0.5, (-3, 7)], (-1, 2, -3, 7)),
        (40007, DOUBLE, [1.5, -1e300], (1.5, -1e300)),
        (40008, UNDEFINED, b"0230", b"0230"),
        (40009, UNDEFINED, b"longer than four", b"longer than four"),
        (40010, SHORT, [1, 2, 65535], (1, 2, 65535)),
    ]
    entries = [Entry(*fields) for fields in image]
    entries += [Entry(tag, kind, value) for tag, kind, value, _ in values]
    data = build({"ifd0": entries, "pixel": b"\x2a"}, order=order)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        assert page.asarray().item() == 0x2A
        assert {tag: page.tags.valueof(tag) for tag, *_ in values} == {
            tag: expected for tag, _, _, expected in values
        }


@both_orders
def test_the_walker_reads_what_another_writer_wrote(
    order: ByteOrder, rng: np.random.Generator
) -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=order) as writer:
        for side in (5, 6):
            writer.write(
                rng.integers(0, 255, (side, side + 2)).astype(np.uint8), subifds=1, metadata=None
            )
            writer.write(np.zeros((side - 3, 3), np.uint8), metadata=None)
    sizes = {(d.first(257), d.first(256)) for d in _walk(file.getvalue())}
    assert sizes == {(5, 7), (6, 8), (2, 3), (3, 3)}


# ---------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"I",
        b"II*\0",
        b"II*\0\x08\0\0",
        b"MM*\0\0\0\0\x08",
        b"II\0*\x08\0\0\0\x01\0",
        b"hello, world, this is text",
        b"\xff\xd8\xff\xe0 a JPEG",
    ],
)
def test_what_is_not_tiff_has_no_directories(data: bytes) -> None:
    assert _walk(data) == []


def test_a_pointer_beyond_the_end_leads_nowhere() -> None:
    assert _walk(b"II*\0\xff\xff\xff\xff") == []
    data = bytearray(build({"ifd0": [Entry(SUB_IFDS, LONG, 1 << 30), Entry(1, SHORT, 5)]}))
    assert [d.first(1) for d in _walk(bytes(data))] == [5]


@both_orders
def test_every_truncation_gives_fewer_tags_and_no_error(
    order: ByteOrder, rng: np.random.Generator
) -> None:
    blocks = {
        "ifd0": [*_some_entries(rng), Entry(SUB_IFDS, LONG, Ref("sub"))],
        "sub": _some_entries(rng),
    }
    data = build(blocks, order=order)
    whole = _walk(data)
    assert len(whole) == 2
    counts = []
    for length in range(len(data)):
        found = _walk(data[:length])
        for directory, reference in zip(found, whole, strict=False):
            assert directory.tags.items() <= reference.tags.items()
        counts.append(sum(len(directory.tags) for directory in found))
    assert counts == sorted(counts)
    assert counts[0] == 0 and counts[-1] > 0


@both_orders
def test_flipped_bytes_raise_nothing(order: ByteOrder, rng: np.random.Generator) -> None:
    data = build(
        {"ifd0": [*_some_entries(rng), Entry(SUB_IFDS, LONG, Ref("sub"))], "sub": []}, order=order
    )
    seen = set()
    for _ in range(300):
        broken = bytearray(data)
        for at in rng.integers(4, len(data), 4):
            broken[at] = rng.integers(0, 256)
        found = _walk(bytes(broken))
        assert len(found) <= 32
        seen.add(len(found))
    assert len(seen) > 1  # some of them did break it


def test_junk_behind_a_tiff_header_raises_nothing(rng: np.random.Generator) -> None:
    for length in range(0, 600, 7):
        for head in (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
            assert len(_walk(head + rng.bytes(length))) <= 32


@both_orders
def test_each_directory_is_read_once(order: ByteOrder) -> None:
    chained = bytearray(build({"ifd0": [Entry(1, SHORT, 1)]}, order=order))
    struct.pack_into(order + "I", chained, 8 + 2 + 12, 8)  # the next directory is this one
    assert len(_walk(bytes(chained))) == 1
    below = build({"ifd0": [Entry(SUB_IFDS, LONG, [8, 8])]}, order=order)
    assert len(_walk(below)) == 1


@both_orders
@pytest.mark.parametrize("limit", [1, 5, 32])
def test_a_long_chain_ends_at_the_limit(order: ByteOrder, limit: int) -> None:
    names = ["ifd0", *(f"ifd{i}" for i in range(1, 40))]
    data = build({name: [Entry(1, SHORT, 1)] for name in names}, order=order, chain=names)
    assert len(_walk(data, limit=limit)) == limit


def test_a_directory_bomb_ends_soon() -> None:
    # 31 directories, each of 4,000 tags, each of 4,000 values, which all name the same bytes.
    values = [0] * 4000
    names = [f"d{i}" for i in range(31)]

    def bomb(offsets: Mapping[str, int]) -> bytes:
        entry = struct.pack("<HHII", 0x9999, LONG, len(values), offsets["values"])
        return struct.pack("<H", 4000) + entry * 4000 + b"\0" * 4

    pointers = [Entry(SUB_IFDS, LONG, [Ref(name) for name in names])]
    data = build({"ifd0": pointers, **dict.fromkeys(names, bomb), "values": bytes(16000)})
    start = time.perf_counter()
    found = _walk(data)
    assert time.perf_counter() - start < 5  # without a budget: minutes, and gigabytes
    assert sum(len(v) for directory in found for v in directory.tags.values()) <= 31 * 4000 + 31


class _Counting(io.BytesIO):
    """A file that counts the bytes which are read of it."""

    given = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.given += len(data)
        return data


def test_values_that_end_beyond_the_file_are_not_read_for_nothing() -> None:
    """One byte of each was missing: it was no value, was not counted, and was read all the same."""
    length = 8 * (1 << 16)
    names = [f"d{index}" for index in range(30)]
    entry = struct.pack("<HHI", 0x9000, DOUBLE, 1 << 16)

    def bomb(offsets: Mapping[str, int]) -> bytes:
        where = struct.pack("<I", offsets["values"] + 16)
        return struct.pack("<H", 2000) + 2000 * (entry + where) + bytes(4)

    pointers = [Entry(SUB_IFDS, LONG, [Ref(name) for name in names])]
    data = build({"ifd0": pointers, **dict.fromkeys(names, bomb), "values": bytes(length)})
    file = _Counting(data)
    assert len(walk(file)) == 31
    assert file.given < 12_000_000  # it was 30 billion


@both_orders
def test_fractions_floats_and_texts_are_distinguished(order: ByteOrder) -> None:
    entries = [
        Entry(1, RATIONAL, [(1, 2), (5, 0)]),
        Entry(2, SRATIONAL, [(-3, 4), (3, -4)]),
        Entry(3, FLOAT, [0.25, -8.0]),
        Entry(4, DOUBLE, 1e300),
        Entry(5, ASCII, "ƒ/1.8".encode()),
        Entry(6, SHORT, [7, 8]),
    ]
    (directory,) = _walk(build({"ifd0": entries}, order=order))
    assert directory.tags == {6: (7, 8)}
    assert directory.texts == {5: "ƒ/1.8".encode()}
    half, nothing = directory.numbers[1]
    assert half == 0.5 and math.isnan(nothing)
    assert {tag: directory.numbers[tag] for tag in (2, 3, 4)} == {
        2: (-0.75, -0.75),
        3: (0.25, -8.0),
        4: (1e300,),
    }
    assert directory.floats(6) == (7, 8) and directory.floats(99) == ()


def test_a_count_that_no_directory_has_is_no_directory() -> None:
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 60000) + b"\0" * 60000 * 12
    assert _walk(data) == []
