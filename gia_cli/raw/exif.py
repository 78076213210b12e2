"""What the camera says about a shot: make, model, lens, exposure, ISO, aperture, date, place.

Reads it from any RAW file, and writes it back as an EXIF directory (`exif_entries`). What gia does
not use itself, such as the place, is kept as it stands (`MoreExif`).

TIFF-like RAW files (ARW, NEF, CR2, DNG, ...) have it in their directories. Others hide it: a RAF
in its embedded JPEG, a CR3 in ``CMT1``/``CMT2`` boxes, an ORF or RW2 behind a magic number of its
own, a CRW in a CIFF heap. This module finds it in each; what is still missing, `reader` asks LibRaw
for.
"""

from __future__ import annotations

import io
import mmap
import struct
import unicodedata
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import BinaryIO

from gia_cli.errors import DamagedFileError
from gia_cli.raw.tiff import (
    ASCII,
    BYTE,
    EXIF_IFD,
    GPS_IFD,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    XMP,
    Directory,
    Entry,
    first_and_exif,
    ifd_bytes,
    rational,
    read_entries,
)

RAF_MAGIC = b"FUJIFILMCCD-RAW"
_RAF_JPEG_POINTER = 84  # two big-endian u32: offset and length of the embedded JPEG
_TIFF_LIKE_MAGICS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0")  # Olympus, Panasonic: TIFF otherwise
_MAX_SEGMENTS = 64  # of a JPEG, before its EXIF block
_HEAD_BYTES = 1 << 20  # their IFDs lie at the front
_MAX_NUMBER = 2.0**32  # no exposure, ISO or focal length is larger, and EXIF could not hold it
_ISO_OVERFLOW = 65535  # ISOSpeedRatings is a 16-bit field; beyond, another tag counts
_MAKE, _MODEL, _DATE = 0x010F, 0x0110, 0x0132
_EXPOSURE_TIME, _F_NUMBER, _FOCAL_LENGTH = 0x829A, 0x829D, 0x920A
_ORIGINAL_DATE, _OWNER, _LENS = 0x9003, 0xA430, 0xA434
_ISO, _SENSITIVITY_TYPE = 0x8827, 0x8830
_SOS, _REI, _SPEED = 0x8831, 0x8832, 0x8833  # StandardOutput, RecommendedExposureIndex, ISOSpeed
# Which, by SensitivityType (EXIF 2.3), the most like a camera's own setting first.
_SENSITIVITIES = {1: (_SOS,), 2: (_REI,), 3: (_SPEED,), 4: (_REI, _SOS), 5: (_SOS, _SPEED)}
_SENSITIVITIES |= {6: (_REI, _SPEED), 7: (_REI, _SOS, _SPEED)}
_NUMBER_TAGS = {
    "exposure_s": _EXPOSURE_TIME,
    "aperture": _F_NUMBER,
    "focal_mm": _FOCAL_LENGTH,
}
DESCRIPTION, ARTIST, COPYRIGHT = 0x010E, 0x013B, 0x8298
# What is kept as it stands, with the type it must have: facts of the shot and of its author, none
# of the RAW file's pixels, of the camera's own rendering, or of the maker note.
_KEPT_FIRST = {DESCRIPTION: ASCII, ARTIST: ASCII, COPYRIGHT: ASCII}
_KEPT_EXIF = {
    0x8822: SHORT,  # ExposureProgram
    **dict.fromkeys((0x9010, 0x9011, 0x9012), ASCII),  # OffsetTime, ...Original, ...Digitized
    0x9201: SRATIONAL,  # ShutterSpeedValue
    0x9202: RATIONAL,  # ApertureValue
    0x9203: SRATIONAL,  # BrightnessValue
    0x9204: SRATIONAL,  # ExposureBiasValue
    0x9205: RATIONAL,  # MaxApertureValue
    0x9206: RATIONAL,  # SubjectDistance
    **dict.fromkeys((0x9207, 0x9208, 0x9209), SHORT),  # MeteringMode, LightSource, Flash
    **dict.fromkeys((0x9290, 0x9291, 0x9292), ASCII),  # SubSecTime, ...Original, ...Digitized
    **dict.fromkeys((0x9400, 0x9403, 0x9405), SRATIONAL),  # temperature, water depth, elevation
    **dict.fromkeys((0x9401, 0x9402, 0x9404), RATIONAL),  # humidity, pressure, acceleration
    0xA20B: RATIONAL,  # FlashEnergy
    0xA217: SHORT,  # SensingMethod
    **dict.fromkeys((0xA300, 0xA301), UNDEFINED),  # FileSource, SceneType
    **dict.fromkeys((0xA402, 0xA403), SHORT),  # ExposureMode, WhiteBalance
    0xA404: RATIONAL,  # DigitalZoomRatio
    **dict.fromkeys((0xA405, 0xA406, 0xA407, 0xA40C), SHORT),  # 35-mm focal length, scene, gain
    0xA431: ASCII,  # BodySerialNumber
    0xA432: RATIONAL,  # LensSpecification
    **dict.fromkeys((0xA433, 0xA435), ASCII),  # LensMake, LensSerialNumber
}
BODY_SERIAL, LENS_SPECIFICATION = 0xA431, 0xA432
_GPS_TAGS = range(0x20)
_ANY = 0  # type
# A JPEG holds 64 KB of EXIF in all.
_MOST_VALUE_BYTES, _MOST_KEPT_BYTES = 2048, 32768
_MOST_XMP_BYTES = 1 << 22
_XMP_SIGNATURE = b"http://ns.adobe.com/xap/1.0/\0"
_CR3_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Canon's files have a dozen heaps, of some dozen records each; LibRaw stops at 127.
_MAX_HEAPS, _MAX_RECORDS = 64, 127
_NAMES_BYTES = 256  # of a CIFF record with the names of make and model; Canon's have 32


@dataclass(frozen=True, slots=True)
class MoreExif:
    """EXIF entries that are carried over as they stand."""

    first: tuple[Entry, ...] = ()
    """Of the first directory: description, artist, copyright."""
    exif: tuple[Entry, ...] = ()
    gps: tuple[Entry, ...] = ()
    """The whole GPS directory."""

    def __bool__(self) -> bool:
        return bool(self.first or self.exif or self.gps)


@dataclass(frozen=True, slots=True)
class ShotInfo:
    """How a photo was taken; None where the file does not say."""

    make: str | None = None
    model: str | None = None
    lens: str | None = None
    exposure_s: float | None = None
    """Exposure time in seconds."""
    iso: int | None = None
    aperture: float | None = None
    """f-number."""
    focal_mm: float | None = None
    """Focal length in millimetres."""
    taken: str | None = None
    """Local time as EXIF writes it, "YYYY:MM:DD HH:MM:SS"."""
    owner: str | None = None
    """The camera owner's name."""
    more: MoreExif | None = field(default=None, repr=False, hash=False)
    """What else the camera wrote."""

    @property
    def camera(self) -> str:
        """Make and model in one string, without the make twice; "unknown camera" if neither."""
        make, model = (self.make or "").strip(), (self.model or "").strip()
        if any(model.lower().startswith(word.lower()) for word in make.split()):
            return model
        return f"{make} {model}".strip() or "unknown camera"

    def or_else(self, other: ShotInfo) -> ShotInfo:
        """Fill what is None here from `other`."""
        missing = {f.name: getattr(other, f.name) for f in fields(self) if not self._has(f.name)}
        return replace(self, **missing)

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None


def read_shot(path: Path) -> ShotInfo:
    """Read a photo's EXIF.

    Parameters
    ----------
    path : Path
        Any file; one without EXIF gives a `ShotInfo` of Nones.

    Raises
    ------
    DamagedFileError
        A RAF whose embedded JPEG lies outside the file.
    OSError
        The file cannot be opened.
    """
    return read_exif(path)[0]


def read_exif(path: Path) -> tuple[ShotInfo, frozenset[str]]:
    """Read a photo's EXIF, and say which numbers it states, be they nonsense.

    Parameters and errors as for `read_shot`.

    Returns
    -------
    shot : ShotInfo
    stated : set of field names
        Of ``exposure_s``, ``aperture`` and ``focal_mm``: those that have a tag. Where it holds
        1/0, a negative number or no number, the field is None.
    """
    with path.open("rb") as file:
        head = file.read(32)
        if head[6:14] == b"HEAPCCDR":
            return _read_ciff(file), frozenset()
        streams = _exif_streams(path, file, head)
        shot, stated = ShotInfo(), frozenset[str]()
        for stream in streams:
            tags = first_and_exif(stream)
            shot = shot.or_else(_shot_from_tags(tags))
            stated |= {name for name, tag in _NUMBER_TAGS.items() if any(tag in d for d in tags)}
        more = _more(streams, _cr3_part(file, b"CMT4") if _is_cr3(head) else None)
        return replace(shot, more=more or None), stated


def read_embedded_xmp(path: Path) -> bytes:
    """Read the XMP packet in a RAW file, as it stands; empty where there is none.

    Parameters and errors as for `read_shot`. What takes more than 4 MB is passed over.
    """
    with path.open("rb") as file:
        head = file.read(32)
        if head[6:14] == b"HEAPCCDR":
            return b""
        if _is_cr3(head):
            return _cr3_xmp(file)
        if head.startswith((RAF_MAGIC, b"\xff\xd8")):
            jpeg = _raf_jpeg(path, file) if head.startswith(RAF_MAGIC) else file
            return _app1_of_jpeg(jpeg, _XMP_SIGNATURE)
        for stream in _exif_streams(path, file, head):
            for entry in read_entries(stream, {XMP}, most_bytes=_MOST_XMP_BYTES):
                if entry.type in (BYTE, UNDEFINED):
                    return bytes(entry.values)
    return b""


def _more(streams: Sequence[BinaryIO], gps_stream: BinaryIO | None) -> MoreExif:
    """Gather what is kept as it stands; the first of each tag, up to a size that fits anywhere."""
    budget = _MOST_KEPT_BYTES

    def gather(*sources: tuple[BinaryIO, int | None], kept: Mapping[int, int]) -> tuple[Entry, ...]:
        nonlocal budget
        found: dict[int, Entry] = {}
        for stream, pointer in sources:
            for entry in read_entries(stream, kept, most_bytes=_MOST_VALUE_BYTES, pointer=pointer):
                size = len(ifd_bytes([entry], 0))
                if entry.tag in found or kept[entry.tag] not in (entry.type, _ANY):
                    continue
                if entry.type == ASCII and not entry.values.strip():
                    continue
                if size <= budget:
                    budget -= size
                    found[entry.tag] = entry
        return tuple(found.values())

    places = [(stream, pointer) for stream in streams for pointer in (EXIF_IFD, None)]
    gps: list[tuple[BinaryIO, int | None]] = [(stream, GPS_IFD) for stream in streams]
    if gps_stream is not None:
        gps = [(gps_stream, None)]
    return MoreExif(
        first=gather(*places, kept=_KEPT_FIRST),
        gps=gather(*gps, kept=dict.fromkeys(_GPS_TAGS, _ANY)),
        exif=gather(*places, kept=_KEPT_EXIF),
    )


def _is_cr3(head: bytes) -> bool:
    return head[4:12] == b"ftypcrx "


def _cr3_part(file: BinaryIO, name: bytes) -> BinaryIO | None:
    """Find a box of a CR3 that holds a TIFF."""
    file.seek(0)
    data = file.read(_HEAD_BYTES)
    start = data.find(name)
    return io.BytesIO(data[start + len(name) :]) if start >= 0 else None


def _cr3_xmp(file: BinaryIO) -> bytes:
    """Read the box of a CR3 that holds XMP: its size, "uuid", the identifier, the packet."""
    file.seek(0)
    data = file.read(_HEAD_BYTES)
    at = data.find(b"uuid" + _CR3_XMP_BOX)
    if at < 4:
        return b""
    (size,) = struct.unpack_from(">I", data, at - 4)
    return data[at + 4 + len(_CR3_XMP_BOX) : at - 4 + size]


def _exif_streams(path: Path, file: BinaryIO, head: bytes) -> list[BinaryIO]:
    """Find where the EXIF lies: streams that start with a TIFF header."""
    file.seek(0)
    if head.startswith(RAF_MAGIC):
        return [_exif_of_jpeg(_raf_jpeg(path, file))]
    if head.startswith(b"\xff\xd8"):
        return [_exif_of_jpeg(file)]
    if head[:4] in _TIFF_LIKE_MAGICS:
        data = file.read(_HEAD_BYTES)
        magic = b"II*\0" if data[:2] == b"II" else b"MM\0*"
        return [io.BytesIO(magic + data[4:])]
    if _is_cr3(head):
        parts = [_cr3_part(file, name) for name in (b"CMT1", b"CMT2")]
        return [part for part in parts if part is not None]
    return [file]


def _raf_jpeg(path: Path, file: BinaryIO) -> BinaryIO:
    file.seek(_RAF_JPEG_POINTER)
    pointer = file.read(8)
    if len(pointer) < 8:
        raise DamagedFileError(f"{path}: this RAF file ends in its header.")
    offset, length = struct.unpack(">II", pointer)
    # Not read first: Python takes memory for as many bytes as are asked for.
    if offset + length > file.seek(0, io.SEEK_END):
        raise DamagedFileError(f"{path}: this RAF file ends before its embedded JPEG does.")
    file.seek(offset)
    return io.BytesIO(file.read(length))


def _exif_of_jpeg(file: BinaryIO) -> BinaryIO:
    return io.BytesIO(_app1_of_jpeg(file, b"Exif\0\0"))


def _app1_of_jpeg(file: BinaryIO, signature: bytes) -> bytes:
    """Find EXIF or XMP of a JPEG, which an APP1 segment before the picture holds; else nothing."""
    file.seek(2)
    for _ in range(_MAX_SEGMENTS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):  # the end, or the picture
            break
        data = file.read(max(struct.unpack(">H", head[2:])[0] - 2, 0))
        if head[1] == 0xE1 and data.startswith(signature):
            return data[len(signature) :]
    return b""


def _shot_from_tags(tags: Sequence[Directory]) -> ShotInfo:
    iso = _iso(tags)
    return ShotInfo(
        make=_text(tags, _MAKE),
        model=_text(tags, _MODEL),
        lens=_text(tags, _LENS),
        exposure_s=_number(tags, _EXPOSURE_TIME),
        iso=None if iso is None else round(iso) or None,
        aperture=_number(tags, _F_NUMBER),
        focal_mm=_number(tags, _FOCAL_LENGTH),
        taken=_date(tags, _ORIGINAL_DATE) or _date(tags, _DATE),
        owner=_text(tags, _OWNER),
    )


def _iso(tags: Sequence[Directory]) -> float | None:
    """Read the sensitivity; beyond 16 bits it stands in the tag that SensitivityType names."""
    iso = _number(tags, _ISO)
    if iso is not None and iso < _ISO_OVERFLOW:
        return iso
    kind = _number(tags, _SENSITIVITY_TYPE)
    named = _SENSITIVITIES.get(0 if kind is None else round(kind), ())
    for tag in (*named, _REI, _SOS, _SPEED):
        if value := _number(tags, tag):
            return value
    return iso


def _find(tags: Sequence[Directory], tag: int) -> Directory | None:
    # Old TIFF/EP files (Kodak KDC) and CR3's CMT2 keep EXIF tags in their first directory.
    return next((directory for directory in tags if tag in directory), None)


def _text(tags: Sequence[Directory], tag: int) -> str | None:
    directory = _find(tags, tag)
    return None if directory is None else clean_text(directory.texts.get(tag))


def clean_text(raw: str | bytes | None) -> str | None:
    """Make one line of a text that a camera wrote.

    Parameters
    ----------
    raw : bytes or str, optional
        Bytes are UTF-8, or else Latin-1.

    Returns
    -------
    str or None
        Up to the first zero byte, without control characters: they could command a terminal. None
        for an empty text and for bytes that were never written (all 0xFF).
    """
    if raw is None:
        return None
    text = _decoded(raw.split(b"\0")[0]) if isinstance(raw, bytes) else raw
    line = text.split("\0")[0]
    # Cc: C0 and C1 controls; Cf, Zl, Zp: what turns the reading direction or breaks lines; Cs: half
    # characters, which no encoding takes.
    kept = (" " if unicodedata.category(c) in _UNPRINTABLE else c for c in line)
    return " ".join("".join(kept).split()) or None


def _decoded(text: bytes) -> str:
    if not text.strip(b"\xff"):
        return ""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _date(tags: Sequence[Directory], tag: int) -> str | None:
    """Read a date; a camera whose clock is not set writes blanks or zeros."""
    text = _text(tags, tag)
    return text if text is not None and any(digit in text for digit in "123456789") else None


def _number(tags: Sequence[Directory], tag: int) -> float | None:
    """Read the first value of a tag as a positive float."""
    directory = _find(tags, tag)
    values = () if directory is None else directory.floats(tag)
    if not values or not 0 < values[0] < _MAX_NUMBER:  # also refuses what is not a number
        return None
    return float(values[0])


def _read_ciff(file: BinaryIO) -> ShotInfo:
    """Make and model from a Canon CRW (CIFF): record 0x080A, two strings in the root's heap."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        record = _ciff_record(data, struct.unpack_from("<I", data, 2)[0], len(data), 0x080A)
    names = [clean_text(part) for part in record.split(b"\0") if part]
    return ShotInfo(make=names[0], model=names[1]) if len(names) >= 2 else ShotInfo()


def _ciff_record(data: mmap.mmap, start: int, end: int, wanted: int) -> bytes:
    """Search a CIFF heap and the heaps within it; empty when the record is not there."""
    pending = deque([(start, end)])
    seen: set[tuple[int, int]] = set()
    while pending and len(seen) < _MAX_HEAPS:
        heap = pending.popleft()
        if heap in seen:
            continue
        seen.add(heap)
        start, end = heap
        try:
            table = start + struct.unpack_from("<I", data, end - 4)[0]
            (count,) = struct.unpack_from("<H", data, table)
        except struct.error:
            continue
        if count > _MAX_RECORDS:
            continue
        for at in range(table + 2, min(table + 2 + 10 * count, len(data) - 9), 10):
            tag, size, offset = struct.unpack_from("<HII", data, at)
            begin = start + offset
            if tag == wanted:
                return data[begin : begin + min(size, _NAMES_BYTES)]
            if tag & 0x3800 in (0x2800, 0x3000) and begin + size <= len(data):
                pending.append((begin, begin + size))
    return b""


def utf8(text: str) -> bytes:
    """Encode a text for EXIF. It says ASCII; what goes beyond, all programs read as UTF-8."""
    return text.encode("utf-8", "replace")


def exif_entries(shot: ShotInfo, *more: Entry, comment: str = "") -> list[Entry]:
    """Build the EXIF directory of a shot: what is None is left out.

    Parameters
    ----------
    shot : ShotInfo
    *more : Entry
        Entries to add, such as a maker note.
    comment : str
        The UserComment.
    """
    entries = [Entry(0x9000, UNDEFINED, b"0232")]
    if comment:
        text = b"ASCII\0\0\0" + comment.encode("ascii", "replace")
        entries.append(Entry(0x9286, UNDEFINED, text))
    if shot.exposure_s is not None:
        entries.append(Entry(0x829A, RATIONAL, rational(shot.exposure_s)))
    if shot.aperture is not None:
        entries.append(Entry(0x829D, RATIONAL, rational(shot.aperture)))
    if shot.iso is not None:
        entries += [
            Entry(0x8827, SHORT, min(shot.iso, _ISO_OVERFLOW)),
            Entry(0x8830, SHORT, 2),
            Entry(0x8832, LONG, shot.iso),
        ]
    if shot.taken is not None:
        entries += [Entry(0x9003, ASCII, shot.taken), Entry(0x9004, ASCII, shot.taken)]
    if shot.focal_mm is not None:
        entries.append(Entry(0x920A, RATIONAL, rational(shot.focal_mm)))
    if shot.lens is not None:
        entries.append(Entry(0xA434, ASCII, utf8(shot.lens)))
    if shot.owner is not None:
        entries.append(Entry(0xA430, ASCII, utf8(shot.owner)))
    kept = () if shot.more is None else shot.more.exif
    return [*entries, *kept, *more]


def first_entries(shot: ShotInfo) -> list[Entry]:
    """Build what a shot adds to the first directory: description, artist, copyright."""
    return [] if shot.more is None else list(shot.more.first)


def gps_entries(shot: ShotInfo) -> list[Entry]:
    """Build the GPS directory of a shot; empty where the file says no place."""
    return [] if shot.more is None else list(shot.more.gps)
