"""How fast this machine trains, by what simulates its crops, and where."""

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
from gia_cli.interrupts import deaf_children
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import DeviceName, Precision, available_cores
from gia_cli.text import counted
from gia_cli.training.config import RECIPES, SimulationName, TimedRecipe

_STEPS = 100
_TIMED = 50  # the last ones: `gia train` writes its log every 50 steps


@dataclass(frozen=True, slots=True)
class Way:
    """What simulates crops, and in how many processes beside the training; 0: in that itself."""

    simulation: SimulationName
    workers: int


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What to train, and in which ways its crops are made."""

    photos: Path
    """Photographs to simulate exposures of, a folder of them, or a packed file."""
    cache: Path | None = None
    """Where decoded photographs are kept; None: nowhere."""
    camera: CameraFamily = "sony"
    recipe: TimedRecipe = "small"
    side: int | None = None
    """Packed pixels of the crops of a step; None: 96 for "small", for "gpu" its own."""
    ways: tuple[Way, ...] = ()
    """None: NumPy in this process and beside it, and torch on the device."""
    device: DeviceName = "auto"
    precision: Precision = "auto"
    rounds: int = 3

    def __post_init__(self) -> None:
        """Raise `UsageError` for what cannot be timed."""
        if self.rounds < 1:
            raise UsageError(f"--rounds must be positive, not {self.rounds}.")
        if not (is_file(self.photos) or is_folder(self.photos)):
            raise UsageError(f"There is no folder {self.photos}.")

    @property
    def crop_side(self) -> int:
        """Packed pixels of the crops of a step."""
        fixed = RECIPES[self.recipe].crops.sides[1]
        return fixed if self.side is None else self.side

    @property
    def chosen_ways(self) -> tuple[Way, ...]:
        """The ways, or those of the recipe: few workers for few cores, on a GPU's machine many."""
        beside = (1, 2) if self.recipe == "small" else (max(available_cores() - 2, 1),)
        numpy = [Way("numpy", workers) for workers in (0, *beside)]
        return self.ways or (*numpy, Way("torch", 0))


@dataclass(frozen=True, slots=True)
class TrainingSpeed:
    """How fast a recipe trains in one way."""

    simulation: SimulationName
    workers: int
    seconds: list[float] = field(repr=False)
    """For a step, of each round."""
    error: str | None = None

    @property
    def median(self) -> float:
        """Median seconds for a step; NaN if it failed."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


def measure_training(config: TrainingConfig, progress: Progress = SILENT) -> list[TrainingSpeed]:
    """Train 100 steps of the recipe in each way, in turns; time the last 50.

    Parameters
    ----------
    config : TrainingConfig
    progress : Progress
        Receives a stage "training" with a step for each run, which is a process of its own.
    """
    ways = config.chosen_ways
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    errors: dict[Way, str] = {}
    progress.stage("training", config.rounds * len(ways))
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(config.rounds):
            for way in ways:
                progress.status(f"{way.simulation}, {counted(way.workers, 'worker')}")
                answer = _run(config, Path(folder), way, turn)
                if isinstance(answer, float):
                    seconds[way].append(answer)
                else:
                    errors[way] = answer
                progress.advance()
    return [
        TrainingSpeed(way.simulation, way.workers, seconds[way], errors.get(way)) for way in ways
    ]


def _run(config: TrainingConfig, folder: Path, way: Way, turn: int) -> float | str:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, config, folder, way, turn)
    process = context.Process(target=_serve, args=arguments)  # no daemon: it has children
    with deaf_children():
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


def _serve(pipe: Connection, config: TrainingConfig, folder: Path, way: Way, turn: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends us
    try:
        pipe.send(seconds_a_step(config, folder, way, turn))
    except (GiaError, RuntimeError, MemoryError) as error:
        pipe.send(str(error) or type(error).__name__)


def seconds_a_step(config: TrainingConfig, folder: Path, way: Way, turn: int = 0) -> float:
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

    run = folder / f"{turn}-{way.simulation}-{way.workers}"
    train(
        TrainConfig(
            run=run,
            camera=config.camera,
            photos=(config.photos,),
            cache=config.cache or folder / "cache",
            steps=_STEPS,
            recipe=config.recipe,
            sides=(config.crop_side, config.crop_side),
            simulation=way.simulation,
            workers=way.workers,
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
