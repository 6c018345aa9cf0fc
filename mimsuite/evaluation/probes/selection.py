"""How a probe chooses a head: on held-out training features; then it is trained again on all of them.

The test features are not seen here: selecting on them would overestimate accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mimsuite.data.hashing import splitmix64
from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.probes.task import LabelTask
from mimsuite.metrics.scores import METRICS, Scores

HELD_OUT = 0.2
EQUAL = 1e-9  # metrics that differ by less are equal

Trial = TypeVar("Trial")
Head = TypeVar("Head")


class Chosen(NamedTuple, Generic[Trial, Head]):
    """What a selection found.

    Attributes:
        held_out: of every trial, in order, the first of the `METRICS` on the held-out part of the training features;
            NaN where the head diverged.
        best: the trial that was chosen.
        head: trained as `best` on all training features.
    """

    held_out: dict[Trial, float]
    best: Trial
    head: Head


def choose_then_refit(
    trials: Sequence[Trial],
    task: LabelTask,
    ids: Tensor,
    *,
    heads: str = "heads",
    depth: Callable[[Trial], int] = lambda _: 0,
    fit: Callable[[Sequence[Trial], Tensor], Iterable[tuple[Trial, Head | None]]],
    score: Callable[[Trial, Head, Tensor], Scores],
) -> Chosen[Trial, Head]:
    """Trains a head per trial on four fifths of the samples, and the best one again on all.

    Args:
        trials: what is tried; see `best_of` for which of equals is chosen.
        task: what is predicted.
        ids: `(N,)` int64 sample ids; a hash of them decides which are held out.
        heads: what errors call them.
        depth: the layer of a trial's features.
        fit: trials and `(N,)` bool, True = train on it, to heads in their order; None for one that diverged.
        score: trial, head and `(N,)` bool, True = score it, to scores.

    Raises:
        InputError: one class only, or too few samples to hold some out.
        RunError: every head diverged, or the chosen one did on all samples.
    """
    held = held_out(task.train if task.kind == "classes" else torch.zeros(len(ids)), ids)
    check_enough(task, held)
    metric, found, losses = METRICS[task.kind][0], dict[Trial, float](), dict[Trial, float]()
    for trial, head in fit(trials, ~held):
        found[trial] = math.nan
        if head is not None:
            scores = score(trial, head, held)
            found[trial], losses[trial] = scores.metrics[metric], scores.loss
    best = best_of(found, heads, losses=losses, depth=depth)
    ((_, final),) = fit([best], torch.ones_like(held))
    if final is None:
        raise RunError(f"the chosen head ({best}) diverged on all training images; use smaller learning rates")
    return Chosen(found, best, final)


def best_of(
    found: dict[Trial, float],
    heads: str = "heads",
    *,
    losses: Mapping[Trial, float] | None = None,
    depth: Callable[[Trial], int] = lambda _: 0,
) -> Trial:
    """Returns the trial with the best metric; of equals the one with the lowest loss, then the deepest, then the first.

    Few held-out images make many trials equal, and their losses still differ.

    Args:
        found: the metric of every trial.
        heads: what errors call them.
        losses: of trials on the same images.
        depth: the layer of a trial's features.

    Raises:
        RunError: all are NaN.
    """
    finite = {trial: value for trial, value in found.items() if not math.isnan(value)}
    if not finite:
        raise RunError(f"all {len(found)} {heads} diverged; use smaller learning rates")
    top, known = max(finite.values()), losses or {}
    equal = [trial for trial, value in finite.items() if top - value <= EQUAL]
    return min(equal, key=lambda trial: (loss_or_worst(known.get(trial)), -depth(trial)))


def loss_or_worst(loss: float | None) -> float:
    """A loss, or infinity where it is not known."""
    return math.inf if loss is None or math.isnan(loss) else loss


def check_enough(task: LabelTask, held: Tensor) -> None:
    """Raises InputError unless there is something to tell apart, and something to choose by."""
    if (task.kind == "classes" and len(torch.unique(task.train)) < 2) or not held.any():
        raise InputError(
            f"a probe needs two classes and some with 3 images or more; got {len(task.train)} training images"
            + (f" of {len(torch.unique(task.train))} classes" if task.kind == "classes" else "")
        )


def held_out(labels: Tensor, ids: Tensor) -> Tensor:
    """Returns `(N,)` bool, True = held out: of every class the fifth with the lowest hashed id.

    Args:
        labels: `(N,)` classes; all equal where there are none, so that a fifth of all samples is held out.
        ids: `(N,)` int64 sample ids.
    """
    rank = torch.from_numpy(splitmix64(ids.numpy().view(np.uint64)).view(np.int64))
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        members = (labels == label).nonzero()[:, 0]
        order = members[rank[members].argsort(stable=True)]
        held[order[: round(HELD_OUT * len(members))]] = True
    return held
