"""The rows without a network: noise is measured rightly, denoising helps, LibRaw renders it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from gia_cli.errors import UsageError
from gia_cli.evaluation import classical as traditional
from gia_cli.evaluation.classical import (
    ISP_NAMES,
    anscombe,
    inverse_anscombe,
    render_isp,
)
from gia_cli.metrics.fidelity import psnr
from gia_cli.raw.reader import read_raw, render_truth
from gia_cli.raw.writer import write_arw
from gia_cli.simulation.sensor import simulate_mosaic


def noisy(clean: np.ndarray, gain: float, sigma: float, rng: np.random.Generator) -> np.ndarray:
    electrons = rng.poisson(clean / gain)
    return (electrons * gain + rng.normal(0, sigma, clean.shape)).astype(np.float32)


@pytest.mark.parametrize("mean", [2.0, 20.0, 500.0])
def test_the_transform_makes_the_variance_one(mean: float, rng: np.random.Generator) -> None:
    gain, sigma = 1.5, 5.0
    values = noisy(np.full((400, 400), mean), gain, sigma, rng)
    assert np.var(anscombe(values, gain, sigma**2)) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("mean", [5.0, 50.0, 500.0])
def test_the_inverse_gives_the_expectation_back(mean: float, rng: np.random.Generator) -> None:
    """What a perfect denoiser returns is the mean of the transformed values."""
    gain, sigma = 1.5, 5.0
    values = noisy(np.full((600, 600), mean), gain, sigma, rng)
    perfect = np.full((1,), anscombe(values, gain, sigma**2).mean(), np.float32)
    # The closed form is for large means; its own error in the dark is under a DN here.
    assert inverse_anscombe(perfect, gain, sigma**2)[0] == pytest.approx(mean, rel=0.01, abs=0.3)


def test_no_amplification_is_libraws_rendering(make_arw: Callable[..., Path]) -> None:
    """At ratio 1 it is LibRaw's own rendering, to the level."""
    path = make_arw()
    levels = render_isp(read_raw(path), 1, "libraw") * 65535
    assert np.array_equal(np.rint(levels), render_truth(path))


def test_denoising_beats_amplification(tmp_path: Path, rng: np.random.Generator) -> None:
    rows, cols = np.mgrid[:256, :256].astype(np.float32)
    photo = np.stack([60 + cols / 2, 90 + rows / 3, 100 + 60 * ((rows // 64 + cols // 64) % 2)], 2)
    short, long = tmp_path / "short.ARW", tmp_path / "long.ARW"
    wb = (2.0, 1.0, 2.4)
    for path, ratio, iso in ((short, 100.0, 1600), (long, 1.0, 100)):
        mosaic = simulate_mosaic(
            photo.astype(np.uint8), "ILCE-7SM2", ratio=ratio, iso=iso, wb=wb, rng=rng
        )
        write_arw(path, mosaic, wb=wb)
    truth = render_truth(long) / 65535
    frame = read_raw(short)
    plain = psnr(render_isp(frame, 100, "libraw"), truth)
    assert psnr(render_isp(frame, 100, "libraw+nlm"), truth) > plain + 3
    if find_spec("bm3d") is not None:
        assert psnr(render_isp(frame, 100, "libraw+bm3d"), truth) > plain + 3


def test_xtrans_goes_through_too(make_raf: Callable[..., Path]) -> None:
    """Up to LibRaw, which does not render files as small as this one."""
    frame = read_raw(make_raf())
    signal = traditional._above_black(frame)
    denoised = traditional._denoise(signal, frame, lambda planes: planes)
    assert denoised.shape == signal.shape
    # Nothing is denoised, so only the transform's clipping and its bias remain.
    assert np.median(np.abs(denoised - signal)) < 2


@pytest.mark.parametrize("name", ["libraw+nlm", "libraw+bm3d"])
def test_a_missing_package_is_named(
    name: str, make_arw: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traditional, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match="not installed") as caught:
        render_isp(read_raw(make_arw()), 100, name)  # type: ignore[arg-type]
    assert "pip install" in str(caught.value)


def test_every_row_has_a_name() -> None:
    assert set(ISP_NAMES) == {"libraw", "libraw+nlm", "libraw+bm3d"}
