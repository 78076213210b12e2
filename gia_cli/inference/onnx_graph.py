"""The U-Nets as ONNX graphs in fp32, built from named arrays with ONNX's own helpers.

`layout` says what reads what; here is how ONNX writes it. The pictures are those of `nets.unet` up
to rounding. Built rather than traced: torch's exporter would need torch each time an engine is
opened. Never imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gia_cli.inference.layout import Conv, Operators, Share
from gia_cli.inference.named_arrays import NamedArrays
from gia_cli.nets.config import LEAKY_SLOPE, NetConfig

#: Operators of 2023; every ONNX Runtime since 1.14, and what else reads ONNX, knows them.
OPSET, IR_VERSION = 18, 8
#: Rows and columns of the planes; None leaves them open.
Sides = tuple[int, int] | None
_Shape = Sequence[int | str]


class UNetOnnx(Operators[str]):
    """A U-Net's graph: planes to picture, whole or in parts.

    Every map is (1, C, H, W) in fp32; `planes`, `feature`, `mean`, `term` and `picture` are the
    names of inputs and outputs. A graph is a model that holds its own weights.

    Parameters
    ----------
    config : NetConfig
        A network of `LAYOUTS`.
    weights : NamedArrays
    """

    def __init__(self, config: NetConfig, weights: NamedArrays) -> None:
        super().__init__(config)
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
        features = self.layout.encode(self, "planes")
        self.layout.decode(self, features, self.layout.term_of(self, features[-1]))
        self._weights.check_all_used()
        return self._model("whole", [self._planes(sides)], self._picture_info(sides))

    def measure(self, sides: Sides = None) -> onnx.ModelProto:
        """Build planes to the map that is averaged, (1, C, H / stride, W / stride)."""
        self._add("Identity", self.layout.encode(self, "planes")[-1], output="feature")
        shape: _Shape = [1, self.widths[-1], "feature_rows", "feature_columns"]
        if sides is not None:
            shape = [1, self.widths[-1], *(side // self.stride for side in sides)]
        return self._model("measure", [self._planes(sides)], _info("feature", shape))

    def term(self) -> onnx.ModelProto:
        """Build mean to global term, (1, C, 1, 1) to the same."""
        shape = [1, self.widths[-1], 1, 1]
        self._add("Identity", self.layout.term(self, "mean"), output="term")
        return self._model("term", [_info("mean", shape)], _info("term", shape))

    def render(self, sides: Sides = None) -> onnx.ModelProto:
        """Build planes and, if there is a vector, global term to picture."""
        inputs = [self._planes(sides)]
        if self.vector_halos:
            inputs.append(_info("term", [1, self.widths[-1], 1, 1]))
        self.layout.decode(self, self.layout.encode(self, "planes"), "term")
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

    # ------------------------------------------------------------ operators

    def convolve(self, conv: Conv, parts: Sequence[str]) -> str:
        """See `Operators`."""
        (x,) = parts  # which `side_by_side` has joined
        bias = self._bias(conv.name, conv.outputs)
        return self._convolved(conv.name, x, self._weight(conv), bias, conv.dilation)

    def convolve_share(self, conv: Conv, share: Share, x: str) -> str:
        """See `Operators`."""
        weight = self._weight(conv)[:, share.start : share.stop]
        bias = self._bias(conv.name, conv.outputs) if share.has_bias else None
        return self._convolved(f"{conv.name}.{share.name}", x, weight, bias)

    def upsample(self, name: str, x: str, inputs: int, outputs: int) -> str:
        """Convolve to the four sub-pixels of each cell, and put them in their places.

        What a transposed convolution of stride 2 computes; many providers are slow at those.
        """
        weight = self._weights.take(f"{name}.weight", inputs, outputs, 2, 2)
        plain = weight.transpose(1, 2, 3, 0).reshape(4 * outputs, inputs, 1, 1)
        bias = np.repeat(self._bias(name, outputs), 4) if self.config.upsample_bias else None
        return self._shuffle(self._convolved(name, x, plain, bias), 2)

    def side_by_side(self, parts: list[str]) -> list[str]:
        """See `Operators`."""
        return [self.concatenate(parts)]

    def concatenate(self, parts: list[str]) -> str:
        """See `Operators`."""
        return self._add("Concat", *parts, axis=1)

    def halve(self, x: str) -> str:
        """See `Operators`."""
        return self._add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def mean(self, x: str) -> str:
        """See `Operators`."""
        return self._add("ReduceMean", x, self._constant("hw", np.array([2, 3])))

    def leaky_relu(self, x: str) -> str:
        """See `Operators`."""
        return self._add("LeakyRelu", x, alpha=LEAKY_SLOPE)

    def relu(self, x: str) -> str:
        """See `Operators`."""
        return self._add("Relu", x)

    def sigmoid(self, x: str) -> str:
        """See `Operators`."""
        return self._add("Sigmoid", x)

    def add(self, x: str, term: str, name: str) -> str:
        """See `Operators`."""
        return self._add("Add", x, term)

    def multiply(self, x: str, term: str, name: str) -> str:
        """See `Operators`."""
        return self._add("Mul", x, term)

    def picture(self, x: str, scale: int) -> str:
        """See `Operators`."""
        return self._shuffle(x, scale, "picture")

    # ------------------------------------------------------------ how they are made

    def _weight(self, conv: Conv) -> NDArray[np.float32]:
        shape = conv.outputs, conv.inputs, conv.side, conv.side
        return self._weights.take(f"{conv.name}.weight", *shape)

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

    def _shuffle(self, x: str, scale: int, output: str = "") -> str:
        return self._add("DepthToSpace", x, output=output, blocksize=scale, mode="CRD")

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
