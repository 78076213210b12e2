"""The rows of the paper's tables, trained one after another at an equal budget.

Every row is a run of its own (`train`), so the same command resumes whatever was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gia_cli.data.crops import CropOptions
from gia_cli.errors import UsageError
from gia_cli.paper import PaperRow, TableName, paper_table
from gia_cli.progress import SILENT, Progress
from gia_cli.training.config import RECIPES, TrainConfig
from gia_cli.training.distributed import ranks_from_environment
from gia_cli.training.loop import TrainResult, train
from gia_cli.training.run_folder import export_run

WEIGHTS = "weights"
_HELP = "See 'gia train --help'."

#: Crop sides in packed pixels of the recipes' rows: the fixed side and the range of the others. In
#: the published recipes they are SID's and the paper's. The small recipe's grow in the second half
#: beyond what a U-Net sees of a crop's middle at once: below that, a global vector can add nothing.
CROP_SIDES = {"paper": (512, (512, 1024)), "small": (80, (48, 112))}
LATE_SIDES = {"paper": None, "small": (128, (96, 160))}
LATE_FROM = 0.5


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
    only: Sequence[str] = (),
) -> list[RowResult]:
    """Train every row of a table and export its weights.

    Parameters
    ----------
    table : "1", "2" or "3"
    base : TrainConfig
        Data, recipe, seed, and the budget or steps of each row. ``base.run / slug`` becomes a
        row's run, ``base.run / "weights"`` holds what is exported, named by the rows' slugs.
    progress : Progress
        Receives, beside what `train` reports, the rows left out because VGG features are missing.
    on_row : function, optional
        Called with each row when it is done.
    only : sequence of str
        Slugs of the rows to train, such as "gia-l1"; all of them if empty.

    Raises
    ------
    UsageError
        No budget, an option that the rows decide themselves, or a row that the table has not.
    DataError, RunError, DivergedError, Interrupted
        As `train`; rows that are done stay done.
    """
    rows = _chosen_rows(table, only)
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


def _chosen_rows(table: TableName, only: Sequence[str]) -> list[PaperRow]:
    rows = {row.slug: row for row in paper_table(table) if row.network is not None}
    for slug in only:
        if slug not in rows:
            raise UsageError(f"Table {table} has no row '{slug}': {', '.join(rows)}.", hint=_HELP)
    return [row for slug, row in rows.items() if not only or slug in only]


def row_config(row: PaperRow, base: TrainConfig) -> TrainConfig:
    """Say how to train a row: its network, loss and crops, all else as `base` has it.

    Raises
    ------
    UsageError
    """
    if base.steps is None and base.budget_s is None and RECIPES[base.recipe].epochs is None:
        raise UsageError("--table needs a length for each row: --budget or --steps.", hint=_HELP)
    if "loss" in base.changes or base.sides is not None:
        raise UsageError("--table sets losses and crops: leave out --loss and --sides.", hint=_HELP)
    if base.recipe in ("finetune", "gpu"):
        raise UsageError("--table trains from scratch: use --recipe small or paper.", hint=_HELP)
    assert row.network is not None
    return replace(
        base,
        run=base.run / row.slug,
        network=row.network,
        changes={**base.changes, "loss": row.loss},
        crops=row_crops(row, base),
    )


def row_crops(row: PaperRow, base: TrainConfig) -> CropOptions:
    """Say what crops a row is trained on: of one side at a time, or of sides drawn for each step.

    Both have as many pixels on average (within 8 %) where the sides are ours to choose.
    """

    def choose(sides: tuple[int, tuple[int, int]]) -> tuple[int, int]:
        fixed, drawn = sides
        return drawn if row.multi_size else (fixed, fixed)

    family = "small" if base.recipe == "small" else "paper"
    late = LATE_SIDES[family]
    return replace(
        RECIPES[base.recipe].crops,
        sides=choose(CROP_SIDES[family]),
        late_sides=None if late is None else choose(late),
        late_from=LATE_FROM,
    )
