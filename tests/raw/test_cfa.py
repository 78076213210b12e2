from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.raw.cfa import (
    CANONICAL,
    PACK_FACTOR,
    PLANE_COLORS,
    RGGB,
    XTRANS,
    CfaKind,
    align,
    cell_colors,
    cell_from,
    classify,
    find_phase,
    pack,
    plane_values,
    unpack,
)

KINDS: tuple[CfaKind, ...] = ("bayer", "xtrans")
SHIFTS = [(kind, shift) for kind in KINDS for shift in np.ndindex(CANONICAL[kind].shape)]


def _colors(kind: CfaKind, shift: tuple[int, int], height: int, width: int) -> NDArray[np.uint8]:
    """Colour ids of a mosaic that starts `shift` photosites into the canonical pattern."""
    canonical = CANONICAL[kind]
    rows = (np.arange(height)[:, None] + shift[0]) % len(canonical)
    cols = (np.arange(width)[None] + shift[1]) % len(canonical)
    return canonical[rows, cols]


# ---------------------------------------------------------------- the patterns themselves


def test_bayer_is_rggb() -> None:
    assert "".join("RGB"[c] for c in RGGB.ravel()) == "RGGB"


def test_xtrans_starts_rbgbrg_and_obeys_fujifilms_rules() -> None:
    assert "".join("RGB"[c] for c in XTRANS[0]) == "RBGBRG"
    assert np.bincount(XTRANS.ravel()).tolist() == [8, 20, 8]
    for line in (*XTRANS, *XTRANS.T):
        assert set(line.tolist()) == {0, 1, 2}  # every row and column sees all three colours


def test_xtrans_repeats_at_3_3_and_nowhere_else() -> None:
    same = [s for s in np.ndindex(6, 6) if np.array_equal(np.roll(XTRANS, s, (0, 1)), XTRANS)]
    assert same == [(0, 0), (3, 3)]


@pytest.mark.parametrize(("kind", "phase"), SHIFTS)
def test_a_cells_colours_are_those_at_its_place(kind: CfaKind, phase: tuple[int, int]) -> None:
    period = len(CANONICAL[kind])
    assert np.array_equal(cell_colors(kind, phase), _colors(kind, phase, period, period))


def test_a_cell_from_another_photosite_is_the_mosaic_cut_there() -> None:
    cell = np.arange(36).reshape(6, 6)
    mosaic = np.tile(cell, (3, 3))
    for y, x in np.ndindex(7, 7):
        assert np.array_equal(cell_from(cell, (y, x)), mosaic[y : y + 6, x : x + 6])


# ---------------------------------------------------------------- pack, unpack


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (5, 4)])
def test_pack_and_unpack_undo_each_other(
    kind: CfaKind, cells: tuple[int, int], rng: np.random.Generator
) -> None:
    period, factor = len(CANONICAL[kind]), PACK_FACTOR[kind]
    mosaic = rng.integers(0, 65536, (cells[0] * period, cells[1] * period)).astype(np.uint16)
    planes = pack(mosaic, kind)
    assert planes.dtype == mosaic.dtype
    assert planes.shape == (
        factor**2,
        cells[0] * period // factor,
        cells[1] * period // factor,
    )
    assert np.array_equal(unpack(planes, kind), mosaic)
    assert np.array_equal(pack(unpack(planes, kind), kind), planes)


@pytest.mark.parametrize("kind", KINDS)
def test_pack_moves_every_photosite_to_exactly_one_place(kind: CfaKind) -> None:
    mosaic = np.arange(12 * 18).reshape(12, 18)
    assert np.array_equal(np.sort(pack(mosaic, kind).ravel()), np.arange(mosaic.size))


def test_bayer_packing_is_libraws_colour_order(rng: np.random.Generator) -> None:
    m = rng.random((6, 8))
    expected = [m[0::2, 0::2], m[0::2, 1::2], m[1::2, 1::2], m[1::2, 0::2]]  # R, G1, B, G2
    assert np.array_equal(pack(m, "bayer"), np.stack(expected))


def test_xtrans_packing_is_the_table_of_sid(rng: np.random.Generator) -> None:
    m = rng.random((12, 18))
    out = np.zeros((9, 4, 6))
    # 0 R
    out[0][0::2, 0::2] = m[0::6, 0::6]
    out[0][0::2, 1::2] = m[0::6, 4::6]
    out[0][1::2, 0::2] = m[3::6, 1::6]
    out[0][1::2, 1::2] = m[3::6, 3::6]
    # 1 G
    out[1][0::2, 0::2] = m[0::6, 2::6]
    out[1][0::2, 1::2] = m[0::6, 5::6]
    out[1][1::2, 0::2] = m[3::6, 2::6]
    out[1][1::2, 1::2] = m[3::6, 5::6]
    # 2 B
    out[2][0::2, 0::2] = m[0::6, 1::6]
    out[2][0::2, 1::2] = m[0::6, 3::6]
    out[2][1::2, 0::2] = m[3::6, 0::6]
    out[2][1::2, 1::2] = m[3::6, 4::6]
    # 3 R
    out[3][0::2, 0::2] = m[1::6, 2::6]
    out[3][0::2, 1::2] = m[2::6, 5::6]
    out[3][1::2, 0::2] = m[5::6, 2::6]
    out[3][1::2, 1::2] = m[4::6, 5::6]
    # 4 B
    out[4][0::2, 0::2] = m[2::6, 2::6]
    out[4][0::2, 1::2] = m[1::6, 5::6]
    out[4][1::2, 0::2] = m[4::6, 2::6]
    out[4][1::2, 1::2] = m[5::6, 5::6]
    # 5 to 8 G
    out[5], out[6] = m[1::3, 0::3], m[1::3, 1::3]
    out[7], out[8] = m[2::3, 0::3], m[2::3, 1::3]
    assert np.array_equal(pack(m, "xtrans"), out)


@pytest.mark.parametrize("kind", KINDS)
def test_every_plane_holds_just_its_colour(kind: CfaKind) -> None:
    planes = pack(_colors(kind, (0, 0), 12, 18), kind)
    for plane, color in zip(planes, PLANE_COLORS[kind], strict=True):
        assert np.all(plane == color)


# ---------------------------------------------------------------- the phase


@pytest.mark.parametrize(("kind", "shift"), SHIFTS)
def test_every_shift_is_found(kind: CfaKind, shift: tuple[int, int]) -> None:
    pattern = _colors(kind, shift, 12, 12)
    found = find_phase(pattern, kind)
    assert found is not None
    assert np.array_equal(_colors(kind, found, 12, 12), pattern)
    assert sum(found) <= sum(shift)  # of equivalent shifts the one that adds least
    assert classify(pattern) == kind


@pytest.mark.parametrize(("kind", "shift"), SHIFTS)
def test_one_wrong_colour_is_no_longer_the_pattern(
    kind: CfaKind, shift: tuple[int, int], rng: np.random.Generator
) -> None:
    pattern = _colors(kind, shift, 12, 12)
    y, x = rng.integers(0, 12, 2)
    pattern[y, x] = (pattern[y, x] + 1) % 3
    assert find_phase(pattern, kind) is None
    assert classify(pattern) is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_cell_is_enough_to_find_the_phase(kind: CfaKind) -> None:
    period = len(CANONICAL[kind])
    assert find_phase(_colors(kind, (1, 0), period, period), kind) == (1, 0)


def test_the_kinds_are_not_mistaken_for_each_other() -> None:
    assert find_phase(_colors("bayer", (0, 0), 12, 12), "xtrans") is None
    assert find_phase(_colors("xtrans", (0, 0), 12, 12), "bayer") is None


@pytest.mark.parametrize(
    "cell",
    [
        np.kron(RGGB, np.ones((2, 2), np.uint8)),  # quad Bayer
        np.kron(RGGB, np.ones((4, 4), np.uint8)),
        np.zeros((2, 2), np.uint8),
        np.ones((2, 2), np.uint8),
        np.array([[0, 1, 2]], np.uint8),  # stripes
        np.array([[0, 1], [2, 1]], np.uint8),
        np.array([[0, 1], [3, 2]], np.uint8),  # four colours
    ],
    ids=["quad", "hexadeca", "red", "green", "stripes", "columns", "four"],
)
def test_classify_refuses_other_arrays(cell: NDArray[np.uint8]) -> None:
    pattern = np.tile(cell, (12, 12))[:12, :12]
    assert classify(pattern) is None


# ---------------------------------------------------------------- align


@pytest.mark.parametrize(("kind", "shift"), SHIFTS)
@pytest.mark.parametrize("extra", [(0, 0), (1, 0), (3, 5), (5, 2)])
def test_alignment_brings_any_crop_to_the_canonical_phase(
    kind: CfaKind, shift: tuple[int, int], extra: tuple[int, int], rng: np.random.Generator
) -> None:
    height, width = 12 + extra[0], 18 + extra[1]
    colors = _colors(kind, shift, height, width)
    # The colour is the remainder, so that a value tells its colour as well as its place.
    mosaic = (3 * rng.permutation(height * width).reshape(height, width) + colors).astype(np.uint16)
    phase = find_phase(colors, kind)
    assert phase is not None
    aligned, added = align(mosaic, phase, kind)

    period = len(CANONICAL[kind])
    assert aligned.shape[0] % period == 0 and aligned.shape[1] % period == 0
    assert max(added.top, added.left, added.bottom, added.right) < period
    assert aligned.shape == (height + added.top + added.bottom, width + added.left + added.right)
    cropped = aligned[added.top : added.top + height, added.left : added.left + width]
    assert np.array_equal(cropped, mosaic)
    for plane, color in zip(pack(aligned, kind), PLANE_COLORS[kind], strict=True):
        assert np.all(plane % 3 == color)


@pytest.mark.parametrize("kind", KINDS)
def test_alignment_leaves_a_canonical_mosaic_alone(kind: CfaKind) -> None:
    mosaic = np.arange(144, dtype=np.uint16).reshape(12, 12)
    aligned, added = align(mosaic, (0, 0), kind)
    assert aligned is mosaic
    assert (added.top, added.left, added.bottom, added.right) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_alignment_works_on_a_single_cell(kind: CfaKind) -> None:
    period = len(CANONICAL[kind])
    for shift in np.ndindex(period, period):
        colors = _colors(kind, shift, period, period).astype(np.uint16)
        aligned, _ = align(colors, shift, kind)
        assert np.array_equal(aligned, _colors(kind, (0, 0), *aligned.shape))


def test_alignment_of_bayer_is_reflect_padding(rng: np.random.Generator) -> None:
    mosaic = rng.integers(0, 65536, (7, 9)).astype(np.uint16)
    for phase in np.ndindex(2, 2):
        aligned, added = align(mosaic, phase, "bayer")
        pads = ((added.top, added.bottom), (added.left, added.right))
        assert np.array_equal(aligned, np.pad(mosaic, pads, "reflect"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [0, 1])
def test_rolling_the_mosaic_by_one_pixel_equals_changing_the_pattern(
    kind: CfaKind, axis: int, rng: np.random.Generator
) -> None:
    """The same scene, seen through a rolled pattern, gives the same planes (but for the edge)."""
    period, factor = len(CANONICAL[kind]), PACK_FACTOR[kind]
    mosaic = rng.integers(0, 65536, (4 * period, 4 * period)).astype(np.uint16)
    planes = pack(mosaic, kind)
    for step in range(1, period):
        rolled = np.roll(mosaic, -step, axis)
        pattern = np.roll(_colors(kind, (0, 0), *mosaic.shape), -step, axis)
        aligned, added = align(rolled, (step, 0) if axis == 0 else (0, step), kind)
        assert np.array_equal(
            pattern, _colors(kind, (step, 0) if axis == 0 else (0, step), *pattern.shape)
        )
        # Rolling brought the first cell to the end; the cells between stay where they were.
        assert (added.top, added.left)[axis] == step
        inner = slice(period // factor, 4 * period // factor)
        index = (slice(None), inner) if axis == 0 else (slice(None), slice(None), inner)
        assert np.array_equal(pack(aligned, kind)[index], planes[index])


# ---------------------------------------------------------------- plane_values


@pytest.mark.parametrize("phase", list(np.ndindex(2, 2)))
def test_plane_values_keep_four_bayer_levels_apart(phase: tuple[int, int]) -> None:
    canonical = np.array([[10, 11], [13, 12]], np.float32)  # R G1 / G2 B
    cell = np.roll(canonical, (-phase[0], -phase[1]), (0, 1))
    assert plane_values(cell, "bayer", phase).tolist() == [10, 11, 12, 13]


@pytest.mark.parametrize(("kind", "shift"), SHIFTS)
def test_plane_values_agree_with_packing_a_mosaic_of_levels(
    kind: CfaKind, shift: tuple[int, int]
) -> None:
    period = len(CANONICAL[kind])
    by_color = np.array([100, 200, 300], np.float32)
    cell = by_color[_colors(kind, shift, period, period)]
    aligned, _ = align(np.tile(cell, (3, 3)).astype(np.uint16), shift, kind)
    expected = pack(aligned, kind)
    values = plane_values(cell, kind, shift)
    assert values.shape == (len(PLANE_COLORS[kind]),)
    assert np.all(expected == values[:, None, None])
    assert values.tolist() == by_color[list(PLANE_COLORS[kind])].tolist()


def test_every_bayer_corner_gives_its_own_plane_one_value() -> None:
    for place, phase in product(np.ndindex(2, 2), np.ndindex(2, 2)):
        cell = np.zeros((2, 2), np.float32)
        cell[place] = 1
        values = plane_values(cell, "bayer", phase)
        assert sorted(values.tolist()) == [0, 0, 0, 1]
        canonical = ((place[0] + phase[0]) % 2, (place[1] + phase[1]) % 2)
        plane = {(0, 0): 0, (0, 1): 1, (1, 1): 2, (1, 0): 3}[canonical]
        assert values[plane] == 1
