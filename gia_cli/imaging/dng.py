"""Linear DNG: the picture as camera RGB, for another converter to balance and expose.

The pixels are what an ideal sensor behind the camera's own filters would have recorded, with three
values at every place (LinearRaw). White balance, matrix, exposure and turn are tags, so that they
can still be changed.
Source: Digital Negative Specification 1.7.1 (Adobe, 2023).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gia_cli.files import atomic_file
from gia_cli.imaging.color import (
    XYZ_FROM_SRGB,
    bt709_decode,
    camera_from_srgb,
    srgb8_from_bt709,
)
from gia_cli.imaging.preview import encoded, pil_image, shrunk
from gia_cli.imaging.writer import BAND_PIXELS, bands
from gia_cli.raw.exif import (
    BODY_SERIAL,
    LENS_SPECIFICATION,
    ShotInfo,
    exif_entries,
    first_entries,
    gps_entries,
    utf8,
)
from gia_cli.raw.lens_corrections import OPCODE_LIST_3
from gia_cli.raw.reader import FLIP_OF_ORIENTATION
from gia_cli.raw.tiff import (
    ASCII,
    BYTE,
    EXIF_IFD,
    FLOAT,
    GPS_IFD,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    SUB_IFDS,
    UNDEFINED,
    XMP,
    Entry,
    ifd_bytes,
    rational,
)
from gia_cli.runtime import in_threads
from gia_cli.tiling import round_up

_WHITE = 65535
# Two stops above white are kept; a photo's lamps do not need more. A network's white scatters by a
# percent or so, for which no other converter should have to raise the exposure.
_LEAST_HEADROOM, _MOST_HEADROOM = 1.1, 4.0
_PREDICTOR = 4  # left + above - above left: 6 % smaller than the left alone
_TILE = 256  # most, and the unit of the digest
_TILE_UNIT = 16  # sides are multiples of it
_PREVIEW_SIDE, _PREVIEW_QUALITY = 2048, 90
_THUMBNAIL_SIDE = 256
_D65 = 21  # as CalibrationIlluminant counts lights
_LINEAR_RAW, _RGB, _YCBCR = 34892, 2, 6
_UNCOMPRESSED, _JPEG = 1, 7
_PREVIEW, _MAIN = 1, 0
_VERSION = bytes([1, 4, 0, 0])
# EXIF's number for each of LibRaw's turns.
_ORIENTATIONS = {flip: number for number, flip in enumerate(FLIP_OF_ORIENTATION) if number}
_MATRIX_UNIT = 10_000


def write_linear_dng(
    path: Path,
    picture: NDArray[np.float32],
    *,
    gains: NDArray[np.floating],
    xyz_to_camera: NDArray[np.floating] | None,
    shot: ShotInfo,
    flip: int = 0,
    pixel_aspect: float = 1.0,
    software: str = "gia",
    comment: str = "",
    original: str = "",
    noise_reduction: float = 1.0,
    xmp: bytes = b"",
    lens_corrections: bytes = b"",
) -> None:
    """Write a picture as LinearRaw DNG; all of it or nothing.

    Compressed without loss where imagecodecs is installed, about four bytes a pixel; six otherwise.

    Parameters
    ----------
    path : Path
    picture : (3, H, W) float32
        BT.709-encoded sRGB, balanced, as the sensor lay. Up to two stops above white are kept, and
        BaselineExposure says how far white lies below the highest level. What is below black, or
        outside what the camera's filters tell apart, is clipped.
    gains : (3,)
        White balance gains for R, G and B: the picture as shot.
    xyz_to_camera : (3, 3), optional
        The camera's colour matrix (XYZ of D65 to camera RGB); without one the pixels are sRGB's.
    shot : ShotInfo
        Goes into the EXIF.
    flip : int
        LibRaw's orientation (`RawFrame.flip`).
    pixel_aspect : float
        Width of a pixel over its height.
    software, comment : str
        The Software tag and EXIF's UserComment.
    original : str
        Name of the RAW file.
    noise_reduction : float
        How much of the noise is gone, in [0, 1].
    xmp : bytes
        An XMP packet; none if empty.
    lens_corrections : bytes
        An OpcodeList3, for the reader to correct the lens by; none if empty.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    matrix = np.linalg.inv(XYZ_FROM_SRGB)
    if xyz_to_camera is not None:
        matrix = np.asarray(xyz_to_camera, np.float64)
    neutral = 1 / np.asarray(gains, np.float64)
    neutral /= neutral.max()
    to_camera = neutral[:, None] * camera_from_srgb(matrix)
    headroom = _headroom(picture, to_camera)
    pixels = _camera_pixels(picture, to_camera / headroom)
    make, model = shot.make or "gia", shot.model or "unknown camera"
    with atomic_file(path) as file:
        file.write(b"II" + struct.pack("<HI", 42, 0))
        codecs = _codecs()
        main = [Entry(0x00FE, LONG, _MAIN), *_write_tiles(file, pixels, codecs)]
        main += [
            Entry(0xC61A, RATIONAL, [(0, 1)] * 3),  # BlackLevel
            Entry(0xC61D, LONG, [_WHITE] * 3),
            Entry(0xC61E, RATIONAL, _default_scale(pixel_aspect)),
            Entry(0xC61F, LONG, [0, 0]),
            Entry(0xC620, LONG, [pixels.shape[1], pixels.shape[0]]),
        ]
        if lens_corrections:
            main.append(Entry(OPCODE_LIST_3, UNDEFINED, lens_corrections))
        large = shrunk(pil_image(_rendered(picture)), _PREVIEW_SIDE)
        jpeg = encoded(large, "JPEG", quality=_PREVIEW_QUALITY)
        shown = _write_strip(file, jpeg, large.size, _JPEG, _YCBCR)
        thumbnail = shrunk(large, _THUMBNAIL_SIDE)
        first = _write_strip(file, thumbnail.tobytes(), thumbnail.size, _UNCOMPRESSED, _RGB)
        sub_ifds = [_write_directory(file, entries) for entries in (main, shown)]
        exif = _write_directory(file, exif_entries(shot, comment=comment))
        first += [
            Entry(0x010F, ASCII, utf8(make)),
            Entry(0x0110, ASCII, utf8(model)),
            Entry(0x0112, SHORT, _ORIENTATIONS[flip]),
            Entry(0x0131, ASCII, software),
            Entry(SUB_IFDS, LONG, sub_ifds),
            Entry(EXIF_IFD, LONG, exif),
            Entry(0xC612, BYTE, _VERSION),
            # As old a reader as LinearRaw needs, or opcodes.
            Entry(0xC613, BYTE, bytes([1, 3 if lens_corrections else 1, 0, 0])),
            Entry(0xC614, ASCII, utf8(shot.camera)),
            Entry(
                0xC621, SRATIONAL, [(round(v * _MATRIX_UNIT), _MATRIX_UNIT) for v in matrix.flat]
            ),
            Entry(0xC628, RATIONAL, [rational(float(value)) for value in neutral]),
            Entry(0xC62A, SRATIONAL, rational(math.log2(headroom))),
            Entry(0xC65A, SHORT, _D65),
            Entry(0xC6F7, RATIONAL, rational(noise_reduction)),  # NoiseReductionApplied
            Entry(0xC6F8, ASCII, "gia"),  # the profile's name
            Entry(0xC6FC, FLOAT, [0.0, 0.0, 1.0, 1.0]),  # its tone curve: opens as gia renders it
            Entry(0xC6FD, LONG, 0),  # which may be copied
            Entry(0xC7A7, BYTE, digest(pixels)),
        ]
        if shot.taken is not None:
            first.append(Entry(0x0132, ASCII, shot.taken))
        first += [*first_entries(shot), *_lens_and_body(shot)]
        if gps := gps_entries(shot):
            first.append(Entry(GPS_IFD, LONG, _write_directory(file, gps)))
        if xmp:
            first.append(Entry(XMP, BYTE, xmp))
        if original:
            first.append(Entry(0xC68B, ASCII, utf8(original)))
        at = _write_directory(file, first)
        file.seek(4)
        file.write(struct.pack("<I", at))


def _lens_and_body(shot: ShotInfo) -> list[Entry]:
    """Build DNG's own tags for the lens (LensInfo) and the body (CameraSerialNumber)."""
    tags = {LENS_SPECIFICATION: 0xC630, BODY_SERIAL: 0xC62F}
    known = () if shot.more is None else shot.more.exif
    return [entry._replace(tag=tags[entry.tag]) for entry in known if entry.tag in tags]


def digest(pixels: NDArray[np.uint16]) -> bytes:
    """Sum up the pixels as the tag NewRawImageDigest has it.

    The MD5 of the MD5s of tiles, each plane after plane.

    Parameters
    ----------
    pixels : (H, W, 3) uint16
    """
    whole = hashlib.md5(usedforsecurity=False)
    height, width, _ = pixels.shape
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            tile = pixels[top : top + _TILE, left : left + _TILE].transpose(2, 0, 1)
            data = np.ascontiguousarray(tile, "<u2").data
            whole.update(hashlib.md5(data, usedforsecurity=False).digest())
    return whole.digest()


# ---------------------------------------------------------------- pixels


def _headroom(picture: NDArray[np.float32], to_camera: NDArray[np.float64]) -> float:
    """Find how far above white the levels have to reach: 1, or 1.1 to 4."""
    highest = 1.0
    _, height, width = picture.shape
    for rows in bands(height, BAND_PIXELS // width):
        highest = max(highest, float(_camera(picture[:, rows], to_camera).max()))
    return min(highest, _MOST_HEADROOM) if highest > _LEAST_HEADROOM else 1.0


def _camera_pixels(
    picture: NDArray[np.float32], to_camera: NDArray[np.float64]
) -> NDArray[np.uint16]:
    _, height, width = picture.shape
    pixels = np.empty((height, width, 3), np.uint16)

    def convert(rows: slice) -> None:
        levels = _camera(picture[:, rows], to_camera) * np.float32(_WHITE)
        pixels[rows] = np.rint(np.clip(levels, 0, _WHITE)).transpose(1, 2, 0)

    for _ in in_threads(convert, bands(height, BAND_PIXELS // width)):
        pass
    return pixels


def _camera(picture: NDArray[np.float32], to_camera: NDArray[np.float64]) -> NDArray[np.float32]:
    matrix = to_camera.astype(np.float32)
    camera: NDArray[np.float32] = np.einsum("ij,jhw->ihw", matrix, bt709_decode(picture))
    return camera


def _rendered(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Render 8 bits in sRGB, as the sensor lay, from some more pixels than a preview has."""
    _, height, width = picture.shape
    step = max(max(height, width) // (2 * _PREVIEW_SIDE), 1)
    return np.ascontiguousarray(srgb8_from_bt709(picture[:, ::step, ::step]).transpose(1, 2, 0))


def _default_scale(pixel_aspect: float) -> list[tuple[int, int]]:
    across, down = (pixel_aspect, 1.0) if pixel_aspect > 1 else (1.0, 1 / pixel_aspect)
    return [rational(across), rational(down)]


# ---------------------------------------------------------------- the file


def _codecs() -> ModuleType | None:
    """Find the package that compresses; without it the file is larger, and as good."""
    try:
        return import_module("imagecodecs")
    except ImportError:
        return None


def _write_tiles(
    file: BinaryIO, pixels: NDArray[np.uint16], codecs: ModuleType | None
) -> list[Entry]:
    """Write the pixels, compressed in threads; return what describes them."""
    height, width, _ = pixels.shape
    offsets, sizes = [], []
    # LibRaw misreads tiles that are wider than the picture.
    columns = min(_TILE, width // _TILE_UNIT * _TILE_UNIT)
    if codecs is None or columns == 0:
        data = np.ascontiguousarray(pixels, "<u2").data
        return _write_strip(file, data, (width, height), _UNCOMPRESSED, _LINEAR_RAW, bits=16)[1:]
    rows = min(_TILE, round_up(height, _TILE_UNIT))
    corners = [(y, x) for y in range(0, height, rows) for x in range(0, width, columns)]
    compress = partial(_compressed, codecs, pixels, (rows, columns))
    for tile in in_threads(compress, corners):
        offsets.append(_append(file, tile))
        sizes.append(len(tile))
    return [
        *_description((width, height), _JPEG, _LINEAR_RAW, 16),
        Entry(0x0142, LONG, columns),
        Entry(0x0143, LONG, rows),
        Entry(0x0144, LONG, offsets),
        Entry(0x0145, LONG, sizes),
    ]


def _compressed(
    codecs: ModuleType,
    pixels: NDArray[np.uint16],
    shape: tuple[int, int],
    corner: tuple[int, int],
) -> bytes:
    """Compress a tile as lossless JPEG; beyond the picture's edge its last pixels go on."""
    (top, left), (rows, columns) = corner, shape
    tile = pixels[top : top + rows, left : left + columns]
    missing = [(0, whole - part) for whole, part in zip(shape, tile.shape, strict=False)]
    tile = np.ascontiguousarray(np.pad(tile, [*missing, (0, 0)], mode="edge"))
    data: bytes = codecs.jpeg8_encode(
        tile,
        lossless=True,
        predictor=_PREDICTOR,
        bitspersample=16,
        colorspace="rgb",
        outcolorspace="rgb",
    )
    return data


def _write_strip(
    file: BinaryIO,
    data: bytes | memoryview,
    size: tuple[int, int],
    compression: int,
    photometric: int,
    *,
    bits: int = 8,
) -> list[Entry]:
    """Write a picture as one strip; return what describes it, its place in the file first."""
    more = []
    if photometric == _YCBCR:
        more = [Entry(0x0212, SHORT, [2, 2]), Entry(0xC71A, LONG, 2)]  # halved; sRGB
    return [
        Entry(0x00FE, LONG, _PREVIEW),
        *_description(size, compression, photometric, bits),
        Entry(0x0111, LONG, _append(file, data)),
        Entry(0x0116, LONG, size[1]),
        Entry(0x0117, LONG, len(data) if isinstance(data, bytes) else data.nbytes),
        *more,
    ]


def _description(
    size: tuple[int, int], compression: int, photometric: int, bits: int
) -> list[Entry]:
    return [
        Entry(0x0100, LONG, size[0]),
        Entry(0x0101, LONG, size[1]),
        Entry(0x0102, SHORT, [bits] * 3),
        Entry(0x0103, SHORT, compression),
        Entry(0x0106, SHORT, photometric),
        Entry(0x0115, SHORT, 3),
        Entry(0x011C, SHORT, 1),
    ]


def _write_directory(file: BinaryIO, entries: Sequence[Entry]) -> int:
    at = file.tell() + file.tell() % 2
    return _append(file, ifd_bytes(entries, at))


def _append(file: BinaryIO, data: bytes | memoryview) -> int:
    """Write at the next even offset, which is returned."""
    if file.tell() % 2:
        file.write(b"\0")
    at = file.tell()
    file.write(data)
    return at
