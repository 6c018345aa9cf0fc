"""Sizes, and resizing and cropping `(C, H, W)` arrays with Pillow and numpy, as the image processors do them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.processors.images import Array

RESAMPLE_CODES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
Size = dict[str, int]
Extent = tuple[int, int]
# The keys that a size may have.
SQUASH = ("height", "width")
EDGE = ("shortest_edge",)
EDGES = ("shortest_edge", "longest_edge")
INSIDE = ("max_height", "max_width")
SIDES = (*SQUASH, *EDGES, *INSIDE)
Forms = tuple[tuple[str, ...], ...]
ANY_FORM: Forms = (SQUASH, EDGE, EDGES, INSIDE)


class SizeDict(dict[str, int]):
    """A size whose sides are attributes too: `size.height` is `size.get("height")`."""

    def __getattr__(self, name: str) -> int | None:
        if name not in SIDES:
            raise AttributeError(name)
        return self.get(name)


def parse_size(size: Any, *, square: bool, forms: Forms = ANY_FORM, name: str = "size") -> SizeDict:
    """Returns a size as a dict of pixels.

    Args:
        size: an int, `(h, w)`, or a dict with exactly the keys of one of `forms`.
        square: whether an int means a square; else it is the shortest edge.
        forms: the allowed sets of keys.
        name: what the size is called in errors.

    Raises:
        InputError: anything else.
    """
    found = size
    if isinstance(size, int) and not isinstance(size, bool):
        found = {"height": size, "width": size} if square else {"shortest_edge": size}
    elif isinstance(size, list | tuple) and len(size) == 2:
        found = {"height": size[0], "width": size[1]}
    whole = isinstance(found, dict) and all(
        isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in found.values()
    )
    if not whole or not any(set(found) == set(keys) for keys in forms):
        allowed = ["an int", *["(h, w)" for keys in forms if keys == SQUASH], *[f"{{{', '.join(k)}}}" for k in forms]]
        raise InputError(
            f"{name}={size!r} is not a size for this processor; "
            f"use pixels as {', '.join(allowed[:-1])} or {allowed[-1]}"
        )
    return SizeDict(found)


def parse_resample(resample: Any) -> int:
    """Returns Pillow's code of a filter: a code, a name, or a member of Pillow's or torchvision's list of filters.

    Raises:
        InputError: no such filter.
    """
    codes = {name: code for code, name in RESAMPLE_CODES.items()} | {"nearest-exact": 0}
    value = getattr(resample, "value", resample)
    value = codes.get(value.lower(), value) if isinstance(value, str) else value
    if isinstance(value, bool) or value not in RESAMPLE_CODES:
        known = ", ".join(f"{k} {v}" for k, v in RESAMPLE_CODES.items())
        raise InputError(f"resample={resample} is not one of {known}")
    return int(value)


def resized_extent(size: Size, height: int, width: int) -> Extent:
    """Returns the `(h, w)` that an image is resized to.

    With a shortest edge s the short side becomes s and the long one `int(s * long / short)`; where that is more
    than `longest_edge`, the long side becomes this and the short one follows, rounded. With `max_height` and
    `max_width` it is the largest that has the ratio of the image and lies inside.
    """
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return int(height * scale), int(width * scale)
    short, long = min(height, width), max(height, width)
    new_short = size["shortest_edge"]
    new_long = int(new_short * long / short)
    if "longest_edge" in size and new_short * long / short > size["longest_edge"]:
        new_long = size["longest_edge"]
        new_short = max(round(new_long * short / long), 1)
    return (new_short, new_long) if height <= width else (new_long, new_short)


def resize_pil(image: Array, extent: Extent, resample: int) -> Array:
    """Resizes `(C, H, W)` with Pillow, each channel for itself; floats are quantised to uint8 on the way.

    Returns:
        uint8; float32 from 0 to 1 if the values were fractions from 0 to 1.

    Raises:
        InputError: values that are neither whole numbers from 0 to 255 nor fractions from 0 to 1.
    """
    fractions = False
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        whole = bool(np.allclose(image, np.trunc(image)))
        fractions = not whole and low >= 0 and high <= 1
        if not fractions and not (whole and low >= 0 and high <= 255):
            raise InputError(
                f"image values from {low:g} to {high:g}: resizing with Pillow needs whole numbers from 0 to 255 or "
                "fractions from 0 to 1; convert to uint8, or resize before and pass do_resize=False"
            )
        scaled = (image.astype(np.float64) * 255).astype(np.float32) if fractions else image
        image = scaled.astype(np.uint8)
    target = (extent[1], extent[0])
    if len(image) == 3:  # one call instead of three
        packed = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        out = np.asarray(packed.resize(target, Image.Resampling(resample))).transpose(2, 0, 1)
    else:
        planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image]
        out = np.stack([np.asarray(plane.resize(target, Image.Resampling(resample))) for plane in planes])
    return (out.astype(np.float64) / 255).astype(np.float32) if fractions else out


def center_crop(image: Array, extent: Extent) -> Array:
    """Cuts the centre out of `(..., H, W)`, from row `(H - h) // 2` and column `(W - w) // 2`.

    Both may be negative: what lies outside is zero, so the result has exactly the size `extent`.
    """
    starts, around = [], [(0, 0)] * (image.ndim - 2)
    for have, want in zip(image.shape[-2:], extent, strict=True):
        first = (have - want) // 2
        around.append((max(-first, 0), max(first + want - have, 0)))
        starts.append(max(first, 0))
    if any(before or after for before, after in around):
        image = np.pad(image, around)
    (top, left), (height, width) = starts, extent
    return image[..., top : top + height, left : left + width]


def pad_images(images: list[Any], size: Size | None) -> list[Any]:
    """Fills `(C, H, W)` arrays or tensors up with zeros at the bottom and right; None: to the largest of them.

    Raises:
        InputError: an image that is larger than `size`.
    """
    height = max(image.shape[1] for image in images) if size is None else size["height"]
    width = max(image.shape[2] for image in images) if size is None else size["width"]
    filled = []
    for image in images:
        below, right = height - image.shape[1], width - image.shape[2]
        if below < 0 or right < 0:
            raise InputError(f"pad_size={height}x{width} is smaller than an image of {image.shape[1]}x{image.shape[2]}")
        tensor = isinstance(image, torch.Tensor)
        filled.append(F.pad(image, (0, right, 0, below)) if tensor else np.pad(image, ((0, 0), (0, below), (0, right))))
    return filled
