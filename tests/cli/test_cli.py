"""The commands: in process for their words, in a subprocess for what only a process has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from gia_cli._version import __version__
from gia_cli.cli import app
from gia_cli.cli.app import seconds
from gia_cli.cli.options import time_text
from gia_cli.enhance.white_balance import NAMES
from gia_cli.errors import Interrupted, Terminated
from gia_cli.imaging.icc import icc_profile
from gia_cli.inference import openvino_core
from gia_cli.interrupts import deaf_children, interrupted
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.tiff import FLOAT, RATIONAL, Entry
from gia_cli.raw.writer import write_dng
from gia_cli.training.config import TrainConfig
from gia_cli.weights.manifest import find_weights, shipped_quantized, weights_folder
from gia_cli.weights.storage import save_weights
from tests.networks import DEFAULT, lively, small

MakePhoto = Callable[..., Path]


def gia(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "120"})


def gia_process(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gia_cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- enhance


@pytest.mark.slow
def test_enhance_writes_and_prints_the_path(make_arw: MakePhoto, tmp_path: Path) -> None:
    result = gia("enhance", make_arw(), "-o", tmp_path / "o.tif", "--ratio", "100")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "o.tif")
    assert "ratio 100 (as given)" in result.stderr
    assert tifffile.imread(tmp_path / "o.tif").dtype == np.uint16


def test_auto_says_which_rule_decided(make_arw: MakePhoto) -> None:
    result = gia("enhance", make_arw())
    assert result.exit_code == 0
    assert "ratio 100 (a 10 s exposure in place of 1/10 s" in result.stderr


def test_quiet_prints_results_only(make_arw: MakePhoto) -> None:
    result = gia("enhance", make_arw(), "--quiet", "--format", "png")
    assert result.stderr == ""
    assert result.stdout.strip().endswith("night_gia.png")


@pytest.mark.slow
def test_verbose_shows_the_plan(make_arw: MakePhoto) -> None:
    result = gia("enhance", make_arw(), "-v", "--tile", "64", "--device", "cpu")
    assert "tiles of 32 x 32 packed pixels, two passes" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "words"), [("torch", "engine: torch on cpu"), ("openvino", "engine: OpenVINO")]
)
def test_the_engine_can_be_chosen(make_arw: MakePhoto, engine: str, words: str) -> None:
    result = gia("enhance", make_arw(), "-v", "--engine", engine, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert words in result.stderr
    assert "as asked" in result.stderr


def test_an_engine_that_cannot_run_this_is_refused(
    make_arw: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_core, "multiplies_in_bf16", lambda: False)
    result = gia("enhance", make_arw(), "--engine", "openvino", "--precision", "bf16")
    assert result.exit_code == 50
    assert "openvino cannot run this" in result.stderr
    assert "Leave out --engine" in result.stderr
    for device in ("cuda", "cuda:1", "mps"):  # whether there is one or not
        result = gia("enhance", make_arw(), "--engine", "openvino", "--device", device)
        assert result.exit_code == 50
        assert f"The engine openvino does not run on {device}." in result.stderr


def test_precision_int8_without_int8_weights_is_refused(
    make_arw: MakePhoto, tmp_path: Path
) -> None:
    own = tmp_path / "own.safetensors"
    save_weights(own, lively(small("gia-net")), camera="ILCE-7SM2")
    result = gia("enhance", make_arw(), "--precision", "int8", "--weights", own)
    assert result.exit_code == 40
    assert "no int8 weights made from 'own'" in result.stderr
    assert "gia weights quantize own" in " ".join(result.stderr.split())
    refused = gia("enhance", make_arw(), "--precision", "int8", "--engine", "torch")
    assert refused.exit_code == 50


def test_compare_writes_a_sheet_beside(make_arw: MakePhoto, tmp_path: Path) -> None:
    result = gia("enhance", make_arw(), "--compare")
    assert result.exit_code == 0
    assert (tmp_path / "night_gia_compare.png").is_file()
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.slow
def test_a_report_is_a_page_of_the_batch(make_arw: MakePhoto, tmp_path: Path) -> None:
    make_arw()
    (tmp_path / "broken.ARW").write_bytes(b"")
    page = tmp_path / "out" / "page.html"
    command = ("enhance", tmp_path, "--out-dir", page.parent, "--report", page)
    done = gia(*command)
    assert done.exit_code == 3
    assert done.stdout.splitlines()[-1] == str(page)
    text = page.read_text("utf-8")
    assert text.count("<article") == 2 and "1 written, 1 failed" in text
    refused = gia(*command)
    assert refused.exit_code == 61 and "page.html already exists" in refused.stderr
    assert "or another --report." in refused.stderr and "-o" not in refused.stderr.split()
    skipped = gia(*command, "--on-exists", "skip")
    assert skipped.exit_code == 3 and "page.html: skipped" in skipped.stderr
    assert page.read_text("utf-8") == text
    replaced = gia(*command, "--on-exists", "overwrite", "--json")
    assert replaced.exit_code == 3 and page.read_text("utf-8") != text


def test_a_reference_sets_the_exposure(make_arw: MakePhoto, tmp_path: Path) -> None:
    reference = tmp_path / "bright.dng"
    # make_arw: 1/10 s, ISO 1600, f/8; write_dng's default is the same exposure.
    write_dng(reference, np.full((64, 64), 600))
    result = gia("enhance", make_arw(), "--reference", reference)
    assert "ratio 1 (to the reference's exposure" in result.stderr


def test_target_exposure(make_arw: MakePhoto) -> None:
    result = gia("enhance", make_arw(), "--target-exposure", "2.5")
    assert "ratio 25 (a 2.5 s exposure in place of 1/10 s)" in result.stderr
    fraction = gia("enhance", make_arw("b.ARW"), "--target-exposure", "5/2 s", "--exposure", "1")
    assert "ratio 50 (a 2.5 s exposure in place of 1/10 s; +1 EV)" in fraction.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ratio", "bright"], "--ratio takes numbers"),
        (["--ratio", "0.5"], "between 1 and 300"),
        (["--ratio", "301"], "--max-ratio raises"),
        (["--ratio", "nan"], "between 1 and 300"),
        (["--ratio", "10", "--brackets", "10,20"], "only one of"),
        (["--brackets", "10,x"], "--brackets takes numbers"),
        (["--target-exposure", "0"], "must be positive"),
        (["--target-exposure", "long"], "such as 5 or 1/5"),
        (["--target-exposure", "1/0"], "such as 5 or 1/5"),
        (["--exposure", "1", "--brackets", "10,20"], "not both"),
        (["--strength", "2"], "from 0 to 1"),
        (["--highlights", "-1"], "from 0 to 1"),
        (["--crop", "middle"], "--crop takes center or X,Y,W,H"),
        (["--crop", "9,9,0,9"], "has no pixels"),
        (["--tile", "big"], "--tile takes"),
        (["--tile", "0"], "--tile must be positive"),
        (["--max-memory", "lots"], "is not a size"),
        (["--max-ratio", "0"], "--max-ratio must be"),
        (["--white-balance", "3200"], "such as 3200K"),
        (["--white-balance", "900K"], "between 1667 and 15000 K"),
        (["--white-balance", "1,0,1"], "three positive gains"),
        (["-o", "x.gif"], ".tif, .png, .dng, .jpg, .jxl and .exr"),
        (["--bit-depth", "12"], "--bit-depth is 8, 16 or 32"),
        (["--format", "png", "--bit-depth", "32"], "PNG files with 8 or 16 bits"),
        (["--jpeg-quality", "90"], "--jpeg-quality is not for TIFF files"),
        (["--format", "dng", "--color-space", "rec2020"], "the camera's own colours"),
        (["-o", "x.tif", "--out-dir", "d"], "not both"),
    ],
)
def test_impossible_options_exit_with_2(
    make_arw: MakePhoto, options: list[str], words: str
) -> None:
    result = gia("enhance", make_arw(), *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_formats_take_their_options(make_arw: MakePhoto, tmp_path: Path) -> None:
    def made(name: str, *options: str) -> Path:
        result = gia("enhance", make_arw(), "-o", tmp_path / name, "--ratio", "100", *options)
        assert result.exit_code == 0, result.stderr
        return tmp_path / name

    jpeg = made("x.jpg", "--jpeg-quality", "30", "--jpeg-subsampling", "4:2:0")
    with Image.open(jpeg) as image:
        assert image.quantization[0][0] == 27  # type: ignore[attr-defined]
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
    wide = made("x.png", "--color-space", "display-p3", "--bit-depth", "8")
    with Image.open(wide) as image:
        assert image.info["icc_profile"] == icc_profile("display-p3")
    exr = made("x.exr", "--exr-compression", "piz", "--bit-depth", "32")
    with pytest.importorskip("OpenEXR").File(str(exr)) as file:
        assert file.header()["compression"].name == "PIZ_COMPRESSION"
        light = file.channels()["RGB"].pixels
    assert light.dtype == np.float32
    jxl = made("x.jxl", "--jxl-distance", "0", "--jxl-effort", "1")
    levels = pytest.importorskip("imagecodecs").jpegxl_decode(jxl.read_bytes())
    assert np.array_equal(levels, tifffile.imread(made("x.tif")))
    assert light.shape == levels.shape


def test_unknown_options_exit_with_2(make_arw: MakePhoto) -> None:
    assert gia("enhance", make_arw(), "--no-such-option").exit_code == 2
    assert gia("enhance", make_arw(), "--device", "abacus").exit_code == 2
    assert gia("enhance").exit_code == 2


def test_one_bad_photo_exits_with_its_own_code(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.ARW", tmp_path / "[text].ARW"
    empty.write_bytes(b"")
    text.write_text("hello " * 100)
    for path, code in {empty: 13, text: 15, tmp_path / "gone.ARW": 11}.items():
        result = gia("enhance", path)
        assert result.exit_code == code
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert path.name in line


@pytest.mark.slow
def test_a_batch_with_failures_exits_with_3_and_names_them(
    make_arw: MakePhoto, tmp_path: Path
) -> None:
    for name in "abcd":
        make_arw(f"card/{name}.ARW")
    (tmp_path / "card" / "bad1.ARW").write_bytes(b"")
    (tmp_path / "card" / "bad2.ARW").write_bytes(b"junk" * 1000)
    result = gia("enhance", tmp_path / "card", "--out-dir", tmp_path / "out", "--ratio", "50")
    assert result.exit_code == 3
    assert len(result.stdout.splitlines()) == 4
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert "bad1.ARW" in result.stderr
    assert "bad2.ARW" in result.stderr
    assert "2 of 6 photos failed" in result.stderr


def test_the_json_report_says_everything(make_arw: MakePhoto, tmp_path: Path) -> None:
    good, bad = make_arw(), tmp_path / "bad.ARW"
    bad.write_bytes(b"")
    (tmp_path / "night.xmp").write_bytes(b"<damaged")
    result = gia("enhance", good, bad, "--json", "--ratio", "80")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert (report["written"], report["skipped"], report["failed"]) == (1, 0, 1)
    first, second = report["files"]
    assert first["outputs"] == [str(tmp_path / "night_gia.tif")]
    assert first["ratios"] == [{"ratio": 80.0, "rule": "given", "reason": "as given"}]
    chosen = find_weights(DEFAULT)
    assert first["weights"] == (shipped_quantized(chosen) or chosen).name
    assert {"decode", "network", "write"} < set(first["stages"])
    (note,) = first["notes"]
    assert note.startswith("night.ARW: nothing is carried over from its sidecar.")
    assert note in " ".join(result.stderr.split())
    assert second["stages"] == {} and second["notes"] == []
    assert second["error"]["exit_code"] == 13
    assert second["error"]["kind"] == "EmptyFileError"
    assert second["input"] == str(bad)


@pytest.mark.slow
def test_xtrans_photos_have_weights_of_their_own(make_raf: MakePhoto) -> None:
    photo = make_raf()
    report = json.loads(gia("enhance", photo, "--ratio", "100", "--json").stdout)
    assert report["files"][0]["weights"].startswith("gia-fuji")
    refused = gia("enhance", photo, "--weights", DEFAULT, "--on-exists", "overwrite")
    assert refused.exit_code == 44
    assert "are for bayer photos; this one is xtrans" in refused.stderr


def test_a_white_balance_that_no_weights_have_is_reported(
    make_raf: MakePhoto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((weights_folder() / "manifest.json").read_text())["weights"]
    learned = [row for row in rows if row["config"]["white_balance"] == "learned"]
    (tmp_path / "manifest.json").write_text(json.dumps({"weights": learned}))
    monkeypatch.setattr("gia_cli.weights.manifest.weights_folder", lambda: tmp_path)
    result = gia("enhance", make_raf(), "--white-balance", "as-shot")
    assert result.exit_code == 44
    assert "no weights for xtrans photos with the white balance 'as-shot'" in result.stderr
    assert "--weights" in result.stderr


def test_the_white_balance_is_reported(make_arw: MakePhoto, tmp_path: Path) -> None:
    config = replace(small("gia-net"), white_balance="as-shot")
    save_weights(tmp_path / "own.safetensors", lively(config), camera="ILCE-7SM2")
    options: list[str | Path] = [
        "--weights",
        tmp_path / "own.safetensors",
        "--white-balance",
        "3200K,5",
    ]
    result = gia("enhance", make_arw(), "--json", "-v", *options)
    assert result.exit_code == 0, result.output
    assert "white balance 3200 K, tint +5: red x" in result.stderr
    (file,) = json.loads(result.stdout)["files"]
    assert file["white_balance"] == "3200 K, tint +5"
    with tifffile.TiffFile(file["outputs"][0]) as tiff:
        comment = str(tiff.pages.first.tags["ExifTag"].value["UserComment"])
    assert "white balance 3200 K, tint +5" in comment


@pytest.mark.slow
def test_the_best_quality_is_the_mean_of_eight(make_arw: MakePhoto, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    save_weights(own, lively(small("gia-net")), camera="ILCE-7SM2")
    common: list[str | Path] = ["enhance", make_arw(), "--weights", own, "--device", "cpu"]
    for quality in ("normal", "best"):
        out = tmp_path / f"{quality}.tif"
        assert gia(*common, "--quality", quality, "-o", out).exit_code == 0
    normal, best = (tifffile.imread(tmp_path / f"{name}.tif") for name in ("normal", "best"))
    assert best.shape == normal.shape
    assert not np.array_equal(best, normal)
    assert gia(*common, "--quality", "superb").exit_code == 2
    assert "8 times slower" in " ".join(gia("enhance", "--help").stdout.split())


def test_every_white_balance_is_in_the_help() -> None:
    words = gia("enhance", "--help").stdout
    assert all(name in words for name in NAMES)


def test_unknown_weights_and_missing_devices(make_arw: MakePhoto) -> None:
    result = gia("enhance", make_arw(), "--weights", "nothing")
    assert result.exit_code == 41
    assert DEFAULT in result.stderr
    result = gia("enhance", make_arw(), "--device", "cpu", "--precision", "fp16")
    assert result.exit_code == 50


def test_the_environment_names_weights(
    make_arw: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIA_WEIGHTS", "nothing")
    assert gia("enhance", make_arw()).exit_code == 41


# ---------------------------------------------------------------- info, weights, version


def test_info_describes_a_photo(make_arw: MakePhoto) -> None:
    result = gia("info", make_arw())
    assert result.exit_code == 0
    for words in (
        "ILCE-7SM2",
        "bayer",
        "512.0",
        "16383.0",
        "1/10 s, ISO 1600, f/8",
        "a 10 s exposure in place of 1/10 s",
    ):
        assert words in result.stdout, words


def test_info_as_json(make_raf: MakePhoto) -> None:
    facts = json.loads(gia("info", make_raf(), "--json").stdout)
    assert facts["camera"] == "FUJIFILM X-T2"
    assert facts["cfa"] == "xtrans"
    assert facts["size"] == [144, 96]
    assert facts["weights"].startswith("gia-fuji")
    assert facts["ratio"] >= 1
    assert 2000 < facts["as_shot_temperature_k"] < 8000
    assert abs(facts["as_shot_tint"]) < 150


@pytest.mark.slow
def test_info_knows_no_temperature_of_an_unknown_camera(tmp_path: Path) -> None:
    path, zeros = tmp_path / "unknown.dng", ((0.0, 0.0, 0.0),) * 3
    write_dng(path, np.full((64, 64), 600), matrix=zeros, shot=ShotInfo(make="No", model="Box"))
    facts = json.loads(gia("info", path, "--json").stdout)
    assert facts["as_shot_temperature_k"] is None
    assert facts["as_shot_tint"] is None
    assert "as shot tint" in gia("info", path).stdout


@pytest.mark.slow
def test_info_names_the_weights_that_enhance_runs(make_arw: MakePhoto) -> None:
    photo = make_arw()
    named = json.loads(gia("info", photo, "--json").stdout)["weights"]
    (enhanced,) = json.loads(gia("enhance", photo, "--json").stdout)["files"]
    assert named == enhanced["weights"]


def test_info_of_several_photos(make_arw: MakePhoto, make_raf: MakePhoto, tmp_path: Path) -> None:
    """One that cannot be read is named; the others are shown."""
    photos = (make_arw(), tmp_path / "gone.ARW", make_raf())
    shown = gia("info", *photos)
    assert shown.exit_code == 3
    assert shown.stdout.count("as shot temperature (K)") == 2
    assert "gone.ARW" in shown.stderr and "1 of 3 photos failed" in shown.stderr
    assert "144 x 96" in shown.stdout and "as it lies" in shown.stdout
    listed = json.loads(gia("info", *photos, "--json").stdout)
    assert [each["file"] for each in listed] == [str(photo) for photo in photos]
    assert listed[1]["error"]["exit_code"] == 11
    assert [each.get("cfa") for each in listed] == ["bayer", None, "xtrans"]


def test_info_refuses_what_is_no_photo(tmp_path: Path) -> None:
    assert gia("info", tmp_path).exit_code == 12
    assert gia("info", tmp_path / "gone").exit_code == 11


def test_info_as_json_is_json_for_nonsense(tmp_path: Path) -> None:
    path, nan = tmp_path / "nan.dng", Entry(0x829A, FLOAT, [float("nan")])
    write_dng(path, np.full((64, 64), 600), shot=ShotInfo(make="Box"), extra=[nan])
    result = gia("info", path, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout, parse_constant=pytest.fail)
    assert facts["exposure"] is None


@pytest.mark.slow
def test_levels_can_be_stated(tmp_path: Path) -> None:
    path = tmp_path / "night.dng"
    mosaic = np.random.default_rng(1).normal(700, 20, (64, 64)).round().astype(int)
    write_dng(path, mosaic, black=(512,))
    pictures = []
    for name, options in {
        "file": [],
        "same": ["--black-level", "512", "--white-level", "16383"],
        "colours": ["--black-level", "512,512,512"],
        "black": ["--black-level", "690"],
        "white": ["--white-level", "4000"],
    }.items():
        out = tmp_path / f"{name}.tif"
        result = gia("enhance", path, "-o", out, "--ratio", "20", *options)
        assert result.exit_code == 0, result.output
        pictures.append(tifffile.imread(out).astype(float))
    plain, same, colors, black, white = pictures
    assert np.array_equal(same, colors)
    # The file's level is corrected by what the photo shows, one that is stated is not.
    assert 0 < np.abs(plain - same).mean() < 200
    assert black.mean() < 0.7 * plain.mean()
    assert white.mean() > 1.2 * plain.mean()
    refused = gia("enhance", path, "--black-level", "dark")
    assert refused.exit_code == 2 and "'dark' is not a black level" in refused.stderr


def test_a_photo_with_wide_pixels_becomes_wide(tmp_path: Path) -> None:
    path, scale = tmp_path / "wide.dng", Entry(0xC61E, RATIONAL, [(2, 1), (1, 1)])
    write_dng(path, np.full((64, 80), 600), extra=[scale])
    assert gia("enhance", path, "-o", tmp_path / "o.tif", "--ratio", "9").exit_code == 0
    assert tifffile.imread(tmp_path / "o.tif").shape == (64, 160, 3)


@pytest.mark.slow
def test_weights_list_and_verify() -> None:
    listed = gia("weights", "list")
    assert DEFAULT in listed.stdout
    rows = json.loads(gia("weights", "list", "--json").stdout)
    assert {row["config"]["cfa"] for row in rows} == {"bayer", "xtrans"}
    verified = gia("weights", "verify")
    assert verified.exit_code == 0
    for row in rows:
        assert f"{row['name']}: intact ({row['sha256']})" in verified.stdout
    assert gia("weights", "verify", "nothing").exit_code == 41


def test_version() -> None:
    assert gia("--version").stdout.strip() == f"gia {__version__}"
    verbose = gia("--version", "-v").stdout
    for words in ("torch", "openvino 2", "LibRaw", "devices: cpu"):
        assert words in verbose


# ---------------------------------------------------------------- processes


@pytest.mark.slow
def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\n"
        "from gia_cli.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'rawpy', 'numpy', 'tifffile', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_process_exits_with_the_code_and_one_line(tmp_path: Path) -> None:
    run = gia_process("enhance", tmp_path / "gone.ARW")
    assert run.returncode == 11
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_damaged_file_says_nothing_of_librarys_own(make_arw: MakePhoto) -> None:
    path = make_arw()
    path.write_bytes(path.read_bytes()[:-5000])
    run = gia_process("enhance", path)
    assert run.returncode == 14
    (line,) = run.stderr.splitlines()  # LibRaw's "Unexpected end of file" is caught
    assert line.startswith("error: ")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_closed_outputs_do_no_harm(make_arw: MakePhoto, tmp_path: Path, closed: str) -> None:
    make_arw()
    command = f"{sys.executable} -m gia_cli enhance night.ARW -o o.tif {closed}"
    run = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert tifffile.imread(tmp_path / "o.tif").shape == (96, 144, 3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(make_arw: MakePhoto, tmp_path: Path) -> None:
    make_arw()
    command = f"{sys.executable} -m gia_cli enhance night.ARW -o o.tif > /dev/full"
    run = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert run.returncode == 60
    assert run.stderr.splitlines()[-1].startswith("error: The output cannot be written: No space")
    assert "Traceback" not in run.stderr
    assert (tmp_path / "o.tif").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "--version", "enhance --help", "weights list"])
def test_a_full_disk_behind_a_text_is_one_line(arguments: str) -> None:
    command = f"{sys.executable} -m gia_cli {arguments} > /dev/full"
    run = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)
    assert run.returncode == 60
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: The output cannot be written: No space left on device.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stderr_leaves_the_exit_code() -> None:
    command = f"{sys.executable} -m gia_cli info gone.ARW 2> /dev/full"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 11


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_an_output_that_is_read_is_refused_with_2(make_arw: MakePhoto, tmp_path: Path) -> None:
    photo = make_arw()
    day = tmp_path / "day.tif"
    day.write_bytes(make_arw("day.ARW").read_bytes())
    for options in (["--reference", str(day)], ["-w", str(day)]):
        run = gia("enhance", photo, "-o", day, "--on-exists", "overwrite", *options)
        assert run.exit_code == 2, run.output
        assert "day.tif is the input" in run.stderr
    assert day.read_bytes() == (tmp_path / "day.ARW").read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_as_reference_is_refused_at_once(make_arw: MakePhoto, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ARW")
    for arguments in (["enhance", make_arw(), "--reference"], ["info"]):
        run = gia(*arguments, tmp_path / "pipe.ARW")
        assert run.exit_code == 12
        assert "is a pipe, socket or device, not a photo." in run.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="names are bytes on POSIX")
def test_a_name_that_is_no_text_is_reported(make_arw: MakePhoto) -> None:
    photo = make_arw()
    name = os.fsencode(photo).replace(b"night", b"b\xff")
    photo.rename(os.fsdecode(name))
    command: list[str | bytes] = [sys.executable, "-m", "gia_cli", "enhance", "--json", name]
    run = subprocess.run(command, check=False, capture_output=True)
    assert run.returncode == 0, run.stderr
    (file,) = json.loads(run.stdout.decode("utf-8"))["files"]
    assert Path(file["outputs"][0]).is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_exits_with_130_and_leaves_no_half_file(make_arw: MakePhoto, tmp_path: Path) -> None:
    count = 120  # so many that none of a busy machine's pauses lets it finish first
    for number in range(count):
        make_arw(f"card/{number:03}.ARW")
    command = [sys.executable, "-m", "gia_cli", "enhance", str(tmp_path / "card")]
    command += ["--out-dir", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests with "&" has them ignore SIGINT, and their children, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    process.stdout.readline()  # the first picture is there
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted after" in stderr
    written = list((tmp_path / "out").iterdir())
    assert 0 < len(written) < count
    for path in written:
        assert path.suffix == ".tif"
        assert tifffile.imread(path).shape == (96, 144, 3)


PRESS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Press())
from gia_cli.__main__ import main
{more}
main()
"""


def pressed(
    module: str, *args: str | Path, more: str = "", number: int = signal.SIGINT
) -> subprocess.CompletedProcess[str]:
    """Run gia, with Ctrl-C pressed (or another signal) as it begins to import a module."""
    code = PRESS.format(module=module, more=more, number=int(number))
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    "module",
    ["typer", "gia_cli.cli.app", "gia_cli.cli.train", "rich", "numpy", "gia_cli.raw.libraw"],
)
def test_ctrl_c_at_the_start_is_one_line(make_arw: MakePhoto, tmp_path: Path, module: str) -> None:
    run = pressed(module, "enhance", make_arw(), "-o", tmp_path / "o.tif")
    assert run.returncode == 130
    assert run.stdout == ""
    assert run.stderr.splitlines() == [f"error: {Interrupted('Interrupted.')}"]
    assert [path.name for path in tmp_path.iterdir()] == ["night.ARW"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_while_the_first_photo_is_read_is_one_line(
    make_arw: MakePhoto, tmp_path: Path
) -> None:
    run = pressed("rawpy", "enhance", make_arw(), "-o", tmp_path / "o.tif")
    assert run.returncode == 130
    said = Interrupted("Interrupted after 0 of 1 photos.")
    assert run.stderr.splitlines() == [f"error: {said}"]
    assert [path.name for path in tmp_path.iterdir()] == ["night.ARW"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_pressed_where_python_cannot_raise_it_is_not_lost(
    make_arw: MakePhoto, tmp_path: Path, number: int
) -> None:
    more = f"""
class Pressing:
    def __del__(self):
        signal.raise_signal({int(number)})
from gia_cli.enhance.batch import _Pipeline
do = _Pipeline._do
def press_and_do(*args):
    _Pipeline._do = do
    Pressing()
    time.sleep(5)  # it ends that
    do(*args)
_Pipeline._do = press_and_do
"""
    run = pressed("", "enhance", make_arw(), "-o", tmp_path / "o.tif", more=more)
    assert run.returncode == 128 + number
    said = interrupted(number, "Interrupted after 0 of 1 photos.")
    assert run.stderr.splitlines() == [f"error: {said}"]
    assert [path.name for path in tmp_path.iterdir()] == ["night.ARW"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_sigterm_at_the_start_is_one_line(tmp_path: Path) -> None:
    run = pressed("numpy", "info", tmp_path / "night.ARW", number=signal.SIGTERM)
    assert (run.returncode, run.stdout) == (143, "")
    assert run.stderr.splitlines() == [f"error: {Terminated('Interrupted.')}"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "presses", "is_finished"),
    [
        (signal.SIGINT, 1, True),
        (signal.SIGINT, 2, False),
        (signal.SIGINT, 3, False),
        (signal.SIGTERM, 2, True),
    ],
)
def test_ctrl_c_and_sigterm_while_a_picture_is_written(
    make_arw: MakePhoto, tmp_path: Path, number: int, presses: int, is_finished: bool
) -> None:
    """Once: it is finished. Ctrl-C again: it is not, and nothing of it stays."""
    more = f"""
sync = os.fsync
def press_and_sync(descriptor):
    os.fsync = sync
    for _ in range({presses}):
        os.kill(os.getpid(), {int(number)})
        time.sleep(1)
    time.sleep(0 if {is_finished} else 60)
    sync(descriptor)
os.fsync = press_and_sync
"""
    for name in ("a.ARW", "b.ARW", "c.ARW"):
        make_arw(f"card/{name}")
    out = tmp_path / "out"
    run = pressed("", "enhance", tmp_path / "card", "--out-dir", out, "--ratio", "10", more=more)
    assert run.returncode == 128 + number
    assert "Traceback" not in run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith("error: Interrupted")
    assert [path.name for path in out.iterdir()] == (["a_gia.tif"] if is_finished else [])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memory files, or a folder that is there")
def test_no_folder_for_temporary_files_is_needed(make_arw: MakePhoto, tmp_path: Path) -> None:
    """As in a container whose file system is read-only."""
    more = "import tempfile; tempfile._candidate_tempdir_list = lambda: []"
    photo = make_arw()
    run = pressed("", "enhance", photo, "-o", tmp_path / "o.tif", "--compare", more=more)
    assert run.returncode == 0, run.stderr
    photo.write_bytes(photo.read_bytes()[:-5000])
    assert pressed("", "enhance", photo, more=more).returncode == 14


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_processes_of_a_benchmark_never_hear_ctrl_c_not_even_while_they_start() -> None:
    ask = "import signal; print(*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    mine = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for numbers in ((), (signal.SIGINT, signal.SIGTERM)):
        with pytest.raises(OSError, match="no process"), deaf_children(*numbers):
            said = subprocess.check_output([sys.executable, "-c", ask], timeout=60)
            assert {int(word) for word in said.split()} - mine == {*numbers, signal.SIGINT} - mine
            raise OSError("no process")
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mine


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_what_is_pressed_while_a_process_starts_is_heard_afterwards() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            heard_inside = True
            with deaf_children():
                signal.raise_signal(signal.SIGINT)
                heard_inside = False
            raise AssertionError
        assert not heard_inside
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("time", [1, 45, 60, 90, 300, 3600, 0.5])
def test_a_time_is_written_as_options_take_it(time: float) -> None:
    assert seconds(time_text(time), "--budget") == time


def test_options_without_a_default_of_their_own_have_the_dataclass_s() -> None:
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    shown = {option.name: option.default for option in command.params}
    config = TrainConfig(run=Path("run"), photos=(Path("photos"),))
    for name in ("recipe", "white_balance", "seed", "device", "precision", "workers", "camera"):
        assert shown[name] == getattr(config, name), name
    assert seconds(shown["checkpoint_every"], "") == config.checkpoint_every_s
    assert seconds(shown["validate_every"], "") == config.validate_every_s


def test_help_waits_for_nothing_heavy() -> None:
    heavy = "{'numpy', 'torch', 'rawpy', 'PIL', 'openvino', 'rich', 'psutil'}"
    code = f"import sys, gia_cli.cli; sys.exit(str(sorted({heavy} & set(sys.modules))))"
    run = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert run.stderr.strip() == "[]"
