"""What all readers of images share: the error, sizes, parts of an image, and how it is turned upright."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray
from PIL import _imaging

from mimsuite.errors import cause_of

#: Larger images are refused before their pixels are read (Pillow's own limit for errors).
MAX_PIXELS = 178_956_970
MAX_VALUES = 4 * MAX_PIXELS  # of an image with any number of channels

Pixels = NDArray[Any]  # (H, W, C), uint8 or uint16


class DecodeError(ValueError):
    """These bytes are not a usable image; the message gives the reason in a few words."""


class Box(NamedTuple):
    """A rectangle in pixels of the upright image."""

    top: int
    left: int
    height: int
    width: int


class Remark(NamedTuple):
    """What was left out, or decided, when an image was read.

    Attributes:
        kind: remarks of one kind are counted together.
        text: goes on after "in 3 of 40 sampled images".
    """

    kind: str
    text: str


class Encoded(Protocol):
    """An image whose header is read and whose pixels are not; upright means: its orientation is applied."""

    @property
    def height(self) -> int:
        """Rows of the upright image."""
        ...

    @property
    def width(self) -> int:
        """Columns of the upright image."""
        ...

    @property
    def channels(self) -> int:
        """1, 3 or, for arrays, TIFF and alpha that is kept, any number."""
        ...

    @property
    def deep(self) -> bool:
        """True where the values are 16-bit."""
        ...

    def remarks(self) -> tuple[Remark, ...]:
        """What is left out of the file, or decided: planes, alpha, depth; at most one of a kind."""
        ...

    def pixels(self, box: Box | None = None, cover: tuple[int, int] | None = None) -> Pixels:
        """Returns the upright pixels of `box` (default: all), `(H, W, channels)` uint8 or uint16.

        With `cover = (height, width)` they may come at 1/2, 1/4 or 1/8 of the size, but not below `cover`.
        """
        ...


def check_size(height: int, width: int, channels: int = 1) -> None:
    """Refuses empty images and those that are too large."""
    if height < 1 or width < 1:
        raise DecodeError(f"{height} x {width} pixels; at least 1 x 1 is needed")
    if channels < 1:
        raise DecodeError("no channels; at least one is needed")
    if height * width > MAX_PIXELS:
        raise DecodeError(f"{height} x {width} pixels; at most {MAX_PIXELS} are allowed")
    if height * width * channels > MAX_VALUES:
        raise DecodeError(f"{height * width * channels} values; at most {MAX_VALUES} are allowed")


@contextlib.contextmanager
def decoding(kind: str) -> Iterator[None]:
    """Turns whatever a library raises for damaged bytes into a `DecodeError`, and keeps it quiet.

    The bytes are in memory, so not even an OSError is an I/O error here.
    """
    try:
        with _quiet:
            yield
    except Exception as error:
        raise DecodeError(f"{kind}: {cause_of(error)}") from error


class _Quiet:
    """Libraries warn of odd metadata, and none names the file: what cannot be used is an error, the rest is silence.

    Images are decoded in several threads at once, for which `warnings.catch_warnings` is not made: the filters are
    put back when the last of them is done.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._caught = warnings.catch_warnings()
        log = logging.getLogger("tifffile")
        log.addHandler(logging.NullHandler())
        log.propagate = False
        with contextlib.suppress(AttributeError, OSError):  # libtiff, inside of Pillow, prints what Pillow raises, too
            library = ctypes.CDLL(str(_imaging.__file__))
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


_quiet = _Quiet()


# EXIF orientation: the stored image is mirrored along these axes, and then, from 5 on, transposed.
_FLIP_ROWS, _FLIP_COLUMNS = (3, 4, 6, 7), (2, 3, 7, 8)


def upright(array: Pixels, orientation: int) -> Pixels:
    """Turns stored pixels by an EXIF orientation, 1 to 8."""
    if orientation in _FLIP_ROWS:
        array = array[::-1]
    if orientation in _FLIP_COLUMNS:
        array = array[:, ::-1]
    return array.swapaxes(0, 1) if orientation >= 5 else array


def to_stored(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    """Where a part of the upright image lies in the stored one, whose size is `stored = (height, width)`."""
    top, left, height, width = box
    if orientation >= 5:
        top, left, height, width = left, top, width, height
    if orientation in _FLIP_ROWS:
        top = stored[0] - top - height
    if orientation in _FLIP_COLUMNS:
        left = stored[1] - left - width
    return Box(top, left, height, width)


def cut(array: Pixels, box: Box | None) -> Pixels:
    """A part of the upright pixels; None: all."""
    return array if box is None else array[box.top : box.top + box.height, box.left : box.left + box.width]
