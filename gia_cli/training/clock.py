"""How much of a run is behind and what is due: agreed on by all processes, in one small message."""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import dataclass

from gia_cli.training.distributed import Ranks

_MEET_EVERY_S = 2.0  # torchrun gives a process half a minute to stop
_MOST_STEPS = 1000  # between two meetings


@dataclass(frozen=True, slots=True)
class Agreed:
    """What happens after a step, in every process."""

    stops: bool
    """Whether some process was asked to end the run."""
    saves: bool
    """Whether a checkpoint is due."""


class Clock:
    """Counts a run by steps or by seconds.

    Parameters
    ----------
    ranks : Ranks
    steps : int or None
        Length of the run.
    budget_s : float or None
        Its length in seconds, where it has none in steps.
    save_every_s : float
        How often a checkpoint is due.
    worker_start : str, optional
        How processes are started that read how far a run by the clock has come; see `load`.
    """

    def __init__(
        self,
        ranks: Ranks,
        steps: int | None,
        budget_s: float | None,
        save_every_s: float,
        worker_start: str | None = None,
    ) -> None:
        self.ranks = ranks
        self.steps = steps
        self.budget_s = budget_s
        # Workers, which run ahead, read here how far a run by the clock has come.
        shared = multiprocessing.get_context(worker_start)
        self.shared_done = None if steps is not None else shared.Value("d", 0.0)
        self._save_every_s = save_every_s
        self._earlier_s = 0.0
        self._start = time.monotonic()
        self._last_due: dict[str, float] = {}
        self._step_seconds: tuple[int, float] | None = None
        self._interval, self._until_meeting = 1, 1  # steps
        self._last_meeting = self._start

    def resume(self, elapsed_s: float) -> None:
        """Count on from the seconds that a checkpoint tells."""
        self._earlier_s = elapsed_s
        self._share_elapsed(elapsed_s)

    @property
    def total(self) -> int:
        """Length of the bar: steps or seconds."""
        return self.steps if self.steps is not None else int(self.budget_s or 0)

    def elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return self._earlier_s + time.monotonic() - self._start

    def position(self, step: int) -> int:
        """Place on the bar."""
        return step if self.steps is not None else min(int(self.elapsed()), self.total)

    def done(self, step: int) -> float:
        """Share of the run that is behind, 0...1 and beyond; the same for all processes.

        Of several, a run by the clock goes by what they agreed on last.
        """
        if self.steps is not None:
            return step / self.steps
        assert self.shared_done is not None
        if self.ranks.world == 1:
            self._share_elapsed(self.elapsed())
        return float(self.shared_done.value)

    def steps_from(self, step: int) -> range:
        """List the steps that may be left."""
        return range(step, sys.maxsize if self.steps is None else self.steps)

    def seconds_left(self, step: int) -> str:
        """Say how long it will take, by the speed since the start or resume."""
        if self._step_seconds is None:
            self._step_seconds = (step, self.elapsed())
            return ""
        if self.steps is None:
            left = max((self.budget_s or 0) - self.elapsed(), 0)
        else:
            first, then = self._step_seconds
            left = (self.elapsed() - then) / (step - first) * (self.steps - step)
        minutes = int(left // 60)
        return f"{minutes // 60} h {minutes % 60:02d} min left"

    def is_due(self, what: str, every_s: float) -> bool:
        """Tell whether `every_s` seconds have passed since this was last true (or the start).

        By this process's own time: the others may find otherwise.
        """
        now = time.monotonic() - self._start
        if now - self._last_due.get(what, 0.0) < every_s:
            return False
        self._last_due[what] = now
        return True

    def agree(self, *, asked: bool) -> Agreed:
        """Agree after a step on what is next; every process calls it after every step.

        A message waits for the slowest process, so there is one in about two seconds: the first
        process says for how many steps there is none.

        Parameters
        ----------
        asked : bool
            Whether this process was asked to end the run.
        """
        if self.ranks.world == 1:
            return Agreed(asked, self.is_due("checkpoint", self._save_every_s))
        self._until_meeting -= 1
        if self._until_meeting:
            return Agreed(stops=False, saves=False)
        said = [0.0, 0.0, 0.0]
        if self.ranks.is_first:
            saves = self.is_due("checkpoint", self._save_every_s)
            said = [self.elapsed(), float(saves), float(self._next_interval())]
        elapsed, saves_sum, interval, stops = self.ranks.total([*said, float(asked)])
        self._until_meeting = int(interval)
        self._share_elapsed(elapsed)
        return Agreed(stops > 0, saves_sum > 0)

    def _next_interval(self) -> int:
        """Choose how many steps take as long as there should be between two meetings."""
        now = time.monotonic()
        steps = self._interval * _MEET_EVERY_S / max(now - self._last_meeting, 1e-6)
        self._last_meeting = now
        # By and by: the first steps are slow, and one that was fast may have been lucky.
        self._interval = max(1, min(int(steps), 2 * self._interval, _MOST_STEPS))
        return self._interval

    def _share_elapsed(self, elapsed_s: float) -> None:
        if self.shared_done is not None and self.budget_s:
            self.shared_done.value = elapsed_s / self.budget_s
