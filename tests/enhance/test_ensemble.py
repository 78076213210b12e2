"""The mean of eight turned pictures: it turns with the photo, whatever computes and however cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gia_cli import ExposureRequest
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.ensemble import infer_turned
from gia_cli.errors import UsageError
from gia_cli.inference.engine import Engine
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.run import infer
from gia_cli.inference.select import open_engine
from gia_cli.nets.config import WhiteBalanceMode
from gia_cli.raw.cfa import CANONICAL, CfaKind
from gia_cli.raw.exif import ShotInfo
from gia_cli.raw.packing import PackedMosaic, prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.raw.turns import TURNS, Turn, turn_frame
from gia_cli.runtime import resident_bytes, resolve
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import save_weights
from tests.networks import lively, small
from tests.progress_spy import ProgressSpy

SHAPES: dict[CfaKind, tuple[int, int]] = {"bayer": (71, 94), "xtrans": (103, 130)}
PHASES: dict[CfaKind, tuple[int, int]] = {"bayer": (0, 1), "xtrans": (2, 5)}
# Sums in another order, of pictures with a deviation near 1.
CLOSE = 1e-5

pytestmark = pytest.mark.usefixtures("one_thread")


def frame_of(kind: CfaKind, shape: tuple[int, int] | None = None) -> RawFrame:
    """Smooth colours with noise: odd sizes, a phase that is not the canonical one."""
    height, width = shape or SHAPES[kind]
    rng = np.random.default_rng(5)
    rows, cols = np.mgrid[:height, :width]
    light = 900 + 500 * np.sin(rows / 17) * np.cos(cols / 11) + 300 * (cols > 50)
    period = len(CANONICAL[kind])
    return RawFrame(
        path=Path("x.ARW"),
        mosaic=(light + rng.normal(0, 60, light.shape)).clip(0, 16383).astype(np.uint16),
        kind=kind,
        phase=PHASES[kind],
        black=np.full((period, period), 512, np.float32),
        white=np.full((period, period), 16383, np.float32),
        as_shot_wb=np.array([2, 1, 1.5], np.float32),
        daylight_wb=None,
        xyz_to_camera=None,
        flip=0,
        shot=ShotInfo(make="Sony", model="ILCE-7SM2"),
    )


def weights_of(folder: Path, kind: CfaKind, mode: WhiteBalanceMode = "learned") -> Path:
    path = folder / f"{kind}-{mode}.safetensors"
    save_weights(path, lively(replace(small("gia-net", kind), white_balance=mode)))
    return path


def best(weights: Path, frame: RawFrame, **options: object) -> NDArray[np.float32]:
    """The encoded picture, before it is rounded to levels."""
    enhancer = Enhancer.from_weights(weights, device="cpu", quality="best", **options)  # type: ignore[arg-type]
    (prepared,) = enhancer.prepare(frame, ExposureRequest(ratio=4))
    return enhancer.compute(prepared).picture


def laid(picture: NDArray[np.float32], turn: Turn) -> NDArray[np.float32]:
    return turn.apply(picture.transpose(1, 2, 0)).transpose(2, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["learned", "as-shot"])
@pytest.mark.parametrize("kind", ["bayer", "xtrans"])
def test_a_turned_photo_gives_the_turned_picture(
    kind: CfaKind, mode: WhiteBalanceMode, tmp_path: Path
) -> None:
    frame, weights = frame_of(kind), weights_of(tmp_path, kind, mode)
    picture = best(weights, frame, engine="torch")
    assert picture.shape == (3, *SHAPES[kind])
    normal = Enhancer.from_weights(weights, device="cpu", engine="torch")
    plain = next(normal.prepare(frame, ExposureRequest(ratio=4)))
    assert np.abs(normal.compute(plain).picture - picture).max() > 0.05  # no equal pictures
    for turn in TURNS[1:]:
        turned = best(weights, turn_frame(frame, turn), engine="torch")
        assert np.abs(turned - laid(picture, turn)).max() < CLOSE


@pytest.mark.parametrize("kind", ["bayer", "xtrans"])
def test_it_is_the_mean_of_the_turned_pictures(kind: CfaKind, tmp_path: Path) -> None:
    frame = frame_of(kind)
    engine = open_engine(find_weights(weights_of(tmp_path, kind)), resolve("cpu", "fp32"), "torch")
    pictures = []
    for turn in TURNS:
        picture = infer(engine, prepare(turn_frame(frame, turn), 4)).transpose(1, 2, 0)
        pictures.append(turn.undo(picture).transpose(2, 0, 1))
    expected = np.mean(pictures, axis=0)
    assert np.abs(best(tmp_path / f"{kind}-learned.safetensors", frame) - expected).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bayer", "xtrans"])
def test_tiles_and_engines_give_the_same_picture(kind: CfaKind, tmp_path: Path) -> None:
    frame, weights = frame_of(kind, (210, 170)), weights_of(tmp_path, kind)
    whole = best(weights, frame, engine="torch")
    tiled = best(weights, frame, engine="torch", tile=128)
    assert np.abs(tiled - whole).max() < 1e-4
    openvino = best(weights, frame, engine="openvino")
    assert np.abs(openvino - whole).max() < 1e-3
    assert np.abs(best(weights, frame, engine="openvino", tile=128) - whole).max() < 1e-3


def test_normal_is_one_picture(tmp_path: Path) -> None:
    frame, weights = frame_of("bayer"), weights_of(tmp_path, "bayer")
    default = Enhancer.from_weights(weights, device="cpu", engine="torch")
    (prepared,) = default.prepare(frame, ExposureRequest(ratio=4))
    engine = default._engines.running(prepared.weights)
    computed = default.compute(prepared)
    assert np.array_equal(computed.picture, infer(engine, prepare(frame, 4)))
    assert computed.quality == "normal"
    assert "quality" not in computed.develop().comment
    fine = Enhancer.from_weights(weights, device="cpu", quality="best").enhance(frame, ratio=4)
    assert fine.comment.endswith("; quality best")
    with pytest.raises(UsageError, match="one of normal, best"):
        Enhancer.from_weights(quality="superb")  # type: ignore[arg-type]


# ---------------------------------------------------------------- memory and progress


Infer = Callable[..., NDArray[np.float32]]


@pytest.mark.slow
def test_one_picture_more_is_held_and_known_to_every_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plans measure what is held: the sum is in memory before the first, and never twice."""
    shape = (2400, 3000)
    size = 3 * shape[0] * shape[1] * 4
    held: list[int] = []
    reserved: list[int] = []
    planes = np.zeros((4, 1, 1), np.float32)

    def fake(
        engine: Engine,
        mosaic: PackedMosaic,
        options: InferOptions,
        progress: object,
        terms: object = None,
    ) -> NDArray[np.float32]:
        held.append(resident_bytes() - before)
        reserved.append(options.reserved)
        turned = (mosaic.height, mosaic.width)
        return np.full((3, *turned), len(held), np.float32)

    def packed(turn: Turn) -> PackedMosaic:
        height, width = shape[::-1] if turn.transpose else shape
        return PackedMosaic(planes, "bayer", height, width, None)  # type: ignore[arg-type]

    monkeypatch.setattr("gia_cli.enhance.ensemble.infer", fake)
    before = resident_bytes()
    picture = infer_turned(None, packed, shape, InferOptions(reserved=7))  # type: ignore[arg-type]
    assert np.array_equal(picture, np.full((3, *shape), 4.5, np.float32))  # of 1 to 8
    assert min(held) > 0.9 * size
    assert max(held) < 1.5 * size
    assert reserved == [7] + [0] * 7


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 64])
def test_one_bar_counts_all_eight(tmp_path: Path, tile: int | None) -> None:
    enhancer = Enhancer.from_weights(
        weights_of(tmp_path, "bayer"), device="cpu", engine="torch", quality="best", tile=tile
    )
    (prepared,) = enhancer.prepare(frame_of("bayer"), ExposureRequest(ratio=4))
    bar = ProgressSpy()
    enhancer.compute(prepared, progress=bar)
    (total,) = [steps for name, steps in bar.stages if name == "network"]
    assert total == 800
    assert sum(bar.advances) == total
    assert min(bar.advances) > 0
    assert len(bar.advances) >= 8
    assert len(bar.said) == len(set(bar.said))


def test_a_turn_that_begins_again_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = ProgressSpy()

    def fake(
        engine: object,
        mosaic: object,
        options: object,
        progress: ProgressSpy,
        terms: object = None,
    ) -> NDArray[np.float32]:
        for total in (10, 4):  # out of memory after 7 of 10, then tiles
            progress.stage("network", total)
            for _ in range(7 if total == 10 else 4):
                progress.advance()
            progress.note("Out of memory")
        return np.zeros((3, 2, 2), np.float32)

    monkeypatch.setattr("gia_cli.enhance.ensemble.infer", fake)
    infer_turned(None, lambda turn: None, (2, 2), None, bar)  # type: ignore[arg-type, return-value]
    assert bar.stages == [("network", 800)]
    assert sum(bar.advances) == 800
    assert bar.said == ["Out of memory"]
