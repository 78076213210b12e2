"""The U-Nets as ONNX graphs in fp32, built from named arrays with ONNX's own helpers.

What `nets.unet` is to torch, with the same stride, halos and pictures up to rounding. Built rather
than traced: torch's exporter would need torch each time an engine is opened. Never imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gia_cli.inference.named_arrays import NamedArrays
from gia_cli.nets.config import LEVELS, NetConfig

#: Operators of 2023; every ONNX Runtime since 1.14, and what else reads ONNX, knows them.
OPSET, IR_VERSION = 18, 8
#: Rows and columns of the planes; None leaves them open.
Sides = tuple[int, int] | None
_SLOPE = 0.2  # of every leaky ReLU
_Shape = Sequence[int | str]


class UNetOnnx:
    """SID-Net: planes to picture; siblings replace parts.

    Every map is (1, C, H, W) in fp32; `planes`, `feature`, `mean`, `term` and `picture` are the
    names of inputs and outputs. A graph is a model that holds its own weights.

    Parameters
    ----------
    config : NetConfig
    weights : NamedArrays
    """

    stride: ClassVar[int] = 2 ** (LEVELS - 1)
    halo: ClassVar[int] = 96
    vector_halos: ClassVar[tuple[int, ...]] = ()
    dilation: ClassVar[int] = 1

    def __init__(self, config: NetConfig, weights: NamedArrays) -> None:
        self.config = config
        self.widths = [config.width << level for level in range(LEVELS)]
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}

    # ------------------------------------------------------------ the whole chain, and its parts

    def whole(self, sides: Sides = None) -> onnx.ModelProto:
        """Build planes to picture, with every mean over what it is given.

        Raises
        ------
        WeightsMismatchError
            Weights are missing, misshapen or left over.
        """
        features = self._encode("planes")
        term = None
        if self.vector_halos:
            mean = self._add("ReduceMean", features[-1], self._constant("hw", np.array([2, 3])))
            term = self._term(mean)
        self._decode(features, term)
        self._weights.check_all_used()
        return self._model("whole", [self._planes(sides)], self._picture_info(sides))

    def measure(self, sides: Sides = None) -> onnx.ModelProto:
        """Build planes to the map that is averaged, (1, C, H / stride, W / stride)."""
        self._add("Identity", self._encode("planes")[-1], output="feature")
        shape: _Shape = [1, self.widths[-1], "feature_rows", "feature_columns"]
        if sides is not None:
            shape = [1, self.widths[-1], *(side // self.stride for side in sides)]
        return self._model("measure", [self._planes(sides)], _info("feature", shape))

    def term(self) -> onnx.ModelProto:
        """Build mean to global term, (1, C, 1, 1) to the same."""
        shape = [1, self.widths[-1], 1, 1]
        self._add("Identity", self._term("mean"), output="term")
        return self._model("term", [_info("mean", shape)], _info("term", shape))

    def render(self, sides: Sides = None) -> onnx.ModelProto:
        """Build planes and, if there is a vector, global term to picture."""
        inputs = [self._planes(sides)]
        if self.vector_halos:
            inputs.append(_info("term", [1, self.widths[-1], 1, 1]))
        self._decode(self._encode("planes"), "term")
        return self._model("render", inputs, self._picture_info(sides))

    def _planes(self, sides: Sides) -> onnx.ValueInfoProto:
        shape: _Shape = [1, self.config.in_channels, *(sides or ("rows", "columns"))]
        return _info("planes", shape)

    def _picture_info(self, sides: Sides) -> onnx.ValueInfoProto:
        if sides is None:
            return _info("picture", [1, 3, "picture_rows", "picture_columns"])
        return _info("picture", [1, 3, *(self.config.scale * side for side in sides)])

    def _model(
        self, name: str, inputs: list[onnx.ValueInfoProto], output: onnx.ValueInfoProto
    ) -> onnx.ModelProto:
        """Make a model of what was added since the last one."""
        held = [numpy_helper.from_array(array, key) for key, array in self._constants.items()]
        graph = helper.make_graph(self._nodes, name, inputs, [output], held)
        self._nodes, self._constants = [], {}
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="gia"
        )

    # ------------------------------------------------------------ down and up

    def _encode(self, x: str) -> list[str]:
        features: list[str] = []
        inputs = [self.config.in_channels, *self.widths]
        for level in range(LEVELS):
            if level:
                x = self._add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
            x = self._double_conv(f"encoder.{level}", x, inputs[level], self.widths[level])
            features.append(x)
        return features

    def _decode(self, features: list[str], term: str | None) -> None:
        x = self._bottleneck(features[-1], term)
        for level in range(LEVELS - 2, -1, -1):
            step, width = LEVELS - 2 - level, self.widths[level]
            up = self._upsample(f"upsample.{step}", x, 2 * width, width)
            joined = self._add("Concat", up, features[level], axis=1)
            x = self._double_conv(f"decoder.{step}", joined, 2 * width, width)
        scale = self.config.scale
        x = self._conv("to_rgb", x, self.widths[0], 3 * scale**2, side=1)
        self._shuffle(x, scale, "picture")

    def _double_conv(self, name: str, x: str, inputs: int, outputs: int) -> str:
        x = self._activated(self._conv3x3(f"{name}.0", x, inputs, outputs))
        return self._activated(self._conv3x3(f"{name}.2", x, outputs, outputs))

    # ------------------------------------------------------------ what siblings replace

    def _conv3x3(self, name: str, x: str, inputs: int, outputs: int) -> str:
        return self._conv(name, x, inputs, outputs, side=3, dilation=self.dilation)

    def _term(self, mean: str) -> str:
        raise NotImplementedError

    def _bottleneck(self, x: str, term: str | None) -> str:
        return x

    # ------------------------------------------------------------ layers

    def _conv(
        self, name: str, x: str, inputs: int, outputs: int, *, side: int, dilation: int = 1
    ) -> str:
        weight = self._weights.take(f"{name}.weight", outputs, inputs, side, side)
        return self._convolved(name, x, weight, self._bias(name, outputs), dilation)

    def _bias(self, name: str, outputs: int) -> NDArray[np.float32]:
        return self._weights.take(f"{name}.bias", outputs)

    def _convolved(
        self,
        name: str,
        x: str,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None = None,
        dilation: int = 1,
    ) -> str:
        parts = [x, self._constant(f"{name}.weight", weight)]
        if bias is not None:
            parts.append(self._constant(f"{name}.bias", bias))
        side = weight.shape[2]
        return self._add(
            "Conv",
            *parts,
            kernel_shape=[side, side],
            pads=[dilation * (side // 2)] * 4,
            dilations=[dilation] * 2,
        )

    def _upsample(self, name: str, x: str, inputs: int, outputs: int) -> str:
        """Convolve to the four sub-pixels of each cell, and put them in their places.

        What a transposed convolution of stride 2 computes; many providers are slow at those.
        """
        weight = self._weights.take(f"{name}.weight", inputs, outputs, 2, 2)
        plain = weight.transpose(1, 2, 3, 0).reshape(4 * outputs, inputs, 1, 1)
        bias = np.repeat(self._bias(name, outputs), 4) if self.config.upsample_bias else None
        return self._shuffle(self._convolved(name, x, plain, bias), 2)

    def _shuffle(self, x: str, scale: int, output: str = "") -> str:
        return self._add("DepthToSpace", x, output=output, blocksize=scale, mode="CRD")

    def _activated(self, x: str) -> str:
        return self._add("LeakyRelu", x, alpha=_SLOPE)

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        self._constants[name] = np.ascontiguousarray(array)
        return name

    def _add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(operator, list(inputs), [output], name=output, **attributes)
        )
        return output


def _info(name: str, shape: _Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


class GiaOnnx(UNetOnnx):
    """GIA-Net: what comes of the mean is a bias at each place of the bottleneck."""

    vector_halos = (64,)

    def _term(self, mean: str) -> str:
        channels, vector = self.widths[-1], self.config.vector
        shrunk = self._conv("gia.shrink", mean, channels, vector, side=1)
        bias = self._bias("gia.fuse", channels)
        return self._convolved("gia.fuse.spread", shrunk, self._fuse()[:, channels:], bias)

    def _bottleneck(self, x: str, term: str | None) -> str:
        assert term is not None
        own = self._convolved("gia.fuse.own", x, self._fuse()[:, : self.widths[-1]])
        return self._add("Add", own, term)

    def _fuse(self) -> NDArray[np.float32]:
        channels = self.widths[-1]
        return self._weights.take("gia.fuse.weight", channels, channels + self.config.vector, 1, 1)


class SeOnnx(UNetOnnx):
    """SE-UNet: what comes of the mean is a factor for each channel of the bottleneck."""

    vector_halos = (64,)

    def _term(self, mean: str) -> str:
        channels = self.widths[-1]
        inner = max(channels // 16, 1)
        squeezed = self._add("Relu", self._conv("se.squeeze", mean, channels, inner, side=1))
        return self._add("Sigmoid", self._conv("se.excite", squeezed, inner, channels, side=1))

    def _bottleneck(self, x: str, term: str | None) -> str:
        assert term is not None
        return self._add("Mul", x, term)


class TwoConvOnnx(UNetOnnx):
    """SID-Net with two more convolutions in the bottleneck."""

    halo = 128

    def _bottleneck(self, x: str, term: str | None) -> str:
        return self._double_conv("extra", x, self.widths[-1], self.widths[-1])


class DilatedOnnx(UNetOnnx):
    """SID-dilated: every 3x3 convolution dilated by 2."""

    halo = 192
    dilation = 2


class SplitOnnx(UNetOnnx):
    """SW-Net: each 3x3 convolution a plain and a dilated half."""

    halo = 192

    def _conv3x3(self, name: str, x: str, inputs: int, outputs: int) -> str:
        half = outputs // 2
        plain = self._conv(f"{name}.plain", x, inputs, outputs - half, side=3)
        dilated = self._conv(f"{name}.dilated", x, inputs, half, side=3, dilation=2)
        return self._add("Concat", plain, dilated, axis=1)


#: The networks that can be built here.
ONNX_GRAPHS: dict[str, type[UNetOnnx]] = {
    "sid-net": UNetOnnx,
    "gia-net": GiaOnnx,
    "se-unet": SeOnnx,
    "sid-2conv": TwoConvOnnx,
    "sid-dilated": DilatedOnnx,
    "sw-net": SplitOnnx,
}
