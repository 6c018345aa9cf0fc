"""Several processes that compute features together: who is first, what it tells the others, what they give it."""

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
    return found if rank == 0 else []
