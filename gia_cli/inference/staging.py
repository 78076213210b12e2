"""Copies between main memory and a graphics card, in bands of rows through buffers that stay.

Memory that the system may move is copied by the driver twice, while everybody waits. Pinned memory
the card reads and writes by itself: with two buffers one band is on its way while the next one is
put into the other, or taken out of it. Pinning takes long, so the buffers are kept.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Bytes of a buffer: large enough that a copy takes longer than starting it (10 us of 1 ms), small
#: enough that the first one is soon on its way. Two of them are pinned for each direction.
BUFFER_BYTES = 1 << 24


class Done(Protocol):
    """A place in a queue of copies, which is reached or not."""

    def synchronize(self) -> None:
        """Wait until it is reached."""


class Queue(Protocol):
    """Where a card does copies one after the other, beside what it computes."""

    def buffer(self, size: int) -> Tensor:
        """Make room in main memory, (size,) uint8, that the card can reach."""

    def copying(self) -> AbstractContextManager[None]:
        """Let copies go into this queue, behind all that the card was told to compute before."""

    def mark(self) -> Done:
        """Mark the place behind the last copy."""

    def join(self) -> None:
        """Let what the card is told to compute from now on wait for all copies before."""


class Staging:
    """Two buffers for each direction, and whose turn it is.

    Parameters
    ----------
    queue : Queue
    buffer_bytes : int
        A band takes as many rows as fit, and one at the least.

    Raises
    ------
    RuntimeError
        There is no room for the buffers.
    """

    def __init__(self, queue: Queue, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._queue = queue
        self._bytes = buffer_bytes
        self._up = _Pair(queue, buffer_bytes)
        self._down = _Pair(queue, buffer_bytes)

    def upload(self, planes: NDArray[np.float32], target: Tensor) -> None:
        """Bring planes to a card, in its tensor's number format.

        Returns when the last band is on its way; what is computed then waits for it.

        Parameters
        ----------
        planes : (C, h, w) float32
        target : (1, C, h, w)
        """
        source = torch.from_numpy(planes)[None]
        try:
            for rows in self._bands(target):
                piece = target[:, :, rows]
                buffer = self._up.next(piece)
                buffer.copy_(source[:, :, rows])
                with self._queue.copying():
                    piece.copy_(buffer, non_blocking=True)
                    self._up.mark()
        finally:
            self._queue.join()  # also before the target's memory may be another's

    def download(self, source: Tensor) -> NDArray[np.float32]:
        """Bring a tensor to main memory; returns when all of it is there.

        Parameters
        ----------
        source : (1, C, h, w)

        Returns
        -------
        (C, h, w) float32
        """
        result: NDArray[np.float32] = np.empty(source.shape[1:], np.float32)
        target = torch.from_numpy(result)[None]
        under_way: Callable[[], None] | None = None
        for rows in self._bands(source):
            following = self._fetch(source[:, :, rows], target[:, :, rows])
            if under_way is not None:
                under_way()  # while the next band is on its way
            under_way = following
        if under_way is not None:
            under_way()
        return result

    def abandon(self) -> None:
        """Keep the buffers until the process ends, for freeing them may end it at once.

        Of pinned memory that copies have gone through, torch records an event when it is freed.
        After some of CUDA's errors that fails too, where nobody can catch it.
        """
        for buffer in (*self._up.buffers, *self._down.buffers):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))

    def _fetch(self, piece: Tensor, target: Tensor) -> Callable[[], None]:
        """Send a band on its way; returns what waits for it and puts it into its place."""
        buffer = self._down.next(piece)
        with self._queue.copying():
            buffer.copy_(piece, non_blocking=True)
            done = self._down.mark()

        def arrive() -> None:
            done.synchronize()
            target.copy_(buffer)

        return arrive

    def _bands(self, tensor: Tensor) -> Iterator[slice]:
        _, channels, height, width = tensor.shape
        rows = max(self._bytes // max(channels * width * tensor.element_size(), 1), 1)
        return (slice(start, min(start + rows, height)) for start in range(0, height, rows))


class _Pair:
    """Two buffers, used in turns; one is free again when the copy of it is done."""

    def __init__(self, queue: Queue, size: int) -> None:
        self._queue = queue
        self.buffers = [queue.buffer(size), queue.buffer(size)]
        self._marks: list[Done | None] = [None, None]
        self._turn = 0

    def next(self, piece: Tensor) -> Tensor:
        """Wait until the other buffer is free; returns it laid out as a band of a tensor is.

        So the copy is one of bytes as they lie; what orders and converts them is the CPU's.
        """
        self._turn = 1 - self._turn
        mark, self._marks[self._turn] = self._marks[self._turn], None
        if mark is not None:
            mark.synchronize()
        size = piece.numel() * piece.element_size()
        if self.buffers[self._turn].numel() < size:  # a row that is wider than any photo's
            self.buffers[self._turn] = self._queue.buffer(size)
        flat = self.buffers[self._turn][:size].view(piece.dtype)
        if piece.is_contiguous(memory_format=torch.channels_last):
            count, channels, rows, width = piece.shape
            return flat.view(count, rows, width, channels).permute(0, 3, 1, 2)
        return flat.view(piece.shape)

    def mark(self) -> Done:
        """Note that the buffer handed out last is in use until here."""
        mark = self._marks[self._turn] = self._queue.mark()
        return mark


class CudaQueue:
    """A `Queue` on one of Nvidia's cards: a stream of its own.

    Parameters
    ----------
    place : str
        Such as "cuda:1".
    """

    def __init__(self, place: str) -> None:
        self._place = torch.device(place)
        self._stream = torch.cuda.Stream(self._place)  # type: ignore[no-untyped-call]

    def buffer(self, size: int) -> Tensor:
        """See `Queue`."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copying(self) -> AbstractContextManager[None]:
        """See `Queue`."""
        self._stream.wait_stream(torch.cuda.current_stream(self._place))
        return torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event:
        """See `Queue`."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def join(self) -> None:
        """See `Queue`."""
        torch.cuda.current_stream(self._place).wait_stream(self._stream)
