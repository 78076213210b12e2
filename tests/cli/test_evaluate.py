"""``gia eval`` and ``gia bench``: the tables, the codes, and the words for mistakes."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gia_cli import interrupts
from gia_cli.benchmark import speed
from gia_cli.benchmark.batch import BatchConfig, BatchRun
from gia_cli.benchmark.speed import How, SpeedConfig
from gia_cli.benchmark.training import TrainingSpeed
from gia_cli.cli import app
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.errors import UsageError
from gia_cli.metrics.suite import Measures
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.weights.manifest import list_in_manifest
from gia_cli.weights.storage import save_weights
from tests.networks import DEFAULT, lively, small

pytestmark = pytest.mark.usefixtures("one_thread")


def gia(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(x) for x in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def tree(make_tree: Callable[..., Path]) -> Path:
    """One picture, two ratios."""
    return make_tree(pictures=1, size=(128, 96), ratios=(100.0, 250.0))


def make_weights(
    folder: Path, name: str, network: str, loss: str, sides: tuple[int, int] = (80, 80)
) -> None:
    folder.mkdir(exist_ok=True)
    config = NetConfig(network, width=4)  # type: ignore[arg-type]
    recipe = {"loss": loss, "crops": {"sides": list(sides)}}
    row = save_weights(folder / f"{name}.safetensors", build(config), training={"recipe": recipe})
    list_in_manifest(folder, row)


@pytest.mark.slow
def test_the_table_and_the_files(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = gia(
        *("eval", "--data", tree, "--weights", DEFAULT, "--isp", "libraw", "--out", out),
        *("--ratio", "known,auto", "--panel", "1", "--device", "cpu"),
        *("--report", tmp_path / "page.html"),
    )
    assert done.exit_code == 0, done.output
    for words in (f"{DEFAULT} (auto ratio)", "PSNR ↑", f"minus {DEFAULT}", "pieapp: n/a"):
        assert words in done.output
    assert str(out) in done.stdout.splitlines()
    names = {path.name for path in out.iterdir()}
    assert names == {"scores.jsonl", "scores.csv", "report.json", "panel.png"}
    page = (tmp_path / "page.html").read_text("utf-8")
    assert str(tmp_path / "page.html") in done.stdout.splitlines()
    tables = re.findall(r"<h2>(.*?)</h2>\n<div|<summary><h2>(.*?)</h2>", page)
    assert [a or b for a, b in tables] == [
        *("Scores", "Differences, photo by photo", "By ratio", "Every photo (6 rows)"),
    ]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == 4 and captions[-1] == "ground truth"
    refused = gia("eval", "--data", tree, "--isp", "libraw", "--report", tmp_path / "p.tif")
    assert refused.exit_code == 2 and "ends in .html" in refused.output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_reports_what_it_has_and_is_resumed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    page, out = tmp_path / "page.html", tmp_path / "out"
    command = ("eval", "--data", tree, "--isp", "libraw", "--out", out, "--report", page)
    take, taken = Measures.take, 0

    def once(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 2:
            monkeypatch.setattr(interrupts, "_last", int(number))
            raise KeyboardInterrupt
        return take(*arguments)

    monkeypatch.setattr(Measures, "take", once)
    stopped = gia(*command)
    assert stopped.exit_code == 128 + number
    assert "Interrupted after 1 of 2 scores. Run the same command to resume." in stopped.stderr
    assert stopped.stdout.splitlines() == [str(out), str(page)]
    assert "incomplete: interrupted, 1 score so far" in page.read_text("utf-8")
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["complete"] is False and len(report["scores"]) == 1
    assert gia(*command).exit_code == 0
    assert taken == 3  # the first score was not taken again
    assert "incomplete" not in page.read_text("utf-8").partition("</h1>")[2][:2000]
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["complete"] is True and len(report["scores"]) == 2


def test_an_interruption_before_any_score_leaves_no_report(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Measures, "take", stop)
    page, out = tmp_path / "page.html", tmp_path / "out"
    done = gia("eval", "--data", tree, "--isp", "libraw", "--out", out, "--report", page)
    assert done.exit_code == 130 and done.stdout == ""
    assert not page.exists() and not (out / "report.json").exists()


@pytest.mark.slow
def test_an_interruption_behind_the_scores_keeps_them(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gia_cli.evaluation.panel.choose_for_panel", stop)
    page = tmp_path / "page.html"
    command = ("eval", "--data", tree, "--isp", "libraw", "--out", tmp_path / "out")
    done = gia(*command, "--panel", "1", "--report", page)
    assert done.exit_code == 130
    assert "incomplete" in page.read_text("utf-8") and "Every photo (2 rows)" in page.read_text()


@pytest.mark.slow
def test_json_holds_every_score(tree: Path, tmp_path: Path) -> None:
    done = gia("eval", "--data", tree, "--isp", "libraw", "--out", tmp_path, "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["systems"][0]["count"] == 2
    assert len(report["scores"]) == 2
    scores = [score["values"]["psnr"] for score in report["scores"]]
    assert report["systems"][0]["means"]["psnr"]["mean"] == pytest.approx(np.mean(scores))


@pytest.mark.slow
def test_markdown_and_casts(tree: Path, tmp_path: Path) -> None:
    arguments = ("eval", "--data", tree, "--isp", "libraw", "--out", tmp_path)
    done = gia(*arguments, "--markdown", "--casts")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| row | PSNR ↑ |") and lines[0].endswith(
        "| ratio 100 | ratio 250 |"
    )
    assert lines[2].startswith("| LibRaw, amplified |")
    assert "most amplified" in done.stdout
    assert "exposures differ" in done.output
    report = json.loads(gia(*arguments, "--json", "--casts").stdout)
    (casts,) = report["casts"]
    assert [ends["exposure"] for ends in casts["ends"]] == ["least amplified", "most amplified"]
    assert set(casts["ends"][0]["grids"]) == {"2", "4", "8", "16"}
    refused = gia(*arguments, "--markdown", "--json")
    assert refused.exit_code == 2
    assert "--markdown cannot be combined" in refused.output


@pytest.mark.slow
def test_a_failed_pair_leaves_exit_code_3(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    broken = sorted((copy / "Sony" / "short").iterdir())[0]
    broken.write_bytes(b"II*\0" + bytes(9000))
    done = gia("eval", "--data", copy, "--isp", "libraw", "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert broken.name in done.output
    assert "1 of 2 pairs failed" in done.output


@pytest.mark.slow
def test_a_papers_table_is_laid_out_in_its_order(tree: Path, tmp_path: Path) -> None:
    """Rows are matched by how weights were trained; what is missing is named."""
    folder = tmp_path / "weights"
    make_weights(folder, "mine", "gia-net", "l1")
    make_weights(folder, "sid-net", "sid-net", "l1")
    done = gia(
        *("eval", "--data", tree, "--table", "2", "--weights", folder, "--out", tmp_path / "out"),
        *("--device", "cpu"),
    )
    assert done.exit_code == 0, done.output
    assert "SID-dilated: you named no weights for this row" in done.output
    assert "SW-Net: you named no weights" in done.output
    rows = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows[:2]] == ["SID-Net", "GIA-l1"]
    assert any("published, on SID: SW-Net" in row and "28.89" in row for row in rows)


@pytest.mark.slow
def test_weights_of_no_row_are_refused_unless_they_are_named(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    make_weights(folder, "mine", "gia-net", "joint")
    file = folder / "mine.safetensors"
    arguments = ("eval", "--data", tree, "--table", "2", "--out", tmp_path / "out")
    refused = gia(*arguments, "--weights", file)
    assert refused.exit_code == 2
    assert "belongs to no row" in refused.output
    done = gia(*arguments, "--weights", f"GIA-l1={file}", "--device", "cpu")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_rows_are_not_mixed_up(tree: Path, tmp_path: Path) -> None:
    """Two files for one row, another network under a row's name, other crops than the row's."""
    folder = tmp_path / "weights"
    make_weights(folder, "one", "gia-net", "l1")
    make_weights(folder, "two", "gia-net", "l1")
    arguments = ("eval", "--data", tree, "--table", "2", "--out", tmp_path / "out")
    twice = gia(*arguments, "--weights", folder)
    assert twice.exit_code == 2
    assert "both belong to the row 'GIA-l1'" in twice.output
    wrong = gia(*arguments, "--weights", f"SW-Net={folder / 'one.safetensors'}")
    assert wrong.exit_code == 2
    assert "is a gia-net, not the sw-net" in wrong.output
    nameless = gia(*arguments, "--weights", f"Mine={folder / 'one.safetensors'}")
    assert nameless.exit_code == 2
    assert "no row 'Mine'" in nameless.output
    make_weights(folder, "sizes", "gia-net", "l1", sides=(48, 112))
    sizes = gia(*arguments, "--weights", folder / "sizes.safetensors")
    assert sizes.exit_code == 2
    assert "crops of several sizes" in sizes.output
    empty = gia(*arguments, "--weights", tmp_path)
    assert empty.exit_code == 2
    assert "has no manifest.json" in empty.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--isp", "libraw", "--panel", "-3"], 2, "--panel must be 0 or more"),
        (["--isp", "libraw", "--diagnose"], 2, "--diagnose needs --weights"),
        (["--isp", "libraw", "--versus", "nobody"], 2, "no row 'nobody'"),
        (["--out", "x"], 2, "nothing to evaluate"),
        (["--isp", "libraw", "--limit", "0"], 2, "--limit must be positive"),
        (["--isp", "rawtherapee"], 2, "--isp takes libraw, libraw+nlm, libraw+bm3d"),
        (["--isp", "libraw", "--ratio", "auto,"], 0, ""),
        (["--isp", "libraw", "--ratio", "blind"], 2, "--ratio takes known, auto, picture"),
        (["--weights", "nobody"], 41, "no weights 'nobody'"),
        (["--isp", "libraw", "--camera", "fuji"], 70, "no list"),
        (["--isp", "libraw", "--camera", "X-T2"], 70, "no list"),
    ],
)
def test_mistakes_are_reported(
    tree: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    done = gia("eval", "--data", tree, "--out", tmp_path, *arguments)
    assert done.exit_code == code
    assert words in done.output


# ---------------------------------------------------------------- gia bench


def only(monkeypatch: pytest.MonkeyPatch, *ways: How) -> None:
    """Time these ways to run a network; each is a process that has to import torch."""
    monkeypatch.setattr(speed, "SpeedConfig", partial(SpeedConfig, how=ways))


@pytest.mark.slow
def test_bench_prints_table_4() -> None:
    done = gia("bench", "--network", "sid-net", "--network", "gia-net")
    assert done.exit_code == 0, done.output
    for words in ("7,760,268", "1112.9151 B", "1110.60 B", "x1.0677", "x1.0084"):
        assert words in done.output
    published = "SID-Net 7.76 M, 1112.92 B; GIA-Net x1.07 parameters, x1.008 FLOPs"
    assert f"published (Table 4): {published}" in " ".join(done.output.split())


@pytest.mark.slow
def test_bench_counts_everything_by_default() -> None:
    done = gia("bench", "--size", "640x480", "--json")
    assert done.exit_code == 0
    costs = json.loads(done.stdout)["costs"]
    assert {"sid-net", "gia-net", "dncnn", "sgn"} <= {cost["network"] for cost in costs}
    assert costs[0]["size"] == [480, 640]


@pytest.mark.usefixtures("alone")
@pytest.mark.slow
def test_bench_measures_speed_and_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "eager NCHW, whole", "tiled")
    done = gia(
        *("bench", "--network", "gia-net", "--size", "256x192", "--speed", "--rounds", "1"),
        *("--device", "cpu", "--photo", Path(__file__).parents[2] / "samples" / "night.ARW"),
    )
    assert done.exit_code == 0, done.output
    for words in ("eager NCHW, whole", "tiled", "GFLOP/s", "decode", "write"):
        assert words in done.output


@pytest.mark.slow
def test_bench_plots_an_evaluation(tree: Path, tmp_path: Path) -> None:
    gia("eval", "--data", tree, "--weights", DEFAULT, "--out", tmp_path, "--device", "cpu")
    plot = tmp_path / "plot.png"
    done = gia(
        *("bench", "--size", "640x480", "--scores", tmp_path / "report.json", "--plot", plot)
    )
    assert done.exit_code == 0, done.output
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("alone")
@pytest.mark.slow
def test_bench_times_int8_and_says_what_the_photo_was_enhanced_with(
    make_arw: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "OpenVINO, whole")
    save_weights(tmp_path / "own.safetensors", lively(small("gia-net")), camera="ILCE-7SM2")
    done = gia(
        *("bench", "--speed", "--network", "gia-net", "--size", "128x96", "--precision", "int8"),
        *("--rounds", 1, "--photo", make_arw(), "--weights", tmp_path / "own.safetensors"),
    )
    assert done.exit_code == 0, done.output
    assert "cpu, int8 with " in done.stdout
    assert "no int8 weights made from 'own'" in done.output
    assert "timed in fp32" in " ".join(done.output.split())
    assert "one photo (own)" in done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "vgg"], "no network 'vgg'"),
        (["--size", "big"], "--size takes"),
        (["--size", "0x5"], "--size takes"),
        (["--plot", "x.png"], "--plot and --scores belong"),
        (["--photo", "x.ARW"], "--photo needs --speed"),
        (["--speed", "--precision", "int4"], "--precision takes auto"),
        (["--speed", "--rounds", "0"], "--rounds must be positive"),
    ],
)
def test_mistakes_in_bench_are_reported(arguments: list[str], words: str) -> None:
    done = gia("bench", *arguments)
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "x", "--growth", "3"], "exclude each other"),
        (["--workers", "2"], "--workers needs --batch"),
        (["--batch", "x", "--workers", "two"], "--workers takes numbers of workers"),
        (["--training", "x", "--speed"], "exclude each other"),
        (["--growth", "3", "--scores", "x"], "exclude each other"),
        (["--batch", "x", "--plot", "x.png"], "--plot and --scores belong"),
        (["--photo", "x"], "--photo needs --speed"),
        (["--weights", "x"], "--weights needs"),
        (["--max-memory", "3GB"], "--max-memory needs"),
        (["--cache", "x"], "--cache and --recipe need --training"),
        (["--recipe", "gpu"], "--cache and --recipe need --training"),
        (["--growth", "3", "--device", "cuda"], "--growth runs on the CPU"),
        (["--growth", "3", "--precision", "int8"], "name int8 weights"),
        (["--growth", "many"], "--growth takes numbers"),
        (["--growth", "0"], "--growth takes megapixels"),
        (["--training", "nowhere"], "There is no folder nowhere"),
        (["--precision", "fp7"], "--precision takes auto"),
    ],
)
def test_bench_reports_mistakes_before_it_measures(arguments: list[str], words: str) -> None:
    done = gia("bench", *arguments)
    assert done.exit_code == 2
    assert words in done.output


def test_bench_shows_a_batch_and_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[BatchConfig] = []

    def measure(config: BatchConfig, progress: object) -> list[BatchRun]:
        asked.append(config)
        return [BatchRun(2, 12.0, 20.0, 10**9, 10.0, {"network": 5.0})]

    monkeypatch.setattr("gia_cli.benchmark.batch.measure_batch", measure)
    arguments = ("bench", "--batch", tmp_path, "--weights", "own", "--max-memory", "1GB")
    done = gia(*arguments, "--rounds", 1)
    assert done.exit_code == 0, done.output
    assert "x1.200" in done.stdout
    assert "start-up included" in done.output
    options = ("--weights", "own", "--max-memory", "1GB", "--device", "auto", "--precision", "auto")
    assert asked == [BatchConfig(tmp_path, options, 1)]
    assert gia(*arguments, "--workers", "1,2").exit_code == 0
    assert asked[-1].workers == (1, 2)
    report = json.loads(gia(*arguments, "--json").stdout)
    assert report["batch"][0]["network_seconds"] == 10
    assert report["machine"]


@pytest.mark.usefixtures("alone")
@pytest.mark.slow
def test_bench_measures_and_draws_growth(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save_weights(tmp_path / "own.safetensors", lively(small("gia-net")), camera="ILCE-7SM2")
    plot = tmp_path / "plot.png"
    done = gia(
        *("bench", "--growth", "0.1,0.3", "--max-memory", "2GB", "--rounds", 1, "--plot", plot),
        *("--weights", tmp_path / "own.safetensors"),
    )
    assert done.exit_code == 0, done.output
    assert "2 GB" in done.stdout and done.stdout.splitlines()[-1] == str(plot)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_bench_shows_training_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = [TrainingSpeed("numpy", 0, [0.25]), TrainingSpeed("torch", 0, [], "no room")]
    monkeypatch.setattr("gia_cli.benchmark.training.measure_training", lambda *_: speeds)
    done = gia("bench", "--training", tmp_path)
    assert done.exit_code == 3
    assert "0.250 s" in done.stdout and "no room" in done.stdout and "torch" in done.stdout
    assert "1 of 2 measurements failed" in done.output


@pytest.mark.slow
def test_shares_say_how_far_they_are_and_the_last_one_shows_the_table(
    tree: Path, tmp_path: Path
) -> None:
    command = ("eval", "--data", tree, "--isp", "libraw", "--out", tmp_path / "out")
    first = gia(*command, "--shard", "1/2", "--json")
    assert first.exit_code == 0 and json.loads(first.stdout)["missing"] == 1
    assert "shard 1/2: 1 of 2 pairs" in first.stderr
    assert "1 of 2 scores are there" in first.stderr
    again = gia(*command, "--shard", "1/2")
    assert again.exit_code == 0 and again.stdout.split() == [str(tmp_path / "out")]
    last = gia(*command, "--shard", "2/2")
    assert last.exit_code == 0 and "LibRaw, amplified" in last.stdout
    assert last.stdout == gia(*command).stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--shard", "3/2"], 2, "no shard 3 of 2"),
        (["--shard", "x"], 2, "--shard takes I/N"),
        (["--shard", "1/2", "--panel", "1"], 2, "--panel does not work with --shard"),
        (["--shard", "1/2", "--casts"], 2, "--casts does not work with --shard"),
        (["--shard", "1/2", "--report", "p.html"], 2, "--report does not work with --shard"),
        (["--shard", "1/2", "--ray", "local"], 2, "--ray does not work with --shard"),
        (["--workers", "2"], 2, "--workers needs --ray"),
        (["--ray", "head"], 2, "takes local, auto or HOST:PORT"),
        (["--weights", "lite", "--ray", "local", "--device", "cuda:1"], 2, "each worker its card"),
    ],
)
def test_what_makes_no_share_and_no_cluster_is_refused(
    tree: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    out = tmp_path / "out"
    refused = gia("eval", "--data", tree, "--isp", "libraw", "--out", out, *options)
    assert refused.exit_code == code and words in refused.stderr and not out.exists()


@pytest.mark.slow
def test_a_cluster_that_nobody_answers_for_is_one_line_with_a_code(
    tree: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    refused = gia("eval", "--data", tree, "--isp", "libraw", "--out", tmp_path, "--ray", address)
    assert refused.exit_code == 53 and f"Nobody answers at {address}" in refused.stderr


@pytest.mark.parametrize(
    ("options", "device"),
    [
        (["--weights", DEFAULT], "auto"),
        (["--weights", DEFAULT, "--precision", "int8"], "cpu"),
        (["--weights", DEFAULT, "--engine", "openvino"], "cpu"),
        (["--isp", "libraw"], "cpu"),
    ],
)
def test_what_runs_on_cpus_alone_takes_no_gpus_of_a_cluster(
    tree: Path, tmp_path: Path, options: list[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RayOptions] = []

    def note(*_: object, cluster: RayOptions, **more: object) -> None:
        asked.append(cluster)
        raise UsageError("That is enough.")

    monkeypatch.setattr("gia_cli.evaluation.evaluate.evaluate", note)
    gia("eval", "--data", tree, "--out", tmp_path / "out", "--ray", "local", *options)
    assert [each.device for each in asked] == [device]
