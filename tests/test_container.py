"""The Dockerfile, read as an engine reads it: what it copies is there, what it installs is ours.

And where the project says that it can be installed.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from gia_cli import __version__
from scripts import wheels

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = {
    canonicalize_name(name): version
    for name, found, version in (
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    )
    if found and not name.startswith("#")
}


@dataclass
class Stage:
    """One FROM and what follows it."""

    base: str
    name: str | None
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [words for name, words in self.steps if name == instruction]


def _read() -> tuple[dict[str, str], list[Stage]]:
    """Return the arguments' defaults, and the stages."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        instruction, words = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = words.partition(" AS ")
            stages.append(Stage(base, name or None))
        elif instruction == "ARG":
            name, _, default = words.partition("=")
            arguments[name] = default
        if stages and instruction != "FROM":
            stages[-1].steps.append((instruction, words))
    return arguments, stages


ARGUMENTS, STAGES = _read()
FINAL = STAGES[-1]


def _stage(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def _copied(stage: Stage) -> list[str]:
    """Name what a stage copies from the checkout."""
    return [
        source
        for words in stage.all("COPY")
        if not words.startswith("--from=")
        for source in words.split()[:-1]
    ]


def _required(name: str) -> list[str]:
    """List what gia, or an extra of it, requires."""
    project = PROJECT["project"]
    required: list[str] = (
        project["optional-dependencies"][name] if name else project["dependencies"]
    )
    return required


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    copied = {source for stage in STAGES for source in _copied(stage)}
    assert copied >= {"gia_cli", "weights", "constraints.txt", "pyproject.toml"}
    for source in copied:
        assert (ROOT / source).exists(), source
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in rules if not line.startswith("#")) == "*"
    assert {line[1:] for line in rules if line.startswith("!")} == copied


def test_what_the_package_is_built_from_is_copied() -> None:
    copied = _copied(_stage("package"))
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]
    assert {*needed, *wheel["packages"], *wheel["force-include"]} <= {*copied}


def test_stages_copy_from_stages_before_them() -> None:
    known: set[str | None] = set()
    for stage in STAGES:
        assert stage.base == "${BASE}" or stage.base in known
        for words in stage.all("COPY"):
            if words.startswith("--from="):
                assert words.split()[0].removeprefix("--from=") in known
        known.add(stage.name)


def test_code_is_copied_after_all_that_takes_long() -> None:
    """Of a change to the code no layer depends that holds PyTorch, nor the one with the weights."""
    assert _copied(_stage("dependencies")) == ["constraints.txt", "pyproject.toml"]
    first, *_ = [words for words in _stage("dependencies").all("RUN") if "pip" in words]
    steps = [words for _, words in _stage("dependencies").steps]
    assert first.endswith(" torch")
    assert steps.index(first) < steps.index("pyproject.toml ./")
    assert FINAL.all("COPY") == [
        "--from=dependencies /opt/gia /opt/gia",
        "--from=package /weights /opt/gia",
        "--from=package /code /opt/gia",
    ]


def test_every_version_is_pinned() -> None:
    installing = [
        command
        for stage in STAGES
        for words in stage.all("RUN")
        for command in re.findall(r"pip install [^&]*", words)
    ]
    assert len(installing) == 4
    for command in installing:
        assert "-c constraints.txt" in command or "--no-deps --no-build-isolation" in command
    assert "PIP_NO_CACHE_DIR=1" in _stage("dependencies").all("ENV")[0]


def test_pins_are_what_the_project_asks_for() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [*PROJECT["build-system"]["requires"], *_required("")]
    for line in [*asked, *(line for name in extras for line in _required(name))]:
        requirement = Requirement(line)
        assert PINS[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_it_installs_what_gia_and_its_extras_require() -> None:
    extras = ARGUMENTS["EXTRAS"].split(",")
    assert {*extras} <= {*PROJECT["project"]["optional-dependencies"]}
    (line,) = (words for words in _stage("dependencies").all("RUN") if "tomllib" in words)
    python, dash_c, code, *_ = shlex.split(line)
    assert (python, dash_c) == ("python", "-c")
    for given in ("", ARGUMENTS["EXTRAS"]):
        done = subprocess.run(
            [sys.executable, dash_c, code, given], cwd=ROOT, capture_output=True, check=True
        )
        expected = [*_required("")]
        for name in extras if given else []:
            expected += _required(name)
        assert done.stdout.decode().splitlines() == expected


def test_gia_is_built_by_what_the_project_says() -> None:
    (backend,) = PROJECT["build-system"]["requires"]
    assert (
        f"install -c constraints.txt {Requirement(backend).name}" in _stage("package").all("RUN")[0]
    )


def test_it_runs_gia_as_nobody() -> None:
    (user,) = FINAL.all("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "numbers: Kubernetes knows no names"
    (entry,) = FINAL.all("ENTRYPOINT")
    assert entry == '["gia"]' and "gia" in PROJECT["project"]["scripts"]
    assert not FINAL.all("RUN"), "what it leaves behind would stay in the image"
    (environment,) = FINAL.all("ENV")
    assert {"HOME=/tmp", "PATH=/opt/gia/bin:${PATH}"} <= {*environment.split()}


def test_its_labels_are_the_projects() -> None:
    (words,) = FINAL.all("LABEL")
    labels = dict(word.split("=", 1) for word in shlex.split(words))
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}version"] == __version__
    assert labels[f"{prefix}licenses"] == PROJECT["project"]["license"]
    assert labels[f"{prefix}description"] == PROJECT["project"]["description"]


def test_its_python_is_one_that_gia_takes() -> None:
    match = re.search(r"/python:(3\.\d+)-slim", ARGUMENTS["BASE"])
    assert match is not None
    assert match[1] in SpecifierSet(PROJECT["project"]["requires-python"])
    assert match[1] in _stated_pythons()


def _stated_pythons() -> list[str]:
    stated = PROJECT["project"]["classifiers"]
    return [name.split()[-1] for name in stated if re.search(r":: Python :: 3\.\d+$", name)]


def test_wheels_are_looked_for_where_the_project_says_it_runs() -> None:
    assert list(wheels.PYTHONS) == _stated_pythons()
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"| system | Python {wheels.PYTHONS[0]} to {wheels.PYTHONS[-1]} |" in page
    assert all(
        python in SpecifierSet(PROJECT["project"]["requires-python"])
        for python in _stated_pythons()
    )


def test_the_install_page_names_its_arguments() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--build-arg (\w+)=", page))
    assert {"TORCH_INDEX", "EXTRAS"} <= named <= {*ARGUMENTS}
    assert ARGUMENTS["TORCH_INDEX"] in page
