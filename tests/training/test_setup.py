"""What a run starts from: weights, data, precision."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from gia_cli.cameras import CameraFamily, CameraName
from gia_cli.data.batches import SidCrops
from gia_cli.data.synthetic import PhotoScenes
from gia_cli.errors import (
    DataError,
    DivergedError,
    Interrupted,
    OutputError,
    RunError,
    UsageError,
)
from gia_cli.nets import build
from gia_cli.nets.config import WhiteBalanceMode
from gia_cli.nets.unet import GiaNet
from gia_cli.progress import Silent
from gia_cli.raw.cfa import PLANE_COLORS
from gia_cli.simulation.sensor import median_gains
from gia_cli.training import checkpoint, setup
from gia_cli.training import loop as training
from gia_cli.training.checkpoint import CHECKPOINT, read_checkpoint
from gia_cli.training.config import TrainConfig
from gia_cli.training.distributed import Ranks
from gia_cli.training.initialise import init_identity_path
from gia_cli.training.log import read_log
from gia_cli.training.loop import train
from gia_cli.training.run_folder import CONFIG, export_run, read_config
from gia_cli.weights.manifest import find_weights, list_weights
from gia_cli.weights.storage import load_network, save_weights
from tests.networks import LEARNED, lively, small
from tests.training.runs import StopAt, assert_equal, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

OTHER: dict[WhiteBalanceMode, WhiteBalanceMode] = {"as-shot": "learned", "learned": "as-shot"}


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

    monkeypatch.setattr(checkpoint, "atomic_file", full)
    with pytest.raises(OutputError, match="No space left"):
        train(replace(config, steps=6))
    monkeypatch.undo()
    assert_equal(before, weights_of(config.run))


@pytest.mark.slow
def test_the_running_mean_takes_over_batch_statistics(config: TrainConfig) -> None:
    train(replace(config, network="dncnn", steps=3))
    saved = read_checkpoint(config.run)
    statistics = [name for name in saved["ema"] if "running" in name or "tracked" in name]
    assert len(statistics) == 45
    for name in statistics:
        assert torch.equal(saved["ema"][name], saved["trainee"][f"network.{name}"])
    assert int(saved["ema"]["middle.0.1.num_batches_tracked"]) == 3
    assert not torch.equal(saved["ema"]["to_rgb.bias"], saved["trainee"]["network.to_rgb.bias"])


@pytest.mark.slow
def test_the_way_up_is_opened_once(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What has learned to be heard is not put back, whatever runs lie between; else it begins."""
    opened: list[str] = []
    monkeypatch.setattr(setup, "_FIT_SCENES", 2)

    def spy(network: GiaNet, count: int) -> None:
        opened.append(network.config.network)
        init_identity_path(network, count)

    monkeypatch.setattr(setup, "init_identity_path", spy)

    def run(name: str, start: str | None = None, **changes: Any) -> bool:
        init = None if start is None else str(tmp_path / f"{start}.safetensors")
        asked = replace(config, width=12, steps=1, run=tmp_path / name, init_from=init, **changes)
        opened.clear()
        train(asked)
        row = export_run(asked.run, name, tmp_path)
        assert row["training"]["vector_supervised"] == (name != "plain" and name != "sid")
        return bool(opened)

    assert not run("plain", recipe="small")
    assert run("first", "plain", recipe="finetune")
    assert not run("second", "first", recipe="finetune")
    assert not run("between", "second", recipe="small")
    assert not run("third", "between", recipe="finetune")
    assert not run("sid", "third", recipe="finetune", network="sid-net")
    assert run("again", "sid", recipe="finetune")


@pytest.mark.slow
def test_without_auxiliary_targets_no_identity_path_is_made(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = StopAt(10**9)
    monkeypatch.setattr(setup, "init_identity_path", lambda *args: pytest.fail("opened"))
    narrow = replace(config, recipe="finetune", width=8, steps=1)
    train(narrow, heard)
    assert heard.notes[-1].endswith("the network is too narrow.")
    monkeypatch.setattr(PhotoScenes, "has_auxiliary_targets", False)  # as SID's photos
    real = replace(narrow, width=12, run=config.run.with_name("real"))
    train(real, heard)
    assert heard.notes[-1].endswith("those of real photos are unknown.")
    assert read_config(real.run)["recipe"]["auxiliary_weight"] == 0
    assert SidCrops.has_auxiliary_targets is False


def test_weights_with_any_history_can_be_started_from(config: TrainConfig) -> None:
    for info in list_weights():
        if info.config.network == "gia-net" and info.quantized_from is None:
            camera: CameraFamily = "sony" if info.config.cfa == "bayer" else "fuji"
            asked = replace(
                config, camera=camera, recipe="finetune", width=None, init_from=info.name
            )
            assert not setup._starts_supervised(asked) or info.training["vector_supervised"]


@pytest.mark.slow
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
def test_between_white_balances_the_gains_are_those_of_weights_that_infer_the_light(
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
    setup._start_from(asked, network, Silent())
    color = torch.tensor([0.2, 0.5, 0.3])
    usual = torch.tensor(median_gains(whose))
    first = []
    for net in (donor, network):
        seen = color * usual if net.config.white_balance == "as-shot" else color
        flat = seen[list(PLANE_COLORS[net.config.cfa])].view(1, -1, 1, 1).expand(1, -1, 5, 5)
        first.append(net.get_submodule("encoder.0.0")(flat)[..., 2, 2])
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=2e-3)  # stored in fp16


def test_a_recipe_without_epochs_wants_a_length(config: TrainConfig) -> None:
    with pytest.raises(UsageError, match="The run has no length"):
        train(replace(config, steps=None))


@pytest.mark.parametrize(
    ("world", "photos", "steps"),
    [(1, 1, 644_000), (8, 1, 80_500), (3, 2, 107_334)],
)
def test_an_epoch_is_every_scene_once_over_all_processes(
    config: TrainConfig, world: int, photos: int, steps: int
) -> None:
    """SID has 161 scenes and the published recipe 4000 epochs."""
    asked = replace(config, recipe="paper", steps=None, photos_per_step=photos)
    ranks = Ranks(world=world)
    assert setup._length(asked, asked.full_recipe(), 161, ranks) == steps
    assert setup._length(replace(asked, steps=7), asked.full_recipe(), 161, ranks) == 7
    assert setup._length(replace(asked, budget_s=7), asked.full_recipe(), 161, ranks) is None


@pytest.mark.usefixtures("trained")
def test_a_run_by_epochs_keeps_the_length_that_it_began_with(config: TrainConfig) -> None:
    """Older versions recorded none, and took a step for each scene whatever was in it."""
    path = config.run / CONFIG
    there = json.loads(path.read_text())
    assert there.pop("planned_steps") == 4
    recipe = replace(config.full_recipe(), epochs=10)
    recipe = replace(recipe, crops=replace(recipe.crops, photos=2))

    def length(**recorded: int | None) -> int | None:
        path.write_text(json.dumps({**there, **recorded}))
        return setup._length(replace(config, steps=None), recipe, 30, Ranks(world=5))

    assert length(steps=None) == 300
    assert length(steps=None, planned_steps=44) == 44
    assert length(steps=4, planned_steps=4) == 30  # it did not go by epochs
    (config.run / CHECKPOINT).unlink()
    assert length(steps=None) == 30  # nothing has begun


@pytest.mark.slow
def test_a_run_by_epochs_ends_and_says_how_long_it_is(config: TrainConfig) -> None:
    by_epochs = replace(config, steps=None, photos_per_step=2, changes={"epochs": 3})
    assert train(by_epochs).steps == 5  # 3 photographs, twice 3 and a half
    assert read_config(config.run)["planned_steps"] == 5
    assert train(by_epochs).steps == 5


@pytest.mark.parametrize(
    ("rank", "local", "verify", "expected"),
    [
        (0, 0, False, ["files", "wait"]),
        (0, 0, True, ["contents", "wait"]),
        (1, 1, True, ["wait", "none"]),
        (8, 0, False, ["files", "wait"]),  # the first of its machine
    ],
)
@pytest.mark.parametrize("kind", ["photos", "data"])
def test_one_process_of_each_machine_looks_at_the_data(
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    rank: int,
    local: int,
    verify: bool,
    expected: list[str],
) -> None:
    done: list[str] = []

    def look(*_: Any, check: str, **__: Any) -> None:
        done.append(check)
        raise DataError("Broken.")  # whoever waits for it must not wait for ever

    def wait(self: Ranks, *, patiently: bool) -> None:
        assert patiently
        done.append("wait")

    monkeypatch.setattr(setup, "open_photos", look)
    monkeypatch.setattr(setup, "open_splits", look)
    monkeypatch.setattr(Ranks, "wait", wait)
    if kind == "data":
        config = replace(config, photos=(), data=Path("tree"))
    with pytest.raises(DataError):
        setup._open_data(replace(config, verify=verify), Ranks(rank, 16, local), Silent())
    assert done == expected


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


@pytest.mark.slow
def test_a_cpu_trains_in_bf16_where_it_multiplies_in_it(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[str, float] = {}
    for able in ("avx512_bf16", "amx_bf16", "avx512_f"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {able: True})
        for name in ("fp32", "bf16", able):
            if name not in losses:
                precision: Any = "auto" if name == able else name
                run = replace(config, run=tmp_path / name, precision=precision)
                losses[name] = train(run).loss
        expected = "bf16" if "bf16" in able else "fp32"
        assert_equal(weights_of(tmp_path / able), weights_of(tmp_path / expected))
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_a_gpu_that_only_emulates_bf16_is_not_taken_for_one_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation  # as of a GTX 16xx or an RTX 20xx

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert not setup._has_bf16(torch.device("cuda"))


def state_after_a_step(config: TrainConfig, step: int) -> setup.TrainState:
    """A training state whose optimizer and scaler, if there is one, have taken a step."""
    state = setup._new_state(config, config.full_recipe(), torch.device("cpu"))
    loss = state.trainee(torch.rand(1, 4, 16, 16), 1)[0].square().mean()
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update(4096.0 if state.scaler.is_enabled() else None)
    state.step = step
    return state


@pytest.mark.parametrize("after", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("before", ["fp16", "bf16", "fp32"])
def test_a_checkpoint_serves_every_precision(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, before: Any, after: Any
) -> None:
    """Only fp16 scales its gradients; where there was no scale, it begins with the usual one."""
    formats = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": None}
    monkeypatch.setattr(setup, "_autocast", lambda precision, _: formats[precision])
    saved = state_after_a_step(replace(config, precision=before), 7)
    new = state_after_a_step(replace(config, precision=after, seed=1), 0)
    fresh = new.scaler.get_scale()
    new.load_dict(saved.to_dict(1.0))
    assert new.step == 7
    assert new.scaler.is_enabled() == (after == "fp16")
    assert new.scaler.get_scale() == (4096 if before == after == "fp16" else fresh)
    assert_equal(new.trainee.state_dict(), saved.trainee.state_dict())
    for mine, theirs in zip(
        new.optimizer.state.values(), saved.optimizer.state.values(), strict=True
    ):
        assert_equal(mine, theirs)


def test_the_optimizers_way_to_compute_is_the_devices(config: TrainConfig) -> None:
    """A checkpoint of a GPU, with fused steps, may go on where there are none."""
    saved = state_after_a_step(config, 1).to_dict(1.0)
    new = state_after_a_step(config, 0)
    for group in new.optimizer.param_groups:
        group["fused"] = None
    new.load_dict(saved)
    assert [group["fused"] for group in new.optimizer.param_groups] == [None]
    assert [group["fused"] for group in saved["optimizer"]["param_groups"]] == [True]


@pytest.mark.parametrize("before", [True, False])
def test_fp32_is_not_tf32_while_it_trains(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """cuDNN's convolutions round fp32 to 10 bits by default: those that are to be fp32, too."""
    seen: list[bool] = []
    step = training._step

    def spy(*args: Any, **named: Any) -> Any:
        seen.append(torch.backends.cudnn.allow_tf32)
        return step(*args, **named)

    monkeypatch.setattr(training, "_step", spy)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    train(replace(config, steps=1))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


# ---------------------------------------------------------------- sources, input below black


@pytest.fixture
def by_source(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A run on photographs of three folders, two of them kept for validation."""
    for index, name in enumerate(("much", "other", "third")):
        (tmp_path / "own" / name).mkdir(parents=True)
        coarse = np.random.default_rng(index).integers(20, 235, (6, 6, 3))
        photo = coarse.repeat(32, 0).repeat(32, 1).astype(np.uint8)
        for number in range(3):
            iio.imwrite(tmp_path / "own" / name / f"{number}.png", np.roll(photo, number * 7, 0))
    return replace(
        config, photos=(tmp_path / "own",), validation_sources=("other", "third"), steps=2
    )


@pytest.mark.slow
def test_validation_is_reported_by_source(by_source: TrainConfig) -> None:
    result = train(by_source)
    (row,) = [row for row in read_log(by_source.run) if "validation_psnr" in row]
    scores = [row["validation_psnr/other"], row["validation_psnr/third"]]
    assert scores[0] != scores[1]
    assert np.mean(scores) == pytest.approx(row["validation_psnr"], rel=1e-4)
    assert row["validation_psnr"] == pytest.approx(result.validation_psnr, rel=1e-4)
    assert (by_source.run / "validation" / "step-00000002.png").is_file()


def test_a_source_that_is_not_there_is_refused(by_source: TrainConfig) -> None:
    with pytest.raises(DataError, match="folder named nowhere") as caught:
        train(replace(by_source, validation_sources=("nowhere",)))
    assert "much, other, third" in str(caught.value.hint)


def test_sources_are_for_photographs(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--validate-on"):
        replace(config, photos=(), data=tmp_path, validation_sources=("x",))


@pytest.mark.parametrize(
    ("recipe", "asked", "floor"),
    [
        ("small", None, None),
        ("small", True, 0),
        ("paper", None, 0),
        ("paper-as-printed", None, 0),
        ("paper", False, None),
    ],
)
def test_the_published_recipes_clip_at_black(
    config: TrainConfig, recipe: Any, asked: bool | None, floor: int | None
) -> None:
    chosen = replace(config, recipe=recipe, clip_black=asked, sides=None)
    assert chosen.net_config().input_floor == floor


@pytest.mark.usefixtures("trained")
def test_the_floor_is_the_runs_and_its_weights(config: TrainConfig) -> None:
    assert export_run(config.run, "own", config.run / "weights")["config"]["input_floor"] is None
    with pytest.raises(RunError, match="input_floor"):
        train(replace(config, clip_black=True))


@pytest.mark.slow
def test_training_on_photographs_goes_without_libraw() -> None:
    code = (
        "import sys; sys.modules['rawpy'] = None; import gia_cli.training.loop, gia_cli.cli.train"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_of_one_place_have_the_strides_of_their_gradients(config: TrainConfig) -> None:
    """In channels_last, where torch gives them others: several processes would copy and warn."""
    trainee = setup._new_state(config, config.full_recipe(), torch.device("cpu")).trainee
    weights = [each for each in trainee.parameters() if each.dim() == 4]
    small = [each for each in weights if each.shape[2:] == (1, 1)]
    assert small and all(each.stride() == (each.shape[1], 1, 1, 1) for each in small)
    large = [each for each in weights if each.shape[2] > 1 and each.shape[1] > 1]
    assert large and all(each.stride(1) == 1 for each in large)
