"""``gia enhance``: photos to pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gia_cli._version import __version__
from gia_cli.cli.app import app, counts, error_report, exposure_request
from gia_cli.cli.options import (
    Device,
    Engine,
    Json,
    MaxMemory,
    MaxRatio,
    OnExists,
    Quiet,
    Verbose,
    Weights,
)
from gia_cli.errors import BatchError, UsageError
from gia_cli.files import OutputFormat
from gia_cli.runtime import Precision, Quality

if TYPE_CHECKING:
    from gia_cli.cli.console import Terminal
    from gia_cli.enhance.batch import BatchOptions, FileResult, Job, Product
    from gia_cli.enhance.report import BatchPage


def _complete_white_balance(incomplete: str) -> list[str]:
    from gia_cli.enhance.white_balance import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


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
            "--output", "-o", help="Output of one photo: .tif, .png or .dng.", show_default=False
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
        OutputFormat | None,
        typer.Option(
            "--format",
            "-f",
            help="16-bit TIFF or PNG, or linear DNG for another converter (default: tif).",
            show_default=False,
        ),
    ] = None,
    on_exists: OnExists = "error",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into subfolders.")
    ] = False,
    ratio: Annotated[
        str,
        typer.Option("--ratio", metavar="N|auto", help="How many times brighter; auto chooses."),
    ] = "auto",
    target_exposure: Annotated[
        str | None,
        typer.Option(
            "--target-exposure",
            metavar="SECONDS",
            help="Brighten to what this exposure time would have given: 5, 1/5.",
            show_default=False,
        ),
    ] = None,
    exposure: Annotated[
        float,
        typer.Option("--exposure", metavar="EV", help="Stops brighter than that, or darker (-1)."),
    ] = 0.0,
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
    white_balance: Annotated[
        str | None,
        typer.Option(
            "--white-balance",
            metavar="NAME|KELVIN|R,G,B",
            help="as-shot, daylight, cloudy, shade, tungsten, fluorescent, flash; a temperature: "
            "3200K, with tint 3200K,5; or gains: 2.1,1,1.5. learned: the network infers the light "
            "(default: as the chosen weights need, see gia weights list).",
            show_default=False,
            autocompletion=_complete_white_balance,
        ),
    ] = None,
    quality: Annotated[
        Quality,
        typer.Option(
            "--quality",
            help="best: the mean of eight pictures, of the photo turned and mirrored; a little "
            "cleaner, 8 times slower.",
        ),
    ] = "normal",
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="0..1",
            help="How much of the noise goes; the rest stays as grain.",
        ),
    ] = 1.0,
    strength_chroma: Annotated[
        float | None,
        typer.Option(
            "--strength-chroma",
            metavar="0..1",
            help="Of the noise in colour (default: as --strength).",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            help="auto: fp16 on CUDA; on CPUs int8 if gia has such weights; else fp32.",
        ),
    ] = "auto",
    tile: Annotated[
        str,
        typer.Option(
            "--tile",
            metavar="N|auto",
            help="Tile side in photo pixels; auto: the whole frame if memory allows.",
        ),
    ] = "auto",
    max_memory: MaxMemory = None,
    black_level: Annotated[
        str | None,
        typer.Option(
            "--black-level",
            metavar="DN|R,G,B",
            help="Black level to use instead of the file's.",
            show_default=False,
        ),
    ] = None,
    white_level: Annotated[
        float | None,
        typer.Option(
            "--white-level",
            metavar="DN",
            help="Saturation level to use instead of the file's.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also write a sheet: LibRaw's amplified rendering beside gia's."
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Also write a page of all photos: before and after, the ratio and why, times.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn dark RAW photos into clean, bright 16-bit pictures.

    gia enhance night.ARW -o night.tif

    gia enhance card/ --out-dir pictures --format png
    """
    from gia_cli.cli.console import Terminal
    from gia_cli.runtime import require_addresses

    terminal = Terminal(quiet=quiet, verbose=verbose)
    require_addresses()
    request = exposure_request(ratio, target_exposure, reference, brackets, max_ratio, exposure)
    tile_side = _tile_side(tile)

    from gia_cli.cli.guarded import is_needed, run_guarded
    from gia_cli.enhance.batch import PICTURE, BatchOptions, plan_jobs, run_jobs
    from gia_cli.enhance.enhancer import Enhancer

    options = BatchOptions(
        request=request,
        output=output,
        out_dir=out_dir,
        format=output_format,
        on_exists=on_exists,
        recursive=recursive,
        products=(PICTURE, _comparison()) if compare else (PICTURE,),
        also_read=tuple(path for path in (reference, weights and Path(weights)) if path),
    )
    jobs = plan_jobs(inputs, options)
    enhancer = Enhancer.from_weights(
        weights,
        device=device,
        precision=precision,
        tile=tile_side,
        max_memory=max_memory,
        white_balance=white_balance,
        engine=engine,
        quality=quality,
        black_level=black_level,
        white_level=white_level,
        strength=strength,
        strength_chroma=strength_chroma,
    )

    results: list[FileResult] = []
    page = _report_page(report, jobs, options, terminal)
    if page is not None:
        options = page.watching(options)

    def announce(result: FileResult) -> None:
        _announce(terminal, result, as_json=as_json)

    def work(jobs: Sequence[Job], report: Callable[[FileResult], None]) -> None:
        def on_result(result: FileResult) -> None:
            report(result)
            announce(result)

        with terminal:
            run_jobs(jobs, enhancer, options, progress=terminal, on_result=on_result)

    try:
        if is_needed():
            run_guarded(jobs, work, results.append, on_death=announce)
        else:
            work(jobs, results.append)
    finally:  # also after Ctrl-C: what is written is reported
        if page is not None:
            with page:
                page.write(results)
            if not as_json:
                terminal.line(str(report))
        if as_json:
            terminal.json(_report(results))
    if len(jobs) > 1 and not (as_json or quiet):
        _summary(terminal, results)
    _raise_failures(results)


def _tile_side(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--tile takes a whole number of pixels or auto, not '{text}'.")
    return int(text)


def _comparison() -> Product:
    from gia_cli.enhance.batch import Product
    from gia_cli.enhance.comparison import comparison_path, write_comparison

    return Product(comparison_path, write_comparison)


def _report_page(
    path: Path | None, jobs: Sequence[Job], options: BatchOptions, terminal: Terminal
) -> BatchPage | None:
    """Begin the page, if one is asked for and not there already where such outputs are skipped."""
    if path is None:
        return None
    from gia_cli.enhance.report import BatchPage

    if options.on_exists == "skip" and path.exists():
        terminal.note(f"{path}: skipped, it is already there.")
        return None
    return BatchPage(path, jobs, options)


def _announce(terminal: Terminal, result: FileResult, *, as_json: bool) -> None:
    """Say what became of one photo: paths on stdout, why on stderr."""
    if result.error is not None:
        terminal.error(result.error, about=result.source)
    for choice in result.choices:
        terminal.say(f"{result.source.name}: ratio {choice.ratio:.4g} ({choice.reason})")
    if result.weights is not None:
        balance = f", white balance {result.white_balance}" if result.white_balance else ""
        terminal.detail(f"{result.source.name}: {result.weights}{balance}")
    if result.status == "skipped":
        terminal.note(f"{result.source.name}: skipped, its output is already there.")
    elif not as_json:  # of a photo that failed, too: some of its brackets may be there
        for path in result.outputs:
            terminal.line(str(path))


def _report(results: list[FileResult]) -> dict[str, Any]:
    """Describe a run as the JSON report does."""
    files = [_file_report(result) for result in results]
    return {"gia": __version__, **counts(results), "files": files}


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
        "white_balance": result.white_balance,
        "seconds": round(result.seconds, 3),
        "stages": {stage: round(seconds, 3) for stage, seconds in result.stages.items()},
        "error": error_report(error),
    }


def _summary(terminal: Terminal, results: list[FileResult]) -> None:
    folders = [os.path.abspath(result.source.parent) for result in results]  # noqa: PTH100
    root = (
        Path(os.path.commonpath(folders)) if len({Path(f).anchor for f in folders}) == 1 else None
    )
    rows = [
        [
            _shown_path(result.source, root),
            result.status,
            ", ".join(f"{choice.ratio:.4g}" for choice in result.choices),
            f"{result.seconds:.1f}",
            result.error.message if result.error else ", ".join(map(str, result.outputs)),
        ]
        for result in results
    ]
    terminal.table(["photo", "status", "ratio", "seconds", "output"], rows, to_stderr=True)


def _shown_path(path: Path, root: Path | None) -> str:
    """Name a photo by its path below the folder that all lie in."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100, links stay as they are
    return str(whole.relative_to(root)) if root is not None else str(path)


def _raise_failures(results: list[FileResult]) -> None:
    """Leave with the error of the only photo, or with a batch's."""
    failed = [result for result in results if result.error is not None]
    if not failed:
        return
    if len(results) == 1 and failed[0].error is not None:
        raise typer.Exit(failed[0].error.exit_code)  # its line is printed already
    raise BatchError(f"{len(failed)} of {len(results)} photos failed.")
