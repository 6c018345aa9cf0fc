"""What pixels an encoded image holds: JPEG, .npy, TIFF, DICOM, and what Pillow reads, recognised by the first bytes."""

from __future__ import annotations

import numpy as np

from mimsuite.data.images import array, dicom, jpeg, tiff
from mimsuite.data.images.jpeg import jpeg_reduction
from mimsuite.data.images.picture import read_picture_header
from mimsuite.data.images.pixels import Box, DecodeError, Encoded, Pixels
from mimsuite.data.images.value_range import Ranged, ValueRange
from mimsuite.words import Alpha

__all__ = ["Box", "DecodeError", "Encoded", "Pixels", "conform", "decode", "jpeg_reduction", "open_image"]


def open_image(data: bytes, alpha: Alpha = "white", value_range: ValueRange | None = None) -> Encoded:
    """Reads the header of an encoded image; `docs/images.md` says what each field of it does.

    Args:
        data: the file.
        alpha: what becomes of transparency: it is laid on white, dropped, or kept as the last channel.
        value_range: which values become 0 and 65535; then numbers of any real type are read. None: those of 8 and 16
            bits as they are.

    Raises:
        DecodeError: not an image, of a kind that is not supported, or larger than `pixels.MAX_PIXELS`.
        InputError: it needs a library that is not installed.
    """
    if dicom.is_dicom(data):
        return dicom.read_dicom_header(data, value_range)
    found = _open_stored(data, alpha, any_type=value_range is not None)
    return found if value_range is None else Ranged(found, value_range)


def _open_stored(data: bytes, alpha: Alpha, *, any_type: bool) -> Encoded:
    """An image with the values that are stored; with `any_type` those of a TIFF or array may be any real numbers."""
    if data.startswith(jpeg.MAGIC) and (found := jpeg.read_jpeg_header(data)) is not None:
        return found
    if data.startswith(array.MAGIC):
        return array.read_array_header(data, any_type=any_type)
    if data.startswith(tiff.MAGICS):
        return tiff.read_tiff_header(data, alpha, any_type=any_type)
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
