"""What other programs wrote beside a photo or into it: XMP sidecars, found, read and understood.

``night.ARW.xmp`` is how darktable names one, ``night.xmp`` how Adobe's programs and Capture One do.
Where both are there each property is the former's, if it has it: its name says which file it is of,
while ``night.xmp`` might be of a JPEG of the same name. What neither says, the XMP within the photo
does. Sidecars are only ever read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from gia_cli.enhance.white_balance import WhiteBalance
from gia_cli.errors import SidecarError
from gia_cli.files import open_plain
from gia_cli.imaging import xmp
from gia_cli.imaging.temperature import HIGHEST_KELVIN, LARGEST_TINT, LOWEST_KELVIN, Light
from gia_cli.raw.exif import ARTIST, COPYRIGHT, DESCRIPTION, MoreExif, ShotInfo, utf8
from gia_cli.raw.tiff import ASCII, Entry

#: Those of Lightroom have a few hundred KB where masks were painted.
MOST_BYTES = 1 << 25
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

    def packet(self, software: str, *, for_raw: bool = False) -> bytes:
        """Write what holds for a picture of the photo; empty where there is nothing.

        Parameters
        ----------
        software : str
        for_raw : bool
            For a file that is yet to be developed, such as a DNG: the white balance goes along,
            unless it has been used. Exposure never does: it was chosen for a photo that is not
            brightened yet. Nor does anything else that was set for another rendering.
        """
        chosen = xmp.carried(self.properties)
        if for_raw and self.used.white_balance is None and not _is_applied(self.properties):
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
        """Let the EXIF say the same as the XMP where both speak of description and author."""
        texts = {tag: xmp.text_of(self.properties, name) for tag, name in _SYNCHRONISED.items()}
        changed = {tag: Entry(tag, ASCII, utf8(text)) for tag, text in texts.items() if text}
        if not changed:
            return shot
        more = shot.more or MoreExif()
        kept = [entry for entry in more.first if entry.tag not in changed]
        return replace(shot, more=replace(more, first=(*kept, *changed.values())))


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
    if len(read) > 1:
        notes.append(f"it has two sidecars; {read[0].name} comes before {read[1].name}.")
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
            notes.append(f"the white balance '{name}' comes without a temperature; it is not used.")
        return None
    light = Light(
        min(max(kelvin, LOWEST_KELVIN), HIGHEST_KELVIN),
        min(max(tint or 0.0, -LARGEST_TINT), LARGEST_TINT),
    )
    if light.kelvin != kelvin:
        notes.append(f"a temperature of {kelvin:g} K is limited to {light.kelvin:g} K.")
    return WhiteBalance("temperature", light)


def _words(balance: WhiteBalance) -> str:
    return balance.name if balance.light is None else str(balance.light)
