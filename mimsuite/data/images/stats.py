"""What the pixels of a data set are like: channels, depth, mean, spread and size, from some of its images."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mimsuite.data.images.decode import DecodeError, conform, open_image
from mimsuite.errors import InputError

log = logging.getLogger("mimsuite")

_COVER = (224, 224)


class Profile(NamedTuple):
    """Facts about the images; see `DataIndex` for the fields."""

    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]


class _Moments(NamedTuple):
    channels: int
    deep: bool
    size: tuple[int, int]
    mean: np.ndarray  # (3,) or (C,): grey is counted as three equal channels
    square: np.ndarray


def measure_images(images: Iterable[tuple[str, bytes]], name: str) -> Profile:
    """Decodes `(where, bytes)` pairs; each image weighs the same, and a broken one is skipped.

    Large JPEGs are decoded at the smallest scale that covers 224 x 224 pixels. The set has three channels as
    soon as one image is coloured, and 16 bits only where all images have them.

    Raises:
        InputError: no image can be decoded, or the channel counts do not go together; `name` names the data.
    """
    found: list[_Moments] = []
    counts: dict[int, str] = {}
    reasons: list[str] = []
    for where, data in images:
        try:
            moments = _measure(data)
        except DecodeError as error:
            reasons.append(f"{where}: {error}")
            continue
        counts.setdefault(moments.channels, where)
        found.append(moments)
    if not found:
        first = f"; the first is {reasons[0]}" if reasons else ""
        raise InputError(f"{name}: none of {len(reasons)} sampled images can be decoded{first}; check the files")
    channels = 3 if set(counts) == {1, 3} else max(counts)
    if not set(counts) <= {channels, 1} or (len(counts) > 1 and channels != 3):
        seen = ", ".join(f"{c} ({where})" for c, where in sorted(counts.items()))
        raise InputError(f"{name}: images have different channel counts: {seen}; pack each kind separately")
    deep = sum(m.deep for m in found)
    if 0 < deep < len(found):
        log.warning("%s: %d of %d sampled images have 16 bits, so all are read as 8 bits", name, deep, len(found))
    mean = np.mean([m.mean for m in found], axis=0)
    std = np.sqrt(np.maximum(np.mean([m.square for m in found], axis=0) - mean**2, 0.0))
    height, width = np.median([m.size for m in found], axis=0)
    return Profile(
        channels=channels,
        dtype="uint16" if deep == len(found) else "uint8",
        mean=tuple(round(float(v), 6) for v in mean[:channels]),
        std=tuple(round(float(v), 6) for v in std[:channels]),
        image_size=(int(height), int(width)),
    )


def _measure(data: bytes) -> _Moments:
    image = open_image(data)
    pixels = image.pixels(cover=_COVER)
    if image.channels == 1:
        pixels = conform(pixels, 3, "uint16" if image.deep else "uint8")
    top = float(np.iinfo(pixels.dtype).max)
    flat = pixels.reshape(-1, pixels.shape[2]).astype(np.float32) / np.float32(top)
    mean = flat.mean(axis=0, dtype=np.float64)
    square = np.square(flat).mean(axis=0, dtype=np.float64)
    return _Moments(image.channels, image.deep, (image.height, image.width), mean, square)
