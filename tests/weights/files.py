"""What several tests of weights write, and how they spoil it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from gia_cli.nets.config import NetConfig
from gia_cli.weights.manifest import MANIFEST
from tests.networks import DEFAULT

SMALL = NetConfig("gia-net", "bayer", width=2, vector=3)
SMALL_XTRANS = NetConfig("sid-net", "xtrans", width=2, upsample_bias=False)


def write_manifest(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps({"weights": list(rows)}), encoding="utf-8")


def flip_bit(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


SHIPPED = DEFAULT

Tensors = dict[str, torch.Tensor]
