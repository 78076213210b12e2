"""Run a network on a whole photo: at once, or in tiles with the global vectors of the photo.

Pooling inside each tile would give every tile its own vector, and with it its own colours. So tiles
take one pass more than the network has vectors: a pass for each averages the features in question
over the tiles' cores, knowing the vectors before, and the last one makes the picture. Both ways
give the same picture, up to rounding.

Some engines know a third way (`engine.Split`): the first and the last levels in tiles, which need
little context, and all below them at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import DeviceError
from gia_cli.inference.engine import Engine, Split, Term
from gia_cli.inference.fallback import Failure, Running, failure_of
from gia_cli.inference.plan import InferOptions, Plan, plan
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.packing import PackedMosaic, picture_shape
from gia_cli.runtime import return_freed_memory, return_large_blocks, turn_on
from gia_cli.tiling import Tile, even_tiles, round_up, tiles

# One of 32 reads 49 times its own area: no plan takes that, but a fallback after a failure may go
# so far before it gives up.
_SMALLEST_CORE = 32
_METER_STEPS = 100  # of a whole frame; tiles count as steps themselves
# The process whose threads the engines compute in, once one has computed.
_process: int | None = None


def claim_process() -> None:
    """Note that engines compute in this process, unless they have in one that it was forked from.

    Raises
    ------
    DeviceError
        A fork takes the engines' locks along and not their threads: it would wait for ever.
    """
    global _process
    if _process not in (None, os.getpid()):
        raise DeviceError(
            "A network has run in the process that this one was forked from; here it would wait "
            "for ever.",
            hint='Use multiprocessing.get_context("spawn"), or fork before the first photo.',
        )
    _process = os.getpid()


def infer(
    engine: Engine | Running,
    mosaic: PackedMosaic,
    options: InferOptions | None = None,
    progress: Progress = SILENT,
    terms: Callable[[Engine], Sequence[Term]] | None = None,
) -> NDArray[np.float32]:
    """Run a network on a packed photo.

    Parameters
    ----------
    engine : Engine or Running
        A `Running` keeps what is found out for the next photo: the engine that this one ended on,
        and the tile that fitted.
    mosaic : PackedMosaic
    options : InferOptions, optional
    progress : Progress
        Receives one stage, "network", with one step for each tile and pass, or a hundred steps for
        a whole frame; and of every retreat.
    terms : function, optional
        Works out the global terms for an engine, such as `photo_terms` of another photo; by default
        they are this photo's own.

    Returns
    -------
    (3, H, W) float32
        BT.709-encoded, as the network gave it (not clipped), cut back to the frame.

    Raises
    ------
    OutOfMemoryError
        Even the smallest tile does not fit on the CPU.
    WeightsError
        What the network computes is not finite, on the CPU in fp32 either.
    DeviceError
        See `claim_process`.
    """
    claim_process()
    running = engine if isinstance(engine, Running) else Running(engine)
    options = options or InferOptions()
    if options.max_memory is not None:
        return_large_blocks()
        return_freed_memory()  # it would count as held
    current: Plan | None = None
    outer = sys.exc_info()[1]  # what the caller is handling
    while True:
        engine, is_smaller = running.engine, current is not None
        try:
            with turn_on(engine.runtime):
                current = current or running.limited(plan(engine, mosaic, options))
                if terms is not None:  # levels below the outer ones would take the vector of theirs
                    current = replace(current, split=None)
                progress.detail(f"network: {current}")
                known = None if terms is None else terms(engine)
                picture = mosaic.crop(_run(engine, mosaic, current, progress, known))
        except (MemoryError, RuntimeError) as error:  # the engines' own are RuntimeErrors
            failure = _failure(error, running, outer)
        else:
            if is_smaller:
                running.remember(current)
            return picture
        # Outside the handler: the error's traceback would keep the failed run's tensors alive.
        current = _retreat(failure, current, running, progress)


def photo_terms(
    engine: Engine, mosaic: PackedMosaic, options: InferOptions | None = None
) -> list[Term]:
    """Work out a photo's global terms, for parts of it that are computed on their own.

    Parameters
    ----------
    engine : Engine
    mosaic : PackedMosaic
    options : InferOptions, optional

    Raises
    ------
    OutOfMemoryError, DeviceError
        As `infer`.
    """
    claim_process()
    planes = pad_to_stride(mosaic.planes, engine.stride)
    how = replace(plan(engine, mosaic, options or InferOptions()), split=None)
    try:
        return _terms(engine, planes, how, SILENT)
    finally:
        engine.end_photo()


def _failure(error: BaseException, running: Running, outer: BaseException | None) -> Failure:
    """Say what an engine could not do. A CPU's other errors, if they are its last, are bugs."""
    behind: BaseException | None = error
    # Ctrl-C, after which the engine could not end the photo in order; not one from before.
    while behind is not None and behind is not outer:
        if isinstance(behind, KeyboardInterrupt):
            raise behind
        behind = behind.__context__
    failure = failure_of(error, running.engine)
    is_known = failure.is_of_memory or failure.is_of_numbers or running.has_another
    if running.engine.device == "cpu" and not is_known:
        raise error
    return failure


def _retreat(
    failure: Failure, failed: Plan | None, running: Running, progress: Progress
) -> Plan | None:
    """Halve the tile; from the smallest one, or after another failure, go to the next engine.

    No plan means: plan again. The host has room for larger tiles than the GPU's last try.
    """
    engine = running.engine
    engine.release()
    if failed is not None and failure.is_of_memory:
        side = min(max(failed.core), max(failed.frame))
        if side > _SMALLEST_CORE:
            half = round_up(side // 2, engine.stride)
            place = engine.runtime.place
            progress.note(f"Out of memory on the {place}; continuing with smaller tiles.")
            return replace(failed, core=(half, half), split=None)
    running.fall_back(failure, progress)
    return None


# ---------------------------------------------------------------- running


def _run(
    engine: Engine,
    mosaic: PackedMosaic,
    plan: Plan,
    progress: Progress,
    terms: Sequence[Term] | None = None,
) -> NDArray[np.float32]:
    """Make the (3, s*h, s*w) picture of the unpadded planes."""
    planes = pad_to_stride(mosaic.planes, engine.stride)
    shape = picture_shape(mosaic)
    try:
        if plan.is_whole and terms is None:
            # The padding beyond the frame is cut off here.
            return _run_whole(engine, planes, progress)[:, : shape[1], : shape[2]]
        picture = np.empty(shape, np.float32)
        parts = (
            _render_tiles(engine, planes, plan, progress, terms)
            if plan.split is None
            else _render_outer_tiles(engine, planes, plan, progress)
        )
        for tile, rendered in parts:
            _paste(picture, tile, rendered, engine.config.scale)
            del rendered  # before the next one is made
        return picture
    finally:
        engine.end_photo()


def pad_to_stride(planes: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Reflect the right and bottom border up to a network's stride (planes have no phase).

    Parameters
    ----------
    planes : (C, h, w) float32
    stride : int
    """
    _, height, width = planes.shape
    added = ((0, 0), *((0, -side % stride) for side in (height, width)))
    if not any(after for _, after in added):
        return planes
    # A frame of one pixel has nothing to reflect.
    return np.pad(planes, added, mode="reflect" if min(height, width) > 1 else "edge")


def _run_whole(
    engine: Engine, planes: NDArray[np.float32], progress: Progress
) -> NDArray[np.float32]:
    """Report a whole frame's way through the network in a hundred steps."""
    reported = 0

    def meter(share: float) -> None:
        nonlocal reported
        steps = int(_METER_STEPS * share + 1e-6)
        progress.advance(steps - reported)
        reported = steps

    progress.stage("network", _METER_STEPS)
    return engine.run(planes, meter)


def _render_tiles(
    engine: Engine,
    planes: NDArray[np.float32],
    plan: Plan,
    progress: Progress,
    terms: Sequence[Term] | None,
) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
    """Yield each tile with its rendered read region, all with the same global vectors."""
    cut = _tiles(engine, plan, engine.halo)
    progress.stage("network", len(cut) * (plan.passes if terms is None else 1))
    if terms is None:
        terms = _terms(engine, planes, plan, progress)
    for tile in cut:
        yield tile, engine.render(engine.encode(_read(planes, tile)), terms)
        _end_tile(progress)


def _terms(
    engine: Engine, planes: NDArray[np.float32], plan: Plan, progress: Progress
) -> list[Term]:
    """Measure the frame's global vectors, tile by tile, and work out what comes of each."""
    terms: list[Term] = []
    for index, halo in enumerate(engine.vector_halos):
        mean = _measured_mean(engine, planes, _tiles(engine, plan, halo), terms, progress)
        terms.append(engine.global_term(index, mean))
    return terms


def _render_outer_tiles(
    engine: Engine, planes: NDArray[np.float32], plan: Plan, progress: Progress
) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
    """Yield each tile with its rendered read region, the rest computed for the whole frame."""
    split = plan.split
    assert split is not None
    cut = even_tiles(*plan.frame, plan.core, split.halo, split.cell)
    progress.stage("network", 3 * len(cut))
    depth = split.depth(_whole_top(split, planes, cut, progress))
    progress.advance(len(cut))
    for tile in cut:
        yield tile, split.surface(_read(planes, tile), _read(depth, tile, split.cell))
        _end_tile(progress)


def _whole_top(
    split: Split, planes: NDArray[np.float32], cut: list[Tile], progress: Progress
) -> NDArray[np.float32]:
    """Put the frame's `top` together from that of its tiles."""
    height, width = planes.shape[1:]
    whole: NDArray[np.float32] | None = None
    for tile in cut:
        top = split.top(_read(planes, tile))
        if whole is None:
            whole = np.empty((len(top), height // split.cell, width // split.cell), np.float32)
        rows, cols = tile.rows, tile.cols
        whole[
            :,
            rows.core_start // split.cell : rows.core_stop // split.cell,
            cols.core_start // split.cell : cols.core_stop // split.cell,
        ] = _core(top, tile, split.cell)
        _end_tile(progress)
    assert whole is not None  # a frame has at least one tile
    return whole


def _end_tile(progress: Progress) -> None:
    """Count a tile. What it held goes back: the next one, of another size, fits in none of it."""
    return_freed_memory()
    progress.advance()


def _tiles(engine: Engine, plan: Plan, halo: int) -> list[Tile]:
    """Cut the frame; tiles of one size in a row, which some engines compile for."""
    cut = tiles(*plan.frame, plan.core, halo, engine.stride)
    return sorted(cut, key=lambda tile: tile.read_shape)


def _measured_mean(
    engine: Engine,
    planes: NDArray[np.float32],
    seen: list[Tile],
    terms: list[Term],
    progress: Progress,
) -> NDArray[np.float64]:
    """One measuring pass: the mean over all cores of the first map whose mean is not known yet."""
    total: NDArray[np.float64] | None = None
    cells = 0
    for tile in seen:
        core = _core(engine.measure(engine.encode(_read(planes, tile)), terms), tile, engine.stride)
        of_core = core.sum(axis=(1, 2), dtype=np.float64)
        total = of_core if total is None else total + of_core
        cells += core[0].size
        _end_tile(progress)
    assert total is not None  # a frame has at least one tile
    return total / cells


def _core(feature: NDArray[np.float32], tile: Tile, stride: int) -> NDArray[np.float32]:
    """Cut a tile's core out of a map with one cell for each stride x stride packed pixels."""
    rows, cols = (
        slice(*(edge // stride for edge in span.core_in_read)) for span in (tile.rows, tile.cols)
    )
    return feature[:, rows, cols]


def _read(planes: NDArray[np.float32], tile: Tile, cell: int = 1) -> NDArray[np.float32]:
    """Cut what a tile reads out of planes, or out of a map of one place for each cell."""
    rows, cols = (
        slice(span.read_start // cell, span.read_stop // cell) for span in (tile.rows, tile.cols)
    )
    return planes[:, rows, cols]


def _paste(
    picture: NDArray[np.float32], tile: Tile, rendered: NDArray[np.float32], scale: int
) -> None:
    """Put a tile's core into its place; the padding beyond the frame is cut off."""
    rows, cols = tile.rows, tile.cols
    target = picture[
        :,
        rows.core_start * scale : rows.core_stop * scale,
        cols.core_start * scale : cols.core_stop * scale,
    ]
    top, left = rows.core_in_read[0] * scale, cols.core_in_read[0] * scale
    target[:] = rendered[:, top : top + target.shape[1], left : left + target.shape[2]]
