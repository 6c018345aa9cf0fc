"""Whatever Pillow reads: PNG, WebP, GIF, BMP, PPM, JPEG 2000, AVIF, and JPEG of rare kinds."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from mimsuite.data.images.alpha import remark_on
from mimsuite.data.images.pixels import Box, DecodeError, Pixels, Remark, check_size, decoding, to_stored, upright
from mimsuite.words import Alpha

_ORIENTATION = 0x0112
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV")
# What Pillow may read: it would start Ghostscript for EPS. TIFF has a reader of its own.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
_HEADERLESS = "a DICOM file without a header (no DICM at byte 128)"
_GREY_ALPHA, _COLOURED = 4, (2, 6)  # colour types of PNG


class Picture(NamedTuple):
    """An image that Pillow has opened.

    Attributes:
        image: the image; its pixels are not read.
        height, width: upright.
        orientation: the EXIF number, 1 to 8.
        alpha: what becomes of transparency.
        reduced: whether 16 bits were stored, of which Pillow reads the upper eight.
        grey: whether the colours are grey, whatever Pillow makes of them.
    """

    image: Image.Image
    height: int
    width: int
    orientation: int
    alpha: Alpha
    reduced: bool
    grey: bool

    @property
    def _base(self) -> int:
        return 1 if self.grey else 3

    @property
    def channels(self) -> int:
        """1 or 3, and one more for alpha that is kept."""
        kept = self.alpha == "channel" and not self.deep and self.image.has_transparency_data
        return self._base + kept

    @property
    def deep(self) -> bool:
        """True for grey of 16 bits."""
        return self.image.mode in DEEP_MODES

    def remarks(self) -> tuple[Remark, ...]:
        """Frames, depth and alpha."""
        found = []
        with contextlib.suppress(DecodeError), decoding("frames"):  # damaged later frames do no harm
            if getattr(self.image, "is_animated", False):
                found.append(Remark("frames", "the first of several frames is taken"))
        if self.reduced:
            found.append(Remark("depth", "16 bits a value are read as 8, because Pillow reads no more; TIFF keeps 16"))
        if self.image.has_transparency_data and (self.alpha == "white" or not self.deep):
            found.append(remark_on(self.alpha, self._base + 1 if self.image.mode in ("LA", "RGBA") else 0))
        return tuple(found)

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """See `pixels.Encoded`."""
        with decoding(self.image.format or "image"):
            self.image.load()
            image = self.image
            if box is not None:
                turned = self.orientation >= 5
                stored = (self.width, self.height) if turned else (self.height, self.width)
                top, left, h, w = to_stored(box, stored, self.orientation)
                image = image.crop((left, top, left + w, top + h))
            return upright(_from_pillow(image, self.alpha, grey=self.grey), self.orientation)


def _from_pillow(image: Image.Image, alpha: Alpha, *, grey: bool) -> Pixels:
    """The values of an image, `(H, W, C)` uint8 or uint16."""
    mode = image.mode
    if mode in DEEP_MODES:
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise DecodeError(f"values from {values.min()} to {values.max()}; 0 to 65535 (16 bits) is allowed")
        values = values.astype(np.uint16)
        clear = image.info.get("transparency")
        if isinstance(clear, int) and alpha == "white":  # PNG: this grey is transparent
            values[values == clear] = 0xFFFF
        return values[..., None]
    final, clear = "L" if grey else "RGB", image.info.get("transparency")
    if mode == "1" and clear is not None:  # of such an image, Pillow makes no alpha
        image = image.convert("L")
        image.info["transparency"] = clear
    cover: Image.Image | None = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if alpha == "white":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        elif alpha == "channel":
            cover = image.getchannel("A")
    array = np.array(image.convert(final))  # a copy: Pillow's buffers are read-only
    array = array[..., None] if final == "L" else array
    return array if cover is None else np.dstack([array, np.asarray(cover)])


def _describe_unknown(data: bytes) -> str:
    """Why bytes are no image, with the name of what they are where that is plain."""
    if not data:
        return "the file is empty"
    start = data[:256].lstrip().lower()
    found = {
        "a HEIC picture": data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"),
        _HEADERLESS: data[:2] == b"\x08\0" and data[2:4] in (b"\0\0", b"\x01\0", b"\x05\0", b"\x08\0", b"\x16\0"),
        "a web page": start.startswith((b"<!doctype html", b"<html")),
        "an SVG drawing": b"<svg" in start,
        "a PDF document": data.startswith(b"%PDF"),
        "a Git LFS pointer": data.startswith(b"version https://git-lfs"),
    }
    name = next((name for name, fits in found.items() if fits), None)
    if name is None:
        return f"not an image of a supported kind (starts with {data[:8]!r})"
    if name == _HEADERLESS:
        return f"{name}, and not read; pydicom writes one: dcmread(f, force=True).save_as(f, enforce_file_format=True)"
    fix = "get the file itself" if name in ("a web page", "a Git LFS pointer") else "convert it to PNG or JPEG"
    return f"{name}, and not an image of a supported kind; {fix}"


def read_picture_header(data: bytes, alpha: Alpha) -> Picture:
    """Opens an image.

    Raises:
        DecodeError: not an image, damaged, or of a mode that is not supported.
    """
    image = None
    with decoding("header"), contextlib.suppress(UnidentifiedImageError):
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image is None:
        raise DecodeError(_describe_unknown(data))
    check_size(image.height, image.width)
    if image.mode not in DEEP_MODES + _GREY_MODES + _COLOUR_MODES:
        raise DecodeError(f"{image.format} image of mode {image.mode}, which is not supported")
    with decoding("header"):
        orientation = image.getexif().get(_ORIENTATION, 1)  # of PNG, this reads the pixels
        if orientation not in range(1, 9):
            orientation = 1
        width, height = image.size if orientation < 5 else image.size[::-1]
        _scale_transparency(image, data)
        grey = image.mode not in _COLOUR_MODES or (image.format == "PNG" and data[25] == _GREY_ALPHA)
        return Picture(image, height, width, orientation, alpha, _is_reduced(image, data), grey)


def of_pillow(image: Image.Image, alpha: Alpha) -> Picture | None:
    """An image that somebody else has opened, as it lies; None for a mode that is not supported."""
    if image.mode == "La":  # Pillow converts premultiplied grey only to plain grey with alpha
        image = image.convert("LA")
    if image.mode not in DEEP_MODES + _GREY_MODES + _COLOUR_MODES:
        return None
    grey = image.mode not in _COLOUR_MODES
    return Picture(image, image.height, image.width, 1, alpha, reduced=False, grey=grey)


def _is_reduced(image: Image.Image, data: bytes) -> bool:
    """Whether a PNG, a PPM or JPEG 2000 has 16 bits a value, and Pillow gives eight."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] in (*_COLOURED, _GREY_ALPHA)
    if image.format == "JPEG2000":
        return image.mode not in DEEP_MODES and _bits_of_jpeg_2000(data) > 8
    return image.format == "PPM" and image.mode == "RGB" and _largest_of_ppm(data) > 255


def _bits_of_jpeg_2000(data: bytes) -> int:
    """Bits of a value by the first component of SIZ, the segment that every image begins with."""
    start = data.find(b"\xff\x4f\xff\x51")
    kind = data[start + 42 : start + 43]
    return (kind[0] & 0x7F) + 1 if start >= 0 and kind else 8


def _scale_transparency(image: Image.Image, data: bytes) -> None:
    """Brings the transparent colour of a PNG to eight bits, as its values are: Pillow leaves it at the stored depth."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("L", "RGB") or clear is None or isinstance(clear, bytes):
        return
    bits = data[24]
    if bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    elif bits < 8:
        image.info["transparency"] = clear * 255 // ((1 << bits) - 1)


def _largest_of_ppm(data: bytes) -> int:
    """The fourth word of a PPM, its largest value."""
    lines = [line.split(b"#")[0] for line in data[:4096].split(b"\n")]
    words = b"\n".join(lines).split()
    return int(words[3]) if len(words) > 3 and words[3].isdigit() else 0
