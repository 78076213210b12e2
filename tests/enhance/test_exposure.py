"""The amplification ratio: as asked for, from another shot, from EXIF, from the picture."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.enhance.exposure import (
    MAX_RATIO,
    REFERENCE_EXPOSURE_S,
    ExposureRequest,
    RatioChoice,
    auto_ratio,
    choose_ratios,
    describe_shot,
    picture_limits,
)
from gia_cli.errors import ExposureError, UsageError
from gia_cli.raw.cfa import RGGB, XTRANS, CfaKind
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RawFrame

CELL: dict[CfaKind, NDArray[np.uint8]] = {"bayer": RGGB, "xtrans": XTRANS}
BLOCK: dict[CfaKind, int] = {"bayer": 8, "xtrans": 12}  # photosites a side: 4x4 plane pixels
SIZE: dict[CfaKind, tuple[int, int]] = {"bayer": (320, 320), "xtrans": (480, 480)}
WB = np.array([2.1, 1.0, 1.6], np.float32)
BLACK, WHITE = 512, 16383
KINDS: list[CfaKind] = ["bayer", "xtrans"]
PHASES: list[tuple[CfaKind, tuple[int, int]]] = [
    ("bayer", (0, 0)),
    ("bayer", (0, 1)),
    ("bayer", (1, 0)),
    ("bayer", (1, 1)),
    ("xtrans", (0, 0)),
    ("xtrans", (1, 4)),
]


def colors_of(kind: CfaKind, phase: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    cell = CELL[kind]
    rows = (np.arange(shape[0])[:, None] + phase[0]) % len(cell)
    cols = (np.arange(shape[1])[None] + phase[1]) % len(cell)
    return cell[rows, cols]


def make_frame(
    light: NDArray[np.float64],
    kind: CfaKind = "bayer",
    phase: tuple[int, int] = (0, 0),
    *,
    time: float | None = None,
    noise: NDArray[np.float64] | float = 0.0,
) -> RawFrame:
    """A frame of a grey scene: its white-balanced channels read `light`; 1 is saturation."""
    period = len(CELL[kind])
    signal = light / WB[colors_of(kind, phase, light.shape)] * (WHITE - BLACK)
    mosaic = np.clip(np.rint(BLACK + signal + noise), 0, WHITE).astype(np.uint16)
    return RawFrame(
        path=Path("made.raw"),
        mosaic=mosaic,
        kind=kind,
        phase=phase,
        black=np.full((period, period), BLACK, np.float32),
        white=np.full((period, period), WHITE, np.float32),
        as_shot_wb=WB,
        daylight_wb=None,
        xyz_to_camera=None,
        flip=0,
        shot=ShotInfo(exposure_s=time),
    )


def slope(kind: CfaKind, peak: float) -> NDArray[np.float64]:
    """A scene whose blocks hold every brightness from 0 to `peak` alike."""
    height, width = SIZE[kind]
    block = BLOCK[kind]
    count = (height // block) * (width // block)
    steps = (np.arange(count) + 0.5).reshape(height // block, width // block) / count
    return peak * steps.repeat(block, 0).repeat(block, 1)


def block_brightness(frame: RawFrame) -> NDArray[np.float64]:
    """Largest white-balanced colour mean of each block, photosite by photosite, in float64.

    For frames whose phase is canonical and whose sides are whole blocks.
    """
    assert frame.phase == (0, 0)
    colors = colors_of(frame.kind, frame.phase, frame.mosaic.shape)
    unit = (frame.mosaic - float(BLACK)) / (WHITE - BLACK)
    block = BLOCK[frame.kind]
    rows, cols = frame.mosaic.shape
    shape = (rows // block, block, cols // block, block)
    channels = []
    for color in range(3):
        mask = (colors == color).astype(float)
        total = (unit * mask).reshape(shape).sum(axis=(1, 3))
        channels.append(float(WB[color]) * total / mask.reshape(shape).sum(axis=(1, 3)))
    largest: NDArray[np.float64] = np.max(channels, axis=0)
    return largest


def only(choices: list[RatioChoice]) -> RatioChoice:
    (choice,) = choices
    return choice


GREY = make_frame(np.full((32, 32), 0.01))


def shot(time: float | None, iso: int | None = None, aperture: float | None = None) -> RawFrame:
    return replace(GREY, shot=ShotInfo(exposure_s=time, iso=iso, aperture=aperture))


# ---------------------------------------------------------------- as asked for


@pytest.mark.parametrize("ratio", [1, 1.5, 100, 300])
def test_a_ratio_given_is_taken(ratio: float) -> None:
    choice = only(choose_ratios(shot(1 / 30), ExposureRequest(ratio=ratio)))
    assert choice == RatioChoice(ratio, "given", choice.reason)
    assert isinstance(choice.ratio, float)


def test_brackets_are_several_ratios_in_the_order_given() -> None:
    brackets = (100.0, 25.0, 50.0, 300.0)
    choices = choose_ratios(shot(None), ExposureRequest(brackets=brackets))
    assert tuple(choice.ratio for choice in choices) == brackets
    assert {choice.rule for choice in choices} == {"given"}


@pytest.mark.parametrize(("time", "target"), [(0.1, 10), (1 / 30, 1), (1 / 4000, 1 / 50), (2, 2)])
def test_a_target_exposure_is_relative_to_the_photos(time: float, target: float) -> None:
    choice = only(choose_ratios(shot(time), ExposureRequest(target_exposure_s=target)))
    assert choice.rule == "target"
    assert choice.ratio * time == pytest.approx(target)


REFERENCE = ShotInfo(exposure_s=2, iso=400, aperture=4)


@pytest.mark.parametrize(
    ("time", "iso", "aperture"), [(0.1, 400, 4.0), (0.1, 100, 4.0), (0.1, 400, 8.0), (1, 200, 5.6)]
)
def test_a_reference_counts_by_light_and_gain(time: float, iso: int, aperture: float) -> None:
    choice = only(choose_ratios(shot(time, iso, aperture), ExposureRequest(reference=REFERENCE)))
    assert choice.rule == "reference"
    expected = (2 * 400 / 4**2) / (time * iso / aperture**2)
    assert choice.ratio == pytest.approx(expected)
    assert describe_shot(REFERENCE) in choice.reason


@pytest.mark.parametrize("missing", ["iso", "aperture"])
@pytest.mark.parametrize("who", ["photo", "reference"])
def test_an_iso_or_aperture_that_one_file_lacks_counts_as_equal(missing: str, who: str) -> None:
    photo, reference = ShotInfo(exposure_s=0.1, iso=200, aperture=5.6), REFERENCE
    shots = {"photo": photo, "reference": reference}
    known: dict[str, Any] = {missing: getattr(reference, missing)}
    lacking: dict[str, Any] = {missing: None}
    both_known = {"photo": replace(photo, **known), "reference": reference}
    shots[who] = replace(shots[who], **lacking)
    one, other = (
        only(
            choose_ratios(
                replace(GREY, shot=pair["photo"]), ExposureRequest(reference=pair["reference"])
            )
        )
        for pair in (shots, both_known)
    )
    assert one.rule == "reference"
    assert one.ratio == pytest.approx(other.ratio)


def test_a_shot_is_its_own_reference() -> None:
    frame = shot(1 / 8, 3200, 2.8)
    choice = only(choose_ratios(frame, ExposureRequest(reference=frame.shot)))
    assert choice.ratio == pytest.approx(1)


ASKED: dict[str, dict[str, Any]] = {
    "target": {"target_exposure_s": 2},
    "reference": {"reference": REFERENCE},
}


@pytest.mark.parametrize("limit", [20, 300, 1000])
@pytest.mark.parametrize("way", ["target", "reference"])
def test_what_follows_from_a_shot_stays_within_the_limit(way: str, limit: float) -> None:
    frame = shot(1 / 1000, 400, 4)
    asked = ASKED[way]
    choice = only(choose_ratios(frame, ExposureRequest(**asked, max_ratio=limit)))
    assert (choice.ratio, choice.rule) == (limit, "limit")
    assert f"limited to {limit}" in choice.reason
    free = only(choose_ratios(frame, ExposureRequest(**asked, max_ratio=5000)))
    assert free.rule == way
    assert free.ratio == pytest.approx(2000)


@pytest.mark.parametrize("way", ["target", "reference"])
def test_nothing_is_darkened(way: str) -> None:
    asked = ASKED[way]
    choice = only(choose_ratios(shot(30, 400, 4), ExposureRequest(**asked)))
    assert (choice.ratio, choice.rule) == (1, "limit")
    assert "never darkens" in choice.reason


@pytest.mark.parametrize(
    ("frame", "request_"),
    [
        (shot(None), ExposureRequest(target_exposure_s=1)),
        (shot(None), ExposureRequest(reference=REFERENCE)),
        (shot(1 / 30), ExposureRequest(reference=ShotInfo(iso=100))),
    ],
)
def test_a_missing_exposure_time_is_one_clear_error(
    frame: RawFrame, request_: ExposureRequest
) -> None:
    with pytest.raises(ExposureError, match="exposure time") as caught:
        choose_ratios(frame, request_)
    assert caught.value.exit_code == 30
    assert "--ratio" in caught.value.hint


WAYS: dict[str, Any] = {
    "ratio": 10.0,
    "target_exposure_s": 1.0,
    "reference": REFERENCE,
    "brackets": (10.0, 20.0),
}


@pytest.mark.parametrize("pair", list(combinations(WAYS, 2)))
def test_two_ways_at_once_are_refused(pair: tuple[str, str]) -> None:
    for way in pair:
        ExposureRequest(**{way: WAYS[way]})
    with pytest.raises(UsageError, match="only one") as caught:
        ExposureRequest(**{way: WAYS[way] for way in pair})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "values",
    [
        {"ratio": 0},
        {"ratio": 0.99},
        {"ratio": -5},
        {"ratio": 300.5},
        {"ratio": math.inf},
        {"ratio": math.nan},
        {"ratio": 60, "max_ratio": 50},
        {"brackets": (10.0, 0.5)},
        {"brackets": (10.0, 301.0)},
        {"brackets": (math.nan,)},
        {"target_exposure_s": 0},
        {"target_exposure_s": -1},
        {"target_exposure_s": math.nan},
        {"max_ratio": 0.5},
        {"max_ratio": math.nan},
        {"max_ratio": math.inf},
    ],
)
def test_impossible_numbers_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        ExposureRequest(**values)
    assert caught.value.exit_code == 2


def test_the_limit_can_be_raised() -> None:
    request = ExposureRequest(ratio=700, max_ratio=1000)
    assert only(choose_ratios(GREY, request)).ratio == 700


def test_nothing_asked_for_means_auto() -> None:
    frame = make_frame(slope("bayer", 0.02), time=0.2)
    assert only(choose_ratios(frame, ExposureRequest())) == auto_ratio(frame)
    capped = only(choose_ratios(frame, ExposureRequest(max_ratio=7)))
    assert capped == auto_ratio(frame, 7)
    assert (capped.ratio, capped.rule) == (7, "limit")


# ---------------------------------------------------------------- auto


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [20, 100, 250])
def test_exif_decides_where_the_picture_agrees(kind: CfaKind, ratio: float) -> None:
    for brightest in (0.5, 0.7, 0.95):  # of saturation, once amplified
        frame = make_frame(slope(kind, brightest / ratio), kind, time=REFERENCE_EXPOSURE_S / ratio)
        choice = auto_ratio(frame)
        assert choice.rule == "exif"
        assert choice.ratio == pytest.approx(ratio)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("excess", [1.5, 4, 50])
def test_highlights_hold_exif_back(kind: CfaKind, excess: float, rng: np.random.Generator) -> None:
    light = slope(kind, 0.02)
    frame = make_frame(light, kind, time=10 / (50 * excess), noise=rng.normal(0, 4, light.shape))
    choice = auto_ratio(frame, 10_000)
    assert choice.rule == "highlights"
    assert 1 <= choice.ratio < 50 * excess
    brightness = block_brightness(frame)
    blown = np.mean(brightness * choice.ratio > 1)
    assert 0.005 < blown <= 0.0101
    assert np.mean(brightness * 50 * excess > 1) > 0.1  # as EXIF would have had it


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lack", [0.9, 0.3, 0.05])
def test_shadows_raise_exif(kind: CfaKind, lack: float) -> None:
    needed = 60
    frame = make_frame(slope(kind, 0.45 / needed), kind, time=10 / (needed * lack))
    choice = auto_ratio(frame)
    assert choice.rule == "shadows"
    assert choice.ratio == pytest.approx(needed, rel=0.02)
    assert choice.ratio > needed * lack


def test_a_few_lamps_may_blow_out() -> None:
    light = np.full(SIZE["bayer"], 0.004)
    light[:16, :32] = 0.9  # 8 of 1600 blocks, half a percent
    choice = auto_ratio(make_frame(light, time=0.1))
    assert choice.rule == "exif"
    assert choice.ratio == pytest.approx(100)
    light[:40, :120] = 0.9  # 75 blocks: too much to lose
    choice = auto_ratio(make_frame(light, time=0.1))
    assert choice.rule == "highlights"
    assert choice.ratio == pytest.approx(1 / 0.9, rel=0.01)


def test_what_a_picture_needs_is_never_more_than_what_it_bears(rng: np.random.Generator) -> None:
    for exponent in (0, 1, 5, 30):
        light = 0.5 * rng.random((160, 160)) ** exponent
        limits = picture_limits(make_frame(light, noise=rng.normal(0, 5, light.shape)))
        assert 0 < limits.lowest < limits.fitting
        assert limits.lowest < limits.highest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peak", [0.5, 0.1, 0.005])
def test_without_exposure_time_the_picture_decides(kind: CfaKind, peak: float) -> None:
    frame = make_frame(slope(kind, peak), kind)
    choice = auto_ratio(frame)
    assert choice.rule == "picture"
    bright_end = np.percentile(block_brightness(frame), 99.8)
    assert choice.ratio * bright_end == pytest.approx(0.9, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("time", [None, 10.0, 0.1, 1e-4])
@pytest.mark.parametrize("peak", [3.0, 0.9, 0.03, 1e-4, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_auto_stays_between_one_and_the_limit(
    kind: CfaKind, peak: float, time: float | None
) -> None:
    frame = make_frame(slope(kind, peak), kind, time=time)
    assert MAX_RATIO == 300
    for limit in (1, 7.5, 300, 1000):
        choice = auto_ratio(frame, limit)
        assert 1 <= choice.ratio <= limit
        assert choice.reason
        assert choice == auto_ratio(frame, limit)
    assert auto_ratio(frame) == auto_ratio(frame, 300)


@pytest.mark.parametrize(
    ("light", "time", "expected"),
    [(1e-4, 1e-3, 300), (1e-4, None, 300), (0.97, None, 1), (1.0, 1e-3, 1), (0.01, 30, 45)],
)
def test_constant_frames(light: float, time: float | None, expected: float) -> None:
    frame = make_frame(np.full((64, 64), light), time=time)
    choice = auto_ratio(frame)
    assert choice.ratio == pytest.approx(expected, rel=0.02)
    assert (choice.rule == "limit") == (expected in (1, 300))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0, BLACK - 1, BLACK])
@pytest.mark.parametrize("time", [None, 1 / 30])
def test_a_black_frame_is_amplified_up_to_the_limit(
    kind: CfaKind, level: int, time: float | None
) -> None:
    frame = make_frame(np.zeros((48, 48)), kind, time=time)
    frame = replace(frame, mosaic=np.full_like(frame.mosaic, level))
    limits = picture_limits(frame)
    assert limits.fitting == limits.lowest == limits.highest == math.inf
    choice = auto_ratio(frame)
    assert (choice.ratio, choice.rule) == (300, "limit")


def test_a_frame_of_noise_alone_is_amplified_up_to_the_limit(rng: np.random.Generator) -> None:
    noise = rng.normal(0, 6, SIZE["bayer"])
    choice = auto_ratio(make_frame(np.zeros(SIZE["bayer"]), noise=noise))
    assert choice.ratio == 300


# ---------------------------------------------------------------- what the picture says


@pytest.mark.parametrize("kind", KINDS)
def test_limits_follow_their_definition(kind: CfaKind, rng: np.random.Generator) -> None:
    light = 0.05 * rng.random(SIZE[kind]) ** 3
    frame = make_frame(light, kind, noise=rng.normal(0, 5, light.shape))
    brightness = block_brightness(frame)
    limits = picture_limits(frame)
    assert 1 / limits.highest == pytest.approx(np.percentile(brightness, 99), rel=1e-4)
    assert 0.9 / limits.fitting == pytest.approx(np.percentile(brightness, 99.8), rel=1e-4)
    assert 0.45 / limits.lowest == pytest.approx(np.percentile(brightness, 99.8), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.25, 0.5, 2, 8])
def test_more_light_needs_less_amplification(kind: CfaKind, factor: float) -> None:
    base, scaled = (picture_limits(make_frame(slope(kind, 0.03 * k), kind)) for k in (1.0, factor))
    for name in ("fitting", "lowest", "highest"):
        quotient = getattr(base, name) / getattr(scaled, name)
        assert quotient == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize(("kind", "phase"), PHASES)
def test_phase_and_odd_size_hardly_matter(kind: CfaKind, phase: tuple[int, int]) -> None:
    height, width = SIZE[kind]
    rows = np.linspace(0.2, 1, height + 3)[:, None]
    light = 0.02 * rows * np.linspace(0, 1, width + 1)[None]
    plain = picture_limits(make_frame(light[:height, :width], kind))
    other = picture_limits(make_frame(light, kind, phase))
    assert other.fitting == pytest.approx(plain.fitting, rel=0.02)
    assert other.highest == pytest.approx(plain.highest, rel=0.02)


@pytest.mark.parametrize(("kind", "phase"), PHASES)
def test_the_largest_channel_counts_after_white_balance(
    kind: CfaKind, phase: tuple[int, int]
) -> None:
    """Only one colour has light: its gain enters the ratio, the others' do not."""
    for color in range(3):
        colors = colors_of(kind, phase, SIZE[kind])
        light = np.where(colors == color, 0.02, 0.001)
        limits = picture_limits(make_frame(light, kind, phase))
        assert limits.fitting == pytest.approx(0.9 / 0.02, rel=0.01)
        neutral = replace(make_frame(light, kind, phase), as_shot_wb=np.ones(3, np.float32))
        expected = min(0.9 * float(WB[color]) / 0.02, 0.9 / 0.001)
        assert picture_limits(neutral).fitting == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_black_and_white_levels_of_each_place_count(
    kind: CfaKind, rng: np.random.Generator
) -> None:
    """Levels that differ by colour (for Bayer by place) change nothing if the light is the same."""
    phase = (1, 1) if kind == "bayer" else (2, 1)
    light = slope(kind, 0.04)
    frame = make_frame(light, kind, phase)
    period = len(frame.black)
    if kind == "bayer":
        black = np.array([[400, 520], [610, 700]], np.float32)
        white = np.array([[16383, 15000], [14000, 16000]], np.float32)
    else:
        cell = colors_of(kind, phase, (6, 6))
        black = np.array([400, 520, 610], np.float32)[cell]
        white = np.array([16383, 15000, 14000], np.float32)[cell]
    tiled = (light.shape[0] // period, light.shape[1] // period)
    blacks, whites = np.tile(black, tiled), np.tile(white, tiled)
    unit = light / WB[colors_of(kind, phase, light.shape)]
    mosaic = np.rint(blacks + unit * (whites - blacks)).astype(np.uint16)
    other = replace(frame, mosaic=mosaic, black=black, white=white)
    assert picture_limits(other).fitting == pytest.approx(picture_limits(frame).fitting, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_hot_pixels_do_not_change_the_ratio(kind: CfaKind, rng: np.random.Generator) -> None:
    frame = make_frame(slope(kind, 0.005), kind, time=1 / 15)
    mosaic = frame.mosaic.copy()
    rows, cols = (rng.integers(0, side, 3) for side in mosaic.shape)
    mosaic[rows, cols] = WHITE
    hot = replace(frame, mosaic=mosaic)
    assert not np.array_equal(frame.mosaic, mosaic)
    clean_limits, hot_limits = picture_limits(frame), picture_limits(hot)
    for name in ("fitting", "lowest", "highest"):
        assert getattr(hot_limits, name) == pytest.approx(getattr(clean_limits, name), rel=0.01)
    assert auto_ratio(hot) == auto_ratio(frame)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_hardly_changes_the_ratio(kind: CfaKind, rng: np.random.Generator) -> None:
    """Read noise of the size of the light itself: block means and an unclipped black level."""
    light = slope(kind, 0.004)  # at most 63 DN
    clean, noisy = (
        picture_limits(make_frame(light, kind, noise=noise))
        for noise in (0.0, rng.normal(0, 20, light.shape))
    )
    assert noisy.fitting == pytest.approx(clean.fitting, rel=0.25)


def test_the_picture_does_not_depend_on_its_orientation() -> None:
    light = slope("bayer", 0.03)
    base = picture_limits(make_frame(light))
    for turned in (light[::-1], light[:, ::-1], light.T):
        limits = picture_limits(make_frame(turned))
        assert limits.fitting == pytest.approx(base.fitting, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("bayer", (2, 2)),
        ("bayer", (2, 300)),
        ("bayer", (3, 5)),
        ("bayer", (7, 9)),
        ("bayer", (9, 7)),
        ("xtrans", (6, 6)),
        ("xtrans", (7, 13)),
        ("xtrans", (6, 301)),
    ],
)
def test_tiny_and_odd_frames_have_a_ratio_too(kind: CfaKind, size: tuple[int, int]) -> None:
    for phase in ((0, 0), (1, 1)):
        frame = make_frame(np.full(size, 0.01), kind, phase)
        assert picture_limits(frame).fitting == pytest.approx(90, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_leaves_the_frame_alone(kind: CfaKind) -> None:
    frame = make_frame(slope(kind, 0.03), kind, (1, 1), time=0.1)
    for name in ("mosaic", "black", "white", "as_shot_wb"):
        getattr(frame, name).flags.writeable = False
    before = frame.mosaic.copy()
    auto_ratio(frame)
    assert np.array_equal(frame.mosaic, before)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("info", "phrase"),
    [
        (ShotInfo(exposure_s=1 / 30, iso=1600, aperture=8), "1/30 s, ISO 1600, f/8"),
        (ShotInfo(exposure_s=10, aperture=2.8), "10 s, f/2.8"),
        (ShotInfo(exposure_s=0.5), "0.5 s"),
        (ShotInfo(iso=204800), "ISO 204800"),
        (ShotInfo(make="Sony"), ""),
    ],
)
def test_a_shot_in_one_phrase(info: ShotInfo, phrase: str) -> None:
    assert describe_shot(info) == phrase


# ---------------------------------------------------------------- stops on top


@pytest.mark.parametrize(
    ("stops", "ratio", "rule", "words"),
    [
        (1, 100, "given", "as given; +1 EV"),
        (-1.5, 50 / 2**1.5, "given", "as given; -1.5 EV"),
        (3, 300, "limit", "+3 EV: 400, limited to 300"),
        (-6, 1, "limit", "-6 EV: 0.78; gia never darkens"),
    ],
)
def test_stops_are_counted_from_the_ratio(
    stops: float, ratio: float, rule: str, words: str
) -> None:
    request = ExposureRequest(ratio=50, exposure_ev=stops)
    (choice,) = choose_ratios(make_frame(np.full((48, 48), 0.01)), request)
    assert choice.ratio == pytest.approx(ratio)
    assert choice.rule == rule
    assert words in choice.reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exposure_ev": float("inf")}, "number of stops"),
        ({"exposure_ev": 1, "brackets": (10.0, 20.0)}, "--exposure or --brackets"),
        ({"exposure_ev": "bright"}, "--exposure"),
    ],
)
def test_impossible_stops_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ExposureRequest(**options)
