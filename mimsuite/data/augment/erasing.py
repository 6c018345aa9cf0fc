"""Random erasing: a rectangle of the picture becomes noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from mimsuite.data.augment.crop import probability_of
from mimsuite.errors import InputError

_TRIES = 10  # then the picture stays whole


class RandomErasing:
    """Fills one rectangle with noise of the data's mean and spread (Zhong et al. 2020).

    After normalisation it is standard normal noise, drawn for each pixel and channel, as in the published recipes,
    but for values beyond the range of the pixels, which are clipped.
    """

    def __init__(
        self,
        probability: float,
        mean: Sequence[float],
        std: Sequence[float],
        scale: Sequence[float] = (0.02, 1 / 3),
        ratio: Sequence[float] = (0.3, 3.3),
    ) -> None:
        """Takes the rectangle's range and the noise's.

        Args:
            probability: that a picture is changed.
            mean: of the data, per channel, as a fraction of the data type's maximum.
            std: of the data, likewise; a channel whose deviation is 0 is filled with its mean.
            scale: smallest and largest share of the picture's area.
            ratio: smallest and largest height / width of the rectangle.

        Raises:
            InputError: a value is out of range.
        """
        self.probability = probability_of("erasing", probability, 0.25)
        if len(mean) != len(std) or not mean:
            raise InputError(f"RandomErasing takes a mean and a std per channel, not {len(mean)} and {len(std)}")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(f"RandomErasing's scale={list(scale)} is not a range within (0, 1]; use [0.02, 0.33]")
        if not 0 < ratio[0] <= ratio[1]:
            raise InputError(f"RandomErasing's ratio={list(ratio)} is not a range above 0; use [0.3, 3.3]")
        self._mean, self._std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        self._scale, self._log_ratio = (scale[0], scale[1]), (math.log(ratio[0]), math.log(ratio[1]))

    def __call__(self, picture: Tensor, generator: Generator) -> Tensor:
        """Draws a rectangle smaller than the picture, and its noise.

        Args:
            picture: `(C, H, W)` uint8, or int32 holding uint16 values; it is not changed.
            generator: decides all.

        Returns:
            A picture of the same shape and dtype; the same one where nothing is erased.
        """
        channels, height, width = picture.shape
        if channels != len(self._mean):
            raise InputError(f"RandomErasing's mean has {len(self._mean)} values, but the picture {channels} channels")
        draws = torch.rand(2 * _TRIES + 3, generator=generator, dtype=torch.float64).tolist()
        sides = self._sides(height, width, draws)
        if draws[-1] >= self.probability or sides is None:
            return picture
        h, w = sides
        top, left = int(draws[-3] * (height - h + 1)), int(draws[-2] * (width - w + 1))
        noise = torch.randn((channels, h, w), generator=generator).mul_(self._std).add_(self._mean)
        maximum = 255 if picture.dtype == torch.uint8 else 65535
        erased = picture.clone()
        erased[:, top : top + h, left : left + w] = noise.mul_(maximum).round_().clamp_(0, maximum).to(picture.dtype)
        return erased

    def _sides(self, height: int, width: int, draws: Sequence[float]) -> tuple[int, int] | None:
        """Height and width of the first rectangle that fits."""
        (small, large), (low, high) = self._scale, self._log_ratio
        for i in range(_TRIES):
            area = height * width * (small + (large - small) * draws[2 * i])
            proportion = math.exp(low + (high - low) * draws[2 * i + 1])
            h, w = round(math.sqrt(area * proportion)), round(math.sqrt(area / proportion))
            if 0 < h < height and 0 < w < width:
                return h, w
        return None
