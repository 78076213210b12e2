"""A batch on a Ray cluster, from its lock to the last temporary file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from gia_cli.enhance.batch import BatchOptions, FileResult, Job
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.pool import run_in_pool
from gia_cli.enhance.ray_pool import RayOptions, RayPool, Setup, connected, share_out
from gia_cli.enhance.shard import Shard
from gia_cli.enhance.storage import is_url
from gia_cli.errors import OutputError, UsageError
from gia_cli.files import lock, make_folder, sweep
from gia_cli.progress import Progress

#: A temporary file that nobody has written to for so long is nobody's: seconds.
STALE_S = 86_400.0


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
    """Enhance every photo on the workers of a cluster.

    Parameters
    ----------
    jobs : sequence of Job
    make_enhancer : function
        Called by each worker; it is pickled.
    options : BatchOptions
        Without `show`: what a page is made of does not travel.
    cluster : RayOptions
    shard : Shard, optional
        The share that the jobs are; two shares may be done in one folder at a time.
    progress, on_result
        As for `run_in_pool`.

    Returns
    -------
    list of FileResult
        In the order of the jobs.

    Raises
    ------
    ClusterError, Interrupted, UsageError, OutputError
        And what keeps all workers from beginning, such as `WeightsError`.
    """
    mark = secrets.token_hex(3)
    folders = {target.parent for job in jobs for target in job.targets}
    folders -= {folder for folder in folders if is_url(folder)}  # stores have no half files

    @contextmanager
    def open_pool(photos: int) -> Iterator[RayPool]:
        for folder in folders:
            sweep(folder, older_than_s=STALE_S)
        with connected(cluster) as ray:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            shared = share_out(nodes, cluster)
            resources = replace(shared, workers=min(shared.workers, photos))
            setup = Setup(make_enhancer, options, resources, mark, os.getcwd())  # noqa: PTH109
            try:
                with RayPool(ray, setup, progress) as pool:
                    yield pool
            finally:
                for folder in folders:
                    sweep(folder, mark=mark)

    with only_driver_of(output_roots(jobs, options), options, shard):
        return run_in_pool(jobs, open_pool, options, progress=progress, on_result=on_result)


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


@contextmanager
def only_driver_of(roots: set[Path], options: BatchOptions, shard: Shard | None) -> Iterator[None]:
    """Keep a second driver from the folders that this one has pictures written into.

    Raises
    ------
    UsageError
        There is one.
    OutputError
        A folder is not there, or cannot be written to.
    """
    if options.out_dir is not None and not is_url(options.out_dir):
        make_folder(options.out_dir, "--out-dir")
    name = ".gia-ray.lock" if shard is None else f".gia-ray-{shard.number}-{shard.count}.lock"
    with ExitStack() as held:
        # A store has no locks; it refuses a second picture of one name itself.
        for root in sorted(root for root in roots if not is_url(root)):
            try:
                is_ours = held.enter_context(lock(root / name))
            except OSError as error:
                raise OutputError(
                    f"The folder {root} cannot be written to: {error.strerror or error}.",
                    hint="Check its permissions, or give --out-dir.",
                ) from error
            if not is_ours:
                raise UsageError(
                    f"Another gia --ray is writing into {root}.",
                    hint="Wait for it, use another --out-dir, or give each a --shard.",
                )
        yield
