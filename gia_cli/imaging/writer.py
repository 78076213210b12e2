"""TIFF and PNG with colour profile and EXIF, written atomically.

tifffile writes the TIFF but refuses an EXIF pointer, so a placeholder tag is patched afterwards.
For 16-bit RGB PNG there is no writer among our dependencies (imageio's and Pillow's write 8 bits;
pypng takes 4.7 s for 12 megapixels), so the lines that zlib leaves to do are here.

The strips of both formats are compressed here too, in threads, by run-length matching: noise in the
low bytes holds no matches worth a search. That takes 0.4 times as long as zlib's quickest search,
and the file is smaller.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import tifffile
from numpy.typing import NDArray

from gia_cli.errors import DataError, UsageError
from gia_cli.files import OutputFormat, atomic_file, open_plain
from gia_cli.imaging.color import srgb16_from_bt709
from gia_cli.imaging.color_space import SRGB, ColorSpace, levels16_in, linear_in
from gia_cli.imaging.icc import icc_profile
from gia_cli.raw.exif import ShotInfo, exif_entries, first_entries, gps_entries, utf8
from gia_cli.raw.tiff import (
    ASCII,
    EXIF_IFD,
    GPS_IFD,
    LONG,
    RATIONAL,
    SHORT,
    UNDEFINED,
    XMP,
    Block,
    Entry,
    Ref,
    build,
    ifd_bytes,
)
from gia_cli.runtime import in_threads

#: File name endings, with the format each means.
FORMATS: dict[str, OutputFormat] = {
    ".tif": "tif",
    ".tiff": "tif",
    ".png": "png",
    ".dng": "dng",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".jxl": "jxl",
    ".exr": "exr",
}
#: Levels of 8 or 16 bits, or linear light as floats.
Pixels = NDArray[np.uint8 | np.uint16 | np.float32]

#: Worked on at once: small enough for a core's cache, and for every core to have some.
BAND_PIXELS = 1 << 16
_STRIP_BYTES = 1 << 20
_LEVEL = 1  # makes no difference to run-length matching
_ZLIB_HEADER = b"\x78\x01"
_LAST_BLOCK = b"\x03\x00"  # of a deflate stream: empty
# tifffile refuses to write pointers to directories; these neighbours sort to the same places.
_PLACEHOLDERS = {EXIF_IFD: EXIF_IFD - 1, GPS_IFD: GPS_IFD - 1}
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_EXIF_SRGB, _EXIF_UNCALIBRATED = 1, 0xFFFF  # EXIF knows no other spaces
_DPI = 300
_HORIZONTAL, _FLOATING_POINT = 2, 3  # TIFF's predictors

Level = TypeVar("Level", np.uint16, np.float32)


def output_format(path: Path) -> OutputFormat:
    """Find the format by a file's name.

    Raises
    ------
    UsageError
        None that gia writes.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path.name}: gia writes .tif, .png, .dng, .jpg, .jxl and .exr files, not "
            f"'{path.suffix}'.",
            hint="For editing: .tif, .png, .dng or .exr; for sharing: .jpg or .jxl.",
        ) from None


def develop(
    picture: NDArray[np.float32],
    flip: int,
    pixel_aspect: float = 1.0,
    space: ColorSpace = SRGB,
    tone: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
) -> NDArray[np.uint16]:
    """Turn a network's picture into the image to write: levels of a colour space, upright.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded; what the space cannot hold is clipped.
    flip : int
        LibRaw's orientation (`RawFrame.flip`).
    pixel_aspect : float
        Width of a pixel over its height; another than 1 stretches the shorter side.
    space : ColorSpace
    tone : function, optional
        Changes some rows, (3, h, W) BT.709-encoded, on the way.

    Returns
    -------
    (H, W, 3) or, after a quarter turn, (W, H, 3) uint16
    """

    def convert(band: NDArray[np.float32]) -> NDArray[np.uint16]:
        toned = band if tone is None else tone(band)
        if space == SRGB:  # channel by channel, by a table
            return srgb16_from_bt709(toned)
        return levels16_in(toned, space)

    return _developed(picture, flip, pixel_aspect, np.uint16, convert)


def develop_linear(
    picture: NDArray[np.float32], flip: int, pixel_aspect: float = 1.0, space: ColorSpace = SRGB
) -> NDArray[np.float32]:
    """Turn a network's picture into linear light, upright, clipped nowhere.

    Parameters as for `develop`.

    Returns
    -------
    (H, W, 3) or, after a quarter turn, (W, H, 3) float32
    """
    return _developed(picture, flip, pixel_aspect, np.float32, partial(linear_in, space=space))


def _developed(
    picture: NDArray[np.float32],
    flip: int,
    pixel_aspect: float,
    dtype: type[Level],
    convert: Callable[[NDArray[np.float32]], NDArray[Level]],
) -> NDArray[Level]:
    """Convert a picture in bands, in threads, and turn it upright."""
    picture = square_pixels(picture, pixel_aspect)
    _, height, width = picture.shape
    image = np.empty((width, height, 3) if flip & 4 else (height, width, 3), dtype)
    lying = _lying(image, flip)

    def work(rows: slice) -> None:
        lying[rows] = convert(picture[:, rows]).transpose(1, 2, 0)

    for _ in in_threads(work, bands(height, BAND_PIXELS // width)):
        pass
    return image


def square_pixels(picture: NDArray[np.float32], pixel_aspect: float) -> NDArray[np.float32]:
    """Stretch a picture to square pixels, by linear interpolation.

    Parameters
    ----------
    picture : (3, H, W) float32
    pixel_aspect : float
        Width of a pixel over its height.

    Returns
    -------
    (3, H', W') float32
        W' is W times an aspect above 1, H' is H over one below it, as LibRaw has them; the very
        picture if its pixels are square.
    """
    if pixel_aspect < 1:
        lying = square_pixels(picture.transpose(0, 2, 1), 1 / pixel_aspect)
        return np.ascontiguousarray(lying.transpose(0, 2, 1))
    width = picture.shape[2]
    wide = int(width * pixel_aspect + 0.5)
    if wide == width:
        return picture
    at = np.clip((np.arange(wide) + 0.5) * width / wide - 0.5, 0, width - 1)
    left = np.minimum(at.astype(np.intp), width - 1)
    right = np.minimum(left + 1, width - 1)
    share = (at - left).astype(np.float32)
    stretched = picture[:, :, left]
    stretched += share * (picture[:, :, right] - stretched)
    return stretched


def bands(height: int, rows: int) -> Iterator[slice]:
    """Cut `height` rows into bands of `rows`, or of one row if that is none."""
    rows = max(rows, 1)
    for start in range(0, height, rows):
        yield slice(start, start + rows)


def unorient(image: NDArray[np.uint16], flip: int) -> NDArray[np.uint16]:
    """Turn an upright image back to how the sensor lay, by LibRaw's flip bits."""
    return np.ascontiguousarray(_lying(image, flip))


def _lying(image: NDArray[Level], flip: int) -> NDArray[Level]:
    """View an upright image as the sensor lay."""
    if flip & 4:
        image = image.transpose(1, 0, 2)
    if flip & 1:
        image = image[:, ::-1]
    if flip & 2:
        image = image[::-1]
    return image


def read_image(path: Path) -> NDArray[np.uint16]:
    """Read a TIFF of 8 or 16 bits as it is, without applying a profile or an orientation.

    Returns
    -------
    (H, W, 3) uint16
        8-bit levels are spread over 16 bits.

    Raises
    ------
    DataError
        It is missing, or no RGB TIFF of 8 or 16 bits.
    """
    try:
        with open_plain(path) as (file, _):
            levels = tifffile.imread(file)
    except FileNotFoundError as error:
        raise DataError(f"{path} cannot be read: there is no such file.") from error
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DataError(
            f"{path} cannot be read: it is not a TIFF file, or it is damaged."
        ) from error
    if levels.ndim != 3 or levels.shape[2] != 3 or levels.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{path} is not an RGB picture with 8 or 16 bits.",
            hint="Save it as RGB with 8 or 16 bits.",
        )
    return levels * np.uint16(257) if levels.dtype == np.uint8 else levels.astype(np.uint16)


def write_image(
    path: Path,
    image: Pixels,
    *,
    space: ColorSpace = SRGB,
    shot: ShotInfo | None = None,
    software: str = "gia",
    comment: str = "",
    xmp: bytes = b"",
) -> None:
    """Write an image as TIFF or PNG, with profile, EXIF and XMP; all of it or nothing.

    Parameters
    ----------
    path : Path
        Its ending decides between TIFF (zlib and predictor) and PNG.
    image : (H, W, 3) uint16 or uint8, or float32 in a TIFF
        Levels of the space, or its linear light; upright.
    space : ColorSpace
    shot : ShotInfo, optional
        Goes into the EXIF.
    software : str
        The Software tag.
    comment : str
        The EXIF UserComment.
    xmp : bytes
        An XMP packet; none if empty.

    Raises
    ------
    UsageError
        The ending is neither TIFF's nor PNG's.
    OutputError
        The file cannot be written.
    """
    kind = output_format(path)
    if kind not in ("tif", "png"):
        raise UsageError(
            f"{path.name}: this function writes TIFF and PNG files.",
            hint="`Enhanced.save` writes the others.",
        )
    if kind == "png" and image.dtype == np.float32:
        raise UsageError(f"{path.name}: a PNG holds no floats.", hint="Write a .tif file.")
    shot = shot or ShotInfo()
    with atomic_file(path) as file:
        if kind == "tif":
            _write_tiff(file, image, space, shot, software, comment, xmp)
        else:
            _write_png(file, image, space, shot, software, comment, xmp)


def _profile(image: Pixels, space: ColorSpace) -> bytes:
    return icc_profile(space.name, linear=image.dtype == np.float32)


def _exif(shot: ShotInfo, comment: str, *, is_srgb: bool) -> list[Entry]:
    more = [Entry(0xA000, UNDEFINED, b"0100")]  # Flashpix 1.0
    more += [Entry(0xA001, SHORT, _EXIF_SRGB if is_srgb else _EXIF_UNCALIBRATED)]
    return exif_entries(shot, *more, comment=comment)


def _strips(image: Pixels) -> Iterator[slice]:
    return bands(len(image), _rows_per_strip(image))


def _rows_per_strip(image: Pixels) -> int:
    row_bytes: int = image[0].nbytes
    return max(_STRIP_BYTES // row_bytes, 1)


def _deflater(window_bits: int) -> zlib._Compress:
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, window_bits, 9, zlib.Z_RLE)


# ---------------------------------------------------------------- TIFF


def _write_tiff(
    file: BinaryIO,
    image: Pixels,
    space: ColorSpace,
    shot: ShotInfo,
    software: str,
    comment: str,
    xmp: bytes,
) -> None:
    # As bytes: tifffile raises for text beyond ASCII, and for a date that is not a full one.
    texts = {271: shot.make, 272: shot.model, 306: shot.taken}
    extra: list[tuple[int, str, int, bytes | int, bool]]
    extra = [(tag, "s", 0, utf8(text), True) for tag, text in texts.items() if text]
    is_float = image.dtype == np.float32
    is_srgb = space == SRGB and not is_float
    extra += [(e.tag, "s", 0, e.values, True) for e in first_entries(shot)]
    exif = _exif(shot, comment, is_srgb=is_srgb)
    directories = {EXIF_IFD: exif, GPS_IFD: gps_entries(shot)}
    extra += [(274, "H", 1, 1, True)]
    extra += [(_PLACEHOLDERS[tag], "I", 1, 0, True) for tag in directories if directories[tag]]
    extra += [(XMP, "B", len(xmp), xmp, True)] if xmp else []
    tifffile.imwrite(
        file,
        in_threads(partial(_tiff_strip, image), _strips(image)),  # bytes are written as they are
        shape=image.shape,
        dtype=image.dtype.newbyteorder("<"),
        byteorder="<",
        photometric="rgb",
        compression="zlib",
        predictor=_FLOATING_POINT if is_float else _HORIZONTAL,
        rowsperstrip=_rows_per_strip(image),
        iccprofile=_profile(image, space),
        resolution=(_DPI, _DPI),
        resolutionunit="inch",
        software=software.encode("ascii", "replace"),
        metadata=None,
        extratags=extra,
    )
    for tag, entries in directories.items():
        if entries:
            _append_directory(file, tag, entries)


def _tiff_strip(image: Pixels, rows: slice) -> bytes:
    """Take differences from the pixel to the left (predictor 2) and deflate."""
    strip = _bytes_apart(image[rows]) if image.dtype == np.float32 else image[rows]
    differences = np.empty(strip.shape, strip.dtype.newbyteorder("<"))
    differences[:, 0] = strip[:, 0]
    np.subtract(strip[:, 1:], strip[:, :-1], out=differences[:, 1:])
    deflate = _deflater(15)
    return deflate.compress(differences.data) + deflate.flush()


def _bytes_apart(strip: Pixels) -> NDArray[np.uint8]:
    """Put the highest bytes of a row's floats first, then the next ones (predictor 3).

    Source: Adobe Photoshop TIFF Technical Note 3 (2005).
    """
    rows, width, channels = strip.shape
    values = np.ascontiguousarray(strip, ">f4").view(np.uint8).reshape(rows, width * channels, 4)
    return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(rows, 4 * width, channels)


def _append_directory(file: BinaryIO, tag: int, entries: Sequence[Entry]) -> None:
    """Write a directory at the end, and turn the placeholder of the first into its pointer."""
    file.seek(0, 2)
    at = file.tell() + file.tell() % 2
    file.seek(at)
    file.write(ifd_bytes(entries, at))
    file.seek(4)
    (ifd_at,) = struct.unpack("<I", file.read(4))
    file.seek(ifd_at)
    (count,) = struct.unpack("<H", file.read(2))
    tags = np.frombuffer(file.read(12 * count), "<u2").reshape(count, 6)[:, 0]
    (index,) = np.flatnonzero(tags == _PLACEHOLDERS[tag])
    file.seek(ifd_at + 2 + 12 * int(index))
    file.write(struct.pack("<HHII", tag, LONG, 1, at))
    file.seek(0, 2)


# ---------------------------------------------------------------- PNG


def _write_png(
    file: BinaryIO,
    image: Pixels,
    space: ColorSpace,
    shot: ShotInfo,
    software: str,
    comment: str,
    xmp: bytes,
) -> None:
    """PNG (W3C, third edition): IHDR, iCCP, eXIf, tEXt, iTXt, IDAT..., IEND."""
    height, width, _ = image.shape
    file.write(b"\x89PNG\r\n\x1a\n")
    bits = 8 * image.itemsize
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    profile = zlib.compress(_profile(image, space), 9)
    _chunk(file, b"iCCP", space.title.encode() + b"\0\0" + profile)
    _chunk(file, b"eXIf", exif_block(shot, software, comment, space))
    _chunk(file, b"tEXt", b"Software\0" + software.encode("latin-1", "replace"))
    if xmp:  # not compressed, in no language
        _chunk(file, b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + xmp)
    for data in _deflated(image):
        _chunk(file, b"IDAT", data)
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name + data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))


def exif_block(
    shot: ShotInfo,
    software: str = "",
    comment: str = "",
    space: ColorSpace = SRGB,
    *,
    jpeg_size: tuple[int, int] | None = None,
) -> bytes:
    """Build the EXIF of a picture that is no TIFF, as a TIFF file of its own.

    Parameters
    ----------
    shot : ShotInfo
    software, comment : str
        The Software tag and the UserComment.
    space : ColorSpace
        What the picture's levels are.
    jpeg_size : (width, height), optional
        Of a JPEG, for which EXIF asks for some more entries.
    """
    texts = {0x010F: shot.make, 0x0110: shot.model, 0x0132: shot.taken}
    ifd0 = [Entry(tag, ASCII, utf8(text)) for tag, text in texts.items() if text]
    ifd0 += [Entry(0x0131, ASCII, software)] if software else []
    ifd0 += [Entry(0x0112, SHORT, 1), Entry(EXIF_IFD, LONG, Ref("exif")), *first_entries(shot)]
    exif = _exif(shot, comment, is_srgb=space == SRGB)
    if jpeg_size is not None:
        ifd0 += [Entry(tag, RATIONAL, (_DPI, 1)) for tag in (0x011A, 0x011B)]
        ifd0 += [Entry(0x0128, SHORT, 2), Entry(0x0213, SHORT, 1)]  # inches; centred, as in JFIF
        exif.append(Entry(0x9101, UNDEFINED, b"\1\2\3\0"))  # Y, Cb, Cr
        exif += [Entry(0xA002 + i, LONG, side) for i, side in enumerate(jpeg_size)]
    blocks: dict[str, Block] = {"ifd0": ifd0, "exif": exif}
    if gps := gps_entries(shot):
        ifd0.append(Entry(GPS_IFD, LONG, Ref("gps")))
        blocks["gps"] = gps
    return build(blocks)


def _deflated(image: Pixels) -> Iterator[bytes]:
    """Yield one zlib stream (RFC 1950) in pieces that several threads have made."""
    head, checksum = _ZLIB_HEADER, 1
    for filtered, deflated in in_threads(partial(_png_strip, image), _strips(image)):
        checksum = zlib.adler32(filtered.data, checksum)
        yield head + deflated
        head = b""
    yield _LAST_BLOCK + struct.pack(">I", checksum)


def _png_strip(image: Pixels, rows: slice) -> tuple[NDArray[np.uint8], bytes]:
    """Filter rows with "Up" (the difference from the row above); deflate, up to a whole byte."""
    above = max(rows.start - 1, 0)
    levels = np.ascontiguousarray(image[above : rows.stop], image.dtype.newbyteorder(">"))
    values = levels.view(np.uint8).reshape(len(levels), -1)
    filtered = np.empty((len(image[rows]), 1 + values.shape[1]), np.uint8)
    filtered[:, 0] = 2  # filter type Up
    if rows.start == 0:  # above the first row there is nothing
        filtered[0, 1:] = values[0]
        np.subtract(values[1:], values[:-1], out=filtered[1:, 1:])
    else:
        np.subtract(values[1:], values[:-1], out=filtered[:, 1:])
    deflate = _deflater(-15)  # no header, no checksum: parts of one stream
    return filtered, deflate.compress(filtered.data) + deflate.flush(zlib.Z_SYNC_FLUSH)
