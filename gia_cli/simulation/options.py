"""What `gia simulate` is asked for.

Nothing here imports NumPy, so the command line reads defaults at its start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gia_cli.cameras import CameraName, WhiteBalance
from gia_cli.files import OnExists
from gia_cli.sid_layout import Split

TreeSplit = Literal["auto", Split]


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """How `gia simulate` photographs a picture."""

    camera: CameraName = "ILCE-7SM2"
    ratio: float = 100.0
    """How much shorter than the long exposure the short one is."""
    iso: int = 1600
    wb: WhiteBalance | None = None
    """Gains (r, g, b) of the light, of which only the quotients matter; by default the median of
    SID's scenes."""
    long_exposure_s: float = 10.0
    """SID's, for most of its scenes."""
    aperture: float = 8.0
    """Only written into the EXIF."""
    shrink: int = 1
    """Side of the block of pixels that becomes one photosite."""
    ev: float = 0.0
    """Stops by which the scene is brighter than the picture."""
    clean_long: bool = False
    """Whether the long exposure is free of noise; a real one is not."""
    seed: int = 0
    on_exists: OnExists = "error"


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How `gia simulate --sid` makes a data set of pictures."""

    exposure: SimulateOptions = field(default_factory=SimulateOptions)
    """Its ratio, ISO and white balance are not used."""
    ratios: tuple[float, ...] | None = None
    """Ratios of each scene's short exposures; by default those of the SID scene that is drawn."""
    iso: int | None = None
    """By default the drawn scene's."""
    wb: WhiteBalance | None = None
    """By default the drawn scene's."""
    burst: int = 1
    """Short exposures at each ratio, with the names `_00_`, `_01_`, ..."""
    split: TreeSplit = "auto"
    """The list that the pictures go to; "auto" deals them out."""
    test_share: float = 0.22
    """Share of the tree's pictures on the test list; SID has 50 of 231 Sony scenes there."""
    val_share: float = 0.09
    """Share on the validation list; SID has 20 of 231."""
