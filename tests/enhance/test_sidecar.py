from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exifread
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gia_cli.cli.app import app
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.enhance.sidecar import (
    MOST_BYTES,
    DevelopSettings,
    find_sidecars,
    read_metadata,
)
from gia_cli.enhance.stages import Enhanced
from gia_cli.enhance.white_balance import WhiteBalance
from gia_cli.errors import SidecarError
from gia_cli.imaging.temperature import Light
from gia_cli.raw.exif import MoreExif, ShotInfo, read_embedded_xmp, read_shot
from gia_cli.raw.reader import read_raw
from gia_cli.raw.tiff import ASCII, BYTE, RATIONAL, Entry
from gia_cli.raw.writer import write_dng
from tests.enhance.test_enhancer import balanced_weights
from tests.imaging.test_xmp import xmp_text
from tests.progress_spy import ProgressSpy

MakePhoto = Callable[..., Path]
CUSTOM = 'crs:WhiteBalance="Custom" crs:Temperature="3200" crs:Tint="+5"'
SETTINGS = f'xmp:Rating="4" tiff:Orientation="6" crs:Exposure2012="-0.50" {CUSTOM}'
KEYWORDS = (
    "<dc:subject><rdf:Bag><rdf:li>night</rdf:li><rdf:li>Venice</rdf:li></rdf:Bag></dc:subject>"
)
TITLE = "<dc:title><rdf:Alt><rdf:li xml:lang='x-default'>Rialto</rdf:li></rdf:Alt></dc:title>"
AUTHOR = "<dc:creator><rdf:Seq><rdf:li>Zoë</rdf:li></rdf:Seq></dc:creator>"


def _write(path: Path, attributes: str = SETTINGS, elements: str = KEYWORDS + TITLE) -> Path:
    path.write_text(xmp_text(attributes, elements), encoding="utf-8")
    return path


def _properties(picture: Path) -> dict[str, Any]:
    """What Pillow reads of a picture's XMP; of a TIFF or DNG it is handed the packet."""
    with Image.open(picture) as image:
        found = image.getxmp()
    description: dict[str, Any] = found["xmpmeta"]["RDF"]["Description"] if found else {}
    return description


# ---------------------------------------------------------------- found


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], []),
        (["night.xmp"], ["night.xmp"]),
        (["night.ARW.xmp"], ["night.ARW.xmp"]),
        (["night.XMP", "other.xmp"], ["night.XMP"]),
        (["NIGHT.arw.XMP"], ["NIGHT.arw.XMP"]),
        (["night.xmp", "night.ARW.xmp"], ["night.ARW.xmp", "night.xmp"]),
        (["Night.xmp", "night.XMP", "NIGHT.xmp"], ["night.XMP"]),
        (["night.RAF.xmp", "night2.xmp", "night.pp3", "night"], []),
    ],
)
def test_sidecars_are_found_by_either_name(
    tmp_path: Path, names: list[str], found: list[str]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert find_sidecars(tmp_path / "night.ARW") == [tmp_path / name for name in found]


def test_without_a_folder_there_is_no_sidecar(tmp_path: Path) -> None:
    assert find_sidecars(tmp_path / "gone" / "night.ARW") == []


def test_the_sidecar_that_names_the_file_comes_first(tmp_path: Path) -> None:
    _write(tmp_path / "night.xmp", 'xmp:Rating="2" xmp:Label="Green"', KEYWORDS)
    _write(tmp_path / "night.ARW.xmp", 'xmp:Rating="-1"', "")
    embedded = xmp_text('xmp:Rating="5" photoshop:City="Venezia"', "").encode()
    metadata = read_metadata(tmp_path / "night.ARW", embedded, strict=True)
    packet = metadata.packet("gia").decode()
    assert "<xmp:Rating>-1<" in packet and "Green" in packet
    assert "night</rdf:li>" in packet and "Venezia" in packet
    assert [path.name for path in metadata.paths] == ["night.ARW.xmp", "night.xmp"]


@pytest.mark.parametrize(("extension", "is_ours"), [("ARW", True), ("arw", True), ("RAF", False)])
def test_a_sidecar_of_another_photo_of_that_name_is_none(
    tmp_path: Path, extension: str, is_ours: bool
) -> None:
    _write(tmp_path / "night.xmp", f'photoshop:SidecarForExtension="{extension}" xmp:Rating="1"')
    metadata = read_metadata(tmp_path / "night.ARW", b"", strict=True)
    assert bool(metadata.paths) is bool(metadata.packet("gia")) is is_ours


# ---------------------------------------------------------------- understood


@pytest.mark.parametrize(
    ("attributes", "settings", "notes"),
    [
        ("", DevelopSettings(), 0),
        (SETTINGS, DevelopSettings(6, WhiteBalance("temperature", Light(3200, 5)), -0.5), 0),
        ('crs:WhiteBalance="As Shot" crs:Temperature="5000"', DevelopSettings(), 0),
        ('crs:WhiteBalance="Tungsten"', DevelopSettings(None, WhiteBalance("tungsten")), 0),
        (
            'crs:WhiteBalance="Auto" crs:Temperature="4100"',
            DevelopSettings(None, WhiteBalance("temperature", Light(4100))),
            0,
        ),
        ('crs:WhiteBalance="Auto"', DevelopSettings(), 1),
        (
            'crs:Temperature="50000" crs:Tint="-999"',
            DevelopSettings(None, WhiteBalance("temperature", Light(15000, -150))),
            1,
        ),
        ('crs:Exposure="+2"', DevelopSettings(exposure_ev=2.0), 0),
        ('crs:Exposure2012="0.00" crs:Exposure="+2"', DevelopSettings(exposure_ev=0.0), 0),
        ('crs:Exposure2012="1e9"', DevelopSettings(), 1),
        ('crs:Exposure2012="inf" crs:Temperature="nan" tiff:Orientation="x"', DevelopSettings(), 0),
        ('tiff:Orientation="0"', DevelopSettings(), 0),
        ('tiff:Orientation="9"', DevelopSettings(), 0),
        (f'{SETTINGS} crs:AlreadyApplied="True"', DevelopSettings(), 0),
    ],
)
def test_develop_settings_are_understood(
    tmp_path: Path, attributes: str, settings: DevelopSettings, notes: int
) -> None:
    _write(tmp_path / "night.xmp", attributes)
    metadata = read_metadata(tmp_path / "night.ARW", b"", strict=True)
    found, said = metadata.develop_settings()
    assert (found, len(said)) == (settings, notes)


def test_what_a_sidecar_says_cannot_command_a_terminal(tmp_path: Path) -> None:
    _write(tmp_path / "night.xmp", f'crs:WhiteBalance="a&#x9b;31m&#x202e;{"b" * 10_000}"')
    metadata = read_metadata(tmp_path / "night.ARW", b"", strict=True)
    (note,) = metadata.develop_settings()[1]
    assert len(note) < 120 and note.isprintable()


def test_settings_are_named_in_words() -> None:
    settings = DevelopSettings(6, WhiteBalance("temperature", Light(3200, 5)), -0.5)
    assert str(settings) == "orientation 6, white balance 3200 K, tint +5, exposure -0.5 EV"
    assert DevelopSettings(exposure_ev=0.0) and not DevelopSettings()


def test_description_and_author_are_the_same_in_exif(tmp_path: Path) -> None:
    _write(tmp_path / "night.xmp", "", AUTHOR)
    metadata = read_metadata(tmp_path / "night.ARW", b"", strict=True)
    camera = MoreExif(
        first=(Entry(0x010E, ASCII, b"SONY DSC"), Entry(0x013B, ASCII, b"somebody")),
        gps=(Entry(1, ASCII, b"N"),),
    )
    more = metadata.shot(ShotInfo(more=camera)).more
    assert more is not None and more.gps == camera.gps
    assert more.first == (camera.first[0], Entry(0x013B, ASCII, "Zoë".encode()))


IN_VENICE = (
    Entry(1, ASCII, b"N"),
    Entry(2, RATIONAL, [(45, 1), (26, 1), (1644, 100)]),
    Entry(3, ASCII, b"E"),
    Entry(4, RATIONAL, [(12, 1), (20, 1), (888, 100)]),
    Entry(29, ASCII, b"2026:02:03"),
)


def _placed(folder: Path, attributes: str) -> tuple[Entry, ...]:
    """The GPS entries of a photo taken in Venice that has this sidecar."""
    _write(folder / "night.xmp", attributes, "")
    metadata = read_metadata(folder / "night.ARW", b"", strict=True)
    more = metadata.shot(ShotInfo(more=MoreExif(gps=IN_VENICE))).more
    assert more is not None
    return more.gps


def test_a_place_that_was_set_elsewhere_is_the_pictures(tmp_path: Path) -> None:
    place = 'exif:GPSLatitude="33,51.4044S" exif:GPSLongitude="151,12,55.5E" '
    assert _placed(tmp_path, place + 'exif:GPSAltitude="35/10" exif:GPSAltitudeRef="1"') == (
        Entry(0, BYTE, b"\2\3\0\0"),
        Entry(1, ASCII, b"S"),
        Entry(2, RATIONAL, [(33, 1), (51, 1), (2426400, 100000)]),
        Entry(3, ASCII, b"E"),
        Entry(4, RATIONAL, [(151, 1), (12, 1), (5550000, 100000)]),
        Entry(5, BYTE, b"\1"),
        Entry(6, RATIONAL, [(35, 10)]),
    )


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        'exif:GPSLatitude="45,26.274000N" exif:GPSLongitude="12,20.148E"',  # the same place
        'exif:GPSLatitude="33,51.4044S"',
        'exif:GPSLatitude="33,51.4044E" exif:GPSLongitude="151,12,55.5E"',
        'exif:GPSLatitude="91,0.0N" exif:GPSLongitude="151,12,55.5E"',
        'exif:GPSLatitude="north" exif:GPSLongitude="151,12,55.5E"',
    ],
)
def test_the_cameras_place_stays_where_no_other_was_set(tmp_path: Path, attributes: str) -> None:
    assert _placed(tmp_path, attributes) == IN_VENICE


# ---------------------------------------------------------------- broken


def _broken(path: Path) -> None:
    path.write_bytes(b"<x:xmpmeta")


def _bomb(path: Path) -> None:
    path.write_text("<!DOCTYPE x [<!ENTITY a 'b'>]>" + xmp_text())


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
@pytest.mark.parametrize("make", [_broken, _bomb, _large, _folder, _pipe, _loop])
def test_a_broken_sidecar_costs_the_photo_only_if_it_is_to_be_used(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "night.xmp")
    metadata = read_metadata(tmp_path / "night.ARW", b"", strict=False)
    assert metadata.packet("gia") == b""
    (note,) = metadata.notes
    assert str(tmp_path / "night.xmp") in note
    with pytest.raises(SidecarError) as caught:
        read_metadata(tmp_path / "night.ARW", b"", strict=True)
    assert caught.value.exit_code == 32


def test_a_broken_packet_within_costs_nothing(tmp_path: Path) -> None:
    _write(tmp_path / "night.xmp")
    metadata = read_metadata(tmp_path / "night.ARW", b"<x", strict=True)
    assert b"Rialto" in metadata.packet("gia")
    assert len(metadata.notes) == 1


# ---------------------------------------------------------------- through the whole


def _enhanced(photo: Path, enhancer: Enhancer, **options: Any) -> Enhanced:
    return enhancer.enhance(photo, **options)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".tif", ".png", ".dng"])
def test_metadata_reach_every_format_and_no_file_is_touched(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, suffix: str
) -> None:
    photo, sidecar = make_arw(), _write(tmp_path / "night.xmp", elements=KEYWORDS + TITLE + AUTHOR)
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in (photo, sidecar)]
    result = _enhanced(photo, enhancer, ratio=100)
    out = tmp_path / f"out{suffix}"
    result.save(out)
    assert [(p.read_bytes(), p.stat().st_mtime_ns) for p in (photo, sidecar)] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [photo.name, sidecar.name, out.name]
    )
    found = _properties(out)
    assert found["Rating"] == "4"
    assert found["subject"]["Bag"]["li"] == ["night", "Venice"]
    assert found["title"]["Alt"]["li"]["text"] == "Rialto"
    assert found["CreatorTool"].startswith("gia ")
    # A DNG is yet to be balanced; its exposure has been chosen.
    assert found.get("Temperature") == ("3200" if suffix == ".dng" else None)
    assert "Exposure2012" not in found and "Orientation" not in found
    with out.open("rb") as file:
        tags = exifread.process_file(file, details=False)
    assert str(tags["Image Artist"]) == "Zoë"
    assert (result.choice.ratio, result.frame.flip) == (100, 0)


@pytest.mark.slow
def test_a_sidecar_is_used_where_no_option_says_otherwise(
    make_arw: MakePhoto, tmp_path: Path
) -> None:
    photo = make_arw()
    _write(tmp_path / "night.xmp")
    weights = balanced_weights(tmp_path)
    plain = Enhancer.from_weights(weights).enhance(photo)
    spy = ProgressSpy()
    enhancer = Enhancer.from_weights(weights, use_sidecar=True)
    used = enhancer.enhance(photo, progress=spy)
    assert used.choice.ratio == pytest.approx(plain.choice.ratio / 2**0.5)
    height, width = plain.image.shape[:2]
    assert used.image.shape == (width, height, 3)
    words = "orientation 6, white balance 3200 K, tint +5, exposure -0.5 EV"
    assert f"night.ARW: by its sidecar: {words}" in spy.details
    assert "night.ARW: sidecar night.xmp" in spy.details
    assert used.white_balance == "3200 K, tint +5"
    assert used.metadata.used.report() == {
        "orientation": 6, "white_balance": "3200 K, tint +5", "exposure_ev": -0.5,
    }  # fmt: skip
    # It is the picture that the options would have given.
    asked = Enhancer.from_weights(weights, white_balance="3200K,5")
    request = ExposureRequest(exposure_ev=-0.5)
    by_options = asked.enhance(photo, exposure=request)
    assert np.array_equal(used.image, np.rot90(by_options.image, -1))
    # Options win.
    both = Enhancer.from_weights(weights, white_balance="as-shot", use_sidecar=True)
    result = both.enhance(photo, exposure=ExposureRequest(exposure_ev=0.0))
    assert result.choice.ratio == plain.choice.ratio
    assert np.array_equal(result.image, np.rot90(plain.image, -1))
    assert both.enhance(photo, ratio=50).choice.ratio == 50
    # In a DNG a balance that was chosen is its own, and no other is set.
    for picture in (used, result, by_options):
        picture.save(tmp_path / "used.dng")
        assert "Temperature" not in _properties(tmp_path / "used.dng")
    plain.save(tmp_path / "used.dng")
    assert _properties(tmp_path / "used.dng")["Temperature"] == "3200"


@pytest.mark.slow
def test_weights_that_infer_the_light_say_that_they_do(make_arw: MakePhoto, tmp_path: Path) -> None:
    photo = make_arw()
    _write(tmp_path / "night.xmp", CUSTOM)
    spy = ProgressSpy()
    enhancer = Enhancer.from_weights("gia-sony-v6", use_sidecar=True)
    assert enhancer.enhance(photo, progress=spy).metadata.used == DevelopSettings()
    assert any("infers the light" in note for note in spy.notes)


@pytest.mark.slow
def test_contents_have_no_sidecar_but_their_own_xmp(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mosaic = np.full((64, 64), 600, np.uint16)
    tag = Entry(0x02BC, BYTE, xmp_text('xmp:Rating="2"').encode())
    write_dng(tmp_path / "night.DNG", mosaic, extra=[tag])
    _write(tmp_path / "night.DNG.xmp", "", TITLE)
    monkeypatch.chdir(tmp_path)
    from_file = enhancer.enhance("night.DNG", ratio=10)
    assert b"Rialto" in from_file.xmp and b"<xmp:Rating>2<" in from_file.xmp
    frame = read_raw("night.DNG")
    assert enhancer.enhance(frame, ratio=10).xmp == from_file.xmp
    with Path("night.DNG").open("rb") as file:
        from_bytes = enhancer.enhance(file, ratio=10)
    assert b"Rialto" not in from_bytes.xmp and b"<xmp:Rating>2<" in from_bytes.xmp


@pytest.mark.slow
def test_the_command_uses_sidecars_of_a_folder_and_reports_them(
    make_arw: MakePhoto, tmp_path: Path
) -> None:
    for name in ("card/a.ARW", "card/b.ARW", "card/c.ARW"):
        make_arw(name)
    card, out = tmp_path / "card", tmp_path / "out"
    sidecar = _write(card / "a.xmp", 'xmp:Rating="3" tiff:Orientation="8"')
    (card / "c.xmp").write_text("broken")
    command = ["enhance", str(card), "--out-dir", str(out), "--weights", "gia-sony-lite"]
    run = CliRunner().invoke(app, [*command, "--use-sidecar", "--json"])
    assert run.exit_code == 3
    first, second, third = json.loads(run.stdout)["files"]
    assert first["sidecar"] == {"files": [str(sidecar)], "used": {"orientation": 8}}
    assert (second["status"], second["sidecar"]) == ("written", None)
    assert third["error"]["exit_code"] == 32
    with Image.open(out / "a_gia.tif") as picture:
        assert picture.height > picture.width
    assert b"<xmp:Rating>3<" in read_embedded_xmp(out / "a_gia.tif")
    run = CliRunner().invoke(app, [*command, "--on-exists", "skip"])
    assert run.exit_code == 0
    assert "c.ARW: nothing is carried over from its sidecar" in " ".join(run.stderr.split())
    assert read_embedded_xmp(out / "c_gia.tif") == b""


@pytest.mark.slow
def test_the_place_reaches_the_picture(enhancer: Enhancer, tmp_path: Path) -> None:
    gps = (Entry(1, ASCII, b"N"), Entry(2, RATIONAL, [(45, 1), (26, 1), (1666, 100)]))
    shot = ShotInfo(make="SONY", model="ILCE-7SM2", exposure_s=0.1, more=MoreExif(gps=gps))
    write_dng(tmp_path / "night.DNG", np.full((64, 64), 600, np.uint16), shot=shot)
    result = enhancer.enhance(tmp_path / "night.DNG", ratio=10)
    for name in ("o.tif", "o.dng"):
        result.save(tmp_path / name)
        more = read_shot(tmp_path / name).more
        assert more is not None and more.gps == gps
