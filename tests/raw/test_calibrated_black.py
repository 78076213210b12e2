"""The likely black level: known of a measured camera, the file's own of all others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gia_cli.data.synthetic import as_if_read
from gia_cli.raw.calibrated_black import UNKNOWN_SIGMA, known_black_error, likely_black
from gia_cli.raw.packing import prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.sensor_table import iso_settings, nearest_row
from gia_cli.simulation.noise import sony_a7s2
from gia_cli.simulation.sensor import CAMERAS

A7S2 = CAMERAS["ILCE-7SM2"]
SPAN = A7S2.white - A7S2.black


def frame(iso: int | None, dn: float = 600) -> RawFrame:
    return as_if_read(np.full((8, 8), dn, np.uint16), A7S2, iso=iso)


@pytest.mark.parametrize("iso", iso_settings("ILCE-7SM2"))
def test_what_is_left_of_the_error_is_what_differs_between_cameras(iso: int) -> None:
    rng = np.random.default_rng(iso)
    drawn = np.array([sony_a7s2(iso, rng).mean_black_error for _ in range(400)])
    mean, sigma = known_black_error(frame(iso))
    left = drawn - SPAN * mean
    assert abs(left.mean()) < 0.1
    assert np.sqrt((left**2).mean()) == pytest.approx(SPAN * sigma, rel=0.1)


def test_the_network_gets_the_likely_level() -> None:
    known = nearest_row("ILCE-7SM2", 3200)[-1]
    assert likely_black(frame(3200)) == pytest.approx(512 + known)
    planes = prepare(frame(3200), ratio=10, floor=None).planes
    assert planes == pytest.approx(10 * (600 - 512 - known) / (SPAN - known), rel=1e-5)


def test_the_published_protocol_takes_the_file_at_its_word() -> None:
    planes = prepare(frame(3200), ratio=10, floor=0).planes
    assert planes == pytest.approx(10 * (600 - 512) / SPAN, rel=1e-5)


def test_what_the_photo_shows_comes_on_top() -> None:
    seen = replace(frame(3200), black_correction=-1.5)
    assert likely_black(seen) == pytest.approx(likely_black(frame(3200)) - 1.5)
    assert known_black_error(seen) == known_black_error(frame(3200))


@pytest.mark.parametrize("iso", [None, 0, 102400, 2400])
def test_between_and_beyond_the_measured_settings_nothing_is_assumed(iso: int | None) -> None:
    expected = (0.0, UNKNOWN_SIGMA)
    # 2400 lies a quarter of a stop from 2000 and 2500 is 0.06 stops off: that one is known.
    assert (known_black_error(frame(iso)) == expected) == (iso != 2400)


def test_other_cameras_and_other_levels_keep_what_their_file_says() -> None:
    known = frame(3200)
    for other in (
        replace(known, shot=replace(known.shot, model="ILCE-7S")),
        replace(known, black=known.black + 1),
        replace(known, path=Path("converted.dng")),
        as_if_read(np.full((12, 12), 1100, np.uint16), CAMERAS["X-T2"], iso=3200),
    ):
        assert known_black_error(other) == (0.0, UNKNOWN_SIGMA)
        assert np.array_equal(likely_black(other), other.black)
