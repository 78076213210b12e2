"""A short campaign over hostile files; and the campaign notices what it is there to notice."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gia_cli.errors import DamagedFileError
from tests.fuzz.__main__ import main
from tests.fuzz.campaign import Limits, Outcome, Plan, Tally, run
from tests.fuzz.exercise import BrokenPromise, check_text, mutant, promise, use_photo, use_weights
from tests.fuzz.seeds import KINDS, PHOTO_KINDS, seeds

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process, by Linux")

# ---------------------------------------------------------------- mutants


@pytest.mark.parametrize("kind", KINDS)
def test_every_seed_is_whole(tmp_path: Path, kind: str) -> None:
    for seed in seeds(kind):
        path = tmp_path / seed.name
        path.write_bytes(seed.data)
        if kind == "weights":
            use_weights(path)
        else:
            use_photo(path, random.Random(0))


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_means_one_mutant(kind: str) -> None:
    whole = {seed.data for seed in seeds(kind)}
    unchanged = 0
    indices = [index for index in range(200) if KINDS[index % len(KINDS)] == kind]
    for index in indices:
        files = mutant(7, index)
        assert files == mutant(7, index)
        unchanged += len(files) == 1 and next(iter(files.values())) in whole
    assert unchanged < len(indices) / 10
    assert mutant(7, indices[0]) != mutant(8, indices[0])


def test_asking_for_fewer_kinds_asks_for_the_same_mutants() -> None:
    everything = set(Plan(0, 50).indices())
    parts = [set(Plan(0, 10, (kind,)).indices()) for kind in KINDS]
    assert len(everything) == 50
    assert set.union(*parts) == everything


# ---------------------------------------------------------------- campaigns


def _outcomes(plan: Plan) -> Tally:
    tally = Tally()
    for outcome in run(plan):
        tally.add(outcome)
    return tally


def _assert_kept(plan: Plan) -> None:
    tally = _outcomes(plan)
    assert not tally.faults, "\n".join(
        f"python -m tests.fuzz --replay {plan.seed}:{fault.index}  {fault.verdict}\n{fault.detail}"
        for fault in tally.faults
    )
    assert sum(tally.counts.values()) == plan.count
    # A campaign whose mutants are all refused at the door finds nothing.
    for kind in KINDS:
        counts = Counter({v: n for (of, v), n in tally.counts.items() if of == kind})
        assert 0.1 < counts["ok"] / counts.total() < 0.9, kind


@needs_linux
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_hostile_files_end_in_errors_of_ours() -> None:
    _assert_kept(Plan(seed=2026, count=300))


# ---------------------------------------------------------------- what a campaign notices


def _misbehave(campaign: int, index: int, folder: Path) -> None:
    """Do what index says, the worst that there is."""
    (folder / "left.tif").write_bytes(b"")
    if index == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif index == 2:
        while True:
            pass
    elif index == 3:
        time.sleep(60)
    elif index == 4:
        np.ones(100_000_000, np.uint8)
    elif index == 5:
        np.ones(1 << 31, np.uint8)
    elif index == 6:
        raise ValueError("no error of ours")
    elif index == 7:
        raise DamagedFileError("photo.ARW is cut short.")
    elif index == 8:
        promise(False, "this holds")
    elif index == 9:
        np.log(np.zeros(1))  # warns
    elif index == 10:
        os._exit(3)


_VERDICTS = [
    "ok",
    "fault: SIGSEGV",
    "fault: it takes too long",
    "fault: it takes too long",
    "fault: it takes too much memory",
    "fault: MemoryError",
    "fault: ValueError",
    "exit 14 (DamagedFileError)",
    "fault: BrokenPromise",
    "fault: RuntimeWarning",
    "fault: it exits with 3",
    "ok",
]


@needs_linux
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_every_fault_is_noticed_and_the_rest_is_done() -> None:
    limits = Limits(cpu_seconds=1.0, seconds=3.0, memory=80_000_000)
    outcomes = list(run(Plan(0, len(_VERDICTS), jobs=2, limits=limits), _misbehave))
    by_index = {outcome.index: outcome for outcome in outcomes}
    assert len(outcomes) == len(_VERDICTS)
    assert [by_index[index].verdict for index in range(len(_VERDICTS))] == _VERDICTS
    assert by_index[4].grown > 90_000_000
    assert by_index[0].grown < 50_000_000
    assert "no error of ours" in by_index[6].detail


@pytest.mark.parametrize("text", ["a\x1b[2J", "a\nb", "\x9b", "\u202e", "\ud800"])
def test_a_text_that_could_command_a_terminal_is_a_broken_promise(text: str) -> None:
    with pytest.raises(BrokenPromise, match="no control character"):
        check_text(text, "the message")
    check_text("1/30 s, ISO 1600, é", "the message")


def test_the_table_counts_by_kind_and_names_the_costliest() -> None:
    tally = Tally()
    tally.add(Outcome(0, "ok", 0.5, 3_000_000))
    tally.add(Outcome(5, "ok", 0.1, 9_000_000))
    tally.add(Outcome(1, "exit 14 (DamagedFileError)"))
    tally.add(Outcome(2, "fault: SIGSEGV"))
    lines = tally.table(4).splitlines()
    assert lines[0].split() == ["arw", "raf", "dng", "all"]
    assert lines[1].split() == ["ok", "2", "2"]
    assert lines[2].split() == ["exit", "14", "(DamagedFileError)", "1", "1"]
    assert lines[3].split() == ["fault:", "SIGSEGV", "1", "1"]
    assert lines[4].split() == ["all", "2", "1", "1", "4"]
    assert lines[5] == "longest time: 0.50 s of a core, mutant 4:0"
    assert lines[6] == "most memory: 9 MB, mutant 4:5"
    assert [fault.index for fault in tally.faults] == [2]


@needs_linux
@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_the_command_counts_and_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "8", "--seed", "3", "--kind", "raf,weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].split() == ["all", "4", "4", "8"]
    assert main(["--replay", "3:1", "--keep", str(tmp_path)]) == 0
    assert "Outcome(index=1" in capsys.readouterr().out
    ((name, data),) = mutant(3, 1).items()
    assert (tmp_path / "3-1" / name).read_bytes() == data


def test_photos_come_in_all_kinds() -> None:
    assert {Path(seed.name).suffix.lower()[1:] for kind in PHOTO_KINDS for seed in seeds(kind)} == {
        *PHOTO_KINDS
    }
