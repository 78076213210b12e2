"""`gia enhance` on many machines: shares of a folder, and a cluster."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gia_cli.cluster.ray_pool import RayOptions
from tests.cli.test_cli import gia

MakePhoto = Callable[..., Path]
QUICK = ("--ratio", "100", "--device", "cpu", "--weights", "gia-sony-lite")


@pytest.fixture
def card(make_arw: MakePhoto) -> Path:
    """Three photos and a broken one."""
    folder = make_arw("card/a.ARW").parent
    for name in ("b.ARW", "c.ARW"):
        (folder / name).hardlink_to(make_arw(f"spare/{name}"))
    (folder / "broken.ARW").write_bytes(b"not a photo")
    return folder


@pytest.mark.slow
def test_shards_do_each_photo_once_and_report_their_share(card: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    for number in (1, 2, 3):
        command = ("enhance", card, "--out-dir", tmp_path / "out", "--shard", f"{number}/3")
        run = gia(*command, "--json", *QUICK)
        report = json.loads(run.stdout)
        assert report["shard"] == {
            "number": number,
            "count": 3,
            "source": "--shard",
            "planned": 4,
        }
        names = [Path(file["input"]).name for file in report["files"]]
        assert run.exit_code == (3 if "broken.ARW" in names else 0), run.output
        assert f"shard {number}/3: {len(names)} of 4 photos" in run.stderr
        seen += names
    assert sorted(seen) == ["a.ARW", "b.ARW", "broken.ARW", "c.ARW"]
    pictures = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert pictures == ["a_gia.tif", "b_gia.tif", "c_gia.tif"]


def test_a_shard_without_photos_is_a_success_with_a_line(card: Path, tmp_path: Path) -> None:
    runs = [gia("enhance", card, "--shard", f"{number}/999", *QUICK) for number in (1, 2)]
    assert all("/999: 0 of 4 photos" in run.stderr for run in runs)
    assert [(run.exit_code, run.stdout) for run in runs] == [(0, "")] * 2


def test_a_slurm_array_gives_shares_by_itself_but_not_of_a_photo_that_is_named(
    card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ID", "1"), ("COUNT", "1000000"), ("MIN", "0"), ("MAX", "999999")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    run = gia("enhance", card, *QUICK)
    assert run.exit_code == 0
    assert "shard 2/1000000 (SLURM_ARRAY_TASK_ID; --shard says otherwise): 0 of 4" in run.stderr
    run = gia("enhance", card / "a.ARW", *QUICK)
    assert run.exit_code == 0 and "a_gia.tif" in run.stdout and "shard" not in run.stderr


@pytest.mark.slow
def test_a_pod_is_told_that_it_does_all(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    run = gia("enhance", card, *QUICK)
    assert "this one does all photos" in run.stderr and len(run.stdout.splitlines()) == 3
    assert gia("enhance", card, "--shard", "auto/3").exit_code == 2  # the fourth of three


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ([], "auto"),
        (["--precision", "int8"], "cpu"),
        (["--engine", "openvino"], "cpu"),
        (["--engine", "openvino", "--device", "cuda"], "cuda"),  # which is refused by who opens it
    ],
)
def test_what_runs_on_cpus_alone_takes_no_gpus_of_a_cluster(
    card: Path, options: list[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RayOptions] = []

    def note(jobs: object, make: object, batch: object, cluster: RayOptions, **_: object) -> None:
        asked.append(cluster)

    monkeypatch.setattr("gia_cli.enhance.cluster.run_on_ray", note)
    assert gia("enhance", card, "--ray", "local", *options).exit_code == 0
    assert [each.device for each in asked] == [device]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--workers", "2"], 2, "--workers needs --ray"),
        (["--ray", "local", "--workers", "0"], 2, "--workers must be positive"),
        (["--ray", "local", "--report", "page.html"], 2, "--report does not work with --ray"),
        (["--ray", "ray://head:10001"], 2, "does not work through Ray's client"),
        (["--ray", "head"], 2, "takes local, auto or HOST:PORT"),
        (["--shard", "3"], 2, "--shard takes I/N"),
        (["--shard", "9/3"], 2, "no shard 9 of 3"),
    ],
)
def test_what_makes_no_cluster_is_refused(
    card: Path, options: list[str], code: int, words: str
) -> None:
    refused = gia("enhance", card, *options)
    assert refused.exit_code == code and words in refused.stderr
    assert len(list(card.iterdir())) == 4  # nothing was begun


@pytest.mark.slow
def test_an_address_that_nobody_answers_is_one_line_with_a_code(card: Path) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    refused = gia("enhance", card, "--ray", f"127.0.0.1:{port}", "--on-exists", "skip")
    lines = [line for line in refused.stderr.splitlines() if "broken" not in line]
    assert refused.exit_code == 53 and len(lines) == 1
    assert lines[0].startswith(f"error: Nobody answers at 127.0.0.1:{port}")
    assert {path.name for path in card.iterdir() if path.suffix == ".tif"} == set()


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0,cuda:1"])
def test_numbered_cards_are_for_one_machine(card: Path, device: str) -> None:
    run = gia("enhance", card, "--ray", "local", "--device", device)
    assert run.exit_code == 2
    assert f"--device {device} does not work with --ray" in run.stderr
    assert "Use --device cuda." in run.stderr
