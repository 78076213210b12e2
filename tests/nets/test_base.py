"""What every network states and does, whichever it is: its chain, its sight, its groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.config import NETWORKS
from gia_cli.raw.cfa import CfaKind
from tests.networks import (
    ALL,
    CFAS,
    PLANES,
    SCALE,
    WITH_VECTORS,
    global_terms,
    lively,
    random_planes,
    small,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_a_mosaic_becomes_a_picture(name: str, cfa: CfaKind) -> None:
    network = lively(small(name, cfa))
    with torch.no_grad():
        picture = network(random_planes(2, PLANES[cfa], 48, 32))
    assert picture.shape == (2, 3, 48 * SCALE[cfa], 32 * SCALE[cfa])
    assert 0.2 < picture.std() < 5
    assert (picture[0] - picture[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_vectors_are_those_of_the_paper(name: str) -> None:
    network = build(small(name))
    assert network.vectors == len(network.vector_halos) == WITH_VECTORS.get(name, 0)
    assert all(halo % network.stride == 0 for halo in (network.halo, *network.vector_halos))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_gradients_reach_every_parameter(name: str, cfa: CfaKind) -> None:
    network = lively(small(name, cfa)).double().train()
    network(random_planes(2, PLANES[cfa], 32, 48, dtype=torch.float64)).square().mean().backward()
    silent = [
        key
        for key, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 1e-12
    ]
    assert silent == []


# ---------------------------------------------------------------- the chain


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_frame_runs_each_segment_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = lively(small(name))
    calls: list[str] = []

    def note(segment: str) -> None:
        run = getattr(network, segment)

        def noted(*rest: Any) -> Any:
            calls.append(segment)
            return run(*rest)

        monkeypatch.setattr(network, segment, noted)

    for segment in ("encode", "global_term", "advance", "decode"):
        note(segment)
    with torch.no_grad():
        network(random_planes(1, 4, 32, 32))
    vectors = WITH_VECTORS.get(name, 0)
    middle = ["global_term", "advance"] * vectors
    assert calls == ["encode", *middle[: 2 * vectors - 1 if vectors else 0], "decode"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_the_chain_by_hand_is_the_forward_pass(name: str, cfa: CfaKind) -> None:
    network = lively(small(name, cfa)).double()
    x = random_planes(1, PLANES[cfa], 48, 64, dtype=torch.float64)
    with torch.no_grad():
        picture = network.render(network.encode(x), global_terms(network, x))
        torch.testing.assert_close(picture, network(x), rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "index"), [(name, k) for name, count in WITH_VECTORS.items() for k in range(count)]
)
def test_each_vector_matters(name: str, index: int) -> None:
    """With weights like these a wrong mean shows: far above what tiles are allowed to differ."""
    network = lively(small(name))
    x = random_planes(1, 4, 64, 64)
    with torch.no_grad():
        terms = global_terms(network, x)
        own = network.render(network.encode(x), terms)
        feature = network.measure(network.encode(x), terms[:index])
        edge = feature[:, :, :, :1].mean(dim=(2, 3))
        other_terms = [*terms[:index], network.global_term(index, edge), *terms[index + 1 :]]
        other = network.render(network.encode(x), other_terms)
    assert (other - own).abs().max() > 0.03 * own.std()


@pytest.mark.parametrize("name", NETWORKS)
def test_terms_of_another_network_are_refused(name: str) -> None:
    network = build(small(name))
    with torch.no_grad():
        features = network.encode(random_planes(1, 4, 16, 16))
        with pytest.raises(ValueError, match=f"needs {network.vectors} global terms"):
            network.render(features, [torch.zeros(1, 4)] * (network.vectors + 1))
        if network.vectors:
            with pytest.raises(ValueError, match="needs a global term"):
                network.decode(features, None)


@pytest.mark.parametrize("name", NETWORKS)
def test_segments_free_the_features(name: str) -> None:
    network = lively(small(name))
    x = random_planes(1, 4, 32, 32)
    with torch.no_grad():
        terms = global_terms(network, x)
        features = network.encode(x)
        network.render(features, terms)
        assert features == []
        for known in range(network.vectors):
            features = network.encode(x)
            network.measure(features, terms[:known])
            assert features == []


# ---------------------------------------------------------------- groups


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_a_group_is_one_photo(name: str, cfa: CfaKind) -> None:
    """Its crops share every mean, over all of them: what tiles do."""
    network = lively(small(name, cfa)).double()
    x = random_planes(4, PLANES[cfa], 32, 32, dtype=torch.float64)
    x[1] *= 0.3
    with torch.no_grad():
        grouped, alone = network(x, 2), network(x)
        for photo in (x[:2], x[2:]):
            terms = [term.expand(2, -1) for term in global_terms(network, photo)]
            expected = network.render(network.encode(photo), terms)
            place = slice(0, 2) if photo.data_ptr() == x.data_ptr() else slice(2, 4)
            torch.testing.assert_close(grouped[place], expected, rtol=0, atol=1e-11)
    if network.vectors:
        assert (grouped - alone)[:2].abs().max() > 1e-3
    else:
        assert torch.equal(grouped, alone)


# ---------------------------------------------------------------- sight


def seen_rows(network: Network, core: int, rows: int, part: int | None) -> tuple[int, int]:
    """How far above and below a core of `stride` rows its picture (or a mean's map) reaches.

    By the gradient, which is zero exactly where nothing is seen; the vectors are held fixed.
    """
    channels, stride = network.config.in_channels, network.stride
    x = random_planes(1, channels, rows, 32, dtype=torch.float64)
    with torch.no_grad():
        terms = global_terms(network, x)
    x.requires_grad_()
    if part is None:
        picture = network.render(network.encode(x), terms)
        scale = network.config.scale
        result = picture[:, :, core * scale : (core + stride) * scale]
    else:
        feature = network.measure(network.encode(x), terms[:part])
        result = feature[:, :, core // stride]
    (gradient,) = torch.autograd.grad((result * torch.randn_like(result)).sum(), x)
    seen = gradient[0].abs().sum(dim=(0, 2)).nonzero()[:, 0]
    return core - int(seen[0]), int(seen[-1]) - (core + stride - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_stated_halos_are_what_is_seen(name: str) -> None:
    """Enough, and no more than the rounding to whole cells too much."""
    network = lively(small(name)).double()
    torch.manual_seed(4)
    for part, halo in enumerate([*network.vector_halos, network.halo]):
        core = halo + network.stride
        rows = 2 * core + network.stride
        is_picture = part == network.vectors
        above, below = seen_rows(network, core, rows, None if is_picture else part)
        assert halo - network.stride < above <= halo
        assert halo - network.stride < below <= halo


@pytest.mark.parametrize("name", ["sgn", "ridnet", "dncnn"])
def test_sizes_are_multiples_of_the_stride(name: str) -> None:
    network = lively(small(name))
    with torch.no_grad():
        if network.stride == 1:
            assert network(random_planes(1, 4, 7, 5)).shape == (1, 3, 14, 10)
        else:
            with pytest.raises(ValueError, match=f"multiple of {network.stride}"):
                network(random_planes(1, 4, 16, 12))


# ---------------------------------------------------------------- bands, meter, memory


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_bands_change_nothing(name: str, cfa: CfaKind) -> None:
    network = lively(small(name, cfa)).double()
    x = random_planes(1, PLANES[cfa], 208, 32, dtype=torch.float64)
    calls: list[nn.Module] = []
    for stage, _ in network.stages:
        stage.register_forward_hook(lambda module, *_: calls.append(module))
    whole: Tensor = network(x).detach()
    assert len(calls) == len(set(calls)) == len(network.stages)
    calls.clear()
    with torch.inference_mode():
        banded = network(x)
    assert len(calls) > len(network.stages)
    torch.testing.assert_close(banded, whole, rtol=0, atol=1e-12 * float(whole.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("cfa", CFAS)
@pytest.mark.parametrize("name", NETWORKS)
def test_stages_do_most_of_the_work(name: str, cfa: CfaKind) -> None:
    """At the cell size they state: rows of the result tell how much of a stage is done."""
    network = lively(small(name, cfa))
    shapes: dict[nn.Module, int] = {}
    for stage, _ in network.stages:
        stage.register_forward_hook(lambda module, _, out: shapes.update({module: out.shape[2]}))
    network(random_planes(1, PLANES[cfa], 48, 16))
    assert [shapes[stage] for stage, _ in network.stages] == [48 // c for _, c in network.stages]
    inside = {p for stage, _ in network.stages for p in stage.parameters()}
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    outside = [conv for conv in convs if conv.weight not in inside]
    assert len(outside) <= 2  # the first and the last


@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_stated_memory_holds_frame_picture_and_two_features(name: str, cfa: CfaKind) -> None:
    network = build(small(name, cfa))
    config = network.config
    least = 4 * (config.in_channels + 3 * config.scale**2 + config.width)
    assert least < network.bytes_per_pixel < 4 * least
    twice = build(replace(config, width=2 * config.width))
    assert twice.bytes_per_pixel > network.bytes_per_pixel
