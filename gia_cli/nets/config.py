"""What a network is built from, and the published sizes, by name.

Importing this imports neither torch nor NumPy: the command line reads names and defaults here.
"""

from __future__ import annotations

import reprlib
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from gia_cli.cameras import CfaKind
from gia_cli.errors import WeightsMismatchError

NetName = Literal[
    "sid-net",
    "gia-net",
    "sid-dilated",
    "sw-net",
    "se-unet",
    "sid-2conv",
    "dncnn",
    "ridnet",
    "sgn",
]

#: Levels of every U-Net, the one at full size included.
LEVELS = 5
#: Slope of every leaky ReLU (SID's published network).
LEAKY_SLOPE = 0.2
#: Far beyond what anybody trains: a file that states more is none of gia's.
MAX_WIDTH, MAX_VECTOR = 1024, 65536
#: What a network is told of the light: nothing, as in the paper, or the photo's own gains.
WhiteBalanceMode = Literal["learned", "as-shot"]


@dataclass(frozen=True, slots=True)
class NetConfig:
    """All that is needed to build a network; stored beside its weights."""

    network: NetName
    cfa: CfaKind = "bayer"
    width: int = 32
    """Channels at full size; a coarser level has twice as many as the one above it."""
    vector: int = 256
    """Length of the global vector (gia-net only). The paper does not state it; 256 gives the
    parameter and FLOP ratios of its Table 4."""
    upsample_bias: bool = True
    """Biases in the U-Nets' transposed convolutions: the public PyTorch ports have them, the
    published TensorFlow code and the paper's counts do not."""

    white_balance: WhiteBalanceMode = "learned"
    """Whether the planes are multiplied by the as-shot white balance before the network sees them;
    the paper's network must infer the light ("learned")."""
    input_floor: int | None = 0
    """Least value of the planes: 0 clips what the noise has pushed below black (as in SID and the
    paper); None keeps it, and with it information about the darkest places."""

    @property
    def in_channels(self) -> int:
        """Planes of the packed mosaic: 4 for Bayer, 9 for X-Trans."""
        from gia_cli.raw.cfa import PLANE_COLORS

        return len(PLANE_COLORS[self.cfa])

    @property
    def scale(self) -> int:
        """Pixel-shuffle factor: 2 for Bayer, 3 for X-Trans."""
        from gia_cli.raw.cfa import PACK_FACTOR

        return PACK_FACTOR[self.cfa]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NetConfig:
        """Read a configuration that was stored beside weights.

        Raises
        ------
        WeightsMismatchError
            A field that this version does not know, an unknown network or array, or sizes that
            are none.
        """
        try:
            config = cls(**values)
            is_known = config.network in NETWORKS and config.cfa in get_args(CfaKind)
        except TypeError as error:
            raise WeightsMismatchError(
                f"The network configuration {_short(values)} is not one that this version knows."
            ) from error
        if not is_known or config.white_balance not in get_args(WhiteBalanceMode):
            raise WeightsMismatchError(
                f"There is no network {_short(config.network)} "
                f"({_short(config.cfa)}, {_short(config.white_balance)})."
            )
        if config.input_floor not in (0, None) or isinstance(config.input_floor, bool):
            raise WeightsMismatchError(
                f"Planes are clipped at 0 or not at all, not at {_short(config.input_floor)}."
            )
        sizes = {"width": (config.width, MAX_WIDTH), "vector": (config.vector, MAX_VECTOR)}
        for name, (size, largest) in sizes.items():
            if type(size) is not int or not 0 < size <= largest:
                raise WeightsMismatchError(
                    f"The {name} of a network is from 1 to {largest}, not {_short(size)}."
                )
        if type(config.upsample_bias) is not bool:
            raise WeightsMismatchError("A network has upsample_bias or has not.")
        return config


def _short(value: object) -> str:
    """Show what somebody else's file says, in one short line."""
    return reprlib.repr(value)[:200]


#: Every network that `build` knows, in its published size.
NETWORKS: dict[str, NetConfig] = {
    "sid-net": NetConfig("sid-net"),
    "gia-net": NetConfig("gia-net"),
    "sid-dilated": NetConfig("sid-dilated"),
    "sw-net": NetConfig("sw-net"),
    "se-unet": NetConfig("se-unet"),
    "sid-2conv": NetConfig("sid-2conv"),
    "dncnn": NetConfig("dncnn", width=64),
    "ridnet": NetConfig("ridnet", width=64),
    "sgn": NetConfig("sgn"),
}
