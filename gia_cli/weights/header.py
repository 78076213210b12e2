"""What a file of weights says of itself, read with care: it may be anybody's.

Nothing is believed before it is checked, and nothing is read without a bound: a header is short, it
describes the very bytes that follow, and a file is no pipe and no device.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from gia_cli.errors import WeightsMismatchError
from gia_cli.files import open_plain

_MAX_JSON = 8_000_000  # bytes; what gia writes has some ten thousand
_LENGTH_BYTES = 8
#: Bytes of a number, by safetensors' names of those formats that NumPy and torch both have.
NUMBER_BYTES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8},
    **{"F16": 2, "BF16": 2, "F32": 4, "F64": 8},
}
FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor, as the header describes it."""

    dtype: str
    """A key of `NUMBER_BYTES`."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """A safetensors header that describes its file exactly."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_json(path: Path) -> Any:
    """Read a JSON file of bounded size.

    Raises
    ------
    OSError, ValueError
        It cannot be read, or is no such file.
    """
    with open_plain(path) as (file, size):
        if size > _MAX_JSON:
            raise ValueError(f"it has {size} bytes")
        return _parsed(file.read(_MAX_JSON))


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, and nothing else of it.

    Raises
    ------
    OSError
        It cannot be read.
    WeightsMismatchError
        It does not describe the file.
    """
    with open_plain(path) as (file, size):
        return _read(file, size, path)


def header_of(data: bytes, path: Path) -> Header:
    """Read the header of a safetensors file that has been read; errors as `read_header`."""
    return _read(io.BytesIO(data), len(data), path)


def _read(file: BinaryIO, size: int, path: Path) -> Header:
    try:
        (length,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
        body = size - _LENGTH_BYTES - length
        if length > _MAX_JSON or body < 0:
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        values = _parsed(file.read(length))
        metadata = values.pop("__metadata__", {})
        tensors = {name: _tensor(name, value) for name, value in values.items()}
        _check_extents(values, tensors, body)
        if not isinstance(metadata, dict):
            raise ValueError("metadata that are no table")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else "a broken header"
        raise WeightsMismatchError(f"{path} is not a safetensors file: {reason}.") from error
    return Header(metadata, tensors)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON ({error})") from error


def _tensor(name: str, value: dict[str, Any]) -> TensorInfo:
    dtype, shape = value["dtype"], value["shape"]
    if not isinstance(dtype, str) or dtype not in NUMBER_BYTES:
        raise ValueError(f"{name} has a number format that gia does not know")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{name} has an impossible shape")
    return TensorInfo(dtype, tuple(shape))


def _check_extents(values: dict[str, Any], tensors: dict[str, TensorInfo], body: int) -> None:
    """Check that the tensors, one behind the other, are just what follows the header."""
    extents = sorted((tuple(value["data_offsets"]), name) for name, value in values.items())
    position = 0
    for (start, stop), name in extents:
        tensor = tensors[name]
        if start != position or stop - start != prod(tensor.shape) * NUMBER_BYTES[tensor.dtype]:
            raise ValueError(f"{name} is not where its shape and format say")
        position = stop
    if position != body:
        raise ValueError(f"{position} bytes of tensors are announced, {body} are there")
