"""Packed photographs: what comes out is what went in, and damage of any kind is one sentence."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.errors import DataError, GiaError, OutputExistsError, UsageError
from gia_cli.imaging import packed as module
from gia_cli.imaging.packed import (
    PackedPhoto,
    PackOptions,
    is_packed,
    list_packed,
    pack_photos,
    read_packed,
)
from gia_cli.imaging.photos import LONGEST_SIDE, read_photo
from tests.progress_spy import ProgressSpy

Make = Callable[..., Path]


def smooth(seed: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (height // 16, width // 16, 3)).astype(np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Five photographs of two sources, two of them of one name."""
    for source, names in {"lake": ("a.png", "a.bmp", "b.png"), "moor": ("a.png", "ö.png")}.items():
        (tmp_path / "in" / source).mkdir(parents=True)
        for index, name in enumerate(names):
            iio.imwrite(tmp_path / "in" / source / name, smooth(index + len(source)))
    return tmp_path / "in"


@pytest.fixture
def archive(folders: Path, tmp_path: Path) -> Path:
    return pack_photos([folders], tmp_path / "photos.tar").target


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a tar of members, given as names and contents or as `TarInfo`s."""

    def write(*members: tuple[str | tarfile.TarInfo, bytes]) -> Path:
        path = tmp_path / "made.tar"
        with tarfile.open(path, "w") as file:
            for name, content in members:
                member = tarfile.TarInfo(name) if isinstance(name, str) else name
                if member.isreg():
                    member.size = len(content)
                file.addfile(member, io.BytesIO(content))
        return path

    return write


def picture(seed: int = 0) -> bytes:
    encoded = iio.imwrite("<bytes>", smooth(seed), extension=".png")
    assert isinstance(encoded, bytes)
    return encoded


# ---------------------------------------------------------------- there and back


def test_photographs_come_back_with_their_sources(folders: Path, archive: Path) -> None:
    photos = list_packed(archive)
    assert [(photo.source, photo.stem) for photo in photos] == [
        ("lake", "a-2"),
        ("lake", "a"),
        ("lake", "b"),
        ("moor", "a"),
        ("moor", "ö"),
    ]
    for photo in photos:
        if photo.stem in ("b", "ö"):
            original = read_photo(folders / photo.source / f"{photo.stem}.png")
            difference = np.abs(read_packed(photo).astype(float) - original)
            assert difference.mean() < 4


def test_the_same_photographs_give_the_same_file(folders: Path, tmp_path: Path) -> None:
    first = pack_photos([folders], tmp_path / "first.tar").target.read_bytes()
    assert pack_photos([folders], tmp_path / "second.tar").target.read_bytes() == first


def test_photographs_get_the_size_of_training(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    long = LONGEST_SIDE + 100
    iio.imwrite(tmp_path / "in" / "long.png", np.full((64, long, 3), 130, np.uint8))
    (photo,) = list_packed(pack_photos([tmp_path / "in"], tmp_path / "p.tar").target)
    shown = read_packed(photo)
    assert shown.shape == (32, long // 2, 3)
    assert np.abs(shown.astype(int) - 130).max() <= 1


def add_noisy(folder: Path) -> None:
    """Photographs that are large at any quality."""
    rng = np.random.default_rng(1)
    for name in ("x.png", "y.png"):
        iio.imwrite(folder / name, rng.integers(0, 256, (192, 192, 3)).astype(np.uint8))


def test_the_file_keeps_to_its_size(folders: Path, tmp_path: Path) -> None:
    add_noisy(folders)
    listener = ProgressSpy()
    free = pack_photos([folders], tmp_path / "free.tar", progress=listener)
    assert free.quality == 95
    assert listener.done == [total for _, total in listener.stages] and listener.announced
    most = free.bytes * 2 // 3
    tight = pack_photos([folders], tmp_path / "tight.tar", PackOptions(most))
    assert tight.bytes == tight.target.stat().st_size <= most
    assert tight.quality < 95 and tight.photos == 7
    with pytest.raises(UsageError, match=r"cannot be packed into 0\.01 MB"):
        pack_photos([folders], tmp_path / "none.tar", PackOptions(10_000))
    with pytest.raises(UsageError, match=r"packed into 1 byte, .*such as 40MB"):
        pack_photos([folders], tmp_path / "none.tar", PackOptions(1))
    assert not (tmp_path / "none.tar").exists()


def test_unlike_the_sample_the_rest_may_be_large(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_noisy(folders)
    free = pack_photos([folders], tmp_path / "free.tar")
    monkeypatch.setattr(module, "_qualities_that_may_fit", lambda *_: [95, 60])
    assert pack_photos([folders], tmp_path / "p.tar", PackOptions(free.bytes - 10240)).quality == 60


def test_a_photograph_that_cannot_be_read_is_named_and_the_rest_packed(
    folders: Path, tmp_path: Path
) -> None:
    (folders / "lake" / "broken.jpg").write_bytes(b"no picture")
    result = pack_photos([folders], tmp_path / "p.tar")
    assert result.photos == 5 == len(list_packed(result.target))
    ((path, error),) = result.failed
    assert path.name == "broken.jpg" and isinstance(error, DataError)
    with pytest.raises(DataError, match="None of 1 photograph can be read"):
        pack_photos([folders / "lake" / "broken.jpg"], tmp_path / "q.tar")


def test_what_is_there_is_replaced_only_if_so_asked(folders: Path, archive: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        pack_photos([folders / "moor"], archive)
    assert archive.read_bytes() == before
    pack_photos([folders / "moor"], archive, PackOptions(overwrite=True))
    assert len(list_packed(archive)) == 2
    with pytest.raises(UsageError, match=r"must end in \.tar"):
        pack_photos([folders], archive.with_suffix(".zip"))


def test_names_that_no_other_system_could_hold(tmp_path: Path) -> None:
    folder = tmp_path / "what?: "
    folder.mkdir()
    iio.imwrite(folder / ("n" * 200 + ".png"), smooth(1))
    (photo,) = list_packed(pack_photos([folder], tmp_path / "p.tar").target)
    assert photo.name == f"what__/{'n' * 80}.webp"


# ---------------------------------------------------------------- by other programs


def test_a_tar_of_another_program_is_read(make: Make) -> None:
    folder = tarfile.TarInfo("./walk")
    folder.type = tarfile.DIRTYPE
    path = make(
        (folder, b""),
        ("./walk/b.PNG", picture(1)),
        ("top.png", picture(2)),
        ("walk/._b.PNG", b"of a Mac"),
        ("walk/notes.txt", b"no picture"),
    )
    assert is_packed(path) and not is_packed(path.with_suffix(".zip"))
    photos = list_packed(path)
    assert [(photo.source, photo.stem) for photo in photos] == [("walk", "b"), ("made", "top")]
    assert np.array_equal(read_packed(photos[0]), smooth(1))


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (link("a.png", tarfile.SYMTYPE), "a link, a device"),
        (link("a.png", tarfile.LNKTYPE), "a link, a device"),
        (link("a.png", tarfile.CHRTYPE), "a link, a device"),
        (link("a.png", tarfile.FIFOTYPE), "a link, a device"),
        ("../../a.png", "no name of a photograph"),
        ("/a.png", "no name of a photograph"),
        ("..\\a.png", "no name of a photograph"),
        ("x/\x1b[2J.png", "no name of a photograph"),
    ],
)
def test_hostile_members_are_refused(make: Make, member: Any, words: str) -> None:
    path = make(("good.png", picture()), (member, b"x"))
    with pytest.raises(DataError, match=words) as caught:
        list_packed(path)
    assert caught.value.exit_code == 70
    assert str(caught.value).isprintable()


def sized(kind: bytes, size: int) -> bytes:
    """An archive whose first header claims a size that it has not."""
    member = tarfile.TarInfo("a.png")
    member.type = kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % 2**96).to_bytes(12, "big") if size < 0 else b"%011o\0" % size
    if size >= 8**11:
        header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    return bytes(header) + bytes(3 * 512)


@pytest.mark.parametrize("size", [-512, -1024, -(2**40), 2**40, 2**33])
@pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"5"])
def test_impossible_sizes_cost_neither_memory_nor_patience(
    tmp_path: Path, kind: bytes, size: int
) -> None:
    path = tmp_path / "photos.tar"
    path.write_bytes(sized(kind, size))
    with pytest.raises(DataError, match=r"photos\.tar"):
        list_packed(path)


def test_two_members_of_one_name_are_refused(make: Make) -> None:
    with pytest.raises(DataError, match="twice"):
        list_packed(make(("a.png", picture(1)), ("a.png", picture(2))))


def test_a_sparse_member_is_refused(make: Make) -> None:
    member = tarfile.TarInfo("huge.png")
    member.pax_headers = {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": f"0,1,{1 << 49},1"}
    with pytest.raises(DataError):
        list_packed(make((member, b"xx")))


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b" + bytes(600), bytes(2000)])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photos.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"photos\.tar"):
        list_packed(path)


def test_a_folder_a_missing_file_and_an_archive_without_photographs(
    tmp_path: Path, make: Make
) -> None:
    for path in (tmp_path, tmp_path / "missing.tar"):
        with pytest.raises(DataError, match="cannot be read"):
            list_packed(path)
    with pytest.raises(DataError, match="There is no photograph in"):
        list_packed(make(("a.txt", b"x")))
    (photo,) = list_packed(make(("a.png", b"x")))
    with pytest.raises(DataError, match=r"a\.png cannot be read: it is not a picture"):
        read_packed(photo)


# ---------------------------------------------------------------- damage


def outcome(path: Path) -> list[PackedPhoto] | None:
    """What a file holds, if it is whole; `GiaError`s are what is promised of all others."""
    try:
        photos = list_packed(path)
        for photo in photos:
            read_packed(photo)
    except GiaError as error:
        assert str(error).isprintable()
        return None
    return photos


@pytest.mark.slow
def test_any_changed_byte_is_noticed(archive: Path) -> None:
    """But in what no reader needs: padding, and the members' times and owners."""
    whole, data = outcome(archive), archive.read_bytes()
    assert whole
    names = [(photo.name, photo.digest) for photo in whole]
    rng = random.Random(3)
    noticed = 0
    for _ in range(250):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        archive.write_bytes(damaged)
        found = outcome(archive)
        noticed += found is None
        assert found is None or [(photo.name, photo.digest) for photo in found] == names
    assert noticed > 100


def test_a_file_that_is_cut_short_is_noticed(archive: Path) -> None:
    data = archive.read_bytes()
    for length in (*range(0, len(data.rstrip(b"\0")) + 512, 97), len(data.rstrip(b"\0"))):
        archive.write_bytes(data[:length])
        assert outcome(archive) is None, length


def test_a_photograph_that_was_left_out_or_put_in_is_noticed(archive: Path, make: Make) -> None:
    with tarfile.open(archive) as file:
        contents = []
        for member in file:
            reader = file.extractfile(member)
            assert reader is not None
            contents.append((member.name, reader.read()))
    assert outcome(make(*contents)) is not None
    for others in (contents[:-1], [*contents, ("lake/new.webp", contents[-1][1])]):
        with pytest.raises(DataError, match="1 of its photographs are missing or not those"):
            list_packed(make(*others))
    for index in (b"{", b"[]", b'{"photos": 3}', json.dumps({}).encode()):
        with pytest.raises(DataError, match="damaged"):
            list_packed(make((contents[0][0], index), *contents[1:]))


def test_a_file_that_changes_after_it_was_listed_is_noticed(archive: Path) -> None:
    photo = list_packed(archive)[0]
    data = bytearray(archive.read_bytes())
    data[photo.offset + 20] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match="has changed since"):
        read_packed(photo)
    archive.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_packed(photo)
