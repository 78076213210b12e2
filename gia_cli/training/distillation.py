"""Distillation: a network also learns from the picture that another one makes of the same crops.

The truth is one of the pictures that a noisy exposure may be of; a good network's picture is what
can be told from it, and so a steadier target for a smaller one (Hinton, Vinyals, Dean, *Distilling
the knowledge in a neural network*, 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gia_cli.errors import UsageError
from gia_cli.nets.base import Network
from gia_cli.nets.config import NetConfig
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo, digest_of, load_network


def find_teacher(name_or_path: str, student: NetConfig) -> WeightsInfo:
    """Find the weights of a teacher, which takes the very input that its student gets.

    Parameters
    ----------
    name_or_path : str
    student : NetConfig

    Raises
    ------
    UsageError
        Of another colour filter array, white balance or treatment of black.
    WeightsNotFoundError
        No such name or file.
    """
    info = find_weights(name_or_path)
    theirs = info.config
    if theirs.cfa != student.cfa:
        raise UsageError(
            f"The teacher '{info.name}' is for {theirs.cfa} sensors, the network to train for "
            f"{student.cfa} ones.",
            hint="Give a --teacher for the sensor of --camera.",
        )
    if theirs.white_balance != student.white_balance:
        raise UsageError(
            f"The teacher '{info.name}' has the white balance '{theirs.white_balance}', the "
            f"network to train '{student.white_balance}': they answer the same crop differently.",
            hint=f"Give --white-balance {theirs.white_balance}, or another --teacher.",
        )
    if theirs.input_floor != student.input_floor:
        clips = theirs.input_floor is not None
        does, option = ("clips", "--clip-black") if clips else ("keeps", "--no-clip-black")
        raise UsageError(
            f"The teacher '{info.name}' {does} values below black, the network to train does not.",
            hint=f"Give {option}, or another --teacher.",
        )
    return info


def describe_teacher(info: WeightsInfo) -> str:
    """Name a teacher without anybody's folders, and by the digest of its file.

    Raises
    ------
    WeightsNotFoundError, WeightsCorruptError
        As `digest_of`.
    """
    return f"{info.name} ({digest_of(info)[:16]})"


def open_teacher(info: WeightsInfo, device: torch.device) -> Network:
    """Load a teacher, ready to show pictures and never to learn.

    Raises
    ------
    WeightsNotFoundError, WeightsCorruptError, WeightsMismatchError
        As `load_network`.
    """
    network = load_network(info).requires_grad_(False).to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def teacher_picture(teacher: nn.Module, planes: Tensor, group: int) -> Tensor:
    """Make the teacher's picture of a batch; its vectors are each photo's, as the student's are.

    Parameters
    ----------
    teacher : Network
        From `open_teacher`; perhaps compiled.
    planes : (N, C, h, w)
    group : int
        Neighbours in the batch that are crops of one photo.

    Returns
    -------
    (N, 3, s*h, s*w) float32
        Without a gradient.
    """
    # Nothing is kept for a gradient, for nothing in it needs one. Under torch.no_grad it would run
    # in bands, which torch compiles to many graphs; and torch.inference_mode makes tensors that may
    # not enter what a loss keeps.
    picture: Tensor = teacher(planes, group)
    return picture.float().detach()
