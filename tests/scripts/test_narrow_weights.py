"""A trained network narrowed by the script keeps its picture where it can."""

from __future__ import annotations

from dataclasses import replace

import narrow_weights
import numpy as np
import pytest
import torch
from torch import Tensor

from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.nets.unet import GiaNet
from tests.networks import lively, small


@pytest.fixture(scope="module")
def planes() -> Tensor:
    """Crops of two shades each, so that their means differ."""
    rng = np.random.default_rng(0)
    shades = rng.uniform(0, 1, (256, 4, 2, 1))
    crops = np.repeat(shades, 16, axis=2) + rng.normal(0, 0.3, (256, 4, 32, 32))
    return torch.from_numpy(crops.astype(np.float32))


def doubled(network: GiaNet) -> GiaNet:
    """Every channel twice, and each of the two read half."""
    wide = build(replace(network.config, width=2 * network.config.width))
    state = {}
    for name, tensor in network.state_dict().items():
        is_up, is_bias = name.startswith("upsample"), name.endswith("bias")
        ins, outs = (0, 1) if is_up else (1, 0)
        if not name.startswith(("to_rgb", "gia.shrink")):
            tensor = tensor.repeat_interleave(2, 0 if is_bias else outs)
        if not is_bias and not name.startswith("encoder.0.0"):
            read = network.gia.channels if name.startswith("gia") else tensor.shape[ins]
            twice, once = tensor.split([read, tensor.shape[ins] - read], ins)
            tensor = torch.cat([twice.repeat_interleave(2, ins) / 2, once], ins)
        state[name] = tensor
    wide.load_state_dict(state)
    assert isinstance(wide, GiaNet)
    return wide.eval()


def narrowed(wide: GiaNet, width: int, planes: Tensor) -> GiaNet:
    network = build(replace(wide.config, width=width)).requires_grad_(False).eval()
    assert isinstance(network, GiaNet)
    with torch.no_grad():
        narrow_weights.Narrowing(wide, network, planes).run()
    return network


def unexplained(pictures: Tensor, wanted: Tensor) -> float:
    return float((pictures - wanted).square().mean() / wanted.var())


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 2])
def test_channels_too_many_are_left_out(planes: Tensor, factor: int) -> None:
    """The same width, or half of one whose channels are all there twice, makes the same picture."""
    config: NetConfig = small("gia-net")
    own = lively(config)
    assert isinstance(own, GiaNet)
    wide = own if factor == 1 else doubled(own)
    with torch.no_grad():
        wanted = own(planes)
        torch.testing.assert_close(wide(planes), wanted, rtol=0, atol=1e-4)
        network = narrowed(wide, config.width, planes)
        assert unexplained(network(planes), wanted) < 1e-4


@pytest.mark.slow
def test_a_narrow_network_comes_near(planes: Tensor) -> None:
    """Nearer than the mean picture, and the vector says the same."""
    wide = lively(replace(small("gia-net"), width=8))
    assert isinstance(wide, GiaNet)
    with torch.no_grad():
        network = narrowed(wide, 4, planes)
        assert unexplained(network(planes), wide(planes)) < 0.1
        vectors = [net.gia.vector(net.encode(planes)[-1].mean((2, 3))) for net in (wide, network)]
    assert unexplained(vectors[1], vectors[0]) < 0.01
