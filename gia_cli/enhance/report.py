"""The page of a batch: each photo before and after, the ratio and why, and what else is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gia_cli.enhance.batch import BatchOptions, FileResult, Job
from gia_cli.enhance.exposure import describe_shot
from gia_cli.enhance.showing import Shown, keep_picture
from gia_cli.enhance.stages import Enhanced
from gia_cli.errors import UsageError
from gia_cli.files import identity, make_folder, refuse_hopeless_output
from gia_cli.pages.page import Entry, Facts, Page, Table, Timings, write_page
from gia_cli.pages.spool import Spool
from gia_cli.text import counted

_SUFFIXES = (".html", ".htm")
_EXISTS_HINT = "Use --on-exists overwrite or skip, or another --report."


class BatchPage:
    """The page that a batch writes when it is over, however it ends.

    ::

        with BatchPage(Path("page.html"), jobs, options) as page:
            results = run_jobs(jobs, enhancer, page.watching(options), progress=SILENT)
            page.write(results)

    Parameters
    ----------
    path : Path
        Its name, which ends in .html.
    jobs : sequence of Job
    options : BatchOptions

    Raises
    ------
    UsageError
        The name has another ending, or is that of a file which the batch reads.
    OutputError
        The page is there already, or its folder is not.
    """

    def __init__(self, path: Path, jobs: Sequence[Job], options: BatchOptions) -> None:
        if path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"--report {path} is no page.", hint="Its name ends in .html.")
        read = {identity(job.source) for job in jobs} | {identity(p) for p in options.also_read}
        if identity(path) in read - {None}:
            raise UsageError(
                f"The page {path} is a file that is read.", hint="Choose another --report."
            )
        is_replaced = options.on_exists == "overwrite"
        refuse_hopeless_output(path, replace=is_replaced, hint=_EXISTS_HINT)
        if options.out_dir in (path.parent, *path.parent.parents):
            make_folder(path.parent, "--report")  # the batch would make it, but later
        self._path = path
        self._pictures = sum(len(job.targets) for job in jobs if job.error is None)
        self._spool = Spool(path)

    def watching(self, options: BatchOptions) -> BatchOptions:
        """Return options for a batch whose pictures this page gets."""
        return replace(options, show=self._keep)

    def _keep(self, picture: Enhanced) -> Shown:
        return keep_picture(picture, self._spool, self._pictures)

    def write(self, results: Sequence[FileResult]) -> None:
        """Write the page of what has been done.

        Raises
        ------
        OutputError
        """
        page = Page("gia enhance", _lead(results), after=(_table(results),) if results else ())
        write_page(self._path, page, _entries(results, self._spool))

    def __enter__(self) -> BatchPage:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()


def _lead(results: Sequence[FileResult]) -> str:
    counts = Counter(result.status for result in results)
    listed = [f"{counts[s]} {s}" for s in ("written", "skipped", "failed") if counts[s]]
    photos = counted(len(results), "photo")
    return f"{photos}: {', '.join(listed)}." if listed else "No photo was done."


def _table(results: Sequence[FileResult]) -> Table:
    rows = [
        [
            result.source.name,
            result.status,
            ", ".join(f"{choice.ratio:.4g}" for choice in result.choices),
            f"{result.seconds:.1f}",
            result.error.message if result.error else ", ".join(map(str, result.outputs)),
        ]
        for result in results
    ]
    return Table("All photos", ["photo", "status", "ratio", "seconds", "output"], rows)


def _entries(results: Sequence[FileResult], spool: Spool) -> Iterator[Entry]:
    """Describe each picture, and each photo without one."""
    for result in results:
        for shown in result.shown:
            yield _entry(result, shown, spool)
        if not result.shown or result.error is not None:
            yield _entry(result, None, spool)


def _entry(result: FileResult, shown: Shown | None, spool: Spool) -> Entry:
    failed = result.error is not None and shown is None
    entry = Entry(
        title=result.source.name,
        status=result.status if shown is None or not result.error else "written",
        summary=f"{result.seconds:.1f} s" if result.status == "written" else "",
        error=result.error.message if failed and result.error else "",
        hint=result.error.hint if failed and result.error else "",
        notes=tuple(dict.fromkeys(result.notes)),
        facts=(_files(result),),
    )
    if result.status == "skipped":
        return replace(entry, summary="Its output was already there.")
    if shown is None:
        return entry
    alone = len(result.shown) == 1
    title = entry.title if alone else f"{entry.title}, ×{shown.choice.ratio:g}"  # noqa: RUF001
    stages = result.stages if alone and result.stages else shown.seconds
    return replace(
        entry,
        title=title,
        facts=(*_facts(shown), _files(result)),
        timings=Timings(tuple(stages.items())),
        view=shown.view(spool),
    )


def _files(result: FileResult) -> Facts:
    outputs = tuple(("output", str(path)) for path in result.outputs)
    return Facts("Files", (("photo", str(result.source)), *outputs))


def _facts(shown: Shown) -> tuple[Facts, ...]:
    shot = shown.shot
    focal = None if shot.focal_mm is None else f"{shot.focal_mm:g} mm"
    taken = (
        ("camera", shot.camera),
        ("lens", shot.lens),
        ("exposure", describe_shot(shot)),
        ("focal length", focal),
        ("taken", shot.taken),
    )
    exposure = (("ratio", f"{shown.choice.ratio:.4g}"), ("why", shown.choice.reason))
    made = (
        ("made by", shown.comment),
        ("size", f"{shown.width} x {shown.height} px"),
        ("shown here", shown.extent),
    )
    return (
        Facts("Brightness", exposure),
        Facts("Picture", made),
        Facts("Photo", tuple((name, value) for name, value in taken if value)),
    )
