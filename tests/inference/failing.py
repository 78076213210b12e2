"""A graphics card for the tests that fails as real ones do; it computes on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gia_cli.inference.engine import Meter
from gia_cli.inference.torch_engine import TorchEngine, _to_host
from gia_cli.nets.base import Network
from gia_cli.runtime import NumberFormat, Runtime

#: What a card makes of a picture, given the number format.
Damage = Callable[[Tensor, NumberFormat], Tensor]

STICKY = "CUDA error: an illegal memory access was encountered"


class Card(TorchEngine):
    """A `TorchEngine` that says it is on cuda:1."""

    def __init__(
        self, network: Network, damage: Damage, dtype: NumberFormat = "float16", runs: int = 0
    ) -> None:
        super().__init__(network, Runtime("cuda", dtype, 1))
        self.damage = damage
        self.good_runs = runs
        """So many pictures are as they should be."""
        self.calls = 0
        self._on_host = TorchEngine(network, Runtime("cpu", "float32"))

    def run(self, planes: NDArray[np.float32], meter: Meter) -> NDArray[np.float32]:
        return self._damaged(self._on_host.run(planes, meter))

    def encode(self, planes: NDArray[np.float32]) -> list[Tensor]:
        return self._on_host.encode(planes)

    def measure(self, features: list[Tensor], terms: Sequence[Tensor]) -> NDArray[np.float32]:
        return self._on_host.measure(features, terms)

    def global_term(self, index: int, mean: NDArray[np.float64]) -> Tensor:
        return self._on_host.global_term(index, mean)

    def render(self, features: list[Tensor], terms: Sequence[Tensor]) -> NDArray[np.float32]:
        return self._damaged(self._on_host.render(features, terms))

    def in_fp32(self) -> TorchEngine | None:
        """The same card."""
        if self._runtime.dtype == "float32":
            return None
        return Card(self._network, self.damage, "float32")

    def _damaged(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        """Do the damage on the way to the host, where a true card's would be seen."""
        self.calls += 1
        if self.calls <= self.good_runs:
            return picture
        return _to_host(self.damage(torch.from_numpy(picture)[None], self._runtime.dtype))


class SmallCard(Card):
    """Has too little memory above some area of what it reads."""

    def __init__(self, network: Network, area: int) -> None:
        super().__init__(network, fine, "float32")
        self.area = area
        self.asked: list[int] = []

    def run(self, planes: NDArray[np.float32], meter: Meter) -> NDArray[np.float32]:
        self._check(planes)
        return super().run(planes, meter)

    def encode(self, planes: NDArray[np.float32]) -> list[Tensor]:
        self._check(planes)
        return super().encode(planes)

    def _check(self, planes: NDArray[np.float32]) -> None:
        self.asked.append(planes[0].size)
        if self.asked[-1] > self.area:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def fine(picture: Tensor, dtype: NumberFormat) -> Tensor:
    """What fp16 rounds."""
    return picture.half() if dtype == "float16" else picture


def black_in_half(picture: Tensor, dtype: NumberFormat) -> Tensor:
    """GTX 16xx."""
    return picture * float("nan") if dtype == "float16" else picture


def black(picture: Tensor, dtype: NumberFormat) -> Tensor:
    return picture * float("inf")


def smeared(picture: Tensor, dtype: NumberFormat) -> Tensor:
    """A tenth of the rows repeat the one above them, in one channel."""
    picture = picture.clone()
    picture[:, 1, 64:96] = picture[:, 1, 63:64]
    return picture


def sticky(picture: Tensor, dtype: NumberFormat) -> Tensor:
    raise RuntimeError(f"{STICKY}\nCUDA kernel errors might be asynchronously reported ...")


def full(picture: Tensor, dtype: NumberFormat) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory.")
