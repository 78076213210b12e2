"""Pictures of which parts were not decoded."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.errors import DamagedFileError
from gia_cli.raw.damage import is_damaged
from gia_cli.raw.reader import read_raw
from gia_cli.raw.writer import write_dng
from tests.fuzz.exercise import dirty_memory
from tests.fuzz.seeds import seeds


def _night(rng: np.random.Generator, black: int, height: int = 200) -> NDArray[np.uint16]:
    return np.clip(rng.normal(black + 8, 6, (height, 120)).round(), 0, 16383).astype(np.uint16)


@pytest.mark.parametrize("black", [0, 16, 512])
@pytest.mark.parametrize("rows", [slice(100, None), slice(0, 60), slice(80, 120)], ids=str)
def test_rows_of_nothing_are_damage(rng: np.random.Generator, black: int, rows: slice) -> None:
    mosaic = _night(rng, black)
    assert not is_damaged(mosaic, black, 16383)
    mosaic[rows] = 0
    assert is_damaged(mosaic, black, 16383)


def test_a_few_rows_count_where_black_is_above_zero(rng: np.random.Generator) -> None:
    mosaic = _night(rng, 512)
    mosaic[50:58] = 0
    assert is_damaged(mosaic, 512, 16383)
    mosaic = _night(rng, 512)
    mosaic[:4] = 0  # a margin that LibRaw takes for picture
    assert not is_damaged(mosaic, 512, 16383)


def test_darkness_is_no_damage(rng: np.random.Generator) -> None:
    # Hardly a photosite with light: noise cut off at black 0, as some cameras do.
    dark = np.zeros((400, 120), np.uint16)
    dark[rng.random(dark.shape) < 0.01] = 3
    dark[100:160] = 0
    assert not is_damaged(dark, 0, 16383)


@pytest.mark.parametrize("black", [0, 512])
def test_columns_of_nothing_are_damage(rng: np.random.Generator, black: int) -> None:
    mosaic = _night(rng, black)
    mosaic[:, 60:] = 0
    assert is_damaged(mosaic, black, 16383)


def test_a_tile_of_nothing_is_damage(rng: np.random.Generator) -> None:
    mosaic = _night(rng, 512)
    mosaic[64:128, 40:88] = 0
    assert is_damaged(mosaic, 512, 16383)
    mosaic = _night(rng, 512)
    mosaic[rng.random(mosaic.shape) < 0.2] = 0  # noise that reaches down to 0
    mosaic[100:116, 40:60] = 0
    assert not is_damaged(mosaic, 512, 16383)


def test_nothing_at_all_is_damage() -> None:
    assert is_damaged(np.zeros((40, 48), np.uint16), 0, 16383)


@pytest.mark.parametrize("black", [0, 512])
def test_rows_of_one_value_are_damage(rng: np.random.Generator, black: int) -> None:
    """What a JPEG decoder makes of zeros: no difference to the photosite before."""
    mosaic = _night(rng, black)
    mosaic[100:, 0::2], mosaic[100:, 1::2] = 530, 541
    assert is_damaged(mosaic, black, 16383)
    mosaic = _night(rng, black)
    mosaic[100:110] = 530  # so few may be chance, in a picture of little noise
    assert not is_damaged(mosaic, black, 16383)


def test_a_black_bar_without_noise_is_no_damage(rng: np.random.Generator) -> None:
    """As in the noiseless exposure that is simulated of a photograph which has one."""
    mosaic = _night(rng, 512)
    mosaic[80:] = 512
    assert not is_damaged(mosaic, 512, 16383)
    mosaic[80:] = 513
    assert is_damaged(mosaic, 512, 16383)


def test_the_sun_and_drawn_pictures_are_no_damage(rng: np.random.Generator) -> None:
    sun = _night(rng, 512)
    sun[100:] = 16383
    assert not is_damaged(sun, 512, 16383)
    drawn = np.full((200, 120), 600, np.uint16)
    assert not is_damaged(drawn, 512, 16383)
    drawn[10, 10] = 9000
    assert not is_damaged(drawn, 512, 16383)


@pytest.mark.parametrize("black", [0, 512])
def test_a_half_black_file_is_refused(tmp_path: Path, rng: np.random.Generator, black: int) -> None:
    mosaic = _night(rng, black)
    mosaic[100:] = 0
    write_dng(tmp_path / "photo.dng", mosaic, black=(black,))
    with pytest.raises(DamagedFileError) as caught:
        read_raw(tmp_path / "photo.dng")
    assert caught.value.exit_code == 14


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is asked for dirty memory")
@pytest.mark.parametrize("tile", [0, 1, 2])
def test_a_tile_that_cannot_be_decoded_does_not_hold_old_memory(tmp_path: Path, tile: int) -> None:
    """LibRaw leaves its place unwritten: the picture had there what this process had before."""
    (seed,) = (seed for seed in seeds("dng") if seed.name == "coded.dng")
    path = tmp_path / seed.name
    path.write_bytes(seed.data)
    whole = read_raw(path)
    data = bytearray(seed.data)
    at = -1
    for _ in range(tile + 1):
        at = data.find(b"\xff\xd8\xff\xc4", at + 1)
    data[at : at + 2] = b"\0\0"
    path.write_bytes(data)
    dirty_memory(0x55)
    try:
        with pytest.raises(DamagedFileError, match="parts of it hold no picture"):
            read_raw(path)
        path.write_bytes(seed.data)
        assert np.array_equal(read_raw(path).mosaic, whole.mosaic)
    finally:
        dirty_memory(0)
