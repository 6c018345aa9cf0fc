"""RandAugment: a few operations, drawn for each picture, that change its colours or its geometry.

The operations are Pillow's on uint8, to the last bit, and likewise on uint16 and on any number of channels: geometry,
curves and the sharpness filter act on each channel; what needs the grey picture takes the luma of three channels, and
the mean of any other number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Generator, Tensor

from mimsuite.data.augment.crop import probability_of
from mimsuite.errors import InputError

Array = NDArray[Any]  # (C, H, W), uint8, or int32 holding uint16 values

_LARGEST = 10.0  # of the scale on which a magnitude is given
_MID_GREY = 128 / 255
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Draw(NamedTuple):
    """How an operation is carried out.

    Attributes:
        strength: magnitude / 10, from 0 to 1.
        sign: 1 or -1, for what has two directions.
        fill: value, per channel, of what lies outside the picture.
        resampling: Pillow's filter for geometry.
    """

    strength: float
    sign: int
    fill: Sequence[int]
    resampling: Image.Resampling

    @property
    def factor(self) -> float:
        """Of the operations that mix a picture with a poorer one of itself: 1 leaves it, 0 makes it the poorer one."""
        return max(0.1, 1 + self.sign * self.strength * 0.9)


class RandAugment:
    """Operations drawn with equal chances, `layers` one after the other (Cubuk et al. 2020).

    The defaults are `rand-m9-mstd0.5-inc1`, with which DeiT, MAE and CvT were fine-tuned: in this variant every
    operation grows stronger with the magnitude. There is one difference: Posterize keeps at least one bit.
    """

    def __init__(
        self,
        layers: int = 2,
        magnitude: float = 9.0,
        magnitude_std: float = 0.5,
        probability: float = 0.5,
        fill: Sequence[float] | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        """Takes how much is done.

        Args:
            layers: how many operations are drawn for a picture.
            magnitude: mean of the operations' strength, from 0 to 10.
            magnitude_std: its standard deviation; what is drawn is clipped to 0 to 10.
            probability: that a drawn operation is carried out.
            fill: what lies outside of a turned or shifted picture, per channel, as fractions of the data type's
                maximum; None is mid-grey. The published recipe fills with the mean of the data.
            interpolation: "bicubic" or "bilinear", of the geometric operations.

        Raises:
            InputError: a value is out of range.
        """
        if not (isinstance(layers, int) and layers >= 1):
            raise InputError(f"augment.rand_augment.layers={layers} is not a count of 1 or more; the recipe uses 2")
        if not (isinstance(magnitude, int | float) and 0 <= magnitude <= _LARGEST):
            raise InputError(f"augment.rand_augment.magnitude={magnitude} is not within 0 to 10; the recipe uses 9")
        if not (isinstance(magnitude_std, int | float) and 0 <= magnitude_std < float("inf")):
            raise InputError(f"augment.rand_augment.magnitude_std={magnitude_std} is not a spread; use 0.5, or 0")
        self.layers, self.magnitude, self.magnitude_std = layers, magnitude, magnitude_std
        self.probability = probability_of("rand_augment.probability", probability, 0.5)
        self._fill, self._resampling = fill, RESAMPLING[interpolation]

    def __call__(self, picture: Tensor, generator: Generator) -> Tensor:
        """Carries out what it draws; the number of draws is always the same.

        Args:
            picture: `(C, H, W)` uint8, or int32 holding uint16 values; it is not changed.
            generator: decides all.

        Returns:
            A picture of the same shape and dtype.
        """
        uniform = torch.rand(self.layers, 3, generator=generator, dtype=torch.float64).tolist()
        normal = torch.randn(self.layers, generator=generator, dtype=torch.float64).tolist()
        array = np.ascontiguousarray(picture.numpy())
        fill = self._values(len(array), _top(array))
        for (which, whether, side), deviation in zip(uniform, normal, strict=True):
            magnitude = min(max(self.magnitude + self.magnitude_std * deviation, 0.0), _LARGEST)
            draw = Draw(magnitude / _LARGEST, 1 if side < 0.5 else -1, fill, self._resampling)
            if whether < self.probability:
                array = OPERATIONS[int(which * len(OPERATIONS))](array, draw)
        return torch.from_numpy(np.array(array))  # a copy: Pillow's arrays are read-only, and the caller's stays his

    def _values(self, channels: int, top: int) -> list[int]:
        fill = [_MID_GREY] * channels if self._fill is None else self._fill
        if len(fill) != channels:
            raise InputError(f"RandAugment's fill has {len(fill)} values, but the picture has {channels} channels")
        return [round(min(max(value, 0.0), 1.0) * top) for value in fill]


def auto_contrast(picture: Array, draw: Draw) -> Array:
    """Stretches each channel to the full range."""
    top = _top(picture)
    return np.stack([_stretch(plane, top)[plane] for plane in picture])


def equalize(picture: Array, draw: Draw) -> Array:
    """Makes all values of a channel about equally frequent."""
    top = _top(picture)
    return np.stack([_even(plane, top)[plane] for plane in picture])


def invert(picture: Array, draw: Draw) -> Array:
    """Makes a negative."""
    return _top(picture) - picture


def rotate(picture: Array, draw: Draw) -> Array:
    """Turns by up to 30 degrees about the centre."""
    angle = draw.sign * draw.strength * 30.0
    turned = [
        np.asarray(Image.fromarray(plane).rotate(angle, draw.resampling, fillcolor=fill))
        for plane, fill in zip(picture, draw.fill, strict=True)
    ]
    return np.stack(turned).clip(0, _top(picture))


def posterize(picture: Array, draw: Draw) -> Array:
    """Keeps the highest bits of each value, from four to one."""
    top = _top(picture)
    dropped = top.bit_length() - max(1, 4 - int(draw.strength * 4))
    return picture & (top >> dropped << dropped)


def solarize(picture: Array, draw: Draw) -> Array:
    """Inverts the values from a threshold on; the threshold falls."""
    top = _top(picture)
    threshold = (256 - int(draw.strength * 256)) * _unit(top)
    return np.where(picture < threshold, picture, top - picture)


def solarize_add(picture: Array, draw: Draw) -> Array:
    """Makes the values of the lower half brighter, by up to 110 of 255."""
    top = _top(picture)
    more = int(draw.strength * 110) * _unit(top)
    return np.where(picture <= top // 2, np.minimum(picture, top - more) + more, picture)


def color(picture: Array, draw: Draw) -> Array:
    """More or less saturated: nearer to the grey picture, or farther from it. One channel stays as it is."""
    return _blend(np.broadcast_to(_grey(picture), picture.shape), picture, draw.factor)


def contrast(picture: Array, draw: Draw) -> Array:
    """More or less contrast: nearer to the grey picture's mean, or farther from it."""
    mean = int(_grey(picture).mean(dtype=np.float64) + 0.5)
    return _blend(np.full_like(picture, mean), picture, draw.factor)


def brightness(picture: Array, draw: Draw) -> Array:
    """Brighter or darker."""
    return _blend(np.zeros_like(picture), picture, draw.factor)


def sharpness(picture: Array, draw: Draw) -> Array:
    """Blurred or sharpened."""
    rows = np.asarray(Image.fromarray(_stacked(picture)).filter(ImageFilter.SMOOTH))
    smooth = rows.reshape(picture.shape).copy()
    smooth[:, [0, -1]] = picture[:, [0, -1]]  # the filter leaves a picture's edges, but these are inside of the stack
    return _blend(smooth, picture, draw.factor)


def shear_x(picture: Array, draw: Draw) -> Array:
    """Shifts each row by up to 0.3 of its distance from the top."""
    return _affine(picture, draw, (1, draw.sign * draw.strength * 0.3, 0, 0, 1, 0))


def shear_y(picture: Array, draw: Draw) -> Array:
    """Shifts each column by up to 0.3 of its distance from the left."""
    return _affine(picture, draw, (1, 0, 0, draw.sign * draw.strength * 0.3, 1, 0))


def translate_x(picture: Array, draw: Draw) -> Array:
    """Shifts to the side by up to 0.45 of the width."""
    return _affine(picture, draw, (1, 0, draw.sign * draw.strength * 0.45 * picture.shape[2], 0, 1, 0))


def translate_y(picture: Array, draw: Draw) -> Array:
    """Shifts up or down by up to 0.45 of the height."""
    return _affine(picture, draw, (1, 0, 0, 0, 1, draw.sign * draw.strength * 0.45 * picture.shape[1]))


#: What is drawn from.
OPERATIONS: tuple[Callable[[Array, Draw], Array], ...] = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    color,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


def _top(picture: Array) -> int:
    return 255 if picture.dtype == np.uint8 else 65535


def _unit(top: int) -> int:
    """The size of one of 256 levels."""
    return (top + 1) // 256


def _stretch(plane: Array, top: int) -> Array:
    levels = np.arange(top + 1)
    low, high = int(plane.min()), int(plane.max())
    if low < high:
        scale = top / (high - low)
        levels = (levels * scale + -low * scale).astype(np.int64).clip(0, top)
    return levels.astype(plane.dtype)


def _even(plane: Array, top: int) -> Array:
    """Pillow's curve. Its whole-numbered step would be 0 for most uint16 pictures, so theirs is a fraction."""
    counts = np.bincount(plane.ravel(), minlength=top + 1)
    below = np.cumsum(counts) - counts
    spread = plane.size - int(counts[int(plane.max())])
    step = spread // 255 if top == 255 else spread
    if step == 0:
        return np.arange(top + 1).astype(plane.dtype)
    share = below if top == 255 else below * top
    return ((share + step // 2) // step).clip(0, top).astype(plane.dtype)


def _grey(picture: Array) -> Array:
    """`(H, W)`: the luma of three channels as Pillow rounds it, else the channels' mean."""
    wide = picture.astype(np.uint32)
    if len(picture) == 3:
        grey = (wide[0] * 19595 + wide[1] * 38470 + wide[2] * 7471 + 0x8000) >> 16
    else:
        grey = (wide.sum(axis=0) + len(picture) // 2) // len(picture)
    return np.asarray(grey, dtype=picture.dtype)


def _blend(poorer: Array, picture: Array, factor: float) -> Array:
    if picture.dtype == np.uint8:
        mixed = Image.blend(Image.fromarray(_stacked(poorer)), Image.fromarray(_stacked(picture)), factor)
        return np.asarray(mixed).reshape(picture.shape)
    return (poorer + factor * (picture - poorer)).clip(0, 65535).astype(picture.dtype)


def _stacked(picture: Array) -> Array:
    """The channels below one another, `(C * H, W)`: one image of Pillow's mode L or I."""
    return picture.reshape(-1, picture.shape[2])


def _affine(picture: Array, draw: Draw, matrix: tuple[float, ...]) -> Array:
    size = (picture.shape[2], picture.shape[1])
    moved = [
        np.asarray(
            Image.fromarray(plane).transform(size, Image.Transform.AFFINE, matrix, draw.resampling, fillcolor=fill)
        )
        for plane, fill in zip(picture, draw.fill, strict=True)
    ]
    return np.stack(moved).clip(0, _top(picture))  # cubic curves overshoot; Pillow clips its uint8 itself
