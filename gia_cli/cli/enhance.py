"""``gia enhance``: photos to pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gia_cli._version import __version__
from gia_cli.cli.app import app, counts, error_report, exposure_request
from gia_cli.cli.options import (
    BatchDevices,
    Engine,
    Json,
    MaxMemory,
    MaxRatio,
    OnExists,
    Quiet,
    Ray,
    Verbose,
    Weights,
    Workers,
    cluster_device,
    not_typed,
    ray_options,
)
from gia_cli.cli.settings import explained
from gia_cli.errors import BatchError, UsageError
from gia_cli.files import OutputFormat
from gia_cli.imaging.save_options import (
    DEFAULT_SAVE,
    EXR_COMPRESSION,
    JPEG_QUALITY,
    JPEG_SUBSAMPLING,
    JXL_DISTANCE,
    JXL_EFFORT,
    ColorSpaceName,
    ExrCompression,
    SaveOptions,
    Subsampling,
)
from gia_cli.runtime import (
    DeviceName,
    Precision,
    Quality,
    devices_for_batch,
    split_devices,
)

if TYPE_CHECKING:
    from gia_cli.cli.console import Terminal
    from gia_cli.cluster.ray_pool import RayOptions
    from gia_cli.cluster.shard import Shard
    from gia_cli.enhance.batch import BatchOptions, FileResult, Job, Product
    from gia_cli.enhance.enhancer import Enhancer
    from gia_cli.enhance.report import BatchPage


@dataclass(frozen=True, slots=True)
class Batch:
    """What the options of `gia enhance` amount to."""

    inputs: list[Path]
    options: BatchOptions
    make_enhancer: Callable[..., Enhancer]
    """Takes another `device` than what was asked for, which may be several."""
    devices: Callable[[], list[DeviceName]]
    """Says which ones those are."""
    terminal: Terminal
    as_json: bool
    report: Path | None
    shard: str | None = None
    """As typed."""
    cluster: RayOptions | None = None


#: What is to be done with it.
Finish = Callable[[Batch], None]


def _complete_white_balance(incomplete: str) -> list[str]:
    from gia_cli.enhance.white_balance import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


@app.command()
@not_typed("finish")
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
            "--output",
            "-o",
            help="Output of one photo: .tif, .png, .dng, .jpg, .jxl or .exr.",
            show_default=False,
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
            help="tif, png: to edit; dng: linear camera RGB for another converter; jpg, jxl (JPEG "
            "XL): to share; exr: linear light (default: tif).",
            show_default=False,
        ),
    ] = None,
    color_space: Annotated[
        ColorSpaceName,
        typer.Option("--color-space", help="What lies outside sRGB is kept in the wider ones."),
    ] = DEFAULT_SAVE.color_space,
    bit_depth: Annotated[
        int | None,
        typer.Option(
            "--bit-depth",
            metavar="8|16|32",
            help="Bits for each channel; 32 for TIFF and EXR: floats, linear (default: 16; jpg 8).",
            show_default=False,
        ),
    ] = None,
    jpeg_quality: Annotated[
        int | None,
        typer.Option(
            "--jpeg-quality",
            metavar="1..100",
            help=f"As cjpeg's (default: {JPEG_QUALITY}).",
            show_default=False,
        ),
    ] = None,
    jpeg_subsampling: Annotated[
        Subsampling | None,
        typer.Option(
            "--jpeg-subsampling",
            help=f"Of colour (default: {JPEG_SUBSAMPLING}, none).",
            show_default=False,
        ),
    ] = None,
    jxl_distance: Annotated[
        float | None,
        typer.Option(
            "--jxl-distance",
            metavar="0..25",
            help=f"As cjxl's: 0 is lossless (default: {JXL_DISTANCE:g}).",
            show_default=False,
        ),
    ] = None,
    jxl_effort: Annotated[
        int | None,
        typer.Option(
            "--jxl-effort",
            metavar="1..9",
            help=f"As cjxl's: more is smaller and slower (default: {JXL_EFFORT}).",
            show_default=False,
        ),
    ] = None,
    exr_compression: Annotated[
        ExrCompression | None,
        typer.Option(
            "--exr-compression",
            help=f"As OpenEXR's tools name them (default: {EXR_COMPRESSION}).",
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
        float | None,
        typer.Option(
            "--exposure",
            metavar="EV",
            help="Stops brighter than that, or darker (-1).",
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
    use_sidecar: Annotated[
        bool,
        typer.Option(
            "--use-sidecar",
            help="Use orientation, white balance and exposure of the XMP beside each photo, or in "
            "it, where no option says otherwise. Rating, keywords and the like are kept anyway.",
        ),
    ] = False,
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
    highlights: Annotated[
        float,
        typer.Option(
            "--highlights",
            metavar="0..1",
            help="Keep the shape of lamps: tones below white that are given to what is above.",
        ),
    ] = 0.0,
    crop: Annotated[
        str | None,
        typer.Option(
            "--crop",
            metavar="X,Y,W,H|center",
            help="Make only this part, quickly, as it is in the whole picture: to try settings.",
            show_default=False,
        ),
    ] = None,
    device: BatchDevices = "auto",
    engine: Engine = "auto",
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            help="auto: fp16 on CUDA; on CPUs int8 if gia has such weights; else fp32. bf16 is for "
            "CPUs that multiply in it.",
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
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N|auto",
            help="Do only the I-th of N shares of the photos; the same command on other machines "
            "does the others. auto/N: I is the task's of SLURM or Kubernetes (default: in a SLURM "
            "array, its task's share).",
            show_default=False,
        ),
    ] = None,
    ray: Ray = None,
    workers: Workers = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    finish: Finish | None = None,
) -> None:
    """Turn dark RAW photos into clean, bright pictures.

    gia enhance night.ARW -o night.tif

    gia enhance card/ --out-dir pictures --format png
    """
    from gia_cli.cli.console import Terminal
    from gia_cli.runtime import require_addresses

    terminal = Terminal(quiet=quiet, verbose=verbose)
    require_addresses()
    request = exposure_request(ratio, target_exposure, reference, brackets, max_ratio, exposure)
    tile_side = _tile_side(tile)

    from gia_cli.enhance.batch import BatchOptions, picture_saved
    from gia_cli.enhance.enhancer import Enhancer

    picture = picture_saved(
        SaveOptions(
            color_space=color_space,
            bit_depth=bit_depth,
            jpeg_quality=jpeg_quality,
            jpeg_subsampling=jpeg_subsampling,
            jxl_distance=jxl_distance,
            jxl_effort=jxl_effort,
            exr_compression=exr_compression,
        )
    )
    options = BatchOptions(
        request=request,
        output=output,
        out_dir=out_dir,
        format=output_format,
        on_exists=on_exists,
        recursive=recursive,
        is_crop=crop is not None,
        products=(picture, _comparison()) if compare else (picture,),
        also_read=tuple(path for path in (reference, weights and Path(weights)) if path),
    )
    make_enhancer = partial(
        Enhancer.from_weights,
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
        highlights=highlights,
        crop=crop,
        use_sidecar=use_sidecar,
    )
    if max_memory is not None and "," in device:
        raise UsageError(
            "--max-memory is for one card: what several hold beside each other is not planned.",
            hint="Name one with --device, or leave out --max-memory.",
        )
    is_for_torch = engine in ("auto", "torch") and precision != "int8"
    takes_all = is_for_torch and max_memory is None
    devices = partial(devices_for_batch if takes_all else split_devices, device)
    cluster = ray_options(ray, workers, cluster_device(device, precision, engine))
    if cluster is not None and report is not None:
        raise UsageError(
            "--report does not work with --ray.", hint="--json says what became of each photo."
        )
    (finish or _finish)(
        Batch(inputs, options, make_enhancer, devices, terminal, as_json, report, shard, cluster)
    )


def _finish(batch: Batch) -> None:
    """Enhance all photos, and report."""
    from gia_cli.cli.guarded import is_needed, run_guarded
    from gia_cli.cluster.shard import of_shard
    from gia_cli.enhance.batch import plan_jobs
    from gia_cli.enhance.several_devices import run_on_devices

    options, terminal, as_json = batch.options, batch.terminal, batch.as_json
    planned = plan_jobs(batch.inputs, options)
    shard = _shard(batch, planned)
    jobs = of_shard(planned, shard, attrgetter("key"))
    cluster, quiet = batch.cluster, terminal.quiet
    # The workers of a cluster have their own.
    enhancers = make_enhancers(batch, len(jobs)) if cluster is None else []

    results: list[FileResult] = []
    page = _report_page(batch.report, jobs, options, terminal)
    if page is not None:
        options = page.watching(options)

    def report_line(result: FileResult) -> None:
        announce(terminal, result, as_json=as_json)

    def work(jobs: Sequence[Job], report: Callable[[FileResult], None]) -> None:
        def on_result(result: FileResult) -> None:
            report(result)
            report_line(result)

        with terminal:
            if cluster is None:
                run_on_devices(jobs, enhancers, options, progress=terminal, on_result=on_result)
            elif jobs:
                from gia_cli.enhance.cluster import run_on_ray

                run_on_ray(
                    *(jobs, batch.make_enhancer, options, cluster),
                    shard=shard,
                    progress=terminal,
                    on_result=on_result,
                )

    try:
        if cluster is None and is_needed([each.runtime.device for each in enhancers]):
            run_guarded(jobs, work, results.append, on_death=report_line)
        else:
            work(jobs, results.append)
    finally:  # also after Ctrl-C: what is written is reported
        places = {job.source: place for place, job in enumerate(jobs)}
        results.sort(key=lambda result: places[result.source])  # a cluster's come as they come
        if page is not None:
            with page:
                page.write(results)
            if not as_json:
                terminal.line(str(batch.report))
        if as_json:
            terminal.json(_report(results, shard, len(planned)))
    if len(jobs) > 1 and not (as_json or quiet):
        _summary(terminal, results)
    _raise_failures(results, is_batch=len(planned) > 1)


def _shard(batch: Batch, planned: Sequence[Job]) -> Shard | None:
    """Find out which share of the photos is to be done, and say so."""
    from gia_cli.cluster.shard import of_shard, parse_shard, unnumbered

    if batch.shard is None and [job.source for job in planned] == batch.inputs[:1]:
        return None  # one photo, named: an array's task that has its own is no share of others'
    shard = parse_shard(batch.shard, os.environ)
    if shard is not None:
        share = len(of_shard(planned, shard, attrgetter("key")))
        source = "" if shard.source == "--shard" else f" ({shard.source}; --shard says otherwise)"
        batch.terminal.say(f"shard {shard}{source}: {share} of {len(planned)} photos")
    elif batch.shard is None and (note := unnumbered(os.environ)):
        batch.terminal.note(note)
    return shard


def make_enhancers(batch: Batch, photos: int | None = None) -> list[Enhancer]:
    """Make an enhancer for each device, and for no more than there are photos, if that is known."""
    most = None if photos is None else max(photos, 1)
    return [batch.make_enhancer(device=device) for device in batch.devices()[:most]]


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


def announce(terminal: Terminal, result: FileResult, *, as_json: bool) -> None:
    """Say what became of one photo: paths on stdout, why on stderr."""
    from gia_cli.enhance.storage import shown

    if result.error is not None:
        terminal.error(explained(result.error), about=shown(result.source))
    for choice in result.choices:
        terminal.say(f"{result.source.name}: ratio {choice.ratio:.4g} ({choice.reason})")
    if result.weights is not None:
        balance = f", white balance {result.white_balance}" if result.white_balance else ""
        terminal.detail(f"{result.source.name}: {result.weights}{balance}")
    if result.status == "skipped":
        terminal.note(f"{result.source.name}: skipped, its output is already there.")
    elif not as_json:  # of a photo that failed, too: some of its brackets may be there
        for path in result.outputs:
            terminal.line(shown(path))


def _report(results: list[FileResult], shard: Shard | None, planned: int) -> dict[str, Any]:
    """Describe a run as the JSON report does."""
    files = [_file_report(result) for result in results]
    share = None if shard is None else {**asdict(shard), "planned": planned}
    return {"gia": __version__, **counts(results), "shard": share, "files": files}


def _file_report(result: FileResult) -> dict[str, Any]:
    from gia_cli.enhance.storage import shown

    error = result.error
    return {
        "input": shown(result.source),
        "status": result.status,
        "outputs": [shown(path) for path in result.outputs],
        "ratios": [
            {"ratio": choice.ratio, "rule": choice.rule, "reason": choice.reason}
            for choice in result.choices
        ],
        "weights": result.weights,
        "white_balance": result.white_balance,
        "sidecar": result.sidecar,
        "seconds": round(result.seconds, 3),
        "stages": {stage: round(seconds, 3) for stage, seconds in result.stages.items()},
        "notes": list(dict.fromkeys(result.notes)),
        "error": error_report(error),
    }


def _summary(terminal: Terminal, results: list[FileResult]) -> None:
    from gia_cli.enhance.storage import shown

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
            result.error.message if result.error else ", ".join(map(shown, result.outputs)),
        ]
        for result in results
    ]
    terminal.table(["photo", "status", "ratio", "seconds", "output"], rows, to_stderr=True)


def _shown_path(path: Path, root: Path | None) -> str:
    """Name a photo by its path below the folder that all lie in."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100, links stay as they are
    return str(whole.relative_to(root)) if root is not None else str(path)


def _raise_failures(results: list[FileResult], *, is_batch: bool) -> None:
    """Leave with the error of the only photo, or with a batch's."""
    failed = [result for result in results if result.error is not None]
    if not failed:
        return
    if not is_batch and failed[0].error is not None:
        raise typer.Exit(failed[0].error.exit_code)  # its line is printed already
    raise BatchError(f"{len(failed)} of {len(results)} photos failed.")
