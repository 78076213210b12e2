"""A photograph to the RAW file that a camera would have recorded in near darkness.

The physics is in `simulation.sensor`; many photographs become a data set in `simulation.dataset`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import ENDINGS, CameraName, WhiteBalance
from gia_cli.errors import DataError, GiaError, OutputExistsError, UsageError
from gia_cli.files import OnExists, identity, is_taken
from gia_cli.imaging.color import srgb_encode
from gia_cli.imaging.photos import read_photo, shrink
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.cfa import CANONICAL
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RAW_SUFFIXES
from gia_cli.raw.writer import write_arw, write_raf
from gia_cli.sensor_table import iso_settings
from gia_cli.sid_layout import LONG_SUFFIX
from gia_cli.simulation.noise import SensorNoise
from gia_cli.simulation.options import SimulateOptions
from gia_cli.simulation.sensor import (
    CAMERAS,
    CameraModel,
    SceneSettings,
    expose,
    median_gains,
    mosaic_from_linear,
    scaled,
)

Status = Literal["written", "skipped", "failed"]


_LEAST_SIDE = 24  # photosites; LibRaw takes smaller files for broken ones
XTRANS_RENDER_SIDE = 512  # photosites; LibRaw's X-Trans demosaicing works in tiles of that side
_BAND = 6 * 64  # rows at a time: whole cells of either camera
_PREVIEW_SIDE = 160
_WB_RANGE = (0.2, 12.0)  # files hold 60 times the smallest gain
_LIBRAW_MAXIMUM_SHARE = 0.74  # LibRaw's 0.75, and a margin for its rounding
_SHORTEST_S = 1e-5  # EXIF, as it is written here, holds microseconds
_LENS = "simulated by gia"  # so that these are not taken for a camera's own
HELP = "See 'gia simulate --help'."
_EXISTS_HINT = "Use --on-exists overwrite or skip, or another name."


# ---------------------------------------------------------------- one exposure


@dataclass(frozen=True, slots=True)
class Simulated:
    """The files of one exposure."""

    source: Path
    scene: SceneSettings
    """Its ratio is that of the first short exposure."""
    shorts: tuple[Path, ...]
    ratios: tuple[float, ...]
    """Of each short exposure."""
    long: Path
    status: Status = "written"
    kept: tuple[Path, ...] = ()
    """Files that were there, and stay as they were."""
    error: GiaError | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The short exposures, then the long one."""
        return (*self.shorts, self.long)

    @property
    def written(self) -> tuple[Path, ...]:
        """The files that this run wrote."""
        if self.status != "written":
            return ()
        return tuple(path for path in self.files if path not in self.kept)


def simulate_photo(
    photo: Path,
    output: Path | None = None,
    options: SimulateOptions | None = None,
    progress: Progress = SILENT,
) -> Simulated:
    """Simulate a short exposure of a picture and, beside it, a long one.

    Parameters
    ----------
    photo : Path
        A JPEG, PNG, WebP, TIFF or BMP picture, taken for sRGB.
    output : Path, optional
        The short exposure, .ARW or .RAF as the camera's; by default ``PHOTO_night.ARW`` beside the
        photo. The long exposure's name has ``_long`` behind its stem.
    options : SimulateOptions, optional
    progress : Progress

    Returns
    -------
    Simulated

    Raises
    ------
    UsageError
        Options that make no sense, or an ending that is not the camera's.
    DataError
        The picture cannot be read, or is too small.
    OutputExistsError
        One of the two files is there, and `on_exists` is "error".
    OutputError
        They cannot be written.
    """
    options = options or SimulateOptions()
    check_options(options)
    ending = ENDINGS[options.camera]
    output = output or photo.with_name(f"{photo.stem}_night{ending}")
    if output.suffix.lower() != ending.lower():
        raise UsageError(
            f"{output}: a file of the {options.camera} ends in {ending}.",
            hint="Change the name, or the camera with --camera.",
        )
    wb = scaled(options.wb or median_gains(options.camera))
    scene = SceneSettings(options.iso, options.ratio, wb)
    long = output.with_stem(f"{output.stem}{LONG_SUFFIX}")
    result = looked_up(Simulated(photo, scene, (output,), (options.ratio,), long), options)
    if result.status == "skipped":
        return result
    mosaic = picture_mosaic(photo, scene.wb, options)
    if CAMERAS[options.camera].kind == "xtrans" and min(mosaic.shape) < XTRANS_RENDER_SIDE:
        progress.note(
            f"{photo.name}: LibRaw cannot render X-Trans photos with fewer than "
            f"{XTRANS_RENDER_SIDE} photosites a side (these have {min(mosaic.shape)}); gia enhance "
            "can."
        )
    photograph(mosaic, result, options, np.random.default_rng(options.seed), progress)
    return result


def check_options(options: SimulateOptions) -> None:
    """Refuse numbers outside physics."""
    settings = iso_settings(options.camera)
    if options.iso not in settings:
        raise UsageError(
            f"The {options.camera}'s noise is not known at ISO {options.iso}.",
            hint=f"Choose one of {', '.join(map(str, settings))}.",
        )
    check_range("--ratio", options.ratio, 1, 100_000)
    check_range("--ev", options.ev, -10, 10)
    check_range("--shrink", options.shrink, 1, 64)
    check_range("--seed", options.seed, 0, float(2**63))
    check_range("--long-exposure", options.long_exposure_s, 0.001, 3600)
    shortest = options.long_exposure_s / options.ratio
    if shortest < _SHORTEST_S:
        raise UsageError(
            f"A short exposure of {shortest:g} s is shorter than any camera's.",
            hint="Give a longer --long-exposure or a smaller --ratio.",
        )
    check_range("--aperture", options.aperture, 0.5, 100)
    for gain in options.wb or ():
        check_range("--wb", gain, *_WB_RANGE)


def check_range(option: str, value: float, lowest: float, highest: float) -> None:
    """Refuse a number outside its range; NaN lies in none."""
    if not lowest <= value <= highest:  # NaN too
        raise UsageError(
            f"{option} must be between {lowest:g} and {highest:g}, not {value:g}.", hint=HELP
        )


def looked_up(result: Simulated, options: SimulateOptions) -> Simulated:
    """Look what is there already: refuse to replace it, or keep it, as `on_exists` says."""
    there = existing(result.files, options.on_exists)
    if options.on_exists != "skip":
        return result
    status: Status = "skipped" if len(there) == len(result.files) else "written"
    return replace(result, kept=there, status=status)


def existing(files: Iterable[Path], on_exists: OnExists) -> tuple[Path, ...]:
    """Find the files that are there; refuse if there are any and that is an error."""
    there = tuple(path for path in files if identity(path) is not None)
    # A link that leads nowhere is nothing to keep, nor to be replaced unasked.
    taken = [path for path in files if is_taken(path) and path not in there]
    taken += there if on_exists == "error" else ()
    if taken and on_exists != "overwrite":
        raise OutputExistsError(f"{taken[0]} already exists.", hint=_EXISTS_HINT)
    return there


def picture_mosaic(path: Path, wb: WhiteBalance, options: SimulateOptions) -> NDArray[np.float32]:
    """Read a picture and lay the camera's filters over it, (H, W) in whole cells.

    In bands, so that the linear picture, six times the size of the mosaic with its copies, is never
    whole in memory.
    """
    if path.suffix.lower() in RAW_SUFFIXES:
        raise DataError(
            f"{path} is a RAW photo; a short exposure is simulated from a finished picture.",
            hint="Develop it first: JPEG, PNG, WebP, TIFF and BMP are read.",
        )
    photo = read_photo(path)
    camera, factor = CAMERAS[options.camera], options.shrink
    period = CANONICAL[camera.kind].shape[0]
    height, width = (side // factor // period * period for side in photo.shape[:2])
    if min(height, width) < _LEAST_SIDE:
        raise DataError(
            f"{path} is too small: it gives {height}x{width} photosites, but {_LEAST_SIDE} a side "
            "are needed.",
            hint="Use a larger picture, or a smaller --shrink.",
        )
    mosaic = np.empty((height, width), np.float32)
    gain = np.float32(2**options.ev)
    for top in range(0, height, _BAND):
        rows = slice(top, min(top + _BAND, height))
        band = photo[factor * rows.start : factor * rows.stop, : factor * width]
        mosaic[rows] = mosaic_from_linear(shrink(band, factor) * gain, camera, wb)
    return mosaic


def photograph(
    mosaic: NDArray[np.float32],
    taken: Simulated,
    options: SimulateOptions,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    """Write the exposures of one scene, all by the same body: its black is one wrong.

    Each has a generator of its own, so that it does not depend on which others are there already.
    """
    noise = CAMERAS[options.camera].noise(taken.scene.iso, rng)
    exposures = [(taken.long, 1.0), *zip(taken.shorts, taken.ratios, strict=True)]
    progress.stage("exposures", len(exposures))
    for (path, ratio), own_rng in zip(exposures, rng.spawn(len(exposures)), strict=True):
        if path not in taken.kept:
            is_long = path == taken.long
            own_noise = None if is_long and options.clean_long else noise
            scene = replace(taken.scene, ratio=ratio)
            dn = _exposure(mosaic, scene, options.camera, own_noise, own_rng)
            if is_long:
                _saturate_one(dn, CAMERAS[options.camera])
            _write(path, dn, _preview(mosaic, scene, options.camera), scene, options)
        progress.advance()


def _exposure(
    mosaic: NDArray[np.float32],
    scene: SceneSettings,
    camera_name: CameraName,
    noise: SensorNoise | None,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """Record a whole frame in bands, to save memory; without noise it is only rounded."""
    camera = CAMERAS[camera_name]
    dn = np.empty(mosaic.shape, np.uint16)
    for top in range(0, len(mosaic), _BAND):
        rows = slice(top, top + _BAND)
        if noise is None:
            signal = mosaic[rows] * np.float32((camera.white - camera.black) / scene.ratio)
            dn[rows] = np.rint(np.minimum(signal + np.float32(camera.black), camera.white))
        else:
            dn[rows] = expose(
                mosaic[rows], camera, ratio=scene.ratio, iso=scene.iso, rng=rng, noise=noise
            )
    return dn


def _saturate_one(dn: NDArray[np.uint16], camera: CameraModel) -> None:
    """Stick the last photosite at white where the brightest one lies shortly below it.

    LibRaw takes a brightest photosite between 75 % and 100 % of white for white
    (``adjust_maximum_thr``), and would render the long exposure, the ground truth, up to a third
    brighter than its light. The hot photosites of a real sensor in a real long exposure prevent
    that.
    """
    brightest = (int(dn.max()) - camera.black) / (camera.white - camera.black)
    if _LIBRAW_MAXIMUM_SHARE < brightest < 1:
        dn[-1, -1] = camera.white


def _preview(
    mosaic: NDArray[np.float32], scene: SceneSettings, camera: CameraName
) -> NDArray[np.uint8]:
    """Make the small picture inside the RAW file, as dark as the exposure: (h, w, 3) uint8.

    One pixel of a cell's own colours, white balanced, is enough for the size of a stamp.
    """
    pattern = CANONICAL[CAMERAS[camera].kind]
    period = pattern.shape[0]
    step = period * max(1, min(mosaic.shape) // period // _PREVIEW_SIDE)
    places = [tuple(np.argwhere(pattern == color)[0]) for color in range(3)]
    cells = [mosaic[y::step, x::step] for y, x in places]
    linear = np.stack(cells, axis=2) * (np.array(scene.wb, np.float32) / np.float32(scene.ratio))
    return np.asarray(np.rint(srgb_encode(np.minimum(linear, 1)) * 255), np.uint8)


def _write(
    path: Path,
    dn: NDArray[np.uint16],
    preview: NDArray[np.uint8],
    scene: SceneSettings,
    options: SimulateOptions,
) -> None:
    shot = ShotInfo(
        exposure_s=options.long_exposure_s / scene.ratio,
        iso=scene.iso,
        aperture=options.aperture,
        lens=_LENS,
    )
    if options.camera == "X-T2":
        write_raf(path, dn, shot=shot, wb=scene.wb, preview=preview)
    else:
        write_arw(path, dn, shot=shot, wb=scene.wb, preview=preview)
