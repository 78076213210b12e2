"""A run's checkpoint on the disk: written whole, read only as it was written, the last one kept.

The file is what ``torch.save`` writes, and after it a line with the SHA-256 of that: torch itself
reads a flipped bit without a word. ``checkpoint-previous.pt`` is the one before.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gia_cli.errors import RunError
from gia_cli.files import atomic_file, is_taken, read_plain
from gia_cli.progress import SILENT, Progress

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"
_ENTRIES = {"step", "elapsed_s", "trainee", "ema", "optimizer", "scaler"}
_MARK = b"\ngia sha256 "
_TRAILER_BYTES = len(_MARK) + 2 * hashlib.sha256().digest_size + 1  # and a line's end
# A zip archive's last record, with its length where it has no comment.
_ZIP_END, _ZIP_END_BYTES = b"PK\5\6", 22


def has_checkpoint(run: Path) -> bool:
    """Tell whether a run has left something to go on from."""
    return is_taken(run / CHECKPOINT) or is_taken(run / PREVIOUS)


def write_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write a run's checkpoint; what was there becomes the previous one.

    Parameters
    ----------
    run : Path
    state : dict
        Of `TrainState.to_dict`: tensors and plain numbers.

    Raises
    ------
    OutputError
        What was there is still there.
    """
    # In memory first: of a full disk torch's own writer would not tell in a way to be caught.
    data = io.BytesIO()
    torch.save(state, data)
    digest = hashlib.sha256(data.getbuffer()).hexdigest()
    data.seek(0, io.SEEK_END)
    data.write(_MARK + digest.encode() + b"\n")
    with atomic_file(run / CHECKPOINT) as file:
        file.write(data.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # whether the disk takes it must be known before
        _keep(run)


def _keep(run: Path) -> None:
    """Make the checkpoint the previous one, unless it is damaged: then that one is better.

    It stays the last one, too, until the new one takes its name; but where there are no hard links.
    """
    last, previous = run / CHECKPOINT, run / PREVIOUS
    with suppress(OSError, RunError):
        _verified(read_plain(last), last)
        try:
            previous.unlink(missing_ok=True)
            previous.hardlink_to(last)
        except OSError:
            last.replace(previous)


def read_checkpoint(
    run: Path, progress: Progress = SILENT, *, fall_back: bool = False
) -> dict[str, Any]:
    """Read a run's checkpoint onto the CPU; runs no code from it.

    Parameters
    ----------
    run : Path
    progress : Progress
        Hears if the previous one is taken, or if nothing tells whether the file is whole.
    fall_back : bool
        Take the previous checkpoint where the last one is damaged. Where there is no last one, for
        the process was killed while it put it in place, the previous one is taken anyway.

    Raises
    ------
    RunError
        None there, unreadable or damaged.
    """
    path, previous = run / CHECKPOINT, run / PREVIOUS
    try:
        return _read(path, progress)
    except FileNotFoundError:
        if not previous.exists():
            raise RunError(
                f"{run} has no checkpoint yet.", hint="Let it train for a while."
            ) from None
        why = f"{path} is missing"
    except RunError as error:
        if not previous.exists():
            raise
        if not fall_back:
            error.hint = f"'gia train' goes on from the one before, {PREVIOUS}; export then."
            raise
        why = error.message.rstrip(".")
    saved = _read(previous, progress)
    progress.note(f"{why}; the checkpoint before it is taken, of step {saved['step']}.")
    return saved


def _read(path: Path, progress: Progress) -> dict[str, Any]:
    """Read one file of a checkpoint; `FileNotFoundError` is left to the caller."""
    try:
        data = read_plain(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.", hint="") from error
    content = _verified(data, path)
    if len(content) == len(data):
        progress.note(f"{path} is of an older gia, without a checksum; only its CRCs were checked.")
    del data
    try:
        saved: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises whatever its unpickler and zip reader meet
        raise _damaged(path) from error
    if not isinstance(saved, dict) or not saved.keys() >= _ENTRIES:
        raise RunError(f"{path} is not a checkpoint of gia.", hint="Give another --run folder.")
    return saved


def _verified(data: bytes, path: Path) -> memoryview:
    """Return the part of a checkpoint's bytes that is torch's, if it is as it was written.

    Raises
    ------
    RunError
        It is not. An older one, without the line, has the CRCs that torch writes.
    """
    trailer = data[-_TRAILER_BYTES:]
    if trailer.startswith(_MARK):
        content = memoryview(data)[:-_TRAILER_BYTES]
        if trailer[len(_MARK) :] != hashlib.sha256(content).hexdigest().encode() + b"\n":
            raise _damaged(path)
        return content
    if data[-_ZIP_END_BYTES:][: len(_ZIP_END)] != _ZIP_END:
        raise _damaged(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            broken = archive.testzip()
    except Exception as error:  # BadZipFile, NotImplementedError, struct.error, ...
        raise _damaged(path) from error
    if broken is not None:
        raise _damaged(path)
    return memoryview(data)


def _damaged(path: Path) -> RunError:
    return RunError(f"{path} is damaged.", hint="Remove it to start the run anew.")
