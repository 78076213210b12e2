"""``gia bench``: what the networks cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from gia_cli.cli.app import app, choices
from gia_cli.cli.options import Device, Json, Quiet, Verbose
from gia_cli.errors import BatchError, UsageError

if TYPE_CHECKING:
    from gia_cli.benchmark.flops import Cost
    from gia_cli.benchmark.speed import SpeedReport, Stages
    from gia_cli.cli.console import Terminal
    from gia_cli.enhance.enhancer import Enhancer
    from gia_cli.raw.cfa import CfaKind
    from gia_cli.runtime import DeviceName, Precision


@app.command()
def bench(
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="NAME",
            help="May be repeated (default: all; with --speed SID-Net and GIA-Net).",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option("--size", metavar="WxH", help="Photosites of the frame."),
    ] = "4240x2832",
    cfa: Annotated[
        Literal["bayer", "xtrans"], typer.Option("--cfa", help="Colour filter array.")
    ] = "bayer",
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure time and peak memory on this machine, too.")
    ] = False,
    photo: Annotated[
        Path | None,
        typer.Option(
            "--photo",
            metavar="FILE",
            help="With --speed: time its stages (default: a simulated 12-megapixel photo).",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="NAME|PATH",
            help="With --speed: the weights of the photo's stages (default: the shipped ones).",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="Runs of each, in turns.")
    ] = 3,
    device: Device = "auto",
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="NAME,...", help="auto, fp32, fp16, bf16, int8."),
    ] = "auto",
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            metavar="FILE",
            help="report.json of gia eval: the quality that --plot shows.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="PNG",
            help="Draw quality over FLOPs or, with --speed, over time.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Count parameters and FLOPs of the networks (the paper's Table 4); measure their speed."""
    if (plot is None) != (scores is None):
        raise UsageError("--plot needs --scores, and --scores --plot.")
    if (photo is not None or weights is not None) and not speed:
        raise UsageError("--photo and --weights are timed with --speed.")
    frame = _size(size)

    from gia_cli.benchmark.flops import measure_cost
    from gia_cli.benchmark.speed import SpeedConfig, bench_json, measure_speed, measure_stages
    from gia_cli.cli.console import Terminal
    from gia_cli.nets.config import NETWORKS
    from gia_cli.raw.reader import read_raw
    from gia_cli.runtime import Precision

    # A mistake should not cost the timings before it.
    kind = "bayer" if photo is None else read_raw(photo).kind
    terminal = Terminal(quiet=quiet, verbose=verbose)
    costs = [measure_cost(name, frame, cfa) for name in network or NETWORKS]
    report, stages = None, None
    if not as_json:
        _show_costs(costs, terminal)
    if speed:
        precisions = choices(precision, "--precision", get_args(Precision))
        config = SpeedConfig(
            networks=tuple(network or ("sid-net", "gia-net")),
            size=frame,
            cfa=cfa,
            device=device,
            precisions=precisions,
            rounds=rounds,
        )
        enhancer = _stage_enhancer(weights, kind, device, precisions[0], terminal)
        with terminal:
            report = measure_speed(config, terminal)
            stages = measure_stages(photo, enhancer, rounds=rounds, progress=terminal)
    if as_json:
        terminal.json(bench_json(costs, report, stages))
    elif report is not None and stages is not None:
        _show_speeds(report, costs, stages, terminal)
    if plot is not None and scores is not None:
        from gia_cli.evaluation.tables import plot_quality

        plot_quality(costs, report, scores, plot)
        if not as_json:
            terminal.line(str(plot))
    failed = [] if report is None else [x for x in report.speeds if x.error is not None]
    if failed:
        raise BatchError(f"{len(failed)} of {len(report.speeds) if report else 0} ways failed.")


def _stage_enhancer(
    weights: str | None,
    kind: CfaKind,
    device: DeviceName,
    precision: Precision,
    terminal: Terminal,
) -> Enhancer:
    """Open what enhances the photo; in int8 only if there are such weights of the chosen ones."""
    from gia_cli.enhance.enhancer import Enhancer
    from gia_cli.errors import WeightsError
    from gia_cli.weights.manifest import find_quantized, find_weights

    info = find_weights(weights, kind)
    if precision == "int8":
        try:
            find_quantized(info)
        except WeightsError as error:
            terminal.note(f"{error.message} The photo's stages are timed in fp32.")
            precision = "fp32"
    return Enhancer.from_weights(weights, device=device, precision=precision)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text)
    if match is None or "0" in (match[1], match[2]):
        raise UsageError(f"--size takes width x height, such as 4240x2832, not '{text}'.")
    return int(match[2]), int(match[1])


def _show_costs(costs: list[Cost], terminal: Terminal) -> None:
    from gia_cli.evaluation.tables import cost_table
    from gia_cli.paper import PAPER_SIZE

    terminal.table(*cost_table(costs))
    height, width = costs[0].size
    terminal.say(
        f"{width}x{height} photosites, {costs[0].cfa}. FLOPs (TF 1): the rules of TensorFlow 1's "
        "profiler, with which the paper counted; 2 x MAC: torch's. Ratios to SID-Net."
    )
    if costs[0].size == PAPER_SIZE and costs[0].cfa == "bayer":
        terminal.say(
            "published (Table 4): SID-Net 7.76 M, 1112.92 B; GIA-Net x1.07 parameters, x1.008 FLOPs"
        )


def _show_speeds(
    report: SpeedReport, costs: list[Cost], stages: Stages, terminal: Terminal
) -> None:
    from gia_cli.evaluation.tables import speed_table

    terminal.table(*speed_table(report, costs))
    terminal.say(
        f"{report.machine}; fp32 matrix product {report.peak_flops / 1e9:.0f} GFLOP/s. "
        "Medians, all in turns after one round of burn-in; ratios to the first row of a network."
    )
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in stages.seconds.items())
    terminal.say(f"one photo ({stages.weights}): {times}")
