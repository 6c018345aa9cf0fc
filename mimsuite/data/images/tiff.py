"""Which TIFF files hold more than Pillow reads (16-bit colour, any number of channels), and their pixels.

Only the first picture of a file counts. Several pages are one picture where the file itself calls them channels
(ImageJ, OME, or an array that tifffile wrote); else the first page is taken.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION = 256, 257, 258, 262, 270, 274
_SAMPLES, _PLANAR, _EXTRA = 277, 284, 338
_RGB, _CMYK, _YCBCR = 2, 5, 6
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples: what alpha did to the colours
_SEPARATE = 2  # PlanarConfiguration: (C, H, W); else (H, W, C)
_STACKED = ("ImageJ=", "<?xml", '{"shape":')


class Layout(NamedTuple):
    """How the pixels lie in the file.

    Attributes:
        height, width: as stored, in pixels.
        channels: without alpha, which is laid on white.
        deep: 16-bit values.
        orientation: the EXIF number, 1 to 8.
        planes: the axis of the channels comes first: (C, H, W).
        paged: the channels are pages.
        alpha: 0 for none, else the value of the tag ExtraSamples.
    """

    height: int
    width: int
    channels: int
    deep: bool
    orientation: int
    planes: bool
    paged: bool
    alpha: int


def read_layout(data: bytes) -> Layout | None:
    """Reads the tags of a TIFF; None for what is left to Pillow.

    Raises:
        ValueError: values of another type than uint8 and uint16, or axes beyond one picture; damaged files also
            raise what Pillow and tifffile raise for them.
    """
    directory = ImageFileDirectory_v2(data[:16] if data[2] == 43 or data[3] == 43 else data[:8])
    stream = io.BytesIO(data)
    stream.seek(directory.next)
    directory.load(stream)
    tags = dict(directory)
    stacked = bool(directory.next) and str(tags.get(_DESCRIPTION, "")).startswith(_STACKED)
    if not stacked and _is_plain(tags):
        return None
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series, page = file.series[0], file.pages[0]
        paged = stacked and len(series.shape) == 3 and series.axes[0] in "CQS" and series.axes[1:] == "YX"
        if not paged and _is_plain(tags):
            return None
        if paged and any(part is None for part in series.pages):
            raise ValueError("its channels lie in several files; write them into one")
        dtype, samples = page.dtype, int(series.shape[0]) if paged else int(page.samplesperpixel)
    if dtype not in (np.dtype("u1"), np.dtype("u2")):
        raise ValueError(f"values of type {dtype}; uint8 and uint16 are allowed")
    if tags.get(_PHOTOMETRIC) == _CMYK and not paged:
        raise ValueError("16-bit CMYK; save it as RGB")
    alpha = 0 if paged else _alpha(tags, samples)
    orientation = tags.get(_ORIENTATION, 1)
    return Layout(
        height=int(tags[_HEIGHT]),
        width=int(tags[_WIDTH]),
        channels=samples - (alpha > 0),
        deep=dtype.itemsize == 2,
        orientation=orientation if orientation in range(1, 9) else 1,
        planes=paged or (samples > 1 and tags.get(_PLANAR, 1) == _SEPARATE),
        paged=paged,
        alpha=alpha,
    )


def read_pixels(data: bytes, layout: Layout) -> NDArray[Any]:
    """The stored pixels, `(H, W, channels)` uint8 or uint16, not turned upright.

    Raises:
        ValueError: damaged, or compressed in a way that is not supported; also what tifffile raises for damage.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        try:
            array: NDArray[Any] = file.series[0].asarray() if layout.paged else file.pages[0].asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            name = file.pages[0].compression.name
            raise ValueError(f"{name} compression needs imagecodecs: pip install imagecodecs") from error
    samples = layout.channels + (layout.alpha > 0)
    if layout.planes:
        array = np.moveaxis(array.reshape(samples, layout.height, layout.width), 0, 2)
    array = array.reshape(layout.height, layout.width, samples)
    array = np.ascontiguousarray(array, dtype=np.uint16 if layout.deep else np.uint8)
    return _on_white(array, layout.alpha) if layout.alpha else array


def _is_plain(tags: dict[int, Any]) -> bool:
    """Pillow reads one channel of any depth, and 8 bits of RGB, YCbCr, CMYK and RGBA."""
    samples, bits, photometric = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,)), tags.get(_PHOTOMETRIC, 0)
    if samples == 1:
        return True
    if max(bits) > 8:
        return False
    if samples == 3:
        return photometric in (_RGB, _YCBCR)
    return samples == 4 and (photometric == _CMYK or (photometric == _RGB and _alpha(tags, 4) > 0))


def _alpha(tags: dict[int, Any], samples: int) -> int:
    """The kind of alpha that the last channel is; 0 where it is data. RGB and one that is not explained: alpha."""
    colour = tags.get(_PHOTOMETRIC) == _RGB
    extra = tags.get(_EXTRA, (_STRAIGHT,) if colour else ())
    if samples != (4 if colour else 2) or len(extra) != 1:
        return 0
    return int(extra[0]) if extra[0] in (_PREMULTIPLIED, _STRAIGHT) else 0


def _on_white(array: NDArray[Any], alpha: int) -> NDArray[Any]:
    top = np.uint64(np.iinfo(array.dtype).max)
    colour, cover = array[..., :-1].astype(np.uint64), array[..., -1:].astype(np.uint64)
    if alpha == _PREMULTIPLIED:
        mixed = np.minimum(colour + (top - cover), top)
    else:
        mixed = (colour * cover + top * (top - cover) + top // np.uint64(2)) // top
    return mixed.astype(array.dtype)
