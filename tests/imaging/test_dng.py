"""Linear DNG: other programs make gia's own picture of it, and can still balance and expose it."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rawpy
from numpy.typing import NDArray
from PIL import Image

from gia_cli.cameras import A7S2_MATRIX
from gia_cli.errors import OutputError
from gia_cli.imaging import dng
from gia_cli.imaging.color import bt709_decode, bt709_encode, camera_from_srgb
from gia_cli.imaging.dng import digest, write_linear_dng
from gia_cli.raw.exif import ShotInfo, read_shot
from gia_cli.raw.tiff import Directory, walk

GAINS = np.array([2.02, 1.0, 2.46])
MATRIX = np.array(A7S2_MATRIX)
SHOT = ShotInfo(
    make="SONY",
    model="ILCE-7SM2",
    lens="Zoë 50",
    exposure_s=0.1,
    iso=1600,
    taken="2026:11:29 21:00:00",
)
# Of linear light: LibRaw rounds the balanced levels to 16 bits, and so do we.
ROUNDING = 4 / 65535


@pytest.fixture
def picture(rng: np.random.Generator) -> NDArray[np.float32]:
    """One with every colour that the camera can tell apart, larger than a tile, (3, 270, 301)."""
    coarse = rng.random((3, 9, 10)).repeat(30, 1).repeat(31, 2)[:, :, :301]
    return (0.25 + 0.6 * coarse + 0.02 * rng.random(coarse.shape)).astype(np.float32)


def write(path: Path, picture: NDArray[np.float32], **changes: Any) -> Path:
    options: dict[str, Any] = {"gains": GAINS, "xyz_to_camera": MATRIX, "shot": SHOT}
    write_linear_dng(path, picture, **options | changes)
    return path


def rendered(path: Path, **options: Any) -> NDArray[np.float64]:
    """LibRaw's rendering, linear (H, W, 3)."""
    plain: dict[str, Any] = {"use_camera_wb": True, "no_auto_bright": True, "output_bps": 16}
    with rawpy.imread(str(path)) as raw:
        levels = raw.postprocess(gamma=(1, 1), **plain | options)
    return levels / 65535


def linear(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return bt709_decode(picture).transpose(1, 2, 0)


def directories(path: Path) -> list[Directory]:
    with path.open("rb") as file:
        return walk(file)


@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize("gains", [GAINS, np.array([0.8, 1.0, 3.3])])
@pytest.mark.parametrize("matrix", [MATRIX, None])
def test_libraw_renders_the_picture_back(
    tmp_path: Path,
    picture: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    is_compressed: bool,
    gains: NDArray[np.float64],
    matrix: NDArray[np.float64] | None,
) -> None:
    if is_compressed:
        pytest.importorskip("imagecodecs")
    else:
        monkeypatch.setattr(dng, "_codecs", lambda: None)
    path = write(tmp_path / "x.dng", picture, gains=gains, xyz_to_camera=matrix)
    off = np.abs(rendered(path) - linear(picture))
    assert off.max() < ROUNDING * gains.max() / gains.min()


def test_the_balance_can_still_be_moved(tmp_path: Path, picture: NDArray[np.float32]) -> None:
    """As if the photo had been taken as a RAW with three values at every place."""
    path = write(tmp_path / "x.dng", picture)
    cooler = GAINS * [0.7, 1, 1.3]
    as_shot, other = (
        rendered(path, use_camera_wb=False, user_wb=[*gains[[0, 1, 2]], gains[1]], bright=0.5)
        for gains in (GAINS, cooler)
    )
    to_camera = camera_from_srgb(MATRIX)
    camera = as_shot @ to_camera.T * (cooler / cooler.min()) / (GAINS / GAINS.min())
    expected = camera @ np.linalg.inv(to_camera).T
    inside = (expected > 0.01).all(axis=2) & (expected < 0.45).all(axis=2)
    assert inside.mean() > 0.3
    assert np.abs(other - expected)[inside].max() < 3e-4


def test_highlights_above_white_are_kept(tmp_path: Path, picture: NDArray[np.float32]) -> None:
    bright = bt709_encode(2.5 * bt709_decode(picture))
    assert bright.max() > 1.2
    path = write(tmp_path / "x.dng", bright)
    (exposure,) = {d.numbers[0xC62A][0] for d in directories(path) if 0xC62A in d.numbers}
    headroom = 2 ** float(exposure)
    assert 1.1 < headroom <= 4
    found, expected = rendered(path) * headroom, linear(bright)
    inside = expected < headroom  # what is more colourful is clipped to sRGB's white by LibRaw
    assert (expected[inside] > 1).mean() > 0.1
    assert np.abs(found - expected)[inside].max() < 3 * ROUNDING * headroom
    plain = write(tmp_path / "plain.dng", picture)
    assert {d.numbers[0xC62A][0] for d in directories(plain) if 0xC62A in d.numbers} == {0}


@pytest.mark.parametrize(("flip", "orientation"), [(0, 1), (3, 3), (5, 8), (6, 6)])
def test_a_turn_is_a_tag(
    tmp_path: Path, picture: NDArray[np.float32], flip: int, orientation: int
) -> None:
    path = write(tmp_path / "x.dng", picture, flip=flip)
    with rawpy.imread(str(path)) as raw:
        assert raw.sizes.flip == flip
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == orientation
    turned = rendered(path)
    upright = np.rot90(linear(picture), {0: 0, 3: 2, 5: 1, 6: 3}[flip])
    assert np.abs(turned - upright).max() < 3 * ROUNDING


def test_pixels_that_are_not_square_are_said_to_be(
    tmp_path: Path, picture: NDArray[np.float32]
) -> None:
    for aspect in (0.5, 1.0, 1.25):
        with rawpy.imread(str(write(tmp_path / "x.dng", picture, pixel_aspect=aspect))) as raw:
            assert raw.sizes.pixel_aspect == pytest.approx(aspect, rel=1e-5)


def test_what_the_file_says(tmp_path: Path, picture: NDArray[np.float32]) -> None:
    path = write(tmp_path / "x.dng", picture, software="gia 9", comment="why", original="a.ARW")
    assert read_shot(path) == SHOT
    data = path.read_bytes()
    for words in (b"gia 9", b"ASCII\0\0\0why", b"a.ARW", b"SONY ILCE-7SM2", "Zoë 50".encode()):
        assert words in data
    first = directories(path)[0]
    assert first.numbers[0xC6F7] == (1.0,)  # NoiseReductionApplied
    assert first.first(0xC65A) == 21  # CalibrationIlluminant1: D65


def test_the_previews_show_the_picture(tmp_path: Path, picture: NDArray[np.float32]) -> None:
    """The enhanced one, and not the dark photo's."""
    path = write(tmp_path / "x.dng", picture)
    expected = picture.mean(axis=(1, 2))
    with Image.open(path) as thumbnail:
        assert thumbnail.size == (256, 230)
        assert np.asarray(thumbnail).mean(axis=(0, 1)) / 255 == pytest.approx(expected, abs=0.05)
    with rawpy.imread(str(path)) as raw:
        thumb = raw.extract_thumb()
    assert thumb.format == rawpy.ThumbFormat.JPEG
    with Image.open(io.BytesIO(bytes(thumb.data))) as image:
        assert image.size == (301, 270)
        assert np.asarray(image).mean(axis=(0, 1)) / 255 == pytest.approx(expected, abs=0.05)


def test_the_digest_is_adobes() -> None:
    """Adobe's DNG SDK 1.7.1 wrote this one for these pixels."""
    pixels = np.arange(3 * 300 * 400, dtype=np.uint32).reshape(300, 400, 3) * 2654435761 >> 16
    assert digest(pixels.astype(np.uint16)).hex() == "e285b47b6e84beecb4e286fd0b504602"


def test_adobes_sdk_reads_the_pixels(tmp_path: Path, picture: NDArray[np.float32]) -> None:
    dngpy = pytest.importorskip("dngpy")
    path = write(tmp_path / "x.dng", picture)
    file = dngpy.Dng(str(path))
    neutral = np.array(file.get_white_balance())
    assert neutral == pytest.approx(1 / GAINS, rel=1e-5)
    camera = bt709_decode(picture).transpose(1, 2, 0) @ camera_from_srgb(MATRIX).T / GAINS
    assert np.abs(file.raw_pixels / 65535 - camera).max() < 1 / 65535
    assert file.save(str(tmp_path / "again.dng")) == dngpy.ErrorCode.NONE
    ours, theirs = (
        {bytes(d.tags[0xC7A7]) for d in directories(p) if 0xC7A7 in d.tags}
        for p in (path, tmp_path / "again.dng")
    )
    assert ours == theirs


def test_nothing_is_left_of_a_file_that_cannot_be_written(
    tmp_path: Path, picture: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    (tmp_path / "x.dng").write_bytes(b"before")
    monkeypatch.setattr(dng, "digest", fail)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "x.dng", picture)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_tiles_are_compressed_in_half_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imagecodecs")
    rows, columns = np.mgrid[:512, :512] / 512
    picture = np.stack([rows, columns, (rows + columns) / 2]).astype(np.float32)
    packed = write(tmp_path / "packed.dng", picture).stat().st_size
    monkeypatch.setattr(dng, "_codecs", lambda: None)
    plain = write(tmp_path / "plain.dng", picture).stat().st_size
    assert plain > 6 * 512**2
    assert packed < plain / 2
    assert struct.unpack("<2sH", (tmp_path / "plain.dng").read_bytes()[:4]) == (b"II", 42)


@pytest.mark.parametrize("size", [(23, 30), (30, 23), (40, 100), (300, 33), (33, 300)])
def test_pictures_of_every_size_are_read(
    tmp_path: Path, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    """LibRaw misreads tiles that are wider than the picture."""
    picture = (0.3 + 0.4 * rng.random((3, *size))).astype(np.float32)
    path = write(tmp_path / "x.dng", picture, xyz_to_camera=None)
    assert np.abs(rendered(path) - linear(picture)).max() < 3 * ROUNDING
