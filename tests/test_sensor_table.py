"""The published tables: sorted, found by ISO in stops, and whole."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gia_cli.cameras import CAMERA_OF, CameraName
from gia_cli.sensor_table import calibration, iso_settings, nearest_iso, nearest_row

cameras = pytest.mark.parametrize("camera", CAMERA_OF.values())


@cameras
def test_settings_ascend_and_have_a_row_each(camera: CameraName) -> None:
    settings = iso_settings(camera)
    assert all(first < second for first, second in pairwise(settings))
    columns = calibration()[camera]["columns"]
    for iso in settings:
        row = nearest_row(camera, iso)
        assert row[0] == iso
        assert len(row) == len(columns)


def test_other_numbers_are_taken_for_the_nearest_setting_in_stops() -> None:
    assert nearest_iso("ILCE-7SM2", 1700) == 1600
    assert nearest_iso("ILCE-7SM2", 1900) == 2000
    assert nearest_iso("ILCE-7SM2", 409600) == 25600
    assert nearest_iso("X-T2", 50) == 200
