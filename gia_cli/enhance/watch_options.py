"""How a folder is watched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gia_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How a folder is watched."""

    journal: Path | None = None
    """By default in the folder of the outputs, else in the watched one."""
    settle_s: float = 2.0
    """A file is taken for whole when it has not changed for so long."""
    patience_s: float = 30.0
    """One that cannot be read then has so long without a change to become readable."""
    poll_s: float | None = None
    """Look so often, without events of the file system; by default these say when."""
    new_only: bool = False
    """Pass over what is there at the first start."""
    once: bool = False
    """End when all that is there is done."""
    stop_after_idle_s: float | None = None
    """End when nothing has arrived for so long."""

    def __post_init__(self) -> None:
        for option, value in (
            ("--settle", self.settle_s),
            ("--patience", self.patience_s),
            ("--poll", self.poll_s),
            ("--stop-after-idle", self.stop_after_idle_s),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{option} must be positive.")
