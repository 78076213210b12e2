"""A batch on a Ray cluster: what photos are to its workers, and to those who share them out.

Each worker runs a batch of its own, of a few photos at a time, so that reading, network and writing
overlap in it. No file is written twice: what must not be replaced is found before anything is given
away, and what appears later is the work of a worker that died before it could tell.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from gia_cli.cluster.driver import only_driver_of, run_on_cluster
from gia_cli.cluster.pool import Task
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.enhance.batch import BatchOptions, FileResult, Job, files_of, run_jobs, settled
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.storage import exists, is_url, listed, shown
from gia_cli.errors import GiaError
from gia_cli.files import make_folder
from gia_cli.progress import SILENT, Progress


def run_on_ray(
    jobs: Sequence[Job],
    make_enhancer: Callable[[], Enhancer],
    options: BatchOptions,
    cluster: RayOptions,
    *,
    shard: Shard | None = None,
    progress: Progress,
    on_result: Callable[[FileResult], None] = lambda result: None,
) -> list[FileResult]:
    """Enhance every photo, as `run_jobs` does, on the workers of a cluster.

    Parameters
    ----------
    make_enhancer : function
        Called by each worker; it is pickled.
    options : BatchOptions
        Without `show`: what a page is made of does not travel.
    shard : Shard, optional
        The share that the jobs are; two shares may be done in one folder at a time.
    jobs, cluster, progress, on_result
        As for `run_on_cluster`, as what is returned and raised.
    """
    if options.out_dir is not None and not is_url(options.out_dir):
        make_folder(options.out_dir, "--out-dir")
    folders = {target.parent for job in jobs for target in job.targets}
    # A store has no half files, and no locks: it refuses a second picture of one name itself.
    roots = {root for root in output_roots(jobs, options) if not is_url(root)}
    with only_driver_of(roots, "gia --ray", shard, option="--out-dir"):
        return run_on_cluster(
            Photos(options),
            jobs,
            partial(make_work, make_enhancer, options),
            cluster,
            folders={folder for folder in folders if not is_url(folder)},
            progress=progress,
            on_result=on_result,
        )


def output_roots(jobs: Sequence[Job], options: BatchOptions) -> set[Path]:
    """Name the folders below which all outputs lie."""
    if options.out_dir is not None:
        return {options.out_dir}
    if options.output is not None:
        return {options.output.parent}
    return {
        target.parents[len(PurePosixPath(job.key).parts) - 1]
        for job in jobs
        for target in job.targets
    }


class Photos(Task[Job, FileResult]):
    """A batch, to those who share it out."""

    noun = "photo"

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self._there: dict[int, set[Path]] = {}  # files that were there before

    def name(self, item: Job) -> str:
        """Name a photo as its user does."""
        return shown(item.source)

    def failed(self, item: Job, error: GiaError) -> FileResult:
        """Make the result of a photo that cannot be done."""
        return FileResult(item.source, "failed", error=error)

    def error(self, result: FileResult) -> GiaError | None:
        """Say why a photo has failed."""
        return result.error

    def notes(self, result: FileResult) -> Sequence[str]:
        """List what the user is to be told of a photo."""
        return result.notes

    def settled(self, items: Sequence[Job]) -> Iterator[FileResult | None]:
        """Yield what becomes of each photo that needs no work."""
        with listed([path for job in items for path in files_of(job, self._options)]):
            for number, job in enumerate(items):
                result = settled(job, self._options)
                if result is None and self._options.on_exists == "skip":
                    # Else nothing is there, or it may be replaced.
                    there = set(filter(exists, files_of(job, self._options)))
                    self._there |= {number: there} if there else {}
                yield result

    def completed(self, number: int, item: Job, result: FileResult) -> FileResult:
        """Count to a photo's outputs what a worker had made that could not tell."""
        if result.status == "failed" or self._options.on_exists == "overwrite":
            return result
        there = self._there.get(number, set())
        made = [file for file in files_of(item, self._options) if file not in there]
        if result.status == "skipped" and made:
            note = "written by a worker that was lost before it could tell the ratio."
            return replace(
                result,
                status="written",
                outputs=made,
                notes=[*result.notes, f"{result.source.name}: {note}"],
            )
        return replace(result, outputs=made) if result.status == "written" else result


def make_work(
    make_enhancer: Callable[[], Enhancer], options: BatchOptions, memory: int | None
) -> Callable[[Sequence[Job], bool], Iterator[FileResult]]:
    """Make what a worker does with a chunk; see `cluster.ray_pool.Setup`."""
    enhancer = make_enhancer()
    if memory is not None and enhancer.options.max_memory is None:
        enhancer.limit_memory(memory)

    def work(jobs: Sequence[Job], is_again: bool) -> Iterator[FileResult]:
        # Of photos that are given again, what is there now one of us has made.
        on_exists = "skip" if is_again and options.on_exists == "error" else options.on_exists
        chosen = replace(options, on_exists=on_exists)
        done: queue.SimpleQueue[FileResult | BaseException | None] = queue.SimpleQueue()

        def run() -> None:
            end: BaseException | None = None
            try:
                run_jobs(jobs, enhancer, chosen, progress=SILENT, on_result=done.put)
            except BaseException as error:
                end = error
            done.put(end)

        threading.Thread(target=run, daemon=True).start()
        while isinstance(message := done.get(), FileResult):
            yield message
        if message is not None:
            raise message

    return work
