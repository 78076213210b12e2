"""The options that several commands share, and the defaults that dataclasses have for options."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from gia_cli import files, runtime
from gia_cli.cameras import AnyCameraName
from gia_cli.errors import UsageError

if TYPE_CHECKING:
    from gia_cli.cluster.ray_pool import RayOptions
    from gia_cli.cluster.shard import Shard as Share

_P = ParamSpec("_P")
_R = TypeVar("_R")


def weights_names(incomplete: str) -> list[str]:
    """List what may be given as ``--weights`` and begins with what is typed."""
    from gia_cli.weights.manifest import LITE, list_weights

    names = [LITE, *(info.name for info in list_weights())]
    return [name for name in names if name.startswith(incomplete)]


def device_names(incomplete: str) -> list[str]:
    """List the devices whose names begin with what is typed."""
    return [name for name in runtime.DEVICES if name.startswith(incomplete)]


def known_device(name: str) -> str:
    """Return what may be given as ``--device``, and refuse anything else."""
    try:
        runtime.split_device(name)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    return name


def known_devices(names: str) -> str:
    """Return what may be given as ``--device`` for a batch, and refuse anything else."""
    try:
        runtime.split_devices(names)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
    return names


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print details.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and results.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON report on stdout.")]
_DEVICES = "|".join([*runtime.DEVICES[:3], "cuda:N", *runtime.DEVICES[3:]])
Device = Annotated[
    runtime.DeviceName,
    typer.Option(
        "--device",
        metavar=_DEVICES,
        help="Where to compute; cuda:1 is the second card (gia info --devices lists them).",
        callback=known_device,
        autocompletion=device_names,
    ),
]
BatchDevices = Annotated[
    str,
    typer.Option(
        "--device",
        metavar=_DEVICES,
        help="Where to compute. A batch takes all cards; cuda:1 takes the second, cuda:0,cuda:1 "
        "two of more (gia info --devices lists them).",
        callback=known_devices,
        autocompletion=device_names,
    ),
]
Engine = Annotated[
    runtime.EngineName,
    typer.Option(
        "--engine",
        help="What computes; auto: OpenVINO on CPUs if it can run the weights, else torch.",
    ),
]
OnExists = Annotated[
    files.OnExists,
    typer.Option("--on-exists", help="What to do when an output is already there."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="NAME|PATH,...",
        help="Weights to use, one for each kind of sensor; lite: the smaller ones (default: "
        "GIA_WEIGHTS if set, else those for the photo's sensor).",
        show_default=False,
        autocompletion=weights_names,
    ),
]
MaxRatio = Annotated[
    float | None,
    typer.Option(
        "--max-ratio",
        metavar="N",
        help="Never amplify more than this (default: 300, the highest ratio in training).",
        show_default=False,
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Most memory to use, such as 1500MB (default: what is free).",
        show_default=False,
    ),
]
MeasuredMaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="With --growth: measure also under this limit, such as 3GB. With --batch: the limit "
        "of gia enhance.",
        show_default=False,
    ),
]
Camera = Annotated[
    AnyCameraName,
    typer.Option(
        "--camera", help="sony or ILCE-7SM2: A7S II, Bayer. fuji or X-T2: Fujifilm, X-Trans."
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of everything random.")]
Photos = Annotated[
    list[Path] | None,
    typer.Option(
        "--photos",
        metavar="FOLDER|TAR",
        help="Photographs to simulate exposures from, or a file that 'gia pack' made; may be "
        "repeated.",
        show_default=False,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="FOLDER",
        help="Folder for decoded data (default: TREE/.gia-cache, or the user's cache).",
        show_default=False,
    ),
]


Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N|auto",
        help="Do only the I-th of N shares; the same command on other machines does the others. "
        "auto, auto/N: I is the task's of SLURM or Kubernetes.",
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|auto|local",
        help="Share the work out to the workers of a Ray cluster: HOST:PORT of its head, auto for "
        "the one that this machine is part of, local for one of its own.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="With --ray: how many (default: one for each GPU, else one for each machine).",
        show_default=False,
    ),
]
CoreWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="With --ray: how many (default: one for each core).",
        show_default=False,
    ),
]


def named_shard(text: str | None) -> Share | None:
    """Find out which share is asked for; without the option none.

    A scheduler's array may as well be over weights or seeds, so none is taken for one of shares.

    Raises
    ------
    UsageError
    """
    from gia_cli.cluster.shard import parse_shard

    return None if text is None else parse_shard(text, os.environ)


def ray_options(
    address: str | None,
    workers: int | None,
    device: runtime.DeviceName = "cpu",
    *,
    fills_machine: bool = True,
) -> RayOptions | None:
    """Describe the cluster that is asked for; None without one.

    Raises
    ------
    UsageError
    """
    if address is None:
        if workers is not None:
            raise UsageError("--workers needs --ray.", hint="On this machine: --ray local.")
        return None
    if any(runtime.split_device(name)[1] is not None for name in runtime.split_devices(device)):
        raise UsageError(
            f"--device {device} does not work with --ray, which gives each worker its card.",
            hint="Use --device cuda.",
        )
    from gia_cli.cluster.ray_pool import RayOptions

    return RayOptions(address, workers, device, fills_machine)


def cluster_device(
    device: runtime.DeviceName, precision: runtime.Precision, engine: runtime.EngineName
) -> runtime.DeviceName:
    """Say what workers are to have: no GPUs for what only CPUs run."""
    is_for_cpu = device == "auto" and (precision == "int8" or engine == "openvino")
    return "cpu" if is_for_cpu else device


def not_typed(*names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Keep parameters that only code hands over from a command's options."""

    def keep(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function, eval_str=True)
        shown = [each for each in signature.parameters.values() if each.name not in names]
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return function

    return keep


def with_options_of(
    other: Callable[..., object], *, leave_out: tuple[str, ...], changed: Mapping[str, Any]
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Give a command the options of another one, which it takes as ``**options``.

    Parameters
    ----------
    other : function
        A command.
    leave_out : names
        Of parameters that make no sense here.
    changed : mapping
        Defaults that are others here, by the parameters' names.
    """

    def add(function: Callable[_P, _R]) -> Callable[_P, _R]:
        own = inspect.signature(function, eval_str=True)
        first = [each for each in own.parameters.values() if each.kind != each.VAR_KEYWORD]
        more = [
            each.replace(default=changed.get(each.name, each.default))
            for each in inspect.signature(other, eval_str=True).parameters.values()
            if each.name not in leave_out
        ]
        signature = own.replace(parameters=[*first, *more])
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return add


def defaults(config: type) -> SimpleNamespace:
    """Return the defaults of a dataclass's fields, by the fields' names.

    Examples
    --------
    >>> from gia_cli.training.config import TrainConfig
    >>> defaults(TrainConfig).recipe
    'small'
    """
    known = {field.name: field.default for field in fields(config)}
    return SimpleNamespace(**{name: value for name, value in known.items() if value is not MISSING})


def time_text(seconds: float) -> str:
    """Write a time as options take it; undoes `cli.app.seconds`.

    Examples
    --------
    >>> time_text(300), time_text(45)
    ('5m', '45s')
    """
    return f"{seconds / 60:g}m" if seconds % 60 == 0 else f"{seconds:g}s"
