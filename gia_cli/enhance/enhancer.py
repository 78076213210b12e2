"""The stages in order, as one object: the public API.

::

    enhancer = Enhancer.from_weights()
    result = enhancer.enhance("night.ARW")
    result.save("night.tif")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray

from gia_cli.arguments import instance_of, one_of, path_of, whole_number
from gia_cli.enhance.black_level import black_correction, is_measured
from gia_cli.enhance.camera_match import camera_colors, camera_gains, recolor
from gia_cli.enhance.crop import Crop, Part, binned, cut, part_of
from gia_cli.enhance.ensemble import infer_turned
from gia_cli.enhance.exposure import ExposureRequest, RatioChoice, choose_ratios
from gia_cli.enhance.measured import fuse_measured, is_fused, training_matrix, where_computed
from gia_cli.enhance.sidecar import DevelopSettings, PhotoMetadata, read_metadata
from gia_cli.enhance.stages import (
    ALL_THE_NOISE,
    AS_THE_NETWORK_HAS_THEM,
    Computed,
    Enhanced,
    Prepared,
    Strength,
    timed,
)
from gia_cli.enhance.white_balance import WhiteBalance
from gia_cli.errors import UsageError
from gia_cli.files import is_file
from gia_cli.imaging.arrays import Array
from gia_cli.imaging.fusion import (
    Residual,
    frame_noise,
    fusion_bytes,
    measure,
    whiten,
)
from gia_cli.imaging.highlights import Highlights, brightest_light, restore_highlights
from gia_cli.inference.engine import Engine, Term
from gia_cli.inference.engines import Engines
from gia_cli.inference.fallback import Running
from gia_cli.inference.plan import InferOptions, plan
from gia_cli.inference.run import claim_process, infer, photo_terms
from gia_cli.inference.select import choose_runtime
from gia_cli.progress import SILENT, NotesOnly, Progress
from gia_cli.raw.cfa import CfaKind
from gia_cli.raw.levels import AS_THE_FILE_SAYS, Levels
from gia_cli.raw.noise_estimate import noise_above
from gia_cli.raw.packing import prepare, usable_gains
from gia_cli.raw.reader import FLIP_OF_ORIENTATION, RawFrame, read_raw
from gia_cli.raw.turns import Turn
from gia_cli.runtime import (
    DeviceName,
    EngineName,
    Precision,
    Runtime,
    memory_errors,
    parse_size,
    resident_bytes,
    return_freed_memory,
    return_large_blocks,
    turn_on,
)
from gia_cli.runtime import Quality as Quality
from gia_cli.weights.storage import WeightsInfo

# What the first photos leave behind that is none of theirs: tables, threads, late imports.
_LEFTOVERS = 15_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """What the network made of a photo, before anything that was measured comes in.

    The rest as in `Prepared`, whose planes are the network's alone.
    """

    picture: NDArray[np.float32] = field(repr=False)
    """(3, H, W) float32, BT.709-encoded, not clipped, as the sensor lay."""
    frame: RawFrame
    choice: RatioChoice
    weights: WeightsInfo
    ran: WeightsInfo
    """The weights that ran, which may be int8 ones made from the others."""
    engine: Engine
    """What ran them."""
    gains: NDArray[np.float32] | None
    white_balance: str
    part: Part | None
    metadata: PhotoMetadata
    seconds: dict[str, float]
    noise: tuple[float, float] | None
    """As `frame_noise` has it of the whole photo, where it was asked for."""
    black_error: NDArray[np.float32] | None
    """(3,) float32; the black level's error of the photo that a part belongs to, as
    `Residual.offset`; None: that of this photo, still to be found."""


class Enhancer:
    """Networks, loaded once, that enhance any number of photos.

    Threads may share one: the network runs for one photo at a time, for which it has all cores, and
    every picture is the one that a single thread would get. After a fork none may be used where a
    network has run before it (`DeviceError`); processes that are spawned are free to, and an
    enhancer may be pickled to get there: it then loads its networks anew.

    Whatever is wrong with what it is given, it raises a `GiaError`.

    Parameters
    ----------
    weights : str or Path, optional
        Name or path, or several with commas between them, see `choose_weights`; None chooses by
        each photo's colour filter array.
    runtime : Runtime
        Device and precision.
    options : InferOptions
        Tiles and memory.
    white_balance : str, three floats or WhiteBalance, optional
        What to make neutral; see `from_weights`.
    engine : "auto", "torch", "openvino" or "onnx"
        What computes; see `open_engine`.
    prefer_int8 : bool
        Run the int8 weights that ship beside the chosen ones, if these ship too, where that can be;
        not for a runtime of another precision than fp32.
    quality : "normal" or "best"
        One picture, or the mean of eight; see `from_weights`.
    levels : Levels
        Black and white levels to use instead of each file's.
    strength : Strength
        How much of the noise goes.
    highlights : Highlights
        How much room what lies above white gets.
    crop : Crop, optional
        The part to make of every photo; by default all of it.
    use_sidecar : bool
        Whether to develop a photo as its XMP sidecar says; see `from_weights`.
    """

    def __init__(
        self,
        weights: str | Path | None,
        runtime: Runtime,
        options: InferOptions,
        white_balance: str | Sequence[float] | WhiteBalance | None = None,
        engine: EngineName = "auto",
        *,
        prefer_int8: bool = False,
        quality: Quality = "normal",
        levels: Levels = AS_THE_FILE_SAYS,
        strength: Strength = ALL_THE_NOISE,
        highlights: Highlights = AS_THE_NETWORK_HAS_THEM,
        crop: Crop | None = None,
        use_sidecar: bool = False,
    ) -> None:
        one_of(quality, get_args(Quality), "quality")
        one_of(engine, get_args(EngineName), "engine")
        instance_of(runtime, Runtime, "runtime")
        instance_of(options, InferOptions, "options")
        instance_of(levels, Levels, "levels")
        instance_of(strength, Strength, "strength")
        instance_of(highlights, Highlights, "highlights")
        if weights is not None:
            path_of(weights, "weights")
        # A wrong word or name should fail before the first photo is read.
        self._white_balance = None if white_balance is None else WhiteBalance.parse(white_balance)
        self._engines = Engines(
            weights,
            runtime,
            engine,
            None if self._white_balance is None else self._white_balance.mode,
            prefers_int8=prefer_int8,
            holds_one=options.max_memory is not None,  # the plans count on it
        )
        self.quality = quality
        self.strength = strength
        self.highlights = highlights
        if crop is not None:
            instance_of(crop, Crop, "crop")
        self.crop = crop
        self.use_sidecar = use_sidecar
        self.runtime = runtime
        self.options = options
        self.engine = engine
        self._levels = levels
        self._lock = RLock()
        # Under a limit: what the process holds beside photos, and beside what the engine takes.
        self._base: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is of this process."""
        return {**self.__dict__, "_base": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=RLock())

    def limit_memory(self, most: int) -> None:
        """Hold no more than so many bytes from now on, as `max_memory` says from the beginning.

        Parameters
        ----------
        most : int

        Raises
        ------
        UsageError
            Not a positive whole number.
        """
        self.options = replace(self.options, max_memory=most)
        self._engines.holds_one = True

    @classmethod
    def from_weights(
        cls,
        weights: str | Path | None = None,
        *,
        device: DeviceName = "auto",
        precision: Precision = "auto",
        tile: int | None = None,
        max_memory: int | str | None = None,
        white_balance: str | Sequence[float] | WhiteBalance | None = None,
        engine: EngineName = "auto",
        quality: Quality = "normal",
        black_level: str | float | Sequence[float] | None = None,
        white_level: float | None = None,
        strength: float = 1.0,
        strength_chroma: float | None = None,
        highlights: float = 0.0,
        crop: str | Crop | None = None,
        use_sidecar: bool = False,
    ) -> Enhancer:
        """Make an enhancer.

        Parameters
        ----------
        weights : str or Path, optional
            Name of shipped weights or path of a safetensors file, several of them with commas
            between ("gia-sony-lite,gia-fuji") of which each photo takes those for its sensor, or
            "lite": the smaller weights where a sensor has some. By default ``GIA_WEIGHTS``, else
            what ships for each photo's colour filter array.
        device : "auto", "cpu", "cuda", "cuda:N", "mps" or another of `runtime.DEVICES`
            cuda:1 is the second of several cards.
        precision : "auto", "fp32", "fp16", "bf16" or "int8"
            int8 runs the int8 weights that were made from the chosen ones, on the CPU. auto: fp16
            on CUDA; on a CPU int8 for weights that ship, if theirs ship and OpenVINO is there and
            no `tile` is asked for; else fp32.
        tile : int, optional
            Tile side in photosites; by default the whole frame if memory allows.
        max_memory : int (bytes) or str ("1500MB"), optional
            Most memory that the process should hold.
        white_balance : str or three floats, optional
            "as-shot" (what the camera chose), "daylight", "cloudy", "shade", "tungsten",
            "fluorescent", "flash", a temperature in kelvin ("3200K"), with a tint ("3200K,5"), or
            gains for red, green and blue ("2.1,1,1.5" or a tuple). These take weights that are
            given the white balance; "learned" takes those that infer the light themselves. By
            default the first weights of the manifest, as shot if they take a balance.
        engine : "auto", "torch", "openvino" or "onnx"
            What computes: by default OpenVINO on a CPU where it can, else torch.
        quality : "normal" or "best"
            best: the mean of eight pictures, of the mosaic turned and mirrored, which takes 8 times
            the time; see `infer_turned`.
        black_level : str, float or three floats, optional
            Black level in DN to use instead of the file's: one number, or one for each of red,
            green and blue ("512,514,511" or a tuple).
        white_level : float, optional
            Saturation level in DN, likewise.
        strength : float
            How much of the fine noise goes, from 0 (none) to 1 (all): the rest of what the sensor
            measured stays in the picture as grain. Brightness and colours stay.
        strength_chroma : float, optional
            Of the noise in colour, likewise; by default as much.
        highlights : float
            How much of the tones below white, from 0 to 1 (half of the code values), is given to
            what lies above it, which the sensor measured: lamps keep their shape and colour. A DNG
            holds it above white. 0 leaves them as the network has them.
        crop : str, optional
            A part to make instead of the whole picture, to try settings: "center" or
            "X,Y,W,H" in pixels of the upright picture. Its colours and brightness are those that
            it has in the whole.
        use_sidecar : bool
            Whether orientation, white balance and exposure of the XMP beside a photo, or in it,
            are used where nothing else is asked for. Ratings, keywords and the like are carried
            over anyway.

        Raises
        ------
        WeightsError, DeviceError, UsageError
        """
        one_of(engine, get_args(EngineName), "engine")
        limit = parse_size(max_memory) if isinstance(max_memory, str) else max_memory
        options = InferOptions(tile="auto" if tile is None else tile, max_memory=limit)
        runtime = choose_runtime(device, precision, engine)
        # Whoever asks for tiles wants the whole frame's picture: int8's rounding depends on them.
        prefer = precision == "auto" and tile is None
        enhancer = cls(
            weights,
            runtime,
            options,
            white_balance,
            engine,
            prefer_int8=prefer,
            quality=quality,
            levels=Levels.parse(black_level, white_level),
            strength=Strength(strength, strength if strength_chroma is None else strength_chroma),
            highlights=Highlights(highlights),
            crop=Crop.parse(crop) if isinstance(crop, str) else crop,
            use_sidecar=use_sidecar,
        )
        if precision == "fp32":
            enhancer._engines.refuse_int8()
        return enhancer

    def enhance(
        self,
        photo: str | Path | bytes | BinaryIO | RawFrame,
        *,
        ratio: float | None = None,
        exposure: ExposureRequest | None = None,
        progress: Progress = SILENT,
    ) -> Enhanced:
        """Enhance one photo.

        Parameters
        ----------
        photo : str, Path, bytes, binary file or RawFrame
            A path, what a RAW file holds, or a frame (`RawFrame.from_mosaic` makes one of an
            array).
        ratio : float, optional
            Amplification; short for ``exposure=ExposureRequest(ratio=...)``. Neither means auto.
        exposure : ExposureRequest, optional
            Any other way to say how bright; not brackets, which make several pictures
            (`enhance_brackets`).
        progress : Progress

        Returns
        -------
        Enhanced

        Raises
        ------
        RawError, ExposureError, WhiteBalanceError, WeightsError, DeviceError, OutOfMemoryError,
        UsageError
        """
        if ratio is not None and exposure is not None:
            raise UsageError("Give a ratio or an exposure request, not both.", hint="")
        request = ExposureRequest(ratio=ratio) if exposure is None else exposure
        instance_of(request, ExposureRequest, "exposure")
        if request.brackets:
            raise UsageError(
                "Brackets make several pictures; enhance returns one.",
                hint="Call enhance_brackets.",
            )
        (result,) = self.enhance_brackets(photo, request, progress=progress)
        return result

    def enhance_brackets(
        self,
        photo: str | Path | bytes | BinaryIO | RawFrame,
        request: ExposureRequest,
        *,
        progress: Progress = SILENT,
    ) -> Iterator[Enhanced]:
        """Enhance one photo at each ratio that the request leads to.

        Parameters and errors as for `enhance`. The photo is read once.
        """
        for prepared in self.prepare(photo, request, progress=progress):
            computed = self.compute(prepared, progress=progress)
            progress.stage("developing", 1)
            enhanced = computed.develop()
            progress.advance()
            yield enhanced

    # The steps of the above, for those who let them overlap.

    def prepare(
        self,
        photo: str | Path | bytes | BinaryIO | RawFrame,
        request: ExposureRequest,
        *,
        progress: Progress = SILENT,
    ) -> Iterator[Prepared]:
        """Read a photo and pack it for the network, at each ratio that the request leads to.

        May run in a thread of its own, beside `compute` on another photo.

        Parameters
        ----------
        photo : str, Path, bytes, binary file or RawFrame
            A path, what a RAW file holds, or a frame (`RawFrame.from_mosaic` makes one of an
            array).
        request : ExposureRequest
        progress : Progress
            Receives notes about the photo.

        Raises
        ------
        RawError, ExposureError, WhiteBalanceError, SidecarError, WeightsNotFoundError,
        NoWeightsForCfaError
        """
        seconds: dict[str, float] = {}
        instance_of(request, ExposureRequest, "request")
        if isinstance(photo, RawFrame):
            photo.check()
        file = _file_of(photo)
        if not isinstance(photo, RawFrame):
            with memory_errors(), timed(seconds, "decode"):
                limit = self.options.max_memory
                photo = read_raw(photo, levels=self._levels, max_memory=limit)
        if photo.black_correction:  # of a picture made before; it is looked for anew
            photo = replace(photo, black_correction=0.0)
        for note in photo.notes:
            progress.note(f"{photo.path.name}: {note}")
        with memory_errors(), timed(seconds, "exposure"):
            weights = self._engines.asked_for(photo.kind)
            metadata = self._read_metadata(photo, file, request, weights, progress)
            used = metadata.used
            if (shot := metadata.shot(photo.shot)) is not photo.shot:
                photo = replace(photo, shot=shot)
            if used.orientation is not None:
                photo = replace(photo, flip=FLIP_OF_ORIENTATION[used.orientation])
            if used.exposure_ev is not None:
                request = replace(request, exposure_ev=used.exposure_ev)
            choices = choose_ratios(photo, request)
            balance = self._white_balance or used.white_balance
            balance = balance or WhiteBalance(weights.config.white_balance)
            gains = _camera_gains(photo, weights, balance, progress)
            words = balance.describe(photo)
            _tell_of_colors(photo, weights, progress)
            part = None if self.crop is None else part_of(photo, self.crop)
            photo = photo if part is None else part.frame
        for choice in choices:
            with memory_errors(), timed(seconds, "pack"):
                mosaic = prepare(photo, choice.ratio, gains, weights.config.input_floor)
            yield Prepared(photo, mosaic, choice, weights, gains, words, seconds, part, metadata)
            seconds = {}

    def _read_metadata(
        self,
        frame: RawFrame,
        file: Path | None,
        request: ExposureRequest,
        weights: WeightsInfo,
        progress: Progress,
    ) -> PhotoMetadata:
        """Read what other programs say of a photo, and settle what of it is used."""
        metadata = read_metadata(file, frame.xmp, strict=self.use_sidecar)
        metadata = replace(metadata, is_balanced=self._white_balance is not None)
        notes, name = metadata.notes, frame.path.name
        if metadata.paths:
            files = ", then ".join(path.name for path in metadata.paths)
            progress.detail(f"{name}: sidecar {files}")
        if self.use_sidecar:
            wanted, more = metadata.develop_settings()
            notes = (*notes, *more)
            balance, stops = wanted.white_balance, wanted.exposure_ev
            if self._white_balance is not None:
                balance = None
            elif balance is not None and weights.config.white_balance != "as-shot":
                notes = (
                    *notes,
                    f"{weights.name} infers the light; the sidecar's balance is not used.",
                )
                balance = None
            if request.ratio is not None or request.brackets or request.exposure_ev is not None:
                stops = None
            used = DevelopSettings(wanted.orientation, balance, stops)
            is_balanced = metadata.is_balanced or balance is not None
            metadata = replace(metadata, used=used, is_balanced=is_balanced)
            progress.detail(f"{name}: by its sidecar: {used or 'nothing'}")
        for note in notes:
            progress.note(f"{name}: {note}")
        return metadata

    def load(self, prepared: Prepared, *, progress: Progress = SILENT) -> None:
        """Load the network that a photo needs, if it is not loaded yet; `compute` does so too.

        Under a limit on memory, the first time, what the process then holds beside this photo is
        what plans count on: so other photos should come later.

        Parameters
        ----------
        prepared : Prepared
        progress : Progress

        Raises
        ------
        WeightsError, DeviceError
        """
        instance_of(prepared, Prepared, "prepared photo")
        claim_process()  # before the lock, which another thread may have held in a process forked
        with self._lock, memory_errors(), timed(prepared.seconds, "load"):
            running = self._engines.running(prepared.weights, progress)
            self._measure_base(running.engine, prepared)

    def compute(
        self,
        prepared: Prepared,
        *,
        progress: Progress = SILENT,
        reserved: int = 0,
        saving: int = 0,
        is_beside: bool = False,
    ) -> Computed:
        """Run the network, and `finish` what it made.

        Parameters and errors as for `render`.
        """
        rendered = self.render(
            prepared, progress=progress, reserved=reserved, saving=saving, is_beside=is_beside
        )
        return self.finish(rendered, progress=progress)

    def render(
        self,
        prepared: Prepared,
        *,
        progress: Progress = SILENT,
        reserved: int = 0,
        saving: int = 0,
        is_beside: bool = False,
    ) -> Rendered:
        """Run the network, which is loaded when the first photo needs it.

        Parameters
        ----------
        prepared : Prepared
        progress : Progress
        reserved : int
            Bytes that this process will take meanwhile, for other photos.
        saving : int
            Bytes that developing and saving this photo will take beside the network's picture.
        is_beside : bool
            Whether other photos hold memory that they will give back. If there is too little for
            what this photo would get without them, that is an error, and not a smaller plan.

        Raises
        ------
        WeightsError, DeviceError, OutOfMemoryError
        """
        reserved = whole_number(reserved, "number of bytes reserved")
        saving = whole_number(saving, "number of bytes for saving")
        self.load(prepared, progress=progress)
        with self._lock, memory_errors():
            options = replace(
                self.options, reserved=reserved, afterwards=saving, is_beside=is_beside
            )
            seconds = dict(prepared.seconds)
            running = self._engines.running(prepared.weights, progress)
            engine = running.engine
            prepared, noise = self._with_black(running, prepared, options, seconds, progress)
            if running.engine is not engine:
                self._base, engine = None, running.engine
            # `infer` takes the turn, too; here waiting for it is not counted as the network's time.
            with turn_on(running.engine.runtime), timed(seconds, "network"):
                picture = self._infer(running, prepared, options, progress)
            if running.engine is not engine:
                self._base = None  # another engine holds other memory
            ran, black_error = running.weights or prepared.weights, None
            if prepared.part is not None and self._takes_measured(ran):
                with timed(seconds, "fusion"):
                    black_error = _black_error(running, prepared, options, progress)
        return Rendered(
            picture,
            prepared.frame,
            prepared.choice,
            prepared.weights,
            ran,
            running.engine,
            prepared.gains,
            prepared.white_balance,
            prepared.part,
            prepared.metadata,
            seconds,
            noise,
            black_error,
        )

    def _with_black(
        self,
        running: Running,
        prepared: Prepared,
        options: InferOptions,
        seconds: dict[str, float],
        progress: Progress,
    ) -> tuple[Prepared, tuple[float, float] | None]:
        """Correct a photo's black level where that shows; and its noise, where it was asked for."""
        part, ratio, gains = prepared.part, prepared.choice.ratio, prepared.gains
        noise = None if part is None else part.noise
        is_stated = self._levels.black is not None  # by the user, who knows
        if (
            gains is None
            or is_stated
            or not is_measured(prepared.frame, ratio, gains, prepared.weights)
        ):
            return prepared, noise
        with timed(seconds, "black_level"):
            noise = noise or frame_noise(prepared.frame)
        with turn_on(running.engine.runtime), timed(seconds, "black_level"):
            small = binned(prepared.frame) if part is None else part.small
            options = self._with_memory(running.engine, prepared, options)
            if options.max_memory is not None:
                with suppress(RuntimeError):  # a broken card cannot be asked; `infer` leaves it
                    plan(running.engine, prepared.mosaic, options)  # raises if that will not fit
            found = black_correction(
                running, small, ratio, gains, noise, prepared.weights, options, progress
            )
            if options.max_memory is not None:
                return_freed_memory()  # it would count as held
            name, in_file = prepared.frame.path.name, found / prepared.frame.dn_scale
            progress.detail(f"{name}: black level corrected by {in_file:+.2f} DN, as it shows")
            return prepared.with_black(found), noise_above(noise, found)

    def _takes_measured(self, weights: WeightsInfo) -> bool:
        """Whether what the sensor measured comes into pictures: colours, or grain alone."""
        return weights.config.white_balance == "as-shot" or self.strength.grain is not None

    def finish(self, rendered: Rendered, *, progress: Progress = SILENT) -> Computed:
        """Bring in what the sensor measured, once, and the camera's colours.

        May run in a thread of its own, beside `render` on another photo; no network runs here.

        Parameters
        ----------
        rendered : Rendered
            Its picture is changed in its place, on the card that made it if there is room.
        progress : Progress
            Receives a note where a card fails and the CPU does it.

        Raises
        ------
        OutOfMemoryError
        """
        instance_of(rendered, Rendered, "rendered photo")
        with memory_errors():
            return self._finish(rendered, progress)

    def _finish(self, rendered: Rendered, progress: Progress) -> Computed:
        picture, frame, part = rendered.picture, rendered.frame, rendered.part
        seconds, ran = dict(rendered.seconds), rendered.ran
        takes_balance = ran.config.white_balance == "as-shot"
        noise, grain = rendered.noise, self.strength.grain
        takes_noise = is_fused(rendered.gains, rendered.weights) or grain is not None
        if noise is None and (takes_noise or (self.highlights and self._takes_measured(ran))):
            with timed(seconds, "fusion"):
                noise = frame_noise(frame)  # here, so that a card need not wait for the host
        matrix = camera_colors(frame, ran)

        def bring_in(there: Array) -> None:
            if self._takes_measured(ran):
                with timed(seconds, "fusion"):
                    fuse_measured(
                        there,
                        frame,
                        rendered.choice.ratio,
                        rendered.gains,
                        rendered.weights,
                        grain,
                        noise=noise,
                        black_error=rendered.black_error,
                    )
                    if takes_balance:
                        whiten(there, frame)
            if matrix is not None:
                with timed(seconds, "colour"):
                    recolor(there, matrix)

        where_computed(bring_in, picture, rendered.engine, progress)
        peak = 1.0
        if self.highlights:
            with timed(seconds, "highlights"):
                peak = _restored(rendered, noise, is_recolored=matrix is not None)
        window = None
        if part is not None:
            rows, cols = part.inner
            frame, window = cut(frame, rows, cols), part.window
            picture = picture[:, rows, cols].copy()
        return Computed(
            picture,
            frame,
            rendered.choice,
            ran,
            rendered.white_balance,
            self.quality,
            seconds,
            strength=self.strength,
            gains=rendered.gains if takes_balance else None,
            highlights=self.highlights,
            peak=peak,
            window=window,
            metadata=rendered.metadata,
        )

    def finishing_bytes(self, prepared: Prepared) -> int:
        """Return the most memory that `finish` takes of a photo beside its picture.

        Parameters
        ----------
        prepared : Prepared
        """
        grain = self.strength.grain is not None
        if not (grain or self.highlights):
            return prepared.finishing_bytes
        # Both take fusion's bands, whatever the weights.
        frame = prepared.frame
        bands = fusion_bytes(frame.kind, frame.mosaic.size, with_grain=grain)
        return max(prepared.finishing_bytes, bands)

    def _infer(
        self, running: Running, prepared: Prepared, options: InferOptions, progress: Progress
    ) -> NDArray[np.float32]:
        options = self._with_memory(running.engine, prepared, options)
        is_whole = prepared.part is None or prepared.part.is_whole
        terms = None if is_whole else partial(_terms, prepared, options)
        if self.quality == "normal":
            of_photo = None if terms is None else terms(Turn())
            return infer(running, prepared.mosaic, options, progress, of_photo)
        height, width = prepared.frame.mosaic.shape
        return infer_turned(running, prepared.packed, (height, width), options, progress, terms)

    def _with_memory(
        self, engine: Engine, prepared: Prepared, options: InferOptions
    ) -> InferOptions:
        """Say what there is beside the network: the same for a photo, whatever came before it."""
        afterwards = max(self.finishing_bytes(prepared), options.afterwards)
        options = replace(options, afterwards=afterwards)
        if options.max_memory is None or not engine.is_in_main_memory:
            return options
        self._measure_base(engine, prepared)
        assert self._base is not None
        held = self._base + _LEFTOVERS + prepared.held_bytes
        if not (options.reserved or options.is_beside):  # somebody else's memory counts, too
            held = max(held, resident_bytes() - engine.held_bytes)
        if self.quality == "best":  # the sum, and the turned photo
            held += prepared.picture_bytes + prepared.held_bytes
        return replace(options, held=held)

    def _measure_base(self, engine: Engine, prepared: Prepared) -> None:
        """Find out, once, what is held under a limit beside photos and what the engine takes."""
        if self.options.max_memory is None:
            return
        return_large_blocks()
        return_freed_memory()
        if self._base is None:
            self._base = resident_bytes() - engine.held_bytes - prepared.held_bytes

    @property
    def has_left_device(self) -> bool:
        """Whether the device that was asked for has failed, and the CPU does its work."""
        return self._engines.has_left_device

    def weights_for(self, kind: CfaKind) -> WeightsInfo:
        """Say which weights enhance the photos of a kind, without opening them.

        Parameters
        ----------
        kind : "bayer" or "xtrans"

        Returns
        -------
        WeightsInfo
            int8 ones where those are preferred. Should they fail once opened, `enhance` notes it
            and continues with those that they were made from.

        Raises
        ------
        WeightsError, UsageError
        """
        one_of(kind, get_args(CfaKind), "kind")
        return self._engines.weights_for(kind)


def _file_of(photo: object) -> Path | None:
    """Find the file that a photo is, which sidecars may lie beside; None for bytes and arrays."""
    if isinstance(photo, RawFrame):
        return photo.path if is_file(photo.path) else None
    return Path(photo) if isinstance(photo, str | Path) else None


def _camera_gains(
    frame: RawFrame, weights: WeightsInfo, balance: WhiteBalance, progress: Progress
) -> NDArray[np.float32] | None:
    """Balance a photo, or bring another camera to the training camera's neutral, and say so."""
    gains = camera_gains(frame, weights, balance)
    if gains is None:
        return None
    red, green, blue = gains
    if weights.config.white_balance == "as-shot":
        progress.detail(
            f"{frame.path.name}: white balance {balance.describe(frame)}: "
            f"red x{red / green:.2f}, blue x{blue / green:.2f}"
        )
    else:
        basis = "as-shot" if frame.daylight_wb is None else "daylight"
        progress.note(
            f"{frame.path.name}: the weights were trained for the {weights.camera}; "
            f"{frame.shot.camera} is matched to its neutral by the {basis} white balance (red "
            f"x{red:.2f}, blue x{blue:.2f})."
        )
    return gains


def _tell_of_colors(frame: RawFrame, weights: WeightsInfo, progress: Progress) -> None:
    if camera_colors(frame, weights) is not None:
        progress.note(
            f"{frame.path.name}: the colours come from the {frame.shot.camera}'s own matrix, not "
            f"the {weights.camera}'s."
        )


def _restored(
    rendered: Rendered, noise: tuple[float, float] | None, *, is_recolored: bool
) -> float:
    """Let a picture go on above white; returns the brightest place. See `restore_highlights`."""
    picture, frame, part = rendered.picture, rendered.frame, rendered.part
    ratio, gains = rendered.choice.ratio, rendered.gains
    if rendered.weights.config.white_balance != "as-shot" or gains is None:
        gains = usable_gains(frame.as_shot_wb)  # the nearest to what the network finds
    matrix: NDArray[np.floating] = training_matrix(rendered.weights)
    if is_recolored and frame.xyz_to_camera is not None:
        matrix = frame.xyz_to_camera
    saturation = ratio * float(gains.min())
    peak = restore_highlights(picture, measure(frame, ratio, gains, matrix, noise), saturation)
    if part is not None:  # the curve is that of the whole picture
        whole = measure(part.thinned, ratio, gains, matrix, noise)
        peak = max(peak, brightest_light(whole, saturation))
    return peak


def _terms(
    prepared: Prepared, options: InferOptions, turn: Turn
) -> Callable[[Engine], Sequence[Term]]:
    """Return what works out the global terms of the photo that a part belongs to, turned."""
    assert prepared.part is not None
    mosaic = prepared.packed(turn, prepared.part.thinned)
    return lambda engine: photo_terms(engine, mosaic, options)


def _black_error(
    running: Running, prepared: Prepared, options: InferOptions, progress: Progress
) -> NDArray[np.float32] | None:
    """Find the black level's error of the photo that a part belongs to; None to estimate it."""
    part, gains, weights = prepared.part, prepared.gains, prepared.weights
    if part is None or part.is_whole or gains is None or not is_fused(gains, weights):
        return None
    few = prepared.packed(Turn(), part.thinned)
    picture = infer(running, few, options, NotesOnly(progress))
    ratio, matrix = prepared.choice.ratio, training_matrix(weights)
    return Residual(picture, measure(part.thinned, ratio, gains, matrix, part.noise)).offset
