"""Data sets made of pictures: SID's names and lists, shares, and how a tree goes on."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gia_cli.cluster.driver import only_driver_of
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.errors import DataError, OutputError, OutputExistsError, UsageError, WorkerError
from gia_cli.files import OnExists
from gia_cli.imaging.color import srgb_decode
from gia_cli.raw.reader import read_raw
from gia_cli.simulation import dataset
from gia_cli.simulation.dataset import simulate_tree
from gia_cli.simulation.manifest import fingerprint, read_plan
from gia_cli.simulation.options import SimulateOptions, TreeOptions
from gia_cli.simulation.photo import Simulated
from tests.local_cluster import TWO, in_process
from tests.progress_spy import ProgressSpy
from tests.simulation.pictures import Photo, save, smooth_photo


@pytest.fixture
def pictures(tmp_path: Path, scene: Photo) -> Path:
    """Five pictures in a folder and its subfolder."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(["a.png", "b.jpg", "c.png", "sub/d.png", "sub/e.bmp"]):
        save(folder / name, np.roll(scene, 7 * number, axis=0))
    (folder / "notes.txt").write_text("no picture")
    return folder


def files(tree: Path) -> dict[str, bytes]:
    found = sorted(path for path in tree.rglob("*") if path.is_file())
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in found}


def test_a_tree_has_sids_names_folders_and_lists(pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    options = TreeOptions(ratios=(100, 250, 300), iso=800, burst=2, test_share=0.2, val_share=0.2)
    heard: list[Simulated] = []
    made = simulate_tree([pictures], tree, options, on_result=heard.append)
    assert made.results == heard
    assert [result.source.name for result in heard] == ["a.png", "b.jpg", "c.png", "d.png", "e.bmp"]
    scenes = ["00001", "00002", "00003", "10001", "20001"]
    times = ["0.033s", "0.04s", "0.1s"]
    lists = [f"Sony_{split}_list.txt" for split in ("test", "train", "val")]
    wanted = [f"Sony/long/{scene}_00_10s.ARW" for scene in scenes]
    shots = [(scene, shot, time) for scene in scenes for shot in ("00", "01") for time in times]
    wanted += [f"Sony/short/{scene}_{shot}_{time}.ARW" for scene, shot, time in shots]
    found = files(tree)
    assert sorted(found) == sorted([*wanted, *lists, "Sony_simulation.json"])
    assert [path.name for path in made.lists] == [
        "Sony_train_list.txt",
        "Sony_val_list.txt",
        "Sony_test_list.txt",
    ]
    lines = [
        f"./Sony/short/20001_{shot}_{time}.ARW ./Sony/long/20001_00_10s.ARW ISO800 F8\n"
        for shot in ("00", "01")
        for time in times
    ]
    assert found["Sony_val_list.txt"].decode() == "".join(lines)
    assert len(found["Sony_train_list.txt"].splitlines()) == 18
    assert len(found["Sony_test_list.txt"].splitlines()) == 6


def test_a_tree_of_the_other_camera(tmp_path: Path) -> None:
    photo = save(tmp_path / "day.png", smooth_photo())
    exposure_options = SimulateOptions(camera="X-T2", long_exposure_s=30, aperture=7.1)
    options = TreeOptions(exposure=exposure_options, split="test", ratios=(300,), iso=640)
    made = simulate_tree([photo], tmp_path / "tree", options)
    assert list(files(tmp_path / "tree")) == [
        "Fuji/long/10001_00_30s.RAF",
        "Fuji/short/10001_00_0.1s.RAF",
        "Fuji_simulation.json",
        "Fuji_test_list.txt",
    ]
    assert made.lists[0].read_text() == (
        "./Fuji/short/10001_00_0.1s.RAF ./Fuji/long/10001_00_30s.RAF ISO640 F7.1\n"
    )
    assert read_raw(made.results[0].shorts[0]).shot.exposure_s == pytest.approx(0.1)


def test_scenes_of_a_tree_are_drawn_from_sid(pictures: Path, tmp_path: Path) -> None:
    made = simulate_tree([pictures], tmp_path / "tree")
    for result in made.results:
        assert set(result.ratios) <= {100, 250, 300}
        assert result.scene.ratio == result.ratios[0]
        frame = read_raw(result.shorts[0])
        assert frame.shot.iso == result.scene.iso
        assert np.allclose(frame.as_shot_wb, result.scene.wb, atol=0.002)
        long_s = read_raw(result.long).shot.exposure_s
        for short, ratio in zip(result.shorts, result.ratios, strict=True):
            exposure = read_raw(short).shot.exposure_s
            assert (long_s or 0) / (exposure or 1) == pytest.approx(ratio, rel=1e-4)
    assert len({result.scene for result in made.results}) > 1


def test_a_tree_is_decided_by_its_seed(pictures: Path, tmp_path: Path) -> None:
    trees = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        options = TreeOptions(SimulateOptions(seed=seed))
        simulate_tree([pictures], tmp_path / name, options)
        trees.append(files(tmp_path / name))
    one, again, other = trees
    assert one == again
    assert one != other


def touch_files(scene: Any, *_: object) -> Simulated:
    """Stand in for `_simulate_scene` where only names count."""
    for path in scene.result.files:
        path.touch()
    made: Simulated = scene.result
    return made


def scenes_by_list(tree: Path) -> dict[str, list[str]]:
    """Scene numbers on each list."""
    return {
        split: sorted(
            {Path(line.split()[1]).name[:5] for line in path.read_text().splitlines()}
            if (path := tree / f"Sony_{split}_list.txt").exists()
            else set()
        )
        for split in ("train", "val", "test")
    }


def pictures_by_scene(tree: Path) -> dict[str, str]:
    """Name of the picture that became each scene, as the plan has it."""
    plan = read_plan(tree / "Sony_simulation.json")
    assert plan is not None
    return {picture.scene: Path(picture.path).name for picture in plan.pictures}


@pytest.mark.parametrize(
    ("count", "tests", "vals"),
    [(1, 0, 0), (2, 0, 0), (3, 1, 1), (4, 1, 1), (5, 1, 1), (6, 1, 1), (50, 11, 4)],
)
def test_shares_are_exact_and_no_list_stays_empty(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    tests: int,
    vals: int,
) -> None:
    """Of three pictures on: training needs a validation list."""
    monkeypatch.setattr("gia_cli.simulation.dataset._simulate_scene", touch_files)
    photos = []
    for number in range(count):
        photos.append(pictures / f"{number:03}.png")
        photos[-1].touch()
    spy = ProgressSpy()
    simulate_tree(photos, tmp_path / "tree", progress=spy)
    lists = scenes_by_list(tmp_path / "tree")
    assert len(lists["test"]) == tests
    assert len(lists["val"]) == vals
    assert len(lists["train"]) == count - tests - vals
    if tests:
        assert spy.notes == []
    else:
        (note,) = spy.notes
        assert note.startswith("The tree has no scene for its lists val and test: ")


@pytest.mark.parametrize(
    ("test_share", "val_share", "wanted"),
    [
        (0.0, 0.0, (0, 0, 3)),
        (0.0, 0.1, (0, 1, 2)),
        (0.9, 0.05, (1, 1, 1)),
        (0.9, 0.1, (2, 1, 0)),
        (0.05, 0.95, (1, 2, 0)),
        (1.0, 0.0, (3, 0, 0)),
    ],
)
def test_only_lists_with_a_share_get_one(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    test_share: float,
    val_share: float,
    wanted: tuple[int, int, int],
) -> None:
    monkeypatch.setattr("gia_cli.simulation.dataset._simulate_scene", touch_files)
    photos = [pictures / name for name in ("a.png", "b.jpg", "c.png")]
    options = TreeOptions(test_share=test_share, val_share=val_share)
    simulate_tree(photos, tmp_path / "tree", options)
    lists = scenes_by_list(tmp_path / "tree")
    assert tuple(len(lists[split]) for split in ("test", "val", "train")) == wanted


def test_a_failed_picture_is_named_and_changes_no_other(pictures: Path, tmp_path: Path) -> None:
    options = TreeOptions(split="train")
    simulate_tree([pictures], tmp_path / "whole", options)
    (pictures / "b.jpg").write_bytes(b"junk")
    made = simulate_tree([pictures], tmp_path / "tree", options)
    assert [result.status for result in made.results].count("failed") == 1
    failed = made.results[1]
    assert failed.written == ()
    assert "b.jpg cannot be read" in str(failed.error)
    whole, rest = files(tmp_path / "whole"), files(tmp_path / "tree")
    lists, plan = "Sony_train_list.txt", "Sony_simulation.json"
    assert {
        name: data
        for name, data in whole.items()
        if "00002_" not in name and name not in (lists, plan)
    } == {name: data for name, data in rest.items() if name not in (lists, plan)}
    assert b"00002_" in whole[lists]
    assert rest[lists].splitlines() == [x for x in whole[lists].splitlines() if b"00002_" not in x]


def test_a_tree_is_resumed(pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    simulate_tree([pictures], tree)
    whole = files(tree)
    with pytest.raises(OutputExistsError):
        simulate_tree([pictures], tree)
    (tree / "Sony_train_list.txt").unlink()
    gone = sorted((tree / "Sony" / "short").glob("00002*"))[0]
    gone.unlink()
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*.ARW")}
    made = simulate_tree([pictures], tree, TreeOptions(SimulateOptions(on_exists="skip")))
    assert sorted(result.status for result in made.results) == ["skipped"] * 4 + ["written"]
    assert [path for result in made.results for path in result.written] == [gone]
    assert files(tree) == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before
    made = simulate_tree([pictures], tree, TreeOptions(SimulateOptions(on_exists="overwrite")))
    assert {result.status for result in made.results} == {"written"}
    assert files(tree) == whole


SKIP = TreeOptions(SimulateOptions(on_exists="skip"), ratios=(2.0,))
ERROR = replace(SKIP, exposure=SimulateOptions())
OVERWRITE = replace(SKIP, exposure=SimulateOptions(on_exists="overwrite"))


def grey_pictures(folder: Path, levels: list[int]) -> list[Path]:
    """Plain pictures, each of its own brightness: a file tells which it was made of."""
    return [
        save(folder / f"p{level:03}.png", np.full((48, 48, 3), level, np.uint8)) for level in levels
    ]


def levels_of(tree: Path) -> dict[str, set[int]]:
    """The pictures that the exposures of each scene were made of, told by their brightness."""
    levels: dict[str, set[int]] = {}
    for path in sorted(tree.glob("Sony/*/*.ARW")):
        frame = read_raw(path)
        ratio = 10 / (frame.shot.exposure_s or 0)
        neutral = (frame.mosaic[::2, 1::2].mean() - 512) * ratio / (16383 - 512)  # green
        candidates = np.arange(40, 256, 20)
        nearest = candidates[np.abs(srgb_decode(candidates / 255) - neutral).argmin()]
        levels.setdefault(path.name[:5], set()).add(int(nearest))
    return levels


def assert_whole(tree: Path, count: int) -> None:
    """Each scene is of one picture, the one that the plan names, and on one list."""
    by_scene = levels_of(tree)
    assert {
        scene: {f"p{level:03}.png" for level in found} for scene, found in by_scene.items()
    } == {scene: {name} for scene, name in pictures_by_scene(tree).items()}
    assert len(by_scene) == count
    lists = scenes_by_list(tree)
    assert sorted(scene for found in lists.values() for scene in found) == sorted(by_scene)
    for split, digit in (("train", "0"), ("test", "1"), ("val", "2")):
        assert {scene[0] for scene in lists[split]} <= {digit}


def test_more_pictures_are_appended_and_none_is_mixed_up(tmp_path: Path) -> None:
    """The first ones keep their scenes, wherever the new ones stand among them."""
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60, 80, 100, 140, 160, 200])
    simulate_tree([folder], tree, SKIP)
    assert_whole(tree, 6)
    before = files(tree)
    scenes = pictures_by_scene(tree)
    grey_pictures(folder, [40, 120, 180, 220])
    made = simulate_tree([folder], tree, SKIP)
    assert sorted(result.status for result in made.results) == ["skipped"] * 6 + ["written"] * 4
    assert_whole(tree, 10)
    assert scenes.items() <= pictures_by_scene(tree).items()
    after = files(tree)
    assert {name: after[name] for name in before if name.endswith("ARW")}.items() <= before.items()
    lists = scenes_by_list(tree)
    assert {split: len(scenes) for split, scenes in lists.items()} == {
        "train": 7,
        "val": 1,
        "test": 2,
    }
    simulate_tree([folder], tree, SKIP)
    assert files(tree) == after


@pytest.mark.slow
def test_pictures_one_by_one_get_the_same_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gia_cli.simulation.dataset._simulate_scene", touch_files)
    options = replace(SKIP, test_share=0.25, val_share=0.25)
    for level in range(40):
        photo = grey_pictures(tmp_path / str(level), [level])
        simulate_tree(photo, tmp_path / "tree", options)
    lists = scenes_by_list(tmp_path / "tree")
    assert [len(lists[split]) for split in ("train", "val", "test")] == [20, 10, 10]


def test_an_interrupted_tree_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when meanwhile a picture came that sorts before all others."""
    from gia_cli.simulation import photo as simulate

    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60, 100, 160, 200])
    write, calls = simulate._write, []

    def interrupted(path: Path, *args: Any) -> None:
        calls.append(path)
        if len(calls) == 4:  # the second picture's long exposure is there, its short one is not
            raise KeyboardInterrupt
        write(path, *args)

    monkeypatch.setattr(simulate, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate_tree([folder], tree, ERROR)
    assert len(list(tree.rglob("*.ARW"))) == 3
    monkeypatch.setattr(simulate, "_write", write)
    grey_pictures(folder, [40])
    with pytest.raises(OutputExistsError):
        simulate_tree([folder], tree, ERROR)
    simulate_tree([folder], tree, SKIP)
    assert_whole(tree, 5)


def test_an_interrupted_overwriting_mixes_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gia_cli.simulation import dataset

    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60, 100, 160, 200])
    simulate_tree([folder], tree, ERROR)
    grey_pictures(folder, [40])
    once = dataset._simulate_scene

    def second_is_interrupted(*args: Any) -> Simulated:
        if any(tree.rglob("*.ARW")):
            raise KeyboardInterrupt
        return once(*args)

    monkeypatch.setattr(dataset, "_simulate_scene", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate_tree([folder], tree, OVERWRITE)
    monkeypatch.setattr(dataset, "_simulate_scene", once)
    simulate_tree([folder], tree, SKIP)
    assert_whole(tree, 5)


def test_overwriting_makes_the_tree_again(tmp_path: Path) -> None:
    """Nothing of the old plan is left: its scenes, or lists that would name them."""
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    photos = grey_pictures(folder, [60, 100, 160, 200])
    simulate_tree([folder], tree, replace(ERROR, burst=2, iso=800))
    (tree / "Sony" / "short" / "mine.txt").write_text("mine")
    spy = ProgressSpy()
    simulate_tree(photos[:3], tree, replace(OVERWRITE, split="train"), progress=spy)
    assert_whole(tree, 3)
    left = [name for name in files(tree) if not name.endswith(".ARW")]
    assert left == ["Sony/short/mine.txt", "Sony_simulation.json", "Sony_train_list.txt"]
    (note,) = spy.notes
    assert "other files of the tree's old plan were removed" in note


def test_pictures_of_other_folders_join_a_list_of_their_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    first, second = (grey_pictures(tmp_path / name, [60, 100]) for name in ("one", "two"))
    for path, level in zip(second, (160, 200), strict=True):
        save(path, np.full((48, 48, 3), level, np.uint8))  # other pictures of the same names
    simulate_tree(first, tree, replace(ERROR, split="train"))
    simulate_tree(second, tree, replace(ERROR, split="test"))
    assert scenes_by_list(tree) == {
        "train": ["00001", "00002"],
        "val": [],
        "test": ["10001", "10002"],
    }
    assert levels_of(tree) == {"00001": {60}, "00002": {100}, "10001": {160}, "10002": {200}}
    simulate_tree([tmp_path / "two"], tree, SKIP)  # the lists still name both folders' scenes
    assert len(scenes_by_list(tree)["train"]) == 2
    with pytest.raises(UsageError, match=r"p060\.png is already on the tree's train list"):
        simulate_tree(first, tree, replace(SKIP, split="val"))


def test_moved_and_renamed_pictures_are_known_by_their_content(tmp_path: Path) -> None:
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    one, two, _ = grey_pictures(folder, [60, 100, 160])
    simulate_tree([folder], tree, ERROR)
    before = levels_of(tree)
    one.rename(folder / "x.png")
    two.rename(one)
    (folder / "x.png").rename(two)  # the two have changed their names
    folder.rename(tmp_path / "moved")
    made = simulate_tree([tmp_path / "moved"], tree, SKIP)
    assert {result.status for result in made.results} == {"skipped"}
    assert levels_of(tree) == before
    assert sorted(pictures_by_scene(tree).values()) == ["p060.png", "p100.png", "p160.png"]


def test_a_picture_that_has_changed_is_refused_while_its_files_are_there(tmp_path: Path) -> None:
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    photos = grey_pictures(folder, [60, 100, 160])
    photos[1].write_bytes(b"junk")
    simulate_tree([folder], tree, ERROR)
    grey_pictures(folder, [100])  # mended: nothing was made of the junk
    simulate_tree([folder], tree, SKIP)
    assert_whole(tree, 3)
    before = files(tree)
    save(photos[1], np.full((48, 48, 3), 200, np.uint8))
    with pytest.raises(DataError, match=r"made from other pictures named .*p100\.png\."):
        simulate_tree([folder], tree, SKIP)
    assert files(tree) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(SKIP, exposure=replace(SKIP.exposure, seed=1)), "--seed 0, not 1."),
        (replace(SKIP, exposure=replace(SKIP.exposure, ev=-1)), "--ev 0, not -1."),
        (replace(SKIP, exposure=replace(SKIP.exposure, shrink=2)), "--shrink 1, not 2."),
        (
            replace(SKIP, exposure=replace(SKIP.exposure, clean_long=True)),
            "--clean-long off, not on.",
        ),
        (replace(SKIP, exposure=replace(SKIP.exposure, aperture=4)), "--aperture 8, not 4."),
        (replace(SKIP, ratios=(100, 300)), "--ratios 2, not 100,300."),
        (replace(SKIP, ratios=None), "--ratios 2, not as drawn."),
        (replace(SKIP, iso=800), "--iso as drawn, not 800."),
        (replace(SKIP, wb=(2, 1, 2)), "--wb as drawn, not 2,1,2."),
        (replace(SKIP, burst=2, iso=800), "--iso as drawn, not 800; --burst 1, not 2."),
    ],
)
def test_other_options_than_the_trees_are_refused(
    tmp_path: Path, options: TreeOptions, words: str
) -> None:
    (photo,) = grey_pictures(tmp_path, [100])
    tree = tmp_path / "tree"
    simulate_tree([photo], tree, replace(ERROR, split="train"))
    before = files(tree)
    with pytest.raises(UsageError) as caught:
        simulate_tree([photo], tree, options)
    assert caught.value.message.startswith(f"{tree} was made with other options: {words}")
    assert "--on-exists overwrite to make it again" in caught.value.hint
    assert files(tree) == before
    anew = replace(options, exposure=replace(options.exposure, on_exists="overwrite"))
    assert simulate_tree([photo], tree, anew).results[0].status == "written"


def test_the_cameras_of_a_tree_have_a_plan_each(tmp_path: Path) -> None:
    """As in SID, whose two cameras share one folder."""
    photo = save(tmp_path / "day.png", smooth_photo())
    simulate_tree([photo], tmp_path / "tree", ERROR)
    fuji = TreeOptions(SimulateOptions(camera="X-T2", seed=5), ratios=(300,))
    simulate_tree([photo], tmp_path / "tree", fuji)
    names = [path.name for path in (tmp_path / "tree").glob("*.json")]
    assert sorted(names) == ["Fuji_simulation.json", "Sony_simulation.json"]


def test_a_tree_without_a_plan_is_continued_if_it_is_the_same(tmp_path: Path) -> None:
    """Trees of earlier versions have none."""
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60, 100, 160, 200])
    simulate_tree([folder], tree, SKIP)
    whole = files(tree)
    plan = tree / "Sony_simulation.json"
    plan.unlink()
    next(tree.glob("Sony/short/00002*")).unlink()
    made = simulate_tree([folder], tree, SKIP)
    assert sorted(result.status for result in made.results) == ["skipped"] * 3 + ["written"]
    assert files(tree) == whole
    plan.unlink()
    grey_pictures(folder, [40])  # now every number stands for another picture
    before = files(tree)
    with pytest.raises(
        DataError,
        match=r"\.ARW already exists, and differs from what these options make from .*\.png",
    ) as caught:
        simulate_tree([folder], tree, SKIP)
    assert "--on-exists overwrite to make it again" in caught.value.hint
    assert files(tree) == before


def test_files_that_no_plan_knows_are_not_taken_for_a_new_pictures(tmp_path: Path) -> None:
    folder, tree = tmp_path / "pictures", tmp_path / "tree"
    grey_pictures(folder, [60])
    train = replace(SKIP, split="train")
    simulate_tree([folder], tree, train)
    (long,) = tree.glob("Sony/long/*.ARW")
    long.with_name("00002_00_10s.ARW").write_bytes(long.read_bytes())
    grey_pictures(folder, [200])
    with pytest.raises(DataError, match=r"00002_00_10s\.ARW already exists"):
        simulate_tree([folder], tree, train)


def test_a_picture_named_twice_is_one(tmp_path: Path) -> None:
    (photo,) = grey_pictures(tmp_path / "pictures", [60])
    again = tmp_path / "pictures" / ".." / "pictures"
    made = simulate_tree([photo, again], tmp_path / "tree", ERROR)
    assert len(made.results) == 1


def test_xtrans_trees_need_pictures_that_libraw_can_render(day: Path, tmp_path: Path) -> None:
    options = TreeOptions(SimulateOptions(camera="X-T2"))
    (result,) = simulate_tree([day], tmp_path / "tree", options).results
    assert isinstance(result.error, DataError)
    assert "needs 512 X-Trans photosites a side, not 96" in str(result.error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TreeOptions(iso=1700), "not known at ISO 1700"),
        (TreeOptions(ratios=(1.0,)), "--ratios must be"),
        (TreeOptions(ratios=(100, 100)), "cannot be told apart"),
        (TreeOptions(ratios=(30_000,)), "cannot be told apart by the exposure times.* 0s"),
        (TreeOptions(SimulateOptions(long_exposure_s=0.1)), "100, 250, 300 cannot be told apart"),
        (TreeOptions(burst=0), "--burst must be"),
        (TreeOptions(test_share=1.5), "--test-share must be"),
        (TreeOptions(val_share=-0.1), "--val-share must be"),
        (TreeOptions(test_share=0.6, val_share=0.6), "add up to more than 1"),
        (TreeOptions(wb=(2, 1, 30)), "--wb must be"),
    ],
)
def test_impossible_trees_are_refused(
    day: Path, tmp_path: Path, options: TreeOptions, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        simulate_tree([day], tmp_path / "tree", options)
    assert not (tmp_path / "tree").exists()


def test_trees_need_pictures_and_room(
    day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photograph in"):
        simulate_tree([tmp_path / "empty"], tmp_path / "tree")
    with pytest.raises(DataError, match="no folder"):
        simulate_tree([tmp_path / "gone"], tmp_path / "tree")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        simulate_tree([day], day)
    monkeypatch.setattr("gia_cli.simulation.dataset.MOST_SCENES", 0)
    with pytest.raises(UsageError, match="more than SID's names have numbers for"):
        simulate_tree([day], tmp_path / "tree")


# ---------------------------------------------------------------- many machines


def without_locks(tree: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(tree).items() if not name.endswith(".lock")}


@pytest.fixture
def by_one(pictures: Path, tmp_path: Path) -> dict[str, bytes]:
    """What one machine makes of the pictures."""
    simulate_tree([pictures], tmp_path / "alone", DEALT)
    return files(tmp_path / "alone")


DEALT = TreeOptions(ratios=(100, 250), test_share=0.2, val_share=0.2)
FIRST, SECOND = Shard(1, 2), Shard(2, 2)


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)])
def test_two_shares_make_byte_for_byte_what_one_machine_makes(
    pictures: Path, tmp_path: Path, by_one: dict[str, bytes], order: tuple[Shard, Shard]
) -> None:
    tree = tmp_path / "tree"
    made = [simulate_tree([pictures], tree, DEALT, shard=shard) for shard in order]
    assert without_locks(tree) == by_one
    assert sorted(len(each.results) for each in made) == [2, 3]
    assert [each.planned for each in made] == [5, 5]
    assert len({result.long for each in made for result in each.results}) == 5


def test_lists_are_right_whichever_share_looks_first(
    pictures: Path, tmp_path: Path, by_one: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One looks what is there; another writes its last scene and the lists; the one writes, too."""
    tree, write, others = tmp_path / "tree", dataset._write_list, [SECOND]

    def after_the_other(*arguments: Any) -> None:
        while others:
            simulate_tree([pictures], tree, DEALT, shard=others.pop())
        write(*arguments)

    monkeypatch.setattr(dataset, "_write_list", after_the_other)
    simulate_tree([pictures], tree, DEALT, shard=FIRST)
    assert not others and without_locks(tree) == by_one


def test_a_share_that_was_interrupted_is_taken_up(
    pictures: Path, tmp_path: Path, by_one: dict[str, bytes]
) -> None:
    tree = tmp_path / "tree"

    def stop(_: Simulated) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_tree([pictures], tree, DEALT, shard=FIRST, on_result=stop)
    simulate_tree([pictures], tree, DEALT, shard=SECOND)
    with pytest.raises(OutputExistsError):
        simulate_tree([pictures], tree, DEALT, shard=FIRST)
    again = simulate_tree([pictures], tree, skipping(DEALT), shard=FIRST)
    assert sorted(result.status for result in again.results) == ["skipped", "written", "written"]
    assert without_locks(tree) == by_one


def skipping(options: TreeOptions) -> TreeOptions:
    return replace(options, exposure=replace(options.exposure, on_exists="skip"))


def test_a_share_that_overwrites_leaves_the_others_files_unless_the_plan_is_another(
    pictures: Path, tmp_path: Path, by_one: dict[str, bytes]
) -> None:
    tree = tmp_path / "tree"
    simulate_tree([pictures], tree, DEALT)
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*.ARW")}
    anew = replace(DEALT, exposure=replace(DEALT.exposure, on_exists="overwrite"))
    made = simulate_tree([pictures], tree, anew, shard=FIRST)
    own = {path for result in made.results for path in result.files}
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == own and without_locks(tree) == by_one
    other = replace(anew, ratios=(300,))
    simulate_tree([pictures], tree, other, shard=FIRST)
    assert {path.name.split("_")[0] for path in tree.rglob("*.ARW")} == {
        result.long.name.split("_")[0] for result in made.results
    }
    simulate_tree([pictures], tree, other, shard=SECOND)
    assert len(list(tree.rglob("*.ARW"))) == 10


def test_pictures_of_other_shares_are_not_read_twice(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, seen = fingerprint, list[str]()

    def note(photo: Path, tree: Path) -> Any:
        seen.append(photo.name)
        return look(photo, tree)

    monkeypatch.setattr(dataset, "fingerprint", note)
    simulate_tree([pictures], tmp_path / "tree", DEALT, shard=FIRST)
    assert len(seen) == 5
    seen.clear()
    made = simulate_tree([pictures], tmp_path / "tree", DEALT, shard=SECOND)
    assert sorted(seen) == sorted(result.source.name for result in made.results)


def test_a_share_with_other_options_or_made_by_another_is_refused(
    pictures: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    simulate_tree([pictures], tree, DEALT, shard=FIRST)
    with pytest.raises(UsageError, match="made with other options: --ratios"):
        simulate_tree([pictures], tree, replace(DEALT, ratios=(300,)), shard=SECOND)
    with (
        only_driver_of([tree], "gia simulate", SECOND, option="--out"),
        pytest.raises(UsageError, match=r"Another gia simulate is writing into .* shard 2/2"),
    ):
        simulate_tree([pictures], tree, DEALT, shard=SECOND)


@pytest.mark.parametrize("on_exists", ["error", "skip", "overwrite"])
@pytest.mark.parametrize("deaths", [0, 1])
def test_workers_make_the_same_tree_also_when_they_die(
    pictures: Path,
    tmp_path: Path,
    by_one: dict[str, bytes],
    on_exists: OnExists,
    deaths: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It dies when the scene's files are written, before it tells."""

    monkeypatch.setattr(dataset, "run_on_cluster", in_process(deaths))
    tree = tmp_path / "tree"
    options = replace(DEALT, exposure=replace(DEALT.exposure, on_exists=on_exists))
    made = simulate_tree([pictures], tree, options, cluster=RayOptions("local"))
    assert {result.status for result in made.results} == {"written"}
    assert [len(result.written) for result in made.results] == [3] * 5
    assert without_locks(tree) == by_one
    again = simulate_tree([pictures], tree, skipping(DEALT), cluster=RayOptions("local"))
    assert {result.status for result in again.results} == {"skipped"}


def test_a_scene_that_kills_its_worker_is_named_and_costs_no_other(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "run_on_cluster", in_process(deaths=3))
    (result,) = simulate_tree(
        [pictures / "a.png"], tmp_path / "tree", DEALT, cluster=RayOptions("local")
    ).results
    assert result.status == "failed" and isinstance(result.error, WorkerError)
    assert "a.png: its worker died of it 3 times" in str(result.error)


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers", "alone")
def test_a_cluster_makes_the_same_tree_though_a_worker_is_killed(
    pictures: Path, tmp_path: Path, by_one: dict[str, bytes]
) -> None:
    spy, killed = ProgressSpy(), list[int]()

    def kill(_: Simulated) -> None:
        process = re.search(r"process (\d+)", next(d for d in spy.details if "worker" in d))
        if not killed and process is not None:
            killed.append(int(process[1]))
            os.kill(killed[0], signal.SIGKILL)

    tree = tmp_path / "tree"
    made = simulate_tree([pictures], tree, DEALT, cluster=TWO, progress=spy, on_result=kill)
    assert killed and {result.status for result in made.results} == {"written"}
    assert without_locks(tree) == by_one
