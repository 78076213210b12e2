"""What is drawn of a scene, and what the camera makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli.cameras import CameraName
from gia_cli.raw.turns import TURNS
from gia_cli.simulation.scene import SceneOptions, Style, draw_parameters, render

CAMERA_NAMES: list[CameraName] = ["ILCE-7SM2", "X-T2"]
cameras = pytest.mark.parametrize("camera", CAMERA_NAMES)


@cameras
def test_all_is_drawn_before_anything_is_rendered(camera: CameraName) -> None:
    """What is rendered changes nothing of what was drawn, and takes only noise from the rng."""
    drawn = draw_parameters(camera, SceneOptions(), np.random.default_rng(4))
    again = draw_parameters(camera, SceneOptions(), np.random.default_rng(4))
    assert drawn == again
    photo = np.random.default_rng(1).random((60, 60, 3)).astype(np.float16)
    places = [((3, 5), TURNS[6]), ((3, 5), TURNS[6])]
    first, second = render(photo, places, drawn, size=36, rng=np.random.default_rng(2))
    (other,) = render(photo, places[:1], drawn, size=36, rng=np.random.default_rng(3))
    assert np.array_equal(first.target, second.target)
    assert np.array_equal(first.target, other.target)
    assert not np.array_equal(first.dn, second.dn) and not np.array_equal(first.dn, other.dn)


def test_without_gains_of_its_own_a_scene_is_not_rebalanced() -> None:
    class Same:
        def draw(
            self, light: NDArray[np.floating], rng: np.random.Generator
        ) -> NDArray[np.float32]:
            return light.astype(np.float32)

    options, rng = SceneOptions(), np.random.default_rng(0)
    assert draw_parameters("X-T2", options, rng).rebalance() is None
    assert draw_parameters("X-T2", options, rng, Same()).rebalance() is None


# ---------------------------------------------------------------- style


@pytest.mark.parametrize("style", [Style(), Style(0.5, 1.3), Style(1.6, 0.8), Style(0, 1)], ids=str)
def test_a_style_keeps_greys_grey_and_white_white(style: Style) -> None:
    greys = np.repeat(np.linspace(0, 1, 33, dtype=np.float32)[:, None, None], 3, axis=2)
    styled = style.apply(greys)
    assert np.abs(styled - styled[..., :1]).max() < 1e-5
    assert np.allclose(styled[-1], 1, atol=1e-5)
    assert np.all(np.diff(styled[:, 0, 0]) > 0)


def test_a_style_changes_saturation_and_contrast(rng: np.random.Generator) -> None:
    colors = rng.uniform(0, 1, (40, 40, 3)).astype(np.float32)

    def spread(linear: NDArray[np.float32]) -> float:
        return float(np.ptp(linear, axis=-1).mean())

    assert np.allclose(Style().apply(colors), colors, atol=1e-6)
    vivid = Style(saturation=1.5).apply(colors)
    assert vivid.min() >= 0
    assert spread(vivid) > 1.2 * spread(colors)
    assert spread(Style(saturation=0).apply(colors)) < 1e-6
    assert np.allclose(Style(contrast=2).apply(colors), colors**2, atol=1e-5)


def test_styles_are_drawn_around_the_photographs_own(rng: np.random.Generator) -> None:
    drawn = [Style.draw(0.2, 0.1, rng) for _ in range(400)]
    logs = np.log([(style.saturation, style.contrast) for style in drawn])
    assert np.abs(logs.mean(axis=0)).max() < 0.03
    assert np.allclose(logs.std(axis=0), (0.2, 0.1), rtol=0.15)
    assert Style.draw(0, 0, rng) == Style()
