"""The twin on the device: NumPy's pixels where nothing is random, its moments where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gia_cli.cameras import CameraName
from gia_cli.data.augment import GivenBalance
from gia_cli.data.synthetic import as_if_read
from gia_cli.raw.packing import plane_levels, prepare
from gia_cli.raw.turns import TURNS
from gia_cli.simulation.noise import SensorNoise, tukey_lambda
from gia_cli.simulation.scene import (
    Place,
    SceneOptions,
    SceneParameters,
    Style,
    draw_parameters,
    render,
)
from gia_cli.simulation.sensor import CAMERAS
from gia_cli.simulation.torch_scene import RenderedBatch, Windows, _tukey, render_batch

CAMERA_NAMES: list[CameraName] = ["ILCE-7SM2", "X-T2"]
cameras = pytest.mark.parametrize("camera", CAMERA_NAMES)
SIZE = 36
CPU = torch.device("cpu")

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

pytestmark = pytest.mark.usefixtures("one_thread")


def windows(
    photo: NDArray[np.float16], places: Sequence[Place], device: torch.device = CPU
) -> Windows:
    width = photo.shape[1]
    return Windows(
        torch.from_numpy(photo.reshape(-1, 3)).to(device),
        np.array([top * width + left for (top, left), _ in places]),
        np.full(len(places), width),
        [turn for _, turn in places],
    )


def rendered(
    photo: NDArray[np.float16],
    places: list[Place],
    scenes: list[SceneParameters],
    *,
    size: int = SIZE,
    seed: int = 0,
    device: torch.device = CPU,
    floor: int | None = None,
) -> RenderedBatch:
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
    levels = []
    for scene in scenes:
        camera = CAMERAS[scene.camera]
        frame = as_if_read(np.zeros((6, 6), np.uint16), camera, iso=scene.stated_iso)
        levels.append(plane_levels(frame, scene.ratio, scene.gains, floor))
    return render_batch(
        windows(photo, places, device),
        scenes,
        levels,
        size=size,
        floor=floor,
        generator=generator,
    )


def quiet(noise: SensorNoise) -> SensorNoise:
    """The same black level; a thousandth of a DN of shot noise is left near white."""
    return replace(noise, gain=1e-10, read_scale=0, row_sigma=0)


def some_scenes(camera: CameraName, count: int, *, balanced: bool = True) -> list[SceneParameters]:
    rng = np.random.default_rng(7)
    balance = GivenBalance() if balanced else None
    return [draw_parameters(camera, SceneOptions(), rng, balance) for _ in range(count)]


def assert_same_pixels(camera: CameraName, device: torch.device) -> None:
    """Pictures to 3e-6, DN to one, where the two round differently: in one photosite of 200."""
    photo = np.random.default_rng(2).random((50, 61, 3)).astype(np.float16)
    photo[:20, :20] = np.random.default_rng(3).uniform(0.9, 1, (20, 20, 3))
    places = [((3 + i, 2 * i), turn) for i, turn in enumerate(TURNS)]
    scenes = [replace(s, noise=quiet(s.noise)) for s in some_scenes(camera, 8)]
    got = rendered(photo, places, scenes, device=device)
    dn = got.dn.cpu().numpy()
    for index, (place, scene) in enumerate(zip(places, scenes, strict=True)):
        (wanted,) = render(photo, [place], scene, size=SIZE, rng=np.random.default_rng(0))
        np.testing.assert_allclose(got.target[index].cpu(), wanted.target, rtol=0, atol=3e-6)
        off = np.abs(dn[index] - wanted.dn)
        assert off.max() <= 1 and (off > 0).mean() < 1 / 200
        frame = as_if_read(dn[index].astype(np.uint16), CAMERAS[camera], iso=scene.stated_iso)
        planes = prepare(frame, scene.ratio, scene.gains, None).planes
        np.testing.assert_allclose(got.planes[index].cpu(), planes, rtol=1e-6, atol=1e-6)


@cameras
def test_without_noise_the_pixels_are_numpys(camera: CameraName) -> None:
    assert_same_pixels(camera, CPU)


@pytest.mark.cuda
@needs_cuda
@cameras
def test_without_noise_the_pixels_of_a_gpu_are_numpys(
    camera: CameraName, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So little noise takes more photons than a GPU counts to, which is 2**32.
    monkeypatch.setattr(torch, "poisson", lambda rate, generator: rate)
    assert_same_pixels(camera, torch.device("cuda"))


@cameras
def test_what_lies_below_black_is_clipped_if_so_asked(camera: CameraName) -> None:
    photo = np.zeros((SIZE, SIZE, 3), np.float16)
    scenes = some_scenes(camera, 1, balanced=False)
    place: list[Place] = [((0, 0), TURNS[0])]
    kept, clipped = (rendered(photo, place, scenes, floor=floor).planes for floor in (None, 0))
    assert kept.min() < 0 and clipped.min() == 0 and clipped.max() > 0


# ---------------------------------------------------------------- noise


def grey_scene(camera: CameraName, noise: SensorNoise, ratio: float) -> SceneParameters:
    return SceneParameters(
        camera, ratio, 1600, 1600, 1.0, 1.0, Style(), (2.0, 1.0, 2.0), None, noise
    )


NOISES = {
    "shot noise": SensorNoise(3.0, 0.0, -0.1, 0.0, (0.0,)),
    "tukey": SensorNoise(0.5, 6.0, -0.14, 0.0, (0.0,)),
    "normal": SensorNoise(0.5, 6.0, None, 0.0, (0.0,)),
    "all": SensorNoise(1.5, 4.0, -0.05, 3.0, (1.5,)),
}
#: Standard errors by which a moment may differ: of 100 moments of right twins, by chance, once in
#: 17,000 sets of seeds.
SIGMAS = 5


def assert_numpys_moments(noise: SensorNoise, device: torch.device) -> None:
    """Of each colour's photosites mean and variance, and the variance of the means of rows."""
    size, count = 120, 64
    photo = np.full((size, size, 3), 0.5, np.float16)
    place: Place = ((0, 0), TURNS[0])
    scene = grey_scene("ILCE-7SM2", noise, ratio=250)
    batch = rendered(photo, [place] * count, [scene] * count, size=size, device=device)
    got = batch.dn.cpu().double().numpy()
    exposures = render(photo, [place] * count, scene, size=size, rng=np.random.default_rng(9))
    wanted = np.stack([exposure.dn for exposure in exposures]).astype(np.float64)
    for rows, cols in ((0, 0), (0, 1), (1, 1)):
        ours, numpys = (dn[:, rows::2, cols::2] for dn in (got, wanted))
        assert_same_moments(ours.ravel(), numpys.ravel(), scale=(1 + noise.row_sigma**2) ** 0.5)
        assert_same_moments(ours.mean(axis=2).ravel(), numpys.mean(axis=2).ravel(), scale=1)


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_the_noise_has_numpys_moments(noise: SensorNoise) -> None:
    assert_numpys_moments(noise, CPU)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_the_noise_of_a_gpu_has_numpys_moments(noise: SensorNoise) -> None:
    assert_numpys_moments(noise, torch.device("cuda"))


def assert_same_moments(
    ours: NDArray[np.float64], numpys: NDArray[np.float64], scale: float
) -> None:
    """Mean and variance agree within their standard errors, wider where rows share a number."""
    error = np.hypot(*(x.std() / len(x) ** 0.5 for x in (ours, numpys))) * scale
    assert abs(ours.mean() - numpys.mean()) < SIGMAS * error
    squares = [(x - x.mean()) ** 2 for x in (ours, numpys)]
    error = np.hypot(*(x.std() / len(x) ** 0.5 for x in squares)) * scale
    assert abs(ours.var() - numpys.var()) < SIGMAS * error


def assert_numpys_quantiles(shape: float, device: torch.device) -> None:
    """Kolmogorov and Smirnov's test at 0.1 %, and both tails beyond a float32 uniform's."""
    count = 200_000
    generator = torch.Generator(device).manual_seed(5)
    like = torch.empty(1, 1, count, device=device)
    drawn = _tukey(like, torch.full((1, 1, 1), shape, device=device), generator)
    ordered = drawn.flatten().sort().values.cpu().double().numpy()
    even = np.linspace(0, 1, 4001)[1:-1]
    below = np.searchsorted(ordered, tukey_lambda(even, shape)) / count
    assert np.abs(below - even).max() < 1.95 / count**0.5
    assert abs(np.mean(ordered > 0) - 0.5) < SIGMAS * 0.5 / count**0.5


@pytest.mark.parametrize("shape", [-0.143, 0.0, 0.00005, 0.129])
def test_the_read_noise_has_tukeys_quantiles(shape: float) -> None:
    assert_numpys_quantiles(shape, CPU)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("shape", [-0.143, 0.0, 0.129])
def test_the_read_noise_of_a_gpu_has_tukeys_quantiles(shape: float) -> None:
    assert_numpys_quantiles(shape, torch.device("cuda"))


def test_black_level_errors_lie_where_their_colours_are() -> None:
    photo = np.zeros((SIZE, SIZE, 3), np.float16)
    place: list[Place] = [((0, 0), TURNS[0])]
    bayer = grey_scene("ILCE-7SM2", SensorNoise(1, 0, 0.1, 0, (10, 20, 30, 40)), 100)
    dn = rendered(photo, place, [bayer]).dn[0] - CAMERAS["ILCE-7SM2"].black
    assert [float(dn[y, x]) for y in (6, 7) for x in (4, 5)] == [10, 20, 30, 40]
    xtrans = grey_scene("X-T2", SensorNoise(1, 0, None, 0, (10, 20, 30)), 100)
    planes = rendered(photo, place, [xtrans]).planes[0] / xtrans.ratio * (16383 - 1024)
    levels = planes.mean(dim=(1, 2))
    assert levels.tolist() == pytest.approx([10, 20, 30, 10, 30, 20, 20, 20, 20], rel=1e-4)


# ---------------------------------------------------------------- what it depends on


def test_the_noise_is_a_function_of_the_generators_seed() -> None:
    photo = np.full((SIZE, SIZE, 3), 0.5, np.float16)
    scenes = some_scenes("ILCE-7SM2", 2)
    places: list[Place] = [((0, 0), TURNS[0])] * 2
    first, again, other = (rendered(photo, places, scenes, seed=seed).planes for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad and not first.is_inference()  # a network learns from it


def test_what_does_not_fit_together_is_refused() -> None:
    photo = np.zeros((SIZE, SIZE, 3), np.float16)
    places: list[Place] = [((0, 0), TURNS[0])] * 2
    scenes = some_scenes("X-T2", 2)
    with pytest.raises(ValueError, match="whole number of periods"):
        rendered(photo, places, scenes, size=33)
    mixed = [scenes[0], replace(scenes[1], noise=replace(scenes[1].noise, read_lambda=0.1))]
    with pytest.raises(ValueError, match="one law"):
        rendered(photo, places, mixed)


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, as a GPU does; copies have one, too."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in tensors if x.dim()}
        assert len(devices) <= 1, f"{func} has tensors on {devices}"
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@cameras
def test_all_lies_on_one_device(camera: CameraName) -> None:
    photo = np.zeros((SIZE, SIZE, 3), np.float16)
    scenes = some_scenes(camera, 2)
    with OneDevice():
        got = rendered(photo, [((0, 0), TURNS[5])] * 2, scenes, device=torch.device("meta"))
    assert {x.device.type for x in (got.planes, got.target, got.dn)} == {"meta"}
    assert got.target.shape == (2, 3, SIZE, SIZE)
