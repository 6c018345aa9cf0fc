"""What some pictures of a data set are like: how far pixels correlate, and which are nearly the same. No torch."""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mimsuite.data.images.decode import DecodeError, open_image
from mimsuite.data.index import DataIndex, Samples
from mimsuite.data.label_table import find_label
from mimsuite.data.members import read_image, read_key
from mimsuite.data.shard_files import ShardFiles
from mimsuite.data.tar import to_text
from mimsuite.errors import InputError

SIDE = 128  # of the grey squares whose correlation is measured, in pixels
SMALL = 16  # of the pictures that are compared with each other
ALIKE = 0.99  # correlation of two small pictures from which they count as nearly the same
FALLEN = np.exp(-1.0)  # what is left of the correlation at its length
_SALT, _FIRST = 0x504C414E, 3


class SampleFacts(NamedTuple):
    """What a sample of training pictures is like.

    Attributes:
        images: pictures looked at.
        broken: those that cannot be decoded.
        correlation: distance at which the correlation of grey values falls to 1/e, as a share of the shorter side;
            None where every picture is flat.
        alike: pictures that look like another one of the sample.
        first: the keys of the first pairs of them.
        kinds: labels by kind: "class", "classes" or "number".
    """

    images: int
    broken: int
    correlation: float | None
    alike: int
    first: list[tuple[str, str]]
    kinds: dict[str, int]


def look_at_sample(index: DataIndex, samples: Samples, count: int = 600, seconds: float = 8.0) -> SampleFacts:
    """Looks at pictures that are chosen by key, and at the next one of each: copies often lie side by side.

    Of shards on another machine only these pictures are read.

    Args:
        index: the data set.
        samples: of it, to choose from.
        count: pictures, at most about so many.
        seconds: after which no further picture is read.

    Raises:
        RunError: a shard cannot be read.
    """
    files, kinds = ShardFiles(index.fetching), Counter[str]()
    small, keys, curves, broken = list[NDArray[np.float32]](), list[str](), list[NDArray[np.float64]](), 0
    end = time.monotonic() + seconds
    for number in _chosen(samples, count):
        if time.monotonic() > end and keys:
            break
        shard, row = samples[number]
        try:
            label = find_label(index, files, shard, row) if index.has_labels else None
        except InputError:  # `mimsuite inspect` names it
            label = None
        if label is not None:
            kinds["class" if isinstance(label, int) else "classes" if isinstance(label, tuple) else "number"] += 1
        try:
            grey = _grey(read_image(files, shard, row).data, index)
        except DecodeError:
            broken += 1
            continue
        keys.append(to_text(read_key(files, shard, row)))
        small.append(_resized(grey, SMALL))
        if (curve := correlation_curve(_square(grey))) is not None:
            curves.append(curve)
    pairs = find_alike(np.stack(small)) if small else []
    return SampleFacts(
        images=len(keys) + broken,
        broken=broken,
        correlation=correlation_length(np.mean(curves, axis=0)) if curves else None,
        alike=len({number for pair in pairs for number in pair}),
        first=[(keys[one], keys[other]) for one, other in pairs[:_FIRST]],
        kinds=dict(kinds.most_common()),
    )


def _chosen(samples: Samples, count: int) -> list[int]:
    """Numbers of pictures and of their next ones, pair by pair, in an order that the keys decide."""
    firsts = samples.smallest(max(1, count // 2), _SALT)[: max(1, count // 2)]
    mixed = np.random.default_rng(_SALT).permutation(firsts).tolist()
    both = [n for first in mixed for n in (first, first + 1) if n < len(samples)]
    return list(dict.fromkeys(both))


def _grey(data: bytes, index: DataIndex) -> NDArray[np.float32]:
    """A picture as `(H, W)`: the mean of its channels."""
    pixels = open_image(data, index.alpha).pixels(cover=(SIDE, SIDE))
    grey: NDArray[np.float32] = pixels.mean(axis=2, dtype=np.float32)
    return grey


def _resized(grey: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """A picture of `side` pixels a side, the whole of it."""
    made = Image.fromarray(grey).resize((side, side), Image.Resampling.BOX)
    return np.asarray(made, dtype=np.float32)


def _square(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """The centre of a picture, at most `SIDE` pixels a side."""
    side = min(grey.shape)
    top, left = (grey.shape[0] - side) // 2, (grey.shape[1] - side) // 2
    square = np.ascontiguousarray(grey[top : top + side, left : left + side])
    return square if side <= SIDE else _resized(square, SIDE)


def correlation_curve(square: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """The correlation of grey values at distances of 0, 1/128, 2/128, ... to 1/2 of the side; None of a flat picture.

    It is the mean over both directions of the autocorrelation around the picture's own mean, each distance by the
    pixels that have a partner (Wiener and Khinchin, by a Fourier transform of the padded picture).

    Args:
        square: grey values, `(S, S)`.
    """
    side = len(square)
    values = square.astype(np.float64) - square.mean()
    if values.std() <= 1e-6 * max(1.0, float(np.abs(square).max())) or side < 2:
        return None
    power = np.abs(np.fft.rfft2(values, (2 * side, 2 * side))) ** 2
    sums = np.fft.irfft2(power, (2 * side, 2 * side))
    lags = np.arange(side // 2 + 1)
    pairs = side * (side - lags)
    curve = (sums[lags, 0] + sums[0, lags]) / (2 * pairs)
    found: NDArray[np.float64] = np.interp(np.linspace(0, 0.5, SIDE // 2 + 1), lags / side, curve / curve[0])
    return found


def correlation_length(curve: NDArray[np.float64]) -> float:
    """Where a curve of `correlation_curve` falls to 1/e, as a share of the side; one half where it does not."""
    distances = np.linspace(0, 0.5, len(curve))
    below = np.flatnonzero(curve <= FALLEN)
    if not len(below):
        return 0.5
    k = int(below[0])
    part = (curve[k - 1] - FALLEN) / (curve[k - 1] - curve[k])
    return float(distances[k - 1] + part * (distances[k] - distances[k - 1]))


def find_alike(small: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Pairs of pictures whose correlation is at least `ALIKE`; flat ones are like none.

    Args:
        small: pictures of one size, `(N, s, s)`.
    """
    flat = small.reshape(len(small), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 1e-6)
    ones, others = np.nonzero(np.triu(unit @ unit.T, k=1) >= ALIKE)
    return list(zip(ones.tolist(), others.tolist(), strict=True))
