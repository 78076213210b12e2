"""Weights: found by name, path, environment or digest, and verified before use."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gia_cli.errors import (
    NoWeightsForCfaError,
    OutputError,
    WeightsCorruptError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.nets import NETWORKS, NetConfig, build
from gia_cli.nets.base import Network
from gia_cli.raw.cfa import CfaKind
from gia_cli.weights import manifest as checkpoint
from gia_cli.weights.manifest import (
    ENVIRONMENT_VARIABLE,
    MANIFEST,
    WeightsInfo,
    find_quantised,
    find_weights,
    list_in_manifest,
    list_weights,
    load_network,
    read_verified,
    save_weights,
    weights_folder,
)
from tests.networks import ALL, DEFAULT, lively, small

SHIPPED = DEFAULT
SMALL = NetConfig("gia-net", "bayer", width=2, vector=3)
SMALL_XTRANS = NetConfig("sid-net", "xtrans", width=2, upsample_bias=False)

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return build(SMALL)


@pytest.fixture
def saved(network: Network, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A small file of weights and its manifest row."""
    path = tmp_path / "small.safetensors"
    return path, save_weights(path, network, camera="TEST-1")


def write_manifest(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps({"weights": list(rows)}), encoding="utf-8")


def flip_bit(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# ---------------------------------------------------------------- what ships


def test_shipped_weights_are_as_the_manifest_says() -> None:
    info, *_ = list_weights()
    assert info.name == SHIPPED
    mode = info.config.white_balance
    assert info.config == NetConfig("gia-net", "bayer", white_balance=mode)
    assert info.path.stat().st_size == info.size
    assert info.path.parent == weights_folder()
    assert info.encoding == "bt709"
    assert info.daylight_wb is not None
    assert info.daylight_wb[1] == 1
    assert info.licence
    assert info.training


def test_shipped_names_are_unique_and_their_files_verify() -> None:
    infos = list_weights()
    assert len({info.name for info in infos}) == len(infos)
    for info in infos:
        assert hashlib.sha256(read_verified(info)).hexdigest() == info.sha256


def test_shipped_weights_load() -> None:
    info = find_weights(SHIPPED)
    network = load_network(info)
    assert network.config == info.config
    assert not network.training
    stored = safetensors.torch.load(info.path.read_bytes())
    loaded = network.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name].float()) for name in stored)
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


def test_listing_and_finding_do_not_import_torch() -> None:
    code = (
        "import sys;"
        "from gia_cli.weights.manifest import find_weights, list_weights, read_verified;"
        f"list_weights(); read_verified(find_weights('{SHIPPED}', 'bayer'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---------------------------------------------------------------- damage


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


# ---------------------------------------------------------------- tensors that do not fit


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
    write_manifest(path.parent, {**row, "sha256": hashlib.sha256(junk).hexdigest()})
    with pytest.raises(WeightsMismatchError, match="not a safetensors file"):
        load_network(find_weights(path))


# ---------------------------------------------------------------- finding


@pytest.mark.parametrize("family", ["gia-sony", "gia-sony-wb", "gia-fuji"])
def test_a_name_without_its_version_means_what_ships(family: str) -> None:
    info = find_weights(family)
    assert re.fullmatch(family + r"-v\d+", info.name)
    assert info == next(row for row in list_weights() if re.fullmatch(family + r"-v\d+", row.name))


@pytest.mark.parametrize("wanted", ["gia", "gia-sony-", "gia-son.", ".*", "gia-sony-v"])
def test_half_a_name_means_nothing(wanted: str) -> None:
    with pytest.raises(WeightsNotFoundError, match="There are no weights"):
        find_weights(wanted)


def test_an_unknown_name_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    for wanted in ("gia-sony-v9", str(tmp_path / "none.safetensors"), str(tmp_path)):
        with pytest.raises(WeightsNotFoundError) as caught:
            find_weights(wanted)
        assert caught.value.exit_code == 41
        assert wanted in caught.value.message
        for info in list_weights():
            assert info.name in caught.value.message


def test_a_file_with_a_manifest_beside_it_takes_that_row(
    saved: tuple[Path, dict[str, Any]],
) -> None:
    path, row = saved
    assert find_weights(path).sha256 is None  # without a manifest there is nothing to verify with
    write_manifest(path.parent, {**row, "file": "other.safetensors"}, {**row, "name": "mine"})
    info = find_weights(path)
    assert (info.name, info.camera, info.path) == ("mine", "TEST-1", path)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.size == path.stat().st_size


def test_a_manifest_that_does_not_list_the_file_is_no_obstacle(
    saved: tuple[Path, dict[str, Any]],
) -> None:
    path, row = saved
    write_manifest(path.parent, {**row, "file": "other.safetensors", "name": "other"})
    info = find_weights(path)
    assert (info.name, info.sha256) == ("small", None)


def test_a_copy_of_shipped_weights_is_known_by_its_digest(tmp_path: Path) -> None:
    shipped = find_weights(SHIPPED)
    copy = tmp_path / "renamed.bin"
    shutil.copyfile(shipped.path, copy)
    assert find_weights(copy) == shipped
    assert find_weights(str(copy), "bayer") == shipped


def test_the_environment_names_the_default(
    saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = saved
    assert find_weights(None).name == SHIPPED
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    assert find_weights(None).path == path
    assert find_weights(None, "bayer").path == path
    assert find_weights(SHIPPED).name == SHIPPED  # what is asked for goes first
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    assert find_weights(None).name == SHIPPED
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "no-such-weights")
    with pytest.raises(WeightsNotFoundError, match="no-such-weights"):
        find_weights(None)


def ship(monkeypatch: pytest.MonkeyPatch, folder: Path, *rows: dict[str, Any]) -> None:
    """Let this folder be the one that gia ships."""
    write_manifest(folder, *rows)
    monkeypatch.setattr(checkpoint, "weights_folder", lambda: folder)


def test_the_default_is_the_first_that_fits_the_photo(
    saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, row = saved
    names = ("bayer", "bayer"), ("xtrans", "xtrans-1"), ("bayer", "late"), ("xtrans", "xtrans-2")
    rows = [{**row, "name": n, "config": {**row["config"], "cfa": cfa}} for cfa, n in names]
    ship(monkeypatch, path.parent, *rows)
    assert find_weights(None).name == "bayer"
    assert find_weights(None, "bayer").name == "bayer"
    assert find_weights(None, "xtrans").name == "xtrans-1"
    assert find_weights("xtrans-2", "xtrans").name == "xtrans-2"


def test_int8_weights_are_never_the_default(
    saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, row = saved
    (path.parent / MANIFEST).unlink(missing_ok=True)
    original = {"name": row["name"], "sha256": row["sha256"]}
    list_in_manifest(path.parent, {**row, "name": "int8", "quantised_from": original})
    monkeypatch.setattr(checkpoint, "weights_folder", lambda: path.parent)
    assert find_weights("int8").quantised_from is not None
    with pytest.raises(NoWeightsForCfaError):
        find_weights(None, find_weights("int8").config.cfa)
    list_in_manifest(path.parent, row)
    found = find_weights(None, find_weights("int8").config.cfa)
    assert found.name == row["name"]
    assert find_quantised(found).name == find_quantised(find_weights("int8")).name == "int8"


@pytest.mark.parametrize("original", [{}, {"name": "x"}, {"name": "x", "digest": "0"}, "x"])
def test_a_row_that_does_not_say_what_it_was_made_from_is_refused(
    original: Any, saved: tuple[Path, dict[str, Any]]
) -> None:
    path, row = saved
    manifest = {"weights": [{**row, "quantised_from": original}]}
    (path.parent / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match="is not a manifest"):
        list_weights(path.parent)


def test_without_weights_for_an_array_there_is_no_default(
    saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, row = saved
    ship(monkeypatch, path.parent, row)
    assert find_weights(None, "bayer").name == "small"
    with pytest.raises(NoWeightsForCfaError, match="xtrans") as caught:
        find_weights(None, "xtrans")
    assert caught.value.exit_code == 44
    assert "--weights" in caught.value.hint


def test_xtrans_has_no_default_unless_weights_for_it_ship() -> None:
    if "xtrans" in {info.config.cfa for info in list_weights()}:
        assert find_weights(None, "xtrans").config.cfa == "xtrans"
    else:
        with pytest.raises(NoWeightsForCfaError):
            find_weights(None, "xtrans")


def test_weights_for_the_other_array_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fuji.safetensors"
    save_weights(path, build(SMALL_XTRANS))
    assert find_weights(path, "xtrans").config == SMALL_XTRANS
    for wanted, kind in ((str(path), "bayer"), (SHIPPED, "xtrans")):
        with pytest.raises(NoWeightsForCfaError, match=r"bayer.*xtrans|xtrans.*bayer") as caught:
            find_weights(wanted, kind)  # type: ignore[arg-type]
        assert caught.value.exit_code == 44
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    with pytest.raises(NoWeightsForCfaError):
        find_weights(None, "bayer")


# ---------------------------------------------------------------- broken manifests and headers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"weights": 3}',
        '{"weights": [3]}',
        '{"weights": ["gia"]}',
        '{"weights": {"name": "gia"}}',
        '{"weights": [{}]}',
        '{"weights": [{"name": "gia", "file": "x", "config": {"network": "gia-net"}}]}',
        "\udcff",
    ],
)
def test_a_broken_manifest_is_one_clear_error(text: str, tmp_path: Path) -> None:
    manifest = tmp_path / MANIFEST
    manifest.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(WeightsError, match="not a manifest") as caught:
        list_weights(tmp_path)
    assert caught.value.exit_code == 40
    assert str(manifest) in caught.value.message


def test_a_manifest_with_an_unknown_network_is_refused(
    saved: tuple[Path, dict[str, Any]],
) -> None:
    path, row = saved
    write_manifest(path.parent, {**row, "config": {"network": "gia-net-3000"}})
    with pytest.raises(WeightsError, match="gia-net-3000"):
        list_weights(path.parent)


def test_no_manifest_is_one_clear_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(WeightsError, match=r"manifest\.json") as caught:
            list_weights(folder)
        assert "Install gia again" in caught.value.hint


def safetensors_with(metadata: dict[str, str] | None) -> bytes:
    return safetensors.torch.save({"x": torch.zeros(2)}, metadata)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\2\3",
        b"\xff" * 64,
        (5).to_bytes(8, "little") + b"{}{}{",
        (2).to_bytes(8, "little") + b"[]",
        safetensors_with(None),
        safetensors_with({"other": "{}"}),
        safetensors_with({"gia": "not json"}),
        safetensors_with({"gia": "[]"}),
        safetensors_with({"gia": "{}"}),
        safetensors_with({"gia": '{"config": 3}'}),
        safetensors_with({"gia": '{"config": {"network": "unet"}}'}),
        safetensors_with({"gia": '{"config": {"network": ["gia-net"]}}'}),
        safetensors_with({"gia": '{"config": {"network": "gia-net", "width": "wide"}}'}),
        safetensors_with({"gia": '{"config": {"network": "gia-net"}, "daylight_wb": 3}'}),
    ],
)
def test_a_file_that_does_not_say_its_network_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "strange.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsMismatchError) as caught:
        find_weights(path)
    assert caught.value.exit_code == 43


# ---------------------------------------------------------------- saving


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


def test_the_row_returned_makes_the_manifest(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    write_manifest(path.parent, row)
    (info,) = list_weights(path.parent)
    assert isinstance(info, WeightsInfo)
    assert info == find_weights(path)
    (path.parent / MANIFEST).unlink()
    header_only = find_weights(path)
    assert replace(info, sha256=None, size=None) == header_only


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
def test_the_files_mode_heeds_the_umask(mask: int, network: Network, tmp_path: Path) -> None:
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


def test_somebody_elses_manifest_is_no_obstacle(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    for text in ('{"name": "a web app"}', "not json"):
        (path.parent / MANIFEST).write_text(text)
        assert find_weights(path).config.to_json() == row["config"]


def test_another_encoding_is_refused(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    write_manifest(path.parent, {**row, "encoding": "log-c"})
    with pytest.raises(WeightsMismatchError, match="log-c"):
        find_weights(path)


def test_the_hint_names_the_environment_when_that_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIA_WEIGHTS", SHIPPED)
    with pytest.raises(NoWeightsForCfaError) as caught:
        find_weights(None, "xtrans")
    assert "GIA_WEIGHTS" in caught.value.hint
    with pytest.raises(NoWeightsForCfaError) as caught:
        find_weights(SHIPPED, "xtrans")
    assert "GIA_WEIGHTS" not in caught.value.hint
