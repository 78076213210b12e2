"""Photographs to training pairs, made on the fly: every crop is a new simulated scene.

The physics is that of `simulation.sensor`, the preparation that of `packing.prepare`: to a network
these crops look like those of a RAW file that `gia simulate` wrote.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CameraName, WhiteBalance
from gia_cli.data.augment import GivenBalance, Pair, Style, draw_corner, draw_turn
from gia_cli.data.auxiliary import auxiliary_targets
from gia_cli.data.cache import ArrayCache, Decoded
from gia_cli.errors import DataError
from gia_cli.imaging.color import bt709_encode, rebalance_matrix
from gia_cli.imaging.fusion import Measurement, measure
from gia_cli.imaging.photos import find_photos, read_photo, shrink
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.calibrated_black import likely_black
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.raw.turns import Turn
from gia_cli.runtime import cache_folder
from gia_cli.sensor_table import iso_settings
from gia_cli.simulation.noise import SensorNoise
from gia_cli.simulation.sensor import (
    CAMERAS,
    CameraModel,
    daylight_gains,
    draw_scene,
    expose,
    median_gains,
    mosaic_from_linear,
)

#: Photographs with a longer side than this are shrunk until they are no longer.
LONGEST_SIDE = 1500
#: One photograph in this many is kept for validation.
VALIDATION_SHARE = 16

# Bytes of a folder's and a file's name in a key: file systems hold 255, and more is put behind it.
_NAME_BYTES = 80
# Linear light above which a photograph counts as overexposed, more and more.
_BLOWN_FROM = np.float32(0.9)
_RECIPE = f"linear sRGB float16, shrunk to {LONGEST_SIDE}, 1"


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """How far the scenes of training stray from SID's own."""

    free_ratio_share: float = 0.5
    """Share of scenes whose ratio is drawn between `lowest_ratio` and 300 instead of SID's."""
    lowest_ratio: float = 1.0
    free_iso_share: float = 0.3
    """Share of scenes whose ISO setting is any of the camera's instead of the scene's."""
    gain_stops: tuple[float, float] = (-1.0, 0.5)
    """How much darker and brighter than the photograph a scene may be."""
    wb_sigma: float = 0.06
    """Spread of the light's red and blue around SID's scenes, in natural logarithms."""
    daylight_share: float = 0.1
    """Share of scenes whose light lies anywhere between that and daylight: dusk and moonlight, of
    which SID's scenes have none."""
    saturation_sigma: float = 0.15
    """Spread of the photograph's saturation around its own, in natural logarithms."""
    contrast_sigma: float = 0.1
    """Spread of its contrast: of the logarithm of an exponent in linear light, white staying."""
    highlight_stops: float = 3.0
    """How much brighter than the photograph says its blown places may have been: what is white
    there saturated some camera, and should be white whatever the white balance."""
    unknown_black_share: float = 0.25
    """Share of scenes whose black level nobody has calibrated, as it is with other cameras."""
    source_power: float = 0.5
    """A source (folder) of n photographs is drawn as often as n to this power: 1 draws each
    photograph alike, 0 each source."""


#: SID's own scenes, without what makes training harder than use.
PLAIN_SCENES = SceneOptions(
    free_ratio_share=0,
    free_iso_share=0,
    gain_stops=(0, 0),
    wb_sigma=0,
    daylight_share=0,
    saturation_sigma=0,
    contrast_sigma=0,
    highlight_stops=0,
    unknown_black_share=0,
    source_power=1,
)


@dataclass(frozen=True, slots=True)
class RecordedScene:
    """A short exposure as the sensor recorded it, and the picture that should come of it."""

    frame: RawFrame
    ratio: float
    gains: NDArray[np.float32] | None
    """(3,) float32; white balance that the network gets; None for one that infers it."""
    target: NDArray[np.float32] = field(repr=False)
    """(3, H, W) float32 in [0, 1], BT.709-encoded."""
    auxiliary: NDArray[np.float32] = field(repr=False)
    """(AUXILIARY,) float32; see `auxiliary_targets`."""
    noise: SensorNoise
    """The sensor's, in this exposure."""


class PhotoScenes:
    """Photographs, held open on disk, and the short exposures that can be simulated of them.

    Parameters
    ----------
    photos : ArrayCache
        From `open_photos`.
    keys : list of str
        The photographs to use.
    camera : "ILCE-7SM2" or "X-T2"
    options : SceneOptions
    balance : GivenBalance, optional
        For a network that gets the white balance.
    floor : 0 or None
        `NetConfig.input_floor`.
    measures : bool
        Whether the pairs say what they are to be fused with.
    """

    has_auxiliary_targets = True

    def __init__(
        self,
        photos: ArrayCache,
        keys: list[str],
        camera: CameraName,
        options: SceneOptions | None = None,
        balance: GivenBalance | None = None,
        floor: int | None = 0,
        *,
        measures: bool = False,
    ) -> None:
        self.photos = photos
        self.keys = keys
        self.camera_name = camera
        self.camera = CAMERAS[camera]
        self.options = options or SceneOptions()
        self._balance = balance
        self._floor = floor
        self._measures = measures
        self._shortest = np.array([min(photos.metadata(key)["size"]) for key in keys])
        sources = [source_of(key) for key in keys]
        sizes = Counter(sources)
        power = self.options.source_power - 1
        self._odds = np.array([sizes[source] ** power for source in sources])

    def __len__(self) -> int:
        return len(self.keys)

    def digest(self) -> str:
        """Return a digest of these photographs, whatever their paths."""
        return self.photos.digest(self.keys)

    def by_source(self) -> dict[str, PhotoScenes]:
        """Split into the scenes of each source (folder) alone, by its name."""
        keys: dict[str, list[str]] = {}
        for key in self.keys:
            keys.setdefault(source_of(key), []).append(key)
        return {
            source: PhotoScenes(
                self.photos,
                own,
                self.camera_name,
                self.options,
                self._balance,
                self._floor,
                measures=self._measures,
            )
            for source, own in sorted(keys.items())
        }

    def largest_side(self) -> int:
        """Side in packed pixels of the largest crop that some photograph still holds."""
        period: int = CANONICAL[self.camera.kind].shape[0]
        whole_periods = int(self._shortest.max()) // period * period
        return whole_periods // PACK_FACTOR[self.camera.kind]

    def pairs(self, rng: np.random.Generator, *, count: int, side: int) -> list[Pair]:
        """Draw a photograph and a scene, and `count` crops of that one exposure.

        Parameters
        ----------
        rng : numpy Generator
            All that is drawn comes from it.
        count : int
        side : int
            Packed pixels.

        Raises
        ------
        DataError
            No photograph is that large.
        """
        return [self._pair(scene) for scene in self.scenes(rng, count=count, side=side)]

    def scenes(self, rng: np.random.Generator, *, count: int, side: int) -> list[RecordedScene]:
        """Draw as `pairs` does, but return what the sensor recorded.

        Parameters and errors as for `pairs`.
        """
        size = side * PACK_FACTOR[self.camera.kind]
        fitting = np.flatnonzero(self._shortest >= size)
        if not len(fitting):
            raise DataError(
                f"Crops of {side} packed px need {size} pixels a side; no photograph has as many."
            )
        odds = None  # all alike, which is drawn otherwise
        if self.options.source_power != 1:
            odds = self._odds[fitting] / self._odds[fitting].sum()
        photo = self.photos.array(self.keys[int(rng.choice(fitting, p=odds))], "linear")
        return self.record(
            photo,
            rng,
            [(draw_corner(photo.shape, size, rng), draw_turn(rng)) for _ in range(count)],
            side=side,
        )

    def _pair(self, scene: RecordedScene) -> Pair:
        packed = prepare(scene.frame, scene.ratio, scene.gains, self._floor)
        return Pair(packed.planes, scene.target, scene.auxiliary, self._measured(scene))

    def _measured(self, scene: RecordedScene) -> Measurement | None:
        """Describe what a scene is fused with, by what its simulation knows.

        The black level's error can be estimated from a whole photo, but not from a crop: so it is
        given.
        """
        if not self._measures or scene.gains is None:
            return None
        noise = scene.noise
        return measure(
            scene.frame,
            scene.ratio,
            scene.gains,
            np.array(self.camera.matrix),
            noise=(noise.gain, noise.read_variance + noise.row_sigma**2),
            black_error=noise.mean_black_error - _known_black(scene.frame),
        )

    def record(
        self,
        photo: NDArray[np.float16],
        rng: np.random.Generator,
        places: list[tuple[tuple[int, int], Turn]],
        *,
        side: int,
    ) -> list[RecordedScene]:
        """Photograph some places of a scene in an exposure: one light, ratio, ISO and gain."""
        drawn = draw_scene(self.camera_name, rng)
        options = self.options
        ratio = drawn.ratio
        if rng.random() < options.free_ratio_share:
            ratio = float(np.exp(rng.uniform(np.log(options.lowest_ratio), np.log(300))))
        iso = drawn.iso
        if options.free_iso_share and rng.random() < options.free_iso_share:
            iso = int(rng.choice(iso_settings(self.camera_name)))
        gain = np.float32(2 ** rng.uniform(*options.gain_stops))
        blown = np.float32(1)
        if options.highlight_stops:
            blown = np.float32(2 ** rng.uniform(0, options.highlight_stops))
        red, blue = self._draw_light(drawn.wb, rng)
        style = Style.draw(options.saturation_sigma, options.contrast_sigma, rng)
        noise = self.camera.noise(iso, rng)
        light = np.array([red, 1, blue])
        amplification = ratio / (self.camera.white - self.camera.black)
        gains = rebalance = None
        unusual = None
        if self._balance is None:
            unusual = light / median_gains(self.camera_name)
        else:
            gains = self._balance.draw(light, rng)
            rebalance = _matrix(self.camera, gains / light)
        stated_iso: int | None = iso  # what is known of a black level is known by it
        if options.unknown_black_share and rng.random() < options.unknown_black_share:
            stated_iso = None
        size = side * PACK_FACTOR[self.camera.kind]
        recorded = []
        for (top, left), turn in places:
            linear = turn.apply(photo[top : top + size, left : left + size]).astype(np.float32)
            linear = gain * style.apply(_unclipped(linear, blown))
            mosaic = mosaic_from_linear(linear, self.camera, (red, 1.0, blue))
            dn = expose(mosaic, self.camera, ratio=ratio, iso=iso, rng=rng, noise=noise)
            shown = linear if rebalance is None else linear @ rebalance
            target = bt709_encode(np.clip(shown, 0, 1)).transpose(2, 0, 1)
            frame = as_if_read(dn, self.camera, iso=stated_iso)
            known = 0.0 if self._floor == 0 else _known_black(frame)
            auxiliary = auxiliary_targets(noise, amplification, unusual, known)
            recorded.append(
                RecordedScene(frame, ratio, gains, np.ascontiguousarray(target), auxiliary, noise)
            )
        return recorded

    def _draw_light(self, usual: WhiteBalance, rng: np.random.Generator) -> tuple[float, float]:
        """Draw the gains of red and blue: around a scene's own or between those and daylight's."""
        options = self.options
        light = np.log((usual[0], usual[2]))
        if options.daylight_share and rng.random() < options.daylight_share:
            daylight = daylight_gains(self.camera_name)
            light += rng.random() * (np.log((daylight[0], daylight[2])) - light)
        red, blue = np.exp(light + rng.normal(0, options.wb_sigma, 2)).tolist()
        return red, blue


def _known_black(frame: RawFrame) -> float:
    """Tell how much of a frame's black level error is known and subtracted, DN."""
    return float((likely_black(frame) - frame.black).mean())


def _matrix(camera: CameraModel, change: NDArray[np.floating]) -> NDArray[np.float32] | None:
    """Matrix, for rows of linear sRGB, of another white balance; None where it is the light's."""
    if np.abs(change - 1).max() < 1e-6:
        return None
    matrix: NDArray[np.float32] = rebalance_matrix(np.array(camera.matrix), change).astype(
        np.float32
    )
    return matrix.T


def _unclipped(linear: NDArray[np.float32], factor: np.float32) -> NDArray[np.float32]:
    """Brighten the blown places of a photograph, (H, W, 3), by up to a factor; the rest stays."""
    if factor <= 1:
        return linear
    blown = np.clip((linear.min(axis=2, keepdims=True) - _BLOWN_FROM) / (1 - _BLOWN_FROM), 0, 1)
    brightened: NDArray[np.float32] = linear * (1 + blown * (factor - 1))
    return brightened


def as_if_read(
    dn: NDArray[np.uint16],
    camera: CameraModel,
    wb: tuple[float, float, float] = (1.0, 1.0, 1.0),
    iso: int | None = None,
) -> RawFrame:
    """Wrap a simulated mosaic up as if it had been read from a file.

    Parameters
    ----------
    dn : (H, W) uint16
        In the canonical phase.
    camera : CameraModel
    wb : (3,)
        White balance as shot.
    iso : int, optional
    """
    period = CANONICAL[camera.kind].shape[0]
    return RawFrame(
        path=Path("simulated exposure"),
        mosaic=dn,
        kind=camera.kind,
        phase=(0, 0),
        black=np.full((period, period), camera.black, np.float32),
        white=np.full((period, period), camera.white, np.float32),
        as_shot_wb=np.array(wb, np.float32),
        daylight_wb=None,
        xyz_to_camera=None,
        flip=0,
        shot=ShotInfo(model=camera.name, iso=iso),
    )


def open_photos(
    folders: list[Path], cache: Path | None = None, progress: Progress = SILENT
) -> ArrayCache:
    """Decode photographs once into a cache on disk: linear light, shrunk, float16.

    Parameters
    ----------
    folders : list of Path
        Photographs, or folders of them.
    cache : Path, optional
        Folder; six bytes for each pixel of the shrunk photographs. By default ``photos`` in gia's
        own cache, or a temporary one where that cannot be written to.
    progress : Progress

    Raises
    ------
    DataError
        None found, or some that cannot be read: all are named.
    """
    sources = {_key(path): path for path in find_photos(folders)}
    return ArrayCache.build(
        cache or cache_folder() / "photos",
        sources,
        _decode,
        recipe=_RECIPE,
        may_move=cache is None,
        progress=progress,
    )


def source_of(key: str) -> str:
    """Name the source of a photograph: the folder that it lies in."""
    return key.split("__", 1)[0]


def split_photos(
    photos: ArrayCache, validation_sources: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Split into photographs to train on and to validate on.

    Parameters
    ----------
    photos : ArrayCache
    validation_sources : sequence of str
        Names of folders whose photographs are all kept for validation, which then measures what
        carries over to other photographers and cameras. Without: one photograph in 16, spread
        evenly. Fewer than 8 photographs are all trained and validated on: that measures memory, not
        skill, but is what an overfitting test wants.

    Raises
    ------
    DataError
        No such folder, or nothing left to train on.
    """
    keys = sorted(photos.keys)
    if validation_sources:
        return _split_by_source(keys, validation_sources)
    if len(keys) < VALIDATION_SHARE // 2:
        return keys, keys
    validation = keys[VALIDATION_SHARE // 2 - 1 :: VALIDATION_SHARE]
    held_out = set(validation)
    return [key for key in keys if key not in held_out], validation


def _split_by_source(keys: list[str], kept: Sequence[str]) -> tuple[list[str], list[str]]:
    sources = {source_of(key) for key in keys}
    if missing := sorted(set(kept) - sources):
        raise DataError(
            f"There are no photographs in a folder named {', '.join(missing)}.",
            hint=f"The folders are {', '.join(sorted(sources))}.",
        )
    if sources <= set(kept):
        raise DataError("All photographs would be kept for validation.")
    validation = [key for key in keys if source_of(key) in kept]
    return [key for key in keys if source_of(key) not in kept], validation


def _key(path: Path) -> str:
    """Name a photograph: readable, sorted by folder and file, different for different paths."""
    digest = hashlib.blake2s(str(path.resolve()).encode("utf-8", "surrogateescape"), digest_size=4)
    return f"{_shortened(path.parent.name)}__{_shortened(path.stem)}-{digest.hexdigest()}"


def _shortened(name: str) -> str:
    """Cut a name that is too long, between two characters; the digest makes it unique."""
    data = name.encode("utf-8", "surrogateescape")
    return name if len(data) <= _NAME_BYTES else data[:_NAME_BYTES].decode("utf-8", "ignore")


def _decode(path: Path) -> Decoded:
    photo = read_photo(path)
    factor = -(-max(photo.shape[:2]) // LONGEST_SIDE)
    linear: NDArray[Any] = shrink(photo, factor).astype(np.float16)
    return Decoded(arrays={"linear": linear}, metadata={"size": linear.shape[:2]})
