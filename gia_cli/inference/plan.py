"""How to cut a frame for the memory that there is: whole, outer levels in tiles, or only tiles."""

from __future__ import annotations

import math
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
    """Bytes of main memory that others will take while the network runs; see `plan`."""
    is_beside: bool = False
    """Whether others hold memory that they will give back; see `plan`."""
    afterwards: int = 0
    """Bytes of main memory that the caller takes beside the picture, once the network is done."""
    held: int | None = None
    """Bytes that count as held under `max_memory` before the engine takes any; None: those that the
    process holds now. With a number the plan does not depend on what else has been done."""

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
            return "the whole photo at once"
        (rows, cols), (height, width) = self.core, self.frame
        if self.split is not None:
            count = len(even_tiles(height, width, self.core, self.split.halo, self.split.cell))
            return f"the outer levels in {count} tiles, the rest at once, to save memory"
        count = -(-height // rows) * -(-width // cols)
        passes = {1: "one pass", 2: "two passes"}.get(self.passes, f"{self.passes} passes")
        return f"{count} tiles of {cols} x {rows} packed pixels, {passes}, to save memory"


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
        Less than the smallest tile fits under the user's limit, or less than what the caller takes
        afterwards. Or the plan, which is made as if there were no others, does not fit beside them:
        then they should end first.
    """
    stride = engine.stride
    height, width = (round_up(side, stride) for side in mosaic.planes.shape[1:])
    frame, passes = (height, width), len(engine.vector_halos) + 1
    if options.tile != "auto":
        side = round_up(max(options.tile // engine.config.scale, 1), stride)
        return Plan((min(side, height), min(side, width)), frame, passes)
    need = _Need(engine, mosaic, frame, options.afterwards)
    chosen = _alone(need, _room(engine, options), options)
    if options.reserved or options.is_beside:
        _refuse_crowd(need, chosen, options)
    return chosen


@dataclass(frozen=True, slots=True)
class _Need:
    """What ways to compute a frame take at most, in bytes, what the engine holds included."""

    engine: Engine
    mosaic: PackedMosaic
    frame: tuple[int, int]
    afterwards: int

    @property
    def per_pixel(self) -> float:
        """What the network takes for each packed pixel that is computed at once."""
        return self.engine.bytes_per_pixel * _OVERHEAD

    @property
    def fixed(self) -> int:
        """What the engine takes whatever the size."""
        return self.engine.fixed_bytes + self.engine.held_bytes

    @property
    def picture(self) -> int:
        """The picture beside tiles. A whole frame's is counted by the pixel."""
        if not self.is_here:  # it is in main memory
            return 0
        return int(np.prod(picture_shape(self.mosaic))) * _PICTURE_NUMBER_BYTES

    @property
    def padded(self) -> int:
        """A copy of the planes, where they are not a whole number of strides."""
        is_whole = self.mosaic.planes.shape[1:] == self.frame
        return 0 if is_whole or not self.is_here else self.mosaic.planes.nbytes

    @property
    def beside_tiles(self) -> int:
        """What there is beside a tile of the whole network."""
        return self.fixed + self.picture + self.padded

    @property
    def to_develop(self) -> int:
        """What follows the network: its picture, and what the caller does with that."""
        return self.fixed + self.picture + self.afterwards if self.is_here else 0

    @property
    def is_here(self) -> bool:
        """Whether the network takes the memory that the caller takes."""
        return self.engine.is_in_main_memory

    @property
    def whole(self) -> float:
        """The network on the whole frame."""
        return self.fixed + self.padded + self.frame[0] * self.frame[1] * self.per_pixel

    def beside_outer_tiles(self, split: Split) -> int:
        """Sum up what there is beside a tile of the outer levels."""
        area = self.frame[0] * self.frame[1]
        beside = self.picture + self.padded + area * split.kept_bytes
        return beside + split.tiles_fixed_bytes

    def depth(self, split: Split) -> int:
        """Sum up what there is while all below the outer levels is computed."""
        # Measured, not summed up (144 bytes of 152 on OpenVINO): no overhead on top.
        return self.fixed + self.padded + self.frame[0] * self.frame[1] * split.depth_bytes

    def of(self, chosen: Plan) -> float:
        """Sum up a plan's peak."""
        if chosen.is_whole:
            return max(self.whole, self.to_develop)
        halo = self.engine.halo if chosen.split is None else chosen.split.halo
        rows, cols = (
            min(side + 2 * halo, length)
            for side, length in zip(chosen.core, self.frame, strict=True)
        )
        tile = rows * cols * self.per_pixel
        if chosen.split is None:
            return max(self.beside_tiles + tile, self.to_develop)
        outer = self.beside_outer_tiles(chosen.split) + tile
        return max(outer, self.depth(chosen.split), self.to_develop)


def _alone(need: _Need, room: float, options: InferOptions) -> Plan:
    """Choose the plan for which there is room."""
    engine, frame = need.engine, need.frame
    passes = len(engine.vector_halos) + 1
    read = _read_area(_SMALLEST_PLANNED_CORE, frame, engine.halo)
    least = max(need.beside_tiles + read * need.per_pixel, need.to_develop)
    limit = options.max_memory
    most = engine.most_pixels or math.inf
    if limit is None or limit - _held(engine, options) >= need.to_develop:
        fits = need.whole <= room and frame[0] * frame[1] <= most
        if fits and not (options.in_parts and engine.split):
            return Plan(frame, frame, passes)
        split = _split_plan(need, room)
        if split is not None:
            return split
    if limit is not None and limit < (needed := least + _held(engine, options)):
        raise OutOfMemoryError(
            f"{limit / 1e6:.0f} MB are not enough for this photo.",
            hint=f"Raise --max-memory to {needed / 1e6 + 1:.0f}MB.",
        )
    area = min((room - need.beside_tiles) / need.per_pixel, most)
    return Plan(_largest_core(frame, area, engine.halo, engine.stride), frame, passes)


def _split_plan(need: _Need, room: float) -> Plan | None:
    """Plan the outer levels in tiles, if the rest fits into memory whole."""
    engine, frame, split = need.engine, need.frame, need.engine.split
    if split is None or need.depth(split) > room:
        return None
    read = min((room - need.beside_outer_tiles(split)) / need.per_pixel, _OUTER_AREA)
    if read < _read_area(_SMALLEST_PLANNED_CORE, frame, split.halo):
        return None
    core = _largest_core(frame, read, split.halo, engine.stride)
    return Plan(core, frame, 1, split)


def _room(engine: Engine, options: InferOptions) -> float:
    """Bytes for a photo and its engine: what is free, or what the user's limit leaves."""
    free = free_bytes(engine.device, engine.runtime.index) + engine.held_bytes
    if options.max_memory is None:
        return free
    return min(options.max_memory - _held(engine, options), free)


def _held(engine: Engine, options: InferOptions) -> int:
    """Bytes of the limit that are spoken for before the engine takes any."""
    if not engine.is_in_main_memory:
        return 0
    return _held_now(engine) if options.held is None else options.held


def _held_now(engine: Engine) -> int:
    return resident_bytes() - engine.held_bytes


def _refuse_crowd(need: _Need, chosen: Plan, options: InferOptions) -> None:
    """Refuse a plan that does not fit beside what others hold, and what they will take."""
    engine = need.engine
    if not engine.is_in_main_memory:
        return
    room = _room(engine, replace(options, held=_held_now(engine)))
    if need.of(chosen) > room - options.reserved:
        raise OutOfMemoryError("The memory of other photos leaves too little for this one.")


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
