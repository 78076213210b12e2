"""One picture in every format: each is converted back by what it says of its own colours."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import exifread
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from gia_cli.errors import UsageError
from gia_cli.files import OutputFormat
from gia_cli.imaging.color import XYZ_FROM_SRGB, bt709_encode, levels8, srgb_encode
from gia_cli.imaging.color_space import REC2020, SPACES, matrix_from_srgb
from gia_cli.imaging.icc import icc_profile, srgb_icc_profile
from gia_cli.imaging.save import require_format, save_pixels, saving_bytes
from gia_cli.imaging.save_options import ColorSpaceName, SaveOptions
from gia_cli.imaging.writer import FORMATS, Pixels, develop, develop_linear
from gia_cli.raw.exif import MoreExif
from gia_cli.raw.tiff import ASCII, RATIONAL, Entry
from tests.imaging.test_jpeg import XMP
from tests.imaging.test_writer import SHOT, _read_png

imagecodecs = pytest.importorskip("imagecodecs")
OpenEXR = pytest.importorskip("OpenEXR")

Light = NDArray[np.float64]
SIZE = 48, 64
NAMES: tuple[ColorSpaceName, ...] = get_args(ColorSpaceName)


def _light(*, wide: bool = False) -> Light:
    """Linear sRGB, (H, W, 3): patches of colours, with greens and reds beyond sRGB if wide."""
    rng = np.random.default_rng(3)
    patches = rng.random((6, 8, 3)) ** 1.5 * 0.8 + 0.05
    if wide:
        patches = patches @ np.linalg.inv(matrix_from_srgb(REC2020)).T
    return patches.repeat(8, axis=0).repeat(8, axis=1)


def _save(path: Path, light: Light, options: SaveOptions) -> None:
    picture = bt709_encode(light).transpose(2, 0, 1)
    space, kind = SPACES[options.color_space], FORMATS[path.suffix]
    pixels: Pixels
    if options.is_linear(kind):
        pixels = develop_linear(picture, 0, space=space)
    else:
        levels = develop(picture, 0, space=space)
        pixels = levels8(levels) if options.depth(kind) == 8 else levels
    save_pixels(path, pixels, options, shot=SHOT, comment="gia")


def _by_profile(pixels: NDArray[Any], profile: bytes) -> Light:
    """Linear sRGB by a file's own profile, as LittleCMS has it; not clipped."""
    most = 1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max
    linear: NDArray[np.float32] = imagecodecs.cms_transform(
        (pixels / most).astype(np.float32),
        profile,
        icc_profile("srgb", linear=True),
        colorspace="rgb",
        outcolorspace="rgb",
    )
    return linear.astype(np.float64)


def _by_primaries(linear: Light, told: NDArray[np.floating]) -> Light:
    """Linear sRGB of linear light whose red, green, blue and white have these x, y (D65)."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in told])
    to_xyz = xyz[:3].T * np.linalg.solve(xyz[:3].T, xyz[3])
    return linear @ np.linalg.solve(XYZ_FROM_SRGB, to_xyz).T


def _read(path: Path, space: ColorSpaceName) -> Light:
    """Linear sRGB of a file, by what it says of its colours."""
    if path.suffix == ".exr":
        with OpenEXR.File(str(path)) as file:
            pixels = file.channels()["RGB"].pixels.astype(np.float64)
            return _by_primaries(pixels, np.reshape(file.header()["chromaticities"], (4, 2)))
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            return _by_profile(page.asarray(), bytes(page.tags.valueof("InterColorProfile")))
    if path.suffix == ".jxl":  # libjxl decodes to the space that the header names
        return _by_profile(imagecodecs.jpegxl_decode(path.read_bytes()), icc_profile(space))
    with Image.open(path) as image:
        profile = bytes(image.info["icc_profile"])
        pixels8 = np.asarray(image)
    is_deep = path.suffix == ".png" and path.read_bytes()[24] == 16
    return _by_profile(_read_png(path) if is_deep else pixels8, profile)


#: Greatest and mean error in 255 levels of sRGB: of rounding with 16 and with 8 bits, of halves,
#: and of compression at the default quality.
FILES: list[tuple[str, dict[str, Any], float, float]] = [
    ("tif", {}, 0.1, 0.02),
    ("tif", {"bit_depth": 8}, 3, 0.5),
    ("tif", {"bit_depth": 32}, 0.1, 0.02),
    ("png", {}, 0.1, 0.02),
    ("png", {"bit_depth": 8}, 3, 0.5),
    ("jpg", {"jpeg_quality": 100}, 9, 1.2),
    ("jxl", {"jxl_distance": 0.0}, 0.1, 0.02),
    ("jxl", {"bit_depth": 8, "jxl_distance": 0.0}, 3, 0.5),
    ("jxl", {"jxl_distance": 0.2}, 12, 1.5),
    ("exr", {}, 0.2, 0.02),
    ("exr", {"bit_depth": 32}, 0.1, 0.02),
]
each = pytest.mark.parametrize(("kind", "options", "most", "mean"), FILES)


# An EXR in ProPhoto has another white: there the matrix is tested, in test_color_space.py.
@pytest.mark.parametrize(
    ("kind", "options", "most", "mean", "space"),
    [
        (*file, space)
        for file in FILES
        for space in NAMES
        if (file[0], space) != ("exr", "prophoto")
    ],
)
def test_every_format_shows_the_same_colours(
    tmp_path: Path,
    kind: OutputFormat,
    options: dict[str, Any],
    most: float,
    mean: float,
    space: ColorSpaceName,
) -> None:
    _save(tmp_path / f"x.{kind}", _light(), SaveOptions(color_space=space, **options))
    back = _read(tmp_path / f"x.{kind}", space)
    error = 255 * np.abs(srgb_encode(back) - srgb_encode(_light()))
    assert error.mean() < mean
    assert np.quantile(error, 0.995) < most


@each
def test_colours_outside_srgb_survive_in_rec2020(
    tmp_path: Path, kind: OutputFormat, options: dict[str, Any], most: float, mean: float
) -> None:
    light = _light(wide=True)
    outside = (light < -0.01).any(axis=2)
    assert outside.mean() > 0.2
    _save(tmp_path / f"x.{kind}", light, SaveOptions(color_space="rec2020", **options))
    back = _read(tmp_path / f"x.{kind}", "rec2020")
    # Linear: no curve goes below black.
    assert np.abs(back - light)[outside].mean() < mean / 100
    assert back[outside].min(axis=1) == pytest.approx(light[outside].min(axis=1), abs=most / 60)


@pytest.mark.parametrize("kind", ["exr", "tif"])
def test_linear_light_keeps_all_in_srgb_too(tmp_path: Path, kind: str) -> None:
    light = 3 * _light(wide=True)
    assert light.max() > 2 and light.min() < -0.1
    _save(tmp_path / f"x.{kind}", light, SaveOptions(bit_depth=32))
    assert _read(tmp_path / f"x.{kind}", "srgb") == pytest.approx(light, abs=2e-3)


def test_srgb_of_16_bits_is_tagged_as_before(tmp_path: Path) -> None:
    _save(tmp_path / "x.tif", _light(), SaveOptions())
    with tifffile.TiffFile(tmp_path / "x.tif") as tif:
        page = tif.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        assert page.dtype == np.uint16 and page.predictor == 2
        assert bytes(page.tags.valueof("InterColorProfile")) == srgb_icc_profile()


@pytest.mark.parametrize(("kind", "package"), [("exr", "OpenEXR"), ("jxl", "imagecodecs")])
def test_a_missing_package_is_named_before_the_work(
    kind: OutputFormat, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_format(kind, SaveOptions())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=package):
        require_format(kind, SaveOptions())
    require_format("tif", SaveOptions())


def test_an_option_of_another_format_is_refused_before_the_work() -> None:
    with pytest.raises(UsageError, match=re.escape("--jxl-distance is not for TIFF files")):
        require_format("tif", SaveOptions(jxl_distance=1.0))


def test_the_memory_of_saving_grows_with_what_is_made() -> None:
    def needed(kind: OutputFormat, **options: Any) -> int:
        return saving_bytes(kind, SaveOptions(**options), 1_000_000) // 1_000_000

    assert needed("tif") == needed("png") == 0  # strips
    assert needed("tif", color_space="rec2020") == 6
    assert needed("tif", bit_depth=32) == 12
    assert needed("jpg") == 14
    assert needed("exr") == 23 < needed("exr", bit_depth=32)
    assert needed("jxl", color_space="rec2020") == needed("jxl") + 6
    efforts = [needed("jxl", jxl_effort=effort) for effort in range(1, 10)]
    assert efforts == sorted(efforts) and efforts[4] == needed("jxl") < efforts[8]


@pytest.mark.parametrize("kind", ["tif", "png", "jpg", "jxl", "exr"])
def test_place_author_and_xmp_ride_along_in_every_format(
    tmp_path: Path, kind: OutputFormat
) -> None:
    gps = (
        Entry(1, ASCII, b"S"),
        Entry(2, RATIONAL, [(33, 1), (51, 1), (36, 1)]),
        Entry(3, ASCII, b"E"),
        Entry(4, RATIONAL, [(151, 1), (12, 1), (0, 1)]),
    )
    shot = replace(SHOT, more=MoreExif(first=(Entry(0x8298, ASCII, b"Me"),), gps=gps))
    path, options = tmp_path / f"x.{kind}", SaveOptions()
    light = np.zeros((16, 16, 3), np.float32)
    pixels: Pixels = light if kind == "exr" else light.astype(np.uint16)
    save_pixels(
        path, pixels.astype(np.uint8) if kind == "jpg" else pixels, options, shot=shot, xmp=XMP
    )
    data = path.read_bytes()
    assert XMP in data
    if kind == "exr":
        with OpenEXR.File(str(path)) as file:
            header = dict(file.header())
        assert header["latitude"] == pytest.approx(-33.86)
        assert header["longitude"] == pytest.approx(151.2)
        return
    start = {"tif": b"II*\0", "png": b"eXIf", "jpg": b"Exif\0\0", "jxl": b"Exif\0\0\0\0"}[kind]
    at = data.index(start) + (0 if kind == "tif" else len(start))
    tags = exifread.process_file(io.BytesIO(data[at:]))
    assert str(tags["GPS GPSLatitude"]) == "[33, 51, 36]"
    assert str(tags["GPS GPSLatitudeRef"]) == "S"
    assert str(tags["Image Copyright"]) == "Me"
