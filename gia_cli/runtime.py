"""The machine: device, precision, memory budget. Imports torch only where a question needs it.

The names of what can be chosen are here too, for the command line, which imports little.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, RLock
from typing import Any, Literal, TypeVar, get_args

from gia_cli.arguments import one_of
from gia_cli.cgroups import memory_left
from gia_cli.errors import DeviceError, GiaError, OutOfMemoryError, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Of OpenVINO and of ONNX Runtime: torch does not know them by these names.
OtherDevice = Literal["intel-gpu", "directml", "coreml", "migraphx"]
DeviceKind = Literal["cpu", "cuda", "mps", OtherDevice]
#: "auto", a `DeviceKind`, or one of several cards: "cuda:1".
DeviceName = str
#: What may be named without a number.
DEVICES: tuple[str, ...] = ("auto", *get_args(DeviceKind))
#: Of training.
FloatPrecision = Literal["auto", "fp32", "fp16", "bf16"]
Precision = Literal[FloatPrecision, "int8"]
_PRECISIONS: tuple[str, ...] = get_args(Precision)
EngineName = Literal["auto", "torch", "openvino", "onnx"]
#: One rendering, or the mean of eight.
Quality = Literal["normal", "best"]
#: Names of number formats, as torch and NumPy have them. Double is for tests; int8 stands for
#: networks that are int8 for the most part, which only OpenVINO runs.
NumberFormat = Literal["float16", "bfloat16", "float32", "float64", "int8"]

#: Names the only file of settings to read, in place of the user's and the folder's; empty: none.
CONFIG_VARIABLE = "GIA_CONFIG"

# Of the memory that is free now, this share is ours; the rest is for what others start meanwhile.
_SHARE_OF_FREE = 0.8

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
# Blocks from this size on are mapped one by one; smaller ones are the loops' that want them again.
_LARGE_BLOCK = 4 * 2**20
# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_PERTURB, _M_ARENA_MAX = -1, -3, -4, -6, -8
# NumPy, OpenBLAS with its threads, LibRaw and what reads and writes files map so much.
_LEAST_ADDRESSES = 250_000_000
# Of torch, C++, oneDNN and OpenVINO, the loader of libraries and Python's threads, all seen under a
# limited address space; and of cuDNN, cuBLAS and MPS.
_OUT_OF_MEMORY_TEXTS = (
    "not enough memory",
    "out of memory",
    "can't alloc",
    "cannot allocate",
    "unable to allocate",
    "failed to allocate",
    "failed to map segment",
    "can't start new thread",
    "resource temporarily unavailable",  # a thread, for C++
    "could not create a primitive",
    "could not create a memory",
    "bad_alloc",
    "status_alloc_failed",
    "allocation_failed",
    "insufficient memory",
    "invalid buffer size",  # MPS
    "miopenstatusallocfailed",
    "smaller than requested bytes",  # ONNX Runtime's arenas
    "exceeded max size of memory",  # OpenVINO on Intel's GPUs, of one block or of all
    "cl_out_of_resources",
    "cl_out_of_host_memory",
    "cl_mem_object_allocation_failure",
)
# cuDNN and cuBLAS say so where their workspace finds no room; and on a card that they cannot use.
_PERHAPS_OUT_OF_MEMORY_TEXTS = (
    "unable to find an engine to execute this computation",
    "cudnn_status_not_initialized",
    "cublas_status_not_initialized",
)
_CGROUP_CPU_FILE = "/sys/fs/cgroup/cpu.max"  # version 2


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and in which number format the network runs."""

    device: DeviceKind
    dtype: NumberFormat
    index: int = 0
    """Which one of several cards."""

    @property
    def place(self) -> str:
        """The device by name: "cuda" for the first card, "cuda:1" for the second."""
        return f"{self.device}:{self.index}" if self.index else self.device

    @property
    def torch_device(self) -> str:
        """The device for torch, to which "cuda" is whichever card a thread made the current one."""
        return f"cuda:{self.index}" if self.device == "cuda" else self.device

    @property
    def number_bytes(self) -> int:
        """Bytes of one number."""
        return {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[self.dtype]

    def __str__(self) -> str:
        return f"{self.place}, {self.dtype}"


def split_device(name: DeviceName) -> tuple[str, int | None]:
    """Take a device's name apart: its kind or "auto", and which one if the name says so.

    Raises
    ------
    UsageError
        There is no such device, or its kind is not counted.

    Examples
    --------
    >>> split_device("cuda:1"), split_device("auto")
    (('cuda', 1), ('auto', None))
    """
    numbered = re.fullmatch(r"cuda:(\d{1,4})", name) if isinstance(name, str) else None
    if numbered is not None:
        return "cuda", int(numbered[1])
    if isinstance(name, str) and "," in name:
        raise UsageError(f"This takes one device, not '{name}'.", hint="gia enhance takes several.")
    if isinstance(name, str) and name.startswith("cuda:"):
        raise UsageError(f"'{name}' is no card.", hint="Write it like cuda:0 or cuda:1.")
    one_of(name, DEVICES, "device")
    return name, None


def split_devices(names: str) -> list[DeviceName]:
    """Take a list of cards apart, such as "cuda:0,cuda:1"; any other device stands alone.

    Raises
    ------
    UsageError
        One of them is no device, or is named twice; or not all of several are numbered cards.
    """
    if not isinstance(names, str) or "," not in names:
        split_device(names)
        return [names]
    devices = names.split(",")
    hint = "Write several like cuda:0,cuda:1."
    if "" in devices:
        raise UsageError(f"--device '{names}' has a comma that no device stands beside.", hint=hint)
    numbers = [split_device(name)[1] for name in devices]
    if None in numbers:
        raise UsageError(f"'{names}' are not all cards.", hint=hint)
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--device {names} names a card twice.")
    return devices


def devices_for_batch(names: str) -> list[DeviceName]:
    """Name the devices that a batch runs on: those that are named, or all usable cards.

    Parameters
    ----------
    names : str
        As for `split_devices`. "cuda" means every card that torch has kernels for, and so does
        "auto" where there are some.

    Raises
    ------
    UsageError
    """
    devices = split_devices(names)
    if devices == ["cuda"] or (devices == ["auto"] and _may_have_gpu()):
        usable = [f"cuda:{card.index}" for card in gpus() if card.has_kernels]
        return usable if len(usable) > 1 else devices
    return devices


def resolve(device: DeviceName = "auto", precision: Precision = "auto") -> Runtime:
    """Choose device and precision, for torch.

    Parameters
    ----------
    device : "auto", "cpu", "cuda", "cuda:N" or "mps"
        auto: CUDA, else Apple's MPS, else CPU. Of several cards the first that torch has kernels
        for, or number N.
    precision : "auto", "fp32", "fp16", "bf16" or "int8"
        auto: fp16 on CUDA, fp32 elsewhere. int8 means the CPU.

    Raises
    ------
    DeviceError
        The device is not there, or cannot compute in that precision.
    UsageError
        There is no such device or precision.
    """
    kind, index = split_device(device)
    one_of(precision, _PRECISIONS, "precision")
    if precision == "int8" and kind == "auto":
        kind = "cpu"
    if kind in get_args(OtherDevice):
        raise DeviceError(
            f"torch, which computes this, does not run on {kind}.", hint="Leave out --device."
        )
    chosen, index = _present_device(kind, index)
    if precision == "int8" and chosen != "cpu":
        raise DeviceError(
            f"int8 is computed on the CPU, not on {chosen}.", hint="Leave out --device."
        )
    if precision == "auto":
        precision = "fp16" if chosen == "cuda" else "fp32"
    if precision == "fp16" and chosen == "cpu":
        raise DeviceError("The CPU does not compute in fp16.", hint="Use --precision fp32 or bf16.")
    formats: dict[str, NumberFormat] = {
        "fp32": "float32",
        "fp16": "float16",
        "bf16": "bfloat16",
        "int8": "int8",
    }
    return Runtime(chosen, formats[precision], index)


def _present_device(wanted: str, index: int | None) -> tuple[DeviceKind, int]:
    """Choose or check the device; torch is asked only where it may know of more than the CPU."""
    if wanted == "cpu" or (wanted == "auto" and not _may_have_gpu()):
        return "cpu", 0
    cards = gpus()
    if wanted == "cuda" and cards:
        return "cuda", _usable_card(cards, index).index
    usable = [card for card in cards if card.has_kernels]
    if wanted == "auto" and usable:
        return "cuda", usable[0].index
    if wanted in ("auto", "mps") and _has_mps():
        return "mps", 0
    if wanted == "auto":
        return "cpu", 0
    present = ", ".join([*("cuda" for _ in cards[:1]), *(["mps"] if _has_mps() else []), "cpu"])
    raise DeviceError(
        f"This machine has no {wanted} device that torch can use ({present}).",
        hint=f"{_why_no_cuda()} Or use --device cpu." if wanted == "cuda" else DeviceError.hint,
    )


def _why_no_cuda() -> str:
    """Say why torch sees no card where there may be one."""
    import torch

    built_for = torch.version.cuda or torch.version.hip
    if built_for is None:
        return f"This PyTorch ({torch.__version__}) is built without CUDA: install one that has it."
    return f"PyTorch finds no driver, or one that is too old for its CUDA {built_for}."


def _usable_card(cards: Sequence[Gpu], index: int | None) -> Gpu:
    """Find the card that was asked for, or the first that torch has kernels for."""
    if index is not None and index >= len(cards):
        known = ", ".join(f"cuda:{card.index} ({card.name})" for card in cards)
        raise DeviceError(
            f"There is no cuda:{index}: torch sees {known}.", hint="Use one of these for --device."
        )
    asked = list(cards) if index is None else [cards[index]]
    usable = [card for card in asked if card.has_kernels]
    if usable:
        return usable[0]
    raise DeviceError(
        f"This build of torch has no kernels for the {asked[0].name} (compute capability "
        f"{asked[0].capability}).",
        hint="Use --device cpu, or install a build of torch that has them.",
    )


def _may_have_gpu() -> bool:
    """Tell whether it is worth the two seconds of importing torch to ask for a GPU."""
    if "torch" in sys.modules or sys.platform == "darwin" or Path("/dev/kfd").exists():
        return True  # torch is here; Apple's MPS; AMD's driver, which torch calls "cuda"
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


def device_names() -> list[str]:
    """Name what torch can run on, for ``gia --version -v``."""
    import torch

    names = [f"cpu ({torch.get_num_threads()} threads)"]
    names += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(_cuda_count())]
    return names + (["mps"] if _has_mps() else [])


def _cuda_count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as torch sees it."""

    name: str
    memory: int
    """Bytes in all."""
    capability: str
    """Of CUDA, such as "9.0"; of AMD the architecture."""
    index: int = 0
    """Its number, as in "cuda:0"."""
    has_kernels: bool = True
    """Whether this build of torch has code that runs on it."""


def gpus() -> list[Gpu]:
    """List the GPUs that torch calls "cuda", in its order."""
    import torch

    found = [torch.cuda.get_device_properties(index) for index in range(_cuda_count())]
    # AMD's are not compared: their names stand for families, and users override them.
    built_for = torch.cuda.get_arch_list() if found and torch.version.hip is None else []
    return [
        Gpu(
            each.name,
            int(each.total_memory),
            getattr(each, "gcnArchName", None) or f"{each.major}.{each.minor}",
            index,
            runs_on((each.major, each.minor), built_for),
        )
        for index, each in enumerate(found)
    ]


def runs_on(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Tell whether code that was built for some architectures runs on an Nvidia card.

    Parameters
    ----------
    capability : (major, minor)
        The card's.
    built_for : sequence of str
        As torch names them: "sm_86" is machine code, for cards of that major
        version and no lower minor one; "compute_90" is compiled for the card when it is loaded, for
        any that is not older. A letter behind the number binds it to one card (a) or one major
        version (f). Empty: not known.

    References
    ----------
    CUDA C++ Programming Guide, "Application Compatibility", and its list of compute capabilities.

    Examples
    --------
    >>> runs_on((8, 9), ["sm_75", "sm_86"]), runs_on((6, 1), ["sm_75", "compute_90"])
    (True, False)
    """
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in built_for]
    targets = [each for each in known if each is not None]
    return not targets or any(_is_for(capability, *target.groups()) for target in targets)


def _is_for(capability: tuple[int, int], kind: str, major: str, minor: str, bound: str) -> bool:
    target = int(major), int(minor)
    if bound == "a":
        return capability == target
    if kind == "compute" and not bound:
        return capability >= target
    return capability[0] == target[0] and capability[1] >= target[1]


def torch_facts() -> dict[str, object]:
    """Say which torch this is, whether it sees Apple's MPS, and what it uses of the CPU."""
    import torch

    return {
        "version": torch.__version__,
        "mps": _has_mps(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Let torch compute in the number format of what it is given: autocast would halve fp32."""
    import torch

    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()  # such as "meta", which computes nothing


class _ExactFp32:
    """The setting is the process's: the first of several users makes it, the last undoes it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._setting = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._setting.enter_context(_convolutions_in_fp32())
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._setting.close()


_EXACT_FP32 = _ExactFp32()


def exact_fp32() -> AbstractContextManager[None]:
    """Keep cuDNN from computing fp32 convolutions with 10 bits (TF32), as torch lets it."""
    return _EXACT_FP32


@contextmanager
def _convolutions_in_fp32() -> Iterator[None]:
    import torch

    name, exact = _tf32_setting()
    cudnn: Any = torch.backends.cudnn
    owner = cudnn if name == "allow_tf32" else cudnn.conv
    before = getattr(owner, name)
    setattr(owner, name, exact)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _tf32_setting() -> tuple[str, str | bool]:
    """Name cuDNN's setting that the program uses, and what it is to be.

    torch 2.9 has another one, and where that was made refuses to read this one. It is the other way
    round too: threads of the program that read this one could not while the other one is made.
    """
    import torch

    old, new = ("allow_tf32", False), ("fp32_precision", "ieee")
    broader = (torch.backends, torch.backends.cudnn)
    if any(getattr(each, "fp32_precision", "none") != "none" for each in broader):
        return new
    try:
        bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return new
    return old


# ---------------------------------------------------------------- cores


def available_cores() -> int:
    """Count the cores that this process may keep busy: physical, and not beyond its share."""
    import psutil

    logical = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        logical = len(os.sched_getaffinity(0))
    cores = min(logical, psutil.cpu_count(logical=False) or logical)
    return max(min(cores, _cgroup_cores() or cores), 1)


def _cgroup_cores() -> int | None:
    """Round a container's share of the processor time up to whole cores; None: no limit."""
    try:
        quota, period = Path(_CGROUP_CPU_FILE).read_text().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Process each item, on all cores, and yield the results in the items' order.

    For work that releases Python's lock: NumPy, zlib. Few results wait to be taken, so that memory
    stays bounded. After a failure, or when the rest is not wanted, no more work is started.

    Parameters
    ----------
    work : function
        Called in several threads at once.
    items : iterable
    """
    cores = available_cores()
    if cores == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


# ---------------------------------------------------------------- memory


def cache_folder() -> Path:
    """Name the folder for what can be made again, where the system has such folders.

    On Linux ``$XDG_CACHE_HOME/gia``, else ``~/.cache/gia``. Safe to delete while gia does not run.
    """
    from platformdirs import user_cache_path

    return user_cache_path("gia", appauthor=False)


def peak_resident_bytes() -> int:
    """Most memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage's maximum survives exec: a child would report its parent's.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil

    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def keep_freed_memory() -> bool:
    """Ask glibc not to hand freed memory back to the system: a training step wants it again.

    Returns
    -------
    bool
        Whether it could be asked (Linux with glibc).
    """
    # The threshold can be at most 32 MB on 64-bit glibc, so larger blocks need M_MMAP_MAX to be 0.
    return _set_malloc((_M_TRIM_THRESHOLD, 2**31 - 1), (_M_MMAP_MAX, 0))


def parse_size(text: str) -> int:
    """Parse "1500MB", "3GB", "2GiB" or plain bytes.

    Raises
    ------
    UsageError
        The text is no size.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([kmg]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise UsageError(f"'{text}' is not a size.", hint="Write it like 1500MB or 3GB.")
    return int(float(match[1]) * _UNITS[match[2]])


def resident_bytes() -> int:
    """Memory that this process holds now (RSS)."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def return_freed_memory() -> None:
    """Have the C library return what was freed to the system; glibc keeps tens of megabytes."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks() -> bool:
    """Ask glibc to hand every large block back to the system as soon as it is freed.

    By itself it learns to keep blocks of up to 32 MB for later, in holes that others do not fit in:
    up to a third of what a process then holds is nobody's. Returned, they cost some time to take
    again, so this is for processes with a limit.

    Returns
    -------
    bool
        Whether it could be asked (Linux with glibc).
    """
    return _set_malloc((_M_MMAP_THRESHOLD, _LARGE_BLOCK), (_M_TRIM_THRESHOLD, _LARGE_BLOCK))


def share_arenas() -> bool:
    """Ask glibc to let all threads allocate in one place, where addresses are limited.

    By itself it reserves 64 MB of addresses for each thread.

    Returns
    -------
    bool
        Whether it could be asked (Linux with glibc).
    """
    return _set_malloc((_M_ARENA_MAX, 1))


@contextmanager
def zeroed_memory() -> Iterator[None]:
    """Have the C library hand out memory of zeros, not of what the process had there before.

    Only glibc is asked; other systems mostly give zeros for what is large.
    """
    is_asked = _set_malloc((_M_PERTURB, 0xFF))  # stands for filling with the complement
    try:
        yield
    finally:
        if is_asked:
            _set_malloc((_M_PERTURB, 0))


def _set_malloc(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(*setting) for setting in settings])


def free_bytes(device: DeviceKind = "cpu", index: int = 0) -> int:
    """Memory that this process may still take on a device, container limits included.

    Of a GPU that torch cannot ask it is main memory, which most of these GPUs share.

    Parameters
    ----------
    device : DeviceKind
    index : int
        Which one of several cards.
    """
    if device == "cuda" and _cuda_count():
        import torch

        # torch keeps what it freed: still ours to use, but not free to the driver.
        kept = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
        return int((torch.cuda.mem_get_info(index)[0] + kept) * _SHARE_OF_FREE)
    import psutil

    free = int(psutil.virtual_memory().available)
    limits = [left for left in (memory_left(), address_space_left()) if left is not None]
    if device == "mps":
        import torch

        used = torch.mps.current_allocated_memory()
        free += torch.mps.driver_allocated_memory() - used  # kept, as on CUDA
        # Beyond this the system makes the GPU wait for memory.
        limits.append(max(torch.mps.recommended_max_memory() - used, 0))
    return int(min([free, *limits]) * _SHARE_OF_FREE)


def release_gpu_memory(device: str) -> None:
    """Hand back what torch keeps of a GPU's memory for later; nothing of what is in use.

    After some errors of CUDA every further call fails, this one too: that is no news then.
    """
    import torch

    modules = {"cuda": torch.cuda, "mps": torch.mps}
    if device in modules:
        with suppress(RuntimeError):
            modules[device].empty_cache()


def is_main_memory(device: DeviceKind, index: int = 0) -> bool:
    """Tell whether what a device takes is taken of main memory, beside what the process holds.

    So it is on CPUs, Apple's chips and boards whose GPU is built in; not on a graphics card. Of the
    devices that neither torch nor OpenVINO can ask, `free_bytes` is main memory, and so is this.

    Parameters
    ----------
    device : DeviceKind
    index : int
        Which one of several cards.
    """
    if device != "cuda":
        return True
    if not _cuda_count():
        return False
    import torch

    return bool(getattr(torch.cuda.get_device_properties(index), "is_integrated", False))


def require_addresses() -> None:
    """Raise `OutOfMemoryError` where ``ulimit -v`` leaves too little to load the libraries.

    Some of them end the process then, while they are loaded.
    """
    left = address_space_left()
    if left is not None and left < _LEAST_ADDRESSES:
        raise OutOfMemoryError(
            f"Of the memory that this process may address, {left / 1e6:.0f} MB are left; gia needs "
            f"{_LEAST_ADDRESSES / 1e6:.0f} MB to begin.",
            hint="Raise the limit (ulimit -v).",
        )


def address_space_left() -> int | None:
    """Bytes that ``ulimit -v`` leaves this process; None where it sets no limit.

    Everything that is mapped counts there, whether it was ever used or not.
    """
    if sys.platform == "win32":
        return None
    import resource

    import psutil

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit > sys.maxsize // 4:
        return None
    return max(limit - int(psutil.Process().memory_info().vms), 0)


_turns: dict[int, AbstractContextManager[bool]] = {}


def turn_on(runtime: Runtime) -> AbstractContextManager[object]:
    """Wait until no other thread of this process computes on a graphics card, and keep it.

    So what one of them is told is free of its memory is still free when it is taken. A card does
    the threads' work one after the other anyway; what the host does in between keeps others
    waiting, so it had better be done before. On other devices nobody waits.

    Parameters
    ----------
    runtime : Runtime
    """
    # In one step, or two threads would make two locks.
    return _turns.setdefault(runtime.index, RLock()) if runtime.device == "cuda" else nullcontext()


def is_oom_error(error: BaseException, *, has_worked: bool = False) -> bool:
    """Tell want of memory, mostly by the error's words: few libraries have a class for it.

    Parameters
    ----------
    error : Exception
    has_worked : bool
        Whether the device has computed the like before: some words mean that it never will, or
        that there is no room now.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if isinstance(error, getattr(sys.modules.get("torch"), "OutOfMemoryError", ())):
        return True
    words = str(error).lower()
    texts = _OUT_OF_MEMORY_TEXTS + (_PERHAPS_OUT_OF_MEMORY_TEXTS if has_worked else ())
    return any(text in words for text in texts)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn want of memory, whichever library says it and how, into `OutOfMemoryError`."""
    try:
        yield
    except GiaError:
        raise
    except Exception as error:
        if not is_oom_error(error):
            raise
        raise OutOfMemoryError("There is too little memory for this photo.") from error
