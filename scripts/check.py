"""All checks: style, types, tests, the documentation, and the wheel used outside the checkout.

    python scripts/check.py         # what CI runs, and you before you send a change
    python scripts/check.py --fast  # while you work: without slow tests, documentation and wheel

Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gia-check"
CACHED_DAYS = 14


def main() -> None:
    """Run every check; leave with the exit code of one that fails."""
    parser = argparse.ArgumentParser(description="All checks of the project.")
    parser.add_argument(
        "--fast", action="store_true", help="leave out slow tests, documentation and wheel"
    )
    fast = parser.parse_args().fast
    python = sys.executable
    run("ruff", [python, "-m", "ruff", "check", "."])
    run("ruff format", [python, "-m", "ruff", "format", "--check", "."])
    with ThreadPoolExecutor(1) as pool:  # what takes one core fills the gaps the tests leave
        others = pool.submit(check_others, fast=fast)
        # A worker has one core; threads of a library that waits for more would only get in its way.
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        pytest = [python, "-m", "pytest", *pytest_options(fast=fast)]
        run("pytest", pytest, shows_all=True, env={**os.environ, **one_thread})
        others.result()
    print("All checks passed." if not fast else "The fast checks passed.")


def check_others(*, fast: bool) -> None:
    """Check all but style and tests."""
    run("mypy", [sys.executable, "-m", "mypy"])
    if not fast:
        with tempfile.TemporaryDirectory() as folder:
            check_documentation(Path(folder) / "site")
            check_wheel(Path(folder))


def pytest_options(*, fast: bool) -> list[str]:
    """Share the tests among processes of one core each.

    Each begins with a run of neighbours, whose fixtures they share, and helps out at the end.
    """
    workers = min(os.cpu_count() or 1, 4)  # each takes up to 2 GB
    options = ["-q", "--durations=10", "--numprocesses", str(workers), "--dist", "worksteal"]
    return options + (["-m", "not slow"] if fast else [])


def check_documentation(site: Path) -> None:
    """Build the documentation, where MkDocs is installed; a link that leads nowhere fails."""
    if find_spec("mkdocs") is None:
        print("--- mkdocs: not installed, left out")
        return
    run("mkdocs", [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)])


# ---------------------------------------------------------------- the wheel


def check_wheel(folder: Path) -> None:
    """Build the wheel, install it alone in a new environment, enhance a sample elsewhere."""
    run("build", [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder)])
    (wheel,) = folder.glob("*.whl")
    installed = dependencies()
    environment = folder / "venv"
    venv.create(environment)
    bare = scripts(environment) / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site, packages = (
        Path(subprocess.check_output([python, "-c", ask], text=True).strip())
        for python in (bare, scripts(installed) / "python")
    )
    (site / "dependencies.pth").write_text(f"{packages}\n", encoding="utf-8")
    # What the wheel asks for and the dependencies lack is installed beside it.
    run("install the wheel", [*pip(installed, bare), str(wheel)])
    gia, sample = str(scripts(environment) / "gia"), ROOT / "samples" / "night.ARW"
    run("gia weights verify", [gia, "weights", "verify"], folder)
    # The page is made of files of the package that are no Python.
    outputs = ["-o", "night.tif", "--report", "page.html"]
    run("gia enhance", [gia, "enhance", str(sample), *outputs], folder)
    if (folder / "night.tif").stat().st_size < 1_000_000:
        sys.exit("gia enhance wrote a file that is too small to be the picture")


def dependencies() -> Path:
    """Make an environment with what the wheel depends on, and nothing else; or find it again.

    It is named after all that decides what lies in it, and never changed. It is made under another
    name first, so that a run that was interrupted leaves no half of one.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked: list[str] = project["dependencies"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    key = "\n".join([sys.version, sys.base_prefix, *asked, constraints])
    environment = CACHE / hashlib.sha256(key.encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.iterdir():
        if time.time() - old.stat().st_mtime > CACHED_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)
    if not environment.is_dir():
        with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as folder:
            new = Path(folder) / "venv"
            venv.create(new, with_pip=True)
            run("install the dependencies", [*pip(new), *asked])
            with contextlib.suppress(OSError):  # another run was faster
                new.rename(environment)
    os.utime(environment)
    return environment


def pip(environment: Path, target: Path | None = None) -> list[str]:
    """Begin a command that installs with an environment's pip, there or into `target`'s."""
    into = [] if target is None else ["--python", str(target)]
    options = ["install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    return [str(scripts(environment) / "python"), "-m", "pip", *into, *options]


def scripts(environment: Path) -> Path:
    """Folder of an environment's commands."""
    return environment / ("Scripts" if os.name == "nt" else "bin")


def run(
    name: str,
    command: list[str],
    folder: Path = ROOT,
    *,
    shows_all: bool = False,
    env: dict[str, str] | None = None,
) -> None:
    """Run one command in a folder, say how long it took, leave with its exit code if it fails.

    What it prints is shown at its end, or as it comes.
    """
    start = time.monotonic()
    into = None if shows_all else subprocess.PIPE
    done = subprocess.run(
        command, cwd=folder, env=env, check=False, stdout=into, stderr=subprocess.STDOUT, text=True
    )
    words = "ok" if done.returncode == 0 else "FAILED"
    print(f"{done.stdout or ''}--- {name}: {words} ({time.monotonic() - start:.0f} s)", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
