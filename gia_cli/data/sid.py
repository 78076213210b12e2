"""SID, the See-in-the-Dark data set (Chen et al. 2018): from its lists to mapped pairs.

Each list names short exposures, each with the long one of the same scene. What a network should
make of a short exposure is LibRaw's rendering of the long one. Both are decoded once (`cache`):
2 bytes a photosite for a mosaic, 6 for a rendering.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import KINDS, CameraFamily
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.data.cache import ArrayCache, Check, Decoded, Decoding, Stock, unusable
from gia_cli.errors import DataError, FileMissingError, GiaError, UnreadableFileError
from gia_cli.files import read_plain
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.cfa import CfaKind
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.extent import looks_cut_short
from gia_cli.raw.libraw import refuse_hopeless
from gia_cli.raw.reader import RawFrame, read_exposure, read_raw, render_truth
from gia_cli.runtime import in_threads
from gia_cli.sid_layout import (
    EXPOSURE_FILE,
    HIGHEST_RATIO,
    MISALIGNED,
    Protocol,
    Split,
    family_name,
    list_path,
    plan_path,
)

_CACHE_NAME = ".gia-cache"
_RECIPE = "SID, LibRaw's BT.709 rendering unrotated, 1"
# Names have the dial's times in milliseconds; EXIF may have the true ones, 32 s where the dial says
# 30. What is mixed up differs by more: 0.04 s from 0.033 s by a fifth.
_NAME_ROUNDING_S = 0.0005
_NAME_TOLERANCE = 0.08
_HINT = (
    "Get SID from github.com/cchen156/Learning-to-See-in-the-Dark, or make a tree like it from "
    "pictures with 'gia simulate --sid'."
)
_MISSING_HINT = "Get the missing files, or remove their lines from the list."
_BROKEN_HINT = "Copy these files again, or remove their lines from the list."


@dataclass(frozen=True, slots=True)
class SidPair:
    """A line of a list: a short exposure, and the long one of the same scene."""

    camera: CameraFamily
    scene: str
    """Five digits; the first stands for the list: 0 training, 1 test, 2 validation."""
    burst: str
    """Two digits: the short exposure's number among those of one time."""
    short: Path
    long: Path
    short_s: float
    """Exposure time in seconds."""
    long_s: float
    iso: int | None
    """As the list has it; None where it does not say."""

    @property
    def ratio(self) -> float:
        """How much to amplify the short exposure: the quotient of the times, at most 300."""
        return min(self.long_s / self.short_s, HIGHEST_RATIO)


def read_list(tree: Path, camera: CameraFamily, split: Split) -> list[SidPair]:
    """Read one of SID's lists; the files that it names are not looked at.

    Parameters
    ----------
    tree : Path
        Folder with the lists and, in folders of their own, the cameras' files.
    camera : "sony" or "fuji"
    split : "train", "val" or "test"

    Returns
    -------
    list of SidPair
        In the list's order; exposure times as the names of the files have them.

    Raises
    ------
    DataError
        No such list, an empty one, or a line that is not understood.
    """
    path = list_path(tree, family_name(camera), split)
    try:
        text = read_plain(path).decode("utf-8", "replace")
    except FileNotFoundError:
        raise DataError(f"There is no list {path}.", hint=_list_hint(tree, camera, split)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        pair = _parse(line, tree, camera)
        if pair is None:
            raise DataError(
                f"{path}, line {number} is not in SID's format: {line[:200]!r}.", hint=_HINT
            )
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{path} lists no photos.", hint=_list_hint(tree, camera, split))
    return pairs


def select(pairs: list[SidPair], protocol: Protocol) -> list[SidPair]:
    """Choose the pairs that a score is taken over: scores of different sets do not compare.

    Parameters
    ----------
    pairs : list of SidPair
    protocol : "all", "clean", "00" or "clean-00"
        "clean" leaves out the misaligned Sony test scenes, "00" takes the first short exposure
        of each burst only.
    """
    if protocol.startswith("clean"):
        # The Fuji test list has a scene of such a number too; there is nothing wrong with it.
        pairs = [p for p in pairs if p.camera != "sony" or p.scene not in MISALIGNED]
    if protocol.endswith("00"):
        pairs = [pair for pair in pairs if pair.burst == "00"]
    return pairs


def require_files(pairs: list[SidPair], progress: Progress = SILENT) -> None:
    """Refuse a list whose files are not all there.

    Raises
    ------
    DataError
        All that are missing are named.
    """
    paths = dict.fromkeys(path for pair in pairs for path in (pair.short, pair.long))
    missing = [path for path in paths if not _is_there(path)]
    if missing:
        errors = [FileMissingError(f"{path}: there is no such file.") for path in missing]
        raise unusable(errors, progress, hint=_MISSING_HINT)


def require_whole(paths: Sequence[Path], progress: Progress = SILENT) -> None:
    """Refuse RAW files that cannot be read or are cut short, by a look at the head of each.

    Only those that seem to be cut short are decoded.

    Parameters
    ----------
    paths : sequence of Path
    progress : Progress
        Receives a stage "checking files" of as many steps, if there are any.

    Raises
    ------
    DataError
        All of them are named.
    """
    if not paths:
        return
    progress.stage("checking files", len(paths))
    errors = []
    for error in in_threads(_fault, paths):
        errors += [] if error is None else [error]
        progress.advance()
    if errors:
        raise unusable(errors, progress, hint=_BROKEN_HINT)


def _fault(path: Path) -> GiaError | None:
    try:
        refuse_hopeless(path)
        if looks_cut_short(path):
            read_raw(path)
    except GiaError as error:
        return error
    except OSError as error:
        return UnreadableFileError(f"{path} cannot be read: {error.strerror or error}.")
    return None


def with_exif_times(pair: SidPair, short: ShotInfo, long: ShotInfo) -> SidPair:
    """Replace the exposure times of the files' names by those of their EXIF, where it has them.

    Raises
    ------
    DataError
        A file is not what its name says.
    """
    _check_time(pair.short, short, pair.short_s)
    _check_time(pair.long, long, pair.long_s)
    return replace(
        pair, short_s=short.exposure_s or pair.short_s, long_s=long.exposure_s or pair.long_s
    )


class SidFrames:
    """Pairs of a list, decoded and held open on disk; open them with `open`.

    Can be sent to worker processes: each maps the files for itself.

    Parameters
    ----------
    tree : Path
    pairs : list of SidPair
    arrays : ArrayCache
        Mosaics and renderings of the pairs' files.
    """

    def __init__(self, tree: Path, pairs: list[SidPair], arrays: ArrayCache) -> None:
        self.pairs = pairs
        self._tree = tree
        self._arrays = arrays

    @classmethod
    def open(
        cls,
        tree: Path,
        camera: CameraFamily,
        split: Split,
        *,
        protocol: Protocol = "all",
        cache: Path | None = None,
        progress: Progress = SILENT,
    ) -> SidFrames:
        """Open a list's pairs, decoding what is not decoded yet.

        The pairs' exposure times, and so their ratios, become those of the EXIF where there is one.

        Parameters
        ----------
        tree, camera, split
            As for `read_list`.
        protocol : "all", "clean", "00" or "clean-00"
            As for `select`.
        cache : Path, optional
            Folder; trees may share it. By default ``.gia-cache`` in the tree.
        progress : Progress

        Raises
        ------
        DataError
            A list that cannot be used; files that are missing (before any is decoded), or broken:
            all are named.
        OutputError
            The cache cannot be written.
        """
        (frames,) = open_splits(
            tree, camera, [split], protocol=protocol, cache=cache, progress=progress
        )
        return frames

    @classmethod
    def _decode(
        cls, tree: Path, pairs: list[SidPair], stock: Stock[Path], progress: Progress
    ) -> SidFrames:
        arrays = stock.complete(_decoder(pairs), progress)
        frames = cls(tree, pairs, arrays)
        frames._check_sizes(progress)
        frames.pairs = [frames._with_exif_times(pair) for pair in pairs]
        return frames

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def kind(self) -> CfaKind:
        """The camera's filter array; all pairs are of one camera."""
        return KINDS[self.pairs[0].camera]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a pair in photosites; nothing is opened for it."""
        height, width = self._arrays.metadata(_key(self._tree, self.pairs[index].short))["size"]
        return height, width

    def digest(self) -> str:
        """Return a digest of these pairs, of their files' contents and the list."""
        contents = self._arrays.digest()
        names = "".join(f"{pair.short.name} {pair.long.name}\n" for pair in self.pairs)
        return hashlib.blake2s((contents + names).encode(), digest_size=8).hexdigest()

    def frame(self, index: int) -> tuple[RawFrame, NDArray[np.uint16]]:
        """Open a pair; nothing is read before it is looked at.

        Returns
        -------
        RawFrame
            The short exposure; its mosaic is mapped from the disk and read-only.
        (H, W, 3) uint16
            The ground truth, likewise: LibRaw's rendering of the long exposure (`render_truth`),
            as large as the mosaic and not rotated either.
        """
        pair = self.pairs[index]
        short, long = _key(self._tree, pair.short), _key(self._tree, pair.long)
        mosaic = self._arrays.array(short, "mosaic")
        frame = _frame(pair.short, mosaic, self._arrays.metadata(short))
        return frame, self._arrays.array(long, "truth")

    def _check_sizes(self, progress: Progress) -> None:
        """Refuse pairs that do not lie on each other."""
        wrong: list[GiaError] = []
        for pair in self.pairs:
            mosaic, truth = (
                self._arrays.metadata(_key(self._tree, path))["size"]
                for path in (pair.short, pair.long)
            )
            if mosaic != truth:
                (height, width), (long_height, long_width) = mosaic, truth
                wrong.append(
                    DataError(
                        f"{pair.short} has {height}x{width} photosites, the rendering of "
                        f"{pair.long} has {long_height}x{long_width} pixels."
                    )
                )
        if wrong:
            raise unusable(wrong, progress)

    def _with_exif_times(self, pair: SidPair) -> SidPair:
        short_s, long_s = (
            self._arrays.metadata(_key(self._tree, path))["exposure_s"]
            for path in (pair.short, pair.long)
        )
        return replace(pair, short_s=short_s or pair.short_s, long_s=long_s or pair.long_s)


def open_splits(
    tree: Path,
    camera: CameraFamily,
    splits: Sequence[Split],
    *,
    protocol: Protocol = "all",
    cache: Path | None = None,
    check: Check = "files",
    progress: Progress = SILENT,
) -> list[SidFrames]:
    """Open several lists, as `SidFrames.open` does; before any photo is decoded, all are checked.

    Decoding takes hours: a missing photo of the second list, or one that was not copied to its end,
    should be reported before that.

    Parameters
    ----------
    tree, camera, protocol, cache, progress
        As for `SidFrames.open`.
    splits : sequence of "train", "val" or "test"
    check : "files", "contents" or "none"
        What is looked at of what is decoded already; see `Stock.look`.

    Returns
    -------
    list of SidFrames
        One for each split, in their order.

    Raises
    ------
    DataError, OutputError
        As `SidFrames.open` does; files that are missing or cut short are named for all lists at
        once.
    """
    lists = [_pairs(tree, camera, split, protocol) for split in splits]
    require_files([pair for pairs in lists for pair in pairs], progress)
    folder = _cache_folder(tree, cache)
    stocks = [
        Stock.look(folder, _sources(tree, pairs), recipe=_RECIPE, check=check, progress=progress)
        for pairs in lists
    ]
    require_whole([path for stock in stocks for path in stock.missing.values()], progress)
    return [
        SidFrames._decode(tree, pairs, stock, progress)
        for pairs, stock in zip(lists, stocks, strict=True)
    ]


def decode_splits(
    tree: Path,
    camera: CameraFamily,
    splits: Sequence[Split],
    *,
    cache: Path | None = None,
    shard: Shard | None = None,
    cluster: RayOptions | None = None,
    progress: Progress = SILENT,
) -> Decoding:
    """Decode the photos of several lists ahead of `open_splits`.

    Parameters
    ----------
    tree, camera, splits, cache
        As for `open_splits`, and so what is raised.
    shard, cluster, progress
        As for `Stock.decode`, and so what is raised.
    """
    pairs = [pair for split in splits for pair in _pairs(tree, camera, split, "all")]
    require_files(pairs, progress)
    stock = Stock.look(
        _cache_folder(tree, cache), _sources(tree, pairs), recipe=_RECIPE, progress=progress
    ).of_share(shard)
    require_whole(list(stock.missing.values()), progress)
    return stock.decode(_decoder(pairs), shard=shard, cluster=cluster, progress=progress)


# ---------------------------------------------------------------- lists


def _pairs(tree: Path, camera: CameraFamily, split: Split, protocol: Protocol) -> list[SidPair]:
    """Read a list and choose from it; refuse if nothing is left."""
    pairs = select(read_list(tree, camera, split), protocol)
    if not pairs:
        name = list_path(tree, family_name(camera), split)
        raise DataError(f"{name} lists no photos for the protocol '{protocol}'.", hint=_HINT)
    return pairs


def _list_hint(tree: Path, camera: CameraFamily, split: Split) -> str:
    """Say how to get a list, or to fill it."""
    if plan_path(tree, family_name(camera)).is_file():
        model = " --camera X-T2" if camera == "fuji" else ""
        return (
            f"The tree is simulated: to fill its {split} list, run 'gia simulate MORE-PICTURES "
            f"--sid --out {tree} --split {split} --on-exists skip{model}' with the options that "
            "the tree was made with."
        )
    others = sorted(path.name for path in tree.glob("*_list.txt"))
    there = f"The folder has {', '.join(others)}. " if others else ""
    return there + _HINT


def _parse(line: str, tree: Path, camera: CameraFamily) -> SidPair | None:
    """Understand a line: two files and, behind them, perhaps ``ISO200 F8``; None if it is not."""
    short_name, long_name, *facts = [*line.split(), "", ""]
    short, long = EXPOSURE_FILE.fullmatch(short_name), EXPOSURE_FILE.fullmatch(long_name)
    if short is None or long is None or short["scene"] != long["scene"]:
        return None
    if (short["length"], long["length"]) != ("short", "long"):
        return None
    if {short["family"], long["family"]} != {family_name(camera)}:
        return None
    short_s, long_s = float(short["seconds"]), float(long["seconds"])
    if short_s <= 0 or long_s <= 0:
        return None
    iso = next((fact[3:] for fact in facts if re.fullmatch(r"ISO\d+", fact)), None)
    return SidPair(
        camera=camera,
        scene=short["scene"],
        burst=short["burst"],
        short=tree / short["path"],
        long=tree / long["path"],
        short_s=short_s,
        long_s=long_s,
        iso=None if iso is None else int(iso),
    )


# ---------------------------------------------------------------- files


def _cache_folder(tree: Path, cache: Path | None) -> Path:
    if cache is None:
        return tree / _CACHE_NAME
    # SID's names are every tree's: in a folder of both, one tree's arrays would replace another's.
    digest = hashlib.blake2s(str(tree.resolve()).encode("utf-8", "surrogateescape"), digest_size=4)
    return cache / f"{tree.resolve().name}-{digest.hexdigest()}"


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered: who opens the file will say so
        return True


def _key(tree: Path, path: Path) -> str:
    """Name a file of the tree: ``Sony_short_00001_00_0.04s.ARW``."""
    return "_".join(path.relative_to(tree).parts)


def _sources(tree: Path, pairs: list[SidPair]) -> dict[str, Path]:
    return {_key(tree, path): path for pair in pairs for path in (pair.short, pair.long)}


def _decoder(pairs: list[SidPair]) -> Callable[[Path], Decoded]:
    """Make the function that decodes any file of the pairs."""
    shorts = {pair.short: pair for pair in pairs}
    longs = {pair.long: pair for pair in pairs}

    def decode(path: Path) -> Decoded:
        if path in shorts:
            return _decode_short(path, shorts[path])
        return _decode_long(path, longs[path])

    return decode


def _decode_short(path: Path, pair: SidPair) -> Decoded:
    frame = read_raw(path)
    if frame.kind != KINDS[pair.camera]:
        raise DataError(f"{path} is not a photo of SID's {family_name(pair.camera)} camera.")
    _check_time(path, frame.shot, pair.short_s)
    return Decoded(arrays={"mosaic": frame.mosaic}, metadata=_metadata(frame))


def _decode_long(path: Path, pair: SidPair) -> Decoded:
    shot = read_exposure(path)
    _check_time(path, shot, pair.long_s)
    truth = render_truth(path)
    return Decoded(
        arrays={"truth": truth},
        metadata={"size": truth.shape[:2], "exposure_s": shot.exposure_s},
    )


def _check_time(path: Path, shot: ShotInfo, named_s: float) -> None:
    """Refuse a file that is not what its name says: the ratio would be wrong."""
    if shot.exposure_s is None:
        return
    if abs(shot.exposure_s - named_s) > named_s * _NAME_TOLERANCE + _NAME_ROUNDING_S:
        raise DataError(
            f"{path} was exposed for {shot.exposure_s:.4g} s according to its EXIF, but for "
            f"{named_s:g} s according to its name."
        )


def _metadata(frame: RawFrame) -> dict[str, Any]:
    """Put all of a frame but its mosaic into what JSON can hold."""
    return {
        "size": frame.mosaic.shape,
        "exposure_s": frame.shot.exposure_s,
        "kind": frame.kind,
        "phase": frame.phase,
        "black": frame.black.tolist(),
        "white": frame.white.tolist(),
        "as_shot_wb": frame.as_shot_wb.tolist(),
        "daylight_wb": None if frame.daylight_wb is None else frame.daylight_wb.tolist(),
        "xyz_to_camera": None if frame.xyz_to_camera is None else frame.xyz_to_camera.tolist(),
        "flip": frame.flip,
        "shot": asdict(replace(frame.shot, more=None)),  # JSON holds no bytes
    }


def _frame(path: Path, mosaic: NDArray[np.uint16], metadata: dict[str, Any]) -> RawFrame:
    """Undo `_metadata`."""
    top, left = metadata["phase"]
    return RawFrame(
        path=path,
        mosaic=mosaic,
        kind=metadata["kind"],
        phase=(top, left),
        black=np.array(metadata["black"], np.float32),
        white=np.array(metadata["white"], np.float32),
        as_shot_wb=np.array(metadata["as_shot_wb"], np.float32),
        daylight_wb=_floats(metadata["daylight_wb"]),
        xyz_to_camera=_floats(metadata["xyz_to_camera"]),
        flip=metadata["flip"],
        shot=ShotInfo(**metadata["shot"]),
    )


def _floats(values: list[Any] | None) -> NDArray[np.float32] | None:
    return None if values is None else np.array(values, np.float32)
