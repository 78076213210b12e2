"""The cache: decodes once, goes on where it stopped, trusts nothing that has changed."""

from __future__ import annotations

import atexit
import errno
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli import files
from gia_cli.cluster.driver import only_driver_of
from gia_cli.cluster.ray_pool import RayOptions
from gia_cli.cluster.shard import Shard
from gia_cli.data import cache as module
from gia_cli.data.cache import LOCK, ArrayCache, Decoded, Stock
from gia_cli.errors import DataError, GiaError, OutputError, UsageError
from gia_cli.files import lock
from tests.local_cluster import in_process
from tests.progress_spy import ProgressSpy

COUNT = 5


class Decoder:
    """Reads numbers from a text file; keeps which files it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, path: Path) -> Decoded:
        self.asked.append(path.stem)
        try:
            numbers = np.array(path.read_text().split(), np.float32)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is broken.") from error
        return Decoded(
            arrays={"numbers": numbers, "square": np.outer(numbers, numbers)},
            metadata={"count": len(numbers), "shape": (len(numbers),), "name": path.name},
        )


def make_sources(folder: Path, count: int = COUNT) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    sources = {f"key {index}": folder / f"{index}.txt" for index in range(count)}
    for index, path in enumerate(sources.values()):
        path.write_text(f"{index} {index + 1} {index + 2}")
    return sources


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    return make_sources(tmp_path / "sources")


@pytest.fixture
def build(tmp_path: Path, sources: dict[str, Path]) -> Callable[..., tuple[ArrayCache, list[str]]]:
    """Open the cache; also tell what was decoded for it."""

    def build(recipe: str = "1", **options: Any) -> tuple[ArrayCache, list[str]]:
        decoder = Decoder()
        cache = ArrayCache.build(tmp_path / "cache", sources, decoder, recipe=recipe, **options)
        return cache, sorted(decoder.asked)

    return build


Build = Callable[..., tuple[ArrayCache, list[str]]]


def numbers_of(source: Path) -> NDArray[np.float32]:
    return np.array(source.read_text().split(), np.float32)


def assert_holds(cache: ArrayCache, sources: dict[str, Path]) -> None:
    assert cache.keys == list(sources)
    for key, source in sources.items():
        numbers = numbers_of(source)
        assert np.array_equal(cache.array(key, "numbers"), numbers)
        assert np.array_equal(cache.array(key, "square"), np.outer(numbers, numbers))
        metadata = cache.metadata(key)
        assert metadata == {"count": len(numbers), "shape": [len(numbers)], "name": source.name}


# ---------------------------------------------------------------- once and for all


def test_each_source_is_decoded_once(build: Build, sources: dict[str, Path]) -> None:
    cache, decoded = build()
    assert decoded == ["0", "1", "2", "3", "4"]
    assert_holds(cache, sources)
    cache, decoded = build()
    assert decoded == []
    assert_holds(cache, sources)


def test_arrays_are_mapped_and_read_only(build: Build) -> None:
    array = build()[0].array("key 1", "square")
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_nothing_else_stays_in_the_folder(build: Build, tmp_path: Path) -> None:
    build()
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(names) == 1 + 3 * COUNT
    assert names[:4] == [LOCK, "key 0.json", "key 0.numbers.npy", "key 0.square.npy"]


def test_a_cache_may_hold_other_sources_too(
    build: Build, tmp_path: Path, sources: dict[str, Path]
) -> None:
    build()
    other = make_sources(tmp_path / "other", 2)
    renamed = {f"other {key}": path for key, path in other.items()}
    cache = ArrayCache.build(tmp_path / "cache", renamed, Decoder(), recipe="1")
    assert_holds(cache, renamed)
    assert build()[1] == []


def test_progress_receives_every_source(tmp_path: Path, sources: dict[str, Path]) -> None:
    def open_cache() -> list[tuple[str, int, int]]:
        listener = ProgressSpy()
        ArrayCache.build(tmp_path, sources, Decoder(), recipe="1", progress=listener)
        return [(*stage, done) for stage, done in zip(listener.stages, listener.done, strict=True)]

    assert open_cache() == [("checking", COUNT, COUNT), ("decoding", COUNT, COUNT)]
    assert open_cache() == [("checking", COUNT, COUNT)]


# ---------------------------------------------------------------- what has changed


def test_a_changed_source_is_decoded_again(build: Build, sources: dict[str, Path]) -> None:
    build()
    sources["key 3"].write_text("7 8 9 10")
    cache, decoded = build()
    assert decoded == ["3"]
    assert_holds(cache, sources)


def test_a_replaced_source_of_the_same_size_is_decoded_again(
    build: Build, sources: dict[str, Path]
) -> None:
    build()
    path = sources["key 3"]
    status = path.stat()
    path.write_text("9 9 9")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    cache, decoded = build()
    assert decoded == ["3"]
    assert_holds(cache, sources)


def test_another_recipe_decodes_all_again(build: Build) -> None:
    build()
    assert build("2")[1] == ["0", "1", "2", "3", "4"]
    assert build("2")[1] == []


@pytest.mark.parametrize("place", [-1, 0, 8, 80])
def test_a_flipped_byte_is_decoded_again(
    build: Build, tmp_path: Path, sources: dict[str, Path], place: int
) -> None:
    """In the numbers, or in the header that says how to read them."""
    build()
    path = tmp_path / "cache" / "key 2.square.npy"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    cache, decoded = build()
    assert decoded == ["2"]
    assert_holds(cache, sources)


@pytest.mark.parametrize("length", [0, 5, 128, -1])
def test_an_array_cut_short_is_decoded_again(
    build: Build, tmp_path: Path, sources: dict[str, Path], length: int
) -> None:
    build()
    path = tmp_path / "cache" / "key 2.numbers.npy"
    path.write_bytes(path.read_bytes()[:length])
    cache, decoded = build()
    assert decoded == ["2"]
    assert_holds(cache, sources)


def test_swapped_arrays_are_decoded_again(
    build: Build, tmp_path: Path, sources: dict[str, Path]
) -> None:
    build()
    first, second = (tmp_path / "cache" / f"key {index}.numbers.npy" for index in (0, 1))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    cache, decoded = build()
    assert decoded == ["0", "1"]
    assert_holds(cache, sources)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"recipe": "1"}'])
def test_a_damaged_record_is_decoded_again(
    build: Build, tmp_path: Path, sources: dict[str, Path], text: str
) -> None:
    build()
    (tmp_path / "cache" / "key 2.json").write_text(text)
    cache, decoded = build()
    assert decoded == ["2"]
    assert_holds(cache, sources)


def test_a_record_without_metadata_is_none(build: Build, tmp_path: Path) -> None:
    build()
    path = tmp_path / "cache" / "key 2.json"
    record = json.loads(path.read_text())
    del record["facts"]
    path.write_text(json.dumps(record))
    assert build()[1] == ["2"]


# ---------------------------------------------------------------- what is looked at


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the arrays whose bytes are read for their checksum."""
    sizes: list[int] = []
    checksum = module._checksum

    def spy(array: NDArray[Any]) -> int:
        sizes.append(array.size)
        return checksum(array)

    monkeypatch.setattr(module, "_checksum", spy)
    return sizes


def flip_unseen(path: Path) -> None:
    """As a disk does: size and time stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_bytes_of_what_has_not_changed_are_not_read(build: Build, read: list[int]) -> None:
    """Those of SID are 57 GB."""
    build()
    read.clear()
    assert build()[1] == []
    assert read == []
    assert build(check="contents")[1] == []
    assert len(read) == 2 * COUNT


def test_what_a_disk_has_forgotten_is_found_when_asked_for(
    build: Build, tmp_path: Path, sources: dict[str, Path]
) -> None:
    build()
    flip_unseen(tmp_path / "cache" / "key 2.numbers.npy")
    assert build()[1] == []
    cache, decoded = build(check="contents")
    assert decoded == ["2"]
    assert_holds(cache, sources)


@pytest.mark.parametrize("how", ["copied", "older", "read-only"])
def test_arrays_of_another_time_are_compared_once(
    build: Build, tmp_path: Path, read: list[int], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A copied cache, and that of an older version, which knew no times."""
    build()
    for path in (tmp_path / "cache").iterdir():
        if how != "older" and path.suffix == ".npy":
            os.utime(path, ns=(0, 10**9))
        elif path.suffix == ".json" and how == "older":
            record = json.loads(path.read_text())
            del record["files"]
            path.write_text(json.dumps(record))
    if how == "read-only":

        def refuse(*_: Any) -> None:
            raise OutputError("Permission denied.")

        monkeypatch.setattr(module, "_write_record", refuse)
    read.clear()
    assert build()[1] == []
    assert len(read) == 2 * COUNT
    assert build()[1] == []
    assert len(read) == (4 if how == "read-only" else 2) * COUNT


def test_a_process_that_trusts_another_looks_at_nothing(
    build: Build, tmp_path: Path, sources: dict[str, Path], read: list[int]
) -> None:
    whole, _ = build()
    read.clear()
    sources["key 1"].unlink()
    flip_unseen(tmp_path / "cache" / "key 2.numbers.npy")
    (tmp_path / "cache" / "key 3.square.npy").unlink()
    cache, decoded = build(check="none")
    assert decoded == []
    assert read == []
    assert cache.digest() == whole.digest()
    with pytest.raises(DataError, match=r"key 3\.square\.npy is missing or damaged") as caught:
        cache.array("key 3", "square")
    assert "--verify" in caught.value.hint


def test_what_another_process_decodes_is_waited_for(
    build: Build, tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_POLL_S", 0.01)
    spy, folder = ProgressSpy(), tmp_path / "cache"
    folder.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with lock(folder / LOCK):
            waiting = pool.submit(build, progress=spy)
            while not spy.notes:
                time.sleep(0.01)
            for key, path in sources.items():
                module._decode_one(folder, key, path, Decoder(), "1")
        cache, decoded = waiting.result(20)
    assert decoded == []
    assert spy.notes == [f"Another process decodes into {folder}; waiting for it."]
    assert spy.stage_names == ["checking"]
    assert_holds(cache, sources)


# ---------------------------------------------------------------- what goes wrong


def test_a_build_cut_short_continues_where_it_stopped(
    build: Build, tmp_path: Path, sources: dict[str, Path]
) -> None:
    """Arrays without their record, which is written last, were cut short."""
    build()
    for index in (1, 4):
        (tmp_path / "cache" / f"key {index}.json").unlink()
    cache, decoded = build()
    assert decoded == ["1", "4"]
    assert_holds(cache, sources)


def test_all_failures_are_named_and_the_others_kept(build: Build, sources: dict[str, Path]) -> None:
    sources["key 0"].write_text("no numbers")
    sources["key 3"].unlink()
    with pytest.raises(DataError) as caught:
        build()
    assert caught.value.exit_code == 70
    assert caught.value.message.startswith("2 files cannot be used: ")
    assert str(sources["key 0"]) in caught.value.message
    assert str(sources["key 3"]) in caught.value.message
    assert "\n" not in caught.value.message
    for key in ("key 0", "key 3"):
        sources[key].write_text("5 6 7")
    cache, decoded = build()
    assert decoded == ["0", "3"]
    assert_holds(cache, sources)


def test_one_failure_is_one_file(build: Build, sources: dict[str, Path]) -> None:
    sources["key 0"].write_text("no numbers")
    with pytest.raises(DataError, match=r"^1 file cannot be used: "):
        build()


@pytest.mark.parametrize(("count", "notes"), [(20, 0), (23, 23)])
def test_a_few_failures_fit_a_line_many_are_noted(tmp_path: Path, count: int, notes: int) -> None:
    sources = {f"{index:02d}": tmp_path / f"{index:02d}.txt" for index in range(count)}
    listener = ProgressSpy()
    with pytest.raises(DataError) as caught:
        ArrayCache.build(tmp_path / "cache", sources, Decoder(), recipe="1", progress=listener)
    message = caught.value.message
    named = [path for path in sources.values() if str(path) in message]
    assert named == list(sources.values())[:20]
    assert message.endswith("And 3 more, named above.") == (count > 20)
    assert len(listener.notes) == notes
    noted = " ".join(listener.notes)
    assert all(str(path) in noted for path in sources.values()) == (count > 20)


@pytest.mark.parametrize("error", [GiaError("x"), ValueError("x")])
def test_only_the_users_errors_are_gathered(
    tmp_path: Path, sources: dict[str, Path], error: Exception
) -> None:
    """A bug must not be told as a broken file."""

    def decode(path: Path) -> Decoded:
        raise error

    with pytest.raises(DataError if isinstance(error, GiaError) else ValueError, match="x"):
        ArrayCache.build(tmp_path / "cache", sources, decode, recipe="1")


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_folder_that_cannot_be_made_is_an_output_error(
    tmp_path: Path, sources: dict[str, Path], inside: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="Cannot make the folder") as caught:
        ArrayCache.build(tmp_path / "file" / inside, sources, Decoder(), recipe="1")
    assert caught.value.exit_code == 60
    assert "--cache" in caught.value.hint


def _read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.fixture(params=["a file is in the way", "makes no folder", "takes no file", "no home"])
def hopeless(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    sources: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Name a folder for a cache in a place that cannot be written to, of each kind."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cache"
    match request.param:
        case "a file is in the way":
            folder.write_bytes(b"")
        case "makes no folder":
            make = Path.mkdir

            def mkdir(path: Path, *args: Any, **given: Any) -> None:
                if path == folder:
                    _read_only()
                make(path, *args, **given)

            monkeypatch.setattr(Path, "mkdir", mkdir)
        case "takes no file":
            folder.mkdir()
            monkeypatch.setattr(tempfile, "TemporaryFile", _read_only)
        case "no home":
            return Path("~", ".cache", "gia")
    return folder


def test_an_own_cache_that_cannot_be_written_is_a_temporary_one(
    hopeless: Path, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    listener = ProgressSpy()
    cache = ArrayCache.build(
        hopeless, sources, Decoder(), recipe="1", may_move=True, progress=listener
    )
    assert_holds(cache, sources)
    assert_holds(pickle.loads(pickle.dumps(cache)), sources)
    (made,) = (tmp_path / "temporary").iterdir()
    (note,) = listener.notes
    assert str(hopeless) in note and str(made) in note and "--cache" in note
    assert not (tmp_path / "~").exists()
    (clear,) = at_exit
    clear()
    assert not list((tmp_path / "temporary").iterdir())


def test_an_own_cache_that_cannot_be_written_is_read(
    build: Build, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    monkeypatch.setattr(module, "_takes_files", lambda folder: False)
    decoder, listener = Decoder(), ProgressSpy()
    cache = ArrayCache.build(
        tmp_path / "cache", sources, decoder, recipe="1", may_move=True, progress=listener
    )
    assert_holds(cache, sources)
    assert not decoder.asked and not listener.notes


def test_without_any_place_to_write_to_the_error_names_the_option(
    hopeless: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryDirectory", _read_only)
    with pytest.raises(OutputError, match=r"Neither .* Read-only file system") as caught:
        ArrayCache.build(hopeless, sources, Decoder(), recipe="1", may_move=True)
    assert caught.value.hint == "Choose another --cache."


def test_a_file_that_cannot_be_written_ends_the_build(build: Build, tmp_path: Path) -> None:
    """A full disk is no fault of the sources."""
    (tmp_path / "cache" / "key 2.numbers.npy" / "in the way").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"key 2\.numbers\.npy") as caught:
        build()
    assert caught.value.exit_code == 60


def test_a_folder_that_may_not_be_written_to_is_an_output_error(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match=r"Cannot write in .*cache: Permission denied") as caught:
        build()
    assert "--cache" in caught.value.hint


# ---------------------------------------------------------------- processes


def test_pickling_leaves_the_maps_behind(build: Build, sources: dict[str, Path]) -> None:
    sources["key 1"].write_text("3 " * 300)
    cache, _ = build()
    array = cache.array("key 1", "square")
    data = pickle.dumps(cache)
    assert len(data) < array.nbytes / 10
    again = pickle.loads(data)
    assert isinstance(again.array("key 1", "square"), np.memmap)
    assert_holds(again, sources)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors as Linux does")
def test_maps_do_not_use_up_the_file_descriptors(
    build: Build, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SID's training list has twice the files that a process may usually hold open."""
    monkeypatch.setattr(module, "_MOST_MAPPED", 3)
    cache, _ = build()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        assert_holds(cache, sources)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


# ---------------------------------------------------------------- many machines


def read_numbers(path: Path) -> Decoded:
    """Decode as `Decoder` does; what travels to workers is a function."""
    return Decoder()(path)


def look(folder: Path, sources: dict[str, Path]) -> Stock[Path]:
    return Stock.look(folder, sources, recipe="1")


def test_shares_decode_each_source_once_and_training_finds_them(
    build: Build, tmp_path: Path, sources: dict[str, Path]
) -> None:
    decoder, folder = Decoder(), tmp_path / "cache"
    made = [
        look(folder, sources).of_share(shard).decode(decoder, shard=shard)
        for shard in (Shard(1, 2), Shard(2, 2))
    ]
    assert sorted(decoder.asked) == ["0", "1", "2", "3", "4"]
    assert sum(each.decoded for each in made) == COUNT and not any(each.there for each in made)
    cache, decoded = build()
    assert decoded == []
    assert_holds(cache, sources)
    again = look(folder, sources).of_share(Shard(1, 2)).decode(decoder, shard=Shard(1, 2))
    assert (again.decoded, again.there) == (0, made[0].decoded)


def test_a_second_machine_at_one_share_is_refused(tmp_path: Path, sources: dict[str, Path]) -> None:
    shard = Shard(1, 2)
    with (
        only_driver_of([tmp_path], "gia decode", shard, option="--cache"),
        pytest.raises(UsageError, match=r"Another gia decode is writing into .* shard 1/2"),
    ):
        look(tmp_path, sources).of_share(shard).decode(Decoder(), shard=shard)


@pytest.mark.parametrize("deaths", [0, 1])
def test_workers_decode_each_source_once_also_when_they_die(
    build: Build,
    tmp_path: Path,
    sources: dict[str, Path],
    deaths: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It dies when the arrays are written, before it tells: they stay as they are."""
    monkeypatch.setattr(module, "run_on_cluster", in_process(deaths))
    written: list[str] = []
    once = module._decode_one

    def note(folder: Path, key: str, *more: Any) -> Any:
        written.append(key)
        return once(folder, key, *more)

    monkeypatch.setattr(module, "_decode_one", note)
    stock = look(tmp_path / "cache", sources)
    made = stock.decode(read_numbers, cluster=RayOptions("local"))
    assert (made.decoded, made.there) == (COUNT, 0) and sorted(written) == sorted(sources)
    cache, decoded = build()
    assert decoded == []
    assert_holds(cache, sources)


def test_workers_name_what_is_broken_and_decode_the_rest(
    build: Build, tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_on_cluster", in_process())
    for key in ("key 1", "key 3"):
        sources[key].write_text("no number")
    with pytest.raises(DataError, match=r"2 files cannot be used: .*1\.txt is broken.*3\.txt"):
        look(tmp_path / "cache", sources).decode(read_numbers, cluster=RayOptions("local"))
    for key in ("key 1", "key 3"):
        sources[key].write_text("1 2")
    assert build()[1] == ["1", "3"]


def test_a_source_that_kills_its_worker_is_named(
    tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_on_cluster", in_process(deaths=3))
    one = {"key 0": sources["key 0"]}
    with pytest.raises(DataError, match="key 0: its worker died of it 3 times"):
        look(tmp_path / "cache", one).decode(read_numbers, cluster=RayOptions("local"))
