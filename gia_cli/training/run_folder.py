"""The folder of a run: its configuration and lock, and the weights made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from gia_cli.cameras import CAMERA_OF
from gia_cli.errors import RunError
from gia_cli.files import atomic_file, lock, make_folder, read_plain
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.progress import SILENT, Progress
from gia_cli.simulation.sensor import daylight_gains, median_gains
from gia_cli.training.checkpoint import has_checkpoint, read_checkpoint
from gia_cli.training.config import VECTOR_SUPERVISED, Recipe
from gia_cli.training.distributed import Ranks
from gia_cli.training.log import read_log
from gia_cli.weights.manifest import current_names, list_in_manifest
from gia_cli.weights.storage import refuse_to_replace, save_weights, weights_path

CONFIG, LOCK = "config.json", ".lock"
#: Key, of a run's configuration, of its length in steps; null for one by the clock.
PLANNED_STEPS = "planned_steps"
#: Key, of a run's configuration and of the weights' training, of the teacher; null for none.
TEACHER = "teacher"


def open_run(run: Path, asked: dict[str, Any], progress: Progress) -> dict[str, Any] | None:
    """Read the folder's checkpoint, if there is one, and check that it is this run's."""
    if not has_checkpoint(run):
        return None  # whatever was asked for before has left nothing to go on from
    _check_same(run, read_config(run), asked, progress)
    return read_checkpoint(run, progress, fall_back=True)


def claim_run(run: Path, asked: dict[str, Any], ranks: Ranks) -> None:
    """Write into the folder what runs there."""
    if ranks.is_first:
        with atomic_file(run / CONFIG) as file:
            file.write(json.dumps(asked, indent=2).encode())
    ranks.wait()


@contextmanager
def only_run_in(run: Path, ranks: Ranks) -> Iterator[None]:
    """Keep a second run out of the folder while this one is in it."""
    if not ranks.is_first:
        yield
        return
    make_folder(run, "--run")
    with lock(run / LOCK) as is_ours:
        if not is_ours:
            raise RunError(f"Another process is training in {run}.", hint="Wait, or stop it.")
        yield


def _check_same(
    run: Path, there: dict[str, Any], asked: dict[str, Any], progress: Progress
) -> None:
    """Refuse to continue a run that was started with other options; only its length may change.

    The version may differ, for a run of many hours outlives it; what an older one did not know of
    is not compared, but what its recipe did not know of, it did not do. Data may have moved, but
    must be the same. The precision may change: "auto" does, too, from one machine to another.
    """
    there = {
        "simulation": "numpy",
        TEACHER: None,
        **there,
        "recipe": {**_recipe_defaults(), **there.get("recipe", {})},
    }
    noted = ("steps", "budget_s", "data", "precision")
    free = {"gia", "recipe_name", VECTOR_SUPERVISED, PLANNED_STEPS, *noted}
    for name, old, new in _differences(there, asked):
        if name.split(".")[0] not in free:
            raise RunError(f"{run} holds another run: its {name} is {old}, not {new}.")
    for name in noted:
        if there.get(name, asked[name]) != asked[name]:
            progress.note(f"{run}: {name} was {there[name]}, now {asked[name]}.")


def _recipe_defaults() -> dict[str, Any]:
    return {item.name: item.default for item in fields(Recipe) if item.default is not MISSING}


def _differences(
    there: dict[str, Any], asked: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs between two nested descriptions, by its full name."""
    for name in there.keys() & asked.keys():
        old, new = there[name], asked[name]
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield prefix + name, old, new


def read_config(run: Path) -> dict[str, Any]:
    """Read what a run was asked to be.

    Raises
    ------
    RunError
        The folder holds no run.
    """
    try:
        config = current_names(json.loads(read_plain(run / CONFIG)))
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run} is not the folder of a training run.", hint=f"It has no readable {CONFIG}."
        ) from error
    return config


# ---------------------------------------------------------------- export


def export_run(
    run: Path,
    name: str,
    folder: Path,
    *,
    data_note: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write the weights of a run's checkpoint, and their row into the folder's manifest.

    Parameters
    ----------
    run : Path
    name : str
        Of the weights; the file is ``name.safetensors``.
    folder : Path
    data_note : str, optional
        What the run was trained on; by default what its configuration says, folders by name only.
    licence : str, optional
    overwrite : bool
        Replace weights of that name.
    progress : Progress
        Hears what is to be known of the checkpoint.

    Returns
    -------
    dict
        The manifest's row.

    Raises
    ------
    RunError
        No run, no checkpoint yet, or a damaged one.
    OutputExistsError
        Weights of that name are there.
    UsageError
        A name that is no file name.
    """
    path = weights_path(folder, name)
    refuse_to_replace(path, overwrite=overwrite)
    config = read_config(run)
    saved = read_checkpoint(run, progress)
    network = build(NetConfig.from_json(config["network"]))
    network.load_state_dict(saved["ema"])
    scores = [
        row for row in read_log(run) if "validation_psnr" in row and row["step"] <= saved["step"]
    ]
    camera = CAMERA_OF[config["camera"]]
    training = {
        "data": data_note or _data_names(config["data"]),
        "recipe": {"name": config["recipe_name"], **config["recipe"]},
        "scenes": config.get("scenes"),
        "given_balance": config.get("given_balance"),
        "init_from": config["init_from"],
        TEACHER: config.get(TEACHER),
        "steps": saved["step"],
        "hours": round(saved["elapsed_s"] / 3600, 2),
        VECTOR_SUPERVISED: config.get(VECTOR_SUPERVISED, False),
        "seed": config["seed"],
        "validation_psnr": scores[-1]["validation_psnr"] if scores else None,
        "validated_on": config.get("validation", "other photos"),
        "gia": config["gia"],
    }
    make_folder(folder, "--out")
    row = save_weights(
        path,
        network,
        camera=camera,
        daylight_wb=[round(gain, 6) for gain in daylight_gains(camera)],
        neutral_wb=[round(gain, 6) for gain in median_gains(camera)],
        licence=licence,
        training=training,
    )
    list_in_manifest(folder, row)
    return row


def _data_names(data: str | list[str]) -> str:
    """Name folders without the path of somebody's machine."""
    paths = [data] if isinstance(data, str) else data
    return ", ".join(Path(path).name for path in paths)
