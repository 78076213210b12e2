"""Evaluation: what it scores is what users get, and what fails stops nothing else."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import NoWeightsForCfaError, RawError, UsageError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.report import REPORT, TABLE, Failure
from gia_cli.evaluation.scores import SCORES
from gia_cli.evaluation.systems import open_systems
from gia_cli.imaging.color import bt709_from_srgb16
from gia_cli.metrics.fidelity import psnr
from gia_cli.metrics.flatness import NAMES
from gia_cli.raw.reader import render_truth
from tests.networks import DEFAULT

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
