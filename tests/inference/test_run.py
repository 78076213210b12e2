"""Whole photos through a network: tiles with one vector equal the whole frame at once.

The weights here are made so that the vector matters (`lively`); with freshly initialised ones, or
those of trained weights whose depth is idle, a wrong vector would hide below any tolerance.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gia_cli.errors import OutOfMemoryError, UsageError
from gia_cli.inference import plan as plan_module
from gia_cli.inference import run as infer_module
from gia_cli.inference import torch_engine
from gia_cli.inference.engine import Engine
from gia_cli.inference.fallback import Running, failure_of
from gia_cli.inference.plan import InferOptions, Plan
from gia_cli.inference.run import _retreat
from gia_cli.inference.torch_engine import TorchEngine
from gia_cli.nets import build
from gia_cli.nets.base import Network
from gia_cli.nets.config import NETWORKS, NetConfig, NetName
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.cfa import Alignment, CfaKind
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.packing import PackedMosaic, prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.runtime import NumberFormat, Runtime
from gia_cli.tiling import round_up
from tests.networks import ALL, PLANES, SCALE, UNETS, WITH_VECTORS, lively, small
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILY: list[tuple[NetName, CfaKind]] = [
    ("sid-net", "bayer"),
    ("sid-net", "xtrans"),
    ("gia-net", "bayer"),
    ("gia-net", "xtrans"),
]
CPU = Runtime("cpu", "float32")
CUDA = Runtime("cuda", "float16")
PLENTY = 10**12
# Largest difference of any picture value, in units of the picture's standard deviation. Measured:
# up to 1.1e-5 in fp32; up to 6e-7 in fp64, where the picture and the mean are still fp32.
TOLERANCE = 4e-5
TOLERANCE_FP64 = 2e-6


def infer(
    network: Network,
    mosaic: PackedMosaic,
    runtime: Runtime,
    options: InferOptions | None = None,
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """On torch, which runs every network; other engines have tests of their own."""
    return infer_module.infer(TorchEngine(network, runtime), mosaic, options, progress)


def plan(network: Network, mosaic: PackedMosaic, runtime: Runtime, options: InferOptions) -> Plan:
    return plan_module.plan(TorchEngine(network, runtime), mosaic, options)


def photo(
    rng: np.random.Generator,
    cfa: CfaKind,
    height: int,
    width: int,
    alignment: Alignment = Alignment(0, 0, 0, 0),  # noqa: B008 - frozen
) -> PackedMosaic:
    """Planes of `height` x `width` packed pixels that are brighter on the right and at the top.

    So every tile has a mean of its own.
    """
    slope = np.linspace(0, 1, width)[None] * np.linspace(1, 0.2, height)[:, None]
    noise = rng.random((PLANES[cfa], height, width))
    planes = (0.7 * slope + 0.3 * noise).astype(np.float32)
    scale = SCALE[cfa]
    return PackedMosaic(
        planes,
        cfa,
        height * scale - alignment.top - alignment.bottom,
        width * scale - alignment.left - alignment.right,
        alignment,
    )


def direct(network: Network, mosaic: PackedMosaic) -> NDArray[np.float32]:
    """The whole picture by the shortest way: pad, forward, cut; nothing of `infer`."""
    planes = torch.from_numpy(mosaic.planes)[None].to(next(network.parameters()).dtype)
    height, width = planes.shape[2:]
    added = -height % network.stride, -width % network.stride
    index = [
        np.pad(np.arange(side), (0, more), mode="reflect" if min(height, width) > 1 else "edge")
        for side, more in zip((height, width), added, strict=True)
    ]
    padded = planes[:, :, index[0]][:, :, :, index[1]]
    if min(height, width) > 16:  # the same thing in torch's own words
        assert torch.equal(padded, F.pad(planes, (0, added[1], 0, added[0]), mode="reflect"))
    with torch.no_grad():
        picture = network(padded)[0].float().numpy()
    a = mosaic.alignment
    cut: NDArray[np.float32] = picture[:, a.top : a.top + mosaic.height, a.left :]
    return cut[..., : mosaic.width]


def deviation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest difference in units of the second's standard deviation."""
    assert one.shape == other.shape
    return float(np.abs(one - other).max() / other.std())


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine: nothing is tiled unless a test asks for it."""
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: PLENTY)
    monkeypatch.setattr(plan_module, "resident_bytes", lambda: 0)
    for name in ("_LIBRARY_BYTES", "_LIBRARY_KEEPS", "TALL_BAND_AREA"):
        monkeypatch.setattr(torch_engine, name, 0)


# ---------------------------------------------------------------- the weights of these tests


@pytest.mark.slow
@pytest.mark.parametrize(("width", "cfa"), [(8, "bayer"), (8, "xtrans"), (32, "bayer")])
def test_the_vector_matters_in_these_tests(
    width: int, cfa: CfaKind, rng: np.random.Generator
) -> None:
    network = lively(NetConfig("gia-net", cfa, width=width))
    x = torch.from_numpy(photo(rng, cfa, 64, 64).planes)[None]
    with torch.no_grad():
        features = network.encode(x)
        corners = [features[-1][:, :, row, col] for row, col in ((0, 0), (0, -1), (-1, 0))]
        means = [features[-1].mean(dim=(2, 3)), *corners]
        own, *others = (
            network.decode(list(features), network.global_term(0, mean)) for mean in means
        )
    for other in others:
        assert (other - own).std() > 0.05 * own.std()
        assert (other - own).abs().max() > 1000 * TOLERANCE * own.std()


# ---------------------------------------------------------------- whole frame


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa"), ALL)
@pytest.mark.parametrize("size", [(65, 47), (16, 16), (1, 1), (3, 7), (1, 40)])
def test_whole_frame_is_one_forward_pass(
    name: str, cfa: CfaKind, size: tuple[int, int], rng: np.random.Generator
) -> None:
    network = lively(small(name, cfa))
    mosaic = photo(rng, cfa, *size)
    picture = infer(network, mosaic, CPU)
    assert picture.dtype == np.float32
    assert picture.shape == (3, size[0] * SCALE[cfa], size[1] * SCALE[cfa])
    assert deviation(picture, direct(network, mosaic)) < TOLERANCE


@pytest.mark.parametrize("tile", ["auto", 64])
@pytest.mark.parametrize(
    ("cfa", "alignment"),
    [
        ("bayer", Alignment(1, 0, 1, 0)),
        ("bayer", Alignment(0, 1, 0, 1)),
        ("bayer", Alignment(1, 1, 0, 0)),
        ("xtrans", Alignment(2, 5, 4, 1)),
        ("xtrans", Alignment(0, 3, 5, 0)),
    ],
)
def test_what_alignment_added_is_cut_off(
    cfa: CfaKind, alignment: Alignment, tile: int, rng: np.random.Generator
) -> None:
    network = lively(NetConfig("gia-net", cfa, width=4))
    mosaic = photo(rng, cfa, 40, 56, alignment)
    picture = infer(network, mosaic, CPU, InferOptions(tile=tile))
    assert picture.shape == (3, mosaic.height, mosaic.width)
    assert deviation(picture, direct(network, mosaic)) < TOLERANCE
    uncut = infer(network, replace(mosaic, alignment=Alignment(0, 0, 0, 0)), CPU)
    if alignment.top or alignment.left:
        assert deviation(uncut[:, : picture.shape[1], : picture.shape[2]], picture) > 0.1


@pytest.mark.parametrize(("kind", "phase"), [("bayer", (1, 1)), ("xtrans", (0, 2))])
def test_a_frame_of_odd_size_and_phase_keeps_its_size(
    kind: CfaKind, phase: tuple[int, int], rng: np.random.Generator
) -> None:
    period = 2 if kind == "bayer" else 6
    frame = RawFrame(
        path=Path("odd.raw"),
        mosaic=rng.integers(500, 4000, (73, 91), np.uint16),
        kind=kind,
        phase=phase,
        black=np.full((period, period), 500, np.float32),
        white=np.full((period, period), 4000, np.float32),
        as_shot_wb=np.ones(3, np.float32),
        daylight_wb=None,
        xyz_to_camera=None,
        flip=0,
        shot=ShotInfo(),
    )
    network = lively(NetConfig("gia-net", kind, width=4))
    mosaic = prepare(frame, 1.5)
    for tile in ("auto", 32):
        picture = infer(network, mosaic, CPU, InferOptions(tile=tile))
        assert picture.shape == (3, 73, 91)
        assert deviation(picture, direct(network, mosaic)) < TOLERANCE


# ---------------------------------------------------------------- tiles


TILED: list[tuple[NetName, CfaKind, tuple[int, int], int]] = [
    ("gia-net", "bayer", (233, 101), 64),
    ("gia-net", "bayer", (128, 240), 128),
    ("gia-net", "bayer", (105, 307), 200),
    ("gia-net", "bayer", (100, 70), 1),
    ("gia-net", "bayer", (17, 250), 96),
    ("gia-net", "bayer", (250, 17), 96),
    ("gia-net", "bayer", (250, 5), 300),
    ("gia-net", "bayer", (5, 250), 96),
    ("gia-net", "xtrans", (120, 256), 150),
    ("gia-net", "xtrans", (241, 101), 300),
    ("gia-net", "xtrans", (20, 250), 96),
    ("sid-net", "bayer", (251, 103), 96),
    ("sid-net", "bayer", (105, 307), 200),
    ("sid-net", "xtrans", (241, 101), 300),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa", "size", "tile"), TILED)
def test_tiles_equal_the_whole_frame(
    name: NetName, cfa: CfaKind, size: tuple[int, int], tile: int, rng: np.random.Generator
) -> None:
    network = lively(NetConfig(name, cfa, width=4))
    mosaic = photo(rng, cfa, *size)
    options = InferOptions(tile=tile)
    assert not plan(network, mosaic, CPU, options).is_whole
    tiled = infer(network, mosaic, CPU, options)
    assert deviation(tiled, direct(network, mosaic)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cfa", "size", "tile"), TILED)
def test_tiles_differ_by_rounding_alone(
    name: NetName, cfa: CfaKind, size: tuple[int, int], tile: int, rng: np.random.Generator
) -> None:
    """With more digits the difference shrinks accordingly."""
    network = lively(NetConfig(name, cfa, width=4)).double()
    mosaic = photo(rng, cfa, *size)
    runtime = Runtime("cpu", "float64")
    tiled = infer(network, mosaic, runtime, InferOptions(tile=tile))
    assert deviation(tiled, direct(network, mosaic)) < TOLERANCE_FP64


# Frames of tiles that need a halo: thin, to save time.
THIN = {"sid-dilated": 470, "sw-net": 470, "sid-2conv": 340, "sgn": 250, "dncnn": 100}


@pytest.mark.slow
@pytest.mark.parametrize("is_wide", [False, True])
@pytest.mark.parametrize(("name", "cfa"), ALL)
def test_tiles_are_exact_for_every_network(
    name: str, cfa: CfaKind, is_wide: bool, rng: np.random.Generator
) -> None:
    network = lively(small(name, cfa))
    core = round_up(max(network.halo, 16), network.stride)
    length = 4 * core
    mosaic = photo(rng, cfa, *((17, length) if is_wide else (length, 17)))
    options = InferOptions(tile=core * SCALE[cfa])
    chosen = plan(network, mosaic, CPU, options)
    assert chosen.passes == WITH_VECTORS.get(name, 0) + 1
    assert 2 * network.halo + max(chosen.core) < max(chosen.frame)
    tiled, expected = infer(network, mosaic, CPU, options), direct(network, mosaic)
    assert deviation(tiled, expected) < TOLERANCE
    exact = infer(network.double(), mosaic, Runtime("cpu", "float64"), options)
    assert deviation(exact, direct(network, mosaic)) < TOLERANCE_FP64


@pytest.mark.slow
@pytest.mark.parametrize("name", [*THIN, *WITH_VECTORS])
def test_every_network_needs_its_halos(
    name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = lively(small(name))
    mosaic = photo(rng, "bayer", 17, THIN.get(name, 230))
    expected = direct(network, mosaic)
    patches: dict[str, Any] = {"halo": 0}
    if network.vectors:
        patches["vector_halos"] = (0,) * network.vectors
    for halo, nothing in patches.items():
        with monkeypatch.context() as patch:
            patch.setattr(network, halo, nothing)
            tiled = infer(network, mosaic, CPU, InferOptions(tile=64))
        assert deviation(tiled, expected) > 1e-3


@pytest.mark.slow
def test_tiles_equal_the_whole_frame_at_full_width(rng: np.random.Generator) -> None:
    network = lively(NetConfig("gia-net"))
    mosaic = photo(rng, "bayer", 119, 250)
    tiled = infer(network, mosaic, CPU, InferOptions(tile=256))
    assert deviation(tiled, direct(network, mosaic)) < TOLERANCE


def test_a_tile_as_large_as_the_frame_is_the_whole_frame(rng: np.random.Generator) -> None:
    network = lively(NetConfig("gia-net", width=4))
    mosaic = photo(rng, "bayer", 45, 60)
    whole = infer(network, mosaic, CPU)
    for tile in (128, 5000):
        assert plan(network, mosaic, CPU, InferOptions(tile=tile)).is_whole
        assert np.array_equal(infer(network, mosaic, CPU, InferOptions(tile=tile)), whole)


def test_a_vector_for_each_tile_would_show(rng: np.random.Generator) -> None:
    """What two passes are for: the tolerance above would catch pooling within tiles."""
    network = lively(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 256, 256)
    whole = direct(network, mosaic)
    wrong = np.empty_like(whole)
    with torch.no_grad():
        for start in (0, 128):
            read = slice(max(start - 96, 0), start + 128 + 96)
            piece = network(torch.from_numpy(mosaic.planes[:, :, read])[None])[0].numpy()
            left = 2 * (start - read.start)
            wrong[:, :, 2 * start : 2 * start + 256] = piece[:, :, left : left + 256]
    assert deviation(wrong, whole) > 1000 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(("halo", "too_little"), [("halo", 16), ("vector_halos", (16,))])
def test_too_little_halo_would_show(
    halo: str,
    too_little: int | tuple[int],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = lively(NetConfig("gia-net", width=4))
    mosaic = photo(rng, "bayer", 192, 192)
    options = InferOptions(tile=64)
    assert deviation(infer(network, mosaic, CPU, options), direct(network, mosaic)) < TOLERANCE
    monkeypatch.setattr(network, halo, too_little)
    assert deviation(infer(network, mosaic, CPU, options), direct(network, mosaic)) > 1e-3


@pytest.mark.slow
def test_each_vector_needs_one_pass_more(rng: np.random.Generator) -> None:
    encoded = {}
    for name in ("sid-net", "gia-net", "ridnet"):
        network = lively(small(name))
        calls = count_calls(network)
        infer(network, photo(rng, "bayer", 64, 64), CPU, InferOptions(tile=64))
        encoded[name] = len(calls)
    assert encoded == {"sid-net": 4, "gia-net": 8, "ridnet": 20}


def count_calls(network: Network) -> list[tuple[int, ...]]:
    """Collect the shape of every input that the network encodes from now on."""
    shapes: list[tuple[int, ...]] = []
    encode = network.encode

    def counted(x: Tensor) -> list[Tensor]:
        shapes.append(tuple(x.shape))
        return encode(x)

    network.encode = counted  # type: ignore[method-assign]
    return shapes


def test_the_mosaic_is_left_alone(rng: np.random.Generator) -> None:
    network = lively(NetConfig("gia-net", width=2))
    mosaic = photo(rng, "bayer", 32, 32)
    before = mosaic.planes.copy()
    infer(network, mosaic, CPU)
    infer(network, mosaic, CPU, InferOptions(tile=32))
    assert np.array_equal(mosaic.planes, before)


def test_padding_is_the_reflected_border_and_nothing_else(rng: np.random.Generator) -> None:
    """A frame that is padded equals the larger frame that holds the reflection, cut down."""
    network = lively(NetConfig("gia-net", width=4))
    small = photo(rng, "bayer", 40, 44)
    planes = np.pad(small.planes, ((0, 0), (0, 8), (0, 4)), mode="reflect")
    large = replace(small, planes=planes, height=96, width=96)
    for options in (InferOptions(), InferOptions(tile=32)):
        one, other = infer(network, small, CPU, options), infer(network, large, CPU, options)
        assert one.shape == (3, 80, 88)
        assert np.array_equal(one, other[:, :80, :88])


@pytest.mark.slow
@pytest.mark.parametrize("tile", ["auto", 128])
def test_bf16_is_close_to_fp32(tile: int, rng: np.random.Generator) -> None:
    network = lively(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 160, 130)
    exact = infer(network, mosaic, CPU)
    runtime = Runtime("cpu", "bfloat16")
    rough = infer(copy.deepcopy(network), mosaic, runtime, InferOptions(tile=tile))
    assert rough.dtype == np.float32
    error = (rough - exact).std() / exact.std()
    assert 1e-4 < error < 0.05  # 8 bits of mantissa: not the same, but near


@pytest.mark.parametrize("tile", ["auto", 64])
def test_half_precision_sums_the_vector_in_fp32(
    tile: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum in bf16 would lose one percent over the 32 tiles here."""
    network = lively(NetConfig("gia-net", width=2)).to(torch.bfloat16)
    mosaic = photo(rng, "bayer", 16, 1024)
    means: list[Tensor] = []
    global_term = network.global_term

    def spy(index: int, mean: Tensor) -> Tensor:
        means.append(mean)
        return global_term(index, mean)

    monkeypatch.setattr(network, "global_term", spy)
    infer(network, mosaic, Runtime("cpu", "bfloat16"), InferOptions(tile=tile))
    (mean,) = means
    with torch.inference_mode():
        x = torch.from_numpy(mosaic.planes)[None].bfloat16()
        exact = network.encode(x)[-1].double().mean(dim=(2, 3))
    error = ((mean - exact).norm() / exact.norm()).item()
    assert error < 2**-9  # the rounding of the result alone


def test_half_precision_leaves_the_callers_weights_alone(rng: np.random.Generator) -> None:
    network = lively(NetConfig("gia-net", width=2))
    mosaic = photo(rng, "bayer", 40, 56)
    before = infer(network, mosaic, CPU)
    half = infer(network, mosaic, Runtime("cpu", "bfloat16"))
    assert np.array_equal(infer(network, mosaic, CPU), before)
    assert not np.array_equal(half, before)


# ---------------------------------------------------------------- out of memory

OUT_OF_MEMORY: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried ..."),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you ..."),
    lambda: RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    lambda: RuntimeError("could not create a primitive"),  # oneDNN under a limited address space
    lambda: RuntimeError("std::bad_alloc"),
    lambda: MemoryError("Unable to allocate 12.0 MiB"),
]


def fail_above(
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    *,
    area: int,
    error: Callable[[], Exception],
    in_stage: str = "decode",
) -> list[int]:
    """Let the network run out of memory above some size; returns the areas it was asked for."""
    asked: list[int] = []
    encode, decode = network.encode, network.decode

    def check(x: Tensor) -> None:
        asked.append(x.shape[2] * x.shape[3])
        if asked[-1] > area:
            raise error()

    def failing_encode(x: Tensor) -> list[Tensor]:
        check(x)
        return encode(x)

    def failing_decode(features: list[Tensor], *rest: Any) -> Tensor:
        check(features[0])
        return decode(features, *rest)

    failing = failing_encode if in_stage == "encode" else failing_decode
    monkeypatch.setattr(network, in_stage, failing)
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("in_stage", ["encode", "decode"])
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_retreats_to_tiles(
    error: Callable[[], Exception],
    in_stage: str,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = lively(NetConfig("gia-net", width=4))
    mosaic = photo(rng, "bayer", 16, 500)
    expected = direct(network, mosaic)
    asked = fail_above(network, monkeypatch, area=16 * 400, error=error, in_stage=in_stage)
    progress = ProgressSpy()
    picture = infer(network, mosaic, CPU, progress=progress)
    assert deviation(picture, expected) < TOLERANCE
    assert max(asked) == 16 * 512  # it was tried whole ...
    assert min(asked) < 16 * 400  # ... and went through in tiles
    assert progress.notes
    assert all("memory on the cpu" in note and "smaller tiles" in note for note in progress.notes)


def test_tiles_halve_until_they_fit(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = lively(NetConfig("gia-net", width=2))
    mosaic = photo(rng, "bayer", 16, 1024)
    expected = direct(network, mosaic)
    # Read regions are 1024, 608, 448, 320, 256 and 224 wide for cores of 1024 down to 32.
    fail_above(network, monkeypatch, area=16 * 300, error=MemoryError)
    progress = ProgressSpy()
    picture = infer(network, mosaic, CPU, progress=progress)
    assert deviation(picture, expected) < TOLERANCE
    assert len(progress.notes) == 4
    assert [total for _, total in progress.stages] == [100, 4, 8, 16, 32]
    assert progress.done[-1] == 32
    assert len(progress.details) == 5


def test_a_retreat_starts_from_the_tile_asked_for(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = lively(NetConfig("gia-net", width=2))
    mosaic = photo(rng, "bayer", 16, 1024)
    expected = direct(network, mosaic)
    fail_above(network, monkeypatch, area=16 * 300, error=MemoryError)
    progress = ProgressSpy()
    picture = infer(network, mosaic, CPU, InferOptions(tile=512), progress)
    assert deviation(picture, expected) < TOLERANCE
    assert [total for _, total in progress.stages] == [8, 16, 32]


@pytest.mark.parametrize("size", [(16, 400), (200, 200), (10, 10)])
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_what_never_fits_is_one_clear_error(
    error: Callable[[], Exception],
    size: tuple[int, int],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build(NetConfig("gia-net", width=2))
    fail_above(network, monkeypatch, area=0, error=error, in_stage="encode")
    with pytest.raises(OutOfMemoryError, match="smallest tile") as caught:
        infer(network, photo(rng, "bayer", *size), CPU)
    assert caught.value.exit_code == 51


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        lambda: ValueError("not enough memory"),
        lambda: KeyboardInterrupt(),
    ],
)
def test_other_errors_pass_through(
    error: Callable[[], BaseException], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(NetConfig("gia-net", width=2))
    raised = error()

    def fail(x: Tensor) -> list[Tensor]:
        raise raised

    monkeypatch.setattr(network, "encode", fail)
    progress = ProgressSpy()
    with pytest.raises(type(raised)) as caught:
        infer(network, photo(rng, "bayer", 32, 32), CPU, progress=progress)
    assert caught.value is raised
    assert progress.notes == []


def test_ctrl_c_is_not_lost_when_the_photo_cannot_be_ended_in_order(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(build(NetConfig("gia-net", width=2)), CPU)
    pressed = KeyboardInterrupt()

    def press(*_: Any) -> None:
        raise pressed

    def refuse() -> None:
        raise RuntimeError("busy")

    monkeypatch.setattr(engine, "run", press)
    monkeypatch.setattr(engine, "end_photo", refuse)
    running = Running(engine, later=[lambda _: pytest.fail("goes on")])
    with pytest.raises(KeyboardInterrupt) as caught:
        infer_module.infer(running, photo(rng, "bayer", 32, 32))
    assert caught.value is pressed


def test_ctrl_c_from_before_is_not_raised_again(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(NetConfig("gia-net", width=2))
    fail_above(network, monkeypatch, area=0, error=MemoryError, in_stage="encode")
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(OutOfMemoryError):  # a notebook's cell that handles it goes on
            infer(network, photo(rng, "bayer", 32, 32), CPU)


@pytest.mark.parametrize("runtime", [CPU, CUDA])
@pytest.mark.parametrize("frame", [(512, 768), (16, 1040), (1040, 16), (48, 48), (16, 16)])
def test_every_retreat_is_smaller_and_they_end(
    frame: tuple[int, int], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    progress = ProgressSpy()
    current: Plan | None = Plan(frame, frame)
    is_cuda = runtime is CUDA
    engine = TorchEngine(build(NetConfig("sid-net", width=1)), runtime)
    running, want = Running(engine), failure_of(MemoryError(), engine)
    sides = [max(frame)]
    while sides[-1] > 32:
        current = _retreat(want, current, running, progress)
        assert running.engine is engine
        assert current is not None
        assert current.frame == frame
        assert all(side % 16 == 0 for side in current.core)
        assert not current.is_whole
        sides.append(max(current.core))
        assert sides[-1] < sides[-2]
    assert len(emptied) == len(progress.notes) * is_cuda
    if is_cuda:
        assert _retreat(want, current, running, progress) is None
        assert str(running.engine) == f"torch on {CPU}"
        assert "on the CPU" in progress.notes[-1]
    with pytest.raises(OutOfMemoryError):
        _retreat(want, current, running, progress)


def test_a_gpu_that_fails_for_good_does_not_keep_its_error_to_the_end(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = infer_module._run

    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def fails_on_cuda(
        engine: Engine, mosaic: PackedMosaic, plan: Plan, progress: ProgressSpy, terms: None
    ) -> NDArray[np.float32]:
        if engine.device == "cuda":
            broken()
        return run(engine, mosaic, plan, progress)

    monkeypatch.setattr(infer_module, "_run", fails_on_cuda)
    monkeypatch.setattr(torch.cuda, "empty_cache", broken)  # such an error sticks
    network = lively(NetConfig("gia-net", width=4))
    mosaic, progress = photo(rng, "bayer", 90, 120), ProgressSpy()
    picture = infer(network, mosaic, CUDA, progress=progress)
    assert deviation(picture, direct(network, mosaic)) < TOLERANCE
    assert "illegal memory access" in progress.notes[-1] and "on the CPU" in progress.notes[-1]


def test_a_gpu_too_small_hands_over_to_the_cpu(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tried = infer_module._run, []

    def no_room_on_cuda(
        engine: Engine, mosaic: PackedMosaic, plan: Plan, progress: ProgressSpy, terms: None
    ) -> NDArray[np.float32]:
        tried.append((engine.device, max(plan.core)))
        if engine.device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(engine, mosaic, plan, progress)

    monkeypatch.setattr(infer_module, "_run", no_room_on_cuda)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    network = lively(NetConfig("gia-net", width=4))
    mosaic = photo(rng, "bayer", 90, 120)
    progress = ProgressSpy()
    picture = infer(network, mosaic, CUDA, progress=progress)
    assert deviation(picture, direct(network, mosaic)) < TOLERANCE
    # The CPU's memory decides anew: its tiles need not be the GPU's smallest.
    assert tried == [("cuda", 128), ("cuda", 64), ("cuda", 32), ("cpu", 128)]
    assert "continuing on the CPU" in progress.notes[-1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tile", ["auto", 128])
def test_cuda_equals_the_cpu(tile: int, rng: np.random.Generator) -> None:
    network = lively(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 160, 130)
    exact = infer(network, mosaic, CPU)
    formats: list[tuple[NumberFormat, float]] = [("float32", 0.01), ("float16", 0.02)]
    for dtype, tolerance in formats:
        runtime = Runtime("cuda", dtype)
        picture = infer(copy.deepcopy(network), mosaic, runtime, InferOptions(tile=tile))
        assert (picture - exact).std() < tolerance * exact.std()


# ---------------------------------------------------------------- planning


def test_plenty_of_memory_means_the_whole_frame(rng: np.random.Generator) -> None:
    network = build(NetConfig("gia-net", width=2))
    for size in ((1, 1), (16, 16), (100, 333)):
        chosen = plan(network, photo(rng, "bayer", *size), CPU, InferOptions())
        assert chosen.is_whole
        assert chosen.core == chosen.frame
        assert all(a % 16 == 0 and 0 <= a - b < 16 for a, b in zip(chosen.frame, size, strict=True))


def tile_count(chosen: Plan) -> int:
    (rows, cols), (height, width) = chosen.core, chosen.frame
    return -(-height // rows) * -(-width // cols)


@pytest.mark.parametrize("size", [(700, 1000), (1000, 700), (200, 3000)])
def test_less_memory_means_more_tiles(size: tuple[int, int], rng: np.random.Generator) -> None:
    network = build(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", *size)
    whole = size[0] * size[1] * network.bytes_per_pixel
    limits = [int(whole * share) for share in (3, 1.8, 1.4, 1.2, 1.0, 0.8, 0.7)]
    plans = [plan(network, mosaic, CPU, InferOptions(max_memory=limit)) for limit in limits]
    counts = [tile_count(chosen) for chosen in plans]
    assert counts[0] == 1
    assert plans[0].is_whole
    assert counts == sorted(counts)
    assert len(set(counts)) > 2


def test_an_impossible_limit_says_what_would_do(rng: np.random.Generator) -> None:
    network = build(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 700, 1000)
    with pytest.raises(OutOfMemoryError, match="not enough") as caught:
        plan(network, mosaic, CPU, InferOptions(max_memory=1_000_000))
    enough = re.search(r"(\d+)MB", caught.value.hint)
    assert enough is not None
    limit = 1_000_000 * int(enough[1])
    assert max(plan(network, mosaic, CPU, InferOptions(max_memory=limit)).core) <= 128
    with pytest.raises(OutOfMemoryError):
        plan(network, mosaic, CPU, InferOptions(max_memory=limit - 3_000_000))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_memory_limit_must_be_positive(limit: int) -> None:
    with pytest.raises(UsageError, match="--max-memory"):
        InferOptions(max_memory=limit)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: no kernel image is available\nCompile with ..."),
        NotImplementedError("The operator is not implemented for the MPS device"),
    ],
)
def test_what_a_gpu_cannot_do_the_cpu_does(
    error: Exception, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = lively(NetConfig("gia-net", width=2))
    mosaic = photo(rng, "bayer", 40, 56)
    run = infer_module._run

    def fail_on_cuda(engine: Engine, *rest: Any) -> Any:
        if engine.device == "cuda":
            raise error
        return run(engine, *rest)

    monkeypatch.setattr(infer_module, "_run", fail_on_cuda)
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: PLENTY)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    progress = ProgressSpy()
    picture = infer(network, mosaic, CUDA, progress=progress)
    assert np.array_equal(picture, infer(network, mosaic, CPU))
    (note,) = progress.notes
    assert str(error).splitlines()[0] in note
    assert "continuing on the CPU" in note


def test_half_precision_still_gives_a_picture_of_16_bits(rng: np.random.Generator) -> None:
    """A picture rounded to bf16 would have at most 128 levels from 0.5 to 1."""
    network = lively(NetConfig("gia-net", width=2))
    picture = infer(network, photo(rng, "bayer", 64, 96), Runtime("cpu", "bfloat16"))
    octave = picture[(np.abs(picture) >= 0.5) & (np.abs(picture) < 1)]
    assert octave.size > 2000
    assert len(np.unique(np.abs(octave))) > 1000


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.3])
def test_tiles_are_the_fewest_that_memory_holds(share: float, rng: np.random.Generator) -> None:
    network = build(NetConfig("gia-net"))
    mosaic = photo(rng, "bayer", 1000, 1400)
    area = mosaic.planes[0].size
    picture = area * 3 * 4 * 4
    budget = share * network.bytes_per_pixel * area
    chosen = plan(
        network, mosaic, CPU, InferOptions(max_memory=int(budget + picture + mosaic.planes.nbytes))
    )

    def needed(core: tuple[int, int]) -> float:
        """Bytes for the read region of a core in the midst of the frame."""
        rows, cols = (
            min(side + 2 * network.halo, length)
            for side, length in zip(core, chosen.frame, strict=True)
        )
        return rows * cols * network.bytes_per_pixel

    assert not chosen.is_whole
    assert all(side % network.stride == 0 for side in chosen.core)
    assert needed(chosen.core) <= budget
    for side in range(network.stride, max(chosen.frame), network.stride):
        square = Plan((side, side), chosen.frame)
        if tile_count(square) < tile_count(chosen):
            assert 1.1 * needed(square.core) > budget  # 1.1: what the planner keeps in reserve


@pytest.mark.parametrize("share", [0.9, 0.6, 0.4, 0.3])
def test_tiles_are_even(share: float, rng: np.random.Generator) -> None:
    network = build(NetConfig("gia-net"))
    mosaic = photo(rng, "bayer", 1000, 1400)
    limit = int(share * network.bytes_per_pixel * 1.4e6 + 1.4e6 * (48 + 16))
    chosen = plan(network, mosaic, CPU, InferOptions(max_memory=limit))
    for side, length in zip(chosen.core, chosen.frame, strict=True):
        count = -(-length // side)
        assert length - (count - 1) * side > side - count * network.stride


def test_free_memory_bounds_a_generous_limit(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 500, 500)
    assert plan(network, mosaic, CPU, InferOptions(max_memory=PLENTY)).is_whole
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 30_000_000)
    for limit in (None, PLENTY):
        assert not plan(network, mosaic, CPU, InferOptions(max_memory=limit)).is_whole


def test_what_the_process_holds_counts_against_the_limit(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 500, 500)
    options = InferOptions(max_memory=400_000_000)
    assert plan(network, mosaic, CPU, options).is_whole
    monkeypatch.setattr(plan_module, "resident_bytes", lambda: 360_000_000)
    assert not plan(network, mosaic, CPU, options).is_whole
    assert plan(network, mosaic, CUDA, options).is_whole  # the host's memory is not the GPU's


@pytest.mark.parametrize("limit", [None, 400_000_000])
def test_others_make_a_photo_wait_and_never_change_its_plan(
    limit: int | None, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(NetConfig("gia-net", width=8))
    small, large = (photo(rng, "bayer", side, side) for side in (500, 1400))
    alone = InferOptions(max_memory=limit)
    if limit is None:
        monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 400_000_000)
    assert plan(network, small, CPU, alone).is_whole
    plans = [plan(network, large, CPU, replace(alone, max_memory=m)) for m in (limit, 200_000_000)]
    assert len({chosen.core for chosen in plans}) == 2 and not plans[1].is_whole
    few = replace(alone, reserved=300_000_000)
    assert plan(network, small, CPU, few) == plan(network, small, CPU, alone)
    for mosaic, options in (
        (small, replace(alone, reserved=380_000_000)),
        (large, replace(alone, reserved=60_000_000)),
        (large, InferOptions(max_memory=200_000_000, reserved=60_000_000)),
    ):
        with pytest.raises(OutOfMemoryError, match="other photos"):
            plan(network, mosaic, CPU, options)
        assert plan(network, mosaic, CUDA, options).frame  # not of the GPU's memory


def test_what_others_hold_counts_only_while_they_are_there(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 500, 500)
    options = InferOptions(max_memory=400_000_000, held=100_000_000)
    alone = plan(network, mosaic, CPU, options)
    assert alone.is_whole
    monkeypatch.setattr(plan_module, "resident_bytes", lambda: 390_000_000)
    assert plan(network, mosaic, CPU, options) == alone  # what is held was said
    with pytest.raises(OutOfMemoryError, match="other photos"):
        plan(network, mosaic, CPU, replace(options, is_beside=True))
    monkeypatch.setattr(plan_module, "resident_bytes", lambda: 150_000_000)
    assert plan(network, mosaic, CPU, replace(options, is_beside=True)) == alone


@pytest.mark.parametrize("beyond", [-1_500_000, 1_500_000])
def test_what_comes_after_the_network_must_fit(beyond: int, rng: np.random.Generator) -> None:
    network = build(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 500, 500)
    picture, afterwards, held = 12_000_000, 300_000_000, 50_000_000
    limit = picture + afterwards + held + beyond
    options = InferOptions(max_memory=limit, afterwards=afterwards, held=held)
    if beyond > 0:
        assert plan(network, mosaic, CPU, options).is_whole
    else:
        with pytest.raises(OutOfMemoryError, match="not enough") as caught:
            plan(network, mosaic, CPU, options)
        assert caught.value.hint == "Raise --max-memory to 363MB."
    # A GPU's limit is none of the host's.
    assert plan(network, mosaic, CUDA, options).is_whole
    # Without a limit it is tried.
    assert plan(network, mosaic, CPU, replace(options, max_memory=None)).is_whole


def test_a_copy_for_whole_strides_is_counted(rng: np.random.Generator) -> None:
    network = build(NetConfig("gia-net", width=8))
    even, odd = photo(rng, "bayer", 496, 496), photo(rng, "bayer", 495, 495)
    needed = int(496 * 496 * network.bytes_per_pixel * 1.1)
    options = InferOptions(max_memory=needed + 2_000_000)
    assert plan(network, even, CPU, options).is_whole
    assert not plan(network, odd, CPU, options).is_whole
    more = replace(options, max_memory=needed + 2_000_000 + odd.planes.nbytes)
    assert plan(network, odd, CPU, more).is_whole


def test_half_precision_takes_larger_tiles(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(NetConfig("gia-net", width=8))
    mosaic = photo(rng, "bayer", 500, 500)
    needed = network.bytes_per_pixel * mosaic.planes[0].size
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: int(0.9 * needed))
    assert plan(network, mosaic, CUDA, InferOptions()).is_whole
    assert not plan(network, mosaic, replace(CUDA, dtype="float32"), InferOptions()).is_whole


@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
@pytest.mark.parametrize("tile", [1, 31, 48, 96, 100, 192, 1000])
def test_an_explicit_tile_is_in_photosites(
    cfa: CfaKind, tile: int, rng: np.random.Generator
) -> None:
    network = build(NetConfig("gia-net", cfa, width=2))
    options = InferOptions(tile=tile, max_memory=1)  # the tile wins over the limit
    chosen = plan(network, photo(rng, cfa, 200, 90), CPU, options)
    assert chosen.frame == (208, 96)
    packed = tile / SCALE[cfa]
    for side, length in zip(chosen.core, chosen.frame, strict=True):
        assert side % 16 == 0
        assert side == length if packed >= length else packed - 1 < side < packed + 16


def test_a_plan_says_what_it_does() -> None:
    assert str(Plan((208, 96), (208, 96))) == "the whole photo at once"
    for passes, words in ((1, "one pass"), (2, "two passes"), (5, "5 passes")):
        assert str(Plan((64, 96), (208, 96), passes)) == (
            f"4 tiles of 96 x 64 packed pixels, {words}, to save memory"
        )


@pytest.mark.parametrize("tile", [0, -1, -512])
def test_a_tile_must_be_positive(tile: int) -> None:
    with pytest.raises(UsageError, match=f"--tile.*{tile}") as caught:
        InferOptions(tile=tile)
    assert caught.value.exit_code == 2


# ---------------------------------------------------------------- progress


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_large_whole_frame_moves_the_bar_in_small_steps(
    name: str, rng: np.random.Generator
) -> None:
    """Bands overlap: their rows add up to more than the frame's, the bar must not."""
    progress = ProgressSpy()
    network = build(small(name))
    infer(network, photo(rng, "bayer", 500, 40), CPU, None, progress)
    assert sum(progress.advances) == 100
    assert max(progress.advances) <= (16 if name in UNETS else 25)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize("tile", ["auto", 64, 100])
@pytest.mark.parametrize("name", NETWORKS)
def test_progress_gets_as_many_steps_as_announced(
    name: str, tile: int, rng: np.random.Generator
) -> None:
    network = lively(small(name))
    mosaic = photo(rng, "bayer", 60, 90)
    progress = ProgressSpy()
    options = InferOptions(tile=tile)
    infer(network, mosaic, CPU, options, progress)
    chosen = plan(network, mosaic, CPU, options)
    passes = 1 + WITH_VECTORS.get(name, 0)
    steps = 100 if chosen.is_whole else tile_count(chosen) * passes
    assert progress.stages == [("network", steps)]
    assert progress.done == [progress.stages[0][1]]
    assert progress.notes == []
    assert [str(chosen) in detail for detail in progress.details] == [True]
