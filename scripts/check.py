"""All checks: style, types, tests, the documentation, and the wheel used outside the checkout.

    python scripts/check.py

Needs the ``dev`` extra. What CI runs, and what a developer runs before a commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run every check; stop at the first that fails, with its exit code."""
    python = sys.executable
    run("ruff", [python, "-m", "ruff", "check", "."])
    run("ruff format", [python, "-m", "ruff", "format", "--check", "."])
    run("mypy", [python, "-m", "mypy"])
    run("pytest", [python, "-m", "pytest", "-q", "--durations=10"])
    with tempfile.TemporaryDirectory() as folder:
        check_documentation(Path(folder) / "site")
        check_wheel(Path(folder))
    print("All checks passed.")


def check_documentation(site: Path) -> None:
    """Build the documentation, where MkDocs is installed; a link that leads nowhere fails."""
    if find_spec("mkdocs") is None:
        print("--- mkdocs: not installed, left out")
        return
    run("mkdocs", [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)])


def check_wheel(folder: Path) -> None:
    """Build the wheel, install it alone in a new environment, enhance a sample elsewhere."""
    run("build", [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder)])
    (wheel,) = folder.glob("*.whl")
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    pip = [str(scripts / "python"), "-m", "pip", "install", "--quiet"]
    run("install the wheel", [*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)])
    gia, sample = str(scripts / "gia"), ROOT / "samples" / "night.ARW"
    run("gia weights verify", [gia, "weights", "verify"], folder)
    run("gia enhance", [gia, "enhance", str(sample), "-o", "night.tif"], folder)
    if (folder / "night.tif").stat().st_size < 1_000_000:
        sys.exit("gia enhance wrote a file that is too small to be the picture")


def run(name: str, command: list[str], folder: Path = ROOT) -> None:
    """Run one command in a folder, say how long it took, leave with its exit code if it fails."""
    print(f"--- {name}", flush=True)
    start = time.monotonic()
    code = subprocess.run(command, cwd=folder, check=False).returncode
    print(f"--- {name}: {'ok' if code == 0 else 'FAILED'} ({time.monotonic() - start:.0f} s)")
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
