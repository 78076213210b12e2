"""Pictures on their way into a page: on the disk, not in memory."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from gia_cli.errors import OutputError


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie in a `Spool`."""

    start: int
    length: int


class Spool:
    """A file without a name in the page's folder, which is gone when the process is, however.

    Processes that are forked may put bytes into it, one at a time, and send the places: what one
    that dies has left half done has no place, and is in nobody's way.

    Parameters
    ----------
    page : Path
        The page that the bytes are for.

    Raises
    ------
    OutputError
        The folder is missing or may not be written to.
    """

    def __init__(self, page: Path) -> None:
        self._page = page
        try:
            # Beside the page: what fits here twice will fit there, as a folder for temporary files
            # that lies in memory may not.
            # Without buffers: those of one process know nothing of what another one has written.
            file = tempfile.TemporaryFile(  # noqa: SIM115
                dir=page.parent, prefix=".gia-", buffering=0
            )
            self._file = cast(BinaryIO, file)
        except OSError as error:
            raise self._refusal(error) from error

    def put(self, data: bytes) -> Place:
        """Write bytes behind all others.

        Raises
        ------
        OutputError
            The disk is full.
        """
        try:
            start = self._file.seek(0, 2)
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._refusal(error) from error
        return Place(start, len(data))

    def get(self, place: Place) -> bytes:
        """Read what was put at a place."""
        try:
            self._file.seek(place.start)
            data = bytearray()
            while len(data) < place.length and (part := self._file.read(place.length - len(data))):
                data += part
            return bytes(data)
        except OSError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Give the disk its space back."""
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _refusal(self, error: OSError) -> OutputError:
        return OutputError(
            f"Cannot write {self._page}: {error.strerror or error}.",
            hint="Check its folder: that it is there, its permissions, and the free space.",
        )
