"""Whether image size, cells and mask units fit together, and which unit fits. Imports no torch."""

from __future__ import annotations

import math

from mimsuite.errors import InputError

Pair = tuple[int, int]


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
    fitting = [u for u in range(step, min(image_size) + 1, step) if all(side % u == 0 for side in image_size)]
    if not fitting:
        check_unit(image_size, cell, cell, step)
    return min(fitting, key=lambda unit: (abs(math.log(unit / wanted)), unit))


def hidden_units(units: int, ratio: float) -> int:
    """How many of `units` a mask hides: the share rounded up, in double precision (SimMIM's rule)."""
    return math.ceil(units * ratio)


def check_image_size(image_size: Pair, stride: Pair) -> None:
    """Checks that the cells of the feature map tile the image.

    Args:
        image_size: (height, width) in pixels.
        stride: (height, width) pixels per cell.

    Raises:
        InputError: they do not; the message names sizes that do.
    """
    for name, side, step in zip(("height", "width"), image_size, stride, strict=True):
        if side < 1 or side % step:
            sizes = _sizes(image_size, math.lcm(*stride))
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
        fix = " or ".join(str(u) for u in _around(unit, step))
        raise InputError(
            f"mask.unit {unit} is not a multiple of the model's mask cell {_show(cell)}; use mask.unit={fix}"
        )
    for name, side in zip(("height", "width"), image_size, strict=True):
        if side % unit:
            sizes = _sizes(image_size, math.lcm(unit, *stride))
            raise InputError(f"image {name} {side} is not a multiple of mask.unit {unit}; use {sizes}")


def _show(sides: Pair) -> str:
    return str(sides[0]) if sides[0] == sides[1] else f"{sides[0]}x{sides[1]}"


def _around(value: int, step: int) -> list[int]:
    below = value // step * step
    return [v for v in (below, below + step) if v > 0]


def _sizes(image_size: Pair, step: int) -> str:
    height, width = image_size
    if height == width:
        return "image_size=" + " or ".join(str(side) for side in _around(height, step))
    nearest = [max(step, round(side / step) * step) for side in image_size]
    return f"image_size=[{nearest[0]},{nearest[1]}]"
