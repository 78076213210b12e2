"""The comparison sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gia_cli.enhance.comparison import _panel_size, comparison_path, write_comparison
from gia_cli.enhance.enhancer import Enhancer

MakePhoto = Callable[..., Path]


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_sheet_holds_both_pictures_upright(
    make_arw: MakePhoto, enhancer: Enhancer, tmp_path: Path, orientation: int
) -> None:
    result = enhancer.enhance(make_arw(orientation=orientation), ratio=100)
    path = comparison_path(tmp_path / "o.tif")
    assert path.name == "o_compare.png"
    write_comparison(result, path)
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(float)
    height, width, _ = result.image.shape
    assert sheet.shape[1] == 2 * width + 8
    panels = sheet[-height:, :width], sheet[-height:, -width:]
    enhanced = result.image / 257
    assert np.abs(panels[1] - enhanced).max() <= 1
    # LibRaw's panel shows the same scene: its brightness follows ours from place to place.
    ours = panels[1].mean(axis=2)[8:-8, 8:-8].reshape(-1)
    plain = panels[0].mean(axis=2)[8:-8, 8:-8].reshape(-1)
    assert np.corrcoef(plain, ours)[0, 1] > 0.5


def test_panels_are_limited_and_keep_their_shape() -> None:
    assert _panel_size(960, 540) == (960, 540)
    assert _panel_size(4256, 2848) == (1600, 1071)
    assert _panel_size(100, 16000) == (10, 1600)
