"""Bytes wait in a file that nobody sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gia_cli.errors import OutputError
from gia_cli.pages.spool import Spool


def test_what_is_put_comes_back_in_any_order(tmp_path: Path) -> None:
    with Spool(tmp_path / "page.html") as spool:
        places = [spool.put(data) for data in (b"one", b"", b"three")]
        assert [spool.get(place) for place in reversed(places)] == [b"three", b"", b"one"]
        if os.name == "posix":
            assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_children_put_comes_back_after_one_of_them_died(tmp_path: Path) -> None:
    with Spool(tmp_path / "page.html") as spool:
        first = spool.put(b"parent")
        for data in (b"child", b"another"):
            ours, theirs = os.pipe()
            child = os.fork()
            if child == 0:
                place = spool.put(data)
                os.write(theirs, f"{place.start} {place.length}".encode())
                spool._file.write(b"half")
                os._exit(1)
            os.waitpid(child, 0)
            start, length = map(int, os.read(ours, 99).split())
            os.close(ours)
            os.close(theirs)
            assert spool.get(type(first)(start, length)) == data
        assert spool.get(first) == b"parent"


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"page\.html"):
        Spool(tmp_path / "none" / "page.html")
