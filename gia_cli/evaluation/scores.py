"""The scores of photos, on disk as soon as they are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gia_cli.data.sid import SidPair
from gia_cli.errors import OutputError
from gia_cli.evaluation.config import RatioMode
from gia_cli.evaluation.systems import System, file_stamp
from gia_cli.files import append_line, atomic_file, make_folder, read_plain

SCORES = "scores.jsonl"


@dataclass(frozen=True, slots=True)
class Score:
    """One photo by one system."""

    system: str
    network: str | None
    width: int | None
    key: str
    """What the score depends on; a row of another key is not reused."""
    ratio_mode: RatioMode
    scene: str
    short: str
    """File name of the short exposure."""
    known_ratio: float
    ratio: float
    """The amplification used."""
    seconds: float
    values: dict[str, float | None]
    """By measure; None where it has no value; see `Measures.take`."""
    taken_with: dict[str, str]
    """By measure: `Measures.keys`."""


class ScoreBook:
    """The scores of a folder, on disk as soon as they are known.

    Parameters
    ----------
    folder : Path
    wanted : dict
        `Measures.keys`, which a score must have been taken with to count as done.
    """

    def __init__(self, folder: Path, wanted: dict[str, str]) -> None:
        self._path = folder / SCORES
        self._wanted = wanted
        self._scores: dict[tuple[str, ...], Score] = {}
        for stamp, score in _read_scores(self._path):
            self._scores[_identity(stamp, score)] = score
        # Written whole at once: of a line that a crash cut short nothing is left.
        with atomic_file(self._path) as file:
            for identity, score in self._scores.items():
                file.write(_line(identity[0], score).encode())

    def find(self, system: System, pair: SidPair) -> Score | None:
        """Find the score of a pair; None if it has none, or one that lacks a measure."""
        identity = (_stamp(pair), system.key, system.ratio_mode, pair.short.name)
        score = self._scores.get(identity)
        if score is None or not self._wanted.items() <= score.taken_with.items():
            return None
        # The row's name may have changed, and a measure may not be at hand any more.
        values = {name: score.values[name] for name in self._wanted}
        return replace(score, system=system.name, values=values, taken_with=self._wanted)

    def add(self, score: Score, pair: SidPair) -> None:
        """Remember a score, and write its line."""
        stamp = _stamp(pair)
        self._scores[_identity(stamp, score)] = score
        append_line(self._path, _line(stamp, score))


def _identity(stamp: str, score: Score) -> tuple[str, ...]:
    return stamp, score.key, score.ratio_mode, score.short


def _line(stamp: str, score: Score) -> str:
    return json.dumps({"pair": stamp, **asdict(score)}) + "\n"


def _stamp(pair: SidPair) -> str:
    """Tell a pair from another of the same name: sizes and times of its files."""
    return " ".join(map(file_stamp, (pair.short, pair.long)))


def _read_scores(path: Path) -> Iterator[tuple[str, Score]]:
    """Read what an earlier run wrote; a last line cut short is left out."""
    make_folder(path.parent, "--out")
    try:
        text = read_plain(path).decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Choose another --out."
        ) from error
    for line in text.splitlines():
        try:
            row = json.loads(line)
            yield row.pop("pair"), Score(**row)
        except (ValueError, KeyError, TypeError):
            continue
