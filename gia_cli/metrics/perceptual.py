"""What the learned measures share: where their weights lie, and what is said without them.

The weights are not gia's to ship, and nothing is downloaded: they are looked for in
`weights_folder`, and while they are not there a measure is `Unavailable`, with the reason to show.

A picture is a float array (H, W, 3), RGB with sRGB primaries, in [0, 1]. The networks learned from
sRGB code values. Results in the literature on SID are of BT.709 code values taken for sRGB's, which
differ by up to 7 % in the mid-tones: give these to compare with it. Values are not rounded to
8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gia_cli.errors import WeightsMismatchError, WeightsNotFoundError
from gia_cli.metrics.fidelity import Picture
from gia_cli.runtime import cache_folder
from gia_cli.weights.pretrained import Origin


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A measure that cannot be taken on this machine."""

    reason: str
    """What is missing and where it would be looked for."""

    def __str__(self) -> str:
        return f"n/a ({self.reason})"


def weights_folder() -> Path:
    """Name the folder where the weights of measures are looked for: gia's cache, ``metrics``."""
    return cache_folder() / "metrics"


def origin_of(weights: str, network: str, hint: str) -> Origin:
    """Describe where a measure's weights come from, for what is said when they do not fit."""
    return Origin(weights, network, hint, path_hint="Check the path and its permissions.")


def find_file(folder: Path, *patterns: str) -> Path | None:
    """Find a file by the first pattern that any name fits, and the first such name."""
    for pattern in patterns:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found[0]
    return None


def missing(what: str, names: list[str], folder: Path, path: Path | None) -> Unavailable:
    """Say what is missing; refuse if the user named the place."""
    reason = f"{what} needs {' and '.join(names)} in {folder}"
    if path is not None:
        raise WeightsNotFoundError(f"{reason}.", hint="Check the path that was given.")
    return Unavailable(reason)


def refuse_left_over(path: Path, known: Any, found: dict[str, Any], origin: Origin) -> None:
    """Refuse another network's file that happens to begin alike, such as VGG-19's."""
    for name in found:
        if name not in known and not str(name).startswith("classifier."):
            raise WeightsMismatchError(
                f"{path} does not fit {origin.network}: {name} is left over.", hint=origin.hint
            )


def as_tensor(region: Picture, device: torch.device) -> Tensor:
    """(h, w, 3) to (1, 3, h, w) fp32."""
    pixels = torch.from_numpy(np.array(region, np.float32, order="C"))
    return pixels.permute(2, 0, 1)[None].to(device)
