"""A mask sampler: diagonal stripes."""

from __future__ import annotations

import torch
from torch import Tensor

from mimsuite.errors import InputError
from mimsuite.masked.geometry import hidden_units


class DiagonalMask:
    """Hides whole diagonals, one after the other from a random one on, and a part of the last one.

    Args:
        ratio: share of units to hide, in (0, 1].
    """

    def __init__(self, ratio: float) -> None:
        if not isinstance(ratio, int | float) or not 0 < ratio <= 1:
            raise InputError(f"mask.ratio={ratio} is not in (0, 1]; use 0.6")
        self.ratio = ratio

    def __call__(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Returns a mask of `grid = (gh, gw)` units, bool, True = hidden."""
        rows, columns = (torch.arange(side) for side in grid)
        first = int(torch.randint(grid[1], (), generator=generator))
        diagonal = (columns[None, :] - rows[:, None] - first) % grid[1]
        mask = torch.zeros(grid[0] * grid[1], dtype=torch.bool)
        mask[diagonal.flatten().argsort(stable=True)[: hidden_units(len(mask), self.ratio)]] = True
        return mask.view(grid)
