"""Which samples a batch holds: the micro-batches of a run from a step on, and a split once, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler

from mimsuite.data.order import BatchOrder

Item = tuple[int, int, int]  # (epoch, number of the sample, optimizer step)


class StepBatches(Sampler[list[Item]]):
    """The micro-batches of one rank, from the optimizer step on that `start` tells when iteration begins."""

    def __init__(
        self,
        order: BatchOrder,
        *,
        steps: int,
        micro: int,
        batch: int,
        place: tuple[int, int],
        start: Callable[[], int],
    ) -> None:
        self._order, self._steps, self._micro, self._start = order, steps, micro, start
        self._place, self._share = place, batch // place[1]

    def __len__(self) -> int:
        """Micro-batches of the whole run, those before `start` included."""
        return self._steps * (self._share // self._micro)

    def __iter__(self) -> Iterator[list[Item]]:
        """Yields lists of (epoch, number, step)."""
        first_step = self._start()
        for step, (epoch, numbers) in enumerate(self._order.batches(first_step, self._steps, *self._place), first_step):
            items = [(epoch, number, step) for number in numbers.tolist()]
            for first in range(0, self._share, self._micro):
                yield items[first : first + self._micro]


class FixedBatches(Sampler[list[Item]]):
    """Samples `start` to `count` in order, the last partial batch included; of each batch, one rank's share."""

    def __init__(
        self, count: int, batch: int, rank: int = 0, world: int = 1, epoch: int = 0, *, start: int = 0
    ) -> None:
        self._count, self._batch, self._rank, self._world, self._epoch = count, batch, rank, world, epoch
        self._start = start

    def __len__(self) -> int:
        """Batches of this rank; one more than those of another rank at most."""
        full, rest = divmod(self._count - self._start, self._batch * self._world)
        return full + (rest > self._rank)

    def __iter__(self) -> Iterator[list[Item]]:
        """Yields lists of (epoch, number, step); step is 0."""
        step = self._batch * self._world
        for first in range(self._start, self._count, step):
            numbers = range(first + self._rank, min(first + step, self._count), self._world)
            if numbers:
                yield [(self._epoch, number, 0) for number in numbers]
