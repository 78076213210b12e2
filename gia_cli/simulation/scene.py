"""A scene in near darkness, in two steps: what is drawn of it, and what a camera makes of it.

`draw_parameters` draws all that describes a short exposure in a few numbers; `render` photographs
places of a photograph so, in NumPy. `simulation.torch_scene` is its twin on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gia_cli.cameras import CameraName, WhiteBalance
from gia_cli.imaging.color import XYZ_FROM_SRGB, bt709_encode, rebalance_matrix
from gia_cli.raw.turns import Turn
from gia_cli.sensor_table import iso_settings
from gia_cli.simulation.noise import SensorNoise
from gia_cli.simulation.sensor import (
    CAMERAS,
    daylight_gains,
    draw_scene,
    expose,
    mosaic_from_linear,
)

#: Linear light above which a photograph counts as overexposed, more and more.
BLOWN_FROM = 0.9

#: Where a crop lies in a photograph: its top left corner (row, column), and how it is turned.
Place = tuple[tuple[int, int], Turn]


class Balance(Protocol):
    """How the white balance that a network is given is chosen."""

    def draw(self, light: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw the gains (R, G, B) for a light."""


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """How far the scenes of training stray from SID's own."""

    free_ratio_share: float = 0.5
    """Share of scenes whose ratio is drawn between `lowest_ratio` and 300 instead of SID's."""
    lowest_ratio: float = 1.0
    free_iso_share: float = 0.3
    """Share of scenes whose ISO setting is any of the camera's instead of the scene's."""
    gain_stops: tuple[float, float] = (-1.0, 0.5)
    """How much darker and brighter than the photograph a scene may be."""
    wb_sigma: float = 0.06
    """Spread of the light's red and blue around SID's scenes, in natural logarithms."""
    daylight_share: float = 0.1
    """Share of scenes whose light lies anywhere between that and daylight: dusk and moonlight, of
    which SID's scenes have none."""
    saturation_sigma: float = 0.15
    """Spread of the photograph's saturation around its own, in natural logarithms."""
    contrast_sigma: float = 0.1
    """Spread of its contrast: of the logarithm of an exponent in linear light, white staying."""
    highlight_stops: float = 3.0
    """How much brighter than the photograph says its blown places may have been: what is white
    there saturated some camera, and should be white whatever the white balance."""
    unknown_black_share: float = 0.25
    """Share of scenes whose black level nobody has calibrated, as it is with other cameras."""
    source_power: float = 0.5
    """A source (folder) of n photographs is drawn as often as n to this power: 1 draws each
    photograph alike, 0 each source."""


#: SID's own scenes, without what makes training harder than use.
PLAIN_SCENES = SceneOptions(
    free_ratio_share=0,
    free_iso_share=0,
    gain_stops=(0, 0),
    wb_sigma=0,
    daylight_share=0,
    saturation_sigma=0,
    contrast_sigma=0,
    highlight_stops=0,
    unknown_black_share=0,
    source_power=1,
)


@dataclass(frozen=True, slots=True)
class Style:
    """How a photograph was developed, varied: a collection has its tastes, the world has not."""

    saturation: float = 1.0
    contrast: float = 1.0
    """Exponent in linear light."""

    @classmethod
    def draw(
        cls, saturation_sigma: float, contrast_sigma: float, rng: np.random.Generator
    ) -> Style:
        """Draw both around 1, spread by so much in natural logarithms; nothing for no spread."""
        if not (saturation_sigma or contrast_sigma):
            return cls()
        saturation, contrast = np.exp(rng.normal(0, (saturation_sigma, contrast_sigma))).tolist()
        return cls(saturation, contrast)

    def apply(self, linear: NDArray[np.float32]) -> NDArray[np.float32]:
        """Develop (H, W, 3) linear sRGB so; grey stays grey, white white, nothing gets negative."""
        luminance = (linear @ XYZ_FROM_SRGB[1].astype(np.float32))[..., None]
        vivid = np.maximum(luminance + np.float32(self.saturation) * (linear - luminance), 0)
        styled: NDArray[np.float32] = vivid ** np.float32(self.contrast)
        return styled


# ---------------------------------------------------------------- what is drawn


@dataclass(frozen=True, slots=True)
class SceneParameters:
    """A short exposure but for its photograph and the noise of single photosites."""

    camera: CameraName
    ratio: float
    """How much too short the exposure is."""
    iso: int
    stated_iso: int | None
    """The ISO that the file states; None where nothing is known of the camera's black level."""
    gain: float
    """How much brighter than the photograph the scene is, in linear light."""
    blown: float
    """How much brighter than the photograph says its blown places are; 1: no brighter."""
    style: Style
    light: WhiteBalance
    """White balance gains (R, G, B) of the light, green 1."""
    gains: NDArray[np.float32] | None = field(repr=False)
    """(3,) float32; white balance that the network gets; None for one that infers it."""
    noise: SensorNoise
    """The sensor's, in this exposure."""

    def rebalance(self) -> NDArray[np.float32] | None:
        """Matrix, for rows of linear sRGB, from the light's white balance to the given one.

        Returns
        -------
        (3, 3) float32 or None
            None where the two are the same.
        """
        if self.gains is None:
            return None
        change = self.gains / np.array(self.light)
        if np.abs(change - 1).max() < 1e-6:
            return None
        matrix = rebalance_matrix(np.array(CAMERAS[self.camera].matrix), change)
        return matrix.astype(np.float32).T


def draw_parameters(
    camera: CameraName,
    options: SceneOptions,
    rng: np.random.Generator,
    balance: Balance | None = None,
) -> SceneParameters:
    """Draw a scene: its light, ratio, ISO, brightness, style and the sensor's state.

    Parameters
    ----------
    camera : "ILCE-7SM2" or "X-T2"
    options : SceneOptions
    rng : numpy Generator
        All that is drawn comes from it, in an order that runs which have begun depend on.
    balance : Balance, optional
        For a network that gets the white balance.
    """
    drawn = draw_scene(camera, rng)
    ratio = drawn.ratio
    if rng.random() < options.free_ratio_share:
        ratio = float(np.exp(rng.uniform(np.log(options.lowest_ratio), np.log(300))))
    iso = drawn.iso
    if options.free_iso_share and rng.random() < options.free_iso_share:
        iso = int(rng.choice(iso_settings(camera)))
    gain = float(2 ** rng.uniform(*options.gain_stops))
    blown = 1.0
    if options.highlight_stops:
        blown = float(2 ** rng.uniform(0, options.highlight_stops))
    red, blue = _draw_light(camera, drawn.wb, options, rng)
    style = Style.draw(options.saturation_sigma, options.contrast_sigma, rng)
    noise = CAMERAS[camera].noise(iso, rng)
    light = red, 1.0, blue
    gains = None if balance is None else balance.draw(np.array(light), rng)
    stated_iso: int | None = iso  # what is known of a black level is known by it
    if options.unknown_black_share and rng.random() < options.unknown_black_share:
        stated_iso = None
    return SceneParameters(
        camera=camera,
        ratio=ratio,
        iso=iso,
        stated_iso=stated_iso,
        gain=gain,
        blown=blown,
        style=style,
        light=light,
        gains=gains,
        noise=noise,
    )


def _draw_light(
    camera: CameraName, usual: WhiteBalance, options: SceneOptions, rng: np.random.Generator
) -> tuple[float, float]:
    """Draw the gains of red and blue: around a scene's own or between those and daylight's."""
    light = np.log((usual[0], usual[2]))
    if options.daylight_share and rng.random() < options.daylight_share:
        daylight = daylight_gains(camera)
        light += rng.random() * (np.log((daylight[0], daylight[2])) - light)
    red, blue = np.exp(light + rng.normal(0, options.wb_sigma, 2)).tolist()
    return red, blue


# ---------------------------------------------------------------- what becomes of it


@dataclass(frozen=True, slots=True)
class Exposure:
    """A square of a short exposure, and the picture that should come of it."""

    dn: NDArray[np.uint16] = field(repr=False)
    """(size, size) uint16, black level included, in the camera's canonical phase."""
    target: NDArray[np.float32] = field(repr=False)
    """(3, size, size) float32 in [0, 1], BT.709-encoded."""
    mosaic: NDArray[np.float32] | None = field(default=None, repr=False)
    """(size, size) float32; the light without noise, as a share of saturation at full exposure."""


def render(
    photo: NDArray[np.float16],
    places: list[Place],
    parameters: SceneParameters,
    *,
    size: int,
    rng: np.random.Generator,
) -> list[Exposure]:
    """Photograph some places of a scene in one exposure.

    Parameters
    ----------
    photo : (H, W, 3) float16
        Linear sRGB, 1 = white.
    places : list of Place
    parameters : SceneParameters
    size : int
        Photosites a side, whole periods of the filter array.
    rng : numpy Generator
        Draws the noise of the photosites and rows.
    """
    camera = CAMERAS[parameters.camera]
    rebalance = parameters.rebalance()
    exposures = []
    for (top, left), turn in places:
        linear = turn.apply(photo[top : top + size, left : left + size]).astype(np.float32)
        brightened = parameters.style.apply(_unclipped(linear, np.float32(parameters.blown)))
        linear = np.float32(parameters.gain) * brightened
        mosaic = mosaic_from_linear(linear, camera, parameters.light)
        dn = expose(
            mosaic,
            camera,
            ratio=parameters.ratio,
            iso=parameters.iso,
            rng=rng,
            noise=parameters.noise,
        )
        shown = linear if rebalance is None else linear @ rebalance
        target = bt709_encode(np.clip(shown, 0, 1)).transpose(2, 0, 1)
        exposures.append(Exposure(dn, np.ascontiguousarray(target), mosaic))
    return exposures


def _unclipped(linear: NDArray[np.float32], factor: np.float32) -> NDArray[np.float32]:
    """Brighten the blown places of a photograph, (H, W, 3), by up to a factor; the rest stays."""
    if factor <= 1:
        return linear
    blown_from = np.float32(BLOWN_FROM)
    blown = np.clip((linear.min(axis=2, keepdims=True) - blown_from) / (1 - blown_from), 0, 1)
    brightened: NDArray[np.float32] = linear * (1 + blown * (factor - 1))
    return brightened
