"""Named arrays to build a graph from: each must fit, and none may be left over."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gia_cli.errors import WeightsMismatchError


class NamedArrays:
    """Named arrays that must be used up: what is missing, misshapen or left over is an error.

    Parameters
    ----------
    arrays : dict
        Emptied: each becomes fp32 when it is first taken.
    origin : str
        Begins the error messages: which file, for which network.
    """

    def __init__(self, arrays: dict[str, NDArray[np.generic]], origin: str) -> None:
        self.untouched = arrays
        self.taken: dict[str, NDArray[Any]] = {}
        self._origin = origin

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return an array as fp32.

        Raises
        ------
        WeightsMismatchError
            It is not there, is not of floats, has another shape or holds a number that is not
            finite.
        """
        array = self.take_as(name, shape, np.floating, np.float32)
        if not np.isfinite(array).all():
            raise self.mismatch(f"{name} holds a number that is not finite")
        return array

    def check_all_used(self) -> None:
        """Raise `WeightsMismatchError` if an array belongs to no part of the network."""
        if self.untouched:
            names = sorted(self.untouched)[:3]
            raise self.mismatch("; ".join(f"{name} is left over" for name in names))

    def take_as(
        self, name: str, shape: tuple[int, ...], kind: type[np.generic], dtype: type[np.generic]
    ) -> NDArray[Any]:
        """Return an array of some kind of numbers in a number format; raises as `take`."""
        if name in self.untouched:
            if not np.issubdtype(self.untouched[name].dtype, kind):
                raise self.mismatch(f"{name} is of {self.untouched[name].dtype}")
            with np.errstate(over="ignore"):  # what is infinite then is refused
                self.taken[name] = np.ascontiguousarray(self.untouched.pop(name), dtype)
        elif name not in self.taken:
            raise self.mismatch(f"{name} is missing")
        array = self.taken[name]
        if array.shape != shape:
            raise self.mismatch(f"{name} has shape {array.shape}, not {shape}")
        return array

    def mismatch(self, problem: str) -> WeightsMismatchError:
        """Make the error that says what is wrong with which file."""
        return WeightsMismatchError(f"{self._origin}: {problem}.")
