"""``gia bench``: what the networks cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from gia_cli.cameras import CfaKind
from gia_cli.cli import guarded
from gia_cli.cli.app import app, choices, numbers
from gia_cli.cli.options import Device, Json, MeasuredMaxMemory, Quiet, Verbose
from gia_cli.errors import BatchError, UsageError
from gia_cli.training.config import TimedRecipe

if TYPE_CHECKING:
    from gia_cli.benchmark.flops import Cost
    from gia_cli.benchmark.speed import SpeedReport, Stages
    from gia_cli.cli.console import Terminal
    from gia_cli.enhance.enhancer import Enhancer
    from gia_cli.runtime import DeviceName, Precision


@app.command()
@guarded.whole
def bench(
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="NAME",
            help="Network to measure; may be repeated (default: all; with --speed sid-net and "
            "gia-net).",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str,
        typer.Option("--size", metavar="WxH", help="Size of the frame in photosites."),
    ] = "4240x2832",
    cfa: Annotated[CfaKind, typer.Option("--cfa", help="Colour filter array.")] = "bayer",
    speed: Annotated[
        bool, typer.Option("--speed", help="Also measure time and peak memory on this machine.")
    ] = False,
    photo: Annotated[
        Path | None,
        typer.Option(
            "--photo",
            metavar="FILE",
            help="With --speed: the photo whose stages are timed (default: a simulated one of 12 "
            "megapixels).",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="NAME|PATH",
            help="With --speed, --batch or --growth: the weights (default: the shipped ones).",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch",
            metavar="FOLDER",
            help="Instead, time gia enhance on a folder of RAW photos, end to end.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers",
            metavar="N,...",
            help="With --batch: time it also on local Ray clusters of so many workers, in turns.",
            show_default=False,
        ),
    ] = None,
    growth: Annotated[
        str | None,
        typer.Option(
            "--growth",
            metavar="MP,...",
            help="Instead, measure the network's time and memory on the CPU for frames of these "
            "megapixels, such as 3,12,24.",
            show_default=False,
        ),
    ] = None,
    max_memory: MeasuredMaxMemory = None,
    training: Annotated[
        Path | None,
        typer.Option(
            "--training",
            metavar="FOLDER|TAR",
            help="Instead, time training on exposures simulated from these photographs: by numpy "
            "in the training process and beside it, and by torch on the device.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        TimedRecipe | None,
        typer.Option(
            "--recipe", help="With --training: what to train (default: small).", show_default=False
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="With --training: where decoded photographs are kept (default: nowhere).",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="How often each is measured, in turns.")
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
            help="Draw quality over FLOPs; with --speed, quality over time; with --growth, time "
            "and memory over megapixels.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Count parameters and FLOPs of the networks (the paper's Table 4); measure their speed.

    gia bench --speed --photo night.ARW
    """
    asked = {
        "--speed": speed,
        "--batch": batch is not None,
        "--growth": growth is not None,
        "--training": training is not None,
    }
    if sum(asked.values()) > 1 or (any(asked.values()) and not speed and scores is not None):
        raise UsageError(
            "--batch, --growth and --training exclude each other, --speed and --scores."
        )
    if (plot is None) != (scores is None) and growth is None:
        raise UsageError("--plot and --scores belong together: give both.")
    _require(asked, {"--photo": photo}, "--speed")
    _require(asked, {"--weights": weights}, "--speed", "--batch", "--growth")
    _require(asked, {"--max-memory": max_memory}, "--batch", "--growth")
    _require(asked, {"--workers": workers}, "--batch")
    _require(asked, {"--cache": cache, "--recipe": recipe}, "--training")
    if growth is not None and (device not in ("auto", "cpu") or precision != "auto"):
        raise UsageError(
            "--growth runs on the CPU, in the precision of its weights.",
            hint="To measure int8, name int8 weights with --weights.",
        )
    frame = _size(size)

    from gia_cli.cli.console import Terminal
    from gia_cli.runtime import Precision

    terminal = Terminal(quiet=quiet, verbose=verbose)
    precisions = choices(precision, "--precision", get_args(Precision))
    way = _Way(device, precisions, rounds, terminal, as_json)
    if batch is not None:
        options = _enhance_options(weights, device, precisions[0], max_memory)
        clusters = tuple(map(_count, workers.split(","))) if workers else ()
        _bench_batch(batch, options, clusters, way)
    elif growth is not None:
        _bench_growth(growth, max_memory, weights, plot, way)
    elif training is not None:
        _bench_training(training, recipe, cache, way)
    else:
        _bench_networks(
            network, frame, cfa, photo, weights, way, is_timed=speed, quality=scores, plot=plot
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """On what and how often is measured, and how it is shown."""

    device: DeviceName
    precisions: tuple[Precision, ...]
    rounds: int
    terminal: Terminal
    as_json: bool


def _require(asked: dict[str, bool], given: dict[str, object], *options: str) -> None:
    """Refuse what is given without one of the options that it belongs to."""
    if any(value is not None for value in given.values()) and not any(map(asked.get, options)):
        *others, last = options
        needed = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(f"{' and '.join(given)} need{'s' * (len(given) == 1)} {needed}.")


def _bench_networks(
    networks: list[str] | None,
    size: tuple[int, int],
    cfa: CfaKind,
    photo: Path | None,
    weights: str | None,
    way: _Way,
    *,
    is_timed: bool,
    quality: Path | None,
    plot: Path | None,
) -> None:
    """Count what networks cost, and time them if asked to."""
    from gia_cli.benchmark.flops import measure_cost
    from gia_cli.benchmark.speed import SpeedConfig, bench_json, measure_speed, measure_stages
    from gia_cli.nets.config import NETWORKS
    from gia_cli.raw.reader import read_raw

    terminal = way.terminal
    # A mistake should not cost the timings before it.
    kind = "bayer" if photo is None else read_raw(photo).kind
    costs = [measure_cost(name, size, cfa) for name in networks or NETWORKS]
    report, stages = None, None
    if not way.as_json:
        _show_costs(costs, terminal)
    if is_timed:
        config = SpeedConfig(
            networks=tuple(networks or ("sid-net", "gia-net")),
            size=size,
            cfa=cfa,
            device=way.device,
            precisions=way.precisions,
            rounds=way.rounds,
        )
        enhancer = _stage_enhancer(weights, kind, way)
        with terminal:
            report = measure_speed(config, terminal)
            stages = measure_stages(photo, enhancer, rounds=way.rounds, progress=terminal)
    if way.as_json:
        terminal.json(bench_json(costs, report, stages))
    elif report is not None and stages is not None:
        _show_speeds(report, costs, stages, terminal)
    if plot is not None and quality is not None:
        from gia_cli.evaluation.tables import plot_quality

        plot_quality(costs, report, quality, plot)
        if not way.as_json:
            terminal.line(str(plot))
    _require_all([] if report is None else [speed.error for speed in report.speeds])


def _enhance_options(
    weights: str | None, device: DeviceName, precision: Precision, max_memory: str | None
) -> tuple[str, ...]:
    """Write the options that `gia enhance` is to have."""
    wanted = {"--weights": weights, "--max-memory": max_memory}
    named = [text for name, value in wanted.items() if value is not None for text in (name, value)]
    return (*named, "--device", device, "--precision", precision)


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise UsageError(f"--workers takes numbers of workers, such as 1,2,4, not '{text}'.")
    return int(text)


def _bench_batch(
    photos: Path,
    options: tuple[str, ...],
    workers: tuple[int, ...],
    way: _Way,
) -> None:
    from gia_cli.benchmark.batch import BatchConfig, measure_batch
    from gia_cli.benchmark.speed import machine_name
    from gia_cli.benchmark.tables import batch_table

    with way.terminal as terminal:
        runs = measure_batch(BatchConfig(photos, options, way.rounds, workers), terminal)
    if way.as_json:
        _print_json(terminal, batch=runs)
        return
    terminal.table(*batch_table(runs))
    terminal.say(
        f"{machine_name()}; one process for each round, start-up included; busy: photos at once, "
        "on average"
    )


def _bench_growth(
    sizes: str,
    max_memory: str | None,
    weights: str | None,
    plot: Path | None,
    way: _Way,
) -> None:
    from gia_cli.benchmark.growth import GrowthConfig, measure_growth
    from gia_cli.benchmark.speed import machine_name
    from gia_cli.benchmark.tables import growth_table, plot_growth
    from gia_cli.runtime import parse_size

    limits = (None,) if max_memory is None else (None, parse_size(max_memory))
    config = GrowthConfig(numbers(sizes, "--growth"), limits, weights, way.rounds)
    with way.terminal as terminal:
        points = measure_growth(config, terminal)
    if way.as_json:
        _print_json(terminal, growth=points)
    else:
        terminal.table(*growth_table(points))
        terminal.say(f"{machine_name()}; the network alone, one process for each run")
    if plot is not None:
        plot_growth(points, plot)
        if not way.as_json:
            terminal.line(str(plot))
    _require_all([point.error for point in points])


def _bench_training(
    photos: Path,
    recipe: TimedRecipe | None,
    cache: Path | None,
    way: _Way,
) -> None:
    from gia_cli.benchmark.speed import machine_name
    from gia_cli.benchmark.tables import training_table
    from gia_cli.benchmark.training import TrainingConfig, measure_training
    from gia_cli.training.config import RECIPES

    config = TrainingConfig(
        photos,
        cache,
        recipe=recipe or "small",
        device=way.device,
        precision=way.precisions[0],
        rounds=way.rounds,
    )
    crops = RECIPES[config.recipe].crops
    with way.terminal as terminal:
        speeds = measure_training(config, terminal)
    if way.as_json:
        _print_json(terminal, training=speeds)
    else:
        terminal.table(*training_table(speeds))
        terminal.say(
            f"{machine_name()}; steps 51 to 100 of the recipe '{config.recipe}', "
            f"{crops.photos * crops.crops} crops of {config.crop_side} packed px, one process for "
            "each run"
        )
    _require_all([speed.error for speed in speeds])


def _print_json(terminal: Terminal, **measured: Sequence[Any]) -> None:
    from gia_cli._version import __version__
    from gia_cli.benchmark.speed import machine_name

    rows = {name: [asdict(row) for row in found] for name, found in measured.items()}
    terminal.json({"gia": __version__, "machine": machine_name(), **rows})


def _require_all(errors: list[str | None]) -> None:
    failed = sum(error is not None for error in errors)
    if failed:
        raise BatchError(f"{failed} of {len(errors)} measurements failed.")


def _stage_enhancer(weights: str | None, kind: CfaKind, way: _Way) -> Enhancer:
    """Open what enhances the photo; in int8 only if there are such weights of the chosen ones."""
    from gia_cli.enhance.enhancer import Enhancer
    from gia_cli.errors import WeightsError
    from gia_cli.weights.manifest import find_quantized, find_weights

    info, precision = find_weights(weights, kind), way.precisions[0]
    if precision == "int8":
        try:
            find_quantized(info)
        except WeightsError as error:
            way.terminal.note(f"{error.message} The photo's stages are timed in fp32.")
            precision = "fp32"
    return Enhancer.from_weights(weights, device=way.device, precision=precision)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text)
    if match is None or "0" in (match[1], match[2]):
        raise UsageError(f"--size takes width x height, such as 4240x2832, not '{text}'.")
    return int(match[2]), int(match[1])


def _show_costs(costs: list[Cost], terminal: Terminal) -> None:
    from gia_cli.benchmark.tables import cost_table
    from gia_cli.paper import PAPER_SIZE, paper_costs

    terminal.table(*cost_table(costs))
    height, width = costs[0].size
    terminal.say(
        f"{width}x{height} photosites, {costs[0].cfa}. FLOPs (TF 1): counted as TensorFlow 1's "
        "profiler does, like the paper; 2 x MAC: counted as torch does. Ratios are to SID-Net."
    )
    if costs[0].size == PAPER_SIZE and costs[0].cfa == "bayer":
        published = paper_costs()
        sid, gia = published["sid-net"], published["gia-net"]
        millions, billions = sid["parameters"] / 1e6, sid["flops"] / 1e9
        terminal.say(
            f"published (Table 4): SID-Net {millions:.2f} M, {billions:.2f} B; "
            f"GIA-Net x{gia['parameters_ratio']} parameters, x{gia['flops_ratio']} FLOPs"
        )


def _show_speeds(
    report: SpeedReport, costs: list[Cost], stages: Stages, terminal: Terminal
) -> None:
    from gia_cli.benchmark.tables import speed_table

    terminal.table(*speed_table(report, costs))
    products = ", ".join(
        f"{numbers} {flops / 1e9:.0f} GFLOP/s" for numbers, flops in report.peak_flops.items()
    )
    terminal.say(
        f"{report.machine}; matrix product on the CPU: {products}. Medians of runs taken in turns, "
        "after one warm-up round; ratios are to the first row of a network. Peak FLOP/s are those "
        "of the product in the row's own number format; for int8 torch has none (–)."  # noqa: RUF001
    )
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in stages.seconds.items())
    terminal.say(f"one photo ({stages.weights}): {times}")
