"""Ways from a short exposure to a picture: each is a row of the table."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gia_cli._version import __version__
from gia_cli.cameras import KINDS
from gia_cli.enhance.enhancer import Enhancer
from gia_cli.enhance.exposure import ExposureRequest, choose_ratios
from gia_cli.errors import DataError, UsageError
from gia_cli.evaluation.classical import (
    ISP_NAMES,
    IspName,
    denoiser_version,
    render_isp,
    require_denoiser,
)
from gia_cli.evaluation.config import EvalConfig, RatioMode
from gia_cli.files import identity, walk
from gia_cli.imaging.color import bt709_from_srgb16
from gia_cli.imaging.writer import read_image, unorient
from gia_cli.inference.plan import InferOptions
from gia_cli.inference.select import choose_runtime, numbers_of
from gia_cli.raw.reader import RawFrame
from gia_cli.weights.manifest import find_quantized, find_weights
from gia_cli.weights.storage import WeightsInfo

_HELP = "See 'gia eval --help'."
# Raised whenever the same weights are made to give another picture: scores are kept by it.
_STAGES = 5
_WIDEST_BORDER = 16  # pixels that another program may leave out at each side


class System(Protocol):
    """A way from a short exposure to a picture."""

    @property
    def name(self) -> str:
        """As the table shows it."""

    @property
    def network(self) -> str | None:
        """Its network's name in `nets.NETWORKS`; None without one."""

    @property
    def width(self) -> int | None:
        """Channels of the network's first level."""

    @property
    def key(self) -> str:
        """What its pictures depend on, such as the digest of its weights."""

    @property
    def ratio_mode(self) -> RatioMode:
        """Where the ratio comes from."""

    def render(self, frame: RawFrame, ratio: float) -> tuple[NDArray[np.float32], float]:
        """Make the picture, (H, W, 3) float32 BT.709-encoded, unrotated; and return the ratio."""


class NetworkSystem:
    """The enhancer with one set of weights, as users run it; in fp32 unless int8 is asked for."""

    def __init__(
        self,
        label: str,
        info: WeightsInfo,
        mode: RatioMode,
        enhancer: Enhancer,
        balance_error: float = 0.0,
    ) -> None:
        error = f"balance off by {balance_error:+g} %" if balance_error else ""
        best = "quality best" if enhancer.quality == "best" else ""
        self.name = ", ".join(part for part in (label, error, best) if part)
        self.network = info.config.network
        self.width = info.config.width
        self.ratio_mode = mode
        self.info = info
        self._enhancer = enhancer
        digest = info.sha256 or str(info.path.stat().st_mtime_ns)
        # Engines differ by rounding alone: which one "auto" takes is no reason to score again; nor
        # is another card.
        engine = "" if enhancer.engine == "auto" else f" {enhancer.engine}"
        runtime = f"{enhancer.runtime.device}, {numbers_of(enhancer.runtime)}"
        changes = "".join(f" {part}" for part in (error, best) if part)
        self._key = f"{__version__} {_STAGES} {digest[:16]} {runtime}{engine}{changes}"
        factor = 1 + balance_error / 100
        self._wrong = np.array([factor, 1, 1 / factor], np.float32)

    @property
    def key(self) -> str:
        """See `System`; another one as soon as a device that failed has been left."""
        return f"{self._key} left" if self._enhancer.has_left_device else self._key

    def render(self, frame: RawFrame, ratio: float) -> tuple[NDArray[np.float32], float]:
        """Enhance the photo; the 16-bit levels of the result are what is measured."""
        request = ExposureRequest(ratio=ratio if self.ratio_mode == "known" else None)
        if self.ratio_mode == "picture":
            frame = replace(frame, shot=replace(frame.shot, exposure_s=None))
        # Before the white balance is made wrong, which must not change how bright.
        (choice,) = choose_ratios(frame, request)
        frame = replace(frame, as_shot_wb=frame.as_shot_wb * self._wrong)
        result = self._enhancer.enhance(frame, ratio=choice.ratio)
        levels = unorient(result.image, frame.flip)
        return bt709_from_srgb16(levels), result.choice.ratio


class IspSystem:
    """LibRaw, with a classical denoiser or without."""

    ratio_mode: RatioMode = "known"
    network = None
    width = None

    def __init__(self, name: IspName) -> None:
        self.key = f"{__version__} {name} {denoiser_version(name)}"
        self.name = ISP_NAMES[name]
        self._isp = name

    def render(self, frame: RawFrame, ratio: float) -> tuple[NDArray[np.float32], float]:
        """Amplify by the known ratio and render."""
        return render_isp(frame, ratio, self._isp), ratio


class PicturesSystem:
    """Another program's pictures of the short exposures, in a folder.

    Each is named like the short exposure, but for the ending: a TIFF, sRGB-encoded, upright, of the
    same size or smaller by a border of the same width all around, as demosaicing leaves.

    Parameters
    ----------
    label : str
    folder : Path

    Raises
    ------
    DataError
        There is no such folder, or no TIFF in it.
    """

    ratio_mode: RatioMode = "known"
    network = None
    width = None

    def __init__(self, label: str, folder: Path) -> None:
        self.name = label
        ((_, found),) = walk(folder, recursive=False)
        if isinstance(found, OSError):
            raise DataError(
                f"The folder {folder} cannot be read: {found.strerror or found}.",
                hint="See 'gia eval --help'.",
            )
        self._files = {
            path.stem: path for path in found if path.suffix.lower() in (".tif", ".tiff")
        }
        if not self._files:
            raise DataError(f"There is no TIFF in {folder}.", hint="See 'gia eval --help'.")
        stamps = [f"{path.name} {file_stamp(path)}" for path in self._files.values()]
        self.key = f"{__version__} {hashlib.sha256(' '.join(stamps).encode()).hexdigest()[:16]}"

    def render(self, frame: RawFrame, ratio: float) -> tuple[NDArray[np.float32], float]:
        """Read the picture; it may be smaller than the frame.

        Raises
        ------
        DataError
            It is missing or no RGB TIFF.
        """
        if frame.path.stem not in self._files:
            raise DataError(f"{self.name} has no picture of {frame.path.name}.")
        return bt709_from_srgb16(
            unorient(read_image(self._files[frame.path.stem]), frame.flip)
        ), ratio


def file_stamp(path: Path) -> str:
    """Distinguish a file from another of the same name, by its size and time."""
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def centre_of(truth: NDArray[np.float32], picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut off the truth's border that a picture has not.

    Raises
    ------
    DataError
        The picture is larger, or its border not the same all around.
    """
    missing = [full - part for full, part in zip(truth.shape[:2], picture.shape[:2], strict=True)]
    border = missing[0] // 2
    if missing != [2 * border] * 2 or not 0 <= border <= _WIDEST_BORDER:
        sizes = ["x".join(map(str, x.shape[1::-1])) for x in (picture, truth)]
        raise DataError(f"The picture is {sizes[0]}, the ground truth {sizes[1]}.")
    height, width = picture.shape[:2]
    return truth[border : border + height, border : border + width]


def open_systems(config: EvalConfig, memory: int | None = None) -> list[System]:
    """Load what is to be evaluated: a system for each row of the table.

    Parameters
    ----------
    config : EvalConfig
    memory : int, optional
        Bytes that a network may take, where others compute beside it.

    Raises
    ------
    WeightsError
        Weights that are not there or do not fit the camera.
    UsageError
        Two rows of one name.
    """
    kind = KINDS[config.camera]
    for isp in config.isp:
        require_denoiser(isp)
    systems: list[System] = [IspSystem(name) for name in config.isp]
    systems += [PicturesSystem(*_label_and_folder(text)) for text in config.pictures]
    for text in config.weights:
        label, name = split_label(text)
        info = find_weights(name, kind)
        if config.precision == "int8":
            info = find_quantized(info)
        # Not `from_weights`: whether int8 weights ship beside these must not decide their score.
        runtime = choose_runtime(config.device, config.precision, config.engine)
        enhancers = [
            Enhancer(info.path, runtime, InferOptions(), engine=config.engine, quality=quality)
            for quality in config.qualities
        ]
        if memory is not None:
            for enhancer in enhancers:
                enhancer.limit_memory(memory)
        systems += [
            NetworkSystem(label or info.name, info, mode, enhancer, error)
            for enhancer in enhancers
            for error in config.balance_errors
            for mode in config.ratios
        ]
    rows = [(system.name, system.ratio_mode) for system in systems]
    twice = {name for name, mode in rows if rows.count((name, mode)) > 1}
    if twice:
        raise UsageError(
            f"Two rows would be named {', '.join(sorted(twice))}.",
            hint="Name them: --weights LABEL=FILE.",
        )
    return systems


def _label_and_folder(text: str) -> tuple[str, Path]:
    label, equals, folder = text.partition("=")
    if not (label and equals and folder):
        raise UsageError(f"--pictures takes LABEL=FOLDER, not '{text}'.", hint=_HELP)
    return label, Path(folder)


def split_label(text: str) -> tuple[str | None, str]:
    """Split ``LABEL=NAME``; a file whose name has a ``=`` in it is no label."""
    label, equals, name = text.partition("=")
    if not equals or identity(Path(text)) is not None:
        return None, text
    return label, name
