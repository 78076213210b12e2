"""Control groups: what the limits of the process's own group, and of those above it, leave."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from gia_cli.cgroups import memory_left

GIGABYTE = 10**9
NO_LIMIT_V1 = 9223372036854771712
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V1_CPU = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
SLURM = "/slurm/uid_1000/job_77/step_0/task_1"


class Machine:
    """A folder with the files of ``proc`` and ``sys`` that matter."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def process(self, *groups: str, mounts: tuple[str, ...] = ()) -> Machine:
        for name, lines in (("cgroup", groups), ("mountinfo", mounts)):
            path = self.root / "proc/self" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))
        return self

    def v2(self, group: str, limit: object, used: object, **more: object) -> Machine:
        files = {"memory.max": limit, "memory.current": used}
        return self._write("sys/fs/cgroup", group, files | more)

    def v1(self, group: str, limit: object, used: object, **more: object) -> Machine:
        files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}
        return self._write("sys/fs/cgroup/memory", group, files | more)

    def _write(self, top: str, group: str, files: dict[str, object]) -> Machine:
        folder = self.root / top / group.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name.replace("memory_", "memory.")).write_text(f"{value}\n")
        return self

    @property
    def left(self) -> int | None:
        return memory_left(self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_where_there_are_no_groups_nothing_is_limited(machine: Machine) -> None:
    assert machine.left is None
    assert machine.process("", "nonsense", "0:", mounts=("", "1 2 3", "a - b", " - ")).left is None


# ---------------------------------------------------------------- where the group is


def test_version_2_in_a_namespace_of_its_own(machine: Machine) -> None:
    """A container: its group is the root of what it sees."""
    machine.process("0::/", mounts=(V2,)).v2("/", 3 * GIGABYTE, 2 * GIGABYTE)
    assert machine.left == GIGABYTE


def test_the_processes_own_group_counts_in_version_2(machine: Machine) -> None:
    group = "/user.slice/user-1000.slice/session-2.scope"
    machine.process(f"0::{group}", mounts=(V2,)).v2(group, 3 * GIGABYTE, GIGABYTE)
    machine.v2("/user.slice", "max", 9 * GIGABYTE)
    machine.v2("/another.slice", 1000, 0)
    assert machine.left == 2 * GIGABYTE


def test_the_processes_own_group_counts_in_version_1(machine: Machine) -> None:
    """SLURM: the limit lies deep, the top has none."""
    machine.process(f"4:memory:{SLURM}", "3:cpu:/elsewhere", "0::/", mounts=(V1_CPU, V1))
    machine.v1("/", NO_LIMIT_V1, 0).v1(SLURM, 800_000_000, 100_000_000)
    assert machine.left == 700_000_000


@pytest.mark.parametrize("depth", range(1, 6))
def test_a_limit_anywhere_above_the_group_counts(machine: Machine, depth: int) -> None:
    above = "/".join(SLURM.split("/")[: depth + 1])
    machine.process(f"0::{SLURM}", mounts=(V2,))
    for part in range(1, 6):
        machine.v2("/".join(SLURM.split("/")[: part + 1]), "max", 5 * GIGABYTE)
    machine.v2(above, 6 * GIGABYTE, 5 * GIGABYTE)
    assert machine.left == GIGABYTE


def test_what_the_strictest_leaves_counts_not_the_smallest_limit(machine: Machine) -> None:
    machine.process("0::/a/b", mounts=(V2,))
    machine.v2("/a", 9 * GIGABYTE, 8 * GIGABYTE).v2("/a/b", 4 * GIGABYTE, 2 * GIGABYTE)
    assert machine.left == GIGABYTE  # the neighbours of b have taken the rest of a


def test_both_versions_side_by_side(machine: Machine) -> None:
    machine.process("4:memory:/job", "1:name=systemd:/x", "0::/y", mounts=(V1, UNIFIED))
    machine.v1("/job", 2 * GIGABYTE, GIGABYTE)
    unified = machine.root / "sys/fs/cgroup/unified/y"
    unified.mkdir(parents=True)
    assert machine.left == GIGABYTE
    (unified / "memory.max").write_text("500000000\n")
    (unified / "memory.current").write_text("100000000\n")
    assert machine.left == 400_000_000


def test_controllers_may_share_a_hierarchy(machine: Machine) -> None:
    mount = "35 31 0:32 / /mnt/all rw - cgroup cgroup rw,cpu,memory"
    machine.process("4:cpu,memory:/job", mounts=(mount,))
    machine._write("mnt/all", "job", {"memory.limit_in_bytes": 700, "memory.usage_in_bytes": 200})
    assert machine.left == 500


def test_a_mount_elsewhere_with_a_strange_name(machine: Machine) -> None:
    mount = r"31 23 0:28 / /my\040groups rw - cgroup2 none rw"
    machine.process("0::/a", mounts=(mount,))
    machine._write("my groups", "a", {"memory.max": 700, "memory.current": 200})
    assert machine.left == 500


def test_a_container_sees_its_group_at_the_top_of_a_mount(machine: Machine) -> None:
    """Docker without a namespace for groups: the path is the host's, the mount begins at it."""
    top = "/docker/0123abc"
    mount = f"35 31 0:32 {top} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"
    machine.process(f"4:memory:{top}", mounts=(mount,)).v1("/", 900, 300)
    assert machine.left == 600
    machine.process(f"4:memory:{top}/inner", mounts=(mount,)).v1("/inner", 500, 100)
    assert machine.left == 400


@pytest.mark.parametrize("path", ["/kubepods/pod1/0123", "/../0123", "/../../kubepods/0123"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_path_that_cannot_be_seen_ends_at_the_mount(
    machine: Machine, version: int, path: str
) -> None:
    if version == 1:
        machine.process(f"4:memory:{path}", mounts=(V1,)).v1("/", 900, 300)
    else:
        machine.process(f"0::{path}", mounts=(V2,)).v2("/", 900, 300)
    assert machine.left == 600


def test_above_what_can_be_seen_version_1_states_the_strictest_limit(machine: Machine) -> None:
    machine.process("4:memory:/", mounts=(V1,))
    machine.v1("/", NO_LIMIT_V1, 300, memory_stat="cache 1\nhierarchical_memory_limit 900")
    assert machine.left == 600


@pytest.mark.parametrize(
    "mounts", [(), (V1_CPU,), ("31 23 0:28 / /sys/fs/cgroup rw - tmpfs t rw",)]
)
def test_without_a_list_of_mounts_the_usual_places_are_looked_at(
    machine: Machine, mounts: tuple[str, ...]
) -> None:
    machine.process(f"4:memory:{SLURM}", mounts=mounts).v1(SLURM, 900, 300)
    assert machine.left == 600
    machine.process("0::/", mounts=mounts).v2("/", 500, 100)
    assert machine.left == 400


def test_without_the_processes_list_the_top_counts(machine: Machine) -> None:
    machine.v2("/", 900, 300)
    assert machine.left == 600


# ---------------------------------------------------------------- what its files say


@pytest.mark.parametrize("limit", ["max", "", "-1", "much", 2**63 - 4096, 2**63 - 1, 2**64])
def test_no_limit_is_no_limit(machine: Machine, limit: object) -> None:
    machine.process("4:memory:/a", "0::/a", mounts=(V1, V2))
    machine.v1("/a", limit, 123).v2("/a", limit, 123)
    assert machine.left is None


@pytest.mark.parametrize("used", ["", "much", "12 13"])
def test_a_limit_holds_though_its_use_cannot_be_read(machine: Machine, used: str) -> None:
    machine.process("0::/a", mounts=(V2,)).v2("/a", 900, used)
    assert machine.left == 900


def test_more_used_than_allowed_leaves_nothing(machine: Machine) -> None:
    machine.process("0::/a", mounts=(V2,)).v2("/a", 900, 1000)
    assert machine.left == 0


def test_a_group_that_is_slowed_down_early_is_limited_there(machine: Machine) -> None:
    machine.process("0::/a", mounts=(V2,)).v2("/a", 900, 300, memory_high=700)
    assert machine.left == 400


@pytest.mark.parametrize(
    ("version", "stat"),
    [
        (2, "anon 5\ninactive_file 200\nactive_file 7\n"),
        (1, "inactive_file 3\ntotal_inactive_file 200\n"),
        (2, "inactive_file much\n\ninactive_file 200\ninactive_file\n"),
    ],
)
def test_page_cache_that_the_kernel_gives_back_is_free(
    machine: Machine, version: int, stat: str
) -> None:
    machine.process("4:memory:/a", "0::/a", mounts=(V1, V2))
    (machine.v1 if version == 1 else machine.v2)("/a", 900, 300, memory_stat=stat)
    assert machine.left == 800


def test_more_cache_than_is_used_is_not_more_than_the_limit(machine: Machine) -> None:
    machine.process("0::/a", mounts=(V2,)).v2("/a", 900, 100, memory_stat="inactive_file 200")
    assert machine.left == 900


def test_the_own_machine_leaves_something_or_has_no_limit() -> None:
    left = memory_left()
    assert left is None or 0 < left < 2**60
    assert psutil.virtual_memory().total > 0
