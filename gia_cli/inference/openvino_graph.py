"""The U-Nets as OpenVINO graphs, built from named arrays with OpenVINO's own operators.

`layout` says what reads what; here is how OpenVINO computes it. The pictures are those of
`nets.unet` up to rounding; the tests hold them against each other.

A layer whose weight is int8 computes in int8. Beside ``NAME.weight`` it has ``NAME.scale``, what
one step of the weight is worth for each output channel, and ``NAME.ranges``, the least and greatest
number of the map that it reads, which is rounded to 256 steps between them. All other layers
compute in fp32 or, where that is asked for, in bf16; `FP32_LAYERS` stay in fp32 even then. OpenVINO
computes in int8 best in a form of its own, the integer form:

- maps that stand for their concatenation are really joined: their sum would be made in fp32;
- a transposed convolution is a plain one to the four sub-pixels of each cell, which are then
  shuffled into place; its int8 weight is that of the plain one, (4 * outputs, inputs, 1, 1).

A difference of 1e-7 before a rounding can become a whole step, which spreads; so with every level
in int8, or with any in bf16, tiles and parts make the whole frame's picture not up to 1e-6, but up
to less than the rounding itself loses against fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.inference.layout import Conv, Operators, Share, names_of
from gia_cli.inference.named_arrays import NamedArrays
from gia_cli.inference.openvino_core import fp32_convolution
from gia_cli.inference.quiet_openvino import openvino as ov
from gia_cli.inference.quiet_openvino import opset13 as ops
from gia_cli.nets.config import LEAKY_SLOPE, NetConfig
from gia_cli.tiling import round_up

# Nodes and outputs: the package's own types are too loose to say more.
Node = Any
Shape = Sequence[int]

#: Where a frame that is computed in parts is cut: the levels above are computed in tiles, this one
#: and all below for the whole frame at once.
SPLIT_LEVEL = 2
#: Layers that stay in fp32 beside others in int8 or bf16: the first, which reads the linear planes,
#: whose dark end 256 steps would destroy; the last, which writes the 16-bit picture; and the
#: vector's own, which cost nothing, so that the mean over tiles stays that of the whole frame.
FP32_LAYERS = ("encoder.0.0", "to_rgb", "gia.shrink", "gia.fuse", "se.squeeze", "se.excite")
_OPEN = -1
# Measured. In int8, GIA-Net takes 5 or 6 where all who read a map round it alike, as NNCF has it.
_MAPS_FP32, _MAPS_BF16, _MAPS_INT8 = 13, 7, 10
# Those with the largest maps, but for the first and the last, which are always in fp32.
_TOP_LAYERS = ("encoder.0.2", "upsample.3", "decoder.3.0", "decoder.3.2")
_STEPS = 256  # of what int8 layers read
_ZERO_TOLERANCE = 0.01  # of a step: what fp32 leaves of a range made for a step at zero


def fp32_layers(levels: int) -> tuple[str, ...]:
    """Name the layers that stay in fp32 where the first `levels` levels do, down and up."""
    outer = [name for level in range(levels) for name in names_of(level)]
    return (*FP32_LAYERS, *outer)


def is_within(name: str, layers: Collection[str]) -> bool:
    """Tell whether a layer is one of some layers, or a part of one."""
    return any(f"{name}.".startswith(f"{layer}.") for layer in layers)


class Weights(NamedArrays):
    """Named arrays of which some are int8."""

    def is_int8(self, name: str) -> bool:
        """Tell whether an array is there and of int8."""
        array = self.taken.get(name, self.untouched.get(name))
        return array is not None and array.dtype == np.int8

    def computes_in_int8(self, layer: str) -> bool:
        """Tell whether a layer, or the halves that a sibling splits it into, are int8."""
        halves = [f"{layer}.{half}.weight" for half in ("plain", "dilated")]
        return self.is_int8(f"{layer}.weight") or all(map(self.is_int8, halves))

    def kernel(self, layer: str, *shape: int) -> Kernel:
        """Return the weight of a plain convolution and, if it is int8, what belongs to it.

        Raises
        ------
        WeightsMismatchError
            As `take`; also scales that are not positive, and ranges without a step at zero, which
            is what the borders are padded with.
        """
        if not self.is_int8(f"{layer}.weight"):
            return Kernel(self.take(f"{layer}.weight", *shape))
        weight = self.take_as(f"{layer}.weight", shape, np.int8, np.int8)
        scale = self.take(f"{layer}.scale", shape[0])
        low, high = self.take(f"{layer}.ranges", 2)
        if not (scale > 0).all():
            raise self.mismatch(f"{layer}.scale holds a number that is not positive")
        if not low <= 0 <= high or low == high or not _has_zero_step(float(low), float(high)):
            raise self.mismatch(f"{layer}.ranges is no range with a step at zero")
        return Kernel(weight, scale, (low, high))


def _has_zero_step(low: float, high: float) -> bool:
    below = -low / (high - low) * (_STEPS - 1)
    return abs(below - round(below)) < _ZERO_TOLERANCE


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a convolution multiplies with, in fp32 or in int8."""

    weight: NDArray[Any]
    """(outputs, inputs, k, k) fp32 or int8"""
    scale: NDArray[np.float32] | None = None
    """(outputs,) of int8: what a step is worth."""
    ranges: tuple[np.float32, np.float32] | None = None
    """Of int8: least and greatest number of what is read."""

    def constant(self) -> Node:
        """Make the node to multiply with."""
        if self.scale is None:
            return _constant(self.weight)
        # The form that OpenVINO's int8 kernels are found by.
        steps = ops.convert(_constant(self.weight), np.float32)
        return ops.multiply(steps, _constant(self.scale.reshape(-1, 1, 1, 1)))


class UNetGraph(Operators[Node]):
    """A U-Net's graph: planes to picture, whole or in parts.

    Every node is (1, C, H, W) in fp32. Sides that are not given stay open.
    """

    def __init__(
        self,
        config: NetConfig,
        weights: Weights,
        *,
        integer_form: bool = False,
        in_bf16: bool = False,
    ) -> None:
        """Take weights.

        Parameters
        ----------
        config : NetConfig
            A network of `LAYOUTS`.
        weights : Weights
        integer_form : bool
            For layers in fp32, too; for quantization.
        in_bf16 : bool
            The model will be compiled for bf16.
        """
        super().__init__(config)
        self._integer_form = integer_form
        self._in_bf16 = in_bf16
        self._weights = weights
        is_int8 = all(map(weights.computes_in_int8, _TOP_LAYERS))
        otherwise = _MAPS_BF16 if in_bf16 else _MAPS_FP32
        #: Peak memory for each packed pixel, in bytes for each channel of the top level.
        self.maps_at_once = _MAPS_INT8 if is_int8 else otherwise

    @property
    def bytes_per_pixel(self) -> int:
        """Peak memory for one packed pixel, planes and picture included."""
        picture = 4 * 3 * self.config.scale**2
        return 4 * self.config.in_channels + picture + self.maps_at_once * self.config.width

    # ------------------------------------------------------------ the whole chain, and its parts

    def whole(self, height: int = _OPEN, width: int = _OPEN) -> ov.Model:
        """Build planes to picture, with every mean over what it is given.

        Raises
        ------
        WeightsMismatchError
            Weights are left over; see also `Weights.take`.
        """
        planes = self._planes(height, width)
        features = self.layout.encode(self, planes)
        term = self.layout.term_of(self, features[-1])
        model = ov.Model([self.layout.decode(self, features, term)], [planes], "whole")
        self._weights.check_all_used()
        return model

    @property
    def split_halo(self) -> int:
        """Context in packed pixels that a core aligned to the cells needs in `top` and `surface`.

        Two convolutions at each size in the decoder, and as many in the encoder down to the last
        skip.
        """
        one_way = 2 * self.layout.reach * sum(2**level for level in range(SPLIT_LEVEL))
        return round_up(2 * one_way, 2**SPLIT_LEVEL)

    @property
    def split_bytes(self) -> tuple[int, int]:
        """Memory for each packed pixel: of what `depth` returns, and the peak while it runs."""
        area = 4**SPLIT_LEVEL
        above, below = (4 * self.widths[level] // area for level in (SPLIT_LEVEL - 1, SPLIT_LEVEL))
        return below, above + below + self.maps_at_once * self.widths[SPLIT_LEVEL] // area

    def measure(self, height: int = _OPEN, width: int = _OPEN) -> ov.Model:
        """Build planes to the map that is averaged, (1, C, H / stride, W / stride)."""
        planes = self._planes(height, width)
        return ov.Model([self.layout.encode(self, planes)[-1]], [planes], "measure")

    def term(self) -> ov.Model:
        """Build mean to global term, (1, C, 1, 1) to the same."""
        mean = ops.parameter([1, self.widths[-1], 1, 1], np.float32, name="mean")
        return ov.Model([self.layout.term(self, mean)], [mean], "term")

    def render(self, height: int = _OPEN, width: int = _OPEN) -> ov.Model:
        """Build planes and, if there is a vector, global term to picture."""
        inputs = [self._planes(height, width)]
        if self.vector_halos:
            inputs.append(ops.parameter([1, self.widths[-1], 1, 1], np.float32, name="term"))
        features = self.layout.encode(self, inputs[0])
        picture = self.layout.decode(self, features, inputs[-1])
        return ov.Model([picture], inputs, "render")

    # ------------------------------------------------------------ the same in three parts

    def top(self, height: int, width: int) -> ov.Model:
        """Build planes to what the depth is made of, (1, C, h / cell, w / cell)."""
        planes = self._planes(height, width)
        shallow = self.layout.encode(self, planes, 0, SPLIT_LEVEL)[-1]
        return ov.Model([self.halve(shallow)], [planes], "top")

    def depth(self, height: int, width: int) -> ov.Model:
        """Build the frame's `top` to the decoder's map of the same size, every mean included."""
        below = ov.PartialShape([1, self.widths[SPLIT_LEVEL - 1], height, width])
        given = ops.parameter(below, np.float32, name="below")
        features = self.layout.encode(self, given, SPLIT_LEVEL)
        term = self.layout.term_of(self, features[-1])
        map_ = self.layout.bottleneck(self, features[-1], term)
        climbed = self.layout.climb(self, map_, features[:-1], SPLIT_LEVEL)
        return ov.Model([climbed], [given], "depth")

    def surface(self, height: int, width: int) -> ov.Model:
        """Build planes and the `depth` below them to the picture."""
        planes = self._planes(height, width)
        cell = 2**SPLIT_LEVEL
        below = ov.PartialShape([1, self.widths[SPLIT_LEVEL], height // cell, width // cell])
        given = ops.parameter(below, np.float32, name="depth")
        skips = self.layout.encode(self, planes, 0, SPLIT_LEVEL)
        top = self.layout.climb(self, given, skips, 0)
        return ov.Model([self.layout.picture(self, top)], [planes, given], "surface")

    def _planes(self, height: int, width: int) -> Node:
        shape = ov.PartialShape([1, self.config.in_channels, height, width])
        return ops.parameter(shape, np.float32, name="planes")

    # ------------------------------------------------------------ operators

    def convolve(self, conv: Conv, parts: Sequence[Node]) -> Node:
        """Convolve maps that stand for their concatenation.

        In fp32 each part has a convolution of its own, and the results are added: the same sum, but
        the joined map, the largest of all, is never made (a fifth less memory, 6 % faster).
        """
        name, dilation = conv.name, conv.dilation
        kernel = self._weights.kernel(name, conv.outputs, conv.inputs, conv.side, conv.side)
        bias = self._weights.take(f"{name}.bias", conv.outputs)
        if kernel.ranges is not None or self._integer_form:
            joined = _joined(parts, kernel, name)
            return _biased(self._convolved(joined, kernel, dilation, name=name), bias)
        first, *others = (
            self._convolved(part, Kernel(of_part), dilation, name=f"{name}/part {index}")
            for index, (part, of_part) in enumerate(
                zip(parts, np.split(kernel.weight, len(parts), axis=1), strict=True)
            )
        )
        total = _biased(first, bias)
        for other in others:
            total = ops.add(other, total)
        return total

    def convolve_share(self, conv: Conv, share: Share, x: Node) -> Node:
        """See `Operators`; in fp32."""
        shape = conv.outputs, conv.inputs, conv.side, conv.side
        weight = self._weights.take(f"{conv.name}.weight", *shape)[:, share.start : share.stop]
        made = self._convolved(x, Kernel(weight), name=f"{conv.name}/{share.name}")
        if not share.has_bias:
            return made
        return _biased(made, self._weights.take(f"{conv.name}.bias", conv.outputs))

    def upsample(self, name: str, x: Node, inputs: int, outputs: int) -> Node:
        """See `Operators`."""
        if self._weights.is_int8(f"{name}.weight"):
            kernel = self._weights.kernel(name, 4 * outputs, inputs, 1, 1)
        else:
            weight = self._weights.take(f"{name}.weight", inputs, outputs, 2, 2)
            if not self._integer_form:
                up = ops.convolution_backprop_data(x, _constant(weight), [2, 2])
                return self._upsample_biased(name, up, outputs)
            kernel = Kernel(weight.transpose(1, 2, 3, 0).reshape(4 * outputs, inputs, 1, 1))
        subpixels = self._convolved(_joined([x], kernel, name), kernel, name=name)
        subpixels = self._upsample_biased(name, subpixels, outputs, repeats=4)
        return ops.depth_to_space(subpixels, "depth_first", 2).output(0)

    def side_by_side(self, parts: list[Node]) -> list[Node]:
        """See `Operators`; left apart, see `convolve`."""
        return parts

    def concatenate(self, parts: list[Node]) -> Node:
        """See `Operators`."""
        return ops.concat(parts, 1)

    def halve(self, x: Node) -> Node:
        """See `Operators`."""
        return _halved(x)

    def mean(self, x: Node) -> Node:
        """See `Operators`."""
        return ops.reduce_mean(x, np.array([2, 3]), keep_dims=True)

    def leaky_relu(self, x: Node) -> Node:
        """See `Operators`."""
        return ops.prelu(x, _constant(np.array([LEAKY_SLOPE], np.float32)))

    def relu(self, x: Node) -> Node:
        """See `Operators`."""
        return ops.relu(x)

    def sigmoid(self, x: Node) -> Node:
        """See `Operators`."""
        return ops.sigmoid(x)

    def add(self, x: Node, term: Node, name: str) -> Node:
        """See `Operators`."""
        return _named(ops.add(x, term), name)

    def multiply(self, x: Node, term: Node, name: str) -> Node:
        """See `Operators`."""
        return _named(ops.multiply(x, term), name)

    def picture(self, x: Node, scale: int) -> Node:
        """See `Operators`."""
        return ops.depth_to_space(x, "depth_first", scale)

    # ------------------------------------------------------------ how they are made

    def _convolved(self, x: Node, kernel: Kernel, dilation: int = 1, *, name: str) -> Node:
        """Convolve for a layer, in fp32 if it is one of those that keep it.

        The node's name is the layer's, or begins with that and a slash.
        """
        pad = dilation * (kernel.weight.shape[2] // 2)
        if self._in_bf16 and kernel.ranges is None and is_within(layer_of(name), FP32_LAYERS):
            made = fp32_convolution(x, kernel.constant(), pad, dilation)
        else:
            pads, dilations = [pad] * 2, [dilation] * 2
            made = ops.convolution(x, kernel.constant(), [1, 1], pads, pads, dilations)
        return _named(made, name)

    def _upsample_biased(self, name: str, x: Node, outputs: int, repeats: int = 1) -> Node:
        if not self.config.upsample_bias:
            return x
        bias = self._weights.take(f"{name}.bias", outputs)
        return _biased(x, np.repeat(bias, repeats))


def _joined(parts: Sequence[Node], kernel: Kernel, layer: str) -> Node:
    """Join what an int8 layer reads, rounded."""
    if kernel.ranges is not None:
        parts = [_rounded(part, *kernel.ranges) for part in parts]
    return parts[0] if len(parts) == 1 else _named(ops.concat(parts, 1), f"{layer}/joined")


def _named(node: Node, name: str) -> Node:
    """Give a node the name that quantization finds it by."""
    node.set_friendly_name(name)
    return node


def _constant(array: NDArray[Any]) -> Node:
    # Shared: the constant keeps the array alive, and there is no second copy.
    return ops.constant(np.ascontiguousarray(array), shared_memory=True)


def _rounded(x: Node, low: np.float32, high: np.float32) -> Node:
    """Round to `_STEPS` steps from `low` to `high`.

    Rounding keeps the order and looks at single numbers, so it may come before pooling and
    shuffling: those move a quarter of the bytes then, and who reads the larger map shares it.
    """
    node = x.get_node() if isinstance(x, ov.Output) else x
    if node.get_type_name() == "MaxPool":
        return _halved(_rounded(node.input_value(0), low, high))
    if node.get_type_name() == "DepthToSpace":
        inner = _rounded(node.input_value(0), low, high)
        return ops.depth_to_space(inner, "depth_first", 2).output(0)
    ends = [_constant(np.array(end, np.float32)) for end in (low, high)]
    return ops.fake_quantize(x, *ends, *ends, levels=_STEPS)


def _halved(x: Node) -> Node:
    return ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)


def layer_of(name: str) -> str:
    """Name the layer that a node's name begins with."""
    return name.partition("/")[0]


def _biased(x: Node, bias: NDArray[np.float32]) -> Node:
    return ops.add(x, _constant(bias.reshape(1, -1, 1, 1)))
