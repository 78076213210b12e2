"""``gia pack``: photographs for training in one small file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gia_cli.cli.app import app, error_report
from gia_cli.cli.options import Json, Quiet, Verbose
from gia_cli.errors import BatchError


@app.command()
def pack(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTO|FOLDER...",
            help="Photographs, and folders of them; a folder's name is their source.",
            show_default=False,
            readable=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="TAR", help="File to write.")] = Path(
        "photos.tar"
    ),
    max_size: Annotated[
        str, typer.Option("--max-size", metavar="SIZE", help="Most that the file may hold.")
    ] = "40MB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file of that name.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Pack photographs for training into one file, to take to another machine.

    gia pack pictures/ -o photos.tar

    They get the size that training uses, lose their metadata, and are encoded as WebP at the
    highest quality that fits.
    """
    from gia_cli.cli.console import Terminal
    from gia_cli.imaging.packed import PackOptions, pack_photos
    from gia_cli.runtime import parse_size
    from gia_cli.text import counted

    terminal = Terminal(quiet=quiet, verbose=verbose)
    options = PackOptions(max_bytes=parse_size(max_size), overwrite=overwrite)
    with terminal:
        result = pack_photos(inputs, out, options, terminal)
    for path, error in result.failed:
        terminal.error(error, about=path)
    if as_json:
        terminal.json(
            {
                "output": str(result.target),
                "photos": result.photos,
                "bytes": result.bytes,
                "quality": result.quality,
                "failed": [
                    {"input": str(path), "error": error_report(error)}
                    for path, error in result.failed
                ],
            }
        )
    else:
        terminal.line(str(result.target))
        terminal.say(
            f"{counted(result.photos, 'photograph')}, {result.bytes / 1e6:.1f} MB, WebP quality "
            f"{result.quality}. Next: gia train --photos {result.target}"
        )
    if result.failed:
        count = len(result.failed)
        raise BatchError(f"{count} of {count + result.photos} photographs failed.")
