"""Open a file with LibRaw, and say what it means when that fails.

Every refusal gets a sentence and an exit code of its own. rawpy is loaded when the first photo is
read: training on photographs goes without.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gia_cli.errors import (
    DamagedFileError,
    EmptyFileError,
    FileMissingError,
    FoveonError,
    NotAFileError,
    NotRawError,
    OutOfMemoryError,
    RawError,
    UnreadableFileError,
    UnsupportedCfaError,
    UnsupportedCompressionError,
)
from gia_cli.raw import tiff
from gia_cli.raw.exif import RAF_MAGIC
from gia_cli.runtime import free_bytes, zeroed_memory

if TYPE_CHECKING:
    import rawpy

_JPEG = b"\xff\xd8\xff"
_NOT_RAW_MAGICS = {
    _JPEG: "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF document",
    b"RIFF": "a WebP or AVI file",
    b"PK\x03\x04": "a ZIP archive",
}
_RAW_MAGICS = {b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM", RAF_MAGIC[:4]}
# TIFF compression numbers of integer DNGs that LibRaw decodes: none, lossless and lossy JPEG. With
# others it sometimes fails while decoding, as on damaged data.
_DNG_COMPRESSIONS = {1, 7, 34892}
TIFF_MAGICS = (b"II*\0", b"MM\0*")
_LARGEST_WITHOUT_HEADER = 1 << 25  # bytes; such cameras are old
# Bits of a photosite, at the least, in the tightest compression: noise does not compress further.
_LEAST_BITS = 0.5
_READING_BYTES = 4  # of a photosite: LibRaw's and our copy
_ALWAYS_TRIED = 10**9  # bytes
_TINY = 4096  # bytes; no RAW photo is smaller
PHOTOMETRICS_RAW = (32803, 34892)
_DNG_VERSION_TAG = 0xC612
_FUJI_LAYOUT_TAG = 0x0130
_CIFF_MAGIC = b"HEAPCCDR"
# LibRaw looks at so many bytes of a CRW to tell how it is coded; of a shorter one, at memory that
# was never written.
_LEAST_CRW = 0x4000


def refuse_hopeless(path: Path) -> None:
    """Refuse what needs no RAW decoder to be refused."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise NotAFileError(f"{path} is a folder, not a photo.")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            raise NotAFileError(f"{path} is a pipe, socket or device, not a photo.")
        with path.open("rb") as file:
            head = file.read(16)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingError(f"{path}: there is no such file.") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # nor can there be
            raise FileMissingError(
                f"{path}: there is no such file: {error.strerror}.", hint="Check the name."
            ) from error
        raise UnreadableFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not head:
        raise EmptyFileError(f"{path} is empty.")
    if head.startswith(b"FOVb"):
        raise FoveonError(f"{path} is a Foveon (X3F) file: three layers, no colour filter array.")
    for magic, what in _NOT_RAW_MAGICS.items():
        if head.startswith(magic) and not (magic == _JPEG and _holds_broadcom_raw(path)):
            raise NotRawError(f"{path} is {what}, not a RAW photo.")
    if head.startswith(RAF_MAGIC) and _is_super_ccd(path):
        raise UnsupportedCfaError(f"{path} comes from a Fujifilm Super CCD, whose grid is rotated.")
    if head[6:14] == _CIFF_MAGIC and path.stat().st_size < _LEAST_CRW:
        raise DamagedFileError(f"{path} is cut short: it ends before its RAW image.")
    if head[:4] in TIFF_MAGICS and head[8:10] == b"CR" and _is_cut_cr2(path):
        raise DamagedFileError(f"{path} is cut short: it ends before its RAW image is described.")


def _is_cut_cr2(path: Path) -> bool:
    """Whether a CR2 ends before the directory of its RAW image.

    That is its fourth and last; the header has its offset too. LibRaw would use the thumbnail's
    instead, and make a picture of random memory.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        order = "<" if file.read(2) == b"II" else ">"
        file.seek(4)
        at, _, last = struct.unpack(order + "III", file.read(12).ljust(12, b"\0"))
        if last > length:
            return True
        for _ in range(4):
            file.seek(at)
            count = file.read(2)
            if len(count) < 2:
                return True
            file.seek(12 * struct.unpack(order + "H", count)[0], os.SEEK_CUR)
            following = file.read(4)
            if len(following) < 4:
                return True
            (at,) = struct.unpack(order + "I", following)
            if at == 0:
                return False
    return False


def _holds_broadcom_raw(path: Path) -> bool:
    """Whether a JPEG has a RAW photo behind it, as those of the Raspberry Pi may.

    It starts with "BRCM" and zeros, and ends the file; LibRaw knows its sizes.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.rfind(b"BRCM") > len(_JPEG)


def _is_super_ccd(path: Path) -> bool:
    """FujiLayout (tag 0x0130 of the RAF directory): bit 3 of its second byte unset."""
    with path.open("rb") as file:
        file.seek(92)
        pointer = file.read(8)
        if len(pointer) < 8:
            return False
        offset, length = struct.unpack(">II", pointer)
        file.seek(offset)
        directory = file.read(min(length, 1 << 20))
    at = 4
    while at + 4 <= len(directory):
        tag, size = struct.unpack_from(">HH", directory, at)
        if tag == _FUJI_LAYOUT_TAG and size >= 2 and at + 6 <= len(directory):
            return not directory[at + 5] & 8
        at += 4 + size
    return False


@contextmanager
def open_raw(path: Path, max_memory: int | None = None) -> Iterator[rawpy.RawPy]:
    """Open and unpack with LibRaw, turning each of its errors into one of ours.

    Parameters
    ----------
    path : Path
    max_memory : int, optional
        Bytes that this process may hold; by default what is free.

    Raises
    ------
    RawError
    OutOfMemoryError
        The photo, by the size that it states, does not fit.
    """
    import rawpy

    with rawpy.RawPy() as raw:
        recognised = False
        try:
            with _CATCHER.catch(_name_in_messages(path)) as said:
                _hand_over(path, raw)
                recognised = True
                _refuse_size(path, raw, max_memory)
                raw.unpack()
        except rawpy.LibRawUnsufficientMemoryError as error:
            raise OutOfMemoryError(f"There is too little memory to read {path}.") from error
        except rawpy.LibRawError as error:
            raise _refusal(path, error, recognised=recognised) from error
        if b"Unexpected end of file" in said or b"data corrupted" in said:
            raise DamagedFileError(f"{path} is cut short or corrupted.")
        yield raw


def _refuse_size(path: Path, raw: rawpy.RawPy, max_memory: int | None) -> None:
    """Refuse a photo that cannot be as large as it says, before memory is taken for it."""
    photosites = raw.sizes.raw_height * raw.sizes.raw_width
    needed = _READING_BYTES * photosites
    size = f"{path} says it has {photosites / 1e6:.0f} million photosites"
    takes = f"reading them takes {needed / 1e6:.0f} MB"
    if max_memory is not None and needed > max_memory:
        raise OutOfMemoryError(f"{size}; {takes}, more than {max_memory / 1e6:.0f} MB.")
    if path.stat().st_size * 8 < _LEAST_BITS * photosites:
        raise DamagedFileError(f"{size}, but holds only {path.stat().st_size} bytes.")
    # What is free now may be little because another photo is being worked on.
    if needed > max(free_bytes(), _ALWAYS_TRIED):
        raise OutOfMemoryError(f"{size}; {takes}.")


def is_known_by_size_only(path: Path, raw: rawpy.RawPy) -> bool:
    """Check whether LibRaw takes a file for a RAW photo because of its number of bytes.

    It does so for old cameras whose files have no header. A file of zeros of that size is then a
    photo of the same camera to it.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
    if head in TIFF_MAGICS or head in _RAW_MAGICS or length > _LARGEST_WITHOUT_HEADER:
        return False
    import rawpy

    with rawpy.RawPy() as blank, _CATCHER.catch(b""):  # what is said of zeros is nothing to know
        try:
            blank.open_buffer(io.BytesIO(bytes(length)))
        except rawpy.LibRawError:
            return False
        return bool(blank.sizes == raw.sizes)


def _hand_over(path: Path, raw: rawpy.RawPy) -> None:
    """Open by name; by content where the name is no text, which rawpy cannot pass on."""
    try:
        name = str(path).encode("utf-8").decode("utf-8")
    except UnicodeEncodeError:
        with path.open("rb") as file:
            raw.open_buffer(file)
    else:
        raw.open_file(name)


def _refusal(path: Path, error: rawpy.LibRawError, *, recognised: bool) -> RawError:
    """Say what a LibRaw error means for a file, which it had `recognised` or not."""
    import rawpy

    compression, is_dng = _cfa_compression(path)
    # LibRaw answers with an I/O error too when a text of a few bytes ends before its header would.
    if isinstance(error, rawpy.LibRawIOError) and (recognised or _looks_raw(path)):
        return DamagedFileError(f"{path} is cut short or corrupted.")
    unsupported = isinstance(error, rawpy.LibRawFileUnsupportedError)
    # LibRaw knows the camera but not its compression (Nikon's High Efficiency, GoPro's VC-5).
    if (recognised and unsupported) or (is_dng and compression not in _DNG_COMPRESSIONS):
        number = "" if compression is None else f" (TIFF compression {compression})"
        return UnsupportedCompressionError(
            f"{path} is compressed in a way that LibRaw cannot decode{number}."
        )
    if compression is None and not _looks_raw(path) and not recognised:
        return NotRawError(f"{path} is not a RAW photo that LibRaw knows.")
    if unsupported:
        return DamagedFileError(
            f"{path} looks like a RAW photo, but LibRaw cannot read it.",
            hint="It is damaged, or its camera is newer than this LibRaw; try its DNG conversion.",
        )
    return DamagedFileError(f"{path} is cut short or corrupted.")


def _cfa_compression(path: Path) -> tuple[int | None, bool]:
    """TIFF compression number of the RAW image (None: no TIFF says), and whether this is a DNG."""
    directories = directories_of(path)
    is_dng = any(_DNG_VERSION_TAG in directory.tags for directory in directories)
    for directory in directories:
        # A thumbnail's directory says RGB or YCbCr; DNG and TIFF/EP mark the RAW so:
        if directory.first(0x0106) in PHOTOMETRICS_RAW:
            return directory.first(0x0103, 1), is_dng
    return None, False


def _looks_raw(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_TINY)
    directories = directories_of(path)
    if len(head) < _TINY and head[:4] in TIFF_MAGICS:
        # Cut off before it could say what its pixels are?
        return not any(0x0106 in directory.tags for directory in directories)
    if head[:4] in _RAW_MAGICS or head[6:14] == _CIFF_MAGIC or head[4:12] == b"ftypcrx ":
        return True
    # A bare TIFF picture says RGB or grey; a camera's RAW has a SubIFD with the mosaic.
    return any(tiff.SUB_IFDS in directory.tags for directory in directories)


def directories_of(path: Path) -> list[tiff.Directory]:
    """Read the TIFF directories of a file."""
    with path.open("rb") as file:
        return tiff.walk(file)


def _sink() -> BinaryIO:
    """Open a file that has no name, and needs no folder where the system has such."""
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            return os.fdopen(os.memfd_create("gia"), "w+b")
    try:
        return tempfile.TemporaryFile()
    except OSError:  # no folder for temporary files: what LibRaw says is lost, the photo is not
        return Path(os.devnull).open("r+b")


@contextmanager
def _in_place_of_stderr(sink: BinaryIO) -> Iterator[None]:
    """Let a file take what C prints to file descriptor 2, through any progress bar."""
    try:
        saved = os.dup(2)
    except OSError:  # a program without stderr: nothing to protect
        yield
        return
    os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


class _Catcher:
    """Catches what LibRaw prints, for all threads that read at the same time.

    File descriptor 2 and the C library's memory are the process's: the first thread changes them,
    the last one puts them back. LibRaw names the file that it speaks of, by which each thread finds
    its own; one whose file it does not name reads alone.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._is_alone = False
        self._sink: BinaryIO | None = None
        self._setting = ExitStack()

    @contextmanager
    def catch(self, name: bytes | None) -> Iterator[bytearray]:
        """Catch what is said of a file; the buffer that it yields holds it afterwards.

        Parameters
        ----------
        name : bytes, optional
            What LibRaw calls the file. None: it does not name it, so no other thread reads.
        """
        said, start = bytearray(), self._enter(alone=name is None)
        try:
            yield said
        finally:
            text = self._leave(start)
            said += text if name is None else _said_of(name, text)

    def _enter(self, *, alone: bool) -> int:
        """Wait for a turn; returns where what is said from now on begins."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._users and (alone or self._is_alone)))
            if not self._users:
                with ExitStack() as setting:
                    self._sink = setting.enter_context(_sink())
                    setting.enter_context(_in_place_of_stderr(self._sink))
                    # Where a part of a file cannot be decoded, LibRaw leaves the mosaic as it got
                    # it: what this process had there before, such as the photo before. Zeros
                    # `is_damaged` knows.
                    setting.enter_context(zeroed_memory())
                    self._setting = setting.pop_all()
            self._users += 1
            self._is_alone = alone
            assert self._sink is not None
            return os.fstat(self._sink.fileno()).st_size

    def _leave(self, start: int) -> bytes:
        """Return what was said since, of any file."""
        with self._changed:
            assert self._sink is not None
            try:
                return _written_since(self._sink, start, is_ours=self._users == 1)
            finally:
                self._users -= 1
                if not self._users:
                    self._setting.close()
                    self._sink = None
                self._changed.notify_all()


def _written_since(sink: BinaryIO, start: int, *, is_ours: bool) -> bytes:
    """Read the end of a file that others may be writing to, whose place in it must not move."""
    if is_ours:
        sink.seek(start)
        return sink.read()
    return os.pread(sink.fileno(), os.fstat(sink.fileno()).st_size - start, start)


def _said_of(name: bytes, text: bytes) -> bytes:
    """Pick the lines about a file: those that begin with its name, and not with a longer one."""
    lines = (b"\n" + text).split(b"\n" + name + b": ")[1:]
    return b"\n".join(line.partition(b"\n")[0] for line in lines)


_CATCHER = _Catcher()


def _name_in_messages(path: Path) -> bytes | None:
    """Say what LibRaw calls a file; None if by no name of its own, or by one of several lines.

    Windows' names it does not print, and nothing there reads a file's end beside its writers.
    """
    if not hasattr(os, "pread"):
        return None
    try:
        name = str(path).encode("utf-8")
    except UnicodeEncodeError:  # what `_hand_over` hands over by content
        return None
    return None if b"\n" in name else name
