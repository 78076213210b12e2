"""How long a file should be by its head: whole ones are, cut ones are not, others are not known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gia_cli.raw.extent import looks_cut_short
from gia_cli.raw.writer import write_arw, write_dng, write_raf

WRITERS: dict[str, tuple[Callable[..., None], tuple[int, int]]] = {
    "photo.ARW": (write_arw, (64, 96)),
    "photo.RAF": (write_raf, (60, 90)),
    "photo.dng": (write_dng, (64, 96)),
}


@pytest.fixture(params=WRITERS)
def photo(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name: str = request.param
    write, shape = WRITERS[name]
    path = tmp_path / name
    write(path, np.random.default_rng(1).integers(500, 4000, shape).astype(np.uint16))
    return path


def test_a_whole_photo_is_as_long_as_it_says(photo: Path) -> None:
    assert not looks_cut_short(photo)
    with photo.open("ab") as file:  # more does no harm
        file.write(bytes(100))
    assert not looks_cut_short(photo)


def test_a_photo_that_ends_early_is_suspected(photo: Path) -> None:
    """Before its pictures are described, too: 16 bytes are its kind."""
    data = photo.read_bytes()
    for length in (16, 60, 200, 1000, len(data) // 2, len(data) - 5000, len(data) - 100):
        photo.write_bytes(data[:length])
        assert looks_cut_short(photo), length


@pytest.mark.parametrize("data", [b"", b"II", b"\xff\xd8\xff" + bytes(100), bytes(500)])
def test_of_other_files_nothing_is_known(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert not looks_cut_short(path)


def test_a_directory_that_leads_nowhere_is_suspected(tmp_path: Path) -> None:
    path = tmp_path / "photo.ARW"
    path.write_bytes(b"II*\0" + (10**9).to_bytes(4, "little") + bytes(5000))
    assert looks_cut_short(path)
