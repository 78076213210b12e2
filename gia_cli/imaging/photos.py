"""Photographs as ground truth: find them, read them, shrink them in linear light.

A photograph stands for a scene. Its own noise, sharpening and JPEG blocks must not be taken for the
scene's, so a camera's picture is shrunk before it is photographed again (`shrink`).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gia_cli.errors import DataError
from gia_cli.imaging.blocks import block_means
from gia_cli.imaging.color import srgb_decode

# Twice what Pillow warns at is what it refuses.
_LARGEST = 2 * (Image.MAX_IMAGE_PIXELS or 0)

_BAND = 64  # rows of blocks that are worked on at once

#: File name endings that count as photographs, in lower case.
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})


def find_photos(folders: list[Path]) -> list[Path]:
    """List all photographs in folders and their subfolders, sorted.

    Parameters
    ----------
    folders : list of Path
        A file counts as itself, whatever its ending.

    Raises
    ------
    DataError
        A folder that is not there, or no photograph in any of them.
    """
    found: set[Path] = set()
    for folder in folders:
        if folder.is_file():
            found.add(folder)
        elif folder.is_dir():
            named = (p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
            found |= {path for path in named if path.is_file()}
        else:
            raise DataError(f"There is no folder {folder}.", hint="Check the spelling.")
    if not found:
        names = ", ".join(map(str, folders))
        raise DataError(
            f"There is no photograph in {names}.",
            hint="gia reads JPEG, PNG, WebP, TIFF and BMP files.",
        )
    return sorted(found)


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Read a photograph, upright.

    Parameters
    ----------
    path : Path
        Taken for sRGB whatever profile it holds; a grey picture gets three equal channels, an
        alpha channel is dropped.

    Returns
    -------
    (H, W, 3) uint8

    Raises
    ------
    DataError
        The file is missing, is no picture, or one that cannot be taken as it is.
    """
    if not path.exists():
        raise DataError(f"{path} cannot be read: there is no such file.")
    try:
        with warnings.catch_warnings():
            # Nobody who trains on photographs of his own needs to be warned of large ones.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            mode = str(iio.immeta(path, plugin="pillow", index=0).get("mode", ""))
            if mode.startswith(("I", "F")):  # Pillow would clip these to 255 without a word
                raise DataError(
                    f"{path} cannot be read: it is grey with more than 8 bits.",
                    hint="Save it with 8 bits.",
                )
            photo = iio.imread(path, mode="RGB", rotate=True, plugin="pillow", index=0)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's broken PNGs are SyntaxErrors
        is_empty = path.is_file() and path.stat().st_size == 0
        reason = (
            "it is empty"
            if is_empty
            else f"it is not a picture, is damaged, or has more than {_LARGEST // 10**6} MP"
        )
        raise DataError(f"{path} cannot be read: {reason}.") from error
    return np.asarray(photo, np.uint8)


def shrink(photo: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    """Average blocks of a photograph in linear light.

    Parameters
    ----------
    photo : (H, W, 3) uint8
        sRGB.
    factor : int
        Side of a block; a remainder at the right and bottom is left out.

    Returns
    -------
    (H // factor, W // factor, 3) float32
        Linear sRGB, 1 = white.
    """
    height, width = (side // factor for side in photo.shape[:2])
    decode = srgb_decode(np.arange(256, dtype=np.float32) / 255)
    linear = np.empty((height, width, 3), np.float32)
    for top in range(0, height, _BAND):  # the whole photograph as float32 would be large
        band = photo[factor * top : factor * (top + _BAND)]
        linear[top : top + _BAND] = block_means(decode[band], factor)[: height - top]
    return linear
