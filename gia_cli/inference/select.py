"""Which engine a photo gets: what was asked for, or the fastest that can run it.

Importing this module imports no machinery. torch runs every network on every device; OpenVINO runs
the U-Nets on CPUs, about twice as fast, and starts without torch.
"""

from __future__ import annotations

from importlib.util import find_spec

from gia_cli.errors import DeviceError, OutOfMemoryError, WeightsMismatchError
from gia_cli.inference.engine import Engine
from gia_cli.nets.config import NetConfig, NetName
from gia_cli.progress import SILENT, Progress
from gia_cli.runtime import EngineName as EngineName
from gia_cli.runtime import Runtime, is_oom_error
from gia_cli.weights.storage import WeightsInfo

_OPENVINO_NETWORKS: tuple[NetName, ...] = (
    "sid-net",
    "gia-net",
    "se-unet",
    "sid-2conv",
    "sid-dilated",
    "sw-net",
)


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
    engine : "auto", "torch" or "openvino"
        auto: OpenVINO where it can, else torch.
    progress : Progress
        Receives, as a detail, which one and why.

    Raises
    ------
    DeviceError
        OpenVINO was asked for, or is needed for int8, and cannot run this.
    WeightsError
        See `load_network`.
    """
    if info.quantized_from is not None or runtime.dtype == "int8":
        return _open_int8(info, runtime, engine, progress)
    if engine == "torch":
        return _open_torch(info, runtime, "as asked", progress)
    if engine == "openvino":
        require_openvino(runtime, info.config)
    obstacle = obstacle_to_openvino(runtime, info.config)
    if obstacle is None:
        try:
            return _open_openvino(info, engine, progress)
        except (RuntimeError, ImportError) as error:  # OpenVINO has no narrower ones
            _refuse_oom(error)  # torch takes more
            obstacle = f"OpenVINO failed: {(str(error) or type(error).__name__).splitlines()[0]}"
            if engine == "openvino":
                raise DeviceError(f"{obstacle}.", hint="Use --engine torch.") from error
    return _open_torch(info, runtime, obstacle, progress)


def require_openvino(runtime: Runtime, config: NetConfig | None = None) -> None:
    """Raise `DeviceError` if OpenVINO cannot run there, or cannot run that network."""
    obstacle = obstacle_to_openvino(runtime, config)
    if obstacle is not None:
        raise DeviceError(
            f"The engine openvino cannot run this: {obstacle}.", hint="Leave out --engine."
        )


def require_int8(runtime: Runtime, engine: EngineName, config: NetConfig | None = None) -> None:
    """Raise `DeviceError` if int8 weights cannot run there: they need OpenVINO on the CPU."""
    obstacle = "not with torch" if engine == "torch" else obstacle_to_openvino(runtime, config)
    if obstacle is not None:
        raise DeviceError(
            f"int8 weights run with OpenVINO on the CPU: {obstacle}.",
            hint="Use --precision int8 without --engine and --device, or other weights.",
        )


def require_quantizer() -> None:
    """Raise `DeviceError` if NNCF, which makes int8 weights, is not installed."""
    if find_spec("nncf") is None:
        raise DeviceError(
            "Making int8 weights needs NNCF, which is not installed.",
            hint="Run: pip install 'nncf>=3.4'",
        )


def obstacle_to_openvino(runtime: Runtime, config: NetConfig | None = None) -> str | None:
    """Say in a few words why OpenVINO cannot run this; None if it can."""
    if runtime.device != "cpu":
        return f"OpenVINO runs on the CPU here, not on {runtime.device}"
    if runtime.dtype not in ("float32", "int8"):
        return f"OpenVINO runs in float32 here, not in {runtime.dtype}"
    if config is not None and config.network not in _OPENVINO_NETWORKS:
        return f"{config.network} has no OpenVINO graph"
    if find_spec("openvino") is None:
        return "OpenVINO is not installed"
    return None


def _open_int8(
    info: WeightsInfo, runtime: Runtime, engine: EngineName, progress: Progress
) -> Engine:
    """Open int8 weights; where that fails there is no other engine."""
    require_int8(runtime, engine, info.config)
    if info.quantized_from is None:
        raise WeightsMismatchError(f"The weights '{info.name}' are not int8.")
    try:
        return _open_openvino(info, engine, progress)
    except (RuntimeError, ImportError) as error:  # OpenVINO has no narrower ones
        _refuse_oom(error)
        words = (str(error) or type(error).__name__).splitlines()[0]
        raise DeviceError(
            f"OpenVINO failed: {words}.", hint=f"Use the weights {info.quantized_from.name}."
        ) from error


def _refuse_oom(error: Exception) -> None:
    if is_oom_error(error):
        raise OutOfMemoryError("There is too little memory for the network.") from error


def _open_openvino(info: WeightsInfo, engine: EngineName, progress: Progress) -> Engine:
    from gia_cli.inference.openvino_engine import OpenVinoEngine

    opened = OpenVinoEngine.load(info)
    why = "as asked" if engine == "openvino" else "faster than torch on a CPU"
    progress.detail(f"engine: {opened}, {why}")
    return opened


def _open_torch(info: WeightsInfo, runtime: Runtime, why: str, progress: Progress) -> Engine:
    from gia_cli.inference.torch_engine import TorchEngine

    opened = TorchEngine.load(info, runtime)
    progress.detail(f"engine: {opened}, {why}")
    return opened
