"""I-JEPA's masks: a context block of which several target blocks are left out; these are to be predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mimsuite.errors import InputError
from mimsuite.masked.samplers import Grid, MaskSampler, MaskWithTargets

TRIES = 20  # placings, before the one with the largest context is taken
Range = tuple[float, float]


class MultiBlockMask:
    """Shows a block without some target blocks, which may overlap and are predicted one by one.

    The masks of I-JEPA (Assran et al. 2023, arXiv 2301.08243, section 3 and appendix A.1). Scales are shares of the
    image, aspect ratios are height / width; both are drawn evenly, and once for all images of an optimizer step, so
    that all targets have the same number of units. The context has an aspect ratio of 1. What its block leaves of the
    image is hidden and not predicted.

    Differs from the authors' code: scale and aspect ratio are drawn independently, the last row and column can be
    part of a block, and a batch's contexts are cut to the smallest at random, not from the bottom.

    Args:
        targets: number of target blocks.
        target_scale: least and largest area of a target block.
        target_aspect: least and largest height / width of a target block.
        context_scale: least and largest area of the context block.
        least: smallest context, as a share of the image; blocks are placed anew, 20 times at most, until it is reached.

    Raises:
        InputError: a value is out of range.
    """

    def __init__(
        self,
        targets: int = 4,
        target_scale: Sequence[float] = (0.15, 0.2),
        target_aspect: Sequence[float] = (0.75, 1.5),
        context_scale: Sequence[float] = (0.85, 1.0),
        least: float = 0.05,
    ) -> None:
        if isinstance(targets, bool) or not isinstance(targets, int) or targets < 1:
            raise InputError(f"mask.targets={targets} is not a whole number from 1 on; I-JEPA uses mask.targets=4")
        if not 0 <= least < 1:
            raise InputError(f"mask.least={least} is not in [0, 1); I-JEPA uses 10 of 196 units, mask.least=0.05")
        self.targets, self.least = targets, float(least)
        self.target_scale = _range("target_scale", target_scale, 1.0, "[0.15,0.2]")
        self.target_aspect = _range("target_aspect", target_aspect, math.inf, "[0.75,1.5]")
        self.context_scale = _range("context_scale", context_scale, 1.0, "[0.85,1.0]")

    def __call__(self, grid: Grid, generator: torch.Generator) -> MaskWithTargets:
        """Returns a mask of `grid = (gh, gw)` units with its targets; the sizes are drawn for it alone."""
        return self._placed(self._sizes(grid, generator), grid, generator)

    def of_step(self, grid: Grid, generator: torch.Generator) -> MaskSampler:
        """See `StepSampler`: the sizes of the blocks."""
        return partial(self._placed, self._sizes(grid, generator))

    def _sizes(self, grid: Grid, generator: torch.Generator) -> tuple[Grid, Grid]:
        """`(height, width)` in units of a target block and of the context block."""
        scale, aspect, context = (
            _between(limits, generator) for limits in (self.target_scale, self.target_aspect, self.context_scale)
        )
        return _block(grid, scale, aspect), _block(grid, context, 1.0)

    def _placed(self, sizes: tuple[Grid, Grid], grid: Grid, generator: torch.Generator) -> MaskWithTargets:
        fewest = math.ceil(self.least * grid[0] * grid[1])
        best: MaskWithTargets | None = None
        for _ in range(TRIES):
            targets = torch.stack([_place(sizes[0], grid, generator) for _ in range(self.targets)])
            drawn = MaskWithTargets(~_place(sizes[1], grid, generator) | targets.any(0), targets)
            if best is None or drawn.hidden.sum() < best.hidden.sum():
                best = drawn
            if (~best.hidden).sum() >= fewest:
                break
        assert best is not None
        return best


def _range(name: str, given: Sequence[float], most: float, example: str) -> Range:
    low, high = given if isinstance(given, Sequence) and len(given) == 2 else (given, given)
    if not (isinstance(low, (int, float)) and isinstance(high, (int, float)) and 0 < low <= high <= most):
        limit = "above 0" if most == math.inf else "in (0, 1]"
        raise InputError(f"mask.{name}={given} is not a number {limit}, nor a range; I-JEPA uses mask.{name}={example}")
    return float(low), float(high)


def _between(limits: Range, generator: torch.Generator) -> float:
    low, high = limits
    return low + (high - low) * float(torch.rand((), generator=generator))


def _block(grid: Grid, scale: float, aspect: float) -> Grid:
    """Sides of a block of some area, at least one unit and at most the grid."""
    area = scale * grid[0] * grid[1]
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(max(height, 1), grid[0]), min(max(width, 1), grid[1])


def _place(size: Grid, grid: Grid, generator: torch.Generator) -> Tensor:
    """A block at a random place, all places equally likely."""
    top, left = (
        int(torch.randint(side - part + 1, (), generator=generator)) for side, part in zip(grid, size, strict=True)
    )
    block = torch.zeros(grid, dtype=torch.bool)
    block[top : top + size[0], left : left + size[1]] = True
    return block
