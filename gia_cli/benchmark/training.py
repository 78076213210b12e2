"""How fast this machine trains, with crops made beside the training process or in it."""

from __future__ import annotations

import multiprocessing
import signal
import statistics
import tempfile
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from gia_cli.cameras import CameraFamily
from gia_cli.errors import GiaError, UsageError
from gia_cli.files import is_file, is_folder
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import DeviceName, Precision

_STEPS = 100
_TIMED = 50  # the last ones: `gia train` writes its log every 50 steps


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What to train, and with how many processes that make crops."""

    photos: Path
    """Photographs to simulate exposures of, or a folder of them."""
    cache: Path | None = None
    """Where decoded photographs are kept; None: nowhere."""
    camera: CameraFamily = "sony"
    side: int = 96
    """Packed pixels of the four crops of a step."""
    workers: tuple[int, ...] = (0, 1, 2)
    device: DeviceName = "auto"
    precision: Precision = "auto"
    rounds: int = 3

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be timed."""
        if self.rounds < 1:
            raise UsageError(f"--rounds must be positive, not {self.rounds}.")
        if not (is_file(self.photos) or is_folder(self.photos)):
            raise UsageError(f"There is no folder {self.photos}.")


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """How fast the recipe "small" trains with so many workers."""

    workers: int
    seconds: list[float] = field(repr=False)
    """For a step, of each round."""
    error: str | None = None

    @property
    def median(self) -> float:
        """Median seconds for a step; NaN if it failed."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


def measure_training(config: TrainingConfig, progress: Progress = SILENT) -> list[TrainingSpeed]:
    """Train 100 steps of the recipe "small" for each number of workers, in turns; time the last 50.

    Parameters
    ----------
    config : TrainingConfig
    progress : Progress
        Receives a stage "training" with a step for each run, which is a process of its own.
    """
    seconds: dict[int, list[float]] = {workers: [] for workers in config.workers}
    errors: dict[int, str] = {}
    progress.stage("training", config.rounds * len(config.workers))
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(config.rounds):
            for workers in config.workers:
                progress.status(f"{workers} workers")
                answer = _run(config, Path(folder), workers, turn)
                if isinstance(answer, float):
                    seconds[workers].append(answer)
                else:
                    errors[workers] = answer
                progress.advance()
    return [TrainingSpeed(n, seconds[n], errors.get(n)) for n in config.workers]


def _run(config: TrainingConfig, folder: Path, workers: int, turn: int) -> float | str:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, config, folder, workers, turn)
    process = context.Process(target=_serve, args=arguments)  # no daemon: it has children
    process.start()
    theirs.close()
    try:
        answer: float | str = ours.recv()
    except EOFError:
        answer = "its process has died"
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
    return answer


def _serve(pipe: Connection, config: TrainingConfig, folder: Path, workers: int, turn: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends us
    try:
        pipe.send(seconds_a_step(config, folder, workers, turn))
    except (GiaError, RuntimeError, MemoryError) as error:
        pipe.send(str(error) or type(error).__name__)


def seconds_a_step(config: TrainingConfig, folder: Path, workers: int, turn: int = 0) -> float:
    """Train in this process; the run lies in the folder.

    Raises
    ------
    GiaError
        Whatever `gia train` would say.
    RuntimeError
        It was stopped, as by Ctrl-C.
    """
    from gia_cli.training.config import TrainConfig
    from gia_cli.training.log import read_log
    from gia_cli.training.loop import train

    run = folder / f"{turn}-{workers}"
    train(
        TrainConfig(
            run=run,
            camera=config.camera,
            photos=(config.photos,),
            cache=config.cache or folder / "cache",
            steps=_STEPS,
            sides=(config.side, config.side),
            workers=workers,
            validate_every_s=1e9,
            checkpoint_every_s=1e9,
            device=config.device,
            precision=config.precision,
        )
    )
    at = {row["step"]: row["seconds"] for row in read_log(run) if "images_per_s" in row}
    if _STEPS not in at:
        raise RuntimeError("it was stopped")
    return float(at[_STEPS] - at[_STEPS - _TIMED]) / _TIMED
