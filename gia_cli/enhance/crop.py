"""A part of a photo, with the colours and the brightness that it has in the whole picture.

A network's global vector, the black level and the noise are the whole photo's. So before a part
is computed they are measured on the whole: noise and black level as always, the vector and what
the fusion says of the black level on the photo thinned out, which is every second, third, ...
cell of the filter array. A photo of half
a million packed pixels or less would not be thinned: the network would see all of it twice, and the
part besides. So it is computed as a whole, and cut then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import UsageError
from gia_cli.imaging.fusion import frame_noise
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR
from gia_cli.raw.noise_estimate import noise_above
from gia_cli.raw.reader import RawFrame

#: Sides of `--crop center` in pixels, or the picture's where that is smaller.
CENTER_SIDES = (1024, 768)
#: Photosites around a part that are computed with it. A network's reach is less; coarse bands of
#: the fusion reach further, and are those of the part.
MARGIN = 192
#: Packed pixels; the part begins at a multiple of it, as the cells of all but the fusion's coarsest
#: bands do in the whole photo.
GRID = 64
# Packed pixels that a photo is thinned out to, for the network's vector and for the fusion.
THINNED_PIXELS = 500_000
#: Packed pixels that a photo is averaged to, to find its black level: as many as the network needs
#: to see what it shows.
BINNED_PIXELS = 40_000

Box = tuple[int, int, int, int]
"""Left, top, width and height."""


@dataclass(frozen=True, slots=True)
class Window:
    """Where a part lies in the whole, upright picture."""

    box: Box
    whole: tuple[int, int]
    """Width and height of the whole picture."""

    def __str__(self) -> str:
        return ",".join(map(str, self.box))

    def cut(self, image: NDArray[Any]) -> NDArray[Any]:
        """Cut the part out of a rendering (H, W, ...) of the whole picture; a view."""
        left, top, width, height = self.box
        return image[top : top + height, left : left + width]


@dataclass(frozen=True, slots=True)
class Crop:
    """Which part of a picture to make, in pixels of the upright picture."""

    box: Box | None = None
    """None: the centre."""

    @classmethod
    def parse(cls, text: str) -> Crop:
        """Read ``center`` or ``X,Y,W,H``.

        Raises
        ------
        UsageError

        Examples
        --------
        >>> Crop.parse("100,50,640,480").box
        (100, 50, 640, 480)
        >>> Crop.parse("center").box is None
        True
        """
        if text.strip().lower() in ("center", "centre"):
            return cls()
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 4 or not all(part.isdecimal() for part in parts):
            raise UsageError(
                f"--crop takes center or X,Y,W,H in pixels, not '{text}'.",
                hint="X,Y is the upper left corner, W,H the size: --crop 1200,800,1024,768.",
            )
        left, top, width, height = map(int, parts)
        if not (width and height):
            raise UsageError(f"--crop {text} has no pixels.", hint="W and H are at least 1.")
        return cls((left, top, width, height))

    def of(self, width: int, height: int, name: str) -> Box:
        """Find the box in an upright picture.

        Raises
        ------
        UsageError
            It does not lie within the picture.
        """
        if self.box is None:
            wide, high = min(CENTER_SIDES[0], width), min(CENTER_SIDES[1], height)
            return (width - wide) // 2, (height - high) // 2, wide, high
        left, top, wide, high = self.box
        if left + wide > width or top + high > height:
            raise UsageError(
                f"{name}: --crop {left},{top},{wide},{high} reaches beyond the picture of "
                f"{width} x {height} pixels.",
                hint="X,Y is the upper left corner, W,H the size.",
            )
        return self.box


class Binned(NamedTuple):
    """A photo made small, with little noise left."""

    frame: RawFrame
    """Its mosaic is float32, unless it is the photo itself."""
    averaged: int
    """Photosites of the photo that each of its is the mean of."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a photo, and what is needed of the whole."""

    frame: RawFrame
    """The part with a margin; the whole photo where that is less work."""
    inner: tuple[slice, slice]
    """Rows and columns of `frame` without its margin."""
    window: Window
    thinned: RawFrame
    """The whole photo, thinned out."""
    small: Binned
    """The whole photo, for its black level."""
    noise: tuple[float, float]
    """Of the whole photo, as `frame_noise` has it."""
    whole_bytes: int
    """Of the whole photo's mosaic."""

    @property
    def is_whole(self) -> bool:
        """Whether `frame` is the whole photo, which measures everything itself."""
        return self.frame is self.thinned

    def with_black(self, correction: float) -> Part:
        """Correct the black level by some DN."""
        frame = replace(self.frame, black_correction=correction)
        few = frame if self.is_whole else replace(self.thinned, black_correction=correction)
        noise = noise_above(self.noise, correction)
        return replace(self, frame=frame, thinned=few, noise=noise)


def part_of(frame: RawFrame, crop: Crop) -> Part:
    """Cut a part out of a photo.

    Raises
    ------
    UsageError
        The crop does not lie within the picture.
    """
    whole = upright_size(frame)
    box = crop.of(*whole, frame.path.name)
    rows, cols = lying(frame, box)
    height, width = frame.mosaic.shape
    unit = GRID * PACK_FACTOR[frame.kind]
    outer = tuple(
        slice(max(span.start - MARGIN, 0) // unit * unit, min(span.stop + MARGIN, length))
        for span, length in ((rows, height), (cols, width))
    )
    few = thinned(frame, THINNED_PIXELS)
    if few is frame or outer == (slice(0, height), slice(0, width)):
        part, few, outer = frame, frame, (slice(0, height), slice(0, width))
    else:
        part = _copied(cut(frame, outer[0], outer[1]))
    inner = tuple(
        slice(span.start - around.start, span.stop - around.start)
        for span, around in zip((rows, cols), outer, strict=True)
    )
    return Part(
        frame=part,
        inner=(inner[0], inner[1]),
        window=Window(box, whole),
        thinned=few,
        small=binned(frame),
        noise=frame_noise(frame),
        whole_bytes=frame.mosaic.nbytes,
    )


def _copied(frame: RawFrame) -> RawFrame:
    """Let go of the photo that a part was cut from."""
    return replace(frame, mosaic=frame.mosaic.copy())


def upright_size(frame: RawFrame) -> tuple[int, int]:
    """Width and height of the picture of a photo, upright and with square pixels."""
    height, width = frame.mosaic.shape
    aspect = frame.pixel_aspect
    width = int(width * aspect + 0.5) if aspect > 1 else width
    height = int(height / aspect + 0.5) if aspect < 1 else height
    return (height, width) if frame.flip & 4 else (width, height)


def lying(frame: RawFrame, box: Box) -> tuple[slice, slice]:
    """Find the rows and columns of the mosaic that a box of the upright picture shows."""
    upright_width, upright_height = upright_size(frame)
    left, top, wide, high = box
    cols, rows = slice(left, left + wide), slice(top, top + high)
    if frame.flip & 4:
        rows, cols = cols, rows
        upright_width, upright_height = upright_height, upright_width
    if frame.flip & 1:
        cols = slice(upright_width - cols.stop, upright_width - cols.start)
    if frame.flip & 2:
        rows = slice(upright_height - rows.stop, upright_height - rows.start)
    height, width = frame.mosaic.shape
    return _scaled(rows, height / upright_height), _scaled(cols, width / upright_width)


def _scaled(span: slice, factor: float) -> slice:
    if factor == 1:
        return span
    start = math.floor(span.start * factor)
    return slice(start, max(math.ceil(span.stop * factor), start + 1))


def cut(frame: RawFrame, rows: slice, cols: slice) -> RawFrame:
    """Cut some rows and columns out of a photo; the mosaic is a view.

    Corrections of the lens are left out: their centre is the photo's.
    """
    period = len(CANONICAL[frame.kind])
    dy, dx = frame.phase
    shift = (-rows.start, -cols.start)
    return replace(
        frame,
        mosaic=frame.mosaic[rows, cols],
        phase=((dy + rows.start) % period, (dx + cols.start) % period),
        black=np.roll(frame.black, shift, (0, 1)),
        white=np.roll(frame.white, shift, (0, 1)),
        lens_corrections=b"",
    )


def binned(frame: RawFrame, packed_pixels: int = BINNED_PIXELS) -> Binned:
    """Average n x n cells of the filter array; n is the least that leaves so few packed pixels."""
    period, n = len(CANONICAL[frame.kind]), _shrinking(frame, packed_pixels)
    height, width = frame.mosaic.shape
    rows, cols = height // (n * period), width // (n * period)
    if n <= 1 or not rows or not cols:
        return Binned(frame, 1)
    cells = frame.mosaic[: rows * n * period, : cols * n * period]
    cells = cells.reshape(rows, n, period, cols, n, period)
    mosaic = cells.mean(axis=(1, 4), dtype=np.float32).reshape(rows * period, cols * period)
    return Binned(replace(frame, mosaic=mosaic), n * n)


def thinned(frame: RawFrame, packed_pixels: int) -> RawFrame:
    """Keep every n-th cell of the filter array of each row and column, so that few remain.

    Cells are kept as they are: their noise is that of the photo. n is the least that leaves
    `packed_pixels` or fewer; 1 leaves the photo as it is.
    """
    period, step = len(CANONICAL[frame.kind]), _shrinking(frame, packed_pixels)
    height, width = frame.mosaic.shape
    rows, cols = height // period, width // period
    if step <= 1 or rows < step or cols < step:
        return frame
    cells = frame.mosaic[: rows * period, : cols * period].reshape(rows, period, cols, period)
    kept = cells[::step, :, ::step]
    shape = kept.shape[0] * period, kept.shape[2] * period
    return replace(frame, mosaic=np.ascontiguousarray(kept).reshape(shape))


def _shrinking(frame: RawFrame, packed_pixels: int) -> int:
    """Return the least n by which both sides are to be divided, to leave so few packed pixels."""
    packed = frame.mosaic.size / PACK_FACTOR[frame.kind] ** 2
    return math.ceil(math.sqrt(packed / packed_pixels))
