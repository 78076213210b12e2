"""Which engine a photo gets: what was asked for, or the fastest that can run it.

Importing this module imports no machinery. torch runs every network on every device; OpenVINO runs
the U-Nets on CPUs, about twice as fast, and starts without torch; it also knows Intel's GPUs. ONNX
Runtime runs the U-Nets on what it has providers for, where somebody asks for it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, cast, get_args

from gia_cli.arguments import one_of
from gia_cli.errors import DeviceError, OutOfMemoryError, UsageError, WeightsMismatchError
from gia_cli.inference.engine import Engine
from gia_cli.inference.layout import LAYOUTS
from gia_cli.nets.config import NetConfig
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import (
    DeviceKind,
    DeviceName,
    Precision,
    Runtime,
    is_oom_error,
    resolve,
    split_device,
)
from gia_cli.runtime import EngineName as EngineName
from gia_cli.text import first_line
from gia_cli.weights.storage import WeightsInfo

#: What only OpenVINO runs on, and what only ONNX Runtime does.
INTEL_GPU: Literal["intel-gpu"] = "intel-gpu"
ONNX_DEVICES: tuple[DeviceKind, ...] = ("directml", "coreml", "migraphx")


def open_engine(
    info: WeightsInfo,
    runtime: Runtime,
    engine: EngineName = "auto",
    progress: Progress = SILENT,
) -> Engine:
    """Load verified weights into the engine that was asked for, or into the fastest.

    Parameters
    ----------
    info : WeightsInfo
        int8 weights run on OpenVINO, whatever fp32 or auto would choose.
    runtime : Runtime
        In int8 only for int8 weights.
    engine : "auto", "torch", "openvino" or "onnx"
        auto: OpenVINO where it can, else torch; on a device that only ONNX Runtime has, that.
    progress : Progress
        Receives, as a detail, which one and why.

    Raises
    ------
    DeviceError
        An engine was asked for, or is needed for int8 or the device, and cannot run this.
    UsageError
        ONNX Runtime is not installed.
    WeightsError
        See `load_network`.
    """
    if engine == "onnx" or runtime.device in ONNX_DEVICES:
        return _open_onnx(info, runtime, engine, progress)
    if info.quantized_from is not None or runtime.dtype == "int8":
        return _open_int8(info, runtime, engine, progress)
    if engine == "torch":
        return _open_torch(info, runtime, "as asked", progress)
    if engine == "openvino" or runtime.device == INTEL_GPU:
        require_openvino(runtime, info.config)
    obstacle = obstacle_to_openvino(runtime, info.config)
    if obstacle is None:
        try:
            return _open_openvino(info, runtime, engine, progress)
        except (RuntimeError, ImportError, OSError) as error:  # OpenVINO has no narrower ones
            _refuse_oom(error)  # torch takes more
            obstacle = f"OpenVINO failed: {first_line(error)}"
            if engine == "openvino" or runtime.device == INTEL_GPU:
                raise DeviceError(f"{obstacle}.", hint="Use --engine torch.") from error
    if runtime.dtype == "bfloat16" and runtime.device == "cpu":
        progress.note(f"torch computes in bf16, slowly: {obstacle}. --precision fp32 is faster.")
    return _open_torch(info, runtime, obstacle, progress)


def require_openvino(runtime: Runtime, config: NetConfig | None = None) -> None:
    """Raise `DeviceError` if OpenVINO cannot run there, or cannot run that network."""
    obstacle = obstacle_to_openvino(runtime, config)
    if obstacle is not None:
        option = "--device" if runtime.device == INTEL_GPU else "--engine"
        raise DeviceError(
            f"The engine openvino cannot run this: {obstacle}.", hint=f"Leave out {option}."
        )


def require_int8(runtime: Runtime, engine: EngineName, config: NetConfig | None = None) -> None:
    """Raise `DeviceError` if int8 weights cannot run there: they need OpenVINO on the CPU."""
    obstacle: str | None
    instead = "Leave out --device"
    if engine in ("torch", "onnx"):
        obstacle, instead = f"not with {engine}", "Leave out --engine"
    elif runtime.device == INTEL_GPU:
        obstacle = f"not on {INTEL_GPU}"
    elif runtime.dtype == "bfloat16":
        obstacle, instead = "not in bfloat16", "Leave out --precision"
    else:
        obstacle = obstacle_to_openvino(runtime, config)
        if runtime.device == "cpu":
            instead = "Install it (pip install openvino), leave out --precision"
    if obstacle is not None:
        raise DeviceError(
            f"int8 weights run with OpenVINO on the CPU: {obstacle}.",
            hint=f"{instead}, or use weights that are not int8.",
        )


def require_quantizer() -> None:
    """Raise `DeviceError` if NNCF, which makes int8 weights, is not installed."""
    if find_spec("nncf") is None:
        raise DeviceError(
            "Making int8 weights needs NNCF, which is not installed.",
            hint="Run: pip install 'nncf>=3.4'",
        )


def require_onnx(runtime: Runtime, config: NetConfig | None = None) -> None:
    """Raise an error if ONNX Runtime cannot run there, or cannot run that network.

    Raises
    ------
    UsageError
        It is not installed.
    DeviceError
    """
    require_onnx_packages()
    hint = "Leave out --engine."
    if runtime.dtype != "float32":
        obstacle = f"ONNX Runtime runs in float32 here, not in {runtime.dtype}"
    elif config is not None and config.network not in LAYOUTS:
        obstacle = f"{config.network} has no ONNX graph"
    elif runtime.device not in (there := onnx_devices()):
        obstacle = f"ONNX Runtime here knows {', '.join(there)}, not {runtime.device}"
        others = {"mps": "Use --device coreml.", INTEL_GPU: "Use --engine openvino."}
        hint = others.get(
            runtime.device,
            "Leave out --engine and --device, or install the ONNX Runtime made for this device.",
        )
    else:
        return
    raise DeviceError(f"The engine onnx cannot run this: {obstacle}.", hint=hint)


def require_onnx_packages() -> None:
    """Raise `UsageError` if ONNX or ONNX Runtime is not installed."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX needs {' and '.join(missing)}, which is not installed.",
            hint="pip install 'gia-cli[onnx]'",
        )


def onnx_devices() -> list[DeviceKind]:
    """Name the devices that the installed ONNX Runtime has providers for, best first.

    Raises
    ------
    DeviceError
        It cannot be loaded.
    """
    try:
        from gia_cli.inference.onnx_engine import available
    except (ImportError, OSError) as error:
        raise _not_loaded("ONNX Runtime", error) from error
    return available()


def openvino_devices() -> list[tuple[str, str]]:
    """Name OpenVINO's devices, such as "CPU" and "GPU.0", and what they are.

    Raises
    ------
    DeviceError
        It cannot be loaded.
    """
    try:
        from gia_cli.inference.openvino_core import the_core
    except (ImportError, OSError) as error:
        raise _not_loaded("OpenVINO", error) from error

    core = the_core()
    return [
        (name, str(core.get_property(name, "FULL_DEVICE_NAME"))) for name in core.available_devices
    ]


def _not_loaded(library: str, error: Exception) -> DeviceError:
    words = first_line(error).rstrip(".")
    return DeviceError(f"{library} cannot be loaded: {words}.", hint="Use --engine torch.")


def choose_runtime(device: DeviceName, precision: Precision, engine: EngineName) -> Runtime:
    """Choose device and number format for an engine.

    For OpenVINO auto means the CPU, for ONNX Runtime the best device that it has a provider for.

    Parameters and errors as for `resolve`.
    """
    kind, index = split_device(device)
    one_of(precision, get_args(Precision), "precision")
    one_of(engine, get_args(EngineName), "engine")
    if engine == "onnx" or kind in ONNX_DEVICES:
        _refuse_other(device, engine, "onnx")
        require_onnx_packages()
        _refuse_precision("ONNX Runtime", precision)
        chosen = onnx_devices()[0] if kind == "auto" else cast(DeviceKind, kind)
        runtime = Runtime(chosen, "float32", index or 0)
        require_onnx(runtime)
        return runtime
    if device == INTEL_GPU:
        _refuse_other(device, engine, "openvino")
        _refuse_precision(f"OpenVINO on {INTEL_GPU}", precision)
        runtime = Runtime(INTEL_GPU, "float32")
        require_openvino(runtime)
        require_intel_gpu()
        return runtime
    if engine == "openvino":
        if kind not in ("auto", "cpu"):
            raise DeviceError(
                f"The engine openvino does not run on {device}.",
                hint=f"Leave out --engine, or --device: OpenVINO runs on the CPU and {INTEL_GPU}.",
            )
        device = "cpu"
    return resolve(device, precision)


def require_intel_gpu() -> None:
    """Raise `DeviceError` if OpenVINO sees no GPU."""
    found = openvino_devices()
    if not any(name.startswith("GPU") for name, _ in found):
        names = ", ".join(f"{name} ({what})" for name, what in found)
        raise DeviceError(
            f"OpenVINO sees no GPU on this machine, only {names}.",
            hint="Install Intel's GPU driver (on Linux intel-opencl-icd, and join the group "
            "render), or leave out --device.",
        )


def _refuse_precision(what: str, precision: Precision) -> None:
    if precision not in ("auto", "fp32"):
        raise DeviceError(
            f"{what} computes in fp32 here, not in {precision}.", hint="Leave out --precision."
        )


def _refuse_other(device: DeviceName, engine: EngineName, needed: EngineName) -> None:
    if engine not in ("auto", needed):
        raise DeviceError(
            f"The engine {engine} does not run on {device}.", hint=f"Use --engine {needed}."
        )


def obstacle_to_openvino(runtime: Runtime, config: NetConfig | None = None) -> str | None:
    """Say in a few words why OpenVINO cannot run this; None if it can."""
    if runtime.device not in ("cpu", INTEL_GPU):
        return f"OpenVINO runs on the CPU here, not on {runtime.device}"
    if runtime.dtype not in ("float32", "bfloat16", "int8"):
        return f"OpenVINO does not run in {runtime.dtype} here"
    if config is not None and config.network not in LAYOUTS:
        return f"{config.network} has no OpenVINO graph"
    if find_spec("openvino") is None:
        return "OpenVINO is not installed"
    if runtime.dtype == "bfloat16" and not _multiplies_in_bf16():
        return "this CPU does not multiply in bf16 itself"
    return None


def numbers_of(runtime: Runtime) -> str:
    """Name what a network computes in; for int8 weights also its layers that are not int8.

    Examples
    --------
    >>> numbers_of(Runtime("cpu", "bfloat16"))
    'bfloat16'
    """
    if runtime.dtype == "int8" and _multiplies_in_bf16():
        return "int8 with bfloat16"
    return runtime.dtype


def _multiplies_in_bf16() -> bool:
    try:
        from gia_cli.inference.openvino_core import multiplies_in_bf16
    except (ImportError, OSError):  # a broken OpenVINO is told of where it is used
        return True
    return multiplies_in_bf16()


def _open_int8(
    info: WeightsInfo, runtime: Runtime, engine: EngineName, progress: Progress
) -> Engine:
    """Open int8 weights; where that fails there is no other engine."""
    require_int8(runtime, engine, info.config)
    if info.quantized_from is None:
        raise WeightsMismatchError(f"The weights '{info.name}' are not int8.")
    try:
        return _open_openvino(info, runtime, engine, progress)
    except (RuntimeError, ImportError) as error:  # OpenVINO has no narrower ones
        _refuse_oom(error)
        words = first_line(error)
        raise DeviceError(
            f"OpenVINO failed: {words}.", hint=f"Use the weights {info.quantized_from.name}."
        ) from error


def _refuse_oom(error: Exception) -> None:
    if is_oom_error(error):
        raise OutOfMemoryError("There is too little memory for the network.") from error


def _open_openvino(
    info: WeightsInfo, runtime: Runtime, engine: EngineName, progress: Progress
) -> Engine:
    from gia_cli.inference.openvino_engine import OpenVinoEngine

    opened = OpenVinoEngine.load(info, runtime.device, runtime.dtype == "bfloat16" or None)
    is_asked = engine == "openvino" or runtime.device == INTEL_GPU
    why = "as asked" if is_asked else "faster than torch on a CPU"
    progress.detail(f"engine: {opened}, {why}")
    return opened


def _open_onnx(
    info: WeightsInfo, runtime: Runtime, engine: EngineName, progress: Progress
) -> Engine:
    """Open ONNX Runtime, which nobody gets who has not asked for it or for its device."""
    require_onnx(runtime, info.config)
    from gia_cli.inference.onnx_engine import OnnxEngine

    opened = OnnxEngine.load(info, runtime.device, progress, runtime.index)
    progress.detail(f"engine: {opened}, as asked")
    return opened


def _open_torch(info: WeightsInfo, runtime: Runtime, why: str, progress: Progress) -> Engine:
    from gia_cli.inference.torch_engine import TorchEngine

    opened = TorchEngine.load(info, runtime)
    progress.detail(f"engine: {opened}, {why}")
    return opened
