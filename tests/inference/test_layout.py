"""Layouts walk the layers of the torch modules: each once, of the same shape, maps that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from gia_cli.inference.layout import LAYOUTS, Conv, Operators, Share, names_of
from gia_cli.nets import build
from gia_cli.nets.config import LEVELS, NetConfig, NetName
from gia_cli.raw.cfa import CfaKind
from tests.networks import CFAS, UNETS, small

SIDE = 64


class Map(NamedTuple):
    channels: int
    side: int


class Recorder(Operators[Map]):
    """Computes the shapes of maps, and remembers those of all arrays."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.shares: dict[str, list[Share]] = {}

    def remember(self, name: str, *shape: int) -> None:
        assert self.shapes.setdefault(name, shape) == shape

    def convolve(self, conv: Conv, parts: Sequence[Map]) -> Map:
        assert conv.name not in {name.rpartition(".")[0] for name in self.shapes}
        self.remember_conv(conv)
        assert sum(part.channels for part in parts) == conv.inputs
        assert len({part.side for part in parts}) == 1
        return Map(conv.outputs, parts[0].side)

    def convolve_share(self, conv: Conv, share: Share, x: Map) -> Map:
        self.remember_conv(conv)
        self.shares.setdefault(conv.name, []).append(share)
        assert x.channels == share.stop - share.start
        return Map(conv.outputs, x.side)

    def remember_conv(self, conv: Conv) -> None:
        self.remember(f"{conv.name}.weight", conv.outputs, conv.inputs, conv.side, conv.side)
        self.remember(f"{conv.name}.bias", conv.outputs)

    def upsample(self, name: str, x: Map, inputs: int, outputs: int) -> Map:
        self.remember(f"{name}.weight", inputs, outputs, 2, 2)
        self.remember(f"{name}.bias", outputs)
        assert x.channels == inputs
        return Map(outputs, 2 * x.side)

    def side_by_side(self, parts: list[Map]) -> list[Map]:
        return parts

    def concatenate(self, parts: list[Map]) -> Map:
        assert len({part.side for part in parts}) == 1
        return Map(sum(part.channels for part in parts), parts[0].side)

    def halve(self, x: Map) -> Map:
        return Map(x.channels, x.side // 2)

    def mean(self, x: Map) -> Map:
        return Map(x.channels, 1)

    def leaky_relu(self, x: Map) -> Map:
        return x

    def relu(self, x: Map) -> Map:
        return x

    def sigmoid(self, x: Map) -> Map:
        return x

    def add(self, x: Map, term: Map, name: str) -> Map:
        assert term == Map(x.channels, 1)
        return x

    def multiply(self, x: Map, term: Map, name: str) -> Map:
        return self.add(x, term, name)

    def picture(self, x: Map, scale: int) -> Map:
        assert x.channels % scale**2 == 0
        return Map(x.channels // scale**2, scale * x.side)


@pytest.mark.parametrize("cfa", CFAS)
@pytest.mark.parametrize("name", UNETS)
def test_every_layer_of_the_torch_module_is_walked_once(name: NetName, cfa: CfaKind) -> None:
    network = build(small(name, cfa))
    to = Recorder(network.config)
    features = to.layout.encode(to, Map(network.config.in_channels, SIDE))
    term = to.layout.term_of(to, features[-1])
    picture = to.layout.decode(to, features, term)
    assert [feature.side for feature in features] == [SIDE >> level for level in range(LEVELS)]
    assert (term is not None) == bool(network.vector_halos)
    assert picture == Map(3, SIDE * network.config.scale)
    assert to.shapes == {key: tuple(x.shape) for key, x in network.state_dict().items()}


@pytest.mark.parametrize("name", UNETS)
def test_a_layout_states_what_the_torch_module_states(name: NetName) -> None:
    network, layout = build(small(name)), LAYOUTS[name]
    for fact in ("stride", "halo", "vector_halos"):
        assert getattr(layout, fact) == getattr(network, fact)


def test_the_walk_may_be_cut_at_a_level() -> None:
    config = small("sw-net")
    whole, cut = Recorder(config), Recorder(config)
    planes = Map(config.in_channels, SIDE)
    features = whole.layout.encode(whole, planes)
    expected = whole.layout.decode(whole, features, None)
    skips = cut.layout.encode(cut, planes, 0, 2)
    below = cut.layout.encode(cut, cut.halve(skips[-1]), 2)
    assert skips + below == features
    depth = cut.layout.climb(cut, below[-1], below[:-1], 2)
    top = cut.layout.climb(cut, depth, skips, 0)
    assert cut.layout.picture(cut, top) == expected
    assert cut.shapes == whole.shapes


def test_the_shares_of_a_convolution_make_up_the_whole() -> None:
    to = Recorder(small("gia-net"))
    mean = Map(to.widths[-1], 1)
    to.layout.bottleneck(to, Map(to.widths[-1], 4), to.layout.term(to, mean))
    first, second = sorted(to.shares["gia.fuse"], key=lambda share: share.start)
    _, inputs, _, _ = to.shapes["gia.fuse.weight"]
    assert (first.start, first.stop, second.stop) == (0, second.start, inputs)
    assert first.has_bias != second.has_bias


def test_levels_are_named_from_the_top() -> None:
    assert names_of(LEVELS - 2) == (f"encoder.{LEVELS - 2}", "upsample.0", "decoder.0")
    assert {names_of(level).decoder for level in range(LEVELS - 1)} == {
        f"decoder.{step}" for step in range(LEVELS - 1)
    }
