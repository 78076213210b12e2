"""`gia watch` with a real network: what arrives is enhanced, and a restart continues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gia_cli.cli import app
from gia_cli.cli.settings import leaves, options_of
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.watch import JOURNAL
from gia_cli.files import lock
from gia_cli.weights.storage import save_weights
from tests.networks import lively, small

MakePhoto = Callable[..., Path]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network."""
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_weights(path, lively(small("gia-net")), camera="ILCE-7SM2")
    return path


def watch(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["watch", *map(str, words), "--settle", "0.1s"])


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def statuses(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows(path):
        if "input" in row:
            found.setdefault(Path(row["input"]).name, []).append(row["status"])
    return found


@pytest.mark.slow
def test_photos_become_pictures_and_a_journal(
    make_arw: MakePhoto, tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b", "a"):
        make_arw(f"card/{name}.ARW")
    whole = (tmp_path / "card" / "a.ARW").read_bytes()
    (tmp_path / "card" / "broken.ARW").write_bytes(whole[:-5000])
    made: list[Enhancer] = []
    plain = Enhancer.from_weights

    def counted(*given: Any, **options: Any) -> Enhancer:
        made.append(plain(*given, **options))
        return made[-1]

    monkeypatch.setattr(Enhancer, "from_weights", counted)
    out = tmp_path / "card" / "out"
    options: list[str | Path] = ["--once", "--patience", "0.3s", "--out-dir", out, "-w", own]
    options += ["--device", "cpu", "--compare", "--recursive", "--format", "png"]
    run = watch(tmp_path / "card", *options)
    assert run.exit_code == 3, run.output
    pictures = [str(out / name) for name in ("a_gia.png", "a_gia_compare.png")]
    pictures += [str(out / name) for name in ("b_gia.png", "b_gia_compare.png")]
    assert run.stdout.splitlines() == pictures
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "broken.ARW" in errors[0] and "1 of 3 photos" in errors[1]
    assert statuses(out / JOURNAL) == {
        "a.ARW": ["written"],
        "b.ARW": ["written"],
        "broken.ARW": ["failed"],
    }
    row = next(row for row in rows(out / JOURNAL) if row.get("input", "").endswith("a.ARW"))
    assert row["outputs"] == pictures[:2] and row["weights"] == "own" and row["ratios"] == [100.0]
    again = watch(tmp_path / "card", *options)
    assert (again.exit_code, again.stdout) == (0, "")
    assert len(made) == 2  # one for each start


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--settle", "soon"], 2, "--settle takes a time such as"),
        (["--settle", "0"], 2, "--settle must be positive"),
        (["--tile", "big"], 2, "--tile takes"),
        (["--journal", "gone/j.jsonl"], 60, "journal gone/j.jsonl cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["watch", str(tmp_path), "--once", *options])
    assert run.exit_code == code, run.output
    (line,) = run.stderr.splitlines()
    assert words in line


def test_a_folder_that_is_not_there_and_one_that_is_watched(tmp_path: Path) -> None:
    gone = watch(tmp_path / "gone", "--once")
    assert gone.exit_code == 11 and "gone is not there" in gone.stderr
    with lock(tmp_path / f".{JOURNAL}.lock"):
        second = watch(tmp_path, "--once")
    assert second.exit_code == 2 and "Another gia watch" in second.stderr
    assert watch(tmp_path, "--once").exit_code == 0


def test_it_has_the_options_of_enhance_that_make_sense() -> None:
    known = dict(leaves(typer.main.get_command(app)))
    enhance, own = options_of(known[("enhance",)]), options_of(known[("watch",)])
    assert enhance.keys() - own.keys() == {"output", "json", "report", "shard", "ray", "workers"}
    assert {"settle", "patience", "poll", "journal"} <= own.keys() - enhance.keys()
    assert own["on-exists"].default == "skip"
    same = enhance.keys() & own.keys() - {"on-exists"}
    assert all(enhance[key].default == own[key].default for key in same)


def test_stores_are_not_watched(tmp_path: Path) -> None:
    for arguments in (["s3://bucket/card"], [tmp_path, "--out-dir", "s3://bucket/out"]):
        refused = watch(*arguments, "--once")
        assert refused.exit_code == 2 and "needs folders of this machine" in refused.stderr
    assert not list(tmp_path.iterdir())


@contextmanager
def watcher(folder: Path, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gia_cli", "watch", str(folder), *map(str, words)]
    with subprocess.Popen(
        [*command, "--settle", "0.1s", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_watch_that_is_stopped_continues(
    make_arw: MakePhoto, tmp_path: Path, own: Path, number: signal.Signals
) -> None:
    pytest.importorskip("watchdog")
    card, out = tmp_path / "card", tmp_path / "out"
    card.mkdir()
    night = make_arw().read_bytes()
    for index in range(14):
        (card / f"{index:02}.ARW").write_bytes(night)
    with watcher(card, "--out-dir", out, "-w", own) as first:
        assert first.stdout is not None
        first.stdout.readline()  # a picture is there
        first.send_signal(number)
        _, stderr = first.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert first.returncode == -number
    else:
        assert first.returncode == 128 + number, stderr
        last = stderr.splitlines()[-1]
        assert last.startswith("Stopped: ") and "The next start continues here" in last
        assert "error" not in stderr
        assert rows(out / JOURNAL)[-1]["status"] == "stopped"
    done = statuses(out / JOURNAL)
    assert done  # on a busy machine it may be all of them
    with watcher(card, "--out-dir", out, "-w", own, "--stop-after-idle", "2s") as second:
        make_arw("new.ARW").rename(card / "new.ARW")
        stdout, stderr = second.communicate(timeout=120)
    assert second.returncode == 0, stderr
    after = statuses(out / JOURNAL)
    assert len(after) == 15
    # When it is killed, a picture may be there without a line; it is found, and not made again.
    found = [name for name, each in after.items() if each == ["skipped"]]
    assert len(found) <= (number == signal.SIGKILL), found
    assert all(each == ["written"] for name, each in after.items() if name not in found)
    assert len(list(out.glob("*.tif"))) == 15
    assert not {Path(line).name[:2] for line in stdout.splitlines()} & {name[:2] for name in done}
