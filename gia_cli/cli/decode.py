"""``gia decode``: what training reads, decoded ahead of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gia_cli._version import __version__
from gia_cli.cameras import camera_family
from gia_cli.cli.app import app
from gia_cli.cli.options import (
    Cache,
    Camera,
    CoreWorkers,
    Json,
    Photos,
    Quiet,
    Ray,
    Shard,
    Verbose,
    named_shard,
    ray_options,
)
from gia_cli.errors import UsageError


@app.command()
def decode(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="TREE",
            help="SID, or a tree made like it: its training and validation lists.",
            show_default=False,
        ),
    ] = None,
    photos: Photos = None,
    camera: Camera = "sony",
    cache: Cache = None,
    shard: Shard = None,
    ray: Ray = None,
    workers: CoreWorkers = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Decode photos for training ahead of it, on as many machines as there are.

    gia decode --photos pictures/ --cache /data/cache --shard 1/8

    gia train does it by itself, on one machine. It finds what is decoded if it is given the same
    --data or --photos, and the same --cache. The same command again decodes what is missing.
    """
    from gia_cli.cli.console import Terminal
    from gia_cli.data.sid import decode_splits
    from gia_cli.data.synthetic import decode_photos

    if (data is None) == (not photos):
        raise UsageError("Give --data or --photos.", hint="As for gia train.")
    share, cluster = named_shard(shard), ray_options(ray, workers, fills_machine=False)
    if photos and cache is None and (share is not None or cluster is not None):
        raise UsageError(
            "Machines have no cache in common by default.", hint="Give --cache FOLDER."
        )
    terminal = Terminal(quiet=quiet, verbose=verbose)
    with terminal:
        if data is not None:
            made = decode_splits(
                *(data, camera_family(camera), ("train", "val")),
                cache=cache,
                shard=share,
                cluster=cluster,
                progress=terminal,
            )
        else:
            made = decode_photos(
                photos or [], cache, shard=share, cluster=cluster, progress=terminal
            )
    if as_json:
        terminal.json(
            {
                "gia": __version__,
                "cache": str(made.folder),
                "decoded": made.decoded,
                "there": made.there,
            }
        )
    else:
        of = "" if share is None else f"shard {share}: "
        terminal.say(f"{of}{made.decoded} decoded, {made.there} were there")
        terminal.line(str(made.folder))
