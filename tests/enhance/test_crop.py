"""Parts of photos: cut where the picture shows them, and as they are in the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gia_cli.cameras import CameraName
from gia_cli.enhance import crop as crop_module
from gia_cli.enhance import enhancer as enhancer_module
from gia_cli.enhance.comparison import write_comparison
from gia_cli.enhance.crop import Crop, Window, cut, lying, part_of, thinned, upright_size
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import UsageError
from gia_cli.imaging.photos import read_photo
from gia_cli.imaging.writer import unorient
from gia_cli.inference.run import infer
from gia_cli.raw.cfa import cell_colors
from gia_cli.raw.reader import RawFrame, read_raw
from tests.imaging.test_fusion import cameras, record

MakePhoto = Callable[..., Path]
TORCH: dict[str, Any] = {"device": "cpu", "engine": "torch"}  # compiles nothing for a size
FLIPS = [0, 1, 2, 3, 4, 5, 6, 7]


def numbered(camera: CameraName, shape: tuple[int, int] = (150, 222)) -> RawFrame:
    """A frame whose every photosite has another level."""
    frame = record(np.zeros((*shape, 3), np.float32), camera)
    return replace(frame, mosaic=np.arange(frame.mosaic.size, dtype=np.uint16).reshape(shape))


@pytest.mark.parametrize("text", ["", "centre-left", "1,2,3", "1,2,3,4,5", "-1,0,5,5", "1.5,0,5,5"])
def test_what_is_no_crop_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="center or X,Y,W,H"):
        Crop.parse(text)


@pytest.mark.parametrize("text", ["0,0,0,5", "0,0,5,0"])
def test_an_empty_crop_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no pixels"):
        Crop.parse(text)


@pytest.mark.parametrize("box", [(200, 0, 23, 5), (0, 149, 5, 2), (400, 400, 1, 1)])
def test_a_crop_beyond_the_picture_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="beyond the picture of 222 x 150 pixels"):
        part_of(numbered("ILCE-7SM2"), Crop(box))


def test_the_centre_is_in_the_middle_and_no_larger_than_the_picture() -> None:
    assert Crop().of(4000, 3000, "x") == (1488, 1116, 1024, 768)
    assert Crop().of(300, 2000, "x") == (0, 616, 300, 768)


@cameras
@pytest.mark.parametrize("flip", FLIPS)
def test_a_box_of_the_upright_picture_is_found_in_the_mosaic(camera: CameraName, flip: int) -> None:
    frame = replace(numbered(camera), flip=flip)
    width, height = upright_size(frame)
    upright = np.empty((height, width), np.uint16)
    turned = upright.T if flip & 4 else upright
    turned = turned[:, ::-1] if flip & 1 else turned
    turned = turned[::-1] if flip & 2 else turned
    turned[:] = frame.mosaic
    window = Window((31, 17, 64, 48), (width, height))
    rows, cols = lying(frame, window.box)
    shown = np.repeat(window.cut(upright)[..., None], 3, axis=2)
    np.testing.assert_array_equal(unorient(shown, flip)[..., 0], frame.mosaic[rows, cols])


def test_pixels_that_are_not_square_are_counted_as_the_picture_has_them() -> None:
    frame = replace(numbered("ILCE-7SM2"), pixel_aspect=2.0)
    assert upright_size(frame) == (444, 150)
    assert lying(frame, (100, 10, 50, 20)) == (slice(10, 30), slice(50, 75))


@cameras
@pytest.mark.parametrize("at", [(0, 0), (1, 2), (7, 3), (6, 5)])
def test_a_cut_keeps_every_photosites_colour_and_levels(
    camera: CameraName, at: tuple[int, int], rng: np.random.Generator
) -> None:
    frame = numbered(camera)
    period = len(frame.black)
    frame = replace(
        frame,
        black=rng.uniform(400, 600, frame.black.shape).astype(np.float32),
        white=rng.uniform(9000, 9999, frame.white.shape).astype(np.float32),
    )
    part = cut(frame, slice(at[0], 60), slice(at[1], 90))
    whole_colors = np.tile(cell_colors(frame.kind, frame.phase), (30, 40))
    for y, x in ((0, 0), (3, 5), (12, 7)):
        there = (y + at[0], x + at[1])
        assert part.mosaic[y, x] == frame.mosaic[there]
        colors = cell_colors(part.kind, part.phase)
        assert colors[y % len(colors), x % len(colors)] == whole_colors[there]
        for own, of_frame in ((part.black, frame.black), (part.white, frame.white)):
            assert own[y % period, x % period] == of_frame[there[0] % period, there[1] % period]


@cameras
def test_a_thinned_photo_keeps_cells_and_their_noise(
    camera: CameraName, rng: np.random.Generator
) -> None:
    frame = numbered(camera, (240, 360))
    noisy = rng.normal(2000, 20, frame.mosaic.shape).astype(np.uint16)
    frame = replace(frame, mosaic=noisy)
    packed = noisy.size // (4 if camera == "ILCE-7SM2" else 9)
    small = thinned(frame, packed // 8)
    assert small.phase == frame.phase
    period = 2 if camera == "ILCE-7SM2" else 6
    step = round(len(noisy) / len(small.mosaic))
    assert step == 3
    np.testing.assert_array_equal(small.mosaic[:period, :period], noisy[:period, :period])
    second = slice(step * period, step * period + period)
    np.testing.assert_array_equal(
        small.mosaic[:period, period : 2 * period], noisy[:period, second]
    )
    assert np.std(small.mosaic) == pytest.approx(20, rel=0.05)
    assert thinned(frame, packed) is frame


@pytest.mark.parametrize(
    ("orientation", "options"), [(1, {}), (6, {"strength": 0.5, "highlights": 1.0})]
)
def test_a_part_is_as_it_is_in_the_whole(
    make_arw: MakePhoto,
    options: dict[str, Any],
    orientation: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crop_module, "GRID", 16)  # so that the part is not the whole
    monkeypatch.setattr(crop_module, "thinned", lambda frame, _: replace(frame))
    photo = read_raw(make_arw(orientation=orientation))
    whole = Enhancer.from_weights(**TORCH, **options).enhance(photo, ratio=100)
    part = Enhancer.from_weights(**TORCH, crop="40,30,50,40", **options).enhance(photo, ratio=100)
    assert part.window is not None and part.image.shape == (40, 50, 3)
    assert part.comment.endswith("; crop 40,30,50,40")
    difference = (part.image / 65535 - part.window.cut(whole.image) / 65535) * 255
    assert np.abs(difference).mean() < 0.5 and np.abs(difference.mean(axis=(0, 1))).max() < 0.5
    plain = np.abs(whole.image / 257 - whole.image.mean(axis=(0, 1)) / 257).mean()
    assert plain > 5  # a part of another place would not do


@pytest.mark.parametrize("options", [{"quality": "best"}, {"strength": 0.5, "highlights": 1.0}])
def test_a_photo_that_needs_no_thinning_is_computed_once(
    make_arw: MakePhoto, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = read_raw(make_arw())
    whole = Enhancer.from_weights(**TORCH, **options).enhance(photo, ratio=100)
    monkeypatch.setattr(enhancer_module, "photo_terms", refuse)
    monkeypatch.setattr(crop_module, "_copied", refuse)
    runs: list[object] = []

    def counted(*arguments: Any) -> Any:
        runs.append(arguments)
        return infer(*arguments)

    monkeypatch.setattr(enhancer_module, "infer", counted)
    part = Enhancer.from_weights(**TORCH, crop="40,30,50,40", **options).enhance(photo, ratio=100)
    assert part.window is not None
    np.testing.assert_array_equal(part.image, part.window.cut(whole.image))
    assert len(runs) == (0 if "quality" in options else 1)  # the best one has a function of its own


def refuse(*_: object) -> None:
    raise AssertionError("the photo is run once more")


def test_a_crop_of_nearly_everything_is_the_whole_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crop_module, "THINNED_PIXELS", 1000)
    frame = numbered("ILCE-7SM2")
    part = part_of(frame, Crop((10, 10, 200, 130)))
    assert part.is_whole and part.frame is frame
    monkeypatch.setattr(crop_module, "MARGIN", 8)
    monkeypatch.setattr(crop_module, "GRID", 16)
    small = part_of(frame, Crop((100, 80, 64, 48)))
    assert not small.is_whole and small.frame.mosaic.size < frame.mosaic.size
    for found, box in ((part, (10, 10, 200, 130)), (small, (100, 80, 64, 48))):
        left, top, wide, high = box
        expected = frame.mosaic[top : top + high, left : left + wide]
        np.testing.assert_array_equal(found.frame.mosaic[found.inner], expected)


@pytest.mark.slow
def test_a_part_of_an_xtrans_photo_of_best_quality(make_raf: MakePhoto) -> None:
    photo = read_raw(make_raf())
    options: dict[str, Any] = {**TORCH, "quality": "best"}
    whole = Enhancer.from_weights(**options).enhance(photo, ratio=100)
    part = Enhancer.from_weights(crop="20,30,47,35", **options).enhance(photo, ratio=100)
    assert part.window is not None
    difference = (part.image / 65535 - part.window.cut(whole.image) / 65535) * 255
    # The black level's error is worked out with one picture, not with the mean of eight.
    assert np.abs(difference).mean() < 1


def test_a_thinned_vector_is_near_the_photos(
    make_arw: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = read_raw(make_arw())
    whole = Enhancer.from_weights(**TORCH).enhance(photo, ratio=100)
    monkeypatch.setattr(crop_module, "THINNED_PIXELS", photo.mosaic.size // 4 // 3)
    part = Enhancer.from_weights(**TORCH, crop="40,30,50,40").enhance(photo, ratio=100)
    assert part.window is not None
    difference = (part.image / 65535 - part.window.cut(whole.image) / 65535) * 255
    assert np.abs(difference.mean(axis=(0, 1))).max() < 6


@pytest.mark.parametrize("make", ["make_arw", "make_raf"])
def test_its_comparison_shows_the_same_part(
    make: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    photo = request.getfixturevalue(make)()
    result = Enhancer.from_weights(**TORCH, crop="20,30,46,36").enhance(photo, ratio=100)
    write_comparison(result, tmp_path / "c.png")
    sheet = read_photo(tmp_path / "c.png")
    assert sheet.shape[1] > 2 * 46 and sheet.shape[0] > 36
