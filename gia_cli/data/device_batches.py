"""Batches that are simulated on the device that trains, from photographs that lie there.

A batch is a pure function of (seed, rank, step), as NumPy's are, but of other numbers: the noise
comes from the device's own generator. So the backend belongs to what a run is.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.sharedctypes import Synchronized

import numpy as np
import torch
from torch import Tensor

from gia_cli.data.batches import Batch, Batches
from gia_cli.data.cache import ArrayCache
from gia_cli.data.crops import CropOptions
from gia_cli.data.synthetic import DrawnScene, PhotoScenes
from gia_cli.errors import DeviceError
from gia_cli.raw.cfa import CANONICAL, PACK_FACTOR
from gia_cli.raw.packing import plane_levels
from gia_cli.runtime import free_bytes
from gia_cli.simulation.scene import Exposure
from gia_cli.simulation.torch_scene import Windows, render_batch, to_device

# What is drawn of a scene takes [seed, step, rank + 1]; the seed of its noise one number more.
_NOISE_STREAM = 1
# Of what may be taken of the GPU's free memory (0.4 of all of it); the rest is the network's.
_PHOTO_SHARE = 0.5


class PhotoPixels:
    """Photographs as the device reads them: one long list of pixels there, if they fit.

    If they do not, or the device is the CPU, which maps them from the disk anyway, the squares that
    a batch needs are cut out here and sent; the batch is the same.

    Parameters
    ----------
    photos : ArrayCache
        From `open_photos`.
    keys : sequence of str
        The photographs to use.
    device : torch.device
    is_resident : bool, optional
        Whether all of them lie on the device; by default if that is a GPU with room.
    """

    def __init__(
        self,
        photos: ArrayCache,
        keys: Sequence[str],
        device: torch.device,
        *,
        is_resident: bool | None = None,
    ) -> None:
        self._photos = photos
        self._device = device
        sizes = [photos.metadata(key)["size"] for key in keys]
        self.bytes = 2 * 3 * sum(height * width for height, width in sizes)
        if is_resident is None:
            is_gpu = device.type == "cuda"
            room = free_bytes("cuda", device.index or 0) * _PHOTO_SHARE if is_gpu else 0
            is_resident = self.bytes <= room
        self._starts: dict[str, int] = {}
        self._resident: Tensor | None = None
        if is_resident:
            self._resident = self._sent(keys)

    @property
    def is_resident(self) -> bool:
        """Whether all photographs lie on the device."""
        return self._resident is not None

    def _sent(self, keys: Sequence[str]) -> Tensor:
        pixels = torch.empty((self.bytes // 6, 3), dtype=torch.float16, device=self._device)
        start = 0
        for key in keys:
            photo = torch.from_numpy(np.array(self._photos.array(key, "linear"))).view(-1, 3)
            pixels[start : start + len(photo)] = photo.to(self._device)
            self._starts[key] = start
            start += len(photo)
        return pixels

    def windows(self, drawn: Sequence[DrawnScene], size: int) -> Windows:
        """Look up the squares of drawn scenes, `size` pixels a side; those of a scene together."""
        squares = [(scene.key, place) for scene in drawn for place in scene.places]
        turns = [turn for _, (_, turn) in squares]
        if self._resident is not None:
            widths = np.array([self._photos.metadata(key)["size"][1] for key, _ in squares])
            corners = np.array([corner for _, (corner, _) in squares])
            starts = np.array([self._starts[key] for key, _ in squares])
            starts += corners[:, 0] * widths + corners[:, 1]
            return Windows(self._resident, starts, widths, turns)
        pixels = np.empty((len(squares), size, size, 3), np.float16)
        for own, (key, ((top, left), _)) in zip(pixels, squares, strict=True):
            own[...] = self._photos.array(key, "linear")[top : top + size, left : left + size]
        starts = np.arange(len(squares)) * size**2
        sent = to_device(pixels.reshape(-1, 3), self._device)
        return Windows(sent, starts, np.full(len(squares), size), turns)


class DeviceBatches(Batches):
    """All batches of a run, by step, made on a device.

    Parameters
    ----------
    source : PhotoScenes
    pixels : PhotoPixels
        Of the source's photographs.
    options, seed, rank, steps, done
        As for `Batches`.
    device : torch.device

    Raises
    ------
    DeviceError
        The device cannot draw Poisson numbers.
    """

    def __init__(
        self,
        source: PhotoScenes,
        pixels: PhotoPixels,
        options: CropOptions,
        *,
        device: torch.device,
        seed: int,
        rank: int = 0,
        steps: int | None = None,
        done: Synchronized[float] | None = None,
    ) -> None:
        super().__init__(source, options, seed=seed, rank=rank, steps=steps, done=done)
        self._scenes = source
        self._pixels = pixels
        self._device = device
        self._generator = torch.Generator(device)
        self._refuse_device_without_poisson()

    def _refuse_device_without_poisson(self) -> None:
        try:
            torch.poisson(torch.ones(1, device=self._device), generator=self._generator)
        except NotImplementedError as error:
            raise DeviceError(
                f"Exposures cannot be simulated on {self._device}.", hint="Use --simulation numpy."
            ) from error

    def _make(self, side: int, step: int) -> Batch:
        """Make a batch as `Batches` does, on the device; its numbers are others."""
        source, count = self._scenes, self.options.crops
        size = side * PACK_FACTOR[source.camera.kind]
        stream = [self.seed, step, self.rank + 1]
        rng = np.random.default_rng(stream)
        drawn = [source.draw(rng, count=count, side=side) for _ in range(self.options.photos)]
        known = [source.recorded(_blank(source), scene.parameters) for scene in drawn]
        levels = [plane_levels(x.frame, x.ratio, x.gains, source.floor) for x in known]
        (seed,) = np.random.SeedSequence([*stream, _NOISE_STREAM]).generate_state(1, np.uint64)
        self._generator.manual_seed(int(seed) >> 1)  # torch takes 63 bits
        made = render_batch(
            self._pixels.windows(drawn, size),
            [scene.parameters for scene in drawn for _ in range(count)],
            [level for level in levels for _ in range(count)],
            size=size,
            floor=source.floor,
            generator=self._generator,
            with_clean=source.with_clean,
        )
        told = np.stack([scene.auxiliary for scene in known]).repeat(count, axis=0)
        measured = []
        if source.measures:  # the fusion that follows is NumPy's
            for index, dn in enumerate(made.dn.cpu().numpy().astype(np.uint16)):
                exposure = Exposure(dn, _NO_PICTURE)
                scene = source.recorded(exposure, drawn[index // count].parameters)
                found = source.measured(scene)
                measured += [] if found is None else [found]
        auxiliary = to_device(told, self._device)
        return Batch(made.planes, made.target, auxiliary, measured, made.clean)


_NO_PICTURE = np.empty((3, 0, 0), np.float32)


def _blank(source: PhotoScenes) -> Exposure:
    """Stand in for an exposure of which only the circumstances count: one cell, without a picture.

    What the file of it would say decides the black level to subtract and the auxiliary targets.
    """
    period = len(CANONICAL[source.camera.kind])
    return Exposure(np.zeros((period, period), np.uint16), _NO_PICTURE)
