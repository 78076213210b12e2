"""What the paper published, and which training each of its rows stands for.

Meng, Xu, Ho, *GIA-Net: Global Information Aware Network for Low-light Imaging*, 2020, Tables 1 to
4. Its numbers are of SID's test sets; ours on any other data do not compare with them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

TableName = Literal["1", "2", "3"]
#: The measures of the tables, in their order.
PUBLISHED_MEASURES = ("psnr", "ssim", "pieapp", "lpips")
#: The size of the paper's Table 4 in photosites, height and width: an A7S II frame.
PAPER_SIZE = (2832, 4240)


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row of Table 1, 2 or 3."""

    name: str
    network: str | None
    """Name in `nets.config.NETWORKS`; None for a number that the paper took from elsewhere."""
    loss: str | None
    multi_size: bool
    """Whether the crops' side is drawn again for every iteration."""
    published: dict[str, tuple[float | None, ...]]
    """Of each camera, "sony" and "fuji": `PUBLISHED_MEASURES`; None where the paper has none."""

    @property
    def slug(self) -> str:
        """The name as a folder's or file's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@lru_cache(maxsize=1)
def _facts() -> dict[str, Any]:
    path = resources.files("gia_cli") / "calibration" / "paper.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def paper_table(name: TableName) -> list[PaperRow]:
    """Read Table 1 (all systems), 2 (how the frame is seen) or 3 (what each part gives)."""
    return [
        PaperRow(
            name=row["name"],
            network=row["network"],
            loss=row["loss"],
            multi_size=row["multi_size"],
            published={camera: tuple(values) for camera, values in row["published"].items()},
        )
        for row in _facts()["tables"][name]
    ]


def paper_costs() -> dict[str, dict[str, float]]:
    """Read Table 4: parameters and FLOPs of SID-Net, and GIA-Net's in proportion."""
    table = _facts()["table4"]
    return {name: table[name] for name in ("sid-net", "gia-net")}
