"""OpenVINO's one core, what it says of the CPU, and layers that keep their precision."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gia_cli.inference.quiet_openvino import openvino as ov

# A convolution that says of itself that it computes in fp32. From Python nothing can say so of a
# node; but one that is read from OpenVINO's own format keeps what that says.
_DIMS = "<dim>-1</dim>" * 4
_PORTS = tuple(f'<port id="{index}" precision="FP32">{_DIMS}</port>' for index in range(3))
_INPUTS = "".join(
    f'<layer id="{index}" name="input{index}" type="Parameter" version="opset1">'
    f'<data shape="?,?,?,?" element_type="f32"/><output>{_PORTS[index]}</output></layer>'
    for index in range(2)
)
_NET = (
    f'<net name="net" version="11"><layers>{_INPUTS}'
    '<layer id="2" name="layer" type="Convolution" version="opset1"><data {settings}/>'
    '<rt_info><attribute name="precise" version="0"/></rt_info>'
    f"<input>{_PORTS[0]}{_PORTS[1]}</input><output>{_PORTS[2]}</output></layer>"
    '<layer id="3" name="end" type="Result" version="opset1">'
    f"<input>{_PORTS[0]}</input></layer></layers><edges>"
    '<edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>'
    '<edge from-layer="1" from-port="1" to-layer="2" to-port="1"/>'
    '<edge from-layer="2" from-port="2" to-layer="3" to-port="0"/>'
    "</edges></net>"
)


@lru_cache(maxsize=1)
def the_core() -> ov.Core:
    """Return the one OpenVINO core of this process.

    Never another: segmentation faults with several are reported of OpenVINO 2026.0 and later.
    """
    return ov.Core()


@lru_cache(maxsize=1)
def multiplies_in_bf16() -> bool:
    """Tell whether the CPU multiplies bf16 itself; elsewhere OpenVINO could only imitate it.

    Asked by what OpenVINO computes in where nobody says in what.
    """
    return bool(the_core().get_property("CPU", "INFERENCE_PRECISION_HINT") == ov.Type.bf16)


@lru_cache(maxsize=1)
def gpu_name() -> str:
    """Name the GPU of Intel's to compute on: a graphics card rather than one in the processor.

    OpenVINO itself means by "GPU" the first one, which is mostly the one in the processor.
    """
    core, card = the_core(), ov.properties.device.Type.DISCRETE
    names = [name for name in core.available_devices if name.partition(".")[0] == "GPU"]
    cards = [name for name in names if core.get_property(name, "DEVICE_TYPE") == card]
    return str((cards or names or ["GPU"])[0])


def fp32_convolution(x: Any, kernel: Any, pad: int, dilation: int = 1) -> Any:
    """Convolve in fp32, whatever the rest of the model is compiled for.

    Parameters
    ----------
    x, kernel : Node
        (1, inputs, H, W) and (outputs, inputs, k, k).
    pad : int
        Zeros around the map.
    dilation : int

    Returns
    -------
    Node
        (1, outputs, H', W')
    """
    settings = (
        f'strides="1,1" dilations="{dilation},{dilation}" '
        f'pads_begin="{pad},{pad}" pads_end="{pad},{pad}" auto_pad="explicit"'
    )
    net = _NET.format(settings=settings).encode()
    read = the_core().read_model(net, ov.Tensor(np.zeros(1, np.uint8)))  # of no weights
    (layer,) = (node for node in read.get_ordered_ops() if node.get_friendly_name() == "layer")
    for index, given in enumerate((x, kernel)):
        output = given if isinstance(given, ov.Output) else given.output(0)
        layer.input(index).replace_source_output(output)
    layer.constructor_validate_and_infer_types()
    return layer
