"""What the pixels of a data set are like: channels, depth, mean, spread, range and size, from some of its images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.images.decode import DecodeError, conform, open_image
from mimsuite.data.images.pixels import Remark
from mimsuite.errors import InputError
from mimsuite.types import DisplayRange
from mimsuite.words import Alpha

log = logging.getLogger("mimsuite")

_COVER = (224, 224)
_LOW, _HIGH = 0.01, 0.99  # shares of the pixels below the display's black and its full brightness


class Profile(NamedTuple):
    """Facts about the images; see `DataIndex` for the fields."""

    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    display: DisplayRange | None


class _Moments(NamedTuple):
    channels: int
    deep: bool
    size: tuple[int, int]
    mean: np.ndarray  # (3,) or (C,): grey is counted as three equal channels
    square: np.ndarray
    remarks: tuple[Remark, ...]


def measure_images(images: Iterable[tuple[str, bytes]], name: str, alpha: Alpha = "white") -> Profile:
    """Decodes `(where, bytes)` pairs; each image weighs the same, and a broken one is skipped.

    Large JPEGs are decoded at the smallest scale that covers 224 x 224 pixels. The set has three channels as
    soon as one image is coloured, and 16 bits only where all images have them. What was left out of the files, or
    decided, is logged: one line for each kind of remark.

    Raises:
        InputError: no image can be decoded, or the channel counts do not go together; `name` names the data.
    """
    found: list[_Moments] = []
    counts: dict[int, str] = {}
    levels: dict[int, NDArray[np.float64]] = {}
    reasons: list[str] = []
    for where, data in images:
        try:
            moments = _measure(data, levels, alpha)
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
        top = max(round(65535 * max(display_range(table).high)) for table in levels.values())
        log.warning(
            "%s: %d of %d sampled images have 16 bits, so all are read as 8 bits, and values up to %s become 0 to %d "
            "of 255; pack each depth separately to keep them",
            *(name, deep, len(found), f"{top:,}", (top + 128) // 257),
        )
    report_remarks([remark for m in found for remark in m.remarks], f"{len(found)} sampled", name)
    mean = np.mean([m.mean for m in found], axis=0)
    std = np.sqrt(np.maximum(np.mean([m.square for m in found], axis=0) - mean**2, 0.0))
    height, width = np.median([m.size for m in found], axis=0)
    return Profile(
        channels=channels,
        dtype="uint16" if deep == len(found) else "uint8",
        mean=tuple(round(float(v), 6) for v in mean[:channels]),
        std=tuple(round(float(v), 6) for v in std[:channels]),
        image_size=(int(height), int(width)),
        display=display_range(levels[max(levels)][:channels]) if deep == len(found) else None,
    )


def display_range(levels: NDArray[np.float64]) -> DisplayRange:
    """The 1st and the 99th percentile of every channel; where they are equal, its smallest and its largest value.

    Args:
        levels: `(C, 65536)`, how often each 16-bit value occurs. Of a channel with one value, the full range.
    """
    shares = levels.cumsum(1) / levels.sum(1, keepdims=True)
    low, high = (shares < _LOW).sum(1), (shares < _HIGH).sum(1)
    narrow = high <= low
    low = np.where(narrow, (levels > 0).argmax(1), low)
    high = np.where(narrow, 65535 - (levels[:, ::-1] > 0).argmax(1), high)
    low, high = np.where(high > low, low, 0), np.where(high > low, high, 65535)
    ends = [tuple(round(v / 65535, 9) for v in values.tolist()) for values in (low, high)]
    return DisplayRange(ends[0], ends[1])


def report_remarks(remarks: Sequence[Remark], images: str, name: str) -> None:
    """Logs each kind of remark once, with the text of its first; `images` is how many of what kind were looked at."""
    first = {remark.kind: remark.text for remark in reversed(remarks)}
    counts = Counter(remark.kind for remark in remarks)
    for kind in sorted(counts):
        log.warning("%s: in %d of %s images, %s", name, counts[kind], images, first[kind])


def _measure(data: bytes, levels: dict[int, NDArray[np.float64]], alpha: Alpha) -> _Moments:
    """Measures one image; of 16 bits it also adds to the `levels` of its number of channels, each image the same."""
    image = open_image(data, alpha)
    pixels = image.pixels(cover=_COVER)
    if image.channels == 1:
        pixels = conform(pixels, 3, "uint16" if image.deep else "uint8")
    top = float(np.iinfo(pixels.dtype).max)
    flat = pixels.reshape(-1, pixels.shape[2]).astype(np.float32) / np.float32(top)
    mean = flat.mean(axis=0, dtype=np.float64)
    square = np.square(flat).mean(axis=0, dtype=np.float64)
    if image.deep:
        table = levels.setdefault(len(mean), np.zeros((len(mean), 65536)))
        for channel, values in enumerate(pixels.reshape(-1, len(mean)).T):
            table[channel] += np.bincount(values, minlength=65536) / len(values)
    return _Moments(image.channels, image.deep, (image.height, image.width), mean, square, image.remarks())
