"""Headers of anybody's files: checked before anything is read or allocated."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gia_cli.enhance.enhancer import Enhancer
from gia_cli.errors import (
    GiaError,
    WeightsCorruptError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.inference.openvino_engine import OpenVinoEngine
from gia_cli.nets import build
from gia_cli.nets.config import NETWORKS, NetConfig
from gia_cli.weights.header import read_header
from gia_cli.weights.manifest import (
    MANIFEST,
    find_quantized,
    find_weights,
    list_weights,
    shipped_quantized,
)
from gia_cli.weights.storage import (
    digest_of,
    load_arrays,
    load_network,
    most_numbers,
    read_verified,
    save_weights,
)
from tests.weights.files import SHIPPED, flip_bit, write_manifest

Header = dict[str, Any]


def write(path: Path, header: Header | bytes, body: bytes = b"") -> Path:
    """Write a safetensors file, whatever its header says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def stating(config: dict[str, Any] | None = None, **row: Any) -> Header:
    """A header's metadata of a small network, with something else in its row."""
    whole = {**NetConfig("gia-net", width=2, vector=3).to_json(), **(config or {})}
    return {"__metadata__": {"gia": json.dumps({"config": whole, **row})}}


def tensor(dtype: str, shape: list[Any], start: int, stop: int) -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def use(path: Path) -> None:
    """Do with a file all that enhancing and verifying do."""
    info = find_weights(path)
    OpenVinoEngine.load(info)
    load_network(info)


@contextmanager
def little_memory_taken(most: int = 100_000_000) -> Iterator[None]:
    """Fail if the block's address space grows by much more."""
    import resource

    def taken() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken() + most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


BALANCES: list[Any] = [[], [1, 2, 3, 4], "abc", {}, [1, 2, None], [1, 0, 1], [1, -1, 1]]
HOSTILE: dict[str, tuple[Header | bytes, bytes]] = {
    "nested": (b"[" * 200_000 + b"]" * 200_000, b""),
    "nested row": ({"__metadata__": {"gia": "[" * 200_000 + "]" * 200_000}}, b""),
    "wide": (stating({"width": 10**6}), b""),
    "large": (stating({"width": 1000}), b""),
    "long vector": (stating({"vector": 10**9}), b""),
    "width that is true": (stating({"width": True}), b""),
    "biases that are text": (stating({"upsample_bias": "no"}), b""),
    "F4": ({**stating(), "a": tensor("F4", [2], 0, 1)}, b"\1"),
    "F8": ({**stating(), "to_rgb.bias": tensor("F8_E8M0", [1], 0, 1)}, b"\1"),
    "format that is a list": (
        {**stating(), "a": {**tensor("F32", [], 0, 4), "dtype": []}},
        b"1234",
    ),
    "negative shape": ({**stating(), "a": tensor("F32", [-1, -1], 0, 4)}, b"1234"),
    "shape of text": ({**stating(), "a": tensor("F32", ["1"], 0, 4)}, b"1234"),
    "shape beyond the bytes": ({**stating(), "a": tensor("F32", [10**12], 0, 4)}, b"1234"),
    "bytes missing": ({**stating(), "a": tensor("F32", [2], 0, 8)}, b"1234"),
    "bytes left over": ({**stating(), "a": tensor("F32", [1], 0, 4)}, b"123456"),
    "a hole": ({**stating(), "a": tensor("F32", [1], 4, 8)}, b"12345678"),
    "an overlap": (
        {**stating(), "a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 2, 6)},
        b"123456",
    ),
    "offsets of text": (
        {**stating(), "a": {**tensor("F32", [1], 0, 4), "data_offsets": "04"}},
        b"",
    ),
    "a tensor that is a number": ({**stating(), "a": 3}, b""),
    "no tensors": (stating(), b""),
    "metadata that are a list": ({"__metadata__": [1]}, b""),
    **{f"balance {value!r}": (stating(daylight_wb=value), b"") for value in BALANCES},
    "balance beyond numbers": (stating(neutral_wb=[1, 1, 1e400]), b""),
    "balance of true": (stating(neutral_wb=[1, 1, True]), b""),
    "camera that is a list": (stating(camera=[1]), b""),
    "name that is a list": (stating(name=[1]), b""),
    "licence that is a number": (stating(licence=3), b""),
    "training that is a list": (stating(training=[1]), b""),
    "shares that are none": (stating(fusion={"luminance": [3], "chroma": []}), b""),
    "shares not a number": (stating(fusion={"luminance": ["nan"], "chroma": ["nan"]}), b""),
    "encoding that is a list": (stating(encoding=["bt709"]), b""),
    "original without a digest": (stating(quantized_from={"name": "x", "sha256": 3}), b""),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", *HOSTILE[what])
    with little_memory_taken(), pytest.raises(WeightsMismatchError) as caught:
        use(path)
    assert caught.value.exit_code == 43
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000 + len(str(path))


@pytest.mark.parametrize("network", NETWORKS)
def test_no_network_is_larger_than_the_bound(network: str) -> None:
    for config in (NETWORKS[network], replace(NETWORKS[network], width=2, vector=2)):
        numbers = sum(x.numel() for x in build(config).state_dict().values())
        assert numbers < most_numbers(config)


@pytest.mark.skipif(sys.platform == "win32", reason="holes in files")
def test_gigabytes_that_fit_no_network_are_not_read(tmp_path: Path) -> None:
    """A header may be true of its file, which may be a large one that takes no disk."""
    size = 4_000_000_000
    header = {**stating(), "junk": tensor("F32", [size // 4], 0, size)}
    path = write(tmp_path / "x.safetensors", header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    info = find_weights(path)
    for load in (load_network, load_arrays):
        with (
            little_memory_taken(),
            pytest.raises(WeightsMismatchError, match=r"is missing|too many"),
        ):
            load(info)


def test_weights_of_whole_numbers_are_refused(saved: tuple[Path, dict[str, Any]]) -> None:
    path, _ = saved
    whole = path.read_bytes()
    assert b'"dtype":"F16"' in whole
    path.write_bytes(whole.replace(b'"dtype":"F16"', b'"dtype":"I16"'))
    with pytest.raises(WeightsMismatchError, match="has the number format I16"):
        load_network(find_weights(path))


def test_a_header_is_read_as_it_was_written(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    header = read_header(path)
    assert json.loads(header.metadata["gia"])["config"] == row["config"]
    network = load_network(find_weights(path))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert {name: value.shape for name, value in header.tensors.items()} == shapes


# ---------------------------------------------------------------- manifests


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../small.safetensors"},
        {"file": "/dev/zero"},
        {"file": "sub/small.safetensors"},
        {"file": ""},
        {"file": 3},
        {"bytes": -1},
        {"bytes": "1"},
        {"sha256": "abc"},
        {"sha256": 3},
        {"daylight_wb": [1, 2]},
        {"camera": [1]},
        {"training": 3},
    ],
)
def test_a_row_that_is_none_is_refused(
    change: dict[str, Any], saved: tuple[Path, dict[str, Any]]
) -> None:
    path, row = saved
    write_manifest(path.parent, {**row, **change})
    with pytest.raises(WeightsError, match=r"manifest\.json is not a manifest"):
        list_weights(path.parent)


def test_a_manifest_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="is not a manifest of weights: nested too deeply"):
        list_weights(tmp_path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device without end")
def test_devices_and_pipes_are_not_read(saved: tuple[Path, dict[str, Any]]) -> None:
    """They may have no end, or keep their reader waiting for ever."""
    path, row = saved
    write_manifest(path.parent, row)
    info = find_weights(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(WeightsNotFoundError, match="not a regular file"):
        read_verified(info)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsNotFoundError, match="not a regular file"):
        read_verified(info)
    manifest = path.with_name(MANIFEST)
    for replacement in ("/dev/zero", path):
        manifest.unlink()
        manifest.symlink_to(replacement)
        with pytest.raises(WeightsError, match="not a regular file"):
            list_weights(path.parent)


def test_a_file_is_not_read_beyond_what_its_row_states(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    write_manifest(path.parent, row)
    info = find_weights(path)
    with path.open("r+b") as file:
        file.truncate(4_000_000_000)
    with little_memory_taken(), pytest.raises(WeightsCorruptError, match="4000000000 bytes"):
        read_verified(info)
    path.with_name(MANIFEST).unlink()
    with little_memory_taken(), pytest.raises(GiaError):
        use(path)


# ---------------------------------------------------------------- what is named is what is run


@pytest.fixture
def flipped(tmp_path: Path) -> Path:
    """A copy of shipped weights and manifest in another folder, with one bit flipped."""
    shipped = find_weights(SHIPPED)
    for path in (shipped.path, shipped.path.with_name(MANIFEST)):
        shutil.copyfile(path, tmp_path / path.name)
    flip_bit(tmp_path / shipped.path.name, at=1_000_000)
    return tmp_path / shipped.path.name


def test_int8_weights_are_not_chosen_by_a_promise(flipped: Path) -> None:
    """They would be run in the place of a file that nobody has looked at."""
    info = find_weights(flipped)
    assert info.sha256 == find_weights(SHIPPED).sha256
    for choose in (shipped_quantized, find_quantized, digest_of):
        with pytest.raises(WeightsCorruptError):
            choose(info)
    with pytest.raises(WeightsCorruptError):
        Enhancer.from_weights(flipped, device="cpu").weights_for("bayer")


def test_int8_weights_of_a_whole_copy_are_chosen(flipped: Path) -> None:
    flip_bit(flipped, at=1_000_000)  # back
    info, shipped = find_weights(flipped), find_weights(SHIPPED)
    assert info.path != shipped.path
    assert shipped_quantized(info) == shipped_quantized(shipped) is not None


@pytest.mark.slow
def test_the_command_refuses_a_flipped_copy(flipped: Path, tmp_path: Path, make_arw: Any) -> None:
    command = [sys.executable, "-m", "gia_cli", "enhance", str(make_arw()), "-w", str(flipped)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out.tif")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 42, done.stderr
    assert not (tmp_path / "out.tif").exists()


def test_a_saved_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build(NetConfig("gia-net", width=2, vector=3)), daylight_wb=(2.0, 1.0, 1.5))
    use(path)
