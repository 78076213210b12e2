"""What docstrings and comments name is there: a module that moves takes its mentions along."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    str(path.relative_to(ROOT)): path
    for folder in ("gia_cli", "scripts", "samples")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
# `module.name` or `wing.module`, between single backticks; two are for what is typed.
ENDINGS = {"onnx", "json"}  # of files, not names
MENTION = re.compile(r"(?<!`)`([a-z_]+(?:\.[a-z_]+)*)\.([A-Za-z_]\w*)(?:\(\))?`(?!`)")


@cache
def names() -> dict[str, set[str]]:
    """What each module defines; a class's and a function's own names count too."""
    found = {}
    for path in (ROOT / "gia_cli").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "gia_cli").with_suffix("").parts)
        defined = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
        found[module.removesuffix(".__init__")] = defined
    return found


def is_there(head: str, last: str) -> bool:
    """Tell whether there is such a module, or such a name in the module or the wing."""
    return any(
        f".{module}".endswith(f".{head}.{last}")
        or (
            last in defined and (f".{module}".endswith(f".{head}") or module.startswith(f"{head}."))
        )
        for module, defined in names().items()
    )


def test_a_name_that_is_not_there_is_found_out() -> None:
    assert is_there("raw.packing", "prepare") and is_there("packing", "prepare")
    assert is_there("raw", "packing") and is_there("nets.config", "NETWORKS")
    assert not is_there("mosaic", "prepare") and not is_there("packing", "expose")


@pytest.mark.parametrize("file", FILES)
def test_modules_that_are_named_are_there(file: str) -> None:
    text = FILES[file].read_text(encoding="utf-8")
    own = {node.arg for node in ast.walk(ast.parse(text)) if isinstance(node, ast.arg)}
    gone = [
        f"{head}.{last}"
        for head, last in MENTION.findall(text)
        if head not in own and last not in ENDINGS and not is_there(head, last)
    ]
    assert not gone
