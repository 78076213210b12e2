"""JPEG, to share: 8 bits, with colour profile, EXIF and XMP, written atomically."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gia_cli.errors import UsageError
from gia_cli.files import atomic_file
from gia_cli.imaging.color_space import SRGB, ColorSpace
from gia_cli.imaging.icc import icc_profile
from gia_cli.imaging.save_options import JPEG_QUALITY, JPEG_SUBSAMPLING, Subsampling
from gia_cli.imaging.writer import exif_block
from gia_cli.raw.exif import ShotInfo

_MAX_SIDE = 65_500  # libjpeg's
_MAX_SEGMENT = 65_533  # bytes, of EXIF or XMP
_EXIF_HEAD, _XMP_HEAD = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def write_jpeg(
    path: Path,
    levels: NDArray[np.uint8],
    *,
    space: ColorSpace = SRGB,
    shot: ShotInfo | None = None,
    software: str = "gia",
    comment: str = "",
    xmp: bytes = b"",
    quality: int = JPEG_QUALITY,
    subsampling: Subsampling = JPEG_SUBSAMPLING,
) -> None:
    """Write a JPEG; all of it or nothing.

    Parameters
    ----------
    path : Path
    levels : (H, W, 3) uint8
        Of the space, upright.
    space : ColorSpace
    shot : ShotInfo, optional
        Goes into the EXIF.
    software, comment : str
        The Software tag and the EXIF UserComment.
    xmp : bytes
        An XMP packet. One too long for a JPEG is left out.
    quality : int
        1 to 100, as libjpeg counts.
    subsampling : "4:4:4", "4:2:2" or "4:2:0"

    Raises
    ------
    UsageError
        The picture is larger than a JPEG can be.
    OutputError
        The file cannot be written.
    """
    height, width, _ = levels.shape
    if max(height, width) > _MAX_SIDE:
        raise UsageError(
            f"{path.name}: a JPEG has at most {_MAX_SIDE} pixels a side, not {max(height, width)}.",
            hint="Write a .jxl file.",
        )
    more = {"xmp": xmp} if xmp and len(_XMP_HEAD) + len(xmp) <= _MAX_SEGMENT else {}
    size = width, height
    exif = exif_block(shot or ShotInfo(), software, comment, space, jpeg_size=size)
    # Not into the file: Pillow writes past Python, and has no words for what then goes wrong.
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(
        data,
        "JPEG",
        quality=quality,
        subsampling=subsampling,
        optimize=True,
        icc_profile=icc_profile(space.name),
        exif=_EXIF_HEAD + exif,
        **more,
    )
    with atomic_file(path) as file:
        file.write(data.getbuffer())
