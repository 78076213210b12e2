"""What a photo is on its way: prepared for the network, computed by it, developed to levels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gia_cli._version import __version__
from gia_cli.arguments import instance_of, path_of, unit_number
from gia_cli.enhance.crop import Part, Window
from gia_cli.enhance.exposure import RatioChoice
from gia_cli.enhance.measured import is_fused
from gia_cli.enhance.sidecar import NO_METADATA, PhotoMetadata
from gia_cli.errors import UsageError
from gia_cli.files import OutputFormat
from gia_cli.imaging.color import levels8
from gia_cli.imaging.color_space import SPACES
from gia_cli.imaging.dng import write_linear_dng
from gia_cli.imaging.fusion import (
    Grain,
    fusion_bytes,
)
from gia_cli.imaging.highlights import Highlights, Shoulder
from gia_cli.imaging.preview import PilImage, encoded, pil_image, shrunk
from gia_cli.imaging.save import save_pixels, saving_bytes
from gia_cli.imaging.save_options import DEFAULT_SAVE, SaveOptions
from gia_cli.imaging.writer import Pixels, develop, develop_linear, output_format
from gia_cli.raw.packing import PackedMosaic, prepare
from gia_cli.raw.reader import RawFrame
from gia_cli.raw.turns import Turn, turn_frame
from gia_cli.runtime import Quality as Quality
from gia_cli.runtime import (
    memory_errors,
)
from gia_cli.weights.storage import WeightsInfo

# Reading a photo holds its mosaic, and LibRaw's copy of it or planes of twice its size.
_READING_MOSAICS = 4
_SHOWN_SIDE = 1024  # pixels, in a notebook
# Of a picture, for each photosite: float32 of three channels, and the levels that come of them.
_PICTURE_BYTES, _LEVEL_BYTES = 12, 6
# Stretching pixels that are not square holds this many pictures more, of the wider size.
_STRETCHED_PICTURES = 3


@dataclass(frozen=True, slots=True)
class Strength:
    """How much of the fine noise goes, of brightness and of colour: 0 none, 1 all of it.

    Raises
    ------
    UsageError
        Not from 0 to 1.
    """

    luminance: float = 1.0
    chroma: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("--strength", self.luminance), ("--strength-chroma", self.chroma)):
            unit_number(value, name, hint="1 takes all noise away, 0 none.")

    @property
    def grain(self) -> Grain | None:
        """What stays of the noise; None for nothing."""
        if self.luminance == self.chroma == 1:
            return None
        return Grain(1 - self.luminance, 1 - self.chroma)

    @property
    def comment(self) -> str:
        """What a picture's metadata say of it."""
        if self.luminance == self.chroma:
            return "" if self.luminance == 1 else f"; strength {self.luminance:g}"
        return f"; strength {self.luminance:g}, of colour {self.chroma:g}"


ALL_THE_NOISE = Strength()
AS_THE_NETWORK_HAS_THEM = Highlights()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A photo read and packed, ready for the network at one ratio."""

    frame: RawFrame
    mosaic: PackedMosaic
    choice: RatioChoice
    weights: WeightsInfo
    gains: NDArray[np.float32] | None
    """(3,) float32; factors for R, G and B that `mosaic` has, as `camera_gains` found them."""
    white_balance: str
    """The balance in words that follow "white balance", such as "3200 K, tint +5"."""
    seconds: dict[str, float]
    """Wall-clock time of each stage; what a photo takes once is its first picture's."""
    part: Part | None = None
    """Where only a part is made: `frame` is that part with a margin."""
    metadata: PhotoMetadata = NO_METADATA
    """What sidecars and the photo's own XMP say."""

    def packed(self, turn: Turn, frame: RawFrame | None = None) -> PackedMosaic:
        """Pack the photo or, as it would be, another frame of it, turned."""
        if turn == Turn() and frame is None:
            return self.mosaic
        turned = turn_frame(frame or self.frame, turn)
        return prepare(turned, self.choice.ratio, self.gains, self.weights.config.input_floor)

    def with_black(self, correction: float) -> Prepared:
        """Correct the black level by some DN; the planes are packed anew, in their place."""
        if correction == 0:
            return self
        part = None if self.part is None else self.part.with_black(correction)
        frame = part.frame if part else replace(self.frame, black_correction=correction)
        floor = self.weights.config.input_floor
        self.mosaic.planes[:] = prepare(frame, self.choice.ratio, self.gains, floor).planes
        return replace(self, frame=frame, part=part)

    @property
    def reading_bytes(self) -> int:
        """Most memory that reading and packing another photo of this size takes."""
        whole = self.frame.mosaic.nbytes if self.part is None else self.part.whole_bytes
        return _READING_MOSAICS * whole

    @property
    def held_bytes(self) -> int:
        """Memory that this photo takes until it is computed."""
        return self.frame.mosaic.nbytes + self.mosaic.planes.nbytes

    @property
    def picture_bytes(self) -> int:
        """Memory that the network's picture takes."""
        return _PICTURE_BYTES * self.frame.mosaic.size

    @property
    def developing_bytes(self) -> int:
        """Memory that the levels of another picture of this size take."""
        levels = _LEVEL_BYTES * self.frame.mosaic.size
        aspect = self.frame.pixel_aspect
        if aspect == 1:
            return levels
        wider = max(aspect, 1 / aspect)
        return round(wider * (levels + _STRETCHED_PICTURES * self.picture_bytes))

    def saving_bytes(self, kind: OutputFormat, options: SaveOptions) -> int:
        """Most memory that saving a picture of this size takes beside its levels and itself."""
        if kind == "dng":  # its pixels
            return self.developing_bytes
        aspect = self.frame.pixel_aspect
        pixels = round(self.frame.mosaic.size * max(aspect, 1 / aspect))
        needed = saving_bytes(kind, options, pixels)
        if aspect != 1 and options.needs_picture(kind):
            needed += _STRETCHED_PICTURES * _PICTURE_BYTES * pixels
        return needed

    @property
    def finishing_bytes(self) -> int:
        """Most memory that this photo takes beside its picture once the network is done."""
        sites = self.frame.mosaic.size
        fusing = fusion_bytes(self.frame.kind, sites) if is_fused(self.gains, self.weights) else 0
        return max(fusing, self.developing_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What the network made of a photo, as the sensor lay."""

    picture: NDArray[np.float32] = field(repr=False)
    """(3, H, W) float32, BT.709-encoded, not clipped."""
    frame: RawFrame
    choice: RatioChoice
    weights: WeightsInfo
    white_balance: str
    """As in `Prepared`."""
    quality: Quality
    seconds: dict[str, float]
    strength: Strength = ALL_THE_NOISE
    gains: NDArray[np.float32] | None = None
    """(3,) float32; the gains that it was balanced with; None where the network found its own."""
    highlights: Highlights = AS_THE_NETWORK_HAS_THEM
    peak: float = 1.0
    """Linear light of the brightest place, white or above."""
    window: Window | None = None
    """Where only a part is made: its place in the whole, upright picture."""
    metadata: PhotoMetadata = NO_METADATA

    def develop(self, *, keep_picture: bool = True) -> Enhanced:
        """Bring the picture to sRGB levels, upright.

        Parameters
        ----------
        keep_picture : bool
            Whether the network's own picture is kept too, for a DNG, for linear light and for
            colour spaces other than sRGB.
        """
        seconds = dict(self.seconds)
        with memory_errors(), timed(seconds, "colour"):
            tone = _tone(self.highlights, self.peak)
            image = develop(self.picture, self.frame.flip, self.frame.pixel_aspect, tone=tone)
        return Enhanced(
            image,
            self.frame,
            self.choice,
            self.weights,
            self.white_balance,
            self.quality,
            seconds,
            strength=self.strength,
            picture=self.picture if keep_picture else None,
            gains=self.gains,
            highlights=self.highlights,
            peak=self.peak,
            window=self.window,
            metadata=self.metadata,
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Enhanced:
    """One enhanced picture and how it came about.

    In a notebook it shows itself, shrunk.
    """

    image: NDArray[np.uint16] = field(repr=False)
    """(H, W, 3) uint16, sRGB, upright."""
    frame: RawFrame
    choice: RatioChoice
    """The amplification ratio and the rule that chose it."""
    weights: WeightsInfo
    white_balance: str
    """The balance in words that follow "white balance", such as "3200 K, tint +5"."""
    quality: Quality
    seconds: dict[str, float]
    """Wall-clock time of each stage."""
    strength: Strength = ALL_THE_NOISE
    picture: NDArray[np.float32] | None = None
    """(3, H, W) float32, BT.709-encoded, not clipped, as the sensor lay: what a DNG is made of,
    and what is linear or of another colour space than sRGB."""
    gains: NDArray[np.float32] | None = None
    """(3,) float32; as in `Computed`."""
    highlights: Highlights = AS_THE_NETWORK_HAS_THEM
    peak: float = 1.0
    """As in `Computed`."""
    window: Window | None = None
    """As in `Computed`."""
    metadata: PhotoMetadata = NO_METADATA
    """What sidecars and the photo's own XMP say, and what of it was used."""

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        return (
            f"<Enhanced {self.frame.path.name}: {width} x {height}, "
            f"ratio {self.choice.ratio:.4g}, {self.weights.name}>"
        )

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows: a PNG of at most 1024 pixels a side."""
        return encoded(shrunk(self.to_pil(), _SHOWN_SIDE), "PNG")

    def to_srgb8(self) -> NDArray[np.uint8]:
        """Round the picture to 8 bits: (H, W, 3) uint8, sRGB, upright."""
        return levels8(self.image)

    def to_pil(self) -> PilImage:
        """Make an 8-bit Pillow image, with the sRGB profile in its info.

        Pillow has no RGB of 16 bits; `image` has them.
        """
        return pil_image(self.to_srgb8())

    @property
    def comment(self) -> str:
        """What goes into the output's metadata."""
        digest = (self.weights.sha256 or "unverified")[:12]
        return (
            f"gia {__version__}; weights {self.weights.name} ({digest}); "
            f"ratio {self.choice.ratio:.4g} ({self.choice.rule}); "
            f"white balance {self.white_balance}"
            + ("; quality best" if self.quality == "best" else "")
            + self.strength.comment
            + self.highlights.comment
            + ("" if self.window is None else f"; crop {self.window}")
        )

    @property
    def xmp(self) -> bytes:
        """The XMP packet that goes into the output; empty where there is nothing to carry over."""
        return self.metadata.packet(f"gia {__version__}")

    def save(self, path: str | Path, options: SaveOptions = DEFAULT_SAVE) -> None:
        """Write the picture with colour profile, EXIF and XMP.

        Parameters
        ----------
        path : str or Path
            The ending decides: .tif, .png, .dng (linear camera RGB), .jpg, .jxl or .exr (linear).
        options : SaveOptions
            Colour space, bits for each channel, compression. What is made in sRGB has the very
            levels of `image`; all else is made of `picture`.

        Raises
        ------
        UsageError
            Another ending, an option that is another format's, a package that is missing, an
            `image` that is not as described, or no `picture` where it is needed.
        OutputError
            The file cannot be written.
        """
        image = self.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint16:
            raise UsageError("What is saved is an array of uint16.")
        if image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UsageError("What is saved is an array of shape (H, W, 3).")
        instance_of(options, SaveOptions, "options")
        path, software = path_of(path, "path"), f"gia {__version__}"
        kind = output_format(path)
        options.check(kind)
        with memory_errors():
            if kind == "dng":
                self._save_dng(path, software)
            else:
                save_pixels(
                    path,
                    self._pixels(kind, options),
                    options,
                    shot=self.frame.shot,
                    software=software,
                    comment=self.comment,
                    xmp=self.xmp,
                )

    def _pixels(self, kind: OutputFormat, options: SaveOptions) -> Pixels:
        """Bring the picture to what a format's writer takes."""
        levels, space, frame = self.image, SPACES[options.color_space], self.frame
        if options.is_linear(kind):
            picture = self._kept_picture("Linear light")
            return develop_linear(picture, frame.flip, frame.pixel_aspect, space)
        if options.needs_picture(kind):
            picture = self._kept_picture(space.title)
            tone = _tone(self.highlights, self.peak)
            levels = develop(picture, frame.flip, frame.pixel_aspect, space, tone)
        return levels8(levels) if options.depth(kind) == 8 else levels

    def _kept_picture(self, what: str) -> NDArray[np.float32]:
        if self.picture is None:
            raise UsageError(f"{what} is made of the network's own picture, which was not kept.")
        return self.picture

    def _save_dng(self, path: Path, software: str) -> None:
        frame = self.frame
        write_linear_dng(
            path,
            self._kept_picture("A DNG"),
            gains=frame.as_shot_wb if self.gains is None else self.gains,
            xyz_to_camera=frame.xyz_to_camera,
            shot=frame.shot,
            flip=frame.flip,
            pixel_aspect=frame.pixel_aspect,
            software=software,
            comment=self.comment,
            original=frame.path.name,
            noise_reduction=self.strength.luminance,
            xmp=self.metadata.packet(software, for_raw=True),
            lens_corrections=frame.lens_corrections,
        )


def _tone(highlights: Highlights, peak: float) -> Shoulder | None:
    """Return the curve that makes room below white, for files that end there."""
    return Shoulder.of(highlights, peak) if highlights else None


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall-clock time of a block to what a stage has taken, in seconds."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0) + time.perf_counter() - start
