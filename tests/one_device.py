"""A GPU's rules, held up on any machine: tensors of one device together, copies that do not wait.

Used with ``torch.device("meta")``, which has shapes and gradients of everything, but no numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices, and copies that a GPU's queue waits for.

    As CUDA does, it takes numbers (tensors without dimensions) of the CPU anywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[tuple[int, ...]] = []
        self.first: list[tuple[int, ...]] = []
        """Shapes of what was copied to another device, and of those before all else there."""
        self._has_computed = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the devices of what goes in and what comes out."""
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        devices = {x.device for x in tensors if x.device == META or x.dim()}
        if len(devices) > 1:
            self._check_copy(func, args, kwargs or {})
        elif META in devices:
            self._has_computed = True
        return result

    def _check_copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        assert func is torch.ops.aten._to_copy.default, f"{func} mixes devices"
        shape = tuple(args[0].shape)
        assert kwargs.get("non_blocking"), f"a copy of {shape} waits for the device"
        self.copied.append(shape)
        if not self._has_computed:
            self.first.append(shape)
