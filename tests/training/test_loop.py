"""Training: resumes to the bit, agrees between processes, learns, and refuses nonsense."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gia_cli.data.batches import SidCrops, load
from gia_cli.data.sid import Camera
from gia_cli.data.synthetic import PhotoNights
from gia_cli.errors import (
    DataError,
    DivergedError,
    Interrupted,
    OutputError,
    OutputExistsError,
    RunError,
    UsageError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from gia_cli.files import lock
from gia_cli.nets import NETWORKS, NetConfig, WhiteBalanceMode, build
from gia_cli.nets.unet import GiaNet
from gia_cli.progress import Silent
from gia_cli.raw.cfa import PLANE_COLORS, CfaKind
from gia_cli.simulation.photo import CameraName, median_gains
from gia_cli.training import loop as training
from gia_cli.training.initialise import VECTOR_GAIN, initialise, open_the_way_up
from gia_cli.training.log import CURVES, read_log
from gia_cli.training.loop import (
    CHECKPOINT,
    CONFIG,
    LOCK,
    RECIPES,
    TrainConfig,
    Trainee,
    depth_loss,
    draw_cut,
    evenness_loss,
    export_run,
    facts_loss,
    is_given,
    learning_rate,
    read_checkpoint,
    read_config,
    train,
)
from gia_cli.weights.manifest import (
    adopt,
    find_weights,
    list_weights,
    load_network,
    save_weights,
)
from tests.networks import LEARNED, UNETS, lively, small
from tests.progress_spy import ProgressSpy

pytestmark = pytest.mark.usefixtures("one_thread")


OTHER: dict[WhiteBalanceMode, WhiteBalanceMode] = {"as-shot": "learned", "learned": "as-shot"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small photographs."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for index in range(3):
        coarse = rng.integers(20, 235, (6, 6, 3))
        iio.imwrite(folder / f"{index}.png", coarse.repeat(32, 0).repeat(32, 1).astype(np.uint8))
    return folder


def four_steps(folder: Path, photos: Path) -> TrainConfig:
    """A run of four steps of a tiny network."""
    return TrainConfig(
        run=folder / "run",
        camera="sony",
        photos=(photos,),
        cache=folder / "cache",
        width=4,
        steps=4,
        sides=(16, 32),
        crops_per_photo=2,
        workers=0,
        device="cpu",
    )


@pytest.fixture
def config(tmp_path: Path, photos: Path) -> TrainConfig:
    return four_steps(tmp_path, photos)


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Folder of that run, trained once."""
    folder = tmp_path_factory.mktemp("finished")
    train(four_steps(folder, photos))
    return folder / "run"


@pytest.fixture
def trained(config: TrainConfig, finished: Path) -> None:
    """Let `config` be finished already."""
    shutil.copytree(finished, config.run)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    saved = read_checkpoint(run)
    return {**saved["trainee"], **{f"ema.{name}": x for name, x in saved["ema"].items()}}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


class StopAt(ProgressSpy):
    """Asks the run to stop, as a terminal or a scheduler does, once it has come to a step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGTERM) -> None:
        super().__init__()
        self.step = step
        self.number = number
        self.at = 0

    def advance(self, steps: int = 1) -> None:
        super().advance(steps)
        is_training = self.stage_names[-1] == "training"
        self.at += steps if is_training else 0
        if is_training and self.at == self.step:
            signal.raise_signal(self.number)


# ---------------------------------------------------------------- resume


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes_to_the_bit(config: TrainConfig, number: signal.Signals) -> None:
    stopped = replace(config, run=config.run.with_name("stopped"))
    with pytest.raises(Interrupted, match="step 2") as caught:
        train(stopped, StopAt(2, number))
    assert caught.value.exit_code == 130
    assert read_checkpoint(stopped.run)["step"] == 2
    listener = StopAt(-1)
    train(stopped, listener)
    assert any("Going on from step 2" in note for note in listener.notes)
    assert_equal(weights_of(config.run), weights_of(stopped.run))


@pytest.mark.usefixtures("trained")
def test_workers_make_the_same_batches(config: TrainConfig) -> None:
    other = replace(config, run=config.run.with_name("workers"), workers=2)
    train(other)
    assert_equal(weights_of(config.run), weights_of(other.run))


@pytest.mark.usefixtures("trained")
def test_the_seed_decides(config: TrainConfig) -> None:
    other = replace(config, run=config.run.with_name("other"), seed=1)
    train(other)
    first, second = weights_of(config.run), weights_of(other.run)
    assert not torch.equal(first["network.to_rgb.weight"], second["network.to_rgb.weight"])


@pytest.mark.usefixtures("trained")
def test_a_finished_run_takes_no_further_step(config: TrainConfig) -> None:
    before = weights_of(config.run)
    assert train(config).steps == 4
    assert_equal(before, weights_of(config.run))


@pytest.mark.usefixtures("trained")
def test_a_finished_run_can_be_made_longer(config: TrainConfig) -> None:
    listener = StopAt(-1)
    assert train(replace(config, steps=6), listener).steps == 6
    assert any("steps was 4, now 6" in note for note in listener.notes)


@pytest.mark.usefixtures("trained")
def test_another_run_in_the_folder_is_refused(config: TrainConfig) -> None:
    for change in ({"seed": 3}, {"width": 8}, {"changes": {"lr": 1.0}}, {"camera": "fuji"}):
        with pytest.raises(RunError, match="holds another run"):
            train(replace(config, **change))


@pytest.mark.usefixtures("trained")
def test_other_nights_make_another_run(config: TrainConfig) -> None:
    """What is drawn has changed before, and nothing told the weights apart."""
    there = read_config(config.run)
    assert there["nights"]["daylight_share"] > 0
    there["nights"]["daylight_share"] = 0.0
    (config.run / "config.json").write_text(json.dumps(there))
    with pytest.raises(RunError, match=r"its nights\.daylight_share is 0\.0, not"):
        train(config)


@pytest.mark.usefixtures("trained")
def test_a_recipe_that_has_changed_is_named_by_its_field(config: TrainConfig) -> None:
    with pytest.raises(RunError, match=r"its recipe\.lr is 0\.0002, not 1\.0"):
        train(replace(config, changes={"lr": 1.0}))


@pytest.mark.usefixtures("trained")
def test_what_an_older_version_did_not_know_is_not_compared(config: TrainConfig) -> None:
    path = config.run / CONFIG
    asked = json.loads(path.read_text())
    del asked["precision"], asked["recipe"]["facts_weight"]
    path.write_text(json.dumps(asked))
    assert train(replace(config, steps=5)).steps == 5


@pytest.mark.usefixtures("trained")
def test_other_photographs_do_not_continue_a_run(
    config: TrainConfig, photos: Path, tmp_path: Path
) -> None:
    """Moved ones do: they are the same."""
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    assert train(replace(config, photos=(moved,), steps=5)).steps == 5
    (moved / "0.png").unlink()
    with pytest.raises(RunError, match="its data_digest is"):
        train(replace(config, photos=(moved,), steps=6))


def test_a_mistake_claims_no_folder(config: TrainConfig) -> None:
    with pytest.raises(WeightsNotFoundError):
        train(replace(config, init_from="nobody"))
    assert train(config).steps == 4


def test_two_runs_in_one_folder_are_not_possible(config: TrainConfig) -> None:
    config.run.mkdir()
    with lock(config.run / LOCK) as is_ours:
        assert is_ours
        with pytest.raises(RunError, match="Another process is training"):
            train(config)
    assert train(config).steps == 4


@pytest.mark.usefixtures("trained")
def test_weights_that_are_not_finite_are_not_saved(config: TrainConfig) -> None:
    good = weights_of(config.run)
    spoil = replace(config, run=config.run.with_name("spoiled"), changes={"lr": 1e30, "warmup": 0})
    with pytest.raises(DivergedError) as caught:
        train(replace(spoil, steps=100, checkpoint_every_s=0))
    assert "--init-from" in str(caught.value)
    assert all(x.isfinite().all() for x in good.values())
    left = spoil.run / CHECKPOINT
    if left.exists():
        assert all(x.isfinite().all() for x in weights_of(spoil.run).values())


@pytest.mark.usefixtures("trained")
def test_a_disk_that_is_full_at_the_checkpoint_is_one_line(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights_of(config.run)

    @contextmanager
    def full(path: Path) -> Iterator[Any]:
        raise OutputError(f"Cannot write {path}: No space left on device.")
        yield

    monkeypatch.setattr(training, "atomic_file", full)
    with pytest.raises(OutputError, match="No space left"):
        train(replace(config, steps=6))
    monkeypatch.undo()
    assert_equal(before, weights_of(config.run))


def test_pictures_that_cannot_be_written_do_not_end_a_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(training, "write_panel", fail)
    listener = StopAt(-1)
    assert train(config, listener).steps == 4
    assert any("No picture of step 4" in note for note in listener.notes)
    assert read_checkpoint(config.run)["step"] == 4


def test_a_worker_that_dies_is_told_and_loses_nothing(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*arguments: Any, **options: Any) -> Iterator[Any]:
        for number, batch in enumerate(load(*arguments, **options)):
            if number == 2:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
            yield batch

    monkeypatch.setattr(training, "load", dying)
    with pytest.raises(DataError, match="has died"):
        train(config)
    assert read_checkpoint(config.run)["step"] == 2


def test_too_few_photographs_to_validate_are_noted_and_exported(
    config: TrainConfig, tmp_path: Path
) -> None:
    listener = StopAt(-1)
    train(config, listener)
    assert any("memory, not of skill" in note for note in listener.notes)
    row = export_run(config.run, "mine", tmp_path / "weights")
    assert row["training"]["validated_on"] == "the same photos"


def test_a_run_folder_that_cannot_be_made_is_told(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        train(replace(config, run=tmp_path / "file" / "run"))


@pytest.mark.usefixtures("trained")
def test_a_damaged_checkpoint_is_named(config: TrainConfig) -> None:
    path = config.run / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged") as caught:
        train(config)
    assert caught.value.exit_code == 71


def test_a_run_by_the_clock_ends_by_the_clock(config: TrainConfig) -> None:
    timed = replace(config, steps=None, budget_s=2.0)
    result = train(timed)
    assert result.steps > 0
    assert 2 <= result.seconds < 60
    saved = read_checkpoint(config.run)
    assert saved["elapsed_s"] >= 2
    assert train(timed).steps == result.steps  # the time is used up


# ---------------------------------------------------------------- what it leaves


@pytest.mark.plots
def test_a_run_leaves_log_curves_and_validation(config: TrainConfig) -> None:
    result = train(replace(config, steps=60))
    rows = read_log(config.run)
    assert [row["step"] for row in rows if "loss" in row] == [1, 50, 60]
    assert np.isfinite(result.loss)
    (score,) = [row["validation_psnr"] for row in rows if "validation_psnr" in row]
    assert score == pytest.approx(result.validation_psnr, rel=1e-4)
    assert (config.run / CURVES).stat().st_size > 1000
    assert (config.run / "validation" / "step-00000060.png").is_file()
    assert list((config.run / "tensorboard").iterdir())


def test_it_learns(config: TrainConfig) -> None:
    """Small as it is, the network gets better at its own photographs."""
    short = train(replace(config, steps=2, changes={"ema": 0.9, "warmup": 0, "lr": 2e-3}))
    longer = replace(config, run=config.run.with_name("longer"), steps=150)
    result = train(replace(longer, changes={"ema": 0.9, "warmup": 0, "lr": 2e-3}))
    assert result.validation_psnr > short.validation_psnr + 2


@pytest.mark.parametrize("camera", ["sony", "fuji"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_trains_on_every_camera(
    config: TrainConfig, camera: Any, network: str
) -> None:
    result = train(replace(config, camera=camera, network=network, steps=1))
    assert np.isfinite(result.validation_psnr)
    assert result.validation_psnr > -20  # the first weights already make something like a picture


@pytest.mark.parametrize("camera", ["sony", "fuji"])
def test_a_network_that_is_given_the_balance_trains(config: TrainConfig, camera: Any) -> None:
    given = replace(config, camera=camera, white_balance="as-shot", steps=2)
    assert np.isfinite(train(given).validation_psnr)
    row = export_run(given.run, "wb", given.run / "weights")
    assert row["config"]["white_balance"] == "as-shot"
    with pytest.raises(RunError, match=r"network\.white_balance"):
        train(replace(given, white_balance="learned"))


def test_the_published_recipe_runs(config: TrainConfig) -> None:
    """On photographs as small as these its crops are held, and it says so."""
    listener = StopAt(-1)
    train(replace(config, recipe="paper", sides=None, crops_per_photo=None, steps=1), listener)
    assert any("held at 96 packed px" in note for note in listener.notes)


# ---------------------------------------------------------------- the pieces


def test_the_learning_rate_follows_its_schedule() -> None:
    paper, small = RECIPES["paper"], RECIPES["small"]
    assert [learning_rate(paper, 10**6, done) for done in (0, 0.49, 0.5, 1)] == [
        1e-4,
        1e-4,
        1e-5,
        1e-5,
    ]
    printed = RECIPES["paper-as-printed"]
    assert learning_rate(printed, 0, 0) == 0.1
    assert learning_rate(printed, 0, 0.5) == pytest.approx(0.01)
    assert learning_rate(small, 0, 0) == pytest.approx(small.lr / small.warmup)
    assert learning_rate(small, 10**6, 0) == pytest.approx(small.lr)
    assert learning_rate(small, 10**6, 0.5) == pytest.approx((small.lr + small.last_lr) / 2)
    assert learning_rate(small, 10**6, 1) == pytest.approx(small.last_lr)


def test_depth_heads_give_the_depth_a_gradient() -> None:
    """The point of them: gradients of the bottleneck many times those without."""
    torch.manual_seed(1)
    planes, target = torch.rand(2, 4, 32, 32), torch.rand(2, 3, 64, 64)
    trainee = Trainee(build(NetConfig("gia-net", width=8)), with_heads=True)
    initialise(trainee)
    norms = []
    for weight in (0.0, 1.0):
        trainee.zero_grad()
        picture, depth, _ = trainee(planes, 2)
        loss = (picture - target).abs().mean() + weight * depth_loss(depth, target)
        loss.backward()
        gradient = trainee.network.get_parameter("encoder.4.0.weight").grad
        assert gradient is not None
        norms.append(float(gradient.norm()))
    assert norms[1] > 3 * norms[0] > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_are_for_networks_with_coarse_levels(name: str) -> None:
    trainee = Trainee(build(small(name)), with_heads=True)
    assert Trainee(trainee.network, with_heads=False).heads is None
    picture, depth, _ = trainee(torch.rand(2, 4, 32, 48), 2)
    assert picture.shape == (2, 3, 64, 96)
    if name in UNETS:
        assert [tuple(x.shape[1:]) for x in depth] == [(3, 2 << n, 3 << n) for n in range(4)]
    else:
        assert trainee.heads is None
        assert depth == []


def test_the_running_mean_takes_over_batch_statistics(config: TrainConfig) -> None:
    train(replace(config, network="dncnn", steps=3))
    saved = read_checkpoint(config.run)
    statistics = [name for name in saved["ema"] if "running" in name or "tracked" in name]
    assert len(statistics) == 45
    for name in statistics:
        assert torch.equal(saved["ema"][name], saved["trainee"][f"network.{name}"])
    assert int(saved["ema"]["middle.0.1.num_batches_tracked"]) == 3
    assert not torch.equal(saved["ema"]["to_rgb.bias"], saved["trainee"]["network.to_rgb.bias"])


def test_a_stopped_run_with_batch_statistics_resumes_to_the_bit(config: TrainConfig) -> None:
    config = replace(config, network="dncnn")
    train(config)
    stopped = replace(config, run=config.run.with_name("stopped"))
    with pytest.raises(Interrupted, match="step 2"):
        train(stopped, StopAt(2))
    train(stopped)
    assert_equal(weights_of(config.run), weights_of(stopped.run))


def test_the_cuts_are_frequent_at_first_and_never_stop() -> None:
    recipe = RECIPES["small"]
    early = [draw_cut(recipe, 0, step, 0.0) for step in range(400)]
    late = [draw_cut(recipe, 0, step, 0.9) for step in range(4000)]
    assert set(early) == {1, 2, 3, 4}
    assert np.bincount(early)[1:] / len(early) == pytest.approx([0.25] * 4, abs=0.08)
    assert np.mean(np.array(late) > 0) == pytest.approx(recipe.cut_share, abs=0.02)
    half = [draw_cut(recipe, 0, step, recipe.cut_until / 2) > 0 for step in range(2000)]
    assert np.mean(half) == pytest.approx(0.5, abs=0.05)
    assert early == [draw_cut(recipe, 0, step, 0.0) for step in range(400)]
    assert not any(draw_cut(RECIPES["paper"], 0, step, 0.0) for step in range(100))


def test_a_cut_skip_is_heard_no_more_and_all_parameters_learn() -> None:
    """With all skips cut, what the upper levels see does not matter."""
    torch.manual_seed(1)
    planes = torch.rand(1, 4, 64, 64)
    trainee = Trainee(build(NetConfig("gia-net", width=8)), with_heads=True)
    initialise(trainee)
    picture, depth, _ = trainee(planes, 1, 4)
    picture.square().mean().backward()
    assert all(parameter.grad is not None for parameter in trainee.network.parameters())
    assert not torch.allclose(picture, trainee(planes, 1)[0], atol=1e-3)
    plain = trainee.network.encode

    def noisy(x: torch.Tensor) -> list[torch.Tensor]:
        *skips, bottleneck = plain(x)
        return [*(skip + torch.randn_like(skip) for skip in skips), bottleneck]

    trainee.network.encode = noisy  # type: ignore[method-assign]
    assert torch.allclose(picture, trainee(planes, 1, 4)[0], atol=1e-5)
    assert not torch.allclose(picture, trainee(planes, 1, 3)[0], atol=1e-3)
    assert len(depth) == 4


def test_the_vector_is_asked_only_for_what_is_known() -> None:
    told = torch.tensor([[0.2, 0.5, 0.1, 0.9, 7.0], [0.4, 0.3, 0.6, 0.0, 7.0]])
    vector = (told - 0.5) / VECTOR_GAIN
    facts = told[:, :4] + torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert float(facts_loss(vector, facts)) == pytest.approx(0.3 / 4)
    facts[0] = torch.nan
    facts[1, 3] = torch.nan
    assert float(facts_loss(vector, facts)) == pytest.approx(0.14 / 3)
    leaf = vector.clone().requires_grad_()
    facts_loss(leaf, torch.full_like(facts, torch.nan)).backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_given_facts_go_up_instead_of_the_vectors_own() -> None:
    network = lively(replace(small("gia-net"), width=12))
    assert isinstance(network, GiaNet)
    trainee = Trainee(network, with_heads=False)
    planes = torch.rand(2, 4, 32, 32)
    own, _, vector = trainee(planes, 2)
    told = 0.5 + VECTOR_GAIN * vector[:, :4].detach()
    torch.testing.assert_close(trainee(planes, 2, 0, told)[0], own, rtol=0, atol=1e-4)
    assert torch.equal(trainee(planes, 2, 0, torch.full((2, 4), torch.nan))[0], own)
    other, _, still = trainee(planes, 2, 0, told + 0.5)
    assert not torch.allclose(other, own, atol=1e-3)
    assert torch.equal(still, vector)  # what it is asked for is its own


def test_the_facts_are_given_less_and_less_often() -> None:
    recipe = RECIPES["small-on"]
    for done, share in ((0.0, 1.0), (recipe.given_until / 2, 0.5), (recipe.given_until, 0.0)):
        given = [is_given(recipe, 1, step, done) for step in range(2000)]
        assert np.mean(given) == pytest.approx(share, abs=0.05)
        assert given == [is_given(recipe, 1, step, done) for step in range(2000)]
    assert not any(is_given(RECIPES["small"], 1, step, 0.0) for step in range(100))


def test_the_vector_learns_the_facts() -> None:
    """A few nights can be learned by heart, through shrink and the way down."""
    torch.manual_seed(3)
    planes, facts = torch.rand(6, 4, 32, 32) * torch.rand(6, 1, 1, 1), torch.rand(3, 4)
    facts = facts.repeat_interleave(2, 0)
    network = build(replace(small("gia-net"), width=12))
    assert isinstance(network, GiaNet)
    initialise(network)
    open_the_way_up(network, 4)
    trainee = Trainee(network, with_heads=False)
    optimizer = torch.optim.Adam(trainee.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        _, _, vector = trainee(planes, 2)
        loss = facts_loss(vector, facts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3
    deepest = network.encoder[4].get_submodule("0").get_parameter("weight")
    assert deepest.grad is not None
    assert deepest.grad.any()


def test_a_run_asks_for_the_facts_if_its_recipe_says_so(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(training, "_FIT_NIGHTS", 2)

    def spy(vector: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        asked.append(facts)
        return facts_loss(vector, facts)

    monkeypatch.setattr(training, "facts_loss", spy)
    train(replace(config, recipe="small-on", width=12, steps=2, seed=1))  # no light too far off
    assert len(asked) == 2
    assert all(((facts >= 0) & (facts <= 1)).all() for facts in asked)
    assert torch.equal(asked[0][0], asked[0][1])  # two crops of a photo
    assert not torch.equal(asked[0][0], asked[0][2])
    train(replace(config, recipe="small", run=config.run.with_name("other")))
    assert len(asked) == 2


def test_the_way_up_is_opened_once(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What has learned to be heard is not put back, whatever runs lie between; else it begins."""
    opened: list[str] = []
    monkeypatch.setattr(training, "_FIT_NIGHTS", 2)

    def spy(network: GiaNet, count: int) -> None:
        opened.append(network.config.network)
        open_the_way_up(network, count)

    monkeypatch.setattr(training, "open_the_way_up", spy)

    def run(name: str, start: str | None = None, **changes: Any) -> bool:
        init = None if start is None else str(tmp_path / f"{start}.safetensors")
        asked = replace(config, width=12, steps=1, run=tmp_path / name, init_from=init, **changes)
        opened.clear()
        train(asked)
        row = export_run(asked.run, name, tmp_path)
        assert row["training"]["tells_facts"] == (name != "plain" and name != "sid")
        return bool(opened)

    assert not run("plain", recipe="small")
    assert run("first", "plain", recipe="small-on")
    assert not run("second", "first", recipe="small-on")
    assert not run("between", "second", recipe="small")
    assert not run("third", "between", recipe="small-on")
    assert not run("sid", "third", recipe="small-on", network="sid-net")
    assert run("again", "sid", recipe="small-on")


def test_where_there_are_no_facts_nothing_is_opened(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = StopAt(10**9)
    monkeypatch.setattr(training, "open_the_way_up", lambda *args: pytest.fail("opened"))
    narrow = replace(config, recipe="small-on", width=8, steps=1)
    train(narrow, heard)
    assert heard.notes[-1].endswith("the network is too narrow.")
    monkeypatch.setattr(PhotoNights, "knows_facts", False)  # as SID's photos
    real = replace(narrow, width=12, run=config.run.with_name("real"))
    train(real, heard)
    assert heard.notes[-1].endswith("real photos' are unknown.")
    assert read_config(real.run)["recipe"]["facts_weight"] == 0
    assert SidCrops.knows_facts is False


def test_weights_with_any_history_can_be_started_from(config: TrainConfig) -> None:
    for info in list_weights():
        if info.config.network == "gia-net" and info.quantised_from is None:
            camera: Camera = "sony" if info.config.cfa == "bayer" else "fuji"
            asked = replace(
                config, camera=camera, recipe="small-on", width=None, init_from=info.name
            )
            assert not training._starts_with_facts(asked) or info.training["tells_facts"]


@pytest.mark.parametrize("steps", [1, 4])
def test_the_last_steps_are_saved_wherever_the_log_stands(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(training, "_LOG_EVERY", 2)
    train(replace(config, steps=steps))
    assert read_checkpoint(config.run)["step"] == steps


def test_what_an_older_recipe_did_not_know_of_it_did_not_do(config: TrainConfig) -> None:
    wide = replace(config, recipe="small-on", width=12, steps=1)
    train(replace(wide, changes={"facts_weight": 0.0, "given_until": 0.0}))
    path = config.run / CONFIG
    older = json.loads(path.read_text())
    for name in ("facts_weight", "given_until"):
        del older["recipe"][name]
    path.write_text(json.dumps(older))
    with pytest.raises(RunError, match=r"recipe\.(facts_weight|given_until) is 0.0, not 0"):
        train(replace(wide, steps=2))
    train(replace(wide, steps=2, changes={"facts_weight": 0.0, "given_until": 0.0}))


@pytest.mark.parametrize("factor", [2, 3])
def test_a_pattern_of_sub_pixels_is_uneven_and_an_error_of_all_is_not(factor: int) -> None:
    generator = torch.Generator().manual_seed(3)
    side = 32 * factor
    target = torch.rand(2, 3, side, side, generator=generator)
    smooth = torch.linspace(0, 1, side)[None, None, :, None].expand_as(target)
    assert float(evenness_loss(target, target, factor)) == 0
    assert float(evenness_loss(target + 0.1, target, factor)) < 1e-7
    assert float(evenness_loss(target + 0.1 * smooth, target, factor)) < 0.1 * factor / side
    pattern = torch.zeros_like(target)
    pattern[..., ::factor, ::factor] = 0.1
    cells = factor * factor
    expected = 2 * 0.1 * (cells - 1) / cells**2
    assert float(evenness_loss(target + pattern, target, factor)) == pytest.approx(
        expected, rel=1e-4
    )
    noise = 0.1 * torch.randn(target.shape, generator=generator)
    assert float(evenness_loss(target + noise, target, factor)) < 0.1 / 16


def test_even_the_smallest_crops_have_blocks() -> None:
    target = torch.zeros(1, 3, 16, 16)
    picture = target.clone()
    picture[..., ::2, ::2] = 1
    assert float(evenness_loss(picture, target, 2)) == pytest.approx(0.375)


def test_the_loss_against_patterns_is_taken_by_its_weight(config: TrainConfig) -> None:
    """It is logged where the recipe asks for it, and pulls the weights elsewhere."""
    left, right = (
        replace(config, run=config.run.with_name(name), changes={"evenness_weight": weight})
        for name, weight in (("without", 0.0), ("with", 5.0))
    )
    for run, is_logged in ((left, False), (right, True)):
        train(run)
        rows = [row for row in read_log(run.run) if "loss" in row]
        assert rows and all(("unevenness" in row) == is_logged for row in rows)
    first, second = weights_of(left.run), weights_of(right.run)
    assert not torch.equal(first["network.to_rgb.weight"], second["network.to_rgb.weight"])


def test_depth_loss_is_zero_for_the_averaged_target() -> None:
    target = torch.rand(1, 3, 96, 96)
    exact = [torch.nn.functional.avg_pool2d(target, 3 * cell) for cell in (16, 8, 4, 2)]
    assert float(depth_loss(exact, target)) == pytest.approx(0, abs=1e-6)
    assert float(depth_loss([x + 0.1 for x in exact], target)) == pytest.approx(0.1, abs=1e-5)


def test_going_on_keeps_the_skips_from_the_first_step_on() -> None:
    recipe = RECIPES["small-on"]
    for done in (0.0, 0.5):
        cuts = [draw_cut(recipe, 0, step, done) > 0 for step in range(4000)]
        assert np.mean(cuts) == pytest.approx(recipe.cut_share, abs=0.02)
    assert recipe.crops.photos > RECIPES["small"].crops.photos


def test_an_xtrans_network_starts_from_bayer_weights() -> None:
    """A flat field gives the same features, and a flat picture the same colours."""
    donor = build(NetConfig("gia-net", width=4))
    network = build(NetConfig("gia-net", cfa="xtrans", width=4))
    translated, missing, left_out = adopt(network, donor)
    assert missing == left_out == []
    assert sorted(translated) == ["encoder.0.0.weight", "to_rgb.bias", "to_rgb.weight"]
    for name, tensor in network.state_dict().items():
        assert name in translated or torch.equal(tensor, donor.state_dict()[name]), name
    color = torch.tensor([0.2, 0.5, 0.3])
    first, last = [], []
    for net in (donor, network):
        flat = color[list(PLANE_COLORS[net.config.cfa])].view(1, -1, 1, 1).expand(1, -1, 5, 5)
        first.append(net.get_submodule("encoder.0.0")(flat)[..., 2, 2])
        last.append(
            F.pixel_shuffle(net.get_submodule("to_rgb")(torch.ones(1, 4, 1, 1)), net.config.scale)
        )
    assert torch.allclose(first[0], first[1], atol=1e-6)
    assert torch.allclose(last[0].mean((2, 3)), last[1].mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("source", "target"), [("bayer", "xtrans"), ("xtrans", "bayer")])
def test_every_network_starts_from_the_other_array(
    name: str, source: CfaKind, target: CfaKind
) -> None:
    """A flat field gives the same colours, where the donor's sub-pixels agree among themselves."""
    donor, network = lively(small(name, source)), lively(small(name, target), seed=1)
    with torch.no_grad():
        for writer in donor.picture_writers:
            per_color = donor.get_parameter(writer).unflatten(0, (3, -1))
            per_color.copy_(per_color.mean(1, keepdim=True).expand_as(per_color))
    translated = adopt(network, donor).translated
    assert set(translated) == {*network.plane_readers, *network.picture_writers}
    color = torch.tensor([0.2, 0.5, 0.3])
    colors = []
    for net in (donor, network):
        planes = color[list(PLANE_COLORS[net.config.cfa])].view(1, -1, 1, 1)
        # Far from the border, which no network sees as flat.
        side = -(-(2 * net.halo + 16) // 16) * 16
        with torch.no_grad():
            picture = net(planes.expand(1, -1, side, side))
        middle, cell = side // 2 // 16 * 16 * net.config.scale, 16 * net.config.scale
        colors.append(picture[0, :, middle : middle + cell, middle : middle + cell].mean((1, 2)))
    torch.testing.assert_close(colors[0], colors[1], rtol=0, atol=1e-4)


def test_equal_arrays_take_all_weights_over() -> None:
    donor = build(NetConfig("gia-net", width=4))
    network = build(NetConfig("gia-net", width=4))
    assert adopt(network, donor, (2.0, 1.0, 2.5)) == ([], [], [])
    assert_equal(network.state_dict(), donor.state_dict())


@pytest.mark.parametrize(
    "donor",
    [
        NetConfig("se-unet", width=4),
        NetConfig("sid-dilated", width=4),
        NetConfig("gia-net", width=8),
        NetConfig("dncnn", width=4),
        NetConfig("sgn", "xtrans", width=4),
    ],
)
def test_other_networks_cannot_be_started_from(donor: NetConfig) -> None:
    with pytest.raises(WeightsMismatchError, match="cannot start from"):
        adopt(build(NetConfig("gia-net", width=4)), build(donor))


def test_gia_net_and_sid_net_start_from_one_another() -> None:
    """The picture stays: all of it where the vector begins, all but the vector where it ends."""
    sid, gia = lively(small("sid-net")), build(small("gia-net"))
    planes = torch.rand(1, 4, 32, 32)
    translated, missing, left_out = adopt(gia, sid)
    assert missing == [name for name in gia.state_dict() if name.startswith("gia.")]
    assert translated == left_out == []
    with torch.no_grad():
        torch.testing.assert_close(gia.eval()(planes), sid(planes), rtol=0, atol=1e-5)
    gia = lively(small("gia-net"))
    with torch.no_grad():  # no vector, and no bias that differs from sub-pixel to sub-pixel
        for name in ("gia.shrink.weight", "gia.shrink.bias", "gia.fuse.bias"):
            gia.get_parameter(name).zero_()
    translated, missing, left_out = adopt(sid, gia)
    assert translated == ["upsample.0.weight", "upsample.0.bias"]
    assert missing == []
    assert left_out == [name for name in gia.state_dict() if name.startswith("gia.")]
    with torch.no_grad():
        torch.testing.assert_close(sid.eval()(planes), gia(planes), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*UNETS, "sgn"])
@pytest.mark.parametrize("kind", ["bayer", "xtrans"])
def test_the_usual_light_looks_the_same_with_and_without_white_balance(
    name: str, kind: CfaKind, rng: np.random.Generator
) -> None:
    donor = lively(small(name, kind))
    network = build(replace(small(name, kind), white_balance="as-shot"))
    gains = (1.8, 1.0, 2.5)
    side = 2 * network.stride
    planes = torch.from_numpy(
        rng.uniform(0, 0.3, (1, donor.config.in_channels, side, side)).astype(np.float32)
    )
    balance = torch.tensor(gains)[list(PLANE_COLORS[kind])].view(1, -1, 1, 1)
    assert set(adopt(network, donor, gains).translated) == set(network.plane_readers)
    back = build(donor.config)
    adopt(back, network, gains)
    with torch.no_grad():
        expected = donor(planes)
        torch.testing.assert_close(network.eval()(planes * balance), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(back.eval()(planes), expected, rtol=0, atol=1e-4)


def test_init_from_takes_the_weights_over(config: TrainConfig) -> None:
    listener = StopAt(1)
    still = replace(config, width=None, init_from=LEARNED, changes={"lr": 1e-12})
    with pytest.raises(Interrupted):
        train(still, listener)
    assert any(f"Starting from {LEARNED}" in note for note in listener.notes)
    shipped = load_network(find_weights(LEARNED)).state_dict()
    ours = read_checkpoint(config.run)["ema"]
    assert all(torch.allclose(ours[name], shipped[name], atol=1e-6) for name in shipped)


@pytest.mark.parametrize(("mode", "whose"), [("as-shot", "ILCE-7SM2"), ("learned", "X-T2")])
def test_between_white_balances_the_gains_are_those_of_who_is_not_given_them(
    config: TrainConfig, tmp_path: Path, mode: WhiteBalanceMode, whose: CameraName
) -> None:
    """From a Sony's weights to a Fuji's network: a grey card of the usual light looks the same."""
    donor = lively(replace(small("gia-net"), white_balance=OTHER[mode]))
    gains = median_gains("ILCE-7SM2")
    save_weights(tmp_path / "donor.safetensors", donor, camera="ILCE-7SM2", neutral_wb=gains)
    asked = replace(
        config, camera="fuji", white_balance=mode, init_from=str(tmp_path / "donor.safetensors")
    )
    network = build(replace(small("gia-net", "xtrans"), white_balance=mode))
    training._start_from(asked, network, Silent())
    color = torch.tensor([0.2, 0.5, 0.3])
    usual = torch.tensor(median_gains(whose))
    first = []
    for net in (donor, network):
        seen = color * usual if net.config.white_balance == "as-shot" else color
        flat = seen[list(PLANE_COLORS[net.config.cfa])].view(1, -1, 1, 1).expand(1, -1, 5, 5)
        first.append(net.get_submodule("encoder.0.0")(flat)[..., 2, 2])
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=2e-3)  # stored in fp16


# ---------------------------------------------------------------- export


@pytest.mark.usefixtures("trained")
def test_exported_weights_are_the_averaged_ones(config: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "weights"
    row = export_run(config.run, "mine", folder, data_note="three squares", licence="CC0")
    assert row["training"]["steps"] == 4
    assert row["training"]["seed"] == 0
    assert row["training"]["data"] == "three squares"
    assert str(tmp_path) not in (folder / "manifest.json").read_text()
    (info,) = list_weights(folder)
    network = load_network(info)
    ema = read_checkpoint(config.run)["ema"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, ema[name].half().float()), name
    with pytest.raises(OutputExistsError):
        export_run(config.run, "mine", folder)
    export_run(config.run, "mine", folder, overwrite=True)
    export_run(config.run, "other", folder)
    assert [info.name for info in list_weights(folder)] == ["mine", "other"]


def test_export_needs_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not the folder of a training run"):
        export_run(tmp_path, "x", tmp_path)
    (tmp_path / CONFIG).write_text("{}")
    with pytest.raises(RunError, match="no checkpoint yet"):
        export_run(tmp_path, "x", tmp_path)
    with pytest.raises(UsageError, match="no name for weights"):
        export_run(tmp_path, "../x", tmp_path)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"photos": ()}, "either --data TREE or --photos"),
        ({"data": Path("tree")}, "either --data TREE or --photos"),
        ({"budget_s": 5.0}, "not both"),
        ({"steps": 0}, "--steps must be positive"),
        ({"width": -1}, "--width must be positive"),
        ({"network": "vgg"}, "no network 'vgg'"),
        ({"workers": -1}, "--workers"),
        ({"changes": {"lr": 0.0}}, "--lr must be positive"),
        ({"changes": {"facts_weight": -0.1}}, "--facts-weight must not be negative"),
        ({"changes": {"evenness_weight": -1.0}}, "--evenness-weight must not be negative"),
        ({"changes": {"facts_weight": float("nan")}}, "--facts-weight must not be negative"),
        ({"sides": (64, 32)}, "--sides"),
        ({"sides": (20, 20)}, "holds no multiple of 16"),
        ({"sides": (520, 540), "recipe": "paper"}, "holds no multiple of 32"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_nonsense_is_refused(config: TrainConfig, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        replace(config, **change)
    assert caught.value.exit_code == 2


def test_a_recipe_without_epochs_wants_a_length(config: TrainConfig) -> None:
    with pytest.raises(UsageError, match="How long"):
        train(replace(config, steps=None))


def test_all_broken_photographs_are_named_before_training(
    config: TrainConfig, tmp_path: Path, photos: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.png").write_bytes((photos / "0.png").read_bytes())
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        train(replace(config, photos=(folder,)))
    assert "a.jpg" in str(caught.value)
    assert "b.jpg" in str(caught.value)
    assert not (config.run / CHECKPOINT).exists()


def test_photographs_too_small_for_any_crop_are_refused(
    config: TrainConfig, tmp_path: Path
) -> None:
    iio.imwrite(tmp_path / "dot.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="too small"):
        train(replace(config, photos=(tmp_path / "dot.png",)))


def test_a_loss_that_is_no_number_ends_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(name: str, *, vgg: Path | None) -> Callable[[torch.Tensor, torch.Tensor], Any]:
        return lambda picture, target: (picture - target).sum() * float("nan")

    monkeypatch.setattr(training, "make_loss", explode)
    with pytest.raises(DivergedError, match="nan") as caught:
        train(config)
    assert caught.value.exit_code == 72


# ---------------------------------------------------------------- several processes

_RANK_SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from gia_cli.training import log, loop as t

log._has_matplotlib, log._tensorboard = lambda: False, lambda *_: None  # which take longer
save, step = t._save, t._step

def save_each(job):
    torch.save(job.state.trainee.state_dict(), job.config.run / f"rank{job.ranks.rank}.pt")
    save(job)

def step_or_die(job, *rest):
    first_try = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if sys.argv[4] == "die" and first_try and job.ranks.rank == 1 and job.state.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(job, *rest)

t._save, t._step = save_each, step_or_die
torch.set_num_threads(1)
t.train(t.TrainConfig(
    run=Path(sys.argv[1]), camera="sony", photos=(Path(sys.argv[2]),), cache=Path(sys.argv[3]),
    width=4, steps=6, sides=(16, 32), crops_per_photo=2, workers=0, device="cpu",
    checkpoint_every_s=0,
))
"""


def run_ranks(tmp_path: Path, run: Path, photos: Path, what: str) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(_RANK_SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node=2", "--max-restarts=1", str(script)]
    arguments = [str(run), str(photos), str(tmp_path / "cache"), what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo needs a POSIX system here")
def test_two_processes_agree_and_survive_a_killed_one(tmp_path: Path, photos: Path) -> None:
    """Equal parameters on both ranks; a killed rank's run ends where an undisturbed one does."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    run_ranks(tmp_path, undisturbed, photos, "live")
    run_ranks(tmp_path, disturbed, photos, "die")
    for run in (undisturbed, disturbed):
        ranks = [torch.load(run / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert_equal(*ranks)
        assert read_checkpoint(run)["step"] == 6
    assert_equal(weights_of(undisturbed), weights_of(disturbed))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo needs a POSIX system here")
def test_the_command_of_the_readme_trains_in_two_processes(tmp_path: Path, photos: Path) -> None:
    """`--run` would be taken for torchrun's own `--run-path`."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in readme.splitlines() if line.startswith("torchrun ")]
    words = shlex.split(line, comments=True)[1:]
    words[words.index("--nproc-per-node") + 1] = "2"
    words[words.index("--data") : words.index("--data") + 2] = ["--photos", str(photos)]
    words[words.index("--recipe") + 1] = "small"
    words[words.index("--run-folder") + 1] = str(tmp_path / "run")
    words += ["--cache", str(tmp_path / "cache"), "--width", "4", "--steps", "2", "--sides", "16"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *words, "--workers", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [str(tmp_path / "run")]
    assert read_checkpoint(tmp_path / "run")["step"] == 2


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16", "avx512_f"])
def test_a_cpu_trains_in_bf16_where_it_multiplies_in_it(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: str
) -> None:
    runs = {
        precision: replace(config, run=tmp_path / precision, precision=precision)
        for precision in ("auto", "fp32", "bf16")
    }
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True})
    losses = {name: train(run).loss for name, run in runs.items()}
    weights = {name: weights_of(run.run) for name, run in runs.items()}
    assert_equal(weights["auto"], weights["bf16" if "bf16" in able else "fp32"])
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_it_trains_on_a_gpu(config: TrainConfig, precision: Any) -> None:
    result = train(replace(config, device="cuda", precision=precision, steps=20))
    assert np.isfinite(result.validation_psnr)
    assert all(x.isfinite().all() for x in weights_of(config.run).values())
