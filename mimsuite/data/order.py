"""In which order samples are used: a pure function of the shard sizes, the seed, the epoch and the lanes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimsuite.data.hashing import mix_hashes, permute
from mimsuite.errors import InputError

_SHARDS, _WINDOW = 1, 2


class Stretch(NamedTuple):
    """Shards that a process needs for some steps.

    Attributes:
        first: the first step that needs them.
        stop: the first step after those.
        shards: their numbers, in the order of the split.
    """

    first: int
    stop: int
    shards: tuple[int, ...]


class BatchOrder:
    """The batches of all epochs.

    In each epoch the shards are permuted and dealt to `lanes` lanes: each gets an equal stretch of them (a
    shard on a border belongs to two lanes, so that no lane is short). A lane takes its shards in windows of
    `window` and permutes the samples of a window. Batch b takes `batch / lanes` consecutive samples from each
    lane, lane by lane; rank r of `world` serves the r-th part of it. So nothing but the arguments decides a
    batch, and any position is found without walking to it.

    An epoch has samples // batch steps, whatever the lanes; other samples are left over in the next epoch.

    Attributes:
        steps_per_epoch: global batches of an epoch.
        window: shards whose samples are mixed.
    """

    steps_per_epoch: int
    window: int

    def __init__(
        self,
        shard_sizes: Sequence[int] | NDArray[np.int64],
        batch: int,
        seed: int,
        lanes: int = 1,
        window: int = 16,
    ) -> None:
        """Sets the order of a split.

        Args:
            shard_sizes: samples per shard, in the order of the split.
            batch: global batch, in samples.
            seed: decides the order.
            lanes: streams that a batch is drawn from; divides the batch.
            window: shards whose samples are mixed.

        Raises:
            InputError: an argument is out of range, or there are fewer samples than one batch needs.
        """
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._batch, self._seed, self._lanes, self.window = batch, seed, lanes, window
        total = int(self._sizes.sum())
        if batch < 1 or window < 1 or lanes < 1:
            raise InputError(f"batch={batch}, loader.window={window}, loader.lanes={lanes}: all must be 1 or more")
        if batch % lanes:
            raise InputError(f"loader.lanes={lanes} does not divide batch={batch}; use loader.lanes=1")
        if batch > total:
            raise InputError(f"batch={batch} is more than the {total} training samples; use batch={total} or less")
        self.steps_per_epoch = total // batch

    def batches(
        self, start_step: int, stop_step: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yields `(epoch, numbers of samples in the split)` for each step in `[start_step, stop_step)`.

        The numbers are this rank's `batch / world` samples, `(batch / world,)` int64.

        Raises:
            InputError: `world` does not divide the batch.
        """
        part, share = self._batch // self._lanes, self._batch // world
        first, served = rank * share, self.lanes_of(rank, world)
        epoch, lanes = -1, []
        for step in range(start_step, stop_step):
            now, at = divmod(step, self.steps_per_epoch)
            if now != epoch:
                epoch, lanes = now, [self._lane(now, lane) for lane in served]
            drawn = np.concatenate([lane.take(at * part, part) for lane in lanes])
            offset = first - served.start * part
            yield epoch, drawn[offset : offset + share]

    def lanes_of(self, rank: int, world: int) -> range:
        """The lanes that a rank takes samples from.

        Raises:
            InputError: `world` does not divide the batch.
        """
        if self._batch % world:
            use = -(-self._batch // world) * world
            raise InputError(f"batch={self._batch} is not a multiple of the {world} devices; use batch={use}")
        part, share = self._batch // self._lanes, self._batch // world
        return range(rank * share // part, ((rank + 1) * share - 1) // part + 1)

    def stretches(self, start_step: int, stop_step: int, rank: int = 0, world: int = 1) -> Iterator[Stretch]:
        """Yields which shards this rank needs in `[start_step, stop_step)`, in the order of the first step.

        A shard of two windows, or of two epochs, comes twice.

        Raises:
            InputError: `world` does not divide the batch.
        """
        served, part = self.lanes_of(rank, world), self._batch // self._lanes
        for epoch in range(start_step // self.steps_per_epoch, -(-stop_step // self.steps_per_epoch)):
            begin = epoch * self.steps_per_epoch
            end = min(stop_step, begin + self.steps_per_epoch)
            lanes = [self._lane(epoch, lane).windows() for lane in served]
            for low, high, shards in heapq.merge(*lanes, key=lambda window: window[0]):
                first, stop = max(begin + low // part, start_step), min(begin - (-high // part), end)
                if first < stop:
                    yield Stretch(first, stop, shards)

    def _lane(self, epoch: int, lane: int) -> _Lane:
        order = permute(len(self._sizes), mix_hashes(self._seed, epoch, _SHARDS))
        ends = np.cumsum(self._sizes[order])
        length = int(ends[-1]) // self._lanes
        first, last = lane * length, (lane + 1) * length
        low = int(np.searchsorted(ends, first, side="right"))
        high = int(np.searchsorted(ends, last, side="left")) + 1
        shards = order[low:high]
        starts, sizes = self._starts[shards], self._sizes[shards]
        skipped = first - (int(ends[low]) - int(sizes[0]))
        starts[0] += skipped
        sizes[0] -= skipped
        sizes[-1] -= int(ends[high - 1]) - last
        return _Lane(shards, starts, sizes, self.window, mix_hashes(self._seed, epoch, _WINDOW, lane))


class _Lane:
    """The samples of one lane in one epoch; holds the permutation of the last window that was used."""

    def __init__(
        self,
        shards: NDArray[np.int64],
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        window: int,
        seed: int,
    ) -> None:
        self._shards = shards
        self._starts, self._sizes, self._window, self._seed = starts, sizes, window, seed
        ends = np.cumsum(sizes)
        self._bounds = np.concatenate([[0], ends[window - 1 :: window], ends[-1:]])
        self._cached = (-1, np.empty(0, dtype=np.int64))

    def windows(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Yields the first sample of each window in the lane, the first after it, and the numbers of its shards."""
        for number, (low, high) in enumerate(itertools.pairwise(self._bounds.tolist())):
            part = slice(number * self._window, (number + 1) * self._window)
            if low < high:
                yield low, high, tuple(self._shards[part][self._sizes[part] > 0].tolist())

    def take(self, start: int, count: int) -> NDArray[np.int64]:
        """Samples `start` to `start + count` of the lane."""
        parts, stop = [], start + count
        while start < stop:
            number = int(np.searchsorted(self._bounds, start, side="right")) - 1
            low, high = int(self._bounds[number]), int(self._bounds[number + 1])
            parts.append(self._samples(number)[start - low : stop - low])
            start = high
        return np.concatenate(parts)

    def _samples(self, number: int) -> NDArray[np.int64]:
        if self._cached[0] != number:
            shards = slice(number * self._window, (number + 1) * self._window)
            starts, sizes = self._starts[shards], self._sizes[shards]
            ends = np.cumsum(sizes)
            order = permute(int(ends[-1]), mix_hashes(self._seed, number))
            numbers = np.arange(int(ends[-1])) + np.repeat(starts - (ends - sizes), sizes)
            self._cached = (number, numbers[order])
        return self._cached[1]
