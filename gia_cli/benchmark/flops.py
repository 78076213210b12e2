"""What a network costs on paper: parameters and FLOPs (the paper's Table 4).

FLOPs come in two conventions. torch's counts 2 for each multiply-accumulate and nothing else. The
paper's numbers are the TensorFlow-1 profiler's (`Tf1Counter`), reproduced to the last digit for
SID-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gia_cli.errors import UsageError
from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS
from gia_cli.nets.unet import GiaModule, UNet
from gia_cli.paper import PAPER_SIZE
from gia_cli.raw.cfa import PACK_FACTOR, PLANE_COLORS, CfaKind
from gia_cli.tiling import round_up

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network costs on paper."""

    network: str
    cfa: CfaKind
    size: tuple[int, int]
    """Height and width in photosites."""
    parameters: int
    """As the paper counts: without biases in the transposed convolutions."""
    tf1_flops: int
    """By the rules of the TensorFlow-1 profiler; see `Tf1Counter`."""
    torch_flops: int
    """2 for each multiply-accumulate."""


def measure_cost(name: str, size: tuple[int, int] = PAPER_SIZE, cfa: CfaKind = "bayer") -> Cost:
    """Count a network's parameters and FLOPs for a frame; nothing is computed.

    Parameters
    ----------
    name : str
        Of `nets.config.NETWORKS`.
    size : (height, width)
        Photosites. Odd packed sides are pooled up in the U-Nets, as the published code does, and
        rounded up to the stride in the other networks.
    cfa : "bayer" or "xtrans"

    Raises
    ------
    UsageError
        No such network, or a size of less than a packed pixel.
    """
    if name not in NETWORKS:
        raise UsageError(f"There is no network '{name}' ({', '.join(NETWORKS)}).")
    factor = PACK_FACTOR[cfa]
    height, width = (side // factor for side in size)
    if min(height, width) < 1:
        raise UsageError(f"{size[1]}x{size[0]} is not a size of a photo.")
    network = build(replace(NETWORKS[name], cfa=cfa, upsample_bias=False)).eval().to("meta")
    if not isinstance(network, UNet):
        height, width = (round_up(side, network.stride) for side in (height, width))
    planes = torch.empty(1, len(PLANE_COLORS[cfa]), height, width, device="meta")
    with Tf1Counter() as tf1, _as_published(network, tf1):
        network(planes)
    with FlopCounterMode(display=False) as counter, _as_published(network):
        network(planes)
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    return Cost(
        network=name,
        cfa=cfa,
        size=size,
        parameters=sum(p.numel() for p in network.parameters()),
        tf1_flops=tf1.flops + _TF1_INIT * weights,
        torch_flops=counter.get_total_flops(),
    )


_TF1_INIT = 2  # a weight's random initialisation is in the graph too: scale and shift


class Tf1Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count FLOPs as TensorFlow 1's profiler does, which the paper's Table 4 was made with.

    2 for each multiply-accumulate of a convolution (of a transposed one for each output pixel and
    tap that reaches it), 1 for an output's bias, 2 for a leaky ReLU (a product and a maximum), the
    number of inputs for a pooled value, 1 for any other arithmetic on an element. Moving data costs
    nothing.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and add what it costs."""
        result = func(*args, **(kwargs or {}))
        self.flops += _tf1_flops(func, args, result)
        return result


def _tf1_flops(func: Any, args: tuple[Any, ...], result: Any) -> int:
    name = func.overloadpacket
    if name is aten.convolution:
        return _convolution_flops(args, result)
    if name in (aten.leaky_relu, aten.leaky_relu_):
        return 2 * int(result.numel())
    if name is aten.max_pool2d_with_indices:
        return int(np.prod(args[1]) * result[0].numel())
    if name is aten.mean:
        return int(args[0].numel())
    if name in (aten.native_batch_norm, aten._native_batch_norm_legit_no_training):
        return 2 * int(result[0].numel())
    if name in _ELEMENTWISE:
        return int(result.numel())
    return 0


_ELEMENTWISE = frozenset(
    getattr(aten, name + end)
    for name in ("relu", "sigmoid", "add", "sub", "mul", "div")
    for end in ("", "_")
)


def _convolution_flops(args: tuple[Any, ...], result: Tensor) -> int:
    source, weight, bias, stride, *_ = args
    transposed, groups = args[6], args[8]
    taps = int(np.prod(weight.shape[2:]))
    if transposed:  # stride 2, 2x2: one tap reaches each output
        taps //= int(np.prod(stride))
    macs = result.numel() * source.shape[1] // groups * taps
    return int(2 * macs + (0 if bias is None else result.numel()))


@contextmanager
def _as_published(network: nn.Module, tf1: Tf1Counter | None = None) -> Iterator[None]:
    """Let a U-Net run on any size, with the published code's rounding; others stay as they are.

    TensorFlow's SAME pooling rounds odd sides up, and the decoder's maps are cropped to the skip's
    size; ours asks for multiples of its stride instead. And where our module adds the vector as a
    bias, the paper's convolves a map that it is spread over.
    """
    if not isinstance(network, UNet):
        yield
        return
    stride = network.stride
    network.stride = 1
    hooks = [
        module.register_forward_hook(_count_spread_vector(tf1))
        for module in network.modules()
        if tf1 is not None and isinstance(module, GiaModule)
    ]
    try:
        with _PublishedSizes(tf1):
            yield
    finally:
        network.stride = stride
        for hook in hooks:
            hook.remove()


class _PublishedSizes(TorchFunctionMode):
    def __init__(self, tf1: Tf1Counter | None) -> None:
        super().__init__()
        self._tf1 = tf1

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.max_pool2d:
            kwargs = {**kwargs, "ceil_mode": True}
        if func is torch.cat:
            args = (self._cut(args[0]), *args[1:])
        return func(*args, **kwargs)

    def _cut(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Cut what was sampled up to the smallest of the maps; what is cut off was not computed."""
        height, width = (min(x.shape[axis] for x in tensors) for axis in (2, 3))
        for x in tensors:
            if self._tf1 is not None and x.shape[2:] != (height, width):
                # A transposed convolution from twice as many channels made it.
                dropped = x[:, :, 0, 0].numel() * (x.shape[2] * x.shape[3] - height * width)
                self._tf1.flops -= 2 * dropped * 2 * x.shape[1]
        return [x[:, :, :height, :width] for x in tensors]


def _count_spread_vector(tf1: Tf1Counter | None) -> Callable[..., None]:
    def count(module: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> None:
        assert tf1 is not None and isinstance(module, GiaModule)
        cells = args[0].shape[2] * args[0].shape[3]
        vector = module.shrink.out_channels
        tf1.flops += 2 * cells * vector * module.channels

    return count
