"""The cameras' two names, and what is known of each."""

from __future__ import annotations

import pytest

from gia_cli.cameras import (
    CAMERA_MATRICES,
    CAMERA_OF,
    ENDINGS,
    KINDS,
    camera_family,
    camera_name,
    camera_of_kind,
)
from gia_cli.errors import UsageError
from gia_cli.simulation.sensor import CAMERAS


@pytest.mark.parametrize(("family", "model"), CAMERA_OF.items())
def test_either_name_is_taken(family: str, model: str) -> None:
    for name in (family, model, family.upper(), model.lower()):
        assert (camera_family(name), camera_name(name)) == (family, model)


def test_an_unknown_camera_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="There is no camera 'nikon'") as caught:
        camera_name("nikon")
    assert "sony or ILCE-7SM2" in str(caught.value.hint)


def test_all_facts_are_known_of_every_camera() -> None:
    assert set(KINDS) == set(CAMERA_OF)
    assert set(ENDINGS) == set(CAMERA_MATRICES) == set(CAMERA_OF.values())


def test_a_colour_filter_array_determines_the_camera() -> None:
    assert {camera_of_kind(kind) for kind in KINDS.values()} == set(CAMERA_OF.values())
    assert camera_of_kind("bayer") == "ILCE-7SM2"
    assert all(CAMERAS[camera_of_kind(kind)].kind == kind for kind in KINDS.values())
