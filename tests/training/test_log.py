"""The log survives interruptions, and its pictures can be opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gia_cli.data.augment import Pair
from gia_cli.training import log as trainlog
from gia_cli.training.log import CURVES, LOG, TrainLog, draw_curves, preview, read_log, write_panel


def test_a_resumed_log_drops_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 0)
    for step in (50, 100, 150):
        log.add(step, loss=1 / step, lr=1e-4)
    log.close()
    resumed = TrainLog(tmp_path, 100)
    resumed.add(150, loss=0.5)
    resumed.close()
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == [50, 100, 150]
    assert rows[-1]["loss"] == 0.5
    assert rows == resumed.rows


def test_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(json.dumps({"step": 50, "loss": 1.0}) + '\n{"step": 100, "lo')
    assert read_log(tmp_path) == [{"step": 50, "loss": 1.0}]
    assert read_log(tmp_path / "nowhere") == []


@pytest.mark.usefixtures("plots")
def test_tensorboard_gets_every_value(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 0)
    log.add(50, loss=0.25)
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
    assert log.missing is None


def test_without_the_extra_the_log_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainlog, "_tensorboard", lambda *_: None)
    monkeypatch.setattr(trainlog, "_has_matplotlib", lambda: False)
    log = TrainLog(tmp_path, 0)
    log.add(50, loss=0.25)
    log.draw()
    log.close()
    assert log.missing is not None
    assert "tensorboardX" in log.missing
    assert "matplotlib" in log.missing
    assert not (tmp_path / CURVES).exists()
    assert len(read_log(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("with_scores", [False, True])
def test_curves_are_a_picture(tmp_path: Path, with_scores: bool) -> None:
    rows = [{"step": step, "loss": 1 / step} for step in range(50, 3000, 50)]
    rows += [{"step": 1000, "validation_psnr": 22.5}] if with_scores else []
    draw_curves(rows, tmp_path / CURVES)
    with Image.open(tmp_path / CURVES) as picture:
        assert picture.size[0] > 500
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_the_preview_shows_colours_where_they_are() -> None:
    planes = np.zeros((4, 2, 2), np.float32)
    planes[0, 0, 1] = 1  # red, top right
    planes[[1, 3], 1, 0] = 1  # both greens, bottom left
    shown = preview(planes, "bayer")
    assert shown.shape == (3, 4, 4)
    assert np.allclose(shown[0, :2, 2:], 1)
    assert np.allclose(shown[1, 2:, :2], 1)
    assert np.allclose(shown.sum(), 8)


def test_a_panel_has_a_row_for_each_crop(tmp_path: Path) -> None:
    pair = Pair(np.full((9, 4, 4), 0.2, np.float32), np.full((3, 12, 12), 0.5, np.float32))
    write_panel(tmp_path / "p.png", [pair, pair], [pair.target, pair.target * 0], "xtrans")
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (2 * 16, 3 * 16, 3)
    assert pixels[2, 18, 0] == pixels[2, 34, 0] > 0  # first row: picture equals target
    assert pixels[18, 18, 0] == 0  # second row: the network made black
