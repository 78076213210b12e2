"""A batch is timed as users run it, and what it wrote is removed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gia_cli.benchmark.batch import BatchConfig, BatchRun, _busy, _written, measure_batch
from gia_cli.errors import DataError, UsageError
from gia_cli.runtime import CONFIG_VARIABLE
from tests.progress_spy import ProgressSpy


@pytest.mark.usefixtures("alone")
@pytest.mark.slow
def test_every_photo_is_enhanced_in_every_round(
    make_arw: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gia.toml").write_text('[enhance]\nformat = "png"\nstrength = "much"\n')
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "gia.toml"))  # no say in what is timed
    photo = make_arw()
    options = ("--device", "cpu", "--precision", "fp32", "--ratio", "100")
    runs = measure_batch(BatchConfig(photo, options, rounds=2))
    assert [run.photos for run in runs] == [1, 1]
    for run in runs:
        assert {"decode", "network", "write"} <= set(run.stages)
        assert run.network_seconds == run.stages["network"]  # of the one photo
        assert 0 < run.network_seconds < run.seconds
        assert run.cpu_seconds > 0
        assert run.busy["network"] * run.seconds >= run.network_seconds
        assert all(0 < share < 1 for share in run.busy.values())  # of the one photo
        assert run.peak_bytes > 50e6
    assert not list(photo.parent.glob("*.tif"))


@pytest.mark.slow
def test_what_enhance_refuses_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wrote no picture: .*nothing"):
        measure_batch(BatchConfig(tmp_path / "nothing", rounds=1))
    with pytest.raises(UsageError, match="--rounds"):
        BatchConfig(tmp_path, rounds=0)
    with pytest.raises(UsageError, match="--workers"):
        BatchConfig(tmp_path, workers=(2, 0))


def test_clusters_take_turns_with_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: BatchConfig, workers: int | None, folder: Path) -> BatchRun:
        assert folder.is_dir()
        return BatchRun(1, 1.0, 1.0, 1, 1.0, {}, workers)

    monkeypatch.setattr("gia_cli.benchmark.batch._run", run)
    spy = ProgressSpy()
    runs = measure_batch(BatchConfig(tmp_path, rounds=2, workers=(1, 2)), spy)
    assert [run.workers for run in runs] == [None, 1, 2, None, 1, 2]
    assert spy.announced == sum(spy.done) == 6


def test_every_stage_of_a_photo_keeps_one_part_busy() -> None:
    """Of the names that a photo's stages have; what two photos take at once counts twice."""
    computing = ("load", "black_level", "network", "fusion")
    stages = ("decode", "exposure", "pack", *computing, "colour", "write")
    sums = {stage: 2.0 for stage in (*stages, "highlights")}
    busy = _busy(sums, 3.0)
    assert list(busy) == ["reading", "network", "finishing", "writing"]
    assert sum(busy.values()) == pytest.approx(sum(sums.values()) / 3)
    assert busy["reading"] == pytest.approx(2)
    assert _busy({}, 1.0) == dict.fromkeys(busy, 0)


def test_photos_that_failed_do_not_count() -> None:
    report = b'{"files": [{"status": "failed"}, {"status": "written", "stages": {}}]}'
    assert _written(report) == [{"status": "written", "stages": {}}]
    assert _written(b"") == []
