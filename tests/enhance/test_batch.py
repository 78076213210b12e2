"""Many files: planning, one result for each, failures that stop nothing."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gia_cli.enhance import batch
from gia_cli.enhance.batch import (
    PICTURE,
    BatchOptions,
    FileResult,
    Job,
    Product,
    picture_saved,
    plan_jobs,
    run_jobs,
)
from gia_cli.enhance.enhancer import Enhancer, Rendered
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.enhance.lanes import Behind, InOrder, Lanes
from gia_cli.enhance.stages import Computed, Enhanced, Prepared
from gia_cli.errors import (
    EmptyFileError,
    FileMissingError,
    GiaError,
    Interrupted,
    NotRawError,
    OutOfMemoryError,
    OutputError,
    OutputExistsError,
    UsageError,
)
from gia_cli.imaging.save_options import SaveOptions
from gia_cli.inference.plan import InferOptions
from gia_cli.progress import SILENT
from gia_cli.runtime import DeviceKind, Runtime

MakePhoto = Callable[..., Path]


def run(inputs: list[Path], enhancer: Enhancer, **options: Any) -> list[FileResult]:
    chosen = BatchOptions(**({"request": ExposureRequest(ratio=100)} | options))
    return run_jobs(plan_jobs(inputs, chosen), enhancer, chosen, progress=SILENT)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


# ---------------------------------------------------------------- planning


def test_outputs_lie_beside_the_photos_by_default(tmp_path: Path) -> None:
    (job,) = plan_jobs([tmp_path / "a.ARW"], BatchOptions())
    assert job == Job(tmp_path / "a.ARW", (tmp_path / "a_gia.tif",))
    (job,) = plan_jobs([tmp_path / "a.ARW"], BatchOptions(format="png"))
    assert job.targets == (tmp_path / "a_gia.png",)


def test_folders_give_their_raw_files_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path / "b.arw", tmp_path / "a.RAF", tmp_path / "note.txt", tmp_path / "._b.arw")
    touch(tmp_path / "sub" / "c.dng", tmp_path / "a.jpg")
    names = [job.source.name for job in plan_jobs([tmp_path], BatchOptions())]
    assert names == ["a.RAF", "b.arw"]
    names = [job.source.name for job in plan_jobs([tmp_path], BatchOptions(recursive=True))]
    assert sorted(names) == ["a.RAF", "b.arw", "c.dng"]


def test_dngs_that_gia_wrote_are_no_photos_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a.ARW", tmp_path / "a_gia.dng", tmp_path / "a_gia_x50.dng")
    touch(tmp_path / "a_gia_crop.dng", tmp_path / "a_gia_crop_x50.dng")
    touch(tmp_path / "b_giant.dng", tmp_path / "a_gia.ARW")
    names = [job.source.name for job in plan_jobs([tmp_path], BatchOptions(format="dng"))]
    assert names == ["a.ARW", "a_gia.ARW", "b_giant.dng"]
    assert plan_jobs([tmp_path / "a.ARW"], BatchOptions(format="dng"))[0].targets == (
        tmp_path / "a_gia.dng",
    )


def test_an_output_folder_keeps_subfolders(tmp_path: Path) -> None:
    touch(tmp_path / "card" / "x" / "a.ARW", tmp_path / "card" / "y" / "a.ARW")
    options = BatchOptions(out_dir=tmp_path / "out", recursive=True)
    targets = {job.targets[0] for job in plan_jobs([tmp_path / "card"], options)}
    assert targets == {tmp_path / "out" / "x" / "a_gia.tif", tmp_path / "out" / "y" / "a_gia.tif"}


def test_a_simulated_long_exposure_is_no_photo_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "a.ARW", tmp_path / "a_long.ARW", tmp_path / "b_long.ARW")
    names = [job.source.name for job in plan_jobs([tmp_path], BatchOptions())]
    assert names == ["a.ARW", "b_long.ARW"]  # the second has no short one beside it
    (named,) = plan_jobs([tmp_path / "a_long.ARW"], BatchOptions())
    assert named.source.name == "a_long.ARW" and named.error is None


def test_parts_have_names_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path / "a.ARW")
    (job,) = plan_jobs([tmp_path / "a.ARW"], BatchOptions(is_crop=True, format="png"))
    assert job.targets == (tmp_path / "a_gia_crop.png",)


def test_an_outputs_name_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    touch(tmp_path / "a.ARW", tmp_path / "a.RAF", tmp_path / "b.ARW")
    alone = [plan_jobs([tmp_path / name], BatchOptions())[0] for name in ("a.ARW", "a.RAF")]
    assert [job.targets for job in alone] == [(tmp_path / "a_gia.tif",)] * 2
    together = plan_jobs([tmp_path], BatchOptions())
    assert [job.targets[0].name for job in together] == ["a_gia.tif", "a_gia.tif", "b_gia.tif"]


@pytest.mark.parametrize("on_exists", ["error", "skip", "overwrite"])
def test_photos_that_would_be_written_to_one_file_fail_and_no_others(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, on_exists: Any
) -> None:
    touch(tmp_path / "x" / "a.ARW", tmp_path / "y" / "a.ARW")
    photos = [tmp_path / "x" / "a.ARW", make_arw("b.ARW"), tmp_path / "y" / "a.ARW"]
    results = run(photos, enhancer, out_dir=tmp_path / "out", on_exists=on_exists)
    assert [result.status for result in results] == ["failed", "written", "failed"]
    for result in (results[0], results[2]):
        assert isinstance(result.error, OutputError)
        assert result.error.exit_code == 60
        assert str(photos[0]) in str(result.error) and str(photos[2]) in str(result.error)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b_gia.tif"]


@pytest.mark.parametrize(("ignored", "errors"), [(True, 2), (False, 0)])
def test_names_that_differ_in_case_clash_where_case_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool, errors: int
) -> None:
    photos = [tmp_path / "x" / "\xe4.ARW", tmp_path / "y" / "A\u0308.ARW", tmp_path / "b.ARW"]
    touch(*photos)
    monkeypatch.setattr("gia_cli.enhance.batch.ignores_case", lambda folder: ignored)
    jobs = plan_jobs(photos, BatchOptions(out_dir=tmp_path / "out"))
    assert sum(job.error is not None for job in jobs[:2]) == errors
    assert jobs[2].error is None


def test_a_store_is_not_asked_on_disk_whether_it_ignores_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [tmp_path / "x" / "a.ARW", tmp_path / "y" / "A.ARW", tmp_path / "z" / "a.ARW"]
    touch(*photos)
    asked: list[Path] = []
    monkeypatch.setattr("gia_cli.enhance.batch.ignores_case", lambda path: asked.append(path))
    jobs = plan_jobs(photos, BatchOptions(out_dir=Path("memory://card")))
    assert [job.error is None for job in jobs] == [False, True, False]  # of one name each
    assert asked == []


# ---------------------------------------------------------------- outputs that are inputs


def _spellings(raw: Path) -> dict[str, Path]:
    """Paths of one file."""
    folder = raw.parent
    (folder / "link.tif").symlink_to(raw.name)
    (folder / "hard.tif").hardlink_to(raw)
    (folder / "sub").mkdir()
    (folder / "folder").symlink_to(folder)
    return {
        "same": raw,
        "link": folder / "link.tif",
        "hard link": folder / "hard.tif",
        "spelling": folder / "sub" / ".." / raw.name,
        "folder link": folder / "folder" / raw.name,
    }


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("way", ["same", "link", "hard link", "spelling", "folder link"])
@pytest.mark.parametrize("on_exists", ["error", "skip", "overwrite"])
def test_an_output_that_is_the_input_is_refused(tmp_path: Path, way: str, on_exists: Any) -> None:
    raw = tmp_path / "raw.tif"
    raw.write_bytes(b"the only copy")
    options = BatchOptions(output=_spellings(raw)[way], on_exists=on_exists)
    with pytest.raises(UsageError, match="is the input") as caught:
        plan_jobs([raw], options)
    assert caught.value.exit_code == 2
    assert raw.read_bytes() == b"the only copy"


def test_an_output_that_is_another_file_that_is_read_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.ARW", tmp_path / "day.tif")
    options = BatchOptions(output=tmp_path / "day.tif", also_read=(tmp_path / "day.tif",))
    with pytest.raises(UsageError, match=r"day\.tif is the input"):
        plan_jobs([tmp_path / "a.ARW"], options)


def test_in_a_batch_only_the_photo_whose_output_is_an_input_fails(tmp_path: Path) -> None:
    photos = [tmp_path / "a.ARW", tmp_path / "a_gia.tif", tmp_path / "b.ARW"]
    touch(*photos)
    jobs = plan_jobs(photos, BatchOptions(on_exists="overwrite"))
    assert [type(job.error) for job in jobs] == [UsageError, type(None), type(None)]


def test_a_sheet_never_replaces_an_input(tmp_path: Path) -> None:
    touch(tmp_path / "o_compare.png")
    sheet = Product(name=lambda path: path.with_name(f"{path.stem}_compare.png"), write=_no_write)
    options = BatchOptions(output=tmp_path / "o.png", products=(PICTURE, sheet))
    with pytest.raises(UsageError, match=r"o_compare\.png"):
        plan_jobs([tmp_path / "o_compare.png"], options)


def _no_write(picture: Enhanced, path: Path) -> None:
    raise AssertionError


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("on_exists", ["error", "skip"])
def test_a_link_that_leads_nowhere_is_not_replaced_unasked(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, on_exists: Any
) -> None:
    output = tmp_path / "o.tif"
    output.symlink_to(tmp_path / "gone.tif")
    (result,) = run([make_arw()], enhancer, output=output, on_exists=on_exists)
    assert isinstance(result.error, OutputExistsError)
    assert output.is_symlink()
    (result,) = run([make_arw()], enhancer, output=output, on_exists="overwrite")
    assert result.status == "written" and not output.is_symlink()


def test_a_folder_in_the_outputs_place_is_told_before_the_work(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enhancer, "prepare", None)
    (tmp_path / "night_gia.tif").mkdir()
    (result,) = run([make_arw()], enhancer, on_exists="overwrite")
    assert isinstance(result.error, OutputError) and "is a folder" in str(result.error)


# ---------------------------------------------------------------- what cannot be looked at


def _deny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody read a folder, not even root."""
    scandir = os.scandir

    def denied(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)


def test_folders_that_may_not_be_read_are_named_and_cost_no_others(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_arw("card/a.ARW")
    make_arw("card/locked/b.ARW")
    _deny(tmp_path / "card" / "locked", monkeypatch)
    out = tmp_path / "out"
    first, second = run([tmp_path / "card"], enhancer, recursive=True, out_dir=out)
    assert first.status == "written" and first.source.name == "a.ARW"
    assert second.source == tmp_path / "card" / "locked" and second.error is not None
    assert second.error.exit_code == 21
    assert "card/locked cannot be read: Permission denied" in str(second.error)
    (alone,) = run([tmp_path / "card" / "locked"], enhancer)
    assert alone.error is not None and alone.error.exit_code == 21


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path / "a.ARW", tmp_path / "sub" / "b.ARW", tmp_path / ".hidden" / "c.ARW")
    for name in ("l1", "l2", "sub/up"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "self.ARW").symlink_to("self.ARW")

    def found(*parts: str, recursive: bool = False) -> list[str]:
        jobs = plan_jobs([tmp_path.joinpath(*parts)], BatchOptions(recursive=recursive))
        return sorted(job.source.name for job in jobs)

    assert found("**", "[ab].ARW") == ["a.ARW", "b.ARW"]
    assert found("**", "**", "b*") == ["b.ARW"]
    assert found("s*", "**", "b.*") == ["b.ARW"]
    assert found("l*", "a.ARW") == ["a.ARW"]  # twice the same photo and output
    assert found(recursive=True) == ["a.ARW", "b.ARW", "c.ARW"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_pipes_devices_and_loops_are_refused_at_once(enhancer: Enhancer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ARW")
    (tmp_path / "loop.ARW").symlink_to("loop.ARW")
    photos = [tmp_path / "pipe.ARW", Path("/dev/zero"), tmp_path / "loop.ARW"]
    results = run(photos, enhancer, out_dir=tmp_path / "out")
    assert [result.error.exit_code for result in results if result.error] == [12, 12, 21]
    with pytest.raises(UsageError, match="no RAW photos"):
        plan_jobs([tmp_path], BatchOptions())


def test_a_photo_named_twice_is_worked_on_once(tmp_path: Path) -> None:
    touch(tmp_path / "a.ARW")
    assert len(plan_jobs([tmp_path / "a.ARW", tmp_path / "a.ARW", tmp_path], BatchOptions())) == 1


def test_patterns_are_expanded(tmp_path: Path) -> None:
    touch(tmp_path / "a1.ARW", tmp_path / "a2.ARW", tmp_path / "b.ARW")
    names = [job.source.name for job in plan_jobs([tmp_path / "a*.ARW"], BatchOptions())]
    assert names == ["a1.ARW", "a2.ARW"]
    with pytest.raises(UsageError, match="Nothing matches"):
        plan_jobs([tmp_path / "z*.ARW"], BatchOptions())


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path / "[x].ARW")
    (job,) = plan_jobs([tmp_path / "[x].ARW"], BatchOptions())
    assert job.source.name == "[x].ARW"


def test_brackets_name_an_output_for_each_ratio(tmp_path: Path) -> None:
    options = BatchOptions(request=ExposureRequest(brackets=(50, 62.5)), output=tmp_path / "o.png")
    (job,) = plan_jobs([tmp_path / "a.ARW"], options)
    assert [target.name for target in job.targets] == ["o_x50.png", "o_x62.5.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": Path("o.tif"), "out_dir": Path("d")}, "not both"),
        ({"output": Path("o.gif")}, "o.gif"),
        ({"output": Path("o.png"), "format": "tif"}, "not a tif file"),
        ({"output": Path()}, "is a folder"),
    ],
)
def test_contradicting_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_jobs([Path("a.ARW")], BatchOptions(**options))


def test_one_output_for_several_photos_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.ARW", tmp_path / "b.ARW")
    with pytest.raises(UsageError, match="2 photos"):
        plan_jobs([tmp_path], BatchOptions(output=tmp_path / "o.tif"))


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "sub" / "a.ARW")
    with pytest.raises(UsageError, match="--recursive"):
        plan_jobs([tmp_path], BatchOptions())


# ---------------------------------------------------------------- running


@pytest.mark.slow
def test_bad_files_stop_nothing_and_are_named(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    good = [make_arw(f"card/{name}.ARW") for name in "adf"]
    (tmp_path / "card" / "b.ARW").write_bytes(b"")
    (tmp_path / "card" / "c.ARW").write_text("not a photo, only its name says so\n" * 99)
    gone = tmp_path / "card" / "gone.ARW"
    results = run([tmp_path / "card", gone], enhancer, out_dir=tmp_path / "out")
    states = {result.source.name: result.status for result in results}
    assert states == {
        "a.ARW": "written",
        "b.ARW": "failed",
        "c.ARW": "failed",
        "d.ARW": "written",
        "f.ARW": "written",
        "gone.ARW": "failed",
    }
    errors = [type(result.error) for result in results if result.error]
    assert errors == [EmptyFileError, NotRawError, FileMissingError]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"{path.stem}_gia.tif" for path in good}


@pytest.mark.slow
def test_a_batch_gives_the_same_pictures_as_single_runs(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    photos = [make_arw(f"{seed}.ARW", seed=seed) for seed in range(3)]
    results = run(photos, enhancer, out_dir=tmp_path / "batch")
    for photo, result in zip(photos, results, strict=True):
        single = tmp_path / "single.tif"
        enhancer.enhance(photo, ratio=100).save(single)
        assert result.outputs[0].read_bytes() == single.read_bytes()


def test_existing_outputs(make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path) -> None:
    photo, target = make_arw(), tmp_path / "night_gia.tif"
    target.write_bytes(b"precious")
    (result,) = run([photo], enhancer)
    assert isinstance(result.error, OutputExistsError)
    assert target.read_bytes() == b"precious"
    (result,) = run([photo], enhancer, on_exists="skip")
    assert (result.status, target.read_bytes()) == ("skipped", b"precious")
    (result,) = run([photo], enhancer, on_exists="overwrite")
    assert result.status == "written"
    assert target.read_bytes()[:4] == b"II*\0"


def test_skipping_makes_only_the_missing_brackets(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    photo, request = make_arw(), ExposureRequest(brackets=(10, 20))
    (tmp_path / "night_gia_x10.tif").write_bytes(b"kept")
    (result,) = run([photo], enhancer, request=request, on_exists="skip")
    assert [path.name for path in result.outputs] == ["night_gia_x20.tif"]
    assert (tmp_path / "night_gia_x10.tif").read_bytes() == b"kept"


def test_a_missing_output_folder_is_reported_before_the_work(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enhancer, "prepare", None)
    (result,) = run([make_arw()], enhancer, output=tmp_path / "nowhere" / "o.tif")
    assert isinstance(result.error, OutputError)
    assert "nowhere" in str(result.error)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_an_output_folder_that_cannot_be_made(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    (result,) = run([make_arw()], enhancer, out_dir=tmp_path / "file" / "out")
    assert isinstance(result.error, OutputError)


def test_a_failing_write_fails_its_photo_alone(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    photos = [make_arw(f"{name}.ARW") for name in "abc"]

    def write(result: Enhanced, target: Path) -> None:
        if target.name.startswith("b"):
            raise OutputError("The disk is full.")
        result.save(target)

    product = Product(name=lambda target: target, write=write)
    options = BatchOptions(out_dir=tmp_path / "out", products=(product,))
    heard: list[str] = []
    results = run_jobs(
        plan_jobs(photos, options),
        enhancer,
        options,
        progress=SILENT,
        on_result=lambda result: heard.append(result.source.name),
    )
    assert [result.status for result in results] == ["written", "failed", "written"]
    assert heard == ["a.ARW", "b.ARW", "c.ARW"]


def test_a_bug_in_one_photo_is_reported_as_one(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [make_arw(f"{name}.ARW") for name in "ab"]
    genuine = enhancer.render

    def fail_first(prepared: Prepared, **kwargs: Any) -> Rendered:
        if prepared.frame.path.name == "a.ARW":
            raise ZeroDivisionError("a bug")
        return genuine(prepared, **kwargs)

    monkeypatch.setattr(enhancer, "render", fail_first)
    first, second = run(photos, enhancer, out_dir=tmp_path / "out")
    assert first.error is not None
    assert type(first.error) is GiaError
    assert "ZeroDivisionError" in str(first.error)
    assert "report it" in str(first.error)
    assert second.status == "written"


def test_ctrl_c_leaves_whole_files_only(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [make_arw(f"{name}.ARW") for name in "abc"]
    genuine = enhancer.render

    def interrupt_second(prepared: Prepared, **kwargs: Any) -> Rendered:
        if prepared.frame.path.name == "b.ARW":
            raise KeyboardInterrupt
        return genuine(prepared, **kwargs)

    monkeypatch.setattr(enhancer, "render", interrupt_second)
    with pytest.raises(Interrupted, match="of 3 photos"):
        run(photos, enhancer, out_dir=tmp_path / "out")
    written = list((tmp_path / "out").iterdir())
    assert [path.name for path in written] == ["a_gia.tif"]
    monkeypatch.undo()
    enhancer.enhance(photos[0], ratio=100).save(tmp_path / "again.tif")
    assert written[0].read_bytes() == (tmp_path / "again.tif").read_bytes()


@pytest.mark.parametrize("brackets", [(), (50.0, 100.0)])
def test_a_picture_that_is_there_is_reported_wherever_ctrl_c_comes(
    make_arw: MakePhoto,
    enhancer: Enhancer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    brackets: tuple[float, ...],
) -> None:
    """Here: behind a photo's pictures, before its result; its last bracket is not there."""
    genuine = batch._pictures

    def interrupt(*photo: Any) -> Iterator[Any]:
        pictures = genuine(*photo)
        yield next(pictures)
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "_pictures", interrupt)
    request = ExposureRequest(brackets=brackets) if brackets else ExposureRequest(ratio=100)
    options = BatchOptions(request=request, out_dir=tmp_path / "out")
    jobs = plan_jobs([make_arw("a.ARW"), make_arw("b.ARW")], options)
    told: list[FileResult] = []
    done = 0 if brackets else 1
    with pytest.raises(Interrupted, match=f"after {done} of 2 photos"):
        run_jobs(jobs, enhancer, options, progress=SILENT, on_result=told.append)
    assert [result.source.name for result in told] == ["a.ARW"][:done]
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_no_jobs_give_no_results(enhancer: Enhancer) -> None:
    assert run_jobs([], enhancer, BatchOptions(), progress=SILENT) == []


def write_comment(result: Enhanced, path: Path) -> None:
    path.write_text(result.comment)


NOTES = Product(name=lambda target: target.with_suffix(".txt"), write=write_comment)


def test_every_product_of_a_picture_respects_what_exists(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    photo, note, picture = make_arw(), tmp_path / "night_gia.txt", tmp_path / "night_gia.tif"
    note.write_text("precious")
    (result,) = run([photo], enhancer, products=(PICTURE, NOTES))
    assert isinstance(result.error, OutputExistsError)
    assert not picture.exists()
    (result,) = run([photo], enhancer, products=(PICTURE, NOTES), on_exists="skip")
    assert result.outputs == [picture]
    assert note.read_text() == "precious"
    note.unlink()
    made = picture.stat().st_mtime_ns
    (result,) = run([photo], enhancer, products=(PICTURE, NOTES), on_exists="skip")
    assert result.outputs == [note]
    assert picture.stat().st_mtime_ns == made


def test_skipping_runs_the_network_for_missing_brackets_only(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    request = ExposureRequest(brackets=(10, 20, 40))
    (tmp_path / "night_gia_x20.tif").write_bytes(b"kept")
    (result,) = run([make_arw()], enhancer, request=request, on_exists="skip")
    assert [choice.ratio for choice in result.choices] == [10, 40]


def test_what_was_written_before_a_failure_is_reported(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    def write(result: Enhanced, target: Path) -> None:
        if "x20" in target.name:
            raise OutputError("The disk is full.")
        result.save(target)

    product = Product(name=lambda target: target, write=write)
    request = ExposureRequest(brackets=(10, 20))
    (result,) = run([make_arw()], enhancer, request=request, products=(product,))
    assert result.status == "failed"
    assert [path.name for path in result.outputs] == ["night_gia_x10.tif"]


def test_a_pattern_that_matches_folders_looks_into_them(tmp_path: Path) -> None:
    touch(tmp_path / "day1" / "a.ARW", tmp_path / "day2" / "b.ARW")
    names = [job.source.name for job in plan_jobs([tmp_path / "day*"], BatchOptions())]
    assert names == ["a.ARW", "b.ARW"]


def test_a_photo_found_twice_is_worked_on_once(tmp_path: Path) -> None:
    touch(tmp_path / "sub" / "a.ARW")
    options = BatchOptions(out_dir=tmp_path / "out", recursive=True)
    assert len(plan_jobs([tmp_path, tmp_path / "sub" / "a.ARW"], options)) == 1


def test_a_name_that_the_system_refuses_fails_alone(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    names = ["x" * 300 + ".ARW", "x" * 5000, "x/" * 3000 + "a.ARW"]
    photos = [make_arw(), *(tmp_path / name for name in names)]
    good, *bad = run(photos, enhancer, out_dir=tmp_path / "o")
    assert good.status == "written"
    for result in bad:
        assert isinstance(result.error, FileMissingError)
        assert "name too long" in str(result.error)


@pytest.mark.parametrize("length", [227, 239, 247, 251])
def test_a_photo_with_a_long_name_is_enhanced_if_its_output_can_have_one(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, length: int
) -> None:
    (result,) = run([make_arw("x" * length + ".ARW")], enhancer)
    if length + len("_gia.tif") <= 255:
        assert result.outputs == [tmp_path / f"{'x' * length}_gia.tif"]
    else:
        assert isinstance(result.error, OutputError) and result.error.exit_code == 60
        assert "name too long" in str(result.error)
        assert [path.suffix for path in tmp_path.iterdir()] == [".ARW"]


# ---------------------------------------------------------------- overlapping


PATIENCE = 60  # seconds that nobody waits unless something is wrong


class Watched:
    """An enhancer's steps, with events for each photo and a place to interfere."""

    def __init__(self, enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: dict[str, threading.Event] = {}
        self.alive: set[str] = set()
        self.before_reading: Callable[[str], None] = lambda name: None
        self.before_computing: Callable[[str, bool], None] = lambda name, is_beside: None
        self.before_developing: Callable[[str], None] = lambda name: None
        self.before_writing: Callable[[str], None] = lambda name: None
        self.product = Product(name=lambda target: target, write=self._write)
        self._prepare, self._render = enhancer.prepare, enhancer.render
        develop = Computed.develop

        def developing(computed: Computed, *, keep_picture: bool) -> Enhanced:
            self.before_developing(computed.frame.path.stem)
            return develop(computed, keep_picture=keep_picture)

        monkeypatch.setattr(enhancer, "prepare", self._preparing)
        monkeypatch.setattr(enhancer, "render", self._computing)
        monkeypatch.setattr(Computed, "develop", developing)

    def has(self, event: str) -> threading.Event:
        return self.events.setdefault(event, threading.Event())

    def wait_for(self, event: str) -> None:
        assert self.has(event).wait(PATIENCE), event

    def _preparing(self, source: Path, *args: Any, **kwargs: Any) -> Iterator[Prepared]:
        self.before_reading(source.stem)
        for prepared in self._prepare(source, *args, **kwargs):
            self.alive.add(source.stem)
            weakref.finalize(prepared.frame.mosaic, self.alive.discard, source.stem)
            self.has(f"read {source.stem}").set()
            yield prepared

    def _computing(self, prepared: Prepared, *, is_beside: bool, **kwargs: Any) -> Rendered:
        self.before_computing(prepared.frame.path.stem, is_beside)
        return self._render(prepared, is_beside=is_beside, **kwargs)

    def _write(self, picture: Enhanced, target: Path) -> None:
        self.before_writing(picture.frame.path.stem)
        picture.save(target)
        self.has(f"written {picture.frame.path.stem}").set()


@pytest.fixture
def watched(enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(enhancer, monkeypatch)


def test_the_next_is_read_and_the_last_is_written_while_the_network_works(
    make_arw: MakePhoto, enhancer: Enhancer, watched: Watched, tmp_path: Path
) -> None:
    """Each of the three waits for another: one after the other they would wait forever."""

    def reading(name: str) -> None:
        if name == "c":
            watched.wait_for("computing b")

    def computing(name: str, is_beside: bool) -> None:
        watched.has(f"computing {name}").set()
        if name == "b":
            watched.wait_for("read c")
            watched.wait_for("written a")

    def developing(name: str) -> None:
        if name == "a":
            watched.wait_for("computing b")

    watched.before_reading, watched.before_computing = reading, computing
    watched.before_developing = developing
    photos = [make_arw(f"{name}.ARW") for name in "abc"]
    results = run(photos, enhancer, out_dir=tmp_path / "out", products=(watched.product,))
    assert [result.error for result in results] == [None] * 3
    assert [result.source for result in results] == photos
    stages = {"decode", "exposure", "pack", "load", "black_level", "network", "fusion"}
    stages |= {"colour", "write"}
    assert all(set(result.stages) == stages for result in results)


@pytest.mark.parametrize("stage", ["reading", "computing", "developing", "writing"])
def test_a_failure_at_any_stage_fails_its_photo_alone(
    make_arw: MakePhoto, enhancer: Enhancer, watched: Watched, tmp_path: Path, stage: str
) -> None:
    def fail(name: str, *_: Any) -> None:
        if name == "b":
            raise OutputError("as planned")

    setattr(watched, f"before_{stage}", fail)
    photos = [make_arw(f"{name}.ARW") for name in "abc"]
    results = run(photos, enhancer, out_dir=tmp_path / "out", products=(watched.product,))
    assert [result.status for result in results] == ["written", "failed", "written"]
    assert str(results[1].error) == "as planned"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a_gia.tif", "c_gia.tif"}


def test_no_more_than_three_photos_are_held(
    make_arw: MakePhoto, enhancer: Enhancer, watched: Watched, tmp_path: Path
) -> None:
    """Failed ones are let go of too, although their errors are kept."""

    def at_most(count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(watched.alive) > count and time.monotonic() < deadline:
            time.sleep(0.001)  # a thread may still be on its way out of the photo's last step
        assert len(watched.alive) <= count, watched.alive

    def reading(name: str) -> None:
        at_most(2)  # this one will be the third

    def computing(name: str, is_beside: bool) -> None:
        at_most(3)
        if name in "bc":
            raise ZeroDivisionError("a bug")

    def save(picture: Enhanced, target: Path) -> None:
        at_most(3)
        try:
            assert picture.frame.path.stem != "e"
            picture.save(target)
        except AssertionError as error:
            raise OutputError("as planned") from error

    watched.before_reading, watched.before_computing = reading, computing
    photos = [make_arw(f"{name}.ARW") for name in "abcdefg"]
    product = Product(name=lambda target: target, write=save)
    results = run(photos, enhancer, out_dir=tmp_path / "out", products=(product,))
    failed = {result.source.stem: type(result.error) for result in results if result.error}
    assert failed == {"b": GiaError, "c": GiaError, "e": OutputError}
    at_most(0)


def test_where_memory_is_short_the_network_waits_for_its_neighbours(
    make_arw: MakePhoto, enhancer: Enhancer, watched: Watched, tmp_path: Path
) -> None:
    calls: list[tuple[str, bool]] = []

    def reading(name: str) -> None:
        if name == "c":
            watched.has("reading c").set()
            watched.wait_for("refused b")

    def computing(name: str, is_beside: bool) -> None:
        calls.append((name, is_beside))
        if name == "b" and is_beside:
            watched.wait_for("reading c")
            watched.has("refused b").set()
            raise OutOfMemoryError("Three are too many.")
        if name == "b":
            watched.wait_for("read c")
            assert watched.has("written a").is_set()
            assert "c" not in watched.alive  # it is read anew

    watched.before_reading, watched.before_computing = reading, computing
    watched.before_developing = lambda name: watched.wait_for("refused b") if name == "a" else None
    photos = [make_arw(f"{name}.ARW") for name in "abc"]
    results = run(photos, enhancer, out_dir=tmp_path / "out", products=(watched.product,))
    assert [result.error for result in results] == [None] * 3
    # Beside both, beside the one that is ahead, and alone.
    assert [call for call in calls if call[0] == "b"] == [("b", True), ("b", True), ("b", False)]


def test_where_only_the_last_photo_is_in_the_way_the_next_is_not_read_twice(
    make_arw: MakePhoto, enhancer: Enhancer, watched: Watched, tmp_path: Path
) -> None:
    read: list[str] = []
    calls: list[str] = []

    def computing(name: str, is_beside: bool) -> None:
        calls.append(name)
        if calls.count("b") == 1 and name == "b":
            raise OutOfMemoryError("Three are too many.")
        assert name != "b" or watched.has("written a").is_set()

    watched.before_computing, watched.before_reading = computing, read.append
    photos = [make_arw(f"{name}.ARW") for name in "abc"]
    results = run(photos, enhancer, out_dir=tmp_path / "out", products=(watched.product,))
    assert [result.error for result in results] == [None] * 3
    assert calls == ["a", "b", "b", "c"] and read == ["a", "b", "c"]


def test_interrupted_in_the_midst_it_finishes_what_is_being_written(
    make_arw: MakePhoto, enhancer: Enhancer, watched: Watched, tmp_path: Path
) -> None:
    def computing(name: str, is_beside: bool) -> None:
        if name == "b":
            watched.wait_for("writing a")
            watched.has("interrupted").set()
            raise KeyboardInterrupt

    def writing(name: str) -> None:
        watched.has(f"writing {name}").set()
        watched.wait_for("interrupted")

    watched.before_computing, watched.before_writing = computing, writing
    photos = [make_arw(f"{name}.ARW") for name in "abcd"]
    with pytest.raises(Interrupted, match="after 1 of 4 photos"):
        run(photos, enhancer, out_dir=tmp_path / "out", products=(watched.product,))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_gia.tif"]
    assert not watched.has("read d").is_set()


def test_brackets_are_written_while_the_next_is_computed(
    make_arw: MakePhoto, enhancer: Enhancer, watched: Watched, tmp_path: Path
) -> None:
    computed: list[str] = []

    def computing(name: str, is_beside: bool) -> None:
        computed.append(name)
        if len(computed) == 2:
            watched.has("second").set()
            watched.wait_for("written night")

    watched.before_computing = computing
    watched.before_developing = lambda name: watched.wait_for("second")
    request = ExposureRequest(brackets=(10, 20, 40))
    (result,) = run([make_arw()], enhancer, request=request, products=(watched.product,))
    assert [choice.ratio for choice in result.choices] == [10, 20, 40]
    names = [f"night_gia_x{ratio}.tif" for ratio in (10, 20, 40)]
    assert [path.name for path in result.outputs] == names


# ---------------------------------------------------------------- several of each


class Held(SimpleNamespace):
    """Something that weak references may lead to."""


class Fake:
    """An enhancer of photos that hold nothing, which counts them and can fail anywhere."""

    def __init__(self, fails: set[tuple[str, str]], rng: random.Random) -> None:
        self.runtime = Runtime("cuda", "float16")
        self.options = InferOptions()
        self.has_left_device = False
        self.held, self.most = 0, 0
        self.working: Counter[str] = Counter()
        self.most_working: Counter[str] = Counter()
        self.threads: dict[str, set[str]] = {}
        self.before: Callable[[str, str], None] = lambda step, name: None
        self.fails, self._rng = fails, rng
        self._lock = threading.RLock()  # what is counted may go anywhere

    def work(self, step: str, name: str) -> None:
        self.before(step, name)
        with self._lock:
            self.working[step] += 1
            self.most_working[step] = max(self.most_working[step], self.working[step])
            self.threads.setdefault(step, set()).add(threading.current_thread().name)
            seconds = self._rng.choice([0, 0.001, 0.004])
        time.sleep(seconds)
        with self._lock:
            self.working[step] -= 1
        if (step, name) in self.fails:
            raise OutputError(f"{step} {name}")

    def hold(self, change: int) -> None:
        with self._lock:
            self.held += change
            self.most = max(self.most, self.held)

    def prepare(self, path: Path, request: ExposureRequest, *, progress: Any) -> Iterator[Any]:
        self.work("read", path.stem)
        progress.note(f"read {path.stem}")
        for ratio in request.brackets or (1,):
            frame = Held(path=path, mosaic=SimpleNamespace(size=1))
            weakref.finalize(frame, self.hold, -1)
            self.hold(1)
            yield SimpleNamespace(
                frame=frame, choice=f"{path.stem} {ratio}", reading_bytes=1, developing_bytes=1,
                picture_bytes=1, saving_bytes=lambda *_: 1,
            )  # fmt: skip

    def load(self, prepared: Any, *, progress: Any) -> None:
        pass

    def finishing_bytes(self, prepared: Any) -> int:
        return 1

    def render(self, prepared: Any, **_: Any) -> Any:
        self.work("render", prepared.frame.path.stem)
        return SimpleNamespace(
            frame=prepared.frame, choice=prepared.choice, white_balance="as shot",
            ran=SimpleNamespace(name="weights"), metadata=SimpleNamespace(report=lambda: None),
        )  # fmt: skip

    def finish(self, rendered: Any, *, progress: Any) -> Any:
        self.work("finish", rendered.frame.path.stem)
        enhanced = SimpleNamespace(frame=rendered.frame, choice=rendered.choice, seconds={})
        return SimpleNamespace(develop=lambda *, keep_picture: enhanced)

    def save(self, picture: Any, target: Path) -> None:
        self.work("write", picture.frame.path.stem)
        target.write_text(picture.choice)


def fakes(
    folder: Path, seed: int, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> tuple[Fake, list[Job], BatchOptions, dict[str, str]]:
    """Make a batch of up to thirty photos, of which some fail; returns where each one does."""
    rng = random.Random(seed)
    names = [f"{number:02}" for number in range(rng.randrange(1, 30))]
    fails = {name: rng.choice(["read", "render", "finish", "write"]) for name in names}
    fails = {name: step for name, step in fails.items() if rng.random() < 0.3}
    enhancer = Fake({(step, name) for name, step in fails.items()}, rng)
    for name in names:
        (folder / f"{name}.ARW").write_bytes(b"a photo")
    brackets = (10.0, 20.0) if seed % 2 else ()
    product = Product(name=lambda target: target, write=enhancer.save)
    options = BatchOptions(
        request=ExposureRequest(brackets=brackets), out_dir=folder / "out", products=(product,)
    )
    monkeypatch.setattr(Lanes, "beside", lambda device, cores: lanes)
    monkeypatch.setattr(batch, "free_bytes", lambda: 10**12)
    return enhancer, plan_jobs([folder], options), options, fails


@pytest.mark.parametrize(("device", "many"), [("cpu", False), ("cuda", True)])
def test_a_limit_of_a_cards_memory_is_none_of_the_hosts(
    device: DeviceKind, many: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker has that shares a card with others; the process holds more than that already."""
    enhancer, _, options, _ = fakes(tmp_path, 0, Lanes(4, 4, True), monkeypatch)
    enhancer.runtime = Runtime(device, "float32")
    enhancer.options = InferOptions(max_memory=1)
    monkeypatch.setattr(batch, "is_main_memory", lambda device, index: device == "cpu")
    running = batch._Pipeline(enhancer, options, SILENT, Lanes(4, 4, True), InOrder(lambda _: None))  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as pool:
        behind = Behind(pool)
        assert running._writers_for(1, behind) == (4 if many else 1)


LANES = [Lanes(), Lanes(1, 3, True), Lanes(3, 1), Lanes(4, 4, True)]


@pytest.mark.parametrize("lanes", LANES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_with_any_number_of_threads_each_photo_has_its_own_result_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, lanes: Lanes
) -> None:
    enhancer, jobs, options, fails = fakes(tmp_path, seed, lanes, monkeypatch)
    told: list[FileResult] = []
    results = run_jobs(jobs, enhancer, options, progress=SILENT, on_result=told.append)  # type: ignore[arg-type]
    assert results == told
    assert [result.source for result in results] == [job.source for job in jobs]
    for job, result in zip(jobs, results, strict=True):
        name = job.source.stem
        if name in fails:
            assert result.status == "failed" and str(result.error) == f"{fails[name]} {name}"
        else:
            assert result.status == "written" and result.outputs == list(job.targets)
            made: list[Any] = [path.read_text() for path in result.outputs]
            assert made == result.choices
        assert result.notes == [f"read {name}"] * (fails.get(name) != "read")
    written = {path for result in results for path in result.outputs}
    assert written == set((tmp_path / "out").glob("*"))
    # A photo in the network beside those that are ahead of it and behind it; of one whose failure
    # has just been told a thread may still hold something, on its way to the next.
    assert enhancer.most <= lanes.readers + 1 + lanes.writers + (1 if seed % 2 else 0)
    assert enhancer.most_working["read"] <= lanes.readers
    assert enhancer.most_working["render"] <= 1
    assert enhancer.most_working["finish"] + enhancer.most_working["write"] <= 2 * lanes.writers
    finishing, rendering = (enhancer.threads.get(step, set()) for step in ("finish", "render"))
    assert finishing <= rendering or (lanes.finishes_behind and not finishing & rendering)


@pytest.mark.parametrize("lanes", LANES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_interrupted_with_several_threads_what_is_there_is_told_of_and_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, lanes: Lanes
) -> None:
    enhancer, jobs, options, _ = fakes(tmp_path, 10 * seed + 1, lanes, monkeypatch)
    stops_at = len(jobs) // 2
    rendered: list[str] = []

    def press(step: str, name: str) -> None:
        if (step, name) == ("render", jobs[stops_at].source.stem):
            raise KeyboardInterrupt
        if step == "render":
            rendered.append(name)

    enhancer.before = press
    enhancer.fails -= {("read", jobs[stops_at].source.stem)}
    told: list[FileResult] = []
    with pytest.raises(Interrupted, match=f"after {stops_at} of {len(jobs)} photos"):
        run_jobs(jobs, enhancer, options, progress=SILENT, on_result=told.append)  # type: ignore[arg-type]
    assert [result.source for result in told] == [job.source for job in jobs[:stops_at]]
    assert {path for result in told for path in result.outputs} == set((tmp_path / "out").glob("*"))
    assert set(rendered) <= {job.source.stem for job in jobs[:stops_at]}


def test_several_photos_are_read_and_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three wait for each other in each of the two stages: fewer threads would wait for ever."""
    enhancer, _, options, _ = fakes(tmp_path, 3, Lanes(3, 3, True), monkeypatch)
    enhancer.fails = set()
    (tmp_path / "card").mkdir()
    for number in range(10):
        (tmp_path / "card" / f"{number}.ARW").write_bytes(b"a photo")
    meet = {step: threading.Barrier(3, timeout=PATIENCE) for step in ("read", "finish", "write")}

    def before(step: str, name: str) -> None:
        if step in meet and name != "0":  # which is read, and computed, before any other is begun
            meet[step].wait()

    enhancer.before = before
    options = replace(options, request=ExposureRequest())
    jobs = plan_jobs([tmp_path / "card"], options)
    results = run_jobs(jobs, enhancer, options, progress=SILENT)  # type: ignore[arg-type]
    assert [result.error for result in results] == [None] * 10


def test_where_memory_is_short_one_photo_is_ahead_and_one_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked before each is begun; under a limit what this process holds counts, too."""
    for room, limit in ((0, None), (10**12, 10**9)):
        enhancer, jobs, options, _ = fakes(tmp_path, 2, Lanes(4, 4, True), monkeypatch)
        enhancer.options = InferOptions(max_memory=limit)
        enhancer.runtime = Runtime("mps", "float32")
        monkeypatch.setattr(batch, "free_bytes", lambda room=room: room)
        monkeypatch.setattr(batch, "resident_bytes", lambda: 10**9)
        run_jobs(jobs, enhancer, options, progress=SILENT)  # type: ignore[arg-type]
        assert enhancer.most <= 3
        assert enhancer.most_working["read"] == enhancer.most_working["write"] == 1
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("why", ["refused", "left"])
def test_after_a_refusal_or_on_the_cpu_one_photo_is_ahead_and_one_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    enhancer, jobs, options, _ = fakes(tmp_path, 6, Lanes(4, 4, True), monkeypatch)
    enhancer.fails = set()
    genuine, seen = enhancer.render, list[bool]()

    def render(prepared: Any, *, is_beside: bool = False, **rest: Any) -> Any:
        seen.append(is_beside)
        if len(seen) == 1:
            enhancer.has_left_device = why == "left"
            if why == "refused":
                raise OutOfMemoryError("Others hold it.")
        else:
            enhancer.most_working.clear()
        return genuine(prepared, **rest)

    monkeypatch.setattr(enhancer, "render", render)
    results = run_jobs(jobs, enhancer, options, progress=SILENT)  # type: ignore[arg-type]
    assert [result.error for result in results] == [None] * len(jobs)
    assert len(seen) == len(jobs) + (why == "refused")
    assert enhancer.most_working["write"] <= 1


def test_a_listener_that_fails_ends_the_batch(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    """Its failure is no photo's."""

    def on_result(result: FileResult) -> None:
        raise BrokenPipeError

    options = BatchOptions(request=ExposureRequest(ratio=100), out_dir=tmp_path / "out")
    jobs = plan_jobs([make_arw(f"{name}.ARW") for name in "abc"], options)
    with pytest.raises(BrokenPipeError):
        run_jobs(jobs, enhancer, options, progress=SILENT, on_result=on_result)


def test_a_listeners_failure_is_not_lost_behind_a_photo_that_cannot_be_read(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    heard: list[str] = []

    def on_result(result: FileResult) -> None:
        heard.append(result.source.name)
        if len(heard) == 1:
            raise BrokenPipeError

    junk = tmp_path / "b.ARW"
    junk.write_bytes(b"no photo" * 1000)
    options = BatchOptions(request=ExposureRequest(ratio=100), out_dir=tmp_path / "out")
    jobs = plan_jobs([make_arw("a.ARW"), junk], options)
    with pytest.raises(BrokenPipeError):
        run_jobs(jobs, enhancer, options, progress=SILENT, on_result=on_result)


def test_a_batch_writes_dngs(make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path) -> None:
    photos = [make_arw("a.ARW"), make_arw("b.ARW", seed=2)]
    results = run(photos, enhancer, out_dir=tmp_path / "out", format="dng")
    assert [result.status for result in results] == ["written", "written"]
    for photo in photos:
        enhancer.enhance(photo, ratio=100).save(tmp_path / "own.dng")
        written = tmp_path / "out" / f"{photo.stem}_gia.dng"
        assert written.read_bytes() == (tmp_path / "own.dng").read_bytes()


def test_a_batch_saves_with_options(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path
) -> None:
    photos = [make_arw("a.ARW"), make_arw("b.ARW", seed=2)]
    options = SaveOptions(color_space="rec2020", jpeg_quality=80)
    products = (picture_saved(options),)
    results = run(photos, enhancer, out_dir=tmp_path / "out", format="jpg", products=products)
    assert [result.status for result in results] == ["written", "written"]
    for photo in photos:
        enhancer.enhance(photo, ratio=100).save(tmp_path / "own.jpg", options)
        written = tmp_path / "out" / f"{photo.stem}_gia.jpg"
        assert written.read_bytes() == (tmp_path / "own.jpg").read_bytes()


def test_options_of_another_format_are_refused_before_the_work(tmp_path: Path) -> None:
    products = (picture_saved(SaveOptions(jxl_effort=3)),)
    for options in ({}, {"format": "exr"}, {"output": tmp_path / "x.png"}):
        with pytest.raises(UsageError, match="--jxl-effort is not for"):
            plan_jobs([tmp_path / "a.ARW"], BatchOptions(products=products, **options))
    plan_jobs([tmp_path / "a.ARW"], BatchOptions(products=products, format="jxl"))


def test_the_memory_of_saving_is_planned(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, told = enhancer.render, []

    def render(prepared: Prepared, *, saving: int = 0, **kwargs: Any) -> Rendered:
        told.append(saving / prepared.frame.mosaic.size)
        return genuine(prepared, saving=saving, **kwargs)

    monkeypatch.setattr(enhancer, "render", render)
    for name, bits in (("tif", None), ("tif", 32), ("jpg", None), ("dng", None)):
        products = (picture_saved(SaveOptions(bit_depth=bits)),)
        run([make_arw()], enhancer, output=tmp_path / f"x.{name}", products=products,
            on_exists="overwrite")  # fmt: skip
    # The levels, and what writing takes beside them.
    assert told == [6, 6 + 12, 6 + 14, 6 + 6]


def test_jobs_that_are_taken_as_they_are_looked_at_are_left_alone_at_the_end(
    make_arw: MakePhoto, enhancer: Enhancer
) -> None:
    """Several devices share a batch so: to look is to take."""
    looks: list[None] = []

    class Shared(list[Job]):
        def __iter__(self) -> Iterator[Job]:
            looks.append(None)
            return super().__iter__()

    jobs = Shared(plan_jobs([make_arw()], BatchOptions()))
    assert len(run_jobs(jobs, enhancer, BatchOptions(), progress=SILENT)) == 1
    assert len(looks) == 2  # to read ahead, and to compute
