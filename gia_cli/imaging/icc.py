"""The ICC profile that pictures are tagged with: sRGB."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources


@lru_cache(maxsize=1)
def srgb_icc_profile() -> bytes:
    """Read the sRGB profile, version 2.4, that ``scripts/make_icc_profile.py`` made."""
    return (resources.files("gia_cli") / "imaging" / "srgb.icc").read_bytes()
