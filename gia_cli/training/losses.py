"""What training minimises.

A loss takes ``picture`` and ``target``, both (N, 3, H, W), BT.709-encoded, nominally [0, 1] (the
network's output is not clipped), and returns a scalar tensor. Everything but the perceptual
features is computed in fp32 or wider, under autocast too: a variance is a small difference of two
large numbers, of which half precision would leave nothing.

Sources: Zhao, Gallo, Frosio, Kautz, *Loss functions for image restoration with neural networks*,
2017; Meng, Xu, Ho, *GIA-Net*, 2020 (Eqs 3 to 6); Zamir et al., *Learning digital camera pipeline
for extreme low-light imaging*, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gia_cli.errors import UsageError
from gia_cli.metrics.ssim import ms_ssim, prepare_pair
from gia_cli.training.config import LossName
from gia_cli.weights.pretrained import Origin, fit_tensors, read_tensors

Loss = Callable[[Tensor, Tensor], Tensor]

#: Weight of L1 in the joint loss (GIA-Net).
GAMMA = 0.84
#: Scales of the L1 in the multiscale loss: means over 1, 2, 4 ... 32 px, the sizes of mottle.
SCALES = 6
#: Weights of L1, 1 - MS-SSIM and the perceptual term in `zamir_loss`.
ZAMIR_WEIGHTS = (0.35, 0.6, 0.05)


# ---------------------------------------------------------------- losses


def l1(picture: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference: the loss of SID, and of the paper's ablation "GIA-l1".

    Parameters
    ----------
    picture, target : (N, 3, H, W) float, BT.709-encoded

    Returns
    -------
    scalar tensor, 0 or more

    Raises
    ------
    ValueError
        The shapes differ.
    """
    picture, target = prepare_pair(picture, target)
    return (picture - target).abs().mean()


def l2(picture: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference: what PSNR measures.

    It asks for the mean of all that a noisy place may be, where `l1` asks for their median; in dark
    places these differ, for the encoding's curve is steep there.

    Parameters, result and errors as for `l1`.
    """
    picture, target = prepare_pair(picture, target)
    return (picture - target).square().mean()


def joint_loss(picture: Tensor, target: Tensor, gamma: float = GAMMA) -> Tensor:
    """``gamma * L1 + (1 - gamma) * (1 - MS-SSIM)``: the loss of the GIA-Net paper.

    Zhao et al. put their 0.84 on MS-SSIM and weight L1 by a Gaussian; the GIA-Net paper puts it on
    a plain L1, and so does this.

    Parameters
    ----------
    picture, target : (N, 3, H, W) float, BT.709-encoded, nominally [0, 1]
    gamma : float in [0, 1]

    Returns
    -------
    scalar tensor, 0 or more, 0 for equal pictures

    Raises
    ------
    ValueError
        The shapes differ.
    """
    loss: Tensor = gamma * l1(picture, target) + (1 - gamma) * (1 - ms_ssim(picture, target))
    return loss


def multiscale_loss(picture: Tensor, target: Tensor) -> Tensor:
    """Take the joint loss with an L1 of several scales, which sees mottle in flat places.

    L1 follows the sign of each pixel's error. Where noise or lost detail makes that sign random, an
    offset that neighbours share hardly counts, though it is what an eye sees as mottle. So L1 is
    also taken of the means over 2x2 px, 4x4 px and so on, in which only the shared part is left.
    Chosen here: half the sum over the scales in the place of L1, so that one that all scales share
    weighs three times what L1 gives it.

    Parameters, result and errors as for `l1`; an odd last row or column counts in the scales above
    only, and a scale needs 2 px a side of the one before.
    """
    structure = 1 - ms_ssim(picture, target)
    picture, target = prepare_pair(picture, target)
    difference = picture - target
    absolute = difference.abs().mean()
    for _ in range(SCALES - 1):
        if min(difference.shape[-2:]) < 2:
            break
        difference = F.avg_pool2d(difference, 2)
        absolute = absolute + difference.abs().mean()
    loss: Tensor = GAMMA * absolute / 2 + (1 - GAMMA) * structure
    return loss


def zamir_loss(
    picture: Tensor,
    target: Tensor,
    features: VggFeatures,
    weights: Sequence[float] = ZAMIR_WEIGHTS,
) -> Tensor:
    """L1 + MS-SSIM + a perceptual term, each weighted: the loss of Zamir et al. (2019).

    From their paper are the three terms. The weights 0.35, 0.6 and 0.05 are those that its first
    author gives for this loss in a later work (github.com/swz30/MPRNet/issues/69); the paper's own
    may differ. Chosen here, not taken from the paper: the form of MS-SSIM (`ms_ssim`), and the
    perceptual term, the mean squared difference of the features that `VggFeatures` describes.

    Parameters
    ----------
    picture, target : (N, 3, H, W) float, BT.709-encoded, nominally [0, 1]
    features : VggFeatures
        On the pictures' device.
    weights : three floats
        Of L1, 1 - MS-SSIM and the perceptual term.

    Returns
    -------
    scalar tensor, 0 or more, 0 for equal pictures

    Raises
    ------
    ValueError
        The shapes differ.
    """
    of_l1, of_structure, of_features = weights
    loss: Tensor = of_l1 * l1(picture, target) + of_structure * (1 - ms_ssim(picture, target))
    return loss + of_features * F.mse_loss(features(picture), features(target))


def make_loss(
    name: LossName, *, vgg: Path | None = None, device: torch.device | None = None
) -> Loss:
    """Build a loss by name.

    Parameters
    ----------
    name : "l1", "l2", "joint", "multiscale" or "zamir"
    vgg : Path, optional
        File of VGG weights, which "zamir" needs and the others refuse; see `load_vgg`.
    device : torch.device, optional
        Where the pictures are; by default the CPU.

    Returns
    -------
    function of picture and target, both (N, 3, H, W)
        Returns a scalar tensor.

    Raises
    ------
    UsageError
        No such loss, or `vgg` missing or superfluous.
    WeightsNotFoundError, WeightsCorruptError, WeightsMismatchError
        As `load_vgg`.
    """
    plain: dict[str, Loss] = {
        "l1": l1,
        "l2": l2,
        "joint": joint_loss,
        "multiscale": multiscale_loss,
    }
    if name in plain:
        if vgg is not None:
            raise UsageError(
                f"The loss '{name}' uses no VGG network.", hint="Leave out --vgg, or use zamir."
            )
        return plain[name]
    if name != "zamir":
        raise UsageError(
            f"There is no loss '{name}'.", hint="Choose l1, l2, joint, multiscale or zamir."
        )
    if vgg is None:
        raise UsageError(
            "The loss 'zamir' compares features of a VGG network and needs --vgg FILE.",
            hint=f"Download https://download.pytorch.org/models/{_VGG_FILE} (528 MB).",
        )
    return partial(zamir_loss, features=load_vgg(vgg).to(device))


# ---------------------------------------------------------------- perceptual features

_VGG_FILE = "vgg16-397923af.pth"
_VGG = Origin(
    weights="VGG",
    network="VGG-16",
    hint=f"gia needs torchvision's {_VGG_FILE}, or the same tensors as safetensors.",
    path_hint="Check the path that --vgg gives.",
)
# What torchvision's VGG networks were trained with (ImageNet), RGB in [0, 1].
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """The beginning of VGG up to the second block's last ReLU ("relu2_2"), frozen.

    Four 3x3 convolutions and one pooling; VGG-16 and VGG-19 are alike so far, so weights of either
    fit. Johnson et al. (*Perceptual losses for real-time style transfer and super-resolution*,
    2016) compare at this depth. Names of the parameters are torchvision's.

    BT.709 code values go in as if they were sRGB's (they differ by up to 7 % in the mid-tones),
    normalised by ImageNet's mean and standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_relu(3, 64), *_conv_relu(64, 64), nn.MaxPool2d(2),
            *_conv_relu(64, 128), *_conv_relu(128, 128),
        )  # fmt: skip
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, picture: Tensor) -> Tensor:
        """(N, 3, H, W) nominally [0, 1] to (N, 128, H // 2, W // 2), fp32 or wider."""
        x: Tensor = self.features((picture.to(self.mean.dtype) - self.mean) / self.std)
        return x.to(torch.promote_types(x.dtype, torch.float32))


def _conv_relu(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True)


def load_vgg(path: Path) -> VggFeatures:
    """Read VGG features from a local file; nothing is downloaded.

    Parameters
    ----------
    path : Path
        Safetensors (``.safetensors``), or a PyTorch state dict, of torchvision's VGG-16 or VGG-19
        without batch normalisation. Layers that are not used may be there or not. The SHA-256 must
        be what the name (``vgg16-397923af.pth``) or a ``.sha256`` beside it promises.

    Returns
    -------
    VggFeatures
        On the CPU, fp32, frozen.

    Raises
    ------
    WeightsNotFoundError
        The file cannot be read.
    WeightsCorruptError
        The SHA-256 is not the promised one.
    WeightsMismatchError
        Not such a file, or a tensor is missing, of the wrong shape or not finite.
    """
    network = VggFeatures()
    tensors = read_tensors(path, _VGG)
    network.load_state_dict(fit_tensors(path, network.state_dict(), tensors, _VGG))
    return network
