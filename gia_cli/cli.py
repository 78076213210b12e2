"""The commands: options to one dataclass, one call, one exit code.

Heavy modules are imported inside the commands, so that ``gia --help`` does not wait for torch.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from gia_cli import __version__
from gia_cli.errors import BatchError, GiaError, Interrupted, UsageError

if TYPE_CHECKING:
    from gia_cli.batch import FileResult, Product
    from gia_cli.console import Terminal
    from gia_cli.exposure import ExposureRequest


class _Group(TyperGroup):
    """Turns every `GiaError` into its line and exit code, in the one place there is for it."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            error: GiaError = Interrupted("Interrupted.")
        except GiaError as raised:
            error = raised
        except OSError as raised:
            if raised.errno == errno.EPIPE:
                raise  # the reader of our output has gone: Typer's own quiet end
            error = GiaError(
                f"The system refused: {raised}.", hint="Check the disk, and where the output goes."
            )
        from gia_cli.console import Terminal

        Terminal().error(error)
        raise typer.Exit(error.exit_code)


app = typer.Typer(
    name="gia",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Clean, bright, right-coloured 16-bit pictures from RAW photos taken in near darkness.",
)
weights_app = typer.Typer(help="The networks' weights: what is there, and is it intact.")
app.add_typer(weights_app, name="weights", no_args_is_help=True)

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON report on stdout.")]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="NAME|PATH",
        help="Weights to use; by default GIA_WEIGHTS, else chosen by the photo's sensor.",
        show_default=False,
    ),
]
MaxRatio = Annotated[
    float | None,
    typer.Option(
        "--max-ratio",
        metavar="N",
        help="Never amplify more than this (default: 300, the most the networks learned).",
        show_default=False,
    ),
]


def main() -> None:
    """Run the command line; the ``gia`` entry point."""
    # A closed stdout or stderr (2>&-) must not lend its descriptor to the first file we open.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):  # a name that is no text must not end the run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version (-v: of everything) and exit.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Answer ``gia --version`` and ``gia --version -v``."""
    if not version:
        if verbose and context.invoked_subcommand is not None:
            raise UsageError("-v stands behind the command.", hint="Write: gia enhance -v PHOTO.")
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
        return
    typer.echo(f"gia {__version__}")
    if verbose:
        for line in _environment():
            typer.echo(line)
    raise typer.Exit


def _environment() -> list[str]:
    """Versions and devices, for bug reports."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import rawpy

    from gia_cli.runtime import device_names

    lines = [f"Python {platform.python_version()} on {platform.platform()}"]
    names = "torch rawpy numpy imageio tifffile exifread safetensors typer rich psutil pillow"
    for name in names.split():
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} missing")
    lines.append("LibRaw " + ".".join(str(part) for part in rawpy.libraw_version))
    return [*lines, "devices: " + ", ".join(device_names())]


# ---------------------------------------------------------------- gia enhance


@app.command()
def enhance(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTO...",
            help="RAW files, folders, or patterns.",
            show_default=False,
            readable=False,  # not Typer's to refuse: we have a code and a hint for it
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Output of one photo: .tif or .png.", show_default=False
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out-dir",
            help="Folder for the outputs (default: beside each photo).",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[
        Literal["tif", "png"] | None,
        typer.Option(
            "--format", "-f", help="16-bit TIFF or PNG (default: tif).", show_default=False
        ),
    ] = None,
    on_exists: Annotated[
        Literal["error", "skip", "overwrite"],
        typer.Option("--on-exists", help="What to do when an output is already there."),
    ] = "error",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into subfolders.")
    ] = False,
    ratio: Annotated[
        str, typer.Option("--ratio", metavar="N|auto", help="Amplification.")
    ] = "auto",
    target_exposure: Annotated[
        float | None,
        typer.Option(
            "--target-exposure",
            metavar="SECONDS",
            help="Brighten to what this exposure time would have given.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            help="Brighten to the exposure of this well-exposed RAW photo.",
            show_default=False,
        ),
    ] = None,
    brackets: Annotated[
        str | None,
        typer.Option(
            "--brackets",
            metavar="N,N,...",
            help="One output for each of these ratios.",
            show_default=False,
        ),
    ] = None,
    max_ratio: MaxRatio = None,
    weights: Weights = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Where to compute.")
    ] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"],
        typer.Option("--precision", help="auto: fp16 on CUDA, fp32 elsewhere."),
    ] = "auto",
    tile: Annotated[
        str,
        typer.Option(
            "--tile",
            metavar="N|auto",
            help="Tile side in photo pixels; auto: the whole frame if memory allows.",
        ),
    ] = "auto",
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            help="Most memory to hold, such as 1500MB (default: what is free).",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also write a sheet: LibRaw's amplified rendering beside ours."
        ),
    ] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors and results only.")] = False,
    verbose: Verbose = False,
) -> None:
    """Turn dark RAW photos into clean, bright 16-bit pictures.

    gia enhance night.ARW -o night.tif

    gia enhance card/ --out-dir pictures --format png
    """
    from gia_cli.console import Terminal

    terminal = Terminal(quiet=quiet, verbose=verbose)
    request = _exposure_request(ratio, target_exposure, reference, brackets, max_ratio)
    tile_side = _tile_side(tile)

    from gia_cli.batch import PICTURE, BatchOptions, plan_jobs, run_jobs
    from gia_cli.pipeline import Enhancer

    options = BatchOptions(
        request=request,
        output=output,
        out_dir=out_dir,
        format=output_format,
        on_exists=on_exists,
        recursive=recursive,
        products=(PICTURE, _comparison()) if compare else (PICTURE,),
    )
    jobs = plan_jobs(inputs, options)
    enhancer = Enhancer.from_weights(
        weights, device=device, precision=precision, tile=tile_side, max_memory=max_memory
    )

    results: list[FileResult] = []

    def on_result(result: FileResult) -> None:
        results.append(result)
        _announce(terminal, result, as_json=as_json)

    try:
        with terminal:
            run_jobs(jobs, enhancer, options, progress=terminal, on_result=on_result)
    finally:  # also after Ctrl-C: what is written is reported
        if as_json:
            terminal.json(_report(results))
    if len(jobs) > 1 and not (as_json or quiet):
        _summary(terminal, results)
    _raise_failures(results)


def _exposure_request(
    ratio: str,
    target_exposure: float | None,
    reference: Path | None,
    brackets: str | None,
    max_ratio: float | None,
) -> ExposureRequest:
    from gia_cli.exposure import MAX_RATIO, ExposureRequest

    shot = None
    if reference is not None:
        from gia_cli.raw import read_exposure

        shot = read_exposure(reference)
    return ExposureRequest(
        ratio=None if ratio == "auto" else _number(ratio, "--ratio"),
        target_exposure_s=target_exposure,
        reference=shot,
        brackets=tuple(_number(part, "--brackets") for part in (brackets or "").split(",") if part),
        max_ratio=MAX_RATIO if max_ratio is None else max_ratio,
    )


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} takes numbers, not '{text}'.") from None


def _tile_side(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--tile takes a whole number of pixels or auto, not '{text}'.")
    return int(text)


def _comparison() -> Product:
    from gia_cli.batch import Product
    from gia_cli.report import comparison_path, write_comparison

    return Product(comparison_path, write_comparison)


def _announce(terminal: Terminal, result: FileResult, *, as_json: bool) -> None:
    """Say what became of one photo: paths on stdout, why on stderr."""
    if result.error is not None:
        terminal.error(result.error, about=result.source)
    for choice in result.choices:
        terminal.say(f"{result.source.name}: ratio {choice.ratio:.4g} ({choice.reason})")
    if result.status == "skipped":
        terminal.note(f"{result.source.name}: skipped, its output is already there.")
    elif not as_json:  # of a photo that failed, too: some of its brackets may be there
        for path in result.outputs:
            terminal.line(str(path))


def _report(results: list[FileResult]) -> dict[str, Any]:
    """Describe a run as the JSON report does."""
    counts = {
        status: sum(result.status == status for result in results)
        for status in ("written", "skipped", "failed")
    }
    return {"gia": __version__, **counts, "files": [_file_report(result) for result in results]}


def _file_report(result: FileResult) -> dict[str, Any]:
    error = result.error
    return {
        "input": str(result.source),
        "status": result.status,
        "outputs": [str(path) for path in result.outputs],
        "ratios": [
            {"ratio": choice.ratio, "rule": choice.rule, "reason": choice.reason}
            for choice in result.choices
        ],
        "weights": result.weights,
        "seconds": round(result.seconds, 3),
        "error": None
        if error is None
        else {
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "message": error.message,
            "hint": error.hint,
        },
    }


def _summary(terminal: Terminal, results: list[FileResult]) -> None:
    rows = [
        [
            result.source.name,
            result.status,
            ", ".join(f"{choice.ratio:.4g}" for choice in result.choices),
            f"{result.seconds:.1f}",
            type(result.error).__name__ if result.error else ", ".join(map(str, result.outputs)),
        ]
        for result in results
    ]
    terminal.table(["photo", "status", "ratio", "seconds", "output"], rows, to_stderr=True)


def _raise_failures(results: list[FileResult]) -> None:
    """Leave with the error of the only photo, or with a batch's."""
    failed = [result for result in results if result.error is not None]
    if not failed:
        return
    if len(results) == 1 and failed[0].error is not None:
        raise typer.Exit(failed[0].error.exit_code)  # its line is printed already
    raise BatchError(f"{len(failed)} of {len(results)} photos failed.")


# ---------------------------------------------------------------- gia info


@app.command()
def info(
    photo: Annotated[
        Path,
        typer.Argument(metavar="PHOTO", help="A RAW file.", show_default=False, readable=False),
    ],
    weights: Weights = None,
    max_ratio: MaxRatio = None,
    as_json: Json = False,
) -> None:
    """Say what gia knows of a photo: camera, sensor, levels, exposure, weights, ratio and why."""
    from gia_cli.checkpoint import find_weights
    from gia_cli.console import Terminal
    from gia_cli.errors import WeightsError
    from gia_cli.exposure import choose_ratios, describe_shot
    from gia_cli.raw import read_raw

    frame = read_raw(photo)
    shot = frame.shot
    (choice,) = choose_ratios(frame, _exposure_request("auto", None, None, None, max_ratio))
    try:
        chosen = find_weights(weights, frame.kind).name
    except WeightsError as error:
        if weights is not None:
            raise
        chosen = f"none: {error.message}"
    height, width = frame.mosaic.shape
    facts: dict[str, Any] = {
        "file": str(photo),
        "camera": shot.camera,
        "lens": shot.lens,
        "taken": shot.taken,
        "exposure": describe_shot(shot) or None,
        "focal_length_mm": shot.focal_mm,
        "size": [width, height],
        "cfa": frame.kind,
        "phase": list(frame.phase),
        "black_level": sorted({float(level) for level in frame.black.flat}),
        "white_level": sorted({float(level) for level in frame.white.flat}),
        "as_shot_white_balance": [round(float(gain), 4) for gain in frame.as_shot_wb],
        "daylight_white_balance": None
        if frame.daylight_wb is None
        else [round(float(gain), 4) for gain in frame.daylight_wb],
        "orientation_flip": frame.flip,
        "weights": chosen,
        "ratio": round(choice.ratio, 3),
        "rule": choice.rule,
        "reason": choice.reason,
    }
    terminal = Terminal()
    if as_json:
        terminal.json(facts)
    else:
        terminal.facts([(name.replace("_", " "), _plain(value)) for name, value in facts.items()])


def _plain(value: Any) -> str:
    if value is None:
        return "not known"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---------------------------------------------------------------- gia weights


@weights_app.command("list")
def weights_list(as_json: Json = False) -> None:
    """List the weights that are there."""
    from gia_cli.checkpoint import list_weights
    from gia_cli.console import Terminal

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
            }
            for row in found
        ]
        terminal.json(rows)
        return
    terminal.table(
        ["name", "network", "sensor", "camera", "MB", "licence"],
        [
            [
                row.name,
                row.config.network,
                row.config.cfa,
                row.camera or "",
                f"{(row.size or 0) / 1e6:.1f}",
                row.licence or "",
            ]
            for row in found
        ],
    )


@weights_app.command("verify")
def weights_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|PATH]...", help="All shipped ones by default."),
    ] = None,
) -> None:
    """Check the SHA-256 of weights, and that they fit their network."""
    from gia_cli.checkpoint import find_weights, list_weights, load_network
    from gia_cli.console import Terminal

    terminal = Terminal()
    chosen = [find_weights(name) for name in names] if names else list_weights()
    for row in chosen:
        load_network(row)
        if row.sha256 is None:
            terminal.line(f"{row.name}: fits its network, but no manifest holds its SHA-256")
        else:
            terminal.line(f"{row.name}: intact ({row.sha256})")
