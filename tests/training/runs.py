"""What several training tests look at runs with."""

from __future__ import annotations

import signal
from pathlib import Path

import torch

from gia_cli.progress import Silent
from gia_cli.training.run_folder import read_checkpoint


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    saved = read_checkpoint(run)
    return {**saved["trainee"], **{f"ema.{name}": x for name, x in saved["ema"].items()}}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


class StopAt(Silent):
    """Asks the run to stop, as a terminal or a scheduler does, once it has come to a step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM) -> None:
        self.step = step
        self.number = number
        self.at = 0
        self.is_training = False
        self.notes: list[str] = []

    def stage(self, name: str, steps: int) -> None:
        self.is_training = name == "training"

    def advance(self, steps: int = 1) -> None:
        self.at += steps if self.is_training else 0
        if self.is_training and self.at == self.step:
            signal.raise_signal(self.number)

    def note(self, message: str) -> None:
        self.notes.append(message)
