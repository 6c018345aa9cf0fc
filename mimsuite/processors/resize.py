"""Sizes, resizing and cropping of `(C, H, W)` arrays and tensors, as the image processors do them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.processors.images import Array

RESAMPLE_CODES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
TENSOR_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
Size = dict[str, int]
Extent = tuple[int, int]
# The keys that a size may have.
SQUASH = ("height", "width")
EDGE = ("shortest_edge",)
EDGES = ("shortest_edge", "longest_edge")
Forms = tuple[tuple[str, ...], ...]


def parse_size(size: Any, *, square: bool, forms: Forms = (SQUASH, EDGE, EDGES), name: str = "size") -> Size:
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
    return dict(found)


def resized_extent(size: Size, height: int, width: int) -> Extent:
    """Returns the `(h, w)` that an image is resized to.

    With a shortest edge s the short side becomes s and the long one `int(s * long / short)`; where that is more
    than `longest_edge`, the long side becomes this and the short one follows, rounded.
    """
    if "height" in size:
        return size["height"], size["width"]
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


def resize_tensor(images: torch.Tensor, extent: Extent, resample: int) -> torch.Tensor:
    """Resizes `(B, C, H, W)` with antialiasing; whole numbers stay of their dtype, rounded and clamped.

    uint8 is resized as such, other whole numbers as float32.
    """
    if tuple(images.shape[2:]) == extent:
        return images
    mode = TENSOR_MODES[resample]
    smooth = mode != "nearest-exact"
    given = images.dtype
    if given != torch.uint8 and not given.is_floating_point:
        images = images.float()
    resized = F.interpolate(images, size=extent, mode=mode, antialias=smooth, align_corners=False if smooth else None)
    if given == torch.uint8 or given.is_floating_point:
        return resized
    limits = torch.iinfo(given)
    return resized.round().clamp(limits.min, limits.max).to(given)


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
