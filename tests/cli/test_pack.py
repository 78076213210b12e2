"""`gia pack`: its words, its file and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gia_cli import cli
from gia_cli.imaging.packed import PackOptions, list_packed
from gia_cli.runtime import parse_size


def gia(*args: str | Path) -> Result:
    arguments = [str(arg) for arg in ("pack", *args)]
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "120"})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    for name in ("a.png", "b.png"):
        iio.imwrite(tmp_path / "lake" / name, np.full((32, 48, 3), 90, np.uint8))
    return tmp_path / "lake"


def test_a_folder_is_packed_and_the_path_printed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.tar"
    result = gia(photos, "-o", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(out)]
    assert "2 photographs" in result.stderr and f"gia train --photos {out}" in result.stderr
    assert [photo.name for photo in list_packed(out)] == ["lake/a.webp", "lake/b.webp"]
    again = gia(photos, "-o", out)
    assert again.exit_code == 61 and "--overwrite" in again.stderr
    assert gia(photos, "-o", out, "--overwrite", "-q").stderr == ""


def test_a_photograph_that_fails_is_named_and_the_exit_code_says_so(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "c.jpg").write_bytes(b"nothing")
    result = gia(photos, "-o", tmp_path / "p.tar", "--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert report["photos"] == 2 and report["bytes"] == (tmp_path / "p.tar").stat().st_size
    (failed,) = report["failed"]
    assert failed["input"].endswith("c.jpg") and failed["error"]["exit_code"] == 70


def test_a_size_that_is_too_small_is_refused(photos: Path, tmp_path: Path) -> None:
    result = gia(photos, "-o", tmp_path / "p.tar", "--max-size", "1KB")
    assert result.exit_code == 2 and "--max-size" in result.stderr
    assert not (tmp_path / "p.tar").exists()


def test_the_defaults_are_the_dataclass_s() -> None:
    text = gia("--help").stdout
    assert "[default: 40MB]" in text and parse_size("40MB") == PackOptions().max_bytes
