"""Which samples of a split count, and under which numbers: all, some of them, or all but some."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Numbering(Protocol):
    """Numbers samples from 0 that lie at ascending places."""

    def __len__(self) -> int: ...

    def place(self, number: int) -> int:
        """The place of one sample."""
        ...

    def places(self, numbers: Numbers) -> Numbers:
        """The places of several, `(N,)`."""
        ...

    def before(self, places: Numbers) -> Numbers:
        """How many samples lie before each place, `(N,)`."""
        ...

    def within(self, first: int, stop: int) -> slice | NDArray[Any]:
        """What takes those at the places `first` to `stop` from an array of all that lies there."""
        ...

    def without(self, numbers: Numbers) -> Numbering:
        """All but these (ascending) numbers."""
        ...


class All:
    """All of `total` places."""

    def __init__(self, total: int) -> None:
        self._total = total

    def __len__(self) -> int:
        return self._total

    def place(self, number: int) -> int:
        """See `Numbering`."""
        return number

    def places(self, numbers: Numbers) -> Numbers:
        """See `Numbering`."""
        return numbers

    def before(self, places: Numbers) -> Numbers:
        """See `Numbering`."""
        return places

    def within(self, first: int, stop: int) -> slice:
        """See `Numbering`."""
        return slice(None)

    def without(self, numbers: Numbers) -> Numbering:
        """See `Numbering`."""
        return AllBut(self._total, numbers)


class Some:
    """Those at certain (ascending) places; holds 8 bytes for each."""

    def __init__(self, places: Numbers) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def place(self, number: int) -> int:
        """See `Numbering`."""
        return int(self._places[number])

    def places(self, numbers: Numbers) -> Numbers:
        """See `Numbering`."""
        return self._places[numbers]

    def before(self, places: Numbers) -> Numbers:
        """See `Numbering`."""
        return np.searchsorted(self._places, places)

    def within(self, first: int, stop: int) -> Numbers:
        """See `Numbering`."""
        low, high = np.searchsorted(self._places, (first, stop))
        return self._places[low:high] - first

    def without(self, numbers: Numbers) -> Numbering:
        """See `Numbering`."""
        return Some(np.delete(self._places, numbers))


class AllBut:
    """All of `total` places but certain (ascending) ones; holds 16 bytes for each of those that are left out."""

    def __init__(self, total: int, left_out: Numbers) -> None:
        self._total, self._left_out = total, left_out
        self._gaps = left_out - np.arange(len(left_out))  # samples before each place that is left out

    def __len__(self) -> int:
        return self._total - len(self._left_out)

    def place(self, number: int) -> int:
        """See `Numbering`."""
        return number + int(self._gaps.searchsorted(number, side="right"))

    def places(self, numbers: Numbers) -> Numbers:
        """See `Numbering`."""
        return numbers + np.searchsorted(self._gaps, numbers, side="right")

    def before(self, places: Numbers) -> Numbers:
        """See `Numbering`."""
        return places - np.searchsorted(self._left_out, places)

    def within(self, first: int, stop: int) -> NDArray[np.bool_]:
        """See `Numbering`."""
        low, high = np.searchsorted(self._left_out, (first, stop))
        taken = np.ones(stop - first, dtype=bool)
        taken[self._left_out[low:high] - first] = False
        return taken

    def without(self, numbers: Numbers) -> Numbering:
        """See `Numbering`."""
        return AllBut(self._total, np.union1d(self._left_out, self.places(numbers)))
