from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gia_cli.errors import GiaError, OutputError, OutputExistsError
from gia_cli.files import (
    append_line,
    atomic_file,
    identity,
    ignores_case,
    is_file,
    is_folder,
    is_taken,
    lock,
    open_plain,
    read_plain,
    refuse_hopeless_output,
    remove_unfinished,
    walk,
)

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _fail(path: Path, error: BaseException) -> None:
    with atomic_file(path) as file:
        file.write(b"half a pict")
        raise error


def test_the_bytes_arrive_under_the_name_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    with atomic_file(path) as file:
        file.write(b"pixels")
    assert path.read_bytes() == b"pixels"
    assert _names(tmp_path) == ["photo.tif"]


def test_the_file_can_be_sought_and_read_back_while_open(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    with atomic_file(path) as file:
        file.write(b"12345678")
        file.seek(2)
        assert file.read(2) == b"34"
        file.seek(2)
        file.write(b"xy")
    assert path.read_bytes() == b"12xy5678"


def test_an_older_file_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(b"old, and much longer than the new one")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes().startswith(b"old")
        assert len(_names(tmp_path)) == 2
    assert path.read_bytes() == b"new"


@posix
def test_who_has_the_old_file_open_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with atomic_file(path) as file:
            file.write(b"new")
        assert reader.read() == b"old"  # renamed over, not written into
    assert path.read_bytes() == b"new"


def test_there_is_no_final_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
        (temporary,) = _names(tmp_path)
        assert not temporary.endswith(path.suffix)  # no glob for *.tif may find it
    assert path.exists()


FAILURES = [ValueError("bad"), KeyboardInterrupt(), MemoryError(), SystemExit(3), GiaError("no")]


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("old", [None, b"old"])
def test_any_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, error: BaseException, old: bytes | None
) -> None:
    path = tmp_path / "photo.tif"
    if old is not None:
        path.write_bytes(old)
    before = _names(tmp_path)
    with pytest.raises(type(error)) as caught:
        _fail(path, error)
    assert caught.value is error  # passed on as it is
    assert _names(tmp_path) == before
    if old is not None:
        assert path.read_bytes() == old


def test_a_full_disk_is_an_output_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(b"old")
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match=r"photo\.tif: No space left on device") as caught:
        _fail(path, error)
    assert caught.value.exit_code == 60
    assert caught.value.__cause__ is error
    assert "space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["photo.tif"]


def test_bytes_that_do_not_reach_the_disk_are_not_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_fsync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", no_fsync)
    with pytest.raises(OutputError), atomic_file(tmp_path / "photo.tif") as file:
        file.write(b"pixels")
    assert _names(tmp_path) == []


def test_the_file_is_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.tif"
    seen: list[tuple[bool, int]] = []
    fsync = os.fsync

    def spy(fd: int) -> None:
        seen.append((path.exists(), os.fstat(fd).st_size))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", spy)
    with atomic_file(path) as file:
        file.write(b"pixels")
    assert seen == [(False, 6)]


def test_a_missing_folder_is_named_in_the_hint(tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "photo.tif"
    with pytest.raises(OutputError) as caught, atomic_file(path):
        pytest.fail("the body must not run")
    assert caught.value.exit_code == 60
    assert str(path.parent) in caught.value.hint
    assert str(path) in caught.value.message
    assert _names(tmp_path) == []


def test_a_folder_that_cannot_be_looked_at_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: Path, *args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    monkeypatch.setattr(Path, "is_dir", deny)
    with pytest.raises(OutputError, match="Permission denied") as caught:
        _fail(tmp_path / "photo.tif", AssertionError("the body must not run"))
    assert "permissions" in caught.value.hint


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError), atomic_file(tmp_path / "file" / "photo.tif"):
        pytest.fail("the body must not run")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_folder_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.tif").mkdir()
    with pytest.raises(OutputError), atomic_file(tmp_path / "photo.tif") as file:
        file.write(b"pixels")
    assert (tmp_path / "photo.tif").is_dir()
    assert _names(tmp_path) == ["photo.tif"]


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_file(tmp_path / "photo.tif") as file:
            file.write(b"pixels")
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "photo.tif").stat().st_mode)
    assert mode == 0o666 & ~umask


@posix
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="permissions"), atomic_file(tmp_path / "photo.tif"):
            pytest.fail("the body must not run")
    finally:
        tmp_path.chmod(0o700)


def test_two_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # whose block ended last
    assert _names(tmp_path) == ["photo.tif"]


def test_any_name_a_shell_may_give_works(tmp_path: Path) -> None:
    for name in ("[x].tif", "ä ö.tif", ".hidden", "no-suffix", "a%sb{}.tif", "-o"):
        with atomic_file(tmp_path / name) as file:
            file.write(name.encode())
        assert (tmp_path / name).read_bytes() == name.encode()
    assert len(_names(tmp_path)) == 6


def test_a_temporary_name_fits_wherever_the_final_one_does(tmp_path: Path) -> None:
    name = "n" * 251 + ".tif"
    with atomic_file(tmp_path / name) as file:
        file.write(b"x")
    assert _names(tmp_path) == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="its limit of a path, 4095 bytes")
@pytest.mark.parametrize("name", ["o.tif", "o.t", "a-longer-name-than-the-temporary-one.tif"])
def test_a_path_at_the_systems_limit_can_be_written(tmp_path: Path, name: str) -> None:
    folder = tmp_path
    while (left := 4095 - len(str(folder / name))) > 0:  # each step adds a slash and some letters
        step = left if left <= 200 else min(200, left - 2)
        folder /= "d" * (step - 1)
        folder.mkdir()
    with atomic_file(folder / name) as file:
        file.write(b"x")
    assert _names(folder) == [name]


@posix
def test_a_name_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"name too long\. Choose a shorter name"):
        _fail(tmp_path / ("n" * 256), AssertionError())
    assert _names(tmp_path) == []


def test_a_process_that_ends_at_once_leaves_nothing(tmp_path: Path) -> None:
    with suppress(OutputError), atomic_file(tmp_path / "photo.tif") as file:
        file.write(b"half")
        remove_unfinished()
        assert _names(tmp_path) == []


@pytest.mark.parametrize("step", ["write", "fsync", "rename", "open"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_fault_at_any_step_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, old: bytes | None
) -> None:
    path = tmp_path / "photo.tif"
    if old is not None:
        path.write_bytes(old)
    before = _names(tmp_path)

    def fault(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fault)
    if step == "rename":
        monkeypatch.setattr(Path, "replace", fault)
    if step == "open":
        monkeypatch.setattr(Path, "open", fault)
    with pytest.raises(OutputError, match="No space left") as caught, atomic_file(path) as file:
        file.write(b"pixels")
        if step == "write":
            fault()
    assert caught.value.exit_code == 60
    monkeypatch.undo()
    assert _names(tmp_path) == before
    assert old is None or path.read_bytes() == old


def test_a_folder_that_goes_away_while_a_file_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(OutputError, match="Create the folder"), atomic_file(folder / "o") as file:
        file.write(b"pixels")
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert _names(tmp_path) == []


# ---------------------------------------------------------------- Windows, played here


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Behave as on Windows; the pauses that are made."""
    pauses: list[float] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def _refuse_renames(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """As when a virus scanner has a new file open, or a viewer the old one."""
    replace, left = Path.replace, [times]

    def rename(self: Path, target: Path) -> Path:
        if left[0]:
            left[0] -= 1
            raise PermissionError(errno.EACCES, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", rename)


def test_a_file_that_a_scanner_has_open_is_renamed_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: list[float]
) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(b"old")
    _refuse_renames(monkeypatch, 3)
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and _names(tmp_path) == ["photo.tif"]
    assert len(windows) == 3 and sorted(windows) == windows


def test_a_file_that_stays_open_is_left_and_the_hint_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: list[float]
) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(b"old")
    _refuse_renames(monkeypatch, 1000)
    with pytest.raises(OutputError, match="Access is denied") as caught, atomic_file(path) as file:
        file.write(b"new")
    assert caught.value.hint.startswith("Close what has the file open")
    assert path.read_bytes() == b"old" and _names(tmp_path) == ["photo.tif"]
    assert 0 < sum(windows) < 5


def test_a_folder_of_that_name_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: list[float]
) -> None:
    (tmp_path / "photo.tif").mkdir()
    _refuse_renames(monkeypatch, 1000)
    with pytest.raises(OutputError), atomic_file(tmp_path / "photo.tif") as file:
        file.write(b"new")
    assert not windows


def test_elsewhere_no_rename_is_tried_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits"))
    _refuse_renames(monkeypatch, 1)
    with pytest.raises(OutputError), atomic_file(tmp_path / "photo.tif") as file:
        file.write(b"new")


@posix
@pytest.mark.parametrize(("length", "is_written"), [(259, True), (260, False)])
def test_a_path_too_long_for_windows_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    windows: list[float],
    length: int,
    is_written: bool,
) -> None:
    """Windows takes 259 characters, and says of more that there is no such file."""
    folder = tmp_path / ("d" * (250 - len(str(tmp_path))))
    folder.mkdir()
    name = "n" * (length - len(str(folder)) - 1)
    opened = Path.open

    def refusing(self: Path, *arguments: Any, **options: Any) -> Any:
        if len(str(self)) > 259:
            raise FileNotFoundError(errno.ENOENT, "The system cannot find the path specified")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    if is_written:
        with atomic_file(folder / name) as file:  # though the usual temporary name is longer
            file.write(b"x")
        assert _names(folder) == [name]
    else:
        with pytest.raises(OutputError, match="Choose a shorter name") as caught:
            _fail(folder / name, AssertionError())
        assert "Create the folder" not in caught.value.hint
        assert _names(folder) == []


def test_where_files_have_no_numbers_each_is_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network drives: all are number 0."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo").write_bytes(b"")
    status = Path.stat

    def without_number(self: Path, **options: Any) -> os.stat_result:
        found = list(status(self, **options))
        found[stat.ST_INO] = 0
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", without_number)
    first, second = tmp_path / "a" / "photo", tmp_path / "b" / "photo"
    assert identity(first) != identity(second)
    assert identity(first) == identity(tmp_path / "b" / ".." / "a" / "photo")
    assert identity(tmp_path / "gone") is None
    assert [folder.name for folder, _ in walk(tmp_path)] == [tmp_path.name, "a", "b"]


# ---------------------------------------------------------------- what is there


@posix
def test_one_file_has_one_identity_however_it_is_spelled(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"")
    other.write_bytes(b"")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "nowhere").symlink_to("gone")
    for name in ("a", "link", "hard", "../" + tmp_path.name + "/a"):
        assert identity(tmp_path / name) == identity(path) != identity(other)
    for name in ("gone", "nowhere", "x" * 5000, "a/b"):
        assert identity(tmp_path / name) is None
    assert is_taken(tmp_path / "nowhere") and is_taken(path)
    assert not is_taken(tmp_path / "gone") and not is_taken(tmp_path / ("x" * 5000))


@pytest.mark.skipif(sys.platform != "linux", reason="the usual file systems of others ignore case")
def test_whether_case_is_ignored_is_asked_of_the_folder(tmp_path: Path) -> None:
    assert not ignores_case(tmp_path / "yet" / "to be made")
    (tmp_path / "name").write_bytes(b"")
    assert not ignores_case(tmp_path)
    (tmp_path / "NAME").hardlink_to(tmp_path / "name")  # as if the system found it by either
    assert ignores_case(tmp_path)
    assert ignores_case(tmp_path / "yet" / "to be made")


@posix
def test_a_walk_ends_and_is_sorted(tmp_path: Path) -> None:
    for name in ("b/c", "a"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "z").write_bytes(b"")
    visited = [folder.relative_to(tmp_path).as_posix() for folder, _ in walk(tmp_path)]
    assert visited == [".", "a", "b", "b/c"]
    assert [paths for _, paths in walk(tmp_path, recursive=False)] == [
        [tmp_path / "a", tmp_path / "b", tmp_path / "z"]
    ]
    ((_, error),) = walk(tmp_path / "gone")
    assert isinstance(error, FileNotFoundError)


# ---------------------------------------------------------------- what is no file


def _hostile(folder: Path) -> dict[str, Path]:
    """Paths that anybody may name, of which none is a file."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("gone")
    (folder / "folder").mkdir()
    (folder / "file").write_bytes(b"")
    return {
        **{name: folder / name for name in ("pipe", "loop", "nowhere", "folder", "gone")},
        "device": Path("/dev/zero"),
        "long name": folder / ("n" * 300),
        "long part": folder / ("n" * 300) / "name",
        "long path": folder / "/".join("x" * 3000),
        "below a file": folder / "file" / "name",
    }


@posix
@pytest.mark.parametrize("read", [read_plain, lambda path: open_plain(path).__enter__()])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for name, path in _hostile(tmp_path).items():
        with pytest.raises(OSError) as caught:
            read(path)
        assert caught.value.strerror, name
        assert not is_file(path)
        assert is_folder(path) == (name == "folder")
    assert is_file(tmp_path / "file") and not is_folder(tmp_path / "file")


@posix
def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    hostile = _hostile(tmp_path)
    fine = {"gone", "long part", "long path", "below a file", "long name"}
    for name in hostile.keys() - fine:
        with pytest.raises(OutputExistsError, match="already exists"):
            refuse_hopeless_output(hostile[name], replace=False)
    refuse_hopeless_output(hostile["gone"], replace=False)
    refuse_hopeless_output(hostile["nowhere"], replace=True)
    for name in ("long name", "long part", "long path", "below a file", "folder"):
        with pytest.raises(OutputError, match="Cannot write") as caught:
            refuse_hopeless_output(hostile[name], replace=True)
        assert type(caught.value) is OutputError
    with pytest.raises(OutputError, match=r"Too many levels.*Choose another folder"):
        refuse_hopeless_output(hostile["loop"] / "name", replace=True)


def test_a_line_goes_behind_the_others(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_line(path, "first\n")
    append_line(path, "ä second\n")
    assert path.read_text("utf-8") == "first\nä second\n"
    with pytest.raises(OutputError, match="Cannot write"):
        append_line(tmp_path, "a folder")


# ---------------------------------------------------------------- lock

HOLD = """
import os, sys, time
from pathlib import Path
from gia_cli.files import lock
with lock(Path(sys.argv[1])) as is_ours:
    if "fork" not in sys.argv:
        print(is_ours, flush=True)
    elif os.fork() == 0:
        print(is_ours, flush=True)
        sys.stdin.read()  # until the test is done with it, as a worker that outlives a run
        os._exit(0)
    time.sleep(600)
"""


@contextmanager
def _held_by_another(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path), *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def test_a_lock_is_had_once_and_can_be_had_again(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    for _ in range(2):
        with lock(path) as is_ours:
            assert is_ours
            with lock(path) as again:
                assert not again
            with lock(path) as again:  # that we did not get it has not let go of it
                assert not again


@pytest.mark.parametrize("options", [(), pytest.param(("fork",), marks=posix)])
def test_another_process_holds_a_lock_until_it_is_killed(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / ".lock"
    with _held_by_another(path, *options) as process:
        with lock(path) as is_ours:
            assert not is_ours
        process.kill()
        process.wait()
        with lock(path) as is_ours:
            assert is_ours


@posix
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_files_cannot_be_locked_everybody_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):  # nor does it leave anything that would stop the next run
        with lock(tmp_path / ".lock") as first, lock(tmp_path / ".lock") as second:
            assert first and second
