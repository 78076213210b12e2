"""Run a network on a whole photo: at once, or in tiles with the global vectors of the photo.

Pooling inside each tile would give every tile its own vector, and with it its own colours. So tiles
take one pass more than the network has vectors: a pass for each averages the features in question
over the tiles' cores, knowing the vectors before, and the last one makes the picture. Both ways
give the same picture, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gia_cli.errors import OutOfMemoryError, UsageError
from gia_cli.mosaic import PackedMosaic, picture_shape
from gia_cli.nets.base import Network, frame_sum
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import Runtime, free_bytes, resident_bytes
from gia_cli.tiling import Tile, round_up, tiles

# A core of 128 reads 6 times its own area, one of 32 reads 49 times: nobody plans for that, but a
# retreat from a failure may go so far before it gives up.
_SMALLEST_PLANNED_CORE = 128
_SMALLEST_CORE = 32
# fp32 peaks scale with the number format; the picture itself stays fp32 on the host.
_BYTES_FP32 = 4
# The last three: oneDNN's (seen under a limited address space) and the C++ library's.
_OUT_OF_MEMORY_TEXTS = (
    "not enough memory",
    "out of memory",
    "can't allocate",
    "could not create a primitive",
    "could not create a memory",
    "bad_alloc",
)
_METER_STEPS = 100  # of a whole frame; tiles count as steps themselves
# What the allocator and the convolution's workspace take beside the tensors.
_OVERHEAD = 1.1


@dataclass(frozen=True, slots=True)
class InferOptions:
    """How to cut the frame; see `plan`."""

    tile: int | Literal["auto"] = "auto"
    """Core side in photosites; "auto" takes the whole frame if it fits, else the largest tile."""
    max_memory: int | None = None
    """Most memory the process may hold, in bytes; None: what is free now."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for sizes that are none."""
        if self.tile != "auto" and self.tile < 1:
            raise UsageError(f"--tile must be positive, not {self.tile}.")
        if self.max_memory is not None and self.max_memory < 1:
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

    @property
    def is_whole(self) -> bool:
        """Whether one core is the whole frame."""
        return self.core[0] >= self.frame[0] and self.core[1] >= self.frame[1]

    def __str__(self) -> str:
        if self.is_whole:
            return f"whole frame of {self.frame[1]}x{self.frame[0]} packed px"
        (rows, cols), (height, width) = self.core, self.frame
        count = -(-height // rows) * -(-width // cols)
        passes = {1: "one pass", 2: "two passes"}.get(self.passes, f"{self.passes} passes")
        return f"{count} tiles of {cols}x{rows} packed px, {passes}"


def infer(
    network: Network,
    mosaic: PackedMosaic,
    runtime: Runtime,
    options: InferOptions | None = None,
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """Run a network on a packed photo.

    Parameters
    ----------
    network : Network
        On any device; it stays as it is, but for its memory format. A copy runs elsewhere or in
        another number format.
    mosaic : PackedMosaic
    runtime : Runtime
    options : InferOptions, optional
    progress : Progress
        Hears of one stage, "network", with one step for each tile and pass, or a hundred steps for
        a whole frame; and of every retreat.

    Returns
    -------
    (3, H, W) float32
        BT.709-encoded, as the network gave it (not clipped), cut back to the frame.

    Raises
    ------
    OutOfMemoryError
        Even the smallest tile does not fit on the CPU.
    """
    options = options or InferOptions()
    current: Plan | None = None
    while True:
        try:
            current = current or plan(network, mosaic, runtime, options)
            progress.detail(f"network on {runtime}: {current}")
            return mosaic.crop(_run(network, mosaic, runtime, current, progress))
        except (MemoryError, RuntimeError) as error:  # torch's own are RuntimeErrors
            failure = _failure(error, runtime)
        # Outside the handler: the error's traceback would keep the failed run's tensors alive.
        current, runtime = _retreat(failure, current, runtime, network.stride, progress)


def _failure(error: BaseException, runtime: Runtime) -> str | None:
    """Tell what a GPU could not do; None for want of memory. A CPU's other errors are bugs."""
    if _is_out_of_memory(error):
        return None
    if runtime.device.type == "cpu":
        raise error
    return (str(error) or type(error).__name__).splitlines()[0]


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch's CPU allocator, MPS and oneDNN raise a bare RuntimeError.
    return any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


def _retreat(
    failure: str | None, failed: Plan | None, runtime: Runtime, stride: int, progress: Progress
) -> tuple[Plan | None, Runtime]:
    """Halve the tile; from the smallest one, go from GPU to CPU; on the CPU, give up.

    No plan means: plan anew. The host has room for larger tiles than the GPU's last try.
    """
    device = runtime.device.type
    if device == "cuda":
        torch.cuda.empty_cache()
    side = 0 if failed is None or failure else min(max(failed.core), max(failed.frame))
    if failed is not None and side > _SMALLEST_CORE:
        half = round_up(side // 2, stride)
        progress.note(f"Out of memory on the {device}; going on with smaller tiles.")
        return replace(failed, core=(half, half)), runtime
    if device != "cpu":
        why = f"failed ({failure})" if failure else "has too little memory"
        progress.note(f"The {device} {why}; going on on the CPU.")
        return None, Runtime(torch.device("cpu"), torch.float32)
    raise OutOfMemoryError("Not even the smallest tile fits into memory.")


# ---------------------------------------------------------------- planning


def plan(network: Network, mosaic: PackedMosaic, runtime: Runtime, options: InferOptions) -> Plan:
    """Choose the core: the whole frame when memory allows, else the largest square tile.

    Parameters
    ----------
    network : Network
        States its stride, halo and bytes per packed pixel.
    mosaic : PackedMosaic
    runtime : Runtime
    options : InferOptions
    """
    stride = network.stride
    height, width = (round_up(side, stride) for side in mosaic.planes.shape[1:])
    frame, passes = (height, width), network.vectors + 1
    if options.tile != "auto":
        side = round_up(max(options.tile // network.config.scale, 1), stride)
        return Plan((min(side, height), min(side, width)), frame, passes)
    number_size = torch.empty((), dtype=runtime.dtype).element_size()
    per_pixel = network.bytes_per_pixel * _OVERHEAD * number_size / _BYTES_FP32
    budget = _budget(mosaic, runtime, options)
    if height * width * per_pixel <= budget:
        return Plan(frame, frame, passes)
    least = per_pixel * _read_area(_SMALLEST_PLANNED_CORE, frame, network.halo)
    if options.max_memory is not None and options.max_memory < least + _held(mosaic, runtime):
        raise OutOfMemoryError(
            f"{options.max_memory / 1e6:.0f} MB are too little for this photo.",
            hint=f"Raise --max-memory to {(least + _held(mosaic, runtime)) / 1e6 + 1:.0f}MB.",
        )
    core = _largest_core(frame, budget / per_pixel, network.halo, stride)
    return Plan(core, frame, passes)


def _budget(mosaic: PackedMosaic, runtime: Runtime, options: InferOptions) -> int:
    """Bytes for the network's tensors: what is free, or what the user's limit leaves."""
    free = free_bytes(runtime.device.type)
    if options.max_memory is None:
        return free - (_picture_bytes(mosaic) if runtime.device.type == "cpu" else 0)
    return min(options.max_memory - _held(mosaic, runtime), free)


def _held(mosaic: PackedMosaic, runtime: Runtime) -> int:
    """Bytes of the limit that are spoken for: what the process holds, and the picture to come."""
    if runtime.device.type != "cpu":
        return 0
    # The picture is held twice for a moment: as floats and as 16-bit levels (half the size).
    return resident_bytes() + _picture_bytes(mosaic) * 3 // 2


def _picture_bytes(mosaic: PackedMosaic) -> int:
    return int(np.prod(picture_shape(mosaic))) * _BYTES_FP32


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


# ---------------------------------------------------------------- running


def _run(
    network: Network, mosaic: PackedMosaic, runtime: Runtime, plan: Plan, progress: Progress
) -> NDArray[np.float32]:
    """Make the (3, s*h, s*w) picture of the unpadded planes."""
    network = _ready(network, runtime)
    _, height, width = mosaic.planes.shape
    planes = pad_to_stride(mosaic.planes, network.stride)
    picture = np.empty(picture_shape(mosaic), np.float32)
    scale = network.config.scale
    with torch.inference_mode(), _true_fp32(runtime):
        for tile, rendered in _render_tiles(network, planes, runtime, plan, progress):
            rows, cols = tile.rows, tile.cols
            # The padding beyond the frame is cut off here.
            rows_stop, cols_stop = min(rows.core_stop, height), min(cols.core_stop, width)
            target = picture[
                :,
                rows.core_start * scale : rows_stop * scale,
                cols.core_start * scale : cols_stop * scale,
            ]
            top, left = rows.core_in_read[0] * scale, cols.core_in_read[0] * scale
            piece = rendered[0, :, top : top + target.shape[1], left : left + target.shape[2]]
            torch.from_numpy(target).copy_(piece)
    return picture


@contextmanager
def _true_fp32(runtime: Runtime) -> Iterator[None]:
    """Keep cuDNN from computing "fp32" with TF32's 10 bits, as torch lets it by default."""
    if runtime.device.type != "cuda" or runtime.dtype != torch.float32:
        yield
        return
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=False, allow_tf32=False
    ):
        yield


def _ready(network: Network, runtime: Runtime) -> Network:
    """Bring a network to a device and number format, without rounding the caller's weights."""
    weight = next(network.parameters())
    if (weight.device.type, weight.dtype) != (runtime.device.type, runtime.dtype):
        network = copy.deepcopy(network).to(runtime.device, runtime.dtype)
    # Channels last: 1.3 times faster on CPUs, and what tensor cores want.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


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


def _render_tiles(
    network: Network,
    planes: NDArray[np.float32],
    runtime: Runtime,
    plan: Plan,
    progress: Progress,
) -> Iterator[tuple[Tile, Tensor]]:
    """Yield each tile with its rendered read region, all with the photo's global vectors."""
    height, width = plan.frame
    if plan.is_whole:
        with _metered(network, height, progress):
            (tile,) = tiles(height, width, plan.core, 0, network.stride)
            yield tile, network.finish(network.encode(_to_device(planes, runtime)))
        return
    cut = tiles(height, width, plan.core, network.halo, network.stride)
    progress.stage("network", len(cut) * plan.passes)
    terms: list[Tensor] = []
    for index, halo in enumerate(network.vector_halos):
        seen = tiles(height, width, plan.core, halo, network.stride)
        mean = _measured_mean(network, planes, runtime, seen, terms, progress)
        terms.append(network.global_term(index, mean))
    for tile in cut:
        features = network.encode(_to_device(_read(planes, tile), runtime))
        yield tile, network.render(features, terms)
        progress.advance()


@contextmanager
def _metered(network: Network, height: int, progress: Progress) -> Iterator[None]:
    """Report a whole frame's way through the network: a hundred steps in proportion to its work.

    The network's stages are counted by the rows they return, so that a band moves the bar too. The
    work of one is its number of parameters for each pixel that it returns.
    """
    work = {
        module: (sum(p.numel() for p in module.parameters()) / cell**2, height // cell)
        for module, cell in network.stages
    }
    total = sum(weight for weight, _ in work.values())
    done = dict.fromkeys(work, 0.0)
    reported = 0

    def count(module: nn.Module, _: object, result: Tensor) -> None:
        nonlocal reported
        weight, rows = work[module]
        # Bands overlap, so a stage's rows add up to a little more than it has.
        done[module] = min(done[module] + weight * result.shape[2] / rows, weight)
        steps = int(_METER_STEPS * sum(done.values()) / total + 1e-6)
        progress.advance(steps - reported)
        reported = steps

    progress.stage("network", _METER_STEPS)
    hooks = [module.register_forward_hook(count) for module in work]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _measured_mean(
    network: Network,
    planes: NDArray[np.float32],
    runtime: Runtime,
    seen: list[Tile],
    terms: list[Tensor],
    progress: Progress,
) -> Tensor:
    """One measuring pass: the mean over all cores of the first map whose mean is not known yet."""
    sums: list[Tensor] = []
    cells = 0
    for tile in seen:
        features = network.encode(_to_device(_read(planes, tile), runtime))
        core = _core(network.measure(features, terms), tile, network.stride)
        sums.append(frame_sum(core))
        cells += core.shape[2] * core.shape[3]
        del core  # before the next tile
        progress.advance()
    return (torch.stack(sums).sum(0) / cells).to(runtime.dtype)


def _core(feature: Tensor, tile: Tile, stride: int) -> Tensor:
    """Cut a tile's core out of a map with one cell for each stride x stride packed pixels."""
    rows, cols = (
        slice(*(edge // stride for edge in span.core_in_read)) for span in (tile.rows, tile.cols)
    )
    return feature[:, :, rows, cols]


def _read(planes: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
    rows, cols = tile.rows, tile.cols
    return planes[:, rows.read_start : rows.read_stop, cols.read_start : cols.read_stop]


def _to_device(planes: NDArray[np.float32], runtime: Runtime) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(planes))[None]
    return tensor.to(runtime.device, runtime.dtype).to(memory_format=torch.channels_last)
