"""Networks for the tests: small ones of every kind, with weights for which every part matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.blocks import ChannelGate
from gia_cli.nets.config import NETWORKS, NetConfig, NetName
from gia_cli.nets.unet import GiaNet
from gia_cli.raw.cfa import CfaKind
from gia_cli.weights.manifest import find_weights

CFAS: tuple[CfaKind, ...] = ("bayer", "xtrans")
ALL: list[tuple[str, CfaKind]] = [(name, cfa) for name in NETWORKS for cfa in CFAS]
#: The shipped Bayer weights that are used by default, and by default for the paper's network.
DEFAULT = find_weights(None, "bayer").name
LEARNED = find_weights(None, "bayer", "learned").name
UNETS: tuple[NetName, ...] = ("sid-net", "gia-net", "sid-dilated", "sw-net", "se-unet", "sid-2conv")
WITH_VECTORS = {"gia-net": 1, "se-unet": 1, "ridnet": 4}
PLANES = {"bayer": 4, "xtrans": 9}
SCALE = {"bayer": 2, "xtrans": 3}


def small(name: str, cfa: CfaKind = "bayer") -> NetConfig:
    """The network's configuration with few channels."""
    width = 8 if name in ("dncnn", "ridnet") else 4
    return replace(NETWORKS[name], cfa=cfa, width=width, vector=16)


def lively(config: NetConfig, seed: int = 0) -> Network:
    """A network whose picture depends strongly on each vector, and has a deviation near 1.

    Kaiming weights, biases that are not zero, statistics as after training; what comes of a mean is
    amplified (gates are kept off their saturation), and the output is brought to size.
    """
    generator = torch.Generator().manual_seed(seed)
    network = build(config)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=0.2, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5)):
                assert tensor is not None
                nn.init.uniform_(tensor, low, low + 1, generator=generator)
            for tensor in (module.bias, module.running_mean):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.1, generator=generator)
    with torch.no_grad():
        _amplify_vectors(network, generator)
        picture = network.eval()(torch.rand(1, config.in_channels, 64, 64, generator=generator))
        to_rgb = network.to_rgb
        assert isinstance(to_rgb, nn.Conv2d)
        assert to_rgb.bias is not None
        to_rgb.weight /= picture.std()
        to_rgb.bias -= picture.mean() / picture.std()
    return network


def _amplify_vectors(network: Network, generator: torch.Generator) -> None:
    if isinstance(network, GiaNet):
        network.gia.shrink.weight *= 3
    for module in network.modules():
        if isinstance(module, ChannelGate):
            # An offset keeps the ReLU on and is taken back behind it: a linear map of the mean.
            squeeze, excite = module.squeeze, module.excite
            std = 1.5 / squeeze.in_channels**0.5
            nn.init.normal_(squeeze.weight, std=std, generator=generator)
            nn.init.normal_(excite.weight, std=1.0, generator=generator)
            assert squeeze.bias is not None
            assert excite.bias is not None
            squeeze.bias.fill_(12.0)
            excite.bias.copy_(-12 * excite.weight.sum(dim=(1, 2, 3)))


def random_planes(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def global_terms(network: Network, x: Tensor) -> list[Tensor]:
    """The terms of a batch that is one photo: measured one after the other, by hand."""
    terms: list[Tensor] = []
    for index in range(network.vectors):
        feature = network.measure(network.encode(x), [t.expand(len(x), -1) for t in terms])
        mean = feature.mean((0, 2, 3), dtype=torch.float64)[None]
        terms.append(network.global_term(index, mean.to(x.dtype)).detach())
    return terms


def int8_arrays(network: Network, planes: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Quantise a U-Net by hand, with the ranges of one photo; its first and last layer stay fp32.

    Nothing of NNCF: what is stored for a layer, and how, is worked out here once more.
    """
    arrays = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    for name, read in _layer_inputs(network, planes).items():
        if name in ("encoder.0.0", "encoder.0.0.plain", "encoder.0.0.dilated", "to_rgb"):
            continue
        if name.startswith(("gia.", "se.")):
            continue
        weight = arrays[f"{name}.weight"]
        if name.startswith("upsample."):  # (in, out, 2, 2): a plain one to four sub-pixels each
            weight = weight.transpose(1, 2, 3, 0).reshape(-1, weight.shape[0], 1, 1)
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        arrays[f"{name}.weight"] = np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
        arrays[f"{name}.scale"] = scale.astype(np.float32)
        arrays[f"{name}.ranges"] = _range_with_zero(float(read.min()), float(read.max()))
    return arrays


def _layer_inputs(network: Network, planes: NDArray[np.float32]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: seen.__setitem__(name, inputs[0])
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        network(torch.from_numpy(planes)[None])
    for handle in handles:
        handle.remove()
    return seen


def _range_with_zero(low: float, high: float) -> NDArray[np.float32]:
    """Widen a range until one of its 256 steps is zero."""
    low, high = min(low, 0.0), max(high, 1e-6)
    below = min(round(-255 * low / (high - low)), 254)
    step = max(high / (255 - below), -low / below if below else 0)
    return np.array([-below * step, (255 - below) * step], np.float32)
