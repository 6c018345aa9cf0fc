"""The contact sheet of a data set: small images with their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mimsuite.data.checks.inspect import RawSample, raw_samples
from mimsuite.data.display_range import find_display
from mimsuite.data.images.decode import DecodeError, conform, open_image
from mimsuite.data.index import DataIndex
from mimsuite.data.tar import to_text
from mimsuite.pictures.display import channel_words, display_words, show_pixels, shown_channels
from mimsuite.pictures.sheets import contact_sheet
from mimsuite.types import DisplayRange
from mimsuite.words import Alpha

SIDE = 112  # pixels that a large image is decoded at, at least


def draw_data(index: DataIndex, count: int) -> Image.Image:
    """The contact sheet of `count` images of train with their classes, else their keys."""
    part = "train" if "train" in index.splits else next(iter(index.splits))
    samples = list(raw_samples(index, part, count))
    captions = [class_caption(sample, index.classes or ()) for sample in samples]
    display = find_display(index)
    shown = shown_channels(index.channels, None)
    values = display_words(display, shown, value_range=index.value_range)
    footer = ", ".join(filter(None, (channel_words(index.channels, None, index.bands or ()), values)))
    pictures = [thumbnail(sample.data, display, index.alpha, index.channels) for sample in samples]
    return contact_sheet(pictures, captions, title=to_text(index.root), footer=footer)


def class_caption(sample: RawSample, names: Sequence[str]) -> str:
    """The classes or the number that label a sample; its key where it has no label."""
    label = sample.label
    if isinstance(label, float):
        return f"{label:g}"
    if label is None:
        return to_text(sample.key)
    classes = (label,) if isinstance(label, int) else label
    return ", ".join(names[i] if names else str(i) for i in classes) or "none"


def thumbnail(
    data: bytes, display: DisplayRange | None = None, alpha: Alpha = "white", channels: int | None = None
) -> NDArray[np.uint8]:
    """An encoded image as a small picture, as training sees it: three channels at most, 8 bits; a broken one is grey.

    Args:
        data: the image.
        display: which values of 16-bit data are black and bright; None of 8-bit data.
        alpha: what becomes of transparency.
        channels: of the data set; None: those that the image has.
    """
    try:
        image = open_image(data, alpha)
        pixels = image.pixels(cover=(SIDE, SIDE))
        count = channels or (pixels.shape[2] if display is None else len(display.low))
        seen = conform(pixels, count, "uint8" if display is None else "uint16")
    except DecodeError:
        return np.full((SIDE, SIDE, 3), 128, np.uint8)
    picture: NDArray[np.uint8] = show_pixels(seen.transpose(2, 0, 1)[None], 255 if display is None else 65535, display)[
        0
    ]
    return picture
