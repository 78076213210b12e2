"""How to cut a frame for the memory that there is: whole, outer levels in tiles, or only tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gia_cli.arguments import whole_number
from gia_cli.errors import OutOfMemoryError, UsageError
from gia_cli.inference.engine import Engine, Split
from gia_cli.raw.packing import PackedMosaic, picture_shape
from gia_cli.runtime import free_bytes, resident_bytes
from gia_cli.tiling import even_tiles, round_up

# A core of 128 reads 6 times its own area.
_SMALLEST_PLANNED_CORE = 128
# Packed pixels of a tile of the outer levels: with more the halo gains nothing to speak of.
_OUTER_AREA = 1024**2
_PICTURE_NUMBER_BYTES = 4
# What the allocator and the convolution's workspace take beside the tensors.
_OVERHEAD = 1.1


@dataclass(frozen=True, slots=True)
class InferOptions:
    """How to cut the frame; see `plan`."""

    tile: int | Literal["auto"] = "auto"
    """Core side in photosites; "auto" takes the whole frame if it fits, else the largest tile."""
    in_parts: bool = False
    """With tile "auto": never the whole frame at once where the engine knows better; see `Split`.
    A few per cent slower, with half the memory."""
    max_memory: int | None = None
    """Most memory the process may hold, in bytes; None: what is free now."""
    reserved: int = 0
    """Bytes of main memory that the caller will take while the network runs; see `plan`."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for sizes that are none."""
        is_auto = isinstance(self.tile, str) and self.tile == "auto"
        if not is_auto and whole_number(self.tile, "tile") < 1:
            raise UsageError(f"--tile must be positive, not {self.tile}.")
        if self.max_memory is not None and whole_number(self.max_memory, "most memory") < 1:
            raise UsageError(f"--max-memory must be positive, not {self.max_memory}.")


@dataclass(frozen=True, slots=True)
class Plan:
    """The cores to work through, in packed pixels."""

    core: tuple[int, int]
    """Rows and columns of a core."""
    frame: tuple[int, int]
    """Rows and columns of the frame, padded to the network's stride."""
    passes: int = 1
    """How often tiles are gone through: once for each vector, and once for the picture."""
    split: Split | None = None
    """Only the first and the last levels are computed in tiles."""

    @property
    def is_whole(self) -> bool:
        """Whether one core is the whole frame."""
        return self.core[0] >= self.frame[0] and self.core[1] >= self.frame[1]

    def __str__(self) -> str:
        if self.is_whole:
            return f"whole frame of {self.frame[1]}x{self.frame[0]} packed px"
        (rows, cols), (height, width) = self.core, self.frame
        if self.split is not None:
            count = len(even_tiles(height, width, self.core, self.split.halo, self.split.cell))
            return (
                f"the outer levels in {count} tiles, about {cols}x{rows} packed px, the rest whole"
            )
        count = -(-height // rows) * -(-width // cols)
        passes = {1: "one pass", 2: "two passes"}.get(self.passes, f"{self.passes} passes")
        return f"{count} tiles of {cols}x{rows} packed px, {passes}"


def plan(engine: Engine, mosaic: PackedMosaic, options: InferOptions) -> Plan:
    """Choose the whole frame when memory allows, else outer levels in tiles, else only tiles.

    Parameters
    ----------
    engine : Engine
        States its stride, halo and bytes per packed pixel.
    mosaic : PackedMosaic
    options : InferOptions

    Raises
    ------
    OutOfMemoryError
        Less than the smallest tile fits under the user's limit. Or there is room only for tiles of
        the whole network, which take several times as long, but would be for more if the caller
        reserved nothing.
    """
    stride = engine.stride
    height, width = (round_up(side, stride) for side in mosaic.planes.shape[1:])
    frame, passes = (height, width), len(engine.vector_halos) + 1
    if options.tile != "auto":
        side = round_up(max(options.tile // engine.config.scale, 1), stride)
        return Plan((min(side, height), min(side, width)), frame, passes)
    per_pixel = engine.bytes_per_pixel * _OVERHEAD
    # A whole frame's picture is the network's result, which is counted by the pixel.
    is_small = height * width * per_pixel <= _budget(engine, options, picture=0)
    if is_small and not (options.in_parts and engine.split):
        return Plan(frame, frame, passes)
    split = _split_plan(engine, mosaic, frame, options)
    if split is not None:
        return split
    if options.reserved:
        alone = plan(engine, mosaic, replace(options, reserved=0))
        if alone.is_whole or alone.split is not None:
            raise OutOfMemoryError("The reserved memory leaves room only for tiles.")
    picture = _picture_bytes(mosaic)
    budget = _budget(engine, options, picture=picture)
    least = per_pixel * _read_area(_SMALLEST_PLANNED_CORE, frame, engine.halo)
    if options.max_memory is not None:
        needed = least + _held(engine, options, picture)
        if options.max_memory < needed:
            raise OutOfMemoryError(
                f"{options.max_memory / 1e6:.0f} MB are not enough for this photo.",
                hint=f"Raise --max-memory to {needed / 1e6 + 1:.0f}MB.",
            )
    core = _largest_core(frame, budget / per_pixel, engine.halo, stride)
    return Plan(core, frame, passes)


def _split_plan(
    engine: Engine, mosaic: PackedMosaic, frame: tuple[int, int], options: InferOptions
) -> Plan | None:
    """Plan the outer levels in tiles, if the rest fits into memory whole."""
    split = engine.split
    if split is None:
        return None
    area = frame[0] * frame[1]
    # Measured, not summed up (144 bytes of 152 on OpenVINO): no overhead on top.
    if area * split.depth_bytes > _budget(engine, options, picture=0):
        return None
    left = _budget(engine, options, picture=_picture_bytes(mosaic)) - area * split.kept_bytes
    left += engine.fixed_bytes - split.tiles_fixed_bytes  # gone again, or not there yet
    read = min(left / (engine.bytes_per_pixel * _OVERHEAD), _OUTER_AREA)
    if read < _read_area(_SMALLEST_PLANNED_CORE, frame, split.halo):
        return None
    core = _largest_core(frame, read, split.halo, engine.stride)
    return Plan(core, frame, 1, split)


def _picture_bytes(mosaic: PackedMosaic) -> int:
    """Bytes of the picture beside tiles, held twice for a moment: floats and 16-bit levels."""
    return int(np.prod(picture_shape(mosaic))) * _PICTURE_NUMBER_BYTES * 3 // 2


def _budget(engine: Engine, options: InferOptions, *, picture: int) -> int:
    """Bytes for the network's tensors: what is free, or what the user's limit leaves."""
    free = free_bytes(engine.device)
    if engine.device == "cpu":
        free -= engine.fixed_bytes + picture + options.reserved
    if options.max_memory is None:
        return free
    return min(options.max_memory - _held(engine, options, picture), free)


def _held(engine: Engine, options: InferOptions, picture: int) -> int:
    """Bytes of the limit that are spoken for: what the process holds, and what is to come."""
    if engine.device != "cpu":
        return 0
    return resident_bytes() + engine.fixed_bytes + picture + options.reserved


def _read_area(side: int, frame: tuple[int, int], halo: int) -> int:
    """Packed pixels that a square core in the midst of the frame reads."""
    rows, cols = (min(side + 2 * halo, length) for length in frame)
    return rows * cols


def _largest_core(frame: tuple[int, int], area: float, halo: int, stride: int) -> tuple[int, int]:
    """Find the core for the fewest square tiles whose read region has at most `area` packed px.

    Cores are then evened out: two of 720 rows, rather than one of 1168 and a rest of 256.
    """
    side = _SMALLEST_PLANNED_CORE
    while side < max(frame) and _read_area(side + stride, frame, halo) <= area:
        side += stride
    rows, cols = (round_up(-(-length // -(-length // side)), stride) for length in frame)
    return rows, cols
