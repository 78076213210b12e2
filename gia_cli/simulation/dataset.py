"""Many pictures to a data set with SID's folders, names and lists; it can be extended later."""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gia_cli.cameras import ENDINGS
from gia_cli.cluster.driver import only_driver_of, run_on_cluster
from gia_cli.cluster.pool import Task
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.errors import DataError, GiaError, OutputError, UsageError
from gia_cli.files import atomic_file, is_file, is_taken, make_folder, turn
from gia_cli.imaging.photos import find_photos
from gia_cli.progress import SILENT, Progress
from gia_cli.sensor_table import nearest_iso
from gia_cli.sid_layout import (
    FAMILIES,
    MOST_SCENES,
    SPLIT_DIGITS,
    Split,
    list_path,
    plan_path,
    split_of,
    time_name,
)
from gia_cli.simulation.manifest import (
    Picture,
    TreePlan,
    fingerprint,
    path_from,
    read_plan,
    write_plan,
)
from gia_cli.simulation.options import SimulateOptions, TreeOptions
from gia_cli.simulation.photo import (
    HELP,
    XTRANS_RENDER_SIDE,
    Simulated,
    check_options,
    check_range,
    existing,
    looked_up,
    photograph,
    picture_mosaic,
)
from gia_cli.simulation.sensor import CAMERAS, SceneSettings, scaled, sid_scenes, translated

_LEAST_DEALT = 3  # pictures from which on no list with a share stays empty
_FOREIGN_HINT = (
    "So the tree's pictures are not known: choose another --out, or --on-exists overwrite to make "
    "it again."
)
_MOST_NAMED = 5  # pictures in a message
_PLANNING = ".gia-simulate-plan.lock"  # held by the share that plans the tree


@dataclass(frozen=True, slots=True)
class SimulatedTree:
    """What became of the pictures, and the lists that name the files."""

    results: list[Simulated]
    lists: tuple[Path, ...]
    planned: int
    """Pictures of this run, those of other shares included."""


@dataclass(frozen=True, slots=True)
class _PlannedScene:
    """One picture's place in the tree and the scene that it is to become."""

    result: Simulated
    """As it will be if all goes well."""
    split: Split
    place: int
    """On the plan."""
    rng: np.random.Generator


@dataclass(frozen=True, slots=True)
class _Planned:
    """The tree's plan, and what this run makes of it."""

    plan: TreePlan
    scenes: list[_PlannedScene]
    """One for each picture of this run."""
    new: list[_PlannedScene]
    """Those of them that the plan did not know."""
    changed: list[_PlannedScene]
    """Those whose picture is no longer the one that the plan knew."""

    def of_share(self, shard: Shard | None) -> list[_PlannedScene]:
        """Choose the scenes that this machine makes: by their places, which other runs share."""
        return [scene for scene in self.scenes if shard is None or shard.has_place(scene.place)]


def simulate_tree(
    inputs: list[Path],
    tree: Path,
    options: TreeOptions | None = None,
    *,
    shard: Shard | None = None,
    cluster: RayOptions | None = None,
    progress: Progress = SILENT,
    on_result: Callable[[Simulated], None] = lambda result: None,
) -> SimulatedTree:
    """Make a data set with SID's folders, names and lists from pictures.

    The camera's folder (``Sony`` or ``Fuji``) gets ``short/00001_00_0.1s.ARW``, the scene's number,
    the number in its burst and the exposure time, and ``long/00001_00_10s.ARW``. Scene numbers
    start with 0 on the training list, 1 on the test list and 2 on the validation list. The lists
    (``Sony_train_list.txt``, ...) lie in `tree` itself, and so does its plan
    (``Sony_simulation.json``, see `simulation.manifest`): which picture became which scene, how.

    With `on_exists` "skip" the tree is continued by its plan: what an interrupted run left out is
    made, and pictures that the plan does not know get new numbers and are dealt out so that the
    whole tree has its shares. In a tree without a plan, files are only kept if this run would have
    written the same, byte for byte. With "overwrite" the files and lists of the plan that is there
    are removed, and everything starts again.

    Machines that are given a share each make one tree together: the first to come plans all of it,
    each writes its own scenes, and the lists name what is there, whoever comes last. "error" and
    "overwrite" are then about the share's own files; a plan of other pictures or options that is to
    be overwritten goes with all of its files.

    Parameters
    ----------
    inputs : list of Path
        Pictures, and folders of them.
    tree : Path
        Made if it is not there.
    options : TreeOptions, optional
    shard : Shard, optional
        Make only its scenes.
    cluster : RayOptions, optional
        Make them on the workers of a Ray cluster.
    progress : Progress
    on_result : function
        Receives each picture when its files are written, or it has failed; on a cluster in the
        order in which that happens.

    Returns
    -------
    SimulatedTree
        One result for each picture of the share, failures among them. The lists name all scenes of
        the plan whose files are there.

    Raises
    ------
    UsageError
        Options that make no sense, or are not those of the tree's plan; a picture that is on
        another list already; more than 9,999 pictures; a share that is being made.
    DataError
        No picture at all; a plan that cannot be read; files of which the plan does not know, or
        whose pictures have changed since.
    OutputExistsError
        Something that is to be written is there, and `on_exists` is "error".
    OutputError
        The folders, lists or the plan cannot be written.
    ClusterError, Interrupted
        See `run_on_cluster`.
    """
    options = options or TreeOptions()
    _check_tree(options)
    photos = find_photos(inputs)
    with ExitStack() as held:
        if shard is not None or cluster is not None:
            make_folder(tree, "--out")
            held.enter_context(only_driver_of([tree], "gia simulate", shard, option="--out"))
        with ExitStack() as ours:
            if shard is not None:
                waiting = partial(progress.note, "Another share is planning the tree; waiting.")
                ours.enter_context(turn(tree / _PLANNING, waiting))
            planned = _begin(photos, tree, options, shard, progress)
        scenes = planned.of_share(shard)
        if shard is not None:
            share = f"{len(scenes)} of {len(planned.scenes)} scenes"
            progress.note(f"shard {shard}: {share}")
        if cluster is None:
            results = _simulate_scenes(scenes, options.exposure, progress, on_result)
        else:
            results = run_on_cluster(
                *(_Scenes(options.exposure), scenes, partial(_make_work, options.exposure)),
                cluster,
                folders={path.parent for scene in scenes for path in scene.result.files},
                progress=progress,
                on_result=on_result,
            )
        lists = _list_paths(tree, options)
        _write_lists(lists, planned.plan, tree, options, results, shard, progress)
    return SimulatedTree(results, tuple(lists.values()), len(planned.scenes))


def _begin(
    photos: list[Path], tree: Path, options: TreeOptions, shard: Shard | None, progress: Progress
) -> _Planned:
    """Plan the tree, see to what is there already, and write the plan, before the first file is."""
    on_exists, lists = options.exposure.on_exists, _list_paths(tree, options).values()
    there = _plan_that_is_there(tree, options)
    if on_exists == "error" and (shard is None or there is None):
        existing(lists, "error")  # of shares, the others write them too
    known = _known_plan(there, tree, options)
    trusted = {} if shard is None else _of_other_shares(there, shard)
    planned = _plan(photos, tree, options, known, trusted, progress)
    if on_exists == "overwrite" and trusted and planned.plan != there:
        planned = _plan(photos, tree, options, known, {}, progress)
    wanted = [path for scene in planned.of_share(shard) for path in scene.result.files]
    if on_exists != "overwrite":
        existing(wanted, on_exists)
        _refuse_changed([scene for scene in planned.of_share(shard) if scene in planned.changed])
        _refuse_foreign(planned.new, options.exposure, progress)
    elif shard is not None and planned.plan == there:
        _remove({path for path in wanted if is_taken(path)})
    else:
        everything = [path for scene in planned.scenes for path in scene.result.files]
        _clear(tree, options, [*lists, *everything], progress)
    _make_folders({path.parent for scene in planned.scenes for path in scene.result.files})
    if planned.plan != there:  # an interrupted run can be taken up
        write_plan(_plan_path(tree, options), planned.plan)
    return planned


def _of_other_shares(there: TreePlan | None, shard: Shard) -> dict[str, Picture]:
    """Find pictures that need not be read, for those whose scenes they are see to them: by path."""
    pictures = () if there is None else there.pictures
    return {
        picture.path: replace(picture, scene="")
        for place, picture in enumerate(pictures)
        if not shard.has_place(place)
    }


def _check_tree(options: TreeOptions) -> None:
    scene = replace(options.exposure, wb=options.wb)
    check_options(scene if options.iso is None else replace(scene, iso=options.iso))
    for ratio in options.ratios or ():
        check_range("--ratios", ratio, 1.001, 100_000)  # at 1 a short exposure were a long one
    check_range("--burst", options.burst, 1, 99)
    for option, share in (("--test-share", options.test_share), ("--val-share", options.val_share)):
        check_range(option, share, 0, 1)
    if options.test_share + options.val_share > 1:
        raise UsageError("--test-share and --val-share add up to more than 1.", hint=HELP)
    sid_ratios = sorted({ratio for scene in sid_scenes() for ratio in scene.ratios})
    ratios = options.ratios or sid_ratios
    times = [time_name(options.exposure.long_exposure_s / ratio) for ratio in ratios]
    if len(set(times)) < len(times) or "0s" in times:
        raise UsageError(
            f"The ratios {', '.join(f'{ratio:g}' for ratio in ratios)} cannot be told apart by the "
            f"exposure times in SID's names: {', '.join(times)}.",
            hint="Names hold milliseconds; give other --ratios or a longer --long-exposure.",
        )


# ---------------------------------------------------------------- its plan


def _plan_path(tree: Path, options: TreeOptions) -> Path:
    return plan_path(tree, FAMILIES[options.exposure.camera])


def _plan_options(options: TreeOptions) -> dict[str, Any]:
    """Find what the files of a scene depend on, beside its picture; as JSON gives it back."""
    exposure = options.exposure
    return {
        "seed": exposure.seed,
        "ratios": None if options.ratios is None else list(options.ratios),
        "iso": options.iso,
        "wb": None if options.wb is None else list(scaled(options.wb)),
        "burst": options.burst,
        "long-exposure": exposure.long_exposure_s,
        "aperture": exposure.aperture,
        "ev": exposure.ev,
        "shrink": exposure.shrink,
        "clean-long": exposure.clean_long,
    }


def _plan_that_is_there(tree: Path, options: TreeOptions) -> TreePlan | None:
    try:
        return read_plan(_plan_path(tree, options))
    except DataError:
        if options.exposure.on_exists != "overwrite":
            raise
        return None  # it is overwritten


def _known_plan(known: TreePlan | None, tree: Path, options: TreeOptions) -> TreePlan:
    """Return the plan of a tree that is to be continued; an empty one where all starts again."""
    own = _plan_options(options)
    if known is None or options.exposure.on_exists == "overwrite":
        return TreePlan(own)
    differing = [
        f"--{name} {_option_text(known.options.get(name))}, not {_option_text(own.get(name))}"
        for name in own | known.options
        if own.get(name) != known.options.get(name)
    ]
    if differing:
        raise UsageError(
            f"{tree} was made with other options: {'; '.join(differing)}.",
            hint="Use the tree's options to continue it, another --out for another tree, or "
            "--on-exists overwrite to make it again.",
        )
    return known


def _option_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ",".join(f"{number:g}" for number in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "as drawn" if value is None else str(value)


def _plan(
    photos: list[Path],
    tree: Path,
    options: TreeOptions,
    known: TreePlan,
    trusted: Mapping[str, Picture],
    progress: Progress,
) -> _Planned:
    """Find the pictures on the plan, and give those that are new a number, a list and a scene.

    What is trusted, by its path from the tree, is not read.
    """
    looks: dict[str, tuple[Path, Picture]] = {}  # by path: a picture may be named in two ways
    progress.stage("reading the pictures", len(photos))
    for photo in photos:
        look = trusted.get(path_from(tree, photo)) or fingerprint(photo, tree)
        looks.setdefault(look.path, (photo, look))
        progress.advance()
    sources, found = zip(*looks.values(), strict=True)
    places = known.places(found)
    pictures = [*known.pictures]
    new = [index for index, place in enumerate(places) if place is None]
    changed = []
    for index, place in enumerate(places):
        if place is not None:
            if pictures[place].digest != found[index].digest:
                changed.append(index)
            pictures[place] = replace(found[index], scene=pictures[place].scene)
            _check_list(sources[index], pictures[place], options)
    if len(pictures) + len(new) > MOST_SCENES:
        raise UsageError(
            f"{len(pictures) + len(new)} pictures are more than SID's names have numbers for "
            f"({MOST_SCENES}).",
            hint="Make several trees.",
        )
    for index, scene in zip(new, _new_numbers(len(new), known, options), strict=True):
        places[index] = len(pictures)
        pictures.append(replace(found[index], scene=scene))
    scenes = [
        _plan_scene(source, place, pictures[place].scene, tree, options)
        for source, place in zip(sources, places, strict=True)
        if place is not None
    ]
    return _Planned(
        plan=replace(known, pictures=tuple(pictures)),
        scenes=scenes,
        new=[scenes[index] for index in new],
        changed=[scenes[index] for index in changed],
    )


def _check_list(photo: Path, picture: Picture, options: TreeOptions) -> None:
    """Refuse to lay a picture on a second list: what is trained on must not be measured on."""
    if options.split not in ("auto", split_of(picture.scene)):
        raise UsageError(
            f"{photo} is already on the tree's {split_of(picture.scene)} list, as scene "
            f"{picture.scene}.",
            hint="Leave it out, or choose another --out.",
        )


def _new_numbers(count: int, known: TreePlan, options: TreeOptions) -> list[str]:
    """Give new pictures their scenes' numbers, on the lists that they are dealt to."""
    highest = dict.fromkeys(SPLIT_DIGITS, 0)
    for picture in known.pictures:
        split = split_of(picture.scene)
        highest[split] = max(highest[split], int(picture.scene[1:]))
    numbers = []
    for split in _deal(count, options, known):
        highest[split] += 1
        numbers.append(f"{SPLIT_DIGITS[split]}{highest[split]:04d}")
    return numbers


def _deal(count: int, options: TreeOptions, known: TreePlan) -> list[Split]:
    """Deal new pictures out, at random, so that the whole tree has its exact shares."""
    if options.split != "auto":
        return [options.split] * count
    dealt = Counter(split_of(picture.scene) for picture in known.pictures)
    tests, vals = _shares(count + dealt.total(), options)
    tests = min(max(tests - dealt["test"], 0), count)
    vals = min(max(vals - dealt["val"], 0), count - tests)
    splits: list[Split] = ["train"] * count
    seed = [options.exposure.seed, MOST_SCENES, *([dealt.total()] if dealt else [])]
    order = np.random.default_rng(seed).permutation(count)
    for place, index in enumerate(order[: tests + vals].tolist()):
        splits[index] = "test" if place < tests else "val"
    return splits


def _shares(count: int, options: TreeOptions) -> tuple[int, int]:
    """Count the test and the validation pictures; of three pictures on, no share is nothing."""
    shares = options.test_share, options.val_share
    least = [int(count >= _LEAST_DEALT and share > 0) for share in shares]
    tests, vals = (max(round(share * count), few) for share, few in zip(shares, least, strict=True))
    most = count - int(count >= _LEAST_DEALT and sum(shares) < 1)
    tests = min(tests, most - least[1])
    return tests, min(vals, most - tests)


def _plan_scene(
    photo: Path, place: int, number: str, tree: Path, options: TreeOptions
) -> _PlannedScene:
    exposure, ending = options.exposure, ENDINGS[options.exposure.camera]
    # A generator of its own for each picture: its scene does not depend on the others'.
    rng = np.random.default_rng([exposure.seed, place])
    drawn = sid_scenes()[int(rng.integers(len(sid_scenes())))]
    ratios = options.ratios or tuple(sorted(set(drawn.ratios)))
    folder = tree / FAMILIES[exposure.camera]
    shorts, shot_ratios = [], []
    for shot in range(options.burst):
        for ratio in ratios:
            time = time_name(exposure.long_exposure_s / ratio)
            shorts.append(folder / "short" / f"{number}_{shot:02d}_{time}{ending}")
            shot_ratios.append(ratio)
    long = folder / "long" / f"{number}_00_{time_name(exposure.long_exposure_s)}{ending}"
    scene = SceneSettings(
        options.iso or nearest_iso(exposure.camera, drawn.iso),
        ratios[0],
        scaled(options.wb or translated(drawn.wb, exposure.camera)),
    )
    result = Simulated(photo, scene, tuple(shorts), tuple(shot_ratios), long)
    return _PlannedScene(result, split_of(number), place, rng)


# ---------------------------------------------------------------- what is there already


def _refuse_changed(changed: list[_PlannedScene]) -> None:
    """Refuse to keep files of what a picture was before it changed."""
    stale = [scene.result for scene in changed if existing(scene.result.files, "skip")]
    if stale:
        names = ", ".join(str(result.source) for result in stale[:_MOST_NAMED])
        more = f" and {len(stale) - _MOST_NAMED} more" if stale[_MOST_NAMED:] else ""
        raise DataError(
            f"The tree was made from other pictures named {names}{more}.",
            hint="Restore the old pictures, rename the new ones, or make the tree again with "
            "--on-exists overwrite.",
        )


def _refuse_foreign(
    scenes: list[_PlannedScene], options: SimulateOptions, progress: Progress
) -> None:
    """Refuse files that no plan knows, unless they are what would be written now.

    A tree of an earlier version has no plan, and a name says nothing about the picture behind it.
    """
    there = [scene for scene in scenes if existing(scene.result.files, "skip")]
    if there:
        progress.stage("comparing with existing files", len(there))
    for scene in there:
        for path in _foreign_files(scene, options):
            raise DataError(
                f"{path} already exists, and differs from what these options make from "
                f"{scene.result.source}.",
                hint=_FOREIGN_HINT,
            )
        progress.advance()


def _foreign_files(scene: _PlannedScene, options: SimulateOptions) -> list[Path]:
    """Make a scene's files again, elsewhere, and find those that are there and differ."""
    result = scene.result
    there = existing(result.files, "skip")
    with TemporaryDirectory() as name:
        folder = Path(name)
        again = replace(
            result,
            shorts=tuple(folder / path.name for path in result.shorts),
            long=folder / result.long.name,
            kept=tuple(folder / path.name for path in result.files if path not in there),
        )
        anew = replace(options, on_exists="overwrite")
        made = _simulate_scene(replace(scene, result=again, rng=deepcopy(scene.rng)), anew, SILENT)
        if made.error:
            return list(there)
        return [path for path in there if not _same_bytes(path, folder / path.name)]


def _same_bytes(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _clear(tree: Path, options: TreeOptions, wanted: list[Path], progress: Progress) -> None:
    """Remove what is to be made again, and everything else that the tree's old plan made.

    All of it before the new plan is there: that must not vouch for files of the old one, should
    this run be interrupted.
    """
    doomed = {path for path in wanted if is_taken(path)}
    others = _made_by_plan(tree, options) - doomed
    if others:
        progress.note(f"{len(others)} other files of the tree's old plan were removed.")
    _remove(doomed | others)


def _remove(paths: set[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot remove {path}: {error.strerror or error}.") from error


def _made_by_plan(tree: Path, options: TreeOptions) -> set[Path]:
    """Find the exposures and lists of a tree's plan, whatever its options were."""
    old = _plan_that_is_there(tree, options)
    if old is None:
        return set()
    folder, ending = tree / FAMILIES[options.exposure.camera], ENDINGS[options.exposure.camera]
    numbers = {picture.scene for picture in old.pictures}
    found = {path for path in folder.glob(f"*/*{ending}") if path.name.split("_")[0] in numbers}
    lists = _list_paths(tree, replace(options, split="auto")).values()
    return found | {path for path in lists if is_taken(path)}


# ---------------------------------------------------------------- its files


def _simulate_scenes(
    scenes: Sequence[_PlannedScene],
    options: SimulateOptions,
    progress: Progress,
    on_result: Callable[[Simulated], None],
) -> list[Simulated]:
    results = []
    for number, scene in enumerate(scenes, start=1):
        progress.photo(scene.result.source.name, number, len(scenes))
        results.append(_simulate_scene(scene, options, progress))
        on_result(results[-1])
    return results


class _Scenes(Task[_PlannedScene, Simulated]):
    """The scenes of a tree, to those who share them out."""

    noun = "scene"

    def __init__(self, options: SimulateOptions) -> None:
        self._options = options
        self._kept: dict[int, tuple[Path, ...]] = {}

    def name(self, item: _PlannedScene) -> str:
        return str(item.result.source)

    def failed(self, item: _PlannedScene, error: GiaError) -> Simulated:
        return replace(item.result, status="failed", error=error)

    def error(self, result: Simulated) -> GiaError | None:
        return result.error

    def settled(self, items: Sequence[_PlannedScene]) -> Iterator[Simulated | None]:
        for number, item in enumerate(items):
            try:
                result = looked_up(item.result, self._options)
            except GiaError as error:
                yield self.failed(item, error)
                continue
            self._kept[number] = result.kept
            yield result if result.status == "skipped" else None

    def completed(self, number: int, item: _PlannedScene, result: Simulated) -> Simulated:
        """Count to a scene's files what a worker had written that could not tell."""
        if result.error is not None:
            return result
        return replace(result, status="written", kept=self._kept[number])


def _make_work(
    options: SimulateOptions, memory: int | None
) -> Callable[[Sequence[_PlannedScene], bool], Iterator[Simulated]]:
    """Make what a worker does with a chunk; see `cluster.ray_pool.Setup`."""

    def work(scenes: Sequence[_PlannedScene], is_again: bool) -> Iterator[Simulated]:
        # Of scenes that are given again, what is there now one of us has made.
        chosen = replace(options, on_exists="skip") if is_again else options
        for scene in scenes:
            yield _simulate_scene(scene, chosen, SILENT)

    return work


def _simulate_scene(
    planned: _PlannedScene, options: SimulateOptions, progress: Progress
) -> Simulated:
    """Write one picture's files; what goes wrong with it must not cost the others theirs."""
    result = planned.result
    try:
        result = looked_up(result, options)
        if result.status == "skipped":
            return result
        mosaic = picture_mosaic(result.source, result.scene.wb, options)
        if CAMERAS[options.camera].kind == "xtrans" and min(mosaic.shape) < XTRANS_RENDER_SIDE:
            raise DataError(
                f"{result.source} is too small: LibRaw, which renders the ground truth, needs "
                f"{XTRANS_RENDER_SIDE} X-Trans photosites a side, not {min(mosaic.shape)}.",
                hint="Use a larger picture, or a smaller --shrink.",
            )
        photograph(mosaic, result, options, planned.rng, progress)
    except GiaError as error:
        return replace(result, status="failed", error=error)
    return result


def _list_paths(tree: Path, options: TreeOptions) -> dict[Split, Path]:
    """Find the lists that this run writes: all three, or the one that all pictures go to."""
    family = FAMILIES[options.exposure.camera]
    splits: list[Split] = ["train", "val", "test"]
    chosen = splits if options.split == "auto" else [options.split]
    return {split: list_path(tree, family, split) for split in chosen}


def _make_folders(folders: set[Path]) -> None:
    for folder in sorted(folders):
        make_folder(folder, "--out")


def _write_lists(
    lists: dict[Split, Path],
    plan: TreePlan,
    tree: Path,
    options: TreeOptions,
    results: list[Simulated],
    shard: Shard | None,
    progress: Progress,
) -> None:
    """Name all scenes of the plan that are whole, whichever run made them.

    Another share may have written its last scene, and the lists, since these looked: then they
    would be the poorer ones, and the last. So shares look again when they have written.
    """
    failed = {result.long for result in results if result.error}
    whole = None
    while whole != (found := _whole_scenes(lists, plan, tree, options, failed)):
        whole = found
        for split, path in lists.items():
            _write_list(path, tree, whole[split], options.exposure)
        if shard is None:
            break
    count, wanted = sum(map(len, whole.values())), _count_on(plan, lists)
    if shard is not None and count < wanted:
        progress.note(f"{count} of the tree's {wanted} scenes are there, and on its lists.")
        return
    empty = [split for split, scenes in whole.items() if not scenes]
    if empty:
        progress.note(
            f"The tree has no scene for its list{'s' if empty[1:] else ''} {' and '.join(empty)}: "
            "give it more pictures, with --on-exists skip, and --split to choose the list."
        )


def _count_on(plan: TreePlan, lists: Collection[Split]) -> int:
    return sum(split_of(picture.scene) in lists for picture in plan.pictures)


def _whole_scenes(
    lists: Collection[Split],
    plan: TreePlan,
    tree: Path,
    options: TreeOptions,
    failed: Collection[Path],
) -> dict[Split, list[Simulated]]:
    """Find the scenes of the plan whose files are all there, by list."""
    whole: dict[Split, list[Simulated]] = {split: [] for split in lists}
    for place, picture in enumerate(plan.pictures):
        if (split := split_of(picture.scene)) in whole:
            scene = _plan_scene(tree / picture.path, place, picture.scene, tree, options).result
            if scene.long not in failed and all(is_file(path) for path in scene.files):
                whole[split].append(scene)
    return whole


def _write_list(path: Path, tree: Path, results: list[Simulated], options: SimulateOptions) -> None:
    """Write one of SID's lists: short, long, ISO and f-number, separated by blanks."""
    lines = []
    for result in results:
        facts = f"ISO{result.scene.iso} F{options.aperture:g}"
        long = result.long.relative_to(tree).as_posix()
        for short in result.shorts:
            lines.append(f"./{short.relative_to(tree).as_posix()} ./{long} {facts}\n")
    with atomic_file(path) as file:
        file.write("".join(sorted(lines)).encode("ascii"))
