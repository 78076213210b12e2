"""OpenEXR: linear light as floats, not clipped, for compositing and grading; written atomically."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gia_cli.errors import UsageError
from gia_cli.files import atomic_file
from gia_cli.imaging.color_space import SRGB, ColorSpace
from gia_cli.imaging.save_options import EXR_COMPRESSION, ExrCompression
from gia_cli.imaging.writer import exif_block
from gia_cli.raw.exif import ShotInfo

_MAX_HALF = 65504.0
_GPS_IFD = 0x8825


def write_exr(
    path: Path,
    linear: NDArray[np.float32],
    *,
    space: ColorSpace = SRGB,
    bits: int = 16,
    shot: ShotInfo | None = None,
    software: str = "gia",
    comment: str = "",
    xmp: bytes = b"",
    compression: ExrCompression = EXR_COMPRESSION,
) -> None:
    """Write an EXR; all of it or nothing.

    Parameters
    ----------
    path : Path
    linear : (H, W, 3) float32
        Linear light of the space, upright; 1 is white, and what is brighter is kept.
    space : ColorSpace
        Its primaries and white become the attribute ``chromaticities``.
    bits : 16 or 32
        Half or single floats.
    shot : ShotInfo, optional
        Becomes attributes, those of the format's own names where it has any.
    software, comment : str
        The attributes ``software`` and ``comments``.
    xmp : bytes
        An XMP packet: the attribute ``xmp``, a text.
    compression : str
        As OpenEXR's tools name them.

    Raises
    ------
    UsageError
        The package OpenEXR is missing.
    OutputError
        The file cannot be written.
    """
    codec = open_exr()
    header = {
        "compression": getattr(codec, f"{_constant(compression)}_COMPRESSION"),
        "type": codec.scanlineimage,
        "chromaticities": tuple(x for point in (*space.primaries, space.white) for x in point),
        **dict(_attributes(shot or ShotInfo())),
        **dict(_place(exif_block(shot or ShotInfo()))),
        **{name: text for name, text in (("software", software), ("comments", comment)) if text},
    }
    if xmp:
        header["xmp"] = xmp.decode("utf-8", "replace")
    channels = {name: _channel(linear[..., i], bits) for i, name in enumerate("RGB")}
    with atomic_file(path) as file, codec.File(header, channels) as image:
        image.write(file)


def open_exr() -> Any:
    """Import the package that writes EXR.

    Raises
    ------
    UsageError
        It is missing.
    """
    try:
        return import_module("OpenEXR")
    except ModuleNotFoundError as error:
        raise UsageError(
            "EXR files need the package OpenEXR.", hint="pip install 'gia-cli[exr]'"
        ) from error


def _constant(compression: ExrCompression) -> str:
    return "NO" if compression == "none" else compression.upper()


def _channel(plane: NDArray[np.float32], bits: int) -> NDArray[np.floating]:
    if bits == 32:
        return np.ascontiguousarray(plane)
    return np.clip(plane, -_MAX_HALF, _MAX_HALF).astype(np.float16)


def _attributes(shot: ShotInfo) -> Iterator[tuple[str, object]]:
    """Name a shot's facts as OpenEXR's standard attributes do (ImfStandardAttributes.h)."""
    numbers = {
        "expTime": shot.exposure_s,
        "aperture": shot.aperture,
        "isoSpeed": shot.iso,
        "nominalFocalLength": shot.focal_mm,
    }
    texts = {
        "cameraMake": shot.make,
        "cameraModel": shot.model,
        "lensModel": shot.lens,
        "capDate": shot.taken,
        "owner": shot.owner,
    }
    yield from ((name, float(value)) for name, value in numbers.items() if value is not None)
    yield from ((name, text) for name, text in texts.items() if text)


def _place(exif: bytes) -> Iterator[tuple[str, float]]:
    """Name what an EXIF block says of the place: degrees, east and north, and metres."""
    block = Image.Exif()
    block.load(b"Exif\0\0" + exif)
    gps = block.get_ifd(_GPS_IFD)
    for name, reference, tag, negative in (("latitude", 1, 2, "S"), ("longitude", 3, 4, "W")):
        angle = _numbers(gps.get(tag))
        if len(angle) == 3:
            degrees = angle[0] + angle[1] / 60 + angle[2] / 3600
            yield name, -degrees if gps.get(reference) == negative else degrees
    for metres in _numbers(gps.get(6))[:1]:
        yield "altitude", -metres if gps.get(5) in (1, b"\1") else metres


def _numbers(value: object) -> list[float]:
    """Take the numbers of an entry; none if one of them is none, such as 0/0."""
    values = value if isinstance(value, tuple) else (value,)
    try:
        numbers = [float(each) for each in values]
    except (TypeError, ValueError, ZeroDivisionError):
        return []
    return numbers if np.isfinite(numbers).all() else []
