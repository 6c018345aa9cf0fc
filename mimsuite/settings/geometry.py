"""Sizes of a run in pixels: image, channels, mask unit. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from omegaconf import DictConfig

from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.masked.geometry import Pair, auto_mask_unit, check_image_size, check_unit
from mimsuite.settings.read import format_size, read, read_int, read_size

FALLBACK_SIZE = 224


@dataclass(frozen=True)
class Geometry:
    """Sizes of a run in pixels.

    Attributes:
        image_size: `(H, W)`.
        channels: image channels.
        mask_unit: side of the squares that masks are drawn in; 0 where no masks are.
        drops: whether the encoder leaves hidden patches out.
        notes: `key=value (reason)` for every value that was chosen here.
    """

    image_size: Pair
    channels: int
    mask_unit: int
    drops: bool
    notes: tuple[str, ...]

    @property
    def grid(self) -> Pair:
        """`(h, w)` mask units."""
        return self.image_size[0] // self.mask_unit, self.image_size[1] // self.mask_unit

    @property
    def units(self) -> int:
        """Mask units per image."""
        return self.grid[0] * self.grid[1]


def read_masked_geometry(
    cfg: DictConfig, index: DataIndex, *, native: Pair | None, stride: Pair, cell: Pair, drops: bool
) -> Geometry:
    """Reads image size, channels and mask unit, and checks that they fit together.

    Args:
        cfg: read are `image_size`, `channels`, `mask.unit`.
        index: the data.
        native: the model's own `(H, W)`, or None for models that take any.
        stride: `(h, w)` pixels per cell of the feature map; ViT: the patch.
        cell: `(h, w)` pixels of which a mask unit must be a multiple; ViT: the patch.
        drops: whether the encoder leaves hidden patches out; then `auto` makes a unit of one patch.

    Raises:
        InputError: sizes that do not fit, with sizes that would.
    """
    image_size, notes = chosen_size(cfg, index, native, stride)
    channels = read_channels(cfg, index)
    unit = mask_unit(read_int(cfg, "mask.unit", auto=0), image_size, stride, cell, drops)
    if read(cfg, "mask.unit") == "auto":
        reason = (
            "one patch, as hidden ones are dropped" if drops else "chosen: about a seventh of the side, in whole cells"
        )
        notes.append(f"mask.unit={unit} ({reason})")
    return Geometry(image_size, channels, unit, drops, tuple(notes))


def read_plain_geometry(cfg: DictConfig, index: DataIndex, *, native: Pair | None, stride: Pair) -> Geometry:
    """Reads image size and channels of a run without masks; arguments and errors as of `read_masked_geometry`."""
    image_size, notes = chosen_size(cfg, index, native, stride)
    check_image_size(image_size, stride)
    return Geometry(image_size, read_channels(cfg, index), 0, False, tuple(notes))


def chosen_size(cfg: DictConfig, index: DataIndex, native: Pair | None, stride: Pair) -> tuple[Pair, list[str]]:
    """The `(H, W)` that `image_size` means, and why."""
    value = read(cfg, "image_size")
    if value != "auto":
        return read_size(value), []
    native = native or (FALLBACK_SIZE, FALLBACK_SIZE)
    image_size = auto_image_size(native, index.image_size, stride)
    reason = "the model's" if image_size == native else f"the data's median is {format_size(index.image_size)}"
    return image_size, [f"image_size={format_size(image_size)} ({reason})"]


def read_channels(cfg: DictConfig, index: DataIndex) -> int:
    """The channels that `channels` means.

    Raises:
        InputError: not those of the data.
    """
    channels = read_int(cfg, "channels", auto=index.channels)
    if channels != index.channels:
        raise InputError(
            f"channels={channels} but the images have {index.channels}; use channels={index.channels} or other data"
        )
    return channels


def mask_unit(given: int, image_size: Pair, stride: Pair, cell: Pair, drops: bool = False) -> int:
    """Side of a mask unit in pixels, checked against image and model; also checks the image.

    Args:
        given: what the user asked for; 0: chosen here.
        image_size: `(H, W)` pixels.
        stride: as of `read_masked_geometry`, like `cell` and `drops`.
        cell: see there.
        drops: see there.

    Raises:
        InputError: sizes that do not fit, with sizes that would.
    """
    check_image_size(image_size, stride, 1 if given % math.lcm(*cell) else max(given, 1))
    unit = given or (math.lcm(*cell) if drops else auto_mask_unit(image_size, cell))
    check_unit(image_size, stride, cell, unit)
    return unit


def auto_image_size(native: Pair, data: Pair, stride: Pair) -> Pair:
    """The model's `(H, W)`, or the data's shorter side rounded down to whole cells where that is smaller."""
    short = min(data)
    if short >= min(native):
        return native
    step = math.lcm(*stride)
    side = max(step, short // step * step)
    return side, side
