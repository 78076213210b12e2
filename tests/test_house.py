"""The layout holds: imports climb down, none runs in a circle, third parties stay behind fences."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "gia_cli"

# A room is a wing (a folder) or a module that lies beside the wings. It imports only from lower
# floors; inside a wing modules import each other, but never in a circle.
FLOORS: list[set[str]] = [
    {"_version", "cgroups", "errors", "paper", "progress", "text", "tiling"},
    {"arguments"},
    {"cameras", "files", "interrupts", "runtime"},
    {"cluster", "pages", "sensor_table", "sid_layout"},
    {"raw"},
    {"imaging", "nets"},
    {"simulation", "weights"},
    {"data", "inference", "metrics"},
    {"enhance", "quantization", "training"},
    {"benchmark"},
    {"evaluation"},
    {"cli"},
    {"__init__", "__main__"},
]

# Third party: the rooms, or the single modules, that may import it.
FENCES: dict[str, set[str]] = {
    "rawpy": {"raw.reader", "raw.libraw", "cli"},  # cli: LibRaw's version, for --version -v
    "filelock": {"files"},
    "jinja2": {"pages"},
    "markupsafe": {"pages"},
    "tifffile": {"imaging.writer"},
    "imageio": {"raw.writer", "imaging.photos"},
    "PIL": {
        "imaging.exr",
        "imaging.jpeg",
        "imaging.photos",
        "imaging.preview",
        "imaging.sheet",
        "training.log",
    },
    "rich": {"cli.console"},
    "typer": {"cli"},
    "platformdirs": {"runtime", "cli.settings"},
    "psutil": {"runtime"},
    "ray": {"cluster.ray_pool"},
    "fsspec": {"enhance.storage"},
    "watchdog": {"enhance.watch"},
    "safetensors": {"weights"},
    "openvino": {"inference.quiet_openvino"},
    "onnx": {"inference.onnx_graph", "inference.onnx_export"},
    "onnxruntime": {"inference.onnx_engine"},
    "nncf": {"quantization.openvino"},
    "torch": {
        "nets",
        "weights",
        "metrics",
        "training",
        "runtime",
        "inference.torch_engine",
        "inference.staging",
    }
    | {
        "imaging.arrays",
        "simulation.torch_scene",
        "data.batches",
        "data.device_batches",
        "benchmark.flops",
        "benchmark.speed",
        "evaluation.diagnose",
    },
    "tensorboardX": {"training.log"},
    "matplotlib": {"training.log", "benchmark.tables", "evaluation.tables"},
    "skimage": {"evaluation.classical"},
    "bm3d": {"evaluation.classical"},
}

# Modules that another module's tests test, and those that hold nothing to test.
TESTED_BY = {
    "__main__": "cli/test_cli.py",
    "benchmark.flops": "benchmark/test_speed.py",
    "cli.app": "cli/test_cli.py",
    "cli.bench": "cli/test_cli.py",
    "cli.enhance": "cli/test_cli.py",
    "cli.info": "cli/test_cli.py",
    "cli.options": "cli/test_cli.py",
    "cli.train": "cli/test_cli.py",
    "cli.weights": "cli/test_cli.py",
    "data.crops": "data/test_batches.py",
    "enhance.watch_options": "enhance/test_watch.py",
    "enhance.camera_match": "enhance/test_enhancer.py",
    "enhance.stages": "enhance/test_enhancer.py",
    "imaging.icc": "imaging/test_color_space.py",
    "imaging.sheet": "enhance/test_comparison.py",
    "interrupts": "cli/test_cli.py",
    "inference.openvino_graph": "inference/test_openvino_engine.py",
    "inference.named_arrays": "inference/test_openvino_engine.py",
    "inference.onnx_graph": "inference/test_onnx_engine.py",
    "inference.quiet_openvino": "inference/test_select.py",
    "metrics.bootstrap": "metrics/test_fidelity.py",
    "metrics.color": "metrics/test_fidelity.py",
    "metrics.perceptual": "metrics/test_lpips.py",
    "metrics.pieapp": "metrics/test_lpips.py",
    "nets.blocks": "nets/test_nets.py",
    "nets.config": "nets/test_nets.py",
    "nets.unet": "nets/test_nets.py",
    "quantization.openvino": "quantization/test_quantize.py",
    "raw.libraw": "raw/test_reader.py",
    "simulation.options": "simulation/test_photo.py",
    "text": "cli/test_console.py",
    "evaluation.page": "cli/test_evaluate.py",
    "enhance.showing": "enhance/test_report.py",
    "sid_layout": "data/test_sid.py",
}
UNTESTED = {"_version", "progress"}


def module_name(path: Path) -> str:
    """Name of a module below the package; a wing's own file has the wing's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}

# Those that print or end the process; interrupts: for Ctrl-C while the rest is not loaded yet.
TALKING = {name for name in MODULES if name.split(".")[0] == "cli"} | {"interrupts"}


def room(module: str) -> str:
    return module.split(".")[0]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if own(name) in MODULES else node.module for name in names}
    return frozenset(found)


def own(name: str) -> str:
    """Name of one of our modules below the package; of anything else nothing."""
    return name.removeprefix("gia_cli.") if name.startswith("gia_cli.") else ""


def own_imports(module: str) -> list[str]:
    return sorted({own(name) for name in imports(module)} & set(MODULES) - {module})


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def reachable(start: str) -> set[str]:
    """All modules that importing one may import."""
    seen: set[str] = set()
    pending = [start]
    while pending:
        for name in own_imports(pending.pop()):
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return seen


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} == set().union(*FLOORS)
    assert sum(map(len, FLOORS)) == len(set().union(*FLOORS))


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_the_packages_face(module: str) -> None:
    assert "gia_cli" not in imports(module), f"{module} imports the package's face"


def upward_imports() -> list[tuple[str, str]]:
    """Imports that do not climb down to a lower floor, nor stay in their room."""
    return [
        (module, other)
        for module in MODULES
        for other in own_imports(module)
        if room(other) != room(module) and floor(room(other)) >= floor(room(module))
    ]


def circles() -> list[frozenset[str]]:
    """Groups of modules that import each other in a circle."""
    below = {module: reachable(module) for module in MODULES}
    return list(
        {
            frozenset(other for other in below[module] if module in below[other])
            for module in MODULES
            if module in below[module]
        }
    )


def test_imports_climb_down_only() -> None:
    assert not upward_imports()


def test_no_import_runs_in_a_circle() -> None:
    assert not circles()


@pytest.mark.parametrize("module", MODULES)
def test_third_parties_stay_behind_their_fence(module: str) -> None:
    for name in imports(module):
        allowed = FENCES.get(name.split(".")[0])
        assert allowed is None or {module, room(module)} & allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(MODULES.keys() - TALKING))
def test_nobody_below_the_command_line_prints_or_exits(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"print", "exit", "quit", "sys.exit", "os._exit"}, module


def has_doctests(module: str) -> bool:
    return ">>> " in MODULES[module].read_text(encoding="utf-8")


def test_every_doctest_is_run() -> None:
    """Of the package pytest looks only at what it is told of: collecting a module imports it."""
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    named = project["tool"]["pytest"]["ini_options"]["testpaths"]
    paths = [TESTS.parent / path for path in named]
    with_doctests = [MODULES[module] for module in MODULES if has_doctests(module)]
    assert with_doctests
    assert not [path for path in with_doctests if not {path, *path.parents} & set(paths)]


def is_a_docstring_only(module: str) -> bool:
    return all(isinstance(node, ast.Expr) for node in tree(module).body)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_mirrored_test(module: str) -> None:
    if module in UNTESTED or is_a_docstring_only(module):
        return
    if module in TESTED_BY:
        assert (TESTS / TESTED_BY[module]).is_file()
    elif MODULES[module].name == "__init__.py":  # the package's face is in the README
        wing = "" if module == "__init__" else module
        test = f"{wing}/test_{wing}.py" if wing else "test_readme.py"
        assert (TESTS / test).is_file(), f"tests/{test}"
    else:
        *wings, name = module.split(".")
        assert list(TESTS.joinpath(*wings).glob(f"test_{name}*.py")), f"no tests of {module}"
