"""Evaluation: what it scores is what users get, and what fails stops nothing else."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gia_cli.cluster.driver import only_driver_of
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import (
    ClusterError,
    Interrupted,
    NoWeightsForCfaError,
    RawError,
    UsageError,
    WorkerError,
)
from gia_cli.evaluation import evaluate as module
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.report import REPORT, TABLE, Failure, Report
from gia_cli.evaluation.scores import SCORES
from gia_cli.evaluation.systems import open_systems
from gia_cli.imaging.color import bt709_from_srgb16
from gia_cli.metrics.fidelity import psnr
from gia_cli.metrics.flatness import NAMES
from gia_cli.raw.reader import render_truth
from tests.local_cluster import TWO, in_process
from tests.networks import DEFAULT
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_it_scores_what_users_get(config: EvalConfig) -> None:
    """PSNR of the enhancer's own 16-bit picture against LibRaw's rendering of the long exposure."""
    report = evaluate(config)
    assert [summary.system for summary in report.summaries] == ["LibRaw, amplified", DEFAULT]
    assert [summary.count for summary in report.summaries] == [4, 4]
    score = next(score for score in report.scores if score.system == DEFAULT)
    short = config.data / "Sony" / "short" / score.short
    (long,) = (config.data / "Sony" / "long").glob(f"{score.scene}_*")
    levels = (
        Enhancer.from_weights(device="cpu", precision="fp32")
        .enhance(short, ratio=score.known_ratio)
        .image
    )
    assert score.known_ratio in (100, 250)
    expected = psnr(bt709_from_srgb16(levels), render_truth(long) / np.float32(65535))
    assert score.values["psnr"] == pytest.approx(expected, abs=1e-4)
    assert report.summaries[1].means["psnr"].mean > report.summaries[0].means["psnr"].mean + 1


@pytest.mark.slow
def test_noise_in_flat_places_is_in_every_result(config: EvalConfig) -> None:
    report = evaluate(config)
    assert set(NAMES) <= set(report.scores[0].values)
    other, own = report.summaries
    # These small scenes have no flat place at the coarser scales.
    assert {"flat_luma_2_8", "flat_chroma_2_8", "flat_share_8_32"} <= own.means.keys()
    assert other.differences["flat_luma_2_8"].mean > 0
    with (config.out / TABLE).open(encoding="utf-8") as file:
        assert set(NAMES) <= set(next(csv.reader(file)))
    written = json.loads((config.out / REPORT).read_text())
    assert "flat_luma_2_8" in written["systems"][1]["means"]


@pytest.mark.slow
def test_a_black_picture_ends_nothing(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    black = np.zeros((96, 128, 3), np.float32)
    monkeypatch.setattr("gia_cli.evaluation.systems.render_isp", lambda *_: black)
    report = evaluate(replace(config, weights=()))
    assert report.summaries[0].count == 4
    assert all(score.values["exposure_stops"] is None for score in report.scores)
    assert "exposure_stops" not in report.summaries[0].means
    json.loads((config.out / REPORT).read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_automatic_ratios_are_rows_of_their_own(config: EvalConfig) -> None:
    report = evaluate(replace(config, isp=(), ratios=("known", "auto", "picture")))
    known, auto, picture = report.summaries
    assert [s.ratio_mode for s in report.summaries] == ["known", "auto", "picture"]
    assert known.means["ratio_error_stops"].mean == 0
    assert known.within_half_a_stop == 1
    # "auto" reads the exposure time and knows SID's long exposures; by the picture alone it errs.
    assert auto.means["ratio_error_stops"].mean < picture.means["ratio_error_stops"].mean
    assert auto.differences.keys() == known.means.keys()


@pytest.mark.slow
def test_a_broken_file_is_named_and_stops_nothing(
    config: EvalConfig, tree: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    broken = sorted((copy / "Sony" / "short").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:5000])
    failures: list[Failure] = []
    report = evaluate(replace(config, data=copy, weights=()), on_failure=failures.append)
    assert [failure.path for failure in failures] == [broken] == [f.path for f in report.failures]
    assert report.summaries[0].count == 3


@pytest.mark.slow
def test_a_system_that_fails_stops_no_other(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RawError("LibRaw opens this photo but cannot render it.")

    monkeypatch.setattr("gia_cli.evaluation.systems.render_isp", fail)
    report = evaluate(config)
    assert [summary.system for summary in report.summaries] == [DEFAULT]
    assert report.summaries[0].count == 4
    assert len(report.failures) == 4


def test_a_denoiser_that_is_not_installed_is_reported_first(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gia_cli.evaluation.classical.find_spec", lambda package: None)
    with pytest.raises(UsageError, match="needs skimage"):
        evaluate(replace(config, isp=("libraw+nlm",)))
    assert not (config.out / SCORES).exists()


def test_what_cannot_be_evaluated_is_refused(config: EvalConfig) -> None:
    with pytest.raises(UsageError, match="Two rows"):
        evaluate(replace(config, weights=(DEFAULT, DEFAULT)))
    with pytest.raises(UsageError, match="no row 'nobody'"):
        evaluate(replace(config, versus="nobody"))
    with pytest.raises(NoWeightsForCfaError):
        open_systems(replace(config, camera="fuji"))


# ---------------------------------------------------------------- many machines

FIRST, SECOND = Shard(1, 2), Shard(2, 2)


def written(folder: Path) -> Any:
    """Everything in the results but the times that scoring took."""
    report = json.loads((folder / "report.json").read_text())
    for part in (*report["systems"], *report["scores"]):
        assert part.pop("seconds") >= 0
    with (folder / "scores.csv").open(newline="") as file:
        table = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    return report, table


@pytest.fixture
def quick(config: EvalConfig) -> EvalConfig:
    """Without a network, and two pairs of the four."""
    return replace(config, weights=(), limit=2)


def elsewhere(config: EvalConfig) -> EvalConfig:
    """The same in a folder of its own."""
    return replace(config, out=config.out.with_name("alone"))


@pytest.mark.slow
@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)])
def test_shares_give_the_results_of_one_machine(
    quick: EvalConfig, order: tuple[Shard, Shard]
) -> None:
    one = evaluate(elsewhere(quick))
    halves = [evaluate(quick, shard=order[0])]
    assert halves[0].missing == len(halves[0].scores) == 1
    assert not (quick.out / "report.json").exists()
    halves.append(evaluate(quick, shard=order[1]))
    assert halves[1].missing == one.missing == 0
    assert written(quick.out) == written(one.config.out)
    after = (quick.out / "report.json").read_bytes()
    evaluate(quick)  # finds all scores there
    assert (quick.out / "report.json").read_bytes() == after
    names = {path.name for path in quick.out.iterdir() if path.suffix != ".lock"}
    shares = {"scores-1-of-2.jsonl", "scores-2-of-2.jsonl"}
    assert names == {"scores.csv", "scores.jsonl", "report.json", *shares}
    assert not (quick.out / "scores.jsonl").read_bytes()  # nothing was scored twice


@pytest.mark.slow
def test_a_pair_that_fails_in_a_share_is_in_the_results_of_the_last_run(
    quick: EvalConfig, tree: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    broken = sorted(copy.glob("Sony/short/*"))[0]
    broken.write_bytes(broken.read_bytes()[:5000])
    quick = replace(quick, data=copy)
    failures: list[Failure] = []
    one = evaluate(elsewhere(quick))
    for shard in (FIRST, SECOND):
        report = evaluate(quick, on_failure=failures.append, shard=shard)
    assert [failure.path for failure in failures] == [broken] and report.missing == 1
    assert evaluate(quick).missing == 0
    assert written(quick.out) == written(one.config.out)


def test_a_second_machine_at_one_share_is_refused(quick: EvalConfig) -> None:
    quick.out.mkdir()
    with (
        only_driver_of([quick.out], "gia eval", FIRST, option="--out"),
        pytest.raises(UsageError, match=r"Another gia eval is writing into .* shard 1/2"),
    ):
        evaluate(quick, shard=FIRST)


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [0, 1])
def test_workers_give_the_results_of_one_machine_also_when_they_die(
    quick: EvalConfig, deaths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = evaluate(elsewhere(quick))
    monkeypatch.setattr(module, "run_on_cluster", in_process(deaths))
    evaluate(quick, cluster=RayOptions("local"))
    assert written(quick.out) == written(one.config.out)
    lines = (quick.out / "scores.jsonl").read_text()
    assert len(lines.splitlines()) == 2
    again = evaluate(quick, cluster=RayOptions("local"))
    assert (quick.out / "scores.jsonl").read_text() == lines and len(again.scores) == 2


@pytest.mark.slow
def test_a_pair_that_kills_its_worker_is_a_failure_and_costs_no_other(
    quick: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_on_cluster", in_process(deaths=3))
    failures: list[Failure] = []
    report = evaluate(
        replace(quick, limit=1), on_failure=failures.append, cluster=RayOptions("local")
    )
    assert failures == report.failures and not report.scores
    assert isinstance(failures[0].error, WorkerError)
    assert "its worker died of it 3 times" in str(failures[0].error)


@pytest.mark.slow
def test_an_interrupted_cluster_leaves_what_is_scored_marked_as_incomplete(
    quick: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_all = in_process()

    def interrupted(task: Any, pairs: Any, *more: Any, **options: Any) -> None:
        on_all(task, pairs[1:], *more, **options)
        raise Interrupted("Interrupted after 1 of 2 pairs.")

    monkeypatch.setattr(module, "run_on_cluster", interrupted)
    seen: list[Report] = []
    with pytest.raises(Interrupted, match="after 1 of 2 pairs"):
        evaluate(quick, on_interrupt=seen.append, cluster=RayOptions("local"))
    assert [len(report.scores) for report in seen] == [1] and not seen[0].is_complete
    assert json.loads((quick.out / REPORT).read_text())["complete"] is False
    monkeypatch.setattr(module, "run_on_cluster", on_all)
    assert len(evaluate(quick, cluster=RayOptions("local")).scores) == 2
    assert json.loads((quick.out / REPORT).read_text())["complete"] is True


def test_a_worker_that_measures_otherwise_is_refused(
    quick: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = module._measures(quick).keys
    with pytest.raises(ClusterError, match="does not measure as the others do: lpips_alex"):
        module._make_work(quick, {**wanted, "lpips_alex": "other weights"}, None)
    with pytest.raises(UsageError, match="no row 'nobody'"):
        module._make_work(replace(quick, versus="nobody"), wanted, None)


@pytest.mark.slow
def test_a_share_with_fewer_measures_does_not_hide_what_another_has_taken(
    quick: EvalConfig,
) -> None:
    """As long as its own scores are not those that count."""
    evaluate(quick, shard=FIRST)
    path = quick.out / "scores-1-of-2.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["taken_with"].pop("psnr")
    path.with_name("scores-2-of-2.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert len(evaluate(quick, shard=FIRST).scores) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers", "alone")
def test_a_cluster_gives_the_results_of_one_machine_though_a_worker_is_killed(
    config: EvalConfig,
) -> None:
    killed: list[int] = []

    class Killing(ProgressSpy):
        def photo(self, name: str, number: int, total: int) -> None:
            process = re.search(r"process (\d+)", next(d for d in self.details if "worker" in d))
            if not killed and process is not None:
                killed.append(int(process[1]))
                os.kill(killed[0], signal.SIGKILL)

    spy = Killing()
    one = evaluate(elsewhere(config))
    evaluate(config, spy, cluster=TWO)
    assert killed and written(config.out) == written(one.config.out)
