"""Post-training quantization of the U-Nets' OpenVINO graphs, with NNCF.

Only for making int8 weights: what runs them, `openvino_graph`, needs no NNCF.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import GiaError
from gia_cli.inference.openvino_core import the_core
from gia_cli.inference.openvino_graph import FP32_LAYERS, UNetGraph, Weights, is_within, layer_of
from gia_cli.inference.quiet_openvino import hidden
from gia_cli.inference.quiet_openvino import openvino as ov
from gia_cli.inference.quiet_openvino import opset13 as ops
from gia_cli.nets.config import NetConfig

with hidden():
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

# Extremes, not their means over the photos: what is brighter than most must not be cut off (0.04
# dB instead of 0.13 lost). NNCF's correction of biases, which compares what both networks make of a
# photo, made it worse where that was measured (0.044 dB with it, 0.026 without).
_PARAMETERS = nncf.AdvancedQuantizationParameters(
    disable_bias_correction=True,
    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
)
# The channels that carry a photo's light and black level have one value everywhere: where it is cut
# off, because no calibration scene was that extreme, the whole picture's colour shifts (by 12 of
# 255 levels in one of 18 Kodak exposures). Coarser steps cost less.
_MARGIN = 1.3
# This many samples of a layer's input are taken; this share of its mean power is added to make it
# invertible; this many columns are rounded before their errors are passed on to the rest.
_PATCHES, _DAMPING, _COLUMNS = 16384, 0.01, 128
# Nodes in whose sums and products with what comes of the vector nothing is to be rounded.
_VECTOR_NODES = ("gia.fuse/sum", "se/product")


def quantized(
    config: NetConfig,
    arrays: dict[str, NDArray[Any]],
    photos: Sequence[NDArray[np.float32]],
    fp32_layers: Collection[str] = FP32_LAYERS,
) -> dict[str, NDArray[Any]]:
    """Round the weights to int8 and find the ranges of what the layers read.

    Parameters
    ----------
    config : NetConfig
        A network of `LAYOUTS`.
    arrays : dict
        Its weights by name, of floats.
    photos : sequence of (C, h, w) float32
        Packed planes like those that the network was trained on; sides are multiples of 16.
    fp32_layers : collection of str
        Layers to be left as they are, with their sub-layers.

    Returns
    -------
    dict
        What `openvino_graph` builds the int8 network from: ``weight`` (int8), ``scale`` and
        ``ranges`` (float32) of each layer that is rounded, and the other arrays. Those are the
        given ones, but for what `_balanced` changes.

    Raises
    ------
    WeightsMismatchError
        The arrays do not fit the network.
    """
    balanced = _balanced(config, arrays, photos)
    model = _integer_form(config, balanced)
    with _silence():
        rounded = nncf.quantize(
            model,
            nncf.Dataset([planes[None] for planes in photos]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(photos),
            ignored_scope=nncf.IgnoredScope(names=_ignored(model, fp32_layers)),
            advanced_parameters=_PARAMETERS,
        )
    return _rerounded({**balanced, **_read_layers(rounded)}, model, photos)


def _integer_form(config: NetConfig, arrays: dict[str, NDArray[Any]]) -> ov.Model:
    weights = Weights(dict(arrays), "The weights to quantize do not fit")
    return UNetGraph(config, weights, integer_form=True).whole()


def _ignored(model: ov.Model, fp32_layers: Collection[str]) -> list[str]:
    """Name the nodes whose inputs must not be rounded."""
    nodes = model.get_ordered_ops()
    means = {node.get_friendly_name() for node in nodes if _type(node) == "ReduceMean"}
    names = {node.get_friendly_name() for node in nodes}
    kept = {name for name in names if is_within(layer_of(name), fp32_layers)}
    return sorted(means | kept | (names & set(_VECTOR_NODES)))


@contextmanager
def _silence() -> Iterator[None]:
    """Keep NNCF's bars off stdout, which is for results, and its news off stderr."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _compiled(outputs: list[Any], model: ov.Model) -> ov.CompiledModel:
    """Compile what some nodes of a model give, in fp32."""
    looked_at = ov.Model(outputs, model.get_parameters(), "looked at")
    return the_core().compile_model(looked_at, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


# ---------------------------------------------------------------- before: balance


def _balanced(
    config: NetConfig, arrays: dict[str, NDArray[Any]], photos: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[Any]]:
    """Bring what is joined to one size, so that one range serves both: the same network.

    What comes up from below is made larger or smaller, and who reads it takes that back.
    """
    balanced = dict(arrays)
    for level, (up, skip) in _greatest_joined(_integer_form(config, arrays), photos).items():
        factor = np.float32(skip / up) if up and skip else np.float32(1)
        for name in arrays:
            if name.startswith(f"upsample.{level}."):
                balanced[name] = arrays[name].astype(np.float32) * factor
            elif name.startswith(f"decoder.{level}.0.") and name.endswith(".weight"):
                weight = arrays[name].astype(np.float32)
                weight[:, : weight.shape[1] // 2] /= factor
                balanced[name] = weight
    return balanced


def _greatest_joined(
    model: ov.Model, photos: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Find the greatest absolute numbers of either map that is joined, for each level."""
    joined = {
        node.get_friendly_name().split(".")[1]: node
        for node in model.get_ordered_ops()
        if node.get_friendly_name().endswith("/joined")
    }
    greatest = [
        ops.reduce_max(ops.abs(node.input_value(part)), np.array([0, 1, 2, 3]))
        for node in joined.values()
        for part in (0, 1)
    ]
    compiled = _compiled(greatest, model)
    found = np.array([list(compiled([planes[None]]).values()) for planes in photos])
    return dict(zip(joined, found.max(axis=0).reshape(-1, 2), strict=True))


# ---------------------------------------------------------------- after: round with regard


def _rerounded(
    arrays: dict[str, NDArray[Any]], model: ov.Model, photos: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[Any]]:
    """Round the weights again, so that their errors compensate each other for what the layers read.

    Rounding each weight to the nearest step would be best if a layer's input were noise. Much of it
    is not: channels have means, and those that describe the whole photo, such as its light, are the
    same everywhere. There errors add up to a shift of the whole picture's colour.
    """
    rerounded = dict(arrays)
    layers = {
        node.get_friendly_name(): node
        for node in model.get_ordered_ops()
        if f"{node.get_friendly_name()}.scale" in arrays
    }
    for layer, patches in _read_patches(model, layers, photos).items():
        weight, scale = _constant(layers[layer], 1), arrays[f"{layer}.scale"]
        steps = weight.reshape(len(weight), -1) / scale[:, None]
        rerounded[f"{layer}.weight"] = _round_together(steps, patches).reshape(weight.shape)
    return rerounded


def _round_together(steps: NDArray[np.floating], read: NDArray[np.float32]) -> NDArray[np.int8]:
    """Round a matrix so that its product with what is read changes least (Frantar et al., GPTQ).

    Column by column; what rounding one changes, those to come take back as well as they can.

    Parameters
    ----------
    steps : (outputs, inputs) float
        Weights in units of a step, at most 127.
    read : (samples, inputs) float32

    Returns
    -------
    (outputs, inputs) int8
    """
    moments = read.T @ read / len(read)
    moments[np.diag_indices_from(moments)] += _DAMPING * moments.diagonal().mean()
    # The rows of the upper factor say how the remaining columns compensate an error.
    upper = np.linalg.cholesky(np.linalg.inv(moments.astype(np.float64))).T.astype(np.float32)
    left = steps.astype(np.float32)
    rounded = np.empty(left.shape, np.int8)
    for start in range(0, left.shape[1], _COLUMNS):
        block = slice(start, start + _COLUMNS)
        errors = np.empty_like(left[:, block])
        for column in range(start, min(start + _COLUMNS, left.shape[1])):
            rounded[:, column] = np.clip(np.rint(left[:, column]), -127, 127)
            error = (left[:, column] - rounded[:, column]) / upper[column, column]
            left[:, column : block.stop] -= np.outer(error, upper[column, column : block.stop])
            errors[:, column - start] = error
        left[:, block.stop :] -= errors @ upper[block, block.stop :]
    return rounded


def _read_patches(
    model: ov.Model, layers: dict[str, Any], photos: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Sample what layers multiply their weights with: (samples, inputs * k * k) each."""
    compiled = _compiled([node.input_value(0) for node in layers.values()], model)
    rng = np.random.default_rng(0)
    sampled: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    for planes in photos:
        for (layer, node), maps in zip(
            layers.items(), compiled([planes[None]]).values(), strict=True
        ):
            sampled[layer].append(_sample(maps[0], node, _PATCHES // len(photos) + 1, rng))
    return {layer: np.concatenate(patches) for layer, patches in sampled.items()}


def _sample(
    maps: NDArray[np.float32], convolution: Any, count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Cut out what a convolution sees at places drawn by chance: (count, inputs * k * k)."""
    side = convolution.input_value(1).get_shape()[-1]
    (dilation, _), (pad, _) = convolution.get_dilations(), convolution.get_pads_begin()
    padded = np.pad(maps, ((0, 0), (pad, pad), (pad, pad)))
    rows, cols = (rng.integers(size, size=(count, 1)) for size in maps.shape[1:])
    taps = dilation * np.arange(side)
    down, across = (grid.reshape(1, -1) for grid in np.meshgrid(taps, taps, indexing="ij"))
    patches = padded[:, rows + down, cols + across]  # (inputs, count, k * k)
    return patches.transpose(1, 0, 2).reshape(count, -1)


# ---------------------------------------------------------------- after: read the result


def _read_layers(model: ov.Model) -> dict[str, NDArray[Any]]:
    """Collect the arrays of all layers that were quantized."""
    found: dict[str, NDArray[Any]] = {}
    for node in model.get_ordered_ops():
        if _type(node) != "Convolution" or _type(_source(node, 1)) != "Multiply":
            continue
        layer = node.get_friendly_name()
        product = _source(node, 1)
        steps = _source(product, 0)
        weight = _constant(steps, 0)
        if _type(steps) != "Convert" or weight.dtype != np.int8:
            raise GiaError(f"NNCF has made unknown weights for {layer}.", hint=_VERSION)
        found[f"{layer}.weight"] = weight
        found[f"{layer}.scale"] = _constant(product, 1).astype(np.float32).reshape(-1)
        found[f"{layer}.ranges"] = _read_range(node)
    return found


def _read_range(convolution: Any) -> NDArray[np.float32]:
    """Look for what rounds the map that a convolution reads."""
    node = _source(convolution, 0)
    while _type(node) in ("MaxPool", "DepthToSpace", "Concat"):  # a concatenation has one range
        node = _source(node, 0)
    if _type(node) != "FakeQuantize":
        name = convolution.get_friendly_name()
        raise GiaError(f"NNCF has not rounded what {name} reads.", hint=_VERSION)
    ends = np.array([_constant(node, index).item() for index in (1, 2)], np.float32)
    return ends * np.float32(_MARGIN)  # zero stays where a step is


_VERSION = f"Use the version of NNCF that constraints.txt names; this is {nncf.__version__}."


def _type(node: Any) -> str:
    return str(node.get_type_name())


def _source(node: Any, index: int) -> Any:
    return node.input_value(index).get_node()


def _constant(node: Any, index: int) -> NDArray[Any]:
    """Copy the constant that a node reads, with a conversion on its way or without."""
    source = _source(node, index)
    if _type(source) == "Convert":
        source = _source(source, 0)
    return np.array(source.data)
