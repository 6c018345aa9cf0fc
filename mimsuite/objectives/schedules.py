"""How the learning rate changes during a run: factors on its peak, one for each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mimsuite.errors import InputError


class WarmupCosine:
    """Factor on the peak learning rate: linear warm-up, then half a cosine, per optimizer step.

    Step 0 has the factor `start`, step `warmup` the factor 1, the last step the factor `end`
    (Loshchilov and Hutter 2017, without restarts). With a cooldown all its steps have the factor `end`, and so has
    the one before it.
    """

    def __init__(self, *, steps: int, warmup: int, start: float = 0.0, end: float = 0.0, cooldown: float = 0) -> None:
        """Takes the cooldown in steps, or as a fraction of the run below 1.

        Raises:
            InputError: a cooldown that is neither.
        """
        number = isinstance(cooldown, (int, float)) and not isinstance(cooldown, bool)
        if not number or cooldown < 0 or (isinstance(cooldown, float) and cooldown >= 1):
            raise InputError(
                f"schedule.cooldown={cooldown} is neither a whole number of steps nor a fraction of the run; use steps "
                "(500) or a fraction below 1 (0.05)"
            )
        self.falling = steps - (cooldown if isinstance(cooldown, int) else round(cooldown * steps))
        self.warmup, self.start, self.end = warmup, start, end

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        progress = _progress(step, self.warmup, self.falling - 1)
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * progress))


class WarmupLinear:
    """Factor on the peak learning rate: linear warm-up, then linear decay (Dosovitskiy et al. 2021, section 4.1).

    Step 0 has the factor `start`, step `warmup` the factor 1, the last step the factor `end`.
    """

    def __init__(self, *, steps: int, warmup: int, start: float = 0.0, end: float = 0.0) -> None:
        self.steps, self.warmup, self.start, self.end = steps, warmup, start, end

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        return 1 + (self.end - 1) * _progress(step, self.warmup, self.steps - 1)


def _progress(step: int, first: int, last: int) -> float:
    """How much of the way from `first` to `last` is behind a step, 0 to 1."""
    return min(1.0, (step - first) / max(1, last - first))


class WarmupMilestones:
    """Factor on the peak learning rate: linear warm-up, then 1, and times `gamma` from each milestone on.

    Step 0 has the factor `start` (SimMIM's recipe of 800 epochs, Xie et al. 2022, section 4.2).
    """

    def __init__(
        self, *, steps: int, warmup: int, milestones: Sequence[float], start: float = 0.0, gamma: float = 0.1
    ) -> None:
        """Takes the milestones as fractions of the run.

        Raises:
            InputError: a milestone outside (0, 1].
        """
        if not all(0 < m <= 1 for m in milestones):
            raise InputError(
                f"schedule.milestones={list(milestones)}: use fractions of the run in (0, 1], such as [0.875]"
            )
        self.steps, self.warmup, self.start, self.gamma = steps, warmup, start, gamma
        self.marks = [round(m * steps) for m in milestones]

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return self.start + (1 - self.start) * step / self.warmup
        return self.gamma ** sum(step >= mark for mark in self.marks)


class WarmupSteps:
    """Factor on the peak learning rate: linear warm-up from 0, then 1, and a tenth after each mark.

    At `steps`, `warmup` and `milestones` of `mimsuite.settings.hyperrule` this is BiT-HyperRule (Kolesnikov et al.
    2020, section 3.3, and the published code): the step of a mark still has the rate of those before it.
    """

    def __init__(self, *, steps: int, warmup: int, marks: Sequence[float]) -> None:
        """Takes the marks as fractions of the run, so that they move with its length.

        Raises:
            InputError: a mark outside (0, 1], or no list of them.
        """
        if isinstance(marks, str) or not all(0 < m <= 1 for m in marks):
            raise InputError(f"schedule.marks={marks}: give fractions of the run in (0, 1], such as [0.3,0.6,0.9]")
        self.warmup, self.marks = warmup, [round(m * steps) for m in marks]

    def __call__(self, step: int) -> float:
        """The factor for the optimizer step that is about to be taken, counted from 0."""
        if step < self.warmup:
            return step / self.warmup
        return 10.0 ** -sum(mark < step for mark in self.marks)
