"""Evaluation: what it scores is what users get, it resumes, and its averages are right."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from gia_cli.enhance.enhancer import Enhanced, Enhancer
from gia_cli.errors import DataError, NoWeightsForCfaError, RawError, UsageError
from gia_cli.evaluation import evaluate as evaluation
from gia_cli.evaluation.evaluate import (
    REPORT,
    SCORES,
    TABLE,
    EvalConfig,
    Failure,
    Score,
    choose_for_panel,
    evaluate,
    open_systems,
    panel_rows,
    split_label,
    summarise,
)
from gia_cli.imaging.color import bt709_from_srgb16
from gia_cli.metrics.fidelity import psnr
from gia_cli.metrics.flatness import NAMES
from gia_cli.metrics.suite import Measures
from gia_cli.raw.reader import RawFrame, read_raw, render_truth
from tests.networks import DEFAULT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tree(make_tree: Callable[..., Path]) -> Path:
    """Two pictures, two ratios: four pairs on the test list."""
    return make_tree(pictures=2, size=(128, 96), ratios=(100.0, 250.0))


@pytest.fixture
def config(tree: Path, tmp_path: Path) -> EvalConfig:
    return EvalConfig(
        data=tree,
        camera="sony",
        out=tmp_path / "out",
        weights=(DEFAULT,),
        isp=("libraw",),
        device="cpu",
    )


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


def own_pictures(config: EvalConfig, folder: Path, border: int = 0) -> None:
    """What the enhancer makes, as another program might leave it."""
    enhancer = Enhancer.from_weights(device="cpu", precision="fp32")
    folder.mkdir(exist_ok=True)
    for pair in evaluation.open_pairs(config):
        image = enhancer.enhance(pair.short, ratio=pair.ratio).image
        height, width = image.shape[:2]
        cut = image[border : height - border, border : width - border]
        tifffile.imwrite(folder / f"{pair.short.stem}.tif", cut, photometric="rgb")


@pytest.mark.slow
def test_another_programs_pictures_are_scored_alike(config: EvalConfig, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    own_pictures(config, folder)
    config = replace(config, isp=(), pictures=(f"theirs={folder}",))
    theirs, own = evaluate(config).summaries
    assert (theirs.system, theirs.network, theirs.count) == ("theirs", None, 4)
    assert theirs.means["psnr"].mean == pytest.approx(own.means["psnr"].mean, abs=1e-9)
    # A border that demosaicing leaves out is left out of the truth, too.
    own_pictures(config, folder, border=4)
    narrower, own = evaluate(config).summaries
    assert narrower.count == 4
    assert narrower.means["psnr"].mean != own.means["psnr"].mean
    assert narrower.means["psnr"].mean == pytest.approx(own.means["psnr"].mean, abs=1)


@pytest.mark.slow
def test_pictures_that_do_not_fit_fail_alone(config: EvalConfig, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    own_pictures(config, folder)
    first, second, third, _ = sorted(folder.glob("*.tif"))
    first.unlink()
    tifffile.imwrite(second, np.zeros((96, 100, 3), np.uint16), photometric="rgb")
    third.write_bytes(b"junk")
    told: list[Failure] = []
    config = replace(config, weights=(), isp=(), pictures=(f"theirs={folder}",))
    report = evaluate(config, on_failure=told.append)
    assert [summary.count for summary in report.summaries] == [1]
    words = " ".join(str(failure.error) for failure in told)
    assert len(told) == 3
    for phrase in ("has no picture of", "The picture is 100x96, the ground truth", "no TIFF"):
        assert phrase in words


def test_a_folder_of_pictures_needs_a_label_and_pictures(
    config: EvalConfig, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="LABEL=FOLDER"):
        evaluate(replace(config, pictures=(str(tmp_path),)))
    with pytest.raises(DataError, match="no TIFF"):
        evaluate(replace(config, pictures=(f"theirs={tmp_path}",)))


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(config: EvalConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(config)
    lines = (config.out / SCORES).read_text().splitlines()
    assert len(lines) == 8
    # As after a crash: the last lines are lost, one is cut short.
    (config.out / SCORES).write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])
    rendered: list[str] = []
    plain = evaluation.NetworkSystem.render

    def counted(self: evaluation.NetworkSystem, *arguments: Any) -> object:
        rendered.append(self.name)
        return plain(self, *arguments)

    monkeypatch.setattr(evaluation.NetworkSystem, "render", counted)
    second = evaluate(config)
    assert 0 < len(rendered) < 4
    timeless = [
        [replace(score, seconds=0.0) for score in report.scores] for report in (first, second)
    ]
    assert timeless[0] == timeless[1]
    rendered.clear()
    evaluate(config)
    assert rendered == []


@pytest.mark.slow
def test_a_measure_of_other_weights_is_taken_anew(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is not at hand any more is not shown."""
    isp = replace(config, weights=())
    plain = Measures.load

    def with_lpips(digest: str, value: float) -> None:
        def load(*paths: object) -> Measures:
            measures = plain()
            available = {**measures.available, "lpips_alex": lambda a, b: value}
            return replace(
                measures, available=available, keys={**measures.keys, "lpips_alex": digest}
            )

        monkeypatch.setattr(Measures, "load", load)

    for digest, value in (("first", 0.25), ("second", 0.5)):
        with_lpips(digest, value)
        assert evaluate(isp).summaries[0].means["lpips_alex"].mean == value
    monkeypatch.setattr(Measures, "load", lambda *paths: plain())
    assert "lpips_alex" not in evaluate(isp).summaries[0].means


@pytest.mark.slow
def test_scores_from_before_a_measure_was_added_are_taken_anew(config: EvalConfig) -> None:
    isp = replace(config, weights=())
    first = evaluate(isp)
    path = config.out / SCORES
    old = [json.loads(line) for line in path.read_text().splitlines()]
    for row in old:
        for part in ("values", "taken_with"):
            row[part] = {n: x for n, x in row[part].items() if not n.startswith("flat_")}
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    second = evaluate(isp)
    assert [score.values for score in second.scores] == [score.values for score in first.scores]
    assert len(path.read_text().splitlines()) == 2 * len(old)  # the old ones, and these


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
    monkeypatch.setattr(evaluation, "render_isp", lambda *_: black)
    report = evaluate(replace(config, weights=()))
    assert report.summaries[0].count == 4
    assert all(score.values["exposure_stops"] is None for score in report.scores)
    assert "exposure_stops" not in report.summaries[0].means
    json.loads((config.out / REPORT).read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_other_weights_under_the_same_name_are_scored_anew(config: EvalConfig) -> None:
    evaluate(replace(config, weights=()))
    report = evaluate(replace(config, isp=(), weights=(f"LibRaw, amplified={DEFAULT}",)))
    assert all(score.network == "gia-net" for score in report.scores)


@pytest.mark.slow
def test_the_results_are_written(config: EvalConfig) -> None:
    report = evaluate(config)
    with (config.out / TABLE).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["system"] for row in rows} == {"LibRaw, amplified", DEFAULT}
    assert float(rows[0]["psnr"]) == report.scores[0].values["psnr"]
    written = json.loads((config.out / REPORT).read_text())
    assert written["systems"][1]["means"]["psnr"]["mean"] == report.summaries[1].means["psnr"].mean
    assert written["systems"][1]["network"] == "gia-net"
    assert written["protocol"] == "all"
    assert set(written["unavailable"]) == {"lpips_alex", "lpips_vgg", "pieapp"}


@pytest.mark.slow
def test_a_wrong_white_balance_is_a_row_of_its_own(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The enhancer sees the wrong one, and the right one's scores stay."""
    evaluate(replace(config, isp=()))
    seen: list[RawFrame] = []
    enhance = Enhancer.enhance

    def listen(self: Enhancer, source: RawFrame, **options: Any) -> Enhanced:
        seen.append(source)
        return enhance(self, source, **options)

    monkeypatch.setattr(Enhancer, "enhance", listen)
    wrong = replace(config, isp=(), balance_errors=(0.0, 20.0), versus=DEFAULT)
    plain, off = evaluate(wrong).summaries
    assert off.system == f"{plain.system}, balance off by +20 %"
    assert "psnr" in off.differences
    assert len(seen) == 4  # the rows that are there already do not count as these
    for frame in seen:
        quotient = frame.as_shot_wb / read_raw(frame.path).as_shot_wb
        assert quotient == pytest.approx([1.2, 1, 1 / 1.2])
    for impossible in ((-100.0,), ()):
        with pytest.raises(UsageError, match="--balance-error takes numbers"):
            replace(config, balance_errors=impossible)
    with pytest.raises(UsageError, match="--balance-error needs --weights"):
        replace(config, weights=(), balance_errors=(20.0,))


@pytest.mark.slow
def test_both_qualities_are_rows_of_their_own(config: EvalConfig) -> None:
    report = evaluate(replace(config, isp=(), qualities=("normal", "best"), limit=1))
    names = [summary.system for summary in report.summaries]
    assert names == [DEFAULT, f"{DEFAULT}, quality best"]
    first, second = (summary.means["psnr"].mean for summary in report.summaries)
    assert first != second


def test_a_wrong_white_balance_does_not_change_how_bright(config: EvalConfig) -> None:
    errors = replace(config, isp=(), ratios=("picture",), balance_errors=(0.0, 50.0))
    plain, off = open_systems(errors)
    frame = read_raw(next((config.data / "Sony" / "short").iterdir()))
    assert plain.render(frame, 100.0)[1] == off.render(frame, 100.0)[1]


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
    told: list[Failure] = []
    report = evaluate(replace(config, data=copy, weights=()), on_failure=told.append)
    assert [failure.path for failure in told] == [broken] == [f.path for f in report.failures]
    assert report.summaries[0].count == 3


@pytest.mark.slow
def test_a_system_that_fails_stops_no_other(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RawError("LibRaw opens this photo but cannot render it.")

    monkeypatch.setattr(evaluation, "render_isp", fail)
    report = evaluate(config)
    assert [summary.system for summary in report.summaries] == [DEFAULT]
    assert report.summaries[0].count == 4
    assert len(report.failures) == 4


def test_a_denoiser_that_is_not_installed_is_told_first(
    config: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gia_cli.evaluation.classical.find_spec", lambda package: None)
    with pytest.raises(UsageError, match="needs skimage"):
        evaluate(replace(config, isp=("libraw+nlm",)))
    assert not (config.out / SCORES).exists()


def test_missing_files_are_all_named_first(config: EvalConfig, tree: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "tree"
    shutil.copytree(tree, copy)
    gone = sorted((copy / "Sony" / "short").iterdir())[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(DataError) as caught:
        evaluate(replace(config, data=copy))
    assert all(path.name in str(caught.value) for path in gone)
    assert not (config.out / SCORES).exists()


@pytest.mark.slow
def test_a_subset_is_spread_over_the_list(config: EvalConfig) -> None:
    report = evaluate(replace(config, weights=(), limit=2))
    assert report.pairs == 2
    assert len({score.scene for score in report.scores}) == 2


def test_what_cannot_be_evaluated_is_refused(config: EvalConfig) -> None:
    with pytest.raises(UsageError, match="nothing to evaluate"):
        replace(config, weights=(), isp=())
    with pytest.raises(UsageError, match="--limit"):
        replace(config, limit=0)
    with pytest.raises(UsageError, match="Two rows"):
        evaluate(replace(config, weights=(DEFAULT, DEFAULT)))
    with pytest.raises(UsageError, match="no row 'nobody'"):
        evaluate(replace(config, versus="nobody"))
    with pytest.raises(NoWeightsForCfaError):
        evaluation.open_systems(replace(config, camera="fuji"))


def test_labels_are_told_from_paths(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.safetensors"
    odd.write_bytes(b"")
    assert split_label("SID-Net=x.safetensors") == ("SID-Net", "x.safetensors")
    assert split_label("gia-sony-v0") == (None, "gia-sony-v0")
    assert split_label(str(odd)) == (None, str(odd))


# ---------------------------------------------------------------- averages


def score(system: str, scene: str, short: str, value: float, ratio: float = 100) -> Score:
    values: dict[str, float | None] = {"psnr": value}
    return Score(system, None, None, "k", "known", scene, short, 100, ratio, 1.0, values, {})


def test_means_differences_and_intervals() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(25, 3, 40)
    first = [score("a", str(i // 2), str(i), x) for i, x in enumerate(base)]
    second = [score("b", str(i // 2), str(i), x + 1) for i, x in enumerate(base)]
    a, b = summarise([*first, *second])
    assert a.means["psnr"].mean == pytest.approx(base.mean())
    assert a.means["psnr"].low < base.mean() < a.means["psnr"].high
    # Always one better: the difference is certain, however much the photos scatter.
    difference = b.differences["psnr"]
    assert (difference.mean, difference.low, difference.high) == pytest.approx((1, 1, 1))
    assert a.differences == {}
    c, d = summarise([*first, *second], "b")
    assert d.differences == {}
    assert c.differences["psnr"].mean == pytest.approx(-1)


def test_photos_of_one_scene_do_not_count_as_many() -> None:
    """Ten copies of each scene make the interval no narrower."""
    values = np.random.default_rng(1).normal(25, 3, 12)
    few = summarise([score("a", str(i), str(i), x) for i, x in enumerate(values)])
    many = summarise(
        [score("a", str(i), f"{i}-{k}", x) for i, x in enumerate(values) for k in range(10)]
    )
    widths = [s[0].means["psnr"].high - s[0].means["psnr"].low for s in (few, many)]
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def test_ratio_errors_count_in_stops() -> None:
    (summary,) = summarise([score("a", "1", "1", 20, 200), score("a", "2", "2", 20, 100)])
    assert summary.means["ratio_error_stops"].mean == pytest.approx(0.5)
    assert summary.within_half_a_stop == 0.5


# ---------------------------------------------------------------- panels


@pytest.mark.slow
def test_the_panel_shows_input_systems_and_truth(config: EvalConfig) -> None:
    report = evaluate(config)
    worst = choose_for_panel(report, 2, "worst")
    scores = (s for s in report.scores if s.system == DEFAULT)
    values = {s.short: s.values["psnr"] or 0.0 for s in scores}
    assert all(values.values())
    assert [values[name] for name in worst] == sorted(values.values())[:2]
    assert len(set(choose_for_panel(report, 9, "spread"))) == 4
    (row,) = panel_rows(config, worst[:1])
    captions = [caption for caption, _ in row.pictures]
    assert captions[0].startswith("LibRaw, amplified: ")
    assert f"{values[worst[0]]:.2f} dB" in captions[1]
    assert captions[-1] == "ground truth"
    assert {picture.shape for _, picture in row.pictures} == {(96, 128, 3)}
