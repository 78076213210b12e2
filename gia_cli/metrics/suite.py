"""All measures of a picture against its ground truth, by name, with those that cannot be taken.

What `gia eval` writes for each photo; each measure itself is in a module of its own here.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli._version import __version__
from gia_cli.metrics.color import block_color_error, delta_e, exposure_error_stops
from gia_cli.metrics.fidelity import ms_ssim, psnr, ssim
from gia_cli.metrics.flatness import NAMES, flat_noise
from gia_cli.metrics.lpips import Lpips, LpipsNet, load_lpips, lpips
from gia_cli.metrics.perceptual import Unavailable
from gia_cli.metrics.pieapp import PieApp, load_pieapp, pieapp

Picture = NDArray[np.floating]
Measure = Callable[[Picture, Picture], float]

#: Taken always, as `flatness.NAMES` are, which one function measures; they need no weights.
BASIC: dict[str, Measure] = {
    "psnr": psnr,
    "ssim": ssim,
    "ms_ssim": ms_ssim,
    "delta_e": delta_e,
    "block_color": block_color_error,
    "exposure_stops": exposure_error_stops,
}


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures that can be taken here."""

    available: dict[str, Measure] = field(repr=False)
    """Those with a function each; `flat_noise` is taken beside them."""
    keys: dict[str, str]
    """Of each available one: what its values depend on beside the pictures."""
    unavailable: dict[str, str]
    """Name to the reason."""

    @classmethod
    def load(
        cls,
        lpips_alex: Path | None = None,
        lpips_vgg: Path | None = None,
        pieapp_weights: Path | None = None,
    ) -> Measures:
        """Load the networks of LPIPS and PieAPP, where their weights are.

        Parameters
        ----------
        lpips_alex, lpips_vgg, pieapp_weights : Path, optional
            By default looked for in the cache; see `metrics.perceptual`.

        Raises
        ------
        WeightsError
            A file that was named, or is there, cannot be used.
        """
        available, unavailable = dict(BASIC), {}
        keys = dict.fromkeys([*BASIC, *NAMES], __version__)
        nets: dict[LpipsNet, Path | None] = {"alex": lpips_alex, "vgg": lpips_vgg}
        for net, path in nets.items():
            lpips_model = load_lpips(net, path)
            if isinstance(lpips_model, Unavailable):
                unavailable[f"lpips_{net}"] = lpips_model.reason
            else:
                available[f"lpips_{net}"] = partial(lpips, model=lpips_model)
                keys[f"lpips_{net}"] = _digest(lpips_model)
        pieapp_model = load_pieapp(pieapp_weights)
        if isinstance(pieapp_model, Unavailable):
            unavailable["pieapp"] = pieapp_model.reason
        else:
            available["pieapp"] = partial(pieapp, model=pieapp_model)
            keys["pieapp"] = _digest(pieapp_model)
        return cls(available, keys, unavailable)

    @property
    def names(self) -> list[str]:
        """Names of the measures that `take` returns."""
        return [*self.available, *NAMES]

    def take(self, picture: Picture, target: Picture) -> dict[str, float | None]:
        """Measure a picture, (H, W, 3) BT.709-encoded, which is clipped to [0, 1] first.

        None for a measure whose window is larger than the picture, or that has no finite value (the
        PSNR of equal pictures, say; the noise in flat places where there are none).
        """
        picture = np.clip(picture, 0, 1)
        values: dict[str, float] = {}
        for name, measure in self.available.items():
            try:
                values[name] = float(measure(picture, target))
            except ValueError:
                if picture.shape != target.shape:
                    raise
                values[name] = math.nan
        values |= flat_noise(picture, target)
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _digest(model: Lpips | PieApp) -> str:
    """Identify the weights of a network."""
    total = 0
    for name, tensor in sorted(model.state_dict().items()):
        total = zlib.crc32(tensor.cpu().numpy().tobytes(), zlib.crc32(name.encode(), total))
    return f"{__version__} {total:08x}"
