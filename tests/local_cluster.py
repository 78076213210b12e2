"""A cluster of this machine's own, which the tests of a module share: the fixture `two_workers`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gia_cli.cluster import driver
from gia_cli.cluster.ray_pool import RayOptions, connected

TWO = RayOptions("local", workers=2)


@contextmanager
def two_workers() -> Iterator[None]:
    """Start it, and let all drivers that are in this process find it."""
    pytest.importorskip("ray")
    with connected(TWO) as ray, pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def same(options: RayOptions) -> Iterator[Any]:
            yield ray

        patch.setattr(driver, "connected", same)
        yield
