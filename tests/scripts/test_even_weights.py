"""The script takes a pattern of sub-pixels out of the last layer, and nothing else."""

from __future__ import annotations

import even_weights
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gia_cli.nets.unet import GiaNet
from gia_cli.raw.cfa import CfaKind
from tests.networks import lively, small


@pytest.fixture(params=["bayer", "xtrans"])
def network(request: pytest.FixtureRequest) -> GiaNet:
    kind: CfaKind = request.param
    network = lively(small("gia-net", kind)).requires_grad_(False)
    assert isinstance(network, GiaNet)
    return network


@pytest.fixture
def planes(network: GiaNet) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, network.config.in_channels, 64, 64, generator=generator)


def checkerboard(pictures: Tensor, wanted: Tensor, scale: int) -> float:
    """How far the sub-pixels' error, in the mean over blocks, is from its own mean."""
    error = F.avg_pool2d(F.pixel_unshuffle(pictures - wanted, scale), 16).unflatten(1, (3, -1))
    return float((error - error.mean(2, keepdim=True)).square().mean().sqrt())


@pytest.mark.slow
def test_the_features_are_what_the_network_makes_its_picture_of(
    network: GiaNet, planes: Tensor
) -> None:
    read = even_weights.features(network, planes[:1])
    made = F.pixel_shuffle(network.to_rgb(read), network.config.scale)
    torch.testing.assert_close(made, network(planes[:1]), rtol=0, atol=1e-5)


def test_a_planted_pattern_goes_and_the_picture_stays(network: GiaNet, planes: Tensor) -> None:
    """Trained on its own pictures, a network whose sub-pixels are shifted gets back near them."""
    scale = network.config.scale
    wanted = torch.cat([network(one[None]) for one in planes])
    assert network.to_rgb.bias is not None
    network.to_rgb.bias += torch.linspace(-0.02, 0.02, scale**2).repeat(3)
    before = torch.cat([network(one[None]) for one in planes])
    moments = even_weights.Moments(network.config.width, scale)
    for one, target in zip(planes, wanted, strict=True):
        moments.add(even_weights.features(network, one[None]), target[None])
    even_weights.even(network, moments)
    after = torch.cat([network(one[None]) for one in planes])
    assert checkerboard(before, wanted, scale) > 0.01
    assert checkerboard(after, wanted, scale) < 0.2 * checkerboard(before, wanted, scale)
    mean = F.avg_pool2d(after, scale)
    torch.testing.assert_close(mean, F.avg_pool2d(before, scale), rtol=0, atol=1e-4)


def test_without_weight_nothing_changes(network: GiaNet, planes: Tensor) -> None:
    wanted = network(planes[:1])
    moments = even_weights.Moments(network.config.width, network.config.scale)
    moments.add(even_weights.features(network, planes[:1]), torch.zeros_like(wanted))
    even_weights.even(network, moments, weight=0.0)
    torch.testing.assert_close(network(planes[:1]), wanted, rtol=0, atol=1e-4)
