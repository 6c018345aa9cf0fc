"""Numbers of any type to 16-bit values by a declared range: float, signed and wide ones, and those of 8 and 16 bits."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mimsuite.data.images.pixels import Box, DecodeError, Encoded, Pixels, Remark

#: What an error says where numbers of such a type need a range.
NEEDS_RANGE = "other numbers than uint8 and uint16 need `mimsuite pack value_range=[LOWEST,HIGHEST]`"
_TOP = 65535


def range_words(low: float, high: float) -> str:
    """A range as it is written on a command line: `value_range=[0,4095]`."""
    return f"value_range=[{str(low).removesuffix('.0')},{str(high).removesuffix('.0')}]"


class ValueRange(NamedTuple):
    """The values that become 0 and 65535; what lies outside is clipped.

    Attributes:
        low, high: finite numbers, low below high, of which `fits` is true.
        nodata: the number, or NaN, that stands for a pixel without a value; such become 0. None: there is none.
    """

    low: float
    high: float
    nodata: float | None = None

    @property
    def fits(self) -> bool:
        """Whether its width, and the step of 16 bits, are numbers that a computer holds."""
        width = self.high - self.low
        return 0 < width < math.inf and _TOP / width < math.inf

    def inverted(self) -> ValueRange:
        """The range of the negative values: the largest becomes 0, and `nodata`, too."""
        return ValueRange(-self.high, -self.low, None if self.nodata is None else -self.nodata)

    def apply(self, values: Pixels) -> Pixels:
        """Values `(H, W, C)` of any real type to uint16: `round((value - low) / (high - low) * 65535)`.

        Raises:
            DecodeError: values that are NaN or infinite, and not `nodata`; they are counted.
        """
        result = np.empty(values.shape, np.uint16)
        for channel in range(values.shape[2]):  # one at a time, for the memory
            plane = values[..., channel].astype(np.float64)
            absent = self._absent(values[..., channel])
            plane[absent] = self.low
            self._check(plane, values.shape[2], channel)
            plane = np.rint((plane - self.low) * (_TOP / (self.high - self.low))).clip(0, _TOP)
            result[..., channel] = plane
        return result

    def _absent(self, plane: Pixels) -> Pixels:
        """Which values of a channel are `nodata`, as the type of the values has it."""
        if self.nodata is None:
            return np.zeros(plane.shape, bool)
        if math.isnan(self.nodata):
            found: Pixels = np.isnan(plane) if plane.dtype.kind == "f" else np.zeros(plane.shape, bool)
            return found
        with np.errstate(over="ignore"):
            number = plane.dtype.type(self.nodata) if plane.dtype.kind == "f" else self.nodata
        if not math.isfinite(number):  # beyond the type: no value of it is this one
            return np.zeros(plane.shape, bool)
        return np.asarray(plane == number)

    def _check(self, plane: Pixels, channels: int, channel: int) -> None:
        wrong = plane.size - np.count_nonzero(np.isfinite(plane))
        if wrong:
            where = f" of channel {channel}" if channels > 1 else ""
            raise DecodeError(
                f"{wrong:,} of {plane.size:,} values{where} are NaN or infinite; replace them, or, where NaN stands "
                "for no data, use nodata=nan"
            )

    def remarks(self, pixels: Pixels) -> tuple[Remark, ...]:
        """Says of mapped pixels where most of them are at the ends: the range is then hardly the right one."""
        share = np.count_nonzero((pixels == 0) | (pixels == _TOP)) / pixels.size
        if share <= 0.5:
            return ()
        text = f"more than half of the values lie at or beyond the ends of {range_words(self.low, self.high)}"
        return (Remark("range", text + (", or are nodata" if self.nodata is not None else "")),)


class Ranged(NamedTuple):
    """An image whose values become 16-bit ones by a declared range."""

    image: Encoded
    range: ValueRange

    @property
    def height(self) -> int:
        """Rows of the upright image."""
        return self.image.height

    @property
    def width(self) -> int:
        """Columns of the upright image."""
        return self.image.width

    @property
    def channels(self) -> int:
        """Those of the image."""
        return self.image.channels

    @property
    def deep(self) -> bool:
        """Always true."""
        return True

    def remarks(self) -> tuple[Remark, ...]:
        """Those of the image."""
        return self.image.remarks()

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """See `pixels.Encoded`."""
        return self.range.apply(self.image.pixels(box, cover))
