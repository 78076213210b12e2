"""The notebook of the documentation runs as it stands, and shows what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "samples").mkdir()
    shutil.copy(ROOT / "samples" / "night.ARW", tmp_path / "samples")
    monkeypatch.chdir(tmp_path / "docs")
    shown: list[Any] = []
    names: dict[str, Any] = {"display": shown.append}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        assert not cell.get("outputs"), "outputs are not kept: they are megabytes"
        if cell["cell_type"] == "code":
            *lines, last = "".join(cell["source"]).split("\n")
            code = "\n".join(lines)
            try:
                value = compile(last, f"cell {number}", "eval")  # what a notebook shows
            except SyntaxError:
                exec(compile(f"{code}\n{last}", f"cell {number}", "exec"), names)
            else:
                exec(compile(code, f"cell {number}", "exec"), names)
                shown.append(eval(value, names))
    pictures = [each for each in shown if hasattr(each, "_repr_png_")]
    assert len(pictures) == 6 and all(each._repr_png_()[1:4] == b"PNG" for each in pictures)
    out = capsys.readouterr().out
    assert "a 10 s exposure in place of 1/10 s" in out
    assert "FileMissingError (11): missing.ARW" in out
    assert not list(Path().iterdir())
