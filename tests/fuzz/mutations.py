"""Seeded damage: what a bad card, a bad copy or a bad person makes of a file.

Every function takes a generator and bytes, and returns other bytes. Some know a format, so that
they change what a reader follows: types, counts, offsets, sizes, pointers.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.fuzz.seeds import Seed

#: Numbers at which arithmetic breaks: of signs, of widths, of products.
INTERESTING = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 257, 1023, 1024, 4096),
    *(32767, 32768, 65534, 65535, 65536, 65537, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31),
    *((1 << 31) + 1, (1 << 32) - 256, (1 << 32) - 16, (1 << 32) - 2, (1 << 32) - 1, 0x7FFFFFF0),
    *(0x7FC00000, 0x7F800000, 0xFF800000, 0x3F800000),  # floats: no number, infinite, one
)
_SIZE_TAGS = frozenset(
    {0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111, 0x0115, 0x0116, 0x0117, 0x0142, 0x0143, 0x0144}
    | {0x0145, 0x828D, 0x828E, 0xC619, 0xC61A, 0xC61D, 0xC68D, 0xC68E, 0xF001, 0xF002, 0xF003}
    | {0xF007, 0xF008, 0xF00A}
)
_TEXT_TAGS = frozenset({0x010F, 0x0110, 0x0131, 0x0132, 0x9003, 0xA430, 0xA434, 0xC614})
_OTHER_TAGS = (
    *(0x0112, 0x011A, 0x0140, 0x014A, 0x0201, 0x0202, 0x02BC, 0x7010, 0x7200, 0x7221, 0x7310),
    *(0x7313, 0x74A0, 0x8769, 0x829A, 0x8827, 0x8830, 0x9211, 0x927C, 0xC4A5, 0xC616, 0xC617),
    *(0xC618, 0xC61B, 0xC61C, 0xC61E, 0xC61F, 0xC620, 0xC621, 0xC628, 0xC629, 0xC62A, 0xC634),
    *(0xC65A, 0xC740, 0xC741, 0xC74E, 0xC761, 0xFE00),
)
_HOSTILE_TEXT = (
    b"\x1b]0;t\x07\x1b[2J\x9b2J\r\n",
    b"\xff" * 8,
    b"\xe2\x80\xae\xed\xa0\x80",
    b"%s%n",
)
# Whose names make LibRaw choose another decoder, or other tables.
_CAMERAS = (
    *(b"Canon\0", b"Nikon\0", b"NIKON CORPORATION\0", b"OLYMPUS\0", b"Panasonic\0", b"PENTAX\0"),
    *(b"Kodak\0", b"Leaf\0", b"Hasselblad\0", b"SAMSUNG\0", b"Sinar\0", b"Phase One A/S\0"),
    *(
        b"Minolta\0",
        b"CASIO\0",
        b"RaspberryPi\0",
        b"FUJIFILM\0",
        b"LEICA\0",
        b"Mamiya\0",
        b"SONY\0",
    ),
    *(b"DJI\0", b"Apple\0", b"GoPro\0", b"ARRI\0", b"Imacon\0", b"DSLR-A350\0", b"ILCE-7M4\0"),
)
_COMPRESSIONS = (
    *(0, 1, 6, 7, 8, 9, 99, 262, 32767, 32769, 32770, 32772, 32773, 32867, 34316, 34713, 34892),
    *(52546, 65000, 65024, 65535),
)
_COMPRESSION, _PHOTOMETRIC = 0x0103, 0x0106
_PHOTOMETRICS = (0, 1, 2, 6, 32803, 34892, 51177, 52527)
_NUMBER_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_MAX_STEPS = 4  # mutations of one mutant
_STRUCTURE_SHARE = 0.85  # of random places: not among the pixels

Mutation = Callable[[random.Random, bytearray, Seed], None]


# ---------------------------------------------------------------- of any bytes


def _place(rng: random.Random, data: bytearray, seed: Seed) -> int:
    """Draw a place, seldom among the pixels."""
    start, stop = seed.pixels
    if stop > start and rng.random() < _STRUCTURE_SHARE:
        outside = len(data) - (stop - start)
        if outside > 0:
            at = rng.randrange(outside)
            return at if at < start else min(at + stop - start, len(data) - 1)
    return rng.randrange(len(data))


def flip_bits(rng: random.Random, data: bytearray, seed: Seed) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[_place(rng, data, seed)] ^= 1 << rng.randrange(8)


def fill_run(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Overwrite a run with one byte, or with noise."""
    at = _place(rng, data, seed)
    length = min(rng.choice((1, 2, 4, 16, 100, 512, 4096)), len(data) - at)
    value = rng.choice((0, 0xFF, 0x7F, 0x80, -1))
    data[at : at + length] = rng.randbytes(length) if value < 0 else bytes([value]) * length


def cut(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """End the file early, mostly at a random place."""
    end = rng.randrange(len(data)) if rng.random() < 0.8 else len(data) - rng.randint(1, 40)
    del data[max(end, 0) :]


def splice(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Copy, move in or take out a piece."""
    source, target = _place(rng, data, seed), _place(rng, data, seed)
    piece = data[source : source + rng.choice((2, 4, 12, 24, 100, 1000))]
    way = rng.randrange(3)
    if way == 0:
        data[target : target + len(piece)] = piece
    elif way == 1:
        data[target:target] = piece
    else:
        del data[source : source + len(piece)]


def grow(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Append bytes, so that more offsets lie inside."""
    data += bytes(rng.choice((1, 512, 20_000))) if rng.random() < 0.5 else data[: 1 << 14]


def set_number(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Write an interesting number of 1, 2, 4 or 8 bytes, in either order."""
    width, letter = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    at = min(_place(rng, data, seed), max(len(data) - width, 0))
    if at + width <= len(data):
        value = _number(rng, len(data)) % (1 << (8 * width))
        struct.pack_into(rng.choice("<>") + letter, data, at, value)


def _number(rng: random.Random, length: int) -> int:
    """Draw a number: an interesting one, one about the file's length, or any."""
    way = rng.random()
    if way < 0.6:
        return rng.choice(INTERESTING)
    if way < 0.8:
        return max(length + rng.randint(-16, 16), 0)
    return rng.getrandbits(rng.choice((4, 8, 16, 32)))


# ---------------------------------------------------------------- TIFF


@dataclass(frozen=True, slots=True)
class _Ifd:
    """A directory: where its TIFF starts, where it is, and how many entries it has."""

    base: int
    at: int
    order: str
    count: int


def _ifds(data: bytearray) -> list[_Ifd]:
    """Find the directories of every TIFF within a file: its own, of EXIF, of a RAF."""
    found: list[_Ifd] = []
    for magic, order in ((b"II*\0", "<"), (b"MM\0*", ">")):
        base = data.find(magic)
        while base >= 0 and len(found) < 40:
            found += _chain(data, base, order)
            base = data.find(magic, base + 4)
    return found


def _chain(data: bytearray, base: int, order: str) -> Iterator[_Ifd]:
    try:
        pending = [struct.unpack_from(order + "I", data, base + 4)[0]]
        seen: set[int] = set()
        while pending and len(seen) < 20:
            at = pending.pop()
            if at in seen or at == 0:
                continue
            seen.add(at)
            (count,) = struct.unpack_from(order + "H", data, base + at)
            if count > 200:
                continue
            yield _Ifd(base, base + at, order, count)
            for entry in range(base + at + 2, base + at + 2 + 12 * count, 12):
                tag, _, number, value = struct.unpack_from(order + "HHII", data, entry)
                if tag in (0x014A, 0x8769, 0xF000) and number == 1:
                    pending.append(value)
            pending.append(struct.unpack_from(order + "I", data, base + at + 2 + 12 * count)[0])
    except struct.error:
        return


def edit_tag(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Change one entry of a directory: its tag, type, count, offset or value."""
    ifds = [ifd for ifd in _ifds(data) if ifd.count]
    if not ifds:
        return set_number(rng, data, seed)
    ifd = rng.choice(ifds)
    entries = [ifd.at + 2 + 12 * index for index in range(ifd.count)]
    entries = [at for at in entries if at + 12 <= len(data)]
    if not entries:
        return None
    sizes = [at for at in entries if struct.unpack_from(ifd.order + "H", data, at)[0] in _SIZE_TAGS]
    at = rng.choice(sizes) if sizes and rng.random() < 0.5 else rng.choice(entries)
    _edit_entry(rng, data, ifd, at)
    return None


def _edit_entry(rng: random.Random, data: bytearray, ifd: _Ifd, at: int) -> None:
    tag, kind, count, value = struct.unpack_from(ifd.order + "HHII", data, at)
    size = _NUMBER_SIZES.get(kind, 1) * count
    way = rng.randrange(7)
    if way == 0:
        tag = rng.choice((*_SIZE_TAGS, *_TEXT_TAGS, *_OTHER_TAGS, rng.getrandbits(16)))
    elif way == 1:
        kind = rng.choice((*range(15), 65535))
    elif way == 2:
        count = rng.choice((_number(rng, len(data)), count + 1, max(count - 1, 0), count * 256))
    elif way == 3:
        value = rng.choice((_number(rng, len(data)), ifd.at - ifd.base, 0, 8, len(data) - size))
    elif size > 4 and ifd.base + value + size <= len(data):
        return _edit_values(rng, data, ifd, (tag, kind, ifd.base + value, size))
    elif kind == 3 and count == 1:  # the number itself, in its half of the field
        number = _number(rng, len(data)) & 0xFFFF
        if tag == _COMPRESSION:
            number = rng.choice(_COMPRESSIONS)
        elif tag == _PHOTOMETRIC:
            number = rng.choice(_PHOTOMETRICS)
        struct.pack_into(ifd.order + "H", data, at + 8, number)
        return None
    else:
        value = _number(rng, len(data))
    fields = (tag & 0xFFFF, kind, count & 0xFFFFFFFF, value & 0xFFFFFFFF)
    struct.pack_into(ifd.order + "HHII", data, at, *fields)
    return None


def _edit_values(
    rng: random.Random, data: bytearray, ifd: _Ifd, what: tuple[int, int, int, int]
) -> None:
    tag, kind, at, size = what
    if kind == 2 or tag in _TEXT_TAGS:
        text = rng.choice(_HOSTILE_TEXT if rng.random() < 0.4 else _CAMERAS)
        data[at : at + min(len(text), size)] = text[:size]
        return
    width = {8: 4}.get(_NUMBER_SIZES.get(kind, 1), _NUMBER_SIZES.get(kind, 1))
    letter = {1: "B", 2: "H", 4: "I"}[width]
    for _ in range(rng.choice((1, 1, 3))):
        where = at + width * rng.randrange(max(size // width, 1))
        value = _number(rng, len(data)) % (1 << (8 * width))
        struct.pack_into(ifd.order + letter, data, where, value)


def tie_loop(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Let a pointer to a directory lead back, to itself, or into another's midst."""
    ifds = _ifds(data)
    if not ifds:
        return
    ifd = rng.choice(ifds)
    target = rng.choice(ifds)
    to = max(target.at - ifd.base + rng.choice((0, 0, 0, 2, 12, -2)), 0) & 0xFFFFFFFF
    end = ifd.at + 2 + 12 * ifd.count
    if rng.random() < 0.5 or not ifd.count:
        if end + 4 <= len(data):
            struct.pack_into(ifd.order + "I", data, end, to)
        return
    at = ifd.at + 2 + 12 * rng.randrange(ifd.count)
    if at + 12 <= len(data):
        tag = rng.choice((0x014A, 0x8769, 0x8825, 0x927C, 0xC634, 0xF000))
        count = rng.choice((1, 1, 2, 50, 60_000))
        struct.pack_into(ifd.order + "HHII", data, at, tag, 4, count, to)


def set_entry_count(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Let a directory have more or fewer entries than it holds."""
    ifds = _ifds(data)
    if ifds:
        ifd = rng.choice(ifds)
        count = rng.choice((0, ifd.count - 1, ifd.count + 1, 255, 4095, 4096, 4097, 65535))
        struct.pack_into(ifd.order + "H", data, ifd.at, max(count, 0))


# ---------------------------------------------------------------- RAF


def edit_raf(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Change an offset or length of a RAF's header, or a record of Fujifilm's directory."""
    if len(data) < 108:
        return
    if rng.random() < 0.4:
        at = 84 + 4 * rng.randrange(6)
        (value,) = struct.unpack_from(">I", data, at)
        other = (value + rng.choice((-16, -4, -1, 1, 2, 4, 16))) & 0xFFFFFFFF
        struct.pack_into(">I", data, at, rng.choice((_number(rng, len(data)), other)) & 0xFFFFFFFF)
        return
    records = list(_raf_records(data))
    if not records:
        return
    at, size = rng.choice(records)
    way = rng.randrange(4)
    if way == 0:
        struct.pack_into(">H", data, at + 2, _number(rng, len(data)) & 0xFFFF)
    elif way == 1:
        tags = (0x0100, 0x0110, 0x0111, 0x0115, 0x0117, 0x0121, 0x0130, 0x0131, 0x2FF0, 0x9200)
        struct.pack_into(">H", data, at, rng.choice((*tags, 0x9650, 0xC000)))
    elif size >= 2:
        where = at + 4 + 2 * rng.randrange(size // 2)
        if where + 2 <= len(data):
            struct.pack_into(">H", data, where, _number(rng, len(data)) & 0xFFFF)


def _raf_records(data: bytearray) -> Iterator[tuple[int, int]]:
    """Find Fujifilm's records: where each is, and how many bytes it has."""
    (at,) = struct.unpack_from(">I", data, 92)
    if at + 4 > len(data):
        return
    (count,) = struct.unpack_from(">I", data, at)
    at += 4
    for _ in range(min(count, 64)):
        if at + 4 > len(data):
            return
        (size,) = struct.unpack_from(">H", data, at + 2)
        yield at, size
        at += 4 + size


# ---------------------------------------------------------------- CIFF


def edit_ciff(rng: random.Random, data: bytearray, seed: Seed) -> None:
    """Change a heap of a CRW: a record's tag, size or offset, a count, or where the table is."""
    heaps = list(_heaps(data))
    if not heaps:
        return
    start, end, table, count = rng.choice(heaps)
    way = rng.random()
    if way < 0.1:
        struct.pack_into("<I", data, end - 4, _number(rng, len(data)) & 0xFFFFFFFF)
    elif way < 0.2:
        number = rng.choice((0, count + 1, 127, 128, 255, 65535))
        struct.pack_into("<H", data, table, number)
    elif way < 0.25:
        struct.pack_into("<I", data, 2, _number(rng, len(data)) & 0xFFFFFFFF)
    elif count:
        at = table + 2 + 10 * rng.randrange(count)
        if at + 10 <= len(data):
            _edit_record(rng, data, start, at)


def _edit_record(rng: random.Random, data: bytearray, start: int, at: int) -> None:
    tag, size, offset = struct.unpack_from("<HII", data, at)
    way = rng.randrange(5)
    if way == 0:
        tags = (0x080A, 0x0810, 0x1031, 0x1810, 0x1818, 0x1835, 0x2005, 0x2007, 0x2807, 0x300A)
        tag = rng.choice(
            (*tags, 0x0032, 0x102A, 0x102C, 0x10A9, 0x180E, 0x5029, rng.getrandbits(16))
        )
    elif way == 1:
        size = rng.choice((_number(rng, len(data)), size + 1, max(size - 1, 0)))
    elif way == 2:
        offset = rng.choice((_number(rng, len(data)), 0, offset + 1))
    elif size >= 2:
        where = start + offset + 2 * rng.randrange(min(size, 64) // 2)
        if where + 2 <= len(data):
            struct.pack_into("<H", data, where, _number(rng, len(data)) & 0xFFFF)
        return
    struct.pack_into("<HII", data, at, tag, size & 0xFFFFFFFF, offset & 0xFFFFFFFF)


def _heaps(data: bytearray) -> Iterator[tuple[int, int, int, int]]:
    """Find the heaps of a CRW: start, end, where the table of records is, and their number."""
    if len(data) < 32:
        return
    pending = [(struct.unpack_from("<I", data, 2)[0], len(data))]
    for _ in range(16):
        if not pending:
            return
        start, end = pending.pop()
        if not start < end - 4 < len(data):
            continue
        table = start + struct.unpack_from("<I", data, end - 4)[0]
        if table + 2 > len(data):
            continue
        (count,) = struct.unpack_from("<H", data, table)
        count = min(count, 64)
        yield start, end, table, count
        for at in range(table + 2, min(table + 2 + 10 * count, len(data) - 9), 10):
            tag, size, offset = struct.unpack_from("<HII", data, at)
            if tag & 0x3800 in (0x2800, 0x3000):
                pending.append((start + offset, start + offset + size))


# ---------------------------------------------------------------- photos

_ANY: tuple[Mutation, ...] = (flip_bits, fill_run, splice, set_number, set_number)
_TIFF: tuple[Mutation, ...] = (edit_tag, edit_tag, edit_tag, edit_tag, tie_loop, set_entry_count)
_OF_KIND: dict[str, tuple[Mutation, ...]] = {
    "arw": (*_ANY, *_TIFF),
    "dng": (*_ANY, *_TIFF, *_TIFF),
    "raf": (*_ANY, *_TIFF, *[edit_raf] * 4),
    "crw": (*_ANY, *[edit_ciff] * 6),
}


def mutate(rng: random.Random, kind: str, seed: Seed, others: Sequence[Seed]) -> bytes:
    """Make a mutant of a photo.

    Parameters
    ----------
    rng : random.Random
        The only source of chance.
    kind : one of `seeds.PHOTO_KINDS`
    seed : Seed
    others : sequence of Seed
        Whose pieces may be put in.

    Returns
    -------
    bytes
    """
    data = bytearray(seed.data)
    for _ in range(rng.randint(1, _MAX_STEPS)):
        if len(data) < 16:
            break
        way = rng.random()
        if way < 0.06:
            cut(rng, data, seed)
        elif way < 0.09:
            grow(rng, data, seed)
        elif way < 0.12:
            other = rng.choice(others).data
            at = rng.randrange(len(other))
            data[at : at + 4096] = other[at : at + 4096]
        else:
            rng.choice(_OF_KIND[kind])(rng, data, seed)
    return bytes(data)


# ---------------------------------------------------------------- weights

_HOSTILE_JSON: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, -0.0, 1e308, 2**31, 2**32, 2**63, 2**64, 10**30),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "bayer",
        "xtrans",
        "gia-net",
        "sid-net",
        "F16",
    ),
    *(
        "F32",
        "I64",
        "F8_E4M3",
        "../x.safetensors",
        "/dev/zero",
        "\x1b[2J",
        "\0",
        "\ud800",
        "x" * 5000,
    ),
    *([], {}, [1], [[[]]], {"a": {"a": {}}}, [1e400, 2, 3], [0, 0, 0], [1, 1, 1], [-1, 2]),
)
_HOSTILE_KEYS = ("config", "__metadata__", "gia", "dtype", "shape", "name", "fusion", "x\x1b", "")
_KNOWN_KEYS = ("fusion", "quantized_from", "quantised_from", "neutral_wb", "licence", "training")


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Walk a JSON value: yield each container with one of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _nodes(value[key])


def edit_json(rng: random.Random, value: Any) -> Any:
    """Change one place of a JSON value, in place where it is not the whole."""
    nodes = list(_nodes(value))
    if not nodes or rng.random() < 0.02:
        return rng.choice(_HOSTILE_JSON)
    container, key = rng.choice(nodes)
    old = container[key]
    way = rng.randrange(6)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container[rng.choice(_HOSTILE_KEYS)] = container.pop(key)
    elif way == 2 and isinstance(container, dict):
        container[rng.choice((*_KNOWN_KEYS, *_HOSTILE_KEYS))] = rng.choice(_HOSTILE_JSON)
    elif way == 3 and type(old) is int:
        container[key] = rng.choice((old + 1, old - 1, -old, old * 1000, rng.choice(INTERESTING)))
    elif way == 4 and isinstance(old, str) and old:
        at = rng.randrange(len(old))
        container[key] = old[:at] + rng.choice(("", "\x1b", "0", "\0", "é")) + old[at + 1 :]
    else:
        container[key] = rng.choice(_HOSTILE_JSON)
    return value


def _json_bytes(rng: random.Random, value: Any) -> bytes:
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = rng.choice(("[" * 100_000, "{" + '"a":{' * 5000, text[:-1], text * 2, "", "1e999"))
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if data and rng.random() < 0.1:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _in_doubles(rng: random.Random, data: bytes) -> bytes:
    """Spell all floats with 64 bits, a few of them hostile: beyond 32 bits, or no number."""
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    parts: list[bytes] = []
    at = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        part = body[start:stop]
        if entry["dtype"] in ("F16", "F32"):
            numbers = np.frombuffer(part, {"F16": "<f2", "F32": "<f4"}[entry["dtype"]]).astype(
                "<f8"
            )
            if rng.random() < 0.02:
                numbers[rng.randrange(numbers.size)] = rng.choice((1e300, -4e38, 1e-310, np.nan))
            part, entry["dtype"] = numbers.tobytes(), "F64"
        parts.append(part)
        entry["data_offsets"] = [at, at + len(part)]
        at += len(part)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def _edit_header(rng: random.Random, data: bytes) -> bytes:
    """Change a safetensors header: its JSON, that within its metadata, its length."""
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(rng.randint(1, 3)):
        metadata = header.get("__metadata__") if isinstance(header, dict) else None
        inner = metadata.get("gia") if isinstance(metadata, dict) else None
        if isinstance(inner, str) and isinstance(metadata, dict) and rng.random() < 0.7:
            try:
                row = json.loads(inner)
            except (ValueError, RecursionError):
                continue
            metadata["gia"] = json.dumps(edit_json(rng, row))
        else:
            header = edit_json(rng, header)
    text = _json_bytes(rng, header)
    stated = len(text)
    if rng.random() < 0.1:
        stated = rng.choice((stated + 1, max(stated - 1, 0), 2**63, 2**64 - 1, 8_000_001, 0))
    return struct.pack("<Q", stated) + text + body


def mutate_weights(rng: random.Random, seed: Seed) -> tuple[bytes, bytes | None]:
    """Make a mutant of weights.

    Parameters
    ----------
    rng : random.Random
    seed : Seed

    Returns
    -------
    file : bytes
    manifest : bytes or None
        What lies beside it; None: nothing does. Its digest is the file's own in half the cases, so
        that what is behind the check is reached.
    """
    data = seed.data
    way = rng.random()
    if way < 0.1:
        data = _in_doubles(rng, data)
    elif way < 0.5:
        data = _edit_header(rng, data)
    elif way < 0.75:
        raw = bytearray(data)
        for _ in range(rng.randint(1, _MAX_STEPS)):
            if len(raw) > 16:
                rng.choice((flip_bits, fill_run, splice, set_number, cut, grow))(rng, raw, seed)
        data = bytes(raw)
    is_whole = data == seed.data
    if seed.row is None or (not is_whole and rng.random() < 0.5):
        return data, None
    row = json.loads(json.dumps(seed.row))
    if rng.random() < 0.5:
        row["sha256"], row["bytes"] = _digest(data), len(data)
    manifest: Any = {"weights": [row]}
    for _ in range(rng.choice((1, 1, 2, 3)) if is_whole else rng.choice((0, 0, 1, 2))):
        manifest = edit_json(rng, manifest)
    return data, _json_bytes(rng, manifest)


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
