"""Each row of the table makes the picture that its name promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.stages import Enhanced
from gia_cli.errors import DataError, UsageError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.evaluate import evaluate
from gia_cli.evaluation.pairs import open_pairs
from gia_cli.evaluation.report import Failure
from gia_cli.evaluation.systems import NetworkSystem, open_systems, split_label
from gia_cli.inference import select
from gia_cli.raw.reader import RawFrame, read_raw
from gia_cli.runtime import Runtime
from gia_cli.weights.manifest import find_weights
from tests.networks import DEFAULT

pytestmark = pytest.mark.usefixtures("one_thread")


def own_pictures(config: EvalConfig, folder: Path, border: int = 0) -> None:
    """What the enhancer makes, as another program might leave it."""
    enhancer = Enhancer.from_weights(device="cpu", precision="fp32")
    folder.mkdir(exist_ok=True)
    for pair in open_pairs(config):
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


def test_a_score_is_kept_by_what_made_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    info = find_weights(DEFAULT)

    def key(runtime: Runtime, *, has_left: bool = False) -> str:
        enhancer: Any = SimpleNamespace(quality="normal", engine="auto", runtime=runtime)
        enhancer.has_left_device = has_left
        return NetworkSystem("own", info, "known", enhancer).key

    assert key(Runtime("cpu", "float32")).endswith(" cpu, float32")
    assert key(Runtime("cuda", "float16", 1)) == key(Runtime("cuda", "float16"))
    assert key(Runtime("cuda", "float16"), has_left=True) != key(Runtime("cuda", "float16"))
    keys = set[str]()
    for has_bf16 in (False, True):
        monkeypatch.setattr(select, "_multiplies_in_bf16", lambda has=has_bf16: has)
        keys.add(key(Runtime("cpu", "int8")))
    assert len(keys) == 2  # the layers that are not int8 are others
    assert any(each.endswith(" cpu, int8") for each in keys)


@pytest.mark.slow
def test_pictures_that_do_not_fit_fail_alone(config: EvalConfig, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    own_pictures(config, folder)
    first, second, third, _ = sorted(folder.glob("*.tif"))
    first.unlink()
    tifffile.imwrite(second, np.zeros((96, 100, 3), np.uint16), photometric="rgb")
    third.write_bytes(b"junk")
    failures: list[Failure] = []
    config = replace(config, weights=(), isp=(), pictures=(f"theirs={folder}",))
    report = evaluate(config, on_failure=failures.append)
    assert [summary.count for summary in report.summaries] == [1]
    words = " ".join(str(failure.error) for failure in failures)
    assert len(failures) == 3
    for phrase in (
        "has no picture of",
        "The picture is 100x96, the ground truth",
        "not a TIFF file",
    ):
        assert phrase in words


def test_a_folder_of_pictures_needs_a_label_and_pictures(
    config: EvalConfig, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="LABEL=FOLDER"):
        evaluate(replace(config, pictures=(str(tmp_path),)))
    with pytest.raises(DataError, match="no TIFF"):
        evaluate(replace(config, pictures=(f"theirs={tmp_path}",)))


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


def test_labels_are_split_from_paths(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.safetensors"
    odd.write_bytes(b"")
    assert split_label("SID-Net=x.safetensors") == ("SID-Net", "x.safetensors")
    assert split_label("gia-sony-v0") == (None, "gia-sony-v0")
    assert split_label(str(odd)) == (None, str(odd))
