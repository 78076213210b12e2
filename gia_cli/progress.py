"""How work below the console reports: a protocol, and an implementation that says nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a long piece of work reports to its caller; every method must return at once."""

    def photo(self, name: str, number: int, total: int) -> None:
        """Begin the photo `name`, the `number`-th (from 1) of `total`."""

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` equal steps, such as "network" with one step a tile."""

    def advance(self, steps: int = 1) -> None:
        """Report that `steps` more steps of the current stage are done."""

    def status(self, message: str) -> None:
        """Show the state of the current stage, in a few words that replace the last ones."""

    def note(self, message: str) -> None:
        """Show the user one line that matters: a fallback, a substitution."""

    def detail(self, message: str) -> None:
        """Show one line of detail, for users who asked for it."""


class Silent:
    """The `Progress` that says nothing."""

    def photo(self, name: str, number: int, total: int) -> None:
        """Ignore."""

    def stage(self, name: str, total: int) -> None:
        """Ignore."""

    def advance(self, steps: int = 1) -> None:
        """Ignore."""

    def status(self, message: str) -> None:
        """Ignore."""

    def note(self, message: str) -> None:
        """Ignore."""

    def detail(self, message: str) -> None:
        """Ignore."""


SILENT = Silent()


class Kept(Silent):
    """Keeps notes until it is known whether they are wanted."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def note(self, message: str) -> None:
        """Keep."""
        self._notes.append(message)

    def pass_on(self, progress: Progress) -> None:
        """Tell them all."""
        for message in self._notes:
            progress.note(message)


class NotesOnly(Silent):
    """Passes on the notes of work that is no stage of its own.

    Parameters
    ----------
    progress : Progress
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def note(self, message: str) -> None:
        """Pass on."""
        self._progress.note(message)
