"""Tile geometry: cores partition the frame, read regions hold what the network needs."""

from __future__ import annotations

import numpy as np
import pytest

from gia_cli.tiling import Span, Tile, even_spans, even_tiles, round_up, spans, tiles

STRIDE = 16

SPAN_CASES = [
    (units * STRIDE, core * STRIDE, halo)
    for units in (1, 2, 3, 7, 20)
    for core in (1, 2, 3, 7, 9, 25)
    for halo in (0, 1, 15, 16, 64, 96)
]
TILE_CASES = [
    (16, 16, (16, 16)),
    (16, 16, (32, 64)),
    (48, 32, (16, 16)),
    (112, 80, (32, 48)),
    (176, 16, (48, 48)),
    (16, 176, (48, 48)),
    (320, 240, (96, 96)),
    (320, 240, (320, 64)),
    (320, 240, (64, 240)),
]


@pytest.mark.parametrize(("size", "core", "halo"), SPAN_CASES)
def test_spans_partition_the_axis_and_read_what_is_needed(size: int, core: int, halo: int) -> None:
    cut = spans(size, core, halo, STRIDE)
    edges = [0, *(span.core_stop for span in cut)]
    assert [span.core_start for span in cut] == edges[:-1]
    assert edges[-1] == size
    assert len(cut) == -(-size // core)
    for span in cut:
        assert 0 < span.core_stop - span.core_start <= core
        # All the context that there is, up to the halo ...
        assert span.read_start <= max(span.core_start - halo, 0)
        assert span.read_stop >= min(span.core_stop + halo, size)
        # ... and not more than one pooling cell beyond it, cut off at the frame.
        assert span.read_start > span.core_start - halo - STRIDE
        assert span.read_stop < span.core_stop + halo + STRIDE
        assert 0 <= span.read_start <= span.read_stop <= size
        for edge in (span.core_start, span.core_stop, span.read_start, span.read_stop):
            assert edge % STRIDE == 0


@pytest.mark.parametrize(("size", "core", "halo"), SPAN_CASES)
def test_core_in_read_finds_the_core_in_what_was_read(size: int, core: int, halo: int) -> None:
    axis = np.arange(size)
    for span in spans(size, core, halo, STRIDE):
        read = axis[span.read_start : span.read_stop]
        found = read[slice(*span.core_in_read)]
        assert np.array_equal(found, axis[span.core_start : span.core_stop])


@pytest.mark.parametrize("halo", [0, 64, 96])
@pytest.mark.parametrize(("height", "width", "core"), TILE_CASES)
def test_every_pixel_lies_in_one_core(
    height: int, width: int, core: tuple[int, int], halo: int
) -> None:
    covered = np.zeros((height, width), int)
    for tile in tiles(height, width, core, halo, STRIDE):
        rows, cols = tile.rows, tile.cols
        covered[rows.core_start : rows.core_stop, cols.core_start : cols.core_stop] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("halo", [0, 64, 96])
@pytest.mark.parametrize(("height", "width", "core"), TILE_CASES)
def test_reading_and_cutting_out_cores_restores_the_frame(
    height: int, width: int, core: tuple[int, int], halo: int, rng: np.random.Generator
) -> None:
    frame = rng.random((height, width))
    restored = np.full_like(frame, np.nan)
    for tile in tiles(height, width, core, halo, STRIDE):
        rows, cols = tile.rows, tile.cols
        read = frame[rows.read_start : rows.read_stop, cols.read_start : cols.read_stop]
        assert tile.read_shape == read.shape
        restored[rows.core_start : rows.core_stop, cols.core_start : cols.core_stop] = read[
            slice(*rows.core_in_read), slice(*cols.core_in_read)
        ]
    assert np.array_equal(restored, frame)


def test_tiles_come_row_by_row() -> None:
    cut = tiles(96, 128, (32, 32), 16, STRIDE)
    places = [(tile.rows.core_start, tile.cols.core_start) for tile in cut]
    assert places == sorted(places)
    assert len(places) == 3 * 4


@pytest.mark.parametrize("halo", [0, 64, 96])
@pytest.mark.parametrize("core", [(80, 112), (96, 112), (80, 4096), (4096, 4096)])
def test_a_core_as_large_as_the_frame_is_one_tile_without_halo(
    core: tuple[int, int], halo: int
) -> None:
    whole = Tile(Span(0, 80, 0, 80), Span(0, 112, 0, 112))
    assert tiles(80, 112, core, halo, STRIDE) == [whole]
    assert whole.read_shape == (80, 112)


def test_transposing_the_frame_transposes_the_tiles() -> None:
    cut = {(t.rows, t.cols) for t in tiles(112, 80, (32, 48), 64, STRIDE)}
    transposed = {(t.cols, t.rows) for t in tiles(80, 112, (48, 32), 64, STRIDE)}
    assert cut == transposed


@pytest.mark.parametrize(
    ("size", "core"),
    [(0, 16), (-16, 16), (17, 16), (32, 8), (32, 0), (32, -16), (32, 17), (8, 16)],
)
def test_sizes_off_the_stride_are_refused(size: int, core: int) -> None:
    with pytest.raises(ValueError, match=f"{size}.*{core}.*{STRIDE}"):
        spans(size, core, 0, STRIDE)


def test_tiles_refuse_a_frame_off_the_stride() -> None:
    for height, width in ((17, 16), (16, 17), (0, 16)):
        with pytest.raises(ValueError, match="positive multiples"):
            tiles(height, width, (16, 16), 0, STRIDE)


@pytest.mark.parametrize("step", [1, 2, 7, 16])
def test_round_up_is_the_next_multiple(step: int) -> None:
    for size in range(50):
        rounded = round_up(size, step)
        assert rounded % step == 0
        assert size <= rounded < size + step


# ---------------------------------------------------------------- tiles that are read at one size


@pytest.mark.parametrize("halo", [0, 12, 24])
@pytest.mark.parametrize("size", [4, 40, 200, 204, 1416])
@pytest.mark.parametrize("core", [4, 16, 100, 512])
def test_even_spans_are_read_at_one_length_with_all_their_context(
    size: int, core: int, halo: int
) -> None:
    cut = even_spans(size, core, halo, 4)
    assert [span.core_start for span in cut] == [0, *(span.core_stop for span in cut[:-1])]
    assert cut[-1].core_stop == size
    assert len({span.read_stop - span.read_start for span in cut}) == 1
    for span in cut:
        assert span.core_start < span.core_stop
        assert 0 <= span.read_start <= max(span.core_start - halo, 0)
        assert min(span.core_stop + halo, size) <= span.read_stop <= size
        assert not any(edge % 4 for edge in (span.core_start, span.read_start, span.read_stop))
    assert len(cut) <= len(spans(size, core, halo, 4))
    assert max(span.read_stop - span.read_start for span in cut) <= core + 2 * halo


def test_even_tiles_restore_the_frame(rng: np.random.Generator) -> None:
    frame = rng.random((200, 332))
    restored = np.full_like(frame, np.nan)
    cut = even_tiles(200, 332, (48, 64), 12, 4)
    assert len({tile.read_shape for tile in cut}) == 1
    for tile in cut:
        rows, cols = tile.rows, tile.cols
        read = frame[rows.read_start : rows.read_stop, cols.read_start : cols.read_stop]
        restored[rows.core_start : rows.core_stop, cols.core_start : cols.core_stop] = read[
            slice(*rows.core_in_read), slice(*cols.core_in_read)
        ]
    assert np.array_equal(restored, frame)


def test_even_spans_refuse_what_does_not_fit_the_stride() -> None:
    for size, core in ((10, 4), (8, 6), (0, 4), (8, 0)):
        with pytest.raises(ValueError, match="positive multiples of 4"):
            even_spans(size, core, 8, 4)
