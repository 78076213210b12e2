"""What several training tests look at runs with."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch

from gia_cli.data.auxiliary import AUXILIARY
from gia_cli.data.batches import Batch
from gia_cli.training import setup
from gia_cli.training.checkpoint import read_checkpoint
from gia_cli.training.clock import Clock
from gia_cli.training.config import TrainConfig
from gia_cli.training.distributed import Ranks
from gia_cli.training.losses import make_loss
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


def job_on(device: torch.device, config: TrainConfig) -> setup.Job:
    """A run that is open on a device, without data."""
    recipe = config.full_recipe()
    state = setup._new_state(config, recipe, device)
    nothing: Any = None
    return setup.Job(
        config=config,
        recipe=recipe,
        device=device,
        ranks=Ranks(),
        autocast=None,
        source=nothing,
        validation={},
        loss=make_loss(recipe.loss, vgg=config.vgg, device=device),
        model=state.trainee,
        state=state,
        clock=Clock(Ranks(), config.steps, config.budget_s, config.checkpoint_every_s),
        shares=None,
        pixels=None,
        workers=0,
        skip_factors=setup._skip_factors(device),
    )


def random_batch(side: int = 32) -> Batch:
    """Two crops of a photo, on the CPU."""
    planes, target = torch.rand(2, 4, side, side), torch.rand(2, 3, 2 * side, 2 * side)
    return Batch(planes, target, torch.rand(2, AUXILIARY), [])
