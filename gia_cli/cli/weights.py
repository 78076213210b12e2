"""``gia weights``: list, check and export them, and make new ones from others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gia_cli.cli.app import given, weights_app
from gia_cli.cli.options import Json, Verbose, weights_names

if TYPE_CHECKING:
    from gia_cli.cli.console import Terminal
    from gia_cli.data.derive import DeriveConfig

_Config = TypeVar("_Config", bound="DeriveConfig")

Source = Annotated[
    str,
    typer.Argument(metavar="NAME|PATH", help="fp32 or fp16 weights.", autocompletion=weights_names),
]
Name = Annotated[str, typer.Option("--name", help="Name of the new weights.", show_default=False)]
Out = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Folder of the weights and manifest.")
]
Photos = Annotated[
    list[Path],
    typer.Option(
        "--photos",
        metavar="FOLDER|TAR",
        help="Photographs to simulate scenes from; may be repeated.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of the scenes (default: 0).", show_default=False)
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Where decoded photographs are kept (default: as gia train).",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace weights of that name.")]

_FOLDER = Path("weights")


@weights_app.command("list")
def weights_list(as_json: Json = False) -> None:
    """List the weights that are there.

    gia weights list --json
    """
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
    name: Name,
    out: Out = _FOLDER,
    data_note: Annotated[
        str | None,
        typer.Option("--data-note", help="What it was trained on, in words.", show_default=False),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--licence", help="Licence of the weights.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a run's weights as fp16 safetensors, and add them to the folder's manifest.

    gia weights export runs/gia --name my-weights --out my-weights
    """
    from gia_cli.cli.console import Terminal
    from gia_cli.training.run_folder import export_run

    terminal = Terminal()
    row = export_run(
        run,
        name,
        out,
        data_note=data_note,
        licence=licence,
        overwrite=overwrite,
        progress=terminal,
    )
    _show_written(row, out, terminal)


@weights_app.command("export-onnx")
def weights_export_onnx(
    weights: Source,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of the files.")],
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="WxH",
            help="Fix the size of photo or tile, in photosites (default: any size).",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files.")] = False,
) -> None:
    """Write a network as ONNX files, which other programs run, and compare them with torch.

    gia weights export-onnx gia-sony --out gia-sony-onnx
    """
    from gia_cli.cli.console import Terminal
    from gia_cli.inference.select import onnx_devices, require_onnx_packages

    require_onnx_packages()
    onnx_devices()  # raises if it cannot be loaded
    from gia_cli.inference.onnx_export import ExportConfig, export_onnx, parse_photo_size

    fixed = None if size is None else parse_photo_size(size)
    terminal = Terminal()
    with terminal:
        made = export_onnx(ExportConfig(weights, out, fixed, overwrite), terminal)
    for path in made.files:
        terminal.line(str(path))
    terminal.say(f"Greatest difference from torch: {made.difference:.1e}, of a range of 1.")


@weights_app.command("calibrate")
def weights_calibrate(
    weights: Source,
    name: Name,
    photos: Photos,
    out: Out = _FOLDER,
    scenes: Annotated[
        int | None,
        typer.Option(
            "--scenes", metavar="N", help="Simulated scenes (default: 150).", show_default=False
        ),
    ] = None,
    seed: Seed = None,
    cache: Cache = None,
    overwrite: Overwrite = False,
) -> None:
    """Learn how much of the sensor's measurements to fuse into a network's pictures.

    gia weights calibrate my.safetensors --name my-fused --photos photos
    """
    from gia_cli.enhance.calibrate import CalibrateConfig, calibrate

    options = given(scenes=scenes, seed=seed, cache=cache)
    config = CalibrateConfig(weights, name, out, tuple(photos), overwrite=overwrite, **options)
    _derive(calibrate, config)


@weights_app.command("quantize")
def weights_quantize(
    weights: Source,
    name: Name,
    photos: Photos,
    out: Out = _FOLDER,
    scenes: Annotated[
        int | None,
        typer.Option(
            "--scenes",
            "--samples",
            metavar="N",
            help="Simulated exposures (default: 64).",
            show_default=False,
        ),
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
    seed: Seed = None,
    cache: Cache = None,
    overwrite: Overwrite = False,
) -> None:
    """Make int8 weights, which OpenVINO runs faster on CPUs, from fp32 or fp16 ones.

    gia weights quantize gia-sony --name my-int8 --out my-weights --photos photos
    """
    from gia_cli.quantization.quantize import QuantizeConfig, quantize

    options = given(scenes=scenes, fp32_levels=fp32_levels, seed=seed, cache=cache)
    config = QuantizeConfig(weights, name, out, tuple(photos), overwrite=overwrite, **options)
    _derive(quantize, config)


@weights_app.command("reduce-checkerboard")
def weights_reduce_checkerboard(
    weights: Source,
    name: Name,
    photos: Photos,
    out: Out = _FOLDER,
    scenes: Annotated[
        int | None,
        typer.Option(
            "--scenes", metavar="N", help="Simulated scenes (default: 200).", show_default=False
        ),
    ] = None,
    seed: Seed = None,
    cache: Cache = None,
    overwrite: Overwrite = False,
) -> None:
    """Refit a trained GIA-Net's last layer, so that flat areas show less of a grid.

    This takes a minute, and changes only how the sub-pixels differ from their mean. Weights trained
    with --checkerboard-weight gain little. Give the photographs that the weights were trained on;
    those that gia train keeps for validation are left out.

    gia weights reduce-checkerboard my.safetensors --name my-even --photos photos
    """
    from gia_cli.training.checkerboard import CheckerboardConfig, reduce_checkerboard

    options = given(scenes=scenes, seed=seed, cache=cache)
    config = CheckerboardConfig(weights, name, out, tuple(photos), overwrite=overwrite, **options)
    _derive(reduce_checkerboard, config)


@weights_app.command("narrow")
def weights_narrow(
    weights: Source,
    name: Name,
    photos: Photos,
    out: Out = _FOLDER,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            metavar="N",
            help="Channels to keep at the first level (default: half).",
            show_default=False,
        ),
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(
            "--scenes",
            metavar="N",
            help="Simulated scenes (default: 800). All are held in memory: 21 MB each for a "
            "network of width 32.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = None,
    cache: Cache = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Make a GIA-Net with fewer channels from a trained one, as a start for training.

    The result is for gia train --init-from, not for enhancing photos. Give the photographs that the
    weights were trained on.

    gia weights narrow gia-sony --name my-start --photos photos --width 32
    """
    from gia_cli.training.narrow import NarrowConfig, narrow

    options = given(width=width, scenes=scenes, seed=seed, cache=cache)
    config = NarrowConfig(weights, name, out, tuple(photos), overwrite=overwrite, **options)
    _derive(narrow, config, verbose=verbose)


def _derive(
    make: Callable[[_Config, Terminal], dict[str, Any]], config: _Config, *, verbose: bool = False
) -> None:
    """Make new weights from others, with a bar, and show the file."""
    from gia_cli.cli.console import Terminal

    terminal = Terminal(verbose=verbose)
    with terminal:
        row = make(config, terminal)
    _show_written(row, config.out, terminal)


def _show_written(row: dict[str, Any], folder: Path, terminal: Terminal) -> None:
    """Name the file of new weights, and say how to use it."""
    path = folder / row["file"]
    terminal.line(str(path))
    terminal.say(f"SHA-256 {row['sha256']}; use it with --weights {path}")


@weights_app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|PATH]...", help="Default: all shipped weights."),
    ] = None,
) -> None:
    """Check the SHA-256 of weights, and that they fit their network.

    gia weights verify gia-sony
    """
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
