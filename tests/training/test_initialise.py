"""Weights to start from: sane in size, and the vector heard at the top."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS
from gia_cli.nets.unet import GiaNet
from gia_cli.raw.cfa import CfaKind
from gia_cli.training.initialise import VECTOR_GAIN, fit_vector, init_identity_path, initialise
from tests.networks import ALL, CFAS, PLANES, lively, random_planes, small

COUNT = 4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_every_network_starts_with_pictures_of_a_sane_size(name: str, cfa: CfaKind) -> None:
    torch.manual_seed(2)
    network = build(replace(small(name, cfa), width=NETWORKS[name].width // 2)).eval()
    initialise(network)
    picture = network(torch.rand(1, PLANES[cfa], 32, 32))
    assert 0.1 < picture.std() < 3
    picture.abs().mean().backward()
    norms = [float(p.grad.norm()) for p in network.parameters() if p.grad is not None]
    assert len(norms) == len(list(network.parameters()))
    assert max(norms) < 30
    assert min(norms) > 1e-8


def opened(cfa: CfaKind = "bayer", seed: int = 0) -> GiaNet:
    network = lively(replace(small("gia-net", cfa), width=12), seed)
    assert isinstance(network, GiaNet)
    init_identity_path(network, COUNT)
    return network


def at_the_top(network: GiaNet, planes: torch.Tensor) -> torch.Tensor:
    """What the last level's convolutions read from below: (C, H, W)."""
    seen: list[torch.Tensor] = []
    handle = network.upsample[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        network.eval()(planes)
    handle.remove()
    assert len(seen) == 1  # not in bands
    return seen[0][0]


@pytest.mark.parametrize("cfa", CFAS)
def test_the_vectors_first_numbers_arrive_at_the_top_unchanged(cfa: CfaKind) -> None:
    """At every place up to the borders, whatever the picture, alone in their channels."""
    network = opened(cfa)
    first, second = (random_planes(1, PLANES[cfa], 32, 48, seed=seed) for seed in (1, 2))
    halves = at_the_top(network, first)
    channels = [i for i, channel in enumerate(halves) if bool((channel == 0.5).all())]
    assert len(channels) == COUNT
    numbers = torch.tensor([0.1, 0.4, 0.7, 1.0])
    assert network.gia.shrink.bias is not None
    network.gia.shrink.bias.data[:COUNT] = (numbers - 0.5) / VECTOR_GAIN
    for planes in (first, second):
        copies = at_the_top(network, planes)[channels]
        torch.testing.assert_close(
            copies.sort(dim=0).values, numbers[:, None, None].expand_as(copies)
        )


def test_nothing_reads_the_numbers_yet_and_all_that_could_learns() -> None:
    network = opened()
    planes = random_planes(1, 4, 32, 32)
    picture = network(planes)
    picture.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    top = network.decoder[-1].get_submodule("0").get_parameter("weight")
    below = network.upsample[-1].get_parameter("weight").shape[1]
    silent = (top[:, :below].abs().sum((0, 2, 3)) == 0).nonzero().ravel()
    assert len(silent) == COUNT
    assert top.grad is not None
    assert bool((top.grad[:, silent].abs().sum((0, 2, 3)) > 0).all())
    assert network.gia.shrink.bias is not None
    network.gia.shrink.bias.data[:COUNT] = torch.rand(COUNT)
    assert torch.equal(network(planes), picture)


def test_the_channels_that_go_are_those_that_matter_least() -> None:
    network = lively(replace(small("gia-net"), width=12))
    assert isinstance(network, GiaNet)
    spare = [1, 5, 6, 10]
    with torch.no_grad():  # channels that are hardly read
        network.upsample[-1].get_parameter("weight")[:, spare] *= 1e-3
    before = network.upsample[-1].get_parameter("weight").detach().clone()
    init_identity_path(network, COUNT)
    after = network.upsample[-1].get_parameter("weight").detach()
    changed = ((before != after).sum((0, 2, 3)) > before.shape[0]).nonzero().ravel().tolist()
    assert changed == spare


def test_what_goes_with_the_first_numbers_stays_where_it_is_the_same_for_every_photo() -> None:
    network = lively(replace(small("gia-net"), width=12))
    assert isinstance(network, GiaNet)
    bottleneck = network.gia
    bottleneck.shrink.weight.data[:COUNT] = 0  # they say the same of every photo
    mean = random_planes(1, bottleneck.channels)
    before = bottleneck.bias(mean).detach()
    init_identity_path(network, COUNT)
    after = bottleneck.bias(mean).detach()
    kept = (after != 0.5).nonzero()[:, 1]
    assert len(kept) == bottleneck.channels - COUNT
    torch.testing.assert_close(after[:, kept], before[:, kept])


def test_the_fit_estimates_what_a_linear_map_can() -> None:
    network = opened()
    means = torch.randn(300, network.gia.channels, generator=torch.Generator().manual_seed(1))
    means = 0.01 * means + torch.rand(network.gia.channels)
    truth = torch.randn(network.gia.channels, COUNT, generator=torch.Generator().manual_seed(2))
    targets = 0.4 + (means - means.mean(0)) @ truth
    fit_vector(network, means, targets)
    told = 0.5 + VECTOR_GAIN * network.gia.vector(means).detach()[:, :COUNT]
    assert (told - targets).std() < 0.2 * targets.std()
    torch.testing.assert_close(told.mean(0), targets.mean(0), rtol=0, atol=1e-3)


def test_the_fit_leaves_out_scenes_with_unknown_targets() -> None:
    generator = torch.Generator().manual_seed(1)
    networks = [opened(), opened()]
    means = torch.randn(40, networks[0].gia.channels, generator=generator)
    targets = torch.rand(40, COUNT, generator=generator)
    fit_vector(networks[0], means[:30], targets[:30])
    targets[30:35, 1] = torch.nan
    targets[35:] = torch.nan
    fit_vector(networks[1], means, targets)
    torch.testing.assert_close(networks[0].gia.shrink.weight, networks[1].gia.shrink.weight)


def test_a_target_that_nobody_asks_for_is_not_fitted() -> None:
    """With a given white balance the light is none: its columns are NaN in every scene."""
    generator = torch.Generator().manual_seed(1)
    network = opened()
    before = network.gia.shrink.weight.detach().clone()
    means = torch.randn(40, network.gia.channels, generator=generator)
    targets = torch.rand(40, COUNT, generator=generator)
    targets[:, 1:3] = torch.nan
    fit_vector(network, means, targets)
    after = network.gia.shrink.weight.detach()
    assert after.isfinite().all() and torch.equal(after[1:3], before[1:3])
    assert not torch.equal(after[0], before[0]) and not torch.equal(after[3], before[3])


def test_a_network_without_channels_to_spare_is_refused() -> None:
    network = build(small("gia-net"))
    assert isinstance(network, GiaNet)
    with pytest.raises(ValueError, match="4 channels"):
        init_identity_path(network, COUNT)
