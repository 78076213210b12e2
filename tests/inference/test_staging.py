"""Copies to a card and back: every number arrives, and no buffer is used before its copy is done.

The card is the CPU, and its copies happen as late as a card's may: when somebody waits for them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gia_cli.inference.staging import CudaQueue, Staging
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.runtime import NumberFormat, Runtime
from tests.networks import lively, small
from tests.one_device import META, OneDevice


class LateCopies(TorchDispatchMode):
    """Puts copies off, into a list."""

    def __init__(self, copies: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._copies = copies

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.copy_.default:
            return func(*args, **(kwargs or {}))
        target, source, *rest = args
        assert rest == [True] or (kwargs or {}).get("non_blocking"), "a copy that waits"
        self._copies.append((target, source))
        return target


class LateQueue:
    """A `Queue` whose copies are done when they are waited for, and not a moment earlier."""

    def __init__(self) -> None:
        self.copies: list[tuple[Tensor, Tensor]] = []
        self.done = 0
        self.buffers: list[int] = []
        self.most_under_way = 0

    def buffer(self, size: int) -> Tensor:
        self.buffers.append(size)
        return torch.full((size,), 255, dtype=torch.uint8)  # NaN, in any format

    @contextmanager
    def copying(self) -> Iterator[None]:
        with LateCopies(self.copies):
            yield
        self.most_under_way = max(self.most_under_way, len(self.copies) - self.done)

    def mark(self) -> Place:
        return Place(self, len(self.copies))

    def join(self) -> None:
        self.do_until(len(self.copies))

    def do_until(self, place: int) -> None:
        while self.done < place:
            target, source = self.copies[self.done]
            target.copy_(source)
            self.done += 1


class Place:
    """A `Done` of a `LateQueue`."""

    def __init__(self, queue: LateQueue, place: int) -> None:
        self._queue, self._place = queue, place

    def synchronize(self) -> None:
        self._queue.do_until(self._place)


DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(4, 16, 8), (4, 17, 9), (9, 1, 5), (3, 64, 1), (1, 7, 7), (3, 5, 400)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_what_goes_up_is_what_comes_down(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    layout: torch.memory_format,
    rows: int,
    rng: np.random.Generator,
) -> None:
    """Rounded as torch rounds it; with buffers for a row, a few, all, and less than one."""
    planes = rng.standard_normal(shape).astype(np.float32)
    queue = LateQueue()
    size = min(rows * shape[0] * shape[2] * dtype.itemsize, 4000)
    staging = Staging(queue, size)
    target = torch.empty((1, *shape), dtype=dtype).to(memory_format=layout)
    target.fill_(float("nan"))
    staging.upload(planes, target)
    assert queue.done == len(queue.copies)  # what is computed next has all of it
    expected = torch.from_numpy(planes)[None].to(dtype)
    assert torch.equal(target, expected)
    back = staging.download(target)
    assert back.dtype == np.float32 and back.flags.c_contiguous and back.flags.writeable
    assert np.array_equal(back, expected[0].float().numpy())
    bands = len(queue.copies) // 2
    assert queue.most_under_way == min(bands, 2)  # one is on its way beside another


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_buffers_are_kept_for_the_next_photo_of_another_size(
    layout: torch.memory_format, rng: np.random.Generator
) -> None:
    queue = LateQueue()
    staging = Staging(queue, 1 << 12)
    results: list[tuple[Any, Any]] = []
    for number, shape in enumerate(SHAPES * 2):
        planes = rng.standard_normal(shape).astype(np.float32)
        dtype = DTYPES[number % 3]
        target = torch.empty((1, *shape), dtype=dtype).to(memory_format=layout)
        staging.upload(planes, target)
        expected = torch.from_numpy(planes).to(dtype).float().numpy()
        results.append((staging.download(target), expected))
    assert queue.buffers[:4] == [1 << 12] * 4 and len(queue.buffers) <= 8  # one row was wider
    for found, expected in results:  # later ones have left the earlier ones alone
        assert np.array_equal(found, expected)


def test_planes_that_are_a_part_of_others_arrive(rng: np.random.Generator) -> None:
    whole = rng.standard_normal((4, 30, 40)).astype(np.float32)
    part = whole[:, 3:20, 5:31]
    staging = Staging(LateQueue(), 1000)
    target = torch.empty((1, *part.shape))
    staging.upload(part, target)
    assert np.array_equal(staging.download(target), part)


def test_after_a_copy_that_failed_the_buffers_serve_again(rng: np.random.Generator) -> None:
    class Failing(LateQueue):
        fails = True

        @contextmanager
        def copying(self) -> Iterator[None]:
            with super().copying():
                yield
            if self.fails and len(self.copies) == 3:
                raise RuntimeError("CUDA out of memory")

    queue = Failing()
    staging = Staging(queue, 64)
    planes = rng.standard_normal((1, 8, 8)).astype(np.float32)
    with pytest.raises(RuntimeError, match="out of memory"):
        staging.upload(planes, torch.empty((1, 1, 8, 8)))
    assert queue.done == len(queue.copies)  # the target's memory may go
    queue.fails = False
    target = torch.empty((1, 1, 8, 8))
    staging.upload(planes, target)
    assert np.array_equal(staging.download(target), planes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_devices_are_only_mixed_by_copies_that_do_not_wait(dtype: torch.dtype) -> None:
    class Asked(LateQueue):
        @contextmanager
        def copying(self) -> Iterator[None]:
            with LateCopies(self.copies):
                yield
            target, source = self.copies[-1]
            assert {target.device, source.device} == {torch.device("cpu"), META}
            assert target.dtype == source.dtype and target.stride()[1:] == source.stride()[1:]

        def do_until(self, place: int) -> None:
            self.done = place

    queue = Asked()
    target = torch.empty((1, 4, 20, 24), dtype=dtype, device=META)
    target = target.to(memory_format=torch.channels_last)
    with OneDevice() as mode:
        staging = Staging(queue, 1 << 10)
        staging.upload(np.zeros((4, 20, 24), np.float32), target)
        assert staging.download(target).shape == (4, 20, 24)
    assert len(queue.copies) >= 8 and mode.copied == []


# ---------------------------------------------------------------- in the engine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gia-net", "sid-net"])
def test_an_engine_makes_the_same_with_and_without(
    name: Any, dtype: NumberFormat, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = lively(small(name))
    planes = rng.random((4, 64, 96), np.float32)

    def pictures(engine: TorchEngine) -> list[np.ndarray]:
        whole = engine.run(planes, lambda share: None)
        terms: list[Any] = []
        for index in range(len(engine.vector_halos)):
            measured = engine.measure(engine.encode(planes), terms)
            terms.append(engine.global_term(index, measured.mean(axis=(1, 2), dtype=np.float64)))
        return [whole, engine.render(engine.encode(planes), terms)]

    expected = pictures(TorchEngine(network, Runtime("cpu", dtype)))
    queue = LateQueue()
    monkeypatch.setattr(
        "gia_cli.inference.torch_engine._staging_for", lambda runtime: Staging(queue, 1 << 10)
    )
    found = pictures(TorchEngine(network, Runtime("cpu", dtype)))
    assert len(queue.copies) > 20
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


def test_where_nothing_can_be_pinned_copies_are_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    from gia_cli.inference import torch_engine

    def refuse(place: str) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch_engine, "CudaQueue", refuse)
    assert torch_engine._staging_for(Runtime("cuda", "float16", 1)) is None
    monkeypatch.setattr(torch_engine, "CudaQueue", lambda place: LateQueue())
    assert isinstance(torch_engine._staging_for(Runtime("cuda", "float16", 1)), Staging)
    assert torch_engine._staging_for(Runtime("cpu", "float32")) is None
    assert torch_engine._staging_for(Runtime("mps", "float32")) is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_card_gets_and_gives_every_number(
    dtype: torch.dtype, layout: torch.memory_format, rng: np.random.Generator
) -> None:
    staging = Staging(CudaQueue("cuda:0"), 1 << 16)
    for shape in (*SHAPES, (4, 700, 900)):
        planes = rng.standard_normal(shape).astype(np.float32)
        target = torch.empty((1, *shape), dtype=dtype, device="cuda:0", memory_format=layout)
        staging.upload(planes, target)
        doubled = target * 2  # in the card's own queue, behind the copies
        expected = torch.from_numpy(planes)[None].to(dtype)
        assert np.array_equal(staging.download(target), expected[0].float().numpy())
        assert np.array_equal(staging.download(doubled), (expected * 2)[0].float().numpy())


def test_what_is_abandoned_is_never_freed() -> None:
    """Freeing pinned memory calls CUDA, which after some errors ends the process."""
    freed = []
    for is_abandoned in (True, False):
        queue = LateQueue()
        staging = Staging(queue, 1 << 12)
        buffers = [*staging._up.buffers, *staging._down.buffers]
        alive = [ref(buffer) for buffer in buffers]
        if is_abandoned:
            staging.abandon()
        del staging, buffers, queue
        gc.collect()
        freed.append([each() is None for each in alive])
    assert freed == [[False] * 4, [True] * 4]
