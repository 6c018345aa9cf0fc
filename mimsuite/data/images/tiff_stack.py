"""The planes and channels of stacks that microscopes write (ImageJ, OME, tifffile, LSM): the first plane, all channels.

tifffile knows what the axes of such a file are; here it is decided which of them are channels.
"""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import numpy as np

from mimsuite.data.images.pixels import DecodeError, Pixels

_DESCRIPTION, _SAMPLES = 270, 277
_STACKED = ("ImageJ=", "<?xml", "<OME", '{"shape":')
_MICROSCOPES = (34412, 33628, 33629, 51123, 34361)  # tags of LSM, MetaMorph, Micro-Manager, FluoView
_CHANNEL, _UNKNOWN = "C", "Q"


class Stack(NamedTuple):
    """A series of pages.

    Attributes:
        axes: letters of the axes before those of a page ("ZC": planes of channels).
        shape: their lengths.
        channel: which of them counts the channels; -1 for none.
        page_axes: of one page, "YX", "YXS" or "SYX".
        page_shape: their lengths.
        samples: values of a pixel of the first plane.
    """

    axes: str
    shape: tuple[int, ...]
    channel: int
    page_axes: str
    page_shape: tuple[int, ...]
    samples: int

    @property
    def channels(self) -> int:
        """Pages that are channels of one picture."""
        return self.shape[self.channel] if self.channel >= 0 else 1

    @property
    def planes(self) -> int:
        """Pictures in the file."""
        return math.prod(self.shape) // self.channels

    @property
    def unnamed(self) -> bool:
        """Whether it has one axis beside those of a page, whose name is not said, and which is taken for channels."""
        return self.axes == _UNKNOWN

    def describe_guess(self) -> str:
        """What an axis without a name is taken for, and how it gets one."""
        height, width = (self.page_shape[self.page_axes.index(axis)] for axis in "YX")
        return (
            f"{self.channels} pages of {height} x {width} pixels, of which the file does not say what they are, are "
            "taken as channels; if they are something else, name the axes (tifffile: metadata={'axes': 'ZYX'})"
        )

    def read(self, data: bytes) -> Pixels:
        """The values of the first plane, `(H, W, samples)`."""
        numbers = [self._page(channel) for channel in range(self.channels)]
        pages = [_to_rows(page, self.page_axes) for page in _read_pages(data, numbers, self.page_shape)]
        return np.concatenate(pages, axis=-1)

    def _page(self, channel: int) -> int:
        place = [0] * len(self.shape)
        if self.channel >= 0:
            place[self.channel] = channel
        return int(np.ravel_multi_index(place, self.shape)) if self.shape else 0


def needs_series(tags: dict[int, Any]) -> bool:
    """Whether a file may have axes beyond those of its page."""
    return str(tags.get(_DESCRIPTION, "")).startswith(_STACKED) or any(tag in tags for tag in _MICROSCOPES)


def find_stack(data: bytes, tags: dict[int, Any]) -> Stack | None:
    """Reads the axes; None where the file holds one page.

    Raises:
        DecodeError: axes that cannot be told, or channels in other files.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        axes, shape = str(series.axes), tuple(int(side) for side in series.shape)
        inner = "SYX" if series.keyframe.axes == "SYX" else "YXS" if axes.endswith("S") else "YX"
        lead, lengths, page_shape = axes[: -len(inner)], shape[: -len(inner)], shape[-len(inner) :]
        if not lead:
            return None
        if not axes.endswith((inner, "CYX") if inner == "SYX" else inner):  # planes of a page may be called channels
            raise DecodeError(f"a stack with the axes {axes}; write one picture a file")
        if any(part is None for part in series.pages):
            raise DecodeError("its channels lie in several files; write them into one")
    channel = lead.find(_CHANNEL)
    if lead == _UNKNOWN:
        channel = 0
    elif _UNKNOWN in lead or lead.count(_CHANNEL) > 1:
        raise DecodeError(f"a stack with the axes {lead} of {lengths}: which are channels it does not say")
    samples = page_shape[inner.index("S")] if "S" in inner else 1
    if channel >= 0 and samples > 1:
        raise DecodeError(f"{lengths[channel]} channels that are colour pictures; write one picture a file")
    count = lengths[channel] if channel >= 0 else 1
    return Stack(lead, lengths, channel, inner, page_shape, samples * count)


def _read_pages(data: bytes, numbers: list[int], shape: tuple[int, ...]) -> list[Pixels]:
    """Some pages of the first series, and no others: a stack may have thousands."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        if series.dataoffset is not None:  # its pages lie one behind the other, and may have no tags of their own
            dtype = series.dtype.newbyteorder(file.byteorder)
            size = math.prod(shape)
            parts = [np.frombuffer(data, dtype, size, series.dataoffset + n * size * dtype.itemsize) for n in numbers]
            return [part.reshape(shape).copy() for part in parts]  # the file's bytes are read-only
        pages = []
        for number in numbers:
            page = series.pages[number]
            if page is None:
                raise DecodeError("its channels lie in several files; write them into one")
            pages.append(np.asarray(page.asarray()).reshape(shape))
        return pages


def _to_rows(page: Pixels, axes: str) -> Pixels:
    if axes == "SYX":
        return np.moveaxis(page, 0, 2)
    return page if axes == "YXS" else page[..., None]
