"""How long a run takes from the command to its end, and how many steps fit into a time. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mimsuite.settings.budget import DEFAULT_STEPS, SAVE_SECONDS, SAVE_STEPS

if TYPE_CHECKING:
    from mimsuite.runs.planning.timing import Timing
    from mimsuite.settings.pretrain import PretrainSettings

# Seconds on a machine that imports torch and Lightning in `IMPORTS` seconds; elsewhere they grow as the imports do.
IMPORTS = 3.0
COMMAND = 1.0  # from the command to the first line of the task: Python, Hydra, the config
ENDING = 3.0  # after the last step: curves, report, loggers
FITTING = 1.5  # kNN and a linear fit of a round of the online probe
DISK = 150e6  # bytes a second of a checkpoint: copied, hashed, written, flushed


@dataclass(frozen=True)
class Duration:
    """The parts of a run's time, in seconds.

    Attributes:
        start: the command, imports, the model, the first batch.
        steps: training.
        validations: with their pictures.
        rounds: of the online probe.
        saving: checkpoints, weights, and what is written at the end.
        count: validations, with that before the first step.
    """

    start: float
    steps: float
    validations: float
    rounds: float
    saving: float
    count: int

    @property
    def total(self) -> float:
        """All of it."""
        return self.start + self.steps + self.validations + self.rounds + self.saving


def duration_of(timing: Timing, settings: PretrainSettings, imports: float, steps: int | None = None) -> Duration:
    """How long a run takes.

    Args:
        timing: what was measured.
        settings: of the run.
        imports: seconds that importing torch and Lightning takes.
        steps: optimizer steps; None: those of the settings. Another number changes the validations, as `auto` does.
    """
    budget = settings.budget
    steps, every, save = steps or budget.steps, budget.val_every, budget.save_every
    if steps != budget.steps and budget.val_every == max(1, budget.steps // 10):
        every = max(1, steps // 10)
        save = min(every, SAVE_STEPS)
    count = 1 + math.ceil(steps / every)
    batch, devices = budget.batch, timing.devices
    training = steps * batch / (timing.rate * devices)
    pace = imports / IMPORTS
    each = validation_images(settings) / (timing.validating * devices) + timing.picture
    saved = math.ceil(steps / save)
    if budget.save_seconds is not None:
        saved += int(training / SAVE_SECONDS) * (training / saved > SAVE_SECONDS)
    start = pace * COMMAND + imports + timing.built + 2 * timing.first
    saving = saved * (timing.checkpoint / DISK + 0.05) + timing.weights / DISK + pace * ENDING
    validations = count * each
    return Duration(
        *(start, training, validations),
        rounds=rounds_of(timing, settings, count, start + training + validations + saving),
        saving=saving,
        count=count,
    )


def least_of(imports: float) -> float:
    """Seconds that any run takes: to start and to end."""
    return imports + imports / IMPORTS * (COMMAND + ENDING)


def validation_images(settings: PretrainSettings) -> int:
    """How many images a validation takes."""
    index = settings.inputs.index
    return min(index.num_samples(index.select("curve")), settings.inputs.loading.val_limit)


def rounds_of(timing: Timing, settings: PretrainSettings, validations: int, others: float) -> float:
    """Seconds of the online probe: all its rounds where they select weights, else at most its share of the run."""
    probe = settings.online_probe
    if probe is None:
        return 0.0
    one = (probe.images + probe.val_images) / (timing.validating * timing.devices) + FITTING
    if probe.keeps:
        return validations * one
    return min(validations * one, max(2 * one, probe.share * others))


def steps_within(timing: Timing, settings: PretrainSettings, imports: float, seconds: float) -> int:
    """The most optimizer steps that fit into a time; 0 where not one does."""

    def fits(steps: int) -> bool:
        return duration_of(timing, settings, imports, steps).total <= seconds

    low, high = 0, 1
    while fits(high) and high < 1 << 40:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def most_steps(per_epoch: int, epochs: int) -> int:
    """Steps beyond which nothing says that more of them would pay."""
    return max(DEFAULT_STEPS[0], epochs * per_epoch)
