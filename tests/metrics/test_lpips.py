"""LPIPS and PieAPP with made-up weights, against the papers' networks written out once more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gia_cli.errors import WeightsCorruptError, WeightsMismatchError, WeightsNotFoundError
from gia_cli.metrics import lpips as perceptual
from gia_cli.metrics import pieapp as pieapp_module
from gia_cli.metrics.lpips import Lpips, LpipsNet, load_lpips, lpips
from gia_cli.metrics.perceptual import Unavailable, weights_folder
from gia_cli.metrics.pieapp import PieApp, load_pieapp, pieapp

pytestmark = pytest.mark.usefixtures("one_thread")

Picture = NDArray[np.float32]
State = dict[str, Tensor]

NETS: list[LpipsNet] = ["alex", "vgg"]
# Channels in and out and kernel of torchvision's convolutions, by their index in `features`.
CONVS: dict[LpipsNet, dict[int, tuple[int, int, int]]] = {
    "alex": {
        0: (3, 64, 11), 3: (64, 192, 5),
        6: (192, 384, 3), 8: (384, 256, 3), 10: (256, 256, 3),
    },
    "vgg": {
        0: (3, 64, 3), 2: (64, 64, 3), 5: (64, 128, 3), 7: (128, 128, 3), 10: (128, 256, 3),
        12: (256, 256, 3), 14: (256, 256, 3), 17: (256, 512, 3), 19: (512, 512, 3),
        21: (512, 512, 3), 24: (512, 512, 3), 26: (512, 512, 3), 28: (512, 512, 3),
    },
}  # fmt: skip
HEADS: dict[LpipsNet, list[int]] = {
    "alex": [64, 192, 384, 256, 256],
    "vgg": [64, 128, 256, 512, 512],
}
PUBLISHED: dict[LpipsNet, str] = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


def convolution(
    name: str, channels_in: int, channels_out: int, kernel: int, generator: torch.Generator
) -> State:
    spread = (2 / (channels_in * kernel**2)) ** 0.5
    weight = torch.randn(channels_out, channels_in, kernel, kernel, generator=generator)
    bias = 0.1 * torch.randn(channels_out, generator=generator)
    return {f"{name}.weight": spread * weight, f"{name}.bias": bias}


def lpips_state(net: LpipsNet, seed: int = 3) -> tuple[State, State]:
    """Make up a backbone and heads; these are never negative, as the published ones."""
    generator = torch.Generator().manual_seed(seed)
    backbone: State = {}
    for index, shape in CONVS[net].items():
        backbone |= convolution(f"features.{index}", *shape, generator)
    heads = {
        f"lin{index}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for index, channels in enumerate(HEADS[net])
    }
    return backbone, heads


@pytest.fixture(scope="module")
def models() -> dict[LpipsNet, Lpips]:
    made: dict[LpipsNet, Lpips] = {}
    for net in NETS:
        backbone, heads = lpips_state(net)
        made[net] = Lpips(net)
        made[net].load_state_dict(backbone | heads, strict=True)
    return made


def picture(rng: np.random.Generator, height: int, width: int) -> Picture:
    coarse = rng.random((-(-height // 8), -(-width // 8), 3))
    smooth = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width]
    return (0.8 * smooth + 0.2 * rng.random((height, width, 3))).astype(np.float32)


def noisy(target: Picture, sigma: float, rng: np.random.Generator) -> Picture:
    return (target + sigma * rng.normal(size=target.shape)).clip(0, 1).astype(np.float32)


# ---------------------------------------------------------------- LPIPS


def plain_lpips(net: LpipsNet, picture: Picture, target: Picture) -> float:
    """Equation 1 of the paper on the whole picture, in double precision."""
    backbone, heads = lpips_state(net)

    def conv(x: Tensor, index: int, stride: int = 1, padding: int = 1) -> Tensor:
        weight, bias = (backbone[f"features.{index}.{part}"] for part in ("weight", "bias"))
        return F.relu(F.conv2d(x, weight.double(), bias.double(), stride, padding))

    def alexnet(x: Tensor) -> list[Tensor]:
        one = conv(x, 0, 4, 2)
        two = conv(F.max_pool2d(one, 3, 2), 3, 1, 2)
        three = conv(F.max_pool2d(two, 3, 2), 6)
        four = conv(three, 8)
        return [one, two, three, four, conv(four, 10)]

    def vgg(x: Tensor) -> list[Tensor]:
        one = conv(conv(x, 0), 2)
        two = conv(conv(F.max_pool2d(one, 2), 5), 7)
        three = conv(conv(conv(F.max_pool2d(two, 2), 10), 12), 14)
        four = conv(conv(conv(F.max_pool2d(three, 2), 17), 19), 21)
        return [one, two, three, four, conv(conv(conv(F.max_pool2d(four, 2), 24), 26), 28)]

    def layers(pixels: Picture) -> list[Tensor]:
        x = 2 * torch.from_numpy(pixels.astype(np.float64).transpose(2, 0, 1))[None] - 1
        shift = torch.tensor([-0.030, -0.088, -0.188]).double()[None, :, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450]).double()[None, :, None, None]
        return (alexnet if net == "alex" else vgg)((x - shift) / scale)

    total = 0.0
    for index, (x, y) in enumerate(zip(layers(picture), layers(target), strict=True)):
        x, y = (v / (v.norm(dim=1, keepdim=True) + 1e-10) for v in (x, y))
        weights = heads[f"lin{index}.model.1.weight"].double()
        total += (weights * (x - y) ** 2).sum(dim=1).mean().item()
    return total


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("size", [(64, 64), (31, 47), (77, 130)])
def test_lpips_equals_a_plain_implementation(
    net: LpipsNet, size: tuple[int, int], models: dict[LpipsNet, Lpips], rng: np.random.Generator
) -> None:
    target = picture(rng, *size)
    other = noisy(target, 0.1, rng)
    expected = plain_lpips(net, other, target)
    assert expected > 0.1
    assert lpips(other, target, models[net]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("size", [(257, 40), (34, 230)])
def test_tiles_change_nothing(
    net: LpipsNet,
    size: tuple[int, int],
    models: dict[LpipsNet, Lpips],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sides that leave a last tile of one pixel, and rows that rounding drops."""
    target = picture(rng, *size)
    other = noisy(target, 0.1, rng)
    model = models[net]
    whole = lpips(other, target, model)
    monkeypatch.setattr(model, "plan", replace(model.plan, core=64))
    assert len(perceptual._spans(max(size), 64)) == -(-max(size) // 64) > 3
    assert lpips(other, target, model) == pytest.approx(whole, rel=2e-6)


@pytest.mark.slow
def test_a_halo_too_small_would_show(
    models: dict[LpipsNet, Lpips], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = picture(rng, 250, 20)
    other = noisy(target, 0.1, rng)
    model = models["vgg"]
    whole = lpips(other, target, model)
    monkeypatch.setattr(model, "plan", replace(model.plan, core=64))
    monkeypatch.setattr(perceptual, "_HALO", 64)
    assert lpips(other, target, model) != pytest.approx(whole, rel=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_a_value_sees_no_farther_than_the_halo(net: LpipsNet) -> None:
    """Gradients of a core's values, for light that rises and falls: a maximum has one place."""
    model = Lpips(net)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(0.0 if name.endswith("bias") else 1e-3)
    start, stop = 128, 160
    seen: list[int] = []
    for ramp in (torch.linspace(0.8, 1, stop + 128), torch.linspace(1, 0.8, stop + 128)):
        pixels = ramp.view(1, 1, -1, 1).repeat(1, 3, 1, 32).requires_grad_()
        *_, last = model.taps(pixels)
        values = last[:, :, start // 16 : stop // 16]
        (gradient,) = torch.autograd.grad(values.log().sum(), pixels)
        seen += gradient[0].abs().sum(dim=(0, 2)).nonzero().flatten().tolist()
    before, behind = start - min(seen), max(seen) - stop + 1
    assert (before, behind) == {"alex": (66, 81), "vgg": (90, 90)}[net]
    assert max(before, behind) <= perceptual._HALO


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_lpips_properties(
    net: LpipsNet, models: dict[LpipsNet, Lpips], rng: np.random.Generator
) -> None:
    target, model = picture(rng, 64, 72), models[net]
    assert lpips(target, target.copy(), model) == 0
    assert lpips(np.zeros_like(target), np.zeros_like(target), model) == 0
    other = noisy(target, 0.1, rng)
    assert lpips(other, target, model) == pytest.approx(lpips(target, other, model), rel=1e-5)
    values = [lpips(noisy(target, sigma, rng), target, model) for sigma in (0.02, 0.1, 0.4)]
    assert 0 < values[0] < values[1] < values[2]
    planes = np.ascontiguousarray(other.transpose(2, 0, 1)).transpose(1, 2, 0)
    wide = planes.astype(np.float64)
    wide.flags.writeable = False
    assert lpips(wide, target, model) == lpips(other, target, model)


@pytest.mark.parametrize("net", NETS)
def test_lpips_refuses_bad_pairs(net: LpipsNet, models: dict[LpipsNet, Lpips]) -> None:
    model, zeros = models[net], np.zeros((40, 40, 3))
    least = {"alex": 31, "vgg": 16}[net]
    assert lpips(zeros[:least], zeros[:least], model) == 0
    for bad in (zeros[: least - 1], zeros[:, : least - 1], zeros[..., 0], zeros[..., :2]):
        with pytest.raises(ValueError, match=r"too few|a picture is"):
            lpips(bad, bad, model)
    with pytest.raises(ValueError, match="different shapes"):
        lpips(zeros, zeros[:39], model)


@pytest.mark.parametrize("net", NETS)
def test_names_are_the_published_ones(net: LpipsNet, models: dict[LpipsNet, Lpips]) -> None:
    features = {f"features.{i}.{part}" for i in CONVS[net] for part in ("weight", "bias")}
    heads = {f"lin{i}.model.1.weight" for i in range(5)}
    assert models[net].state_dict().keys() == features | heads
    assert not any(p.requires_grad for p in models[net].parameters())
    assert not models[net].training


# ---------------------------------------------------------------- LPIPS's files


def save_as_published(folder: Path, net: LpipsNet) -> tuple[Path, Path]:
    """Both files as their makers give them, but for the name's digest, which is true."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone, heads = lpips_state(net)
    file = folder / "backbone.pth"
    torch.save({**backbone, "classifier.1.weight": torch.zeros(2, 2)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    stem = "alexnet-owt" if net == "alex" else "vgg16"
    file = file.rename(folder / f"{stem}-{digest[:8]}.pth")
    torch.save(heads, folder / f"{net}.pth")
    return file, folder / f"{net}.pth"


def loaded(found: Any) -> State:
    assert isinstance(found, Lpips | PieApp)
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    return found.state_dict()


def assert_equal(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_the_two_published_files_are_found_in_the_cache(net: LpipsNet) -> None:
    backbone, heads = lpips_state(net)
    save_as_published(weights_folder(), net)
    assert_equal(loaded(load_lpips(net)), backbone | heads)
    assert_equal(loaded(load_lpips(net, weights_folder())), backbone | heads)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_one_file_may_hold_both(tmp_path: Path, suffix: str) -> None:
    backbone, heads = lpips_state("alex")
    weights_folder().mkdir(parents=True)
    for path in (tmp_path / f"any.{suffix}", weights_folder() / f"lpips-alex.{suffix}"):
        if suffix == "pth":
            torch.save(backbone | heads, path)
        else:
            safetensors.torch.save_file(backbone | heads, path)
    assert_equal(loaded(load_lpips("alex", tmp_path / f"any.{suffix}")), backbone | heads)
    assert_equal(loaded(load_lpips("alex")), backbone | heads)


def test_heads_under_a_name_with_a_digest(tmp_path: Path) -> None:
    backbone, heads = lpips_state("alex")
    _, file = save_as_published(tmp_path, "alex")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    named = file.rename(file.with_name(f"LPIPS_v0.1_alex-{digest[:8]}.pth"))
    assert_equal(loaded(load_lpips("alex", tmp_path)), backbone | heads)
    named.rename(named.with_name("LPIPS_v0.1_alex-00000000.pth"))
    with pytest.raises(WeightsCorruptError, match="its name says 00000000"):
        load_lpips("alex", tmp_path)


@pytest.mark.parametrize("net", NETS)
def test_absent_files_are_a_reason_not_an_error(net: LpipsNet) -> None:
    found = load_lpips(net)
    assert isinstance(found, Unavailable)
    assert str(found).startswith("n/a (LPIPS with ")
    for part in (PUBLISHED[net], f"{net}.pth", str(weights_folder())):
        assert part in found.reason
    backbone, _ = save_as_published(weights_folder(), net)
    backbone.unlink()
    found = load_lpips(net)
    assert isinstance(found, Unavailable)
    assert PUBLISHED[net] in found.reason
    assert f"'s {net}.pth" not in found.reason


def test_a_path_that_is_given_must_be_there(tmp_path: Path) -> None:
    for load in (load_lpips, load_pieapp):
        with pytest.raises(WeightsNotFoundError, match="No such file"):
            load(path=tmp_path / "none.pth")
        with pytest.raises(WeightsNotFoundError, match=str(tmp_path)):
            load(path=tmp_path)


def test_published_names_promise_a_digest() -> None:
    weights_folder().mkdir(parents=True)
    backbone, heads = lpips_state("alex")
    torch.save(backbone, weights_folder() / PUBLISHED["alex"])
    torch.save(heads, weights_folder() / "alex.pth")
    with pytest.raises(WeightsCorruptError, match="its name says 7be5be79"):
        load_lpips("alex")


@pytest.mark.parametrize("name", ["alex.pth", "PieAPPv0.1.pth"])
def test_a_digest_beside_a_file_is_checked(name: str) -> None:
    save_as_published(weights_folder(), "alex")
    (weights_folder() / "PieAPPv0.1.pth").write_bytes(b"anything")
    (weights_folder() / f"{name}.sha256").write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(WeightsCorruptError, match=name):
        load_lpips("alex") if name == "alex.pth" else load_pieapp()


def with_change(state: State, change: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (state | change).items() if value is not None}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"features.8.bias": None}, "features.8.bias is missing"),
        ({"lin2.model.1.weight": None}, "lin2.model.1.weight is missing"),
        ({"lin2.model.1.weight": 3}, "lin2.model.1.weight is missing"),
        ({"lin5.model.1.weight": torch.zeros(1)}, "lin5.model.1.weight is left over"),
        ({"features.12.weight": torch.zeros(1)}, "features.12.weight is left over"),
        ({"lin0.model.1.weight": torch.zeros(1, 63, 1, 1)}, r"shape \(1, 63, 1, 1\), not \(1, 64"),
        ({"features.3.bias": torch.full((192,), torch.nan)}, "not finite"),
    ],
)
def test_lpips_files_that_do_not_fit(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    backbone, heads = lpips_state("alex")
    torch.save(with_change(backbone | heads, change), tmp_path / "both.pth")
    with pytest.raises(WeightsMismatchError, match=problem):
        load_lpips("alex", tmp_path / "both.pth")


def test_one_networks_file_is_not_taken_for_anothers(tmp_path: Path) -> None:
    backbone, heads = lpips_state("alex")
    torch.save(backbone | heads, tmp_path / "both.pth")
    with pytest.raises(WeightsMismatchError, match="does not fit LPIPS with VGG-16"):
        load_lpips("vgg", tmp_path / "both.pth")
    torch.save(backbone, tmp_path / "backbone.pth")
    with pytest.raises(WeightsMismatchError, match=r"lin0\.model\.1\.weight is missing"):
        load_lpips("alex", tmp_path / "backbone.pth")


@pytest.mark.parametrize("load", [load_lpips, load_pieapp])
def test_no_code_is_run(tmp_path: Path, load: Callable[..., Any]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"features.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsMismatchError):
        load(path=tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


# ---------------------------------------------------------------- PieAPP

PIEAPP_CONVS = [
    (3, 64), (64, 64), (64, 64), (64, 128), (128, 128), (128, 128),
    (128, 256), (256, 256), (256, 256), (256, 512), (512, 512),
]  # fmt: skip
PIEAPP_LAYERS = {
    "fc1_score": (512, 120832),
    "fc2_score": (1, 512),
    "ref_score_subtract": (1, 1),
    "fc1_weight": (512, 2048),
    "fc2_weight": (1, 512),
}


@pytest.fixture(scope="module")
def pieapp_state() -> State:
    """Made-up weights; the 62 million numbers of one layer repeat a few thousand."""
    generator = torch.Generator().manual_seed(5)
    state: State = {}
    for number, (channels_in, channels_out) in enumerate(PIEAPP_CONVS, start=1):
        state |= convolution(f"conv{number}", channels_in, channels_out, 3, generator)
    state["conv1.weight"] /= 255
    for name, (rows, cols) in PIEAPP_LAYERS.items():
        some = torch.randn(rows, min(cols, 1888), generator=generator) / cols**0.5
        state[f"{name}.weight"] = some.repeat(1, -(-cols // some.shape[1]))[:, :cols].contiguous()
        state[f"{name}.bias"] = 0.1 * torch.randn(rows, generator=generator)
    state["fc2_weight.bias"] += 2  # as after training, weights are mostly positive
    return state


@pytest.fixture(scope="module")
def judge(pieapp_state: State) -> PieApp:
    with torch.device("meta"):
        network = PieApp()
    network.load_state_dict(pieapp_state, strict=True, assign=True)
    return network


def plain_pieapp(state: State, picture: Picture, target: Picture, stride: int) -> float:
    """The paper's Figures 2 and 3, one patch after the other."""

    def conv(number: int, x: Tensor) -> Tensor:
        weight, bias = state[f"conv{number}.weight"], state[f"conv{number}.bias"]
        return torch.relu(F.conv2d(x, weight, bias, padding=1))

    def linear(name: str, x: Tensor) -> Tensor:
        return state[f"{name}.weight"] @ x + state[f"{name}.bias"]

    def features(patch: Picture) -> list[Tensor]:
        blue_first = np.stack([patch[..., 2], patch[..., 1], patch[..., 0]])
        x3 = conv(3, F.max_pool2d(conv(2, conv(1, torch.from_numpy(255 * blue_first))), 2))
        x5 = conv(5, F.max_pool2d(conv(4, x3), 2))
        x7 = conv(7, F.max_pool2d(conv(6, x5), 2))
        x9 = conv(9, F.max_pool2d(conv(8, x7), 2))
        x11 = conv(11, F.max_pool2d(conv(10, x9), 2))
        assert x11.shape == (512, 2, 2)
        return [x.reshape(-1) for x in (x3, x5, x7, x9, x11)]

    errors = weights = 0.0
    for top in range(0, picture.shape[0] - 63, stride):
        for left in range(0, picture.shape[1] - 63, stride):
            part = (slice(top, top + 64), slice(left, left + 64))
            pairs = zip(features(target[part]), features(picture[part]), strict=True)
            differences = [wanted - ours for wanted, ours in pairs]
            hidden = torch.relu(linear("fc1_score", torch.cat(differences)))
            error = linear("ref_score_subtract", 0.01 * linear("fc2_score", hidden))
            hidden = torch.relu(linear("fc1_weight", differences[-1]))
            weight = linear("fc2_weight", hidden) + 1e-6
            errors += (error * weight).item()
            weights += weight.item()
    return errors / weights


@pytest.mark.slow
@pytest.mark.parametrize(("size", "stride"), [((64, 64), 27), ((91, 130), 27), ((70, 76), 6)])
def test_pieapp_equals_a_plain_implementation(
    size: tuple[int, int],
    stride: int,
    judge: PieApp,
    pieapp_state: State,
    rng: np.random.Generator,
) -> None:
    target = picture(rng, *size)
    other = noisy(target, 0.1, rng)
    expected = plain_pieapp(pieapp_state, other, target, stride)
    own = pieapp(other, target, judge, stride=stride)
    assert own == pytest.approx(expected, rel=1e-4)
    same = plain_pieapp(pieapp_state, target, target, 64)
    assert abs(expected - same) > 1e-3 * abs(same)


def test_pieapp_of_equal_pictures_is_the_networks_zero(
    judge: PieApp, pieapp_state: State, rng: np.random.Generator
) -> None:
    """No difference leaves the biases, which training brings to zero, whatever the picture."""
    target = picture(rng, 64, 100)
    bias = torch.relu(pieapp_state["fc1_score.bias"])
    score = 0.01 * (pieapp_state["fc2_score.weight"] @ bias + pieapp_state["fc2_score.bias"])
    score = pieapp_state["ref_score_subtract.weight"] @ score
    score = score + pieapp_state["ref_score_subtract.bias"]
    assert pieapp(target, target.copy(), judge) == pytest.approx(score.item(), rel=1e-5)
    assert pieapp(1 - target, 1 - target, judge) == pytest.approx(score.item(), rel=1e-5)


def test_pieapp_is_not_symmetric_and_reads_colors_in_order(
    judge: PieApp, rng: np.random.Generator
) -> None:
    target = picture(rng, 64, 64)
    other = noisy(target, 0.2, rng)
    value = pieapp(other, target, judge)
    assert value != pytest.approx(pieapp(target, other, judge), rel=1e-4)
    assert value != pytest.approx(pieapp(other[..., ::-1], target[..., ::-1], judge), rel=1e-4)


@pytest.mark.slow
def test_how_many_patches_go_at_once_does_not_matter(
    judge: PieApp, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = picture(rng, 70, 100)
    other = noisy(target, 0.1, rng)
    value = pieapp(other, target, judge, stride=6)
    monkeypatch.setattr(pieapp_module, "_PATCHES_AT_ONCE", 4)
    assert pieapp(other, target, judge, stride=6) == pytest.approx(value, rel=1e-5)


def test_pieapp_refuses_bad_pairs(judge: PieApp) -> None:
    zeros = np.zeros((64, 64, 3))
    for bad in (zeros[:63], zeros[:, :63], zeros[..., 0], zeros[..., :2]):
        with pytest.raises(ValueError, match=r"too few|a picture is"):
            pieapp(bad, bad, judge)
    with pytest.raises(ValueError, match="different shapes"):
        pieapp(zeros, zeros[:63], judge)
    with pytest.raises(ValueError, match="stride"):
        pieapp(zeros, zeros, judge, stride=0)


def small(state: State) -> State:
    """The same names and shapes, but the largest matrix repeats one number and takes no room."""
    return state | {"fc1_score.weight": torch.full((1, 1), 0.5).expand(512, 120832)}


@pytest.mark.slow
def test_pieapps_file(pieapp_state: State) -> None:
    assert isinstance(load_pieapp(), Unavailable)
    assert "PieAPPv0.1.pth in" in str(load_pieapp())
    weights_folder().mkdir(parents=True)
    path = weights_folder() / "PieAPPv0.1.pth"
    names = [f"conv{number}" for number in range(1, 12)] + list(PIEAPP_LAYERS)
    state = small(pieapp_state)
    assert set(state) == {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    torch.save(state, path)
    assert_equal(loaded(load_pieapp()), state)
    # As published: the one number as a list of one.
    torch.save(state | {"ref_score_subtract.weight": torch.tensor([1.5])}, path)
    for place in (path, path.parent):
        found = loaded(load_pieapp(place))
        assert found["ref_score_subtract.weight"].tolist() == [[1.5]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"conv11.bias": None}, "conv11.bias is missing"),
        ({"conv12.bias": torch.zeros(1)}, "conv12.bias is left over"),
        ({"fc1_score.weight": torch.zeros(512, 1)}, r"shape \(512, 1\), not \(512, 120832\)"),
        ({"ref_score_subtract.weight": torch.zeros(2)}, r"shape \(2,\), not \(1, 1\)"),
        ({"conv1.bias": torch.full((64,), torch.inf)}, "not finite"),
    ],
)
def test_pieapp_files_that_do_not_fit(
    tmp_path: Path, pieapp_state: State, change: dict[str, Any], problem: str
) -> None:
    torch.save(with_change(small(pieapp_state), change), tmp_path / "other.pth")
    with pytest.raises(WeightsMismatchError, match=problem):
        load_pieapp(tmp_path / "other.pth")
