"""Write camera RAW containers that LibRaw opens bit-exactly: Sony ARW, Fujifilm RAF, DNG.

`gia simulate` and the tests make their photos with these. Pixels are stored uncompressed; of the
maker notes only what LibRaw needs to know the camera is there. Tag meanings: LibRaw 0.22's parsers
(Sony ``0x7310``/``0x7313``, Fujifilm's directory at header offset 92) and DNG 1.6.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import A7S2_MATRIX
from gia_cli.files import atomic_file
from gia_cli.raw.cfa import RGGB, XTRANS
from gia_cli.raw.exif import RAF_MAGIC, ShotInfo, exif_entries, first_entries, gps_entries
from gia_cli.raw.tiff import (
    ASCII,
    BYTE,
    EXIF_IFD,
    GPS_IFD,
    IFD,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    SUB_IFDS,
    UNDEFINED,
    Block,
    Entry,
    Ref,
    build,
    ifd_bytes,
    rational,
)
from gia_cli.tiling import round_up

#: What the writers put in where the caller says nothing.
A_SHOT = ShotInfo(
    exposure_s=0.1,
    iso=1600,
    aperture=8.0,
    focal_mm=50.0,
    lens="gia test lens",
    taken="2016:01:02 03:04:05",
)

_SONY_MODEL_ID_A7S2 = 0x15E
_PHOTOMETRIC_CFA, _PHOTOMETRIC_LINEAR_RAW = 32803, 34892
_MAKER_NOTE = 0x927C
_MAX_DN = 65535
WhiteBalance = tuple[float, float, float]


def write_arw(
    path: Path,
    mosaic: NDArray[np.integer],
    *,
    shot: ShotInfo = A_SHOT,
    black: Sequence[int] = (512, 512, 512, 512),
    wb: WhiteBalance = (2.34, 1.0, 1.76),
    orientation: int = 1,
    preview: NDArray[np.uint8] | None = None,
) -> None:
    """Write an uncompressed 14-bit ARW that LibRaw takes for a Sony ILCE-7SM2.

    Parameters
    ----------
    path : Path
    mosaic : (H, W) integer
        DN, 0...16383, RGGB from the first photosite on.
    shot : ShotInfo
        Goes into the EXIF; make and model are always the camera's.
    black : four int
        Black levels of R, G, G2, B in DN.
    wb : (r, g, b)
        As-shot white balance gains.
    orientation : int
        EXIF orientation, 1...8.
    preview : (h, w, 3) uint8, optional
        The embedded JPEG; a small grey one by default.

    Raises
    ------
    ValueError
        The mosaic is not 2-D or holds values outside 0...16383.
    OutputError
        The file cannot be written.
    """
    raw = _as_dn(mosaic, 16383, ndim=2)
    jpeg = _jpeg(preview)
    gains = [round(1024 * wb[i]) for i in (0, 1, 1, 2)]
    sub = [
        Entry(0x00FE, LONG, 0),
        *_strip(raw, bits=14, photometric=_PHOTOMETRIC_CFA),
        Entry(0x7000, SHORT, 0),
        Entry(0x828D, SHORT, [2, 2]),
        Entry(0x828E, BYTE, RGGB.tobytes()),
        Entry(0x7310, SHORT, list(black)),
        Entry(0x7313, SHORT, gains),
    ]
    ifd0 = [
        Entry(0x00FE, LONG, 1),
        Entry(0x0103, SHORT, 6),
        Entry(0x0201, LONG, Ref("jpeg")),
        Entry(0x0202, LONG, len(jpeg)),
        *_camera_entries("SONY", "ILCE-7SM2", "ILCE-7SM2 v3.00", shot, orientation),
        Entry(SUB_IFDS, LONG, Ref("sub")),
        Entry(EXIF_IFD, LONG, Ref("exif")),
    ]
    # Inside an ARW Sony's maker note is a bare IFD; the "SONY DSC" header is for JPEGs only.
    maker_note = ifd_bytes([Entry(0xB001, SHORT, _SONY_MODEL_ID_A7S2)], 0)
    blocks: dict[str, Block] = {
        "ifd0": ifd0,
        "exif": exif_entries(shot, Entry(_MAKER_NOTE, UNDEFINED, maker_note)),
        **_gps_block(shot),
        "jpeg": jpeg,
        "sub": sub,
        "raw": raw.tobytes(),
    }
    _write(path, build(blocks))


def write_raf(
    path: Path,
    mosaic: NDArray[np.integer],
    *,
    shot: ShotInfo = A_SHOT,
    black: int = 1024,
    wb: WhiteBalance = (1.8, 1.0, 1.9),
    orientation: int = 1,
    margins: tuple[int, int, int, int] | None = None,
    pattern: NDArray[np.uint8] = XTRANS,
    layout: int = 12,
    preview: NDArray[np.uint8] | None = None,
) -> None:
    """Write an uncompressed RAF that LibRaw takes for a Fujifilm X-T2.

    Parameters
    ----------
    path : Path
    mosaic : (H, W) integer
        DN, 0...16383, `pattern` from the first photosite on.
    shot, orientation, preview
        As for `write_arw`.
    black : int
        Black level of all photosites in DN.
    wb : (r, g, b)
        As-shot white balance gains.
    margins : (top, left, height, width), optional
        The visible area; LibRaw moves top and left up to multiples of 6.
    pattern : (6, 6) uint8
        Colour ids.
    layout : int
        FujiLayout; without bit 3 the file is a rotated Super CCD.

    Raises
    ------
    ValueError, OutputError
        As for `write_arw`.
    """
    raw = _as_dn(mosaic, 16383, ndim=2)
    height, width = raw.shape
    version = ifd_bytes([Entry(0x0000, UNDEFINED, b"0130")], 12)
    maker_note = b"FUJIFILM\x0c\0\0\0" + version
    exif = build(
        {
            "ifd0": [
                *_camera_entries(
                    "FUJIFILM", "X-T2", "Digital Camera X-T2 Ver3.00", shot, orientation
                ),
                Entry(EXIF_IFD, LONG, Ref("exif")),
            ],
            "exif": exif_entries(shot, Entry(_MAKER_NOTE, UNDEFINED, maker_note)),
            **_gps_block(shot),
        }
    )
    app1 = b"Exif\0\0" + exif
    # The EXIF segment must be the JPEG's first one.
    jpeg = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + _jpeg(preview)[2:]
    gains = [round(302 * gain) for gain in wb]
    cfa = build(
        {
            "ifd0": [Entry(0xF000, IFD, Ref("fuji"))],
            "fuji": [
                Entry(0xF001, LONG, width),
                Entry(0xF002, LONG, height),
                Entry(0xF003, LONG, 14),
                Entry(0xF007, LONG, Ref("raw")),
                Entry(0xF008, LONG, raw.nbytes),  # two bytes a pixel: LibRaw's "uncompressed"
                Entry(0xF00A, LONG, [black] * 36),
                Entry(0xF00E, LONG, [gains[1], gains[0], gains[2]]),
            ],
            "raw": raw.tobytes(),
        }
    )
    meta = _raf_directory(height, width, margins, pattern, layout, gains)
    _write(path, _raf_file(jpeg, meta, cfa))


def _raf_directory(
    height: int,
    width: int,
    margins: tuple[int, int, int, int] | None,
    pattern: NDArray[np.uint8],
    layout: int,
    gains: Sequence[int],
) -> bytes:
    """Fujifilm's own directory: big-endian (tag, size, bytes) records."""
    records = [(0x0100, struct.pack(">HH", height, width))]
    if margins is not None:
        top, left, visible_height, visible_width = margins
        records += [
            (0x0110, struct.pack(">HH", top, left)),
            (0x0111, struct.pack(">HH", visible_height, visible_width)),
            (0x0115, struct.pack(">HH", 2, 3)),
        ]
    red, green, blue = gains
    records += [
        (0x0121, struct.pack(">HH", height, width)),
        (0x0130, bytes([layout] * 4)),
        (0x0131, pattern.reshape(-1)[::-1].astype(np.uint8).tobytes()),  # stored last to first
        (0x2FF0, struct.pack(">4H", green, red, green, blue)),
    ]
    body = b"".join(struct.pack(">HH", tag, len(data)) + data for tag, data in records)
    return struct.pack(">I", len(records)) + body


def _raf_file(jpeg: bytes, meta: bytes, cfa: bytes) -> bytes:
    jpeg_at = 148
    meta_at = round_up(jpeg_at + len(jpeg), 16)
    cfa_at = round_up(meta_at + len(meta), 16)
    head = bytearray(jpeg_at)
    head[:16] = RAF_MAGIC.ljust(16)
    head[16:20] = b"0201"
    head[20:28] = b"FF159505"
    head[28:32] = b"X-T2"
    head[60:64] = b"0130"
    where = (jpeg_at, len(jpeg), meta_at, len(meta), cfa_at, len(cfa))
    struct.pack_into(">6I", head, 84, *where)
    data = bytes(head) + jpeg
    data = data.ljust(meta_at, b"\0") + meta
    return data.ljust(cfa_at, b"\0") + cfa


def write_dng(
    path: Path,
    mosaic: NDArray[np.integer],
    *,
    shot: ShotInfo = A_SHOT,
    pattern: NDArray[np.uint8] = RGGB,
    black: Sequence[float] = (512,),
    white: int = 16383,
    wb: WhiteBalance | None = (2.34, 1.0, 1.76),
    matrix: Sequence[Sequence[float]] = A7S2_MATRIX,
    active_area: tuple[int, int, int, int] | None = None,
    orientation: int = 1,
    compression: int = 1,
    extra: Sequence[Entry] = (),
    without: Collection[int] = (),
) -> None:
    """Write an uncompressed DNG: Bayer or X-Trans from a 2-D mosaic, linear from an RGB picture.

    Parameters
    ----------
    path : Path
    mosaic : (H, W) or (H, W, samples) integer
        DN, 0...65535. With a third axis the file is a LinearRaw DNG.
    shot : ShotInfo
        Goes into the EXIF; make and model too ("SONY ILCE-7SM2" if it names none).
    pattern : (p, q) uint8
        Colour ids of the repeat pattern, counted from `active_area`'s first photosite (DNG 1.6).
    black : sequence of float
        One level, or one for each place of `pattern` in reading order.
    white : int
    wb : (r, g, b), optional
        As-shot white balance gains; None writes no white balance.
    matrix : (3, 3)
        XYZ (D65) to camera.
    active_area : (top, left, bottom, right), optional
    orientation : int
    compression : int
        The number written into the file. Only 1 is honest; the tests use others to make files that
        a reader must refuse.
    extra : sequence of Entry
        Tags of the first directory to add, or to write in place of those above.
    without : tag numbers
        Tags of the first directory to leave out.

    Raises
    ------
    ValueError, OutputError
        As for `write_arw`.
    """
    raw = _as_dn(mosaic, _MAX_DN, ndim=np.ndim(mosaic))
    samples = 1 if raw.ndim == 2 else raw.shape[2]
    is_cfa = raw.ndim == 2
    make, model = shot.make or "SONY", shot.model or "ILCE-7SM2"
    coefficients = [(round(v * 10000), 10000) for row in matrix for v in row]
    entries = [
        Entry(0x00FE, LONG, 0),
        *_strip(
            raw,
            bits=16,
            photometric=_PHOTOMETRIC_CFA if is_cfa else _PHOTOMETRIC_LINEAR_RAW,
            compression=compression,
        ),
        *_camera_entries(make, model, "gia", shot, orientation),
        Entry(EXIF_IFD, LONG, Ref("exif")),
        Entry(0xC612, BYTE, bytes([1, 4, 0, 0])),
        Entry(0xC613, BYTE, bytes([1, 1, 0, 0])),
        Entry(0xC614, ASCII, f"{make} {model}"),
        Entry(0xC61A, RATIONAL, [rational(level) for level in black]),
        Entry(0xC61D, LONG, [white] * samples),
        Entry(0xC621, SRATIONAL, coefficients),
        Entry(0xC65A, SHORT, 21),
    ]
    if wb is not None:
        entries.append(Entry(0xC628, RATIONAL, [rational(1 / gain) for gain in wb]))
    if is_cfa:
        repeat = list(pattern.shape)
        entries += [
            Entry(0x828D, SHORT, repeat),
            Entry(0x828E, BYTE, pattern.astype(np.uint8).tobytes()),
            Entry(0xC616, BYTE, bytes([0, 1, 2])),
            Entry(0xC617, SHORT, 1),
            Entry(0xC619, SHORT, [1, 1] if len(black) == 1 else repeat),
        ]
    if active_area is not None:
        entries.append(Entry(0xC68D, LONG, list(active_area)))
    replaced = {entry.tag for entry in extra} | set(without)
    entries = [*(entry for entry in entries if entry.tag not in replaced), *extra]
    blocks: dict[str, Block] = {"ifd0": entries, "exif": exif_entries(shot), **_gps_block(shot)}
    blocks["raw"] = raw.tobytes()
    _write(path, build(blocks))


# ---------------------------------------------------------------- shared pieces


def _camera_entries(
    make: str, model: str, software: str, shot: ShotInfo, orientation: int
) -> list[Entry]:
    entries = [
        Entry(0x010F, ASCII, make),
        Entry(0x0110, ASCII, model),
        Entry(0x0112, SHORT, orientation),
        Entry(0x011A, RATIONAL, (350, 1)),
        Entry(0x011B, RATIONAL, (350, 1)),
        Entry(0x0128, SHORT, 2),
        Entry(0x0131, ASCII, software),
    ]
    entries += [] if shot.taken is None else [Entry(0x0132, ASCII, shot.taken)]
    entries += [Entry(GPS_IFD, LONG, Ref("gps"))] if gps_entries(shot) else []
    return [*entries, *first_entries(shot)]


def _gps_block(shot: ShotInfo) -> dict[str, Block]:
    entries = gps_entries(shot)
    return {"gps": entries} if entries else {}


def _strip(
    raw: NDArray[np.uint16], *, bits: int, photometric: int, compression: int = 1
) -> list[Entry]:
    """Describe the pixels: one uncompressed strip, the block named "raw"."""
    height, width = raw.shape[:2]
    samples = 1 if raw.ndim == 2 else raw.shape[2]
    return [
        Entry(0x0100, LONG, width),
        Entry(0x0101, LONG, height),
        Entry(0x0102, SHORT, [bits] * samples),
        Entry(0x0103, SHORT, compression),
        Entry(0x0106, SHORT, photometric),
        Entry(0x0111, LONG, Ref("raw")),
        Entry(0x0115, SHORT, samples),
        Entry(0x0116, LONG, height),
        Entry(0x0117, LONG, raw.nbytes),
        Entry(0x011C, SHORT, 1),
    ]


def _as_dn(mosaic: NDArray[np.integer], highest: int, *, ndim: int) -> NDArray[np.uint16]:
    values = np.asarray(mosaic)
    if values.ndim != ndim or values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"a mosaic has two axes, not shape {values.shape}")
    if values.min() < 0 or values.max() > highest:
        raise ValueError(f"DN must lie in 0...{highest}, not {values.min()}...{values.max()}")
    return np.ascontiguousarray(values, "<u2")


def _jpeg(preview: NDArray[np.uint8] | None) -> bytes:
    pixels = np.full((120, 160, 3), 64, np.uint8) if preview is None else preview
    data = iio.imwrite("<bytes>", pixels, extension=".jpg", quality=85)
    return bytes(data)


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)
