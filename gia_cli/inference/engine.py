"""The same network on different machinery: what an engine is, and which one a photo gets.

Importing this module imports no machinery. torch runs every network on every device; OpenVINO runs
the U-Nets on CPUs, about twice as fast, and starts without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import DeviceError, WeightsMismatchError
from gia_cli.nets import NetConfig, NetName
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import DeviceKind, Runtime
from gia_cli.weights.storage import WeightsInfo

#: Outer levels that stay in fp32 in int8 weights if nothing else is asked for.
FP32_LEVELS = 2

EngineName = Literal["auto", "torch", "openvino"]

#: What an engine hands out to get back; nobody else looks into it.
Features = Any
Term = Any
#: Told how much of a whole frame is done, from 0 to 1.
Meter = Callable[[float], None]

_OPENVINO_NETWORKS: tuple[NetName, ...] = (
    "sid-net",
    "gia-net",
    "se-unet",
    "sid-2conv",
    "sid-dilated",
    "sw-net",
)
# Of torch, C++, oneDNN and OpenVINO; all seen under a limited address space.
_OUT_OF_MEMORY_TEXTS = (
    "not enough memory",
    "out of memory",
    "can't alloc",
    "failed to allocate",
    "could not create a primitive",
    "could not create a memory",
    "bad_alloc",
)


@dataclass(frozen=True, slots=True)
class Split:
    """How an engine computes a frame in three parts, so that only the middle one sees all of it.

    The first levels and the last take most of the memory and need little context: they are computed
    in tiles. What lies below them is small, has all the context and every vector, and is computed
    for the whole frame at once. Tiles of the whole network, against this, need a wide halo each,
    and a pass more for each vector.
    """

    cell: int
    """Packed pixels a side of what the middle part computes one place for."""
    halo: int
    """Context in packed pixels of a tile of the outer parts, whose core is aligned to the cells."""
    kept_bytes: int
    """Of the map between the middle and the last part, for each packed pixel."""
    depth_bytes: int
    """Peak of the middle part, for each packed pixel, its input and its result included."""
    tiles_fixed_bytes: int
    """What of `Engine.fixed_bytes` is there beside a tile: the middle part's weights are not."""
    top: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """Planes of a tile to what `depth` takes, (C, h / cell, w / cell)."""
    depth: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """The frame's `top` to what `surface` takes, (C', h / cell, w / cell)."""
    surface: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
    """Planes of a tile, and `depth` of the same tile, to its picture."""


class Engine(Protocol):
    """A network, ready to run; see `nets.base` for what is computed.

    A whole frame takes one call of `run`. Tiles take a pass for each vector, `encode` and
    `measure`, and one for the picture, `encode` and `render`. Planes are (C, h, w) float32 in
    [0, 1], h and w multiples of `stride`; pictures (3, s*h, s*w) float32, not clipped.
    """

    @property
    def config(self) -> NetConfig:
        """Say which network it runs."""

    @property
    def device(self) -> DeviceKind:
        """Say whose memory it takes."""

    @property
    def stride(self) -> int:
        """See `Network.stride`."""

    @property
    def halo(self) -> int:
        """See `Network.halo`."""

    @property
    def vector_halos(self) -> tuple[int, ...]:
        """See `Network.vector_halos`."""

    @property
    def bytes_per_pixel(self) -> float:
        """Peak memory for each packed pixel that is computed at once, input and result included."""

    @property
    def fixed_bytes(self) -> int:
        """Memory that it will still take beside that, whatever the size, in bytes.

        Not what it holds already, which is among what the process holds: so it may be less for a
        later photo than for the first.
        """

    @property
    def split(self) -> Split | None:
        """Say how a frame is computed in three parts; None if it cannot be."""

    def run(self, planes: NDArray[np.float32], meter: Meter) -> NDArray[np.float32]:
        """Make the picture of a whole frame; `meter` hears of the progress, at last of 1."""

    def encode(self, planes: NDArray[np.float32]) -> Features:
        """Begin with a tile; what is returned serves for one `measure` or `render`."""

    def measure(self, features: Features, terms: Sequence[Term]) -> NDArray[np.float32]:
        """Go on to the first map whose mean is not known yet: (C, h / stride, w / stride)."""

    def global_term(self, index: int, mean: NDArray[np.float64]) -> Term:
        """Work out what comes of the mean (C,) of map number `index` over the frame."""

    def render(self, features: Features, terms: Sequence[Term]) -> NDArray[np.float32]:
        """Make a tile's picture, with the frame's terms."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Tell want of memory from other failures."""

    def release(self) -> None:
        """Hand back all memory that is only kept for later: a smaller try follows."""

    def rest(self) -> None:
        """Hand back what should not be held until the next photo."""

    def on_cpu(self) -> Engine | None:
        """Find who goes on where this one fails; None if it is on the CPU already."""


def sounds_like_no_memory(error: BaseException) -> bool:
    """Tell want of memory by the error's words: most libraries have no class for it."""
    if isinstance(error, MemoryError):
        return True
    words = str(error).lower()
    return any(text in words for text in _OUT_OF_MEMORY_TEXTS)


# ---------------------------------------------------------------- the choice


def open_engine(
    info: WeightsInfo,
    runtime: Runtime,
    engine: EngineName = "auto",
    progress: Progress = SILENT,
) -> Engine:
    """Load verified weights into the engine that was asked for, or into the fastest.

    Parameters
    ----------
    info : WeightsInfo
        int8 weights run on OpenVINO, whatever fp32 or auto would choose.
    runtime : Runtime
        In int8 only for int8 weights.
    engine : "auto", "torch" or "openvino"
        auto: OpenVINO where it can, else torch.
    progress : Progress
        Hears, as a detail, which one and why.

    Raises
    ------
    DeviceError
        OpenVINO was asked for, or is needed for int8, and cannot run this.
    WeightsError
        See `load_network`.
    """
    if info.quantised_from is not None or runtime.dtype == "int8":
        return _open_int8(info, runtime, engine, progress)
    if engine == "torch":
        return _open_torch(info, runtime, "as asked", progress)
    if engine == "openvino":
        require_openvino(runtime, info.config)
    obstacle = obstacle_to_openvino(runtime, info.config)
    if obstacle is None:
        try:
            return _open_openvino(info, engine, progress)
        except (RuntimeError, ImportError) as error:  # OpenVINO has no narrower ones
            obstacle = f"OpenVINO failed: {(str(error) or type(error).__name__).splitlines()[0]}"
            if engine == "openvino":
                raise DeviceError(f"{obstacle}.", hint="Use --engine torch.") from error
    return _open_torch(info, runtime, obstacle, progress)


def require_openvino(runtime: Runtime, config: NetConfig | None = None) -> None:
    """Raise `DeviceError` if OpenVINO cannot run there, or cannot run that network."""
    obstacle = obstacle_to_openvino(runtime, config)
    if obstacle is not None:
        raise DeviceError(
            f"The engine openvino cannot run this: {obstacle}.", hint="Leave out --engine."
        )


def require_int8(runtime: Runtime, engine: EngineName, config: NetConfig | None = None) -> None:
    """Raise `DeviceError` if int8 weights cannot run there: they need OpenVINO on the CPU."""
    obstacle = "not with torch" if engine == "torch" else obstacle_to_openvino(runtime, config)
    if obstacle is not None:
        raise DeviceError(
            f"int8 weights run with OpenVINO on the CPU: {obstacle}.",
            hint="Use --precision int8 without --engine and --device, or other weights.",
        )


def require_quantizer() -> None:
    """Raise `DeviceError` if NNCF, which makes int8 weights, is not installed."""
    if find_spec("nncf") is None:
        raise DeviceError(
            "Making int8 weights needs NNCF, which is not installed.",
            hint="Run: pip install 'gia-cli[quantize]'",
        )


def obstacle_to_openvino(runtime: Runtime, config: NetConfig | None = None) -> str | None:
    """Say in a few words why OpenVINO cannot run this; None if nothing speaks against it."""
    if runtime.device != "cpu":
        return f"OpenVINO runs on the CPU here, not on {runtime.device}"
    if runtime.dtype not in ("float32", "int8"):
        return f"OpenVINO runs in float32 here, not in {runtime.dtype}"
    if config is not None and config.network not in _OPENVINO_NETWORKS:
        return f"{config.network} has no OpenVINO graph"
    if find_spec("openvino") is None:
        return "OpenVINO is not installed"
    return None


def _open_int8(
    info: WeightsInfo, runtime: Runtime, engine: EngineName, progress: Progress
) -> Engine:
    """Open int8 weights; where that fails there is no other engine to go on with."""
    require_int8(runtime, engine, info.config)
    if info.quantised_from is None:
        raise WeightsMismatchError(f"The weights '{info.name}' are not int8.")
    try:
        return _open_openvino(info, engine, progress)
    except (RuntimeError, ImportError) as error:  # OpenVINO has no narrower ones
        words = (str(error) or type(error).__name__).splitlines()[0]
        raise DeviceError(
            f"OpenVINO failed: {words}.", hint=f"Use the weights {info.quantised_from.name}."
        ) from error


def _open_openvino(info: WeightsInfo, engine: EngineName, progress: Progress) -> Engine:
    from gia_cli.inference.openvino_engine import OpenVinoEngine

    opened = OpenVinoEngine.load(info)
    why = "as asked" if engine == "openvino" else "the fastest on a CPU"
    progress.detail(f"engine: {opened}, {why}")
    return opened


def _open_torch(info: WeightsInfo, runtime: Runtime, why: str, progress: Progress) -> Engine:
    from gia_cli.inference.torch_engine import TorchEngine

    opened = TorchEngine.load(info, runtime)
    progress.detail(f"engine: {opened}, {why}")
    return opened
