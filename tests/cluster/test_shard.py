"""Shares of a batch: together all photos, none twice, whatever the machines have in common."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

from gia_cli.cluster.shard import Shard, of_shard, parse_shard, unnumbered
from gia_cli.enhance.batch import BatchOptions, Job, plan_jobs
from gia_cli.errors import UsageError

SLURM = {
    "SLURM_ARRAY_TASK_ID": "6",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_MIN": "2",
    "SLURM_ARRAY_TASK_MAX": "8",
}


def make_jobs(count: int) -> list[Job]:
    return [Job(Path(f"{n}.ARW"), (), key=f"{n % 7}/{n}.ARW") for n in range(count)]


def jobs_of(jobs: list[Job], shard: Shard) -> list[Job]:
    return of_shard(jobs, shard, attrgetter("key"))


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000])
def test_shards_never_meet_and_leave_nothing_out(count: int) -> None:
    jobs = make_jobs(500)
    shares = [jobs_of(jobs, Shard(number, count)) for number in range(1, count + 1)]
    assert sorted(job.source for share in shares for job in share) == sorted(
        job.source for job in jobs
    )
    assert all(share == sorted(share, key=jobs.index) for share in shares[:3])


def test_shares_are_about_equal() -> None:
    jobs = make_jobs(2000)
    sizes = [len(jobs_of(jobs, Shard(number, 5))) for number in range(1, 6)]
    assert min(sizes) > 310 and max(sizes) < 490  # five standard deviations


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("length", [0, 1, 5, 64, 598])
def test_shares_of_a_list_are_equal_and_leave_nothing_out(length: int, count: int) -> None:
    shards = [Shard(number, count) for number in range(1, count + 1)]
    blocks = [shard.block(range(length)) for shard in shards]
    assert [place for block in blocks for place in block] == list(range(length))
    dealt = [[place for place in range(length) if shard.has_place(place)] for shard in shards]
    assert sorted(place for places in dealt for place in places) == list(range(length))
    for shares in (blocks, dealt):
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_photos_share_is_its_own_wherever_its_folder_lies(tmp_path: Path) -> None:
    """Other photos, the mount point and the way the folder is written change nothing."""
    for folder, names in (("a/card", "xyz"), ("b/mnt/card", "xz")):
        for name in names:
            path = tmp_path / folder / "sub" / f"{name}.ARW"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    options = BatchOptions(recursive=True)
    found = [
        {job.source.name: Shard(1, 2).has(job.key) for job in plan_jobs([folder], options)}
        for folder in (tmp_path / "a" / "card", tmp_path / "b" / ".." / "b" / "mnt" / "card")
    ]
    assert found[0].items() >= found[1].items() and len(found[1]) == 2


def test_the_share_of_a_name_is_fixed_for_ever() -> None:
    """A run that is resumed with a later gia must find the same photos."""
    known = {
        "night.ARW": 4,
        "2024/DSC0001.ARW": 20,
        "na\u0308chte/a b.RAF": 2,
        "bad\udcff.ARW": 13,
    }
    for key, number in known.items():
        assert [n for n in range(1, 65) if Shard(n, 64).has(key)] == [number], key
    assert Shard(2, 64).has("n\xe4chte/a b.RAF")  # composed otherwise


def test_the_option_and_the_environment() -> None:
    assert parse_shard(None, {}) is None
    assert parse_shard("3/64", SLURM) == Shard(3, 64)
    for text in (None, "auto"):
        assert parse_shard(text, SLURM) == Shard(3, 4, "SLURM_ARRAY_TASK_ID")
    assert parse_shard("auto/4", SLURM) == Shard(3, 4, "SLURM_ARRAY_TASK_ID")
    pod = {"JOB_COMPLETION_INDEX": "0"}
    assert parse_shard("auto/9", pod) == Shard(1, 9, "JOB_COMPLETION_INDEX")
    assert parse_shard(None, pod) is None and "--shard auto/N" in unnumbered(pod)
    assert not unnumbered({})
    one = {**SLURM, "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MAX": "2"}
    assert parse_shard(None, {**one, "SLURM_ARRAY_TASK_ID": "2"}) == Shard(
        1, 1, "SLURM_ARRAY_TASK_ID"
    )


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("0/4", {}, "no shard 0 of 4"),
        ("5/4", {}, "no shard 5 of 4"),
        ("1/0", {}, "no shard 1 of 0"),
        ("3", {}, "takes I/N"),
        ("-1/4", {}, "takes I/N"),
        ("a/b", {}, "takes I/N"),
        ("", {}, "takes I/N"),
        ("auto", {"SLURM_ARRAY_TASK_ID": None}, "which is not set"),
        ("auto/4", {"SLURM_ARRAY_TASK_ID": None}, "neither is set"),
        ("auto/2", {}, "has 4 tasks, not the 2 of"),
        ("auto/9", {}, "has 4 tasks, not the 9 of"),
        ("auto/2", {"JOB_COMPLETION_INDEX": "two"}, "'two', which is no whole number"),
        (None, {"SLURM_ARRAY_TASK_COUNT": None}, "SLURM_ARRAY_TASK_COUNT is not set"),
        (None, {"SLURM_ARRAY_TASK_MAX": "9"}, "from 2 to 9, with gaps"),
        (None, {"SLURM_ARRAY_TASK_MAX": "2"}, "with gaps"),
        (None, {"SLURM_ARRAY_TASK_COUNT": "0"}, "with gaps"),
    ],
)
def test_what_names_no_share_is_refused(
    text: str | None, changes: dict[str, str | None], words: str
) -> None:
    environment = {k: v for k, v in {**SLURM, **changes}.items() if v is not None}
    with pytest.raises(UsageError, match=words) as caught:
        parse_shard(text, environment)
    assert caught.value.exit_code == 2 and caught.value.hint
