from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gia_cli.errors import UsageError
from gia_cli.imaging.color_space import DISPLAY_P3, SRGB
from gia_cli.imaging.icc import icc_profile
from gia_cli.imaging.jpeg import write_jpeg
from gia_cli.raw.exif import read_shot
from tests.imaging.test_writer import SHOT

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'


def _levels() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rows, cols = np.mgrid[:40, :60]
    return np.stack([rows * 5, cols * 4, rows + cols], -1).astype(np.uint8)


def test_a_jpeg_has_pixels_profile_exif_and_xmp(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    write_jpeg(path, _levels(), space=DISPLAY_P3, shot=SHOT, comment="gia", xmp=XMP)
    with Image.open(path) as image:
        assert image.format == "JPEG" and image.size == (60, 40)
        assert np.abs(np.asarray(image, int) - _levels()).max() <= 6
        assert image.info["icc_profile"] == icc_profile("display-p3")
        assert image.info["xmp"] == XMP
        exif = image.getexif()
        assert exif[0x0112] == 1 and exif[0x0131] == "gia"
        more = exif.get_ifd(0x8769)
        assert (more[0xA001], more[0xA002], more[0xA003]) == (0xFFFF, 60, 40)
    assert read_shot(path) == SHOT
    write_jpeg(path, _levels(), space=SRGB)
    with Image.open(path) as image:
        assert image.getexif().get_ifd(0x8769)[0xA001] == 1


def test_quality_and_subsampling_are_libjpegs(tmp_path: Path, rng: np.random.Generator) -> None:
    levels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    write_jpeg(tmp_path / "a.jpg", levels, quality=75, subsampling="4:2:0")
    expected = io.BytesIO()
    Image.fromarray(levels).save(expected, "JPEG", quality=75, subsampling=2)
    with Image.open(tmp_path / "a.jpg") as ours, Image.open(expected) as theirs:
        assert ours.quantization == theirs.quantization  # type: ignore[attr-defined]
        assert ours.layer == theirs.layer  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    sizes = []
    for quality in (30, 75, 98):
        write_jpeg(tmp_path / "b.jpg", levels, quality=quality)
        sizes.append((tmp_path / "b.jpg").stat().st_size)
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] / 2


def test_what_a_jpeg_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="65500 pixels"):
        write_jpeg(tmp_path / "x.jpg", np.zeros((1, 65_501, 3), np.uint8))
    assert not list(tmp_path.iterdir())
    write_jpeg(tmp_path / "x.jpg", _levels(), xmp=XMP.ljust(70_000))  # the picture matters more
    with Image.open(tmp_path / "x.jpg") as image:
        assert "xmp" not in image.info
