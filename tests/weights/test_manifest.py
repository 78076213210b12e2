"""Weights: found by name, path, environment or digest, and verified before use."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gia_cli.errors import (
    NoWeightsForCfaError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.nets import build
from gia_cli.nets.config import NetConfig
from gia_cli.weights import manifest as checkpoint
from gia_cli.weights.manifest import (
    ENVIRONMENT_VARIABLE,
    MANIFEST,
    choose_weights,
    find_quantized,
    find_weights,
    list_in_manifest,
    list_weights,
    weights_folder,
)
from gia_cli.weights.storage import WeightsInfo, load_network, read_verified, save_weights
from tests.weights.files import SHIPPED, SMALL_XTRANS, write_manifest

# ---------------------------------------------------------------- what ships


def test_shipped_weights_are_as_the_manifest_says() -> None:
    info, *_ = list_weights()
    assert info.name == SHIPPED
    published = replace(info.config, white_balance="learned", input_floor=0)
    assert published == NetConfig("gia-net", "bayer")
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
        "from gia_cli.weights.manifest import find_weights, list_weights;"
        "from gia_cli.weights.storage import read_verified;"
        f"list_weights(); read_verified(find_weights('{SHIPPED}', 'bayer'));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---------------------------------------------------------------- finding


@pytest.mark.parametrize("family", ["gia-sony", "gia-sony-lite", "gia-fuji"])
def test_a_name_without_its_version_means_what_ships(family: str) -> None:
    info = find_weights(family)
    assert re.fullmatch(family + r"-v\d+", info.name)
    assert info == next(row for row in list_weights() if re.fullmatch(family + r"-v\d+", row.name))


@pytest.mark.parametrize("wanted", ["gia", "gia-sony-", "gia-son.", ".*", "gia-sony-v"])
def test_half_a_name_means_nothing(wanted: str) -> None:
    with pytest.raises(WeightsNotFoundError, match="There are no weights"):
        find_weights(wanted)


def test_an_unknown_name_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    for wanted in ("gia-sony-v0", str(tmp_path / "none.safetensors"), str(tmp_path)):
        with pytest.raises(WeightsNotFoundError) as caught:
            find_weights(wanted)
        assert caught.value.exit_code == 41
        assert wanted in caught.value.message
        for info in list_weights():
            assert info.name in caught.value.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and links")
def test_what_is_no_file_is_said_to_be_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, what in (
        (tmp_path, ": that is a folder"),
        (tmp_path / "pipe", ": that is a pipe, socket or device"),
        (Path("/dev/zero"), ": that is a pipe, socket or device"),
        (tmp_path / "loop", ": that is a link that leads nowhere"),
        (tmp_path / ("n" * 300), " (shipped: "),
        (tmp_path / ("n" * 300) / "x", " (shipped: "),
    ):
        with pytest.raises(WeightsNotFoundError) as caught:
            find_weights(path)
        assert caught.value.message.startswith(f"There are no weights '{path}'{what}")


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
    list_in_manifest(path.parent, {**row, "name": "int8", "quantized_from": original})
    monkeypatch.setattr(checkpoint, "weights_folder", lambda: path.parent)
    assert find_weights("int8").quantized_from is not None
    with pytest.raises(NoWeightsForCfaError):
        find_weights(None, find_weights("int8").config.cfa)
    list_in_manifest(path.parent, row)
    found = find_weights(None, find_weights("int8").config.cfa)
    assert found.name == row["name"]
    assert find_quantized(found).name == find_quantized(find_weights("int8")).name == "int8"


@pytest.mark.parametrize("original", [{}, {"name": "x"}, {"name": "x", "digest": "0"}, "x"])
def test_a_row_that_does_not_say_what_it_was_made_from_is_refused(
    original: Any, saved: tuple[Path, dict[str, Any]]
) -> None:
    path, row = saved
    manifest = {"weights": [{**row, "quantized_from": original}]}
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


def test_the_row_returned_makes_the_manifest(saved: tuple[Path, dict[str, Any]]) -> None:
    path, row = saved
    write_manifest(path.parent, row)
    (info,) = list_weights(path.parent)
    assert isinstance(info, WeightsInfo)
    assert info == find_weights(path)
    (path.parent / MANIFEST).unlink()
    header_only = find_weights(path)
    assert replace(info, sha256=None, size=None) == header_only


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


# ---------------------------------------------------------------- weights for each sensor


def test_each_sensor_gets_its_own_of_several_weights() -> None:
    names = "gia-sony-lite, gia-fuji-v3"
    assert choose_weights(names, "bayer") == find_weights("gia-sony-lite")
    assert choose_weights(names, "xtrans").name == "gia-fuji-v3"
    assert choose_weights(names) == find_weights("gia-sony-lite")


def test_lite_is_the_smaller_one_where_a_sensor_has_one() -> None:
    assert choose_weights("lite", "bayer") == find_weights("gia-sony-lite")
    assert choose_weights("lite", "xtrans") == find_weights(None, "xtrans")


def test_one_name_means_what_it_means_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_weights("gia-sony", "bayer") == find_weights("gia-sony", "bayer")
    assert choose_weights(None, "bayer") == find_weights(None, "bayer")
    monkeypatch.setenv("GIA_WEIGHTS", "lite")
    assert choose_weights(None, "bayer") == find_weights("gia-sony-lite")


def test_two_weights_for_one_sensor_are_refused() -> None:
    with pytest.raises(WeightsMismatchError, match="both for bayer photos"):
        choose_weights("gia-sony,gia-sony-lite", "bayer")


def test_a_sensor_that_none_are_for_is_named() -> None:
    with pytest.raises(NoWeightsForCfaError, match=r"None of the weights .* for xtrans photos"):
        choose_weights("gia-sony,", "xtrans")
    with pytest.raises(WeightsNotFoundError):
        choose_weights(",,", "bayer")
