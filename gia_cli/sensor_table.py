"""What others measured of sensors: the tables in ``calibration/noise.json``, with their sources."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from math import log
from typing import Any

from gia_cli.cameras import CameraName

#: DN of 14 bits (RMS over nine ISO settings) by which the black level errors of two A7S II differ,
#: Feng's and ELD's: their courses over ISO agree (correlation 0.97), so a third one's lies there
#: too, as far off.
BODY_SIGMA = 0.5


@lru_cache(maxsize=1)
def calibration() -> dict[str, Any]:
    """Read all tables."""
    path = resources.files("gia_cli") / "calibration" / "noise.json"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def iso_settings(camera: CameraName) -> list[int]:
    """ISO settings at which a camera's noise is known, ascending."""
    return [int(row[0]) for row in calibration()[camera]["rows"]]


def nearest_iso(camera: CameraName, iso: float) -> int:
    """Find the camera's ISO setting nearest to a number, in stops."""
    return min(iso_settings(camera), key=lambda setting: abs(log(setting / iso)))


def nearest_row(camera: CameraName, iso: float) -> list[float]:
    """Return a camera's numbers at the setting nearest to an ISO number."""
    setting = nearest_iso(camera, iso)
    rows: list[list[float]] = calibration()[camera]["rows"]
    return next(row for row in rows if row[0] == setting)
