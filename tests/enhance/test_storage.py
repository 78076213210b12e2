"""Object stores: photos fetched, pictures put, and every refusal in a line; with moto's S3."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gia_cli.enhance import storage
from gia_cli.enhance.batch import BatchOptions, FileResult, plan_jobs, run_jobs, settled
from gia_cli.enhance.cluster import Photos
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest
from gia_cli.errors import (
    DamagedFileError,
    FileMissingError,
    GiaError,
    Interrupted,
    OutputError,
    OutputExistsError,
    StorageError,
    UnreadableFileError,
    UsageError,
)
from gia_cli.files import OnExists
from gia_cli.progress import SILENT
from tests.cli.test_cli import gia

MakePhoto = Callable[..., Path]
QUICK = ("--ratio", "100", "--device", "cpu", "--weights", "gia-sony-lite")
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/>
</rdf:RDF></x:xmpmeta>"""


@pytest.fixture
def memory() -> Iterator[Any]:
    """A store in this process's memory."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    storage._names_in.cache_clear()
    yield store
    store.store.clear()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 of this machine's own."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket "archive"."""
    import s3fs

    for name, value in (
        ("AWS_ENDPOINT_URL", server),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    storage._open.cache_clear()
    storage._names_in.cache_clear()
    store = s3fs.S3FileSystem(use_listings_cache=False)
    store.mkdir("archive")
    yield store
    store.rm("archive", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    storage._open.cache_clear()


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://bucket/a/b.ARW", "s3://bucket/a/b.ARW"),
        ("s3:/bucket/b.ARW", "s3://bucket/b.ARW"),
        ("memory://a", "memory://a"),
        ("a/b.ARW", None),
        ("/s3:/b.ARW", None),
        ("C:/photos/b.ARW", None),
        ("C:\\photos\\b.ARW", None),
        ("file:///b.ARW", None),
        ("s3:", None),
        ("night: 1.ARW", None),
    ],
)
def test_what_is_a_url(path: str, url: str | None) -> None:
    assert storage.is_url(Path(path)) == (url is not None)
    assert storage.shown(Path(path)) == (url or str(Path(path)))


def test_plain_paths_pass_through(tmp_path: Path) -> None:
    path = tmp_path / "a.ARW"
    assert storage.fetch(path) == path and not storage.exists(path)
    with storage.written(path, replace=False) as file:
        assert file == path
    storage.release(path)
    error = GiaError(f"{path} is odd.")
    assert storage.error_in_words_of(path, error) is error and str(path) in str(error)


def test_planning_in_a_store(memory: Any, tmp_path: Path) -> None:
    for name in ("a.ARW", "b.raf", "c.txt", "a_long.ARW", "a_gia.dng", "sub/d.ARW", ".e.ARW"):
        memory.pipe_file(f"/card/{name}", b"x")

    def plan(*inputs: str, **options: Any) -> list[tuple[str, str, str]]:
        chosen = BatchOptions(**options)
        return [
            (storage.shown(job.source), storage.shown(job.targets[0]), job.key)
            for job in plan_jobs(list(map(Path, inputs)), chosen)
        ]

    assert plan("memory://card") == [
        ("memory://card/a.ARW", "memory://card/a_gia.tif", "a.ARW"),
        ("memory://card/b.raf", "memory://card/b_gia.tif", "b.raf"),
    ]
    out = {"out_dir": Path("memory://out"), "recursive": True}
    assert plan("memory://card/", **out)[-1] == (
        *("memory://card/sub/d.ARW", "memory://out/sub/d_gia.tif", "sub/d.ARW"),
    )
    assert [each[0] for each in plan("memory://card/*.raf")] == ["memory://card/b.raf"]
    local = {"out_dir": tmp_path}
    assert plan("memory://card/a.ARW", **local)[0][1] == str(tmp_path / "a_gia.tif")
    assert plan("memory://card/gone.ARW")[0][0] == "memory://card/gone.ARW"  # fails in its turn
    memory.pipe_file("/card/odd[1].ARW", b"x")
    assert [each[0] for each in plan("memory://card/odd[1].ARW")] == ["memory://card/odd[1].ARW"]
    with pytest.raises(UsageError, match=r"Nothing matches memory://card/\*\.nef"):
        plan("memory://card/*.nef")
    memory.pipe_file("/empty/c.txt", b"x")
    with pytest.raises(UsageError, match=r"memory://empty holds no RAW photos"):
        plan("memory://empty")
    with pytest.raises(UsageError, match=r"output memory://card/x\.dng is the input"):
        plan("memory://card/x.dng", output=Path("memory://card/x.dng"), on_exists="overwrite")
    memory.pipe_file("/other/a.ARW", b"x")
    twice = [Path("memory://card/a.ARW"), Path("memory://other/a.ARW")]
    clash = plan_jobs(twice, BatchOptions(out_dir=Path("memory://out")))[0].error
    assert "written to memory://out/a_gia.tif: memory://card/a.ARW, memory:" in str(clash)


@pytest.mark.parametrize("on_exists", ["error", "skip", "overwrite"])
def test_a_store_is_asked_once_for_a_folder_before_a_batch_is_shared_out(
    memory: Any, monkeypatch: pytest.MonkeyPatch, on_exists: OnExists
) -> None:
    """And what is there then is what asking for each object would have found."""
    for number in range(20):
        memory.pipe(f"/card/{number:02}.ARW", b"II*\0")
    for name in ("03_gia.tif", "11_gia.tif"):
        memory.pipe(f"/out/{name}", b"mine")
    options = BatchOptions(out_dir=Path("memory://out"), on_exists=on_exists)
    jobs = plan_jobs([Path("memory://card")], options)
    alone = [settled(job, options) for job in jobs]
    asked: list[str] = []
    for name in ("ls", "exists"):
        plain = getattr(type(memory), name)

        def note(store: Any, *args: Any, plain: Any = plain, **more: Any) -> Any:
            asked.append(plain.__name__)
            return plain(store, *args, **more)

        monkeypatch.setattr(type(memory), name, note)
    together = list(Photos(options).settled(jobs))
    assert asked == ["ls"]
    assert [each and each.status for each in together] == [each and each.status for each in alone]
    assert not storage.exists(Path("memory://out/12_gia.tif")) and asked[-1] == "exists"


def test_without_fsspec_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    storage._open.cache_clear()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError, match=r"fsspec, which is not installed\. pip install"):
        storage.exists(Path("s3://bucket/a"))
    storage._open.cache_clear()
    monkeypatch.undo()
    pytest.importorskip("fsspec")
    with pytest.raises(UsageError, match="nosuchstore:// cannot be used"):
        storage.exists(Path("nosuchstore://bucket/a"))


# ---------------------------------------------------------------- fetching and putting


def temporary_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"{storage._PREFIX}*"))


def test_a_photo_comes_with_its_sidecars_and_goes_with_them(memory: Any) -> None:
    for name in ("a.ARW", "a.xmp", "a.arw.XMP", "b.xmp"):
        memory.pipe_file(f"/card/{name}", name.encode())
    before, photo = temporary_folders(), Path("memory://card/a.ARW")
    file = storage.fetch(photo)
    assert sorted(path.name for path in file.parent.iterdir()) == ["a.ARW", "a.arw.XMP", "a.xmp"]
    assert file.read_bytes() == b"a.ARW" and storage.fetch(photo) == file
    error = storage.error_in_words_of(photo, DamagedFileError(f"{file} is cut short."))
    assert error.message == "memory://card/a.ARW is cut short." == error.args[0]
    storage.release(photo)
    assert temporary_folders() == before


def test_what_killed_processes_left_is_swept_after_a_day(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory.pipe_file("/card/a.ARW", b"x")
    for name in ("gia-photo-old", "gia-photo-new", "others"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / "gia-photo-old", (0, 0))
    os.utime(tmp_path / "others", (0, 0))
    storage._sweep.cache_clear()
    storage.fetch(Path("memory://card/a.ARW"))
    storage.release(Path("memory://card/a.ARW"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gia-photo-new", "others"]


def test_a_bug_in_gia_names_the_photo_as_its_user_does(
    memory: Any, make_arw: MakePhoto, enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/card/a.ARW", make_arw().read_bytes())

    def fail(*_: object, **__: object) -> Any:
        raise TypeError("odd")

    monkeypatch.setattr(Enhancer, "render", fail)
    (result,) = run(enhancer, "memory://card/a.ARW", out_dir=Path("memory://out"))
    assert result.error is not None
    assert result.error.message == "memory://card/a.ARW: TypeError: odd."


def test_ctrl_c_leaves_nothing_of_what_was_read_ahead(
    memory: Any, make_arw: MakePhoto, enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, before = make_arw().read_bytes(), temporary_folders()
    for name in ("a", "b", "c"):
        memory.pipe_file(f"/card/{name}.ARW", data)

    def press(*_: object, **__: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Enhancer, "render", press)
    with pytest.raises(Interrupted):
        run(enhancer, "memory://card", out_dir=Path("memory://out"))
    assert temporary_folders() == before


def test_a_picture_is_put_when_it_is_whole_and_never_replaces_unasked(memory: Any) -> None:
    before, path = temporary_folders(), Path("memory://out/a.tif")
    with storage.written(path, replace=False) as file:
        file.write_bytes(b"first")
        assert not storage.exists(path)
    with pytest.raises(OutputExistsError), storage.written(path, replace=False) as file:
        file.write_bytes(b"second")
    assert memory.cat("/out/a.tif") == b"first"
    with storage.written(path, replace=True) as file:
        file.write_bytes(b"third")
    with pytest.raises(ZeroDivisionError), storage.written(path, replace=True) as file:
        file.write_bytes(b"half")
        raise ZeroDivisionError
    with (
        pytest.raises(OutputError, match=r"write memory://out/a\.tif: full") as caught,
        storage.written(path, replace=True) as file,
    ):
        raise OutputError(f"Cannot write {file}: full.")
    assert str(file) not in str(caught.value)
    assert memory.cat("/out/a.tif") == b"third" and temporary_folders() == before


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (FileNotFoundError("archive/a.ARW"), FileMissingError, "there is no such object"),
        (FileNotFoundError("The specified bucket does not exist"), StorageError, "bucket"),
        (PermissionError("Forbidden"), UnreadableFileError, "cannot be read: Forbidden"),
        (OSError(28, "No space left on device"), OutputError, "folder for temporary files"),
        (RuntimeError("Unable to\n locate  credentials."), StorageError, "locate credentials. Ch"),
        (TimeoutError(), StorageError, "TimeoutError"),
    ],
)
def test_what_a_store_says_is_one_line(
    memory: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type, words: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(type(memory), "get_file", fail)
    before = temporary_folders()
    with pytest.raises(GiaError, match=words) as caught:
        storage.fetch(Path("memory://archive/a.ARW"))
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    assert "memory://archive/a.ARW" in str(caught.value) and temporary_folders() == before


# ---------------------------------------------------------------- a batch


def run(enhancer: Enhancer, *inputs: str, **options: Any) -> list[FileResult]:
    chosen = BatchOptions(request=ExposureRequest(ratio=100), **options)
    jobs = plan_jobs(list(map(Path, inputs)), chosen)
    return run_jobs(jobs, enhancer, chosen, progress=SILENT)


def test_an_object_that_vanishes_costs_no_other(
    memory: Any, make_arw: MakePhoto, enhancer: Enhancer
) -> None:
    data = make_arw().read_bytes()
    for name in ("a", "b", "c"):
        memory.pipe_file(f"/card/{name}.ARW", data)
    memory.pipe_file("/card/d.ARW", b"no photo")
    memory.pipe_file("/card/a.xmp", XMP)
    chosen = BatchOptions(request=ExposureRequest(ratio=100), out_dir=Path("memory://out"))
    jobs = plan_jobs([Path("memory://card")], chosen)
    memory.rm_file("/card/b.ARW")
    before = temporary_folders()
    results = run_jobs(jobs, enhancer, chosen, progress=SILENT)
    assert [result.status for result in results] == ["written", "failed", "written", "failed"]
    assert isinstance(results[1].error, FileMissingError)
    assert results[0].sidecar is not None
    assert results[0].sidecar["files"] == ["memory://card/a.xmp"]
    assert "memory://card/d.ARW" in str(results[3].error)
    assert tempfile.gettempdir() not in f"{results[1].error} {results[3].error}"
    assert sorted(memory.ls("/out", detail=False)) == ["/out/a_gia.tif", "/out/c_gia.tif"]
    assert temporary_folders() == before


@pytest.mark.slow
def test_s3_from_folder_to_folder(bucket: Any, make_arw: MakePhoto, tmp_path: Path) -> None:
    """The report, exit codes, EXIF, and what is there already."""
    photo = make_arw("a.ARW")
    for name in ("a", "sub/b"):
        bucket.put_file(str(photo), f"archive/card/{name}.ARW")
    bucket.pipe_file("archive/card/broken.ARW", b"no photo")
    command = ("enhance", "s3://archive/card", "-r", "--out-dir", "s3://archive/out", *QUICK)
    done = gia(*command, "--json")
    assert done.exit_code == 3, done.output
    report = json.loads(done.stdout)
    assert [(file["input"], file["outputs"]) for file in report["files"]] == [
        ("s3://archive/card/a.ARW", ["s3://archive/out/a_gia.tif"]),
        ("s3://archive/card/broken.ARW", []),
        ("s3://archive/card/sub/b.ARW", ["s3://archive/out/sub/b_gia.tif"]),
    ]
    assert "s3://archive/card/broken.ARW" in report["files"][1]["error"]["message"]
    assert gia("enhance", photo, "-o", tmp_path / "a.tif", *QUICK).exit_code == 0
    assert bucket.cat("archive/out/a_gia.tif") == (tmp_path / "a.tif").read_bytes()
    bucket.rm_file("archive/card/broken.ARW")
    assert gia(*command).exit_code == 3  # all are there
    one = ("enhance", "s3://archive/card/a.ARW", "-o", "s3://archive/out/a_gia.tif")
    assert gia(*one).exit_code == 61
    skipped = gia(*command, "--on-exists", "skip")
    assert skipped.exit_code == 0 and "skipped" in skipped.stderr
    bucket.rm_file("archive/out/a_gia.tif")
    again = gia(*command, "--on-exists", "skip")
    assert again.stdout.split() == ["s3://archive/out/a_gia.tif"]


@pytest.mark.slow
def test_s3_refuses_in_a_line_with_a_code(
    bucket: Any, make_arw: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        (("s3://gone/card",), 62, "bucket does not exist"),
        (("s3://gone/a.ARW",), 62, "bucket does not exist"),
        (("s3://archive/gone.ARW",), 11, "there is no such object"),
        ((str(make_arw()), "-o", "s3://gone/a.tif", *QUICK), 62, "bucket does not exist"),
    ]
    for arguments, code, words in cases:
        refused = gia("enhance", *arguments)
        assert refused.exit_code == code, refused.output
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error")]
        assert words in line and arguments[-1 if "-o" not in arguments else 2] in line
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nowhere")
    bucket.clear_instance_cache()
    storage._open.cache_clear()
    refused = gia("enhance", "s3://archive/card")
    assert refused.exit_code == 62 and "redentials" in refused.stderr, refused.output


@pytest.mark.slow
def test_of_two_that_put_one_object_one_is_refused(bucket: Any) -> None:
    path = Path("s3://archive/out/a.tif")
    with pytest.raises(OutputExistsError), storage.written(path, replace=False) as mine:
        mine.write_bytes(b"mine")
        with storage.written(path, replace=False) as yours:
            yours.write_bytes(b"yours")
    assert bucket.cat("archive/out/a.tif") == b"yours"
