"""Files of weights: damage is found, what does not fit is refused, saving keeps all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gia_cli.errors import (
    OutputError,
    WeightsCorruptError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.config import NETWORKS, NetConfig
from gia_cli.raw.cfa import CfaKind
from gia_cli.weights.manifest import MANIFEST, find_weights, list_weights
from gia_cli.weights.storage import load_network, read_verified, save_weights
from tests.networks import ALL, lively, small
from tests.weights.files import SHIPPED, SMALL, SMALL_XTRANS, Tensors, flip_bit, write_manifest


def test_one_flipped_bit_of_the_shipped_file_is_found(tmp_path: Path) -> None:
    shipped = find_weights(SHIPPED)
    for name in (MANIFEST, shipped.path.name):
        shutil.copyfile(shipped.path.parent / name, tmp_path / name)
    copied = next(row for row in list_weights(tmp_path) if row.name == SHIPPED)
    assert copied.path == tmp_path / shipped.path.name
    read_verified(copied)
    flip_bit(copied.path, at=shipped.path.stat().st_size // 2)
    actual = hashlib.sha256(copied.path.read_bytes()).hexdigest()
    with pytest.raises(WeightsCorruptError) as caught:
        load_network(copied)
    assert caught.value.exit_code == 42
    assert actual in caught.value.message
    assert str(shipped.sha256) in caught.value.message
    assert str(copied.path) in caught.value.message


@pytest.mark.parametrize("at", [0, 8, 100, -1])
def test_a_flipped_bit_anywhere_is_found(at: int, saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    write_manifest(path.parent, row)
    load_network(find_weights(path))
    flip_bit(path, at)
    with pytest.raises(WeightsCorruptError):
        load_network(find_weights(path))


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(share: float, saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    write_manifest(path.parent, row)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsCorruptError):
        load_network(find_weights(path))
    (path.parent / MANIFEST).unlink()
    with pytest.raises(WeightsMismatchError):  # nothing to verify it with, but it does not fit
        load_network(find_weights(path))


def test_a_manifest_without_its_file_says_so(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    write_manifest(path.parent, row)
    (info,) = list_weights(path.parent)
    path.unlink()
    with pytest.raises(WeightsNotFoundError, match=r"small\.safetensors") as caught:
        load_network(info)
    assert caught.value.exit_code == 41


def missing(tensors: Tensors) -> None:
    del tensors["gia.shrink.weight"]


def left_over(tensors: Tensors) -> None:
    tensors["gia.extra.weight"] = torch.zeros(3)


def wrong_shape(tensors: Tensors) -> None:
    tensors["to_rgb.bias"] = torch.zeros(27)


def transposed(tensors: Tensors) -> None:
    weight = tensors["gia.shrink.weight"]
    tensors["gia.shrink.weight"] = weight.transpose(0, 1).contiguous()


def not_a_number(tensors: Tensors) -> None:
    tensors["encoder.2.0.weight"][1, 0, 2, 2] = float("nan")


def infinite(tensors: Tensors) -> None:
    tensors["encoder.2.0.bias"][0] = float("-inf")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (missing, r"gia\.shrink\.weight is missing"),
        (left_over, r"gia\.extra\.weight is left over"),
        (wrong_shape, r"to_rgb\.bias has shape \(27,\), not \(12,\)"),
        (transposed, r"gia\.shrink\.weight has shape \(32, 3, 1, 1\), not \(3, 32, 1, 1\)"),
        (not_a_number, r"encoder\.2\.0\.weight holds a number that is not finite"),
        (infinite, r"encoder\.2\.0\.bias holds a number that is not finite"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_tensors_that_do_not_fit_are_refused(
    spoil: Callable[[Tensors], None],
    reason: str,
    dtype: torch.dtype,
    network: Network,
    tmp_path: Path,
) -> None:
    path = tmp_path / "own.safetensors"
    header = {"gia": json.dumps({"config": SMALL.to_json()})}
    tensors = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(tensors, header))
    load_network(find_weights(path))  # it fits, up to here
    spoil(tensors)
    path.write_bytes(safetensors.torch.save(tensors, header))
    with pytest.raises(WeightsMismatchError, match=reason) as caught:
        load_network(find_weights(path))
    assert caught.value.exit_code == 43
    assert str(path) in caught.value.message


def test_a_double_beyond_single_precision_is_refused(network: Network, tmp_path: Path) -> None:
    """It is finite in the file, and was infinite in the network."""
    path = tmp_path / "own.safetensors"
    header = {"gia": json.dumps({"config": SMALL.to_json()})}
    tensors = {name: tensor.double() for name, tensor in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(tensors, header))
    load_network(find_weights(path))
    tensors["encoder.2.0.bias"][0] = 1e300
    path.write_bytes(safetensors.torch.save(tensors, header))
    with pytest.raises(WeightsMismatchError, match=r"encoder\.2\.0\.bias holds a number that"):
        load_network(find_weights(path))


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, network="sid-net"),
        replace(SMALL, cfa="xtrans"),
        replace(SMALL, width=3),
        replace(SMALL, vector=4),
        replace(SMALL, upsample_bias=False),
    ],
)
def test_weights_of_another_configuration_are_refused(
    config: NetConfig, saved: tuple[Path, dict[str, Any]]
) -> None:
    path, row = saved
    write_manifest(path.parent, {**row, "config": config.to_json()})
    with pytest.raises(WeightsMismatchError, match="does not fit"):
        load_network(find_weights(path))


def test_a_file_that_is_no_safetensors_is_refused(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    junk = b"PK\x03\x04" + bytes(2000)
    path.write_bytes(junk)
    digest = hashlib.sha256(junk).hexdigest()
    write_manifest(path.parent, {**row, "sha256": digest, "bytes": len(junk)})
    with pytest.raises(WeightsMismatchError, match="not a safetensors file"):
        load_network(find_weights(path))


@pytest.mark.parametrize(
    ("name", "config"),
    [("bayer", SMALL), ("xtrans", SMALL_XTRANS), ("plain", NetConfig("sid-net", width=4))],
)
def test_saved_weights_load_from_their_header_alone(
    name: str, config: NetConfig, tmp_path: Path
) -> None:
    network = build(config)
    path = tmp_path / f"{name}.safetensors"
    row = save_weights(
        path, network, camera="TEST-1", daylight_wb=[2.0, 1.0, 1.5], licence="CC0-1.0"
    )
    info = find_weights(path)
    assert (info.name, info.path, info.config) == (name, path, config)
    assert (info.camera, info.daylight_wb, info.licence) == ("TEST-1", (2.0, 1.0, 1.5), "CC0-1.0")
    assert (info.sha256, info.size) == (None, None)
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert row["bytes"] == path.stat().st_size
    loaded = load_network(info).state_dict()
    for key, tensor in network.state_dict().items():
        # fp16 has 11 significant bits; below 6e-5 its step is a fixed 6e-8.
        torch.testing.assert_close(loaded[key], tensor, rtol=2**-11, atol=6e-8)


def test_saving_what_was_loaded_changes_nothing(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    again = path.parent / "again" / path.name
    again.parent.mkdir()
    assert save_weights(again, load_network(find_weights(path)), camera="TEST-1") == row
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_every_network_survives_saving(name: str, cfa: CfaKind, tmp_path: Path) -> None:
    """Parameters in fp16; a counter and statistics beyond its range as they are."""
    network = lively(small(name, cfa))
    for buffer, value in network.named_buffers():
        value.fill_(1_000_003 if buffer.endswith("num_batches_tracked") else 123_456.7)
    path = tmp_path / "w.safetensors"
    save_weights(path, network)
    loaded = load_network(find_weights(path))
    assert type(loaded) is type(network)
    parameters = {key for key, _ in network.named_parameters()}
    for key, tensor in loaded.state_dict().items():
        own = network.state_dict()[key]
        assert tensor.dtype == own.dtype
        assert torch.equal(tensor, own.half().float() if key in parameters else own), key
    assert path.stat().st_size < 2.2 * sum(p.numel() for p in network.parameters()) + 60_000


@pytest.mark.slow
@pytest.mark.parametrize("network_name", NETWORKS)
def test_bytes_do_not_depend_on_chance_or_layout(network_name: str, tmp_path: Path) -> None:
    metadata: dict[str, Any] = {"daylight_wb": [2.0, 1.0, 1.5], "licence": "CC0-1.0"}
    metadata["training"] = {"b": 1, "a": 2}
    digests = set()
    for run in range(4):
        torch.manual_seed(7)
        network = build(small(network_name))
        if run % 2:  # as `infer` leaves it
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            metadata = dict(reversed(metadata.items()))
        folder = tmp_path / str(run)
        folder.mkdir()
        digests.add(save_weights(folder / "w.safetensors", network, **metadata)["sha256"])
    assert len(digests) == 1


def test_saving_leaves_the_network_as_it_is(network: Network, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_weights(tmp_path / "w.safetensors", network)
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_files_mode_respects_the_umask(mask: int, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    before = os.umask(mask)
    try:
        save_weights(path, network)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_saving_replaces_a_whole_file_or_nothing(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    row = save_weights(path, network)
    assert path.stat().st_size == row["bytes"]
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError):
        save_weights(tmp_path / "none" / "w.safetensors", network)
    assert list(tmp_path.iterdir()) == [path]
