"""One code for NumPy's arrays and torch's tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch

from gia_cli.imaging import arrays
from gia_cli.imaging.arrays import (
    as_index,
    brought,
    empty,
    fetched,
    in_bands,
    namespace,
    through,
    work_there,
)
from tests.one_device import META

HERE = np.ones((2, 3), np.float32)


def test_an_array_says_what_computes_with_it() -> None:
    assert namespace(HERE) is np
    assert namespace(torch.ones(3)) is torch


def test_no_torch_is_loaded_for_arrays_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    assert namespace(HERE) is np
    assert brought(HERE, HERE) is HERE and fetched(HERE) is HERE


def test_what_is_made_lies_where_the_other_one_does() -> None:
    for like in (HERE, torch.ones(2), torch.empty(2, device=META)):
        for made in (empty((4, 5), like), brought(HERE, like)):
            assert type(made) is type(like)
            assert made.device == like.device
        assert empty((4, 5), like).shape == (4, 5)
        assert str(empty((4, 5), like).dtype).endswith("float32")


def test_numbers_come_back_as_they_went() -> None:
    there = brought(HERE, torch.ones(1))
    np.testing.assert_array_equal(fetched(there), HERE)


def test_an_index_is_cut_to_whole_numbers() -> None:
    values = np.array([0, 0.9, 1.5, 7.99], np.float32)
    for found in (as_index(values), as_index(torch.from_numpy(values))):
        assert found.tolist() == [0, 0, 1, 7]
    assert np.arange(9)[as_index(values)].tolist() == [0, 0, 1, 7]


@pytest.mark.parametrize("like", [HERE, torch.ones(1)])
def test_every_band_is_worked_on_once(like: object, monkeypatch: pytest.MonkeyPatch) -> None:
    threaded: list[bool] = []

    def in_threads(work: Callable[[slice], None], rows: Iterable[slice]) -> Iterator[None]:
        threaded.append(True)
        return map(work, rows)

    monkeypatch.setattr(arrays, "in_threads", in_threads)
    seen: list[slice] = []
    bands = [slice(at, at + 2) for at in range(0, 10, 2)]
    in_bands(seen.append, iter(bands), like)
    assert seen == bands
    assert bool(threaded) is (like is HERE)  # a device has one queue


def test_what_a_device_has_changed_replaces_it() -> None:
    values = np.zeros((2, 5), np.float32)[:, :3]  # no whole array
    work_there(lambda there: there.add_(2), values, "cpu")
    assert (values == 2).all()


def test_what_fails_on_a_device_changes_nothing() -> None:
    def work(there: torch.Tensor) -> None:
        there += 1
        raise RuntimeError

    values = HERE.copy()
    with pytest.raises(RuntimeError):
        work_there(work, values, "cpu")
    np.testing.assert_array_equal(values, HERE)


def test_sixteen_bits_without_a_sign_keep_their_values() -> None:
    values = np.array([[0, 1, 32767, 32768, 65535]], np.uint16)
    assert brought(values, torch.ones(1)).tolist() == values.tolist()


def test_a_matrix_goes_through_planes(rng: np.random.Generator) -> None:
    matrix, planes = rng.normal(size=(2, 3)), rng.normal(size=(3, 4, 5)).astype(np.float32)
    expected = np.einsum("ij,jhw->ihw", matrix, planes)
    np.testing.assert_allclose(through(matrix, planes), expected, atol=1e-6)
    there = through(matrix, torch.from_numpy(planes))
    np.testing.assert_allclose(there.numpy(), expected, atol=1e-6)
