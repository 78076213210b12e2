"""Growth is measured at the sizes and under the limits that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gia_cli.benchmark import growth
from gia_cli.benchmark.growth import GrowthConfig, measure_growth, run_once
from gia_cli.errors import OutOfMemoryError, UsageError, WeightsError
from gia_cli.inference.engine import Engine
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.run import infer
from gia_cli.raw.packing import PackedMosaic
from gia_cli.weights.storage import save_weights
from tests.networks import lively, small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("growth") / "own.safetensors"
    save_weights(path, lively(small("gia-net")), camera="ILCE-7SM2")
    return str(path)


@pytest.mark.slow
def test_the_network_runs_once_under_the_limit(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int | None]] = []

    def listen(engine: Engine, mosaic: PackedMosaic, options: InferOptions) -> object:
        seen.append((mosaic.height, mosaic.width, options.max_memory))
        return infer(engine, mosaic, options)

    monkeypatch.setattr(growth, "infer", listen)
    run = run_once(0.06, 8_000_000_000, weights)
    assert seen == [(200, 300, 8_000_000_000)]
    assert run.seconds > 0 and run.peak_bytes > 50e6 and run.plan
    with pytest.raises(OutOfMemoryError):  # the limit is the plan's, too
        run_once(0.06, 10_000_000, weights)


@pytest.mark.usefixtures("alone")
@pytest.mark.slow
def test_every_size_and_limit_is_a_point(weights: str) -> None:
    config = GrowthConfig((0.1, 0.4), (None, 2_000_000_000), weights, rounds=2)
    points = measure_growth(config)
    ways = [(point.megapixels, point.limit) for point in points]
    assert ways == [(0.1, None), (0.1, 2_000_000_000), (0.4, None), (0.4, 2_000_000_000)]
    for point in points:
        assert point.error is None
        assert len(point.seconds) == 2
        assert point.peak_bytes > 50e6


def test_a_size_that_fails_stops_no_other(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {0.1: growth._Run("whole", 1.5, 7), 0.4: "its process has died"}
    monkeypatch.setattr(growth, "_run", lambda size, limit, weights: runs[size])
    first, second = measure_growth(GrowthConfig((0.1, 0.4), weights=weights, rounds=3))
    assert (first.seconds, first.median, first.peak_bytes) == ([1.5] * 3, 1.5, 7)
    assert (second.seconds, second.error) == ([], "its process has died")


def test_mistakes_are_reported_before_anything_runs(tmp_path: Path) -> None:
    for sizes in ((), (0.0,), (-3.0,), (2000.0,)):
        with pytest.raises(UsageError, match="--growth takes megapixels"):
            GrowthConfig(sizes)
    with pytest.raises(UsageError, match="--rounds"):
        GrowthConfig((3,), rounds=0)
    with pytest.raises(WeightsError):
        measure_growth(GrowthConfig((3,), weights=str(tmp_path / "none.safetensors")))
