"""Weights as ONNX files that run without gia, checked against torch after they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gia_cli._version import __version__
from gia_cli.errors import OutputError, UsageError, WeightsMismatchError
from gia_cli.files import atomic_file, make_folder
from gia_cli.inference.onnx_engine import load_graph, new_session, run_session, version
from gia_cli.inference.onnx_graph import OPSET, Sides, UNetOnnx
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.cfa import CANONICAL, PLANE_COLORS, CfaKind, pack
from gia_cli.runtime import Runtime
from gia_cli.tiling import round_up
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import WeightsInfo, digest_of, refuse_to_replace

#: What tells how to use the other files; it is written last.
DESCRIPTION = "model.json"
README = "README.md"
# All that a network may have.
_PARTS = ("whole", "measure", "term", "render")
# Greatest difference from torch, in the picture's units of 0 to 1. Measured: up to 2e-6.
TOLERANCE = 1e-4
# Of the check, in packed pixels: cells of the network, wide and high, where sides are open.
_CHECKED_CELLS = (5, 7)


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What to write as ONNX, and where."""

    weights: str
    """A name, or a path; fp32 or fp16."""
    out: Path
    """Folder of the files."""
    size: tuple[int, int] | None = None
    """Width and height of the only photo or tile to run, in photosites; None: any."""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    files: tuple[Path, ...]
    difference: float
    """Greatest difference from torch's picture, whose range is 0 to 1."""


def export_onnx(config: ExportConfig, progress: Progress = SILENT) -> Exported:
    """Write a U-Net's graphs with its weights, and what an engineer needs to run them.

    Parameters
    ----------
    config : ExportConfig
    progress : Progress

    Raises
    ------
    WeightsError, DeviceError
        See `load_graph`.
    OutputExistsError, OutputError
    WeightsMismatchError
        What was written computes something else than torch.
    """
    info = find_weights(config.weights)
    graph = load_graph(info)
    parts = list(_PARTS) if graph.vector_halos else ["whole"]
    files = [config.out / f"{part}.onnx" for part in parts]
    files += [config.out / README, config.out / DESCRIPTION]
    for path in files:
        refuse_to_replace(path, overwrite=config.overwrite)
    sides = None if config.size is None else _sides(config.size, graph)
    description = _description(info, graph, parts, sides)
    make_folder(config.out, "--out")
    progress.stage("export", len(parts) + 1)
    # Beside the files that they replace, which stay until all are written and checked.
    with _folder_within(config.out) as made:
        for part in parts:
            model = graph.term() if part == "term" else getattr(graph, part)(sides)
            onnx.helper.set_model_props(model, {"gia": json.dumps(description["weights"])})
            onnx.checker.check_model(model, full_check=True)
            _write(made / f"{part}.onnx", model.SerializeToString())
            progress.advance()
        difference = _checked(made, info, parts, sides or _open_sides(graph))
        progress.advance()
        description["max_difference_from_torch"] = difference
        _write(made / README, _readme(description).encode())
        _write(made / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())
        _put_in_place(made, files)
    return Exported(tuple(files), difference)


@contextmanager
def _folder_within(folder: Path) -> Iterator[Path]:
    """Lend a folder that goes with all that is left in it."""
    try:
        within = TemporaryDirectory(prefix=".export-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            f"Cannot write to {folder}: {error.strerror or error}.", hint="Choose another --out."
        ) from error
    with within as name:
        yield Path(name)


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)


def _put_in_place(made: Path, files: Sequence[Path]) -> None:
    """Move files to where they belong: what tells of them goes first, and comes last."""
    folder = files[0].parent
    try:
        if (folder / DESCRIPTION).exists():  # of an earlier export
            (folder / DESCRIPTION).unlink()
            for part in _PARTS:
                if folder / f"{part}.onnx" not in files:
                    (folder / f"{part}.onnx").unlink(missing_ok=True)
        for path in files:
            (made / path.name).replace(path)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}.", hint="Check the folder."
        ) from error


def parse_photo_size(text: str) -> tuple[int, int]:
    """Parse a width and height in photosites, such as "4256x2848".

    Raises
    ------
    UsageError
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"'{text}' is not a size.", hint="Write it like 4256x2848.")
    return int(width), int(height)


def _sides(size: tuple[int, int], graph: UNetOnnx) -> tuple[int, int]:
    """Rows and columns of packed pixels, as many as the photo has, up to the stride."""
    width, height = (round_up(-(-side // graph.config.scale), graph.stride) for side in size)
    return height, width


def _open_sides(graph: UNetOnnx) -> tuple[int, int]:
    rows, columns = (cells * graph.stride for cells in _CHECKED_CELLS)
    return rows, columns


def _checked(folder: Path, info: WeightsInfo, parts: list[str], sides: tuple[int, int]) -> float:
    """Run the written files, whole and by parts, and return the greatest difference from torch."""
    shape = (info.config.in_channels, *sides)
    planes = np.random.default_rng(0).random(shape, np.float32)
    expected = TorchEngine.load(info, Runtime("cpu", "float32")).run(planes, lambda share: None)
    pictures = [_run(folder / "whole.onnx", planes=planes)]
    if "term" in parts:
        feature = _run(folder / "measure.onnx", planes=planes)
        mean = feature.mean(axis=(1, 2), dtype=np.float64, keepdims=True).astype(np.float32)
        term = _run(folder / "term.onnx", mean=mean)
        pictures.append(_run(folder / "render.onnx", planes=planes, term=term))
    difference = max(float(np.abs(picture - expected).max()) for picture in pictures)
    if not difference <= TOLERANCE:
        raise WeightsMismatchError(
            f"What was made differs from torch's picture by {difference:.2g}; nothing was written.",
            hint="Please report it, with what 'gia --version -v' says.",
        )
    return difference


def _run(path: Path, **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    feed = {name: array[None] for name, array in inputs.items()}
    result: NDArray[np.float32] = run_session(new_session(path.read_bytes()), feed)[0]
    return result


# ---------------------------------------------------------------- in words


def _description(
    info: WeightsInfo, graph: UNetOnnx, parts: list[str], sides: Sides
) -> dict[str, Any]:
    config = info.config
    signatures: dict[str, dict[str, list[str]]] = {
        "whole": {"inputs": ["planes"], "outputs": ["picture"]},
        "measure": {"inputs": ["planes"], "outputs": ["feature"]},
        "term": {"inputs": ["mean"], "outputs": ["term"]},
        "render": {"inputs": ["planes", "term"], "outputs": ["picture"]},
    }
    return {
        "made_by": f"gia {__version__}",
        "opset": OPSET,
        "onnxruntime": version(),
        "weights": {
            "name": info.name,
            "sha256": digest_of(info),
            "licence": info.licence,
            "camera": info.camera,
            "config": config.to_json(),
            "daylight_wb": info.daylight_wb,
            "neutral_wb": info.neutral_wb,
            "fusion": None if info.fusion is None else info.fusion.to_json(),
        },
        "files": {f"{part}.onnx": signatures[part] for part in parts},
        "cfa": config.cfa,
        "packing": packing(config.cfa),
        "planes": config.in_channels,
        "scale": config.scale,
        "stride": graph.stride,
        "halo": graph.halo,
        "vector_halo": graph.vector_halos[0] if graph.vector_halos else None,
        "rows_and_columns": sides,
        "encoding": info.encoding,
    }


def packing(kind: CfaKind) -> dict[str, Any]:
    """Say which photosite of the mosaic's cell is where in the planes, and of which colour.

    Returns
    -------
    dict
        ``period`` of the mosaic, its ``colors`` as letters, and ``sites``: for each plane the rows
        of its own cell, of [row, column] of the mosaic's.
    """
    period = len(CANONICAL[kind])
    cell = np.arange(period**2).reshape(period, period)
    planes = pack(cell, kind)
    colors = np.empty(cell.shape, "<U1")
    for plane, color in zip(planes, PLANE_COLORS[kind], strict=True):
        colors[np.isin(cell, plane)] = "RGB"[color]
    sites = np.stack(np.divmod(planes, period), axis=-1)
    return {
        "period": period,
        "colors": ["".join(row) for row in colors],
        "sites": sites.tolist(),
    }


def _readme(description: dict[str, Any]) -> str:
    """Say how to run the files."""
    weights, scale = description["weights"], description["scale"]
    sides = description["rows_and_columns"]
    size = "{} x {}".format(*sides) if sides else f"any multiples of {description['stride']}"
    floor = "clipped to [0, 1]" if weights["config"]["input_floor"] == 0 else "at most 1"
    balance = weights["config"]["white_balance"]
    gains = {
        "as-shot": "`gains`: the photo's white balance, at least 1 for each colour.",
        "learned": "`gains`: 1, or what brings your camera's daylight to `daylight_wb`.",
    }[balance]
    stride, halo = description["stride"], description["halo"]
    cores = f"""
## Tiles

Cores begin and end at multiples of {stride} packed pixels. Each tile reads {halo} packed pixels
around its core, but never beyond the frame, where it just ends: nothing is reflected there. A size
that was fixed when the files were made includes what is read around the core.
"""
    vector = f"""
The global term is the frame's, never a tile's own: run `measure.onnx` on tiles that read
{description["vector_halo"]} packed pixels around theirs, take the mean of all cores' `feature`
(one cell for each {stride} x {stride} packed pixels), run `term.onnx` on it once, and `render.onnx`
on each tile with that term. This is the same picture, up to rounding.
"""
    tiles = cores + (vector if description["vector_halo"] else "")
    return f"""# {weights["name"]} as ONNX

Made by {description["made_by"]}, from weights with the SHA-256
{weights["sha256"]}.
Licence of the weights: {weights["licence"] or "not stated"}.
Against torch on the CPU the pictures of these files differ by at most
{description["max_difference_from_torch"]:.1e}, of a range of 1.

## A whole frame

`whole.onnx` takes `planes`, float32 (1, {description["planes"]}, h, w), and returns `picture`,
float32 (1, 3, {scale} h, {scale} w). h and w: {size}. Pad the planes, not the mosaic, by reflection
at the bottom and the right, and cut the picture.

1. Begin the mosaic in the phase that `model.json` shows under `packing`, `colors`.
2. `(raw - black) / (white - black) * ratio * gains`, {floor}; `ratio` is how much brighter you want
   the photo. {gains}
3. Put the photosites into planes: with the cell `sites` of a plane in `model.json`, `n` rows and
   columns of them, `planes[p, i::n, j::n] = mosaic[y::period, x::period]`, where
   `[y, x] = sites[p][i][j]`.
4. Run it. The picture is RGB, encoded with the curve of BT.709 and not clipped: clip to [0, 1].

```python
import onnxruntime
session = onnxruntime.InferenceSession("whole.onnx", providers=["CPUExecutionProvider"])
(picture,) = session.run(None, {{"planes": planes}})
```
{tiles}
gia itself does more for a photo: it corrects the black level by what the photo shows, converts
colours of other cameras, and, where `fusion` in `model.json` is not null, fuses the sensor's own
measurement into the picture, which changes colours in the dark visibly.
"""
