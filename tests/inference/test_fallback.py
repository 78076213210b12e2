"""Cards that fail in every way: each ends on an engine that works, once, and says so in a line."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gia_cli.errors import DeviceError, OutOfMemoryError, WeightsError
from gia_cli.inference import plan as plan_module
from gia_cli.inference.engine import Engine, NotFiniteError, require_finite
from gia_cli.inference.fallback import Running, failure_of
from gia_cli.inference.plan import InferOptions, Plan, plan
from gia_cli.inference.run import infer
from gia_cli.inference.torch_engine import TorchEngine, _to_host
from gia_cli.nets.base import Network
from gia_cli.raw.packing import PackedMosaic
from gia_cli.runtime import NumberFormat, Runtime, turn_on
from tests.inference.failing import (
    STICKY,
    Card,
    Damage,
    SmallCard,
    black,
    black_in_half,
    fine,
    full,
    smeared,
    sticky,
)
from tests.inference.test_openvino_engine import arrays_of
from tests.inference.test_run import photo
from tests.networks import lively, small
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Runtime("cpu", "float32")
FP32_ON_CARD = Runtime("cuda", "float32", 1)


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "free_bytes", lambda *_: 10**12)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


@pytest.fixture
def network() -> Network:
    return lively(small("gia-net"))


@pytest.fixture
def mosaic(rng: np.random.Generator) -> PackedMosaic:
    return photo(rng, "bayer", 48, 64)


def on_cpu(network: Network, mosaic: PackedMosaic) -> NDArray[np.float32]:
    return infer(TorchEngine(network, CPU), mosaic)


# ---------------------------------------------------------------- what is finite


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1000, -1])
def test_a_single_number_that_is_none_is_seen(bad: float, where: int) -> None:
    array = np.ones((3, 40, 50), np.float32)
    assert require_finite(array) is array
    array.flat[where] = bad
    with pytest.raises(NotFiniteError):
        require_finite(array)
    array.flat[where - 1] = -bad  # infinities of both signs
    with pytest.raises(NotFiniteError):
        require_finite(array)


def test_a_map_in_half_precision_may_add_up_to_more_than_that_holds() -> None:
    feature = torch.full((1, 4, 200, 200), 60_000.0, dtype=torch.float16)
    assert _to_host(feature).shape == (4, 200, 200)
    feature[0, 3, 100, 100] = torch.inf
    with pytest.raises(NotFiniteError):
        _to_host(feature)


def on_openvino(network: Network) -> Engine:
    from gia_cli.inference.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(network.config, arrays_of(network), "test")


def on_onnx(network: Network) -> Engine:
    pytest.importorskip("onnxruntime")
    from tests.inference import test_onnx_engine

    return test_onnx_engine.on_onnx(network)  # type: ignore[no-any-return]


@pytest.mark.parametrize("tile", ["auto", 32])
@pytest.mark.parametrize("engine", [lambda net: TorchEngine(net, CPU), on_openvino, on_onnx])
def test_every_engine_refuses_a_picture_that_overflows(
    engine: Callable[[Network], Engine], tile: Any, network: Network, mosaic: PackedMosaic
) -> None:
    with torch.no_grad():
        network.get_parameter("to_rgb.weight").fill_(3e38)
    with pytest.raises(WeightsError, match="no finite picture") as caught:
        infer(engine(network), mosaic, InferOptions(tile=tile))
    assert caught.value.exit_code == 40


@pytest.mark.parametrize("damage", [fine, black])
def test_a_network_that_makes_no_numbers_anywhere_is_no_cards_fault(
    damage: Damage, network: Network
) -> None:
    with torch.no_grad():
        network.get_parameter("to_rgb.weight").fill_(3e38)
    progress = ProgressSpy()
    running = Running(Card(network, damage), is_checked=True)
    with pytest.raises(WeightsError, match="no finite picture of this photo: on the cpu") as caught:
        running.check(progress)
    assert caught.value.exit_code == 40 and progress.notes == []


# ---------------------------------------------------------------- each way to fail


CASES: list[tuple[Damage, Runtime, list[str]]] = [
    (fine, Runtime("cuda", "float16", 1), []),
    (
        black_in_half,
        FP32_ON_CARD,
        ["The cuda:1 makes no finite numbers in float16; continuing in float32."],
    ),
    (
        black,
        CPU,
        [
            "The cuda:1 makes no finite numbers in float16; continuing in float32.",
            "The cuda:1 makes no finite numbers in float32; continuing on the CPU.",
        ],
    ),
    (sticky, CPU, [f"The cuda:1 failed in float16 ({STICKY}); continuing on the CPU."]),
    (full, CPU, ["The cuda:1 has too little memory; continuing on the CPU."]),
]


@pytest.mark.parametrize(("damage", "ends_on", "notes"), CASES)
def test_the_check_ends_on_an_engine_that_works(
    damage: Damage, ends_on: Runtime, notes: list[str], network: Network, mosaic: PackedMosaic
) -> None:
    running, progress = Running(Card(network, damage), is_checked=True), ProgressSpy()
    running.check(progress)
    assert running.engine.runtime == ends_on
    assert progress.notes == notes
    picture = infer(running, mosaic, None, progress)
    assert np.abs(picture - on_cpu(network, mosaic)).max() < 0.01
    assert progress.notes == notes  # said once


def test_a_smear_ends_on_the_cpu(network: Network) -> None:
    running, progress = Running(Card(network, smeared), is_checked=True), ProgressSpy()
    running.check(progress)
    assert running.engine.runtime == CPU
    first, second = progress.notes
    assert "cuda:1 computes wrongly in float16 (a test picture differs by " in first
    assert first.endswith("%); continuing in float32.")
    assert second.endswith("continuing on the CPU.")


@pytest.mark.parametrize(("damage", "ends_on", "notes"), CASES[1:4])
@pytest.mark.parametrize("is_checked", [True, False])
def test_a_card_that_fails_on_a_photo_is_left_for_the_whole_folder(
    is_checked: bool,
    damage: Damage,
    ends_on: Runtime,
    notes: list[str],
    network: Network,
    mosaic: PackedMosaic,
) -> None:
    card = Card(network, damage, runs=1 + is_checked)
    running, progress = Running(card, is_checked=is_checked), ProgressSpy()
    running.check(progress)
    pictures = [infer(running, mosaic, None, progress) for _ in range(4)]
    assert progress.notes == notes
    assert running.engine.runtime == ends_on
    assert card.calls == 2 + is_checked  # one that worked, one that did not, and never again
    expected = on_cpu(network, mosaic)
    assert all(np.abs(picture - expected).max() < 0.01 for picture in pictures)


@pytest.mark.parametrize(
    ("damage", "is_abandoned"), [(sticky, True), (smeared, False), (black_in_half, False)]
)
def test_only_a_card_that_failed_is_left_with_its_memory(
    damage: Damage, is_abandoned: bool, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned: list[Card] = []
    monkeypatch.setattr(Card, "abandon", lambda self: abandoned.append(self))
    card = Card(network, damage)
    Running(card, is_checked=True).check()
    assert abandoned == [card] * is_abandoned


def test_a_card_that_nothing_follows_is_left_with_its_memory_too(network: Network) -> None:
    """Or the process would end in freeing it, without its words and its exit code."""
    abandoned: list[Card] = []
    card = Card(network, sticky)
    card.abandon = lambda: abandoned.append(card)  # type: ignore[method-assign]
    with pytest.raises(DeviceError):
        Running(card, later=[], is_checked=True).check()
    assert abandoned == [card]


def test_words_that_may_mean_memory_do_once_the_card_has_worked(network: Network) -> None:
    engine = TorchEngine(network, CPU)
    error = RuntimeError("GET was unable to find an engine to execute this computation")
    assert not engine.is_out_of_memory(error)
    engine.run(np.zeros((4, 16, 16), np.float32), lambda share: None)
    assert engine.is_out_of_memory(error)


def test_without_a_check_a_smear_is_nobodys_to_see(network: Network) -> None:
    """What keeps the tests above honest."""
    running = Running(Card(network, smeared))
    running.check()
    assert running.engine.runtime.device == "cuda"


# ---------------------------------------------------------------- what follows


def test_the_cpus_own_choice_follows_and_what_cannot_be_opened_is_passed_over(
    network: Network, mosaic: PackedMosaic
) -> None:
    opened: list[str] = []

    def step(name: str, engine: Engine | None) -> Callable[[Any], Any]:
        def open_it(progress: object) -> tuple[Engine, None] | None:
            opened.append(name)
            return None if engine is None else (engine, None)

        return open_it

    last = TorchEngine(network, CPU)
    later = [step("int8", None), step("fp32", last), step("another", last)]
    running = Running(Card(network, sticky), later=later)
    infer(running, mosaic)
    assert opened == ["int8", "fp32"]
    assert running.engine is last
    assert running.has_another


def test_without_another_engine_the_error_says_what_happened(
    network: Network, mosaic: PackedMosaic
) -> None:
    with pytest.raises(DeviceError, match="cuda:1 failed in float16"):
        infer(Running(Card(network, sticky), later=[]), mosaic)
    with pytest.raises(OutOfMemoryError):
        infer(Running(Card(network, full), later=[]), mosaic)
    nothing = Running(Card(network, sticky), later=[lambda progress: None])
    with pytest.raises(DeviceError, match="illegal memory access"):
        infer(nothing, mosaic)


def test_half_precision_on_a_cpu_goes_on_in_fp32(network: Network, mosaic: PackedMosaic) -> None:
    engine = TorchEngine(network, Runtime("cpu", "bfloat16"))
    running, progress = Running(engine), ProgressSpy()
    running.fall_back(failure_of(NotFiniteError(), engine), progress)
    assert running.engine.runtime == CPU
    assert progress.notes == ["The cpu makes no finite numbers in bfloat16; continuing in float32."]


@pytest.mark.parametrize("number_format", ["int8", "float32"])
def test_what_was_tried_last_is_what_is_said(
    number_format: NumberFormat, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = on_openvino(network)
    monkeypatch.setattr(type(engine), "runtime", Runtime("cpu", number_format))
    with pytest.raises(WeightsError, match=f"on the cpu in {number_format}") as caught:
        Running(engine).fall_back(failure_of(NotFiniteError(), engine))
    assert ("--precision fp32" in caught.value.hint) == (number_format == "int8")


def test_what_does_not_fit_on_a_cpu_is_not_tried_in_fp32(network: Network) -> None:
    engine = TorchEngine(network, CPU)
    running = Running(engine, later=[lambda progress: (engine, None)])
    with pytest.raises(OutOfMemoryError):
        running.fall_back(failure_of(MemoryError(), engine))
    assert running.has_another


# ---------------------------------------------------------------- the tile that fitted


def test_a_test_picture_waits_for_what_is_done_on_the_card(network: Network) -> None:
    card = Card(network, fine)
    with ThreadPoolExecutor(1) as pool:
        with turn_on(card.runtime):
            checking = pool.submit(Running(card, is_checked=True).check)
            done, _ = wait([checking], timeout=0.05)
            assert not done and not card.calls
        checking.result(30)
    assert card.calls


def test_a_photo_is_planned_when_no_other_thread_holds_memory_of_its_card(
    network: Network, mosaic: PackedMosaic
) -> None:
    """Else it would be cut into tiles, and so would all after it, for what is there a moment."""
    card = Card(network, fine)
    with ThreadPoolExecutor(1) as pool:
        with turn_on(card.runtime):
            running = pool.submit(infer, card, mosaic)
            done, _ = wait([running], timeout=0.05)
            assert not done and not card.calls
        assert running.result(30).shape == (3, mosaic.height, mosaic.width)


def test_the_tile_that_fitted_is_where_the_next_photo_begins(
    network: Network, rng: np.random.Generator
) -> None:
    mosaic = photo(rng, "bayer", 16, 512)
    card = SmallCard(network, 16 * 330)
    running, progress = Running(card), ProgressSpy()
    for _ in range(3):
        picture = infer(running, mosaic, None, progress)
        assert np.abs(picture - on_cpu(network, mosaic)).max() < 1e-3
    too_large = [area for area in card.asked if area > card.area]
    assert len(too_large) == len(progress.notes) == 2  # 512 and 256 of the first photo alone
    assert all("Out of memory on the cuda:1" in note for note in progress.notes)
    small_one = photo(rng, "bayer", 16, 96)  # fits as it is
    assert infer(running, small_one, None, progress).shape == (3, 32, 192)
    assert card.asked[-1] == 16 * 96


def test_a_limit_is_the_engines_own(network: Network) -> None:
    whole = Plan((512, 512), (512, 512))
    card = Card(network, fine)
    running = Running(card)
    assert running.limited(whole) is whole
    running.remember(Plan((128, 64), (512, 512)))
    assert running.limited(whole).core == (128, 128)
    assert running.limited(Plan((64, 512), (64, 512))).core == (64, 128)
    small_one = Plan((96, 128), (96, 128))
    assert running.limited(small_one) is small_one
    running.fall_back(failure_of(NotFiniteError(), card))
    assert running.limited(whole) is whole
    on_host = Running(TorchEngine(network, CPU))
    on_host.remember(Plan((128, 64), (512, 512)))  # other processes' memory, by now given back
    assert on_host.limited(whole) is whole


def test_a_limit_ends_the_three_part_way(network: Network, mosaic: PackedMosaic) -> None:
    engine = Card(network, fine)
    running = Running(engine)
    running.remember(Plan((32, 32), (48, 64)))
    limited = running.limited(plan(engine, mosaic, InferOptions()))
    assert limited.core == (32, 32) and limited.split is None
