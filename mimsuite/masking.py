"""Which parts of an image are hidden: samplers with an exact count. True, or 1, means hidden."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from mimsuite.errors import InputError


class MaskSampler(Protocol):
    """Draws the mask of one image; the same generator state gives the same mask."""

    def __call__(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Returns a mask of `grid = (gh, gw)` units, bool, True = hidden."""
        ...


class RandomMask:
    """Hides `ceil(T * ratio)` of T units, all choices equally likely (Xie et al. 2022, section 3.2)."""

    def __init__(self, ratio: float) -> None:
        """Takes the share of units to hide, in (0, 1].

        Raises:
            InputError: `ratio` is out of range.
        """
        if not 0 < ratio <= 1:
            raise InputError(f"mask.ratio={ratio} is not in (0, 1]; SimMIM uses mask.ratio=0.6")
        self.ratio = float(ratio)

    def __call__(self, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Returns a mask of `grid = (gh, gw)` units, bool, True = hidden."""
        units = grid[0] * grid[1]
        mask = torch.zeros(units, dtype=torch.bool)
        mask[torch.randperm(units, generator=generator)[: math.ceil(units * self.ratio)]] = True
        return mask.view(grid)


class MaskGenerator:
    """SimMIM's mask generator: units of `mask_patch_size` pixels, given on the grid of model patches.

    Attributes:
        grid: (gh, gw), model patches per axis.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int] = 192,
        mask_patch_size: int = 32,
        model_patch_size: int = 4,
        mask_ratio: float = 0.6,
    ) -> None:
        """Takes the image side, or (height, width), and the sides of mask units and model patches, in pixels.

        Raises:
            InputError: the image is no whole number of units, a unit no whole number of patches, or the ratio
                is not in (0, 1].
        """
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        m, p = mask_patch_size, model_patch_size
        if m < 1 or height < 1 or width < 1 or height % m or width % m:
            raise InputError(
                f"input_size {height}x{width} is not a multiple of mask_patch_size {m}; change one of them"
            )
        if p < 1 or m % p:
            raise InputError(f"mask_patch_size {m} is not a multiple of model_patch_size {p}; change one of them")
        self._sampler = RandomMask(mask_ratio)
        self._units, self._repeat = (height // m, width // m), m // p
        self.grid = (height // p, width // p)

    def __call__(self, generator: torch.Generator, flat: bool = False) -> Tensor:
        """Returns the mask of one image, `(gh, gw)` or flat `(gh * gw,)` int64, 1 = hidden."""
        mask = self._sampler(self._units, generator).long()
        mask = mask.repeat_interleave(self._repeat, dim=0).repeat_interleave(self._repeat, dim=1)
        return mask.flatten() if flat else mask
