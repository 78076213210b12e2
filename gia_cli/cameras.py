"""The two cameras that SID was taken with: both of their names, and what is known of each.

A camera has two names: the short one in SID's lists, and the model name in its files.
"""

from __future__ import annotations

from typing import Literal

from gia_cli.errors import UsageError

CameraFamily = Literal["sony", "fuji"]
CameraName = Literal["ILCE-7SM2", "X-T2"]
#: Either name, as options take it.
AnyCameraName = Literal[CameraFamily, CameraName]
CfaKind = Literal["bayer", "xtrans"]
WhiteBalance = tuple[float, float, float]

CAMERA_OF: dict[CameraFamily, CameraName] = {"sony": "ILCE-7SM2", "fuji": "X-T2"}

#: Colour filter array of each camera.
KINDS: dict[CameraFamily, CfaKind] = {"sony": "bayer", "fuji": "xtrans"}

#: What a file of each camera ends in.
ENDINGS: dict[CameraName, str] = {"ILCE-7SM2": ".ARW", "X-T2": ".RAF"}

#: XYZ (D65) to camera, as LibRaw's table has them, of the cameras that scenes are simulated for.
A7S2_MATRIX = ((0.5838, -0.1430, -0.0246), (-0.3497, 1.1477, 0.2297), (-0.0748, 0.1885, 0.5778))
XT2_MATRIX = ((1.1434, -0.4948, -0.1210), (-0.3746, 1.2042, 0.1903), (-0.0666, 0.1479, 0.5235))
CAMERA_MATRICES: dict[str, tuple[tuple[float, ...], ...]] = {
    "ILCE-7SM2": A7S2_MATRIX,
    "X-T2": XT2_MATRIX,
}


def camera_family(name: str) -> CameraFamily:
    """Return a camera's short name, whichever of its two names is given.

    Raises
    ------
    UsageError
        It is neither.

    Examples
    --------
    >>> camera_family("X-T2"), camera_family("sony")
    ('fuji', 'sony')
    """
    for family, model in CAMERA_OF.items():
        if name.lower() in (family, model.lower()):
            return family
    known = ", ".join(f"{family} or {model}" for family, model in CAMERA_OF.items())
    raise UsageError(f"There is no camera '{name}'.", hint=f"Known are {known}.")


def camera_name(name: str) -> CameraName:
    """Return a camera's model name, whichever of its two names is given.

    Raises
    ------
    UsageError
        It is neither.

    Examples
    --------
    >>> camera_name("fuji"), camera_name("ILCE-7SM2")
    ('X-T2', 'ILCE-7SM2')
    """
    return CAMERA_OF[camera_family(name)]


def camera_of_kind(kind: CfaKind) -> CameraName:
    """Return the model name of the camera with a colour filter array: each has its own.

    Examples
    --------
    >>> camera_of_kind("xtrans")
    'X-T2'
    """
    return next(CAMERA_OF[family] for family, own in KINDS.items() if own == kind)
