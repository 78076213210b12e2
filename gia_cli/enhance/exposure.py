"""How bright: the amplification ratio, from the user, a reference photo, EXIF or the picture.

The training data's ratio is the exposure time of a well-exposed long shot over that of the short
one, at most 300 (Chen et al. 2018). A user has no long shot, so it must be guessed or given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gia_cli.arguments import instance_of, number
from gia_cli.errors import ExposureError, UsageError
from gia_cli.imaging.blocks import block_means
from gia_cli.raw.calibrated_black import likely_black
from gia_cli.raw.cfa import PLANE_COLORS, align, pack, plane_values
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.reader import RawFrame

Rule = Literal["given", "target", "reference", "exif", "highlights", "shadows", "picture", "limit"]

#: The long exposures of the training data last about 10 s.
REFERENCE_EXPOSURE_S = 10.0
#: The largest ratio of the training data.
MAX_RATIO = 300.0

# What "auto" knows of pictures, in units of saturation, over blocks of 4x4 cells in the largest
# white-balanced channel. The bright end of a well-exposed picture (its 99.8th percentile) lies
# about here (fitted by `research/fit_ratio.py`: 85 % of 610 simulated exposures come to within half
# a stop of the ratio they were darkened by; other percentiles, or several, do no better). Within
# these factors of it the exposure time is believed.
_BRIGHT_PERCENTILE = 99.8
_BRIGHT_TARGET = 0.9
_DARKEST_BRIGHT_END = 0.45
# EXIF may blow out this share of the picture, no more.
_BLOWN_SHARE_PERCENT = 1.0
_BLOCK_CELLS = 4


@dataclass(frozen=True, slots=True)
class ExposureRequest:
    """What the user asked for; at most one of the four ways, none of them means auto."""

    ratio: float | None = None
    target_exposure_s: float | None = None
    """Brighten to what this exposure time, in seconds, would have given."""
    reference: ShotInfo | None = None
    """Brighten to this shot's exposure (time * ISO / f-number squared)."""
    brackets: tuple[float, ...] = ()
    """Several ratios: one picture for each."""
    max_ratio: float = MAX_RATIO
    exposure_ev: float | None = None
    """Stops to go up or down from the ratio that the above lead to; not with brackets. None means
    none, unless a sidecar that is used says otherwise."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for contradictions and impossible numbers."""
        numbers = {"ratio": self.ratio, "target exposure": self.target_exposure_s}
        for what, value in {**numbers, "largest ratio": self.max_ratio}.items():
            if value is not None or what == "largest ratio":
                number(value, what)
        if not isinstance(self.brackets, tuple | list):
            raise UsageError("Brackets are several ratios, in a tuple.")
        for ratio in self.brackets:
            number(ratio, "ratio of a bracket")
        if self.reference is not None:
            instance_of(self.reference, ShotInfo, "reference")
        ways = [self.ratio, self.target_exposure_s, self.reference, self.brackets or None]
        if sum(way is not None for way in ways) > 1:
            raise UsageError(
                "Give only one of --ratio, --brackets, --target-exposure and --reference."
            )
        if not 1 <= self.max_ratio < np.inf:
            raise UsageError(f"--max-ratio must be a number from 1 on, not {self.max_ratio:g}.")
        if self.exposure_ev is not None and not np.isfinite(number(self.exposure_ev, "--exposure")):
            raise UsageError("--exposure is a number of stops, such as 0.5 or -1.")
        if self.exposure_ev and self.brackets:
            raise UsageError("Give --exposure or --brackets, not both.")
        if self.target_exposure_s is not None and not 0 < self.target_exposure_s < np.inf:
            raise UsageError(f"--target-exposure must be positive, not {self.target_exposure_s:g}.")
        if len({f"{ratio:g}" for ratio in self.brackets}) < len(self.brackets):
            raise UsageError("--brackets lists a ratio twice.")
        for ratio in (*self.brackets, *([] if self.ratio is None else [self.ratio])):
            if not 1 <= ratio <= self.max_ratio:
                above = "The networks are trained up to 300; --max-ratio raises the limit."
                raise UsageError(
                    f"A ratio must be between 1 and {self.max_ratio:g}, not {ratio:g}.",
                    hint=above if ratio > 1 else "gia brightens; it does not darken.",
                )


@dataclass(frozen=True, slots=True)
class RatioChoice:
    """The ratio used, the rule that decided, and why in one line."""

    ratio: float
    rule: Rule
    reason: str


def choose_ratios(frame: RawFrame, request: ExposureRequest) -> list[RatioChoice]:
    """Work out the amplification ratio, or one for each bracket.

    Parameters
    ----------
    frame : RawFrame
    request : ExposureRequest

    Returns
    -------
    list of RatioChoice
        One, unless brackets were asked for.

    Raises
    ------
    ExposureError
        The way asked for needs an exposure time that a file does not state.
    """
    if request.brackets:
        return [_given(ratio) for ratio in request.brackets]
    choice = _choose(frame, request)
    if not request.exposure_ev:
        return [choice]
    why = f"{choice.reason}; {request.exposure_ev:+g} EV"
    ratio = choice.ratio * 2**request.exposure_ev
    return [_bounded(ratio, request.max_ratio, choice.rule, why)]


def _choose(frame: RawFrame, request: ExposureRequest) -> RatioChoice:
    limit = request.max_ratio
    if request.ratio is not None:
        return _given(request.ratio)
    if request.target_exposure_s is not None:
        own = _time(frame.shot, str(frame.path))
        why = f"a {_seconds(request.target_exposure_s)} exposure in place of {_seconds(own)}"
        return _bounded(request.target_exposure_s / own, limit, "target", why)
    if request.reference is not None:
        ratio = _exposure_quotient(request.reference, frame.shot)
        why = f"to the reference's exposure ({describe_shot(request.reference)})"
        return _bounded(ratio, limit, "reference", why)
    return auto_ratio(frame, limit)


def _given(ratio: float) -> RatioChoice:
    return RatioChoice(float(ratio), "given", "as given")


def _bounded(ratio: float, limit: float, rule: Rule, why: str) -> RatioChoice:
    if ratio > limit:
        return RatioChoice(limit, "limit", f"{why}: {ratio:.4g}, limited to {limit:g}")
    if ratio < 1:
        return RatioChoice(1.0, "limit", f"{why}: {ratio:.2g}; gia never darkens")
    return RatioChoice(ratio, rule, why)


# ---------------------------------------------------------------- auto


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What the picture itself says of a ratio; infinite where it holds no light at all."""

    fitting: float
    """Brings the bright end to where well-exposed pictures have it."""
    lowest: float
    """Below, even the bright end stays dark."""
    highest: float
    """Above, more than a small share of the picture blows out."""


def auto_ratio(frame: RawFrame, limit: float = MAX_RATIO) -> RatioChoice:
    """Choose a ratio from the exposure time, within what the picture needs and bears.

    The exposure time says 10 s / t, as in the training data. Where that would blow out more than
    1 % of the picture it is held back; where it leaves even the brightest parts dark it is raised,
    but only until they no longer are. Without an exposure time the picture decides alone.

    Parameters
    ----------
    frame : RawFrame
    limit : float
        The largest ratio allowed.
    """
    picture = picture_limits(frame)
    if picture.fitting == np.inf:
        return RatioChoice(limit, "limit", "the picture is completely black; the limit is used")
    time = frame.shot.exposure_s
    if time is None or not 0 < time < np.inf:
        why = "no exposure time in the file; bright parts brought to nine tenths of white"
        return _bounded(picture.fitting, limit, "picture", why)
    wanted = REFERENCE_EXPOSURE_S / time
    rule = f"a {REFERENCE_EXPOSURE_S:g} s exposure in place of {_seconds(time)}"
    if wanted > picture.highest:
        why = f"{rule} would be {wanted:.4g}; reduced so that no more than 1 % blows out"
        return _bounded(picture.highest, limit, "highlights", why)
    if wanted < picture.lowest:
        why = f"{rule} would be {wanted:.4g}; raised until the brightest parts are no longer dark"
        return _bounded(picture.lowest, limit, "shadows", why)
    return _bounded(wanted, limit, "exif", rule)


def picture_limits(frame: RawFrame) -> PictureLimits:
    """Measure how much amplification a picture needs and bears.

    Block means, because single photosites of a night shot hold more noise than light; the black
    level is subtracted before, unclipped, so that noise cancels out.
    """
    brightness = block_brightness(frame)
    bright_end = float(np.percentile(brightness, _BRIGHT_PERCENTILE))
    blown_end = float(np.percentile(brightness, 100 - _BLOWN_SHARE_PERCENT))
    if bright_end <= 0:
        return PictureLimits(np.inf, np.inf, np.inf)
    highest = 1 / blown_end if blown_end > 0 else np.inf
    lowest = _DARKEST_BRIGHT_END / bright_end
    return PictureLimits(_BRIGHT_TARGET / bright_end, min(lowest, highest), highest)


def block_brightness(frame: RawFrame) -> NDArray[np.float32]:
    """Largest white-balanced channel of each block, in units of saturation, unamplified."""
    aligned, _ = align(frame.mosaic, frame.phase, frame.kind)
    planes = pack(aligned, frame.kind)
    black, white = (
        plane_values(level, frame.kind, frame.phase) for level in (likely_black(frame), frame.white)
    )
    colors = np.array(PLANE_COLORS[frame.kind])
    side = min(_BLOCK_CELLS, *planes.shape[1:])
    means = [block_means(plane, side) for plane in planes]
    unit = [(m - b) / (w - b) for m, b, w in zip(means, black, white, strict=True)]
    channels = [
        frame.as_shot_wb[color] * np.mean([unit[i] for i in np.flatnonzero(colors == color)], 0)
        for color in range(3)
    ]
    brightest: NDArray[np.float32] = np.max(channels, axis=0)
    return brightest


# ---------------------------------------------------------------- exposure arithmetic


def _exposure_quotient(reference: ShotInfo, photo: ShotInfo) -> float:
    """Light times gain, t * ISO / f-number squared, of the reference over that of the photo.

    An ISO or aperture that either file does not state counts as equal.
    """
    quotient = _time(reference, "The file of the reference") / _time(photo, "The file of the photo")
    if reference.iso and photo.iso:
        quotient *= reference.iso / photo.iso
    if reference.aperture and photo.aperture:
        quotient *= (photo.aperture / reference.aperture) ** 2
    return quotient


def _time(shot: ShotInfo, file: str) -> float:
    if shot.exposure_s is None or not 0 < shot.exposure_s < np.inf:
        raise ExposureError(f"{file} does not state its exposure time.")
    return shot.exposure_s


def describe_shot(shot: ShotInfo) -> str:
    """One phrase for a shot's exposure: "1/30 s, ISO 1600, f/8"; empty when nothing is known."""
    parts = [_seconds(shot.exposure_s) if shot.exposure_s else None]
    parts += [f"ISO {shot.iso}" if shot.iso else None]
    parts += [f"f/{shot.aperture:g}" if shot.aperture else None]
    return ", ".join(part for part in parts if part)


def _seconds(time: float) -> str:
    return f"1/{1 / time:.0f} s" if time < 0.3 else f"{time:.3g} s"
