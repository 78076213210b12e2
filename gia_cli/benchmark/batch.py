"""What a batch costs beside its network: ``gia enhance`` on a folder, end to end.

Each round is a process of its own, start-up included, as users start it. Stages that overlap slow
each other down: only the wall-clock time shows what overlapping gains.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gia_cli.errors import DataError, DeviceError, UsageError
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import CONFIG_VARIABLE


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """What to enhance, and how."""

    photos: Path
    """A folder of RAW photos, or one of them."""
    options: tuple[str, ...] = ()
    """Further options of ``gia enhance``."""
    rounds: int = 3
    workers: tuple[int, ...] = ()
    """Each round also on local Ray clusters of so many workers, in turns."""

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be timed."""
        if any(count < 1 for count in self.workers):
            raise UsageError("--workers takes numbers of workers, such as 1,2,4.")
        if self.rounds < 1:
            raise UsageError(f"--rounds must be positive, not {self.rounds}.")


@dataclass(frozen=True, slots=True)
class BatchRun:
    """One round."""

    photos: int
    """Photos written."""
    seconds: float
    """Wall-clock time of the process."""
    cpu_seconds: float
    """Processor time, of all cores; on a cluster not that of its workers."""
    peak_bytes: int
    """Peak of the resident memory, likewise."""
    network_seconds: float
    """Sum of the photos' time in the network."""
    stages: dict[str, float]
    """Median seconds of each stage of a photo."""
    workers: int | None = None
    """Of a cluster; None: one process, without one."""
    busy: dict[str, float] = field(default_factory=dict)
    """Photos that were read, in the network, finished and written at once, on average over the
    wall-clock time: where the network is near 1 it is the limit, else it waits for the others."""


# Which part of the work a photo's stages belong to.
_PARTS = {
    "reading": ("decode", "exposure", "pack"),
    "network": ("load", "black_level", "network"),
    "finishing": ("fusion", "colour", "highlights"),
    "writing": ("write",),
}


def measure_batch(config: BatchConfig, progress: Progress = SILENT) -> list[BatchRun]:
    """Enhance the photos once a round; the pictures are removed again.

    Parameters
    ----------
    config : BatchConfig
    progress : Progress
        Receives a stage "enhancing" with a step for each run.

    Raises
    ------
    DataError
        No photo could be enhanced; the message is what `gia enhance` said.
    DeviceError
        The system does not report what a process used.
    """
    if not hasattr(os, "wait4"):
        raise DeviceError(
            "This system does not report what a process used.", hint="Run it on Linux or macOS."
        )
    ways = (None, *config.workers)
    progress.stage("enhancing", config.rounds * len(ways))
    runs = []
    for _ in range(config.rounds):
        for workers in ways:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(_run(config, workers, Path(folder)))
            progress.advance()
    return runs


def _run(config: BatchConfig, workers: int | None, folder: Path) -> BatchRun:
    command = [sys.executable, "-P", "-m", "gia_cli", "enhance", str(config.photos), "--json"]
    command += ["--out-dir", str(folder / "out"), *config.options]
    if workers is not None:
        command += ["--ray", "local", "--workers", str(workers)]
    environment = {**os.environ, CONFIG_VARIABLE: ""}  # what is timed is what was asked for
    start = time.perf_counter()
    # Errors go to a file: a pipe that is not read would stop the process once it is full.
    with (
        (folder / "errors").open("w+b") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip()
    files = _written(text)
    if not files:
        raise DataError(f"gia enhance wrote no picture: {said}")
    stages: dict[str, list[float]] = {}
    for file in files:
        for name, value in file["stages"].items():
            stages.setdefault(name, []).append(value)
    return BatchRun(
        photos=len(files),
        seconds=seconds,
        cpu_seconds=used.ru_utime + used.ru_stime,
        peak_bytes=used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        network_seconds=sum(stages.get("network", [])),
        stages={name: statistics.median(values) for name, values in stages.items()},
        busy=_busy({name: sum(values) for name, values in stages.items()}, seconds),
        workers=workers,
    )


def _busy(sums: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Say how many photos were in each part at once, given what each stage took of all photos."""
    return {
        part: sum(sums.get(stage, 0.0) for stage in stages) / seconds
        for part, stages in _PARTS.items()
    }


def _written(text: bytes) -> list[dict[str, Any]]:
    """Read the photos that were written from a report; none if there is no report."""
    try:
        files: list[dict[str, Any]] = json.loads(text)["files"]
    except (ValueError, KeyError):
        return []
    return [file for file in files if file["status"] == "written"]
