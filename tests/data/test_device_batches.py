"""Batches made on a device: as NumPy's but for their noise, and a function of seed, rank, step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gia_cli.cameras import CameraName
from gia_cli.data import device_batches as module
from gia_cli.data.augment import GivenBalance
from gia_cli.data.batches import Batches, load
from gia_cli.data.cache import ArrayCache
from gia_cli.data.crops import CropOptions
from gia_cli.data.device_batches import DeviceBatches, PhotoPixels
from gia_cli.data.synthetic import PhotoScenes, open_photos
from gia_cli.errors import DeviceError
from gia_cli.simulation.sensor import CAMERAS
from tests.data.test_synthetic import write_photos

CAMERA_NAMES: list[CameraName] = ["ILCE-7SM2", "X-T2"]
cameras = pytest.mark.parametrize("camera", CAMERA_NAMES)
OPTIONS = CropOptions(photos=2, crops=2, sides=(8, 16), multiple=4)
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ArrayCache:
    """Photographs of two sizes and two sources."""
    folder = tmp_path_factory.mktemp("photos")
    folders = [write_photos(folder / "a", 2), write_photos(folder / "b", 1, (72, 60))]
    return open_photos(folders, folder / "cache")


def batches(
    photos: ArrayCache,
    camera: CameraName = "ILCE-7SM2",
    *,
    resident: bool = False,
    seed: int = 3,
    rank: int = 0,
    device: torch.device = CPU,
    **scenes: Any,
) -> DeviceBatches:
    source = PhotoScenes(photos, photos.keys, camera, **scenes)
    pixels = PhotoPixels(photos, photos.keys, device, is_resident=resident)
    return DeviceBatches(source, pixels, OPTIONS, device=device, seed=seed, rank=rank, steps=10)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("floor", [0, None])
@cameras
def test_a_batch_is_numpys_but_for_the_noise(
    photos: ArrayCache, camera: CameraName, floor: int | None, resident: bool
) -> None:
    """Of the first photo: what is drawn of the second follows NumPy's noise of the first."""
    scenes: dict[str, Any] = {"balance": GivenBalance(), "floor": floor, "with_clean": True}
    made = batches(photos, camera, resident=resident, **scenes)
    source = PhotoScenes(photos, photos.keys, camera, **scenes)
    wanted = Batches(source, OPTIONS, seed=3, steps=10)
    for step in range(3):
        ours, numpys = made[step], wanted[step]
        assert [x.shape for x in ours[:3]] == [x.shape for x in numpys[:3]]
        assert [x.dtype for x in ours[:3]] == [x.dtype for x in numpys[:3]]
        assert torch.equal(ours[2][:2].nan_to_num(), numpys[2][:2].nan_to_num())
        torch.testing.assert_close(ours[1][:2], numpys[1][:2], rtol=0, atol=3e-6)
        assert not torch.equal(ours[1][2:], numpys[1][2:])
        assert ours.clean is not None and numpys.clean is not None
        assert ours.clean.shape == numpys.clean.shape == ours.planes.shape
        assert ours.clean.dtype == numpys.clean.dtype == torch.float32
        torch.testing.assert_close(ours.clean[:2], numpys.clean[:2], rtol=1e-5, atol=3e-6)
        means = [x[0][:2].mean(dim=(2, 3)) for x in (ours, numpys)]
        errors = [x[0][:2].std(dim=(2, 3)) for x in (ours, numpys)]
        near = (means[0] - means[1]).abs() < 5 * (errors[0] + errors[1]) / made.side(step)
        assert near.all()


@cameras
def test_a_batch_is_a_function_of_seed_rank_and_step(
    photos: ArrayCache, camera: CameraName
) -> None:
    first = batches(photos, camera)[4]
    elsewhere = batches(photos, camera, resident=True)
    elsewhere[9]  # whatever was made before
    assert all(torch.equal(x, y) for x, y in zip(first[:2], elsewhere[4][:2], strict=True))
    others = [
        batches(photos, camera)[5],
        batches(photos, camera, seed=4)[4],
        batches(photos, camera, rank=1)[4],
    ]
    for planes, *_ in others:
        assert planes.shape != first[0].shape or not torch.equal(planes, first[0])
    assert others[2][0].shape == first[0].shape  # ranks share the side


def test_crops_of_a_photo_are_neighbours_and_share_its_scene(photos: ArrayCache) -> None:
    told = batches(photos)[0].auxiliary
    assert torch.equal(told[0].nan_to_num(), told[1].nan_to_num())
    assert torch.equal(told[2].nan_to_num(), told[3].nan_to_num())
    assert not torch.equal(told[0].nan_to_num(), told[2].nan_to_num())


def test_what_the_picture_is_fused_with_is_the_exposure(photos: ArrayCache) -> None:
    scenes: dict[str, Any] = {"balance": GivenBalance(), "floor": None}
    planes, _, _, measured, _ = batches(photos, measures=True, **scenes)[0]
    camera = CAMERAS["ILCE-7SM2"]
    assert len(measured) == len(planes) == 4
    for own, found in zip(planes, measured, strict=True):
        red = (found.mosaic[::2, ::2] - found.black[0, 0]) * found.scale[0, 0]
        np.testing.assert_allclose(own[0], np.minimum(red, 1), atol=1e-5)
        assert found.mosaic.dtype == np.uint16 and found.mosaic.max() <= camera.white
    assert batches(photos, **scenes)[0][3] == []
    assert batches(photos, **scenes)[0].clean is None


def test_photographs_lie_on_a_gpu_only_where_there_is_room(
    photos: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not PhotoPixels(photos, photos.keys, CPU).is_resident
    sent: list[int] = []
    monkeypatch.setattr(PhotoPixels, "_sent", lambda self, keys: sent.append(self.bytes))
    need = 6 * sum(np.prod(photos.metadata(key)["size"]) for key in photos.keys)
    for free in (int(need / 0.49), int(need / 0.51)):
        monkeypatch.setattr(module, "free_bytes", lambda device, index, free=free: free)
        PhotoPixels(photos, photos.keys, torch.device("cuda"))
    assert sent == [need]  # with a little more room than that; with less they stay here
    monkeypatch.setattr(module, "free_bytes", lambda device, index: 10**12 if index == 1 else 0)
    for card in ("cuda", "cuda:0", "cuda:1"):
        PhotoPixels(photos, photos.keys, torch.device(card))
    assert sent == [need, need]  # the card's own room counts


def test_the_largest_crops_are_made_on_the_device_too(photos: ArrayCache) -> None:
    """What shows whether they fit must take the memory that simulating them takes."""
    source = PhotoScenes(photos, photos.keys, "ILCE-7SM2")
    made = batches(photos).largest()[0]
    plain = Batches(source, OPTIONS, seed=3, steps=10).largest()[0]
    assert made.shape == plain.shape == (4, 4, 16, 16)
    assert not torch.equal(made, plain)


def test_they_are_loaded_as_any_batches(photos: ArrayCache) -> None:
    made = batches(photos)
    found = list(load(made, range(2, 4), workers=0))
    for step, batch in zip((2, 3), found, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(batch[:2], made[step][:2], strict=True))


def test_a_device_that_cannot_draw_poisson_numbers_is_refused(
    photos: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise NotImplementedError("aten::poisson")

    monkeypatch.setattr(torch, "poisson", missing)
    with pytest.raises(DeviceError, match="--simulation numpy"):
        batches(photos)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@cameras
def test_a_gpu_makes_the_same_pictures(photos: ArrayCache, camera: CameraName) -> None:
    device = torch.device("cuda")
    for resident in (False, True):
        made = batches(photos, camera, resident=resident, device=device)
        ours, cpus = made[1], batches(photos, camera)[1]
        assert all(x.is_cuda for x in ours[:3])
        torch.testing.assert_close(ours[1].cpu(), cpus[1], rtol=0, atol=3e-6)
        assert all(torch.equal(x, y) for x, y in zip(ours[:2], made[1][:2], strict=True))
