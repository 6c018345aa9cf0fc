"""Whether an exported file computes what the model computes: largest difference and latency, at two batch sizes."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mimsuite.errors import RunError, cause_of
from mimsuite.models.exporting.exported import Exported

ALLOWED = 1e-4  # largest difference in float32
BATCHES = (1, 3)
REPEATS = 5  # of which the median is the latency

Call = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Opened:
    """An exported file, loaded back.

    Attributes:
        library: what reads it, with its version.
        theirs: a function of the inputs that gives its outputs.
        ours: the same of the original.
    """

    library: str
    theirs: Call
    ours: Call


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
        batch: images.
        image_size: `(H, W)` pixels.
        difference: the largest of any output, relative to the largest value where that is above 1; infinite where
            shapes differ or a value is not finite.
        theirs, ours: seconds of a forward pass, the median.
    """

    batch: int
    image_size: tuple[int, int]
    difference: float
    theirs: float
    ours: float


def compare(opened: Opened, exported: Exported, *, any_size: bool) -> Iterator[Comparison]:
    """Compares on random images of a batch of one and of three, and of another size where the file takes any."""
    height, width = exported.image_size
    down, across = exported.model.network().stride
    cases = [(batch, exported.image_size) for batch in BATCHES]
    odd = int(not exported.model.config.needs_whole_cells)
    cases += [(BATCHES[-1], (height + 2 * down, width + across + odd))] * any_size
    for batch, size in cases:
        inputs = exported.example(batch, size)
        with torch.no_grad():
            outputs = [call(*inputs) for call in (opened.theirs, opened.ours)]  # also what starts up at the first call
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(REPEATS):
                for call, spent in zip((opened.theirs, opened.ours), seconds, strict=True):
                    began = time.perf_counter()
                    call(*inputs)
                    spent.append(time.perf_counter() - began)
        yield Comparison(batch, size, largest_difference(*outputs), *map(statistics.median, seconds))


@contextlib.contextmanager
def loading_back(to: str) -> Iterator[None]:
    """A block in which a library of others loads and runs what was written for it.

    Raises:
        RunError: it cannot.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # each library has its own; whatever it is, the file is of no use
        raise RunError(
            f"to={to}: what was written cannot be loaded and run: {cause_of(error)}; use another to="
        ) from error


def largest_difference(theirs: tuple[Tensor, ...], ours: tuple[Tensor, ...]) -> float:
    """The largest difference of outputs, as `Comparison` says."""
    if [value.shape for value in theirs] != [value.shape for value in ours]:
        return math.inf
    found = [
        float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1.0))
        for a, b in zip(theirs, ours, strict=True)
    ]
    return max((value if math.isfinite(value) else math.inf for value in found), default=math.inf)
