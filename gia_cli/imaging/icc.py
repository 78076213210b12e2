"""The ICC profiles that pictures are tagged with; ``scripts/make_icc_profile.py`` made them."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from gia_cli.imaging.save_options import ColorSpaceName


@lru_cache
def icc_profile(space: ColorSpaceName, *, linear: bool = False) -> bytes:
    """Read the profile of a colour space, version 2.4; of its linear light if asked for."""
    name = f"{space}{'-linear' if linear else ''}.icc"
    return (resources.files("gia_cli") / "imaging" / name).read_bytes()


def srgb_icc_profile() -> bytes:
    """Read the sRGB profile."""
    return icc_profile("srgb")
