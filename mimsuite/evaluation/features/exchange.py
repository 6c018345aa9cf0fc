"""Several processes that read a data set together: who is first, what each takes, what it tells and gives others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed

Value = TypeVar("Value")


def rank_and_size() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def from_first(compute: Callable[[], Value]) -> Value:
    """What the first process computes, in all of them; they wait for it."""
    rank, world = rank_and_size()
    if world == 1:
        return compute()
    sent: list[Any] = [compute() if rank == 0 else None]
    distributed.broadcast_object_list(sent)
    received: Value = sent[0]
    return received


def gather_values(value: Value) -> list[Value]:
    """The values of all processes, in the first one; nothing in the others."""
    rank, world = rank_and_size()
    if world == 1:
        return [value]
    found: list[Any] = [None] * world
    distributed.gather_object(value, found if rank == 0 else None)
    distributed.barrier()  # who leaves before all is received takes it along
    return found if rank == 0 else []


def own_share(count: int, batch: int) -> range:
    """The samples of this process: whole batches of one process alone, one after the other."""
    return rank_range(count, batch, *rank_and_size())


def rank_range(count: int, batch: int, rank: int, world: int) -> range:
    """The samples of a process among several, see `own_share`."""
    batches = -(-count // batch)
    return range(*(min(count, batches * n // world * batch) for n in (rank, rank + 1)))
