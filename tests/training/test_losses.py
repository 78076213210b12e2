"""The losses, against reference libraries, plain loops and their own definitions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from gia_cli.errors import (
    UsageError,
    WeightsCorruptError,
    WeightsError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.metrics import ssim as ssim_module
from gia_cli.metrics.ssim import ms_ssim, ssim, standard_ms_ssim
from gia_cli.training.losses import (
    Loss,
    joint_loss,
    l1,
    l2,
    load_vgg,
    make_loss,
    multiscale_loss,
    zamir_loss,
)
from tests.metrics.pairs import noisy, pictures
from tests.one_device import META, OneDevice

pytestmark = pytest.mark.usefixtures("one_thread")

SIMILARITIES: list[Loss] = [ssim, ms_ssim, standard_ms_ssim]
FUNCTIONS: list[Loss] = [*SIMILARITIES, l1, joint_loss, multiscale_loss]


# ---------------------------------------------------------------- what all of them share


@pytest.mark.parametrize("loss", [l1, joint_loss, multiscale_loss])
def test_losses_of_equal_pictures_are_zero(loss: Loss) -> None:
    target = pictures(2, 3, 64, 48)
    assert loss(target.clone(), target).shape == ()
    assert abs(loss(target.clone(), target).item()) < 1e-6


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_similarity_of_equal_pictures_is_one(similarity: Loss) -> None:
    target = pictures(2, 3, 192, 176)
    assert similarity(target.clone(), target).shape == ()
    assert similarity(target.clone(), target).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_symmetric(function: Loss) -> None:
    target = pictures(2, 3, 176, 176)
    picture = noisy(target, 0.1)
    forth, back = function(picture, target), function(target, picture)
    assert forth.item() == pytest.approx(back.item(), abs=1e-6)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_similarity_stays_in_bounds(similarity: Loss) -> None:
    target = pictures(1, 3, 176, 176)
    lowest = -1 if similarity is ssim else 0
    for picture in (
        1 - target,
        noisy(target, 3.0),
        target * 0,
        target * 0 + 1,
        -target,
        5 * target,
    ):
        assert lowest <= similarity(picture, target).item() < 1
    assert ms_ssim(1 - target, target) > 0


@pytest.mark.parametrize("function", FUNCTIONS)
def test_more_noise_is_worse(function: Loss) -> None:
    target = pictures(1, 3, 192, 192)
    values = [function(noisy(target, sigma), target).item() for sigma in (0.0, 0.02, 0.05, 0.2, 1)]
    ordered = sorted(values, reverse=function in SIMILARITIES)
    assert values == ordered
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_batch_is_the_mean_of_its_images(function: Loss) -> None:
    target = pictures(3, 3, 176, 192)
    picture = torch.cat([noisy(target[n : n + 1], 0.05 * 3**n) for n in range(3)])
    each = [function(picture[n : n + 1], target[n : n + 1]).item() for n in range(3)]
    assert function(picture, target).item() == pytest.approx(np.mean(each), abs=1e-6)
    assert np.ptp(each) > 0.05


@pytest.mark.parametrize("function", FUNCTIONS)
def test_memory_layout_does_not_matter(function: Loss) -> None:
    target = pictures(2, 3, 176, 192)
    picture = noisy(target, 0.1)
    planes = function(picture, target)
    pixels = function(picture.to(memory_format=torch.channels_last), target)
    assert planes.item() == pytest.approx(pixels.item(), abs=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_half_precision_and_autocast_compute_in_fp32(function: Loss) -> None:
    target = pictures(1, 3, 176, 176).bfloat16()
    picture = noisy(target.float(), 0.01).bfloat16()
    wide = function(picture.float(), target.float())
    assert torch.equal(function(picture, target), wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = function(picture.float(), target.float())
    assert torch.equal(under_autocast, wide)
    assert wide.dtype == torch.float32


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(1, 3, 192, 176), (2, 1, 192, 192), (3, 192, 192)])
def test_shapes_that_would_broadcast_are_refused(function: Loss, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        function(torch.zeros(2, 3, 192, 192), torch.zeros(shape))
    with pytest.raises(ValueError, match="one shape"):
        function(torch.zeros(3, 192, 192), torch.zeros(3, 192, 192))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_is_not_hidden(function: Loss) -> None:
    target = pictures(1, 3, 176, 176)
    picture = target.clone()
    picture[0, 1, 90, 90] = torch.nan
    assert function(picture, target).isnan()


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("loss", [l1, ssim, joint_loss, multiscale_loss])
def test_other_gradients(loss: Loss) -> None:
    target = pictures(1, 1, 11, 12, dtype=torch.float64)
    picture = noisy(target, 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), picture)


def test_a_negative_picture_is_pulled_towards_its_target() -> None:
    """Two negative scales must not reward each other, nor silence the gradient."""
    target = pictures(1, 3, 64, 64, dtype=torch.float64)
    picture = (1 - target).requires_grad_()
    factors = ssim_module._similarities(picture, target, 3, 11, 1.5)
    assert (factors < 0).all()
    value = ms_ssim(picture, target)
    value.backward()
    assert picture.grad is not None
    assert (picture.grad * (target - picture)).sum() > 0
    with torch.no_grad():
        step = 1e-3 * picture.grad / picture.grad.abs().max()
        assert ms_ssim(picture + step, target) > value


def test_equal_and_black_pictures_have_finite_gradients() -> None:
    target = pictures(1, 3, 48, 48)
    for like in (target, torch.zeros_like(target)):
        picture = like.clone().requires_grad_()
        joint_loss(picture, like).backward()
        assert picture.grad is not None
        assert picture.grad.isfinite().all()


@pytest.mark.slow
def test_minimising_the_joint_loss_restores_a_picture() -> None:
    target = pictures(1, 3, 44, 44)
    picture = noisy(target, 0.3).requires_grad_()
    before = joint_loss(picture, target).item()
    optimiser = torch.optim.Adam([picture], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        loss = joint_loss(picture, target)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * before


# ---------------------------------------------------------------- losses


def test_l1_is_the_mean_absolute_difference() -> None:
    picture = torch.tensor([0.0, 0.5, 1.25, -0.25]).view(1, 1, 2, 2)
    target = torch.tensor([0.5, 0.5, 1.0, 0.0]).view(1, 1, 2, 2)
    assert l1(picture, target).item() == 0.25


def test_l2_is_the_mean_squared_difference() -> None:
    picture = torch.tensor([0.0, 0.5, 1.25, -0.25]).view(1, 1, 2, 2)
    target = torch.tensor([0.5, 0.5, 1.0, 0.0]).view(1, 1, 2, 2)
    assert l2(picture, target).item() == (0.25 + 0.0625 + 0.0625) / 4
    assert make_loss("l2") is l2


def test_joint_loss_weights_l1_with_gamma() -> None:
    target = pictures(2, 3, 64, 64)
    picture = noisy(target, 0.1)
    absolute, structure = l1(picture, target).item(), 1 - ms_ssim(picture, target).item()
    for gamma in (0, 0.3, 1):
        expected = gamma * absolute + (1 - gamma) * structure
        assert joint_loss(picture, target, gamma).item() == pytest.approx(expected, abs=1e-6)
    expected = 0.84 * absolute + 0.16 * structure
    assert joint_loss(picture, target).item() == pytest.approx(expected, abs=1e-6)


def test_multiscale_loss_is_a_plain_loop() -> None:
    target = pictures(2, 3, 70, 96)
    picture = noisy(target, 0.1)
    error = (picture - target).double().numpy()
    scales = []
    for side in (1, 2, 4, 8, 16, 32):
        h, w = 70 // side, 96 // side
        blocks = error[..., : h * side, : w * side].reshape(2, 3, h, side, w, side)
        scales.append(np.abs(blocks.mean(axis=(3, 5))).mean())
    expected = 0.84 * sum(scales) / 2 + 0.16 * (1 - ms_ssim(picture, target).item())
    assert multiscale_loss(picture, target).item() == pytest.approx(expected, abs=1e-5)


def test_multiscale_loss_sees_what_noise_hides_from_l1() -> None:
    """Of an offset of 0.01 beside noise of 0.1, L1 notices 8 % (0.01 / (0.1 * sqrt(pi/2)))."""
    target = torch.full((1, 3, 192, 192), 0.5)
    noise = 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    picture = (target + noise).requires_grad_()
    pulls = []
    for loss in (l1, multiscale_loss):
        (gradient,) = torch.autograd.grad(loss(picture + 0.01, target), picture)
        pulls.append(gradient.sum().item())
    assert pulls[0] == pytest.approx(0.08, abs=0.01)
    assert pulls[1] > 10 * pulls[0]


def test_a_small_picture_has_fewer_scales() -> None:
    for height, scales in ((3, 2), (1, 1)):
        target = pictures(1, 3, height, 5)
        structure = 0.16 * (1 - ms_ssim(target + 0.1, target).item())
        expected = 0.84 * 0.1 * scales / 2
        found = multiscale_loss(target + 0.1, target).item()
        assert found - structure == pytest.approx(expected, abs=1e-6)


def test_make_loss_by_name() -> None:
    assert make_loss("l1") is l1
    assert make_loss("joint") is joint_loss
    assert make_loss("multiscale") is multiscale_loss


def test_make_loss_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    wrong: Any = "l3"
    with pytest.raises(UsageError, match=r"no loss 'l3'.*l1, l2, joint, multiscale or zamir"):
        make_loss(wrong)
    with pytest.raises(UsageError, match=r"needs --vgg FILE.*vgg16-397923af\.pth"):
        make_loss("zamir")
    with pytest.raises(UsageError, match="'joint' uses no VGG"):
        make_loss("joint", vgg=tmp_path / "vgg.pth")


# ---------------------------------------------------------------- perceptual features

LAYERS = {"features.0": (64, 3), "features.2": (64, 64), "features.5": (128, 64)}
LAYERS |= {"features.7": (128, 128)}


def vgg_tensors() -> dict[str, Tensor]:
    """Made-up weights under torchvision's names, and some of the layers that are not used."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, (out, into) in LAYERS.items():
        weight = torch.randn(out, into, 3, 3, generator=generator) * (2 / (9 * into)) ** 0.5
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)
    tensors["features.10.weight"] = torch.zeros(2, 2, 3, 3)
    tensors["classifier.0.weight"] = torch.zeros(2, 2)
    return tensors


@pytest.fixture
def vgg_file(tmp_path: Path) -> Path:
    path = tmp_path / "vgg.pth"
    torch.save(vgg_tensors(), path)
    return path


def plain_features(picture: Tensor) -> Tensor:
    """VGG's relu2_2 as the paper's table reads."""
    state = vgg_tensors()

    def conv(name: str, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))

    mean = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[None, :, None, None]
    x = conv("features.2", conv("features.0", (picture - mean) / std))
    return conv("features.7", conv("features.5", F.max_pool2d(x, kernel_size=2, stride=2)))


def test_features_equal_a_plain_implementation(vgg_file: Path) -> None:
    picture = noisy(pictures(2, 3, 24, 32), 0.2)
    found = load_vgg(vgg_file)(picture)
    assert found.shape == (2, 128, 12, 16)
    assert found.std() > 0.1
    torch.testing.assert_close(found, plain_features(picture))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "half"])
def test_weights_load_from_each_kind_of_file(tmp_path: Path, kind: str) -> None:
    tensors, path = vgg_tensors(), tmp_path / "vgg.pth"
    if kind == "safetensors":
        path = tmp_path / "vgg.safetensors"
        safetensors.torch.save_file(tensors, path)
    elif kind == "half":
        torch.save({name: tensor.half() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    loaded = load_vgg(path).state_dict()
    assert loaded.keys() == {f"{name}.{part}" for name in LAYERS for part in ("weight", "bias")}
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        tolerance = 1e-3 if kind == "half" else 0
        torch.testing.assert_close(tensor, tensors[name], rtol=tolerance, atol=tolerance)


def test_features_are_frozen(vgg_file: Path) -> None:
    features = load_vgg(vgg_file)
    assert not features.training
    assert not any(parameter.requires_grad for parameter in features.parameters())
    before = {name: tensor.clone() for name, tensor in features.state_dict().items()}
    picture = pictures(1, 3, 16, 16).requires_grad_()
    features(picture).sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().max() > 0
    after = features.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_features_are_on_the_pictures_device_before_the_first_one(vgg_file: Path) -> None:
    loss = make_loss("zamir", vgg=vgg_file, device=META)
    picture, target = (torch.zeros(1, 3, 16, 16, device=META) for _ in range(2))
    with OneDevice() as rules:
        assert loss(picture, target).device == META
    assert rules.copied == [(11,)] * len(rules.copied)  # SSIM's window


def test_features_take_other_precisions(vgg_file: Path) -> None:
    features, picture = load_vgg(vgg_file), pictures(1, 3, 16, 16)
    expected = features(picture)
    torch.testing.assert_close(features(picture.double()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = features(picture)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_zamir_loss_is_the_weighted_sum(vgg_file: Path) -> None:
    target = pictures(2, 3, 32, 32)
    picture = noisy(target, 0.1)
    loss = make_loss("zamir", vgg=vgg_file)
    perceptual = (plain_features(picture) - plain_features(target)).square().mean()
    expected = 0.35 * l1(picture, target) + 0.6 * (1 - ms_ssim(picture, target))
    expected = expected + 0.05 * perceptual
    assert loss(picture, target).shape == ()
    assert loss(picture, target).item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss(target.clone(), target).item() == pytest.approx(0, abs=1e-6)
    alone = zamir_loss(picture, target, load_vgg(vgg_file), (0, 0, 1))
    assert alone.item() == pytest.approx(perceptual.item(), rel=1e-5)
    assert alone > 0.01


def test_zamir_loss_trains(vgg_file: Path) -> None:
    target = pictures(1, 3, 16, 16)
    picture = noisy(target, 0.2).requires_grad_()
    loss = make_loss("zamir", vgg=vgg_file)
    before = loss(picture, target)
    before.backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()
    with torch.no_grad():
        assert loss(picture - 0.01 * picture.grad.sign(), target) < before


# ---------------------------------------------------------------- files of weights


def named_by_digest(path: Path) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"vgg16-{digest[:8]}.pth"))


def test_a_digest_in_the_name_is_checked(vgg_file: Path) -> None:
    path = named_by_digest(vgg_file)
    load_vgg(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsCorruptError, match=path.stem[-8:]) as caught:
        load_vgg(path)
    assert "Download it again" in str(caught.value)


def test_another_file_under_torchvisions_name_is_refused(vgg_file: Path) -> None:
    path = vgg_file.rename(vgg_file.with_name("vgg16-397923af.pth"))
    with pytest.raises(WeightsCorruptError, match="its name says 397923af"):
        make_loss("zamir", vgg=path)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "vgg16-397923af.pth"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=f"{name}.*No such file.*--vgg"):
        make_loss("zamir", vgg=tmp_path / name)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError):
        load_vgg(tmp_path)


def test_a_disk_that_fails_is_no_wrong_file(
    vgg_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(WeightsNotFoundError, match="Input/output error"):
        load_vgg(vgg_file)


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.pt", "vgg.safetensors"])
@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x02]q\x00.", b"PK\x03\x04" + bytes(99)])
def test_other_files_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(WeightsMismatchError, match=name) as caught:
        load_vgg(path)
    assert "vgg16-397923af.pth" in caught.value.hint


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, part: float) -> None:
    path = tmp_path / f"vgg.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        safetensors.torch.save_file(vgg_tensors(), path)
    else:
        torch.save(vgg_tensors(), path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(WeightsError):
        load_vgg(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": Trap()}, path)
    with pytest.raises(WeightsMismatchError):
        load_vgg(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"features.7.bias": None}, "features.7.bias is missing"),
        ({"features.7.bias": 3}, "features.7.bias is missing"),
        ({"features.2.weight": torch.zeros(64, 64, 1, 1)}, r"shape \(64, 64, 1, 1\), not \(64, 64"),
        ({"features.5.bias": torch.full((128,), torch.nan)}, "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "vgg.pth"
    tensors = {key: value for key, value in (vgg_tensors() | change).items() if value is not None}
    torch.save(tensors, path)
    with pytest.raises(WeightsMismatchError, match=problem):
        load_vgg(path)
