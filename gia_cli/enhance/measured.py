"""What the sensor measured, brought back into the network's picture: when, and with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CAMERA_MATRICES
from gia_cli.imaging.arrays import Array, is_torch_on_cuda, work_there
from gia_cli.imaging.chroma import smooth_chroma
from gia_cli.imaging.fusion import (
    NO_SHARES,
    Grain,
    device_bytes,
    fuse,
    measure,
)
from gia_cli.inference.engine import Engine
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.packing import usable_gains
from gia_cli.raw.reader import RawFrame
from gia_cli.runtime import Quality as Quality
from gia_cli.runtime import free_bytes, is_oom_error, release_gpu_memory, turn_on
from gia_cli.text import first_line
from gia_cli.weights.storage import WeightsInfo


def fuse_measured(
    picture: Array,
    frame: RawFrame,
    ratio: float,
    gains: NDArray[np.float32] | None,
    weights: WeightsInfo,
    grain: Grain | None = None,
    *,
    noise: tuple[float, float] | None = None,
    black_error: NDArray[np.floating] | None = None,
) -> None:
    """Fuse a network's picture with what the sensor measured, without mottle; in its place.

    Mottle stays where some of the colours' noise is asked for. For weights that come without
    shares, or that infer the light, only grain is left: without gains a measurement has no colours
    to compare.

    Parameters
    ----------
    picture : (3, H, W) float32
        BT.709-encoded; an array, or a tensor.
    frame, ratio, gains
        As `prepare` got them.
    weights : WeightsInfo
    grain : Grain, optional
    noise : (gain, variance), optional
        As `frame_noise` returns them; by default this frame's.
    black_error : (3,), optional
        As `Residual.offset`; by default this frame's.
    """
    if not is_fused(gains, weights) and grain is None:
        return
    shares = weights.fusion if is_fused(gains, weights) else None
    if gains is None:
        gains = usable_gains(frame.as_shot_wb)
    measured = measure(frame, ratio, gains, training_matrix(weights), noise)
    if black_error is not None:
        measured = replace(measured, black_error=np.asarray(black_error, np.float64))
    fuse(picture, measured, shares or NO_SHARES, grain, is_clipped=False)
    if shares is not None and (grain is None or grain.chroma == 0):
        smooth_chroma(picture)


def where_computed(
    work: Callable[[Array], None],
    picture: NDArray[np.float32],
    engine: Engine,
    progress: Progress = SILENT,
) -> None:
    """Change a picture on the card that torch computed it on, else on the host; in its place.

    So it is on the host where the card has too little memory left, where it fails, and for every
    device that shares the host's memory.

    Parameters
    ----------
    work : function
        Changes an array or a tensor in its place.
    picture : (3, H, W) float32
    engine : Engine
        What computed the picture.
    progress : Progress
        Receives a note of a failure.
    """
    runtime, has_failed = engine.runtime, False
    try:
        with turn_on(runtime):
            if _has_room(engine, picture.shape[1] * picture.shape[2]):
                work_there(work, picture, runtime.torch_device)
                return
    except RuntimeError as error:  # torch's own are; a broken card raises when asked for its memory
        has_failed = True
        words = first_line(error)
        is_of_memory = is_oom_error(error)
        why = "has too little memory" if is_of_memory else f"failed ({words})"
        if not is_of_memory:  # CUDA's errors mostly stick
            engine.abandon()
        progress.note(f"The {runtime.place} {why} to finish the picture; the CPU does.")
    if has_failed:  # outside the handler: the traceback holds what lies on the card
        release_gpu_memory(runtime.device)  # torch's; the engine may compute the next photo
    work(picture)


def _has_room(engine: Engine, photosites: int) -> bool:
    """Tell whether torch can change a picture on the card that an engine computed it on."""
    runtime = engine.runtime
    if runtime.device != "cuda" or engine.is_in_main_memory or not is_torch_on_cuda():
        return False
    return device_bytes(photosites) <= free_bytes(runtime.device, runtime.index)


def is_fused(gains: NDArray[np.float32] | None, weights: WeightsInfo) -> bool:
    """Tell whether a picture is fused: it has shares, and colours that can be compared."""
    is_known = (weights.camera or "") in CAMERA_MATRICES
    return weights.fusion is not None and gains is not None and is_known


def training_matrix(weights: WeightsInfo) -> NDArray[np.float64]:
    """Return the colour matrix of the camera that a network was trained for, (3, 3)."""
    return np.array(CAMERA_MATRICES.get(weights.camera or "", CAMERA_MATRICES["ILCE-7SM2"]))
