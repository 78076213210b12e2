"""How long a file should be by what it says of its pictures: a look at its head, nothing decoded.

Sources: TIFF 6.0 (Adobe, 1992), which most cameras' files are; the header of Fujifilm's RAF as
LibRaw reads it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from gia_cli.raw import tiff
from gia_cli.raw.exif import RAF_MAGIC
from gia_cli.raw.libraw import TIFF_MAGICS

# Tags of where pictures lie and how many bytes they have: strips, tiles, a JPEG.
_PLACES = ((0x0111, 0x0117), (0x0144, 0x0145), (0x0201, 0x0202))
_RAF_PLACES_AT, _RAF_PLACES = 84, 3  # offset and length of JPEG, directory and mosaic


def looks_cut_short(path: Path) -> bool:
    """Tell whether a file seems to end before its pictures do.

    A suspicion, for some cameras state lengths that are wrong: who decodes the file knows. Of files
    that are neither TIFF nor RAF nothing is known.

    Parameters
    ----------
    path : Path
        A file that can be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] in TIFF_MAGICS:
            ends = _ends_in_tiff(file)
        elif head.startswith(RAF_MAGIC):
            ends = _ends_in_raf(file)
        else:
            return False
        return not ends or max(ends) > os.fstat(file.fileno()).st_size


def _ends_in_tiff(file: BinaryIO) -> list[int]:
    """Find where the pictures of a TIFF file end; none where it ends before it says so."""
    return [
        offset + length
        for directory in tiff.walk(file)
        for offsets, lengths in _PLACES
        for offset, length in zip(
            directory.tags.get(offsets, ()), directory.tags.get(lengths, ()), strict=False
        )
    ]


def _ends_in_raf(file: BinaryIO) -> list[int]:
    file.seek(_RAF_PLACES_AT)
    places = file.read(8 * _RAF_PLACES)
    if len(places) < 8 * _RAF_PLACES:
        return []
    return [offset + length for offset, length in struct.iter_unpack(">II", places)]
