"""What one does without a network: amplify the mosaic, denoise it if at all, let LibRaw render it.

The "traditional ISP" of the paper's Fig. 1b, and the same with a classical denoiser in front, which
works where noise is simplest: on the planes of the mosaic, after a transform that makes its
variance one everywhere.

Sources: Makitalo and Foi, *Optimal inversion of the generalized Anscombe transformation for
Poisson-Gaussian noise*, 2013 (the transform and its unbiased inverse in closed form); non-local
means: Buades et al. 2005; BM3D: Dabov et al. 2007. Of denoisers in kept packages, scikit-image's
non-local means (BSD) is the one to install; BM3D's own package (bm3d) may be used for
non-commercial purposes only, so it is used where the user has it, and the project does not ask for
it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import UsageError
from gia_cli.raw.cfa import align, pack, unpack
from gia_cli.raw.noise_estimate import estimate_noise
from gia_cli.raw.reader import RawFrame, render_truth

IspName = Literal["libraw", "libraw+nlm", "libraw+bm3d"]
#: One line about each, for tables.
ISP_NAMES: dict[IspName, str] = {
    "libraw": "LibRaw, amplified",
    "libraw+nlm": "LibRaw + non-local means",
    "libraw+bm3d": "LibRaw + BM3D",
}

# (C, h, w) with noise of variance one to the same without.
Denoiser = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def render_isp(frame: RawFrame, ratio: float, name: IspName) -> NDArray[np.float32]:
    """Render a photo the traditional way.

    Parameters
    ----------
    frame : RawFrame
        As read from its file, which is opened again for LibRaw's rendering.
    ratio : float
        Amplification.
    name : "libraw", "libraw+nlm" or "libraw+bm3d"

    Returns
    -------
    (H, W, 3) float32 in [0, 1]
        BT.709-encoded, white balance as shot, not rotated.

    Raises
    ------
    UsageError
        The denoiser is not installed.
    RawError
        LibRaw cannot render the file.
    """
    signal = _above_black(frame)
    if name != "libraw":
        signal = _denoise(signal, frame, _denoiser(name))
    rendering = render_truth(Path(frame.path), _amplified(frame, signal, ratio))
    return np.multiply(rendering, 1 / 65535, dtype=np.float32)


def _above_black(frame: RawFrame) -> NDArray[np.float32]:
    return frame.mosaic.astype(np.float32) - _tiled(frame.black, frame.mosaic.shape)


def _amplified(frame: RawFrame, signal: NDArray[np.float32], ratio: float) -> NDArray[np.uint16]:
    """Put the amplified signal back onto the black level, up to saturation."""
    black, white = (_tiled(level, frame.mosaic.shape) for level in (frame.black, frame.white))
    levels: NDArray[np.uint16] = np.clip(
        np.rint(signal * np.float32(ratio) + black), 0, white
    ).astype(np.uint16)
    return levels


def _tiled(cell: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Repeat the values of a cell over a frame."""
    rows, cols = (np.arange(side) % cell.shape[0] for side in shape)
    tiled: NDArray[np.float32] = cell[rows[:, None], cols[None]]
    return tiled


# ---------------------------------------------------------------- denoising


def _denoise(
    signal: NDArray[np.float32], frame: RawFrame, denoiser: Denoiser
) -> NDArray[np.float32]:
    """Denoise a mosaic, DN above black, plane by plane; its noise is measured on itself."""
    # The alignment works on whole numbers as on any others: it only copies.
    aligned, added = align(signal, frame.phase, frame.kind)  # type: ignore[arg-type]
    planes = pack(aligned, frame.kind)
    gain, variance = estimate_noise(planes)
    clean = inverse_anscombe(denoiser(anscombe(planes, gain, variance)), gain, variance)
    height, width = signal.shape
    mosaic = unpack(clean, frame.kind)
    return mosaic[added.top : added.top + height, added.left : added.left + width]


def anscombe(x: NDArray[np.float32], gain: float, variance: float) -> NDArray[np.float32]:
    """Make the variance of Poisson-Gaussian noise one.

    Parameters
    ----------
    x : any shape, DN above black
    gain, variance : float
        As `estimate_noise` returns them.
    """
    inner = gain * x + np.float32(3 / 8 * gain**2 + variance)
    transformed: NDArray[np.float32] = np.float32(2 / gain) * np.sqrt(np.maximum(inner, 0))
    return transformed


def inverse_anscombe(d: NDArray[np.float32], gain: float, variance: float) -> NDArray[np.float32]:
    """Undo `anscombe` for a denoised value: the expectation, not the transform's plain inverse.

    Closed form of Makitalo and Foi (2013), in electrons and back.
    """
    d = np.maximum(d, np.float32(2 * np.sqrt(3 / 8)))
    root = np.sqrt(3 / 2)
    electrons = d**2 / 4 + root / 4 / d - 11 / 8 / d**2 + 5 / 8 * root / d**3 - 1 / 8
    dn: NDArray[np.float32] = (gain * (electrons - variance / gain**2)).astype(np.float32)
    return dn


def require_denoiser(name: IspName) -> None:
    """Refuse a row whose denoiser is not installed.

    Raises
    ------
    UsageError
    """
    package, pip = {
        "libraw": ("numpy", ""),
        "libraw+nlm": ("skimage", "pip install scikit-image."),
        "libraw+bm3d": ("bm3d", "pip install bm3d (its licence: non-commercial use only)."),
    }[name]
    if find_spec(package) is None:
        raise UsageError(f"The row '{name}' needs {package}, which is not installed.", hint=pip)


def denoiser_version(name: IspName) -> str:
    """Name the version of the package that a row depends on; empty if there is none."""
    package = {"libraw+nlm": "scikit-image", "libraw+bm3d": "bm3d"}.get(name)
    return "" if package is None else f"{package} {version(package)}"


def _denoiser(name: IspName) -> Denoiser:
    require_denoiser(name)
    return _bm3d if name == "libraw+bm3d" else _non_local_means


def _non_local_means(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    from skimage.restoration import denoise_nl_means

    # 7x7 patches within 11 px, the strength that Buades et al. advise for this patch size.
    stacked = planes.transpose(1, 2, 0)
    clean = denoise_nl_means(
        stacked, patch_size=7, patch_distance=11, h=0.6, sigma=1.0, fast_mode=True, channel_axis=2
    )
    return np.ascontiguousarray(clean.transpose(2, 0, 1), np.float32)


def _bm3d(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    from bm3d import bm3d

    # It matches blocks on the first channel: give it the one with the most signal. An orthonormal
    # transform leaves the noise white, with variance one.
    mix = _orthonormal(len(planes))
    mixed = np.einsum("ij,jhw->hwi", mix, planes)
    clean = np.einsum("ij,hwi->jhw", mix, bm3d(mixed, 1.0))
    return np.ascontiguousarray(clean, np.float32)


def _orthonormal(size: int) -> NDArray[np.float64]:
    """Build the matrix of a cosine transform: rows orthonormal, the first one the mean."""
    k, n = np.arange(size)[:, None], np.arange(size)[None]
    matrix = np.cos(np.pi * (n + 0.5) * k / size) * np.sqrt(2 / size)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float64)
