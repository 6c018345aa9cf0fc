"""What pixels an encoded image holds: JPEG, .npy, TIFF, and what else Pillow reads, recognised by the first bytes."""

from __future__ import annotations

import contextlib
import io
import struct
import tokenize
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mimsuite.data.images import tiff

#: Larger images are refused before their pixels are read (Pillow's own limit for errors).
MAX_PIXELS = 178_956_970

Pixels = NDArray[Any]  # (H, W, C), uint8 or uint16

_ORIENTATION = 0x0112
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV")
# What Pillow may read: it would start Ghostscript for EPS.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
# What Pillow, numpy and zlib raise on damaged bytes. The bytes are in memory, so an OSError is not an I/O error here.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,  # the AVIF decoder
    struct.error,
    tokenize.TokenError,  # numpy's reader of headers
    zlib.error,
    Image.DecompressionBombError,
)


class DecodeError(ValueError):
    """These bytes are not a usable image; the message gives the reason in a few words."""


class Box(NamedTuple):
    """A rectangle in pixels of the upright image."""

    top: int
    left: int
    height: int
    width: int


class Encoded(Protocol):
    """An image whose header is read and whose pixels are not; upright means: EXIF orientation applied."""

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
        """1, 3 or, for arrays and TIFF, any number."""
        ...

    @property
    def deep(self) -> bool:
        """True where the values are 16-bit."""
        ...

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """Returns the upright pixels of `box` (default: all), `(H, W, channels)` uint8 or uint16.

        With `cover = (height, width)` they may come at 1/2, 1/4 or 1/8 of the size, but not below `cover`.
        """
        ...


def open_image(data: bytes) -> Encoded:
    """Reads the header of an encoded image.

    Raises:
        DecodeError: not an image, of a kind that is not supported, or larger than `MAX_PIXELS`.
    """
    if data.startswith(b"\xff\xd8\xff"):
        jpeg = _read_jpeg_header(data)
        if jpeg is not None:
            return jpeg
    if data.startswith(b"\x93NUMPY"):
        return _read_array_header(data)
    if data.startswith(tiff.MAGICS):
        layout = _read_tiff_header(data)
        if layout is not None:
            return layout
    return _read_picture_header(data)


def decode(
    data: bytes,
    channels: int,
    dtype: str,
    box: Box | None = None,
    cover: tuple[int, int] | None = None,
) -> Pixels:
    """Decodes `data` to the data set's kind of pixels: `(H, W, channels)` of `dtype` ("uint8" or "uint16").

    Arguments and errors are those of `open_image`, `Encoded.pixels` and `conform`.
    """
    return conform(open_image(data).pixels(box, cover), channels, dtype)


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


def jpeg_reduction(height: int, width: int, cover: tuple[int, int]) -> int:
    """The largest of 8, 4, 2, 1 by which `height x width` can be divided and still covers `cover`."""
    for factor in (8, 4, 2):
        if height // factor >= cover[0] and width // factor >= cover[1]:
            return factor
    return 1


class _Jpeg(NamedTuple):
    """A JPEG of one or three components, decoded at the smallest scale that covers the crop."""

    data: bytes
    stored: tuple[int, int]
    channels: int
    orientation: int
    deep: bool = False

    @property
    def height(self) -> int:
        return self.stored[self.orientation >= 5]

    @property
    def width(self) -> int:
        return self.stored[self.orientation < 5]

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        height, width = self.stored
        top, left, h, w = _to_stored(box or Box(0, 0, self.height, self.width), self.stored, self.orientation)
        factor = 1
        if cover is not None:
            factor = jpeg_reduction(h, w, cover if self.orientation < 5 else (cover[1], cover[0]))
        scaled = (-(-height // factor), -(-width // factor))
        colours = "GRAY" if self.channels == 1 else "RGB"
        limits = {"min_height": scaled[0], "min_width": scaled[1], "min_factor": 1} if factor > 1 else {}
        try:
            array: Pixels = simplejpeg.decode_jpeg(self.data, colours, **limits)
        except ValueError as error:
            raise DecodeError(f"JPEG: {error}") from error
        if array.shape[:2] != scaled:
            raise DecodeError(f"JPEG: decoded to {array.shape[:2]} pixels, {scaled} expected")
        array = array[top // factor :, left // factor :][: h // factor, : w // factor]
        return _upright(array, self.orientation)


class _Picture(NamedTuple):
    """Whatever Pillow reads."""

    image: Image.Image
    height: int
    width: int
    channels: int
    deep: bool
    orientation: int

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        try:
            with _quiet():
                self.image.load()
            image = self.image
            if box is not None:
                turned = self.orientation >= 5
                stored = (self.width, self.height) if turned else (self.height, self.width)
                top, left, h, w = _to_stored(box, stored, self.orientation)
                image = image.crop((left, top, left + w, top + h))
            array = _from_pillow(image)
        except _DAMAGE as error:
            raise DecodeError(f"{self.image.format}: {error}") from error
        return _upright(array, self.orientation)


class _Array(NamedTuple):
    """A numpy file of shape (H, W) or (H, W, C)."""

    data: bytes
    height: int
    width: int
    channels: int
    deep: bool

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        try:
            array: Pixels = np.load(io.BytesIO(self.data), allow_pickle=False)
        except _DAMAGE as error:
            raise DecodeError(f"npy: {error}") from error
        array = array.reshape(self.height, self.width, self.channels)
        if array.dtype.byteorder == ">":
            array = array.astype(np.uint16)
        if box is not None:
            array = array[box.top : box.top + box.height, box.left : box.left + box.width]
        return array


class _Tiff(NamedTuple):
    """A TIFF that Pillow would not read, or not in its full depth."""

    data: bytes
    layout: tiff.Layout

    @property
    def height(self) -> int:
        return self.layout.width if self.layout.orientation >= 5 else self.layout.height

    @property
    def width(self) -> int:
        return self.layout.height if self.layout.orientation >= 5 else self.layout.width

    @property
    def channels(self) -> int:
        return self.layout.channels

    @property
    def deep(self) -> bool:
        return self.layout.deep

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        try:
            array = _upright(tiff.read_pixels(self.data, self.layout), self.layout.orientation)
        except _DAMAGE as error:
            raise DecodeError(f"TIFF: {error}") from error
        if box is not None:
            array = array[box.top : box.top + box.height, box.left : box.left + box.width]
        return array


def _from_pillow(image: Image.Image) -> Pixels:
    mode = image.mode
    if mode in _DEEP_MODES:
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise DecodeError(f"values from {values.min()} to {values.max()} ; 0 to 65535 (16 bits) is allowed")
        return values.astype(np.uint16)[..., None]
    final = "L" if mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.array(image.convert(final))  # a copy: Pillow's buffers are read-only
    return array[..., None] if final == "L" else array


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of large images and odd metadata, once per worker and file: the pixels are what counts here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise DecodeError(f"{height} x {width} pixels; at least 1 x 1 is needed")
    if height * width > MAX_PIXELS:
        raise DecodeError(f"{height} x {width} pixels; at most {MAX_PIXELS} are allowed")


def _read_picture_header(data: bytes) -> _Picture:
    try:
        with _quiet():
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _check_size(image.height, image.width)
            # Pillow turns TIFF images upright by itself when it loads them; for PNG, getexif reads the pixels.
            orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError(f"not an image of a supported kind (starts with {data[:8]!r})") from error
    except _DAMAGE as error:
        raise DecodeError(f"header: {error}") from error
    if image.mode not in _DEEP_MODES + _GREY_MODES + _COLOUR_MODES:
        raise DecodeError(f"{image.format} image of mode {image.mode}, which is not supported")
    if orientation not in range(1, 9):
        orientation = 1
    width, height = image.size if orientation < 5 else image.size[::-1]
    channels = 3 if image.mode in _COLOUR_MODES else 1
    return _Picture(image, height, width, channels, image.mode in _DEEP_MODES, orientation)


def _read_tiff_header(data: bytes) -> _Tiff | None:
    try:
        with _quiet():
            layout = tiff.read_layout(data)
    except _DAMAGE as error:
        raise DecodeError(f"TIFF: {error}") from error
    if layout is None:
        return None
    _check_size(layout.height, layout.width)
    values = layout.height * layout.width * layout.channels
    if values > 4 * MAX_PIXELS:
        raise DecodeError(f"TIFF of {values} values; at most {4 * MAX_PIXELS} are allowed")
    return _Tiff(data, layout)


def _read_array_header(data: bytes) -> _Array:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except _DAMAGE as error:
        raise DecodeError(f"npy: {error}") from error
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise DecodeError(f"npy array of {dtype}; uint8 and uint16 are allowed")
    if len(shape) not in (2, 3):
        raise DecodeError(f"npy array of shape {shape}; (H, W) and (H, W, C) are allowed")
    _check_size(shape[0], shape[1])
    return _Array(data, shape[0], shape[1], shape[2] if len(shape) == 3 else 1, dtype.itemsize == 2)


def _read_jpeg_header(data: bytes) -> _Jpeg | None:
    """Walks the segments up to the frame header; None for what is left to Pillow (CMYK, YCCK, lossless)."""
    at, end = 2, len(data)
    orientation = 1
    while at + 4 <= end:
        if data[at] != 0xFF:
            raise DecodeError("JPEG: damaged header")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[at + 10 : at + 2 + length])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if at + 10 > end:
                break
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            if marker > 0xC2 or precision != 8 or components not in (1, 3):
                return None
            _check_size(height, width)
            return _Jpeg(data, (height, width), components, orientation)
        at += 2 + length
    raise DecodeError("JPEG: cut inside the header")


def _exif_orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory; 1 (upright) where it is absent or damaged, as viewers do."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return 1
    count = struct.unpack_from(order + "H", exif, start)[0]
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == _ORIENTATION and kind == 3:
            value = int(struct.unpack_from(order + "H", exif, entry + 8)[0])
            return value if 1 <= value <= 8 else 1
    return 1


# EXIF orientation: the stored image is mirrored along these axes, and then, from 5 on, transposed.
_FLIP_ROWS, _FLIP_COLUMNS = (3, 4, 6, 7), (2, 3, 7, 8)


def _upright(array: Pixels, orientation: int) -> Pixels:
    if orientation in _FLIP_ROWS:
        array = array[::-1]
    if orientation in _FLIP_COLUMNS:
        array = array[:, ::-1]
    return array.swapaxes(0, 1) if orientation >= 5 else array


def _to_stored(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    top, left, height, width = box
    if orientation >= 5:
        top, left, height, width = left, top, width, height
    if orientation in _FLIP_ROWS:
        top = stored[0] - top - height
    if orientation in _FLIP_COLUMNS:
        left = stored[1] - left - width
    return Box(top, left, height, width)
