"""What scores say together: means, intervals, differences, and the files that hold them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gia_cli._version import __version__
from gia_cli.errors import GiaError
from gia_cli.evaluation.config import EvalConfig, RatioMode
from gia_cli.evaluation.scores import Score
from gia_cli.files import atomic_file
from gia_cli.metrics.bootstrap import bootstrap_interval

TABLE, REPORT = "scores.csv", "report.json"
#: How far an automatic ratio is off, in stops; not a measure of the picture.
EXPOSURE = "ratio_error_stops"


@dataclass(frozen=True, slots=True)
class Failure:
    """A photo that could not be scored, or not by one of the systems."""

    path: Path
    error: GiaError


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % bootstrap interval over scenes."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A row of the table: one system in one mode."""

    system: str
    network: str | None
    """Name in `nets.NETWORKS`; None for a system without one."""
    width: int | None
    """Channels of its first level."""
    ratio_mode: RatioMode
    count: int
    """Photos scored."""
    means: dict[str, Estimate]
    """By measure, and `EXPOSURE`: mean absolute error in stops."""
    differences: dict[str, Estimate]
    """Mean difference to the row that all are compared with, over the photos that both have."""
    within_half_a_stop: float
    """Share of the photos whose ratio is within half a stop of the known one."""
    seconds: float
    """Median seconds for a photo, reading and measuring excluded."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `evaluate` found."""

    config: EvalConfig
    pairs: int
    summaries: list[Summary]
    versus: str | None
    """The row that the others are compared with."""
    unavailable: dict[str, str]
    """Measures that were not taken, and why."""
    scores: list[Score] = field(repr=False)
    failures: list[Failure]
    missing: int = 0
    """Scores that other shares have yet to take."""
    is_complete: bool = True
    """Whether it was not interrupted before all that was asked for was done."""


def summarise(scores: Sequence[Score], versus: str | None = None) -> list[Summary]:
    """Average the scores of each system and mode, in the order they come in.

    Parameters
    ----------
    scores : sequence of Score
    versus : str, optional
        The system whose first row the others are compared with; by default that of the first score.
    """
    rows: dict[tuple[str, RatioMode], list[Score]] = {}
    for score in scores:
        rows.setdefault((score.system, score.ratio_mode), []).append(score)
    first = next((row for (name, _), row in rows.items() if versus in (None, name)), [])
    return [
        Summary(
            system=system,
            network=row[0].network,
            width=row[0].width,
            ratio_mode=mode,
            count=len(row),
            means=_means([(score.scene, _values(score)) for score in row]),
            differences={} if row is first else _means(_differences(row, first)),
            within_half_a_stop=float(np.mean([_values(s)[EXPOSURE] <= 0.5 for s in row])),
            seconds=float(np.median([score.seconds for score in row])),
        )
        for (system, mode), row in rows.items()
    ]


def _values(score: Score) -> dict[str, float]:
    taken = {name: value for name, value in score.values.items() if value is not None}
    return {**taken, EXPOSURE: abs(float(np.log2(score.ratio / score.known_ratio)))}


def _differences(row: list[Score], other: list[Score]) -> list[tuple[str, dict[str, float]]]:
    """Subtract the other row's values, photo by photo."""
    others = {score.short: _values(score) for score in other}
    found = []
    for score in row:
        theirs = others.get(score.short, {})
        differences = {n: x - theirs[n] for n, x in _values(score).items() if n in theirs}
        found.append((score.scene, differences))
    return found


def _means(rows: list[tuple[str, dict[str, float]]]) -> dict[str, Estimate]:
    """Average each measure; the interval resamples scenes, whose photos are much alike."""
    names = dict.fromkeys(name for _, values in rows for name in values)
    means = {}
    for name in names:
        found = [(scene, values[name]) for scene, values in rows if name in values]
        scenes, numbers = [scene for scene, _ in found], np.array([x for _, x in found])
        low, high = bootstrap_interval(numbers, groups=scenes)
        means[name] = Estimate(float(numbers.mean()), low, high)
    return means


def write_results(report: Report) -> None:
    """Write a report's table and averages into its folder."""
    with atomic_file(report.config.out / TABLE) as file:
        file.write(_csv(report.scores).encode())
    with atomic_file(report.config.out / REPORT) as file:
        file.write((json.dumps(report_json(report), indent=2) + "\n").encode())


def _csv(scores: Sequence[Score]) -> str:
    measures = list(dict.fromkeys(name for score in scores for name in score.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["system", "ratio_mode", "scene", "short", "known_ratio", "ratio", "seconds"]
    writer.writerow([*head, *measures])
    for score in scores:
        row = [getattr(score, name) for name in head]
        writer.writerow([*row, *(score.values.get(name) for name in measures)])
    return text.getvalue()


def report_json(report: Report) -> dict[str, Any]:
    """Turn a report into what JSON can hold: the averages, how they came about, every score."""
    config = report.config
    return {
        "gia": __version__,
        "data": config.data.name,
        "camera": config.camera,
        "truth": config.truth,
        "split": config.split,
        "protocol": config.protocol,
        "pairs": report.pairs,
        "complete": report.is_complete,
        "limit": config.limit,
        "balance_errors_percent": config.balance_errors,
        "ssim_window": "Gaussian, 11 px, sigma 1.5",
        "interval": "95 %, percentile bootstrap over scenes",
        "versus": report.versus,
        "unavailable": report.unavailable,
        "systems": [asdict(summary) for summary in report.summaries],
        "failures": [
            {"path": str(failure.path), "error": str(failure.error)} for failure in report.failures
        ],
        "scores": [asdict(score) for score in report.scores],
    }
