"""DnCNN, against a plain implementation of its own, and its batch normalisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gia_cli.nets import build
from gia_cli.nets.blocks import mosaic_picture
from gia_cli.nets.config import NETWORKS
from gia_cli.raw.cfa import PLANE_COLORS, CfaKind
from tests.networks import CFAS, PLANES, SCALE, lively, random_planes, small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("cfa", "published"), [("bayer", 564_172), ("xtrans", 575_707)])
def test_parameters_are_those_of_17_layers(cfa: CfaKind, published: int) -> None:
    planes, outputs = PLANES[cfa], 3 * SCALE[cfa] ** 2
    first, last = (9 * planes + 1) * 64, (9 * 64 + 1) * outputs
    middle = 15 * (9 * 64 * 64 + 2 * 64)  # no bias, but scale and shift of the normalisation
    network = build(replace(NETWORKS["dncnn"], cfa=cfa))
    assert sum(p.numel() for p in network.parameters()) == first + middle + last == published


def plain_forward(state: dict[str, Tensor], x: Tensor, cfa: CfaKind) -> Tensor:
    """The whole network again."""
    scale = SCALE[cfa]
    y = F.relu(F.conv2d(x, state["first.0.weight"], state["first.0.bias"], padding=1))
    for layer in range(15):
        name = f"middle.{layer}"
        y = F.conv2d(y, state[f"{name}.0.weight"], padding=1)
        mean, variance = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
        y = (y - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
        y = y * state[f"{name}.1.weight"][:, None, None] + state[f"{name}.1.bias"][:, None, None]
        y = F.relu(y)
    residual = F.conv2d(y, state["to_rgb.weight"], state["to_rgb.bias"], padding=1)
    return plain_mosaic(x, cfa) - F.pixel_shuffle(residual, scale)


def plain_mosaic(x: Tensor, cfa: CfaKind) -> Tensor:
    """Cell by cell, colour by colour."""
    scale = SCALE[cfa]
    count, _, height, width = x.shape
    picture = torch.zeros(count, 3, height * scale, width * scale, dtype=x.dtype)
    for color in range(3):
        members = [plane for plane, other in enumerate(PLANE_COLORS[cfa]) if other == color]
        mean = sum(x[:, plane] for plane in members) / len(members)
        for row in range(scale):
            for col in range(scale):
                picture[:, color, row::scale, col::scale] = mean
    return picture


@pytest.mark.parametrize("cfa", CFAS)
def test_forward_equals_a_plain_implementation(cfa: CfaKind) -> None:
    network = lively(small("dncnn", cfa)).double()
    x = random_planes(2, PLANES[cfa], 21, 14, dtype=torch.float64)
    with torch.no_grad():
        picture = network(x)
        expected = plain_forward(network.state_dict(), x, cfa)
    assert expected.std() > 0.1
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("cfa", CFAS)
def test_what_a_residual_is_added_to_has_the_mosaics_colours(cfa: CfaKind) -> None:
    x = random_planes(1, PLANES[cfa], 3, 5)
    torch.testing.assert_close(mosaic_picture(x, cfa, SCALE[cfa]), plain_mosaic(x, cfa))
    color = torch.tensor([0.2, 0.5, 0.3])
    flat = color[list(PLANE_COLORS[cfa])].view(1, -1, 1, 1).expand(1, -1, 2, 2)
    picture = mosaic_picture(flat, cfa, SCALE[cfa])
    torch.testing.assert_close(picture, color.view(1, 3, 1, 1).expand_as(picture))
    assert mosaic_picture(x.bfloat16(), cfa, SCALE[cfa]).dtype == torch.float32


def test_statistics_are_the_batchs_in_training_and_the_running_ones_after() -> None:
    """So training sees all crops of a batch as one, whatever their group; inference each alone."""
    network = lively(small("dncnn"))
    x = random_planes(2, 4, 16, 16)
    x[1] *= 0.2
    with torch.no_grad():
        torch.testing.assert_close(network(x)[:1], network(x[:1]))
        before = network.state_dict()["middle.0.1.running_mean"].clone()
        network.train()
        assert (network(x)[:1] - network(x[:1])).abs().max() > 0.01
    assert not torch.equal(before, network.state_dict()["middle.0.1.running_mean"])
