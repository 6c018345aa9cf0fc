"""What pixels an encoded image holds: JPEG, .npy, TIFF, and what else Pillow reads, recognised by the first bytes."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mimsuite.data.images import array, jpeg, tiff
from mimsuite.data.images.jpeg import jpeg_reduction
from mimsuite.data.images.picture import read_picture_header
from mimsuite.data.images.pixels import Box, DecodeError, Pixels, Remark
from mimsuite.words import Alpha

__all__ = ["Box", "DecodeError", "Encoded", "Pixels", "conform", "decode", "jpeg_reduction", "open_image"]


class Encoded(Protocol):
    """An image whose header is read and whose pixels are not; upright means: its orientation is applied."""

    @property
    def height(self) -> int:
        """Rows of the upright image."""
        ...

    @property
    def width(self) -> int:
        """Columns of the upright image."""
        ...

    @property
    def channels(self) -> int:
        """1, 3 or, for arrays, TIFF and alpha that is kept, any number."""
        ...

    @property
    def deep(self) -> bool:
        """True where the values are 16-bit."""
        ...

    def remarks(self) -> tuple[Remark, ...]:
        """What is left out of the file, or decided: planes, alpha, depth; at most one of a kind."""
        ...

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """Returns the upright pixels of `box` (default: all), `(H, W, channels)` uint8 or uint16.

        With `cover = (height, width)` they may come at 1/2, 1/4 or 1/8 of the size, but not below `cover`.
        """
        ...


def open_image(data: bytes, alpha: Alpha = "white") -> Encoded:
    """Reads the header of an encoded image; `docs/images.md` says what each field of it does.

    Args:
        data: the file.
        alpha: what becomes of transparency: it is laid on white, dropped, or kept as the last channel.

    Raises:
        DecodeError: not an image, of a kind that is not supported, or larger than `pixels.MAX_PIXELS`.
    """
    if data.startswith(jpeg.MAGIC) and (found := jpeg.read_jpeg_header(data)) is not None:
        return found
    if data.startswith(array.MAGIC):
        return array.read_array_header(data)
    if data.startswith(tiff.MAGICS):
        return tiff.read_tiff_header(data, alpha)
    return read_picture_header(data, alpha)


def decode(
    data: bytes,
    channels: int,
    dtype: str,
    box: Box | None = None,
    cover: tuple[int, int] | None = None,
    alpha: Alpha = "white",
) -> Pixels:
    """Decodes `data` to the data set's kind of pixels: `(H, W, channels)` of `dtype` ("uint8" or "uint16").

    Arguments and errors are those of `open_image`, `Encoded.pixels` and `conform`.
    """
    return conform(open_image(data, alpha).pixels(box, cover), channels, dtype)


def conform(pixels: Pixels, channels: int, dtype: str) -> Pixels:
    """Brings `(H, W, c)` pixels to `channels` and `dtype`.

    Grey becomes RGB by repetition, RGB becomes grey by ITU-R 601-2 luma (Pillow's convert), and the full
    range of one depth becomes the full range of the other.

    Raises:
        DecodeError: any other change of the channel count.
    """
    c = pixels.shape[2]
    if c == 3 and channels == 1:
        weights = np.array([19595, 38470, 7471], dtype=np.uint64)
        pixels = ((pixels @ weights + 0x8000) >> 16).astype(pixels.dtype)[..., None]
    elif c == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    elif c != channels:
        raise DecodeError(f"{c} channels where the data set has {channels}")
    if dtype == "uint8" and pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if dtype == "uint16" and pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * np.uint16(257)
    return pixels
