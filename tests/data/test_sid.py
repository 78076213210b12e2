"""SID's lists as published, and pairs of a tree with its names.

`sid_lists.txt` holds what SID's six lists say (MIT licence, Chen et al. 2018); from it the
very text of each is rebuilt.
"""

from __future__ import annotations

import hashlib
import pickle
import shutil
from dataclasses import fields, replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.cameras import CameraFamily, CameraName
from gia_cli.data import sid
from gia_cli.data.sid import SidFrames, SidPair, open_splits, read_list, select
from gia_cli.errors import DataError, FileMissingError, OutputError, RawError
from gia_cli.imaging.color import bt709_encode
from gia_cli.raw.reader import RawFrame, read_raw, render_truth
from gia_cli.raw.writer import A_SHOT, write_arw, write_raf
from gia_cli.sid_layout import Protocol, Split
from gia_cli.simulation.dataset import simulate_tree
from gia_cli.simulation.options import SimulateOptions, TreeOptions
from tests.progress_spy import ProgressSpy

SUMMARY = Path(__file__).parent / "sid_lists.txt"
LISTS = ["Sony_train", "Sony_val", "Sony_test", "Fuji_train", "Fuji_val", "Fuji_test"]


# ---------------------------------------------------------------- the published lists


def rebuilt() -> dict[str, tuple[str, str]]:
    """Text of each list, and the SHA-256 of the published one."""
    lines: dict[str, list[str]] = {}
    digests: dict[str, str] = {}
    for row in SUMMARY.read_text(encoding="ascii").splitlines():
        if row.startswith("["):
            head, digest = row.split()
            name = head.strip("[]")
            lines[name], digests[name] = [], digest
        elif not row.startswith("#"):
            lines[name] += scene_lines(name.split("_")[0], row)
    return {name: ("".join(sorted(lines[name])), digests[name]) for name in lines}


def scene_lines(family: str, row: str) -> list[str]:
    scene, long_s, iso, aperture, *shorts = row.split()
    ending = {"Sony": "ARW", "Fuji": "RAF"}[family]
    tail = f"./{family}/long/{scene}_00_{long_s}s.{ending} ISO{iso} F{aperture}\n"
    lines = []
    for short in shorts:
        seconds, bursts = short.split(":")
        first, last = map(int, bursts.split("-"))
        lines += [
            f"./{family}/short/{scene}_{burst:02d}_{seconds}s.{ending} {tail}"
            for burst in range(first, last + 1)
        ]
    return lines


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with the published lists, and no photo."""
    tree = tmp_path_factory.mktemp("published")
    for name, (text, _) in rebuilt().items():
        (tree / f"{name}_list.txt").write_text(text, encoding="ascii", newline="\n")
    return tree


@pytest.mark.parametrize("name", LISTS)
def test_the_rebuilt_lists_are_the_published_ones_to_the_byte(published: Path, name: str) -> None:
    data = (published / f"{name}_list.txt").read_bytes()
    assert hashlib.sha256(data).hexdigest() == rebuilt()[name][1]


@pytest.mark.parametrize(
    ("camera", "split", "counts"),
    [
        ("sony", "train", (1865, 1865, 280, 280)),
        ("sony", "val", (234, 234, 36, 36)),
        ("sony", "test", (598, 562, 93, 88)),
        ("fuji", "train", (1655, 1655, 286, 286)),
        ("fuji", "val", (218, 218, 38, 38)),
        ("fuji", "test", (524, 524, 94, 94)),
    ],
)
def test_each_protocol_has_as_many_pairs_as_published(
    published: Path, camera: CameraFamily, split: Split, counts: tuple[int, ...]
) -> None:
    pairs = read_list(published, camera, split)
    protocols: list[Protocol] = ["all", "clean", "00", "clean-00"]
    assert tuple(len(select(pairs, protocol)) for protocol in protocols) == counts


@pytest.mark.parametrize(
    ("camera", "split", "scenes"),
    [("sony", "train", 161), ("sony", "val", 20), ("sony", "test", 50),
     ("fuji", "train", 135), ("fuji", "val", 17), ("fuji", "test", 41)],
)  # fmt: skip
def test_each_list_has_as_many_scenes_and_ratios_as_published(
    published: Path, camera: CameraFamily, split: Split, scenes: int
) -> None:
    pairs = read_list(published, camera, split)
    assert len({pair.scene for pair in pairs}) == scenes
    assert {round(pair.ratio, 6) for pair in pairs} == {100, 250, 300}
    digit = {"train": "0", "test": "1", "val": "2"}[split]
    assert {pair.scene[0] for pair in pairs} == {digit}


def test_a_line_is_understood(published: Path) -> None:
    assert read_list(published, "sony", "train")[0] == SidPair(
        camera="sony",
        scene="00001",
        burst="00",
        short=published / "Sony" / "short" / "00001_00_0.04s.ARW",
        long=published / "Sony" / "long" / "00001_00_10s.ARW",
        short_s=0.04,
        long_s=10.0,
        iso=200,
    )


def test_only_sonys_misaligned_scenes_are_left_out(published: Path) -> None:
    """The Fuji test list has a scene 10172 too."""
    sony, fuji = (read_list(published, camera, "test") for camera in ("sony", "fuji"))
    left = {pair.scene for pair in sony} - {pair.scene for pair in select(sony, "clean")}
    assert left == {"10034", "10045", "10172"}
    assert select(fuji, "clean") == fuji
    assert "10172" in {pair.scene for pair in fuji}


# ---------------------------------------------------------------- other lists

GOOD = "./Sony/short/00001_00_0.1s.ARW ./Sony/long/00001_00_10s.ARW ISO200 F8"


def write_list(tree: Path, text: str, name: str = "Sony_train_list.txt") -> Path:
    path = tree / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        "./Sony/short/00001_00_0.1s.ARW",
        GOOD.replace("short", "long"),
        GOOD.replace("Sony", "Fuji"),
        GOOD.replace("long/00001", "long/00002"),
        GOOD.replace("0.1s", "s"),
        GOOD.replace("0.1s", "0.0s"),
        GOOD.replace("0.1s", "0.1.1s"),
        GOOD.replace("./Sony/short", "./Sony/short/../../.."),
        GOOD.replace("./Sony", "/Sony"),
        "\0\ufffd" * 300,
    ],
)
def test_a_line_that_is_not_understood_is_named(tmp_path: Path, bad: str) -> None:
    write_list(tmp_path, f"{GOOD}\n\n{bad}\n")
    with pytest.raises(DataError, match=r"Sony_train_list\.txt, line 3") as caught:
        read_list(tmp_path, "sony", "train")
    assert caught.value.exit_code == 70
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < len(str(tmp_path)) + 1000


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_list_is_refused(tmp_path: Path, text: str) -> None:
    write_list(tmp_path, text)
    with pytest.raises(DataError, match="lists no photos"):
        read_list(tmp_path, "sony", "train")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_list_that_is_not_there_is_named_with_its_source(tmp_path: Path, split: Split) -> None:
    for tree in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"Fuji_{split}_list.txt") as caught:
            read_list(tree, "fuji", split)
        assert "cchen156/Learning-to-See-in-the-Dark" in caught.value.hint


def test_a_folder_with_other_lists_names_them(tmp_path: Path) -> None:
    write_list(tmp_path, GOOD)
    with pytest.raises(DataError, match="There is no list") as caught:
        read_list(tmp_path, "fuji", "val")
    assert caught.value.hint.startswith("The folder has Sony_train_list.txt. ")


@pytest.mark.parametrize("is_there", [True, False])
def test_the_hint_for_a_simulated_tree_fills_a_list(tmp_path: Path, is_there: bool) -> None:
    """Not to make the tree that it is; and what is told works."""
    exposure, ratios = SimulateOptions(on_exists="skip"), (100.0, 300.0)
    tree = make_tree(tmp_path, "ILCE-7SM2", (48, 64), TreeOptions(exposure, ratios), 2)
    if not is_there:
        (tree / "Sony_val_list.txt").unlink()
    with pytest.raises(DataError, match=r"Sony_val_list\.txt") as caught:
        SidFrames.open(tree, "sony", "val")
    command = f"'gia simulate MORE-PICTURES --sid --out {tree} --split val --on-exists skip'"
    assert command in caught.value.hint
    assert "cchen156" not in caught.value.hint
    iio.imwrite(tmp_path / "more.png", np.full((48, 64, 3), 90, np.uint8))
    simulate_tree([tmp_path / "more.png"], tree, TreeOptions(exposure, ratios, split="val"))
    assert [len(frames) for frames in open_splits(tree, "sony", ["train", "val"])] == [4, 2]


def test_a_list_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "Sony_train_list.txt").mkdir()
    with pytest.raises(DataError, match="directory"):
        read_list(tmp_path, "sony", "train")


def test_line_ends_blank_lines_and_missing_details_do_no_harm(tmp_path: Path) -> None:
    bare = GOOD.replace("./", "").removesuffix(" ISO200 F8")
    write_list(tmp_path, f"{GOOD}\r\n\r\n{bare}")
    first, second = read_list(tmp_path, "sony", "train")
    assert first.iso == 200
    assert second.iso is None
    assert replace(second, iso=200) == first


def test_the_ratio_is_at_most_300(tmp_path: Path) -> None:
    write_list(tmp_path, "".join(f"{GOOD.replace('0.1s', f'{t}s')}\n" for t in ("0.001", "0.5")))
    assert [pair.ratio for pair in read_list(tmp_path, "sony", "train")] == [300, 20]


# ---------------------------------------------------------------- a tree with photos


def make_tree(
    folder: Path, camera: CameraName, size: tuple[int, int], options: TreeOptions, pictures: int
) -> Path:
    rng = np.random.default_rng(3)
    paths = [folder / f"{index}.png" for index in range(pictures)]
    for path in paths:
        coarse = rng.integers(20, 235, (-(-size[0] // 16), -(-size[1] // 16), 3)).astype(np.uint8)
        iio.imwrite(path, coarse.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]])
    options = replace(options, exposure=replace(options.exposure, camera=camera))
    made = simulate_tree(paths, folder / "tree", options)
    assert not any(result.error for result in made.results)
    return folder / "tree"


@pytest.fixture(scope="module")
def sony_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of six short exposures of 96x128 photosites."""
    options = TreeOptions(SimulateOptions(seed=4), ratios=(100, 250, 300), burst=2, split="train")
    return make_tree(tmp_path_factory.mktemp("sony"), "ILCE-7SM2", (96, 128), options, 2)


@pytest.fixture
def tree(sony_tree: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(sony_tree, tmp_path / "tree")


def assert_same_frame(found: RawFrame, wanted: RawFrame) -> None:
    for name in (field.name for field in fields(RawFrame)):
        got, want = getattr(found, name), getattr(wanted, name)
        if isinstance(want, np.ndarray):
            assert got.dtype == want.dtype, name
            assert np.array_equal(got, want), name
        else:
            assert got == want, name


def refused(frames_tree: Path, progress: ProgressSpy | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        SidFrames.open(frames_tree, "sony", "train", progress=progress or ProgressSpy())
    assert caught.value.exit_code == 70
    assert "\n" not in caught.value.message
    return caught.value


def test_frames_are_the_files_mapped_into_memory(tree: Path) -> None:
    frames = SidFrames.open(tree, "sony", "train")
    assert len(frames) == len(frames.pairs) == 12
    for index, pair in enumerate(frames.pairs):
        frame, truth = frames.frame(index)
        assert_same_frame(frame, read_raw(pair.short))
        assert np.array_equal(truth, render_truth(pair.long))
        assert truth.dtype == np.uint16
        for array in (frame.mosaic, truth):
            assert isinstance(array, np.memmap)
            assert not array.flags.writeable
    assert {round(pair.ratio) for pair in frames.pairs} == {100, 250, 300}


def test_mosaic_and_truth_lie_on_each_other_unrotated(tree: Path) -> None:
    """A bright square in a dark frame, taken with the camera upright, is where it was."""
    pair = read_list(tree, "sony", "train")[0]
    mosaic = np.full((60, 90), 700)
    mosaic[8:20, 60:80] = 9000
    for path, seconds in ((pair.short, pair.short_s), (pair.long, pair.long_s)):
        write_arw(path, mosaic, shot=replace(A_SHOT, exposure_s=seconds), orientation=6)
    write_list(tree, GOOD.replace("0.1s", pair.short.stem.split("_")[2].removesuffix("s") + "s"))
    frame, truth = SidFrames.open(tree, "sony", "train").frame(0)
    assert frame.flip == 6
    assert truth.shape == (60, 90, 3)
    inside = truth[10:18, 62:78, 1]
    outside = truth[:, :, 1].copy()
    outside[6:22, 58:82] = 0
    assert inside.min() > 2 * outside.max()


def test_fujis_frames_are_xtrans(tmp_path: Path) -> None:
    options = TreeOptions(SimulateOptions(seed=4), ratios=(250,), split="test")
    tree = make_tree(tmp_path, "X-T2", (512 + 4, 512 + 4), options, 1)
    frames = SidFrames.open(tree, "fuji", "test")
    frame, truth = frames.frame(0)
    assert_same_frame(frame, read_raw(frames.pairs[0].short))
    assert frame.kind == "xtrans"
    assert truth.shape == (*frame.mosaic.shape, 3) == (516, 516, 3)


def test_the_protocol_decides_what_is_decoded(tree: Path) -> None:
    frames = SidFrames.open(tree, "sony", "train", protocol="00")
    assert {pair.burst for pair in frames.pairs} == {"00"}
    assert len(frames) == 6
    assert len(list((tree / ".gia-cache").glob("*short*.npy"))) == 6


def test_a_protocol_without_pairs_is_refused(tree: Path) -> None:
    write_list(tree, GOOD.replace("_00_0", "_01_0"))
    with pytest.raises(DataError, match="protocol '00'"):
        SidFrames.open(tree, "sony", "train", protocol="00")


def test_what_is_decoded_is_not_decoded_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SidFrames.open(tree, "sony", "train")
    monkeypatch.setattr(sid, "read_raw", None)
    monkeypatch.setattr(sid, "render_truth", None)
    listener = ProgressSpy()
    second = SidFrames.open(tree, "sony", "train", progress=listener)
    assert listener.stage_names == ["checking"]
    assert second.pairs == first.pairs
    assert_same_frame(second.frame(3)[0], first.frame(3)[0])


def test_trees_may_share_a_cache(tree: Path, sony_tree: Path, tmp_path: Path) -> None:
    """Their files have the same names."""
    cache = tmp_path / "cache"
    first = SidFrames.open(sony_tree, "sony", "train", protocol="00", cache=cache)
    short = first.pairs[0].short
    shutil.copy(first.pairs[1].short, tree / short.relative_to(sony_tree))
    shutil.copy(first.pairs[1].short, tree / first.pairs[1].short.relative_to(sony_tree))
    write_list(tree, (tree / "Sony_train_list.txt").read_text().splitlines()[1])
    second = SidFrames.open(tree, "sony", "train", protocol="00", cache=cache)
    assert np.array_equal(first.frame(0)[0].mosaic, read_raw(short).mosaic)
    assert np.array_equal(second.frame(0)[0].mosaic, first.frame(1)[0].mosaic)
    assert not (tree / ".gia-cache").exists()


def test_a_tree_that_may_not_be_written_asks_for_another_cache(tree: Path) -> None:
    (tree / ".gia-cache").write_text("in the way")
    with pytest.raises(OutputError) as caught:
        SidFrames.open(tree, "sony", "train")
    assert caught.value.exit_code == 60
    assert "--cache" in caught.value.hint


def test_frames_go_to_another_process_without_their_arrays(tree: Path) -> None:
    frames = SidFrames.open(tree, "sony", "train")
    frame, truth = frames.frame(5)
    data = pickle.dumps(frames)
    assert len(data) < truth.nbytes
    again = pickle.loads(data)
    assert again.pairs == frames.pairs
    assert_same_frame(again.frame(5)[0], frame)
    assert np.array_equal(again.frame(5)[1], truth)


# ---------------------------------------------------------------- what is missing or broken


def test_all_missing_files_are_named_before_anything_is_decoded(tree: Path) -> None:
    pairs = read_list(tree, "sony", "train")
    gone = [pairs[0].short, pairs[3].short, pairs[0].long]
    for path in gone:
        path.unlink()
    listener = ProgressSpy()
    message = refused(tree, listener).message
    assert message.startswith("3 files")
    assert all(str(path) in message for path in gone)
    assert listener.stage_names == []
    assert not (tree / ".gia-cache").exists()


def test_what_all_lists_lack_is_named_at_once(tree: Path, sony_tree: Path) -> None:
    """Before the first one is decoded, which takes hours."""
    lines = (tree / "Sony_train_list.txt").read_text().splitlines(keepends=True)
    write_list(tree, "".join(lines[:6]))
    write_list(tree, "".join(lines[6:]), "Sony_val_list.txt")
    training, validation = (read_list(tree, "sony", split) for split in ("train", "val"))
    gone = [training[1].short, validation[2].short, validation[0].long]
    for path in gone:
        path.unlink()
    listener = ProgressSpy()
    with pytest.raises(DataError, match=r"^3 files cannot be used") as caught:
        open_splits(tree, "sony", ["train", "val"], progress=listener)
    assert all(str(path) in caught.value.message for path in gone)
    with pytest.raises(DataError, match=r"There is no list .*Sony_test_list\.txt"):
        open_splits(tree, "sony", ["train", "test"], progress=listener)
    assert listener.stage_names == []
    assert not (tree / ".gia-cache").exists()
    for path in gone:
        shutil.copy(sony_tree / path.relative_to(tree), path)
    opened = open_splits(tree, "sony", ["val", "train"], protocol="00", progress=listener)
    splits: tuple[Split, ...] = ("val", "train")
    for frames, split in zip(opened, splits, strict=True):
        alone = SidFrames.open(tree, "sony", split, protocol="00")
        assert frames.pairs == alone.pairs
        assert_same_frame(frames.frame(1)[0], alone.frame(1)[0])


def test_of_very_many_missing_files_each_is_noted(published: Path) -> None:
    listener = ProgressSpy()
    with pytest.raises(
        DataError, match=r"^254 files .* And 234 more, named above\. Get the missing files"
    ):
        SidFrames.open(published, "sony", "val", progress=listener)
    assert len(listener.notes) == 234 + 20  # short and long exposures
    assert len(set(listener.notes)) == len(listener.notes)


def test_all_broken_files_are_named_and_the_others_kept(tree: Path, sony_tree: Path) -> None:
    pairs = read_list(tree, "sony", "train")
    broken = [pairs[0].short, pairs[7].short, pairs[11].long]
    whole = [path.read_bytes() for path in broken]
    for path, other in zip(broken, (pairs[11], pairs[0], pairs[0]), strict=True):
        path.write_bytes(other.short.read_bytes())  # of another time than the name says
    message = refused(tree).message
    assert message.startswith("3 files")
    assert all(str(path) in message for path in broken)
    records = {path: path.stat().st_mtime_ns for path in (tree / ".gia-cache").glob("*.json")}
    assert len(records) == 12 + 2 - 3
    for path, data in zip(broken, whole, strict=True):
        path.write_bytes(data)
    assert len(SidFrames.open(tree, "sony", "train")) == 12
    assert all(path.stat().st_mtime_ns == time for path, time in records.items())


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_that_are_cut_short_are_named_before_anything_is_decoded(
    tree: Path, split: Split
) -> None:
    """Whichever list they are in: decoding takes hours."""
    lines = (tree / "Sony_train_list.txt").read_text().splitlines(keepends=True)
    write_list(tree, "".join(lines[:6]))
    write_list(tree, "".join(lines[6:]), "Sony_val_list.txt")
    pairs = read_list(tree, "sony", split)
    broken = [pairs[0].short, pairs[1].short, pairs[2].short, pairs[0].long]
    broken[0].write_bytes(broken[0].read_bytes()[:-5000])
    broken[1].write_bytes(b"")
    broken[2].write_bytes(b"\xff\xd8\xff" + bytes(9000))
    broken[3].write_bytes(broken[3].read_bytes()[:300])
    listener = ProgressSpy()
    with pytest.raises(DataError, match=r"^4 files cannot be used") as caught:
        open_splits(tree, "sony", ["train", "val"], progress=listener)
    assert all(str(path) in caught.value.message for path in broken)
    assert "Copy these files again" in caught.value.hint
    assert listener.stage_names == ["checking", "checking", "checking files"]
    assert not (tree / ".gia-cache").exists()


def test_a_suspicion_is_no_refusal(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some cameras state lengths that are wrong."""
    monkeypatch.setattr(sid, "looks_cut_short", lambda _: True)
    assert len(SidFrames.open(tree, "sony", "train")) == 12


def test_of_what_is_decoded_no_photo_is_opened(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SidFrames.open(tree, "sony", "train")
    monkeypatch.setattr(sid, "refuse_hopeless", lambda path: pytest.fail(f"opened {path}"))
    listener = ProgressSpy()
    SidFrames.open(tree, "sony", "train", progress=listener)
    assert listener.stage_names == ["checking"]


def test_a_file_whose_exif_contradicts_its_name_is_named(tree: Path) -> None:
    """SID's times differ by a fifth at least, and a mixed up file spoils the ratio."""
    by_ratio = {round(pair.ratio): pair for pair in read_list(tree, "sony", "train")}
    shutil.copy(by_ratio[250].short, by_ratio[300].short)
    message = refused(tree).message
    assert message.startswith("1 file ")
    assert str(by_ratio[300].short) in message
    assert "0.04 s" in message


def one_pair(tree: Path, short_name: str, short_s: float | None, long_s: float | None) -> SidPair:
    """Open a tree of one pair with other times in its EXIF; the long one's name says 10 s."""
    pair = read_list(tree, "sony", "train")[0]
    mosaic = read_raw(pair.short).mosaic
    short = pair.short.with_name(f"00001_00_{short_name}.ARW")
    write_arw(short, mosaic, shot=replace(A_SHOT, exposure_s=short_s))
    write_arw(pair.long, mosaic, shot=replace(A_SHOT, exposure_s=long_s))
    write_list(tree, GOOD.replace("0.1s", short_name))
    return SidFrames.open(tree, "sony", "train").pairs[0]


def test_the_exif_decides_within_the_names_rounding(tree: Path) -> None:
    assert one_pair(tree, "0.067s", 1 / 15, 10).ratio == pytest.approx(150)
    assert one_pair(tree, "0.067s", 1 / 15, 10.5).ratio == pytest.approx(157.5)


def test_the_names_milliseconds_round_short_times(tree: Path) -> None:
    assert one_pair(tree, "0.001s", 0.0014, 10).short_s == pytest.approx(0.0014)


def test_a_thirtieth_is_capped_as_in_sid(tree: Path) -> None:
    assert one_pair(tree, "0.033s", 1 / 30, 10).ratio == pytest.approx(300)


def test_without_exif_the_name_counts(tree: Path) -> None:
    pair = one_pair(tree, "0.05s", None, None)
    assert (pair.short_s, pair.long_s, pair.ratio) == (0.05, 10, 200)


def test_a_long_exposure_of_another_size_is_named(tree: Path) -> None:
    pair = read_list(tree, "sony", "train")[0]
    mosaic = read_raw(pair.long).mosaic
    write_arw(pair.long, mosaic[2:], shot=replace(A_SHOT, exposure_s=pair.long_s))
    message = refused(tree).message
    assert message.startswith("6 files")
    assert "96x128" in message
    assert "94x128" in message


def test_another_cameras_photo_is_named(tree: Path) -> None:
    pair = read_list(tree, "sony", "train")[0]
    write_raf(pair.short, read_raw(pair.short).mosaic, shot=replace(A_SHOT, exposure_s=0.1))
    message = refused(tree).message
    assert str(pair.short) in message
    assert "Sony camera" in message


def test_a_name_too_long_for_the_system_is_named_too(tree: Path) -> None:
    write_list(tree, GOOD.replace("0.1s", f"0.1{'0' * 300}s"))
    assert "0000s.ARW" in refused(tree).message


# ---------------------------------------------------------------- the ground truth


def grey(level: float, wb: tuple[float, float, float]) -> NDArray[np.int64]:
    """A grey surface, and a corner of all colours that saturates: LibRaw looks for the highest."""
    share = np.tile([[1 / wb[0], 1.0], [1.0, 1 / wb[2]]], (20, 24)) * level
    share[-2:, -2:] = 1
    return np.rint(512 + share * (16383 - 512)).astype(np.int64)


@pytest.mark.parametrize("level", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("wb", [(1.0, 1.0, 1.0), (2.0, 1.0, 2.5)])
def test_the_truth_is_neutral_and_bt709_encoded(
    tmp_path: Path, level: float, wb: tuple[float, float, float]
) -> None:
    path = tmp_path / "grey.ARW"
    write_arw(path, grey(level, wb), wb=wb)
    pixel = render_truth(path)[10, 10] / 65535
    assert pixel == pytest.approx(bt709_encode(np.full(3, level)), abs=0.004)


def test_the_truth_is_not_brightened(tmp_path: Path) -> None:
    """LibRaw's automatic brightness would make a dark frame as bright as a light one."""
    dark, light = (tmp_path / name for name in ("dark.ARW", "light.ARW"))
    write_arw(dark, grey(0.05, (2.0, 1.0, 1.5)), wb=(2.0, 1.0, 1.5))
    write_arw(light, grey(0.5, (2.0, 1.0, 1.5)), wb=(2.0, 1.0, 1.5))
    assert render_truth(light)[10, 10, 1] > 2.5 * render_truth(dark)[10, 10, 1]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_truth_keeps_the_sensors_orientation(
    tmp_path: Path, orientation: int, rng: np.random.Generator
) -> None:
    mosaic = rng.integers(600, 16000, (40, 60))
    write_arw(tmp_path / "turned.ARW", mosaic, orientation=orientation)
    write_arw(tmp_path / "level.ARW", mosaic)
    turned, level = (render_truth(tmp_path / name) for name in ("turned.ARW", "level.ARW"))
    assert np.array_equal(turned, level)
    assert turned.shape == (40, 60, 3)


def test_what_cannot_be_rendered_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(FileMissingError):
        render_truth(tmp_path / "none.ARW")
    write_raf(tmp_path / "small.RAF", rng.integers(1100, 16000, (60, 60)))
    with pytest.raises(RawError, match=r"small\.RAF"):
        render_truth(tmp_path / "small.RAF")
