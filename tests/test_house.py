"""The layout holds: modules import downwards only, and each third party stays behind its fence."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gia_cli"

# A module imports only from lower floors. Beside house rules of thumb: what only states facts or
# does geometry lies below what touches files, what touches files below what decides, and only the
# two top floors may speak.
FLOORS: list[set[str]] = [
    {"_version", "errors", "progress", "tiff"},
    {"cfa", "color", "exif", "files", "runtime", "tiling", "noise", "distributed", "pretrained"}
    | {"paper"},
    {"nets", "raw", "rawfile", "output", "photos", "losses", "treeplan"},
    {"checkpoint", "exposure", "initialise", "mosaic", "simulate", "metrics", "traditional"},
    {"engines", "data", "perceptual"},
    {"infer"},
    {"pipeline", "trainlog", "measures"},
    {"batch", "train", "evaluate", "bench", "quantize"},
    {"report", "ablation", "diagnose"},
    {"console"},
    {"cli"},
    {"__init__", "__main__"},
]

FENCES: dict[str, set[str]] = {
    "rawpy": {"raw", "cli"},  # cli: LibRaw's version, for --version -v
    "exifread": {"exif"},
    "tifffile": {"output"},
    "imageio": {"rawfile", "photos"},
    "PIL": {"report", "trainlog", "photos"},
    "rich": {"console"},
    "typer": {"cli"},
    "psutil": {"runtime"},
    "safetensors": {"checkpoint", "pretrained"},
    "openvino": {"engines"},
    "nncf": {"engines"},
    "torch": {"nets", "engines", "runtime", "checkpoint", "initialise"}
    | {"losses", "data", "train", "distributed", "metrics", "perceptual", "pretrained", "bench"}
    | {"diagnose"},
    "tensorboardX": {"trainlog"},
    "matplotlib": {"trainlog", "report"},
    "skimage": {"traditional"},
    "bm3d": {"traditional"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """Name of a module, or of the subpackage it lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every module that a file imports, wherever in it."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            module = node.module or ""
            if module == "gia_cli":
                found += [f"gia_cli.{alias.name}" for alias in node.names]
            else:
                found.append(module)
    return found


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_climb_down_only(path: Path) -> None:
    own = room(path)
    for name in imports(path):
        if not name.startswith("gia_cli."):
            continue
        other = name.split(".")[1]
        if other == own or own == "__init__":
            continue
        assert floor(other) < floor(own), f"{own} (floor {floor(own)}) imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_parties_stay_behind_their_fence(path: Path) -> None:
    for name in imports(path):
        allowed = FENCES.get(name.split(".")[0])
        assert allowed is None or room(path) in allowed, f"{room(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_below_the_console_prints_or_exits(path: Path) -> None:
    if room(path) in {"console", "cli", "__main__"}:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"print", "exit", "quit", "sys.exit", "os._exit"}, path.name


def test_every_module_has_a_floor_and_a_test() -> None:
    rooms = {room(path) for path in MODULES}
    assert rooms == set().union(*FLOORS)
    for name in rooms - {"__init__", "__main__", "_version", "progress"}:
        assert list(Path(__file__).parent.glob(f"test_{name}*.py")), f"tests/test_{name}.py"
