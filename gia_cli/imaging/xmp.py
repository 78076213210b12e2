"""XMP: what other programs say of a photo, and which of it a picture of it may say too.

A packet is read by expat itself, which is told to refuse document types (and with them entities,
the bombs among XML), and only the properties that are asked for are built. A packet is written
afresh: develop settings and histories of the RAW file are none of the picture's.

Source: ISO 16684-1 (XMP), part 1; RDF of Adobe's XMP Specification, part 1 (2012).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from xml.etree.ElementTree import Element
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from gia_cli.errors import SidecarError

#: Properties by their full name, "{namespace}name".
Properties = dict[str, Element]

NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xml": "http://www.w3.org/XML/1998/namespace",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "exifEX": "http://cipa.jp/exif/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "darktable": "http://darktable.sf.net/",
}
_PREFIXES = {uri: prefix for prefix, uri in NAMESPACES.items()}


def full(name: str) -> str:
    """Spell a name out.

    Examples
    --------
    >>> full("dc:title")
    '{http://purl.org/dc/elements/1.1/}title'
    """
    prefix, local = name.split(":")
    return f"{{{NAMESPACES[prefix]}}}{local}"


# All of these namespaces is of the photo, but for what is named below them.
_WHOLE = ("dc", "xmpRights", "Iptc4xmpCore", "Iptc4xmpExt", "plus", "aux")
_BUT = {full(name) for name in ("dc:format", "dc:identifier", "dc:type", "Iptc4xmpExt:ImageRegion")}
# Of these only some: the rest is a history, or says how the RAW file is to be developed.
_PARTS = {
    "xmp": ("Rating", "Label"),
    "lr": ("hierarchicalSubject", "weightedFlatSubject"),
    "digiKam": ("TagsList", "ColorLabel", "PickLabel"),
    "MicrosoftPhoto": ("LastKeywordXMP", "LastKeywordIPTC"),
    "photoshop": (
        *("AuthorsPosition", "CaptionWriter", "Category", "City", "Country", "Credit"),
        *("DateCreated", "Headline", "Instructions", "Source", "State"),
        *("SupplementalCategories", "TransmissionReference", "Urgency"),
    ),
    "exifEX": ("LensMake", "LensModel", "LensSerialNumber", "LensSpecification"),
}
_CARRIED = {full(f"{prefix}:{name}") for prefix, names in _PARTS.items() for name in names}
_CARRIED_STARTS = tuple(f"{{{NAMESPACES[prefix]}}}" for prefix in _WHOLE)
_PLACE_START = full("exif:GPS")
_RATING, _LABEL = full("xmp:Rating"), full("xmp:Label")
_COLOR_LABELS = full("darktable:colorlabels")
#: As darktable counts its colour labels, in the words of Adobe's programs.
_DARKTABLE_COLORS = ("Red", "Yellow", "Green", "Blue", "Purple")

_RDF, _DESCRIPTION, _LI = full("rdf:RDF"), full("rdf:Description"), full("rdf:li")
_PACKET_ID = "W5M0MpCehiHzreSzNTczkc9d"
_PADDING = b" " * 99 + b"\n"
_PADDING_LINES = 20  # 2 KB, as Adobe recommends
_MAX_DEPTH, _MAX_ELEMENTS, _MAX_TEXT = 32, 20_000, 1 << 20
#: Of carried properties together: a segment of a JPEG holds 65,502 bytes.
MOST_BYTES = 60_000


# ---------------------------------------------------------------- reading


class _Refused(Exception):
    """A packet that expat could read, but nobody should."""


class _Reader:
    """Collects the wanted properties while expat goes through a packet."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self.found: Properties = {}
        self.has_rdf = False
        self._wanted = wanted
        self._path: list[str] = []
        self._open: list[Element] = []  # the wanted property, and what it is in the midst of
        self._elements = self._text = 0

    def doctype(self, *_: object) -> None:
        raise _Refused("it has a document type, which XMP never has")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = _clark(name)
        if len(self._path) >= _MAX_DEPTH:
            raise _Refused("it is nested too deeply")
        if self._open:
            self._enter(name, attributes)
            self._open[-2].append(self._open[-1])
        elif self._path[-2:] == [_RDF, _DESCRIPTION] and self._wanted(name):
            self._enter(name, attributes)
        elif self._path[-1:] == [_RDF] and name == _DESCRIPTION:
            self._take_attributes(attributes)
        self.has_rdf |= name == _RDF
        self._path.append(name)

    def _enter(self, name: str, attributes: dict[str, str]) -> None:
        self._count(sum(map(len, attributes.values())))
        self._open.append(Element(name, {_clark(key): v for key, v in attributes.items()}))

    def _take_attributes(self, attributes: dict[str, str]) -> None:
        """Take simple properties, which may be attributes of their description."""
        for key, value in attributes.items():
            if self._wanted(_clark(key)):
                self._count(len(value))
                self._add(Element(_clark(key)), value)

    def _count(self, characters: int) -> None:
        self._elements += 1
        self._text += characters
        if self._elements > _MAX_ELEMENTS or self._text > _MAX_TEXT:
            raise _Refused("it says too much")

    def _add(self, element: Element, text: str | None = None) -> None:
        if text is not None:
            element.text = text
        self.found.setdefault(element.tag, element)

    def data(self, text: str) -> None:
        if self._open:
            self._text += len(text)
            if self._text > _MAX_TEXT:
                raise _Refused("it says too much")
            self._open[-1].text = (self._open[-1].text or "") + text

    def end(self, _: str) -> None:
        self._path.pop()
        if self._open:
            done = self._open.pop()
            if len(done) or not (done.text or "").strip():
                done.text = None  # what stands between elements is layout
            if not self._open:
                self._add(done)


def _clark(name: str) -> str:
    """Name as ElementTree has it: expat gives "namespace}name"."""
    return "{" + name if "}" in name else name


def parse(data: bytes, wanted: Callable[[str], bool], source: str) -> Properties:
    """Read the properties of an XMP packet or sidecar that are wanted.

    Parameters
    ----------
    data : bytes
        A whole packet, in UTF-8 or another encoding that XML has.
    wanted : function
        Takes a full name, says whether to read the property.
    source : str
        What to call the packet in an error.

    Raises
    ------
    SidecarError
        It is no XML, has a document type, holds no RDF, or far too much of it.
    """
    reader = _Reader(wanted)
    parser = expat.ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.data
    data = data.lstrip(b" \t\r\n")
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.rstrip(b"\0")  # padding of a tag
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise _unreadable(source, f"{reason}, in line {error.lineno}") from error
    except _Refused as error:
        raise _unreadable(source, str(error)) from error
    except (LookupError, ValueError) as error:
        raise _unreadable(source, "it is in an unknown encoding") from error
    if not reader.has_rdf:
        raise _unreadable(source, "it holds no XMP")
    return reader.found


def _unreadable(source: str, reason: str) -> SidecarError:
    return SidecarError(f"{source} cannot be read: {reason}.")


def text_of(properties: Mapping[str, Element], name: str) -> str | None:
    """Text of a property, or of the first item of a list; None where there is none.

    Parameters
    ----------
    properties : mapping
    name : str
        Such as "xmp:Rating".
    """
    element = properties.get(full(name))
    if element is None:
        return None
    item = next(element.iter(_LI), element)
    return (item.text or "").strip() or None


def is_carried(name: str) -> bool:
    """Whether a property says something of the photo that holds for a picture of it too.

    Examples
    --------
    >>> is_carried(full("xmp:Rating")), is_carried(full("crs:Exposure2012"))
    (True, False)
    """
    if name in _BUT:
        return False
    return name in _CARRIED or name.startswith((*_CARRIED_STARTS, _PLACE_START))


def is_read(name: str) -> bool:
    """Whether `carried` wants to see a property."""
    return is_carried(name) or name == _COLOR_LABELS


def carried(properties: Mapping[str, Element]) -> Properties:
    """Choose what goes along with the photo.

    darktable's colour label becomes one that other programs know, if there is no other.
    """
    chosen = {name: element for name, element in properties.items() if is_carried(name)}
    colors = properties.get(_COLOR_LABELS)
    if colors is not None and _LABEL not in chosen:
        number = next((li.text or "" for li in colors.iter(_LI)), "").strip()
        if number in map(str, range(len(_DARKTABLE_COLORS))):
            chosen[_LABEL] = simple("xmp:Label", _DARKTABLE_COLORS[int(number)])
    return chosen


def simple(name: str, value: str) -> Element:
    """Make a property of one text."""
    element = Element(full(name))
    element.text = value
    return element


# ---------------------------------------------------------------- writing


def packet(properties: Mapping[str, Element], software: str) -> bytes:
    """Write a packet.

    Parameters
    ----------
    properties : mapping
        What is beyond `MOST_BYTES` is left out, property by property.
    software : str
        The CreatorTool.

    Returns
    -------
    bytes
        UTF-8 with padding; none without properties.
    """
    if not properties:
        return b""
    names = dict(_PREFIXES)
    body = ""
    for element in (simple("xmp:CreatorTool", software), *properties.values()):
        written = _written(element, names, 3)
        if len((body + written).encode()) <= MOST_BYTES:
            body += written
    spaces = "".join(
        f"\n    xmlns:{prefix}={quoteattr(uri)}"
        for uri, prefix in names.items()
        if f"{prefix}:" in body and prefix not in ("rdf", "xml")
    )
    text = (
        f'<?xpacket begin="\ufeff" id="{_PACKET_ID}"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk={quoteattr(software)}>\n'
        f' <rdf:RDF xmlns:rdf="{NAMESPACES["rdf"]}">\n'
        f'  <rdf:Description rdf:about=""{spaces}>\n{body}'
        "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n"
    )
    return text.encode() + _PADDING * _PADDING_LINES + b'<?xpacket end="w"?>'


def _written(element: Element, names: dict[str, str], indent: int) -> str:
    """Write an element; namespaces that have no prefix yet get one, in `names`."""
    name = _short(element.tag, names)
    attributes = "".join(
        f" {_short(key, names)}={quoteattr(value)}" for key, value in element.attrib.items()
    )
    space = " " * indent
    if len(element):
        inner = "".join(_written(child, names, indent + 1) for child in element)
        return f"{space}<{name}{attributes}>\n{inner}{space}</{name}>\n"
    if element.text is None:
        return f"{space}<{name}{attributes}/>\n"
    # A bare carriage return would be read back as a line feed.
    text = escape(element.text, {"\r": "&#13;"})
    return f"{space}<{name}{attributes}>{text}</{name}>\n"


def _short(name: str, names: dict[str, str]) -> str:
    if not name.startswith("{"):
        return name
    uri, local = name[1:].split("}")
    return f"{names.setdefault(uri, f'ns{len(names)}')}:{local}"
