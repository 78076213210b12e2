"""A convolution in fp32 amid bf16; what OpenVINO says of the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.inference import openvino_core
from gia_cli.inference.openvino_core import fp32_convolution, multiplies_in_bf16, the_core
from gia_cli.inference.quiet_openvino import openvino as ov
from gia_cli.inference.quiet_openvino import opset13 as ops

pytestmark = pytest.mark.usefixtures("one_thread")


def convolved(
    planes: NDArray[np.float32],
    kernel: NDArray[np.float32],
    dilation: int,
    numbers: str,
    kept: bool,
) -> NDArray[np.float32]:
    """Compile a model of one convolution for a number format, and run it."""
    x = ops.parameter([1, planes.shape[1], -1, -1], np.float32)
    pad = dilation * (kernel.shape[2] // 2)
    if kept:
        made = fp32_convolution(x, ops.constant(kernel), pad, dilation)
    else:
        made = ops.convolution(x, ops.constant(kernel), [1, 1], *[[pad] * 2] * 2, [dilation] * 2)
    model = ov.Model([ops.prelu(made, ops.constant(np.array([0.2], np.float32)))], [x], "one layer")
    compiled = the_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": numbers})
    result: NDArray[np.float32] = compiled([planes])[0]
    return result


@pytest.mark.parametrize(("side", "dilation"), [(1, 1), (3, 1), (3, 2)])
def test_it_is_the_plain_convolution(side: int, dilation: int, rng: np.random.Generator) -> None:
    planes = rng.random((1, 4, 10, 12), np.float32)
    kernel = rng.normal(size=(5, 4, side, side)).astype(np.float32)
    plain, kept = (convolved(planes, kernel, dilation, "f32", way) for way in (False, True))
    assert plain.shape == (1, 5, 10, 12)
    np.testing.assert_allclose(kept, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not multiplies_in_bf16(), reason="this CPU does not multiply in bf16")
def test_it_stays_fp32_where_the_rest_is_bf16(rng: np.random.Generator) -> None:
    planes = rng.random((1, 16, 16, 16), np.float32)
    kernel = rng.normal(size=(16, 16, 3, 3)).astype(np.float32)
    exact = convolved(planes, kernel, 1, "f32", kept=False)
    rounded, kept = (convolved(planes, kernel, 1, "bf16", way) for way in (False, True))
    assert np.abs(rounded - exact).max() > 1e-3
    np.testing.assert_allclose(kept, exact, rtol=1e-5, atol=1e-5)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    multiplies_in_bf16.cache_clear()
    yield
    multiplies_in_bf16.cache_clear()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    ("default", "has_it"), [(ov.Type.bf16, True), (ov.Type.f32, False), (ov.Type.f16, False)]
)
def test_a_cpu_has_bf16_where_openvino_would_choose_it(
    default: ov.Type, has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> ov.Type:
            assert (device, name) == ("CPU", "INFERENCE_PRECISION_HINT")
            return default

    monkeypatch.setattr(openvino_core, "the_core", Core)
    assert multiplies_in_bf16() == has_it


CARD, BUILT_IN = ov.properties.device.Type.DISCRETE, ov.properties.device.Type.INTEGRATED


@pytest.mark.parametrize(
    ("kinds", "chosen"),
    [
        ({"CPU": BUILT_IN, "GPU.0": BUILT_IN, "GPU.1": CARD}, "GPU.1"),
        ({"CPU": BUILT_IN, "GPU.0": CARD, "GPU.1": CARD}, "GPU.0"),
        ({"CPU": BUILT_IN, "GPU": BUILT_IN, "NPU": CARD}, "GPU"),
        ({"CPU": BUILT_IN}, "GPU"),  # which OpenVINO then refuses
    ],
)
def test_a_graphics_card_comes_before_the_gpu_in_the_processor(
    kinds: dict[str, object], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def __init__(self) -> None:
            self.available_devices = list(kinds)

        def get_property(self, device: str, name: str) -> object:
            assert name == "DEVICE_TYPE"
            return kinds[device]

    monkeypatch.setattr(openvino_core, "the_core", Core)
    openvino_core.gpu_name.cache_clear()
    try:
        assert openvino_core.gpu_name() == chosen
    finally:
        openvino_core.gpu_name.cache_clear()
