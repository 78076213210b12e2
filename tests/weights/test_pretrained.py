"""Files of other people's weights: digests, formats, strictness. More of it in test_losses."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from gia_cli.errors import WeightsCorruptError, WeightsMismatchError, WeightsNotFoundError
from gia_cli.weights.pretrained import Origin, fit_tensors, read_tensors

ORIGIN = Origin("Some", "Some-16", "gia needs some.pth.", "Check the path.")
TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.pth"
    torch.save(TENSORS, path)
    return path


def write_sidecar(path: Path, text: str) -> None:
    path.with_name(f"{path.name}.sha256").write_text(text)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_tensors_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"some.{suffix}"
    if suffix == "pth":
        torch.save(TENSORS, path)
    else:
        safetensors.torch.save_file(TENSORS, path)
    found = read_tensors(path, ORIGIN)
    fitted = fit_tensors(path, {"a.bias": torch.empty(2)}, found, ORIGIN)
    assert found.keys() == TENSORS.keys()
    assert fitted.keys() == {"a.bias"}
    assert fitted["a.bias"].dtype == torch.float32
    torch.testing.assert_close(fitted["a.bias"], torch.ones(2))


@pytest.mark.parametrize("form", ["{}", "{}  some.pth\n", "{} *some.pth\n"])
def test_a_digest_beside_the_file_is_checked(file: Path, form: str) -> None:
    write_sidecar(file, form.format(digest(file)))
    assert read_tensors(file, ORIGIN).keys() == TENSORS.keys()
    write_sidecar(file, form.format(digest(file).upper()))
    read_tensors(file, ORIGIN)
    write_sidecar(file, form.format("0" * 64))
    with pytest.raises(WeightsCorruptError, match=r"some\.pth\.sha256 says 0000"):
        read_tensors(file, ORIGIN)


@pytest.mark.parametrize("text", ["", "hello", "abc123  some.pth", "\0\xff"])
def test_a_digest_that_is_none_is_not_passed_over(file: Path, text: str) -> None:
    write_sidecar(file, text)
    with pytest.raises(WeightsCorruptError, match="does not begin with a SHA-256"):
        read_tensors(file, ORIGIN)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_pipes_and_devices_are_not_waited_for(file: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "some.pth.sha256")
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (file, tmp_path / "pipe.pth", Path("/dev/zero")):
        with pytest.raises(WeightsNotFoundError, match="not a regular file"):
            read_tensors(path, ORIGIN)
    with pytest.raises(WeightsNotFoundError, match="name too long"):
        read_tensors(tmp_path / ("n" * 300), ORIGIN)


def test_name_and_sidecar_must_both_be_right(file: Path) -> None:
    named = file.rename(file.with_name(f"some-{digest(file)[:8]}.pth"))
    read_tensors(named, ORIGIN)
    write_sidecar(named, "f" * 64)
    with pytest.raises(WeightsCorruptError, match="sha256 says ffff"):
        read_tensors(named, ORIGIN)
    wrong = named.rename(named.with_name("some-01234567.pth"))
    with pytest.raises(WeightsCorruptError, match="its name says 01234567"):
        read_tensors(wrong, ORIGIN)


def test_a_missing_file_and_a_wrong_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"Some weights .*none\.pth.*Check the path"):
        read_tensors(tmp_path / "none.pth", ORIGIN)
    junk = tmp_path / "junk.pth"
    junk.write_bytes(b"hello")
    with pytest.raises(WeightsMismatchError, match=r"not a file of Some weights.*some\.pth"):
        read_tensors(junk, ORIGIN)


def test_what_does_not_fit_is_named(file: Path) -> None:
    found = read_tensors(file, ORIGIN)
    with pytest.raises(WeightsMismatchError, match=r"does not fit Some-16: b\.bias is missing"):
        fit_tensors(file, {"b.bias": torch.empty(2)}, found, ORIGIN)
    with pytest.raises(WeightsMismatchError, match=r"has shape \(2, 3\), not \(3, 2\)"):
        fit_tensors(file, {"a.weight": torch.empty(3, 2)}, found, ORIGIN)
