"""The networks, against counts from first principles and a plain implementation of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gia_cli.errors import WeightsMismatchError
from gia_cli.nets import blocks, build
from gia_cli.nets.blocks import by_bands, shuffled_picture
from gia_cli.nets.config import NETWORKS, NetConfig, NetName
from gia_cli.nets.unet import GiaModule, GiaNet, UNet
from gia_cli.raw.cfa import CfaKind
from tests.live_memory import LiveMemory
from tests.networks import ALL, CFAS, PLANES, SCALE, UNETS, lively, random_planes, small

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILY: list[tuple[NetName, CfaKind]] = [(name, cfa) for name in UNETS for cfa in CFAS]


def unet(config: NetConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> UNet:
    """A lively network of the U-Net family."""
    network = lively(config, seed).to(dtype)
    assert isinstance(network, UNet)
    return network


def with_term(network: UNet, x: Tensor, term: Tensor | None) -> Tensor:
    """The picture for a vector that is held fixed."""
    return network.decode(network.encode(x), term)


# ---------------------------------------------------------------- the last layer


def test_the_last_layer_computes_in_fp32_under_autocast() -> None:
    """Autocast would take its fp32 inputs back to half precision: the picture had 8 bits."""
    x = random_planes(2, 8, 16, 16).bfloat16()
    conv = nn.Conv2d(8, 12, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
        picture = shuffled_picture(conv, x, 2)
        assert torch.is_autocast_enabled("cpu")  # as it was, for what follows
    assert picture.dtype == torch.float32
    assert torch.equal(picture, shuffled_picture(conv, x.float(), 2))


@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_autocast_rounds_no_picture_and_no_gradient_of_the_last_layer(
    name: str, cfa: CfaKind
) -> None:
    network = build(small(name, cfa)).train()
    planes = random_planes(2, PLANES[cfa], 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        picture = network(planes)
    assert picture.dtype == torch.float32
    assert not torch.equal(picture, picture.bfloat16().float())
    picture.square().mean().backward()
    gradient = network.get_parameter("to_rgb.weight").grad
    assert gradient is not None
    assert not torch.equal(gradient, gradient.bfloat16().float())


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
        # Dilation costs nothing, nor do two halves of the output channels.
        total += conv(before, here, 3) + conv(here, here, 3)
        if level < 4:
            total += 2 * here * here * 4 + (here if config.upsample_bias else 0)
            total += conv(2 * here, here, 3) + conv(here, here, 3)
    deepest = 16 * w
    if config.network == "gia-net":
        total += conv(deepest, config.vector, 1) + conv(deepest + config.vector, deepest, 1)
    if config.network == "se-unet":
        total += conv(deepest, deepest // 16, 1) + conv(deepest // 16, deepest, 1)
    if config.network == "sid-2conv":
        total += 2 * conv(deepest, deepest, 3)
    return total


@pytest.mark.slow
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
        ("sid-dilated", "bayer", True, 7_760_748),  # as SID-Net
        ("sid-dilated", "xtrans", True, 7_762_683),
        ("sw-net", "bayer", True, 7_760_748),  # as SID-Net
        ("sw-net", "xtrans", True, 7_762_683),
        ("se-unet", "bayer", True, 7_794_060),  # SID-Net + 2 * 512 * 32 + 32 + 512
        ("se-unet", "xtrans", True, 7_795_995),
        ("sid-2conv", "bayer", True, 12_480_364),  # SID-Net + 2 * (9 * 512 + 1) * 512
        ("sid-2conv", "xtrans", True, 12_482_299),
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
    assert set(NETWORKS) == {*UNETS, "dncnn", "ridnet", "sgn"} == set(get_args(NetName))
    for name, config in NETWORKS.items():
        width = 64 if name in ("dncnn", "ridnet") else 32
        assert config == NetConfig(name, "bayer", width, vector=256, upsample_bias=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_every_network_of_the_table_can_be_built(name: str, cfa: CfaKind) -> None:
    config = replace(NETWORKS[name], cfa=cfa)
    with torch.device("meta"):
        network = build(config)
    assert network.config == config
    assert network.training


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


def plain_forward(network: str, state: dict[str, Tensor], x: Tensor, scale: int) -> Tensor:
    """The whole network again: NCHW, one level after the other, concatenating everywhere."""

    def conv(name: str, x: Tensor, padding: int, dilation: int = 1) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.conv2d(x, weight, bias, padding=padding, dilation=dilation)

    def conv3(name: str, x: Tensor) -> Tensor:
        if network == "sid-dilated":
            return conv(name, x, 2, 2)
        if network == "sw-net":
            halves = conv(f"{name}.plain", x, 1), conv(f"{name}.dilated", x, 2, 2)
            assert halves[0].shape == halves[1].shape
            return torch.cat(halves, dim=1)
        return conv(name, x, 1)

    def two_convs(name: str, x: Tensor) -> Tensor:
        x = F.leaky_relu(conv3(f"{name}.0", x), 0.2)
        return F.leaky_relu(conv3(f"{name}.2", x), 0.2)

    skips = []
    for level in range(5):
        if level > 0:
            x = F.max_pool2d(x, kernel_size=2, stride=2)
        x = two_convs(f"encoder.{level}", x)
        skips.append(x)
    if network == "sid-2conv":
        x = two_convs("extra", x)
    if network == "se-unet":
        mean = x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
        x = x * torch.sigmoid(conv("se.excite", F.relu(conv("se.squeeze", mean, 0)), 0))
    if network == "gia-net":
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


@pytest.mark.slow
@pytest.mark.parametrize("upsample_bias", [False, True])
@pytest.mark.parametrize(("name", "cfa"), FAMILY)
def test_forward_equals_a_plain_implementation(
    name: NetName, cfa: CfaKind, upsample_bias: bool
) -> None:
    network = unet(NetConfig(name, cfa, 4, 16, upsample_bias), dtype=torch.float64)
    x = random_planes(2, PLANES[cfa], 48, 32, dtype=torch.float64)
    with torch.no_grad():
        picture = network(x)
        expected = plain_forward(name, network.state_dict(), x, SCALE[cfa])
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


def test_sid_net_has_nothing_in_its_bottleneck() -> None:
    gia, sid = build(NetConfig("gia-net", width=2)), build(NetConfig("sid-net", width=2))
    more = {name.rpartition(".")[0] for name in gia.state_dict().keys() - sid.state_dict().keys()}
    assert more == {"gia.shrink", "gia.fuse"}


def test_checkpoints_of_the_first_version_keep_their_order() -> None:
    """Optimisers count parameters, seeds draw them, in this order."""
    network = build(NetConfig("gia-net", width=2))
    parts = [name.partition(".")[0] for name, _ in network.named_parameters()]
    assert list(dict.fromkeys(parts)) == ["encoder", "gia", "upsample", "decoder", "to_rgb"]


def test_another_vector_makes_another_picture() -> None:
    network = unet(NetConfig("gia-net", width=4, vector=16))
    x = random_planes(1, 4, 32, 32)
    with torch.no_grad():
        mean = network.encode(x)[-1].mean(dim=(2, 3))
        own = with_term(network, x, network.global_term(0, mean))
        other = with_term(network, x, network.global_term(0, -mean))
        torch.testing.assert_close(own, network(x))
    assert (own - other).std() > 0.1 * own.std()


def test_one_end_of_a_frame_reaches_the_other_by_the_vector_alone() -> None:
    x = random_planes(1, 4, 256, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, :16] = 1 - changed[:, :, :16]
    moved = {}
    for name in ("sid-net", "gia-net"):
        network = unet(NetConfig(name, width=4, vector=16), dtype=torch.float64)
        with torch.no_grad():
            difference = (network(changed) - network(x))[:, :, -32:]
        moved[name] = float(difference.abs().max())
    assert moved["sid-net"] == 0
    assert moved["gia-net"] > 1e-3


# ---------------------------------------------------------------- bands


@pytest.mark.slow
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
    network = unet(NetConfig("gia-net", cfa, width=4, vector=16), dtype=dtype)
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
    network = unet(NetConfig("sid-net", width=4), dtype=torch.float64)
    x = random_planes(1, 4, 144, 48, dtype=torch.float64)
    whole = [feature.detach() for feature in network.encode(x)]
    with torch.inference_mode():
        banded = network.encode(x)
    assert [f.shape for f in banded] == [(1, 4 << n, 144 >> n, 48 >> n) for n in range(5)]
    for one, other in zip(banded, whole, strict=True):
        atol = 1e-13 * float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


def test_what_training_reads_off_the_levels_is_whole_in_inference_too() -> None:
    network = unet(small("gia-net"))
    x, found = random_planes(1, PLANES["bayer"], 80, 16), []
    for is_inference in (True, False):
        levels: list[Tensor] = []
        with torch.set_grad_enabled(not is_inference):
            picture = network(x, 1, levels)
        widths = (*network.deep_widths, network.top_width)
        assert [level.shape[1] for level in levels] == list(widths)
        assert levels[-1].shape[2:] == x.shape[2:]
        read_off = shuffled_picture(network.to_rgb, levels[-1], SCALE["bayer"])
        torch.testing.assert_close(read_off, picture)
        found.append(levels)
    for inferred, trained in zip(*found, strict=True):
        torch.testing.assert_close(inferred, trained)


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


@pytest.mark.parametrize(
    ("width", "rows"), [(64, 256), (2048, 256), (2128, 246), (4784, 109), (10**6, 32)]
)
def test_bands_are_taller_off_the_cpu_and_never_larger_than_is_counted(
    width: int, rows: int
) -> None:
    for device, expected in (("cpu", 32), ("meta", rows)):
        x = torch.empty(1, 1, 1, width, device=device)
        assert blocks._band_rows(x) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_tall_bands_give_the_same_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = lively(replace(NETWORKS[name], width=4, vector=8))
    x = random_planes(1, 4, 272, 16)
    with torch.inference_mode():
        flat = network(x)
        monkeypatch.setattr(blocks, "_band_rows", lambda x: 256)
        tall = network(x)
    assert (tall - flat).abs().max() < 4e-5 * flat.std()


@pytest.mark.slow
def test_off_the_cpu_a_frame_takes_few_launches() -> None:
    """Counted with tensors that hold nothing: at 12 megapixels 176, where 32 rows take 1,118."""
    with torch.device("meta"):
        network = build(NETWORKS["sid-net"]).eval()
        x = torch.empty(1, 4, 1424, 2128)
    with torch.inference_mode(), LiveMemory() as memory:
        network(x)
    assert memory.launches < 200


# ---------------------------------------------------------------- stride and halo


@pytest.mark.parametrize("is_inference", [False, True])
@pytest.mark.parametrize("size", [(8, 16), (16, 24), (33, 16), (65, 16), (16, 17), (80, 40)])
def test_sizes_beside_the_stride_are_refused(size: tuple[int, int], is_inference: bool) -> None:
    network = build(NetConfig("sid-net", width=2))
    with torch.inference_mode(is_inference), pytest.raises(ValueError, match="multiple of 16"):
        network(random_planes(1, 4, *size))


def interior_difference(shift: int) -> float:
    """How far the picture of a shifted frame is from the shifted picture, away from its ends."""
    network = unet(NetConfig("gia-net", width=4, vector=8), dtype=torch.float64)
    x = random_planes(1, 4, 288, 16, dtype=torch.float64)
    bias = torch.ones(1, 64, dtype=torch.float64)
    with torch.no_grad():
        picture = with_term(network, x, bias)
        shifted = with_term(network, x.roll(shift, dims=2), bias)
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
    network = unet(NetConfig("gia-net", width=4, vector=8), dtype=torch.float64)
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
            difference = with_term(network, changed, bias) - with_term(network, x, bias)
            difference = difference[:, :, 2 * CORE.start : 2 * CORE.stop]
    return float(difference.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("sign", [-1, 1])
def test_halo_covers_the_receptive_field(sign: int) -> None:
    assert UNet.halo % UNet.stride == 0
    for beyond in (1, 2, 16, 40):
        assert change_in_core(UNet.halo + beyond, sign) == 0
    for within in (1, 60, 92, 94):
        assert change_in_core(within, sign) > 1e-6


@pytest.mark.parametrize("sign", [-1, 1])
def test_vector_halo_covers_the_bottlenecks_receptive_field(sign: int) -> None:
    assert GiaNet.vector_halos[0] % GiaNet.stride == 0
    for beyond in (1, 2, 16, 40):
        assert change_in_core(GiaNet.vector_halos[0] + beyond, sign, bottleneck=True) == 0
    for within in (1, 40, 62):
        assert change_in_core(within, sign, bottleneck=True) > 1e-6


# ---------------------------------------------------------------- training and memory


def test_build_gives_a_network_ready_to_train() -> None:
    network = build(NetConfig("gia-net", width=2))
    assert network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), FAMILY)
def test_stated_memory_holds_the_frame_the_skips_and_the_picture(
    name: NetName, cfa: CfaKind
) -> None:
    for width in (8, 32):
        network = build(NetConfig(name, cfa, width))
        skips = sum(width * 2**n / 4**n for n in range(5))
        tensors = 4 * (PLANES[cfa] + skips + 3 * SCALE[cfa] ** 2)
        assert tensors < network.bytes_per_pixel < 3 * tensors
