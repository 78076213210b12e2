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
from gia_cli.imaging.save_options import SaveOptions
from gia_cli.imaging.writer import Pixels, output_format, write_image
from gia_cli.raw.exif import ShotInfo


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

    Raises
    ------
    UsageError, OutputError
    """
    kind = output_format(path)
    about: dict[str, Any] = {"shot": shot, "software": software, "comment": comment}
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
