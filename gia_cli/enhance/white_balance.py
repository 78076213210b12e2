"""The white balance that was asked for, and the gains that it means for one photo."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import UsageError, WhiteBalanceError
from gia_cli.imaging.temperature import (
    Light,
    gains_of_light,
    light_of_gains,
    light_of_xyz,
    xyz_of_light,
)
from gia_cli.nets.config import WhiteBalanceMode
from gia_cli.raw.reader import RawFrame

#: The lights that the names mean in Adobe's converters. Daylight is LibRaw's own where it has it.
PRESETS = {
    "daylight": Light(5500, 10),
    "cloudy": Light(6500, 10),
    "shade": Light(7500, 10),
    "tungsten": Light(2850),
    "fluorescent": Light(3800, 21),
    "flash": Light(5500),
}
#: All names that `WhiteBalance.parse` takes.
NAMES = ("as-shot", "learned", *PRESETS)

# Gains further apart make a picture of nothing but white and noise.
_LARGEST_SPREAD = 1000.0
_NUMBER = r"[+-]?\d+(?:\.\d*)?"
_TEMPERATURE = re.compile(rf"({_NUMBER})\s*k(?:\s*,\s*({_NUMBER}))?")
_HINT = (
    f"Give {', '.join(NAMES)}, a temperature such as 3200K, with a tint 3200K,10, "
    "or gains for red, green and blue such as 2.1,1,1.5."
)


@dataclass(frozen=True, slots=True)
class WhiteBalance:
    """A white balance as it was asked for, for any photo.

    Parameters
    ----------
    name : str
        One of `NAMES`, "temperature" or "gains".
    """

    name: str
    light: Light | None = None
    """The light to make neutral, for a temperature."""
    gains: tuple[float, float, float] | None = None
    """Factors for R, G and B, if given as such."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for a name that is none, or lacks its light or its gains."""
        lacks = {"temperature": self.light, "gains": self.gains}
        is_known = self.name in NAMES if isinstance(self.name, str) else False
        if not is_known and lacks.get(str(self.name)) is None:
            raise UsageError(f"{reprlib.repr(self.name)} is not a white balance.", hint=_HINT)

    @classmethod
    def parse(cls, asked: str | Sequence[float] | WhiteBalance) -> WhiteBalance:
        """Understand what a user asks for.

        Parameters
        ----------
        asked : str, or sequence of three floats
            A name of `NAMES`, "3200K", "3200K,TINT", "R,G,B", or the gains as numbers.

        Raises
        ------
        UsageError
            It is none of these, or out of range: temperatures from 1667 to 15000 K, tints from
            -150 to 150; gains positive, and no more than a factor of 1000 apart.

        Examples
        --------
        >>> str(WhiteBalance.parse("3200K,5").light)
        '3200 K, tint +5'
        """
        if isinstance(asked, WhiteBalance):
            return asked
        parts: Sequence[str | float] = asked
        if isinstance(asked, str):
            text = asked.strip().lower()
            if text in NAMES:
                return cls(text)
            if match := _TEMPERATURE.fullmatch(text):
                return cls("temperature", Light(float(match[1]), float(match[2] or 0)))
            parts = text.split(",")
        try:
            red, green, blue = map(float, parts)
        except (TypeError, ValueError):
            shown = " ".join(reprlib.repr(asked).split())
            raise UsageError(f"{shown} is not a white balance.", hint=_HINT) from None
        if not _are_usable(np.array([red, green, blue])):
            raise UsageError(
                f"The white balance '{asked}' needs three positive gains, the largest at most "
                f"{_LARGEST_SPREAD:g} times the smallest.",
                hint=_HINT,
            )
        return cls("gains", gains=(red, green, blue))

    @property
    def mode(self) -> WhiteBalanceMode:
        """Which weights it needs: all but "learned" need weights that take gains."""
        return "learned" if self.name == "learned" else "as-shot"

    def gains_for(self, frame: RawFrame) -> NDArray[np.float64]:
        """Work out the gains for one photo.

        Parameters
        ----------
        frame : RawFrame

        Returns
        -------
        (3,) float64
            Factors for R, G and B, green 1; see `usable_gains` for highlights.

        Raises
        ------
        WhiteBalanceError
            A temperature, or what a name means by one, for a camera whose colours are not known.
        """
        if self.name == "as-shot":
            return np.asarray(frame.as_shot_wb, np.float64)
        if self.name == "daylight" and frame.daylight_wb is not None:
            return np.asarray(frame.daylight_wb, np.float64)
        if self.gains is not None:
            return np.array(self.gains) / self.gains[1]
        light = self.light or PRESETS[self.name]
        if frame.xyz_to_camera is None:
            raise WhiteBalanceError(
                f"{frame.path}: the colours of this camera ({frame.shot.camera or 'unnamed'}) are "
                f"not known, so {light} cannot be turned into gains."
            )
        matrix = frame.matrix_for(xyz_of_light(light))
        gains = None if matrix is None else gains_of_light(light, matrix)
        if gains is None or not _are_usable(gains):
            raise WhiteBalanceError(
                f"{frame.path}: the colour matrix of this camera allows no balance for {light}."
            )
        return gains

    def describe(self, frame: RawFrame) -> str:
        """Name the balance of one photo, in words that follow "white balance"."""
        if self.name == "learned":
            return "learned"
        if self.gains is not None:
            return "gains " + ", ".join(f"{gain:g}" for gain in self.gains)
        if self.light is not None:
            return str(self.light)
        words = self.name.replace("-", " ")
        light = photo_light(self.gains_for(frame), frame)
        return words if light is None else f"{words} ({light})"


def photo_light(gains: NDArray[np.floating], frame: RawFrame) -> Light | None:
    """Temperature and tint of the light that gains make neutral on a photo's camera.

    Parameters
    ----------
    gains : (3,)
        Factors for R, G and B, such as ``frame.as_shot_wb``.
    frame : RawFrame

    Returns
    -------
    Light or None
        None for a camera whose colours are not known, and for gains of no real light.
    """
    if frame.colors is not None:  # whose matrix depends on the light
        xyz = frame.colors.light_of(1 / np.asarray(gains, np.float64))
        return None if xyz is None else light_of_xyz(xyz)
    return None if frame.xyz_to_camera is None else light_of_gains(gains, frame.xyz_to_camera)


def _are_usable(gains: NDArray[np.float64]) -> bool:
    finite = bool(np.isfinite(gains).all() and (gains > 0).all())
    return finite and bool(gains.max() <= _LARGEST_SPREAD * gains.min())
