from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.errors import UsageError
from gia_cli.imaging.color_space import REC2020
from gia_cli.imaging.exr import _place, write_exr
from gia_cli.imaging.save_options import ExrCompression
from gia_cli.raw.tiff import ASCII, BYTE, LONG, RATIONAL, Entry, Ref, build
from tests.imaging.test_jpeg import XMP
from tests.imaging.test_writer import SHOT

OpenEXR = pytest.importorskip("OpenEXR")


def _read(path: Path) -> tuple[NDArray[np.floating], dict[str, Any]]:
    with OpenEXR.File(str(path)) as file:
        return file.channels()["RGB"].pixels.copy(), dict(file.header())


def _light(rng: np.random.Generator) -> NDArray[np.float32]:
    """Also below black and above white."""
    return rng.normal(0.5, 1, (21, 35, 3)).astype(np.float32)


@pytest.mark.parametrize("bits", [16, 32])
def test_nothing_is_clipped(tmp_path: Path, rng: np.random.Generator, bits: int) -> None:
    light = _light(rng)
    write_exr(tmp_path / "x.exr", light, bits=bits)
    pixels, header = _read(tmp_path / "x.exr")
    assert pixels.dtype == (np.float16 if bits == 16 else np.float32)
    assert np.array_equal(pixels, light.astype(pixels.dtype))
    assert pixels.min() < -1 and pixels.max() > 2
    assert header["compression"] == OpenEXR.ZIP_COMPRESSION


def test_half_floats_stay_finite(tmp_path: Path) -> None:
    write_exr(tmp_path / "x.exr", np.full((2, 2, 3), 1e6, np.float32))
    assert (_read(tmp_path / "x.exr")[0] == 65504).all()


@pytest.mark.parametrize("compression", get_args(ExrCompression))
def test_compressions_have_openexrs_names(
    tmp_path: Path, rng: np.random.Generator, compression: ExrCompression
) -> None:
    light = np.abs(_light(rng))
    write_exr(tmp_path / "x.exr", light, compression=compression)
    pixels, header = _read(tmp_path / "x.exr")
    name = header["compression"].name.removesuffix("_COMPRESSION").lower()
    assert name == ("no" if compression == "none" else compression)
    has_loss = compression in ("b44", "b44a", "dwaa", "dwab")
    assert np.abs(pixels - light).max() < (1 if has_loss else 2e-3)


def test_the_facts_of_the_shot_are_standard_attributes(tmp_path: Path) -> None:
    light = np.zeros((2, 3, 3), np.float32)
    path = tmp_path / "x.exr"
    write_exr(path, light, space=REC2020, shot=SHOT, software="gia 1", comment="c", xmp=XMP)
    _, header = _read(path)
    expected = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290)
    assert header["chromaticities"] == pytest.approx(expected)
    assert header["expTime"] == pytest.approx(SHOT.exposure_s)
    assert header["isoSpeed"] == SHOT.iso
    assert header["aperture"] == pytest.approx(SHOT.aperture)
    assert header["nominalFocalLength"] == SHOT.focal_mm
    texts = {"cameraMake": SHOT.make, "cameraModel": SHOT.model, "lensModel": SHOT.lens}
    texts |= {"capDate": SHOT.taken, "software": "gia 1", "comments": "c", "xmp": XMP.decode()}
    assert {name: header[name] for name in texts} == texts
    assert "latitude" not in header and "owner" not in header


@pytest.mark.parametrize(("south", "west", "below"), [(False, False, False), (True, True, True)])
def test_the_place_is_in_degrees(south: bool, west: bool, below: bool) -> None:
    gps = [
        Entry(1, ASCII, "S" if south else "N"),
        Entry(2, RATIONAL, [(33, 1), (51, 1), (3600, 100)]),
        Entry(3, ASCII, "W" if west else "E"),
        Entry(4, RATIONAL, [(151, 1), (12, 1), (0, 1)]),
        Entry(5, BYTE, [int(below)]),
        Entry(6, RATIONAL, (125, 10)),
    ]
    block = build({"ifd0": [Entry(0x8825, LONG, Ref("gps"))], "gps": gps})
    place = dict(_place(block))
    assert place["latitude"] == pytest.approx(33.86 * (-1 if south else 1))
    assert place["longitude"] == pytest.approx(151.2 * (-1 if west else 1))
    assert place["altitude"] == pytest.approx(-12.5 if below else 12.5)


def test_a_place_that_is_not_known_is_left_out() -> None:
    unknown = [Entry(2, RATIONAL, [(1, 0), (0, 0), (0, 1)]), Entry(4, RATIONAL, [(1, 1)])]
    wrong = [Entry(2, ASCII, "here"), Entry(6, ASCII, "high")]
    for gps in (unknown, wrong):
        block = build({"ifd0": [Entry(0x8825, LONG, Ref("gps"))], "gps": gps})
        assert dict(_place(block)) == {}
    assert dict(_place(build({"ifd0": []}))) == {}


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(UsageError, match="OpenEXR") as caught:
        write_exr(tmp_path / "x.exr", np.zeros((2, 2, 3), np.float32))
    assert "[exr]" in caught.value.hint
    assert not list(tmp_path.iterdir())
