"""TIFF structure: build directories (IFDs) and walk them.

RAW containers, EXIF blocks and DNGs are all TIFF directories with different tags, so `raw.writer`,
`imaging.writer` and the readers share this one builder and one walker. Pixels are none of its
business.
Source: TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO, Literal, NamedTuple

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL, FLOAT, DOUBLE, IFD = (
    1, 2, 3, 4, 5, 7, 10, 11, 12, 13
)  # fmt: skip

ByteOrder = Literal["<", ">"]

_FORMATS = {SHORT: "H", LONG: "I", IFD: "I", FLOAT: "f", DOUBLE: "d"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
#: Tags of type UNDEFINED that are read: OpcodeList3.
BLOB_TAGS = frozenset({0xC74E})
_MAX_RATIONAL = 1_000_000
_MAX_INT32 = 2**31 - 1
_MAX_ENTRIES = 4096  # more means that the bytes are no directory
_MAX_COUNT = 1 << 16  # values of one tag: a black level for each row, a strip for each
_MAX_VALUES = 1 << 20  # values of all directories together
_UNSIGNED = {BYTE: "B", SHORT: "H", LONG: "I", IFD: "I"}
_OTHERS = {6: "b", 8: "h", 9: "i", FLOAT: "f", DOUBLE: "d"}
_COPIED = {BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL}  # the types of EXIF

SUB_IFDS, EXIF_IFD, GPS_IFD = 0x014A, 0x8769, 0x8825
XMP = 0x02BC


class Ref(str):
    """The name of a block of the file, standing for its offset until the layout is known."""

    __slots__ = ()


class Entry(NamedTuple):
    """One directory entry: tag number, TIFF type, value or values (a `Ref` for an offset).

    A str becomes ASCII; bytes say a text in another encoding.
    """

    tag: int
    type: int
    values: Any


Block = Sequence[Entry] | bytes | Callable[[Mapping[str, int]], bytes]


def rational(value: float | Fraction | tuple[int, int]) -> tuple[int, int]:
    """Numerator and denominator, both fit for 32 bits; a tuple passes unchanged."""
    if isinstance(value, tuple):
        return value
    limit = max(min(_MAX_RATIONAL, int(_MAX_INT32 / max(abs(float(value)), 1.0))), 1)
    fraction = Fraction(value).limit_denominator(limit)
    return max(min(fraction.numerator, _MAX_INT32), -_MAX_INT32), fraction.denominator


def build(
    blocks: Mapping[str, Block],
    *,
    order: ByteOrder = "<",
    chain: Sequence[str] = ("ifd0",),
    align: int = 16,
) -> bytes:
    """Lay out a TIFF file.

    Parameters
    ----------
    blocks : mapping of name to block
        In file order. A sequence of entries becomes a directory, bytes are written as they are
        (at multiples of `align`), a function gets the offsets of all blocks and returns bytes.
    order : "<" or ">"
        Little (II) or big (MM) endian.
    chain : names
        Directories linked by their next-IFD pointers; the first block should be its first.

    Returns
    -------
    bytes
    """
    offsets = dict.fromkeys(blocks, 0)
    # The first pass learns where each block lies, the second fills the offsets in.
    for _ in range(2):
        data = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
        for name, block in blocks.items():
            is_ifd = not isinstance(block, bytes) and not callable(block)
            if len(data) != 8:
                data += b"\0" * (-len(data) % (2 if is_ifd else align))
            offsets[name] = len(data)
            if isinstance(block, bytes):
                data += block
            elif callable(block):
                data += block(offsets)
            else:
                data += ifd_bytes(block, len(data), order, offsets, _next_ifd(name, chain, offsets))
    return data


def _next_ifd(name: str, chain: Sequence[str], offsets: Mapping[str, int]) -> int:
    following = list(chain[chain.index(name) + 1 :]) if name in chain else []
    return offsets.get(following[0], 0) if following else 0


def ifd_bytes(
    entries: Sequence[Entry],
    at: int,
    order: ByteOrder = "<",
    offsets: Mapping[str, int] | None = None,
    next_ifd: int = 0,
) -> bytes:
    """Encode one directory that will stand at offset `at`; its long values follow it."""
    entries = sorted(entries, key=lambda entry: entry.tag)  # TIFF demands it, LibRaw relies on it
    head = struct.pack(order + "H", len(entries))
    extra_at = at + 2 + 12 * len(entries) + 4
    extra = b""
    for entry in entries:
        count, data = _encode(entry, order, offsets or {})
        if len(data) <= 4:
            head += struct.pack(order + "HHI", entry.tag, entry.type, count) + data.ljust(4, b"\0")
            continue
        extra += b"\0" * (len(extra) & 1)
        where = extra_at + len(extra)
        head += struct.pack(order + "HHII", entry.tag, entry.type, count, where)
        extra += data
    return head + struct.pack(order + "I", next_ifd) + extra


def _encode(entry: Entry, order: ByteOrder, offsets: Mapping[str, int]) -> tuple[int, bytes]:
    kind, values = entry.type, entry.values
    if kind == ASCII:
        data = values if isinstance(values, bytes) else values.encode("ascii", "replace")
        data += b"\0"
        return len(data), data
    if kind in (BYTE, UNDEFINED):
        return len(values), bytes(values)
    if isinstance(values, (str, int, float, Fraction)) or (
        kind in (RATIONAL, SRATIONAL) and isinstance(values, tuple)
    ):
        values = [values]
    values = [offsets.get(value, 0) if isinstance(value, Ref) else value for value in values]
    if kind in (RATIONAL, SRATIONAL):
        pair = order + ("ii" if kind == SRATIONAL else "II")
        return len(values), b"".join(struct.pack(pair, *rational(value)) for value in values)
    return len(values), struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values)


# ---------------------------------------------------------------- walking


@dataclass(frozen=True, slots=True)
class Directory:
    """One IFD as found in a file, each tag's values by their type."""

    tags: dict[int, tuple[int, ...]]
    """Whole numbers without a sign."""
    numbers: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Fractions, floats and signed numbers; NaN for a fraction whose denominator is 0."""
    texts: dict[int, bytes] = field(default_factory=dict)
    """ASCII, up to the first zero byte; in any encoding."""
    blobs: dict[int, bytes] = field(default_factory=dict)
    """Undefined bytes, of `BLOB_TAGS` only."""

    def first(self, tag: int, default: int = 0) -> int:
        """Return the first value of `tag`, or `default` when the directory lacks it."""
        values = self.tags.get(tag, ())
        return values[0] if values else default

    def __contains__(self, tag: int) -> bool:
        """Whether the directory has a tag, of any type that is read."""
        return tag in self.tags or tag in self.numbers or tag in self.texts

    def floats(self, tag: int) -> tuple[float, ...]:
        """Return the numbers of `tag`, of whatever type; none when the directory lacks it."""
        return self.numbers.get(tag) or self.tags.get(tag, ())


def walk(file: BinaryIO, *, limit: int = 32) -> list[Directory]:
    """List the directories of a TIFF file: the chain, and SubIFDs and EXIF below each.

    Parameters
    ----------
    file : binary file
        Anything: what is not TIFF, or broken, gives fewer directories or none, never an error.
    limit : int
        At most this many directories. Each is read once, and together they may hold a million
        values: a file made to keep a reader busy ends there.
    """
    header = _header(file)
    if header is None:
        return []
    order, first = header
    pending = deque([first])
    seen: set[int] = set()
    found: list[Directory] = []
    budget = _MAX_VALUES
    while pending and len(found) < limit:
        offset = pending.popleft()
        if offset in seen:
            continue
        seen.add(offset)
        try:
            directory, following, taken = _read_ifd(file, offset, order, budget)
        except struct.error:
            continue
        budget -= taken
        found.append(directory)
        for tag in (SUB_IFDS, EXIF_IFD):
            pending += directory.tags.get(tag, ())[:limit]
        pending += [following] if following else []
    return found


def first_and_exif(file: BinaryIO) -> list[Directory]:
    """Read the first directory of a TIFF file and the EXIF one below it.

    Parameters
    ----------
    file : binary file
        Anything, as for `walk`.

    Returns
    -------
    list of Directory
        The EXIF directory first; without what is not there.
    """
    header = _header(file)
    if header is None:
        return []
    order, offset = header
    found: list[Directory] = []
    budget = _MAX_VALUES
    while offset and len(found) < 2:
        try:
            directory, _, taken = _read_ifd(file, offset, order, budget)
        except struct.error:
            break
        budget -= taken
        found.insert(0, directory)
        offset = directory.first(EXIF_IFD)
    return found


def read_entries(
    file: BinaryIO, tags: Container[int], *, most_bytes: int, pointer: int | None = None
) -> list[Entry]:
    """Read entries as they stand, for `ifd_bytes` to write again; in either byte order.

    Parameters
    ----------
    file : binary file
        Anything, as for `walk`.
    tags : container of tag numbers
        Which to read. Each is read once.
    most_bytes : int
        Values that take more are left out, as are those of types that EXIF does not have.
    pointer : int, optional
        Read the directory that this tag of the first one leads to; by default the first one.

    Returns
    -------
    list of Entry
        Fractions are pairs of numerator and denominator.
    """
    header = _header(file)
    if header is None:
        return []
    order, offset = header
    try:
        if pointer is not None:
            offset = _read_ifd(file, offset, order, _MAX_VALUES)[0].first(pointer)
            if not offset:
                return []
        raw = _raw_directory(file, offset, order)
    except struct.error:
        return []
    found: dict[int, Entry] = {}
    for at in range(0, len(raw) - 11, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", raw, at)
        if tag in found or tag not in tags or kind not in _COPIED or not number:
            continue
        size = _SIZES[kind] * number
        if size <= most_bytes and len(data := _value(file, raw, at, size, order)) == size:
            found[tag] = Entry(tag, kind, _as_written(kind, data, order))
    return list(found.values())


def _as_written(kind: int, data: bytes, order: ByteOrder) -> Any:
    """Turn a value's bytes into what `ifd_bytes` takes."""
    if kind == ASCII:
        return data.split(b"\0")[0]
    if kind in (BYTE, UNDEFINED):
        return data
    number = len(data) // _SIZES[kind]
    if kind in (RATIONAL, SRATIONAL):
        letter = "I" if kind == RATIONAL else "i"
        parts = struct.unpack(f"{order}{2 * number}{letter}", data)
        return list(zip(parts[::2], parts[1::2], strict=True))
    return list(struct.unpack(f"{order}{number}{_UNSIGNED[kind]}", data))


def _header(file: BinaryIO) -> tuple[ByteOrder, int] | None:
    """Byte order, and where the first directory is; None for what is no TIFF file."""
    file.seek(0)
    head = file.read(8)
    if head[:4] not in (b"II*\0", b"MM\0*") or len(head) < 8:
        return None
    order: ByteOrder = "<" if head[:2] == b"II" else ">"
    return order, struct.unpack(order + "I", head[4:])[0]


def _read_ifd(
    file: BinaryIO, offset: int, order: ByteOrder, budget: int
) -> tuple[Directory, int, int]:
    """Read one directory; also say where the next one is, and how many values were read."""
    raw = _raw_directory(file, offset, order)
    (following,) = struct.unpack(order + "I", file.read(4).ljust(4, b"\0"))
    directory = Directory({}, {}, {}, {})
    taken = 0
    for at in range(0, len(raw) - 11, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", raw, at)
        if kind not in _SIZES or number > min(_MAX_COUNT, budget - taken):
            continue
        if kind == UNDEFINED and tag not in BLOB_TAGS:
            continue
        taken += number  # whether they are there or not: looking takes as long
        size = _SIZES[kind] * number
        data = _value(file, raw, at, size, order)
        if len(data) == size:
            _store(directory, tag, kind, data, order)
    return directory, following, taken


def _raw_directory(file: BinaryIO, offset: int, order: ByteOrder) -> bytes:
    """Read the entries of a directory, of 12 bytes each; the next one's offset follows."""
    file.seek(offset)
    (count,) = struct.unpack(order + "H", file.read(2))
    if count > _MAX_ENTRIES:
        raise struct.error("not a directory")
    return file.read(12 * count)


def _value(file: BinaryIO, raw: bytes, at: int, size: int, order: ByteOrder) -> bytes:
    """Read the value of the entry at `at`; fewer bytes where the file ends before it does."""
    if size <= 4:
        return raw[at + 8 : at + 8 + size]
    file.seek(struct.unpack_from(order + "I", raw, at + 8)[0])
    return file.read(size)


def _store(directory: Directory, tag: int, kind: int, data: bytes, order: ByteOrder) -> None:
    number = len(data) // _SIZES[kind]
    if kind == ASCII:
        directory.texts[tag] = data.split(b"\0")[0]
    elif kind == UNDEFINED:
        directory.blobs[tag] = data
    elif kind in (RATIONAL, SRATIONAL):
        letter = "I" if kind == RATIONAL else "i"
        parts = struct.unpack(f"{order}{2 * number}{letter}", data)
        directory.numbers[tag] = tuple(
            above / below if below else math.nan
            for above, below in zip(parts[::2], parts[1::2], strict=True)
        )
    elif kind in _UNSIGNED:
        directory.tags[tag] = struct.unpack(f"{order}{number}{_UNSIGNED[kind]}", data)
    else:
        directory.numbers[tag] = tuple(
            map(float, struct.unpack(f"{order}{number}{_OTHERS[kind]}", data))
        )
