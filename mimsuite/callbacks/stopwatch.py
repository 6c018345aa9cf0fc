"""Times the steps of a training run from when they run evenly, for some seconds, and then stops the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer

WARM_STEPS = 2  # optimizer steps that are not timed: workers start, kernels are chosen
WARM_SECONDS = 10.0  # after so many of them timing begins, in the middle of a long step, too
LONGEST = 30.0  # seconds after which all ends, in the middle of a long step, too; more where more are asked for


class Stopwatch(Callback):
    """Counts images and seconds, and the seconds of waiting for data.

    Args:
        seconds: how long.
        wait: waits until the device has done what it was given.
        clock: gives seconds.
        longest: seconds after which all ends; None: `LONGEST`, or more where more are asked for.

    Attributes:
        images: put through in the time.
        seconds: that it took.
        waited: of them, for data.
        steps: whole optimizer steps in the time.
        warm: whether the first steps were left out; they are not where they alone take `LONGEST`.
    """

    def __init__(
        self,
        seconds: float,
        wait: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
        longest: float | None = None,
    ) -> None:
        self._wanted, self._wait, self._clock = seconds, wait, clock
        self._longest = max(LONGEST, seconds + LONGEST / 2) if longest is None else longest
        self._started = self._since = self._ready = 0.0
        self.images, self.seconds, self.waited, self.steps, self.warm = 0, 0.0, 0.0, 0, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self._started = self._since = self._ready = self._clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts the time since the last batch was done as waiting for data."""
        self.waited += self._clock() - self._ready

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a micro-batch; begins and ends the timing, if possible between two optimizer steps."""
        between = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self.images += len(batch.images)
        self.steps += between
        spent = self._clock() - self._started
        if not self.warm and spent < self._longest:
            if (between and self.steps >= WARM_STEPS) or spent >= min(WARM_SECONDS, self._longest / 2):
                self._wait()
                self._since, self.warm = self._clock(), True
                self.images, self.waited, self.steps = 0, 0.0, 0
        elif spent >= self._longest or (between and self._clock() - self._since >= self._wanted):
            self._wait()
            self.seconds = self._clock() - self._since
            trainer.should_stop = True
        self._ready = self._clock()
