"""A network that starts from another's weights: across arrays, white balances and the vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gia_cli.errors import WeightsMismatchError
from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS, NetConfig
from gia_cli.raw.cfa import PLANE_COLORS, CfaKind
from gia_cli.weights.transfer import transfer
from tests.networks import UNETS, lively, small
from tests.training.runs import assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_xtrans_network_starts_from_bayer_weights() -> None:
    """A flat field gives the same features, and a flat picture the same colours."""
    donor = build(NetConfig("gia-net", width=4))
    network = build(NetConfig("gia-net", cfa="xtrans", width=4))
    translated, missing, left_out = transfer(network, donor)
    assert missing == left_out == []
    assert sorted(translated) == ["encoder.0.0.weight", "to_rgb.bias", "to_rgb.weight"]
    for name, tensor in network.state_dict().items():
        assert name in translated or torch.equal(tensor, donor.state_dict()[name]), name
    color = torch.tensor([0.2, 0.5, 0.3])
    first, last = [], []
    for net in (donor, network):
        flat = color[list(PLANE_COLORS[net.config.cfa])].view(1, -1, 1, 1).expand(1, -1, 5, 5)
        first.append(net.get_submodule("encoder.0.0")(flat)[..., 2, 2])
        last.append(
            F.pixel_shuffle(net.get_submodule("to_rgb")(torch.ones(1, 4, 1, 1)), net.config.scale)
        )
    assert torch.allclose(first[0], first[1], atol=1e-6)
    assert torch.allclose(last[0].mean((2, 3)), last[1].mean((2, 3)), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("source", "target"), [("bayer", "xtrans"), ("xtrans", "bayer")])
def test_every_network_starts_from_the_other_array(
    name: str, source: CfaKind, target: CfaKind
) -> None:
    """A flat field gives the same colours, where the donor's sub-pixels agree among themselves."""
    donor, network = lively(small(name, source)), lively(small(name, target), seed=1)
    with torch.no_grad():
        for writer in donor.picture_writers:
            per_color = donor.get_parameter(writer).unflatten(0, (3, -1))
            per_color.copy_(per_color.mean(1, keepdim=True).expand_as(per_color))
    translated = transfer(network, donor).translated
    assert set(translated) == {*network.plane_readers, *network.picture_writers}
    color = torch.tensor([0.2, 0.5, 0.3])
    colors = []
    for net in (donor, network):
        planes = color[list(PLANE_COLORS[net.config.cfa])].view(1, -1, 1, 1)
        # Far from the border, which no network sees as flat.
        side = -(-(2 * net.halo + 16) // 16) * 16
        with torch.no_grad():
            picture = net(planes.expand(1, -1, side, side))
        middle, cell = side // 2 // 16 * 16 * net.config.scale, 16 * net.config.scale
        colors.append(picture[0, :, middle : middle + cell, middle : middle + cell].mean((1, 2)))
    torch.testing.assert_close(colors[0], colors[1], rtol=0, atol=1e-4)


def test_equal_arrays_take_all_weights_over() -> None:
    donor = build(NetConfig("gia-net", width=4))
    network = build(NetConfig("gia-net", width=4))
    assert transfer(network, donor, (2.0, 1.0, 2.5)) == ([], [], [])
    assert_equal(network.state_dict(), donor.state_dict())


@pytest.mark.parametrize(
    "donor",
    [
        NetConfig("se-unet", width=4),
        NetConfig("sid-dilated", width=4),
        NetConfig("gia-net", width=8),
        NetConfig("dncnn", width=4),
        NetConfig("sgn", "xtrans", width=4),
    ],
)
def test_other_networks_cannot_be_started_from(donor: NetConfig) -> None:
    with pytest.raises(WeightsMismatchError, match="cannot start from"):
        transfer(build(NetConfig("gia-net", width=4)), build(donor))


def test_gia_net_and_sid_net_start_from_one_another() -> None:
    """The picture stays: all of it where the vector begins, all but the vector where it ends."""
    sid, gia = lively(small("sid-net")), build(small("gia-net"))
    planes = torch.rand(1, 4, 32, 32)
    translated, missing, left_out = transfer(gia, sid)
    assert missing == [name for name in gia.state_dict() if name.startswith("gia.")]
    assert translated == left_out == []
    with torch.no_grad():
        torch.testing.assert_close(gia.eval()(planes), sid(planes), rtol=0, atol=1e-5)
    gia = lively(small("gia-net"))
    with torch.no_grad():  # no vector, and no bias that differs from sub-pixel to sub-pixel
        for name in ("gia.shrink.weight", "gia.shrink.bias", "gia.fuse.bias"):
            gia.get_parameter(name).zero_()
    translated, missing, left_out = transfer(sid, gia)
    assert translated == ["upsample.0.weight", "upsample.0.bias"]
    assert missing == []
    assert left_out == [name for name in gia.state_dict() if name.startswith("gia.")]
    with torch.no_grad():
        torch.testing.assert_close(sid.eval()(planes), gia(planes), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*UNETS, "sgn"])
@pytest.mark.parametrize("kind", ["bayer", "xtrans"])
def test_the_usual_light_looks_the_same_with_and_without_white_balance(
    name: str, kind: CfaKind, rng: np.random.Generator
) -> None:
    donor = lively(small(name, kind))
    network = build(replace(small(name, kind), white_balance="as-shot"))
    gains = (1.8, 1.0, 2.5)
    side = 2 * network.stride
    planes = torch.from_numpy(
        rng.uniform(0, 0.3, (1, donor.config.in_channels, side, side)).astype(np.float32)
    )
    balance = torch.tensor(gains)[list(PLANE_COLORS[kind])].view(1, -1, 1, 1)
    assert set(transfer(network, donor, gains).translated) == set(network.plane_readers)
    back = build(donor.config)
    transfer(back, network, gains)
    with torch.no_grad():
        expected = donor(planes)
        torch.testing.assert_close(network.eval()(planes * balance), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(back.eval()(planes), expected, rtol=0, atol=1e-4)
