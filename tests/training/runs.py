"""What several training tests look at runs with."""

from __future__ import annotations

import signal
from pathlib import Path

import torch

from gia_cli.training.checkpoint import read_checkpoint
from tests.progress_spy import ProgressSpy


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    saved = read_checkpoint(run)
    return {**saved["trainee"], **{f"ema.{name}": x for name, x in saved["ema"].items()}}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


class StopAt(ProgressSpy):
    """Asks the run to stop, as a terminal or a scheduler does, once it has come to a step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM) -> None:
        super().__init__()
        self.step = step
        self.number = number
        self.at = 0

    def advance(self, steps: int = 1) -> None:
        super().advance(steps)
        is_training = self.stage_names[-1] == "training"
        self.at += steps if is_training else 0
        if is_training and self.at == self.step:
            signal.raise_signal(self.number)
