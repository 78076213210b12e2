"""Whatever is wrong with what the public API is given, it raises a `GiaError`: entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gia_cli
from gia_cli import (
    Enhanced,
    Enhancer,
    ExposureRequest,
    GiaError,
    RawFrame,
    SaveOptions,
    read_raw,
)
from gia_cli.arguments import instance_of, number, one_of, path_of, whole_number
from gia_cli.enhance.white_balance import WhiteBalance
from gia_cli.errors import ExposureError, FileMissingError, UsageError
from gia_cli.inference.plan import InferOptions
from gia_cli.raw.levels import Levels
from gia_cli.runtime import Runtime, resolve

Call = Callable[[Any], object]
NAN = float("nan")
ANYTHING: list[Any] = [3.5, [], {}, object(), b"x", np.zeros((3, 3)), "a\0b", True]


def test_every_public_name_is_tested_here() -> None:
    tested = {"Enhancer", "Enhanced", "ExposureRequest", "RawFrame", "SaveOptions", "read_raw"}
    made_by_gia = {"GiaError", "RatioChoice", "__version__"}
    assert set(gia_cli.__all__) == tested | made_by_gia


WRONG: dict[str, list[Any]] = {
    "weights": ANYTHING,
    "device": ["gpu", None, *ANYTHING],
    "precision": ["fp8", None, *ANYTHING],
    "engine": ["tensorrt", None, *ANYTHING],
    "quality": ["worst", None, *ANYTHING],
    "tile": ["512", 0, -1, *ANYTHING],
    "max_memory": ["much", "", 0, -1, *ANYTHING],
    "white_balance": ["blue", "1,2", "0K", -1, [1, NAN, 1], *ANYTHING],
    "black_level": [
        "dark",
        "1,2",
        -1,
        NAN,
        [1, 2],
        [[1], [2, 3]],
        {},
        object(),
        np.zeros((3, 3)),
        1e9,
        b"x",
    ],
    "white_level": ["512", 0, -1, NAN, *ANYTHING[1:]],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_from_weights(name: str, value: Any) -> None:
    with pytest.raises(GiaError) as caught:
        Enhancer.from_weights(**{"device": "cpu", name: value})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [512, 512.0, np.float32(512), np.int64(512), np.array(512.0)])
def test_one_black_level_may_be_any_scalar(value: Any) -> None:
    assert Levels.parse(value).black == (512.0,)
    assert Levels.parse([value, 513, 514]).black == (512.0, 513.0, 514.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Enhancer(None, "cpu", InferOptions()),  # type: ignore[arg-type]
        lambda: Enhancer(None, Runtime("cpu", "float32"), None),  # type: ignore[arg-type]
        lambda: Enhancer(
            None,
            Runtime("cpu", "float32"),
            InferOptions(),
            levels=512,  # type: ignore[arg-type]
        ),
        lambda: resolve("gpu"),
        lambda: resolve("cuda:x"),
        lambda: resolve("cpu:0"),
        lambda: WhiteBalance("nonsense"),
        lambda: WhiteBalance("gains"),
        lambda: Levels(black=512.0),  # type: ignore[arg-type]
        lambda: Levels(black=("1",)),  # type: ignore[arg-type]
    ],
)
def test_the_parts_of_an_enhancer(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        call()


@pytest.mark.parametrize("name", ["ratio", "target_exposure_s", "max_ratio", "brackets"])
@pytest.mark.parametrize(
    "value", ["3", -1, 0, NAN, float("inf"), [], ["3"], [0.5], [NAN], object(), np.zeros(2)]
)
def test_an_exposure_request(name: str, value: Any) -> None:
    if name == "brackets" and isinstance(value, list) and not value:
        return  # no brackets
    with pytest.raises(UsageError):
        ExposureRequest(**{name: value})


def test_the_reference_is_a_shot() -> None:
    with pytest.raises(UsageError, match="reference"):
        ExposureRequest(reference="photo.ARW")  # type: ignore[arg-type]


@pytest.fixture
def frame(make_arw: Callable[..., Path]) -> RawFrame:
    return read_raw(make_arw())


@pytest.mark.parametrize("seconds", [0.0, -1.0, NAN, float("inf")])
def test_an_exposure_time_that_is_none(seconds: float, frame: RawFrame, enhancer: Enhancer) -> None:
    odd = replace(frame, shot=replace(frame.shot, exposure_s=seconds))
    for request in (
        ExposureRequest(target_exposure_s=10),
        ExposureRequest(reference=odd.shot),
        ExposureRequest(reference=frame.shot),
    ):
        with pytest.raises(ExposureError):
            next(enhancer.prepare(odd, request))
    assert next(enhancer.prepare(odd, ExposureRequest())).choice.rule == "picture"


@pytest.mark.parametrize("photo", [None, *(x for x in ANYTHING if not isinstance(x, bytes))])
def test_a_photo_that_is_none(photo: Any, enhancer: Enhancer) -> None:
    calls: list[Call] = [
        enhancer.enhance,
        lambda x: list(enhancer.enhance_brackets(x, ExposureRequest())),
        lambda x: list(enhancer.prepare(x, ExposureRequest())),
        read_raw,
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call(photo)
    with pytest.raises(FileMissingError):
        enhancer.enhance("no such photo.ARW")


@pytest.mark.parametrize("levels", [512, None, "512"])
def test_levels_that_are_none(levels: Any, make_arw: Callable[..., Path]) -> None:
    with pytest.raises(UsageError):
        read_raw(make_arw(), levels=levels)


@pytest.mark.parametrize("ratio", ["3", -1, 0, NAN, float("inf"), 1e9, [], np.zeros(2), object()])
def test_a_ratio_that_is_none(ratio: Any, frame: RawFrame, enhancer: Enhancer) -> None:
    with pytest.raises(UsageError):
        enhancer.enhance(frame, ratio=ratio)


def test_requests_that_are_none(frame: RawFrame, enhancer: Enhancer) -> None:
    wrong: Any = 100
    calls: list[Call] = [
        lambda x: enhancer.enhance(frame, exposure=x),
        lambda x: list(enhancer.enhance_brackets(frame, x)),
        lambda x: list(enhancer.prepare(frame, x)),
        enhancer.compute,
        enhancer.weights_for,
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call(wrong)


CHANGES: dict[str, list[Any]] = {
    "path": ["a.ARW"],
    "mosaic": [
        None,
        [[1, 2], [3, 4]],
        np.zeros((96, 144), np.float32),
        np.zeros((96, 144), np.int32),
        np.zeros((96, 144, 3), np.uint16),
        np.zeros(96, np.uint16),
        np.zeros((0, 144), np.uint16),
        np.zeros((1, 1), np.uint16),
    ],
    "kind": ["foveon", None, []],
    "phase": [(0,), (0, 2), (-1, 0), None, ("0", "0"), (0.5, 0)],
    "black": [512.0, None, np.zeros(4, np.float32), np.full((2, 2), NAN), np.full((2, 2), 1e6)],
    "white": [16383, None, np.zeros((2, 2), np.float32), np.zeros((3, 3), np.float32)],
    "as_shot_wb": [None, [2.0, 1.0, 1.5], np.ones(4), np.zeros(3), np.full(3, NAN)],
    "daylight_wb": [1.0, np.ones(2), np.full(3, NAN)],
    "xyz_to_camera": [np.ones(3), np.full((3, 3), NAN)],
    "flip": [8, -1, None, "0"],
    "pixel_aspect": [0, -1, NAN, "1", None],
    "black_correction": [NAN, "1", None],
    "shot": [None, {}],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_frame_that_is_none(name: str, frame: RawFrame, enhancer: Enhancer) -> None:
    frame.check()
    for value in CHANGES[name]:
        odd = replace(frame, **{name: value})
        with pytest.raises(UsageError):
            enhancer.enhance(odd)


def test_what_is_saved(frame: RawFrame, enhancer: Enhancer, tmp_path: Path) -> None:
    picture: Enhanced = enhancer.enhance(frame, ratio=100)
    for path in (None, 3, "a\0b.tif", "a.gif", tmp_path, tmp_path / "none" / "a.tif", ""):
        with pytest.raises(GiaError):
            picture.save(path)  # type: ignore[arg-type]
    images: list[Any] = [
        None,
        picture.image.astype(np.float32),
        picture.image[..., 0],
        picture.image[:0],
        picture.image[..., :2],
    ]
    for image in images:
        with pytest.raises(UsageError):
            replace(picture, image=image).save(tmp_path / "a.tif")
    assert list(tmp_path.glob("a*")) == []


SAVING: dict[str, list[Any]] = {
    "color_space": ["", "sRGB", None, *ANYTHING],
    "bit_depth": [0, 12, "8", NAN, *ANYTHING],
    "jpeg_quality": [0, 101, "90", NAN, *ANYTHING],
    "jpeg_subsampling": ["420", 2, *ANYTHING],
    "jxl_distance": [-1, 26, "1", NAN, *ANYTHING[1:]],
    "jxl_effort": [0, 10, "7", NAN, *ANYTHING],
    "exr_compression": ["ZIP", 3, *ANYTHING],
}


@pytest.mark.parametrize("name", SAVING)
def test_options_of_saving_that_are_none(name: str) -> None:
    assert set(SAVING) == {field.name for field in fields(SaveOptions)}
    for value in SAVING[name]:
        with pytest.raises(UsageError):
            SaveOptions(**{name: value})


def test_words_that_go_into_messages_are_short() -> None:
    for call in (
        lambda: path_of(np.zeros((500, 500)), "photo"),
        lambda: number("x" * 10_000, "ratio"),
        lambda: whole_number({n: n for n in range(1000)}, "tile"),
        lambda: one_of("x" * 10_000, ("a", "b"), "engine"),
        lambda: instance_of(np.zeros((500, 500)), Path, "path"),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert len(caught.value.message) < 200
        assert "\n" not in caught.value.message


def test_numpys_numbers_are_numbers() -> None:
    assert number(np.float32(1.5), "ratio") == 1.5
    assert whole_number(np.int64(512), "tile") == 512
    assert path_of("a.ARW", "photo") == Path("a.ARW")
