"""Evaluation: the enhancer that users run, on pairs with a ground truth, by every measure.

A row for each photo goes into ``scores.jsonl`` as soon as it is known: an interrupted run continues
there. ``scores.csv`` and ``report.json`` are made of it at the end, also of an interrupted one.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gia_cli.cluster.driver import only_driver_of, run_on_cluster
from gia_cli.cluster.pool import Task
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.data.sid import SidPair
from gia_cli.errors import ClusterError, GiaError, Interrupted, UsageError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.pairs import Truths, open_pairs, read_pair
from gia_cli.evaluation.report import Failure, Report, summarise, write_results
from gia_cli.evaluation.scores import Score, ScoreBook
from gia_cli.evaluation.systems import System, centre_of, open_systems
from gia_cli.files import make_folder
from gia_cli.metrics.suite import Measures
from gia_cli.progress import SILENT, Progress


def evaluate(
    config: EvalConfig,
    progress: Progress = SILENT,
    on_failure: Callable[[Failure], None] = lambda failure: None,
    on_interrupt: Callable[[Report], None] = lambda report: None,
    *,
    shard: Shard | None = None,
    cluster: RayOptions | None = None,
) -> Report:
    """Score every system on every pair; continue where an earlier run stopped.

    Parameters
    ----------
    config : EvalConfig
    progress : Progress
        Receives a stage "evaluating" with a step for each pair and system; on a cluster each pair
        as a photo.
    on_failure : function, optional
        Called at once with a pair that cannot be scored; the others continue.
    on_interrupt : function, optional
        Called, after Ctrl-C or SIGTERM, with the report of what is scored, unless that is nothing
        or a share's.
    shard : Shard, optional
        Score only its pairs. The results are written by the share that finds all scores there, else
        the report says how many are missing.
    cluster : RayOptions, optional
        Score on the workers of a Ray cluster; it takes no shares.

    Raises
    ------
    Interrupted
    DataError
        A list that cannot be used, or files that are missing: all are named.
    WeightsError, DeviceError, UsageError, OutputError
    ClusterError, Interrupted
        See `run_on_cluster`.
    """
    pairs = open_pairs(config, progress)
    measures = _measures(config)
    for name, reason in measures.unavailable.items():
        progress.note(f"{name} is left out: {reason}")
    with ExitStack() as held:
        if shard is not None or cluster is not None:
            make_folder(config.out, "--out")
            held.enter_context(only_driver_of([config.out], "gia eval", shard, option="--out"))
        if cluster is None:
            found = _score_here(config, pairs, measures, shard, progress, on_failure)
        else:
            found = _score_on_cluster(config, pairs, measures, cluster, progress, on_failure)
        versus = config.versus or _first_network(found.rows)
        report = Report(
            config=config,
            pairs=len(pairs),
            summaries=summarise(found.scores, versus),
            versus=versus,
            unavailable=measures.unavailable,
            scores=found.scores,
            failures=found.failures,
            missing=found.missing,
            is_complete=found.stopped is None,
        )
        if found.stopped is not None:
            if report.scores and shard is None:
                write_results(report)
                on_interrupt(report)
            raise found.stopped
        if not report.missing:
            write_results(report)
    return report


#: A row of the table: the system's name, and its network's.
Row = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class _Found:
    rows: Sequence[Row]
    scores: list[Score]
    """Of all shares, row by row, in the order of the pairs."""
    failures: list[Failure]
    missing: int = 0
    stopped: Interrupted | None = None
    """What came between, Ctrl-C or SIGTERM; the rest is what there was by then."""


def _measures(config: EvalConfig) -> Measures:
    measures = Measures.load(config.lpips_alex, config.lpips_vgg, config.pieapp)
    if config.truth == "long":
        return measures
    # Scores by another truth are other scores.
    keys = {name: f"{key} to the {config.truth}" for name, key in measures.keys.items()}
    return replace(measures, keys=keys)


def _rows(config: EvalConfig, systems: Sequence[System]) -> tuple[Row, ...]:
    """Name the rows of the table; the one to compare with must be among them."""
    names = [system.name for system in systems]
    if config.versus is not None and config.versus not in names:
        raise UsageError(
            f"There is no row '{config.versus}' to compare with.",
            hint="Rows: " + ", ".join(dict.fromkeys(names)),
        )
    return tuple((system.name, system.network) for system in systems)


def _first_network(rows: Sequence[Row]) -> str | None:
    named = [name for name, network in rows if network is not None]
    return (named or [name for name, _ in rows] or [None])[0]  # type: ignore[list-item]


def _score_here(
    config: EvalConfig,
    pairs: list[SidPair],
    measures: Measures,
    shard: Shard | None,
    progress: Progress,
    on_failure: Callable[[Failure], None],
) -> _Found:
    """Score the pairs of a share in this process, and find what other shares have scored."""
    systems = open_systems(config)
    rows = _rows(config, systems)
    book = ScoreBook(config.out, measures.keys, shard)
    truths = Truths(config)
    failures: list[Failure] = []
    share = pairs if shard is None else shard.block(pairs)
    if shard is not None:
        progress.note(f"shard {shard}: {len(share)} of {len(pairs)} pairs")
    progress.stage("evaluating", len(share) * len(systems))
    stopped: Interrupted | None = None
    try:
        for pair in share:
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
        there = sum(book.find(system, pair) is not None for system in systems for pair in share)
        stopped = Interrupted(
            f"Interrupted after {there} of {len(share) * len(systems)} scores.",
            hint="Run the same command to resume.",
        )
    book.look()
    found = [(pair, book.find(system, pair)) for system in systems for pair in pairs]
    scores = [score for _, score in found if score is not None]
    if shard is None:
        return _Found(rows, scores, failures, stopped=stopped)
    failed = {failure.path for failure in failures}
    missing = sum(score is None and pair.short not in failed for pair, score in found)
    return _Found(rows, scores, failures, missing, stopped)


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


# ---------------------------------------------------------------- on a cluster


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a pair on a worker."""

    pair: SidPair
    rows: tuple[Row, ...] = ()
    scores: tuple[Score | None, ...] = ()
    """One for each row; None where it failed."""
    new: tuple[Score, ...] = ()
    """Those that no earlier run had taken."""
    failures: tuple[Failure, ...] = ()


def _score_on_cluster(
    config: EvalConfig,
    pairs: list[SidPair],
    measures: Measures,
    cluster: RayOptions,
    progress: Progress,
    on_failure: Callable[[Failure], None],
) -> _Found:
    """Score the pairs on workers; which device they have, and so which scores count, they know."""
    book = ScoreBook(config.out, measures.keys)

    found: dict[Path, Scored] = {}
    stopped: Interrupted | None = None

    def take(scored: Scored) -> None:
        found[scored.pair.short] = scored
        for score in scored.new:
            book.add(score, scored.pair)
        for failure in scored.failures:
            on_failure(failure)

    try:
        run_on_cluster(
            *(_Pairs(), pairs, partial(_make_work, config, measures.keys), cluster),
            progress=progress,
            on_result=take,
        )
    except Interrupted as error:
        stopped = error
    done = [found[pair.short] for pair in pairs if pair.short in found]
    rows = next((scored.rows for scored in done if scored.rows), ())
    by_row = [[scored.scores[n] for scored in done if scored.rows] for n in range(len(rows))]
    return _Found(
        rows,
        [score for row in by_row for score in row if score is not None],
        [failure for scored in done for failure in scored.failures],
        stopped=stopped,
    )


class _Pairs(Task[SidPair, Scored]):
    """The pairs of a list, to those who share them out."""

    noun = "pair"

    def name(self, item: SidPair) -> str:
        return str(item.short)

    def failed(self, item: SidPair, error: GiaError) -> Scored:
        return Scored(item, failures=(Failure(item.short, error),))

    def error(self, result: Scored) -> GiaError | None:
        return result.failures[0].error if result.failures else None


def _make_work(
    config: EvalConfig, wanted: dict[str, str], memory: int | None
) -> Callable[[Sequence[SidPair], bool], Iterator[Scored]]:
    """Make what a worker does with a chunk; see `cluster.ray_pool.Setup`."""
    systems = open_systems(config, memory)
    rows = _rows(config, systems)
    measures, truths = _measures(config), Truths(config)
    if measures.keys != wanted:
        names = [name for name, key in wanted.items() if measures.keys.get(name) != key]
        raise ClusterError(
            f"{socket.gethostname()} does not measure as the others do: "
            f"{', '.join(names or measures.keys.keys() - wanted.keys())}.",
            hint="Put the weights of the measures on all machines, or name them by options.",
        )
    book = ScoreBook(config.out, wanted, is_writer=False)

    def work(pairs: Sequence[SidPair], is_again: bool) -> Iterator[Scored]:
        for pair in pairs:
            known = [book.find(system, pair) for system in systems]
            left = [system for system, score in zip(systems, known, strict=True) if score is None]
            outcomes = list(_score_pair(pair, left, measures, truths, SILENT))
            new = tuple(outcome for outcome in outcomes if isinstance(outcome, Score))
            by_row = {(score.system, score.ratio_mode): score for score in new}
            yield Scored(
                pair,
                rows,
                tuple(
                    score or by_row.get((system.name, system.ratio_mode))
                    for system, score in zip(systems, known, strict=True)
                ),
                new,
                tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
            )

    return work
