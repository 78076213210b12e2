"""A photograph to a night and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import rawpy
from numpy.typing import NDArray

from gia_cli.cfa import pack
from gia_cli.color import srgb_decode
from gia_cli.rawfile import write_arw, write_raf
from gia_cli.simulate import CAMERAS, CameraName, expose, mosaic_from_linear, night

WB = (2.0, 1.0, 1.8)
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["ILCE-7SM2", "X-T2"])
def test_a_white_surface_records_the_light(name: CameraName) -> None:
    camera = CAMERAS[name]
    mosaic = mosaic_from_linear(np.ones((12, 12, 3)), camera, WB)
    planes = pack(mosaic, camera.kind)
    assert np.allclose(sorted({round(float(plane[0, 0]), 4) for plane in planes}), [0.5, 0.5556, 1])


@pytest.mark.parametrize("name", ["ILCE-7SM2", "X-T2"])
def test_libraw_renders_the_clean_exposure_back_to_the_photograph(
    tmp_path: Path, name: CameraName
) -> None:
    """Smooth colours, so that demosaicing has nothing to guess: within 1.5 % of full scale."""
    rows, cols = np.mgrid[:520, :520] / 520
    photo = np.stack([60 + 120 * rows, 80 + 100 * cols, 150 - 80 * rows], 2).astype(np.uint8)
    camera = CAMERAS[name]
    clean = mosaic_from_linear(srgb_decode(photo / 255), camera, WB)
    dn = np.rint(np.minimum(clean, 1) * (camera.white - camera.black) + camera.black)
    path = tmp_path / ("x.ARW" if name == "ILCE-7SM2" else "x.RAF")
    write: Any = write_arw if name == "ILCE-7SM2" else write_raf
    write(path, dn.astype(int), wb=WB)
    with rawpy.imread(str(path)) as raw:
        rendered = raw.postprocess(
            use_camera_wb=True, no_auto_bright=True, gamma=(2.4, 12.92), user_sat=camera.white
        )
    inner = slice(8, -8)
    wanted = photo[: rendered.shape[0], : rendered.shape[1]]
    difference = rendered[inner, inner].astype(float) - wanted[inner, inner]
    assert np.abs(difference).mean() < 0.015 * 255


def test_the_night_is_as_dark_as_asked_and_seeded(scene: NDArray[np.uint8]) -> None:
    camera = CAMERAS["ILCE-7SM2"]

    def make(seed: int, ratio: float) -> NDArray[np.uint16]:
        generator = np.random.default_rng(seed)
        return night(scene, "ILCE-7SM2", ratio=ratio, iso=100, wb=WB, rng=generator)

    assert np.array_equal(make(1, 100), make(1, 100))
    assert not np.array_equal(make(1, 100), make(2, 100))
    bright, dark = (make(1, ratio).mean() - camera.black for ratio in (10, 100))
    assert bright / dark == pytest.approx(10, rel=0.05)


def test_exposure_is_clipped_to_the_sensors_range(rng: np.random.Generator) -> None:
    camera = CAMERAS["X-T2"]
    dn = expose(np.full((60, 60), 5.0), camera, ratio=1, iso=12800, rng=rng)
    assert dn.max() == camera.white
    assert dn.dtype == np.uint16


def test_the_samples_are_small_and_say_where_they_come_from() -> None:
    for name in ("night.ARW", "night.RAF"):
        assert (ROOT / "samples" / name).stat().st_size < 2_000_000
    text = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")
    assert "CC0" in text
    assert iio.imread(ROOT / "docs" / "before-after.jpg").ndim == 3
