"""From pixels to a file of any format but DNG, which is made of other pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gia_cli.files import OutputFormat
from gia_cli.imaging.color_space import SPACES
from gia_cli.imaging.exr import open_exr, write_exr
from gia_cli.imaging.jpeg import write_jpeg
from gia_cli.imaging.jpegxl import open_codecs, write_jpegxl
from gia_cli.imaging.save_options import JXL_EFFORT, SaveOptions
from gia_cli.imaging.writer import Pixels, output_format, write_image
from gia_cli.raw.exif import ShotInfo

# What writers hold at most for each pixel, beside the levels that they are given (measured with 12
# megapixels). JPEG: 8-bit levels, Pillow's copy and buffer; EXR: channels and OpenEXR's buffers.
_JPEG_BYTES, _EXR_BYTES = 14, {16: 11, 32: 13}
# JPEG XL: floats for the encoder and what it holds of them. libjxl searches in the whole picture
# from an effort of 8 on.
_JXL_BYTES, _JXL_LOSSLESS_BYTES = {5: 38, 7: 48, 9: 300}, {5: 24, 9: 100}
_JXL_OTHER_BYTES = 60_000_000
_LEVEL_BYTES, _LINEAR_BYTES = 6, 12


def saving_bytes(kind: OutputFormat, options: SaveOptions, pixels: int) -> int:
    """Most memory that saving a picture takes beside its sRGB levels and the network's picture.

    Parameters
    ----------
    kind : str
        Any format but DNG.
    options : SaveOptions
    pixels : int
        Of the picture.
    """
    each = 0
    if options.is_linear(kind):
        each = _LINEAR_BYTES
    elif options.needs_picture(kind):
        each = _LEVEL_BYTES
    if kind == "jpg":
        each += _JPEG_BYTES
    elif kind == "exr":
        each += _EXR_BYTES[options.depth(kind)]
    elif kind == "jxl":
        table = _JXL_LOSSLESS_BYTES if options.jxl_distance == 0 else _JXL_BYTES
        effort = JXL_EFFORT if options.jxl_effort is None else options.jxl_effort
        each += next(held for most, held in table.items() if effort <= most)
        return each * pixels + _JXL_OTHER_BYTES
    return each * pixels


def require_format(kind: OutputFormat, options: SaveOptions) -> None:
    """Refuse, before the work, a format that cannot be written here or not with these options.

    Raises
    ------
    UsageError
        A package is missing, or an option is another format's.
    """
    options.check(kind)
    if kind == "exr":
        open_exr()
    elif kind == "jxl":
        open_codecs()


def save_pixels(
    path: Path,
    pixels: Pixels,
    options: SaveOptions,
    *,
    shot: ShotInfo,
    software: str = "gia",
    comment: str = "",
    xmp: bytes = b"",
) -> None:
    """Write a picture in the format that the path's ending means; all of it or nothing.

    Parameters
    ----------
    path : Path
        .tif, .png, .jpg, .jxl or .exr.
    pixels : (H, W, 3) uint8, uint16 or float32
        Levels, or linear light where `SaveOptions.is_linear`, of the options' colour space.
    options : SaveOptions
    shot : ShotInfo
    software, comment : str
    xmp : bytes
        An XMP packet.

    Raises
    ------
    UsageError, OutputError
    """
    kind = output_format(path)
    about: dict[str, Any] = {"shot": shot, "software": software, "comment": comment, "xmp": xmp}
    about["space"] = SPACES[options.color_space]
    chosen = options.chosen_for(kind)
    if kind == "jpg":
        write_jpeg(path, cast(NDArray[np.uint8], pixels), **about, **chosen)
    elif kind == "jxl":
        write_jpegxl(path, cast(NDArray[np.uint8 | np.uint16], pixels), **about, **chosen)
    elif kind == "exr":
        bits = options.depth(kind)
        write_exr(path, cast(NDArray[np.float32], pixels), bits=bits, **about, **chosen)
    else:
        write_image(path, pixels, **about)
