"""JPEG XL, to share: 8 or 16 bits, with colour space, EXIF and XMP, written atomically.

imagecodecs encodes the pixels, but takes every picture of more than 8 bits for linear sRGB and
knows no metadata. So the header of its codestream is written anew with the picture's own colour
space, which JPEG XL states in numbers (a reader makes the ICC profile of them), and the boxes
around it are made here.

A codestream with loss stores colours as the eye's cones see them (XYB), whatever the space: it is
given linear sRGB whose values reach below 0 and above 1 for colours that sRGB lacks. There the
header only says what to decode to. One without loss stores the space's own levels.

Sources: ISO/IEC 18181-1 (codestream, annex D) and 18181-2 (container).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import GiaError, UsageError
from gia_cli.files import atomic_file
from gia_cli.imaging.color_space import (
    DISPLAY_P3,
    GAMMA,
    PROPHOTO,
    REC2020,
    SRGB,
    ColorSpace,
    matrix_from_srgb,
)
from gia_cli.imaging.save_options import JXL_DISTANCE, JXL_EFFORT
from gia_cli.imaging.writer import BAND_PIXELS, bands, exif_block
from gia_cli.raw.exif import ShotInfo
from gia_cli.runtime import available_cores, in_threads

_CODESTREAM = b"\xff\x0a"
_LEVEL_10 = 10  # of the codestream: what decoders of level 5 need not read
_RELATIVE = 1  # rendering intent
_RGB, _CUSTOM, _D65 = 0, 2, 1
_PRIMARIES = {SRGB.name: 1, REC2020.name: 9, DISPLAY_P3.name: 11}
_TRANSFER = {"bt709": 1, "srgb": 13}
# Alternatives of a number, each a start and a count of bits, of which two bits choose one.
_SIZE = ((1, 9), (1, 13), (1, 18), (1, 30))
_BITS = ((8, 0), (10, 0), (12, 0), (1, 6))
_FLOAT_BITS = ((32, 0), (16, 0), (24, 0), (1, 6))
_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))
_XY = ((0, 19), (524_288, 19), (1_048_576, 20), (2_097_152, 21))
_EXTRA_CHANNELS = ((0, 0), (1, 0), (2, 4), (1, 12))


def write_jpegxl(
    path: Path,
    levels: NDArray[np.uint8 | np.uint16],
    *,
    space: ColorSpace = SRGB,
    shot: ShotInfo | None = None,
    software: str = "gia",
    comment: str = "",
    xmp: bytes = b"",
    distance: float = JXL_DISTANCE,
    effort: int = JXL_EFFORT,
) -> None:
    """Write a JPEG XL file; all of it or nothing.

    Parameters
    ----------
    path : Path
    levels : (H, W, 3) uint8 or uint16
        Of the space, upright.
    space : ColorSpace
    shot : ShotInfo, optional
        Goes into the EXIF.
    software, comment : str
        The Software tag and the EXIF UserComment.
    xmp : bytes
        An XMP packet.
    distance, effort
        As cjxl counts: 0 (lossless) to 25; 1 to 9.

    Raises
    ------
    UsageError
        The package imagecodecs is missing.
    OutputError
        The file cannot be written.
    """
    codecs = open_codecs()
    pixels = levels if distance == 0 else _linear_srgb(levels, space)
    encoded = codecs.jpegxl_encode(
        pixels,
        lossless=distance == 0,
        distance=distance or None,
        effort=effort,
        usecontainer=False,
        numthreads=available_cores(),
    )
    stream = _retagged(_codestream(encoded), space, bits=8 * levels.itemsize)
    exif = exif_block(shot or ShotInfo(), software, comment, space)
    with atomic_file(path) as file:
        file.write(_box(b"JXL ", b"\r\n\x87\n"))
        file.write(_box(b"ftyp", b"jxl \0\0\0\0jxl "))
        if distance == 0 and levels.itemsize > 1:
            file.write(_box(b"jxll", bytes([_LEVEL_10])))
        file.write(_box(b"Exif", bytes(4) + exif))
        if xmp:
            file.write(_box(b"xml ", xmp))
        file.write(_box(b"jxlc", stream))


def open_codecs() -> Any:
    """Import the package that writes JPEG XL.

    Raises
    ------
    UsageError
        It is missing, or was built without.
    """
    try:
        codecs = import_module("imagecodecs")
    except ModuleNotFoundError:
        codecs = None
    if codecs is None or not codecs.JPEGXL.available:
        raise UsageError(
            "JPEG XL files need the package imagecodecs.", hint="pip install 'gia-cli[jxl]'"
        )
    return codecs


def _linear_srgb(levels: NDArray[np.uint8 | np.uint16], space: ColorSpace) -> NDArray[np.float32]:
    """Bring levels to linear light of sRGB's primaries, not clipped."""
    most = np.iinfo(levels.dtype).max
    light = space.decode(np.arange(most + 1) / most)
    matrix = np.linalg.inv(matrix_from_srgb(space)).T.astype(np.float32)
    linear = np.empty(levels.shape, np.float32)

    def convert(rows: slice) -> None:
        np.matmul(light[levels[rows]], matrix, out=linear[rows])

    for _ in in_threads(convert, bands(len(levels), BAND_PIXELS // levels.shape[1])):
        pass
    return linear


# ---------------------------------------------------------------- the container


def _box(name: bytes, data: bytes) -> bytes:
    size = 8 + len(data)
    if size < 1 << 32:
        return struct.pack(">I", size) + name + data
    return struct.pack(">I4sQ", 1, name, size + 8) + data


def _codestream(data: bytes) -> bytes:
    """Take the codestream out of the box that it may have come in."""
    if data.startswith(_CODESTREAM):
        return data
    return b"".join(body for name, body in _boxes(data) if name == b"jxlc")


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        size = size or len(data) - at  # 0: up to the file's end
        yield name, data[at + head : at + size]
        at += size


# ---------------------------------------------------------------- the codestream's header


class _BitReader:
    """Takes numbers from bytes, the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "little")
        self.at = 0

    def take(self, bits: int) -> int:
        value = (self._bits >> self.at) & ((1 << bits) - 1)
        self.at += bits
        return value

    def choose(self, alternatives: Sequence[tuple[int, int]]) -> int:
        start, bits = alternatives[self.take(2)]
        return start + self.take(bits)


class _BitWriter:
    """Puts numbers into bytes, the lowest bit first."""

    def __init__(self) -> None:
        self._bits, self._at = 0, 0

    def put(self, value: int, bits: int) -> None:
        self._bits |= value << self._at
        self._at += bits

    def choose(self, value: int, alternatives: Sequence[tuple[int, int]]) -> None:
        for selector, (start, bits) in enumerate(alternatives):
            if start <= value < start + (1 << bits):
                self.put(selector, 2)
                self.put(value - start, bits)
                return
        raise ValueError(value)

    def data(self) -> bytes:
        return self._bits.to_bytes((self._at + 7) // 8, "little")


def _retagged(stream: bytes, space: ColorSpace, bits: int) -> bytes:
    """Write the header of a codestream anew, with another colour space and depth.

    Raises
    ------
    GiaError
        The header has parts that imagecodecs is not known to write.
    """
    old = _BitReader(stream[:64])
    new = _BitWriter()
    new.put(old.take(16), 16)
    _copy_size(old, new)
    buffers_16, is_xyb = 1, 1
    is_plain = old.take(1)
    if not is_plain:
        has_extra_fields = old.take(1)
        if old.take(1):  # floats
            old.choose(_FLOAT_BITS)
            old.take(4)
        else:
            old.choose(_BITS)
        buffers_16 = old.take(1)
        has_extra_channels = old.choose(_EXTRA_CHANNELS)
        is_xyb = old.take(1)
        has_icc = _skip_color(old)
        has_extensions = old.take(2)
        has_own_matrix = not old.take(1)
        if has_extra_fields or has_extra_channels or has_icc or has_extensions or has_own_matrix:
            raise GiaError(
                "This version of imagecodecs writes JPEG XL headers that gia does not know.",
                hint="Install the version that constraints.txt names.",
            )
    new.put(0b00, 2)  # not plain; no extra fields
    new.put(0, 1)  # whole numbers
    new.choose(bits, _BITS)
    new.put(buffers_16, 1)
    new.choose(0, _EXTRA_CHANNELS)
    new.put(is_xyb, 1)
    _put_color(new, space)
    new.put(0b00, 2)  # no extensions
    new.put(1, 1)  # XYB as the standard has it
    rest = (old.at + 7) // 8  # the first frame begins at a whole byte
    return new.data() + stream[rest:]


def _copy_size(old: _BitReader, new: _BitWriter) -> None:
    is_small = old.take(1)
    new.put(is_small, 1)

    def copy_side() -> None:
        if is_small:
            new.put(old.take(5), 5)
        else:
            new.choose(old.choose(_SIZE), _SIZE)

    copy_side()
    ratio = old.take(3)
    new.put(ratio, 3)
    if ratio == 0:
        copy_side()


def _skip_color(old: _BitReader) -> bool:
    """Pass over an enumerated colour space, as imagecodecs writes it; say if it is another."""
    if old.take(1):  # sRGB
        return False
    if old.take(1) or old.choose(_ENUM) != _RGB:
        return True
    if old.choose(_ENUM) == _CUSTOM or old.choose(_ENUM) == _CUSTOM or old.take(1):
        return True
    old.choose(_ENUM)  # curve
    old.choose(_ENUM)  # intent
    return False


def _put_color(new: _BitWriter, space: ColorSpace) -> None:
    if space == SRGB:
        new.put(1, 1)
        return
    new.put(0b00, 2)  # not sRGB; no ICC profile
    new.choose(_RGB, _ENUM)
    if space == PROPHOTO:
        new.choose(_CUSTOM, _ENUM)
        _put_xy(new, space.white)
        new.choose(_CUSTOM, _ENUM)
        for primary in space.primaries:
            _put_xy(new, primary)
        new.put(1, 1)
        new.put(round(1e7 / GAMMA), 24)
    else:
        new.choose(_D65, _ENUM)
        new.choose(_PRIMARIES[space.name], _ENUM)
        new.put(0, 1)
        new.choose(_TRANSFER[space.curve], _ENUM)
    new.choose(_RELATIVE, _ENUM)


def _put_xy(new: _BitWriter, chromaticity: tuple[float, float]) -> None:
    for value in chromaticity:
        millionths = round(value * 1_000_000)
        new.choose(2 * millionths, _XY)  # the lowest bit is the sign
