"""What training minimises, and the structural similarity that two of the losses are made of.

A loss takes ``picture`` and ``target``, both (N, 3, H, W), BT.709-encoded, nominally [0, 1] (the
network's output is not clipped), and returns a scalar tensor. Everything but the perceptual
features is computed in fp32 or wider, under autocast too: a variance is a small difference of two
large numbers, of which half precision would leave nothing.

Sources: Wang, Simoncelli, Bovik, *Multi-scale structural similarity for image quality assessment*,
2003; Zhao, Gallo, Frosio, Kautz, *Loss functions for image restoration with neural networks*,
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
from gia_cli.training.config import LossName
from gia_cli.weights.pretrained import Origin, fit_tensors, read_tensors

Loss = Callable[[Tensor, Tensor], Tensor]

#: Weight of L1 in the joint loss (GIA-Net).
GAMMA = 0.84
#: Weights of L1, 1 - MS-SSIM and the perceptual term in `zamir_loss`.
ZAMIR_WEIGHTS = (0.35, 0.6, 0.05)
#: Exponents of Wang et al., finest scale first; their number is the number of scales.
STANDARD_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Side in pixels and standard deviation of SSIM's Gaussian window (Wang et al.).
WINDOW = 11
SIGMA = 1.5

# (K L)^2 with K1 = 0.01, K2 = 0.03 and data range L = 1.
_C1 = 0.01**2
_C2 = 0.03**2
# Below this, `_positive` bends a scale's similarity so that it stays above zero.
_FLOOR = 0.01


# ---------------------------------------------------------------- structural similarity


def ssim(picture: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity: Gaussian window 11, sigma 1.5, K1 0.01, K2 0.03, data range 1.

    Only windows that lie inside the picture count, and variances are not Bessel-corrected: what
    scikit-image computes with ``gaussian_weights=True, use_sample_covariance=False`` (it crops the
    border likewise), and pytorch-msssim by default.

    Parameters
    ----------
    picture, target : (N, C, H, W) float, nominally [0, 1]
        Channels are compared each for itself and averaged.

    Returns
    -------
    scalar tensor in [-1, 1], 1 for equal pictures
        Mean over the images; gradients reach both arguments.

    Raises
    ------
    ValueError
        The shapes differ, or a side is below 11 px.
    """
    return _similarities(picture, target, 1, WINDOW, SIGMA)[0].mean()


def standard_ms_ssim(picture: Tensor, target: Tensor) -> Tensor:
    """Multi-scale structural similarity as published by Wang et al., for reporting.

    Five scales by 2x2 averages (an odd last row or column is dropped), their exponents, window and
    constants as in `ssim`; the coarsest scale counts luminance too. A scale's mean similarity for
    one channel is cut at zero, whose fractional power has no finite gradient: train with `ms_ssim`.

    Parameters
    ----------
    picture, target : (N, C, H, W) float, nominally [0, 1]

    Returns
    -------
    scalar tensor in [0, 1], 1 for equal pictures
        Mean over channels and images. pytorch-msssim gives the same where both sides are multiples
        of 16; odd sides it pads with zeros.

    Raises
    ------
    ValueError
        The shapes differ, or a side is below 176 px: fewer scales would be another metric.
    """
    scales = len(STANDARD_EXPONENTS)
    factors = _similarities(picture, target, scales, WINDOW, SIGMA).clamp(min=0)
    exponents = factors.new_tensor(STANDARD_EXPONENTS)[:, None, None]
    return (factors**exponents).prod(dim=0).mean()


def ms_ssim(
    picture: Tensor, target: Tensor, *, scales: int = 5, window: int = WINDOW, sigma: float = SIGMA
) -> Tensor:
    """Multi-scale structural similarity as the GIA-Net paper trains with (its Eqs 3 to 6).

    ``l_M * cs_1 * ... * cs_M``: luminance at the coarsest scale M only, contrast and structure at
    every scale, all exponents 1 (as in Zhao et al.), Gaussian windows. The paper leaves open:

    - how scales are formed: by 2x2 averages, as Wang et al. do (an odd last row or column is
      dropped). Zhao et al. widen the Gaussian at full resolution instead, at many times the cost.
    - how many there are, and the window: 5, 11 px and 1.5, as Wang et al. do.
    - where means are taken: over each scale's map, for one image and channel, before the product
      (at the coarsest scale over the map of ``l * cs``); then over channels and images.
    - what becomes of a negative mean: a product would reward two of them, and cutting them at zero
      would silence the gradient of all scales. So a mean s below 0.01 is replaced by
      ``0.01**2 / (0.02 - s)``, which joins smoothly, stays positive, and rises with s everywhere:
      each scale is always pulled the right way. From 0.01 up nothing is changed.

    Parameters
    ----------
    picture, target : (N, C, H, W) float, nominally [0, 1]
    scales : int
        At most this many; fewer, but at least one, where the shorter side is below
        ``window * 2**(scales - 1)`` px (176 by default): as many as leave the coarsest scale a
        whole window.
    window : int
        Side of the Gaussian window, px; cut to the shorter side where that is smaller.
    sigma : float
        Its standard deviation, px.

    Returns
    -------
    scalar tensor in (0, 1], 1 for equal pictures
        Mean over channels and images; gradients reach both arguments and are finite everywhere.

    Raises
    ------
    ValueError
        The shapes differ, or `scales` or `window` is below 1.
    """
    shorter = min(picture.shape[-2:])
    window = min(window, shorter)
    while scales > 1 and shorter >> (scales - 1) < window:
        scales -= 1
    factors = _similarities(picture, target, scales, window, sigma)
    return _positive(factors).prod(dim=0).mean()


def _positive(similarity: Tensor) -> Tensor:
    """Keep what is above the floor; bend the rest to stay positive, with a continuous slope."""
    # The clamp keeps the branch that is not taken from dividing by zero, in gradients too.
    bent = _FLOOR**2 / (2 * _FLOOR - similarity.clamp(max=_FLOOR))
    return torch.where(similarity < _FLOOR, bent, similarity)


def _similarities(
    picture: Tensor, target: Tensor, scales: int, window: int, sigma: float
) -> Tensor:
    """Compare two pictures at each scale, finest first.

    Returns
    -------
    (scales, N, C), fp32 or wider
        Mean contrast-structure similarity; at the coarsest scale times luminance.

    Raises
    ------
    ValueError
        The shapes differ, or the coarsest scale is smaller than the window.
    """
    picture, target = _prepare(picture, target)
    count, channels, height, width = picture.shape
    if scales < 1 or window < 1 or min(height, width) >> (scales - 1) < window:
        raise ValueError(f"{height}x{width} px are too few for {scales} scales of {window} px")
    means: list[Tensor] = []
    with torch.autocast(picture.device.type, enabled=False):
        kernel = gaussian(window, sigma).to(picture)
        # All planes as channels of one image: torch's depthwise convolution is several times
        # faster on that than on a batch of three channels, on a CPU most of all in channels_last.
        # (On CUDA that layout would go to cuDNN, which computes "fp32" with 10 bits by default.)
        is_cpu = picture.device.type == "cpu"
        layout = torch.channels_last if is_cpu else torch.contiguous_format
        x, y = (
            planes.reshape(1, -1, height, width).contiguous(memory_format=layout)
            for planes in (picture, target)
        )
        for scale in range(scales):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            similarity = similarity_map(x, y, kernel, is_coarsest=scale == scales - 1)
            means.append(similarity.mean(dim=(2, 3)).view(count, channels))
    return torch.stack(means)


def similarity_map(x: Tensor, y: Tensor, kernel: Tensor, *, is_coarsest: bool) -> Tensor:
    """Compare two pictures window by window.

    Parameters
    ----------
    x, y : (1, P, H, W) float, nominally [0, 1]
        Each plane is compared for itself.
    kernel : (k,)
        From `gaussian`.
    is_coarsest : bool
        Whether luminance counts.

    Returns
    -------
    (1, P, H - k + 1, W - k + 1)
        Contrast and structure, cs, of every window; at the coarsest scale luminance times that.
    """
    # Of the two variances only the sum is ever needed: four maps to blur instead of five.
    mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
    mean_xy, mean_squares = _blur(x * y, kernel), _blur(x * x + y * y, kernel)
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    similarity = _likeness(mean_xy - product, mean_squares - squares, _C2)
    return similarity * _likeness(product, squares, _C1) if is_coarsest else similarity


def _likeness(cross: Tensor, squares: Tensor, constant: float) -> Tensor:
    """``(2ab + c) / (a^2 + b^2 + c)``: the form of both luminance and contrast-structure."""
    return (2 * cross + constant) / (squares + constant)


def gaussian(window: int = WINDOW, sigma: float = SIGMA) -> Tensor:
    """Build a centred Gaussian, (window,) in fp64, whose sum is 1."""
    offsets = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    return weights / weights.sum()


def _blur(planes: Tensor, kernel: Tensor) -> Tensor:
    """Filter rows, then columns, wherever the kernel fits: each plane for itself."""
    count = planes.shape[1]
    rows = kernel.view(1, 1, 1, -1).expand(count, 1, 1, -1)
    return F.conv2d(F.conv2d(planes, rows, groups=count), rows.transpose(2, 3), groups=count)


def _prepare(picture: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Check the shapes, for broadcasting would hide a mistake, and widen to fp32 at least."""
    if picture.shape != target.shape or picture.dim() != 4:
        shapes = f"{tuple(picture.shape)} and {tuple(target.shape)}"
        raise ValueError(f"a loss compares two tensors of one shape (N, C, H, W), not {shapes}")
    wide = torch.promote_types(torch.promote_types(picture.dtype, target.dtype), torch.float32)
    return picture.to(wide), target.to(wide)


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
    picture, target = _prepare(picture, target)
    return (picture - target).abs().mean()


def l2(picture: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference: what PSNR measures.

    It asks for the mean of all that a noisy place may be, where `l1` asks for their median; in dark
    places these differ, for the encoding's curve is steep there.

    Parameters, result and errors as for `l1`.
    """
    picture, target = _prepare(picture, target)
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
        Moved to the picture's device if it is elsewhere.
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


def make_loss(name: LossName, *, vgg: Path | None = None) -> Loss:
    """Build a loss by name.

    Parameters
    ----------
    name : "l1", "l2", "joint" or "zamir"
    vgg : Path, optional
        File of VGG weights, which "zamir" needs and the others refuse; see `load_vgg`.

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
    plain: dict[str, Loss] = {"l1": l1, "l2": l2, "joint": joint_loss}
    if name in plain:
        if vgg is not None:
            raise UsageError(
                f"The loss '{name}' uses no VGG network.", hint="Leave out --vgg, or use zamir."
            )
        return plain[name]
    if name != "zamir":
        raise UsageError(f"There is no loss '{name}'.", hint="There are l1, l2, joint and zamir.")
    if vgg is None:
        raise UsageError(
            "The loss 'zamir' compares features of a VGG network and needs --vgg FILE.",
            hint=f"Download https://download.pytorch.org/models/{_VGG_FILE} (528 MB).",
        )
    return partial(zamir_loss, features=load_vgg(vgg))


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
        if self.mean.device != picture.device:
            self.to(picture.device)
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
