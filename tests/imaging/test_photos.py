"""Photographs: found, read upright as sRGB, shrunk in linear light."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gia_cli.errors import DataError
from gia_cli.imaging.color import srgb_decode
from gia_cli.imaging.photos import PHOTO_SUFFIXES, find_photos, read_photo, shrink


@pytest.fixture
def photo(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (12, 18, 3)).astype(np.uint8)


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


# ---------------------------------------------------------------- find


def test_photos_are_found_in_all_subfolders_sorted(tmp_path: Path) -> None:
    wanted = []
    for index, suffix in enumerate(sorted(PHOTO_SUFFIXES)):
        for name in (f"a{index}{suffix}", f"deep/er/b{index}{suffix.upper()}"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            wanted.append(path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "night.ARW").touch()
    assert find_photos([tmp_path]) == sorted(wanted)


def test_folders_may_overlap_and_files_stand_for_themselves(tmp_path: Path) -> None:
    for name in ("a.jpg", "in/b.png", "in/c.photo"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inner = tmp_path / "in"
    found = find_photos([inner, tmp_path, inner / "c.photo"])
    assert found == [tmp_path / "a.jpg", inner / "b.png", inner / "c.photo"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"no folder .*nowhere") as caught:
        find_photos([tmp_path, tmp_path / "nowhere"])
    assert caught.value.exit_code == 70


def test_folders_that_may_not_be_read_are_all_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network must not be trained on a part of its photographs without a word."""
    for name in ("a", "b/closed", "c/closed"):
        save(tmp_path / name / "x.png", np.zeros((4, 4, 3), np.uint8))
    scandir = os.scandir

    def denied(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"b/closed \(Permission.*c/closed \(Perm") as caught:
        find_photos([tmp_path])
    assert caught.value.exit_code == 70
    assert find_photos([tmp_path / "a"]) == [tmp_path / "a" / "x.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_is_no_photograph(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg is a pipe"):
        find_photos([tmp_path / "a.jpg"])
    with pytest.raises(DataError, match="no photograph"):
        find_photos([tmp_path])
    with pytest.raises(DataError, match="not a regular file"):
        read_photo(tmp_path / "a.jpg")


def test_folders_without_photographs_are_named(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "x.txt").touch()
    with pytest.raises(DataError, match=r"no photograph in .*a, .*b") as caught:
        find_photos(folders)
    assert "JPEG" in caught.value.hint


# ---------------------------------------------------------------- read


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_lossless_picture_is_read_exactly(
    tmp_path: Path, photo: NDArray[np.uint8], suffix: str
) -> None:
    found = read_photo(save(tmp_path / f"x{suffix}", photo))
    assert found.dtype == np.uint8
    assert np.array_equal(found, photo)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_lossy_picture_is_read_nearly(tmp_path: Path, suffix: str) -> None:
    rows, cols = np.mgrid[:32, :48]
    smooth = np.stack([rows * 5, cols * 4, rows + cols], 2).astype(np.uint8)
    found = read_photo(save(tmp_path / f"x{suffix}", smooth, quality=95))
    assert found.shape == smooth.shape
    assert np.abs(found.astype(int) - smooth).mean() < 3


TURNED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p[::-1].swapaxes(0, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_counts(
    tmp_path: Path, photo: NDArray[np.uint8], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_photo(save(tmp_path / "x.png", photo, exif=exif))
    assert np.array_equal(found, TURNED[orientation](photo))


def test_a_grey_picture_gets_three_equal_channels(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    found = read_photo(save(tmp_path / "x.png", photo[..., 0]))
    assert np.array_equal(found, photo[..., :1].repeat(3, 2))


def test_an_alpha_channel_is_dropped(
    tmp_path: Path, photo: NDArray[np.uint8], rng: np.random.Generator
) -> None:
    alpha = rng.integers(0, 256, (*photo.shape[:2], 1)).astype(np.uint8)
    path = save(tmp_path / "x.png", np.concatenate([photo, alpha], 2))
    assert np.array_equal(read_photo(path), photo)


def test_a_palette_becomes_colours(tmp_path: Path) -> None:
    colors = np.array([[[255, 0, 0], [0, 128, 255]]], np.uint8).repeat(4, 0)
    Image.fromarray(colors).quantize(2).save(tmp_path / "x.png")
    assert np.abs(read_photo(tmp_path / "x.png").astype(int) - colors).max() <= 1


def test_of_an_animation_the_first_picture_is_read(
    tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    second = Image.fromarray(255 - photo)
    path = save(tmp_path / "x.tif", photo, save_all=True, append_images=[second])
    assert np.array_equal(read_photo(path), photo)


def test_a_name_without_an_ending_does_not_matter(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    path = save(tmp_path / "x.png", photo).rename(tmp_path / "picture")
    assert np.array_equal(read_photo(path), photo)


def test_a_missing_photograph_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg cannot be read: there is no such file"):
        read_photo(tmp_path / "none.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("keep", [0.05, 0.5])
def test_a_broken_photograph_is_named(
    tmp_path: Path, rng: np.random.Generator, suffix: str, keep: float
) -> None:
    path = save(tmp_path / f"x{suffix}", rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="not a picture, is damaged") as caught:
        read_photo(path)
    assert str(path) in caught.value.message


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("a letter")
    with pytest.raises(DataError, match="not a picture"):
        read_photo(tmp_path / "x.jpg")
    with pytest.raises(DataError, match="cannot be read"):
        read_photo(tmp_path)


# ---------------------------------------------------------------- shrink


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_blocks_are_averaged_in_linear_light(photo: NDArray[np.uint8], factor: int) -> None:
    found = shrink(photo, factor)
    linear = srgb_decode(photo / 255)
    height, width = photo.shape[0] // factor, photo.shape[1] // factor
    blocks = linear[: height * factor, : width * factor]
    wanted = blocks.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert np.allclose(found, wanted, atol=1e-6)


def test_black_stays_black_and_white_white() -> None:
    for level in (0, 255):
        assert np.all(shrink(np.full((9, 9, 3), level, np.uint8), 4) == level / 255)


def test_shrinking_averages_light_not_code_values() -> None:
    """Half black, half white is half the light: sRGB 188, not 128."""
    board = np.zeros((4, 4, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    assert np.allclose(shrink(board, 2), 0.5)


def test_grey_of_more_than_eight_bits_is_refused_not_clipped(tmp_path: Path) -> None:
    path = save(tmp_path / "deep.png", np.full((8, 8), 20000, np.uint16))
    with pytest.raises(DataError, match=r"deep\.png cannot be read: it is grey with more than 8"):
        read_photo(path)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"a\.jpg cannot be read: it is empty"):
        read_photo(tmp_path / "a.jpg")


def test_large_photographs_need_no_warning_and_huge_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's limits: above the first it warns, above twice that it refuses."""
    path = save(tmp_path / "a.png", np.zeros((10, 15, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_photo(path).shape == (10, 15, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DataError, match="more than 178 MP"):
        read_photo(path)


def test_a_folder_with_a_photograph_s_name_is_none(tmp_path: Path) -> None:
    (tmp_path / "album.jpg").mkdir()
    path = save(tmp_path / "album.jpg" / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert find_photos([tmp_path]) == [path]
