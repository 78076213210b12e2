"""All measures by name, and those that cannot be taken here, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gia_cli.errors import WeightsError
from gia_cli.metrics.fidelity import psnr, ssim
from gia_cli.metrics.flatness import NAMES, flat_noise
from gia_cli.metrics.suite import BASIC, Measures

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def pictures(side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random((side, side, 3), np.float32)
    return np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1).astype(np.float32), truth


def test_without_their_weights_networks_are_unavailable_for_a_reason() -> None:
    measures = Measures.load()
    assert measures.names == [*BASIC, *NAMES] == list(measures.keys)
    assert set(measures.unavailable) == {"lpips_alex", "lpips_vgg", "pieapp"}
    assert all(len(reason) > 10 for reason in measures.unavailable.values())


def test_each_measure_is_taken_of_the_clipped_picture() -> None:
    picture, truth = pictures(200)
    values = Measures.load().take(picture * 1.2, truth)
    clipped = np.clip(picture * 1.2, 0, 1)
    assert set(values) == {*BASIC, *NAMES}
    assert values["psnr"] == psnr(clipped, truth)
    assert values["ssim"] == ssim(clipped, truth)


def test_noise_is_taken_where_there_are_flat_places() -> None:
    picture, _ = pictures(200)
    wall = np.full_like(picture, 0.5)
    noisy = 0.5 + 0.1 * (picture - 0.5)
    values = Measures.load().take(noisy, wall)
    taken = {name: values[name] for name in NAMES}
    assert taken == {n: None if np.isnan(x) else x for n, x in flat_noise(noisy, wall).items()}
    assert taken["flat_chroma_8_32"]
    nowhere = Measures.load().take(picture, picture)
    assert nowhere["flat_chroma_8_32"] is None
    assert nowhere["flat_share_8_32"] == 0


def test_a_small_picture_goes_without_large_windows() -> None:
    values = Measures.load().take(*pictures(64))
    assert values["ms_ssim"] is None
    assert values["ssim"] is not None


def test_pictures_of_different_shapes_are_a_mistake() -> None:
    picture, truth = pictures(64)
    with pytest.raises(ValueError, match="shape"):
        Measures.load().take(picture[:32], truth)


def test_a_named_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "alex.pth"
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError):
        Measures.load(lpips_alex=path)
