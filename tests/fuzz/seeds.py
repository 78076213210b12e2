"""The small whole files that mutants are made from, each of a kind, always the same bytes."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.raw.cfa import XTRANS
from gia_cli.raw.tiff import (
    ASCII,
    BYTE,
    FLOAT,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    Block,
    Entry,
    Ref,
    build,
    walk,
)
from gia_cli.raw.writer import A_SHOT, write_arw, write_dng, write_raf
from tests.fuzz.coded import crw, lossless_jpeg
from tests.imaging.test_xmp import LIGHTROOM
from tests.raw.test_exif import MORE

WARP = (1.0, 0.01, -0.02, 0.001, 0.0, 0.0, 0.5, 0.5)

PHOTO_KINDS = ("arw", "raf", "dng", "crw")
KINDS = (*PHOTO_KINDS, "weights")


@dataclass(frozen=True, slots=True)
class Seed:
    """A whole file, or two that belong together."""

    name: str
    """File name; its ending is part of what a reader goes by."""
    data: bytes = field(repr=False)
    pixels: tuple[int, int] = (0, 0)
    """Where the photosites are, first byte and end: where a changed byte changes little."""
    row: dict[str, Any] | None = None
    """Of weights: their row of a manifest."""


@cache
def seeds(kind: str) -> tuple[Seed, ...]:
    """Make the seeds of a kind.

    Parameters
    ----------
    kind : one of `KINDS`
    """
    if kind == "weights":
        return _weights()
    if kind == "crw":
        data, _ = crw(random.Random(1))
        return (Seed("photo.CRW", data, (540, 0x4000)),)
    return {"arw": _arw, "raf": _raf, "dng": _dng}[kind]()


def _night(seed: int, height: int, width: int, black: int) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    light = np.linspace(0, 400, width) ** 1.1
    noisy = rng.normal(black + light, 12, (height, width))
    return np.clip(noisy.round(), 0, 16383).astype(np.uint16)


def _photo(name: str, mosaic: NDArray[np.uint16], write: Any, **options: Any) -> Seed:
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path, mosaic, **options)
        data = path.read_bytes()
    start = data.find(mosaic.tobytes())
    return Seed(name, data, (start, start + mosaic.nbytes))


def _arw() -> tuple[Seed, ...]:
    preview = np.full((16, 16, 3), 64, np.uint8)
    return (
        _photo("photo.ARW", _night(1, 48, 64, 512), write_arw, preview=preview),
        _photo("turned.ARW", _night(2, 40, 96, 512), write_arw, preview=preview, orientation=6),
        _photo(
            "placed.ARW",
            _night(10, 40, 64, 512),
            write_arw,
            preview=preview,
            shot=replace(A_SHOT, more=MORE),
        ),
    )


def _raf() -> tuple[Seed, ...]:
    preview = np.full((16, 16, 3), 64, np.uint8)
    margins = (6, 12, 48, 60)
    return (
        _photo("photo.RAF", _night(3, 60, 84, 1024), write_raf, preview=preview),
        _photo("margins.RAF", _night(4, 66, 90, 1024), write_raf, preview=preview, margins=margins),
    )


def _dng() -> tuple[Seed, ...]:
    levels = [
        Entry(0xC619, SHORT, [2, 2]),
        Entry(0xC61A, RATIONAL, [(1025, 2), (512, 1), (511, 1), (2049, 4)]),
        Entry(0xC61B, SRATIONAL, [(i % 5, 4) for i in range(64)]),
        Entry(0xC61C, SRATIONAL, [(-i % 3, 2) for i in range(48)]),
        Entry(0xC618, SHORT, list(range(0, 65535, 16))),  # a linearisation table
        Entry(0xC61E, RATIONAL, [(1, 1), (2, 1)]),
    ]
    matrix = [(round(v * 10000), 10000) for v in (0.8, -0.2, -0.1, -0.5, 1.2, 0.3, -0.1, 0.2, 0.6)]
    forward = [(round(v * 10000), 10000) for v in (0.7, 0.2, 0.1, 0.3, 0.6, 0.1, 0.0, 0.1, 0.7)]
    colors = [
        Entry(0xC622, SRATIONAL, matrix),
        Entry(0xC65B, SHORT, 17),
        Entry(0xC623, SRATIONAL, [(i % 4 == 0, 1) for i in range(9)]),
        Entry(0xC624, SRATIONAL, [(i % 4 == 0, 1) for i in range(9)]),
        Entry(0xC627, RATIONAL, [(1, 1), (11, 10), (1, 1)]),
        Entry(0xC629, RATIONAL, [(3457, 10000), (3585, 10000)]),
        Entry(0xC714, SRATIONAL, forward),
        Entry(0xC715, SRATIONAL, forward),
        Entry(0xC614, ASCII, "A Make A Model"),
        Entry(0xC6F8, ASCII, "a profile"),
        Entry(0xC740, UNDEFINED, bytes(64)),
        Entry(0xC62A, RATIONAL, (1, 2)),
        Entry(0xC634, BYTE, b"Adobe\0" + bytes(40)),
    ]
    areas = [Entry(0xC68E, LONG, [0, 0, 48, 16]), Entry(0xC61F, SHORT, [0, 0])]
    gains = [Entry(0x9100, FLOAT, [1.5, 2.5]), Entry(0x02BC, BYTE, b"<x:xmpmeta/>")]
    said = [
        Entry(0x02BC, BYTE, LIGHTROOM.encode()),
        # A list of one opcode, WarpRectilinear of one plane.
        Entry(0xC74E, UNDEFINED, struct.pack(">5I I8d", 1, 1, 0x1030000, 0, 68, 1, *WARP)),
    ]
    flat = _night(5, 48, 64, 512)
    flat[:, :16] = np.clip(flat[:, :16], 500, 520)
    return (
        _photo("plain.dng", _night(6, 48, 64, 512), write_dng),
        _photo("said.dng", _night(11, 48, 64, 512), write_dng, extra=said),
        _photo("levels.dng", _night(7, 48, 64, 512), write_dng, black=[512] * 4, extra=levels),
        _photo("colors.dng", _night(8, 40, 80, 512), write_dng, extra=colors, wb=None),
        _photo("areas.dng", flat, write_dng, extra=[*areas, *gains], active_area=(0, 16, 48, 64)),
        _photo(
            "xtrans.dng",
            _night(9, 60, 84, 512),
            write_dng,
            pattern=XTRANS,
            active_area=(6, 6, 60, 84),
        ),
        _coded_dng("coded.dng", "<"),
        _coded_dng("coded_big.dng", ">"),
    )


def _coded_dng(name: str, order: Any) -> Seed:
    """Lossless JPEG in three tiles; a preview comes first, as in most DNGs."""
    mosaic = _night(10, 48, 96, 512)
    tiles = [lossless_jpeg(mosaic[:, left : left + 32]) for left in (0, 32, 64)]
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        write_dng(path, mosaic)
        with path.open("rb") as file:
            (tags, *_) = walk(file)
    raw = [
        Entry(0x00FE, LONG, 0),
        Entry(0x0100, LONG, 96),
        Entry(0x0101, LONG, 48),
        Entry(0x0102, SHORT, 16),
        Entry(0x0103, SHORT, 7),
        Entry(0x0106, SHORT, 32803),
        Entry(0x0115, SHORT, 1),
        Entry(0x0142, LONG, 32),
        Entry(0x0143, LONG, 48),
        Entry(0x0144, LONG, [Ref(f"tile{index}") for index in range(3)]),
        Entry(0x0145, LONG, [len(tile) for tile in tiles]),
        Entry(0x828D, SHORT, [2, 2]),
        Entry(0x828E, BYTE, bytes([0, 1, 1, 2])),
        Entry(0xC61A, SHORT, 512),
        Entry(0xC61D, LONG, 16383),
    ]
    preview = [
        Entry(0x00FE, LONG, 1),
        Entry(0x0100, LONG, 8),
        Entry(0x0101, LONG, 8),
        Entry(0x0102, SHORT, [8, 8, 8]),
        Entry(0x0103, SHORT, 1),
        Entry(0x0106, SHORT, 2),
        Entry(0x010F, ASCII, "SONY"),
        Entry(0x0110, ASCII, "ILCE-7SM2"),
        Entry(0x0111, LONG, Ref("preview")),
        Entry(0x0115, SHORT, 3),
        Entry(0x0117, LONG, 192),
        Entry(0x014A, LONG, Ref("sub")),
        Entry(0xC612, BYTE, bytes([1, 4, 0, 0])),
        Entry(0xC621, SRATIONAL, [(round(v * 1e4), 10000) for v in tags.floats(0xC621)]),
        Entry(0xC628, RATIONAL, [(1, 2), (1, 1), (2, 3)]),
        Entry(0xC65A, SHORT, 21),
    ]
    blocks: dict[str, Block] = {"ifd0": preview, "sub": raw, "preview": bytes(192)}
    blocks |= {f"tile{index}": tile for index, tile in enumerate(tiles)}
    data = build(blocks, order=order)
    start = data.find(tiles[0])
    # The tables at a tile's start are worth as much as any tag.
    return Seed(name, data, (start + 80, data.find(tiles[1])))


# ---------------------------------------------------------------- weights


def _weights() -> tuple[Seed, ...]:
    import torch

    from gia_cli.nets import build as build_network
    from gia_cli.nets.config import NetConfig
    from gia_cli.weights.storage import save_weights

    configs = {
        "small.safetensors": NetConfig("gia-net", "bayer", width=2, vector=3),
        "balanced.safetensors": NetConfig(
            "sid-net", "xtrans", width=2, white_balance="as-shot", input_floor=None
        ),
    }
    made = []
    for name, config in configs.items():
        torch.manual_seed(0)
        network = build_network(config)
        with TemporaryDirectory() as folder:
            path = Path(folder, name)
            row = save_weights(
                path, network, camera="ILCE-7SM2", daylight_wb=[2.1, 1.0, 1.6], training={"a": 1}
            )
            made.append(Seed(name, path.read_bytes(), row=json.loads(json.dumps(row))))
    return tuple(made)
