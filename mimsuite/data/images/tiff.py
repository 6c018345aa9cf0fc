"""TIFF: what its tags say of the first picture, and the pixels that this gives. docs/images.md has the table of tags.

Pillow and tifffile serve as decoders of the stored values. What the values mean is decided here: which page, plane and
channels are taken, what is inverted, looked up or scaled, and what is refused.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mimsuite.data.images import alpha as alphas
from mimsuite.data.images.pixels import Box, DecodeError, Pixels, Remark, check_size, cut, decoding, upright
from mimsuite.data.images.tiff_stack import Stack, find_stack, needs_series
from mimsuite.data.images.value_range import NEEDS_RANGE
from mimsuite.words import Alpha

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BIG_AND_TURNED = b"MM\0+"  # BigTIFF of big-endian bytes: Pillow does not know it, tifffile does

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL = 254, 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES, _PLANAR, _COLOURS, _INKS, _EXTRA, _FORMAT = 274, 277, 284, 320, 332, 338, 339
_STRIP_BYTES, _TILE_BYTES = 279, 325
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURED = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}  # samples of a colour
_NOT_READ = {
    4: "a transparency mask",
    8: "CIELab colours",
    9: "ICCLab colours",
    10: "ITULab colours",
    32803: "raw data of a sensor (CFA)",
    32844: "logarithmic luminance (LogL)",
    32845: "logarithmic colours (LogLuv)",
    34892: "raw data of a sensor (linear)",
}
_SMALLER, _MASK = 1, 4  # NewSubfileType
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples: what alpha did to the colours
_SEPARATE = 2  # PlanarConfiguration: (C, H, W); else (H, W, C)
_UNSIGNED, _SIGNED, _REAL, _UNDEFINED = 1, 2, 3, 4  # SampleFormat
_PAGES = 1000  # are looked at, at most
_JPEGS = (6, 7)  # compressions


class Tiff(NamedTuple):
    """A TIFF whose tags are read.

    Attributes:
        data: the file.
        page: the number of the page that is taken.
        stored: height and width as stored, in pixels.
        samples: stored values of a pixel, alpha among them.
        bits: of a value.
        photometric: what the values mean.
        orientation: the EXIF number, 1 to 8.
        separate: the values of a pixel lie in planes: (C, H, W).
        extra: the value of ExtraSamples that makes the last sample alpha; 0 for none.
        declared: whether the file itself says so.
        others: extra samples that are kept as channels although one of them is alpha.
        colours: the map of a palette, `(N, 3)` uint16.
        pillow: whether Pillow decodes the values, else tifffile.
        stack: the planes and channels of a microscope; None for a plain page.
        alpha: what becomes of transparency.
        any_type: whether values are given as they are stored, of any real type.
    """

    data: bytes
    page: int
    stored: tuple[int, int]
    samples: int
    bits: int
    photometric: int
    orientation: int
    separate: bool
    extra: int
    declared: bool
    others: bool
    colours: Pixels | None
    pillow: bool
    stack: Stack | None
    alpha: Alpha
    any_type: bool

    @property
    def height(self) -> int:
        """Rows of the upright image."""
        return self.stored[self.orientation >= 5]

    @property
    def width(self) -> int:
        """Columns of the upright image."""
        return self.stored[self.orientation < 5]

    @property
    def channels(self) -> int:
        """Of colours and extra samples; alpha counts where it is kept."""
        kept = self.extra and self.alpha == "channel"
        if self.photometric in (_PALETTE, _CMYK):
            return 3 + bool(kept)
        return self.samples - (self.extra > 0) + bool(kept)

    @property
    def deep(self) -> bool:
        """Whether values have more than 8 bits."""
        return self.bits > 8

    def remarks(self) -> tuple[Remark, ...]:
        """Planes, pages and alpha."""
        found = []
        if self.stack is not None and self.stack.planes > 1:
            found.append(Remark("planes", f"of {self.stack.planes} planes ({self.stack.axes}) the first is taken"))
        elif self.stack is None and self._has_more():
            found.append(Remark("planes", "of several pages the first is taken"))
        if self.stack is not None and self.stack.unnamed:
            found.append(Remark("axes", self.stack.describe_guess()))
        if self.extra:
            found.append(alphas.remark_on(self.alpha, _COLOURED[self.photometric] + 1, declared=self.declared))
        elif self.others:
            found.append(Remark("alpha", "alpha is one of several extra samples, and all are kept as channels"))
        return tuple(found)

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """See `pixels.Encoded`."""
        with decoding("TIFF"):
            return cut(upright(self._meant(self._values()), self.orientation), box)

    def _values(self) -> Pixels:
        """The stored values `(H, W, samples)`."""
        height, width = self.stored
        if self.stack is not None:
            array = self.stack.read(self.data)
        elif self.pillow:
            array = _read_by_pillow(self)
        else:
            array = _read_by_tifffile(self)
        if self.separate:
            array = np.moveaxis(array.reshape(self.samples, height, width), 0, 2)
        array = array.reshape(height, width, -1)
        if self.any_type:
            return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
        if array.dtype.kind != "u" or array.dtype.itemsize > 2:
            low, high = array.min(), array.max()
            if array.dtype.kind not in "ui" or low < 0 or high > 0xFFFF:
                raise DecodeError(
                    f"values from {low} to {high} of type {array.dtype}; outside of 0 to 65535, {NEEDS_RANGE}"
                )
        return np.require(array, np.uint16 if self.deep else np.uint8, ["C", "W"])

    def _meant(self, array: Pixels) -> Pixels:
        """What the values stand for."""
        if self.bits == 12 and not self.any_type:
            array = (array << 4) | (array >> 8)
        if self.photometric == _WHITE_IS_ZERO and not self.pillow_inverts:
            own = array[..., :-1] if self.extra else array
            np.subtract(np.iinfo(array.dtype).max, own, out=own)
        if self.colours is not None:
            colours = self.colours if self.deep else (self.colours >> 8).astype(np.uint8)
            array = np.concatenate([colours[array[..., 0]], array[..., 1:]], axis=-1)
        if self.extra:
            array = alphas.settle(array, self.alpha, premultiplied=self.extra == _PREMULTIPLIED)
        return array

    @property
    def pillow_inverts(self) -> bool:
        """Pillow turns white-is-zero into black-is-zero up to 8 bits."""
        return self.pillow and self.bits <= 8

    def _has_more(self) -> bool:
        """Whether another page is a picture of its own, not a smaller copy or a mask."""
        with contextlib.suppress(DecodeError), decoding("TIFF"):  # damaged later pages do no harm
            pages = (tags for number, tags in read_pages(self.data) if number > self.page)
            return any(not tags.get(_SUBFILE, 0) & (_SMALLER | _MASK) for tags in pages)
        return False


def read_tiff_header(data: bytes, alpha: Alpha, *, any_type: bool = False) -> Tiff:
    """Reads the tags of a TIFF; with `any_type` its values may be any real numbers, and alpha is one more channel.

    Raises:
        DecodeError: damaged, too large, or a kind of picture that is not read; it is named.
    """
    with decoding("TIFF"):
        page, tags = _first_picture(data)
        samples, bits = int(tags.get(_SAMPLES, 1)), _bits(tags)
        photometric: Any = tags.get(_PHOTOMETRIC)
        stack = find_stack(data, tags) if needs_series(tags) else None
        _check_meaning(tags, samples, bits, stack, any_type=any_type)
        if stack is not None:
            samples = stack.samples
        extra = 0 if any_type or (stack is not None and stack.channels > 1) else _alpha(tags, samples)
        declared = _EXTRA in tags
        others = not extra and bool({_PREMULTIPLIED, _STRAIGHT} & set(tags.get(_EXTRA, ())))
        orientation = tags.get(_ORIENTATION, 1)
        found = Tiff(
            data=data,
            page=page,
            stored=(int(tags[_HEIGHT]), int(tags[_WIDTH])),
            samples=samples,
            bits=bits,
            photometric=photometric,
            orientation=orientation if orientation in range(1, 9) else 1,
            separate=stack is None and samples > 1 and tags.get(_PLANAR, 1) == _SEPARATE,
            extra=extra,
            declared=declared,
            others=others,
            colours=_read_colours(tags, bits) if photometric == _PALETTE else None,
            pillow=stack is None
            and _keeps_type(tags, bits, any_type=any_type)
            and _suits_pillow(data, page, tags, samples, bits, extra),
            stack=stack,
            alpha=alpha,
            any_type=any_type,
        )
        check_size(*found.stored, samples)
        if photometric == _WHITE_IS_ZERO and samples - (extra > 0) > 1 and stack is None:
            raise DecodeError(f"white is zero in {samples} samples; save them with black as zero")
        if found.pillow and samples > 1:  # Pillow gives (H, W, C) whatever the file has
            found = found._replace(separate=False)
        _check_bytes(found, tags)
        return found


def read_pages(data: bytes) -> Iterator[tuple[int, dict[int, Any]]]:
    """The number and the tags of each page."""
    large = 43 in data[2:4]  # of BigTIFF, in either byte order; Pillow looks for it in one place only
    header = b"II+\0" + data[4:16] if large else data[:8]
    directory = ImageFileDirectory_v2(header, prefix=data[:2])
    stream, seen = io.BytesIO(data), set[int]()
    for number in range(_PAGES):
        if not 0 < directory.next < len(data) or directory.next in seen:
            return
        seen.add(directory.next)
        stream.seek(directory.next)
        directory.load(stream)
        yield number, dict(directory)


def _first_picture(data: bytes) -> tuple[int, dict[int, Any]]:
    """The first page that is neither a smaller copy of another nor a mask."""
    number = -1
    for number, tags in read_pages(data):
        if not tags.get(_SUBFILE, 0) & (_SMALLER | _MASK):
            return number, tags
    if number < 0:
        raise DecodeError("it has no page")
    raise DecodeError("its pages are thumbnails or masks; export the full picture")


def _bits(tags: dict[int, Any]) -> int:
    bits = set(tags.get(_BITS, (1,)))
    if len(bits) > 1:
        raise DecodeError(f"channels of {min(bits)} to {max(bits)} bits; give all the same")
    return int(bits.pop())


def _check_meaning(tags: dict[int, Any], samples: int, bits: int, stack: Stack | None, *, any_type: bool) -> None:
    """Refuses, by name, what is not read."""
    photometric, formats = tags.get(_PHOTOMETRIC), set(tags.get(_FORMAT, (_UNSIGNED,)))
    if photometric is None:
        raise DecodeError("it does not say what its values mean (no PhotometricInterpretation)")
    if photometric not in _COLOURED:
        what = _NOT_READ.get(photometric, f"colours of kind {photometric}")
        raise DecodeError(f"{what}, which are not read; save it as RGB or grey")
    kind = {_UNSIGNED: "uint", _SIGNED: "int", _REAL: "float", _UNDEFINED: "undefined"}.get(max(formats), "complex")
    if any_type:
        _check_numbers(photometric, formats, kind)
        return
    if not formats <= {_UNSIGNED, _SIGNED, _UNDEFINED} or (formats != {_UNSIGNED} and samples > 1):
        raise DecodeError(f"values of type {kind}{bits}; {NEEDS_RANGE}")
    if formats == {_SIGNED} and bits == 8:
        raise DecodeError(f"values of type int8; {NEEDS_RANGE}")
    if photometric == _CMYK and (samples != 4 or bits != 8 or tags.get(_INKS, 1) != 1 or stack is not None):
        raise DecodeError(f"{samples} inks of {bits} bits; only CMYK of 8 bits is read; save it as RGB")
    if photometric == _YCBCR and (samples != 3 or bits != 8):
        raise DecodeError(f"YCbCr of {samples} samples of {bits} bits; only 3 of 8 bits are read; save it as RGB")
    if photometric == _PALETTE and samples > 1 and not _alpha(tags, samples):
        raise DecodeError(f"a palette of {samples} samples; save it as RGB")
    if photometric == _PALETTE and stack is not None and stack.channels > 1:
        raise DecodeError(f"a palette of {stack.channels} channels; save it as RGB")
    if samples > 1 and bits not in (8, 16):
        raise DecodeError(f"{samples} channels of {bits} bits; 8 and 16 are allowed")


def _check_numbers(photometric: int, formats: set[int], kind: str) -> None:
    """Refuses values that no declared range can be for."""
    if photometric not in (_BLACK_IS_ZERO, _RGB) or not formats <= {_UNSIGNED, _SIGNED, _REAL} or len(formats) > 1:
        raise DecodeError(
            f"value_range= is for real numbers with black as zero, and these are of type {kind} and photometric "
            f"{photometric}"
        )


def _keeps_type(tags: dict[int, Any], bits: int, *, any_type: bool) -> bool:
    """Whether Pillow gives values of any type as they are stored: it makes signed and 32-bit values int32."""
    kind = tags.get(_FORMAT, (_UNSIGNED,))[0]
    kept = {(_UNSIGNED, 8), (_UNSIGNED, 12), (_UNSIGNED, 16), (_SIGNED, 16), (_REAL, 32)}
    return not any_type or (kind, bits) in kept


def _alpha(tags: dict[int, Any], samples: int) -> int:
    """The kind of alpha that the last sample is; 0 where it is data. RGB and one that is not explained: alpha."""
    photometric = tags.get(_PHOTOMETRIC, 0)
    extra = tags.get(_EXTRA, (_STRAIGHT,) if photometric == _RGB else ())
    if samples != _COLOURED[photometric] + 1 or len(extra) != 1:
        return 0
    return int(extra[0]) if extra[0] in (_PREMULTIPLIED, _STRAIGHT) else 0


def _suits_pillow(data: bytes, page: int, tags: dict[int, Any], samples: int, bits: int, extra: int) -> bool:
    """Whether Pillow reads these values as they are: it knows more compressions, tifffile more layouts."""
    photometric, unknown = tags[_PHOTOMETRIC], data.startswith(_BIG_AND_TURNED)
    if photometric in (_CMYK, _YCBCR):
        if unknown:
            raise DecodeError("CMYK or YCbCr in a BigTIFF of big-endian bytes, which are not read; save it as RGB")
        return True
    if unknown or (page and bits in (8, 16)):
        return False  # Pillow has to understand the first page, too
    if samples == 1:
        turned = photometric == _WHITE_IS_ZERO and data[:2] == b"MM"
        if bits == 12 and (photometric != _BLACK_IS_ZERO or data[:2] == b"MM"):
            return False
        return not (bits == 16 and (turned or photometric == _PALETTE or tags.get(_FILL, 1) != 1))
    if bits != 8 or tags.get(_PLANAR, 1) == _SEPARATE:
        return bits == 8 and samples == 3 and photometric == _RGB
    return (photometric == _RGB and (samples == 3 or extra == _STRAIGHT)) or (
        photometric == _BLACK_IS_ZERO and extra == _STRAIGHT
    )


def _check_bytes(found: Tiff, tags: dict[int, Any]) -> None:
    """Refuses a picture that is not compressed and larger than its file, before memory is taken for it."""
    if tags.get(_COMPRESSION, 1) != 1:
        return
    needed = found.stored[0] * (found.stored[1] * found.samples * found.bits // 8)
    if found.photometric == _YCBCR:
        needed //= 3  # colours may have been thinned out
    if needed > len(found.data):
        raise DecodeError(f"{needed} bytes of pixels in a file of {len(found.data)}; it is cut or damaged")


def _read_colours(tags: dict[int, Any], bits: int) -> Pixels:
    """The map of a palette; some programs write 8 bits, where the rule is 16."""
    colours = np.array(tags.get(_COLOURS, ()), dtype=np.uint16)
    if colours.size != 3 << bits:
        raise DecodeError(f"a palette of {colours.size} values; {3 << bits} are needed")
    return (colours if colours.max() > 0xFF else colours << 8 | colours).reshape(3, -1).T


def _read_by_pillow(found: Tiff) -> Pixels:
    image: Image.Image = Image.open(io.BytesIO(found.data), formats=("TIFF",))
    if found.page:
        image.seek(found.page)
    image.load()  # Pillow turns it upright
    if found.photometric in (_CMYK, _YCBCR):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    array: Pixels = np.array(image)  # a copy: Pillow's buffers are read-only
    return _laid_down(array, found.orientation)


def _laid_down(array: Pixels, orientation: int) -> Pixels:
    """The opposite of `upright`."""
    return upright(array, {6: 8, 8: 6}.get(orientation, orientation))


def _read_by_tifffile(found: Tiff) -> Pixels:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(found.data)) as file:
        page = file.pages[found.page]
        try:
            array: Pixels = page.asarray()
        except (ValueError, ImportError) as error:
            if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
                raise
            name = page.keyframe.compression.name
            raise DecodeError(f"{name} compression needs imagecodecs: pip install imagecodecs") from error
    return array
