"""OpenVINO without its telemetry; the one place that imports it.

Merely importing OpenVINO 2026 reports the import over the network under a client id that it keeps
in the home folder, unless the user has opted out. A program for private photos does no such thing:
the package that reports is hidden meanwhile, which OpenVINO takes for not being installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: The package that reports.
REPORTER = "openvino_telemetry"


@contextmanager
def hidden(package: str = REPORTER) -> Iterator[None]:
    """Make importing a package fail, unless somebody has imported it already."""
    is_absent = package not in sys.modules
    if is_absent:
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if is_absent:
            del sys.modules[package]


with hidden():
    import openvino
    from openvino import opset13

__all__ = ["openvino", "opset13"]
