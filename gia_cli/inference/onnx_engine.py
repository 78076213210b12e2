"""The U-Nets on ONNX Runtime, in fp32, on whichever provider is installed. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from functools import partial
from threading import Event, Lock
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gia_cli.errors import DeviceError, WeightsMismatchError
from gia_cli.inference.engine import Compiled, GraphEngine, Meter, require_finite
from gia_cli.inference.layout import LAYOUTS
from gia_cli.inference.named_arrays import NamedArrays
from gia_cli.inference.onnx_graph import Sides, UNetOnnx
from gia_cli.inference.self_check import SAMPLE_SIDES
from gia_cli.nets.config import NetConfig
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import DeviceKind, Runtime, available_cores, is_main_memory
from gia_cli.text import first_line
from gia_cli.weights.storage import WeightsInfo, load_arrays

#: Devices and their providers, the first one first where nobody asks for one.
PROVIDERS: dict[DeviceKind, str] = {
    "cuda": "CUDAExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
# They compile for one size, or run open ones slowly or not at all.
_FIXED_SIZES: tuple[DeviceKind, ...] = ("migraphx", "directml", "coreml")
_WAIT_SECONDS = 0.1  # until a wait returns, Ctrl-C must wait too
_ERRORS_ONLY = 4  # fatal ones: what fails is raised, too
# All measured on the CPU's provider with two threads. Bytes for each packed pixel at the peak, and
# for each channel of the top level: 12 to 15.4.
_MAPS = 16
# Of the weights in fp32: what a session holds, and takes for a while when it runs.
_SESSION_SHARE, _RUN_SHARE = 3.8, 1.0
# What the library keeps, and what it takes while it runs: 75 MB, whatever the size.
_LIBRARY_BYTES, _RUN_BYTES = 20_000_000, 80_000_000
_HAS_RUN = Event()
_HAS_LOADED, _ONE_LOADS = Event(), Lock()  # of CUDA's libraries


def available() -> list[DeviceKind]:
    """Name the devices that the installed ONNX Runtime has a provider for, best first."""
    there = ort.get_available_providers()
    return [device for device, provider in PROVIDERS.items() if provider in there]


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(ort.__version__)


class OnnxEngine(GraphEngine[UNetOnnx]):
    """An `Engine` on ONNX Runtime.

    The graph of each part is made from the weights when it is first wanted, and few sessions are
    held (`Compiled`). On CPUs and CUDA one session serves every size.

    Parameters
    ----------
    graph : UNetOnnx
    devices : sequence of DeviceKind
        To try, one after the other; the CPU last.
    progress : Progress
        Receives a note of each device that fails.
    index : int
        Which one of several cards of CUDA.

    Raises
    ------
    DeviceError
        None of them works.
    WeightsMismatchError
        As `UNetOnnx.whole`.
    """

    split = None  # large frames take tiles of the whole network
    most_pixels = None

    def __init__(
        self,
        graph: UNetOnnx,
        devices: Sequence[DeviceKind],
        progress: Progress = SILENT,
        index: int = 0,
    ) -> None:
        self._graph = graph
        self.index = index
        self.config: NetConfig = graph.config
        self._weight_bytes = 0
        self._sessions: Compiled[Any] = Compiled(1)
        self.device: DeviceKind = "cpu"
        self._start(devices, progress)

    @classmethod
    def load(
        cls,
        info: WeightsInfo,
        device: DeviceKind = "cpu",
        progress: Progress = SILENT,
        index: int = 0,
    ) -> OnnxEngine:
        """Load verified weights, for a device or else for those after it.

        Raises
        ------
        WeightsNotFoundError, WeightsCorruptError, WeightsMismatchError
            See `load_network`.
        DeviceError
        """
        there = available()
        first = there.index(device) if device in there else len(there) - 1
        return cls(load_graph(info), there[first:], progress, index)

    def __str__(self) -> str:
        provider = PROVIDERS[self.device].removesuffix("ExecutionProvider")
        return f"ONNX Runtime {version()} ({provider}) on {self.runtime}"

    # ------------------------------------------------------------ what it states

    @property
    def runtime(self) -> Runtime:
        """See `Engine`."""
        return Runtime(self.device, "float32", self.index if self.device == "cuda" else 0)

    @property
    def is_in_main_memory(self) -> bool:
        """See `Engine`."""
        return is_main_memory(self.device, self.runtime.index)

    @property
    def bytes_per_pixel(self) -> int:
        """See `Engine`."""
        picture = 4 * 3 * self.config.scale**2
        return 4 * self.config.in_channels + picture + _MAPS * self.config.width

    @property
    def fixed_bytes(self) -> int:
        """See `Engine`: a session's weights, and the library's own at its first run."""
        run = _RUN_BYTES + round(_RUN_SHARE * self._weight_bytes)
        sessions = self._sessions.most * self._session_bytes
        return sessions + _LIBRARY_BYTES + run - self.held_bytes

    @property
    def held_bytes(self) -> int:
        """See `Engine`."""
        library = _LIBRARY_BYTES if _HAS_RUN.is_set() else 0
        return library + len(self._sessions.parts) * self._session_bytes

    @property
    def _session_bytes(self) -> int:
        return round(_SESSION_SHARE * self._weight_bytes)

    # ------------------------------------------------------------ what it computes

    def run(self, planes: NDArray[np.float32], meter: Meter) -> NDArray[np.float32]:
        """See `Engine`; `meter` receives only the end."""
        picture = self._infer("whole", _sides(planes), planes=planes)
        meter(1.0)
        return picture

    def measure(
        self, features: NDArray[np.float32], terms: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._infer("measure", _sides(features), planes=features)

    def global_term(self, index: int, mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._infer("term", None, mean=mean.astype(np.float32).reshape(-1, 1, 1))

    def render(
        self, features: NDArray[np.float32], terms: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """See `Engine`."""
        inputs = dict(zip(("term",), terms, strict=False))
        return self._infer("render", _sides(features), planes=features, **inputs)

    # ------------------------------------------------------------ when it fails

    def release(self) -> None:
        """See `Engine`."""
        self._sessions.clear()

    def end_photo(self) -> None:
        """See `Engine`; sessions stay, which keep no intermediate results."""

    def on_cpu(self) -> OnnxEngine | None:
        """See `Engine`."""
        return None if self.device == "cpu" else OnnxEngine(self._graph, ["cpu"])

    # ------------------------------------------------------------ inside

    def _start(self, devices: Sequence[DeviceKind], progress: Progress) -> None:
        """Find the first device that works, before the first photo is computed."""
        failed = ""
        for self.device in devices:
            self._sessions = Compiled.on("cpu" if self._is_open else self.device)
            if failed:
                progress.note(f"{failed}; continuing on {self.device}.")
            try:
                self._open("whole", SAMPLE_SIDES)  # what the self-check wants, compiled once
                return
            except WeightsMismatchError:
                raise
            except Exception as error:  # ONNX Runtime's have no common class
                words = first_line(error)
                failed = f"ONNX Runtime cannot compute on {self.device} ({words})"
        raise DeviceError(f"{failed}.", hint="Use --engine torch.")

    def _open(self, part: str, sides: Sides) -> Any:
        """Return a session for a part and a size."""
        if self._is_open:
            sides = None
        return self._sessions.get(part, sides, partial(self._open_anew, part, sides))

    @property
    def _is_open(self) -> bool:
        """Whether a session takes any size."""
        return self.device not in _FIXED_SIZES

    def _open_anew(self, part: str, sides: Sides) -> Any:
        build = getattr(self._graph, part)
        model = (build() if part == "term" else build(sides)).SerializeToString()
        if part == "whole":
            self._weight_bytes = len(model)
        return new_session(model, self.device, self.index)

    def _infer(self, part: str, sides: Sides, **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a part of the graph; arrays are (C, H, W) on both sides."""
        session = self._open(part, sides)
        feed = {name: np.ascontiguousarray(array[None]) for name, array in inputs.items()}
        shrinks = f"gpu:{self.index}" if self.device == "cuda" else ""
        result: NDArray[np.float32] = run_session(session, feed, shrinks)[0]
        _HAS_RUN.set()
        return require_finite(result)


def load_graph(info: WeightsInfo) -> UNetOnnx:
    """Load verified weights as a graph; errors as `load_network`, and for int8 weights."""
    if info.quantized_from is not None:
        raise WeightsMismatchError(
            f"The weights '{info.name}' are int8, which only OpenVINO runs.",
            hint=f"Use {info.quantized_from.name}.",
        )
    config = info.config
    if config.network not in LAYOUTS:
        raise DeviceError(f"{config.network} has no ONNX graph.", hint="Use a U-Net's weights.")
    origin = f"{info.path} does not fit {config.network} ({config.cfa})"
    return UNetOnnx(config, NamedArrays(load_arrays(info), origin))


def new_session(model: bytes, device: DeviceKind = "cpu", index: int = 0) -> Any:
    """Open a model on a device; of several cards of CUDA, on number `index`.

    Raises
    ------
    RuntimeError
        The device's provider does not start: ONNX Runtime itself would go on with the CPU's.
    Exception
        What else ONNX Runtime raises; its errors have no common class.
    """
    ort.disable_telemetry_events()  # which only Windows' builds have
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = available_cores()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _ERRORS_ONLY
    # Memory goes back after each photo, and threads that wait keep no core busy.
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Otherwise a provider that fails is replaced by the CPU's, with a word on stdout at most.
    session = ort.InferenceSession(
        model,
        settings,
        providers=[(PROVIDERS[device], _options(device, index, settings))],
        enable_fallback=0,
    )
    if session.get_providers()[0] != PROVIDERS[device]:
        raise RuntimeError(f"{PROVIDERS[device]} did not start")
    return session


def _options(device: DeviceKind, index: int, settings: ort.SessionOptions) -> dict[str, str]:
    """Say what a device's provider is to heed, in its options and in the session's settings."""
    if device == "coreml":  # the default is its older format, which may compute in fp16
        return {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"}
    if device != "cuda":
        return {}
    _load_cuda()
    # What runs leave behind can go back only where the weights lie elsewhere.
    settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return {
        "device_id": str(index),
        "use_tf32": "0",  # fp32 stays fp32
        # Each size of a tile would be tried out at length, and memory taken in powers of two.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }


def _load_cuda() -> None:
    """Load CUDA's libraries from pip's packages, where torch has not: nothing else finds them."""
    load = getattr(ort, "preload_dlls", None)  # not in older ones
    with _ONE_LOADS:
        if load is None or _HAS_LOADED.is_set():
            return
        # It prints what it does not find, among paths or JSON; the session says what it lacks.
        ort.print = lambda *_, **__: None
        try:
            load()
        finally:
            del ort.print
        _HAS_LOADED.set()


def run_session(
    session: Any, feed: dict[str, NDArray[np.float32]], shrinks: str = ""
) -> NDArray[np.float32]:
    """Run a session in a thread of its own, so that Ctrl-C ends it; the first output.

    Parameters
    ----------
    session : InferenceSession
    feed : dict
        Its inputs by name.
    shrinks : str
        Whose memory to give back afterwards, such as "gpu:0".

    Raises
    ------
    RuntimeError
        Whatever ONNX Runtime raises, whose own errors are no RuntimeErrors.
    """
    settings = ort.RunOptions()
    settings.log_severity_level = _ERRORS_ONLY
    if shrinks:
        settings.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinks)
    with ThreadPoolExecutor(1) as pool:
        try:  # Ctrl-C may come as soon as it has started
            running = pool.submit(session.run, None, feed, settings)
            while True:
                try:
                    result: NDArray[np.float32] = running.result(_WAIT_SECONDS)[0]
                    return result
                except NotYet:
                    pass
        except KeyboardInterrupt:
            settings.terminate = True  # leaving the pool waits for it
            raise
        except Exception as error:
            raise RuntimeError(str(error) or type(error).__name__) from error


def _sides(planes: NDArray[np.float32]) -> tuple[int, int]:
    return planes.shape[1], planes.shape[2]
