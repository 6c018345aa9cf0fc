"""DICOM: the first frame, through the file's own lookup tables and window. docs/images.md has the table of fields.

pydicom decodes, and applies the tables. Of the header only what describes pixels is read: what names a person or a
visit is not looked at, but for the field of `read_group`, which gives a hash.
"""

from __future__ import annotations

import hashlib
import io
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mimsuite.data.images.pixels import Box, DecodeError, Pixels, Remark, check_size, cut, decoding
from mimsuite.data.images.value_range import ValueRange
from mimsuite.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

HEADER = 132  # bytes: a preamble and four letters
_MAGIC = b"DICM"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PALETTE = [
    f"{kind}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
_READ = [
    *_PIXELS,
    *_PALETTE,
    *("SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
_OF_FRAMES = ("PixelValueTransformationSequence", "FrameVOILUTSequence")  # tables of enhanced multi-frame files
_GREYS, _PALETTE_COLOR = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
_FAR = 1e30  # beyond any window


class Dicom(NamedTuple):
    """A DICOM file whose header is read.

    Attributes:
        fields: what it says of its pixels, and these.
        height, width: Rows and Columns.
        channels: 1, or 3 for colours.
        bits: BitsStored.
        range: what becomes 0 and 65535 in place of the file's window; None: the window.
    """

    fields: Dataset
    height: int
    width: int
    channels: int
    bits: int
    range: ValueRange | None

    @property
    def deep(self) -> bool:
        """Whether more than 8 bits are stored, or a range is declared."""
        return self.bits > 8 or self.range is not None

    def remarks(self) -> tuple[Remark, ...]:
        """Frames, and windows."""
        found = []
        if (frames := _number(self.fields, "NumberOfFrames", 1)) > 1:
            found.append(Remark("frames", f"of {frames} frames the first is taken"))
        tables = self.fields.get("VOILUTSequence") or self.fields.get("WindowWidth")
        if self.range is None and self.channels == 1 and tables is None:
            found.append(Remark("window", "no window is given, and all values that its bits can hold are kept"))
        return tuple(found)

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """See `pixels.Encoded`."""
        from pydicom.pixels.utils import pixel_array

        with decoding("DICOM"):
            _check_decoder(self.fields)
            array = np.asarray(pixel_array(self.fields, index=0))
            pixels = self._coloured(array) if self.channels == 3 else self._grey(array)[..., None]
            return cut(pixels.reshape(self.height, self.width, self.channels), box)

    def _coloured(self, array: Pixels) -> Pixels:
        """RGB: pydicom has converted YBR."""
        from pydicom.pixels.processing import apply_color_lut

        if self.fields.PhotometricInterpretation == _PALETTE_COLOR:
            array = apply_color_lut(array, self.fields)[..., :3]
            stored = array.dtype.itemsize * 8
        else:
            stored = self.bits
        return self._to_bits(array / (2**stored - 1))

    def _grey(self, array: Pixels) -> Pixels:
        """The window's ends become black and white; MONOCHROME1 is inverted."""
        from pydicom.pixels.processing import apply_modality_lut

        values = apply_modality_lut(array, self.fields)
        inverted = self.fields.PhotometricInterpretation == "MONOCHROME1"
        if self.range is None:
            pixels = self._to_bits(self._windowed(values))
            return np.iinfo(pixels.dtype).max - pixels if inverted else pixels
        if inverted:
            values = -values if values.dtype.kind == "f" else -values.astype(np.int64)
        declared = self.range.inverted() if inverted else self.range
        return declared.apply(values[..., None])[..., 0]

    def _windowed(self, values: Pixels) -> Pixels:
        """Fractions of the output of the file's VOI LUT or window; without one, of what its bits can hold."""
        from pydicom.pixels.processing import apply_voi_lut, apply_windowing

        fields = self.fields
        if tables := fields.get("VOILUTSequence"):
            return np.asarray(apply_voi_lut(values, fields) / (2 ** int(tables[0].LUTDescriptor[2]) - 1))
        if fields.get("WindowCenter") is None or fields.get("WindowWidth") is None:
            low, high = self._limits()
            return (values - low) / (high - low)
        width = np.ravel(np.asarray(fields.WindowWidth, float))[0]
        if not width > 0:
            raise DecodeError(f"a window of width {width:g}; use `mimsuite pack value_range=[LOWEST,HIGHEST]`")
        with np.errstate(over="ignore"):
            black, white = apply_windowing(np.array([-_FAR, _FAR]), fields)
            return np.asarray((apply_windowing(values, fields) - black) / (white - black))

    def _limits(self) -> tuple[float, float]:
        """The least and the largest value that the stored bits can hold, after the modality's table."""
        if tables := self.fields.get("ModalityLUTSequence"):
            return 0.0, 2.0 ** int(tables[0].LUTDescriptor[2]) - 1
        if not self.fields.get("PixelData"):
            raise DecodeError("values of type float; use `mimsuite pack value_range=[LOWEST,HIGHEST]`")
        least = -(2 ** (self.bits - 1)) if _number(self.fields, "PixelRepresentation", 0) else 0
        slope, shift = (float(self.fields.get(key, n)) for key, n in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
        low, high = sorted(value * slope + shift for value in (least, least + 2**self.bits - 1))
        return low, high

    def _to_bits(self, fractions: Pixels) -> Pixels:
        """Fractions as the 8 or 16 bits that the image is read with."""
        if not np.isfinite(fractions).all():
            raise DecodeError("values that are NaN or infinite after the tables of the file")
        kind = np.uint16 if self.deep else np.uint8
        pixels: Pixels = np.rint(fractions.clip(0, 1) * np.iinfo(kind).max).astype(kind)
        return pixels


def is_dicom(data: bytes) -> bool:
    """Whether these are, or begin, a DICOM file with its preamble."""
    return data[HEADER - len(_MAGIC) : HEADER] == _MAGIC


def read_dicom_header(data: bytes, value_range: ValueRange | None) -> Dicom:
    """Reads what a DICOM file says of its pixels.

    Raises:
        DecodeError: damaged, without pixels, or of a kind that is not read; it is named.
        InputError: pydicom is not installed.
    """
    _need_pydicom()
    with decoding("DICOM"):
        fields = _read(data, _READ)
        if not any(name in fields for name in _PIXELS):
            raise DecodeError(f"a file without pixels ({_kind_of(fields)})")
        meaning = str(fields.get("PhotometricInterpretation", ""))
        samples = _number(fields, "SamplesPerPixel", 1)
        coloured = meaning == "RGB" or meaning.startswith("YBR_")
        if not (coloured or meaning in (*_GREYS, _PALETTE_COLOR)) or (samples == 3) != coloured:
            raise DecodeError(f"pixels of kind {meaning or 'unknown'} with {samples} samples, which are not read")
        channels = 1 if meaning in _GREYS else 3
        if channels == 3 and value_range is not None:
            raise DecodeError(f"value_range= is for grey values, and these are colours ({meaning})")
        bits = _number(fields, "BitsStored", 0) if "PixelData" in fields else 32
        if not 1 <= bits <= 32:
            raise DecodeError(f"pixels of {bits} bits")
        height, width = _number(fields, "Rows", 0), _number(fields, "Columns", 0)
        _spread_frame(fields)
    check_size(height, width, channels)
    return Dicom(fields, height, width, channels, bits, value_range)


def _kind_of(fields: Any) -> str:
    """What a file is of, by DICOM's name of its class."""
    found = fields.get("SOPClassUID") or fields.file_meta.get("MediaStorageSOPClassUID")
    return getattr(found, "name", "") or "of an unknown kind"


def read_group(data: bytes, keyword: str) -> str:
    """A hash of a field of a DICOM file: what groups images, and tells nobody whose they are. Empty without a value.

    Raises:
        DecodeError: it cannot be read.
        InputError: pydicom is not installed.
    """
    _need_pydicom()
    with decoding("DICOM"):
        value = " ".join(str(_read(data, [keyword], pixels=False).get(keyword) or "").split())
    return hashlib.sha256(f"{keyword}\0{value}".encode()).hexdigest() if value else ""


def is_keyword(word: str) -> bool:
    """Whether DICOM knows a field of this name (`PatientID`).

    Raises:
        InputError: pydicom is not installed.
    """
    _need_pydicom()
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(word) is not None


def _need_pydicom() -> None:
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise InputError('DICOM files need pydicom, which is not installed; pip install "mimsuite[dicom]"') from None
    logging.getLogger("pydicom").propagate = False  # what cannot be used is an error, the rest is silence


def _read(data: bytes, keywords: list[str], *, pixels: bool = True) -> Any:
    from pydicom import dcmread

    if not is_dicom(data):
        raise DecodeError("no header (DICM at byte 128)")
    return dcmread(io.BytesIO(data), specific_tags=list(keywords), stop_before_pixels=not pixels)


def _number(fields: Any, keyword: str, default: int) -> int:
    value = fields.get(keyword)
    return default if value is None else int(value)


def _spread_frame(fields: Any) -> None:
    """Puts the tables of the first frame of an enhanced file where those of a plain one are."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if not fields.get(groups):
            continue
        for name in _OF_FRAMES:
            for table in list(fields[groups].value[0].get(name) or ())[:1]:
                fields.update({element.tag: element for element in table if element.keyword in _READ})


def _check_decoder(fields: Any) -> None:
    """Refuses a compression that no installed library reads."""
    from pydicom.pixels.decoders.base import get_decoder

    kind = fields.file_meta.get("TransferSyntaxUID")
    if kind is None:
        raise DecodeError("it does not say how its pixels are stored (no TransferSyntaxUID)")
    try:
        available = get_decoder(kind).is_available
    except NotImplementedError:
        raise DecodeError(f"pixels stored as {kind.name}, which are not read") from None
    if not available:
        raise DecodeError(f'{kind.name} needs a decoder; pip install "pylibjpeg[all]"')
