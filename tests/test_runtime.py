"""Device, precision and memory: what is asked for, what is there, what is free."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from gia_cli import runtime
from gia_cli.errors import DeviceError, OutOfMemoryError, UsageError
from gia_cli.runtime import (
    DeviceKind,
    DeviceName,
    NumberFormat,
    Precision,
    Runtime,
    available_cores,
    cache_folder,
    device_names,
    devices_for_batch,
    free_bytes,
    is_main_memory,
    is_oom_error,
    parse_size,
    resident_bytes,
    resolve,
)

HAS_CUDA = torch.cuda.is_available()
HAS_MPS = torch.backends.mps.is_available()

# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1500MB", 1_500_000_000),
        ("3GB", 3 * 10**9),
        ("2GiB", 2**31),
        ("1.5gib", 3 * 2**29),
        ("0.5 GB", 500_000_000),
        ("7k", 7_000),
        ("7KiB", 7 * 1024),
        ("12B", 12),
        ("12 b", 12),
        ("3M", 3_000_000),
        ("3Mi", 3 * 2**20),
        ("  64 mib ", 64 * 2**20),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["5", "1500MB", "3GB", "2GiB", "1.25 MiB"])
def test_case_and_spaces_do_not_matter(text: str) -> None:
    expected = parse_size(text)
    for variant in (text.lower(), text.upper(), f"  {text}\t", text.replace(" ", "")):
        assert parse_size(variant) == expected


# fmt: off
NO_SIZES = [
    "", " ", "GB", "many", "3 potatoes", "-3GB", "+3GB", "3iB", "3i", "3TB", "3GBB", "3,5GB",
    "1e9", "0x10", ".5GB", "5.GB", "3 G B", "3GB 4MB", "nan", "inf", "9" * 400, "²GB",
]
# fmt: on


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.exit_code == 2
    assert f"'{text}'" in caught.value.message
    assert "1500MB" in caught.value.hint


# ---------------------------------------------------------------- device and precision


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", "float32"), ("fp32", "float32"), ("bf16", "bfloat16")],
)
def test_cpu_computes_in_fp32_and_bf16(precision: Precision, dtype: NumberFormat) -> None:
    assert resolve("cpu", precision) == Runtime("cpu", dtype)


def test_int8_means_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("auto", "int8") == resolve("cpu", "int8") == Runtime("cpu", "int8")
    monkeypatch.setattr(runtime, "_present_device", lambda *wanted: wanted)
    with pytest.raises(DeviceError, match="not on cuda") as caught:
        resolve("cuda", "int8")
    assert caught.value.hint == "Leave out --device."


def test_cpu_refuses_fp16() -> None:
    with pytest.raises(DeviceError, match="fp16") as caught:
        resolve("cpu", "fp16")
    assert caught.value.exit_code == 50
    assert "bf16" in caught.value.hint


@pytest.mark.parametrize(("device", "is_there"), [("cuda", HAS_CUDA), ("mps", HAS_MPS)])
def test_an_absent_device_is_refused_by_naming_those_present(
    device: DeviceName, is_there: bool
) -> None:
    if is_there:
        pytest.skip(f"this machine has {device}")
    with pytest.raises(DeviceError, match=rf"no {device} device .*\(.*cpu.*\)") as caught:
        resolve(device)
    assert caught.value.exit_code == 50
    assert "--device cpu" in caught.value.hint


@pytest.mark.skipif(HAS_CUDA or HAS_MPS, reason="needs a machine without accelerators")
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert resolve() == resolve("auto", "fp32") == resolve("cpu", "fp32")
    with pytest.raises(DeviceError, match="fp16"):
        resolve("auto", "fp16")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected", "dtype"),
    [
        (True, True, "cuda", "float16"),
        (True, False, "cuda", "float16"),
        (False, True, "mps", "float32"),
        (False, False, "cpu", "float32"),
    ],
)
def test_auto_takes_the_best_device_present(
    cuda: bool,
    mps: bool,
    expected: DeviceKind,
    dtype: NumberFormat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards(monkeypatch, (8, 6), count=int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve() == Runtime(expected, dtype)
    assert resolve("cpu") == Runtime("cpu", "float32")
    if cuda:
        assert resolve("cuda", "fp16").dtype == "float16"
        assert resolve("auto", "fp32").dtype == "float32"


def test_a_runtime_names_device_and_number_format() -> None:
    assert str(resolve("cpu", "bf16")) == "cpu, bfloat16"


def test_the_cpu_leads_the_list_of_devices() -> None:
    first, *others = device_names()
    assert first == f"cpu ({torch.get_num_threads()} threads)"
    assert len(others) == torch.cuda.device_count() * HAS_CUDA + HAS_MPS


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")
def test_cuda_is_chosen_and_its_memory_known() -> None:
    assert resolve() == Runtime("cuda", "float16")
    assert 0 < free_bytes("cuda") <= torch.cuda.get_device_properties(0).total_memory


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_runtime_knows_the_size_of_a_number(dtype: NumberFormat) -> None:
    assert Runtime("cpu", dtype).number_bytes == getattr(torch, dtype).itemsize


def test_without_a_gpu_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_may_have_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert resolve() == resolve("auto", "fp32") == resolve("cpu") == Runtime("cpu", "float32")


def test_a_driver_is_enough_to_ask_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    def no_library(name: str) -> None:
        raise OSError(name)

    assert runtime._may_have_gpu()  # torch is imported here: asking costs nothing
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: name)
    assert runtime._may_have_gpu()
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    may_have_other = sys.platform == "darwin" or Path("/dev/kfd").exists()
    assert runtime._may_have_gpu() == may_have_other


def test_importing_the_module_does_not_import_torch() -> None:
    code = (
        "import sys; from gia_cli import runtime; runtime.parse_size('3GB'); runtime.free_bytes();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---------------------------------------------------------------- cores


@pytest.mark.parametrize(
    ("share", "cores"),
    [
        ("max 100000", 4),
        ("800000 100000", 4),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("", 4),
        ("much 0", 4),
        ("5 0", 4),
    ],
)
def test_a_containers_share_of_the_processor_counts(
    share: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(share)
    monkeypatch.setattr(runtime, "_CGROUP_CPU_FILE", str(file))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    assert available_cores() == cores


@pytest.mark.parametrize(("physical", "cores"), [(None, 2), (4, 2), (1, 1)])
def test_bound_to_few_cores_no_more_are_counted(
    physical: int | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_CGROUP_CPU_FILE", "/nonexistent")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: physical)
    assert available_cores() == cores


# ---------------------------------------------------------------- memory

GIGABYTE = 10**9


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> int:
    """A host with 10 GB available and no limits; returns the 10 GB."""
    available = 10 * GIGABYTE
    memory = SimpleNamespace(available=available, total=16 * GIGABYTE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(runtime, "memory_left", lambda: None)
    monkeypatch.setattr(runtime, "address_space_left", lambda: None)
    return available


def share(free: int) -> object:
    """What of `free` bytes gia takes: most of them, never all."""
    return pytest.approx(runtime._SHARE_OF_FREE * free, abs=1)


def test_without_a_container_the_hosts_memory_counts(host: int) -> None:
    assert 0.5 * host < free_bytes() < host
    assert free_bytes() == share(host)
    assert free_bytes("intel-gpu") == free_bytes("cpu")


@pytest.mark.parametrize(
    ("recommended", "used", "kept", "left"),
    [(12, 1, 0, 10), (12, 1, 2, 11), (12, 3, 0, 9), (2, 3, 0, 0)],
)
def test_apples_gpu_takes_main_memory_up_to_what_metal_recommends(
    recommended: int, used: int, kept: int, left: int, host: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"recommended_max": recommended, "current_allocated": used}
    for name, value in (held | {"driver_allocated": used + kept}).items():
        bytes_ = value * GIGABYTE
        monkeypatch.setattr(torch.mps, f"{name}_memory", lambda bytes_=bytes_: bytes_)
    assert free_bytes("mps") == share(left * GIGABYTE)
    assert is_main_memory("mps")


@pytest.mark.parametrize("is_integrated", [0, 1])
def test_a_graphics_card_has_memory_of_its_own_unless_it_is_built_in(
    is_integrated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[DeviceKind] = ["cpu", "intel-gpu", "coreml", "directml"]
    assert all(map(is_main_memory, others))
    assert not is_main_memory("cuda")
    cards(monkeypatch, (8, 7), is_integrated=is_integrated)
    assert is_main_memory("cuda") == bool(is_integrated)


def test_each_card_has_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, (8, 6), (8, 6))
    for name, amounts in {
        "memory_reserved": (2, 4),
        "memory_allocated": (1, 1),
        "mem_get_info": ((5, 8), (20, 24)),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda index, amounts=amounts: amounts[index])
    monkeypatch.setattr(runtime, "_SHARE_OF_FREE", 1)
    assert (free_bytes("cuda"), free_bytes("cuda", 1)) == (6, 23)


@pytest.mark.parametrize(
    ("groups", "addresses", "left"),
    [
        (3, None, 3),
        (None, 2, 2),
        (3, 2, 2),
        (2, 3, 2),
        (0, None, 0),
        (100, 200, 10),
    ],
)
def test_the_strictest_limit_counts(
    groups: int | None,
    addresses: int | None,
    left: int,
    host: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, limit in (("memory_left", groups), ("address_space_left", addresses)):
        allowed = None if limit is None else limit * GIGABYTE
        monkeypatch.setattr(runtime, name, lambda allowed=allowed: allowed)
    assert free_bytes() == share(left * GIGABYTE)


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit, and /proc")
def test_a_limit_on_addresses_counts_what_is_mapped() -> None:
    code = """
import mmap, resource
from gia_cli.runtime import address_space_left
print(address_space_left())
limit = 2_000_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
first = address_space_left()
held = mmap.mmap(-1, 300_000_000)  # never touched
print(limit - first, first - address_space_left())
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    before, after = ran.stdout.splitlines()
    taken, mapped = map(int, after.split())
    assert before == "None" or int(before) > 2_000_000_000
    assert 10**6 < taken < 10**9
    assert mapped == pytest.approx(300_000_000, abs=10**7)


def test_free_memory_never_exceeds_the_machines() -> None:
    assert 0 <= free_bytes() < psutil.virtual_memory().total


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_bytes()
    # Mapped apart: the training tests let the allocator keep freed memory, which is resident.
    held = np.frombuffer(mmap.mmap(-1, 128_000_000))
    held[:] = 1
    after = resident_bytes()
    assert 10**6 < before < psutil.virtual_memory().total
    assert after - before > 0.8 * held.nbytes
    reserved = np.empty(32_000_000)  # 256 MB of addresses, none of it touched
    assert resident_bytes() - after < 0.2 * reserved.nbytes


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("cores", [1, 3])
def test_work_in_threads_comes_back_in_order(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: cores)
    assert list(runtime.in_threads(lambda x: x * x, range(50))) == [x * x for x in range(50)]
    assert list(runtime.in_threads(str, [])) == []


def test_several_threads_work_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: 2)
    both_here = threading.Barrier(2, timeout=30)
    assert len(list(runtime.in_threads(lambda _: both_here.wait(), range(2)))) == 2


def test_few_results_wait_for_whoever_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: 2)
    begun: list[int] = []
    results = runtime.in_threads(begun.append, range(100))
    next(results)
    assert len(begun) <= 5
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 5


def test_a_failure_in_a_thread_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: 2)
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        list(runtime.in_threads(work, range(100)))
    assert len(begun) <= 5


def test_what_was_freed_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [bytearray(100_000) for _ in range(1000)]  # below glibc's limit for a mapping each
    held, keep = resident_bytes(), blocks[-1]
    del blocks
    runtime.return_freed_memory()
    if sys.platform == "linux":
        assert resident_bytes() < held - 50_000_000
    assert len(keep) == 100_000

    def refuse(_: None) -> None:
        raise OSError("another C library")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    runtime.return_freed_memory()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc, and /proc")
def test_under_a_limit_large_blocks_go_back_at_once() -> None:
    code = """
import sys
from gia_cli.runtime import resident_bytes, return_large_blocks
asked = sys.argv[1] == "ask" and return_large_blocks()
for _ in range(4):  # glibc learns from blocks that are freed to keep such
    large = bytearray(30_000_000); del large
blocks = [bytearray(10_000_000) for _ in range(10)]
small = [bytearray(100_000) for _ in range(10)]
before = resident_bytes()
del blocks
print(before - resident_bytes())
"""
    freed = [
        int(subprocess.run([sys.executable, "-c", code, way], capture_output=True).stdout)
        for way in ("ask", "leave")
    ]
    assert freed[0] > 95_000_000
    assert freed[0] > 2 * freed[1] or runtime.return_large_blocks() is False


@pytest.mark.parametrize("left", [None, 249_999_999, 250_000_000])
def test_too_few_addresses_to_begin_with_are_refused(
    left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "address_space_left", lambda: left)
    if left != 249_999_999:
        runtime.require_addresses()
        return
    with pytest.raises(OutOfMemoryError, match="250 MB are left") as caught:
        runtime.require_addresses()
    assert caught.value.exit_code == 51


# ---------------------------------------------------------------- the cache


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other places")
def test_the_cache_lies_where_linux_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "gia"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / ".cache" / "gia"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere" / "gia"
    assert not list(tmp_path.iterdir())  # asking makes nothing


@pytest.mark.parametrize("device", ["intel-gpu", "directml", "coreml", "migraphx"])
def test_torch_is_not_asked_for_what_others_run_on(device: DeviceName) -> None:
    with pytest.raises(DeviceError, match=f"does not run on {device}"):
        resolve(device)


def cards(
    monkeypatch: pytest.MonkeyPatch,
    *capabilities: tuple[int, int],
    count: int | None = None,
    built_for: Sequence[str] = (),
    is_integrated: int = 0,
) -> None:
    """Let torch see Nvidia cards of these compute capabilities, and be built for some."""
    found = [
        SimpleNamespace(
            name=f"Card {index}",
            total_memory=8 * 10**9,
            major=major,
            minor=minor,
            is_integrated=is_integrated,
        )
        for index, (major, minor) in enumerate(capabilities)
    ][:count]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(found))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found[index])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built_for))


def test_gpus_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, (9, 0), (5, 2), built_for=["sm_75", "sm_90"])
    assert runtime.gpus() == [
        runtime.Gpu("Card 0", 8 * 10**9, "9.0", 0, True),
        runtime.Gpu("Card 1", 8 * 10**9, "5.2", 1, False),
    ]
    monkeypatch.setattr(torch.version, "hip", "6.4")  # whose names are not compared
    assert all(gpu.has_kernels for gpu in runtime.gpus())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.gpus() == []


BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "built_for", "does"),
    [
        ((7, 5), BUILT, True),
        ((8, 9), BUILT, True),  # as sm_86
        ((6, 1), BUILT, False),  # GTX 10xx with torch for CUDA 13
        ((7, 0), BUILT, False),
        ((12, 1), BUILT, True),
        ((13, 0), BUILT, True),  # compiled for it when it is loaded
        ((13, 0), BUILT[:-1], False),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a", "compute_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((12, 0), ["sm_100f", "compute_100f"], False),
        ((6, 1), [], True),  # not known
    ],
)
def test_a_card_needs_kernels_made_for_it(
    capability: tuple[int, int], built_for: list[str], does: bool
) -> None:
    assert runtime.runs_on(capability, built_for) == does


def test_a_card_without_kernels_is_passed_over_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, (6, 1), (8, 6), built_for=BUILT)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("auto", "cuda", "cuda:1"):
        assert resolve(name) == Runtime("cuda", "float16", 1)
    assert str(resolve()) == "cuda:1, float16"
    with pytest.raises(DeviceError, match=r"no kernels for the Card 0 .*6\.1") as caught:
        resolve("cuda:0")
    assert "--device cpu" in caught.value.hint
    cards(monkeypatch, (6, 1), built_for=BUILT)
    assert resolve() == Runtime("cpu", "float32")
    with pytest.raises(DeviceError, match="no kernels"):
        resolve("cuda")


def test_a_card_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, (8, 6), (8, 6))
    assert resolve("cuda:1", "fp32") == Runtime("cuda", "float32", 1)
    assert resolve("cuda:0") == resolve("cuda") == Runtime("cuda", "float16")
    for index in (0, 1):  # never "cuda" alone: that is whichever one a thread made the current one
        assert torch.device(resolve(f"cuda:{index}").torch_device) == torch.device("cuda", index)
    assert (resolve("cuda:0").place, resolve("cpu").torch_device) == ("cuda", "cpu")
    with pytest.raises(DeviceError, match=r"no cuda:2: torch sees cuda:0 \(Card 0\), cuda:1 \("):
        resolve("cuda:2")
    cards(monkeypatch)
    with pytest.raises(DeviceError, match="no cuda device"):
        resolve("cuda:0")


def test_a_batch_takes_all_usable_cards_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, (8, 6), (6, 1), (9, 0), built_for=BUILT)
    for name in ("cuda", "auto"):
        assert devices_for_batch(name) == ["cuda:0", "cuda:2"]
    for name in ("cuda:2", "cpu", "mps", "directml"):
        assert devices_for_batch(name) == [name]
    assert devices_for_batch("cuda:1,cuda:0") == ["cuda:1", "cuda:0"]  # refused by `resolve`
    cards(monkeypatch, (8, 6), (6, 1), built_for=BUILT)
    assert devices_for_batch("auto") == ["auto"]
    for wrong in (
        "cuda:0,cuda:0",
        "cuda:1,cuda:01",
        "cuda:0,mps",
        "cuda,cuda:1",
        "cuda:0,",
        ",",
        "cuda:0, cuda:1",
    ):
        with pytest.raises(UsageError):
            devices_for_batch(wrong)
    for wrong in (",", "cuda:0,", "auto,,cpu"):
        with pytest.raises(UsageError, match=f"--device '{wrong}' has a comma that no device"):
            devices_for_batch(wrong)
    with pytest.raises(UsageError, match="'cuda:0,mps' are not all cards"):
        devices_for_batch("cuda:0,mps")
    with pytest.raises(UsageError, match="takes one device"):
        resolve("cuda:0,cuda:1")


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cuda:1 ", "mps:0", "CUDA:1", ""])
def test_what_names_no_card_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        resolve(name)


@pytest.mark.parametrize(
    "words",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Internal Error (0000000e:Insufficient Memory)",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "MPS backend out of memory (MPS allocated: 5.00 GB, other allocations: 1.00 GB)",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "Invalid buffer size: 9.54 GiB",
        "miopenStatusAllocFailed",
        "Available memory of 1024 is smaller than requested bytes of 4096",
        "[GPU] Exceeded max size of memory object allocation: requested 1440000000 bytes",
        "[GPU] Exceeded max size of memory allocation: Required 16 GB, available 8 GB",
        "[GPU] CL_OUT_OF_RESOURCES exception.",
        "[GPU] clEnqueueNDRangeKernel, error code: -6 CL_OUT_OF_HOST_MEMORY",
        "clCreateBuffer, error code: -4 CL_MEM_OBJECT_ALLOCATION_FAILURE",
    ],
)
def test_want_of_a_gpus_memory_is_told_by_its_words(words: str) -> None:
    assert is_oom_error(RuntimeError(words))
    assert not is_oom_error(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.parametrize(
    "words",
    [
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
def test_some_words_mean_memory_only_where_the_card_has_worked(words: str) -> None:
    assert is_oom_error(RuntimeError(words), has_worked=True)
    assert not is_oom_error(RuntimeError(words))


def test_torchs_own_error_is_told_by_its_class() -> None:
    assert is_oom_error(torch.OutOfMemoryError("no words"))


@pytest.mark.parametrize(("device", "released"), [("cuda", 1), ("mps", 1), ("cpu", 0)])
def test_a_gpus_memory_is_handed_back_and_an_error_that_sticks_is_no_news(
    monkeypatch: pytest.MonkeyPatch, device: str, released: int
) -> None:
    calls: list[str] = []

    def broken(name: str) -> None:
        calls.append(name)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: broken("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: broken("mps"))
    runtime.release_gpu_memory(device)
    assert calls == [device] * released


# ---------------------------------------------------------------- one thread at a time on a card


def test_threads_take_turns_on_a_card_and_on_nothing_else() -> None:
    card = Runtime("cuda", "float16", 1)
    entered = Event()

    def enter(other: Runtime) -> None:
        with runtime.turn_on(other):
            entered.set()

    with runtime.turn_on(card), runtime.turn_on(card):  # its own thread may again
        for other in (Runtime("cpu", "float32"), Runtime("mps", "float16"), replace(card, index=2)):
            entered.clear()
            Thread(target=enter, args=(other,), daemon=True).start()
            assert entered.wait(10)
        entered.clear()
        waiting = Thread(target=enter, args=(replace(card, dtype="float32"),), daemon=True)
        waiting.start()
        assert not entered.wait(0.05)
    assert entered.wait(10)
    waiting.join(10)


# ---------------------------------------------------------------- fp32 that is fp32


@pytest.fixture
def settings_of_before() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        pytest.skip("a torch without them")
    levels = (backends, cudnn, cudnn.conv)
    before = [level.fp32_precision for level in levels]
    yield
    for level, value in zip(levels, before, strict=True):
        level.fp32_precision = value


def effective() -> str:
    """What cuDNN's convolutions compute in; "none" is what is set for more."""
    backends: Any = torch.backends
    levels = (backends.cudnn.conv, backends.cudnn, backends)
    return next((x for x in (str(level.fp32_precision) for level in levels) if x != "none"), "none")


@pytest.mark.usefixtures("settings_of_before")
@pytest.mark.parametrize("general", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("of_cudnn", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("of_convolutions", ["none", "ieee", "tf32"])
def test_convolutions_are_fp32_whichever_way_a_program_has_set_them(
    general: str, of_cudnn: str, of_convolutions: str
) -> None:
    """Of torch's two settings, the old one cannot be read once the new one has been made."""
    backends: Any = torch.backends
    backends.fp32_precision, backends.cudnn.fp32_precision = general, of_cudnn
    backends.cudnn.conv.fp32_precision = of_convolutions
    before = backends.cudnn.conv.fp32_precision
    for _ in range(2):
        with runtime.exact_fp32():
            assert effective() in ("ieee", "none")
            with runtime.exact_fp32():
                assert effective() in ("ieee", "none")
            assert effective() in ("ieee", "none")
        assert backends.cudnn.conv.fp32_precision == before


def test_a_torch_without_the_new_setting_is_told_by_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch 2.6 to 2.8."""
    old = SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends, "cudnn", old)
    with runtime.exact_fp32():
        assert not old.allow_tf32
    assert old.allow_tf32
