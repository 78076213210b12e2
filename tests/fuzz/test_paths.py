"""Pipes and names that no file can have are refused at once: one line, the code of their kind.

Those that the tests of single modules do not cover: options that readers of their own take.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from gia_cli.cli import app

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, limits of names")

#: Options, the path as @, and the exit code of what is not there or is no such thing.
OPTIONS = {
    "enhance -w": ("enhance night.ARW -w @", (41,)),
    "simulate": ("simulate @ -o s.ARW", (70,)),
    "simulate --sid": ("simulate @ --sid -o tree", (70,)),
    "simulate --sid -o": ("simulate photos --sid -o @", (60,)),
    "train --photos": ("train --photos @ --steps 1 --run run", (70,)),
    "weights verify": ("weights verify @", (41,)),
    "weights export --out": ("weights export run --name n --out @", (60, 71)),
    "weights calibrate --photos": ("weights calibrate gia-sony --photos @ --name n", (70,)),
}
KINDS = ("pipe", "n" * 300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=["pipe", "long name"])
def test_a_hostile_path_is_refused_at_once(
    make_arw: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make_arw()
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("photos").mkdir()
    Image.new("RGB", (192, 192), "teal").save("photos/a.png")
    for name, (options, codes) in OPTIONS.items():
        arguments = [word.replace("@", kind) for word in options.split()]
        run = CliRunner().invoke(app, arguments)
        lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (name, run.stderr, run.exception)
        assert run.exit_code in codes, (name, lines)
        assert run.stdout == "", name
