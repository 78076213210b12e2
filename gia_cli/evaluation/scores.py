"""The scores of photos, on disk as soon as they are known.

Each share of an evaluation on many machines has a file of its own, and reads those of the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gia_cli.cluster.shard import Shard
from gia_cli.data.sid import SidPair
from gia_cli.errors import OutputError
from gia_cli.evaluation.config import RatioMode
from gia_cli.evaluation.systems import System, file_stamp
from gia_cli.files import append_line, atomic_file, make_folder, read_plain

SCORES = "scores.jsonl"
_ANY_SCORES = re.compile(r"scores(-\d+-of-\d+)?\.jsonl")


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
    shard : Shard, optional
        The share whose scores are written.
    is_writer : bool
        Whether scores are written at all, by this process and no other.
    """

    def __init__(
        self,
        folder: Path,
        wanted: dict[str, str],
        shard: Shard | None = None,
        *,
        is_writer: bool = True,
    ) -> None:
        make_folder(folder, "--out")
        self._folder = folder
        self._path = folder / _scores_name(shard)
        self._wanted = wanted
        self._scores: dict[tuple[str, ...], Score] = {}
        if is_writer:
            self._read(self._path)
            # Written whole at once: of a line that a crash cut short nothing is left.
            with atomic_file(self._path) as file:
                for identity, score in self._scores.items():
                    file.write(_line(identity[0], score).encode())
        self.look()

    def look(self) -> None:
        """Read what all shares have written by now."""
        for path in sorted(self._folder.iterdir()):
            if _ANY_SCORES.fullmatch(path.name):
                self._read(path)

    def _read(self, path: Path) -> None:
        for stamp, score in _read_scores(path):
            identity = _identity(stamp, score)
            # Of two shares, one may have had fewer measures.
            if identity not in self._scores or self._has_all(score):
                self._scores[identity] = score

    def _has_all(self, score: Score) -> bool:
        return self._wanted.items() <= score.taken_with.items()

    def find(self, system: System, pair: SidPair) -> Score | None:
        """Find the score of a pair; None if it has none, or one that lacks a measure."""
        identity = (_stamp(pair), system.key, system.ratio_mode, pair.short.name)
        score = self._scores.get(identity)
        if score is None or not self._has_all(score):
            return None
        # The row's name may have changed, and a measure may not be at hand any more.
        values = {name: score.values[name] for name in self._wanted}
        return replace(score, system=system.name, values=values, taken_with=self._wanted)

    def add(self, score: Score, pair: SidPair) -> None:
        """Remember a score, and write its line."""
        stamp = _stamp(pair)
        self._scores[_identity(stamp, score)] = score
        append_line(self._path, _line(stamp, score))


def _scores_name(shard: Shard | None) -> str:
    return SCORES if shard is None else f"scores-{shard.number}-of-{shard.count}.jsonl"


def _identity(stamp: str, score: Score) -> tuple[str, ...]:
    return stamp, score.key, score.ratio_mode, score.short


def _line(stamp: str, score: Score) -> str:
    return json.dumps({"pair": stamp, **asdict(score)}) + "\n"


def _stamp(pair: SidPair) -> str:
    """Tell a pair from another of the same name: sizes and times of its files."""
    return " ".join(map(file_stamp, (pair.short, pair.long)))


def _read_scores(path: Path) -> Iterator[tuple[str, Score]]:
    """Read what an earlier run wrote; a last line cut short is left out."""
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
