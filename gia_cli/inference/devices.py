"""What this machine computes with, and which engine each sensor's photos would get, and why."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from gia_cli.errors import GiaError, WeightsError
from gia_cli.inference import select
from gia_cli.raw.cfa import CfaKind
from gia_cli.runtime import Runtime, available_cores, gpus, torch_facts
from gia_cli.text import first_line
from gia_cli.weights.manifest import choose_weights, shipped_quantized
from gia_cli.weights.storage import WeightsInfo

# Linux lists a processor's name and instruction sets there.
_CPU_FILE = Path("/proc/cpuinfo")
#: Instruction sets that networks are faster with, as Linux names them and as people do.
INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 bf16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "bf16": "NEON bf16",
    "i8mm": "NEON int8",
    "sve": "SVE",
}


def describe_machine() -> dict[str, Any]:
    """List CPU, GPUs, and what OpenVINO and ONNX Runtime know; and what auto would choose.

    Returns
    -------
    dict
        For JSON: "cpu", "torch", "openvino", "onnx" and "auto", which has a choice for each kind of
        sensor.
    """
    name, instructions = _cpu()
    found = [
        {
            "device": f"cuda:{gpu.index}",
            "name": gpu.name,
            "memory_bytes": gpu.memory,
            "capability": gpu.capability,
            "has_kernels": gpu.has_kernels,
        }
        for gpu in gpus()
    ]
    openvino = _asked(_openvino)
    return {
        "cpu": {"name": name, "cores": available_cores(), "instructions": instructions},
        "torch": {**torch_facts(), "gpus": found},
        "openvino": openvino,
        "onnx": _asked(_onnx),
        "auto": {kind: auto_choice(kind, openvino["problem"]) for kind in get_args(CfaKind)},
    }


def auto_choice(kind: CfaKind, openvino_problem: str | None = None) -> dict[str, str]:
    """Say what would run for a kind of sensor, and why: the default weights, or GIA_WEIGHTS.

    Parameters
    ----------
    kind : "bayer" or "xtrans"
    openvino_problem : str, optional
        What keeps OpenVINO from being loaded.

    Returns
    -------
    dict
        "engine", "device", "precision", "weights" and "reason". The precision also says what the
        layers run in that are not int8, where that is not float32: "int8 with bfloat16". Where
        there are no weights for the sensor, "engine" and "weights" are "none".
    """
    runtime = select.choose_runtime("auto", "auto", "auto")
    try:
        info = choose_weights(None, kind)
    except WeightsError as error:
        return {
            "engine": "none",
            "device": runtime.place,
            "precision": runtime.dtype,
            "weights": "none",
            "reason": _sentence(error),
        }
    obstacle = select.obstacle_to_openvino(runtime, info.config)
    if obstacle is None and openvino_problem is not None:
        obstacle = f"OpenVINO cannot be loaded: {openvino_problem.rstrip('.')}"
    if obstacle is None:
        return _on_openvino(runtime, info)
    reason = f"torch found a GPU; {obstacle}" if runtime.device != "cpu" else obstacle
    return _choice("torch", runtime, info, reason)


def _on_openvino(runtime: Runtime, info: WeightsInfo) -> dict[str, str]:
    rounded = info if info.quantized_from is not None else shipped_quantized(info)
    reason = "no GPU that torch can use; OpenVINO is faster than torch on a CPU"
    if rounded is None:
        return _choice("openvino", runtime, info, reason)
    int8 = replace(runtime, dtype="int8")
    return _choice("openvino", int8, rounded, f"{reason}, and faster still in int8")


def _choice(engine: str, runtime: Runtime, info: WeightsInfo, reason: str) -> dict[str, str]:
    return {
        "engine": engine,
        "device": runtime.place,
        "precision": select.numbers_of(runtime),
        "weights": info.name,
        "reason": reason,
    }


def _asked(ask: Callable[[], tuple[str, list[str]]]) -> dict[str, Any]:
    """Ask a library for its version and devices; say in words what keeps it from answering."""
    try:
        version, devices = ask()
    except GiaError as error:
        return {"version": None, "devices": [], "problem": _sentence(error)}
    except (ImportError, RuntimeError) as error:  # a library that does not load
        words = first_line(error)
        return {"version": None, "devices": [], "problem": words}
    return {"version": version, "devices": devices, "problem": None}


def _sentence(error: GiaError) -> str:
    return f"{error.message} {error.hint or ''}".strip()


def _openvino() -> tuple[str, list[str]]:
    from gia_cli.inference.openvino_engine import version

    return version(), [f"{name} ({what})" for name, what in select.openvino_devices()]


def _onnx() -> tuple[str, list[str]]:
    select.require_onnx_packages()
    from gia_cli.inference.onnx_engine import PROVIDERS, version

    return version(), [f"{device} ({PROVIDERS[device]})" for device in select.onnx_devices()]


def _cpu() -> tuple[str | None, list[str]]:
    """Name the processor and the instruction sets that matter; nothing where Linux does not."""
    try:
        text = _CPU_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None, []
    facts = {
        key.strip(): value.strip()
        for key, colon, value in (line.partition(":") for line in text.splitlines())
        if colon
    }
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    named = [words for flag, words in INSTRUCTIONS.items() if flag in flags]
    return facts.get("model name") or platform.processor() or None, named
