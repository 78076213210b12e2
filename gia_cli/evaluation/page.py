"""The page of an evaluation: its tables, sortable, and photos as every system sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gia_cli.errors import UsageError
from gia_cli.evaluation.casts import Casts
from gia_cli.evaluation.panel import PanelRow
from gia_cli.evaluation.report import Report
from gia_cli.evaluation.tables import (
    SCORE_COLUMNS,
    casts_table,
    diagnosis_table,
    difference_table,
    ratio_table,
    row_name,
    score_table,
)
from gia_cli.files import refuse_hopeless_output
from gia_cli.imaging.color import srgb8_from_bt709
from gia_cli.imaging.preview import encoded, pil_image, shrunk
from gia_cli.pages.page import Entry, Facts, Layer, Page, Table, Tile, View, write_page
from gia_cli.pages.spool import Place, Spool
from gia_cli.paper import PaperRow
from gia_cli.text import counted

if TYPE_CHECKING:
    from gia_cli.evaluation.diagnose import Diagnosis

_QUALITY = 90
_THUMBNAIL_SIDE = 320  # pixels


@dataclass(frozen=True, slots=True)
class _Kept:
    caption: str
    thumbnail: Place
    picture: Place
    size: tuple[int, int]


class EvalPage:
    """A page whose pictures wait on the disk until all that it tells is known.

    Parameters
    ----------
    path : Path
        Its name, which ends in .html. A page that is there is replaced: the same command resumes.

    Raises
    ------
    UsageError
        Another ending.
    OutputError
        Its folder is missing or may not be written to.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--report {path} is no page.", hint="Its name ends in .html.")
        refuse_hopeless_output(path, replace=True)
        self._path = path
        self._spool = Spool(path)
        self._photos: list[tuple[str, list[_Kept]]] = []

    def keeping(self, rows: Iterable[PanelRow]) -> Iterator[PanelRow]:
        """Pass on the rows of a panel, and keep their pictures for the page."""
        for row in rows:
            kept = []
            for caption, picture in row.pictures:
                image = pil_image(srgb8_from_bt709(picture))
                thumbnail = encoded(shrunk(image, _THUMBNAIL_SIDE), "JPEG", quality=_QUALITY)
                jpeg = encoded(image, "JPEG", quality=_QUALITY, subsampling=0)
                places = self._spool.put(thumbnail), self._spool.put(jpeg)
                kept.append(_Kept(caption, *places, image.size))
            self._photos.append((row.title, kept))
            yield row

    def write(
        self,
        report: Report,
        published: Sequence[PaperRow] = (),
        tests: Sequence[Diagnosis] = (),
        casts: Sequence[Casts] = (),
    ) -> None:
        """Write the page.

        Raises
        ------
        OutputError
        """
        config = report.config
        lead = (
            f"{config.data.name}, {config.camera} {config.split}, protocol {config.protocol}, "
            f"{counted(report.pairs, 'pair')}"
        )
        if not report.is_complete:
            lead += f"; incomplete: interrupted, {counted(len(report.scores), 'score')} so far"
        page = Page(
            "gia eval", lead, _tables(report, published, tests, casts), (_photo_table(report),)
        )
        write_page(self._path, page, self._entries())

    def close(self) -> None:
        """Give the disk the space of the pictures back."""
        self._spool.close()

    def _entries(self) -> Iterator[Entry]:
        for title, kept in self._photos:
            width, height = kept[-1].size
            layers = tuple(
                Layer(
                    each.caption,
                    self._spool.get(each.thumbnail),
                    (Tile(self._spool.get(each.picture), 0, 0, width, height),),
                )
                for each in kept
            )
            # Beside the amplified input the last system, before the ground truth.
            view = View(width, height, layers, max(len(layers) - 2, 0))
            found = [each.caption.rpartition(": ") for each in kept]
            scores = tuple((name, value) for name, _, value in found if name)
            yield Entry(title, facts=(Facts("PSNR", scores),), view=view)


def _tables(
    report: Report,
    published: Sequence[PaperRow],
    tests: Sequence[Diagnosis],
    casts: Sequence[Casts],
) -> tuple[Table, ...]:
    missing = [f"{name}: n/a ({reason})." for name, reason in report.unavailable.items()]
    words = "SSIM with a Gaussian window; ± and [ ]: 95 %, bootstrap over scenes."
    tables = [Table("Scores", *score_table(report, published), note=" ".join([words, *missing]))]
    if len(report.summaries) > 1:
        tables.append(Table("Differences, photo by photo", *difference_table(report)))
    columns, rows = ratio_table(report)
    if rows:
        tables.append(Table("By ratio", columns, rows))
    if tests:
        tables.append(Table("Without a part of the network", *diagnosis_table(tests)))
    if casts:
        tables.append(Table("Casts, drifts, grids", *casts_table(casts)))
    if report.failures:
        failed = [[failure.path.name, str(failure.error)] for failure in report.failures]
        tables.append(Table("Failed", ["photo", "why"], failed))
    return tuple(tables)


def _photo_table(report: Report) -> Table:
    shown = [c for c in SCORE_COLUMNS if any(c[0] in score.values for score in report.scores)]
    rows = []
    for score in report.scores:
        values = [(score.values.get(name), digits) for name, _, digits in shown]
        rows.append(
            [
                row_name(score.system, score.ratio_mode),
                score.scene,
                score.short,
                f"{score.ratio:.4g}",
                *("n/a" if value is None else f"{value:.{digits}f}" for value, digits in values),
                f"{score.seconds:.2f}",
            ]
        )
    columns = [
        "system",
        "scene",
        "photo",
        "ratio",
        *(heading for _, heading, _ in shown),
        "seconds",
    ]
    return Table(f"Every photo ({counted(len(rows), 'row')})", columns, rows, folded=True)
