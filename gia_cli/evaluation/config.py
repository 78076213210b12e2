"""What to evaluate on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gia_cli.cameras import CameraFamily
from gia_cli.enhance.enhancer import Quality
from gia_cli.errors import UsageError
from gia_cli.evaluation.classical import IspName
from gia_cli.inference.select import EngineName
from gia_cli.runtime import DeviceName, Precision
from gia_cli.sid_layout import Protocol, Split, TruthName

RatioMode = Literal["known", "auto", "picture"]

_HELP = "See 'gia eval --help'."


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """What to evaluate on what."""

    data: Path
    """A tree with SID's names and lists."""
    camera: CameraFamily
    out: Path
    """Folder of the results; the same one resumes."""
    split: Split = "test"
    protocol: Protocol = "all"
    weights: tuple[str, ...] = ()
    """Names or paths; ``LABEL=NAME`` gives a row another name."""
    isp: tuple[IspName, ...] = ()
    """Rows without a network."""
    pictures: tuple[str, ...] = ()
    """``LABEL=FOLDER``: a row of pictures that another program made; see `PicturesSystem`."""
    ratios: tuple[RatioMode, ...] = ("known",)
    """How bright: by the pair's own ratio; as ``--ratio auto`` does; as it does for a photo whose
    exposure time is not known, by the picture alone."""
    balance_errors: tuple[float, ...] = (0.0,)
    """How far the photos' as-shot white balance is made wrong, in per cent: red's gain is times 1 +
    so much, and blue's divided by that. Several are rows of their own; they show what a network
    that gets the white balance loses where a camera errs."""
    qualities: tuple[Quality, ...] = ("normal",)
    """Rows of their own: as `Enhancer` renders by default, and as the mean of eight renderings."""
    limit: int | None = None
    """Evaluate only this many pairs, spread evenly over the list."""
    truth: TruthName = "long"
    """What the pictures are compared with: LibRaw's rendering of the long exposure, as SID has it,
    or, of a simulated tree, the photograph that it was made from. LibRaw's demosaicing is in the
    former, which favours systems that share it where there is little noise."""
    lpips_alex: Path | None = None
    lpips_vgg: Path | None = None
    pieapp: Path | None = None
    versus: str | None = None
    """The row that the others are compared with; None: the first with a network, else the first."""
    device: DeviceName = "auto"
    precision: Precision = "auto"
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be evaluated."""
        if not (self.weights or self.isp or self.pictures):
            raise UsageError(
                "There is nothing to evaluate.", hint="Name --weights, --isp or --pictures."
            )
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be positive, not {self.limit}.", hint=_HELP)
        wild = [error for error in self.balance_errors if not abs(error) < 100]
        if wild or not self.balance_errors:
            said = f", not {wild[0]:g}" if wild else ""
            raise UsageError(f"--balance-error takes numbers between -100 and 100{said}.")
        if any(self.balance_errors) and not self.weights:
            raise UsageError("--balance-error needs --weights: it is for networks.")
        if not self.ratios:
            raise UsageError("--ratio must be known, auto or picture.", hint=_HELP)
