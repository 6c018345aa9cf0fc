"""Times of blocks of steps that take turns, and what is made of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from common import synchronize

Facts = dict[str, Any]
Step = Callable[[], torch.Tensor]
ROUNDS = 9


def seconds_of(step: Step, count: int) -> float:
    """Of one step, in a block of several."""
    synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step()
    synchronize()
    return (time.perf_counter() - began) / count


def in_turns(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The results of each call, which take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return found


def spread(values: Sequence[float]) -> Facts:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def ratios(over: Sequence[float], under: Sequence[float]) -> Facts:
    """Of times of the same rounds."""
    return spread([a / b for a, b in zip(over, under, strict=True)])
