"""Lens corrections that a DNG carries, for whoever develops it last (OpcodeList3).

They say how to straighten a demosaiced picture and to lighten its corners. gia does neither, but a
linear DNG can hold them too, so that its reader does.

Source: Digital Negative Specification 1.7.1 (Adobe, 2023), chapter 7.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from gia_cli.raw.tiff import Directory

OPCODE_LIST_3 = 0xC74E
_ACTIVE_AREA = 0xC68D
# WarpRectilinear, WarpFisheye, FixVignetteRadial: they count in parts of the whole picture. Others
# count photosites, or mend single ones, which are not there any more.
_OF_THE_LENS = {1, 2, 3}
_MOST_OPCODES = 16
_HEADER = struct.Struct(">4I")  # number, version, flags, size; big endian in every DNG


def lens_corrections(tags: Directory | None, height: int, width: int) -> bytes:
    """Take the lens corrections of a DNG, if they hold for the visible area.

    Parameters
    ----------
    tags : Directory, optional
        That of the RAW image.
    height, width : int
        Of the visible area, in photosites.

    Returns
    -------
    bytes
        An OpcodeList3; empty where there is none, where it is damaged or does more than correct a
        lens, and where the corrections are of another area than the visible one.
    """
    data = b"" if tags is None else tags.blobs.get(OPCODE_LIST_3, b"")
    if tags is None or not _are_of_a_lens(data):
        return b""
    top, left, bottom, right = (*tags.tags.get(_ACTIVE_AREA, ()), 0, 0, 0, 0)[:4]
    if _ACTIVE_AREA not in tags.tags:
        bottom, right = tags.first(0x0101), tags.first(0x0100)
    return data if (bottom - top, right - left) == (height, width) else b""


def _are_of_a_lens(data: bytes) -> bool:
    numbers = _opcodes(data)
    return bool(numbers) and set(numbers) <= _OF_THE_LENS


def _opcodes(data: bytes) -> Sequence[int]:
    """List the opcodes of a list by their number; none of one that is damaged."""
    if len(data) < 4:
        return []
    (count,) = struct.unpack_from(">I", data)
    at, numbers = 4, []
    for _ in range(min(count, _MOST_OPCODES + 1)):
        if at + _HEADER.size > len(data):
            return []
        number, _, _, size = _HEADER.unpack_from(data, at)
        numbers.append(number)
        at += _HEADER.size + size
    return numbers if at == len(data) and count <= _MOST_OPCODES else []
