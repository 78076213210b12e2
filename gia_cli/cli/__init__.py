"""The commands: options to one dataclass, one call, one exit code.

Heavy modules are imported inside the commands, so that ``gia --help`` does not wait for torch.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from gia_cli import interrupts
from gia_cli._version import __version__
from gia_cli.cli import (
    bench,
    config,
    decode,
    enhance,
    evaluate,
    info,
    pack,
    simulate,
    train,
    watch,
    weights,
)
from gia_cli.cli.app import app, refused, tell
from gia_cli.cli.options import Verbose
from gia_cli.errors import UsageError

__all__ = [
    "app",
    "bench",
    "config",
    "decode",
    "enhance",
    "evaluate",
    "info",
    "main",
    "pack",
    "simulate",
    "train",
    "watch",
    "weights",
]


def main() -> None:
    """Run the command line, as a process of its own."""
    interrupts.take_over()
    # A closed stdout or stderr (2>&-) must not lend its descriptor to the first file we open.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):  # a name that is no text must not end the run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run()
    finally:
        interrupts.enter("over")


def _run() -> None:
    """Run the command; a full disk behind its output, be it the help's, is an error like others."""
    try:
        try:
            app(windows_expand_args=False)  # patterns are expanded where they are understood
        finally:
            sys.stdout.flush()
    except OSError as error:
        sys.exit(tell(refused(error)))


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit; with -v all versions.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Answer ``gia --version`` and ``gia --version -v``."""
    if not version:
        if verbose and context.invoked_subcommand is not None:
            raise UsageError("-v comes after the command.", hint="Write: gia enhance -v PHOTO.")
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
        return
    typer.echo(f"gia {__version__}")
    if verbose:
        for line in _environment():
            typer.echo(line)
    raise typer.Exit


def _environment() -> list[str]:
    """Versions and devices, for bug reports."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import rawpy

    from gia_cli.runtime import device_names

    lines = [f"Python {platform.python_version()} on {platform.platform()}"]
    names = "torch openvino rawpy numpy imageio tifffile safetensors typer rich psutil"
    for name in [*names.split(), "pillow"]:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} missing")
    lines.append("LibRaw " + ".".join(str(part) for part in rawpy.libraw_version))
    return [*lines, "devices: " + ", ".join(device_names())]
