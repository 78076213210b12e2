"""Is every part of a network active? The loss does not show a level or a vector that is not.

The *level test* cuts one path up from a deeper level and asks what that costs; the *swap test*
gives the network another vector than its photo's own. A U-Net whose deepest levels never became
active, or whose vector says nothing, loses 0.00 dB by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gia_cli.cameras import KINDS
from gia_cli.enhance.camera_match import camera_colors, camera_gains, recolor
from gia_cli.errors import GiaError
from gia_cli.evaluation.config import EvalConfig
from gia_cli.evaluation.pairs import Truths, open_pairs, read_pair
from gia_cli.evaluation.report import Failure
from gia_cli.evaluation.systems import split_label
from gia_cli.inference.run import pad_to_stride
from gia_cli.metrics.fidelity import psnr
from gia_cli.nets.base import Network
from gia_cli.nets.unet import UNet
from gia_cli.progress import SILENT, Progress
from gia_cli.raw.packing import PackedMosaic, prepare
from gia_cli.weights.manifest import find_weights
from gia_cli.weights.storage import load_network

_CORNER = 128  # packed pixels of the tile whose vector the swap test gives to the whole frame


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a network loses without each of its parts."""

    system: str
    psnr: float
    """dB, the network as it is, mean over the photos."""
    losses: dict[str, float]
    """dB lost, by what was done: "level 1" (the path up from the second level cut) to "level 4"
    (from the bottleneck), "vector none", "vector of another photo", "vector of a corner"."""


def diagnose(
    config: EvalConfig,
    progress: Progress = SILENT,
    on_failure: Callable[[Failure], None] = lambda failure: None,
) -> list[Diagnosis]:
    """Run both tests on all weights, with the pairs that `evaluate` would take.

    On the CPU, in fp32, whole frames; the differences are of the weights, not of the machine.

    Parameters
    ----------
    config : EvalConfig
        Its weights, data and limit.
    progress : Progress
    on_failure : function, optional
        Called with a pair that cannot be read; the others continue.

    Raises
    ------
    DataError, WeightsError
    """
    pairs = open_pairs(config, progress)
    infos = [
        (label, find_weights(name, KINDS[config.camera]))
        for label, name in map(split_label, config.weights)
    ]
    networks = [load_network(info) for _, info in infos]
    scores: list[dict[str, list[float]]] = [{} for _ in infos]
    others = [_OtherScene() for _ in infos]
    truths = Truths(config)
    progress.stage("diagnosing", len(pairs) * len(infos))
    for pair in pairs:
        try:
            frame, truth, ratio = read_pair(pair, truths)
        except GiaError as error:
            on_failure(Failure(pair.short, error))
            continue
        for index, ((_, info), network) in enumerate(zip(infos, networks, strict=True)):
            mosaic = prepare(frame, ratio, camera_gains(frame, info), info.config.input_floor)
            pictures = _Pictures(network, mosaic, camera_colors(frame, info))
            values = {
                name: psnr(np.clip(picture, 0, 1), truth)
                for name, picture in pictures.all(others[index].means(pair.scene))
            }
            for name, value in values.items():
                scores[index].setdefault(name, []).append(values["own"] - value)
            scores[index].setdefault("psnr", []).append(values["own"])
            others[index].remember(pair.scene, pictures.means)
            progress.advance()
    return [
        _diagnosis(label or info.name, found)
        for (label, info), found in zip(infos, scores, strict=True)
    ]


def _diagnosis(name: str, scores: dict[str, list[float]]) -> Diagnosis:
    means = {what: float(np.mean(values)) for what, values in scores.items()}
    losses = {what: mean for what, mean in means.items() if what not in ("own", "psnr")}
    return Diagnosis(name, means.get("psnr", float("nan")), losses)


class _OtherScene:
    """Means of the last photo of another scene: those of one scene's photos are much alike."""

    def __init__(self) -> None:
        self._last: tuple[str, list[Tensor]] | None = None
        self._before: list[Tensor] = []

    def means(self, scene: str) -> list[Tensor]:
        """Return them; empty if there was no other scene yet."""
        if self._last is None:
            return []
        return self._last[1] if self._last[0] != scene else self._before

    def remember(self, scene: str, means: list[Tensor]) -> None:
        """Take note of a photo."""
        if self._last is not None and self._last[0] != scene:
            self._before = self._last[1]
        self._last = scene, means


class _Pictures:
    """What a network makes of a photo, whole and with parts cut off."""

    def __init__(
        self, network: Network, mosaic: PackedMosaic, colors: NDArray[np.floating] | None = None
    ) -> None:
        self.network = network
        self.mosaic = mosaic
        self.colors = colors
        self.means: list[Tensor] = []
        self._planes = torch.from_numpy(pad_to_stride(mosaic.planes, network.stride))[None]

    def all(self, other_means: list[Tensor]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield name and picture, (H, W, 3); `other_means` are those of another photo, or none."""
        with torch.inference_mode():
            yield "own", self._render(remember=True)
            if isinstance(self.network, UNet):
                for step, module in enumerate(self.network.upsample):
                    with _silenced(module):
                        yield f"level {len(self.network.upsample) - step}", self._render()
            if not self.network.vectors:
                return
            yield "vector none", self._render(lambda index, mean: torch.zeros_like(mean))
            yield "vector of a corner", self._render(self._corner_mean)
            if other_means:
                yield (
                    "vector of another photo",
                    self._render(lambda index, mean: other_means[index]),
                )

    def _render(
        self,
        swap: Callable[[int, Tensor], Tensor] = lambda index, mean: mean,
        *,
        remember: bool = False,
    ) -> NDArray[np.float32]:
        """Run the chain, with other means over the frame if so asked."""
        features = self.network.encode(self._planes)
        term: Tensor | None = None
        for index in range(self.network.vectors):
            if term is not None:
                features = self.network.advance(index - 1, features, term)
            self._map = features[-1]
            mean = self._map.mean(dim=(2, 3))
            if remember:
                self.means.append(mean)
            term = self.network.global_term(index, swap(index, mean))
        picture = self.mosaic.crop(self.network.decode(features, term)[0].numpy())
        if self.colors is not None:
            recolor(picture, self.colors)
        return np.ascontiguousarray(picture.transpose(1, 2, 0))

    def _corner_mean(self, index: int, mean: Tensor) -> Tensor:
        side = _CORNER // self.network.stride
        return self._map[:, :, :side, :side].mean(dim=(2, 3))


@contextmanager
def _silenced(module: nn.Module) -> Iterator[None]:
    """Let a module return zeros."""
    hook = module.register_forward_hook(lambda module, args, result: torch.zeros_like(result))
    try:
        yield
    finally:
        hook.remove()
