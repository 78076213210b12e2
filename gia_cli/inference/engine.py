"""The same network on different machinery: what an engine is; `select` chooses one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gia_cli.nets.config import NetConfig
from gia_cli.runtime import DeviceKind, Runtime, is_oom_error

#: Outer levels that stay in fp32 in int8 weights if nothing else is asked for.
FP32_LEVELS = 2


Model = TypeVar("Model")
#: What an engine hands out to get back; opaque to everything else.
Features = Any
Term = Any
#: Called with how much of a whole frame is done, from 0 to 1.
Meter = Callable[[float], None]


class NotFiniteError(RuntimeError):
    """A network's output holds NaN or infinity: its number format overflowed, or the card is wrong.

    Engines raise it, so that no black picture is written. See `fallback` for what follows.
    """

    def __init__(self) -> None:
        super().__init__("the network's output is not finite")


def require_finite(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what an engine has computed, if all of it is finite; else raise `NotFiniteError`.

    One sum tells: whatever is added to NaN or infinity stays so.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if not np.isfinite(array.sum(dtype=np.float32)):
            raise NotFiniteError
    return array


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
    """What of the engine's `fixed_bytes` and `held_bytes` is there beside a tile: the middle part's
    weights are not."""
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
    [0, 1], h and w multiples of `stride`; pictures (3, s*h, s*w) float32, not clipped. What is
    computed is finite, or a `NotFiniteError` is raised.
    """

    @property
    def config(self) -> NetConfig:
        """Say which network it runs."""

    @property
    def device(self) -> DeviceKind:
        """Say what kind of device it runs on."""

    @property
    def runtime(self) -> Runtime:
        """Say which device that is, and in which number format it computes."""

    @property
    def is_in_main_memory(self) -> bool:
        """Say whether it takes main memory, beside what the process holds there."""

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
    def held_bytes(self) -> int:
        """Memory of that kind that it holds already: with `fixed_bytes` always the same sum."""

    @property
    def most_pixels(self) -> int | None:
        """Packed pixels that can be computed at once, however much memory is free; None: any."""

    @property
    def split(self) -> Split | None:
        """Say how a frame is computed in three parts; None if it cannot be."""

    def run(self, planes: NDArray[np.float32], meter: Meter) -> NDArray[np.float32]:
        """Make the picture of a whole frame; `meter` receives the progress, at the end 1."""

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

    def abandon(self) -> None:
        """Take leave of a device that has failed: nothing may be freed that has to ask it."""

    def end_photo(self) -> None:
        """Hand back what should not be held until the next photo."""

    def in_fp32(self) -> Engine | None:
        """Find the same engine on the same device, but in fp32; None if it is that already."""

    def on_cpu(self) -> Engine | None:
        """Find the same engine on the CPU, in fp32; None if it is there already."""


class Compiled(Generic[Model]):
    """The models that an engine compiled last, each for a part of a network and a size.

    On a CPU one is held, because each keeps memory; compiling takes a tenth of a second. Elsewhere
    it takes many times as long, and a photo alternates between two sizes: a small copy, on which
    its black level is looked for, and the photo itself.

    Parameters
    ----------
    most : int
        How many are held.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._models: dict[tuple[str, tuple[int, ...] | None], Model] = {}

    @classmethod
    def on(cls, device: DeviceKind) -> Compiled[Model]:
        """Hold as many as is worth it on a device."""
        return cls(1 if device == "cpu" else 2)

    def get(
        self, part: str, sides: tuple[int, ...] | None, compile_it: Callable[[], Model]
    ) -> Model:
        """Find a model, or compile it, once the one that was not wanted for longest has gone."""
        model = self._models.pop((part, sides), None)
        if model is None:
            while len(self._models) >= self.most:
                del self._models[next(iter(self._models))]
            model = compile_it()
        self._models[part, sides] = model  # the last to go
        return model

    def clear(self) -> None:
        """Let go of all."""
        self._models.clear()

    @property
    def parts(self) -> list[str]:
        """The parts of those that are held."""
        return [part for part, _ in self._models]

    @property
    def keys(self) -> list[tuple[str, tuple[int, ...] | None]]:
        """The parts and sizes of those that are held."""
        return list(self._models)

    @property
    def models(self) -> list[Model]:
        """Those that are held, the last one last."""
        return list(self._models.values())


class StatedGraph(Protocol):
    """What a graph, built of a network's weights for another library than torch, says of itself."""

    @property
    def stride(self) -> int:
        """See `Network.stride`."""

    @property
    def halo(self) -> int:
        """See `Network.halo`."""

    @property
    def vector_halos(self) -> tuple[int, ...]:
        """See `Network.vector_halos`."""


Graph = TypeVar("Graph", bound=StatedGraph)


class GraphEngine(Generic[Graph]):
    """What the engines of such graphs have in common.

    Their parts take planes, and each computes from them what it needs.
    """

    _graph: Graph

    @property
    def stride(self) -> int:
        """See `Engine`."""
        return self._graph.stride

    @property
    def halo(self) -> int:
        """See `Engine`."""
        return self._graph.halo

    @property
    def vector_halos(self) -> tuple[int, ...]:
        """See `Engine`."""
        return self._graph.vector_halos

    def encode(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine`; nothing is computed yet, for neither of the next steps needs it apart."""
        return planes

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `Engine`."""
        return is_oom_error(error)

    def abandon(self) -> None:
        """See `Engine`."""

    def in_fp32(self) -> Engine | None:
        """See `Engine`: elsewhere than on the CPU graphs run in fp32."""
        return None
