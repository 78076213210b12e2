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
from gia_cli.files import identity, is_file, is_folder, open_plain, walk
from gia_cli.imaging.blocks import block_means
from gia_cli.imaging.color import srgb_decode

# Twice what Pillow warns at is what it refuses.
_LARGEST = 2 * (Image.MAX_IMAGE_PIXELS or 0)

_BAND = 64  # rows of blocks that are worked on at once

#: Photographs with a longer side than this are shrunk for training until they are no longer.
LONGEST_SIDE = 1500

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
        A folder that is not there, ones that may not be read, all named, or no photograph in any.
    """
    found: set[Path] = set()
    closed: list[str] = []
    for folder in folders:
        if is_file(folder):
            found.add(folder)
            continue
        if identity(folder) is None:
            raise DataError(f"There is no folder {folder}.", hint="Check the spelling.")
        if not is_folder(folder):
            raise DataError(
                f"{folder} is a pipe, socket or device.", hint="Name a folder of photographs."
            )
        for below, paths in walk(folder):
            if isinstance(paths, OSError):
                closed.append(f"{below} ({paths.strerror or paths})")
            else:
                named = (path for path in paths if path.suffix.lower() in PHOTO_SUFFIXES)
                found |= {path for path in named if is_file(path)}
    if closed:
        raise DataError(
            f"{'Folders' if closed[1:] else 'A folder'} cannot be read: {', '.join(closed)}.",
            hint="Check the permissions, or name the folders that can be read.",
        )
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
    try:
        with open_plain(path) as (_, size):
            pass
    except OSError as error:
        reason = "there is no such file" if identity(path) is None else error.strerror or error
        raise DataError(f"{path} cannot be read: {reason}.") from error
    return _decoded(path, str(path), size)


def decode_photo(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the bytes of a photograph's file; as `read_photo`.

    Parameters
    ----------
    data : bytes
    name : str
        What an error is to call it.
    """
    return _decoded(data, name, len(data))


def encode_webp(photo: NDArray[np.uint8], quality: int) -> bytes:
    """Encode a photograph as WebP, without metadata.

    Parameters
    ----------
    photo : (H, W, 3) uint8
        sRGB.
    quality : int
        0...100; lossy also at 100.
    """
    encoded = iio.imwrite("<bytes>", photo, plugin="pillow", extension=".webp", quality=quality)
    assert isinstance(encoded, bytes)
    return encoded


def _decoded(source: Path | bytes, name: str, size: int) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Nobody who trains on photographs of his own needs to be warned of large ones.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            mode = str(iio.immeta(source, plugin="pillow", index=0).get("mode", ""))
            if mode.startswith(("I", "F")):  # Pillow would clip these to 255 without a word
                raise DataError(
                    f"{name} cannot be read: it is grey with more than 8 bits.",
                    hint="Save it with 8 bits.",
                )
            photo = iio.imread(source, mode="RGB", rotate=True, plugin="pillow", index=0)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's broken PNGs are SyntaxErrors
        reason = (
            "it is empty"
            if size == 0
            else f"it is not a picture, is damaged, or has more than {_LARGEST // 10**6} MP"
        )
        raise DataError(f"{name} cannot be read: {reason}.") from error
    return np.asarray(photo, np.uint8)


def training_size(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Shrink a photograph by a whole factor until no side is longer than `LONGEST_SIDE`.

    As for `shrink`.
    """
    return shrink(photo, -(-max(photo.shape[:2]) // LONGEST_SIDE))


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
