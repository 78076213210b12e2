"""The one `Progress` of the tests: it remembers all that it is told."""

from __future__ import annotations


class ProgressSpy:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.photos: list[tuple[str, int, int]] = []
        #: Name and announced steps of each stage.
        self.stages: list[tuple[str, int]] = []
        #: Steps of every report, and their sum in each stage.
        self.advances: list[int] = []
        self.done: list[int] = []
        self.statuses: list[str] = []
        self.notes: list[str] = []
        self.details: list[str] = []
        #: Notes and details in their order.
        self.said: list[str] = []

    @property
    def stage_names(self) -> list[str]:
        return [name for name, _ in self.stages]

    @property
    def announced(self) -> int:
        return sum(total for _, total in self.stages)

    def photo(self, name: str, number: int, total: int) -> None:
        self.photos.append((name, number, total))

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total))
        self.done.append(0)

    def advance(self, steps: int = 1) -> None:
        self.advances.append(steps)
        self.done[-1] += steps  # there is no step before the first stage

    def status(self, message: str) -> None:
        self.statuses.append(message)

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.said.append(message)

    def detail(self, message: str) -> None:
        self.details.append(message)
        self.said.append(message)
