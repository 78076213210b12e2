"""What torch holds and launches while a network runs, worked out with tensors on "meta"."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_VIEWS = {"slice", "select", "view", "detach", "alias", "expand", "split", "unsqueeze"}


class LiveMemory(TorchDispatchMode):
    """Adds up the tensors that are alive after each operation; for a block of code.

    Memory that operations take for themselves, and that is gone when they end, is not seen.
    """

    def __init__(self, *inputs: torch.Tensor) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak: int = 0
        """Bytes at most, of `inputs` and all that is made of them."""
        self.launches = 0
        """Operations that compute something."""
        self._see(inputs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.launches += func.overloadpacket.__name__ not in _VIEWS
        self._see(result)
        return result

    def _see(self, tensors: Any) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                del storage
        gone = [key for key, (alive, _) in self._live.items() if alive.expired()]
        for key in gone:
            del self._live[key]
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
