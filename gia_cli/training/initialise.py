"""Weights to start training from: drawn at random, with a path from the vector to the output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gia_cli.nets.base import Network
from gia_cli.nets.blocks import ChannelGate
from gia_cli.nets.config import LEAKY_SLOPE
from gia_cli.nets.unet import GiaNet, UNet
from gia_cli.raw.cfa import PLANE_COLORS

#: What the vector's first numbers are multiplied by to be the auxiliary targets. Means over the
#: bottleneck differ by hundredths from photo to photo: without it, weights that make tenths of them
#: would take Adam thousands of steps.
VECTOR_GAIN = 16.0

_RIDGE = 30.0
_SMALL = 0.1  # of He et al.'s weights; see `initialise`


def initialise(network: nn.Module) -> None:
    """Draw weights by He et al. 2015 for leaky ReLU, biases zero; in place.

    Branches that are added to their input start at a tenth of that, or RIDNet's first pictures
    would be dozens of times too bright.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, Network):
            for conv in module.branch_ends:
                _scale_weight(conv, _SMALL)
        if isinstance(module, ChannelGate):
            # Means are positive and much alike: a unit that starts off is off for every photo. All
            # on, they add up to much; the gates shall start half open.
            module.squeeze.weight.data.abs_()
            _scale_weight(module.excite, _SMALL)


@torch.no_grad()
def init_raw_head(head: nn.Conv2d, network: UNet) -> None:
    """Let a clean-RAW head show at first what the network's picture has of each plane's colour.

    A drawn head would pull at features that are good already, until it has learned to read them;
    this one asks for what the planes differ in.

    Parameters
    ----------
    head : Conv2d
        Of `Trainee.raw_head`; changed in place.
    network : UNet
        Drawn or trained.
    """
    colors = list(PLANE_COLORS[network.config.cfa])
    for name in ("weight", "bias"):
        sub_pixels = network.to_rgb.get_parameter(name)
        by_color = sub_pixels.view(3, network.config.scale**2, *sub_pixels.shape[1:]).mean(1)
        head.get_parameter(name).copy_(by_color[colors])


def _scale_weight(conv: nn.Module, factor: float) -> None:
    conv.get_parameter("weight").data.mul_(factor)


# ---------------------------------------------------------------- the vector's identity path


@torch.no_grad()
def init_identity_path(network: GiaNet, count: int) -> None:
    """Give the vector's first numbers channels of their own through the whole decoder; in place.

    The vector enters in the bottleneck, below eight convolutions. In a network whose deep levels
    are inactive these pass nothing on, so the vector gets no gradient. Here its first `count`
    numbers are copied, as ``0.5 + VECTOR_GAIN * number``, from level to level up to the last one,
    where every convolution can read them. Each takes the place, at each level, of the channel that
    seems to matter least. All of it is only where training starts: the convolutions stay the
    paper's, and free to change.

    Parameters
    ----------
    network : GiaNet
        Drawn or trained. What its vector's first numbers meant before is lost: they start as 0,
        whatever it sees, and nothing reads their copies yet.
    count : int

    Raises
    ------
    ValueError
        The first level has no more channels than that.
    """
    if network.config.width <= count:
        raise ValueError(f"{network.config.width} channels leave none for the picture")
    gia = network.gia
    numbers = list(range(count))
    assert gia.shrink.bias is not None
    assert gia.fuse.bias is not None
    # What these numbers said of every photo alike.
    said = gia.fuse.weight[:, gia.channels : gia.channels + count, 0, 0] @ gia.shrink.bias[:count]
    gia.fuse.bias.add_(said)
    gia.shrink.weight[numbers] = 0
    _set_bias(gia.shrink, numbers, 0)
    gia.fuse.weight[:, gia.channels : gia.channels + count] = 0
    ups = list(network.upsample)
    stages = [
        [m for m in stage.children() if isinstance(m, nn.Conv2d)] for stage in network.decoder
    ]
    here = _vacate(gia.fuse, [_weights(ups[0])], count)
    gia.fuse.weight[here, [gia.channels + number for number in numbers]] = VECTOR_GAIN
    _set_bias(gia.fuse, here, 0.5)
    for up, (first, second), above in zip(ups, stages, [*ups[1:], None], strict=True):
        below, here = here, _vacate(up, [_weights(first)[:, : up.out_channels]], count)
        _weights(up)[here, below] = 1
        if above is None:
            break
        for conv, reader in ((first, second), (second, above)):
            below, here = here, _vacate(conv, [_weights(reader)], count)
            _weights(conv)[here, below, 1, 1] = 1


@torch.no_grad()
def fit_vector(network: GiaNet, means: Tensor, targets: Tensor) -> None:
    """Fit the vector's first numbers to the targets as well as a linear map can; in place.

    By ridge regression, in one go: what Adam would need thousands of steps for.

    Parameters
    ----------
    network : GiaNet
    means : (K, C)
        Mean over the bottleneck of each of K scenes.
    targets : (K, AUXILIARY)
        Scenes of which one is unknown, NaN, are left out. A target that no scene has, as the light
        where the network gets a white balance, is not asked for: its number stays as it is.
    """
    asked = (~targets.isnan()).any(dim=0).nonzero()[:, 0]
    is_known = ~targets[:, asked].isnan().any(dim=1)
    weights, intercept = ridge(means[is_known], targets[is_known][:, asked], _RIDGE)
    shrink = network.gia.shrink
    shrink.weight[asked, :, 0, 0] = (weights / VECTOR_GAIN).to(shrink.weight)
    assert shrink.bias is not None
    shrink.bias[asked] = ((intercept - 0.5) / VECTOR_GAIN).to(shrink.bias)


def ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Fit ``y = weight @ x + bias`` by ridge regression on x brought to a deviation of 1.

    Parameters
    ----------
    x : (K, C)
    y : (K, F)
    penalty : float
        Of the squared weights, beside the sum over K of the squared errors.

    Returns
    -------
    (F, C), (F,)
        In fp64.
    """
    x, y = x.double(), y.double()
    center, spread = x.mean(0), x.std(0) + 1e-9
    x, middle = (x - center) / spread, y.mean(0)
    damping = penalty * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(x.T @ x + damping, x.T @ (y - middle)).T / spread
    return weight, middle - weight @ center


def _vacate(conv: nn.Module, readers: Sequence[Tensor], count: int) -> list[int]:
    """Empty the output channels that seem to matter least, of a layer and in all that reads it."""
    own = _weights(conv)
    read = sum(reader.abs().sum((0, 2, 3)) for reader in readers)
    channels: list[int] = (own.abs().sum((1, 2, 3)) * read).argsort()[:count].tolist()
    own[channels] = 0
    _set_bias(conv, channels, 0)
    for reader in readers:
        reader[:, channels] = 0
    return channels


def _set_bias(conv: nn.Module, channels: list[int], value: float) -> None:
    if conv.bias is not None:
        conv.get_parameter("bias").data[channels] = value


def _weights(conv: nn.Module) -> Tensor:
    """Weights as (out, in, h, w), a view."""
    weight = conv.get_parameter("weight").data
    return weight.transpose(0, 1) if isinstance(conv, nn.ConvTranspose2d) else weight
