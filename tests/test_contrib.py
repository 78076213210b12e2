"""The darktable script, in plain Lua with a darktable of our own that remembers what it is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "contrib" / "darktable" / "gia.lua"
LUA: str | None = next(filter(None, map(shutil.which, ("lua", "lua5.4", "lua5.3"))), None)

pytestmark = pytest.mark.skipif(LUA is None or os.name != "posix", reason="Lua and a shell")

DARKTABLE = """
local said = {}
local preferences = {command = arg[1], format = "png", options = "--strength 0.5"}
local image = {
  group_with = function(self, leader) print("group", self.path, leader.filename) end
}
local darktable = {
  configuration = {running_os = "linux"},
  preferences = {
    register = function() end,
    read = function(_, name) return preferences[name] end,
  },
  control = {execute = function(line) local _, _, code = os.execute(line); return code end},
  database = {import = function(path)
    print("import", path)
    return setmetatable({path = path}, {__index = image})
  end},
  print = function(words) print("toast", words) end,
  print_error = function(words) print("log", words) end,
}
package.preload.darktable = function() return darktable end
local gia = dofile(arg[2])
local photos = {}
for number = 3, #arg do
  local folder, name = arg[number]:match("^(.*)/([^/]*)$")
  local photo = {path = folder, filename = name}
  photo.group_leader = photo
  photos[#photos + 1] = photo
end
gia.enhance(photos)
"""


def _run(folder: Path, command: Path, *photos: Path) -> list[str]:
    assert LUA is not None
    (folder / "run.lua").write_text(DARKTABLE)
    arguments: list[str | Path] = [LUA, folder / "run.lua", command, SCRIPT, *photos]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.splitlines()


def _gia(folder: Path, text: str, *, said: str = "", code: int = 0) -> Path:
    """A command that remembers its arguments, and answers."""
    (folder / "answer").write_text(text)
    command = folder / "a command"
    command.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/arguments"\ncat "{folder}/answer"\n'
        f'echo "{said}" >&2\nexit {code}\n'
    )
    command.chmod(0o755)
    return command


def _report(**file: Any) -> str:
    whole = {"input": "x", "status": "written", "outputs": [], "ratios": [{"ratio": 1.5e2}]}
    more: dict[str, Any] = {
        "white_balance": None,
        "sidecar": {},
        "error": None,
        "seconds": -0.25,
        "ok": True,
    }
    return json.dumps({"gia": "0.1.0", "files": [whole | more | file]}, indent=2)


@pytest.mark.parametrize("name", ["night.ARW", 'it\'s $HOME `dark`; "x" Zoë \U0001f319.ARW'])
def test_pictures_are_imported_and_grouped(tmp_path: Path, name: str) -> None:
    photo, out = tmp_path / name, str(tmp_path / (name + "_gia.png"))
    lines = _run(tmp_path, _gia(tmp_path, _report(outputs=[out])), photo)
    assert lines == [f"import\t{out}", f"group\t{out}\t{name}", "toast\tgia: 1 of 1 enhanced"]
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments == [
        *("enhance", str(photo), "--json", "--on-exists", "skip", "--format", "png"),
        *("--strength", "0.5"),
    ]


def test_failures_are_told(tmp_path: Path) -> None:
    photos = [tmp_path / "a.ARW", tmp_path / "b.ARW"]
    error = {"exit_code": 14, "message": 'a.ARW is "cut" short.', "hint": "Copy it again."}
    lines = _run(tmp_path, _gia(tmp_path, _report(status="failed", error=error), code=14), *photos)
    assert lines[0] == 'log\tgia: a.ARW: a.ARW is "cut" short.'
    assert lines[-1] == 'toast\tgia: 0 of 2 enhanced; a.ARW: a.ARW is "cut" short. (and 1 more)'


@pytest.mark.parametrize("text", ["", "{", '{"files": 3}', '{"files": [', "Traceback", '["\\u12'])
def test_without_a_report_the_last_line_is_told(tmp_path: Path, text: str) -> None:
    command = _gia(tmp_path, text, said="warning: w\nerror: no such option", code=2)
    lines = _run(tmp_path, command, tmp_path / "a.ARW")
    assert lines[-1] == "toast\tgia: 0 of 1 enhanced; a.ARW: error: no such option"


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    (last,) = _run(tmp_path, tmp_path / "gone", tmp_path / "a.ARW")[-1:]
    assert f"'{tmp_path}/gone' was not found" in last
