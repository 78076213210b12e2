"""How pictures are saved: colour space, bits, and what each format's own tools let you choose."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from gia_cli.arguments import number, one_of, whole_number
from gia_cli.errors import UsageError
from gia_cli.files import OutputFormat

#: Spaces that pictures may be saved in.
ColorSpaceName = Literal["srgb", "display-p3", "rec2020", "prophoto"]
#: Shares of the colour samples that a JPEG keeps, as photographers write them.
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
#: Compressions of OpenEXR, as its own tools name them.
ExrCompression = Literal[
    "none", "rle", "zips", "zip", "piz", "pxr24", "b44", "b44a", "dwaa", "dwab"
]

#: Bits for each channel: those that a format can have, its default first.
BIT_DEPTHS: dict[OutputFormat, tuple[int, ...]] = {
    "tif": (16, 8, 32),
    "png": (16, 8),
    "dng": (16,),
    "jpg": (8,),
    "jxl": (16, 8),
    "exr": (16, 32),
}
_FORMAT_NAMES: dict[OutputFormat, str] = {
    "tif": "TIFF",
    "png": "PNG",
    "dng": "DNG",
    "jpg": "JPEG",
    "jxl": "JPEG XL",
    "exr": "EXR",
}
# How the names of a format's own options begin.
_PREFIXES: dict[OutputFormat, str] = {"jpg": "jpeg_", "jxl": "jxl_", "exr": "exr_"}
_MAX_DISTANCE = 25.0  # cjxl's
_EFFORTS = (1, 9)


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How a picture is saved. None is the format's own default.

    Raises
    ------
    UsageError
        A value that no format has.
    """

    color_space: ColorSpaceName = "srgb"
    bit_depth: int | None = None
    """For each channel: 8, 16 or 32. In a TIFF and an EXR 32 are floats; so are an EXR's 16."""
    jpeg_quality: int | None = None
    """1 to 100."""
    jpeg_subsampling: Subsampling | None = None
    jxl_distance: float | None = None
    """0 (lossless) to 25; 1 cannot be told from the original by eye."""
    jxl_effort: int | None = None
    """1 (quick) to 9 (small)."""
    exr_compression: ExrCompression | None = None

    def __post_init__(self) -> None:
        one_of(self.color_space, get_args(ColorSpaceName), "--color-space")
        if self.bit_depth is not None:
            bits = whole_number(self.bit_depth, "--bit-depth")
            if bits not in _BIT_DEPTH_HINTS:
                raise UsageError(f"--bit-depth is 8, 16 or 32, not {bits}.", hint="")
        if self.jpeg_quality is not None:
            _in_range(whole_number(self.jpeg_quality, "--jpeg-quality"), 1, 100, "--jpeg-quality")
        if self.jpeg_subsampling is not None:
            one_of(self.jpeg_subsampling, get_args(Subsampling), "--jpeg-subsampling")
        if self.jxl_distance is not None:
            distance = number(self.jxl_distance, "--jxl-distance")
            _in_range(distance, 0, _MAX_DISTANCE, "--jxl-distance")
        if self.jxl_effort is not None:
            _in_range(whole_number(self.jxl_effort, "--jxl-effort"), *_EFFORTS, "--jxl-effort")
        if self.exr_compression is not None:
            one_of(self.exr_compression, get_args(ExrCompression), "--exr-compression")

    def chosen_for(self, kind: OutputFormat) -> dict[str, Any]:
        """List what was chosen of a format's own options, by the names that its writer has."""
        prefix = _PREFIXES.get(kind)
        return {
            field.name.removeprefix(prefix): getattr(self, field.name)
            for field in fields(self)
            if prefix and field.name.startswith(prefix) and getattr(self, field.name) is not None
        }

    def check(self, kind: OutputFormat) -> None:
        """Refuse what a format cannot have.

        Raises
        ------
        UsageError
        """
        for owner, prefix in _PREFIXES.items():
            chosen = self.chosen_for(owner)
            if owner != kind and chosen:
                option = f"--{prefix}{next(iter(chosen))}".replace("_", "-")
                raise UsageError(
                    f"{option} is not for {_FORMAT_NAMES[kind]} files.",
                    hint=f"Leave it out, or write a .{owner} file (--format {owner}).",
                )
        depths = BIT_DEPTHS[kind]
        if self.bit_depth not in (None, *depths):
            choice = " or ".join(map(str, sorted(depths)))
            raise UsageError(
                f"--bit-depth {self.bit_depth}: gia writes {_FORMAT_NAMES[kind]} files with "
                f"{choice} bits for each channel.",
                hint=_BIT_DEPTH_HINTS[self.bit_depth or 16],
            )
        if kind == "dng" and self.color_space != "srgb":
            raise UsageError(
                f"--color-space {self.color_space}: a DNG holds the camera's own colours.",
                hint="Leave it out: the converter that opens the DNG chooses.",
            )

    def depth(self, kind: OutputFormat) -> int:
        """Bits for each channel in a format."""
        return self.bit_depth or BIT_DEPTHS[kind][0]

    def is_linear(self, kind: OutputFormat) -> bool:
        """Whether a file of a format holds linear light, not clipped above white."""
        return kind == "exr" or (kind == "tif" and self.depth(kind) == 32)

    def needs_picture(self, kind: OutputFormat) -> bool:
        """Whether a file of a format is made of the network's own picture, not of sRGB levels."""
        return kind == "dng" or self.is_linear(kind) or self.color_space != "srgb"


#: What a format's options are where they are None.
JPEG_QUALITY = 92
JPEG_SUBSAMPLING: Subsampling = "4:4:4"
JXL_DISTANCE, JXL_EFFORT = 1.0, 5
EXR_COMPRESSION: ExrCompression = "zip"

DEFAULT_SAVE = SaveOptions()

_BIT_DEPTH_HINTS = {
    8: "8 bits: .tif, .png, .jpg or .jxl.",
    16: "16 bits: .tif, .png, .dng, .jxl or .exr.",
    32: "32 bits: .tif or .exr.",
}


def _in_range(value: float, least: float, most: float, option: str) -> None:
    if not least <= value <= most:
        raise UsageError(f"{option} is from {least:g} to {most:g}, not {value:g}.", hint="")
