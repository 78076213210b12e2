"""The twin of `simulation.scene.render` in torch: all crops of a batch at once, where it trains.

What is drawn of a scene stays NumPy's (`draw_parameters`); here photographs that lie on the device
become the network's planes and pictures there. The noise is of the same distributions, but its
numbers come from the device's own generator: other ones than NumPy's, and than another device's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gia_cli.cameras import CameraName
from gia_cli.imaging.color import (
    BT709_ALPHA,
    BT709_BETA,
    BT709_POWER,
    BT709_SLOPE,
    XYZ_FROM_SRGB,
)
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR, PLANE_COLORS, CfaKind, pack
from gia_cli.raw.turns import Turn
from gia_cli.simulation.noise import LOGISTIC_BELOW
from gia_cli.simulation.scene import BLOWN_FROM, SceneParameters
from gia_cli.simulation.sensor import CAMERAS, black_errors, filter_weights

_SIGN = 2**31  # of 32 bits the highest
_LUMINANCE = [float(weight) for weight in XYZ_FROM_SRGB[1].astype(np.float32)]


@dataclass(frozen=True, slots=True)
class Windows:
    """Squares of photographs, as places in one long list of pixels."""

    pixels: Tensor = field(repr=False)
    """(P, 3) float16, linear sRGB, 1 = white; on the device."""
    starts: NDArray[np.int64]
    """(N,); number of each square's top left pixel."""
    widths: NDArray[np.int64]
    """(N,); pixels from one row of its photograph to the next."""
    turns: Sequence[Turn]
    """N of them."""


@dataclass(frozen=True, slots=True)
class RenderedBatch:
    """What `render_batch` makes of N squares; all on the device."""

    planes: Tensor = field(repr=False)
    """(N, C, h, w) float32, as `packing.prepare` makes them."""
    target: Tensor = field(repr=False)
    """(N, 3, size, size) float32 in [0, 1], BT.709-encoded."""
    dn: Tensor = field(repr=False)
    """(N, size, size) float32, whole DN, black level included."""
    clean: Tensor | None = field(default=None, repr=False)
    """(N, C, h, w) float32; the planes without noise and black level error, not clipped."""


@torch.no_grad()
def render_batch(
    windows: Windows,
    scenes: Sequence[SceneParameters],
    levels: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    size: int,
    floor: int | None,
    generator: torch.Generator | None,
    with_clean: bool = False,
) -> RenderedBatch:
    """Photograph squares of photographs, and make a network's input of the exposures.

    Parameters
    ----------
    windows : Windows
        N squares.
    scenes : sequence of N SceneParameters
        Of one camera.
    levels : sequence of N pairs
        What `packing.plane_levels` returns for each.
    size : int
        Photosites a side, whole periods of the filter array.
    floor : 0 or None
        `NetConfig.input_floor`.
    generator : torch.Generator
        Of the device; draws the noise. None: torch's own, which no seed of a run governs.
    with_clean : bool
        Whether to return the planes without noise too.

    Raises
    ------
    ValueError
        The size is no whole number of periods, or the scenes are of several cameras.
    """
    (camera,) = {scene.camera for scene in scenes}
    kind = CAMERAS[camera].kind
    if size % len(CANONICAL[kind]):
        raise ValueError(f"{size} photosites are not a whole number of periods")
    device = windows.pixels.device
    numbers = _upload(_numbers(camera, scenes, levels), device)
    linear = _developed(_gathered(windows, size), numbers)
    mosaic = _mosaic(linear, numbers)
    read = _read_noise(mosaic, scenes, numbers, generator)
    dn = _recorded(mosaic, read, numbers, generator)
    dn = dn.round_().clamp_(0, CAMERAS[camera].white)
    planes = _packed(dn, kind).sub_(numbers["plane_black"]).mul_(numbers["plane_scale"])
    clean = None
    if with_clean:
        clean = _packed(mosaic, kind).mul_(numbers["exposure"][..., None] * numbers["plane_scale"])
    return RenderedBatch(planes.clamp_(floor, 1), _target(linear, numbers), dn, clean)


def _numbers(
    camera: CameraName,
    scenes: Sequence[SceneParameters],
    levels: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> dict[str, NDArray[np.float32]]:
    """Lay out the scenes' numbers so that each broadcasts over what it belongs to."""
    model, count = CAMERAS[camera], len(scenes)
    noises = [scene.noise for scene in scenes]
    period = len(CANONICAL[model.kind])

    def column(values: Sequence[float], dimensions: int) -> NDArray[np.float32]:
        return np.array(values, np.float32).reshape(count, *[1] * (dimensions - 1))

    cell = (period, period)
    black = [np.broadcast_to(black_errors(model.kind, noise), cell) for noise in noises]
    rebalance = [scene.rebalance() for scene in scenes]
    unchanged = np.eye(3, dtype=np.float32)
    matrices = [unchanged if matrix is None else matrix for matrix in rebalance]
    weights = [filter_weights(model, scene.light) for scene in scenes]
    return {
        "blown": column([max(scene.blown, 1) for scene in scenes], 4),
        "saturation": column([scene.style.saturation for scene in scenes], 4),
        "contrast": column([scene.style.contrast for scene in scenes], 4),
        "gain": column([scene.gain for scene in scenes], 4),
        "weights": np.stack(weights).reshape(count, 1, period, 1, period, 3),
        "rebalance": np.stack(matrices).reshape(count, 1, 1, 3, 3),
        "exposure": column([(model.white - model.black) / scene.ratio for scene in scenes], 3),
        "electron": column([noise.gain for noise in noises], 3),
        "read_scale": column([noise.read_scale for noise in noises], 3),
        "read_lambda": column([noise.read_lambda or 0 for noise in noises], 3),
        "row_sigma": column([noise.row_sigma for noise in noises], 3),
        "black": (model.black + np.stack(black)).reshape(count, 1, period, 1, period),
        "plane_black": np.stack([black for black, _ in levels])[..., None, None],
        "plane_scale": np.stack([scale for _, scale in levels])[..., None, None],
    }


def _upload(arrays: dict[str, NDArray[np.float32]], device: torch.device) -> dict[str, Tensor]:
    """Send many small arrays in one copy."""
    flat = np.concatenate([np.asarray(array, np.float32).ravel() for array in arrays.values()])
    sent = torch.split(to_device(flat, device), [array.size for array in arrays.values()])
    return {
        name: part.view(array.shape)
        for (name, array), part in zip(arrays.items(), sent, strict=True)
    }


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Send an array of the host's; to a GPU from page-locked memory, without waiting for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


# ---------------------------------------------------------------- light


def _gathered(windows: Windows, size: int) -> Tensor:
    """Look up the turned squares: (N, size, size, 3) float32."""
    ways = np.array([(t.flip_rows, t.flip_cols, t.transpose) for t in windows.turns])
    forward = np.arange(size)
    flipped_rows, flipped_cols, transposed = ways.T[..., None]
    rows = np.where(flipped_rows, forward[::-1], forward) * windows.widths[:, None]
    cols = np.where(flipped_cols, forward[::-1], forward)
    down = windows.starts[:, None] + np.where(transposed, cols, rows)
    along = np.where(transposed, rows, cols)
    down_at, along_at = to_device(np.stack([down, along]), windows.pixels.device)
    return windows.pixels[down_at[:, :, None] + along_at[:, None, :]].float()


def _developed(linear: Tensor, numbers: dict[str, Tensor]) -> Tensor:
    """Brighten blown places, change style and brightness; see `Style.apply`. In place."""
    dark = linear.amin(dim=3, keepdim=True)
    blown = ((dark - BLOWN_FROM) / (1 - BLOWN_FROM)).clamp_(0, 1)
    linear *= 1 + blown * (numbers["blown"] - 1)
    luminance = sum(linear[..., i : i + 1] * weight for i, weight in enumerate(_LUMINANCE))
    linear = linear.sub_(luminance).mul_(numbers["saturation"]).add_(luminance).clamp_(min=0)
    return linear.pow_(numbers["contrast"]).mul_(numbers["gain"])


def _mosaic(linear: Tensor, numbers: dict[str, Tensor]) -> Tensor:
    """Lay the filters over pictures: (N, H, W) shares of saturation."""
    count, height, width, _ = linear.shape
    period = numbers["weights"].shape[2]
    cells = linear.view(count, height // period, period, width // period, period, 3)
    mosaic = (cells * numbers["weights"]).sum(dim=5).view(count, height, width)
    return mosaic.clamp_(min=0)


def _target(linear: Tensor, numbers: dict[str, Tensor]) -> Tensor:
    """Render what should come of it: (N, 3, H, W), BT.709-encoded."""
    matrix = numbers["rebalance"]
    # Not as a matrix product, which may run in TF32 on a GPU.
    shown = linear[..., :1] * matrix[..., 0, :]
    for color in (1, 2):
        shown += linear[..., color : color + 1] * matrix[..., color, :]
    return bt709_encode(shown.clamp_(0, 1)).permute(0, 3, 1, 2).contiguous()


def bt709_encode(linear: Tensor) -> Tensor:
    """Linear light to BT.709 code values, both [0, 1]; the twin of `color.bt709_encode`."""
    curved = BT709_ALPHA * linear.clamp(min=BT709_BETA).pow_(BT709_POWER) - (BT709_ALPHA - 1)
    return torch.where(linear < BT709_BETA, BT709_SLOPE * linear, curved)


# ---------------------------------------------------------------- sensor


def _recorded(
    mosaic: Tensor, read: Tensor, numbers: dict[str, Tensor], generator: torch.Generator | None
) -> Tensor:
    """Record mosaics with noise, not rounded yet; see `noise.add_noise` and `sensor.expose`."""
    count, height, width = mosaic.shape
    electrons = mosaic * (numbers["exposure"] / numbers["electron"])
    recorded = torch.poisson(electrons, generator=generator).mul_(numbers["electron"]).add_(read)
    rows = torch.randn((count, height, 1), generator=generator, device=mosaic.device)
    recorded += rows.mul_(numbers["row_sigma"])
    period = numbers["black"].shape[2]
    cells = recorded.view(count, height // period, period, width // period, period)
    cells += numbers["black"]
    return recorded


def _read_noise(
    like: Tensor,
    scenes: Sequence[SceneParameters],
    numbers: dict[str, Tensor],
    generator: torch.Generator | None,
) -> Tensor:
    """Draw the read noise in DN; a camera's is normal, or of Tukey's lambda distribution."""
    laws = {scene.noise.read_lambda is None for scene in scenes}
    if len(laws) > 1:
        raise ValueError("a camera's read noise is of one law")
    if laws == {True}:
        read = torch.randn(like.shape, generator=generator, device=like.device)
    else:
        read = _tukey(like, numbers["read_lambda"], generator)
    return read.mul_(numbers["read_scale"])


def _tukey(like: Tensor, read_lambda: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from Tukey's lambda distribution, as `noise` does: 31 bits for the place, 1 the side."""
    bits = torch.empty(like.shape, dtype=torch.int32, device=like.device)
    bits.random_(-_SIGN, _SIGN, generator=generator)
    p = (bits & (_SIGN - 1)).float().add_(0.5).mul_(2**-32)
    lower, upper = p.log(), (1 - p).log_()
    shape = torch.where(read_lambda.abs() < LOGISTIC_BELOW, 1.0, read_lambda)
    power = ((upper * shape).exp_() - (lower * shape).exp_()) / shape
    size = torch.where(read_lambda.abs() < LOGISTIC_BELOW, upper - lower, power)
    return torch.where(bits < 0, -size, size)


@lru_cache(maxsize=8)
def _pack_index(kind: CfaKind, size: int, device: torch.device) -> Tensor:
    """List the photosite that each number of the planes comes from: (C * h * w,)."""
    sites = pack(np.arange(size * size).reshape(size, size), kind)
    return to_device(sites.ravel(), device)


def _packed(mosaics: Tensor, kind: CfaKind) -> Tensor:
    """Pack mosaics, (N, H, W), to planes as `cfa.pack` does."""
    size, side = mosaics.shape[1], mosaics.shape[1] // PACK_FACTOR[kind]
    planes = mosaics.flatten(1)[:, _pack_index(kind, size, mosaics.device)]
    return planes.view(len(mosaics), len(PLANE_COLORS[kind]), side, side)
