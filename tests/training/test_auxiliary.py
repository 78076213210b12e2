"""Training-only heads and losses: the depth's gradient, the vector's targets, sub-pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gia_cli.imaging.color import bt709_encode
from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS, NetConfig
from gia_cli.nets.unet import GiaNet
from gia_cli.raw.cfa import PLANE_COLORS, CfaKind
from gia_cli.training.auxiliary import (
    Trainee,
    auxiliary_loss,
    checkerboard_loss,
    deep_supervision_loss,
    raw_loss,
)
from gia_cli.training.initialise import VECTOR_GAIN, init_identity_path, init_raw_head, initialise
from tests.networks import CFAS, PLANES, SCALE, UNETS, lively, small

pytestmark = pytest.mark.usefixtures("one_thread")


def test_deep_supervision_heads_give_the_deep_levels_a_gradient() -> None:
    """The point of them: gradients of the bottleneck many times those without."""
    torch.manual_seed(1)
    planes, target = torch.rand(2, 4, 32, 32), torch.rand(2, 3, 64, 64)
    trainee = Trainee(build(NetConfig("gia-net", width=8)), with_heads=True)
    initialise(trainee)
    norms = []
    for weight in (0.0, 1.0):
        trainee.zero_grad()
        picture, depth, *_ = trainee(planes, 2)
        loss = (picture - target).abs().mean() + weight * deep_supervision_loss(depth, target)
        loss.backward()
        gradient = trainee.network.get_parameter("encoder.4.0.weight").grad
        assert gradient is not None
        norms.append(float(gradient.norm()))
    assert norms[1] > 3 * norms[0] > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_are_for_networks_with_coarse_levels(name: str) -> None:
    trainee = Trainee(build(small(name)), with_heads=True)
    assert Trainee(trainee.network, with_heads=False).heads is None
    picture, depth, *_ = trainee(torch.rand(2, 4, 32, 48), 2)
    assert picture.shape == (2, 3, 64, 96)
    if name in UNETS:
        assert [tuple(x.shape[1:]) for x in depth] == [(3, 2 << n, 3 << n) for n in range(4)]
    else:
        assert trainee.heads is None
        assert depth == []


def dropped(count: int) -> torch.Tensor:
    """Factors of four skips that drop the top ones."""
    return torch.tensor([0.0] * count + [1.0] * (4 - count))


def test_skips_that_are_kept_by_factors_are_the_same_to_the_bit() -> None:
    planes, trainee = torch.rand(2, 4, 32, 32), Trainee(lively(small("gia-net")), with_heads=True)
    gradients = []
    for kept in (None, dropped(0)):
        trainee.zero_grad()
        picture, *_ = trainee(planes, 2, kept)
        picture.square().sum().backward()
        gradients.append(
            [p.grad.clone() for p in trainee.network.parameters() if p.grad is not None]
        )
    assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))


def test_a_dropped_skip_has_no_effect_and_all_parameters_learn() -> None:
    """With all skips cut, what the upper levels see does not matter."""
    torch.manual_seed(1)
    planes = torch.rand(1, 4, 64, 64)
    trainee = Trainee(build(NetConfig("gia-net", width=8)), with_heads=True)
    initialise(trainee)
    picture, depth, *_ = trainee(planes, 1, dropped(4))
    picture.square().mean().backward()
    assert all(parameter.grad is not None for parameter in trainee.network.parameters())
    assert not torch.allclose(picture, trainee(planes, 1)[0], atol=1e-3)
    plain = trainee.network.encode

    def noisy(x: torch.Tensor) -> list[torch.Tensor]:
        *skips, bottleneck = plain(x)
        return [*(skip + torch.randn_like(skip) for skip in skips), bottleneck]

    trainee.network.encode = noisy  # type: ignore[method-assign]
    assert torch.allclose(picture, trainee(planes, 1, dropped(4))[0], atol=1e-5)
    assert not torch.allclose(picture, trainee(planes, 1, dropped(3))[0], atol=1e-3)
    assert len(depth) == 4


def test_the_vector_is_asked_only_for_what_is_known() -> None:
    told = torch.tensor([[0.2, 0.5, 0.1, 0.9, 7.0], [0.4, 0.3, 0.6, 0.0, 7.0]])
    vector = (told - 0.5) / VECTOR_GAIN
    targets = told[:, :4] + torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert float(auxiliary_loss(vector, targets)) == pytest.approx(0.3 / 4)
    targets[0] = torch.nan
    targets[1, 3] = torch.nan
    assert float(auxiliary_loss(vector, targets)) == pytest.approx(0.14 / 3)
    leaf = vector.clone().requires_grad_()
    auxiliary_loss(leaf, torch.full_like(targets, torch.nan)).backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_teacher_forcing_replaces_the_vectors_own_estimates() -> None:
    network = lively(replace(small("gia-net"), width=12))
    assert isinstance(network, GiaNet)
    trainee = Trainee(network, with_heads=False)
    planes = torch.rand(2, 4, 32, 32)
    own, _, vector, _ = trainee(planes, 2)
    told = 0.5 + VECTOR_GAIN * vector[:, :4].detach()
    torch.testing.assert_close(trainee(planes, 2, None, told)[0], own, rtol=0, atol=1e-4)
    assert torch.equal(trainee(planes, 2, None, torch.full((2, 4), torch.nan))[0], own)
    other, _, still, _ = trainee(planes, 2, None, told + 0.5)
    assert not torch.allclose(other, own, atol=1e-3)
    assert torch.equal(still, vector)  # what it is asked for is its own


@pytest.mark.slow
def test_the_vector_learns_the_auxiliary_targets() -> None:
    """A few scenes can be learned by heart, through shrink and the way down."""
    torch.manual_seed(3)
    planes, targets = torch.rand(6, 4, 32, 32) * torch.rand(6, 1, 1, 1), torch.rand(3, 4)
    targets = targets.repeat_interleave(2, 0)
    network = build(replace(small("gia-net"), width=12))
    assert isinstance(network, GiaNet)
    initialise(network)
    init_identity_path(network, 4)
    trainee = Trainee(network, with_heads=False)
    optimizer = torch.optim.Adam(trainee.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        _, _, vector, _ = trainee(planes, 2)
        loss = auxiliary_loss(vector, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3
    deepest = network.encoder[4].get_submodule("0").get_parameter("weight")
    assert deepest.grad is not None
    assert deepest.grad.any()


@pytest.mark.parametrize("factor", [2, 3])
def test_a_pattern_of_sub_pixels_is_a_checkerboard_and_an_error_of_all_is_not(factor: int) -> None:
    generator = torch.Generator().manual_seed(3)
    side = 32 * factor
    target = torch.rand(2, 3, side, side, generator=generator)
    smooth = torch.linspace(0, 1, side)[None, None, :, None].expand_as(target)
    assert float(checkerboard_loss(target, target, factor)) == 0
    assert float(checkerboard_loss(target + 0.1, target, factor)) < 1e-7
    assert float(checkerboard_loss(target + 0.1 * smooth, target, factor)) < 0.1 * factor / side
    pattern = torch.zeros_like(target)
    pattern[..., ::factor, ::factor] = 0.1
    cells = factor * factor
    expected = 2 * 0.1 * (cells - 1) / cells**2
    assert float(checkerboard_loss(target + pattern, target, factor)) == pytest.approx(
        expected, rel=1e-4
    )
    noise = 0.1 * torch.randn(target.shape, generator=generator)
    assert float(checkerboard_loss(target + noise, target, factor)) < 0.1 / 16


def test_even_the_smallest_crops_have_blocks() -> None:
    target = torch.zeros(1, 3, 16, 16)
    picture = target.clone()
    picture[..., ::2, ::2] = 1
    assert float(checkerboard_loss(picture, target, 2)) == pytest.approx(0.375)


def test_deep_supervision_loss_is_zero_for_the_averaged_target() -> None:
    target = torch.rand(1, 3, 96, 96)
    exact = [torch.nn.functional.avg_pool2d(target, 3 * cell) for cell in (16, 8, 4, 2)]
    assert float(deep_supervision_loss(exact, target)) == pytest.approx(0, abs=1e-6)
    assert float(deep_supervision_loss([x + 0.1 for x in exact], target)) == pytest.approx(
        0.1, abs=1e-5
    )


# ---------------------------------------------------------------- planes without noise


@pytest.mark.parametrize("with_heads", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_raw_head_is_for_networks_with_levels(name: str, with_heads: bool) -> None:
    """It shows planes at packed resolution, and changes nothing else."""
    planes, network = torch.rand(2, 4, 32, 48), lively(small(name))
    trainee = Trainee(network, with_heads=with_heads, with_raw_head=True)
    picture, depth, _, raw = trainee(planes, 2)
    plain = Trainee(network, with_heads=with_heads)
    assert torch.equal(picture, plain(planes, 2)[0])
    assert plain(planes, 2)[3] is None
    assert len(depth) == (4 if with_heads and name in UNETS else 0)
    assert (raw is None) == (name not in UNETS)
    assert raw is None or raw.shape == planes.shape


@pytest.mark.slow
def test_a_raw_head_learns_a_constant() -> None:
    torch.manual_seed(0)
    trainee = Trainee(lively(small("gia-net")), with_heads=False, with_raw_head=True)
    planes, clean = torch.rand(2, 4, 32, 32), torch.full((2, 4, 32, 32), 0.04)
    optimizer = torch.optim.Adam(trainee.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        error = raw_loss(trainee(planes, 2)[3], clean)
        error.backward()
        optimizer.step()
    assert error < 0.02
    learned = trainee(planes, 2)[3].mean()
    assert float(learned.detach()) == pytest.approx(float(bt709_encode(np.array(0.04))), abs=0.02)


def test_the_raw_loss_counts_dark_places_and_nothing_beyond_white() -> None:
    """In code values, as numpy makes them of linear light."""
    clean = torch.tensor([0.0, 0.01, 0.3, 1.0, 7.0]).view(1, 5, 1, 1)
    encoded = torch.from_numpy(bt709_encode(clean.clamp(max=1).numpy()))
    assert float(raw_loss(encoded, clean)) < 1e-6
    errors = [float(raw_loss(encoded, clean + (clean == level) * 0.01)) for level in (0.01, 0.3, 7)]
    assert errors[0] > 2 * errors[1] > 0 == pytest.approx(errors[2], abs=1e-6)


@pytest.mark.parametrize("cfa", CFAS)
def test_a_raw_head_starts_with_the_pictures_colours(cfa: CfaKind) -> None:
    network = lively(small("gia-net", cfa))
    assert isinstance(network, GiaNet)
    trainee = Trainee(network, with_heads=False, with_raw_head=True)
    assert trainee.raw_head is not None
    init_raw_head(trainee.raw_head, network)
    picture, _, _, raw = trainee(torch.rand(1, PLANES[cfa], 32, 32), 1)
    cells = F.avg_pool2d(picture, SCALE[cfa])
    for plane, color in enumerate(PLANE_COLORS[cfa]):
        torch.testing.assert_close(raw[:, plane], cells[:, color], rtol=1e-4, atol=1e-4)
    raw.sum().backward()
    assert network.to_rgb.weight.grad is None  # a copy, not the layer itself
