"""``gia eval``: weights to scores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from gia_cli.cli.app import Device, Json, Quiet, Verbose, app, choices
from gia_cli.errors import BatchError, UsageError

if TYPE_CHECKING:
    from gia_cli.console import Terminal
    from gia_cli.diagnose import Diagnosis
    from gia_cli.evaluate import EvalConfig, Failure, Report
    from gia_cli.paper import PaperRow


@app.command("eval")
def evaluate(
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="TREE", help="SID, or a tree made like it.", show_default=False
        ),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="[LABEL=]NAME|PATH",
            help="A row of the table; may be repeated. With --table also a folder of weights.",
            show_default=False,
        ),
    ] = None,
    isp: Annotated[
        str | None,
        typer.Option(
            "--isp",
            metavar="NAME,...",
            help="Rows without a network: libraw (amplified), libraw+nlm, libraw+bm3d (with a "
            "denoiser in front).",
            show_default=False,
        ),
    ] = None,
    camera: Annotated[
        Literal["sony", "fuji"],
        typer.Option("--camera", help="sony: A7S II, Bayer. fuji: X-T2, X-Trans."),
    ] = "sony",
    protocol: Annotated[
        Literal["all", "clean", "00", "clean-00"],
        typer.Option(
            "--protocol",
            help="clean: without SID's misaligned scenes. 00: the first shot of each burst.",
        ),
    ] = "all",
    split: Annotated[
        Literal["train", "val", "test"], typer.Option("--split", help="Which list.")
    ] = "test",
    table: Annotated[
        Literal["1", "2", "3"] | None,
        typer.Option(
            "--table",
            help="Lay the rows out as the paper's table, and say which are missing.",
            show_default=False,
        ),
    ] = None,
    ratio: Annotated[
        str,
        typer.Option(
            "--ratio",
            metavar="NAME,...",
            help="How bright: known (the pair's own ratio), auto (as gia enhance chooses), picture "
            "(as it chooses without an exposure time); several are rows of their own.",
        ),
    ] = "known",
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Results; the same folder resumes."),
    ] = Path("runs/eval"),
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            help="Only N pairs, evenly spread: a quick look, no score of the list.",
            show_default=False,
        ),
    ] = None,
    panel: Annotated[
        int,
        typer.Option("--panel", metavar="N", help="Also write panel.png with N photos."),
    ] = 0,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose",
            help="Also test whether every level and the vector are at work: what cutting each "
            "costs, in dB.",
        ),
    ] = False,
    panel_order: Annotated[
        Literal["spread", "worst"],
        typer.Option("--panel-order", help="By the last row: from worst to best, or the worst."),
    ] = "spread",
    lpips: Annotated[
        Path | None,
        typer.Option(
            "--lpips-weights",
            metavar="FILE",
            help="AlexNet and its LPIPS layers (default: looked for in the cache).",
            show_default=False,
        ),
    ] = None,
    lpips_vgg: Annotated[
        Path | None,
        typer.Option(
            "--lpips-vgg-weights",
            metavar="FILE",
            help="The same for VGG-16.",
            show_default=False,
        ),
    ] = None,
    pieapp: Annotated[
        Path | None,
        typer.Option(
            "--pieapp-weights", metavar="FILE", help="PieAPP's weights.", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"],
        typer.Option("--precision", help="auto: fp32 on CPUs, fp16 on CUDA."),
    ] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score weights on SID's test list, or on a simulated tree, with every measure of the paper.

    The same command resumes. Photos that fail are named, and leave exit code 3.
    """
    from gia_cli.console import Terminal
    from gia_cli.evaluate import EvalConfig, RatioMode
    from gia_cli.paper import paper_table
    from gia_cli.traditional import ISP_NAMES

    rows = paper_table(table) if table is not None else []
    terminal = Terminal(quiet=quiet, verbose=verbose)
    config = EvalConfig(
        data=data,
        camera=camera,
        out=out,
        split=split,
        protocol=protocol,
        weights=_for_table(weights or [], rows, terminal) if rows else tuple(weights or ()),
        isp=() if isp is None else choices(isp, "--isp", tuple(ISP_NAMES)),
        ratios=choices(ratio, "--ratio", get_args(RatioMode)),
        limit=limit,
        lpips_alex=lpips,
        lpips_vgg=lpips_vgg,
        pieapp=pieapp,
        device=device,
        precision=precision,
    )
    tests = _diagnose(config, terminal) if diagnose else []
    _evaluate(config, rows, tests, terminal, panel=panel, panel_order=panel_order, as_json=as_json)


def _diagnose(config: EvalConfig, terminal: Terminal) -> list[Diagnosis]:
    from gia_cli.diagnose import diagnose

    with terminal:
        return diagnose(config, terminal)


def _evaluate(
    config: EvalConfig,
    rows: list[PaperRow],
    tests: list[Diagnosis],
    terminal: Terminal,
    *,
    panel: int,
    panel_order: Literal["spread", "worst"],
    as_json: bool,
) -> None:
    from gia_cli.evaluate import choose_for_panel, panel_rows, report_json
    from gia_cli.evaluate import evaluate as run_evaluation
    from gia_cli.report import write_figure

    def on_failure(failure: Failure) -> None:
        terminal.error(failure.error, about=failure.path)

    with terminal:
        report = run_evaluation(config, terminal, on_failure)
        if panel > 0:
            chosen = choose_for_panel(report, panel, panel_order)
            write_figure(panel_rows(config, chosen, terminal), config.out / "panel.png")
    if as_json:
        terminal.json({**report_json(report), "diagnosis": [asdict(test) for test in tests]})
    else:
        _show(report, rows, terminal)
        _show_diagnosis(tests, terminal)
        terminal.line(str(config.out))
    if report.failures:
        raise BatchError(f"{len(report.failures)} of {report.pairs} pairs failed.")


def _show(report: Report, rows: list[PaperRow], terminal: Terminal) -> None:
    from gia_cli.report import difference_table, score_table

    terminal.table(*score_table(report, rows))
    if len(report.summaries) > 1:
        terminal.table(*difference_table(report))
    config = report.config
    terminal.say(
        f"{config.data.name}, {config.camera} {config.split}, protocol {config.protocol}, "
        f"{report.pairs} pairs; SSIM with a Gaussian window; ± and [ ]: 95 %, bootstrap over scenes"
    )
    for name, reason in report.unavailable.items():
        terminal.say(f"{name}: n/a ({reason})")


def _show_diagnosis(tests: list[Diagnosis], terminal: Terminal) -> None:
    if not tests:
        return
    names = list(dict.fromkeys(name for test in tests for name in test.losses))
    rows = [
        [test.system, f"{test.psnr:.2f}"]
        + [f"{-test.losses[name]:+.2f}" if name in test.losses else "" for name in names]
        for test in tests
    ]
    terminal.table(["dB without", "PSNR", *names], rows)


def _for_table(given: list[str], rows: list[PaperRow], terminal: Terminal) -> tuple[str, ...]:
    """Match weights with the table's rows, name what is missing, and put them in its order."""
    from gia_cli.checkpoint import find_weights, list_weights
    from gia_cli.evaluate import split_label

    found: dict[str, str] = {}
    for text in given:
        label, name = split_label(text)
        folder = Path(name)
        infos = list_weights(folder) if folder.is_dir() else [find_weights(name)]
        for info in infos:
            row = _row_of(label or info.name, info.config.network, info.training, rows)
            if row is None:
                raise UsageError(
                    f"{info.path} belongs to no row of this table.",
                    hint="Say to which: --weights 'SID-Net=FILE'. Rows: "
                    + ", ".join(row.name for row in rows),
                )
            found[row.name] = f"{row.name}={info.path}"
    for row in rows:
        if row.network is not None and row.name not in found:
            terminal.note(f"{row.name}: no weights are named for this row.")
    return tuple(found[row.name] for row in rows if row.name in found)


def _row_of(
    label: str, network: str, training: dict[str, Any], rows: list[PaperRow]
) -> PaperRow | None:
    """Find the row by its name, or by how the weights say they were trained."""
    for row in rows:
        if label in (row.name, row.slug):
            return row
    recipe = training.get("recipe", {})
    sides = recipe.get("crops", {}).get("sides", [0, 0]) if isinstance(recipe, dict) else [0, 0]
    loss = recipe.get("loss") if isinstance(recipe, dict) else None
    alike = [row for row in rows if (row.network, row.loss) == (network, loss)]
    exact = [row for row in alike if row.multi_size == (sides[0] != sides[1])]
    return (exact or alike or [None])[0]  # type: ignore[list-item]
