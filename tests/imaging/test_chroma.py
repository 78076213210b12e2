"""Mottle goes; lightness, edges and a picture without noise stay."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gia_cli.imaging import chroma, fusion
from gia_cli.imaging.chroma import smooth_chroma
from gia_cli.imaging.color import XYZ_FROM_SRGB

LUMA = XYZ_FROM_SRGB[1]


def smoothed(picture: NDArray[np.floating]) -> NDArray[np.float32]:
    changed = picture.astype(np.float32)
    smooth_chroma(changed)
    return changed


def luma(picture: NDArray[np.floating]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.tensordot(LUMA, picture, 1)
    return found


def blotches(rng: np.random.Generator, shape: tuple[int, int], rms: float) -> NDArray[np.float64]:
    """Offsets of the three colours, about 8 px wide, without any of the lightness."""
    noise: NDArray[np.float64] = np.stack(
        [gaussian_filter(rng.standard_normal(shape), 2) for _ in range(3)]
    )
    noise -= luma(noise)
    noise *= rms / spread(noise)
    return noise


def spread(values: NDArray[np.floating]) -> float:
    return float(np.sqrt((values**2).mean()))


def plain(picture: NDArray[np.float32]) -> NDArray[np.float64]:
    """Smooth it cell by cell in float64, by the definition of the guided filter."""
    _, height, width = picture.shape
    rows, cols = -(-height // 2), -(-width // 2)
    cells = np.empty((3, rows, cols))
    for y, x in product(range(rows), range(cols)):
        cells[:, y, x] = picture[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
    guide = luma(cells)
    colors = np.stack([(cells[2] - guide) / 1.8556, (cells[0] - guide) / 1.5748])

    def window(y: int, x: int) -> tuple[slice, slice]:
        return slice(max(y - 4, 0), y + 5), slice(max(x - 4, 0), x + 5)

    lines = np.empty((2, 2, rows, cols))
    for y, x in product(range(rows), range(cols)):
        near = guide[window(y, x)]
        for k, color in enumerate(colors):
            part = color[window(y, x)]
            common = (near * part).mean() - near.mean() * part.mean()
            slope = common / (near.var() + 1e-3)
            lines[k, :, y, x] = slope, part.mean() - slope * near.mean()
    change = np.empty((2, rows, cols))
    for y, x in product(range(rows), range(cols)):
        slope, offset = np.moveaxis(lines[:, :, *window(y, x)].mean((2, 3)), 1, 0)
        change[:, y, x] = slope * guide[y, x] + offset - colors[:, y, x]
    size = (change**2).sum(0)
    change *= np.exp(-size / (9 * np.median(size[::3, ::3])))
    found = picture.astype(np.float64)
    wide = torch.nn.functional.interpolate(
        torch.from_numpy(change)[None], scale_factor=2, mode="bilinear", align_corners=False
    )[0].numpy()[:, :height, :width]
    blue, red = 1.8556 * wide[0], 1.5748 * wide[1]
    found[2] += blue
    found[0] += red
    found[1] -= (LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
    return found


@pytest.mark.parametrize("shape", [(40, 64), (23, 41), (7, 5), (2, 30)])
def test_it_is_a_guided_filter(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    picture = rng.uniform(-0.1, 1.1, (3, *shape)).astype(np.float32)
    found = smoothed(picture)
    np.testing.assert_allclose(found, plain(picture), atol=1e-5)
    assert np.abs(found - picture).max() > 0.01


@pytest.mark.parametrize("pixels", [1, 300])
def test_bands_of_any_height_give_the_same(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    picture = rng.random((3, 61, 44), np.float32)
    whole = smoothed(picture)
    monkeypatch.setattr(fusion, "_BAND_PIXELS", pixels)
    np.testing.assert_allclose(smoothed(picture), whole, atol=1e-6)


def test_a_tensor_becomes_the_same(rng: np.random.Generator) -> None:
    picture = rng.random((3, 61, 44), np.float32)
    tensor = torch.from_numpy(picture.copy())
    smooth_chroma(tensor)
    np.testing.assert_allclose(tensor.numpy(), smoothed(picture), atol=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_makes_the_same(rng: np.random.Generator) -> None:
    picture = rng.random((3, 61, 44), np.float32)
    tensor = torch.from_numpy(picture).cuda()
    smooth_chroma(tensor)
    np.testing.assert_allclose(tensor.cpu().numpy(), smoothed(picture), atol=1e-5)


# ---------------------------------------------------------------- what goes, what stays


def test_mottle_goes_and_the_luma_stays(rng: np.random.Generator) -> None:
    flat = np.full((3, 256, 256), 0.4)
    picture = flat + blotches(rng, (256, 256), 0.01)
    found = smoothed(picture)
    assert spread(found - flat) < 0.5 * spread(picture - flat)
    np.testing.assert_allclose(luma(found), luma(picture), atol=1e-6)
    np.testing.assert_allclose(found.mean((1, 2)), picture.mean((1, 2)), atol=5e-4)


def test_an_edge_of_colours_alone_stays(rng: np.random.Generator) -> None:
    """Both sides are equally light, so the guide says nothing of it."""
    truth = np.full((3, 128, 128), 0.4)
    truth[0, :, 64:], truth[1, :, 64:] = 0.6, 0.4 - 0.2 * LUMA[0] / LUMA[1]
    picture = truth + blotches(rng, (128, 128), 0.005)
    found = smoothed(picture)
    at_edge = np.s_[:, :, 56:72]
    assert spread(found[at_edge] - truth[at_edge]) < 1.1 * spread(picture[at_edge] - truth[at_edge])
    away = np.s_[:, :, :40]
    assert spread(found[away] - truth[away]) < 0.6 * spread(picture[away] - truth[away])


def test_chroma_that_follows_the_lightness_stays(rng: np.random.Generator) -> None:
    steps = np.repeat(rng.uniform(0.1, 0.9, (8, 8)), 16, axis=0).repeat(16, axis=1)
    truth = np.stack([steps, 0.7 * steps, 0.3 * steps])
    picture = truth + blotches(rng, (128, 128), 0.01)
    assert spread(smoothed(picture) - truth) < 0.8 * spread(picture - truth)


def test_grey_is_left_alone(rng: np.random.Generator) -> None:
    grey = np.broadcast_to(rng.random((50, 40), np.float32), (3, 50, 40))
    np.testing.assert_allclose(smoothed(grey), grey, atol=1e-6)
    black = np.zeros((3, 50, 40), np.float32)
    assert np.array_equal(smoothed(black), black)


def test_colours_out_of_range_stay_out_of_it(rng: np.random.Generator) -> None:
    picture = np.full((3, 64, 64), 0.5) + blotches(rng, (64, 64), 0.01)
    picture[0] += 1.0
    picture[2] -= 0.7
    found = smoothed(picture)
    assert found[0].min() > 1.4 and found[2].max() < -0.1


def test_where_there_is_no_number_nothing_changes(rng: np.random.Generator) -> None:
    picture = rng.random((3, 64, 64), np.float32)
    picture[:, 5, 5] = np.nan
    np.testing.assert_array_equal(smoothed(picture), picture)
    everywhere = np.full((3, 64, 64), np.nan, np.float32)
    assert np.isnan(smoothed(everywhere)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 1), (3, 3)])
def test_few_pixels(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    picture = rng.random((3, *shape), np.float32)
    found = smoothed(picture)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(luma(found), luma(picture), atol=1e-6)


def test_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chroma, "in_bands", lambda work, rows, _: [work(at) for at in rows])
    peaks = []
    for height in (1000, 2000):
        picture = np.random.default_rng(1).random((3, height, 1500), np.float32)
        tracemalloc.start()
        smooth_chroma(picture)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    each = (peaks[1] - peaks[0]) / 1.5e6
    assert each == pytest.approx(6, rel=0.02)
    assert peaks[0] - 1.5e6 * each < fusion._THREAD_BYTES + fusion._OTHER_BYTES
