"""Networks on torch: CPU, CUDA and MPS, in fp32 or half precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gia_cli.inference.engine import Meter, NotFiniteError
from gia_cli.inference.staging import CudaQueue, Staging
from gia_cli.nets.base import Network
from gia_cli.nets.blocks import TALL_BAND_AREA
from gia_cli.nets.config import NetConfig
from gia_cli.runtime import (
    DeviceKind,
    Runtime,
    exact_fp32,
    is_main_memory,
    is_oom_error,
    release_gpu_memory,
)
from gia_cli.weights.storage import WeightsInfo, load_network

# What networks state their memory for, and what a picture is made in.
_BYTES_FP32 = 4
# What a band holds elsewhere than on a CPU, for each pixel: so many numbers for each channel of the
# network's width, its input in fp32 where the rest is half precision, and its piece of the picture
# on the way through the last layer. Measured with tensors that hold nothing ("meta"), over all
# networks and frames of 0.5 to 15 million packed pixels: 3.4 numbers at most.
_BAND_NUMBERS, _BAND_PICTURES = 3.5, 3
# What torch and oneDNN take on the CPU, whatever the size. Measured: 13 to 21 MB once they have run
# (code, kernels made for it, threads), and up to 15 MB while they do (reordered weights).
_LIBRARY_BYTES, _LIBRARY_KEEPS = 40_000_000, 15_000_000
# Metal ends the process over a larger array.
_MPS_ARRAY_BYTES = 2**32 - 1
# Set once a network has run on the CPU of this process.
_HAS_RUN = Event()


class TorchEngine:
    """An `Engine` on torch.

    Parameters
    ----------
    network : Network
        On any device; it stays as it is, but for its memory format. A copy runs elsewhere or in
        another number format.
    runtime : Runtime
    """

    split = None  # large frames take tiles of the whole network

    def __init__(self, network: Network, runtime: Runtime) -> None:
        self._network = network
        self._runtime = runtime
        self._running: Network | None = None
        self._staging: Staging | None = None
        self._has_worked = False

    @classmethod
    def load(cls, info: WeightsInfo, runtime: Runtime) -> TorchEngine:
        """Load verified weights; errors as `load_network`."""
        return cls(load_network(info), runtime)

    def __str__(self) -> str:
        return f"torch on {self._runtime}"

    # ------------------------------------------------------------ what it states

    @property
    def config(self) -> NetConfig:
        """See `Engine`."""
        return self._network.config

    @property
    def device(self) -> DeviceKind:
        """See `Engine`."""
        return self._runtime.device

    @property
    def runtime(self) -> Runtime:
        """See `Engine`."""
        return self._runtime

    @property
    def is_in_main_memory(self) -> bool:
        """See `Engine`."""
        return is_main_memory(self.device, self._runtime.index)

    @property
    def stride(self) -> int:
        """See `Engine`."""
        return self._network.stride

    @property
    def halo(self) -> int:
        """See `Engine`."""
        return self._network.halo

    @property
    def vector_halos(self) -> tuple[int, ...]:
        """See `Engine`."""
        return self._network.vector_halos

    @property
    def bytes_per_pixel(self) -> float:
        """See `Engine`; fp32 peaks scale with the number format, but for the picture's part."""
        features = self._network.bytes_per_pixel - self._picture_bytes
        share = self._runtime.number_bytes / _BYTES_FP32
        return features * share + self._picture_bytes * max(share, 1)

    @property
    def _picture_bytes(self) -> int:
        """Bytes of the picture in fp32 for each packed pixel."""
        return _BYTES_FP32 * 3 * self.config.scale**2

    @property
    def fixed_bytes(self) -> int:
        """See `Engine`: on a CPU the libraries', elsewhere that of tall bands.

        What a GPU's libraries take of main memory is not planned.
        """
        if self.device == "cpu":
            return _LIBRARY_BYTES - self.held_bytes
        numbers = _BAND_NUMBERS * self._runtime.number_bytes + _BYTES_FP32
        band = numbers * self.config.width + _BAND_PICTURES * self._picture_bytes
        return round(TALL_BAND_AREA * band)

    @property
    def held_bytes(self) -> int:
        """See `Engine`."""
        return _LIBRARY_KEEPS if self.device == "cpu" and _HAS_RUN.is_set() else 0

    @property
    def most_pixels(self) -> int | None:
        """See `Engine`; of the map that has most numbers, the first level's."""
        if self.device != "mps":
            return None
        return _MPS_ARRAY_BYTES // (self.config.width * self._runtime.number_bytes)

    # ------------------------------------------------------------ what it computes

    def run(self, planes: NDArray[np.float32], meter: Meter) -> NDArray[np.float32]:
        """See `Engine`."""
        with self._ready() as network, _metered(network, planes.shape[1], meter):
            return self._to_host(network.finish(network.encode(self._to_device(planes))))

    def encode(self, planes: NDArray[np.float32]) -> list[Tensor]:
        """See `Engine`."""
        with self._ready() as network:
            return network.encode(self._to_device(planes))

    def measure(self, features: list[Tensor], terms: Sequence[Tensor]) -> NDArray[np.float32]:
        """See `Engine`."""
        with self._ready() as network:
            return self._to_host(network.measure(features, terms))

    def global_term(self, index: int, mean: NDArray[np.float64]) -> Tensor:
        """See `Engine`."""
        with self._ready() as network:
            wide = torch.from_numpy(mean)[None]
            dtype = _dtype(self._runtime)
            # Rounded on the host: MPS has no doubles.
            return network.global_term(index, wide.to(dtype).to(self._runtime.torch_device))

    def render(self, features: list[Tensor], terms: Sequence[Tensor]) -> NDArray[np.float32]:
        """See `Engine`."""
        with self._ready() as network:
            return self._to_host(network.render(features, terms))

    # ------------------------------------------------------------ when it fails

    def is_out_of_memory(self, error: BaseException) -> bool:
        """See `Engine`. The CPU's allocator, MPS and oneDNN raise a bare RuntimeError."""
        return is_oom_error(error, has_worked=self._has_worked)

    def release(self) -> None:
        """See `Engine`."""
        release_gpu_memory(self.device)

    def abandon(self) -> None:
        """See `Engine`."""
        if self._staging is not None:
            self._staging.abandon()

    def end_photo(self) -> None:
        """See `Engine`; torch's cache on a GPU stays, for the next photo wants it again."""

    def in_fp32(self) -> TorchEngine | None:
        """See `Engine`."""
        if self._runtime.dtype not in ("float16", "bfloat16"):
            return None
        return TorchEngine(self._network, replace(self._runtime, dtype="float32"))

    def on_cpu(self) -> TorchEngine | None:
        """See `Engine`."""
        if self.device == "cpu":
            return None
        return TorchEngine(self._network, Runtime("cpu", "float32"))

    # ------------------------------------------------------------ inside

    @contextmanager
    def _ready(self) -> Iterator[Network]:
        """Lend the network, where and as it is to run."""
        if self._running is None:
            self._running = _brought_to(self._network, self._runtime)
            self._staging = _staging_for(self._runtime)
        with torch.inference_mode(), _true_fp32(self._runtime):
            yield self._running
        self._has_worked = True
        if self.device == "cpu":
            _HAS_RUN.set()

    def _to_device(self, planes: NDArray[np.float32]) -> Tensor:
        if self._staging is not None:
            target = torch.empty(
                (1, *planes.shape),
                dtype=_dtype(self._runtime),
                device=self._runtime.torch_device,
                memory_format=torch.channels_last,
            )
            self._staging.upload(planes, target)
            return target
        tensor = torch.from_numpy(np.ascontiguousarray(planes))[None]
        tensor = tensor.to(self._runtime.torch_device, _dtype(self._runtime))
        return tensor.to(memory_format=torch.channels_last)

    def _to_host(self, tensor: Tensor) -> NDArray[np.float32]:
        return _to_host(tensor, self._staging)


def _staging_for(runtime: Runtime) -> Staging | None:
    """Make what copies to a card and back; None where copies are direct, or memory is short."""
    if runtime.device != "cuda":
        return None
    try:
        return Staging(CudaQueue(runtime.torch_device))
    except RuntimeError:  # pinned memory is limited on some systems; the card may be fine
        return None


def _dtype(runtime: Runtime) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, runtime.dtype)
    return dtype


def _to_host(tensor: Tensor, staging: Staging | None = None) -> NDArray[np.float32]:
    """Bring a result to main memory, checked on its device; see `require_finite`."""
    if not torch.isfinite(tensor.sum(dtype=torch.float32)).item():
        raise NotFiniteError
    if staging is not None:
        return staging.download(tensor)
    array: NDArray[np.float32] = tensor[0].to("cpu", torch.float32).numpy()
    return array


def _brought_to(network: Network, runtime: Runtime) -> Network:
    """Bring a network to a device and number format, without rounding the caller's weights."""
    weight = next(network.parameters())
    there = weight.device.type, weight.device.index or 0, weight.dtype
    if there != (runtime.device, runtime.index, _dtype(runtime)):
        network = copy.deepcopy(network).to(runtime.torch_device, _dtype(runtime))
    # Channels last: 1.3 times faster on CPUs, and what tensor cores want.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _true_fp32(runtime: Runtime) -> AbstractContextManager[None]:
    is_concerned = runtime.device == "cuda" and runtime.dtype == "float32"
    return exact_fp32() if is_concerned else nullcontext()


@contextmanager
def _metered(network: Network, height: int, meter: Meter) -> Iterator[None]:
    """Report a whole frame's way through the network in proportion to its work.

    The network's stages are counted by the rows they return, so that a band moves the bar too. The
    work of one is its number of parameters for each pixel that it returns.
    """
    work = {
        module: (sum(p.numel() for p in module.parameters()) / cell**2, height // cell)
        for module, cell in network.stages
    }
    total = sum(weight for weight, _ in work.values())
    done = dict.fromkeys(work, 0.0)

    def count(module: nn.Module, _: object, result: Tensor) -> None:
        weight, rows = work[module]
        # Bands overlap, so a stage's rows add up to a little more than it has.
        done[module] = min(done[module] + weight * result.shape[2] / rows, weight)
        meter(sum(done.values()) / total)

    hooks = [module.register_forward_hook(count) for module in work]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
