"""The checkpoint on the disk: damage is found, the one before is kept, older ones are read."""

from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gia_cli.errors import OutputError, RunError
from gia_cli.training import checkpoint
from gia_cli.training.checkpoint import CHECKPOINT, PREVIOUS, read_checkpoint, write_checkpoint
from gia_cli.training.config import TrainConfig
from gia_cli.training.loop import train
from gia_cli.training.run_folder import export_run
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")


def state(step: int) -> dict[str, Any]:
    weights = {"weight": torch.full((30, 30), float(step))}
    return {
        "step": step,
        "elapsed_s": 1.5,
        "trainee": weights,
        "ema": weights,
        "optimizer": {"state": {0: {"exp_avg": torch.arange(900.0)}}},
        "scaler": {},
    }


def write_older(run: Path, step: int) -> None:
    """As gia wrote it before there was a checksum."""
    torch.save(state(step), run / CHECKPOINT)


def flips(data: bytes, count: int) -> Iterator[bytes]:
    """Yield copies with one flipped bit each, anywhere."""
    rng = np.random.default_rng(35)
    for place in rng.choice(8 * len(data), count, replace=False):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << (place % 8)
        yield bytes(flipped)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, state(3))
    spy = ProgressSpy()
    saved = read_checkpoint(tmp_path, spy)
    assert (saved["step"], saved["elapsed_s"], spy.notes) == (3, 1.5, [])
    assert torch.equal(saved["ema"]["weight"], torch.full((30, 30), 3.0))


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, state(3))
    path = tmp_path / CHECKPOINT
    for flipped in flips(path.read_bytes(), 200):
        path.write_bytes(flipped)
        with pytest.raises(RunError, match="damaged"):
            read_checkpoint(tmp_path)


def test_a_flipped_bit_in_the_checksum_itself_is_found(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, state(3))
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    for place in range(-checkpoint._TRAILER_BYTES, 0):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(RunError, match="damaged"):
            read_checkpoint(tmp_path)


def test_an_older_one_is_read_with_a_note(tmp_path: Path) -> None:
    write_older(tmp_path, 7)
    spy = ProgressSpy()
    assert read_checkpoint(tmp_path, spy)["step"] == 7
    assert len(spy.notes) == 1
    assert "without a checksum" in spy.notes[0]


def test_a_flipped_bit_of_an_older_one_changes_no_number(tmp_path: Path) -> None:
    """It has CRCs of its contents; between them there is filling, which may be anything."""
    write_older(tmp_path, 7)
    path = tmp_path / CHECKPOINT
    refused = 0
    for flipped in flips(path.read_bytes(), 200):
        path.write_bytes(flipped)
        try:
            saved = read_checkpoint(tmp_path)
        except RunError:
            refused += 1
            continue
        assert saved["step"] == 7
        assert torch.equal(saved["ema"]["weight"], torch.full((30, 30), 7.0))
        assert torch.equal(saved["optimizer"]["state"][0]["exp_avg"], torch.arange(900.0))
    assert refused > 100


def test_the_one_before_is_kept_and_taken_if_the_last_one_is_damaged(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, state(3))
    assert not (tmp_path / PREVIOUS).exists()
    write_checkpoint(tmp_path, state(4))
    path = tmp_path / CHECKPOINT
    path.write_bytes(next(flips(path.read_bytes(), 1)))
    spy = ProgressSpy()
    assert read_checkpoint(tmp_path, spy, fall_back=True)["step"] == 3
    (note,) = spy.notes
    assert "checkpoint.pt is damaged; the checkpoint before it is taken, of step 3" in note
    with pytest.raises(RunError, match=PREVIOUS) as caught:
        read_checkpoint(tmp_path)
    assert caught.value.exit_code == 71


def test_a_damaged_one_does_not_replace_the_one_before(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, state(3))
    write_checkpoint(tmp_path, state(4))
    (tmp_path / CHECKPOINT).write_bytes(b"junk")
    write_checkpoint(tmp_path, state(5))
    assert read_checkpoint(tmp_path)["step"] == 5
    (tmp_path / CHECKPOINT).unlink()
    assert read_checkpoint(tmp_path)["step"] == 3


@pytest.mark.parametrize("has_links", [True, False])
def test_a_kill_between_the_two_names_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """Where a file can have two names for a moment, the last checkpoint is never missing."""

    def no_links(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    write_checkpoint(tmp_path, state(3))
    kept = checkpoint._keep

    def fail_after_keeping(run: Path) -> None:
        kept(run)
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "_keep", fail_after_keeping)
    with pytest.raises(OutputError):
        write_checkpoint(tmp_path, state(4))
    spy = ProgressSpy()
    assert read_checkpoint(tmp_path, spy)["step"] == 3
    if has_links:
        assert spy.notes == []
    else:
        assert "is missing; the checkpoint before it is taken" in spy.notes[0]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for content in ({"step": 3}, [1, 2]):
        data = io.BytesIO()
        torch.save(content, data)
        (tmp_path / CHECKPOINT).write_bytes(data.getvalue())
        with pytest.raises(RunError, match="is not a checkpoint of gia"):
            read_checkpoint(tmp_path)


@pytest.mark.usefixtures("trained")
def test_a_damaged_checkpoint_is_not_exported(config: TrainConfig, tmp_path: Path) -> None:
    path = config.run / CHECKPOINT
    for number, flipped in enumerate(flips(path.read_bytes(), 20)):
        path.write_bytes(flipped)
        with pytest.raises(RunError, match="damaged") as caught:
            export_run(config.run, f"flipped-{number}", tmp_path / "weights")
        assert caught.value.exit_code == 71
    assert not (tmp_path / "weights").exists()


@pytest.mark.usefixtures("trained")
def test_a_run_goes_on_from_the_one_before(config: TrainConfig) -> None:
    path = config.run / CHECKPOINT
    shutil.copyfile(path, config.run / PREVIOUS)
    path.write_bytes(path.read_bytes()[:-1000])
    spy = ProgressSpy()
    train(config, spy)
    assert sum("the checkpoint before it is taken, of step 4" in note for note in spy.notes) == 1
