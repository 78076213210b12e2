"""gia: clean, bright pictures from RAW photos taken in near darkness.

The public names load on first use, so that ``import gia_cli`` stays cheap::

    from gia_cli import Enhancer

    Enhancer.from_weights().enhance("night.ARW").save("night.tif")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gia_cli._version import __version__

if TYPE_CHECKING:
    from gia_cli.enhance.enhancer import Enhancer
    from gia_cli.enhance.exposure import ExposureRequest, RatioChoice
    from gia_cli.enhance.stages import Enhanced
    from gia_cli.errors import GiaError
    from gia_cli.imaging.save_options import SaveOptions
    from gia_cli.raw.reader import RawFrame, read_raw

_HOMES = {
    "Enhanced": "enhance.stages",
    "Enhancer": "enhance.enhancer",
    "ExposureRequest": "enhance.exposure",
    "GiaError": "errors",
    "RatioChoice": "enhance.exposure",
    "RawFrame": "raw.reader",
    "SaveOptions": "imaging.save_options",
    "read_raw": "raw.reader",
}

__all__ = [
    "Enhanced",
    "Enhancer",
    "ExposureRequest",
    "GiaError",
    "RatioChoice",
    "RawFrame",
    "SaveOptions",
    "__version__",
    "read_raw",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gia_cli' has no attribute '{name}'")
    return getattr(import_module(f"gia_cli.{_HOMES[name]}"), name)
