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

from gia_cli.cameras import CameraName
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.data.augment import GivenBalance, Pair, draw_corner, draw_turn
from gia_cli.data.auxiliary import auxiliary_targets
from gia_cli.data.cache import ArrayCache, Check, Decoded, Decoding, Stock
from gia_cli.errors import DataError
from gia_cli.imaging.fusion import Measurement, measure
from gia_cli.imaging.packed import PackedPhoto, is_packed, list_packed, read_packed
from gia_cli.imaging.photos import LONGEST_SIDE, find_photos, read_photo, training_size
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.calibrated_black import likely_black
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR, pack
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.packing import plane_levels, prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.runtime import cache_folder
from gia_cli.simulation.noise import SensorNoise
from gia_cli.simulation.scene import (
    Exposure,
    Place,
    SceneOptions,
    SceneParameters,
    draw_parameters,
    render,
)
from gia_cli.simulation.sensor import CAMERAS, CameraModel, median_gains

#: One photograph in this many is kept for validation.
VALIDATION_SHARE = 16

# Bytes of a folder's and a file's name in a key: file systems hold 255, and more is put behind it.
_NAME_BYTES = 80
_RECIPE = f"linear sRGB float16, shrunk to {LONGEST_SIDE}, 1"


@dataclass(frozen=True, slots=True)
class DrawnScene:
    """A photograph's key, the places of its crops, and the scene that they are to be."""

    key: str
    places: list[Place]
    parameters: SceneParameters


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
    mosaic: NDArray[np.float32] | None = field(default=None, repr=False)
    """(H, W) float32; see `Exposure.mosaic`."""


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
    with_clean : bool
        Whether the pairs have the planes without noise.
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
        with_clean: bool = False,
    ) -> None:
        self.photos = photos
        self.keys = keys
        self.camera_name = camera
        self.camera = CAMERAS[camera]
        self.options = options or SceneOptions()
        self._balance = balance
        self.floor = floor
        self.measures = measures
        self.with_clean = with_clean
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
                self.floor,
                measures=self.measures,
                with_clean=self.with_clean,
            )
            for source, own in sorted(keys.items())
        }

    def largest_side(self) -> int:
        """Side in packed pixels of the largest crop that some photograph still holds."""
        period: int = CANONICAL[self.camera.kind].shape[0]
        whole_periods = int(self._shortest.max()) // period * period
        return whole_periods // PACK_FACTOR[self.camera.kind]

    def holding(self, side: int) -> int:
        """Count the photographs that hold a crop of `side` packed px; others are passed over."""
        return int((self._shortest >= side * PACK_FACTOR[self.camera.kind]).sum())

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
        drawn = self.draw(rng, count=count, side=side)
        photo = self.photos.array(drawn.key, "linear")
        return self._render(photo, drawn.places, drawn.parameters, rng, side=side)

    def draw(self, rng: np.random.Generator, *, count: int, side: int) -> DrawnScene:
        """Draw as `pairs` does, but render nothing.

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
        key = self.keys[int(rng.choice(fitting, p=odds))]
        shape = self.photos.metadata(key)["size"]
        places = [(draw_corner(shape, size, rng), draw_turn(rng)) for _ in range(count)]
        return DrawnScene(key, places, self._draw_parameters(rng))

    def _draw_parameters(self, rng: np.random.Generator) -> SceneParameters:
        return draw_parameters(self.camera_name, self.options, rng, self._balance)

    def _pair(self, scene: RecordedScene) -> Pair:
        packed = prepare(scene.frame, scene.ratio, scene.gains, self.floor)
        clean = self._clean(scene) if self.with_clean else None
        return Pair(packed.planes, scene.target, scene.auxiliary, self.measured(scene), clean)

    def _clean(self, scene: RecordedScene) -> NDArray[np.float32]:
        """Make the planes that a sensor without noise, whose black level is known, would give."""
        assert scene.mosaic is not None
        _, scale = plane_levels(scene.frame, scene.ratio, scene.gains, self.floor)
        exposure = np.float32((self.camera.white - self.camera.black) / scene.ratio)
        planes: NDArray[np.float32] = pack(scene.mosaic, self.camera.kind)
        planes *= (exposure * scale)[:, None, None]
        return planes

    def measured(self, scene: RecordedScene) -> Measurement | None:
        """Describe what a scene is fused with, by what its simulation knows.

        The black level's error can be estimated from a whole photo, but not from a crop: so it is
        given.
        """
        if not self.measures or scene.gains is None:
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
        places: list[Place],
        *,
        side: int,
    ) -> list[RecordedScene]:
        """Photograph some places of a scene in an exposure: one light, ratio, ISO and gain."""
        return self._render(photo, places, self._draw_parameters(rng), rng, side=side)

    def _render(
        self,
        photo: NDArray[np.float16],
        places: list[Place],
        parameters: SceneParameters,
        rng: np.random.Generator,
        *,
        side: int,
    ) -> list[RecordedScene]:
        size = side * PACK_FACTOR[self.camera.kind]
        exposures = render(photo, places, parameters, size=size, rng=rng)
        return [self.recorded(exposure, parameters) for exposure in exposures]

    def recorded(self, exposure: Exposure, parameters: SceneParameters) -> RecordedScene:
        """Say of a rendered exposure what is known of it."""
        frame = as_if_read(exposure.dn, self.camera, iso=parameters.stated_iso)
        unusual = None
        if parameters.gains is None:
            unusual = np.array(parameters.light) / median_gains(self.camera_name)
        amplification = parameters.ratio / (self.camera.white - self.camera.black)
        known = 0.0 if self.floor == 0 else _known_black(frame)
        auxiliary = auxiliary_targets(parameters.noise, amplification, unusual, known)
        return RecordedScene(
            frame,
            parameters.ratio,
            parameters.gains,
            exposure.target,
            auxiliary,
            parameters.noise,
            exposure.mosaic,
        )


def _known_black(frame: RawFrame) -> float:
    """Tell how much of a frame's black level error is known and subtracted, DN."""
    return float((likely_black(frame) - frame.black).mean())


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
    folders: list[Path],
    cache: Path | None = None,
    progress: Progress = SILENT,
    *,
    check: Check = "files",
) -> ArrayCache:
    """Decode photographs once into a cache on disk: linear light, shrunk, float16.

    Parameters
    ----------
    folders : list of Path
        Photographs, folders of them, or packed ones (`imaging.packed`).
    cache : Path, optional
        Folder; six bytes for each pixel of the shrunk photographs. By default ``photos`` in gia's
        own cache, or a temporary one where that cannot be written to.
    progress : Progress
    check : "files", "contents" or "none"
        What is looked at of what is decoded already; see `Stock.look`.

    Raises
    ------
    DataError
        None found, or some that cannot be read: all are named.
    """
    return ArrayCache.build(
        cache or cache_folder() / "photos",
        _sources(folders),
        _decode,
        recipe=_RECIPE,
        check=check,
        may_move=cache is None,
        progress=progress,
    )


def decode_photos(
    folders: list[Path],
    cache: Path | None = None,
    *,
    shard: Shard | None = None,
    cluster: RayOptions | None = None,
    progress: Progress = SILENT,
) -> Decoding:
    """Decode photographs ahead of `open_photos`.

    Parameters
    ----------
    folders, cache
        As for `open_photos`, and so what is raised.
    shard, cluster, progress
        As for `Stock.decode`, and so what is raised.
    """
    stock = Stock.look(
        cache or cache_folder() / "photos", _sources(folders), recipe=_RECIPE, progress=progress
    ).of_share(shard)
    return stock.decode(_decode, shard=shard, cluster=cluster, progress=progress)


def _sources(folders: list[Path]) -> dict[str, Path | PackedPhoto]:
    sources: dict[str, Path | PackedPhoto] = {}
    for packed in filter(is_packed, folders):
        sources |= {_packed_key(photo): photo for photo in list_packed(packed)}
    if others := [folder for folder in folders if not is_packed(folder)]:
        sources |= {_key(path): path for path in find_photos(others)}
    return sources


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


def _packed_key(photo: PackedPhoto) -> str:
    """Name a packed photograph by its source, name and content, wherever its file lies."""
    return f"{_shortened(photo.source)}__{_shortened(photo.stem)}-{photo.digest[:8]}"


def _shortened(name: str) -> str:
    """Cut a name that is too long, between two characters; the digest makes it unique."""
    data = name.encode("utf-8", "surrogateescape")
    return name if len(data) <= _NAME_BYTES else data[:_NAME_BYTES].decode("utf-8", "ignore")


def _decode(source: Path | PackedPhoto) -> Decoded:
    photo = read_photo(source) if isinstance(source, Path) else read_packed(source)
    linear: NDArray[Any] = training_size(photo).astype(np.float16)
    return Decoded(arrays={"linear": linear}, metadata={"size": linear.shape[:2]})
