"""The U-Nets, layer by layer: what reads what, and where the vector enters.

`LAYOUTS` says it once, for every library that builds graphs of weights: a layout walks down and up
the levels and calls a library's operators (`Operators`), which make the nodes. What `nets.unet` is
to torch, with the same strides and halos; the tests hold the pictures of both against each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

from gia_cli.nets.config import LEVELS, NetConfig, NetName

Node = TypeVar("Node")


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of stride 1 that keeps the size; its arrays are NAME.weight and NAME.bias."""

    name: str
    inputs: int
    outputs: int
    side: int = 3
    dilation: int = 1


@dataclass(frozen=True, slots=True)
class Share:
    """A summand of a convolution: what comes of some of its inputs."""

    name: str
    start: int
    stop: int
    has_bias: bool


class LevelNames(NamedTuple):
    """What the layers of a level are called."""

    encoder: str
    upsample: str
    decoder: str


def names_of(level: int) -> LevelNames:
    """Name the layers of a level, of which the deepest has an encoder only.

    Examples
    --------
    >>> names_of(0)
    LevelNames(encoder='encoder.0', upsample='upsample.3', decoder='decoder.3')
    """
    step = LEVELS - 2 - level
    return LevelNames(f"encoder.{level}", f"upsample.{step}", f"decoder.{step}")


class UNetLayout:
    """SID-Net: planes to features, features to picture; siblings replace parts.

    Every map is (1, C, H, W).

    Parameters
    ----------
    config : NetConfig
    """

    stride: ClassVar[int] = 2 ** (LEVELS - 1)
    halo: ClassVar[int] = 96
    vector_halos: ClassVar[tuple[int, ...]] = ()
    #: How far a 3x3 convolution sees, in pixels of its level.
    reach: ClassVar[int] = 1

    def __init__(self, config: NetConfig) -> None:
        self.widths = [config.width << level for level in range(LEVELS)]
        self._config = config

    # ------------------------------------------------------------ down and up

    def encode(
        self, to: Operators[Node], x: Node, first: int = 0, stop: int = LEVELS
    ) -> list[Node]:
        """Go down the levels from `first` on; `x` has that level's size. One map for each."""
        features: list[Node] = []
        inputs = [self._config.in_channels, *self.widths]
        for level in range(first, stop):
            if level > first:
                x = to.halve(x)
            x = self._double_conv(
                to, names_of(level).encoder, [x], inputs[level], self.widths[level]
            )
            features.append(x)
        return features

    def decode(self, to: Operators[Node], features: list[Node], term: Node | None) -> Node:
        """Make the picture of all levels' maps; `term` is None for a network without a vector."""
        x = self.bottleneck(to, features[-1], term)
        return self.picture(to, self.climb(to, x, features[:-1], 0))

    def climb(self, to: Operators[Node], x: Node, skips: list[Node], last: int) -> Node:
        """Go up to level `last`; the skips are those of the levels from there on."""
        for level in range(last + len(skips) - 1, last - 1, -1):
            names, width = names_of(level), self.widths[level]
            up = to.upsample(names.upsample, x, 2 * width, width)
            parts = to.side_by_side([up, skips[level - last]])
            x = self._double_conv(to, names.decoder, parts, 2 * width, width)
        return x

    def picture(self, to: Operators[Node], x: Node) -> Node:
        """Make the picture of the top level's last map."""
        conv = Conv("to_rgb", self.widths[0], 3 * self._config.scale**2, side=1)
        return to.picture(to.convolve(conv, [x]), self._config.scale)

    def term_of(self, to: Operators[Node], feature: Node) -> Node | None:
        """Work out what comes of a map's own mean; None for a network without a vector."""
        if not self.vector_halos:
            return None
        return self.term(to, to.mean(feature))

    def _double_conv(
        self, to: Operators[Node], name: str, parts: Sequence[Node], inputs: int, outputs: int
    ) -> Node:
        x = to.leaky_relu(self._conv3x3(to, f"{name}.0", parts, inputs, outputs))
        return to.leaky_relu(self._conv3x3(to, f"{name}.2", [x], outputs, outputs))

    # ------------------------------------------------------------ what siblings replace

    def _conv3x3(
        self, to: Operators[Node], name: str, parts: Sequence[Node], inputs: int, outputs: int
    ) -> Node:
        return to.convolve(Conv(name, inputs, outputs), parts)

    def term(self, to: Operators[Node], mean: Node) -> Node:
        """Make the global term, (1, C, 1, 1), of the bottleneck's mean."""
        raise NotImplementedError

    def bottleneck(self, to: Operators[Node], x: Node, term: Node | None) -> Node:
        """Go on from the deepest level's two convolutions; `term` is where the vector enters."""
        return x


class GiaLayout(UNetLayout):
    """GIA-Net: what comes of the mean is a bias at each place of the bottleneck."""

    vector_halos = (64,)

    def term(self, to: Operators[Node], mean: Node) -> Node:
        """See `UNetLayout.term`."""
        channels, fuse = self.widths[-1], self._fuse
        shrunk = to.convolve(Conv("gia.shrink", channels, self._config.vector, side=1), [mean])
        return to.convolve_share(fuse, Share("spread", channels, fuse.inputs, True), shrunk)

    def bottleneck(self, to: Operators[Node], x: Node, term: Node | None) -> Node:
        """See `UNetLayout.bottleneck`."""
        assert term is not None
        own = to.convolve_share(self._fuse, Share("own", 0, self.widths[-1], False), x)
        return to.add(own, term, "gia.fuse/sum")

    @property
    def _fuse(self) -> Conv:
        channels = self.widths[-1]
        return Conv("gia.fuse", channels + self._config.vector, channels, side=1)


class SeLayout(UNetLayout):
    """SE-UNet: what comes of the mean is a factor for each channel of the bottleneck."""

    vector_halos = (64,)

    def term(self, to: Operators[Node], mean: Node) -> Node:
        """See `UNetLayout.term`."""
        channels = self.widths[-1]
        inner = max(channels // 16, 1)
        squeezed = to.relu(to.convolve(Conv("se.squeeze", channels, inner, side=1), [mean]))
        return to.sigmoid(to.convolve(Conv("se.excite", inner, channels, side=1), [squeezed]))

    def bottleneck(self, to: Operators[Node], x: Node, term: Node | None) -> Node:
        """See `UNetLayout.bottleneck`."""
        assert term is not None
        return to.multiply(x, term, "se/product")


class TwoConvLayout(UNetLayout):
    """SID-Net with two more convolutions in the bottleneck."""

    halo = 128

    def bottleneck(self, to: Operators[Node], x: Node, term: Node | None) -> Node:
        """See `UNetLayout.bottleneck`."""
        return self._double_conv(to, "extra", [x], self.widths[-1], self.widths[-1])


class DilatedLayout(UNetLayout):
    """SID-dilated: every 3x3 convolution dilated by 2."""

    halo = 192
    reach = 2

    def _conv3x3(
        self, to: Operators[Node], name: str, parts: Sequence[Node], inputs: int, outputs: int
    ) -> Node:
        return to.convolve(Conv(name, inputs, outputs, dilation=2), parts)


class SplitLayout(UNetLayout):
    """SW-Net: each 3x3 convolution a plain and a dilated half."""

    halo = 192
    reach = 2

    def _conv3x3(
        self, to: Operators[Node], name: str, parts: Sequence[Node], inputs: int, outputs: int
    ) -> Node:
        half = outputs // 2
        plain = to.convolve(Conv(f"{name}.plain", inputs, outputs - half), parts)
        dilated = to.convolve(Conv(f"{name}.dilated", inputs, half, dilation=2), parts)
        return to.concatenate([plain, dilated])


#: The networks that graphs can be built of.
LAYOUTS: dict[NetName, type[UNetLayout]] = {
    "sid-net": UNetLayout,
    "gia-net": GiaLayout,
    "se-unet": SeLayout,
    "sid-2conv": TwoConvLayout,
    "sid-dilated": DilatedLayout,
    "sw-net": SplitLayout,
}


class Operators(ABC, Generic[Node]):
    """What a library for graphs makes nodes by; a builder of graphs is one.

    Parameters
    ----------
    config : NetConfig
        A network of `LAYOUTS`.
    """

    def __init__(self, config: NetConfig) -> None:
        self.config = config
        self.layout = LAYOUTS[config.network](config)
        self.widths = self.layout.widths

    @property
    def stride(self) -> int:
        """See `Network.stride`."""
        return self.layout.stride

    @property
    def halo(self) -> int:
        """See `Network.halo`."""
        return self.layout.halo

    @property
    def vector_halos(self) -> tuple[int, ...]:
        """See `Network.vector_halos`."""
        return self.layout.vector_halos

    @abstractmethod
    def convolve(self, conv: Conv, parts: Sequence[Node]) -> Node:
        """Convolve maps that stand for their concatenation."""

    @abstractmethod
    def convolve_share(self, conv: Conv, share: Share, x: Node) -> Node:
        """Compute one summand of a convolution, of the inputs that it is of."""

    @abstractmethod
    def upsample(self, name: str, x: Node, inputs: int, outputs: int) -> Node:
        """Double the sides by a transposed convolution of stride 2."""

    @abstractmethod
    def side_by_side(self, parts: list[Node]) -> list[Node]:
        """Prepare maps that are read as their concatenation, once for all that read them."""

    @abstractmethod
    def concatenate(self, parts: list[Node]) -> Node:
        """Join maps by their channels."""

    @abstractmethod
    def halve(self, x: Node) -> Node:
        """Halve the sides: the maximum of each 2x2 cell."""

    @abstractmethod
    def mean(self, x: Node) -> Node:
        """Average each channel, (1, C, H, W) to (1, C, 1, 1)."""

    @abstractmethod
    def leaky_relu(self, x: Node) -> Node:
        """Multiply what is negative by `LEAKY_SLOPE`."""

    @abstractmethod
    def relu(self, x: Node) -> Node:
        """Set what is negative to 0."""

    @abstractmethod
    def sigmoid(self, x: Node) -> Node:
        """Apply the logistic function."""

    @abstractmethod
    def add(self, x: Node, term: Node, name: str) -> Node:
        """Add a term, (1, C, 1, 1), at each place; the node's name is for quantization."""

    @abstractmethod
    def multiply(self, x: Node, term: Node, name: str) -> Node:
        """Multiply by a term, as `add`."""

    @abstractmethod
    def picture(self, x: Node, scale: int) -> Node:
        """Shuffle channels into place, (1, 3 * scale**2, H, W) to (1, 3, scale * H, scale * W)."""
