from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from PIL import Image

from gia_cli.errors import SidecarError
from gia_cli.imaging.xmp import (
    MOST_BYTES,
    NAMESPACES,
    carried,
    full,
    is_carried,
    is_read,
    packet,
    parse,
    simple,
    text_of,
)

SPACES = " ".join(
    f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items() if prefix != "xml"
)


def xmp_text(attributes: str = "", elements: str = "") -> str:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {SPACES}>'
        f'<rdf:Description rdf:about="" {attributes}>{elements}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )


LIGHTROOM = xmp_text(
    'xmp:Rating="4" xmp:Label="Red" photoshop:City="Venezia" crs:Exposure2012="+1.50" '
    'xmp:CreatorTool="Lightroom" tiff:Orientation="6" exif:GPSLatitude="45,26.2777N"',
    """
    <dc:title><rdf:Alt>
      <rdf:li xml:lang="x-default">Rialto &amp; the &lt;moon&gt;</rdf:li>
      <rdf:li xml:lang="it">Rialto e la luna</rdf:li>
    </rdf:Alt></dc:title>
    <dc:subject><rdf:Bag><rdf:li>night</rdf:li><rdf:li>Zoë</rdf:li></rdf:Bag></dc:subject>
    <lr:hierarchicalSubject><rdf:Bag><rdf:li>places|Venice</rdf:li></rdf:Bag>
    </lr:hierarchicalSubject>
    <Iptc4xmpCore:CreatorContactInfo Iptc4xmpCore:CiAdrCity="Venezia"/>
    <crs:ToneCurve><rdf:Seq><rdf:li>0, 0</rdf:li></rdf:Seq></crs:ToneCurve>
    <xmpMM:History xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"><rdf:Seq/></xmpMM:History>
    """,
)


def _read(text: str) -> dict[str, Any]:
    return parse(text.encode(), is_read, "night.xmp")


def _by_pillow(data: bytes) -> dict[str, Any]:
    """What Pillow and defusedxml read in a packet, of a PNG that holds it."""
    plain = io.BytesIO()
    Image.new("RGB", (1, 1)).save(plain, "PNG")
    body = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + data
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    whole = plain.getvalue()
    with Image.open(io.BytesIO(whole[:33] + chunk + whole[33:])) as picture:
        found: dict[str, Any] = picture.getxmp()["xmpmeta"]["RDF"]["Description"]
    return found


def test_what_is_carried_is_read_by_others_as_it_was_written() -> None:
    before = _by_pillow(LIGHTROOM.encode())
    after = _by_pillow(packet(carried(_read(LIGHTROOM)), "gia 1"))
    gone = {"Exposure2012", "CreatorTool", "Orientation", "ToneCurve", "History", "about"}
    assert gone - {"about"} <= before.keys()
    assert after.pop("CreatorTool") == "gia 1"
    after.pop("about")
    assert after == {name: value for name, value in before.items() if name not in gone}


def test_a_packet_is_one() -> None:
    data = packet({full("xmp:Rating"): simple("xmp:Rating", "-1")}, "gia 1")
    assert data.startswith(b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>')
    assert data.endswith(b'<?xpacket end="w"?>')
    assert 2000 <= data.count(b" ") <= 2100
    assert text_of(parse(data, is_carried, ""), "xmp:Rating") == "-1"
    assert packet({}, "gia 1") == b""


def test_unknown_namespaces_within_get_prefixes() -> None:
    inner = '<dc:relation><rdf:Bag><rdf:li><a:b xmlns:a="urn:a" a:c="&quot;"/></rdf:li></rdf:Bag>'
    again = parse(packet(_read(xmp_text("", inner + "</dc:relation>")), "g"), is_carried, "")
    (element,) = again[full("dc:relation")].iter("{urn:a}b")
    assert element.attrib == {"{urn:a}c": '"'}


@pytest.mark.parametrize("text", ["line\rfeed", "a\nb\tc", "<&>\"'", "\u2067\U0001f319", "  two  "])
def test_texts_survive(text: str) -> None:
    properties = {full("dc:source"): simple("dc:source", text)}
    again = parse(packet(properties, "gia"), is_carried, "")
    assert again[full("dc:source")].text == text


def test_what_does_not_fit_into_a_jpeg_is_left_out() -> None:
    names = ["dc:source", "dc:rights", "xmp:Rating"]
    values = ["x" * 50_000, "y" * 20_000, "5"]
    properties = {full(n): simple(n, v) for n, v in zip(names, values, strict=True)}
    data = packet(properties, "gia")
    assert len(data) < 65_502
    assert len(data) > MOST_BYTES - 10_000
    assert parse(data, is_carried, "").keys() == {full("dc:source"), full("xmp:Rating")}


@pytest.mark.parametrize(("number", "label"), [("0", "Red"), ("4", "Purple"), ("5", None)])
def test_darktables_colours_become_labels(number: str, label: str | None) -> None:
    colors = f"<darktable:colorlabels><rdf:Seq><rdf:li>{number}</rdf:li></rdf:Seq>"
    found = carried(_read(xmp_text("", colors + "</darktable:colorlabels>")))
    assert text_of(found, "xmp:Label") == label
    found = carried(_read(xmp_text('xmp:Label="Mine"', colors + "</darktable:colorlabels>")))
    assert text_of(found, "xmp:Label") == "Mine"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str) -> None:
    data = LIGHTROOM.encode(encoding)
    found = parse(data + b"\0" * (8 if encoding == "utf-8" else 0), is_read, "")
    assert [li.text for li in found[full("dc:subject")].iter(full("rdf:li"))] == ["night", "Zoë"]


# ---------------------------------------------------------------- hostile packets

BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no element found"),
        (b"<x/>", "holds no XMP"),
        (b"a JPEG, perhaps", "syntax error, in line 1"),
        (LIGHTROOM.encode()[:900], "line"),
        (LIGHTROOM.replace("Zoë", "Zo\x00").encode(), "line"),
        (LIGHTROOM.encode("latin-1"), "not well-formed"),
        ((BOMB + xmp_text("", "<dc:source>&b;</dc:source>")).encode(), "document type"),
        ((BOMB + xmp_text("", "<dc:source>&b;</dc:source>")).encode("utf-16"), "document type"),
        ((FILE + xmp_text("", "<dc:source>&a;</dc:source>")).encode(), "document type"),
        (b"<!DOCTYPE x SYSTEM 'http://127.0.0.1/x'><x/>", "document type"),
        (b'<?xml version="1.0" encoding="idna"?><x/>', "unknown encoding"),
        (b'<?xml version="1.0" encoding="nothing"?><x/>', "unknown encoding"),
        (b"<a>" * 5000, "nested too deeply"),
        (
            xmp_text("", "<dc:source>" + "<b>" * 99 + "</b>" * 99 + "</dc:source>").encode(),
            "deeply",
        ),
        (xmp_text("", "<dc:source>" + "<b/>" * 30_000 + "</dc:source>").encode(), "too much"),
        (xmp_text("", f"<dc:source>{'b' * (1 << 20)}!</dc:source>").encode(), "too much"),
        (xmp_text(f'dc:source="{"b" * (1 << 20)}!"').encode(), "too much"),
    ],
    ids=range(17),
)
def test_what_is_no_xmp_or_a_bomb_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(SidecarError, match=words) as caught:
        parse(data, is_read, "night.xmp")
    assert str(caught.value).startswith("night.xmp cannot be read: ")
    assert "\n" not in str(caught.value)


def test_what_is_not_wanted_takes_no_memory() -> None:
    masks = "<crs:Masks><rdf:Seq>" + "<rdf:li>x</rdf:li>" * 20_000 + "</rdf:Seq></crs:Masks>"
    data = xmp_text('xmp:Rating="3"', masks).encode()
    tracemalloc.start()
    try:
        assert text_of(parse(data, is_read, ""), "xmp:Rating") == "3"
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)  # a tree takes 10 times that
    finally:
        tracemalloc.stop()


def test_damaged_packets_are_read_or_refused(rng: Any) -> None:
    whole = LIGHTROOM.encode()
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(0, 256)
        try:
            packet(carried(parse(bytes(data), is_read, "")), "gia")
        except SidecarError:
            refused += 1
    assert 0 < refused < 300
