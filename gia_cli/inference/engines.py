"""The engines that photos are computed on: chosen and opened once for each kind, and kept.

What a photo gets is decided by its sensor's weights, by device, precision and engine asked for, and
by what this machine can do: int8 weights that ship beside the chosen ones where OpenVINO runs them,
and the CPU's own choice where a graphics card fails.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gia_cli.errors import DeviceError, WeightsError
from gia_cli.inference.fallback import Opened, Running, Step
from gia_cli.inference.select import (
    obstacle_to_openvino,
    open_engine,
    require_int8,
    require_onnx,
    require_openvino,
)
from gia_cli.nets.config import WhiteBalanceMode
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.cfa import CfaKind
from gia_cli.runtime import EngineName, Runtime
from gia_cli.weights.manifest import choose_weights, find_quantized, shipped_quantized
from gia_cli.weights.storage import WeightsInfo

_CPU = Runtime("cpu", "float32")


class Engines:
    """The engines of one `Enhancer`.

    Parameters
    ----------
    weights : str or Path, optional
        As for `choose_weights`.
    runtime : Runtime
        Device and precision.
    engine : "auto", "torch", "openvino" or "onnx"
        See `open_engine`.
    white_balance : "learned" or "as-shot", optional
        As for `choose_weights`.
    prefers_int8 : bool
        Whether int8 weights that ship beside the chosen ones are run in their place on a CPU.
    holds_one : bool
        Whether only one network is held at a time.

    Raises
    ------
    WeightsError, DeviceError, UsageError
        No such weights, or not on this device, in this precision or on this engine.
    """

    def __init__(
        self,
        weights: str | Path | None,
        runtime: Runtime,
        engine: EngineName = "auto",
        white_balance: WhiteBalanceMode | None = None,
        *,
        prefers_int8: bool = False,
        holds_one: bool = False,
    ) -> None:
        self._weights = weights
        self._runtime = runtime
        self._engine = engine
        self._mode = white_balance
        self._prefers_int8 = prefers_int8 and engine not in ("torch", "onnx")
        self.holds_one = holds_one
        """See above; what is held already goes when the next one is opened."""
        self._refuses_int8 = False
        self._found: dict[CfaKind, WeightsInfo] = {}
        self._running: dict[CfaKind, Running] = {}
        # A wrong name or engine should fail before the first photo is read.
        info = None if weights is None else choose_weights(weights, white_balance=white_balance)
        config = None if info is None else info.config
        if engine == "openvino":
            require_openvino(runtime, config)
        if engine == "onnx":
            require_onnx(runtime, config)
        if runtime.dtype == "int8" and info is not None:
            info = find_quantized(info)
        if runtime.dtype == "int8" or (info is not None and info.quantized_from is not None):
            require_int8(runtime, engine, config)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is of this process: the opened networks."""
        return {**self.__dict__, "_running": {}}

    def asked_for(self, kind: CfaKind) -> WeightsInfo:
        """Find the weights that were asked for; in int8 only if that was, too.

        Raises
        ------
        WeightsError
        """
        if kind not in self._found:
            info = choose_weights(self._weights, kind, self._mode)
            self._refuse(info)
            self._found[kind] = find_quantized(info) if self._runtime.dtype == "int8" else info
        return self._found[kind]

    def refuse_int8(self) -> None:
        """Take no weights that are int8: fp32 was asked for.

        Raises
        ------
        DeviceError
            Those that were asked for are.
        """
        self._refuses_int8 = True
        if self._weights is not None:
            self._refuse(choose_weights(self._weights, white_balance=self._mode))

    def _refuse(self, info: WeightsInfo) -> None:
        if self._refuses_int8 and info.quantized_from is not None:
            raise DeviceError(
                f"The weights '{info.name}' are int8, not fp32.",
                hint=f"Leave out --precision, or use the weights {info.quantized_from.name}.",
            )

    def weights_for(self, kind: CfaKind) -> WeightsInfo:
        """Find the weights that will run, int8 ones where those are preferred; opens nothing.

        Raises
        ------
        WeightsError
        """
        weights = self.asked_for(kind)
        return self._preferred(weights, self._runtime) or weights

    def running(self, weights: WeightsInfo, progress: Progress = SILENT) -> Running:
        """Return the network that photos of these weights' sensor run on; open it the first time.

        Parameters
        ----------
        weights : WeightsInfo
            As `asked_for` found them.
        progress : Progress
            Receives a note of every engine that does not work.

        Raises
        ------
        WeightsError, DeviceError, OutOfMemoryError
        """
        kind = weights.config.cfa
        if kind not in self._running:
            if self.holds_one:
                self._running.clear()
            opened = self._open(weights, progress)
            opened.check(progress)
            self._running[kind] = opened
        return self._running[kind]

    @property
    def has_left_device(self) -> bool:
        """Whether an engine runs elsewhere than was asked for, because it failed there."""
        there = list(self._running.values())  # asked by other threads while one is opened
        return any(each.engine.device != self._runtime.device for each in there)

    # ------------------------------------------------------------ inside

    def _open(self, weights: WeightsInfo, progress: Progress) -> Running:
        if self._runtime.device != "cpu":
            engine = open_engine(weights, self._runtime, self._engine, progress)
            return Running(engine, weights, self._on_cpu(weights), is_checked=True)
        in_int8 = self._open_int8(weights, self._runtime, progress)
        if in_int8 is None:
            return Running(*self._open_asked(weights, self._runtime, progress))
        # They were gia's choice, not the user's.
        return Running(*in_int8, later=[partial(self._open_asked, weights, self._runtime)])

    def _on_cpu(self, weights: WeightsInfo) -> list[Step] | None:
        """List what the CPU would run by its own choice; None for the same library."""
        if self._engine == "onnx":
            return None
        ways = (self._open_int8, self._open_asked)
        return [partial(way, weights, _CPU) for way in ways]

    def _open_asked(self, weights: WeightsInfo, runtime: Runtime, progress: Progress) -> Opened:
        return open_engine(weights, runtime, self._engine, progress), weights

    def _open_int8(
        self, weights: WeightsInfo, runtime: Runtime, progress: Progress
    ) -> Opened | None:
        """Open the int8 weights made from these; None where that cannot be."""
        rounded = self._preferred(weights, runtime)
        if rounded is None:
            return None
        try:
            return self._open_asked(rounded, runtime, progress)
        except (DeviceError, WeightsError) as error:
            progress.note(f"{rounded.name} cannot be used; continuing in fp32. {error.message}")
            return None

    def _preferred(self, weights: WeightsInfo, runtime: Runtime) -> WeightsInfo | None:
        """Find the int8 weights that are run in place of these; None if these are."""
        if not self._prefers_int8 or runtime != _CPU:
            return None
        if obstacle_to_openvino(runtime, weights.config):
            return None
        return shipped_quantized(weights)
