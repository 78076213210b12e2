"""``gia train``: photographs to weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gia_cli.cameras import camera_family
from gia_cli.cli import guarded
from gia_cli.cli.app import app, seconds
from gia_cli.cli.options import (
    Cache,
    Camera,
    Device,
    Json,
    Photos,
    Quiet,
    Seed,
    Verbose,
    defaults,
    time_text,
)
from gia_cli.errors import UsageError
from gia_cli.nets.config import NETWORKS, WhiteBalanceMode
from gia_cli.paper import TableName
from gia_cli.runtime import FloatPrecision
from gia_cli.text import counted
from gia_cli.training.config import (
    TEACHER_WEIGHT,
    LossName,
    RecipeName,
    SimulationName,
    TrainConfig,
)

if TYPE_CHECKING:
    from gia_cli.cli.console import Terminal
    from gia_cli.training.loop import TrainResult

_HELP = "See 'gia train --help'."
_DEFAULT = defaults(TrainConfig)


@app.command()
@guarded.whole
def train(
    run: Annotated[
        Path,
        typer.Option(
            "--run",
            "--run-folder",  # torchrun takes --run for an option of its own, cut short
            metavar="FOLDER",
            help="Where the run lives; the same folder resumes it.",
        ),
    ] = Path("runs/gia"),
    camera: Camera = _DEFAULT.camera,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="TREE", help="SID, or a tree made like it.", show_default=False
        ),
    ] = None,
    photos: Photos = None,
    table: Annotated[
        TableName | None,
        typer.Option(
            "--table",
            help="Train every row of the paper's table, one after another, each for --budget.",
            show_default=False,
        ),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            metavar="NAME",
            help="Only this row of the table, such as gia-l1; may be repeated.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        RecipeName,
        typer.Option(
            "--recipe",
            help="small: for a few cores. finetune: the same, starting from --init-from. gpu: for "
            "a GPU. paper: the published one.",
        ),
    ] = _DEFAULT.recipe,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            metavar="NAME",
            help=f"One of {', '.join(NETWORKS)} (default: {_DEFAULT.network}).",
            show_default=False,
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            metavar="N",
            help="Channels of the first level (default: as published, 32 or 64).",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            help="Length of the run in steps (default: the recipe's epochs, if it has them).",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Length of the run in time, such as 30m or 2h.",
            show_default=False,
        ),
    ] = None,
    white_balance: Annotated[
        WhiteBalanceMode,
        typer.Option(
            "--white-balance",
            help="learned: the network infers the light, as in the paper. as-shot: it gets the "
            "white balance.",
        ),
    ] = _DEFAULT.white_balance,
    clip_black: Annotated[
        bool | None,
        typer.Option(
            "--clip-black/--no-clip-black",
            help="Whether to clip values below the black level (default: only in the published "
            "recipes).",
            show_default=False,
        ),
    ] = None,
    validate_on: Annotated[
        list[str] | None,
        typer.Option(
            "--validate-on",
            metavar="FOLDER-NAME",
            help="Keep all photographs of this folder for validation; repeatable (default: one "
            "photograph in 16).",
            show_default=False,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            metavar="NAME|PATH",
            help="Weights to start from; Bayer weights also serve for X-Trans.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="NAME|PATH",
            help="Weights to distil: the picture that they make of the same crops is a target "
            "beside the truth. For the same sensor, white balance and treatment of black.",
            show_default=False,
        ),
    ] = None,
    teacher_weight: Annotated[
        float | None,
        typer.Option(
            "--teacher-weight",
            metavar="W",
            help=f"Share of the loss that is against the teacher's picture (default: "
            f"{TEACHER_WEIGHT:g}).",
            show_default=False,
        ),
    ] = None,
    seed: Seed = _DEFAULT.seed,
    loss: Annotated[
        LossName | None,
        typer.Option("--loss", help="Loss instead of the recipe's.", show_default=False),
    ] = None,
    vgg: Annotated[
        Path | None,
        typer.Option(
            "--vgg", metavar="FILE", help="VGG weights for --loss zamir.", show_default=False
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr", help="Peak learning rate instead of the recipe's.", show_default=False
        ),
    ] = None,
    auxiliary_weight: Annotated[
        float | None,
        typer.Option(
            "--auxiliary-weight",
            metavar="W",
            help="Weight of the auxiliary targets, which GIA-Net's vector estimates (black level "
            "error, light and noise of a simulated exposure), instead of the recipe's; 0: none.",
            show_default=False,
        ),
    ] = None,
    checkerboard_weight: Annotated[
        float | None,
        typer.Option(
            "--checkerboard-weight",
            metavar="W",
            help="Weight of the loss against checkerboard patterns, instead of the recipe's; 0: "
            "none.",
            show_default=False,
        ),
    ] = None,
    raw_weight: Annotated[
        float | None,
        typer.Option(
            "--raw-weight",
            metavar="W",
            help="Weight of the loss on the RAW planes without noise, which a head that only "
            "training has predicts, for simulated exposures; 0: none (default: the recipe's).",
            show_default=False,
        ),
    ] = None,
    fused: Annotated[
        bool | None,
        typer.Option(
            "--fused/--no-fused",
            help="Whether the loss sees the picture after fusion with the sensor's measurements, "
            "by the shares of --init-from's weights, or else the teacher's (default: the "
            "recipe's).",
            show_default=False,
        ),
    ] = None,
    sides: Annotated[
        str | None,
        typer.Option(
            "--sides",
            metavar="N-N",
            help="Crop sides in packed pixels, such as 48-128, instead of the recipe's.",
            show_default=False,
        ),
    ] = None,
    photos_per_step: Annotated[
        int | None,
        typer.Option(
            "--photos-per-step",
            metavar="N",
            help="Photos in a step instead of the recipe's.",
            show_default=False,
        ),
    ] = None,
    crops_per_photo: Annotated[
        int | None,
        typer.Option(
            "--crops-per-photo",
            metavar="N",
            help="Crops that share one global vector, instead of the recipe's.",
            show_default=False,
        ),
    ] = None,
    cache: Cache = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read all decoded data again and compare their checksums; else only sizes and "
            "times are looked at.",
        ),
    ] = _DEFAULT.verify,
    device: Device = _DEFAULT.device,
    precision: Annotated[
        FloatPrecision,
        typer.Option(
            "--precision",
            help="auto: bf16 if the device supports it; else fp16 on CUDA, fp32 elsewhere.",
        ),
    ] = _DEFAULT.precision,
    compile_network: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="Whether torch compiles the network: minutes at the start for faster steps.",
        ),
    ] = _DEFAULT.compile,
    simulation: Annotated[
        SimulationName,
        typer.Option(
            "--simulation",
            help="What simulates exposures: numpy in other processes, torch on the device; auto: "
            "torch with --recipe gpu on CUDA.",
        ),
    ] = _DEFAULT.simulation,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Processes that make crops (default: 1; with --recipe gpu the cores but two, or "
            "none where torch simulates).",
            show_default=False,
        ),
    ] = _DEFAULT.workers,
    checkpoint_every: Annotated[
        str, typer.Option("--checkpoint-every", metavar="TIME", help="How often to save.")
    ] = time_text(_DEFAULT.checkpoint_every_s),
    validate_every: Annotated[
        str, typer.Option("--validate-every", metavar="TIME", help="How often to validate.")
    ] = time_text(_DEFAULT.validate_every_s),
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a network on SID or on exposures simulated from photographs.

    gia train --photos photos --run runs/mine --budget 2h

    The same command resumes an interrupted run. Under torchrun it trains in several processes, with
    --run-folder in place of --run, which torchrun takes for its own.
    """
    if table is not None and any(name is not None for name in (network, init_from, teacher)):
        raise UsageError(
            "--table sets the networks: leave out --network, --init-from and --teacher.",
            hint=_HELP,
        )
    if row and table is None:
        raise UsageError("--row needs --table.", hint=_HELP)

    from gia_cli.cli.console import Terminal

    changes = {
        "lr": lr,
        "loss": loss,
        "auxiliary_weight": auxiliary_weight,
        "checkerboard_weight": checkerboard_weight,
        "raw_weight": raw_weight,
        "fused": fused,
        "teacher_weight": teacher_weight,
    }
    config = TrainConfig(
        run=run,
        camera=camera_family(camera),
        data=data,
        photos=tuple(photos or ()),
        recipe=recipe,
        network=network or _DEFAULT.network,
        width=width,
        white_balance=white_balance,
        clip_black=clip_black,
        validation_sources=tuple(validate_on or ()),
        steps=steps,
        budget_s=None if budget is None else seconds(budget, "--budget"),
        init_from=init_from,
        teacher=teacher,
        seed=seed,
        changes={name: value for name, value in changes.items() if value is not None},
        sides=None if sides is None else _side_range(sides),
        photos_per_step=photos_per_step,
        crops_per_photo=crops_per_photo,
        vgg=vgg,
        cache=cache,
        verify=verify,
        device=device,
        precision=precision,
        workers=workers,
        simulation=simulation,
        compile=compile_network,
        checkpoint_every_s=seconds(checkpoint_every, "--checkpoint-every"),
        validate_every_s=seconds(validate_every, "--validate-every"),
    )
    from gia_cli.training.distributed import ranks_from_environment

    is_first = ranks_from_environment().is_first
    terminal = Terminal(quiet=quiet or not is_first, verbose=verbose)
    if table is None:
        _train(config, terminal, is_first=is_first, as_json=as_json)
    else:
        _train_table(table, row or [], config, terminal, is_first=is_first, as_json=as_json)


def _train_table(
    table: TableName,
    rows: list[str],
    config: TrainConfig,
    terminal: Terminal,
    *,
    is_first: bool,
    as_json: bool,
) -> None:
    from gia_cli.training.paper_tables import RowResult, train_table

    def on_row(row: RowResult) -> None:
        if is_first and not as_json:
            terminal.line(str(row.weights))

    with terminal:
        results = train_table(table, config, terminal, on_row, rows)
    if is_first and as_json:
        terminal.json(
            [
                {"row": x.row.name, "weights": str(x.weights), **_result_json(x.result)}
                for x in results
            ]
        )
    elif is_first:
        terminal.say(f"Next: gia eval --table {table} --data TREE --weights {config.run}/weights")


def _result_json(result: TrainResult) -> dict[str, Any]:
    return {
        "run": str(result.run),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "loss": result.loss,
        "validation_psnr": result.validation_psnr,
    }


def _train(config: TrainConfig, terminal: Terminal, *, is_first: bool, as_json: bool) -> None:
    from gia_cli.training.loop import train as run_training

    with terminal:
        result = run_training(config, terminal)
    if not is_first:
        return
    if as_json:
        terminal.json(_result_json(result))
    else:
        terminal.line(str(result.run))
        terminal.say(
            f"{counted(result.steps, 'step')} in {result.seconds:.0f} s; validation PSNR "
            f"{result.validation_psnr:.2f} dB. Next: gia weights export {result.run} --name NAME"
        )


def _side_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    if match is None:
        raise UsageError(f"--sides takes one number or two, such as 48-128, not '{text}'.")
    return int(match[1]), int(match[2] or match[1])
