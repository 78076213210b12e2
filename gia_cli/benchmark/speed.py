"""What a network costs on this machine: time and memory.

Times are taken in child processes that take turns, so that a noisy machine is as noisy to one as to
the other, and each child's peak memory is its own.
"""

from __future__ import annotations

import multiprocessing
import platform
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from gia_cli._version import __version__
from gia_cli.benchmark.flops import Cost
from gia_cli.benchmark.frames import random_mosaic
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import GiaError, UsageError
from gia_cli.inference.engine import FP32_LEVELS, Engine
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.run import infer, pad_to_stride
from gia_cli.inference.select import obstacle_to_openvino, require_onnx
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.interrupts import deaf_children
from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.config import NETWORKS
from gia_cli.paper import PAPER_SIZE
from gia_cli.progress import SILENT, Progress, Silent
from gia_cli.raw.cfa import CfaKind
from gia_cli.raw.writer import A_SHOT, write_arw
from gia_cli.runtime import (
    DeviceName,
    NumberFormat,
    Precision,
    Runtime,
    exact_fp32,
    peak_resident_bytes,
    resolve,
)
from gia_cli.text import counted

if TYPE_CHECKING:
    from gia_cli.inference.openvino_engine import OpenVinoEngine

_PEAK_SIDE = 2048  # of the matrices whose product shows what the machine can do
_SMALL_SIDE, _PEAK_SECONDS = 256, 2.0
# What torch multiplies matrices in on a CPU, of what networks are run in there; int8 it does not.
_MULTIPLIED: dict[NumberFormat, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}
_TILE = 1024  # photosites; of the tiled variant
# 256 steps, one of them zero, and a leaky ReLU's share of them below it.
_MADE_UP_RANGE = (-42 / 213, 1.0)


# ---------------------------------------------------------------- time and memory

How = Literal[
    "eager NCHW, whole",
    "whole",
    "tiled",
    "OpenVINO, whole",
    "OpenVINO, in parts",
    "OpenVINO, tiled",
    "ONNX Runtime, whole",
    "ONNX Runtime, tiled",
]


@dataclass(frozen=True, slots=True)
class SpeedConfig:
    """What to time."""

    networks: tuple[str, ...] = ("sid-net", "gia-net")
    size: tuple[int, int] = PAPER_SIZE
    cfa: CfaKind = "bayer"
    how: tuple[How, ...] = get_args(How)
    """What OpenVINO or ONNX Runtime cannot run is left out, and the latter where it is missing."""
    device: DeviceName = "auto"
    precisions: tuple[Precision, ...] = ("auto",)
    rounds: int = 3

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be timed."""
        if self.rounds < 1:
            raise UsageError(f"--rounds must be positive, not {self.rounds}.")
        for name in self.networks:
            if name not in NETWORKS:
                raise UsageError(f"There is no network '{name}' ({', '.join(NETWORKS)}).")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run one network."""

    network: str
    how: How
    size: tuple[int, int]
    cfa: CfaKind
    device: DeviceName
    precision: Precision

    @property
    def runtime(self) -> Runtime:
        """Where and in which numbers it runs; int8 weights have other layers beside."""
        return resolve(self.device, self.precision)


@dataclass(frozen=True, slots=True)
class Speed:
    """How a variant did."""

    variant: Variant
    seconds: list[float] = field(repr=False)
    """Of each round, burn-in excluded."""
    peak_bytes: int
    """Peak memory of the process: resident on a CPU, allocated on a GPU."""
    runtime: str
    """Device and number format, in words: "cpu, int8 with bfloat16"."""
    error: str | None = None

    @property
    def median(self) -> float:
        """Median seconds; NaN if it failed."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """All variants, and what the machine can do."""

    machine: str
    peak_flops: dict[NumberFormat, float]
    """FLOP/s of a large matrix product on the CPU, by number format, median over the rounds: fp32,
    and those of the variants that torch multiplies in."""
    speeds: list[Speed]


def measure_speed(config: SpeedConfig, progress: Progress = SILENT) -> SpeedReport:
    """Time networks on one frame: a round of burn-in, then rounds in which all take turns.

    Parameters
    ----------
    config : SpeedConfig
    progress : Progress
        Receives a stage "timing", with a step for each run.
    """
    speeds: list[Speed] = []
    peaks: dict[NumberFormat, list[float]] = {}
    variants = [_variants(config, name) for name in config.networks]
    progress.stage("timing", (config.rounds + 1) * sum(map(len, variants)))
    for alike in variants:  # the ways of one network take turns; each process takes memory
        speeds += _take_turns(alike, config.rounds, peaks, progress)
    medians = {numbers: statistics.median(found) for numbers, found in peaks.items()}
    return SpeedReport(machine_name(), medians, speeds)


def _variants(config: SpeedConfig, network: str) -> list[Variant]:
    """List the ways to run a network.

    The public ports' way, which all are compared with, is fp32 whatever was asked for.
    """
    found = []
    for how in config.how:
        precisions: tuple[Precision, ...] = config.precisions
        if how == "eager NCHW, whole":
            precisions = ("fp32",)
        found += [
            Variant(network, how, config.size, config.cfa, config.device, precision)
            for precision in precisions
        ]
    return [variant for variant in found if _can_run(variant)]


def _take_turns(
    variants: list[Variant],
    rounds: int,
    peaks: dict[NumberFormat, list[float]],
    progress: Progress,
) -> list[Speed]:
    on_cpu = {variant.runtime.dtype for variant in variants if variant.runtime.device == "cpu"}
    formats = [numbers for numbers in _MULTIPLIED if numbers in {"float32", *on_cpu}]
    children = [_Child(variant) for variant in variants]
    try:
        for turn in range(rounds + 1):
            for child in children:
                progress.status(f"{child.variant.network}, {child.variant.how}")
                child.run(keep=turn > 0)
                progress.advance()
            for numbers in formats:
                peaks.setdefault(numbers, []).append(_matrix_product_flops(numbers))
        return [child.finish() for child in children]
    finally:
        for child in children:
            child.stop()


def _can_run(variant: Variant) -> bool:
    runtime = variant.runtime
    config = NETWORKS[variant.network]
    if variant.how.startswith("OpenVINO"):
        return obstacle_to_openvino(runtime, config) is None
    if variant.how.startswith("ONNX"):
        try:
            require_onnx(runtime, config)
        except GiaError:
            return False
        return True
    return variant.precision != "int8"


class _Child:
    """A process that runs one variant on request; only one of them works at a time."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self._seconds: list[float] = []
        self._error: str | None = None
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, variant), daemon=True)
        with deaf_children():
            self._process.start()
        theirs.close()

    def run(self, *, keep: bool) -> None:
        """Have it run once."""
        answer = self._ask("run")
        if keep and isinstance(answer, float):
            self._seconds.append(answer)

    def finish(self) -> Speed:
        """Ask for its peak memory, and sum up."""
        answer = self._ask("finish")
        peak, runtime = answer if isinstance(answer, tuple) else (0, "")
        return Speed(self.variant, self._seconds, peak, runtime, self._error)

    def _ask(self, what: str) -> Any:
        if self._error is not None:
            return None
        try:
            self._pipe.send(what)
            answer = self._pipe.recv()
        except (EOFError, OSError):  # killed, as for want of memory
            answer = "its process has died"
        if isinstance(answer, str):
            self._error = answer
        return answer

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, variant: Variant) -> None:
    """Answer a child's orders: seconds for "run", memory for "finish", words for a failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends us
    try:
        run, finish = _prepare(variant)
        while True:
            pipe.send(run() if pipe.recv() == "run" else finish())
    except EOFError:
        return
    except (GiaError, RuntimeError, MemoryError) as error:
        pipe.send(str(error) or type(error).__name__)


def _prepare(variant: Variant) -> tuple[Callable[[], float], Callable[[], tuple[int, str]]]:
    """Build a variant's network and frame; return what runs it and what reports its memory."""
    runtime = variant.runtime
    torch.manual_seed(0)
    network = build(replace(NETWORKS[variant.network], cfa=variant.cfa)).eval()
    mosaic = random_mosaic(variant.size, variant.cfa)
    options, label = _cut(variant), str(runtime)
    engine: Engine
    if variant.how.startswith("OpenVINO"):
        engine = openvino = _openvino_engine(network, variant.precision)
        label = f"{runtime.place}, {openvino.numbers}"
        del network
    elif variant.how.startswith("ONNX"):
        engine = _onnx_engine(network, runtime)
        del network
    else:
        engine = TorchEngine(network, runtime)

    def compute() -> None:
        if variant.how == "eager NCHW, whole":
            _run_eagerly(network, mosaic.planes, torch.device(runtime.torch_device))
        else:
            infer(engine, mosaic, options, _Strict())

    def run() -> float:
        if runtime.device == "cuda":
            compute()  # takes the card's memory, which photo after photo is taken only once
        start = time.perf_counter()
        compute()
        seconds = time.perf_counter() - start
        if runtime.device == "cuda":
            torch.cuda.empty_cache()  # the next process needs the room
        return seconds

    def finish() -> tuple[int, str]:
        if runtime.device == "cuda":  # 0 for ONNX Runtime, which does not tell
            return torch.cuda.max_memory_allocated(runtime.index), label
        return peak_resident_bytes(), label

    return run, finish


def _cut(variant: Variant) -> InferOptions:
    if variant.how.endswith("in parts"):
        return InferOptions(in_parts=True)
    return InferOptions(tile=_TILE if variant.how.endswith("tiled") else max(variant.size))


def _openvino_engine(network: Network, precision: Precision) -> OpenVinoEngine:
    from gia_cli.inference.openvino_engine import OpenVinoEngine

    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    if precision == "int8":
        arrays = _in_int8(arrays)
    in_bf16 = precision == "bf16" or None
    return OpenVinoEngine(network.config, arrays, network.config.network, in_bf16=in_bf16)


def _onnx_engine(network: Network, runtime: Runtime) -> Engine:
    from gia_cli.inference.named_arrays import NamedArrays
    from gia_cli.inference.onnx_engine import OnnxEngine
    from gia_cli.inference.onnx_graph import UNetOnnx

    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    weights = NamedArrays(arrays, network.config.network)
    graph = UNetOnnx(network.config, weights)
    return OnnxEngine(graph, [runtime.device], index=runtime.index)


def _in_int8(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Round untrained weights as `gia weights quantize` does; see `openvino_graph`.

    All layers get one range: the pictures are as meaningless as before, the time is the same.
    """
    from gia_cli.inference.openvino_graph import fp32_layers, is_within

    kept = fp32_layers(FP32_LEVELS)
    rounded = dict(arrays)
    for name, weight in arrays.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or is_within(layer, kept):
            continue
        if layer.startswith("upsample."):  # (in, out, 2, 2): a plain one to four sub-pixels each
            weight = weight.transpose(1, 2, 3, 0).reshape(-1, len(weight), 1, 1)
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        rounded[name] = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
        rounded[f"{layer}.scale"] = scale.astype(np.float32)
        rounded[f"{layer}.ranges"] = np.array(_MADE_UP_RANGE, np.float32)
    return rounded


class _Strict(Silent):
    """Takes a retreat, of which `infer` merely notes, for a failure: another way would be timed."""

    def note(self, message: str) -> None:
        """Refuse to continue."""
        raise RuntimeError(message)


def _run_eagerly(network: Network, planes: Any, device: torch.device) -> None:
    """Run as the public ports do: the whole frame at once, NCHW, fp32, gradients merely off."""
    network.to(device)
    x = torch.from_numpy(pad_to_stride(planes, network.stride))
    with torch.no_grad(), _without_bands(), exact_fp32():
        network(x[None].to(device)).cpu()


@contextmanager
def _without_bands() -> Iterator[None]:
    """Let stages run on the whole frame."""
    from gia_cli.nets import blocks

    band_rows = blocks._band_rows
    blocks._band_rows = lambda x: 1 << 30
    try:
        yield
    finally:
        blocks._band_rows = band_rows


def _matrix_product_flops(numbers: NumberFormat) -> float:
    """FLOP/s of one large matrix product in a number format, the best of three in a row.

    Of a small one where a large one would take seconds: in bf16 on a CPU that only imitates it.
    """
    found = _product_flops(numbers, _SMALL_SIDE)
    is_slow = 2 * _PEAK_SIDE**3 / found > _PEAK_SECONDS
    return found if is_slow else _product_flops(numbers, _PEAK_SIDE)


def _product_flops(numbers: NumberFormat, side: int) -> float:
    a, b = (torch.rand(side, side).to(_MULTIPLIED[numbers]) for _ in range(2))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return float(2 * side**3 / min(times))


def machine_name() -> str:
    """Name the processor, how many threads torch uses, and the versions that matter."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    threads = counted(torch.get_num_threads(), "thread")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {threads}{gpu}; torch {torch.__version__}, gia {__version__}"


# ---------------------------------------------------------------- the stages of a photo


@dataclass(frozen=True, slots=True)
class Stages:
    """How long the stages of a photo took."""

    weights: str
    """Name of those that the network ran with."""
    seconds: dict[str, float]
    """Medians of "decode", "exposure", "pack", "network", "colour" and "write"."""


def measure_stages(
    photo: Path | None,
    enhancer: Enhancer,
    *,
    rounds: int = 3,
    progress: Progress = SILENT,
) -> Stages:
    """Time each stage from a RAW file to the TIFF, the first round left out.

    Parameters
    ----------
    photo : Path or None
        None: a 12-megapixel photo, made and removed again.
    enhancer : Enhancer
    rounds : int
    progress : Progress

    Returns
    -------
    Stages
    """
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = photo or _large_photo(Path(folder))
        progress.stage("stages", rounds + 1)
        for turn in range(rounds + 1):
            result = enhancer.enhance(source, ratio=100)
            start = time.perf_counter()
            result.save(Path(folder) / "out.tif")
            times = {**result.seconds, "write": time.perf_counter() - start}
            for name, seconds in times.items() if turn else ():
                found.setdefault(name, []).append(seconds)
            progress.advance()
    medians = {name: statistics.median(x) for name, x in found.items() if name != "load"}
    return Stages(result.weights.name, medians)


def _large_photo(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    mosaic = rng.normal(540, 8, PAPER_SIZE).clip(0, 16383).astype(np.uint16)
    path = folder / "night.ARW"
    write_arw(path, mosaic, shot=A_SHOT, wb=(2.0, 1.0, 2.4))
    return path


def bench_json(
    costs: Sequence[Cost], speed: SpeedReport | None, stages: Stages | None
) -> dict[str, Any]:
    """Turn all that was measured into what JSON can hold."""
    values: dict[str, Any] = {"gia": __version__, "costs": [asdict(cost) for cost in costs]}
    if speed is not None:
        values["machine"] = speed.machine
        values["peak_flops"] = speed.peak_flops
        values["speeds"] = [
            {**asdict(s), "median": s.median if s.seconds else None} for s in speed.speeds
        ]
    if stages is not None:
        values["stages"] = stages.seconds
        values["stages_weights"] = stages.weights
    return values
