"""One driver a folder, and nothing left behind."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gia_cli.cluster.driver import only_driver_of
from gia_cli.cluster.shard import Shard
from gia_cli.errors import OutputError, UsageError
from gia_cli.files import atomic_file, mark_unfinished, sweep


def test_a_second_driver_is_kept_out_unless_it_has_another_share(tmp_path: Path) -> None:
    def ours(shard: Shard | None, command: str = "gia eval") -> AbstractContextManager[None]:
        return only_driver_of([tmp_path], command, shard, option="--out")

    with ours(None):
        with (
            pytest.raises(UsageError, match="Another gia eval is writing into") as caught,
            ours(None),
        ):
            raise AssertionError
        assert caught.value.exit_code == 2 and "another --out" in (caught.value.hint or "")
        with (
            ours(Shard(1, 2)),
            ours(Shard(2, 2)),
            ours(None, "gia simulate"),
            pytest.raises(UsageError, match=r"at shard 2/2\."),
            ours(Shard(2, 2)),
        ):
            raise AssertionError
    with ours(None):
        pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="gone cannot be written to"),
        only_driver_of([tmp_path / "gone"], "gia --ray", None, option="--out-dir"),
    ):
        raise AssertionError


def test_temporary_files_are_swept_by_mark_or_age(tmp_path: Path) -> None:
    names = (".abcdef012345.gia.tmp", ".fedcba012345.gia.tmp", ".abcdef.gia.tmp", "a.tif")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / names[1], (0, 0))
    assert sweep(tmp_path, mark="abcdef") == 1
    assert sweep(tmp_path, older_than_s=1000) == 1
    assert sweep(tmp_path, older_than_s=1000) == sweep(tmp_path / "gone") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


def test_a_marked_process_names_its_temporary_files_so(tmp_path: Path) -> None:
    seen: list[str] = []
    try:
        mark_unfinished("abcdef")
        with atomic_file(tmp_path / "a.tif"):
            seen += [path.name for path in tmp_path.iterdir()]
    finally:
        mark_unfinished("")
    assert re.fullmatch(r"\.abcdef[0-9a-f]{6}\.gia\.tmp", seen[0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
