"""Numpy files of shape (H, W) or (H, W, C), read in place: uint8 and uint16, and other numbers by a declared range."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

from mimsuite.data.images.pixels import Box, DecodeError, Pixels, Remark, check_size, cut, decoding
from mimsuite.data.images.value_range import NEEDS_RANGE

MAGIC = b"\x93NUMPY"
_FEW = 16  # more channels than this, with fewer rows, look like (C, H, W)


class Array(NamedTuple):
    """A numpy file whose header is read."""

    data: bytes
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
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
        """True for all but uint8."""
        return self.dtype.itemsize > 1

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
        """See `pixels.Encoded`."""
        with decoding("npy"):
            count = self.height * self.width * self.channels
            values = np.frombuffer(self.data, self.dtype, count, self.start)
            array = values.reshape(self.shape, order="F" if self.fortran else "C")
            array = cut(array.reshape(self.height, self.width, self.channels), box)
            return array.astype(self.dtype.newbyteorder("="))


def read_array_header(data: bytes, *, any_type: bool = False) -> Array:
    """Reads the header of a numpy file; with `any_type` its values may be any real numbers.

    Raises:
        DecodeError: damaged, cut, or an array of another kind.
    """
    stream = io.BytesIO(data)
    with decoding("npy"):
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    if dtype.kind not in "uif" or (not any_type and (dtype.kind != "u" or dtype.itemsize > 2)):
        raise DecodeError(f"npy array of {dtype}; {NEEDS_RANGE}")
    if len(shape) not in (2, 3) or not all(type(side) is int for side in shape):
        raise DecodeError(f"npy array of shape {shape}; (H, W) and (H, W, C) are allowed")
    check_size(*shape)
    found = Array(data, stream.tell(), shape, dtype, fortran)
    needed = found.height * found.width * found.channels * dtype.itemsize
    if needed > len(data) - found.start:
        raise DecodeError(f"npy: {needed} bytes should follow its header, {len(data) - found.start} are there")
    return found
