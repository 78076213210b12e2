"""Many photographs in one small file, to be carried to where a network is trained.

The file is an uncompressed tar archive of pictures, each in a folder that names its source. It is
read in place, never extracted. `pack_photos` writes one: pictures of the size that training shrinks
them to, as WebP without metadata, and an index with their digests, for a damaged WebP is often
decoded without a word. Archives by other programs are read, too, but not checked so.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import DataError, GiaError, UsageError
from gia_cli.files import atomic_file, is_file, open_plain, refuse_hopeless_output
from gia_cli.imaging.color import srgb_encode
from gia_cli.imaging.photos import (
    PHOTO_SUFFIXES,
    decode_photo,
    encode_webp,
    find_photos,
    read_photo,
    training_size,
)
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import in_threads
from gia_cli.text import counted, size_in_words

#: File name ending of packed photographs.
PACKED_SUFFIX = ".tar"

_INDEX = "gia-photos.json"
_BLOCK = tarfile.BLOCKSIZE
_LARGEST_INDEX = 64 << 20  # bytes
_QUALITIES = (95, 92, 90, 87, 85, 82, 80, 77, 75, 70, 65, 60)
_SAMPLE = 24  # photographs by which a quality is chosen
_NAME_BYTES = 80  # of 255 that file systems hold
_HINT = "Copy it again, or pack the photographs again with 'gia pack'."


@dataclass(frozen=True, slots=True)
class PackedPhoto:
    """A photograph in a packed file."""

    archive: Path
    name: str
    """Of the member: ``source/stem.webp``."""
    offset: int
    """Bytes before the photograph's own."""
    size: int
    """Bytes."""
    digest: str
    """BLAKE2s of its bytes, hexadecimal."""

    @property
    def source(self) -> str:
        """Folder that it lay in, or the archive's own name."""
        return PurePosixPath(self.name).parent.name or self.archive.stem

    @property
    def stem(self) -> str:
        """Name without its ending."""
        return PurePosixPath(self.name).stem


def is_packed(path: Path) -> bool:
    """Whether a path leads to packed photographs, by its ending."""
    return path.suffix.lower() == PACKED_SUFFIX and is_file(path)


def list_packed(archive: Path) -> list[PackedPhoto]:
    """List the photographs in a packed file, sorted by name; each is read once for its digest.

    Raises
    ------
    DataError
        The file is missing, damaged, cut short or no tar archive; it holds no photograph, links or
        devices, two members of one name, or names that lead out of a folder.
    """
    try:
        with open_plain(archive) as (file, size):
            members = _members(file, size)
            index = _index(file, members)
            photos = [
                PackedPhoto(archive, member.name, member.offset_data, member.size, digest)
                for member, digest in _digested(file, members)
            ]
    except (DataError, MemoryError):
        raise
    except _Damaged as error:
        raise DataError(f"{archive} is damaged: {error}.", hint=_HINT) from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # tarfile raises whatever its parsing of hostile headers meets
        raise DataError(
            f"{archive} is damaged, or no tar archive without compression.", hint=_HINT
        ) from error
    if not photos:
        raise DataError(
            f"There is no photograph in {archive}.",
            hint="gia reads JPEG, PNG, WebP, TIFF and BMP files in it.",
        )
    if index is not None:
        _check_index(archive, photos, index)
    return sorted(photos, key=lambda photo: photo.name)


def read_packed(photo: PackedPhoto) -> NDArray[np.uint8]:
    """Read a photograph of a packed file; as `read_photo`.

    Raises
    ------
    DataError
        It is no picture, or no longer what was listed.
    """
    name = f"{photo.archive}: {photo.name}"
    try:
        with open_plain(photo.archive) as (file, _):
            data = _bytes_of(file, photo.offset, photo.size)
    except (OSError, _Damaged) as error:
        raise DataError(f"{name} cannot be read: {error}.", hint=_HINT) from error
    if _digest(data) != photo.digest:
        raise DataError(f"{name} has changed since it was listed.", hint="Run the command again.")
    return decode_photo(data, name)


class _Damaged(Exception):
    """What is wrong with an archive, in words."""


class _Bounded:
    """A file that takes no more memory for what a header claims than it has bytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        """Read as any file does."""
        return self._file.read(min(count, self._size))


def _members(file: BinaryIO, size: int) -> list[tarfile.TarInfo]:
    """List the regular files of an archive; refuse what gia has no use for."""
    found: dict[str, tarfile.TarInfo] = {}
    bounded = cast(BinaryIO, _Bounded(file, size))
    with tarfile.open(fileobj=bounded, mode="r:", errors="surrogateescape") as archive:
        for member in archive:
            if member.isdir():
                continue
            _refuse_odd(member)
            if member.name in found:
                raise _Damaged(f"{member.name!r} is in it twice")
            if not 0 <= member.size <= size - member.offset_data:
                raise _Damaged("it is cut short")
            found[member.name] = member
        end = archive.offset
    # tarfile takes a damaged header for the archive's end.
    file.seek(end)
    rest = 0
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise _Damaged("there is more behind its last whole entry")
        rest += len(block)
    if rest < _BLOCK:
        raise _Damaged("it is cut short")
    return list(found.values())


def _refuse_odd(member: tarfile.TarInfo) -> None:
    if not member.isreg() or member.issparse():
        raise _Damaged(f"{member.name!r} is a link, a device or a sparse file")
    path = PurePosixPath(member.name)
    # Bytes that are no UTF-8 are no reason: files have such names, too.
    is_plain = all(x.isprintable() or "\udc80" <= x <= "\udcff" for x in member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not is_plain:
        raise _Damaged(f"{member.name!r} is no name of a photograph")


def _is_photo(member: tarfile.TarInfo) -> bool:
    path = PurePosixPath(member.name)
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def _digested(
    file: BinaryIO, members: list[tarfile.TarInfo]
) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in filter(_is_photo, members):
        yield member, _digest(_bytes_of(file, member.offset_data, member.size))


def _bytes_of(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise _Damaged("it is cut short")
    return data


def _digest(data: bytes) -> str:
    return hashlib.blake2s(data).hexdigest()


def _index(file: BinaryIO, members: list[tarfile.TarInfo]) -> dict[str, Any] | None:
    """Read the digests that `pack_photos` wrote; None where another program wrote the archive."""
    for member in members:
        if member.name == _INDEX:
            if member.size > _LARGEST_INDEX:
                raise _Damaged("its index is too large")
            index = json.loads(_bytes_of(file, member.offset_data, member.size))
            photos: dict[str, Any] = dict(index["photos"])
            return photos
    return None


def _check_index(archive: Path, photos: list[PackedPhoto], index: dict[str, Any]) -> None:
    found = {photo.name: photo.digest for photo in photos}
    wrong = sorted(name for name in index if found.get(name) != index[name])
    wrong += sorted(found.keys() - index.keys())
    if wrong:
        raise DataError(
            f"{archive} is damaged: {len(wrong)} of its photographs are missing or not those that "
            f"were packed, such as {wrong[0]}.",
            hint=_HINT,
        )


# ---------------------------------------------------------------- packing


@dataclass(frozen=True, slots=True)
class PackOptions:
    """How `gia pack` packs photographs."""

    max_bytes: int = 40_000_000
    """Of the whole file."""
    overwrite: bool = False
    """Replace a file of that name."""


@dataclass(frozen=True, slots=True)
class PackResult:
    """What was packed."""

    target: Path
    photos: int
    bytes: int
    quality: int
    """Of WebP."""
    failed: list[tuple[Path, GiaError]]
    """Photographs that could not be read; all others are packed."""


def pack_photos(
    inputs: list[Path],
    target: Path,
    options: PackOptions | None = None,
    progress: Progress = SILENT,
) -> PackResult:
    """Pack photographs at the highest quality that fits.

    They are shrunk as training shrinks them, turned upright, and lose their metadata. A folder's
    name stays the photographs' source.

    Parameters
    ----------
    inputs : list of Path
        Photographs, or folders of them.
    target : Path
        A ``.tar`` file.
    options : PackOptions, optional
    progress : Progress
        Receives the stages "choosing a quality" and "packing".

    Raises
    ------
    UsageError
        The target's ending, or a size into which the photographs do not fit.
    DataError
        No photograph, or none that can be read.
    OutputError, OutputExistsError
    """
    options = options or PackOptions()
    if target.suffix.lower() != PACKED_SUFFIX:
        raise UsageError(f"{target} must end in {PACKED_SUFFIX}.", hint="See 'gia pack --help'.")
    refuse_hopeless_output(target, replace=options.overwrite, hint="Use --overwrite.")
    photos = find_photos(inputs)
    qualities = _qualities_that_may_fit(photos, options.max_bytes, progress)
    for quality in qualities:
        packed, failed = _encoded(photos, quality, progress)
        data = _archived(_named(packed))
        if len(data) <= options.max_bytes:
            with atomic_file(target) as file:
                file.write(data)
            return PackResult(target, len(packed), len(data), quality, failed)
    raise UsageError(
        f"{counted(len(photos), 'photograph')} cannot be packed into "
        f"{size_in_words(options.max_bytes)}, at WebP's quality {_QUALITIES[-1]} neither.",
        hint="Give fewer of them, or a larger --max-size, such as 40MB (plain numbers are bytes).",
    )


def _qualities_that_may_fit(photos: list[Path], most: int, progress: Progress) -> list[int]:
    """Leave out the qualities at which a few of the photographs would be too large already."""
    sample = photos[:: -(-len(photos) // _SAMPLE)]
    progress.stage("choosing a quality", len(sample))
    pictures = []
    for path in sample:
        with suppress(GiaError):  # named when all are packed
            pictures.append(_prepared(path))
        progress.advance()
    if not pictures:
        return list(_QUALITIES)
    for place, quality in enumerate(_QUALITIES):
        encoded = in_threads(partial(encode_webp, quality=quality), pictures)
        if sum(map(len, encoded)) / len(pictures) * len(photos) < most:
            return list(_QUALITIES[place:])
    return list(_QUALITIES[-1:])  # the sample may be unlike the others


def _prepared(path: Path) -> NDArray[np.uint8]:
    """Read a photograph as training would, (H, W, 3) sRGB."""
    linear = training_size(read_photo(path))
    encoded = srgb_encode(linear)
    return np.rint(np.clip(encoded, 0, 1) * 255).astype(np.uint8)


def _encoded(
    photos: list[Path], quality: int, progress: Progress
) -> tuple[list[tuple[Path, bytes]], list[tuple[Path, GiaError]]]:
    """Encode all that can be read."""
    progress.stage("packing", len(photos))
    progress.status(f"quality {quality}")
    packed: list[tuple[Path, bytes]] = []
    failed: list[tuple[Path, GiaError]] = []

    def encode(path: Path) -> bytes | GiaError:
        try:
            return encode_webp(_prepared(path), quality)
        except GiaError as error:
            return error

    for path, found in zip(photos, in_threads(encode, photos), strict=True):
        if isinstance(found, GiaError):
            failed.append((path, found))
        else:
            packed.append((path, found))
        progress.advance()
    if not packed:
        raise DataError(
            f"None of {counted(len(photos), 'photograph')} can be read: {failed[0][1].message}",
            hint="gia reads JPEG, PNG, WebP, TIFF and BMP files.",
        )
    return packed, failed


def _named(packed: list[tuple[Path, bytes]]) -> dict[str, bytes]:
    """Name each by its source; those of one name get numbers."""
    named: dict[str, bytes] = {}
    for path, data in packed:
        base = f"{_plain(path.resolve().parent.name) or 'photos'}/{_plain(path.stem) or 'photo'}"
        name, number = f"{base}.webp", 2
        while name in named:
            name, number = f"{base}-{number}.webp", number + 1
        named[name] = data
    return named


def _plain(text: str) -> str:
    """Make a name that any system can hold: no separators, nothing invisible, not too long."""
    kept = "".join(x if x.isprintable() and x not in '\\/:*?"<>|' else "_" for x in text)
    return kept.encode()[:_NAME_BYTES].decode(errors="ignore").strip(" .")


def _archived(photos: dict[str, bytes]) -> bytes:
    """Write the archive; the same photographs give the same bytes."""
    index = {"photos": {name: _digest(data) for name, data in photos.items()}}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {_INDEX: json.dumps(index).encode(), **photos}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()
