"""The rows of the paper's tables, trained one after another at an equal budget.

Every row is a run of its own (`train`), so the same command resumes whatever was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gia_cli.distributed import ranks_from_environment
from gia_cli.errors import UsageError
from gia_cli.paper import PaperRow, TableName, paper_table
from gia_cli.progress import SILENT, Progress
from gia_cli.train import RECIPES, TrainConfig, TrainResult, export_run, train

WEIGHTS = "weights"

#: Side in packed pixels of the crops of rows whose crops are all of one size (SID's own for the
#: published recipes), and the sides that the other rows draw from, which have 8 % more pixels on
#: average where that is ours to choose. The larger crops of the small recipe's end are left out.
FIXED_SIDE = {"paper": 512, "paper-as-printed": 512, "small": 80}
DRAWN_SIDES = {"paper": (512, 1024), "paper-as-printed": (512, 1024), "small": (48, 112)}


@dataclass(frozen=True, slots=True)
class RowResult:
    """A trained row."""

    row: PaperRow
    result: TrainResult
    weights: Path


def train_table(
    table: TableName,
    base: TrainConfig,
    progress: Progress = SILENT,
    on_row: Callable[[RowResult], None] = lambda row: None,
) -> list[RowResult]:
    """Train every row of a table and export its weights.

    Parameters
    ----------
    table : "1", "2" or "3"
    base : TrainConfig
        Data, recipe, seed, and the budget or steps of each row. ``base.run / slug`` becomes a
        row's run, ``base.run / "weights"`` holds what is exported, named by the rows' slugs.
    progress : Progress
        Hears, beside what `train` tells, of rows that cannot be trained for want of VGG features.
    on_row : function, optional
        Told of each row when it is done.

    Raises
    ------
    UsageError
        No budget, or an option that the rows decide themselves.
    DataError, RunError, DivergedError, Interrupted
        As `train`; rows that are done stay done.
    """
    rows = [row for row in paper_table(table) if row.network is not None]
    results = []
    for row, config in [(row, row_config(row, base)) for row in rows]:
        if row.loss == "zamir" and config.vgg is None:
            progress.note(f"{row.name} is left out: its loss needs VGG features (--vgg FILE).")
            continue
        progress.note(f"Table {table}: {row.name} ({config.run})")
        result = train(config, progress)
        folder = base.run / WEIGHTS
        if ranks_from_environment().is_first:
            export_run(config.run, row.slug, folder, overwrite=True)
        results.append(RowResult(row, result, folder / f"{row.slug}.safetensors"))
        on_row(results[-1])
    return results


def row_config(row: PaperRow, base: TrainConfig) -> TrainConfig:
    """Say how to train a row: its network, loss and crops, all else as `base` has it.

    Raises
    ------
    UsageError
    """
    if base.steps is None and base.budget_s is None and RECIPES[base.recipe].epochs is None:
        raise UsageError("How long for each row? Give --budget or --steps.")
    if "loss" in base.changes or base.sides is not None:
        raise UsageError("A table's rows have their own losses and crops: no --loss, no --sides.")
    assert row.network is not None
    fixed = FIXED_SIDE[base.recipe]
    return replace(
        base,
        run=base.run / row.slug,
        network=row.network,
        changes={**base.changes, "loss": row.loss},
        sides=DRAWN_SIDES[base.recipe] if row.multi_size else (fixed, fixed),
    )
