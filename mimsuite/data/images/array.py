"""Numpy files of shape (H, W) or (H, W, C), uint8 or uint16, read in place."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from mimsuite.data.images.pixels import Box, DecodeError, Pixels, Remark, check_size, cut, decoding

MAGIC = b"\x93NUMPY"
_FEW = 16  # more channels than this, with fewer rows, look like (C, H, W)


class Array(NamedTuple):
    """A numpy file whose header is read."""

    data: bytes
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.unsignedinteger]
    fortran: bool

    @property
    def height(self) -> int:
        """Rows."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.shape[1]

    @property
    def channels(self) -> int:
        """The third axis; 1 where there is none."""
        return self.shape[2] if len(self.shape) == 3 else 1

    @property
    def deep(self) -> bool:
        """True for uint16."""
        return self.dtype.itemsize == 2

    def remarks(self) -> tuple[Remark, ...]:
        """Whether the channels may lie on the first axis."""
        if self.height <= _FEW < self.channels and self.width > _FEW:
            text = (
                f"an array of shape {self.shape} is read as (H, W, C), with {self.channels} channels; if the first "
                "axis is the channels, save array.transpose(1, 2, 0)"
            )
            return (Remark("axes", text),)
        return ()

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """See `decode.Encoded`."""
        with decoding("npy"):
            count = self.height * self.width * self.channels
            values = np.frombuffer(self.data, self.dtype, count, self.start)
            array = values.reshape(self.shape, order="F" if self.fortran else "C")
            array = cut(array.reshape(self.height, self.width, self.channels), box)
            return array.astype(np.uint16 if self.deep else np.uint8)


def read_array_header(data: bytes) -> Array:
    """Reads the header of a numpy file.

    Raises:
        DecodeError: damaged, cut, or an array of another kind.
    """
    stream = io.BytesIO(data)
    with decoding("npy"):
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise DecodeError(f"npy array of {dtype}; uint8 and uint16 are allowed")
    if len(shape) not in (2, 3) or not all(type(side) is int for side in shape):
        raise DecodeError(f"npy array of shape {shape}; (H, W) and (H, W, C) are allowed")
    check_size(*shape)
    found = Array(data, stream.tell(), shape, dtype, fortran)
    needed = found.height * found.width * found.channels * dtype.itemsize
    if needed > len(data) - found.start:
        raise DecodeError(f"npy: {needed} bytes should follow its header, {len(data) - found.start} are there")
    return found
