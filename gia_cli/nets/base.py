"""What every network is to those who train and run it: a chain of segments between global means.

A network whose picture depends on the whole photo does so through *vectors*: at some place a map of
features is averaged over the frame, and what comes of the mean enters at every place behind it. Cut
there, the network is a chain of segments, each local: `encode`, as many `advance` as there are
further means, `decode`. A whole frame runs through the chain once. Tiles run through its beginning
once for each vector (`measure`), so that the mean is the frame's and not the tile's, and then
through all of it (`render`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gia_cli.nets.config import NetConfig


class Network(nn.Module):
    """From packed mosaic to picture, in one or more segments.

    Shapes: (N, C, H, W) in [0, 1] to (N, 3, s*H, s*W), BT.709-encoded, not clipped; C and s by the
    colour filter array (4 and 2, or 9 and 3); H and W multiples of `stride`.

    Between segments a network hands on a list of *features*, whose last one is the map that is
    averaged. A segment empties its input list, so that memory is freed once used.
    """

    #: The frame's sides must be multiples of this many packed pixels. A map that is averaged has
    #: one cell for each ``stride`` x ``stride`` of them.
    stride: int = 1
    #: Context in packed pixels that a core aligned to `stride` depends on, apart from the vectors.
    halo: int
    #: The same for a cell of each map that is averaged, first to last: one for each vector.
    vector_halos: tuple[int, ...] = ()
    #: Channels of the coarse levels that `forward` can hand out, deepest first.
    deep_widths: tuple[int, ...] = ()
    #: Channels of the map at packed resolution that it hands out behind them, the last one before
    #: the picture; 0 where there are no such levels.
    top_width: int = 0

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def vectors(self) -> int:
        """Number of means over the whole frame that the picture depends on."""
        return len(self.vector_halos)

    @property
    def bytes_per_pixel(self) -> int:
        """Peak memory of fp32 inference for one packed pixel, frame and result included."""
        raise NotImplementedError

    @property
    def stages(self) -> list[tuple[nn.Module, int]]:
        """Name the modules that do most of the work; for a meter.

        Returns
        -------
        list of (module, cell)
            `cell` is the side, in packed pixels, of one pixel of what the module returns; it
            computes as many multiplications there as it has parameters.
        """
        raise NotImplementedError

    @property
    def plane_readers(self) -> dict[str, int]:
        """Name the weights whose input channels are the packed planes.

        Returns
        -------
        dict
            To the side of the pixel-unshuffle before them: 1 where they read the planes as they
            are.
        """
        raise NotImplementedError

    @property
    def picture_writers(self) -> tuple[str, ...]:
        """Name the weights and biases whose output channels are the picture's sub-pixels."""
        return "to_rgb.weight", "to_rgb.bias"

    @property
    def branch_ends(self) -> list[nn.Module]:
        """List the last convolutions of branches that are added to what they started from.

        They had better start small: each sum of equals doubles the variance.
        """
        return []

    # ------------------------------------------------------------ the segments

    def encode(self, x: Tensor) -> list[Tensor]:
        """Run the first segment.

        Parameters
        ----------
        x : (N, C, H, W) in [0, 1]

        Returns
        -------
        list of Tensor
            Features; if there are vectors, the last one is the first map to be averaged.

        Raises
        ------
        ValueError
            H or W is no multiple of `stride`.
        """
        raise NotImplementedError

    def global_term(self, index: int, mean: Tensor) -> Tensor:
        """Map a mean over the frame to what the next segment takes.

        Parameters
        ----------
        index : int
            Which vector, from 0.
        mean : (N, C)
            Of the map that was averaged.

        Returns
        -------
        (N, C')
        """
        raise NotImplementedError

    def advance(self, index: int, features: list[Tensor], term: Tensor) -> list[Tensor]:
        """Run from the map `index` to the next one, with the global term of the former."""
        raise NotImplementedError

    def decode(
        self, features: list[Tensor], term: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """Run the last segment.

        Parameters
        ----------
        features : list of Tensor
            From `encode` or `advance`; emptied on the way.
        term : (N, C') or None
            The last global term; None for a network without vectors.
        levels : list, optional
            As for `forward`.

        Returns
        -------
        (N, 3, s*H, s*W)
            fp32 even where the network computes in half precision.
        """
        raise NotImplementedError

    # ------------------------------------------------------------ the chain

    def forward(self, x: Tensor, group: int = 1, levels: list[Tensor] | None = None) -> Tensor:
        """Map whole frames, (N, C, H, W), to their pictures, (N, 3, s*H, s*W).

        Parameters
        ----------
        x : (N, C, H, W) in [0, 1]
        group : int
            This many neighbours in the batch are crops of one photo and share every vector, the
            mean over all of them: what tiles do at inference. Divides N.
        levels : list, optional
            Gets a feature for each of `deep_widths` appended, deepest first, and that of
            `top_width`: what training-only losses on them need.
        """
        return self.finish(self.encode(x), group, levels)

    def finish(
        self, features: list[Tensor], group: int = 1, levels: list[Tensor] | None = None
    ) -> Tensor:
        """Map what `encode` returned for whole frames to their pictures; see `forward`."""
        term: Tensor | None = None
        for index in range(self.vectors):
            if term is not None:
                features = self.advance(index - 1, features, term)
            term = self.global_term(index, group_mean(features[-1], group))
        return self.decode(features, term, levels)

    def measure(self, features: list[Tensor], terms: Sequence[Tensor]) -> Tensor:
        """Run a tile from `encode` on to the first map whose mean is not known yet.

        Parameters
        ----------
        features : list of Tensor
            From `encode`; emptied on the way.
        terms : sequence of (N, C')
            Global terms of the maps before.

        Returns
        -------
        (N, C, H / stride, W / stride)
        """
        for index, term in enumerate(terms):
            features = self.advance(index, features, term)
        feature = features.pop()
        features.clear()
        return feature

    def render(self, features: list[Tensor], terms: Sequence[Tensor]) -> Tensor:
        """Map what `encode` returned for a tile to its picture; `terms` are those of the frame."""
        if len(terms) != self.vectors:
            raise ValueError(
                f"{self.config.network} needs {self.vectors} global terms, not {len(terms)}"
            )
        for index, term in enumerate(terms[:-1]):
            features = self.advance(index, features, term)
        return self.decode(features, terms[-1] if terms else None)

    def _check_size(self, x: Tensor) -> None:
        """Refuse odd sizes: bands would silently drop the last rows."""
        height, width = x.shape[2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"{height}x{width} packed px are no multiple of {self.stride}")


def group_mean(feature: Tensor, group: int) -> Tensor:
    """Mean over each group's crops, (N, C), the same for every member."""
    wide = torch.promote_types(feature.dtype, torch.float32)
    mean = feature.mean(dim=(2, 3), dtype=wide)
    if group > 1:
        mean = mean.view(-1, group, mean.shape[1]).mean(1).repeat_interleave(group, 0)
    return mean.to(feature.dtype)
