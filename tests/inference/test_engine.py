"""What all engines share."""

from __future__ import annotations

import errno

import pytest

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
