"""Work on a Ray cluster, from the lock on its folders to the last temporary file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from gia_cli.cluster.pool import Item, Result, Task, run_in_pool
from gia_cli.cluster.ray_pool import RayOptions, RayPool, Setup, Work, connected, share_out
from gia_cli.cluster.shard import Shard
from gia_cli.errors import OutputError, UsageError
from gia_cli.files import lock, sweep
from gia_cli.progress import Progress

#: A temporary file that nobody has written to for so long is nobody's: seconds.
STALE_S = 86_400.0


def run_on_cluster(
    task: Task[Item, Result],
    items: Sequence[Item],
    make_work: Callable[[int | None], Work[Item, Result]],
    cluster: RayOptions,
    *,
    folders: Collection[Path] = (),
    progress: Progress,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Do every item on the workers of a cluster.

    Parameters
    ----------
    task, items
        As for `run_in_pool`.
    make_work : function
        See `Setup`.
    cluster : RayOptions
    folders : collection of Path
        Where the workers write: half files of those that died are removed.
    progress, on_result
        As for `run_in_pool`.

    Returns
    -------
    list
        In the order of the items.

    Raises
    ------
    ClusterError, Interrupted, UsageError
        And what keeps all workers from beginning, such as `WeightsError`.
    """
    mark = secrets.token_hex(3)

    @contextmanager
    def open_pool(count: int) -> Iterator[RayPool]:
        for folder in folders:
            sweep(folder, older_than_s=STALE_S)
        with connected(cluster) as ray:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            shared = share_out(nodes, cluster)
            resources = replace(shared, workers=min(shared.workers, count))
            setup = Setup(make_work, resources, mark, os.getcwd())  # noqa: PTH109
            try:
                with RayPool(ray, setup, progress) as pool:
                    yield pool
            finally:
                for folder in folders:
                    sweep(folder, mark=mark)

    return run_in_pool(task, items, open_pool, progress=progress, on_result=on_result)


@contextmanager
def only_driver_of(
    roots: Collection[Path], command: str, shard: Shard | None, *, option: str
) -> Iterator[None]:
    """Keep a second driver from the folders that this one has files written into.

    Parameters
    ----------
    roots : collection of Path
    command : str
        What it is, such as "gia eval"; others do not count.
    shard : Shard, optional
        Two shares may be done in one folder at a time.
    option : str
        What chooses another folder.

    Raises
    ------
    UsageError
        There is one.
    OutputError
        A folder is not there, or cannot be written to.
    """
    share = "" if shard is None else f"-{shard.number}-{shard.count}"
    name = f".gia-{command.split()[-1].lstrip('-')}{share}.lock"
    with ExitStack() as held:
        for root in sorted(roots):
            try:
                is_ours = held.enter_context(lock(root / name))
            except OSError as error:
                raise OutputError(
                    f"The folder {root} cannot be written to: {error.strerror or error}.",
                    hint=f"Check its permissions, or give {option}.",
                ) from error
            if not is_ours:
                doing = "" if shard is None else f", at shard {shard}"
                raise UsageError(
                    f"Another {command} is writing into {root}{doing}.",
                    hint=f"Wait for it, use another {option}, or give each a --shard of its own.",
                )
        yield
