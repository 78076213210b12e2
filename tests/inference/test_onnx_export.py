"""What is exported runs without gia, by its own description, and makes torch's picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.errors import (
    DeviceError,
    OutputError,
    OutputExistsError,
    UsageError,
    WeightsMismatchError,
)
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.nets.config import NetConfig
from gia_cli.raw.cfa import CANONICAL, CfaKind, pack
from gia_cli.runtime import Runtime
from gia_cli.weights.manifest import find_weights, list_weights
from gia_cli.weights.storage import save_weights
from tests.networks import CFAS, lively, small

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
onnx_export = pytest.importorskip("gia_cli.inference.onnx_export")

pytestmark = pytest.mark.usefixtures("one_thread")


def saved(folder: Path, config: NetConfig) -> Path:
    path = folder / "own.safetensors"
    save_weights(path, lively(config), licence="CC0")
    return path


def config_of(out: Path, folder: Path, network: Any, *, overwrite: bool = False) -> Any:
    path = saved(folder, small(network))
    return onnx_export.ExportConfig(str(path), out, overwrite=overwrite)


def packed(mosaic: NDArray[Any], packing: dict[str, Any]) -> NDArray[Any]:
    """Pack as the description says: nothing of gia."""
    period, sites = packing["period"], packing["sites"]
    n = len(sites[0])
    height, width = (side // period * n for side in mosaic.shape)
    planes = np.empty((len(sites), height, width), mosaic.dtype)
    for plane, rows in zip(planes, sites, strict=True):
        for i, row in enumerate(rows):
            for j, (y, x) in enumerate(row):
                plane[i::n, j::n] = mosaic[y::period, x::period]
    return planes


@pytest.mark.parametrize("kind", CFAS)
def test_the_described_packing_is_gias(kind: CfaKind) -> None:
    mosaic = np.arange(24 * 36).reshape(24, 36)
    facts = onnx_export.packing(kind)
    assert np.array_equal(packed(mosaic, json.loads(json.dumps(facts))), pack(mosaic, kind))
    colors = [["RGB".index(letter) for letter in row] for row in facts["colors"]]
    assert np.array_equal(colors, CANONICAL[kind])


@pytest.mark.parametrize("kind", CFAS)
@pytest.mark.parametrize("size", [None, (90, 150)])
def test_the_files_make_torchs_picture(
    kind: CfaKind, size: tuple[int, int] | None, tmp_path: Path
) -> None:
    path = saved(tmp_path, small("gia-net", kind))
    out = tmp_path / "out"
    made = onnx_export.export_onnx(onnx_export.ExportConfig(str(path), out, size))
    assert sorted(file.name for file in made.files) == sorted(file.name for file in out.iterdir())
    facts = json.loads((out / "model.json").read_text("utf-8"))
    assert facts["max_difference_from_torch"] == made.difference < 1e-4
    assert facts["weights"]["licence"] == "CC0"
    assert facts["weights"]["sha256"] in (out / "README.md").read_text("utf-8")
    rows, columns = facts["rows_and_columns"] or (48, 80)
    if size is not None:
        scale = facts["scale"]
        assert (rows - 16) * scale < size[1] <= rows * scale
        assert (columns - 16) * scale < size[0] <= columns * scale
    shape = (facts["planes"], rows, columns)
    planes = np.random.default_rng(1).random(shape, np.float32)
    session = ort.InferenceSession(out / "whole.onnx", providers=["CPUExecutionProvider"])
    (picture,) = session.run(None, {"planes": planes[None]})
    engine = TorchEngine.load(find_weights(path), Runtime("cpu", "float32"))
    assert np.abs(picture[0] - engine.run(planes, lambda share: None)).max() < 1e-4
    metadata = session.get_modelmeta().custom_metadata_map["gia"]
    assert json.loads(metadata) == facts["weights"]


def test_a_network_without_a_vector_is_one_file(tmp_path: Path) -> None:
    path = saved(tmp_path, small("sid-net"))
    made = onnx_export.export_onnx(onnx_export.ExportConfig(str(path), tmp_path / "out"))
    assert [file.name for file in made.files] == ["whole.onnx", "README.md", "model.json"]
    assert "measure.onnx" not in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_files_are_replaced_only_if_asked_to(tmp_path: Path) -> None:
    path = saved(tmp_path, small("sid-net"))
    (tmp_path / "README.md").write_text("mine")
    config = onnx_export.ExportConfig(str(path), tmp_path)
    with pytest.raises(OutputExistsError, match="README"):
        onnx_export.export_onnx(config)
    assert not list(tmp_path.glob("*.onnx"))
    onnx_export.export_onnx(onnx_export.ExportConfig(str(path), tmp_path, overwrite=True))
    assert (tmp_path / "README.md").read_text("utf-8").startswith("# own as ONNX")


def test_a_wrong_graph_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, small("gia-net"))
    monkeypatch.setattr("gia_cli.inference.onnx_graph.LEAKY_SLOPE", 0.1)
    with pytest.raises(WeightsMismatchError, match="differs from torch"):
        onnx_export.export_onnx(onnx_export.ExportConfig(str(path), tmp_path / "out"))


@pytest.mark.parametrize("fails", ["while it is written", "when it is checked"])
def test_what_fails_replaces_nothing(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    onnx_export.export_onnx(config_of(out, tmp_path, "gia-net"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    if fails == "when it is checked":
        monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    else:
        written = iter(range(3))

        def write(path: Path, content: bytes) -> None:
            path.write_bytes(content)
            if next(written) == 2:
                raise OutputError("The disk is full.")

        monkeypatch.setattr(onnx_export, "_write", write)
    with pytest.raises((WeightsMismatchError, OutputError)):
        onnx_export.export_onnx(config_of(out, tmp_path, "se-unet", overwrite=True))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_parts_of_other_weights_do_not_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    onnx_export.export_onnx(config_of(out, tmp_path, "gia-net"))
    onnx_export.export_onnx(config_of(out, tmp_path, "sid-net", overwrite=True))
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "model.json",
        "notes.txt",
        "whole.onnx",
    ]


def test_what_has_no_graph_is_refused(tmp_path: Path) -> None:
    int8 = next(info.name for info in list_weights() if info.quantized_from is not None)
    with pytest.raises(WeightsMismatchError, match="int8"):
        onnx_export.export_onnx(onnx_export.ExportConfig(int8, tmp_path / "out"))
    path = saved(tmp_path, small("dncnn"))
    with pytest.raises(DeviceError, match="dncnn has no ONNX graph"):
        onnx_export.export_onnx(onnx_export.ExportConfig(str(path), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_sizes_are_parsed() -> None:
    assert onnx_export.parse_photo_size("4256x2848") == (4256, 2848)
    for text in ("4256", "x", "0x9", "1x2x3", "-1x2", ""):
        with pytest.raises(UsageError, match="is not a size"):
            onnx_export.parse_photo_size(text)
