"""Start one network from another's weights, between colour filter arrays and white balances too."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gia_cli.errors import WeightsMismatchError
from gia_cli.nets.config import NetConfig
from gia_cli.raw.cfa import PLANE_COLORS

if TYPE_CHECKING:
    from torch import Tensor

    from gia_cli.nets.base import Network


class Transferred(NamedTuple):
    """What `transfer` did not simply copy."""

    translated: list[str]
    """Tensors that another colour filter array or white balance has changed."""
    missing: list[str]
    """Tensors that the donor does not have; they begin without an effect."""
    left_out: list[str]
    """Tensors that only the donor has."""


def transfer(
    network: Network, donor: Network, gains: tuple[float, float, float] | None = None
) -> Transferred:
    """Copy a trained network's weights, between arrays and white balances too; in place.

    Only the layers that read the planes, and the last one, which writes the shuffled picture,
    depend on the array. They are translated: the weights for a colour are shared out evenly among
    its planes, and those of the sub-pixels interpolated. Where one network gets the white
    balance and the other is not, the weights for a colour are divided or multiplied by its usual
    gain, so that the usual light looks the same to both (DnCNN and RIDNet, which add the planes
    to what they make of them, have to learn that again).

    GIA-Net and SID-Net start from one another: the vector begins without an effect, or is left out,
    and what the module does beside it to the bottleneck goes into the layer that reads it.

    Parameters
    ----------
    network : Network
        Gets the weights.
    donor : Network
    gains : (3,), optional
        Usual white balance of R, G and B for that one of the two which is not given it, where they
        differ in that.

    Returns
    -------
    Transferred

    Raises
    ------
    WeightsMismatchError
        Anything else differs: another network or width.
    """
    wanted, given = network.state_dict(), donor.state_dict()
    readers, writers = network.plane_readers, network.picture_writers
    unlike = [n for n in wanted if n in given and wanted[n].shape != given[n].shape]
    names = {network.config.network, donor.config.network}
    is_kin = len(names) == 1 or names == {"gia-net", "sid-net"}
    if not is_kin or not set(unlike) <= {*readers, *writers}:
        raise WeightsMismatchError(
            f"A {network.config.network} of width {network.config.width} cannot start from a "
            f"{donor.config.network} of width {donor.config.width}."
        )
    new = {name: given[name] for name in wanted if name in given}
    new |= _without_vector(given, wanted) if len(names) > 1 else {}
    for name in unlike:
        if name in readers:
            new[name] = _share_out_planes(new[name], readers[name], donor.config, network.config)
        else:
            new[name] = _resample_subpixels(new[name], donor.config, network.config)
    translated = {name for name in wanted if name in given and new[name] is not given[name]}
    if gains is not None and network.config.white_balance != donor.config.white_balance:
        power = -1 if network.config.white_balance == "as-shot" else 1
        for name, unshuffled in readers.items():
            new[name] = _amplify_planes(new[name], unshuffled, network.config, gains, power)
        translated |= readers.keys()
    network.load_state_dict(new)
    return Transferred(
        [name for name in wanted if name in translated],
        missing=[name for name in wanted if name not in given],
        left_out=[name for name in given if name not in wanted],
    )


def _without_vector(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with which GIA-Net, its vector being nothing, and SID-Net do the same.

    GIA-Net mixes the bottleneck's channels before the decoder reads them, and adds a bias. A
    transposed convolution has one bias for its four sub-pixels, which get the mean.
    """
    import torch

    fuse, bias, up = "gia.fuse.weight", "gia.fuse.bias", "upsample.0.weight"
    if fuse in wanted:
        neutral = {n: t for n, t in wanted.items() if n.startswith("gia.")}
        channels = len(wanted[bias])
        neutral[bias] = torch.zeros_like(wanted[bias])
        neutral[fuse] = torch.zeros_like(wanted[fuse])
        neutral[fuse][:, :channels, 0, 0] = torch.eye(channels)
        return neutral
    channels = len(given[bias])
    mixing = given[fuse][:, :channels, 0, 0]
    folded = {up: torch.einsum("ji,johw->iohw", mixing, given[up])}
    if "upsample.0.bias" in wanted:
        added = torch.einsum("j,johw->ohw", given[bias], given[up]).mean((1, 2))
        folded["upsample.0.bias"] = given["upsample.0.bias"] + added
    return folded


def _amplify_planes(
    weight: Tensor,
    unshuffled: int,
    config: NetConfig,
    gains: tuple[float, float, float],
    power: int,
) -> Tensor:
    """Multiply the weights that read a colour's planes by a power of its gain."""
    factors = weight.new_tensor([gains[color] for color in PLANE_COLORS[config.cfa]]) ** power
    return weight * factors.repeat_interleave(unshuffled**2)[:, None, None]


def _share_out_planes(
    weight: Tensor, unshuffled: int, source: NetConfig, target: NetConfig
) -> Tensor:
    """Map weights that read one array's planes to another's; the sum over a colour stays.

    (out, planes * unshuffled**2, 3, 3): a pixel-unshuffle puts the parts of a plane side by side.
    """
    colors_in, colors_out = PLANE_COLORS[source.cfa], PLANE_COLORS[target.cfa]
    parts = weight.reshape(weight.shape[0], len(colors_in), unshuffled**2, *weight.shape[2:])
    shared = parts.new_zeros(parts.shape[0], len(colors_out), *parts.shape[2:])
    for plane, color in enumerate(colors_out):
        members = [i for i, other in enumerate(colors_in) if other == color]
        shared[:, plane] = parts[:, members].sum(1) / colors_out.count(color)
    return shared.flatten(1, 2)


def _resample_subpixels(tensor: Tensor, source: NetConfig, target: NetConfig) -> Tensor:
    """(3 * s * s, ...) for one pixel-shuffle factor to another, bilinearly."""
    import torch.nn.functional as F

    grid = tensor.reshape(3, source.scale, source.scale, -1).permute(0, 3, 1, 2)
    size = (target.scale, target.scale)
    resized = F.interpolate(grid, size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(3 * target.scale**2, *tensor.shape[1:])
