"""The bytes that a shard holds of an image file: its own, those of a smaller picture, or PNG for foreign kinds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mimsuite.data.images import array, jpeg, tiff
from mimsuite.data.images.decode import DecodeError, Pixels
from mimsuite.data.images.pixels import Remark
from mimsuite.data.images.reading import Reading
from mimsuite.data.stores.address import store_of

_JPEG_QUALITY = 95
_PLAIN = Reading()


class Content(NamedTuple):
    """What becomes a member of a shard.

    Attributes:
        ending: of the member, without a dot.
        data: its bytes.
        channels: of the decoded image.
        bands: their names; empty where they have none.
        remarks: what was left out or decided, where the bytes are no longer those of the file and cannot tell.
    """

    ending: str
    data: bytes
    channels: int
    bands: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = ()


def encode_file(
    path: Path, image_size: int | None, reading: Reading = _PLAIN, at: tuple[int, int] | None = None
) -> Content | DecodeError:
    """Reads an image file, decodes it once, and decides what is stored.

    With `at` (offset, size) the image is that part of a file.

    JPEG, PNG, WebP, TIFF and .npy keep their bytes, unless `reading` chooses bands or maps values; other kinds (DICOM,
    GIF, BMP, PPM: the first picture) become PNG, or .npy where `alpha` is kept. With `image_size`, pictures whose short
    side is longer are resized (Lanczos, upright): JPEG to JPEG of quality 95, arrays to arrays, else 8 bits of one or
    three channels and 16 bits of one to PNG, and the rest to .npy.

    Returns:
        The content, or why the file cannot be used.

    Raises:
        InputError: it needs a library that is not installed.
    """
    try:
        data = read_part(path, at)
    except OSError as error:
        return DecodeError(error.strerror or "cannot be read")
    try:
        ending = kind_of(data)
        opened = reading.recognise(data)
        image = opened.image
        size = smaller_size(image.height, image.width, image_size)
        keeps = bool(ending) and not reading.changes_values
        if keeps and size is None:
            image.pixels()
            return Content(ending, data, image.channels, opened.names)
        pixels = opened.pixels(cover=None if size is None else (2 * size[0], 2 * size[1]))
        remarks = image.remarks() if reading.range is None else (*image.remarks(), *reading.range.remarks(pixels))
        if size is not None:
            pixels = resize(pixels, size)
        if keeps and ending == "jpg":
            stored = "jpg", _jpeg(pixels)
        elif ending == "npy":
            stored = "npy", _npy(pixels)
        else:
            stored = _lossless(pixels)
        return Content(*stored, opened.channels, opened.names, remarks)
    except DecodeError as error:
        return error


def read_part(path: Path, at: tuple[int, int] | None) -> bytes:
    """A file, or its part `at` (offset, size).

    Raises:
        OSError: it cannot be read.
    """
    store = store_of(str(path))
    return store.read_all(str(path)) if at is None else store.read(str(path), *at)


def kind_of(data: bytes) -> str:
    """The ending of the kinds that shards hold, by the first bytes; empty for others."""
    if data.startswith(jpeg.MAGIC):
        return "jpg"
    if data.startswith(array.MAGIC):
        return "npy"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "tif" if data.startswith(tiff.MAGICS) else ""


def smaller_size(height: int, width: int, side: int | None) -> tuple[int, int] | None:
    """The size with a short side of `side` pixels; None where the image is not larger than that."""
    short = min(height, width)
    if side is None or short <= side:
        return None
    return max(1, round(height * side / short)), max(1, round(width * side / short))


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Lanczos with antialiasing, `(H, W, C)` to `(*size, C)`; 16-bit values through float32, rounded."""
    height, width = size

    def one(plane: Pixels) -> Pixels:
        return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS))

    if pixels.dtype == np.uint8:
        if pixels.shape[2] == 3:
            return np.array(one(np.ascontiguousarray(pixels)))
        return np.stack([one(np.ascontiguousarray(pixels[..., i])) for i in range(pixels.shape[2])], axis=-1)
    planes = [one(pixels[..., i].astype(np.float32)) for i in range(pixels.shape[2])]
    rounded: Pixels = np.clip(np.rint(np.stack(planes, axis=-1)), 0, 0xFFFF)
    return rounded.astype(np.uint16)


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))


def _jpeg(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    _picture(pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()


def _png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    _picture(pixels).save(stream, "PNG")
    return stream.getvalue()


def _lossless(pixels: Pixels) -> tuple[str, bytes]:
    """The ending and the bytes: PNG, or .npy for what a PNG of ours does not hold."""
    if pixels.shape[2] == 1 or (pixels.shape[2] == 3 and pixels.dtype == np.uint8):
        return "png", _png(pixels)
    return "npy", _npy(pixels)


def _npy(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(pixels), allow_pickle=False)
    return stream.getvalue()
