"""The networks, by name. Importing this module does not import torch; `build` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gia_cli.nets.config import NetConfig, NetName

if TYPE_CHECKING:
    from gia_cli.nets.base import Network


def build(config: NetConfig) -> Network:
    """Build a network with freshly initialised weights.

    Parameters
    ----------
    config : NetConfig

    Returns
    -------
    Network
        On the CPU, fp32, in training mode.
    """
    from gia_cli.nets import dncnn, ridnet, sgn, unet

    classes: dict[NetName, type[Network]] = {
        "sid-net": unet.UNet,
        "gia-net": unet.GiaNet,
        "sid-dilated": unet.SidDilated,
        "sw-net": unet.SwNet,
        "se-unet": unet.SeUNet,
        "sid-2conv": unet.Sid2Conv,
        "dncnn": dncnn.DnCnn,
        "ridnet": ridnet.RidNet,
        "sgn": sgn.Sgn,
    }
    return classes[config.network](config)
