"""JPEG of one or three components: its header, walked by hand, and its pixels at the smallest scale that serves."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import simplejpeg

from mimsuite.data.images.pixels import Box, DecodeError, Pixels, Remark, check_size, to_stored, upright
from mimsuite.errors import cause_of

MAGIC = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
_WHOLE = {3: "H", 4: "I", 8: "h", 9: "i"}  # types of EXIF that hold it: short and long numbers
_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def jpeg_reduction(height: int, width: int, cover: tuple[int, int]) -> int:
    """The largest of 8, 4, 2, 1 by which `height x width` can be divided and still covers `cover`."""
    for factor in (8, 4, 2):
        if height // factor >= cover[0] and width // factor >= cover[1]:
            return factor
    return 1


class Jpeg(NamedTuple):
    """A JPEG of one or three components, decoded at the smallest scale that covers the crop."""

    data: bytes
    stored: tuple[int, int]
    channels: int
    orientation: int
    deep: bool = False

    @property
    def height(self) -> int:
        """Rows of the upright image."""
        return self.stored[self.orientation >= 5]

    @property
    def width(self) -> int:
        """Columns of the upright image."""
        return self.stored[self.orientation < 5]

    def remarks(self) -> tuple[Remark, ...]:
        """Nothing is left out."""
        return ()

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """See `pixels.Encoded`."""
        height, width = self.stored
        top, left, h, w = to_stored(box or Box(0, 0, self.height, self.width), self.stored, self.orientation)
        factor = 1
        if cover is not None:
            factor = jpeg_reduction(h, w, cover if self.orientation < 5 else (cover[1], cover[0]))
        scaled = (-(-height // factor), -(-width // factor))
        colours = "GRAY" if self.channels == 1 else "RGB"
        limits = {"min_height": scaled[0], "min_width": scaled[1], "min_factor": 1} if factor > 1 else {}
        try:  # not `decoding`, which costs a tenth of a small image; this library says nothing itself
            array: Pixels = simplejpeg.decode_jpeg(self.data, colours, **limits)
        except Exception as error:
            raise DecodeError(f"JPEG: {cause_of(error)}") from error
        if array.shape[:2] != scaled:
            raise DecodeError(f"JPEG: decoded to {array.shape[:2]} pixels, {scaled} expected")
        array = array[top // factor :, left // factor :][: h // factor, : w // factor]
        return upright(array, self.orientation)


def read_jpeg_header(data: bytes) -> Jpeg | None:
    """Walks the segments up to the frame header; None for what is left to Pillow (CMYK, YCCK, lossless).

    The orientation is that of EXIF, else of XMP, as in Pillow.
    """
    at, end = 2, len(data)
    orientation = described = 0
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
            orientation = orientation or exif_orientation(data[at + 10 : at + 2 + length])
        elif marker == 0xE1 and data.startswith(_XMP, at + 4):
            found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', data[at + 4 : at + 2 + length])
            described = int(found[1]) if found else described
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if at + 10 > end:
                break
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            if marker > 0xC2 or precision != 8 or components not in (1, 3):
                return None
            check_size(height, width)
            return Jpeg(data, (height, width), components, orientation or described or 1)
        at += 2 + length
    raise DecodeError("JPEG: cut inside the header")


def exif_orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory, 1 where it is out of range; 0 where it is absent or damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 0
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return 0
    count = struct.unpack_from(order + "H", exif, start)[0]
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == _ORIENTATION and kind in _WHOLE:
            value = int(struct.unpack_from(order + _WHOLE[kind], exif, entry + 8)[0])
            return value if 1 <= value <= 8 else 1
    return 0
