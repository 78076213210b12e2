"""Say which extras can be installed where, from the wheels that the package index has.

    python scripts/wheels.py            # with constraints.txt
    python scripts/wheels.py --open     # with whatever is newest

Nothing is downloaded but metadata, and nothing is built: an extra counts only where all that it
needs comes as wheels. It needs `uv` (``pip install uv``), and takes a few minutes the first time.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM64": "aarch64-manylinux_2_35",
    "macOS ARM64": "aarch64-apple-darwin",
    "macOS Intel": "x86_64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
    "Windows ARM64": "aarch64-pc-windows-msvc",
}
# The oldest macOS that is asked about; by itself uv asks for an older one.
_MACOS = "14.0"
_LEFT_OUT = {"dev", "docs"}


def obstacle(platform: str, python: str, extra: str | None, *, pinned: bool) -> str | None:
    """Say what keeps gia, or an extra of it, from being installed; None: nothing does.

    Parameters
    ----------
    platform : str
        As uv names it.
    python : str
        Such as "3.12".
    extra : str, optional
    pinned : bool
        Keep to constraints.txt.
    """
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--only-binary", ":all:"]
    command += ["--python-platform", platform, "--python-version", python, "pyproject.toml"]
    command += ["--constraints", "constraints.txt"] if pinned else []
    command += ["--extra", extra] if extra else []
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": _MACOS},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return None
    words = " ".join(done.stderr.split())
    return re.sub(r"^.*?(cause|╰─▶):? ", "", words).split(" hint:")[0]


def main() -> None:
    """Print a row for each platform and Python, and below it why something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--open", action="store_true", help="without constraints.txt")
    pinned = not parser.parse_args().open
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for name in project["optional-dependencies"] if name not in _LEFT_OUT]
    reasons: dict[str, None] = {}
    print("| system | Python | " + " | ".join(["gia", *extras]) + " |")
    print("|---|---|" + "---|" * (len(extras) + 1))
    for name, platform in PLATFORMS.items():
        for python in PYTHONS:
            cells: list[str] = []
            for extra in (None, *extras):
                why = (
                    None
                    if cells[:1] == ["no"]
                    else obstacle(platform, python, extra, pinned=pinned)
                )
                cells.append("no" if why or cells[:1] == ["no"] else "yes")
                if why:
                    reasons[f"{name}, {python}, {extra or 'gia'}: {why}"] = None
            print(f"| {name} | {python} | " + " | ".join(cells) + " |", flush=True)
    print(*reasons, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
