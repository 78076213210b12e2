"""How SID, the See-in-the-Dark data set, names its folders, files and lists.

A tree holds ``Sony_train_list.txt`` and the like, and the files that they name, such as
``Sony/short/00001_00_0.1s.ARW``: the scene, the number in its burst, the exposure time.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from gia_cli.cameras import CameraFamily, CameraName

TruthName = Literal["long", "photograph"]
Split = Literal["train", "val", "test"]
#: Which pairs count: without the misaligned scenes, the first shot of each burst, or both.
Protocol = Literal["all", "clean", "00", "clean-00"]

#: What the name of a single simulated long exposure ends in, beside its short one's.
LONG_SUFFIX = "_long"
#: SID's folder for each camera.
FAMILIES: dict[CameraName, str] = {"ILCE-7SM2": "Sony", "X-T2": "Fuji"}
#: First digit of SID's scene numbers.
SPLIT_DIGITS: dict[Split, int] = {"train": 0, "test": 1, "val": 2}
#: SID amplifies no further, however short the exposure.
HIGHEST_RATIO = 300.0
#: Sony test scenes whose long exposure does not lie on the short ones (README of SID, August 2018).
MISALIGNED = frozenset({"10034", "10045", "10172"})

MOST_SCENES = 9999  # SID's names have four more digits

# "./Sony/short/00001_00_0.04s.ARW"
EXPOSURE_FILE = re.compile(
    r"(?:\./)?(?P<path>(?P<family>Sony|Fuji)/(?P<length>short|long)/"
    r"(?P<scene>\d+)_(?P<burst>\d+)_(?P<seconds>\d+(?:\.\d+)?)s\.\w+)"
)

_SPLITS: dict[str, Split] = {str(digit): split for split, digit in SPLIT_DIGITS.items()}


def family_name(camera: CameraFamily) -> str:
    """Name a camera as SID's lists and folders do."""
    return camera.capitalize()


def list_path(tree: Path, family: str, split: Split) -> Path:
    """Where the list of a camera's exposures lies in a tree: ``Sony_train_list.txt``."""
    return tree / f"{family}_{split}_list.txt"


def plan_path(tree: Path, family: str) -> Path:
    """Where the plan of a camera's simulated exposures lies in a tree: ``Sony_simulation.json``.

    Parameters
    ----------
    tree : Path
    family : "Sony" or "Fuji"
        The camera's name in SID: a tree may hold scenes of both.
    """
    return tree / f"{family}_simulation.json"


def split_of(scene: str) -> Split:
    """Find the list that a scene is on, by the first digit of its number."""
    return _SPLITS[scene[0]]


def time_name(seconds: float) -> str:
    """Write an exposure time as SID's names do: 10s, 0.1s, 0.04s, 0.033s."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
