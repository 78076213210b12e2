"""How much memory the control groups of this process leave it: containers, SLURM, systemd.

A group's limit holds for all groups below it, so the process may take what the strictest of its own
group and of that one's ancestors leaves. Linux only; elsewhere there is nothing to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Version 1 says "no limit" with nearly 2**63.
_NO_LIMIT = 2**60
# Where they are, if the list of mounts does not say: version 2, 1, and both side by side.
_USUAL = (("", "sys/fs/cgroup"), ("memory", "sys/fs/cgroup/memory"), ("", "sys/fs/cgroup/unified"))
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class _Mount:
    """Where a hierarchy of groups can be seen."""

    controller: str
    """ "memory" in version 1, "" in version 2."""
    top: PurePosixPath
    """The group that is seen there."""
    folder: Path


def memory_left(root: Path = Path("/")) -> int | None:
    """Say how many bytes the process's groups still allow it.

    Parameters
    ----------
    root : Path
        Folder that ``proc`` and ``sys`` are in.

    Returns
    -------
    int or None
        The least that the limit of the process's group, or of one above it, leaves beside what that
        group uses; page cache that the kernel gives back when asked for is not used. None: no
        limit.

    References
    ----------
    cgroups(7); the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    paths = _paths(root)
    left = [
        free
        for mount in _mounts(root)
        if mount.controller in paths
        for folder in _folders(mount, paths[mount.controller])
        if (free := _left_by(folder)) is not None
    ]
    return min(left, default=None)


def _paths(root: Path) -> dict[str, PurePosixPath]:
    """Name the process's group in the hierarchies that may limit memory, by controller."""
    paths: dict[str, PurePosixPath] = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            paths["memory"] = PurePosixPath(path)
        elif number == "0" and not controllers:
            paths[""] = PurePosixPath(path)
    # Without that file, or with half of it, the group is the one whose files can be seen.
    return {"memory": PurePosixPath("/"), "": PurePosixPath("/")} | paths


def _mounts(root: Path) -> Iterator[_Mount]:
    """List where groups can be seen (proc(5): mountinfo), and then where they usually are."""
    for line in _lines(root / "proc/self/mountinfo"):
        place, _, kind = line.partition(" - ")
        places, kinds = place.split(), kind.split()
        if len(places) < 5 or len(kinds) < 3:
            continue
        top, folder = (_OCTAL.sub(lambda code: chr(int(code[1], 8)), part) for part in places[3:5])
        if kinds[0] == "cgroup2":
            yield _Mount("", PurePosixPath(top), root / folder.lstrip("/"))
        elif kinds[0] == "cgroup" and "memory" in kinds[2].split(","):
            yield _Mount("memory", PurePosixPath(top), root / folder.lstrip("/"))
    for controller, folder in _USUAL:
        yield _Mount(controller, PurePosixPath("/"), root / folder)


def _folders(mount: _Mount, path: PurePosixPath) -> Iterator[Path]:
    """Name the folders of a group and of all above it, as far as they can be seen."""
    below = path.relative_to(mount.top).parts if path.is_relative_to(mount.top) else ()
    if ".." in below:  # a group beside the one that this process's namespace begins at
        below = ()
    for depth in range(len(below), -1, -1):
        yield mount.folder.joinpath(*below[:depth])


def _left_by(folder: Path) -> int | None:
    """Say what one group's limit leaves; None if it has none."""
    stat = _statistics(folder)
    limits = [
        limit
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
        if (limit := _number(folder / name)) is not None
    ]
    # Of the groups above, some of which a container does not see.
    limits += [stat[name] for name in ("hierarchical_memory_limit",) if name in stat]
    limit = min(limits, default=_NO_LIMIT)
    if limit >= _NO_LIMIT:
        return None
    used = _number(folder / "memory.current")
    if used is None:
        used = _number(folder / "memory.usage_in_bytes") or 0
    # Version 1 counts the groups below only in the total; version 2 has no other number.
    cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
    return max(limit - max(used - cache, 0), 0)


def _statistics(folder: Path) -> dict[str, int]:
    rows = (line.split() for line in _lines(folder / "memory.stat"))
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def _number(path: Path) -> int | None:
    """Read a file of one number; None for "max", for -1, and where there is none."""
    text = " ".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
