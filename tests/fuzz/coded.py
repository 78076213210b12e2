"""Small files whose pixels are coded: a Canon CRW, and the lossless JPEG that DNGs hold.

The tests' photos are uncompressed; these two make LibRaw decode, of which hostile files are fond.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# ---------------------------------------------------------------- Canon CRW

_HEADER_BYTES = 26
_PIXELS_AT = 540  # where a decoder starts to read, from the file's start
# LibRaw tells by the first bytes whether low bits come first; it takes no file to be shorter.
_LEAST_BYTES = 0x4000
_BLOCK = 64  # photosites that are coded together
_FIRST_PREDICTION = 512
# Codes (bits, their number) of the first of CIFF's three tables, of those symbols that are used
# here: how long the difference is that follows. No zeros are skipped.
_FIRST_OF_BLOCK = {3: (2, 3), 4: (0, 2), 5: (3, 3), 6: (4, 3), 2: (5, 3), 7: (12, 4), 1: (13, 4)}
_FOLLOWING = {3: (0, 2), 4: (1, 2), 2: (4, 3), 5: (5, 3), 1: (12, 4), 6: (13, 4)}


def crw(
    rng: random.Random,
    height: int = 64,
    width: int = 96,
    *,
    angle: int = 0,
    least_bytes: int = _LEAST_BYTES,
) -> tuple[bytes, NDArray[np.uint16]]:
    """Make a CRW of a PowerShot G2 (10 bits), and the mosaic that it holds.

    Parameters
    ----------
    rng : random.Random
        Draws the noise.
    height, width : int
        Photosites; both multiples of 8.
    angle : int
        Degrees by which the camera was turned.
    least_bytes : int
        Of the coded pixels, with what fills them up.

    Returns
    -------
    file : bytes
    mosaic : (height, width) uint16
    """
    values = np.empty(height * width, np.uint16)
    bits: list[tuple[int, int]] = []
    carried = 0
    base = [0, 0]
    for start in range(0, values.size, _BLOCK):
        previous = carried
        for index in range(start, start + _BLOCK):
            if index % width == 0:
                base = [_FIRST_PREDICTION] * 2
            level = base[index & 1]
            if index == start:
                wanted = previous + _step(rng, 60 - level - previous)
                difference, table = wanted - previous, _FIRST_OF_BLOCK
                carried = wanted
                step = wanted
            else:
                step = difference = _step(rng, 60 - level)
                table = _FOLLOWING
            bits += _coded(difference, table)
            base[index & 1] = level + step
            values[index] = base[index & 1]
    pixels = (_packed(bits, stuffed=True) + b"\xff\0").ljust(least_bytes, b"\0")
    return _crw_file(pixels, height, width, angle), values.reshape(height, width)


def _step(rng: random.Random, towards: int) -> int:
    """Draw a difference that is not zero, which no code of the second table can say."""
    step = max(min(towards // 2 + rng.randint(-9, 9), 60), -60)
    return step or 1


def _coded(difference: int, table: dict[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """Code a difference, not 0: the code of its length, then its bits as JPEG has them."""
    length = abs(difference).bit_length()
    low = difference if difference > 0 else difference + (1 << length) - 1
    return [table[length], (low, length)]


def _packed(bits: Sequence[tuple[int, int]], *, stuffed: bool) -> bytes:
    """Pack codes, the highest bit first; after a byte of ones comes one of zeros if `stuffed`."""
    text = "".join(format(value, f"0{length}b") for value, length in bits)
    text += "0" * (-len(text) % 8)
    data = bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))
    return data.replace(b"\xff", b"\xff\0") if stuffed else data


def _crw_file(pixels: bytes, height: int, width: int, angle: int) -> bytes:
    sensor = struct.pack("<8H", 34, width, height, 1, 1, 0, 0, width - 1).ljust(34, b"\0")
    decoder = struct.pack("<4I", 0, 0, 514, len(pixels) + 514)
    shot = struct.pack("<3f", 0.0, 6.0, 2.0)
    image = struct.pack("<IIfiIII", width, height, 1.0, angle, 8, 24, 1)
    camera = heap([(0x080A, b"Canon\0Canon PowerShot G2\0\0"), (0x0810, b"Owner\0")])
    exif = heap([(0x1031, sensor), (0x1835, decoder), (0x1818, shot), (0x102A, bytes(32))])
    properties = heap(
        [
            (0x1810, image),
            (0x180E, struct.pack("<3I", 1_000_000_000, 0, 0)),
            (0x2807, camera),
            (0x300B, exif),
        ]
    )
    coded = bytes(_PIXELS_AT - _HEADER_BYTES) + pixels
    root = heap([(0x2005, coded), (0x300A, properties)])
    head = b"II" + struct.pack("<I", _HEADER_BYTES) + b"HEAPCCDR" + struct.pack("<I", 0x00010002)
    return head.ljust(_HEADER_BYTES, b"\0") + root


def heap(records: Sequence[tuple[int, bytes]]) -> bytes:
    """Lay out a CIFF heap: data, then the table of records, then the table's offset."""
    data, table = b"", struct.pack("<H", len(records))
    for tag, content in records:
        table += struct.pack("<HII", tag, len(content), len(data))
        data += content
    return data + table + struct.pack("<I", len(data))


# ---------------------------------------------------------------- lossless JPEG

_LENGTHS = 17  # of differences: 0 to 16 bits


def lossless_jpeg(mosaic: NDArray[np.uint16]) -> bytes:
    """Code a mosaic as DNGs do: two components a row, each predicted from its left (ITU T.81 H).

    Parameters
    ----------
    mosaic : (H, W) uint16
        W even.
    """
    height, width = mosaic.shape
    samples = mosaic.astype(np.int64).reshape(height, width // 2, 2)
    before = np.empty_like(samples)
    before[:, 1:] = samples[:, :-1]
    before[1:, 0] = samples[:-1, 0]
    before[0, 0] = 1 << 15
    bits: list[tuple[int, int]] = []
    # Each length is a code of five bits: no shorter table is needed.
    for difference in ((samples - before + (1 << 15)) % (1 << 16) - (1 << 15)).ravel().tolist():
        length = abs(difference).bit_length()
        low = difference if difference > 0 else difference + (1 << length) - 1
        bits += [(length, 5)] + ([(low, length)] if 0 < length < 16 else [])
    table = bytes([0]) + bytes([0, 0, 0, 0, _LENGTHS, *bytes(11)]) + bytes(range(_LENGTHS))
    frame = struct.pack(">BHHB", 16, height, width // 2, 2) + bytes([0, 0x11, 0, 1, 0x11, 0])
    scan = bytes([2, 0, 0, 1, 0, 1, 0, 0])  # predictor 1
    segments = [(0xC4, table), (0xC3, frame), (0xDA, scan)]
    head = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments
    )
    return b"\xff\xd8" + head + _packed(bits, stuffed=True) + b"\xff\xd9"
