"""What other programs wrote beside a photo or into it: XMP sidecars, found, read and understood.

``night.ARW.xmp`` is how darktable names one, ``night.xmp`` how Adobe's programs and Capture One do.
Where both are there each property is the former's, if it has it: its name says which file it is of,
while ``night.xmp`` might be of a JPEG of the same name. What neither says, the XMP within the photo
does. Sidecars are only ever read.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from gia_cli.enhance.white_balance import WhiteBalance
from gia_cli.errors import SidecarError
from gia_cli.files import open_plain
from gia_cli.imaging import xmp
from gia_cli.imaging.temperature import HIGHEST_KELVIN, LARGEST_TINT, LOWEST_KELVIN, Light
from gia_cli.raw.exif import ARTIST, COPYRIGHT, DESCRIPTION, MoreExif, ShotInfo, clean_text, utf8
from gia_cli.raw.tiff import ASCII, BYTE, RATIONAL, Entry

#: Those of Lightroom have a few hundred KB where masks were painted.
MOST_BYTES = 1 << 25
_LONGEST_NAME = 40  # of a white balance, in a message
_MOST_STOPS = 10.0  # Lightroom's slider ends at 5

# The words of Adobe's programs for what we know by other ones.
_BALANCES = ("Daylight", "Cloudy", "Shade", "Tungsten", "Fluorescent", "Flash")
_DEVELOP = {
    xmp.full(name)
    for name in (
        *("tiff:Orientation", "photoshop:SidecarForExtension", "crs:AlreadyApplied"),
        *("crs:WhiteBalance", "crs:Temperature", "crs:Tint", "crs:Exposure2012", "crs:Exposure"),
    )
}
_BALANCE_TAGS = ("crs:WhiteBalance", "crs:Temperature", "crs:Tint")
_SECOND_UNITS, _A_METRE = 100_000, 1e-5  # of an angle's second; in degrees
_SYNCHRONISED = {DESCRIPTION: "dc:description", ARTIST: "dc:creator", COPYRIGHT: "dc:rights"}


@dataclass(frozen=True, slots=True)
class DevelopSettings:
    """How a sidecar wants its photo developed, of what gia can do; None where it does not say."""

    orientation: int | None = None
    """As EXIF counts, from 1 to 8."""
    white_balance: WhiteBalance | None = None
    exposure_ev: float | None = None
    """Stops brighter."""

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.orientation, self.white_balance)) or (
            self.exposure_ev is not None
        )

    def report(self) -> dict[str, Any]:
        """Name what is there, for a report as JSON."""
        stated = {
            "orientation": self.orientation,
            "white_balance": None if self.white_balance is None else _words(self.white_balance),
            "exposure_ev": self.exposure_ev,
        }
        return {name: value for name, value in stated.items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(
            f"{name.replace('_ev', '').replace('_', ' ')} "
            + (f"{value:+g} EV" if name == "exposure_ev" else str(value))
            for name, value in self.report().items()
        )


@dataclass(frozen=True, slots=True, eq=False)
class PhotoMetadata:
    """What the XMP of a photo says."""

    paths: tuple[Path, ...] = ()
    """The sidecars that were read."""
    properties: Mapping[str, Element] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    """What a user should know of them, one sentence each."""
    used: DevelopSettings = DevelopSettings()
    """What the picture was developed by."""
    is_balanced: bool = False
    """Whether a white balance was chosen when the picture was made, by an option or by this."""

    def packet(self, software: str, *, for_raw: bool = False) -> bytes:
        """Write what holds for a picture of the photo; empty where there is nothing.

        Parameters
        ----------
        software : str
        for_raw : bool
            For a file that is yet to be developed, such as a DNG: the white balance goes along,
            unless the picture was made with a chosen one. Exposure never does: it was chosen for a
            photo that is not brightened yet. Nor does anything else that was set for another
            rendering.
        """
        chosen = xmp.carried(self.properties)
        if for_raw and not self.is_balanced and not _is_applied(self.properties):
            balance = {xmp.full(name) for name in _BALANCE_TAGS} & self.properties.keys()
            chosen |= {name: self.properties[name] for name in sorted(balance)}
            if balance:
                chosen[xmp.full("crs:HasSettings")] = xmp.simple("crs:HasSettings", "True")
        return xmp.packet(chosen, software)

    def report(self) -> dict[str, Any] | None:
        """Name the sidecars and what was used, for a report as JSON; None for neither."""
        if not self.paths and not self.used:
            return None
        return {"files": [str(path) for path in self.paths], "used": self.used.report()}

    def develop_settings(self) -> tuple[DevelopSettings, tuple[str, ...]]:
        """Understand the develop settings; with a sentence on each that cannot be used."""
        if _is_applied(self.properties):
            return DevelopSettings(), ()
        notes: list[str] = []
        orientation = _number(self.properties, "tiff:Orientation")
        if orientation is not None and orientation not in range(1, 9):
            orientation = None  # darktable's own count begins at 0
        stops = _number(self.properties, "crs:Exposure2012")
        if stops is None:
            stops = _number(self.properties, "crs:Exposure")
        if stops is not None and abs(stops) > _MOST_STOPS:
            notes.append(f"an exposure of {stops:g} EV is not used.")
            stops = None
        return (
            DevelopSettings(
                None if orientation is None else int(orientation),
                _white_balance(self.properties, notes),
                stops,
            ),
            tuple(notes),
        )

    def shot(self, shot: ShotInfo) -> ShotInfo:
        """Let the EXIF say the same as the XMP of description, author and place.

        Programs differ in which of the two they believe.
        """
        texts = {tag: xmp.text_of(self.properties, name) for tag, name in _SYNCHRONISED.items()}
        changed = {tag: Entry(tag, ASCII, utf8(text)) for tag, text in texts.items() if text}
        place = _place(self.properties)
        if not changed and not place:
            return shot
        more = shot.more or MoreExif()
        kept = [entry for entry in more.first if entry.tag not in changed]
        gps = more.gps
        if place and not _is_at(gps, place):  # with what was measured on the way there
            gps = tuple(place)
        return replace(shot, more=replace(more, first=(*kept, *changed.values()), gps=gps))


NO_METADATA = PhotoMetadata()


def find_sidecars(photo: Path) -> list[Path]:
    """Find the sidecars of a photo, in whatever case their names are written.

    Parameters
    ----------
    photo : Path

    Returns
    -------
    list of Path
        ``night.ARW.xmp`` before ``night.xmp``; one of each at most, rather the one whose case is
        the photo's.
    """
    try:
        with os.scandir(photo.parent) as entries:
            names = [entry.name for entry in entries if entry.name.lower().endswith(".xmp")]
    except OSError:
        return []
    found = []
    for stem in (photo.name, photo.stem):
        spelled = [name for name in names if name[:-4].casefold() == stem.casefold()]
        spelled.sort(key=lambda name: (not name.startswith(stem), name))
        found += [photo.with_name(name) for name in spelled[:1]]
    return found


def read_metadata(photo: Path | None, embedded: bytes, *, strict: bool) -> PhotoMetadata:
    """Read the sidecars of a photo and the XMP within it.

    Parameters
    ----------
    photo : Path, optional
        Where sidecars may lie beside; None for a photo that is no file.
    embedded : bytes
        The packet in the photo; empty for none.
    strict : bool
        Whether a sidecar that cannot be read is an error. It is a note otherwise, and the picture
        does without it. A broken packet within the photo is always a note: nobody can mend it.

    Raises
    ------
    SidecarError
    """
    notes: list[str] = []
    read: list[Path] = []
    properties: xmp.Properties = {}
    for path in [] if photo is None else find_sidecars(photo):
        try:
            found = xmp.parse(_contents(path), _is_wanted, str(path))
        except SidecarError as error:
            if strict:
                raise
            notes.append(f"nothing is carried over from its sidecar. {error.message}")
            continue
        extension = xmp.text_of(found, "photoshop:SidecarForExtension")
        assert photo is not None
        if extension is not None and extension.lower() != photo.suffix[1:].lower():
            continue  # of night.RAF, say, which lies beside night.ARW
        read.append(path)
        properties = found | properties
    if embedded:
        try:
            properties = xmp.parse(embedded, _is_wanted, "the XMP within") | properties
        except SidecarError as error:
            notes.append(error.message)
    return PhotoMetadata(tuple(read), properties, tuple(notes))


def _contents(path: Path) -> bytes:
    try:
        with open_plain(path) as (file, size):
            if size > MOST_BYTES:
                raise SidecarError(f"{path} is too large for a sidecar.")
            return file.read(MOST_BYTES)
    except OSError as error:
        raise SidecarError(f"{path} cannot be read: {error.strerror or error}.") from error


def _is_wanted(name: str) -> bool:
    return name in _DEVELOP or xmp.is_read(name)


def _is_applied(properties: Mapping[str, Element]) -> bool:
    """Whether the settings are those that a rendered picture was made with."""
    return (xmp.text_of(properties, "crs:AlreadyApplied") or "").lower() == "true"


def _number(properties: Mapping[str, Element], name: str) -> float | None:
    try:
        value = float(xmp.text_of(properties, name) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _white_balance(properties: Mapping[str, Element], notes: list[str]) -> WhiteBalance | None:
    """Understand a white balance; None for the camera's own, which needs no setting."""
    name = xmp.text_of(properties, "crs:WhiteBalance")
    kelvin, tint = (_number(properties, f"crs:{tag}") for tag in ("Temperature", "Tint"))
    if name == "As Shot":
        return None
    if name in _BALANCES:
        return WhiteBalance(name.lower())
    if kelvin is None:
        if name is not None:
            shown = textwrap.shorten(clean_text(name) or "?", _LONGEST_NAME)
            notes.append(f"the white balance '{shown}' has no temperature; it is not used.")
        return None
    light = Light(
        min(max(kelvin, LOWEST_KELVIN), HIGHEST_KELVIN),
        min(max(tint or 0.0, -LARGEST_TINT), LARGEST_TINT),
    )
    if light.kelvin != kelvin:
        notes.append(f"a temperature of {kelvin:g} K is limited to {light.kelvin:g} K.")
    return WhiteBalance("temperature", light)


def _place(properties: Mapping[str, Element]) -> list[Entry]:
    """Turn XMP's latitude, longitude and altitude into EXIF's; empty without the first two."""
    latitude = _angle(properties, "exif:GPSLatitude", "NS", 90)
    longitude = _angle(properties, "exif:GPSLongitude", "EW", 180)
    if latitude is None or longitude is None:
        return []
    place = [Entry(0, BYTE, b"\2\3\0\0")]
    for tag, (degrees, side) in ((1, latitude), (3, longitude)):
        place += [Entry(tag, ASCII, side.encode()), Entry(tag + 1, RATIONAL, _sexagesimal(degrees))]
    altitude = re.fullmatch(r"(\d{1,9})/([1-9]\d{0,8})", _text(properties, "exif:GPSAltitude"))
    if altitude is not None:
        below = _text(properties, "exif:GPSAltitudeRef") == "1"
        metres = int(altitude[1]), int(altitude[2])
        place += [Entry(5, BYTE, bytes([below])), Entry(6, RATIONAL, [metres])]
    return place


def _angle(
    properties: Mapping[str, Element], name: str, sides: str, most: int
) -> tuple[float, str] | None:
    """Read "45,26.274N" or "45,26,16N": degrees, and which side."""
    parts = re.fullmatch(
        rf"(\d{{1,3}}),(\d{{1,2}}(?:\.\d+)?)(?:,(\d{{1,2}}(?:\.\d+)?))?([{sides}])",
        _text(properties, name),
    )
    if parts is None:
        return None
    degrees = int(parts[1]) + float(parts[2]) / 60 + float(parts[3] or 0) / 3600
    return (degrees, parts[4]) if degrees <= most else None


def _sexagesimal(degrees: float) -> list[tuple[int, int]]:
    """Degrees, minutes and seconds as fractions; a unit of the last is 0.3 mm on the ground."""
    units = round(degrees * 3600 * _SECOND_UNITS)
    minutes, seconds = divmod(units, 60 * _SECOND_UNITS)
    return [(minutes // 60, 1), (minutes % 60, 1), (seconds, _SECOND_UNITS)]


def _is_at(gps: Sequence[Entry], place: Sequence[Entry]) -> bool:
    """Whether EXIF names the place already, to within about a metre."""
    ours, theirs = _coordinates(gps), _coordinates(place)
    if ours is None or theirs is None:
        return False
    return all(abs(a - b) < _A_METRE for a, b in zip(ours, theirs, strict=True))


def _coordinates(gps: Sequence[Entry]) -> tuple[float, float] | None:
    """Latitude and longitude in degrees, of whichever sign; None where they are not stated."""
    entries = {entry.tag: entry for entry in gps}
    found = []
    for tag in (1, 3):
        side, angle = entries.get(tag), entries.get(tag + 1)
        if side is None or angle is None or side.type != ASCII or angle.type != RATIONAL:
            return None
        if len(angle.values) != 3 or not all(below for _, below in angle.values):
            return None
        degrees = sum(above / below / 60**n for n, (above, below) in enumerate(angle.values))
        found.append(-degrees if side.values[:1] in (b"S", b"W") else degrees)
    return found[0], found[1]


def _text(properties: Mapping[str, Element], name: str) -> str:
    return xmp.text_of(properties, name) or ""


def _words(balance: WhiteBalance) -> str:
    return balance.name if balance.light is None else str(balance.light)
