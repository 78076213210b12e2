"""One machine's share of the work, where many are given the same command.

Which share a photo belongs to follows from its path below the folder that was given, and from
nothing else: not from the other photos, nor from where a machine has mounted the folder. So the
machines need not speak with each other. Where they have a list in common, that of a data set or its
plan, the share follows from the place on it, and all are equal.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gia_cli.errors import UsageError

_SLURM = "SLURM_ARRAY_TASK_ID"
_KUBERNETES = "JOB_COMPLETION_INDEX"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Shard:
    """A share of photos, or of what else there is to do.

    Raises
    ------
    UsageError
        There is no such share.

    Examples
    --------
    >>> str(Shard(3, 64))
    '3/64'
    """

    number: int
    """From 1 to `count`."""
    count: int
    """Of all shares."""
    source: str = "--shard"
    """What said so: the option, or the variable of a scheduler."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(
                f"There is no shard {self.number} of {self.count}.",
                hint="Shards are numbered from 1: --shard 1/64 to --shard 64/64.",
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, key: str) -> bool:
        """Tell whether what bears a name is of this share: about one in `count` is.

        Parameters
        ----------
        key : str
            The same on all machines, such as a path below a folder, with slashes.
        """
        # One name however it is composed: macOS and Linux list one folder differently.
        name = unicodedata.normalize("NFC", key).encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(name, digest_size=8).digest()
        return self.has_place(int.from_bytes(digest))

    def has_place(self, place: int) -> bool:
        """Tell whether a place on a list, from 0, is of this share: one in `count` is.

        A list that grows at its end changes nothing of what is on it.
        """
        return place % self.count == self.number - 1

    def block(self, items: Sequence[Item]) -> Sequence[Item]:
        """Cut this share out of a list, in one piece: neighbours have work in common.

        Examples
        --------
        >>> [Shard(number, 3).block("abcdefgh") for number in (1, 2, 3)]
        ['ab', 'cde', 'fgh']
        """
        start, end = (len(items) * end // self.count for end in (self.number - 1, self.number))
        return items[start:end]


def of_shard(items: Sequence[Item], shard: Shard | None, key: Callable[[Item], str]) -> list[Item]:
    """Keep the items whose keys are of a share, in their order; all of them without one."""
    return [item for item in items if shard is None or shard.has(key(item))]


def parse_shard(text: str | None, environment: Mapping[str, str]) -> Shard | None:
    """Find out which share is meant.

    Parameters
    ----------
    text : str, optional
        "3/64"; "auto/64" takes the number from SLURM or Kubernetes; "auto" and None take both from
        SLURM.
    environment : mapping
        The variables of the process.

    Returns
    -------
    Shard or None
        None without an option and outside a SLURM array: all photos.

    Raises
    ------
    UsageError

    Examples
    --------
    >>> parse_shard("auto/64", {"JOB_COMPLETION_INDEX": "0"})
    Shard(number=1, count=64, source='JOB_COMPLETION_INDEX')
    """
    if text is None:
        return _from_slurm(environment)
    match = re.fullmatch(r"(\d{1,9}|auto)(?:/(\d{1,9}))?", text.strip())
    if match is None or (match[1] != "auto" and match[2] is None):
        raise UsageError(
            f"--shard takes I/N, auto/N or auto, not '{text}'.",
            hint="--shard 3/64 is the third of 64 shares.",
        )
    if match[1] != "auto":
        return Shard(int(match[1]), int(match[2]))
    if match[2] is None:
        if (shard := _from_slurm(environment)) is None:
            raise UsageError(
                f"--shard auto needs {_SLURM}, which is not set.",
                hint="Kubernetes does not say how many there are: --shard auto/64.",
            )
        return shard
    return _numbered(environment, int(match[2]))


def unnumbered(environment: Mapping[str, str]) -> str:
    """Say, where it is so, that there seem to be shares whose number nobody has told."""
    if environment.get(_KUBERNETES) is None:
        return ""
    return (
        f"{_KUBERNETES} is set, but not how many there are: this one does all photos. "
        "--shard auto/N gives each its share."
    )


def _from_slurm(environment: Mapping[str, str]) -> Shard | None:
    """Read the share that a SLURM array's task stands for."""
    if environment.get(_SLURM) is None:
        return None
    count = _whole(environment, "SLURM_ARRAY_TASK_COUNT")
    low, high = (_whole(environment, f"SLURM_ARRAY_TASK_{end}") for end in ("MIN", "MAX"))
    step = (high - low) // (count - 1) if count > 1 else 1
    # The array 1,3,9 has no regular step: which place a task has in it, it is not told.
    if step < 1 or high != low + step * (count - 1):
        raise UsageError(
            f"This SLURM array has {count} tasks from {low} to {high}, with gaps.",
            hint="Say which share it is: --shard I/N.",
        )
    return Shard((_whole(environment, _SLURM) - low) // step + 1, count, _SLURM)


def _numbered(environment: Mapping[str, str], count: int) -> Shard:
    """Read which of a known number of shares this is."""
    if environment.get(_KUBERNETES) is not None:
        return Shard(_whole(environment, _KUBERNETES) + 1, count, _KUBERNETES)
    if (shard := _from_slurm(environment)) is not None:
        # Tasks 7 and 12, done again, are an array of two: not shares 1 and 2.
        if shard.count != count:
            raise UsageError(
                f"This SLURM array has {shard.count} tasks, not the {count} of auto/{count}.",
                hint=f'Say which share it is, as --shard "${_SLURM}/{count}" for tasks from 1.',
            )
        return shard
    raise UsageError(
        f"--shard auto/{count} needs {_SLURM} or {_KUBERNETES}, and neither is set.",
        hint=f"Say which share it is: --shard 1/{count}.",
    )


def _whole(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None or not re.fullmatch(r"\d{1,9}", text):
        fault = "not set" if text is None else f"'{text}', which is no whole number"
        raise UsageError(
            f"{name} is {fault}.",
            hint="Say which share it is: --shard I/N.",
        )
    return int(text)
