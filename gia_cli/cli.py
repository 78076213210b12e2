"""The commands: options to one dataclass, one call, one exit code.

Heavy modules are imported inside the commands, so that ``gia --help`` does not wait for torch.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
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
    from gia_cli.simulate import Simulated, SimulateOptions, TreeOptions
    from gia_cli.train import TrainConfig


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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and results only.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Where to compute.")
]
OnExists = Annotated[
    Literal["error", "skip", "overwrite"],
    typer.Option("--on-exists", help="What to do when an output is already there."),
]
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
    on_exists: OnExists = "error",
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
    device: Device = "auto",
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
    quiet: Quiet = False,
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
    files = [_file_report(result) for result in results]
    return {"gia": __version__, **_counts(results), "files": files}


def _counts(results: Sequence[FileResult | Simulated]) -> dict[str, int]:
    return {
        status: sum(result.status == status for result in results)
        for status in ("written", "skipped", "failed")
    }


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
        "error": _error_report(error),
    }


def _error_report(error: GiaError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "kind": type(error).__name__,
        "exit_code": error.exit_code,
        "message": error.message,
        "hint": error.hint,
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


# ---------------------------------------------------------------- gia simulate

_SIMULATE_HELP = "See 'gia simulate --help'."


@app.command()
def simulate(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTO|FOLDER...",
            help="One picture (JPEG, PNG, ...); with --sid pictures, and folders of them.",
            show_default=False,
            readable=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            "-o",
            metavar="FILE|TREE",
            help="The short exposure (default: PHOTO_night.ARW beside the picture); "
            "with --sid the data set's folder.",
            show_default=False,
        ),
    ] = None,
    sid: Annotated[
        bool, typer.Option("--sid", help="Make a data set with SID's names, folders and lists.")
    ] = False,
    camera: Annotated[
        Literal["ILCE-7SM2", "X-T2"],
        typer.Option("--camera", help="Sony A7S II (Bayer, ARW) or Fujifilm X-T2 (X-Trans, RAF)."),
    ] = "ILCE-7SM2",
    ratio: Annotated[
        float | None,
        typer.Option(
            "--ratio",
            metavar="N",
            help="How much shorter the short exposure is (default: 100).",
            show_default=False,
        ),
    ] = None,
    ratios: Annotated[
        str | None,
        typer.Option(
            "--ratios",
            metavar="N,N,...",
            help="With --sid: one short exposure at each (default: as SID's scenes had).",
            show_default=False,
        ),
    ] = None,
    iso: Annotated[
        int | None,
        typer.Option(
            "--iso",
            metavar="N",
            help="One of the camera's settings (default: 1600; with --sid as SID's scenes had).",
            show_default=False,
        ),
    ] = None,
    wb: Annotated[
        str | None,
        typer.Option(
            "--wb",
            metavar="R,B",
            help="White balance gains of the light, or R,G,B (default: the median of SID's "
            "nights; with --sid as its scenes had).",
            show_default=False,
        ),
    ] = None,
    long_exposure: Annotated[
        float, typer.Option("--long-exposure", metavar="SECONDS", help="Time of the long exposure.")
    ] = 10.0,
    aperture: Annotated[
        float, typer.Option("--aperture", metavar="F", help="f-number, for the EXIF only.")
    ] = 8.0,
    ev: Annotated[
        float,
        typer.Option(
            "--ev", metavar="STOPS", help="How much brighter than the picture the scene is."
        ),
    ] = 0.0,
    shrink: Annotated[
        int,
        typer.Option(
            "--shrink",
            metavar="N",
            help="Average NxN pixels first; 2 or more hides a camera JPEG's own noise.",
        ),
    ] = 1,
    clean_long: Annotated[
        bool, typer.Option("--clean-long", help="Make the long exposure free of noise.")
    ] = False,
    burst: Annotated[
        int | None,
        typer.Option(
            "--burst",
            metavar="N",
            help="With --sid: short exposures at each ratio (default: 1).",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Literal["auto", "train", "val", "test"] | None,
        typer.Option(
            "--split",
            help="With --sid: the list for all pictures (default: auto, dealt out at random).",
            show_default=False,
        ),
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(
            "--test-share",
            metavar="SHARE",
            help="With --sid: share on the test list (default: SID's, 0.22).",
            show_default=False,
        ),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            "--val-share",
            metavar="SHARE",
            help="With --sid: share on the validation list (default: SID's, 0.09).",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Decides all that is random.")
    ] = 0,
    on_exists: OnExists = "error",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Photograph pictures again, at night: short and long exposures as the camera's RAW files.

    gia simulate day.jpg -o night.ARW --ratio 100 --iso 1600

    gia simulate pictures/ --out tree --sid --camera X-T2
    """
    shares = {"--test-share": test_share, "--val-share": val_share}
    if sid:
        _refuse({"--ratio": ratio}, "is for one photo; a data set takes --ratios.")
        if split not in (None, "auto"):
            _refuse(shares, f"deals pictures out, but --split {split} puts all on one list.")
    else:
        for_tree = {"--ratios": ratios, "--burst": burst, "--split": split, **shares}
        _refuse(for_tree, "is for data sets: it needs --sid.")
        _check_one_photo(inputs)

    from gia_cli.console import Terminal
    from gia_cli.simulate import SimulateOptions, TreeOptions

    night = SimulateOptions(
        camera=camera,
        long_exposure_s=long_exposure,
        aperture=aperture,
        shrink=shrink,
        ev=ev,
        clean_long=clean_long,
        seed=seed,
        on_exists=on_exists,
    )
    scene = _given(iso=iso, wb=None if wb is None else _white_balance(wb))
    terminal = Terminal(quiet=quiet, verbose=verbose)
    if not sid:
        night = replace(night, **scene, **_given(ratio=ratio))
        _simulate_photo(inputs[0], out, night, terminal, as_json=as_json)
        return
    if out is None:
        raise UsageError("--sid needs a folder for the data set.", hint="Add --out TREE.")
    changes = _given(
        ratios=None if ratios is None else _numbers(ratios, "--ratios"),
        burst=burst,
        split=split,
        test_share=test_share,
        val_share=val_share,
    )
    tree_options = TreeOptions(night=night, **scene, **changes)
    _simulate_tree(inputs, out, tree_options, terminal, as_json=as_json)


def _refuse(options: dict[str, Any], why: str) -> None:
    """Refuse options that the command's other mode has."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} {why}", hint=_SIMULATE_HELP)


def _check_one_photo(inputs: list[Path]) -> None:
    hint = "A data set is made of them with --sid --out TREE."
    if len(inputs) > 1:
        raise UsageError(
            f"{len(inputs)} inputs, where one photo is simulated at a time.", hint=hint
        )
    if inputs[0].is_dir():
        raise UsageError(f"{inputs[0]} is a folder, not a photo.", hint=hint)


def _given(**options: Any) -> dict[str, Any]:
    """Keep the options that were given; the others have their defaults in the dataclass."""
    return {name: value for name, value in options.items() if value is not None}


def _numbers(text: str, option: str) -> tuple[float, ...]:
    return tuple(_number(part, option) for part in text.split(","))


def _white_balance(text: str) -> tuple[float, float, float]:
    """Parse the gains "R,B", green being 1, or "R,G,B"."""
    gains = _numbers(text, "--wb")
    if len(gains) == 2:
        return gains[0], 1.0, gains[1]
    if len(gains) == 3:
        return gains[0], gains[1], gains[2]
    raise UsageError(f"--wb takes R,B or R,G,B, such as 2.02,2.46, not '{text}'.")


def _simulate_photo(
    photo: Path,
    out: Path | None,
    options: SimulateOptions,
    terminal: Terminal,
    *,
    as_json: bool,
) -> None:
    from gia_cli.simulate import simulate_photo

    with terminal:
        result = simulate_photo(photo, out, options, terminal)
    _announce_night(terminal, result, as_json=as_json)
    if as_json:
        terminal.json(_nights_report([result], ()))


def _simulate_tree(
    inputs: list[Path],
    tree: Path,
    options: TreeOptions,
    terminal: Terminal,
    *,
    as_json: bool,
) -> None:
    from gia_cli.simulate import simulate_tree

    results: list[Simulated] = []
    lists: tuple[Path, ...] = ()

    def on_result(result: Simulated) -> None:
        results.append(result)
        _announce_night(terminal, result, as_json=as_json)

    try:
        with terminal:
            lists = simulate_tree(
                inputs, tree, options, progress=terminal, on_result=on_result
            ).lists
    finally:  # also after Ctrl-C: what is written is reported
        if as_json and results:
            terminal.json(_nights_report(results, lists))
    if not as_json:
        for path in lists:
            terminal.line(str(path))
    failed = sum(result.error is not None for result in results)
    if failed:
        raise BatchError(f"{failed} of {len(results)} photos failed.")


def _announce_night(terminal: Terminal, result: Simulated, *, as_json: bool) -> None:
    """Say what became of one picture: paths on stdout, the rest on stderr."""
    scene = result.scene
    gains = ", ".join(f"{gain:.4g}" for gain in scene.wb)
    ratios = ", ".join(dict.fromkeys(f"{ratio:g}" for ratio in result.ratios))
    terminal.detail(f"{result.source.name}: ISO {scene.iso}, ratio {ratios}, white balance {gains}")
    if result.error is not None:
        terminal.error(result.error, about=result.source)
    if result.status == "skipped":
        terminal.note(f"{result.source.name}: skipped, its files are already there.")
    elif result.kept:
        terminal.note(f"{result.source.name}: {len(result.kept)} of its files were there and stay.")
    if not as_json:
        for path in result.written:
            terminal.line(str(path))


def _nights_report(results: list[Simulated], lists: tuple[Path, ...]) -> dict[str, Any]:
    """Describe a run as the JSON report does."""
    return {
        "gia": __version__,
        **_counts(results),
        "lists": [str(path) for path in lists],
        "files": [
            {
                "input": str(result.source),
                "status": result.status,
                "outputs": [str(path) for path in result.written],
                "short": [str(path) for path in result.shorts],
                "ratios": list(result.ratios),
                "long": str(result.long),
                "iso": result.scene.iso,
                "white_balance": list(result.scene.wb),
                "error": _error_report(result.error),
            }
            for result in results
        ],
    }


# ---------------------------------------------------------------- gia train


@app.command()
def train(
    run: Annotated[
        Path,
        typer.Option(
            "--run", metavar="FOLDER", help="Where the run lives; the same folder resumes it."
        ),
    ] = Path("runs/gia"),
    camera: Annotated[
        Literal["sony", "fuji"],
        typer.Option("--camera", help="sony: A7S II, Bayer. fuji: X-T2, X-Trans."),
    ] = "sony",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="TREE", help="SID, or a tree made like it.", show_default=False
        ),
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(
            "--photos",
            metavar="FOLDER",
            help="Photographs to make nights of; may be repeated.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Literal["small", "paper", "paper-as-printed"],
        typer.Option("--recipe", help="small: for a few cores. paper: the published one."),
    ] = "small",
    network: Annotated[str, typer.Option("--network", metavar="NAME", help="What to train.")] = (
        "gia-net"
    ),
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            metavar="N",
            help="Channels of the first level (default: as published, 32).",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            help="Length of the run (default: the recipe's epochs, where it has them).",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Length of the run by the clock, such as 30m or 2h.",
            show_default=False,
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            metavar="NAME|PATH",
            help="Weights to start from; Bayer ones serve X-Trans too.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides all that is random.")] = 0,
    loss: Annotated[
        Literal["l1", "joint", "zamir"] | None,
        typer.Option("--loss", help="Instead of the recipe's.", show_default=False),
    ] = None,
    vgg: Annotated[
        Path | None,
        typer.Option(
            "--vgg", metavar="FILE", help="VGG weights for --loss zamir.", show_default=False
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="Peak learning rate, not the recipe's.", show_default=False),
    ] = None,
    sides: Annotated[
        str | None,
        typer.Option(
            "--sides",
            metavar="N-N",
            help="Crop sides in packed pixels, such as 48-128, not the recipe's.",
            show_default=False,
        ),
    ] = None,
    photos_per_step: Annotated[
        int | None,
        typer.Option(
            "--photos-per-step", metavar="N", help="Not the recipe's.", show_default=False
        ),
    ] = None,
    crops_per_photo: Annotated[
        int | None,
        typer.Option(
            "--crops-per-photo",
            metavar="N",
            help="Crops that share one global vector, not the recipe's.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="FOLDER",
            help="Where decoded data go (default: TREE/.gia-cache, or the user's cache).",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"],
        typer.Option("--precision", help="auto: bf16 or fp16 on CUDA, fp32 elsewhere."),
    ] = "auto",
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Processes that make crops.")
    ] = 1,
    checkpoint_every: Annotated[
        str, typer.Option("--checkpoint-every", metavar="TIME", help="How often to save.")
    ] = "5m",
    validate_every: Annotated[
        str, typer.Option("--validate-every", metavar="TIME", help="How often to validate.")
    ] = "10m",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a network on SID or on nights simulated from photographs.

    The same command resumes an interrupted run, and under torchrun trains in several processes.
    """
    from gia_cli.console import Terminal
    from gia_cli.train import TrainConfig

    changes = {"lr": lr, "loss": loss}
    config = TrainConfig(
        run=run,
        camera=camera,
        data=data,
        photos=tuple(photos or ()),
        recipe=recipe,
        network=network,
        width=width,
        steps=steps,
        budget_s=None if budget is None else _seconds(budget, "--budget"),
        init_from=init_from,
        seed=seed,
        changes={name: value for name, value in changes.items() if value is not None},
        sides=None if sides is None else _side_range(sides),
        photos_per_step=photos_per_step,
        crops_per_photo=crops_per_photo,
        vgg=vgg,
        cache=cache,
        device=device,
        precision=precision,
        workers=workers,
        checkpoint_every_s=_seconds(checkpoint_every, "--checkpoint-every"),
        validate_every_s=_seconds(validate_every, "--validate-every"),
    )
    _train(config, Terminal, as_json=as_json, quiet=quiet, verbose=verbose)


def _train(
    config: TrainConfig, terminal_type: type[Terminal], *, as_json: bool, quiet: bool, verbose: bool
) -> None:
    from gia_cli.distributed import ranks_from_environment
    from gia_cli.train import train as run_training

    is_first = ranks_from_environment().is_first
    with terminal_type(quiet=quiet or not is_first, verbose=verbose) as terminal:
        result = run_training(config, terminal)
    if not is_first:
        return
    if as_json:
        terminal.json(
            {
                "run": str(result.run),
                "steps": result.steps,
                "seconds": round(result.seconds, 1),
                "loss": result.loss,
                "validation_psnr": result.validation_psnr,
            }
        )
    else:
        terminal.line(str(result.run))
        terminal.say(
            f"{result.steps} steps in {result.seconds:.0f} s; validation PSNR "
            f"{result.validation_psnr:.2f} dB. Next: gia weights export {result.run}"
        )


def _seconds(text: str, option: str) -> float:
    """Parse "90s", "30m", "2h" or plain seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", text.lower())
    if match is None:
        raise UsageError(f"{option} takes a time such as 90s, 30m or 2h, not '{text}'.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _side_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    if match is None:
        raise UsageError(f"--sides takes one number or two, such as 48-128, not '{text}'.")
    return int(match[1]), int(match[2] or match[1])


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
    from gia_cli.console import Terminal
    from gia_cli.train import export_run

    row = export_run(run, name, out, data_note=data_note, licence=licence, overwrite=overwrite)
    terminal = Terminal()
    terminal.line(str(out / row["file"]))
    terminal.say(f"SHA-256 {row['sha256']}; use it with --weights {out / row['file']}")


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
