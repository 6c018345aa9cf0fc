"""Crops that the device resizes and mirrors: the loader sends decoded pixels on a canvas, and what to do with them.

Boxes, and which pictures are mirrored, are those of the same transform in the loader, for they are drawn there. The
resizing is torch's antialiased one, written as two products of matrices for the whole batch; it differs from that of
the loader in rounding only, but for boxes of more than twice the picture's size, which the loader makes smaller first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from mimsuite.data.augment.crop import Transform, resize_pixels
from mimsuite.data.images.decode import Box, Pixels
from mimsuite.errors import InputError

_MOST = 2  # sides of a canvas, as a multiple of the picture's
_CHUNK = 32  # pictures that are made at a time, for they need memory as float32


@runtime_checkable
class PlainCrop(Transform, Protocol):
    """A transform that crops, resizes and perhaps mirrors, and does nothing else.

    Attributes:
        interpolation: one of `words.INTERPOLATIONS`.
    """

    interpolation: str

    def mirrors(self, generator: Generator) -> bool:
        """Draws, after the box, whether the picture is mirrored left and right."""
        ...


class DeferredCrop:
    """A crop in two parts: the loader draws and decodes, the device resizes and mirrors.

    Attributes:
        size: (height, width) of the picture, in pixels.
        canvas: the most pixels of a box that are sent, per axis.
    """

    def __init__(self, crop: Transform) -> None:
        """Takes the transform whose draws it has.

        Raises:
            InputError: one that may do more than crop and mirror.
        """
        if not isinstance(crop, PlainCrop) or not issubclass(_definer(crop, "mirrors"), _definer(crop, "__call__")):
            raise InputError(
                f"augment.device=gpu needs an augmentation with interpolation and mirrors(generator), which "
                f"{type(crop).__name__} does not have for its own __call__; use augment.device=cpu"
            )
        self._crop, self.size = crop, crop.size
        self.canvas = (_MOST * crop.size[0], _MOST * crop.size[1])

    def box(self, height: int, width: int, generator: Generator) -> Box:
        """Draws the part of a `height x width` image that is used."""
        return self._crop.box(height, width, generator)

    def __call__(self, pixels: Pixels, generator: Generator) -> tuple[Tensor, bool]:
        """The box's `(h, w, C)` pixels, uint8, or int32 for uint16, and whether their picture is mirrored.

        An axis that is longer than the canvas is made as long as that.
        """
        height, width = (min(length, most) for length, most in zip(pixels.shape, self.canvas, strict=False))
        resized = resize_pixels(pixels, (height, width), "bicubic")  # the sharper one, whatever follows
        return resized.permute(1, 2, 0), self._crop.mirrors(generator)

    def make_pictures(self, canvases: Tensor, windows: Tensor) -> Tensor:
        """Resizes and mirrors a batch where it lies; nobody waits for the device.

        Args:
            canvases: `(B, height, width, C)`, uint8, or int32 holding uint16 values.
            windows: `(B, 3)`, as of `on_canvases`.

        Returns:
            `(B, C, H, W)` of the same dtype.
        """
        with torch.autocast(canvases.device.type, enabled=False):
            parts = zip(torch.split(canvases, _CHUNK), torch.split(windows, _CHUNK), strict=True)
            return torch.cat([_make(*part, self.size, self._crop.interpolation) for part in parts])


def _definer(thing: object, method: str) -> type:
    """The class that a method comes from: a subclass with another `__call__` does more than what it inherits says."""
    return next(cls for cls in type(thing).__mro__ if method in vars(cls))


def on_canvases(boxes: Sequence[Tensor], mirrored: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Puts the pixels of a batch, `(h, w, C)` each, into the upper left of canvases as large as the largest.

    Returns:
        The canvases `(B, height, width, C)`, black elsewhere, and windows `(B, 3)`, int64: h, w, and 1 where the
        picture is mirrored.
    """
    height, width = (max(box.shape[axis] for box in boxes) for axis in (0, 1))
    padded = [F.pad(box, (0, 0, 0, width - box.shape[1], 0, height - box.shape[0])) for box in boxes]
    windows = [(box.shape[0], box.shape[1], int(mirror)) for box, mirror in zip(boxes, mirrored, strict=True)]
    return default_collate(padded), torch.tensor(windows)


def _make(canvases: Tensor, windows: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    count, height, width, channels = canvases.shape
    down = resampling(windows[:, 0], size[0], height, mode)
    right = resampling(windows[:, 1], size[1], width, mode)
    right = torch.where(windows[:, 2, None, None] > 0, right.flip(1), right)
    rows = canvases.transpose(2, 3).float().reshape(count, height * channels, width) @ right.mT
    if canvases.dtype == torch.uint8:  # as in torch's kernel for it, which cuts what the filter puts above white
        rows = rows.round_().clamp_(0, 255)
    pictures = (down @ rows.view(count, height, channels * size[1])).round_()
    pictures = pictures.clamp_(0, 255 if canvases.dtype == torch.uint8 else 65535)
    return pictures.view(count, size[0], channels, size[1]).transpose(1, 2).to(canvases.dtype).contiguous()


def resampling(lengths: Tensor, size: int, canvas: int, mode: str) -> Tensor:
    """The weights that make `size` pixels of the first `lengths` of a `canvas`: `(B, size, canvas)`, float32.

    Where there are more than `size`, the filter is stretched, so that every pixel counts (antialiasing).
    """
    scale = lengths[:, None, None] / size
    pixels = torch.arange(canvas, device=lengths.device)
    centres = scale * (torch.arange(size, device=lengths.device)[:, None] + 0.5)
    weights = FILTERS[mode](((pixels + 0.5 - centres) / scale.clamp(min=1)).abs())
    weights = torch.where(pixels < lengths[:, None, None], weights, 0.0)
    return weights / weights.sum(2, keepdim=True)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' filter with a = -0.5, as of torch's antialiased resizing and Pillow's (Keys 1981, equation 15)."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _bilinear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": _bicubic, "bilinear": _bilinear}
