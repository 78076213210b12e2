"""What all engines share."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from gia_cli.inference.engine import Compiled
from gia_cli.runtime import is_oom_error


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("Check 'ptr' failed\nFailed to allocate 387903664 bytes of memory"), True),
        (RuntimeError("Exception from plugin.cpp:54:\ncan't alloc\n"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("Exception from plugin.cpp:54:\nResource temporarily unavailable\n"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("Shape inference failed"), False),
    ],
)
def test_want_of_memory_is_recognised_by_its_words(error: Exception, is_memory: bool) -> None:
    assert is_oom_error(error) == is_memory


def test_the_model_that_was_not_wanted_for_longest_goes_first() -> None:
    made: list[str] = []

    def make(name: str) -> Callable[[], str]:
        def compile_it() -> str:
            made.append(f"{name} beside {held.models}")
            return name

        return compile_it

    held: Compiled[str] = Compiled(2)
    assert held.get("whole", (1, 1), make("a")) == "a"
    assert held.get("whole", (2, 2), make("b")) == "b"
    assert held.get("whole", (1, 1), make("not again")) == "a"
    assert held.get("render", (1, 1), make("c")) == "c"  # b has gone, and before c came
    assert made == ["a beside []", "b beside ['a']", "c beside ['a']"]
    assert held.parts == ["whole", "render"]
    held.clear()
    assert not held.models
    assert (Compiled.on("cpu").most, Compiled.on("intel-gpu").most) == (1, 2)
