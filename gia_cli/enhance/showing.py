"""A picture for a page: LibRaw's amplified rendering and ours, as JPEGs of a bounded size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gia_cli.enhance.comparison import amplified
from gia_cli.enhance.exposure import RatioChoice
from gia_cli.enhance.stages import Enhanced
from gia_cli.errors import RawError
from gia_cli.imaging.preview import PilImage, encoded, pil_image, shrunk
from gia_cli.pages.page import Layer, Tile, View
from gia_cli.pages.spool import Place, Spool
from gia_cli.raw.exif import ShotInfo

#: What a page of many photos stays below, about, in bytes.
PAGE_BYTES = 150_000_000
_PHOTO_BYTES = 30_000_000  # of one photo, however few there are
_BASE64 = 4 / 3
_QUALITY = 85
_THUMBNAIL_SIDE = 320  # pixels, likewise below
_SHRUNK_SIDE = 1280
_SMALLER_SIDE = 800
_PROBE_SIDE = 768
_WINDOW_FROM, _SHRUNK_FROM = 1_200_000, 250_000  # bytes for a photo
_SPOT = 32  # pixels of a block, where detail is looked for


@dataclass(frozen=True, slots=True)
class KeptTile:
    """A `Tile` whose picture lies in a spool."""

    place: Place
    box: tuple[int, int, int, int]
    """Left, top, width, height."""


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """A `Layer` whose pictures lie in a spool."""

    caption: str
    thumbnail: Place
    tiles: tuple[KeptTile, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows of one picture; small, for it travels between processes."""

    choice: RatioChoice
    comment: str
    shot: ShotInfo
    width: int
    height: int
    seconds: dict[str, float]
    layers: tuple[KeptLayer, ...]
    extent: str
    """In words, how much of the picture is there at full resolution."""

    def view(self, spool: Spool) -> View:
        """Fetch the pictures."""
        layers = tuple(
            Layer(
                layer.caption,
                spool.get(layer.thumbnail),
                tuple(Tile(spool.get(tile.place), *tile.box) for tile in layer.tiles),
            )
            for layer in self.layers
        )
        return View(self.width, self.height, layers)


def keep_picture(result: Enhanced, spool: Spool, pictures: int) -> Shown:
    """Put a picture, and LibRaw's amplified rendering of the same photo, into a spool.

    Parameters
    ----------
    result : Enhanced
    spool : Spool
    pictures : int
        How many the page will have. Few are there whole at full resolution; of many, each has the
        whole shrunk and its most detailed part at full resolution; of very many, less.

    Raises
    ------
    OutputError
        The disk is full.
    """
    ours = result.to_pil()
    images = [(f"gia, {result.weights.name}", ours)]
    try:
        plain = pil_image(amplified(result, ours.size))
        if plain.size != ours.size:
            plain = plain.resize(ours.size)
        images.insert(0, (f"LibRaw, ×{result.choice.ratio:.4g}", plain))  # noqa: RUF001
    except RawError:  # it has gone, or was none but an array; or LibRaw cannot demosaic it
        pass
    share = min(_PHOTO_BYTES, PAGE_BYTES / max(pictures, 1)) / _BASE64
    parts, extent = _parts(images, share, detailed_spot(result.image))
    layers = tuple(
        KeptLayer(
            caption,
            spool.put(_jpeg(shrunk(image, _THUMBNAIL_SIDE))),
            tuple(KeptTile(spool.put(jpeg), box) for jpeg, box in tiles),
        )
        for (caption, image), tiles in zip(images, parts, strict=True)
    )
    return Shown(
        choice=result.choice,
        comment=result.comment,
        shot=result.frame.shot,
        width=ours.width,
        height=ours.height,
        seconds=dict(result.seconds),
        layers=layers,
        extent=extent,
    )


Box = tuple[int, int, int, int]  # left, top, width, height
Parts = list[list[tuple[bytes, Box]]]  # of each image


def _parts(
    images: list[tuple[str, PilImage]], share: float, spot: tuple[int, int]
) -> tuple[Parts, str]:
    """Encode as much of the pictures as the share of bytes allows."""
    pictures = [image for _, image in images]
    size = pictures[0].size
    whole = (0, 0, *size)
    probe = _window(size, _PROBE_SIDE**2, spot)
    probe_bytes = sum(len(_jpeg(_cropped(image, probe))) for image in pictures)
    per_pixel = probe_bytes / (probe[2] * probe[3])
    if per_pixel * size[0] * size[1] <= 1.2 * share:
        jpegs = [_jpeg(image) for image in pictures]
        if sum(map(len, jpegs)) <= share:
            return [[(jpeg, whole)] for jpeg in jpegs], "the whole picture"
    if share < _SHRUNK_FROM:
        return [[] for _ in pictures], f"a picture of {_THUMBNAIL_SIDE} px"
    side = _SHRUNK_SIDE if share >= _WINDOW_FROM else _SMALLER_SIDE
    small = [_jpeg(shrunk(image, side)) for image in pictures]
    parts = [[(jpeg, whole)] for jpeg in small]
    words = f"the whole shrunk to {side} px"
    if share < _WINDOW_FROM:
        return parts, words
    box = _window(size, max(share - sum(map(len, small)), share / 4) / per_pixel, spot)
    for image, tiles in zip(pictures, parts, strict=True):
        tiles.append((_jpeg(_cropped(image, box)), box))
    return parts, f"{words}, and {box[2]} x {box[3]} px of it at full resolution"


def _jpeg(image: PilImage) -> bytes:
    return encoded(image, "JPEG", quality=_QUALITY, subsampling=0)


def _cropped(image: PilImage, box: Box) -> PilImage:
    left, top, width, height = box
    return image.crop((left, top, left + width, top + height))


def _window(size: tuple[int, int], pixels: float, spot: tuple[int, int]) -> Box:
    """Cut so many pixels around a spot, in the picture's own proportions and inside it."""
    shrink = min(1.0, (pixels / (size[0] * size[1])) ** 0.5)
    width, height = (max(round(side * shrink), 1) for side in size)
    left, top = (
        min(max(centre - length // 2, 0), side - length)
        for centre, length, side in zip(spot, (width, height), size, strict=True)
    )
    return left, top, width, height


def detailed_spot(image: NDArray[np.uint16]) -> tuple[int, int]:
    """Find where a picture has most detail, (x, y): its middle if it has none anywhere.

    Parameters
    ----------
    image : (H, W, 3) uint16
    """
    height, width = image.shape[:2]
    green = image[::2, ::2, 1].astype(np.int32)
    change = np.abs(np.diff(green, axis=1))
    rows, columns = (side // _SPOT for side in change.shape)
    if not rows * columns or not change.any():
        return width // 2, height // 2
    blocks = change[: rows * _SPOT, : columns * _SPOT]
    energy = blocks.reshape(rows, _SPOT, columns, _SPOT).mean((1, 3))
    # One light on black is no place to judge a picture by: neighbours count too.
    padded = np.pad(energy, 2, mode="edge")
    smooth = sum(padded[y : y + rows, x : x + columns] for y in range(5) for x in range(5))
    row, column = np.unravel_index(int(np.argmax(smooth)), energy.shape)
    return (2 * int(column) + 1) * _SPOT, (2 * int(row) + 1) * _SPOT
