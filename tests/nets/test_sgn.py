"""SGN, against a plain implementation of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS
from gia_cli.raw.cfa import CfaKind
from tests.networks import CFAS, PLANES, SCALE, lively, random_planes, small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("cfa", "expected"), [("bayer", 4_113_004), ("xtrans", 4_959_739)])
def test_parameters_are_those_of_the_description(cfa: CfaKind, expected: int) -> None:
    planes = PLANES[cfa]

    def conv(inputs: int, outputs: int) -> int:
        return (9 * inputs + 1) * outputs

    total = conv(planes * 64, 256) + 4 * conv(256, 256)
    for scale, width in ((2, 128), (1, 64)):
        # What comes from above has twice as many channels, a quarter of which is left.
        total += conv(planes * 4**scale, width) + conv(width + width // 2, width)
        total += 4 * conv(width, width)
    total += conv(planes, 32) + conv(32 + 16, 32) + 5 * conv(32, 32)
    total += conv(32, 3 * SCALE[cfa] ** 2)
    network = build(replace(NETWORKS["sgn"], cfa=cfa))
    assert sum(p.numel() for p in network.parameters()) == total == expected


def plain_forward(state: dict[str, Tensor], x: Tensor, scale: int) -> Tensor:
    """The whole network again, from the coarsest sub-network down."""

    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def active(name: str, x: Tensor) -> Tensor:
        return F.leaky_relu(conv(name, x), 0.2)

    def residual(name: str, x: Tensor) -> Tensor:
        y = active(f"{name}.body.2", active(f"{name}.body.0", x))
        return F.leaky_relu(x + conv(f"{name}.body.4", y), 0.2)

    x8, x4, x2 = (F.pixel_unshuffle(x, side) for side in (8, 4, 2))
    y = active("coarsest.0", x8)
    for step, inputs in enumerate((x4, x2, x)):
        y = active(f"ends.{step}.0", residual(f"residuals.{step}", y))
        guidance = F.pixel_shuffle(y, 2)
        own = active(f"guided.{step}.read.0", inputs)
        y = active(f"guided.{step}.fuse.0", torch.cat([own, guidance], dim=1))
    for step in range(5):
        y = active(f"body.{step}.0", y)
    return F.pixel_shuffle(conv("to_rgb", y), scale)


@pytest.mark.parametrize("cfa", CFAS)
def test_forward_equals_a_plain_implementation(cfa: CfaKind) -> None:
    network = lively(small("sgn", cfa)).double()
    x = random_planes(2, PLANES[cfa], 24, 40, dtype=torch.float64)
    with torch.no_grad():
        picture = network(x)
        expected = plain_forward(network.state_dict(), x, SCALE[cfa])
    assert expected.std() > 0.1
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-11)
