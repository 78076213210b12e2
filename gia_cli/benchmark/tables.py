"""What was measured of speed, laid out: tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gia_cli.benchmark.batch import BatchRun
from gia_cli.benchmark.flops import Cost
from gia_cli.benchmark.growth import Point
from gia_cli.benchmark.speed import SpeedReport
from gia_cli.benchmark.training import TrainingSpeed
from gia_cli.errors import UsageError
from gia_cli.files import atomic_file
from gia_cli.runtime import Runtime


def cost_table(costs: Sequence[Cost]) -> tuple[list[str], list[list[str]]]:
    """Lay parameters and FLOPs out, relative to SID-Net's."""
    first = next((cost for cost in costs if cost.network == "sid-net"), None)
    rows = []
    for cost in costs:
        parameters, tf1 = f"{cost.parameters:,}", f"{cost.tf1_flops / 1e9:.4f} B"
        ratios = ["", ""]
        if first is not None:
            ratios = [
                f"x{cost.parameters / first.parameters:.4f}",
                f"x{cost.tf1_flops / first.tf1_flops:.4f}",
            ]
        macs = f"{cost.torch_flops / 1e9:.2f} B"
        rows.append([cost.network, parameters, ratios[0], tf1, ratios[1], macs])
    return ["network", "parameters", "", "FLOPs (TF 1)", "", "2 x MAC"], rows


def speed_table(report: SpeedReport, costs: Sequence[Cost]) -> tuple[list[str], list[list[str]]]:
    """Lay times and memory out; each network's rows are compared with its first."""
    flops = {cost.network: cost.torch_flops for cost in costs}
    reference: dict[str, float] = {}
    rows = []
    for speed in report.speeds:
        variant = speed.variant
        name = [variant.network, variant.how, speed.runtime or variant.precision]
        if speed.error is not None:
            rows.append([*name, speed.error, "", "", "", ""])
            continue
        first = reference.setdefault(variant.network, speed.median)
        rows.append(
            [
                *name,
                f"{speed.median:.2f} s",
                f"{min(speed.seconds):.2f} to {max(speed.seconds):.2f}",
                f"x{first / speed.median:.2f}",
                f"{speed.peak_bytes / 1e9:.2f} GB" if speed.peak_bytes else "–",  # noqa: RUF001
                _share(flops[variant.network] / speed.median, variant.runtime, report),
            ]
        )
    columns = [
        "network",
        "how",
        "on",
        "median",
        "spread",
        "faster",
        "peak memory",
        "of peak FLOP/s",
    ]
    return columns, rows


def _share(flops: float, runtime: Runtime, report: SpeedReport) -> str:
    """Relate FLOP/s to the CPU's own matrix product in the same numbers."""
    if runtime.device != "cpu":
        return ""
    peak = report.peak_flops.get(runtime.dtype)
    return "–" if peak is None else f"{flops / peak:.0%}"  # noqa: RUF001


def batch_table(runs: Sequence[BatchRun]) -> tuple[list[str], list[list[str]]]:
    """Lay out what each round of a batch took."""
    columns = ["photos", "workers", "wall clock", "to the network's", "network", "processor time"]
    stages = list(dict.fromkeys(name for run in runs for name in run.stages))
    parts = list(dict.fromkeys(name for run in runs for name in run.busy))
    columns += ["peak memory", *(f"{name}, busy" for name in parts)]
    columns += [f"{name}, median" for name in stages]
    rows = [
        [
            str(run.photos),
            "" if run.workers is None else str(run.workers),
            f"{run.seconds:.2f} s",
            f"x{run.seconds / run.network_seconds:.3f}" if run.network_seconds else "",
            f"{run.network_seconds:.2f} s",
            f"{run.cpu_seconds:.1f} s",
            f"{run.peak_bytes / 1e9:.2f} GB",
            *(f"{run.busy[name]:.0%}" if name in run.busy else "" for name in parts),
            *(f"{run.stages[name]:.2f} s" if name in run.stages else "" for name in stages),
        ]
        for run in runs
    ]
    return columns, rows


def growth_table(points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """Lay out time and memory by size."""
    rows = []
    for point in points:
        name = [f"{point.megapixels:g}", _limit(point)]
        if not point.seconds:
            rows.append([*name, point.error or "", "", "", "", ""])
            continue
        rows.append(
            [
                *name,
                point.plan if point.error is None else f"{point.plan}; once: {point.error}",
                f"{point.median:.2f} s",
                f"{min(point.seconds):.2f} to {max(point.seconds):.2f}",
                f"{point.median / point.megapixels:.3f} s",
                f"{point.peak_bytes / 1e9:.2f} GB",
            ]
        )
    columns = ["megapixels", "limit", "plan", "median", "spread", "a megapixel", "peak memory"]
    return columns, rows


def _limit(point: Point) -> str:
    return "none" if point.limit is None else f"{point.limit / 1e9:g} GB"


def training_table(speeds: Sequence[TrainingSpeed]) -> tuple[list[str], list[list[str]]]:
    """Lay out how fast training was; the rows are compared with the first."""
    rows = []
    reference = next((speed.median for speed in speeds if speed.seconds), 0.0)
    for speed in speeds:
        if not speed.seconds:
            rows.append([speed.simulation, str(speed.workers), speed.error or "", "", "", ""])
            continue
        rows.append(
            [
                speed.simulation,
                str(speed.workers),
                f"{speed.median:.3f} s",
                f"{min(speed.seconds):.3f} to {max(speed.seconds):.3f}",
                f"{1 / speed.median:.1f}",
                f"x{reference / speed.median:.2f}",
            ]
        )
    columns = ["simulation", "workers", "a step, median", "spread", "steps/s", "faster"]
    return columns, rows


def plot_growth(points: Sequence[Point], path: Path) -> None:
    """Draw seconds and peak memory over megapixels.

    Parameters
    ----------
    points : sequence of Point
    path : Path
        A PNG.

    Raises
    ------
    UsageError
        matplotlib is missing, or nothing could be measured.
    OutputError
        The plot cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib.", hint="pip install matplotlib.") from None
    measured = [point for point in points if point.seconds]
    if not measured:
        raise UsageError("There is nothing to plot: no size could be measured.")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for limit in dict.fromkeys(point.limit for point in measured):
        mine = [point for point in measured if point.limit == limit]
        x = [point.megapixels for point in mine]
        label = "no limit" if limit is None else f"at most {_limit(mine[0])}"
        left.plot(x, [point.median for point in mine], "o-", label=label)
        right.plot(x, [point.peak_bytes / 1e9 for point in mine], "o-", label=label)
    left.set(xlabel="megapixels", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    right.set(xlabel="megapixels", ylabel="peak memory, GB", xlim=(0, None), ylim=(0, None))
    right.legend(frameon=False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
