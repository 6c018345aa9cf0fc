"""Whether image size, cells and mask units fit together, and which unit fits. Imports no torch."""

from __future__ import annotations

import math

from mimsuite.errors import InputError

Pair = tuple[int, int]
HOG_CELL = 8  # pixels, the side of a cell of HOG


def auto_mask_unit(image_size: Pair, cell: Pair) -> int:
    """Chooses the side of a mask unit: 32 pixels from 192 on, in proportion below (SimMIM, Xie et al. 2022).

    Of the multiples of the cell that tile both sides it is the nearest in ratio, the smaller of two.

    Args:
        image_size: (height, width) in pixels.
        cell: (height, width) pixels of the finest cell that the encoder can hide (ViT: the patch).

    Raises:
        InputError: no multiple of the cell tiles the image.
    """
    step = math.lcm(*cell)
    wanted = min(32.0, min(image_size) / 6)
    fitting = tiling_units(image_size, step)
    if not fitting:
        check_unit(image_size, cell, cell, step)
    return min(fitting, key=lambda unit: (abs(math.log(unit / wanted)), unit))


def hidden_units(units: int, ratio: float) -> int:
    """How many of `units` a mask hides: the share rounded up, in double precision (SimMIM's rule)."""
    return math.ceil(units * ratio)


def check_image_size(image_size: Pair, stride: Pair, unit: int = 1) -> None:
    """Checks that the cells of the feature map tile the image.

    Args:
        image_size: (height, width) in pixels.
        stride: (height, width) pixels per cell.
        unit: side of a mask unit in pixels, where it is given; sizes that the message names are multiples.

    Raises:
        InputError: they do not; the message names sizes that do.
    """
    for name, side, step in zip(("height", "width"), image_size, stride, strict=True):
        if side < 1 or side % step:
            sizes = _sizes(image_size, math.lcm(unit, *stride))
            raise InputError(f"image {name} {side} is not a multiple of the model's stride {step}; use {sizes}")


def check_unit(image_size: Pair, stride: Pair, cell: Pair, unit: int) -> None:
    """Checks that units of `unit` pixels consist of whole cells and tile the image.

    Args:
        image_size: (height, width) in pixels.
        stride: (height, width) pixels per cell of the feature map; sizes that the message names are multiples.
        cell: (height, width) pixels of the finest cell that the encoder can hide.
        unit: side of a mask unit in pixels.

    Raises:
        InputError: they do not; the message names units or sizes that do.
    """
    step = math.lcm(*cell)
    if unit < 1 or unit % step:
        raise InputError(
            f"mask.unit {unit} is not a multiple of the model's mask cell {_show(cell)}; use "
            f"{_units(image_size, stride, step, unit)}"
        )
    for name, side in zip(("height", "width"), image_size, strict=True):
        if side % unit:
            sizes = _sizes(image_size, math.lcm(unit, *stride), above=unit)  # one unit alone hides all or nothing
            raise InputError(f"image {name} {side} is not a multiple of mask.unit {unit}; use {sizes}")


def tiling_units(image_size: Pair, step: int) -> list[int]:
    """The multiples of `step` pixels that tile both sides of an image, smallest first."""
    return [u for u in range(step, min(image_size) + 1, step) if all(side % u == 0 for side in image_size)]


def _show(sides: Pair) -> str:
    return str(sides[0]) if sides[0] == sides[1] else f"{sides[0]}x{sides[1]}"


def _units(image_size: Pair, stride: Pair, step: int, unit: int) -> str:
    """The units nearest to `unit` that tile the image; where none does, one with an image that it tiles."""
    tiling = tiling_units(image_size, step)
    fitting = [u for u in tiling if u * u < math.prod(image_size)] or tiling
    if not fitting:
        return f"mask.unit={step} {_sizes(image_size, math.lcm(step, *stride)).partition(' or ')[0]}"
    nearest = [u for u in fitting if u <= unit][-1:] + [u for u in fitting if u > unit][:1]
    return "mask.unit=" + " or ".join(map(str, nearest))


def nearest_multiples(value: int, step: int) -> list[int]:
    """The multiples of `step` next to `value`, below and above, without 0."""
    below = value // step * step
    return [v for v in (below, below + step) if v > 0]


def _sizes(image_size: Pair, step: int, above: int = 0) -> str:
    """The sizes nearest to the image's that are multiples of `step`, squares only those above a side."""
    height, width = image_size
    if height == width:
        nearest = [side for side in nearest_multiples(height, step) if side > above] or [2 * step]
        return "image_size=" + " or ".join(map(str, nearest))
    rounded = [max(step, round(side / step) * step) for side in image_size]
    return f"image_size=[{rounded[0]},{rounded[1]}]"
