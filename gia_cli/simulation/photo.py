"""A photograph to the RAW file that a camera would have recorded at night.

The physics of the training data: undo the photograph's curve and colours, lay the camera's filters
over it, take away the light, add the sensor's noise. Source of the noise: see `noise`.
"""

from __future__ import annotations

import filecmp
import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import A7S2_MATRIX, ENDINGS, XT2_MATRIX, CameraName, WhiteBalance
from gia_cli.errors import DataError, GiaError, OutputError, OutputExistsError, UsageError
from gia_cli.files import atomic_file, make_folder
from gia_cli.imaging.color import XYZ_FROM_SRGB, camera_from_srgb, srgb_decode, srgb_encode
from gia_cli.imaging.photos import find_photos, read_photo, shrink
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.cfa import CANONICAL, CfaKind
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RAW_SUFFIXES
from gia_cli.raw.writer import write_arw, write_raf
from gia_cli.sid_layout import (
    FAMILIES,
    MOST_SCENES,
    SPLIT_DIGITS,
    Split,
    list_path,
    plan_path,
    split_of,
    time_name,
)
from gia_cli.simulation.manifest import Picture, TreePlan, look_at, read_plan, write_plan
from gia_cli.simulation.noise import (
    SensorNoise,
    add_noise,
    fuji_xt2,
    iso_settings,
    nearest_iso,
    sony_a7s2,
)

OnExists = Literal["error", "skip", "overwrite"]
Status = Literal["written", "skipped", "failed"]


_LEAST_DEALT = 3  # pictures from which on no list with a share stays empty
_LEAST_SIDE = 24  # photosites; LibRaw takes smaller files for broken ones
_XTRANS_RENDER_SIDE = 512  # photosites; LibRaw's X-Trans demosaicing works in tiles of that side
_BAND = 6 * 64  # rows at a time: whole cells of either camera
_PREVIEW_SIDE = 160
_WB_RANGE = (0.2, 12.0)  # files hold 60 times the smallest gain
_LIBRAW_MAXIMUM_SHARE = 0.74  # LibRaw's 0.75, and a margin for its rounding
_SHORTEST_S = 1e-5  # EXIF, as it is written here, holds microseconds
_LENS = "simulated by gia"  # so that nobody takes these for a camera's own
_HELP = "See 'gia simulate --help'."
_EXISTS_HINT = "Use --on-exists overwrite or skip, or another name."
_FOREIGN_HINT = (
    "So it is not known which pictures the tree was made of: choose another --out, or "
    "--on-exists overwrite to make it anew."
)
_MOST_NAMED = 5  # pictures in a message


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A camera whose nights can be simulated."""

    kind: CfaKind
    black: int
    white: int
    matrix: tuple[tuple[float, float, float], ...]
    """XYZ (D65) to camera."""
    noise: Callable[[int, np.random.Generator], SensorNoise]


CAMERAS: dict[CameraName, CameraModel] = {
    "ILCE-7SM2": CameraModel("bayer", 512, 16383, A7S2_MATRIX, sony_a7s2),
    "X-T2": CameraModel("xtrans", 1024, 16383, XT2_MATRIX, fuji_xt2),
}


def mosaic_from_linear(
    linear: NDArray[np.floating], camera: CameraModel, wb: WhiteBalance
) -> NDArray[np.float32]:
    """Lay a camera's filters over a picture.

    Parameters
    ----------
    linear : (H, W, 3) float
        Linear sRGB, 1 = white.
    camera : CameraModel
    wb : (r, g, b)
        White balance gains of the light; the camera records a white surface as ``1 / wb``.

    Returns
    -------
    (H, W) float32
        Share of saturation, in the canonical phase from the first photosite on.
    """
    to_camera = camera_from_srgb(np.array(camera.matrix)) / np.array(wb)[:, None]
    pattern = CANONICAL[camera.kind]
    height, width, _ = linear.shape
    period = pattern.shape[0]
    # Only the colour that a photosite records is worked out, a third of a matrix product. Whole
    # rows of one phase at a time: loops over single places of the cell would be short and slow.
    weights = to_camera.astype(np.float32)[pattern[:, np.arange(width) % period]]  # (p, W, 3)
    mosaic = np.empty((height, width), np.float32)
    for phase in range(min(period, height)):
        light, sites = linear[phase::period], mosaic[phase::period]
        np.multiply(light[..., 0], weights[phase, :, 0], out=sites, casting="same_kind")
        sites += light[..., 1] * weights[phase, :, 1]
        sites += light[..., 2] * weights[phase, :, 2]
    return np.maximum(mosaic, 0, out=mosaic)


def expose(
    mosaic: NDArray[np.floating],
    camera: CameraModel,
    *,
    ratio: float,
    iso: int,
    rng: np.random.Generator,
    noise: SensorNoise | None = None,
) -> NDArray[np.uint16]:
    """Record a mosaic with 1/ratio of the light.

    Parameters
    ----------
    mosaic : (H, W) float
        Share of saturation at full exposure, in the canonical phase; may exceed 1, where only the
        full exposure saturates.
    camera : CameraModel
    ratio : float
        How much shorter the exposure is.
    iso : int
    rng : numpy Generator
    noise : SensorNoise, optional
        The sensor's noise, for several crops of one frame; drawn for the ISO by default.

    Returns
    -------
    (H, W) uint16
        DN, black level included, clipped to 0...white.
    """
    if noise is None:
        noise = camera.noise(iso, rng)
    signal = np.multiply(mosaic, (camera.white - camera.black) / ratio, dtype=np.float32)
    recorded = add_noise(signal, noise, rng)
    levels = camera.black + _black_errors(camera.kind, noise)
    period = levels.shape[0]
    row = levels[:, np.arange(mosaic.shape[1]) % period]
    for phase in range(min(period, mosaic.shape[0])):
        recorded[phase::period] += row[phase]
    np.rint(recorded, out=recorded)
    np.clip(recorded, 0, camera.white, out=recorded)
    return recorded.astype(np.uint16)


def _black_errors(kind: CfaKind, noise: SensorNoise) -> NDArray[np.float32]:
    """Black level error of each place of the cell: (p, p), or (1, 1) where there is none."""
    errors = np.array(noise.black_error or (0,), np.float32)
    if len(errors) == 1:
        return errors[:, None]
    return errors.reshape(2, 2) if kind == "bayer" else errors[CANONICAL[kind]]


# ---------------------------------------------------------------- scenes


@dataclass(frozen=True, slots=True)
class NightScene:
    """The circumstances of a night photo."""

    iso: int
    ratio: float
    """How much too short the exposure is."""
    wb: WhiteBalance
    """White balance gains (r, g, b) of the light, the smallest 1: so white saturates no photosite
    before all the others, and LibRaw, which scales gains so, renders no brighter."""


@dataclass(frozen=True, slots=True)
class _SidScene:
    iso: int
    wb: WhiteBalance
    ratios: tuple[float, ...]
    """The ratio of each short exposure, capped at 300."""


def draw_scene(camera: CameraName, rng: np.random.Generator) -> NightScene:
    """Draw a night as they are distributed in SID: one of its 161 Sony training scenes.

    ISO and light stay together as they were, and the ratio is that of one of the scene's short
    exposures: what SID's own training draws. For another camera the light is translated by the two
    cameras' daylight, and the ISO to its nearest setting.

    Parameters
    ----------
    camera : "ILCE-7SM2" or "X-T2"
    rng : numpy Generator
    """
    scenes = _sid_scenes()
    scene = scenes[int(rng.integers(len(scenes)))]
    ratio = scene.ratios[int(rng.integers(len(scene.ratios)))]
    return NightScene(nearest_iso(camera, scene.iso), ratio, _translated(scene.wb, camera))


def daylight_gains(camera: CameraName) -> WhiteBalance:
    """White balance gains under which daylight (D65) is neutral, green 1, as LibRaw derives them.

    The camera's response to white is its matrix times XYZ of sRGB white; the gains undo it.
    """
    response = (np.array(CAMERAS[camera].matrix) @ XYZ_FROM_SRGB).sum(axis=1)
    red, _, blue = (response[1] / response).tolist()
    return red, 1.0, blue


def median_gains(camera: CameraName) -> WhiteBalance:
    """White balance gains of the median night, green 1: the light that a network saw most."""
    red, _, blue = np.median([scene.wb for scene in _sid_scenes()], axis=0).tolist()
    return _translated((red, 1.0, blue), camera)


def _translated(wb: WhiteBalance, camera: CameraName) -> WhiteBalance:
    """Turn the A7S II's gains for a light into another camera's."""
    if camera == "ILCE-7SM2":
        return wb
    (own_red, _, own_blue), (red, _, blue) = daylight_gains(camera), daylight_gains("ILCE-7SM2")
    return wb[0] * own_red / red, 1.0, wb[2] * own_blue / blue


@lru_cache(maxsize=1)
def _sid_scenes() -> list[_SidScene]:
    path = resources.files("gia_cli") / "calibration" / "sid_sony.json"
    return [
        _SidScene(
            iso=iso,
            wb=(red, 1.0, blue),
            ratios=tuple(float(ratio) for ratio, shots in ratios for _ in range(shots)),
        )
        for iso, red, blue, ratios in json.loads(path.read_text(encoding="utf-8"))["scenes"]
    ]


# ---------------------------------------------------------------- one night


def night(
    photo: NDArray[np.uint8],
    camera_name: CameraName,
    *,
    ratio: float,
    iso: int,
    wb: WhiteBalance,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """Simulate the short exposure of a photograph.

    Parameters
    ----------
    photo : (H, W, 3) uint8
        sRGB.
    camera_name : "ILCE-7SM2" or "X-T2"
    ratio, iso, wb, rng
        As for `expose` and `mosaic_from_linear`.

    Returns
    -------
    (H, W) uint16
        DN, ready for `rawfile`.
    """
    camera = CAMERAS[camera_name]
    linear = srgb_decode(photo.astype(np.float32) / 255)
    return expose(mosaic_from_linear(linear, camera, wb), camera, ratio=ratio, iso=iso, rng=rng)


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """How `gia simulate` photographs a picture."""

    camera: CameraName = "ILCE-7SM2"
    ratio: float = 100.0
    """How much shorter than the long exposure the short one is."""
    iso: int = 1600
    wb: WhiteBalance | None = None
    """Gains (r, g, b) of the light, of which only the quotients matter; by default the median of
    SID's nights."""
    long_exposure_s: float = 10.0
    """SID's, for most of its scenes."""
    aperture: float = 8.0
    """Only written into the EXIF."""
    shrink: int = 1
    """Side of the block of pixels that becomes one photosite."""
    ev: float = 0.0
    """Stops by which the scene is brighter than the picture."""
    clean_long: bool = False
    """Whether the long exposure is free of noise; a real one is not."""
    seed: int = 0
    on_exists: OnExists = "error"


@dataclass(frozen=True, slots=True)
class Simulated:
    """The files of one night."""

    source: Path
    scene: NightScene
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
    """Photograph a picture again, at night: a short exposure and, beside it, a long one.

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
    _check(options)
    ending = ENDINGS[options.camera]
    output = output or photo.with_name(f"{photo.stem}_night{ending}")
    if output.suffix.lower() != ending.lower():
        raise UsageError(
            f"{output}: a file of the {options.camera} ends in {ending}.",
            hint="Change the name, or the camera with --camera.",
        )
    wb = _scaled(options.wb or median_gains(options.camera))
    scene = NightScene(options.iso, options.ratio, wb)
    long = output.with_stem(f"{output.stem}_long")
    result = _looked_up(Simulated(photo, scene, (output,), (options.ratio,), long), options)
    if result.status == "skipped":
        return result
    mosaic = _picture_mosaic(photo, scene.wb, options)
    if CAMERAS[options.camera].kind == "xtrans" and min(mosaic.shape) < _XTRANS_RENDER_SIDE:
        progress.note(
            f"{photo.name}: LibRaw cannot render X-Trans photos with a side under "
            f"{_XTRANS_RENDER_SIDE} photosites, as these with {min(mosaic.shape)}; "
            "gia enhance can."
        )
    _photograph(mosaic, result, options, np.random.default_rng(options.seed), progress)
    return result


def _check(options: SimulateOptions) -> None:
    """Refuse numbers outside physics."""
    settings = iso_settings(options.camera)
    if options.iso not in settings:
        raise UsageError(
            f"The {options.camera}'s noise is not known at ISO {options.iso}.",
            hint=f"Take one of {', '.join(map(str, settings))}.",
        )
    _check_range("--ratio", options.ratio, 1, 100_000)
    _check_range("--ev", options.ev, -10, 10)
    _check_range("--shrink", options.shrink, 1, 64)
    _check_range("--seed", options.seed, 0, float(2**63))
    _check_range("--long-exposure", options.long_exposure_s, 0.001, 3600)
    shortest = options.long_exposure_s / options.ratio
    if shortest < _SHORTEST_S:
        raise UsageError(
            f"A short exposure of {shortest:g} s is shorter than any camera's.",
            hint="Give a longer --long-exposure or a smaller --ratio.",
        )
    _check_range("--aperture", options.aperture, 0.5, 100)
    for gain in options.wb or ():
        _check_range("--wb", gain, *_WB_RANGE)


def _check_range(option: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:  # NaN too
        raise UsageError(
            f"{option} must lie between {lowest:g} and {highest:g}, not {value:g}.", hint=_HELP
        )


def _looked_up(result: Simulated, options: SimulateOptions) -> Simulated:
    """Look what is there already: refuse to replace it, or keep it, as `on_exists` says."""
    there = _existing(result.files, options.on_exists)
    if options.on_exists != "skip":
        return result
    status: Status = "skipped" if len(there) == len(result.files) else "written"
    return replace(result, kept=there, status=status)


def _existing(files: Iterable[Path], on_exists: OnExists) -> tuple[Path, ...]:
    """Find the files that are there; refuse if there are any and that is an error."""
    there = tuple(path for path in files if path.exists())
    if there and on_exists == "error":
        raise OutputExistsError(f"{there[0]} exists already.", hint=_EXISTS_HINT)
    return there


def _scaled(wb: WhiteBalance) -> WhiteBalance:
    """Scale white balance gains so that the smallest is 1."""
    red, green, blue = (gain / min(wb) for gain in wb)
    return red, green, blue


def _picture_mosaic(path: Path, wb: WhiteBalance, options: SimulateOptions) -> NDArray[np.float32]:
    """Read a picture and lay the camera's filters over it, (H, W) in whole cells.

    In bands, so that the linear picture, six times the size of the mosaic with its copies, is never
    whole in memory.
    """
    if path.suffix.lower() in RAW_SUFFIXES:
        raise DataError(
            f"{path} is a RAW photo; a night is made of a finished picture.",
            hint="Develop it first: JPEG, PNG, WebP, TIFF and BMP are read.",
        )
    photo = read_photo(path)
    camera, factor = CAMERAS[options.camera], options.shrink
    period = CANONICAL[camera.kind].shape[0]
    height, width = (side // factor // period * period for side in photo.shape[:2])
    if min(height, width) < _LEAST_SIDE:
        raise DataError(
            f"{path} is too small: {height}x{width} photosites, where {_LEAST_SIDE} a side are "
            "needed.",
            hint="Use a larger picture, or a smaller --shrink.",
        )
    mosaic = np.empty((height, width), np.float32)
    gain = np.float32(2**options.ev)
    for top in range(0, height, _BAND):
        rows = slice(top, min(top + _BAND, height))
        band = photo[factor * rows.start : factor * rows.stop, : factor * width]
        mosaic[rows] = mosaic_from_linear(shrink(band, factor) * gain, camera, wb)
    return mosaic


def _photograph(
    mosaic: NDArray[np.float32],
    taken: Simulated,
    options: SimulateOptions,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    """Write the exposures of one scene, all by the same body: its black is one wrong.

    Each has a generator of its own, so that it does not hang on which others are there already.
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
    scene: NightScene,
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
    mosaic: NDArray[np.float32], scene: NightScene, camera: CameraName
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
    scene: NightScene,
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


# ---------------------------------------------------------------- a data set like SID


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How `gia simulate --sid` makes a data set of pictures."""

    night: SimulateOptions = field(default_factory=SimulateOptions)
    """Its ratio, ISO and white balance are not used."""
    ratios: tuple[float, ...] | None = None
    """Ratios of each scene's short exposures; by default those of the SID scene that is drawn."""
    iso: int | None = None
    """By default the drawn scene's."""
    wb: WhiteBalance | None = None
    """By default the drawn scene's."""
    burst: int = 1
    """Short exposures at each ratio, with the names `_00_`, `_01_`, ..."""
    split: Literal["auto", "train", "val", "test"] = "auto"
    """The list that the pictures go to; "auto" deals them out."""
    test_share: float = 0.22
    """Share of the tree's pictures on the test list; SID has 50 of 231 Sony scenes there."""
    val_share: float = 0.09
    """Share on the validation list; SID has 20 of 231."""


@dataclass(frozen=True, slots=True)
class SimulatedTree:
    """What became of the pictures, and the lists that name the files."""

    results: list[Simulated]
    lists: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _PlannedScene:
    """One picture's place in the tree and the night that it is to become."""

    result: Simulated
    """As it will be if all goes well."""
    split: Split
    rng: np.random.Generator


@dataclass(frozen=True, slots=True)
class _Planned:
    """The tree's plan, and what this run makes of it."""

    plan: TreePlan
    scenes: list[_PlannedScene]
    """One for each picture of this run."""
    new: list[_PlannedScene]
    """Those of them that the plan did not know."""
    changed: list[_PlannedScene]
    """Those whose picture is no longer the one that the plan knew."""


def simulate_tree(
    inputs: list[Path],
    tree: Path,
    options: TreeOptions | None = None,
    *,
    progress: Progress = SILENT,
    on_result: Callable[[Simulated], None] = lambda result: None,
) -> SimulatedTree:
    """Make a data set with SID's folders, names and lists from pictures.

    The camera's folder (``Sony`` or ``Fuji``) gets ``short/00001_00_0.1s.ARW``, the scene's number,
    the number in its burst and the exposure time, and ``long/00001_00_10s.ARW``. Scene numbers
    start with 0 on the training list, 1 on the test list and 2 on the validation list. The lists
    (``Sony_train_list.txt``, ...) lie in `tree` itself, and so does its plan
    (``Sony_simulation.json``, see `treeplan`): which picture became which scene, and how.

    With `on_exists` "skip" the tree goes on as the plan has it: what an interrupted run left out is
    made, and pictures that the plan does not know get new numbers and are dealt out so that the
    whole tree has its shares. In a tree without a plan, files are only kept if this run would have
    written the same, byte for byte. With "overwrite" the files and lists of the plan that is there
    are removed, and all begins anew.

    Parameters
    ----------
    inputs : list of Path
        Pictures, and folders of them.
    tree : Path
        Made if it is not there.
    options : TreeOptions, optional
    progress : Progress
    on_result : function
        Hears of each picture when its files are written, or it has failed.

    Returns
    -------
    SimulatedTree
        One result for each picture, failures among them. The lists name all scenes of the plan
        whose files are there.

    Raises
    ------
    UsageError
        Options that make no sense, or are not those of the tree's plan; a picture that is on
        another list already; more than 9,999 pictures.
    DataError
        No picture at all; a plan that cannot be read; files of which the plan does not know, or
        whose pictures have changed since.
    OutputExistsError
        Something that is to be written is there, and `on_exists` is "error".
    OutputError
        The folders, lists or the plan cannot be written.
    """
    options = options or TreeOptions()
    _check_tree(options)
    photos, lists = find_photos(inputs), _list_paths(tree, options)
    if options.night.on_exists == "error":
        _existing(lists.values(), "error")
    known = _known_plan(tree, options)
    planned = _plan(photos, tree, options, known, progress)
    wanted = [path for scene in planned.scenes for path in scene.result.files]
    if options.night.on_exists == "overwrite":
        _clear(tree, options, [*lists.values(), *wanted], progress)
    else:
        _existing(wanted, options.night.on_exists)
        _refuse_changed(planned.changed)
        _refuse_foreign(planned.new, options.night, progress)
    _make_folders({path.parent for path in wanted})
    if planned.plan != known:  # before the first file is: an interrupted run can be taken up
        write_plan(_plan_path(tree, options), planned.plan)
    results = []
    for number, scene in enumerate(planned.scenes, start=1):
        progress.photo(scene.result.source.name, number, len(planned.scenes))
        results.append(_simulate_scene(scene, options.night, progress))
        on_result(results[-1])
    _write_lists(lists, planned.plan, tree, options, results, progress)
    return SimulatedTree(results, tuple(lists.values()))


def _check_tree(options: TreeOptions) -> None:
    scene = replace(options.night, wb=options.wb)
    _check(scene if options.iso is None else replace(scene, iso=options.iso))
    for ratio in options.ratios or ():
        _check_range("--ratios", ratio, 1.001, 100_000)  # at 1 a short exposure were a long one
    _check_range("--burst", options.burst, 1, 99)
    for option, share in (("--test-share", options.test_share), ("--val-share", options.val_share)):
        _check_range(option, share, 0, 1)
    if options.test_share + options.val_share > 1:
        raise UsageError("--test-share and --val-share are more than 1 together.", hint=_HELP)
    sid_ratios = sorted({ratio for scene in _sid_scenes() for ratio in scene.ratios})
    ratios = options.ratios or sid_ratios
    times = [time_name(options.night.long_exposure_s / ratio) for ratio in ratios]
    if len(set(times)) < len(times) or "0s" in times:
        raise UsageError(
            f"The ratios {', '.join(f'{ratio:g}' for ratio in ratios)} cannot be told apart by the "
            f"exposure times in SID's names: {', '.join(times)}.",
            hint="Names hold milliseconds; give other --ratios or a longer --long-exposure.",
        )


# ---------------------------------------------------------------- its plan


def _plan_path(tree: Path, options: TreeOptions) -> Path:
    return plan_path(tree, FAMILIES[options.night.camera])


def _plan_options(options: TreeOptions) -> dict[str, Any]:
    """Find what the files of a scene depend on, beside its picture; as JSON gives it back."""
    night = options.night
    return {
        "seed": night.seed,
        "ratios": None if options.ratios is None else list(options.ratios),
        "iso": options.iso,
        "wb": None if options.wb is None else list(_scaled(options.wb)),
        "burst": options.burst,
        "long-exposure": night.long_exposure_s,
        "aperture": night.aperture,
        "ev": night.ev,
        "shrink": night.shrink,
        "clean-long": night.clean_long,
    }


def _known_plan(tree: Path, options: TreeOptions) -> TreePlan:
    """Read the plan of a tree that is to be gone on with; an empty one where all begins anew."""
    own = _plan_options(options)
    known = None
    if options.night.on_exists != "overwrite":
        known = read_plan(_plan_path(tree, options))
    if known is None:
        return TreePlan(own)
    differing = [
        f"--{name} {_option_text(known.options.get(name))}, not {_option_text(own.get(name))}"
        for name in own | known.options
        if own.get(name) != known.options.get(name)
    ]
    if differing:
        raise UsageError(
            f"{tree} was made with other options: {'; '.join(differing)}.",
            hint="Give the tree's own options to go on with it, another --out for another tree, "
            "or --on-exists overwrite to make it anew.",
        )
    return known


def _option_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ",".join(f"{number:g}" for number in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "as drawn" if value is None else str(value)


def _plan(
    photos: list[Path], tree: Path, options: TreeOptions, known: TreePlan, progress: Progress
) -> _Planned:
    """Find the pictures on the plan, and give those that are new a number, a list and a night."""
    looks: dict[str, tuple[Path, Picture]] = {}  # by path: a picture may be named in two ways
    progress.stage("looking at the pictures", len(photos))
    for photo in photos:
        look = look_at(photo, tree)
        looks.setdefault(look.path, (photo, look))
        progress.advance()
    sources, found = zip(*looks.values(), strict=True)
    places = known.places(found)
    pictures = [*known.pictures]
    new = [index for index, place in enumerate(places) if place is None]
    changed = []
    for index, place in enumerate(places):
        if place is not None:
            if pictures[place].digest != found[index].digest:
                changed.append(index)
            pictures[place] = replace(found[index], scene=pictures[place].scene)
            _check_list(sources[index], pictures[place], options)
    if len(pictures) + len(new) > MOST_SCENES:
        raise UsageError(
            f"{len(pictures) + len(new)} pictures are more than SID's names can number "
            f"({MOST_SCENES}).",
            hint="Make several trees.",
        )
    for index, scene in zip(new, _new_numbers(len(new), known, options), strict=True):
        places[index] = len(pictures)
        pictures.append(replace(found[index], scene=scene))
    scenes = [
        _plan_scene(source, place, pictures[place].scene, tree, options)
        for source, place in zip(sources, places, strict=True)
        if place is not None
    ]
    return _Planned(
        plan=replace(known, pictures=tuple(pictures)),
        scenes=scenes,
        new=[scenes[index] for index in new],
        changed=[scenes[index] for index in changed],
    )


def _check_list(photo: Path, picture: Picture, options: TreeOptions) -> None:
    """Refuse to lay a picture on a second list: what is trained on must not be measured on."""
    if options.split not in ("auto", split_of(picture.scene)):
        raise UsageError(
            f"{photo} is on the tree's {split_of(picture.scene)} list already, as scene "
            f"{picture.scene}.",
            hint="Leave it out, or choose another --out.",
        )


def _new_numbers(count: int, known: TreePlan, options: TreeOptions) -> list[str]:
    """Give new pictures their scenes' numbers, on the lists that they are dealt to."""
    highest = dict.fromkeys(SPLIT_DIGITS, 0)
    for picture in known.pictures:
        split = split_of(picture.scene)
        highest[split] = max(highest[split], int(picture.scene[1:]))
    numbers = []
    for split in _deal(count, options, known):
        highest[split] += 1
        numbers.append(f"{SPLIT_DIGITS[split]}{highest[split]:04d}")
    return numbers


def _deal(count: int, options: TreeOptions, known: TreePlan) -> list[Split]:
    """Deal new pictures out, at random, so that the whole tree has its exact shares."""
    if options.split != "auto":
        return [options.split] * count
    dealt = Counter(split_of(picture.scene) for picture in known.pictures)
    tests, vals = _shares(count + dealt.total(), options)
    tests = min(max(tests - dealt["test"], 0), count)
    vals = min(max(vals - dealt["val"], 0), count - tests)
    splits: list[Split] = ["train"] * count
    seed = [options.night.seed, MOST_SCENES, *([dealt.total()] if dealt else [])]
    order = np.random.default_rng(seed).permutation(count)
    for place, index in enumerate(order[: tests + vals].tolist()):
        splits[index] = "test" if place < tests else "val"
    return splits


def _shares(count: int, options: TreeOptions) -> tuple[int, int]:
    """Count the test and the validation pictures; of three pictures on, no share is nothing."""
    shares = options.test_share, options.val_share
    least = [int(count >= _LEAST_DEALT and share > 0) for share in shares]
    tests, vals = (max(round(share * count), few) for share, few in zip(shares, least, strict=True))
    most = count - int(count >= _LEAST_DEALT and sum(shares) < 1)
    tests = min(tests, most - least[1])
    return tests, min(vals, most - tests)


def _plan_scene(
    photo: Path, place: int, number: str, tree: Path, options: TreeOptions
) -> _PlannedScene:
    night, ending = options.night, ENDINGS[options.night.camera]
    # A generator of its own for each picture: its night does not hang on the others'.
    rng = np.random.default_rng([night.seed, place])
    drawn = _sid_scenes()[int(rng.integers(len(_sid_scenes())))]
    ratios = options.ratios or tuple(sorted(set(drawn.ratios)))
    folder = tree / FAMILIES[night.camera]
    shorts, shot_ratios = [], []
    for shot in range(options.burst):
        for ratio in ratios:
            time = time_name(night.long_exposure_s / ratio)
            shorts.append(folder / "short" / f"{number}_{shot:02d}_{time}{ending}")
            shot_ratios.append(ratio)
    long = folder / "long" / f"{number}_00_{time_name(night.long_exposure_s)}{ending}"
    scene = NightScene(
        options.iso or nearest_iso(night.camera, drawn.iso),
        ratios[0],
        _scaled(options.wb or _translated(drawn.wb, night.camera)),
    )
    result = Simulated(photo, scene, tuple(shorts), tuple(shot_ratios), long)
    return _PlannedScene(result, split_of(number), rng)


# ---------------------------------------------------------------- what is there already


def _refuse_changed(changed: list[_PlannedScene]) -> None:
    """Refuse to keep files of what a picture was before it changed."""
    stale = [scene.result for scene in changed if _existing(scene.result.files, "skip")]
    if stale:
        names = ", ".join(str(result.source) for result in stale[:_MOST_NAMED])
        more = f" and {len(stale) - _MOST_NAMED} more" if stale[_MOST_NAMED:] else ""
        raise DataError(
            f"The tree was made of other pictures of the names {names}{more}.",
            hint="Bring the pictures back as they were, give the new ones other names, or make "
            "the tree anew with --on-exists overwrite.",
        )


def _refuse_foreign(
    scenes: list[_PlannedScene], options: SimulateOptions, progress: Progress
) -> None:
    """Refuse files that no plan knows, unless they are what would be written now.

    A tree of an earlier version has no plan, and a name tells nothing of the picture behind it.
    """
    there = [scene for scene in scenes if _existing(scene.result.files, "skip")]
    if there:
        progress.stage("comparing with what is there", len(there))
    for scene in there:
        for path in _foreign_files(scene, options):
            raise DataError(
                f"{path} is there already, and is not what {scene.result.source} becomes with "
                "these options.",
                hint=_FOREIGN_HINT,
            )
        progress.advance()


def _foreign_files(scene: _PlannedScene, options: SimulateOptions) -> list[Path]:
    """Make a scene's files again, elsewhere, and find those that are there and differ."""
    result = scene.result
    there = _existing(result.files, "skip")
    with TemporaryDirectory() as name:
        folder = Path(name)
        again = replace(
            result,
            shorts=tuple(folder / path.name for path in result.shorts),
            long=folder / result.long.name,
            kept=tuple(folder / path.name for path in result.files if path not in there),
        )
        anew = replace(options, on_exists="overwrite")
        made = _simulate_scene(replace(scene, result=again, rng=deepcopy(scene.rng)), anew, SILENT)
        if made.error:
            return list(there)
        return [path for path in there if not _same_bytes(path, folder / path.name)]


def _same_bytes(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _clear(tree: Path, options: TreeOptions, wanted: list[Path], progress: Progress) -> None:
    """Remove what is to be made anew, and all else that the tree's old plan made.

    All of it before the new plan is there: that must not vouch for files of the old one, should
    this run be interrupted.
    """
    doomed = {path for path in wanted if path.exists()}
    others = _made_by_plan(tree, options) - doomed
    if others:
        progress.note(f"{len(others)} other files of the tree's old plan are removed.")
    for path in doomed | others:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot remove {path}: {error.strerror or error}.") from error


def _made_by_plan(tree: Path, options: TreeOptions) -> set[Path]:
    """Find the exposures and lists of a tree's plan, whatever its options were."""
    old = None
    with suppress(DataError):  # a plan that cannot be read is overwritten
        old = read_plan(_plan_path(tree, options))
    if old is None:
        return set()
    folder, ending = tree / FAMILIES[options.night.camera], ENDINGS[options.night.camera]
    numbers = {picture.scene for picture in old.pictures}
    found = {path for path in folder.glob(f"*/*{ending}") if path.name.split("_")[0] in numbers}
    lists = _list_paths(tree, replace(options, split="auto")).values()
    return found | {path for path in lists if path.exists()}


# ---------------------------------------------------------------- its files


def _simulate_scene(
    planned: _PlannedScene, options: SimulateOptions, progress: Progress
) -> Simulated:
    """Write one picture's files; what goes wrong with it must not cost the others theirs."""
    result = planned.result
    try:
        result = _looked_up(result, options)
        if result.status == "skipped":
            return result
        mosaic = _picture_mosaic(result.source, result.scene.wb, options)
        if CAMERAS[options.camera].kind == "xtrans" and min(mosaic.shape) < _XTRANS_RENDER_SIDE:
            raise DataError(
                f"{result.source} is too small: LibRaw, which renders the ground truth, needs "
                f"{_XTRANS_RENDER_SIDE} X-Trans photosites a side, not {min(mosaic.shape)}.",
                hint="Use a larger picture, or a smaller --shrink.",
            )
        _photograph(mosaic, result, options, planned.rng, progress)
    except GiaError as error:
        return replace(result, status="failed", error=error)
    return result


def _list_paths(tree: Path, options: TreeOptions) -> dict[Split, Path]:
    """Find the lists that this run writes: all three, or the one that all pictures go to."""
    family = FAMILIES[options.night.camera]
    splits: list[Split] = ["train", "val", "test"]
    chosen = splits if options.split == "auto" else [options.split]
    return {split: list_path(tree, family, split) for split in chosen}


def _make_folders(folders: set[Path]) -> None:
    for folder in sorted(folders):
        make_folder(folder, "--out")


def _write_lists(
    lists: dict[Split, Path],
    plan: TreePlan,
    tree: Path,
    options: TreeOptions,
    results: list[Simulated],
    progress: Progress,
) -> None:
    """Name all scenes of the plan that are whole, whichever run made them."""
    failed = {result.long for result in results if result.error}
    whole: dict[Split, list[Simulated]] = {split: [] for split in lists}
    for place, picture in enumerate(plan.pictures):
        if (split := split_of(picture.scene)) in whole:
            scene = _plan_scene(tree / picture.path, place, picture.scene, tree, options).result
            if scene.long not in failed and all(path.exists() for path in scene.files):
                whole[split].append(scene)
    for split, path in lists.items():
        _write_list(path, tree, whole[split], options.night)
    empty = [split for split, scenes in whole.items() if not scenes]
    if empty:
        progress.note(
            f"The tree has no scene for its list{'s' if empty[1:] else ''} {' and '.join(empty)}: "
            "give it more pictures, with --on-exists skip, and --split to choose the list."
        )


def _write_list(path: Path, tree: Path, results: list[Simulated], options: SimulateOptions) -> None:
    """Write one of SID's lists: short, long, ISO and f-number, separated by blanks."""
    lines = []
    for result in results:
        facts = f"ISO{result.scene.iso} F{options.aperture:g}"
        long = result.long.relative_to(tree).as_posix()
        for short in result.shorts:
            lines.append(f"./{short.relative_to(tree).as_posix()} ./{long} {facts}\n")
    with atomic_file(path) as file:
        file.write("".join(sorted(lines)).encode("ascii"))
