"""RIDNet, against a plain implementation of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gia_cli.nets import build
from gia_cli.nets.blocks import mosaic_picture
from gia_cli.nets.config import NETWORKS
from gia_cli.raw.cfa import CfaKind
from tests.networks import CFAS, PLANES, SCALE, lively, random_planes, small

pytestmark = pytest.mark.usefixtures("one_thread")

# From RGB to RGB the published model has this many; only first and last layer differ here.
PUBLISHED = 1_499_347


def conv_count(inputs: int, outputs: int, kernel: int = 3) -> int:
    return (inputs * kernel**2 + 1) * outputs


@pytest.mark.parametrize(("cfa", "expected"), [("bayer", 1_505_116), ("xtrans", 1_516_651)])
def test_parameters_are_the_published_ones(cfa: CfaKind, expected: int) -> None:
    network = build(replace(NETWORKS["ridnet"], cfa=cfa))
    planes, outputs = PLANES[cfa], 3 * SCALE[cfa] ** 2
    more = conv_count(planes, 64) - conv_count(3, 64) + conv_count(64, outputs) - conv_count(64, 3)
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED + more == expected
    merge_run = 4 * conv_count(64, 64) + conv_count(128, 64)
    residuals = 4 * conv_count(64, 64) + conv_count(64, 64, 1)
    attention = conv_count(64, 4, 1) + conv_count(4, 64, 1)
    module = merge_run + residuals + attention
    assert conv_count(3, 64) + 4 * module + conv_count(64, 3) == PUBLISHED


def plain_forward(state: dict[str, Tensor], x: Tensor, cfa: CfaKind) -> Tensor:
    """The whole network again, with pooling where the paper draws it."""

    def conv(name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=padding, dilation=dilation)

    def module(name: str, x: Tensor) -> Tensor:
        near = F.relu(conv(f"{name}.merge_run.near.0", x, 1))
        near = F.relu(conv(f"{name}.merge_run.near.2", near, 2))
        far = F.relu(conv(f"{name}.merge_run.far.0", x, 3))
        far = F.relu(conv(f"{name}.merge_run.far.2", far, 4))
        x = x + F.relu(conv(f"{name}.merge_run.merge.0", torch.cat([near, far], dim=1)))
        y = conv(f"{name}.residual.body.2", F.relu(conv(f"{name}.residual.body.0", x)))
        x = F.relu(x + y)
        y = F.relu(conv(f"{name}.enhanced.body.0.0", x))
        y = F.relu(conv(f"{name}.enhanced.body.0.2", y))
        x = F.relu(x + conv(f"{name}.enhanced.body.1", y))
        mean = F.adaptive_avg_pool2d(x, 1)
        gate = conv(f"{name}.attention.excite", F.relu(conv(f"{name}.attention.squeeze", mean)))
        return x * torch.sigmoid(gate)

    y = F.relu(conv("first.0", x))
    for index in range(4):
        y = module(f"blocks.{index}", y)
    residual = F.pixel_shuffle(conv("to_rgb", y), SCALE[cfa])
    return mosaic_picture(x, cfa, SCALE[cfa]) + residual


@pytest.mark.parametrize("cfa", CFAS)
def test_forward_equals_a_plain_implementation(cfa: CfaKind) -> None:
    network = lively(small("ridnet", cfa)).double()
    x = random_planes(2, PLANES[cfa], 21, 14, dtype=torch.float64)
    with torch.no_grad():
        picture = network(x)
        expected = plain_forward(network.state_dict(), x, cfa)
    assert expected.std() > 0.1
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-11)
