"""The U-Nets on OpenVINO, without torch: CPU in fp32, bf16 or int8, Intel's GPUs in fp32.

In int8 the layers that are not int8 are computed in bf16, where the CPU multiplies in that.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import WeightsMismatchError
from gia_cli.inference.engine import Compiled, GraphEngine, Meter, Split, require_finite
from gia_cli.inference.openvino_core import gpu_name, multiplies_in_bf16, the_core
from gia_cli.inference.openvino_graph import SPLIT_LEVEL, UNetGraph, Weights
from gia_cli.inference.quiet_openvino import openvino as ov
from gia_cli.nets.config import NetConfig
from gia_cli.runtime import DeviceKind, Runtime, available_cores
from gia_cli.weights.storage import WeightsInfo, load_arrays

# OpenVINO's name of the property.
_LARGEST_BLOCK = "GPU_DEVICE_MAX_ALLOC_MEM_SIZE"
# Until a wait returns, Ctrl-C must wait too.
_WAIT_MS = 100
# Held once a model is compiled, to its weights as they are computed with. Measured: 1.3 in fp32,
# 1.7 in int8.
_COMPILED_SHARE = 1.7
# Models that hold them all; of three parts, the one compiled last holds few.
_WITH_ALL_WEIGHTS = ("whole", "render")
# Models whose sides are those of planes; the others' maps are small.
_OF_PLANES = ("whole", "measure", "render", "top", "surface")
# What OpenVINO holds after its first run, whatever the model: code and its own. Measured: 42 to 44
# MB, left when every model was dropped.
_LIBRARY_BYTES = 45_000_000
# Set once some model has run in this process.
_HAS_RUN = Event()


def version() -> str:
    """Return OpenVINO's version."""
    return str(ov.__version__.partition("-")[0])


class OpenVinoEngine(GraphEngine[UNetGraph]):
    """An `Engine` on OpenVINO.

    A model is compiled for one size of its planes, which takes a tenth of a second on a CPU and as
    much again in its first run: with its sides left open it needs half as much memory again.
    Compiled models are not kept on disk, for reading one takes as long as compiling it there. Few
    are held (`Compiled`), because each keeps the memory of its intermediate results; so tiles of
    one size had better come in a row.

    Parameters
    ----------
    config : NetConfig
        A network of `LAYOUTS`.
    arrays : dict
        Its weights by name, of any number format; emptied.
    origin : str
        For error messages: what the weights are.
    device : "cpu" or "intel-gpu"
    in_bf16 : bool, optional
        Whether layers that are not int8 compute in bf16, but for `FP32_LAYERS`. By default int8
        weights' do where the CPU has it.
    """

    def __init__(
        self,
        config: NetConfig,
        arrays: dict[str, NDArray[np.generic]],
        origin: str,
        device: DeviceKind = "cpu",
        in_bf16: bool | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self._weight_bytes = sum(
            array.size * (1 if array.dtype == np.int8 else np.dtype(np.float32).itemsize)
            for array in arrays.values()
        )
        self._is_int8 = any(array.dtype == np.int8 for array in arrays.values())
        self._in_bf16 = self._is_int8 and multiplies_in_bf16() if in_bf16 is None else in_bf16
        self._weights = Weights(arrays, origin)
        self._graph = UNetGraph(config, self._weights, in_bf16=self._in_bf16)
        self._graph.whole()  # wrong weights should fail before the first photo is computed
        self._compiled: Compiled[ov.CompiledModel] = Compiled.on(device)

    @classmethod
    def load(
        cls, info: WeightsInfo, device: DeviceKind = "cpu", in_bf16: bool | None = None
    ) -> OpenVinoEngine:
        """Load verified weights, for the CPU or for Intel's GPU.

        Raises
        ------
        WeightsNotFoundError, WeightsCorruptError, WeightsMismatchError
            See `load_network`.
        """
        config = info.config
        origin = f"{info.path} does not fit {config.network} ({config.cfa})"
        arrays = load_arrays(info)
        is_int8 = any(array.dtype == np.int8 for array in arrays.values())
        if is_int8 != (info.quantized_from is not None):
            said = "int8" if info.quantized_from else "not int8"
            raise WeightsMismatchError(
                f"The manifest says that {info.path} is {said}; its tensors say otherwise."
            )
        return cls(config, arrays, origin, device, in_bf16)

    def __str__(self) -> str:
        return f"OpenVINO {version()} on {self.device}, {self.numbers}"

    @property
    def numbers(self) -> str:
        """What the layers compute in, in words: int8 ones are among others."""
        others = "bfloat16" if self._in_bf16 else "float32"
        return f"int8 with {others}" if self._is_int8 else others

    # ------------------------------------------------------------ what it states

    @property
    def runtime(self) -> Runtime:
        """See `Engine`."""
        if self._is_int8:
            return Runtime(self.device, "int8")
        return Runtime(self.device, "bfloat16" if self._in_bf16 else "float32")

    @property
    def is_in_main_memory(self) -> bool:
        """See `Engine`; Intel's graphics cards have memory of their own."""
        if self.device == "cpu":
            return True
        kind = the_core().get_property(self._place, "DEVICE_TYPE")
        return bool(kind == ov.properties.device.Type.INTEGRATED)

    @property
    def bytes_per_pixel(self) -> float:
        """See `Engine`."""
        return self._graph.bytes_per_pixel

    @property
    def fixed_bytes(self) -> int:
        """See `Engine`: each model's copy of the weights, and OpenVINO's own at its first run.

        On a GPU less than none of it, where models hold maps.
        """
        return self._compiled.most * self._compiled_bytes + _LIBRARY_BYTES - self.held_bytes

    @property
    def held_bytes(self) -> int:
        """See `Engine`; on a GPU a model's maps too, which the next photo's take, or take over."""
        held = sum(part in _WITH_ALL_WEIGHTS for part in self._compiled.parts)
        library = _LIBRARY_BYTES if _HAS_RUN.is_set() else 0
        return library + held * self._compiled_bytes + self._map_bytes

    @property
    def _map_bytes(self) -> int:
        """What compiled models keep of their runs: on a CPU nothing, see `end_photo`."""
        if self.device == "cpu":
            return 0
        keys = self._compiled.keys
        area = sum(math.prod(sides) for part, sides in keys if sides and part in _OF_PLANES)
        return round(area * self.bytes_per_pixel)

    @property
    def _place(self) -> str:
        """The device as OpenVINO names it."""
        return "CPU" if self.device == "cpu" else gpu_name()

    @property
    def _compiled_bytes(self) -> int:
        """What the weights take in a compiled model."""
        return round(_COMPILED_SHARE * self._weight_bytes)

    @property
    def most_pixels(self) -> int | None:
        """See `Engine`: GPUs have a largest block; of the maps, two stand side by side at the end.

        OpenVINO says of a GPU how large that is; of others, and older ones, nothing is known.
        """
        if self.device == "cpu":
            return None
        try:
            largest = int(the_core().get_property(self._place, _LARGEST_BLOCK))
        except RuntimeError:
            return None
        return largest // (2 * self.config.width * np.dtype(np.float32).itemsize)

    @property
    def split(self) -> Split:
        """See `Engine`."""
        kept, peak = self._graph.split_bytes
        return Split(
            cell=2**SPLIT_LEVEL,
            halo=self._graph.split_halo,
            kept_bytes=kept,
            depth_bytes=peak,
            tiles_fixed_bytes=_LIBRARY_BYTES,  # the outer levels' weights are few
            top=self._top,
            depth=self._depth,
            surface=self._surface,
        )

    # ------------------------------------------------------------ what it computes

    def run(self, planes: NDArray[np.float32], meter: Meter) -> NDArray[np.float32]:
        """See `Engine`; `meter` receives only the end."""
        picture = self._infer("whole", [planes], self._picture_shape(planes))
        meter(1.0)
        return picture

    def measure(
        self, features: NDArray[np.float32], terms: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """See `Engine`."""
        _, height, width = features.shape
        cells = height // self.stride, width // self.stride
        return self._infer("measure", [features], (self._graph.widths[-1], *cells))

    def global_term(self, index: int, mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """See `Engine`."""
        column = mean.astype(np.float32).reshape(-1, 1, 1)
        return self._infer("term", [column], column.shape)

    def render(
        self, features: NDArray[np.float32], terms: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._infer("render", [features, *terms], self._picture_shape(features))

    # ------------------------------------------------------------ memory

    def release(self) -> None:
        """See `Engine`."""
        self._compiled.clear()

    def end_photo(self) -> None:
        """See `Engine`; compiled models stay, on a CPU without their intermediate results."""
        if self.device == "cpu":
            for model in self._compiled.models:
                model.release_memory()

    def in_fp32(self) -> OpenVinoEngine | None:
        """See `Engine`; int8 weights have no such numbers."""
        if self._is_int8 or not self._in_bf16:
            return None
        other = copy.copy(self)
        other._in_bf16, other._compiled = False, Compiled.on(self.device)
        other._graph = UNetGraph(self.config, self._weights)
        return other

    def on_cpu(self) -> OpenVinoEngine | None:
        """See `Engine`."""
        if self.device == "cpu":
            return None
        other = copy.copy(self)
        other.device, other._compiled = "cpu", Compiled.on("cpu")
        return other

    # ------------------------------------------------------------ inside

    def _picture_shape(self, planes: NDArray[np.float32]) -> tuple[int, int, int]:
        scale = self.config.scale
        return 3, scale * planes.shape[1], scale * planes.shape[2]

    def _top(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        cells = (side // 2**SPLIT_LEVEL for side in planes.shape[1:])
        return self._infer("top", [planes], (self._graph.widths[SPLIT_LEVEL - 1], *cells))

    def _depth(self, below: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._infer("depth", [below], (self._graph.widths[SPLIT_LEVEL], *below.shape[1:]))

    def _surface(
        self, planes: NDArray[np.float32], depth: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        return self._infer("surface", [planes, depth], self._picture_shape(planes))

    def _infer(
        self, part: str, inputs: Sequence[NDArray[np.float32]], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """Run a part of the graph; arrays are (C, H, W) on both sides."""
        result = np.empty((1, *shape), np.float32)
        # Shared, not copied: each array must outlive the request.
        arrays = [np.ascontiguousarray(array[None]) for array in inputs]
        request = self._compile(part, inputs[0].shape[1:]).create_infer_request()
        request.set_output_tensor(ov.Tensor(result, shared_memory=True))
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
        try:  # Ctrl-C may come as soon as it has started
            request.start_async()
            while not request.wait_for(_WAIT_MS):
                pass
        except BaseException:
            request.cancel()
            with suppress(RuntimeError):  # which says that it was cancelled
                request.wait()  # it still reads and writes our arrays
            raise
        _HAS_RUN.set()
        return require_finite(result[0])

    def _compile(self, part: str, sides: tuple[int, ...]) -> ov.CompiledModel:
        return self._compiled.get(part, sides, partial(self._compile_anew, part, sides))

    def _compile_anew(self, part: str, sides: tuple[int, ...]) -> ov.CompiledModel:
        model = self._graph.term() if part == "term" else getattr(self._graph, part)(*sides)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # Otherwise a CPU that has bf16 computes "fp32" in bf16, and a GPU in fp16.
            "INFERENCE_PRECISION_HINT": "bf16" if self._in_bf16 else "f32",
        }
        if self.device == "cpu":
            settings["INFERENCE_NUM_THREADS"] = available_cores()
            # A thread bound to a core that others use, too, keeps all the rest waiting: measured
            # 10 % slower on a busy machine.
            settings["ENABLE_CPU_PINNING"] = False
        return the_core().compile_model(model, self._place, settings)
