"""White balance as a control: what is asked, the gains for a photo, and the words for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli import ExposureRequest, read_raw
from gia_cli.cameras import XT2_MATRIX
from gia_cli.enhance.camera_match import camera_gains
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.white_balance import NAMES, PRESETS, WhiteBalance, photo_light
from gia_cli.errors import UsageError, WeightsMismatchError, WhiteBalanceError
from gia_cli.imaging.temperature import Light, light_of_gains
from gia_cli.nets.config import NetConfig
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR, CfaKind
from gia_cli.raw.packing import prepare, usable_gains
from gia_cli.raw.reader import RawFrame
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo, save_weights
from tests.networks import lively, small

MakePhoto = Callable[..., Path]
LIGHTS = [name for name in NAMES if name != "learned"]
#: Gains with red or blue below green: then green must be more than 1.
LOW_GAINS = ("0.5,1,2", "2,1,0.25", "0.5,1,0.25", "1,4,1", "3,1,1")


@pytest.fixture
def frame(make_arw: MakePhoto) -> RawFrame:
    return read_raw(make_arw())


def as_shot_weights(folder: Path, cfa: CfaKind = "bayer") -> Path:
    path = folder / f"wb-{cfa}.safetensors"
    config = replace(small("gia-net", cfa), white_balance="as-shot")
    save_weights(path, lively(config), camera="ILCE-7SM2" if cfa == "bayer" else "X-T2")
    return path


def gains(frame: RawFrame, asked: str) -> NDArray[np.float64]:
    return WhiteBalance.parse(asked).gains_for(frame)


# ---------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("asked", "light"),
    [
        ("3200K", Light(3200)),
        ("3200k", Light(3200)),
        (" 3200 K , -12.5 ", Light(3200, -12.5)),
        ("6504.4K,+10", Light(6504.4, 10)),
    ],
)
def test_temperatures_are_understood(asked: str, light: Light) -> None:
    parsed = WhiteBalance.parse(asked)
    assert parsed == WhiteBalance("temperature", light=light)
    assert parsed.mode == "as-shot"
    assert WhiteBalance.parse(parsed) is parsed


def test_names_and_gains_are_understood() -> None:
    for name in NAMES:
        assert WhiteBalance.parse(name.upper()) == WhiteBalance(name)
        assert WhiteBalance.parse(name).mode == ("learned" if name == "learned" else "as-shot")
    expected = WhiteBalance("gains", gains=(2.1, 1.0, 1.5))
    assert WhiteBalance.parse("2.1, 1,1.5") == expected
    assert WhiteBalance.parse((2.1, 1, 1.5)) == expected
    assert WhiteBalance.parse([2.1, 1, 1.5]) == expected


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "bright",
        "3200",
        "K",
        "3200K,",
        "3200K,5,5",
        "2,1",
        "1,1,1,1",
        "a,b,c",
        (1, 2),
        ("x",) * 3,
    ],
)
def test_anything_else_is_refused_with_what_to_give(asked: str) -> None:
    with pytest.raises(UsageError, match="is not a white balance") as caught:
        WhiteBalance.parse(asked)
    assert all(name in caught.value.hint for name in NAMES)
    assert "3200K" in caught.value.hint
    with pytest.raises(UsageError):
        Enhancer.from_weights(device="cpu", white_balance=asked)


@pytest.mark.parametrize("asked", ["1,0,1", "-1,1,1", "nan,1,1", "inf,1,1", "1e-9,1,1"])
def test_impossible_gains_are_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="three positive gains"):
        WhiteBalance.parse(asked)


@pytest.mark.parametrize("asked", ["900K", "20000K", "5000K,200", "-5000K"])
def test_impossible_lights_are_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="must be between"):
        WhiteBalance.parse(asked)


# ---------------------------------------------------------------- gains for a photo


def test_gains_follow_what_is_asked(frame: RawFrame) -> None:
    assert frame.daylight_wb is not None
    assert frame.xyz_to_camera is not None
    assert gains(frame, "as-shot") == pytest.approx(frame.as_shot_wb)
    assert gains(frame, "daylight") == pytest.approx(frame.daylight_wb)
    assert gains(frame, "4,2,3") == pytest.approx([2, 1, 1.5])
    for name in ("cloudy", "shade", "tungsten", "fluorescent", "flash"):
        light = light_of_gains(gains(frame, name), frame.xyz_to_camera)
        assert light is not None
        assert light.kelvin == pytest.approx(PRESETS[name].kelvin, rel=1e-6)
        assert light.tint == pytest.approx(PRESETS[name].tint, abs=1e-4)
    unknown = replace(frame, daylight_wb=None)
    assert np.array_equal(gains(unknown, "daylight"), gains(frame, "5500K,10"))


def test_the_cameras_own_choice_does_not_matter_to_a_temperature(frame: RawFrame) -> None:
    other = replace(frame, as_shot_wb=np.array([1.1, 1, 3.3], np.float32))
    ratios = []
    for asked in ("tungsten", "3200K", "fluorescent", "flash", "cloudy", "shade"):
        assert np.array_equal(gains(frame, asked), gains(other, asked))
        red, green, blue = gains(frame, asked)
        assert green == 1
        ratios.append(red / blue)
    assert ratios == sorted(ratios)


def test_gains_go_by_the_photos_own_matrix(frame: RawFrame) -> None:
    other = replace(frame, xyz_to_camera=np.array(XT2_MATRIX, np.float32))
    assert not np.allclose(gains(frame, "3200K"), gains(other, "3200K"), rtol=0.1)


def test_a_camera_of_unknown_colors_needs_gains(frame: RawFrame) -> None:
    unknown = replace(frame, xyz_to_camera=None, daylight_wb=None)
    for asked in (*(set(LIGHTS) - {"as-shot"}), "3200K,5"):
        with pytest.raises(WhiteBalanceError, match="the colours of this camera") as caught:
            gains(unknown, asked)
        assert "R,G,B" in caught.value.hint and "as-shot" in caught.value.hint
    assert gains(unknown, "as-shot") == pytest.approx(frame.as_shot_wb)
    assert gains(unknown, "2,1,3") == pytest.approx([2, 1, 3])
    blind = replace(frame, xyz_to_camera=np.diag([1, 1, -1]).astype(np.float32))
    with pytest.raises(WhiteBalanceError, match="allows no balance for 3200 K"):
        gains(blind, "3200K")


# ---------------------------------------------------------------- into the network


@pytest.mark.parametrize("kind", ["bayer", "xtrans"])
@pytest.mark.parametrize("asked", [*LIGHTS, "2000K,-40", "12000K,60", *LOW_GAINS])
def test_blown_highlights_stay_white(
    frame: RawFrame, kind: CfaKind, asked: str, tmp_path: Path
) -> None:
    """A saturated patch gives planes of exactly 1, whatever is asked, even at ratio 1."""
    period, side = len(CANONICAL[kind]), 12 * PACK_FACTOR[kind]
    white = np.full((period, period), 16383, np.float32)
    blown = replace(
        frame,
        mosaic=np.full((side, side), 16383, np.uint16),
        kind=kind,
        phase=(0, 0),
        black=np.full((period, period), 512, np.float32),
        white=white,
    )
    weights = WeightsInfo(
        "x", tmp_path, NetConfig("gia-net", kind, white_balance="as-shot"), None, None, None,
        "bt709", None, None, None, {},
    )  # fmt: skip
    given = camera_gains(blown, weights, WhiteBalance.parse(asked))
    assert given is not None
    assert given.min() == 1
    for ratio in (1, 1.5, 100):
        for floor in (0, None):
            planes = prepare(blown, ratio, given, floor).planes
            assert np.array_equal(planes, np.ones_like(planes))


@pytest.mark.parametrize("asked", ["3200K,5", "shade", "as-shot", (0.5, 1, 2.0)])
def test_the_network_gets_balanced_planes(
    frame: RawFrame, tmp_path: Path, asked: str | tuple[float, ...]
) -> None:
    enhancer = Enhancer.from_weights(as_shot_weights(tmp_path), device="cpu", white_balance=asked)
    (prepared,) = enhancer.prepare(frame, ExposureRequest(ratio=20))
    given = usable_gains(WhiteBalance.parse(asked).gains_for(frame))
    assert given.min() >= 1
    assert np.array_equal(prepared.mosaic.planes, prepare(frame, 20, given).planes)


def test_without_asking_the_weights_decide(frame: RawFrame, tmp_path: Path) -> None:
    enhancer = Enhancer.from_weights(as_shot_weights(tmp_path), device="cpu")
    (prepared,) = enhancer.prepare(frame, ExposureRequest(ratio=20))
    assert np.array_equal(prepared.mosaic.planes, prepare(frame, 20, frame.as_shot_wb).planes)
    assert prepared.white_balance.startswith("as shot (")
    (learned,) = Enhancer.from_weights(device="cpu").prepare(frame, ExposureRequest(ratio=20))
    default = find_weights(None, "bayer")
    if default.config.white_balance == "learned":
        assert learned.white_balance == "learned"


def test_what_is_asked_chooses_the_weights(tmp_path: Path) -> None:
    for asked in ("3200K", "shade", "2,1,2", "as-shot"):
        chosen = Enhancer.from_weights(device="cpu", white_balance=asked).weights_for("bayer")
        assert chosen.config.white_balance == "as-shot"
    learned = Enhancer.from_weights(device="cpu", white_balance="learned").weights_for("bayer")
    assert learned.config.white_balance == "learned"
    with pytest.raises(WeightsMismatchError, match="'learned', not 'as-shot'"):
        Enhancer.from_weights(learned.name, device="cpu", white_balance="3200K")
    with pytest.raises(WeightsMismatchError, match="'as-shot', not 'learned'"):
        Enhancer.from_weights(as_shot_weights(tmp_path), device="cpu", white_balance="learned")


# ---------------------------------------------------------------- words


def test_the_words_say_which_balance(frame: RawFrame) -> None:
    def words(asked: str, of: RawFrame = frame) -> str:
        return WhiteBalance.parse(asked).describe(of)

    assert words("3200K,5") == "3200 K, tint +5"
    assert words("tungsten") == "tungsten (2850 K)"
    assert words("shade") == "shade (7500 K, tint +10)"
    assert words("daylight").startswith("daylight (650")  # LibRaw's is D65
    assert words("2.10,1,1.5") == "gains 2.1, 1, 1.5"
    assert words("learned") == "learned"
    light = photo_light(frame.as_shot_wb, frame)
    assert words("as-shot") == f"as shot ({light})"
    assert words("as-shot", replace(frame, xyz_to_camera=None)) == "as shot"


def test_the_picture_says_which_balance(frame: RawFrame, tmp_path: Path) -> None:
    enhancer = Enhancer.from_weights(
        as_shot_weights(tmp_path), device="cpu", white_balance="3200K,5"
    )
    warm = enhancer.enhance(frame, ratio=20)
    assert warm.white_balance == "3200 K, tint +5"
    assert warm.comment.endswith("white balance 3200 K, tint +5")
    other = Enhancer.from_weights(as_shot_weights(tmp_path), device="cpu", white_balance="9000K")
    assert not np.array_equal(other.enhance(frame, ratio=20).image, warm.image)
