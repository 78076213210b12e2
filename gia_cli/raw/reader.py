"""From a RAW file to a `RawFrame`: mosaic, levels, colour, orientation and shot, all from the file.

LibRaw (through rawpy) decodes; this module asks it the right questions and gives every refusal a
sentence and an exit code of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gia_cli.arguments import instance_of, number, path_of, whole_number
from gia_cli.errors import (
    DamagedFileError,
    GiaError,
    LinearRawError,
    MonochromeError,
    NotRawError,
    OutputError,
    RawError,
    UnsupportedCfaError,
    UsageError,
)
from gia_cli.raw.black_body import D65
from gia_cli.raw.cfa import CANONICAL, CfaKind, classify, find_phase
from gia_cli.raw.damage import is_damaged
from gia_cli.raw.dng_color import CameraColors, as_shot_light, as_shot_neutral, color_directory
from gia_cli.raw.exif import ShotInfo, clean_text, read_embedded_xmp, read_exif, read_shot
from gia_cli.raw.lens_corrections import lens_corrections
from gia_cli.raw.levels import (
    AS_THE_FILE_SAYS,
    LevelMap,
    Levels,
    black_of_tags,
    border_black,
    contradicts,
    flatten_black,
    stated_black,
)
from gia_cli.raw.libraw import (
    PHOTOMETRICS_RAW,
    directories_of,
    is_known_by_size_only,
    open_raw,
    refuse_hopeless,
)
from gia_cli.raw.tiff import Directory

if TYPE_CHECKING:
    import rawpy

#: File name endings that `gia enhance FOLDER` looks for, in lower case.
# fmt: off
RAW_SUFFIXES = frozenset({
    ".3fr", ".ari", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr",
    ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".ori", ".pef", ".raf", ".raw", ".rw2",
    ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})
# fmt: on

#: LibRaw's number for each of EXIF's orientations; 0 is none.
FLIP_OF_ORIENTATION = (0, 0, 1, 3, 2, 4, 6, 7, 5)

_ORIENTATION, _CFA_REPEAT, _CFA_PATTERN = 0x0112, 0x828D, 0x828E
_ACTIVE_AREA, _MASKED_AREAS = 0xC68D, 0xC68E
_COLOR_IDS = {"R": 0, "G": 1, "B": 2}
_PATTERN_PROBE = 12  # photosites a side: two X-Trans periods, six Bayer ones


@dataclass(frozen=True, slots=True, eq=False)
class RawFrame:
    """One RAW photo as the sensor saw it, with what the file says about it."""

    path: Path
    mosaic: NDArray[np.uint16] = field(repr=False)
    """(H, W) uint16, DN; the visible area only, never rotated."""
    kind: CfaKind
    """Colour filter array."""
    phase: tuple[int, int]
    """Where in the canonical pattern the mosaic starts, (dy, dx) photosites."""
    black: NDArray[np.float32]
    """(p, p) float32, DN; black level of each place of the cell, from the mosaic's first on."""
    white: NDArray[np.float32]
    """(p, p) float32, DN; saturation level, likewise."""
    as_shot_wb: NDArray[np.float32]
    """(3,) float32; the camera's gains for R, G, B, green 1."""
    daylight_wb: NDArray[np.float32] | None
    """(3,) float32; gains that make daylight neutral, green 1; None for an unknown camera."""
    xyz_to_camera: NDArray[np.float32] | None
    """(3, 3) float32; LibRaw's colour matrix, or for a camera that it does not know what the tags
    of its DNG make of one for the light of the photo; None where it is not known."""
    flip: int
    """LibRaw's orientation: 0 none, 3 half turn, 5 a quarter left, 6 a quarter right; 1, 2, 4 and 7
    are mirrored."""
    shot: ShotInfo
    colors: CameraColors | None = None
    """What the camera sees of other lights, by the tags of a DNG; None for other files."""
    pixel_aspect: float = 1.0
    """Width of a photosite over its height."""
    dn_scale: int = 1
    """What the file's DN were multiplied by, to keep fractions of its black levels; `mosaic`,
    `black`, `white` and `black_correction` have it."""
    notes: tuple[str, ...] = ()
    """What a user should know of the file, one sentence each."""
    xmp: bytes = field(default=b"", repr=False)
    """The XMP packet in the file, as it stands; empty for none."""
    lens_corrections: bytes = field(default=b"", repr=False)
    """Those that a DNG states for its visible area, as an OpcodeList3; empty for none."""
    black_correction: float = 0.0
    """DN by which the photo itself shows its black level to lie above the likely one; see
    `calibrated_black.likely_black`."""

    @classmethod
    def from_mosaic(
        cls,
        mosaic: NDArray[np.uint16],
        *,
        white: float,
        black: float | Sequence[float] = 0,
        pattern: str | NDArray[np.integer] = "RGGB",
        wb: Sequence[float] = (1.0, 1.0, 1.0),
        xyz_to_camera: NDArray[np.floating] | None = None,
        shot: ShotInfo | None = None,
        name: str = "mosaic",
    ) -> RawFrame:
        """Make a frame of a sensor's values that are already in memory.

        Parameters
        ----------
        mosaic : (H, W) uint16
            DN of every photosite, as the sensor lay.
        white : float
            Saturation level in DN.
        black : float or three floats
            Black level in DN, or those of red, green and blue.
        pattern : str or (p, p) int
            Colours from the mosaic's first photosite on: "RGGB", "BGGR", "GRBG", "GBRG", "X-Trans"
            (in the phase of Fujifilm's X-T2), or the numbers of 0 red, 1 green and 2 blue of a cell
            of 2 x 2 or 6 x 6.
        wb : three floats
            Gains that make the light of the photo neutral, green 1.
        xyz_to_camera : (3, 3), optional
            The camera's colour matrix, for XYZ of D65.
        shot : ShotInfo, optional
            Its exposure time and ISO choose the ratio when none is given.
        name : str
            Stands for the file's name in messages.

        Raises
        ------
        UsageError
            Something is not as stated above.

        Examples
        --------
        >>> frame = RawFrame.from_mosaic(np.full((8, 8), 600, np.uint16), white=16383, black=512)
        >>> frame.kind, frame.phase, frame.black.tolist()
        ('bayer', (0, 0), [[512.0, 512.0], [512.0, 512.0]])
        """
        kind, phase = _kind_and_phase(pattern)
        levels = Levels.parse(black, white)
        stated = stated_black(levels, kind, phase)
        assert stated is not None  # it is given
        matrix = None if xyz_to_camera is None else np.asarray(xyz_to_camera, np.float32)
        try:
            gains = np.asarray(wb, np.float32)
        except (TypeError, ValueError):
            raise UsageError("The white balance is three gains.") from None
        frame = cls(
            path=Path(name),
            mosaic=mosaic,
            kind=kind,
            phase=phase,
            black=stated,
            white=np.full_like(stated, levels.white),
            as_shot_wb=gains,
            daylight_wb=None,
            xyz_to_camera=matrix,
            flip=0,
            shot=shot or ShotInfo(),
        )
        frame.check()
        return frame

    def check(self) -> None:
        """Check a frame that somebody else may have made.

        Raises
        ------
        UsageError
            Something is not as stated above.
        """
        instance_of(self.path, Path, "frame's path")
        instance_of(self.shot, ShotInfo, "frame's shot")
        if self.kind not in tuple(CANONICAL):
            raise UsageError(f"A frame's kind is one of {', '.join(CANONICAL)}.")
        period = len(CANONICAL[self.kind])
        wanted: dict[str, tuple[Any, tuple[int, ...] | None]] = {
            "mosaic": (self.mosaic, None),
            "black": (self.black, (period, period)),
            "white": (self.white, (period, period)),
            "as_shot_wb": (self.as_shot_wb, (3,)),
            "daylight_wb": (self.daylight_wb, (3,)),
            "xyz_to_camera": (self.xyz_to_camera, (3, 3)),
        }
        for name, (array, shape) in wanted.items():
            if array is None and name in ("daylight_wb", "xyz_to_camera"):
                continue
            dtype = np.uint16 if name == "mosaic" else np.floating
            is_one = isinstance(array, np.ndarray) and np.issubdtype(array.dtype, dtype)
            if not is_one or (shape is not None and array.shape != shape):
                of = "uint16 of two dimensions" if shape is None else f"float32 of shape {shape}"
                raise UsageError(f"A frame's {name} is an array, {of}.")
            if name != "mosaic" and not np.isfinite(array).all():
                raise UsageError(f"A frame's {name} holds a number that is not finite.")
        if self.mosaic.ndim != 2 or min(self.mosaic.shape) < 2 * period:
            raise UsageError(
                f"A frame's mosaic has two dimensions, of at least {2 * period} photosites."
            )
        if not isinstance(self.phase, tuple | list) or len(self.phase) != 2:
            raise UsageError("A frame's phase is two numbers of photosites.")
        if not all(0 <= whole_number(shift, "frame's phase") < period for shift in self.phase):
            raise UsageError(f"A frame's phase is two numbers of photosites below {period}.")
        if not (self.white > self.black).all():
            raise UsageError("A frame's white levels lie above its black levels.")
        if not (self.as_shot_wb > 0).all():
            raise UsageError("A frame's as_shot_wb holds a gain that is not positive.")
        if self.flip not in range(8) or not 0 < number(self.pixel_aspect, "pixel_aspect") < 100:
            raise UsageError("A frame's flip is 0 to 7, and its pixel_aspect positive.")
        if not math.isfinite(number(self.black_correction, "frame's black_correction")):
            raise UsageError("A frame's black_correction is a finite number.")

    def matrix_for(self, xyz: NDArray[np.floating]) -> NDArray[np.floating] | None:
        """Return the matrix from XYZ to camera RGB for a light; None for an unknown camera."""
        return self.xyz_to_camera if self.colors is None else self.colors.matrix_for(xyz)


def _kind_and_phase(pattern: Any) -> tuple[CfaKind, tuple[int, int]]:
    """Find what filters a pattern describes, in words or in numbers."""
    cell: NDArray[np.uint8] | None = None
    if isinstance(pattern, str):
        letters = [_COLOR_IDS.get(letter) for letter in pattern.upper()]
        if pattern.upper() in ("X-TRANS", "XTRANS"):
            cell = CANONICAL["xtrans"]
        elif len(letters) == 4 and None not in letters:
            cell = np.array(letters, np.uint8).reshape(2, 2)
    elif _are_color_ids(pattern):
        cell = pattern.astype(np.uint8)
    probe = None
    if cell is not None and not any(_PATTERN_PROBE % length for length in cell.shape):
        probe = np.tile(cell, [_PATTERN_PROBE // length for length in cell.shape])
    kind = None if probe is None else classify(probe)
    if probe is None or kind is None:
        raise UsageError(
            "The pattern is that of no Bayer or X-Trans filter array.",
            hint='Give "RGGB", "BGGR", "GRBG", "GBRG", "X-Trans" or the numbers of a cell.',
        )
    phase = find_phase(probe, kind)
    assert phase is not None  # classify found one
    return kind, phase


def _are_color_ids(pattern: Any) -> bool:
    if not isinstance(pattern, np.ndarray) or not np.issubdtype(pattern.dtype, np.integer):
        return False
    return pattern.ndim == 2 and pattern.size > 0 and bool(np.isin(pattern, (0, 1, 2)).all())


def read_raw(
    photo: str | Path | bytes | BinaryIO,
    *,
    levels: Levels = AS_THE_FILE_SAYS,
    max_memory: int | None = None,
) -> RawFrame:
    """Read one RAW photo.

    Parameters
    ----------
    photo : str, Path, bytes or binary file
        A path, or the contents of a RAW file, which are put into a temporary one: the libraries
        that read it want a path.
    levels : Levels
        Black and white levels to use instead of the file's.
    max_memory : int, optional
        Bytes that this process may hold; by default what is free.

    Returns
    -------
    RawFrame

    Raises
    ------
    RawError
        One of its subclasses: missing, a folder, empty, unreadable, not a RAW, damaged,
        monochrome, Foveon, linear, unsupported colour filter array or compression.
    OutOfMemoryError
        The photo is too large to be decoded.
    UsageError
        The path, the levels or the memory are none.
    OutputError
        There is no room for the temporary file.
    """
    instance_of(levels, Levels, "levels")
    if max_memory is not None:
        max_memory = whole_number(max_memory, "most memory")
    if isinstance(photo, bytes | bytearray | memoryview) or hasattr(photo, "read"):
        return _read_contents(photo, levels, max_memory)
    path = path_of(photo, "photo")
    refuse_hopeless(path)
    with open_raw(path, max_memory) as raw:
        return _frame(path, raw, levels)


def _read_contents(photo: Any, levels: Levels, max_memory: int | None) -> RawFrame:
    """Read a photo from its bytes; messages name the file that they came from."""
    name = Path(str(getattr(photo, "name", "photo"))).name
    data = photo.read() if hasattr(photo, "read") else photo
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError("The photo's file is not open for bytes.", hint='Open it with mode "rb".')
    try:
        with TemporaryDirectory(prefix="gia-") as folder:
            path = Path(folder) / "photo"
            path.write_bytes(data)
            try:
                frame = read_raw(path, levels=levels, max_memory=max_memory)
            except GiaError as error:
                words = error.message.replace(str(path), name)
                raise type(error)(words, hint=error.hint) from error
    except OSError as error:
        raise OutputError(
            f"{name} does not fit into a temporary file: {error.strerror}.",
            hint="Make room in the folder for temporary files, or name another in TMPDIR.",
        ) from error
    return replace(frame, path=Path(name))


def read_exposure(path: Path) -> ShotInfo:
    """Read how a photo was taken, without decoding it where its EXIF says enough.

    Raises
    ------
    RawError
        As for `read_raw`.
    """
    path = Path(path)
    refuse_hopeless(path)
    shot = read_shot(path)
    return shot if shot.exposure_s is not None else read_raw(path).shot


def render(
    path: Path, *, brightness: float = 1.0, half_size: bool = False, flip: int | None = None
) -> NDArray[np.uint8]:
    """LibRaw's own rendering, amplified: the "traditional ISP" to compare with.

    Parameters
    ----------
    path : Path
    brightness : float
        Linear gain; the amplification ratio.
    half_size : bool
        One pixel per Bayer cell, without demosaicing: fast, for previews.
    flip : int, optional
        LibRaw's orientation to turn it by; by default the file's.

    Returns
    -------
    (H, W, 3) uint8
        sRGB primaries with the sRGB curve, white balance as shot, oriented.

    Raises
    ------
    RawError
        As for `read_raw`, without the refusals that concern the networks; and for what LibRaw
        opens but cannot demosaic (X-Trans smaller than 512 photosites a side).
    """
    turn: dict[str, Any] = {} if flip is None else {"user_flip": flip}
    rendering: NDArray[np.uint8] = _postprocess(
        path, bright=brightness, gamma=(2.4, 12.92), half_size=half_size, output_bps=8, **turn
    )
    return rendering


def render_truth(path: Path, mosaic: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
    """LibRaw's rendering of a long exposure: what SID's networks are trained and measured on.

    Parameters
    ----------
    path : Path
    mosaic : (H, W) uint16, optional
        DN to render instead of the file's own, as large as its visible area.

    Returns
    -------
    (H, W, 3) uint16
        sRGB primaries with the BT.709 curve (LibRaw's default), white balance as shot. Never
        rotated: each pixel is that of the mosaic's photosite.

    Raises
    ------
    RawError
        As for `render`.
    ValueError
        The mosaic is of another size.
    """
    rendering: NDArray[np.uint16] = _postprocess(path, mosaic, output_bps=16, user_flip=0)
    return rendering


def _postprocess(
    path: Path, mosaic: NDArray[np.uint16] | None = None, **options: Any
) -> NDArray[Any]:
    import rawpy

    path = Path(path)
    refuse_hopeless(path)
    with open_raw(path) as raw:
        if mosaic is not None:
            if raw.raw_image_visible.shape != mosaic.shape:
                raise ValueError(f"{path} has {raw.raw_image_visible.shape} photosites")
            raw.raw_image_visible[...] = mosaic
        options.setdefault("user_flip", _flip(directories_of(path), raw))
        try:
            rendering: NDArray[Any] = raw.postprocess(
                use_camera_wb=True, no_auto_bright=True, **options
            )
        except rawpy.LibRawError as error:
            raise RawError(f"{path}: LibRaw opens this photo but cannot render it.") from error
        return rendering.copy()


# ---------------------------------------------------------------- what the file says


def _frame(path: Path, raw: rawpy.RawPy, levels: Levels) -> RawFrame:
    directories = directories_of(path)
    shot, stated = read_exif(path)
    if shot.make is None and _is_grey_picture(directories):
        raise NotRawError(f"{path} is a grey TIFF picture, not a RAW photo.")
    import rawpy

    if raw.raw_type != rawpy.RawType.Flat or raw.raw_image is None:
        raise LinearRawError(f"{path} is already demosaiced (linear DNG, sRAW or mRAW).")
    pattern, color_ids = _pattern(path, raw)
    kind = classify(pattern)
    tags = _raw_directory(directories, raw)
    if kind is None and tags is not None and (from_tags := _dng_pattern(tags, raw)) is not None:
        pattern = from_tags
        color_ids = from_tags.astype(np.intp)
        kind = classify(pattern)
    if kind is None:
        raise _cfa_refusal(path, pattern)
    phase = find_phase(pattern, kind)
    assert phase is not None  # classify found one
    mosaic = raw.raw_image_visible.copy()  # a view that dies with the file
    period = CANONICAL[kind].shape[0]
    if min(mosaic.shape) < 2 * period:
        height, width = mosaic.shape
        raise DamagedFileError(f"{path} states margins that leave {width} x {height} photosites.")
    cell = color_ids[:period, :period]
    black = np.asarray(raw.black_level_per_channel, np.float32)[cell]
    if is_damaged(mosaic, float(black.min()), float(raw.white_level)):
        raise DamagedFileError(f"{path} is corrupted: parts of it hold no picture.")
    scale = 1
    by_tags = None if tags is None else _black_of_tags(tags, raw)
    given = stated_black(levels, kind, phase)
    if given is not None:
        black = given
    elif by_tags is not None:
        mosaic, black, scale = flatten_black(mosaic, by_tags, kind, phase)
    white = _white(raw)[cell] if levels.white is None else np.full_like(black, levels.white)
    white = white * np.float32(scale)
    if (white <= black).any():
        raise DamagedFileError(
            f"{path} states a white level that is not above its black level.",
            hint="Set the levels with --black-level and --white-level.",
        )
    notes = [_KNOWN_BY_SIZE] if is_known_by_size_only(path, raw) else []
    if given is None and (border := _border_black(raw, tags)) is not None:
        by_file = black / scale
        if contradicts(border, by_file, white / scale):
            notes.append(
                f"the file states a black level of {by_file.mean():.4g}, but the covered border of "
                f"the sensor has {border:.4g}; --black-level {border:.4g} uses that."
            )
    colors = CameraColors.from_tags(directories, _matrix(raw))
    as_shot, daylight, matrix = _colors(directories, raw, colors)
    return RawFrame(
        path=path,
        mosaic=mosaic,
        kind=kind,
        phase=phase,
        black=black,
        white=white,
        as_shot_wb=as_shot,
        daylight_wb=daylight,
        xyz_to_camera=matrix,
        flip=_flip(directories, raw),
        shot=_named(directories, shot.or_else(_libraw_shot(raw, stated))),
        colors=colors,
        pixel_aspect=_pixel_aspect(raw),
        dn_scale=scale,
        notes=tuple(notes),
        xmp=read_embedded_xmp(path),
        lens_corrections=lens_corrections(tags, *mosaic.shape),
    )


_KNOWN_BY_SIZE = (
    "the file does not say what it is; LibRaw takes it for a RAW photo because of its size."
)


def _raw_directory(directories: Sequence[Directory], raw: rawpy.RawPy) -> Directory | None:
    """Find the directory of a DNG's RAW image, which LibRaw has decoded; None for other files."""
    if color_directory(directories) is None:
        return None
    size = raw.sizes.raw_width, raw.sizes.raw_height
    for directory in directories:
        is_raw = directory.first(0x0106) in PHOTOMETRICS_RAW
        if is_raw and (directory.first(0x0100), directory.first(0x0101)) == size:
            return directory
    return None


def _start(tags: Directory, raw: rawpy.RawPy) -> tuple[int, int]:
    """Place of the first visible photosite in a DNG's ActiveArea, (y, x).

    DNG counts patterns and levels from there; LibRaw makes margins even, Fujifilm's multiples of 6.
    """
    top, left = (*tags.tags.get(_ACTIVE_AREA, ()), 0, 0)[:2]
    return raw.sizes.top_margin - top, raw.sizes.left_margin - left


def _black_of_tags(tags: Directory, raw: rawpy.RawPy) -> LevelMap | None:
    height, width = raw.raw_image_visible.shape
    return black_of_tags(tags, (height, width), _start(tags, raw))


def _border_black(raw: rawpy.RawPy, tags: Directory | None) -> float | None:
    sizes = raw.sizes
    masked = () if tags is None else tags.tags.get(_MASKED_AREAS, ())
    top, left = sizes.top_margin, sizes.left_margin
    visible = slice(top, top + sizes.height), slice(left, left + sizes.width)
    areas = [masked[i : i + 4] for i in range(0, len(masked) - 3, 4)]
    return border_black(raw.raw_image, visible, areas)


def _stated_flip(directories: Sequence[Directory]) -> int | None:
    """LibRaw's orientation for a TIFF that states nonsense, which LibRaw takes for a quarter turn.

    None where the file states none, or a true one (1 to 8): LibRaw is right then.
    """
    stated = [d.first(_ORIENTATION) for d in directories if _ORIENTATION in d.tags]
    if all(1 <= orientation <= 8 for orientation in stated):
        return None
    true = [orientation for orientation in stated if 1 <= orientation <= 8]
    return FLIP_OF_ORIENTATION[true[0]] if true else 0


def _flip(directories: Sequence[Directory], raw: rawpy.RawPy) -> int:
    stated = _stated_flip(directories)
    flip = int(raw.sizes.flip) if stated is None else stated
    return (
        flip if flip in range(8) else 0
    )  # some formats state an angle, of which LibRaw knows four


def _pixel_aspect(raw: rawpy.RawPy) -> float:
    aspect = float(raw.sizes.pixel_aspect)
    return aspect if 0.1 <= aspect <= 10 else 1.0


def _pattern(path: Path, raw: rawpy.RawPy) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Colours (0 R, 1 G, 2 B, 3 other) and LibRaw's colour ids around the first visible photosite.

    rawpy's ``raw_pattern`` and ``raw_colors`` read out of bounds for X-Trans when a margin exceeds
    6 photosites, so the pattern is asked for photosite by photosite.
    """
    if raw.num_colors == 1:
        raise MonochromeError(f"{path} comes from a sensor without colour filters.")
    sizes = raw.sizes
    probe = range(_PATTERN_PROBE)
    ids = np.array(
        [[raw.raw_color(sizes.top_margin + y, sizes.left_margin + x) for x in probe] for y in probe]
    )
    letters = raw.color_desc.decode("ascii", "replace")
    colors = np.array(["RGB".find(letter) % 4 for letter in letters], np.uint8)
    if raw.num_colors != 3 or ids.max() >= len(colors):
        raise UnsupportedCfaError(f"{path} has the colour filters {letters}, not R, G and B.")
    return colors[ids], ids


def _dng_pattern(tags: Directory, raw: rawpy.RawPy) -> NDArray[np.uint8] | None:
    """Read the pattern from a DNG's own tags; None when there is none of red, green and blue.

    LibRaw moves the margins of Fujifilm DNGs to multiples of 6 and then forgets the pattern, and
    takes no pattern larger than its own. DNG counts CFAPattern from the top left of ActiveArea.
    """
    values = tags.tags.get(_CFA_PATTERN, ())
    rows, columns = (*tags.tags.get(_CFA_REPEAT, ()), 0, 0)[:2]
    if not rows * columns or len(values) != rows * columns or max(values) > 2:
        return None
    if max(rows, columns) > _PATTERN_PROBE:
        return None
    top, left = _start(tags, raw)
    cell = np.array(values, np.uint8).reshape(rows, columns)
    down, across = np.arange(_PATTERN_PROBE) + top, np.arange(_PATTERN_PROBE) + left
    return cell[down[:, None] % rows, across[None] % columns]


def _is_grey_picture(directories: Sequence[Directory]) -> bool:
    """Tell whether all that this TIFF says it holds is grey, which LibRaw takes for a mosaic."""
    photometrics = {d.first(0x0106) for d in directories if 0x0106 in d.tags}
    return bool(photometrics) and photometrics <= {0, 1}


def _cfa_refusal(path: Path, pattern: NDArray[np.uint8]) -> RawError:
    if len(np.unique(pattern)) == 1:
        return MonochromeError(f"{path} comes from a sensor without colour filters.")
    return UnsupportedCfaError(f"{path} has a colour filter array that is not Bayer or X-Trans.")


def _white(raw: rawpy.RawPy) -> NDArray[np.float32]:
    """Saturation of each LibRaw colour id: the camera's own where it is believable."""
    whites = raw.camera_white_level_per_channel
    blacks = raw.black_level_per_channel
    if whites is not None and all(
        black < white <= raw.white_level for white, black in zip(whites[:3], blacks, strict=False)
    ):
        fourth = whites[3] if len(whites) > 3 and whites[3] > blacks[1] else whites[1]
        return np.array([*whites[:3], fourth], np.float32)
    return np.full(4, raw.white_level, np.float32)


def _gains_ok(raw: rawpy.RawPy) -> bool:
    gains = np.asarray(raw.camera_whitebalance[:3], np.float64)
    return bool(np.isfinite(gains).all() and (gains > 0).all())


def _colors(
    directories: Sequence[Directory], raw: rawpy.RawPy, colors: CameraColors | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Find the white balance as shot, that of daylight, and the matrix of the photo's light.

    A file without a white balance is balanced for daylight if the camera is known, else not at all.
    """
    if colors is None:
        daylight = _daylight(raw)
        none = np.ones(3, np.float32) if daylight is None else daylight
        return _gains(raw.camera_whitebalance) if _gains_ok(raw) else none, daylight, _matrix(raw)
    light, neutral = as_shot_light(directories), as_shot_neutral(directories)
    sees_daylight = colors.seen(D65)
    daylight = None if sees_daylight is None else _gains(1 / sees_daylight)
    table = _matrix(raw)
    # 1, 1, 1 by a program that did not know, of a camera that sees no light so.
    is_placeholder = table is None and neutral is not None and len(set(neutral)) == 1
    if is_placeholder and neutral is not None:
        is_placeholder = not colors.is_light(neutral)
    if (neutral is not None or light is None) and _gains_ok(raw) and not is_placeholder:
        as_shot = _gains(raw.camera_whitebalance)
    elif light is not None and (seen := colors.seen(light)) is not None:
        as_shot = _gains(1 / seen)
    else:
        as_shot = np.ones(3, np.float32) if daylight is None else daylight
    if table is None:  # a camera that LibRaw knows has the colours of its own format in a DNG too
        table = colors.rendering_matrix(1 / as_shot).astype(np.float32)
    return as_shot, daylight, table


def _gains(values: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float32]:
    gains = np.asarray(values[:3], np.float32)
    return np.asarray(gains / gains[1], np.float32)


def _daylight(raw: rawpy.RawPy) -> NDArray[np.float32] | None:
    """LibRaw works these gains out from its matrix, so they exist for a known camera only."""
    return None if _matrix(raw) is None else _gains(raw.daylight_whitebalance)


def _matrix(raw: rawpy.RawPy) -> NDArray[np.float32] | None:
    matrix = np.asarray(raw.rgb_xyz_matrix, np.float32)[:3]
    return matrix.copy() if np.any(matrix) else None


def _libraw_shot(raw: rawpy.RawPy, stated: frozenset[str]) -> ShotInfo:
    """Ask LibRaw about the shot, for files whose EXIF is not where it should be.

    What the EXIF has `stated` is left out: where that was nonsense, LibRaw has made a number of it.
    """
    other, lens = raw.other, raw.lens
    taken = other.timestamp
    shot = ShotInfo(
        lens=clean_text(lens.model),
        exposure_s=_positive(other.shutter_speed),
        iso=round(_positive(other.iso_speed) or 0) or None,
        aperture=round(_positive(other.aperture) or 0, 2) or None,
        focal_mm=round(_positive(other.focal_length) or 0, 1) or None,
        # A file without a date gives the epoch, 1970 or 1969 by the time zone.
        taken=taken.strftime("%Y:%m:%d %H:%M:%S") if taken and taken.year > 1970 else None,
    )
    return replace(shot, **dict.fromkeys(stated))


def _positive(value: float) -> float | None:
    return value if 0 < value < 2.0**32 else None  # also refuses what is not a number


def _named(directories: Sequence[Directory], shot: ShotInfo) -> ShotInfo:
    """Name the camera by a DNG's UniqueCameraModel where its model is not there."""
    tags = color_directory(directories)
    if shot.model is not None or tags is None:
        return shot
    return replace(shot, model=clean_text(tags.texts.get(0xC614, b"")))
