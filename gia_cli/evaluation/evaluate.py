"""Evaluation: the enhancer that users run, on pairs with a ground truth, by every measure.

A row for each photo goes into ``scores.jsonl`` as soon as it is known: an interrupted run continues
there. ``scores.csv`` and ``report.json`` are made of it at the end, also of an interrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from gia_cli.data.sid import SidPair
from gia_cli.errors import GiaError, Interrupted, UsageError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.pairs import Truths, open_pairs, read_pair
from gia_cli.evaluation.report import Failure, Report, summarise, write_results
from gia_cli.evaluation.scores import Score, ScoreBook
from gia_cli.evaluation.systems import System, centre_of, open_systems
from gia_cli.metrics.suite import Measures
from gia_cli.progress import SILENT, Progress


def evaluate(
    config: EvalConfig,
    progress: Progress = SILENT,
    on_failure: Callable[[Failure], None] = lambda failure: None,
    on_interrupt: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Score every system on every pair; continue where an earlier run stopped.

    Parameters
    ----------
    config : EvalConfig
    progress : Progress
        Receives a stage "evaluating" with a step for each pair and system.
    on_failure : function, optional
        Called at once with a pair that cannot be scored; the others continue.
    on_interrupt : function, optional
        Called, after Ctrl-C or SIGTERM, with the report of what is scored, unless that is nothing.

    Raises
    ------
    Interrupted
    DataError
        A list that cannot be used, or files that are missing: all are named.
    WeightsError, DeviceError, UsageError, OutputError
    """
    pairs = open_pairs(config, progress)
    systems = open_systems(config)
    measures = Measures.load(config.lpips_alex, config.lpips_vgg, config.pieapp)
    for name, reason in measures.unavailable.items():
        progress.note(f"{name} is left out: {reason}")
    _check_versus(config, systems)
    if config.truth != "long":  # scores by another truth are other scores
        keys = {name: f"{key} to the {config.truth}" for name, key in measures.keys.items()}
        measures = replace(measures, keys=keys)
    book = ScoreBook(config.out, measures.keys)
    truths = Truths(config)
    failures: list[Failure] = []

    def written(*, is_complete: bool) -> Report:
        found = (book.find(system, pair) for system in systems for pair in pairs)
        scores = [score for score in found if score is not None]
        versus = config.versus or _first_network(systems)
        report = Report(
            config=config,
            pairs=len(pairs),
            summaries=summarise(scores, versus),
            versus=versus,
            unavailable=measures.unavailable,
            scores=scores,
            failures=failures,
            is_complete=is_complete,
        )
        if is_complete or scores:
            write_results(report)
        return report

    progress.stage("evaluating", len(pairs) * len(systems))
    try:
        for pair in pairs:
            left = [system for system in systems if book.find(system, pair) is None]
            progress.advance(len(systems) - len(left))
            for outcome in _score_pair(pair, left, measures, truths, progress):
                if isinstance(outcome, Score):
                    book.add(outcome, pair)
                    progress.advance()
                else:
                    failures.append(outcome)
                    on_failure(outcome)
    except KeyboardInterrupt:
        report = written(is_complete=False)
        if report.scores:
            on_interrupt(report)
        raise Interrupted(
            f"Interrupted after {len(report.scores)} of {len(pairs) * len(systems)} scores.",
            hint="Run the same command to resume.",
        ) from None
    return written(is_complete=True)


def _score_pair(
    pair: SidPair,
    systems: Sequence[System],
    measures: Measures,
    truths: Truths,
    progress: Progress,
) -> Iterator[Score | Failure]:
    """Read a pair once and score it by several systems; one that fails stops no other."""
    if not systems:
        return
    try:
        frame, truth, known_ratio = read_pair(pair, truths)
    except GiaError as error:
        yield Failure(pair.short, error)
        return
    for system in systems:
        progress.status(f"{system.name}: {pair.short.name}")
        start = time.perf_counter()
        try:
            picture, ratio = system.render(frame, known_ratio)
            same_part = centre_of(truth, picture)
        except GiaError as error:
            yield Failure(pair.short, error)
            continue
        seconds = time.perf_counter() - start
        yield Score(
            system=system.name,
            network=system.network,
            width=system.width,
            key=system.key,
            ratio_mode=system.ratio_mode,
            scene=pair.scene,
            short=pair.short.name,
            known_ratio=known_ratio,
            ratio=ratio,
            seconds=round(seconds, 3),
            values=measures.take(picture, same_part),
            taken_with=measures.keys,
        )


def _check_versus(config: EvalConfig, systems: Sequence[System]) -> None:
    names = [system.name for system in systems]
    if config.versus is not None and config.versus not in names:
        raise UsageError(
            f"There is no row '{config.versus}' to compare with.",
            hint="Rows: " + ", ".join(dict.fromkeys(names)),
        )


def _first_network(systems: Sequence[System]) -> str | None:
    named = [system.name for system in systems if system.network is not None]
    return (named or [system.name for system in systems] or [None])[0]  # type: ignore[list-item]
