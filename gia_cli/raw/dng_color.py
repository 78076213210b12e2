"""The colours of a camera by the tags of its DNG: matrices for one or two lights, and between them.

DNG 1.7, chapter 6, "Mapping Camera Color Space to CIE XYZ Space": a colour matrix says what the
camera sees of CIE XYZ in one light. Two of them are mixed by the inverse of the temperature of the
light that the photo was taken in. A forward matrix says the other way, from balanced camera colours
to XYZ, and is the better one for pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gia_cli.raw.black_body import (
    D65,
    black_body,
    correlated_kelvin,
    uv_of_xyz,
    xyz_of_uv,
)
from gia_cli.raw.tiff import Directory

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

_COLOR_MATRIX = (0xC621, 0xC622)
_CAMERA_CALIBRATION = (0xC623, 0xC624)
_ANALOG_BALANCE = 0xC627
_AS_SHOT_NEUTRAL = 0xC628
_AS_SHOT_WHITE_XY = 0xC629
_ILLUMINANT = (0xC65A, 0xC65B)
_CAMERA_SIGNATURE, _PROFILE_SIGNATURE = 0xC6F3, 0xC6F4
_FORWARD_MATRIX = (0xC714, 0xC715)

_D50 = np.array([0.96422, 1.0, 0.82521])  # XYZ of the space that forward matrices lead to
# Kelvin of EXIF's light sources. Of the fluorescent ones EXIF gives a range: its middle.
_KELVIN = {
    1: 5500.0,
    2: 4150.0,
    3: 2856.0,
    4: 5500.0,
    9: 5500.0,
    10: 6504.0,
    11: 7500.0,
    12: 6400.0,
    13: 5050.0,
    14: 4150.0,
    15: 3525.0,
    16: 2925.0,
    17: 2856.0,
    18: 4874.0,
    19: 6774.0,
    20: 5503.0,
    21: 6504.0,
    22: 7504.0,
    23: 5003.0,
    24: 3200.0,
}
_STANDARD_LIGHTS = {  # CIE 15, chromaticity (x, y)
    3: (0.44757, 0.40745),
    17: (0.44757, 0.40745),
    20: (0.33242, 0.34743),
    22: (0.29902, 0.31485),
    23: (0.34567, 0.35850),
}
_D65_ILLUMINANT = 21
# Cone responses by Bradford's matrix, which DNG recommends for chromatic adaptation.
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_ITERATIONS = 30
_SETTLED = 1e-7  # (x, y)
_WORST_CONDITION = 1e4  # a matrix nearer to singular is not a camera's
# Beyond this distance from the black bodies a colour is no light, says CIE 15; 15,000 K is the blue
# sky's, and under 1,667 K there is little but embers.
_FARTHEST_LIGHT = 0.05
_COLDEST_LIGHT = 1667.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a DNG says of a camera in one light."""

    kelvin: float
    white: Vector
    """(3,) CIE XYZ of the light, Y = 1."""
    color: Matrix
    """(3, 3) XYZ to the colours of the camera's model."""
    individual: Matrix
    """(3, 3) from these to the colours of the very camera (CameraCalibration)."""
    forward: Matrix | None = None
    """(3, 3) balanced colours of the model to XYZ (D50)."""


@dataclass(frozen=True, slots=True)
class CameraColors:
    """What a camera sees of any light.

    Every light is a CIE XYZ here, of any brightness.
    """

    calibrations: tuple[Calibration, ...]
    """One, or two, the warmer light first."""
    analog: Vector
    """(3,) gains of the camera's amplifiers (AnalogBalance)."""

    @classmethod
    def from_tags(
        cls, directories: Sequence[Directory], table: NDArray[np.floating] | None = None
    ) -> Self | None:
        """Read the tags of a DNG.

        Parameters
        ----------
        directories : sequence of Directory
            All of the file.
        table : (3, 3), optional
            LibRaw's own matrix of the camera, for D65; used where the file has none.

        Returns
        -------
        CameraColors or None
            None where there is no usable matrix.
        """
        tags = color_directory(directories)
        if tags is None:
            return None
        analog = _triple(tags, _ANALOG_BALANCE)
        found = [c for number in (0, 1) if (c := _calibration(tags, number)) is not None]
        if len(found) == 2 and found[0].kelvin == found[1].kelvin:
            found.pop()
        if not found and table is not None:
            matrix = np.asarray(table, np.float64)
            found = [Calibration(_KELVIN[_D65_ILLUMINANT], D65, matrix, np.eye(3))]
        if not found:
            return None
        found.sort(key=lambda calibration: calibration.kelvin)
        return cls(tuple(found), np.ones(3) if analog is None else analog)

    def matrix_for(self, light: NDArray[np.floating]) -> Matrix:
        """Build the matrix from XYZ to camera RGB for a light."""
        at = self._at(light)
        return self._actual(at) @ at.color

    def seen(self, light: NDArray[np.floating]) -> Vector | None:
        """Say what the camera sees of a light, green 1; None where a filter would see nothing."""
        response = self.matrix_for(light) @ np.asarray(light, np.float64)
        if not (np.isfinite(response).all() and (response > 0).all()):
            return None
        return np.asarray(response / response[1])

    def light_of(self, neutral: NDArray[np.floating]) -> Vector | None:
        """Find the light that the camera sees so: undoes `seen`.

        The matrix depends on the light, so this goes step by step, as DNG recommends.

        Returns
        -------
        (3,) float64 or None
            CIE XYZ, Y = 1; None for colours of no light.
        """
        light = _D50
        for step in range(_ITERATIONS):
            xyz = np.linalg.solve(self.matrix_for(light), np.asarray(neutral, np.float64))
            if uv_of_xyz(xyz) is None:
                return None
            following = xyz / xyz[1]
            moved = float(np.abs(following - light).max())
            # Two lights in turn, one each side of a calibration: their middle, as DNG's model does.
            light = (light + following) / 2 if step == _ITERATIONS - 1 else following
            if moved < _SETTLED:
                break
        return np.asarray(light)

    def is_light(self, neutral: NDArray[np.floating]) -> bool:
        """Whether the camera could see any light so."""
        light = self.light_of(neutral)
        uv = None if light is None else uv_of_xyz(light)
        kelvin = None if uv is None else correlated_kelvin(uv, _COLDEST_LIGHT)
        if uv is None or kelvin is None:
            return False
        return bool(np.hypot(*(uv - black_body(kelvin)[0])) <= _FARTHEST_LIGHT)

    def rendering_matrix(self, neutral: NDArray[np.floating]) -> Matrix:
        """Build the matrix that pictures balanced for a light are rendered with.

        Parameters
        ----------
        neutral : (3,)
            What the camera saw of the light.

        Returns
        -------
        (3, 3)
            CIE XYZ, adapted to D65, to camera RGB: what LibRaw's ``rgb_xyz_matrix`` is for the
            cameras it knows. D65 gives `neutral`, times a factor.
        """
        response = np.asarray(neutral, np.float64)
        light = self.light_of(response)
        if light is None:
            light = self.calibrations[-1].white
        at = self._at(light)
        if at.forward is not None:
            # D50 of the balanced colours of the model, which the very camera's colours lead to.
            model = np.linalg.solve(self._actual(at), np.diag(response))
            to_d50 = at.forward @ np.diag(1 / model.sum(axis=1)) @ model
            balanced = np.linalg.inv(adaptation(_D50, D65) @ to_d50)
            return np.diag(response) @ balanced
        # One matrix describes one light: what is balanced for another is taken for that one, as
        # LibRaw does. Two are mixed for the light itself.
        white = self.calibrations[0].white if len(self.calibrations) == 1 else light
        return self._actual(at) @ at.color @ adaptation(D65, white)

    def _actual(self, at: Calibration) -> Matrix:
        """From the colours of the camera's model to those of the very camera."""
        return np.diag(self.analog) @ at.individual

    def _at(self, light: NDArray[np.floating]) -> Calibration:
        uv = uv_of_xyz(light)
        kelvin = None if uv is None else correlated_kelvin(uv)
        if kelvin is None:  # beyond black bodies: bluer or redder than any, by its own blue
            x, _, z = np.asarray(light, np.float64)
            kelvin = np.inf if z > x else 1.0
        return _mixed(self.calibrations, kelvin)


def color_directory(directories: Iterable[Directory]) -> Directory | None:
    """Find the directory that has the colours of a DNG; None if this is no DNG."""
    return next((directory for directory in directories if 0xC612 in directory.tags), None)


def as_shot_neutral(directories: Iterable[Directory]) -> Vector | None:
    """Read what the camera saw of the light, (3,), positive; None where no tag says."""
    tags = color_directory(directories)
    return None if tags is None else _triple(tags, _AS_SHOT_NEUTRAL)


def as_shot_light(directories: Iterable[Directory]) -> Vector | None:
    """Read the light as such (AsShotWhiteXY), CIE XYZ with Y = 1; None where no tag says."""
    tags = color_directory(directories)
    values = () if tags is None else tags.floats(_AS_SHOT_WHITE_XY)
    if len(values) != 2 or not all(0 < value < 1 for value in values) or sum(values) >= 1:
        return None
    return _xyz_of_xy(values[0], values[1])


def adaptation(before: NDArray[np.floating], after: NDArray[np.floating]) -> Matrix:
    """Build Bradford's chromatic adaptation, (3, 3), of XYZ from one white to another."""
    scale = (_BRADFORD @ after) / (_BRADFORD @ before)
    return np.asarray(np.linalg.solve(_BRADFORD, scale[:, None] * _BRADFORD))


def _xyz_of_xy(x: float, y: float) -> Vector:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _calibration(tags: Directory, number: int) -> Calibration | None:
    color = _matrix(tags, _COLOR_MATRIX[number])
    if color is None:
        return None
    # A calibration of the very camera counts for the profile that it was made with.
    signatures = (tags.texts.get(tag, b"") for tag in (_CAMERA_SIGNATURE, _PROFILE_SIGNATURE))
    individual = None
    if len(set(signatures)) == 1:
        individual = _matrix(tags, _CAMERA_CALIBRATION[number])
    forward = _matrix(tags, _FORWARD_MATRIX[number])
    if forward is not None:
        sums = forward.sum(axis=1)
        forward = forward * (_D50 / sums)[:, None] if (sums > 0).all() else None
    illuminant = tags.first(_ILLUMINANT[number])
    if illuminant not in _KELVIN:
        illuminant = _D65_ILLUMINANT
    return Calibration(
        _KELVIN[illuminant],
        _white(illuminant),
        color,
        np.eye(3) if individual is None else individual,
        forward,
    )


def _white(illuminant: int) -> Vector:
    if illuminant in _STANDARD_LIGHTS:
        return _xyz_of_xy(*_STANDARD_LIGHTS[illuminant])
    if _KELVIN[illuminant] == _KELVIN[_D65_ILLUMINANT]:
        return D65
    return xyz_of_uv(black_body(_KELVIN[illuminant])[0])


def _mixed(calibrations: Sequence[Calibration], kelvin: float) -> Calibration:
    """Mix two calibrations by the inverse of the temperature; outside them, take the nearer."""
    warm, cool = calibrations[0], calibrations[-1]
    if len(calibrations) == 1 or kelvin <= warm.kelvin:
        return warm
    if kelvin >= cool.kelvin:
        return cool
    share = (1 / kelvin - 1 / cool.kelvin) / (1 / warm.kelvin - 1 / cool.kelvin)
    forward = warm.forward if cool.forward is None else cool.forward
    if warm.forward is not None and cool.forward is not None:
        forward = share * warm.forward + (1 - share) * cool.forward
    return Calibration(
        kelvin,
        share * warm.white + (1 - share) * cool.white,
        share * warm.color + (1 - share) * cool.color,
        share * warm.individual + (1 - share) * cool.individual,
        forward,
    )


def _matrix(tags: Directory, tag: int) -> Matrix | None:
    values = np.array(tags.floats(tag), np.float64)
    if values.shape != (9,) or not np.isfinite(values).all():
        return None
    matrix = values.reshape(3, 3)
    return matrix if np.linalg.cond(matrix) < _WORST_CONDITION else None


def _triple(tags: Directory, tag: int) -> Vector | None:
    values = np.array(tags.floats(tag), np.float64)
    usable = values.shape == (3,) and np.isfinite(values).all() and (values > 0).all()
    return values if usable else None
