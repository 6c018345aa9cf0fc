"""Which part of an image becomes a picture, and how it is resized. Randomness is an argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from mimsuite.data.images.decode import Box, Pixels, jpeg_reduction
from mimsuite.errors import InputError
from mimsuite.words import INTERPOLATIONS

_TRIES = 10  # then the centre, as in GoogLeNet's training code that made this crop common


class Transform(Protocol):
    """Chooses a box, which is then decoded, and makes a picture of its pixels; the draws come in that order.

    Attributes:
        size: (height, width) of the picture, in pixels.
    """

    size: tuple[int, int]

    def box(self, height: int, width: int, generator: Generator) -> Box:
        """The part of a `height x width` image that is used."""
        ...

    def __call__(self, pixels: Pixels, generator: Generator) -> Tensor:
        """Makes of the box's `(h, w, C)` pixels a picture `(C, H, W)`, uint8, or int32 for uint16."""
        ...


class RandomResizedCrop:
    """A random part of the image, resized and perhaps mirrored (Szegedy et al. 2015, section 6)."""

    def __init__(
        self,
        size: Sequence[int],
        scale: Sequence[float] = (0.67, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        interpolation: str = "bicubic",
    ) -> None:
        """Takes the geometry; the defaults are SimMIM's.

        Args:
            size: (height, width) of the result, in pixels.
            scale: smallest and largest share of the image's area.
            ratio: smallest and largest width / height, for a square result; in proportion for others.
            flip: probability of mirroring left and right.
            interpolation: "bicubic" or "bilinear", both with antialiasing.

        Raises:
            InputError: a value is out of range.
        """
        self.size = _size(size)
        if not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(f"augment.scale={list(scale)} is not a range within (0, 1]; SimMIM uses [0.67,1]")
        if not 0 < ratio[0] <= ratio[1]:
            raise InputError(f"augment.ratio={list(ratio)} is not a range above 0; use [0.75,1.3333]")
        self.flip = probability_of("flip", flip, 0.5)
        self.scale, self.interpolation = (scale[0], scale[1]), _mode(interpolation)
        aspect = self.size[1] / self.size[0]
        self._log_ratio = (math.log(ratio[0] * aspect), math.log(ratio[1] * aspect))

    def box(self, height: int, width: int, generator: Generator) -> Box:
        """Draws a box of random area, proportions and place; if ten do not fit, the largest central one."""
        draws = torch.rand(2 * _TRIES + 2, generator=generator, dtype=torch.float64).tolist()
        low, high = self._log_ratio
        for i in range(_TRIES):
            area = height * width * _between(*self.scale, draws[2 * i])
            proportion = math.exp(_between(low, high, draws[2 * i + 1]))
            w, h = round(math.sqrt(area * proportion)), round(math.sqrt(area / proportion))
            if 0 < w <= width and 0 < h <= height:
                top, left = int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1))
                return align_box(Box(top, left, h, w), self.size)
        return align_box(_central(height, width, math.exp(min(max(math.log(width / height), low), high))), self.size)

    def __call__(self, pixels: Pixels, generator: Generator) -> Tensor:
        """Resizes `(h, w, C)` pixels and perhaps mirrors them: `(C, H, W)`, uint8, or int32 for uint16."""
        picture = resize_pixels(pixels, self.size, self.interpolation).contiguous()
        return picture.flip(-1) if self.mirrors(generator) else picture

    def mirrors(self, generator: Generator) -> bool:
        """Draws, after the box, whether the picture is mirrored left and right."""
        return torch.rand((), generator=generator).item() < self.flip


class CenterCrop:
    """The largest central part of the image that has the result's proportions, resized. Draws nothing."""

    def __init__(self, size: Sequence[int], interpolation: str = "bicubic") -> None:
        """Takes the result's (height, width) in pixels; `interpolation` as in `RandomResizedCrop`."""
        self.size, self.interpolation = _size(size), _mode(interpolation)

    def box(self, height: int, width: int, generator: Generator) -> Box:
        """The box, the same each time."""
        return align_box(_central(height, width, self.size[1] / self.size[0]), self.size)

    def __call__(self, pixels: Pixels, generator: Generator) -> Tensor:
        """Resizes `(h, w, C)` pixels: `(C, H, W)`, uint8, or int32 for uint16."""
        return resize_pixels(pixels, self.size, self.interpolation).contiguous()

    def mirrors(self, generator: Generator) -> bool:
        """Never; draws nothing."""
        return False


def _central(height: int, width: int, proportion: float) -> Box:
    w = max(1, min(width, round(height * proportion)))
    h = max(1, min(height, round(width / proportion)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def probability_of(key: str, value: float, usual: float) -> float:
    """Returns the value of `augment.<key>`, a probability.

    Raises:
        InputError: it is not one; the message offers the usual value.
    """
    if not (isinstance(value, int | float) and 0 <= value <= 1):
        raise InputError(f"augment.{key}={value} is not a probability; use {usual}, or 0 for none")
    return value


def align_box(box: Box, size: tuple[int, int]) -> Box:
    """Moves the edges, by less than a pixel of the result, to where a JPEG of a smaller scale can be cut."""
    factor = jpeg_reduction(box.height, box.width, size)
    return Box(*(value // factor * factor for value in box))


def resize_pixels(pixels: Pixels, size: tuple[int, int], mode: str) -> Tensor:
    """Resizes `(h, w, C)` pixels with antialiasing: `(C, H, W)` with channels last in memory, uint8, or int32."""
    deep = pixels.dtype == np.uint16
    array = np.ascontiguousarray(pixels.astype(np.float32) if deep else pixels)
    image = torch.from_numpy(array).permute(2, 0, 1)[None]  # channels-last memory: torch's fast path
    if image.shape[2:] != size:
        image = F.interpolate(image, size=size, mode=mode, antialias=True, align_corners=False)
    if deep:
        image = image.round().clamp(0, 65535).to(torch.int32)
    return image[0]


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _size(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"augment.size={list(size)} is not a (height, width) of positive pixels")
    return int(size[0]), int(size[1])


def _mode(mode: str) -> str:
    if mode not in INTERPOLATIONS:
        raise InputError(f"augment.interpolation={mode} is not supported; use {' or '.join(INTERPOLATIONS)}")
    return mode
