"""What NumPy's arrays and torch's tensors have in common, so that one code computes with both.

On a CPU pictures are worked on in NumPy: torch would have to be imported for it, which takes longer
than a photo's fusion. Where torch has computed a picture on a GPU, the same lines run there. So
they keep to what both call the same: operators, slices, and functions with an ``out``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gia_cli.runtime import in_threads

#: An array of NumPy, or a tensor of torch.
Array: TypeAlias = Any


def namespace(values: Array) -> Any:
    """Return the module that computes with an array: ``numpy``, or ``torch`` for a tensor.

    Examples
    --------
    >>> namespace(np.zeros(3)).__name__
    'numpy'
    """
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch


def empty(shape: tuple[int, ...], like: Array) -> Array:
    """Make an array of float32 of any content, where another one lies."""
    xp = namespace(like)
    return xp.empty(shape, dtype=xp.float32, device=like.device)


def brought(values: np.ndarray[Any, Any], like: Array) -> Array:
    """Bring numbers of the host to where another array lies; NumPy's stay as they are."""
    if namespace(like) is np:
        return values
    import torch

    is_wide = values.dtype == np.uint16  # which torch computes with on few devices
    there = torch.tensor(values.view(np.int16) if is_wide else values)
    there = there.to(like.device, non_blocking=True)
    return there.int() & 0xFFFF if is_wide else there


def fetched(values: Array) -> Any:
    """Bring an array to the host, as NumPy's."""
    return values if namespace(values) is np else values.cpu().numpy()


def is_torch_on_cuda() -> bool:
    """Tell whether torch computes on a card of Nvidia's; it is loaded then."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def work_there(work: Callable[[Array], None], values: NDArray[np.float32], place: str) -> None:
    """Change an array on a device: a copy of it, which replaces it when all is done.

    Parameters
    ----------
    work : function
        Changes what it is given in its place.
    values : float32
    place : str
        The device as torch names it.
    """
    import torch

    host = torch.from_numpy(values)
    there = torch.empty(host.shape, dtype=host.dtype, device=place).copy_(host)
    work(there)
    host.copy_(there)


def tells(condition: Array) -> bool:
    """Ask for a yes or no; on a device that waits until all before is computed."""
    return bool(condition)


def as_index(values: Array) -> Array:
    """Cut numbers above zero to whole ones, to index with."""
    return values.astype(np.intp) if namespace(values) is np else values.long()


def mixed(weights: NDArray[np.floating], planes: Array) -> Array:
    """Sum planes, (n, ...), by weights, (n,).

    Examples
    --------
    >>> mixed(np.array([0.5, 2]), np.array([[2.0, 4], [1, 1]]))
    array([3., 4.])
    """
    # No matrix product: BLAS has threads of its own, which stand in the way of the bands'.
    total = planes[0] * float(weights[0])
    for weight, plane in zip(weights[1:], planes[1:], strict=True):
        total += plane * float(weight)
    return total


def through(matrix: NDArray[np.floating], planes: Array) -> Array:
    """Bring planes, (n, ...), through a matrix, (m, n): (m, ...) float32."""
    found = empty((len(matrix), *planes.shape[1:]), planes)
    for plane, weights in zip(found, matrix, strict=True):
        plane[:] = mixed(weights, planes)
    return found


def in_bands(work: Callable[[slice], None], rows: Iterable[slice], like: Array) -> None:
    """Work on bands of rows: in threads on the host, one after the other on a device."""
    for _ in in_threads(work, rows) if namespace(like) is np else map(work, rows):
        pass
