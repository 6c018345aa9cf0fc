"""The contact sheet of a data set: small images with their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mimsuite.data.checks.inspect import RawSample, raw_samples
from mimsuite.data.images.decode import DecodeError, conform, open_image
from mimsuite.data.index import DataIndex
from mimsuite.data.tar import to_text
from mimsuite.pictures.sheets import contact_sheet

SIDE = 112  # pixels that a large image is decoded at, at least


def draw_data(index: DataIndex, count: int) -> Image.Image:
    """The contact sheet of `count` training images with their classes, else their keys."""
    part = index.select("train") if "train" in index.splits else next(iter(index.splits))
    samples = list(raw_samples(index, part, count))
    captions = [class_caption(sample, index.classes or ()) for sample in samples]
    return contact_sheet([thumbnail(sample.data) for sample in samples], captions, title=to_text(index.root))


def class_caption(sample: RawSample, names: Sequence[str]) -> str:
    """The classes or the number that label a sample; its key where it has no label."""
    label = sample.label
    if isinstance(label, float):
        return f"{label:g}"
    if label is None:
        return to_text(sample.key)
    classes = (label,) if isinstance(label, int) else label
    return ", ".join(names[i] if names else str(i) for i in classes) or "none"


def thumbnail(data: bytes) -> NDArray[np.uint8]:
    """An encoded image as a small picture: three channels at most, 8 bits; a broken one is grey."""
    try:
        image = open_image(data)
        pixels = image.pixels(cover=(SIDE, SIDE))
    except DecodeError:
        return np.full((SIDE, SIDE, 3), 128, np.uint8)
    return conform(pixels[..., :3] if pixels.shape[-1] != 2 else pixels[..., :1], 3, "uint8")
