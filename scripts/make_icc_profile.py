"""Make the ICC profiles that pictures are tagged with: python scripts/make_icc_profile.py.

Each space as version 2.4, matrix and curve, 2.6 kB, and its linear light, 0.5 kB. Version 2 because
old editors do not read version 4's parametric curves; the three channels share one curve of 1,024
points, or of an exponent.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from gia_cli.imaging.color import quantize16
from gia_cli.imaging.color_space import (
    GAMMA,
    SPACES,
    SRGB,
    ColorSpace,
    adaptation,
    xyz_matrix,
)

FOLDER = Path(__file__).parents[1] / "gia_cli" / "imaging"
_CURVE_POINTS = 1024
# sRGB's primaries and white adapted to D50 (Bradford), as ICC asks for in the profile space.
_SRGB_COLORANTS = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708))
_SRGB_COLORANTS += ((0.14307, 0.06061, 0.71410),)
_D50 = (0.9642, 1.0, 0.8249)


def main() -> None:
    """Write the files."""
    for space in SPACES.values():
        (FOLDER / f"{space.name}.icc").write_bytes(profile(space))
        (FOLDER / f"{space.name}-linear.icc").write_bytes(profile(space, linear=True))


def profile(space: ColorSpace, *, linear: bool = False) -> bytes:
    """Build a space's profile; always the same bytes."""
    title = "sRGB IEC61966-2.1" if space == SRGB else space.title
    blocks: dict[bytes, bytes] = {
        b"desc": _icc_description((title + (", linear" if linear else "")).encode()),
        b"cprt": b"text\0\0\0\0" + b"CC0\0",
        b"wtpt": _icc_xyz(_D50),
        **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_icc_xyz, _colorants(space)), strict=True)),
        b"rTRC": _curve(space, linear),
    }
    offsets: dict[bytes, tuple[int, int]] = {}
    body = b""
    start = 128 + 4 + 12 * (len(blocks) + 2)
    for name, block in blocks.items():
        offsets[name] = (start + len(body), len(block))
        body += block + b"\0" * (-len(block) % 4)
    offsets[b"gTRC"] = offsets[b"bTRC"] = offsets[b"rTRC"]
    table = struct.pack(">I", len(offsets))
    table += b"".join(name + struct.pack(">II", *where) for name, where in offsets.items())
    return _icc_header(128 + len(table) + len(body)) + table + body


def _colorants(space: ColorSpace) -> tuple[tuple[float, ...], ...]:
    """List a space's primaries, adapted to D50."""
    if space == SRGB:
        return _SRGB_COLORANTS
    adapted = adaptation(space.white) @ xyz_matrix(space)
    return tuple(tuple(map(float, column)) for column in adapted.T)


def _curve(space: ColorSpace, linear: bool) -> bytes:
    if linear:
        return b"curv" + b"\0" * 8  # no points: as it is
    if space.curve == "gamma":
        return b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(GAMMA * 256))
    curve = quantize16(space.decode(np.linspace(0, 1, _CURVE_POINTS)))
    return b"curv\0\0\0\0" + struct.pack(">I", len(curve)) + curve.astype(">u2").tobytes()


def _icc_header(size: int) -> bytes:
    header = struct.pack(">I4sI", size, b"\0" * 4, 0x02400000) + b"mntrRGB XYZ "
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 4
    header = header.ljust(68, b"\0") + struct.pack(">3i", *(_s15f16(v) for v in _D50))
    return header.ljust(128, b"\0")


def _s15f16(value: float) -> int:
    return round(value * 65536)


def _icc_xyz(xyz: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(_s15f16(v) for v in xyz))


def _icc_description(text: bytes) -> bytes:
    """Encode a description (ICC.1:2001, 6.5.17): ASCII, then empty Unicode and Mac names."""
    ascii_part = struct.pack(">I", len(text) + 1) + text + b"\0"
    return b"desc\0\0\0\0" + ascii_part + b"\0" * (8 + 3 + 67)


if __name__ == "__main__":
    main()
