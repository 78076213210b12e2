"""From a RAW file to a `RawFrame`: mosaic, levels, colour, orientation and shot, all from the file.

LibRaw (through rawpy) decodes; this module asks it the right questions and gives every refusal a
sentence and an exit code of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rawpy
from numpy.typing import NDArray

from gia_cli.errors import (
    DamagedFileError,
    LinearRawError,
    MonochromeError,
    NotRawError,
    RawError,
    UnsupportedCfaError,
)
from gia_cli.raw.cfa import CANONICAL, CfaKind, classify, find_phase
from gia_cli.raw.exif import ShotInfo, read_shot
from gia_cli.raw.libraw import PHOTOMETRICS_RAW, directories_of, open_raw, refuse_hopeless

#: File name endings that `gia enhance FOLDER` looks for, in lower case.
# fmt: off
RAW_SUFFIXES = frozenset({
    ".3fr", ".ari", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr",
    ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".ori", ".pef", ".raf", ".raw", ".rw2",
    ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})
# fmt: on

# More photosites than this at DN 0, where black lies above it, means that nothing was decoded.
_MAX_ZERO_SHARE = 0.25
_PATTERN_PROBE = 12  # photosites a side: two X-Trans periods, six Bayer ones


@dataclass(frozen=True, slots=True)
class RawFrame:
    """One RAW photo as the sensor saw it, with what the file says about it."""

    path: Path
    mosaic: NDArray[np.uint16] = field(repr=False)
    """(H, W) uint16, DN; the visible area only, never rotated."""
    kind: CfaKind
    """Colour filter array."""
    phase: tuple[int, int]
    """Where in the canonical pattern the mosaic starts, (dy, dx) photosites."""
    black: NDArray[np.float32]
    """(p, p) float32, DN; black level of each place of the cell, from the mosaic's first on."""
    white: NDArray[np.float32]
    """(p, p) float32, DN; saturation level, likewise."""
    as_shot_wb: NDArray[np.float32]
    """(3,) float32; the camera's gains for R, G, B, green 1."""
    daylight_wb: NDArray[np.float32] | None
    """(3,) float32; gains that make daylight neutral, green 1; None for an unknown camera."""
    xyz_to_camera: NDArray[np.float32] | None
    """(3, 3) float32; LibRaw's colour matrix; None for an unknown camera."""
    flip: int
    """LibRaw's orientation: 0 none, 3 half turn, 5 a quarter left, 6 a quarter right."""
    shot: ShotInfo


def read_raw(path: Path) -> RawFrame:
    """Read one RAW photo.

    Parameters
    ----------
    path : Path

    Returns
    -------
    RawFrame

    Raises
    ------
    RawError
        One of its subclasses: missing, a folder, empty, unreadable, not a RAW, damaged,
        monochrome, Foveon, linear, unsupported colour filter array or compression.
    """
    path = Path(path)
    refuse_hopeless(path)
    with open_raw(path) as raw:
        return _frame(path, raw)


def read_exposure(path: Path) -> ShotInfo:
    """Read how a photo was taken, without decoding it where its EXIF says enough.

    Raises
    ------
    RawError
        As for `read_raw`.
    """
    path = Path(path)
    refuse_hopeless(path)
    shot = read_shot(path)
    return shot if shot.exposure_s is not None else read_raw(path).shot


def render(path: Path, *, brightness: float = 1.0, half_size: bool = False) -> NDArray[np.uint8]:
    """LibRaw's own rendering, amplified: the "traditional ISP" to compare with.

    Parameters
    ----------
    path : Path
    brightness : float
        Linear gain; the amplification ratio.
    half_size : bool
        One pixel per Bayer cell, without demosaicing: fast, for previews.

    Returns
    -------
    (H, W, 3) uint8
        sRGB primaries with the sRGB curve, white balance as shot, oriented.

    Raises
    ------
    RawError
        As for `read_raw`, without the refusals that concern the networks; and for what LibRaw
        opens but cannot demosaic (X-Trans smaller than 512 photosites a side).
    """
    rendering: NDArray[np.uint8] = _postprocess(
        path, bright=brightness, gamma=(2.4, 12.92), half_size=half_size, output_bps=8
    )
    return rendering


def render_truth(path: Path, mosaic: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
    """LibRaw's rendering of a long exposure: what SID's networks are trained and measured on.

    Parameters
    ----------
    path : Path
    mosaic : (H, W) uint16, optional
        DN to render instead of the file's own, as large as its visible area.

    Returns
    -------
    (H, W, 3) uint16
        sRGB primaries with the BT.709 curve (LibRaw's default), white balance as shot. Never
        rotated: each pixel is that of the mosaic's photosite.

    Raises
    ------
    RawError
        As for `render`.
    ValueError
        The mosaic is of another size.
    """
    rendering: NDArray[np.uint16] = _postprocess(path, mosaic, output_bps=16, user_flip=0)
    return rendering


def _postprocess(
    path: Path, mosaic: NDArray[np.uint16] | None = None, **options: Any
) -> NDArray[Any]:
    path = Path(path)
    refuse_hopeless(path)
    with open_raw(path) as raw:
        if mosaic is not None:
            if raw.raw_image_visible.shape != mosaic.shape:
                raise ValueError(f"{path} has {raw.raw_image_visible.shape} photosites")
            raw.raw_image_visible[...] = mosaic
        try:
            rendering: NDArray[Any] = raw.postprocess(
                use_camera_wb=True, no_auto_bright=True, **options
            )
        except rawpy.LibRawError as error:
            raise RawError(f"{path}: LibRaw opens this photo but cannot render it.") from error
        return rendering.copy()


# ---------------------------------------------------------------- what the file says


def _frame(path: Path, raw: rawpy.RawPy) -> RawFrame:
    shot = read_shot(path)
    if shot.make is None and _is_grey_picture(path):
        raise NotRawError(f"{path} is a grey TIFF picture, not a RAW photo.")
    if raw.raw_type != rawpy.RawType.Flat or raw.raw_image is None:
        raise LinearRawError(f"{path} is already demosaiced (linear DNG, sRAW or mRAW).")
    pattern, color_ids = _pattern(path, raw)
    kind = classify(pattern)
    if kind is None and (from_tags := _dng_pattern(path, raw)) is not None:
        pattern = from_tags
        color_ids = from_tags.astype(np.intp)
        kind = classify(pattern)
    if kind is None:
        raise _cfa_refusal(path, pattern)
    phase = find_phase(pattern, kind)
    assert phase is not None  # classify found one
    mosaic = raw.raw_image_visible.copy()  # a view that dies with the file
    period = CANONICAL[kind].shape[0]
    cell = color_ids[:period, :period]
    black = np.asarray(raw.black_level_per_channel, np.float32)[cell]
    if kind == "bayer":
        black = np.roll(black, _black_shift(path, raw), axis=(0, 1))
    white = _white(raw)[cell]
    if (white <= black).any():
        raise DamagedFileError(f"{path} states a white level that is not above its black level.")
    if black.min() > 0 and np.count_nonzero(mosaic) < (1 - _MAX_ZERO_SHARE) * mosaic.size:
        raise DamagedFileError(f"{path} is corrupted: most of it decodes to nothing.")
    return RawFrame(
        path=path,
        mosaic=mosaic,
        kind=kind,
        phase=phase,
        black=black,
        white=white,
        as_shot_wb=_gains(raw.camera_whitebalance) if _gains_ok(raw) else _neutral(raw),
        daylight_wb=_daylight(raw),
        xyz_to_camera=_matrix(raw),
        flip=int(raw.sizes.flip),
        shot=shot.or_else(_libraw_shot(raw)),
    )


def _pattern(path: Path, raw: rawpy.RawPy) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Colours (0 R, 1 G, 2 B, 3 other) and LibRaw's colour ids around the first visible photosite.

    rawpy's ``raw_pattern`` and ``raw_colors`` read out of bounds for X-Trans when a margin exceeds
    6 photosites, so the pattern is asked for photosite by photosite.
    """
    if raw.num_colors == 1:
        raise MonochromeError(f"{path} comes from a sensor without colour filters.")
    sizes = raw.sizes
    probe = range(_PATTERN_PROBE)
    ids = np.array(
        [[raw.raw_color(sizes.top_margin + y, sizes.left_margin + x) for x in probe] for y in probe]
    )
    letters = raw.color_desc.decode("ascii", "replace")
    colors = np.array(["RGB".find(letter) % 4 for letter in letters], np.uint8)
    if raw.num_colors != 3 or ids.max() >= len(colors):
        raise UnsupportedCfaError(f"{path} has the colour filters {letters}, not R, G and B.")
    return colors[ids], ids


def _dng_pattern(path: Path, raw: rawpy.RawPy) -> NDArray[np.uint8] | None:
    """Read the pattern from a DNG's own tags; None when there is no 6x6 one.

    LibRaw moves the margins of Fujifilm DNGs to multiples of 6 and then forgets the pattern. DNG
    counts CFAPattern from the top left of ActiveArea.
    """
    for directory in directories_of(path):
        values = directory.tags.get(0x828E, ())
        if directory.tags.get(0x828D) != (6, 6) or len(values) != 36 or max(values) > 2:
            continue
        top, left = (*directory.tags.get(0xC68D, ()), 0, 0)[:2]
        cell = np.array(values, np.uint8).reshape(6, 6)
        rows = np.arange(_PATTERN_PROBE) + raw.sizes.top_margin - top
        cols = np.arange(_PATTERN_PROBE) + raw.sizes.left_margin - left
        return cell[rows[:, None] % 6, cols[None] % 6]
    return None


def _is_grey_picture(path: Path) -> bool:
    """Tell whether all that this TIFF says it holds is grey, which LibRaw takes for a mosaic."""
    photometrics = {d.first(0x0106) for d in directories_of(path) if 0x0106 in d.tags}
    return bool(photometrics) and photometrics <= {0, 1}


def _black_shift(path: Path, raw: rawpy.RawPy) -> tuple[int, int]:
    """How far to roll LibRaw's black levels, (rows, columns), for a DNG with a level per place.

    DNG counts BlackLevel from ActiveArea, LibRaw from its visible area, whose margins it makes
    even.
    """
    for directory in directories_of(path):
        repeats = max(directory.tags.get(0xC619, ()), default=1) > 1  # BlackLevelRepeatDim
        if repeats and directory.first(0x0106) in PHOTOMETRICS_RAW:
            top, left = (*directory.tags.get(0xC68D, ()), 0, 0)[:2]
            return top - raw.sizes.top_margin, left - raw.sizes.left_margin
    return 0, 0


def _cfa_refusal(path: Path, pattern: NDArray[np.uint8]) -> RawError:
    if len(np.unique(pattern)) == 1:
        return MonochromeError(f"{path} comes from a sensor without colour filters.")
    return UnsupportedCfaError(f"{path} has a colour filter array that is not Bayer or X-Trans.")


def _white(raw: rawpy.RawPy) -> NDArray[np.float32]:
    """Saturation of each LibRaw colour id: the camera's own where it is believable."""
    whites = raw.camera_white_level_per_channel
    blacks = raw.black_level_per_channel
    if whites is not None and all(
        black < white <= raw.white_level for white, black in zip(whites[:3], blacks, strict=False)
    ):
        fourth = whites[3] if len(whites) > 3 and whites[3] > blacks[1] else whites[1]
        return np.array([*whites[:3], fourth], np.float32)
    return np.full(4, raw.white_level, np.float32)


def _gains_ok(raw: rawpy.RawPy) -> bool:
    gains = np.asarray(raw.camera_whitebalance[:3], np.float64)
    return bool(np.isfinite(gains).all() and (gains > 0).all())


def _neutral(raw: rawpy.RawPy) -> NDArray[np.float32]:
    """White balance for a file without one: daylight if the camera is known, else none."""
    daylight = _daylight(raw)
    return np.ones(3, np.float32) if daylight is None else daylight


def _gains(values: list[float]) -> NDArray[np.float32]:
    gains = np.asarray(values[:3], np.float32)
    return np.asarray(gains / gains[1], np.float32)


def _daylight(raw: rawpy.RawPy) -> NDArray[np.float32] | None:
    """LibRaw works these gains out from its matrix, so they exist for a known camera only."""
    return None if _matrix(raw) is None else _gains(raw.daylight_whitebalance)


def _matrix(raw: rawpy.RawPy) -> NDArray[np.float32] | None:
    matrix = np.asarray(raw.rgb_xyz_matrix, np.float32)[:3]
    return matrix.copy() if np.any(matrix) else None


def _libraw_shot(raw: rawpy.RawPy) -> ShotInfo:
    """Ask LibRaw about the shot, for files whose EXIF exifread cannot read."""
    other, lens = raw.other, raw.lens
    taken = other.timestamp
    return ShotInfo(
        lens=lens.model.strip() or None,
        exposure_s=other.shutter_speed or None,
        iso=round(other.iso_speed) or None,
        aperture=round(other.aperture, 2) or None,
        focal_mm=round(other.focal_length, 1) or None,
        # A file without a date gives the epoch, 1970 or 1969 by the time zone.
        taken=taken.strftime("%Y:%m:%d %H:%M:%S") if taken and taken.year > 1970 else None,
    )
