"""Fusion as one would write it down: whole planes in float64, a step after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.imaging.color import BT709_ALPHA, BT709_BETA, XYZ_FROM_SRGB
from gia_cli.imaging.fusion import (
    BLACK_KNOTS,
    LEVELS,
    NOISE_KNOTS,
    Grain,
    Measurement,
    Shares,
    packed_noise,
)
from gia_cli.raw.cfa import PACK_FACTOR

Plane = NDArray[np.float64]
LUMINANCE = XYZ_FROM_SRGB[1]
BRIGHTEST, CAST_SIGMA, SMALLEST_SHARE = 0.92, 0.07, 0.01


def encode(linear: Plane) -> Plane:
    power = BT709_ALPHA * np.maximum(linear, BT709_BETA) ** 0.45 - (BT709_ALPHA - 1)
    return np.where(linear < BT709_BETA, 4.5 * linear, power)


def decode(encoded: Plane) -> Plane:
    base = np.maximum(encoded + BT709_ALPHA - 1, 0) / BT709_ALPHA
    return np.where(encoded < 4.5 * BT709_BETA, encoded / 4.5, base ** (1 / 0.45))


def slope(linear: Plane) -> Plane:
    level = encode(np.maximum(linear, 1e-3))
    return np.maximum((decode(level + 1e-3) - decode(level)) / 1e-3, 1 / 4.5)


def summed(values: Plane, side: int) -> Plane:
    *_, height, width = values.shape
    sums = np.add.reduceat(values, np.arange(0, height, side), axis=-2)
    return np.add.reduceat(sums, np.arange(0, width, side), axis=-1)


def mean(values: Plane, side: int) -> Plane:
    return summed(values, side) / summed(np.ones_like(values), side)


def enlarged(cells: Plane, shape: tuple[int, ...], factor: int) -> Plane:
    for axis, length in zip((-2, -1), shape, strict=True):
        at = ((np.arange(length) + 0.5) / factor - 0.5).clip(0, cells.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(cells.shape[axis] - 2, 0))
        high = np.minimum(low + 1, cells.shape[axis] - 1)
        part = at - low if axis == -1 else (at - low)[:, None]
        lower, upper = np.take(cells, low, axis), np.take(cells, high, axis)
        cells = lower + part * (upper - lower)
    return cells


def spread(plane: Plane, kernel: Plane) -> Plane:
    def along(line: Plane) -> Plane:
        return np.convolve(line, kernel, "same")

    return np.apply_along_axis(along, 1, np.apply_along_axis(along, 0, plane))


def looked_up(table: NDArray[np.float32], noise: Plane, black: Plane) -> Plane:
    places = []
    for knots, values in ((NOISE_KNOTS, noise), (BLACK_KNOTS, black)):
        place = np.interp(np.log(values), np.log(knots), np.arange(len(knots)))
        low = np.minimum(place.astype(int), len(knots) - 2)
        places.append((low, place - low))
    (row, down), (col, right) = places
    upper = table[row, col] * (1 - right) + table[row, col + 1] * right
    lower = table[row + 1, col] * (1 - right) + table[row + 1, col + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def shares_of(tables: Shares, level: int, bright: Plane, of: Measurement) -> tuple[Plane, Plane]:
    unit = slope(bright)
    found = []
    for table, (gain, constant) in zip(
        (tables.luminance, tables.chroma), packed_noise(of), strict=True
    ):
        noise = np.sqrt(gain * np.maximum(bright, 0) + constant) / unit
        found.append(looked_up(table[level], noise, of.black_sigma.mean() / unit))
    return found[0], found[1]


def weighted(band: Plane, share_y: Plane, share_c: Plane) -> Plane:
    luminance = np.einsum("i,ihw->hw", LUMINANCE, band)
    return np.asarray(share_c * (band - luminance) + share_y * luminance)


def black_offset(total: Plane, number: Plane, bright: Plane, of: Measurement) -> Plane:
    normal, right = np.diag([1.0, *[CAST_SIGMA**-2] * 3]), np.array([of.black_expected, 0, 0, 0])
    common = np.sqrt(0.016**2 + 0.002 * 4.5 * np.sqrt(of.constant.mean()))
    for color, unit in enumerate(of.black_sigma):
        noise = np.sqrt(of.slope[color] * np.maximum(bright, 0) + of.constant[color])
        off = np.abs(total[color] / np.maximum(number[color], 1))
        counts = (number[color] > 0) & (off <= 6 * noise + 5 * unit)
        seen = np.where(counts, slope(bright) ** -2.0, 0)
        seen /= common**2 * max(np.count_nonzero(seen), 0.05 * seen.size)
        line = np.zeros((4, bright.size))
        line[0], line[color + 1] = unit, bright.ravel()
        residual = (total[color] / np.maximum(number[color], 1)).ravel()
        normal += line * seen.ravel() @ line.T
        right += line * seen.ravel() @ residual
    return np.asarray(of.black_sigma * np.linalg.solve(normal, right)[0])


def fused(
    picture: NDArray[np.float32],
    of: Measurement,
    tables: Shares,
    grain: Grain | None = None,
    *,
    is_clipped: bool = True,
) -> Plane:
    """What `fuse` makes of a picture."""
    shape, scale = of.mosaic.shape, PACK_FACTOR[of.kind]
    linear = decode(picture.astype(np.float64).clip(0, 1))
    color, black, gain = (_tiled(cell, shape) for cell in (of.colors, of.black, of.scale))
    predicted = np.take_along_axis(np.einsum("ij,jhw->ihw", of.to_camera, linear), color[None], 0)
    sites = (of.mosaic - black) * gain - predicted[0]
    valid = np.maximum(predicted[0], linear.max(axis=0)) < BRIGHTEST
    own = (color == np.arange(3)[:, None, None]) & valid  # each colour's valid photosites
    total, number = summed(own * sites, scale), summed(own * 1.0, scale)
    bright = [mean(np.einsum("i,ihw->hw", LUMINANCE, linear), scale)]
    offset = of.black_error
    if offset is None:
        offset = black_offset(total, number, bright[0], of)
    total -= number * offset[:, None, None]
    sums = [(total, number)]
    for _ in range(LEVELS - 2):
        sums.append((summed(sums[-1][0], 2), summed(sums[-1][1], 2)))
        bright.append(mean(bright[-1], 2))
    means: list[Plane] = []
    for total, number in reversed(sums):
        near = enlarged(means[0], total.shape[1:], 2) if means else 0 * total
        means.insert(0, np.where(number > 0, total / np.maximum(number, 1), near))
    to_srgb = np.linalg.inv(of.to_camera)

    def through(values: Plane) -> Plane:
        return np.asarray(np.einsum("ij,jhw->ihw", to_srgb, values))

    correction, rest = np.zeros((2, 3, 1, 1))
    left = grain or Grain(0, 0)
    for level in range(LEVELS - 1, 0, -1):
        band, size = means[level - 1], means[level - 1].shape[1:]
        if level < LEVELS - 1:
            band = band - enlarged(means[level], size, 2)
            correction, rest = (enlarged(x, size, 2) for x in (correction, rest))
        share_y, share_c = shares_of(tables, level, bright[level - 1], of)
        correction = correction + weighted(through(band), share_y, share_c)
        if level < 4:
            kept = left.luminance * (1 - share_y), left.chroma * (1 - share_c)
            rest = rest + weighted(through(band), *kept)
    kernel = np.array([1, 2, 1]) / 4 if of.kind == "bayer" else np.array([1, 4, 6, 4, 1]) / 16
    seen = np.stack([spread(plane * 1.0, kernel) for plane in own])
    near = np.stack([spread(plane * sites, kernel) for plane in own]) / np.maximum(seen, 1e-9)
    near -= offset[:, None, None] + enlarged(means[0], shape, scale)
    finest = through(np.where(seen > 1e-9, near, 0))
    share_y, share_c = shares_of(tables, 0, bright[0], of)
    light = linear + enlarged(correction, shape, scale)
    if max(share_y.max(), share_c.max()) >= SMALLEST_SHARE:
        light += weighted(finest, enlarged(share_y, shape, scale), enlarged(share_c, shape, scale))
    if is_clipped or grain is not None:
        light = np.maximum(light, 0)
    code = encode(light)
    if grain is not None:
        kept = left.luminance * (1 - share_y), left.chroma * (1 - share_c)
        noise = enlarged(rest, shape, scale)
        noise += weighted(finest, *(enlarged(x, shape, scale) for x in kept))
        code += code * np.tanh(noise / slope(light) / np.maximum(code, 1e-9))
    return code


def _tiled(cell: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    rows, cols = (-(-length // len(cell)) for length in shape)
    return np.tile(cell, (rows, cols))[: shape[0], : shape[1]]
