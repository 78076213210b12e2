"""`gia simulate`: its words, its files' names and its exit codes."""

from __future__ import annotations

import inspect
import json
import socket
from dataclasses import fields
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from gia_cli import cli
from gia_cli.raw.reader import read_raw
from gia_cli.simulation.options import SimulateOptions


def gia(*args: str | Path) -> Result:
    arguments = [str(arg) for arg in ("simulate", *args)]
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "120"})


@pytest.fixture
def day(tmp_path: Path, scene: NDArray[np.uint8]) -> Path:
    path = tmp_path / "day.png"
    iio.imwrite(path, scene)
    return path


@pytest.fixture
def pictures(tmp_path: Path, scene: NDArray[np.uint8]) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        iio.imwrite(folder / name, scene)
    return folder


# ---------------------------------------------------------------- one photo


def test_a_photo_becomes_a_short_and_a_long_exposure(day: Path, tmp_path: Path) -> None:
    short, long = tmp_path / "night.ARW", tmp_path / "night_long.ARW"
    result = gia(day, "-o", short, "--ratio", "100", "--iso", "1600")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(short), str(long)]
    assert result.stderr == ""
    assert read_raw(short).shot.exposure_s == pytest.approx(0.1)
    assert read_raw(long).shot.exposure_s == pytest.approx(10)


def test_every_option_of_one_photo_arrives(day: Path, tmp_path: Path) -> None:
    short = tmp_path / "n.RAF"
    options = "--camera X-T2 --ratio 50 --iso 800 --wb 1.5,2.5 --long-exposure 5 --aperture 4"
    options += " --ev -1 --shrink 2 --clean-long --seed 3 --json -v"
    result = gia(day, "--out", short, *options.split())
    assert result.exit_code == 0, result.output
    shot, frame = read_raw(short).shot, read_raw(tmp_path / "n_long.RAF")
    assert (shot.model, shot.iso, shot.aperture) == ("X-T2", 800, 4)
    assert shot.exposure_s == pytest.approx(0.1)
    assert frame.mosaic.shape == (48, 72)
    assert np.allclose(frame.as_shot_wb, (1.5, 1, 2.5), atol=0.002)
    assert frame.mosaic.max() < 1024 + 0.51 * (16383 - 1024)  # no noise, and a stop too dark
    assert "day.png: ISO 800, ratio 50, white balance 1.5, 1, 2.5" in result.stderr
    assert "note: day.png: LibRaw cannot render X-Trans" in result.stderr
    report = json.loads(result.stdout)
    assert (report["written"], report["lists"]) == (1, [])
    (file,) = report["files"]
    assert file["outputs"] == [str(short), str(tmp_path / "n_long.RAF")]
    assert (file["iso"], file["ratios"], file["white_balance"]) == (800, [50.0], [1.5, 1.0, 2.5])
    assert (file["status"], file["error"], file["input"]) == ("written", None, str(day))


def test_gains_may_name_green_too(day: Path, tmp_path: Path) -> None:
    gia(day, "-o", tmp_path / "n.ARW", "--wb", "4,2,5")
    assert np.allclose(read_raw(tmp_path / "n.ARW").as_shot_wb, (2, 1, 2.5), atol=0.002)


def test_quiet_prints_results_only(day: Path) -> None:
    result = gia(day, "--camera", "X-T2", "-q")
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 2


def test_defaults_are_the_dataclasss() -> None:
    defaults = {field.name: field.default for field in fields(SimulateOptions)}
    parameters = inspect.signature(cli.simulate.simulate).parameters
    for option, name in (("long_exposure", "long_exposure_s"), *((n, n) for n in defaults)):
        if option in parameters and parameters[option].default is not None:
            assert parameters[option].default == defaults[name], option
    help_text = " ".join(gia("--help").stdout.replace("│", " ").split())
    assert (defaults["ratio"], defaults["iso"]) == (100, 1600)
    for words in ("(default: 100)", "(default: 1600;", "SID's, 0.22)", "SID's, 0.09)"):
        assert words in help_text


@pytest.mark.slow
def test_on_exists(day: Path, tmp_path: Path) -> None:
    short, long = tmp_path / "n.ARW", tmp_path / "n_long.ARW"
    assert gia(day, "-o", short).exit_code == 0
    result = gia(day, "-o", short)
    assert result.exit_code == 61
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line == (
        f"error: {short} already exists. Use --on-exists overwrite or skip, or another name."
    )
    result = gia(day, "-o", short, "--on-exists", "skip")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "note: day.png: skipped, its files are already there.\n"
    short.unlink()
    result = gia(day, "-o", short, "--on-exists", "skip")
    assert result.stdout.splitlines() == [str(short)]
    assert result.stderr == "note: day.png: 1 of its files are already there and are kept.\n"
    result = gia(day, "-o", short, "--on-exists", "overwrite")
    assert result.stdout.splitlines() == [str(short), str(long)]


# ---------------------------------------------------------------- refusals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ratio", "0.5"], "--ratio must be between 1 and"),
        (["--ratio", "nan"], "--ratio must be"),
        (["--iso", "1700"], "noise is not known at ISO 1700. Choose one of 50, 64, 80"),
        (["--wb", "2"], "--wb takes R,B or R,G,B"),
        (["--wb", "2,1,1,2"], "--wb takes R,B or R,G,B"),
        (["--wb", "warm,1"], "--wb takes numbers, not 'warm'"),
        (["--wb", "2,0"], "--wb must be"),
        (["--long-exposure", "0"], "--long-exposure must be"),
        (["--aperture", "0"], "--aperture must be"),
        (["--ev", "20"], "--ev must be"),
        (["--shrink", "0"], "--shrink must be"),
        (["--seed", "-1"], "--seed must be"),
        (["-o", "night.RAF"], "a file of the ILCE-7SM2 ends in .ARW"),
        (["-o", "night.jpg"], "Change the name, or the camera"),
        (["--ratios", "100"], "--ratios is for data sets: it needs --sid."),
        (["--burst", "2"], "--burst is for data sets"),
        (["--split", "test"], "--split is for data sets"),
        (["--test-share", "0.5"], "--test-share is for data sets"),
        (["--val-share", "0"], "--val-share is for data sets"),
        (["--sid"], "--sid needs a folder for the data set. Add --out TREE."),
        (["--sid", "-o", "t", "--ratio", "100"], "--ratio is for one photo; with --sid use"),
        (["--sid", "-o", "t", "--ratios", "100,x"], "--ratios takes numbers, not 'x'"),
        (["--sid", "-o", "t", "--ratios", ""], "--ratios takes numbers"),
        (["--sid", "-o", "t", "--ratios", "1"], "--ratios must be"),
        (["--sid", "-o", "t", "--ratios", "100,100"], "cannot be told apart"),
        (["--sid", "-o", "t", "--burst", "0"], "--burst must be"),
        (["--sid", "-o", "t", "--test-share", "2"], "--test-share must be"),
        (
            ["--sid", "-o", "t", "--test-share", "0.9", "--val-share", "0.2"],
            "add up to more than 1",
        ),
        (["--sid", "-o", "t", "--split", "val", "--val-share", "0.2"], "--split val puts all on"),
    ],
)
def test_impossible_options_exit_with_2(day: Path, options: list[str], words: str) -> None:
    result = gia(day, *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(day.parent.iterdir()) == [day]


def test_unknown_options_exit_with_2(day: Path) -> None:
    assert gia(day, "--camera", "Holga").exit_code == 2
    assert gia(day, "--sid", "-o", "t", "--split", "some").exit_code == 2
    assert gia(day, "--burst", "many").exit_code == 2
    assert gia().exit_code == 2


def test_one_photo_at_a_time(day: Path, pictures: Path) -> None:
    for inputs, words in (
        ([day, day], "2 inputs, but one photo is simulated at a time."),
        ([pictures], f"{pictures} is a folder, not a photo."),
    ):
        result = gia(*inputs)
        assert result.exit_code == 2
        assert (
            result.stderr == f"error: {words} To make a data set of them, add --sid --out TREE.\n"
        )


def test_bad_pictures_exit_with_70(day: Path, tmp_path: Path) -> None:
    broken, tiny = tmp_path / "[broken].jpg", tmp_path / "tiny.png"
    broken.write_text("hello")
    iio.imwrite(tiny, np.zeros((20, 20, 3), np.uint8))
    gia(day)
    for path, words in (
        (broken, "it is not a picture, is damaged"),
        (tmp_path / "gone.jpg", "there is no such file"),
        (tiny, "is too small: it gives 20x20 photosites, but 24 a side are needed"),
        (
            tmp_path / "day_night.ARW",
            "is a RAW photo; a short exposure is simulated from a finished picture",
        ),
    ):
        result = gia(path, "-o", tmp_path / "n.ARW", "--json")
        assert result.exit_code == 70
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: {path}")
        assert words in line


def test_no_folder_to_write_to_exits_with_60(day: Path, tmp_path: Path) -> None:
    result = gia(day, "-o", tmp_path / "no" / "n.ARW")
    assert result.exit_code == 60
    assert f"Create the folder {tmp_path / 'no'} first." in result.stderr
    assert gia(day, "--sid", "-o", day).exit_code == 60


# ---------------------------------------------------------------- data sets


def test_a_folder_becomes_a_data_set(pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    result = gia(pictures, "--out", tree, "--sid", "--ratios", "100,300", "--iso", "800")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    found = {str(path) for path in tree.rglob("*") if path.is_file()}
    assert sorted(lines) == sorted(found - {str(tree / "Sony_simulation.json")})
    splits = ("train", "val", "test")
    assert lines[-3:] == [str(tree / f"Sony_{split}_list.txt") for split in splits]
    assert len([line for line in lines if "/short/" in line]) == 6
    assert "ISO800 F8\n" in (tree / "Sony_train_list.txt").read_text()


def test_every_option_of_data_sets_arrives(day: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    options = "--sid --ratios 50 --burst 2 --split val --wb 2,3 --long-exposure 5 --aperture 2.8"
    result = gia(day, "-o", tree, *options.split(), "--iso", "400", "--json", "-v")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["lists"] == [str(tree / "Sony_val_list.txt")]
    (file,) = report["files"]
    names = [Path(path).name for path in file["short"]]
    assert names == ["20001_00_0.1s.ARW", "20001_01_0.1s.ARW"]
    assert Path(file["long"]).name == "20001_00_5s.ARW"
    assert (file["ratios"], file["iso"], file["white_balance"]) == ([50, 50], 400, [2, 1, 3])
    assert (tree / "Sony_val_list.txt").read_text().endswith(" ISO400 F2.8\n")
    assert "day.png: ISO 400, ratio 50, white balance 2, 1, 3" in result.stderr


def test_shares_arrive(pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shares = ("--test-share", "0.34", "--val-share", "0.66", "--ratios", "100")
    assert gia(pictures, "--sid", "-o", tree, *shares).exit_code == 0
    lines = [(tree / f"Sony_{split}_list.txt").read_text() for split in ("test", "val", "train")]
    assert [len(text.splitlines()) for text in lines] == [1, 2, 0]


def test_a_data_set_with_failures_exits_with_3_and_names_them(
    pictures: Path, tmp_path: Path
) -> None:
    (pictures / "b.png").write_text("junk")
    iio.imwrite(pictures / "d.png", np.zeros((10, 10, 3), np.uint8))
    result = gia(pictures, "--sid", "-o", tmp_path / "tree", "--split", "train", "--ratios", "100")
    assert result.exit_code == 3
    first, second, last = result.stderr.splitlines()
    assert f"{pictures / 'b.png'} cannot be read" in first
    assert f"{pictures / 'd.png'} is too small" in second
    assert last.startswith("error: 2 of 4 photos failed.")
    assert len(result.stdout.splitlines()) == 5
    text = (tmp_path / "tree" / "Sony_train_list.txt").read_text()
    assert [line[13:18] for line in text.splitlines()] == ["00001", "00003"]
    result = gia(pictures, "--sid", "-o", tmp_path / "t2", "--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert (report["written"], report["skipped"], report["failed"]) == (2, 0, 2)
    error = report["files"][1]["error"]
    assert (error["kind"], error["exit_code"]) == ("DataError", 70)
    assert report["files"][1]["outputs"] == []


def test_a_data_set_is_resumed(pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    assert gia(pictures, "--sid", "-o", tree).exit_code == 0
    result = gia(pictures, "--sid", "-o", tree, "--json")
    assert (result.exit_code, result.stdout) == (61, "")
    assert "Sony_train_list.txt already exists" in result.stderr
    result = gia(pictures, "--sid", "-o", tree, "--on-exists", "skip")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr.count("skipped") == 3
    result = gia(pictures, "--sid", "-o", tree, "--on-exists", "skip", "--seed", "1")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert f"{tree} was made with other options: --seed 0, not 1. Use the tree's options" in line


def test_empty_lists_are_noted_and_can_be_filled(day: Path, pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    result = gia(day, "--sid", "-o", tree)
    assert result.exit_code == 0
    (note,) = result.stderr.splitlines()
    assert note.startswith("note: The tree has no scene for its lists val and test: ")
    options = ("--on-exists", "skip", "--split", "val")
    result = gia(pictures, "--sid", "-o", tree, *options)
    assert result.exit_code == 2  # a.png is a copy of day.png
    assert "a.png is already on the tree's train list, as scene 00001." in result.stderr
    (pictures / "a.png").unlink()
    for path in pictures.iterdir():
        iio.imwrite(path, 255 - iio.imread(path))
    result = gia(pictures, "--sid", "-o", tree, *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "20002" in (tree / "Sony_val_list.txt").read_text()


def test_no_pictures_exit_with_70(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = gia(tmp_path / "empty", "--sid", "-o", tmp_path / "tree")
    assert result.exit_code == 70
    assert "There is no photograph in" in result.stderr
    assert gia(tmp_path / "gone", "--sid", "-o", tmp_path / "tree").exit_code == 70


def test_ctrl_c_exits_with_130_and_reports(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gia_cli.simulation import dataset
    from gia_cli.simulation import photo as simulate

    once = dataset._simulate_scene

    def second_is_interrupted(*args: object) -> simulate.Simulated:
        if any(tmp_path.rglob("*.ARW")):
            raise KeyboardInterrupt
        return once(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset, "_simulate_scene", second_is_interrupted)
    result = gia(pictures, "--sid", "-o", tmp_path / "tree", "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout)["written"] == 1
    assert "Interrupted" in result.stderr


def test_two_shares_make_one_data_set_and_say_which_they_are(
    pictures: Path, tmp_path: Path
) -> None:
    tree, seen = tmp_path / "tree", list[str]()
    for number in (1, 2):
        result = gia(pictures, "--sid", "-o", tree, "--shard", f"{number}/2", "--json")
        report = json.loads(result.stdout)
        assert result.exit_code == 0 and report["shard"] == {
            "number": number,
            "count": 2,
            "source": "--shard",
            "planned": 3,
        }
        assert f"shard {number}/2: {report['written']} of 3 scenes" in result.stderr
        seen += [file["input"] for file in report["files"]]
        if number == 1:
            assert "2 of the tree's 3 scenes are there" in result.stderr
    assert len(seen) == len(set(seen)) == 3
    gia(pictures, "--sid", "-o", tmp_path / "alone")
    for path in (tmp_path / "alone").rglob("*.*"):
        assert (tree / path.relative_to(tmp_path / "alone")).read_bytes() == path.read_bytes()
    taken = gia(pictures, "--sid", "-o", tree, "--shard", "1/2")
    assert taken.exit_code == 61 and "already exists" in taken.stderr


def test_an_array_of_a_scheduler_is_no_share_unasked(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ID", "1"), ("COUNT", "2"), ("MIN", "0"), ("MAX", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    plain = gia(pictures, "--sid", "-o", tmp_path / "all", "--json")
    assert json.loads(plain.stdout)["written"] == 3 and "shard" not in plain.stderr
    share = gia(pictures, "--sid", "-o", tmp_path / "share", "--shard", "auto", "--json")
    report = json.loads(share.stdout)
    assert report["shard"]["number"] == 2 and report["written"] == 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--sid", "--out", "tree", "--shard", "3/2"], 2, "no shard 3 of 2"),
        (["--sid", "--out", "tree", "--shard", "first"], 2, "--shard takes I/N"),
        (["--shard", "1/2"], 2, "--shard is for data sets"),
        (["--ray", "local"], 2, "--ray is for data sets"),
        (["--sid", "--out", "tree", "--workers", "2"], 2, "--workers needs --ray"),
        (["--sid", "--out", "tree", "--ray", "local", "--workers", "0"], 2, "must be positive"),
        (["--sid", "--out", "tree", "--ray", "head"], 2, "takes local, auto or HOST:PORT"),
    ],
)
def test_what_makes_no_share_and_no_cluster_is_refused(
    pictures: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    options = [str(tmp_path / "tree") if option == "tree" else option for option in options]
    refused = gia(pictures, *options)
    assert refused.exit_code == code and words in refused.stderr
    assert not (tmp_path / "tree").exists()


@pytest.mark.slow
def test_a_cluster_that_nobody_answers_for_is_one_line_with_a_code(
    pictures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    refused = gia(pictures, "--sid", "--out", tmp_path / "tree", "--ray", address)
    assert refused.exit_code == 53 and not list(tmp_path.rglob("*.ARW"))
    assert f"error: Nobody answers at {address}" in refused.stderr
