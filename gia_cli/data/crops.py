"""How many crops of a photo make a batch, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class CropOptions:
    """Shape of a batch."""

    photos: int
    """Photos of a batch."""
    crops: int
    """Crops of each photo; they share one global vector."""
    sides: tuple[int, int]
    """Smallest and largest side of a crop in packed pixels, drawn again for every batch."""
    multiple: int
    """Sides are multiples of this."""
    late_sides: tuple[int, int] | None = None
    """Sides towards the end, when there is little left to learn from small crops."""
    late_from: float = 0.7
    """Share of the run after which `late_sides` hold."""

    def draw_side(self, rng: np.random.Generator, done: float) -> int:
        """Draw a side for a batch when the share `done` of the run is behind it."""
        is_late = self.late_sides is not None and done >= self.late_from
        lowest, highest = self.late_sides if is_late and self.late_sides else self.sides
        return self.multiple * int(
            rng.integers(-(-lowest // self.multiple), highest // self.multiple + 1)
        )

    @property
    def is_fixed(self) -> bool:
        """Whether the side changes once at most."""
        ranges = [self.sides, self.late_sides or self.sides]
        return all(lowest == highest for lowest, highest in ranges)

    @property
    def count_of_sides(self) -> int:
        """How many sides there are to draw."""
        ranges = {self.sides, self.late_sides or self.sides}
        sides = {
            cells
            for lowest, highest in ranges
            for cells in range(-(-lowest // self.multiple), highest // self.multiple + 1)
        }
        return len(sides)

    @property
    def largest(self) -> int:
        """The largest side that may be drawn."""
        return max(self.sides[1], self.late_sides[1] if self.late_sides else 0)
