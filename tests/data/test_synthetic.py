"""Scenes made of photographs: what a network sees is what a file of that night would give."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.cameras import CameraName
from gia_cli.data import synthetic as module
from gia_cli.data.augment import GivenBalance, Pair
from gia_cli.data.batches import Batches
from gia_cli.data.cache import ArrayCache
from gia_cli.data.crops import CropOptions
from gia_cli.data.synthetic import PhotoScenes, open_photos, source_of, split_photos
from gia_cli.errors import DataError
from gia_cli.imaging.color import bt709_decode, bt709_encode, camera_from_srgb, srgb_decode
from gia_cli.imaging.packed import PackedPhoto, pack_photos, read_packed
from gia_cli.raw.calibrated_black import UNKNOWN_SIGMA, known_black_error
from gia_cli.raw.cfa import PACK_FACTOR, PLANE_COLORS
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import read_raw
from gia_cli.raw.turns import TURNS, Turn
from gia_cli.raw.writer import write_arw, write_raf
from gia_cli.sensor_table import iso_settings, nearest_row
from gia_cli.simulation import scene as scene_module
from gia_cli.simulation.scene import PLAIN_SCENES as PLAIN
from gia_cli.simulation.scene import SceneOptions, SceneParameters
from gia_cli.simulation.sensor import CAMERAS, daylight_gains, draw_scene, median_gains

#: What three plain scenes of the seeds 0 to 2 tell, on which weights have been validated so far.
PLAIN_FACTS = [
    [0.49788, 0.52584, 0.65804, 0.18602],
    [0.50848, 0.54, 0.33931, 0.22321],
    [0.70629, 0.51727, 0.23506, 0.55469],
]
#: Camera, whether balanced, floor: the sums of planes and pictures, and two auxiliary targets each
#: of two scenes, of a batch as gia made it before drawing and rendering were two steps.
RECORDED: dict[tuple[CameraName, bool, int | None], tuple[float, float, list[float]]] = {
    ("ILCE-7SM2", False, 0): (433.438340, 2612.89298, [0.364994, 0.099041, 0.862566, 0.635204]),
    ("ILCE-7SM2", False, None): (376.722305, 2612.89298, [0.423566, 0.099041, 0.495409, 0.635204]),
    ("ILCE-7SM2", True, 0): (502.081923, 2651.48112, [0.364994, 0.099041, 0.495115, 0.0]),
    ("ILCE-7SM2", True, None): (515.297669, 2651.48112, [0.423566, 0.099041, 0.498113, 0.0]),
    ("X-T2", False, 0): (1421.351764, 7083.97084, [0.532932, 0.0, 0.491141, 0.0]),
    ("X-T2", False, None): (1421.346753, 7083.97084, [0.532932, 0.0, 0.491141, 0.0]),
    ("X-T2", True, 0): (1887.692130, 7355.02992, [0.532932, 0.0, 0.491141, 0.0]),
    ("X-T2", True, None): (1887.690219, 7355.02992, [0.532932, 0.0, 0.491141, 0.0]),
}
CAMERA_NAMES: list[CameraName] = ["ILCE-7SM2", "X-T2"]
cameras = pytest.mark.parametrize("camera", CAMERA_NAMES)


def write_photos(folder: Path, count: int, size: tuple[int, int] = (60, 84)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(8)
    for index in range(count):
        pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        iio.imwrite(folder / f"{index:02d}.png", pixels)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ArrayCache:
    """Three photographs of 60x84 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    return open_photos([write_photos(folder / "photos", 3)], folder / "cache")


def open_scenes(
    photos: ArrayCache, camera: CameraName, options: SceneOptions | None = None
) -> PhotoScenes:
    return PhotoScenes(photos, photos.keys, camera, options)


def pairs_at(
    source: PhotoScenes,
    photo: NDArray[np.float16],
    rng: np.random.Generator,
    places: list[tuple[tuple[int, int], Turn]],
    *,
    side: int,
) -> list[Pair]:
    """Pairs of certain places of a photograph."""
    return [source._pair(scene) for scene in source.record(photo, rng, places, side=side)]


class Spy:
    """Notes with what a function is called, and what it returns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.results: list[Any] = []
        self._plain = getattr(scene_module, name)
        monkeypatch.setattr(scene_module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        self.results.append(self._plain(*args, **kwargs))
        return self.results[-1]


# ---------------------------------------------------------------- a scene


@pytest.mark.parametrize("seed", range(4))
@cameras
def test_a_scene_is_what_its_file_would_be(
    photos: ArrayCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    camera: CameraName,
    seed: int,
) -> None:
    """The same DN, written as the camera's RAW file and read as any photo: the same planes."""
    spy = Spy(monkeypatch, "expose")
    pairs = open_scenes(photos, camera).pairs(np.random.default_rng(seed), count=2, side=12)
    for pair, dn, (_, options) in zip(pairs, spy.results, spy.calls, strict=True):
        path = tmp_path / "night"
        shot = ShotInfo(iso=options["iso"])
        (write_arw if camera == "ILCE-7SM2" else write_raf)(path, dn, shot=shot)
        planes = prepare(read_raw(path), options["ratio"]).planes
        assert np.array_equal(planes, pair.planes)


@pytest.mark.parametrize(("camera", "is_balanced", "floor"), RECORDED)
def test_batches_stay_those_of_runs_that_have_begun(
    tmp_path: Path, camera: CameraName, is_balanced: bool, floor: int | None
) -> None:
    """A number drawn more, less or elsewhere would make others of all that follow."""
    folders = [
        write_photos(tmp_path / "a", 3),
        write_photos(tmp_path / "b", 2, (60, 72)),
    ]
    photos = open_photos(folders, tmp_path / "cache")
    keys = sorted(photos.keys, key=lambda key: key.split("-")[0])  # without the paths' digests
    balance = GivenBalance() if is_balanced else None
    source = PhotoScenes(photos, keys, camera, None, balance, floor)
    crops = CropOptions(photos=2, crops=2, sides=(8, 16), multiple=4)
    planes, target, auxiliary, *_ = Batches(source, crops, seed=3, rank=1, steps=10)[7]
    planes_sum, target_sum, told = RECORDED[camera, is_balanced, floor]
    assert float(planes.double().sum()) == pytest.approx(planes_sum, rel=1e-6)
    assert float(target.double().sum()) == pytest.approx(target_sum, rel=1e-6)
    assert auxiliary[::2, [0, 3]].flatten().tolist() == pytest.approx(told, abs=1e-5)


@cameras
def test_planes_and_targets_have_their_shapes_and_range(
    photos: ArrayCache, camera: CameraName
) -> None:
    factor = PACK_FACTOR[CAMERAS[camera].kind]
    for pair in open_scenes(photos, camera).pairs(np.random.default_rng(2), count=3, side=14):
        assert pair.planes.shape == ({2: 4, 3: 9}[factor], 14, 14)
        assert pair.target.shape == (3, 14 * factor, 14 * factor)
        for array in (pair.planes, pair.target):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            assert array.min() >= 0
            assert array.max() <= 1


@pytest.mark.parametrize("floor", [0, None])
@cameras
def test_clean_planes_are_what_a_sensor_without_noise_would_give(
    photos: ArrayCache, monkeypatch: pytest.MonkeyPatch, camera: CameraName, floor: int | None
) -> None:
    """To half a DN, where they are not clipped; in the usual units, amplified and balanced."""
    source = PhotoScenes(
        photos, photos.keys, camera, balance=GivenBalance(), floor=floor, with_clean=True
    )
    draw = source._draw_parameters

    def quiet(rng: np.random.Generator) -> SceneParameters:
        drawn = draw(rng)
        noise = replace(drawn.noise, gain=1e-10, read_scale=0, row_sigma=0, black_error=(0.0,))
        return replace(drawn, noise=noise, stated_iso=None)

    monkeypatch.setattr(source, "_draw_parameters", quiet)
    blown = 0
    for seed in range(6):
        (scene,) = source.scenes(np.random.default_rng(seed), count=1, side=12)
        (pair,) = source.pairs(np.random.default_rng(seed), count=1, side=12)
        assert pair.clean is not None and scene.gains is not None
        assert pair.clean.dtype == np.float32 and pair.clean.min() >= 0
        dn = scene.ratio * np.max(scene.gains) / (scene.frame.white - scene.frame.black).min()
        np.testing.assert_allclose(np.minimum(pair.clean, 1), pair.planes, atol=0.51 * dn)
        blown += int((pair.clean > 1).sum())
    assert blown > 0  # beyond white it goes on


def test_clean_planes_come_to_those_who_ask(photos: ArrayCache) -> None:
    """And change nothing else that is drawn."""
    asked, plain = (
        PhotoScenes(photos, photos.keys, "ILCE-7SM2", with_clean=with_clean)
        for with_clean in (True, False)
    )
    (with_clean,), (without,) = (
        source.pairs(np.random.default_rng(1), count=1, side=12) for source in (asked, plain)
    )
    assert with_clean.clean is not None and without.clean is None
    np.testing.assert_array_equal(with_clean.planes, without.planes)
    assert np.abs(with_clean.clean - with_clean.planes).max() > 0.001  # and it is not the noisy one
    assert all(source.with_clean for source in asked.by_source().values())


@cameras
def test_crops_of_a_scene_share_light_ratio_and_sensor(
    photos: ArrayCache, monkeypatch: pytest.MonkeyPatch, camera: CameraName
) -> None:
    """Or one global vector could not describe them all."""
    exposed, filtered = Spy(monkeypatch, "expose"), Spy(monkeypatch, "mosaic_from_linear")
    source = open_scenes(photos, camera)
    drawn = []
    for seed in range(8):
        exposed.calls.clear()
        filtered.calls.clear()
        source.pairs(np.random.default_rng(seed), count=4, side=4)
        circumstances = {
            (kwargs["ratio"], kwargs["iso"], kwargs["noise"], args[2])
            for (args, _), (_, kwargs) in zip(filtered.calls, exposed.calls, strict=True)
        }
        assert len(exposed.calls) == 4
        assert len(circumstances) == 1
        drawn.append(circumstances.pop())
    assert len(set(drawn)) == 8


@cameras
def test_the_auxiliary_targets_are_those_of_the_scene(
    photos: ArrayCache, monkeypatch: pytest.MonkeyPatch, camera: CameraName
) -> None:
    """Each from what the scene was made of: the light, the noise, the ratio."""
    exposed, filtered = Spy(monkeypatch, "expose"), Spy(monkeypatch, "mosaic_from_linear")
    source = open_scenes(photos, camera, replace(PLAIN, wb_sigma=0.2))
    red, _, blue = median_gains(camera)
    for seed in range(5):
        pair, again = source.pairs(np.random.default_rng(seed), count=2, side=8)
        assert np.array_equal(pair.auxiliary, again.auxiliary)
        light, drawn = filtered.calls[-1][0][2], exposed.calls[-1][1]
        assert (pair.auxiliary[1] > 0.5) == (light[0] > red)
        assert (pair.auxiliary[2] > 0.5) == (light[2] > blue)
        black = np.mean(drawn["noise"].black_error)
        assert (pair.auxiliary[0] > 0.5) == (black > 0)
        scale = 8 * drawn["ratio"] / (CAMERAS[camera].white - CAMERAS[camera].black)
        assert pair.auxiliary[0] == pytest.approx(np.clip(0.5 + scale * black, 0, 1), abs=1e-5)


def test_what_is_known_of_the_black_level_is_not_asked(
    photos: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposed = Spy(monkeypatch, "expose")
    source = PhotoScenes(photos, photos.keys, "ILCE-7SM2", PLAIN, floor=None)
    for seed in range(5):
        (pair,) = source.pairs(np.random.default_rng(seed), count=1, side=8)
        drawn = exposed.calls[-1][1]
        known = nearest_row("ILCE-7SM2", drawn["iso"])[-1]
        left = np.mean(drawn["noise"].black_error) - known
        scale = 8 * drawn["ratio"] / (CAMERAS["ILCE-7SM2"].white - CAMERAS["ILCE-7SM2"].black)
        assert pair.auxiliary[0] == pytest.approx(np.clip(0.5 + scale * left, 0, 1), abs=1e-4)


def test_of_some_scenes_the_black_level_is_not_known(photos: ArrayCache) -> None:
    options = replace(PLAIN, unknown_black_share=0.5)
    source = PhotoScenes(photos, photos.keys, "ILCE-7SM2", options, floor=None)
    known = [
        known_black_error(scene.frame)[1] < UNKNOWN_SIGMA
        for seed in range(40)
        for scene in source.scenes(np.random.default_rng(seed), count=1, side=8)
    ]
    assert 10 <= sum(known) <= 30


def test_a_given_light_is_no_auxiliary_target(photos: ArrayCache) -> None:
    source = PhotoScenes(photos, photos.keys, "ILCE-7SM2", PLAIN, GivenBalance())
    plain = open_scenes(photos, "ILCE-7SM2", PLAIN)
    for seed in range(3):
        targets = source.pairs(np.random.default_rng(seed), count=1, side=8)[0].auxiliary
        assert np.isnan(targets[1:3]).all()
        expected = plain.pairs(np.random.default_rng(seed), count=1, side=8)[0].auxiliary
        assert targets[[0, 3]] == pytest.approx(expected[[0, 3]])


class Doubled(GivenBalance):
    """Gains of red and blue that are another light's, always the same ones."""

    def draw(self, light: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
        return (light * (1.5, 1, 0.8)).astype(np.float32)


@cameras
def test_the_target_is_what_a_converter_makes_with_the_gains(
    photos: ArrayCache, camera: CameraName
) -> None:
    right = PhotoScenes(photos, photos.keys, camera, PLAIN, GivenBalance(changed_share=0))
    other = PhotoScenes(photos, photos.keys, camera, PLAIN, Doubled())
    to_camera = camera_from_srgb(np.array(CAMERAS[camera].matrix))
    for seed in range(3):
        shown, turned = (
            source.pairs(np.random.default_rng(seed), count=1, side=8)[0].target
            for source in (right, other)
        )
        in_camera = np.tensordot(to_camera, bt709_decode(shown), axes=1)
        in_camera *= np.array([1.5, 1, 0.8])[:, None, None]
        expected = np.clip(np.tensordot(np.linalg.inv(to_camera), in_camera, axes=1), 0, 1)
        np.testing.assert_allclose(bt709_decode(turned), expected, atol=2e-4)


@cameras
def test_a_blown_place_is_white_at_any_balance(tmp_path: Path, camera: CameraName) -> None:
    (tmp_path / "lamp").mkdir()
    iio.imwrite(tmp_path / "lamp" / "lamp.png", np.full((96, 96, 3), 255, np.uint8))
    photos = open_photos([tmp_path / "lamp"], tmp_path / "cache")
    source = PhotoScenes(photos, photos.keys, camera, PLAIN, Doubled())
    place = [((0, 0), TURNS[0])]
    dim = pairs_at(
        source, photos.array(photos.keys[0], "linear"), np.random.default_rng(0), place, side=8
    )
    assert dim[0].target[2].max() < 0.95  # as white paint would be
    source = PhotoScenes(
        photos, photos.keys, camera, replace(PLAIN, highlight_stops=3), Doubled(), None
    )
    whitest = max(
        float(source.pairs(np.random.default_rng(seed), count=1, side=8)[0].target.min())
        for seed in range(8)
    )
    assert whitest > 0.999


def test_what_lies_below_black_is_kept_if_so_asked(photos: ArrayCache) -> None:
    clipped, kept = (
        PhotoScenes(photos, photos.keys, "X-T2", PLAIN, floor=floor).pairs(
            np.random.default_rng(2), count=1, side=16
        )[0]
        for floor in (0, None)
    )
    assert clipped.planes.min() == 0 and kept.planes.min() < 0
    assert np.array_equal(np.maximum(kept.planes, 0), clipped.planes)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> ArrayCache:
    """Nine photographs of one source, one of another, two of a third."""
    folder = tmp_path_factory.mktemp("sources")
    folders = [write_photos(folder / name, n) for name, n in (("many", 9), ("one", 1), ("two", 2))]
    return open_photos(folders, folder / "cache")


def test_whole_sources_are_kept_for_validation(sources: ArrayCache) -> None:
    training, validation = split_photos(sources, ["one", "two"])
    assert {source_of(key) for key in training} == {"many"} and len(training) == 9
    assert {source_of(key) for key in validation} == {"one", "two"} and len(validation) == 3
    own = PhotoScenes(sources, validation, "ILCE-7SM2", PLAIN).by_source()
    assert {name: len(scenes) for name, scenes in own.items()} == {"one": 1, "two": 2}


@pytest.mark.parametrize("kept", [["none"], ["many", "one", "two"]])
def test_an_impossible_split_by_source_is_refused(sources: ArrayCache, kept: list[str]) -> None:
    with pytest.raises(DataError, match=r"folder named none|All photographs"):
        split_photos(sources, kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("power", "share"), [(1.0, 9 / 12), (0.5, 3 / (3 + 1 + 2**0.5)), (0, 1 / 3)]
)
def test_sources_are_drawn_by_their_size_to_a_power(
    sources: ArrayCache, monkeypatch: pytest.MonkeyPatch, power: float, share: float
) -> None:
    drawn: list[str] = []
    array = sources.array

    def noted(key: str, name: str) -> NDArray[Any]:
        drawn.append(source_of(key))
        return array(key, name)

    monkeypatch.setattr(sources, "array", noted)
    options = replace(PLAIN, source_power=power)
    source = PhotoScenes(sources, sources.keys, "ILCE-7SM2", options)
    for seed in range(400):
        source.pairs(np.random.default_rng(seed), count=1, side=1)
    assert drawn.count("many") / 400 == pytest.approx(share, abs=0.07)


@pytest.mark.slow
def test_any_iso_setting_is_drawn(photos: ArrayCache, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch, "expose")
    source = open_scenes(photos, "ILCE-7SM2", replace(PLAIN, free_iso_share=1.0))
    for seed in range(300):
        source.pairs(np.random.default_rng(seed), count=1, side=1)
    assert {kwargs["iso"] for _, kwargs in spy.calls} == set(iso_settings("ILCE-7SM2"))


def test_crops_of_a_scene_share_the_gain(photos: ArrayCache) -> None:
    photo = photos.array(photos.keys[0], "linear")
    source = open_scenes(photos, "ILCE-7SM2")
    place = ((3, 5), TURNS[0])
    first, second = pairs_at(source, photo, np.random.default_rng(1), [place, place], side=8)
    assert np.array_equal(first.target, second.target)
    assert not np.array_equal(first.planes, second.planes)  # each photosite has noise of its own


def test_a_scene_is_a_function_of_the_generator(photos: ArrayCache) -> None:
    source = open_scenes(photos, "X-T2")

    def make(seed: int) -> list[Pair]:
        return source.pairs(np.random.default_rng(seed), count=2, side=8)

    for first, second in zip(make(4), make(4), strict=True):
        assert np.array_equal(first.planes, second.planes)
        assert np.array_equal(first.target, second.target)
    assert not np.array_equal(make(4)[0].planes, make(5)[0].planes)


@pytest.mark.parametrize("turn", TURNS, ids=str)
@cameras
def test_without_gain_the_target_is_the_photograph(
    photos: ArrayCache, camera: CameraName, turn: Turn
) -> None:
    photo = photos.array(photos.keys[1], "linear")
    source = open_scenes(photos, camera, PLAIN)
    (pair,) = pairs_at(source, photo, np.random.default_rng(0), [((7, 11), turn)], side=8)
    size = pair.target.shape[1]
    piece = turn.apply(np.asarray(photo[7 : 7 + size, 11 : 11 + size]).astype(np.float32))
    assert np.allclose(pair.target.transpose(1, 2, 0), bt709_encode(piece), atol=1e-6)


def test_the_gain_makes_scenes_darker_and_brighter(photos: ArrayCache) -> None:
    photo = photos.array(photos.keys[1], "linear")
    places = [((0, 0), TURNS[0])]

    def target(stops: float) -> NDArray[np.float32]:
        source = open_scenes(photos, "ILCE-7SM2", replace(PLAIN, gain_stops=(stops, stops)))
        return pairs_at(source, photo, np.random.default_rng(0), places, side=8)[0].target

    linear = np.asarray(photo[:16, :16]).astype(np.float32).transpose(2, 0, 1)
    for stops in (-1.0, 0.0, 1.0):
        wanted = bt709_encode(np.minimum(linear * np.float32(2**stops), 1))
        assert np.allclose(target(stops), wanted, atol=1e-6)


@cameras
def test_some_lights_lie_between_lamps_and_daylight(
    photos: ArrayCache, monkeypatch: pytest.MonkeyPatch, camera: CameraName
) -> None:
    """On the line between the scene's own and daylight, in logarithms."""
    filtered = Spy(monkeypatch, "mosaic_from_linear")
    photo = photos.array(photos.keys[0], "linear")
    for share in (0.0, 1.0):
        source = open_scenes(photos, camera, replace(PLAIN, daylight_share=share))
        for seed in range(40):
            pairs_at(source, photo, np.random.default_rng(seed), [((0, 0), TURNS[0])], side=4)
    lights = np.log([args[2] for args, _ in filtered.calls])
    lamps, between = lights[:40, [0, 2]], lights[40:, [0, 2]]
    scenes = np.log([draw_scene(camera, np.random.default_rng(s)).wb for s in range(40)])
    assert np.allclose(lamps, scenes[:, [0, 2]])
    daylight = np.log(np.array(daylight_gains(camera))[[0, 2]])
    way = (between - lamps) / (daylight - lamps)
    assert np.allclose(way[:, 0], way[:, 1])
    assert 0 <= way.min() < 0.15 and 0.85 < way.max() <= 1


def test_plain_scenes_stay_the_same_ones(photos: ArrayCache) -> None:
    """Validation scores of one version are on the scenes of another: whatever else is drawn."""
    source = open_scenes(photos, "ILCE-7SM2", PLAIN)
    drawn = [source.pairs(np.random.default_rng(seed), count=1, side=8)[0] for seed in range(3)]
    told = np.array([pair.auxiliary for pair in drawn])
    assert told == pytest.approx(np.array(PLAIN_FACTS), abs=1e-4)


def test_photographs_are_developed_in_more_than_one_way(photos: ArrayCache) -> None:
    """The target is the photograph with another saturation and contrast, and the same for all."""
    photo = photos.array(photos.keys[1], "linear")
    source = open_scenes(
        photos, "ILCE-7SM2", replace(PLAIN, saturation_sigma=0.2, contrast_sigma=0.2)
    )
    place = ((0, 0), TURNS[0])
    linear = np.asarray(photo[:16, :16]).astype(np.float32)
    seen = []
    for seed in range(4):
        first, second = pairs_at(source, photo, np.random.default_rng(seed), [place, place], side=8)
        assert np.array_equal(first.target, second.target)
        seen.append(first.target)
        assert not np.allclose(first.target.transpose(1, 2, 0), bt709_encode(linear), atol=0.01)
    assert not np.allclose(seen[0], seen[1], atol=0.01)


def ratios(
    photos: ArrayCache, monkeypatch: pytest.MonkeyPatch, options: SceneOptions
) -> NDArray[np.float64]:
    spy = Spy(monkeypatch, "expose")
    source = open_scenes(photos, "ILCE-7SM2", options)
    for seed in range(150):
        source.pairs(np.random.default_rng(seed), count=1, side=1)
    return np.array([kwargs["ratio"] for _, kwargs in spy.calls])


def test_plain_scenes_have_sids_ratios(photos: ArrayCache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ratios(photos, monkeypatch, PLAIN).tolist()) == {100, 250, 300}


def test_free_ratios_fill_the_range(photos: ArrayCache, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = ratios(photos, monkeypatch, replace(PLAIN, free_ratio_share=1, lowest_ratio=20))
    assert drawn.min() >= 20
    assert drawn.max() <= 300
    middle = np.sqrt(20 * 300)  # log-uniform: half of the scenes on either side
    assert 45 < (drawn < middle).sum() < 105


# ---------------------------------------------------------------- sizes


@cameras
def test_the_largest_side_can_be_had_and_no_larger(photos: ArrayCache, camera: CameraName) -> None:
    source = open_scenes(photos, camera)
    largest = source.largest_side()
    assert largest * PACK_FACTOR[source.camera.kind] == 60
    (pair,) = source.pairs(np.random.default_rng(0), count=1, side=largest)
    assert pair.planes.shape[1:] == (largest, largest)
    with pytest.raises(DataError, match="no photograph has as many"):
        source.pairs(np.random.default_rng(0), count=1, side=largest + 2)


def test_photographs_too_small_for_a_crop_are_passed_over(tmp_path: Path) -> None:
    write_photos(tmp_path / "a small", 2, (24, 90))
    write_photos(tmp_path / "b large", 1, (48, 48))
    photos = open_photos([tmp_path], tmp_path / "cache")
    source = open_scenes(photos, "ILCE-7SM2", PLAIN)
    (large,) = (key for key in photos.keys if "large" in key)
    whole = bt709_encode(np.asarray(photos.array(large, "linear")).astype(np.float32))
    for seed in range(8):
        (pair,) = source.pairs(np.random.default_rng(seed), count=1, side=24)
        assert np.allclose(np.sort(pair.target, axis=None), np.sort(whole, axis=None), atol=1e-6)


# ---------------------------------------------------------------- photographs on disk


@pytest.mark.parametrize(
    "name",
    ["n" * 245, "\u6708" * 80, "a" + "\u00e9" * 120],
    ids=["one byte", "three bytes", "two bytes"],
)
def test_names_as_long_as_file_systems_allow(tmp_path: Path, name: str) -> None:
    """They are told apart however late they differ, and read as before where they are short."""
    folder = tmp_path / name
    write_photos(folder, 2)
    for index in range(2):
        (folder / f"{index:02d}.png").rename(folder / f"{name[:-1]}{index}.png")
    photos = open_photos([folder], tmp_path / "cache")
    assert len(set(photos.keys)) == 2
    for key in photos.keys:
        assert key.startswith(f"{name[:20]}")
        assert len(key.encode()) <= 80 + 2 + 80 + 9
        photos.array(key, "linear")


def test_short_names_are_kept_whole(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 1)
    (key,) = open_photos([folder], tmp_path / "cache").keys
    assert key.startswith("photos__00-")


def test_photographs_are_kept_in_linear_light(photos: ArrayCache, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 1)
    pixels = iio.imread(folder / "00.png")
    found = open_photos([folder], tmp_path / "cache")
    (key,) = found.keys
    linear = found.array(key, "linear")
    assert linear.dtype == np.float16
    assert np.allclose(linear, srgb_decode(pixels / 255), atol=5e-4)
    assert found.metadata(key)["size"] == [60, 84]


@pytest.mark.parametrize(
    ("width", "wanted"), [(1500, (4, 1500)), (1501, (2, 750)), (3001, (1, 1000))]
)
def test_large_photographs_are_shrunk_as_little_as_needed(
    tmp_path: Path, width: int, wanted: tuple[int, int]
) -> None:
    write_photos(tmp_path / "photos", 1, (4, width))
    photos = open_photos([tmp_path / "photos"], tmp_path / "cache")
    assert photos.array(photos.keys[0], "linear").shape == (*wanted, 3)


def test_photographs_of_one_name_in_several_folders_stay_apart(tmp_path: Path) -> None:
    folders = [write_photos(tmp_path / name / "x", 2) for name in ("a", "b")]
    photos = open_photos(folders, tmp_path / "cache")
    assert len(photos.keys) == len(set(photos.keys)) == 4


def test_all_broken_photographs_are_named(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 4)
    for name in ("00.png", "02.png"):
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"2 files.*00\.png.*02\.png") as caught:
        open_photos([folder], tmp_path / "cache")
    assert caught.value.exit_code == 70


# ---------------------------------------------------------------- the split


class Keys(ArrayCache):
    """A cache of nothing but names."""

    def __init__(self, count: int) -> None:
        super().__init__(Path("nowhere"), {f"{index:04d}": {} for index in reversed(range(count))})


@pytest.mark.parametrize("count", [8, 15, 16, 17, 24, 100, 1000])
def test_no_photograph_is_both_trained_and_validated_on(count: int) -> None:
    photos = Keys(count)
    training, validation = split_photos(photos)
    assert not set(training) & set(validation)
    assert sorted(training + validation) == sorted(photos.keys)
    assert len(validation) == pytest.approx(count / 16, abs=1)
    assert validation


def test_validation_is_spread_evenly_over_the_names() -> None:
    _, validation = split_photos(Keys(160))
    places = [int(key) for key in validation]
    assert set(np.diff(places).tolist()) == {16}


@pytest.mark.parametrize("count", [1, 7])
def test_a_few_photographs_serve_for_both(count: int) -> None:
    training, validation = split_photos(Keys(count))
    assert training == validation == sorted(Keys(count).keys)


@cameras
def test_balanced_planes_make_a_grey_scene_grey(tmp_path: Path, camera: CameraName) -> None:
    """What the network is given is the scene's own light, however that was drawn."""
    (tmp_path / "grey").mkdir()
    iio.imwrite(tmp_path / "grey" / "grey.png", np.full((192, 192, 3), 120, np.uint8))
    photos = open_photos([tmp_path / "grey"], tmp_path / "cache")
    options = replace(PLAIN, wb_sigma=0.3)
    means = []
    for balance in (GivenBalance(changed_share=0), None):
        source = PhotoScenes(photos, photos.keys, camera, options, balance)
        pairs = [source.pairs(np.random.default_rng(i), count=1, side=32)[0] for i in range(6)]
        colors = np.array(PLANE_COLORS[CAMERAS[camera].kind])
        for pair in pairs:
            by_color = [pair.planes[colors == color].mean() for color in range(3)]
            means.append(by_color[0] / by_color[1])
    balanced, plain = np.array(means[:6]), np.array(means[6:])
    assert np.abs(balanced - 1).max() < 0.25  # noise, clipped at black, lifts all channels
    assert np.abs(plain - 1).min() > 0.25


def test_a_copy_of_packed_photographs_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack_photos([write_photos(tmp_path / "photos", 3)], tmp_path / "photos.tar").target
    photos = open_photos([archive], tmp_path / "cache")
    (tmp_path / "other").mkdir()
    copy = Path(shutil.copy(archive, tmp_path / "other" / "renamed.tar"))
    os.utime(copy, ns=(0, 10**9))
    decoded: list[object] = []

    def read(photo: PackedPhoto) -> NDArray[Any]:
        decoded.append(photo)
        return read_packed(photo)

    monkeypatch.setattr(module, "read_packed", read)
    assert open_photos([copy], tmp_path / "cache").keys == photos.keys
    assert decoded == []
    # Other photographs of the same names are other ones.
    write_photos(tmp_path / "photos", 3, size=(60, 90))
    changed = pack_photos([tmp_path / "photos"], tmp_path / "changed.tar").target
    others = open_photos([changed], tmp_path / "cache")
    assert len(decoded) == 3 and not set(others.keys) & set(photos.keys)
