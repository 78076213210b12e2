from __future__ import annotations

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageCms

from gia_cli.imaging.color import bt709_encode, srgb16_from_bt709, srgb_encode
from gia_cli.imaging.color_space import (
    DISPLAY_P3,
    PROPHOTO,
    REC2020,
    SPACES,
    SRGB,
    ColorSpace,
    adaptation,
    levels16_in,
    linear_in,
    matrix_from_srgb,
    xyz_matrix,
)
from gia_cli.imaging.icc import icc_profile

_GENERATOR = runpy.run_path(
    str(Path(__file__).parents[2] / "scripts" / "make_icc_profile.py"), run_name="generator"
)
every = pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)

#: As published: by ITU-R BT.2087 for Rec. 2020, by the CSS Color Module Level 4 for the others.
PUBLISHED: dict[str, list[list[float]]] = {
    "display-p3": [
        [0.8224621, 0.1775380, 0.0],
        [0.0331941, 0.9668058, 0.0],
        [0.0170827, 0.0723974, 0.9105199],
    ],
    "rec2020": [
        [0.6274, 0.3293, 0.0433],
        [0.0691, 0.9195, 0.0114],
        [0.0164, 0.0880, 0.8956],
    ],
    "prophoto": [
        [0.5292806, 0.3301530, 0.1405664],
        [0.0983662, 0.8734639, 0.0281699],
        [0.0168754, 0.1176594, 0.8654652],
    ],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_matrices_are_the_published_ones(name: str) -> None:
    space = next(space for space in SPACES.values() if space.name == name)
    assert matrix_from_srgb(space) == pytest.approx(np.array(PUBLISHED[name]), abs=2e-4)


@every
def test_white_stays_white(space: ColorSpace) -> None:
    assert matrix_from_srgb(space).sum(axis=1) == pytest.approx(1, abs=1e-9)


def test_bradford_brings_d65_to_iccs_d50() -> None:
    adapted = adaptation(SRGB.white) @ xyz_matrix(SRGB).sum(axis=1)
    assert adapted == pytest.approx([0.9642, 1.0, 0.8251], abs=3e-4)
    assert adaptation(PROPHOTO.white) == pytest.approx(np.eye(3), abs=1e-12)


@every
def test_each_curve_is_undone(space: ColorSpace) -> None:
    codes = np.linspace(0, 1, 4097)
    assert space.encode(space.decode(codes)) == pytest.approx(codes, abs=2e-6)
    assert np.all(np.diff(space.decode(codes)) > 0)


@every
def test_greys_are_the_curves_alone(space: ColorSpace) -> None:
    grey = np.linspace(0, 1, 50)
    picture = np.stack([bt709_encode(grey)] * 3)
    expected = 65535 * space.encode(grey)
    # Near black ProPhoto's exponent is steep: rounding of floats is some levels there.
    assert np.abs(levels16_in(picture, space)[:, 1:] - expected[1:]).max() <= 1.5


def _picture(rng: np.random.Generator) -> NDArray[np.float32]:
    """Colours of Rec. 2020, most of which sRGB lacks."""
    linear = rng.random((3, 400)) ** 2
    return bt709_encode(np.linalg.inv(matrix_from_srgb(REC2020)) @ linear)


def test_colours_outside_srgb_survive_where_there_is_room(rng: np.random.Generator) -> None:
    picture = _picture(rng)
    outside = (picture < -0.02).any(axis=0)
    assert outside.mean() > 0.2
    for space in (REC2020, PROPHOTO):
        light = space.decode(levels16_in(picture, space) / 65535)
        back = bt709_encode(np.linalg.inv(matrix_from_srgb(space)) @ light)
        # ProPhoto just misses the deepest blues of Rec. 2020.
        assert np.abs(back - picture).max() < (2e-4 if space == REC2020 else 4e-3)
    clipped = srgb16_from_bt709(picture)
    assert (clipped.min(axis=0)[outside] == 0).all()


def test_a_green_of_p3_is_pure_there_and_mixed_in_a_wider_space() -> None:
    picture = bt709_encode(np.linalg.inv(matrix_from_srgb(DISPLAY_P3))[:, 1:2])
    assert picture[1, 0] > 1.01 and picture[::2, 0].max() < -0.3
    assert levels16_in(picture, DISPLAY_P3)[:, 0] == pytest.approx([0, 65535, 0], abs=2)
    assert levels16_in(picture, REC2020).min() > 0


def test_linear_light_is_not_clipped() -> None:
    picture = bt709_encode(np.array([[2.5], [0.5], [-0.1]]))
    assert linear_in(picture, SRGB)[:, 0] == pytest.approx([2.5, 0.5, -0.1], abs=1e-4)


# ---------------------------------------------------------------- the profiles


@pytest.mark.parametrize("linear", [False, True])
@every
def test_the_profiles_are_what_their_numbers_say(space: ColorSpace, linear: bool) -> None:
    data = icc_profile(space.name, linear=linear)
    assert data == _GENERATOR["profile"](space, linear=linear)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    title = ImageCms.getProfileDescription(profile)
    assert space.title.split()[0] in title and ("linear" in title) == linear
    inner = profile.profile
    channels = (inner.red_colorant, inner.green_colorant, inner.blue_colorant)
    total = np.sum([channel[0] for channel in channels if channel], axis=0)
    assert total == pytest.approx([0.9642, 1.0, 0.8249], abs=3e-4)


@every
def test_littlecms_finds_the_same_colours_by_the_profile(
    space: ColorSpace, rng: np.random.Generator
) -> None:
    """From our levels, by the very profile, to LittleCMS's own sRGB."""
    imagecodecs = pytest.importorskip("imagecodecs")
    linear = rng.random((3, 40, 50)) ** 2
    levels = levels16_in(bt709_encode(linear), space).transpose(1, 2, 0).copy()
    converted = imagecodecs.cms_transform(
        (levels / 65535).astype(np.float32),  # with whole numbers LittleCMS interpolates a table
        icc_profile(space.name),
        imagecodecs.cms_profile("srgb"),
        colorspace="rgb",
        outcolorspace="rgb",
    )
    error = 255 * np.abs(converted.transpose(2, 0, 1) - srgb_encode(linear))
    assert error.mean() < 0.05
    assert error[:, linear.min(axis=0) > 0.01].max() < 0.3
