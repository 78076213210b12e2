"""The networks, against counts from first principles and a plain implementation of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gia_cli.cfa import CfaKind
from gia_cli.errors import WeightsMismatchError
from gia_cli.nets import NETWORKS, NetConfig, NetName, build
from gia_cli.nets.blocks import by_bands
from gia_cli.nets.unet import GiaModule, UNet

pytestmark = pytest.mark.usefixtures("one_thread")

PLANES = {"bayer": 4, "xtrans": 9}
SCALE = {"bayer": 2, "xtrans": 3}
FAMILY: list[tuple[NetName, CfaKind]] = [
    ("sid-net", "bayer"),
    ("sid-net", "xtrans"),
    ("gia-net", "bayer"),
    ("gia-net", "xtrans"),
]


def lively(config: NetConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> UNet:
    """A network whose every part matters: Kaiming weights, biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    network = build(config)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=0.2, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)
    return network.to(dtype).eval()


def random_planes(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_bias(network: UNet, x: Tensor, bias: Tensor | None) -> Tensor:
    """The picture for a vector that is held fixed."""
    return network.decode(network.encode(x), bias)


# ---------------------------------------------------------------- parameter counts


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def expected_count(config: NetConfig) -> int:
    """Parameters by hand, from the papers' description alone."""
    w = config.width
    planes, scale = PLANES[config.cfa], SCALE[config.cfa]

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + outputs

    total = conv(w, 3 * scale**2, 1)
    for level in range(5):
        here = w * 2**level
        before = planes if level == 0 else here // 2
        total += conv(before, here, 3) + conv(here, here, 3)
        if level < 4:
            total += 2 * here * here * 4 + (here if config.upsample_bias else 0)
            total += conv(2 * here, here, 3) + conv(here, here, 3)
    if config.network == "gia-net":
        deepest = 16 * w
        total += conv(deepest, config.vector, 1) + conv(deepest + config.vector, deepest, 1)
    return total


@pytest.mark.parametrize("upsample_bias", [False, True])
@pytest.mark.parametrize(("name", "cfa"), FAMILY)
def test_parameters_are_those_of_the_papers_description(
    name: NetName, cfa: CfaKind, upsample_bias: bool
) -> None:
    for width, vector in ((4, 3), (32, 256)):
        config = NetConfig(name, cfa, width, vector, upsample_bias)
        with torch.device("meta"):
            assert count(build(config)) == expected_count(config)


@pytest.mark.parametrize(
    ("name", "cfa", "upsample_bias", "published"),
    [
        ("sid-net", "bayer", False, 7_760_268),
        ("sid-net", "bayer", True, 7_760_748),
        ("sid-net", "xtrans", False, 7_762_203),
        ("sid-net", "xtrans", True, 7_762_683),
        ("gia-net", "bayer", False, 8_285_324),
        ("gia-net", "bayer", True, 8_285_804),
        ("gia-net", "xtrans", False, 8_287_259),
        ("gia-net", "xtrans", True, 8_287_739),
    ],
)
def test_published_size_has_the_published_count(
    name: NetName, cfa: CfaKind, upsample_bias: bool, published: int
) -> None:
    with torch.device("meta"):
        assert count(build(NetConfig(name, cfa, upsample_bias=upsample_bias))) == published


@pytest.mark.parametrize("upsample_bias", [False, True])
@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
def test_global_module_costs_what_table_4_says(cfa: CfaKind, upsample_bias: bool) -> None:
    with torch.device("meta"):
        gia = build(NetConfig("gia-net", cfa, upsample_bias=upsample_bias))
        sid = build(NetConfig("sid-net", cfa, upsample_bias=upsample_bias))
    tolerance = 5e-5 if cfa == "bayer" else 1e-4  # the paper counts the Bayer networks
    assert count(gia) / count(sid) == pytest.approx(1.0677, abs=tolerance)


def test_table_of_networks_holds_the_published_sizes() -> None:
    assert {name: config.network for name, config in NETWORKS.items()} == {
        "sid-net": "sid-net",
        "gia-net": "gia-net",
    }
    for name, config in NETWORKS.items():
        assert config == NetConfig(name, "bayer", width=32, vector=256, upsample_bias=True)  # type: ignore[arg-type]


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("upsample_bias", [False, True])
@pytest.mark.parametrize(("name", "cfa"), FAMILY)
def test_config_survives_json(name: NetName, cfa: CfaKind, upsample_bias: bool) -> None:
    config = NetConfig(name, cfa, 12, 34, upsample_bias)
    assert NetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_config_from_older_json_takes_the_defaults() -> None:
    assert NetConfig.from_json({"network": "gia-net"}) == NetConfig("gia-net")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"cfa": "bayer"},
        {"network": "unet"},
        {"network": "gia-net", "cfa": "foveon"},
        {"network": "gia-net", "depth": 5},
        {"network": ["gia-net"]},
        {"network": "gia-net", "width": 0},
        {"network": "gia-net", "width": -32},
        {"network": "gia-net", "width": "32"},
        {"network": "gia-net", "width": 32.0},
        {"network": "gia-net", "vector": 0},
        {"network": "gia-net", "vector": None},
        {"network": "gia-net", "vector": True},
        None,
        "gia-net",
    ],
)
def test_config_refuses_what_it_does_not_know(values: Any) -> None:
    with pytest.raises(WeightsMismatchError) as caught:
        NetConfig.from_json(values)
    assert caught.value.exit_code == 43


def test_table_does_not_import_torch() -> None:
    code = (
        "import sys, gia_cli.nets as nets; nets.NetConfig('gia-net').to_json();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---------------------------------------------------------------- a plain implementation


def plain_forward(state: dict[str, Tensor], x: Tensor, scale: int) -> Tensor:
    """The whole network again: NCHW, one level after the other, concatenating everywhere."""

    def conv(name: str, x: Tensor, padding: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def two_convs(name: str, x: Tensor) -> Tensor:
        x = F.leaky_relu(conv(f"{name}.0", x, 1), 0.2)
        return F.leaky_relu(conv(f"{name}.2", x, 1), 0.2)

    skips = []
    for level in range(5):
        if level > 0:
            x = F.max_pool2d(x, kernel_size=2, stride=2)
        x = two_convs(f"encoder.{level}", x)
        skips.append(x)
    if "gia.fuse.weight" in state:
        mean = x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
        vector = conv("gia.shrink", mean.expand_as(x), 0)  # the paper's order: broadcast first
        x = conv("gia.fuse", torch.cat([x, vector], dim=1), 0)
    for step in range(4):
        bias = state.get(f"upsample.{step}.bias")
        x = F.conv_transpose2d(x, state[f"upsample.{step}.weight"], bias, stride=2)
        x = two_convs(f"decoder.{step}", torch.cat([x, skips[3 - step]], dim=1))
    x = conv("to_rgb", x, 0)
    count, channels, height, width = x.shape
    x = x.reshape(count, channels // scale**2, scale, scale, height, width)
    return x.permute(0, 1, 4, 2, 5, 3).reshape(count, 3, height * scale, width * scale)


@pytest.mark.parametrize("upsample_bias", [False, True])
@pytest.mark.parametrize(("name", "cfa"), FAMILY)
def test_forward_equals_a_plain_implementation(
    name: NetName, cfa: CfaKind, upsample_bias: bool
) -> None:
    network = lively(NetConfig(name, cfa, 4, 16, upsample_bias), dtype=torch.float64)
    x = random_planes(2, PLANES[cfa], 48, 32, dtype=torch.float64)
    with torch.no_grad():
        picture = network(x)
        expected = plain_forward(network.state_dict(), x, SCALE[cfa])
    assert picture.shape == (2, 3, 48 * SCALE[cfa], 32 * SCALE[cfa])
    assert expected.std() > 0.1
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-10 * float(expected.std()))


def test_gia_module_is_broadcast_concatenate_and_convolve() -> None:
    torch.manual_seed(3)
    module = GiaModule(24, 10).double()
    x = torch.randn(2, 24, 5, 7, dtype=torch.float64)
    mean = x.mean(dim=(2, 3))
    with torch.no_grad():
        result = module(x, module.bias(mean))
        vector = module.shrink(mean[:, :, None, None].expand(2, 24, 5, 7))
        expected = module.fuse(torch.cat([x, vector], dim=1))
    torch.testing.assert_close(result, expected)
    assert (module.bias(mean) - module.bias(mean + 1)).abs().min() > 0


def test_gia_module_leaves_its_input_alone() -> None:
    module = GiaModule(8, 4)
    x = torch.randn(1, 8, 3, 3)
    before = x.clone()
    with torch.no_grad():
        module(x, module.bias(x.mean(dim=(2, 3))))
    assert torch.equal(x, before)


# ---------------------------------------------------------------- the vector


def test_only_gia_net_has_a_vector() -> None:
    gia, sid = build(NetConfig("gia-net", width=2)), build(NetConfig("sid-net", width=2))
    mean = torch.rand(1, 32)
    assert gia.has_vector
    assert not sid.has_vector
    assert gia.global_bias(mean) is not None
    assert sid.global_bias(mean) is None
    assert not any(name.startswith("gia") for name in sid.state_dict())


def test_gia_net_refuses_to_decode_without_a_bias() -> None:
    network = build(NetConfig("gia-net", width=2))
    with pytest.raises(ValueError, match="bias"):
        network.decode(network.encode(random_planes(1, 4, 16, 16)), None)


def test_another_vector_makes_another_picture() -> None:
    network = lively(NetConfig("gia-net", width=4, vector=16))
    x = random_planes(1, 4, 32, 32)
    with torch.no_grad():
        mean = network.encode(x)[-1].mean(dim=(2, 3))
        own = with_bias(network, x, network.global_bias(mean))
        other = with_bias(network, x, network.global_bias(-mean))
        torch.testing.assert_close(own, network(x))
    assert (own - other).std() > 0.1 * own.std()


def test_one_end_of_a_frame_reaches_the_other_by_the_vector_alone() -> None:
    x = random_planes(1, 4, 256, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, :16] = 1 - changed[:, :, :16]
    moved = {}
    for name in ("sid-net", "gia-net"):
        network = lively(NetConfig(name, width=4, vector=16), dtype=torch.float64)
        with torch.no_grad():
            difference = (network(changed) - network(x))[:, :, -32:]
        moved[name] = float(difference.abs().max())
    assert moved["sid-net"] == 0
    assert moved["gia-net"] > 1e-3


# ---------------------------------------------------------------- bands


@pytest.mark.parametrize("height", [80, 96, 208])
@pytest.mark.parametrize(
    ("cfa", "dtype", "tolerance"),
    [
        ("bayer", torch.float32, 1e-5),
        ("bayer", torch.float64, 1e-13),
        ("xtrans", torch.float32, 1e-5),
        ("xtrans", torch.float64, 1e-13),
    ],
)
def test_bands_change_nothing(
    cfa: CfaKind, dtype: torch.dtype, tolerance: float, height: int
) -> None:
    network = lively(NetConfig("gia-net", cfa, width=4, vector=16), dtype=dtype)
    x = random_planes(2, PLANES[cfa], height, 32, dtype=dtype)
    calls: list[int] = []
    for stage in (network.encoder[0], network.encoder[1], network.decoder[2], network.decoder[3]):
        stage.register_forward_hook(lambda *_, stage=stage: calls.append(id(stage)))
    whole = network(x).detach()
    assert len(calls) == 4  # with gradients each stage runs once
    calls.clear()
    with torch.inference_mode():
        banded = network(x)
    assert min(calls.count(stage) for stage in set(calls)) > 1
    assert len(set(calls)) == 4
    atol = tolerance * float(whole.abs().max())
    torch.testing.assert_close(banded, whole, rtol=0, atol=atol)


def test_encoder_bands_change_no_feature() -> None:
    network = lively(NetConfig("sid-net", width=4), dtype=torch.float64)
    x = random_planes(1, 4, 144, 48, dtype=torch.float64)
    whole = [feature.detach() for feature in network.encode(x)]
    with torch.inference_mode():
        banded = network.encode(x)
    assert [f.shape for f in banded] == [(1, 4 << n, 144 >> n, 48 >> n) for n in range(5)]
    for one, other in zip(banded, whole, strict=True):
        atol = 1e-13 * float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


def test_too_little_halo_shows() -> None:
    """What keeps the tests above honest: bands without their context differ."""
    stage = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(stage.weight)
    x = random_planes(1, 1, 160, 8)
    with torch.inference_mode():
        whole = stage(x)
        assert torch.allclose(by_bands(stage, [x], rows_in=[1], rows_out=1), whole)
        without = by_bands(stage, [x], rows_in=[1], rows_out=1, halo=0)
    assert (without - whole).abs().max() > 0.1


def test_bands_serve_inputs_of_different_heights() -> None:
    def stage(coarse: Tensor, fine: Tensor) -> Tensor:
        return F.interpolate(coarse, scale_factor=2) + fine

    coarse, fine = random_planes(1, 2, 100, 3), random_planes(1, 2, 200, 6, seed=2)
    with torch.inference_mode():
        banded = by_bands(stage, [coarse, fine], rows_in=[1, 2], rows_out=2)
    assert torch.equal(banded, stage(coarse, fine))


# ---------------------------------------------------------------- stride and halo


@pytest.mark.parametrize("is_inference", [False, True])
@pytest.mark.parametrize("size", [(8, 16), (16, 24), (33, 16), (65, 16), (16, 17), (80, 40)])
def test_sizes_beside_the_stride_are_refused(size: tuple[int, int], is_inference: bool) -> None:
    network = build(NetConfig("sid-net", width=2))
    with torch.inference_mode(is_inference), pytest.raises(ValueError, match="multiple of 16"):
        network(random_planes(1, 4, *size))


def interior_difference(shift: int) -> float:
    """How far the picture of a shifted frame is from the shifted picture, away from its ends."""
    network = lively(NetConfig("gia-net", width=4, vector=8), dtype=torch.float64)
    x = random_planes(1, 4, 288, 16, dtype=torch.float64)
    bias = torch.ones(1, 64, dtype=torch.float64)
    with torch.no_grad():
        picture = with_bias(network, x, bias)
        shifted = with_bias(network, x.roll(shift, dims=2), bias)
    rows = slice(2 * 128, 2 * 160)
    return float((shifted - picture.roll(2 * shift, dims=2))[:, :, rows].abs().max())


def test_stride_is_the_period_of_the_poolings() -> None:
    assert UNet.stride == 16
    assert interior_difference(16) < 1e-12
    for too_little in (1, 2, 4, 8):
        assert interior_difference(too_little) > 1e-3


CORE = slice(160, 176)  # one cell of the bottleneck, rows


def change_in_core(distance: int, sign: int, *, bottleneck: bool = False) -> float:
    """Most that a row `distance` beyond the core changes within it; the vector is held fixed."""
    network = lively(NetConfig("gia-net", width=4, vector=8), dtype=torch.float64)
    x = random_planes(1, 4, 336, 16, dtype=torch.float64)
    changed = x.clone()
    row = CORE.start - distance if sign < 0 else CORE.stop - 1 + distance
    changed[:, :, row] += 10 * (random_planes(4, 16, seed=5, dtype=torch.float64) - 0.5)
    bias = torch.ones(1, 64, dtype=torch.float64)
    with torch.no_grad():
        if bottleneck:
            difference = network.encode(changed)[-1] - network.encode(x)[-1]
            difference = difference[:, :, CORE.start // 16]
        else:
            difference = with_bias(network, changed, bias) - with_bias(network, x, bias)
            difference = difference[:, :, 2 * CORE.start : 2 * CORE.stop]
    return float(difference.abs().max())


@pytest.mark.parametrize("sign", [-1, 1])
def test_halo_covers_the_receptive_field(sign: int) -> None:
    assert UNet.halo % UNet.stride == 0
    for beyond in (1, 2, 16, 40):
        assert change_in_core(UNet.halo + beyond, sign) == 0
    for within in (1, 60, 92, 94):
        assert change_in_core(within, sign) > 1e-6


@pytest.mark.parametrize("sign", [-1, 1])
def test_vector_halo_covers_the_bottlenecks_receptive_field(sign: int) -> None:
    assert UNet.vector_halo % UNet.stride == 0
    for beyond in (1, 2, 16, 40):
        assert change_in_core(UNet.vector_halo + beyond, sign, bottleneck=True) == 0
    for within in (1, 40, 62):
        assert change_in_core(within, sign, bottleneck=True) > 1e-6


# ---------------------------------------------------------------- training and memory


@pytest.mark.parametrize(("name", "cfa"), FAMILY)
def test_gradients_reach_every_parameter(name: NetName, cfa: CfaKind) -> None:
    network = lively(NetConfig(name, cfa, width=4, vector=8), dtype=torch.float64).train()
    x = random_planes(1, PLANES[cfa], 32, 48, dtype=torch.float64)
    network(x).square().mean().backward()
    silent = [
        key
        for key, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 1e-12
    ]
    assert silent == []


def test_build_gives_a_network_ready_to_train() -> None:
    network = build(NetConfig("gia-net", width=2))
    assert network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in network.parameters())


def test_decode_frees_the_features() -> None:
    network = build(NetConfig("sid-net", width=2))
    features = network.encode(random_planes(1, 4, 16, 16))
    network.decode(features, None)
    assert features == []


@pytest.mark.parametrize(("name", "cfa"), FAMILY)
def test_stated_memory_holds_the_frame_the_skips_and_the_picture(
    name: NetName, cfa: CfaKind
) -> None:
    for width in (8, 32):
        network = build(NetConfig(name, cfa, width))
        skips = sum(width * 2**n / 4**n for n in range(5))
        tensors = 4 * (PLANES[cfa] + skips + 3 * SCALE[cfa] ** 2)
        assert tensors < network.bytes_per_pixel < 3 * tensors
