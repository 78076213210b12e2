"""``gia simulate``: pictures to short exposures."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gia_cli._version import __version__
from gia_cli.cameras import camera_name
from gia_cli.cli.app import app, counts, error_report, given, numbers
from gia_cli.cli.options import (
    Camera,
    CoreWorkers,
    Json,
    OnExists,
    Quiet,
    Ray,
    Seed,
    Shard,
    Verbose,
    defaults,
    named_shard,
    ray_options,
)
from gia_cli.errors import BatchError, UsageError
from gia_cli.files import is_folder
from gia_cli.simulation.options import SimulateOptions, TreeOptions, TreeSplit

if TYPE_CHECKING:
    from gia_cli.cli.console import Terminal
    from gia_cli.cluster.ray_pool import RayOptions
    from gia_cli.cluster.shard import Shard as Share
    from gia_cli.simulation.photo import Simulated


_SIMULATE_HELP = "See 'gia simulate --help'."
_DEFAULT, _TREE_DEFAULT = defaults(SimulateOptions), defaults(TreeOptions)


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
    camera: Camera = _DEFAULT.camera,
    ratio: Annotated[
        float | None,
        typer.Option(
            "--ratio",
            metavar="N",
            help=f"How much shorter the short exposure is (default: {_DEFAULT.ratio:g}).",
            show_default=False,
        ),
    ] = None,
    ratios: Annotated[
        str | None,
        typer.Option(
            "--ratios",
            metavar="N,N,...",
            help="With --sid: one short exposure at each (default: those of SID's scenes).",
            show_default=False,
        ),
    ] = None,
    iso: Annotated[
        int | None,
        typer.Option(
            "--iso",
            metavar="N",
            help=f"One of the camera's settings (default: {_DEFAULT.iso}; with --sid those of "
            "SID's scenes).",
            show_default=False,
        ),
    ] = None,
    wb: Annotated[
        str | None,
        typer.Option(
            "--wb",
            metavar="R,B",
            help="White balance gains of the light, or R,G,B (default: the median of SID's scenes; "
            "with --sid those of its scenes).",
            show_default=False,
        ),
    ] = None,
    long_exposure: Annotated[
        float, typer.Option("--long-exposure", metavar="SECONDS", help="Time of the long exposure.")
    ] = _DEFAULT.long_exposure_s,
    aperture: Annotated[
        float, typer.Option("--aperture", metavar="F", help="f-number, for the EXIF only.")
    ] = _DEFAULT.aperture,
    ev: Annotated[
        float,
        typer.Option(
            "--ev", metavar="STOPS", help="How much brighter than the picture the scene is."
        ),
    ] = _DEFAULT.ev,
    shrink: Annotated[
        int,
        typer.Option(
            "--shrink",
            metavar="N",
            help="Average NxN pixels first; 2 or more hides a camera JPEG's own noise.",
        ),
    ] = _DEFAULT.shrink,
    clean_long: Annotated[
        bool, typer.Option("--clean-long", help="Make the long exposure free of noise.")
    ] = _DEFAULT.clean_long,
    burst: Annotated[
        int | None,
        typer.Option(
            "--burst",
            metavar="N",
            help=f"With --sid: short exposures at each ratio (default: {_TREE_DEFAULT.burst}).",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        TreeSplit | None,
        typer.Option(
            "--split",
            help=f"With --sid: the list for all pictures (default: {_TREE_DEFAULT.split}, at "
            "random).",
            show_default=False,
        ),
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(
            "--test-share",
            metavar="SHARE",
            help="With --sid: share on the test list (default: SID's, "
            f"{_TREE_DEFAULT.test_share:g}).",
            show_default=False,
        ),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            "--val-share",
            metavar="SHARE",
            help="With --sid: share on the validation list (default: SID's, "
            f"{_TREE_DEFAULT.val_share:g}).",
            show_default=False,
        ),
    ] = None,
    seed: Seed = _DEFAULT.seed,
    on_exists: OnExists = _DEFAULT.on_exists,
    shard: Shard = None,
    ray: Ray = None,
    workers: CoreWorkers = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Simulate short and long exposures of pictures, as a camera's RAW files in near darkness.

    gia simulate day.jpg -o night.ARW --ratio 100 --iso 1600

    gia simulate pictures/ --out tree --sid --camera X-T2

    With --on-exists skip the command continues a data set, and can add pictures to it. With --sid
    many machines make one data set together: --shard, --ray.
    """
    shares = {"--test-share": test_share, "--val-share": val_share}
    if sid:
        _refuse({"--ratio": ratio}, "is for one photo; with --sid use --ratios.")
        if split not in (None, "auto"):
            _refuse(shares, f"is for a random split, but --split {split} puts all on one list.")
    else:
        for_tree = {"--ratios": ratios, "--burst": burst, "--split": split, **shares}
        for_tree |= {"--shard": shard, "--ray": ray, "--workers": workers}
        _refuse(for_tree, "is for data sets: it needs --sid.")
        _check_one_photo(inputs)

    from gia_cli.cli.console import Terminal

    exposure = SimulateOptions(
        camera=camera_name(camera),
        long_exposure_s=long_exposure,
        aperture=aperture,
        shrink=shrink,
        ev=ev,
        clean_long=clean_long,
        seed=seed,
        on_exists=on_exists,
    )
    scene = given(iso=iso, wb=None if wb is None else _white_balance(wb))
    terminal = Terminal(quiet=quiet, verbose=verbose)
    if not sid:
        exposure = replace(exposure, **scene, **given(ratio=ratio))
        _simulate_photo(inputs[0], out, exposure, terminal, as_json=as_json)
        return
    if out is None:
        raise UsageError("--sid needs a folder for the data set.", hint="Add --out TREE.")
    changes = given(
        ratios=None if ratios is None else numbers(ratios, "--ratios"),
        burst=burst,
        split=split,
        test_share=test_share,
        val_share=val_share,
    )
    tree_options = TreeOptions(exposure=exposure, **scene, **changes)
    share, cluster = named_shard(shard), ray_options(ray, workers, fills_machine=False)
    _simulate_tree(inputs, out, tree_options, share, cluster, terminal, as_json=as_json)


def _refuse(options: dict[str, Any], why: str) -> None:
    """Refuse options that the command's other mode has."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} {why}", hint=_SIMULATE_HELP)


def _check_one_photo(inputs: list[Path]) -> None:
    hint = "To make a data set of them, add --sid --out TREE."
    if len(inputs) > 1:
        raise UsageError(f"{len(inputs)} inputs, but one photo is simulated at a time.", hint=hint)
    if is_folder(inputs[0]):
        raise UsageError(f"{inputs[0]} is a folder, not a photo.", hint=hint)


def _white_balance(text: str) -> tuple[float, float, float]:
    """Parse the gains "R,B", green being 1, or "R,G,B"."""
    gains = numbers(text, "--wb")
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
    from gia_cli.simulation.photo import simulate_photo

    with terminal:
        result = simulate_photo(photo, out, options, terminal)
    _announce(terminal, result, as_json=as_json)
    if as_json:
        terminal.json(_report([result], ()))


def _simulate_tree(
    inputs: list[Path],
    tree: Path,
    options: TreeOptions,
    shard: Share | None,
    cluster: RayOptions | None,
    terminal: Terminal,
    *,
    as_json: bool,
) -> None:
    from gia_cli.simulation.dataset import simulate_tree

    results: list[Simulated] = []
    lists: tuple[Path, ...] = ()
    planned = None

    def on_result(result: Simulated) -> None:
        results.append(result)
        _announce(terminal, result, as_json=as_json)

    try:
        with terminal:
            made = simulate_tree(
                inputs,
                tree,
                options,
                shard=shard,
                cluster=cluster,
                progress=terminal,
                on_result=on_result,
            )
        results, lists, planned = made.results, made.lists, made.planned
    finally:  # also after Ctrl-C: what is written is reported
        if as_json and (results or planned is not None):
            share = None if shard is None else {**asdict(shard), "planned": planned}
            terminal.json(_report(results, lists, share))
    if not as_json:
        for path in lists:
            terminal.line(str(path))
    failed = sum(result.error is not None for result in results)
    if failed:
        raise BatchError(f"{failed} of {len(results)} photos failed.")


def _announce(terminal: Terminal, result: Simulated, *, as_json: bool) -> None:
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
        terminal.note(
            f"{result.source.name}: {len(result.kept)} of its files are already there and are kept."
        )
    if not as_json:
        for path in result.written:
            terminal.line(str(path))


def _report(
    results: list[Simulated], lists: tuple[Path, ...], shard: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Describe a run as the JSON report does."""
    return {
        "gia": __version__,
        **counts(results),
        "shard": shard,
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
                "error": error_report(result.error),
            }
            for result in results
        ],
    }
