"""`gia decode`: what training finds afterwards, its words and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gia_cli import cli
from gia_cli.data.sid import SidFrames
from gia_cli.data.synthetic import open_photos
from tests.progress_spy import ProgressSpy


def gia(*args: str | Path) -> Result:
    arguments = [str(arg) for arg in ("decode", *args)]
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "120"})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    for number in range(6):
        path = tmp_path / "lake" / f"{number}.png"
        iio.imwrite(path, np.full((32, 48, 3), 30 * number, np.uint8))
    return tmp_path / "lake"


def test_shares_of_photographs_are_what_training_finds(photos: Path, tmp_path: Path) -> None:
    cache, reports = tmp_path / "cache", []
    for number in (1, 2):
        run = gia("--photos", photos, "--cache", cache, "--shard", f"{number}/2", "--json")
        assert run.exit_code == 0, run.output
        reports.append(json.loads(run.stdout))
    assert sum(report["decoded"] for report in reports) == 6
    assert {report["cache"] for report in reports} == {str(cache)}
    spy = ProgressSpy()
    assert len(open_photos([photos], cache, spy).keys) == 6
    assert "decoding" not in [name for name, _ in spy.stages]
    again = gia("--photos", photos, "--cache", cache)
    assert again.stdout.split() == [str(cache)] and "0 decoded, 6 were there" in again.stderr


def test_a_share_of_a_data_set_is_what_training_finds(
    make_tree: Callable[..., Path], tmp_path: Path
) -> None:
    tree = make_tree(pictures=2, size=(64, 48), ratios=(100.0,))
    for split in ("train", "val"):
        (tree / f"Sony_{split}_list.txt").write_bytes((tree / "Sony_test_list.txt").read_bytes())
    runs = [gia("--data", tree, "--shard", f"{number}/2", "--json") for number in (1, 2)]
    assert [run.exit_code for run in runs] == [0, 0]
    assert sum(json.loads(run.stdout)["decoded"] for run in runs) == 4
    spy = ProgressSpy()
    SidFrames.open(tree, "sony", "train", progress=spy)
    assert "decoding" not in [name for name, _ in spy.stages]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "Give --data or --photos"),
        (["--photos", "lake", "--data", "tree"], 2, "Give --data or --photos"),
        (["--photos", "lake", "--shard", "3/2"], 2, "no shard 3 of 2"),
        (["--photos", "lake", "--shard", "1/2"], 2, "no cache in common"),
        (["--photos", "lake", "--ray", "local"], 2, "no cache in common"),
        (["--photos", "lake", "--workers", "2"], 2, "--workers needs --ray"),
        (["--photos", "nowhere", "--cache", "cache"], 70, "nowhere"),
        (["--data", "nowhere"], 70, "no list"),
    ],
)
def test_what_cannot_be_decoded_is_refused(
    photos: Path,
    tmp_path: Path,
    options: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = gia(*options)
    assert refused.exit_code == code and words in refused.stderr
    assert not (tmp_path / "cache").exists()


def test_a_broken_photograph_is_named_and_the_others_are_decoded(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "3.png").write_bytes(b"no picture")
    failed = gia("--photos", photos, "--cache", tmp_path / "cache")
    assert failed.exit_code == 70 and "3.png" in failed.stderr
    assert len(list((tmp_path / "cache").glob("*.json"))) == 5
