"""``gia weights``: list, export, quantize, verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gia_cli.cli.app import given, weights_app
from gia_cli.cli.options import Json


@weights_app.command("list")
def weights_list(as_json: Json = False) -> None:
    """List the weights that are there."""
    from gia_cli.cli.console import Terminal
    from gia_cli.weights.manifest import list_weights

    terminal = Terminal()
    found = list_weights()
    if as_json:
        rows = [
            {
                "name": row.name,
                "file": str(row.path),
                "config": row.config.to_json(),
                "camera": row.camera,
                "licence": row.licence,
                "sha256": row.sha256,
                "bytes": row.size,
                "training": row.training,
                "quantized_from": row.quantized_from and asdict(row.quantized_from),
            }
            for row in found
        ]
        terminal.json(rows)
        return
    terminal.table(
        ["name", "network", "sensor", "camera", "white balance", "MB", "licence"],
        [
            [
                row.name,
                row.config.network,
                row.config.cfa,
                row.camera or "",
                row.config.white_balance,
                f"{(row.size or 0) / 1e6:.1f}",
                row.licence or "",
            ]
            for row in found
        ],
    )


@weights_app.command("export")
def weights_export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    name: Annotated[str, typer.Option("--name", help="Name of the weights.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the weights and manifest.")
    ] = Path("weights"),
    data_note: Annotated[
        str | None,
        typer.Option("--data-note", help="What it was trained on, in words.", show_default=False),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--licence", help="Licence of the weights.", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace weights of that name.")
    ] = False,
) -> None:
    """Write a run's weights as fp16 safetensors, and their row into the folder's manifest."""
    from gia_cli.cli.console import Terminal
    from gia_cli.training.run_folder import export_run

    row = export_run(run, name, out, data_note=data_note, licence=licence, overwrite=overwrite)
    terminal = Terminal()
    terminal.line(str(out / row["file"]))
    terminal.say(f"SHA-256 {row['sha256']}; use it with --weights {out / row['file']}")


@weights_app.command("calibrate")
def weights_calibrate(
    weights: Annotated[str, typer.Argument(metavar="NAME|PATH", help="fp32 or fp16 weights.")],
    name: Annotated[
        str, typer.Option("--name", help="Name of the calibrated weights.", show_default=False)
    ],
    photos: Annotated[
        list[Path],
        typer.Option(
            "--photos",
            metavar="FOLDER",
            help="Photographs to simulate scenes of; may be repeated.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the weights and manifest.")
    ] = Path("weights"),
    scenes: Annotated[
        int | None,
        typer.Option("--scenes", metavar="N", help="Default: 150.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the scenes.", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="Where decoded photographs are kept (default: as gia train).",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace weights of that name.")
    ] = False,
) -> None:
    """Learn how far to trust the sensor beside the network, for weights that follow the balance."""
    from gia_cli.cli.console import Terminal
    from gia_cli.enhance.calibrate import CalibrateConfig, calibrate

    options = given(scenes=scenes, seed=seed, cache=cache)
    config = CalibrateConfig(weights, name, out, tuple(photos), overwrite=overwrite, **options)
    terminal = Terminal()
    with terminal:
        row = calibrate(config, terminal)
    path = out / row["file"]
    terminal.line(str(path))
    terminal.say(f"SHA-256 {row['sha256']}; use it with --weights {path}")


@weights_app.command("quantize")
def weights_quantize(
    weights: Annotated[str, typer.Argument(metavar="NAME|PATH", help="fp32 or fp16 weights.")],
    name: Annotated[
        str, typer.Option("--name", help="Name of the int8 weights.", show_default=False)
    ],
    photos: Annotated[
        list[Path],
        typer.Option(
            "--photos",
            metavar="FOLDER",
            help="Photographs to simulate exposures of; may be repeated.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder of the weights and manifest.")
    ] = Path("weights"),
    samples: Annotated[
        int | None,
        typer.Option("--samples", help="Exposures to go by (default: 64).", show_default=False),
    ] = None,
    fp32_levels: Annotated[
        int | None,
        typer.Option(
            "--fp32-levels",
            metavar="N",
            help="Outer levels that stay in fp32 (default: 2): fewer are faster and leave more "
            "grain.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the exposures.", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="Where decoded photographs are kept (default: as gia train).",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace weights of that name.")
    ] = False,
) -> None:
    """Make int8 weights, which OpenVINO runs faster on CPUs, by simulated exposures."""
    from gia_cli.cli.console import Terminal
    from gia_cli.quantization.quantize import QuantizeConfig, quantize

    options = given(samples=samples, fp32_levels=fp32_levels, seed=seed, cache=cache)
    config = QuantizeConfig(weights, name, out, tuple(photos), overwrite=overwrite, **options)
    terminal = Terminal()
    with terminal:
        row = quantize(config, terminal)
    path = out / row["file"]
    terminal.line(str(path))
    terminal.say(f"SHA-256 {row['sha256']}; use it with --weights {path}")


@weights_app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|PATH]...", help="All shipped ones by default."),
    ] = None,
) -> None:
    """Check the SHA-256 of weights, and that they fit their network."""
    from gia_cli.cli.console import Terminal
    from gia_cli.inference.select import open_engine
    from gia_cli.runtime import Runtime
    from gia_cli.weights.manifest import find_weights, list_weights
    from gia_cli.weights.storage import load_network

    terminal = Terminal()
    chosen = [find_weights(name) for name in names] if names else list_weights()
    for row in chosen:
        if row.quantized_from is None:
            load_network(row)
        else:
            open_engine(row, Runtime("cpu", "int8"))
        if row.sha256 is None:
            terminal.line(f"{row.name}: fits its network, but no manifest holds its SHA-256")
        else:
            terminal.line(f"{row.name}: intact ({row.sha256})")
