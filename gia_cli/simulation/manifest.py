"""The plan of a simulated tree: which picture became which scene, and how.

Scenes have numbers, not the names of their pictures. Without a plan, one more picture in the folder
would shift the numbers of the others, and a second run that keeps existing files would pair one
photo's short exposure with another's long one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gia_cli.errors import DataError
from gia_cli.files import atomic_file, is_folder, open_plain, read_plain

_FORMAT = 1
_SCENE = re.compile(r"[0-2][0-9]{4}")
_BROKEN_HINT = (
    "Restore the file, choose another --out, or make the tree again with --on-exists overwrite."
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as the plan knows it."""

    path: str
    """Where it lay, relative to the tree."""
    digest: str | None
    """Of its bytes; None where they could not be read."""
    scene: str = ""
    """SID's five digits; the first stands for the list."""


@dataclass(frozen=True, slots=True)
class TreePlan:
    """How a tree was made. A picture's place on the plan decides what is random of its scene."""

    options: dict[str, Any] = field(default_factory=dict)
    """What the exposures depend on, by the command's option, without its dashes."""
    pictures: tuple[Picture, ...] = ()

    def places(self, found: Sequence[Picture]) -> list[int | None]:
        """Find pictures on the plan: as they were, else by their content, else by their path.

        Returns
        -------
        list of int or None
            A place on the plan for each picture, of another content if only the path is the same;
            None for those that it does not know. No two have the same place.
        """
        places: list[int | None] = [None] * len(found)
        left = list(range(len(self.pictures)))
        for facts in (_path_and_digest, _digest, _path):
            open_places: dict[Any, list[int]] = {}
            for place in left:
                open_places.setdefault(facts(self.pictures[place]), []).append(place)
            for index, picture in enumerate(found):
                wanted = facts(picture)
                if places[index] is None and wanted is not None and open_places.get(wanted):
                    places[index] = open_places[wanted].pop(0)
            taken = set(places)
            left = [place for place in left if place not in taken]
        return places


def _path_and_digest(picture: Picture) -> tuple[str, str | None]:
    return picture.path, picture.digest


def _digest(picture: Picture) -> str | None:
    return picture.digest


def _path(picture: Picture) -> str:
    return picture.path


def path_from(tree: Path, photo: Path) -> str:
    """Name a picture as the tree's plan does: by its path from there."""
    try:
        return Path(os.path.relpath(photo, tree)).as_posix()
    except ValueError:  # another drive, on Windows
        return photo.absolute().as_posix()


def fingerprint(photo: Path, tree: Path) -> Picture:
    """Note a picture's path from the tree and its digest; it has no scene yet."""
    path = path_from(tree, photo)
    try:
        with open_plain(photo) as (file, _):
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:  # whoever reads the picture has words for it
        return Picture(path, None)
    return Picture(path, digest)


def read_plan(path: Path) -> TreePlan | None:
    """Read a tree's plan; None if there is none.

    Raises
    ------
    DataError
        It cannot be read, or is none.
    """
    try:
        text = read_plain(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) or not is_folder(path.parent):
            return None
        raise DataError(f"{path} cannot be read.", hint=_BROKEN_HINT) from error
    try:
        record = json.loads(text)
        if record["format"] != _FORMAT:
            raise ValueError
        pictures = tuple(
            Picture(str(item["path"]), item["digest"], _scene(item["scene"]))
            for item in record["pictures"]
        )
        return TreePlan(dict(record["options"]), pictures)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a plan of gia simulate.", hint=_BROKEN_HINT) from error


def _scene(text: str) -> str:
    """Refuse what is no scene number: files are named, and removed, by it."""
    if not _SCENE.fullmatch(text):
        raise ValueError
    return text


def write_plan(path: Path, plan: TreePlan) -> None:
    """Write a tree's plan, one line for each picture.

    Raises
    ------
    OutputError
    """
    lines = [
        json.dumps({"scene": picture.scene, "path": picture.path, "digest": picture.digest})
        for picture in plan.pictures
    ]
    text = (
        f'{{"format": {_FORMAT},\n "made_by": "gia simulate --sid",\n '
        f'"options": {json.dumps(plan.options)},\n "pictures": [\n  '
        + ",\n  ".join(lines)
        + "\n]}\n"
    )
    with atomic_file(path) as file:
        file.write(text.encode("ascii"))
